//! Two stacks on a cable that can lose, repeat and reorder frames, on a clock that the test drives.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;

use netstack::config::Config;
use netstack::stack::{Card, Stack};
use netstack::tcp::{ConnectionId, ListenerId, Phase};
use netstack::time::{Nanoseconds, SECOND};
use netstack::wire::{Fate, Offloads, Received, Wire};

/// Time that a frame takes.
pub(crate) const DELAY: Nanoseconds = 100_000;
/// The first client's badge.
pub(crate) const CLIENT: u64 = 7;
/// Addresses of the two ends.
pub(crate) const A: [u8; 4] = [10, 0, 0, 1];
pub(crate) const B: [u8; 4] = [10, 0, 0, 2];

/// What the cable does to frames, in parts of 1,000.
#[derive(Clone, Copy, Default)]
pub(crate) struct Faults {
    pub(crate) loss: u32,
    pub(crate) repeat: u32,
    pub(crate) delay: u32,
    pub(crate) corrupt: u32,
}

/// A small generator with a fixed seed: the same faults in every run (Marsaglia's xorshift).
pub(crate) struct Chance(pub u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn hits(&mut self, per_mille: u32) -> bool {
        self.next() % 1000 < u64::from(per_mille)
    }
}

/// One direction of the cable.
pub(crate) struct Lane {
    pub(crate) frames: VecDeque<(Nanoseconds, Vec<u8>)>,
    pub(crate) faults: Faults,
    pub(crate) chance: Chance,
    pub(crate) carried: u64,
    pub(crate) lost: u64,
    /// Frames that fit at once.
    pub(crate) room: usize,
}

impl Lane {
    pub(crate) fn new(seed: u64) -> Rc<RefCell<Lane>> {
        Rc::new(RefCell::new(Lane {
            frames: VecDeque::new(),
            faults: Faults::default(),
            chance: Chance(seed),
            carried: 0,
            lost: 0,
            room: 256,
        }))
    }

    pub(crate) fn put(&mut self, now: Nanoseconds, mut frame: Vec<u8>) {
        self.carried += 1;
        if self.chance.hits(self.faults.loss) {
            self.lost += 1;
            return;
        }
        if self.chance.hits(self.faults.corrupt) && frame.len() > 14 {
            let position = 14 + self.chance.next() as usize % (frame.len() - 14);
            frame[position] ^= 1 << (self.chance.next() % 8);
        }
        let repeat = self.chance.hits(self.faults.repeat).then(|| frame.clone());
        let late = if self.chance.hits(self.faults.delay) {
            5 * DELAY
        } else {
            0
        };
        self.insert(now + DELAY + late, frame);
        if let Some(again) = repeat {
            self.insert(now + 2 * DELAY, again);
        }
    }

    fn insert(&mut self, at: Nanoseconds, frame: Vec<u8>) {
        let position = self.frames.partition_point(|(other, _)| *other <= at);
        self.frames.insert(position, (at, frame));
    }
}

/// One end of the cable.
pub(crate) struct End {
    pub(crate) now: Nanoseconds,
    pub(crate) incoming: Rc<RefCell<Lane>>,
    pub(crate) outgoing: Rc<RefCell<Lane>>,
    pub(crate) plugged: bool,
}

impl Wire for End {
    fn receive(&mut self, buffer: &mut [u8]) -> Option<Received> {
        let mut lane = self.incoming.borrow_mut();
        if !self.plugged || lane.frames.front()?.0 > self.now {
            return None;
        }
        let (_, frame) = lane.frames.pop_front()?;
        buffer[..frame.len()].copy_from_slice(&frame);
        Some(received(&frame))
    }

    fn can_transmit(&mut self) -> bool {
        let lane = self.outgoing.borrow();
        self.plugged && lane.frames.len() < lane.room
    }

    fn build<R>(&mut self, length: usize, fill: impl FnOnce(&mut [u8]) -> (R, Fate)) -> R {
        let mut frame = vec![0; length];
        let (result, fate) = fill(&mut frame);
        if sent(fate) && self.can_transmit() {
            self.outgoing.borrow_mut().put(self.now, frame);
        }
        result
    }
}

/// A frame as a card that verifies nothing tells of it.
pub(crate) fn received(frame: &[u8]) -> Received {
    Received {
        length: frame.len(),
        checksum_verified: false,
    }
}

/// Whether a frame is sent, by a wire that does nothing but carry.
pub(crate) fn sent(fate: Fate) -> bool {
    assert!(matches!(fate, Fate::Stay | Fate::Send(None)), "{fate:?}");
    fate == Fate::Send(None)
}

/// Two stacks and the cable.
pub(crate) struct Pair {
    pub(crate) now: Nanoseconds,
    pub(crate) a: Stack,
    pub(crate) b: Stack,
    pub(crate) end_a: End,
    pub(crate) end_b: End,
}

/// A configuration without IPv6: routers are not looked for among the frames that tests count.
pub(crate) fn ipv4() -> Config {
    let mut config = Config::default();
    config.apply("ipv6=off").expect("good");
    config
}

