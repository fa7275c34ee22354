//! Floods: many callers, signals and deaths at once, and in the end everything is as it was.

use core::sync::atomic::Ordering;

use ipc::{Error, Label, Operation, Rights, Tag};

use crate::child::{Child, PRIORITY, QUOTA, Thread};
use crate::failure::{Outcome, ensure, ensure_equal};
use crate::messages::{complement, stop};
use crate::processors::spin;
use crate::raw::{self, Board, call};
use crate::suite::Owned;
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[
    ("endpoint_flood_is_served", endpoint),
    ("send_flood_harms_nobody", sends),
    ("notification_flood_harms_nobody", signals),
    ("badges_come_and_go", badges),
    ("tasks_come_and_go", tasks),
    ("mappings_come_and_go_on_all_cpus", mappings),
];

/// Calls the endpoint in word 0 as often as word 1 says; word 2 counts replies that are right.
fn call_often(board: &'static Board) {
    let [endpoint, count] = [0, 1].map(|index| board.words[index].load(Ordering::Acquire));
    for number in 0..count {
        let tag = Tag::new(Label(1), 8, 0).0;
        let answer = call(Operation::Call, &[endpoint, tag, number]);
        if answer.is_ok_and(|[_, _, word, ..]| word == !number) {
            board.words[2].fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Many threads call one server: each call gets its own answer.
fn endpoint(context: &Context) -> Outcome {
    const CALLS: u64 = 200;
    let suite = &context.suite;
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    let server = Thread::start(suite, complement, &[endpoint.0])?;
    let mut callers = alloc::vec::Vec::new();
    for _ in 0..40 {
        let values = [endpoint.0, CALLS];
        callers.push(Thread::start(suite, call_often, &values)?);
    }
    for caller in &callers {
        let done = suite.wait_for(60_000, || caller.is_done());
        ensure!(done, "a caller did not end: {} calls", caller.word(2));
        ensure_equal!(caller.word(2), CALLS, "right answers");
    }
    stop(context, endpoint.0, &server)
}

/// Sends to the endpoint in word 0 until word 1 is 1; word 2 counts what was taken, word 3 what was
/// refused otherwise than for want of a receiver.
fn send_for_ever(board: &'static Board) {
    let endpoint = board.words[0].load(Ordering::Acquire);
    while board.words[1].load(Ordering::Acquire) == 0 {
        let tag = Tag::new(Label(1), 32, 0).0;
        match call(Operation::Send, &[endpoint, tag, 1, 2, 3, 4]) {
            Ok(_) => board.words[2].fetch_add(1, Ordering::Relaxed),
            Err(Error::WouldBlock) => 0,
            Err(_) => board.words[3].fetch_add(1, Ordering::Relaxed),
        };
    }
}

/// While others send without end, a caller is still served.
fn sends(context: &Context) -> Outcome {
    let suite = &context.suite;
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    let server = Thread::start(suite, complement, &[endpoint.0])?;
    let child = Child::new(suite, &context.program, QUOTA)?;
    let there = child.grant(endpoint.0, Rights::SEND)?;
    let flooders = [
        child.start(suite, send_for_ever, &[there])?,
        child.start(suite, send_for_ever, &[there])?,
    ];
    let caller = Thread::start(suite, call_often, &[endpoint.0, 200])?;
    let done = suite.wait_for(60_000, || caller.is_done());
    ensure!(done, "the caller is not served: {}", caller.word(2));
    ensure_equal!(caller.word(2), 200, "right answers");
    for flooder in &flooders {
        flooder.set_word(1, 1);
        flooder.finish(suite)?;
        ensure_equal!(flooder.word(3), 0, "sends with a strange error");
    }
    stop(context, endpoint.0, &server)
}

/// Signals the notification in word 0 until word 1 is 1; word 2 counts.
fn signal_for_ever(board: &'static Board) {
    let notification = board.words[0].load(Ordering::Acquire);
    while board.words[1].load(Ordering::Acquire) == 0 {
        let _ = call(Operation::Signal, &[notification, u64::MAX]);
        board.words[2].fetch_add(1, Ordering::Relaxed);
    }
}

fn signals(context: &Context) -> Outcome {
    let suite = &context.suite;
    let notification = Owned::make(Operation::NotificationCreate, &[])?;
    let child = Child::new(suite, &context.program, QUOTA)?;
    let there = child.grant(notification.0, Rights::SIGNAL)?;
    let flooders = [
        child.start(suite, signal_for_ever, &[there])?,
        child.start(suite, signal_for_ever, &[there])?,
    ];
    for _ in 0..2_000 {
        let [bits, ..] = raw::until(Operation::Wait, &[notification.0], suite.after(5000))?;
        ensure_equal!(bits, u64::MAX, "bits");
    }
    for flooder in &flooders {
        flooder.set_word(1, 1);
        flooder.finish(suite)?;
    }
    Ok(())
}

/// Mints and closes badges of the endpoint in word 0, each the next from word 1 on, word 2 of them.
fn mint_and_close(board: &'static Board) {
    let word = |index: usize| board.words[index].load(Ordering::Acquire);
    for badge in word(1)..word(1) + word(2) {
        if let Ok(handle) = raw::value(Operation::BadgeMint, &[word(0), badge]) {
            let _ = call(Operation::Close, &[handle]);
            board.words[3].fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Every badge that is closed is told once, however many there are.
fn badges(context: &Context) -> Outcome {
    const COUNT: u64 = 500;
    let suite = &context.suite;
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    let minters = [
        Thread::start(suite, mint_and_close, &[endpoint.0, 1, COUNT])?,
        Thread::start(suite, mint_and_close, &[endpoint.0, 1 + COUNT, COUNT])?,
    ];
    let mut seen = alloc::vec![0_u32; 2 * COUNT as usize];
    for _ in 0..2 * COUNT {
        let (badge, tag, _) = crate::suite::receive(endpoint.0, suite.after(5000))?;
        ensure_equal!(tag.label(), Label::CLOSED, "label");
        let slot = (badge as usize)
            .checked_sub(1)
            .and_then(|at| seen.get_mut(at));
        match slot {
            Some(count) => *count += 1,
            None => ensure!(false, "badge {badge}, which was never minted"),
        }
    }
    ensure!(
        seen.iter().all(|count| *count == 1),
        "a badge was told twice"
    );
    for minter in &minters {
        minter.finish(suite)?;
        ensure_equal!(minter.word(3), COUNT, "badges minted");
    }
    Ok(())
}

/// Tasks are made and destroyed while they run on every CPU.
fn tasks(context: &Context) -> Outcome {
    let suite = &context.suite;
    for _ in 0..10 {
        let mut children = alloc::vec::Vec::new();
        for _ in 0..3 {
            let child = Child::new(suite, &context.program, QUOTA)?;
            let threads = [
                child.start(suite, spin, &[])?,
                child.start(suite, spin, &[])?,
            ];
            children.push((threads, child));
        }
        ensure!(
            suite.wait_for(5000, || children
                .iter()
                .any(|(threads, _)| threads[0].word(1) > 0)),
            "no child runs"
        );
        for (_, child) in &mut children {
            child.destroy(suite)?;
        }
    }
    Ok(())
}

/// Maps and unmaps the memory in word 1 in the task in word 0 at the address in word 2, word 3 times;
/// word 4 counts what went wrong.
fn map_and_unmap(board: &'static Board) {
    let word = |index: usize| board.words[index].load(Ordering::Acquire);
    let (task, memory, address) = (word(0), word(1), word(2));
    for round in 0..word(3) {
        let mapped = crate::suite::map(task, memory, address, 4096, 1);
        if mapped.is_ok() {
            raw::poke(address, round);
        }
        let unmapped = call(Operation::MemoryUnmap, &[task, address]);
        if mapped.is_err() || unmapped.is_err() {
            board.words[4].fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Threads of one address space map and unmap at the same time.
fn mappings(context: &Context) -> Outcome {
    const ROUNDS: u64 = 500;
    let suite = &context.suite;
    let memory = Owned::make(Operation::MemoryCreate, &[4096])?;
    let mut threads = alloc::vec::Vec::new();
    for number in 0..4 {
        let address = suite.area(4096);
        let values = [suite.task, memory.0, address, ROUNDS];
        let thread = Thread::stopped(suite, None, map_and_unmap, &values, PRIORITY)?;
        let cpu = number % suite.cpus.min(64);
        thread.set(ipc::info::ThreadParameter::Affinity, 1 << cpu)?;
        thread.go()?;
        threads.push(thread);
    }
    for thread in &threads {
        let done = suite.wait_for(120_000, || thread.is_done());
        ensure!(done, "a thread did not end");
        ensure_equal!(thread.word(4), 0, "mappings that went wrong");
    }
    Ok(())
}
