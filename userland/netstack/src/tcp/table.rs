//! The table of TCP connections and listeners: who a segment is for, who has something to send, and
//! when each wants to be looked at again.
//!
//! What a connection carries is moved by its application through [`Table::send`] and
//! [`Table::receive`]; who may open how many is asked of the [`Ledger`].

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use slotmap::SlotMap;
use smoltcp::iface::{Interface, PollResult};
use smoltcp::socket::tcp::State;
use smoltcp::wire::IpListenEndpoint;

use super::connection::{Choice, Connection, End, Phase, Slot};
use super::listener::Listener;
use super::reply::acknowledge;
use super::time_wait::{TimeWait, Verdict};
use super::{ConnectionId, ListenerId};
use crate::client::{Ledger, Owner};
use crate::peek::{Flow, Segment};
use crate::time::{Nanoseconds, SECOND, instant, nanoseconds};
use crate::wire::{Port, Wire};

/// Segments that a connection sends before the next one has its turn.
const BURST: usize = 16;
/// First port that connections of this host use (RFC 6335, section 6: dynamic ports).
const FIRST_DYNAMIC: u16 = 49152;
/// How long a connection that its application let go may take to finish (RFC 9293 sets no limit to
/// FIN-WAIT-2; without one a silent peer would hold the buffers for ever).
const LINGER: Nanoseconds = 60 * SECOND;
/// Shortest time between two looks at a connection that nothing happened to.
const TICK: Nanoseconds = 100_000;
/// How long a reset may wait for room on the wire.
const ABORT_LINGER: Nanoseconds = 2 * SECOND;

/// Why a connection could not be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectError {
    /// No address of this host to send from, or none to send to.
    Unreachable,
    /// Every dynamic port towards this peer is in use.
    NoPort,
    /// The client or all clients hold as much as they may.
    Limit,
}

/// Why a port could not be listened on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenError {
    /// Another listener has the port.
    InUse,
    /// Port 0 or a backlog of 0.
    Invalid,
    /// The client holds as much as it may.
    Limit,
}

/// Counters of what was refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// SYNs that found the backlog full.
    pub backlog: u64,
    /// SYNs that found their listener's owner at its limit.
    pub limit: u64,
    /// Resets of connections that may have been anybody's.
    pub resets: u64,
}

/// The table.
pub struct Table {
    connections: SlotMap<ConnectionId, Connection>,
    listeners: SlotMap<ListenerId, Listener>,
    flows: BTreeMap<Flow, ConnectionId>,
    time_wait: TimeWait,
    dirty: VecDeque<ConnectionId>,
    changed: VecDeque<ConnectionId>,
    timers: BTreeSet<(Nanoseconds, ConnectionId)>,
    spare: Vec<Slot>,
    most_spare: usize,
    buffer_bytes: usize,
    next_port: u16,
    refused: Refused,
}

impl Table {
    /// An empty table whose connections have two buffers of `buffer_bytes` each, and which keeps up to
    /// `most_spare` sockets for use again. `seed` chooses the first dynamic port (RFC 6056: not always
    /// the same after each boot).
    pub fn new(buffer_bytes: usize, most_spare: usize, seed: u64) -> Table {
        Table {
            connections: SlotMap::with_key(),
            listeners: SlotMap::with_key(),
            flows: BTreeMap::new(),
            time_wait: TimeWait::default(),
            dirty: VecDeque::new(),
            changed: VecDeque::new(),
            timers: BTreeSet::new(),
            spare: Vec::new(),
            most_spare,
            buffer_bytes,
            next_port: FIRST_DYNAMIC + (seed % u64::from(u16::MAX - FIRST_DYNAMIC)) as u16,
            refused: Refused::default(),
        }
    }

    /// What one connection is charged.
    pub fn connection_bytes(&self) -> usize {
        2 * self.buffer_bytes
    }

    /// Number of connections that have a socket.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Number of connections in TIME-WAIT.
    pub fn time_waiting(&self) -> usize {
        self.time_wait.len()
    }

    /// What was refused so far.
    pub fn refused(&self) -> Refused {
        self.refused
    }

