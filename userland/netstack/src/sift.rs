//! What is wrong with a received IP packet, so that it is dropped before any socket sees it, and counted.
//!
//! smoltcp drops most of these too, without a word. Some it would take: a fragment, whose data would be read
//! as a header; a header shorter than headers are; and packets from addresses that no packet comes from.
//! What is wrong within a connection (RFC 9293, section 3.10.7) is smoltcp's to answer.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4Packet, Icmpv6Packet, IpProtocol, Ipv4Packet, Ipv6ExtHeader, Ipv6Packet, TcpPacket,
    TcpRepr, UdpPacket,
};

/// Bytes of the shortest header (RFC 791, section 3.1; RFC 9293, section 3.1: the same number).
const SHORTEST_HEADER: usize = 20;
/// Bytes of an extension header's unit (RFC 8200, section 4.3).
const EXTENSION_UNIT: usize = 8;

/// Why a packet is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is not whole, contradicts itself, or has an address that no packet has.
    Malformed,
    /// It is for another host.
    Misdirected,
    /// The checksum of its IPv4 header, or of its ICMP message, is wrong.
    WrongChecksum,
    /// It is part of a packet. Parts are not put together.
    Fragment,
}

/// Who a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// A TCP connection, a listener, or nobody.
    Tcp,
    /// The UDP socket of this port, or nobody.
    Udp {
        /// The port.
        port: u16,
        /// Whether the datagram carries anything.
        carries: bool,
    },
    /// This host itself.
    Host,
    /// Nobody: its protocol is not spoken here.
    Nobody,
}

/// A transport packet and where it comes from and goes to.
struct Transport<'a> {
    source: IpAddr,
    destination: IpAddr,
    bytes: &'a [u8],
    /// It is for this host and no other.
    alone: bool,
}

/// Looks for what is wrong with a packet. `is_own` and `is_broadcast` say so of this host's addresses
/// and its network's.
pub(crate) fn sift(
    packet: &[u8],
    is_own: impl Fn(IpAddr) -> bool,
    is_broadcast: impl Fn(Ipv4Addr) -> bool,
) -> Result<Claim, Fault> {
    // The version (RFC 791, section 3.1; RFC 8200, section 3).
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => ipv4(packet, is_own, is_broadcast),
        Some(6) => ipv6(packet, is_own),
        _ => Err(Fault::Malformed),
    }
}

fn ipv4(
    bytes: &[u8],
    is_own: impl Fn(IpAddr) -> bool,
    is_broadcast: impl Fn(Ipv4Addr) -> bool,
) -> Result<Claim, Fault> {
    let packet = Ipv4Packet::new_checked(bytes).map_err(|_| Fault::Malformed)?;
    let header = usize::from(packet.header_len());
    if header < SHORTEST_HEADER || usize::from(packet.total_len()) < header {
        return Err(Fault::Malformed);
    }
    if !packet.verify_checksum() {
        return Err(Fault::WrongChecksum);
    }
    let (source, destination) = (packet.src_addr(), packet.dst_addr());
    let group = destination.is_multicast() || is_broadcast(destination);
    if !is_ipv4_source(source) || is_own(source.into()) || is_broadcast(source) {
        return Err(Fault::Malformed);
    }
    if !group && !is_own(destination.into()) {
        return Err(Fault::Misdirected);
    }
    if packet.more_frags() || packet.frag_offset() != 0 {
        return Err(Fault::Fragment);
    }
    let transport = Transport {
        source: source.into(),
        destination: destination.into(),
        bytes: packet.payload(),
        alone: !group,
    };
    match packet.next_header() {
        IpProtocol::Tcp => tcp(&transport),
        IpProtocol::Udp => udp(&transport),
        IpProtocol::Icmp => icmpv4(&transport),
        _ => Ok(Claim::Nobody),
    }
}

