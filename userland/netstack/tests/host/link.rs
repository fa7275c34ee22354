//! The link layer: who is found where, what is learnt from whom, and what is not taken.

use std::net::{Ipv4Addr, SocketAddr};

use netstack::stack::Stack;
use netstack::time::SECOND;
use smoltcp::wire::{ArpOperation, EthernetFrame, EthernetProtocol, IpProtocol, TcpPacket};

use crate::common::{CLIENT, Pair, Transfer, card, ipv4};
use crate::segment::{GATEWAY_MAC, HOST_MAC, STRANGER_MAC, Segment, Server, arp, packet};

const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 5);
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
const BROADCAST_MAC: [u8; 6] = [0xff; 6];

/// A host with a fixed address, and its segment.
fn fixed(arguments: &[&str]) -> (Segment, Stack) {
    let mut config = ipv4();
    for argument in arguments {
        config.apply(argument).expect("good");
    }
    let mut segment = Segment::new(Server::compute_engine());
    segment.gateway = vec![GATEWAY];
    let mut host = Stack::new(&config, card(1), segment.now, 3);
    segment.run(&mut host, 3 * SECOND);
    segment.sent.clear();
    (segment, host)
}

fn usual() -> (Segment, Stack) {
    fixed(&["ip=10.0.0.5/24", "gw=10.0.0.1"])
}

fn destinations(segment: &Segment) -> Vec<[u8; 6]> {
    segment
        .frames(EthernetProtocol::Ipv4)
        .map(|frame| EthernetFrame::new_unchecked(frame).dst_addr().0)
        .collect()
}

/// Has the host send something to this address.
fn send(segment: &mut Segment, host: &mut Stack, to: Ipv4Addr) {
    let socket = host.bind(CLIENT, 0).expect("a free port");
    let sent = host.send_to(socket, SocketAddr::from((to, 9)), b"hello");
    sent.expect("queued");
    segment.settle(host);
    host.close_udp(socket);
}

#[test]
fn neighbours_are_asked_for_themselves_and_strangers_by_the_gateway() {
    let (mut segment, mut host) = usual();
    send(&mut segment, &mut host, Ipv4Addr::new(8, 8, 8, 8));
    send(&mut segment, &mut host, Ipv4Addr::new(9, 9, 9, 9));
    send(&mut segment, &mut host, NEIGHBOUR);
    assert_eq!(
        segment.arp(),
        [
            (ArpOperation::Request, HOST, GATEWAY),
            (ArpOperation::Request, HOST, NEIGHBOUR)
        ]
    );
    assert_eq!(destinations(&segment), [GATEWAY_MAC, GATEWAY_MAC]);
    let answer = arp(ArpOperation::Reply, STRANGER_MAC, NEIGHBOUR, HOST_MAC, HOST);
    segment.to_host.push_back(answer);
    segment.settle(&mut host);
    assert_eq!(
        destinations(&segment),
        [GATEWAY_MAC, GATEWAY_MAC, STRANGER_MAC],
        "what waited is sent"
    );
}

#[test]
fn one_that_is_not_there_is_asked_for_three_times_and_given_up() {
    let (mut segment, mut host) = usual();
    send(&mut segment, &mut host, NEIGHBOUR);
    segment.run(&mut host, 10 * SECOND);
    assert_eq!(segment.arp().len(), 3);
    assert_eq!(destinations(&segment), [[0; 6]; 0]);
    assert_eq!(host.link_counters().unanswered, 1);
}

#[test]
fn a_neighbour_is_asked_for_beside_bulk_data_that_takes_all_room() {
    let mut pair = Pair::new();
    let listener = pair.listen(80, 4);
    let (here, _there) = pair.connect(listener, 80);
    pair.end_a.outgoing.borrow_mut().room = 2;
    let stranger = SocketAddr::from((NEIGHBOUR, 80));
    pair.a.connect(CLIENT, stranger).expect("begun");
    let mut bulk = Transfer::new(1 << 20);
    let question = [[0xff; 6].as_slice(), &[2, 0, 0, 0, 0, 1, 8, 6]].concat();
    pair.until("the question", SECOND / 100, |pair| {
        bulk.give(&mut pair.a, here);
        let lane = pair.end_a.outgoing.borrow();
        let asked = |frame: &[u8]| frame.starts_with(&question);
        lane.frames.iter().any(|(_, frame)| asked(frame))
    });
}

