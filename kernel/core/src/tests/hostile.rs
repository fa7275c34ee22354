//! What an attacker tries: handles that are closed while another CPU uses them, ends of objects in
//! the middle of operations, quotas too small for anything, arguments out of every range.

use super::bench::{TestKernel, block, call, give, kernel, run, settle, status, task, thread};
use crate::handles::Held;
use crate::mapping::MapRequest;
use crate::object::Object;
use crate::rendezvous::claim_receiver;
use crate::task::Task;
use crate::thread::Thread;
use ipc::message::{NEVER, Transfer};
use ipc::{Error, Handle, Operation as O, Rights};

const PAGE: u64 = 4096;

struct Attacker {
    kernel: TestKernel,
    task: &'static Task,
    thread: &'static Thread,
    own: u64,
}

fn attacker() -> Attacker {
    let kernel = kernel(1);
    let task = task(kernel, 2 << 20);
    let thread = thread(kernel, task, 10);
    let own = give(kernel, task, Object::Task(task), Rights::ALL).0;
    Attacker {
        kernel,
        task,
        thread,
        own,
    }
}

impl Attacker {
    fn call(&self, operation: O, arguments: &[u64]) -> Result<[u64; 6], Error> {
        call(self.kernel, self.thread, operation, arguments)
    }

    /// What a CPU has looked up when another one closes the last handle.
    fn stale(&self, operation: O, arguments: &[u64]) -> Held {
        let handle = self.call(operation, arguments).unwrap()[0];
        let held = self.task.handles.look_up(Handle(handle)).unwrap();
        self.call(O::Close, &[handle]).unwrap();
        held
    }
}

#[test]
fn a_handle_closed_in_the_middle_of_an_operation_names_nothing_any_more() {
    let a = attacker();
    let open = a.task.handles.open();
    let stale = a.stale(O::NotificationCreate, &[]);
    let copied = a.kernel.duplicate(a.thread, stale, Rights::ALL);
    assert_eq!(copied.err(), Some(Error::InvalidHandle), "duplicated");
    let granted = a.kernel.grant(a.thread, a.task, stale, Rights::ALL);
    assert_eq!(granted.err(), Some(Error::InvalidHandle), "granted");
    let Object::Notification(notification) = stale.object else {
        unreachable!()
    };
    let bound = a.kernel.bind(a.thread, notification);
    assert_eq!(bound.err(), Some(Error::InvalidHandle), "bound");
    let cpu = &a.kernel.cpus()[0];
    let waits = a.kernel.wait(cpu, a.thread, notification, NEVER);
    assert_eq!(waits.err(), Some(Error::Destroyed), "waited on");
    assert!(a.thread.bound.get().is_none());
    let stale = a.stale(O::EndpointCreate, &[]);
    settle(a.kernel);
    let minted = a.kernel.mint(a.thread, stale, 5);
    assert_eq!(minted.err(), Some(Error::InvalidHandle), "minted");
    let closed = a.kernel.destroy(a.thread, stale.object);
    assert_eq!(closed.err(), Some(Error::InvalidHandle), "destroyed");
    settle(a.kernel);
    assert_eq!(a.task.handles.open(), open);
    assert_eq!(
        (a.kernel.notifications.live(), a.kernel.endpoints.live()),
        (0, 0)
    );
}

#[test]
fn memory_closed_while_it_is_mapped_is_not_mapped() {
    let a = attacker();
    let free = a.kernel.frames.free_count();
    let stale = a.stale(O::MemoryCreate, &[4 * PAGE, 0]);
    let Object::Memory(memory) = stale.object else {
        unreachable!()
    };
    let request = || MapRequest::check(memory, 0x40_0000, 0, PAGE, 1).unwrap();
    let mapped = |request| a.kernel.map_memory(a.thread, a.task, memory, request);
    assert_eq!(mapped(request()).err(), Some(Error::InvalidHandle));
    settle(a.kernel);
    assert_eq!(mapped(request()).err(), Some(Error::InvalidHandle));
    assert_eq!(a.kernel.memories.live(), 0);
    assert_eq!(a.kernel.mappings.live(), 0);
    let slabs = a.kernel.memories.frames() + a.kernel.mappings.frames();
    assert!(a.kernel.frames.free_count() + slabs >= free);
}

