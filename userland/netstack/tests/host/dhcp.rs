//! The DHCP client against a fake server: as Google Compute Engine leases, through the whole life of a
//! lease, and with servers that mean harm.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use netstack::stack::Stack;
use netstack::tcp::{End, Phase};
use netstack::time::SECOND;
use smoltcp::wire::{
    ArpOperation, EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, TcpControl, TcpPacket,
    TcpRepr, TcpSeqNumber,
};

use crate::common::{CLIENT, Chance, card, ipv4};
use crate::segment::{
    DECLINE, DISCOVER, GATEWAY_MAC, HOST_MAC, REQUEST, STRANGER_MAC, Segment, Server, arp,
    datagram, packet,
};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 1);
const LEASED: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 7);
const BROADCAST_MAC: [u8; 6] = [0xff; 6];

fn addresses(host: &Stack) -> Vec<(IpAddr, u8)> {
    host.addresses()
        .map(|cidr| (cidr.address, cidr.prefix))
        .collect()
}

#[test]
fn a_lease_of_one_address_with_a_gateway_outside_of_it_reaches_the_world() {
    let (mut segment, mut host) = Segment::with_host(Server::compute_engine());
    assert_eq!(addresses(&host), [(IpAddr::V4(LEASED), 32)]);
    assert_eq!(host.gateway(), Some(IpAddr::V4(GATEWAY)));
    assert_eq!(host.name_servers(), [IpAddr::from([169, 254, 169, 254])]);
    assert_eq!(host.mtu(), 1460);

    segment.sent.clear();
    let far = SocketAddr::from(([93, 184, 216, 34], 80));
    host.connect(CLIENT, far).unwrap();
    segment.settle(&mut host);
    assert_eq!(
        segment.arp(),
        [(ArpOperation::Request, LEASED, GATEWAY)],
        "nobody else is asked for"
    );
    let frame = segment.frames(EthernetProtocol::Ipv4).next().unwrap();
    let frame = EthernetFrame::new_checked(frame).unwrap();
    assert_eq!(frame.dst_addr().0, GATEWAY_MAC);
    assert_eq!(frame.src_addr().0, HOST_MAC);
    let ip = Ipv4Packet::new_checked(frame.payload()).unwrap();
    assert_eq!(
        (ip.src_addr(), IpAddr::V4(ip.dst_addr())),
        (LEASED, far.ip())
    );
    let tcp = TcpPacket::new_checked(ip.payload()).unwrap();
    let checksums = smoltcp::phy::ChecksumCapabilities::default();
    let syn = TcpRepr::parse(&tcp, &LEASED.into(), &far.ip().into(), &checksums).unwrap();
    assert_eq!(syn.max_seg_size, Some(1460 - 40));
}

#[test]
fn the_gateway_finds_a_host_whose_network_it_is_not_in() {
    let (mut segment, mut host) = Segment::with_host(Server::compute_engine());
    segment.sent.clear();
    let question = arp(
        ArpOperation::Request,
        GATEWAY_MAC,
        GATEWAY,
        BROADCAST_MAC,
        LEASED,
    );
    segment.to_host.push_back(question);
    segment.settle(&mut host);
    assert_eq!(segment.arp(), [(ArpOperation::Reply, LEASED, GATEWAY)]);
    // And the host knows the gateway from then on.
    host.connect(CLIENT, SocketAddr::from(([8, 8, 8, 8], 53)))
        .unwrap();
    segment.settle(&mut host);
    assert_eq!(segment.arp().len(), 1, "nothing was asked");
    assert_eq!(segment.frames(EthernetProtocol::Ipv4).count(), 1);
}

#[test]
fn what_is_asked_for_comes_in_the_order_that_matters() {
    let (segment, _) = Segment::with_host(Server::compute_engine());
    let [discover, request] = &segment.asked[..] else {
        panic!("{:?}", segment.asked);
    };
    let wanted = discover.option(55).unwrap();
    let place = |code: u8| wanted.iter().position(|asked| *asked == code);
    assert!(place(121).unwrap() < place(3).unwrap());
    assert!(
        [1, 6, 26, 51, 58, 59]
            .iter()
            .all(|code| place(*code).is_some())
    );
    assert_eq!(discover.option(61), Some(&[1, 2, 0, 0, 0, 0, 1][..]));
    assert_eq!(request.option(50), Some(&LEASED.octets()[..]));
    assert_eq!(request.option(54), Some(&[169, 254, 169, 254][..]));
    assert_eq!(request.transaction, discover.transaction);
    for asked in [discover, request] {
        let ends = (asked.from, asked.to, asked.client);
        let nobody = Ipv4Addr::UNSPECIFIED;
        assert_eq!(ends, (nobody, Ipv4Addr::BROADCAST, nobody));
        assert_eq!(asked.mac, BROADCAST_MAC);
    }
}

