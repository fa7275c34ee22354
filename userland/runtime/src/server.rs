//! The server loop, written once: receive, dispatch, reply; sessions that come and go; signals;
//! timers; answers that come later.
//!
//! A server is a [`Service`]: an event handler without threads or waits of its own, so that its state
//! machine is tested on the host by calling the same methods.
//!
//! A thread receives on one endpoint, but a service has two: the public one, which outlives it and
//! speaks only `connect`, and the sessions', which is its own. So [`serve`] starts a second thread, the
//! door, that takes the connects from the public endpoint and passes them on to the sessions' endpoint
//! as calls with a badge of their own. The handler runs in one thread only.

mod door;

use crate::endpoint::{self, Endpoint, Event, LastCall, Message};
use crate::handle::close;
use crate::notification::{self, Notification};
use door::{DOOR, Desk};
use ipc::badge::Client;
use ipc::client::{Deadline, Refusal};
use ipc::info::FaultMessage;
use ipc::interface::service::ConnectError;
use ipc::message::MAX_BYTES;
use ipc::server::{Caller, Deferred, LaterOperation, Outcome, Outgoing, Received};
use ipc::{Error, Handle, Label};

/// An event handler behind an endpoint. Every method returns soon: none waits for anything but
/// calls to services that are below this one in the call-order law.
pub trait Service {
    /// The number of the interface that sessions speak.
    const INTERFACE: u16;

    /// Called once, before anything else. `sessions` is the sessions' endpoint, from which the service
    /// can mint send rights of its own, such as a lifeline that it gives to a server below it; that
    /// one's end arrives at [`Service::closed`]. Sessions are numbered from 1: badges with the highest
    /// bit set are free for this, but for the largest one of all.
    fn started(&mut self, sessions: Handle) {
        let _ = sessions;
    }

    /// A client wants a session; `session` is the badge that its calls will have.
    fn connect(&mut self, session: u64, client: Client) -> Result<(), ConnectError>;

    /// A call of a session: as a rule the interface's own `dispatch(self, ..)`.
    fn dispatch(
        &mut self,
        caller: &mut Caller<'_>,
        label: Label,
        request: &[u8],
        received: &mut Received,
        outgoing: &mut Outgoing<'_>,
    ) -> Outcome;

    /// A session ended: its client closed it or died. Also called when the session could not be
    /// delivered after `connect`.
    fn closed(&mut self, session: u64);

    /// Bits of the notification that was given to [`serve`].
    fn signal(&mut self, bits: u64) {
        let _ = bits;
    }

    /// Called before each wait: for work that is better done once after several events. Returns when
    /// it wants to be called again at the latest.
    fn before_wait(&mut self) -> Deadline {
        Deadline::NEVER
    }

    /// Called after [`Service::before_wait`]: a notification to signal as the wait begins, and the bits.
    /// Who waits for them runs next ([`ipc::Operation::SignalReceive`]).
    fn last_signal(&mut self) -> Option<(Handle, u64)> {
        None
    }

    /// A thread of a task faulted whose fault endpoint is the sessions' endpoint. True lets it go
    /// on; false ends it.
    fn fault(&mut self, badge: u64, fault: &FaultMessage) -> bool {
        let _ = (badge, fault);
        false
    }
}

/// Serves a public endpoint until the kernel refuses to go on, and returns its error. Does not
/// return in the ordinary course of things.
///
/// Arguments: `public` the receive right of the public endpoint; `notification` what is bound to this
/// thread and arrives at [`Service::signal`]; `priority` of the door's thread, as a rule the task's.
pub fn serve<S: Service>(
    public: Handle,
    notification: Option<&Notification>,
    priority: u8,
    service: &mut S,
) -> Error {
    match door::open_door(public, priority) {
        Ok(sessions) => serve_sessions(&sessions, notification, service),
        Err(error) => error,
    }
}

/// Serves an endpoint whose callers have their sessions already: init's way. `connect` is never
/// called. Returns as [`serve`] does.
pub fn serve_sessions<S: Service>(
    sessions: &Endpoint,
    notification: Option<&Notification>,
    service: &mut S,
) -> Error {
    if let Some(notification) = notification
        && let Err(error) = notification.bind()
    {
        return error;
    }
    service.started(sessions.handle());
    let mut server = Server {
        endpoint: sessions.handle(),
        service,
        next_session: 1,
    };
    server.run()
}

/// Answers a call whose right to answer was stashed. Errors: those of [`ipc::Operation::Reply`]; the
/// caller then gets Abandoned.
pub fn answer<O: LaterOperation>(
    deferred: Deferred<O>,
    result: Result<O::Reply, O::Error>,
) -> Result<(), Error> {
    let mut bytes = [0; MAX_BYTES];
    let mut outgoing = Outgoing::new(&mut bytes);
    let handle = deferred.answer(result, &mut outgoing);
    let sent = endpoint::reply(handle, &outgoing);
    if sent.is_err() {
        close(handle);
    }
    sent
}

