//! Messages: what they carry, whom they reach, handles that travel with them, badges.

use core::sync::atomic::Ordering;

use ipc::message::{
    MAX_BYTES, NEVER, RECEIVED_HANDLES_OFFSET, REGISTER_BYTES, SEND_HANDLES_OFFSET, Transfer,
};
use ipc::{Error, Label, Operation, Rights, Tag};

use crate::child::Thread;
use crate::failure::{Outcome, ensure, ensure_equal, ensure_error};
use crate::raw::{self, Board, call, value};
use crate::suite::{Owned, abandon, receive};
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[
    ("messages_of_every_length_arrive_whole", lengths),
    ("too_long_messages_are_refused", too_long),
    ("send_needs_a_waiting_receiver", send),
    ("handles_move_and_are_copied", transfer),
    ("handles_that_may_not_travel_stay", no_transfer),
    (
        "full_receiver_leaves_handles_with_the_sender",
        receiver_full,
    ),
    ("badges_tell_the_sender", badges),
    ("last_close_of_a_badge_is_told", closed_badge),
    ("kernel_messages_cannot_be_forged", forged),
    ("callers_are_served_in_turn", in_turn),
    ("nothing_beyond_the_length_travels", nothing_beyond),
];

/// The label that ends a server of these tests.
const STOP: u32 = 0x570b;
/// Board words: the endpoint; calls served; bytes of the buffer seen beyond the message.
const ENDPOINT: usize = 0;
const SERVED: usize = 1;
const BEYOND: usize = 2;

/// A server that answers every message with its complement, handles excepted, until STOP comes.
pub(crate) fn complement(board: &'static Board) {
    let endpoint = board.words[ENDPOINT].load(Ordering::Acquire);
    raw::buffer()[..MAX_BYTES].fill(0);
    let mut next = raw::call(Operation::Receive, &[endpoint]);
    while let Ok([_, tag, words @ ..]) = next {
        let tag = Tag(tag);
        let buffer = raw::buffer();
        let (message, beyond) = buffer[..MAX_BYTES].split_at_mut(tag.length().min(MAX_BYTES));
        // The first bytes travel in registers: what lies there is the server's own.
        let own = REGISTER_BYTES.saturating_sub(message.len());
        let seen = beyond[own..].iter().filter(|byte| **byte != 0).count();
        board.words[BEYOND].fetch_add(seen as u64, Ordering::Relaxed);
        message.iter_mut().for_each(|byte| *byte = !*byte);
        let answer = Tag::new(tag.label(), tag.length(), 0).0;
        let [one, two, three, four] = words.map(|word| !word);
        board.words[SERVED].fetch_add(1, Ordering::Release);
        if tag.label() == Label(STOP) {
            let _ = raw::call(Operation::Reply, &[0, answer]);
            return;
        }
        let values = [endpoint, answer, one, two, three, four];
        next = raw::call(Operation::ReplyReceive, &values);
        if next == Err(Error::NoReplyPending) {
            // It was sent, and wants no answer.
            next = raw::call(Operation::Receive, &[endpoint]);
        }
    }
}

/// Ends such a server.
pub(crate) fn stop(context: &Context, endpoint: u64, server: &Thread) -> Outcome {
    call(Operation::Call, &[endpoint, Tag::new(Label(STOP), 0, 0).0])?;
    server.finish(&context.suite)
}

/// A byte that depends on its position and the message.
fn pattern(position: usize, length: usize) -> u8 {
    (position * 7 + length * 13 + 1) as u8
}

fn lengths(context: &Context) -> Outcome {
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    let server = Thread::start(&context.suite, complement, &[endpoint.0])?;
    for length in [0, 1, 7, 8, 31, 32, 33, 40, 63, 64, 65, 1000, 3999, 4000] {
        let words = [3, 5, 7, 11_u64];
        for position in 32..length {
            raw::buffer()[position] = pattern(position, length);
        }
        let tag = Tag::new(Label(length as u32 + 1), length, 0).0;
        let [one, two, three, four] = words;
        let [_, tag, reply @ ..] =
            call(Operation::Call, &[endpoint.0, tag, one, two, three, four])?;
        let tag = Tag(tag);
        ensure_equal!(tag.label(), Label(length as u32 + 1), "label of the reply");
        ensure_equal!(tag.length(), length, "length of the reply");
        ensure!(!tag.is_kernel(), "the reply claims to be the kernel's");
        let whole = length.min(32) / 8;
        ensure_equal!(
            &reply[..whole],
            &words.map(|word| !word)[..whole],
            "words of a message of {length} bytes"
        );
        for position in 32..length {
            ensure_equal!(
                raw::buffer()[position],
                !pattern(position, length),
                "byte {position} of {length}"
            );
        }
    }
    stop(context, endpoint.0, &server)
}

