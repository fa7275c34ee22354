//! Sockets: the application's side of interface `network`. One thread waits for the events of all its
//! sockets ([`Network::wait`]); nothing else here waits, but for the network stack's answer to a call.
//!
//! The network stack, where it sleeps, learns of what was written and read when the thread comes to wait:
//! one signal for all, by which the stack runs next. Who works for long without waiting asks for it
//! before ([`Network::flush`]).

mod datagram;
mod rings;
mod stream;

use crate::endpoint::{self, Endpoint};
use crate::mapping::{Mapping, SharedMapping};
use crate::memory::Memory;
use crate::notification::{Notification, signal};
use crate::service::{Session, connect_to};
use crate::transport::Kernel;
use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::net::SocketAddr;
use ipc::Error;
use ipc::client::{CallError, Deadline};
use ipc::interface::network::{self, Event, NetworkClient, NetworkError, Socket, StreamGeometry};
use ipc::interface::service::ConnectError;
use ipc::message::MAX_BYTES;
use ipc::ring::{
    self, PacketConsumer, PacketProducer, RingError, StreamPair, packet_ring_bytes,
    stream_ring_bytes,
};

pub use datagram::DatagramSocket;
pub use rings::Rings;
pub use stream::{Doorbell, Stream};

/// Entries of the event ring.
const EVENTS: u32 = 128;
/// What the network stack sets in this side's notification.
const BELL_BITS: u64 = 1;
/// Pairs of rings kept for the next connections.
const SPARE: usize = 32;
/// Badge of the send right whose closing tells that the network stack died.
const LIFELINE: u64 = 1;

/// Why an operation on sockets failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetError {
    /// The session could not be made.
    Connect(CallError<ConnectError>),
    /// The network stack refused, or did not answer.
    Call(CallError<NetworkError>),
    /// The kernel refused.
    Kernel(Error),
    /// The network stack corrupted a ring.
    Ring(RingError),
}

impl core::fmt::Display for NetError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            NetError::Connect(error) => error.fmt(formatter),
            NetError::Call(error) => error.fmt(formatter),
            NetError::Kernel(error) => error.fmt(formatter),
            NetError::Ring(error) => error.fmt(formatter),
        }
    }
}

impl core::error::Error for NetError {}

impl From<CallError<ConnectError>> for NetError {
    fn from(error: CallError<ConnectError>) -> Self {
        NetError::Connect(error)
    }
}

impl From<CallError<NetworkError>> for NetError {
    fn from(error: CallError<NetworkError>) -> Self {
        NetError::Call(error)
    }
}

impl From<Error> for NetError {
    fn from(error: Error) -> Self {
        NetError::Kernel(error)
    }
}

impl From<RingError> for NetError {
    fn from(error: RingError) -> Self {
        NetError::Ring(error)
    }
}

impl NetError {
    /// Whether nothing is ready yet: an event will say when.
    pub fn would_block(&self) -> bool {
        *self == NetError::Call(CallError::Service(NetworkError::WouldBlock))
    }
}

/// What [`Network::wait`] brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Something is ready at a socket.
    Socket(Event),
    /// Other bits of the own notification: see [`Network::bell`].
    Signal(u64),
    /// The deadline passed.
    TimedOut,
    /// The network stack died, and all sockets with it: make another [`Network`].
    Lost,
}

/// A connection that a listener gave.
#[derive(Debug)]
pub struct Incoming {
    /// The connection.
    pub stream: Stream<Rings>,
    /// Its other end.
    pub peer: SocketAddr,
    /// Connections that still wait at the listener.
    pub waiting: u16,
}

/// A session with the network stack, attached to by one thread.
#[derive(Debug)]
pub struct Network {
    session: Session,
    events: PacketConsumer<SharedMapping>,
    bell: Notification,
    lifeline: Endpoint,
    _doorbell: Notification,
    knock: Rc<Doorbell>,
    /// Where messages come to that nobody has business to send.
    message: Vec<u8>,
    /// Rings of connections that were closed, each pair with its capacity.
    spare: RefCell<Vec<(u32, Rings)>>,
}

impl Network {
    /// Makes a session with the service of this name and attaches the event ring. The calling thread
    /// is the one that waits: its bound notification becomes [`Network::bell`].
    pub fn open(service: &str, deadline: Deadline) -> Result<Network, NetError> {
        let session = connect_to(service, network::NUMBER, deadline)?;
        let one = packet_ring_bytes(EVENTS);
        let memory = Memory::create(2 * one as u64)?;
        let mapping = Mapping::shared(&memory)?;
        let events = PacketConsumer::new(mapping.clone(), 0, EVENTS)?;
        let touched = PacketProducer::new(mapping, one, EVENTS)?;
        let bell = Notification::create()?;
        let lifeline = Endpoint::create()?;
        let line = lifeline.mint(LIFELINE)?;
        let stub = NetworkClient::new(Kernel, session.handle());
        let (bits, doorbell) = stub.attach(
            deadline,
            EVENTS,
            BELL_BITS,
            memory.handle(),
            bell.handle(),
            line.handle(),
        )?;
        // It has moved; what is left here names nothing.
        drop(line);
        bell.bind()?;
        let doorbell = Notification::from_handle(doorbell);
        let knock = Rc::new(Doorbell::new(doorbell.handle(), bits, Some(touched)));
        Ok(Network {
            session,
            events,
            bell,
            lifeline,
            _doorbell: doorbell,
            knock,
            message: vec![0; MAX_BYTES],
            spare: RefCell::new(Vec::new()),
        })
    }

    /// The operations of the interface, for those that need nothing of this module: `info`, `ping`,
    /// `resolve`, `listen`, `shutdown`, `close`, `reset`, `status`, `set_option`, datagrams.
    pub fn stub(&self) -> NetworkClient<Kernel> {
        NetworkClient::new(Kernel, self.session.handle())
    }

