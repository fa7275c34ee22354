//! Notifications: bits gather, one waiter, binding, and waits that end once.

use core::sync::atomic::Ordering;

use ipc::message::NEVER;
use ipc::{Error, Label, Operation};

use crate::child::Thread;
use crate::failure::{Outcome, ensure, ensure_equal, ensure_error};
use crate::messages::just_call;
use crate::raw::{self, Board, call};
use crate::suite::{Owned, receive};
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[
    ("signals_gather", gather),
    ("notification_has_one_waiter", one_waiter),
    ("destroyed_notification_wakes_its_waiter", destroyed),
    ("signal_ends_a_receive", bound),
    ("binding_has_one_thread", binding),
    ("old_deadline_does_not_end_a_new_wait", old_deadline),
    ("late_deadline_does_not_end_a_new_wait", late_deadline),
    ("signals_and_deadlines_race", race),
    ("signals_are_neither_lost_nor_doubled", ping_pong),
    (
        "signals_before_receiving_are_neither_lost_nor_doubled",
        bounce_back,
    ),
];

fn gather(context: &Context) -> Outcome {
    let notification = Owned::make(Operation::NotificationCreate, &[])?;
    for bits in [1, 4, 1 << 63, 4] {
        call(Operation::Signal, &[notification.0, bits])?;
    }
    let [bits, ..] = raw::until(Operation::Wait, &[notification.0], 0)?;
    ensure_equal!(bits, 1 << 63 | 5, "bits");
    ensure_error!(
        raw::until(Operation::Wait, &[notification.0], 0),
        TimedOut,
        "bits that were taken"
    );
    let start = context.suite.now();
    ensure_error!(
        raw::until(Operation::Wait, &[notification.0], context.suite.after(20)),
        TimedOut,
        "waiting for nothing"
    );
    ensure!(
        context.suite.now() >= start + 20_000_000,
        "the wait ended before its deadline"
    );
    Ok(())
}

/// Waits on the notification in word 0; word 2 gets the bits, word 3 the status.
pub(crate) fn just_wait(board: &'static Board) {
    let notification = board.words[0].load(Ordering::Acquire);
    match call(Operation::Wait, &[notification]) {
        Ok([bits, ..]) => board.words[2].store(bits, Ordering::Release),
        Err(error) => board.words[3].store(error.code(), Ordering::Release),
    }
}

fn one_waiter(context: &Context) -> Outcome {
    let notification = Owned::make(Operation::NotificationCreate, &[])?;
    let waiter = Thread::start(&context.suite, just_wait, &[notification.0])?;
    waiter.reach(&context.suite, 2)?;
    ensure_error!(
        raw::until(Operation::Wait, &[notification.0], context.suite.after(100)),
        Busy,
        "a second waiter"
    );
    call(Operation::Signal, &[notification.0, 6])?;
    waiter.finish(&context.suite)?;
    ensure_equal!((waiter.word(2), waiter.word(3)), (6, 0), "bits and status");
    Ok(())
}

fn destroyed(context: &Context) -> Outcome {
    let notification = Owned::make(Operation::NotificationCreate, &[])?;
    let waiter = Thread::start(&context.suite, just_wait, &[notification.0])?;
    waiter.reach(&context.suite, 2)?;
    call(Operation::Destroy, &[notification.0])?;
    waiter.finish(&context.suite)?;
    ensure_equal!(waiter.word(3), Error::Destroyed.code(), "status");
    Ok(())
}

/// A thread with a bound notification receives messages and signals by one operation.
fn bound(context: &Context) -> Outcome {
    let suite = &context.suite;
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    let notification = Owned::make(Operation::NotificationCreate, &[])?;
    call(Operation::NotificationBind, &[notification.0])?;
    let result = receive_both(context, endpoint.0, notification.0);
    call(Operation::NotificationBind, &[0])?;
    result?;
    call(Operation::Signal, &[notification.0, 1])?;
    ensure_error!(
        receive(endpoint.0, suite.after(20)),
        TimedOut,
        "a signal after unbinding"
    );
    Ok(())
}

fn receive_both(context: &Context, endpoint: u64, notification: u64) -> Outcome {
    let suite = &context.suite;
    // Bits that were there before.
    call(Operation::Signal, &[notification, 2])?;
    let (_, tag, words) = receive(endpoint, suite.after(2000))?;
    ensure!(
        tag.is_kernel() && tag.label() == Label::SIGNAL && words[0] == 2,
        "no signal message, but {tag:?} with {words:?}"
    );
    // Bits that come while it waits.
    let values = [notification, 8];
    let signaller = Thread::start(suite, signal_later, &values)?;
    let (_, tag, words) = receive(endpoint, suite.after(2000))?;
    ensure!(
        tag.is_kernel() && words[0] == 8,
        "no signal message, but {tag:?} with {words:?}"
    );
    signaller.finish(suite)?;
    let caller = Thread::start(suite, just_call, &[endpoint])?;
    let (_, tag, _) = receive(endpoint, suite.after(2000))?;
    ensure!(!tag.is_kernel(), "a message, but {tag:?}");
    call(Operation::Reply, &[0])?;
    caller.finish(suite)
}

