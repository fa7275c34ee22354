//! The fast path beside the slow one: signals, waits, yields, interrupts and faults. Two kernels go through
//! the same random steps, one by the fast path, and must be alike after each; what signals do is compared
//! with a model as well.

use super::bench::{
    TestKernel, arrive, block, call, enter, fault, give, is, kernel, run, running, status,
    system_call_until, tag, task, thread,
};
use crate::fake::run_on;
use crate::interrupt::InterruptSource;
use crate::object::Object;
use crate::platform::LineMode;
use crate::random::Random;
use crate::sync::Ordering;
use crate::task::Task;
use crate::thread::Thread;
use ipc::info::INTERRUPT_MESSAGE;
use ipc::message::NEVER;
use ipc::{Error, Label, Operation as O, Rights, Tag};

const THREADS: usize = 7;
const NOTIFICATIONS: usize = 3;
/// More urgent, as urgent and less urgent ones, in three tasks.
const PRIORITIES: [u8; THREADS] = [10, 10, 11, 9, 12, 10, 9];

struct World {
    kernel: TestKernel,
    threads: Vec<&'static Thread>,
    /// Handles to the notifications, the same numbers in each task.
    handles: Vec<u64>,
    /// Vectors of the interrupts that signal them.
    vectors: Vec<u8>,
}

impl World {
    fn new(is_fast: bool) -> World {
        let kernel = kernel(1);
        let tasks = [0, 1, 2].map(|_| task(kernel, 1 << 20));
        let (mut handles, mut vectors) = (Vec::new(), Vec::new());
        for _ in 0..NOTIFICATIONS {
            let notification = kernel.make_notification(&kernel.root_quota).unwrap();
            let object = Object::Notification(notification);
            let given = tasks.map(|home| give(kernel, home, object, Rights::ALL).0);
            assert!(given.iter().all(|handle| *handle == given[0]));
            handles.push(given[0]);
            let source = InterruptSource {
                line: INTERRUPT_MESSAGE,
                mode: LineMode {
                    level: false,
                    active_low: false,
                },
            };
            let quota = &kernel.root_quota;
            let interrupt = kernel.make_interrupt(quota, &source, notification, 1 << 40);
            vectors.push(interrupt.unwrap().vector());
        }
        let make = |number: usize| thread(kernel, tasks[number % 3], PRIORITIES[number]);
        let threads = (0..THREADS).map(make).collect();
        // Everybody has run once, and is at home then.
        kernel.platform.fast.store(is_fast, Ordering::Relaxed);
        World {
            kernel,
            threads,
            handles,
            vectors,
        }
    }

    fn number(&self, thread: Option<&'static Thread>) -> Option<usize> {
        self.threads.iter().position(|one| is(thread, one))
    }

    /// The running thread makes a system call.
    fn issue(&self, number: usize, operation: O, arguments: &[u64], deadline: u64) {
        let thread = self.threads[number];
        let r = &thread.registers;
        r.rax.set(operation as u64);
        for (register, value) in [&r.rdi, &r.rsi].iter().zip(arguments) {
            register.set(*value);
        }
        r.r12.set(deadline);
        let cpu = &self.kernel.cpus()[0];
        if enter(self.kernel, cpu) {
            self.kernel.leave(cpu);
        }
    }

    /// What can be seen of it: who runs, who waits, the status of those that do not.
    fn look(&self) -> (Option<usize>, Vec<Option<u64>>) {
        let current = self.kernel.cpus()[0].current.get();
        let status = |thread: &&'static Thread| {
            let status = thread.registers.rax.get();
            (!thread.is_waiting()).then_some(status)
        };
        (
            self.number(current),
            self.threads.iter().map(status).collect(),
        )
    }
}

/// What signals do.
#[derive(Default)]
struct Model {
    bits: [u64; NOTIFICATIONS],
    waiters: [Option<usize>; NOTIFICATIONS],
}

impl Model {
    /// The thread whose wait ends, and with which bits.
    fn signal(&mut self, which: usize, bits: u64) -> Option<(usize, u64)> {
        self.bits[which] |= bits;
        if self.bits[which] == 0 {
            return None;
        }
        let waiter = self.waiters[which].take()?;
        Some((waiter, core::mem::take(&mut self.bits[which])))
    }
}

