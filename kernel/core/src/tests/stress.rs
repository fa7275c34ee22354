//! Threads on several CPUs that do anything at all: each CPU is a thread of the host, and each thread
//! that the kernel gives it issues random operations with valid and wild arguments.
//!
//! While it goes on: no panic, the lock order is kept, no thread is on two CPUs, and an operation ends
//! with a result or an error that its page lists. When all tasks are destroyed, nothing is left.
//!
//! With one CPU a run depends on its seed only. `KERNEL_STRESS_STEPS` and `KERNEL_STRESS_SEED` make
//! longer and other runs.

use super::bench::{TestKernel, become_cpu, enter, interrupted, kernel, pause, run_on_all};
use super::tlb::remember_all;
use crate::cpu::Cpu;
use crate::create::ThreadStart;
use crate::handles::Held;
use crate::object::Object;
use crate::random::Random;
use crate::sync::{AtomicUsize, Ordering};
use crate::task::{Task, TaskState};
use crate::thread::Thread;
use ipc::message::{NEVER, RECEIVED_HANDLES_OFFSET, SEND_HANDLES_OFFSET, Transfer};
use ipc::{Error, Handle, ObjectKind, Operation as O, Rights, Tag};
use std::collections::BTreeMap;
use std::sync::Mutex;

const PAGE: u64 = 4096;
/// Where an operation that is to be issued stands, and where it ends.
const AGAIN: u64 = 0x40_0000;
const AFTER: u64 = AGAIN + 2;
/// In `r13` of a thread: no operation is under way.
const NOTHING: u64 = u64::MAX;
/// Tasks that there should be at least.
const TASKS: usize = 5;

struct World {
    kernel: TestKernel,
    /// Tasks that were seen, with their numbers.
    tasks: Mutex<BTreeMap<usize, (&'static Task, u64)>>,
    /// Threads that ran.
    threads: Mutex<BTreeMap<u64, &'static Thread>>,
    /// Values that are likely handles: those that were handed out.
    handles: Mutex<BTreeMap<u64, Vec<u64>>>,
    errors: Vec<Vec<Error>>,
    steps: usize,
    stopped: AtomicUsize,
    /// The steps that each CPU has made.
    progress: Vec<AtomicUsize>,
    done: [AtomicUsize; O::ALL.len()],
}

/// The errors that the page of an operation lists.
fn documented(operation: O) -> Vec<Error> {
    let mut text = operation.reference().1.to_owned();
    let more = match operation {
        O::Send => vec![O::Call],
        O::ReplyReceive => vec![O::Reply, O::Receive],
        O::SignalReceive => vec![O::Receive],
        _ => vec![],
    };
    more.iter().for_each(|other| text += other.reference().1);
    let all = Error::ALL.iter().copied();
    all.filter(|error| {
        text.split(|c: char| !c.is_alphanumeric())
            .any(|word| word == format!("{error:?}"))
    })
    .collect()
}

/// One CPU of the world.
struct Worker<'a> {
    world: &'a World,
    cpu: &'static Cpu,
    random: Random,
    kicks: u64,
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let failed = &self.world.kernel.platform.failed;
            failed.store(true, Ordering::Relaxed);
        }
    }
}