#[test]
fn an_address_is_leased_renewed_and_lost_with_its_lease() {
    let mut server = Server::compute_engine();
    server.set(51, &120u32.to_be_bytes());
    let mut segment = Segment::new(server);
    let mut host = Stack::new(&ipv4(), card(1), segment.now, 3);
    let far = SocketAddr::from(([8, 8, 8, 8], 80));
    assert_eq!(host.connect(CLIENT, far).ok(), None, "no address yet");
    segment.run(&mut host, 2 * SECOND);
    assert_eq!(addresses(&host), [(IpAddr::V4(LEASED), 32)]);
    assert_eq!(segment.take_asked(), [DISCOVER, REQUEST]);

    segment.run(&mut host, 100 * SECOND);
    let [renewal] = &segment.asked[..] else {
        panic!("renewed once at half time: {:?}", segment.asked);
    };
    assert!((56..=62).contains(&(renewal.at / SECOND)), "{renewal:?}");
    // To the server itself, by the gateway, and without what says that it was chosen (RFC 2131, section
    // 4.3.6).
    let server = Ipv4Addr::new(169, 254, 169, 254);
    assert_eq!(
        (renewal.from, renewal.to, renewal.client),
        (LEASED, server, LEASED)
    );
    assert_eq!(renewal.mac, GATEWAY_MAC);
    assert_eq!((renewal.option(50), renewal.option(54)), (None, None));
    assert_eq!(addresses(&host).len(), 1);

    segment.server.silent = true;
    let id = host.connect(CLIENT, far).unwrap();
    segment.asked.clear();
    segment.run(&mut host, 200 * SECOND);
    assert_eq!(addresses(&host), [], "the lease ended unanswered");
    assert_eq!((host.gateway(), host.name_servers().len()), (None, 0));
    assert_eq!(host.mtu(), 1500);
    assert_eq!(host.tcp().phase(id), Some(Phase::Ended(End::TimedOut)));
    let renewals = segment.asked.iter().filter(|asked| asked.client == LEASED);
    let asked_all: Vec<bool> = renewals.map(|asked| asked.mac == BROADCAST_MAC).collect();
    // 60 seconds are left for the server, 15 for all: one question each.
    assert_eq!(asked_all, [false, true]);
}

/// A peer's acceptance of the connection whose SYN is the last IPv4 frame that the host sent.
fn accepted(segment: &Segment, peer: Ipv4Addr) -> Vec<u8> {
    let syn = segment.frames(EthernetProtocol::Ipv4).last();
    let syn = syn.expect("a SYN was sent");
    let ip = Ipv4Packet::new_checked(&syn[14..]).expect("whole");
    let syn = TcpPacket::new_checked(ip.payload()).expect("whole");
    let tcp = TcpRepr {
        src_port: syn.dst_port(),
        dst_port: syn.src_port(),
        control: TcpControl::Syn,
        seq_number: TcpSeqNumber(5_000),
        ack_number: Some(syn.seq_number() + 1),
        window_len: 1_000,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    };
    packet(peer, LEASED, IpProtocol::Tcp, tcp.buffer_len(), |space| {
        let mut header = TcpPacket::new_unchecked(space);
        let checksums = smoltcp::phy::ChecksumCapabilities::default();
        tcp.emit(&mut header, &peer.into(), &LEASED.into(), &checksums);
    })
}

