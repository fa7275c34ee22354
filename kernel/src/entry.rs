//! Where ring 3 enters the kernel and leaves it: the assembly (entry.S) and the first Rust functions
//! that it calls, which say to the core what happened and ask it what to resume. No policy here.
#![expect(
    unsafe_code,
    reason = "the entry assembly and the registers it is entered by"
)]

use crate::cpuid::{self, Feature};
use crate::percpu::{self, PerCpu};
use crate::{apic, gdt, idt, kernel, panic, stop, timer};
use core::arch::{asm, global_asm};
use core::mem::offset_of;
use ipc::{Handle, Operation};
use kernel_core::fast::{self, Arguments, Fast, Signalled};
use kernel_core::notification::Signals;
use kernel_core::platform::{FIRST_DEVICE_VECTOR, LAST_DEVICE_VECTOR};
use kernel_core::registers::Registers;
use kernel_core::sync::{Guard, Ordering};
use kernel_core::thread::{Thread, WaitRef};
use x86_64::VirtAddr;
use x86_64::registers::control::{Cr2, Efer, EferFlags};
use x86_64::registers::model_specific::{FsBase, KernelGsBase, LStar, SFMask, Star};
use x86_64::registers::rflags::RFlags;

global_asm!(
    include_str!("entry.S"),
    USER_STACK = const percpu::OFFSET_USER_STACK,
    KERNEL_STACK = const percpu::OFFSET_KERNEL_STACK,
    REGISTERS_END = const percpu::OFFSET_REGISTERS_END,
    END = const size_of::<Registers>(),
    FS_BASE = const offset_of!(Registers, fs_base),
    GS_BASE = const offset_of!(Registers, gs_base),
    ENTRY = const offset_of!(Registers, entry),
    R12 = const offset_of!(Registers, r12),
    R13 = const offset_of!(Registers, r13),
    R14 = const offset_of!(Registers, r14),
    R15 = const offset_of!(Registers, r15),
    RBX = const offset_of!(Registers, rbx),
    RBP = const offset_of!(Registers, rbp),
    RDI = const offset_of!(Registers, rdi),
    RSI = const offset_of!(Registers, rsi),
    RDX = const offset_of!(Registers, rdx),
    R8 = const offset_of!(Registers, r8),
    R9 = const offset_of!(Registers, r9),
    R10 = const offset_of!(Registers, r10),
    R11 = const offset_of!(Registers, r11),
    RCX = const offset_of!(Registers, rcx),
    RAX = const offset_of!(Registers, rax),
    ERROR_CODE = const offset_of!(Registers, error_code),
    RIP = const offset_of!(Registers, rip),
    CS = const offset_of!(Registers, cs),
    RFLAGS = const offset_of!(Registers, rflags),
    RSP = const offset_of!(Registers, rsp),
    SS = const offset_of!(Registers, ss),
    USER_CODE = const gdt::USER_CODE,
    USER_DATA = const gdt::USER_DATA,
    FSGSBASE = const Feature::FsGsBase as u32,
    SMAP = const Feature::Smap as u32,
    DEBUG = const idt::DEBUG,
    NMI = const idt::NMI,
    DOUBLE_FAULT = const idt::DOUBLE_FAULT,
    MACHINE_CHECK = const idt::MACHINE_CHECK,
    FIRST_INTERRUPT = const idt::FIRST_INTERRUPT,
    CALL = const Operation::Call as u64,
    REPLY_RECEIVE = const Operation::ReplyReceive as u64,
    SIGNAL = const Operation::Signal as u64,
    WAIT = const Operation::Wait as u64,
    call = sym call,
    reply_receive = sym reply_receive,
    signal = sym signal,
    wait = sym wait,
    YIELD = const Operation::Yield as u64,
    HANDLE_INSPECT = const Operation::HandleInspect as u64,
    yield_now = sym yield_now,
    handle_inspect = sym handle_inspect,
    slow_system_call = sym slow_system_call,
    trap = sym trap,
    fatal_exception = sym fatal_exception,
    non_maskable = sym non_maskable,
);

