//! The link layer: Ethernet framing, the way to the next hop, and who is where, beneath smoltcp, which
//! sees IP packets only.
//!
//! A finished IP packet gets its Ethernet header in [`Link::head`]. The header of the last packet to the
//! same destination is kept, so that a packet of a running connection costs one comparison and a copy of
//! 14 bytes; routes and neighbours are looked up when that is too old or another destination. A packet
//! for a neighbour that is not known yet waits here, and whoever sent it need not know.
//!
//! ARP is in `arp`, neighbour discovery in `ndp`; where addresses and routes come from is
//! [`crate::address`]'s.

mod arp;
mod ndp;
mod neighbours;
mod routes;

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use smoltcp::wire::{EthernetAddress, EthernetFrame, EthernetProtocol};

use self::neighbours::{Heard, Learnt, Neighbours, Request};
pub(crate) use self::routes::{Route, Routes};
use crate::address::Settings;
use crate::checksum;
use crate::config::Cidr;
use crate::mld;
use crate::ndp::RouterAdvertisement;
use crate::source;
use crate::time::{Nanoseconds, SECOND};
use crate::wire::{ETHERNET_HEADER_BYTES, Fate, Offloads, Wire};

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];
/// The address of everybody (IEEE 802.3, clause 3.2.3).
const BROADCAST: Mac = [0xff; 6];
/// Headers kept of destinations sent to lately; a power of two.
const RECENT: usize = 64;
/// Shortest time between two defences of one's address (RFC 5227, section 1.1: DEFEND_INTERVAL).
const DEFEND_INTERVAL: Nanoseconds = 10 * SECOND;

/// What the link layer dropped, and why.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames received that were malformed, or of a protocol that is not spoken here.
    pub malformed: u64,
    /// Frames received that were for another host.
    pub misdirected: u64,
    /// Packets to send that no route leads to.
    pub unroutable: u64,
    /// Packets by which others used an address of this host.
    pub conflicts: u64,
    /// Packets to send whose neighbour did not answer, or for which too many waited.
    pub unanswered: u64,
}

/// What a received frame came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Inbound<'f> {
    /// An IP packet, for the layers above.
    Packet(&'f [u8]),
    /// Someone else uses an address of this host, or one that is about to be its own.
    Conflict(IpAddr),
    /// A router says what it knows of the link.
    Router(Box<RouterAdvertisement>),
    /// A router asks which groups are listened to, to be answered within this time.
    Query(Nanoseconds),
    /// It was for the link layer, or for nobody here.
    Nothing,
}

/// A header of the way to a destination that was looked up lately.
#[derive(Clone, Copy)]
struct Recent {
    destination: IpAddr,
    header: [u8; ETHERNET_HEADER_BYTES],
    /// The generation of routes and neighbours that it was looked up in.
    generation: u32,
    until: Nanoseconds,
}

/// The link layer of one card.
pub(crate) struct Link {
    mac: Mac,
    now: Nanoseconds,
    addresses: Vec<Cidr>,
    /// Those of them that others are preferred to.
    deprecated: Vec<Ipv6Addr>,
    /// Addresses that will be this host's if nobody objects.
    tentative: Vec<Ipv6Addr>,
    routes: Routes,
    neighbours: Neighbours,
    /// Neighbours that did not answer, since the last look.
    lost: Vec<IpAddr>,
    recent: Vec<Recent>,
    /// Counts the changes after which a header kept may be wrong.
    generation: u32,
    defended: Option<Nanoseconds>,
    counters: Counters,
}

impl Link {
    /// The link layer of a card with this address.
    pub(crate) fn new(mac: Mac, now: Nanoseconds) -> Link {
        let nothing = Recent {
            destination: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            header: [0; ETHERNET_HEADER_BYTES],
            generation: 0,
            until: 0,
        };
        Link {
            mac,
            now,
            addresses: Vec::new(),
            deprecated: Vec::new(),
            tentative: Vec::new(),
            routes: Routes::default(),
            neighbours: Neighbours::default(),
            lost: Vec::new(),
            recent: vec![nothing; RECENT],
            generation: 1,
            defended: None,
            counters: Counters::default(),
        }
    }

    /// Tells the time, once a round of work.
    pub(crate) fn set_now(&mut self, now: Nanoseconds) {
        self.now = now;
    }

