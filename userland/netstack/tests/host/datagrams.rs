//! Ping and UDP between two stacks, and a lease from a small fake DHCP server.

use std::net::{IpAddr, SocketAddr};

use crate::common::{A, B, CLIENT, Pair, card, received};
use ipc::interface::net_device::SendOffload;
use netstack::config::Config;
use netstack::ping::{PingError, Request};
use netstack::stack::Stack;
use netstack::time::SECOND;
use netstack::udp::UdpError;
use netstack::wire::{Received, Wire};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress,
    EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Address, Ipv4Packet, Ipv4Repr, UdpPacket,
    UdpRepr,
};

fn request(pair: &Pair, target: [u8; 4], bytes: usize) -> Request {
    Request {
        owner: CLIENT,
        target: target.into(),
        bytes,
        deadline: pair.now + 2 * SECOND,
    }
}

#[test]
fn an_echo_request_is_answered_with_all_it_carried() {
    let mut pair = Pair::new();
    let (now, wanted) = (pair.now, request(&pair, B, 1_000));
    let sequence = pair.a.ping(now, wanted).unwrap();
    let mut pinged = None;
    pair.until("the answer", SECOND, |pair| {
        pinged = pinged.or(pair.a.next_pinged(pair.now));
        pinged.is_some()
    });
    let pinged = pinged.unwrap();
    let echo = pinged.answer.unwrap();
    assert_eq!((pinged.sequence, pinged.owner), (sequence, CLIENT));
    assert_eq!((echo.from, echo.bytes), (IpAddr::from(B), 1_000));
    assert_eq!(echo.hop_limit, 64);
    assert!(echo.round_trip > 0 && echo.round_trip < SECOND);
}

#[test]
fn an_echo_request_to_nobody_ends_at_its_deadline() {
    let mut pair = Pair::new();
    let (now, wanted) = (pair.now, request(&pair, [10, 0, 0, 77], 56));
    pair.a.ping(now, wanted).unwrap();
    let mut pinged = None;
    pair.until("the deadline", 3 * SECOND, |pair| {
        pinged = pinged.or(pair.a.next_pinged(pair.now));
        pinged.is_some()
    });
    assert_eq!(pinged.unwrap().answer, None);
    assert!(pair.now >= now + 2 * SECOND);
}

#[test]
fn echo_requests_are_limited_and_a_dead_clients_are_forgotten() {
    let mut pair = Pair::new();
    let (now, wanted) = (pair.now, request(&pair, [10, 0, 0, 77], 0));
    let refused = (0..100).find_map(|_| pair.a.ping(now, wanted).err());
    assert_eq!(refused, Some(PingError::Busy));
    pair.a.drop_owner(now, CLIENT);
    pair.pass(3 * SECOND);
    assert_eq!(pair.a.next_pinged(pair.now), None);
}

#[test]
fn datagrams_arrive_and_are_answered() {
    let mut pair = Pair::new();
    let (here, there) = (
        pair.a.bind(CLIENT, 0).unwrap(),
        pair.b.bind(CLIENT, 53).unwrap(),
    );
    pair.a
        .send_to(here, SocketAddr::from((B, 53)), b"question")
        .unwrap();
    pair.until("the question", SECOND, |pair| {
        pair.b.can_receive_from(there)
    });
    let mut buffer = [0; 4];
    let (length, from) = pair.b.receive_from(there, &mut buffer).unwrap();
    assert_eq!(
        (&buffer[..length], from.ip()),
        (&b"ques"[..], IpAddr::from(A))
    );
    assert_eq!(Some(from.port()), pair.a.udp().port(here));
    pair.b.send_to(there, from, b"answer").unwrap();
    pair.until("the answer", SECOND, |pair| pair.a.can_receive_from(here));
}

