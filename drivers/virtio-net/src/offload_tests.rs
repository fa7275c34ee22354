//! What the device does for the network stack: checksums, cutting and joining TCP segments. With an
//! honest device, and with one that lies about packets of several buffers.

use core::num::NonZeroU16;

use ipc::interface::net_device::{
    FEATURE_JOINED_RECEIVE, FEATURE_RECEIVE_CHECKSUM, FEATURE_SEGMENT_IPV4, FEATURE_SEGMENT_IPV6,
    FEATURE_SEND_CHECKSUM, FLAG_CHECKSUM_VERIFIED, FLAG_MORE, Geometry, MAX_PACKET_BYTES,
    SendOffload, Statistics, Transport,
};
use ipc::ring::Descriptor;
use net_driver::CardError;
use net_driver::bench::{BUFFER_BYTES, BUFFERS, ENTRIES, GEOMETRY, HEADROOM};
use pci_function::InterruptMode;
use virtio::fake::{FakeBuffer, FakeDevice, FakeHandle};
use virtio::{LegacyTransport, ModernTransport, VirtioError, VirtioTransport, feature};
use virtio_drivers::transport::DeviceType::Network;

use crate::bench::{Bench, attach};
use crate::negotiation::net_feature::{
    CSUM, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6, MRG_RXBUF,
};

/// Everything that a network stack can ask for, but for the link.
const ALL: u32 = FEATURE_SEND_CHECKSUM
    | FEATURE_RECEIVE_CHECKSUM
    | FEATURE_SEGMENT_IPV4
    | FEATURE_SEGMENT_IPV6
    | FEATURE_JOINED_RECEIVE;
/// What a device has for that.
const OFFLOADS: u64 = CSUM | GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | HOST_TSO4 | HOST_TSO6;
/// Entries of the receive queue, which has room for the longest packet.
const SIZE: u16 = 64;
/// Bytes of the first buffer of a packet, and of each that follows.
const ROOM: usize = (BUFFER_BYTES - HEADROOM) as usize;
/// Bytes of the device's header.
const HEADER: usize = 12;

const TCP: SendOffload = SendOffload {
    transport: Transport::Tcp,
    ipv6: false,
    network_bytes: 20,
    transport_bytes: 20,
    segment: None,
};

fn geometry(features: u32) -> Geometry {
    Geometry {
        features,
        ..GEOMETRY
    }
}

/// A modern device with all offloads, and the stack's wishes.
fn modern(features: u32) -> Bench<impl VirtioTransport> {
    let device = FakeDevice::modern(OFFLOADS | MRG_RXBUF | feature::EVENT_INDEX, &[SIZE, 16]);
    let transport = ModernTransport::new(device.windows(), Network, InterruptMode::Line).unwrap();
    attach(device, transport, &geometry(features))
}

/// A legacy device with these features.
fn legacy(features: u64) -> Bench<impl VirtioTransport> {
    let device = FakeDevice::legacy(features, &[SIZE, 16]);
    let transport = LegacyTransport::new(device.clone(), Network, InterruptMode::Line);
    attach(device, transport, &geometry(ALL))
}

fn contents(buffer: &FakeBuffer) -> Vec<u8> {
    let mut all = Vec::new();
    for (area, _) in &buffer.segments {
        let mut bytes = vec![0; area.length()];
        area.read(&mut bytes);
        all.extend(bytes);
    }
    all
}

/// The device writes these bytes to the start of a buffer.
fn fill(buffer: &FakeBuffer, bytes: &[u8]) {
    let mut rest = bytes;
    for (area, writable) in &buffer.segments {
        assert!(writable);
        let (now, later) = rest.split_at(rest.len().min(area.length()));
        area.write(now);
        rest = later;
    }
    assert!(rest.is_empty(), "it fits");
}

/// A header that says this.
fn header(flags: u8, buffers: u16) -> Vec<u8> {
    let [low, high] = buffers.to_le_bytes();
    vec![flags, 0, 0, 0, 0, 0, 0, 0, 0, 0, low, high]
}

/// The device receives a packet into as many buffers as it needs, and says that it has this many.
fn arrive(device: &FakeHandle, flags: u8, packet: &[u8], buffers: u16) {
    let all = [header(flags, buffers), packet.to_vec()].concat();
    for bytes in all.chunks(HEADER + ROOM) {
        let buffer = device.take(0).expect("the device has a buffer");
        fill(&buffer, bytes);
        device.give_back(0, buffer.head.into(), bytes.len() as u32);
    }
}

fn counters(bench: &Bench<impl VirtioTransport>) -> Statistics {
    bench.card.statistics()
}

