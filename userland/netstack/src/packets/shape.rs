//! How many packet buffers there are, and how large: what the driver is told when it attaches.

use core::num::NonZeroUsize;

use ipc::interface::net_device::{
    FEATURE_JOINED_RECEIVE, FEATURE_LINK_STATE, FEATURE_RECEIVE_CHECKSUM, FEATURE_SEGMENT_IPV4,
    FEATURE_SEGMENT_IPV6, FEATURE_SEND_CHECKSUM, Geometry, MAX_PACKET_BYTES, RINGS,
};
use ipc::ring::packet_ring_bytes;

use crate::wire::{ETHERNET_HEADER_BYTES, Offloads};

/// Bytes before each packet that the driver may write its header to. With the 14 bytes of the
/// Ethernet header the IP header comes to lie at 78: two bytes past a multiple of four cost x86
/// nothing.
pub(super) const HEADROOM: u32 = 64;
/// A buffer's size is a multiple of this: the largest frame of a 1,500-byte network, the headroom, and
/// a round number.
const UNIT: u32 = 2048;
/// Packets to send that must fit the pool together, so that one can be made while the device has
/// others.
const AT_ONCE: u32 = 4;

/// How many buffers, and how large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Buffers to receive into; also entries of each ring. A power of two from 16 to 2,048.
    pub buffers: u32,
    /// Bytes of one buffer.
    pub buffer_bytes: u32,
    /// Bytes for packets to send, with the headroom of each.
    pub transmit_bytes: u32,
    /// The features of a card that are asked for (`FEATURE_` bits of the interface).
    pub features: u32,
}

impl Shape {
    /// Buffers for packets of up to `mtu` bytes, and as much room for packets to send. All that a card
    /// can do is asked of it, but for joining packets where few of them would fit the buffers.
    pub fn new(buffers: u32, mtu: usize) -> Shape {
        let frame = u32::try_from(crate::stack::frame_bytes(mtu)).unwrap_or(u32::MAX / 2);
        let buffer_bytes = (frame + HEADROOM).next_multiple_of(UNIT);
        Shape {
            buffers,
            buffer_bytes,
            transmit_bytes: buffers * buffer_bytes,
            features: FEATURE_LINK_STATE
                | FEATURE_SEND_CHECKSUM
                | FEATURE_RECEIVE_CHECKSUM
                | FEATURE_SEGMENT_IPV4
                | FEATURE_SEGMENT_IPV6,
        }
        .with_buffers_of(buffer_bytes)
    }

    /// The same with buffers of at least so many bytes: the longer they are, the fewer a joined packet takes.
    #[must_use]
    pub fn with_buffers_of(self, bytes: u32) -> Shape {
        let buffer_bytes = self.buffer_bytes.max(bytes.next_multiple_of(UNIT));
        let enough = (self.buffers * buffer_bytes) as usize >= AT_ONCE as usize * MAX_PACKET_BYTES;
        let joined = if enough { FEATURE_JOINED_RECEIVE } else { 0 };
        Shape {
            buffer_bytes,
            features: self.features | joined,
            ..self
        }
    }

    /// Largest packet that one buffer holds, without its Ethernet header.
    pub fn mtu(self) -> usize {
        (self.buffer_bytes - HEADROOM) as usize - ETHERNET_HEADER_BYTES
    }

    /// Bytes of the longest frame that is sent.
    pub fn longest_sent(self) -> usize {
        let room = self.transmit_bytes / AT_ONCE - HEADROOM;
        (room as usize).clamp(self.mtu() + ETHERNET_HEADER_BYTES, MAX_PACKET_BYTES)
    }

    /// What a card with these features (`FEATURE_` bits) does of the work on packets to send.
    pub fn offloads(self, features: u32) -> Offloads {
        let has = |feature: u32| features & self.features & feature != 0;
        let longest = NonZeroUsize::new(self.longest_sent());
        let checksum = has(FEATURE_SEND_CHECKSUM);
        let segments = |feature| longest.filter(|_| checksum && has(feature));
        Offloads {
            send_checksum: checksum,
            segment_ipv4: segments(FEATURE_SEGMENT_IPV4),
            segment_ipv6: segments(FEATURE_SEGMENT_IPV6),
        }
    }

    /// Bytes of the buffers to receive into.
    pub fn receive_bytes(self) -> u32 {
        self.buffers * self.buffer_bytes
    }

    /// Bytes of the pool.
    pub fn pool_bytes(self) -> usize {
        (self.receive_bytes() + self.transmit_bytes) as usize
    }

    /// Bytes of the memory with the four rings, a multiple of 4,096.
    pub fn ring_bytes(self) -> usize {
        (RINGS * packet_ring_bytes(self.buffers)).next_multiple_of(4096)
    }

    /// The shape as the driver is told it.
    pub fn geometry(self) -> Geometry {
        Geometry {
            pool_bytes: self.pool_bytes() as u64,
            ring_entries: self.buffers,
            receive_buffers: self.buffers,
            buffer_bytes: self.buffer_bytes,
            headroom_bytes: HEADROOM,
            features: self.features,
        }
    }
}
