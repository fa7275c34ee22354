//! Pairs of rings that go from one connection to the next, and connections that are accepted into offered
//! ones; clients that lie about both.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ipc::interface::network::{
    NetworkError, NetworkServer, Notice, READY_ACCEPT, READY_ACCEPTED, READY_END, RingPair, Socket,
    StreamGeometry,
};
use ipc::ring::{Descriptor, FIELDS, SharedMemory, StreamPair, stream_ring_bytes};
use netstack::tcp::{ConnectionId, End, Phase};

use crate::common::{A, CLIENT, Chance};
use crate::memory::Shared;
use crate::server::{ALL, App, AppStream, RING, World};

/// Pairs that a client of [`World`] may share: its 12 MiB of socket buffers are connections of 128 KiB.
const MOST_PAIRS: usize = 192;

impl World {
    fn listen(&mut self, app: &App, port: u16) -> Socket {
        self.call(app.badge, |server, caller| server.listen(caller, port, 16))
            .expect("listens")
    }

    fn dial(&mut self, port: u16) -> ConnectionId {
        let to = SocketAddr::from((A, port));
        self.peer.connect(CLIENT, to).expect("begun")
    }

    /// The app gives notices and rings.
    fn notify(&mut self, app: &mut App, notices: &[Notice]) {
        for notice in notices {
            assert!(app.give(*notice), "the ring is full");
        }
        self.server.signalled(app.touched_bits);
    }

    /// The app offers a pair.
    fn offer(&mut self, app: &mut App, listener: Socket, rings: RingPair) {
        self.notify(app, &[Notice::Offer { listener, rings }]);
    }

    /// The next connection that was accepted into an offered pair, with what was told of it.
    fn told(&mut self, app: &mut App) -> (Socket, RingPair, u32) {
        self.until("a connection", |_| {
            app.take(Socket(0));
            !app.accepted.is_empty()
        });
        let (socket, rings) = app.accepted.remove(0);
        (socket, rings, app.take(socket))
    }

    fn hear(&mut self, there: ConnectionId) -> Vec<u8> {
        let mut heard = Vec::new();
        self.peer.tcp().receive(there, |bytes| {
            heard.extend_from_slice(bytes);
            bytes.len()
        });
        heard
    }

    /// The peer says something, once it can.
    fn say(&mut self, there: ConnectionId, text: &[u8]) {
        self.until("the peer's connection", |world| {
            world.peer.tcp().phase(there) == Some(Phase::Open)
        });
        let mut rest = text;
        self.peer.tcp().send(there, |space| {
            let count = rest.len().min(space.len());
            space[..count].copy_from_slice(&rest[..count]);
            rest = &rest[count..];
            count
        });
        assert!(rest.is_empty());
    }

    /// The app has what the peer sends, and the peer what the app sends, and nothing else.
    fn passes(&mut self, app: &App, stream: &mut AppStream, there: ConnectionId, text: &[u8]) {
        self.say(there, text);
        let (mut came, mut heard) = (Vec::new(), Vec::new());
        assert_eq!(stream.to_stack.write(text), Ok(text.len()));
        let _ = stream.to_stack.must_wake();
        let bits = app.bits();
        self.server.signalled(bits);
        self.until("both texts", |world| {
            let mut buffer = [0; 64];
            let count = stream.from_stack.read(&mut buffer).expect("whole");
            came.extend_from_slice(&buffer[..count]);
            heard.extend(world.hear(there));
            came.len() >= text.len() && heard.len() >= text.len()
        });
        assert_eq!((came.as_slice(), heard.as_slice()), (text, text));
    }
}

#[test]
fn a_connection_is_accepted_into_offered_rings_and_the_next_one_has_them_without_a_call() {
    let mut world = World::new();
    let mut app = world.app(5, ALL);
    let listener = world.listen(&app, 80);
    let (pair, memory) = world.share(app.badge).expect("shared");
    world.offer(&mut app, listener, pair);
    for text in [b"the first one's words".as_slice(), b"other words"] {
        let there = world.dial(80);
        let (socket, rings, ready) = world.told(&mut app);
        assert_eq!(rings, pair);
        assert_ne!(ready & READY_ACCEPTED, 0);
        assert_eq!(app.take(listener), 0, "nobody has to ask the listener");
        let mut stream = AppStream::new(pair, &memory);
        assert_eq!(stream.from_stack.available(), Ok(0), "an empty ring");
        world.passes(&app, &mut stream, there, text);
        // Both notices at once: the pair is free when it is offered.
        let offer = Notice::Offer {
            listener,
            rings: pair,
        };
        world.notify(&mut app, &[Notice::Close(socket), offer]);
        world.until("the end", |world| world.peer.tcp().receive_finished(there));
        world.peer.tcp().finish_sending(there);
    }
    assert_eq!(world.server.stack().ledger().rings(), 1);
}