    /// Begins a connection from an address of this host.
    pub(crate) fn connect(
        &mut self,
        interface: &mut Interface,
        ledger: &mut Ledger,
        owner: Owner,
        address: IpAddr,
        remote: SocketAddr,
    ) -> Result<ConnectionId, ConnectError> {
        // What is for this host alone never goes out (RFC 1122, section 3.2.1.3; RFC 4291, section 2.5.3).
        let host = remote.ip();
        if remote.port() == 0 || host.is_unspecified() || host.is_multicast() || host.is_loopback()
        {
            return Err(ConnectError::Unreachable);
        }
        let flow = self
            .free_flow(address, remote)
            .ok_or(ConnectError::NoPort)?;
        if !ledger.charge(owner, self.connection_bytes()) {
            return Err(ConnectError::Limit);
        }
        let mut slot = self.take_slot();
        let begun = slot
            .renew()
            .connect(interface.context(), flow.remote, flow.local);
        if begun.is_err() {
            self.keep_slot(slot);
            ledger.refund(owner, self.connection_bytes());
            return Err(ConnectError::Unreachable);
        }
        let id = self.insert(Connection::new(slot, flow, owner));
        self.mark_dirty(id);
        Ok(id)
    }

    /// Listens on a port, on one address or on all.
    pub fn listen(
        &mut self,
        ledger: &mut Ledger,
        owner: Owner,
        address: Option<IpAddr>,
        port: u16,
        backlog: usize,
    ) -> Result<ListenerId, ListenError> {
        if port == 0 || backlog == 0 {
            return Err(ListenError::Invalid);
        }
        let clash = self.listeners.values().any(|other| {
            other.port == port
                && (other.address.is_none() || address.is_none() || other.address == address)
        });
        if clash {
            return Err(ListenError::InUse);
        }
        if !ledger.charge(owner, 0) {
            return Err(ListenError::Limit);
        }
        let listener = Listener::new(owner, address, port, backlog);
        Ok(self.listeners.insert(listener))
    }

    /// The open connection that waited longest at a listener.
    pub fn accept(&mut self, listener: ListenerId) -> Option<ConnectionId> {
        let id = self.listeners.get_mut(listener)?.queue.pop_front()?;
        self.connections.get_mut(id)?.listener = None;
        Some(id)
    }

    /// How many connections [`Table::accept`] has to give.
    pub fn waiting(&self, listener: ListenerId) -> usize {
        self.listeners
            .get(listener)
            .map_or(0, |listener| listener.queue.len())
    }

    /// Whether [`Table::accept`] has a connection to give.
    pub fn can_accept(&self, listener: ListenerId) -> bool {
        self.listeners
            .get(listener)
            .is_some_and(|listener| !listener.queue.is_empty())
    }

    /// Stops listening; connections that nobody accepted are reset.
    pub fn close_listener(&mut self, now: Nanoseconds, ledger: &mut Ledger, id: ListenerId) {
        let Some(listener) = self.listeners.remove(id) else {
            return;
        };
        ledger.refund(listener.owner, 0);
        let waiting: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter_map(|(key, connection)| (connection.listener == Some(id)).then_some(key))
            .collect();
        for connection in waiting {
            self.abort(now, connection);
        }
    }

    /// A listener's owner.
    pub fn listener_owner(&self, id: ListenerId) -> Option<Owner> {
        self.listeners.get(id).map(|listener| listener.owner)
    }

    /// A connection's owner.
    pub fn owner(&self, id: ConnectionId) -> Option<Owner> {
        self.connections.get(id).map(|connection| connection.owner)
    }

    /// The listener at which a connection waits to be accepted.
    pub fn waits_at(&self, id: ConnectionId) -> Option<ListenerId> {
        self.connections
            .get(id)
            .and_then(|connection| connection.listener)
    }

    /// A connection's two ends.
    pub fn flow(&self, id: ConnectionId) -> Option<Flow> {
        self.connections.get(id).map(|connection| connection.flow)
    }

    /// Where a connection stands.
    pub fn phase(&self, id: ConnectionId) -> Option<Phase> {
        self.connections.get(id).map(Connection::phase)
    }

    /// Chooses a property of a connection; false: it has none such, or not any more.
    #[must_use]
    pub fn set_option(&mut self, now: Nanoseconds, id: ConnectionId, option: Choice) -> bool {
        let connection = self.connections.get_mut(id);
        let chosen = connection.is_some_and(|connection| connection.set_option(now, option));
        // Its timer may be an earlier one now.
        self.mark_dirty(id);
        chosen
    }