#[test]
fn a_task_closed_while_it_is_destroyed_ends_once() {
    let a = attacker();
    let stale = a.stale(O::TaskCreate, &[a.own, 64 * PAGE, 0, 5]);
    let again = a.kernel.destroy(a.thread, stale.object);
    assert!(again.is_ok(), "it is being reclaimed, and destroyed");
    settle(a.kernel);
    let again = a.kernel.destroy(a.thread, stale.object);
    assert_eq!(again.err(), Some(Error::InvalidHandle));
    assert_eq!(a.kernel.tasks.live(), 1);
}

#[test]
fn a_task_whose_quota_is_too_small_for_itself_costs_its_maker_nothing() {
    let a = attacker();
    // The slabs and the handle table grow once.
    let first = a.call(O::TaskCreate, &[a.own, 64 * PAGE, 0, 5]).unwrap()[0];
    let child = a.task.handles.look_up(Handle(first)).unwrap().object;
    a.call(O::Destroy, &[first]).unwrap();
    a.call(O::Close, &[first]).unwrap();
    settle(a.kernel);
    let Object::Task(child) = child else {
        unreachable!()
    };
    assert_eq!(child.quota_limit(), 0);
    let used = a.task.quota().used();
    for round in 0..20 {
        for pages in 1..5 {
            let made = a.call(O::TaskCreate, &[a.own, pages * PAGE, 0, 5]);
            // A quota that is made while the failed task is not reclaimed must stay open.
            let notification = a.call(O::NotificationCreate, &[]).unwrap()[0];
            let other = a.call(O::TaskCreate, &[a.own, 32 * PAGE, 0, 5]).unwrap()[0];
            settle(a.kernel);
            let Object::Task(alive) = a.task.handles.look_up(Handle(other)).unwrap().object else {
                unreachable!()
            };
            assert!(alive.quota().charge(PAGE).is_ok(), "round {round}, {pages}");
            alive.quota().credit(a.kernel, PAGE);
            for handle in [other, notification].into_iter().chain(made.map(|r| r[0])) {
                let _ = a.call(O::Destroy, &[handle]);
                a.call(O::Close, &[handle]).unwrap();
            }
            settle(a.kernel);
            assert_eq!(a.task.quota().used(), used, "round {round}, {pages} pages");
        }
    }
    assert_eq!((a.kernel.tasks.live(), a.kernel.quotas.live()), (1, 1));
}

#[test]
fn a_task_makes_none_more_urgent_than_itself() {
    let kernel = kernel(1);
    let quota = kernel.root_quota.carve(kernel, 1 << 20).unwrap();
    let modest = kernel
        .make_task(&kernel.root_quota, quota, None, 10)
        .unwrap();
    let one = thread(kernel, modest, 5);
    let own = give(kernel, modest, Object::Task(modest), Rights::ALL).0;
    let most = |priority| call(kernel, one, O::TaskCreate, &[own, 32 * PAGE, 0, priority]);
    assert_eq!(most(11), Err(Error::InvalidArgument));
    assert_eq!(most(63), Err(Error::InvalidArgument));
    assert!(most(10).is_ok());
}

#[test]
fn a_thread_that_destroys_its_task_of_many_threads_does_not_come_back() {
    let a = attacker();
    let big = task(a.kernel, 4 << 20);
    let others: Vec<_> = (0..40).map(|_| thread(a.kernel, big, 9)).collect();
    let last = thread(a.kernel, big, 9);
    let own = give(a.kernel, big, Object::Task(big), Rights::ALL).0;
    block(a.kernel, a.thread, O::Wait, &[quiet(&a)], NEVER);
    run(a.kernel, last);
    super::bench::system_call_until(a.kernel, last, O::Destroy, &[own], NEVER);
    let next = a.kernel.leave(&a.kernel.cpus()[0]);
    assert!(!super::bench::is(next, last));
    assert!(last.dead.load(crate::sync::Ordering::Relaxed));
    for _ in 0..10 {
        // The time of some steps of reclaiming, which end the threads beyond the first ones.
        super::bench::pass(a.kernel, 1_000_000);
        a.kernel.leave(&a.kernel.cpus()[0]);
    }
    settle(a.kernel);
    assert_eq!(a.kernel.threads.live(), 1, "{} threads died", others.len());
}

