//! Devices that lie, thousands of them, each from a number of its own: about their features, configuration,
//! queues and registers, about what they return, and by writing over the rings. The driver goes on or says
//! that the device failed; no buffer is lost or invented, no memory is kept, nothing outside of the pool is
//! written, and the counters say what was dropped.
//!
//! The memory of all queues is counted: so these tests are a process of their own, and run one by one.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipc::interface::net_device::{
    FLAG_CHECKSUM_VERIFIED, FLAG_MORE, Geometry, MAX_PACKET_BYTES, Statistics,
};
use ipc::ring::{Descriptor, SharedMemory};
use net_driver::bench::{ENTRIES, HEADROOM, Noise, Shared, Stack};
use net_driver::{Card, Device, Interrupt, Rings};
use pci_function::dma::{self, test_memory};
use pci_function::{Area, InterruptMode};
use registers::{Ports, Registers};
use virtio::fake::{FakeControl, FakeDevice, FakeHandle, FakeMmio, FakeWindow};
use virtio::{
    AnyTransport, LegacyTransport, MmioTransport, ModernTransport, ModernWindows, VirtioTransport,
};
use virtio_drivers::transport::DeviceType::Network;
use virtio_net::{Idle, NetDevice, Settings};

/// Devices of each test.
const DEVICES: u64 = 8_000;
/// What happens to each.
const STEPS: usize = 40;
/// Buffers to receive into.
const BUFFERS: u32 = 48;
/// Bytes of each, and of each place to send from.
const BUFFER: u32 = 2048;
/// Places to send from.
const PLACES: u32 = 16;

static ONE_BY_ONE: Mutex<()> = Mutex::new(());

fn one_by_one() -> MutexGuard<'static, ()> {
    ONE_BY_ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A device that was thought up: mostly such that it starts.
fn thought_up(noise: &mut Noise) -> FakeHandle {
    let sizes: Vec<u16> = (0..noise.of(&[2, 3, 4, 5, 5, 9, 1]))
        .map(|_| match noise.one_in(40) {
            true => noise.next() as u16,
            false => noise.of(&[16, 64, 64, 256]),
        })
        .collect();
    // All features that the driver knows, most of the time; else any.
    let features = match noise.one_in(4) {
        true => noise.next(),
        false => u64::MAX,
    };
    let device = match noise.below(3) {
        0 => FakeDevice::legacy(features, &sizes),
        _ => FakeDevice::modern(features, &sizes),
    };
    let mut state = device.state();
    state.configuration = (0..noise.below(24)).map(|_| noise.next() as u8).collect();
    let pairs = noise.of(&[1, 2, 2, 4, 0, u16::MAX]);
    if let Some(bytes) = state.configuration.get_mut(8..10) {
        bytes.copy_from_slice(&pairs.to_le_bytes());
    }
    // The control queue follows the others.
    let number = pairs.wrapping_mul(2);
    state.control = match noise.below(8) {
        _ if number == 0 => FakeControl::None,
        0 => FakeControl::Refuses(number),
        1 => FakeControl::Lies(number),
        _ => FakeControl::Obeys(number),
    };
    state.msix = noise.one_in(2);
    state.one_vector = noise.one_in(4);
    state.refuses_vectors = noise.one_in(40);
    state.refuses_features = noise.one_in(40);
    drop(state);
    device
}

type Transport = AnyTransport<FakeHandle, FakeWindow>;
type SlotTransport = AnyTransport<FakeHandle, FakeMmio>;

/// The transport of a device on a bus; `None` where its registers cannot be.
fn on_bus(device: &FakeHandle, noise: &mut Noise) -> Option<Transport> {
    let msix = device.state().msix;
    let vectors = noise.of(&[1, 2, 3]);
    let mode = match msix {
        true => InterruptMode::Message { vectors },
        false => InterruptMode::Line,
    };
    if device.state().features >> 32 & 1 == 0 {
        let transport = LegacyTransport::new(device.clone(), Network, mode);
        return Some(AnyTransport::Legacy(transport));
    }
    let multiplier = match noise.one_in(20) {
        true => noise.of(&[0, 1, 2, 3, 6, 8, 1 << 31, u32::MAX]),
        false => 4,
    };
    let windows = ModernWindows {
        notify_multiplier: multiplier,
        ..device.windows()
    };
    let transport = ModernTransport::new(windows, Network, mode).ok()?;
    Some(AnyTransport::Modern(transport))
}

