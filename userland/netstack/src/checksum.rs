//! The checksums of TCP and UDP (RFC 9293, section 3.1; RFC 768), of whole frames: verified on what was
//! received and completed on what is sent, or left to the card where it offers that.
//!
//! smoltcp is told that the card does all of this, so that there is one place for it. The checksums of
//! IPv4 headers and of ICMP are smoltcp's.

use core::num::NonZeroU16;

use ipc::interface::net_device::{SendOffload, Transport};
use smoltcp::wire::{
    EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6ExtHeader, Ipv6Packet,
};

use crate::wire::{ETHERNET_HEADER_BYTES, Offloads};

/// The sum of 16-bit words in ones' complement (RFC 1071), unfolded, in the machine's byte order
/// (RFC 1071, section 2, B: the order does not matter until the end).
#[derive(Clone, Copy)]
struct Sum(u64);

impl Sum {
    /// The sum of bytes that begin at an even place of what is summed. Eight bytes a step: both halves
    /// of a word are added up, which congruence modulo 65,535 allows.
    fn of(bytes: &[u8]) -> Sum {
        let (words, rest) = bytes.as_chunks::<8>();
        let (mut low, mut high) = (0u64, 0u64);
        for word in words {
            let word = u64::from_ne_bytes(*word);
            low += word & 0xffff_ffff;
            high += word >> 32;
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        let last = u64::from_ne_bytes(last);
        low += (last & 0xffff_ffff) + (last >> 32);
        Sum(low + high)
    }

    /// A 16-bit number of the network's byte order.
    fn number(value: u16) -> Sum {
        Sum(u16::from_ne_bytes(value.to_be_bytes()).into())
    }

    fn and(self, other: Sum) -> Sum {
        Sum(self.0 + other.0)
    }

    /// Folded into 16 bits, as the bytes that go into a packet.
    fn bytes(self) -> [u8; 2] {
        let mut sum = (self.0 >> 32) + (self.0 & 0xffff_ffff);
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        (sum as u16).to_ne_bytes()
    }
}

/// Where the TCP or UDP packet of a frame is.
struct Place {
    transport: Transport,
    ipv6: bool,
    /// Offset of the transport header in the frame.
    start: usize,
    /// Its end, and the frame's, but for what pads it.
    end: usize,
    /// The sum of the pseudo-header.
    pseudo: Sum,
}

impl Place {
    /// `None`: a frame of something else, a fragment, or nothing whole.
    fn find(frame: &[u8]) -> Option<Place> {
        let ethernet = EthernetFrame::new_checked(frame).ok()?;
        match ethernet.ethertype() {
            EthernetProtocol::Ipv4 => Place::ipv4(ethernet.payload()),
            EthernetProtocol::Ipv6 => Place::ipv6(ethernet.payload()),
            _ => None,
        }
    }

    fn ipv4(bytes: &[u8]) -> Option<Place> {
        let packet = Ipv4Packet::new_checked(bytes).ok()?;
        if packet.more_frags() || packet.frag_offset() != 0 {
            return None;
        }
        let (start, end) = (packet.header_len(), packet.total_len());
        // Source and destination follow one another (RFC 791, section 3.1).
        let addresses = bytes.get(12..20)?;
        Place::new(
            packet.next_header(),
            false,
            (start.into(), end.into()),
            addresses,
        )
    }

    fn ipv6(bytes: &[u8]) -> Option<Place> {
        let packet = Ipv6Packet::new_checked(bytes).ok()?;
        let (mut protocol, mut start, end) = (packet.next_header(), 40, packet.total_len());
        // The only extension header that smoltcp looks behind (RFC 8200, section 4.3).
        if protocol == IpProtocol::HopByHop {
            let options = Ipv6ExtHeader::new_checked(bytes.get(start..end)?).ok()?;
            protocol = options.next_header();
            start += (usize::from(options.header_len()) + 1) * 8;
        }
        // Source and destination (RFC 8200, section 3).
        Place::new(protocol, true, (start, end), bytes.get(8..40)?)
    }

