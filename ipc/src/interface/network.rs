//! The network stack: interface state, TCP and UDP sockets, ping and name resolution.

use super::{interface, service_errors};
use crate::Rights;
use crate::ring::{Descriptor, RingError};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use serde::{Deserialize, Serialize};

/// Grant in the manifest: the client may listen and bind.
pub const GRANT_LISTEN: u32 = 1 << 0;
/// Grant in the manifest: the client may connect, send datagrams, ping and resolve.
pub const GRANT_CONNECT: u32 = 1 << 1;

/// Ready: bytes or a datagram can be received, or the peer has closed its side.
pub const READY_RECEIVE: u32 = 1 << 0;
/// Ready: there is room to send; first of all, `connect` succeeded.
pub const READY_SEND: u32 = 1 << 1;
/// Ready: `accept` will give a connection.
pub const READY_ACCEPT: u32 = 1 << 2;
/// Ready: the peer has closed its side; what is left in the ring can still be received.
pub const READY_END: u32 = 1 << 3;
/// Ready: the connection failed; `status` tells why.
pub const READY_ERROR: u32 = 1 << 4;
/// Ready: the socket is new, a connection that was accepted into an offered pair of rings. What has arrived
/// by now is in its ring, and no other event tells of it.
pub const READY_ACCEPTED: u32 = 1 << 5;

/// Largest datagram in bytes that is sent: IPv4 packets are not cut into fragments.
pub const MAX_DATAGRAM_BYTES: usize = 1472;
/// Most name servers told and addresses resolved.
pub const MAX_ADDRESSES: usize = 4;
/// Most IPv6 addresses of an interface that are told.
pub const MAX_IPV6_ADDRESSES: usize = 8;
/// Longest host name in bytes.
pub const MAX_HOST_BYTES: usize = 253;

/// Addresses of one kind.
pub type Addresses = heapless::Vec<IpAddr, MAX_ADDRESSES>;

/// Names a socket within its session; never used again in that session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Socket(pub u32);

/// Names a pair of rings within its session, from `share` to `unshare`; later another one may be named so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RingPair(pub u32);

/// The state of the network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceInfo {
    /// Whether a driver is attached.
    pub attached: bool,
    /// Whether the cable is connected.
    pub link_up: bool,
    /// Ethernet address.
    pub mac: [u8; 6],
    /// Largest packet that is sent, without its Ethernet header, in bytes.
    pub mtu: u16,
    /// IPv4 address, `None` while there is none.
    pub address: Option<Ipv4Addr>,
    /// Length of the network's prefix in bits, 0 to 32.
    pub prefix: u8,
    /// Gateway of IPv4.
    pub gateway: Option<Ipv4Addr>,
    /// IPv6 addresses, each with the length of its network's prefix in bits, 0 to 128.
    pub ipv6: heapless::Vec<(Ipv6Addr, u8), MAX_IPV6_ADDRESSES>,
    /// Gateway of IPv6.
    pub ipv6_gateway: Option<Ipv6Addr>,
    /// Whether the IPv4 address comes by DHCP.
    pub dynamic: bool,
    /// Name servers.
    pub name_servers: Addresses,
    /// Counters.
    pub counters: Counters,
}

/// The network stack's counters since it started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Packets received.
    pub received_packets: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// What was dropped.
    pub drops: Drops,
    /// Sockets open.
    pub sockets: u32,
    /// How often the driver was attached.
    pub attachments: u32,
}