    /// Offers `fill` the free part of the send buffer, piece by piece, until it writes nothing or the
    /// buffer is full. Tells how many bytes went in.
    pub fn send(&mut self, id: ConnectionId, mut fill: impl FnMut(&mut [u8]) -> usize) -> usize {
        let Some(connection) = self.connections.get_mut(id) else {
            return 0;
        };
        let socket = connection.slot.socket_mut();
        let mut total = 0;
        while socket.can_send() {
            match socket.send(|space| {
                let count = fill(space).min(space.len());
                (count, count)
            }) {
                Ok(count) if count > 0 => total += count,
                _ => break,
            }
        }
        if total > 0 {
            connection.given += total as u64;
            self.mark_dirty(id);
        }
        total
    }

    /// Offers `take` what was received, piece by piece, until it takes nothing or all is taken. Tells
    /// how many bytes went out.
    pub fn receive(&mut self, id: ConnectionId, mut take: impl FnMut(&[u8]) -> usize) -> usize {
        let Some(connection) = self.connections.get_mut(id) else {
            return 0;
        };
        let socket = connection.slot.socket_mut();
        let mut total = 0;
        while socket.can_recv() {
            match socket.recv(|bytes| {
                let count = take(bytes).min(bytes.len());
                (count, count)
            }) {
                Ok(count) if count > 0 => total += count,
                _ => break,
            }
        }
        connection.taken = connection.taken.wrapping_add(total as u32);
        if total > 0 {
            // The window grew: the peer may have to be told.
            self.mark_dirty(id);
        }
        total
    }

    /// Whether there are received bytes to take.
    pub fn can_receive(&self, id: ConnectionId) -> bool {
        self.connections
            .get(id)
            .is_some_and(|connection| connection.slot.socket().can_recv())
    }

    /// Whether the peer will send no more and all it sent was taken.
    pub fn receive_finished(&self, id: ConnectionId) -> bool {
        self.connections
            .get(id)
            .is_none_or(|connection| connection.established && !connection.slot.socket().may_recv())
    }

    /// Whether there is room in the send buffer.
    pub fn can_send(&self, id: ConnectionId) -> bool {
        self.connections
            .get(id)
            .is_some_and(|connection| connection.slot.socket().can_send())
    }

    /// Closes the sending half, once all in the buffer is sent (RFC 9293, section 3.6).
    pub fn finish_sending(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(id) {
            connection.slot.socket_mut().close();
            self.mark_dirty(id);
        }
    }

    /// Lets a connection go: what was given to send is sent, then `tail`, then it is closed. What the
    /// peer still sends is not read; where something unread is there already, the peer is reset
    /// instead, so that it does not take it for processed (RFC 2525, section 2.17). So it is where the
    /// owner may not hold a tail of that size.
    pub fn close(
        &mut self,
        now: Nanoseconds,
        ledger: &mut Ledger,
        id: ConnectionId,
        tail: Vec<u8>,
    ) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        let unread = connection.slot.socket().can_recv();
        if unread || !ledger.charge_bytes(connection.owner, tail.len()) {
            return self.abort(now, id);
        }
        connection.orphan = true;
        connection.tail = tail;
        // A socket that is closed already owes a reset at most.
        let closed = connection.slot.socket().state() == State::Closed;
        let linger = if closed { ABORT_LINGER } else { LINGER };
        connection.drop_at = Some(now.saturating_add(linger));
        connection.feed_tail();
        self.mark_dirty(id);
    }

    /// Lets a connection go and resets it (RFC 9293, section 3.10.5).
    pub fn abort(&mut self, now: Nanoseconds, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        connection.orphan = true;
        connection.aborted = true;
        connection.drop_at = Some(now.saturating_add(ABORT_LINGER));
        // In TIME-WAIT both sides are done: there is nothing to reset.
        if connection.slot.socket().state() != State::TimeWait {
            connection.slot.socket_mut().abort();
        }
        self.mark_dirty(id);
    }

    /// Lets go of all that a client had. Its streams are reset: a peer must not take a stream that
    /// broke off for a whole one.
    pub fn drop_owner(&mut self, now: Nanoseconds, ledger: &mut Ledger, owner: Owner) {
        let listeners: Vec<ListenerId> = self
            .listeners
            .iter()
            .filter_map(|(id, listener)| (listener.owner == owner).then_some(id))
            .collect();
        for id in listeners {
            self.close_listener(now, ledger, id);
        }
        let connections: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter_map(|(id, connection)| {
                (connection.owner == owner && !connection.orphan).then_some(id)
            })
            .collect();
        for id in connections {
            self.abort(now, id);
        }
    }

    /// Has [`Table::next_changed`] give a connection once more.
    pub fn touch(&mut self, id: ConnectionId) {
        self.mark_changed(id);
    }

    /// How many connections [`Table::next_changed`] would give at most.
    pub fn changed(&self) -> usize {
        self.changed.len()
    }

    /// Takes the next connection that its application should look at: data came, room came, its phase
    /// changed.
    pub fn next_changed(&mut self) -> Option<ConnectionId> {
        while let Some(id) = self.changed.pop_front() {
            if let Some(connection) = self.connections.get_mut(id) {
                connection.changed = false;
                return Some(id);
            }
        }
        None
    }
}