#[test]
fn signals_waits_yields_and_interrupts_do_the_same_by_either_path() {
    let mut taken = [0, 0];
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let (fast, slow) = (World::new(true), World::new(false));
        let mut model = Model::default();
        for world in [&fast, &slow] {
            running(world.kernel);
        }
        for _ in 0..400 {
            let now = fast.look();
            assert_eq!(now, slow.look());
            let which = random.below(NOTIFICATIONS);
            let Some(number) = now.0 else {
                // Nobody runs: something happens from outside.
                let woken = model.signal(which, 1 << 40);
                for world in [&fast, &slow] {
                    arrive(world.kernel, world.vectors[which]);
                    expect(world, woken);
                }
                continue;
            };
            let bits = [0, 1, 2, 1 << 63][random.below(4)];
            match random.below(10) {
                0..4 => {
                    let woken = model.signal(which, bits);
                    for world in [&fast, &slow] {
                        world.issue(number, O::Signal, &[world.handles[which], bits], NEVER);
                        expect(world, woken);
                        assert_eq!(world.threads[number].registers.rax.get(), 0);
                    }
                }
                4..7 => {
                    let there = core::mem::take(&mut model.bits[which]);
                    let busy = there == 0 && model.waiters[which].is_some();
                    if there == 0 && !busy {
                        model.waiters[which] = Some(number);
                    }
                    for world in [&fast, &slow] {
                        world.issue(number, O::Wait, &[world.handles[which], 0], NEVER);
                        let thread = world.threads[number];
                        match (there, busy) {
                            (0, true) => assert_eq!(status(thread), Err(Error::Busy)),
                            (0, false) => assert!(thread.is_waiting()),
                            (bits, _) => assert_eq!(status(thread).unwrap()[0], bits),
                        }
                    }
                }
                7 => {
                    let woken = model.signal(which, 1 << 40);
                    for world in [&fast, &slow] {
                        arrive(world.kernel, world.vectors[which]);
                        expect(world, woken);
                    }
                }
                8 => {
                    for world in [&fast, &slow] {
                        world.issue(number, O::Yield, &[0, 0], NEVER);
                    }
                }
                _ => {
                    let priority = 8 + random.below(5) as u8;
                    let other = random.below(THREADS);
                    for world in [&fast, &slow] {
                        let cpu = &world.kernel.cpus()[0];
                        let thread = world.threads[other];
                        world.kernel.set_priority(cpu, thread, priority);
                        world.kernel.leave(cpu);
                    }
                }
            }
        }
        for (sum, taken) in taken.iter_mut().zip(&fast.kernel.platform.taken) {
            *sum += taken.load(Ordering::Relaxed);
        }
    }
    assert!(taken[0] > 1000, "the fast path was taken {taken:?} times");
}

/// The thread whose wait ends has the bits.
fn expect(world: &World, woken: Option<(usize, u64)>) {
    if let Some((number, bits)) = woken {
        let thread = world.threads[number];
        assert!(!thread.is_waiting(), "it is woken");
        assert_eq!(status(thread).unwrap()[0], bits);
    }
}

#[test]
fn an_answered_fault_leaves_its_thread_as_it_was() {
    // The fault is received at once or later; its answer finds the thread first or not.
    for (waits, is_first) in [(true, true), (false, true), (true, false)] {
        let kernel = kernel(1);
        let endpoint = kernel.make_endpoint(&kernel.root_quota).unwrap();
        let object = Object::Endpoint(endpoint);
        let home = task(kernel, 1 << 20);
        let quota = kernel.root_quota.carve(kernel, 1 << 20).unwrap();
        let other = kernel
            .make_task(&kernel.root_quota, quota, Some(object), 63)
            .unwrap();
        let handler = thread(kernel, home, 9);
        let receive = give(kernel, home, object, Rights::ALL).0;
        let send = give(kernel, other, object, Rights::SEND).0;
        let one = thread(kernel, other, 9);
        if waits {
            block(kernel, handler, O::Receive, &[receive, 0], NEVER);
        }
        run(kernel, one);
        let r = &one.registers;
        let places = [&r.rax, &r.rdi, &r.rsi, &r.rdx, &r.r8, &r.r9, &r.r10, &r.rip];
        for (number, place) in places.iter().enumerate() {
            place.set(0x1000 + number as u64);
        }
        let before = places.map(|place| place.get());
        fault(kernel, 14, 0xdead_0000);
        assert!(is(running(kernel), handler));
        if !waits {
            call(kernel, handler, O::Receive, &[receive, 0]).unwrap();
        }
        let received = status(handler).unwrap();
        assert_eq!(Tag(received[1]).label(), Label::FAULT);
        assert_eq!((received[2], received[4]), (14, 0xdead_0000));
        let news = kernel.make_notification(&kernel.root_quota).unwrap();
        let wait = give(kernel, home, Object::Notification(news), Rights::ALL).0;
        let urgent = thread(kernel, home, 10);
        block(kernel, urgent, O::Wait, &[wait], NEVER);
        run(kernel, handler);
        let woken = kernel.set_bits(news, u64::from(!is_first));
        if let Some(urgent) = woken {
            // It is more urgent than the thread that faulted, and ready.
            kernel.make_ready(&kernel.cpus()[0], urgent);
        }
        let answer = [receive, tag(9, 32), 1, 2, 3, 4];
        system_call_until(kernel, handler, O::ReplyReceive, &answer, NEVER);
        if let Some(urgent) = woken {
            block(kernel, urgent, O::Wait, &[wait], NEVER);
        }
        run(kernel, one);
        let after = places.map(|place| place.get());
        assert_eq!(before, after, "it goes on as it was");
        assert!(!one.faulting.load(Ordering::Relaxed));
        // Its next call is a call.
        block(kernel, one, O::Call, &[send, tag(5, 8), 77], NEVER);
        let received = status(handler).unwrap();
        assert_eq!((received[1], received[2]), (tag(5, 8), 77));
    }
}

