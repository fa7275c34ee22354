//! The operations of the `network` interface, one method each. What each does is said where it is
//! declared; here is only how.

use alloc::collections::VecDeque;
use core::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipc::Handle;
use ipc::interface::network::{
    Accepted, Addresses, Counters, DoorbellBits, Drops, GRANT_CONNECT, GRANT_LISTEN, InterfaceInfo,
    KeepAlive, MAX_ADDRESSES, MAX_DATAGRAM_BYTES, MAX_HOST_BYTES, MAX_IPV6_ADDRESSES, NetworkError,
    NetworkServer, Ping, PingReply, READY_ACCEPT, READY_ERROR, Resolve, RingPair, Shutdown, Socket,
    SocketState, SocketStatus, StreamGeometry, StreamOption,
};
use ipc::ring::{StreamPair, packet_ring_bytes};
use ipc::server::{Answer, Caller};

use super::datagrams::Datagrams;
use super::rings::Taken;
use super::session::{Endpoint, Events, Session};
use super::stream::Stream;
use super::{Driver, Server, System};
use crate::names::{Asked, NameError};
use crate::ping::{PingError, Pinged, Request};
use crate::tcp::{Choice, ConnectError, ConnectionId, ListenError, Phase, Table};
use crate::udp::UdpError;

/// Entries of an event ring.
const EVENT_ENTRIES: core::ops::RangeInclusive<u32> = 16..=1024;
/// Bytes of a stream ring.
const RING_BYTES: core::ops::RangeInclusive<u32> = 4096..=1 << 20;
/// Longest backlog.
const MAX_BACKLOG: u16 = 1024;
/// Longest wait for an echo reply in milliseconds.
const MAX_PING_MS: u32 = 60_000;
/// Shortest and longest time that an option of a connection can say, in milliseconds.
const SHORTEST_TIMEOUT_MS: u32 = 1_000;
const LONGEST_TIMEOUT_MS: u32 = 86_400_000;
/// Longest time for the handshake (RFC 9293, section 3.8.3 asks for three minutes at least where nothing
/// is chosen).
const LONGEST_CONNECT_TIMEOUT_MS: u32 = 180_000;
/// Nanoseconds of a millisecond.
const MILLISECOND: u64 = 1_000_000;

pub(super) type Result<T> = core::result::Result<T, NetworkError>;

/// The reply to a ping that ended.
pub(super) fn ping_reply(pinged: &Pinged) -> Result<PingReply> {
    let echo = pinged.answer.ok_or(NetworkError::TimedOut)?;
    let bytes = u16::try_from(echo.bytes).unwrap_or(u16::MAX);
    Ok(PingReply {
        from: echo.from,
        bytes,
        hop_limit: echo.hop_limit,
        time_ns: echo.round_trip,
    })
}

/// The reply to a question for a name.
pub(super) fn resolve_reply(
    answer: core::result::Result<alloc::vec::Vec<IpAddr>, NameError>,
) -> Result<Addresses> {
    answer.map(addresses).map_err(name_error)
}

fn addresses(list: alloc::vec::Vec<IpAddr>) -> Addresses {
    // There are never more than there is room for.
    list.into_iter().take(MAX_ADDRESSES).collect()
}

fn name_error(error: NameError) -> NetworkError {
    match error {
        NameError::Invalid => NetworkError::OutOfRange,
        NameError::NoServer => NetworkError::NoNameServer,
        NameError::Busy => NetworkError::Exhausted,
        NameError::NoSuchHost => NetworkError::NoSuchHost,
        NameError::NoAddress => NetworkError::NoAddress,
        NameError::ServerFailed => NetworkError::NameServerFailed,
        NameError::TimedOut => NetworkError::TimedOut,
    }
}

impl<S: System> Server<S> {
    pub(super) fn session(&mut self, badge: u64) -> Result<&mut Session<S::Memory>> {
        self.sessions
            .get_mut(&badge)
            .ok_or(NetworkError::NotAttached)
    }

    pub(super) fn permitted(&mut self, badge: u64, grant: u32) -> Result<()> {
        let may = self.session(badge)?.client.may(grant);
        may.then_some(()).ok_or(NetworkError::NotPermitted)
    }

