//! The door: the thread that waits at a service's public endpoint and passes connects on, and the
//! desk, which answers it in the sessions' thread.

use super::Service;
use crate::endpoint::{self, Endpoint, Event, LastCall};
use crate::handle::{close, inspect};
use crate::thread;
use ipc::badge::Client;
use ipc::client::{CallError, Deadline, Refusal, Request};
use ipc::codec;
use ipc::interface::service::{self, ConnectError, ServiceServer};
use ipc::message::{MAX_BYTES, Transfer};
use ipc::server::{Caller, Outgoing};
use ipc::{Error, Handle, Label, Rights};

/// Badge of the door's calls. Sessions count from 1 and never get there.
pub(super) const DOOR: u64 = u64::MAX;
/// Stack of the door's thread in bytes.
const DOOR_STACK_BYTES: u64 = 32 * 1024;

/// What the door asks of the sessions' thread.
pub(super) type DoorRequest = (u16, u64);

/// Makes sessions for the door.
pub(super) struct Desk<'a, S> {
    /// The sessions' endpoint.
    pub(super) endpoint: Handle,
    /// Badge of the next session.
    pub(super) next_session: &'a mut u64,
    /// The handler.
    pub(super) service: &'a mut S,
}

impl<S: Service> Desk<'_, S> {
    /// Handles a call of the door.
    pub(super) fn connect(&mut self, request: &[u8], outgoing: &mut Outgoing<'_>) {
        let Ok((interface, client)) = codec::decode::<DoorRequest>(request) else {
            outgoing.refuse(Refusal::Malformed);
            return;
        };
        match self.open(interface, Client::from_badge(client)) {
            Ok(session) => {
                let rights = Rights::SEND | Rights::DUPLICATE | Rights::TRANSFER;
                let handles = [(session, Transfer::moved(rights))];
                outgoing.answer(&Ok::<(), ConnectError>(()), &handles);
            }
            Err(error) => outgoing.answer(&Err::<(), _>(error), &[]),
        }
    }

    fn open(&mut self, interface: u16, client: Client) -> Result<Handle, ConnectError> {
        if interface != S::INTERFACE {
            return Err(ConnectError::WrongInterface);
        }
        let session = *self.next_session;
        self.service.connect(session, client)?;
        *self.next_session += 1;
        endpoint::mint(self.endpoint, session).map_err(|_| {
            self.service.closed(session);
            ConnectError::Exhausted
        })
    }
}

/// Makes the sessions' endpoint and starts the thread that passes connects on to it.
pub(super) fn open_door(public: Handle, priority: u8) -> Result<Endpoint, Error> {
    inspect(public)?;
    let sessions = Endpoint::create()?;
    let inside = sessions.mint(DOOR)?;
    let options = thread::Options {
        stack_bytes: DOOR_STACK_BYTES,
        priority,
    };
    // The door runs as long as the task does.
    thread::spawn(options, move || Door { inside }.run(public)).map(drop)?;
    Ok(sessions)
}

/// The public endpoint's thread.
struct Door {
    inside: Endpoint,
}

impl Door {
    /// Ends when the public endpoint is destroyed: no client can come any more.
    fn run(&mut self, public: Handle) {
        let mut request = [0; MAX_BYTES];
        let mut reply = [0; 64];
        loop {
            let Ok(event) = endpoint::receive(public, Deadline::NEVER, &mut request) else {
                return;
            };
            // Badges of clients that ended are no news: their sessions tell the same.
            let Event::Message(message) = event else {
                continue;
            };
            let mut received = message.handles;
            let mut outgoing = Outgoing::new(&mut reply);
            let mut slot = LastCall;
            service::dispatch(
                self,
                &mut Caller::new(message.badge, &mut slot),
                message.label,
                request.get(..message.length).unwrap_or(&[]),
                &mut received,
                &mut outgoing,
            );
            for handle in received.remaining() {
                close(*handle);
            }
            if endpoint::reply(Handle::NONE, &outgoing).is_err() {
                // Either no reply was wanted, or the caller cannot take the session.
                let _ = endpoint::refuse(Refusal::ReplyTooLong);
            }
        }
    }
}

impl ServiceServer for Door {
    fn connect(
        &mut self,
        caller: &mut Caller<'_>,
        interface: u16,
    ) -> Result<((), Handle), ConnectError> {
        let request = Request {
            endpoint: self.inside.handle(),
            label: Label(0),
            deadline: Deadline::NEVER,
            handles: &[],
            accept: 0,
        };
        let arguments: DoorRequest = (interface, caller.badge());
        let reply = ipc::client::call(&crate::Kernel, request, &arguments);
        match reply {
            Ok(((), [session])) => Ok(((), session)),
            Err(CallError::Service(error)) => Err(error),
            Err(_) => Err(ConnectError::Exhausted),
        }
    }
}
