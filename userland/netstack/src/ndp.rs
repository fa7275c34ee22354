//! The messages of neighbour discovery (RFC 4861, section 4) and what they carry for the configuration
//! of addresses (RFC 4862) and name servers (RFC 8106): read from packets that anybody may have sent, and
//! written. What follows from one is [`crate::link`]'s and [`crate::address`]'s.

use alloc::boxed::Box;
use core::net::Ipv6Addr;

use heapless::Vec;
use smoltcp::wire::{Icmpv6Packet, IpProtocol, Ipv6Packet, Ipv6Repr};

use crate::link::Mac;

/// Message types (RFC 4861, sections 4.1 to 4.5).
const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
/// Option types (RFC 4861, section 4.6; RFC 8106, section 5.1).
const SOURCE_ADDRESS: u8 = 1;
const TARGET_ADDRESS: u8 = 2;
const PREFIX: u8 = 3;
const MTU: u8 = 5;
const NAME_SERVERS: u8 = 25;
/// Flags of a neighbour advertisement (RFC 4861, section 4.4).
const SOLICITED: u8 = 1 << 6;
const OVERRIDE: u8 = 1 << 5;
/// Flags of a prefix (RFC 4861, section 4.6.2).
const ON_LINK: u8 = 1 << 7;
const AUTONOMOUS: u8 = 1 << 6;
/// Hop limit of these messages: no router has passed them on (RFC 4861, section 11.2).
const HOP_LIMIT: u8 = 255;
/// Bytes of an ICMPv6 header and the four bytes that each message has after it.
const HEADER_BYTES: usize = 8;
/// Bytes of a message that names a target, with the option of an Ethernet address.
const TARGET_BYTES: usize = 24;
const ADDRESS_OPTION_BYTES: usize = 8;
/// Prefixes and name servers taken from one advertisement.
const MAX_PREFIXES: usize = 8;
const MAX_SERVERS: usize = 4;

/// All nodes on the link (RFC 4291, section 2.7.1).
pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// All routers on the link.
pub(crate) const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

/// The group in which the owner of an address listens for solicitations (RFC 4291, section 2.7.1).
pub(crate) fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::new(
        0xff02,
        0,
        0,
        0,
        0,
        1,
        0xff00 | u16::from(a),
        u16::from(b) << 8 | u16::from(c),
    )
}

/// A message that passed the checks of RFC 4861, sections 6.1 and 7.1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// Someone asks where a neighbour is.
    Solicitation {
        /// The unspecified address: it asks whether someone has the address that it means to take.
        source: Ipv6Addr,
        target: Ipv6Addr,
        mac: Option<Mac>,
    },
    /// A neighbour says where it is.
    Advertisement {
        target: Ipv6Addr,
        mac: Option<Mac>,
        solicited: bool,
        overrides: bool,
    },
    /// A router says that it is there, and what it knows of the link.
    Router(Box<RouterAdvertisement>),
    /// Good, and not for a host.
    Other,
}

/// What a router says of the link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RouterAdvertisement {
    /// The router's own address on the link.
    pub(crate) router: Option<Ipv6Addr>,
    pub(crate) mac: Option<Mac>,
    /// For how many seconds it is a default router; 0: it is none.
    pub(crate) lifetime: u16,
    pub(crate) mtu: Option<u32>,
    pub(crate) prefixes: Vec<Prefix, MAX_PREFIXES>,
    /// Name servers, and for how many seconds each holds; 0: no longer.
    pub(crate) name_servers: Vec<(Ipv6Addr, u32), MAX_SERVERS>,
}

/// A prefix of the link (RFC 4861, section 4.6.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Prefix {
    pub(crate) prefix: Ipv6Addr,
    pub(crate) length: u8,
    /// Hosts with this prefix are neighbours.
    pub(crate) on_link: bool,
    /// Hosts may make addresses of it.
    pub(crate) autonomous: bool,
    /// Seconds; `u32::MAX`: for ever.
    pub(crate) valid: u32,
    /// Seconds; `u32::MAX`: for ever.
    pub(crate) preferred: u32,
}