/// Packets that the network stack dropped, by the reason. Segments of a connection that TCP itself has no
/// use for, such as repeated ones, are not among them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drops {
    /// Received: not whole, contradicting itself, or with an address that no packet has.
    pub malformed: u64,
    /// Received: for another host.
    pub misdirected: u64,
    /// Received: a checksum is wrong.
    pub wrong_checksums: u64,
    /// Received: a part of a larger packet; parts are not put together.
    pub fragments: u64,
    /// Received: for a connection, a port or a protocol that nobody here has. They are answered, up to 200 a
    /// second.
    pub unclaimed: u64,
    /// Received: the beginning of a connection for which its listener, or the memory, had no room.
    pub refused_connections: u64,
    /// Received: the reset of a connection that may have been anybody's. The peer is asked.
    pub doubtful_resets: u64,
    /// Received: a datagram that claimed to be a name server's answer to a question that was not asked.
    pub stray_answers: u64,
    /// Received: a packet by which another host used an address of this one.
    pub conflicts: u64,
    /// Datagrams that their receiver was too slow for, or that could not be sent.
    pub datagrams: u64,
    /// To be sent: nothing leads to where they go.
    pub unroutable: u64,
    /// To be sent: the neighbour did not answer, or too many waited for it.
    pub unanswered: u64,
    /// To be sent: the driver had no room.
    pub unsent: u64,
    /// Packets that the driver broke, or did not hold.
    pub broken: u64,
}

impl Drops {
    /// Each reason's name and number.
    pub fn reasons(&self) -> [(&'static str, u64); 14] {
        [
            ("malformed", self.malformed),
            ("misdirected", self.misdirected),
            ("wrong checksums", self.wrong_checksums),
            ("fragments", self.fragments),
            ("unclaimed", self.unclaimed),
            ("refused connections", self.refused_connections),
            ("doubtful resets", self.doubtful_resets),
            ("stray answers", self.stray_answers),
            ("conflicts", self.conflicts),
            ("datagrams", self.datagrams),
            ("unroutable", self.unroutable),
            ("unanswered", self.unanswered),
            ("unsent", self.unsent),
            ("broken", self.broken),
        ]
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        let numbers = self.reasons().map(|(_, number)| number);
        numbers.into_iter().fold(0, u64::saturating_add)
    }
}

/// What a client signals on the server's doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoorbellBits {
    /// The server is to take the notices, and to look whether the ring of events has room.
    pub touched: u64,
    /// It is to look at all sockets of the session: the ring of notices had no room for one touched.
    pub all: u64,
}

/// How a client shares a socket's bytes: one memory object with a pair of rings, of bytes for TCP and of
/// datagrams for UDP, the one to send first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamGeometry {
    /// Capacity of each ring in bytes, a power of two from 4,096 to 1,048,576. The memory has
    /// `ring::StreamPair::bytes_needed` of it.
    pub ring_bytes: u32,
}

/// A connection taken from a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// The socket.
    pub socket: Socket,
    /// The other end.
    pub peer: SocketAddr,
    /// This end.
    pub local: SocketAddr,
    /// Connections that still wait at the listener; of those that come later an event tells.
    pub waiting: u16,
}

/// Which direction to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Shutdown {
    /// What is in the ring is sent, then the end.
    Send,
    /// What arrives from now on is dropped.
    Receive,
    /// Both.
    Both,
}

/// Probes of a connection that carries nothing (RFC 1122, section 4.2.3.6), to find out whether its peer
/// is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeepAlive {
    /// How long nothing was sent before a probe is, in milliseconds, from 1,000 to 86,400,000.
    pub interval_ms: u32,
    /// Probes that may go unanswered, 1 or more: the peer is given up an interval after the last of them.
    pub probes: u8,
}

/// A property of a TCP connection that its application may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StreamOption {
    /// True: a short segment is sent at once, though the one before it is not acknowledged yet
    /// (RFC 1122, section 4.2.3.4). False at first.
    NoDelay(bool),
    /// Probes an idle peer; `None`, as at first: a connection with nothing to say lives as long as its
    /// ends do.
    KeepAlive(Option<KeepAlive>),
    /// How long the peer may say nothing while it owes an acknowledgement, in milliseconds, from 1,000 to
    /// 86,400,000 (the user timeout of RFC 9293, section 3.9.1). 120,000 at first.
    UserTimeout(u32),
    /// How long the peer may take to accept the connection, in milliseconds, from 1,000 to 180,000, counted
    /// from its last word or the connection's beginning. 30,000 at first.
    ConnectTimeout(u32),
}

