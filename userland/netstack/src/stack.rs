//! The stack: one Ethernet card, its addresses, and the sockets above it, as a state machine.
//!
//! Nothing here waits. [`Stack::poll`] does what can be done at a moment, [`Stack::deadline`] says
//! when time alone makes more to do. Who is told what, and how bytes reach an application, is
//! [`crate::server`]'s; how frames reach a driver is [`crate::wire::Wire`]'s.

use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipc::interface::net_device::MAX_PACKET_BYTES;
use smoltcp::iface::{Interface, PollIngressSingleResult, PollResult, SocketSet};
use smoltcp::wire::{HardwareAddress, IpCidr, UDP_HEADER_LEN};

use crate::address::Addresses;
use crate::allowance::Allowance;
use crate::checksum;
use crate::client::{Ledger, Owner};
use crate::config::{Cidr, Config, MAX_ADDRESSES};
use crate::link::{self, Inbound, Link};
use crate::names::{Asked, NameError, Names, Resolved, Transports};
use crate::peek::{Kind, classify, hop_limit};
use crate::ping::{PingError, Pinged, Pings, Request};
use crate::random::Random;
use crate::sift::{Claim, Fault, sift};
use crate::tcp::{ConnectError, ConnectionId, ListenError, ListenerId, Table};
use crate::time::{Nanoseconds, SECOND, instant, nanoseconds};
use crate::udp::{UdpError, UdpId, UdpSockets};
use crate::wire::{ETHERNET_HEADER_BYTES, Fate, Offloads, Port, Received, Wire};

/// Frames that one poll takes from the wire before it lets others have their turn.
const BATCH: usize = 64;

/// Shortest time in which the same conflict is told again.
const CONFLICT_INTERVAL: Nanoseconds = 60 * SECOND;

/// What the card is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Card {
    /// Ethernet address.
    pub mac: [u8; 6],
    /// Largest packet without its Ethernet header, in bytes.
    pub mtu: usize,
    /// What it does of the work on packets to send.
    pub offloads: Offloads,
}

/// What went through the stack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames received.
    pub received_packets: u64,
    /// Bytes received, Ethernet headers included.
    pub received_bytes: u64,
    /// Packets dropped because they contradict themselves, or have an address that no packet has.
    pub malformed: u64,
    /// Packets dropped because they are for another host.
    pub misdirected: u64,
    /// Packets dropped because a checksum of theirs is wrong.
    pub wrong_checksums: u64,
    /// Packets dropped because they are parts of larger ones.
    pub fragments: u64,
    /// Packets for a connection, a port or a protocol that nobody has.
    pub unclaimed: u64,
    /// Datagrams dropped that could not be sent, or did not fit their receiver's queue or ring.
    pub dropped_datagrams: u64,
}

/// The network stack.
pub struct Stack {
    interface: Interface,
    link: Link,
    card: Card,
    /// Largest packet that is sent, in bytes: the card's, or what the network said.
    mtu: usize,
    /// What the card does, as smoltcp was told it.
    offloads: Offloads,
    /// ICMP and UDP sockets: few, so that smoltcp may look through them all.
    datagrams: SocketSet<'static>,
    addresses: Addresses,
    pings: Pings,
    names: Names,
    udp: UdpSockets,
    tcp: Table,
    ledger: Ledger,
    counters: Counters,
    allowance: Allowance,
    /// Where a received frame is copied to before anything looks into it.
    frame: Vec<u8>,
    datagrams_pending: bool,
    /// The last address that another host was found to have, until that is told, and when it was.
    conflict: Option<(IpAddr, Nanoseconds)>,
    conflict_told: bool,
    random: Random,
}