#[test]
fn a_datagram_socket_says_what_it_cannot_do() {
    let mut pair = Pair::new();
    let socket = pair.a.bind(CLIENT, 9).unwrap();
    assert_eq!(pair.a.bind(CLIENT, 9), Err(UdpError::InUse));
    let peer = SocketAddr::from((B, 9));
    assert_eq!(
        pair.a.send_to(socket, peer, &vec![0; 100_000]),
        Err(UdpError::TooLong)
    );
    let full = (0..1_000).find_map(|_| pair.a.send_to(socket, peer, &[0; 1_000]).err());
    assert_eq!(full, Some(UdpError::Full));
    pair.a.close_udp(socket);
    assert_eq!(
        pair.a.send_to(socket, peer, b"late"),
        Err(UdpError::NoSocket)
    );
    assert_eq!(
        (pair.a.ledger().sockets(CLIENT), pair.a.ledger().bytes()),
        (0, 0)
    );
}

/// A wire with a DHCP server at its other end.
struct DhcpServer {
    replies: Vec<Vec<u8>>,
    lease_seconds: u32,
    seen: Vec<DhcpMessageType>,
    silent: bool,
}

const SERVER: Ipv4Address = Ipv4Address::new(10, 0, 0, 254);
const LEASED: Ipv4Address = Ipv4Address::new(10, 0, 0, 99);

impl DhcpServer {
    fn serve(&mut self, frame: &[u8]) -> Option<()> {
        let frame = EthernetFrame::new_checked(frame).ok()?;
        if frame.ethertype() == EthernetProtocol::Arp {
            self.replies.push(arp_reply(frame.payload())?);
            return Some(());
        }
        (frame.ethertype() == EthernetProtocol::Ipv4).then_some(())?;
        let ip = Ipv4Packet::new_checked(frame.payload()).ok()?;
        (ip.next_header() == IpProtocol::Udp).then_some(())?;
        let udp = UdpPacket::new_checked(ip.payload()).ok()?;
        (udp.dst_port() == 67).then_some(())?;
        let packet = DhcpPacket::new_checked(udp.payload()).ok()?;
        let asked = DhcpRepr::parse(&packet).ok()?;
        self.seen.push(asked.message_type);
        let message_type = match asked.message_type {
            DhcpMessageType::Discover => DhcpMessageType::Offer,
            DhcpMessageType::Request => DhcpMessageType::Ack,
            _ => return None,
        };
        let reply = DhcpRepr {
            message_type,
            your_ip: LEASED,
            server_ip: SERVER,
            router: Some(SERVER),
            subnet_mask: Some(Ipv4Address::new(255, 255, 255, 0)),
            server_identifier: Some(SERVER),
            requested_ip: None,
            client_identifier: None,
            parameter_request_list: None,
            dns_servers: Some([Ipv4Address::new(10, 0, 0, 253)].into_iter().collect()),
            lease_duration: Some(self.lease_seconds),
            ..asked
        };
        if !self.silent {
            self.replies.push(envelope(frame.src_addr(), &reply));
        }
        Some(())
    }
}

/// Renewal goes to the server's own address (RFC 2131, section 4.3.6), so it is asked for.
fn arp_reply(request: &[u8]) -> Option<Vec<u8>> {
    let asked = ArpRepr::parse(&ArpPacket::new_checked(request).ok()?).ok()?;
    let ArpRepr::EthernetIpv4 {
        source_hardware_addr,
        source_protocol_addr,
        ..
    } = asked
    else {
        return None;
    };
    let hardware = EthernetAddress([2, 0, 0, 0, 0, 0xfe]);
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: hardware,
        source_protocol_addr: SERVER,
        target_hardware_addr: source_hardware_addr,
        target_protocol_addr: source_protocol_addr,
    };
    let mut bytes = vec![0; 14 + reply.buffer_len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    frame.set_src_addr(hardware);
    frame.set_dst_addr(source_hardware_addr);
    frame.set_ethertype(EthernetProtocol::Arp);
    reply.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    Some(bytes)
}