    /// `range` is the transport packet's in the IP packet.
    fn new(
        protocol: IpProtocol,
        ipv6: bool,
        (start, end): (usize, usize),
        addresses: &[u8],
    ) -> Option<Place> {
        let (transport, smallest) = match protocol {
            IpProtocol::Tcp => (Transport::Tcp, 20),
            IpProtocol::Udp => (Transport::Udp, 8),
            _ => return None,
        };
        let length = end
            .checked_sub(start)
            .filter(|length| *length >= smallest)?;
        // RFC 9293, section 3.1, and RFC 8200, section 8.1: the sums of the two layouts are equal.
        let pseudo = Sum::of(addresses)
            .and(Sum::number(u8::from(protocol).into()))
            .and(Sum::number(length as u16));
        Some(Place {
            transport,
            ipv6,
            start: ETHERNET_HEADER_BYTES + start,
            end: ETHERNET_HEADER_BYTES + end,
            pseudo,
        })
    }

    /// Offset of the checksum in the frame.
    fn field(&self) -> usize {
        self.start
            + match self.transport {
                Transport::Tcp => 16,
                Transport::Udp => 6,
            }
    }
}

/// Whether a received frame may be looked into: its TCP or UDP checksum is right, or it has none to
/// verify.
pub(crate) fn is_right(frame: &[u8]) -> bool {
    let Some(place) = Place::find(frame) else {
        return true;
    };
    let Some(packet) = frame.get(place.start..place.end) else {
        return true;
    };
    let field = frame.get(place.field()..place.field() + 2);
    // The sender computed none (RFC 768), which IPv6 does not allow (RFC 8200, section 8.1).
    if place.transport == Transport::Udp && field == Some(&[0, 0]) {
        return !place.ipv6;
    }
    place.pseudo.and(Sum::of(packet)).bytes() == [0xff, 0xff]
}

/// Completes a frame to send: the checksum of TCP or UDP, or what the card needs to do so. `segment` is
/// the payload of each packet that the card is to cut it into.
pub(crate) fn complete(
    frame: &mut [u8],
    offloads: Offloads,
    segment: Option<NonZeroU16>,
) -> Option<SendOffload> {
    let place = Place::find(frame)?;
    let field = place.field();
    let offload = (offloads.send_checksum || segment.is_some())
        .then(|| offload(frame, &place, segment))
        .flatten();
    let checksum = match offload {
        Some(_) => place.pseudo.bytes(),
        None => {
            frame.get_mut(field..field + 2)?.fill(0);
            let sum = place
                .pseudo
                .and(Sum::of(frame.get(place.start..place.end)?));
            let [high, low] = sum.bytes();
            match [!high, !low] {
                // Zero says that there is none (RFC 768); both are zero in ones' complement.
                [0, 0] if place.transport == Transport::Udp => [0xff, 0xff],
                checksum => checksum,
            }
        }
    };
    frame.get_mut(field..field + 2)?.copy_from_slice(&checksum);
    offload
}

fn offload(frame: &[u8], place: &Place, segment: Option<NonZeroU16>) -> Option<SendOffload> {
    let transport_bytes = match place.transport {
        // The data offset, in words (RFC 9293, section 3.1).
        Transport::Tcp => (frame.get(place.start + 12)? >> 4) * 4,
        Transport::Udp => 8,
    };
    Some(SendOffload {
        transport: place.transport,
        ipv6: place.ipv6,
        network_bytes: u8::try_from(place.start - ETHERNET_HEADER_BYTES).ok()?,
        transport_bytes,
        segment,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{IpAddress, IpRepr, UdpPacket, UdpRepr, checksum};

    /// A UDP frame whose checksum smoltcp computes, with this many bytes.
    fn frame(ipv6: bool, length: usize) -> Vec<u8> {
        let (from, to) = match ipv6 {
            false => (
                IpAddress::v4(10, 0, 2, 15),
                IpAddress::v4(192, 168, 255, 254),
            ),
            true => (
                IpAddress::v6(0xfe80, 0, 0, 0, 1, 2, 3, 0xffff),
                IpAddress::v6(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
            ),
        };
        let udp = UdpRepr {
            src_port: 5000,
            dst_port: 65_000,
        };
        let ip = IpRepr::new(from, to, IpProtocol::Udp, 8 + length, 64);
        let mut bytes = vec![0; 14 + ip.buffer_len()];
        let mut ethernet = EthernetFrame::new_unchecked(&mut bytes[..]);
        ethernet.set_ethertype(match ipv6 {
            false => EthernetProtocol::Ipv4,
            true => EthernetProtocol::Ipv6,
        });
        let checksums = ChecksumCapabilities::default();
        ip.emit(ethernet.payload_mut(), &checksums);
        let start = 14 + ip.header_len();
        let mut packet = UdpPacket::new_unchecked(&mut bytes[start..]);
        let fill = |payload: &mut [u8]| {
            for (index, byte) in payload.iter_mut().enumerate() {
                *byte = (index * 37 + length) as u8;
            }
        };
        udp.emit(&mut packet, &from, &to, length, fill, &checksums);
        bytes
    }

    #[test]
    fn sums_are_those_of_another_implementation() {
        for length in (0..70).chain([1471, 1472, 65_507]) {
            for ipv6 in [false, true] {
                let good = frame(ipv6, length);
                assert!(is_right(&good), "{length}");
                let mut padded = good.clone();
                padded.extend([0xaa; 5]);
                assert!(is_right(&padded), "what pads a frame is not summed");
                let mut mine = good.clone();
                let place = Place::find(&mine).unwrap();
                mine[place.field()..][..2].fill(0x55);
                assert_eq!(complete(&mut mine, Offloads::default(), None), None);
                assert_eq!(mine, good);
            }
        }
    }

    #[test]
    fn every_wrong_byte_is_noticed() {
        for ipv6 in [false, true] {
            let good = frame(ipv6, 33);
            let place = Place::find(&good).unwrap();
            for index in (place.start..place.end).chain([14 + 15]) {
                let mut bad = good.clone();
                bad[index] ^= 4;
                assert!(!is_right(&bad) || Place::find(&bad).is_none(), "{index}");
            }
        }
    }

    #[test]
    fn udp_without_a_checksum_is_right_over_ipv4_alone() {
        for ipv6 in [false, true] {
            let mut bytes = frame(ipv6, 10);
            let field = Place::find(&bytes).unwrap().field();
            bytes[field..][..2].fill(0);
            assert_eq!(is_right(&bytes), !ipv6);
        }
    }

    #[test]
    fn what_is_left_to_the_card_has_the_sum_of_the_pseudo_header() {
        let offloads = Offloads {
            send_checksum: true,
            ..Offloads::default()
        };
        let mut bytes = frame(false, 100);
        let offload = complete(&mut bytes, offloads, None).unwrap();
        assert_eq!(
            (offload.transport, offload.ipv6, offload.header_bytes()),
            (Transport::Udp, false, 14 + 20 + 8)
        );
        let expected = checksum::pseudo_header(
            &IpAddress::v4(10, 0, 2, 15),
            &IpAddress::v4(192, 168, 255, 254),
            IpProtocol::Udp,
            108,
        );
        assert_eq!(bytes[14 + 20 + 6..][..2], expected.to_be_bytes());
    }

    #[test]
    fn what_is_no_whole_packet_is_left_as_it_is() {
        let good = frame(false, 40);
        for length in 0..good.len() {
            let mut cut = good[..length].to_vec();
            assert!(is_right(&cut), "nothing to verify: smoltcp drops it");
            let before = cut.clone();
            assert_eq!(complete(&mut cut, Offloads::default(), None), None);
            assert_eq!(cut, before);
        }
    }
}