/// Segments, egress and timers.
impl Table {
    /// Hands a received segment to its connection. False: it is nobody's, and smoltcp shall answer
    /// (with a reset, RFC 9293, section 3.10.7.1).
    pub(crate) fn deliver<W: Wire>(
        &mut self,
        now: Nanoseconds,
        interface: &mut Interface,
        ledger: &mut Ledger,
        port: &mut Port<'_, W>,
        segment: &Segment,
    ) -> bool {
        let id = match self.flows.get(&segment.flow) {
            Some(id) => *id,
            None => match self.admit(now, ledger, port, segment) {
                Admission::New(id) => id,
                Admission::Handled => return true,
                Admission::Nobody => return false,
            },
        };
        let Some(connection) = self.connections.get_mut(id) else {
            return false;
        };
        if connection.doubts(now, segment) {
            self.refused.resets += 1;
            self.mark_dirty(id);
            return true;
        }
        let before = connection.slot.socket().state();
        interface.poll_ingress_single(instant(now), port, &mut connection.slot.set);
        let state = connection.slot.socket().state();
        connection.note_first(before, state, segment.sequence);
        connection.reset_by_peer |= segment.rst && state == State::Closed;
        if segment.fin {
            connection.peer_next = segment.end;
        }
        connection.note_silence(now, true);
        if state == State::TimeWait && before != state && segment.fin {
            // The socket may be given back before its delayed ACK would be sent.
            acknowledge(port, segment, connection.peer_next);
        }
        self.settle(now, ledger, id);
        self.mark_dirty(id);
        self.mark_changed(id);
        true
    }

    /// Lets every connection that wants to send do so, in turns, until none wants to or the wire has
    /// no room.
    pub(crate) fn egress<W: Wire>(
        &mut self,
        now: Nanoseconds,
        interface: &mut Interface,
        ledger: &mut Ledger,
        port: &mut Port<'_, W>,
    ) {
        while port.wire.can_transmit() {
            let Some(id) = self.dirty.pop_front() else {
                return;
            };
            let Some(connection) = self.connections.get_mut(id) else {
                continue;
            };
            connection.dirty = false;
            let sent = dispatch(now, interface, port, connection);
            connection.end_challenge();
            connection.note_silence(now, false);
            if sent == BURST || !port.wire.can_transmit() {
                self.mark_dirty(id);
            }
            self.settle(now, ledger, id);
            self.set_timer(now, interface, id);
        }
    }

    /// Puts every connection whose time has come into the queue of those to look at.
    pub(crate) fn expire(&mut self, now: Nanoseconds, ledger: &mut Ledger) {
        self.time_wait.expire(now);
        while let Some((moment, id)) = self.timers.first().copied() {
            if moment > now {
                return;
            }
            self.timers.pop_first();
            let Some(connection) = self.connections.get_mut(id) else {
                continue;
            };
            connection.timer = None;
            if connection.drop_at.is_some_and(|drop_at| drop_at <= now) {
                self.remove(now, ledger, id);
                continue;
            }
            if connection
                .silent_until()
                .is_some_and(|moment| moment <= now)
            {
                connection.timed_out = true;
                connection.slot.socket_mut().abort();
            }
            self.mark_dirty(id);
            self.mark_changed(id);
        }
    }

    /// When [`Table::expire`] or [`Table::egress`] next has something to do; `now` or earlier: at once.
    pub(crate) fn deadline(&self) -> Option<Nanoseconds> {
        let timer = self.timers.first().map(|(moment, _)| *moment);
        timer.into_iter().chain(self.time_wait.deadline()).min()
    }