    /// The notification that wakes [`Network::wait`]. Others may be given it, with bits from 1 on;
    /// bit 0 is the network stack's.
    pub fn bell(&self) -> &Notification {
        &self.bell
    }

    /// Waits for the next event.
    ///
    /// Errors: Ring, when the network stack corrupted the ring; Kernel.
    pub fn wait(&mut self, deadline: Deadline) -> Result<Wake, NetError> {
        loop {
            if let Some(descriptor) = self.events.pop()? {
                if self.events.must_wake()? {
                    self.knock.ring();
                }
                return Ok(Wake::Socket(descriptor.into()));
            }
            if !self.events.sleep(1)? {
                continue;
            }
            let woken = self.sleep(deadline);
            self.events.wake()?;
            match woken {
                Ok(endpoint::Event::Signal(bits)) if bits & !BELL_BITS != 0 => {
                    return Ok(Wake::Signal(bits & !BELL_BITS));
                }
                Ok(endpoint::Event::Closed(_)) => return Ok(Wake::Lost),
                Ok(_) => {}
                Err(Error::TimedOut) => return Ok(Wake::TimedOut),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn sleep(&mut self, deadline: Deadline) -> Result<endpoint::Event, Error> {
        let endpoint = self.lifeline.handle();
        if let Some(signal) = self.knock.take() {
            let event = endpoint::signal_receive(signal, endpoint, deadline, &mut self.message);
            // Where the notification is gone the lifeline says so, to who receives.
            if !matches!(event, Err(Error::InvalidHandle | Error::MissingRights)) {
                return event;
            }
        }
        endpoint::receive(endpoint, deadline, &mut self.message)
    }

    /// Has the network stack look at once at what was written and read, not only when
    /// [`Network::wait`] comes to wait.
    pub fn flush(&self) {
        if let Some((notification, bits)) = self.knock.take() {
            // That it is gone is told elsewhere.
            let _ = signal(notification, bits);
        }
    }

    /// Takes a connection from a listener. `ring_bytes` is the capacity of each of the stream's two
    /// rings, a power of two from 4,096. Errors: Call; see [`NetError::would_block`].
    pub fn accept(
        &self,
        deadline: Deadline,
        listener: Socket,
        ring_bytes: u32,
    ) -> Result<Incoming, NetError> {
        let rings = self.rings(ring_bytes)?;
        let geometry = StreamGeometry { ring_bytes };
        let accepted = self
            .stub()
            .accept(deadline, listener, geometry, rings.handle());
        match accepted {
            Ok(accepted) => Ok(Incoming {
                stream: self.stream(accepted.socket, rings, ring_bytes)?,
                peer: accepted.peer,
                waiting: accepted.waiting,
            }),
            Err(error) => {
                self.keep(ring_bytes, rings);
                Err(error.into())
            }
        }
    }

    /// Starts a connection; an event says when it stands.
    pub fn connect(
        &self,
        deadline: Deadline,
        peer: SocketAddr,
        ring_bytes: u32,
    ) -> Result<Stream<Rings>, NetError> {
        let rings = self.rings(ring_bytes)?;
        let geometry = StreamGeometry { ring_bytes };
        let socket = self
            .stub()
            .connect(deadline, peer, geometry, rings.handle())?;
        self.stream(socket, rings, ring_bytes)
    }

    /// Closes a connection, as the stub's `close` does, and keeps its rings for another.
    pub fn close(&self, deadline: Deadline, stream: Stream<Rings>) -> Result<(), NetError> {
        let closed = self.stub().close(deadline, stream.socket());
        let (ring_bytes, rings) = stream.into_rings();
        if closed.is_ok() {
            self.keep(ring_bytes, rings);
        }
        Ok(closed?)
    }

    fn stream(
        &self,
        socket: Socket,
        rings: Rings,
        ring_bytes: u32,
    ) -> Result<Stream<Rings>, NetError> {
        let doorbell = Rc::clone(&self.knock);
        Ok(Stream::new(socket, rings, ring_bytes, doorbell)?)
    }

    /// Makes a UDP socket on a port, 0 for any. `ring_bytes` is the capacity of each of its two rings, a
    /// power of two from 4,096.
    pub fn bind(
        &self,
        deadline: Deadline,
        port: u16,
        ring_bytes: u32,
    ) -> Result<DatagramSocket<Rings>, NetError> {
        let rings = self.rings(ring_bytes)?;
        let geometry = StreamGeometry { ring_bytes };
        let doorbell = Rc::clone(&self.knock);
        // It waits for the first datagram before there can be one.
        let mut datagrams = DatagramSocket::new(rings.clone(), ring_bytes, doorbell)?;
        let socket = self.stub().bind(deadline, port, geometry, rings.handle())?;
        datagrams.is_bound(socket);
        Ok(datagrams)
    }

    /// Memory for a socket's rings, which are empty: used one, if there is any.
    fn rings(&self, ring_bytes: u32) -> Result<Rings, NetError> {
        let mut spare = self.spare.borrow_mut();
        if let Some(index) = spare.iter().position(|(bytes, _)| *bytes == ring_bytes) {
            let (_, rings) = spare.swap_remove(index);
            ring::reset(&rings, 0)?;
            ring::reset(&rings, stream_ring_bytes(ring_bytes))?;
            return Ok(rings);
        }
        Ok(Rings::new(StreamPair::bytes_needed(ring_bytes))?)
    }

    /// Keeps rings that the network stack has let go of.
    fn keep(&self, ring_bytes: u32, rings: Rings) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARE {
            spare.push((ring_bytes, rings));
        }
    }
}