impl Worker<'_> {
    fn chance(&mut self, percent: usize) -> bool {
        self.random.below(100) < percent
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.random.below(of.len())]
    }

    /// A value that no argument should be trusted with.
    fn wild(&mut self) -> u64 {
        let random = self.random.next();
        let edges = [
            0,
            1,
            2,
            PAGE,
            PAGE - 1,
            1 << 31,
            1 << 32,
            1 << 44,
            1 << 47,
            1 << 63,
        ];
        match self.random.below(4) {
            0 => random,
            1 => random >> self.random.below(64),
            2 => self.pick(&edges),
            _ => self.pick(&edges).wrapping_sub(1),
        }
    }

    /// A handle of the task, of a kind if possible.
    fn handle(&mut self, thread: &'static Thread, kind: ObjectKind) -> u64 {
        if self.chance(3) {
            return self.wild();
        }
        let known = self.world.handles.lock().unwrap();
        let Some(values) = known.get(&thread.task().slot.number()) else {
            return 1 << 16 | 1;
        };
        let mut found = 0;
        for _ in 0..12 {
            found = values[self.random.below(values.len())];
            let held = thread.task().handles.look_up(Handle(found));
            if held.is_ok_and(|held| held.object.kind() == kind) {
                break;
            }
        }
        found
    }

    fn remember(&self, task: &'static Task, handle: u64) {
        let mut known = self.world.handles.lock().unwrap();
        let values = known.entry(task.slot.number()).or_default();
        if values.len() >= 64 {
            values.remove(8);
        }
        values.push(handle);
    }

    /// What the thread is told of its last operation, checked and remembered.
    fn take_result(&mut self, thread: &'static Thread) {
        let r = &thread.registers;
        let number = r.r13.get();
        if number == NOTHING {
            return;
        }
        r.r13.set(NOTHING);
        let Some(operation) = O::from_number(number) else {
            assert_eq!(r.rax.get(), Error::InvalidOperation.code());
            return;
        };
        if r.rax.get() != 0 {
            let error = Error::from_code(r.rax.get()).unwrap_or_else(|| {
                panic!("{operation:?} ends with status {:#x}", r.rax.get());
            });
            let known = self.world.errors[number as usize].contains(&error);
            assert!(
                known,
                "{operation:?} ends with {error:?}, which is not on its page"
            );
            return;
        }
        self.world.done[number as usize].fetch_add(1, Ordering::Relaxed);
        match operation {
            O::Call | O::Receive | O::ReplyReceive | O::SignalReceive => {
                let first = RECEIVED_HANDLES_OFFSET / 8;
                for position in 0..Tag(r.rsi.get()).handles() {
                    let handle = thread.buffer()[first + position].load(Ordering::Relaxed);
                    self.remember(thread.task(), handle);
                }
            }
            O::Stash
            | O::Duplicate
            | O::EndpointCreate
            | O::BadgeMint
            | O::NotificationCreate
            | O::MemoryCreate
            | O::MemoryDevice
            | O::TaskCreate
            | O::ThreadCreate
            | O::InterruptCreate
            | O::IoPortsCreate => self.remember(thread.task(), r.rdi.get()),
            _ => {}
        }
    }

    fn see(&self, task: &'static Task) {
        let mut tasks = self.world.tasks.lock().unwrap();
        let key = core::ptr::from_ref(task).addr();
        tasks.insert(key, (task, task.slot.number()));
    }

    fn operation(&mut self) -> O {
        match self.random.below(1000) {
            0..2 => O::Exit,
            2..5 => O::Destroy,
            5..40 => O::Close,
            40..330 => self.pick(&[
                O::Call,
                O::Receive,
                O::ReplyReceive,
                O::Reply,
                O::Send,
                O::SignalReceive,
            ]),
            _ => loop {
                let operation = self.pick(O::ALL);
                // Stopping the machine, and what would stop all others.
                if !matches!(operation, O::SystemPower | O::Exit | O::Destroy) {
                    return operation;
                }
            },
        }
    }

    /// Puts a random operation into the thread's registers.
    fn prepare(&mut self, thread: &'static Thread) {
        use ObjectKind as K;
        let operation = self.operation();
        let r = &thread.registers;
        let address = 0x40_0000 + self.random.below(8) as u64 * PAGE;
        let pages = self.pick(&[1, 1, 2, 3, 40, 600]) * PAGE;
        let rights = match self.random.below(4) {
            0 => self.random.next() & 0xffff,
            _ => u64::from(Rights::ALL.0),
        };
        let tag = self.tag(thread);
        let small = self.random.below(70) as u64;
        let cpus = self.world.kernel.cpus().len();
        let any = {
            let kind = self.pick(&K::ALL);
            self.handle(thread, kind)
        };
        let mut h = |kind| self.handle(thread, kind);
        let mut a: [u64; 6] = match operation {
            O::Call | O::Send | O::Receive | O::ReplyReceive => [h(K::Endpoint), tag, 1, 2, 3, 4],
            O::SignalReceive => [h(K::Endpoint), tag, h(K::Notification), small, 0, 0],
            O::Reply if small & 1 == 0 => [0, tag, 1, 2, 3, 4],
            O::Reply => [h(K::Reply), tag, 1, 2, 3, 4],
            O::FutexWait => [address + small / 8 * 4, 0, 0, 0, 0, 0],
            O::FutexWake => [address + small / 8 * 4, small, 0, 0, 0, 0],
            O::Signal | O::Wait | O::NotificationBind => [h(K::Notification), small, 0, 0, 0, 0],
            O::SystemInspect => [h(K::SystemControl), small & 7, small, 0, 0, 0],
            O::LogWrite => [h(K::SystemControl), small, 0, 0, 0, 0],
            O::Tunable => [h(K::SchedControl), small & 15, 0, 0, 0, 0],
            O::TraceRead => [h(K::Trace), small & 7, 0, 0, 0, 0],
            O::BadgeMint => [h(K::Endpoint), small, 0, 0, 0, 0],
            O::Close | O::Duplicate | O::HandleInspect | O::Destroy => [any, rights, 0, 0, 0, 0],
            O::MemoryCreate => [pages, small & 1, 0, 0, 0, 0],
            O::MemoryDevice => [h(K::DeviceControl), 0xe000_0000, pages, small & 1, 0, 0],
            O::MemoryMap => {
                let length = if small & 1 == 0 { PAGE } else { pages };
                [h(K::Task), h(K::Memory), address, 0, length, small & 3]
            }
            O::MemoryUnmap => [h(K::Task), address, 0, 0, 0, 0],
            O::MemoryInspect => [h(K::Memory), 0, 0, 0, 0, 0],
            O::MemoryExpose => [h(K::DeviceControl), h(K::Memory), small & 1, 0, 0, 0],
            O::TaskCreate => {
                let fault = if small & 1 == 0 { 0 } else { h(K::Endpoint) };
                [1 << 16 | 1, (small + 1) * PAGE, fault, small & 15, 0, 0]
            }
            O::TaskGrant => [h(K::Task), any, rights, 0, 0, 0],
            O::ThreadCreate => [
                h(K::Task),
                AFTER,
                0x50_0000,
                0,
                0,
                (small & 15) | (small / 32) << 8,
            ],
            O::ThreadSet if small & 1 == 0 => [h(K::Thread), 0, 0, 0, 0, 0],
            O::ThreadSet if small & 2 == 0 => [h(K::Thread), 1, small & 15, 0, 0, 0],
            O::ThreadSet => [h(K::Thread), 2, small & ((1 << cpus) - 1), 0, 0, 0],
            O::TaskInspect => [h(K::Task), 0, 0, 0, 0, 0],
            O::ThreadInspect => [h(K::Thread), 0, 0, 0, 0, 0],
            O::InterruptCreate => [
                h(K::DeviceControl),
                small & 7,
                h(K::Notification),
                small,
                small & 3,
                0,
            ],
            O::InterruptAcknowledge => [h(K::Interrupt), 0, 0, 0, 0, 0],
            O::IoPortsCreate => [h(K::DeviceControl), small, small, 0, 0, 0],
            O::IoPortsAttach => [h(K::IoPorts), 0, 0, 0, 0, 0],
            _ => [any, small, small, small, 0, 0],
        };
        if self.chance(3) {
            a[self.random.below(6)] = self.wild();
        }
        for (register, value) in [&r.rdi, &r.rsi, &r.rdx, &r.r8, &r.r9, &r.r10].iter().zip(a) {
            register.set(value);
        }
        let now = self.world.kernel.platform.time.load(Ordering::Relaxed);
        // For ever often enough for the fast path, which takes a deadline only after an earlier one.
        r.r12.set(match self.random.below(40) {
            0..10 => NEVER,
            10 => self.wild(),
            11..16 => 0,
            _ => now + self.random.below(200_000) as u64,
        });
        let wild = self.wild();
        let number = if self.chance(1) && wild != O::SystemPower as u64 {
            wild
        } else {
            operation as u64
        };
        r.rax.set(number);
        r.r13.set(number);
    }

    /// A tag, and the handles that go with it in the buffer.
    fn tag(&mut self, thread: &'static Thread) -> u64 {
        let handles = self.pick(&[0, 0, 0, 1, 2, 4]);
        let first = SEND_HANDLES_OFFSET / 8;
        for position in 0..handles {
            let kind = self.pick(&ObjectKind::ALL);
            let handle = self.handle(thread, kind);
            let rights = Rights(self.pick(&[u32::MAX >> 1, 1 << 8, 0x103, 0]));
            let transfer = if self.chance(70) {
                Transfer::copied(rights)
            } else {
                Transfer::moved(rights)
            };
            thread.buffer()[first + 2 * position].store(handle, Ordering::Relaxed);
            thread.buffer()[first + 2 * position + 1].store(transfer.0, Ordering::Relaxed);
        }
        let length = self.pick(&[0, 8, 32, 33, 400, 4000, 4001]);
        let accepted = self.pick(&[0, 4, 4, 5]);
        Tag::new(ipc::Label(9), length, handles)
            .accepting(accepted)
            .0
    }

    /// What the thread does in ring 3, up to its next way into the kernel.
    fn run(&mut self, thread: &'static Thread) {
        let kernel = self.world.kernel;
        let r = &thread.registers;
        let mine = self.cpu.index as u64 + 1;
        assert_eq!(r.gs_base.get(), 0, "the thread is on another CPU as well");
        let number = thread.slot.number();
        self.world.threads.lock().unwrap().insert(number, thread);
        r.gs_base.set(mine);
        if r.rip.get() != AGAIN {
            self.take_result(thread);
            self.prepare(thread);
        }
        r.rip.set(AFTER);
        if self.chance(10) {
            return self.enter_by_interrupt(thread);
        }
        assert_eq!(r.gs_base.get(), mine, "another CPU has run the thread");
        r.gs_base.set(0);
        if self.chance(1) && r.r13.get() != NOTHING {
            r.r13.set(NOTHING);
            kernel.fault(self.cpu, 14, 6, 0xdead_0000);
        } else {
            enter(kernel, self.cpu);
            // At once: its maker may not live to see it.
            let current = self.cpu.current.get();
            if current.is_some_and(|current| core::ptr::eq(current, thread))
                && (r.rax.get(), r.r13.get()) == (0, O::TaskCreate as u64)
                && let Ok(held) = thread.task().handles.look_up(Handle(r.rdi.get()))
                && let Object::Task(made) = held.object
            {
                self.see(made);
            }
        }
    }

    /// An interrupt before the operation is issued.
    fn enter_by_interrupt(&mut self, thread: &'static Thread) {
        let vector = crate::platform::FIRST_DEVICE_VECTOR + self.random.below(4) as u8;
        thread.registers.rip.set(AGAIN);
        thread.registers.gs_base.set(0);
        self.world.kernel.interrupt(self.cpu, vector);
    }

    /// Makes a task with some threads and everything that tasks can have; inside the kernel.
    fn populate(&mut self) {
        let kernel = self.world.kernel;
        let Ok(quota) = kernel.root_quota.carve(kernel, 1 << 20) else {
            return;
        };
        let Ok(task) = kernel.make_task(&kernel.root_quota, quota, None, 15) else {
            return;
        };
        // Others find it from here on, and may destroy it.
        let hold = task.hold();
        self.see(task);
        let common: Vec<Object> = {
            let tasks = self.world.tasks.lock().unwrap();
            tasks
                .values()
                .map(|(other, _)| Object::Task(other))
                .collect()
        };
        let controls = [
            Object::DeviceControl,
            Object::SystemControl,
            Object::SchedControl,
            Object::Trace,
        ];
        let own = [Object::Task(task)];
        for object in own.into_iter().chain(controls).chain(common) {
            // Handles to all others: what one has, all get sooner or later.
            let held = Held {
                object,
                rights: Rights::ALL,
            };
            let insert = || task.handles.insert(kernel, task.quota(), held);
            if let Ok(handle) = kernel.holding(object, insert) {
                self.remember(task, handle.0);
            }
        }
        for priority in [5, 5, 5, 7, 9, 9] {
            let start = ThreadStart {
                entry: AFTER,
                stack: 0x50_0000,
                arguments: [0; 3],
                fs_base: 0,
                priority,
                uses_fpu: self.chance(50),
            };
            if let Ok(thread) = kernel.make_thread(task, start) {
                kernel.start_thread(thread);
                let held = Held {
                    object: Object::Thread(thread),
                    rights: Rights::ALL,
                };
                if let Ok(handle) = task.handles.insert(kernel, task.quota(), held) {
                    self.remember(task, handle.0);
                }
                kernel.drop_reference(Object::Thread(thread));
            }
        }
        self.connect(task);
        drop(hold);
        kernel.drop_reference(Object::Task(task));
    }

    /// Gives the task, and all others, an endpoint, a notification and memory in common.
    fn connect(&mut self, task: &'static Task) {
        let kernel = self.world.kernel;
        let quota = task.quota();
        let made = [
            kernel.make_endpoint(quota).map(Object::Endpoint),
            kernel.make_notification(quota).map(Object::Notification),
            kernel.begin_memory(quota, 2, true).map(Object::Memory),
        ];
        let others: Vec<_> = {
            let tasks = self.world.tasks.lock().unwrap();
            tasks.values().map(|(other, _)| *other).collect()
        };
        for object in made.into_iter().flatten() {
            // The first handle can receive: an endpoint without one that can would be open for ever.
            let held = Held {
                object,
                rights: Rights::ALL,
            };
            let first = task.handles.insert(kernel, quota, held);
            if let Ok(handle) = first {
                self.remember(task, handle.0);
            }
            for other in others.iter().filter(|_| first.is_ok()) {
                let Ok(_hold) = other.hold() else { continue };
                let inserted = other.handles.insert(kernel, other.quota(), held);
                if let Ok(handle) = inserted {
                    self.remember(other, handle.0);
                }
            }
            kernel.drop_reference(object);
        }
    }

    fn living_tasks(&self) -> usize {
        let tasks = self.world.tasks.lock().unwrap();
        let alive = |(task, number): &&(&'static Task, u64)| {
            task.slot.number() == *number && task.state() == TaskState::Alive
        };
        tasks.values().filter(alive).count()
    }

    /// Destroys a task; inside the kernel.
    fn destroy_one(&mut self) {
        let mut tasks = self.world.tasks.lock().unwrap();
        tasks.retain(|_, (task, number)| {
            task.slot.number() == *number && task.slot.quota().is_some()
        });
        let victim = self.random.below(tasks.len());
        let (task, number) = *tasks.values().nth(victim).unwrap();
        drop(tasks);
        self.destroy(task, number);
    }

    fn destroy(&self, task: &'static Task, number: u64) {
        let kernel = self.world.kernel;
        let _ = kernel.holding(Object::Task(task), || {
            if task.slot.number() == number {
                kernel.destroy_task(task);
            }
            Ok(())
        });
    }

    /// Destroys what is left; inside the kernel. One CPU does it, the others go on.
    fn destroy_all(&self) {
        let kernel = self.world.kernel;
        let tasks: Vec<_> = self.world.tasks.lock().unwrap().values().copied().collect();
        for (task, number) in tasks {
            self.destroy(task, number);
        }
        kernel.reset_dma();
    }

    /// What is known of the tasks and threads that are left.
    fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for (task, number) in self.world.tasks.lock().unwrap().values() {
            if task.slot.number() == *number && task.slot.quota().is_some() {
                let threads = task.threads().len();
                let (state, used) = (task.state(), task.quota_used());
                left.push(format!(
                    "task {number} {state:?}: {threads} threads, {used} bytes"
                ));
            }
        }
        for (number, thread) in self.world.threads.lock().unwrap().iter() {
            if thread.slot.number() == *number && thread.slot.quota().is_some() {
                let (task, waits) = (thread.task(), thread.is_waiting());
                let (kind, dead) = (thread.wait_kind(), thread.dead.load(Ordering::Relaxed));
                let doomed = thread.is_doomed();
                left.push(format!(
                    "thread {number} of {} {:?}: waits {waits} {kind:?}, doomed {doomed}, dead {dead}",
                    task.slot.number(),
                    task.state(),
                ));
            }
        }
        left
    }

    fn is_over(&self) -> bool {
        let kernel = self.world.kernel;
        let quarantined = kernel.quarantined.load(Ordering::Relaxed);
        let empty = kernel.tasks.live() == 0 && kernel.reclaim.count() + quarantined == 0;
        empty && self.world.stopped.load(Ordering::SeqCst) == kernel.cpus().len()
    }

    /// Steps of the CPU that made the fewest: how long it takes is told by these alone, for the host may
    /// let one thread wait for as long as it likes.
    fn slowest(&self) -> usize {
        let steps = self.world.progress.iter();
        steps
            .map(|steps| steps.load(Ordering::Relaxed))
            .min()
            .unwrap_or(0)
    }

    fn work(&mut self) {
        let kernel = self.world.kernel;
        let mut step = 0;
        let mut entered = true;
        loop {
            if step % 64 == 0 && self.cpu.index == 0 {
                kernel.kicked(self.cpu);
                entered = true;
                if step > self.world.steps {
                    self.destroy_all();
                } else if self.living_tasks() < TASKS {
                    self.populate();
                } else if self.chance(3) {
                    // In time all that is left waits for ever.
                    self.destroy_one();
                }
            }
            step += 1;
            if step == self.world.steps {
                self.world.stopped.fetch_add(1, Ordering::SeqCst);
            }
            self.world.progress[self.cpu.index].store(step, Ordering::Relaxed);
            assert!(
                step % 1024 != 0 || self.slowest() < self.world.steps * 20 + 300_000,
                "it does not end: {} tasks, {} threads, reclaiming {}: {:#?}",
                kernel.tasks.live(),
                kernel.threads.live(),
                kernel.reclaim.count(),
                self.left(),
            );
            let failed = kernel.platform.failed.load(Ordering::Relaxed);
            if failed || step > self.world.steps && self.is_over() {
                return;
            }
            let thread = if entered {
                kernel.leave(self.cpu)
            } else {
                None
            };
            // Interrupts are taken before the first instruction of ring 3.
            let pace = if thread.is_none() { 5_000 } else { 300 };
            entered = interrupted(kernel, self.cpu, &mut self.kicks, pace);
            if self.chance(5) {
                remember_all(kernel, self.cpu.index);
            }
            match thread {
                Some(thread) if !entered => {
                    self.run(thread);
                    entered = true;
                }
                _ => pause(),
            }
        }
    }
}

