//! Threads with scripts, on several CPUs that take turns as an explorer says: what the explored tests have
//! in common. What is tried is `explored`'s.

use super::bench::{TestKernel, become_cpu, enter, interrupted, pause, status, task};
use super::tlb::remember_all;
use crate::cpu::Cpu;
use crate::create::ThreadStart;
use crate::explore::{self, Exploration, Policy, Run, Stores};
use crate::object::Object;
use crate::sync::Ordering;
use crate::task::Task;
use crate::thread::Thread;
use ipc::message::NEVER;
use ipc::{Error, Operation as O};
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

/// Where a thread is in ring 3 before and behind its system call.
const AGAIN: u64 = 0x40_0000;
const AFTER: u64 = AGAIN + 2;

/// Turns after which a CPU is taken to wait in vain: several slices of time.
const MOST_TURNS: u32 = 20_000;

/// How often the other CPUs go on, each up to where it waits, until it is done with what it had begun.
const ROUNDS: usize = 8;
/// Accesses of a system call, about.
const ACCESSES: usize = 2_000;

/// What a thread's last system call gave.
pub(super) type Outcome = Result<[u64; 6], Error>;

/// A system call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ask {
    operation: O,
    arguments: [u64; 6],
    deadline: u64,
}

/// A system call without deadline.
pub(super) fn ask(operation: O, arguments: &[u64]) -> Ask {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    Ask {
        operation,
        arguments: all,
        deadline: NEVER,
    }
}

impl Ask {
    /// The same with a deadline, in nanoseconds since boot.
    pub(super) fn until(self, deadline: u64) -> Ask {
        Ask { deadline, ..self }
    }
}

/// What a thread does next, told what its last system call gave (the first time: nothing); ends it with
/// `None`.
pub(super) type Script = Box<dyn FnMut(Option<Outcome>) -> Option<Ask> + Send>;

struct Actor {
    thread: &'static Thread,
    /// It is handed out anew once it has ended.
    number: u64,
    script: Mutex<Script>,
}

impl Actor {
    fn is_over(&self) -> bool {
        let is_another = self.thread.slot.number() != self.number;
        is_another || self.thread.dead.load(Ordering::Relaxed)
    }
}

/// The threads of one attempt.
pub(super) struct Cast {
    kernel: TestKernel,
    homes: Vec<&'static Task>,
    actors: Vec<Actor>,
    /// Whether each CPU's TLB remembers all it may whenever ring 3 runs.
    pub(super) remembers: bool,
    /// CPUs that have left the kernel for good.
    gone: AtomicUsize,
}

impl Cast {
    /// Nobody yet.
    pub(super) fn new(kernel: TestKernel) -> Cast {
        Cast {
            kernel,
            homes: Vec::new(),
            actors: Vec::new(),
            remembers: false,
            gone: AtomicUsize::new(0),
        }
    }