#[test]
fn a_thread_that_nobody_can_start_any_more_does_not_keep_its_task() {
    let a = attacker();
    let child = a.call(O::TaskCreate, &[a.own, 64 * PAGE, 0, 5]).unwrap()[0];
    let start = [child, 0x40_0000, 0x50_0000, 0, 0, 5];
    let stopped = [0, 1].map(|_| a.call(O::ThreadCreate, &start).unwrap()[0]);
    a.call(O::Close, &[child]).unwrap();
    settle(a.kernel);
    assert_eq!(a.kernel.tasks.live(), 2, "its threads can be started");
    for handle in stopped {
        a.call(O::Close, &[handle]).unwrap();
    }
    settle(a.kernel);
    assert_eq!((a.kernel.tasks.live(), a.kernel.threads.live()), (1, 1));
    assert_eq!(a.kernel.quotas.live(), 1);
}

fn quiet(a: &Attacker) -> u64 {
    a.call(O::NotificationCreate, &[]).unwrap()[0]
}

#[test]
fn a_reply_right_closed_while_a_reply_is_refused_abandons_its_caller() {
    let a = attacker();
    let client = thread(a.kernel, a.task, 10);
    let endpoint = a.call(O::EndpointCreate, &[]).unwrap()[0];
    block(a.kernel, a.thread, O::Receive, &[endpoint, 0], NEVER);
    block(a.kernel, client, O::Call, &[endpoint, 0], NEVER);
    let stashed = a.call(O::Stash, &[]).unwrap()[0];
    let Object::Reply(reply) = a.task.handles.look_up(Handle(stashed)).unwrap().object else {
        unreachable!()
    };
    // As in a reply that is refused for its handles, while another CPU closes the handle.
    let refused = a.kernel.holding(Object::Reply(reply), || {
        let caller = reply.take().unwrap();
        let held = a.task.handles.remove(a.kernel, Handle(stashed)).unwrap();
        held.release(a.kernel);
        reply.set(caller);
        Err::<(), Error>(Error::ReceiverFull)
    });
    assert_eq!(refused, Err(Error::ReceiverFull));
    run(a.kernel, client);
    assert_eq!(status(client), Err(Error::Abandoned));
    assert_eq!(a.kernel.replies.live(), 0);
}

#[test]
fn a_signal_is_not_lost_while_a_sender_that_is_refused_has_the_receiver() {
    let a = attacker();
    let endpoint = a.call(O::EndpointCreate, &[]).unwrap()[0];
    let made = quiet(&a);
    a.call(O::NotificationBind, &[made]).unwrap();
    let look_up = |handle| a.task.handles.look_up(Handle(handle)).unwrap().object;
    let (Object::Endpoint(endpoint_object), Object::Notification(notification)) =
        (look_up(endpoint), look_up(made))
    else {
        unreachable!()
    };
    for bits in [1, 2] {
        block(a.kernel, a.thread, O::Receive, &[endpoint, 0], NEVER);
        // A sender on another CPU claims the receiver; a signal comes; the message is refused.
        let mut waiters = endpoint_object.waiters();
        let receiver = claim_receiver(&mut waiters).unwrap();
        assert!(a.kernel.set_bits(notification, bits).is_none());
        a.kernel.put_back(waiters, receiver);
        run(a.kernel, a.thread);
        assert_eq!(status(a.thread).unwrap()[2], bits, "the receive ended");
    }
}