/// Runs a world of this many CPUs to its end. Returns how often the fast path was taken to either of
/// its ends.
fn campaign(cpus: usize, steps: usize, seed: u64) -> [u64; 2] {
    let kernel = kernel(cpus);
    let frames = kernel.frames.free_count();
    let world = World {
        kernel,
        tasks: Mutex::default(),
        threads: Mutex::default(),
        handles: Mutex::default(),
        errors: O::ALL.iter().copied().map(documented).collect(),
        steps,
        stopped: AtomicUsize::new(0),
        progress: (0..cpus).map(|_| AtomicUsize::new(0)).collect(),
        done: [const { AtomicUsize::new(0) }; O::ALL.len()],
    };
    run_on_all(cpus, |index| {
        become_cpu(kernel, index);
        let worker = Worker {
            world: &world,
            cpu: &kernel.cpus()[index],
            random: Random::new(seed * 64 + index as u64 + 1),
            kicks: 0,
        };
        { worker }.work();
    });
    if std::env::var_os("KERNEL_STRESS_STEPS").is_some() {
        for (operation, done) in O::ALL.iter().zip(&world.done) {
            println!("{operation:?}: {}", done.load(Ordering::Relaxed));
        }
    }
    nothing_is_left(kernel, frames, seed);
    kernel
        .platform
        .taken
        .each_ref()
        .map(|taken| taken.load(Ordering::Relaxed))
}

