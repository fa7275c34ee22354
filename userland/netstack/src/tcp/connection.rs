//! One TCP connection: its smoltcp socket in a set of its own, and what the table must remember
//! beside it. Demultiplexing, timers and queues are the table's ([`super::table`]).

use alloc::vec;
use alloc::vec::Vec;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::tcp::{CongestionControl, Socket, SocketBuffer, State};
use smoltcp::time::Duration;

use super::ListenerId;
use crate::client::Owner;
use crate::peek::Flow;
use crate::time::Nanoseconds;

/// How long a connection may wait for its peer to complete the handshake. RFC 9293, section 3.8.3
/// asks for three minutes where a person waits; a server frees its backlog sooner.
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long sent data may stay unacknowledged: at least 100 seconds (RFC 1122, section 4.2.3.5, R2).
pub(super) const DATA_TIMEOUT: Duration = Duration::from_secs(120);

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
        socket.set_nagle_enabled(true);
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
    /// The application let go of it.
    pub(super) orphan: bool,
    pub(super) established: bool,
    pub(super) aborted: bool,
    /// The last segment closed the socket and was a reset.
    pub(super) reset_by_peer: bool,
    /// Sequence number after the last FIN seen from the peer.
    pub(super) peer_next: u32,
    /// State at the last look.
    pub(super) last: State,
    pub(super) end: Option<End>,
    /// In the table's queue of those with something to send.
    pub(super) dirty: bool,
    /// In the table's queue of those that the application should look at.
    pub(super) changed: bool,
    /// Wanted to send and could not: the neighbour's hardware address is not known yet.
    pub(super) stalled: bool,
    /// Its entry in the table's timer queue.
    pub(super) timer: Option<Nanoseconds>,
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
            orphan: false,
            established: false,
            aborted: false,
            reset_by_peer: false,
            peer_next: 0,
            last,
            end: None,
            dirty: false,
            changed: false,
            stalled: false,
            timer: None,
            drop_at: None,
        }
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
            self.slot.socket_mut().set_timeout(Some(DATA_TIMEOUT));
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
