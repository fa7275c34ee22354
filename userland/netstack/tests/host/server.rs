//! The server between fake applications, a fake driver and a peer stack.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::atomic::Ordering;

use ipc::badge::Client;
use ipc::interface::network::{
    Event, GRANT_CONNECT, GRANT_LISTEN, KeepAlive, NetworkError, NetworkServer, Notice, PingReply,
    READY_ACCEPT, READY_END, READY_ERROR, READY_RECEIVE, READY_SEND, RingPair, Shutdown, Socket,
    SocketState, StreamGeometry, StreamOption,
};
use ipc::ring::{
    DatagramConsumer, DatagramPair, DatagramProducer, Descriptor, HEADER_BYTES, PacketConsumer,
    PacketProducer, SharedMemory, StreamConsumer, StreamPair, StreamProducer, packet_ring_bytes,
};
use ipc::server::{Answer, Caller, Outgoing, ReplySlot};
use ipc::{Error, Handle};
use netstack::packets::{Packets, Shape};
use netstack::server::{Attachment, Refusal, STOP_BIT, Server, System};
use netstack::stack::Stack;
use netstack::tcp::{ConnectionId, End, ListenerId, Phase};
use netstack::time::SECOND;
use netstack::wire::{Fate, Received, Wire};

use crate::common::{A, B, CLIENT, Transfer, card, fixed, pattern, received, sent};
use crate::driver::FakeDriver;
use crate::memory::Shared;

const BELL: Handle = Handle(1);
const BUFFERS: u32 = 256;
pub(crate) const RING: u32 = 16 * 1024;
const LIFELINE: u64 = 1 << 63;

/// What the server asked of the system.
#[derive(Default)]
pub(crate) struct Record {
    pub(crate) now: Cell<u64>,
    memories: RefCell<BTreeMap<u64, Shared>>,
    signals: RefCell<Vec<(Handle, u64)>>,
    closed: RefCell<Vec<Handle>>,
    replies: RefCell<Vec<(Handle, Vec<u8>)>>,
    next: Cell<u64>,
    /// The drivers with the number of their cards; `None` does not answer.
    drivers: RefCell<Vec<Option<u16>>>,
    log: RefCell<Vec<String>>,
    attempts: Cell<u32>,
    /// How often a driver was asked for its cards.
    asked: Cell<u32>,
    refused: Cell<Option<u64>>,
    attached: Cell<Option<u64>>,
}

impl Record {
    fn handle(&self) -> Handle {
        self.next.set(self.next.get() + 1);
        Handle(1_000 + self.next.get())
    }

    pub(crate) fn share(&self, memory: &Shared) -> Handle {
        let handle = self.handle();
        self.memories.borrow_mut().insert(handle.0, memory.clone());
        handle
    }
}

#[derive(Clone)]
pub(crate) struct FakeSystem(Rc<Record>);

impl System for FakeSystem {
    type Memory = Shared;

    fn now(&self) -> u64 {
        self.0.now.get()
    }

    fn map(&self, memory: Handle, bytes: usize) -> Result<Shared, Error> {
        let shared = self
            .0
            .memories
            .borrow_mut()
            .remove(&memory.0)
            .ok_or(Error::InvalidHandle)?;
        let large_enough = ipc::ring::SharedMemory::bytes(&shared) >= bytes;
        large_enough.then_some(shared).ok_or(Error::InvalidArgument)
    }

    fn bell(&self) -> Handle {
        BELL
    }

    fn signal(&self, notification: Handle, bits: u64) {
        self.0.signals.borrow_mut().push((notification, bits));
    }

    fn close(&self, handle: Handle) {
        self.0.memories.borrow_mut().remove(&handle.0);
        self.0.closed.borrow_mut().push(handle);
    }

    fn reply(&self, to: Handle, outgoing: &Outgoing<'_>) {
        self.0
            .replies
            .borrow_mut()
            .push((to, outgoing.bytes().to_vec()));
    }

    fn drivers(&self) -> usize {
        self.0.drivers.borrow().len()
    }

    fn driver_name(&self, driver: usize) -> &str {
        ["first", "second", "third"][driver]
    }

    fn attach(
        &self,
        driver: usize,
        _: Shape,
        bits: u64,
        lifeline: u64,
    ) -> Result<Attachment, Refusal> {
        assert_eq!(bits, 1);
        self.0.attempts.set(self.0.attempts.get() + 1);
        // Where it is refused, the kernel tells that the lifeline is closed.
        self.0.refused.set(Some(lifeline));
        match self.0.drivers.borrow()[driver] {
            None => return Err(Refusal::NotYet),
            Some(0) => return Err(Refusal::NoCard),
            Some(_) => {}
        }
        self.0.attached.set(Some(lifeline));
        let (session, doorbell) = (self.0.handle(), self.0.handle());
        Ok(Attachment {
            card: card(1),
            session,
            doorbell,
            bits: 4,
        })
    }

    fn cards(&self, driver: usize) -> Option<u16> {
        self.0.asked.set(self.0.asked.get() + 1);
        self.0.drivers.borrow()[driver]
    }

    fn link_up(&self, _: Handle) -> bool {
        true
    }

    fn log(&self, line: core::fmt::Arguments<'_>) {
        self.0.log.borrow_mut().push(line.to_string());
    }
}

struct Slot<'a>(&'a Record);

impl ReplySlot for Slot<'_> {
    fn stash(&mut self) -> Result<Handle, Error> {
        Ok(self.0.handle())
    }
}

/// The peer's wire.
#[derive(Default)]
struct Pipe {
    incoming: VecDeque<Vec<u8>>,
    outgoing: VecDeque<Vec<u8>>,
}

impl Wire for Pipe {
    fn receive(&mut self, buffer: &mut [u8]) -> Option<Received> {
        let frame = self.incoming.pop_front()?;
        buffer[..frame.len()].copy_from_slice(&frame);
        Some(received(&frame))
    }

    fn can_transmit(&mut self) -> bool {
        self.outgoing.len() < 64
    }

    fn build<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> (R, Fate)) -> R {
        let mut frame = vec![0; length];
        let (result, fate) = fill(&mut frame);
        if sent(fate) {
            self.outgoing.push_back(frame);
        }
        result
    }
}

