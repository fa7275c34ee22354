//! Packets through the card and sessions at the service, with an honest device and with one that lies.

use ipc::interface::net_device::{
    FEATURE_LINK_STATE, Geometry, Link, NetDeviceError, NetDeviceServer,
};
use ipc::ring::Descriptor;
use net_driver::bench::{
    self, BUFFER_BYTES, BUFFERS, ENTRIES, FakeSystem, GEOMETRY, HEADROOM, Shared, Stack, call,
};
use net_driver::{Card, Device, Interrupt, NetServer, Pump, Rings};
use pci_function::{Area, dma};

use crate::device::{Nic, NicError};
use crate::fake::FakeHandle;
use crate::register::{self, cause};

struct Bench {
    card: Card<Nic<FakeHandle>, Shared>,
    device: FakeHandle,
    stack: Stack,
    pool: Area,
}

impl Bench {
    fn new() -> Bench {
        Bench::over(FakeHandle::new())
    }

    fn over(device: FakeHandle) -> Bench {
        let memory = Shared::for_rings();
        let stack = Stack::new(memory.clone());
        let pool = dma::allocate(GEOMETRY.pool_bytes as usize / 4096).unwrap();
        let nic = Nic::start(device.clone(), FEATURE_LINK_STATE, BUFFERS)
            .expect("the fake device starts");
        let rings = Rings::new(memory, ENTRIES).unwrap();
        let Ok(card) = Card::new(nic, rings, pool, &GEOMETRY) else {
            panic!("it fits")
        };
        Bench {
            card,
            device,
            stack,
            pool,
        }
    }

    fn run(&mut self) -> Pump {
        self.card.run().unwrap()
    }

    /// The kernel tells of the line, if it is up: true then.
    fn interrupt(&mut self) -> bool {
        let up = self.device.line();
        if up {
            self.card.interrupted(Interrupt::Line);
        }
        up
    }

    /// The next packet that the stack gets.
    fn received(&mut self) -> Option<Vec<u8>> {
        let packet = self.stack.received.pop().unwrap()?;
        let mut bytes = vec![0; packet.length as usize];
        let area = self.pool.part(packet.offset as usize, bytes.len());
        area.unwrap().read(&mut bytes);
        let buffer = packet.offset / BUFFER_BYTES;
        self.stack.give(buffer..buffer + 1);
        Some(bytes)
    }

    fn end(self) {
        self.card.detach().stop();
        dma::release(self.pool);
    }
}

fn packet(length: usize, seed: u32) -> Vec<u8> {
    (0..length).map(|at| (at as u32 * 7 + seed) as u8).collect()
}

#[test]
fn packets_flow_both_ways_round_the_rings() {
    for lazy in [false, true] {
        let device = FakeHandle::new();
        device.state().lazy_reset = lazy;
        let mut bench = Bench::over(device);
        bench.stack.give(0..16);
        for round in 0..3_000u32 {
            bench.run();
            let length = 14 + (round as usize * 31) % 1_500;
            let frame = packet(length, round);
            assert!(bench.device.receive(&frame, 0), "round {round}");
            bench.run();
            assert_eq!(bench.received(), Some(frame), "round {round}");

            let sent = bench.stack.send(32 + round % 16, length as u32);
            let frame = packet(length, round + 1);
            let area = bench.pool.part(sent.offset as usize, length).unwrap();
            area.write(&frame);
            bench.run();
            assert_eq!(bench.device.transmit(), Some(frame), "round {round}");
            bench.run();
            assert_eq!(bench.stack.transmitted.pop(), Ok(Some(sent)));
        }
        let counted = bench.card.statistics();
        assert_eq!(
            (counted.received_packets, counted.sent_packets),
            (3_000, 3_000)
        );
        assert_eq!(
            (counted.received_dropped, counted.refused_descriptors),
            (0, 0)
        );
        bench.end();
    }
}