#[test]
fn what_came_before_a_connection_was_accepted_is_in_its_ring() {
    let mut world = World::new();
    let mut app = world.app(5, ALL);
    let listener = world.listen(&app, 80);
    let there = world.dial(80);
    world.say(there, b"early");
    world.peer.tcp().finish_sending(there);
    world.until("the listener's event", |_| {
        app.take(listener) & READY_ACCEPT != 0
    });
    for _ in 0..20 {
        world.step();
    }
    let (pair, memory) = world.share(app.badge).expect("shared");
    world.offer(&mut app, listener, pair);
    let (_, _, ready) = world.told(&mut app);
    assert_eq!(ready, READY_ACCEPTED | READY_END, "joined in one event");
    let mut stream = AppStream::new(pair, &memory);
    let mut buffer = [0; 64];
    assert_eq!(stream.from_stack.read(&mut buffer), Ok(5));
    assert_eq!(&buffer[..5], b"early");
    assert_eq!(stream.from_stack.is_ended(), Ok(true));
}

#[test]
fn connections_beyond_the_offers_are_told_of_and_can_be_asked_for() {
    let mut world = World::new();
    let mut app = world.app(5, ALL);
    let listener = world.listen(&app, 80);
    let (pair, _) = world.share(app.badge).expect("shared");
    world.offer(&mut app, listener, pair);
    let (_, _) = (world.dial(80), world.dial(80));
    world.until("the listener's event", |_| {
        app.take(listener) & READY_ACCEPT != 0
    });
    let (first, ..) = world.told(&mut app);
    let (second, stream) = world.accept(&app, listener).expect("one waits");
    assert!(first != second && stream.pair != pair);
    assert!(world.accept(&app, listener).is_none());
}

#[test]
fn no_byte_of_a_connection_reaches_the_next_one_of_its_rings() {
    let mut world = World::new();
    let mut app = world.app(5, ALL);
    let listener = world.listen(&app, 80);
    let (pair, memory) = world.share(app.badge).expect("shared");
    for by_notice in [true, false] {
        world.offer(&mut app, listener, pair);
        let there = world.dial(80);
        let (socket, ..) = world.told(&mut app);
        // Received and never read; written and never sent, for the connection is reset.
        world.say(there, &[b'r'; 3_000]);
        let mut stream = AppStream::new(pair, &memory);
        world.until("what is not read", |_| {
            stream.from_stack.available() == Ok(3_000)
        });
        assert_eq!(stream.to_stack.write(&[b'w'; 5_000]), Ok(5_000));
        match by_notice {
            true => world.notify(&mut app, &[Notice::Close(socket)]),
            false => {
                let reset = world.call(5, |server, caller| server.reset(caller, socket));
                assert_eq!(reset, Ok(()));
            }
        }
        world.until("the reset", |world| {
            world.peer.tcp().phase(there) == Some(Phase::Ended(End::Reset))
        });
        world.offer(&mut app, listener, pair);
        let there = world.dial(80);
        let (socket, ..) = world.told(&mut app);
        let mut stream = AppStream::new(pair, &memory);
        world.passes(&app, &mut stream, there, b"new");
        world.notify(&mut app, &[Notice::Close(socket)]);
    }
}