#[test]
fn broadcasts_and_groups_are_sent_to_everybody_they_are_for() {
    let (mut segment, mut host) = usual();
    for to in [[10, 0, 0, 255], [255, 255, 255, 255], [239, 129, 2, 3]] {
        send(&mut segment, &mut host, to.into());
    }
    assert_eq!(segment.arp(), []);
    let group = [0x01, 0x00, 0x5e, 1, 2, 3];
    assert_eq!(
        destinations(&segment),
        [BROADCAST_MAC, BROADCAST_MAC, group]
    );
}

#[test]
fn nothing_is_sent_where_no_route_leads() {
    let (_, mut host) = fixed(&["ip=10.0.0.5/24"]);
    let socket = host.bind(CLIENT, 0).unwrap();
    let far = SocketAddr::from(([8, 8, 8, 8], 9));
    assert!(host.send_to(socket, far, b"lost").is_err());
    assert!(host.connect(CLIENT, far).is_err());
    let six = SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 9));
    assert!(host.connect(CLIENT, six).is_err());
    assert!(host.send_to(socket, six, b"lost").is_err());
}

#[test]
fn gratuitous_packets_move_a_known_neighbour_and_make_none_known() {
    let (mut segment, mut host) = usual();
    let claim = |mac, source| arp(ArpOperation::Request, mac, source, BROADCAST_MAC, source);
    segment.to_host.push_back(claim(STRANGER_MAC, NEIGHBOUR));
    send(&mut segment, &mut host, NEIGHBOUR);
    assert_eq!(segment.arp().len(), 1, "it has to be asked for");
    send(&mut segment, &mut host, Ipv4Addr::new(8, 8, 8, 8));
    // The gateway is taken over by another machine.
    segment.to_host.push_back(claim(STRANGER_MAC, GATEWAY));
    segment.settle(&mut host);
    send(&mut segment, &mut host, Ipv4Addr::new(8, 8, 8, 8));
    assert_eq!(destinations(&segment), [GATEWAY_MAC, STRANGER_MAC]);
}

#[test]
fn a_gateway_that_does_not_answer_any_more_is_looked_for_anew() {
    let (mut segment, mut host) = usual();
    let far = Ipv4Addr::new(8, 8, 8, 8);
    send(&mut segment, &mut host, far);
    segment.gateway.clear();
    segment.run(&mut host, 31 * SECOND);
    segment.sent.clear();
    send(&mut segment, &mut host, far);
    assert_eq!(destinations(&segment), [GATEWAY_MAC], "used on the quiet");
    segment.run(&mut host, 10 * SECOND);
    let asked: Vec<_> = segment
        .frames(EthernetProtocol::Arp)
        .map(|frame| EthernetFrame::new_unchecked(frame).dst_addr().0)
        .collect();
    assert_eq!(asked, [GATEWAY_MAC; 3], "asked where it was");
    segment.sent.clear();
    send(&mut segment, &mut host, far);
    assert_eq!(destinations(&segment), [[0; 6]; 0]);
    assert_eq!(segment.arp().len(), 1, "asked for by all");
    // It is back, somewhere else.
    let answer = arp(ArpOperation::Reply, STRANGER_MAC, GATEWAY, HOST_MAC, HOST);
    segment.to_host.push_back(answer);
    segment.settle(&mut host);
    assert_eq!(destinations(&segment), [STRANGER_MAC]);
}

