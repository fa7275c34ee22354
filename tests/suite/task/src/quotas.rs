//! Quotas: whoever uses up its own gets an error, and nobody else feels it.

use core::sync::atomic::Ordering;

use ipc::layout::PAGE_BYTES;
use ipc::{Error, Operation, Rights};

use crate::child::{Child, PATIENCE, Program, QUOTA, Thread};
use crate::failure::{Outcome, ensure, ensure_equal, ensure_error};
use crate::raw::{self, Board, call};
use crate::suite::Owned;
use crate::time::word;
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[
    ("memory_ends_with_the_quota", memory),
    ("objects_end_with_the_quota", objects),
    ("handles_end_with_the_table", handles),
    ("threads_end_with_the_quota", threads),
    ("timers_end_with_the_threads", timers),
    ("child_quota_comes_from_the_makers", nested),
    ("quota_comes_back_after_death", comes_back),
];

/// Errors that say that there is no more.
fn is_exhaustion(code: u64) -> bool {
    [Error::OutOfQuota, Error::OutOfMemory, Error::TableFull]
        .iter()
        .any(|error| error.code() == code)
}

/// Makes objects by the operation in word 0 with the argument in word 1 until it is refused, at most
/// word 4 times. Word 2 counts, word 3 gets the error.
fn make_until_refused(board: &'static Board) {
    let word = |index: usize| board.words[index].load(Ordering::Acquire);
    let (operation, argument) = (word(0), word(1));
    while word(2) < word(4) {
        let (status, _) = raw::enter(operation, [argument, 0, 0, 0, 0, 0], 0);
        if status != 0 {
            board.words[3].store(status, Ordering::Release);
            return;
        }
        board.words[2].fetch_add(1, Ordering::Release);
    }
}

/// Lets a child with this quota make objects until it is refused. Gives their number and the error.
fn exhaust(
    context: &Context,
    quota: u64,
    operation: Operation,
    argument: u64,
) -> Outcome<(u64, u64)> {
    let suite = &context.suite;
    let mut child = Child::new(suite, &context.program, quota)?;
    let values = [operation as u64, argument, 0, 0, 200_000];
    let thread = child.start(suite, make_until_refused, &values)?;
    ensure!(
        suite.wait_for(60_000, || thread.is_done()),
        "the child is still making objects: {}",
        thread.word(2)
    );
    let info = child.info()?;
    ensure!(
        info.used_bytes <= info.quota_bytes,
        "{} bytes of {} are used",
        info.used_bytes,
        info.quota_bytes
    );
    let result = (thread.word(2), thread.word(3));
    drop(thread);
    child.destroy(suite)?;
    Ok(result)
}

/// A task gets no more memory than its quota.
fn memory(context: &Context) -> Outcome {
    let size = 64 * 1024;
    let (count, error) = exhaust(context, QUOTA, Operation::MemoryCreate, size)?;
    ensure!(count > 2, "only {count} objects were made");
    ensure!(
        count * size <= QUOTA,
        "{count} times {size} bytes from a quota of {QUOTA}"
    );
    ensure_equal!(error, Error::OutOfQuota.code(), "the error");
    let (count, error) = exhaust(context, QUOTA, Operation::MemoryCreate, 2 * QUOTA)?;
    ensure_equal!(
        (count, error),
        (0, Error::OutOfQuota.code()),
        "more than the quota at once"
    );
    Ok(())
}

fn objects(context: &Context) -> Outcome {
    for operation in [Operation::EndpointCreate, Operation::NotificationCreate] {
        let (count, error) = exhaust(context, QUOTA / 2, operation, 0)?;
        ensure!(count > 10, "{operation:?}: only {count} were made");
        ensure!(
            is_exhaustion(error),
            "{operation:?} ended after {count} with status {error}"
        );
        // The suite itself can go on.
        Owned::make(operation, &[])?;
    }
    Ok(())
}

/// Duplicates the handle in word 0 until it is refused. Word 2 counts, word 3 gets the error.
fn duplicate_until_refused(board: &'static Board) {
    let handle = board.words[0].load(Ordering::Acquire);
    loop {
        let copied = call(Operation::Duplicate, &[handle, u64::from(Rights::ALL.0)]);
        if let Err(error) = copied {
            board.words[3].store(error.code(), Ordering::Release);
            return;
        }
        board.words[2].fetch_add(1, Ordering::Release);
    }
}

/// A table has an end, and the task that comes to it lives on.
fn handles(context: &Context) -> Outcome {
    let suite = &context.suite;
    let child = Child::new(suite, &context.program, 8 << 20)?;
    let notification = Owned::make(Operation::NotificationCreate, &[])?;
    let there = child.grant(notification.0, Rights::ALL)?;
    let thread = child.start(suite, duplicate_until_refused, &[there])?;
    ensure!(
        suite.wait_for(60_000, || thread.is_done()),
        "the child is still duplicating: {}",
        thread.word(2)
    );
    ensure!(is_exhaustion(thread.word(3)), "status {}", thread.word(3));
    ensure!(
        thread.word(2) < ipc::Handle::MAX_PER_TASK as u64,
        "{} handles",
        thread.word(2)
    );
    let full = child.grant(notification.0, Rights::ALL);
    ensure!(full.is_err(), "a full table takes one more");
    ensure_equal!(child.info()?.handles, thread.word(2) + 1, "handles");
    Ok(())
}

