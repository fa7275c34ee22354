//! The messages of DHCP (RFC 2131, section 2) with the options that a client needs (RFC 2132, RFC 3442).
//!
//! What comes in may come from anybody: every length is checked, and a message with an option that ends
//! beyond it is refused whole.

use core::net::{IpAddr, Ipv4Addr};

use heapless::Vec;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    DHCP_CLIENT_PORT, DHCP_SERVER_PORT, DhcpMessageType, DhcpOpCode, DhcpPacket, DhcpRepr,
    EthernetAddress, IpProtocol, Ipv4Packet, Ipv4Repr, UDP_HEADER_LEN, UdpPacket, UdpRepr,
};

use crate::config::Cidr;
use crate::link::{Mac, Route};

/// Options (RFC 2132; 121: RFC 3442).
const PAD: u8 = 0;
const SUBNET_MASK: u8 = 1;
const ROUTERS: u8 = 3;
const NAME_SERVERS: u8 = 6;
const MTU: u8 = 26;
const LEASE_TIME: u8 = 51;
const OVERLOAD: u8 = 52;
const MESSAGE_TYPE: u8 = 53;
const SERVER_IDENTIFIER: u8 = 54;
const RENEWAL_TIME: u8 = 58;
const REBINDING_TIME: u8 = 59;
const CLASSLESS_ROUTES: u8 = 121;
const END: u8 = 255;
/// What is asked for; routes without classes before routers, as RFC 3442 asks.
const WANTED: [u8; 8] = [
    CLASSLESS_ROUTES,
    SUBNET_MASK,
    ROUTERS,
    NAME_SERVERS,
    MTU,
    LEASE_TIME,
    RENEWAL_TIME,
    REBINDING_TIME,
];
/// Where the fields of a message lie (RFC 2131, figure 1).
const SERVER_NAME: core::ops::Range<usize> = 44..108;
const FILE: core::ops::Range<usize> = 108..236;
const COOKIE: core::ops::Range<usize> = 236..240;
const OPTIONS: usize = 240;
/// What options begin with (RFC 2131, section 3).
const COOKIE_VALUE: [u8; 4] = [99, 130, 83, 99];
/// Bytes that a message has at least: relays and servers may drop what a BOOTP message is not (RFC 1542,
/// section 2.1).
const SHORTEST: usize = 300;
/// Largest message that is taken.
const LONGEST: u16 = 1500;
/// Bytes of an option that comes in parts (RFC 3396).
const LONG_OPTION: usize = 512;
/// Routes of a lease kept, and name servers.
pub(crate) const MAX_LEASE_ROUTES: usize = 32;
pub(crate) const MAX_NAME_SERVERS: usize = 4;
/// Smallest packet size that is believed (RFC 791, section 3.2: every host takes 576 bytes).
const SMALLEST_MTU: u16 = 576;

/// What a server says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Offer,
    Ack,
    Nak,
}

/// A server's message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) kind: Kind,
    pub(crate) server: Ipv4Addr,
    /// Seconds; `u32::MAX`: for ever (RFC 2131, section 3.3).
    pub(crate) lease_time: Option<u32>,
    pub(crate) renewal_time: Option<u32>,
    pub(crate) rebinding_time: Option<u32>,
    pub(crate) terms: Terms,
}

/// What is leased.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Terms {
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
    pub(crate) routes: Vec<Route, MAX_LEASE_ROUTES>,
    pub(crate) name_servers: Vec<IpAddr, MAX_NAME_SERVERS>,
    /// Largest IP packet in bytes.
    pub(crate) mtu: Option<u16>,
}

/// Options as they were found.
#[derive(Default)]
struct Options {
    kind: Option<u8>,
    overload: u8,
    mask: Option<Ipv4Addr>,
    mtu: Option<u16>,
    server: Option<Ipv4Addr>,
    lease_time: Option<u32>,
    renewal_time: Option<u32>,
    rebinding_time: Option<u32>,
    routers: Vec<u8, LONG_OPTION>,
    name_servers: Vec<u8, LONG_OPTION>,
    classless: Vec<u8, LONG_OPTION>,
}

/// The message in an IP packet that goes from a server's port to a client's. The checksum of UDP has been
/// looked at before, where it was computed at all.
pub(crate) fn payload(packet: &[u8]) -> Option<&[u8]> {
    let packet = Ipv4Packet::new_checked(packet).ok()?;
    let whole = !packet.more_frags() && packet.frag_offset() == 0;
    if !whole || !packet.verify_checksum() || packet.next_header() != IpProtocol::Udp {
        return None;
    }
    let (source, destination) = (packet.src_addr().into(), packet.dst_addr().into());
    let datagram = UdpPacket::new_checked(packet.payload()).ok()?;
    let checksums = ChecksumCapabilities::ignored();
    let header = UdpRepr::parse(&datagram, &source, &destination, &checksums).ok()?;
    let ours = header.src_port == DHCP_SERVER_PORT && header.dst_port == DHCP_CLIENT_PORT;
    ours.then(|| datagram.payload())
}