#[test]
fn frames_for_others_are_not_taken() {
    let (mut segment, mut host) = usual();
    host.listen(CLIENT, None, 80, 1).unwrap();
    let ping = |to: [u8; 6], from: [u8; 6]| {
        let mut frame = packet(GATEWAY, HOST, IpProtocol::Icmp, 8, |space| {
            space.copy_from_slice(&[8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
        });
        frame[..6].copy_from_slice(&to);
        frame[6..12].copy_from_slice(&from);
        frame
    };
    let from = |source: Ipv4Addr| {
        packet(source, HOST, IpProtocol::Icmp, 8, |space| {
            space.copy_from_slice(&[8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
        })
    };
    segment.to_host.push_back(ping(HOST_MAC, GATEWAY_MAC));
    segment.settle(&mut host);
    assert_eq!(destinations(&segment).len(), 1, "a good one is answered");
    let refused = |host: &Stack| {
        let counters = host.link_counters();
        counters.malformed + counters.misdirected + host.counters().malformed
    };
    let before = refused(&host);
    for frame in [
        ping(STRANGER_MAC, GATEWAY_MAC),
        // One host's packet in everybody's frame (RFC 1122, section 3.3.6).
        ping(BROADCAST_MAC, GATEWAY_MAC),
        ping([1, 0, 0x5e, 0, 0, 1], GATEWAY_MAC),
        // The host's own, back from a loop.
        ping(HOST_MAC, HOST_MAC),
        from(HOST),
        // What never leaves a host, and a group's voice.
        from(Ipv4Addr::LOCALHOST),
        from(Ipv4Addr::new(224, 0, 0, 1)),
    ] {
        segment.to_host.push_back(frame);
    }
    segment.settle(&mut host);
    assert_eq!(destinations(&segment).len(), 1);
    assert_eq!(refused(&host), before + 7);
}

#[test]
fn probes_are_answered_and_nothing_is_learnt_from_them() {
    let (mut segment, mut host) = usual();
    let nobody = Ipv4Addr::UNSPECIFIED;
    let probe = arp(
        ArpOperation::Request,
        STRANGER_MAC,
        nobody,
        BROADCAST_MAC,
        HOST,
    );
    segment.to_host.push_back(probe);
    segment.settle(&mut host);
    assert_eq!(segment.arp(), [(ArpOperation::Reply, HOST, nobody)]);
    // Nor is a group's address one of a neighbour.
    let group = arp(
        ArpOperation::Request,
        [1, 2, 3, 4, 5, 6],
        NEIGHBOUR,
        BROADCAST_MAC,
        HOST,
    );
    segment.to_host.push_back(group);
    segment.settle(&mut host);
    assert_eq!(segment.arp().len(), 1);
}

#[test]
fn a_fixed_address_is_announced() {
    let mut config = ipv4();
    config.apply("ip=10.0.0.5/24").unwrap();
    let mut segment = Segment::new(Server::compute_engine());
    let mut host = Stack::new(&config, card(1), segment.now, 3);
    segment.run(&mut host, 10 * SECOND);
    assert_eq!(segment.arp(), [(ArpOperation::Request, HOST, HOST); 2]);
    host.card_returned(segment.now, card(2));
    segment.run(&mut host, SECOND);
    assert_eq!(segment.arp().len(), 3, "neighbours learn where it is now");
}

#[test]
fn what_is_for_many_is_not_answered_but_for_a_ping() {
    let (mut segment, mut host) = usual();
    host.listen(CLIENT, None, 80, 1).unwrap();
    send(&mut segment, &mut host, GATEWAY);
    let all = Ipv4Addr::BROADCAST;
    let to_all = |protocol: IpProtocol, payload: &[u8]| {
        let mut frame = packet(GATEWAY, all, protocol, payload.len(), |space| {
            space.copy_from_slice(payload);
        });
        frame[..6].copy_from_slice(&BROADCAST_MAC);
        frame
    };
    let sent = |segment: &mut Segment, host: &mut Stack, frame| {
        segment.sent.clear();
        segment.to_host.push_back(frame);
        segment.settle(host);
        destinations(segment).len() + segment.arp().len()
    };
    // A SYN to a listener and to nobody, a datagram that nobody takes, a protocol that nobody knows.
    for port in [80, 81] {
        let mut syn = [0; 20];
        syn[..4].copy_from_slice(&[0x12, 0x34, 0, port]);
        (syn[12], syn[13]) = (0x50, 2);
        let (source, destination) = (GATEWAY.into(), all.into());
        TcpPacket::new_unchecked(&mut syn[..]).fill_checksum(&source, &destination);
        let frame = to_all(IpProtocol::Tcp, &syn);
        assert_eq!(sent(&mut segment, &mut host, frame), 0);
        assert_eq!(host.tcp().connections(), 0);
    }
    let datagram = [0x12, 0x34, 0, 99, 0, 8, 0, 0];
    let frame = to_all(IpProtocol::Udp, &datagram);
    assert_eq!(sent(&mut segment, &mut host, frame), 0);
    let frame = to_all(IpProtocol::Unknown(200), &datagram);
    assert_eq!(sent(&mut segment, &mut host, frame), 0);
    let ping = to_all(IpProtocol::Icmp, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
    assert_eq!(sent(&mut segment, &mut host, ping), 1);
    // And what is sent of the host's own accord is not held up by any of it.
    segment.sent.clear();
    segment
        .to_host
        .push_back(to_all(IpProtocol::Udp, &datagram));
    send(&mut segment, &mut host, Ipv4Addr::new(8, 8, 8, 8));
    assert_eq!(destinations(&segment), [GATEWAY_MAC]);
}
