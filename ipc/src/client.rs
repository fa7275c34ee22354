//! The client side of every interface: what a stub needs of its surroundings ([`Transport`]), how a
//! call can fail, and the one function that all stubs call. The stubs themselves come from the
//! interfaces' declarations.

use crate::codec::{self, CodecError};
use crate::message::{MAX_HANDLES, NEVER, Transfer};
use crate::{Error, Handle, Label};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// When a wait ends without success: nanoseconds of the monotonic clock since boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(pub u64);

impl Deadline {
    /// Waits for ever.
    pub const NEVER: Deadline = Deadline(NEVER);
}

/// One call as the stub hands it to the transport.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The endpoint to call.
    pub endpoint: Handle,
    /// The operation.
    pub label: Label,
    /// When to give up.
    pub deadline: Deadline,
    /// The handles to send, at most [`MAX_HANDLES`].
    pub handles: &'a [(Handle, Transfer)],
    /// The number of handles accepted in the reply, at most [`MAX_HANDLES`].
    pub accept: usize,
}

/// Carries calls: the runtime library by system calls, a test by a fake.
pub trait Transport {
    /// Makes one call and waits for its reply. `fill` writes the request's bytes into a buffer of
    /// [`crate::message::MAX_BYTES`] and returns their number; `read` sees the reply's label, bytes
    /// and handles. Neither may call through this transport.
    ///
    /// Errors: those of [`crate::Operation::Call`]; the codec's where `fill` returns one, and then
    /// nothing was sent.
    fn call<R>(
        &self,
        request: Request<'_>,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, CodecError>,
        read: impl FnOnce(Label, &[u8], &[Handle]) -> R,
    ) -> Result<R, TransportError>;

    /// Closes a handle that came with a reply that is not what the interface promises.
    fn close(&self, handle: Handle);
}

impl<T: Transport + ?Sized> Transport for &T {
    fn call<R>(
        &self,
        request: Request<'_>,
        fill: impl FnOnce(&mut [u8]) -> Result<usize, CodecError>,
        read: impl FnOnce(Label, &[u8], &[Handle]) -> R,
    ) -> Result<R, TransportError> {
        (**self).call(request, fill, read)
    }

    fn close(&self, handle: Handle) {
        (**self).close(handle);
    }
}

/// Why a message did not make its way there and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportError {
    /// The kernel's answer.
    Kernel(Error),
    /// The request could not be encoded; nothing was sent.
    Codec(CodecError),
}

impl From<Error> for TransportError {
    fn from(error: Error) -> Self {
        TransportError::Kernel(error)
    }
}

impl From<CodecError> for TransportError {
    fn from(error: CodecError) -> Self {
        TransportError::Codec(error)
    }
}

/// Why a server refused a request before its operation began. Travels as the reply's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u32)]
pub enum Refusal {
    /// The interface has no such operation: probably another interface's endpoint.
    UnknownOperation = 1,
    /// The bytes do not decode as the operation's arguments.
    Malformed = 2,
    /// The number of handles is not the operation's.
    WrongHandles = 3,
    /// The server has no session of this badge.
    UnknownSession = 4,
    /// The server's answer did not fit a message: a defect of the server.
    ReplyTooLong = 5,
}

impl Refusal {
    /// Every refusal, in the order of the labels.
    pub const ALL: [Refusal; 5] = [
        Refusal::UnknownOperation,
        Refusal::Malformed,
        Refusal::WrongHandles,
        Refusal::UnknownSession,
        Refusal::ReplyTooLong,
    ];

    /// The label of a reply that carries an operation's own result or error.
    pub const ANSWERED: Label = Label(0);

    /// The reply's label.
    pub const fn label(self) -> Label {
        Label(self as u32)
    }

    /// The refusal of a reply's label; `None` for [`Refusal::ANSWERED`] and unknown labels.
    pub fn from_label(label: Label) -> Option<Refusal> {
        Refusal::ALL
            .into_iter()
            .find(|refusal| refusal.label() == label)
    }