    /// Another card, or the cable came back: who was where is forgotten.
    pub(crate) fn card_returned(&mut self, mac: Mac) {
        self.mac = mac;
        self.neighbours.clear();
        self.forget_headers();
    }

    /// Sets this host's addresses and its routes.
    pub(crate) fn configure(&mut self, settings: &Settings) {
        self.addresses.clone_from(&settings.addresses);
        self.deprecated.clone_from(&settings.deprecated);
        self.tentative.clone_from(&settings.tentative);
        self.routes.replace(settings.routes.iter().copied());
        self.forget_headers();
    }

    /// The routes.
    pub(crate) fn routes(&self) -> &Routes {
        &self.routes
    }

    /// The address of this host that packets to another one come from; `None`: there is none, or no route
    /// leads there.
    pub(crate) fn source(&self, destination: IpAddr) -> Option<IpAddr> {
        // Nobody is at the first, and packets to the second never leave a host (RFC 1122, section 3.2.1.3).
        let nowhere = destination.is_unspecified() || destination.is_loopback();
        let leads = !nowhere && self.next_hop(destination).is_some();
        leads
            .then(|| source::choose(&self.addresses, &self.deprecated, destination))
            .flatten()
    }

    /// What was dropped.
    pub(crate) fn counters(&self) -> Counters {
        Counters {
            unanswered: self.neighbours.dropped(),
            ..self.counters
        }
    }

    /// When [`Link::send_requests`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Nanoseconds> {
        self.neighbours.deadline()
    }

    /// Whether there are neighbours to ask now.
    pub(crate) fn has_requests(&self) -> bool {
        self.neighbours.is_due(self.now)
    }

    /// Asks for the neighbours that are to be asked for now, as far as the wire has room: the others stay
    /// due.
    pub(crate) fn send_requests(&mut self, wire: &mut impl Wire) {
        let before = self.lost.len();
        let (lost, now) = (&mut self.lost, self.now);
        while wire.can_transmit()
            && let Some(request) = self.neighbours.next_request(now, |gone| lost.push(gone))
        {
            send_request(wire, self.mac, request);
        }
        if self.lost.len() > before {
            self.forget_headers();
        }
    }

    /// The next neighbour that did not answer.
    pub(crate) fn next_lost(&mut self) -> Option<IpAddr> {
        self.lost.pop()
    }

    fn forget_headers(&mut self) {
        self.generation = self.generation.wrapping_add(1);
        if self.generation == 0 {
            // None of the old ones comes to hold again.
            self.recent.iter_mut().for_each(|recent| recent.until = 0);
        }
    }

    pub(crate) fn is_own(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.address == address)
    }

    /// Whether a packet is for several hosts, or all.
    pub(crate) fn is_for_many(&self, packet: &[u8]) -> bool {
        ends(packet).is_some_and(|(_, destination)| self.group(destination).is_some())
    }

    /// Whether packets to an address go to every host of the network.
    pub(crate) fn is_broadcast(&self, address: Ipv4Addr) -> bool {
        address.is_broadcast() || self.addresses.iter().any(|own| own.is_broadcast(address))
    }
}

/// Sending.
impl Link {
    /// Writes the Ethernet header before a finished IP packet. False: the packet is not to be sent, for
    /// it waits for its neighbour's answer, if it may, or nothing leads to where it goes.
    pub(crate) fn head(&mut self, frame: &mut [u8], may_wait: bool) -> bool {
        let Some((header, packet)) = frame.split_first_chunk_mut::<ETHERNET_HEADER_BYTES>() else {
            return false;
        };
        let Some((source, destination)) = ends(packet) else {
            return false;
        };
        if let Some(recent) = self.recent.get(slot(destination))
            && recent.destination == destination
            && recent.generation == self.generation
            && self.now < recent.until
        {
            *header = recent.header;
            return true;
        }
        match self.find(source, destination, may_wait.then_some(packet)) {
            Some(found) => {
                *header = found;
                true
            }
            None => false,
        }
    }

