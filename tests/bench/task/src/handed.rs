//! Handles handed from one task of the benchmark to another before it measures: one request with them, one
//! empty reply.

use ipc::client::{Deadline, Request, Transport};
use ipc::message::{MAX_BYTES, Transfer};
use ipc::server::Outgoing;
use ipc::{Error, Handle, Label};
use runtime::endpoint::{Event, receive, reply};
use runtime::transport::Kernel;

/// Gives handles to the task that serves `endpoint`; returns when it has them. The label is echoed where
/// `servers` serves.
pub(crate) fn hand(endpoint: Handle, handles: &[(Handle, Transfer)]) -> Result<Label, Error> {
    let request = Request {
        endpoint,
        label: Label(1),
        deadline: Deadline::NEVER,
        handles,
        accept: 0,
    };
    let called = Kernel.call(request, |_| Ok(0), |label, _, _| label);
    called.map_err(|_| Error::InvalidArgument)
}

/// Hands handles to the service that is called `name`.
pub(crate) fn hand_to(name: &str, handles: &[(Handle, Transfer)]) -> Result<(), Error> {
    let endpoint = runtime::startup()
        .handle(name)
        .ok_or(Error::InvalidHandle)?;
    hand(endpoint, handles).map(drop)
}

/// Takes as many handles as are expected, as the service `name`.
pub(crate) fn take<const COUNT: usize>(name: &str) -> Result<[Handle; COUNT], Error> {
    let public = runtime::start::serves(name).ok_or(Error::InvalidHandle)?;
    let mut bytes = [0; MAX_BYTES];
    let Event::Message(message) = receive(public, Deadline::NEVER, &mut bytes)? else {
        return Err(Error::InvalidArgument);
    };
    let handles = message.handles.remaining().try_into();
    let handles = handles.map_err(|_| Error::InvalidArgument)?;
    reply(Handle::NONE, &Outgoing::new(&mut [0; 8]))?;
    Ok(handles)
}
