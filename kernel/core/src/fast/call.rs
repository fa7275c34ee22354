//! Calls and replies, by the fast path: to a server or a caller that waits; with one handle that moves; the
//! answer to a fault.

use super::{Arguments, Fast, Turn, armed, take_over, urgency_here};
use crate::cpu::Cpu;
use crate::endpoint::{Endpoint, Waiters};
use crate::kernel::Kernel;
use crate::platform::Platform;
use crate::rendezvous::{WORD_BYTES, copy_words};
use crate::sync::{Guard, Ordering};
use crate::thread::{Thread, Wait, WaitRef};
use core::hint::cold_path;
use ipc::message::{MAX_BYTES, RECEIVED_HANDLES_OFFSET, SEND_HANDLES_OFFSET, Transfer};
use ipc::{Handle, Label, Tag};

impl<P: Platform> Kernel<P> {
    /// Call, to a server that waits at the endpoint. The caller's registers hold the message's words.
    #[inline(always)]
    pub fn fast_call(
        &'static self,
        cpu: &'static Cpu,
        caller: &'static Thread,
        handle: Handle,
        tag: u64,
    ) -> Option<Fast> {
        let (tag, length) = plain(cpu, caller, tag)?;
        urgency_here(cpu, caller.terms())?;
        let handles = &caller.task().handles;
        let (endpoint, badge) = handles.look_up_target(handle)?;
        let (mut waiters, server) = waiting_server(endpoint.get())?;
        let turn = take_over(cpu, caller, server, server.terms(), || server.take())?;
        waiters.receivers.pop_known(server);
        copy_words(caller, server, length as usize);
        let results = self.pass_call(cpu, caller, server, tag, 0, badge);
        drop(waiters);
        Some(self.run(cpu, turn, server, results))
    }

    /// The same with one handle that moves. The caller's registers hold all arguments.
    #[inline(always)]
    pub fn fast_call_with_handle(
        &'static self,
        cpu: &'static Cpu,
        caller: &'static Thread,
    ) -> Option<Fast> {
        let registers = &caller.registers;
        let tag = Tag(registers.rsi.get());
        if tag.handles() != 1 || !tag.is_valid() {
            return None;
        }
        if !armed(cpu, caller) {
            return None;
        }
        let (_, transfer) = sent_handle(caller);
        if transfer.is_copy() {
            return None;
        }
        urgency_here(cpu, caller.terms())?;
        let handles = &caller.task().handles;
        let (endpoint, badge) = handles.look_up_target(Handle(registers.rdi.get()))?;
        let (mut waiters, server) = waiting_server(endpoint.get())?;
        let turn = take_over(cpu, caller, server, server.terms(), || server.take())?;
        waiters.receivers.pop_known(server);
        if !move_handle(caller, server) {
            cpu.running.store(caller.urgency(), Ordering::Relaxed);
            cpu.reschedule.store(true, Ordering::Relaxed);
            self.put_back(waiters, server);
            return None;
        }
        copy_words(caller, server, tag.length());
        let results = self.pass_call(cpu, caller, server, tag, 1, badge);
        drop(waiters);
        Some(self.run(cpu, turn, server, results))
    }

    /// Lets the caller wait for the reply, and the claimed server run: its results.
    #[inline(always)]
    fn pass_call(
        &'static self,
        cpu: &'static Cpu,
        caller: &'static Thread,
        server: &'static Thread,
        tag: Tag,
        handles: usize,
        badge: u64,
    ) -> Arguments {
        let generation = caller.next_generation_of_active();
        server.set_reply_to_call(WaitRef {
            thread: caller,
            generation,
        });
        // What it accepts, for the reply.
        caller.registers.rsi.set(tag.0);
        caller.set_deadline(caller.registers.r12.get());
        self.change(cpu, caller, Some(server));
        // From the next line on another CPU may have the caller.
        let results = received(caller, tag, handles, badge);
        caller.publish_as(Wait::Reply, generation);
        results
    }

    /// ReplyReceive, to a caller that waits for it, with nobody waiting at the endpoint. The server's
    /// registers hold the message's words.
    #[inline(always)]
    pub fn fast_reply_receive(
        &'static self,
        cpu: &'static Cpu,
        server: &'static Thread,
        handle: Handle,
        tag: u64,
    ) -> Option<Fast> {
        let (tag, length) = plain(cpu, server, tag)?;
        urgency_here(cpu, server.terms())?;
        let caller = server.reply_caller.get()?;
        let (endpoint, mut waiters) = source(server, handle)?;
        let call = server.reply_to_call()?;
        let claim = || caller.take_generation(call);
        let turn = take_over(cpu, server, caller, caller.terms(), claim)?;
        server.endpoint.set(Some(endpoint));
        copy_words(server, caller, length as usize);
        let results = self.pass_reply(cpu, server, caller, tag, &mut waiters);
        drop(waiters);
        Some(self.run(cpu, turn, caller, results))
    }

