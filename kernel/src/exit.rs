//! Where ring 3 is entered again, or nothing is left to do but to wait: which thread's registers, FS and GS
//! base are loaded and how. What is resumed is the core's to say.
#![expect(
    unsafe_code,
    reason = "the last instructions before ring 3, and FS and GS base, are assembly"
)]

use crate::cpuid::{self, Feature};
use crate::kernel;
use crate::percpu::{self, PerCpu};
use core::arch::asm;
use core::mem::offset_of;
use kernel_core::fast::{self, Arguments};
use kernel_core::registers::Registers;
use kernel_core::sync::Ordering;
use kernel_core::thread::Thread;
use x86_64::VirtAddr;
use x86_64::registers::model_specific::{FsBase, KernelGsBase};

/// The way out where the thread that a fast path ended with is not first. The results come one by one:
/// an array would go through memory, on the fast path too.
#[cold]
#[inline(never)]
pub(crate) fn queue_and_leave(
    a: u64,
    b: u64,
    c: u64,
    d: u64,
    e: u64,
    f: u64,
    next: &'static Thread,
) -> ! {
    fast::finish(next, [a, b, c, d, e, f]);
    queue_complete_and_leave(next)
}

/// The same with a thread whose registers are complete.
#[cold]
#[inline(never)]
pub(crate) fn queue_complete_and_leave(next: &'static Thread) -> ! {
    kernel::get().queue_instead(percpu::core(), next);
    leave()
}

/// The way out where a thread was woken that can only be made ready.
#[cold]
#[inline(never)]
pub(crate) fn wake_and_leave(woken: &'static Thread) -> ! {
    kernel::get().wake(percpu::core(), woken);
    leave()
}

/// Saves FS and GS base where the processor lets ring 3 set them.
pub(crate) fn save_bases_of(thread: &Thread) {
    if cpuid::has(Feature::FsGsBase) {
        save_bases(&thread.registers);
    }
}

/// Saves FS and GS base of ring 3, which are loaded, on a processor with FSGSBASE.
#[inline(always)]
pub(crate) fn save_bases(registers: &Registers) {
    let (fs, gs): (u64, u64);
    // SAFETY: CR4.FSGSBASE is set where the processor has it. Between the two SWAPGS, where GS base is
    // ring 3's, nothing but RDGSBASE is executed; an NMI uses no GS base.
    unsafe {
        asm!("rdfsbase {fs}", "swapgs", "rdgsbase {gs}", "swapgs", fs = out(reg) fs, gs = out(reg) gs,
            options(nomem, nostack, preserves_flags));
    }
    registers.fs_base.set(fs);
    registers.gs_base.set(gs);
}

/// Goes to ring 3 with these registers, which are those of this CPU's thread.
#[inline(always)]
pub(crate) fn enter_ring_3(registers: &'static Registers) -> ! {
    // SAFETY: `resume` of entry.S wants the registers in rax and this CPU's state loaded. It uses no
    // stack, so that what is on it is of no more use.
    unsafe { asm!("jmp resume", in("rax") registers, options(noreturn)) }
}

/// The end of a system call that succeeds: loads what it keeps from the registers at rax, and what SYSRET
/// takes. The rip is canonical: it came from SYSCALL, which needs two bytes below it, and the last page of
/// the user half is never mapped. Text, not code to jump to, so that the jump is saved.
macro_rules! sysret {
    ($first:literal, $($operand:tt)*) => {
        asm!(
            $first,
            "mov r12, [rax + {r12}]",
            "mov r13, [rax + {r13}]",
            "mov r14, [rax + {r14}]",
            "mov r15, [rax + {r15}]",
            "mov rbx, [rax + {rbx}]",
            "mov rbp, [rax + {rbp}]",
            "mov rcx, [rax + {rip}]",
            "mov r11, [rax + {rflags}]",
            "mov rsp, [rax + {rsp}]",
            "xor eax, eax",
            "sysretq",
            r12 = const offset_of!(Registers, r12),
            r13 = const offset_of!(Registers, r13),
            r14 = const offset_of!(Registers, r14),
            r15 = const offset_of!(Registers, r15),
            rbx = const offset_of!(Registers, rbx),
            rbp = const offset_of!(Registers, rbp),
            rip = const offset_of!(Registers, rip),
            rflags = const offset_of!(Registers, rflags),
            rsp = const offset_of!(Registers, rsp),
            $($operand)*
            options(noreturn)
        )
    };
}

