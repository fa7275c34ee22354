//! System calls with any numbers and values, memory at any address, and instructions that no sane
//! program executes: what the suite needs to misbehave. The only module of the suite with unsafe
//! code. What is done with it is the tests' business.
#![expect(
    unsafe_code,
    reason = "hostile programs need raw system calls, raw memory and forbidden instructions"
)]

use core::sync::atomic::AtomicU64;

use ipc::message::{BUFFER_BYTES, NEVER};
use ipc::startup::thread_block;
use ipc::{Error, Operation};

/// Arguments and results 0 to 5.
pub(crate) type Registers = [u64; 6];

/// The six registers of a system call's arguments from up to six values; the rest is 0.
pub(crate) fn arguments(values: &[u64]) -> Registers {
    let mut registers = [0; 6];
    for (register, value) in registers.iter_mut().zip(values) {
        *register = *value;
    }
    registers
}

/// Enters the kernel with these very registers and gives status and results.
pub(crate) fn enter(number: u64, arguments: Registers, deadline: u64) -> (u64, Registers) {
    // SAFETY: what the kernel does to memory is the point of a test, which sees to it that it is
    // none that the compiler relies on.
    unsafe { runtime::syscall::raw(number, arguments, deadline) }
}

/// An operation with a deadline.
pub(crate) fn until(
    operation: Operation,
    values: &[u64],
    deadline: u64,
) -> Result<Registers, Error> {
    match enter(operation as u64, arguments(values), deadline) {
        (0, results) => Ok(results),
        (code, _) => Err(Error::from_code(code).unwrap_or(Error::InvalidOperation)),
    }
}

/// An operation without a deadline.
pub(crate) fn call(operation: Operation, values: &[u64]) -> Result<Registers, Error> {
    until(operation, values, NEVER)
}

/// An operation whose result 0 is all that is wanted.
pub(crate) fn value(operation: Operation, values: &[u64]) -> Result<u64, Error> {
    call(operation, values).map(|[value, ..]| value)
}

/// A page of words that several threads share.
#[derive(Debug)]
#[repr(C, align(4096))]
pub(crate) struct Board {
    /// The words.
    pub(crate) words: [AtomicU64; 512],
}

/// The board at an address. The caller keeps the page mapped as long as the board is used.
pub(crate) fn board(address: u64) -> &'static Board {
    // SAFETY: the suite maps a page there, and all of it is atomics.
    unsafe { &*core::ptr::with_exposed_provenance::<Board>(address as usize) }
}

/// The words of a range of memory that this task has mapped, a multiple of 8.
pub(crate) fn words(address: u64, bytes: u64) -> &'static [AtomicU64] {
    let pointer = core::ptr::with_exposed_provenance::<AtomicU64>(address as usize);
    // SAFETY: the suite keeps the range mapped while it looks at it; atomics may be shared.
    unsafe { core::slice::from_raw_parts(pointer, (bytes / 8) as usize) }
}

/// Reads a quadword at any address; a fault if it cannot be read.
pub(crate) fn peek(address: u64) -> u64 {
    let value;
    // SAFETY: reading has no effect but perhaps a fault, which the test waits for.
    unsafe {
        core::arch::asm!("mov {}, [{}]", out(reg) value, in(reg) address,
            options(nostack, preserves_flags, readonly));
    }
    value
}

/// Writes a quadword at any address; a fault if it cannot be written.
pub(crate) fn poke(address: u64, value: u64) {
    // SAFETY: the test sees to it that the address is its own, or that the write faults.
    unsafe {
        core::arch::asm!("mov [{}], {}", in(reg) address, in(reg) value,
            options(nostack, preserves_flags));
    }
}

/// Goes to an address and executes what is there.
pub(crate) fn jump(address: u64) -> ! {
    // SAFETY: what lies there never comes back here.
    unsafe { core::arch::asm!("jmp {}", in(reg) address, options(noreturn)) }
}

/// The calling thread's IPC buffer (`ipc::startup`: the second word at FS base).
pub(crate) fn buffer() -> &'static mut [u8; BUFFER_BYTES] {
    let address: u64;
    // SAFETY: FS base is the thread block of every thread that this suite runs. No other reference
    // to the page is alive: the suite keeps none over a system call.
    unsafe {
        core::arch::asm!("mov {}, fs:[8]", out(reg) address,
            options(nostack, preserves_flags, readonly));
        &mut *core::ptr::with_exposed_provenance_mut(address as usize)
    }
}