/// Whether a packet may come from this address (RFC 1122, section 3.2.1.3; RFC 1112, section 4 for the
/// addresses above groups). A host that has none yet sends from 0.0.0.0.
fn is_ipv4_source(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    (first != 0 || address.is_unspecified()) && !address.is_loopback() && first < 224
}

fn ipv6(bytes: &[u8], is_own: impl Fn(IpAddr) -> bool) -> Result<Claim, Fault> {
    let packet = Ipv6Packet::new_checked(bytes).map_err(|_| Fault::Malformed)?;
    let (source, destination) = (packet.src_addr(), packet.dst_addr());
    if !is_ipv6_source(source) || is_own(source.into()) {
        return Err(Fault::Malformed);
    }
    if !destination.is_multicast() && !is_own(destination.into()) {
        return Err(Fault::Misdirected);
    }
    let (mut protocol, mut payload) = (packet.next_header(), packet.payload());
    if protocol == IpProtocol::HopByHop {
        let options = Ipv6ExtHeader::new_checked(payload).map_err(|_| Fault::Malformed)?;
        let length = (usize::from(options.header_len()) + 1) * EXTENSION_UNIT;
        protocol = options.next_header();
        payload = payload.get(length..).ok_or(Fault::Malformed)?;
    }
    let transport = Transport {
        source: source.into(),
        destination: destination.into(),
        bytes: payload,
        alone: !destination.is_multicast(),
    };
    match protocol {
        IpProtocol::Tcp => tcp(&transport),
        IpProtocol::Udp => udp(&transport),
        IpProtocol::Icmpv6 => icmpv6(&transport, source, destination),
        IpProtocol::Ipv6Frag => Err(Fault::Fragment),
        _ => Ok(Claim::Nobody),
    }
}

/// Whether a packet may come from this address (RFC 4291, sections 2.5.2, 2.5.3 and 2.7). Those without one
/// come from neighbours only, whose messages are the link layer's.
fn is_ipv6_source(address: Ipv6Addr) -> bool {
    !address.is_multicast() && !address.is_loopback() && !address.is_unspecified()
}

fn tcp(transport: &Transport<'_>) -> Result<Claim, Fault> {
    let segment = TcpPacket::new_checked(transport.bytes).map_err(|_| Fault::Malformed)?;
    let (syn, fin, rst) = (segment.syn(), segment.fin(), segment.rst());
    // No host means two of these at once. A group cannot be connected to (RFC 9293, section 3.9.2.3).
    let contradicts = syn && (fin || rst) || fin && rst;
    if contradicts || !transport.alone || transport.source.is_unspecified() {
        return Err(Fault::Malformed);
    }
    if segment.src_port() == 0 || segment.dst_port() == 0 {
        return Err(Fault::Malformed);
    }
    // What most segments have not is looked at only where it is.
    if usize::from(segment.header_len()) > SHORTEST_HEADER {
        let (source, destination) = (transport.source.into(), transport.destination.into());
        let unchecked = ChecksumCapabilities::ignored();
        TcpRepr::parse(&segment, &source, &destination, &unchecked)
            .map_err(|_| Fault::Malformed)?;
    }
    Ok(Claim::Tcp)
}

fn udp(transport: &Transport<'_>) -> Result<Claim, Fault> {
    let datagram = UdpPacket::new_checked(transport.bytes).map_err(|_| Fault::Malformed)?;
    // A source port of 0 says that no answer is expected (RFC 768).
    match datagram.dst_port() {
        0 => Err(Fault::Malformed),
        port => Ok(Claim::Udp {
            port,
            carries: !datagram.payload().is_empty(),
        }),
    }
}

fn icmpv4(transport: &Transport<'_>) -> Result<Claim, Fault> {
    let message = Icmpv4Packet::new_checked(transport.bytes).map_err(|_| Fault::Malformed)?;
    let right = message.verify_checksum();
    right.then_some(Claim::Host).ok_or(Fault::WrongChecksum)
}