/// Goes back to the thread that made the system call, with its results.
#[inline(always)]
pub(crate) fn return_to(thread: &'static Thread, results: Arguments) -> ! {
    let [a, b, c, d, e, f] = results;
    // SAFETY: this CPU's state is loaded, and nothing on the stack is of more use; the thread came by
    // SYSCALL, and its FS and GS base are loaded.
    unsafe {
        sysret!("swapgs", in("rax") &thread.registers, in("rdi") a, in("rsi") b, in("rdx") c,
            in("r8") d, in("r9") e, in("r10") f,)
    }
}

/// Goes to another thread, with the results of the system call that it waited in.
#[inline(always)]
pub(crate) fn deliver_to(thread: &'static Thread, results: Arguments) -> ! {
    let [a, b, c, d, e, f] = results;
    // SAFETY: as above, but for FS and GS base, which are loaded here. The thread came by SYSCALL, as only
    // such a one waits for a message or a signal. The core runs it by `Fast::Runs` only where there is
    // FSGSBASE.
    unsafe {
        sysret!("mov rcx, [rax + {fs_base}]\nwrfsbase rcx\nmov rcx, [rax + {gs_base}]\nswapgs\nwrgsbase rcx",
            fs_base = const offset_of!(Registers, fs_base),
            gs_base = const offset_of!(Registers, gs_base),
            in("rax") &thread.registers, in("rdi") a, in("rsi") b, in("rdx") c,
            in("r8") d, in("r9") e, in("r10") f,)
    }
}

/// What this CPU does next, as the core says: ring 3 with a thread's registers, or idling.
#[inline(never)]
pub(crate) fn leave() -> ! {
    let cpu = percpu::this();
    match kernel::get().leave(kernel::cpu(cpu)) {
        Some(thread) => enter_ring_3(load_registers(cpu, thread)),
        None => idle(cpu),
    }
}

/// The registers of the thread that runs next; this CPU's next entry goes into them.
#[inline(always)]
fn load_registers(cpu: &'static PerCpu, thread: &'static Thread) -> &'static Registers {
    let registers = &thread.registers;
    percpu::set_thread(thread);
    if !cpuid::has(Feature::FsGsBase) {
        load_bases(cpu, registers);
    }
    registers
}

/// Loads FS and GS base on a CPU without FSGSBASE, where ring 3 cannot set them: only when another
/// thread comes to run. (Loading a selector clears them, which harms only the thread that did it.)
/// A thread is told by where its registers are; a thread that takes a dead one's place comes to run
/// only after this CPU ran another or was idle.
#[cold]
fn load_bases(cpu: &PerCpu, registers: &'static Registers) {
    let address = core::ptr::from_ref(registers).addr() as u64;
    if cpu.bases_of.swap(address, Ordering::Relaxed) != address {
        FsBase::write(VirtAddr::new_truncate(registers.fs_base.get()));
        // The exit path swaps it in.
        KernelGsBase::write(VirtAddr::new_truncate(registers.gs_base.get()));
    }
}

/// Halts until an interrupt, which enters the kernel as if from ring 3 but drops this frame. An
/// interrupt that is pending is not lost: STI takes effect after the instruction that follows it.
fn idle(cpu: &PerCpu) -> ! {
    let stack = cpu.kernel_stack.load(Ordering::Relaxed);
    // The thread's place may be another thread's by the time this CPU wakes.
    cpu.bases_of.store(0, Ordering::Relaxed);
    // SAFETY: the stack is this CPU's own and nothing on it is used again.
    unsafe {
        asm!("mov rsp, {stack}", "xor ebp, ebp", "2: sti", "hlt", "jmp 2b", stack = in(reg) stack,
            options(noreturn));
    }
}
