//! Who runs when: priorities, slices, deadlines, other CPUs.

use super::bench::{
    block, call, give, is, kernel, pass, run, running, settle, status, task, thread,
};
use crate::create::ThreadStart;
use crate::fake::run_on;
use crate::object::Object;
use crate::random::Random;
use crate::sync::Ordering;
use crate::thread::Thread;
use ipc::message::NEVER;
use ipc::{Error, Operation as O, Rights};
use std::collections::VecDeque;

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

#[test]
fn a_run_queue_gives_the_most_urgent_thread_and_equals_in_order() {
    const COUNT: usize = 12;
    let kernel = kernel(2);
    let home = task(kernel, 1 << 20);
    // Stopped: nobody else has them in a queue.
    let threads: Vec<&'static Thread> = (0..COUNT)
        .map(|_| {
            let start = ThreadStart {
                entry: 0x40_0000,
                stack: 0x50_0000,
                arguments: [0; 3],
                fs_base: 0,
                priority: 10,
                uses_fpu: false,
            };
            kernel.make_thread(home, start).unwrap()
        })
        .collect();
    let mut random = Random::new(7);
    let cpu = &kernel.cpus()[0];
    let mut model: Vec<VecDeque<usize>> = vec![VecDeque::new(); 64];
    let number = |thread: &'static Thread| threads.iter().position(|one| is(Some(one), thread));
    for _ in 0..50_000 {
        let mut queue = cpu.run_queue();
        let top = model.iter().rposition(|fifo| !fifo.is_empty());
        assert_eq!(queue.top(), top.map_or(0, |top| top as u32 + 1));
        assert_eq!(queue.is_empty(), top.is_none());
        let length: usize = model.iter().map(VecDeque::len).sum();
        assert_eq!(queue.len(), length as u64);
        let front = top.and_then(|top| model[top].front().copied());
        assert_eq!(queue.front().and_then(number), front);
        if let Some((single, urgency)) = queue.single() {
            assert_eq!((number(single), top), (front, Some(urgency as usize - 1)));
            assert_eq!(model[urgency as usize - 1].len(), 1);
        }
        let which = random.below(COUNT);
        let queued = model.iter().any(|fifo| fifo.contains(&which));
        match random.below(6) {
            0..3 if !queued => {
                let priority = [3, 10, 11, 63][random.below(4)];
                let first = random.below(2) == 0;
                queue.push_as(threads[which], priority as u32 + 1, first);
                match first {
                    true => model[priority].push_front(which),
                    false => model[priority].push_back(which),
                }
            }
            3 => {
                assert_eq!(queue.remove(threads[which]), queued);
                model
                    .iter_mut()
                    .for_each(|fifo| fifo.retain(|one| *one != which));
            }
            4 if queue.single().is_some() && random.below(2) == 0 => {
                queue.pop_single();
                top.map(|top| model[top].pop_front());
            }
            4 => {
                let taken = random.below(2) == 0;
                let thread = match taken {
                    true => queue.pop(),
                    false => queue.steal(0),
                };
                assert_eq!(thread.and_then(number), front);
                top.map(|top| model[top].pop_front());
            }
            _ => {
                // A thief from a CPU that this thread may not run on leaves it.
                threads[which].affinity.store(1, Ordering::Relaxed);
                let stolen = queue.steal(1).and_then(number);
                threads[which].affinity.store(u64::MAX, Ordering::Relaxed);
                // Of each priority the first one is looked at, and the second where the first has the place
                // beside the queue.
                let may = |one: &&usize| **one != which;
                let first = model.iter().rev().find_map(|fifo| fifo.front().filter(may));
                let second = model
                    .iter()
                    .rev()
                    .find_map(|fifo| fifo.iter().take(2).find(may));
                assert!(
                    stolen == first.copied() || stolen == second.copied(),
                    "{stolen:?} of {model:?}, not {which}"
                );
                model
                    .iter_mut()
                    .for_each(|fifo| fifo.retain(|one| Some(*one) != stolen));
            }
        }
    }
}