#[test]
fn an_idle_connection_ends_with_the_lease_of_its_address() {
    let mut server = Server::compute_engine();
    server.set(51, &120u32.to_be_bytes());
    let (mut segment, mut host) = Segment::with_host(server);
    let peer = Ipv4Addr::new(8, 8, 8, 8);
    let id = host.connect(CLIENT, SocketAddr::from((peer, 80))).unwrap();
    segment.settle(&mut host);
    let acceptance = accepted(&segment, peer);
    segment.to_host.push_back(acceptance);
    segment.settle(&mut host);
    assert_eq!(host.tcp().phase(id), Some(Phase::Open));
    segment.run(&mut host, 50 * SECOND);
    assert_eq!(host.tcp().phase(id), Some(Phase::Open), "renewed and idle");

    segment.server.silent = true;
    segment.run(&mut host, 200 * SECOND);
    assert_eq!(addresses(&host), []);
    assert_eq!(host.tcp().phase(id), Some(Phase::Ended(End::TimedOut)));
    host.close(segment.now, id);
    segment.settle(&mut host);
    assert_eq!(host.tcp().connections(), 0);
}

#[test]
fn a_lease_goes_on_with_another_server_where_the_first_is_silent() {
    let mut server = Server::compute_engine();
    server.set(51, &1600u32.to_be_bytes());
    server.set(58, &400u32.to_be_bytes());
    server.set(59, &800u32.to_be_bytes());
    let (mut segment, mut host) = Segment::with_host(server);
    segment.asked.clear();
    segment.server.silent = true;
    segment.run(&mut host, 780 * SECOND);
    // 400 seconds, then half of what is left each time, a minute at least.
    let times: Vec<u64> = segment
        .asked
        .iter()
        .map(|asked| asked.at / SECOND)
        .collect();
    assert_eq!(times.len(), 4, "{times:?}");
    assert!((385..=402).contains(&times[0]) && times[1] - times[0] >= 190);
    assert!(times[3] - times[2] >= 60, "{times:?}");
    assert!(segment.asked.iter().all(|asked| asked.mac == GATEWAY_MAC));

    let other = Ipv4Addr::new(10, 128, 0, 2);
    segment.server.silent = false;
    segment.server.identifier = other;
    segment.asked.clear();
    segment.run(&mut host, 60 * SECOND);
    let [rebinding] = &segment.asked[..] else {
        panic!("{:?}", segment.asked);
    };
    assert_eq!(rebinding.mac, BROADCAST_MAC);
    assert_eq!((rebinding.from, rebinding.client), (LEASED, LEASED));
    assert_eq!(addresses(&host), [(IpAddr::V4(LEASED), 32)]);
    segment.asked.clear();
    segment.run(&mut host, 410 * SECOND);
    assert_eq!(
        segment.asked[0].to, other,
        "its server is the other one now"
    );
}

#[test]
fn an_answer_of_a_server_that_was_not_asked_is_not_taken() {
    let mut segment = Segment::new(Server::compute_engine());
    let mut host = Stack::new(&ipv4(), card(1), segment.now, 3);
    // The server that offered is not the one that acknowledges.
    let mut said = 0;
    segment.server.spoil = Box::new(move |message| {
        said += 1;
        if said == 2 {
            message[245..249].copy_from_slice(&[10, 0, 0, 66]);
        }
    });
    segment.run(&mut host, 3 * SECOND);
    assert_eq!(addresses(&host), []);
    segment.run(&mut host, 3 * SECOND);
    assert_eq!(addresses(&host).len(), 1, "asked again, and answered");
    assert_eq!(segment.take_asked(), [DISCOVER, REQUEST, REQUEST]);
}

#[test]
fn what_a_server_takes_back_is_gone_at_once_and_asked_for_later() {
    let mut server = Server::compute_engine();
    server.set(51, &120u32.to_be_bytes());
    let (mut segment, mut host) = Segment::with_host(server);
    segment.server.takes_back = true;
    segment.asked.clear();
    segment.run(&mut host, 61 * SECOND);
    assert_eq!(addresses(&host), []);
    assert_eq!(segment.asked[0].kind, REQUEST);
    let refused = segment.asked[0].at;
    segment.asked.clear();
    segment.run(&mut host, 300 * SECOND);
    // Each time later: 4, 8, 16, 32, 64 seconds.
    let begun: Vec<u64> = segment
        .asked
        .iter()
        .filter(|asked| asked.kind == DISCOVER)
        .map(|asked| (asked.at - refused) / SECOND)
        .collect();
    assert_eq!(begun, [4, 12, 28, 60, 124, 188, 252]);
    segment.server.takes_back = false;
    segment.run(&mut host, 70 * SECOND);
    assert_eq!(addresses(&host).len(), 1);
}

