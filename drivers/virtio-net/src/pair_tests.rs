//! Several pairs of queues: how many are agreed on, and which pair a packet goes through.

use ipc::interface::net_device::{
    FEATURE_JOINED_RECEIVE, FEATURE_RECEIVE_CHECKSUM, FEATURE_SEND_CHECKSUM, FLAG_MORE, Geometry,
    SendOffload, Transport,
};
use net_driver::bench::{BUFFER_BYTES, GEOMETRY, HEADROOM};
use pci_function::InterruptMode;
use virtio::fake::{FakeControl, FakeDevice, FakeHandle};
use virtio::{LegacyTransport, ModernTransport, VirtioTransport, feature};
use virtio_drivers::transport::DeviceType::Network;

use crate::bench::{Bench, attach};
use crate::negotiation::net_feature::{CSUM, CTRL_VQ, GUEST_CSUM, GUEST_TSO4, MQ, MRG_RXBUF};

/// Bytes of the device's header.
const HEADER: usize = 12;
/// What the device has.
const FEATURES: u64 =
    MQ | CTRL_VQ | CSUM | GUEST_CSUM | GUEST_TSO4 | MRG_RXBUF | feature::EVENT_INDEX;
/// What the network stack asks for.
const WISHES: Geometry = Geometry {
    features: FEATURE_SEND_CHECKSUM | FEATURE_RECEIVE_CHECKSUM | FEATURE_JOINED_RECEIVE,
    ..GEOMETRY
};

/// The configuration of a device with so many pairs.
fn configuration(pairs: u16) -> Vec<u8> {
    let [low, high] = pairs.to_le_bytes();
    vec![0, 0, 0, 0, 0, 0, 0, 0, low, high, 0, 0]
}

/// A modern device that says it has so many pairs, and has this many queues.
fn device(pairs: u16, queues: usize, control: FakeControl) -> FakeHandle {
    let device = FakeDevice::modern(FEATURES, &vec![64; queues]);
    device.state().configuration = configuration(pairs);
    device.state().control = control;
    device
}

fn modern(device: FakeHandle) -> Bench<impl VirtioTransport> {
    let transport = ModernTransport::new(device.windows(), Network, InterruptMode::Line).unwrap();
    attach(device, transport, &WISHES)
}

/// The device has received this through the pair's queue, into as many buffers as it takes.
fn arrive(device: &FakeHandle, pair: u16, packet: &[u8], buffers: u8) -> bool {
    let head = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, buffers, 0];
    let bytes = [&head[..], packet].concat();
    let mut interrupts = false;
    for part in bytes.chunks(HEADER + (BUFFER_BYTES - HEADROOM) as usize) {
        let buffer = device.take(2 * pair).expect("the pair has a buffer");
        buffer.segments[0].0.write(part);
        interrupts |= device.give_back(2 * pair, buffer.head.into(), part.len() as u32);
    }
    interrupts
}

/// A packet goes out and another comes in, through the first pair.
fn works<T: VirtioTransport>(bench: &mut Bench<T>) {
    bench.stack.give(0..8);
    bench.stack.send(0, 60);
    bench.run();
    let sent = bench.device.take(1).expect("it is sent");
    bench.device.give_back(1, sent.head.into(), 0);
    arrive(&bench.device, 0, &[7; 60], 1);
    bench.run();
    assert!(bench.stack.transmitted.pop().unwrap().is_some());
    let got = bench.stack.received.pop().unwrap().unwrap();
    assert_eq!(bench.bytes(got), [7; 60]);
}

#[test]
fn there_are_as_many_pairs_as_device_and_processors_have() {
    // The processors are 4.
    for (offered, used) in [(2, 2), (3, 3), (4, 4), (8, 4)] {
        let control = FakeControl::Obeys(2 * offered);
        let device = device(offered, usize::from(offered) * 2 + 1, control);
        let mut bench = modern(device.clone());
        assert_eq!(bench.card.device().pairs(), used);
        assert_eq!(device.state().pairs, Some(used as u16));
        works(&mut bench);
        bench.end();
    }
}

#[test]
fn a_legacy_device_has_several_pairs_too() {
    for layout in [0, feature::ANY_LAYOUT] {
        let device = FakeDevice::legacy(FEATURES | layout, &[64; 5]);
        device.state().configuration = configuration(2);
        device.state().control = FakeControl::Obeys(4);
        let transport = LegacyTransport::new(device.clone(), Network, InterruptMode::Line);
        let bench = attach(device.clone(), transport, &WISHES);
        assert_eq!(device.state().pairs, Some(2));
        bench.end();
    }
}

#[test]
fn what_a_device_cannot_mean_leaves_one_pair() {
    for pairs in [0, 1, 513, 0x8000, u16::MAX] {
        let mut bench = modern(device(pairs, 3, FakeControl::None));
        assert_eq!(bench.card.device().pairs(), 1, "{pairs}");
        works(&mut bench);
        bench.end();
    }
    // Without its control queue it cannot be told.
    let device = device(2, 5, FakeControl::Obeys(4));
    device.state().features &= !CTRL_VQ;
    let mut bench = modern(device.clone());
    assert_eq!(device.state().accepted & (MQ | CTRL_VQ), 0);
    works(&mut bench);
    bench.end();
}

