//! IPv6: addresses that are made and asked about, routers that come and go, neighbours, and what is not
//! believed.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use netstack::config::Config;
use netstack::ping::Request;
use netstack::stack::Stack;
use netstack::tcp::Phase;
use netstack::time::{Nanoseconds, SECOND};
use smoltcp::wire::{EthernetProtocol, Icmpv6Packet};

use crate::common::{CLIENT, Chance, Pair, Transfer, card};
use crate::segment::{GATEWAY_MAC, HOST_MAC, STRANGER_MAC, Segment, Server};

const ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const OTHER_ROUTER: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
const PREFIX: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 0, 0, 0, 0);
/// What the card's address makes of the link's prefix, and of [`PREFIX`].
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0xff, 0xfe00, 1);
const MADE: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 0, 0xff, 0xfe00, 1);
const FAR: Ipv6Addr = Ipv6Addr::new(0x2606, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const NOBODY: Ipv6Addr = Ipv6Addr::UNSPECIFIED;

/// The group of [`LINK_LOCAL`] and [`MADE`].
fn group() -> Ipv6Addr {
    "ff02::1:ff00:1".parse().expect("good")
}

fn group_mac(group: Ipv6Addr) -> [u8; 6] {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

/// An ICMPv6 message that the host sent.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    to: [u8; 6],
    source: Ipv6Addr,
    destination: Ipv6Addr,
    hop_limit: u8,
    body: Vec<u8>,
}

fn address(bytes: &[u8]) -> Ipv6Addr {
    <[u8; 16]>::try_from(&bytes[..16]).expect("16 bytes").into()
}

/// The messages of a type that the host sent, whose checksums are right.
fn said(segment: &Segment, kind: u8) -> Vec<Said> {
    let read = |frame: &[u8]| {
        let packet = &frame[14..];
        let (source, destination) = (address(&packet[8..]), address(&packet[24..]));
        // A header of options stands before some.
        let skip = if packet[6] == 0 { 48 } else { 40 };
        let body = &packet[skip..];
        if !(packet[6] == 58 || packet[6] == 0 && packet[40] == 58) || body[0] != kind {
            return None;
        }
        assert!(Icmpv6Packet::new_unchecked(body).verify_checksum(&source, &destination));
        Some(Said {
            to: frame[..6].try_into().expect("6 bytes"),
            source,
            destination,
            hop_limit: packet[7],
            body: body.to_vec(),
        })
    };
    segment
        .frames(EthernetProtocol::Ipv6)
        .filter_map(read)
        .collect()
}

/// An ICMPv6 message in a frame.
fn message(
    (from, to): ([u8; 6], [u8; 6]),
    (source, destination): (Ipv6Addr, Ipv6Addr),
    hop_limit: u8,
    body: &[u8],
) -> Vec<u8> {
    let mut body = body.to_vec();
    Icmpv6Packet::new_unchecked(&mut body).fill_checksum(&source, &destination);
    let mut frame = [&to[..], &from, &[0x86, 0xdd, 0x60, 0, 0, 0]].concat();
    frame.extend((body.len() as u16).to_be_bytes());
    frame.extend([58, hop_limit]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    frame.extend(body);
    frame
}

/// A router advertisement with these options.
fn advertisement(router: Ipv6Addr, mac: [u8; 6], lifetime: u16, options: &[u8]) -> Vec<u8> {
    let mut body = vec![134, 0, 0, 0, 64, 0];
    body.extend(lifetime.to_be_bytes());
    body.extend([0; 8]);
    body.extend([1, 1]);
    body.extend(mac);
    body.extend(options);
    let to = (mac, group_mac(ALL_NODES));
    message(to, (router, ALL_NODES), 255, &body)
}

/// The option of a prefix of 64 bits.
fn prefix(prefix: Ipv6Addr, flags: u8, valid: u32, preferred: u32) -> Vec<u8> {
    let mut option = vec![3, 4, 64, flags];
    option.extend(valid.to_be_bytes());
    option.extend(preferred.to_be_bytes());
    option.extend([0; 4]);
    option.extend(prefix.octets());
    option
}

/// Both flags: hosts are neighbours, and make addresses.
const BOTH: u8 = 0xc0;

fn usual() -> Vec<u8> {
    let mut options = prefix(PREFIX, BOTH, 7_000, 3_500);
    options.extend([5, 1, 0, 0, 0, 0, 0x05, 0x78]);
    options.extend([25, 3, 0, 0, 0, 0, 0x0e, 0x10]);
    options.extend(
        "2001:4860:4860::8888"
            .parse::<Ipv6Addr>()
            .expect("good")
            .octets(),
    );
    options
}

/// A host without IPv4, as it is so long after its start.
fn host_after(time: Nanoseconds, arguments: &[&str]) -> (Segment, Stack) {
    let mut config = Config::default();
    for argument in arguments {
        config.apply(argument).expect("good");
    }
    let mut server = Server::compute_engine();
    server.silent = true;
    let mut segment = Segment::new(server);
    let mut host = Stack::new(&config, card(1), segment.now, 3);
    segment.run(&mut host, time);
    (segment, host)
}

/// The same, with what a router said.
fn configured() -> (Segment, Stack) {
    let (mut segment, mut host) = host_after(3 * SECOND, &[]);
    hear(
        &mut segment,
        &mut host,
        advertisement(ROUTER, GATEWAY_MAC, 1_800, &usual()),
    );
    segment.run(&mut host, 3 * SECOND);
    assert_eq!(addresses(&host), [MADE, LINK_LOCAL]);
    segment.sent.clear();
    (segment, host)
}

fn hear(segment: &mut Segment, host: &mut Stack, frame: Vec<u8>) {
    segment.to_host.push_back(frame);
    segment.settle(host);
}

fn addresses(host: &Stack) -> Vec<Ipv6Addr> {
    let own = host.addresses().filter_map(|own| match own.address {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    });
    own.collect()
}

fn target(body: &[u8]) -> Ipv6Addr {
    address(&body[8..])
}

#[test]
fn an_address_on_the_link_is_asked_about_before_it_is_used() {
    let (mut segment, mut host) = host_after(0, &[]);
    segment.run(&mut host, SECOND);
    assert_eq!(addresses(&host), [NOBODY; 0]);
    let [probe] = &said(&segment, 135)[..] else {
        panic!("{:?}", said(&segment, 135));
    };
    assert_eq!((probe.source, probe.destination), (NOBODY, group()));
    assert_eq!((probe.to, probe.hop_limit), (group_mac(group()), 255));
    assert_eq!(target(&probe.body), LINK_LOCAL);
    assert_eq!(probe.body.len(), 24, "it does not say where it is");
    segment.run(&mut host, SECOND);
    assert_eq!(addresses(&host), [LINK_LOCAL]);
}

#[test]
fn switches_and_routers_are_told_of_the_group() {
    let (segment, _) = host_after(4 * SECOND, &[]);
    let reports = said(&segment, 143);
    assert_eq!(reports.len(), 2, "one may be lost: {reports:?}");
    let routers: Ipv6Addr = "ff02::16".parse().unwrap();
    assert_eq!(reports[0].source, NOBODY);
    for report in &reports {
        assert_eq!((report.destination, report.hop_limit), (routers, 1));
        assert_eq!(report.body[6..8], [0, 1]);
        assert_eq!(report.body[8..12], [4, 0, 0, 0]);
        assert_eq!(address(&report.body[12..]), group());
    }
    let place = |kind: u8| {
        let frames = segment.frames(EthernetProtocol::Ipv6);
        let mut kinds = frames.map(|frame| frame[14 + if frame[20] == 0 { 48 } else { 40 }]);
        kinds.position(|found| found == kind)
    };
    assert!(place(143) < place(135), "joined before it asks");
}

#[test]
fn an_address_that_someone_has_is_not_used() {
    let claims: [fn() -> Vec<u8>; 2] = [
        // Its owner answers.
        || {
            let mut body = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
            body.extend(LINK_LOCAL.octets());
            body.extend([2, 1]);
            body.extend(STRANGER_MAC);
            let to = (STRANGER_MAC, group_mac(ALL_NODES));
            message(to, (LINK_LOCAL, ALL_NODES), 255, &body)
        },
        // Someone else asks for it at the same time.
        || {
            let mut body = vec![135, 0, 0, 0, 0, 0, 0, 0];
            body.extend(LINK_LOCAL.octets());
            let to = (STRANGER_MAC, group_mac(group()));
            message(to, (NOBODY, group()), 255, &body)
        },
    ];
    for claim in claims {
        let (mut segment, mut host) = host_after(SECOND, &[]);
        hear(&mut segment, &mut host, claim());
        segment.run(&mut host, 10 * SECOND);
        hear(
            &mut segment,
            &mut host,
            advertisement(ROUTER, GATEWAY_MAC, 1_800, &usual()),
        );
        segment.run(&mut host, 3 * SECOND);
        assert_eq!(addresses(&host), [NOBODY; 0]);
        assert_eq!(said(&segment, 133), []);
        assert_eq!(host.link_counters().conflicts, 1);
    }
}

#[test]
fn routers_are_asked_and_what_they_say_holds() {
    let (mut segment, mut host) = host_after(3 * SECOND, &[]);
    let [asked] = &said(&segment, 133)[..] else {
        panic!("{:?}", said(&segment, 133));
    };
    let routers: Ipv6Addr = "ff02::2".parse().unwrap();
    assert_eq!((asked.source, asked.destination), (LINK_LOCAL, routers));
    assert_eq!(asked.body[8..], [[1, 1].as_slice(), &HOST_MAC].concat());

    hear(
        &mut segment,
        &mut host,
        advertisement(ROUTER, GATEWAY_MAC, 1_800, &usual()),
    );
    assert_eq!(addresses(&host), [LINK_LOCAL], "asked about first");
    assert_eq!(host.mtu(), 1_400);
    let server: IpAddr = "2001:4860:4860::8888".parse().unwrap();
    assert_eq!(host.name_servers(), [server]);
    segment.run(&mut host, 3 * SECOND);
    assert_eq!(addresses(&host), [MADE, LINK_LOCAL]);
    segment.run(&mut host, 100 * SECOND);
    assert_eq!(said(&segment, 133).len(), 1, "answered");

    segment.sent.clear();
    host.connect(CLIENT, SocketAddr::new(FAR.into(), 80))
        .unwrap();
    segment.settle(&mut host);
    let frames: Vec<&[u8]> = segment.frames(EthernetProtocol::Ipv6).collect();
    let [syn] = frames[..] else {
        panic!("the router said where it is: {frames:?}");
    };
    assert_eq!(syn[..6], GATEWAY_MAC);
    assert_eq!(address(&syn[22..]), MADE);
    // 1,400 less the headers of IPv6 and TCP.
    assert_eq!(syn[14 + 40 + 20..][..4], [2, 4, 0x05, 0x3c]);
}

#[test]
fn routers_that_do_not_answer_are_asked_again_and_again_ever_more_rarely() {
    let (segment, _) = host_after(3_000 * SECOND, &["ip=10.0.0.5/24"]);
    let asked = said(&segment, 133).len();
    assert!((8..=12).contains(&asked), "{asked}");
}

#[test]
fn what_routers_say_ends_with_its_time() {
    let (mut segment, mut host) = configured();
    let far = SocketAddr::new(FAR.into(), 80);
    assert!(host.connect(CLIENT, far).is_ok());
    segment.run(&mut host, 1_800 * SECOND);
    assert_eq!(host.connect(CLIENT, far).ok(), None, "no router");
    assert!(!said(&segment, 133).is_empty(), "looked for anew");
    segment.run(&mut host, 1_800 * SECOND);
    assert!(host.name_servers().is_empty());
    assert_eq!(addresses(&host), [MADE, LINK_LOCAL], "of the second choice");
    segment.run(&mut host, 3_500 * SECOND);
    assert_eq!(addresses(&host), [LINK_LOCAL]);
}

#[test]
fn a_router_takes_back_what_it_said() {
    let (mut segment, mut host) = configured();
    let mut options = prefix(PREFIX, BOTH, 0, 0);
    options.extend([25, 3, 0, 0, 0, 0, 0, 0]);
    options.extend("2001:4860:4860::8888".parse::<Ipv6Addr>().unwrap().octets());
    hear(
        &mut segment,
        &mut host,
        advertisement(ROUTER, GATEWAY_MAC, 0, &options),
    );
    segment.run(&mut host, SECOND);
    assert_eq!(
        host.connect(CLIENT, SocketAddr::new(FAR.into(), 80)).ok(),
        None
    );
    assert!(host.name_servers().is_empty());
    // A life of less than two hours is not cut short by anybody (RFC 4862, section 5.5.3, e).
    assert_eq!(addresses(&host), [MADE, LINK_LOCAL]);
    segment.run(&mut host, 7_000 * SECOND);
    assert_eq!(addresses(&host), [LINK_LOCAL]);
}

#[test]
fn another_router_takes_the_place_of_one_that_is_gone() {
    let (mut segment, mut host) = configured();
    hear(
        &mut segment,
        &mut host,
        advertisement(OTHER_ROUTER, STRANGER_MAC, 1_800, &[]),
    );
    let socket = host.bind(CLIENT, 0).unwrap();
    let far = SocketAddr::new(FAR.into(), 9);
    // Whom nobody confirms is asked, and nobody answers.
    for _ in 0..15 {
        host.send_to(socket, far, b"hello").unwrap();
        segment.run(&mut host, SECOND);
    }
    let asked: Vec<Said> = said(&segment, 135)
        .into_iter()
        .filter(|said| target(&said.body) == ROUTER)
        .collect();
    assert_eq!(asked.len(), 3, "{asked:?}");
    assert!(asked.iter().all(|asked| asked.to == GATEWAY_MAC));
    segment.sent.clear();
    host.send_to(socket, far, b"hello").unwrap();
    segment.settle(&mut host);
    let last = segment.frames(EthernetProtocol::Ipv6).last().unwrap();
    assert_eq!(last[..6], STRANGER_MAC);
}

#[test]
fn messages_from_beyond_the_link_and_spoiled_ones_are_not_believed() {
    let (mut segment, mut host) = host_after(3 * SECOND, &[]);
    let good = advertisement(ROUTER, GATEWAY_MAC, 1_800, &usual());
    let spoiled = |change: &dyn Fn(&mut Vec<u8>), mend: bool| {
        let mut frame = good.clone();
        change(&mut frame);
        let (source, destination) = (address(&frame[22..]), address(&frame[38..]));
        if mend {
            let mut body = Icmpv6Packet::new_unchecked(&mut frame[54..]);
            body.fill_checksum(&source, &destination);
        }
        frame
    };
    let frames = [
        // A router passed it on.
        spoiled(&|frame| frame[21] = 254, true),
        // Its checksum is wrong; its code; it comes from an address that is not on the link, or from none.
        spoiled(&|frame| frame[60] ^= 1, false),
        spoiled(&|frame| frame[55] = 1, true),
        spoiled(&|frame| frame[22] = 0x20, true),
        spoiled(&|frame| frame[22..38].fill(0), true),
        // An option without a length, and one that is longer than the message.
        spoiled(&|frame| frame[71] = 0, true),
        spoiled(&|frame| frame[79] = 30, true),
        // The packet ends early.
        good[..100].to_vec(),
        good[..60].to_vec(),
    ];
    for (number, frame) in frames.into_iter().enumerate() {
        hear(&mut segment, &mut host, frame);
        segment.run(&mut host, 3 * SECOND);
        assert_eq!(addresses(&host), [LINK_LOCAL], "frame {number}");
        assert_eq!(host.mtu(), 1_500, "frame {number}");
    }
    hear(&mut segment, &mut host, good);
    segment.run(&mut host, 3 * SECOND);
    assert_eq!(addresses(&host), [MADE, LINK_LOCAL]);
}

#[test]
fn what_a_router_may_not_say_is_left_out() {
    let made_of = |options: &[u8]| {
        let (mut segment, mut host) = host_after(3 * SECOND, &[]);
        hear(
            &mut segment,
            &mut host,
            advertisement(ROUTER, GATEWAY_MAC, 1_800, options),
        );
        segment.run(&mut host, 3 * SECOND);
        (addresses(&host), host.mtu())
    };
    let none = (vec![LINK_LOCAL], 1_500);
    let link: Ipv6Addr = "fe80::".parse().unwrap();
    let mut long = prefix(PREFIX, BOTH, 100, 100);
    long[2] = 80;
    let mut longer = prefix(PREFIX, BOTH, 100, 100);
    longer[2] = 129;
    for options in [
        prefix(link, BOTH, 100, 100),
        prefix(ALL_NODES, BOTH, 100, 100),
        prefix(PREFIX, BOTH, 100, 101),
        prefix(PREFIX, BOTH, 0, 0),
        prefix(PREFIX, 0x80, 100, 100),
        long,
        longer,
        vec![5, 1, 0, 0, 0, 0, 0, 0],
        vec![5, 1, 0, 0, 0, 0, 0x04, 0xff],
        vec![5, 1, 0, 0, 0xff, 0xff, 0xff, 0xff],
    ] {
        assert_eq!(made_of(&options), none, "{options:?}");
    }
    // As many addresses as there may be, and the first ones.
    let many: Vec<u8> = (0..8u16)
        .flat_map(|number| {
            let network = Ipv6Addr::new(0x2001, 0xdb8, 9, number, 0, 0, 0, 0);
            prefix(network, BOTH, 100, 100)
        })
        .collect();
    assert_eq!(made_of(&many).0.len(), 4 + 1);
}

#[test]
fn routers_are_not_believed_where_the_configuration_says_so() {
    for (argument, expected) in [("ipv6=fixed", vec![LINK_LOCAL]), ("ipv6=off", vec![])] {
        let (mut segment, mut host) = host_after(3 * SECOND, &[argument]);
        hear(
            &mut segment,
            &mut host,
            advertisement(ROUTER, GATEWAY_MAC, 1_800, &usual()),
        );
        segment.run(&mut host, 10 * SECOND);
        assert_eq!(addresses(&host), expected);
        assert_eq!((said(&segment, 133), host.mtu()), (vec![], 1_500));
    }
}

#[test]
fn who_asks_for_the_host_is_answered_where_it_asks() {
    let (mut segment, mut host) = configured();
    let ask = |source: Ipv6Addr, target: Ipv6Addr, hop_limit: u8| {
        let mut body = vec![135, 0, 0, 0, 0, 0, 0, 0];
        body.extend(target.octets());
        if !source.is_unspecified() {
            body.extend([1, 1]);
            body.extend(STRANGER_MAC);
        }
        let to = (STRANGER_MAC, group_mac(group()));
        message(to, (source, group()), hop_limit, &body)
    };
    let neighbour = Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 0, 0, 0, 9);
    hear(&mut segment, &mut host, ask(neighbour, MADE, 255));
    let [answer] = &said(&segment, 136)[..] else {
        panic!("{:?}", said(&segment, 136));
    };
    assert_eq!(
        (answer.to, answer.source, answer.destination),
        (STRANGER_MAC, MADE, neighbour)
    );
    assert_eq!((answer.body[4], answer.hop_limit), (0x60, 255));
    assert_eq!(answer.body[24..], [[2, 1].as_slice(), &HOST_MAC].concat());
    // Whoever means to take the address is told so, and everybody.
    segment.sent.clear();
    hear(&mut segment, &mut host, ask(NOBODY, MADE, 255));
    let [answer] = &said(&segment, 136)[..] else {
        panic!("{:?}", said(&segment, 136));
    };
    assert_eq!((answer.destination, answer.body[4]), (ALL_NODES, 0x20));
    assert_eq!(addresses(&host), [MADE, LINK_LOCAL]);
    // Others' addresses are others' affair, and so are those who are not on the link.
    segment.sent.clear();
    hear(&mut segment, &mut host, ask(neighbour, neighbour, 255));
    hear(&mut segment, &mut host, ask(neighbour, MADE, 64));
    assert_eq!(said(&segment, 136), []);
}

#[test]
fn a_router_that_asks_for_groups_is_told_them() {
    let (mut segment, mut host) = configured();
    let query = |hop_limit: u8, source: Ipv6Addr| {
        let mut body = vec![130, 0, 0, 0, 0x03, 0xe8, 0, 0];
        body.extend([0; 16]);
        body.extend([2, 125, 0, 0]);
        let mut frame = message(
            (GATEWAY_MAC, group_mac(ALL_NODES)),
            (source, ALL_NODES),
            hop_limit,
            &body,
        );
        // The header of options before it.
        frame.splice(54..54, [58, 0, 5, 2, 0, 0, 1, 0]);
        frame[20] = 0;
        frame[19] += 8;
        frame
    };
    for bad in [query(2, ROUTER), query(1, FAR)] {
        hear(&mut segment, &mut host, bad);
        segment.run(&mut host, 3 * SECOND);
        assert_eq!(said(&segment, 143), []);
    }
    hear(&mut segment, &mut host, query(1, ROUTER));
    segment.run(&mut host, 2 * SECOND);
    let [report] = &said(&segment, 143)[..] else {
        panic!("{:?}", said(&segment, 143));
    };
    assert_eq!(
        (report.source, address(&report.body[12..])),
        (LINK_LOCAL, group())
    );
}

#[test]
fn a_card_that_comes_back_is_made_known_and_another_one_begins_anew() {
    let (mut segment, mut host) = configured();
    host.card_returned(segment.now, card(1));
    segment.run(&mut host, 2 * SECOND);
    assert_eq!(addresses(&host), [MADE, LINK_LOCAL]);
    let told: Vec<Ipv6Addr> = said(&segment, 136)
        .iter()
        .map(|said| target(&said.body))
        .collect();
    assert_eq!(told[..2], [MADE, LINK_LOCAL]);
    assert_eq!(said(&segment, 133).len(), 1, "the cable may lead elsewhere");
    host.card_returned(segment.now, card(7));
    assert_eq!(addresses(&host), [NOBODY; 0]);
    segment.run(&mut host, 3 * SECOND);
    let own: Ipv6Addr = "fe80::ff:fe00:7".parse().unwrap();
    assert_eq!(addresses(&host), [own]);
}

#[test]
fn random_messages_do_no_harm() {
    let (mut segment, mut host) = configured();
    let mut chance = Chance(0x6666_0001);
    let kinds = [130, 133, 134, 135, 136, 137, 143];
    for _ in 0..20_000 {
        let length = 4 + chance.next() as usize % 150;
        let mut body: Vec<u8> = (0..length).map(|_| chance.next() as u8).collect();
        body[0] = kinds[chance.next() as usize % kinds.len()];
        if chance.hits(900) {
            body[1] = 0;
        }
        if length > 24 && chance.hits(500) {
            body[8..24].copy_from_slice(&MADE.octets());
        }
        let sources = [ROUTER, OTHER_ROUTER, NOBODY, FAR, MADE, LINK_LOCAL];
        let source = sources[chance.next() as usize % sources.len()];
        let destination = [ALL_NODES, group(), MADE][chance.next() as usize % 3];
        let to = [HOST_MAC, group_mac(ALL_NODES)][chance.next() as usize % 2];
        let hop_limit = [255, 1, 64][chance.next() as usize % 3];
        let frame = message((STRANGER_MAC, to), (source, destination), hop_limit, &body);
        hear(&mut segment, &mut host, frame);
        segment.sent.clear();
        if chance.hits(20) {
            segment.run(&mut host, SECOND);
        }
    }
    assert!(addresses(&host).contains(&LINK_LOCAL));
    hear(
        &mut segment,
        &mut host,
        advertisement(ROUTER, GATEWAY_MAC, 1_800, &usual()),
    );
    let now = segment.now;
    let pinged = host.ping(
        now,
        Request {
            owner: CLIENT,
            target: LINK_LOCAL.into(),
            bytes: 8,
            deadline: now + SECOND,
        },
    );
    assert!(pinged.is_ok());
}

/// Two hosts with fixed addresses, which have been asked about.
fn pair() -> Pair {
    let config = |own: &str| {
        let mut config = Config::default();
        config.apply(own).expect("good");
        config
    };
    let mut pair = Pair::with(config("ip=fd00::1/64"), config("ip=fd00::2/64"));
    pair.pass(3 * SECOND);
    pair
}

#[test]
fn neighbours_find_each_other_and_talk() {
    let mut pair = pair();
    let peer: IpAddr = "fd00::2".parse().unwrap();
    let listener = pair.listen(80, 4);
    let here = pair.a.connect(CLIENT, SocketAddr::new(peer, 80)).unwrap();
    let mut there = None;
    pair.until("the connection", SECOND, |pair| {
        there = there.or_else(|| pair.b.tcp().accept(listener));
        there.is_some() && pair.a.tcp().phase(here) == Some(Phase::Open)
    });
    let there = there.unwrap();
    let mut up = Transfer::new(300_000);
    pair.until("the bytes", 20 * SECOND, |pair| {
        up.give(&mut pair.a, here);
        up.take(&mut pair.b, there);
        up.received == up.length
    });
    // Longer than a neighbour is taken for reachable: it is asked, and answers.
    pair.pass(60 * SECOND);
    let mut more = Transfer::new(100_000);
    pair.until("more bytes", 20 * SECOND, |pair| {
        more.give(&mut pair.a, here);
        more.take(&mut pair.b, there);
        more.received == more.length
    });
    assert_eq!(pair.a.link_counters().unanswered, 0);
}

#[test]
fn pings_and_datagrams_go_between_addresses_of_each_kind() {
    let mut pair = pair();
    for target in ["fd00::2", "fe80::ff:fe00:2"] {
        let target: IpAddr = target.parse().unwrap();
        let now = pair.now;
        let request = Request {
            owner: CLIENT,
            target,
            bytes: 1_000,
            deadline: now + SECOND,
        };
        pair.a.ping(now, request).unwrap();
        let mut pinged = None;
        pair.until("the answer", 2 * SECOND, |pair| {
            pinged = pinged.or(pair.a.next_pinged(pair.now));
            pinged.is_some()
        });
        let echo = pinged.unwrap().answer.expect("in time");
        assert_eq!((echo.from, echo.bytes), (target, 1_000));

        let there = pair.b.bind(CLIENT, 53).unwrap();
        let here = pair.a.bind(CLIENT, 0).unwrap();
        pair.a
            .send_to(here, SocketAddr::new(target, 53), b"question")
            .unwrap();
        pair.until("the question", SECOND, |pair| {
            pair.b.can_receive_from(there)
        });
        let mut buffer = [0; 16];
        let (length, from) = pair.b.receive_from(there, &mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"question");
        pair.b.send_to(there, from, b"answer").unwrap();
        pair.until("the answer", SECOND, |pair| pair.a.can_receive_from(here));
        pair.a.close_udp(here);
        pair.b.close_udp(there);
    }
}

#[test]
fn what_is_for_many_is_not_answered_but_for_a_ping() {
    let (mut segment, mut host) = configured();
    let neighbour = Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 0, 0, 0, 9);
    // The neighbour is known, so that an answer would go out at once.
    let mut ask = vec![135, 0, 0, 0, 0, 0, 0, 0];
    ask.extend(MADE.octets());
    ask.extend([1, 1]);
    ask.extend(STRANGER_MAC);
    let to = (STRANGER_MAC, group_mac(group()));
    hear(
        &mut segment,
        &mut host,
        message(to, (neighbour, group()), 255, &ask),
    );
    let mut sent = |protocol: u8, source: Ipv6Addr, destination: Ipv6Addr| {
        segment.sent.clear();
        let to = if destination.is_multicast() {
            group_mac(destination)
        } else {
            HOST_MAC
        };
        let ends = (source, destination);
        let mut frame = message((STRANGER_MAC, to), ends, 64, &[128, 0, 0, 0, 0, 1, 0, 1]);
        frame[20] = protocol;
        hear(&mut segment, &mut host, frame);
        segment.frames(EthernetProtocol::Ipv6).count()
    };
    assert_eq!(sent(58, neighbour, MADE), 1, "a ping");
    assert_eq!(sent(58, neighbour, ALL_NODES), 1, "a ping to all");
    assert_eq!(
        sent(200, neighbour, MADE),
        1,
        "of no protocol that it knows"
    );
    assert_eq!(sent(200, neighbour, ALL_NODES), 0);
    // What never leaves a host does not come from the wire, nor does what is the host's own.
    assert_eq!(sent(58, Ipv6Addr::LOCALHOST, MADE), 0);
    assert_eq!(sent(58, neighbour, Ipv6Addr::LOCALHOST), 0);
    assert_eq!(sent(58, LINK_LOCAL, MADE), 0);
}

#[test]
fn nothing_is_answered_without_an_address() {
    let (mut segment, mut host) = host_after(3 * SECOND, &["ipv6=off"]);
    let to = (STRANGER_MAC, group_mac(ALL_NODES));
    let ping = message(to, (ROUTER, ALL_NODES), 64, &[128, 0, 0, 0, 0, 1, 0, 1]);
    hear(&mut segment, &mut host, ping);
    assert_eq!(segment.frames(EthernetProtocol::Ipv6).count(), 0);
    assert!(host.link_counters().malformed > 0);
}
