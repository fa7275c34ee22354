//! Every pair of what a device can be and have, each feature there, missing or switched off: packets flow
//! both ways, with what was agreed on and with nothing else.

use core::num::NonZeroU16;

use ipc::interface::net_device::{
    FEATURE_JOINED_RECEIVE, FEATURE_LINK_STATE, FEATURE_RECEIVE_CHECKSUM, FEATURE_SEGMENT_IPV4,
    FEATURE_SEGMENT_IPV6, FEATURE_SEND_CHECKSUM, FLAG_CHECKSUM_VERIFIED, FLAG_MORE, Geometry,
    SendOffload, Transport,
};
use net_driver::Device;
use net_driver::bench::{BUFFER_BYTES, GEOMETRY};
use pci_function::InterruptMode;
use virtio::fake::{FakeControl, FakeDevice, FakeHandle, FakeMmio};
use virtio::feature::VERSION_1;
use virtio::{AnyTransport, LegacyTransport, MmioTransport, ModernTransport, VirtioTransport};
use virtio_drivers::transport::DeviceType::Network;

use crate::bench::{Bench, attach_as};
use crate::settings::{Settings, words};

/// The transports.
const TRANSPORTS: usize = 3;
/// How a device interrupts: by its line, with a vector for all, with two, with three.
const INTERRUPTS: usize = 4;
/// What is with a feature.
const THERE: usize = 0;
const MISSING: usize = 1;
const STATES: usize = 3;
/// Sizes of queues: QEMU's, what its option makes of it, and the largest.
const SIZES: [u16; 3] = [256, 1024, 4096];
/// The words for features, but for those that name several.
const FEATURES: [&str; 12] = [
    "csum",
    "guest_csum",
    "host_tso4",
    "host_tso6",
    "guest_tso4",
    "guest_tso6",
    "mrg_rxbuf",
    "mq",
    "status",
    "mtu",
    "event_idx",
    "any_layout",
];
/// Transport, interrupts, size, features.
const AXES: usize = 3 + FEATURES.len();

type Row = [usize; AXES];

fn values(axis: usize) -> usize {
    match axis {
        0 => TRANSPORTS,
        1 => INTERRUPTS,
        2 => SIZES.len(),
        _ => STATES,
    }
}

/// The bits of a feature's word.
fn bits(word: &str) -> u64 {
    let mut settings = Settings::new(1);
    settings.switch_off(word, |word| panic!("{word} is unknown"));
    settings.off
}

/// Rows in which each pair of values of two axes is met: numbers that look random, until it is.
fn rows() -> Vec<Row> {
    let mut noise = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = |end: usize| {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        (noise % end as u64) as usize
    };
    let mut missing = std::collections::BTreeSet::new();
    for one in 0..AXES {
        for other in one + 1..AXES {
            for pair in 0..values(one) * values(other) {
                missing.insert((one, pair / values(other), other, pair % values(other)));
            }
        }
    }
    let mut rows = Vec::new();
    while let Some((one, value, other, another)) = missing.first().copied() {
        let mut row: Row = core::array::from_fn(|axis| next(values(axis)));
        (row[one], row[other]) = (value, another);
        missing.retain(|(a, x, b, y)| row[*a] != *x || row[*b] != *y);
        rows.push(row);
    }
    rows
}

/// The device of a row, and how it may be used.
fn device(row: &Row) -> (FakeHandle, Settings) {
    let (mut features, mut settings) = (1 << 5, Settings::new(4));
    for (word, state) in FEATURES.iter().zip(&row[3..]) {
        match *state {
            THERE => features |= bits(word),
            MISSING => {}
            _ => {
                features |= bits(word);
                settings.switch_off(word, |_| {});
            }
        }
    }
    let sizes = [SIZES[row[2]]; 5];
    let device = match row[0] {
        0 => FakeDevice::legacy(features, &sizes),
        _ => FakeDevice::modern(features, &sizes),
    };
    let mut state = device.state();
    state.msix = row[1] > 0 && row[0] != 2;
    state.control = FakeControl::Obeys(4);
    // Address, link up, two pairs of queues, 1,460 bytes.
    state.configuration = vec![2, 0, 0, 0, 0, 9, 1, 0, 2, 0, 0xb4, 5];
    drop(state);
    (device, settings)
}

