//! The resolver against fake name servers, which answer over UDP and TCP as each test wants, or worse.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

use netstack::config::Config;
use netstack::names::{Asked, NameError};
use netstack::stack::Stack;
use netstack::tcp::{ConnectionId, ListenerId};
use netstack::time::{Nanoseconds, SECOND};
use netstack::udp::UdpId;

use smoltcp::wire::{EthernetProtocol, Ipv4Packet, UdpPacket};

use crate::common::{CLIENT, Chance, End, Lane, card};
use crate::segment::{Segment, Server};

/// Another client's badge.
const OTHER: u64 = 8;
/// Flags of an answer: a response, recursion desired and available.
const ANSWER: u16 = 0x8180;
const TRUNCATED: u16 = 0x8380;
const NO_SUCH_HOST: u16 = ANSWER | 3;
const SERVER_FAILURE: u16 = ANSWER | 2;
const A: u16 = 1;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const AAAA: u16 = 28;

/// A question as a server sees it.
#[derive(Clone, Debug)]
struct Query {
    message: Vec<u8>,
    /// The end of the name.
    end: usize,
    kind: u16,
    from: SocketAddr,
    tcp: bool,
}

impl Query {
    fn read(message: Vec<u8>, from: SocketAddr, tcp: bool) -> Query {
        let mut end = 12;
        while message[end] != 0 {
            end += 1 + usize::from(message[end]);
        }
        end += 1;
        let kind = u16::from_be_bytes([message[end], message[end + 1]]);
        Query {
            message,
            end,
            kind,
            from,
            tcp,
        }
    }

    fn id(&self) -> u16 {
        u16::from_be_bytes([self.message[0], self.message[1]])
    }

    /// The name with dots, in small letters.
    fn name(&self) -> String {
        let mut name = String::new();
        let mut rest = &self.message[12..self.end];
        while let [length, after @ ..] = rest
            && *length > 0
        {
            let (label, after) = after.split_at(usize::from(*length));
            name += &String::from_utf8_lossy(&label.to_ascii_lowercase());
            name.push('.');
            rest = after;
        }
        name.pop();
        name
    }

    fn extended(&self) -> bool {
        self.message[11] == 1
    }

    /// An answer with these records, the last `authority` of them in that section.
    fn answer(&self, flags: u16, records: &[Vec<u8>], authority: usize) -> Vec<u8> {
        let mut bytes = self.message[..self.end + 4].to_vec();
        bytes[2..4].copy_from_slice(&flags.to_be_bytes());
        let counts = [records.len() - authority, authority, 0];
        for (place, count) in counts.into_iter().enumerate() {
            bytes[6 + 2 * place..][..2].copy_from_slice(&(count as u16).to_be_bytes());
        }
        bytes.extend(records.concat());
        bytes
    }
}

/// A record of the question's name.
fn record(kind: u16, seconds: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xc0, 12];
    bytes.extend(kind.to_be_bytes());
    bytes.extend([0, 1]);
    bytes.extend(seconds.to_be_bytes());
    bytes.extend((data.len() as u16).to_be_bytes());
    bytes.extend(data);
    bytes
}

fn address(last: u8) -> Vec<u8> {
    record(A, 60, &[192, 0, 2, last])
}