#[test]
fn a_pair_is_named_by_one_socket_at_a_time_and_taken_back_by_nobody_else() {
    let mut world = World::new();
    let (mut app, other) = (world.app(5, ALL), world.app(6, ALL));
    let listener = world.listen(&app, 80);
    let (pair, memory) = world.share(5).expect("shared");
    let unshare = |world: &mut World, badge: u64, rings: RingPair| {
        world.call(badge, |server, caller| server.unshare(caller, rings))
    };
    let connect = |world: &mut World, badge: u64, rings: RingPair| {
        let to = SocketAddr::from((crate::common::B, 7));
        world.call(badge, |server, caller| server.connect(caller, to, rings))
    };
    let (nowhere, in_use) = (
        Err(NetworkError::NoSuchRings),
        Err(NetworkError::RingsInUse),
    );
    assert_eq!(unshare(&mut world, 6, pair), nowhere, "another session's");
    assert_eq!(connect(&mut world, 6, pair).map(drop), nowhere);
    assert_eq!(
        connect(&mut world, 5, RingPair(u32::MAX)).map(drop),
        nowhere
    );
    // Offered, it is nobody else's, but can be taken back; then the listener has none.
    world.offer(&mut app, listener, pair);
    assert_eq!(connect(&mut world, 5, pair).map(drop), in_use);
    assert_eq!(unshare(&mut world, 5, pair), Ok(()));
    assert_eq!(unshare(&mut world, 5, pair), nowhere);
    world.dial(80);
    world.until("the listener's event", |_| {
        app.take(listener) & READY_ACCEPT != 0
    });
    // The next one has its number, and the listener no old offer of it.
    let (again, _) = world.share(5).expect("shared");
    assert_eq!(again, pair);
    assert!(app.accepted.is_empty());
    let socket = connect(&mut world, 5, pair).expect("begun");
    assert_eq!(connect(&mut world, 5, pair).map(drop), in_use);
    assert_eq!(unshare(&mut world, 5, pair), in_use);
    let closed = world.call(5, |server, caller| server.close(caller, socket));
    assert_eq!(closed, Ok(()));
    assert_eq!(unshare(&mut world, 5, pair), Ok(()));
    // A pair offered to a listener that is closed is free.
    let quiet = world.listen(&app, 81);
    let (pair, _) = world.share(5).expect("shared");
    world.offer(&mut app, quiet, pair);
    world.notify(&mut app, &[Notice::Close(quiet)]);
    assert!(connect(&mut world, 5, pair).is_ok());
    // Memory that is too small, and rings that cannot be.
    let record = Rc::clone(&world.record);
    for (bytes, ring_bytes) in [
        (StreamPair::bytes_needed(RING) - 4096, RING),
        (memory.bytes(), 3_000),
        (memory.bytes(), 2_048),
        (8 << 20, 2 << 20),
    ] {
        let handle = record.share(&Shared::new(bytes));
        let geometry = StreamGeometry { ring_bytes };
        let shared = world.call(other.badge, |server, caller| {
            server.share(caller, geometry, handle)
        });
        assert_eq!(shared, Err(NetworkError::OutOfRange));
    }
}

#[test]
fn offers_are_taken_in_their_order_and_those_taken_back_have_none() {
    let mut world = World::new();
    let mut app = world.app(5, ALL);
    let listener = world.listen(&app, 80);
    let pairs: Vec<RingPair> = (0..3).map(|_| world.share(5).expect("shared").0).collect();
    for pair in &pairs {
        world.offer(&mut app, listener, *pair);
    }
    let first = pairs[0];
    let unshared = world.call(5, |server, caller| server.unshare(caller, first));
    assert_eq!(unshared, Ok(()));
    assert_eq!(world.share(5).expect("shared").0, first, "the same number");
    world.offer(&mut app, listener, first);
    let taken = [(); 3].map(|()| {
        world.dial(80);
        world.told(&mut app).1
    });
    assert_eq!(taken, [pairs[1], pairs[2], first]);
}

#[test]
fn a_client_shares_a_pair_for_each_connection_that_it_may_have_and_its_death_frees_them() {
    let mut world = World::new();
    let (mut app, _other) = (world.app(5, ALL), world.app(6, ALL));
    let shared: Vec<Shared> = (0..)
        .map_while(|_| world.share(5).ok().map(|(_, memory)| memory))
        .collect();
    assert_eq!(shared.len(), MOST_PAIRS);
    let mapped = || {
        let held = shared
            .iter()
            .filter(|memory| Arc::strong_count(&memory.0) > 1);
        held.count()
    };
    assert_eq!(mapped(), MOST_PAIRS);
    assert_eq!(world.share(5).err(), Some(NetworkError::Exhausted));
    assert!(world.share(6).is_ok(), "another one has room");
    let listener = world.listen(&app, 80);
    world.offer(&mut app, listener, RingPair(0));
    world.offer(&mut app, listener, RingPair(1));
    let last = RingPair(MOST_PAIRS as u32 - 1);
    let unshared = world.call(5, |server, caller| server.unshare(caller, last));
    assert_eq!((unshared, mapped()), (Ok(()), MOST_PAIRS - 1));
    let there = world.dial(80);
    world.told(&mut app);
    world.server.badge_closed(5);
    world.until("the reset", |world| {
        world.peer.tcp().phase(there) == Some(Phase::Ended(End::Reset))
    });
    let ledger = world.server.stack().ledger();
    assert_eq!((ledger.rings(), ledger.sockets(5)), (1, 0));
    assert_eq!(mapped(), 0);
}