    /// Looks the way to a destination up, or holds the packet, which without one is dropped.
    fn find(
        &mut self,
        source: IpAddr,
        destination: IpAddr,
        packet: Option<&[u8]>,
    ) -> Option<[u8; ETHERNET_HEADER_BYTES]> {
        if let Some(group) = self.group(destination) {
            return Some(self.header(group, destination));
        }
        let Some(hop) = self.routes.next_hop(destination) else {
            self.counters.unroutable += 1;
            return None;
        };
        let Some((mac, until)) = self.neighbours.look_up(self.now, hop, source) else {
            self.neighbours.hold(hop, packet);
            return None;
        };
        let header = self.header(mac, destination);
        if let Some(recent) = self.recent.get_mut(slot(destination)) {
            *recent = Recent {
                destination,
                header,
                generation: self.generation,
                until,
            };
        }
        Some(header)
    }

    fn header(&self, to: Mac, destination: IpAddr) -> [u8; ETHERNET_HEADER_BYTES] {
        let mut header = [0; ETHERNET_HEADER_BYTES];
        let protocol = if destination.is_ipv4() {
            EthernetProtocol::Ipv4
        } else {
            EthernetProtocol::Ipv6
        };
        ethernet(&mut header, to, self.mac, protocol);
        header
    }

    /// The neighbour that takes packets for an address; broadcasts and groups are their own.
    fn next_hop(&self, destination: IpAddr) -> Option<IpAddr> {
        match self.group(destination) {
            Some(_) => Some(destination),
            None => self.routes.next_hop(destination),
        }
    }

    /// The Ethernet address of a group of hosts, or of all (RFC 894; RFC 1112, section 6.4; RFC 2464,
    /// section 7).
    fn group(&self, destination: IpAddr) -> Option<Mac> {
        match destination {
            IpAddr::V4(address) if address.is_multicast() => {
                let [_, high, middle, low] = address.octets();
                Some([0x01, 0x00, 0x5e, high & 0x7f, middle, low])
            }
            IpAddr::V4(address) => self.is_broadcast(address).then_some(BROADCAST),
            IpAddr::V6(address) => address.is_multicast().then(|| group_of(address)),
        }
    }
}

/// Receiving.
impl Link {
    /// Looks into a received frame: does what is for the link layer, and gives back what is for those
    /// above it. What it answers goes out on the wire if there is room.
    pub(crate) fn receive<'f>(&mut self, wire: &mut impl Wire, frame: &'f [u8]) -> Inbound<'f> {
        let inbound = self.sort(wire, frame);
        match &inbound {
            None if self.is_for_here(frame) => self.counters.malformed += 1,
            None => self.counters.misdirected += 1,
            Some(Inbound::Conflict(_)) => self.counters.conflicts += 1,
            Some(_) => {}
        }
        inbound.unwrap_or(Inbound::Nothing)
    }

    /// Whether a frame is for this host, or for all.
    fn is_for_here(&self, frame: &[u8]) -> bool {
        let frame = EthernetFrame::new_checked(frame);
        frame.is_ok_and(|frame| frame.dst_addr().0 == self.mac || frame.dst_addr().is_multicast())
    }

    /// `None`: the frame is malformed, or not for this host.
    fn sort<'f>(&mut self, wire: &mut impl Wire, frame: &'f [u8]) -> Option<Inbound<'f>> {
        let frame = EthernetFrame::new_checked(frame).ok()?;
        let to = frame.dst_addr();
        let from = frame.src_addr().0;
        if to.0 != self.mac && !to.is_multicast() || from == self.mac {
            return None;
        }
        match frame.ethertype() {
            EthernetProtocol::Arp => self.receive_arp(wire, &frame),
            EthernetProtocol::Ipv4 => {
                let packet = frame.payload();
                let (_, destination) = ends(packet)?;
                // A packet for one host comes in a frame for one host (RFC 1122, section 3.3.6), but for
                // a DHCP server's answer to a host that has no address yet (RFC 2131, section 4.1).
                let strange = to.is_multicast() && self.is_own(destination);
                (destination.is_ipv4() && !strange).then_some(Inbound::Packet(packet))
            }
            EthernetProtocol::Ipv6 => {
                let packet = frame.payload();
                let (_, destination) = ends(packet)?;
                let strange = to.is_multicast() && self.is_own(destination);
                if !destination.is_ipv6() || strange || !self.has_ipv6() {
                    return None;
                }
                if let Some(message) = crate::ndp::read(packet) {
                    return Some(self.receive_ndp(wire, message?));
                }
                let query = mld::query(packet);
                Some(query.map_or(Inbound::Packet(packet), Inbound::Query))
            }
            EthernetProtocol::Unknown(_) => None,
        }
    }

    /// Whether IPv6 is spoken here: smoltcp would answer without an address of its own, too.
    fn has_ipv6(&self) -> bool {
        let own = self.addresses.iter().any(|own| own.address.is_ipv6());
        own || !self.tentative.is_empty()
    }

    /// Takes note of where a neighbour says it is, and sends what waited for that.
    fn learn(&mut self, wire: &mut impl Wire, address: IpAddr, mac: Option<Mac>, heard: Heard) {
        if mac.is_some_and(|mac| !is_host(mac) || mac == self.mac) || self.is_own(address) {
            return;
        }
        let creates = heard.creates && self.routes.is_neighbour(address);
        let heard = Heard { creates, ..heard };
        let Learnt { moved, released } = self.neighbours.learn(self.now, address, mac, heard);
        if moved {
            self.forget_headers();
        }
        for packet in released {
            wire.build(ETHERNET_HEADER_BYTES + packet.len(), |frame| {
                if let Some(space) = frame.get_mut(ETHERNET_HEADER_BYTES..) {
                    space.copy_from_slice(&packet);
                }
                match self.head(frame, true) {
                    true => (
                        (),
                        Fate::Send(checksum::complete(frame, Offloads::default(), None)),
                    ),
                    false => ((), Fate::Stay),
                }
            });
        }
    }

    /// Whether an address of this host may be defended now (RFC 5227, section 2.4); to ask it is to do
    /// so.
    fn may_defend(&mut self) -> bool {
        let may = self
            .defended
            .is_none_or(|before| self.now >= before.saturating_add(DEFEND_INTERVAL));
        if may {
            self.defended = Some(self.now);
        }
        may
    }
}

