//! Interrupts and exceptions, as entry.S hands them on: by the core's fast path back to ring 3, or the long
//! way round.

use crate::exit::{deliver_to, enter_ring_3, leave, queue_and_leave, wake_and_leave};
use crate::{apic, idt, kernel, percpu, timer};
use kernel_core::fast::Fast;
use kernel_core::platform::{FIRST_DEVICE_VECTOR, LAST_DEVICE_VECTOR};
use x86_64::registers::control::Cr2;

/// An interrupt from either ring or an exception from ring 3, with the thread's registers saved. Does not
/// return, as a system call.
pub(crate) extern "C" fn trap(vector: u32) -> ! {
    match vector as u8 {
        vector @ FIRST_DEVICE_VECTOR..=LAST_DEVICE_VECTOR => device_interrupt(vector),
        vector @ 0..idt::FIRST_INTERRUPT => fault(vector),
        _ => slow_trap(vector),
    }
}

#[inline(always)]
fn device_interrupt(vector: u8) -> ! {
    let cpu = percpu::core();
    let short = |thread| kernel::get().fast_interrupt(cpu, thread, vector);
    match cpu.current.get().and_then(short) {
        Some(done) => go_on_from_trap(done),
        None => slow_trap(vector.into()),
    }
}

#[inline(never)]
fn fault(vector: u8) -> ! {
    let short = |thread| {
        let address = fault_address(vector);
        kernel::get().fast_fault(percpu::core(), thread, vector, address)
    };
    match percpu::core().current.get().and_then(short) {
        Some(done) => go_on_from_trap(done),
        None => slow_trap(vector.into()),
    }
}

/// Where a fault's address matters: the one that a page fault leaves in CR2.
#[inline(always)]
fn fault_address(vector: u8) -> u64 {
    match vector {
        idt::PAGE_FAULT => Cr2::read_raw(),
        _ => 0,
    }
}

/// Ring 3, after an interrupt or a fault that was short. The registers of the thread that it came to are
/// complete.
#[inline(always)]
fn go_on_from_trap(done: Fast) -> ! {
    match done {
        Fast::Runs(next, results) => {
            percpu::set_thread(next);
            deliver_to(next, results)
        }
        Fast::Resumes(next) => {
            percpu::set_thread(next);
            enter_ring_3(&next.registers)
        }
        Fast::Queue(next, [a, b, c, d, e, f]) => queue_and_leave(a, b, c, d, e, f, next),
        Fast::Wakes(woken, _) => wake_and_leave(woken),
        Fast::QueueComplete(_)
        | Fast::Returns(_)
        | Fast::Leaves(_)
        | Fast::Waits
        | Fast::Receives(_) => {
            unreachable!("the end of a system call, not of an interrupt or a fault")
        }
    }
}

/// An interrupt or an exception that is not short.
#[cold]
#[inline(never)]
fn slow_trap(vector: u32) -> ! {
    let cpu = percpu::this();
    let core = percpu::core();
    match vector as u8 {
        vector @ 0..idt::FIRST_INTERRUPT => {
            let address = fault_address(vector);
            let error_code = cpu
                .registers()
                .map_or(0, |registers| registers.error_code.get());
            kernel::get().fault(core, vector, error_code, address);
        }
        idt::TIMER => {
            apic::end_of_interrupt();
            if timer::expired(cpu) {
                kernel::get().timer(core);
            } else {
                kernel::get().enter(core);
            }
        }
        idt::KICK => {
            apic::end_of_interrupt();
            kernel::get().kicked(core);
        }
        vector @ FIRST_DEVICE_VECTOR..=LAST_DEVICE_VECTOR => kernel::get().interrupt(core, vector),
        // Acknowledging a spurious interrupt would acknowledge another one (Intel SDM volume 3A,
        // section 11.9); the legacy controllers are masked, what they still raise is spurious too.
        vector => {
            if vector == idt::APIC_ERROR {
                apic::end_of_interrupt();
            }
            kernel::get().enter(core);
        }
    }
    leave()
}