#[test]
fn every_buffer_has_what_the_device_takes_for_writable() {
    let mut bench = Bench::new();
    // Of 2,048 bytes, the headroom would leave less: the packet goes to the start.
    const { assert!(BUFFER_BYTES - HEADROOM < 2048) }
    bench.stack.give(0..8);
    bench.run();
    for index in 0..8 {
        let descriptor = bench.device.descriptor(register::RECEIVE, index);
        let address = descriptor.load64(0).unwrap() - bench.pool.physical();
        assert_eq!(address, u64::from(index * BUFFER_BYTES));
    }
    bench.end();
    // With more room it goes behind the headroom.
    let device = FakeHandle::new();
    let (memory, pool) = (
        Shared::for_rings(),
        dma::allocate(GEOMETRY.pool_bytes as usize / 4096).unwrap(),
    );
    let mut stack = Stack::new(memory.clone());
    let nic = Nic::start(device.clone(), FEATURE_LINK_STATE, BUFFERS).unwrap();
    let geometry = Geometry {
        buffer_bytes: 4096,
        ..GEOMETRY
    };
    let rings = Rings::new(memory, ENTRIES).unwrap();
    let mut card = Card::new(nic, rings, pool, &geometry).ok().unwrap();
    stack.give(0..2);
    card.run().unwrap();
    let address = device.descriptor(register::RECEIVE, 1).load64(0).unwrap();
    assert_eq!(address - pool.physical(), u64::from(HEADROOM));
    card.detach().stop();
    dma::release(pool);
}

#[test]
fn a_packet_over_several_buffers_is_dropped_whole() {
    let mut bench = Bench::new();
    bench.stack.give(0..16);
    bench.run();
    assert!(!bench.device.receive(&packet(1523, 0), 0), "LPE is off");
    // A device that receives long packets all the same, in three pieces, and then a good one.
    for (bytes, end) in [(2048, false), (2048, false), (904, true)] {
        let piece = packet(bytes, 0);
        bench.device.write_back(&piece, u64::from(end) << 33);
    }
    assert!(bench.device.receive(&packet(60, 9), 0));
    bench.run();
    assert_eq!(bench.received(), Some(packet(60, 9)));
    assert_eq!(bench.received(), None);
    assert_eq!(bench.card.statistics().received_dropped, 3);
    assert_eq!(
        bench.device.free(register::RECEIVE),
        16 - 1,
        "their buffers are used again"
    );
    bench.end();
}

#[test]
fn a_device_that_lies_about_a_packet_costs_that_packet() {
    let end = 1 << 33;
    let lies = [
        // Shorter than a header, none at all, longer than allowed, longer than the buffer.
        (0, end),
        (13, end),
        (1523, end),
        (0xffff, end),
        // Each error of a frame.
        (60, end | 1 << 40),
        (60, end | 1 << 41),
        (60, end | 1 << 42),
        (60, end | 1 << 44),
        (60, end | 1 << 47),
    ];
    for (length, bits) in lies {
        let mut bench = Bench::new();
        bench.stack.give(0..2);
        bench.run();
        bench.device.write_back(&[], bits);
        let descriptor = bench.device.descriptor(register::RECEIVE, 0);
        let word = descriptor.load64(8).unwrap();
        descriptor.store64(8, word | length).unwrap();
        assert!(bench.device.receive(&packet(60, 1), 0));
        bench.run();
        assert_eq!(bench.received(), Some(packet(60, 1)), "{length} {bits:x}");
        assert_eq!(bench.received(), None);
        assert_eq!(bench.card.statistics().received_dropped, 1);
        bench.end();
    }
}

#[test]
fn descriptors_that_the_device_does_not_hold_mean_nothing() {
    let mut bench = Bench::new();
    // Nothing was given, and everything says it is done.
    for ring in [register::RECEIVE, register::TRANSMIT] {
        for index in 0..256 {
            let descriptor = bench.device.descriptor(ring, index);
            descriptor.store64(8, u64::MAX).unwrap();
        }
    }
    let pump = bench.run();
    assert!(
        !pump.again && !pump.reclaim,
        "the driver does not turn in circles"
    );
    assert_eq!(bench.received(), None);
    bench.stack.give(0..4);
    bench.run();
    assert_eq!(
        bench.received(),
        None,
        "what was said before counts for nothing"
    );
    // Out of order: the second is done before the first.
    let second = bench.device.descriptor(register::RECEIVE, 1);
    second.store64(8, 60 | 1 << 32 | 1 << 33).unwrap();
    bench.run();
    assert_eq!(bench.received(), None);
    bench.end();
}

