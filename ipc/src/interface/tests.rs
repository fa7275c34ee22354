//! Tests of what the declarations yield: a round trip through stub and dispatch, and hostile bytes
//! for every interface.

use super::console::{self, ConsoleClient, ConsoleError, ConsoleServer, Typed};
use super::pci;
use crate::client::{CallError, Deadline, Refusal, Request, Transport, TransportError};
use crate::codec::CodecError;
use crate::message::{MAX_BYTES, Transfer};
use crate::server::{Answer, Caller, Deferred, Outcome, Outgoing, Received, ReplySlot};
use crate::{Error, Handle, Label, Rights};
use std::cell::RefCell;

mod hostile;

const DOORBELL: Handle = Handle(77);

/// Stashes into one handle, always the same.
struct Slot;

impl ReplySlot for Slot {
    fn stash(&mut self) -> Result<Handle, Error> {
        Ok(Handle(99))
    }
}

/// A console that records.
#[derive(Default)]
struct FakeConsole {
    written: Vec<u8>,
    reading: Option<Deferred<console::Read>>,
    attached: Option<(u32, bool, u64, Handle, Handle)>,
}

impl ConsoleServer for FakeConsole {
    fn write(&mut self, caller: &mut Caller<'_>, bytes: &[u8]) -> Result<u32, ConsoleError> {
        assert_eq!(caller.badge(), 5);
        self.written.extend_from_slice(bytes);
        Ok(bytes.len() as u32)
    }

    fn read(&mut self, caller: &mut Caller<'_>, limit: u16) -> Result<Answer<Typed>, ConsoleError> {
        if limit == 1 {
            return Ok(Answer::Now(Typed::from_slice(b"q").unwrap()));
        }
        let (deferred, stashed) = caller.stash().map_err(|_| ConsoleError::Exhausted)?;
        self.reading = Some(deferred);
        Ok(Answer::Later(stashed))
    }

    fn attach(
        &mut self,
        _: &mut Caller<'_>,
        bytes: u32,
        reads: bool,
        bits: u64,
        rings: Handle,
        bell: Handle,
    ) -> Result<(u64, Handle), ConsoleError> {
        if bytes == 0 {
            return Err(ConsoleError::OutOfRange);
        }
        self.attached = Some((bytes, reads, bits, rings, bell));
        Ok((8, DOORBELL))
    }
}

/// Carries calls straight into the dispatch, and can spoil what it carries.
#[derive(Default)]
struct Fake {
    server: RefCell<FakeConsole>,
    sent: RefCell<Vec<(Handle, Transfer)>>,
    given: RefCell<Vec<(Handle, Transfer)>>,
    closed: RefCell<Vec<Handle>>,
    fail: Option<Error>,
    extra_reply_byte: bool,
    extra_reply_handle: bool,
    drop_sent_handle: bool,
    label: Option<Label>,
}

impl Transport for Fake {
    fn call<R>(
        &self,
        request: Request<'_>,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, CodecError>,
        read: impl FnOnce(Label, &[u8], &[Handle]) -> R,
    ) -> Result<R, TransportError> {
        let (mut bytes, mut buffer) = ([0; MAX_BYTES], [0; MAX_BYTES + 1]);
        let length = fill(&mut bytes)?;
        if let Some(error) = self.fail {
            return Err(error.into());
        }
        *self.sent.borrow_mut() = request.handles.to_vec();
        let mut handles: Vec<_> = request.handles.iter().map(|sent| sent.0).collect();
        if self.drop_sent_handle {
            handles.pop();
        }
        let mut received = Received::new(&handles);
        let mut outgoing = Outgoing::new(&mut buffer[..MAX_BYTES]);
        let outcome = console::dispatch(
            &mut *self.server.borrow_mut(),
            &mut Caller::new(5, &mut Slot),
            self.label.unwrap_or(request.label),
            &bytes[..length],
            &mut received,
            &mut outgoing,
        );
        if outcome == Outcome::Later {
            return Err(Error::Abandoned.into());
        }
        *self.given.borrow_mut() = outgoing.handles().to_vec();
        let mut handles: Vec<_> = outgoing.handles().iter().map(|sent| sent.0).collect();
        if self.extra_reply_handle {
            handles.push(Handle(123));
        }
        let (label, length) = (outgoing.label(), outgoing.bytes().len());
        let length = length + usize::from(self.extra_reply_byte);
        Ok(read(label, &buffer[..length], &handles))
    }

    fn close(&self, handle: Handle) {
        self.closed.borrow_mut().push(handle);
    }
}

fn client(fake: &Fake) -> ConsoleClient<&Fake> {
    ConsoleClient::new(fake, Handle(1))
}

