//! What the stack needs of a network card, and the adaptor that shows it to smoltcp.
//!
//! A [`Wire`] carries Ethernet frames: it copies each received one out of memory that others can write
//! before anything looks into it, and lets the stack build sent ones in place. smoltcp sees IP packets
//! only ([`Port`]); the header before each is [`crate::link`]'s. Who implements a wire is left to
//! [`crate::packets`] (the driver's packet rings) and to the tests (a fake cable).

use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::time::Instant;

use crate::link::Link;

/// Bytes of an Ethernet header: addresses and type (IEEE 802.3, clause 3), no VLAN tag.
pub const ETHERNET_HEADER_BYTES: usize = 14;

/// A link to send and receive Ethernet frames on, without their check sequence.
pub trait Wire {
    /// Moves the next received frame into `buffer` and tells its length; `None` when there is none.
    fn receive(&mut self, buffer: &mut [u8]) -> Option<usize>;

    /// Whether [`Wire::build`] has a place to build a frame in.
    fn can_transmit(&mut self) -> bool;

    /// Lets `fill` build a frame of `length` bytes where the driver will find it, and queues it if
    /// `fill` says so. Without a place the frame is built nowhere and lost, as a full cable loses it.
    fn build<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> (R, bool)) -> R;

    /// [`Wire::build`] of a frame that is sent in any case.
    fn transmit<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        self.build(length, |frame| (fill(frame), true))
    }
}

/// A wire, the link layer on it, and the one received IP packet that smoltcp shall see next.
pub(crate) struct Port<'a, W: Wire> {
    pub(crate) wire: &'a mut W,
    pub(crate) link: &'a mut Link,
    pub(crate) packet: Option<&'a [u8]>,
    /// Largest IP packet in bytes.
    pub(crate) mtu: usize,
}

impl<W: Wire> Port<'_, W> {
    /// Lets `fill` build an IP packet of `length` bytes and sends it to its next hop; without room on
    /// the wire it is lost.
    pub(crate) fn send<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> R) -> R {
        let transmit = Transmit {
            wire: self.wire,
            link: self.link,
        };
        transmit.consume(length, fill)
    }
}

/// The packet that [`Port`] holds, already in private memory.
pub(crate) struct Received<'a>(&'a [u8]);

impl RxToken for Received<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

/// The right to send one IP packet.
pub(crate) struct Transmit<'a, W: Wire> {
    wire: &'a mut W,
    link: &'a mut Link,
}

impl<W: Wire> TxToken for Transmit<'_, W> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, f: F) -> R {
        let link = self.link;
        let result = self.wire.build(ETHERNET_HEADER_BYTES + length, |frame| {
            let result = f(frame.get_mut(ETHERNET_HEADER_BYTES..).unwrap_or_default());
            (result, link.head(frame))
        });
        if link.has_requests() {
            link.send_requests(self.wire);
        }
        result
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
        let packet = self.packet.take()?;
        let transmit = Transmit {
            wire: self.wire,
            link: self.link,
        };
        Some((Received(packet), transmit))
    }

    fn transmit(&mut self, _: Instant) -> Option<Self::TxToken<'_>> {
        self.wire.can_transmit().then_some(Transmit {
            wire: self.wire,
            link: self.link,
        })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}