/// What lies in the sender's buffer after its message does not reach the receiver.
fn nothing_beyond(context: &Context) -> Outcome {
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    let server = Thread::start(&context.suite, complement, &[endpoint.0])?;
    // Without bytes in the buffer, so that the server leaves nothing there itself.
    for length in [0, 1, 32] {
        raw::buffer()[..MAX_BYTES].fill(0x5a);
        call(
            Operation::Call,
            &[endpoint.0, Tag::new(Label(1), length, 0).0],
        )?;
    }
    stop(context, endpoint.0, &server)?;
    ensure_equal!(server.word(BEYOND), 0, "bytes that came after the message");
    Ok(())
}

/// Lengths and handle counts beyond the maxima are refused by every operation that sends.
fn too_long(context: &Context) -> Outcome {
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    let server = Thread::start(&context.suite, complement, &[endpoint.0])?;
    server.reach(&context.suite, 2)?;
    let soon = context.suite.after(500);
    for (length, handles) in [(MAX_BYTES + 1, 0), (4095, 0), (0, 5), (0, 7)] {
        let tag = Tag::new(Label(1), length, handles).0;
        for operation in [Operation::Call, Operation::Send] {
            ensure_error!(
                raw::until(operation, &[endpoint.0, tag], soon),
                InvalidArgument,
                "{operation:?} of {length} bytes and {handles} handles"
            );
        }
    }
    ensure_equal!(server.word(SERVED), 0, "messages that arrived all the same");
    for accepted in [5, 7] {
        let tag = Tag(0).accepting(accepted).0;
        ensure_error!(
            raw::until(Operation::Receive, &[endpoint.0, tag], 0),
            InvalidArgument,
            "receiving up to {accepted} handles"
        );
    }
    stop(context, endpoint.0, &server)
}

fn send(context: &Context) -> Outcome {
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    ensure_error!(
        call(Operation::Send, &[endpoint.0]),
        WouldBlock,
        "sending to nobody"
    );
    let server = Thread::start(&context.suite, take_one, &[endpoint.0])?;
    server.reach(&context.suite, 2)?;
    let tag = Tag::new(Label(9), 16, 0).0;
    call(Operation::Send, &[endpoint.0, tag, 41, 42])?;
    server.finish(&context.suite)?;
    ensure_equal!(server.word(2), 42, "second word of the message");
    ensure_equal!(
        server.word(3),
        Error::NoReplyPending.code(),
        "answering what cannot be answered"
    );
    Ok(())
}

/// Receives one message; words 1 and 2 get the message's, word 3 the status of answering it.
fn take_one(board: &'static Board) {
    let endpoint = board.words[ENDPOINT].load(Ordering::Acquire);
    if let Ok([_, _, one, two, ..]) = raw::call(Operation::Receive, &[endpoint]) {
        board.words[1].store(one, Ordering::Release);
        board.words[2].store(two, Ordering::Release);
    }
    let status = raw::call(Operation::Reply, &[0]).map_or_else(Error::code, |_| 0);
    board.words[3].store(status, Ordering::Release);
}

/// Puts handles to send into the own IPC buffer.
pub(crate) fn put_handles(handles: &[(u64, Transfer)]) {
    let slots = &mut raw::buffer()[SEND_HANDLES_OFFSET..];
    for (slot, (handle, transfer)) in slots.as_chunks_mut::<16>().0.iter_mut().zip(handles) {
        slot[..8].copy_from_slice(&handle.to_le_bytes());
        slot[8..].copy_from_slice(&transfer.0.to_le_bytes());
    }
}

/// The handle received at a position.
pub(crate) fn received_handle(position: usize) -> u64 {
    let slots = &raw::buffer()[RECEIVED_HANDLES_OFFSET..];
    u64::from_le_bytes(slots.as_chunks::<8>().0[position])
}

/// Calls the endpoint in word 0 with the handle in word 1, transferred as word 2 says. Word 3 gets
/// the status.
fn call_with_handle(board: &'static Board) {
    let [endpoint, handle, transfer] =
        [0, 1, 2].map(|index| board.words[index].load(Ordering::Acquire));
    put_handles(&[(handle, Transfer(transfer))]);
    let tag = Tag::new(Label(1), 0, 1).0;
    let status = call(Operation::Call, &[endpoint, tag]).map_or_else(Error::code, |_| 0);
    board.words[3].store(status, Ordering::Release);
}