fn interrupts(row: &Row) -> InterruptMode {
    match row[1] as u16 {
        0 => InterruptMode::Line,
        vectors => InterruptMode::Message { vectors },
    }
}

#[test]
fn every_pair_of_features_goes_together() {
    let rows = rows();
    assert!(
        rows.len() > 15,
        "there are that many values in a pair of axes"
    );
    let geometry = Geometry {
        features: FEATURE_LINK_STATE
            | FEATURE_SEND_CHECKSUM
            | FEATURE_RECEIVE_CHECKSUM
            | FEATURE_SEGMENT_IPV4
            | FEATURE_SEGMENT_IPV6
            | FEATURE_JOINED_RECEIVE,
        ..GEOMETRY
    };
    for row in rows {
        let (device, settings) = device(&row);
        let mode = interrupts(&row);
        match row[0] {
            0 => {
                let transport = LegacyTransport::new(device.clone(), Network, mode);
                check(attach_as(device, transport, &geometry, settings), &row);
            }
            1 => {
                let transport = ModernTransport::new(device.windows(), Network, mode).unwrap();
                check(attach_as(device, transport, &geometry, settings), &row);
            }
            _ => {
                let transport = MmioTransport::new(device.mmio(), Network).unwrap();
                let transport: AnyTransport<FakeHandle, FakeMmio> = AnyTransport::Mmio(transport);
                check(attach_as(device, transport, &geometry, settings), &row);
            }
        }
    }
    // The words of this test are all that there are.
    let others = ["tso", "guest_tso", "msix", "version_1"];
    assert!(words().all(|word| FEATURES.contains(&word) || others.contains(&word)));
}

/// Whether a feature of the row is used as far as it is up to the feature alone.
fn on(row: &Row, word: &str) -> bool {
    let at = FEATURES.iter().position(|name| *name == word).unwrap();
    row[3 + at] == THERE
}

/// The `FEATURE_` bits that hold in a row, by the requirements in words.
fn expected(row: &Row) -> u32 {
    let (csum, guest_csum) = (on(row, "csum"), on(row, "guest_csum"));
    let large = on(row, "guest_tso4") || on(row, "guest_tso6");
    [
        (FEATURE_LINK_STATE, on(row, "status")),
        (FEATURE_SEND_CHECKSUM, csum),
        (FEATURE_RECEIVE_CHECKSUM, guest_csum),
        (FEATURE_SEGMENT_IPV4, csum && on(row, "host_tso4")),
        (FEATURE_SEGMENT_IPV6, csum && on(row, "host_tso6")),
        (
            FEATURE_JOINED_RECEIVE,
            guest_csum && large && on(row, "mrg_rxbuf"),
        ),
    ]
    .into_iter()
    .filter(|(_, holds)| *holds)
    .fold(0, |all, (bit, _)| all | bit)
}

fn check<T: VirtioTransport>(mut bench: Bench<T>, row: &Row) {
    let accepted = bench.device.state().accepted;
    for word in FEATURES {
        let unused = accepted & bits(word) == 0;
        assert!(on(row, word) || unused, "{word} in {row:?}");
    }
    assert_eq!(accepted & VERSION_1 != 0, row[0] > 0);
    let net = bench.card.device();
    assert_eq!(net.features(), expected(row), "{row:?}");
    assert_eq!(net.pairs(), 1 + usize::from(on(row, "mq")), "{row:?}");
    assert_eq!(net.mtu(), if on(row, "mtu") { 1460 } else { 1500 });
    assert!(net.is_link_up() && net.mac() == [2, 0, 0, 0, 0, 9]);
    let header = net.header_bytes();
    let long = row[0] > 0 || net.features() & FEATURE_JOINED_RECEIVE != 0;
    assert_eq!(header, if long { 12 } else { 10 }, "{row:?}");
    sends(&mut bench, row);
    receives(&mut bench, header, row);
    bench.end();
}