/// Reads a server's answer to this card's transaction; `None`: it is none, or malformed.
pub(crate) fn read(message: &[u8], mac: Mac, transaction: u32) -> Option<Reply> {
    let packet = DhcpPacket::new_checked(message).ok()?;
    let ours = packet.opcode() == DhcpOpCode::Reply
        && packet.hardware_len() == 6
        && packet.client_hardware_address() == EthernetAddress(mac)
        && packet.transaction_id() == transaction
        && message.get(COOKIE)? == COOKIE_VALUE;
    if !ours {
        return None;
    }
    let mut options = Options::default();
    options.scan(message.get(OPTIONS..)?)?;
    // The other two fields hold options where the first says so (RFC 2131, section 4.1).
    let overload = options.overload;
    if overload & 1 != 0 {
        options.scan(message.get(FILE)?)?;
    }
    if overload & 2 != 0 {
        options.scan(message.get(SERVER_NAME)?)?;
    }
    let kind = match DhcpMessageType::from(options.kind?) {
        DhcpMessageType::Offer => Kind::Offer,
        DhcpMessageType::Ack => Kind::Ack,
        DhcpMessageType::Nak => Kind::Nak,
        _ => return None,
    };
    Some(Reply {
        kind,
        server: options.server.filter(|server| is_host(*server))?,
        lease_time: options.lease_time,
        renewal_time: options.renewal_time,
        rebinding_time: options.rebinding_time,
        terms: options.terms(packet.your_ip()),
    })
}

impl Options {
    /// Takes the options of one field; `None`: one of them ends beyond it.
    fn scan(&mut self, field: &[u8]) -> Option<()> {
        let mut rest = field;
        loop {
            match rest {
                [] | [END, ..] => return Some(()),
                [PAD, after @ ..] => rest = after,
                [code, length, after @ ..] => {
                    let (value, after) = after.split_at_checked(usize::from(*length))?;
                    self.take(*code, value)?;
                    rest = after;
                }
                [_] => return None,
            }
        }
    }

    /// Takes one option; `None`: it has not the length that it must have.
    fn take(&mut self, code: u8, value: &[u8]) -> Option<()> {
        match code {
            MESSAGE_TYPE => self.kind = Some(u8::from_be_bytes(exactly(value)?)),
            OVERLOAD => self.overload = u8::from_be_bytes(exactly(value)?),
            SUBNET_MASK => self.mask = Some(Ipv4Addr::from(exactly::<4>(value)?)),
            SERVER_IDENTIFIER => self.server = Some(Ipv4Addr::from(exactly::<4>(value)?)),
            MTU => self.mtu = Some(u16::from_be_bytes(exactly(value)?)),
            LEASE_TIME => self.lease_time = Some(u32::from_be_bytes(exactly(value)?)),
            RENEWAL_TIME => self.renewal_time = Some(u32::from_be_bytes(exactly(value)?)),
            REBINDING_TIME => self.rebinding_time = Some(u32::from_be_bytes(exactly(value)?)),
            // Options that may be longer than 255 bytes come in parts, which belong together (RFC 3396,
            // section 5).
            ROUTERS => self.routers.extend_from_slice(value).ok()?,
            NAME_SERVERS => self.name_servers.extend_from_slice(value).ok()?,
            CLASSLESS_ROUTES => self.classless.extend_from_slice(value).ok()?,
            _ => {}
        }
        Some(())
    }

    fn terms(&self, address: Ipv4Addr) -> Terms {
        let mask = self.mask.map_or(0, Ipv4Addr::to_bits);
        let prefix = mask.leading_ones() as u8;
        // A mask with holes is none, and without one nobody is known to be on the link.
        let whole = prefix > 0 && mask.count_ones() == u32::from(prefix);
        let prefix = if whole { prefix } else { 32 };
        let mut routes = classless_routes(&self.classless, address);
        // Where there are routes without classes, the routers are not looked at (RFC 3442, page 5).
        if routes.is_empty() {
            let gateway = addresses(&self.routers).find(|gateway| *gateway != address);
            routes.extend(gateway.map(|gateway| Route::default_by(gateway.into())));
        }
        let name_servers = addresses(&self.name_servers).take(MAX_NAME_SERVERS);
        Terms {
            address,
            prefix,
            routes,
            name_servers: name_servers.map(IpAddr::V4).collect(),
            mtu: self.mtu.filter(|mtu| *mtu >= SMALLEST_MTU),
        }
    }
}

