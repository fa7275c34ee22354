//! Messages that fit the registers: the shortest way to call and to serve. What the stubs are made of is
//! [`crate::endpoint`]'s, which carries messages of any length.

use crate::block::{self, BUFFER_TAKEN};
use crate::syscall::invoke;
use ipc::client::Deadline;
use ipc::{Error, Handle, Operation, Tag};

/// The first bytes of a message, as words.
pub type Words = [u64; 4];

/// A message received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// The badge of the handle that was called; of a signal the bits.
    pub badge: u64,
    /// Label, length and number of handles.
    pub tag: Tag,
    /// The first 32 bytes.
    pub words: Words,
}

/// Makes a call. Of a message longer than the words the rest is what the IPC buffer holds.
///
/// Errors: those of [`Operation::Call`]; Busy where the buffer is in use. Cost: the system call and
/// five instructions.
pub fn call(
    endpoint: Handle,
    tag: Tag,
    words: Words,
    deadline: Deadline,
) -> Result<Arrival, Error> {
    enter(Operation::Call, endpoint, tag, words, deadline)
}

/// Waits for a message. `accept` is how many handles it may bring.
///
/// Errors: those of [`Operation::Receive`]; Busy where the buffer is in use.
pub fn receive(endpoint: Handle, accept: usize, deadline: Deadline) -> Result<Arrival, Error> {
    let tag = Tag(0).accepting(accept);
    enter(Operation::Receive, endpoint, tag, [0; 4], deadline)
}

/// Answers the last call and waits for the next message; `tag` also says how many handles it may bring.
///
/// Errors: those of [`Operation::ReplyReceive`]; Busy where the buffer is in use.
pub fn reply_receive(
    endpoint: Handle,
    tag: Tag,
    words: Words,
    deadline: Deadline,
) -> Result<Arrival, Error> {
    enter(Operation::ReplyReceive, endpoint, tag, words, deadline)
}

fn enter(
    operation: Operation,
    endpoint: Handle,
    tag: Tag,
    words: Words,
    deadline: Deadline,
) -> Result<Arrival, Error> {
    // The kernel writes the buffer, to which its user may have a reference.
    if block::read(BUFFER_TAKEN) != 0 {
        return Err(Error::Busy);
    }
    let [a, b, c, d] = words;
    let results = invoke(operation, [endpoint.0, tag.0, a, b, c, d], deadline.0)?;
    let [badge, tag, words @ ..] = results;
    Ok(Arrival {
        badge,
        tag: Tag(tag),
        words,
    })
}
