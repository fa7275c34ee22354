//! ARP (RFC 826): requests, answers, and conflicts of addresses (RFC 5227).

use core::net::{IpAddr, Ipv4Addr};

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol,
};

use super::neighbours::Heard;
use super::{BROADCAST, Inbound, Link, Mac, ethernet, is_host};
use crate::wire::{ETHERNET_HEADER_BYTES, Wire};

/// Asks for the Ethernet address of `address`.
pub(super) fn request(
    wire: &mut impl Wire,
    mac: Mac,
    source: Ipv4Addr,
    address: Ipv4Addr,
    to: Mac,
) {
    let request = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Request,
        source_hardware_addr: EthernetAddress(mac),
        source_protocol_addr: source,
        target_hardware_addr: EthernetAddress([0; 6]),
        target_protocol_addr: address,
    };
    send(wire, mac, to, &request);
}

fn send(wire: &mut impl Wire, mac: Mac, to: Mac, packet: &ArpRepr) {
    wire.transmit(ETHERNET_HEADER_BYTES + packet.buffer_len(), |frame| {
        ethernet(frame, to, mac, EthernetProtocol::Arp);
        if let Some(space) = frame.get_mut(ETHERNET_HEADER_BYTES..) {
            packet.emit(&mut ArpPacket::new_unchecked(space));
        }
    });
}

impl Link {
    /// Says to everybody where an address of this host is: neighbours that knew it elsewhere learn, and
    /// one that has it too objects (RFC 5227, section 2.3).
    pub(crate) fn announce(&mut self, wire: &mut impl Wire, address: Ipv4Addr) {
        request(wire, self.mac, address, address, BROADCAST);
    }

    /// Takes an ARP packet; `None`: it is malformed.
    pub(super) fn receive_arp<'f>(
        &mut self,
        wire: &mut impl Wire,
        frame: &EthernetFrame<&'f [u8]>,
    ) -> Option<Inbound<'f>> {
        let packet = ArpPacket::new_checked(frame.payload()).ok()?;
        let ArpRepr::EthernetIpv4 {
            operation,
            source_hardware_addr: EthernetAddress(mac),
            source_protocol_addr: source,
            target_protocol_addr: target,
            ..
        } = ArpRepr::parse(&packet).ok()?
        else {
            return None;
        };
        let known = matches!(operation, ArpOperation::Request | ArpOperation::Reply);
        if !known || !is_host(mac) || mac == self.mac {
            return None;
        }
        if self.is_own(source.into()) {
            if self.may_defend() {
                self.announce(wire, source);
            }
            return Some(Inbound::Conflict(source.into()));
        }
        let for_us = self.is_own(target.into());
        // A probe comes from no address, and nothing is to be learnt from it (RFC 5227, section 2.1.1).
        if is_unicast(source) {
            let request = operation == ArpOperation::Request;
            let heard = Heard {
                solicited: !request && frame.dst_addr().0 == self.mac,
                overrides: true,
                creates: request && for_us,
            };
            self.learn(wire, IpAddr::V4(source), Some(mac), heard);
        }
        if operation == ArpOperation::Request && for_us {
            let reply = ArpRepr::EthernetIpv4 {
                operation: ArpOperation::Reply,
                source_hardware_addr: EthernetAddress(self.mac),
                source_protocol_addr: target,
                target_hardware_addr: EthernetAddress(mac),
                target_protocol_addr: source,
            };
            send(wire, self.mac, mac, &reply);
        }
        Some(Inbound::Nothing)
    }
}

fn is_unicast(address: Ipv4Addr) -> bool {
    !address.is_unspecified() && !address.is_multicast() && !address.is_broadcast()
}