/// What a run came to.
#[derive(Default)]
struct Sum {
    /// Devices that did not start.
    refused: u64,
    /// Devices that failed later.
    failed: u64,
    /// Devices that were served to the end, and gave everything back.
    served: u64,
    /// Devices that several pairs of queues were used of.
    paired: u64,
    /// Packets of several buffers.
    joined: u64,
    counted: Statistics,
}

/// A network stack that keeps to the rules, and holds the driver to them.
struct Honest {
    stack: Stack,
    pool: Area,
    /// Buffers to receive into that are here.
    own: Vec<u32>,
    /// Whether the driver has a buffer.
    given: Vec<bool>,
    /// What the driver has to send.
    sent: BTreeMap<u32, Descriptor>,
    packets: u64,
    joined: u64,
}

impl Honest {
    fn new(memory: Shared, pool: Area) -> Honest {
        Honest {
            stack: Stack::new(memory),
            pool,
            own: (0..BUFFERS).collect(),
            given: vec![false; BUFFERS as usize],
            sent: BTreeMap::new(),
            packets: 0,
            joined: 0,
        }
    }

    fn give(&mut self, most: u64) {
        for _ in 0..most {
            let Some(buffer) = self.own.pop() else { return };
            let free = Descriptor {
                offset: buffer * BUFFER + HEADROOM,
                length: 0,
                flags: 0,
            };
            assert!(self.stack.free.push(free).expect("a whole ring"));
            self.given[buffer as usize] = true;
        }
    }

    /// Sends from a place that is free, with any wish.
    fn send(&mut self, noise: &mut Noise) {
        let place = noise.below(PLACES.into()) as u32;
        let offset = (BUFFERS + place) * BUFFER + HEADROOM + noise.below(500) as u32;
        let packet = Descriptor {
            offset,
            length: noise.of(&[0, 13, 14, 60, 1400, 1514, 70_000]),
            flags: match noise.below(4) {
                0 => noise.next() as u32,
                // TCP over IPv4, whole and to be cut.
                1 => 0x553,
                2 => 0x0400_0553 & !0x200_0000 | 1 << 26,
                _ => 0,
            },
        };
        if !self.sent.contains_key(&place)
            && self.stack.transmit.push(packet).expect("a whole ring")
        {
            self.sent.insert(place, packet);
        }
    }

    /// Takes what the driver has for it: packets whole and out of buffers that it was given, and what was
    /// sent as it was sent.
    fn take(&mut self) {
        let mut bytes = 0;
        let mut parts = 0;
        while let Some(part) = self.stack.received.pop().expect("a whole ring") {
            let buffer = part.offset / BUFFER;
            let given = self.given.get_mut(buffer as usize).expect("a buffer");
            assert!(core::mem::take(given), "it was given once");
            assert!(part.length > 0 && part.offset % BUFFER + part.length <= BUFFER);
            assert_eq!(part.flags & !(FLAG_MORE | FLAG_CHECKSUM_VERIFIED), 0);
            self.own.push(buffer);
            bytes += part.length as usize;
            parts += 1;
            if part.flags & FLAG_MORE == 0 {
                assert!((14..=MAX_PACKET_BYTES).contains(&bytes));
                self.joined += u64::from(parts > 1);
                self.packets += 1;
                (bytes, parts) = (0, 0);
            }
        }
        assert_eq!(parts, 0, "packets come whole");
        while let Some(back) = self.stack.transmitted.pop().expect("a whole ring") {
            let place = back.offset / BUFFER - BUFFERS;
            assert_eq!(self.sent.remove(&place), Some(back), "as it went, and once");
        }
    }
}

/// What the device plays: it knows what it holds, by queue.
struct Player {
    device: FakeHandle,
    queues: u16,
    held: Vec<(u16, u16)>,
    /// It has lied in a way that the driver cannot tell at once, but must at last.
    dirty: bool,
}

impl Player {
    fn collect(&mut self) {
        for queue in 0..self.queues {
            while let Some(buffer) = self.device.take(queue) {
                self.held.push((queue, buffer.head));
            }
        }
    }

