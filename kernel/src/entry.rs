//! Where ring 3 enters the kernel: the assembly (entry.S), what it is told about structures and functions, and
//! the registers that lead to it. What becomes of an entry is `system_call`'s and `trap`'s to see to, the way
//! back `exit`'s. No policy here.
#![expect(
    unsafe_code,
    reason = "the entry assembly and the registers it is entered by"
)]

use crate::cpuid::Feature;
use crate::{gdt, idt, panic, percpu, stop, system_call, trap};
use core::arch::global_asm;
use core::mem::offset_of;
use ipc::Operation;
use kernel_core::registers::Registers;
use x86_64::VirtAddr;
use x86_64::registers::control::{Cr2, Cr3, Efer, EferFlags};
use x86_64::registers::model_specific::{LStar, SFMask, Star};
use x86_64::registers::rflags::RFlags;

ipc::version_note!();

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
    RECEIVE = const Operation::Receive as u64,
    SIGNAL_RECEIVE = const Operation::SignalReceive as u64,
    SIGNAL = const Operation::Signal as u64,
    WAIT = const Operation::Wait as u64,
    call = sym system_call::call,
    reply_receive = sym system_call::reply_receive,
    receive = sym system_call::receive,
    signal_receive = sym system_call::signal_receive,
    signal = sym system_call::signal,
    wait = sym system_call::wait,
    YIELD = const Operation::Yield as u64,
    HANDLE_INSPECT = const Operation::HandleInspect as u64,
    yield_now = sym system_call::yield_now,
    handle_inspect = sym system_call::handle_inspect,
    slow_system_call = sym system_call::slow_system_call,
    trap = sym trap::trap,
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

/// What the CPU, a stub of entry.S and `fatal` have pushed when ring 0 took an exception.
#[repr(C)]
struct Frame {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    r11: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    rdi: u64,
    rsi: u64,
    rbp: u64,
    rbx: u64,
    rdx: u64,
    rcx: u64,
    rax: u64,
    error_code: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

/// An exception in ring 0, a double fault, or a machine check: a broken invariant or machine.
extern "C" fn fatal_exception(vector: u32, frame: &Frame) -> ! {
    percpu::recover();
    let address = Cr2::read_raw();
    let from_ring_3 = frame.cs & 3 != 0;
    panic::exception(&panic::Exception {
        vector,
        error_code: frame.error_code,
        address,
        instruction_pointer: frame.rip,
        frame_pointer: if from_ring_3 { 0 } else { frame.rbp },
        registers: [
            ("rip", frame.rip),
            ("rsp", frame.rsp),
            ("rbp", frame.rbp),
            ("rax", frame.rax),
            ("rbx", frame.rbx),
            ("rcx", frame.rcx),
            ("rdx", frame.rdx),
            ("rsi", frame.rsi),
            ("rdi", frame.rdi),
            ("r8", frame.r8),
            ("r9", frame.r9),
            ("r10", frame.r10),
            ("r11", frame.r11),
            ("r12", frame.r12),
            ("r13", frame.r13),
            ("r14", frame.r14),
            ("r15", frame.r15),
            ("rflags", frame.rflags),
            ("cs", frame.cs),
            ("ss", frame.ss),
            ("cr2", address),
            ("cr3", Cr3::read_raw().0.start_address().as_u64()),
        ],
    })
}

/// An NMI: how a panic stops the other CPUs; else the machine's complaint, which nobody here can
/// judge. May run between any two instructions: takes no lock and asks nothing of the GS base.
extern "C" fn non_maskable() {
    stop::obey();
}