/// What a socket is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketState {
    /// Waiting for connections.
    Listening,
    /// Waiting for the peer's answer.
    Connecting,
    /// Bytes can flow.
    Connected,
    /// One side or both have ended.
    Closing,
    /// A datagram socket.
    Datagram,
    /// It ended; `error` says why.
    Closed,
}

/// The state of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketStatus {
    /// What it is doing.
    pub state: SocketState,
    /// The `READY_` bits that hold now.
    pub ready: u32,
    /// This end.
    pub local: Option<SocketAddr>,
    /// The other end.
    pub peer: Option<SocketAddr>,
    /// Why it ended, if it did.
    pub error: Option<NetworkError>,
}

/// The answer to a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingReply {
    /// Who answered.
    pub from: IpAddr,
    /// Bytes of payload that came back.
    pub bytes: u16,
    /// Time to live of the answer.
    pub hop_limit: u8,
    /// Round-trip time in nanoseconds.
    pub time_ns: u64,
}

interface! {
    /// The network. No operation but the two that say so waits for the network: readiness comes as
    /// events through one ring and one notification a session. An event names a socket and `READY_`
    /// bits; events of one socket are joined while the ring is full, none is lost.
    Network = 6, client NetworkClient, server NetworkServer, error NetworkError;

    /// Tells the state of the interface.
    ///
    /// Arguments: none. Result: the state. Errors: none of its own. Cost: one call.
    ///
    /// Example: `let address = network.info(deadline)?.address;`
    1 fn info() -> InterfaceInfo;

    /// Attaches the session's two rings; before that no socket can be made. Through the first, of events,
    /// the server tells what is ready. Through the second, of notices, the client tells what needs no
    /// answer ([`Notice`]): which sockets it has touched, where a ring of that socket says that the server
    /// sleeps on it; which it closes; which pairs of rings it offers to a listener. The server takes the
    /// notices, in their order, when its `doorbell` is signalled, and before it serves a call of the
    /// session. A notice about what the session does not have is ignored.
    ///
    /// Arguments: `entries` of each ring, a power of two from 16 to 1,024; `bits` what the server signals on
    /// `bell`. Handles: `events` memory of twice `ring::packet_ring_bytes(entries)`, two packet rings one
    /// after another, the one of events (its descriptors are [`Event`]s) first, initialised by the client;
    /// `bell` the client's notification;
    /// `lifeline` a badged send right of an endpoint of the client's, which the server keeps as long
    /// as the session and never uses: when the server dies, the kernel closes it and tells the client
    /// so.
    /// Result: the bits to signal on `doorbell`. Errors: AlreadyAttached,
    /// OutOfRange, Kernel. Cost: one call and one mapping. A client that corrupts a ring loses that
    /// socket or, for these two, its session; so it does by a notice of a kind that there is not.
    ///
    /// Example: `let (bits, doorbell) = network.attach(deadline, 64, 1, events, bell, lifeline)?;`
    2 fn attach(entries: u32, bits: u64) [
        events: copied(Rights::READ | Rights::WRITE),
        bell: copied(Rights::SIGNAL),
        lifeline: moved(Rights::SEND),
    ] -> DoorbellBits [doorbell: copied(Rights::SIGNAL)];

    /// Waits for TCP connections to a port.
    ///
    /// Arguments: `port` 1 to 65,535; `backlog` connections kept for `accept`, 1 to 1,024. Result:
    /// the listener. Errors: NotPermitted, NotAttached, OutOfRange, AddressInUse, Exhausted. Cost:
    /// one call.
    ///
    /// Example: `let listener = network.listen(deadline, 80, 64)?;`
    3 fn listen(port: u16, backlog: u16) -> Socket;

    /// Takes a connection from a listener, for those that offer it no pairs of rings ([`Notice::Offer`]).
    ///
    /// Arguments: `listener`; `rings` a pair of this session's that no socket has and no listener is
    /// offered; the server empties it. Result: the connection. Errors: WouldBlock (none waits; an event
    /// READY_ACCEPT will come), NoSuchSocket, WrongState, NoSuchRings, RingsInUse, Exhausted. Cost: one
    /// call.
    ///
    /// Example: `let peer = network.accept(deadline, listener, rings)?.peer;`
    4 fn accept(listener: Socket, rings: RingPair) -> Accepted;