/// Gives a call up whose right to answer was stashed: its caller gets Abandoned.
pub fn abandon<O: LaterOperation>(deferred: Deferred<O>) {
    close(deferred.abandon());
}

struct Server<'a, S> {
    endpoint: Handle,
    service: &'a mut S,
    next_session: u64,
}

impl<S: Service> Server<'_, S> {
    fn run(&mut self) -> Error {
        let mut request = [0; MAX_BYTES];
        let mut reply = [0; MAX_BYTES];
        let mut outgoing = Outgoing::new(&mut reply);
        let mut answered = None;
        loop {
            let deadline = self.service.before_wait();
            let signal = self.service.last_signal();
            let event = match (answered.take(), signal) {
                (None, Some(signal)) => self.signal_receive(signal, deadline, &mut request),
                (None, None) => endpoint::receive(self.endpoint, deadline, &mut request),
                (Some(()), signal) => {
                    if let Some((notification, bits)) = signal {
                        // That it is gone is told to the service elsewhere.
                        let _ = notification::signal(notification, bits);
                    }
                    self.reply_receive(&outgoing, deadline, &mut request)
                }
            };
            match event {
                Ok(event) => answered = self.handle(event, &request, &mut outgoing),
                Err(Error::TimedOut) => {}
                Err(error) => return error,
            }
        }
    }

    /// Replies and receives in one operation; where the reply is refused, the caller learns of it by
    /// a refusal, and the receive is made on its own.
    fn reply_receive(
        &mut self,
        outgoing: &Outgoing<'_>,
        deadline: Deadline,
        request: &mut [u8],
    ) -> Result<Event, Error> {
        let event = endpoint::reply_receive(self.endpoint, outgoing, deadline, request);
        endpoint::close_moved(outgoing);
        match event {
            Ok(_) | Err(Error::TimedOut | Error::Destroyed) => event,
            Err(error) => {
                // A message that wanted no reply is the common case, and then this fails as well.
                let refused = endpoint::refuse(Refusal::ReplyTooLong);
                if error != Error::NoReplyPending && refused.is_err() {
                    return Err(error);
                }
                endpoint::receive(self.endpoint, deadline, request)
            }
        }
    }

    /// Signals and receives in one operation; where the notification is gone, of which the service is told
    /// elsewhere, the receive is made on its own.
    fn signal_receive(
        &mut self,
        signal: (Handle, u64),
        deadline: Deadline,
        request: &mut [u8],
    ) -> Result<Event, Error> {
        match endpoint::signal_receive(signal, self.endpoint, deadline, request) {
            Err(Error::InvalidHandle | Error::WrongKind | Error::MissingRights) => {
                endpoint::receive(self.endpoint, deadline, request)
            }
            event => event,
        }
    }

    /// Handles an event; `Some` when `outgoing` is to be sent as its reply.
    fn handle(&mut self, event: Event, request: &[u8], outgoing: &mut Outgoing<'_>) -> Option<()> {
        match event {
            Event::Message(message) => self.message(message, request, outgoing),
            Event::Signal(bits) => {
                self.service.signal(bits);
                None
            }
            Event::Closed(DOOR) => None,
            Event::Closed(session) => {
                self.service.closed(session);
                None
            }
            Event::Fault { badge, fault } => {
                self.fault(badge, &fault);
                None
            }
        }
    }

    fn message(
        &mut self,
        message: Message,
        request: &[u8],
        outgoing: &mut Outgoing<'_>,
    ) -> Option<()> {
        let mut received = message.handles;
        let request = request.get(..message.length).unwrap_or(&[]);
        let mut slot = LastCall;
        let mut caller = Caller::new(message.badge, &mut slot);
        let (label, service) = (message.label, &mut *self.service);
        let outcome = if message.badge == DOOR {
            let mut desk = Desk {
                endpoint: self.endpoint,
                next_session: &mut self.next_session,
                service,
            };
            desk.connect(request, outgoing);
            Outcome::Reply
        } else {
            service.dispatch(&mut caller, label, request, &mut received, outgoing)
        };
        for handle in received.remaining() {
            close(*handle);
        }
        // A stashed call is the answer's business, whatever the dispatch says.
        (outcome == Outcome::Reply && !caller.is_stashed()).then_some(())
    }

    fn fault(&mut self, badge: u64, fault: &FaultMessage) {
        if self.service.fault(badge, fault) {
            // The thread may be gone by now; then there is nothing to resume.
            let _ = endpoint::resume(Handle::NONE);
        } else if let Ok(reply) = endpoint::stash() {
            close(reply);
        }
    }
}

#[cfg(test)]
mod tests;
