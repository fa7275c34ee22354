//! Switches that are no calls: a yield to a thread of another task.

use ipc::client::Deadline;
use ipc::{Error, Tag};
use runtime::thread::yield_now;
use runtime::words::{call, receive, reply_receive};

use crate::counter::{ROUNDS, measure as count, report};

/// The public endpoint of the task that yields.
pub(crate) const YIELDER: &str = "yielder";

/// How often the other one yields: longer than it is measured.
const YIELDS: u64 = 2 * ROUNDS;

pub(crate) fn measure() -> Result<(), Error> {
    let yielder = runtime::startup()
        .handle(YIELDER)
        .ok_or(Error::InvalidHandle)?;
    call(yielder, Tag(0), [0; 4], Deadline::NEVER)?;
    let cost = count(|_| {
        yield_now();
        Ok::<(), Error>(())
    })?;
    // Each round is one yield here and one there.
    report("yield_switch", cost.div_ceil(2), "instructions");
    Ok(())
}

/// Answers a call, then yields for a while.
pub(crate) fn yielder() -> Result<(), Error> {
    let public = runtime::start::serves(YIELDER).ok_or(Error::InvalidHandle)?;
    receive(public, 0, Deadline::NEVER)?;
    runtime::endpoint::reply(ipc::Handle::NONE, &ipc::server::Outgoing::new(&mut [0; 8]))?;
    for _ in 0..YIELDS {
        yield_now();
    }
    reply_receive(public, Tag(0), [0; 4], Deadline::NEVER).map(drop)
}
