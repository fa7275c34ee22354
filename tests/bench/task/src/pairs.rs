//! Calls on a processor of their own, to a server that nobody else calls, between two marks: for
//! `tests/plugin`, which sees what the kernel does meanwhile.

use core::time::Duration;

use ipc::client::Deadline;
use ipc::startup::Startup;
use ipc::{Error, Handle, Label, Tag};
use runtime::thread::{Options, spawn};
use runtime::words::call;

use crate::counter::{mark_begin, mark_end};

/// Calls between the marks; the tool divides by it.
const CALLS: u64 = 50;
/// Calls before, so that everything is where it belongs.
const BEFORE: u64 = 50;
/// Until the others wait there is somebody else to run.
const SETTLING: Duration = Duration::from_millis(100);

pub(crate) fn pair(startup: &'static Startup<'static>) -> Result<(), Error> {
    let service = startup.argument("service").unwrap_or_default();
    let server = startup.handle(service).ok_or(Error::InvalidHandle)?;
    let cpu = startup
        .argument("cpu")
        .and_then(|cpu| cpu.parse::<u32>().ok());
    let cpu = cpu.filter(|cpu| *cpu < 64).ok_or(Error::InvalidArgument)?;
    let options = Options {
        stack_bytes: 32 << 10,
        priority: runtime::task::info(runtime::start::own_task())?.priority as u8,
    };
    let caller = spawn(options, move || {
        // Its processor is set by the time that it wakes.
        runtime::clock::sleep(SETTLING);
        match calls(server, BEFORE).and_then(|()| {
            mark_begin();
            let called = calls(server, CALLS);
            mark_end();
            called
        }) {
            Ok(()) => runtime::log!("called {CALLS}"),
            Err(error) => runtime::log!("FAIL {error}"),
        }
    })?;
    caller.thread().set_affinity(1 << cpu)?;
    caller.join();
    runtime::log!("done");
    Ok(())
}

fn calls(server: Handle, count: u64) -> Result<(), Error> {
    for round in 0..count {
        let tag = Tag::new(Label(1), 0, 0);
        let answer = call(server, tag, [round, 0, 0, 0], Deadline::NEVER)?;
        if answer.words[0] != round {
            return Err(Error::InvalidArgument);
        }
    }
    Ok(())
}
