//! Signals, waits and yields, by the fast path: what is queued, and who is taken out of the queue, on this CPU.

use super::{Arguments, Fast, NO_RESULTS, finish, urgency_here};
use crate::cpu::{Cpu, RunQueueGuard};
use crate::kernel::Kernel;
use crate::notification::Signals;
use crate::platform::Platform;
use crate::sync::{Guard, Ordering, after_locked};
use crate::thread::{Thread, Wait, WaitRef};
use ipc::message::NEVER;
use ipc::{Handle, Rights};

/// To whom a signal goes.
pub enum Signalled {
    /// Nobody waits: it is done.
    Nobody,
    /// To a thread that is more urgent than the one that runs: the notification, the wait, the terms that
    /// were seen.
    Up(Guard<'static, Signals>, WaitRef, u32),
    /// To one that is not.
    Down(Guard<'static, Signals>, WaitRef, u32),
    /// To one that waits in Receive, if it still does.
    Receiver(Guard<'static, Signals>),
}

impl<P: Platform> Kernel<P> {
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
            if signals.is_over() || cpu.is_slow() {
                return None;
            }
            if signals.is_watched() {
                return Some(Signalled::Receiver(signals));
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
        self.change(cpu, thread, Some(woken));
        cpu.counters.handovers.add(1);
        self.preempt_for(cpu, thread, running, queue, woken, wanted);
        Some(Fast::Runs(woken, results))
    }

    /// Runs a thread that is more urgent than the one that ran, which keeps nothing on this CPU any more.
    #[inline(always)]
    pub(super) fn preempt_for(
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
        Some(self.go_on_beside(cpu, thread, wanted))
    }

    /// Lets the thread go on that has signalled one which is queued here by now and was not more urgent.
    #[inline(always)]
    pub(super) fn go_on_beside(&self, cpu: &Cpu, thread: &Thread, wanted: u32) -> Fast {
        // Changed since it was looked at, it may be less urgent as well.
        if wanted >= thread.urgency() && !self.is_slice_running(cpu) {
            return Fast::Leaves(NO_RESULTS);
        }
        Fast::Returns(NO_RESULTS)
    }

    /// Whether another CPU does something less urgent, or nothing, that a thread may run on.
    #[inline(always)]
    pub(super) fn would_run_elsewhere(&self, thread: &Thread) -> bool {
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
        thread.set_deadline(NEVER);
        self.change(cpu, thread, Some(next));
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
        self.change(cpu, thread, Some(next));
        queue.replace_single(thread);
        drop(queue);
        next.slice_left.store(0, Ordering::Relaxed);
        Some(self.resume(cpu, next))
    }

    /// Takes the most urgent thread out of this CPU's queue, if no other is as urgent and it is at home here;
    /// it is the one to run from then on.
    #[inline(always)]
    pub(super) fn take_only(&self, cpu: &Cpu) -> Option<&'static Thread> {
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
}

/// Claims the thread that waits for bits, and takes them: the results of its Wait. `None`, and nothing is
/// changed, if somebody else has claimed it.
#[inline(always)]
pub(super) fn take_waiter(
    cpu: &Cpu,
    signals: &mut Signals,
    waiter: WaitRef,
    bits: u64,
) -> Option<Arguments> {
    if !waiter.thread.take_generation(waiter.generation) {
        return None;
    }
    after_locked();
    signals.waited();
    cpu.counters.wakes.add(1);
    waiter.thread.count_wake();
    Some([signals.take() | bits, 0, 0, 0, 0, 0])
}
