//! Sockets: the application's side of interface `network`. One thread waits for the events of all its
//! sockets ([`Network::wait`]); nothing else here waits, but for the network stack's answer to a call.
//!
//! The network stack, where it sleeps, learns of what was written and read, which connections are closed, and
//! which pairs of rings are offered for new ones, when the thread comes to wait: one signal for all, by which
//! the stack runs next. Who works for long without waiting asks for it before ([`Network::flush`]).
//!
//! Pairs of rings stay shared with the network stack from one connection to the next, so that accepting one
//! that comes to [`Network::offer`]'s listener, and closing it, take no call and no mapping. How many lie
//! ready follows from the task's memory.

mod datagram;
mod doorbell;
mod offers;
mod pool;
mod rings;
mod stream;
mod supply;

use crate::clock::after;
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
use core::time::Duration;
use ipc::Error;
use ipc::client::{CallError, Deadline};
use ipc::interface::network::{
    self, Event, NetworkClient, NetworkError, READY_ACCEPT, READY_ACCEPTED, Socket, StreamGeometry,
};
use ipc::interface::service::ConnectError;
use ipc::message::MAX_BYTES;
use ipc::ring::{DatagramPair, PacketConsumer, PacketProducer, RingError, packet_ring_bytes};

pub use datagram::DatagramSocket;
pub use doorbell::Doorbell;
pub use offers::Offers;
pub use pool::{Pair, Pool};
pub use rings::Rings;
pub use stream::Stream;
pub use supply::{Supplier, Supply};

/// Entries of the event ring.
const EVENTS: u32 = 128;
/// What the network stack sets in this side's notification.
const BELL_BITS: u64 = 1;
/// How long one call may take while [`Network::wait`] sees to the offers, before the network stack counts as
/// lost.
const PATIENCE: Duration = Duration::from_secs(5);
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
#[derive(Debug)]
pub enum Wake {
    /// Something is ready at a socket.
    Socket(Event),
    /// A connection came to a listener that pairs of rings are offered to. What has arrived already is to be
    /// looked for at once: no event tells of it.
    Accepted(Accepted),
    /// Other bits of the own notification: see [`Network::bell`].
    Signal(u64),
    /// The deadline passed.
    TimedOut,
    /// The network stack died, and all sockets with it: make another [`Network`].
    Lost,
}

/// A connection that a listener was offered rings for. `status` tells its other end.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub stream: Stream<Pair>,
    /// The listener.
    pub listener: Socket,
}