    /// A sentence for a person.
    pub const fn text(self) -> &'static str {
        match self {
            Refusal::UnknownOperation => "the service has no such operation",
            Refusal::Malformed => "the service found the request malformed",
            Refusal::WrongHandles => "the request carried a wrong number of handles",
            Refusal::UnknownSession => "the service knows no such session",
            Refusal::ReplyTooLong => "the service's answer did not fit a message",
        }
    }
}

/// Why an operation failed, `E` being the interface's own errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError<E> {
    /// The message did not come through, or no reply came. [`Error::NotDelivered`] and
    /// [`Error::Closed`] promise that nothing was done; [`Error::Abandoned`] does not.
    Transport(Error),
    /// The request could not be encoded; nothing was sent.
    Request(CodecError),
    /// The server refused the request before the operation began.
    Refused(Refusal),
    /// The reply is not one of the interface's: a defect of the server.
    Reply,
    /// The operation's own error.
    Service(E),
}

impl<E> CallError<E> {
    /// Whether the server that held this session is gone, so that connecting again is the remedy.
    pub const fn is_disconnected(&self) -> bool {
        matches!(
            self,
            CallError::Transport(
                Error::NotDelivered | Error::Abandoned | Error::Closed | Error::Destroyed
            )
        )
    }
}

impl<E> From<TransportError> for CallError<E> {
    fn from(error: TransportError) -> Self {
        match error {
            TransportError::Kernel(error) => CallError::Transport(error),
            TransportError::Codec(error) => CallError::Request(error),
        }
    }
}

impl<E: core::fmt::Display> core::fmt::Display for CallError<E> {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            CallError::Transport(error) => error.fmt(formatter),
            CallError::Request(error) => error.fmt(formatter),
            CallError::Refused(refusal) => formatter.write_str(refusal.text()),
            CallError::Reply => formatter.write_str("the service's reply is malformed"),
            CallError::Service(error) => error.fmt(formatter),
        }
    }
}

impl<E: core::fmt::Debug + core::fmt::Display> core::error::Error for CallError<E> {}

/// What [`call`] gives: the reply's value and its `N` handles, or the error.
pub type CallResult<R, E, const N: usize> = Result<(R, [Handle; N]), CallError<E>>;

/// Encodes the arguments, calls, and decodes a reply that carries exactly `N` handles on success.
/// Handles of a reply that is not as promised are closed.
pub fn call<T, A, R, E, const N: usize>(
    transport: &T,
    mut request: Request<'_>,
    arguments: &A,
) -> CallResult<R, E, N>
where
    T: Transport + ?Sized,
    A: Serialize,
    R: DeserializeOwned,
    E: DeserializeOwned,
{
    request.accept = N;
    let mut stray = ([Handle::NONE; MAX_HANDLES], 0);
    let result = transport.call(
        request,
        |buffer| codec::encode(arguments, buffer),
        |label, bytes, handles| {
            let result = read_reply(label, bytes, handles);
            if result.is_err() {
                for (slot, handle) in stray.0.iter_mut().zip(handles) {
                    *slot = *handle;
                    stray.1 += 1;
                }
            }
            result
        },
    )?;
    for handle in stray.0.into_iter().take(stray.1) {
        transport.close(handle);
    }
    result
}

fn read_reply<R, E, const N: usize>(
    label: Label,
    bytes: &[u8],
    handles: &[Handle],
) -> CallResult<R, E, N>
where
    R: DeserializeOwned,
    E: DeserializeOwned,
{
    if let Some(refusal) = Refusal::from_label(label) {
        return Err(CallError::Refused(refusal));
    }
    if label != Refusal::ANSWERED {
        return Err(CallError::Reply);
    }
    match codec::decode::<Result<R, E>>(bytes) {
        Ok(Ok(value)) => match handles.try_into() {
            Ok(handles) => Ok((value, handles)),
            Err(_) => Err(CallError::Reply),
        },
        Ok(Err(error)) if handles.is_empty() => Err(CallError::Service(error)),
        _ => Err(CallError::Reply),
    }
}
