//! Device, driver and stack, each of which runs only when it was woken: nothing is left lying.

use ipc::ring::Descriptor;
use net_driver::bench::{BUFFER_BYTES, ENTRIES, Noise};
use net_driver::{Device, Direction};
use virtio::VirtioTransport;

use crate::bench::{Bench, legacy, mmio, modern};

/// The parties, and whether each has been woken since it ran last.
struct Schedule<T: VirtioTransport> {
    bench: Bench<T>,
    driver_woken: bool,
    stack_woken: bool,
    /// Packets that the device received, and those that the stack has got.
    arrived: u64,
    got: u64,
    /// Packets that the stack gave to be sent, and those that came back.
    sent: u64,
    back: u64,
    signals: u64,
}

impl<T: VirtioTransport> Schedule<T> {
    /// There are so many buffers to receive into.
    fn new(mut bench: Bench<T>, buffers: u32) -> Schedule<T> {
        bench.stack.give(0..buffers);
        Schedule {
            bench,
            driver_woken: true,
            stack_woken: true,
            arrived: 0,
            got: 0,
            sent: 0,
            back: 0,
            signals: 0,
        }
    }

    /// The device receives a packet, if it has a buffer.
    fn receive(&mut self) {
        if let Some(buffer) = self.bench.device.take(0) {
            self.driver_woken |= self.bench.device.give_back(0, buffer.head.into(), 100);
            self.arrived += 1;
        }
    }

    /// The device has sent a packet, if it has one.
    fn transmit(&mut self) {
        if let Some(buffer) = self.bench.device.take(1) {
            self.driver_woken |= self.bench.device.give_back(1, buffer.head.into(), 0);
        }
    }

    /// The driver runs, if it was woken.
    fn driver(&mut self) {
        if std::mem::take(&mut self.driver_woken) {
            let pump = self.bench.run();
            self.driver_woken |= pump.again;
            self.stack_woken |= pump.signal;
            self.signals += u64::from(pump.signal);
        }
    }

    /// The stack runs: it takes what came, up to so much, and sends so many packets where there is room.
    fn stack(&mut self, most: u32, send: u32) {
        self.stack_woken = false;
        let stack = &mut self.bench.stack;
        stack.received.look().unwrap();
        let mut taken: Vec<Descriptor> = Vec::new();
        while taken.len() < most as usize {
            let Some(packet) = stack.received.take().unwrap() else {
                break;
            };
            taken.push(packet);
        }
        stack.received.publish().unwrap();
        self.got += taken.len() as u64;
        for packet in taken {
            let buffer = packet.offset / BUFFER_BYTES;
            stack.give(buffer..buffer + 1);
        }
        // What was sent is taken back when there is no room for more, and not before.
        let full = |sent, back| sent - back == u64::from(ENTRIES);
        for _ in 0..send {
            if full(self.sent, self.back) {
                while stack.transmitted.pop().unwrap().is_some() {
                    self.back += 1;
                }
            }
            if !full(self.sent, self.back) {
                stack.send(self.sent as u32 % ENTRIES, 60);
                self.sent += 1;
            }
        }
        // The last one has an entry for each packet: the driver never waits for room there.
        self.driver_woken |= stack.free.must_wake().unwrap();
        self.driver_woken |= stack.transmit.must_wake().unwrap();
        self.driver_woken |= stack.received.must_wake().unwrap();
        self.stack_woken |= !stack.received.sleep(1).unwrap();
    }

    /// One party does something, chosen by `noise`.
    fn step(&mut self, noise: &mut Noise) {
        match noise.below(8) {
            0 | 1 => self.receive(),
            2 => self.transmit(),
            3 | 4 => self.driver(),
            // An application sends: that, too, wakes the stack.
            5 => self.stack(noise.below(20) as u32, noise.below(4) as u32),
            _ if self.stack_woken => self.stack(ENTRIES, noise.below(2) as u32),
            _ => {}
        }
    }

    /// All sleep: what the device received is the stack's, and what that sent the device's.
    fn settle(&mut self) {
        while self.driver_woken
            || self.stack_woken
            || self.bench.device.take(1).is_some_and(|buffer| {
                self.driver_woken |= self.bench.device.give_back(1, buffer.head.into(), 0);
                true
            })
        {
            self.driver();
            if self.stack_woken {
                self.stack(ENTRIES, 0);
            }
        }
        assert_eq!(self.got, self.arrived, "packets lie in queue or ring");
        let free = self.bench.stack.transmit.free();
        assert_eq!(free, Ok(ENTRIES), "packets to send lie in the ring");
        let held = self.bench.card.device().held(Direction::Receive);
        assert!(held > 0, "free buffers lie in the ring");
    }
}

fn nothing_is_left_lying<T: VirtioTransport>(make: impl Fn() -> Bench<T>) {
    // Fewer than the device's queue takes, and more.
    for buffers in (1..34).step_by(3) {
        let mut noise = Noise::new(buffers.into());
        let mut schedule = Schedule::new(make(), buffers);
        for _ in 0..200 {
            for _ in 0..noise.below(60) {
                schedule.step(&mut noise);
            }
            schedule.settle();
        }
        assert!(schedule.got > 100 && schedule.sent > 100 && schedule.signals > 50);
        schedule.bench.end();
    }
}

#[test]
fn who_sleeps_is_woken_whatever_the_order() {
    nothing_is_left_lying(modern);
    nothing_is_left_lying(mmio);
    nothing_is_left_lying(|| legacy(0));
}

/// The stack takes what it was given, and gives the buffers back; true: it is to tell the driver.
fn take_all<T: VirtioTransport>(bench: &mut Bench<T>) -> bool {
    let stack = &mut bench.stack;
    stack.received.look().unwrap();
    while let Some(packet) = stack.received.take().unwrap() {
        let buffer = packet.offset / BUFFER_BYTES;
        stack.give(buffer..buffer + 1);
    }
    stack.received.publish().unwrap();
    stack.received.must_wake().unwrap()
}

fn a_busy_stack_tells_itself<T: VirtioTransport>(mut bench: Bench<T>) {
    bench.stack.give(0..16);
    bench.run();
    let receive = |bench: &mut Bench<T>| {
        let buffer = bench.device.take(0).expect("a buffer");
        bench.device.give_back(0, buffer.head.into(), 100)
    };
    for _ in 0..10 {
        assert!(receive(&mut bench), "the first one is news");
        assert!(!bench.run().signal, "the stack is awake");
        for _ in 0..3 {
            assert!(!receive(&mut bench), "the stack will tell");
            assert!(take_all(&mut bench));
            bench.run();
        }
        assert!(take_all(&mut bench));
        // Nothing came meanwhile: the card is to tell again.
        bench.run();
    }
    bench.end();
}

#[test]
fn while_the_stack_is_busy_it_tells_and_not_the_card() {
    a_busy_stack_tells_itself(modern());
    a_busy_stack_tells_itself(mmio());
    a_busy_stack_tells_itself(legacy(0));
}
