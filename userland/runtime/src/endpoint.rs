//! Endpoints and raw messages: what the stubs, the server loop and init's own loop are made of.

use crate::buffer::{Buffer, Bytes};
use crate::handle::owned;
use crate::syscall::{Registers, invoke};
use ipc::client::{Deadline, Refusal, Request, TransportError};
use ipc::codec::CodecError;
use ipc::info::FaultMessage;
use ipc::message::{
    MAX_BYTES, MAX_HANDLES, NEVER, RECEIVED_HANDLES_OFFSET, REGISTER_BYTES, SEND_HANDLES_OFFSET,
    Transfer,
};
use ipc::server::{Outgoing, Received};
use ipc::{Error, Handle, Label, Operation, Tag};

owned! {
    /// An endpoint.
    Endpoint
}

impl Endpoint {
    /// Makes an endpoint. Errors: those of [`Operation::EndpointCreate`].
    pub fn create() -> Result<Endpoint, Error> {
        let [handle, ..] = invoke(Operation::EndpointCreate, [0; 6], NEVER)?;
        Ok(Endpoint::from_handle(Handle(handle)))
    }

    /// Makes a send right with a badge, which is not 0. Errors: those of [`Operation::BadgeMint`].
    pub fn mint(&self, badge: u64) -> Result<Endpoint, Error> {
        mint(self.handle(), badge).map(Endpoint::from_handle)
    }
}

/// Makes a send right with a badge, which is not 0. Errors: those of [`Operation::BadgeMint`].
pub fn mint(endpoint: Handle, badge: u64) -> Result<Handle, Error> {
    let [handle, ..] = invoke(Operation::BadgeMint, [endpoint.0, badge, 0, 0, 0, 0], NEVER)?;
    Ok(Handle(handle))
}

/// What a receive brought.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// A call or a message without reply.
    Message(Message),
    /// Bits of the notification bound to the thread.
    Signal(u64),
    /// The last handle with this badge was closed.
    Closed(u64),
    /// A thread faulted; it waits for a reply.
    Fault {
        /// The badge of the task's fault endpoint.
        badge: u64,
        /// What happened.
        fault: FaultMessage,
    },
}

/// A message received. Its bytes are in the buffer that was given to the receive.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// The badge of the handle that was called.
    pub badge: u64,
    /// The label.
    pub label: Label,
    /// Number of bytes.
    pub length: usize,
    /// The handles.
    pub handles: Received,
}

/// Makes a call: `fill` writes the request into the IPC buffer, `read` sees the reply there.
///
/// Errors: those of [`Operation::Call`], those of `fill`, and Busy where one of the two calls again.
pub(crate) fn call<R>(
    request: Request<'_>,
    fill: impl FnOnce(&mut [u8]) -> Result<usize, CodecError>,
    read: impl FnOnce(Label, &[u8], &[Handle]) -> R,
) -> Result<R, TransportError> {
    let mut buffer = Buffer::take()?;
    let (body, _) = buffer.bytes().split_at_mut(MAX_BYTES);
    let length = fill(body)?;
    let tag = put_handles(buffer.bytes(), request.label, length, request.handles)
        .accepting(request.accept);
    let arguments = registers(request.endpoint.0, tag, buffer.bytes());
    let results = invoke(Operation::Call, arguments, request.deadline.0)?;
    let arrived = take_message(&results, buffer.bytes());
    let body = buffer.bytes().get(..arrived.length).unwrap_or(&[]);
    Ok(read(arrived.label, body, arrived.handles.remaining()))
}

/// Gives a message to a waiting receiver, without a reply. Errors: those of [`Operation::Send`];
/// InvalidArgument for more than [`MAX_BYTES`].
pub fn send(endpoint: Handle, label: Label, bytes: &[u8]) -> Result<(), Error> {
    let mut buffer = Buffer::take()?;
    put_bytes(buffer.bytes(), bytes)?;
    let arguments = registers(endpoint.0, Tag::new(label, bytes.len(), 0), buffer.bytes());
    invoke(Operation::Send, arguments, NEVER).map(drop)
}

