//! Calls and replies on several CPUs at once, by whatever way the kernel takes them, while priorities
//! and CPUs change: every call gets its own answer, no thread is on two CPUs, none is lost, and one that
//! is urgent does not wait while another runs.

use super::bench::{
    TestKernel, become_cpu, enter, give, interrupted, kernel, pause, run_on_all, task, thread,
};
use crate::cpu::Cpu;
use crate::explore::{Exploration, Policy, Stores};
use crate::object::Object;
use crate::random::Random;
use crate::sync::{AtomicUsize, Ordering};
use crate::thread::Thread;
use ipc::message::NEVER;
use ipc::{Label, Operation as O, Rights, Tag};

const SERVERS: usize = 3;
const CLIENTS: usize = 8;

/// CPU 0 to 2.
const CPUS: usize = 3;

/// What the threads are about is in those of their registers that the kernel leaves alone. r13: 1 while
/// the result of a call or receive is to come. r14: the number that the call carries. r15: the
/// endpoint's handle. rbx: 1 for a server. rbp: calls answered.
struct World {
    kernel: TestKernel,
    threads: Vec<&'static Thread>,
    /// Calls that each client makes.
    calls: u64,
    /// Clients that are done.
    done: AtomicUsize,
    /// CPUs that then had nothing to run.
    over: AtomicUsize,
    /// CPUs that have left the kernel for good.
    gone: AtomicUsize,
    /// Steps that each CPU has made.
    steps: [AtomicUsize; CPUS],
}

impl World {
    fn new(calls: u64) -> World {
        let kernel = kernel(CPUS);
        let tasks = [0, 1, 2].map(|_| task(kernel, 4 << 20));
        let endpoint = kernel.make_endpoint(&kernel.root_quota).unwrap();
        let make = |number: usize| {
            let is_server = number < SERVERS;
            let (home, rights) = match is_server {
                true => (tasks[0], Rights::RECEIVE),
                false => (tasks[1 + number % 2], Rights::SEND),
            };
            let handle = give(kernel, home, Object::Endpoint(endpoint), rights);
            let made = thread(kernel, home, 10 + (number % 3) as u8);
            made.registers.r15.set(handle.0);
            made.registers.rbx.set(u64::from(is_server));
            made.registers.r13.set(0);
            made
        };
        World {
            kernel,
            threads: (0..SERVERS + CLIENTS).map(make).collect(),
            calls,
            done: AtomicUsize::new(0),
            over: AtomicUsize::new(0),
            gone: AtomicUsize::new(0),
            steps: Default::default(),
        }
    }

    /// The thread's next step in ring 3: looks at what its last system call brought, and prepares the
    /// next one.
    fn run(&self, cpu: &'static Cpu, thread: &'static Thread) {
        let r = &thread.registers;
        let mine = cpu.index as u64 + 1;
        assert_eq!(r.gs_base.get(), 0, "the thread is on another CPU as well");
        r.gs_base.set(mine);
        let (pending, answer) = (r.r13.get() == 1, r.rdx.get());
        assert!(!pending || r.rax.get() == 0, "status {:#x}", r.rax.get());
        let operation = if r.rbx.get() == 1 {
            r.rdx.set(!answer);
            if pending { O::ReplyReceive } else { O::Receive }
        } else {
            if pending {
                assert_eq!(answer, !r.r14.get(), "another's answer");
                r.rbp.set(r.rbp.get() + 1);
            }
            r.r14.set(thread.slot.number() << 32 | r.rbp.get());
            r.rdx.set(r.r14.get());
            if r.rbp.get() == self.calls {
                O::Exit
            } else {
                O::Call
            }
        };
        if operation as u64 == O::Exit as u64 {
            self.done.fetch_add(1, Ordering::SeqCst);
        }
        r.r13.set(1);
        r.rax.set(operation as u64);
        r.rdi.set(r.r15.get());
        r.rsi.set(Tag::new(Label(5), 8, 0).0);
        r.r12.set(NEVER);
        assert_eq!(r.gs_base.get(), mine, "another CPU has run the thread");
        r.gs_base.set(0);
    }

    /// Steps of the CPU that made the fewest.
    fn slowest(&self) -> usize {
        let steps = self.steps.iter().map(|steps| steps.load(Ordering::SeqCst));
        steps.min().unwrap_or(0)
    }
}

/// One CPU.
struct Worker<'a> {
    world: &'a World,
    cpu: &'static Cpu,
    random: Random,
    kicks: u64,
    /// Since when something more urgent is ready here than what runs, as [`World::slowest`].
    overdue_since: Option<usize>,
}

