//! Opening connections: from this host, and at listeners, whose backlog bounds what strangers can begin.

use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use smoltcp::iface::Interface;
use smoltcp::wire::IpListenEndpoint;

use super::connection::Connection;
use super::listener::Listener;
use super::reply::acknowledge;
use super::table::{FIRST_DYNAMIC, Table};
use super::time_wait::Verdict;
use super::{ConnectionId, ListenerId};
use crate::client::{Ledger, Owner};
use crate::peek::{Flow, Segment};
use crate::time::Nanoseconds;
use crate::wire::{Port, Wire};

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

/// What a segment without a connection came to.
pub(super) enum Admission {
    New(ConnectionId),
    Handled,
    Nobody,
}

/// From this host.
impl Table {
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

    /// A pair of ends that no connection uses and none in TIME-WAIT remembers.
    fn free_flow(&mut self, address: IpAddr, remote: SocketAddr) -> Option<Flow> {
        for _ in FIRST_DYNAMIC..=u16::MAX {
            let local = SocketAddr::new(address, self.next_port);
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_DYNAMIC);
            let flow = Flow { local, remote };
            if self.flows.get(&flow).is_none() && !self.time_wait.holds(&flow) {
                return Some(flow);
            }
        }
        None
    }
}

/// At listeners.
impl Table {
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

    /// The listener at which a connection waits to be accepted.
    pub fn waits_at(&self, id: ConnectionId) -> Option<ListenerId> {
        self.connections
            .get(id)
            .and_then(|connection| connection.listener)
    }

    /// Finds what a segment without a connection is for.
    pub(super) fn admit<W: Wire>(
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
}
