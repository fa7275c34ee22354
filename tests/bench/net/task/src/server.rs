//! All sockets of the server: who is accepted and whose turn it is. What a connection does is `connection`'s.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use ipc::Deadline;
use ipc::interface::network::{Event, READY_ERROR, Socket};
use runtime::clock::after;
use runtime::net::{Accepted, DatagramSocket, NetError, Network, Rings, Wake};

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
            let listener = stub.listen(after(PATIENCE), port, BACKLOG)?;
            network.offer(after(PATIENCE), listener, service.ring_bytes())?;
            listeners.insert(listener, service);
        }
        let datagrams = network.bind(after(PATIENCE), DATAGRAMS, DATAGRAM_RING)?;
        Ok(Server {
            network,
            listeners,
            datagrams,
            connections: BTreeMap::new(),
            again: VecDeque::new(),
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
                Wake::Accepted(new) => self.add(new)?,
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
        if event.ready & READY_ERROR != 0 {
            return self.close(event.socket);
        }
        self.turn(event.socket)
    }

    /// Takes a connection that came.
    fn add(&mut self, new: Accepted) -> Result<(), NetError> {
        let Some(service) = self.listeners.get(&new.listener) else {
            return self.network.close(after(PATIENCE), new.stream);
        };
        let connection = Connection::new(new.stream, *service);
        let socket = connection.socket();
        self.connections.insert(socket, connection);
        self.turn(socket)
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
            .close(after(PATIENCE), connection.into_stream())
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
