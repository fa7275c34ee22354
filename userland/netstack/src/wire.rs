//! What the stack needs of a network card, and the adaptor that shows it to smoltcp.
//!
//! A [`Wire`] copies each received frame out of memory that others can write before anything looks
//! into it, and lets the stack build sent frames in place. Who implements it is left to
//! [`crate::packets`] (the driver's packet rings) and to the tests (a fake cable).

use core::num::{NonZeroU16, NonZeroUsize};

use ipc::interface::net_device::SendOffload;
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, PacketMeta, RxToken, TxToken};
use smoltcp::time::Instant;

use crate::checksum;

/// Largest Ethernet header in bytes: addresses and type (IEEE 802.3, clause 3), no VLAN tag.
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

/// A link to send and receive Ethernet frames on, without their check sequence.
pub trait Wire {
    /// Moves the next received frame into `buffer`; `None` when there is none.
    fn receive(&mut self, buffer: &mut [u8]) -> Option<Received>;

    /// Whether [`Wire::transmit`] has a place to build a frame in.
    fn can_transmit(&mut self) -> bool;

    /// Lets `fill` build a frame of `length` bytes and say what is left to the card, and queues it.
    /// Without a place the frame is built nowhere and lost, as a full cable loses it.
    fn transmit<R>(
        &mut self,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> (Option<SendOffload>, R),
    ) -> R;
}

/// A wire and the one received frame that smoltcp shall see next.
pub(crate) struct Port<'a, W: Wire> {
    pub(crate) wire: &'a mut W,
    pub(crate) frame: Option<&'a [u8]>,
    /// Largest IP packet in bytes.
    pub(crate) mtu: usize,
    pub(crate) offloads: Offloads,
}

/// The frame that [`Port`] holds, already in private memory.
pub(crate) struct Frame<'a>(&'a [u8]);

impl RxToken for Frame<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// The right to send one frame.
pub(crate) struct Transmit<'a, W: Wire> {
    wire: &'a mut W,
    offloads: Offloads,
    /// The payload of each packet that the card is to cut the frame into.
    segment: Option<NonZeroU16>,
}

impl<W: Wire> TxToken for Transmit<'_, W> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        self.wire.transmit(length, |frame| {
            let result = f(frame);
            (
                checksum::complete(frame, self.offloads, self.segment),
                result,
            )
        })
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment = meta.segmentation_offload_size;
    }
}

impl<W: Wire> Port<'_, W> {
    fn token(&mut self) -> Transmit<'_, W> {
        Transmit {
            wire: self.wire,
            offloads: self.offloads,
            segment: None,
        }
    }
}

impl<W: Wire> Device for Port<'_, W> {
    type RxToken<'b>
        = Frame<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Transmit<'b, W>
    where
        Self: 'b;

    fn receive(&mut self, _: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let frame = self.frame.take()?;
        Some((Frame(frame), self.token()))
    }

    fn transmit(&mut self, _: Instant) -> Option<Self::TxToken<'_>> {
        self.wire.can_transmit().then(|| self.token())
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        // smoltcp counts the Ethernet header in.
        capabilities.max_transmission_unit = self.mtu + ETHERNET_HEADER_BYTES;
        capabilities.checksum.tcp = Checksum::None;
        capabilities.checksum.udp = Checksum::None;
        capabilities.segmentation.tcpv4 = self.offloads.segment_ipv4;
        capabilities.segmentation.tcpv6 = self.offloads.segment_ipv6;
        capabilities
    }
}
