//! The header that stands before every packet in a buffer, `struct virtio_net_hdr` (VIRTIO 1.2, section
//! 5.1.6): what is asked of the device with a packet to send, and what it says of a received one.

use ipc::interface::net_device::{SendOffload, Transport};
use net_driver::ethernet;

/// Bytes of the structure without its `num_buffers`, which a legacy device has only with mergeable
/// buffers (VIRTIO 1.2, section 5.1.6.1).
pub(crate) const SHORT_BYTES: usize = 10;
/// Bytes of the whole structure.
pub(crate) const BYTES: usize = 12;

/// `flags`: the checksum is to be computed (VIRTIO_NET_HDR_F_NEEDS_CSUM).
const NEEDS_CHECKSUM: u8 = 1;
/// `flags`: the checksum was verified (VIRTIO_NET_HDR_F_DATA_VALID).
const DATA_VALID: u8 = 2;
/// `gso_type`: TCP over IPv4 (VIRTIO_NET_HDR_GSO_TCPV4).
const SEGMENT_TCP_IPV4: u8 = 1;
/// `gso_type`: TCP over IPv6 (VIRTIO_NET_HDR_GSO_TCPV6).
const SEGMENT_TCP_IPV6: u8 = 4;

/// Where the checksum lies in a TCP header (RFC 9293, section 3.1).
const TCP_CHECKSUM: u16 = 16;
/// Where it lies in a UDP header (RFC 768).
const UDP_CHECKSUM: u16 = 6;
/// Bytes of the smallest header of IPv4 (RFC 791, section 3.1).
const SMALLEST_NETWORK_HEADER: usize = 20;

/// What a packet to send begins with: the wishes for it (VIRTIO 1.2, section 5.1.6.2). All fields are
/// little-endian; those of a legacy device are the processor's own, which is the same on x86.
pub(crate) fn to_send(offload: Option<SendOffload>) -> [u8; BYTES] {
    let mut header = [0; BYTES];
    let Some(offload) = offload else {
        return header;
    };
    let mut field = |at: usize, value: u16| {
        header[at..at + 2].copy_from_slice(&value.to_le_bytes());
    };
    if let Some(segment) = offload.segment {
        field(2, offload.header_bytes() as u16);
        field(4, segment.get());
    }
    field(
        6,
        ethernet::HEADER_BYTES as u16 + u16::from(offload.network_bytes),
    );
    field(8, checksum_offset(offload.transport));
    header[0] = NEEDS_CHECKSUM;
    header[1] = match (offload.segment, offload.ipv6) {
        (None, _) => 0,
        (Some(_), false) => SEGMENT_TCP_IPV4,
        (Some(_), true) => SEGMENT_TCP_IPV6,
    };
    header
}

fn checksum_offset(transport: Transport) -> u16 {
    match transport {
        Transport::Tcp => TCP_CHECKSUM,
        Transport::Udp => UDP_CHECKSUM,
    }
}

/// What the device says of a received packet: a copy, which it can change no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Said([u8; BYTES]);

impl Said {
    /// What the header says.
    pub(crate) fn new(header: [u8; BYTES]) -> Said {
        Said(header)
    }

    /// What the header without `num_buffers` says.
    pub(crate) fn short(header: [u8; SHORT_BYTES]) -> Said {
        let mut whole = [0; BYTES];
        whole[..SHORT_BYTES].copy_from_slice(&header);
        Said(whole)
    }

    fn field(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    /// Buffers that the packet lies in (`num_buffers`; VIRTIO 1.2, section 5.1.6.4).
    pub(crate) fn buffers(&self) -> u16 {
        self.field(10)
    }

    /// Whether the packet's TCP or UDP checksum needs no look, where that was agreed on: the device has
    /// verified it, or it was never computed because the packet has not left the computer (VIRTIO 1.2,
    /// section 5.1.6.4). A checksum somewhere else is not the packet's own.
    pub(crate) fn is_verified(&self) -> bool {
        if self.0[0] & NEEDS_CHECKSUM != 0 {
            let start = usize::from(self.field(6));
            let own = [TCP_CHECKSUM, UDP_CHECKSUM].contains(&self.field(8));
            return own && start >= ethernet::HEADER_BYTES + SMALLEST_NETWORK_HEADER;
        }
        self.0[0] & DATA_VALID != 0
    }
}

#[cfg(test)]
mod tests {
    use core::num::NonZeroU16;

    use super::*;

    const SEGMENTED: SendOffload = SendOffload {
        transport: Transport::Tcp,
        ipv6: false,
        network_bytes: 20,
        transport_bytes: 32,
        segment: NonZeroU16::new(1448),
    };

    #[test]
    fn wishes_are_written_where_the_specification_has_them() {
        assert_eq!(to_send(None), [0; BYTES]);
        let [low, high] = 1448u16.to_le_bytes();
        let expected = [1, 1, 66, 0, low, high, 34, 0, 16, 0, 0, 0];
        assert_eq!(to_send(Some(SEGMENTED)), expected);
        let ipv6 = SendOffload {
            ipv6: true,
            network_bytes: 40,
            ..SEGMENTED
        };
        let expected = [1, 4, 86, 0, low, high, 54, 0, 16, 0, 0, 0];
        assert_eq!(to_send(Some(ipv6)), expected);
        let datagram = SendOffload {
            transport: Transport::Udp,
            transport_bytes: 8,
            segment: None,
            ..SEGMENTED
        };
        let expected = [1, 0, 0, 0, 0, 0, 34, 0, 6, 0, 0, 0];
        assert_eq!(to_send(Some(datagram)), expected);
    }

    #[test]
    fn a_checksum_is_verified_where_it_is_the_packet_s_own() {
        let said = |flags, start: u8, offset: u8| {
            Said::new([flags, 0, 0, 0, 0, 0, start, 0, offset, 0, 3, 1])
        };
        assert_eq!(said(0, 0, 0).buffers(), 0x103);
        let verified = [(2, 0, 0), (3, 34, 16), (1, 34, 6), (1, 54, 16)];
        for (flags, start, offset) in verified {
            let said = said(flags, start, offset);
            assert!(said.is_verified(), "{said:?}");
        }
        for (flags, start, offset) in [(0, 0, 0), (4, 34, 16), (1, 34, 17), (3, 33, 16)] {
            let said = said(flags, start, offset);
            assert!(!said.is_verified(), "{said:?}");
        }
        assert!(Said::short([2, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_verified());
    }
}
