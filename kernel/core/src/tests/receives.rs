//! Receives of threads with bound notifications, with deadlines, and the signals and interrupts that end them:
//! two kernels go through the same random steps, one by the fast path, and are compared with each other and
//! with a model after each. Time passes by the timer that the kernel has set, and by no other.

use super::bench::{
    TestKernel, arrive, block, call, give, is, kernel, running, status, system_call_until, task,
    thread,
};
use crate::fake::INTERRUPT;
use crate::interrupt::InterruptSource;
use crate::object::Object;
use crate::platform::LineMode;
use crate::random::Random;
use crate::sync::Ordering;
use crate::thread::Thread;
use ipc::info::INTERRUPT_MESSAGE;
use ipc::message::NEVER;
use ipc::{Error, Handle, Label, Operation as O, Rights, Tag};

const THREADS: usize = 5;
const PRIORITIES: [u8; THREADS] = [10, 11, 10, 9, 12];
/// What an interrupt signals.
const RUNG: u64 = 1 << 40;

/// Threads with an endpoint and a bound notification each.
struct World {
    kernel: TestKernel,
    threads: Vec<&'static Thread>,
    endpoints: Vec<u64>,
    /// Handles of the notifications, the same numbers in each task.
    bells: Vec<u64>,
    /// Vectors of the interrupts that signal them.
    vectors: Vec<u8>,
}

impl World {
    fn new(is_fast: bool) -> World {
        let kernel = kernel(1);
        let homes = [0; THREADS].map(|_| task(kernel, 1 << 20));
        let (mut bells, mut vectors) = (Vec::new(), Vec::new());
        for _ in 0..THREADS {
            let made = kernel.make_notification(&kernel.root_quota).unwrap();
            let given =
                homes.map(|home| give(kernel, home, Object::Notification(made), Rights::ALL));
            assert!(given.iter().all(|handle| *handle == given[0]));
            bells.push(given[0].0);
            let source = InterruptSource {
                line: INTERRUPT_MESSAGE,
                mode: LineMode {
                    level: false,
                    active_low: false,
                },
            };
            let interrupt = kernel.make_interrupt(&kernel.root_quota, &source, made, RUNG);
            vectors.push(interrupt.unwrap().vector());
        }
        let make = |number: usize| thread(kernel, homes[number], PRIORITIES[number]);
        let threads: Vec<_> = (0..THREADS).map(make).collect();
        let mut endpoints = vec![0; THREADS];
        // The most urgent first: who is done waits, so that the others get their turn.
        let mut order: Vec<usize> = (0..THREADS).collect();
        order.sort_by_key(|number| 63 - PRIORITIES[*number]);
        for number in order {
            let one = threads[number];
            endpoints[number] = call(kernel, one, O::EndpointCreate, &[]).unwrap()[0];
            call(kernel, one, O::NotificationBind, &[bells[number]]).unwrap();
            block(kernel, one, O::Receive, &[endpoints[number], 0], NEVER);
        }
        kernel.platform.fast.store(is_fast, Ordering::Relaxed);
        kernel.platform.ways.lock().unwrap().clear();
        World {
            kernel,
            threads,
            endpoints,
            bells,
            vectors,
        }
    }

    fn issue(&self, number: usize, operation: O, arguments: &[u64], deadline: u64) {
        let thread = self.threads[number];
        system_call_until(self.kernel, thread, operation, arguments, deadline);
        running(self.kernel);
    }

    /// Who runs.
    fn running(&self) -> Option<usize> {
        let current = self.kernel.cpus()[0].current.get();
        self.threads.iter().position(|one| is(current, one))
    }

    fn timer(&self) -> u64 {
        match self.kernel.platform.cpus[0].timer.load(Ordering::Relaxed) {
            0 => NEVER,
            timer => timer,
        }
    }