#[test]
fn a_wait_costs_one_interrupt_and_few_register_accesses() {
    let mut bench = Bench::new();
    bench.stack.give(0..24);
    bench.run();
    assert!(!bench.interrupt(), "nothing has come");
    for round in 0..20 {
        let before = bench.device.state().accesses;
        assert_eq!(bench.stack.received.sleep(1), Ok(true));
        for _ in 0..4 {
            assert!(bench.device.receive(&packet(60, round), 0));
        }
        assert!(bench.interrupt(), "packets are news");
        assert!(!bench.device.line(), "and told once");
        // More come while the driver works.
        assert!(bench.device.receive(&packet(61, round), 0));
        bench.run();
        assert!(!bench.interrupt(), "what was seen does not interrupt");
        for _ in 0..5 {
            assert!(bench.received().is_some());
        }
        bench.run();
        let accesses = bench.device.state().accesses - before;
        assert!(accesses <= 4, "causes twice, tails: {accesses}");
    }
    assert_eq!(bench.card.statistics().interrupts, 20);
    bench.end();
}

#[test]
fn a_busy_stack_has_the_card_looked_at_instead_of_interrupting() {
    let mut bench = Bench::new();
    bench.stack.give(0..24);
    bench.run();
    for round in 0..20 {
        // The stack is awake when the packet comes: it tells when it has taken that.
        assert!(bench.device.receive(&packet(60, round), 0));
        assert!(bench.interrupt(), "a packet is news");
        assert!(!bench.run().signal);
        for _ in 0..3 {
            assert!(bench.device.receive(&packet(61, round), 0));
            // The card learns by its next interrupt that nobody asks for more.
            bench.interrupt();
            while bench.received().is_some() {}
            assert_eq!(bench.stack.received.must_wake(), Ok(true));
            bench.run();
        }
        while bench.received().is_some() {}
        assert_eq!(bench.stack.received.must_wake(), Ok(true));
        // Nothing came meanwhile.
        bench.run();
    }
    assert!(bench.card.statistics().interrupts <= 40, "of 80 packets");
    bench.end();
}

#[test]
fn sent_packets_interrupt_only_when_many_wait() {
    let mut bench = Bench::new();
    bench.stack.send(32, 60);
    assert!(bench.run().reclaim);
    bench.device.transmit().unwrap();
    assert!(!bench.interrupt(), "nobody waits for that buffer");
    for buffer in 0..20 {
        bench.stack.send(33 + buffer, 60);
    }
    assert!(bench.run().reclaim);
    assert!(!bench.interrupt(), "the packet from before was seen");
    while bench.device.transmit().is_some() {}
    assert!(bench.interrupt(), "many of the stack's buffers came back");
    bench.run();
    let back = core::iter::from_fn(|| bench.stack.transmitted.pop().unwrap());
    assert_eq!(back.count(), 21);
    // The cause that nobody asks for any more interrupts once at most.
    bench.stack.send(32, 60);
    bench.run();
    bench.device.transmit().unwrap();
    assert!(bench.interrupt());
    bench.run();
    bench.stack.send(33, 60);
    bench.run();
    bench.device.transmit().unwrap();
    assert!(!bench.interrupt());
    bench.end();
}

#[test]
fn what_comes_while_the_driver_falls_asleep_is_not_lost() {
    let mut nic = Nic::start(FakeHandle::new(), FEATURE_LINK_STATE, BUFFERS).unwrap();
    let pool = dma::allocate(16).unwrap();
    let device = nic_device(&nic);
    for buffer in 0..8 {
        let name = Descriptor::default();
        nic.give(pool.part(buffer * 2048, 2048).unwrap(), name)
            .unwrap();
        let packet = pool.part(32_768 + buffer * 2048, 60).unwrap();
        nic.send(packet, None, name).unwrap();
    }
    nic.notify();
    nic.interrupted(Interrupt::Line);
    nic.disarm();
    assert!(!nic.arm(net_driver::Direction::Receive, 1));
    // Between the two looks: the second clears the cause of this.
    assert!(device.receive(&packet(60, 0), 0));
    assert!(nic.arm(net_driver::Direction::Transmit, 4), "look again");
    nic.stop();
    dma::release(pool);
}