#[test]
fn questions_that_nobody_answers_become_rare() {
    let mut segment = Segment::new(Server::compute_engine());
    segment.server.silent = true;
    let mut host = Stack::new(&ipv4(), card(1), segment.now, 77);
    segment.run(&mut host, 400 * SECOND);
    let times: Vec<u64> = segment.asked.iter().map(|asked| asked.at).collect();
    let waits: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (wait, expected) in waits.iter().zip([4, 8, 16, 32, 64, 64, 64]) {
        let range = (expected - 1) * SECOND..=(expected + 1) * SECOND;
        assert!(range.contains(wait), "{waits:?}");
    }
    assert!(waits.len() >= 7);
    assert!(waits.iter().any(|wait| wait % SECOND != 0), "no jitter");
    let first = segment.asked[0].transaction;
    assert!(segment.asked.iter().all(|asked| asked.transaction == first));
}

#[test]
fn an_offer_that_is_never_acknowledged_is_given_up() {
    let mut segment = Segment::new(Server::compute_engine());
    segment.server.spoil = Box::new(|message| {
        if message[242] == 5 {
            message.clear();
        }
    });
    let mut host = Stack::new(&ipv4(), card(1), segment.now, 3);
    segment.run(&mut host, 100 * SECOND);
    let kinds = segment.take_asked();
    assert_eq!(
        kinds[..6],
        [DISCOVER, REQUEST, REQUEST, REQUEST, REQUEST, DISCOVER]
    );
}

#[test]
fn leases_that_cannot_be_had_are_not_taken() {
    let host_of = |change: &dyn Fn(&mut Server)| {
        let mut server = Server::compute_engine();
        change(&mut server);
        let (segment, host) = Segment::with_host(server);
        assert!(segment.asked.iter().all(|asked| asked.kind == DISCOVER));
        addresses(&host)
    };
    for address in [
        [0, 0, 0, 0],
        [127, 0, 0, 1],
        [224, 0, 0, 1],
        [255, 255, 255, 255],
        [240, 0, 0, 1],
        [0, 1, 2, 3],
    ] {
        let leased = host_of(&|server| server.leased = address.into());
        assert_eq!(leased, [], "{address:?}");
    }
    // The network itself, and all of its hosts.
    for last in [0, 255] {
        let leased = host_of(&|server| {
            server.set(1, &[255, 255, 255, 0]);
            server.leased = Ipv4Addr::new(10, 0, 0, last);
        });
        assert_eq!(leased, [], "{last}");
    }
    assert_eq!(host_of(&|server| server.unset(51)), [], "no length");
    assert_eq!(host_of(&|server| server.set(51, &[0; 4])), [], "no time");
    assert_eq!(host_of(&|server| server.set(51, &[0, 0, 0, 9])), []);
    assert_eq!(host_of(&|server| server.set(51, &[0, 1])), [], "too short");
    let nobody = Ipv4Addr::UNSPECIFIED;
    assert_eq!(host_of(&|server| server.identifier = nobody), []);
}

