//! What must not grow: the shortest call and the shortest wake among many threads that wait or are ready,
//! with a full handle table, beside many tasks.

use alloc::vec::Vec;
use core::time::Duration;

use ipc::{Error, Handle, Operation, Rights};
use runtime::endpoint::Endpoint;
use runtime::thread::Thread;

use crate::RAW;
use crate::calls::round_trip;
use crate::children::Child;
use crate::counter::report;
use crate::signals::Partner;

/// Threads that there are besides.
const THREADS: [usize; 3] = [10, 100, 1000];
/// Handles that there are besides.
const HANDLES: usize = 1000;
/// Tasks that there are besides.
const TASKS: usize = 100;

/// Memory of a task with many threads: 4 KiB each for the IPC buffer, and the objects.
const QUOTA: u64 = 8 << 20;
/// Memory of a task with none that runs.
const SMALL_QUOTA: u64 = 64 << 10;
/// How long before each measurement: threads that are to wait do, and what was destroyed is reclaimed.
const SETTLING: Duration = Duration::from_millis(200);
/// Less urgent than everything that is measured.
const LOW: u8 = 1;
/// More urgent: such threads have waited by the time that they were started.
const HIGH: u8 = 20;

/// JMP to itself (Intel SDM volume 2A).
const SPINS: [u8; 2] = [0xeb, 0xfe];

/// Receives from an endpoint, for ever: EAX the operation, EDI the handle (below 2^32 for a fresh table), ESI
/// accepts nothing, R12 never.
fn receives(endpoint: Handle) -> Vec<u8> {
    let mut code = Vec::new();
    code.push(0xb8);
    code.extend((Operation::Receive as u32).to_le_bytes());
    code.push(0xbf);
    code.extend((endpoint.0 as u32).to_le_bytes());
    code.extend([0x31, 0xf6]);
    code.extend([0x49, 0xc7, 0xc4, 0xff, 0xff, 0xff, 0xff]);
    code.extend([0x0f, 0x05]);
    code.extend(SPINS);
    code
}

pub(crate) fn measure(urgent: &Partner) -> Result<(), Error> {
    let raw = runtime::startup().handle(RAW).ok_or(Error::InvalidHandle)?;
    let figures = |names: [&str; 2], raw: Handle| {
        runtime::clock::sleep(SETTLING);
        report(names[0], round_trip(raw, 0)?, "instructions");
        report(names[1], urgent.wake()?, "instructions");
        Ok::<(), Error>(())
    };
    figures(["call_0_alone", "signal_high_alone"], raw)?;
    threads(raw, &figures)?;
    {
        let many: Vec<_> = (0..HANDLES)
            .map(|_| runtime::handle::duplicate(raw, Rights::ALL))
            .collect::<Result<_, _>>()?;
        let last = *many.last().ok_or(Error::InvalidHandle)?;
        figures(
            ["call_0_with_1000_handles", "signal_high_with_1000_handles"],
            last,
        )?;
        many.into_iter().for_each(runtime::handle::close);
    }
    let tasks: Vec<Child> = (0..TASKS)
        .map(|_| Child::new(&SPINS, SMALL_QUOTA, LOW))
        .collect::<Result<_, _>>()?;
    figures(["call_0_with_100_tasks", "signal_high_with_100_tasks"], raw)?;
    tasks.iter().try_for_each(Child::destroy)
}

/// Beside threads that wait, and beside ones that are ready.
fn threads(
    raw: Handle,
    figures: &impl Fn([&str; 2], Handle) -> Result<(), Error>,
) -> Result<(), Error> {
    const WAITING: [[&str; 2]; 3] = [
        ["call_0_with_10_waiting", "signal_high_with_10_waiting"],
        ["call_0_with_100_waiting", "signal_high_with_100_waiting"],
        ["call_0_with_1000_waiting", "signal_high_with_1000_waiting"],
    ];
    // The name that the tool's figures have had from the beginning is that of threads that are ready.
    const READY: [[&str; 2]; 3] = [
        ["call_0_with_10_threads", "signal_high_with_10_threads"],
        ["call_0_with_100_threads", "signal_high_with_100_threads"],
        ["call_0_with_1000_threads", "signal_high_with_1000_threads"],
    ];
    let endpoint = Endpoint::create()?;
    for (count, names) in THREADS.into_iter().zip(WAITING) {
        let child = Child::with_handle(endpoint.handle(), receives, QUOTA, HIGH)?;
        let many = start(&child, count)?;
        figures(names, raw)?;
        drop(many);
        child.destroy()?;
    }
    for (count, names) in THREADS.into_iter().zip(READY) {
        let child = Child::new(&SPINS, QUOTA, LOW)?;
        let many = start(&child, count)?;
        figures(names, raw)?;
        drop(many);
        child.destroy()?;
    }
    Ok(())
}

fn start(child: &Child, count: usize) -> Result<Vec<Thread>, Error> {
    let start = |_| {
        let thread = child.thread()?;
        thread.start()?;
        Ok(thread)
    };
    (0..count).map(start).collect()
}
