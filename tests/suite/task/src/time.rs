//! Clocks, deadlines and futexes.

use core::sync::atomic::{AtomicU64, Ordering};

use ipc::info::ThreadParameter;
use ipc::{Error, Operation};

use crate::child::{PATIENCE, PRIORITY, Thread};
use crate::failure::{Outcome, ensure, ensure_equal, ensure_error};
use crate::raw::{self, Board, call, value};
use crate::suite::Owned;
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[
    ("clock_never_goes_back", monotonic),
    ("clock_never_goes_back_between_cpus", handed_over),
    ("clock_page_and_kernel_agree", clock_page),
    ("sleeps_end_in_the_order_of_their_deadlines", ordered_sleeps),
    ("past_deadlines_end_at_once", past),
    ("futex_sleeps_only_on_the_expected_value", futex_changed),
    ("futex_wakes_the_longest_waiting", futex_order),
    ("futex_is_the_tasks_own", futex_own),
];

fn monotonic(context: &Context) -> Outcome {
    let mut last = 0;
    for _ in 0..20_000 {
        let now = value(Operation::ClockRead, &[])?;
        ensure!(now >= last, "{now} after {last}");
        last = now;
    }
    let before = context.suite.now();
    context.suite.sleep(30);
    let passed = context.suite.now() - before;
    ensure!(passed >= 30_000_000, "a sleep of 30 ms took {passed} ns");
    Ok(())
}

/// Times handed from CPU to CPU by [`handed_over`], and what it has for all its threads: whose turn it is,
/// the time that the last turn read, and the first turn that read an earlier one, with both times.
const TURNS: u64 = 4_000;
const TURN: usize = 0;
const TIME: usize = 1;
const WRONG: usize = 2;