#[test]
fn odd_options_do_no_harm_to_the_rest_of_a_lease() {
    let lease = |change: &dyn Fn(&mut Server)| {
        let mut server = Server::compute_engine();
        change(&mut server);
        Segment::with_host(server).1
    };
    // Packet sizes that no host may have, and one beyond the card's.
    for (mtu, expected) in [
        (0u16, 1500),
        (68, 1500),
        (575, 1500),
        (576, 576),
        (8896, 1500),
    ] {
        let host = lease(&|server| server.set(26, &mtu.to_be_bytes()));
        assert_eq!(host.mtu(), expected, "{mtu}");
    }
    // Routes that are cut off, too long, or by nobody: the router holds then.
    for routes in [
        &[33, 1, 2, 3, 4, 5, 10, 128, 0, 9][..],
        &[255, 10, 128, 0, 9],
        &[0, 10, 128, 0],
        &[24, 10, 1],
        &[24],
        &[0, 224, 0, 0, 1],
        &[0, 127, 0, 0, 1],
        &[0, 10, 128, 0, 7],
        &[0, 10, 128, 0, 9, 24],
    ] {
        let host = lease(&|server| server.set(121, routes));
        assert_eq!(host.gateway(), Some(IpAddr::V4(GATEWAY)), "{routes:?}");
    }
    let host = lease(&|server| server.unset(121));
    assert_eq!(host.gateway(), Some(IpAddr::V4(GATEWAY)));
    // Where there are routes, the router is not looked at.
    let host = lease(&|server| server.set(121, &[8, 10, 10, 128, 0, 1]));
    assert_eq!(host.gateway(), None);
    // A mask with holes, and none.
    for mask in [&[255, 0, 255, 0][..], &[0, 0, 0, 0], &[0, 255, 255, 255]] {
        let host = lease(&|server| server.set(1, mask));
        assert_eq!(addresses(&host), [(IpAddr::V4(LEASED), 32)], "{mask:?}");
    }
    let host = lease(&|server| server.unset(1));
    assert_eq!(addresses(&host), [(IpAddr::V4(LEASED), 32)]);
    // Name servers that cannot be, and more than are kept.
    let servers = [0, 0, 0, 0, 224, 0, 0, 1, 8, 8, 8, 8, 255, 255, 255, 255, 9];
    let host = lease(&|server| server.set(6, &servers));
    assert_eq!(host.name_servers(), [IpAddr::from([8, 8, 8, 8])]);
    let host = lease(&|server| server.set(6, &[9; 80]));
    assert_eq!(host.name_servers().len(), 4);
    // Times that are not in order.
    let host = lease(&|server| {
        server.set(58, &4000u32.to_be_bytes());
        server.set(59, &5000u32.to_be_bytes());
    });
    assert_eq!(addresses(&host).len(), 1);
}

#[test]
fn options_in_parts_and_in_other_fields_are_found() {
    // Thirty routes are longer than an option can be (RFC 3396).
    let mut routes: Vec<u8> = (0..40u8)
        .flat_map(|number| [32, 172, 16, 0, number, 10, 128, 0, 1])
        .take(31 * 9)
        .collect();
    routes.extend([0, 10, 128, 0, 1]);
    let mut server = Server::compute_engine();
    server.set(121, &routes);
    let (_, host) = Segment::with_host(server);
    assert_eq!(host.gateway(), Some(IpAddr::V4(GATEWAY)));

    // The packet size in the file's field, the name server in the server name's (RFC 2131, section 4.1).
    let mut server = Server::compute_engine();
    server.unset(26);
    server.unset(6);
    server.set(52, &[3]);
    server.spoil = Box::new(|message| {
        message[108..113].copy_from_slice(&[26, 2, 0x05, 0x00, 255]);
        message[44..51].copy_from_slice(&[6, 4, 1, 1, 1, 1, 255]);
    });
    let (_, host) = Segment::with_host(server);
    assert_eq!(host.mtu(), 1280);
    assert_eq!(host.name_servers(), [IpAddr::from([1, 1, 1, 1])]);

    // One that ends beyond its field spoils the message.
    let mut server = Server::compute_engine();
    server.set(52, &[1]);
    server.spoil = Box::new(|message| message[108..236].fill(200));
    let (_, host) = Segment::with_host(server);
    assert_eq!(addresses(&host), []);
}

#[test]
fn spoiled_messages_do_no_harm() {
    let mut chance = Chance(0xd4c9_0001);
    let mut server = Server::compute_engine();
    server.set(51, &10u32.to_be_bytes());
    server.spoil = Box::new(move |message| {
        for _ in 0..chance.next() % 4 {
            let position = 236 + chance.next() as usize % (message.len() - 236);
            message[position] = chance.next() as u8;
        }
        match chance.next() % 8 {
            0 => message.truncate(chance.next() as usize % message.len()),
            1 => message.extend((0..chance.next() % 300).map(|byte| byte as u8)),
            2 => message[chance.next() as usize % 236] ^= 1 << (chance.next() % 8),
            _ => {}
        }
    });
    let mut segment = Segment::new(server);
    let mut leased = 0;
    // A lease may come out of it that is longer than the test: every host is a new one.
    for seed in 0..200 {
        let mut host = Stack::new(&ipv4(), card(1), segment.now, seed);
        segment.run(&mut host, 60 * SECOND);
        leased += usize::from(!addresses(&host).is_empty());
        segment.sent.clear();
    }
    assert!(segment.asked.len() > 1_000, "{}", segment.asked.len());
    assert!((50..200).contains(&leased), "{leased}");
    segment.server.spoil = Box::new(|_| ());
    let mut host = Stack::new(&ipv4(), card(1), segment.now, 3);
    segment.run(&mut host, SECOND);
    assert_eq!(addresses(&host), [(IpAddr::V4(LEASED), 32)]);
    assert_eq!(host.mtu(), 1460);
}

