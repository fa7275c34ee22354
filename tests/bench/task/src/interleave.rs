//! The kernel on two processors whose turns change after every few instructions: QEMU's `-icount` with a
//! coarse shift makes each timer's deadline a change of processor, and this task has many of them. Callers on
//! both processors call servers that move between them; signals go to and fro; priorities and processors
//! change meanwhile; and a thread that only waits for deadlines makes the changes come at other places with
//! another seed. Every answer has to be the right one, no signal may be lost, and everybody comes to an end.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::time::Duration;

use ipc::client::Deadline;
use ipc::startup::{Startup, names};
use ipc::{Error, Handle, Label, Tag};
use runtime::clock::now;
use runtime::endpoint::Endpoint;
use runtime::notification::Notification;
use runtime::thread::{Options, Running, spawn, yield_now};
use runtime::words::{call, receive, reply_receive};

/// Calls of each caller, and signals there and back.
const ROUNDS: u32 = 150;
/// Callers; every other one on each processor.
const CALLERS: u32 = 4;
/// Servers at the one endpoint.
const SERVERS: usize = 2;
/// Pauses between changes of processor, in instructions: longer than it takes to wake up, or a deadline would
/// always be due, and QEMU let only one processor run.
const SHORTEST_PAUSE: u64 = 3_000;
const LONGEST_PAUSE: u64 = 12_000;
/// How long to wait for the end, in instructions.
const LONG_PAUSE: u64 = 100_000;

/// What the seed is called on the kernel's command line, and what an instruction takes in nanoseconds.
const SEED: &str = "interleave.seed=";
const INSTRUCTION: &str = "interleave.instruction_ns=";

/// Numbers that follow from the seed (Marsaglia, "Xorshift RNGs", 2003).
#[derive(Clone, Copy)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Another sequence, for another thread.
    fn split(&mut self) -> Random {
        Random(self.next() | 1)
    }

    /// Passes some instructions.
    fn pause(&mut self) {
        for turn in 0..self.below(64) {
            core::hint::black_box(turn);
        }
    }
}

/// The numbers that these names have on the kernel's command line.
fn numbers(startup: &Startup<'_>, names: [&str; 2]) -> Result<[u64; 2], Error> {
    let control = startup
        .handle(names::SYSTEM_CONTROL)
        .ok_or(Error::InvalidHandle)?;
    let mut line = [0; 512];
    let line = runtime::system::command_line(control, &mut line)?;
    let words = core::str::from_utf8(line).unwrap_or_default();
    let number = |name: &str| {
        let mut words = words.split_ascii_whitespace();
        words.find_map(|word| word.strip_prefix(name)?.parse().ok())
    };
    let [one, other] = names.map(number);
    Ok([
        one.ok_or(Error::InvalidArgument)?,
        other.ok_or(Error::InvalidArgument)?,
    ])
}

/// What the threads share.
struct World {
    endpoint: Endpoint,
    there: Notification,
    back: Notification,
    over: AtomicBool,
    failures: AtomicU32,
    /// What an instruction takes, in nanoseconds.
    instruction_ns: u64,
}

impl World {
    fn sleep(&self, instructions: u64) {
        runtime::clock::sleep(Duration::from_nanos(instructions * self.instruction_ns));
    }

    fn pause(&self, random: &mut Random) {
        self.sleep(SHORTEST_PAUSE + random.below(LONGEST_PAUSE - SHORTEST_PAUSE));
    }

    /// Waits until threads have ended; not by [`Running::join`], whose pauses are short.
    fn wait_for(&self, threads: &[Running]) {
        while !threads.iter().all(Running::is_done) {
            self.sleep(LONG_PAUSE);
        }
    }
}