#[test]
fn bits_of_a_destroyed_notification_are_gone() {
    let kernel = kernel(1);
    let home: &'static Task = task(kernel, 1 << 20);
    let one = thread(kernel, home, 9);
    let made = call(kernel, one, O::NotificationCreate, &[]).unwrap()[0];
    call(kernel, one, O::Signal, &[made, 1]).unwrap();
    call(kernel, one, O::Destroy, &[made]).unwrap();
    let waited = call(kernel, one, O::Wait, &[made]);
    assert_eq!(waited, Err(Error::InvalidHandle));
    let signalled = call(kernel, one, O::Signal, &[made, 1]);
    assert_eq!(signalled, Err(Error::InvalidHandle));
}

/// A thread that was chosen to run here, but made room before it did, has not been here.
#[test]
fn a_cpu_is_in_the_set_of_the_space_of_whoever_is_at_home_on_it() {
    let kernel = kernel(2);
    let [here, there] = [&kernel.cpus()[0], &kernel.cpus()[1]];
    let (home, other) = (task(kernel, 1 << 20), task(kernel, 1 << 20));
    let endpoint = kernel.make_endpoint(&kernel.root_quota).unwrap();
    let receive = give(kernel, other, Object::Endpoint(endpoint), Rights::ALL).0;
    let send = give(kernel, home, Object::Endpoint(endpoint), Rights::ALL).0;
    let server = thread(kernel, other, 9);
    // The server runs on CPU 1 only, and waits.
    run_on(1);
    kernel.leave(here);
    kernel.kicked(there);
    assert!(
        is(kernel.leave(there).or_else(|| kernel.leave(there)), server) || {
            run_on(0);
            is(here.current.get(), server)
        }
    );
    let cpu = match is(there.current.get(), server) {
        true => there,
        false => here,
    };
    let elsewhere = match core::ptr::eq(cpu, here) {
        true => there,
        false => here,
    };
    run_on(cpu.index);
    let r = &server.registers;
    r.rax.set(O::Receive as u64);
    r.rdi.set(receive);
    r.rsi.set(0);
    r.r12.set(NEVER);
    enter(kernel, cpu);
    kernel.leave(cpu);
    assert!(server.is_waiting());
    // A call from the other CPU, where at the same time something more urgent gets ready.
    run_on(elsewhere.index);
    let client = thread(kernel, home, 9);
    let urgent = thread(kernel, home, 20);
    let only = 1 << elsewhere.index;
    for one in [client, urgent] {
        assert!(kernel.set_affinity(elsewhere, one, only).is_ok());
    }
    while !is(elsewhere.current.get(), urgent) {
        kernel.leave(elsewhere);
    }
    let quiet = kernel.make_notification(&kernel.root_quota).unwrap();
    let wait = give(kernel, home, Object::Notification(quiet), Rights::ALL).0;
    for (thread, operation, argument) in [(urgent, O::Wait, wait), (client, O::Call, send)] {
        assert!(is(elsewhere.current.get(), thread));
        let r = &thread.registers;
        r.rax.set(operation as u64);
        r.rdi.set(argument);
        r.rsi.set(tag(5, 0));
        r.r12.set(NEVER);
        enter(kernel, elsewhere);
        if operation as u64 == O::Call as u64
            && let Some(woken) = kernel.set_bits(quiet, 1)
        {
            kernel.make_ready(elsewhere, woken);
        }
        kernel.leave(elsewhere);
    }
    assert!(is(elsewhere.current.get(), urgent));
    for one in [server, client, urgent] {
        for cpu in kernel.cpus() {
            let is_in = one.task().cpus.contains(cpu.index);
            assert!(is_in || !one.is_at_home(cpu.index), "CPU {}", cpu.index);
        }
    }
    assert!(server.is_at_home(elsewhere.index), "it was chosen there");
}
