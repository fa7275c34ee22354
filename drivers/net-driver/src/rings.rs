//! The driver's ends of the four rings that it shares with the network stack. What goes through them is
//! [`crate::Card`]'s.

use core::sync::atomic::{Ordering, fence};

use ipc::interface::net_device::{
    RING_RECEIVE_FREE, RING_RECEIVED, RING_TRANSMIT, RING_TRANSMITTED, RINGS,
};
use ipc::ring::{PacketConsumer, PacketProducer, RingError, SharedMemory, packet_ring_bytes};

/// Entries of a ring that the interface allows.
const RING_ENTRIES: core::ops::RangeInclusive<u32> = 16..=4_096;

/// The driver's ends of the rings.
pub struct Rings<M: SharedMemory> {
    pub(crate) free: PacketConsumer<M>,
    pub(crate) received: PacketProducer<M>,
    pub(crate) transmit: PacketConsumer<M>,
    pub(crate) transmitted: PacketProducer<M>,
}

impl<M: SharedMemory + Clone> Rings<M> {
    /// The rings in this memory, one after another; `None` where the number of entries is out of
    /// range, or the memory too small.
    pub fn new(memory: M, entries: u32) -> Option<Rings<M>> {
        if !RING_ENTRIES.contains(&entries) {
            return None;
        }
        let bytes = packet_ring_bytes(entries);
        let at = |ring: usize| (memory.clone(), ring * bytes);
        let consumer = |ring| {
            let (memory, offset) = at(ring);
            PacketConsumer::new(memory, offset, entries).ok()
        };
        let producer = |ring| {
            let (memory, offset) = at(ring);
            PacketProducer::new(memory, offset, entries).ok()
        };
        const { assert!(RINGS == 4) }
        Some(Rings {
            free: consumer(RING_RECEIVE_FREE)?,
            received: producer(RING_RECEIVED)?,
            transmit: consumer(RING_TRANSMIT)?,
            transmitted: producer(RING_TRANSMITTED)?,
        })
    }
}

impl<M: SharedMemory> Rings<M> {
    /// Looks at what the stack has moved, in each ring once. What comes later is heard of by the wishes
    /// that end a run.
    pub(crate) fn look(&mut self) -> Result<(), RingError> {
        self.free.look()?;
        self.received.look()?;
        self.transmit.look()?;
        self.transmitted.look()
    }

    /// Tells the stack of all that was put in and taken out.
    pub(crate) fn publish(&mut self) -> Result<(), RingError> {
        self.free.publish()?;
        self.received.publish()?;
        self.transmit.publish()?;
        self.transmitted.publish()
    }

    /// Whether the stack sleeps on what it was told of.
    pub(crate) fn must_wake(&mut self) -> Result<bool, RingError> {
        // For all four rings: what was put in and taken out is seen, or the wish to hear of it.
        fence(Ordering::SeqCst);
        let received = self.received.must_wake_fenced()?;
        let transmitted = self.transmitted.must_wake_fenced()?;
        let free = self.free.must_wake_fenced()?;
        let transmit = self.transmit.must_wake_fenced()?;
        Ok(received | transmitted | free | transmit)
    }
}