/// Does nothing.
fn idle(_: &'static Board) {}

/// Making threads in a task ends with an error, and what was made works.
fn threads(context: &Context) -> Outcome {
    let suite = &context.suite;
    let child = Child::new(suite, &context.program, QUOTA / 2)?;
    let values = [child.task, 0x20_0000, 0x30_0000, 0, 0, 5];
    let mut made = alloc::vec::Vec::new();
    let error = loop {
        match Owned::make(Operation::ThreadCreate, &values) {
            Ok(thread) => made.push(thread),
            Err(error) => break error,
        }
        ensure!(made.len() <= 2000, "there is no end of threads");
    };
    ensure!(is_exhaustion(error.code()), "the error is {error:?}");
    ensure!(made.len() > 4, "only {} threads were made", made.len());
    let info = child.info()?;
    // The one that keeps the child alive is among them.
    ensure_equal!(info.threads, made.len() as u64 + 1, "threads of the child");
    for thread in &made {
        call(Operation::Destroy, &[thread.0])?;
    }
    made.clear();
    Thread::start(suite, idle, &[])?.finish(suite)
}

/// Sleeps until the time in word 0 again and again, a little later each time, until word 1 is 1; word 2
/// counts.
fn sleep_often(board: &'static Board) {
    let mut deadline = board.words[0].load(Ordering::Acquire);
    while board.words[1].load(Ordering::Acquire) == 0 {
        let slept = raw::until(Operation::FutexWait, &[word(board, 400), 0], deadline);
        if !matches!(slept, Err(Error::TimedOut)) {
            return;
        }
        board.words[2].fetch_add(1, Ordering::Relaxed);
        deadline += 1_000_000;
    }
}

/// A thread's deadline is the only timer there is, so timers end with the threads. With many of them at
/// the same instants - more than one interrupt handles - each comes, and others' come too.
fn timers(context: &Context) -> Outcome {
    const THREADS: usize = 200;
    let suite = &context.suite;
    let child = Child::new(suite, &context.program, 4 * QUOTA)?;
    let start = suite.after(20);
    let mut sleepers = alloc::vec::Vec::new();
    for _ in 0..THREADS {
        sleepers.push(child.start(suite, sleep_often, &[start])?);
    }
    let caller = Thread::start(suite, sleep_often, &[suite.now()])?;
    let all = || sleepers.iter().all(|sleeper| sleeper.word(2) >= 20);
    ensure!(suite.wait_for(60_000, all), "a deadline did not come");
    ensure!(
        suite.wait_for(PATIENCE, || caller.word(2) >= 20),
        "another task's deadline did not come"
    );
    for sleeper in sleepers.iter().chain([&caller]) {
        sleeper.set_word(1, 1);
    }
    sleepers
        .iter()
        .try_for_each(|sleeper| sleeper.finish(suite))?;
    caller.finish(suite)
}

/// A task cannot give its children more than it has.
fn nested(context: &Context) -> Outcome {
    let suite = &context.suite;
    for quota in [1 << 63, 1 << 62, 1 << 50] {
        let values = [suite.task, quota, 0, 5];
        ensure_error!(
            call(Operation::TaskCreate, &values),
            OutOfQuota,
            "a child with a quota of {quota:#x}"
        );
    }
    // What the test before this one left to reclaim would come back meanwhile.
    let settled = || suite.counts().is_ok_and(|counts| counts.reclaiming == 0);
    ensure!(suite.wait_for(5000, settled), "reclaiming does not end");
    let before = own_used(context)?;
    let child = Child::empty(suite, QUOTA)?;
    let with = own_used(context)?;
    ensure!(
        with >= before + QUOTA,
        "a child's quota of {QUOTA} took {} from its maker",
        with - before
    );
    drop(child);
    let back = || own_used(context) == Ok(before);
    ensure!(suite.wait_for(2000, back), "its quota does not come back");
    Ok(())
}

/// Bytes of the suite's quota in use.
fn own_used(context: &Context) -> Result<u64, Error> {
    call(Operation::TaskInspect, &[context.suite.task])?;
    let words = crate::suite::buffer_words();
    Ok(ipc::info::TaskInfo::from_words(&words).used_bytes)
}

/// What a task used is there again when it is gone, also after many.
fn comes_back(context: &Context) -> Outcome {
    let suite = &context.suite;
    // The first ones fill the kernel's stock of free objects.
    for _ in 0..40 {
        suite.at_the_same_addresses(|| life(context, &context.program))?;
    }
    let settled = || suite.counts().is_ok_and(|counts| counts.reclaiming == 0);
    ensure!(suite.wait_for(5000, settled), "reclaiming does not end");
    let used = own_used(context)?;
    let mut lost = 0;
    // Frames that lives lose are lost each time. Where the suite is not alone, others may take some meanwhile:
    // the web server shares more rings as more call it, up to a number.
    for _ in 0..5 {
        let free = suite.counts()?.frames_free;
        for _ in 0..40 {
            suite.at_the_same_addresses(|| life(context, &context.program))?;
        }
        let back = || settled() && own_used(context).is_ok_and(|now| now <= used);
        ensure!(
            suite.wait_for(5000, back),
            "{} bytes of the quota are in use, {used} before",
            own_used(context)?
        );
        lost = free.saturating_sub(suite.counts()?.frames_free);
        if lost <= 4 {
            return Ok(());
        }
    }
    ensure!(
        lost <= 4,
        "{lost} frames less than before, and so each time"
    );
    Ok(())
}

/// A child that uses memory, endpoints and threads, and is destroyed.
fn life(context: &Context, program: &Program) -> Outcome {
    let suite = &context.suite;
    let mut child = Child::new(suite, program, QUOTA)?;
    for (operation, argument) in [
        (Operation::MemoryCreate, 16 * PAGE_BYTES),
        (Operation::EndpointCreate, 0),
    ] {
        let values = [operation as u64, argument, 0, 0, 10];
        child.run(suite, make_until_refused, &values)?;
    }
    child.destroy(suite)
}