/// Receives one handle from a thread of its own and says what arrived: rights of the handle, and
/// whether the sender's one is still good.
fn pass(context: &Context, handle: u64, transfer: Transfer) -> Outcome<(u64, u64)> {
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    let values = [endpoint.0, handle, transfer.0];
    let sender = Thread::start(&context.suite, call_with_handle, &values)?;
    let (_, tag, _) = receive(endpoint.0, context.suite.after(2000))?;
    ensure_equal!(tag.handles(), 1, "handles that arrived");
    let arrived = Owned(received_handle(0));
    call(Operation::Reply, &[0])?;
    sender.finish(&context.suite)?;
    ensure_equal!(sender.word(3), 0, "status of the call");
    let [_, rights, ..] = call(Operation::HandleInspect, &[arrived.0])?;
    Ok((arrived.0, rights))
}

fn transfer(context: &Context) -> Outcome {
    let all = Rights::ALL;
    let moved = value(Operation::NotificationCreate, &[])?;
    let few = Rights::SIGNAL | Rights::TRANSFER;
    let (arrived, rights) = pass(context, moved, Transfer::moved(few))?;
    ensure_equal!(rights, u64::from(few.0), "rights of a moved handle");
    ensure!(arrived != moved, "a moved handle keeps its value");
    ensure_error!(
        call(Operation::HandleInspect, &[moved]),
        InvalidHandle,
        "the sender's handle after moving it"
    );
    let copied = Owned::make(Operation::NotificationCreate, &[])?;
    let (_, rights) = pass(context, copied.0, Transfer::copied(Rights::WAIT))?;
    ensure_equal!(
        rights,
        u64::from(Rights::WAIT.0),
        "rights of a copied handle"
    );
    call(Operation::Signal, &[copied.0, 1])?;
    // More than there is cannot be given.
    let weak = value(
        Operation::Duplicate,
        &[copied.0, u64::from((Rights::SIGNAL | Rights::TRANSFER).0)],
    )?;
    let (_, rights) = pass(context, weak, Transfer::moved(all))?;
    ensure!(
        !Rights(rights as u32).contains(Rights::WAIT),
        "a right appeared on the way"
    );
    Ok(())
}

/// Receives on the endpoint in word 0, taking four handles; word 1 becomes 1 if something came.
fn take_handles(board: &'static Board) {
    let endpoint = board.words[ENDPOINT].load(Ordering::Acquire);
    if receive(endpoint, NEVER).is_ok() {
        board.words[SERVED].store(1, Ordering::Release);
    }
}

/// A handle without TRANSFER cannot move, one without DUPLICATE cannot be copied, one not held
/// neither.
fn no_transfer(context: &Context) -> Outcome {
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    let server = Thread::start(&context.suite, take_handles, &[endpoint.0])?;
    server.reach(&context.suite, 2)?;
    let notification = Owned::make(Operation::NotificationCreate, &[])?;
    let weak =
        |rights: Rights| Owned::make(Operation::Duplicate, &[notification.0, u64::from(rights.0)]);
    let (fixed, unique) = (weak(Rights::DUPLICATE)?, weak(Rights::TRANSFER)?);
    let tag = Tag::new(Label(1), 0, 1).0;
    for (handle, transfer, expected) in [
        (fixed.0, Transfer::moved(Rights::ALL), Error::MissingRights),
        (
            unique.0,
            Transfer::copied(Rights::ALL),
            Error::MissingRights,
        ),
        (u64::MAX, Transfer::moved(Rights::ALL), Error::InvalidHandle),
        (0, Transfer::copied(Rights::ALL), Error::InvalidHandle),
    ] {
        for operation in [Operation::Call, Operation::Send] {
            put_handles(&[(handle, transfer)]);
            let soon = context.suite.after(500);
            let found = raw::until(operation, &[endpoint.0, tag], soon).map(|_| ());
            ensure_equal!(
                found,
                Err(expected),
                "{operation:?} with a handle that stays"
            );
        }
    }
    for handle in [fixed.0, unique.0] {
        call(Operation::HandleInspect, &[handle])?;
    }
    ensure_equal!(server.word(SERVED), 0, "messages that arrived all the same");
    call(Operation::Send, &[endpoint.0])?;
    server.finish(&context.suite)
}

/// A receiver that takes no handles makes the call fail and the handle stay.
fn receiver_full(context: &Context) -> Outcome {
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    // This server accepts none.
    let server = Thread::start(&context.suite, complement, &[endpoint.0])?;
    server.reach(&context.suite, 2)?;
    let notification = Owned::make(Operation::NotificationCreate, &[])?;
    let tag = Tag::new(Label(1), 0, 1).0;
    for operation in [Operation::Call, Operation::Send] {
        put_handles(&[(notification.0, Transfer::moved(Rights::ALL))]);
        let soon = context.suite.after(500);
        ensure_error!(
            raw::until(operation, &[endpoint.0, tag], soon),
            ReceiverFull,
            "{operation:?} with a handle to a receiver that takes none"
        );
    }
    call(Operation::Signal, &[notification.0, 1])?;
    ensure_equal!(server.word(SERVED), 0, "messages that arrived all the same");
    stop(context, endpoint.0, &server)
}