fn exactly<const LENGTH: usize>(value: &[u8]) -> Option<[u8; LENGTH]> {
    value.try_into().ok()
}

/// The addresses of hosts in a list of addresses.
fn addresses(list: &[u8]) -> impl Iterator<Item = Ipv4Addr> {
    let addresses = list.chunks_exact(4).filter_map(exactly::<4>);
    addresses.map(Ipv4Addr::from).filter(|host| is_host(*host))
}

/// Reads routes without classes (RFC 3442, page 3): the length of a prefix, as many of its bytes as are
/// not 0 by that, and a router, which is 0.0.0.0 for hosts on the link. A list with a malformed end is
/// none at all.
fn classless_routes(mut list: &[u8], own: Ipv4Addr) -> Vec<Route, MAX_LEASE_ROUTES> {
    let mut routes = Vec::new();
    while let Some((prefix, rest)) = list.split_first() {
        let significant = usize::from(prefix.div_ceil(8));
        let Some((network, rest)) = rest.split_at_checked(significant) else {
            return Vec::new();
        };
        let Some((router, rest)) = rest.split_first_chunk::<4>() else {
            return Vec::new();
        };
        if *prefix > 32 {
            return Vec::new();
        }
        let mut octets = [0; 4];
        octets[..significant].copy_from_slice(network);
        let router = Ipv4Addr::from(*router);
        let usable = router.is_unspecified() || is_host(router) && router != own;
        if usable {
            // What is too many is left out.
            let _ = routes.push(Route {
                to: Cidr {
                    address: Ipv4Addr::from(octets).into(),
                    prefix: *prefix,
                },
                gateway: (!router.is_unspecified()).then_some(IpAddr::V4(router)),
            });
        }
        list = rest;
    }
    routes
}

/// Whether this can be the address of one host (RFC 1122, section 3.2.1.3).
pub(crate) fn is_host(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    first != 0 && first != 127 && first < 224
}

/// What a client says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) kind: DhcpMessageType,
    pub(crate) transaction: u32,
    /// Seconds since the client began.
    pub(crate) seconds: u16,
    /// The client's address, where it may use it already; else 0.0.0.0.
    pub(crate) client: Ipv4Addr,
    pub(crate) requested: Option<Ipv4Addr>,
    /// The server that is meant.
    pub(crate) server: Option<Ipv4Addr>,
    /// Where the message goes.
    pub(crate) to: Ipv4Addr,
}

impl Request {
    fn representation(&self, mac: Mac) -> DhcpRepr<'static> {
        let asks = self.kind != DhcpMessageType::Decline;
        DhcpRepr {
            message_type: self.kind,
            transaction_id: self.transaction,
            secs: self.seconds,
            client_hardware_address: EthernetAddress(mac),
            client_ip: self.client,
            your_ip: Ipv4Addr::UNSPECIFIED,
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: None,
            subnet_mask: None,
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            // This host takes frames for its Ethernet address whatever their IP address.
            broadcast: false,
            requested_ip: self.requested,
            client_identifier: Some(EthernetAddress(mac)),
            server_identifier: self.server,
            parameter_request_list: asks.then_some(&WANTED),
            dns_servers: None,
            max_size: asks.then_some(LONGEST),
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        }
    }

    fn message_bytes(&self, mac: Mac) -> usize {
        self.representation(mac).buffer_len().max(SHORTEST)
    }

    /// Bytes of the IP packet.
    pub(crate) fn bytes(&self, mac: Mac) -> usize {
        smoltcp::wire::IPV4_HEADER_LEN + UDP_HEADER_LEN + self.message_bytes(mac)
    }

    /// Writes the IP packet.
    pub(crate) fn write(&self, mac: Mac, packet: &mut [u8]) {
        let checksums = ChecksumCapabilities::default();
        let length = self.message_bytes(mac);
        let header = Ipv4Repr {
            src_addr: self.client,
            dst_addr: self.to,
            next_header: IpProtocol::Udp,
            payload_len: UDP_HEADER_LEN + length,
            hop_limit: 64,
        };
        let mut packet = Ipv4Packet::new_unchecked(packet);
        header.emit(&mut packet, &checksums);
        let udp = UdpRepr {
            src_port: DHCP_CLIENT_PORT,
            dst_port: DHCP_SERVER_PORT,
        };
        let message = self.representation(mac);
        udp.emit(
            &mut UdpPacket::new_unchecked(packet.payload_mut()),
            &self.client.into(),
            &self.to.into(),
            length,
            |space| {
                space.fill(0);
                // The space was measured by the message itself.
                let _ = message.emit(&mut DhcpPacket::new_unchecked(space));
            },
            &checksums,
        );
    }
}
