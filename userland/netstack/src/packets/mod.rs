//! The packet pool and the four packet rings between the stack and a network driver: the stack's
//! [`Wire`].
//!
//! The pool is the stack's own memory, so that it outlives the driver. Which buffer is whose is
//! written in a private table: the driver may hand back only what it was handed, each buffer once and
//! on the ring that belongs to it. What it says beyond that is counted and not believed. Finding the
//! driver, and telling its death, is [`crate::server`]'s.

mod extents;
mod receiving;
mod shape;

use alloc::vec;
use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};

use ipc::interface::net_device::{
    RING_RECEIVE_FREE, RING_RECEIVED, RING_TRANSMIT, RING_TRANSMITTED, RINGS, SendOffload,
};
use ipc::ring::{
    self, Descriptor, PacketConsumer, PacketProducer, Pool, RingError, SharedMemory,
    packet_ring_bytes,
};

use self::extents::Extents;
use self::receiving::Arriving;
use self::shape::HEADROOM;
pub use self::shape::Shape;
use crate::wire::{Fate, Received, Wire};

/// Whose a buffer to receive into is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// The stack's, while it waits for the rest of a packet.
    Stack,
    /// The driver's.
    Driver,
}

/// What went through the rings, and what went wrong there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames given to the driver.
    pub sent_packets: u64,
    /// Their bytes, Ethernet headers included.
    pub sent_bytes: u64,
    /// Frames lost because there was no place to send them from.
    pub sent_dropped: u64,
    /// Descriptors from the driver for buffers that it did not hold, or for bytes outside of them.
    pub refused_descriptors: u64,
    /// Received frames that were not whole, or longer than any may be.
    pub broken_packets: u64,
}

struct Rings<M> {
    receive_free: PacketProducer<M>,
    received: PacketConsumer<M>,
    transmit: PacketProducer<M>,
    transmitted: PacketConsumer<M>,
}

/// The stack's side of pool and rings.
pub struct Packets<M> {
    shape: Shape,
    pool: Pool,
    pool_memory: M,
    ring_memory: M,
    rings: Rings<M>,
    holders: Vec<Holder>,
    arriving: Arriving,
    extents: Extents,
    /// Bytes of the longest frame that is sent: asked for with each.
    longest: usize,
    /// Where a frame is built. One copy, of a frame that the cache still has, goes from here into the
    /// pool: memory that another task can write is never handed to code that takes it for its own.
    scratch: Vec<u8>,
    counters: Counters,
    unusable: bool,
}

impl<M: SharedMemory + Clone> Packets<M> {
    /// Takes the two memories, which no driver uses, and puts all buffers to receive into the ring.
    ///
    /// Errors: Geometry where a memory is too small for the shape.
    pub fn new(shape: Shape, pool_memory: M, ring_memory: M) -> Result<Packets<M>, RingError> {
        if pool_memory.bytes() < shape.pool_bytes() {
            return Err(RingError::Geometry);
        }
        let rings = make_rings(shape, &ring_memory)?;
        let pool = Pool {
            buffers: shape.buffers,
            buffer_bytes: shape.buffer_bytes,
        };
        let most = shape.buffers as usize;
        let mut packets = Packets {
            shape,
            pool,
            pool_memory,
            ring_memory,
            rings,
            holders: vec![Holder::Stack; most],
            arriving: Arriving::default(),
            extents: Extents::new(shape.receive_bytes(), shape.transmit_bytes, most),
            longest: shape.longest_sent(),
            scratch: vec![0; shape.longest_sent()],
            counters: Counters::default(),
            unusable: false,
        };
        packets.refill()?;
        Ok(packets)
    }

    /// Takes every buffer back and empties the rings. Only when the driver is gone: its session ended,
    /// and with it went its mappings.
    ///
    /// Errors: Geometry; it was checked in [`Packets::new`].
    pub fn reclaim(&mut self) -> Result<(), RingError> {
        self.rings = make_rings(self.shape, &self.ring_memory)?;
        self.arriving = Arriving::default();
        self.unusable = false;
        self.refill()
    }

    fn refill(&mut self) -> Result<(), RingError> {
        self.extents.clear();
        for buffer in 0..self.shape.buffers {
            self.offer(buffer)?;
        }
        self.rings.receive_free.publish()
    }

    /// Gives the driver a buffer to receive into. It is told with the others that were offered since it
    /// was last told.
    fn offer(&mut self, buffer: u32) -> Result<(), RingError> {
        let descriptor = Descriptor {
            offset: buffer * self.shape.buffer_bytes + HEADROOM,
            length: self.shape.buffer_bytes - HEADROOM,
            flags: 0,
        };
        let free = &mut self.rings.receive_free;
        if free.ready() == 0 {
            free.look()?;
        }
        // The ring has an entry for each such buffer, so a full one means a lying driver.
        if !free.put(descriptor)? {
            return Err(RingError::Corrupted);
        }
        self.set_holder(buffer, Holder::Driver);
        Ok(())
    }

    /// How many buffers, and how large.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Whether the rings work. Not once the driver broke one: then it is to be detached.
    pub fn is_usable(&self) -> bool {
        !self.unusable
    }

    /// Uses the rings no more, until they are reclaimed.
    pub fn detach(&mut self) {
        self.unusable = true;
    }

    /// What happened so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Buffers that are neither the driver's nor a piece of a packet that is not whole yet: 0, or a
    /// buffer leaked.
    pub fn leaked(&self) -> usize {
        let stack = self.shape.buffers as usize - self.with_driver().0;
        stack.abs_diff(self.arriving.pieces.len())
    }