/// A packet as the stack takes it out of the ring: its bytes and flags, and its buffers go back.
fn packet<T: VirtioTransport>(bench: &mut Bench<T>) -> Option<(Vec<u8>, u32)> {
    let mut bytes = Vec::new();
    let mut flags = None;
    while let Some(part) = bench.stack.received.pop().unwrap() {
        bytes.extend(bench.bytes(part));
        let buffer = part.offset / BUFFER_BYTES;
        bench.stack.give(buffer..buffer + 1);
        flags = flags.or(Some(part.flags & !FLAG_MORE));
        if part.flags & FLAG_MORE == 0 {
            return flags.map(|flags| (bytes, flags));
        }
    }
    assert!(bytes.is_empty(), "a packet is whole");
    None
}

fn noise(length: usize, seed: usize) -> Vec<u8> {
    (0..length)
        .map(|at| (at * 31 + at / 251 + seed) as u8)
        .collect()
}

#[test]
fn wishes_reach_the_device_before_the_packet() {
    let mut bench = modern(ALL);
    let segmented = SendOffload {
        segment: NonZeroU16::new(1460),
        ..TCP
    };
    let wishes = [
        (None, 60, [0; 12]),
        (Some(TCP), 1514, [1, 0, 0, 0, 0, 0, 34, 0, 16, 0, 0, 0]),
        (
            Some(segmented),
            MAX_PACKET_BYTES as u32,
            [1, 1, 54, 0, 0xb4, 5, 34, 0, 16, 0, 0, 0],
        ),
    ];
    for (offload, length, expected) in wishes {
        let flags = offload.map_or(0, SendOffload::flags);
        let sent = bench.stack.send_with(3, length, flags);
        let content = noise(length as usize, 0);
        let area = bench.pool.part(sent.offset as usize, content.len());
        area.unwrap().write(&content);
        bench.run();
        let buffer = bench.device.take(1).unwrap();
        assert_eq!(contents(&buffer), [expected.to_vec(), content].concat());
        bench.device.give_back(1, buffer.head.into(), 0);
        bench.run();
        assert_eq!(bench.stack.transmitted.pop(), Ok(Some(sent)), "as it went");
    }
    bench.end();
}

#[test]
fn what_was_not_agreed_on_is_refused_and_comes_back() {
    let segment = NonZeroU16::new(1000);
    let cut = SendOffload { segment, ..TCP };
    let cut_ipv6 = SendOffload {
        ipv6: true,
        network_bytes: 40,
        ..cut
    };
    let (checksum, ipv4, ipv6) = (
        FEATURE_SEND_CHECKSUM,
        FEATURE_SEGMENT_IPV4,
        FEATURE_SEGMENT_IPV6,
    );
    let cases = [
        (0, TCP, false),
        (checksum, TCP, true),
        (checksum, cut, false),
        (ipv4, cut, false),
        (checksum | ipv4, cut, true),
        (checksum | ipv4, cut_ipv6, false),
        (checksum | ipv6, cut_ipv6, true),
        (checksum | ipv6, cut, false),
        (ALL, cut, true),
    ];
    for (features, offload, good) in cases {
        let mut bench = modern(features);
        let sent = bench.stack.send_with(1, 2000, offload.flags());
        bench.run();
        assert_eq!(
            bench.device.take(1).is_some(),
            good,
            "{features} {offload:?}"
        );
        assert_eq!(counters(&bench).refused_offloads, u64::from(!good));
        let back = bench.stack.transmitted.pop();
        assert_eq!(back, Ok((!good).then_some(sent)));
        bench.end();
    }
}

#[test]
fn flags_and_lengths_that_mean_nothing_are_refused_and_come_back() {
    let mut bench = modern(ALL);
    let cut = SendOffload {
        segment: NonZeroU16::new(1000),
        ..TCP
    };
    let long = MAX_PACKET_BYTES as u32 + 1;
    // Headers alone, of a packet that is to be cut; headers that are not there; too much.
    for (flags, length) in [(cut, 54), (TCP, 53), (cut, long), (TCP, long)] {
        let sent = bench.stack.send_with(1, length, flags.flags());
        bench.run();
        assert_eq!(bench.stack.transmitted.pop(), Ok(Some(sent)));
    }
    assert_eq!(counters(&bench).refused_lengths, 4);
    for flags in [8, 0xffff_0000, TCP.flags() & !1, u32::MAX] {
        let sent = bench.stack.send_with(1, 60, flags);
        bench.run();
        assert_eq!(bench.stack.transmitted.pop(), Ok(Some(sent)));
    }
    assert_eq!(counters(&bench).refused_offloads, 4);
    assert_eq!(counters(&bench).refused_descriptors, 8);
    assert!(bench.device.take(1).is_none(), "none was sent");
    bench.end();
}

