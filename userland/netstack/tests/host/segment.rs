//! A network segment with one host, the stack under test: a gateway that answers ARP, a DHCP server
//! behind it that says what a test has it say, and a record of every frame that the host sent.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use netstack::stack::Stack;
use netstack::time::{Nanoseconds, SECOND};
use netstack::wire::{Fate, Received, Wire};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, IpProtocol,
    Ipv4Packet, Ipv4Repr, UdpPacket, UdpRepr,
};

use crate::common::{card, ipv4, received, sent};

/// The gateway's Ethernet address.
pub(crate) const GATEWAY_MAC: [u8; 6] = [0x42, 1, 0x0a, 0x80, 0, 1];
/// A stranger's.
pub(crate) const STRANGER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x66];
/// The host's, with [`card`]`(1)`.
pub(crate) const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Message types (RFC 2132, section 9.6).
pub(crate) const DISCOVER: u8 = 1;
pub(crate) const OFFER: u8 = 2;
pub(crate) const REQUEST: u8 = 3;
pub(crate) const DECLINE: u8 = 4;
pub(crate) const ACK: u8 = 5;
pub(crate) const NAK: u8 = 6;

/// A DHCP message of the host.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) at: Nanoseconds,
    pub(crate) kind: u8,
    pub(crate) transaction: [u8; 4],
    /// The source and destination of its IP packet.
    pub(crate) from: Ipv4Addr,
    pub(crate) to: Ipv4Addr,
    /// Where its frame went.
    pub(crate) mac: [u8; 6],
    /// The field `ciaddr`.
    pub(crate) client: Ipv4Addr,
    pub(crate) options: Vec<(u8, Vec<u8>)>,
}

impl Asked {
    pub(crate) fn option(&self, code: u8) -> Option<&[u8]> {
        let option = self.options.iter().find(|(kind, _)| *kind == code);
        option.map(|(_, value)| &value[..])
    }
}

/// Changes a message of the server before it goes out.
pub(crate) type Spoil = Box<dyn FnMut(&mut Vec<u8>)>;

/// What the DHCP server does.
pub(crate) struct Server {
    pub(crate) identifier: Ipv4Addr,
    pub(crate) leased: Ipv4Addr,
    /// What it says beside the kind of a message and who it is.
    pub(crate) options: Vec<(u8, Vec<u8>)>,
    pub(crate) silent: bool,
    /// It takes back what it leased.
    pub(crate) takes_back: bool,
    pub(crate) spoil: Spoil,
}

impl Server {
    /// As Google Compute Engine leases: one address, a gateway outside of it, 1,460 bytes.
    pub(crate) fn compute_engine() -> Server {
        Server {
            identifier: Ipv4Addr::new(169, 254, 169, 254),
            leased: Ipv4Addr::new(10, 128, 0, 7),
            options: vec![
                (1, vec![255, 255, 255, 255]),
                (3, vec![10, 128, 0, 1]),
                (6, vec![169, 254, 169, 254]),
                (26, 1460u16.to_be_bytes().to_vec()),
                (51, 3600u32.to_be_bytes().to_vec()),
                (121, vec![32, 10, 128, 0, 1, 0, 0, 0, 0, 0, 10, 128, 0, 1]),
            ],
            silent: false,
            takes_back: false,
            spoil: Box::new(|_| ()),
        }
    }

    /// Takes the place of an option.
    pub(crate) fn set(&mut self, code: u8, value: &[u8]) {
        self.options.retain(|(kind, _)| *kind != code);
        self.options.push((code, value.to_vec()));
    }

    pub(crate) fn unset(&mut self, code: u8) {
        self.options.retain(|(kind, _)| *kind != code);
    }

    fn answer(&mut self, asked: &Asked) -> Option<Vec<u8>> {
        let kind = match asked.kind {
            DISCOVER => OFFER,
            REQUEST if self.takes_back => NAK,
            REQUEST => ACK,
            _ => return None,
        };
        let mut message = vec![0; 240];
        message[..4].copy_from_slice(&[2, 1, 6, 0]);
        message[4..8].copy_from_slice(&asked.transaction);
        message[16..20].copy_from_slice(&self.leased.octets());
        message[28..34].copy_from_slice(&HOST_MAC);
        message[236..].copy_from_slice(&[99, 130, 83, 99]);
        message.extend([53, 1, kind, 54, 4]);
        message.extend(self.identifier.octets());
        for (code, value) in &self.options {
            for part in value.chunks(255) {
                message.extend([*code, part.len() as u8]);
                message.extend(part);
            }
        }
        message.push(255);
        (self.spoil)(&mut message);
        Some(message)
    }
}

