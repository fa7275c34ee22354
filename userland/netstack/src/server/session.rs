//! A client's session: its sockets and the rings that they use, the ring of events through which it hears of
//! them, and the ring of notices through which it tells of them.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use ipc::badge::Client;
use ipc::interface::network::{DoorbellBits, Event, Notice, READY_ACCEPTED, RingPair, Socket};
use ipc::ring::{PacketConsumer, PacketProducer, RingError, SharedMemory, packet_ring_bytes};
use ipc::{Handle, message};

use super::datagrams::Datagrams;
use super::rings::Pairs;
use super::stream::Stream;
use crate::tcp::ListenerId;

/// A socket as the session holds it.
pub(super) enum Endpoint<M> {
    Listener {
        id: ListenerId,
        port: u16,
        /// The pairs of rings for its next connections.
        offers: VecDeque<RingPair>,
    },
    Stream(Stream<M>),
    Datagram(Datagrams<M>),
}

/// The ring of events with that of notices, and how the client is woken.
pub(super) struct Events<M> {
    ring: PacketProducer<M>,
    notices: PacketConsumer<M>,
    pub(super) bell: Handle,
    pub(super) bits: u64,
    pub(super) lifeline: Handle,
    /// What is not in the ring yet, joined by socket and sorted by it.
    pending: Vec<Event>,
    /// It is known that there is something to flush.
    posted: bool,
}

impl<M: SharedMemory + Clone> Events<M> {
    /// Takes the server's side of the rings.
    ///
    /// Errors: Geometry.
    pub(super) fn new(
        memory: M,
        entries: u32,
        bell: Handle,
        bits: u64,
        lifeline: Handle,
    ) -> Result<Events<M>, RingError> {
        let ring = PacketProducer::new(memory.clone(), 0, entries)?;
        let notices = PacketConsumer::new(memory, packet_ring_bytes(entries), entries)?;
        Ok(Events {
            ring,
            notices,
            bell,
            bits,
            lifeline,
            pending: Vec::new(),
            posted: false,
        })
    }

    /// The next notice of the client's.
    ///
    /// Errors: Corrupted, by the ring or the notice; the client loses its session.
    pub(super) fn next_notice(&mut self) -> Result<Option<Notice>, RingError> {
        self.notices.pop()?.map(Notice::try_from).transpose()
    }

    /// Writes down an event; true: it is not known yet that there is something to flush.
    #[must_use]
    pub(super) fn post(&mut self, event: Event) -> bool {
        if event.ready == 0 {
            return false;
        }
        match self.place(event.socket) {
            Ok(place) => {
                let pending = &mut self.pending[place];
                pending.ready |= event.ready;
                pending.rings = pending.rings.or(event.rings);
            }
            Err(place) => self.pending.insert(place, event),
        }
        !core::mem::replace(&mut self.posted, true)
    }

    /// Whether there is still something to flush.
    pub(super) fn is_posted(&self) -> bool {
        self.posted
    }

    pub(super) fn forget(&mut self, socket: Socket) {
        if let Ok(place) = self.place(socket) {
            self.pending.remove(place);
        }
    }

    /// Where a socket's event is, or belongs.
    fn place(&self, socket: Socket) -> Result<usize, usize> {
        self.pending
            .binary_search_by_key(&socket, |event| event.socket)
    }

    /// Puts into the ring what there is room for; true: the client sleeps and is to be woken.
    ///
    /// Errors: Corrupted; the client loses its session.
    pub(super) fn flush(&mut self) -> Result<bool, RingError> {
        let mut told = 0;
        while let Some(event) = self.pending.get(told).copied() {
            if self.ring.push(event.into())? {
                told += 1;
            } else if self.ring.sleep(1)? {
                // The client tells by its doorbell when it has taken some.
                break;
            }
        }
        self.pending.drain(..told);
        self.posted = !self.pending.is_empty();
        self.ring.must_wake()
    }
}

/// A session.
pub(super) struct Session<M> {
    pub(super) client: Client,
    pub(super) events: Option<Events<M>>,
    pub(super) sockets: BTreeMap<Socket, Endpoint<M>>,
    pub(super) rings: Pairs<M>,
    next: u32,
    /// The bits that the client signals on the server's bell.
    pub(super) doorbell_bits: DoorbellBits,
}

impl<M: SharedMemory + Clone> Session<M> {
    pub(super) fn new(client: Client, doorbell_bits: DoorbellBits) -> Session<M> {
        Session {
            client,
            events: None,
            sockets: BTreeMap::new(),
            rings: Pairs::new(),
            next: 1,
            doorbell_bits,
        }
    }

    /// Names a new socket. Numbers are not used again; a session that makes four thousand million
    /// sockets gets no more.
    pub(super) fn insert(&mut self, endpoint: Endpoint<M>) -> Option<Socket> {
        let socket = Socket(self.next);
        self.next = self.next.checked_add(1)?;
        self.sockets.insert(socket, endpoint);
        Some(socket)
    }

    /// The sockets that have rings.
    pub(super) fn pumped(&self) -> Vec<Socket> {
        self.sockets
            .iter()
            .filter_map(|(socket, endpoint)| {
                matches!(endpoint, Endpoint::Stream(_) | Endpoint::Datagram(_)).then_some(*socket)
            })
            .collect()
    }

    /// Has the client told that these bits came to hold for a socket; true: the session is to be flushed,
    /// which nobody knows yet.
    #[must_use]
    pub(super) fn post(&mut self, socket: Socket, ready: u32) -> bool {
        self.post_event(Event {
            socket,
            ready,
            rings: None,
        })
    }

    /// Has the client told that a connection was accepted into a pair of rings; the result as for
    /// [`Session::post`].
    #[must_use]
    pub(super) fn post_accepted(&mut self, socket: Socket, rings: RingPair) -> bool {
        self.post_event(Event {
            socket,
            ready: READY_ACCEPTED,
            rings: Some(rings),
        })
    }

    fn post_event(&mut self, event: Event) -> bool {
        let events = self.events.as_mut();
        events.is_some_and(|events| events.post(event))
    }
}

/// Bit of the server's bell that the driver signals.
pub(super) const DRIVER_BIT: u64 = 1;

/// The bit of the server's bell that init signals when the system stops.
pub const STOP_BIT: u64 = 2;

/// The bits of the server's bell that a session's client signals. 31 pairs serve all sessions: two that
/// share one are both looked at, which costs time and nothing else.
pub(super) fn doorbell_bits(session: u64) -> DoorbellBits {
    let touched = 4 << (session % 31 * 2);
    DoorbellBits {
        touched,
        all: touched << 1,
    }
}

/// A badge that no session has: it comes back when a driver with this number dies.
pub(super) const LIFELINE: u64 = 1 << 63;

/// No deadline.
pub(super) const NEVER: u64 = message::NEVER;