/// Waits for a message, a kernel message or a signal. The message's bytes are copied to `into`, of
/// at least [`MAX_BYTES`]. Errors: those of [`Operation::Receive`].
pub fn receive(endpoint: Handle, deadline: Deadline, into: &mut [u8]) -> Result<Event, Error> {
    let mut buffer = Buffer::take()?;
    let tag = Tag::new(Label(0), 0, 0).accepting(MAX_HANDLES);
    let results = invoke(
        Operation::Receive,
        [endpoint.0, tag.0, 0, 0, 0, 0],
        deadline.0,
    )?;
    Ok(take_event(&results, buffer.bytes(), into))
}

/// Sets bits of a notification, then waits as [`receive`] does: the thread that waits for the bits runs
/// without this one being run in between.
///
/// Errors: those of [`Operation::SignalReceive`].
pub fn signal_receive(
    (notification, bits): (Handle, u64),
    endpoint: Handle,
    deadline: Deadline,
    into: &mut [u8],
) -> Result<Event, Error> {
    let mut buffer = Buffer::take()?;
    let tag = Tag::new(Label(0), 0, 0).accepting(MAX_HANDLES);
    let arguments = [endpoint.0, tag.0, notification.0, bits, 0, 0];
    let results = invoke(Operation::SignalReceive, arguments, deadline.0)?;
    Ok(take_event(&results, buffer.bytes(), into))
}

/// Answers the last call (`to` [`Handle::NONE`]) or a stashed one. Errors: those of
/// [`Operation::Reply`].
///
/// Handles that were to move stay when the caller is gone, and that is no error; so they are closed
/// here, which does nothing to handles that did move.
pub fn reply(to: Handle, outgoing: &Outgoing<'_>) -> Result<(), Error> {
    let mut buffer = Buffer::take()?;
    let tag = put_outgoing(buffer.bytes(), outgoing)?;
    let arguments = registers(to.0, tag, buffer.bytes());
    let result = invoke(Operation::Reply, arguments, NEVER).map(drop);
    drop(buffer);
    close_moved(outgoing);
    result
}

/// Answers the last call and waits for the next event.
///
/// Errors: those of [`Operation::ReplyReceive`].
pub fn reply_receive(
    endpoint: Handle,
    outgoing: &Outgoing<'_>,
    deadline: Deadline,
    into: &mut [u8],
) -> Result<Event, Error> {
    let mut buffer = Buffer::take()?;
    let tag = put_outgoing(buffer.bytes(), outgoing)?.accepting(MAX_HANDLES);
    let arguments = registers(endpoint.0, tag, buffer.bytes());
    let results = invoke(Operation::ReplyReceive, arguments, deadline.0)?;
    Ok(take_event(&results, buffer.bytes(), into))
}

/// Answers the last call with a refusal. Errors: those of [`Operation::Reply`].
pub fn refuse(refusal: Refusal) -> Result<(), Error> {
    let tag = Tag::new(refusal.label(), 0, 0);
    invoke(Operation::Reply, [0, tag.0, 0, 0, 0, 0], NEVER).map(drop)
}

/// Answers the last call, which was a fault message, or a stashed one: the thread goes on where it
/// stopped. Errors: those of [`Operation::Reply`].
pub fn resume(to: Handle) -> Result<(), Error> {
    invoke(
        Operation::Reply,
        [to.0, Tag::new(Label(0), 0, 0).0, 0, 0, 0, 0],
        NEVER,
    )
    .map(drop)
}

/// Moves the right to answer the last call to a handle. Errors: those of [`Operation::Stash`].
pub fn stash() -> Result<Handle, Error> {
    invoke(Operation::Stash, [0; 6], NEVER).map(|results| Handle(results[0]))
}

