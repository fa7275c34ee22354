//! The rendezvous: who gets what, and which error when it comes to nothing.

use super::bench::{
    TestKernel, block, call, give, is, kernel, pass, run, running, settle, status,
    system_call_until, tag, task, thread,
};
use crate::object::Object;
use crate::sync::Ordering;
use crate::task::Task;
use crate::thread::Thread;
use ipc::message::{NEVER, RECEIVED_HANDLES_OFFSET, SEND_HANDLES_OFFSET, Transfer};
use ipc::{Error, Handle, Label, Operation as O, Rights, Tag};

struct Pair {
    kernel: TestKernel,
    server_task: &'static Task,
    client_task: &'static Task,
    server: &'static Thread,
    client: &'static Thread,
    receive: u64,
    send: u64,
}

/// A server and a client task with an endpoint between them; the client's right has badge 7.
fn pair() -> Pair {
    let kernel = kernel(1);
    let (server_task, client_task) = (task(kernel, 1 << 20), task(kernel, 1 << 20));
    let server = thread(kernel, server_task, 10);
    let client = thread(kernel, client_task, 10);
    let receive = call(kernel, server, O::EndpointCreate, &[]).unwrap()[0];
    let minted = call(kernel, server, O::BadgeMint, &[receive, 7]).unwrap()[0];
    let object = server_task.handles.look_up(Handle(minted)).unwrap().object;
    let rights = Rights::SEND | Rights::DUPLICATE | Rights::TRANSFER;
    let send = give(kernel, client_task, object, rights).0;
    call(kernel, server, O::Close, &[minted]).unwrap();
    Pair {
        kernel,
        server_task,
        client_task,
        server,
        client,
        receive,
        send,
    }
}

#[test]
fn a_call_to_a_waiting_server_switches_to_it_and_the_reply_switches_back() {
    let p = pair();
    block(p.kernel, p.server, O::Receive, &[p.receive, 0], NEVER);
    assert!(is(running(p.kernel), p.client));
    block(
        p.kernel,
        p.client,
        O::Call,
        &[p.send, tag(5, 32), 1, 2, 3, 4],
        NEVER,
    );
    assert!(is(running(p.kernel), p.server), "the server runs at once");
    assert_eq!(status(p.server).unwrap(), [7, tag(5, 32), 1, 2, 3, 4]);
    block(
        p.kernel,
        p.server,
        O::ReplyReceive,
        &[p.receive, tag(6, 16), 8, 9],
        NEVER,
    );
    assert!(is(running(p.kernel), p.client), "the caller runs at once");
    assert_eq!(status(p.client).unwrap()[1..4], [tag(6, 16), 8, 9]);
}

#[test]
fn a_call_before_the_receive_waits_in_the_queue() {
    let p = pair();
    // The server sleeps while the client calls.
    let notification = call(p.kernel, p.server, O::NotificationCreate, &[]).unwrap()[0];
    block(p.kernel, p.server, O::Wait, &[notification], 1000);
    block(p.kernel, p.client, O::Call, &[p.send, tag(5, 8), 11], NEVER);
    assert!(running(p.kernel).is_none());
    pass(p.kernel, 2000);
    run(p.kernel, p.server);
    assert_eq!(status(p.server), Err(Error::TimedOut));
    let received = call(p.kernel, p.server, O::Receive, &[p.receive, 0]).unwrap();
    assert_eq!(received[..3], [7, tag(5, 8), 11]);
    call(p.kernel, p.server, O::Reply, &[0, tag(0, 0)]).unwrap();
    block(p.kernel, p.server, O::Receive, &[p.receive, 0], NEVER);
    run(p.kernel, p.client);
    assert!(status(p.client).is_ok());
}

#[test]
fn long_messages_arrive_whole_and_nothing_beyond_them() {
    let p = pair();
    block(p.kernel, p.server, O::Receive, &[p.receive, 0], NEVER);
    for (position, word) in p.client.buffer().iter().enumerate() {
        word.store(position as u64 + 100, Ordering::Relaxed);
    }
    block(
        p.kernel,
        p.client,
        O::Call,
        &[p.send, tag(5, 81), 1, 2, 3, 4],
        NEVER,
    );
    let word = |position: usize| p.server.buffer()[position].load(Ordering::Relaxed);
    assert_eq!(word(3), 0, "the first 32 bytes travel in registers");
    assert_eq!((word(4), word(10)), (104, 110));
    assert_eq!(word(11), 0, "81 bytes end in the eleventh word");
}