/// The fake behind a device: registers are shared.
fn nic_device(nic: &Nic<FakeHandle>) -> FakeHandle {
    nic.registers().clone()
}

#[test]
fn an_address_that_is_none_is_replaced() {
    let bad = [
        (0, register::ADDRESS_VALID),
        (0x0101, register::ADDRESS_VALID | 7),
        (u32::MAX, u32::MAX),
        (0x0000_5452, 0x0302),
    ];
    for (low, high) in bad {
        let device = FakeHandle::new();
        device.set_register(register::ADDRESS[0], low);
        device.set_register(register::ADDRESS[1], high);
        let nic = Nic::start(device.clone(), FEATURE_LINK_STATE, BUFFERS).unwrap();
        assert_eq!(nic.mac(), [2, 0, 0, 0, 0, 1], "{low:x} {high:x}");
        assert_eq!(device.register(register::ADDRESS[0]), 2);
        assert_eq!(device.register(register::ADDRESS[1]), 0x8000_0100);
        nic.stop();
    }
}

#[test]
fn an_address_that_the_device_did_not_load_is_read_from_its_eeprom() {
    let addresses = [
        ([0x5452, 0x1200, 0x5634], [0x52, 0x54, 0, 0x12, 0x34, 0x56]),
        ([0x0101, 0, 0], [2, 0, 0, 0, 0, 1]),
        ([0, 0, 0], [2, 0, 0, 0, 0, 1]),
    ];
    for (words, address) in addresses {
        let device = FakeHandle::new();
        device.set_register(register::ADDRESS[1], 0);
        device.state().eeprom = Some(words);
        let nic = Nic::start(device.clone(), FEATURE_LINK_STATE, BUFFERS).unwrap();
        assert_eq!(nic.mac(), address);
        let [a, b, c, d, e, f] = address;
        let low = u32::from_le_bytes([a, b, c, d]);
        assert_eq!(device.register(register::ADDRESS[0]), low);
        let high = u32::from_le_bytes([e, f, 0, 0x80]);
        assert_eq!(
            device.register(register::ADDRESS[1]),
            high,
            "it is filtered by"
        );
        nic.stop();
    }
}

#[test]
fn a_device_that_does_not_stop_or_answer_is_given_up() {
    type Lie = fn(&FakeHandle);
    let lies: [(Lie, NicError); 3] = [
        (
            |device| device.state().never_resets = true,
            NicError::ResetTimedOut,
        ),
        (|device| device.state().gone = true, NicError::ResetTimedOut),
        (
            |device| device.state().never_stops = true,
            NicError::DoesNotStop,
        ),
    ];
    for (lie, expected) in lies {
        let device = FakeHandle::new();
        lie(&device);
        let failed = Nic::start(device, FEATURE_LINK_STATE, BUFFERS);
        assert_eq!(failed.err().map(|(_, error)| error), Some(expected));
    }
}

#[test]
fn the_service_starts_and_stops_the_device_in_order() {
    let device = FakeHandle::new();
    let system = FakeSystem::default();
    let registers = device.clone();
    let stopped = move || registers.register(register::RECEIVE_CONTROL) & 2 == 0;
    system.0.borrow_mut().stopped = Some(Box::new(stopped));
    let mut server: NetServer<Nic<FakeHandle>, _> =
        NetServer::new(system.clone(), Some(device.clone()), 1);
    for round in 1..4 {
        let (attached, mut stack) = bench::attach(&mut server, &system, round, GEOMETRY).unwrap();
        assert_eq!(attached.mac, [0x52, 0x54, 0, 1, 2, 3]);
        assert_eq!((attached.mtu, attached.features), (1500, 4));
        stack.give(0..4);
        server.run();
        assert_eq!(device.free(register::RECEIVE), 4);
        let link = |server: &mut _| {
            call(server, round, |server: &mut NetServer<_, _>, caller| {
                server.link(caller)
            })
        };
        assert_eq!(link(&mut server), Ok(Link::Up));
        device.set_register(register::STATUS, 0);
        device.state().causes |= cause::LINK;
        assert!(device.line());
        let signals = system.0.borrow().signals;
        server.interrupted(Interrupt::Line);
        assert_eq!(
            system.0.borrow().signals,
            signals + 1,
            "the link has changed"
        );
        assert_eq!(link(&mut server), Ok(Link::Down));
        device.set_register(register::STATUS, register::STATUS_LINK_UP);
        server.closed(round);
        assert!(!device.line());
    }
    let log = [
        "attach pool",
        "bus master on",
        "bus master off",
        "detach pool",
    ];
    assert_eq!(system.0.borrow().log, log.repeat(3));
    // A device that is idle lowers its line all the same.
    device.state().causes = u32::MAX;
    server.interrupted(Interrupt::Line);
    assert_eq!(device.state().causes, 0);
}