fn v6_address(last: u8) -> Vec<u8> {
    let mut data = [0; 16];
    data[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    data[15] = last;
    record(AAAA, 60, &data)
}

fn alias(target: &str) -> Vec<u8> {
    let mut data = vec![];
    for label in target.split('.') {
        data.push(label.len() as u8);
        data.extend(label.as_bytes());
    }
    data.push(0);
    record(CNAME, 60, &data)
}

fn authority(seconds: u32) -> Vec<u8> {
    let mut data = vec![0, 0];
    data.extend([0; 16]);
    data.extend(seconds.to_be_bytes());
    record(SOA, 3_600, &data)
}

fn found(last: u8) -> Result<Vec<IpAddr>, NameError> {
    Ok(vec![IpAddr::from([192, 0, 2, last])])
}

/// What a server does with a question: the messages that it sends.
type Behaviour = Box<dyn FnMut(&Query) -> Vec<Vec<u8>>>;

/// A name server on a stack of its own.
struct NameServer {
    stack: Stack,
    end: End,
    socket: UdpId,
    listener: ListenerId,
    streams: Vec<(ConnectionId, Vec<u8>)>,
    behaviour: Behaviour,
    asked: Vec<Query>,
}

impl NameServer {
    fn new(last: u8, behaviour: Behaviour) -> NameServer {
        let mut config = Config::default();
        config.apply(&format!("ip=10.0.0.{last}/24")).expect("good");
        let mut stack = Stack::new(&config, card(last), SECOND, u64::from(last));
        let socket = stack.bind(CLIENT, 53).expect("free");
        let listener = stack.listen(CLIENT, None, 53, 8).expect("free");
        NameServer {
            stack,
            end: end(u64::from(last)),
            socket,
            listener,
            streams: vec![],
            behaviour,
            asked: vec![],
        }
    }

    fn work(&mut self, now: Nanoseconds) -> bool {
        self.end.now = now;
        let busy = self.stack.poll(now, &mut self.end);
        let mut buffer = [0; 2048];
        while let Some((length, from)) = self.stack.receive_from(self.socket, &mut buffer) {
            let query = Query::read(buffer[..length].to_vec(), from, false);
            self.asked.push(query.clone());
            for message in (self.behaviour)(&query) {
                let _ = self.stack.send_to(self.socket, from, &message);
            }
        }
        while let Some(stream) = self.stack.tcp().accept(self.listener) {
            self.streams.push((stream, vec![]));
        }
        for (stream, received) in &mut self.streams {
            self.stack.tcp().receive(*stream, |bytes| {
                received.extend(bytes);
                bytes.len()
            });
            let whole = received.first_chunk().is_some_and(|length| {
                received.len() == 2 + usize::from(u16::from_be_bytes(*length))
            });
            if whole {
                let from = self.stack.tcp().flow(*stream).expect("open").remote;
                let query = Query::read(received.split_off(2), from, true);
                received.clear();
                self.asked.push(query.clone());
                let mut bytes = vec![];
                for message in (self.behaviour)(&query) {
                    bytes.extend((message.len() as u16).to_be_bytes());
                    bytes.extend(message);
                }
                let mut rest = &bytes[..];
                self.stack.tcp().send(*stream, |space| {
                    let count = rest.len().min(space.len());
                    let (head, tail) = rest.split_at(count);
                    space[..count].copy_from_slice(head);
                    rest = tail;
                    count
                });
            }
            if self.stack.tcp().receive_finished(*stream) {
                self.stack.tcp().finish_sending(*stream);
            }
        }
        busy | self.stack.poll(now, &mut self.end)
    }
}

fn end(seed: u64) -> End {
    End {
        now: SECOND,
        incoming: Lane::new(seed + 1),
        outgoing: Lane::new(seed + 2),
        plugged: true,
    }
}

/// A stack that asks, servers 10.0.0.2 and on, and a switch between them.
struct World {
    now: Nanoseconds,
    stack: Stack,
    end: End,
    servers: Vec<NameServer>,
}

impl World {
    fn new(behaviours: Vec<Behaviour>) -> World {
        World::with("ip=10.0.0.1/24", behaviours)
    }

    fn with(addresses: &str, behaviours: Vec<Behaviour>) -> World {
        let mut config = Config::default();
        for argument in addresses.split(' ') {
            config.apply(argument).expect("good");
        }
        let servers: Vec<NameServer> = (2..)
            .zip(behaviours)
            .map(|(last, behaviour)| NameServer::new(last, behaviour))
            .collect();
        for last in 2..2 + servers.len() {
            config.apply(&format!("dns=10.0.0.{last}")).expect("good");
        }
        let mut world = World {
            now: SECOND,
            stack: Stack::new(&config, card(1), SECOND, 77),
            end: end(0),
            servers,
        };
        world.introduce();
        if addresses.contains("::") {
            // Until nobody has objected to the addresses of IPv6.
            world.pass(3 * SECOND);
        }
        world
    }

    /// Has everyone learn the others' hardware addresses, so that no test waits for them.
    fn introduce(&mut self) {
        for server in &mut self.servers {
            let nobody = SocketAddr::from(([10, 0, 0, 1], 9));
            let sent = server.stack.send_to(server.socket, nobody, b"here");
            sent.expect("queued");
        }
        self.pass(SECOND / 10);
    }

    /// Carries frames to those whom they are for.
    fn switch(&mut self) {
        let due = |lane: &Rc<RefCell<Lane>>, now: Nanoseconds| {
            let mut lane = lane.borrow_mut();
            let due = lane.frames.front().is_some_and(|(at, _)| *at <= now);
            due.then(|| lane.frames.pop_front()).flatten()
        };
        while let Some((at, frame)) = due(&self.end.outgoing, self.now) {
            for (last, server) in (2..).zip(&self.servers) {
                if frame[0] & 1 == 1 || frame[..6] == card(last).mac {
                    let mut lane = server.end.incoming.borrow_mut();
                    lane.frames.push_back((at, frame.clone()));
                }
            }
        }
        for server in &self.servers {
            while let Some((at, frame)) = due(&server.end.outgoing, self.now) {
                if frame[0] & 1 == 1 || frame[..6] == card(1).mac {
                    let mut lane = self.end.incoming.borrow_mut();
                    lane.frames.push_back((at, frame));
                }
            }
        }
    }

    fn step(&mut self) {
        self.step_until(u64::MAX);
    }

    /// Does what is to do now, and lets the clock go on to the next moment with something to do, but not
    /// beyond `end`.
    fn step_until(&mut self, end: Nanoseconds) {
        if !self.work() {
            self.sleep(end);
        }
    }

    /// Does what is to do now; true: there is more.
    fn work(&mut self) -> bool {
        self.switch();
        self.end.now = self.now;
        let mut busy = self.stack.poll(self.now, &mut self.end);
        for server in &mut self.servers {
            busy |= server.work(self.now);
        }
        busy | self.stack.poll(self.now, &mut self.end)
    }

    fn sleep(&mut self, end: Nanoseconds) {
        let mut next = self
            .stack
            .deadline(self.now)
            .into_iter()
            .collect::<Vec<_>>();
        let lanes = self
            .servers
            .iter()
            .flat_map(|server| [&server.end.outgoing]);
        for lane in lanes.chain([&self.end.outgoing]) {
            next.extend(lane.borrow().frames.front().map(|(at, _)| *at));
        }
        for server in &mut self.servers {
            next.extend(server.stack.deadline(self.now));
        }
        let next = next.into_iter().min().unwrap_or(u64::MAX);
        self.now = next.clamp(self.now + 10_000, self.now + SECOND).min(end);
    }

    /// Asks and waits for the answer.
    fn resolve(&mut self, host: &str) -> Result<Vec<IpAddr>, NameError> {
        let query = match self.stack.resolve(self.now, CLIENT, host)? {
            Asked::Known(list) => return Ok(list),
            Asked::Later(query) => query,
        };
        let end = self.now + 30 * SECOND;
        while self.now < end {
            let busy = self.work();
            if let Some(resolved) = self.stack.next_resolved(self.now) {
                assert_eq!((resolved.query, resolved.owner), (query, CLIENT));
                return resolved.answer;
            }
            if !busy {
                self.sleep(end);
            }
        }
        panic!("{host}: no end of the question");
    }

    fn pass(&mut self, time: Nanoseconds) {
        let end = self.now + time;
        while self.now < end {
            self.step_until(end);
        }
    }

    fn asked(&self) -> Vec<usize> {
        self.servers
            .iter()
            .map(|server| server.asked.len())
            .collect()
    }

    /// Nothing of the resolver's own stays behind.
    fn settle(&mut self) {
        self.pass(70 * SECOND);
        assert_eq!(
            (self.stack.tcp().connections(), self.stack.ledger().bytes()),
            (0, 0)
        );
        for port in 49_152..=u16::MAX {
            let socket = self.stack.bind(CLIENT, port).expect("the port is free");
            self.stack.close_udp(socket);
        }
    }
}

/// A server that says the same of every name, for IPv4.
fn says(records: Vec<Vec<u8>>) -> Behaviour {
    Box::new(move |query| match query.kind {
        A => vec![query.answer(ANSWER, &records, 0)],
        _ => vec![query.answer(ANSWER, &[authority(60)], 1)],
    })
}

fn silent() -> Behaviour {
    Box::new(|_| vec![])
}

fn fails(flags: u16) -> Behaviour {
    Box::new(move |query| vec![query.answer(flags, &[], 0)])
}

#[test]
fn an_address_is_asked_for_once_as_long_as_it_holds() {
    let mut world = World::new(vec![says(vec![address(1)])]);
    assert_eq!(world.resolve("www.example.org"), found(1));
    assert_eq!(world.resolve("WWW.Example.Org."), found(1));
    assert_eq!(world.asked(), [1]);
    let query = &world.servers[0].asked[0];
    assert_eq!((query.name().as_str(), query.kind), ("www.example.org", A));
    assert!(query.extended() && query.message[2..4] == [0x01, 0x00]);
    world.pass(59 * SECOND);
    assert_eq!(world.resolve("www.example.org"), found(1));
    assert_eq!(world.asked(), [1]);
    world.pass(2 * SECOND);
    assert_eq!(world.resolve("www.example.org"), found(1));
    assert_eq!(world.asked(), [2]);
    world.settle();
}

#[test]
fn what_needs_no_server_is_answered_without_one() {
    let mut world = World::new(vec![]);
    let known = |text: &str| Ok(vec![text.parse::<IpAddr>().expect("good")]);
    assert_eq!(world.resolve("192.0.2.7"), known("192.0.2.7"));
    assert_eq!(world.resolve("2001:db8::7"), known("2001:db8::7"));
    let local = ["127.0.0.1", "::1"].map(|text| text.parse().expect("good"));
    assert_eq!(world.resolve("localhost"), Ok(local.to_vec()));
    assert_eq!(world.resolve("here.LocalHost."), Ok(local.to_vec()));
    assert_eq!(world.resolve("a.invalid"), Err(NameError::NoSuchHost));
    for host in ["", "two..dots", "300.0.0.1", "sp ace", &"x".repeat(64)] {
        assert_eq!(world.resolve(host), Err(NameError::Invalid), "{host}");
    }
    assert_eq!(world.resolve("example.org"), Err(NameError::NoServer));
}

#[test]
fn clients_that_ask_for_the_same_name_share_the_question() {
    let mut world = World::new(vec![says(vec![address(1)])]);
    let mut waiting = BTreeSet::new();
    for owner in [CLIENT, OTHER, OTHER] {
        let asked = world.stack.resolve(world.now, owner, "example.org");
        let Ok(Asked::Later(query)) = asked else {
            panic!("{asked:?}");
        };
        waiting.insert((query, owner));
    }
    while !waiting.is_empty() {
        world.step();
        while let Some(resolved) = world.stack.next_resolved(world.now) {
            assert_eq!(resolved.answer, found(1));
            assert!(waiting.remove(&(resolved.query, resolved.owner)));
        }
        assert!(world.now < 10 * SECOND);
    }
    assert_eq!(world.asked(), [1]);
}

#[test]
fn a_silent_server_gives_way_to_the_next_which_is_asked_first_from_then_on() {
    let mut world = World::new(vec![silent(), says(vec![address(1)])]);
    let start = world.now;
    assert_eq!(world.resolve("a.example"), found(1));
    assert!(
        (SECOND..2 * SECOND).contains(&(world.now - start)),
        "{}",
        world.now - start
    );
    let start = world.now;
    assert_eq!(world.resolve("b.example"), found(1));
    assert!(world.now - start < SECOND / 10);
    assert_eq!(world.asked(), [1, 2]);
    world.settle();
}

#[test]
fn a_server_that_fails_gives_way_at_once_and_is_not_asked_again() {
    for flags in [SERVER_FAILURE, ANSWER | 5] {
        let mut world = World::new(vec![fails(flags), silent(), says(vec![address(1)])]);
        let start = world.now;
        assert_eq!(world.resolve("a.example"), found(1));
        assert!(world.now - start < 2 * SECOND);
        assert_eq!(world.asked(), [1, 1, 1]);
    }
    // A server that only knows other servers is no better.
    let referral: Behaviour =
        Box::new(|query| vec![query.answer(ANSWER, &[record(2, 60, &[0])], 1)]);
    let mut world = World::new(vec![referral, says(vec![address(1)])]);
    assert_eq!(world.resolve("a.example"), found(1));
}

#[test]
fn each_way_to_have_no_address_has_its_own_error_and_memory() {
    let mut world = World::new(vec![fails(SERVER_FAILURE), fails(SERVER_FAILURE)]);
    assert_eq!(world.resolve("a.example"), Err(NameError::ServerFailed));
    assert_eq!(world.resolve("a.example"), Err(NameError::ServerFailed));
    assert_eq!(world.asked(), [1, 1], "a failure is believed for a second");
    world.pass(2 * SECOND);
    assert_eq!(world.resolve("a.example"), Err(NameError::ServerFailed));
    assert_eq!(world.asked(), [2, 2]);

    let mut world = World::new(vec![silent(), silent()]);
    let start = world.now;
    assert_eq!(world.resolve("a.example"), Err(NameError::TimedOut));
    assert_eq!(
        (world.asked(), (world.now - start) / SECOND),
        (vec![3, 3], 14)
    );
    world.settle();

    for (flags, error) in [
        (NO_SUCH_HOST, NameError::NoSuchHost),
        (ANSWER, NameError::NoAddress),
    ] {
        let absent: Behaviour =
            Box::new(move |query| vec![query.answer(flags, &[authority(30)], 1)]);
        let mut world = World::new(vec![absent]);
        assert_eq!(world.resolve("a.example"), Err(error));
        let asked = world.asked();
        world.pass(29 * SECOND);
        assert_eq!(world.resolve("a.example"), Err(error));
        assert_eq!(world.asked(), asked);
        world.pass(2 * SECOND);
        assert_eq!(world.resolve("a.example"), Err(error));
        assert_eq!(world.asked()[0], 2 * asked[0]);
    }
}

#[test]
fn the_family_that_the_host_has_is_asked_for_first() {
    let both = || -> Behaviour {
        Box::new(|query| match query.kind {
            A => vec![query.answer(ANSWER, &[address(1)], 0)],
            _ => vec![query.answer(ANSWER, &[v6_address(1)], 0)],
        })
    };
    let v6: IpAddr = "2001:db8::1".parse().expect("good");
    let v4 = IpAddr::from([192, 0, 2, 1]);
    let mut world = World::new(vec![both()]);
    assert_eq!(world.resolve("a.example"), Ok(vec![v4]));
    assert_eq!(world.asked(), [1]);
    let mut world = World::with("ip=10.0.0.1/24 ip=2001:db8:1::1/64", vec![both()]);
    assert_eq!(world.resolve("a.example"), Ok(vec![v6, v4]));
    assert_eq!(world.asked(), [2]);
    // A host that has IPv6 only is found without it too.
    let only_v6: Behaviour = Box::new(|query| match query.kind {
        AAAA => vec![query.answer(ANSWER, &[v6_address(1)], 0)],
        _ => vec![query.answer(ANSWER, &[authority(60)], 1)],
    });
    let mut world = World::new(vec![only_v6]);
    assert_eq!(world.resolve("a.example"), Ok(vec![v6]));
}

#[test]
fn a_family_that_is_never_answered_does_not_hold_the_other_up_for_long() {
    let half: Behaviour = Box::new(|query| match query.kind {
        A => vec![query.answer(ANSWER, &[address(1)], 0)],
        _ => vec![],
    });
    let mut world = World::with("ip=10.0.0.1/24 ip=2001:db8:1::1/64", vec![half]);
    let start = world.now;
    assert_eq!(world.resolve("a.example"), found(1));
    assert!((SECOND..2 * SECOND).contains(&(world.now - start)));
    world.settle();
}

#[test]
fn an_answer_that_does_not_fit_comes_over_tcp() {
    let large: Behaviour = Box::new(|query| {
        if !query.tcp {
            return vec![query.answer(TRUNCATED, &[], 0)];
        }
        // More than is looked at, and more than one segment.
        let records: Vec<_> = (0..=255)
            .map(address)
            .chain([0; 200].map(address))
            .collect();
        vec![query.answer(ANSWER, &records, 0)]
    });
    let mut world = World::new(vec![large]);
    let list: Vec<_> = (0..4).map(|last| IpAddr::from([192, 0, 2, last])).collect();
    assert_eq!(world.resolve("a.example"), Ok(list));
    let by: Vec<_> = world.servers[0]
        .asked
        .iter()
        .map(|query| query.tcp)
        .collect();
    assert_eq!(by, [false, true]);
    world.settle();
}

#[test]
fn a_server_whose_tcp_fails_gives_way_to_the_next() {
    let truncates = || fails(TRUNCATED);
    let hangs: Behaviour = Box::new(|query| match query.tcp {
        false => vec![query.answer(TRUNCATED, &[], 0)],
        true => vec![],
    });
    let mut world = World::new(vec![truncates(), hangs, says(vec![address(1)])]);
    assert_eq!(world.resolve("a.example"), found(1));
    assert_eq!(world.asked(), [2, 2, 1]);
    world.settle();
    // One that refuses connections.
    let mut world = World::new(vec![truncates(), says(vec![address(1)])]);
    let (now, listener) = (world.now, world.servers[0].listener);
    world.servers[0].stack.close_listener(now, listener);
    assert_eq!(world.resolve("a.example"), found(1));
    assert_eq!(world.asked(), [1, 1]);
    world.settle();
}

#[test]
fn a_server_that_does_not_know_the_extension_is_asked_without_it() {
    for bare in [false, true] {
        let old: Behaviour = Box::new(move |query| {
            if !query.extended() {
                return vec![query.answer(ANSWER, &[address(1)], 0)];
            }
            let mut refusal = query.answer(ANSWER | 1, &[], 0);
            if bare {
                refusal.truncate(12);
                refusal[5] = 0;
            }
            vec![refusal]
        });
        let mut world = World::new(vec![old]);
        let start = world.now;
        assert_eq!(world.resolve("a.example"), found(1));
        assert!(world.now - start < SECOND && world.asked() == [2]);
    }
}

#[test]
fn aliases_are_asked_for_where_the_server_does_not_follow_them() {
    let chain: Behaviour = Box::new(|query| {
        let next = match query.name().as_str() {
            "a.example" => alias("b.example"),
            "b.example" => alias("c.example"),
            _ => address(1),
        };
        vec![query.answer(ANSWER, &[next], 0)]
    });
    let mut world = World::new(vec![chain]);
    assert_eq!(world.resolve("a.example"), found(1));
    assert_eq!(world.resolve("a.example"), found(1));
    assert_eq!(world.asked(), [3]);
    let endless: Behaviour = Box::new(|query| {
        let next = format!("x{}", query.name());
        vec![query.answer(ANSWER, &[alias(&next)], 0)]
    });
    let mut world = World::new(vec![endless]);
    assert_eq!(world.resolve("a.example"), Err(NameError::ServerFailed));
    assert_eq!(world.asked(), [13]);
    world.settle();
}

#[test]
fn names_are_found_over_a_cable_that_loses_and_repeats() {
    let large: Behaviour = Box::new(|query| match query.tcp || query.name().len() % 2 == 0 {
        true => vec![query.answer(ANSWER, &[address(query.name().len() as u8)], 0)],
        false => vec![query.answer(TRUNCATED, &[], 0)],
    });
    let mut world = World::new(vec![large, says(vec![address(99)])]);
    for end in [&world.end, &world.servers[0].end, &world.servers[1].end] {
        let mut lane = end.outgoing.borrow_mut();
        (lane.faults.loss, lane.faults.repeat, lane.faults.delay) = (100, 200, 200);
        lane.faults.corrupt = 50;
    }
    for number in 0..60 {
        let name = format!("{}.example", "n".repeat(number + 1));
        let answer = world.resolve(&name);
        let first = found(name.len() as u8);
        assert!(answer == first || answer == found(99), "{name}: {answer:?}");
    }
    assert!(
        world.asked().iter().all(|asked| *asked > 10),
        "{:?}",
        world.asked()
    );
    world.settle();
}

#[test]
fn identifiers_ports_and_letters_cannot_be_foretold() {
    let mut world = World::new(vec![says(vec![record(A, 0, &[192, 0, 2, 1])])]);
    for _ in 0..400 {
        assert_eq!(world.resolve("a-long-name.example.org"), found(1));
    }
    let asked = &world.servers[0].asked;
    let ids: BTreeSet<u16> = asked.iter().map(Query::id).collect();
    let ports: BTreeSet<u16> = asked.iter().map(|query| query.from.port()).collect();
    let letters: BTreeSet<&[u8]> = asked
        .iter()
        .map(|query| &query.message[12..query.end])
        .collect();
    // Of 65,536, of 16,384, and of 2^21: few are drawn twice.
    assert!(ids.len() > 390 && ports.len() > 380 && letters.len() > 395);
    let steps = |values: Vec<u16>| {
        let steps: BTreeSet<u16> = values
            .windows(2)
            .map(|pair| pair[1].wrapping_sub(pair[0]))
            .collect();
        steps.len()
    };
    assert!(steps(asked.iter().map(Query::id).collect()) > 380);
    assert!(steps(asked.iter().map(|query| query.from.port()).collect()) > 370);
    for bit in 0..16 {
        let set = asked
            .iter()
            .filter(|query| query.id() >> bit & 1 == 1)
            .count();
        assert!((140..260).contains(&set), "bit {bit}: {set}");
    }
}

#[test]
fn an_answer_counts_only_from_who_was_asked_to_what_was_asked() {
    let forged = |query: &Query, change: fn(&mut Vec<u8>, usize)| {
        let mut bytes = query.answer(ANSWER, &[address(66)], 0);
        change(&mut bytes, query.end);
        bytes
    };
    let forger: Behaviour = Box::new(move |query| {
        vec![
            forged(query, |bytes, _| bytes[0] ^= 1),
            forged(query, |bytes, _| bytes[1] ^= 0x80),
            forged(query, |bytes, _| bytes[2] ^= 0x80),
            forged(query, |bytes, end| bytes[end + 1] ^= 0x1d),
            forged(query, |bytes, end| bytes[end + 3] ^= 2),
            forged(query, |bytes, end| bytes[end - 2] = b'!'),
            forged(query, |bytes, _| bytes.truncate(11)),
            query.answer(ANSWER, &[address(1)], 0),
        ]
    });
    let mut world = World::new(vec![forger]);
    assert_eq!(world.resolve("a.example"), found(1));
    assert_eq!(world.asked(), [1]);
    // A server that was not asked knows all and says it to the right port.
    let mut world = World::new(vec![silent()]);
    let mut stranger = NameServer::new(9, silent());
    let Ok(Asked::Later(_)) = world.stack.resolve(world.now, CLIENT, "a.example") else {
        panic!("asked");
    };
    while world.asked() == [0] {
        world.step();
    }
    let query = world.servers[0].asked[0].clone();
    stranger.end.outgoing = Rc::clone(&world.end.incoming);
    let answer = query.answer(ANSWER, &[address(66)], 0);
    stranger
        .stack
        .send_to(stranger.socket, query.from, &answer)
        .expect("queued");
    let carried = world.end.incoming.borrow().carried;
    stranger.work(world.now);
    // It asks for the hardware address first, and hears the answer on the switch.
    while world.end.incoming.borrow().carried < carried + 2 {
        world.step();
        let reply = world.end.outgoing.borrow().frames.front().cloned();
        stranger.end.incoming.borrow_mut().frames.extend(reply);
        stranger.work(world.now);
        assert!(world.now < 5 * SECOND);
    }
    let mut ended = None;
    while ended.is_none() {
        world.step();
        ended = world.stack.next_resolved(world.now);
    }
    assert_eq!(ended.expect("ended").answer, Err(NameError::TimedOut));
}

#[test]
fn guesses_at_the_identifier_and_other_letters_move_the_question_to_tcp() {
    let flood: Behaviour = Box::new(|query| {
        if query.tcp {
            return vec![query.answer(ANSWER, &[address(1)], 0)];
        }
        let guess = |number: u16| {
            let mut bytes = query.answer(ANSWER, &[address(66)], 0);
            bytes[..2].copy_from_slice(&query.id().wrapping_add(number).to_be_bytes());
            bytes
        };
        // The last one is right, and too late.
        (1..=40).rev().map(guess).chain([guess(0)]).collect()
    });
    let letters: Behaviour = Box::new(|query| {
        let mut bytes = query.answer(ANSWER, &[address(if query.tcp { 1 } else { 66 })], 0);
        bytes[12..query.end].make_ascii_lowercase();
        vec![bytes]
    });
    for behaviour in [flood, letters] {
        let mut world = World::new(vec![behaviour]);
        assert_eq!(world.resolve("a-long-name.example"), found(1));
        let by: Vec<_> = world.servers[0]
            .asked
            .iter()
            .map(|query| query.tcp)
            .collect();
        assert_eq!(by.last(), Some(&true));
        world.settle();
    }
}

#[test]
fn questions_are_limited_for_each_client_and_a_dead_clients_end() {
    let mut world = World::new(vec![silent()]);
    let ask = |world: &mut World, owner: u64, number: usize| {
        let host = format!("host{number}.example");
        world.stack.resolve(world.now, owner, &host)
    };
    for number in 0..8 {
        assert!(matches!(
            ask(&mut world, CLIENT, number),
            Ok(Asked::Later(_))
        ));
        assert!(matches!(
            ask(&mut world, CLIENT, number),
            Ok(Asked::Later(_))
        ));
    }
    assert_eq!(ask(&mut world, CLIENT, 0), Err(NameError::Busy));
    for number in 8..16 {
        assert!(matches!(
            ask(&mut world, OTHER, number),
            Ok(Asked::Later(_))
        ));
    }
    // Another name finds no room; one that is being asked for has it.
    assert_eq!(ask(&mut world, 9, 16), Err(NameError::Busy));
    assert!(matches!(ask(&mut world, 9, 15), Ok(Asked::Later(_))));
    world.stack.drop_owner(world.now, CLIENT);
    world.step();
    for number in 16..24 {
        assert!(matches!(ask(&mut world, 9, number), Ok(Asked::Later(_))));
    }
    world.stack.drop_owner(world.now, OTHER);
    world.stack.drop_owner(world.now, 9);
    world.step();
    assert_eq!(world.stack.next_resolved(world.now), None);
    world.settle();
}

/// The server that each question of the host went to, and the name's first letter.
fn asked_of(segment: &Segment) -> Vec<(Ipv4Addr, char)> {
    let asked = segment.frames(EthernetProtocol::Ipv4).filter_map(|frame| {
        let packet = Ipv4Packet::new_checked(&frame[14..]).expect("whole");
        let udp = UdpPacket::new_checked(packet.payload()).expect("whole");
        let letter = udp.payload().get(13).copied().unwrap_or(0);
        let letter = char::from(letter.to_ascii_lowercase());
        (udp.dst_port() == 53).then_some((packet.dst_addr(), letter))
    });
    asked.collect()
}

#[test]
fn questions_under_way_go_to_the_servers_of_the_next_lease() {
    let mut server = Server::compute_engine();
    // Renewed after ten seconds (RFC 2131, section 4.4.5).
    server.set(51, &20u32.to_be_bytes());
    server.set(6, &[10, 128, 0, 53]);
    let (mut segment, mut host) = Segment::with_host(server);
    let asked = host.resolve(segment.now, CLIENT, "early.example");
    assert!(matches!(asked, Ok(Asked::Later(_))), "{asked:?}");
    segment.run(&mut host, 5 * SECOND);
    let asked = host.resolve(segment.now, CLIENT, "late.example");
    assert!(matches!(asked, Ok(Asked::Later(_))), "{asked:?}");
    segment.run(&mut host, SECOND);
    let first = Ipv4Addr::new(10, 128, 0, 53);
    let before = asked_of(&segment);
    assert!(before.iter().all(|(server, _)| *server == first));
    assert!(before.contains(&(first, 'e')) && before.contains(&(first, 'l')));
    segment.server.set(6, &[10, 128, 0, 54]);
    segment.sent.clear();
    segment.run(&mut host, 5 * SECOND);
    let next = Ipv4Addr::new(10, 128, 0, 54);
    let after = asked_of(&segment);
    assert!(after.contains(&(next, 'l')), "{after:?}");
    // One that had been asked in vain by then is over.
    let ended = host.next_resolved(segment.now).expect("ended");
    assert_eq!(ended.answer, Err(NameError::TimedOut));
    assert_eq!(host.next_resolved(segment.now), None);
    // Without any server nothing is waited for.
    segment.server.unset(6);
    segment.run(&mut host, 11 * SECOND);
    let ended = host.next_resolved(segment.now).expect("ended");
    assert!(ended.answer.is_err());
    let asked = host.resolve(segment.now, CLIENT, "late.example");
    assert_eq!(asked, Err(NameError::NoServer));
}

#[test]
fn servers_that_answer_with_anything_do_no_harm() {
    let mut chance = Chance(0x5eed_0053);
    let mut mangled = move |query: &Query| {
        let records = match query.name().starts_with("host") {
            true => [alias("b.example"), v6_address(1)],
            false => [address(1), v6_address(1)],
        };
        let mut bytes = query.answer(ANSWER, &records, 0);
        if chance.hits(500) {
            return vec![bytes];
        }
        for _ in 0..chance.next() % 4 {
            let position = chance.next() as usize % bytes.len();
            bytes[position] = chance.next() as u8;
        }
        match chance.next() % 6 {
            0 => bytes.truncate(chance.next() as usize % bytes.len()),
            1 => bytes.extend((0..chance.next() % 1_000).map(|byte| byte as u8)),
            2 => {
                bytes = (0..chance.next() % 600)
                    .map(|_| chance.next() as u8)
                    .collect()
            }
            _ => {}
        }
        (0..chance.next() % 3).map(|_| bytes.clone()).collect()
    };
    let mut world = World::new(vec![Box::new(move |query| mangled(query))]);
    let (mut answered, mut failed) = (0, 0);
    for number in 0..1_500 {
        match world.resolve(&format!("host{number}.example")) {
            Ok(list) => answered += u32::from((1..=4).contains(&list.len())),
            Err(_) => failed += 1,
        }
    }
    assert!(
        answered > 500 && failed > 100,
        "{answered} answered, {failed} failed"
    );
    world.settle();
}