fn envelope(client: EthernetAddress, dhcp: &DhcpRepr<'_>) -> Vec<u8> {
    let checksums = ChecksumCapabilities::default();
    let udp = UdpRepr {
        src_port: 67,
        dst_port: 68,
    };
    let ip = Ipv4Repr {
        src_addr: SERVER,
        dst_addr: Ipv4Address::BROADCAST,
        next_header: IpProtocol::Udp,
        payload_len: udp.header_len() + dhcp.buffer_len(),
        hop_limit: 64,
    };
    let mut bytes = vec![0; 14 + ip.buffer_len() + ip.payload_len];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    frame.set_src_addr(EthernetAddress([2, 0, 0, 0, 0, 0xfe]));
    frame.set_dst_addr(client);
    frame.set_ethertype(EthernetProtocol::Ipv4);
    let mut packet = Ipv4Packet::new_unchecked(frame.payload_mut());
    ip.emit(&mut packet, &checksums);
    let mut datagram = UdpPacket::new_unchecked(packet.payload_mut());
    udp.emit(
        &mut datagram,
        &SERVER.into(),
        &Ipv4Address::BROADCAST.into(),
        dhcp.buffer_len(),
        |payload| {
            dhcp.emit(&mut DhcpPacket::new_unchecked(payload))
                .expect("fits")
        },
        &checksums,
    );
    bytes
}

impl Wire for DhcpServer {
    fn receive(&mut self, buffer: &mut [u8]) -> Option<Received> {
        let frame = self.replies.pop()?;
        buffer[..frame.len()].copy_from_slice(&frame);
        Some(received(&frame))
    }

    fn can_transmit(&mut self) -> bool {
        true
    }

    fn transmit<R>(
        &mut self,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> (Option<SendOffload>, R),
    ) -> R {
        let mut frame = vec![0; length];
        let (offload, result) = fill(&mut frame);
        assert_eq!(offload, None, "this wire does nothing but carry");
        let _ = self.serve(&frame);
        result
    }
}

/// Runs the stack for some seconds of its clock.
fn run(stack: &mut Stack, server: &mut DhcpServer, now: &mut u64, seconds: u64) {
    let end = *now + seconds * SECOND;
    while *now < end {
        if !stack.poll(*now, server) && server.replies.is_empty() {
            *now = stack.deadline(*now).unwrap_or(end).clamp(*now + 1_000, end);
        }
    }
}

#[test]
fn an_address_is_leased_renewed_and_lost_with_its_lease() {
    let mut server = DhcpServer {
        replies: vec![],
        lease_seconds: 120,
        seen: vec![],
        silent: false,
    };
    let mut now = SECOND;
    let mut stack = Stack::new(&Config::default(), card(1), now, 3);
    assert_eq!(
        stack.connect(CLIENT, SocketAddr::from((B, 80))).ok(),
        None,
        "no address yet"
    );
    run(&mut stack, &mut server, &mut now, 2);
    let address = stack.addresses().next().unwrap();
    assert_eq!((address.address, address.prefix), (IpAddr::V4(LEASED), 24));
    assert_eq!(stack.gateway(), Some(IpAddr::V4(SERVER)));
    assert_eq!(stack.name_servers(), [IpAddr::from([10, 0, 0, 253])]);
    assert_eq!(
        server.seen,
        [DhcpMessageType::Discover, DhcpMessageType::Request]
    );

    run(&mut stack, &mut server, &mut now, 100);
    assert_eq!(
        server.seen.len(),
        3,
        "renewed once at half time: {:?}",
        server.seen
    );
    assert_eq!(stack.addresses().count(), 1);

    server.silent = true;
    stack.connect(CLIENT, SocketAddr::from((B, 80))).unwrap();
    run(&mut stack, &mut server, &mut now, 200);
    assert_eq!(stack.addresses().count(), 0, "the lease ended unanswered");
    assert_eq!((stack.gateway(), stack.name_servers().len()), (None, 0));
}