#[test]
fn lengths_beyond_the_maxima_are_refused() {
    let p = pair();
    block(p.kernel, p.server, O::Receive, &[p.receive, 0], NEVER);
    let long = Tag::new(Label(0), 4001, 0).0;
    assert_eq!(
        call(p.kernel, p.client, O::Call, &[p.send, long]),
        Err(Error::InvalidArgument)
    );
    let many = Tag::new(Label(0), 0, 5).0;
    assert_eq!(
        call(p.kernel, p.client, O::Send, &[p.send, many]),
        Err(Error::InvalidArgument)
    );
}

#[test]
fn rights_and_kinds_are_checked() {
    let p = pair();
    let refused = call(p.kernel, p.client, O::Receive, &[p.send, 0]);
    assert_eq!(refused, Err(Error::WrongKind), "a badge cannot receive");
    let object = p
        .server_task
        .handles
        .look_up(Handle(p.receive))
        .unwrap()
        .object;
    let weak = give(p.kernel, p.client_task, object, Rights::SEND).0;
    assert_eq!(
        call(p.kernel, p.client, O::Receive, &[weak, 0]),
        Err(Error::MissingRights)
    );
    assert_eq!(
        call(p.kernel, p.client, O::BadgeMint, &[weak, 1]),
        Err(Error::MissingRights)
    );
    assert_eq!(
        call(p.kernel, p.client, O::Duplicate, &[weak, 0]),
        Err(Error::MissingRights)
    );
    assert_eq!(
        call(p.kernel, p.client, O::Close, &[weak ^ 1 << 40]),
        Err(Error::InvalidHandle)
    );
    call(p.kernel, p.client, O::Close, &[weak]).unwrap();
    assert_eq!(
        call(p.kernel, p.client, O::Send, &[weak, 0]),
        Err(Error::InvalidHandle)
    );
}

#[test]
fn a_send_without_a_receiver_would_block_and_gives_no_reply_right() {
    let p = pair();
    let quiet = call(p.kernel, p.server, O::NotificationCreate, &[]).unwrap()[0];
    block(p.kernel, p.server, O::Wait, &[quiet], 1000);
    assert_eq!(
        call(p.kernel, p.client, O::Send, &[p.send, tag(1, 0)]),
        Err(Error::WouldBlock)
    );
    pass(p.kernel, 1000);
    block(p.kernel, p.server, O::Receive, &[p.receive, 0], NEVER);
    call(p.kernel, p.client, O::Send, &[p.send, tag(1, 8), 42]).ok();
    run(p.kernel, p.server);
    assert_eq!(status(p.server).unwrap()[2], 42);
    assert_eq!(
        call(p.kernel, p.server, O::Reply, &[0, 0]),
        Err(Error::NoReplyPending)
    );
}

#[test]
fn a_receive_with_an_unanswered_call_is_refused() {
    let p = pair();
    block(p.kernel, p.server, O::Receive, &[p.receive, 0], NEVER);
    block(p.kernel, p.client, O::Call, &[p.send, tag(5, 0)], NEVER);
    assert_eq!(
        call(p.kernel, p.server, O::Receive, &[p.receive, 0]),
        Err(Error::ReplyPending)
    );
}

#[test]
fn stashed_replies_are_answered_in_any_order_and_once() {
    let p = pair();
    let other = thread(p.kernel, p.client_task, 10);
    let mut stashed = Vec::new();
    for (client, label) in [(p.client, 1), (other, 2)] {
        block(p.kernel, p.server, O::Receive, &[p.receive, 0], NEVER);
        block(p.kernel, client, O::Call, &[p.send, tag(label, 0)], NEVER);
        stashed.push(call(p.kernel, p.server, O::Stash, &[]).unwrap()[0]);
    }
    for (handle, label) in [(stashed[1], 12), (stashed[0], 11)] {
        call(p.kernel, p.server, O::Reply, &[handle, tag(label, 0)]).unwrap();
    }
    let again = call(p.kernel, p.server, O::Reply, &[stashed[0], 0]);
    assert_eq!(again, Err(Error::InvalidHandle));
    block(p.kernel, p.server, O::Receive, &[p.receive, 0], NEVER);
    for (client, label) in [(p.client, 11), (other, 12)] {
        run(p.kernel, client);
        assert_eq!(status(client).unwrap()[1], tag(label, 0));
    }
}

