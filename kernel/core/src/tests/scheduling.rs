//! Who runs when: priorities, slices, deadlines, other CPUs.

use super::bench::{
    block, call, give, is, kernel, pass, run, running, settle, status, task, thread,
};
use crate::fake::run_on;
use crate::object::Object;
use crate::sync::Ordering;
use ipc::message::NEVER;
use ipc::{Error, Operation as O, Rights};

#[test]
fn the_most_urgent_thread_runs_and_equals_share_by_slices() {
    let kernel = kernel(1);
    let task = task(kernel, 1 << 20);
    let (low, first, second) = (
        thread(kernel, task, 5),
        thread(kernel, task, 9),
        thread(kernel, task, 9),
    );
    assert!(is(running(kernel), first));
    pass(kernel, 1_000_000);
    assert!(is(running(kernel), first), "its slice is not over");
    pass(kernel, 9_000_000);
    assert!(is(running(kernel), second), "the slice of 10 ms is over");
    pass(kernel, 10_000_000);
    assert!(is(running(kernel), first));
    for thread in [second, first] {
        let own = give(kernel, task, Object::Thread(thread), Rights::ALL);
        call(kernel, first, O::Destroy, &[own.0]).unwrap();
    }
    assert!(is(running(kernel), low));
    settle(kernel);
}

#[test]
fn equals_share_although_a_more_urgent_thread_keeps_coming_between() {
    let kernel = kernel(1);
    let task = task(kernel, 1 << 20);
    let (first, second) = (thread(kernel, task, 9), thread(kernel, task, 9));
    assert!(is(running(kernel), first));
    let mut seen = false;
    for _ in 0..15 {
        pass(kernel, 1_000_000);
        let urgent = thread(kernel, task, 20);
        assert!(is(running(kernel), urgent));
        let own = give(kernel, task, Object::Thread(urgent), Rights::ALL);
        call(kernel, urgent, O::Destroy, &[own.0]).unwrap();
        seen |= is(running(kernel), second);
    }
    assert!(seen, "15 ms passed, and a slice has 10");
    settle(kernel);
}

#[test]
fn no_timer_is_set_where_nobody_waits_for_time() {
    let kernel = kernel(1);
    let task = task(kernel, 1 << 20);
    let alone = thread(kernel, task, 9);
    run(kernel, alone);
    let timer = kernel.platform.cpus[0].timer.load(Ordering::Relaxed);
    assert!(timer == u64::MAX || timer == 0, "tickless: {timer}");
}

#[test]
fn a_deadline_that_passed_is_no_wait_and_one_that_comes_ends_it() {
    let kernel = kernel(1);
    let task = task(kernel, 1 << 20);
    let one = thread(kernel, task, 9);
    let notification = call(kernel, one, O::NotificationCreate, &[]).unwrap()[0];
    block(kernel, one, O::Wait, &[notification], 5_000);
    assert!(running(kernel).is_none());
    assert_eq!(kernel.platform.cpus[0].timer.load(Ordering::Relaxed), 5_000);
    pass(kernel, 4_999);
    assert!(running(kernel).is_none());
    pass(kernel, 1);
    assert!(is(running(kernel), one));
    assert_eq!(status(one), Err(Error::TimedOut));
    super::bench::system_call_until(kernel, one, O::Wait, &[notification], 0);
    assert_eq!(status(one), Err(Error::TimedOut), "a poll");
    let own = give(kernel, task, Object::Thread(one), Rights::ALL).0;
    assert!(call(kernel, one, O::Signal, &[notification, 1]).is_ok());
    assert_eq!(call(kernel, one, O::Wait, &[notification]).unwrap()[0], 1);
    call(kernel, one, O::Close, &[own]).unwrap();
}

#[test]
fn a_woken_thread_goes_to_an_idle_cpu_and_kicks_it() {
    let kernel = kernel(2);
    let task = task(kernel, 1 << 20);
    run_on(1);
    assert!(kernel.leave(&kernel.cpus()[1]).is_none());
    run_on(0);
    let (busy, other) = (thread(kernel, task, 9), thread(kernel, task, 9));
    run_on(1);
    kernel.kicked(&kernel.cpus()[1]);
    let there = kernel.leave(&kernel.cpus()[1]);
    run_on(0);
    let here = kernel.leave(&kernel.cpus()[0]);
    assert!(is(here, busy) && is(there, other) || is(here, other) && is(there, busy));
    assert!(kernel.platform.cpus[1].kicks.load(Ordering::Relaxed) > 0);
}

#[test]
fn affinity_keeps_a_thread_on_its_cpu() {
    let kernel = kernel(2);
    let task = task(kernel, 1 << 20);
    let pinned = thread(kernel, task, 9);
    let handle = give(kernel, task, Object::Thread(pinned), Rights::ALL).0;
    let refused = call(kernel, pinned, O::ThreadSet, &[handle, 2, 0b100]);
    assert_eq!(
        refused,
        Err(Error::InvalidArgument),
        "there is no third CPU"
    );
    call(kernel, pinned, O::ThreadSet, &[handle, 2, 0b10]).unwrap();
    assert!(running(kernel).is_none(), "it left CPU 0");
    run_on(1);
    assert!(is(kernel.leave(&kernel.cpus()[1]), pinned));
    run_on(0);
}

#[test]
fn only_a_scheduler_right_raises_a_priority_above_the_tasks_own() {
    let kernel = kernel(1);
    let quota = kernel.root_quota.carve(kernel, 1 << 20).unwrap();
    let task = kernel
        .make_task(&kernel.root_quota, quota, None, 10)
        .unwrap();
    let one = thread(kernel, task, 5);
    let handle = give(kernel, task, Object::Thread(one), Rights::ALL).0;
    call(kernel, one, O::ThreadSet, &[handle, 1, 10]).unwrap();
    assert!(call(kernel, one, O::ThreadSet, &[handle, 1, 11, 0]).is_err());
    let control = give(kernel, task, Object::SchedControl, Rights::TUNE).0;
    call(kernel, one, O::ThreadSet, &[handle, 1, 11, control]).unwrap();
    assert_eq!(one.priority(), 11);
}

#[test]
fn a_blocked_wait_is_not_programmed_again_after_it_ended() {
    let kernel = kernel(1);
    let task = task(kernel, 1 << 20);
    let (sleeper, waker) = (thread(kernel, task, 9), thread(kernel, task, 8));
    let notification = call(kernel, sleeper, O::NotificationCreate, &[]).unwrap()[0];
    block(kernel, sleeper, O::Wait, &[notification], 5_000);
    call(kernel, waker, O::Signal, &[notification, 4]).unwrap();
    run(kernel, sleeper);
    assert_eq!(status(sleeper).unwrap()[0], 4);
    block(kernel, sleeper, O::Wait, &[notification], NEVER);
    pass(kernel, 10_000);
    assert!(
        is(running(kernel), waker),
        "the old deadline does not end the new wait"
    );
}