/// The pushes of entry.S's `trap_in_ring_3`, from the end of the structure down.
const _: () = {
    let order = [
        offset_of!(Registers, ss),
        offset_of!(Registers, rsp),
        offset_of!(Registers, rflags),
        offset_of!(Registers, cs),
        offset_of!(Registers, rip),
        offset_of!(Registers, error_code),
        offset_of!(Registers, rax),
        offset_of!(Registers, rcx),
        offset_of!(Registers, r11),
        offset_of!(Registers, r10),
        offset_of!(Registers, r9),
        offset_of!(Registers, r8),
        offset_of!(Registers, rdx),
        offset_of!(Registers, rsi),
        offset_of!(Registers, rdi),
        offset_of!(Registers, rbp),
        offset_of!(Registers, rbx),
        offset_of!(Registers, r15),
        offset_of!(Registers, r14),
        offset_of!(Registers, r13),
        offset_of!(Registers, r12),
        offset_of!(Registers, entry),
        offset_of!(Registers, gs_base),
        offset_of!(Registers, fs_base),
    ];
    let mut place = 0;
    while place < order.len() {
        assert!(order[place] == size_of::<Registers>() - 8 * (place + 1));
        place += 1;
    }
};

/// Bytes of a stub in entry.S.
const STUB_BYTES: usize = 16;

unsafe extern "C" {
    static stubs: u8;
    static syscall_entry: u8;
}

/// Address of a vector's stub.
pub(crate) fn stub(vector: u8) -> u64 {
    ((&raw const stubs).addr() + STUB_BYTES * usize::from(vector)) as u64
}

/// Opens SYSCALL on this CPU (AMD APM volume 2, section 6.1.1).
pub(crate) fn enable_system_calls() {
    // SAFETY: the selectors are those of this CPU's descriptor table; SCE only allows SYSCALL.
    unsafe {
        Star::write_raw(gdt::USER_BASE, gdt::KERNEL_CODE);
        Efer::update(|flags| flags.insert(EferFlags::SYSTEM_CALL_EXTENSIONS));
    }
    LStar::write(VirtAddr::new_truncate(
        (&raw const syscall_entry).addr() as u64
    ));
    // Interrupts, single step and nested-task off, string operations upwards, no access to user
    // pages (AC), I/O privilege 0.
    SFMask::write(
        RFlags::INTERRUPT_FLAG
            | RFlags::TRAP_FLAG
            | RFlags::DIRECTION_FLAG
            | RFlags::NESTED_TASK
            | RFlags::ALIGNMENT_CHECK
            | RFlags::IOPL_HIGH
            | RFlags::IOPL_LOW,
    );
}

// The first function of each system call. What a system call keeps is saved in the thread's registers; the
// arguments come here: 0, 1, 2, 5, 3 and 4. Neither this nor what it calls returns: so no register is
// kept for a caller, and none across a call. What is long is saved at once, so that fewer registers are
// taken.

