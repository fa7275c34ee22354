//! A segment with data and a FIN, taken apart. smoltcp 0.14 cuts off what of a segment lies beyond the window,
//! and takes the FIN behind it all the same (`process` in socket/tcp.rs): the last bytes would be missing, and
//! nobody would know (RFC 9293, section 3.10.7.4: the FIN is cut off with them). An honest peer sends such
//! segments, because the edge of the window moves back a little where a window is rounded to its unit.

use alloc::vec;
use alloc::vec::Vec;

use smoltcp::phy::{Checksum, ChecksumCapabilities};
use smoltcp::wire::{
    IpAddress, IpProtocol, IpRepr, IpVersion, Ipv4Packet, Ipv6Packet, TcpControl, TcpPacket,
    TcpRepr,
};

use crate::peek::Segment;

/// The IP packets of a segment's two parts.
pub(super) struct Parts {
    /// The data without the FIN.
    pub(super) data: Vec<u8>,
    /// The FIN alone.
    pub(super) end: Vec<u8>,
}

impl Parts {
    /// Takes the segment of a packet apart; `None`: it has no FIN, or nothing else.
    pub(super) fn of(segment: &Segment, packet: &[u8]) -> Option<Parts> {
        if !segment.fin || segment.syn || segment.rst {
            return None;
        }
        let payload = match IpVersion::of_packet(packet).ok()? {
            IpVersion::Ipv4 => Ipv4Packet::new_checked(packet).ok()?.payload(),
            IpVersion::Ipv6 => Ipv6Packet::new_checked(packet).ok()?.payload(),
        };
        let whole = TcpPacket::new_checked(payload).ok()?;
        let (source, destination) = (
            IpAddress::from(segment.flow.remote.ip()),
            IpAddress::from(segment.flow.local.ip()),
        );
        let verified = unverified();
        let repr = TcpRepr::parse(&whole, &source, &destination, &verified).ok()?;
        if repr.payload.is_empty() {
            return None;
        }
        let emit = |part: &TcpRepr<'_>| {
            let ip = IpRepr::new(source, destination, IpProtocol::Tcp, part.buffer_len(), 64);
            let mut packet = vec![0; ip.buffer_len()];
            ip.emit(&mut packet[..], &ChecksumCapabilities::default());
            let mut header = TcpPacket::new_unchecked(packet.get_mut(ip.header_len()..)?);
            part.emit(&mut header, &source, &destination, &verified);
            Some(packet)
        };
        let data = TcpRepr {
            control: TcpControl::None,
            ..repr
        };
        let end = TcpRepr {
            seq_number: repr.seq_number + repr.payload.len(),
            payload: &[],
            ..repr
        };
        Some(Parts {
            data: emit(&data)?,
            end: emit(&end)?,
        })
    }
}

/// The checksum of TCP was verified, and nobody does that again.
fn unverified() -> ChecksumCapabilities {
    let mut checksums = ChecksumCapabilities::default();
    checksums.tcp = Checksum::None;
    checksums
}
