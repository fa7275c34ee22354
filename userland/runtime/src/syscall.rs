//! The system call instruction: the only place where the kernel is entered. The registers are those
//! of [`ipc::operation`]. What the operations mean for this task's memory is the wrappers' business,
//! which is why the safe function is not public.
#![expect(unsafe_code, reason = "the system call instruction is inline assembly")]

use ipc::{Error, Operation};

/// Arguments and results 0 to 5.
pub type Registers = [u64; 6];

/// Enters the kernel with any number and any arguments, and returns status and results as they come.
/// For tests of the kernel; tasks have the wrappers.
///
/// # Safety
///
/// What the operation does to this task's memory and threads is what its code relies on: mappings
/// in use stay, and a thread begins only where one may. What it does to others is the kernel's
/// business, whatever the arguments.
#[cfg(target_os = "none")]
pub unsafe fn raw(number: u64, arguments: Registers, deadline: u64) -> (u64, Registers) {
    let [mut r0, mut r1, mut r2, mut r3, mut r4, mut r5] = arguments;
    let mut status = number;
    // SAFETY: the kernel keeps every register but those named here. What it writes is the IPC
    // buffer, which `buffer` hands out to one user at a time, and what the operation is asked for,
    // which is the caller's promise.
    unsafe {
        core::arch::asm!(
            "syscall",
            inlateout("rax") status,
            inlateout("rdi") r0,
            inlateout("rsi") r1,
            inlateout("rdx") r2,
            inlateout("r8") r3,
            inlateout("r9") r4,
            inlateout("r10") r5,
            in("r12") deadline,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    (status, [r0, r1, r2, r3, r4, r5])
}

/// The host has no kernel of ours: every operation fails.
///
/// # Safety
///
/// None is needed here; the declaration is the task's.
#[cfg(not(target_os = "none"))]
pub unsafe fn raw(_: u64, arguments: Registers, _: u64) -> (u64, Registers) {
    (Error::Unsupported.code(), arguments)
}

/// Enters the kernel. `deadline` is [`ipc::message::NEVER`] where the operation has none or none is
/// wanted.
///
/// The callers, all in this crate, see to it that the operation does to this task's memory and
/// threads what the types of this crate promise: mappings are removed only by their owner, and so
/// on.
pub(crate) fn invoke(
    operation: Operation,
    arguments: Registers,
    deadline: u64,
) -> Result<Registers, Error> {
    // SAFETY: as said above.
    match unsafe { raw(operation as u64, arguments, deadline) } {
        (0, results) => Ok(results),
        (code, _) => Err(Error::from_code(code).unwrap_or(Error::InvalidOperation)),
    }
}

/// Ends the task as a fault would: the supervisor learns the address and the registers.
pub fn fault() -> ! {
    #[cfg(target_os = "none")]
    // SAFETY: `ud2` has no effect but its exception, which ends the task.
    unsafe {
        core::arch::asm!("ud2", options(noreturn, nostack));
    }
    #[cfg(not(target_os = "none"))]
    panic!("the task faults");
}