#[test]
fn a_dropped_reply_right_abandons_the_caller() {
    let p = pair();
    block(p.kernel, p.server, O::Receive, &[p.receive, 0], NEVER);
    block(p.kernel, p.client, O::Call, &[p.send, tag(1, 0)], NEVER);
    let stashed = call(p.kernel, p.server, O::Stash, &[]).unwrap()[0];
    call(p.kernel, p.server, O::Close, &[stashed]).unwrap();
    block(p.kernel, p.server, O::Receive, &[p.receive, 0], NEVER);
    run(p.kernel, p.client);
    assert_eq!(status(p.client), Err(Error::Abandoned));
}

#[test]
fn a_deadline_says_whether_the_message_was_taken() {
    let p = pair();
    let quiet = call(p.kernel, p.server, O::NotificationCreate, &[]).unwrap()[0];
    block(p.kernel, p.server, O::Wait, &[quiet], 10_000);
    block(p.kernel, p.client, O::Call, &[p.send, tag(1, 0)], 5_000);
    pass(p.kernel, 6_000);
    run(p.kernel, p.client);
    assert_eq!(status(p.client), Err(Error::NotDelivered));
    pass(p.kernel, 6_000);
    run(p.kernel, p.server);
    block(p.kernel, p.server, O::Receive, &[p.receive, 0], NEVER);
    block(p.kernel, p.client, O::Call, &[p.send, tag(1, 0)], 20_000);
    block(p.kernel, p.server, O::Wait, &[quiet], 50_000);
    pass(p.kernel, 20_000);
    run(p.kernel, p.client);
    assert_eq!(status(p.client), Err(Error::Abandoned));
    pass(p.kernel, 50_000);
    let reply = call(p.kernel, p.server, O::Reply, &[0, tag(9, 0)]);
    assert!(
        reply.is_ok(),
        "the reply to a caller that is gone is dropped"
    );
    assert_eq!(
        status(p.client),
        Err(Error::Abandoned),
        "and does not reach it"
    );
}

#[test]
fn a_signal_of_the_bound_notification_ends_a_receive() {
    let p = pair();
    let made = call(p.kernel, p.server, O::NotificationCreate, &[]).unwrap()[0];
    call(p.kernel, p.server, O::NotificationBind, &[made]).unwrap();
    let object = p.server_task.handles.look_up(Handle(made)).unwrap().object;
    let signal = give(p.kernel, p.client_task, object, Rights::SIGNAL).0;
    p.kernel.set_priority(&p.kernel.cpus()[0], p.server, 20);
    block(p.kernel, p.server, O::Receive, &[p.receive, 0], NEVER);
    run(p.kernel, p.client);
    call(p.kernel, p.client, O::Signal, &[signal, 0b101]).unwrap();
    assert!(
        is(running(p.kernel), p.server),
        "the more urgent receiver runs"
    );
    let received = status(p.server).unwrap();
    assert_eq!(received[1], Tag::new(Label::SIGNAL, 8, 0).0 | Tag::KERNEL);
    assert_eq!(received[2], 0b101);
    // Signals that come while nobody receives wait for the next Receive.
    let Object::Notification(notification) = object else {
        unreachable!()
    };
    assert!(p.kernel.set_bits(notification, 2).is_none());
    let received = call(p.kernel, p.server, O::Receive, &[p.receive, 0]).unwrap();
    assert_eq!(received[2], 2);
}

#[test]
fn who_signals_and_then_receives_makes_way_for_whom_it_woke() {
    let p = pair();
    let made = call(p.kernel, p.server, O::NotificationCreate, &[]).unwrap()[0];
    call(p.kernel, p.server, O::NotificationBind, &[made]).unwrap();
    let object = p.server_task.handles.look_up(Handle(made)).unwrap().object;
    let signal = give(p.kernel, p.client_task, object, Rights::SIGNAL).0;
    let own = call(p.kernel, p.client, O::EndpointCreate, &[]).unwrap()[0];
    p.kernel.set_priority(&p.kernel.cpus()[0], p.server, 20);
    block(p.kernel, p.server, O::Receive, &[p.receive, 0], NEVER);
    run(p.kernel, p.client);
    let counters = &p.kernel.cpus()[0].counters;
    let switches = || counters.switches.get() + counters.handovers.get();
    let before = switches();
    let arguments = [own, 0, signal, 0b101];
    block(p.kernel, p.client, O::SignalReceive, &arguments, NEVER);
    assert!(is(running(p.kernel), p.server));
    assert_eq!(
        switches() - before,
        1,
        "and the client was not run in between"
    );
    assert_eq!(status(p.server).unwrap()[2], 0b101);
}

