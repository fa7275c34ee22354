//! A network card: packet rings to one network stack.

use super::{interface, service_errors};
use crate::Rights;
use core::num::NonZeroU16;
use serde::{Deserialize, Serialize};

/// Feature: the checksum of what is sent can be left to the device ([`SendOffload`]).
pub const FEATURE_SEND_CHECKSUM: u32 = 1 << 0;
/// Feature: a received packet may come with its checksum verified ([`FLAG_CHECKSUM_VERIFIED`]).
pub const FEATURE_RECEIVE_CHECKSUM: u32 = 1 << 1;
/// Feature: the device's link state is known.
pub const FEATURE_LINK_STATE: u32 = 1 << 2;
/// Feature: the device cuts long TCP segments over IPv4 ([`SendOffload::segment`]).
pub const FEATURE_SEGMENT_IPV4: u32 = 1 << 3;
/// Feature: the device cuts long TCP segments over IPv6.
pub const FEATURE_SEGMENT_IPV6: u32 = 1 << 4;
/// Feature: received TCP segments may come joined, in packets of up to [`MAX_PACKET_BYTES`] that lie
/// in several buffers ([`FLAG_MORE`]).
pub const FEATURE_JOINED_RECEIVE: u32 = 1 << 5;

/// Largest packet in bytes, its Ethernet header included: one of IPv4 has a length of 16 bits
/// (RFC 791, section 3.1).
pub const MAX_PACKET_BYTES: usize = 14 + 65_535;

/// Flag of a received descriptor: the packet goes on in the next one of the ring.
pub const FLAG_MORE: u32 = 1 << 0;
/// Flag of a received packet, in its first descriptor: its TCP or UDP checksum was verified, or
/// never computed because the packet has not left the computer.
pub const FLAG_CHECKSUM_VERIFIED: u32 = 1 << 1;

/// Number of rings between network stack and driver. Each side rings for each of them where the other one
/// waits: the driver may wait until all received packets are taken, instead of being interrupted for the next.
pub const RINGS: usize = 4;
/// Position of the ring of empty buffers, network stack to driver.
pub const RING_RECEIVE_FREE: usize = 0;
/// Position of the ring of received packets, driver to network stack.
pub const RING_RECEIVED: usize = 1;
/// Position of the ring of packets to send, network stack to driver.
pub const RING_TRANSMIT: usize = 2;
/// Position of the ring of packets sent, driver to network stack: the buffers come back.
pub const RING_TRANSMITTED: usize = 3;

/// What the network stack shares with the driver.
///
/// The pool begins with the buffers to receive into, `receive_buffers` of `buffer_bytes` each; what
/// follows them is for packets to send: each lies whole in it, at any place, and before it
/// `headroom_bytes` that are the driver's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geometry {
    /// Size of the packet pool in bytes.
    pub pool_bytes: u64,
    /// Entries of each of the four rings, a power of two from 16 to 4,096.
    pub ring_entries: u32,
    /// Number of buffers to receive into, at least 1.
    pub receive_buffers: u32,
    /// Size of one of them in bytes, 2,048 to 65,536; a received descriptor lies within one buffer.
    pub buffer_bytes: u32,
    /// Bytes before the packet in each buffer, and before each packet to send, that are the driver's
    /// for its header, 0 to 64.
    pub headroom_bytes: u32,
    /// The `FEATURE_` bits that the network stack has a use for: the driver negotiates no others.
    pub features: u32,
}

/// What the card is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Ethernet address.
    pub mac: [u8; 6],
    /// Largest packet without its Ethernet header, in bytes.
    pub mtu: u16,
    /// The `FEATURE_` bits that hold: of those that were asked for.
    pub features: u32,
    /// The bits to signal on the doorbell when a ring asks for it.
    pub doorbell_bits: u64,
}

/// The transport protocol whose checksum is left to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// UDP (RFC 768).
    Udp,
    /// TCP (RFC 9293).
    Tcp,
}

/// What the device is to do with a packet to send, in its descriptor's flags. The packet's checksum
/// field holds the sum of the pseudo-header, not complemented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendOffload {
    /// The transport protocol.
    pub transport: Transport,
    /// Whether the network protocol is IPv6; else IPv4.
    pub ipv6: bool,
    /// Bytes of the network header, options included, a multiple of 4 from 20 to 60. It follows the
    /// Ethernet header of 14 bytes.
    pub network_bytes: u8,
    /// Bytes of the transport header, options included, a multiple of 4 from 8 to 60.
    pub transport_bytes: u8,
    /// Bytes of payload of each packet that the device is to cut this one into; `None`: it is one
    /// packet. TCP alone.
    pub segment: Option<NonZeroU16>,
}