/// Reads an IPv6 packet. `None`: it is no such message; `Some(None)`: it is one, and fails a check.
pub(crate) fn read(packet: &[u8]) -> Option<Option<Message>> {
    let packet = Ipv6Packet::new_checked(packet).ok()?;
    if packet.next_header() != IpProtocol::Icmpv6 {
        return None;
    }
    let kind = *packet.payload().first()?;
    if !(ROUTER_SOLICITATION..=REDIRECT).contains(&kind) {
        return None;
    }
    Some(read_message(&packet, kind))
}

fn read_message(packet: &Ipv6Packet<&[u8]>, kind: u8) -> Option<Message> {
    let (source, destination) = (packet.src_addr(), packet.dst_addr());
    let bytes = packet.payload();
    let intact = bytes.len() >= HEADER_BYTES
        && Icmpv6Packet::new_unchecked(bytes).verify_checksum(&source, &destination);
    let code = *bytes.get(1)?;
    if packet.hop_limit() != HOP_LIMIT || !intact || code != 0 || source.is_multicast() {
        return None;
    }
    match kind {
        ROUTER_ADVERTISEMENT => {
            read_router(source, bytes).map(|said| Message::Router(Box::new(said)))
        }
        NEIGHBOUR_SOLICITATION => read_solicitation(source, destination, bytes),
        NEIGHBOUR_ADVERTISEMENT => read_advertisement(destination, bytes),
        _ => Some(Message::Other),
    }
}

fn read_solicitation(source: Ipv6Addr, destination: Ipv6Addr, bytes: &[u8]) -> Option<Message> {
    let target = target(bytes)?;
    let mac = address_option(bytes.get(TARGET_BYTES..)?, SOURCE_ADDRESS)?;
    // A question whether an address is taken goes to its group and tells nothing of who asks (RFC 4861,
    // section 7.1.1).
    let probe = source.is_unspecified();
    if probe && (mac.is_some() || destination != solicited_node(target)) {
        return None;
    }
    Some(Message::Solicitation {
        source,
        target,
        mac,
    })
}

fn read_advertisement(destination: Ipv6Addr, bytes: &[u8]) -> Option<Message> {
    let target = target(bytes)?;
    let flags = *bytes.get(4)?;
    let mac = address_option(bytes.get(TARGET_BYTES..)?, TARGET_ADDRESS)?;
    let solicited = flags & SOLICITED != 0;
    // Who was asked answers who asked (RFC 4861, section 7.1.2).
    if solicited && destination.is_multicast() {
        return None;
    }
    Some(Message::Advertisement {
        target,
        mac,
        solicited,
        overrides: flags & OVERRIDE != 0,
    })
}

fn read_router(source: Ipv6Addr, bytes: &[u8]) -> Option<RouterAdvertisement> {
    if !source.is_unicast_link_local() {
        return None;
    }
    let mut advertisement = RouterAdvertisement {
        router: Some(source),
        lifetime: u16::from_be_bytes(*bytes.get(6..)?.first_chunk()?),
        ..RouterAdvertisement::default()
    };
    for option in options(bytes.get(16..)?) {
        let (kind, option) = option?;
        match kind {
            SOURCE_ADDRESS => advertisement.mac = option.get(2..8)?.first_chunk().copied(),
            PREFIX => {
                // What is too many is left out.
                let _ = advertisement.prefixes.push(read_prefix(option)?);
            }
            MTU => advertisement.mtu = Some(word(option, 4)?),
            NAME_SERVERS => {
                let lifetime = word(option, 4)?;
                for server in option.get(8..)?.chunks_exact(16) {
                    let server = Ipv6Addr::from(*server.first_chunk::<16>()?);
                    let _ = advertisement.name_servers.push((server, lifetime));
                }
            }
            _ => {}
        }
    }
    Some(advertisement)
}