    /// One thing that a device can do.
    fn act(&mut self, noise: &mut Noise, pool: &Area) {
        let queue = noise.below(self.queues.into()) as u16;
        match noise.below(64) {
            0..40 => self.return_one(noise, pool),
            40..48 => self.collect(),
            48 => {
                self.dirty = true;
                self.device
                    .give_back(queue, noise.of(&[0, 1, 15, 16, 1 << 31]), 60);
            }
            49 => {
                self.dirty = true;
                self.device.set_used_index(queue, noise.next() as u16);
            }
            50 => {
                self.dirty = true;
                let word = noise.next() as u16;
                self.device
                    .scribble_ring(queue, true, word, noise.next() as u16);
            }
            // The driver reads nothing of these.
            51 => {
                self.dirty = true;
                let word = noise.next() as u16;
                self.device
                    .scribble_ring(queue, false, word, noise.next() as u16);
                self.device.scribble(queue, word % 16, noise.next());
            }
            52 => self.device.state().isr = noise.next() as u8,
            53 => {
                let mut state = self.device.state();
                state
                    .configuration
                    .iter_mut()
                    .for_each(|byte| *byte = !*byte);
            }
            _ => self.device.want_notification(queue, noise.one_in(2)),
        }
    }

    /// Returns a buffer that the device holds, with any header and any length.
    fn return_one(&mut self, noise: &mut Noise, pool: &Area) {
        self.collect();
        if self.held.is_empty() {
            return;
        }
        let which = noise.below(self.held.len() as u64) as usize;
        let (queue, head) = self.held.swap_remove(which);
        let length = match noise.below(8) {
            0 => noise.next() as u32,
            1 => noise.below(30) as u32,
            2..5 => 12 + BUFFER - HEADROOM,
            _ => 12 + 60 + noise.below(1400) as u32,
        };
        // Headers of packets in one buffer and in a few, and any.
        let buffers = noise.of(&[1, 1, 1, 1, 2, 3, 40, 0, 1, 1, 1]);
        let header = [
            noise.below(4) as u8,
            0,
            0,
            0,
            0,
            0,
            34,
            0,
            16,
            0,
            buffers,
            0,
        ];
        for buffer in 0..BUFFERS as usize {
            if noise.one_in(8) {
                let start = buffer * BUFFER as usize + HEADROOM as usize - 12;
                pool.store(start, header).expect("it is in the pool");
            }
        }
        self.device.give_back(queue, head.into(), length);
    }

    /// Returns everything, as an honest device does: a packet in each buffer.
    fn return_all(&mut self, pool: &Area) {
        self.collect();
        for buffer in 0..BUFFERS as usize {
            let header = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0];
            let start = buffer * BUFFER as usize + HEADROOM as usize;
            pool.store(start - 12, header).expect("it is in the pool");
            // The header of a legacy device without mergeable buffers is shorter.
            pool.store(start, [0; 12])
                .expect("the windows are large enough");
        }
        for (queue, head) in self.held.drain(..) {
            self.device.give_back(queue, head.into(), 12 + 60);
        }
    }
}

fn geometry(noise: &mut Noise) -> Geometry {
    Geometry {
        pool_bytes: u64::from((BUFFERS + PLACES + 1) * BUFFER),
        ring_entries: ENTRIES,
        receive_buffers: BUFFERS,
        buffer_bytes: BUFFER,
        headroom_bytes: HEADROOM,
        features: match noise.one_in(4) {
            true => noise.next() as u32,
            false => u32::MAX,
        },
    }
}

/// The pool, between two pages that nobody may write.
struct Fenced {
    whole: Area,
    pool: Area,
    fences: [Area; 2],
}

impl Fenced {
    fn new(bytes: u64) -> Fenced {
        let pages = (bytes as usize).div_ceil(4096);
        let whole = dma::allocate(pages + 2).expect("the arena is large enough");
        let part = |first: usize, pages: usize| {
            let part = whole.part(first * 4096, pages * 4096);
            part.expect("it is a part")
        };
        let fences = [part(0, 1), part(pages + 1, 1)];
        fences.iter().for_each(|fence| fence.write(&[0xa5; 4096]));
        Fenced {
            whole,
            pool: part(1, pages),
            fences,
        }
    }

    /// Gives the memory back, and looks at what lies around it.
    fn end(self) {
        for fence in &self.fences {
            let mut bytes = [0; 4096];
            fence.read(&mut bytes);
            assert!(
                bytes == [0xa5; 4096],
                "nothing outside of the pool is written"
            );
        }
        dma::release(self.whole);
    }
}