/// Writes a thread block (`ipc::startup`) at the end of a stack whose memory this task has mapped.
/// Returns its address, which is the thread's FS base.
pub(crate) fn write_thread_block(stack_end: u64, ipc_buffer: u64) -> u64 {
    let block = thread_block(stack_end);
    poke(block, block);
    poke(block + 8, ipc_buffer);
    block
}

/// What a thread of the suite does.
pub(crate) type Body = fn(&'static Board);

/// The word of a board that holds its thread's body.
pub(crate) const BODY: usize = 511;
/// The word of a board that becomes 1 when its thread's body has returned.
pub(crate) const DONE: usize = 510;

/// The number that stands for a body.
pub(crate) fn body_number(body: Body) -> u64 {
    body as usize as u64
}

/// Where every thread of the suite begins: runs the body that its board names.
pub(crate) extern "C" fn thread_entry(address: u64) -> ! {
    use core::sync::atomic::Ordering;
    let board = board(address);
    let number = board.words[BODY].load(Ordering::Acquire) as usize;
    // SAFETY: the maker of the thread put a body's number there.
    let body = unsafe { core::mem::transmute::<usize, Body>(number) };
    body(board);
    board.words[DONE].store(1, Ordering::Release);
    let _ = call(Operation::Exit, &[]);
    loop {
        core::hint::spin_loop();
    }
}

/// A loadable part of this program, as it is in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// Its address.
    pub(crate) address: u64,
    /// Its length in bytes.
    pub(crate) bytes: u64,
    /// Whether it is executable.
    pub(crate) execute: bool,
}

/// The loadable part of this program with this number, from its own program headers (System V ABI,
/// chapter 5), which the linker keeps in the first one.
pub(crate) fn part(number: usize) -> Option<Part> {
    unsafe extern "C" {
        /// The ELF header, by the linker's definition.
        #[link_name = "__ehdr_start"]
        static HEADER: [u64; 8];
    }
    // SAFETY: the linker puts the header at this symbol, in a segment that is mapped readable.
    let header = unsafe { &HEADER };
    let table = header.as_ptr().expose_provenance() as u64 + header[4];
    let count = header[7] & 0xffff;
    let mut loadable = (0..count).map(|index| table + index * 56).filter(|at| {
        const PT_LOAD: u64 = 1;
        peek(*at) & 0xffff_ffff == PT_LOAD && peek(at + 40) > 0
    });
    loadable.nth(number).map(|at| Part {
        address: peek(at + 16),
        bytes: peek(at + 40),
        execute: peek(at) >> 32 & 1 != 0,
    })
}

/// Reads a byte from an I/O port.
pub(crate) fn port_in(port: u16) -> u8 {
    let value;
    // SAFETY: the test has the port, or waits for the fault.
    unsafe {
        core::arch::asm!("in al, dx", in("dx") port, out("al") value,
            options(nostack, preserves_flags));
    }
    value
}

/// Writes a byte to an I/O port.
pub(crate) fn port_out(port: u16, value: u8) {
    // SAFETY: the test has the port, or waits for the fault.
    unsafe {
        core::arch::asm!("out dx, al", in("dx") port, in("al") value,
            options(nostack, preserves_flags));
    }
}

