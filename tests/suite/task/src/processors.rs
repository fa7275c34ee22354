//! Threads and CPUs: many threads, every CPU, affinity, priorities, preemption, FPU registers.

use core::sync::atomic::Ordering;

use ipc::info::{CpuInfo, SystemSelector, ThreadParameter};
use ipc::{Error, Operation};

use crate::child::{Child, FPU, PRIORITY, QUOTA, Thread};
use crate::failure::{Outcome, ensure, ensure_equal, ensure_error};
use crate::raw::{self, Board, call};
use crate::suite::inspect_system;
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[
    ("every_cpu_runs_user_threads", every_cpu),
    ("affinity_is_kept", affinity),
    ("many_threads_run", many),
    ("threads_of_one_priority_share_a_cpu", share),
    ("more_urgent_threads_go_first", urgent),
    ("priorities_have_a_ceiling", ceiling),
    ("fpu_registers_survive_preemption", fpu),
    ("fpu_without_leave_is_a_fault", fpu_fault),
    ("a_stopped_thread_does_not_run", stopped),
    ("cpu_time_is_counted", cpu_time),
];

/// Counts in word 1 until word 0 is 1.
pub(crate) fn spin(board: &'static Board) {
    while board.words[0].load(Ordering::Acquire) == 0 {
        board.words[1].fetch_add(1, Ordering::Relaxed);
    }
}

fn cpu(context: &Context, number: u64) -> Result<CpuInfo, Error> {
    let words = inspect_system(context.suite.system, SystemSelector::Cpu, number)?;
    Ok(CpuInfo::from_words(&words))
}

/// A thread bound to each CPU runs there, and the CPU's counters show it.
fn every_cpu(context: &Context) -> Outcome {
    let suite = &context.suite;
    for number in 0..suite.cpus.min(64) {
        let before = cpu(context, number)?;
        ensure_equal!(before.online, 1, "CPU {number} online");
        let thread = Thread::stopped(suite, None, spin, &[], PRIORITY)?;
        thread.set(ThreadParameter::Affinity, 1 << number)?;
        thread.go()?;
        ensure!(
            suite.wait_for(5000, || thread.word(1) > 100),
            "no thread runs on CPU {number}"
        );
        ensure_equal!(thread.info()?.cpu, number, "the thread's CPU");
        thread.set_word(0, 1);
        thread.finish(suite)?;
        let counted = || {
            let after = cpu(context, number);
            after.is_ok_and(|after| {
                after.busy_ns > before.busy_ns && after.switches > before.switches
            })
        };
        ensure!(
            suite.wait_for(2000, counted),
            "counters of CPU {number}: {before:?}, later {:?}",
            cpu(context, number)
        );
    }
    let missing: Result<[u64; CpuInfo::WORDS], Error> =
        inspect_system(suite.system, SystemSelector::Cpu, 100_000);
    ensure_error!(missing, InvalidArgument, "a CPU that is not there");
    Ok(())
}

fn affinity(context: &Context) -> Outcome {
    let suite = &context.suite;
    let thread = Thread::start(suite, spin, &[])?;
    for round in 0..4 * suite.cpus.min(64) {
        let number = round % suite.cpus.min(64);
        thread.set(ThreadParameter::Affinity, 1 << number)?;
        let before = thread.word(1);
        let there = || {
            let here = thread.info().map(|info| info.cpu);
            here == Ok(number) && thread.word(1) > before
        };
        ensure!(
            suite.wait_for(5000, there),
            "it does not come to CPU {number}"
        );
    }
    ensure_error!(
        thread.set(ThreadParameter::Affinity, 0),
        InvalidArgument,
        "no CPU at all"
    );
    thread.set(ThreadParameter::Affinity, u64::MAX)?;
    thread.set_word(0, 1);
    thread.finish(suite)
}

/// Sets word 1.
fn just_run(board: &'static Board) {
    board.words[1].store(1, Ordering::Release);
}

fn many(context: &Context) -> Outcome {
    let suite = &context.suite;
    let mut threads = alloc::vec::Vec::new();
    for _ in 0..100 {
        threads.push(Thread::start(suite, just_run, &[])?);
    }
    for thread in &threads {
        thread.finish(suite)?;
        ensure_equal!(thread.word(1), 1, "what it did");
    }
    Ok(())
}

fn on_one_cpu(context: &Context, priority: u64) -> Outcome<Thread> {
    let thread = Thread::stopped(&context.suite, None, spin, &[], priority)?;
    thread.set(ThreadParameter::Affinity, 1)?;
    thread.go()?;
    Ok(thread)
}

/// Several threads that never give the CPU up all get on.
fn share(context: &Context) -> Outcome {
    let suite = &context.suite;
    let mut threads = alloc::vec::Vec::new();
    for _ in 0..3 {
        threads.push(on_one_cpu(context, PRIORITY)?);
    }
    for round in 0..3 {
        let before: alloc::vec::Vec<u64> = threads.iter().map(|thread| thread.word(1)).collect();
        let all = || {
            let mut pairs = threads.iter().zip(&before);
            pairs.all(|(thread, count)| thread.word(1) > count + 100)
        };
        ensure!(
            suite.wait_for(5000, all),
            "round {round}: one does not get on"
        );
    }
    for thread in &threads {
        thread.set_word(0, 1);
    }
    threads.iter().try_for_each(|thread| thread.finish(suite))
}

