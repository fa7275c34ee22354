//! The fast path: a call to a server that waits, and the reply to a caller that waits, where nothing
//! else is to be done. It is the slow path (`rendezvous`, `sched`) with everything left out that cannot
//! be the case here; whatever could be is looked at first, and then nothing is changed and the slow path
//! goes through all of it.
//!
//! Each way: the endpoint's lock and one claim are the only locked instructions, the address space the
//! only control register. The run queue is looked at without its lock: see `take_over`.

use crate::cpu::Cpu;
use crate::kernel::Kernel;
use crate::platform::Platform;
use crate::rendezvous::copy_words;
use crate::sync::{Ordering, after_locked};
use crate::thread::{Thread, Wait, WaitRef};
use crate::tunables::Tunable;
use ipc::message::{MAX_BYTES, NEVER};
use ipc::{Handle, Label, Operation, Tag};

/// What became of a system call.
#[derive(Clone, Copy)]
pub enum Fast {
    /// Nothing: it is the slow path's.
    Not,
    /// It is done, and this thread runs on this CPU, whose address space is loaded.
    Runs(&'static Thread),
    /// It is done but for [`Kernel::queue_instead`] with this thread, which could run but is not first.
    Queue(&'static Thread),
}

const CALL: u64 = Operation::Call as u64;
const REPLY_RECEIVE: u64 = Operation::ReplyReceive as u64;

impl<P: Platform> Kernel<P> {
    /// A system call of this CPU's thread, if it is a short one. Nothing here calls a function that
    /// returns, so that the compiler has every register and saves none.
    ///
    /// What the way in and the way out do for others is left out here: whoever wants this CPU's TLB
    /// flushed, its run queue looked at, or its epoch seen sends an interrupt too, or waits for the
    /// next way out as it would for a thread that makes no system call.
    #[inline(always)]
    pub fn fast(&'static self, cpu: &'static Cpu) -> Fast {
        let Some(thread) = cpu.current.get() else {
            return Fast::Not;
        };
        let attempt = match thread.registers.rax.get() {
            CALL => self.fast_call(cpu, thread),
            REPLY_RECEIVE => self.fast_reply_receive(cpu, thread),
            _ => None,
        };
        attempt.unwrap_or(Fast::Not)
    }

    /// Call, to a server that waits at the endpoint; `None`, and nothing is changed, if not all is as
    /// it has to be.
    #[inline(always)]
    fn fast_call(&'static self, cpu: &'static Cpu, caller: &'static Thread) -> Option<Fast> {
        let tag = plain(caller)?;
        if !self.is_plain(cpu, caller) {
            return None;
        }
        let handle = Handle(caller.registers.rdi.get());
        let (endpoint, badge) = caller.task().handles.look_up_target(handle)?;
        let mut waiters = endpoint.try_waiters()?;
        let server = waiters.receivers.front()?;
        if waiters.closed || !server.is_at_home(cpu.index) {
            return None;
        }
        let is_first = take_over(cpu, caller, server, || server.claim())?;
        waiters.receivers.pop_front();
        copy(caller, server, tag, badge);
        let generation = caller.next_generation();
        server.set_reply(WaitRef {
            thread: caller,
            generation,
        });
        caller.deadline.store(NEVER, Ordering::Relaxed);
        self.change(cpu, caller, server);
        caller.publish_as(Wait::Reply, generation);
        drop(waiters);
        Some(self.go(cpu, server, is_first))
    }

    /// ReplyReceive, to a caller that waits for it, with nobody waiting at the endpoint.
    #[inline(always)]
    fn fast_reply_receive(
        &'static self,
        cpu: &'static Cpu,
        server: &'static Thread,
    ) -> Option<Fast> {
        let tag = plain(server)?;
        let caller = server.reply_caller.get()?;
        if !self.is_plain(cpu, server)
            || !caller.is_at_home(cpu.index)
            || caller.faulting.load(Ordering::Relaxed)
            || server.bound.get().is_some()
        {
            return None;
        }
        let handle = Handle(server.registers.rdi.get());
        let endpoint = server.task().handles.look_up_source(handle)?;
        let mut waiters = endpoint.try_waiters()?;
        let deserted = waiters.senders.is_empty() && waiters.closed_badges.is_empty();
        if waiters.closed || !deserted {
            return None;
        }
        let call = server.reply_generation.load(Ordering::Relaxed);
        let is_first = take_over(cpu, server, caller, || caller.claim_generation(call))?;
        copy(server, caller, tag, 0);
        server.reply_caller.set(None);
        server.endpoint.set(Some(endpoint));
        server.deadline.store(NEVER, Ordering::Relaxed);
        let generation = server.next_generation();
        waiters.receivers.push_back(server);
        self.change(cpu, server, caller);
        server.publish_as(Wait::Receive, generation);
        drop(waiters);
        Some(self.go(cpu, caller, is_first))
    }

    /// Whether the running thread leaves nothing behind on this CPU but its address space, and nobody
    /// wants events recorded.
    #[inline(always)]
    fn is_plain(&self, cpu: &Cpu, thread: &Thread) -> bool {
        thread.is_at_home(cpu.index) && self.tunables.get(Tunable::TraceEnabled) == 0
    }

    /// Takes this CPU from one thread and gives it to another, which is claimed.
    #[inline(always)]
    fn change(&self, cpu: &Cpu, from: &'static Thread, to: &'static Thread) {
        self.charge(cpu, from);
        cpu.counters.system_calls.add(1);
        to.activate();
        cpu.current.set(Some(to));
    }

    /// Loads the address space of the thread that runs now, where it is first.
    #[inline(always)]
    fn go(&'static self, cpu: &'static Cpu, to: &'static Thread, is_first: bool) -> Fast {
        if !is_first {
            return Fast::Queue(to);
        }
        cpu.counters.switches.add(1);
        let switches = to.switches.load(Ordering::Relaxed);
        to.switches
            .store(switches.wrapping_add(1), Ordering::Relaxed);
        self.load_space(cpu, to.task());
        Fast::Runs(to)
    }

    /// Runs or queues the thread that a fast system call ended with, as the slow path does; which one runs
    /// is for [`Kernel::leave`] to say.
    pub fn queue_instead(&'static self, cpu: &'static Cpu, to: &'static Thread) {
        cpu.current.set(None);
        self.switch_or_queue(cpu, to);
    }
}

/// The tag of a message that goes from registers to registers or from buffer to buffer and nothing
/// else: without handles or a deadline; of the numbers of handles accepted those that are common.
#[inline(always)]
fn plain(thread: &Thread) -> Option<Tag> {
    /// What is not zero here has handles, or accepts neither none nor four.
    const UNUSUAL: u64 = Tag::new(Label(0), 0, 7).accepting(3).0;
    let tag = Tag(thread.registers.rsi.get());
    if tag.0 & UNUSUAL != 0 || thread.registers.r12.get() != NEVER {
        return None;
    }
    (tag.length() <= MAX_BYTES).then_some(tag)
}

/// Moves a message without handles to a claimed thread.
#[inline(always)]
fn copy(sender: &'static Thread, receiver: &'static Thread, tag: Tag, badge: u64) {
    copy_words(sender, receiver, tag.length());
    let (from, to) = (&sender.registers, &receiver.registers);
    to.rdx.set(from.rdx.get());
    to.r8.set(from.r8.get());
    to.r9.set(from.r9.get());
    to.r10.set(from.r10.get());
    to.rsi.set(Tag::new(tag.label(), tag.length(), 0).0);
    to.rdi.set(badge);
    to.rax.set(0);
}

/// Claims the thread that this CPU is to run next; `None` where somebody else has claimed it. True if
/// it can run at once: it is as it was before the claim, nobody more urgent is ready here, and if there
/// is an equal, the slice that makes room for it has begun.
///
/// Who queues a thread here publishes the queue's top, then looks at what the CPU runs, and kicks it if
/// that is no more urgent. Here it is the other way round, with the claim's locked instruction in
/// between: one of the two sees the other, and no urgent thread waits unseen.
#[inline(always)]
fn take_over(
    cpu: &Cpu,
    running: &Thread,
    next: &'static Thread,
    claim: impl FnOnce() -> bool,
) -> Option<bool> {
    let urgency = |thread: &Thread| u32::from(thread.priority()) + 1;
    let wanted = urgency(next);
    cpu.running.store(wanted, Ordering::Relaxed);
    if !claim() {
        cpu.running.store(urgency(running), Ordering::Relaxed);
        // Somebody may have been queued here as less urgent than what was announced.
        cpu.reschedule.store(true, Ordering::Relaxed);
        return None;
    }
    after_locked();
    // Changed before the claim, by who then saw it waiting and kicked nobody.
    let unchanged = urgency(next) == wanted
        && next.is_at_home(cpu.index)
        && !next.doomed.load(Ordering::Relaxed);
    let top = cpu.top();
    let slice_runs = cpu.slice_end.load(Ordering::Relaxed) != NEVER;
    Some(unchanged && (top < wanted || top == wanted && slice_runs))
}
