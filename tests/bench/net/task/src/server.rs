//! All sockets of the server: who is accepted and whose turn it is. What a connection does is `connection`'s.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use ipc::Deadline;
use ipc::client::CallError;
use ipc::interface::network::{Event, NetworkError, READY_ERROR, Socket};
use runtime::clock::after;
use runtime::net::{DatagramSocket, NetError, Network, Rings, Wake};

use crate::connection::{Connection, Service, Turn, response};

/// The TCP ports and what they do.
const SERVICES: [(u16, Service); 5] = [
    (5001, Service::Sink),
    (5002, Service::Source),
    (5003, Service::Echo),
    (5005, Service::Greeter),
    (80, Service::Page),
];
/// The UDP port whose datagrams are sent back.
const DATAGRAMS: u16 = 5004;
/// Bytes of each of their rings.
const DATAGRAM_RING: u32 = 64 * 1024;
/// The service under which the network stack is known.
const NETWORK: &str = "netstack";
/// Connections that the network stack keeps until they are accepted.
const BACKLOG: u16 = 512;
/// How long one call may take before the network stack counts as lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes moved between a ring and the server at a time.
const PIECE: usize = 64 * 1024;

/// The server.
#[derive(Debug)]
pub(crate) struct Server {
    network: Network,
    listeners: BTreeMap<Socket, Service>,
    datagrams: DatagramSocket<Rings>,
    connections: BTreeMap<Socket, Connection>,
    /// Whose turn was too short.
    again: VecDeque<Socket>,
    /// Listeners whose connections had no room; asked again when one has gone.
    starved: Vec<Socket>,
    piece: Vec<u8>,
    response: Vec<u8>,
}

impl Server {
    /// Listens on all ports of a new session.
    pub(crate) fn open() -> Result<Server, NetError> {
        let network = Network::open(NETWORK, after(PATIENCE))?;
        let stub = network.stub();
        let mut listeners = BTreeMap::new();
        for (port, service) in SERVICES {
            listeners.insert(stub.listen(after(PATIENCE), port, BACKLOG)?, service);
        }
        let datagrams = network.bind(after(PATIENCE), DATAGRAMS, DATAGRAM_RING)?;
        Ok(Server {
            network,
            listeners,
            datagrams,
            connections: BTreeMap::new(),
            again: VecDeque::new(),
            starved: Vec::new(),
            piece: vec![0; PIECE],
            response: response(),
        })
    }

    /// Serves until the network stack dies.
    pub(crate) fn serve(&mut self) -> Result<(), NetError> {
        loop {
            // With turns to be continued nobody sleeps: the deadline has passed already.
            let deadline = match self.again.is_empty() {
                true => Deadline::NEVER,
                false => after(Duration::ZERO),
            };
            match self.network.wait(deadline)? {
                Wake::Socket(event) => self.event(event)?,
                Wake::TimedOut => self.next_turn()?,
                Wake::Signal(_) => {}
                Wake::Lost => return Ok(()),
            }
        }
    }

    fn event(&mut self, event: Event) -> Result<(), NetError> {
        if event.socket == self.datagrams.socket() {
            return self.echo_datagrams();
        }
        if let Some(service) = self.listeners.get(&event.socket) {
            return self.accept(event.socket, *service);
        }
        if event.ready & READY_ERROR != 0 {
            return self.close(event.socket);
        }
        self.turn(event.socket)
    }

    /// Takes all connections that wait.
    fn accept(&mut self, listener: Socket, service: Service) -> Result<(), NetError> {
        loop {
            let ring_bytes = service.ring_bytes();
            match self.network.accept(after(PATIENCE), listener, ring_bytes) {
                Ok(incoming) => {
                    let connection = Connection::new(incoming.stream, service);
                    let socket = connection.socket();
                    self.connections.insert(socket, connection);
                    self.turn(socket)?;
                    if incoming.waiting == 0 {
                        return Ok(());
                    }
                }
                Err(error) if error.would_block() => return Ok(()),
                Err(error) if is_want_of_room(&error) => {
                    self.starved.push(listener);
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The turn of a connection. One that is gone already has none.
    fn turn(&mut self, socket: Socket) -> Result<(), NetError> {
        let Some(connection) = self.connections.get_mut(&socket) else {
            return Ok(());
        };
        match connection.serve(&mut self.piece, &self.response)? {
            Turn::Waits => {}
            Turn::Again => self.again.push_back(socket),
            Turn::Over => self.close(socket)?,
        }
        Ok(())
    }

    fn next_turn(&mut self) -> Result<(), NetError> {
        match self.again.pop_front() {
            Some(socket) => self.turn(socket),
            None => Ok(()),
        }
    }

    fn close(&mut self, socket: Socket) -> Result<(), NetError> {
        let Some(connection) = self.connections.remove(&socket) else {
            return Ok(());
        };
        self.network
            .close(after(PATIENCE), connection.into_stream())?;
        for listener in core::mem::take(&mut self.starved) {
            if let Some(service) = self.listeners.get(&listener) {
                self.accept(listener, *service)?;
            }
        }
        Ok(())
    }

    fn echo_datagrams(&mut self) -> Result<(), NetError> {
        // What finds no room to be sent is lost, as datagrams are.
        while let Some((length, peer)) = self.datagrams.receive(&mut self.piece)? {
            let bytes = self.piece.get(..length).unwrap_or_default();
            self.datagrams.send(peer, bytes)?;
        }
        Ok(())
    }
}

/// Whether there is no memory for another connection, here or there.
fn is_want_of_room(error: &NetError) -> bool {
    matches!(
        error,
        NetError::Kernel(ipc::Error::OutOfQuota | ipc::Error::OutOfMemory)
            | NetError::Call(CallError::Service(
                NetworkError::Exhausted | NetworkError::Kernel
            ))
    )
}
