//! The test bench: a kernel on a fake machine, and threads whose system calls the tests issue.

use crate::cpu::Cpu;
use crate::create::ThreadStart;
use crate::fake::{Fake, INTERRUPT, run_on, this_cpu};
use crate::fast::{Fast, finish, put};
use crate::frames::{Frame, FrameInfo, FrameTable};
use crate::handles::Held;
use crate::kernel::{Kernel, Machine};
use crate::object::Object;
use crate::sync::{AtomicU64, Hooks, Ordering, install_hooks};
use crate::task::Task;
use crate::thread::Thread;
use crate::trace::TraceRing;
use crate::tunables::Tunables;
use ipc::message::NEVER;
use ipc::{Error, Handle, Operation, Rights, Tag};
use std::cell::Cell;

pub(super) type TestKernel = &'static Kernel<Fake>;

const FRAMES: usize = 4096;
const FIRST_FRAME: u32 = 16;

thread_local! {
    static SERVED: Cell<Option<TestKernel>> = const { Cell::new(None) };
    static HELD: &'static AtomicU64 = Box::leak(Box::new(AtomicU64::new(0)));
}

fn held_ranks() -> &'static AtomicU64 {
    HELD.with(|held| *held)
}

/// Makes the calling thread serve its mailbox as CPU `cpu` of the kernel while it spins: for tests
/// with several threads.
pub(super) fn become_cpu(kernel: TestKernel, cpu: usize) {
    run_on(cpu);
    SERVED.set(Some(kernel));
}

/// Runs a function as each CPU, a thread of the host each.
pub(super) fn run_on_all(cpus: usize, work: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for cpu in 0..cpus {
            let work = &work;
            scope.spawn(move || work(cpu));
        }
    });
}

/// Lets `pace` nanoseconds pass and takes what is pending on a CPU: a kick, if there were others than those
/// `seen`, or the timer. True if the kernel was entered. For tests that play several CPUs at once.
pub(super) fn interrupted(
    kernel: TestKernel,
    cpu: &'static Cpu,
    seen: &mut u64,
    pace: u64,
) -> bool {
    let fake = &kernel.platform.cpus[cpu.index];
    let kicks = fake.kicks.load(Ordering::SeqCst);
    if kicks != *seen {
        *seen = kicks;
        kernel.kicked(cpu);
        return true;
    }
    let now = kernel.platform.time.fetch_add(pace, Ordering::SeqCst);
    let due = fake.timer.load(Ordering::SeqCst);
    if due != 0 && due <= now {
        fake.timer.store(u64::MAX, Ordering::SeqCst);
        kernel.timer(cpu);
        return true;
    }
    false
}

/// The kernel whose CPU the calling thread has become.
pub(super) fn served() -> Option<TestKernel> {
    SERVED.get()
}

fn relax() {
    if let Some(kernel) = SERVED.get() {
        assert!(
            !kernel.platform.failed.load(Ordering::Relaxed),
            "another CPU has failed"
        );
        kernel.serve_flush(&kernel.cpus()[this_cpu()]);
    }
    pause();
}

/// Lets the others go on.
pub(super) fn pause() {
    if !crate::explore::pause() {
        std::thread::yield_now();
    }
}

/// A kernel with this many CPUs online and 16 MiB of RAM.
pub(super) fn kernel(cpus: usize) -> TestKernel {
    install_hooks(Hooks {
        relax,
        held: held_ranks,
    });
    let infos: Vec<FrameInfo> = (0..FRAMES).map(|_| FrameInfo::NEW).collect();
    let frames = FrameTable::new(infos.leak());
    frames.add_range(Frame(FIRST_FRAME), (FRAMES - FIRST_FRAME as usize) as u64);
    let list: Vec<Cpu> = (0..cpus).map(Cpu::new).collect();
    let traces: Vec<TraceRing> = (0..cpus).map(|_| TraceRing::new(&[])).collect();
    let kernel = Box::leak(Box::new(Kernel::new(
        Fake::machine(Frame(FRAMES as u32)),
        frames,
        list.leak(),
        traces.leak(),
        Tunables::new(),
        Machine::default(),
    )));
    kernel
        .root_quota
        .set_limit(kernel.frames.free_count() * 4096);
    run_on(0);
    for cpu in kernel.cpus() {
        kernel.bring_online(cpu);
    }
    kernel
}

/// Makes a task with a quota of its own.
pub(super) fn task(kernel: TestKernel, quota: u64) -> &'static Task {
    let quota = kernel.root_quota.carve(kernel, quota).unwrap();
    kernel
        .make_task(&kernel.root_quota, quota, None, 63)
        .unwrap()
}

