//! Threads and tasks that die in every state that a thread can be in: whoever waits for them is told,
//! and nothing is left.

use core::sync::atomic::Ordering;

use ipc::info::ThreadParameter;
use ipc::{Error, Operation, Rights};

use crate::child::{Child, PATIENCE, PRIORITY, QUOTA, Thread};
use crate::failure::{Outcome, ensure, ensure_equal, ensure_error};
use crate::messages::just_call;
use crate::notifications::just_wait;
use crate::processors::spin;
use crate::raw::{self, Board, Body, call};
use crate::replies::just_receive;
use crate::suite::{Owned, Suite, abandon, receive};
use crate::time::word;
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[
    ("thread_dies_in_every_state", threads),
    ("task_dies_with_threads_in_every_state", task),
    ("task_dies_of_its_own_hand", suicide),
    ("dead_callers_call_is_not_delivered_later", queued_caller),
    ("dead_receiver_frees_its_endpoint", receiver),
    ("dead_waiter_frees_its_notification", waiter),
];

/// A state that a thread can be in: its name in kernel/README.md, what brings a thread there, and what
/// ThreadInspect tells of it.
struct State {
    name: &'static str,
    body: Body,
    seen: u64,
}

/// Sleeps on a word of its own.
fn sleep_on_futex(board: &'static Board) {
    let _ = call(Operation::FutexWait, &[word(board, 400), 0]);
}

/// Reads where nothing is.
fn fault(_: &'static Board) {
    raw::peek(8);
}

/// Takes a call and keeps it.
fn serve_word_14(board: &'static Board) {
    let endpoint = board.words[14].load(Ordering::Acquire);
    let _ = receive(endpoint, ipc::message::NEVER);
    spin(board);
}

/// Sleeps by a deadline that is far away.
fn sleep_long(board: &'static Board) {
    let now = raw::value(Operation::ClockRead, &[]).unwrap_or(0);
    let hour = now + 3_600_000_000_000;
    let _ = raw::until(Operation::FutexWait, &[word(board, 400), 0], hour);
}

/// Declares the states: name, body, what ThreadInspect tells. A test of the package `tests` compares the
/// names with the kernel's description.
macro_rules! states {
    ($($name:literal, $body:ident, $seen:literal;)+) => {
        /// Every state. A futex is waited on with a deadline and without.
        const STATES: &[State] = &[$(State { name: $name, body: $body, seen: $seen }),+];
    };
}

states! {
    "stopped", spin, 0;
    "ready", spin, 1;
    "running", spin, 1;
    "send", call_word_10, 2;
    "receive", receive_word_12, 2;
    "reply", call_word_11, 2;
    "faulted", fault, 3;
    "notification", wait_word_13, 2;
    "futex", sleep_on_futex, 2;
    "futex", sleep_long, 2;
    "serving", serve_word_14, 1;
}

/// Declares bodies that take their handle from a word of their own.
macro_rules! from_word {
    ($($name:ident = $operation:ident, $word:literal;)+) => {
        $(fn $name(board: &'static Board) {
            let handle = board.words[$word].load(Ordering::Acquire);
            let _ = call(Operation::$operation, &[handle]);
        })+
    };
}

from_word! {
    call_word_10 = Call, 10;
    call_word_11 = Call, 11;
    receive_word_12 = Receive, 12;
    wait_word_13 = Wait, 13;
}

/// What the threads of a child wait on.
struct Stage {
    /// Nobody receives here.
    silent: Owned,
    /// Calls are taken here and not answered.
    taking: Owned,
    /// The child receives here.
    receiving: Owned,
    /// The child waits here.
    notification: Owned,
    /// The child takes a call here.
    served: Owned,
}

impl Stage {
    fn new() -> Result<Stage, Error> {
        Ok(Stage {
            silent: Owned::make(Operation::EndpointCreate, &[])?,
            taking: Owned::make(Operation::EndpointCreate, &[])?,
            receiving: Owned::make(Operation::EndpointCreate, &[])?,
            notification: Owned::make(Operation::NotificationCreate, &[])?,
            served: Owned::make(Operation::EndpointCreate, &[])?,
        })
    }

