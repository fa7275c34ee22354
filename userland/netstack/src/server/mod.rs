//! The server: clients' sessions above the stack, the driver below it, and the order of work.
//!
//! It is woken by calls, by bits on its bell, by the kernel's word that a badge was
//! closed, and by time. [`Server::run`] does all that is to do and says when to wake it by time; the
//! task's loop sleeps in between. Nothing in here waits for the network or for a client. For a driver it
//! waits: an eighth of a second at most for one that does not answer, and for one that starts its card as
//! long as that takes, two seconds at most.

mod datagrams;
mod drivers;
mod notices;
mod operations;
mod rings;
mod session;
mod stream;
mod system;

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Bound;

use ipc::Handle;
use ipc::badge::Client;
use ipc::interface::network::{DoorbellBits, Ping, READY_ERROR, Resolve, Socket};
use ipc::server::{Deferred, LaterOperation, Outgoing};
use slotmap::SecondaryMap;

use self::drivers::{Driver, Unused};
pub use self::session::STOP_BIT;
use self::session::{Endpoint, LIFELINE, NEVER, Session, doorbell_bits};
pub use self::system::{Attachment, Refusal, System};
use crate::config::Config;
use crate::names::QueryId;
use crate::packets::Packets;
use crate::stack::Stack;
use crate::tcp::{ConnectionId, ListenerId};
use crate::time::{Nanoseconds, SECOND};
use crate::udp::UdpId;

/// Sessions at once.
const MAX_SESSIONS: usize = 64;
/// Rounds of work before the loop looks for calls again.
const ROUNDS: usize = 8;
/// Shortest sleep: nothing that is due is due more exactly.
const TICK: Nanoseconds = 50_000;
/// How long connections that applications have closed may take to end when the system stops. It is
/// less than init bears.
const STOP_PATIENCE: Nanoseconds = SECOND;

/// What a stack's socket belongs to: session and socket number.
type Place = (u64, Socket);

/// The server.
pub struct Server<S: System> {
    system: S,
    stack: Stack,
    packets: Packets<S::Memory>,
    driver: Driver,
    /// It sleeps, and has something to do.
    driver_waits: bool,
    /// Which of the drivers was attached last.
    current: usize,
    /// It was said that no driver has a card.
    missed: bool,
    unused: Unused,
    attachments: u32,
    /// The badge of the lifeline that was given away last.
    lifeline: u64,
    sessions: BTreeMap<u64, Session<S::Memory>>,
    /// Sessions with events to be told of, each once.
    posted: Vec<u64>,
    streams: SecondaryMap<ConnectionId, Place>,
    listeners: SecondaryMap<ListenerId, Place>,
    datagrams: SecondaryMap<UdpId, Place>,
    /// Datagram sockets with more to move than had their turn.
    again: Vec<UdpId>,
    pings: BTreeMap<u16, (u64, Deferred<Ping>)>,
    questions: BTreeMap<QueryId, (u64, Deferred<Resolve>)>,
    dynamic: bool,
    /// The system stops: until when connections may take to end.
    stopping: Option<Nanoseconds>,
}

impl<S: System> Server<S> {
    /// A server without clients, whose packet rings no driver has yet.
    pub fn new(
        system: S,
        config: &Config,
        packets: Packets<S::Memory>,
        stack: Stack,
        now: Nanoseconds,
    ) -> Server<S> {
        Server {
            system,
            stack,
            packets,
            driver: Driver::Absent(now),
            driver_waits: false,
            current: 0,
            missed: false,
            unused: Unused::default(),
            attachments: 0,
            lifeline: LIFELINE,
            sessions: BTreeMap::new(),
            posted: Vec::new(),
            streams: SecondaryMap::new(),
            listeners: SecondaryMap::new(),
            datagrams: SecondaryMap::new(),
            again: Vec::new(),
            pings: BTreeMap::new(),
            questions: BTreeMap::new(),
            dynamic: config.is_dynamic(),
            stopping: None,
        }
    }

    /// Begins a session whose calls will have this badge; false when there are too many.
    #[must_use]
    pub fn open_session(&mut self, badge: u64, client: Client) -> bool {
        if self.sessions.len() >= MAX_SESSIONS || badge & LIFELINE != 0 {
            return false;
        }
        self.sessions
            .insert(badge, Session::new(client, doorbell_bits(badge)));
        true
    }

    /// The system around the server.
    pub fn system(&self) -> &S {
        &self.system
    }

    /// The stack.
    pub fn stack(&mut self) -> &mut Stack {
        &mut self.stack
    }

    /// The kernel says that the last handle with this badge is closed: a client is gone, or the
    /// driver.
    pub fn badge_closed(&mut self, badge: u64) {
        if badge & LIFELINE == 0 {
            return self.end_session(badge);
        }
        // An attempt that was refused ends its lifeline too: the next one comes in its time.
        if badge == self.lifeline && matches!(self.driver, Driver::Attached(_)) {
            self.driver_lost("the driver is gone");
        }
    }