impl Stack {
    /// A stack on a card. `seed` makes sequence numbers, ports and identifiers hard to guess.
    pub fn new(config: &Config, card: Card, now: Nanoseconds, seed: u64) -> Stack {
        let mac = unicast(card.mac);
        let mut datagrams = SocketSet::new(Vec::new());
        let pings = Pings::new(&mut datagrams, (seed >> 16) as u16);
        let names = Names::new(seed);
        let mut link = Link::new(mac, now);
        let mut stack = Stack {
            interface: make_interface(&mut link, (card.mtu, card.offloads), now, seed),
            link,
            card,
            mtu: card.mtu,
            offloads: card.offloads,
            datagrams,
            addresses: Addresses::new(config, mac, now, seed),
            pings,
            names,
            udp: UdpSockets::new(seed),
            tcp: Table::new(config.buffer_bytes, config.spare, seed),
            ledger: Ledger::new(config.limits),
            counters: Counters::default(),
            allowance: Allowance::new(now),
            frame: vec![0; MAX_PACKET_BYTES],
            datagrams_pending: true,
            conflict: None,
            conflict_told: true,
            random: Random::new(seed, "interface"),
        };
        stack.apply_settings(now);
        stack
    }

    /// Takes frames from the wire and lets timers run; what that makes to send goes out with the next
    /// [`Stack::send`], together with what the applications answer meanwhile. True: there may be more to take.
    pub fn receive(&mut self, now: Nanoseconds, wire: &mut impl Wire) -> bool {
        self.link.set_now(now);
        self.interface.poll_maintenance(instant(now));
        let received = self.ingress(now, wire);
        self.work_names(now);
        self.tcp.expire(now, &mut self.ledger);
        received == BATCH
    }

    /// Sends what there is to send, as far as the wire has room. What cannot go before a neighbour is found
    /// has it looked for, before bulk data has taken the room.
    pub fn send(&mut self, now: Nanoseconds, wire: &mut impl Wire) {
        while let Some(lost) = self.link.next_lost() {
            if self.addresses.neighbour_lost(now, lost) {
                self.apply_settings(now);
            }
        }
        self.datagram_egress(now, wire);
        self.send_requests(wire);
        let mut port = Port::new(wire, &mut self.link, None, (self.mtu, self.offloads));
        self.tcp
            .egress(now, &mut self.interface, &mut self.ledger, &mut port);
        self.send_requests(wire);
    }

    fn send_requests(&mut self, wire: &mut impl Wire) {
        if self.link.has_requests() {
            self.link.send_requests(wire);
        }
    }

    /// Whether there is something to send, and room on the wire: what came up since the last
    /// [`Stack::send`], or was more than its turn.
    pub fn can_go_on(&mut self, wire: &mut impl Wire) -> bool {
        self.waits_for_room() && wire.can_transmit()
    }

    /// Receives and sends, for a stack whose applications are served in between by nobody. True: there is more
    /// to do at once.
    pub fn poll(&mut self, now: Nanoseconds, wire: &mut impl Wire) -> bool {
        let received = self.receive(now, wire);
        self.send(now, wire);
        received || self.can_go_on(wire)
    }