    pub(super) fn attached(&mut self, badge: u64) -> Result<()> {
        let attached = self.session(badge)?.events.is_some();
        attached.then_some(()).ok_or(NetworkError::NotAttached)
    }

    fn insert(&mut self, badge: u64, endpoint: Endpoint<S::Memory>) -> Result<Socket> {
        self.session(badge)?
            .insert(endpoint)
            .ok_or(NetworkError::Exhausted)
    }

    /// Maps a socket's rings, checks included; the handle is used up whatever comes.
    pub(super) fn map_rings(
        &self,
        geometry: StreamGeometry,
        rings: Handle,
    ) -> Result<(S::Memory, u32)> {
        let capacity = geometry.ring_bytes;
        if !RING_BYTES.contains(&capacity) || !capacity.is_power_of_two() {
            self.system.close(rings);
            return Err(NetworkError::OutOfRange);
        }
        let mapped = self.system.map(rings, StreamPair::bytes_needed(capacity));
        mapped
            .map(|memory| (memory, capacity))
            .map_err(kernel_error)
    }

    /// Gives a session a stream for a connection, with a pair of rings of its; `made` has the last word on
    /// the new stream. Where that cannot be the connection is reset.
    pub(super) fn add_stream(
        &mut self,
        badge: u64,
        connection: ConnectionId,
        rings: &Taken<S::Memory>,
        made: impl FnOnce(Stream<S::Memory>) -> Stream<S::Memory>,
    ) -> Result<Socket> {
        let stream = Stream::new(connection, rings).map_err(|_| NetworkError::OutOfRange);
        let added = stream.and_then(|stream| self.insert(badge, Endpoint::Stream(made(stream))));
        let Ok(socket) = added else {
            self.stack.tcp().abort(self.system.now(), connection);
            return added;
        };
        self.streams.insert(connection, (badge, socket));
        self.pump(badge, socket);
        Ok(socket)
    }

    /// Does something with a free pair of rings of the session's, which stays free where that fails.
    fn with_rings<T>(
        &mut self,
        badge: u64,
        pair: RingPair,
        action: impl FnOnce(&mut Self, &Taken<S::Memory>) -> Result<T>,
    ) -> Result<T> {
        let rings = self.session(badge)?.rings.take(pair)?;
        let done = action(self, &rings);
        if done.is_err()
            && let Ok(session) = self.session(badge)
        {
            session.rings.release(pair);
        }
        done
    }

    fn stream(
        &mut self,
        badge: u64,
        socket: Socket,
    ) -> Result<(&mut Stream<S::Memory>, &mut Table)> {
        let session = self.sessions.get_mut(&badge);
        let session = session.ok_or(NetworkError::NotAttached)?;
        match session.sockets.get_mut(&socket) {
            Some(Endpoint::Stream(stream)) => Ok((stream, self.stack.tcp())),
            _ => Err(NetworkError::NoSuchSocket),
        }
    }

    fn stream_status(&mut self, badge: u64, socket: Socket) -> Result<SocketStatus> {
        let (stream, tcp) = self.stream(badge, socket)?;
        let ready = stream.ready(tcp);
        if ready.is_err() {
            self.corrupted(badge, socket);
        }
        let (stream, tcp) = self.stream(badge, socket)?;
        let flow = tcp.flow(stream.connection);
        let state = match tcp.phase(stream.connection) {
            // Its connection is ending, if it has not.
            _ if stream.error.is_some() => SocketState::Closed,
            Some(Phase::Connecting) => SocketState::Connecting,
            Some(Phase::Open) if stream.is_closing() => SocketState::Closing,
            Some(Phase::Open) => SocketState::Connected,
            Some(Phase::Ended(_)) | None => SocketState::Closed,
        };
        Ok(SocketStatus {
            state,
            ready: ready.unwrap_or(READY_ERROR),
            local: flow.map(|flow| flow.local),
            peer: flow.map(|flow| flow.remote),
            error: stream.error,
        })
    }
}