    /// A new task, which ends with its last thread.
    pub(super) fn home(&mut self) -> &'static Task {
        let made = task(self.kernel, 256 << 10);
        self.homes.push(made);
        made
    }

    /// Adds a thread of a task, which may run on these CPUs.
    pub(super) fn add(
        &mut self,
        task: &'static Task,
        priority: u8,
        cpus: u64,
        script: impl FnMut(Option<Outcome>) -> Option<Ask> + Send + 'static,
    ) -> &'static Thread {
        let start = ThreadStart {
            entry: AGAIN,
            stack: 0x50_0000,
            arguments: [0; 3],
            fs_base: 0,
            priority,
            uses_fpu: false,
        };
        let thread = self.kernel.make_thread(task, start).unwrap();
        thread.affinity.store(cpus, Ordering::Relaxed);
        self.actors.push(Actor {
            thread,
            number: thread.slot.number(),
            script: Mutex::new(Box::new(script)),
        });
        thread
    }

    /// Lets them all play, on all CPUs, until each has ended and all that they had is reclaimed.
    pub(super) fn play(&self, on: &Exploration, policy: Policy, stores: Stores) -> Run {
        let remembers = &self.kernel.platform.remembers;
        remembers.store(self.remembers, std::sync::atomic::Ordering::SeqCst);
        for actor in &self.actors {
            assert!(self.kernel.start_thread(actor.thread));
            self.kernel.drop_reference(Object::Thread(actor.thread));
        }
        for home in &self.homes {
            self.kernel.drop_reference(Object::Task(home));
        }
        // At random a CPU goes on a few accesses at a time.
        let rounds = match policy {
            Policy::List(_) => ROUNDS,
            Policy::Random(_, pace) => ROUNDS + ACCESSES / pace,
        };
        on.run(policy, stores, |index| {
            become_cpu(self.kernel, index);
            self.work(&self.kernel.cpus()[index], rounds);
        })
    }

    fn work(&self, cpu: &'static Cpu, rounds: usize) {
        let (kernel, mut kicks) = (self.kernel, 0);
        let mut current = kernel.leave(cpu);
        for turn in 0.. {
            assert!(
                turn < MOST_TURNS,
                "nothing gets further: {:#?}",
                self.left()
            );
            if self.is_over() {
                // What is left to do is the same whoever does it.
                explore::calm();
                if current.is_none() && kernel.reclaim.count() == 0 {
                    break;
                }
            }
            if interrupted(kernel, cpu, &mut kicks, 300) {
                current = kernel.leave(cpu);
                if current.is_none() {
                    // It may go on for as long as it likes, and wait for the others.
                    pause();
                }
                continue;
            }
            let Some(thread) = current else {
                pause();
                continue;
            };
            if !self.is_right(cpu, thread, kicks, rounds) {
                continue;
            }
            if self.remembers {
                explore::without_turns(|| remember_all(kernel, cpu.index));
            }
            self.turn(cpu, thread);
            current = match enter(kernel, cpu) {
                true => kernel.leave(cpu),
                false => cpu.current.get(),
            };
        }
        let order = std::sync::atomic::Ordering::SeqCst;
        self.gone.fetch_add(1, order);
        while self.gone.load(order) < kernel.cpus().len() {
            kernel.serve_flush(cpu);
            pause();
        }
    }

    /// Whether this CPU still runs the right thread, in the end: that one may run here, nobody more urgent is
    /// ready here, and others take the CPU for as busy as it is. If not, whoever changed it kicks the CPU within
    /// so many rounds: then false.
    fn is_right(
        &self,
        cpu: &'static Cpu,
        thread: &'static Thread,
        seen: u64,
        rounds: usize,
    ) -> bool {
        let kernel = self.kernel;
        let is_kicked = || kernel.platform.cpus[cpu.index].kicks.load(Ordering::SeqCst) != seen;
        for _ in 0..rounds {
            let urgency = thread.urgency();
            let is_right = thread.may_run_on(cpu.index)
                && cpu.run_queue().top() <= urgency
                && cpu.running.load(Ordering::Relaxed) == urgency
                && !thread.is_doomed();
            if is_right || is_kicked() {
                return is_right;
            }
            pause();
        }
        panic!("nobody tells CPU {} that something has changed", cpu.index);
    }

    /// The thread's time in ring 3, up to its next system call.
    fn turn(&self, cpu: &'static Cpu, thread: &'static Thread) {
        let r = &thread.registers;
        let mine = cpu.index as u64 + 1;
        assert_eq!(r.gs_base.get(), 0, "the thread is on another CPU as well");
        r.gs_base.set(mine);
        let number = thread.slot.number();
        let actor = self.actors.iter().find(|actor| actor.number == number);
        let actor = actor.expect("a thread of the cast");
        let mut script = actor.script.lock().unwrap();
        let first = r.r14.get() == 0;
        r.r14.set(1);
        if first || r.rip.get() != AGAIN {
            let outcome = (!first).then(|| status(thread));
            let next = script(outcome).unwrap_or(ask(O::Exit, &[]));
            r.rax.set(next.operation as u64);
            let registers = [&r.rdi, &r.rsi, &r.rdx, &r.r8, &r.r9, &r.r10];
            for (register, value) in registers.iter().zip(next.arguments) {
                register.set(value);
            }
            r.r12.set(next.deadline);
        }
        if r.rip.get() == AGAIN && !first {
            // It is to be issued again, maybe until another CPU has done its part.
            pause();
        }
        r.rip.set(AFTER);
        assert_eq!(r.gs_base.get(), mine, "another CPU has run the thread");
        r.gs_base.set(0);
    }

    /// What is known of the threads that have not ended.
    fn left(&self) -> Vec<String> {
        let left = self.actors.iter().filter(|actor| !actor.is_over());
        left.map(|Actor { thread, number, .. }| {
            let (waits, kind, doomed) =
                (thread.is_waiting(), thread.wait_kind(), thread.is_doomed());
            format!("thread {number}: waits {waits} {kind:?}, doomed {doomed}")
        })
        .chain([format!(
            "{} are being reclaimed",
            self.kernel.reclaim.count()
        )])
        .collect()
    }

    /// Whether each thread has ended.
    fn is_over(&self) -> bool {
        self.actors.iter().all(Actor::is_over)
    }
}