/// A connection that a listener gave when it was asked.
#[derive(Debug)]
pub struct Incoming {
    /// The connection.
    pub stream: Stream<Pair>,
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
    pool: RefCell<Pool>,
    offers: RefCell<Vec<Offers>>,
    /// What an event told beside that its connection was accepted.
    rest: Option<Event>,
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
        let notices = PacketProducer::new(mapping, one, EVENTS)?;
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
        let knock = Rc::new(Doorbell::new(doorbell.handle(), bits, Some(notices)));
        let pool = Pool::new(session.handle(), Rc::clone(&knock));
        Ok(Network {
            session,
            events,
            bell,
            lifeline,
            _doorbell: doorbell,
            knock,
            message: vec![0; MAX_BYTES],
            pool: RefCell::new(pool),
            offers: RefCell::new(Vec::new()),
            rest: None,
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

    /// Waits for the next event, or takes a connection.
    ///
    /// Errors: Ring, when the network stack corrupted the ring; Kernel.
    pub fn wait(&mut self, deadline: Deadline) -> Result<Wake, NetError> {
        loop {
            if let Some(rest) = self.rest.take() {
                return Ok(Wake::Socket(rest));
            }
            if let Some(descriptor) = self.events.pop()? {
                if self.events.must_wake()? {
                    self.knock.ring();
                }
                match self.heed(descriptor.into())? {
                    Some(wake) => return Ok(wake),
                    None => continue,
                }
            }
            if !self.events.sleep(1)? {
                continue;
            }
            let retry = self.retry_at();
            let woken = self.sleep(deadline.min(retry));
            self.events.wake()?;
            match woken {
                Ok(endpoint::Event::Signal(bits)) if bits & !BELL_BITS != 0 => {
                    return Ok(Wake::Signal(bits & !BELL_BITS));
                }
                Ok(endpoint::Event::Closed(_)) => return Ok(Wake::Lost),
                Ok(_) => {}
                Err(Error::TimedOut) if retry < deadline => self.fill_offers(after(PATIENCE)),
                Err(Error::TimedOut) => return Ok(Wake::TimedOut),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// When to look again for a pair of rings for a listener that has none; there may be one though nothing
    /// that happens here tells of it.
    fn retry_at(&self) -> Deadline {
        let offers = self.offers.borrow();
        let starved = offers
            .iter()
            .any(|offers| offers.is_empty() && !offers.has_ended());
        if !starved {
            return Deadline::NEVER;
        }
        // Without a refusal that is known it is asked for at once.
        Deadline(self.pool.borrow().refused_until().unwrap_or(0))
    }

    /// Offers what there is memory for: first one for each listener that has none.
    fn fill_offers(&self, deadline: Deadline) {
        let mut pool = self.pool.borrow_mut();
        for room in [1, usize::MAX] {
            for offers in self.offers.borrow_mut().iter_mut() {
                // Where there is still no memory for another pair, the next close may make room, or time.
                let _ = offers.fill(&mut pool, deadline, room);
            }
        }
    }

    /// Makes of an event what the application is told, if that is anything.
    fn heed(&mut self, event: Event) -> Result<Option<Wake>, NetError> {
        if event.ready & READY_ACCEPTED != 0 {
            let rest = event.ready & !READY_ACCEPTED;
            self.rest = (rest != 0).then_some(Event {
                ready: rest,
                rings: None,
                ..event
            });
            return self.accepted(event).map(|new| Some(Wake::Accepted(new)));
        }
        let starved = event.ready & READY_ACCEPT != 0 && self.offer_more(event.socket)?;
        Ok((!starved).then_some(Wake::Socket(event)))
    }

    /// Offers a listener more, for a connection came that found nothing. Where there is no memory for that, the
    /// one that is offered most gives up half of what it has more; and where it is still offered nothing, all
    /// others what they have beyond the first. False: it is no listener that anything is offered to.
    fn offer_more(&self, listener: Socket) -> Result<bool, NetError> {
        let mut all = self.offers.borrow_mut();
        let Some(place) = all.iter().position(|offers| offers.listener() == listener) else {
            return Ok(false);
        };
        let (before, rest) = all.split_at_mut(place);
        let Some((starved, behind)) = rest.split_first_mut() else {
            return Ok(false);
        };
        let mut others: Vec<&mut Offers> = before.iter_mut().chain(behind).collect();
        let mut pool = self.pool.borrow_mut();
        starved.grow(&pool);
        let before = pool.refused_until();
        let filled = starved.fill(&mut pool, after(PATIENCE), usize::MAX);
        // Not each time that this is refused, but when it was asked for and refused anew.
        if filled.is_err() && pool.refused_until() != before {
            let most = others.iter_mut().max_by_key(|others| others.count());
            if let Some(most) = most.filter(|most| most.count() > starved.count() + 1) {
                let left = (most.count() + starved.count()).div_ceil(2);
                most.shrink(&mut pool, after(PATIENCE), left)?;
                pool.forget_refusal();
                let _ = starved.fill(&mut pool, after(PATIENCE), usize::MAX);
            }
        }
        if starved.is_empty() {
            for others in others {
                others.shrink(&mut pool, after(PATIENCE), 1)?;
            }
            // Where that does not suffice, a pair that a connection leaves is offered.
            let _ = starved.fill(&mut pool, after(PATIENCE), usize::MAX);
        }
        Ok(true)
    }

    /// The connection that an event tells of; another pair takes the place of the one that it has.
    fn accepted(&self, event: Event) -> Result<Accepted, NetError> {
        let mut all = self.offers.borrow_mut();
        let number = event.rings.ok_or(RingError::Corrupted)?;
        let taken = all.iter_mut().find_map(|offers| {
            let pair = offers.take(number)?;
            Some((offers, pair))
        });
        // The network stack named a pair that it was not offered.
        let (offers, pair) = taken.ok_or(RingError::Corrupted)?;
        let _ = offers.fill(&mut self.pool.borrow_mut(), after(PATIENCE), usize::MAX);
        let listener = offers.listener();
        all.retain(|offers| !offers.has_ended() || !offers.is_empty());
        Ok(Accepted {
            listener,
            stream: self.stream(event.socket, pair)?,
        })
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

    /// Has the connections of a listener accepted as they come: [`Network::wait`] gives them. `ring_bytes` is
    /// the capacity of each of a stream's two rings, a power of two from 4,096 to 1,048,576. The listener is
    /// not asked by [`Network::accept`] as well.
    ///
    /// Errors: Kernel, where there is no memory for one pair of rings; Call.
    pub fn offer(
        &self,
        deadline: Deadline,
        listener: Socket,
        ring_bytes: u32,
    ) -> Result<(), NetError> {
        let mut offers = Offers::new(listener, ring_bytes);
        offers.fill(&mut self.pool.borrow_mut(), deadline, usize::MAX)?;
        self.offers.borrow_mut().push(offers);
        Ok(())
    }

    /// Takes a connection from a listener that nothing is offered to. `ring_bytes` as for [`Network::offer`].
    ///
    /// Errors: Call; see [`NetError::would_block`].
    pub fn accept(
        &self,
        deadline: Deadline,
        listener: Socket,
        ring_bytes: u32,
    ) -> Result<Incoming, NetError> {
        let mut pool = self.pool.borrow_mut();
        let pair = pool.take(deadline, ring_bytes)?;
        match self.stub().accept(deadline, listener, pair.number()) {
            Ok(accepted) => Ok(Incoming {
                stream: self.stream(accepted.socket, pair)?,
                peer: accepted.peer,
                waiting: accepted.waiting,
            }),
            Err(error) => {
                pool.keep(deadline, pair)?;
                Err(error.into())
            }
        }
    }

    /// Starts a connection; an event says when it stands. `ring_bytes` as for [`Network::offer`].
    ///
    /// Errors: Kernel, Call.
    pub fn connect(
        &self,
        deadline: Deadline,
        peer: SocketAddr,
        ring_bytes: u32,
    ) -> Result<Stream<Pair>, NetError> {
        let mut pool = self.pool.borrow_mut();
        let pair = pool.take(deadline, ring_bytes)?;
        match self.stub().connect(deadline, peer, pair.number()) {
            Ok(socket) => self.stream(socket, pair),
            Err(error) => {
                pool.keep(deadline, pair)?;
                Err(error.into())
            }
        }
    }

    /// Closes a connection, as the stub's `close` does, and keeps its rings for another. The network stack
    /// hears of it as of what was written.
    ///
    /// Errors: Call.
    pub fn close(&self, deadline: Deadline, stream: Stream<Pair>) -> Result<(), NetError> {
        let (socket, rings) = (stream.socket(), stream.into_rings());
        self.pool.borrow_mut().close(deadline, socket, rings)?;
        self.fill_offers(deadline);
        Ok(())
    }

    /// Closes a listener, as the stub's `close` does, and takes back what it was offered. Connections that it
    /// was given before may still come.
    ///
    /// Errors: Call.
    pub fn close_listener(&self, deadline: Deadline, listener: Socket) -> Result<(), NetError> {
        self.stub().close(deadline, listener)?;
        let mut all = self.offers.borrow_mut();
        for offers in all
            .iter_mut()
            .filter(|offers| offers.listener() == listener)
        {
            offers.end(&mut self.pool.borrow_mut(), deadline)?;
        }
        all.retain(|offers| !offers.has_ended() || !offers.is_empty());
        Ok(())
    }

    fn stream(&self, socket: Socket, pair: Pair) -> Result<Stream<Pair>, NetError> {
        let doorbell = Rc::clone(&self.knock);
        let ring_bytes = pair.ring_bytes();
        Ok(Stream::new(socket, pair, ring_bytes, doorbell)?)
    }

    /// Makes a UDP socket on a port, 0 for any. `ring_bytes` is the capacity of each of its two rings, a
    /// power of two from 4,096.
    pub fn bind(
        &self,
        deadline: Deadline,
        port: u16,
        ring_bytes: u32,
    ) -> Result<DatagramSocket<Rings>, NetError> {
        let rings = Rings::new(DatagramPair::bytes_needed(ring_bytes))?;
        let geometry = StreamGeometry { ring_bytes };
        let doorbell = Rc::clone(&self.knock);
        // It waits for the first datagram before there can be one.
        let mut datagrams = DatagramSocket::new(rings.clone(), ring_bytes, doorbell)?;
        let socket = self.stub().bind(deadline, port, geometry, rings.handle())?;
        datagrams.is_bound(socket);
        Ok(datagrams)
    }
}