impl<S: System> Server<S> {
    fn datagram_status(&mut self, badge: u64, socket: Socket) -> Result<SocketStatus> {
        let session = self.sessions.get_mut(&badge);
        let session = session.ok_or(NetworkError::NotAttached)?;
        let Some(Endpoint::Datagram(datagrams)) = session.sockets.get_mut(&socket) else {
            return Err(NetworkError::NoSuchSocket);
        };
        let ready = datagrams.ready();
        let port = self.stack.udp().port(datagrams.id);
        let (Ok(ready), Some(port)) = (ready, port) else {
            self.corrupted(badge, socket);
            return Ok(SocketStatus {
                state: SocketState::Closed,
                ready: READY_ERROR,
                local: None,
                peer: None,
                error: Some(NetworkError::RingCorrupted),
            });
        };
        Ok(SocketStatus {
            state: SocketState::Datagram,
            ready,
            local: Some(any_address(port)),
            peer: None,
            error: None,
        })
    }
}

fn kernel_error(error: ipc::Error) -> NetworkError {
    match error {
        ipc::Error::InvalidArgument => NetworkError::OutOfRange,
        _ => NetworkError::Kernel,
    }
}

fn any_address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
}

impl<S: System> NetworkServer for Server<S> {
    fn info(&mut self, _: &mut Caller<'_>) -> Result<InterfaceInfo> {
        let attachment = match &self.driver {
            Driver::Attached(attachment) => Some(*attachment),
            Driver::Absent(_) => None,
        };
        let own = self.stack.addresses().find_map(|cidr| match cidr.address {
            IpAddr::V4(address) => Some((address, cidr.prefix)),
            IpAddr::V6(_) => None,
        });
        let gateway = self.stack.gateway().and_then(|gateway| match gateway {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
        let ipv6 = self.stack.addresses().filter_map(|own| match own.address {
            IpAddr::V6(address) => Some((address, own.prefix)),
            IpAddr::V4(_) => None,
        });
        let ipv6 = ipv6.take(MAX_IPV6_ADDRESSES).collect();
        let card = self.stack.card();
        let name_servers = self.stack.name_servers().iter().copied().take(4).collect();
        Ok(InterfaceInfo {
            attached: attachment.is_some(),
            link_up: attachment.is_some_and(|driver| self.system.link_up(driver.session)),
            mac: card.mac,
            mtu: u16::try_from(self.stack.mtu()).unwrap_or(u16::MAX),
            address: own.map(|(address, _)| address),
            prefix: own.map_or(0, |(_, prefix)| prefix),
            gateway,
            ipv6,
            ipv6_gateway: self.stack.ipv6_gateway(),
            dynamic: self.dynamic,
            name_servers,
            counters: self.counters(),
        })
    }

    fn attach(
        &mut self,
        caller: &mut Caller<'_>,
        entries: u32,
        bits: u64,
        events: Handle,
        bell: Handle,
        lifeline: Handle,
    ) -> Result<(DoorbellBits, Handle)> {
        let made = self.make_events(caller.badge(), entries, bits, events, (bell, lifeline));
        if made.is_err() {
            self.system.close(bell);
            self.system.close(lifeline);
        }
        made.map(|doorbell_bits| (doorbell_bits, self.system.bell()))
    }

    fn listen(&mut self, caller: &mut Caller<'_>, port: u16, backlog: u16) -> Result<Socket> {
        let badge = caller.badge();
        self.permitted(badge, GRANT_LISTEN)?;
        self.attached(badge)?;
        if backlog > MAX_BACKLOG {
            return Err(NetworkError::OutOfRange);
        }
        let id = self
            .stack
            .listen(badge, None, port, usize::from(backlog))
            .map_err(|error| match error {
                ListenError::InUse => NetworkError::AddressInUse,
                ListenError::Invalid => NetworkError::OutOfRange,
                ListenError::Limit => NetworkError::Exhausted,
            })?;
        let offers = VecDeque::new();
        let socket = self.insert(badge, Endpoint::Listener { id, port, offers })?;
        self.listeners.insert(id, (badge, socket));
        Ok(socket)
    }

    fn accept(
        &mut self,
        caller: &mut Caller<'_>,
        listener: Socket,
        rings: RingPair,
    ) -> Result<Accepted> {
        let badge = caller.badge();
        let id = match self.session(badge)?.sockets.get(&listener) {
            Some(Endpoint::Listener { id, .. }) => *id,
            Some(_) => return Err(NetworkError::WrongState),
            None => return Err(NetworkError::NoSuchSocket),
        };
        let (socket, flow) = self.with_rings(badge, rings, |server, rings| {
            let tcp = server.stack.tcp();
            let connection = tcp.accept(id).ok_or(NetworkError::WouldBlock)?;
            let flow = tcp.flow(connection).ok_or(NetworkError::WouldBlock)?;
            let socket = server.add_stream(badge, connection, rings, Stream::accepted)?;
            Ok((socket, flow))
        })?;
        Ok(Accepted {
            socket,
            peer: flow.remote,
            local: flow.local,
            waiting: u16::try_from(self.stack.tcp().waiting(id)).unwrap_or(u16::MAX),
        })
    }

    fn connect(
        &mut self,
        caller: &mut Caller<'_>,
        peer: SocketAddr,
        rings: RingPair,
    ) -> Result<Socket> {
        let badge = caller.badge();
        self.permitted(badge, GRANT_CONNECT)?;
        self.attached(badge)?;
        self.with_rings(badge, rings, |server, rings| {
            let connection = server.stack.connect(badge, peer);
            let connection = connection.map_err(|error| match error {
                ConnectError::Unreachable => NetworkError::Unreachable,
                ConnectError::NoPort | ConnectError::Limit => NetworkError::Exhausted,
            })?;
            server.add_stream(badge, connection, rings, core::convert::identity)
        })
    }

    fn shutdown(
        &mut self,
        caller: &mut Caller<'_>,
        socket: Socket,
        direction: Shutdown,
    ) -> Result<()> {
        let badge = caller.badge();
        let stream = match self.session(badge)?.sockets.get_mut(&socket) {
            Some(Endpoint::Stream(stream)) => stream,
            Some(_) => return Err(NetworkError::WrongState),
            None => return Err(NetworkError::NoSuchSocket),
        };
        if direction != Shutdown::Receive {
            stream.shut_send();
        }
        if direction != Shutdown::Send {
            stream.shut_receive();
        }
        self.pump(badge, socket);
        Ok(())
    }

    fn close(&mut self, caller: &mut Caller<'_>, socket: Socket) -> Result<()> {
        self.close_socket(caller.badge(), socket)
    }

    fn status(&mut self, caller: &mut Caller<'_>, socket: Socket) -> Result<SocketStatus> {
        let badge = caller.badge();
        let (state, ready, local) = match self.session(badge)?.sockets.get(&socket) {
            None => return Err(NetworkError::NoSuchSocket),
            Some(Endpoint::Stream(_)) => return self.stream_status(badge, socket),
            Some(Endpoint::Listener { id, port, .. }) => {
                let (id, port) = (*id, *port);
                let ready = if self.stack.tcp().can_accept(id) {
                    READY_ACCEPT
                } else {
                    0
                };
                (SocketState::Listening, ready, any_address(port))
            }
            Some(Endpoint::Datagram(_)) => return self.datagram_status(badge, socket),
        };
        Ok(SocketStatus {
            state,
            ready,
            local: Some(local),
            peer: None,
            error: None,
        })
    }

    fn bind(
        &mut self,
        caller: &mut Caller<'_>,
        port: u16,
        geometry: StreamGeometry,
        rings: Handle,
    ) -> Result<Socket> {
        let badge = caller.badge();
        let (memory, capacity) = self.map_rings(geometry, rings)?;
        // A socket on a port of the client's choice is a service; any port will do for a client.
        self.permitted(
            badge,
            if port == 0 {
                GRANT_CONNECT
            } else {
                GRANT_LISTEN
            },
        )?;
        self.attached(badge)?;
        let id = self.stack.bind(badge, port).map_err(udp_error)?;
        let bound = Datagrams::new(id, memory, capacity)
            .map_err(|_| NetworkError::OutOfRange)
            .and_then(|datagrams| self.insert(badge, Endpoint::Datagram(datagrams)));
        match bound {
            Ok(socket) => {
                self.datagrams.insert(id, (badge, socket));
                self.pump(badge, socket);
            }
            Err(_) => self.stack.close_udp(id),
        }
        bound
    }

    fn ping(
        &mut self,
        caller: &mut Caller<'_>,
        host: IpAddr,
        bytes: u16,
        timeout_ms: u32,
    ) -> Result<Answer<PingReply>> {
        let badge = caller.badge();
        self.permitted(badge, GRANT_CONNECT)?;
        let in_range = usize::from(bytes) <= MAX_DATAGRAM_BYTES && host_is_single(host);
        if !in_range || timeout_ms == 0 || timeout_ms > MAX_PING_MS {
            return Err(NetworkError::OutOfRange);
        }
        let now = self.system.now();
        let deadline = now.saturating_add(u64::from(timeout_ms) * MILLISECOND);
        let request = Request {
            owner: badge,
            target: host,
            bytes: usize::from(bytes),
            deadline,
        };
        let sequence = self.stack.ping(now, request).map_err(|error| match error {
            PingError::Unreachable => NetworkError::Unreachable,
            PingError::Busy => NetworkError::Exhausted,
        })?;
        // Without a kept right to answer the reply to the request is dropped when it comes.
        let (deferred, stashed) = caller
            .stash::<Ping>()
            .map_err(|_| NetworkError::Exhausted)?;
        if let Some((_, forgotten)) = self.pings.insert(sequence, (badge, deferred)) {
            self.system.close(forgotten.abandon());
        }
        Ok(Answer::Later(stashed))
    }

    fn resolve(&mut self, caller: &mut Caller<'_>, host: &str) -> Result<Answer<Addresses>> {
        let badge = caller.badge();
        self.permitted(badge, GRANT_CONNECT)?;
        if host.len() > MAX_HOST_BYTES {
            return Err(NetworkError::OutOfRange);
        }
        let now = self.system.now();
        let asked = self.stack.resolve(now, badge, host).map_err(name_error)?;
        let query = match asked {
            Asked::Known(list) => return Ok(Answer::Now(addresses(list))),
            Asked::Later(query) => query,
        };
        let (deferred, stashed) = caller
            .stash::<Resolve>()
            .map_err(|_| NetworkError::Exhausted)?;
        self.questions.insert(query, (badge, deferred));
        Ok(Answer::Later(stashed))
    }

    fn set_option(
        &mut self,
        caller: &mut Caller<'_>,
        socket: Socket,
        option: StreamOption,
    ) -> Result<()> {
        let now = self.system.now();
        let connection = self.connection(caller.badge(), socket)?;
        let chosen = choice(option)?;
        let chosen = self.stack.tcp().set_option(now, connection, chosen);
        chosen.then_some(()).ok_or(NetworkError::WrongState)
    }

    fn reset(&mut self, caller: &mut Caller<'_>, socket: Socket) -> Result<()> {
        let now = self.system.now();
        let badge = caller.badge();
        let connection = self.connection(badge, socket)?;
        self.forget(badge, socket)?;
        self.streams.remove(connection);
        self.stack.tcp().abort(now, connection);
        Ok(())
    }

    fn share(
        &mut self,
        caller: &mut Caller<'_>,
        geometry: StreamGeometry,
        rings: Handle,
    ) -> Result<RingPair> {
        self.share_rings(caller.badge(), geometry, rings)
    }

    fn unshare(&mut self, caller: &mut Caller<'_>, rings: RingPair) -> Result<()> {
        self.unshare_rings(caller.badge(), rings)
    }
}

/// What an option asks of a connection.
fn choice(option: StreamOption) -> Result<Choice> {
    let time = |milliseconds: u32, longest: u32| {
        let in_range = (SHORTEST_TIMEOUT_MS..=longest).contains(&milliseconds);
        let time = u64::from(milliseconds) * MILLISECOND;
        in_range.then_some(time).ok_or(NetworkError::OutOfRange)
    };
    Ok(match option {
        StreamOption::NoDelay(on) => Choice::NoDelay(on),
        StreamOption::KeepAlive(None) => Choice::KeepAlive(None),
        StreamOption::KeepAlive(Some(KeepAlive { probes: 0, .. })) => {
            return Err(NetworkError::OutOfRange);
        }
        StreamOption::KeepAlive(Some(KeepAlive {
            interval_ms,
            probes,
        })) => {
            let interval = time(interval_ms, LONGEST_TIMEOUT_MS)?;
            Choice::KeepAlive(Some((interval, probes)))
        }
        StreamOption::UserTimeout(limit) => Choice::UserTimeout(time(limit, LONGEST_TIMEOUT_MS)?),
        StreamOption::ConnectTimeout(limit) => {
            Choice::ConnectTimeout(time(limit, LONGEST_CONNECT_TIMEOUT_MS)?)
        }
    })
}

fn host_is_single(host: IpAddr) -> bool {
    !host.is_unspecified() && !host.is_multicast()
}

fn udp_error(error: UdpError) -> NetworkError {
    match error {
        UdpError::InUse => NetworkError::AddressInUse,
        UdpError::Limit => NetworkError::Exhausted,
        UdpError::NoSocket => NetworkError::NoSuchSocket,
        UdpError::Unreachable => NetworkError::Unreachable,
        UdpError::Full => NetworkError::WouldBlock,
        UdpError::TooLong => NetworkError::OutOfRange,
    }
}

impl<S: System> Server<S> {
    /// The connection of a socket.
    fn connection(&mut self, badge: u64, socket: Socket) -> Result<ConnectionId> {
        match self.session(badge)?.sockets.get(&socket) {
            Some(Endpoint::Stream(stream)) => Ok(stream.connection),
            Some(_) => Err(NetworkError::WrongState),
            None => Err(NetworkError::NoSuchSocket),
        }
    }

    /// Makes a session's two rings; uses `events` up, and the two others on success.
    fn make_events(
        &mut self,
        badge: u64,
        entries: u32,
        bits: u64,
        events: Handle,
        (bell, lifeline): (Handle, Handle),
    ) -> Result<DoorbellBits> {
        let attached = self.session(badge).map(|session| session.events.is_some());
        let refusal = match attached {
            Err(error) => Some(error),
            Ok(true) => Some(NetworkError::AlreadyAttached),
            Ok(false) if !EVENT_ENTRIES.contains(&entries) => Some(NetworkError::OutOfRange),
            Ok(false) => None,
        };
        if let Some(error) = refusal {
            self.system.close(events);
            return Err(error);
        }
        let memory = self
            .system
            .map(events, 2 * packet_ring_bytes(entries))
            .map_err(kernel_error)?;
        let made = Events::new(memory, entries, bell, bits, lifeline);
        let session = self.session(badge)?;
        session.events = Some(made.map_err(|_| NetworkError::OutOfRange)?);
        Ok(session.doorbell_bits)
    }

    fn drops(&mut self) -> Drops {
        let (stack, link) = (self.stack.counters(), self.stack.link_counters());
        let (packets, refused) = (self.packets.counters(), self.stack.tcp().refused());
        Drops {
            malformed: stack.malformed + link.malformed,
            misdirected: stack.misdirected + link.misdirected,
            wrong_checksums: stack.wrong_checksums,
            fragments: stack.fragments,
            unclaimed: stack.unclaimed,
            refused_connections: refused.backlog + refused.limit,
            doubtful_resets: refused.resets,
            stray_answers: self.stack.stray_answers(),
            conflicts: link.conflicts,
            datagrams: stack.dropped_datagrams,
            unroutable: link.unroutable,
            unanswered: link.unanswered,
            unsent: packets.sent_dropped,
            broken: packets.refused_descriptors + packets.broken_packets,
        }
    }

    fn counters(&mut self) -> Counters {
        let drops = self.drops();
        let (stack, packets) = (self.stack.counters(), self.packets.counters());
        let sockets = self
            .sessions
            .values()
            .map(|session| session.sockets.len())
            .sum::<usize>();
        Counters {
            received_packets: stack.received_packets,
            received_bytes: stack.received_bytes,
            sent_packets: packets.sent_packets,
            sent_bytes: packets.sent_bytes,
            drops,
            sockets: u32::try_from(sockets).unwrap_or(u32::MAX),
            attachments: self.attachments,
        }
    }
}