fn read_prefix(option: &[u8]) -> Option<Prefix> {
    let flags = *option.get(3)?;
    let length = *option.get(2)?;
    Some(Prefix {
        prefix: Ipv6Addr::from(*option.get(16..32)?.first_chunk::<16>()?),
        length: (length <= 128).then_some(length)?,
        on_link: flags & ON_LINK != 0,
        autonomous: flags & AUTONOMOUS != 0,
        valid: word(option, 4)?,
        preferred: word(option, 8)?,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|word| u32::from_be_bytes(*word))
}

/// The target of a message that has one, which is no group.
fn target(bytes: &[u8]) -> Option<Ipv6Addr> {
    let target = Ipv6Addr::from(*bytes.get(8..TARGET_BYTES)?.first_chunk::<16>()?);
    (!target.is_multicast() && !target.is_unspecified()).then_some(target)
}

/// The Ethernet address in the option of this kind; `None`: an option is malformed.
fn address_option(bytes: &[u8], wanted: u8) -> Option<Option<Mac>> {
    let mut found = None;
    for option in options(bytes) {
        let (kind, option) = option?;
        if kind == wanted {
            found = Some(*option.get(2..8)?.first_chunk::<6>()?);
        }
    }
    Some(found)
}

/// The options of a message with their headers; `None` in the place of one that has no length or ends
/// beyond the message, after which there is no other (RFC 4861, section 4.6).
fn options(bytes: &[u8]) -> impl Iterator<Item = Option<(u8, &[u8])>> {
    let mut rest = Some(bytes);
    core::iter::from_fn(move || {
        let bytes = rest.take().filter(|bytes| !bytes.is_empty())?;
        let option = bytes.first_chunk::<2>().and_then(|[kind, units]| {
            let length = usize::from(*units) * 8;
            let (option, after) = bytes.split_at_checked(length)?;
            rest = (length > 0).then_some(after);
            rest.map(|_| (*kind, option))
        });
        Some(option)
    })
}

/// A message to send.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sent {
    /// Asks where a neighbour is; from no address, whether someone has it.
    Solicitation { target: Ipv6Addr },
    /// Says where this host is.
    Advertisement { target: Ipv6Addr, solicited: bool },
    /// Asks routers to say what they know.
    RouterSolicitation,
}

impl Sent {
    /// Bytes of the whole IPv6 packet, from this source.
    pub(crate) fn bytes(self, source: Ipv6Addr) -> usize {
        smoltcp::wire::IPV6_HEADER_LEN + self.body_bytes(source)
    }

    fn body_bytes(self, source: Ipv6Addr) -> usize {
        let fixed = match self {
            Sent::Solicitation { .. } | Sent::Advertisement { .. } => TARGET_BYTES,
            Sent::RouterSolicitation => HEADER_BYTES,
        };
        // Who has no address yet does not say where it is (RFC 4861, sections 4.1 and 4.3).
        let tells = !source.is_unspecified();
        fixed + if tells { ADDRESS_OPTION_BYTES } else { 0 }
    }

    /// Writes the IPv6 packet.
    pub(crate) fn write(
        self,
        source: Ipv6Addr,
        destination: Ipv6Addr,
        mac: Mac,
        packet: &mut [u8],
    ) {
        let header = Ipv6Repr {
            src_addr: source,
            dst_addr: destination,
            next_header: IpProtocol::Icmpv6,
            payload_len: self.body_bytes(source),
            hop_limit: HOP_LIMIT,
        };
        let mut packet = Ipv6Packet::new_unchecked(packet);
        header.emit(&mut packet);
        let body = packet.payload_mut();
        body.fill(0);
        let (kind, option) = match self {
            Sent::Solicitation { .. } => (NEIGHBOUR_SOLICITATION, SOURCE_ADDRESS),
            Sent::Advertisement { .. } => (NEIGHBOUR_ADVERTISEMENT, TARGET_ADDRESS),
            Sent::RouterSolicitation => (ROUTER_SOLICITATION, SOURCE_ADDRESS),
        };
        body[0] = kind;
        let fixed = match self {
            Sent::Solicitation { target } | Sent::Advertisement { target, .. } => {
                body[HEADER_BYTES..TARGET_BYTES].copy_from_slice(&target.octets());
                TARGET_BYTES
            }
            Sent::RouterSolicitation => HEADER_BYTES,
        };
        if let Sent::Advertisement { solicited, .. } = self {
            body[4] = OVERRIDE | if solicited { SOLICITED } else { 0 };
        }
        if let Some([kind, units, address @ ..]) = body.get_mut(fixed..fixed + ADDRESS_OPTION_BYTES)
        {
            (*kind, *units) = (option, 1);
            address.copy_from_slice(&mac);
        }
        Icmpv6Packet::new_unchecked(body).fill_checksum(&source, &destination);
    }
}
