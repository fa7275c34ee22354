//! Sessions with services, from the client's side.

use crate::handle::owned;
use crate::start::startup;
use crate::transport::Kernel;
use ipc::client::{CallError, Deadline};
use ipc::interface::service::{ConnectError, ServiceClient};
use ipc::{Error, Handle};

owned! {
    /// A session with a service. A stub borrows it: `ConsoleClient::new(Kernel, session.handle())`.
    /// Closing it ends the session.
    Session
}

/// Makes a session with the service behind a public endpoint. While the service restarts, this
/// waits for its next instance.
///
/// Arguments: `interface` the `NUMBER` of the interface that will be spoken. Errors: as
/// `ServiceClient::connect`; `Abandoned` is tried again, because connecting has no effect that could
/// be had twice.
pub fn connect(
    public: Handle,
    interface: u16,
    deadline: Deadline,
) -> Result<Session, CallError<ConnectError>> {
    let client = ServiceClient::new(Kernel, public);
    loop {
        match client.connect(deadline, interface) {
            Ok(((), session)) => return Ok(Session::from_handle(session)),
            Err(CallError::Transport(Error::Abandoned)) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Makes a session with a service that the startup block names. Errors: as [`connect`], and
/// InvalidHandle where the manifest gives the task no such service.
pub fn connect_to(
    name: &str,
    interface: u16,
    deadline: Deadline,
) -> Result<Session, CallError<ConnectError>> {
    let public = startup()
        .handle(name)
        .ok_or(CallError::Transport(Error::InvalidHandle))?;
    connect(public, interface, deadline)
}
