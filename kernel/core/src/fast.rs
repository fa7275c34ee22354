//! The fast path: the system calls that most of the time goes to, where nothing else is to be done - a
//! call to a server that waits, the reply to a caller that waits, a signal, a wait, a yield - and the
//! cheapest look at a handle. It is the slow path (`rendezvous`, `notification`, `sched`) with everything
//! left out that cannot be the case here; whatever could be is looked at first, and then nothing is
//! changed and the slow path goes through all of it.
//!
//! A call and a reply: the endpoint's lock and one claim are the only locked instructions, the address
//! space the only control register. The run queue is looked at without its lock: see `take_over`.

use crate::cpu::{Cpu, RunQueueGuard};
use crate::endpoint::Waiters;
use crate::kernel::Kernel;
use crate::mutant::{self, Mutant};
use crate::notification::Signals;
use crate::platform::Platform;
use crate::rendezvous::{FAULT_TAG, REGISTER_WORDS, WORD_BYTES, copy_words, fault_words};
use crate::sync::{Guard, Ordering, after_locked};
use crate::thread::{Thread, Wait, WaitRef};
use core::hint::cold_path;
#[cfg(test)]
use ipc::Operation;
use ipc::message::{MAX_BYTES, NEVER, RECEIVED_HANDLES_OFFSET, SEND_HANDLES_OFFSET, Transfer};
use ipc::{Handle, Label, ObjectKind, Rights, Tag};

/// Arguments or results 0 to 5 of a system call: rdi, rsi, rdx, r8, r9, r10.
pub type Arguments = [u64; 6];

/// The results of a system call that has none.
pub const NO_RESULTS: Arguments = [0; 6];