    /// When [`Stack::receive`] and [`Stack::send`] have something to do even if nothing arrives; `None`: never.
    pub fn deadline(&mut self, now: Nanoseconds) -> Option<Nanoseconds> {
        // Those that wait for room are due all the time.
        let datagrams = match self.datagrams_pending {
            true => None,
            false => self.interface.poll_at(instant(now), &self.datagrams),
        };
        let datagrams = datagrams.map(nanoseconds);
        [
            datagrams,
            self.tcp.deadline(),
            self.pings.deadline(),
            self.names.deadline(),
            self.addresses.deadline(),
            // A neighbour to be asked for by now waits for room.
            self.link.deadline().filter(|due| *due > now),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The same stack on a card that came, or came back: the connections go on, with its Ethernet
    /// address and its packet size.
    pub fn card_returned(&mut self, now: Nanoseconds, card: Card) {
        let mac = unicast(card.mac);
        self.link.set_now(now);
        self.link.card_returned(mac);
        // Its packet size may be another one.
        self.addresses.card_returned(now, mac);
        self.card = card;
        self.apply_settings(now);
        self.datagrams_pending = true;
    }

    /// The card.
    pub fn card(&self) -> Card {
        self.card
    }

    /// This host's addresses.
    pub fn addresses(&self) -> impl Iterator<Item = Cidr> + '_ {
        self.interface.ip_addrs().iter().map(|cidr: &IpCidr| Cidr {
            address: cidr.address().into(),
            prefix: cidr.prefix_len(),
        })
    }

    /// The default gateway for IPv4.
    pub fn gateway(&self) -> Option<IpAddr> {
        self.link.routes().default_gateway(true)
    }

    /// The default gateway for IPv6.
    pub fn ipv6_gateway(&self) -> Option<Ipv6Addr> {
        match self.link.routes().default_gateway(false) {
            Some(IpAddr::V6(gateway)) => Some(gateway),
            _ => None,
        }
    }

    /// Largest packet that is sent, in bytes, without its Ethernet header.
    pub fn mtu(&self) -> usize {
        self.mtu
    }

    /// The name servers.
    pub fn name_servers(&self) -> &[IpAddr] {
        &self.addresses.settings().name_servers
    }

    /// Datagrams that claimed to be a name server's answer, and were none to what was asked.
    pub fn stray_answers(&self) -> u64 {
        self.names.strays()
    }

    /// An address of this host that another one has, too, if that is to be told: not more than once a
    /// minute.
    pub fn take_conflict(&mut self) -> Option<IpAddr> {
        let told = core::mem::replace(&mut self.conflict_told, true);
        self.conflict.map(|(address, _)| address).filter(|_| !told)
    }

    /// What the link layer dropped.
    pub fn link_counters(&self) -> link::Counters {
        self.link.counters()
    }

    /// What went through.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Writes down one more pair of rings of a client's; false when a limit stands against it.
    #[must_use]
    pub fn charge_rings(&mut self, owner: Owner) -> bool {
        self.ledger.charge_rings(owner, self.tcp.connection_bytes())
    }

    /// Takes back so many pairs of rings of a client's.
    pub fn refund_rings(&mut self, owner: Owner, count: usize) {
        self.ledger.refund_rings(owner, count);
    }

    /// What clients hold.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The TCP connections, to move their bytes.
    pub fn tcp(&mut self) -> &mut Table {
        &mut self.tcp
    }

    /// Begins a TCP connection.
    pub fn connect(
        &mut self,
        owner: Owner,
        remote: SocketAddr,
    ) -> Result<ConnectionId, ConnectError> {
        let source = self
            .link
            .source(remote.ip())
            .ok_or(ConnectError::Unreachable)?;
        self.tcp
            .connect(&mut self.interface, &mut self.ledger, owner, source, remote)
    }

    /// Listens on a TCP port, on one address or on all.
    pub fn listen(
        &mut self,
        owner: Owner,
        address: Option<IpAddr>,
        port: u16,
        backlog: usize,
    ) -> Result<ListenerId, ListenError> {
        self.tcp
            .listen(&mut self.ledger, owner, address, port, backlog)
    }

    /// Lets a TCP connection go, after what was given to send is sent.
    pub fn close(&mut self, now: Nanoseconds, id: ConnectionId) {
        self.close_with(now, id, 0, |_| true);
    }

    /// Lets a TCP connection go, after what was given to send is sent, and so many more bytes, which `fill`
    /// writes; see [`Table::close`].
    pub fn close_with(
        &mut self,
        now: Nanoseconds,
        id: ConnectionId,
        bytes: usize,
        fill: impl FnOnce(&mut [u8]) -> bool,
    ) {
        self.tcp.close(now, &mut self.ledger, id, bytes, fill);
    }

    /// Stops listening.
    pub fn close_listener(&mut self, now: Nanoseconds, id: ListenerId) {
        self.tcp.close_listener(now, &mut self.ledger, id);
    }

    /// Sends an echo request; [`Stack::next_pinged`] tells how it ended.
    pub fn ping(&mut self, now: Nanoseconds, request: Request) -> Result<u16, PingError> {
        let source = self
            .link
            .source(request.target)
            .ok_or(PingError::Unreachable)?;
        self.datagrams_pending = true;
        self.pings.start(now, &mut self.datagrams, source, request)
    }

    /// The next echo request that ended.
    pub fn next_pinged(&mut self, now: Nanoseconds) -> Option<Pinged> {
        self.pings.poll(now)
    }

    /// Asks for the addresses of a host name. Where they are not known yet,
    /// [`Stack::next_resolved`] tells the answer.
    pub fn resolve(
        &mut self,
        now: Nanoseconds,
        owner: Owner,
        host: &str,
    ) -> Result<Asked, NameError> {
        let own: Vec<IpAddr> = self.addresses().map(|cidr| cidr.address).collect();
        let asked = self.names.start(now, owner, host, &own);
        self.work_names(now);
        asked
    }

    /// The next host name question that ended.
    pub fn next_resolved(&mut self, now: Nanoseconds) -> Option<Resolved> {
        self.work_names(now);
        self.names.next_ended()
    }

    fn work_names(&mut self, now: Nanoseconds) {
        let mut transports = Transports {
            interface: &mut self.interface,
            link: &self.link,
            sockets: &mut self.datagrams,
            udp: &mut self.udp,
            tcp: &mut self.tcp,
            ledger: &mut self.ledger,
            queued: false,
        };
        self.names.work(now, &mut transports);
        self.datagrams_pending |= transports.queued;
    }

    /// Binds a UDP socket to a port, 0 for any.
    pub fn bind(&mut self, owner: Owner, port: u16) -> Result<UdpId, UdpError> {
        self.udp
            .bind(&mut self.datagrams, &mut self.ledger, owner, None, port)
    }

    /// The UDP sockets, to ask about them.
    pub fn udp(&self) -> &UdpSockets {
        &self.udp
    }

    /// Queues a datagram.
    pub fn send_to(
        &mut self,
        id: UdpId,
        remote: SocketAddr,
        payload: &[u8],
    ) -> Result<(), UdpError> {
        let source = self.link.source(remote.ip()).ok_or(UdpError::Unreachable)?;
        self.datagrams_pending = true;
        self.udp
            .send(&mut self.datagrams, id, source, remote, payload)
    }

    /// Queues a datagram of `length` bytes, which `fill` writes.
    pub fn send_with(
        &mut self,
        id: UdpId,
        remote: SocketAddr,
        length: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), UdpError> {
        let network_bytes = if remote.is_ipv4() { 20 } else { 40 };
        if network_bytes + UDP_HEADER_LEN + length > self.mtu {
            return Err(UdpError::TooLong);
        }
        let source = self.link.source(remote.ip()).ok_or(UdpError::Unreachable)?;
        self.datagrams_pending = true;
        self.udp
            .send_with(&mut self.datagrams, id, (source, remote), length, fill)
    }

    /// A datagram of a client was dropped.
    pub fn count_dropped_datagram(&mut self) {
        self.counters.dropped_datagrams += 1;
    }

    /// Offers a received datagram to `take`, which says whether it took it. False: there is none, or it
    /// was not taken.
    pub fn receive_with(
        &mut self,
        id: UdpId,
        take: impl FnOnce(SocketAddr, &[u8]) -> bool,
    ) -> bool {
        self.udp.receive_with(&mut self.datagrams, id, take)
    }

    /// Takes a datagram.
    pub fn receive_from(&mut self, id: UdpId, buffer: &mut [u8]) -> Option<(usize, SocketAddr)> {
        self.udp.receive(&mut self.datagrams, id, buffer)
    }

    /// Whether a UDP socket has something to receive.
    pub fn can_receive_from(&self, id: UdpId) -> bool {
        self.udp.can_receive(&self.datagrams, id)
    }

    /// Whether a UDP socket can queue a datagram.
    pub fn can_send_to(&self, id: UdpId) -> bool {
        self.udp.can_send(&self.datagrams, id)
    }

    /// Clients' UDP sockets with something to receive, or room to send, since that was asked for in vain.
    pub fn changed_udp(&mut self) -> Vec<UdpId> {
        self.udp.take_changed(&self.datagrams)
    }

    /// Whether something could be sent if there were room on the wire.
    pub fn waits_for_room(&self) -> bool {
        self.datagrams_pending || self.tcp.has_output() || self.link.has_requests()
    }

    /// Closes a UDP socket.
    pub fn close_udp(&mut self, id: UdpId) {
        self.udp.close(&mut self.datagrams, &mut self.ledger, id);
    }

    /// Lets go of all that a client had, because it is gone.
    pub fn drop_owner(&mut self, now: Nanoseconds, owner: Owner) {
        self.tcp.drop_owner(now, &mut self.ledger, owner);
        self.udp
            .drop_owner(&mut self.datagrams, &mut self.ledger, owner);
        self.pings.drop_owner(owner);
        self.names.drop_owner(owner);
    }
}

/// The two directions.
impl Stack {
    fn ingress(&mut self, now: Nanoseconds, wire: &mut impl Wire) -> usize {
        for count in 0..BATCH {
            let mut frame = core::mem::take(&mut self.frame);
            let received = wire.receive(&mut frame);
            if let Some(received) = received
                && let Some(bytes) = frame.get(..received.length)
            {
                self.counters.received_packets += 1;
                self.counters.received_bytes += bytes.len() as u64;
                match received.checksum_verified || checksum::is_right(bytes) {
                    true => self.accept_frame(now, wire, bytes),
                    false => self.counters.wrong_checksums += 1,
                }
            }
            self.frame = frame;
            if received.is_none() {
                return count;
            }
        }
        BATCH
    }