    /// Whether connections wait for room on the wire.
    pub(crate) fn has_output(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Looks again at every connection, because this host's addresses changed: one whose address is
    /// gone ends.
    pub(crate) fn addresses_changed(&mut self) {
        let all: Vec<ConnectionId> = self.connections.keys().collect();
        for id in all {
            self.mark_dirty(id);
            self.mark_changed(id);
        }
    }

    /// Finds what a segment without a connection is for.
    fn admit<W: Wire>(
        &mut self,
        now: Nanoseconds,
        ledger: &mut Ledger,
        port: &mut Port<'_, W>,
        segment: &Segment,
    ) -> Admission {
        match self.time_wait.judge(segment) {
            Some(Verdict::Acknowledge) => {
                acknowledge(port, segment, segment.end);
                return Admission::Handled;
            }
            Some(Verdict::Drop) => return Admission::Handled,
            Some(Verdict::Reopen) | None => {}
        }
        if !segment.syn || segment.ack || segment.rst {
            return Admission::Nobody;
        }
        let found = self
            .listeners
            .iter()
            .find(|(_, listener)| listener.covers(segment.flow.local));
        let Some((listener_id, _)) = found else {
            return Admission::Nobody;
        };
        let Some(owner) = self.make_room(now, ledger, listener_id) else {
            return Admission::Handled;
        };
        let mut slot = self.take_slot();
        let endpoint = IpListenEndpoint::from(segment.flow.local);
        let listening = slot.renew().listen(endpoint);
        let mut connection = Connection::new(slot, segment.flow, owner);
        connection.listener = Some(listener_id);
        connection.began = now;
        // A port of 0 cannot be listened on; such a socket stays closed and goes when settled.
        connection.aborted = listening.is_err();
        let id = self.insert(connection);
        self.note_beginning(now, listener_id, id);
        Admission::New(id)
    }

    /// Finds room for another connection at a listener and has its owner charged. Where there is none, the
    /// oldest handshake makes way if it takes longer than they do here: in a flood of SYNs that nobody
    /// stands behind, those that somebody does still get through. Else the SYN is dropped: the peer tries
    /// again, and may find room then; a reset would tell it that nobody listens.
    fn make_room(
        &mut self,
        now: Nanoseconds,
        ledger: &mut Ledger,
        id: ListenerId,
    ) -> Option<Owner> {
        let listener = self.listeners.get(id)?;
        let owner = listener.owner;
        if !listener.has_room() {
            self.refused.backlog += 1;
            let late = self.late_handshake(now, id)?;
            self.remove(now, ledger, late);
        }
        if !ledger.charge(owner, self.connection_bytes()) {
            self.refused.limit += 1;
            let late = self.late_handshake(now, id)?;
            self.remove(now, ledger, late);
            let charged = ledger.charge(owner, self.connection_bytes());
            return charged.then_some(owner);
        }
        Some(owner)
    }

    /// The oldest connection whose handshake is under way at a listener, if it takes too long.
    fn late_handshake(&mut self, now: Nanoseconds, id: ListenerId) -> Option<ConnectionId> {
        let listener = self.listeners.get_mut(id)?;
        while let Some((began, oldest)) = listener.began.front().copied() {
            let connection = self.connections.get(oldest);
            if connection.is_some_and(Connection::is_opening) {
                let late = now.saturating_sub(began) > listener.patience();
                return late.then_some(oldest);
            }
            listener.began.pop_front();
        }
        None
    }

    /// A handshake begins at a listener.
    fn note_beginning(&mut self, now: Nanoseconds, id: ListenerId, connection: ConnectionId) {
        let Some(listener) = self.listeners.get_mut(id) else {
            return;
        };
        listener.opening += 1;
        // Those that are over are forgotten before there are more of them than of the others.
        if listener.began.len() >= 2 * listener.backlog {
            let connections = &self.connections;
            let opening = |id| connections.get(id).is_some_and(Connection::is_opening);
            listener.began.retain(|(_, id)| opening(*id));
        }
        listener.began.push_back((now, connection));
    }

    /// Draws the consequences of a state that may have changed.
    fn settle(&mut self, now: Nanoseconds, ledger: &mut Ledger, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        let state = connection.slot.socket().state();
        // The SYN was not good, or the peer took it back (RFC 9293, section 3.10.7.4): whoever never
        // opened a connection is not told of its end.
        let unborn = connection.listener.is_some() && !connection.established;
        if unborn && matches!(state, State::Listen | State::Closed) {
            connection.orphan = true;
            if state == State::Listen || connection.slot.socket().remote_endpoint().is_none() {
                return self.remove(now, ledger, id);
            }
        }
        let before = connection.phase();
        if connection.note_state()
            && let Some(listener) = connection
                .listener
                .and_then(|at| self.listeners.get_mut(at))
        {
            listener.opening -= 1;
            listener.note_handshake(now.saturating_sub(connection.began));
            listener.queue.push_back(id);
        }
        let changed = connection.phase() != before;
        if connection.orphan && connection.is_spent() {
            self.remove(now, ledger, id);
        } else if changed {
            self.mark_changed(id);
        }
    }

    /// Takes a connection out of the table; what it leaves behind is a record in TIME-WAIT at most.
    fn remove(&mut self, now: Nanoseconds, ledger: &mut Ledger, id: ConnectionId) {
        let Some(connection) = self.connections.remove(id) else {
            return;
        };
        if let Some(listener) = connection
            .listener
            .and_then(|at| self.listeners.get_mut(at))
        {
            if connection.established {
                listener.queue.retain(|queued| *queued != id);
            } else {
                listener.opening -= 1;
            }
        }
        if let Some(moment) = connection.timer {
            self.timers.remove(&(moment, id));
        }
        if connection.slot.socket().state() == State::TimeWait {
            self.time_wait
                .insert(now, connection.flow, connection.peer_next);
        }
        self.flows.remove(&connection.flow);
        ledger.refund(
            connection.owner,
            2 * self.buffer_bytes + connection.tail.len(),
        );
        self.keep_slot(connection.slot);
    }

    fn keep_slot(&mut self, mut slot: Slot) {
        if self.spare.len() < self.most_spare {
            slot.renew();
            self.spare.push(slot);
        }
    }

    fn insert(&mut self, connection: Connection) -> ConnectionId {
        let flow = connection.flow;
        let id = self.connections.insert(connection);
        self.flows.insert(flow, id);
        id
    }

    fn take_slot(&mut self) -> Slot {
        self.spare
            .pop()
            .unwrap_or_else(|| Slot::new(self.buffer_bytes))
    }

    /// A pair of ends that no connection uses and none in TIME-WAIT remembers.
    fn free_flow(&mut self, address: IpAddr, remote: SocketAddr) -> Option<Flow> {
        for _ in FIRST_DYNAMIC..=u16::MAX {
            let local = SocketAddr::new(address, self.next_port);
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_DYNAMIC);
            let flow = Flow { local, remote };
            if !self.flows.contains_key(&flow) && !self.time_wait.holds(&flow) {
                return Some(flow);
            }
        }
        None
    }