/// Signals the notification in word 0 with the bits in word 1 after a while.
fn signal_later(board: &'static Board) {
    let [notification, bits] = [0, 1].map(|index| board.words[index].load(Ordering::Acquire));
    for _ in 0..100 {
        let _ = call(Operation::Yield, &[]);
    }
    let _ = call(Operation::Signal, &[notification, bits]);
}

/// Binds the notification in word 0; word 3 gets the status.
fn bind(board: &'static Board) {
    let notification = board.words[0].load(Ordering::Acquire);
    let result = call(Operation::NotificationBind, &[notification]);
    let status = result.map_or_else(Error::code, |_| 0);
    board.words[3].store(status, Ordering::Release);
}

fn binding(context: &Context) -> Outcome {
    let notification = Owned::make(Operation::NotificationCreate, &[])?;
    call(Operation::NotificationBind, &[notification.0])?;
    let other = Thread::start(&context.suite, bind, &[notification.0])?;
    let ended = other.finish(&context.suite);
    call(Operation::NotificationBind, &[0])?;
    ended?;
    ensure_equal!(other.word(3), Error::Busy.code(), "a second thread's bind");
    // A thread that dies unbinds.
    let bound = Thread::start(&context.suite, bind, &[notification.0])?;
    bound.finish(&context.suite)?;
    bound.reach(&context.suite, 4)?;
    call(Operation::NotificationBind, &[notification.0])?;
    call(Operation::NotificationBind, &[0])?;
    Ok(())
}

/// The deadline of a wait that a signal ended does nothing to the wait that follows.
fn old_deadline(context: &Context) -> Outcome {
    let suite = &context.suite;
    let notification = Owned::make(Operation::NotificationCreate, &[])?;
    let values = [notification.0, suite.after(60)];
    let waiter = Thread::start(suite, wait_twice, &values)?;
    waiter.reach(suite, 2)?;
    call(Operation::Signal, &[notification.0, 1])?;
    ensure!(
        suite.wait_for(1000, || waiter.word(2) == 1),
        "the first wait did not end"
    );
    suite.sleep(150);
    ensure_equal!(waiter.word(4), 0, "status of the second wait, too early");
    ensure!(!waiter.is_done(), "the second wait ended without a signal");
    call(Operation::Signal, &[notification.0, 1])?;
    waiter.finish(suite)
}

/// Waits on the notification in word 0 with the deadline in word 1, sets word 2, then waits on it
/// for ever; word 4 gets the status of that.
fn wait_twice(board: &'static Board) {
    let [notification, deadline] = [0, 1].map(|index| board.words[index].load(Ordering::Acquire));
    let _ = raw::until(Operation::Wait, &[notification], deadline);
    board.words[2].store(1, Ordering::Release);
    let status = call(Operation::Wait, &[notification]).map_or_else(Error::code, |_| 0);
    board.words[4].store(status, Ordering::Release);
}

/// A wait is ended by a signal long before its deadline, and what the kernel has noted of that is late for the
/// next waits: one has a later deadline, which ends it, and not the earlier one; one an earlier deadline; and
/// one has none and is ended by nothing.
fn late_deadline(context: &Context) -> Outcome {
    let suite = &context.suite;
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    let notification = Owned::make(Operation::NotificationCreate, &[])?;
    let waiter = Thread::start(
        suite,
        receive_again_and_again,
        &[endpoint.0, notification.0],
    )?;
    waiter.reach(suite, 2)?;
    call(Operation::Signal, &[notification.0, 1])?;
    ensure!(
        suite.wait_for(5000, || waiter.word(2) == 4),
        "a wait with a deadline did not end: {}",
        waiter.word(2)
    );
    suite.sleep(150);
    ensure!(!waiter.is_done(), "the last wait ended without a signal");
    call(Operation::Signal, &[notification.0, 1])?;
    waiter.finish(suite)?;
    ensure_equal!(waiter.word(3), 0, "waits that ended too early or otherwise");
    Ok(())
}

/// Receives from the endpoint in word 0, with the notification in word 1 bound, again and again. Word 2 gets
/// how many waits have ended; word 3 counts those that ended too early or otherwise than they should.
fn receive_again_and_again(board: &'static Board) {
    const MILLISECOND: u64 = 1_000_000;
    let [endpoint, notification] = [0, 1].map(|index| board.words[index].load(Ordering::Acquire));
    let now = || raw::value(Operation::ClockRead, &[]).unwrap_or(0);
    let mut wrong = 0;
    wrong += u64::from(call(Operation::NotificationBind, &[notification]).is_err());
    let start = now();
    let signalled = receive(endpoint, start + 60 * MILLISECOND);
    wrong += u64::from(signalled.is_err());
    board.words[2].store(1, Ordering::Release);
    for (ended, milliseconds) in [(2, 100), (3, 10), (4, 120)] {
        let deadline = now().max(start) + milliseconds * MILLISECOND;
        let timely = receive(endpoint, deadline) == Err(Error::TimedOut);
        wrong += u64::from(!timely || now() < deadline);
        board.words[2].store(ended, Ordering::Release);
    }
    board.words[3].store(wrong, Ordering::Release);
    let last = receive(endpoint, NEVER);
    board.words[3].store(wrong + u64::from(last.is_err()), Ordering::Release);
}

