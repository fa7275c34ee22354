//! The packet rings against a fake driver: good, restarted, and hostile.

use std::net::SocketAddr;

use ipc::interface::net_device::{
    FEATURE_SEGMENT_IPV4, FEATURE_SEND_CHECKSUM, FLAG_CHECKSUM_VERIFIED, FLAG_MORE,
    MAX_PACKET_BYTES, RING_RECEIVE_FREE, RING_RECEIVED, RING_TRANSMIT, RING_TRANSMITTED,
    SendOffload,
};
use ipc::ring::{
    Descriptor, FIELDS, PacketConsumer, PacketProducer, SharedMemory, packet_ring_bytes,
};
use netstack::packets::{Packets, Shape};
use netstack::stack::Stack;
use netstack::tcp::Phase;
use netstack::time::SECOND;
use netstack::wire::Wire;

use crate::common::{A, B, CLIENT, Transfer, card, fixed};
use crate::memory::Shared;

const BUFFERS: u32 = 16;

/// The driver's side of the rings, with a card that a test empties and fills.
pub(crate) struct FakeDriver {
    pub(crate) shape: Shape,
    pub(crate) pool: Shared,
    pub(crate) rings: Shared,
    pub(crate) receive_free: PacketConsumer<Shared>,
    pub(crate) received: PacketProducer<Shared>,
    pub(crate) transmit: PacketConsumer<Shared>,
    pub(crate) transmitted: PacketProducer<Shared>,
    /// What was asked of the card for the frame that was sent last.
    pub(crate) last_offload: Option<SendOffload>,
}

impl FakeDriver {
    pub(crate) fn new(shape: Shape, pool: Shared, rings: Shared) -> FakeDriver {
        let at = |position: usize| position * packet_ring_bytes(shape.buffers);
        let entries = shape.buffers;
        FakeDriver {
            shape,
            pool,
            rings: rings.clone(),
            receive_free: PacketConsumer::new(rings.clone(), at(RING_RECEIVE_FREE), entries)
                .expect("fits"),
            received: PacketProducer::new(rings.clone(), at(RING_RECEIVED), entries).expect("fits"),
            transmit: PacketConsumer::new(rings.clone(), at(RING_TRANSMIT), entries).expect("fits"),
            transmitted: PacketProducer::new(rings, at(RING_TRANSMITTED), entries).expect("fits"),
            last_offload: None,
        }
    }

    /// Takes the next frame to send.
    pub(crate) fn sent(&mut self) -> Option<Vec<u8>> {
        let descriptor = self.transmit.pop().expect("whole")?;
        self.last_offload = SendOffload::from_flags(descriptor.flags).expect("sound");
        let mut frame = vec![0; descriptor.length as usize];
        self.pool
            .read(descriptor.offset as usize, &mut frame)
            .expect("in the pool");
        assert_eq!(self.transmitted.push(descriptor), Ok(true));
        Some(frame)
    }

    /// Delivers a frame as a card that joins packets does: in as many buffers as it takes, its checksum
    /// verified. False, and nothing taken, where there are not enough.
    pub(crate) fn deliver_joined(&mut self, frame: &[u8]) -> bool {
        let room = (self.shape.buffer_bytes - 64) as usize;
        let pieces = frame.chunks(room);
        if (self.receive_free.available().expect("whole") as usize) < pieces.len() {
            return false;
        }
        let last = pieces.len() - 1;
        for (index, piece) in pieces.enumerate() {
            let buffer = self.receive_free.pop().expect("whole").expect("counted");
            self.pool
                .write(buffer.offset as usize, piece)
                .expect("in the pool");
            let more = if index < last { FLAG_MORE } else { 0 };
            let verified = if index == 0 {
                FLAG_CHECKSUM_VERIFIED
            } else {
                0
            };
            let descriptor = Descriptor {
                length: piece.len() as u32,
                flags: more | verified,
                ..buffer
            };
            assert_eq!(self.received.push(descriptor), Ok(true));
        }
        true
    }

    /// Delivers a frame, if there is a buffer for it.
    pub(crate) fn deliver(&mut self, frame: &[u8]) -> bool {
        let Some(buffer) = self.receive_free.pop().expect("whole") else {
            return false;
        };
        assert!(frame.len() <= buffer.length as usize);
        self.pool
            .write(buffer.offset as usize, frame)
            .expect("in the pool");
        let descriptor = Descriptor {
            length: frame.len() as u32,
            ..buffer
        };
        self.received.push(descriptor).expect("whole")
    }
}

