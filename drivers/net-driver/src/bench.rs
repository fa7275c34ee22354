//! What the host tests of drivers share: rings in ordinary memory, the network stack's ends of them,
//! and the system that the service asks. The device is each driver's fake.

use std::cell::RefCell;
use std::rc::Rc;
use std::string::{String, ToString};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ipc::interface::net_device::{
    Attached, FEATURE_LINK_STATE, Geometry, NetDeviceError, NetDeviceServer, RING_RECEIVE_FREE,
    RING_RECEIVED, RING_TRANSMIT, RING_TRANSMITTED, RINGS,
};
use ipc::ring::{Descriptor, PacketConsumer, PacketProducer, SharedMemory, packet_ring_bytes};
use ipc::server::{Caller, ReplySlot};
use ipc::{Error, Handle};
use pci_function::{Area, dma};

use crate::{Device, NetServer, Platform};

/// Entries of each ring in the tests.
pub const ENTRIES: u32 = 64;
/// Buffers to receive into in the tests. What follows them is as large.
pub const BUFFERS: u32 = 256;
/// Bytes of a buffer in the tests.
pub const BUFFER_BYTES: u32 = 2048;
/// Bytes before the packet in a buffer.
pub const HEADROOM: u32 = 16;

/// The shape that the tests attach with.
pub const GEOMETRY: Geometry = Geometry {
    pool_bytes: (2 * BUFFERS * BUFFER_BYTES) as u64,
    ring_entries: ENTRIES,
    receive_buffers: BUFFERS,
    buffer_bytes: BUFFER_BYTES,
    headroom_bytes: HEADROOM,
    features: FEATURE_LINK_STATE,
};

/// Memory that two sides share.
#[derive(Clone)]
pub struct Shared(pub Arc<Vec<AtomicU32>>);

impl Shared {
    /// Room for the four rings.
    pub fn for_rings() -> Shared {
        let words = packet_ring_bytes(ENTRIES) * RINGS / 4;
        Shared(Arc::new((0..words).map(|_| AtomicU32::new(0)).collect()))
    }
}

impl SharedMemory for Shared {
    fn bytes(&self) -> usize {
        self.0.len() * 4
    }
    fn words<const N: usize>(&self, first: usize) -> Option<&[AtomicU32; N]> {
        self.0.get(first..)?.first_chunk()
    }
    fn read(&self, _: usize, _: &mut [u8]) -> Option<()> {
        unreachable!("packet rings are accessed by words")
    }
    fn write(&self, _: usize, _: &[u8]) -> Option<()> {
        unreachable!("packet rings are accessed by words")
    }
}

/// The network stack's ends.
pub struct Stack {
    /// The memory that they lie in.
    pub memory: Shared,
    /// Buffers to receive into.
    pub free: PacketProducer<Shared>,
    /// Packets received.
    pub received: PacketConsumer<Shared>,
    /// Packets to send.
    pub transmit: PacketProducer<Shared>,
    /// Packets sent.
    pub transmitted: PacketConsumer<Shared>,
}

impl Stack {
    /// The stack's ends of the rings in this memory.
    pub fn new(memory: Shared) -> Stack {
        let at = |ring| ring * packet_ring_bytes(ENTRIES);
        let producer =
            |ring| PacketProducer::new(memory.clone(), at(ring), ENTRIES).expect("it fits");
        let consumer =
            |ring| PacketConsumer::new(memory.clone(), at(ring), ENTRIES).expect("it fits");
        Stack {
            free: producer(RING_RECEIVE_FREE),
            received: consumer(RING_RECEIVED),
            transmit: producer(RING_TRANSMIT),
            transmitted: consumer(RING_TRANSMITTED),
            memory,
        }
    }

    /// Gives these buffers for receiving.
    pub fn give(&mut self, buffers: core::ops::Range<u32>) {
        for buffer in buffers {
            let offset = buffer * BUFFER_BYTES;
            let free = Descriptor {
                offset,
                length: BUFFER_BYTES,
                flags: 0,
            };
            assert!(self.free.push(free).expect("a whole ring"));
        }
    }

    /// Sends a packet of this length, so many buffers' bytes behind the buffers to receive into.
    pub fn send(&mut self, place: u32, length: u32) -> Descriptor {
        self.send_with(place, length, 0)
    }

    /// Sends a packet with these flags.
    pub fn send_with(&mut self, place: u32, length: u32, flags: u32) -> Descriptor {
        let offset = (BUFFERS + place) * BUFFER_BYTES + HEADROOM;
        let packet = Descriptor {
            offset,
            length,
            flags,
        };
        assert!(self.transmit.push(packet).expect("a whole ring"));
        packet
    }