fn nothing_is_left(kernel: TestKernel, frames: u64, seed: u64) {
    let slabs = [
        (
            "endpoints",
            kernel.endpoints.live(),
            kernel.endpoints.frames(),
        ),
        ("badges", kernel.badges.live(), kernel.badges.frames()),
        (
            "notifications",
            kernel.notifications.live(),
            kernel.notifications.frames(),
        ),
        ("memories", kernel.memories.live(), kernel.memories.frames()),
        ("mappings", kernel.mappings.live(), kernel.mappings.frames()),
        ("tasks", kernel.tasks.live(), kernel.tasks.frames()),
        ("threads", kernel.threads.live(), kernel.threads.frames()),
        ("replies", kernel.replies.live(), kernel.replies.frames()),
        (
            "interrupts",
            kernel.interrupts.live(),
            kernel.interrupts.frames(),
        ),
        ("ports", kernel.io_ports.live(), kernel.io_ports.frames()),
        ("chunks", kernel.chunks.live(), kernel.chunks.frames()),
        ("quotas", kernel.quotas.live(), kernel.quotas.frames()),
    ];
    for (name, live, _) in slabs {
        assert_eq!(live, 0, "seed {seed}: {name} are left");
    }
    let used: u64 = slabs.iter().map(|(_, _, frames)| frames).sum();
    assert_eq!(
        kernel.frames.free_count() + used,
        frames,
        "seed {seed}: frames"
    );
    assert_eq!(kernel.root_quota.used(), 0, "seed {seed}: quota");
    assert_eq!(
        kernel.open_handles.load(Ordering::Relaxed),
        0,
        "seed {seed}: handles"
    );
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn steps(default: usize) -> usize {
    from_environment("KERNEL_STRESS_STEPS").map_or(default, |steps| steps as usize)
}

fn seed() -> u64 {
    from_environment("KERNEL_STRESS_SEED").unwrap_or(1)
}

#[test]
fn one_cpu_survives_anything() {
    let mut taken = [0, 0];
    for seed in seed()..seed() + 4 {
        for (sum, more) in taken.iter_mut().zip(campaign(1, steps(6_000), seed)) {
            *sum += more;
        }
    }
    println!("the fast path was taken {taken:?} times");
}

#[test]
fn four_cpus_survive_anything() {
    campaign(4, steps(8_000), seed());
}