#[test]
fn a_device_that_does_not_obey_is_started_again_with_one_pair() {
    let lies = [
        (5, FakeControl::None),
        (5, FakeControl::Refuses(4)),
        (5, FakeControl::Lies(4)),
        // A queue of those that it says it has is missing.
        (4, FakeControl::Obeys(4)),
        (3, FakeControl::Obeys(4)),
    ];
    for (queues, control) in lies {
        let device = device(2, queues, control);
        let mut bench = modern(device.clone());
        assert_eq!(bench.card.device().pairs(), 1, "{queues} {control:?}");
        assert_eq!(device.state().pairs, None);
        assert_eq!(device.state().accepted & (MQ | CTRL_VQ), 0);
        works(&mut bench);
        bench.end();
    }
}

#[test]
fn few_buffers_are_not_shared_out() {
    let device = device(2, 5, FakeControl::Obeys(4));
    let transport = ModernTransport::new(device.windows(), Network, InterruptMode::Line).unwrap();
    let geometry = Geometry {
        receive_buffers: 127,
        ..WISHES
    };
    let mut bench = attach(device, transport, &geometry);
    assert_eq!(bench.card.device().pairs(), 1);
    bench.end();
}

#[test]
fn every_pair_is_served_and_gets_its_buffers() {
    let mut bench = modern(device(4, 9, FakeControl::Obeys(8)));
    bench.stack.give(0..16);
    bench.run();
    for round in 0..400u16 {
        for pair in 0..4u16 {
            let content = [round.to_le_bytes(), pair.to_le_bytes()]
                .concat()
                .repeat(20);
            let interrupts = arrive(&bench.device, pair, &content, 1);
            assert!(interrupts, "each queue asks, round {round}");
        }
        bench.run();
        let mut seen = [false; 4];
        for _ in 0..4 {
            let got = bench.stack.received.pop().unwrap().unwrap();
            let bytes = bench.bytes(got);
            assert_eq!(bytes[..2], round.to_le_bytes());
            seen[usize::from(bytes[2])] = true;
            let buffer = got.offset / BUFFER_BYTES;
            bench.stack.give(buffer..buffer + 1);
        }
        assert_eq!(seen, [true; 4]);
        bench.run();
    }
    let held: Vec<usize> = (0..4)
        .map(|pair| {
            (0..16)
                .filter(|_| bench.device.take(2 * pair).is_some())
                .count()
        })
        .collect();
    assert_eq!(held, [4; 4], "the buffers are spread");
    bench.end();
}

#[test]
fn a_joined_packet_comes_from_one_pair_whatever_the_others_have() {
    let mut bench = modern(device(2, 5, FakeControl::Obeys(4)));
    bench.stack.give(0..16);
    bench.run();
    let long: Vec<u8> = (0..5000u32).map(|at| at as u8).collect();
    for _ in 0..2 {
        arrive(&bench.device, 1, &long, 3);
        arrive(&bench.device, 0, &[5; 60], 1);
    }
    bench.run();
    let mut packets = Vec::new();
    let mut bytes = Vec::new();
    while let Some(part) = bench.stack.received.pop().unwrap() {
        bytes.extend(bench.bytes(part));
        if part.flags & FLAG_MORE == 0 {
            packets.push(core::mem::take(&mut bytes));
        }
    }
    packets.sort_by_key(Vec::len);
    let expected = [vec![5; 60], vec![5; 60], long.clone(), long];
    assert!(packets == expected);
    bench.end();
}

#[test]
fn a_connection_keeps_to_its_pair_and_connections_spread() {
    let mut bench = modern(device(4, 9, FakeControl::Obeys(8)));
    let offload = SendOffload {
        transport: Transport::Tcp,
        ipv6: false,
        network_bytes: 20,
        transport_bytes: 20,
        segment: None,
    };
    let mut taken_by = [0; 4];
    for port in 0..64u16 {
        let mut pairs = Vec::new();
        for _ in 0..3 {
            let sent = bench.stack.send_with(0, 60, offload.flags());
            let ports = bench.pool.part(sent.offset as usize + 34, 4).unwrap();
            ports.write(&[&80u16.to_be_bytes()[..], &(40_000 + port).to_be_bytes()].concat());
            bench.run();
            for pair in 0..4u16 {
                if let Some(buffer) = bench.device.take(2 * pair + 1) {
                    bench.device.give_back(2 * pair + 1, buffer.head.into(), 0);
                    pairs.push(usize::from(pair));
                }
            }
            bench.run();
            assert_eq!(bench.stack.transmitted.pop(), Ok(Some(sent)));
        }
        assert!(pairs.len() == 3 && pairs.iter().all(|pair| *pair == pairs[0]));
        taken_by[pairs[0]] += 1;
    }
    assert!(taken_by.iter().all(|count| *count >= 8), "{taken_by:?}");
    bench.end();
}

#[test]
fn full_pairs_ask_for_interrupts() {
    let mut bench = modern(device(2, 5, FakeControl::Obeys(4)));
    // All without a connection: through the first pair, which has 64 places.
    for round in 0..2 {
        for place in 0..40 {
            bench.stack.send(place + 40 * round, 60);
        }
        bench.run();
    }
    let interrupts = (0..64).filter(|_| {
        let buffer = bench.device.take(1).expect("64 are there");
        bench.device.give_back(1, buffer.head.into(), 0)
    });
    assert_eq!(interrupts.count(), 1, "once, in the middle");
    bench.run();
    while bench.stack.transmitted.pop().unwrap().is_some() {}
    bench.run();
    assert!(bench.device.take(1).is_some(), "the rest follows");
    bench.end();
}