/// Waits with deadlines that end about when the signals come: each wait ends once, by one of them,
/// and every bit is seen.
fn race(context: &Context) -> Outcome {
    const ROUNDS: u64 = 2_000;
    let suite = &context.suite;
    let notification = Owned::make(Operation::NotificationCreate, &[])?;
    let waiter = Thread::start(suite, wait_shortly, &[notification.0, ROUNDS])?;
    let mut sent = 0;
    while sent < ROUNDS && suite.wait_for(2000, || waiter.word(2) == sent) {
        sent += 1;
        call(Operation::Signal, &[notification.0, sent])?;
    }
    waiter.finish(suite)?;
    ensure_equal!(waiter.word(2), ROUNDS, "signals seen");
    ensure_equal!(waiter.word(3), 0, "results that cannot be");
    Ok(())
}

/// Waits again and again on the notification in word 0, 20 microseconds each, until the bits were
/// the number in word 1. Word 2 gets the last bits; word 3 counts results that cannot be.
fn wait_shortly(board: &'static Board) {
    let [notification, last] = [0, 1].map(|index| board.words[index].load(Ordering::Acquire));
    let mut expected = 1;
    while expected <= last {
        let now = raw::value(Operation::ClockRead, &[]).unwrap_or(0);
        match raw::until(Operation::Wait, &[notification], now + 20_000) {
            Ok([bits, ..]) if bits == expected => {
                board.words[2].store(bits, Ordering::Release);
                expected += 1;
            }
            Err(Error::TimedOut) => {}
            _ => {
                board.words[3].fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
    }
}

/// Two threads wake each other in turn.
fn ping_pong(context: &Context) -> Outcome {
    const ROUNDS: u64 = 5_000;
    let suite = &context.suite;
    let one = Owned::make(Operation::NotificationCreate, &[])?;
    let two = Owned::make(Operation::NotificationCreate, &[])?;
    let left = Thread::start(suite, bounce, &[one.0, two.0, ROUNDS])?;
    let right = Thread::start(suite, bounce, &[two.0, one.0, ROUNDS])?;
    call(Operation::Signal, &[one.0, 1])?;
    left.finish(suite)?;
    right.finish(suite)?;
    ensure_equal!((left.word(3), right.word(3)), (ROUNDS, ROUNDS), "rounds");
    Ok(())
}

/// Waits on word 0 and signals word 1, as often as word 2 says; word 3 counts.
fn bounce(board: &'static Board) {
    let [wait, signal, rounds] = [0, 1, 2].map(|index| board.words[index].load(Ordering::Acquire));
    for _ in 0..rounds {
        match call(Operation::Wait, &[wait]) {
            Ok([1, ..]) => board.words[3].fetch_add(1, Ordering::Release),
            _ => return,
        };
        let _ = call(Operation::Signal, &[signal, 1]);
    }
}

/// Two threads wake each other in turn, each by the call by which it then waits.
fn bounce_back(context: &Context) -> Outcome {
    const ROUNDS: u64 = 5_000;
    let suite = &context.suite;
    let one = Owned::make(Operation::NotificationCreate, &[])?;
    let two = Owned::make(Operation::NotificationCreate, &[])?;
    let left = Thread::start(suite, bounce_in_one, &[one.0, two.0, ROUNDS])?;
    let right = Thread::start(suite, bounce_in_one, &[two.0, one.0, ROUNDS])?;
    call(Operation::Signal, &[one.0, 1])?;
    left.finish(suite)?;
    right.finish(suite)?;
    ensure_equal!((left.word(3), right.word(3)), (ROUNDS, ROUNDS), "rounds");
    Ok(())
}

/// Binds word 0, and signals word 1 each time that it was signalled, as often as word 2 says; word 3
/// counts.
fn bounce_in_one(board: &'static Board) {
    let [own, other, rounds] = [0, 1, 2].map(|index| board.words[index].load(Ordering::Acquire));
    let Ok([endpoint, ..]) = call(Operation::EndpointCreate, &[]) else {
        return;
    };
    if call(Operation::NotificationBind, &[own]).is_err() {
        return;
    }
    let mut received = call(Operation::Receive, &[endpoint]);
    for _ in 0..rounds {
        match received {
            Ok([_, _, 1, ..]) => board.words[3].fetch_add(1, Ordering::Release),
            _ => break,
        };
        let last = board.words[3].load(Ordering::Relaxed) == rounds;
        received = match last {
            true => call(Operation::Signal, &[other, 1]),
            false => call(Operation::SignalReceive, &[endpoint, 0, other, 1]),
        };
    }
    let _ = call(Operation::Close, &[endpoint]);
}