/// Call.
extern "C" fn call(a: u64, b: u64, c: u64, f: u64, d: u64, e: u64) -> ! {
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
extern "C" fn reply_receive(a: u64, b: u64, c: u64, f: u64, d: u64, e: u64) -> ! {
    let (cpu, thread) = (percpu::core(), percpu::thread());
    fast::put_words(thread, [a, b, c, d, e, f]);
    match kernel::get().fast_reply_receive(cpu, thread, Handle(a), b) {
        Some(done) => go_on(thread, done),
        None => resume_or_slow(a, b),
    }
}

/// A ReplyReceive that is not a short one, but perhaps the answer to a fault.
#[inline(never)]
fn resume_or_slow(a: u64, b: u64) -> ! {
    let thread = percpu::thread();
    thread.registers.rdi.set(a);
    thread.registers.rsi.set(b);
    match kernel::get().fast_resume(percpu::core(), thread) {
        Some(done) => go_on(thread, done),
        None => saved_system_call(Operation::ReplyReceive),
    }
}

/// HandleInspect.
extern "C" fn handle_inspect(a: u64) -> ! {
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
extern "C" fn signal(a: u64, b: u64) -> ! {
    let (cpu, thread) = (percpu::core(), percpu::thread());
    match kernel::get().fast_signal(cpu, thread, Handle(a), b) {
        Some(Signalled::Nobody) => return_to(thread, fast::NO_RESULTS),
        Some(Signalled::Up(signals, waiter, terms)) => signal_up(a, b, signals, waiter, terms),
        Some(Signalled::Down(signals, waiter, terms)) => signal_down(a, b, signals, waiter, terms),
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

#[cold]
#[inline(never)]
fn slow_signal(a: u64, b: u64) -> ! {
    let registers = &percpu::thread().registers;
    registers.rdi.set(a);
    registers.rsi.set(b);
    saved_system_call(Operation::Signal)
}

/// Wait.
extern "C" fn wait(a: u64) -> ! {
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
extern "C" fn yield_now() -> ! {
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
    }
}

/// A system call that is not a short one, whose number is saved.
#[cold]
#[inline(never)]
extern "C" fn slow_system_call(a: u64, b: u64, c: u64, f: u64, d: u64, e: u64) -> ! {
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
    enter_ring_3(resume(percpu::this()))
}

#[cold]
#[inline(never)]
fn queue_and_leave(a: u64, b: u64, c: u64, d: u64, e: u64, f: u64, next: &'static Thread) -> ! {
    fast::finish(next, [a, b, c, d, e, f]);
    queue_complete_and_leave(next)
}

#[cold]
#[inline(never)]
fn queue_complete_and_leave(next: &'static Thread) -> ! {
    kernel::get().queue_instead(percpu::core(), next);
    enter_ring_3(resume(percpu::this()))
}

#[cold]
#[inline(never)]
fn wake_and_leave(woken: &'static Thread) -> ! {
    kernel::get().wake(percpu::core(), woken);
    enter_ring_3(resume(percpu::this()))
}

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
    enter_ring_3(resume(percpu::this()))
}

fn save_bases_of(thread: &Thread) {
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
fn enter_ring_3(registers: &'static Registers) -> ! {
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
fn return_to(thread: &'static Thread, results: Arguments) -> ! {
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
fn deliver_to(thread: &'static Thread, results: Arguments) -> ! {
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

/// An interrupt from either ring or an exception from ring 3, with the thread's registers saved. Does not
/// return, as a system call.
extern "C" fn trap(vector: u32) -> ! {
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
    if cpuid::has(Feature::FsGsBase)
        && let Some(done) = percpu::core().current.get().and_then(short)
    {
        go_on_from_trap(done);
    }
    slow_trap(vector.into())
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
        Fast::Queue(next, [a, b, c, d, e, f]) => queue_and_leave(a, b, c, d, e, f, next),
        Fast::Wakes(woken, _) => wake_and_leave(woken),
        Fast::Resumes(next) | Fast::QueueComplete(next) => queue_complete_and_leave(next),
        Fast::Returns(_) | Fast::Leaves(_) => enter_ring_3(resume(percpu::this())),
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
    enter_ring_3(resume(cpu))
}

/// What this CPU does next: back to the assembly with a thread's registers, or idle.
#[inline(always)]
fn resume(cpu: &'static PerCpu) -> &'static Registers {
    match kernel::get().leave(kernel::cpu(cpu)) {
        Some(thread) => load_registers(cpu, thread),
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

/// Lets this CPU, which starts, take up work.
pub(crate) fn begin(cpu: &'static PerCpu) -> ! {
    enter_ring_3(resume(cpu))
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

/// What the CPU and a stub of entry.S have pushed when ring 0 took an exception.
#[repr(C)]
struct Frame {
    rax: u64,
    error_code: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// An exception in ring 0, a double fault, or a machine check: a broken invariant or machine.
extern "C" fn fatal_exception(vector: u32, frame: &Frame, frame_pointer: u64) -> ! {
    percpu::recover();
    let from_ring_3 = frame.cs & 3 != 0;
    panic::exception(&panic::Exception {
        vector,
        error_code: frame.error_code,
        address: Cr2::read_raw(),
        instruction_pointer: frame.rip,
        stack_pointer: frame.rsp,
        flags: frame.rflags,
        frame_pointer: if from_ring_3 { 0 } else { frame_pointer },
    })
}

/// An NMI: how a panic stops the other CPUs; else the machine's complaint, which nobody here can
/// judge. May run between any two instructions: takes no lock and knows no per-CPU state.
extern "C" fn non_maskable() {
    stop::obey();
}