#[test]
fn what_a_client_lies_in_notices_costs_nobody_else() {
    let mut world = World::new();
    let (mut liar, mut good) = (world.app(5, ALL), world.app(6, ALL));
    let listener = world.listen(&good, 81);
    let (pair, memory) = world.share(6).expect("shared");
    world.offer(&mut good, listener, pair);
    let own = world.listen(&liar, 80);
    for _ in 0..4 {
        world.share(5).expect("shared");
    }
    let mut chance = Chance(0x0ff3_5eed);
    for _ in 0..20_000 {
        let number = match chance.next() % 8 {
            0 => chance.next() as u32,
            _ => chance.next() as u32 % 8,
        };
        let socket = Socket(number);
        let rings = RingPair(chance.next() as u32 % 6);
        let notice = match chance.next() % 8 {
            // The listener is to stay: it is closed below.
            0 if socket != own => Notice::Close(socket),
            1 => Notice::Touched(socket),
            2 => Notice::Offer {
                listener: socket,
                rings,
            },
            _ => Notice::Offer {
                listener: own,
                rings,
            },
        };
        if !liar.give(notice) || chance.hits(200) {
            world.server.signalled(liar.touched_bits);
        }
        if chance.hits(5) {
            let there = world.dial(80);
            world.step();
            let now = world.record.now.get();
            world.peer.tcp().abort(now, there);
        }
        liar.take(own);
    }
    world.server.signalled(liar.touched_bits);
    world.notify(&mut liar, &[Notice::Close(own)]);
    let there = world.dial(81);
    let (_, rings, _) = world.told(&mut good);
    assert_eq!(rings, pair);
    let mut stream = AppStream::new(pair, &memory);
    world.passes(&good, &mut stream, there, b"goes on");
    let ledger = world.server.stack().ledger();
    assert_eq!(ledger.rings(), 5, "four of the liar's");
    // A kind that there is not ends the session, and no other.
    let unknown = Descriptor {
        length: 3,
        ..Descriptor::default()
    };
    assert!(liar.give_raw(unknown));
    world.server.signalled(liar.touched_bits);
    let asked = world.call(5, |server, caller| server.status(caller, own));
    assert_eq!(asked, Err(NetworkError::NotAttached));
    assert_eq!(world.server.stack().ledger().rings(), 1);
    world.passes(&good, &mut stream, there, b"still");
}

#[test]
fn lies_in_a_pair_cost_the_connection_that_has_it_and_not_the_next() {
    let mut world = World::new();
    let mut app = world.app(5, ALL);
    let listener = world.listen(&app, 80);
    let (pair, memory) = world.share(5).expect("shared");
    let second = stream_ring_bytes(RING) / 4;
    for field in FIELDS {
        for base in [0, second] {
            for lie in [0x7fff_ffff, 0xdead_beef, u32::MAX] {
                let word = memory.word(base + field.word).expect("there");
                // Before the hand-over, and after.
                word.store(lie, Ordering::Relaxed);
                world.offer(&mut app, listener, pair);
                let there = world.dial(80);
                let (socket, ..) = world.told(&mut app);
                let mut stream = AppStream::new(pair, &memory);
                world.passes(&app, &mut stream, there, b"whole");
                word.store(lie, Ordering::Relaxed);
                world.server.signalled(app.bits());
                // The status has the stack look at both counts.
                let status = world.call(5, |server, caller| server.status(caller, socket));
                let lost = status.expect("a socket").error.is_some();
                let count = if base == 0 { "put" } else { "taken" };
                let lie = format!("{} = {lie:#x} at {base}", field.name);
                assert_eq!(lost, field.name == count, "{lie}");
                world.notify(&mut app, &[Notice::Close(socket)]);
            }
        }
    }
}

#[test]
fn every_accepted_connection_is_told_with_its_pair_however_full_the_events_are() {
    let mut world = World::new();
    let mut app = world.app(5, ALL);
    let mut offered = Vec::new();
    for port in 1_000..1_040 {
        let listener = world.listen(&app, port);
        let (pair, _) = world.share(5).expect("shared");
        world.offer(&mut app, listener, pair);
        offered.push(pair);
        world.dial(port);
    }
    for _ in 0..60 {
        world.step();
    }
    let mut told = Vec::new();
    while told.len() < offered.len() {
        let (_, rings, _) = world.told(&mut app);
        told.push(rings);
        world.server.signalled(app.touched_bits);
    }
    told.sort_unstable();
    assert_eq!(told, offered);
}
