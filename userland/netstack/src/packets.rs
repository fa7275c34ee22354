//! The packet pool and the four packet rings between the stack and a network driver: the stack's
//! [`Wire`].
//!
//! The pool is the stack's own memory, so that it outlives the driver. Which buffer is whose is
//! written in a private table: the driver may hand back only what it was handed, each buffer once and
//! on the ring that belongs to it. What it says beyond that is counted and not believed. Finding the
//! driver, and telling its death, is [`crate::server`]'s.

use alloc::vec;
use alloc::vec::Vec;

use ipc::interface::net_device::{
    FEATURE_LINK_STATE, Geometry, RING_RECEIVE_FREE, RING_RECEIVED, RING_TRANSMIT,
    RING_TRANSMITTED, RINGS,
};
use ipc::ring::{
    self, Descriptor, PacketConsumer, PacketProducer, Pool, RingError, SharedMemory,
    packet_ring_bytes,
};

use crate::wire::{ETHERNET_HEADER_BYTES, Wire};

/// Bytes before each packet that the driver may write its header to. With the 14 bytes of the
/// Ethernet header the IP header comes to lie at 78: two bytes past a multiple of four cost x86
/// nothing.
const HEADROOM: u32 = 64;
/// Bytes of one buffer: the largest frame of a 1,500-byte network, the headroom, and a round number.
const SMALL_BUFFER: u32 = 2048;

/// How many buffers, and how large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Buffers to receive into, and as many to send from; also entries of each ring. A power of two
    /// from 16 to 2,048.
    pub buffers: u32,
    /// Bytes of one buffer.
    pub buffer_bytes: u32,
}

impl Shape {
    /// Buffers for packets of up to `mtu` bytes.
    pub fn new(buffers: u32, mtu: usize) -> Shape {
        let frame = u32::try_from(crate::stack::frame_bytes(mtu)).unwrap_or(u32::MAX / 2);
        let buffer_bytes = (frame + HEADROOM).next_multiple_of(SMALL_BUFFER);
        Shape {
            buffers,
            buffer_bytes,
        }
    }

    /// Largest packet that a buffer holds.
    pub fn mtu(self) -> usize {
        (self.buffer_bytes - HEADROOM) as usize - ETHERNET_HEADER_BYTES
    }

    /// Bytes of the pool.
    pub fn pool_bytes(self) -> usize {
        2 * self.buffers as usize * self.buffer_bytes as usize
    }

    /// Bytes of the memory with the four rings, a multiple of 4,096.
    pub fn ring_bytes(self) -> usize {
        (RINGS * packet_ring_bytes(self.buffers)).next_multiple_of(4096)
    }

    /// The shape as the driver is told it.
    pub fn geometry(self) -> Geometry {
        Geometry {
            pool_bytes: self.pool_bytes() as u64,
            ring_entries: self.buffers,
            receive_buffers: self.buffers,
            buffer_bytes: self.buffer_bytes,
            headroom_bytes: HEADROOM,
            features: FEATURE_LINK_STATE,
        }
    }
}

/// Whose a buffer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// The stack's.
    Stack,
    /// The driver's, to receive into.
    Receiving,
    /// The driver's, to send from.
    Transmitting,
}

