//! All connections of the server, between the network stack's rings and their conversations.
//!
//! [`Server::run`] does what can be done and says when to run again; events and the doorbell wake it
//! before. When the network stack dies its session ends: all connections are dropped, and the caller
//! makes a new server on a new session.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;

use ipc::interface::network::{Event, READY_ACCEPT, READY_ACCEPTED, READY_ERROR, RingPair, Socket};
use ipc::ring::{
    PacketConsumer, RingError, SharedMemory, StreamConsumer, StreamPair, StreamProducer,
};

use crate::connection::{Connection, Content, Nanoseconds};
use crate::page::{Snapshot, render};

/// Bytes of each of a connection's two rings.
pub const RING_BYTES: u32 = 32 * 1024;
/// Connections at once. The listener's backlog keeps the next ones waiting.
pub const MAX_CONNECTIONS: usize = 48;
/// Bytes moved between ring and conversation at a time.
const PIECE: usize = 8 * 1024;
/// Turns of a connection before the next one has its own.
const TURNS: usize = 8;

/// The network stack does not answer any more, or broke a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost;

impl From<RingError> for Lost {
    fn from(_: RingError) -> Lost {
        Lost
    }
}

/// How long to wait for memory when no connection is open that would give some back.
const SHORTAGE: Nanoseconds = 100_000_000;

/// The network stack's session and the supervisor's.
pub trait Network {
    /// Memory shared with the network stack.
    type Memory: SharedMemory + Clone;
    /// Memory of the ring of events.
    type Events: SharedMemory;

    /// Nanoseconds of the monotonic clock.
    fn now(&self) -> Nanoseconds;

    /// Offers the listener pairs of rings of [`RING_BYTES`], so many in all at most. `starved`: a connection
    /// came that found none. The result is false where nothing is offered for want of memory.
    fn offer(&mut self, most: usize, starved: bool) -> Result<bool, Lost>;

    /// The memory of an offered pair that a connection has now, both of its rings empty when it came.
    fn accepted(&mut self, rings: RingPair) -> Result<Self::Memory, Lost>;

    /// Closes a connection and takes its rings back.
    fn close(&mut self, socket: Socket, memory: Self::Memory) -> Result<(), Lost>;

    /// Tells the network stack to look at a connection.
    fn touch(&mut self, socket: Socket);

    /// Tells it that the ring of events has room.
    fn ring(&mut self);

    /// What the page tells of the system and the network.
    fn snapshot(&mut self) -> Snapshot;
}

struct Client<M> {
    memory: M,
    outgoing: StreamProducer<M>,
    incoming: StreamConsumer<M>,
    conversation: Connection,
    ended: bool,
}

/// The server.
pub struct Server<N: Network> {
    network: N,
    listener: Socket,
    events: PacketConsumer<N::Events>,
    clients: BTreeMap<Socket, Client<N::Memory>>,
    /// A connection came that found no pair of rings.
    starved: bool,
    /// There was no memory for one: until when no more is offered, unless a connection ends before.
    shortage: Option<Nanoseconds>,
    /// No new connection and no further request is taken.
    stopping: bool,
    requests: u64,
    piece: Vec<u8>,
}

/// Makes the page when it is asked for.
struct Pages<'a, N> {
    network: &'a mut N,
    requests: &'a mut u64,
    connections: usize,
}

impl<N: Network> Content for Pages<'_, N> {
    fn request(&mut self) {
        *self.requests += 1;
    }

    fn page(&mut self) -> String {
        let own = Snapshot {
            requests: *self.requests,
            connections: self.connections,
            ..self.network.snapshot()
        };
        render(&own)
    }
}

impl<N: Network> Server<N> {
    /// A server on a listener, told of its sockets through this ring.
    pub fn new(network: N, listener: Socket, events: PacketConsumer<N::Events>) -> Server<N> {
        Server {
            network,
            listener,
            events,
            clients: BTreeMap::new(),
            starved: false,
            shortage: None,
            stopping: false,
            requests: 0,
            piece: vec![0; PIECE],
        }
    }

    /// The sessions.
    pub fn network(&mut self) -> &mut N {
        &mut self.network
    }

    /// The sessions, when the server is over.
    pub fn into_network(self) -> N {
        self.network
    }

    /// Connections open.
    pub fn connections(&self) -> usize {
        self.clients.len()
    }

    /// The system stops: what was asked is answered, and each connection then closed. To be run until
    /// there is none.
    pub fn stop(&mut self) {
        self.stopping = true;
    }

    /// Does what is to do and says when to run again unless an event or a doorbell comes before, in
    /// nanoseconds of the monotonic clock; [`ipc::message::NEVER`] where nothing waits for time.
    ///
    /// Errors: the session is of no use any more.
    pub fn run(&mut self) -> Result<Nanoseconds, Lost> {
        loop {
            let touched = self.take_events()?;
            let mut more = false;
            let sockets: Vec<Socket> = self.clients.keys().copied().collect();
            for socket in sockets {
                more |= self.serve(socket)?;
            }
            self.offer()?;
            if !more && !touched && self.events.sleep(1)? {
                return Ok(self.deadline());
            }
            self.events.wake()?;
        }
    }