/// Closes what [`reply`] and [`reply_receive`] were to move, in case that it did not.
pub(crate) fn close_moved(outgoing: &Outgoing<'_>) {
    for (handle, transfer) in outgoing.handles() {
        if !transfer.is_copy() {
            crate::handle::close(*handle);
        }
    }
}

/// The implicit right to answer the call received last.
pub(crate) struct LastCall;

impl ipc::server::ReplySlot for LastCall {
    fn stash(&mut self) -> Result<Handle, Error> {
        stash()
    }
}

fn put_outgoing(buffer: &mut Bytes, outgoing: &Outgoing<'_>) -> Result<Tag, Error> {
    put_bytes(buffer, outgoing.bytes())?;
    Ok(put_handles(
        buffer,
        outgoing.label(),
        outgoing.bytes().len(),
        outgoing.handles(),
    ))
}

fn put_bytes(buffer: &mut Bytes, bytes: &[u8]) -> Result<(), Error> {
    let body = buffer.get_mut(..MAX_BYTES).ok_or(Error::InvalidArgument)?;
    body.get_mut(..bytes.len())
        .ok_or(Error::InvalidArgument)?
        .copy_from_slice(bytes);
    Ok(())
}

/// Writes the handles to send and makes the tag. Handles beyond [`MAX_HANDLES`] make a tag that the
/// kernel refuses.
fn put_handles(
    buffer: &mut Bytes,
    label: Label,
    length: usize,
    handles: &[(Handle, Transfer)],
) -> Tag {
    let slots = buffer.get_mut(SEND_HANDLES_OFFSET..).unwrap_or(&mut []);
    let (slots, _) = slots.as_chunks_mut::<16>();
    for (slot, (handle, transfer)) in slots.iter_mut().zip(handles).take(MAX_HANDLES) {
        let (low, high) = slot.split_at_mut(8);
        low.copy_from_slice(&handle.0.to_le_bytes());
        high.copy_from_slice(&transfer.0.to_le_bytes());
    }
    Tag::new(label, length, handles.len())
}

/// The registers of a sending operation: the message's first bytes come from the buffer.
fn registers(handle: u64, tag: Tag, buffer: &Bytes) -> Registers {
    let mut registers = [handle, tag.0, 0, 0, 0, 0];
    let (words, _) = buffer.as_chunks::<8>();
    for (register, word) in registers.iter_mut().skip(2).zip(words) {
        *register = u64::from_le_bytes(*word);
    }
    registers
}

/// Puts the message's first bytes from the registers in front of the others in the buffer.
fn take_message(results: &Registers, buffer: &mut Bytes) -> Message {
    let [badge, tag, words @ ..] = *results;
    let tag = Tag(tag);
    let head = buffer.get_mut(..REGISTER_BYTES).unwrap_or(&mut []);
    for (slot, word) in head.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *slot = word.to_le_bytes();
    }
    let mut handles = [Handle::NONE; MAX_HANDLES];
    let slots = buffer.get(RECEIVED_HANDLES_OFFSET..).unwrap_or(&[]);
    for (handle, slot) in handles.iter_mut().zip(slots.as_chunks::<8>().0) {
        *handle = Handle(u64::from_le_bytes(*slot));
    }
    let received = handles.get(..tag.handles()).unwrap_or(&handles);
    Message {
        badge,
        label: tag.label(),
        length: tag.length().min(MAX_BYTES),
        handles: Received::new(received),
    }
}

/// Turns the results of a receive into an event, and copies the bytes of a message to `into`.
fn take_event(results: &Registers, buffer: &mut Bytes, into: &mut [u8]) -> Event {
    let is_kernel = Tag(results[1]).is_kernel();
    let mut message = take_message(results, buffer);
    if is_kernel {
        return match message.label {
            Label::SIGNAL => Event::Signal(results[2]),
            Label::CLOSED => Event::Closed(message.badge),
            _ => Event::Fault {
                badge: message.badge,
                fault: fault_message(buffer),
            },
        };
    }
    message.length = message.length.min(into.len());
    if let (Some(to), Some(from)) = (into.get_mut(..message.length), buffer.get(..message.length)) {
        to.copy_from_slice(from);
    }
    Event::Message(message)
}