    /// Starts a TCP connection. READY_SEND says that it stands, READY_ERROR that it failed.
    ///
    /// Arguments: `peer`; `rings` as for `accept`. Result: the socket. Errors: NotPermitted, NotAttached,
    /// NoSuchRings, RingsInUse, Unreachable, Exhausted. Cost: one call.
    ///
    /// Example: `let socket = network.connect(deadline, peer, rings)?;`
    5 fn connect(peer: SocketAddr, rings: RingPair) -> Socket;

    /// Ends one direction of a connection, or both, after what is in the ring was sent.
    ///
    /// Arguments: `socket`; `direction`. Result: none. Errors: NoSuchSocket, WrongState. Cost: one
    /// call.
    ///
    /// Example: `network.shutdown(deadline, socket, Shutdown::Send)?;`
    6 fn shutdown(socket: Socket, direction: Shutdown) -> ();

    /// Forgets a socket. What is in the sending ring is still sent; a connection is then ended in
    /// both directions, by a reset where received bytes were not taken. [`Notice::Close`] does the same
    /// without a call.
    ///
    /// Arguments: `socket`. Result: none; a connection's pair of rings is free for another one, pairs
    /// offered to a listener are, and a datagram socket's rings are unmapped. Errors: NoSuchSocket.
    /// Cost: one call, and one unmapping for a datagram socket.
    ///
    /// Example: `network.close(deadline, socket)?;`
    7 fn close(socket: Socket) -> ();

    /// Tells the state of a socket.
    ///
    /// Arguments: `socket`. Result: the state. Errors: NoSuchSocket. Cost: one call.
    ///
    /// Example: `let error = network.status(deadline, socket)?.error;`
    8 fn status(socket: Socket) -> SocketStatus;

    /// Makes a UDP socket. Datagrams go through its rings: what is put into the first is sent, what
    /// arrives comes out of the second. READY_SEND and READY_RECEIVE come as for a stream. A datagram
    /// that cannot be sent - to no host, to where no route leads, too long - is dropped and counted.
    ///
    /// Arguments: `port` 1 to 65,535, or 0 for any; `geometry`. Handles: `rings`, memory with a pair of
    /// datagram rings of this capacity, the one to send first, both empty
    /// (`ring::DatagramPair::bytes_needed`). Result: the socket; `status` tells the port. Errors:
    /// NotPermitted, NotAttached, OutOfRange, AddressInUse, Exhausted, Kernel. Cost: one call and one
    /// mapping.
    ///
    /// Example: `let socket = network.bind(deadline, 0, geometry, rings)?;`
    9 fn bind(port: u16, geometry: StreamGeometry)
        [rings: copied(Rights::READ | Rights::WRITE)] -> Socket;

    /// Sends an ICMP echo request and answers when its reply has come.
    ///
    /// Arguments: `host`; `bytes` of payload, 0 to 1,472; `timeout_ms` 1 to 60,000. Result: the reply.
    /// Errors: NotPermitted, OutOfRange, Unreachable, TimedOut, Exhausted. Cost: one call and a round
    /// trip in the network.
    ///
    /// Example: `let time = network.ping(deadline, host, 56, 1_000)?.time_ns;`
    10 later Ping fn ping(host: IpAddr, bytes: u16, timeout_ms: u32) -> PingReply;

    /// Finds the addresses of a host name; an address in text form is its own. Names that were asked for
    /// before are answered from a cache, as long as the name servers say that the answer holds.
    ///
    /// Arguments: `host` at most 253 bytes, with or without a dot at its end. Result: one to four
    /// addresses, those to try first in front (RFC 6724); where there are some of both families, some
    /// of both. Errors: NotPermitted; OutOfRange (it is no host name); NoSuchHost (it does not exist);
    /// NoAddress (it exists, without an address); NoNameServer; NameServerFailed (none of them would or
    /// could answer); TimedOut (none answered within 15 seconds); Exhausted (16 questions of this
    /// client, or 64 of all, are under way). Cost: one call, and where the cache has no answer a round
    /// trip to a name server for each alias.
    ///
    /// Example: `let addresses = network.resolve(deadline, "example.org")?;`
    11 later Resolve fn resolve(host: &str) -> Addresses;

