//! The first function of each system call, to which entry.S goes by the number, and where it goes from there:
//! by the core's fast path back to ring 3, or the long way round.
//!
//! What a system call keeps is saved in the thread's registers; the arguments come here: 0, 1, 2, 5, 3
//! and 4. Neither these functions nor what they call returns: so no register is kept for a caller, and none
//! across a call. What is long is saved at once, so that fewer registers are taken.

use crate::exit::{
    deliver_to, enter_ring_3, leave, queue_and_leave, queue_complete_and_leave, return_to,
    save_bases_of,
};
use crate::{kernel, percpu};
use ipc::{Handle, Operation};
use kernel_core::fast::{self, Before, Fast, Signalled};
use kernel_core::notification::Signals;
use kernel_core::sync::Guard;
use kernel_core::thread::{Thread, WaitRef};

/// Call.
pub(crate) extern "C" fn call(a: u64, b: u64, c: u64, f: u64, d: u64, e: u64) -> ! {
    let (cpu, thread) = (percpu::core(), percpu::thread());
    fast::put_words(thread, [a, b, c, d, e, f]);
    match kernel::get().fast_call(cpu, thread, Handle(a), b) {
        Some(done) => go_on(thread, done),
        None => longer_call(a, b),
    }
}

/// A Call that is not a short one, but perhaps one with a handle.
#[inline(never)]
fn longer_call(a: u64, b: u64) -> ! {
    let thread = percpu::thread();
    thread.registers.rdi.set(a);
    thread.registers.rsi.set(b);
    match kernel::get().fast_call_with_handle(percpu::core(), thread) {
        Some(done) => go_on(thread, done),
        None => saved_system_call(Operation::Call),
    }
}

/// ReplyReceive.
pub(crate) extern "C" fn reply_receive(a: u64, b: u64, c: u64, f: u64, d: u64, e: u64) -> ! {
    let (cpu, thread) = (percpu::core(), percpu::thread());
    fast::put_words(thread, [a, b, c, d, e, f]);
    match kernel::get().fast_reply_receive(cpu, thread, Handle(a), b) {
        Some(done) => go_on(thread, done),
        None => resume_or_slow(a, b),
    }
}

/// A ReplyReceive that is not a short one, but perhaps the answer to a fault, or of a server with a bound
/// notification.
#[inline(never)]
fn resume_or_slow(a: u64, b: u64) -> ! {
    let thread = percpu::thread();
    thread.registers.rdi.set(a);
    thread.registers.rsi.set(b);
    match kernel::get().fast_resume(percpu::core(), thread) {
        Some(done) => go_on(thread, done),
        None => reply_or_slow(),
    }
}

#[inline(never)]
fn reply_or_slow() -> ! {
    match kernel::get().fast_reply(percpu::core(), percpu::thread()) {
        Some(before) => wait_for_message(before),
        None => saved_system_call(Operation::ReplyReceive),
    }
}

/// Receive.
pub(crate) extern "C" fn receive(a: u64, b: u64) -> ! {
    let (cpu, thread) = (percpu::core(), percpu::thread());
    thread.registers.rdi.set(a);
    thread.registers.rsi.set(b);
    match kernel::get().fast_receive(cpu, thread) {
        Some(before) => wait_for_message(before),
        None => saved_system_call(Operation::Receive),
    }
}

/// SignalReceive.
pub(crate) extern "C" fn signal_receive(a: u64, b: u64, c: u64, f: u64, d: u64, e: u64) -> ! {
    let (cpu, thread) = (percpu::core(), percpu::thread());
    fast::put(thread, [a, b, c, d, e, f]);
    match kernel::get().fast_signal_receive(cpu, thread) {
        Some(before) => wait_for_message(before),
        None => saved_system_call(Operation::SignalReceive),
    }
}

/// The Receive that an operation ends with.
#[inline(never)]
fn wait_for_message(before: Before) -> ! {
    let (cpu, thread) = (percpu::core(), percpu::thread());
    go_on(thread, kernel::get().fast_await(cpu, thread, before))
}

/// HandleInspect.
pub(crate) extern "C" fn handle_inspect(a: u64) -> ! {
    let (cpu, thread) = (percpu::core(), percpu::thread());
    match kernel::get().fast_inspect(cpu, thread, Handle(a)) {
        Some(done) => go_on(thread, done),
        None => {
            thread.registers.rdi.set(a);
            saved_system_call(Operation::HandleInspect)
        }
    }
}

/// Signal.
pub(crate) extern "C" fn signal(a: u64, b: u64) -> ! {
    let (cpu, thread) = (percpu::core(), percpu::thread());
    match kernel::get().fast_signal(cpu, thread, Handle(a), b) {
        Some(Signalled::Nobody) => return_to(thread, fast::NO_RESULTS),
        Some(Signalled::Up(signals, waiter, terms)) => signal_up(a, b, signals, waiter, terms),
        Some(Signalled::Down(signals, waiter, terms)) => signal_down(a, b, signals, waiter, terms),
        Some(Signalled::Receiver(signals)) => signal_receiver(a, b, signals),
        None => slow_signal(a, b),
    }
}

