//! What ends with a Receive, by the fast path: a Receive alone, one after a signal, and one after the reply of
//! a server with a bound notification; and what ends it: signals and interrupts. Not messages: who sends one
//! is `call`'s, and where one is there already the slow path takes it.
//!
//! Each is done in two parts, because two notifications are not locked together: first what comes before the
//! Receive, which may take a thread out of its wait; then [`Kernel::fast_await`].

use super::call::{plain, received};
use super::{Fast, NO_RESULTS, Turn, finish, take_over, urgency_here};
use crate::cpu::{Cpu, RunQueueGuard};
use crate::endpoint::{Endpoint, Waiters};
use crate::kernel::Kernel;
use crate::notification::{SIGNAL_TAG, Signals, give_signal};
use crate::platform::Platform;
use crate::rendezvous::copy_words;
use crate::sync::{Guard, Ordering, after_locked};
use crate::thread::{Thread, Wait, WaitRef};
use ipc::message::NEVER;
use ipc::{Handle, Rights};

/// A thread that was taken out of its wait, with complete registers, to run when the one that took it waits.
#[derive(Clone, Copy)]
pub struct Taken {
    thread: &'static Thread,
    turn: Turn,
}

/// The endpoint from which a thread is to receive, and whom it has taken before that.
pub type Before = (&'static Endpoint, Option<Taken>);

/// What a thread that is to receive finds.
enum Found {
    /// Signals, which it has taken.
    Bits(u64),
    /// Nothing: the place where it waits.
    Nothing(Place),
}

/// An endpoint with nothing to see to, and the notification of the thread that is to wait there, without
/// bits: locked, so that nothing comes until the thread waits.
struct Place {
    endpoint: &'static Endpoint,
    signals: Option<Guard<'static, Signals>>,
    waiters: Guard<'static, Waiters>,
}

impl<P: Platform> Kernel<P> {
    /// Receive: what comes before it, which is nothing. For this and the next two the registers hold all
    /// arguments, and what follows is [`Kernel::fast_await`].
    #[inline(always)]
    pub fn fast_receive(&'static self, cpu: &Cpu, receiver: &'static Thread) -> Option<Before> {
        Some((source(cpu, receiver)?, None))
    }

    /// SignalReceive: the signal, where nobody waits for it or a thread in Receive.
    #[inline(always)]
    pub fn fast_signal_receive(
        &'static self,
        cpu: &'static Cpu,
        receiver: &'static Thread,
    ) -> Option<Before> {
        let endpoint = source(cpu, receiver)?;
        let registers = &receiver.registers;
        let (handle, bits) = (Handle(registers.rdx.get()), registers.r8.get());
        let handles = &receiver.task().handles;
        let notification = handles.look_up_notification(handle, Rights::SIGNAL)?;
        let mut signals = notification.get().try_signals()?;
        if signals.waiter().is_some() || signals.is_over() {
            return None;
        }
        let Some(wait) = signals.receiver(bits) else {
            signals.add(bits);
            return Some((endpoint, None));
        };
        let thread = wait.thread;
        let claim = || thread.take_generation(wait.generation);
        let turn = take_over(cpu, receiver, thread, thread.terms(), claim)?;
        end_receive(cpu, signals, thread, bits);
        Some((endpoint, Some(Taken { thread, turn })))
    }

    /// ReplyReceive of a server with a bound notification: the reply to a caller that waits for it.
    #[inline(always)]
    pub fn fast_reply(&'static self, cpu: &'static Cpu, server: &'static Thread) -> Option<Before> {
        server.bound.get()?;
        let registers = &server.registers;
        let (tag, length) = plain(cpu, server, registers.rsi.get())?;
        urgency_here(cpu, server.terms())?;
        let caller = server.reply_caller.get()?;
        let call = server.reply_to_call()?;
        let handles = &server.task().handles;
        let endpoint = alive(handles.look_up_source(Handle(registers.rdi.get()))?.get())?;
        let claim = || caller.take_generation(call);
        let turn = take_over(cpu, server, caller, caller.terms(), claim)?;
        server.reply_caller.set(None);
        copy_words(server, caller, length as usize);
        finish(caller, received(server, tag, 0, 0));
        let taken = Taken {
            thread: caller,
            turn,
        };
        Some((endpoint, Some(taken)))
    }

    /// The Receive itself, of a thread whose registers hold its arguments: gives it the signals that are
    /// there, or lets it wait and somebody else run. Where that is not all that there is to do it is left
    /// to the slow path, as what came before it is done.
    #[inline(always)]
    pub fn fast_await(
        &'static self,
        cpu: &'static Cpu,
        receiver: &'static Thread,
        (endpoint, taken): Before,
    ) -> Fast {
        let Some(found) = find(receiver, endpoint) else {
            return Fast::Receives(taken.map(|taken| taken.thread));
        };
        let place = match found {
            Found::Nothing(place) => place,
            Found::Bits(bits) => {
                cpu.counters.system_calls.add(1);
                let results = [0, SIGNAL_TAG, bits, 0, 0, 0];
                return match taken {
                    Some(taken) => Fast::Wakes(taken.thread, results),
                    None => Fast::Returns(results),
                };
            }
        };
        let next = match taken {
            Some(taken) => Some(taken),
            None => self.take_only(cpu).map(|thread| Taken {
                thread,
                turn: Turn::Now,
            }),
        };
        self.wait_at(cpu, receiver, place, next.map(|next| next.thread));
        match next {
            Some(next) if matches!(next.turn, Turn::Now) => self.resume(cpu, next.thread),
            Some(next) => {
                cpu.counters.system_calls.add(1);
                Fast::QueueComplete(next.thread)
            }
            None => {
                cpu.counters.system_calls.add(1);
                Fast::Waits
            }
        }
    }

    /// Lets a thread wait for a message or a signal, and gives the CPU to another or to nobody yet.
    #[inline(always)]
    fn wait_at(
        &'static self,
        cpu: &Cpu,
        receiver: &'static Thread,
        mut place: Place,
        next: Option<&'static Thread>,
    ) {
        let generation = receiver.next_generation_of_active();
        if let Some(signals) = &mut place.signals {
            signals.watch(WaitRef {
                thread: receiver,
                generation,
            });
        }
        receiver.endpoint.set(Some(place.endpoint));
        receiver.set_deadline(receiver.registers.r12.get());
        place.waiters.receivers.push_back(receiver);
        self.change(cpu, receiver, next);
        receiver.publish_as(Wait::Receive, generation);
    }

    /// Signals a thread that waits in Receive, or has done so last: then the bits are for its next one.
    #[inline(always)]
    pub fn signal_receiver(
        &'static self,
        cpu: &'static Cpu,
        thread: &'static Thread,
        bits: u64,
        mut signals: Guard<'static, Signals>,
    ) -> Option<Fast> {
        let Some(wait) = signals.receiver(bits) else {
            signals.add(bits);
            cpu.counters.system_calls.add(1);
            return Some(Fast::Returns(NO_RESULTS));
        };
        urgency_here(cpu, thread.terms())?;
        let (woken, terms) = claim_receiver(cpu, signals, wait, bits)?;
        let Some((mut queue, running)) = unchanged(cpu, thread, woken, terms) else {
            cpu.counters.system_calls.add(1);
            return Some(Fast::Wakes(woken, NO_RESULTS));
        };
        let wanted = Thread::urgency_of(terms);
        if wanted > running && goes_first(cpu, &queue, running, wanted) {
            thread.registers.rax.set(0);
            self.change(cpu, thread, Some(woken));
            cpu.counters.handovers.add(1);
            self.preempt_for(cpu, thread, running, queue, woken, wanted);
            return Some(Fast::Resumes(woken));
        }
        cpu.counters.system_calls.add(1);
        if wanted > running || self.cpus().len() > 1 && self.would_run_elsewhere(woken) {
            return Some(Fast::Wakes(woken, NO_RESULTS));
        }
        queue.push_as(woken, wanted, false);
        drop(queue);
        Some(self.go_on_beside(cpu, thread, wanted))
    }

    /// An interrupt that a more urgent thread in Receive waits for than the one that runs, whose registers
    /// are saved.
    #[inline(always)]
    pub(super) fn interrupt_receiver(
        &'static self,
        cpu: &'static Cpu,
        thread: &'static Thread,
        signals: Guard<'static, Signals>,
        bits: u64,
    ) -> Option<Fast> {
        let wait = signals.receiver(bits)?;
        let running = urgency_here(cpu, thread.terms())?;
        if urgency_here(cpu, wait.thread.terms())? <= running {
            return None;
        }
        let (woken, terms) = claim_receiver(cpu, signals, wait, bits)?;
        self.platform.end_of_interrupt();
        cpu.counters.interrupts.add(1);
        let wanted = Thread::urgency_of(terms);
        let (queue, running) = match unchanged(cpu, thread, woken, terms) {
            Some((queue, running)) if goes_first(cpu, &queue, running, wanted) => (queue, running),
            _ => return Some(Fast::Wakes(woken, NO_RESULTS)),
        };
        self.charge(cpu, thread);
        cpu.current.set(Some(woken));
        cpu.counters.switches.add(1);
        self.preempt_for(cpu, thread, running, queue, woken, wanted);
        Some(Fast::Resumes(woken))
    }
}

/// The endpoint from which a thread is to receive, by the arguments in its registers, if it may and can do so
/// here by the short way.
#[inline(always)]
fn source(cpu: &Cpu, receiver: &'static Thread) -> Option<&'static Endpoint> {
    let registers = &receiver.registers;
    plain(cpu, receiver, registers.rsi.get())?;
    urgency_here(cpu, receiver.terms())?;
    if receiver.reply_caller.get().is_some() {
        return None;
    }
    let handles = &receiver.task().handles;
    alive(handles.look_up_source(Handle(registers.rdi.get()))?.get())
}

/// An endpoint that was not destroyed: from one that was nothing is received, and so nothing replied or
/// signalled before.
#[inline(always)]
fn alive(endpoint: &'static Endpoint) -> Option<&'static Endpoint> {
    endpoint.slot.is_alive().then_some(endpoint)
}

/// What a thread finds that receives from an endpoint; `None` for what is the slow path's to see to.
#[inline(always)]
fn find(receiver: &'static Thread, endpoint: &'static Endpoint) -> Option<Found> {
    let mut waiters = endpoint.try_waiters()?;
    let mut signals = None;
    if let Some(notification) = receiver.bound.get() {
        let mut locked = notification.try_signals()?;
        // Before anything else that is there, but not where nothing is received any more.
        if locked.bits() != 0 && !waiters.is_closed() {
            return Some(Found::Bits(locked.take()));
        }
        signals = Some(locked);
    }
    if waiters.is_busy() {
        waiters.settle();
        if waiters.is_busy() {
            return None;
        }
    }
    Some(Found::Nothing(Place {
        endpoint,
        signals,
        waiters,
    }))
}

/// Ends the wait of a thread in Receive that is at home here: the thread, and its terms before that. `None`,
/// and nothing is changed, if somebody else has claimed it.
#[inline(always)]
fn claim_receiver(
    cpu: &Cpu,
    signals: Guard<'static, Signals>,
    wait: WaitRef,
    bits: u64,
) -> Option<(&'static Thread, u32)> {
    let woken = wait.thread;
    let terms = woken.terms();
    urgency_here(cpu, terms)?;
    if !woken.take_generation(wait.generation) {
        return None;
    }
    after_locked();
    end_receive(cpu, signals, woken, bits);
    Some((woken, terms))
}

/// Gives a claimed thread the signals that its Receive ends with, and takes it out of its endpoint's queue. A
/// function that returns: it is worth its bytes, as it is part of three ways.
#[inline(never)]
fn end_receive(
    cpu: &Cpu,
    mut signals: Guard<'static, Signals>,
    receiver: &'static Thread,
    bits: u64,
) {
    signals.watched();
    give_signal(receiver, signals.take() | bits);
    // An endpoint is locked before a notification.
    drop(signals);
    if let Some(endpoint) = receiver.endpoint.get() {
        endpoint.waiters().receivers.remove(receiver);
    }
    cpu.counters.wakes.add(1);
    receiver.count_wake();
}

/// The locked run queue and how urgent the running thread is by it, if the thread that was taken out of its
/// wait is as urgent and at home as it was before: who changed that saw it waiting and kicked nobody.
#[inline(always)]
fn unchanged<'a>(
    cpu: &'a Cpu,
    thread: &Thread,
    woken: &Thread,
    terms: u32,
) -> Option<(RunQueueGuard<'a>, u32)> {
    let queue = cpu.try_run_queue()?;
    let running = urgency_here(cpu, thread.terms())?;
    (woken.terms() == terms).then_some((queue, running))
}

/// Whether a more urgent thread than the running one goes before those in the queue as well, and there is no
/// rest of a slice to be remembered.
#[inline(always)]
fn goes_first(cpu: &Cpu, queue: &RunQueueGuard<'_>, running: u32, wanted: u32) -> bool {
    let top = queue.top();
    let is_slice = cpu.slice_end.load(Ordering::Relaxed) != NEVER;
    wanted > running && (top < running || top < wanted && !is_slice)
}