fn attached() -> (Packets<Shared>, FakeDriver, Shared) {
    attached_with(BUFFERS)
}

fn attached_with(buffers: u32) -> (Packets<Shared>, FakeDriver, Shared) {
    let shape = Shape::new(buffers, 1500);
    let (pool, rings) = (
        Shared::new(shape.pool_bytes()),
        Shared::new(shape.ring_bytes()),
    );
    let packets = Packets::new(shape, pool.clone(), rings.clone()).expect("fits");
    (packets, FakeDriver::new(shape, pool, rings.clone()), rings)
}

#[test]
fn frames_go_through_unchanged_and_no_buffer_is_lost() {
    let (mut packets, mut driver, _) = attached();
    let mut buffer = vec![0; 2048];
    for round in 0..1_000usize {
        let frame: Vec<u8> = (0..60 + round % 1_400)
            .map(|byte| (byte + round) as u8)
            .collect();
        assert!(packets.can_transmit());
        packets.transmit(frame.len(), |space| space.copy_from_slice(&frame));
        assert_eq!(driver.sent().as_ref(), Some(&frame));
        assert!(driver.deliver(&frame));
        let length = packets.receive(&mut buffer).unwrap().length;
        assert_eq!(buffer[..length], frame);
    }
    assert_eq!(packets.receive(&mut buffer), None);
    assert_eq!(
        (packets.leaked(), packets.with_driver().0),
        (0, BUFFERS as usize)
    );
    assert_eq!(packets.counters().sent_packets, 1_000);
}

#[test]
fn a_driver_that_does_not_send_fills_up_and_nothing_is_overwritten() {
    let (mut packets, mut driver, _) = attached();
    for number in 0..BUFFERS + 5 {
        packets.transmit(60, |space| space.fill(number as u8));
    }
    assert!(!packets.can_transmit());
    assert_eq!(packets.counters().sent_dropped, 5);
    for number in 0..BUFFERS {
        assert_eq!(driver.sent(), Some(vec![number as u8; 60]));
    }
    assert!(packets.can_transmit());
}

#[test]
fn doorbells_are_asked_for_only_by_who_sleeps() {
    let (mut packets, mut driver, _) = attached();
    packets.transmit(60, |space| space.fill(1));
    assert!(!packets.must_wake(), "the driver is awake");
    while driver.sent().is_some() {}
    assert_eq!(driver.transmit.sleep(1), Ok(true));
    packets.transmit(60, |space| space.fill(2));
    packets.transmit(60, |space| space.fill(3));
    assert!(packets.must_wake());
    assert!(!packets.must_wake(), "once");
    assert!(packets.sleep(false));
    assert!(driver.sent().is_some());
    assert_eq!(
        driver.transmitted.must_wake(),
        Ok(false),
        "nobody waits for sent frames"
    );
    assert!(driver.deliver(&[9; 60]));
    assert_eq!(driver.received.must_wake(), Ok(true));
    assert!(!packets.sleep(false), "a frame is there");
}

#[test]
fn buffers_go_back_together_and_at_the_latest_before_the_stack_sleeps() {
    let (mut packets, mut driver, _) = attached();
    let mut buffer = vec![0; 2048];
    let left = |driver: &mut FakeDriver| driver.receive_free.available().unwrap();
    (0..4).for_each(|number| assert!(driver.deliver(&[number; 60])));
    assert_eq!(left(&mut driver), BUFFERS - 4);
    for _ in 0..3 {
        assert!(packets.receive(&mut buffer).is_some());
    }
    assert_eq!(driver.received.free(), Ok(BUFFERS - 4), "one is to come");
    assert!(!packets.must_wake(), "the driver is awake");
    assert_eq!(
        (left(&mut driver), driver.received.free()),
        (BUFFERS - 1, Ok(BUFFERS - 1))
    );
    assert!(packets.receive(&mut buffer).is_some());
    assert_eq!(left(&mut driver), BUFFERS - 1);
    assert_eq!(packets.receive(&mut buffer), None);
    assert_eq!(
        (left(&mut driver), driver.received.free()),
        (BUFFERS, Ok(BUFFERS))
    );
    // Who waits for a buffer is woken by the batch.
    assert!(driver.deliver(&[9; 60]));
    assert_eq!(driver.receive_free.sleep(BUFFERS), Ok(true));
    assert!(packets.receive(&mut buffer).is_some());
    assert!(packets.must_wake() && !packets.must_wake(), "once");
}

