//! Calls and how they end: replies in any order, once; deadlines; servers, endpoints and receive
//! rights that go away.

use core::sync::atomic::Ordering;

use ipc::{Error, Label, Operation, Rights, Tag};

use crate::child::{Child, QUOTA, Thread};
use crate::failure::{Outcome, ensure, ensure_equal, ensure_error};
use crate::messages::just_call;
use crate::raw::{self, Board, call, value};
use crate::suite::{Owned, abandon, receive};
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[
    ("replies_come_in_any_order", any_order),
    ("reply_answers_once", once),
    ("dropped_reply_is_abandoned", dropped),
    ("deadline_before_delivery_is_not_delivered", before_delivery),
    ("deadline_after_delivery_is_abandoned", after_delivery),
    ("receive_needs_the_last_call_answered", pending),
    ("reply_to_a_caller_that_is_gone_is_no_error", gone),
    ("destroyed_endpoint_wakes_everybody", destroyed),
    ("closed_receive_right_ends_calls", closed),
    ("death_of_a_server_abandons_its_callers", server_dies),
    ("calls_queue_until_a_server_comes", queued),
    ("reply_right_travels_in_no_message", reply_kind),
];

/// Calls the endpoint in word 0 with word 1 as message; word 2 gets the reply's, word 3 the status.
fn call_with_word(board: &'static Board) {
    let [endpoint, word] = [0, 1].map(|index| board.words[index].load(Ordering::Acquire));
    let tag = Tag::new(Label(1), 8, 0).0;
    match call(Operation::Call, &[endpoint, tag, word]) {
        Ok([_, _, reply, ..]) => board.words[2].store(reply, Ordering::Release),
        Err(error) => board.words[3].store(error.code(), Ordering::Release),
    }
}

fn any_order(context: &Context) -> Outcome {
    let suite = &context.suite;
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    let mut callers = alloc::vec::Vec::new();
    for number in 0..5_u64 {
        let thread = Thread::start(suite, call_with_word, &[endpoint.0, number])?;
        let (_, _, words) = receive(endpoint.0, suite.after(2000))?;
        ensure_equal!(words[0], number, "word of a call");
        callers.push((thread, value(Operation::Stash, &[])?));
    }
    let tag = Tag::new(Label(0), 8, 0).0;
    for position in [3, 0, 4, 2, 1] {
        let (thread, reply) = &callers[position];
        call(Operation::Reply, &[*reply, tag, 100 + position as u64])?;
        thread.finish(suite)?;
        ensure_equal!(thread.word(2), 100 + position as u64, "a reply");
        ensure_equal!(thread.word(3), 0, "status of a call");
    }
    Ok(())
}

/// A stashed reply works once, and the implicit one too.
fn once(context: &Context) -> Outcome {
    let suite = &context.suite;
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    let first = Thread::start(suite, just_call, &[endpoint.0])?;
    receive(endpoint.0, suite.after(2000))?;
    let reply = value(Operation::Stash, &[])?;
    ensure_error!(
        call(Operation::Stash, &[]),
        NoReplyPending,
        "stashing a second time"
    );
    call(Operation::Reply, &[reply])?;
    first.finish(suite)?;
    ensure_error!(
        call(Operation::Reply, &[reply]),
        InvalidHandle,
        "answering a second time"
    );
    let second = Thread::start(suite, just_call, &[endpoint.0])?;
    receive(endpoint.0, suite.after(2000))?;
    call(Operation::Reply, &[0])?;
    ensure_error!(
        call(Operation::Reply, &[0]),
        NoReplyPending,
        "answering the last call a second time"
    );
    second.finish(suite)
}

fn dropped(context: &Context) -> Outcome {
    let suite = &context.suite;
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    let caller = Thread::start(suite, just_call, &[endpoint.0])?;
    receive(endpoint.0, suite.after(2000))?;
    let reply = value(Operation::Stash, &[])?;
    suite.sleep(10);
    ensure!(
        !caller.is_done(),
        "the call ended while it could be answered"
    );
    call(Operation::Close, &[reply])?;
    caller.finish(suite)?;
    ensure_equal!(caller.word(3), Error::Abandoned.code(), "status");
    Ok(())
}

