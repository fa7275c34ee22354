//! The server between fake rings: many connections, little room, and a network stack that goes away.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ipc::interface::network::{
    Event, READY_ACCEPT, READY_ACCEPTED, READY_ERROR, READY_RECEIVE, RingPair, Socket,
};
use ipc::ring::{
    PacketConsumer, PacketProducer, SharedMemory, StreamConsumer, StreamPair, StreamProducer,
    packet_ring_bytes,
};
use web::connection::IDLE;
use web::page::Snapshot;
use web::pattern;
use web::server::{Lost, MAX_CONNECTIONS, Network, RING_BYTES, Server};

const LISTENER: Socket = Socket(1);
const EVENTS: u32 = 64;

#[derive(Clone)]
struct Shared(Arc<[AtomicU32]>);

impl Shared {
    fn new(bytes: usize) -> Shared {
        Shared((0..bytes.div_ceil(4)).map(|_| AtomicU32::new(0)).collect())
    }
}

impl SharedMemory for Shared {
    fn bytes(&self) -> usize {
        self.0.len() * 4
    }

    fn words<const N: usize>(&self, first: usize) -> Option<&[AtomicU32; N]> {
        self.0.get(first..)?.first_chunk()
    }

    fn read(&self, offset: usize, into: &mut [u8]) -> Option<()> {
        (offset.checked_add(into.len())? <= self.bytes()).then_some(())?;
        for (position, byte) in into.iter_mut().enumerate() {
            let at = offset + position;
            *byte = self.0[at / 4].load(Ordering::Relaxed).to_le_bytes()[at % 4];
        }
        Some(())
    }

    fn write(&self, offset: usize, from: &[u8]) -> Option<()> {
        (offset.checked_add(from.len())? <= self.bytes()).then_some(())?;
        for (position, byte) in from.iter().enumerate() {
            let at = offset + position;
            let mut bytes = self.0[at / 4].load(Ordering::Relaxed).to_le_bytes();
            bytes[at % 4] = *byte;
            self.0[at / 4].store(u32::from_le_bytes(bytes), Ordering::Relaxed);
        }
        Some(())
    }
}

/// What the fake network stack knows.
struct Stack {
    now: u64,
    events: PacketProducer<Shared>,
    /// The pairs of rings, by their numbers.
    pairs: Vec<Shared>,
    /// Connections that are not accepted yet, with the pairs that they are to have.
    waiting: VecDeque<(Socket, RingPair)>,
    /// How many pairs are offered.
    offered: usize,
    closed: Vec<Socket>,
    touched: Vec<Socket>,
    gone: bool,
    /// There is no memory for another connection.
    shortage: bool,
    /// How often pairs were to be offered.
    asked: usize,
}

impl Stack {
    fn tell(&mut self, socket: Socket, ready: u32, rings: Option<RingPair>) {
        let event = Event {
            socket,
            ready,
            rings,
        };
        assert_eq!(self.events.push(event.into()), Ok(true));
    }

    /// Accepts as many connections as pairs are offered.
    fn accept(&mut self) {
        while self.offered > 0
            && let Some((socket, rings)) = self.waiting.pop_front()
        {
            self.offered -= 1;
            self.tell(socket, READY_ACCEPTED, Some(rings));
        }
    }
}

struct FakeNetwork(Rc<RefCell<Stack>>);

impl Network for FakeNetwork {
    type Memory = Shared;
    type Events = Shared;

    fn now(&self) -> u64 {
        self.0.borrow().now
    }

    fn offer(&mut self, most: usize, starved: bool) -> Result<bool, Lost> {
        let mut stack = self.0.borrow_mut();
        stack.asked += 1;
        if stack.gone {
            return Err(Lost);
        }
        if !stack.shortage {
            let wanted = if starved { 2 * stack.offered + 2 } else { 1 };
            stack.offered = stack.offered.max(wanted.min(most));
        }
        let is_any = stack.offered > 0;
        stack.accept();
        Ok(is_any)
    }

    fn accepted(&mut self, rings: RingPair) -> Result<Shared, Lost> {
        let stack = self.0.borrow();
        stack.pairs.get(rings.0 as usize).cloned().ok_or(Lost)
    }

    fn close(&mut self, socket: Socket, _: Shared) -> Result<(), Lost> {
        self.0.borrow_mut().closed.push(socket);
        Ok(())
    }

    fn touch(&mut self, socket: Socket) {
        self.0.borrow_mut().touched.push(socket);
    }

    fn ring(&mut self) {}

    fn snapshot(&mut self) -> Snapshot {
        Snapshot::default()
    }
}

struct World {
    stack: Rc<RefCell<Stack>>,
    server: Server<FakeNetwork>,
    next: u32,
}