#[test]
fn messages_that_nobody_asked_for_are_not_taken() {
    let (mut segment, mut host) = Segment::with_host(Server::compute_engine());
    let transaction = segment.asked[0].transaction;
    let mut message = vec![0; 240];
    message[..4].copy_from_slice(&[2, 1, 6, 0]);
    message[4..8].copy_from_slice(&transaction);
    message[16..20].copy_from_slice(&[10, 66, 66, 66]);
    message[28..34].copy_from_slice(&HOST_MAC);
    message[236..].copy_from_slice(&[99, 130, 83, 99]);
    for kind in 0..=20 {
        let mut forged = message.clone();
        forged.extend([
            53, 1, kind, 54, 4, 169, 254, 169, 254, 51, 4, 0, 0, 14, 16, 255,
        ]);
        let server = Ipv4Addr::new(169, 254, 169, 254);
        segment.to_host.push_back(datagram(server, LEASED, &forged));
        segment.settle(&mut host);
        assert_eq!(addresses(&host), [(IpAddr::V4(LEASED), 32)], "{kind}");
    }
}

#[test]
fn an_address_that_someone_has_is_given_back_at_first_and_defended_later() {
    let (mut segment, mut host) = Segment::with_host(Server::compute_engine());
    // The host said that it has the address; another one objects.
    let announced = (ArpOperation::Request, LEASED, LEASED);
    assert!(segment.arp().contains(&announced));
    let objection = arp(
        ArpOperation::Request,
        STRANGER_MAC,
        LEASED,
        BROADCAST_MAC,
        LEASED,
    );
    segment.to_host.push_back(objection.clone());
    segment.asked.clear();
    segment.settle(&mut host);
    assert_eq!(addresses(&host), []);
    assert_eq!(host.take_conflict(), Some(IpAddr::V4(LEASED)));
    assert_eq!(host.take_conflict(), None, "told once");
    let [decline] = &segment.asked[..] else {
        panic!("{:?}", segment.asked);
    };
    assert_eq!(decline.kind, DECLINE);
    assert_eq!(decline.option(50), Some(&LEASED.octets()[..]));
    assert_eq!(decline.option(54), Some(&[169, 254, 169, 254][..]));
    assert_eq!(decline.mac, BROADCAST_MAC);

    segment.asked.clear();
    segment.server.leased = Ipv4Addr::new(10, 128, 0, 8);
    segment.run(&mut host, 9 * SECOND);
    assert_eq!(segment.take_asked(), [], "not before ten seconds");
    segment.run(&mut host, 2 * SECOND);
    let other = IpAddr::from([10, 128, 0, 8]);
    assert_eq!(addresses(&host), [(other, 32)]);

    // A minute later it is the other one that is wrong.
    segment.run(&mut host, 60 * SECOND);
    segment.sent.clear();
    segment.asked.clear();
    let own = Ipv4Addr::new(10, 128, 0, 8);
    let claim = arp(ArpOperation::Request, STRANGER_MAC, own, BROADCAST_MAC, own);
    for _ in 0..5 {
        segment.to_host.push_back(claim.clone());
    }
    segment.settle(&mut host);
    assert_eq!(host.take_conflict(), Some(other));
    assert_eq!(addresses(&host), [(other, 32)]);
    assert_eq!(segment.take_asked(), []);
    assert_eq!(
        segment.arp(),
        [(ArpOperation::Request, own, own)],
        "defended once in ten seconds"
    );
}

#[test]
fn a_card_with_another_address_asks_anew_and_the_same_one_keeps_its_lease() {
    let (mut segment, mut host) = Segment::with_host(Server::compute_engine());
    segment.asked.clear();
    host.card_returned(segment.now, card(1));
    segment.run(&mut host, SECOND);
    assert_eq!(segment.take_asked(), []);
    assert_eq!((addresses(&host).len(), host.mtu()), (1, 1460));
    host.card_returned(segment.now, card(9));
    assert_eq!(addresses(&host), []);
}
