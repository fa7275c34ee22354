//! One TCP connection: its smoltcp socket in a set of its own, and what the table must remember
//! beside it. Demultiplexing, timers and queues are the table's ([`super::table`]).

use alloc::vec;
use alloc::vec::Vec;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::time::Duration;

use super::ListenerId;
use crate::client::Owner;
use crate::peek::{Flow, Segment};
use crate::time::{Nanoseconds, SECOND};

/// How long a connection may wait for its peer to complete the handshake. RFC 9293, section 3.8.3
/// asks for three minutes where a person waits; a server frees its backlog sooner.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long sent data or a FIN may stay unacknowledged without a word from the peer: at least 100
/// seconds (RFC 1122, section 4.2.3.5, R2). A peer whose window is closed answers the probes, and may
/// do so for ever (section 4.2.2.17); an idle connection waits for nothing, and lives as long as its
/// ends do, or until it answers no more probes. (smoltcp's own timeout would end it.)
const DATA_TIMEOUT: Nanoseconds = 120 * SECOND;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both sides closed and all was acknowledged.
    Finished,
    /// The peer answered the first segment with a reset.
    Refused,
    /// The peer reset an open connection.
    Reset,
    /// The peer stopped answering, or this host lost its address.
    TimedOut,
    /// This side reset it.
    Aborted,
}

/// What an application is told of an end.
impl End {
    /// Whether both sides got all they should.
    pub fn is_orderly(self) -> bool {
        self == End::Finished
    }
}

/// A property of a connection that its application may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// A short segment does not wait for the one before it to be acknowledged.
    NoDelay(bool),
    /// Probes an idle peer after each interval without a segment, and gives it up an interval after so many
    /// were not answered.
    KeepAlive(Option<(Nanoseconds, u8)>),
    /// How long the peer may be silent while it owes an acknowledgement.
    UserTimeout(Nanoseconds),
    /// How long the handshake may take.
    ConnectTimeout(Nanoseconds),
}

/// Where a connection stands, as its application sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The handshake is under way.
    Connecting,
    /// Established; either direction may be closed already.
    Open,
    /// Over.
    Ended(End),
}

/// A socket with its set. Kept and used again: to allocate and zero two buffers costs more than
/// all the packets of a short connection.
pub(super) struct Slot {
    pub(super) set: SocketSet<'static>,
    handle: SocketHandle,
}

impl Slot {
    pub(super) fn new(buffer_bytes: usize) -> Slot {
        let socket = Socket::new(
            SocketBuffer::new(vec![0; buffer_bytes]),
            SocketBuffer::new(vec![0; buffer_bytes]),
        );
        let mut set = SocketSet::new(Vec::with_capacity(1));
        let handle = set.add(socket);
        Slot { set, handle }
    }

    /// The socket as a new one, but for the buffers' old bytes, which nobody can read: a buffer
    /// gives out only what was put in since it was cleared.
    pub(super) fn renew(&mut self) -> &mut Socket<'static> {
        let socket = self.socket_mut();
        socket.abort();
        socket.set_congestion_control(CongestionControl::Reno);
        socket.set_timeout(Some(HANDSHAKE_TIMEOUT));
        socket.set_keep_alive(None);
        socket
    }

    pub(super) fn socket(&self) -> &Socket<'static> {
        self.set.get(self.handle)
    }

    pub(super) fn socket_mut(&mut self) -> &mut Socket<'static> {
        self.set.get_mut(self.handle)
    }
}

/// A connection of the table.
pub(super) struct Connection {
    pub(super) slot: Slot,
    pub(super) flow: Flow,
    pub(super) owner: Owner,
    /// The listener that it waits at to be accepted.
    pub(super) listener: Option<ListenerId>,
    /// When its handshake began, if a listener has it.
    pub(super) began: Nanoseconds,
    /// The application let go of it.
    pub(super) orphan: bool,
    /// What the application had given to send when it let go, and the socket had no room for yet.
    pub(super) tail: Vec<u8>,
    /// What its owner was charged for the tail.
    pub(super) tail_charged: usize,
    /// Bytes of the tail that the socket has by now.
    pub(super) tail_given: usize,
    /// Bytes given to the socket so far.
    pub(super) given: u64,
    /// How many of them were given when the last segments went out, of which the very last may be a
    /// short one.
    short_until: u64,
    /// A short segment waits until the one before it is acknowledged.
    pub(super) joins_short: bool,
    pub(super) established: bool,
    pub(super) aborted: bool,
    /// The peer kept silent for too long.
    pub(super) timed_out: bool,
    /// Since when something sent is unacknowledged and the peer silent.
    waiting_since: Option<Nanoseconds>,
    /// How long that may be.
    user_timeout: Nanoseconds,
    /// When the peer was heard last, or probes of it began.
    heard: Nanoseconds,
    /// How long an idle peer that is probed may be silent.
    idle_timeout: Option<Nanoseconds>,
    /// The last segment closed the socket and was a reset.
    pub(super) reset_by_peer: bool,
    /// The peer's first sequence number, and how many bytes after it were taken.
    first: u32,
    pub(super) taken: u32,
    /// When the peer was last asked whether a reset is its own, and that it is to be asked now.
    challenged: Nanoseconds,
    challenges: bool,
    /// How often an idle peer is probed.
    probes: Option<Duration>,
    /// Sequence number after the last FIN seen from the peer.
    pub(super) peer_next: u32,
    /// State at the last look.
    pub(super) last: State,
    pub(super) end: Option<End>,
    /// In the table's queue of those with something to send.
    pub(super) dirty: bool,
    /// In the table's queue of those that the application should look at.
    pub(super) changed: bool,
    /// smoltcp, which looks when it is polled, is to look whether the local address is still this host's.
    pub(super) readdressed: bool,
    /// When the table drops it whatever its state.
    pub(super) drop_at: Option<Nanoseconds>,
}