    fn set_timer(&mut self, now: Nanoseconds, interface: &mut Interface, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        if let Some(moment) = connection.timer.take() {
            self.timers.remove(&(moment, id));
        }
        let mut next = connection
            .drop_at
            .into_iter()
            .chain(connection.silent_until())
            .min();
        // One that is dirty has its turn when there is room on the wire, not at a time; in TIME-WAIT
        // smoltcp's timer would throw away what the application has not read yet.
        if !connection.dirty && connection.slot.socket().state() != State::TimeWait {
            let poll_at = interface.poll_at(instant(now), &connection.slot.set);
            // Not before the clock has moved: a socket that asks for what it does not get must not
            // keep the CPU busy.
            let poll_at = poll_at.map(|moment| nanoseconds(moment).max(now + TICK));
            next = poll_at.into_iter().chain(next).min();
        }
        connection.timer = next;
        self.timers.extend(next.map(|moment| (moment, id)));
    }

    pub(crate) fn mark_dirty(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(id)
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push_back(id);
        }
    }

    fn mark_changed(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(id)
            && !connection.changed
            && !connection.orphan
        {
            connection.changed = true;
            self.changed.push_back(id);
        }
    }
}

/// What a segment without a connection came to.
enum Admission {
    New(ConnectionId),
    Handled,
    Nobody,
}

/// Sends up to [`BURST`] segments of one connection and tells how many.
fn dispatch<W: Wire>(
    now: Nanoseconds,
    interface: &mut Interface,
    port: &mut Port<'_, W>,
    connection: &mut Connection,
) -> usize {
    connection.feed_tail();
    if connection.slot.socket().state() == State::TimeWait {
        return 0;
    }
    connection.before_sending();
    let mut sent = 0;
    while sent < BURST
        && interface.poll_egress(instant(now), port, &mut connection.slot.set) != PollResult::None
    {
        sent += 1;
    }
    if sent > 0 {
        connection.has_sent();
    }
    sent
}

/// What an application is told of an end.
impl End {
    /// Whether both sides got all they should.
    pub fn is_orderly(self) -> bool {
        self == End::Finished
    }
}