/// Server A, its driver, and the peer B.
pub(crate) struct World {
    pub(crate) record: Rc<Record>,
    pub(crate) server: Server<FakeSystem>,
    pool: Shared,
    rings: Shared,
    driver: Option<FakeDriver>,
    pub(crate) peer: Stack,
    pipe: Pipe,
}

impl World {
    pub(crate) fn new() -> World {
        let record = Rc::new(Record::default());
        record.now.set(SECOND);
        record.drivers.replace(vec![Some(1)]);
        let shape = Shape::new(BUFFERS, 1500);
        let (pool, rings) = (
            Shared::new(shape.pool_bytes()),
            Shared::new(shape.ring_bytes()),
        );
        let packets = Packets::new(shape, pool.clone(), rings.clone()).expect("fits");
        let config = fixed(A, B);
        let stack = Stack::new(&config, card(1), SECOND, 3);
        let server = Server::new(
            FakeSystem(Rc::clone(&record)),
            &config,
            packets,
            stack,
            SECOND,
        );
        let peer = Stack::new(&fixed(B, A), card(2), SECOND, 4);
        World {
            record,
            server,
            pool,
            rings,
            driver: None,
            peer,
            pipe: Pipe::default(),
        }
    }

    /// Everyone has a turn; the clock goes on when nothing is to do.
    pub(crate) fn step(&mut self) {
        let now = self.record.now.get();
        let wake = self.server.run();
        if let Some(lifeline) = self.record.attached.take() {
            assert_ne!(lifeline & LIFELINE, 0);
            let shape = Shape::new(BUFFERS, 1500);
            self.driver = Some(FakeDriver::new(
                shape,
                self.pool.clone(),
                self.rings.clone(),
            ));
        }
        let busy = self.peer.poll(now, &mut self.pipe);
        let mut moved = false;
        if let Some(driver) = &mut self.driver {
            while let Some(frame) = driver.sent() {
                self.pipe.incoming.push_back(frame);
                moved = true;
            }
            while let Some(frame) = self.pipe.outgoing.front()
                && driver.deliver(frame)
            {
                self.pipe.outgoing.pop_front();
                moved = true;
            }
        }
        if !busy && !moved {
            let peer = self.peer.deadline(now).unwrap_or(now + SECOND);
            self.record
                .now
                .set(peer.min(wake).clamp(now + 10_000, now + SECOND));
        }
    }

    pub(crate) fn until(&mut self, what: &str, mut holds: impl FnMut(&mut World) -> bool) {
        let end = self.record.now.get() + 60 * SECOND;
        loop {
            self.step();
            if holds(self) {
                return;
            }
            assert!(self.record.now.get() < end, "{what}: not in time");
        }
    }

    /// The driver dies, and its next instance is there.
    fn restart_driver(&mut self, instance: u64) {
        self.driver = None;
        self.server.badge_closed(LIFELINE | instance);
    }

    pub(crate) fn call<R>(
        &mut self,
        badge: u64,
        f: impl FnOnce(&mut Server<FakeSystem>, &mut Caller<'_>) -> R,
    ) -> R {
        let record = Rc::clone(&self.record);
        let mut slot = Slot(&record);
        self.server.take_notices(badge);
        f(&mut self.server, &mut Caller::new(badge, &mut slot))
    }

    pub(crate) fn app(&mut self, badge: u64, grants: u32) -> App {
        assert!(self.server.open_session(badge, Client { task: 3, grants }));
        let memory = Shared::new(2 * packet_ring_bytes(16));
        let (events, bell) = (self.record.share(&memory), self.record.handle());
        let lifeline = self.record.handle();
        let attached = self.call(badge, |server, caller| {
            server.attach(caller, 16, 8, events, bell, lifeline)
        });
        let (bits, doorbell) = attached.expect("attached");
        assert_eq!(doorbell, BELL);
        let ring = PacketConsumer::new(memory.clone(), 0, 16).expect("fits");
        let notices = PacketProducer::new(memory.clone(), packet_ring_bytes(16), 16);
        App {
            badge,
            memory,
            events: ring,
            notices: notices.expect("fits"),
            ready: BTreeMap::new(),
            accepted: Vec::new(),
            touched_bits: bits.touched,
            bits: bits.all,
            bell,
            lifeline,
        }
    }

    /// The app shares a pair of rings, full of what a hostile one might leave in them.
    pub(crate) fn share(&mut self, badge: u64) -> Result<(RingPair, Shared), NetworkError> {
        let memory = Shared::new(StreamPair::bytes_needed(RING));
        for word in memory.0.iter() {
            word.store(0x5eed, Ordering::Relaxed);
        }
        let handle = self.record.share(&memory);
        let geometry = StreamGeometry { ring_bytes: RING };
        let shared = self.call(badge, |server, caller| {
            server.share(caller, geometry, handle)
        });
        shared.map(|pair| (pair, memory))
    }

    /// A pair of rings for a connection of the app's.
    pub(crate) fn rings(&mut self, badge: u64) -> (RingPair, AppStream) {
        let (pair, memory) = self.share(badge).expect("shared");
        (pair, AppStream::new(pair, &memory))
    }

    /// The app binds a UDP socket.
    fn bound(&mut self, app: &App, port: u16) -> (Socket, AppDatagrams) {
        self.bound_with(app, port, RING)
    }

    /// The same with rings of this capacity.
    fn bound_with(&mut self, app: &App, port: u16, ring_bytes: u32) -> (Socket, AppDatagrams) {
        let memory = Shared::new(DatagramPair::bytes_needed(ring_bytes));
        let handle = self.record.share(&memory);
        let (to_stack, from_stack) = DatagramPair::maker(memory.clone(), ring_bytes).expect("fits");
        let geometry = StreamGeometry { ring_bytes };
        let socket = self
            .call(app.badge, |server, caller| {
                server.bind(caller, port, geometry, handle)
            })
            .expect("bound");
        let datagrams = AppDatagrams {
            memory,
            to_stack,
            from_stack,
        };
        (socket, datagrams)
    }

    pub(crate) fn accept(&mut self, app: &App, listener: Socket) -> Option<(Socket, AppStream)> {
        let (pair, stream) = self.rings(app.badge);
        let accepted = self.call(app.badge, |server, caller| {
            server.accept(caller, listener, pair)
        });
        match accepted {
            Ok(accepted) => Some((accepted.socket, stream)),
            Err(error) => {
                assert_eq!(error, NetworkError::WouldBlock);
                let unshared = self.call(app.badge, |server, caller| server.unshare(caller, pair));
                assert_eq!(unshared, Ok(()));
                None
            }
        }
    }

    /// The app listens, the peer connects, the app accepts.
    pub(crate) fn accepted(
        &mut self,
        app: &mut App,
        port: u16,
    ) -> (Socket, AppStream, ConnectionId) {
        let listener = self
            .call(app.badge, |server, caller| server.listen(caller, port, 8))
            .expect("listens");
        let there = self
            .peer
            .connect(CLIENT, SocketAddr::from((A, port)))
            .expect("begun");
        self.until("an event of the listener", |_| {
            app.take(listener) & READY_ACCEPT != 0
        });
        let (socket, stream) = self.accept(app, listener).expect("one waits");
        assert!(self.accept(app, listener).is_none());
        (socket, stream, there)
    }

    /// The app connects to a listener of the peer's.
    pub(crate) fn connected(
        &mut self,
        app: &mut App,
        port: u16,
    ) -> (Socket, AppStream, ConnectionId) {
        let listener: ListenerId = self.peer.listen(CLIENT, None, port, 8).expect("listens");
        let (pair, stream) = self.rings(app.badge);
        let peer = SocketAddr::from((B, port));
        let socket = self
            .call(app.badge, |server, caller| {
                server.connect(caller, peer, pair)
            })
            .expect("begun");
        self.until("the connection", |_| app.take(socket) & READY_SEND != 0);
        let mut there = None;
        self.until("the connection's other end", |world| {
            there = world.peer.tcp().accept(listener);
            there.is_some()
        });
        let there = there.expect("accepted");
        (socket, stream, there)
    }
}

/// A fake application.
pub(crate) struct App {
    pub(crate) badge: u64,
    pub(crate) memory: Shared,
    pub(crate) events: PacketConsumer<Shared>,
    notices: PacketProducer<Shared>,
    pub(crate) touched_bits: u64,
    pub(crate) ready: BTreeMap<Socket, u32>,
    /// Sockets that were accepted into offered rings.
    pub(crate) accepted: Vec<(Socket, RingPair)>,
    bits: u64,
    bell: Handle,
    lifeline: Handle,
}

impl App {
    /// The bits told of a socket since the last question.
    pub(crate) fn take(&mut self, socket: Socket) -> u32 {
        while let Some(descriptor) = self.events.pop().expect("whole") {
            let event = Event::from(descriptor);
            let rings = event.rings.map(|rings| (event.socket, rings));
            self.accepted.extend(rings);
            *self.ready.entry(event.socket).or_default() |= event.ready;
        }
        self.ready.remove(&socket).unwrap_or(0)
    }