#[test]
fn a_restarted_driver_finds_every_buffer_and_the_old_ones_are_not_leaked() {
    let (mut packets, mut driver, rings) = attached();
    for round in 0..10 {
        // The driver dies with frames in every place.
        for _ in 0..round {
            packets.transmit(60, |space| space.fill(1));
            let _ = driver.deliver(&[2; 60]);
        }
        let _ = driver.transmit.pop();
        let _ = driver.receive_free.pop();
        packets.reclaim().unwrap();
        driver = FakeDriver::new(driver.shape, driver.pool.clone(), rings.clone());
        assert_eq!(
            (packets.leaked(), packets.with_driver()),
            (0, (BUFFERS as usize, 0))
        );
        assert_eq!(driver.receive_free.available(), Ok(BUFFERS));
        let sendable = (0..).take_while(|_| {
            let can = packets.can_transmit();
            packets.transmit(60, |space| space.fill(3));
            can
        });
        assert_eq!(sendable.count(), BUFFERS as usize);
        while driver.sent().is_some() {}
    }
}

#[test]
fn hostile_descriptors_are_counted_and_cost_nothing_else() {
    let (mut packets, mut driver, _) = attached();
    let mut buffer = vec![0; 9_216];
    let size = driver.shape.buffer_bytes;
    let total = 2 * BUFFERS;
    packets.transmit(60, |space| space.fill(1));
    let held = driver.transmit.pop().unwrap().unwrap();
    let lies = [
        // Out of the pool, and across its end.
        Descriptor {
            offset: total * size,
            length: 60,
            flags: 0,
        },
        Descriptor {
            offset: u32::MAX,
            length: 60,
            flags: 0,
        },
        Descriptor {
            offset: u32::MAX,
            length: u32::MAX,
            flags: u32::MAX,
        },
        // A buffer that is the stack's, and one that the driver holds to send from.
        Descriptor {
            offset: (total - 1) * size,
            length: 60,
            flags: 0,
        },
        Descriptor {
            offset: BUFFERS * size,
            length: 60,
            flags: 0,
        },
        held,
    ];
    for lie in lies {
        assert_eq!(driver.received.push(lie), Ok(true));
        assert_eq!(packets.receive(&mut buffer), None, "{lie:?}");
    }
    assert_eq!(packets.counters().refused_descriptors, lies.len() as u64);
    // Longer than the buffer: refused, but the buffer is back.
    for length in [size, size + 1, u32::MAX] {
        let own = driver.receive_free.pop().unwrap().unwrap();
        assert_eq!(driver.received.push(Descriptor { length, ..own }), Ok(true));
        assert_eq!(packets.receive(&mut buffer), None);
    }
    // Returned twice, and buffers to receive into returned as sent.
    assert_eq!(driver.transmitted.push(held), Ok(true));
    assert_eq!(driver.transmitted.push(held), Ok(true));
    assert_eq!(driver.transmitted.push(Descriptor::default()), Ok(true));
    while packets.can_transmit() {
        packets.transmit(60, |space| space.fill(4));
    }
    assert_eq!(
        packets.counters().refused_descriptors,
        lies.len() as u64 + 3 + 2
    );
    assert_eq!(packets.leaked(), 0);
    assert_eq!(packets.with_driver(), (BUFFERS as usize, BUFFERS as usize));
    assert!(packets.is_usable());
}

#[test]
fn a_broken_ring_is_noticed_and_mended_by_reclaiming() {
    for ring in 0..4 {
        for field in FIELDS {
            for value in [1, 17, 1 << 31, u32::MAX] {
                let (mut packets, _, rings) = attached();
                let word = ring * packet_ring_bytes(BUFFERS) / 4 + field.word;
                rings
                    .word(word)
                    .unwrap()
                    .store(value, std::sync::atomic::Ordering::Relaxed);
                let mut buffer = vec![0; 2048];
                for _ in 0..3 * BUFFERS {
                    let _ = packets.receive(&mut buffer);
                    let _ = packets.can_transmit();
                    packets.transmit(60, |space| space.fill(1));
                    let _ = (packets.must_wake(), packets.sleep(true));
                    packets.wake();
                }
                packets.reclaim().unwrap();
                assert!(packets.is_usable());
                assert_eq!((packets.leaked(), packets.with_driver().1), (0, 0));
                assert!(packets.can_transmit());
            }
        }
    }
}

