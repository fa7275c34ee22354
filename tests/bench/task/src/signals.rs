//! Signals between two tasks on one CPU: to a partner of the same priority and back, and to one that is
//! more urgent, which runs at once. The partners are tasks of their own.

use ipc::client::Deadline;
use ipc::message::Transfer;
use ipc::{Error, Rights};
use runtime::notification::{Notification, signal, wait};

use crate::counter::{measure as count, report};
use crate::handed::{hand_to, take};

/// The public endpoint of the partner with the same priority.
pub(crate) const EQUAL: &str = "equal";
/// That of the more urgent one.
pub(crate) const URGENT: &str = "urgent";

/// Returns the more urgent partner, for those who measure it again.
pub(crate) fn measure() -> Result<Partner, Error> {
    let equal = Partner::meet(EQUAL)?;
    let cost = count(|_| {
        equal.there.signal(1)?;
        equal.back.wait(Deadline::NEVER).map(drop)
    })?;
    report("signal_wait", cost, "instructions");
    let urgent = Partner::meet(URGENT)?;
    report("signal_high", urgent.wake()?, "instructions");
    Ok(urgent)
}

/// A partner, by the notification that it waits on and the one that it signals.
pub(crate) struct Partner {
    there: Notification,
    back: Notification,
}

impl Partner {
    /// Signals the more urgent partner, which runs, waits again, and this task goes on; what it signals back is
    /// not waited for.
    pub(crate) fn wake(&self) -> Result<u64, Error> {
        let cost = count(|_| self.there.signal(1))?;
        self.back.wait(Deadline::NEVER)?;
        Ok(cost)
    }

    fn meet(partner: &str) -> Result<Partner, Error> {
        let (there, back) = meet(partner)?;
        Ok(Partner { there, back })
    }
}

/// Gives a partner a notification to wait on and one to signal.
fn meet(partner: &str) -> Result<(Notification, Notification), Error> {
    let (there, back) = (Notification::create()?, Notification::create()?);
    let handles = [
        (there.handle(), Transfer::copied(Rights::WAIT)),
        (back.handle(), Transfer::copied(Rights::SIGNAL)),
    ];
    hand_to(partner, &handles)?;
    Ok((there, back))
}

/// Takes two notifications and answers each signal of the first by one of the second, for ever.
pub(crate) fn partner(service: &str) -> Result<(), Error> {
    let [there, back] = take(service)?;
    loop {
        wait(there, Deadline::NEVER)?;
        signal(back, 1)?;
    }
}