/// Calls the endpoint in word 0; word 3 gets the status.
pub(crate) fn just_call(board: &'static Board) {
    let endpoint = board.words[ENDPOINT].load(Ordering::Acquire);
    let status = call(Operation::Call, &[endpoint]).map_or_else(Error::code, |_| 0);
    board.words[3].store(status, Ordering::Release);
}

fn badges(context: &Context) -> Outcome {
    let suite = &context.suite;
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    for badge in [1, 0x1234_5678_9abc_def0, u64::MAX] {
        let minted = Owned::make(Operation::BadgeMint, &[endpoint.0, badge])?;
        let copy = Owned::make(Operation::Duplicate, &[minted.0, u64::from(Rights::SEND.0)])?;
        for handle in [minted.0, copy.0] {
            let caller = Thread::start(suite, just_call, &[handle])?;
            let (found, tag, _) = receive(endpoint.0, suite.after(2000))?;
            ensure!(!tag.is_kernel(), "a kernel message came instead");
            call(Operation::Reply, &[0])?;
            caller.finish(suite)?;
            ensure_equal!(found, badge, "badge of a caller");
        }
        drop((minted, copy));
        let (found, ..) = receive(endpoint.0, suite.after(2000))?;
        ensure_equal!(found, badge, "badge that was closed");
    }
    let caller = Thread::start(suite, just_call, &[endpoint.0])?;
    let (found, ..) = receive(endpoint.0, suite.after(2000))?;
    call(Operation::Reply, &[0])?;
    caller.finish(suite)?;
    ensure_equal!(found, 0, "badge of a caller without one");
    ensure_error!(
        call(Operation::BadgeMint, &[endpoint.0, 0]),
        InvalidArgument,
        "minting badge 0"
    );
    Ok(())
}

fn closed_badge(context: &Context) -> Outcome {
    let suite = &context.suite;
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    let minted = Owned::make(Operation::BadgeMint, &[endpoint.0, 42])?;
    let copy = Owned::make(Operation::Duplicate, &[minted.0, u64::from(Rights::ALL.0)])?;
    drop(minted);
    ensure_error!(
        receive(endpoint.0, suite.after(20)),
        TimedOut,
        "while a copy is still held"
    );
    drop(copy);
    let (badge, tag, _) = receive(endpoint.0, suite.after(2000))?;
    ensure!(
        badge == 42 && tag.is_kernel() && tag.label() == Label::CLOSED,
        "badge {badge} and {tag:?} came instead"
    );
    Ok(())
}

/// A task that sends with a kernel message's label and mark is seen to be a task.
fn forged(context: &Context) -> Outcome {
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    for label in [Label::SIGNAL, Label::CLOSED, Label::FAULT] {
        let caller = Thread::start(&context.suite, forge, &[endpoint.0, u64::from(label.0)])?;
        let (_, tag, _) = receive(endpoint.0, context.suite.after(2000))?;
        ensure!(!tag.is_kernel(), "{label:?} passed for the kernel's");
        call(Operation::Reply, &[0])?;
        caller.finish(&context.suite)?;
    }
    Ok(())
}

/// Calls the endpoint in word 0 with the label in word 1 and the kernel's mark.
fn forge(board: &'static Board) {
    let [endpoint, label] = [0, 1].map(|index| board.words[index].load(Ordering::Acquire));
    let _ = call(Operation::Call, &[endpoint, label | Tag::KERNEL]);
}

/// Callers of one priority are served in the order in which they came.
fn in_turn(context: &Context) -> Outcome {
    let suite = &context.suite;
    let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
    let mut callers = alloc::vec::Vec::new();
    for number in 1..=8 {
        let minted = Owned::make(Operation::BadgeMint, &[endpoint.0, number])?;
        let caller = Thread::start(suite, just_call, &[minted.0])?;
        caller.reach(suite, 2)?;
        callers.push((minted, caller));
    }
    for number in 1..=8 {
        let (badge, ..) = raw::until(Operation::Receive, &[endpoint.0], suite.after(2000))
            .map(|[badge, tag, ..]| (badge, tag))?;
        abandon();
        ensure_equal!(badge, number, "turn {number}");
    }
    for (_, caller) in &callers {
        caller.finish(suite)?;
        ensure_equal!(caller.word(3), Error::Abandoned.code(), "status of a call");
    }
    Ok(())
}