impl Connection {
    pub(super) fn new(slot: Slot, flow: Flow, owner: Owner) -> Connection {
        let last = slot.socket().state();
        Connection {
            slot,
            flow,
            owner,
            listener: None,
            began: 0,
            orphan: false,
            tail: Vec::new(),
            tail_charged: 0,
            tail_given: 0,
            given: 0,
            short_until: 0,
            joins_short: true,
            established: false,
            aborted: false,
            timed_out: false,
            waiting_since: None,
            user_timeout: DATA_TIMEOUT,
            heard: 0,
            idle_timeout: None,
            reset_by_peer: false,
            first: 0,
            taken: 0,
            challenged: 0,
            challenges: false,
            probes: None,
            peer_next: 0,
            last,
            end: None,
            dirty: false,
            changed: false,
            readdressed: false,
            drop_at: None,
        }
    }

    /// Whether its handshake is under way at a listener.
    pub(super) fn is_opening(&self) -> bool {
        self.listener.is_some() && !self.established
    }

    pub(super) fn phase(&self) -> Phase {
        match self.end {
            Some(end) => Phase::Ended(end),
            None if self.established => Phase::Open,
            None => Phase::Connecting,
        }
    }

    /// Takes note of the socket's state; true on the step to ESTABLISHED.
    pub(super) fn note_state(&mut self) -> bool {
        let state = self.slot.socket().state();
        let opened = !self.established
            && !matches!(
                state,
                State::Closed | State::Listen | State::SynSent | State::SynReceived
            );
        if opened {
            self.established = true;
            self.slot.socket_mut().set_timeout(None);
        }
        if self.end.is_none() && matches!(state, State::Closed | State::TimeWait) {
            self.end = self.ending(state);
        }
        self.last = state;
        opened
    }

    fn ending(&self, state: State) -> Option<End> {
        if self.aborted {
            return Some(End::Aborted);
        }
        if self.timed_out {
            return Some(End::TimedOut);
        }
        if self.reset_by_peer {
            return Some(if self.established {
                End::Reset
            } else {
                End::Refused
            });
        }
        // Both sides have closed; the application may not have read all of it yet.
        let orderly = state == State::TimeWait
            || matches!(self.last, State::LastAck | State::TimeWait | State::Closing)
            || self.established && self.last == State::Closed;
        if orderly {
            return (!self.slot.socket().can_recv()).then_some(End::Finished);
        }
        Some(End::TimedOut)
    }

    /// Takes note of whether the peer owes an acknowledgement; `heard` says that it just sent something.
    pub(super) fn note_silence(&mut self, now: Nanoseconds, heard: bool) {
        if heard {
            self.heard = now;
        }
        let socket = self.slot.socket();
        let owed = socket.send_queue() > 0
            || matches!(
                socket.state(),
                State::FinWait1 | State::Closing | State::LastAck
            );
        if !owed || !self.established {
            self.waiting_since = None;
        } else if heard || self.waiting_since.is_none() {
            self.waiting_since = Some(now);
        }
    }

    /// When the peer has been silent for too long.
    pub(super) fn silent_until(&self) -> Option<Nanoseconds> {
        // One that is over waits for its application at most.
        if self.is_over() {
            return None;
        }
        match self.waiting_since {
            Some(since) => Some(since.saturating_add(self.user_timeout)),
            None if !self.established => None,
            None => self
                .idle_timeout
                .map(|timeout| self.heard.saturating_add(timeout)),
        }
    }

    /// Takes note of the peer's first sequence number, with the segment that brought the socket from one state
    /// to another.
    pub(super) fn note_first(&mut self, before: State, state: State, sequence: u32) {
        if matches!(before, State::Listen | State::SynSent) && state != before {
            self.first = sequence;
        }
    }