/// Declares instructions that ring 3 may not execute, each a body of its own.
macro_rules! forbidden {
    ($($(#[doc = $doc:literal])+ $name:ident = $($line:literal),+;)+) => {
        $($(#[doc = $doc])+
        pub(crate) fn $name(_: &'static Board) {
            // SAFETY: the instruction faults; the thread is ended by who waits for the fault.
            unsafe {
                core::arch::asm!($($line,)+ out("rax") _, out("rcx") _, out("rdx") _);
            }
        })+

        /// Each forbidden instruction by its name.
        pub(crate) const FORBIDDEN: &[(&str, Body)] = &[$((stringify!($name), $name),)+];
    };
}

forbidden! {
    /// Stops the processor.
    hlt = "hlt";
    /// Masks interrupts.
    cli = "cli";
    /// Allows interrupts.
    sti = "sti";
    /// Reads the page-table root.
    read_cr3 = "mov rax, cr3";
    /// Switches write protection off.
    write_cr0 = "xor eax, eax", "mov cr0, rax";
    /// Switches SMEP and SMAP off.
    write_cr4 = "xor eax, eax", "mov cr4, rax";
    /// Reads a model-specific register.
    rdmsr = "mov ecx, 0xc0000080", "rdmsr";
    /// Writes the address that SYSCALL goes to.
    wrmsr = "mov ecx, 0xc0000082", "xor eax, eax", "xor edx, edx", "wrmsr";
    /// Loads a descriptor table.
    lgdt = "sub rsp, 16", "lgdt [rsp]", "add rsp, 16";
    /// Loads an interrupt table.
    lidt = "sub rsp, 16", "lidt [rsp]", "add rsp, 16";
    /// Loads a task register.
    ltr = "xor eax, eax", "ltr ax";
    /// Throws the caches away.
    invd = "invd";
    /// Drops a TLB entry.
    invlpg = "invlpg [rsp]";
    /// Leaves to a kernel-mode stack.
    iretq_to_ring_0 = "push 0x10", "push rsp", "pushfq", "push 0x8", "push 0", "iretq";
    /// Sets the I/O privilege level and masks interrupts, and then uses a port.
    popfq_with_iopl = "pushfq", "or qword ptr [rsp], 0x3000", "popfq", "mov edx, 0x80", "in al, dx";
    /// Calls a software interrupt that is the kernel's own.
    int_timer = "int 0x30";
    /// Executes what is no instruction.
    ud2 = "ud2";
    /// Divides by zero.
    divide = "xor eax, eax", "xor edx, edx", "xor ecx, ecx", "div ecx";
    /// Returns from a system call that was none.
    sysretq = "mov rcx, 0x10000", "sysretq";
}

/// Reads the clock with the direction flag set, and gives the status. The flag is clear afterwards,
/// as the compiler wants it.
pub(crate) fn call_with_direction_flag() -> u64 {
    let status;
    // SAFETY: the operation changes registers only, all of which are declared; between STD and CLD
    // nothing else is executed.
    unsafe {
        core::arch::asm!(
            "std", "syscall", "cld",
            inlateout("rax") Operation::ClockRead as u64 => status,
            inlateout("rdi") 0_u64 => _, inlateout("rsi") 0_u64 => _, inlateout("rdx") 0_u64 => _,
            inlateout("r8") 0_u64 => _, inlateout("r9") 0_u64 => _, inlateout("r10") 0_u64 => _,
            in("r12") NEVER, lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    status
}

/// Sets the trap flag and makes a system call: a debug exception after an instruction of ring 3.
pub(crate) fn trap_flag(_: &'static Board) {
    // SAFETY: the thread is ended by who waits for the fault.
    unsafe {
        core::arch::asm!(
            "pushfq", "or qword ptr [rsp], 0x100", "popfq", "syscall", "nop", "nop",
            inlateout("rax") Operation::ClockRead as u64 => _,
            inlateout("rdi") 0_u64 => _, inlateout("rsi") 0_u64 => _, inlateout("rdx") 0_u64 => _,
            inlateout("r8") 0_u64 => _, inlateout("r9") 0_u64 => _, inlateout("r10") 0_u64 => _,
            in("r12") NEVER, lateout("rcx") _, lateout("r11") _,
        );
    }
}

/// Uses an SSE register. A fault in a thread that did not say that it uses the FPU.
pub(crate) fn sse(_: &'static Board) {
    // SAFETY: no code of this soft-float program uses the register.
    unsafe { core::arch::asm!("xorps xmm0, xmm0", options(nostack, preserves_flags)) }
}

/// Puts `value` into SSE registers, spins for `rounds`, and says whether they still hold it.
pub(crate) fn sse_keeps(value: u64, rounds: u64) -> bool {
    let (low, high): (u64, u64);
    // SAFETY: no code of this soft-float program uses the registers, and no memory is touched. The
    // instructions are SSE2's, which every x86-64 processor has.
    unsafe {
        core::arch::asm!(
            "movq xmm7, {value}",
            "movq xmm15, {value}",
            "2:",
            "nop",
            "dec {rounds}",
            "jnz 2b",
            "movq {low}, xmm7",
            "movq {high}, xmm15",
            value = in(reg) value,
            rounds = inout(reg) rounds.max(1) => _,
            low = out(reg) low,
            high = out(reg) high,
            options(nostack),
        );
    }
    low == value && high == value
}
