//! What the stack needs of a network card, and the adaptor that shows it to smoltcp.
//!
//! A [`Wire`] copies each received frame out of memory that others can write before anything looks
//! into it, and lets the stack build sent frames in place. Who implements it is left to
//! [`crate::packets`] (the driver's packet rings) and to the tests (a fake cable).

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

/// Largest Ethernet header in bytes: addresses and type (IEEE 802.3, clause 3), no VLAN tag.
pub const ETHERNET_HEADER_BYTES: usize = 14;

/// A link to send and receive Ethernet frames on, without their check sequence.
pub trait Wire {
    /// Moves the next received frame into `buffer` and tells its length; `None` when there is none.
    fn receive(&mut self, buffer: &mut [u8]) -> Option<usize>;

    /// Whether [`Wire::transmit`] has a place to build a frame in.
    fn can_transmit(&mut self) -> bool;

    /// Lets `fill` build a frame of `length` bytes where the driver will find it, and queues it.
    /// Without a place the frame is built nowhere and lost, as a full cable loses it.
    fn transmit<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R;
}

/// A wire and the one received frame that smoltcp shall see next.
pub(crate) struct Port<'a, W: Wire> {
    pub(crate) wire: &'a mut W,
    pub(crate) frame: Option<&'a [u8]>,
    /// Largest IP packet in bytes.
    pub(crate) mtu: usize,
}

/// The frame that [`Port`] holds, already in private memory.
pub(crate) struct Received<'a>(&'a [u8]);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// The right to send one frame.
pub(crate) struct Transmit<'a, W: Wire>(&'a mut W);

impl<W: Wire> TxToken for Transmit<'_, W> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        self.0.transmit(length, f)
    }
}

impl<W: Wire> Device for Port<'_, W> {
    type RxToken<'b>
        = Received<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Transmit<'b, W>
    where
        Self: 'b;

    fn receive(&mut self, _: Instant) -> Option<(Self::RxToken<'_>, Self::TxToken<'_>)> {
        let frame = self.frame.take()?;
        Some((Received(frame), Transmit(self.wire)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Self::TxToken<'_>> {
        self.wire.can_transmit().then_some(Transmit(self.wire))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        // smoltcp counts the Ethernet header in.
        capabilities.max_transmission_unit = self.mtu + ETHERNET_HEADER_BYTES;
        capabilities
    }
}
