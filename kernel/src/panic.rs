//! A broken invariant of the kernel: say where, on which CPU, in which thread, and how it came to
//! that; stop the other CPUs; then do what the tunable `panic.action` says.
#![expect(unsafe_code, reason = "walks the stack")]

use crate::uart::{self, Uart};
use crate::{kernel, paging, power, stop, symbols};
use core::arch::asm;
use core::fmt::{self, Write as _};
use core::panic::PanicInfo;
use kernel_core::sync::Ordering;
use kernel_core::thread::Thread;

/// Most callers that a backtrace lists.
const DEPTH: usize = 24;

/// A register's name and what is in it.
type Register = (&'static str, u64);

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
    /// RBP; 0 if it is ring 3's.
    pub(crate) frame_pointer: u64,
    /// All registers.
    pub(crate) registers: [Register; 22],
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
    let [rip, rsp, rbp]: [u64; 3];
    // SAFETY: reads registers.
    unsafe {
        asm!(
            "lea {}, [rip]",
            "mov {}, rsp",
            "mov {}, rbp",
            out(reg) rip,
            out(reg) rsp,
            out(reg) rbp,
            options(nomem, nostack, preserves_flags)
        );
    }
    let state = State {
        cpu,
        registers: &[("rip", rip), ("rsp", rsp), ("rbp", rbp)],
        instruction_pointer: None,
        frame_pointer: rbp,
    };
    report(&state, |out| {
        write!(out, "{}", info.message())?;
        info.location()
            .map_or(Ok(()), |place| write!(out, ", at {place}"))
    })
}

/// Ends the kernel after an exception in ring 0.
pub(crate) fn exception(exception: &Exception) -> ! {
    let state = State {
        cpu: begin(),
        registers: &exception.registers,
        instruction_pointer: Some(exception.instruction_pointer),
        frame_pointer: exception.frame_pointer,
    };
    report(&state, |out| {
        let Exception {
            vector,
            error_code,
            address,
            instruction_pointer,
            ..
        } = exception;
        write!(
            out,
            "exception {vector} (error code {error_code:#x}, address {address:#x}) at {instruction_pointer:#x}"
        )
    })
}

/// Where a CPU was when it panicked.
struct State<'a> {
    cpu: u32,
    registers: &'a [Register],
    /// The instruction that failed, where that is none of the panic's own.
    instruction_pointer: Option<u64>,
    frame_pointer: u64,
}

fn report(state: &State<'_>, what: impl Fn(&mut Uart) -> fmt::Result) -> ! {
    // Failure to write is not possible, and there would be nobody to tell.
    let _ = write_report(&mut Uart, state, &what);
    power::act(kernel::panic_action())
}

fn write_report(
    out: &mut Uart,
    state: &State<'_>,
    what: &dyn Fn(&mut Uart) -> fmt::Result,
) -> fmt::Result {
    out.write_str("uzura: panic: ")?;
    what(out)?;
    write!(out, "\nuzura: panic: on CPU {}, ", state.cpu)?;
    match kernel::current_thread() {
        Some(thread) => write_thread(out, thread)?,
        None => writeln!(out, "in no thread")?,
    }
    for registers in state.registers.chunks(3) {
        out.write_str("uzura: panic: ")?;
        for (name, value) in registers {
            write!(out, "  {name} {value:016x}")?;
        }
        out.write_str("\n")?;
    }
    out.write_str("uzura: panic: called from\n")?;
    if let Some(address) = state.instruction_pointer {
        write_place(out, address, address)?;
    }
    backtrace(out, state.frame_pointer)
}

/// A line of the backtrace: `address`, and the function that `place` lies in if its name is known.
fn write_place(out: &mut Uart, address: u64, place: u64) -> fmt::Result {
    write!(out, "uzura: panic:   {address:#x}")?;
    if let Some(function) = symbols::function(place) {
        let (name, offset) = (function.name(), address - function.start);
        write!(out, " {name}+{offset:#x}")?;
    }
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
        // The call is just before where it returns to, and may be the last instruction of its function.
        write_place(out, address, address.saturating_sub(1))?;
        // Callers lie further up; anything else is no chain.
        if next <= frame_pointer {
            break;
        }
        frame_pointer = next;
    }
    Ok(())
}