impl Worker<'_> {
    fn work(&mut self) {
        let (world, kernel, cpu) = (self.world, self.world.kernel, self.cpu);
        let (mut current, mut is_over) = (kernel.leave(cpu), false);
        loop {
            let step = world.steps[cpu.index].fetch_add(1, Ordering::SeqCst);
            assert!(
                step % 256 != 0 || world.slowest() < 200_000,
                "a call is never answered: {} clients are done",
                world.done.load(Ordering::SeqCst)
            );
            if world.done.load(Ordering::SeqCst) == CLIENTS && current.is_none() && !is_over {
                is_over = true;
                world.over.fetch_add(1, Ordering::SeqCst);
            }
            let over = world.over.load(Ordering::SeqCst) == CPUS;
            if over || kernel.platform.failed.load(Ordering::Relaxed) {
                return self.wait_for_the_others();
            }
            if interrupted(kernel, cpu, &mut self.kicks, 300) || self.disturbed() {
                current = self.leave();
                continue;
            }
            self.check_urgency(current);
            let Some(thread) = current else {
                pause();
                continue;
            };
            world.run(cpu, thread);
            current = match enter(kernel, cpu) {
                true => self.leave(),
                false => cpu.current.get(),
            };
        }
    }

    /// Serves this CPU's mailbox until no other CPU can wait for it.
    fn wait_for_the_others(&self) {
        let (world, kernel) = (self.world, self.world.kernel);
        world.gone.fetch_add(1, Ordering::SeqCst);
        while world.gone.load(Ordering::SeqCst) < CPUS
            && !kernel.platform.failed.load(Ordering::Relaxed)
        {
            kernel.serve_flush(self.cpu);
            pause();
        }
    }

    /// Now and then changes a thread's priority or CPUs; true if the kernel was entered.
    fn disturbed(&mut self) -> bool {
        if self.random.below(50) != 0 {
            return false;
        }
        let (kernel, cpu) = (self.world.kernel, self.cpu);
        let threads = &self.world.threads;
        let thread = threads[self.random.below(threads.len())];
        kernel.enter(cpu);
        if self.random.below(2) == 0 {
            kernel.set_priority(cpu, thread, 5 + self.random.below(8) as u8);
        } else {
            let sets = [u64::MAX, 0b001, 0b010, 0b100, 0b011, 0b110, 0b111];
            let set = sets[self.random.below(sets.len())];
            assert!(kernel.set_affinity(cpu, thread, set).is_ok());
        }
        true
    }

    /// Whoever makes an urgent thread ready kicks this CPU right afterwards. So when every CPU has gone
    /// some way since, and this one was not on its way out of the kernel, that was forgotten.
    fn check_urgency(&mut self, current: Option<&'static Thread>) {
        let running = current.map_or(0, |thread| thread.urgency());
        if self.cpu.run_queue().top() <= running {
            return;
        }
        let now = self.world.slowest();
        let since = *self.overdue_since.get_or_insert(now);
        assert!(now < since + 100, "an urgent thread waits unseen");
    }

    /// The way out of the kernel, which looks at the run queue where it was told to.
    fn leave(&mut self) -> Option<&'static Thread> {
        self.overdue_since = None;
        self.world.kernel.leave(self.cpu)
    }
}

/// Plays a world of a seed with so many calls of each client to its end, its CPUs as `run` says. Adds up how
/// often the fast path was taken.
fn play(seed: u64, calls: u64, taken: &mut [u64; 2], run: impl FnOnce(&(dyn Fn(usize) + Sync))) {
    let world = World::new(calls);
    let kernel = world.kernel;
    run(&|index| {
        become_cpu(kernel, index);
        let mut worker = Worker {
            world: &world,
            cpu: &kernel.cpus()[index],
            random: Random::new(seed * 16 + index as u64),
            kicks: 0,
            overdue_since: None,
        };
        let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.work()));
        if let Err(panic) = worked {
            kernel.platform.failed.store(true, Ordering::Relaxed);
            std::panic::resume_unwind(panic);
        }
    });
    for (sum, taken) in taken.iter_mut().zip(&kernel.platform.taken) {
        *sum += taken.load(Ordering::Relaxed);
    }
    for server in &world.threads[..SERVERS] {
        assert!(server.is_waiting(), "a server is lost");
    }
}

#[test]
fn every_call_gets_its_answer() {
    let mut taken = [0, 0];
    for seed in 0..10 {
        play(seed, 2_000, &mut taken, |work| run_on_all(CPUS, work));
    }
    assert!(
        taken.iter().all(|taken| *taken > 0),
        "the fast path was taken {taken:?} times"
    );
}

#[test]
fn every_call_gets_its_answer_whoever_goes_on() {
    let mut taken = [0, 0];
    for seed in 0..60 {
        let stores = [Stores::Late, Stores::AtOnce][seed as usize % 2];
        let pace = [5, 30, 200][seed as usize % 3];
        println!("seed {seed}, {stores:?}, pace {pace}");
        let policy = Policy::Random(Random::new(seed), pace);
        play(seed, 10, &mut taken, |work| {
            Exploration::new(CPUS).run(policy, stores, work);
        });
    }
    assert!(
        taken.iter().all(|taken| *taken > 0),
        "the fast path was taken {taken:?} times"
    );
}