/// A host with its driver.
struct Host {
    stack: Stack,
    packets: Packets<Shared>,
    driver: FakeDriver,
    rings: Shared,
}

impl Host {
    fn new(address: [u8; 4], other: [u8; 4]) -> Host {
        Host::with(address, other, BUFFERS, 0)
    }

    /// A host with so many buffers and a card of these features.
    fn with(address: [u8; 4], other: [u8; 4], buffers: u32, features: u32) -> Host {
        let (packets, driver, rings) = attached_with(buffers);
        let mut card = card(address[3]);
        card.offloads = packets.shape().offloads(features);
        Host {
            stack: Stack::new(&fixed(address, other), card, SECOND, 5),
            packets,
            driver,
            rings,
        }
    }

    fn restart(&mut self, now: u64) {
        self.packets.reclaim().expect("fits");
        self.driver = FakeDriver::new(
            self.driver.shape,
            self.driver.pool.clone(),
            self.rings.clone(),
        );
        let card = self.stack.card();
        self.stack.card_returned(now, card);
    }
}

#[test]
fn a_transfer_outlives_its_driver_again_and_again() {
    let (mut a, mut b) = (Host::new(A, B), Host::new(B, A));
    let listener = b.stack.listen(CLIENT, None, 80, 4).unwrap();
    let here = a.stack.connect(CLIENT, SocketAddr::from((B, 80))).unwrap();
    let (mut up, mut there, mut restarts) = (Transfer::new(3 << 20), None, 0);
    let mut now = SECOND;
    while up.received < up.length {
        assert!(
            now < 300 * SECOND,
            "stuck at {} after {restarts} restarts",
            up.received
        );
        let busy = a.stack.poll(now, &mut a.packets) | b.stack.poll(now, &mut b.packets);
        there = there.or_else(|| b.stack.tcp().accept(listener));
        up.give(&mut a.stack, here);
        if let Some(there) = there {
            up.take(&mut b.stack, there);
        }
        let mut moved = false;
        while let Some(frame) = a.driver.sent() {
            moved |= b.driver.deliver(&frame);
        }
        while let Some(frame) = b.driver.sent() {
            moved |= a.driver.deliver(&frame);
        }
        if up.received >= (restarts + 1) * (512 << 10) {
            restarts += 1;
            a.restart(now);
        }
        if !busy && !moved {
            let next = a
                .stack
                .deadline(now)
                .into_iter()
                .chain(b.stack.deadline(now))
                .min();
            now = next.unwrap_or(now).max(now + 50_000);
        }
    }
    assert!(restarts >= 5);
    assert_eq!(a.stack.tcp().phase(here), Some(Phase::Open));
    assert_eq!((a.packets.leaked(), b.packets.leaked()), (0, 0));
}

#[test]
fn joined_packets_are_gathered_and_their_buffers_go_back() {
    let (mut packets, mut driver, _) = attached_with(64);
    let mut buffer = vec![0; MAX_PACKET_BYTES];
    for length in [60, 1984, 1985, 4000, 40_000, MAX_PACKET_BYTES] {
        let frame: Vec<u8> = (0..length).map(|index| (index / 7) as u8).collect();
        assert!(driver.deliver_joined(&frame));
        let received = packets.receive(&mut buffer).unwrap();
        assert_eq!(
            (received.length, received.checksum_verified),
            (length, true)
        );
        assert_eq!(buffer[..length], frame);
        assert_eq!((packets.leaked(), packets.with_driver().0), (0, 64));
    }
    assert!(driver.deliver(&[1; 60]));
    let received = packets.receive(&mut buffer).unwrap();
    assert!(!received.checksum_verified, "this one was not");
}

