//! The fast path: the system calls that most of the time goes to, where nothing else is to be done - a
//! call to a server that waits, the reply to a caller that waits, a signal, a wait, a yield - and the
//! cheapest look at a handle. It is the slow path (`rendezvous`, `notification`, `sched`) with everything
//! left out that cannot be the case here; whatever could be is looked at first, and then nothing is
//! changed and the slow path goes through all of it.
//!
//! What is done is in the parts: `call`, `signal`, `receive`, `trap`. Here is what they have in common: what can become of
//! an entry, the claim of a thread that is to run at once, and the switch to it.
//!
//! A wait with a deadline is short where the timers know of an earlier one of the same thread: see `armed`.
//!
//! A call and a reply: the endpoint's lock and one claim are the only locked instructions, the address
//! space the only control register. The run queue is looked at without its lock: see `take_over`.

mod call;
mod receive;
mod signal;
mod trap;

pub use receive::Before;
pub use signal::Signalled;

use crate::cpu::Cpu;
use crate::kernel::Kernel;
use crate::platform::Platform;
use crate::sync::{Ordering, after_locked};
use crate::thread::Thread;
use core::hint::cold_path;
#[cfg(test)]
use ipc::Operation;
use ipc::message::NEVER;
use ipc::{Handle, ObjectKind};

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
    /// It is done but for the way out, and the thread waits.
    Waits,
    /// Of an operation that ends with a Receive that is left, for the slow path; first this thread, whose
    /// registers are complete, is to be made ready. The receiver's registers hold the arguments.
    Receives(Option<&'static Thread>),
}

/// Each of these functions is a system call of this CPU's thread, whose registers hold the deadline and
/// what a system call keeps; the arguments come separately. `None`, and nothing is changed, if not all is
/// as it has to be for the short way. Those of a call and a reply call no function that returns, so that the
/// compiler has every register and saves none.
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
                    let answered = self.fast_resume(cpu, thread);
                    let replied =
                        || Some(self.fast_await(cpu, thread, self.fast_reply(cpu, thread)?));
                    answered.or_else(replied)
                })
            }
            Operation::Receive => {
                put(thread, arguments);
                let before = self.fast_receive(cpu, thread)?;
                Some(self.fast_await(cpu, thread, before))
            }
            Operation::SignalReceive => {
                put(thread, arguments);
                let before = self.fast_signal_receive(cpu, thread)?;
                Some(self.fast_await(cpu, thread, before))
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
                    Signalled::Receiver(signals) => {
                        self.signal_receiver(cpu, thread, bits, signals)
                    }
                }
            }
            Operation::Wait => self.fast_wait(cpu, thread, Handle(arguments[0])),
            Operation::Yield => self.fast_yield(cpu, thread),
            Operation::HandleInspect => self.fast_inspect(cpu, thread, Handle(arguments[0])),
            _ => None,
        }
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

    /// Takes this CPU from one thread, which keeps nothing on it, and gives it to another, which is
    /// active, or to nobody yet.
    #[inline(always)]
    fn change(&self, cpu: &Cpu, from: &'static Thread, to: Option<&'static Thread>) {
        self.charge(cpu, from);
        self.platform.save_bases(&from.registers);
        cpu.current.set(to);
    }

    /// Lets a claimed thread run, in its turn, whose system call ends with these results.
    #[inline(always)]
    fn run(
        &'static self,
        cpu: &'static Cpu,
        turn: Turn,
        to: &'static Thread,
        results: Arguments,
    ) -> Fast {
        match turn {
            Turn::Now => {
                self.come(cpu, to);
                Fast::Runs(to, results)
            }
            Turn::Later => {
                cpu.counters.system_calls.add(1);
                Fast::Queue(to, results)
            }
        }
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
        cpu.current.set(None);
        self.switch_or_queue(cpu, to);
    }

    /// Makes ready the thread that a fast signal or reply ended with.
    #[cold]
    #[inline(never)]
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

/// Whether the timers need not be told of the deadline of the wait that a thread's system call asks for: there
/// is none, or an entry for an earlier one stands for it, on this CPU, where nobody takes it out meanwhile.
#[inline(always)]
fn armed(cpu: &Cpu, thread: &Thread) -> bool {
    let deadline = thread.registers.r12.get();
    let armed = deadline == NEVER || thread.timer.stand_for(cpu.index, deadline);
    if !armed {
        cold_path();
    }
    armed
}

/// Whether a thread that was taken runs at once.
#[derive(Clone, Copy)]
enum Turn {
    /// It does.
    Now,
    /// Somebody else may have to run first.
    Later,
}

/// Takes the waiting thread that this CPU is to run next; `None` where somebody else has claimed it, or
/// it is not at home here, by the terms that the caller has seen. It can run at once where it is as it was
/// before the claim, nobody more urgent is ready here, and if there is an equal, the slice that makes room
/// for it has begun.
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