    /// Takes all events; true: there were any. An event wakes; which socket it names matters only for
    /// the listener and for those that failed, for every connection is looked at in any case.
    fn take_events(&mut self) -> Result<bool, Lost> {
        let mut any = false;
        while let Some(descriptor) = self.events.pop()? {
            any = true;
            let event = Event::from(descriptor);
            self.starved |= event.socket == self.listener && event.ready & READY_ACCEPT != 0;
            if event.ready & READY_ACCEPTED != 0 {
                self.add_client(event)?;
            }
            if event.ready & READY_ERROR != 0 {
                self.drop_client(event.socket)?;
            }
        }
        if any && self.events.must_wake()? {
            self.network.ring();
        }
        Ok(any)
    }

    /// Has as many connections accepted as there is room for.
    fn offer(&mut self) -> Result<(), Lost> {
        let now = self.network.now();
        self.shortage = self.shortage.filter(|until| now < *until);
        let room = MAX_CONNECTIONS.saturating_sub(self.clients.len());
        if self.stopping || self.shortage.is_some() || room == 0 {
            return Ok(());
        }
        let starved = core::mem::take(&mut self.starved);
        if !self.network.offer(room, starved)? {
            self.shortage = Some(now + SHORTAGE);
        }
        Ok(())
    }

    /// The network stack accepted a connection.
    fn add_client(&mut self, event: Event) -> Result<(), Lost> {
        let memory = self.network.accepted(event.rings.ok_or(Lost)?)?;
        let (outgoing, incoming) = StreamPair::maker(memory.clone(), RING_BYTES)?;
        let conversation = Connection::new(self.network.now());
        let client = Client {
            memory,
            outgoing,
            incoming,
            conversation,
            ended: false,
        };
        self.clients.insert(event.socket, client);
        Ok(())
    }

    fn drop_client(&mut self, socket: Socket) -> Result<(), Lost> {
        let Some(client) = self.clients.remove(&socket) else {
            return Ok(());
        };
        self.shortage = None;
        self.network.close(socket, client.memory)
    }

    /// Lets a connection do what it can; true: it can do more at once.
    fn serve(&mut self, socket: Socket) -> Result<bool, Lost> {
        let connections = self.clients.len();
        let Some(client) = self.clients.get_mut(&socket) else {
            return Ok(false);
        };
        let now = self.network.now();
        client.conversation.expire(now);
        let mut pages = Pages {
            network: &mut self.network,
            requests: &mut self.requests,
            connections,
        };
        let more = client.pump(now, &mut pages, &mut self.piece)?;
        let mut over = client.conversation.is_done();
        if self.stopping {
            // What was asked by now was taken.
            client.conversation.stop(now);
            client.send(now, &mut self.piece)?;
            // The network stack sees to it that all of it arrives; there is no time for the client's
            // own end.
            over = client.conversation.has_ended();
        }
        if client.outgoing.must_wake()? | client.incoming.must_wake()? {
            self.network.touch(socket);
        }
        if over && !client.conversation.has_output() {
            self.drop_client(socket)?;
            return Ok(false);
        }
        Ok(more)
    }

    fn deadline(&self) -> Nanoseconds {
        let deadlines = self
            .clients
            .values()
            .map(|client| client.conversation.deadline());
        let first = deadlines.chain(self.shortage).min();
        first.unwrap_or(ipc::message::NEVER)
    }
}

impl<M: SharedMemory + Clone> Client<M> {
    /// Moves bytes both ways until nothing moves, for some turns; true: it could go on.
    fn pump(
        &mut self,
        now: Nanoseconds,
        content: &mut impl Content,
        piece: &mut [u8],
    ) -> Result<bool, Lost> {
        for _ in 0..TURNS {
            let sent = self.send(now, piece)?;
            let received = self.receive(now, content, piece)?;
            if !sent && !received && !self.must_go_on()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn send(&mut self, now: Nanoseconds, piece: &mut [u8]) -> Result<bool, Lost> {
        let mut moved = false;
        while self.conversation.has_output() {
            let room = self.outgoing.free()?.min(piece.len());
            if room == 0 {
                break;
            }
            let space = piece.get_mut(..room).unwrap_or_default();
            let count = self.conversation.output(now, space);
            // All of it fits: the room was asked for, and only grows.
            self.outgoing
                .write(space.get(..count).unwrap_or_default())?;
            moved = true;
        }
        if self.conversation.has_ended() && !self.ended {
            self.ended = true;
            self.outgoing.close()?;
            moved = true;
        }
        Ok(moved)
    }

    fn receive(
        &mut self,
        now: Nanoseconds,
        content: &mut impl Content,
        piece: &mut [u8],
    ) -> Result<bool, Lost> {
        let mut moved = false;
        while self.conversation.wants_input() {
            let count = self.incoming.peek(piece)?;
            let bytes = piece.get(..count).unwrap_or_default();
            let taken = self.conversation.input(now, bytes, content);
            self.incoming.skip(taken)?;
            moved |= taken > 0;
            if taken == 0 {
                break;
            }
        }
        if self.incoming.is_ended()? && self.conversation.wants_input() {
            self.conversation.input_ended(now);
            moved = true;
        }
        Ok(moved)
    }

    /// Asks to be woken; true: what was to be waited for is there.
    fn must_go_on(&mut self) -> Result<bool, Lost> {
        let mut go_on = false;
        if self.conversation.has_output() {
            go_on |= !self.outgoing.sleep(RING_BYTES as usize / 2)?;
        }
        if self.conversation.wants_input() {
            go_on |= !self.incoming.sleep(1)?;
        }
        Ok(go_on)
    }
}