    /// What has the stack look at all sockets, and take the notices.
    pub(crate) fn bits(&self) -> u64 {
        self.bits | self.touched_bits
    }

    /// Puts a notice into its ring; false where that is full.
    pub(crate) fn give(&mut self, notice: Notice) -> bool {
        self.give_raw(notice.into())
    }

    /// Puts anything into the ring of notices; false where that is full.
    pub(crate) fn give_raw(&mut self, descriptor: Descriptor) -> bool {
        self.notices.push(descriptor).expect("whole")
    }
}

/// The application's side of a stream.
pub(crate) struct AppStream {
    pub(crate) pair: RingPair,
    memory: Shared,
    pub(crate) to_stack: StreamProducer<Shared>,
    pub(crate) from_stack: StreamConsumer<Shared>,
}

impl AppStream {
    /// The stream that a connection with this pair is to have.
    pub(crate) fn new(pair: RingPair, memory: &Shared) -> AppStream {
        let (to_stack, from_stack) = StreamPair::maker(memory.clone(), RING).expect("fits");
        AppStream {
            pair,
            memory: memory.clone(),
            to_stack,
            from_stack,
        }
    }
}

/// The application's side of a UDP socket.
struct AppDatagrams {
    memory: Shared,
    to_stack: DatagramProducer<Shared>,
    from_stack: DatagramConsumer<Shared>,
}

/// Sends and checks a pattern through the rings, ringing the bell only when asked to.
#[derive(Default)]
struct Flow {
    sent: usize,
    received: usize,
    kicks: usize,
}

impl Flow {
    fn give(&mut self, world: &mut World, app: &App, stream: &mut AppStream, length: usize) {
        let mut buffer = [0; 4_000];
        while self.sent < length {
            let count = buffer.len().min(length - self.sent);
            for (offset, byte) in buffer[..count].iter_mut().enumerate() {
                *byte = pattern(self.sent + offset);
            }
            let written = stream.to_stack.write(&buffer[..count]).expect("whole");
            self.sent += written;
            if stream.to_stack.must_wake().expect("whole") {
                self.kicks += 1;
                world.server.signalled(app.bits);
            }
            if written < count {
                let _ = stream.to_stack.sleep(RING as usize / 2);
                return;
            }
        }
    }