/// A fixed configuration.
pub(crate) fn fixed(address: [u8; 4], other: [u8; 4]) -> Config {
    let [w, x, y, z] = address;
    let mut config = ipv4();
    config.apply("buffer=65536").expect("good");
    config
        .apply(&format!("ip={w}.{x}.{y}.{z}/24"))
        .expect("good");
    let [w, x, y, z] = other;
    config.apply(&format!("gw={w}.{x}.{y}.{z}")).expect("good");
    config
}

pub(crate) fn card(last: u8) -> Card {
    Card {
        mac: [2, 0, 0, 0, 0, last],
        mtu: 1500,
        offloads: Offloads::default(),
    }
}

impl Pair {
    pub(crate) fn new() -> Pair {
        Pair::with(fixed(A, B), fixed(B, A))
    }

    pub(crate) fn with(a: Config, b: Config) -> Pair {
        let (there, back) = (Lane::new(0x9e37_79b9), Lane::new(0x7f4a_7c15));
        let end = |incoming: &Rc<RefCell<Lane>>, outgoing: &Rc<RefCell<Lane>>| End {
            now: SECOND,
            incoming: Rc::clone(incoming),
            outgoing: Rc::clone(outgoing),
            plugged: true,
        };
        Pair {
            now: SECOND,
            a: Stack::new(&a, card(1), SECOND, 11),
            b: Stack::new(&b, card(2), SECOND, 1234),
            end_a: end(&back, &there),
            end_b: end(&there, &back),
        }
    }

    /// Does what can be done now; true: there is more.
    fn work(&mut self) -> bool {
        self.end_a.now = self.now;
        self.end_b.now = self.now;
        let busy_a = self.a.poll(self.now, &mut self.end_a);
        let busy_b = self.b.poll(self.now, &mut self.end_b);
        busy_a || busy_b
    }

    /// Lets the clock go on to the next moment with something to do, or to `end`.
    fn sleep(&mut self, end: Nanoseconds) {
        let arrivals = [&self.end_a, &self.end_b]
            .into_iter()
            .filter(|end| end.plugged)
            .filter_map(|end| end.incoming.borrow().frames.front().map(|(at, _)| *at));
        let next = arrivals
            .chain(self.a.deadline(self.now))
            .chain(self.b.deadline(self.now))
            .min()
            .unwrap_or(self.now + SECOND);
        self.now = next.clamp(self.now + 1_000, self.now + SECOND).min(end);
    }

    /// Goes on until something holds; fails after a time on the pair's clock.
    pub(crate) fn until(
        &mut self,
        what: &str,
        limit: Nanoseconds,
        mut holds: impl FnMut(&mut Pair) -> bool,
    ) {
        let end = self.now + limit;
        loop {
            let busy = self.work();
            if holds(self) {
                return;
            }
            assert!(
                self.now < end,
                "{what}: not within {} ms",
                limit / 1_000_000
            );
            if !busy {
                self.sleep(end);
            }
        }
    }

    /// Goes on for a time.
    pub(crate) fn pass(&mut self, time: Nanoseconds) {
        let end = self.now + time;
        self.until("the clock", time, |pair| pair.now >= end);
    }

    /// A connection from A to a listener of B's, open on both sides.
    pub(crate) fn connect(
        &mut self,
        listener: ListenerId,
        port: u16,
    ) -> (ConnectionId, ConnectionId) {
        let here = self
            .a
            .connect(CLIENT, SocketAddr::from((B, port)))
            .expect("begun");
        let mut there = None;
        self.until("connect", 10 * SECOND, |pair| {
            there = there.or_else(|| pair.b.tcp().accept(listener));
            there.is_some() && pair.a.tcp().phase(here) == Some(Phase::Open)
        });
        (here, there.expect("accepted"))
    }

    pub(crate) fn listen(&mut self, port: u16, backlog: usize) -> ListenerId {
        self.b
            .listen(CLIENT, None, port, backlog)
            .expect("listening")
    }
}

/// Byte `position` of the data that tests send.
pub(crate) fn pattern(position: usize) -> u8 {
    (position as u64)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(23) as u8
}

/// Moves bytes as fast as they go and checks each.
pub(crate) struct Transfer {
    pub(crate) sent: usize,
    pub(crate) received: usize,
    pub(crate) length: usize,
}

impl Transfer {
    pub(crate) fn new(length: usize) -> Transfer {
        Transfer {
            sent: 0,
            received: 0,
            length,
        }
    }

    pub(crate) fn give(&mut self, stack: &mut Stack, id: ConnectionId) {
        stack.tcp().send(id, |space| {
            let count = space.len().min(self.length - self.sent);
            for (offset, byte) in space[..count].iter_mut().enumerate() {
                *byte = pattern(self.sent + offset);
            }
            self.sent += count;
            count
        });
    }

    pub(crate) fn take(&mut self, stack: &mut Stack, id: ConnectionId) {
        stack.tcp().receive(id, |bytes| {
            for (offset, byte) in bytes.iter().enumerate() {
                assert_eq!(
                    *byte,
                    pattern(self.received + offset),
                    "at {}",
                    self.received + offset
                );
            }
            self.received += bytes.len();
            bytes.len()
        });
    }
}
