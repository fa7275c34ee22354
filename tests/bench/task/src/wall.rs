//! Nanoseconds, where instructions say little: the shortest paths as they are on this machine, calls and
//! signals from one processor to another, unmapping what other processors have loaded, and pairs of callers
//! and servers beside each other, each on a processor of its own.

use alloc::format;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use core::time::Duration;

use ipc::client::Deadline;
use ipc::layout::PAGE_BYTES;
use ipc::startup::Startup;
use ipc::{Error, Handle, Label, Tag};
use runtime::clock::now;
use runtime::endpoint::Endpoint;
use runtime::handle::inspect;
use runtime::mapping::Access;
use runtime::notification::Notification;
use runtime::thread::{Options, Running, spawn};
use runtime::words::call;
use runtime::{Mapping, Memory};

use crate::counter::report;
use crate::servers::answer_words;

/// How often an operation is measured at once.
const ROUNDS: u64 = 2000;
/// Until the others wait there is somebody else to run.
const SETTLING: Duration = Duration::from_millis(200);
/// The servers of the pairs, one for each processor.
const SERVERS: [&str; 4] = ["server-0", "server-1", "server-2", "server-3"];
/// Pairs at once.
const PAIRS: [usize; 3] = [1, 2, 4];
/// How long pairs call each other.
const STRETCH_NS: u64 = 200_000_000;

pub(crate) fn measure(startup: &'static Startup<'static>) -> Result<(), Error> {
    runtime::clock::sleep(SETTLING);
    let servers: Vec<Handle> = SERVERS
        .iter()
        .filter_map(|name| startup.handle(name))
        .collect();
    let first = *servers.first().ok_or(Error::InvalidHandle)?;
    on(0, move || near(first))?;
    on(0, cross_call)?;
    on(0, cross_signal)?;
    on(0, cross_unmap)?;
    for pairs in PAIRS {
        let chosen = servers.get(..pairs).ok_or(Error::InvalidHandle)?;
        report(
            &format!("pairs_{pairs}"),
            calls_per_second(chosen)?,
            "calls/s",
        );
    }
    runtime::log!("done");
    Ok(())
}

fn pinned(cpu: usize, program: impl FnOnce() + Send + 'static) -> Result<Running, Error> {
    let options = Options {
        stack_bytes: 32 << 10,
        priority: runtime::task::info(runtime::start::own_task())?.priority as u8,
    };
    let running = spawn(options, program)?;
    running.thread().set_affinity(1 << cpu)?;
    Ok(running)
}

/// Measures on one processor.
fn on(
    cpu: usize,
    measure: impl FnOnce() -> Result<(), Error> + Send + 'static,
) -> Result<(), Error> {
    let program = move || {
        // It is where it belongs by the time that it wakes.
        runtime::clock::sleep(SETTLING);
        if let Err(error) = measure() {
            runtime::log!("FAIL {error}");
        }
    };
    pinned(cpu, program)?.join();
    Ok(())
}

/// The mean of so many rounds, in nanoseconds.
fn mean(mut operation: impl FnMut() -> Result<(), Error>) -> Result<u64, Error> {
    for _ in 0..ROUNDS / 10 {
        operation()?;
    }
    let before = now();
    for _ in 0..ROUNDS {
        operation()?;
    }
    Ok((now() - before) / ROUNDS)
}

fn echo(server: Handle) -> Result<(), Error> {
    let tag = Tag::new(Label(1), 0, 0);
    let answer = call(server, tag, [7, 0, 0, 0], Deadline::NEVER)?;
    match answer.words[0] {
        7 => Ok(()),
        _ => Err(Error::InvalidArgument),
    }
}

/// Without another processor.
fn near(server: Handle) -> Result<(), Error> {
    let own = runtime::start::own_task();
    report("null_syscall_ns", mean(|| inspect(own).map(drop))?, "ns");
    report("call_0_ns", mean(|| echo(server))?, "ns");
    let memory = Memory::create(PAGE_BYTES)?;
    let map = || Mapping::whole(&memory, Access::Write).map(drop);
    report("map_unmap_4k_ns", mean(map)?, "ns");
    Ok(())
}

