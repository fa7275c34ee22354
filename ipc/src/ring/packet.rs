//! The ring of descriptors: packets in a pool that both sides have mapped, or events. The ring
//! carries three words an entry and does not know what they mean; [`Pool`] checks those of packets.

use super::half::Half;
use super::{HEADER_BYTES, RingError, SharedMemory};
use core::ops::Range;
use core::sync::atomic::Ordering;

/// Size of an entry in bytes.
pub const ENTRY_BYTES: usize = 16;
/// The words of an entry, in order; the fourth is not used.
pub const ENTRY_FIELDS: [&str; 3] = ["offset", "length", "flags"];

/// Size in bytes of a packet ring of this many entries.
pub const fn packet_ring_bytes(entries: u32) -> usize {
    HEADER_BYTES + entries as usize * ENTRY_BYTES
}

/// One entry. As it comes out of a ring it is what the peer wrote: [`Pool::check`] comes before use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    /// Offset of the first byte in the pool.
    pub offset: u32,
    /// Length in bytes.
    pub length: u32,
    /// What the interface defines.
    pub flags: u32,
}

/// The shape of a packet pool: buffers of one size, one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Number of buffers.
    pub buffers: u32,
    /// Size of each in bytes, not 0.
    pub buffer_bytes: u32,
}

impl Pool {
    /// Where a descriptor's bytes are in the pool; `None` unless they lie in one buffer.
    pub fn check(&self, descriptor: Descriptor) -> Option<Range<usize>> {
        let buffer = descriptor.offset.checked_div(self.buffer_bytes)?;
        let within = descriptor.offset.checked_rem(self.buffer_bytes)?;
        let end = within.checked_add(descriptor.length)?;
        if buffer >= self.buffers || end > self.buffer_bytes {
            return None;
        }
        let start = descriptor.offset as usize;
        Some(start..start + descriptor.length as usize)
    }

    /// Which buffer a descriptor names; `None` out of the pool.
    pub fn buffer(&self, descriptor: Descriptor) -> Option<u32> {
        let buffer = descriptor.offset.checked_div(self.buffer_bytes)?;
        (buffer < self.buffers).then_some(buffer)
    }
}

/// Words of an entry.
const ENTRY_WORDS: usize = ENTRY_BYTES / 4;

/// Announces a wait. Rings of packets and of datagrams are not closed, they end with the session or the
/// socket that they belong to; a peer that says otherwise would keep this side from ever sleeping.
pub(super) fn sleep<M: SharedMemory, const PRODUCER: bool>(
    half: &mut Half<M, PRODUCER>,
    wanted: u32,
) -> Result<bool, RingError> {
    if half.is_peer_closed()? {
        return Err(RingError::Corrupted);
    }
    half.sleep(wanted)
}

/// One side of a ring of packets: what both do alike.
///
/// Who moves many entries takes few looks: one [`PacketHalf::look`], then [`PacketProducer::put`] or
/// [`PacketConsumer::take`] for each, as many as there were then, and one [`PacketHalf::publish`], which
/// tells the peer of all of them. That comes before the side sleeps, or asks whether the other does.
#[derive(Debug)]
pub struct PacketHalf<M, const PRODUCER: bool> {
    half: Half<M, PRODUCER>,
}

/// The side that puts entries in. What is ready for it is room.
pub type PacketProducer<M> = PacketHalf<M, true>;

/// The side that takes entries out.
pub type PacketConsumer<M> = PacketHalf<M, false>;

impl<M: SharedMemory, const PRODUCER: bool> PacketHalf<M, PRODUCER> {
    /// This side of the empty ring at `offset` (a multiple of 64) of the memory. `entries` is a power
    /// of two.
    ///
    /// Errors: Geometry.
    pub fn new(memory: M, offset: usize, entries: u32) -> Result<Self, RingError> {
        Half::new(memory, offset, entries, ENTRY_BYTES).map(|half| Self { half })
    }

    /// Looks at the peer's count.
    ///
    /// Errors: Corrupted, as for all operations from here on.
    #[inline]
    pub fn look(&mut self) -> Result<(), RingError> {
        self.half.refresh().map(drop)
    }

    /// Entries that were ready when that was last looked at, to be put in or taken now.
    #[inline]
    pub fn ready(&self) -> u32 {
        self.half.unstaged()
    }

    /// Tells the peer of all that was put in or taken out since it was last told. Whoever has done all
    /// that there is to do then asks [`PacketHalf::must_wake`].
    #[inline]
    pub fn publish(&mut self) -> Result<(), RingError> {
        self.half.publish()
    }

    /// Whether the peer sleeps and is now to be signalled. Once true, it is false until the peer sleeps
    /// again.
    pub fn must_wake(&mut self) -> Result<bool, RingError> {
        self.half.must_wake()
    }

    /// The same for who looks at several rings and has executed one sequentially consistent fence for
    /// all of them since it last told the peer of entries.
    pub fn must_wake_fenced(&mut self) -> Result<bool, RingError> {
        self.half.must_wake_fenced()
    }

    /// Announces that this side waits until `wanted` entries are ready; 1 to the capacity. False: do
    /// not wait, look again.
    pub fn sleep(&mut self, wanted: u32) -> Result<bool, RingError> {
        sleep(&mut self.half, wanted)
    }

    /// Ends what [`PacketHalf::sleep`] announced.
    pub fn wake(&mut self) -> Result<(), RingError> {
        self.half.wake()
    }
}

impl<M: SharedMemory> PacketProducer<M> {
    /// Room in entries, after a look.
    ///
    /// Errors: Corrupted.
    pub fn free(&mut self) -> Result<u32, RingError> {
        self.half.refresh()
    }

    /// Puts an entry in that the consumer sees after [`PacketHalf::publish`]; false where there was no
    /// room when that was last looked at.
    #[inline]
    pub fn put(&mut self, descriptor: Descriptor) -> Result<bool, RingError> {
        let Some([offset, length, flags, _]) = self.half.stage::<ENTRY_WORDS>()? else {
            return Ok(false);
        };
        offset.store(descriptor.offset, Ordering::Relaxed);
        length.store(descriptor.length, Ordering::Relaxed);
        flags.store(descriptor.flags, Ordering::Relaxed);
        Ok(true)
    }

    /// Puts an entry in, which the consumer sees at once; false when the ring is full.
    #[inline]
    pub fn push(&mut self, descriptor: Descriptor) -> Result<bool, RingError> {
        if self.ready() == 0 {
            self.look()?;
        }
        let is_in = self.put(descriptor)?;
        self.publish()?;
        Ok(is_in)
    }
}

impl<M: SharedMemory> PacketConsumer<M> {
    /// Entries that can be taken, after a look.
    ///
    /// Errors: Corrupted.
    pub fn available(&mut self) -> Result<u32, RingError> {
        self.half.refresh()
    }

    /// Takes an entry, whose place the producer gets back with [`PacketHalf::publish`]; `None` where
    /// there was none when that was last looked at. Each word is loaded once.
    #[inline]
    pub fn take(&mut self) -> Result<Option<Descriptor>, RingError> {
        let entry = self.half.stage::<ENTRY_WORDS>()?;
        Ok(entry.map(|[offset, length, flags, _]| Descriptor {
            offset: offset.load(Ordering::Relaxed),
            length: length.load(Ordering::Relaxed),
            flags: flags.load(Ordering::Relaxed),
        }))
    }

    /// Takes an entry and gives its place back at once; `None` when the ring is empty.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<Descriptor>, RingError> {
        if self.ready() == 0 {
            self.look()?;
        }
        let entry = self.take()?;
        self.publish()?;
        Ok(entry)
    }
}