    fn accept_frame(&mut self, now: Nanoseconds, wire: &mut impl Wire, frame: &[u8]) {
        let packet = match self.link.receive(wire, frame) {
            Inbound::Packet(packet) => packet,
            Inbound::Conflict(address) => return self.conflict(now, wire, address),
            Inbound::Router(said) => {
                if self.addresses.receive_router(now, &said) {
                    self.apply_settings(now);
                }
                return;
            }
            Inbound::Query(within) => return self.addresses.queried(now, within),
            Inbound::Nothing => return,
        };
        let kind = classify(packet);
        if kind == Kind::Dhcp && self.addresses.is_leasing() {
            if self.addresses.receive_dhcp(now, packet) {
                self.apply_settings(now);
            }
            return;
        }
        let Some(claim) = self.sift(packet) else {
            return;
        };
        let mut port = Port::new(
            wire,
            &mut self.link,
            Some(packet),
            (self.mtu, self.offloads),
        );
        if let Kind::Tcp(segment) = &kind
            && self.tcp.deliver(
                now,
                &mut self.interface,
                &mut self.ledger,
                &mut port,
                segment,
            )
        {
            return;
        }
        self.hand_over(now, wire, packet, claim);
    }

    /// Hands a packet that is no connection's to smoltcp: to a UDP socket, or to be answered.
    fn hand_over(&mut self, now: Nanoseconds, wire: &mut impl Wire, packet: &[u8], claim: Claim) {
        let socket = self.udp.find(claim);
        if socket.is_none() && claim != Claim::Host {
            self.counters.unclaimed += 1;
            // What was for many is nobody's to complain of (RFC 1122, section 3.2.2; RFC 4443, section 2.4).
            if self.link.is_for_many(packet) || !self.allowance.take(now) {
                return;
            }
        }
        let before = socket.map(|id| self.udp.queued(&self.datagrams, id));
        let mut port = Port::new(
            wire,
            &mut self.link,
            Some(packet),
            (self.mtu, self.offloads),
        );
        let result =
            self.interface
                .poll_ingress_single(instant(now), &mut port, &mut self.datagrams);
        self.datagrams_pending |= result == PollIngressSingleResult::SocketStateChanged;
        let after = socket.map(|id| self.udp.queued(&self.datagrams, id));
        // smoltcp does not say that a queue was full.
        if matches!(claim, Claim::Udp { carries: true, .. }) && after.is_some() && before == after {
            self.counters.dropped_datagrams += 1;
        }
        self.pings.hear(now, &mut self.datagrams, hop_limit(packet));
    }