/// A number from 0 to `end` - 1 for a turn, with no pattern.
const fn chosen(turn: u64, end: u64) -> u64 {
    (turn.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % end
}

/// In the turns that are this CPU's (word 1, of the number in word 2), reads the clock in one of the two ways, and
/// hands the time over in the memory at the address in word 0.
fn hand_over(board: &'static Board) {
    let [address, own, cpus] = [0, 1, 2].map(|index| board.words[index].load(Ordering::Acquire));
    let shared = raw::words(address, 4096);
    loop {
        let turn = shared[TURN].load(Ordering::Acquire);
        if turn >= TURNS || shared[WRONG].load(Ordering::Acquire) != 0 {
            return;
        }
        if chosen(turn, cpus) != own {
            core::hint::spin_loop();
            continue;
        }
        let earlier = shared[TIME].load(Ordering::Acquire);
        let now = match chosen(turn, 3) {
            0 => value(Operation::ClockRead, &[]).unwrap_or(0),
            _ => runtime::clock::now(),
        };
        if now < earlier {
            shared[WRONG + 1].store(now, Ordering::Relaxed);
            shared[WRONG].store(turn + 1, Ordering::Release);
        }
        shared[TIME].store(now, Ordering::Release);
        shared[TURN].store(turn + 1, Ordering::Release);
    }
}

/// A time that one CPU read, from the kernel or from the clock page, is never later than what another
/// one reads when it has got it.
fn handed_over(context: &Context) -> Outcome {
    let suite = &context.suite;
    let region = crate::suite::Region::new(suite, 4096)?;
    let shared = raw::words(region.address, 4096);
    let turn = || shared[TURN].load(Ordering::Acquire);
    let mut threads = alloc::vec::Vec::new();
    let cpus = suite.cpus.min(64);
    for cpu in 0..cpus {
        let values = [region.address, cpu, cpus];
        let thread = Thread::stopped(suite, None, hand_over, &values, PRIORITY)?;
        thread.set(ThreadParameter::Affinity, 1 << cpu)?;
        thread.go()?;
        threads.push(thread);
    }
    let wrong = || shared[WRONG].load(Ordering::Acquire);
    while turn() < TURNS && wrong() == 0 {
        let before = turn();
        let moves = suite.wait_for(PATIENCE, || turn() != before || wrong() != 0);
        ensure!(moves, "nobody takes turn {before}");
    }
    threads.iter().try_for_each(|thread| thread.finish(suite))?;
    let later = shared[WRONG + 1].load(Ordering::Acquire);
    ensure!(
        wrong() == 0,
        "turn {} of {cpus} CPUs read {later}, though an earlier one had read more",
        wrong()
    );
    Ok(())
}

/// The time that ring 3 reads itself lies between two readings by the kernel.
fn clock_page(_: &Context) -> Outcome {
    for _ in 0..2_000 {
        let before = value(Operation::ClockRead, &[])?;
        let read = runtime::clock::now();
        let after = value(Operation::ClockRead, &[])?;
        ensure!(
            (before..=after).contains(&read),
            "{read} is not between {before} and {after}"
        );
    }
    Ok(())
}

/// A word of a board as futex word.
pub(crate) fn word(board: &'static Board, index: usize) -> u64 {
    core::ptr::from_ref::<AtomicU64>(&board.words[index]).expose_provenance() as u64
}

/// Sleeps until word 0, then takes a number from the counter at the address in word 1; word 2 gets
/// it.
fn sleep_and_count(board: &'static Board) {
    let [deadline, counter] = [0, 1].map(|index| board.words[index].load(Ordering::Acquire));
    let own = word(board, 400);
    let result = raw::until(Operation::FutexWait, &[own, 0], deadline);
    if result == Err(Error::TimedOut) {
        let number = raw::words(counter, 8)[0].fetch_add(1, Ordering::AcqRel);
        board.words[2].store(number + 1, Ordering::Release);
    }
}

fn ordered_sleeps(context: &Context) -> Outcome {
    let suite = &context.suite;
    let counter = crate::suite::Region::new(suite, 4096)?;
    let base = suite.after(200);
    let mut threads = alloc::vec::Vec::new();
    // Started in an order that is none.
    for position in [5_u64, 2, 7, 0, 3, 6, 1, 4] {
        let deadline = base + position * 30_000_000;
        let thread = Thread::start(suite, sleep_and_count, &[deadline, counter.address])?;
        threads.push((position, thread));
    }
    for (position, thread) in &threads {
        thread.finish(suite)?;
        ensure_equal!(thread.word(2), position + 1, "turn of sleeper {position}");
    }
    Ok(())
}

fn past(context: &Context) -> Outcome {
    let notification = Owned::make(Operation::NotificationCreate, &[])?;
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    for deadline in [0, 1, context.suite.now() - 1] {
        ensure_error!(
            raw::until(Operation::Wait, &[notification.0], deadline),
            TimedOut,
            "a wait"
        );
        ensure_error!(
            raw::until(Operation::Receive, &[endpoint.0], deadline),
            TimedOut,
            "a receive"
        );
        ensure_error!(
            raw::until(Operation::Call, &[endpoint.0], deadline),
            NotDelivered,
            "a call"
        );
    }
    Ok(())
}

fn futex_changed(context: &Context) -> Outcome {
    let region = crate::suite::Region::new(&context.suite, 4096)?;
    let soon = context.suite.after(20);
    ensure_error!(
        raw::until(Operation::FutexWait, &[region.address, 1], soon),
        Changed,
        "another value"
    );
    ensure_error!(
        raw::until(Operation::FutexWait, &[region.address, 0], soon),
        TimedOut,
        "the expected value"
    );
    for address in [
        region.address + 1,
        region.address + 2,
        region.address - 4,
        0,
    ] {
        ensure_error!(
            raw::until(Operation::FutexWait, &[address, 0], 0),
            InvalidArgument,
            "address {address:#x}"
        );
    }
    for count in [0, 1025, u64::MAX] {
        ensure_error!(
            call(Operation::FutexWake, &[region.address, count]),
            InvalidArgument,
            "waking {count}"
        );
    }
    ensure_equal!(
        value(Operation::FutexWake, &[region.address, 1024])?,
        0,
        "sleepers where there are none"
    );
    Ok(())
}

/// Sleeps on the word at the address in word 0; word 2 becomes 1 when it was woken.
fn sleep_on(board: &'static Board) {
    let address = board.words[0].load(Ordering::Acquire);
    if raw::call(Operation::FutexWait, &[address, 0]).is_ok() {
        board.words[2].store(1, Ordering::Release);
    }
}

fn futex_order(context: &Context) -> Outcome {
    let suite = &context.suite;
    let region = crate::suite::Region::new(suite, 4096)?;
    let mut threads = alloc::vec::Vec::new();
    for _ in 0..6 {
        let thread = Thread::start(suite, sleep_on, &[region.address])?;
        thread.reach(suite, 2)?;
        threads.push(thread);
    }
    let other = region.address + 4;
    ensure_equal!(
        value(Operation::FutexWake, &[other, 1024])?,
        0,
        "sleepers on the next word"
    );
    ensure_equal!(
        value(Operation::FutexWake, &[region.address, 2])?,
        2,
        "sleepers woken"
    );
    for thread in &threads[..2] {
        thread.finish(suite)?;
        ensure_equal!(thread.word(2), 1, "one of the first two");
    }
    suite.sleep(10);
    for thread in &threads[2..] {
        ensure!(!thread.is_done(), "more were woken than asked for");
    }
    ensure_equal!(
        value(Operation::FutexWake, &[region.address, 1024])?,
        4,
        "the rest"
    );
    threads.iter().try_for_each(|thread| thread.finish(suite))
}

/// The same address in another task is another word.
fn futex_own(context: &Context) -> Outcome {
    let suite = &context.suite;
    let region = crate::suite::Region::new(suite, 4096)?;
    let child = crate::child::Child::new(suite, &context.program, crate::child::QUOTA)?;
    crate::suite::map(child.task, region.memory, region.address, 4096, 1)?;
    let own = Thread::start(suite, sleep_on, &[region.address])?;
    own.reach(suite, 2)?;
    let other = child.run(suite, wake, &[region.address])?;
    ensure_equal!(other.word(2), 0, "threads of another task that were woken");
    ensure!(!own.is_done(), "another task woke a thread");
    call(Operation::FutexWake, &[region.address, 1])?;
    own.finish(suite)
}

/// Wakes whoever sleeps at the address in word 0; word 2 gets their number.
fn wake(board: &'static Board) {
    let address = board.words[0].load(Ordering::Acquire);
    let woken = value(Operation::FutexWake, &[address, 1024]).unwrap_or(u64::MAX);
    board.words[2].store(woken, Ordering::Release);
}