fn before_delivery(context: &Context) -> Outcome {
    let suite = &context.suite;
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    for wait in [0, 20] {
        let (start, deadline) = (suite.now(), suite.after(wait));
        ensure_error!(
            raw::until(Operation::Call, &[endpoint.0], deadline),
            NotDelivered,
            "a call that nobody took"
        );
        ensure!(
            suite.now() >= start + wait * 1_000_000,
            "it ended before its deadline"
        );
    }
    ensure_error!(
        receive(endpoint.0, 0),
        TimedOut,
        "receiving what was given up"
    );
    Ok(())
}

/// Calls the endpoint in word 0 until word 1; word 3 gets the status.
fn call_until(board: &'static Board) {
    let [endpoint, deadline] = [0, 1].map(|index| board.words[index].load(Ordering::Acquire));
    let result = raw::until(Operation::Call, &[endpoint], deadline);
    let status = result.map_or_else(Error::code, |_| 0);
    board.words[3].store(status, Ordering::Release);
}

fn after_delivery(context: &Context) -> Outcome {
    let suite = &context.suite;
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    let values = [endpoint.0, suite.after(100)];
    let caller = Thread::start(suite, call_until, &values)?;
    receive(endpoint.0, suite.after(2000))?;
    caller.finish(suite)?;
    ensure_equal!(caller.word(3), Error::Abandoned.code(), "status");
    // The answer comes too late, and that is the caller's business.
    call(Operation::Reply, &[0])?;
    Ok(())
}

fn pending(context: &Context) -> Outcome {
    let suite = &context.suite;
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    for operation in [Operation::Reply, Operation::ReplyReceive] {
        let values = [if operation == Operation::Reply {
            0
        } else {
            endpoint.0
        }];
        ensure_error!(
            raw::until(operation, &values, 0),
            NoReplyPending,
            "{operation:?} without a call"
        );
    }
    let caller = Thread::start(suite, just_call, &[endpoint.0])?;
    receive(endpoint.0, suite.after(2000))?;
    ensure_error!(
        receive(endpoint.0, 0),
        ReplyPending,
        "receiving with the last call open"
    );
    call(Operation::Reply, &[0])?;
    caller.finish(suite)?;
    ensure_equal!(caller.word(3), 0, "status of the call");
    Ok(())
}

fn gone(context: &Context) -> Outcome {
    let suite = &context.suite;
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    let caller = Thread::start(suite, just_call, &[endpoint.0])?;
    receive(endpoint.0, suite.after(2000))?;
    call(Operation::Destroy, &[caller.handle])?;
    call(Operation::Reply, &[0])?;
    Ok(())
}

/// Receives on the endpoint in word 0; word 3 gets the status.
pub(crate) fn just_receive(board: &'static Board) {
    let endpoint = board.words[0].load(Ordering::Acquire);
    let status = call(Operation::Receive, &[endpoint]).map_or_else(Error::code, |_| 0);
    board.words[3].store(status, Ordering::Release);
}

fn destroyed(context: &Context) -> Outcome {
    let suite = &context.suite;
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    let taken = Thread::start(suite, just_call, &[endpoint.0])?;
    receive(endpoint.0, suite.after(2000))?;
    let waiting = Thread::start(suite, just_call, &[endpoint.0])?;
    waiting.reach(suite, 2)?;
    call(Operation::Destroy, &[endpoint.0])?;
    waiting.finish(suite)?;
    ensure_equal!(
        waiting.word(3),
        Error::NotDelivered.code(),
        "a call that nobody took"
    );
    ensure!(
        !taken.is_done(),
        "a call that was taken can still be answered"
    );
    call(Operation::Reply, &[0])?;
    taken.finish(suite)?;
    ensure_equal!(taken.word(3), 0, "the call that was taken");
    let other = Owned::make(Operation::EndpointCreate, &[])?;
    let receiver = Thread::start(suite, just_receive, &[other.0])?;
    receiver.reach(suite, 2)?;
    call(Operation::Destroy, &[other.0])?;
    receiver.finish(suite)?;
    ensure_equal!(receiver.word(3), Error::Destroyed.code(), "a receiver");
    Ok(())
}