impl SendOffload {
    const PRESENT: u32 = 1 << 0;
    const TCP: u32 = 1 << 1;
    const IPV6: u32 = 1 << 2;
    const NETWORK_SHIFT: u32 = 8;
    const TRANSPORT_SHIFT: u32 = 12;
    const SEGMENT_SHIFT: u32 = 16;

    /// The flags of a packet's descriptor. Lengths out of their ranges do not come back.
    pub fn flags(self) -> u32 {
        let mut flags = Self::PRESENT;
        flags |= u32::from(self.transport == Transport::Tcp) * Self::TCP;
        flags |= u32::from(self.ipv6) * Self::IPV6;
        flags |= (u32::from(self.network_bytes / 4) & 15) << Self::NETWORK_SHIFT;
        flags |= (u32::from(self.transport_bytes / 4) & 15) << Self::TRANSPORT_SHIFT;
        flags |= u32::from(self.segment.map_or(0, NonZeroU16::get)) << Self::SEGMENT_SHIFT;
        flags
    }

    /// What flags ask for: `Ok(None)` where nothing.
    ///
    /// Errors: flags that [`SendOffload::flags`] does not make come back as they are.
    pub fn from_flags(flags: u32) -> Result<Option<SendOffload>, u32> {
        if flags == 0 {
            return Ok(None);
        }
        let words = |shift: u32| ((flags >> shift & 15) as u8) * 4;
        let tcp = flags & Self::TCP != 0;
        let offload = SendOffload {
            transport: if tcp { Transport::Tcp } else { Transport::Udp },
            ipv6: flags & Self::IPV6 != 0,
            network_bytes: words(Self::NETWORK_SHIFT),
            transport_bytes: words(Self::TRANSPORT_SHIFT),
            segment: NonZeroU16::new((flags >> Self::SEGMENT_SHIFT) as u16),
        };
        let smallest = match (offload.ipv6, offload.transport) {
            (false, Transport::Udp) => (20, 8),
            (false, Transport::Tcp) => (20, 20),
            (true, Transport::Udp) => (40, 8),
            (true, Transport::Tcp) => (40, 20),
        };
        let sound = offload.flags() == flags
            && offload.network_bytes >= smallest.0
            && offload.transport_bytes >= smallest.1
            && (tcp || offload.segment.is_none());
        if sound { Ok(Some(offload)) } else { Err(flags) }
    }

    /// Bytes of all headers, the Ethernet header included.
    pub fn header_bytes(self) -> usize {
        14 + usize::from(self.network_bytes) + usize::from(self.transport_bytes)
    }
}

/// The state of the cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Link {
    /// Connected, or the device does not tell.
    Up,
    /// Not connected.
    Down,
}

/// The card's counters since its driver started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Packets received.
    pub received_packets: u64,
    /// Bytes received, Ethernet headers included.
    pub received_bytes: u64,
    /// Packets received and dropped, for any of the reasons that follow.
    pub received_dropped: u64,
    /// Of those: shorter than an Ethernet header, or than the device's own.
    pub received_short: u64,
    /// Of those: longer than [`MAX_PACKET_BYTES`], or than their buffers by what the device says.
    pub received_long: u64,
    /// Of those: damaged, by what the device says.
    pub received_damaged: u64,
    /// Times that the driver found nothing to do while the device had no buffer to receive into: what
    /// arrives then is lost.
    pub starved: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Bytes sent, Ethernet headers included.
    pub sent_bytes: u64,
    /// Descriptors refused, for any of the reasons that follow.
    pub refused_descriptors: u64,
    /// Of those: no buffer to receive into.
    pub refused_buffers: u64,
    /// Of those: a packet to send that does not lie where such packets lie.
    pub refused_places: u64,
    /// Of those: a packet to send that is too short or too long.
    pub refused_lengths: u64,
    /// Of those: flags that mean nothing, or ask for what does not hold.
    pub refused_offloads: u64,
    /// Interrupts taken.
    pub interrupts: u64,
    /// Times the device was notified.
    pub kicks: u64,
}

interface! {
    /// A network card. One session at a time is attached. The packet pool and the rings are the
    /// network stack's own memory: when the driver dies they stay, and are attached again to the
    /// next instance.
    NetDevice = 5, client NetDeviceClient, server NetDeviceServer, error NetDeviceError;