/// Makes and starts a thread.
pub(super) fn thread(kernel: TestKernel, task: &'static Task, priority: u8) -> &'static Thread {
    let start = ThreadStart {
        entry: 0x40_0000,
        stack: 0x50_0000,
        arguments: [0; 3],
        fs_base: 0,
        priority,
        uses_fpu: false,
    };
    let thread = kernel.make_thread(task, start).unwrap();
    assert!(kernel.start_thread(thread));
    kernel.drop_reference(Object::Thread(thread));
    thread
}

/// Gives a task a handle.
pub(super) fn give(
    kernel: TestKernel,
    task: &'static Task,
    object: Object,
    rights: Rights,
) -> Handle {
    task.handles
        .insert(kernel, task.quota(), Held { object, rights })
        .unwrap()
}

/// Lets CPU 0 go on until `thread` runs on it; the others are at its mercy.
pub(super) fn run(kernel: TestKernel, thread: &'static Thread) {
    for _ in 0..1000 {
        let chosen = kernel.leave(&kernel.cpus()[0]);
        match chosen {
            Some(current) if core::ptr::eq(current, thread) => return,
            Some(current) => {
                // Its status and results are its own: a test may look at them later.
                let status = current.registers.rax.get();
                let results = results(current);
                system_call(kernel, current, Operation::Yield, &[]);
                put(current, results);
                current.registers.rax.set(status);
            }
            None => panic!("nobody runs"),
        }
    }
    panic!("the thread does not get its turn");
}

/// Who runs on CPU 0 now.
pub(super) fn running(kernel: TestKernel) -> Option<&'static Thread> {
    kernel.leave(&kernel.cpus()[0])
}

/// Whether this thread is the one.
pub(super) fn is(found: Option<&'static Thread>, expected: &'static Thread) -> bool {
    found.is_some_and(|found| core::ptr::eq(found, expected))
}

fn system_call(
    kernel: TestKernel,
    thread: &'static Thread,
    operation: Operation,
    arguments: &[u64],
) {
    system_call_until(kernel, thread, operation, arguments, NEVER);
}

/// A system call of this CPU's thread, as the mechanism makes it: by the fast path, or all of it. True
/// where the way out is still to be gone.
pub(super) fn enter(kernel: TestKernel, cpu: &'static Cpu) -> bool {
    let thread = cpu.current.get().expect("a thread runs");
    let r = &thread.registers;
    let arguments = results(thread);
    let number = r.rax.get();
    let fast = if kernel.platform.fast.load(Ordering::Relaxed) {
        // What the entry does not save the fast path must not read.
        put(thread, [0x5a5a_5a5a_5a5a_5a5a; 6]);
        kernel.fast(cpu, thread, number, arguments)
    } else {
        None
    };
    let runs = |thread: &'static Thread| {
        assert!(is(cpu.current.get(), thread), "it runs");
        let loaded = cpu.loaded.get().expect("an address space is loaded");
        assert!(core::ptr::eq(loaded, thread.task()), "its own");
    };
    let Some(fast) = fast else {
        put(thread, arguments);
        kernel.system_call(cpu);
        return true;
    };
    note_way(kernel, number, &fast, r.r12.get() != NEVER);
    match fast {
        Fast::Returns(results) => finish(thread, results),
        Fast::Runs(next, results) => {
            finish(next, results);
            runs(next);
        }
        Fast::Resumes(next) => runs(next),
        Fast::Queue(next, results) => {
            finish(next, results);
            kernel.queue_instead(cpu, next);
        }
        Fast::QueueComplete(next) => kernel.queue_instead(cpu, next),
        Fast::Leaves(results) => finish(thread, results),
        Fast::Wakes(woken, results) => {
            finish(thread, results);
            kernel.wake(cpu, woken);
        }
        Fast::Waits => {}
        Fast::Receives(woken) => {
            if let Some(woken) = woken {
                kernel.wake(cpu, woken);
            }
            r.rax.set(Operation::Receive as u64);
            kernel.system_call(cpu);
        }
    }
    let leaves = !matches!(fast, Fast::Returns(_) | Fast::Runs(..) | Fast::Resumes(_));
    kernel.platform.taken[usize::from(leaves)].fetch_add(1, Ordering::Relaxed);
    leaves
}

/// Notes which way of the fast path was taken.
fn note_way(kernel: TestKernel, operation: u64, fast: &Fast, until: bool) {
    let end = match fast {
        Fast::Returns(_) => "Returns",
        Fast::Runs(..) => "Runs",
        Fast::Queue(..) => "Queue",
        Fast::QueueComplete(_) => "QueueComplete",
        Fast::Resumes(_) => "Resumes",
        Fast::Leaves(_) => "Leaves",
        Fast::Wakes(..) => "Wakes",
        Fast::Waits => "Waits",
        Fast::Receives(None) => "Receives",
        Fast::Receives(Some(_)) => "Wakes and receives",
    };
    let mut ways = kernel.platform.ways.lock().unwrap();
    *ways.entry((operation, end, until)).or_insert(0) += 1;
}