fn fault_message(buffer: &Bytes) -> FaultMessage {
    let mut words = [0; FaultMessage::WORDS];
    for (word, bytes) in words.iter_mut().zip(buffer.as_chunks::<8>().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    FaultMessage::from_words(&words)
}

#[cfg(test)]
mod tests {
    use super::{Event, fault_message, put_handles, registers, take_event, take_message};
    use ipc::message::{BUFFER_BYTES, MAX_BYTES, RECEIVED_HANDLES_OFFSET, Transfer};
    use ipc::{Handle, Label, Rights, Tag};

    #[test]
    fn a_message_is_put_together_from_registers_and_buffer() {
        let mut sent = [0; BUFFER_BYTES];
        for (position, byte) in sent.iter_mut().enumerate().take(MAX_BYTES) {
            *byte = position as u8;
        }
        let handles = [(Handle(5), Transfer::moved(Rights::SEND))];
        let tag = put_handles(&mut sent, Label(9), 100, &handles);
        assert_eq!(sent[4000..4008], 5u64.to_le_bytes());
        let mut registers = registers(1, tag, &sent);
        assert_eq!(registers[2], u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7]));

        // The kernel: first bytes in registers only, the handle renamed, a badge for the handle.
        let mut received = [0xff; BUFFER_BYTES];
        received[32..100].copy_from_slice(&sent[32..100]);
        received[RECEIVED_HANDLES_OFFSET..][..8].copy_from_slice(&77u64.to_le_bytes());
        registers[0] = 3;
        let mut into = [0; MAX_BYTES];
        let Event::Message(message) = take_event(&registers, &mut received, &mut into) else {
            panic!("a message");
        };
        assert_eq!(
            (message.badge, message.label, message.length),
            (3, Label(9), 100)
        );
        assert_eq!(message.handles.remaining(), [Handle(77)]);
        assert_eq!(into[..100], sent[..100]);
        assert!(
            into[100..].iter().all(|byte| *byte == 0),
            "and not a byte more"
        );
    }

    #[test]
    fn kernel_messages_are_told_from_a_clients_that_uses_their_labels() {
        let mut buffer = [0; BUFFER_BYTES];
        let tag = Tag::new(Label::SIGNAL, 8, 0);
        let mut event = |tag: u64| take_event(&[4, tag, 6, 0, 0, 0], &mut buffer, &mut [0; 64]);
        assert!(matches!(event(tag.0 | Tag::KERNEL), Event::Signal(6)));
        assert!(matches!(event(tag.0), Event::Message(_)));
        let closed = Tag::new(Label::CLOSED, 0, 0).0 | Tag::KERNEL;
        assert!(matches!(event(closed), Event::Closed(4)));
        let fault = Tag::new(Label::FAULT, 112, 0).0 | Tag::KERNEL;
        let Event::Fault { badge: 4, fault } = event(fault) else {
            panic!("a fault")
        };
        assert_eq!(fault.vector, 6);
    }

    #[test]
    fn a_fault_message_is_read_in_order() {
        let mut buffer = [0; BUFFER_BYTES];
        for (number, slot) in buffer.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            *slot = (number as u64).to_le_bytes();
        }
        let fault = fault_message(&buffer);
        assert_eq!((fault.vector, fault.error_code, fault.rdi), (0, 1, 13));
    }

    #[test]
    fn no_tag_makes_a_message_longer_than_the_buffer() {
        let mut buffer = [0; BUFFER_BYTES];
        let message = take_message(&[0, u64::MAX, 0, 0, 0, 0], &mut buffer);
        assert_eq!(message.length, MAX_BYTES);
        assert_eq!(message.handles.len(), 4);
    }
}