    /// What the driver holds: buffers to receive into, and packets to send.
    pub fn with_driver(&self) -> (usize, usize) {
        let drivers = |holder: &&Holder| **holder == Holder::Driver;
        let buffers = self.holders.iter().filter(drivers).count();
        (buffers, self.extents.outstanding())
    }

    /// Whether the driver waits for what was put into the rings or taken out: then its doorbell is to be rung.
    pub fn must_wake(&mut self) -> bool {
        let told = self.rings.tell_received();
        // For all rings: what was moved is seen, or the wish to hear of it.
        fence(Ordering::SeqCst);
        let asked = [
            self.rings.transmit.must_wake_fenced(),
            self.rings.receive_free.must_wake_fenced(),
            self.rings.received.must_wake_fenced(),
            self.rings.transmitted.must_wake_fenced(),
        ];
        self.note(told);
        asked.into_iter().fold(false, |wake, asked| {
            wake | self.note(asked).unwrap_or(false)
        })
    }

    /// Asks for a signal when a frame comes, and, when `for_room`, when half of the packets to
    /// send came back: else nobody tells of sent frames. False: look again instead of sleeping.
    pub fn sleep(&mut self, for_room: bool) -> bool {
        let received = self.rings.received.sleep(1);
        let mut sleeps = self.note(received).unwrap_or(true);
        if for_room {
            let wanted = (self.extents.outstanding() as u32 / 2).max(1);
            let transmitted = self.rings.transmitted.sleep(wanted);
            sleeps &= self.note(transmitted).unwrap_or(true);
        }
        sleeps
    }

    /// Takes back what was asked for by [`Packets::sleep`]: the stack is awake and looks by itself.
    pub fn wake(&mut self) {
        let received = self.rings.received.wake();
        let transmitted = self.rings.transmitted.wake();
        let _ = (self.note(received), self.note(transmitted));
    }

    /// Keeps in mind that a ring is broken.
    fn note<T>(&mut self, result: Result<T, RingError>) -> Option<T> {
        self.unusable |= result.is_err();
        result.ok()
    }

    fn set_holder(&mut self, buffer: u32, holder: Holder) {
        if let Some(entry) = self.holders.get_mut(buffer as usize) {
            *entry = holder;
        }
    }
}

/// Sending.
impl<M: SharedMemory + Clone> Packets<M> {
    /// Takes back the places of the packets that were sent, as many as there are at one look.
    fn collect_transmitted(&mut self) {
        let collected = self.try_collect();
        self.note(collected);
    }

    fn try_collect(&mut self) -> Result<(), RingError> {
        self.rings.transmitted.look()?;
        while let Some(descriptor) = self.rings.transmitted.take()? {
            if !self.extents.give_back(descriptor) {
                self.counters.refused_descriptors += 1;
            }
        }
        self.rings.transmitted.publish()
    }

    /// Whether the longest frame has a place.
    fn has_room(&mut self) -> bool {
        let mut room = self.extents.has_room(self.longest);
        if !room {
            self.collect_transmitted();
            room = self.extents.has_room(self.longest);
        }
        room & !self.unusable
    }

    /// Copies a frame into the pool and hands it to the driver; false: there was no place.
    fn queue(&mut self, frame: &[u8], flags: u32) -> bool {
        let mut taken = self.extents.take(frame.len(), flags);
        if taken.is_none() {
            self.collect_transmitted();
            taken = self.extents.take(frame.len(), flags);
        }
        let Some(descriptor) = taken else {
            return false;
        };
        if self.unusable {
            self.extents.untake();
            return false;
        }
        let copied = self.pool_memory.write(descriptor.offset as usize, frame);
        let pushed = self.rings.transmit.push(descriptor);
        if copied.is_none() || self.note(pushed) != Some(true) {
            self.extents.untake();
            return false;
        }
        self.counters.sent_packets += 1;
        self.counters.sent_bytes += frame.len() as u64;
        true
    }
}

impl<M: SharedMemory + Clone> Wire for Packets<M> {
    fn receive(&mut self, into: &mut [u8]) -> Option<Received> {
        if self.unusable {
            return None;
        }
        let received = self.next_packet(into);
        self.note(received)?
    }

    fn can_transmit(&mut self) -> bool {
        self.has_room()
    }

    fn build<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> (R, Fate)) -> R {
        if length > self.scratch.len() {
            self.counters.sent_dropped += 1;
            return fill(&mut vec![0; length]).0;
        }
        let mut scratch = core::mem::take(&mut self.scratch);
        let frame = &mut scratch[..length];
        let (result, fate) = fill(frame);
        if let Fate::Send(offload) = fate
            && !self.queue(frame, offload.map_or(0, SendOffload::flags))
        {
            self.counters.sent_dropped += 1;
        }
        self.scratch = scratch;
        result
    }
}

/// Empties the memory's rings and takes the stack's side of them.
fn make_rings<M: SharedMemory + Clone>(shape: Shape, memory: &M) -> Result<Rings<M>, RingError> {
    let offset = |position: usize| position * packet_ring_bytes(shape.buffers);
    for position in 0..RINGS {
        ring::reset(memory, offset(position))?;
    }
    let producer = |at| PacketProducer::new(memory.clone(), offset(at), shape.buffers);
    let consumer = |at| PacketConsumer::new(memory.clone(), offset(at), shape.buffers);
    Ok(Rings {
        receive_free: producer(RING_RECEIVE_FREE)?,
        received: consumer(RING_RECEIVED)?,
        transmit: producer(RING_TRANSMIT)?,
        transmitted: consumer(RING_TRANSMITTED)?,
    })
}