    /// Bits of the bell were signalled.
    pub fn signalled(&mut self, bits: u64) {
        if bits & STOP_BIT != 0 && self.stopping.is_none() {
            self.stopping = Some(self.system.now() + STOP_PATIENCE);
        }
        let mut next = self.sessions.iter().next();
        while let Some((&badge, session)) = next {
            let DoorbellBits { touched, all } = session.doorbell_bits;
            if touched & bits != 0 {
                self.take_notices(badge);
            }
            if all & bits != 0 {
                self.pump_session(badge);
            }
            // The session may be gone by now.
            let after = (Bound::Excluded(badge), Bound::Unbounded);
            next = self.sessions.range(after).next();
        }
    }

    /// Does what is to do. The result is when to run again if nothing wakes the server before, in
    /// nanoseconds of the monotonic clock; `now`: at once, after a look for calls.
    pub fn run(&mut self) -> Nanoseconds {
        self.find_driver();
        self.tell_unused();
        let now = self.system.now();
        for _ in 0..ROUNDS {
            let attached = matches!(self.driver, Driver::Attached(_));
            let received = attached && self.stack.receive(now, &mut self.packets);
            self.tell_conflict();
            self.serve_changed();
            self.serve_datagrams();
            self.answer_ended(now);
            // What the clients' bytes made to send goes out with what was received is answered by.
            if attached {
                self.stack.send(now, &mut self.packets);
            }
            // What sending changed: it ends connections, and makes room in the queues of datagrams.
            self.serve_changed();
            self.serve_datagrams();
            self.flush_events();
            self.look_at_driver();
            // Of a client's last look, and of one that was let go, there may be something to send only now.
            let unsent = attached && self.stack.can_go_on(&mut self.packets);
            let more = received || unsent || !self.again.is_empty();
            if !more && self.may_sleep() {
                return self.deadline(now);
            }
        }
        now
    }

    /// Whether the system stops and every connection has ended, or has had its time: to be asked after
    /// [`Server::run`].
    pub fn has_stopped(&mut self) -> bool {
        let Some(due) = self.stopping else {
            return false;
        };
        let attached = matches!(self.driver, Driver::Attached(_));
        !attached || self.stack.tcp().connections() == 0 || self.system.now() >= due
    }

    /// The system does not stop: any client can signal the bit that says so, which has init asked.
    pub fn go_on(&mut self) {
        self.stopping = None;
    }

    /// Looks whether the driver sleeps for what it was given, or lets it go where it broke a ring.
    fn look_at_driver(&mut self) {
        if !matches!(self.driver, Driver::Attached(_)) {
            return;
        }
        if !self.packets.is_usable() {
            return self.driver_lost("the driver broke a ring");
        }
        self.driver_waits |= self.packets.must_wake();
    }

    /// The driver's doorbell, if it is to be rung before the server waits: to be asked after
    /// [`Server::run`].
    pub fn take_doorbell(&mut self) -> Option<(Handle, u64)> {
        let waits = core::mem::take(&mut self.driver_waits);
        match &self.driver {
            Driver::Attached(attachment) if waits => Some((attachment.doorbell, attachment.bits)),
            _ => None,
        }
    }

    /// Says that another host has an address of this one (RFC 5227, section 2.4).
    fn tell_conflict(&mut self) {
        if let Some(address) = self.stack.take_conflict() {
            self.system.log(format_args!(
                "another host has the address {address}, too: give one of them another one"
            ));
        }
    }

    fn may_sleep(&mut self) -> bool {
        match self.driver {
            Driver::Absent(_) => true,
            Driver::Attached(_) => {
                let waits_for_room = self.stack.waits_for_room();
                self.packets.sleep(waits_for_room)
            }
        }
    }

    fn deadline(&mut self, now: Nanoseconds) -> Nanoseconds {
        let stack = match self.driver {
            // A stack without a card has nothing to send in time; what waits for an answer is given
            // up in time all the same.
            Driver::Absent(attempt) => Some(attempt),
            Driver::Attached(_) => {
                let deadlines = [self.stack.deadline(now), self.unused.deadline()];
                deadlines.into_iter().flatten().min()
            }
        };
        let due = [stack, self.stopping].into_iter().flatten().min();
        due.map_or(NEVER, |moment| moment.max(now + TICK))
    }
}

/// Clients.
impl<S: System> Server<S> {
    fn end_session(&mut self, badge: u64) {
        let Some(session) = self.sessions.remove(&badge) else {
            return;
        };
        if let Some(events) = &session.events {
            self.system.close(events.bell);
            self.system.close(events.lifeline);
        }
        self.streams.retain(|_, place| place.0 != badge);
        self.listeners.retain(|_, place| place.0 != badge);
        self.datagrams.retain(|_, place| place.0 != badge);
        self.stack.refund_rings(badge, session.rings.count());
        self.stack.drop_owner(self.system.now(), badge);
        // The right to answer a client that is gone is of no use, and a handle.
        for (_, call) in self.pings.extract_if(.., |_, call| call.0 == badge) {
            self.system.close(call.1.abandon());
        }
        for (_, call) in self.questions.extract_if(.., |_, call| call.0 == badge) {
            self.system.close(call.1.abandon());
        }
    }