fn icmpv6(
    transport: &Transport<'_>,
    source: Ipv6Addr,
    destination: Ipv6Addr,
) -> Result<Claim, Fault> {
    let message = Icmpv6Packet::new_checked(transport.bytes).map_err(|_| Fault::Malformed)?;
    let right = message.verify_checksum(&source, &destination);
    right.then_some(Claim::Host).ok_or(Fault::WrongChecksum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    const OWN: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
    const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
    const OWN_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
    const PEER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);

    fn judge(packet: &[u8]) -> Result<Claim, Fault> {
        let is_own = |address: IpAddr| address == IpAddr::V4(OWN) || address == IpAddr::V6(OWN_V6);
        sift(packet, is_own, |address| {
            address.is_broadcast() || address == Ipv4Addr::new(10, 0, 0, 255)
        })
    }

    fn v4(protocol: IpProtocol, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; SHORTEST_HEADER + payload.len()];
        bytes[0] = 0x45;
        bytes[8] = 64;
        bytes[SHORTEST_HEADER..].copy_from_slice(payload);
        let length = bytes.len() as u16;
        let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
        packet.set_total_len(length);
        packet.set_next_header(protocol);
        packet.set_src_addr(PEER);
        packet.set_dst_addr(OWN);
        packet.fill_checksum();
        bytes
    }

    /// The packet with some of its header changed, and the checksum made good again.
    fn changed(mut bytes: Vec<u8>, change: impl FnOnce(&mut [u8])) -> Vec<u8> {
        change(&mut bytes);
        Ipv4Packet::new_unchecked(&mut bytes).fill_checksum();
        bytes
    }

    fn v6(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0, 0, payload.len() as u8, protocol, 64];
        bytes.extend(PEER_V6.octets());
        bytes.extend(OWN_V6.octets());
        bytes.extend(payload);
        bytes
    }

    fn segment(flags: u8) -> Vec<u8> {
        let mut bytes = vec![0, 1, 0, 80];
        bytes.extend([0; 8]);
        bytes.extend([0x50, flags, 1, 0, 0, 0, 0, 0]);
        bytes
    }

    const DNS: Claim = Claim::Udp {
        port: 53,
        carries: false,
    };
    const DATAGRAM: [u8; 8] = [0, 9, 0, 53, 0, 8, 0, 0];
    /// An echo request of identifier and number 0, and its checksum.
    const ECHO: [u8; 8] = [8, 0, 0xf7, 0xff, 0, 0, 0, 0];

    #[test]
    fn good_packets_are_told_apart_by_whom_they_are_for() {
        assert_eq!(judge(&v4(IpProtocol::Tcp, &segment(2))), Ok(Claim::Tcp));
        assert_eq!(judge(&v4(IpProtocol::Udp, &DATAGRAM)), Ok(DNS));
        assert_eq!(judge(&v4(IpProtocol::Icmp, &ECHO)), Ok(Claim::Host));
        assert_eq!(judge(&v4(IpProtocol::Igmp, &ECHO)), Ok(Claim::Nobody));
        assert_eq!(judge(&v6(6, &segment(2))), Ok(Claim::Tcp));
        let behind: Vec<u8> = [&[17, 0, 1, 4, 0, 0, 0, 0][..], &DATAGRAM].concat();
        assert_eq!(judge(&v6(0, &behind)), Ok(DNS));
        let all = changed(v4(IpProtocol::Udp, &DATAGRAM), |bytes| bytes[19] = 255);
        assert_eq!(judge(&all), Ok(DNS), "a broadcast");
    }

    #[test]
    fn headers_that_contradict_themselves_are_malformed() {
        let good = v4(IpProtocol::Tcp, &segment(2));
        for (position, value) in [
            (0, 0x44),
            (0, 0x40),
            (0, 0x4f),
            (0, 0x55),
            (2, 0xff),
            (3, 19),
        ] {
            let mut bad = good.clone();
            bad[position] = value;
            let fault = judge(&bad);
            assert!(fault.is_err(), "{position}: {value:#x}");
        }
        for length in 0..good.len() {
            assert_eq!(judge(&good[..length]), Err(Fault::Malformed), "{length}");
        }
        for flags in [0x03, 0x06, 0x05, 0x07, 0x3f] {
            let packet = v4(IpProtocol::Tcp, &segment(flags));
            assert_eq!(judge(&packet), Err(Fault::Malformed), "{flags:#x}");
        }
        for (position, value) in [(1, 0), (3, 0), (12, 0x40), (12, 0x60)] {
            let mut bad = segment(2);
            bad[position] = value;
            let packet = v4(IpProtocol::Tcp, &bad);
            assert_eq!(
                judge(&packet),
                Err(Fault::Malformed),
                "{position}: {value:#x}"
            );
        }
        // An option that is longer than the header.
        let mut bad = segment(2);
        bad[12] = 0x60;
        bad.extend([2, 40, 0, 0]);
        assert_eq!(judge(&v4(IpProtocol::Tcp, &bad)), Err(Fault::Malformed));
        let short = [&DATAGRAM[..4], &[0, 9, 0, 0]].concat();
        assert_eq!(judge(&v4(IpProtocol::Udp, &short)), Err(Fault::Malformed));
        assert_eq!(
            judge(&v6(0, &[17, 9, 0, 0, 0, 0, 0, 0])),
            Err(Fault::Malformed)
        );
    }

    #[test]
    fn addresses_that_no_packet_has_are_malformed_and_others_hosts_misdirected() {
        let from = |source: [u8; 4]| {
            changed(v4(IpProtocol::Udp, &DATAGRAM), |bytes| {
                bytes[12..16].copy_from_slice(&source);
            })
        };
        for source in [
            [127, 0, 0, 1],
            [224, 0, 0, 1],
            [255, 255, 255, 255],
            [240, 0, 0, 1],
            [0, 0, 0, 1],
            [10, 0, 0, 255],
            OWN.octets(),
        ] {
            assert_eq!(judge(&from(source)), Err(Fault::Malformed), "{source:?}");
        }
        let to = |destination: [u8; 4]| {
            changed(v4(IpProtocol::Tcp, &segment(2)), |bytes| {
                bytes[16..20].copy_from_slice(&destination);
            })
        };
        assert_eq!(judge(&to([10, 0, 0, 9])), Err(Fault::Misdirected));
        assert_eq!(judge(&to([127, 0, 0, 1])), Err(Fault::Misdirected));
        assert_eq!(
            judge(&to([224, 0, 0, 1])),
            Err(Fault::Malformed),
            "TCP to a group"
        );
        let mut strange = v6(17, &DATAGRAM);
        strange[8..24].copy_from_slice(&Ipv6Addr::LOCALHOST.octets());
        assert_eq!(judge(&strange), Err(Fault::Malformed));
        let mut strange = v6(17, &DATAGRAM);
        strange[39] = 9;
        assert_eq!(judge(&strange), Err(Fault::Misdirected));
    }

    #[test]
    fn fragments_and_wrong_checksums_are_told() {
        for (position, value) in [(6, 0x20), (7, 1), (6, 0x1f)] {
            let part = changed(v4(IpProtocol::Udp, &DATAGRAM), |bytes| {
                bytes[position] = value
            });
            assert_eq!(judge(&part), Err(Fault::Fragment), "{position}");
        }
        assert_eq!(
            judge(&v6(44, &[17, 0, 0, 1, 0, 0, 0, 0])),
            Err(Fault::Fragment)
        );
        let mut wrong = v4(IpProtocol::Udp, &DATAGRAM);
        wrong[10] ^= 1;
        assert_eq!(judge(&wrong), Err(Fault::WrongChecksum));
        let mut wrong = ECHO;
        wrong[7] = 1;
        assert_eq!(
            judge(&v4(IpProtocol::Icmp, &wrong)),
            Err(Fault::WrongChecksum)
        );
        wrong[0] = 128;
        assert_eq!(judge(&v6(58, &wrong)), Err(Fault::WrongChecksum));
    }
}