/// What became of a system call.
#[derive(Clone, Copy)]
pub enum Fast {
    /// It is done with success and these results, and the thread goes on.
    Returns(Arguments),
    /// It is done, and this thread runs on this CPU, whose address space is loaded. Its own system call
    /// ends with success and these results.
    Runs(&'static Thread, Arguments),
    /// It is done but for [`Kernel::queue_instead`] with this thread and the results of its system call:
    /// it could run but is not first.
    Queue(&'static Thread, Arguments),
    /// The same with a thread whose registers are complete.
    QueueComplete(&'static Thread),
    /// It is done, and this thread, whose registers are complete, runs on this CPU, whose address space is
    /// loaded.
    Resumes(&'static Thread),
    /// It is done with success and these results but for the way out of the kernel, [`Kernel::leave`].
    Leaves(Arguments),
    /// The same, but for making ready this thread, whose registers are complete.
    Wakes(&'static Thread, Arguments),
}

/// To whom a signal goes.
pub enum Signalled {
    /// Nobody waits: it is done.
    Nobody,
    /// To a thread that is more urgent than the one that runs: the notification, the wait, the terms that
    /// were seen.
    Up(Guard<'static, Signals>, WaitRef, u32),
    /// To one that is not.
    Down(Guard<'static, Signals>, WaitRef, u32),
}

/// Each of these functions is a system call of this CPU's thread, whose registers hold the deadline and
/// what a system call keeps; the arguments come separately. `None`, and nothing is changed, if not all is
/// as it has to be for the short way. They call no function that returns, so that the compiler has every
/// register and saves none.
///
/// What the way in and the way out do for others is left out here: whoever wants this CPU's TLB
/// flushed, its run queue looked at, or its epoch seen sends an interrupt too, or waits for the
/// next way out as it would for a thread that makes no system call.
impl<P: Platform> Kernel<P> {
    /// A system call by its number, for the tests of the core; the mechanism has a table.
    #[cfg(test)]
    pub(crate) fn fast(
        &'static self,
        cpu: &'static Cpu,
        thread: &'static Thread,
        number: u64,
        arguments: Arguments,
    ) -> Option<Fast> {
        match Operation::from_number(number)? {
            Operation::Call => {
                put_words(thread, arguments);
                let short = self.fast_call(cpu, thread, Handle(arguments[0]), arguments[1]);
                short.or_else(|| {
                    put(thread, arguments);
                    self.fast_call_with_handle(cpu, thread)
                })
            }
            Operation::ReplyReceive => {
                put_words(thread, arguments);
                let handle = Handle(arguments[0]);
                let short = self.fast_reply_receive(cpu, thread, handle, arguments[1]);
                short.or_else(|| {
                    put(thread, arguments);
                    self.fast_resume(cpu, thread)
                })
            }
            Operation::Signal => {
                let (handle, bits) = (Handle(arguments[0]), arguments[1]);
                match self.fast_signal(cpu, thread, handle, bits)? {
                    Signalled::Nobody => Some(Fast::Returns(NO_RESULTS)),
                    Signalled::Up(signals, waiter, terms) => {
                        self.signal_up(cpu, thread, bits, signals, waiter, terms)
                    }
                    Signalled::Down(signals, waiter, terms) => {
                        self.signal_down(cpu, thread, bits, signals, waiter, terms)
                    }
                }
            }
            Operation::Wait => self.fast_wait(cpu, thread, Handle(arguments[0])),
            Operation::Yield => self.fast_yield(cpu, thread),
            Operation::HandleInspect => self.fast_inspect(cpu, thread, Handle(arguments[0])),
            _ => None,
        }
    }

    /// Call, to a server that waits at the endpoint. The caller's registers hold the message's words.
    #[inline(always)]
    pub fn fast_call(
        &'static self,
        cpu: &'static Cpu,
        caller: &'static Thread,
        handle: Handle,
        tag: u64,
    ) -> Option<Fast> {
        let (tag, length) = plain(caller, tag)?;
        urgency_here(cpu, caller.terms())?;
        let handles = &caller.task().handles;
        let (endpoint, badge) = handles.look_up_target(handle)?;
        let mut waiters = endpoint.get().try_waiters()?;
        let server = waiters.receivers.front()?;
        if waiters.is_busy() {
            return None;
        }
        let turn = take_over(cpu, caller, server, server.terms(), || server.take())?;
        waiters.receivers.pop_known(server);
        copy_words(caller, server, length as usize);
        let generation = caller.next_generation_of_active();
        server.set_reply_to_call(WaitRef {
            thread: caller,
            generation,
        });
        // What it accepts, for the reply.
        caller.registers.rsi.set(tag.0);
        caller.deadline.store(NEVER, Ordering::Relaxed);
        self.change(cpu, caller, server);
        // From the next line on another CPU may have the caller.
        let results = received(caller, tag, badge);
        caller.publish_as(Wait::Reply, generation);
        drop(waiters);
        Some(match turn {
            Turn::Now => self.run(cpu, server, results),
            Turn::Later => Fast::Queue(server, results),
        })
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
        if tag.handles() != 1 || !tag.is_valid() || registers.r12.get() != NEVER {
            return None;
        }
        urgency_here(cpu, caller.terms())?;
        let handles = &caller.task().handles;
        let (endpoint, badge) = handles.look_up_target(Handle(registers.rdi.get()))?;
        let mut waiters = endpoint.get().try_waiters()?;
        let server = waiters.receivers.front()?;
        if waiters.is_busy() {
            return None;
        }
        let turn = take_over(cpu, caller, server, server.terms(), || server.take())?;
        waiters.receivers.pop_known(server);
        if !move_handle(caller, server) {
            cpu.running.store(caller.urgency(), Ordering::Relaxed);
            cpu.reschedule.store(true, Ordering::Relaxed);
            self.put_back(waiters, server);
            return None;
        }
        copy_words(caller, server, tag.length());
        let generation = caller.next_generation_of_active();
        server.set_reply_to_call(WaitRef {
            thread: caller,
            generation,
        });
        caller.deadline.store(NEVER, Ordering::Relaxed);
        self.change(cpu, caller, server);
        let mut results = received(caller, tag, badge);
        results[1] = Tag::new(tag.label(), tag.length(), 1).0;
        caller.publish_as(Wait::Reply, generation);
        drop(waiters);
        Some(match turn {
            Turn::Now => self.run(cpu, server, results),
            Turn::Later => Fast::Queue(server, results),
        })
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
        let (tag, length) = plain(server, tag)?;
        urgency_here(cpu, server.terms())?;
        let caller = server.reply_caller.get()?;
        if server.bound.get().is_some() {
            return None;
        }
        let handles = &server.task().handles;
        let endpoint = handles.look_up_source(handle)?.get();
        let mut waiters = endpoint.try_waiters()?;
        if waiters.is_busy() {
            return None;
        }
        let call = server.reply_to_call()?;
        let claim = || caller.take_generation(call);
        let turn = take_over(cpu, server, caller, caller.terms(), claim)?;
        server.endpoint.set(Some(endpoint));
        copy_words(server, caller, length as usize);
        let results = self.pass_reply(cpu, server, caller, tag, &mut waiters);
        drop(waiters);
        Some(match turn {
            Turn::Now => self.run(cpu, caller, results),
            Turn::Later => Fast::Queue(caller, results),
        })
    }

    /// ReplyReceive, to a thread that waits for the answer to its fault, which then goes on as it was; with
    /// nobody waiting at the endpoint. The registers hold the arguments.
    #[inline(always)]
    pub fn fast_resume(&'static self, cpu: &'static Cpu, server: &'static Thread) -> Option<Fast> {
        let registers = &server.registers;
        let (tag, _) = plain(server, registers.rsi.get())?;
        urgency_here(cpu, server.terms())?;
        let faulted = server.reply_caller.get()?;
        let (fault, true) = server.reply_to() else {
            return None;
        };
        if server.bound.get().is_some() {
            return None;
        }
        let handles = &server.task().handles;
        let endpoint = handles.look_up_source(Handle(registers.rdi.get()))?.get();
        let mut waiters = endpoint.try_waiters()?;
        if waiters.is_busy() {
            return None;
        }
        let claim = || faulted.take_generation(fault);
        let turn = take_over(cpu, server, faulted, faulted.terms(), claim)?;
        server.endpoint.set(Some(endpoint));
        faulted.faulting.store(false, Ordering::Relaxed);
        self.pass_reply(cpu, server, faulted, tag, &mut waiters);
        drop(waiters);
        Some(match turn {
            Turn::Now => self.resume(cpu, faulted),
            Turn::Later => Fast::QueueComplete(faulted),
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
        server.deadline.store(NEVER, Ordering::Relaxed);
        let generation = server.next_generation_of_active();
        waiters.receivers.push_back(server);
        self.change(cpu, server, caller);
        // From the next line on another CPU may have the server.
        let results = received(server, tag, 0);
        server.publish_as(Wait::Receive, generation);
        results
    }

    /// Signal: done where nobody waits; else it says who does, a thread that is at home on this CPU.
    #[inline(always)]
    pub fn fast_signal(
        &'static self,
        cpu: &'static Cpu,
        thread: &'static Thread,
        handle: Handle,
        bits: u64,
    ) -> Option<Signalled> {
        let handles = &thread.task().handles;
        let notification = handles.look_up_notification(handle, Rights::SIGNAL)?;
        let mut signals = notification.get().try_signals()?;
        let Some(waiter) = signals.waiter() else {
            // With a waiter it is not over.
            if signals.is_watched() || signals.is_over() || cpu.is_slow() {
                return None;
            }
            signals.add(bits);
            cpu.counters.system_calls.add(1);
            return Some(Signalled::Nobody);
        };
        if signals.bits() | bits == 0 {
            return None;
        }
        let running = urgency_here(cpu, thread.terms())?;
        let terms = waiter.thread.terms();
        let wanted = urgency_here(cpu, terms)?;
        if wanted > running {
            Some(Signalled::Up(signals, waiter, terms))
        } else {
            Some(Signalled::Down(signals, waiter, terms))
        }
    }

    /// Signals a thread with these terms that is more urgent than the one that runs, and runs it.
    #[inline(always)]
    pub fn signal_up(
        &'static self,
        cpu: &'static Cpu,
        thread: &'static Thread,
        bits: u64,
        mut signals: Guard<'static, Signals>,
        waiter: WaitRef,
        terms: u32,
    ) -> Option<Fast> {
        // Whoever queues a thread here, or takes one out to queue it anew, holds this lock: what runs next
        // changes under it, and the thread that ran is queued by the terms that it has under it.
        let queue = cpu.try_run_queue()?;
        let running = urgency_here(cpu, thread.terms())?;
        let wanted = Thread::urgency_of(terms);
        if queue.top() >= running {
            // Of a slice that makes room for somebody the rest is to be remembered.
            if queue.top() >= wanted || cpu.slice_end.load(Ordering::Relaxed) != NEVER {
                return None;
            }
        }
        let woken = waiter.thread;
        let results = take_waiter(cpu, &mut signals, waiter, bits)?;
        // Changed before the claim, by who then saw it waiting and kicked nobody.
        if woken.terms() != terms {
            finish(woken, results);
            cpu.counters.system_calls.add(1);
            return Some(Fast::Wakes(woken, NO_RESULTS));
        }
        thread.registers.rax.set(0);
        self.change(cpu, thread, woken);
        cpu.counters.handovers.add(1);
        self.preempt_for(cpu, thread, running, queue, woken, wanted);
        Some(Fast::Runs(woken, results))
    }

    /// Runs a thread that is more urgent than the one that ran, which keeps nothing on this CPU any more.
    #[inline(always)]
    fn preempt_for(
        &'static self,
        cpu: &'static Cpu,
        thread: &'static Thread,
        running: u32,
        mut queue: RunQueueGuard<'_>,
        woken: &'static Thread,
        wanted: u32,
    ) {
        cpu.running.store(wanted, Ordering::Relaxed);
        cpu.slice_end.store(NEVER, Ordering::Relaxed);
        // From here on another CPU may take it.
        queue.push_as(thread, running, true);
        drop(queue);
        woken.count_switch();
        self.load_space_at_home(cpu, woken.task());
    }

    /// An interrupt that a more urgent thread waits for than the one that runs, whose registers are saved.
    #[inline(always)]
    pub fn fast_interrupt(
        &'static self,
        cpu: &'static Cpu,
        thread: &'static Thread,
        vector: u8,
    ) -> Option<Fast> {
        let interrupt = self.vectors.edge(vector)?;
        let notification = interrupt.notification()?;
        let mut signals = notification.try_signals()?;
        let waiter = signals.waiter()?;
        let bits = interrupt.bits();
        let woken = waiter.thread;
        let terms = woken.terms();
        let wanted = urgency_here(cpu, terms)?;
        let queue = cpu.try_run_queue()?;
        let running = urgency_here(cpu, thread.terms())?;
        // What a preempted thread has of a slice is the slow path's to remember.
        let in_order = wanted > running && queue.top() < running;
        if !in_order || signals.bits() | bits == 0 || mutant::active(Mutant::EndOfInterrupt) {
            return None;
        }
        let results = take_waiter(cpu, &mut signals, waiter, bits)?;
        self.platform.end_of_interrupt();
        cpu.counters.interrupts.add(1);
        if woken.terms() != terms {
            finish(woken, results);
            return Some(Fast::Wakes(woken, NO_RESULTS));
        }
        self.charge(cpu, thread);
        cpu.current.set(Some(woken));
        cpu.counters.switches.add(1);
        self.preempt_for(cpu, thread, running, queue, woken, wanted);
        Some(Fast::Runs(woken, results))
    }

    /// A fault, of a thread whose registers are saved, to a server that waits for it.
    #[inline(always)]
    pub fn fast_fault(
        &'static self,
        cpu: &'static Cpu,
        thread: &'static Thread,
        vector: u8,
        address: u64,
    ) -> Option<Fast> {
        urgency_here(cpu, thread.terms())?;
        let (endpoint, badge) = thread.task().fault_target()?;
        let mut waiters = endpoint.get().try_waiters()?;
        let server = waiters.receivers.front()?;
        if waiters.is_busy() {
            return None;
        }
        let turn = take_over(cpu, thread, server, server.terms(), || server.take())?;
        waiters.receivers.pop_known(server);
        let words = fault_words(thread, vector, address);
        for (word, place) in words.iter().zip(server.buffer()).skip(REGISTER_WORDS) {
            place.store(*word, Ordering::Relaxed);
        }
        let results = [badge, FAULT_TAG, words[0], words[1], words[2], words[3]];
        let generation = thread.next_generation_of_active();
        thread.faulting.store(true, Ordering::Relaxed);
        server.set_reply(WaitRef { thread, generation });
        thread.deadline.store(NEVER, Ordering::Relaxed);
        self.charge(cpu, thread);
        cpu.current.set(Some(server));
        thread.publish_as(Wait::Reply, generation);
        drop(waiters);
        if let Turn::Later = turn {
            return Some(Fast::Queue(server, results));
        }
        cpu.counters.switches.add(1);
        server.count_switch();
        self.load_space_at_home(cpu, server.task());
        Some(Fast::Runs(server, results))
    }

    /// Signals a thread with these terms that is not more urgent than the one that runs: it is queued
    /// here, where no other CPU would run it at once.
    #[inline(always)]
    pub fn signal_down(
        &'static self,
        cpu: &'static Cpu,
        thread: &'static Thread,
        bits: u64,
        mut signals: Guard<'static, Signals>,
        waiter: WaitRef,
        terms: u32,
    ) -> Option<Fast> {
        let woken = waiter.thread;
        if self.cpus().len() > 1 && self.would_run_elsewhere(woken) {
            return None;
        }
        let mut queue = cpu.try_run_queue()?;
        let [bits, ..] = take_waiter(cpu, &mut signals, waiter, bits)?;
        woken.registers.rax.set(0);
        woken.registers.rdi.set(bits);
        // Changed before the claim, by who then saw it waiting and kicked nobody.
        if woken.terms() != terms {
            cpu.counters.system_calls.add(1);
            return Some(Fast::Wakes(woken, NO_RESULTS));
        }
        let wanted = Thread::urgency_of(terms);
        queue.push_as(woken, wanted, false);
        drop(queue);
        cpu.counters.system_calls.add(1);
        // Changed since it was looked at, it may be less urgent as well.
        if wanted >= thread.urgency() && !self.is_slice_running(cpu) {
            return Some(Fast::Leaves(NO_RESULTS));
        }
        Some(Fast::Returns(NO_RESULTS))
    }

    /// Whether another CPU does something less urgent, or nothing, that a thread may run on.
    #[inline(always)]
    fn would_run_elsewhere(&self, thread: &Thread) -> bool {
        let urgency = thread.urgency();
        // No closure: it would be a call that returns.
        for other in self.cpus() {
            if other.running.load(Ordering::Relaxed) < urgency
                && other.online.load(Ordering::Relaxed)
                && thread.may_run_on(other.index)
            {
                return true;
            }
        }
        false
    }

    /// Wait: for bits that are there, or where another thread of this CPU can run meanwhile.
    #[inline(always)]
    pub fn fast_wait(
        &'static self,
        cpu: &'static Cpu,
        thread: &'static Thread,
        handle: Handle,
    ) -> Option<Fast> {
        if thread.registers.r12.get() != NEVER {
            return None;
        }
        urgency_here(cpu, thread.terms())?;
        let handles = &thread.task().handles;
        let notification = handles.look_up_notification(handle, Rights::WAIT)?;
        let notification = notification.get();
        let mut signals = notification.try_signals()?;
        if signals.is_taken() {
            return None;
        }
        if signals.bits() != 0 {
            cpu.counters.system_calls.add(1);
            return Some(Fast::Returns([signals.take(), 0, 0, 0, 0, 0]));
        }
        let next = self.take_only(cpu)?;
        let generation = thread.next_generation_of_active();
        signals.expect(WaitRef { thread, generation });
        thread.notification.set(Some(notification));
        thread.deadline.store(NEVER, Ordering::Relaxed);
        self.change(cpu, thread, next);
        thread.publish_as(Wait::Notification, generation);
        drop(signals);
        Some(self.resume(cpu, next))
    }

    /// Yield, to the only other thread of the same priority while a slice runs, or to nobody.
    #[inline(always)]
    pub fn fast_yield(&'static self, cpu: &'static Cpu, thread: &'static Thread) -> Option<Fast> {
        let mut queue = cpu.try_run_queue()?;
        let running = urgency_here(cpu, thread.terms())?;
        if queue.top() < running {
            cpu.counters.system_calls.add(1);
            return Some(Fast::Returns(NO_RESULTS));
        }
        let (next, urgency) = queue.single()?;
        let slice_runs = cpu.slice_end.load(Ordering::Relaxed) != NEVER;
        if urgency != running || !slice_runs || next.terms() != thread.terms() {
            return None;
        }
        thread.registers.rax.set(0);
        self.change(cpu, thread, next);
        queue.replace_single(thread);
        drop(queue);
        next.slice_left.store(0, Ordering::Relaxed);
        Some(self.resume(cpu, next))
    }

    /// HandleInspect, of a task.
    #[inline(always)]
    pub fn fast_inspect(
        &'static self,
        cpu: &'static Cpu,
        thread: &'static Thread,
        handle: Handle,
    ) -> Option<Fast> {
        let handles = &thread.task().handles;
        let rights = handles.look_up_task_rights(handle)?;
        if cpu.is_slow() {
            return None;
        }
        cpu.counters.system_calls.add(1);
        let kind = ObjectKind::Task as u64;
        Some(Fast::Returns([kind, u64::from(rights.0), 0, 0, 0, 0]))
    }

    /// Takes the most urgent thread out of this CPU's queue, if no other is as urgent and it is at home here;
    /// it is the one to run from then on.
    #[inline(always)]
    fn take_only(&self, cpu: &Cpu) -> Option<&'static Thread> {
        let mut queue = cpu.try_run_queue()?;
        let (next, urgency) = queue.single()?;
        // So urgent and at home here, in one look.
        let at_home = cpu.fast_terms.load(Ordering::Relaxed);
        if next.terms() != at_home.wrapping_add(urgency) {
            return None;
        }
        queue.pop_single();
        // Under the lock, as `enqueue` reads it.
        cpu.running.store(urgency, Ordering::Relaxed);
        next.slice_left.store(0, Ordering::Relaxed);
        cpu.slice_end.store(NEVER, Ordering::Relaxed);
        Some(next)
    }

    /// Whether the slice of the running thread, which has an equal now, runs; or has begun without the
    /// timer having to be set, because it is set for the end of an earlier slice and most of a slice away.
    #[inline(always)]
    fn is_slice_running(&self, cpu: &Cpu) -> bool {
        if cpu.slice_end.load(Ordering::Relaxed) != NEVER {
            return true;
        }
        if self.platform.ticks() >= cpu.reuse_timer_until.load(Ordering::Relaxed) {
            cpu.reschedule.store(true, Ordering::Relaxed);
            return false;
        }
        let end = cpu.programmed.load(Ordering::Relaxed);
        cpu.slice_end.store(end, Ordering::Relaxed);
        true
    }

    /// Takes this CPU from one thread, which keeps nothing on it, and gives it to another, which is
    /// active.
    #[inline(always)]
    fn change(&self, cpu: &Cpu, from: &'static Thread, to: &'static Thread) {
        self.charge(cpu, from);
        self.platform.save_bases(&from.registers);
        cpu.current.set(Some(to));
    }

    /// Lets a thread run whose system call ends with these results.
    #[inline(always)]
    fn run(&'static self, cpu: &'static Cpu, to: &'static Thread, results: Arguments) -> Fast {
        self.come(cpu, to);
        Fast::Runs(to, results)
    }

    /// Lets a thread run whose registers are complete.
    #[inline(always)]
    fn resume(&'static self, cpu: &'static Cpu, to: &'static Thread) -> Fast {
        self.come(cpu, to);
        Fast::Resumes(to)
    }

    /// Counts the switch and loads the address space of the thread that runs now.
    #[inline(always)]
    fn come(&'static self, cpu: &'static Cpu, to: &'static Thread) {
        cpu.counters.handovers.add(1);
        to.count_switch();
        self.load_space_at_home(cpu, to.task());
    }

    /// Runs or queues the thread that the fast path ended with and whose registers are complete, as the slow
    /// path does; which one runs is for [`Kernel::leave`] to say.
    pub fn queue_instead(&'static self, cpu: &'static Cpu, to: &'static Thread) {
        cpu.counters.system_calls.add(1);
        cpu.current.set(None);
        self.switch_or_queue(cpu, to);
    }

    /// Makes ready the thread that a fast signal ended with.
    pub fn wake(&'static self, cpu: &'static Cpu, to: &'static Thread) {
        // It may have been announced as the one that runs.
        let running = cpu.current.get().map_or(0, Thread::urgency);
        cpu.running.store(running, Ordering::Relaxed);
        self.ready(cpu, to);
        cpu.reschedule.store(true, Ordering::Relaxed);
    }
}

/// Puts success and results into the registers of a thread that does not run.
pub fn finish(thread: &Thread, results: Arguments) {
    put(thread, results);
    thread.registers.rax.set(0);
}

/// Puts a message's words into a thread's registers.
#[inline(always)]
pub fn put_words(thread: &Thread, arguments: Arguments) {
    let r = &thread.registers;
    let [_, _, words @ ..] = arguments;
    for (place, value) in [&r.rdx, &r.r8, &r.r9, &r.r10].iter().zip(words) {
        place.set(value);
    }
}

/// Puts arguments or results into a thread's registers.
pub fn put(thread: &Thread, values: Arguments) {
    let r = &thread.registers;
    let places = [&r.rdi, &r.rsi, &r.rdx, &r.r8, &r.r9, &r.r10];
    for (place, value) in places.iter().zip(values) {
        place.set(value);
    }
}

/// How urgent a thread is, if nothing but its address space has to be loaded for it to run on this CPU
/// and nothing but that stays behind when it goes, and this CPU may take the fast path.
#[inline(always)]
fn urgency_here(cpu: &Cpu, terms: u32) -> Option<u32> {
    Thread::urgency_at_home(terms, cpu.fast_terms.load(Ordering::Relaxed))
}

/// The tag of a message that goes from registers to registers or from buffer to buffer and nothing
/// else: without handles or a deadline; of the numbers of handles accepted those that are common.
#[inline(always)]
fn plain(thread: &Thread, tag: u64) -> Option<(Tag, u32)> {
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
    if thread.registers.r12.get() != NEVER {
        cold_path();
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
fn received(sender: &Thread, tag: Tag, badge: u64) -> Arguments {
    let tag = Tag::new(tag.label(), tag.length(), 0);
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

/// Moves the one handle of a message to the claimed receiver; false, and nothing is changed, if that is not
/// all that there is to do.
#[inline(always)]
fn move_handle(sender: &'static Thread, receiver: &'static Thread) -> bool {
    const SENT: usize = SEND_HANDLES_OFFSET / WORD_BYTES;
    const RECEIVED: usize = RECEIVED_HANDLES_OFFSET / WORD_BYTES;
    let word = |index: usize| sender.buffer()[index].load(Ordering::Relaxed);
    let (handle, transfer) = (Handle(word(SENT)), Transfer(word(SENT + 1)));
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

/// Claims the thread that waits for bits, and takes them: the results of its Wait. `None`, and nothing is
/// changed, if somebody else has claimed it.
#[inline(always)]
fn take_waiter(cpu: &Cpu, signals: &mut Signals, waiter: WaitRef, bits: u64) -> Option<Arguments> {
    if !waiter.thread.take_generation(waiter.generation) {
        return None;
    }
    after_locked();
    signals.waited();
    cpu.counters.wakes.add(1);
    waiter.thread.count_wake();
    Some([signals.take() | bits, 0, 0, 0, 0, 0])
}

/// Whether a thread that was taken runs at once.
enum Turn {
    /// It does.
    Now,
    /// Somebody else may have to run first.
    Later,
}

/// Takes the waiting thread that this CPU is to run next; `None` where somebody else has claimed it, or
/// it is not at home here, by the terms that the caller has seen. It can run at once where it is as it was before the claim, nobody more urgent is
/// ready here, and if there is an equal, the slice that makes room for it has begun.
///
/// Who queues a thread here publishes the queue's top, then looks at what the CPU runs, and kicks it if
/// that is no more urgent. Here it is the other way round, with the claim's locked instruction in
/// between: one of the two sees the other, and no urgent thread waits unseen.
#[inline(always)]
fn take_over(
    cpu: &Cpu,
    running: &Thread,
    next: &'static Thread,
    terms: u32,
    claim: impl FnOnce() -> bool,
) -> Option<Turn> {
    let wanted = urgency_here(cpu, terms)?;
    cpu.running.store(wanted, Ordering::Relaxed);
    if !claim() {
        cpu.running.store(running.urgency(), Ordering::Relaxed);
        // Somebody may have been queued here as less urgent than what was announced.
        cpu.reschedule.store(true, Ordering::Relaxed);
        return None;
    }
    after_locked();
    // What was changed before the claim, by who then saw it waiting and kicked nobody.
    if next.terms() != terms {
        cold_path();
        return Some(Turn::Later);
    }
    let top = cpu.top();
    if top >= wanted && (top > wanted || cpu.slice_end.load(Ordering::Relaxed) == NEVER) {
        cold_path();
        return Some(Turn::Later);
    }
    Some(Turn::Now)
}
