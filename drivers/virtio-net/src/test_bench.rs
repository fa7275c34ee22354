//! What the tests of card and server share: rings in ordinary memory, and the network stack's ends
//! of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ipc::interface::net_device::{
    Geometry, RING_RECEIVE_FREE, RING_RECEIVED, RING_TRANSMIT, RING_TRANSMITTED, RINGS,
};
use ipc::ring::{Descriptor, PacketConsumer, PacketProducer, SharedMemory, packet_ring_bytes};

/// Entries of each ring in the tests.
pub(crate) const ENTRIES: u32 = 32;
/// Buffers of the pool in the tests.
pub(crate) const BUFFERS: u32 = 64;
/// Bytes of a buffer in the tests.
pub(crate) const BUFFER_BYTES: u32 = 2048;
/// Bytes before the packet in a buffer.
pub(crate) const HEADROOM: u32 = 16;

/// The shape that the tests attach with.
pub(crate) const GEOMETRY: Geometry = Geometry {
    pool_bytes: (BUFFERS * BUFFER_BYTES) as u64,
    ring_entries: ENTRIES,
    buffer_bytes: BUFFER_BYTES,
    headroom_bytes: HEADROOM,
};

/// Memory that two sides share.
#[derive(Clone)]
pub(crate) struct Shared(pub(crate) Arc<Vec<AtomicU32>>);

impl Shared {
    /// Room for the four rings.
    pub(crate) fn for_rings() -> Shared {
        let words = packet_ring_bytes(ENTRIES) * RINGS / 4;
        Shared(Arc::new((0..words).map(|_| AtomicU32::new(0)).collect()))
    }
}

impl SharedMemory for Shared {
    fn bytes(&self) -> usize {
        self.0.len() * 4
    }
    fn word(&self, index: usize) -> Option<&AtomicU32> {
        self.0.get(index)
    }
    fn read(&self, _: usize, _: &mut [u8]) -> Option<()> {
        unreachable!("packet rings are accessed by words")
    }
    fn write(&self, _: usize, _: &[u8]) -> Option<()> {
        unreachable!("packet rings are accessed by words")
    }
}

/// The network stack's ends.
pub(crate) struct Stack {
    pub(crate) memory: Shared,
    pub(crate) free: PacketProducer<Shared>,
    pub(crate) received: PacketConsumer<Shared>,
    pub(crate) transmit: PacketProducer<Shared>,
    pub(crate) transmitted: PacketConsumer<Shared>,
}

impl Stack {
    pub(crate) fn new(memory: Shared) -> Stack {
        let at = |ring| ring * packet_ring_bytes(ENTRIES);
        let producer = |ring| PacketProducer::new(memory.clone(), at(ring), ENTRIES).unwrap();
        let consumer = |ring| PacketConsumer::new(memory.clone(), at(ring), ENTRIES).unwrap();
        Stack {
            free: producer(RING_RECEIVE_FREE),
            received: consumer(RING_RECEIVED),
            transmit: producer(RING_TRANSMIT),
            transmitted: consumer(RING_TRANSMITTED),
            memory,
        }
    }

    /// Gives these buffers for receiving.
    pub(crate) fn give(&mut self, buffers: core::ops::Range<u32>) {
        for buffer in buffers {
            let offset = buffer * BUFFER_BYTES;
            let free = Descriptor {
                offset,
                length: BUFFER_BYTES,
                flags: 0,
            };
            assert!(self.free.push(free).unwrap());
        }
    }

    /// Sends a packet of this length out of this buffer.
    pub(crate) fn send(&mut self, buffer: u32, length: u32) -> Descriptor {
        let offset = buffer * BUFFER_BYTES + HEADROOM;
        let packet = Descriptor {
            offset,
            length,
            flags: 0,
        };
        assert!(self.transmit.push(packet).unwrap());
        packet
    }

    /// Overwrites a word of a ring's header.
    pub(crate) fn corrupt(&self, ring: usize, word: usize, value: u32) {
        let index = ring * packet_ring_bytes(ENTRIES) / 4 + word;
        self.memory.0[index].store(value, Ordering::Relaxed);
    }
}
