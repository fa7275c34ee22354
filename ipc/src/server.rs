//! The server side of every interface: what a handler sees of a call ([`Caller`]), the reply under
//! construction ([`Outgoing`]), and replies that come later ([`Deferred`]). The dispatch functions
//! come from the interfaces' declarations; the receive loop is the runtime library's.

use crate::client::Refusal;
use crate::codec;
use crate::message::{MAX_HANDLES, Transfer};
use crate::{Error, Handle, Label};
use core::marker::PhantomData;
use serde::Serialize;

/// The right to answer the call being handled: the runtime's is the kernel's implicit slot.
pub trait ReplySlot {
    /// Moves the right to a handle; [`crate::Operation::Stash`].
    fn stash(&mut self) -> Result<Handle, Error>;
}

/// The caller of the operation being handled.
pub struct Caller<'a> {
    badge: u64,
    slot: &'a mut dyn ReplySlot,
    stashed: bool,
}

impl<'a> Caller<'a> {
    /// The caller with this badge, whose call `slot` can answer.
    pub fn new(badge: u64, slot: &'a mut dyn ReplySlot) -> Caller<'a> {
        Caller {
            badge,
            slot,
            stashed: false,
        }
    }

    /// The badge of the handle that the caller called: the session's number.
    pub const fn badge(&self) -> u64 {
        self.badge
    }

    /// Keeps the right to answer for later: the handler stores the [`Deferred`] and returns
    /// [`Answer::Later`] with the other value.
    ///
    /// Errors: those of [`crate::Operation::Stash`]; the call can still be answered at once.
    pub fn stash<O: LaterOperation>(&mut self) -> Result<(Deferred<O>, Stashed), Error> {
        let handle = self.slot.stash()?;
        self.stashed = true;
        Ok((
            Deferred {
                handle,
                operation: PhantomData,
            },
            Stashed(()),
        ))
    }

    /// Whether the right to answer was stashed.
    pub const fn is_stashed(&self) -> bool {
        self.stashed
    }
}

/// Shows that a call's right to answer was stashed.
#[derive(Debug)]
pub struct Stashed(());

/// What the handler of a deferrable operation returns.
#[derive(Debug)]
pub enum Answer<R> {
    /// The result, now.
    Now(R),
    /// The result will come through the [`Deferred`] that was made with this.
    Later(Stashed),
}

/// An operation whose answer can come later. The types come from the interface's declaration.
pub trait LaterOperation {
    /// The reply, its handles included.
    type Reply;
    /// The interface's errors.
    type Error;

    /// Puts the answer into a message.
    fn answer(result: Result<Self::Reply, Self::Error>, outgoing: &mut Outgoing<'_>);
}

/// The kept right to answer one call of operation `O`. It is a handle: whoever drops it without an
/// answer leaks the handle and leaves the caller waiting.
#[must_use = "the caller waits until this is answered or its handle closed"]
pub struct Deferred<O> {
    handle: Handle,
    operation: PhantomData<fn() -> O>,
}

impl<O: LaterOperation> Deferred<O> {
    /// Puts the answer into a message, which is then to be sent to the Reply handle returned.
    pub fn answer(self, result: Result<O::Reply, O::Error>, outgoing: &mut Outgoing<'_>) -> Handle {
        O::answer(result, outgoing);
        self.handle
    }

    /// The Reply handle, to be closed: the caller then gets [`Error::Abandoned`].
    pub fn abandon(self) -> Handle {
        self.handle
    }
}

impl<O> core::fmt::Debug for Deferred<O> {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.handle.fmt(formatter)
    }
}

/// Handles received with a request. What the dispatch leaves here its caller closes.
#[derive(Clone, Copy, Debug)]
pub struct Received {
    handles: [Handle; MAX_HANDLES],
    count: usize,
}

impl Received {
    /// No handle.
    pub const NONE: Received = Received {
        handles: [Handle::NONE; MAX_HANDLES],
        count: 0,
    };

    /// The handles of a message; those beyond [`MAX_HANDLES`] do not exist.
    pub fn new(handles: &[Handle]) -> Received {
        let mut received = Received::NONE;
        for (slot, handle) in received.handles.iter_mut().zip(handles) {
            *slot = *handle;
            received.count += 1;
        }
        received
    }

    /// The handles that nobody took.
    pub fn remaining(&self) -> &[Handle] {
        self.handles.get(..self.count).unwrap_or(&[])
    }

    /// Takes all handles if there are exactly `N`.
    pub fn take<const N: usize>(&mut self) -> Option<[Handle; N]> {
        let taken = self.remaining().try_into().ok()?;
        self.count = 0;
        Some(taken)
    }

    /// The number of handles that nobody took.
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether no handle is left.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// A reply under construction in a buffer of [`crate::message::MAX_BYTES`].
#[derive(Debug)]
pub struct Outgoing<'a> {
    buffer: &'a mut [u8],
    label: Label,
    length: usize,
    handles: [(Handle, Transfer); MAX_HANDLES],
    count: usize,
}

impl<'a> Outgoing<'a> {
    /// An empty message that will be encoded into `buffer`.
    pub fn new(buffer: &'a mut [u8]) -> Outgoing<'a> {
        Outgoing {
            buffer,
            label: Refusal::ANSWERED,
            length: 0,
            handles: [(Handle::NONE, Transfer(0)); MAX_HANDLES],
            count: 0,
        }
    }

    /// The label.
    pub const fn label(&self) -> Label {
        self.label
    }

    /// The encoded bytes.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or(&[])
    }

    /// The handles to send.
    pub fn handles(&self) -> &[(Handle, Transfer)] {
        self.handles.get(..self.count).unwrap_or(&[])
    }

    /// Makes the message a refusal without bytes or handles.
    pub fn refuse(&mut self, refusal: Refusal) {
        self.label = refusal.label();
        self.length = 0;
        self.count = 0;
    }

    /// Makes the message the answer of an operation: the value and its handles, or the error. The
    /// handles beyond [`MAX_HANDLES`] are left out; no declaration has more.
    pub fn answer<R: Serialize, E: Serialize>(
        &mut self,
        result: &Result<R, E>,
        handles: &[(Handle, Transfer)],
    ) {
        match codec::encode(result, self.buffer) {
            Ok(length) => {
                self.label = Refusal::ANSWERED;
                self.length = length;
                self.count = 0;
                for (slot, handle) in self.handles.iter_mut().zip(handles) {
                    *slot = *handle;
                    self.count += 1;
                }
            }
            Err(_) => self.refuse(Refusal::ReplyTooLong),
        }
    }
}

/// What a dispatch left to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The reply is complete: send it.
    Reply,
    /// The right to answer was stashed: send nothing.
    Later,
}
