//! Calls between two address spaces on one CPU: as many bytes as the name says go out, and the server
//! echoes a number that is checked.

use ipc::client::Deadline;
use ipc::interface::echo::{self, EchoClient};
use ipc::{Error, Handle, Label, Tag};
use runtime::service::connect_to;
use runtime::transport::Kernel;
use runtime::words::call;

use crate::counter::{measure as count, report};
use crate::{ECHO, RAW};

/// Bytes of each call. Longer ones than 32 get an empty reply.
const LENGTHS: [(&str, usize); 6] = [
    ("call_0", 0),
    ("call_32", 32),
    ("call_64", 64),
    ("call_256", 256),
    ("call_960", 960),
    ("call_4000", 4000),
];

pub(crate) fn measure() -> Result<(), Error> {
    let raw = runtime::startup().handle(RAW).ok_or(Error::InvalidHandle)?;
    for (name, bytes) in LENGTHS {
        report(name, round_trip(raw, bytes)?, "instructions");
    }
    let session =
        connect_to(ECHO, echo::NUMBER, Deadline::NEVER).map_err(|_| Error::InvalidHandle)?;
    let stub = EchoClient::new(Kernel, session.handle());
    let cost = count(|round| match stub.echo(Deadline::NEVER, round) {
        Ok(answer) if answer == round => Ok(()),
        _ => Err(Error::InvalidArgument),
    })?;
    report("call_postcard", cost, "instructions");
    Ok(())
}

fn round_trip(server: Handle, bytes: usize) -> Result<u64, Error> {
    count(|round| {
        // The label carries the number where there are no bytes for it.
        let label = Label(1 + round as u32);
        let tag = Tag::new(label, bytes, 0);
        let answer = call(server, tag, [round, 2, 3, 4], Deadline::NEVER)?;
        let right = answer.tag.label() == label && (bytes > 32 || answer.words[0] == round);
        if right {
            Ok(())
        } else {
            Err(Error::InvalidArgument)
        }
    })
}