#[test]
fn joined_packets_come_in_as_many_buffers_as_they_need() {
    let mut bench = modern(ALL);
    bench.stack.give(0..48);
    for (round, length) in [
        60,
        1514,
        ROOM,
        ROOM + 1,
        ROOM + 1500,
        30_000,
        MAX_PACKET_BYTES,
    ]
    .into_iter()
    .cycle()
    .take(700)
    .enumerate()
    {
        bench.run();
        let content = noise(length, round);
        let buffers = (HEADER + length).div_ceil(HEADER + ROOM) as u16;
        arrive(&bench.device, 2 * (round % 2) as u8, &content, buffers);
        bench.run();
        let flags = (round % 2) as u32 * FLAG_CHECKSUM_VERIFIED;
        assert!(
            packet(&mut bench) == Some((content, flags)),
            "round {round}"
        );
    }
    assert_eq!(counters(&bench).received_packets, 700);
    assert_eq!(counters(&bench).received_dropped, 0);
    bench.end();
}

#[test]
fn a_legacy_device_joins_packets_too() {
    let bytes = noise(5000, 1);
    for layout in [0, feature::ANY_LAYOUT] {
        let mut bench = legacy(OFFLOADS | MRG_RXBUF | layout);
        bench.stack.give(0..8);
        bench.run();
        arrive(&bench.device, 1 << 1, &bytes, 3);
        bench.run();
        let expected = (bytes.clone(), FLAG_CHECKSUM_VERIFIED);
        assert!(packet(&mut bench) == Some(expected));
        bench.end();
    }
}

#[test]
fn without_mergeable_buffers_or_room_for_them_nothing_is_joined() {
    let bench = legacy(OFFLOADS);
    let accepted = bench.device.state().accepted;
    assert_eq!(accepted, CSUM | GUEST_CSUM | HOST_TSO4 | HOST_TSO6);
    bench.end();
    // A queue of 32 has no room for the longest packet.
    let device = FakeDevice::modern(OFFLOADS | MRG_RXBUF, &[32, 16]);
    let transport = ModernTransport::new(device.windows(), Network, InterruptMode::Line).unwrap();
    let bench = attach(device.clone(), transport, &geometry(ALL));
    let accepted = device.state().accepted;
    assert_eq!(accepted & (MRG_RXBUF | GUEST_TSO4 | GUEST_TSO6), 0);
    bench.end();
}

#[test]
fn the_short_header_tells_of_checksums_too() {
    for layout in [0, feature::ANY_LAYOUT] {
        let mut bench = legacy(OFFLOADS | layout);
        bench.stack.give(0..2);
        bench.run();
        let buffer = bench.device.take(0).unwrap();
        let content = noise(100, 3);
        fill(&buffer, &[&header(2, 0)[..10], &content].concat());
        bench.device.give_back(0, buffer.head.into(), 110);
        bench.run();
        let expected = (content, FLAG_CHECKSUM_VERIFIED);
        assert_eq!(packet(&mut bench), Some(expected));
        bench.end();
    }
}

#[test]
fn a_checksum_that_was_not_asked_about_is_not_believed() {
    let mut bench = modern(FEATURE_SEND_CHECKSUM);
    bench.stack.give(0..2);
    bench.run();
    arrive(&bench.device, 3, &[0; 60], 0);
    bench.run();
    assert_eq!(packet(&mut bench), Some((vec![0; 60], 0)));
    bench.end();
}

#[test]
fn a_number_of_buffers_that_cannot_be_is_an_error_of_the_device() {
    for buffers in [0, SIZE + 1, u16::MAX] {
        let mut bench = modern(ALL);
        bench.stack.give(0..2);
        bench.run();
        arrive(&bench.device, 0, &[0; 60], buffers);
        let expected = Err(CardError::Device(VirtioError::BadHeader));
        assert_eq!(bench.card.run(), expected, "{buffers}");
        bench.end();
    }
}

#[test]
fn a_packet_comes_whole_also_when_the_device_returns_it_bit_by_bit() {
    let mut bench = modern(ALL);
    bench.stack.give(0..8);
    bench.run();
    let content = noise(3 * ROOM, 0);
    let all = [header(0, 4), content.clone()].concat();
    for bytes in all.chunks(HEADER + ROOM) {
        let buffer = bench.device.take(0).unwrap();
        fill(&buffer, bytes);
        assert_eq!(bench.stack.received.pop(), Ok(None), "it is not whole");
        bench
            .device
            .give_back(0, buffer.head.into(), bytes.len() as u32);
        bench.run();
    }
    // The four buffers that the header speaks of are three: the next packet's is taken for the last.
    assert_eq!(bench.stack.received.pop(), Ok(None));
    arrive(&bench.device, 0, &[7; 60], 1);
    bench.run();
    let tail = [header(0, 1), vec![7; 60]].concat();
    assert!(packet(&mut bench) == Some(([content, tail].concat(), 0)));
    bench.end();
}