    /// Attaches packet rings and starts the card.
    ///
    /// Arguments: `geometry`; `bits` what the driver signals on `bell`. Handles: `pool` contiguous
    /// memory of the packets; `rings` memory with the four packet rings one after another, each
    /// `ring::packet_ring_bytes(ring_entries)` long, initialised by the network stack; `bell` the
    /// network stack's notification; `lifeline` a badged send right of the network stack's own
    /// endpoint, which the driver keeps as long as the session and never uses: when the driver dies,
    /// the kernel closes it and tells the network stack so. Result: what the card is; `doorbell` the driver's
    /// notification. Errors: NoCard, Busy (another session is attached), OutOfRange, DeviceFailed,
    /// Kernel.
    /// Cost: one call, three mappings and the device's reset.
    ///
    /// A descriptor to receive into names a buffer by any offset in it; one received tells where the
    /// bytes are. One to send has [`SendOffload::flags`]; it comes back the same, when it was sent or
    /// refused, in any order.
    ///
    /// A network stack that corrupts a ring is detached and its session ended. A descriptor out of
    /// the pool, or with flags that were not agreed on, is counted in `refused_descriptors` and not
    /// used.
    ///
    /// Example: `let (card, doorbell) = device.attach(deadline, geometry, 1, pool, rings, bell,
    /// lifeline)?;`
    1 fn attach(geometry: Geometry, bits: u64) [
        pool: copied(Rights::ALL),
        rings: copied(Rights::READ | Rights::WRITE),
        bell: copied(Rights::SIGNAL),
        lifeline: moved(Rights::SEND),
    ] -> Attached [doorbell: copied(Rights::SIGNAL)];

    /// Stops the card and lets pool and rings go.
    ///
    /// Arguments: none. Result: none; the device does not touch the pool any more. Errors:
    /// NotAttached. Cost: one call and the device's reset.
    ///
    /// Example: `device.detach(deadline)?;`
    2 fn detach() -> ();

    /// Tells the counters.
    ///
    /// Arguments: none. Result: the counters. Errors: none of its own. Cost: one call.
    ///
    /// Example: `let dropped = device.statistics(deadline)?.received_dropped;`
    3 fn statistics() -> Statistics;

    /// Tells the state of the link.
    ///
    /// Arguments: none. Result: the state. Errors: none of its own. Cost: one call and one access
    /// to the device. A change is signalled on the network stack's `bell`.
    ///
    /// Example: `let up = device.link(deadline)? == Link::Up;`
    4 fn link() -> Link;

    /// Tells how many cards of the driver's kind the machine has. The driver drives one of them; the
    /// others are not used.
    ///
    /// Arguments: none. Result: the number. Errors: none of its own. Cost: one call.
    ///
    /// Example: `let unused = device.cards(deadline)?.saturating_sub(1);`
    5 fn cards() -> u16;
}

service_errors! {
    /// The card's own errors.
    NetDeviceError {
        /// Another session is attached.
        Busy = "another session is attached to the card",
        /// This session is not attached.
        NotAttached = "this session is not attached to the card",
        /// An argument is out of its documented range, or memory is too small for it.
        OutOfRange = "an argument is out of range",
        /// The device did not come up, or stopped working.
        DeviceFailed = "the device does not work",
        /// The kernel or pci refused the driver what the operation needs.
        Kernel = "the system refused what the operation needs",
        /// The machine has no card of the driver's kind.
        NoCard = "there is no card for this driver",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offloads_come_back_as_they_went() {
        assert_eq!(SendOffload::from_flags(0), Ok(None));
        for transport in [Transport::Udp, Transport::Tcp] {
            for (ipv6, network_bytes) in [(false, 20), (false, 60), (true, 40)] {
                for segment in [None, NonZeroU16::new(1), NonZeroU16::new(1448)] {
                    let offload = SendOffload {
                        transport,
                        ipv6,
                        network_bytes,
                        transport_bytes: if transport == Transport::Tcp { 32 } else { 8 },
                        segment,
                    };
                    let sound = segment.is_none() || transport == Transport::Tcp;
                    let expected = if sound {
                        Ok(Some(offload))
                    } else {
                        Err(offload.flags())
                    };
                    assert_eq!(SendOffload::from_flags(offload.flags()), expected);
                }
            }
        }
    }

    #[test]
    fn flags_that_mean_nothing_are_refused() {
        let tcp = SendOffload {
            transport: Transport::Tcp,
            ipv6: false,
            network_bytes: 20,
            transport_bytes: 20,
            segment: None,
        };
        for flags in [
            tcp.flags() & !1,
            tcp.flags() | 8,
            tcp.flags() & !(15 << 8),
            tcp.flags() & !(15 << 12),
            tcp.flags() | 4,
            u32::MAX,
        ] {
            assert_eq!(SendOffload::from_flags(flags), Err(flags));
        }
    }
}