/// A client, as the network stack's end of the rings has it.
struct Peer {
    socket: Socket,
    memory: Shared,
    from_server: StreamConsumer<Shared>,
    to_server: StreamProducer<Shared>,
    answer: Vec<u8>,
}

impl World {
    fn new() -> World {
        let memory = Shared::new(packet_ring_bytes(EVENTS));
        let events = PacketProducer::new(memory.clone(), 0, EVENTS).expect("fits");
        let stack = Rc::new(RefCell::new(Stack {
            now: 0,
            events,
            pairs: vec![],
            waiting: VecDeque::new(),
            offered: 0,
            closed: vec![],
            touched: vec![],
            gone: false,
            shortage: false,
            asked: 0,
        }));
        let consumer = PacketConsumer::new(memory, 0, EVENTS).expect("fits");
        let server = Server::new(FakeNetwork(Rc::clone(&stack)), LISTENER, consumer);
        World {
            stack,
            server,
            next: 10,
        }
    }

    fn tell(&mut self, socket: Socket, ready: u32) {
        self.stack.borrow_mut().tell(socket, ready, None);
    }

    fn dial(&mut self) -> Peer {
        let memory = Shared::new(StreamPair::bytes_needed(RING_BYTES));
        let socket = Socket(self.next);
        self.next += 1;
        let mut stack = self.stack.borrow_mut();
        let rings = RingPair(stack.pairs.len() as u32);
        stack.pairs.push(memory.clone());
        stack.waiting.push_back((socket, rings));
        stack.accept();
        if !stack.waiting.is_empty() {
            stack.tell(LISTENER, READY_ACCEPT, None);
        }
        let (from_server, to_server) = StreamPair::peer(memory.clone(), RING_BYTES).expect("fits");
        Peer {
            socket,
            memory,
            from_server,
            to_server,
            answer: vec![],
        }
    }

    /// Nothing is offered, and there is no memory for another pair of rings.
    fn shortage(&mut self) {
        let mut stack = self.stack.borrow_mut();
        stack.offered = 0;
        stack.shortage = true;
    }

    /// Runs the server, as often as it is woken.
    fn run(&mut self) -> u64 {
        loop {
            let wake = self.server.run().expect("not lost");
            if !self.stack.borrow_mut().events.must_wake().expect("whole") {
                return wake;
            }
        }
    }
}

impl Peer {
    fn ask(&mut self, request: &str) {
        assert_eq!(self.to_server.write(request.as_bytes()), Ok(request.len()));
    }

    /// Takes up to so many bytes of the answer.
    fn take(&mut self, limit: usize) {
        let mut buffer = vec![0; limit];
        let count = self.from_server.read(&mut buffer).expect("whole");
        self.answer.extend_from_slice(&buffer[..count]);
    }
}

const GET_PAGE: &str = "GET / HTTP/1.1\r\nHost: q\r\n\r\n";

#[test]
fn a_request_is_answered_and_the_connection_closed_after_both_ends() {
    let mut world = World::new();
    let mut peer = world.dial();
    peer.ask("GET / HTTP/1.1\r\nHost: q\r\nConnection: close\r\n\r\n");
    world.run();
    peer.take(10_000);
    assert!(String::from_utf8_lossy(&peer.answer).ends_with("</html>\n"));
    assert_eq!(peer.from_server.is_ended(), Ok(true));
    assert!(world.stack.borrow().closed.is_empty());
    peer.to_server.close().unwrap();
    world.run();
    assert_eq!(world.stack.borrow().closed, [peer.socket]);
    assert_eq!(world.server.connections(), 0);
}

#[test]
fn a_large_answer_goes_as_the_ring_has_room_and_others_are_served_meanwhile() {
    let mut world = World::new();
    let (mut slow, mut quick) = (world.dial(), world.dial());
    slow.ask("GET /bytes/200000 HTTP/1.1\r\nHost: q\r\n\r\n");
    world.run();
    quick.ask(GET_PAGE);
    world.tell(quick.socket, READY_RECEIVE);
    world.run();
    quick.take(10_000);
    assert!(quick.answer.starts_with(b"HTTP/1.1 200"));
    assert_eq!(
        slow.from_server.available(),
        Ok(RING_BYTES as usize),
        "full, and no more"
    );
    while slow.answer.len() < 200_000 {
        let before = slow.answer.len();
        slow.take(20_000);
        if slow.from_server.must_wake().unwrap() {
            world.run();
        }
        assert!(slow.answer.len() > before, "stands still at {before}");
    }
    slow.take(10_000);
    let body = slow.answer.len() - 200_000;
    let mut expected = vec![0; 200_000];
    pattern::fill(0, &mut expected);
    assert_eq!(slow.answer[body..], expected[..]);
}