fn send_request(wire: &mut impl Wire, mac: Mac, request: Request) {
    match (request.address, request.source) {
        (IpAddr::V4(address), IpAddr::V4(source)) => {
            let to = request.mac.unwrap_or(BROADCAST);
            arp::request(wire, mac, source, address, to);
        }
        (IpAddr::V6(address), IpAddr::V6(source)) => {
            ndp::solicit(wire, mac, source, address, request.mac);
        }
        _ => {}
    }
}

/// Source and destination of an IP packet, as far as it is long enough to have them.
fn ends(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match packet.first()? >> 4 {
        4 => {
            let addresses = packet.get(12..20)?;
            let (source, destination) = addresses.split_first_chunk::<4>()?;
            let destination = destination.first_chunk::<4>()?;
            Some((
                Ipv4Addr::from(*source).into(),
                Ipv4Addr::from(*destination).into(),
            ))
        }
        6 => {
            let addresses = packet.get(8..40)?;
            let (source, destination) = addresses.split_first_chunk::<16>()?;
            let destination = destination.first_chunk::<16>()?;
            Some((
                Ipv6Addr::from(*source).into(),
                Ipv6Addr::from(*destination).into(),
            ))
        }
        _ => None,
    }
}

/// The place of a destination among the recent ones.
fn slot(destination: IpAddr) -> usize {
    let folded = match destination {
        IpAddr::V4(address) => address.to_bits(),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            (bits ^ bits >> 32 ^ bits >> 64 ^ bits >> 96) as u32
        }
    };
    // Multiplicative hashing: neighbouring addresses come to lie apart, and so do those of one last byte.
    (folded.wrapping_mul(0x9e37_79b9) >> 26) as usize % RECENT
}

/// The Ethernet address of an IPv6 group (RFC 2464, section 7).
fn group_of(address: Ipv6Addr) -> Mac {
    let [.., a, b, c, d] = address.octets();
    [0x33, 0x33, a, b, c, d]
}

/// Whether this is one host's Ethernet address.
fn is_host(mac: Mac) -> bool {
    mac[0] & 1 == 0 && mac != [0; 6]
}

/// Writes an Ethernet header.
fn ethernet(frame: &mut [u8], to: Mac, from: Mac, protocol: EthernetProtocol) {
    let mut frame = EthernetFrame::new_unchecked(frame);
    frame.set_dst_addr(EthernetAddress(to));
    frame.set_src_addr(EthernetAddress(from));
    frame.set_ethertype(protocol);
}