#[test]
fn a_packet_in_pieces_waits_for_the_last_and_a_broken_one_costs_nothing_else() {
    let (mut packets, mut driver, _) = attached_with(64);
    let mut buffer = vec![0; MAX_PACKET_BYTES];
    let piece = |driver: &mut FakeDriver, flags: u32, length: u32| {
        let free = driver.receive_free.pop().unwrap().unwrap();
        let descriptor = Descriptor {
            length,
            flags,
            ..free
        };
        assert_eq!(driver.received.push(descriptor), Ok(true));
    };
    piece(&mut driver, FLAG_MORE, 100);
    assert_eq!(packets.receive(&mut buffer), None);
    assert_eq!((packets.leaked(), packets.with_driver().0), (0, 63));
    piece(&mut driver, 0, 20);
    assert_eq!(packets.receive(&mut buffer).unwrap().length, 120);
    assert_eq!(packets.with_driver().0, 64);
    // Longer than any packet, in bytes and in pieces; then one with a piece that is a lie.
    for (pieces, length) in [(34, 1984), (60, 20)] {
        (0..pieces).for_each(|_| piece(&mut driver, FLAG_MORE, length));
        piece(&mut driver, 0, length);
        assert_eq!(packets.receive(&mut buffer), None);
    }
    piece(&mut driver, FLAG_MORE, 20);
    piece(&mut driver, FLAG_MORE, 9_999);
    piece(&mut driver, 0, 20);
    assert_eq!(packets.receive(&mut buffer), None);
    assert_eq!(packets.counters().broken_packets, 3);
    assert_eq!((packets.leaked(), packets.with_driver().0), (0, 64));
    // The driver dies in the middle of one.
    piece(&mut driver, FLAG_MORE, 20);
    assert_eq!(packets.receive(&mut buffer), None);
    packets.reclaim().unwrap();
    assert_eq!((packets.leaked(), packets.with_driver().0), (0, 64));
    driver = FakeDriver::new(driver.shape, driver.pool.clone(), driver.rings.clone());
    assert!(driver.deliver(&[1; 60]));
    assert_eq!(packets.receive(&mut buffer).unwrap().length, 60);
}

/// Carries what one host sent to the other, whose card finds each segment as long as it was made. Tells
/// how many frames there were, and the length of the longest.
fn carry(from: &mut FakeDriver, to: &mut FakeDriver) -> (usize, usize) {
    let (mut frames, mut longest) = (0, 0);
    while let Some(frame) = from.sent() {
        frames += 1;
        // ARP; the first packet, which had waited for an address and is whole; what else is not TCP.
        let Some(offload) = from.last_offload else {
            assert!(to.deliver(&frame));
            continue;
        };
        let payload = frame.len() - offload.header_bytes();
        assert!(payload <= 1460 || offload.segment.is_some(), "{offload:?}");
        longest = longest.max(frame.len());
        assert!(to.deliver_joined(&frame));
    }
    (frames, longest)
}

#[test]
fn a_card_that_cuts_and_joins_carries_a_stream_in_few_long_packets() {
    let features = FEATURE_SEND_CHECKSUM | FEATURE_SEGMENT_IPV4;
    let (mut a, mut b) = (
        Host::with(A, B, 256, features),
        Host::with(B, A, 256, features),
    );
    let listener = b.stack.listen(CLIENT, None, 80, 4).unwrap();
    let here = a.stack.connect(CLIENT, SocketAddr::from((B, 80))).unwrap();
    let (mut up, mut there) = (Transfer::new(3 << 20), None);
    let (mut now, mut longest, mut frames) = (SECOND, 0, 0);
    while up.received < up.length {
        assert!(now < 300 * SECOND, "stuck at {}", up.received);
        let busy = a.stack.poll(now, &mut a.packets) | b.stack.poll(now, &mut b.packets);
        there = there.or_else(|| b.stack.tcp().accept(listener));
        up.give(&mut a.stack, here);
        if let Some(there) = there {
            up.take(&mut b.stack, there);
        }
        let there_and_back = [
            carry(&mut a.driver, &mut b.driver),
            carry(&mut b.driver, &mut a.driver),
        ];
        let moved = there_and_back.iter().any(|carried| carried.0 > 0);
        for (count, length) in there_and_back {
            frames += count;
            longest = longest.max(length);
        }
        if !busy && !moved {
            let deadlines = [a.stack.deadline(now), b.stack.deadline(now)];
            let next = deadlines.into_iter().flatten().min();
            now = next.unwrap_or(now).max(now + 50_000);
        }
    }
    assert!(longest > 30_000 && frames < 500, "{longest} {frames}");
    assert_eq!((a.packets.leaked(), b.packets.leaked()), (0, 0));
}
