//! What the stack needs of a network card, and the adaptor that shows it to smoltcp.
//!
//! A [`Wire`] carries Ethernet frames: it copies each received one out of memory that others can write
//! before anything looks into it, and lets the stack build sent ones in place. smoltcp sees IP packets
//! only (`Port`); the header before each is `link`'s. Who implements a wire is left to
//! [`crate::packets`] (the driver's packet rings) and to the tests (a fake cable).

use core::num::{NonZeroU16, NonZeroUsize};

use ipc::interface::net_device::SendOffload;
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken};
use smoltcp::time::Instant;

use crate::checksum;
use crate::link::Link;

/// Bytes of an Ethernet header: addresses and type (IEEE 802.3, clause 3), no VLAN tag.
pub const ETHERNET_HEADER_BYTES: usize = 14;

/// A received frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes of it, its Ethernet header included.
    pub length: usize,
    /// Its TCP or UDP checksum need not be verified: the card did, or it was never computed.
    pub checksum_verified: bool,
}

/// What a card does of the work on packets to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// It completes checksums of TCP and UDP.
    pub send_checksum: bool,
    /// It cuts TCP segments over IPv4 that come in frames of up to this many bytes.
    pub segment_ipv4: Option<NonZeroUsize>,
    /// The same over IPv6.
    pub segment_ipv6: Option<NonZeroUsize>,
}

/// What becomes of a frame that was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is sent, and the card does this to it.
    Send(Option<SendOffload>),
    /// It goes nowhere, now at least.
    Stay,
}

/// A link to send and receive Ethernet frames on, without their check sequence.
pub trait Wire {
    /// Moves the next received frame into `buffer`; `None` when there is none.
    fn receive(&mut self, buffer: &mut [u8]) -> Option<Received>;

    /// Whether [`Wire::build`] has a place to build a frame in.
    fn can_transmit(&mut self) -> bool;

    /// Lets `fill` build a frame of `length` bytes and say what becomes of it. Without a place the frame
    /// is built nowhere and lost, as a full cable loses it.
    fn build<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> (R, Fate)) -> R;

    /// [`Wire::build`] of a frame that is sent in any case, as it is.
    fn transmit<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        self.build(length, |frame| (fill(frame), Fate::Send(None)))
    }
}

/// A wire, the link layer on it, and the one received IP packet that smoltcp shall see next.
pub(crate) struct Port<'a, W: Wire> {
    pub(crate) wire: &'a mut W,
    pub(crate) link: &'a mut Link,
    packet: Option<&'a [u8]>,
    /// Largest IP packet in bytes.
    mtu: usize,
    offloads: Offloads,
}

impl<'a, W: Wire> Port<'a, W> {
    /// A port on a card that takes packets of so many bytes and does so much of the work.
    pub(crate) fn new(
        wire: &'a mut W,
        link: &'a mut Link,
        packet: Option<&'a [u8]>,
        (mtu, offloads): (usize, Offloads),
    ) -> Port<'a, W> {
        Port {
            wire,
            link,
            packet,
            mtu,
            offloads,
        }
    }
}

impl<W: Wire> Port<'_, W> {
    /// The packet that smoltcp sees next.
    pub(crate) fn packet(&self) -> Option<&[u8]> {
        self.packet
    }

    /// The same port with another packet.
    pub(crate) fn with<'b>(&'b mut self, packet: &'b [u8]) -> Port<'b, W> {
        Port {
            wire: self.wire,
            link: self.link,
            packet: Some(packet),
            mtu: self.mtu,
            offloads: self.offloads,
        }
    }

    /// Lets `fill` build an IP packet of `length` bytes and sends it to its next hop; without room on
    /// the wire it is lost.
    pub(crate) fn send<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        self.token().consume(length, fill)
    }

    fn token(&mut self) -> Transmit<'_, W> {
        Transmit {
            wire: self.wire,
            link: self.link,
            offloads: self.offloads,
            segment: None,
        }
    }
}

/// The packet that [`Port`] holds, already in private memory.
pub(crate) struct Packet<'a>(&'a [u8]);

impl RxToken for Packet<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// The right to send one IP packet.
pub(crate) struct Transmit<'a, W: Wire> {
    wire: &'a mut W,
    link: &'a mut Link,
    offloads: Offloads,
    /// The payload of each packet that the card is to cut this one into.
    segment: Option<NonZeroU16>,
}

impl<W: Wire> TxToken for Transmit<'_, W> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let link = self.link;
        let result = self.wire.build(ETHERNET_HEADER_BYTES + length, |frame| {
            let result = f(frame.get_mut(ETHERNET_HEADER_BYTES..).unwrap_or_default());
            let fate = match link.head(frame, self.segment.is_none()) {
                true => Fate::Send(checksum::complete(frame, self.offloads, self.segment)),
                false => Fate::Stay,
            };
            (result, fate)
        });
        if link.has_requests() {
            link.send_requests(self.wire);
        }
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment = meta.segmentation_offload_size;
    }
}

impl<W: Wire> Device for Port<'_, W> {
    type RxToken<'b>
        = Packet<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Transmit<'b, W>
    where
        Self: 'b;

    fn receive(&mut self, _: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let packet = self.packet.take()?;
        Some((Packet(packet), self.token()))
    }

    fn transmit(&mut self, _: Instant) -> Option<Self::TxToken<'_>> {
        self.wire.can_transmit().then(|| self.token())
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        // The link layer does it, or the card.
        capabilities.checksum.tcp = Checksum::None;
        capabilities.checksum.udp = Checksum::None;
        let packet_bytes = |frame: NonZeroUsize| {
            NonZeroUsize::new(frame.get().saturating_sub(ETHERNET_HEADER_BYTES))
        };
        capabilities.segmentation.tcpv4 = self.offloads.segment_ipv4.and_then(packet_bytes);
        // Not over IPv6: smoltcp 0.14 drops packets of it that are longer than the packet size, whoever is to
        // cut them (`dispatch_ip` in iface/interface/mod.rs).
        capabilities.segmentation.tcpv6 = None;
        capabilities
    }
}