    /// The words of a thread's board: the handles in the child, from word 10 on.
    fn words(&self, child: &Child) -> Result<[u64; 15], Error> {
        let mut words = [0; 15];
        words[10] = child.grant(self.silent.0, Rights::SEND)?;
        words[11] = child.grant(self.taking.0, Rights::SEND)?;
        words[12] = child.grant(self.receiving.0, Rights::RECEIVE)?;
        words[13] = child.grant(self.notification.0, Rights::WAIT)?;
        words[14] = child.grant(self.served.0, Rights::RECEIVE)?;
        Ok(words)
    }
}

/// A thread that was brought into a state, and who has to do with it.
struct Brought {
    thread: Thread,
    /// The right to answer its call.
    reply: Option<Owned>,
    /// Who waits for its answer.
    caller: Option<Thread>,
}

impl Brought {
    /// Checks that its end was told to whoever waited for it, and harms nobody else.
    fn is_over(&self, suite: &Suite, state: &str) -> Outcome {
        if let Some(reply) = &self.reply {
            // Its caller is gone, which is no error to who answers.
            call(Operation::Reply, &[reply.0])?;
        }
        if let Some(caller) = &self.caller {
            caller.finish(suite)?;
            ensure_equal!(
                caller.word(3),
                Error::Abandoned.code(),
                "status of a call whose server died while {state}"
            );
        }
        Ok(())
    }
}

/// Brings a thread of the child into a state. The suite takes the calls that are to wait for a reply.
fn bring(
    context: &Context,
    child: &Child,
    stage: &Stage,
    state: &State,
    words: &[u64],
) -> Outcome<Brought> {
    let suite = &context.suite;
    let thread = Thread::stopped(suite, Some(child.task), state.body, words, PRIORITY)?;
    let (mut reply, mut caller) = (None, None);
    if state.name == "ready" {
        // The suite, which is more urgent, runs on the first CPU and does not wait from here to the
        // thread's death.
        thread.set(ThreadParameter::Affinity, 1)?;
    }
    if state.name != "stopped" {
        thread.go()?;
    }
    match state.name {
        "reply" => {
            receive(stage.taking.0, suite.after(PATIENCE))?;
            reply = Some(Owned(raw::value(Operation::Stash, &[])?));
        }
        "faulted" => {
            receive(child.faults.0, suite.after(PATIENCE))?;
            reply = Some(Owned(raw::value(Operation::Stash, &[])?));
        }
        "serving" => {
            caller = Some(Thread::start(suite, just_call, &[stage.served.0])?);
            let served = suite.wait_for(PATIENCE, || thread.word(1) > 0);
            ensure!(served, "a server does not take its call");
        }
        "running" => {
            let runs = suite.wait_for(PATIENCE, || thread.word(1) > 0);
            ensure!(runs, "a thread does not run");
        }
        _ => {}
    }
    if state.name != "ready" {
        thread.reach(suite, state.seen)?;
    }
    Ok(Brought {
        thread,
        reply,
        caller,
    })
}

fn threads(context: &Context) -> Outcome {
    let suite = &context.suite;
    let stage = Stage::new()?;
    for state in STATES {
        let child = Child::new(suite, &context.program, QUOTA)?;
        let words = stage.words(&child)?;
        let bystander = child.start(suite, spin, &[])?;
        let brought = bring(context, &child, &stage, state, &words)?;
        let seen = brought.thread.info()?.state;
        call(Operation::Destroy, &[brought.thread.handle])?;
        ensure_equal!(
            seen,
            state.seen,
            "what ThreadInspect tells of {}",
            state.name
        );
        ensure_error!(
            call(Operation::ThreadInspect, &[brought.thread.handle]),
            InvalidHandle,
            "a thread destroyed while {}",
            state.name
        );
        brought.is_over(suite, state.name)?;
        let count = bystander.word(1);
        ensure!(
            suite.wait_for(PATIENCE, || bystander.word(1) > count),
            "the task's other thread died with one that was {}",
            state.name
        );
    }
    Ok(())
}