#[test]
fn starting_a_thread_again_leaves_its_wait_alone() {
    let a = attacker();
    let endpoint = a.call(O::EndpointCreate, &[]).unwrap()[0];
    let other = thread(a.kernel, a.task, 10);
    block(a.kernel, a.thread, O::Receive, &[endpoint, 0], NEVER);
    assert!(!a.kernel.start_thread(a.thread));
    block(a.kernel, other, O::Call, &[endpoint, 0], NEVER);
    assert!(super::bench::is(super::bench::running(a.kernel), a.thread));
}

#[test]
fn a_wake_of_many_sleepers_is_worked_off_in_steps_and_counts_them_all() {
    let a = attacker();
    let crowd = task(a.kernel, 4 << 20);
    let own = give(a.kernel, crowd, Object::Task(crowd), Rights::ALL).0;
    let first = thread(a.kernel, crowd, 12);
    let memory = call(a.kernel, first, O::MemoryCreate, &[PAGE, 0]).unwrap()[0];
    let map = [own, memory, 0x40_0000, 0, PAGE, 1];
    call(a.kernel, first, O::MemoryMap, &map).unwrap();
    block(a.kernel, first, O::FutexWait, &[0x40_0000, 0], NEVER);
    for _ in 0..79 {
        let sleeper = thread(a.kernel, crowd, 12);
        block(a.kernel, sleeper, O::FutexWait, &[0x40_0000, 0], NEVER);
    }
    let elsewhere = thread(a.kernel, crowd, 12);
    block(a.kernel, elsewhere, O::FutexWait, &[0x40_0004, 0], NEVER);
    let foreign = a.call(O::FutexWake, &[0x40_0000, 1024]).unwrap()[0];
    assert_eq!(foreign, 0, "sleepers of another task");
    let waker = thread(a.kernel, crowd, 13);
    let wake = |count| call(a.kernel, waker, O::FutexWake, &[0x40_0000, count]).unwrap()[0];
    assert_eq!(wake(5), 5);
    assert_eq!(wake(1024), 75);
    assert_eq!(wake(1024), 0);
    assert_eq!(crowd.sleepers.lock().len(), 1);
}

#[test]
fn an_interrupt_line_that_does_not_exist_is_refused_and_ended_ones_stay_masked() {
    let a = attacker();
    let control = give(a.kernel, a.task, Object::DeviceControl, Rights::ALL).0;
    let made = quiet(&a);
    let create = |line| a.call(O::InterruptCreate, &[control, line, made, 1, 1]);
    for line in [24, 1000, u64::from(u32::MAX), u64::MAX - 1] {
        assert!(create(line).is_err(), "line {line}");
    }
    let message = create(ipc::info::INTERRUPT_MESSAGE).unwrap();
    a.kernel.interrupt(&a.kernel.cpus()[0], message[2] as u8);
    a.call(O::InterruptAcknowledge, &[message[0]]).unwrap();
    a.call(O::Close, &[message[0]]).unwrap();
    let interrupt = create(5).unwrap()[0];
    assert_eq!(create(5), Err(Error::Busy));
    let Object::Interrupt(object) = a.task.handles.look_up(Handle(interrupt)).unwrap().object
    else {
        unreachable!()
    };
    a.call(O::Close, &[interrupt]).unwrap();
    // An acknowledgement on another CPU that had looked it up before.
    assert!(a.kernel.acknowledge(object).is_ok());
    assert!(a.kernel.platform.lines.lock().unwrap()[&5].masked);
    assert_eq!(a.kernel.interrupts.live(), 0);
    a.call(O::Close, &[made]).unwrap();
    assert_eq!(a.kernel.notifications.live(), 0);
}

