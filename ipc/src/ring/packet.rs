//! The ring of descriptors: packets in a pool that both sides have mapped, or events. The ring
//! carries three words an entry and does not know what they mean; [`Pool`] checks those of packets.

use super::half::Half;
use super::{HEADER_BYTES, RingError, SharedMemory, Writer};
use core::ops::Range;
use core::sync::atomic::{AtomicU32, Ordering};

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

/// Announces a wait. Rings of packets and of datagrams are not closed, they end with the session or the
/// socket that they belong to; a peer that says otherwise would keep this side from ever sleeping.
pub(super) fn sleep<M: SharedMemory>(half: &mut Half<M>, wanted: u32) -> Result<bool, RingError> {
    if half.is_peer_closed()? {
        return Err(RingError::Corrupted);
    }
    half.sleep(wanted)
}

/// The words of the entry this far ahead.
#[inline(always)]
fn entry<M: SharedMemory>(half: &Half<M>, ahead: u32) -> Result<[&AtomicU32; 4], RingError> {
    let first = (half.body() + half.slot(ahead) * ENTRY_BYTES) / 4;
    half.memory().words(first).ok_or(RingError::Geometry)
}

/// The side that puts entries in.
#[derive(Debug)]
pub struct PacketProducer<M> {
    half: Half<M>,
}

impl<M: SharedMemory> PacketProducer<M> {
    /// The producer of the empty ring at `offset` (a multiple of 64) of the memory. `entries` is a
    /// power of two.
    ///
    /// Errors: Geometry.
    pub fn new(memory: M, offset: usize, entries: u32) -> Result<Self, RingError> {
        Half::new(memory, offset, entries, ENTRY_BYTES, Writer::Producer).map(|half| Self { half })
    }

    /// Room in entries.
    ///
    /// Errors: Corrupted, as for all operations from here on.
    pub fn free(&mut self) -> Result<u32, RingError> {
        self.half.refresh()
    }

    /// Whether so many entries have room; looks at the consumer's count only where what was seen of it
    /// before does not suffice.
    pub fn has_room(&mut self, entries: u32) -> Result<bool, RingError> {
        Ok(self.half.ready(entries)? >= entries)
    }

    /// Puts an entry in; false when the ring is full. Whoever has put in all it has then asks
    /// [`PacketProducer::must_wake`].
    #[inline]
    pub fn push(&mut self, descriptor: Descriptor) -> Result<bool, RingError> {
        if self.half.ready(1)? == 0 {
            return Ok(false);
        }
        self.write(0, descriptor)?;
        self.half.advance(1)?;
        Ok(true)
    }

    /// Puts entries in, which the consumer sees at once; false, and none, when there is no room for all.
    pub fn push_all(&mut self, descriptors: &[Descriptor]) -> Result<bool, RingError> {
        let count = u32::try_from(descriptors.len()).unwrap_or(u32::MAX);
        if !self.has_room(count)? {
            return Ok(false);
        }
        for (ahead, descriptor) in (0..count).zip(descriptors) {
            self.write(ahead, *descriptor)?;
        }
        self.half.advance(count)?;
        Ok(true)
    }

    /// Writes the entry this far ahead.
    #[inline(always)]
    fn write(&self, ahead: u32, descriptor: Descriptor) -> Result<(), RingError> {
        let [offset, length, flags, _] = entry(&self.half, ahead)?;
        offset.store(descriptor.offset, Ordering::Relaxed);
        length.store(descriptor.length, Ordering::Relaxed);
        flags.store(descriptor.flags, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the consumer sleeps and is now to be signalled. Once true, it is false until the
    /// consumer sleeps again.
    pub fn must_wake(&mut self) -> Result<bool, RingError> {
        self.half.must_wake()
    }

    /// The same for who looks at several rings and has executed one sequentially consistent fence for
    /// all of them since it last put in or took out.
    pub fn must_wake_fenced(&mut self) -> Result<bool, RingError> {
        self.half.must_wake_fenced()
    }

    /// Announces that this side waits until `wanted` entries are free; 1 to the capacity. False: do
    /// not wait, look again.
    pub fn sleep(&mut self, wanted: u32) -> Result<bool, RingError> {
        sleep(&mut self.half, wanted)
    }

    /// Ends what [`PacketProducer::sleep`] announced.
    pub fn wake(&mut self) -> Result<(), RingError> {
        self.half.wake()
    }
}

/// The side that takes entries out.
#[derive(Debug)]
pub struct PacketConsumer<M> {
    half: Half<M>,
}

impl<M: SharedMemory> PacketConsumer<M> {
    /// The consumer of the empty ring at `offset` (a multiple of 64) of the memory. `entries` is a
    /// power of two.
    ///
    /// Errors: Geometry.
    pub fn new(memory: M, offset: usize, entries: u32) -> Result<Self, RingError> {
        Half::new(memory, offset, entries, ENTRY_BYTES, Writer::Consumer).map(|half| Self { half })
    }

    /// Entries that can be taken.
    ///
    /// Errors: Corrupted, as for all operations from here on.
    pub fn available(&mut self) -> Result<u32, RingError> {
        self.half.refresh()
    }

    /// Takes an entry; `None` when the ring is empty. Each word was loaded once. Whoever has taken
    /// all it wants then asks [`PacketConsumer::must_wake`].
    #[inline]
    pub fn pop(&mut self) -> Result<Option<Descriptor>, RingError> {
        if self.half.ready(1)? == 0 {
            return Ok(None);
        }
        let [offset, length, flags, _] = entry(&self.half, 0)?;
        let descriptor = Descriptor {
            offset: offset.load(Ordering::Relaxed),
            length: length.load(Ordering::Relaxed),
            flags: flags.load(Ordering::Relaxed),
        };
        self.half.advance(1)?;
        Ok(Some(descriptor))
    }

    /// Whether the producer sleeps and is now to be signalled. Once true, it is false until the
    /// producer sleeps again.
    pub fn must_wake(&mut self) -> Result<bool, RingError> {
        self.half.must_wake()
    }

    /// The same for who looks at several rings and has executed one sequentially consistent fence for
    /// all of them since it last put in or took out.
    pub fn must_wake_fenced(&mut self) -> Result<bool, RingError> {
        self.half.must_wake_fenced()
    }

    /// Announces that this side waits until `wanted` entries are there; 1 to the capacity. False: do
    /// not wait, look again.
    pub fn sleep(&mut self, wanted: u32) -> Result<bool, RingError> {
        sleep(&mut self.half, wanted)
    }

    /// Ends what [`PacketConsumer::sleep`] announced.
    pub fn wake(&mut self) -> Result<(), RingError> {
        self.half.wake()
    }
}