#[test]
fn a_packet_that_is_too_long_or_lies_about_a_part_is_dropped_whole() {
    // By the part that is wrong, and what the device says of its length.
    let lies = [(0, 5), (0, u32::MAX), (1, 0), (1, 1 << 20), (2, 0)];
    for (wrong, length) in lies {
        let mut bench = modern(ALL);
        bench.stack.give(0..8);
        bench.run();
        for part in 0..3 {
            let buffer = bench.device.take(0).unwrap();
            fill(&buffer, &header(0, 3));
            let honest = (HEADER + ROOM) as u32;
            let length = if part == wrong { length } else { honest };
            bench.device.give_back(0, buffer.head.into(), length);
        }
        bench.run();
        // A first part without its header says nothing of those that follow.
        let follow = u64::from(length == 5);
        let counted = counters(&bench);
        assert_eq!(counted.received_dropped, 1, "{wrong} {length}");
        assert_eq!(counted.received_short + counted.received_long, 1);
        assert_eq!(counted.received_packets, 0);
        if follow == 0 {
            arrive(&bench.device, 0, &[9; 60], 1);
            bench.run();
            assert_eq!(
                packet(&mut bench),
                Some((vec![9; 60], 0)),
                "the next is whole"
            );
            bench.run();
            let held = (0..8).filter(|_| bench.device.take(0).is_some()).count();
            assert_eq!(held, 8, "no buffer is lost");
        }
        bench.end();
    }
}

#[test]
fn a_packet_longer_than_any_is_dropped_whole() {
    let mut bench = modern(ALL);
    bench.stack.give(0..48);
    bench.run();
    let content = noise(MAX_PACKET_BYTES + 1, 0);
    let buffers = (HEADER + content.len()).div_ceil(HEADER + ROOM) as u16;
    arrive(&bench.device, 0, &content, buffers);
    bench.run();
    assert_eq!(packet(&mut bench), None);
    let counted = counters(&bench);
    assert_eq!((counted.received_dropped, counted.received_long), (1, 1));
    arrive(&bench.device, 0, &[9; 60], 1);
    bench.run();
    assert_eq!(packet(&mut bench), Some((vec![9; 60], 0)));
    bench.end();
}

#[test]
fn a_joined_packet_waits_for_room_and_holds_the_next_back() {
    let mut bench = modern(ALL);
    bench.stack.give(0..60);
    bench.run();
    // 63 of 64 entries are taken.
    for round in 0..63u8 {
        arrive(&bench.device, 0, &[round; 60], 1);
        bench.run();
        let next = 60 + u32::from(round % 36);
        if round < 36 {
            bench.stack.give(next..next + 1);
        }
    }
    bench.run();
    arrive(&bench.device, 0, &noise(2 * ROOM + 100, 5), 3);
    arrive(&bench.device, 0, &[99; 60], 1);
    bench.run();
    for round in 0..63u8 {
        assert_eq!(packet(&mut bench), Some((vec![round; 60], 0)));
        if round == 0 {
            bench.run();
            let next = bench.stack.received.available();
            assert_eq!(next, Ok(62), "two places are not enough");
            assert!(!bench.stack.received.must_wake().unwrap());
        }
    }
    assert!(
        bench.stack.received.must_wake().unwrap(),
        "it waits for that"
    );
    bench.run();
    assert!(packet(&mut bench) == Some((noise(2 * ROOM + 100, 5), 0)));
    assert_eq!(packet(&mut bench), Some((vec![99; 60], 0)));
    bench.end();
}

#[test]
fn packets_to_send_may_lie_anywhere_behind_the_receive_buffers() {
    let mut bench = modern(ALL);
    let first = BUFFERS * BUFFER_BYTES + HEADROOM;
    let end = GEOMETRY.pool_bytes as u32;
    let long = BUFFERS * BUFFER_BYTES - HEADROOM;
    let segment = NonZeroU16::new(1000);
    let cut = SendOffload { segment, ..TCP }.flags();
    let places = [
        (first, 60, 0),
        (first + 1, 61, 0),
        (first + BUFFER_BYTES - 7, 3000, 0),
        (end - 14, 14, 0),
        (end - 60_001, 60_001, cut),
        (first, long.min(MAX_PACKET_BYTES as u32), cut),
    ];
    for (offset, length, flags) in places {
        let packet = Descriptor {
            offset,
            length,
            flags,
        };
        assert!(bench.stack.transmit.push(packet).unwrap());
        bench.run();
        let buffer = bench.device.take(1).expect("it is sent");
        let start = buffer.segments[0].0.physical() - bench.pool.physical();
        assert_eq!(start, u64::from(offset) - HEADER as u64);
        bench.device.give_back(1, buffer.head.into(), 0);
        bench.run();
        assert_eq!(bench.stack.transmitted.pop(), Ok(Some(packet)));
    }
    assert!(ENTRIES as usize > places.len());
    bench.end();
}