    fn take(&mut self, world: &mut World, app: &App, stream: &mut AppStream) {
        let mut buffer = [0; 4_000];
        loop {
            let count = stream.from_stack.read(&mut buffer).expect("whole");
            for (offset, byte) in buffer[..count].iter().enumerate() {
                assert_eq!(*byte, pattern(self.received + offset));
            }
            self.received += count;
            if stream.from_stack.must_wake().expect("whole") {
                self.kicks += 1;
                world.server.signalled(app.bits);
            }
            if count == 0 && stream.from_stack.sleep(1).expect("whole") {
                return;
            }
            if stream.from_stack.is_ended().expect("whole") {
                return;
            }
        }
    }
}

pub(crate) const ALL: u32 = GRANT_LISTEN | GRANT_CONNECT;

#[test]
fn a_served_stream_carries_both_ways_and_ends_in_order() {
    let mut world = World::new();
    let mut app = world.app(5, ALL);
    let (socket, mut stream, there) = world.accepted(&mut app, 80);
    let (mut down, mut up) = (Flow::default(), Transfer::new(400_000));
    let mut back = Transfer::new(400_000);
    world.until("both directions", |world| {
        up.give(&mut world.peer, there);
        down.take(world, &app, &mut stream);
        down.give(world, &app, &mut stream, 400_000);
        back.take(&mut world.peer, there);
        down.received == 400_000 && back.received == 400_000
    });
    // A kick for each few packets at most, not one a write.
    assert!(down.kicks < 400, "{}", down.kicks);
    world.peer.tcp().finish_sending(there);
    world.until("the peer's end", |_| app.take(socket) & READY_END != 0);
    assert_eq!(stream.from_stack.is_ended(), Ok(true));
    stream.to_stack.close().unwrap();
    assert_eq!(
        stream.to_stack.must_wake(),
        Ok(true),
        "the stack waits for more or the end"
    );
    world.server.signalled(app.bits);
    world.until("the own end", |world| {
        world.peer.tcp().receive_finished(there)
    });
    world
        .call(app.badge, |server, caller| server.close(caller, socket))
        .unwrap();
    world.until("the socket is free", |world| {
        world.server.stack().tcp().connections() == 0
    });
    let status = world.call(app.badge, |server, caller| server.status(caller, socket));
    assert_eq!(status, Err(NetworkError::NoSuchSocket));
}

#[test]
fn a_connection_of_the_apps_opens_and_what_is_in_the_ring_at_its_close_arrives() {
    let mut world = World::new();
    let mut app = world.app(5, ALL);
    let (socket, mut stream, there) = world.connected(&mut app, 7);
    let (mut flow, mut up) = (Flow::default(), Transfer::new(140_000));
    // The peer does not read: its buffer, the socket's and the ring fill up.
    for _ in 0..200 {
        flow.give(&mut world, &app, &mut stream, 140_000);
        world.step();
    }
    assert!(flow.sent > 131_072, "{}", flow.sent);
    up.length = flow.sent;
    world
        .call(app.badge, |server, caller| server.close(caller, socket))
        .unwrap();
    world.server.badge_closed(app.badge);
    world.until("all of it, and the end", |world| {
        up.take(&mut world.peer, there);
        world.peer.tcp().receive_finished(there)
    });
    assert_eq!(
        up.received,
        up.length,
        "{:?}",
        world.peer.tcp().phase(there)
    );
}

#[test]
fn refusals_and_resets_are_told_with_their_reason() {
    let mut world = World::new();
    let mut app = world.app(5, ALL);
    let (pair, _stream) = world.rings(5);
    let nobody = SocketAddr::from((B, 99));
    let socket = world
        .call(5, |server, caller| server.connect(caller, nobody, pair))
        .unwrap();
    world.until("the refusal", |_| app.take(socket) & READY_ERROR != 0);
    let error = |world: &mut World, socket| {
        world
            .call(5, |server, caller| server.status(caller, socket))
            .unwrap()
            .error
    };
    assert_eq!(error(&mut world, socket), Some(NetworkError::Refused));
    let (socket, _, there) = world.accepted(&mut app, 80);
    let now = world.record.now.get();
    world.peer.tcp().abort(now, there);
    world.until("the reset", |_| app.take(socket) & READY_ERROR != 0);
    assert_eq!(error(&mut world, socket), Some(NetworkError::Reset));
}

#[test]
fn what_the_manifest_does_not_grant_is_refused() {
    let mut world = World::new();
    let _listener = world.app(1, GRANT_LISTEN);
    let _caller = world.app(2, GRANT_CONNECT);
    let geometry = StreamGeometry { ring_bytes: RING };
    let peer = SocketAddr::from((B, 80));
    let (pair, _) = world.rings(1);
    let connect = world
        .call(1, |server, caller| server.connect(caller, peer, pair))
        .err();
    assert_eq!(connect, Some(NetworkError::NotPermitted));
    let record = Rc::clone(&world.record);
    let ring = || record.share(&Shared::new(DatagramPair::bytes_needed(RING)));
    let refused = [
        world
            .call(2, |server, caller| server.listen(caller, 80, 1))
            .err(),
        world
            .call(2, |server, caller| {
                server.bind(caller, 53, geometry, ring())
            })
            .err(),
        world
            .call(1, |server, caller| server.bind(caller, 0, geometry, ring()))
            .err(),
        world.call(1, |server, caller| {
            server.ping(caller, B.into(), 0, 1).err()
        }),
        world.call(1, |server, caller| server.resolve(caller, "a.b").err()),
    ];
    assert_eq!(refused, [Some(NetworkError::NotPermitted); 5]);
    assert!(world.server.open_session(
        3,
        Client {
            task: 9,
            grants: ALL
        }
    ));
    let early = world
        .call(3, |server, caller| server.listen(caller, 80, 1))
        .err();
    assert_eq!(early, Some(NetworkError::NotAttached));
    let early = world.share(3).err();
    assert_eq!(early, Some(NetworkError::NotAttached));
    let _looker_on = world.app(4, 0);
    let shared = world.share(4).err();
    assert_eq!(shared, Some(NetworkError::NotPermitted));
    let kept = world.record.memories.borrow();
    assert!(kept.is_empty(), "what was refused was let go");
}

#[test]
fn a_dead_client_leaves_nothing_behind() {
    let mut world = World::new();
    let mut app = world.app(5, ALL);
    let (_, _stream, there) = world.accepted(&mut app, 80);
    let _datagrams = world.bound(&app, 0);
    let asked = world.call(5, |server, caller| {
        server.ping(caller, [10, 0, 0, 9].into(), 0, 1_000)
    });
    assert!(matches!(asked, Ok(Answer::Later(_))));
    world.server.badge_closed(5);
    world.until("the peer's reset", |world| {
        world.peer.tcp().phase(there) == Some(Phase::Ended(End::Reset))
    });
    let stack = world.server.stack();
    let ledger = stack.ledger();
    assert_eq!(
        (ledger.bytes(), ledger.sockets(5), ledger.rings()),
        (0, 0, 0)
    );
    let closed = world.record.closed.borrow();
    assert!(closed.contains(&app.bell) && closed.contains(&app.lifeline));
    assert!(
        world.record.replies.borrow().is_empty(),
        "nobody is answered any more"
    );
    drop(closed);
    world.app(6, ALL);
    world
        .call(6, |server, caller| server.listen(caller, 80, 1))
        .unwrap();
}

#[test]
fn stopping_waits_for_connections_to_end_but_not_for_ever() {
    for peer_ends in [true, false] {
        let mut world = World::new();
        let mut app = world.app(5, ALL);
        let (socket, mut stream, there) = world.accepted(&mut app, 80);
        stream.to_stack.write(b"the last words").unwrap();
        world
            .call(5, |server, caller| server.close(caller, socket))
            .unwrap();
        assert!(!world.server.has_stopped(), "nobody said so");
        world.server.signalled(STOP_BIT);
        assert!(!world.server.has_stopped(), "the connection has not ended");
        let begun = world.record.now.get();
        let mut heard = Vec::new();
        world.until("the last words and the end", |world| {
            world.peer.tcp().receive(there, |bytes| {
                heard.extend_from_slice(bytes);
                bytes.len()
            });
            world.peer.tcp().receive_finished(there)
        });
        assert_eq!(heard, b"the last words");
        if peer_ends {
            world.peer.tcp().finish_sending(there);
        }
        world.until("the stop", |world| world.server.has_stopped());
        let took = world.record.now.get() - begun;
        assert_eq!(took < SECOND, peer_ends, "{took} ns");
    }
}

#[test]
fn a_client_that_signals_the_stop_stops_nothing() {
    let mut world = World::new();
    let mut app = world.app(5, ALL);
    world.server.signalled(STOP_BIT);
    world.until("the question to init", |world| world.server.has_stopped());
    world.server.go_on();
    let _ = world.connected(&mut app, 80);
    assert!(!world.server.has_stopped());
}

#[test]
fn a_driver_that_dies_is_attached_again_and_streams_go_on() {
    let mut world = World::new();
    let mut app = world.app(5, ALL);
    let (_, mut stream, there) = world.accepted(&mut app, 80);
    let (mut down, mut back) = (Flow::default(), Transfer::new(900_000));
    let mut instance = 1;
    world.until("the download", |world| {
        down.give(world, &app, &mut stream, 900_000);
        back.take(&mut world.peer, there);
        if back.received > instance as usize * 150_000 && instance < 6 {
            world.restart_driver(instance);
            instance += 1;
        }
        back.received == 900_000
    });
    assert_eq!(instance, 6);
    let info = world.call(5, |server, caller| server.info(caller)).unwrap();
    assert_eq!((info.attached, info.counters.attachments), (true, 6));
    // The word of an earlier instance's death changes nothing.
    world.server.badge_closed(LIFELINE | 2);
    let info = world.call(5, |server, caller| server.info(caller)).unwrap();
    assert!(info.attached);
}

#[test]
fn the_first_driver_with_a_card_is_used_and_unused_cards_are_told_once() {
    let mut world = World::new();
    world.record.drivers.replace(vec![Some(0), None]);
    for _ in 0..40 {
        world.step();
    }
    assert!(world.record.attempts.get() >= 2 && world.record.log.borrow().is_empty());
    // The second has cards, and the first did not find its own so far.
    world.record.drivers.replace(vec![Some(0), Some(3)]);
    for _ in 0..40 {
        world.step();
    }
    let first = "attached to the driver, time 1: second";
    assert_eq!(
        *world.record.log.borrow(),
        [first, "not used: 2 cards of second"]
    );
    world.driver = None;
    let lifeline = world.record.refused.get().unwrap();
    world.server.badge_closed(lifeline);
    for _ in 0..40 {
        world.step();
    }
    let again = "attached to the driver, time 2: second";
    assert_eq!(
        world.record.log.borrow()[2..],
        ["the driver is gone", again]
    );
}

#[test]
fn a_driver_that_is_being_started_is_waited_for_before_the_next_is_asked() {
    let mut world = World::new();
    world.record.drivers.replace(vec![None, Some(1)]);
    for _ in 0..40 {
        world.step();
    }
    assert!(world.record.log.borrow().is_empty(), "nobody is attached");
    world.record.drivers.replace(vec![Some(1), None]);
    for _ in 0..40 {
        world.step();
    }
    let attached = "attached to the driver, time 1: first";
    assert_eq!(*world.record.log.borrow(), [attached]);
    // The second is asked until it answers.
    world.record.drivers.replace(vec![Some(1), Some(1)]);
    for _ in 0..40 {
        world.step();
    }
    assert_eq!(
        *world.record.log.borrow(),
        [attached, "not used: a card of second"]
    );
}

#[test]
fn a_driver_that_hangs_is_not_asked_for_its_cards_for_ever() {
    let mut world = World::new();
    world.record.drivers.replace(vec![Some(1), None, Some(2)]);
    let asked = |world: &mut World| {
        let end = world.record.now.get() + 120 * SECOND;
        while world.record.now.get() < end {
            world.step();
        }
        world.record.asked.get()
    };
    let first = asked(&mut world);
    assert!((3..=12).contains(&first), "{first}");
    assert_eq!(
        asked(&mut world),
        first,
        "each question keeps clients waiting"
    );
    let said = [
        "attached to the driver, time 1: first",
        "second does not say which cards it has",
        "not used: 2 cards of third",
    ];
    assert_eq!(*world.record.log.borrow(), said);
}

#[test]
fn without_any_card_that_is_said_once_and_the_search_goes_on() {
    let mut world = World::new();
    world.record.drivers.replace(vec![Some(0), Some(0)]);
    for _ in 0..40 {
        world.step();
    }
    let missing = "no network for now: no driver has a card";
    assert_eq!(*world.record.log.borrow(), [missing]);
    world.record.drivers.replace(vec![Some(1), Some(0)]);
    for _ in 0..40 {
        world.step();
    }
    assert_eq!(world.record.log.borrow().len(), 2, "it was found");
}

#[test]
fn without_a_driver_calls_are_answered_and_the_search_goes_on() {
    let mut world = World::new();
    world.record.drivers.replace(vec![None]);
    let app = world.app(5, ALL);
    for _ in 0..20 {
        world.step();
    }
    let info = world.call(5, |server, caller| server.info(caller)).unwrap();
    assert!(!info.attached && !info.link_up);
    world
        .call(app.badge, |server, caller| server.listen(caller, 80, 1))
        .unwrap();
    assert!(
        world.server.run() > world.record.now.get(),
        "it sleeps meanwhile"
    );
    let attempts = world.record.attempts.get();
    for _ in 0..20 {
        world
            .server
            .badge_closed(world.record.refused.get().unwrap());
        world.server.run();
    }
    assert_eq!(
        world.record.attempts.get(),
        attempts,
        "the end of an attempt that was refused is no reason for the next"
    );
    world.record.drivers.replace(vec![Some(1)]);
    world.until("the driver", |world| world.driver.is_some());
}

#[test]
fn a_corrupted_stream_costs_its_socket_and_a_corrupted_event_ring_the_session() {
    let mut world = World::new();
    let (mut app, mut other) = (world.app(5, ALL), world.app(6, ALL));
    let (bad, stream, there) = world.accepted(&mut app, 80);
    let (_, mut good, good_there) = world.accepted(&mut app, 81);
    let lie = |memory: &Shared, word: usize| {
        memory.0[word].store(0xdead_beef, std::sync::atomic::Ordering::Relaxed);
    };
    lie(&stream.memory, 0);
    world.server.signalled(app.bits);
    world.until("the reset", |world| {
        world.peer.tcp().phase(there) == Some(Phase::Ended(End::Reset))
    });
    assert_ne!(app.take(bad) & READY_ERROR, 0);
    let status = world
        .call(5, |server, caller| server.status(caller, bad))
        .unwrap();
    assert_eq!(status.error, Some(NetworkError::RingCorrupted));
    let (mut flow, mut back) = (Flow::default(), Transfer::new(10_000));
    world.until("the other stream", |world| {
        flow.give(world, &app, &mut good, 10_000);
        back.take(&mut world.peer, good_there);
        back.received == 10_000
    });

    // Whoever asks before the stack has looked is told the same.
    let (asked, stream, _) = world.accepted(&mut app, 82);
    lie(&stream.memory, 0);
    for _ in 0..2 {
        let status = world
            .call(5, |server, caller| server.status(caller, asked))
            .unwrap();
        assert_eq!(status.state, SocketState::Closed);
        assert_eq!(status.error, Some(NetworkError::RingCorrupted));
        world.server.signalled(app.bits);
    }

    // Word 16 is the consumer's count; the lie shows when the sleeping client is to be woken.
    app.take(bad);
    assert_eq!(app.events.sleep(1), Ok(true));
    lie(&app.memory, 16);
    let now = world.record.now.get();
    world.peer.tcp().abort(now, good_there);
    world.until("the session's end", |world| {
        let asked = world.call(5, |server, caller| server.status(caller, bad));
        asked == Err(NetworkError::NotAttached)
    });
    world.accepted(&mut other, 80);
}

#[test]
fn events_are_joined_while_the_ring_is_full_and_none_is_lost() {
    let mut world = World::new();
    let mut app = world.app(5, ALL);
    let listeners: Vec<Socket> = (0..40)
        .map(|port| {
            world
                .call(5, |server, caller| server.listen(caller, 1_000 + port, 4))
                .unwrap()
        })
        .collect();
    for port in 0..40 {
        world
            .peer
            .connect(CLIENT, SocketAddr::from((A, 1_000 + port)))
            .unwrap();
    }
    for _ in 0..50 {
        world.step();
    }
    // The ring holds 16; the others come as it is emptied.
    let mut told = 0;
    for _ in 0..20 {
        told += listeners
            .iter()
            .filter(|socket| app.take(**socket) & READY_ACCEPT != 0)
            .count();
        if app.events.must_wake().unwrap() {
            world.server.signalled(app.bits);
        }
        world.step();
    }
    assert_eq!(told, 40);
}

#[test]
fn a_ping_is_answered_when_its_reply_comes() {
    let mut world = World::new();
    world.app(5, ALL);
    world.until("the driver", |world| world.driver.is_some());
    let asked = world.call(5, |server, caller| server.ping(caller, B.into(), 64, 1_000));
    assert!(matches!(asked, Ok(Answer::Later(_))));
    world.until("the answer", |world| {
        !world.record.replies.borrow().is_empty()
    });
    let replies = world.record.replies.borrow();
    let reply: Result<PingReply, NetworkError> = ipc::codec::decode(&replies[0].1).unwrap();
    let reply = reply.unwrap();
    assert_eq!((reply.from, reply.bytes), (IpAddr::from(B), 64));
}

#[test]
fn a_name_is_resolved_and_an_address_is_its_own() {
    let mut world = World::new();
    let app = world.app(5, GRANT_CONNECT);
    let ask = |world: &mut World, host: &str| {
        world.call(app.badge, |server, caller| server.resolve(caller, host))
    };
    let Ok(Answer::Now(list)) = ask(&mut world, "192.0.2.9") else {
        panic!("known");
    };
    assert_eq!(list[..], [IpAddr::from([192, 0, 2, 9])]);
    assert_eq!(ask(&mut world, "a b").err(), Some(NetworkError::OutOfRange));
    assert_eq!(
        ask(&mut world, &"a.".repeat(127)).err(),
        Some(NetworkError::OutOfRange)
    );
    assert_eq!(
        ask(&mut world, "a.example").err(),
        Some(NetworkError::NoNameServer)
    );
}

#[test]
fn a_reset_throws_away_what_was_not_sent_and_tells_the_peer() {
    let mut world = World::new();
    let mut app = world.app(5, GRANT_LISTEN);
    let (socket, mut stream, there) = world.accepted(&mut app, 80);
    let count = stream.to_stack.write(&[7; 10_000]).expect("whole");
    assert_eq!(count, 10_000);
    let reset =
        |world: &mut World| world.call(app.badge, |server, caller| server.reset(caller, socket));
    assert_eq!(reset(&mut world), Ok(()));
    assert_eq!(reset(&mut world), Err(NetworkError::NoSuchSocket));
    world.until("the reset", |world| {
        world.peer.tcp().phase(there) == Some(Phase::Ended(End::Reset))
    });
    assert!(!world.peer.tcp().can_receive(there));
    world.until("nothing is left", |world| {
        let stack = world.server.stack();
        stack.tcp().connections() == 0 && stack.ledger().bytes() == 0
    });
}

#[test]
fn options_are_checked_and_hold_from_then_on() {
    let mut world = World::new();
    let mut app = world.app(5, GRANT_LISTEN | GRANT_CONNECT);
    let (socket, _stream, there) = world.accepted(&mut app, 80);
    let set = |world: &mut World, socket: Socket, option: StreamOption| {
        let badge = app.badge;
        world.call(badge, |server, caller| {
            server.set_option(caller, socket, option)
        })
    };
    let keep_alive = |interval_ms, probes| {
        StreamOption::KeepAlive(Some(KeepAlive {
            interval_ms,
            probes,
        }))
    };
    for option in [
        StreamOption::NoDelay(true),
        StreamOption::KeepAlive(None),
        StreamOption::UserTimeout(86_400_000),
        keep_alive(1_000, 1),
    ] {
        assert_eq!(set(&mut world, socket, option), Ok(()), "{option:?}");
    }
    for option in [
        StreamOption::UserTimeout(999),
        StreamOption::UserTimeout(86_400_001),
        StreamOption::ConnectTimeout(0),
        StreamOption::ConnectTimeout(180_001),
        keep_alive(999, 1),
        keep_alive(1_000, 0),
    ] {
        let refused = Err(NetworkError::OutOfRange);
        assert_eq!(set(&mut world, socket, option), refused, "{option:?}");
    }
    let late = StreamOption::ConnectTimeout(1_000);
    assert_eq!(set(&mut world, socket, late), Err(NetworkError::WrongState));
    let listener = world.call(app.badge, |server, caller| server.listen(caller, 81, 1));
    let listener = listener.expect("listens");
    let refused = set(&mut world, listener, StreamOption::NoDelay(true));
    assert_eq!(refused, Err(NetworkError::WrongState));
    let refused = set(&mut world, Socket(99), StreamOption::NoDelay(true));
    assert_eq!(refused, Err(NetworkError::NoSuchSocket));
    // The peer vanishes: two seconds later the probes have told.
    world.peer.tcp().abort(SECOND, there);
    world.peer = Stack::new(&fixed(A, B), card(2), SECOND, 4);
    let start = world.record.now.get();
    world.until("the end", |_| app.take(socket) & READY_ERROR != 0);
    assert!(world.record.now.get() - start < 4 * SECOND);
}

#[test]
fn a_closed_direction_stays_closed() {
    let mut world = World::new();
    let mut app = world.app(5, ALL);
    let (socket, mut stream, there) = world.accepted(&mut app, 80);
    world
        .call(5, |server, caller| {
            server.shutdown(caller, socket, Shutdown::Both)
        })
        .unwrap();
    world.until("the end", |world| world.peer.tcp().receive_finished(there));
    let mut up = Transfer::new(1 << 20);
    world.until("a megabyte that nobody reads", |world| {
        up.give(&mut world.peer, there);
        up.sent == up.length
    });
    assert_eq!(stream.from_stack.read(&mut [0; 16]), Ok(0));
    assert_eq!(app.take(socket) & READY_RECEIVE, 0);
}

#[test]
fn datagrams_go_both_ways_through_rings_and_a_full_one_holds_them() {
    let mut world = World::new();
    let mut app = world.app(5, ALL);
    let (socket, mut rings) = world.bound(&app, 53);
    let there = world.peer.bind(CLIENT, 9).unwrap();
    let to = SocketAddr::from((B, 9));
    assert_eq!(rings.to_stack.push(to, b"question"), Ok(true));
    assert_eq!(rings.to_stack.must_wake(), Ok(true), "the stack sleeps");
    world.server.signalled(app.bits);
    let mut buffer = [0; 2_000];
    let mut heard = None;
    world.until("the question", |world| {
        heard = world.peer.receive_from(there, &mut buffer);
        heard.is_some()
    });
    assert_eq!(heard, Some((8, SocketAddr::from((A, 53)))));
    // More answers than the ring holds: the rest waits in the socket, and comes when there is room.
    let count = RING as usize / 1_000 + 4;
    for number in 0..count {
        let answer = vec![number as u8; 1_000];
        world
            .peer
            .send_to(there, SocketAddr::from((A, 53)), &answer)
            .unwrap();
    }
    assert_eq!(rings.from_stack.sleep(), Ok(true));
    world.until("an event", |_| app.take(socket) & READY_RECEIVE != 0);
    let mut next = 0;
    world.until("all answers", |world| {
        while let Some((peer, length)) = rings.from_stack.peek().unwrap() {
            assert_eq!((peer, length), (to, 1_000));
            rings.from_stack.take(length, &mut buffer).unwrap();
            assert_eq!(buffer[..1_000], [next as u8; 1_000]);
            next += 1;
        }
        if rings.from_stack.must_wake().unwrap() {
            world.server.signalled(app.bits);
        }
        next == count
    });
}

#[test]
fn more_datagrams_than_a_queue_holds_go_out_with_one_signal() {
    for (many, bytes) in [(200, 4), (50, 1_000)] {
        send_with_one_signal(many, bytes);
    }
}

#[test]
fn a_burst_that_fills_the_queue_is_not_the_last() {
    const BURST: usize = 64;
    let mut world = World::new();
    let mut app = world.app(5, ALL);
    let (socket, mut rings) = world.bound_with(&app, 53, 4 * RING);
    let there = world.peer.bind(CLIENT, 9).unwrap();
    let to = SocketAddr::from((A, 53));
    // The server's Ethernet address is found.
    world.peer.send_to(there, to, b"first").unwrap();
    let mut buffer = [0; 100];
    let mut take = move |world: &mut World, wanted: usize| {
        let mut got = 0;
        assert_eq!(rings.from_stack.sleep(), Ok(true));
        world.until("the datagrams", |_| {
            app.take(socket);
            while let Some((_, length)) = rings.from_stack.peek().unwrap() {
                rings.from_stack.take(length, &mut buffer).unwrap();
                got += 1;
            }
            got == wanted
        });
    };
    take(&mut world, 1);
    for _ in 0..BURST {
        world.peer.send_to(there, to, b"burst").unwrap();
    }
    // All come with one look of the server's.
    let now = world.record.now.get();
    while world.peer.poll(now, &mut world.pipe) {}
    take(&mut world, BURST);
    world.peer.send_to(there, to, b"later").unwrap();
    take(&mut world, 1);
}

fn send_with_one_signal(many: usize, bytes: usize) {
    let mut world = World::new();
    let app = world.app(5, ALL);
    let (_, mut rings) = world.bound_with(&app, 53, 4 * RING);
    let there = world.peer.bind(CLIENT, 9).expect("a free port");
    let to = SocketAddr::from((B, 9));
    // The peer's Ethernet address is found, and the server sleeps.
    assert_eq!(rings.to_stack.push(to, b"0"), Ok(true));
    world.server.signalled(app.bits);
    world.until("the first", |world| world.peer.can_receive_from(there));
    while world.server.run() <= world.record.now.get() {}
    for _ in 0..many {
        assert_eq!(rings.to_stack.push(to, &vec![7; bytes]), Ok(true));
    }
    assert_eq!(rings.to_stack.must_wake(), Ok(true));
    world.server.signalled(app.bits);
    let driver = world.driver.as_mut().expect("attached");
    let mut sent = 0;
    loop {
        let wake = world.server.run();
        while driver.sent().is_some() {
            sent += 1;
        }
        // Where the server waits for room the driver wakes it.
        if !driver.transmitted.must_wake().expect("whole") && wake > world.record.now.get() {
            break;
        }
    }
    assert_eq!(sent, many, "of {bytes} bytes");
}

#[test]
fn datagrams_that_cannot_be_sent_are_counted_and_hold_nobody_up() {
    let mut world = World::new();
    let app = world.app(5, ALL);
    let (_, mut rings) = world.bound(&app, 53);
    let there = world.peer.bind(CLIENT, 9).unwrap();
    for (to, length) in [
        (SocketAddr::from(([0, 0, 0, 0], 9)), 1),
        (SocketAddr::from(([127, 0, 0, 1], 9)), 1),
        (SocketAddr::from((B, 0)), 1),
        (SocketAddr::from((B, 9)), 1_473),
    ] {
        assert_eq!(rings.to_stack.push(to, &vec![7; length]), Ok(true));
    }
    let to = SocketAddr::from((B, 9));
    assert_eq!(rings.to_stack.push(to, b"good"), Ok(true));
    world.server.signalled(app.bits);
    world.until("the good one", |world| world.peer.can_receive_from(there));
    assert_eq!(world.server.stack().counters().dropped_datagrams, 4);
}

#[test]
fn a_client_that_corrupts_a_datagram_ring_loses_that_socket_alone() {
    for word in [0, HEADER_BYTES / 4] {
        let mut world = World::new();
        let mut app = world.app(5, ALL);
        let (socket, mut rings) = world.bound(&app, 53);
        let (_, mut others) = world.bound(&app, 54);
        let to = SocketAddr::from((B, 9));
        assert_eq!(rings.to_stack.push(to, b"x"), Ok(true));
        let corrupted = rings.memory.word(word).unwrap();
        corrupted.store(u32::MAX, std::sync::atomic::Ordering::Relaxed);
        world.server.signalled(app.bits);
        world.until("the word of it", |_| app.take(socket) & READY_ERROR != 0);
        let status = world
            .call(5, |server, caller| server.status(caller, socket))
            .unwrap();
        assert_eq!(
            (status.state, status.error),
            (SocketState::Closed, Some(NetworkError::RingCorrupted))
        );
        let there = world.peer.bind(CLIENT, 9).unwrap();
        assert_eq!(others.to_stack.push(to, b"good"), Ok(true));
        world.server.signalled(app.bits);
        world.until("the other's", |world| world.peer.can_receive_from(there));
        world
            .call(5, |server, caller| server.close(caller, socket))
            .unwrap();
        world.bound(&app, 53);
    }
}

#[test]
fn the_sockets_that_a_client_names_are_looked_at_and_no_others() {
    let mut world = World::new();
    let mut app = world.app(5, ALL);
    let to = SocketAddr::from((B, 9));
    let there = world.peer.bind(CLIENT, 9).unwrap();
    let mut bound: Vec<_> = (53..56).map(|port| world.bound(&app, port)).collect();
    for (_, rings) in &mut bound {
        assert_eq!(rings.to_stack.push(to, b"x"), Ok(true));
    }
    let name = |app: &mut App, socket: u32| app.give(Notice::Touched(Socket(socket)));
    // One that is there, twice, and one that is not.
    for socket in [bound[1].0.0, bound[1].0.0, 99] {
        assert!(name(&mut app, socket));
    }
    world.server.signalled(app.touched_bits);
    let mut heard = Vec::new();
    let hear = |world: &mut World, heard: &mut Vec<u16>| {
        let mut buffer = [0; 9];
        while let Some((_, from)) = world.peer.receive_from(there, &mut buffer) {
            heard.push(from.port());
        }
        heard.len()
    };
    world.until("the one named", |world| hear(world, &mut heard) == 1);
    let end = world.record.now.get() + SECOND;
    world.until("a second", |world| world.record.now.get() >= end);
    hear(&mut world, &mut heard);
    assert_eq!(heard, [54], "and no other");
    // A full ring, and then the word to look at all.
    while name(&mut app, bound[0].0.0) {}
    world.server.signalled(app.bits);
    world.until("all", |world| hear(world, &mut heard) == 3);
    // The ring is empty by now, and one that cannot be ends the session.
    let put = app.memory.word(packet_ring_bytes(16) / 4).unwrap();
    put.store(12_345, std::sync::atomic::Ordering::Relaxed);
    world.server.signalled(app.touched_bits);
    let closed = world.record.closed.borrow();
    assert!(closed.contains(&app.bell) && closed.contains(&app.lifeline));
}