    /// Who a packet is for; `None`: it is dropped, and counted.
    fn sift(&mut self, packet: &[u8]) -> Option<Claim> {
        let is_own = |address| self.link.is_own(address);
        let is_broadcast = |address| self.link.is_broadcast(address);
        let fault = match sift(packet, is_own, is_broadcast) {
            Ok(claim) => return Some(claim),
            Err(fault) => fault,
        };
        *match fault {
            Fault::Malformed => &mut self.counters.malformed,
            Fault::Misdirected => &mut self.counters.misdirected,
            Fault::WrongChecksum => &mut self.counters.wrong_checksums,
            Fault::Fragment => &mut self.counters.fragments,
        } += 1;
        None
    }

    fn conflict(&mut self, now: Nanoseconds, wire: &mut impl Wire, address: IpAddr) {
        let mut port = Port::new(wire, &mut self.link, None, (self.mtu, self.offloads));
        if self.addresses.conflict(now, &mut port, address) {
            self.apply_settings(now);
        }
        let again = self.conflict.is_some_and(|(before, at)| {
            before == address && now < at.saturating_add(CONFLICT_INTERVAL)
        });
        if !again {
            self.conflict = Some((address, now));
            self.conflict_told = false;
        }
    }

    fn datagram_egress(&mut self, now: Nanoseconds, wire: &mut impl Wire) {
        let mut port = Port::new(wire, &mut self.link, None, (self.mtu, self.offloads));
        if self.addresses.poll(now, &mut port) {
            self.apply_settings(now);
        }
        let due = self
            .interface
            .poll_at(instant(now), &self.datagrams)
            .is_some_and(|moment| nanoseconds(moment) <= now);
        if !due && !self.datagrams_pending {
            return;
        }
        let mut port = Port::new(wire, &mut self.link, None, (self.mtu, self.offloads));
        // Each turn sends one packet of each socket; their queues are short.
        let mut turns = 0..BATCH;
        let emptied = turns.any(|_| {
            let result = self
                .interface
                .poll_egress(instant(now), &mut port, &mut self.datagrams);
            result == PollResult::None
        });
        self.datagrams_pending = !emptied || !port.wire.can_transmit();
    }