pub(crate) fn run(startup: &'static Startup<'static>) -> Result<(), Error> {
    let [seed, instruction_ns] = numbers(startup, [SEED, INSTRUCTION])?;
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let world = Arc::new(World {
        endpoint: Endpoint::create()?,
        there: Notification::create()?,
        back: Notification::create()?,
        over: AtomicBool::new(false),
        failures: AtomicU32::new(0),
        instruction_ns,
    });
    let start = |priority: u8, program: fn(&World, Random, u32), number: u32, random: Random| {
        let world = world.clone();
        let options = Options {
            stack_bytes: 16 << 10,
            priority,
        };
        spawn(options, move || program(&world, random, number))
    };
    let mut servers = Vec::new();
    for number in 0..SERVERS {
        servers.push(start(12, serve, number as u32, random.split())?);
    }
    let clock = start(15, tick, 0, random.split())?;
    let mut workers = Vec::new();
    for number in 0..CALLERS {
        let worker = start(10, make_calls, number, random.split())?;
        pin(&world, &worker, number % 2)?;
        workers.push(worker);
    }
    for (program, cpu) in [(ping as fn(&World, Random, u32), 0), (pong, 1)] {
        let worker = start(11, program, 0, random.split())?;
        pin(&world, &worker, cpu)?;
        workers.push(worker);
    }
    disturb(&world, &mut random, &servers, &workers)?;
    world.over.store(true, Ordering::SeqCst);
    world.wait_for(&[clock]);
    runtime::handle::destroy(world.endpoint.handle())?;
    world.wait_for(&servers);
    match world.failures.load(Ordering::SeqCst) {
        0 => runtime::log!("done at {}", now()),
        failures => runtime::log!("FAIL: {failures} wrong answers"),
    }
    Ok(())
}

/// Keeps a thread on a processor, which may not have started yet.
fn pin(world: &World, thread: &Running, cpu: u32) -> Result<(), Error> {
    for _ in 0..1000 {
        if thread.thread().set_affinity(1 << cpu) != Err(Error::InvalidArgument) {
            return Ok(());
        }
        world.sleep(LONG_PAUSE);
    }
    Err(Error::InvalidArgument)
}

/// Changes priorities and processors until everybody is done.
fn disturb(
    world: &World,
    random: &mut Random,
    servers: &[Running],
    workers: &[Running],
) -> Result<(), Error> {
    while !workers.iter().all(Running::is_done) {
        let server = &servers[random.below(SERVERS as u64) as usize];
        match random.below(3) {
            0 => server.thread().set_affinity(1 << random.below(2))?,
            1 => server.thread().set_affinity(u64::MAX)?,
            _ => {
                let priority = 8 + random.below(6) as u8;
                server.thread().set_priority(priority, Handle::NONE)?;
            }
        }
        world.pause(random);
    }
    Ok(())
}

/// Wakes up after pauses of all lengths.
fn tick(world: &World, mut random: Random, _: u32) {
    while !world.over.load(Ordering::SeqCst) {
        world.pause(&mut random);
    }
}

/// Answers calls with a number that follows from theirs, until the endpoint is destroyed.
fn serve(world: &World, mut random: Random, _: u32) {
    let endpoint = world.endpoint.handle();
    let mut arrival = receive(endpoint, 0, Deadline::NEVER);
    while let Ok(message) = arrival {
        random.pause();
        let [first, second, ..] = message.words;
        let words = [answer(first, second), 0, 0, 0];
        let tag = Tag::new(message.tag.label(), 8, 0);
        arrival = reply_receive(endpoint, tag, words, Deadline::NEVER);
    }
}

fn answer(first: u64, second: u64) -> u64 {
    first.wrapping_mul(3).wrapping_add(second)
}

fn make_calls(world: &World, mut random: Random, number: u32) {
    for round in 0..u64::from(ROUNDS) {
        random.pause();
        let label = Label(1 + number);
        let words = [random.next(), round, 0, 0];
        let tag = Tag::new(label, 16, 0);
        // Now and then with a deadline far away, which takes the long way.
        let deadline = match random.below(4) {
            0 => Deadline(now() + 1_000_000_000_000),
            _ => Deadline::NEVER,
        };
        let right = match call(world.endpoint.handle(), tag, words, deadline) {
            Ok(got) => got.words[0] == answer(words[0], round) && got.tag.label() == label,
            Err(_) => false,
        };
        if !right {
            world.failures.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Signals, and waits for the signal back; both sides count.
fn ping(world: &World, mut random: Random, _: u32) {
    for _ in 0..ROUNDS {
        random.pause();
        if world.there.signal(1).is_err() || world.back.wait(Deadline::NEVER) != Ok(2) {
            world.failures.fetch_add(1, Ordering::SeqCst);
        }
        if random.below(3) == 0 {
            yield_now();
        }
    }
}

fn pong(world: &World, mut random: Random, _: u32) {
    for _ in 0..ROUNDS {
        random.pause();
        if world.there.wait(Deadline::NEVER) != Ok(1) || world.back.signal(2).is_err() {
            world.failures.fetch_add(1, Ordering::SeqCst);
        }
    }
}