    /// Chooses a property of a connection.
    ///
    /// Arguments: `socket`; `option`. Result: none; it holds from now on. Errors: NoSuchSocket, WrongState
    /// (it is no connection, or for ConnectTimeout it stands already), OutOfRange. Cost: one call.
    ///
    /// Example: `network.set_option(deadline, socket, StreamOption::NoDelay(true))?;`
    12 fn set_option(socket: Socket, option: StreamOption) -> ();

    /// Ends a connection at once and forgets its socket: what was not sent is thrown away, and the peer
    /// is told by a reset (RFC 9293, section 3.10.5).
    ///
    /// Arguments: `socket`. Result: none; its pair of rings is free for another one. Errors: NoSuchSocket,
    /// WrongState (it is no connection). Cost: one call.
    ///
    /// Example: `network.reset(deadline, socket)?;`
    13 fn reset(socket: Socket) -> ();

    /// Shares the memory of a pair of stream rings for one connection after another, so that none of them
    /// costs a mapping. The server empties both rings when it gives the pair to a connection; from the
    /// close of that connection's socket until the next one has it, neither side writes to it.
    ///
    /// Arguments: `geometry`. Handles: `rings` of that size (`ring::StreamPair::bytes_needed`). Result: the
    /// pair. Errors: NotAttached, OutOfRange, Exhausted (the session has a pair for each connection that it
    /// may have, or all sessions have), Kernel. Cost: one call and one mapping.
    ///
    /// Example: `let rings = network.share(deadline, geometry, memory)?;`
    14 fn share(geometry: StreamGeometry) [rings: copied(Rights::READ | Rights::WRITE)] -> RingPair;

    /// Takes a pair of rings back. One that is offered to a listener is offered no more.
    ///
    /// Arguments: `rings`. Result: none; the server has unmapped them. Errors: NoSuchRings, RingsInUse (a
    /// socket has them; where they were offered, an event tells which). Cost: one call and one unmapping.
    ///
    /// Example: `network.unshare(deadline, rings)?;`
    15 fn unshare(rings: RingPair) -> ();
}

/// One entry of the event ring: the socket is the descriptor's offset, the bits its length, the pair of
/// rings its flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// The socket.
    pub socket: Socket,
    /// The `READY_` bits that came to hold.
    pub ready: u32,
    /// The pair that the socket has, where READY_ACCEPTED is among the bits.
    pub rings: Option<RingPair>,
}

impl From<Event> for Descriptor {
    fn from(event: Event) -> Descriptor {
        Descriptor {
            offset: event.socket.0,
            length: event.ready,
            flags: event.rings.map_or(0, |rings| rings.0),
        }
    }
}

impl From<Descriptor> for Event {
    fn from(descriptor: Descriptor) -> Event {
        let is_accepted = descriptor.length & READY_ACCEPTED != 0;
        Event {
            socket: Socket(descriptor.offset),
            ready: descriptor.length,
            rings: is_accepted.then_some(RingPair(descriptor.flags)),
        }
    }
}

/// One entry of the ring of notices: the socket is the descriptor's offset, the kind its length, the pair of
/// rings its flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A ring of this socket was used, and the server sleeps on it.
    Touched(Socket),
    /// The socket is closed, as by `close`. Its pair of rings can be named again at once: the server takes
    /// notices in their order, and before calls.
    Close(Socket),
    /// The next connection of the listener may have this pair, which is free. The server then accepts it as
    /// soon as it stands, and tells by an event READY_ACCEPTED. A listener gives pairs out in the order
    /// in which they were offered; without any, an event READY_ACCEPT says that a connection waits.
    Offer {
        /// The listener.
        listener: Socket,
        /// The pair.
        rings: RingPair,
    },
}

