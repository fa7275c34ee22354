//! A broken invariant of the kernel: say where, on which CPU, in which thread, and how it came to
//! that; stop the other CPUs; then do what the tunable `panic.action` says.
#![expect(unsafe_code, reason = "walks the stack")]

use crate::uart::{self, Uart};
use crate::{kernel, paging, power, stop};
use core::arch::asm;
use core::fmt::{self, Write as _};
use core::panic::PanicInfo;
use kernel_core::sync::Ordering;
use kernel_core::thread::Thread;

/// Most callers that a backtrace lists.
const DEPTH: usize = 24;

/// An exception that ends the kernel.
pub(crate) struct Exception {
    /// Vector.
    pub(crate) vector: u32,
    /// Error code, 0 where the vector has none.
    pub(crate) error_code: u64,
    /// CR2: the address, for a page fault.
    pub(crate) address: u64,
    /// Address of the instruction.
    pub(crate) instruction_pointer: u64,
    /// Stack pointer.
    pub(crate) stack_pointer: u64,
    /// RFLAGS.
    pub(crate) flags: u64,
    /// RBP; 0 if it is ring 3's.
    pub(crate) frame_pointer: u64,
}

/// Makes this CPU the one that speaks. A panic within the panic halts at once.
fn begin() -> u32 {
    if !stop::others() {
        uart::write_bytes(b"\nuzura: panic within a panic\nuzura: halted\n");
        stop::halt();
    }
    // Another CPU's unfinished line stays on its own.
    uart::write_bytes(b"\n");
    stop::this_cpu()
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let cpu = begin();
    let frame_pointer: u64;
    // SAFETY: reads a register.
    unsafe {
        asm!("mov {}, rbp", out(reg) frame_pointer, options(nomem, nostack, preserves_flags))
    };
    report(cpu, frame_pointer, |out| {
        write!(out, "{}", info.message())?;
        info.location()
            .map_or(Ok(()), |place| write!(out, ", at {place}"))
    })
}

/// Ends the kernel after an exception in ring 0.
pub(crate) fn exception(exception: &Exception) -> ! {
    let cpu = begin();
    report(cpu, exception.frame_pointer, |out| {
        let Exception {
            vector,
            error_code,
            address,
            instruction_pointer,
            stack_pointer,
            flags,
            ..
        } = exception;
        write!(
            out,
            "exception {vector} (error code {error_code:#x}, address {address:#x})"
        )?;
        write!(
            out,
            " at {instruction_pointer:#x}, rsp {stack_pointer:#x}, rflags {flags:#x}"
        )
    })
}

fn report(cpu: u32, frame_pointer: u64, what: impl Fn(&mut Uart) -> fmt::Result) -> ! {
    // Failure to write is not possible, and there would be nobody to tell.
    let _ = write_report(&mut Uart, cpu, frame_pointer, what);
    power::act(kernel::panic_action())
}

fn write_report(
    out: &mut Uart,
    cpu: u32,
    frame_pointer: u64,
    what: impl Fn(&mut Uart) -> fmt::Result,
) -> fmt::Result {
    out.write_str("uzura: panic: ")?;
    what(out)?;
    write!(out, "\nuzura: panic: on CPU {cpu}, ")?;
    match kernel::current_thread() {
        Some(thread) => write_thread(out, thread)?,
        None => writeln!(out, "in no thread")?,
    }
    out.write_str("uzura: panic: called from")?;
    backtrace(out, frame_pointer)?;
    out.write_str("\n")
}

/// Which thread it was, where it was in ring 3, and what it did wrong if it did.
fn write_thread(out: &mut Uart, thread: &Thread) -> fmt::Result {
    let registers = &thread.registers;
    write!(
        out,
        "in thread {}, rip {:#x}, rsp {:#x}",
        thread.slot.number(),
        registers.rip.get(),
        registers.rsp.get()
    )?;
    if thread.faulting.load(Ordering::Relaxed) {
        let vector = thread.fault_vector.load(Ordering::Relaxed);
        let address = thread.fault_address.load(Ordering::Relaxed);
        let code = registers.error_code.get();
        write!(
            out,
            ", after exception {vector} (error code {code:#x}, address {address:#x})"
        )?;
    }
    out.write_str("\n")
}

/// Return addresses along the frame pointers: each frame holds the caller's rbp, then the return
/// address (System V ABI, AMD64 supplement, section 3.2.2).
fn backtrace(out: &mut Uart, mut frame_pointer: u64) -> fmt::Result {
    for _ in 0..DEPTH {
        if !frame_pointer.is_multiple_of(8) || !paging::is_stack(frame_pointer, 16) {
            break;
        }
        // SAFETY: sixteen bytes of a mapped kernel stack, aligned.
        let [next, address] = unsafe { *(frame_pointer as *const [u64; 2]) };
        write!(out, " {address:#x}")?;
        // Callers lie further up; anything else is no chain.
        if next <= frame_pointer {
            break;
        }
        frame_pointer = next;
    }
    Ok(())
}
