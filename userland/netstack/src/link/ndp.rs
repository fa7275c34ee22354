//! Neighbour discovery (RFC 4861) as far as it finds neighbours: solicitations and advertisements.

use core::net::{IpAddr, Ipv6Addr};

use smoltcp::wire::EthernetProtocol;

use super::neighbours::Heard;
use super::{Inbound, Link, Mac, ethernet, group_of};
use crate::ndp::{ALL_NODES, Message, Sent, solicited_node};
use crate::wire::{ETHERNET_HEADER_BYTES, Fate, Wire};

/// Asks for the Ethernet address of `target`: at the one that it had, or in its group.
pub(super) fn solicit(
    wire: &mut impl Wire,
    mac: Mac,
    source: Ipv6Addr,
    target: Ipv6Addr,
    to: Option<Mac>,
) {
    let group = solicited_node(target);
    let (destination, to) = match to {
        Some(to) => (target, to),
        None => (group, group_of(group)),
    };
    send(
        wire,
        (mac, to),
        (source, destination),
        Sent::Solicitation { target },
    );
}

fn send(
    wire: &mut impl Wire,
    (from, to): (Mac, Mac),
    (source, destination): (Ipv6Addr, Ipv6Addr),
    message: Sent,
) {
    wire.transmit(ETHERNET_HEADER_BYTES + message.bytes(source), |frame| {
        ethernet(frame, to, from, EthernetProtocol::Ipv6);
        if let Some(packet) = frame.get_mut(ETHERNET_HEADER_BYTES..) {
            message.write(source, destination, from, packet);
        }
    });
}

impl Link {
    /// Takes a message that passed its checks.
    pub(super) fn receive_ndp<'f>(
        &mut self,
        wire: &mut impl Wire,
        message: Message,
    ) -> Inbound<'f> {
        match message {
            Message::Advertisement { target, .. } if self.is_own_or_will_be(target) => {
                return Inbound::Conflict(target.into());
            }
            Message::Solicitation { source, target, .. }
                if source.is_unspecified() && self.tentative.contains(&target) =>
            {
                return Inbound::Conflict(target.into());
            }
            Message::Solicitation {
                source,
                target,
                mac,
            } => self.receive_solicitation(wire, source, target, mac),
            Message::Advertisement {
                target,
                mac,
                solicited,
                overrides,
            } => {
                let heard = Heard {
                    solicited,
                    overrides,
                    creates: false,
                };
                self.learn(wire, IpAddr::V6(target), mac, heard);
            }
            Message::Router(said) => {
                if let (Some(router), Some(_)) = (said.router, said.mac) {
                    let heard = Heard {
                        solicited: false,
                        overrides: true,
                        creates: true,
                    };
                    self.learn(wire, router.into(), said.mac, heard);
                }
                return Inbound::Router(said);
            }
            Message::Other => {}
        }
        Inbound::Nothing
    }

    fn is_own_or_will_be(&self, address: Ipv6Addr) -> bool {
        self.is_own(address.into()) || self.tentative.contains(&address)
    }

    fn receive_solicitation(
        &mut self,
        wire: &mut impl Wire,
        source: Ipv6Addr,
        target: Ipv6Addr,
        mac: Option<Mac>,
    ) {
        if !self.is_own(target.into()) {
            return;
        }
        let from = self.mac;
        if source.is_unspecified() {
            // Someone is about to take this host's address: everybody is told (RFC 4861, section 7.2.4).
            let answer = Sent::Advertisement {
                target,
                solicited: false,
            };
            let to = (from, group_of(ALL_NODES));
            return send(wire, to, (target, ALL_NODES), answer);
        }
        let heard = Heard {
            solicited: false,
            overrides: true,
            creates: true,
        };
        self.learn(wire, source.into(), mac, heard);
        let answer = Sent::Advertisement {
            target,
            solicited: true,
        };
        // By way of the neighbour cache, which may have to ask for who asked.
        let length = ETHERNET_HEADER_BYTES + answer.bytes(target);
        wire.build(length, |frame| {
            if let Some(packet) = frame.get_mut(ETHERNET_HEADER_BYTES..) {
                answer.write(target, source, from, packet);
            }
            match self.head(frame, true) {
                true => ((), Fate::Send(None)),
                false => ((), Fate::Stay),
            }
        });
    }
}
