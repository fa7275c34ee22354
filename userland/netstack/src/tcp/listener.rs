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
    /// Open connections, the one that opened first in front.
    pub(super) queue: VecDeque<ConnectionId>,
}

impl Listener {
    /// Whether a segment to this address is for this listener.
    pub(super) fn covers(&self, local: SocketAddr) -> bool {
        self.port == local.port() && self.address.is_none_or(|address| address == local.ip())
    }

    /// Whether another connection may begin.
    pub(super) fn has_room(&self) -> bool {
        self.opening + self.queue.len() < self.backlog
    }
}