fn task(context: &Context) -> Outcome {
    let suite = &context.suite;
    for round in 0..4 {
        let stage = Stage::new()?;
        let mut child = Child::new(suite, &context.program, QUOTA)?;
        let words = stage.words(&child)?;
        let mut kept = alloc::vec::Vec::new();
        for state in STATES {
            kept.push((state.name, bring(context, &child, &stage, state, &words)?));
        }
        child.destroy(suite)?;
        for (state, brought) in &kept {
            brought.is_over(suite, state)?;
            let count = brought.thread.word(1);
            suite.sleep(1);
            ensure_equal!(
                brought.thread.word(1),
                count,
                "round {round}: what a thread counts that died while {state}"
            );
        }
        ensure_error!(
            raw::until(Operation::Receive, &[stage.silent.0], 0),
            TimedOut,
            "the call of a dead thread"
        );
    }
    Ok(())
}

/// Destroys its own task by the handle in word 0.
fn destroy_own(board: &'static Board) {
    let task = board.words[0].load(Ordering::Acquire);
    let _ = call(Operation::Destroy, &[task]);
    board.words[1].store(1, Ordering::Release);
}

/// A task with the right to may destroy itself; a thread that exits in the middle of things too.
fn suicide(context: &Context) -> Outcome {
    let suite = &context.suite;
    let mut child = Child::new(suite, &context.program, QUOTA)?;
    let there = child.grant(child.task, Rights::ALL)?;
    let thread = child.start(suite, destroy_own, &[there])?;
    child.closed(suite)?;
    ensure_equal!(thread.word(1), 0, "what it did afterwards");
    Ok(())
}

/// A call whose caller died in the queue does not reach the next receiver.
fn queued_caller(context: &Context) -> Outcome {
    let suite = &context.suite;
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    let first = Thread::start(suite, just_call, &[endpoint.0])?;
    first.reach(suite, 2)?;
    let minted = Owned::make(Operation::BadgeMint, &[endpoint.0, 5])?;
    let second = Thread::start(suite, just_call, &[minted.0])?;
    second.reach(suite, 2)?;
    call(Operation::Destroy, &[first.handle])?;
    let (badge, ..) = receive(endpoint.0, suite.after(2000))?;
    ensure_equal!(badge, 5, "badge of the call that arrives");
    call(Operation::Reply, &[0])?;
    second.finish(suite)?;
    ensure_error!(receive(endpoint.0, 0), TimedOut, "a second call");
    abandon();
    Ok(())
}

fn receiver(context: &Context) -> Outcome {
    let suite = &context.suite;
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    let dead = Thread::start(suite, just_receive, &[endpoint.0])?;
    dead.reach(suite, 2)?;
    call(Operation::Destroy, &[dead.handle])?;
    ensure_error!(
        call(Operation::Send, &[endpoint.0]),
        WouldBlock,
        "sending to a dead receiver"
    );
    let caller = Thread::start(suite, just_call, &[endpoint.0])?;
    receive(endpoint.0, suite.after(2000))?;
    call(Operation::Reply, &[0])?;
    caller.finish(suite)
}

fn waiter(context: &Context) -> Outcome {
    let suite = &context.suite;
    let notification = Owned::make(Operation::NotificationCreate, &[])?;
    let dead = Thread::start(suite, just_wait, &[notification.0])?;
    dead.reach(suite, 2)?;
    call(Operation::Destroy, &[dead.handle])?;
    call(Operation::Signal, &[notification.0, 3])?;
    let [bits, ..] = raw::until(Operation::Wait, &[notification.0], suite.after(1000))?;
    ensure_equal!(bits, 3, "bits for the next waiter");
    Ok(())
}