    /// Overwrites a word of a ring's header.
    pub fn corrupt(&self, ring: usize, word: usize, value: u32) {
        let index = ring * packet_ring_bytes(ENTRIES) / 4 + word;
        self.memory.0[index].store(value, Ordering::Relaxed);
    }
}

/// No operation of a card's server answers later.
struct NoSlot;
impl ReplySlot for NoSlot {
    fn stash(&mut self) -> Result<Handle, Error> {
        unreachable!("no operation of a network card answers later")
    }
}

/// The system, as far as the service sees it.
#[derive(Clone, Default)]
pub struct FakeSystem(pub Rc<RefCell<State>>);

/// What happened to the system, and what it shall do.
#[derive(Default)]
pub struct State {
    /// The memory of the next attachment's rings.
    pub rings: Option<Shared>,
    /// What the service did, in order.
    pub log: Vec<String>,
    /// How often the network stack's bell was signalled.
    pub signals: usize,
    /// The handles that were closed.
    pub closed: Vec<u64>,
    /// The last line of the log.
    pub said: String,
    /// Refuses to attach a pool.
    pub refuse: bool,
    /// Whether the device reaches no memory; asked before it could, and when the pool is let go.
    pub stopped: Option<Box<dyn Fn() -> bool>>,
}

impl FakeSystem {
    fn note(&self, what: &str) {
        self.0.borrow_mut().log.push(what.into());
    }

    fn assert_stopped(&self) {
        let state = self.0.borrow();
        let stopped = state.stopped.as_ref().is_none_or(|stopped| stopped());
        assert!(stopped, "the device has forgotten its queues");
    }
}

impl Platform for FakeSystem {
    type Memory = Shared;
    fn map(&mut self, _: Handle) -> Result<Shared, Error> {
        Ok(self.0.borrow().rings.clone().expect("set by `attach`"))
    }
    fn attach_pool(&mut self, _: Handle) -> Result<Area, Error> {
        if self.0.borrow().refuse {
            return Err(Error::OutOfQuota);
        }
        self.note("attach pool");
        Ok(dma::allocate(GEOMETRY.pool_bytes as usize / 4096).expect("the arena is large enough"))
    }
    fn detach_pool(&mut self, pool: Area) {
        self.assert_stopped();
        self.note("detach pool");
        dma::release(pool);
    }
    fn set_bus_master(&mut self, on: bool) -> Result<(), Error> {
        if on {
            self.assert_stopped();
        }
        self.note(if on {
            "bus master on"
        } else {
            "bus master off"
        });
        Ok(())
    }
    fn signal(&mut self, bell: Handle, bits: u64) {
        assert_eq!((bell, bits), (Handle(3), 8));
        self.0.borrow_mut().signals += 1;
    }
    fn doorbell(&self) -> (Handle, u64) {
        (Handle(900), 4)
    }
    fn close(&mut self, handle: Handle) {
        self.0.borrow_mut().closed.push(handle.0);
    }
    fn log(&mut self, line: core::fmt::Arguments<'_>) {
        self.0.borrow_mut().said = line.to_string();
    }
}

/// Calls a server as the session with this badge.
pub fn call<S, R>(server: &mut S, badge: u64, f: impl FnOnce(&mut S, &mut Caller<'_>) -> R) -> R {
    f(server, &mut Caller::new(badge, &mut NoSlot))
}

/// Attaches a network stack with fresh rings, as the session with this badge.
pub fn attach<D: Device>(
    server: &mut NetServer<D, FakeSystem>,
    system: &FakeSystem,
    badge: u64,
    geometry: Geometry,
) -> Result<(Attached, Stack), NetDeviceError> {
    let rings = Shared::for_rings();
    system.0.borrow_mut().rings = Some(rings.clone());
    let (pool, memory, bell, lifeline) = (Handle(1), Handle(2), Handle(3), Handle(4));
    let (attached, doorbell) = call(server, badge, |server, caller| {
        server.attach(caller, geometry, 8, pool, memory, bell, lifeline)
    })?;
    assert_eq!(doorbell, Handle(900));
    Ok((attached, Stack::new(rings)))
}

/// A generator of numbers that look random and are the same in every run (Marsaglia, "Xorshift
/// RNGs", 2003). What it begins with is not 0.
#[derive(Debug)]
pub struct Noise(pub u64);

impl Noise {
    /// A sequence of its own for each number.
    pub fn new(number: u64) -> Noise {
        let mut noise = Noise((number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        (0..4).for_each(|_| noise.0 = noise.next());
        noise
    }

    /// The next number.
    #[expect(
        clippy::should_implement_trait,
        reason = "it is no iterator: it has no end"
    )]
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True once in so many times.
    pub fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    /// One of these values, of which there is one at least.
    pub fn of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }
}