    /// Time passes, and the timer fires as often as it is due.
    fn pass(&self, now: u64) {
        self.kernel.platform.time.store(now, Ordering::Relaxed);
        let mut fired = 0;
        while self.timer() <= now {
            self.kernel.platform.cpus[0]
                .timer
                .store(NEVER, Ordering::Relaxed);
            self.kernel.timer(&self.kernel.cpus()[0]);
            running(self.kernel);
            fired += 1;
            assert!(fired <= 1, "the timer fires again and again");
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
    Signalled(u64),
    Fails(Error),
    Done,
}

struct Model {
    now: u64,
    bits: [u64; THREADS],
    /// Until when each one waits.
    waits: [Option<u64>; THREADS],
    ends: Vec<(usize, End)>,
}

impl Model {
    fn signal(&mut self, to: usize, bits: u64) {
        self.bits[to] |= bits;
        if self.bits[to] != 0 && self.waits[to].take().is_some() {
            let bits = core::mem::take(&mut self.bits[to]);
            self.ends.push((to, End::Signalled(bits)));
        }
    }

    fn receive(&mut self, who: usize, deadline: u64) {
        match core::mem::take(&mut self.bits[who]) {
            0 if deadline <= self.now => self.ends.push((who, End::Fails(Error::TimedOut))),
            0 => self.waits[who] = Some(deadline),
            bits => self.ends.push((who, End::Signalled(bits))),
        }
    }

    fn pass(&mut self, nanoseconds: u64) {
        self.now += nanoseconds;
        for who in 0..THREADS {
            if self.waits[who].is_some_and(|deadline| deadline <= self.now) {
                self.waits[who] = None;
                self.ends.push((who, End::Fails(Error::TimedOut)));
            }
        }
    }

    fn check(&mut self, world: &World) {
        for (who, end) in &self.ends {
            let found = match status(world.threads[*who]) {
                Ok([_, tag, bits, ..]) if tag == SIGNAL => End::Signalled(bits),
                Ok(_) => End::Done,
                Err(error) => End::Fails(error),
            };
            assert_eq!(found, *end, "thread {who}");
        }
        for (who, wait) in self.waits.iter().enumerate() {
            assert_eq!(world.threads[who].is_waiting(), wait.is_some(), "{who}");
            if let Some(deadline) = wait {
                assert!(world.timer() <= *deadline, "{who} would wait for ever");
            }
        }
    }
}

const SIGNAL: u64 = Tag::new(Label::SIGNAL, 8, 0).0 | Tag::KERNEL;

/// A step of both kernels and the model.
fn step(random: &mut Random, worlds: &[World; 2], model: &mut Model) {
    let number = worlds[0].running();
    assert_eq!(number, worlds[1].running());
    let other = random.below(THREADS);
    let bits = [0, 1, 2, 1 << 63][random.below(4)];
    let deadline = match random.below(8) {
        0 => 0,
        1..6 => model.now + 1 + random.below(3_000) as u64,
        _ => NEVER,
    };
    let choice = random.below(10);
    match (choice, number) {
        (0, _) => {
            model.pass(1 + random.below(1_500) as u64);
            worlds.iter().for_each(|world| world.pass(model.now));
        }
        (1, _) | (_, None) => {
            model.signal(other, RUNG);
            for world in worlds {
                arrive(world.kernel, world.vectors[other]);
            }
        }
        (2..4, Some(who)) => {
            model.signal(other, bits);
            model.ends.push((who, End::Done));
            for world in worlds {
                world.issue(who, O::Signal, &[world.bells[other], bits], NEVER);
            }
        }
        (4, Some(_)) => {
            let priority = 8 + random.below(6) as u8;
            for world in worlds {
                let cpu = &world.kernel.cpus()[0];
                world
                    .kernel
                    .set_priority(cpu, world.threads[other], priority);
                world.kernel.leave(cpu);
            }
        }
        (5..7, Some(who)) => {
            model.receive(who, deadline);
            for world in worlds {
                world.issue(who, O::Receive, &[world.endpoints[who], 0], deadline);
            }
        }
        (_, Some(who)) => {
            model.signal(other, bits);
            model.receive(who, deadline);
            for world in worlds {
                let arguments = [world.endpoints[who], 0, world.bells[other], bits];
                world.issue(who, O::SignalReceive, &arguments, deadline);
            }
        }
    }
    worlds.iter().for_each(|world| model.check(world));
    model.ends.clear();
}

#[test]
fn receives_signals_and_interrupts_do_the_same_by_either_path() {
    let mut ways = std::collections::BTreeMap::new();
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let worlds = [World::new(true), World::new(false)];
        let mut model = Model {
            now: worlds[0].kernel.platform.time.load(Ordering::Relaxed),
            bits: [0; THREADS],
            waits: [Some(NEVER); THREADS],
            ends: Vec::new(),
        };
        for _ in 0..500 {
            step(&mut random, &worlds, &mut model);
        }
        for (way, times) in worlds[0].kernel.platform.ways.lock().unwrap().iter() {
            *ways.entry(*way).or_insert(0) += times;
        }
        assert!(worlds[1].kernel.platform.ways.lock().unwrap().is_empty());
    }
    println!("{ways:#?}");
    let (receive, both) = (O::Receive as u64, O::SignalReceive as u64);
    let signal = O::Signal as u64;
    for way in [
        (receive, "Returns", true),
        (receive, "Resumes", true),
        (receive, "Resumes", false),
        (receive, "Waits", true),
        (receive, "Waits", false),
        (both, "Returns", true),
        (both, "Wakes", true),
        (both, "Resumes", true),
        (both, "Resumes", false),
        (both, "QueueComplete", true),
        (both, "Waits", true),
        (signal, "Returns", false),
        (signal, "Resumes", false),
        (signal, "Wakes", false),
        (INTERRUPT, "Resumes", false),
    ] {
        let times = ways.get(&way).copied().unwrap_or(0);
        assert!(times > 10, "{way:?} was taken {times} times");
    }
}

/// The signal of a SignalReceive is given at once, though a call waits already that the slow path has to take.
#[test]
fn who_signals_is_given_the_call_that_waits_already() {
    let world = World::new(true);
    let kernel = world.kernel;
    let [client, server, woken] = [0, 1, 4].map(|number| world.threads[number]);
    let handles = &server.task().handles;
    let endpoint = handles.look_up(Handle(world.endpoints[1])).unwrap();
    let send = give(kernel, client.task(), endpoint.object, Rights::SEND).0;
    for number in [1, 0] {
        arrive(kernel, world.vectors[number]);
    }
    kernel.set_priority(&kernel.cpus()[0], server, 5);
    block(
        kernel,
        client,
        O::Call,
        &[send, Tag::new(Label(3), 8, 0).0, 77],
        NEVER,
    );
    assert!(is(running(kernel), server));
    let arguments = [world.endpoints[1], 0, world.bells[4], 6];
    world.issue(1, O::SignalReceive, &arguments, NEVER);
    assert!(is(running(kernel), woken), "it is more urgent");
    assert_eq!(status(woken).unwrap()[1..3], [SIGNAL, 6]);
    assert_eq!(status(server).unwrap()[2], 77);
    let way = (O::SignalReceive as u64, "Wakes and receives", false);
    assert_eq!(kernel.platform.ways.lock().unwrap().get(&way), Some(&1));
}

/// A server that waits until a little later each time does not have the timer set each time.
#[test]
fn deadlines_that_move_on_set_the_timer_once() {
    let world = World::new(true);
    let kernel = world.kernel;
    let sets = || kernel.platform.cpus[0].timer_sets.load(Ordering::Relaxed);
    arrive(kernel, world.vectors[0]);
    let (before, endpoint) = (sets(), world.endpoints[0]);
    for round in 0..50 {
        let now = 1_000 + round * 10;
        kernel.platform.time.store(now, Ordering::Relaxed);
        block(
            kernel,
            world.threads[0],
            O::Receive,
            &[endpoint, 0],
            now + 1_000,
        );
        running(kernel);
        arrive(kernel, world.vectors[0]);
    }
    assert_eq!(sets() - before, 1);
    // It fires for the first deadline, is set to the last one, and fires for nobody then.
    for (now, timer) in [(2_000, 2_490), (2_490, NEVER)] {
        world.pass(now);
        assert_eq!(world.timer(), timer);
        assert!(is(running(kernel), world.threads[0]));
    }
}

/// Where nothing can be received nothing is signalled before, by either path.
#[test]
fn nothing_is_signalled_before_a_receive_from_a_destroyed_endpoint() {
    for is_fast in [false, true] {
        let kernel = kernel(1);
        let home = task(kernel, 1 << 20);
        let server = thread(kernel, home, 10);
        let endpoint = call(kernel, server, O::EndpointCreate, &[]).unwrap()[0];
        let made = kernel.make_notification(&kernel.root_quota).unwrap();
        let bell = give(kernel, home, Object::Notification(made), Rights::ALL).0;
        call(kernel, server, O::Destroy, &[endpoint]).unwrap();
        kernel.platform.fast.store(is_fast, Ordering::Relaxed);
        let result = call(kernel, server, O::SignalReceive, &[endpoint, 0, bell, 2]);
        assert_eq!(result, Err(Error::InvalidHandle), "fast: {is_fast}");
        let bits = made.try_signals().map(|signals| signals.bits());
        assert_eq!(bits, Some(0), "fast: {is_fast}");
    }
}
