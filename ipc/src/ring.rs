//! Single-producer single-consumer rings in memory that two tasks share: a ring of bytes
//! ([`stream`]), a ring of datagrams ([`datagram`]) and a ring of packet descriptors ([`packet`]).
//!
//! The memory is hostile: the peer may write anything anywhere in it at any time. So each side
//! trusts only its private copies: it never reads back what it wrote itself (but for its `wanted`,
//! which the peer clears), takes each of the peer's words by one load, and checks it against its own
//! copy before use. What does not fit is [`RingError::Corrupted`]; what fits but is a lie changes which
//! bytes are passed, never where.
//!
//! # Layout
//!
//! A ring begins with a header of [`HEADER_BYTES`]; its words are listed in [`FIELDS`]. Counts run
//! freely modulo 2^32; the capacity is a power of two and known to both sides from the message that
//! set the ring up, so that it is not in the memory. Memory full of zeros is an empty ring.
//!
//! # Waking
//!
//! A side that finds nothing to do announces how much it waits for, in its `wanted` word, looks once
//! more, and only then waits for a signal. A side that has moved its count looks at the other's
//! `wanted`, clears it if enough has come together, and signals. The signal itself is the caller's
//! business: the rings say when ([`stream::StreamHalf::must_wake`] and its like).
//!
//! No wake-up is lost: each side stores one word, executes a sequentially consistent fence, and
//! loads the other's word. The fences are totally ordered; whichever comes second sees the store
//! before the first (C++20 [atomics.fences], which Rust takes over). So either the sleeper's second look sees the new count,
//! or the waker sees `wanted`. If the waker's clearing hits a `wanted` that was announced anew in
//! between, the signal that follows the clearing wakes that new sleep, which announces again.
//!
//! What the two sides wait for must fit the ring together (the sum at most its capacity plus one), or
//! both can sleep with neither content.
//!
//! Data is written before the count that covers it (release), and read after it (acquire); room is
//! given back after its data was read, in the same way.

use core::sync::atomic::AtomicU32;

pub mod datagram;
mod half;
pub mod packet;
pub mod stream;

#[cfg(test)]
mod tests;

pub use datagram::{DatagramConsumer, DatagramHalf, DatagramPair, DatagramProducer};
pub use packet::{Descriptor, PacketConsumer, PacketHalf, PacketProducer, Pool, packet_ring_bytes};
pub use stream::{StreamConsumer, StreamHalf, StreamPair, StreamProducer, stream_ring_bytes};

/// Size of a ring's header in bytes: one cache line for each side's words.
pub const HEADER_BYTES: usize = 128;
/// Smallest capacity, in bytes or entries.
pub const MIN_CAPACITY: u32 = 16;
/// Largest capacity, in bytes or entries.
pub const MAX_CAPACITY: u32 = 1 << 30;

/// Who writes a word of the header in the ordinary course of things. `wanted` is also cleared by
/// the other side when it wakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// The side that puts in.
    Producer,
    /// The side that takes out.
    Consumer,
}

/// A word of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name.
    pub name: &'static str,
    /// Position, in 32-bit words from the start of the ring.
    pub word: usize,
    /// Who writes it.
    pub writer: Writer,
    /// Meaning.
    pub meaning: &'static str,
}

macro_rules! fields {
    ($($constant:ident, $name:literal = $word:literal by $writer:ident, $meaning:literal;)+) => {
        $(pub(crate) const $constant: usize = $word;)+

        /// Every word that the two sides share, descriptors and bytes apart.
        pub const FIELDS: &[Field] = &[$(Field {
            name: $name, word: $word, writer: Writer::$writer, meaning: $meaning,
        },)+];
    };
}

fields! {
    PUT, "put" = 0 by Producer, "number of bytes or entries ever put in, modulo 2^32";
    PRODUCER_WANTED, "producer_wanted" = 1 by Producer,
        "0 while the producer is awake, else how much room it waits for";
    PRODUCER_CLOSED, "producer_closed" = 2 by Producer,
        "not 0 when nothing more will be put in; in a packet ring always 0";
    TAKEN, "taken" = 16 by Consumer, "number of bytes or entries ever taken out, modulo 2^32";
    CONSUMER_WANTED, "consumer_wanted" = 17 by Consumer,
        "0 while the consumer is awake, else how much it waits for";
    CONSUMER_CLOSED, "consumer_closed" = 18 by Consumer,
        "not 0 when nothing more will be taken; in a packet ring always 0";
}

/// Why a ring operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingError {
    /// The peer wrote what cannot be: the ring is not to be used any more.
    Corrupted,
    /// The capacity is no power of two in its range, or the memory is too small for it, or the
    /// offset is not a multiple of 64.
    Geometry,
}

impl core::fmt::Display for RingError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str(match self {
            RingError::Corrupted => "the peer corrupted the ring",
            RingError::Geometry => "the ring does not fit its memory",
        })
    }
}

impl core::error::Error for RingError {}

/// Memory that another task writes as well: a mapping of the runtime library, or a test's array.
pub trait SharedMemory {
    /// Size in bytes.
    fn bytes(&self) -> usize;

    /// 32-bit words one after another, from the one with this number on, counted from the start of the
    /// memory; `None` where they do not all lie in it.
    fn words<const N: usize>(&self, first: usize) -> Option<&[AtomicU32; N]>;

    /// The 32-bit word with this number; `None` beyond the memory's end.
    fn word(&self, index: usize) -> Option<&AtomicU32> {
        let [word] = self.words(index)?;
        Some(word)
    }

    /// Copies bytes out, from `offset` on; `None`, and nothing copied, beyond the memory's end.
    /// Bytes that the peer writes meanwhile may come in any mixture of old and new.
    fn read(&self, offset: usize, into: &mut [u8]) -> Option<()>;

    /// Copies bytes in, from `offset` on; `None`, and nothing copied, beyond the memory's end.
    fn write(&self, offset: usize, from: &[u8]) -> Option<()>;
}

impl<M: SharedMemory + ?Sized> SharedMemory for &M {
    fn bytes(&self) -> usize {
        (**self).bytes()
    }

    fn words<const N: usize>(&self, first: usize) -> Option<&[AtomicU32; N]> {
        (**self).words(first)
    }

    fn read(&self, offset: usize, into: &mut [u8]) -> Option<()> {
        (**self).read(offset, into)
    }

    fn write(&self, offset: usize, from: &[u8]) -> Option<()> {
        (**self).write(offset, from)
    }
}

/// Makes the ring at `offset` empty and open again. Only while no peer uses it.
pub fn reset<M: SharedMemory>(memory: &M, offset: usize) -> Result<(), RingError> {
    memory
        .write(offset, &[0; HEADER_BYTES])
        .ok_or(RingError::Geometry)
}