/// Packets with each wish are sent, or come back refused where it was not agreed on.
fn sends<T: VirtioTransport>(bench: &mut Bench<T>, row: &Row) {
    let tcp = SendOffload {
        transport: Transport::Tcp,
        ipv6: false,
        network_bytes: 20,
        transport_bytes: 20,
        segment: None,
    };
    let segment = NonZeroU16::new(1400);
    let cut = SendOffload { segment, ..tcp };
    let cut_ipv6 = SendOffload {
        ipv6: true,
        network_bytes: 40,
        ..cut
    };
    let holds = expected(row);
    let wishes = [
        (0, 0),
        (tcp.flags(), FEATURE_SEND_CHECKSUM),
        (cut.flags(), FEATURE_SEGMENT_IPV4),
        (cut_ipv6.flags(), FEATURE_SEGMENT_IPV6),
    ];
    for (flags, needs) in wishes {
        let sent = bench.stack.send_with(0, 5000, flags);
        bench.run();
        let pairs = bench.card.device().pairs() as u16;
        let queues = (0..pairs).map(|pair| 2 * pair + 1);
        let taken = queues.filter_map(|queue| Some((queue, bench.device.take(queue)?)));
        let mut taken: Vec<_> = taken.collect();
        assert_eq!(taken.len(), usize::from(holds & needs == needs), "{row:?}");
        if let Some((queue, buffer)) = taken.pop() {
            let bytes: usize = buffer.segments.iter().map(|(area, _)| area.length()).sum();
            assert_eq!(bytes, 5000 + bench.card.device().header_bytes());
            let shared = row[0] > 0 || on(row, "any_layout");
            assert_eq!(buffer.segments.len(), if shared { 1 } else { 2 });
            bench.device.give_back(queue, buffer.head.into(), 0);
            bench.run();
        }
        assert_eq!(bench.stack.transmitted.pop(), Ok(Some(sent)), "{row:?}");
    }
}

/// Packets come in through every pair: in one buffer, and joined where that was agreed on.
fn receives<T: VirtioTransport>(bench: &mut Bench<T>, header: usize, row: &Row) {
    bench.stack.give(0..16);
    bench.run();
    let holds = expected(row);
    let pairs = bench.card.device().pairs() as u16;
    for round in 0..4 * pairs {
        let queue = 2 * (round % pairs);
        let joined = holds & FEATURE_JOINED_RECEIVE != 0 && round >= pairs;
        let content: Vec<u8> = (0..if joined { 4500u32 } else { 900 })
            .map(|at| (at / 7) as u8)
            .collect();
        let head = [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, if joined { 3 } else { 1 }, 0];
        let mut rest = &[&head[..header], &content].concat()[..];
        let mut interrupts = false;
        while !rest.is_empty() {
            let buffer = bench.device.take(queue).expect("a buffer");
            let mut written = 0;
            for (area, _) in &buffer.segments {
                let (now, later) = rest.split_at(rest.len().min(area.length()));
                area.write(now);
                (written, rest) = (written + now.len(), later);
            }
            interrupts |= bench
                .device
                .give_back(queue, buffer.head.into(), written as u32);
        }
        assert!(interrupts, "a packet is news, {row:?}");
        bench.run();
        let (mut bytes, mut flags) = (Vec::new(), Vec::new());
        while let Some(part) = bench.stack.received.pop().unwrap() {
            bytes.extend(bench.bytes(part));
            flags.push(part.flags);
            let buffer = part.offset / BUFFER_BYTES;
            bench.stack.give(buffer..buffer + 1);
        }
        let verified = match holds & FEATURE_RECEIVE_CHECKSUM {
            0 => 0,
            _ => FLAG_CHECKSUM_VERIFIED,
        };
        assert!(bytes == content, "{row:?}");
        match joined {
            true => assert_eq!(flags, [FLAG_MORE | verified, FLAG_MORE, 0]),
            false => assert_eq!(flags, [verified]),
        }
        bench.run();
    }
}
