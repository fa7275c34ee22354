//! The table of TCP connections and listeners: what there is, and whose turn it is.
//!
//! How a connection opens is [`super::opening`]'s, how its segments go in and out [`super::segments`]'s,
//! and what its application does with it [`super::application`]'s; who may open how many is asked of the
//! [`Ledger`].

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use slotmap::SlotMap;
use smoltcp::socket::tcp::State;

use super::connection::{Connection, Phase, Slot};
use super::flows::Flows;
use super::listener::Listener;
use super::time_wait::TimeWait;
use super::timers::Timers;
use super::{ConnectionId, ListenerId};
use crate::client::{Ledger, Owner};
use crate::peek::Flow;
use crate::random::Random;
use crate::time::Nanoseconds;

/// First port that connections of this host use (RFC 6335, section 6: dynamic ports).
pub(super) const FIRST_DYNAMIC: u16 = 49152;

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
    pub(super) connections: SlotMap<ConnectionId, Connection>,
    pub(super) listeners: SlotMap<ListenerId, Listener>,
    /// The connections by their ends.
    pub(super) flows: Flows<ConnectionId>,
    pub(super) time_wait: TimeWait,
    /// Those that may have something to send, and say so (`Connection::dirty`): each once.
    pub(super) dirty: VecDeque<ConnectionId>,
    /// Those that their application should look at, and say so (`Connection::changed`): each once.
    pub(super) changed: VecDeque<ConnectionId>,
    /// When the others are to be looked at.
    pub(super) timers: Timers,
    /// Sockets to be used again.
    spare: Vec<Slot>,
    most_spare: usize,
    pub(super) buffer_bytes: usize,
    pub(super) next_port: u16,
    pub(super) refused: Refused,
}

impl Table {
    /// An empty table whose connections have two buffers of `buffer_bytes` each, and which keeps up to
    /// `most_spare` sockets for use again. `seed` chooses the first dynamic port (RFC 6056: not always
    /// the same after each boot) and where a connection is kept, so that no peer can.
    pub fn new(buffer_bytes: usize, most_spare: usize, seed: u64) -> Table {
        let mut random = Random::new(seed, "flows");
        Table {
            connections: SlotMap::with_key(),
            listeners: SlotMap::with_key(),
            flows: Flows::new(&mut random),
            time_wait: TimeWait::new(&mut random),
            dirty: VecDeque::new(),
            changed: VecDeque::new(),
            timers: Timers::default(),
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

    /// A connection's owner.
    pub fn owner(&self, id: ConnectionId) -> Option<Owner> {
        self.connections.get(id).map(|connection| connection.owner)
    }

    /// A connection's two ends.
    pub fn flow(&self, id: ConnectionId) -> Option<Flow> {
        self.connections.get(id).map(|connection| connection.flow)
    }

    /// Where a connection stands.
    pub fn phase(&self, id: ConnectionId) -> Option<Phase> {
        self.connections.get(id).map(Connection::phase)
    }
}

/// Turns.
impl Table {
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

    pub(crate) fn mark_dirty(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(id)
            && !connection.dirty
        {
            connection.dirty = true;
            self.dirty.push_back(id);
        }
    }

    pub(super) fn mark_changed(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(id)
            && !connection.changed
            && !connection.orphan
        {
            connection.changed = true;
            self.changed.push_back(id);
        }
    }
}

/// Coming and going.
impl Table {
    pub(super) fn insert(&mut self, connection: Connection) -> ConnectionId {
        let flow = connection.flow;
        let id = self.connections.insert(connection);
        self.flows.insert(&flow, id);
        id
    }

    /// Takes a connection out of the table; what it leaves behind is a record in TIME-WAIT at most.
    pub(super) fn remove(&mut self, now: Nanoseconds, ledger: &mut Ledger, id: ConnectionId) {
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
        self.timers.remove(id);
        if connection.slot.socket().state() == State::TimeWait {
            self.time_wait
                .insert(now, connection.flow, connection.peer_next);
        }
        self.flows.remove(&connection.flow);
        ledger.refund(
            connection.owner,
            2 * self.buffer_bytes + connection.tail_charged,
        );
        self.keep_slot(connection.slot);
    }

    pub(super) fn take_slot(&mut self) -> Slot {
        self.spare
            .pop()
            .unwrap_or_else(|| Slot::new(self.buffer_bytes))
    }

    pub(super) fn keep_slot(&mut self, mut slot: Slot) {
        if self.spare.len() < self.most_spare {
            slot.renew();
            self.spare.push(slot);
        }
    }
}