#[test]
fn a_signal_that_is_refused_receives_nothing_and_a_receive_that_is_refused_signals_nothing() {
    let p = pair();
    let made = call(p.kernel, p.client, O::NotificationCreate, &[]).unwrap()[0];
    let own = call(p.kernel, p.client, O::EndpointCreate, &[]).unwrap()[0];
    let refused = |arguments: &[u64]| call(p.kernel, p.client, O::SignalReceive, arguments);
    assert_eq!(refused(&[own, 0, 0, 1]), Err(Error::InvalidHandle));
    assert_eq!(refused(&[own, 0, own, 1]), Err(Error::WrongKind));
    assert_eq!(refused(&[made, 0, made, 1]), Err(Error::WrongKind));
    let rights = u64::from(Rights::SEND.0);
    let send = call(p.kernel, p.client, O::Duplicate, &[own, rights]).unwrap()[0];
    assert_eq!(refused(&[send, 0, made, 1]), Err(Error::MissingRights));
    let bits = |deadline| system_call_until(p.kernel, p.client, O::Wait, &[made], deadline);
    bits(0);
    assert_eq!(status(p.client), Err(Error::TimedOut), "no bits came");
    system_call_until(p.kernel, p.client, O::SignalReceive, &[own, 0, made, 6], 0);
    assert_eq!(status(p.client), Err(Error::TimedOut));
    bits(0);
    assert_eq!(status(p.client).unwrap()[0], 6, "the signal was given");
}

#[test]
fn the_last_handle_of_a_badge_tells_the_server() {
    let p = pair();
    let copy = call(
        p.kernel,
        p.client,
        O::Duplicate,
        &[p.send, u64::from(u32::MAX)],
    )
    .unwrap()[0];
    call(p.kernel, p.client, O::Close, &[p.send]).unwrap();
    block(p.kernel, p.server, O::Receive, &[p.receive, 0], 100);
    pass(p.kernel, 100);
    run(p.kernel, p.server);
    assert_eq!(status(p.server), Err(Error::TimedOut), "one handle is left");
    block(p.kernel, p.server, O::Receive, &[p.receive, 0], NEVER);
    call(p.kernel, p.client, O::Close, &[copy]).ok();
    run(p.kernel, p.server);
    let received = status(p.server).unwrap();
    assert_eq!(
        received[..2],
        [7, Tag::new(Label::CLOSED, 0, 0).0 | Tag::KERNEL]
    );
    assert_eq!(p.kernel.badges.live(), 0);
}

#[test]
fn closing_the_receive_right_tells_those_that_wait_and_those_that_come() {
    let p = pair();
    let quiet = call(p.kernel, p.server, O::NotificationCreate, &[]).unwrap()[0];
    block(p.kernel, p.server, O::Wait, &[quiet], 1000);
    block(p.kernel, p.client, O::Call, &[p.send, tag(1, 0)], NEVER);
    pass(p.kernel, 1000);
    call(p.kernel, p.server, O::Close, &[p.receive]).unwrap();
    settle(p.kernel);
    block(p.kernel, p.server, O::Wait, &[quiet], NEVER);
    run(p.kernel, p.client);
    assert_eq!(status(p.client), Err(Error::NotDelivered));
    assert_eq!(
        call(p.kernel, p.client, O::Call, &[p.send, 0]),
        Err(Error::Closed)
    );
    assert_eq!(
        call(p.kernel, p.client, O::Send, &[p.send, 0]),
        Err(Error::Closed)
    );
    call(p.kernel, p.client, O::Close, &[p.send]).unwrap();
    settle(p.kernel);
    assert_eq!((p.kernel.endpoints.live(), p.kernel.badges.live()), (0, 0));
}

fn put_handle(client: &'static Thread, position: usize, handle: u64, transfer: Transfer) {
    let first = SEND_HANDLES_OFFSET / 8 + 2 * position;
    client.buffer()[first].store(handle, Ordering::Relaxed);
    client.buffer()[first + 1].store(transfer.0, Ordering::Relaxed);
}