#[test]
fn the_doorbell_is_rung_for_sleepers_only() {
    let mut world = World::new();
    let mut peer = world.dial();
    world.run();
    peer.ask(GET_PAGE);
    world.run();
    assert_eq!(world.stack.borrow().touched, [], "nobody sleeps");
    peer.take(10_000);
    assert_eq!(peer.from_server.sleep(1), Ok(true));
    peer.ask(GET_PAGE);
    world.run();
    assert_eq!(world.stack.borrow().touched, [peer.socket]);
}

#[test]
fn more_connections_than_there_is_room_for_wait_their_turn() {
    let mut world = World::new();
    let mut peers: Vec<Peer> = (0..MAX_CONNECTIONS + 3).map(|_| world.dial()).collect();
    world.run();
    assert_eq!(world.server.connections(), MAX_CONNECTIONS);
    let gone = peers.remove(0);
    world.tell(gone.socket, READY_ERROR);
    world.run();
    assert_eq!(world.server.connections(), MAX_CONNECTIONS);
    assert_eq!(world.stack.borrow().waiting.len(), 2);
    assert_eq!(world.stack.borrow().closed, [gone.socket]);
}

/// No event tells of those that wait already, so the server must think of them itself.
#[test]
fn connections_without_memory_are_taken_when_one_ends_or_in_time() {
    let mut world = World::new();
    let first = world.dial();
    world.run();
    world.shortage();
    let (second, third) = (world.dial(), world.dial());
    let wake = world.run();
    let asked = world.stack.borrow().asked;
    world.run();
    assert_eq!(world.stack.borrow().asked, asked, "not again and again");
    assert_eq!(world.server.connections(), 1);
    assert!(wake < IDLE);
    world.stack.borrow_mut().shortage = false;
    world.tell(first.socket, READY_ERROR);
    world.run();
    assert_eq!(world.server.connections(), 2);
    for socket in [second.socket, third.socket] {
        world.tell(socket, READY_ERROR);
    }
    world.run();
    world.shortage();
    world.dial();
    let wake = world.run();
    world.stack.borrow_mut().shortage = false;
    world.run();
    assert_eq!(world.server.connections(), 0);
    world.stack.borrow_mut().now = wake;
    world.run();
    assert_eq!(world.server.connections(), 1);
}

#[test]
fn an_idle_connection_is_closed_in_time() {
    let mut world = World::new();
    let peer = world.dial();
    let wake = world.run();
    assert_eq!(wake, IDLE);
    world.stack.borrow_mut().now = wake;
    let wake = world.run();
    assert!(
        world.stack.borrow().closed.is_empty(),
        "it waits for the other end"
    );
    world.stack.borrow_mut().now = wake;
    world.run();
    assert_eq!(world.stack.borrow().closed, [peer.socket]);
}

#[test]
fn stopping_answers_what_was_asked_and_closes_the_rest() {
    let mut world = World::new();
    let (idle, mut asked, mut slow) = (world.dial(), world.dial(), world.dial());
    slow.ask("GET /bytes/200000 HTTP/1.1\r\nHost: q\r\n\r\n");
    world.run();
    assert_eq!(world.server.connections(), 3);
    asked.ask(GET_PAGE);
    world.server.stop();
    world.run();
    assert_eq!(world.stack.borrow().closed, [idle.socket, asked.socket]);
    world.stack.borrow_mut().offered = 0;
    asked.take(10_000);
    assert!(asked.answer.starts_with(b"HTTP/1.1 200"));
    assert_eq!(asked.from_server.is_ended(), Ok(true), "and no more");
    let late = world.dial();
    world.run();
    assert_eq!(
        world.stack.borrow().waiting.len(),
        1,
        "{:?} waits",
        late.socket
    );
    while world.server.connections() > 0 {
        let before = slow.answer.len();
        slow.take(20_000);
        world.run();
        assert!(slow.answer.len() > before, "stands still at {before}");
    }
    slow.take(40_000);
    assert!(slow.answer.len() > 200_000, "the answer is whole");
    assert_eq!(slow.from_server.is_ended(), Ok(true));
}

#[test]
fn a_network_stack_that_is_gone_or_lies_is_lost() {
    let mut world = World::new();
    world.stack.borrow_mut().gone = true;
    world.tell(LISTENER, READY_ACCEPT);
    assert_eq!(world.server.run(), Err(Lost));
    let mut world = World::new();
    let peer = world.dial();
    world.run();
    // The second ring's count of what was put in.
    let word = ipc::ring::stream_ring_bytes(RING_BYTES) / 4;
    peer.memory.0[word].store(u32::MAX / 2, Ordering::Relaxed);
    assert_eq!(world.server.run(), Err(Lost));
}