/// The kinds of notices, as the ring has them.
const TOUCHED: u32 = 0;
const CLOSE: u32 = 1;
const OFFER: u32 = 2;

impl From<Notice> for Descriptor {
    fn from(notice: Notice) -> Descriptor {
        let (socket, length, flags) = match notice {
            Notice::Touched(socket) => (socket, TOUCHED, 0),
            Notice::Close(socket) => (socket, CLOSE, 0),
            Notice::Offer { listener, rings } => (listener, OFFER, rings.0),
        };
        Descriptor {
            offset: socket.0,
            length,
            flags,
        }
    }
}

impl TryFrom<Descriptor> for Notice {
    type Error = RingError;

    /// Errors: Corrupted, where there is no such kind.
    fn try_from(descriptor: Descriptor) -> Result<Notice, RingError> {
        let socket = Socket(descriptor.offset);
        match descriptor.length {
            TOUCHED => Ok(Notice::Touched(socket)),
            CLOSE => Ok(Notice::Close(socket)),
            OFFER => Ok(Notice::Offer {
                listener: socket,
                rings: RingPair(descriptor.flags),
            }),
            _ => Err(RingError::Corrupted),
        }
    }
}

service_errors! {
    /// The network's own errors.
    NetworkError {
        /// The manifest does not grant this to the caller.
        NotPermitted = "the system manifest does not permit this",
        /// The session has no event ring yet.
        NotAttached = "the session has no event ring yet",
        /// The session has its event ring already.
        AlreadyAttached = "the session has an event ring already",
        /// An argument is out of its documented range, or memory is too small for it.
        OutOfRange = "an argument is out of range",
        /// The session has no such socket.
        NoSuchSocket = "there is no such socket",
        /// The socket is of another kind or in another state.
        WrongState = "the socket is not in a state for this",
        /// Another socket has the port.
        AddressInUse = "the port is in use",
        /// The server has as many sockets as it can keep.
        Exhausted = "the network stack has no room for this",
        /// Nothing is ready; an event will say when.
        WouldBlock = "nothing is ready yet",
        /// There is no route, or the interface has no address.
        Unreachable = "the host is unreachable",
        /// Nobody answered in time.
        TimedOut = "no answer came in time",
        /// The peer refused the connection.
        Refused = "the connection was refused",
        /// The peer reset the connection.
        Reset = "the connection was reset",
        /// The client corrupted a ring of the socket.
        RingCorrupted = "a ring was corrupted",
        /// The name does not exist.
        NoSuchHost = "there is no host of this name",
        /// The kernel refused the network stack what the operation needs.
        Kernel = "the kernel refused what the operation needs",
        /// The name exists, but has no address.
        NoAddress = "the host has no address",
        /// No name server is known.
        NoNameServer = "no name server is known",
        /// The name servers refused the question, or failed.
        NameServerFailed = "the name servers failed to answer",
        /// The session shares no such pair of rings.
        NoSuchRings = "there is no such pair of rings",
        /// A socket has the pair of rings, or a listener is offered it.
        RingsInUse = "the pair of rings is in use",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_and_notices_come_out_of_a_ring_as_they_went_in() {
        let (socket, rings) = (Socket(7), RingPair(3));
        let event = |ready, rings| Event {
            socket,
            ready,
            rings,
        };
        for event in [
            event(READY_SEND, None),
            event(READY_ACCEPTED | READY_END, Some(rings)),
        ] {
            assert_eq!(Event::from(Descriptor::from(event)), event);
        }
        let listener = socket;
        for notice in [
            Notice::Touched(socket),
            Notice::Close(socket),
            Notice::Offer { listener, rings },
        ] {
            assert_eq!(Notice::try_from(Descriptor::from(notice)), Ok(notice));
        }
        for length in [3, u32::MAX] {
            let unknown = Descriptor {
                length,
                ..Descriptor::default()
            };
            assert_eq!(Notice::try_from(unknown), Err(RingError::Corrupted));
        }
    }
}