/// The segment.
pub(crate) struct Segment {
    pub(crate) now: Nanoseconds,
    pub(crate) server: Server,
    /// Addresses that the gateway answers ARP requests for.
    pub(crate) gateway: Vec<Ipv4Addr>,
    pub(crate) to_host: VecDeque<Vec<u8>>,
    pub(crate) sent: Vec<Vec<u8>>,
    pub(crate) asked: Vec<Asked>,
}

impl Segment {
    pub(crate) fn new(server: Server) -> Segment {
        Segment {
            now: SECOND,
            server,
            gateway: vec![Ipv4Addr::new(10, 128, 0, 1)],
            to_host: VecDeque::new(),
            sent: Vec::new(),
            asked: Vec::new(),
        }
    }

    /// A host that has been given a second.
    pub(crate) fn with_host(server: Server) -> (Segment, Stack) {
        let mut segment = Segment::new(server);
        let mut host = Stack::new(&ipv4(), card(1), segment.now, 3);
        segment.run(&mut host, SECOND);
        (segment, host)
    }

    /// Lets the host work for a time on its clock.
    pub(crate) fn run(&mut self, host: &mut Stack, time: Nanoseconds) {
        let end = self.now + time;
        while self.now < end {
            let (now, busy) = (self.now, host.poll(self.now, self));
            if !busy && self.to_host.is_empty() {
                self.now = host.deadline(now).unwrap_or(end).clamp(now + 1_000, end);
            }
        }
    }

    /// Lets the host work without the clock.
    pub(crate) fn settle(&mut self, host: &mut Stack) {
        while host.poll(self.now, self) || !self.to_host.is_empty() {}
    }

    /// Kinds of the DHCP messages since the last look.
    pub(crate) fn take_asked(&mut self) -> Vec<u8> {
        self.asked.drain(..).map(|asked| asked.kind).collect()
    }

    /// Frames of a protocol that the host sent.
    pub(crate) fn frames(&self, protocol: EthernetProtocol) -> impl Iterator<Item = &[u8]> {
        self.sent
            .iter()
            .filter(move |frame| EthernetFrame::new_unchecked(frame).ethertype() == protocol)
            .map(|frame| &frame[..])
    }

    /// ARP packets that the host sent.
    pub(crate) fn arp(&self) -> Vec<(ArpOperation, Ipv4Addr, Ipv4Addr)> {
        self.frames(EthernetProtocol::Arp)
            .map(|frame| arp_ends(&frame[14..]))
            .collect()
    }

    fn take(&mut self, frame: Vec<u8>) {
        if let Some(answer) = self.answer(&frame) {
            self.to_host.push_back(answer);
        }
        self.sent.push(frame);
    }

    fn answer(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let frame = EthernetFrame::new_checked(bytes).ok()?;
        match frame.ethertype() {
            EthernetProtocol::Arp => {
                let (operation, source, target) = arp_ends(frame.payload());
                let known = operation == ArpOperation::Request && self.gateway.contains(&target);
                known.then(|| arp(ArpOperation::Reply, GATEWAY_MAC, target, HOST_MAC, source))
            }
            EthernetProtocol::Ipv4 => {
                let asked = asked(self.now, &frame)?;
                self.asked.push(asked.clone());
                let message = self.server.answer(&asked)?;
                let (server, client) = (self.server.identifier, self.server.leased);
                (!self.server.silent).then(|| datagram(server, client, &message))
            }
            _ => None,
        }
    }
}

impl Wire for Segment {
    fn receive(&mut self, buffer: &mut [u8]) -> Option<Received> {
        let frame = self.to_host.pop_front()?;
        buffer[..frame.len()].copy_from_slice(&frame);
        Some(received(&frame))
    }

    fn can_transmit(&mut self) -> bool {
        true
    }

    fn build<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> (R, Fate)) -> R {
        let mut frame = vec![0; length];
        let (result, fate) = fill(&mut frame);
        if sent(fate) {
            self.take(frame);
        }
        result
    }
}

