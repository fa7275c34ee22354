//! Listeners: a port, and the connections that wait at it.
//!
//! smoltcp's listener is one socket that turns into one connection. Here no socket listens: when a
//! SYN arrives for a listener with room in its backlog, the table makes a socket, lets it listen and
//! hands it the segment. So a listener holds no buffers, and two clients that connect at the same
//! moment never find the only listening socket taken.

use alloc::collections::VecDeque;
use core::net::{IpAddr, SocketAddr};

use super::ConnectionId;
use crate::client::Owner;
use crate::time::{Nanoseconds, SECOND};

/// How long a handshake is taken to last before one was seen, and the range of what is believed then.
const UNKNOWN_HANDSHAKE: Nanoseconds = SECOND / 10;
const QUICKEST_HANDSHAKE: Nanoseconds = SECOND / 500;
const SLOWEST_HANDSHAKE: Nanoseconds = SECOND;

/// A listening port.
pub(super) struct Listener {
    pub(super) owner: Owner,
    /// `None` listens on every address of this host.
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
    /// Largest number of connections under way and not yet accepted.
    pub(super) backlog: usize,
    /// Connections whose handshake is under way.
    pub(super) opening: usize,
    /// When each of them began, the oldest in front; some of these have opened or ended since.
    pub(super) began: VecDeque<(Nanoseconds, ConnectionId)>,
    /// How long handshakes take here: the slowest of late.
    handshake: Nanoseconds,
    /// Open connections, the one that opened first in front.
    pub(super) queue: VecDeque<ConnectionId>,
}

impl Listener {
    /// A listener that nobody has called yet.
    pub(super) fn new(
        owner: Owner,
        address: Option<IpAddr>,
        port: u16,
        backlog: usize,
    ) -> Listener {
        Listener {
            owner,
            address,
            port,
            backlog,
            opening: 0,
            began: VecDeque::new(),
            handshake: UNKNOWN_HANDSHAKE,
            queue: VecDeque::new(),
        }
    }

    /// Takes note that a handshake was completed in this time.
    pub(super) fn note_handshake(&mut self, time: Nanoseconds) {
        let before = self.handshake - self.handshake / 8;
        self.handshake = time.min(SLOWEST_HANDSHAKE).max(before);
    }

    /// How long a handshake may take before its peer counts as one that will not complete it, and gives way
    /// where there is no room.
    pub(super) fn patience(&self) -> Nanoseconds {
        2 * self.handshake.max(QUICKEST_HANDSHAKE)
    }

    /// Whether a segment to this address is for this listener.
    pub(super) fn covers(&self, local: SocketAddr) -> bool {
        self.port == local.port() && self.address.is_none_or(|address| address == local.ip())
    }

    /// Whether another connection may begin.
    pub(super) fn has_room(&self) -> bool {
        self.opening + self.queue.len() < self.backlog
    }
}