/// A call to a server on another processor.
fn cross_call() -> Result<(), Error> {
    let endpoint = Endpoint::create()?;
    let handle = endpoint.handle();
    let server = pinned(1, move || {
        // It ends with its endpoint.
        let _ = answer_words(handle);
    })?;
    runtime::clock::sleep(SETTLING);
    report("cross_call", mean(|| echo(handle))?, "ns");
    drop(endpoint);
    drop(server);
    Ok(())
}

/// A signal to another processor and the signal back.
fn cross_signal() -> Result<(), Error> {
    let (there, back) = (
        Arc::new(Notification::create()?),
        Arc::new(Notification::create()?),
    );
    let over = Arc::new(AtomicBool::new(false));
    let partner = {
        let (there, back, over) = (there.clone(), back.clone(), over.clone());
        pinned(1, move || {
            while there.wait(Deadline::NEVER).is_ok() && !over.load(Ordering::Relaxed) {
                if back.signal(1).is_err() {
                    return;
                }
            }
        })?
    };
    runtime::clock::sleep(SETTLING);
    let cost = mean(|| {
        there.signal(1)?;
        back.wait(Deadline::NEVER).map(drop)
    })?;
    report("cross_signal", cost, "ns");
    over.store(true, Ordering::Relaxed);
    there.signal(1)?;
    partner.join();
    Ok(())
}

/// Mapping a page, touching it and unmapping it, while other processors run threads of this address space.
fn cross_unmap() -> Result<(), Error> {
    let over = Arc::new(AtomicBool::new(false));
    let memory = Memory::create(PAGE_BYTES)?;
    let mut others = Vec::new();
    for cpus in [2, 4] {
        while others.len() + 1 < cpus {
            let over = over.clone();
            others.push(pinned(others.len() + 1, move || {
                while !over.load(Ordering::Relaxed) {
                    core::hint::spin_loop();
                }
            })?);
        }
        runtime::clock::sleep(SETTLING);
        let cost = mean(|| Mapping::whole(&memory, Access::Write).map(drop))?;
        let name = match cpus {
            2 => "cross_unmap",
            _ => "cross_unmap_4",
        };
        report(name, cost, "ns");
    }
    over.store(true, Ordering::Relaxed);
    others.into_iter().for_each(Running::join);
    Ok(())
}

/// Calls of as many pairs at once, each on a processor of its own.
fn calls_per_second(servers: &[Handle]) -> Result<u64, Error> {
    let ready = Arc::new(AtomicU32::new(0));
    let (go, over) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
    );
    let calls = Arc::new(AtomicU32::new(0));
    let mut callers = Vec::new();
    for (cpu, server) in servers.iter().enumerate() {
        let (server, ready, go) = (*server, ready.clone(), go.clone());
        let (over, calls) = (over.clone(), calls.clone());
        callers.push(pinned(cpu, move || {
            runtime::clock::sleep(SETTLING);
            // The server comes to this processor.
            let _ = echo(server);
            ready.fetch_add(1, Ordering::SeqCst);
            while !go.load(Ordering::SeqCst) {
                runtime::clock::sleep(Duration::from_micros(100));
            }
            let mut count = 0;
            while !over.load(Ordering::Relaxed) && echo(server).is_ok() {
                count += 1;
            }
            calls.fetch_add(count, Ordering::SeqCst);
        })?);
    }
    while (ready.load(Ordering::SeqCst) as usize) < servers.len() {
        runtime::clock::sleep(Duration::from_millis(1));
    }
    let before = now();
    go.store(true, Ordering::SeqCst);
    runtime::clock::sleep(Duration::from_nanos(STRETCH_NS));
    let taken = now() - before;
    over.store(true, Ordering::SeqCst);
    callers.into_iter().for_each(Running::join);
    Ok(u64::from(calls.load(Ordering::SeqCst)) * 1_000_000_000 / taken.max(1))
}