fn arp_ends(payload: &[u8]) -> (ArpOperation, Ipv4Addr, Ipv4Addr) {
    let packet = ArpPacket::new_checked(payload).expect("the host sends whole packets");
    let ArpRepr::EthernetIpv4 {
        operation,
        source_protocol_addr,
        target_protocol_addr,
        ..
    } = ArpRepr::parse(&packet).expect("of IPv4")
    else {
        panic!("of IPv4");
    };
    (operation, source_protocol_addr, target_protocol_addr)
}

/// An ARP packet to the host's Ethernet address, or to everybody's.
pub(crate) fn arp(
    operation: ArpOperation,
    mac: [u8; 6],
    source: Ipv4Addr,
    to: [u8; 6],
    target: Ipv4Addr,
) -> Vec<u8> {
    let packet = ArpRepr::EthernetIpv4 {
        operation,
        source_hardware_addr: EthernetAddress(mac),
        source_protocol_addr: source,
        target_hardware_addr: EthernetAddress(to),
        target_protocol_addr: target,
    };
    let mut bytes = vec![0; 14 + packet.buffer_len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    frame.set_src_addr(EthernetAddress(mac));
    frame.set_dst_addr(EthernetAddress(to));
    frame.set_ethertype(EthernetProtocol::Arp);
    packet.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
    bytes
}

/// A DHCP message of the host, if the frame holds one.
fn asked(at: Nanoseconds, frame: &EthernetFrame<&[u8]>) -> Option<Asked> {
    let ip = Ipv4Packet::new_checked(frame.payload()).ok()?;
    (ip.next_header() == IpProtocol::Udp).then_some(())?;
    let udp = UdpPacket::new_checked(ip.payload()).ok()?;
    (udp.dst_port() == 67).then_some(())?;
    assert!(ip.verify_checksum());
    assert!(udp.verify_checksum(&ip.src_addr().into(), &ip.dst_addr().into()));
    let message = udp.payload();
    assert!(message.len() >= 300, "a BOOTP message at least");
    assert_eq!(message[236..240], [99, 130, 83, 99]);
    assert_eq!(message[28..34], frame.src_addr().0);
    let mut options = Vec::new();
    let mut rest = &message[240..];
    while let [code, length, after @ ..] = rest
        && *code != 255
    {
        let (value, after) = after.split_at(usize::from(*length));
        options.push((*code, value.to_vec()));
        rest = after;
    }
    let kind = options.iter().find(|(code, _)| *code == 53)?.1[0];
    Some(Asked {
        at,
        kind,
        transaction: message[4..8].try_into().ok()?,
        from: ip.src_addr(),
        to: ip.dst_addr(),
        mac: frame.dst_addr().0,
        client: Ipv4Addr::from(<[u8; 4]>::try_from(&message[12..16]).ok()?),
        options,
    })
}

/// A message of a DHCP server in a frame to the host.
pub(crate) fn datagram(from: Ipv4Addr, to: Ipv4Addr, message: &[u8]) -> Vec<u8> {
    let udp = UdpRepr {
        src_port: 67,
        dst_port: 68,
    };
    let length = udp.header_len() + message.len();
    packet(from, to, IpProtocol::Udp, length, |space| {
        udp.emit(
            &mut UdpPacket::new_unchecked(space),
            &from.into(),
            &to.into(),
            message.len(),
            |space| space.copy_from_slice(message),
            &ChecksumCapabilities::default(),
        );
    })
}

/// An IPv4 packet in a frame from the gateway to the host.
pub(crate) fn packet(
    from: Ipv4Addr,
    to: Ipv4Addr,
    protocol: IpProtocol,
    length: usize,
    fill: impl FnOnce(&mut [u8]),
) -> Vec<u8> {
    let header = Ipv4Repr {
        src_addr: from,
        dst_addr: to,
        next_header: protocol,
        payload_len: length,
        hop_limit: 64,
    };
    let mut bytes = vec![0; 14 + header.buffer_len() + length];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    frame.set_src_addr(EthernetAddress(GATEWAY_MAC));
    frame.set_dst_addr(EthernetAddress(HOST_MAC));
    frame.set_ethertype(EthernetProtocol::Ipv4);
    let mut packet = Ipv4Packet::new_unchecked(frame.payload_mut());
    header.emit(&mut packet, &ChecksumCapabilities::default());
    fill(packet.payload_mut());
    bytes
}
