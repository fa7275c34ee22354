//! Segments in and out of connections, what their states then come to, and time.

use alloc::vec::Vec;

use smoltcp::iface::{Interface, PollResult};
use smoltcp::socket::tcp::State;

use super::ConnectionId;
use super::connection::Connection;
use super::opening::Admission;
use super::parts::Parts;
use super::reply::acknowledge;
use super::table::Table;
use crate::client::Ledger;
use crate::peek::Segment;
use crate::time::{Nanoseconds, instant, nanoseconds};
use crate::wire::{Port, Wire};

/// Segments that a connection sends before the next one has its turn.
const BURST: usize = 16;
/// Shortest time between two looks at a connection that nothing happened to.
const TICK: Nanoseconds = 100_000;

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
            Some(id) => id,
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
        let mut show = |connection: &mut Connection, port: &mut Port<'_, W>| {
            interface.poll_ingress_single(instant(now), port, &mut connection.slot.set);
        };
        let packet = port.packet().filter(|_| connection.established);
        match packet.and_then(|packet| Parts::of(segment, packet)) {
            Some(parts) => {
                show(connection, &mut port.with(&parts.data));
                // Where something before it is missing smoltcp does not take it.
                show(connection, &mut port.with(&parts.end));
            }
            None => show(connection, port),
        }
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
            let (sent, due) = dispatch(now, interface, port, connection);
            connection.end_challenge();
            connection.note_silence(now, false);
            let more = due.is_some_and(|due| due <= now);
            if more && (sent == BURST || !port.wire.can_transmit()) {
                self.mark_dirty(id);
            }
            self.settle(now, ledger, id);
            self.set_timer(now, id, due);
        }
    }

    /// Puts every connection whose time has come into the queue of those to look at.
    pub(crate) fn expire(&mut self, now: Nanoseconds, ledger: &mut Ledger) {
        self.time_wait.expire(now);
        while let Some(id) = self.timers.next_due(now) {
            let Some(connection) = self.connections.get_mut(id) else {
                continue;
            };
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

    /// When [`Table::expire`] is to be called; `now` or earlier: at once. It may find nothing to do then.
    pub(crate) fn deadline(&self) -> Option<Nanoseconds> {
        let deadlines = [self.timers.deadline(), self.time_wait.deadline()];
        deadlines.into_iter().flatten().min()
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
            if let Some(connection) = self.connections.get_mut(id) {
                connection.readdressed = true;
            }
            self.mark_dirty(id);
            self.mark_changed(id);
        }
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

    /// Sees to it that a connection is looked at again in time; its socket is due at `due`.
    fn set_timer(&mut self, now: Nanoseconds, id: ConnectionId, due: Option<Nanoseconds>) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        // One that is dirty has its turn when there is room on the wire, not at a time. Else not before the
        // clock has moved: a socket that asks for what it does not get must not keep the CPU busy.
        let due = due.filter(|_| !connection.dirty);
        let due = due.map(|due| due.max(now + TICK));
        let deadlines = [due, connection.drop_at, connection.silent_until()];
        let next = deadlines.into_iter().flatten().min();
        self.timers.set(id, next);
    }
}

/// Sends up to [`BURST`] segments of one connection. Tells how many, and when its socket is due again if
/// nothing arrives; `now` or earlier: it has more to send.
fn dispatch<W: Wire>(
    now: Nanoseconds,
    interface: &mut Interface,
    port: &mut Port<'_, W>,
    connection: &mut Connection,
) -> (usize, Option<Nanoseconds>) {
    connection.feed_tail();
    // smoltcp's timer would throw away what the application has not read yet.
    if connection.slot.socket().state() == State::TimeWait {
        return (0, None);
    }
    connection.before_sending();
    let mut sent = 0;
    let mut polls = core::mem::take(&mut connection.readdressed);
    let due = loop {
        // To ask costs less than to have smoltcp find nothing to send.
        let due = interface.poll_at(instant(now), &connection.slot.set);
        let due = due.map(nanoseconds);
        polls |= due.is_some_and(|due| due <= now);
        if !polls || sent == BURST {
            break due;
        }
        polls = false;
        match interface.poll_egress(instant(now), port, &mut connection.slot.set) {
            PollResult::SocketStateChanged => sent += 1,
            // Nothing went out, but a timer may have been set anew, or the socket closed.
            PollResult::None => {
                let due = interface.poll_at(instant(now), &connection.slot.set);
                break due.map(nanoseconds);
            }
        }
    };
    if sent > 0 {
        connection.has_sent();
    }
    (sent, due)
}