#[test]
fn a_call_arrives_and_its_reply_comes_back() {
    let fake = Fake::default();
    assert_eq!(client(&fake).write(Deadline::NEVER, b"hello"), Ok(5));
    assert_eq!(fake.server.borrow().written, b"hello");
    assert_eq!(client(&fake).read(Deadline::NEVER, 1).unwrap(), b"q");
}

#[test]
fn handles_travel_as_declared() {
    let fake = Fake::default();
    let reply = client(&fake).attach(Deadline::NEVER, 4096, true, 3, Handle(10), Handle(11));
    assert_eq!(reply, Ok((8, DOORBELL)));
    let attached = fake.server.borrow().attached;
    assert_eq!(attached, Some((4096, true, 3, Handle(10), Handle(11))));
    let shared = Transfer::copied(Rights::READ | Rights::WRITE);
    let signalled = Transfer::copied(Rights::SIGNAL);
    assert_eq!(
        *fake.sent.borrow(),
        [(Handle(10), shared), (Handle(11), signalled)]
    );
    assert_eq!(*fake.given.borrow(), [(DOORBELL, signalled)]);
}

#[test]
fn errors_of_service_and_transport_are_told_apart() {
    let fake = Fake::default();
    let reply = client(&fake).attach(Deadline::NEVER, 0, true, 3, Handle(10), Handle(11));
    assert_eq!(reply, Err(CallError::Service(ConsoleError::OutOfRange)));
    assert!(fake.given.borrow().is_empty());

    let fake = Fake {
        fail: Some(Error::NotDelivered),
        ..Fake::default()
    };
    let error = client(&fake).write(Deadline::NEVER, b"").unwrap_err();
    assert_eq!(error, CallError::Transport(Error::NotDelivered));
    assert!(error.is_disconnected());
}

#[test]
fn a_request_that_does_not_fit_is_never_sent() {
    let fake = Fake::default();
    let reply = client(&fake).write(Deadline::NEVER, &[0; MAX_BYTES]);
    assert_eq!(reply, Err(CallError::Request(CodecError::TooLong)));
    assert!(fake.server.borrow().written.is_empty());
}

#[test]
fn a_missing_handle_and_an_unknown_operation_are_refused() {
    let fake = Fake {
        drop_sent_handle: true,
        ..Fake::default()
    };
    let reply = client(&fake).attach(Deadline::NEVER, 4096, true, 3, Handle(10), Handle(11));
    assert_eq!(reply, Err(CallError::Refused(Refusal::WrongHandles)));
    assert_eq!(fake.server.borrow().attached, None);

    let fake = Fake {
        label: Some(super::label(pci::NUMBER, 1)),
        ..Fake::default()
    };
    let reply = client(&fake).write(Deadline::NEVER, b"x");
    assert_eq!(reply, Err(CallError::Refused(Refusal::UnknownOperation)));
}

#[test]
fn a_reply_that_is_not_as_declared_is_an_error_and_its_handles_are_closed() {
    let fake = Fake {
        extra_reply_byte: true,
        ..Fake::default()
    };
    assert_eq!(
        client(&fake).write(Deadline::NEVER, b""),
        Err(CallError::Reply)
    );

    let fake = Fake {
        extra_reply_handle: true,
        ..Fake::default()
    };
    let reply = client(&fake).attach(Deadline::NEVER, 64, true, 3, Handle(10), Handle(11));
    assert_eq!(reply, Err(CallError::Reply));
    assert_eq!(*fake.closed.borrow(), [DOORBELL, Handle(123)]);
}

#[test]
fn an_answer_can_come_later() {
    let fake = Fake::default();
    assert!(
        client(&fake).read(Deadline::NEVER, 9).is_err(),
        "the fake cannot wait"
    );
    let deferred = fake.server.borrow_mut().reading.take().unwrap();
    let mut buffer = [0; MAX_BYTES];
    let mut outgoing = Outgoing::new(&mut buffer);
    let typed = Typed::from_slice(b"later").unwrap();
    assert_eq!(
        deferred.answer(Ok(typed.clone()), &mut outgoing),
        Handle(99)
    );
    let reply: Result<Typed, ConsoleError> = crate::codec::decode(outgoing.bytes()).unwrap();
    assert_eq!(reply, Ok(typed));
}

#[test]
fn labels_of_all_interfaces_are_distinct() {
    let mut seen = std::collections::BTreeSet::new();
    for interface in super::ALL {
        for operation in interface.operations {
            assert!(seen.insert(super::label(interface.number, operation.number).0));
        }
    }
}