#[test]
fn a_device_that_hangs_costs_its_rings_and_no_more_than_that() {
    let device = FakeHandle::new();
    let system = FakeSystem::default();
    let mut server: NetServer<Nic<FakeHandle>, _> =
        NetServer::new(system.clone(), Some(device.clone()), 1);
    bench::attach(&mut server, &system, 1, GEOMETRY).unwrap();
    device.state().never_resets = true;
    server.closed(1);
    let failed = bench::attach(&mut server, &system, 2, GEOMETRY);
    assert_eq!(failed.err(), Some(NetDeviceError::DeviceFailed));
    device.set_register(register::CONTROL, 0);
    device.state().never_resets = false;
    bench::attach(&mut server, &system, 3, GEOMETRY).unwrap();
    server.closed(3);
}

#[test]
fn packets_that_are_too_long_are_refused_and_come_back() {
    let mut bench = Bench::new();
    let descriptor = |length| Descriptor {
        offset: (BUFFERS + 8) * BUFFER_BYTES + HEADROOM,
        length,
        flags: 0,
    };
    for length in [1519, 2048] {
        assert!(bench.stack.transmit.push(descriptor(length)).unwrap());
        bench.run();
        assert_eq!(bench.stack.transmitted.pop(), Ok(Some(descriptor(length))));
    }
    assert!(bench.stack.transmit.push(descriptor(1518)).unwrap());
    bench.run();
    assert_eq!(
        bench.device.transmit().map(|packet| packet.len()),
        Some(1518)
    );
    assert_eq!(bench.card.statistics().refused_descriptors, 2);
    bench.end();
}

/// A generator of numbers that look random and are the same in every run (Marsaglia, "Xorshift
/// RNGs", 2003).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[test]
fn whatever_the_device_writes_the_driver_goes_on_inside_the_pool() {
    let mut noise = Noise(0xe1000);
    let mut received = 0u64;
    for _ in 0..200 {
        let mut bench = Bench::new();
        bench.stack.give(0..48);
        for _ in 0..100 {
            let index = (noise.next() % 40) as u32;
            match noise.next() % 6 {
                0 => {
                    let descriptor = bench.device.descriptor(register::RECEIVE, index);
                    descriptor.store64(8, noise.next()).unwrap();
                    descriptor.store64(0, noise.next()).unwrap();
                }
                1 => {
                    // The descriptor that comes next, and no errors: so that the lies reach further.
                    let counted = bench.card.statistics();
                    let next = counted.received_packets + counted.received_dropped;
                    let descriptor = bench.device.descriptor(register::RECEIVE, next as u32);
                    let word = noise.next() & 0x3_0000_07ff | 1 << 32;
                    descriptor.store64(8, word).unwrap();
                }
                2 => {
                    let descriptor = bench.device.descriptor(register::TRANSMIT, index);
                    descriptor.store64(8, noise.next()).unwrap();
                }
                3 => {
                    bench.stack.send(32 + index % 32, 60);
                    while bench.stack.transmitted.pop().unwrap().is_some() {}
                }
                4 => bench.device.state().causes = noise.next() as u32,
                _ => {
                    bench.device.state().mask = noise.next() as u32;
                    bench.interrupt();
                }
            }
            let pump = bench.run();
            assert!(!pump.again, "it comes to an end");
            while let Some(bytes) = bench.received() {
                assert!((14..=1522).contains(&bytes.len()));
                received += 1;
            }
        }
        bench.end();
    }
    assert!(received > 100, "{received} lies were packets");
}
