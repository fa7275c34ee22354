//! Signals between two tasks on one CPU: to a partner of the same priority and back, and to one that is
//! more urgent, which runs at once. The partners are tasks of their own.

use ipc::client::{Deadline, Request, Transport};
use ipc::message::Transfer;
use ipc::server::Outgoing;
use ipc::{Error, Handle, Label, Rights};
use runtime::endpoint::{Event, receive, reply};
use runtime::notification::{Notification, signal, wait};
use runtime::transport::Kernel;

use crate::counter::{measure as count, report};

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
    let endpoint = runtime::startup()
        .handle(partner)
        .ok_or(Error::InvalidHandle)?;
    let (there, back) = (Notification::create()?, Notification::create()?);
    let handles = [
        (there.handle(), Transfer::copied(Rights::WAIT)),
        (back.handle(), Transfer::copied(Rights::SIGNAL)),
    ];
    let request = Request {
        endpoint,
        label: Label(1),
        deadline: Deadline::NEVER,
        handles: &handles,
        accept: 0,
    };
    let called = Kernel.call(request, |_| Ok(0), |_, _, _| ());
    called.map_err(|_| Error::InvalidArgument)?;
    Ok((there, back))
}

/// Takes two notifications and answers each signal of the first by one of the second, for ever.
pub(crate) fn partner(service: &str) -> Result<(), Error> {
    let public = runtime::start::serves(service).ok_or(Error::InvalidHandle)?;
    let mut bytes = [0; ipc::message::MAX_BYTES];
    let Event::Message(message) = receive(public, Deadline::NEVER, &mut bytes)? else {
        return Err(Error::InvalidArgument);
    };
    let [there, back] = *message.handles.remaining() else {
        return Err(Error::InvalidArgument);
    };
    let mut empty = [0; 8];
    reply(Handle::NONE, &Outgoing::new(&mut empty))?;
    loop {
        wait(there, Deadline::NEVER)?;
        signal(back, 1)?;
    }
}
