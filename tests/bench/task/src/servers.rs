//! The servers that are called: one that echoes words as shortly as can be, one behind derived stubs.

use ipc::badge::Client;
use ipc::client::Deadline;
use ipc::interface::echo::{self, EchoError, EchoServer};
use ipc::interface::service::ConnectError;
use ipc::message::MAX_HANDLES;
use ipc::server::{Caller, Outcome, Outgoing, Received};
use ipc::{Error, Handle, Label, Tag};
use runtime::server::{Service, serve};
use runtime::words::{receive, reply_receive};

use crate::{ECHO, TAKER};

/// Answers every message with its own words; the reply has as many bytes as fit the registers, at most.
pub(crate) fn raw(service: &str) -> Result<(), Error> {
    answer_words(runtime::start::serves(service).ok_or(Error::InvalidHandle)?)
}

/// The same at any endpoint, for ever.
pub(crate) fn answer_words(public: Handle) -> Result<(), Error> {
    let mut arrival = receive(public, 0, Deadline::NEVER)?;
    loop {
        let length = match arrival.tag.length() {
            short @ 0..=32 => short,
            _ => 0,
        };
        let tag = Tag::new(arrival.tag.label(), length, 0);
        arrival = match reply_receive(public, tag, arrival.words, Deadline::NEVER) {
            Ok(next) => next,
            // It was no call, but word that a caller has ended.
            Err(Error::NoReplyPending) => receive(public, 0, Deadline::NEVER)?,
            Err(error) => return Err(error),
        };
    }
}

/// Answers every message with nothing but its label, and keeps the handle that it brought.
pub(crate) fn taker() -> Result<(), Error> {
    let public = runtime::start::serves(TAKER).ok_or(Error::InvalidHandle)?;
    let mut arrival = receive(public, MAX_HANDLES, Deadline::NEVER)?;
    loop {
        let tag = Tag::new(arrival.tag.label(), 0, 0).accepting(MAX_HANDLES);
        arrival = reply_receive(public, tag, [0; 4], Deadline::NEVER)?;
    }
}

/// The server behind derived stubs, as every service is one.
pub(crate) fn echo() -> Result<(), Error> {
    let public = runtime::start::serves(ECHO).ok_or(Error::InvalidHandle)?;
    let priority = runtime::task::info(runtime::start::own_task())?.priority as u8;
    Err(serve(public, None, priority, &mut Echo))
}

struct Echo;

impl EchoServer for Echo {
    fn echo(&mut self, _: &mut Caller<'_>, sequence: u64) -> Result<u64, EchoError> {
        Ok(sequence)
    }
}

impl Service for Echo {
    const INTERFACE: u16 = echo::NUMBER;

    fn connect(&mut self, _: u64, _: Client) -> Result<(), ConnectError> {
        Ok(())
    }

    fn dispatch(
        &mut self,
        caller: &mut Caller<'_>,
        label: Label,
        request: &[u8],
        received: &mut Received,
        outgoing: &mut Outgoing<'_>,
    ) -> Outcome {
        echo::dispatch(self, caller, label, request, received, outgoing)
    }

    fn closed(&mut self, _: u64) {}
}
