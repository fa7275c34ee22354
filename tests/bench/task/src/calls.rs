//! Calls between two address spaces on one CPU: as many bytes as the name says go out, and the server
//! echoes a number that is checked. And one within an address space, and one that moves a handle.

use alloc::vec::Vec;

use ipc::client::Deadline;
use ipc::interface::echo::{self, EchoClient};
use ipc::message::Transfer;
use ipc::{Error, Handle, Label, Rights, Tag};
use runtime::endpoint::Endpoint;
use runtime::service::connect_to;
use runtime::transport::Kernel;
use runtime::words::call;

use crate::counter::{ROUNDS, WARM_UP, measure as count, report};
use crate::handed::hand;
use crate::{ECHO, RAW, TAKER, servers};

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
    report("call_same_space", same_space()?, "instructions");
    report("call_handle", with_handle()?, "instructions");
    Ok(())
}

/// A call to another thread of this task.
fn same_space() -> Result<u64, Error> {
    let endpoint = Endpoint::create()?;
    let handle = endpoint.handle();
    let options = runtime::thread::Options {
        stack_bytes: 32 << 10,
        priority: runtime::task::info(runtime::start::own_task())?.priority as u8,
    };
    let server = runtime::thread::spawn(options, move || {
        let ended = servers::answer_words(handle);
        runtime::log!("a server ended: {ended:?}");
    })?;
    let cost = round_trip(handle, 0);
    runtime::handle::destroy(server.thread().handle())?;
    cost
}

/// A call that moves a handle; each round another one, made beforehand.
fn with_handle() -> Result<u64, Error> {
    let taker = runtime::startup()
        .handle(TAKER)
        .ok_or(Error::InvalidHandle)?;
    let given = Endpoint::create()?;
    let make = |_| given.duplicate(Rights::ALL).map(Endpoint::into_handle);
    let handles: Vec<Handle> = (0..ROUNDS + WARM_UP).map(make).collect::<Result<_, _>>()?;
    let mut handles = handles.iter();
    count(|_| {
        let handle = handles.next().ok_or(Error::InvalidHandle)?;
        match hand(taker, &[(*handle, Transfer::moved(Rights::ALL))])? {
            Label(1) => Ok(()),
            _ => Err(Error::InvalidArgument),
        }
    })
}

pub(crate) fn round_trip(server: Handle, bytes: usize) -> Result<u64, Error> {
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