/// What went wrong at the rings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames given to the driver.
    pub sent_packets: u64,
    /// Their bytes, Ethernet headers included.
    pub sent_bytes: u64,
    /// Frames lost because no buffer was free to send them from.
    pub sent_dropped: u64,
    /// Descriptors from the driver for buffers that it did not hold, or for bytes outside of them.
    pub refused_descriptors: u64,
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
    /// Buffers to send from that are the stack's.
    free: Vec<u32>,
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
            buffers: 2 * shape.buffers,
            buffer_bytes: shape.buffer_bytes,
        };
        let mut packets = Packets {
            shape,
            pool,
            pool_memory,
            ring_memory,
            rings,
            holders: vec![Holder::Stack; pool.buffers as usize],
            free: Vec::with_capacity(shape.buffers as usize),
            scratch: vec![0; (shape.buffer_bytes - HEADROOM) as usize],
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
        self.holders.fill(Holder::Stack);
        self.unusable = false;
        self.refill()
    }

    fn refill(&mut self) -> Result<(), RingError> {
        self.free.clear();
        self.free
            .extend((self.shape.buffers..2 * self.shape.buffers).rev());
        for buffer in 0..self.shape.buffers {
            self.offer(buffer)?;
        }
        Ok(())
    }

    /// Gives the driver a buffer to receive into.
    fn offer(&mut self, buffer: u32) -> Result<(), RingError> {
        let descriptor = Descriptor {
            offset: buffer * self.shape.buffer_bytes + HEADROOM,
            length: self.shape.buffer_bytes - HEADROOM,
            flags: 0,
        };
        // The ring has an entry for each such buffer, so a full one means a lying driver.
        if !self.rings.receive_free.push(descriptor)? {
            return Err(RingError::Corrupted);
        }
        self.set_holder(buffer, Holder::Receiving);
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

    /// Buffers that are neither in the stack's hands nor on a ring's way: 0, or a buffer leaked.
    pub fn leaked(&self) -> usize {
        let stack = self
            .holders
            .iter()
            .filter(|holder| **holder == Holder::Stack)
            .count();
        stack.abs_diff(self.free.len())
    }

    /// Buffers that the driver holds: to receive into, and to send from.
    pub fn with_driver(&self) -> (usize, usize) {
        let count = |wanted| {
            self.holders
                .iter()
                .filter(|holder| **holder == wanted)
                .count()
        };
        (count(Holder::Receiving), count(Holder::Transmitting))
    }

    /// Whether the driver waits for what was put into the rings: then its doorbell is to be rung.
    pub fn must_wake(&mut self) -> bool {
        let transmit = self.rings.transmit.must_wake();
        let receive = self.rings.receive_free.must_wake();
        self.note(transmit).unwrap_or(false) | self.note(receive).unwrap_or(false)
    }

    /// Asks for a signal when a frame comes, and, when `for_room`, when a good part of the buffers to
    /// send from came back: else nobody tells of sent frames. False: look again instead of sleeping.
    pub fn sleep(&mut self, for_room: bool) -> bool {
        let received = self.rings.received.sleep(1);
        let mut sleeps = self.note(received).unwrap_or(true);
        if for_room {
            let wanted = (self.shape.buffers / 4).max(1);
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

    /// The buffer of a descriptor that the driver gives back, if it held it for that purpose.
    fn returned(&mut self, descriptor: Descriptor, held: Holder) -> Option<u32> {
        let buffer = self.pool.buffer(descriptor);
        let rightly = buffer.filter(|buffer| self.holders.get(*buffer as usize) == Some(&held));
        if rightly.is_none() {
            self.counters.refused_descriptors += 1;
        }
        rightly
    }

    fn collect_transmitted(&mut self) {
        while !self.unusable {
            let popped = self.rings.transmitted.pop();
            let Some(Some(descriptor)) = self.note(popped) else {
                return;
            };
            if let Some(buffer) = self.returned(descriptor, Holder::Transmitting) {
                self.set_holder(buffer, Holder::Stack);
                self.free.push(buffer);
            }
        }
    }
}

impl<M: SharedMemory + Clone> Wire for Packets<M> {
    fn receive(&mut self, into: &mut [u8]) -> Option<usize> {
        while !self.unusable {
            let popped = self.rings.received.pop();
            let descriptor = self.note(popped)??;
            let Some(buffer) = self.returned(descriptor, Holder::Receiving) else {
                continue;
            };
            // The bytes must lie in the buffer; a frame that the stack has no room for is dropped.
            let length = self
                .pool
                .check(descriptor)
                .and_then(|range| Some((range.start, into.get_mut(..range.len())?)))
                .and_then(|(start, into)| {
                    self.pool_memory.read(start, into)?;
                    Some(into.len())
                });
            let offered = self.offer(buffer);
            self.note(offered)?;
            match length {
                Some(length) => return Some(length),
                None => self.counters.refused_descriptors += 1,
            }
        }
        None
    }

    fn can_transmit(&mut self) -> bool {
        if self.free.is_empty() {
            self.collect_transmitted();
        }
        !self.unusable && !self.free.is_empty()
    }

    fn transmit<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        if length > self.scratch.len() {
            self.counters.sent_dropped += 1;
            return fill(&mut vec![0; length]);
        }
        let mut scratch = core::mem::take(&mut self.scratch);
        let frame = &mut scratch[..length];
        let result = fill(frame);
        if !self.queue(frame) {
            self.counters.sent_dropped += 1;
        }
        self.scratch = scratch;
        result
    }
}

impl<M: SharedMemory + Clone> Packets<M> {
    /// Copies a frame into a buffer and hands it to the driver; false: there was no buffer.
    fn queue(&mut self, frame: &[u8]) -> bool {
        if !self.can_transmit() {
            return false;
        }
        let Some(buffer) = self.free.pop() else {
            return false;
        };
        let offset = buffer * self.shape.buffer_bytes + HEADROOM;
        let descriptor = Descriptor {
            offset,
            length: frame.len() as u32,
            flags: 0,
        };
        let copied = self.pool_memory.write(offset as usize, frame);
        let pushed = self.rings.transmit.push(descriptor);
        if copied.is_none() || self.note(pushed) != Some(true) {
            self.free.push(buffer);
            return false;
        }
        self.set_holder(buffer, Holder::Transmitting);
        self.counters.sent_packets += 1;
        self.counters.sent_bytes += frame.len() as u64;
        true
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