/// Signal, to a more urgent thread. A function of its own, so that each has few registers to save.
#[inline(never)]
fn signal_up(a: u64, b: u64, signals: Guard<'static, Signals>, waiter: WaitRef, terms: u32) -> ! {
    let (cpu, thread) = (percpu::core(), percpu::thread());
    match kernel::get().signal_up(cpu, thread, b, signals, waiter, terms) {
        Some(done) => go_on(thread, done),
        None => slow_signal(a, b),
    }
}

/// Signal, to a thread that is not more urgent.
#[inline(never)]
fn signal_down(a: u64, b: u64, signals: Guard<'static, Signals>, waiter: WaitRef, terms: u32) -> ! {
    let (cpu, thread) = (percpu::core(), percpu::thread());
    match kernel::get().signal_down(cpu, thread, b, signals, waiter, terms) {
        Some(done) => go_on(thread, done),
        None => slow_signal(a, b),
    }
}

/// Signal, to a thread that waits in Receive.
#[inline(never)]
fn signal_receiver(a: u64, b: u64, signals: Guard<'static, Signals>) -> ! {
    let (cpu, thread) = (percpu::core(), percpu::thread());
    match kernel::get().signal_receiver(cpu, thread, b, signals) {
        Some(done) => go_on(thread, done),
        None => slow_signal(a, b),
    }
}

#[cold]
#[inline(never)]
fn slow_signal(a: u64, b: u64) -> ! {
    let registers = &percpu::thread().registers;
    registers.rdi.set(a);
    registers.rsi.set(b);
    saved_system_call(Operation::Signal)
}

/// Wait.
pub(crate) extern "C" fn wait(a: u64) -> ! {
    let (cpu, thread) = (percpu::core(), percpu::thread());
    match kernel::get().fast_wait(cpu, thread, Handle(a)) {
        Some(done) => go_on(thread, done),
        None => {
            thread.registers.rdi.set(a);
            saved_system_call(Operation::Wait)
        }
    }
}

/// Yield.
pub(crate) extern "C" fn yield_now() -> ! {
    let (cpu, thread) = (percpu::core(), percpu::thread());
    match kernel::get().fast_yield(cpu, thread) {
        Some(done) => go_on(thread, done),
        None => saved_system_call(Operation::Yield),
    }
}

/// Ring 3, after a system call that was short.
#[inline(always)]
fn go_on(thread: &'static Thread, done: Fast) -> ! {
    match done {
        Fast::Returns(results) => return_to(thread, results),
        Fast::Runs(next, results) => {
            percpu::set_thread(next);
            deliver_to(next, results)
        }
        Fast::Resumes(next) => {
            percpu::set_thread(next);
            enter_ring_3(&next.registers)
        }
        Fast::Queue(next, [a, b, c, d, e, f]) => queue_and_leave(a, b, c, d, e, f, next),
        Fast::QueueComplete(next) => queue_complete_and_leave(next),
        Fast::Leaves([a, b, c, d, e, f]) => finish_and_leave(a, b, c, d, e, f, None),
        Fast::Wakes(woken, [a, b, c, d, e, f]) => finish_and_leave(a, b, c, d, e, f, Some(woken)),
        Fast::Waits => leave(),
        Fast::Receives(woken) => slow_receive(woken),
    }
}

/// The slow way of a Receive whose arguments are saved, after making a thread ready.
#[cold]
#[inline(never)]
fn slow_receive(woken: Option<&'static Thread>) -> ! {
    if let Some(woken) = woken {
        kernel::get().wake(percpu::core(), woken);
    }
    saved_system_call(Operation::Receive)
}

/// A system call that is not a short one, whose number is saved.
#[cold]
#[inline(never)]
pub(crate) extern "C" fn slow_system_call(a: u64, b: u64, c: u64, f: u64, d: u64, e: u64) -> ! {
    fast::put(percpu::thread(), [a, b, c, d, e, f]);
    system_call()
}

/// The same of an operation whose arguments are saved.
#[cold]
#[inline(never)]
fn saved_system_call(operation: Operation) -> ! {
    percpu::thread().registers.rax.set(operation as u64);
    system_call()
}

/// A system call whose number and arguments are saved.
fn system_call() -> ! {
    save_bases_of(percpu::thread());
    kernel::get().system_call(percpu::core());
    leave()
}

/// The way out where a short system call is done but for it, and perhaps for making a thread ready. The
/// results come one by one: an array would go through memory, on the fast path too.
#[cold]
#[inline(never)]
fn finish_and_leave(
    a: u64,
    b: u64,
    c: u64,
    d: u64,
    e: u64,
    f: u64,
    woken: Option<&'static Thread>,
) -> ! {
    let thread = percpu::thread();
    fast::finish(thread, [a, b, c, d, e, f]);
    save_bases_of(thread);
    if let Some(woken) = woken {
        kernel::get().wake(percpu::core(), woken);
    }
    leave()
}
