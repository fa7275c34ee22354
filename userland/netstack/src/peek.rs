//! A look into a received IP packet, to find out whose it is before smoltcp sees it.
//!
//! smoltcp asks every socket of a set whether a packet is its own. The stack keeps one set a
//! connection and chooses it here, so that a packet costs the same with one connection and with a
//! thousand. Nothing is judged: checksums, windows and states are smoltcp's.

use core::net::{IpAddr, SocketAddr};

use smoltcp::wire::{
    DHCP_CLIENT_PORT, DHCP_SERVER_PORT, IpProtocol, IpVersion, Ipv4Packet, Ipv6Packet, TcpPacket,
    UdpPacket,
};

/// The two ends of a TCP connection, seen from this host (RFC 9293, section 3.3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// This host's end.
    pub local: SocketAddr,
    /// The peer's end.
    pub remote: SocketAddr,
}

/// What the stack wants to know of a TCP segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) flow: Flow,
    pub(crate) syn: bool,
    pub(crate) ack: bool,
    pub(crate) fin: bool,
    pub(crate) rst: bool,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    /// The sequence number after the segment's last byte and its FIN.
    pub(crate) end: u32,
}

/// What a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A whole TCP segment.
    Tcp(Segment),
    /// A message from a DHCP server's port to a client's.
    Dhcp,
    /// All else.
    Other,
}

/// Says what a packet is for. One too short for what it claims is [`Kind::Other`].
pub(crate) fn classify(packet: &[u8]) -> Kind {
    match IpVersion::of_packet(packet) {
        Ok(IpVersion::Ipv4) => ipv4(packet),
        Ok(IpVersion::Ipv6) => ipv6(packet),
        Err(_) => Kind::Other,
    }
}

/// The time to live of an IPv4 packet, the hop limit of an IPv6 one, 0 of any other.
pub(crate) fn hop_limit(packet: &[u8]) -> u8 {
    match IpVersion::of_packet(packet) {
        Ok(IpVersion::Ipv4) => {
            Ipv4Packet::new_checked(packet).map_or(0, |packet| packet.hop_limit())
        }
        Ok(IpVersion::Ipv6) => {
            Ipv6Packet::new_checked(packet).map_or(0, |packet| packet.hop_limit())
        }
        Err(_) => 0,
    }
}

fn ipv4(payload: &[u8]) -> Kind {
    let Ok(packet) = Ipv4Packet::new_checked(payload) else {
        return Kind::Other;
    };
    // A fragment has no header to look at, or not all of its data (RFC 791, section 3.2).
    if packet.more_frags() || packet.frag_offset() != 0 {
        return Kind::Other;
    }
    match packet.next_header() {
        IpProtocol::Tcp => tcp(
            packet.src_addr().into(),
            packet.dst_addr().into(),
            packet.payload(),
        ),
        IpProtocol::Udp => udp(packet.payload()),
        _ => Kind::Other,
    }
}

fn ipv6(payload: &[u8]) -> Kind {
    let Ok(packet) = Ipv6Packet::new_checked(payload) else {
        return Kind::Other;
    };
    match packet.next_header() {
        IpProtocol::Tcp => tcp(
            packet.src_addr().into(),
            packet.dst_addr().into(),
            packet.payload(),
        ),
        _ => Kind::Other,
    }
}

fn udp(payload: &[u8]) -> Kind {
    match UdpPacket::new_checked(payload) {
        Ok(datagram)
            if datagram.src_port() == DHCP_SERVER_PORT
                && datagram.dst_port() == DHCP_CLIENT_PORT =>
        {
            Kind::Dhcp
        }
        _ => Kind::Other,
    }
}

fn tcp(source: IpAddr, destination: IpAddr, payload: &[u8]) -> Kind {
    let Ok(segment) = TcpPacket::new_checked(payload) else {
        return Kind::Other;
    };
    let sequence = segment.seq_number().0 as u32;
    let length = segment.payload().len() as u32 + u32::from(segment.fin());
    Kind::Tcp(Segment {
        flow: Flow {
            local: SocketAddr::new(destination, segment.dst_port()),
            remote: SocketAddr::new(source, segment.src_port()),
        },
        syn: segment.syn(),
        ack: segment.ack(),
        fin: segment.fin(),
        rst: segment.rst(),
        sequence,
        acknowledgement: segment.ack_number().0 as u32,
        end: sequence.wrapping_add(length),
    })
}