    /// Has everybody work with the settings that hold now.
    fn apply_settings(&mut self, now: Nanoseconds) {
        let settings = self.addresses.settings();
        self.link.configure(settings);
        let mtu = settings.mtu.unwrap_or(usize::MAX).min(self.card.mtu);
        if (mtu, self.card.offloads) != (self.mtu, self.offloads) {
            // smoltcp asks for the packet size, and what the card does, once, when an interface is made.
            (self.mtu, self.offloads) = (mtu, self.card.offloads);
            let kind = (self.mtu, self.offloads);
            // With a seed of its own, or the same numbers would come again.
            let seed = self.random.next();
            self.interface = make_interface(&mut self.link, kind, now, seed);
        }
        let own = settings.addresses.iter().take(MAX_ADDRESSES);
        let own: Vec<IpCidr> = own.map(|own| IpCidr::from(*own)).collect();
        if self.interface.ip_addrs() != own {
            self.interface.update_ip_addrs(|list| {
                list.clear();
                list.extend(own);
            });
        }
        self.names.set_servers(&settings.name_servers);
        self.tcp.addresses_changed();
    }
}

fn make_interface(
    link: &mut Link,
    kind: (usize, Offloads),
    now: Nanoseconds,
    seed: u64,
) -> Interface {
    let mut settings = smoltcp::iface::Config::new(HardwareAddress::Ip);
    settings.random_seed = seed;
    let mut nothing = Unplugged;
    let mut port = Port::new(&mut nothing, link, None, kind);
    Interface::new(settings, &mut port, instant(now))
}

/// A group address in place of a card's own is the driver's mistake, and nobody would answer to it.
fn unicast(mut mac: [u8; 6]) -> [u8; 6] {
    mac[0] &= !1;
    if mac == [0; 6] {
        [2, 0, 0, 0, 0, 1]
    } else {
        mac
    }
}

/// The wire of a stack that is being made.
struct Unplugged;

impl Wire for Unplugged {
    fn receive(&mut self, _: &mut [u8]) -> Option<Received> {
        None
    }

    fn can_transmit(&mut self) -> bool {
        false
    }

    fn build<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> (R, Fate)) -> R {
        fill(&mut vec![0; length]).0
    }
}

/// Bytes of the largest frame that fits a card's packet size.
pub fn frame_bytes(mtu: usize) -> usize {
    mtu + ETHERNET_HEADER_BYTES
}