/// A device interrupt arrives on CPU 0, which then goes on.
pub(super) fn arrive(kernel: TestKernel, vector: u8) {
    let cpu = &kernel.cpus()[0];
    let is_fast = kernel.platform.fast.load(Ordering::Relaxed);
    let thread = cpu.current.get().filter(|_| is_fast);
    let fast = thread.and_then(|thread| kernel.fast_interrupt(cpu, thread, vector));
    if let Some(fast) = &fast {
        note_way(kernel, INTERRUPT, fast, false);
    }
    match fast {
        None => kernel.interrupt(cpu, vector),
        Some(Fast::Runs(next, results)) => {
            finish(next, results);
            kernel.platform.taken[0].fetch_add(1, Ordering::Relaxed);
            return;
        }
        Some(Fast::Resumes(_)) => {
            kernel.platform.taken[0].fetch_add(1, Ordering::Relaxed);
            return;
        }
        Some(Fast::Wakes(woken, _)) => kernel.wake(cpu, woken),
        Some(_) => panic!("an interrupt ends in no other way"),
    }
    kernel.leave(cpu);
}

/// The thread that runs on CPU 0 faults.
pub(super) fn fault(kernel: TestKernel, vector: u8, address: u64) {
    let cpu = &kernel.cpus()[0];
    let is_fast = kernel.platform.fast.load(Ordering::Relaxed);
    let thread = cpu.current.get().filter(|_| is_fast);
    match thread.and_then(|thread| kernel.fast_fault(cpu, thread, vector, address)) {
        None => kernel.fault(cpu, vector, 0, address),
        Some(Fast::Runs(next, results)) => {
            finish(next, results);
            return;
        }
        Some(Fast::Queue(next, results)) => {
            finish(next, results);
            kernel.queue_instead(cpu, next);
        }
        Some(_) => panic!("a fault ends in no other way"),
    }
    kernel.leave(cpu);
}

/// Issues a system call of the thread that runs on CPU 0, again as often as the kernel asks.
pub(super) fn system_call_until(
    kernel: TestKernel,
    thread: &'static Thread,
    operation: Operation,
    arguments: &[u64],
    deadline: u64,
) {
    let r = &thread.registers;
    let cpu = &kernel.cpus()[0];
    let current = cpu.current.get();
    assert!(is(current, thread), "the thread runs");
    r.rax.set(operation as u64);
    for (register, value) in [&r.rdi, &r.rsi, &r.rdx, &r.r8, &r.r9, &r.r10]
        .iter()
        .zip(arguments)
    {
        register.set(*value);
    }
    r.r12.set(deadline);
    for _ in 0..100_000 {
        let rip = r.rip.get();
        r.rip.set(rip + 2);
        enter(kernel, cpu);
        if r.rip.get() != rip || !is(cpu.current.get(), thread) {
            return;
        }
        // The operation is to be issued again: interrupts first, as in ring 3.
        kernel.leave(cpu);
    }
    panic!("the operation does not end");
}

/// Runs the thread, issues a system call, and gives its status and results if it did not block.
pub(super) fn call(
    kernel: TestKernel,
    thread: &'static Thread,
    operation: Operation,
    arguments: &[u64],
) -> Result<[u64; 6], Error> {
    run(kernel, thread);
    system_call(kernel, thread, operation, arguments);
    status(thread)
}

/// The results in a thread's registers.
fn results(thread: &'static Thread) -> [u64; 6] {
    let r = &thread.registers;
    [&r.rdi, &r.rsi, &r.rdx, &r.r8, &r.r9, &r.r10].map(|register| register.get())
}

/// The status and results in a thread's registers.
pub(super) fn status(thread: &'static Thread) -> Result<[u64; 6], Error> {
    match Error::from_code(thread.registers.rax.get()) {
        Some(error) => Err(error),
        None => Ok(results(thread)),
    }
}

/// Issues a system call that blocks: somebody else runs afterwards.
pub(super) fn block(
    kernel: TestKernel,
    thread: &'static Thread,
    operation: Operation,
    arguments: &[u64],
    deadline: u64,
) {
    run(kernel, thread);
    system_call_until(kernel, thread, operation, arguments, deadline);
    assert!(
        !is(kernel.cpus()[0].current.get(), thread),
        "the operation blocks"
    );
}

/// Moves time on and lets CPU 0's timer fire.
pub(super) fn pass(kernel: TestKernel, nanoseconds: u64) {
    kernel
        .platform
        .time
        .fetch_add(nanoseconds, Ordering::Relaxed);
    kernel.timer(&kernel.cpus()[0]);
}

/// Reclaims until nothing is left to reclaim.
pub(super) fn settle(kernel: TestKernel) {
    for _ in 0..10_000 {
        if !kernel.reclaim.is_pending() {
            return;
        }
        kernel.reclaim_step(&kernel.cpus()[0]);
    }
    panic!("reclaiming does not end");
}

/// A tag of a message of `length` bytes with a label.
pub(super) fn tag(label: u32, length: usize) -> u64 {
    Tag::new(ipc::Label(label), length, 0).0
}