    /// Looks at every socket of a session.
    fn pump_session(&mut self, badge: u64) {
        let Some(session) = self.sessions.get(&badge) else {
            return;
        };
        for socket in session.pumped() {
            self.pump(badge, socket);
        }
    }

    /// Moves a stream's bytes and tells its client what came of it.
    fn pump(&mut self, badge: u64, socket: Socket) {
        let Some(session) = self.sessions.get_mut(&badge) else {
            return;
        };
        let pumped = match session.sockets.get_mut(&socket) {
            Some(Endpoint::Stream(stream)) => {
                let connection = stream.connection;
                let pumped = stream.pump(self.stack.tcp());
                if pumped.is_ok_and(|pumped| pumped.more) {
                    self.stack.tcp().touch(connection);
                }
                pumped
            }
            Some(Endpoint::Datagram(datagrams)) => {
                let pumped = datagrams.pump(&mut self.stack);
                if pumped.is_ok_and(|pumped| pumped.more) {
                    self.again.push(datagrams.id);
                }
                pumped
            }
            Some(Endpoint::Listener { .. }) | None => return,
        };
        match pumped {
            Ok(pumped) => {
                if session.post(socket, pumped.ready) {
                    self.posted.push(badge);
                }
            }
            Err(_) => self.corrupted(badge, socket),
        }
    }

    /// A client corrupted the rings of a stream: the connection is reset, and the client told so.
    fn corrupted(&mut self, badge: u64, socket: Socket) {
        let Some(session) = self.sessions.get_mut(&badge) else {
            return;
        };
        match session.sockets.get_mut(&socket) {
            Some(Endpoint::Stream(stream)) => {
                let connection = stream.connection;
                if stream.note_corrupted() {
                    if session.post(socket, READY_ERROR) {
                        self.posted.push(badge);
                    }
                    self.streams.remove(connection);
                    self.stack.tcp().abort(self.system.now(), connection);
                }
            }
            // Its number stays, and it is closed at last by its client.
            Some(Endpoint::Datagram(datagrams)) => {
                let id = datagrams.id;
                if self.datagrams.remove(id).is_some() {
                    if session.post(socket, READY_ERROR) {
                        self.posted.push(badge);
                    }
                    self.stack.close_udp(id);
                }
            }
            Some(Endpoint::Listener { .. }) | None => {}
        }
    }

    fn serve_changed(&mut self) {
        // Those that are touched again meanwhile have their turn in the next round.
        for _ in 0..self.stack.tcp().changed() {
            let Some(connection) = self.stack.tcp().next_changed() else {
                return;
            };
            if let Some((badge, socket)) = self.streams.get(connection).copied() {
                self.pump(badge, socket);
            } else if let Some(listener) = self.stack.tcp().waits_at(connection)
                && self.stack.tcp().can_accept(listener)
                && let Some((badge, socket)) = self.listeners.get(listener).copied()
            {
                self.accept_ahead(badge, socket);
            }
        }
    }

    fn serve_datagrams(&mut self) {
        let again = core::mem::take(&mut self.again);
        let changed = self.stack.changed_udp();
        for id in changed.into_iter().chain(again) {
            if let Some((badge, socket)) = self.datagrams.get(id).copied() {
                self.pump(badge, socket);
            }
        }
    }

    /// Tells sessions of their events. One whose ring is full is asked again each round.
    fn flush_events(&mut self) {
        let mut broken = Vec::new();
        let (sessions, system) = (&mut self.sessions, &self.system);
        self.posted.retain(|badge| {
            let session = sessions.get_mut(badge);
            let Some(events) = session.and_then(|session| session.events.as_mut()) else {
                return false;
            };
            match events.flush() {
                Ok(true) => system.signal(events.bell, events.bits),
                Ok(false) => {}
                Err(_) => broken.push(*badge),
            }
            events.is_posted()
        });
        for badge in broken {
            self.end_session(badge);
        }
    }

    fn answer_ended(&mut self, now: Nanoseconds) {
        while let Some(pinged) = self.stack.next_pinged(now) {
            if let Some((_, deferred)) = self.pings.remove(&pinged.sequence) {
                self.answer(deferred, operations::ping_reply(&pinged));
            }
        }
        while let Some(resolved) = self.stack.next_resolved(now) {
            if let Some((_, deferred)) = self.questions.remove(&resolved.query) {
                self.answer(deferred, operations::resolve_reply(resolved.answer));
            }
        }
    }

    fn answer<O: LaterOperation>(&self, call: Deferred<O>, result: Result<O::Reply, O::Error>) {
        let mut buffer = [0; ipc::message::MAX_BYTES];
        let mut outgoing = Outgoing::new(&mut buffer);
        let to = call.answer(result, &mut outgoing);
        self.system.reply(to, &outgoing);
    }
}