#[test]
fn handles_move_and_copy_with_fewer_rights() {
    let p = pair();
    let made = call(p.kernel, p.client, O::NotificationCreate, &[]).unwrap()[0];
    let kept = call(p.kernel, p.client, O::NotificationCreate, &[]).unwrap()[0];
    put_handle(p.client, 0, made, Transfer::moved(Rights::ALL));
    put_handle(p.client, 1, kept, Transfer::copied(Rights::SIGNAL));
    run(p.kernel, p.server);
    let accept = Tag(0).accepting(2).0;
    block(p.kernel, p.server, O::Receive, &[p.receive, accept], NEVER);
    let with_two = Tag::new(Label(1), 0, 2).0;
    block(p.kernel, p.client, O::Call, &[p.send, with_two], NEVER);
    let received: Vec<u64> = (0..2)
        .map(|n| p.server.buffer()[RECEIVED_HANDLES_OFFSET / 8 + n].load(Ordering::Relaxed))
        .collect();
    assert!(
        p.client_task.handles.look_up(Handle(made)).is_err(),
        "moved"
    );
    assert!(
        p.client_task.handles.look_up(Handle(kept)).is_ok(),
        "copied"
    );
    let copy = p.server_task.handles.look_up(Handle(received[1])).unwrap();
    assert_eq!(copy.rights, Rights::SIGNAL);
    call(p.kernel, p.server, O::Signal, &[received[0], 1]).unwrap();
    assert_eq!(
        call(p.kernel, p.server, O::Wait, &[received[1]]),
        Err(Error::MissingRights)
    );
    for handle in received {
        call(p.kernel, p.server, O::Close, &[handle]).unwrap();
    }
    assert_eq!(
        p.kernel.notifications.live(),
        1,
        "the moved one is gone, the copied one stays"
    );
}

#[test]
fn a_receiver_that_accepts_too_few_handles_costs_the_sender_nothing() {
    let p = pair();
    let made = call(p.kernel, p.client, O::NotificationCreate, &[]).unwrap()[0];
    put_handle(p.client, 0, made, Transfer::moved(Rights::ALL));
    block(p.kernel, p.server, O::Receive, &[p.receive, 0], NEVER);
    let with_one = Tag::new(Label(1), 0, 1).0;
    let refused = call(p.kernel, p.client, O::Call, &[p.send, with_one]);
    assert_eq!(refused, Err(Error::ReceiverFull));
    assert!(p.client_task.handles.look_up(Handle(made)).is_ok());
    // The receiver still waits, and the next message reaches it.
    block(p.kernel, p.client, O::Call, &[p.send, tag(3, 0)], NEVER);
    assert_eq!(status(p.server).unwrap()[1], tag(3, 0));
}

#[test]
fn a_message_with_a_bad_handle_moves_none() {
    let p = pair();
    let made = call(p.kernel, p.client, O::NotificationCreate, &[]).unwrap()[0];
    put_handle(p.client, 0, made, Transfer::moved(Rights::ALL));
    put_handle(p.client, 1, made, Transfer::moved(Rights::ALL));
    block(
        p.kernel,
        p.server,
        O::Receive,
        &[p.receive, Tag(0).accepting(4).0],
        NEVER,
    );
    let with_two = Tag::new(Label(1), 0, 2).0;
    let refused = call(p.kernel, p.client, O::Call, &[p.send, with_two]);
    assert_eq!(
        refused,
        Err(Error::InvalidHandle),
        "the same handle cannot move twice"
    );
    assert!(p.client_task.handles.look_up(Handle(made)).is_ok());
}

#[test]
fn a_futex_sleeps_only_on_the_expected_value_and_wakes_in_order() {
    let p = pair();
    let (kernel, client) = (p.kernel, p.client);
    let own = give(
        kernel,
        p.client_task,
        Object::Task(p.client_task),
        Rights::ALL,
    )
    .0;
    let memory = call(kernel, client, O::MemoryCreate, &[4096, 0]).unwrap()[0];
    call(
        kernel,
        client,
        O::MemoryMap,
        &[own, memory, 0x20_0000, 0, 4096, 1],
    )
    .unwrap();
    let wrong = call(kernel, client, O::FutexWait, &[0x20_0004, 1]);
    assert_eq!(wrong, Err(Error::Changed));
    let unaligned = call(kernel, client, O::FutexWait, &[0x20_0002, 0]);
    assert_eq!(unaligned, Err(Error::InvalidArgument));
    let unmapped = call(kernel, client, O::FutexWait, &[0x30_0000, 0]);
    assert_eq!(unmapped, Err(Error::InvalidArgument));
    let other = thread(kernel, p.client_task, 10);
    block(kernel, p.server, O::Receive, &[p.receive, 0], NEVER);
    block(kernel, client, O::FutexWait, &[0x20_0004, 0], NEVER);
    assert_eq!(
        call(kernel, other, O::FutexWake, &[0x20_0000, 5]).unwrap()[0],
        0
    );
    assert_eq!(
        call(kernel, other, O::FutexWake, &[0x20_0004, 5]).unwrap()[0],
        1
    );
    run(kernel, client);
    assert!(status(client).is_ok());
}