/// Plays a device to the network stack through the driver.
fn play<T: VirtioTransport>(device: FakeHandle, transport: T, noise: &mut Noise, sum: &mut Sum) {
    let before = test_memory::taken();
    let geometry = geometry(noise);
    // Pairs of queues share out the buffers; here there may be more than those would do for.
    let buffers = noise.of(&[BUFFERS, 256]);
    let idle = Idle {
        transport,
        settings: Settings::new(4),
    };
    match NetDevice::start(idle, geometry.features, buffers) {
        Ok(net) => serve(net, device, &geometry, noise, sum),
        Err(_) => sum.refused += 1,
    }
    assert_eq!(test_memory::taken(), before, "all memory is given back");
}

/// A device that has started is served until it fails, or has had its turns and gave everything back.
fn serve<T: VirtioTransport>(
    net: NetDevice<T>,
    device: FakeHandle,
    geometry: &Geometry,
    noise: &mut Noise,
    sum: &mut Sum,
) {
    sum.paired += u64::from(net.pairs() > 1);
    let mut player = Player {
        device,
        queues: 2 * net.pairs() as u16,
        held: Vec::new(),
        dirty: false,
    };
    let fenced = Fenced::new(geometry.pool_bytes);
    let memory = Shared::for_rings();
    let rings = Rings::new(memory.clone(), ENTRIES).expect("it fits");
    let Ok(mut card) = Card::new(net, rings, fenced.pool, geometry) else {
        panic!("the geometry is good")
    };
    let mut honest = Honest::new(memory, fenced.pool);
    let served = has_its_turns(&mut card, &mut honest, &mut player, noise)
        && settles(&mut card, &mut honest, &mut player);
    sum.failed += u64::from(!served);
    sum.served += u64::from(served);
    sum.joined += honest.joined;
    let counted = card.statistics();
    check(&counted, &honest);
    add(&mut sum.counted, counted);
    card.detach().stop();
    fenced.end();
}

/// The device does what it likes, and the stack what it may. False where the driver gives the device up.
fn has_its_turns<D: Device, M: SharedMemory + Clone>(
    card: &mut Card<D, M>,
    honest: &mut Honest,
    player: &mut Player,
    noise: &mut Noise,
) -> bool {
    let pool = honest.pool;
    (0..STEPS).all(|_| {
        honest.give(noise.below(6));
        honest.send(noise);
        player.act(noise, &pool);
        if noise.one_in(8) {
            card.interrupted(Interrupt::Line);
        }
        let goes_on = card.run().is_ok();
        honest.take();
        goes_on
    })
}

/// The device lies no more: everything comes back, or the driver finds what was a lie. False then.
fn settles<D: Device, M: SharedMemory + Clone>(
    card: &mut Card<D, M>,
    honest: &mut Honest,
    player: &mut Player,
) -> bool {
    let pool = honest.pool;
    // A packet that never ended ends after as many buffers as a queue has, of which every other round has
    // one.
    for _ in 0..600 {
        player.return_all(&pool);
        let failed = card.run().is_err();
        honest.take();
        if failed {
            assert!(player.dirty, "an honest device does not fail");
            return false;
        }
        if honest.own.len() == BUFFERS as usize && honest.sent.is_empty() {
            return true;
        }
        player.collect();
        honest.give(u64::from(player.held.is_empty()));
    }
    assert!(
        player.dirty,
        "{} buffers are lost",
        BUFFERS as usize - honest.own.len()
    );
    false
}

fn check(counted: &Statistics, honest: &Honest) {
    let reasons = counted.received_short + counted.received_long + counted.received_damaged;
    assert_eq!(counted.received_dropped, reasons);
    assert_eq!(counted.received_packets, honest.packets);
    let reasons = counted.refused_buffers
        + counted.refused_places
        + counted.refused_lengths
        + counted.refused_offloads;
    assert_eq!(counted.refused_descriptors, reasons);
}

fn add(sum: &mut Statistics, counted: Statistics) {
    sum.received_packets += counted.received_packets;
    sum.received_short += counted.received_short;
    sum.received_long += counted.received_long;
    sum.sent_packets += counted.sent_packets;
    sum.refused_lengths += counted.refused_lengths;
    sum.refused_offloads += counted.refused_offloads;
}

