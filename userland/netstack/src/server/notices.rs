//! What clients say without a call: sockets that they touched or close, and pairs of rings that they offer
//! to a listener, into which connections are accepted as soon as they stand.

use ipc::interface::network::{NetworkError, Notice, READY_ACCEPT, RingPair, Socket};

use super::operations::Result;
use super::rings::Taken;
use super::session::Endpoint;
use super::stream::Stream;
use super::{Server, System};
use crate::tcp::ConnectionId;

/// Notices that are taken at a time: the entries of the largest ring.
const MOST_NOTICES: usize = 1024;

impl<S: System> Server<S> {
    /// Takes a client's notices, in their order: when its doorbell was rung, and before a call of its is
    /// dispatched. As many as the ring has entries: a client that goes on for ever rings for each.
    pub fn take_notices(&mut self, badge: u64) {
        for _ in 0..MOST_NOTICES {
            let session = self.sessions.get_mut(&badge);
            let Some(events) = session.and_then(|session| session.events.as_mut()) else {
                return;
            };
            match events.next_notice() {
                Ok(Some(notice)) => self.take_notice(badge, notice),
                Ok(None) => return,
                Err(_) => return self.end_session(badge),
            }
        }
    }

    /// What a notice names that the session does not have was closed already, or never was: that is the
    /// client's own trouble.
    fn take_notice(&mut self, badge: u64, notice: Notice) {
        match notice {
            Notice::Touched(socket) => self.pump(badge, socket),
            Notice::Close(socket) => drop(self.close_socket(badge, socket)),
            Notice::Offer { listener, rings } => {
                if self.offer(badge, listener, rings).is_ok() {
                    self.accept_ahead(badge, listener);
                }
            }
        }
    }

    /// Puts a pair at the end of a listener's offers.
    fn offer(&mut self, badge: u64, listener: Socket, pair: RingPair) -> Result<()> {
        let session = self.session(badge)?;
        let Some(Endpoint::Listener { offers, .. }) = session.sockets.get_mut(&listener) else {
            return Err(NetworkError::NoSuchSocket);
        };
        session.rings.offer(pair, listener)?;
        offers.push_back(pair);
        Ok(())
    }

    /// Accepts the connections that wait at a listener into the pairs that it is offered; where these do
    /// not suffice its client is told that one waits.
    pub(super) fn accept_ahead(&mut self, badge: u64, listener: Socket) {
        while let Some(session) = self.sessions.get_mut(&badge)
            && let Some(Endpoint::Listener { id, offers, .. }) = session.sockets.get_mut(&listener)
            && self.stack.tcp().can_accept(*id)
        {
            let Some(pair) = offers.pop_front() else {
                if session.post(listener, READY_ACCEPT) {
                    self.posted.push(badge);
                }
                return;
            };
            // What is in a listener's offers is a pair that it is offered.
            let Ok(rings) = session.rings.take_offered(pair, listener) else {
                continue;
            };
            match self.stack.tcp().accept(*id) {
                Some(connection) => self.tell_accepted(badge, connection, &rings),
                // There is one, as was seen.
                None => session.rings.release(pair),
            }
        }
    }

    fn tell_accepted(&mut self, badge: u64, connection: ConnectionId, rings: &Taken<S::Memory>) {
        let added = self.add_stream(badge, connection, rings, Stream::accepted);
        let Ok(session) = self.session(badge) else {
            return;
        };
        match added {
            Ok(socket) => {
                if session.post_accepted(socket, rings.number) {
                    self.posted.push(badge);
                }
            }
            // The connection was reset, and there is nobody to tell.
            Err(_) => session.rings.release(rings.number),
        }
    }

    /// Forgets a socket; what the client gave to send is still sent.
    ///
    /// Errors: NotAttached, NoSuchSocket.
    pub(super) fn close_socket(&mut self, badge: u64, socket: Socket) -> Result<()> {
        let now = self.system.now();
        match self.forget(badge, socket)? {
            Endpoint::Listener { id, .. } => {
                self.listeners.remove(id);
                self.stack.close_listener(now, id);
            }
            Endpoint::Stream(mut stream) => {
                let connection = stream.connection;
                self.streams.remove(connection);
                match stream.tail_bytes() {
                    Some(bytes) => self
                        .stack
                        .close_with(now, connection, bytes, |tail| stream.take_tail(tail)),
                    None => self.stack.tcp().abort(now, connection),
                }
            }
            Endpoint::Datagram(datagrams) => {
                self.datagrams.remove(datagrams.id);
                self.stack.close_udp(datagrams.id);
            }
        }
        Ok(())
    }

    /// Takes a socket out of its session, with its events; its pairs of rings are free, though what is in
    /// them can be read until another connection has them.
    pub(super) fn forget(&mut self, badge: u64, socket: Socket) -> Result<Endpoint<S::Memory>> {
        let session = self.session(badge)?;
        let endpoint = session.sockets.remove(&socket);
        let endpoint = endpoint.ok_or(NetworkError::NoSuchSocket)?;
        if let Some(events) = &mut session.events {
            events.forget(socket);
        }
        match &endpoint {
            Endpoint::Listener { offers, .. } => {
                offers.iter().for_each(|pair| session.rings.release(*pair));
            }
            Endpoint::Stream(stream) => session.rings.release(stream.rings),
            Endpoint::Datagram(_) => {}
        }
        Ok(endpoint)
    }
}
