//! What an application does with a connection that it has: it moves bytes, chooses, and lets go.

use alloc::vec::Vec;

use smoltcp::socket::tcp::State;

use super::connection::Choice;
use super::table::Table;
use super::{ConnectionId, ListenerId};
use crate::client::{Ledger, Owner};
use crate::time::{Nanoseconds, SECOND};

/// How long a connection that its application let go may take to finish (RFC 9293 sets no limit to
/// FIN-WAIT-2; without one a silent peer would hold the buffers for ever).
const LINGER: Nanoseconds = 60 * SECOND;
/// How long a reset may wait for room on the wire.
const ABORT_LINGER: Nanoseconds = 2 * SECOND;

impl Table {
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

    /// Lets a connection go: what was given to send is sent, then `bytes` more, which `fill` writes, then it
    /// is closed. What the peer still sends is not read; where something unread is there already, the peer is
    /// reset instead, so that it does not take it for processed (RFC 2525, section 2.17). So it is where the
    /// owner may not hold so many bytes, there is no memory for them, or `fill` says false.
    pub fn close(
        &mut self,
        now: Nanoseconds,
        ledger: &mut Ledger,
        id: ConnectionId,
        bytes: usize,
        fill: impl FnOnce(&mut [u8]) -> bool,
    ) {
        let Some(connection) = self.connections.get_mut(id) else {
            return;
        };
        let unread = connection.slot.socket().can_recv();
        if unread || !ledger.charge_bytes(connection.owner, bytes) {
            return self.abort(now, id);
        }
        connection.tail_charged = bytes;
        if connection.tail.try_reserve_exact(bytes).is_err() {
            return self.abort(now, id);
        }
        connection.tail.resize(bytes, 0);
        if !fill(&mut connection.tail) {
            return self.abort(now, id);
        }
        connection.orphan = true;
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
}