/// When the last handle that can receive is closed, callers learn that nobody will ever answer.
fn closed(context: &Context) -> Outcome {
    let suite = &context.suite;
    let receiving = value(Operation::EndpointCreate, &[])?;
    let rights = Rights::SEND | Rights::DUPLICATE;
    let sending = Owned::make(Operation::Duplicate, &[receiving, u64::from(rights.0)])?;
    let waiting = Thread::start(suite, just_call, &[sending.0])?;
    waiting.reach(suite, 2)?;
    call(Operation::Close, &[receiving])?;
    waiting.finish(suite)?;
    let status = waiting.word(3);
    ensure!(
        status == Error::NotDelivered.code() || status == Error::Closed.code(),
        "status {status} of the call that waited"
    );
    for operation in [Operation::Call, Operation::Send] {
        ensure_error!(
            raw::until(operation, &[sending.0], suite.after(500)),
            Closed,
            "{operation:?} afterwards"
        );
    }
    Ok(())
}

/// Receives on the endpoint in word 0 and holds the call, stashed where word 1 says so.
fn take_and_hold(board: &'static Board) {
    let [endpoint, stashed] = [0, 1].map(|index| board.words[index].load(Ordering::Acquire));
    let _ = call(Operation::Receive, &[endpoint]);
    if stashed != 0 {
        let _ = call(Operation::Stash, &[]);
    }
    board.words[2].store(1, Ordering::Release);
    loop {
        let _ = call(Operation::Yield, &[]);
    }
}

fn server_dies(context: &Context) -> Outcome {
    let suite = &context.suite;
    for stashed in [0, 1] {
        let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
        let mut child = Child::new(suite, &context.program, QUOTA)?;
        let there = child.grant(endpoint.0, Rights::RECEIVE)?;
        let server = child.start(suite, take_and_hold, &[there, stashed])?;
        let taken = Thread::start(suite, just_call, &[endpoint.0])?;
        ensure!(
            suite.wait_for(2000, || server.word(2) == 1),
            "the server took no call"
        );
        let waiting = Thread::start(suite, just_call, &[endpoint.0])?;
        waiting.reach(suite, 2)?;
        child.destroy(suite)?;
        taken.finish(suite)?;
        ensure_equal!(taken.word(3), Error::Abandoned.code(), "the call taken");
        // The suite still holds the receive right: the next server serves whoever waits.
        ensure!(!waiting.is_done(), "the call that waits ended");
        receive(endpoint.0, suite.after(2000))?;
        call(Operation::Reply, &[0])?;
        waiting.finish(suite)?;
        ensure_equal!(waiting.word(3), 0, "the call that waited");
    }
    Ok(())
}

fn queued(context: &Context) -> Outcome {
    let suite = &context.suite;
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    let caller = Thread::start(suite, just_call, &[endpoint.0])?;
    suite.sleep(20);
    ensure!(!caller.is_done(), "a call ended that nobody took");
    receive(endpoint.0, suite.after(2000))?;
    call(Operation::Reply, &[0])?;
    caller.finish(suite)?;
    ensure_equal!(caller.word(3), 0, "status");
    Ok(())
}

/// A reply right cannot be duplicated, so that it is answered by one task and once.
fn reply_kind(context: &Context) -> Outcome {
    let suite = &context.suite;
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    let caller = Thread::start(suite, just_call, &[endpoint.0])?;
    receive(endpoint.0, suite.after(2000))?;
    let reply = value(Operation::Stash, &[])?;
    let copy = call(Operation::Duplicate, &[reply, u64::from(Rights::ALL.0)]);
    ensure!(copy.is_err(), "a reply right was duplicated");
    call(Operation::Reply, &[reply])?;
    caller.finish(suite)?;
    abandon();
    Ok(())
}