/// While a more urgent thread runs, a less urgent one on its CPU does not.
fn urgent(context: &Context) -> Outcome {
    let suite = &context.suite;
    let low = on_one_cpu(context, 5)?;
    ensure!(
        suite.wait_for(5000, || low.word(1) > 100),
        "the less urgent one does not run alone"
    );
    let high = on_one_cpu(context, PRIORITY)?;
    ensure!(
        suite.wait_for(5000, || high.word(1) > 100),
        "the more urgent one does not run"
    );
    let before = low.word(1);
    suite.sleep(50);
    let after = low.word(1);
    high.set_word(0, 1);
    low.set_word(0, 1);
    high.finish(suite)?;
    low.finish(suite)?;
    ensure_equal!(after, before, "the less urgent one's count");
    Ok(())
}

/// A task's threads are no more urgent than its maker allowed, but for who holds SchedControl.
fn ceiling(context: &Context) -> Outcome {
    let suite = &context.suite;
    let child = Child::new(suite, &context.program, QUOTA)?;
    let above = PRIORITY + 1;
    let refused = Thread::stopped(suite, Some(child.task), just_run, &[], above);
    ensure!(refused.is_err(), "a thread above the ceiling was made");
    let thread = Thread::stopped(suite, Some(child.task), just_run, &[], PRIORITY)?;
    let priority = ThreadParameter::Priority;
    ensure!(
        thread.set(priority, above).is_err(),
        "a priority above the ceiling was set"
    );
    ensure_error!(
        thread.set(priority, 64),
        InvalidArgument,
        "a priority that there is not"
    );
    let values = [thread.handle, priority as u64, above, suite.sched];
    call(Operation::ThreadSet, &values)?;
    ensure_equal!(thread.info()?.priority, above, "with SchedControl");
    Ok(())
}

/// Word 1 becomes the number of rounds, out of word 2, after which the registers held word 0.
fn keep_registers(board: &'static Board) {
    let [value, _, rounds] = [0, 1, 2].map(|index| board.words[index].load(Ordering::Acquire));
    for _ in 0..rounds {
        if raw::sse_keeps(value, 500_000) {
            board.words[1].fetch_add(1, Ordering::Release);
        }
    }
}

/// FPU threads with different values, on few CPUs and beside threads without FPU.
fn fpu(context: &Context) -> Outcome {
    const ROUNDS: u64 = 200;
    let suite = &context.suite;
    let plain = on_one_cpu(context, PRIORITY)?;
    let mut threads = alloc::vec::Vec::new();
    for number in 1..=4_u64 {
        let value = number * 0x1111_2222_3333_4444;
        let values = [value, 0, ROUNDS];
        let thread = Thread::stopped(suite, None, keep_registers, &values, PRIORITY | FPU)?;
        if number < 4 {
            thread.set(ThreadParameter::Affinity, 1)?;
        }
        thread.go()?;
        threads.push(thread);
    }
    // One of them moves about.
    for round in 0..20 {
        let cpu = round % suite.cpus.min(64);
        // It may have ended by now.
        let _ = threads[3].set(ThreadParameter::Affinity, 1 << cpu);
        suite.sleep(2);
    }
    for thread in &threads {
        let done = suite.wait_for(60_000, || thread.is_done());
        ensure!(done, "a thread did not end");
        ensure_equal!(thread.word(1), ROUNDS, "rounds with the registers kept");
    }
    plain.set_word(0, 1);
    plain.finish(suite)
}

fn fpu_fault(context: &Context) -> Outcome {
    const DEVICE_NOT_AVAILABLE: u64 = 7;
    let suite = &context.suite;
    let child = Child::new(suite, &context.program, QUOTA)?;
    let _thread = child.start(suite, raw::sse, &[])?;
    let fault = child.fault(suite)?;
    ensure_equal!(fault.vector, DEVICE_NOT_AVAILABLE, "vector");
    let allowed = Thread::stopped(suite, Some(child.task), raw::sse, &[], PRIORITY | FPU)?;
    allowed.go()?;
    allowed.finish(suite)
}

fn stopped(context: &Context) -> Outcome {
    let suite = &context.suite;
    let thread = Thread::stopped(suite, None, just_run, &[], PRIORITY)?;
    suite.sleep(20);
    ensure_equal!(thread.word(1), 0, "what it did before it was started");
    ensure_equal!(thread.info()?.state, 0, "its state");
    thread.go()?;
    thread.finish(suite)?;
    thread.reach(suite, 4)?;
    ensure!(thread.go().is_err(), "a dead thread was started");
    Ok(())
}

fn cpu_time(context: &Context) -> Outcome {
    let suite = &context.suite;
    let thread = Thread::start(suite, spin, &[])?;
    let before = thread.info()?.cpu_time_ns;
    suite.sleep(100);
    let used = thread.info()?.cpu_time_ns - before;
    thread.set_word(0, 1);
    thread.finish(suite)?;
    ensure!(
        used > 5_000_000,
        "a thread that spun for 100 ms is charged {used} ns"
    );
    Ok(())
}