    /// ReplyReceive, to a thread that waits for the answer to its fault, which then goes on as it was; with
    /// nobody waiting at the endpoint. The registers hold the arguments.
    #[inline(always)]
    pub fn fast_resume(&'static self, cpu: &'static Cpu, server: &'static Thread) -> Option<Fast> {
        let registers = &server.registers;
        let (tag, _) = plain(cpu, server, registers.rsi.get())?;
        urgency_here(cpu, server.terms())?;
        let faulted = server.reply_caller.get()?;
        let (fault, true) = server.reply_to() else {
            return None;
        };
        let (endpoint, mut waiters) = source(server, Handle(registers.rdi.get()))?;
        let claim = || faulted.take_generation(fault);
        let turn = take_over(cpu, server, faulted, faulted.terms(), claim)?;
        server.endpoint.set(Some(endpoint));
        faulted.faulting.store(false, Ordering::Relaxed);
        self.pass_reply(cpu, server, faulted, tag, &mut waiters);
        drop(waiters);
        Some(match turn {
            Turn::Now => self.resume(cpu, faulted),
            Turn::Later => {
                cpu.counters.system_calls.add(1);
                Fast::QueueComplete(faulted)
            }
        })
    }

    /// Lets the server wait for the next message, and the claimed caller run: its results.
    #[inline(always)]
    fn pass_reply(
        &'static self,
        cpu: &'static Cpu,
        server: &'static Thread,
        caller: &'static Thread,
        tag: Tag,
        waiters: &mut Waiters,
    ) -> Arguments {
        server.reply_caller.set(None);
        // What it accepts, for the next message.
        server.registers.rsi.set(tag.0);
        server.set_deadline(server.registers.r12.get());
        let generation = server.next_generation_of_active();
        waiters.receivers.push_back(server);
        self.change(cpu, server, Some(caller));
        // From the next line on another CPU may have the server.
        let results = received(server, tag, 0, 0);
        server.publish_as(Wait::Receive, generation);
        results
    }
}

/// The server that waits longest at an endpoint that has nothing else to see to, locked from here on.
#[inline(always)]
pub(super) fn waiting_server(
    endpoint: &'static Endpoint,
) -> Option<(Guard<'static, Waiters>, &'static Thread)> {
    let waiters = endpoint.try_waiters()?;
    let server = waiters.receivers.front()?;
    if waiters.is_busy() {
        return None;
    }
    Some((waiters, server))
}

/// The endpoint that a server is to wait at, locked from here on: one with nothing to see to, and no bound
/// notification that could end the wait.
#[inline(always)]
fn source(
    server: &'static Thread,
    handle: Handle,
) -> Option<(&'static Endpoint, Guard<'static, Waiters>)> {
    if server.bound.get().is_some() {
        return None;
    }
    let endpoint = server.task().handles.look_up_source(handle)?.get();
    let waiters = endpoint.try_waiters()?;
    if waiters.is_busy() {
        return None;
    }
    Some((endpoint, waiters))
}

/// The tag of a message that goes from registers to registers or from buffer to buffer and nothing
/// else: without handles; of the numbers of handles accepted those that are common; with a deadline that the
/// timers need not be told of.
#[inline(always)]
pub(super) fn plain(cpu: &Cpu, thread: &Thread, tag: u64) -> Option<(Tag, u32)> {
    /// The upper half of a tag: what is not zero here has handles, or accepts neither none nor four.
    const UNUSUAL: u32 = (Tag::new(Label(0), 0, 7).accepting(3).0 >> 32) as u32;
    /// There: the length.
    const LENGTH: u32 = (Tag::new(Label(0), usize::MAX, 0).0 >> 32) as u32;
    // A branch each, not their results put together.
    let upper = (tag >> 32) as u32;
    if upper & UNUSUAL != 0 {
        cold_path();
        return None;
    }
    if !armed(cpu, thread) {
        return None;
    }
    let length = upper & LENGTH;
    if length > MAX_BYTES as u32 {
        cold_path();
        return None;
    }
    Some((Tag(tag), length))
}

/// A message's registers as its receiver gets them: the words of the sender's, of whose tag label and
/// length stay.
#[inline(always)]
pub(super) fn received(sender: &Thread, tag: Tag, handles: usize, badge: u64) -> Arguments {
    let tag = Tag::new(tag.label(), tag.length(), handles);
    let r = &sender.registers;
    [
        badge,
        tag.0,
        r.rdx.get(),
        r.r8.get(),
        r.r9.get(),
        r.r10.get(),
    ]
}

/// The first handle of a message that a thread sends, and how it goes with it.
#[inline(always)]
fn sent_handle(sender: &'static Thread) -> (Handle, Transfer) {
    const SENT: usize = SEND_HANDLES_OFFSET / WORD_BYTES;
    let word = |index: usize| sender.buffer()[index].load(Ordering::Relaxed);
    (Handle(word(SENT)), Transfer(word(SENT + 1)))
}

/// Moves the one handle of a message to the claimed receiver; false, and nothing is changed, if that is not
/// all that there is to do.
#[inline(always)]
fn move_handle(sender: &'static Thread, receiver: &'static Thread) -> bool {
    const RECEIVED: usize = RECEIVED_HANDLES_OFFSET / WORD_BYTES;
    let (handle, transfer) = sent_handle(sender);
    if transfer.is_copy() || Tag(receiver.registers.rsi.get()).accepted() == 0 {
        return false;
    }
    let to = &receiver.task().handles;
    let moved = sender
        .task()
        .handles
        .move_one(handle, transfer.rights(), to);
    if let Some(handle) = moved {
        receiver.buffer()[RECEIVED].store(handle.0, Ordering::Relaxed);
    }
    moved.is_some()
}