    /// The sequence number that the peer uses next, if it has sent nothing that was lost.
    fn receive_next(&self) -> u32 {
        let socket = self.slot.socket();
        let ended = matches!(
            socket.state(),
            State::CloseWait | State::LastAck | State::Closing | State::TimeWait
        );
        self.first
            .wrapping_add(1)
            .wrapping_add(self.taken)
            .wrapping_add(socket.recv_queue() as u32)
            .wrapping_add(u32::from(ended))
    }

    /// Whether a segment is a reset that anybody may have sent, because it does not have the very number that
    /// the peer uses next (RFC 9293, section 3.10.7.4; RFC 5961, section 3.2). smoltcp would take one from
    /// anywhere in the window. The peer is asked, once a second at most: if the reset was its own, it answers with
    /// another one, whose number is right.
    pub(super) fn doubts(&mut self, now: Nanoseconds, segment: &Segment) -> bool {
        if !segment.rst || !self.established || segment.sequence == self.receive_next() {
            return false;
        }
        if now >= self.challenged.saturating_add(SECOND) {
            self.challenged = now;
            self.challenges = true;
            // A probe asks; where something sent is not acknowledged yet, sending it again does.
            let never_again = Duration::from_secs(86_400);
            let interval = self.probes.unwrap_or(never_again);
            self.slot.socket_mut().set_keep_alive(Some(interval));
        }
        true
    }

    /// The peer was asked.
    pub(super) fn end_challenge(&mut self) {
        if core::mem::take(&mut self.challenges) {
            let probes = self.probes;
            self.slot.socket_mut().set_keep_alive(probes);
        }
    }

    /// Chooses a property; false: not any more.
    pub(super) fn set_option(&mut self, now: Nanoseconds, option: Choice) -> bool {
        match option {
            Choice::NoDelay(on) => self.joins_short = !on,
            Choice::KeepAlive(None) => {
                self.idle_timeout = None;
                self.probes = None;
                self.slot.socket_mut().set_keep_alive(None);
            }
            Choice::KeepAlive(Some((interval, probes))) => {
                // What was said before the probes began is not held against the peer.
                self.heard = now;
                self.idle_timeout = Some(interval.saturating_mul(u64::from(probes) + 1));
                self.probes = Some(Duration::from_micros(interval / 1_000));
                self.slot.socket_mut().set_keep_alive(self.probes);
            }
            Choice::UserTimeout(time) => self.user_timeout = time,
            Choice::ConnectTimeout(_) if self.established => return false,
            Choice::ConnectTimeout(time) => {
                let time = Duration::from_micros(time / 1_000);
                self.slot.socket_mut().set_timeout(Some(time));
            }
        }
        true
    }

    /// Gives the socket what it has room for of the tail, and after it the end.
    pub(super) fn feed_tail(&mut self) {
        let rest = self.tail.get(self.tail_given..).unwrap_or_default();
        let socket = self.slot.set.get_mut::<Socket<'static>>(self.slot.handle);
        if !rest.is_empty() {
            // A socket that takes nothing any more has ended, and the tail is lost with it.
            let given = socket.send_slice(rest).unwrap_or(rest.len());
            self.tail_given += given;
            self.given += given as u64;
        }
        if self.orphan && self.tail_given >= self.tail.len() {
            socket.close();
        }
    }

    /// Tells smoltcp whether a short segment is to wait. Nagle's algorithm (RFC 9293, section 3.7.4) has it
    /// wait for all that is under way, so that the end of what was given in one piece comes after a delayed
    /// acknowledgement of its beginning; here it waits for another short one only (Minshall's variant,
    /// draft-minshall-nagle-01).
    pub(super) fn before_sending(&mut self) {
        let waiting = self.slot.socket().send_queue() as u64;
        let short_under_way = self.given.saturating_sub(waiting) < self.short_until;
        let joins = self.joins_short && short_under_way;
        self.slot.socket_mut().set_nagle_enabled(joins);
    }

    /// Segments went out.
    pub(super) fn has_sent(&mut self) {
        self.short_until = self.given;
    }

    /// Whether the peer has nothing to say any more.
    fn is_over(&self) -> bool {
        let state = self.slot.socket().state();
        matches!(state, State::Closed | State::TimeWait)
    }

    /// Whether nothing is left to send, to wait for or to read: the socket can be used again.
    pub(super) fn is_spent(&self) -> bool {
        let socket = self.slot.socket();
        let read = self.orphan || self.end.is_some();
        match socket.state() {
            // A closed socket that still knows its peer owes it a reset.
            State::Closed => read && socket.remote_endpoint().is_none(),
            State::TimeWait => read,
            _ => false,
        }
    }
}