#[test]
fn a_mapping_that_fails_half_way_is_removed_in_steps_and_tells_why() {
    let a = attacker();
    let big = task(a.kernel, 8 << 20);
    let one = thread(a.kernel, big, 11);
    let own = give(a.kernel, big, Object::Task(big), Rights::ALL).0;
    let memory = call(a.kernel, one, O::MemoryCreate, &[1200 * PAGE, 0]).unwrap()[0];
    // Off by a page from the large pages, so that it takes many small ones.
    let map = [own, memory, 0x40_1000, 0, 1200 * PAGE, 1];
    let rest = big.quota().limit() - big.quota().used();
    let taken = rest - 4 * PAGE;
    big.quota().charge(taken).unwrap();
    let before = big.quota().used();
    let mut spare = 4 * PAGE;
    while call(a.kernel, one, O::MemoryMap, &map).is_err() {
        assert_eq!(status(one), Err(Error::OutOfQuota));
        assert_eq!(big.space.lock().count(), 0);
        let tables = big.quota().used() - before;
        assert!(tables <= 8 * PAGE, "tables stay: {tables}");
        spare += PAGE;
        big.quota().credit(a.kernel, PAGE);
        assert!(spare < 16 * PAGE);
    }
    assert!(spare > 4 * PAGE, "it failed before");
    assert_eq!(big.space.lock().count(), 1);
}

#[test]
fn tasks_within_tasks_come_to_an_end() {
    let kernel = kernel(1);
    let mut quota = &kernel.root_quota;
    let mut depth = 0;
    while let Ok(next) = quota.carve(kernel, 8 << 20) {
        depth += 1;
        // Room for the next one and its book-keeping.
        quota = next;
        quota.set_limit((8 << 20) + 64 * 1024);
        assert!(depth < 100);
    }
    assert_eq!(depth, crate::quota::MAX_NESTING);
}

#[test]
fn contiguous_memory_comes_back_in_steps_finished_or_not() {
    let a = attacker();
    let big = task(a.kernel, 8 << 20);
    let one = thread(a.kernel, big, 11);
    call(a.kernel, one, O::MemoryCreate, &[PAGE, 1]).unwrap();
    let (free, used) = (a.kernel.frames.free_count(), big.quota().used());
    let whole = call(a.kernel, one, O::MemoryCreate, &[300 * PAGE, 1]).unwrap()[0];
    call(a.kernel, one, O::Close, &[whole]).unwrap();
    settle(a.kernel);
    assert_eq!(
        (a.kernel.frames.free_count(), big.quota().used()),
        (free, used)
    );
    // Its maker gives up after the first step.
    let memory = a.kernel.begin_memory(big.quota(), 300, true).unwrap();
    assert!(!a.kernel.fill_step(memory, 32).unwrap());
    a.kernel.drop_reference(Object::Memory(memory));
    settle(a.kernel);
    assert_eq!(
        (a.kernel.frames.free_count(), big.quota().used()),
        (free, used)
    );
}

#[test]
fn memory_that_has_ended_is_not_exposed() {
    let a = attacker();
    let stale = a.stale(O::MemoryCreate, &[4 * PAGE, 1]);
    let Object::Memory(memory) = stale.object else {
        unreachable!()
    };
    assert_eq!(a.kernel.expose(memory, true), Err(Error::InvalidHandle));
}

/// A copy that is on its way counts for itself: whoever closes the handle that it was made from, and the new
/// one as soon as it is open, takes nothing from the sender.
#[test]
fn a_copied_handle_can_be_closed_on_both_sides_before_its_message_has_gone() {
    for operation in [O::NotificationCreate, O::EndpointCreate] {
        let a = attacker();
        let (kernel, handles) = (a.kernel, &a.task.handles);
        let open = handles.open();
        let source = Handle(a.call(operation, &[]).unwrap()[0]);
        let object = handles.look_up(source).unwrap().object;
        handles.reserve(kernel, a.task.quota(), 1).unwrap();
        let (mut taken, mut closed) = ([None; 4], [None; 4]);
        let wanted = [(source, Transfer::copied(Rights::ALL))];
        handles
            .take_for_message(kernel, &wanted, &mut taken, &mut closed)
            .unwrap();
        assert!(closed.iter().all(Option::is_none), "a copy closes nothing");
        a.call(O::Close, &[source.0]).unwrap();
        let copy = handles.insert_reserved(kernel, taken[0].unwrap());
        assert!(object.is_alive(), "the copy keeps it");
        a.call(O::Close, &[copy.0]).unwrap();
        settle(kernel);
        assert_eq!(handles.open(), open);
        assert!(!object.slot().unwrap().try_reference(), "nobody has it");
    }
}
