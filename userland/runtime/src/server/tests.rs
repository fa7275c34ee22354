//! Tests of the server loop's handling of events, without a kernel.

use super::door::{DOOR, DoorRequest};
use super::{Event, Message, Server, Service};
use ipc::badge::Client;
use ipc::client::Refusal;
use ipc::codec;
use ipc::interface::console::{self, ConsoleError, ConsoleServer, Typed};
use ipc::interface::service::ConnectError;
use ipc::message::MAX_BYTES;
use ipc::server::{Answer, Caller, Outcome, Outgoing, Received};
use ipc::{Error, Handle, Label};
use std::vec::Vec;

/// A console that records, and refuses clients without grants.
#[derive(Default)]
struct Fake {
    connected: Vec<(u64, Client)>,
    closed: Vec<u64>,
    signals: u64,
    written: usize,
}

impl ConsoleServer for Fake {
    fn write(&mut self, _: &mut Caller<'_>, bytes: &[u8]) -> Result<u32, ConsoleError> {
        self.written += bytes.len();
        Ok(bytes.len() as u32)
    }

    fn read(&mut self, caller: &mut Caller<'_>, _: u16) -> Result<Answer<Typed>, ConsoleError> {
        // The host cannot stash.
        let stashed = caller.stash::<console::Read>();
        assert_eq!(stashed.err(), Some(Error::Unsupported));
        Err(ConsoleError::Exhausted)
    }

    fn attach(
        &mut self,
        _: &mut Caller<'_>,
        _: u32,
        _: bool,
        _: u64,
        _: Handle,
        _: Handle,
    ) -> Result<(u64, Handle), ConsoleError> {
        Err(ConsoleError::NotPermitted)
    }
}

impl Service for Fake {
    const INTERFACE: u16 = console::NUMBER;

    fn connect(&mut self, session: u64, client: Client) -> Result<(), ConnectError> {
        self.connected.push((session, client));
        if client.grants == 0 {
            Err(ConnectError::NotPermitted)
        } else {
            Ok(())
        }
    }

    fn dispatch(
        &mut self,
        caller: &mut Caller<'_>,
        label: Label,
        request: &[u8],
        received: &mut Received,
        outgoing: &mut Outgoing<'_>,
    ) -> Outcome {
        console::dispatch(self, caller, label, request, received, outgoing)
    }

    fn closed(&mut self, session: u64) {
        self.closed.push(session);
    }

    fn signal(&mut self, bits: u64) {
        self.signals |= bits;
    }
}

/// Lets a server handle one message and decodes the reply.
fn message(fake: &mut Fake, badge: u64, label: Label, request: &[u8]) -> (Label, Vec<u8>) {
    let mut server = Server {
        endpoint: Handle(1),
        service: fake,
        next_session: 1,
    };
    let length = request.len();
    let message = Message {
        badge,
        label,
        length,
        handles: Received::new(&[Handle(9)]),
    };
    let message = match badge {
        DOOR => message,
        _ => Message {
            handles: Received::NONE,
            ..message
        },
    };
    let mut buffer = [0; MAX_BYTES];
    let mut outgoing = Outgoing::new(&mut buffer);
    let reply = server.handle(Event::Message(message), request, &mut outgoing);
    assert_eq!(reply, Some(()), "every message is answered");
    (outgoing.label(), outgoing.bytes().to_vec())
}

fn connect(fake: &mut Fake, interface: u16, client: Client) -> Result<(), ConnectError> {
    let mut request = [0; 32];
    let arguments: DoorRequest = (interface, client.badge());
    let length = codec::encode(&arguments, &mut request).unwrap();
    let (label, bytes) = message(fake, DOOR, Label(0), &request[..length]);
    assert_eq!(label, Refusal::ANSWERED);
    codec::decode(&bytes).unwrap()
}

#[test]
fn the_door_tells_the_service_who_connects() {
    let mut fake = Fake::default();
    let nobody = Client { task: 3, grants: 0 };
    assert_eq!(
        connect(&mut fake, 999, nobody),
        Err(ConnectError::WrongInterface)
    );
    assert!(fake.connected.is_empty());
    assert_eq!(
        connect(&mut fake, console::NUMBER, nobody),
        Err(ConnectError::NotPermitted)
    );
    assert_eq!(fake.connected, [(1, nobody)]);
    assert!(
        fake.closed.is_empty(),
        "a session that was refused does not end"
    );
}

#[test]
fn a_session_that_cannot_be_minted_ends_at_once() {
    let mut fake = Fake::default();
    let client = Client { task: 3, grants: 1 };
    assert_eq!(
        connect(&mut fake, console::NUMBER, client),
        Err(ConnectError::Exhausted)
    );
    assert_eq!(
        (fake.connected, fake.closed),
        (std::vec![(1, client)], std::vec![1])
    );
}

#[test]
fn a_malformed_word_from_the_door_is_refused() {
    let mut fake = Fake::default();
    let (label, _) = message(&mut fake, DOOR, Label(0), &[0xff; 20]);
    assert_eq!(label, Refusal::Malformed.label());
    assert!(fake.connected.is_empty());
}

#[test]
fn sessions_reach_the_dispatch_and_events_their_methods() {
    let mut fake = Fake::default();
    let write = ipc::interface::label(console::NUMBER, 1);
    let (label, bytes) = message(&mut fake, 1, write, &[3, b'a', b'b', b'c']);
    assert_eq!((label, bytes), (Refusal::ANSWERED, std::vec![0, 3]));
    assert_eq!(fake.written, 3);
    let read = ipc::interface::label(console::NUMBER, 2);
    let (_, bytes) = message(&mut fake, 1, read, &[5]);
    assert_eq!(
        codec::decode::<Result<Typed, ConsoleError>>(&bytes).unwrap(),
        Err(ConsoleError::Exhausted)
    );

    let mut server = Server {
        endpoint: Handle(1),
        service: &mut fake,
        next_session: 1,
    };
    let mut buffer = [0; MAX_BYTES];
    let mut outgoing = Outgoing::new(&mut buffer);
    for event in [Event::Closed(7), Event::Closed(DOOR), Event::Signal(5)] {
        assert_eq!(server.handle(event, &[], &mut outgoing), None);
    }
    assert_eq!(
        (fake.closed, fake.signals),
        (std::vec![7], 5),
        "the door is no session"
    );
}