#[test]
fn devices_that_lie_cost_themselves() {
    let _alone = one_by_one();
    let mut sum = Sum::default();
    for number in 0..DEVICES {
        let noise = &mut Noise::new(number);
        let device = thought_up(noise);
        if noise.one_in(6) {
            device.state().features |= 1 << 32;
            if let Ok(transport) = MmioTransport::new(device.mmio(), Network) {
                play(device, SlotTransport::Mmio(transport), noise, &mut sum);
            }
        } else if let Some(transport) = on_bus(&device, noise) {
            play(device, transport, noise, &mut sum);
        }
    }
    let counted = sum.counted;
    // Each outcome is met often, or the devices are thought up badly.
    let met = [
        sum.refused,
        sum.failed,
        sum.served,
        sum.paired,
        sum.joined,
        counted.received_packets / 100,
        counted.received_short / 10,
        counted.received_long / 10,
        counted.sent_packets / 100,
        counted.refused_lengths / 10,
        counted.refused_offloads / 10,
    ];
    assert!(met.iter().all(|times| *times > 50), "{met:?}");
}

/// Registers that read as anything.
#[derive(Clone)]
struct Anything(std::rc::Rc<std::cell::RefCell<Noise>>);

impl Anything {
    fn next(&self) -> u32 {
        let mut noise = self.0.borrow_mut();
        // Nothing, and single bits, lead further than others.
        match noise.below(16) {
            0..7 => 0,
            7..13 => 1 << noise.below(13),
            13 => noise.below(300) as u32,
            14 => u32::MAX,
            _ => noise.next() as u32,
        }
    }
}

impl Ports for Anything {
    fn length(&self) -> u16 {
        64
    }
    fn read8(&self, _: u16) -> u8 {
        self.next() as u8
    }
    fn read16(&self, _: u16) -> u16 {
        self.next() as u16
    }
    fn read32(&self, _: u16) -> u32 {
        self.next()
    }
    fn write8(&self, _: u16, _: u8) {}
    fn write16(&self, _: u16, _: u16) {}
    fn write32(&self, _: u16, _: u32) {}
}

impl Registers for Anything {
    fn length(&self) -> usize {
        256
    }
    fn read8(&self, _: usize) -> u8 {
        self.next() as u8
    }
    fn read16(&self, _: usize) -> u16 {
        self.next() as u16
    }
    fn read32(&self, _: usize) -> u32 {
        self.next()
    }
    fn write8(&self, _: usize, _: u8) {}
    fn write16(&self, _: usize, _: u16) {}
    fn write32(&self, _: usize, _: u32) {}
}

/// A transport over these registers.
fn behind(registers: Anything, noise: &mut Noise) -> AnyTransport<Anything, Anything> {
    let mode = noise.of(&[InterruptMode::Line, InterruptMode::Message { vectors: 3 }]);
    match noise.one_in(2) {
        true => AnyTransport::Legacy(LegacyTransport::new(registers, Network, mode)),
        false => {
            let windows = ModernWindows {
                common: registers.clone(),
                notify: registers.clone(),
                notify_multiplier: noise.below(64) as u32,
                isr: registers.clone(),
                device: noise.one_in(2).then_some(registers),
            };
            AnyTransport::Modern(
                ModernTransport::new(windows, Network, mode).expect("the windows are large enough"),
            )
        }
    }
}

#[test]
fn registers_that_read_as_anything_start_nothing_wrong() {
    let _alone = one_by_one();
    test_memory::install();
    let (mut started, mut refused) = (0, 0);
    for number in 0..4 * DEVICES {
        let noise = &mut Noise::new(number);
        let before = test_memory::taken();
        let registers = Anything(std::rc::Rc::new(Noise::new(number).into()));
        let transport = behind(registers, noise);
        let idle = Idle {
            transport,
            settings: Settings::new(4),
        };
        match NetDevice::start(idle, u32::MAX, 256) {
            Ok(mut net) => {
                started += 1;
                // Reads what may be anything by now.
                let _ = (net.mac(), net.mtu(), net.is_link_up());
                net.interrupted(Interrupt::Line);
                let _ = (net.take_link_change(), net.notify());
                net.stop();
            }
            Err(_) => refused += 1,
        }
        assert_eq!(test_memory::taken(), before, "device {number}");
    }
    assert!(started > 50 && refused > 50, "{started} {refused}");
}
