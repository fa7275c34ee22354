//! Where a task begins: the macros for `task/src/main.rs`, and what happens before its function.
#![expect(
    unsafe_code,
    reason = "the first instructions run on what the task's maker promised"
)]

use crate::mapping::{Access, Permanent, map_into};
use crate::memory::Memory;
use crate::{block, heap, log, start, syscall};
use ipc::layout::{INIT_STACK_BYTES, INIT_STACK_END, init_handles};
pub use ipc::startup::Startup;
use ipc::startup::{HEAP_START, NamedHandle, Range, STARTUP_BYTES, names, thread_block};
#[doc(hidden)]
pub use ipc::version_note;

/// Makes a function the program of a task:
///
/// ```text
/// #![cfg_attr(target_os = "none", no_std, no_main)]
/// runtime::task_main!(run);
///
/// fn run(startup: &'static runtime::entry::Startup<'static>) { .. }
/// ```
///
/// The function's return ends the task. On the host the program does nothing.
#[macro_export]
macro_rules! task_main {
    ($run:path) => {
        $crate::start_at!(begin);

        /// Prepares the task and runs its program.
        #[cfg(target_os = "none")]
        extern "C" fn begin(startup: u64, _: u64, ipc_buffer: u64) -> ! {
            // SAFETY: init started the first thread with these registers (`ipc::startup`).
            let startup = unsafe { $crate::entry::prepare(startup, ipc_buffer) };
            $run(startup);
            $crate::thread::finish()
        }
        $crate::host_main!($run, &'static $crate::entry::Startup<'static>);
    };
}

/// Makes a function the program of init:
///
/// ```text
/// runtime::init_main!(run, 1 << 20); // bytes of heap
///
/// fn run(archive: &'static [u8]) { .. }
/// ```
#[macro_export]
macro_rules! init_main {
    ($run:path, $heap_bytes:expr) => {
        $crate::start_at!(begin);

        /// Prepares init and runs its program.
        #[cfg(target_os = "none")]
        extern "C" fn begin(archive: u64, bytes: u64, ipc_buffer: u64) -> ! {
            use $crate::entry::prepare_init;
            // SAFETY: the kernel started the first thread with these registers
            // (`ipc::layout::init_handles`).
            let archive = unsafe { prepare_init(archive, bytes, ipc_buffer, $heap_bytes) };
            $run(archive);
            $crate::thread::finish()
        }
        $crate::host_main!($run, &'static [u8]);
    };
}

/// The first instructions: end the chain of frames, align the stack, go on in Rust.
#[doc(hidden)]
#[macro_export]
macro_rules! start_at {
    ($begin:ident) => {
        $crate::entry::version_note!();

        /// The program's entry point.
        #[cfg(target_os = "none")]
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        extern "C" fn _start() -> ! {
            core::arch::naked_asm!(
                "xor ebp, ebp",
                "and rsp, -16",
                "call {begin}",
                "ud2",
                begin = sym $begin,
            )
        }
    };
}

/// On the host the program does nothing; its function is named, so that it is checked there as well.
#[doc(hidden)]
#[macro_export]
macro_rules! host_main {
    ($run:path, $argument:ty) => {
        #[cfg(not(target_os = "none"))]
        fn main() {
            let _: fn($argument) = $run;
        }
    };
}

/// Prepares an ordinary task: thread block, startup block, heap, log.
///
/// # Safety
///
/// To be called once, first of all, with the registers of `ipc::startup`.
pub unsafe fn prepare(startup: u64, ipc_buffer: u64) -> &'static Startup<'static> {
    // SAFETY: init mapped the block there, read-only and for ever, its length in front.
    let block = unsafe {
        let head = bytes_at(startup, LENGTH_BYTES);
        let length = head
            .first_chunk()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes));
        bytes_at(startup, LENGTH_BYTES + length.min(STARTUP_BYTES as u64))
    };
    let Ok(decoded) = Startup::decode(block) else {
        syscall::fault()
    };
    let stack = decoded.stack;
    let Some(end) = stack.start.checked_add(stack.bytes) else {
        syscall::fault()
    };
    // SAFETY: the block lies at the end of the first stack, where FS base points, above all frames.
    unsafe { block::initialise(thread_block(end), ipc_buffer, stack.start) };
    // SAFETY: init mapped the heap for this task, and nothing uses it yet.
    unsafe { heap::initialise(decoded.heap) };
    let memory = decoded.log;
    start::keep(decoded);
    if memory.range.bytes != 0 {
        // SAFETY: init mapped the log memory, writable and for ever, and nothing else uses it.
        let shared = unsafe { Permanent::new(memory.range.start, memory.range.bytes) };
        log::use_memory(shared, memory.bits);
    } else if let Some(control) = start::startup().handle(names::SYSTEM_CONTROL) {
        log::use_kernel(control);
    }
    start::startup()
}

/// Prepares init: thread block, heap, log, and a startup block of its own.
///
/// # Safety
///
/// To be called once, first of all, with the registers of `ipc::layout::init_handles`.
pub unsafe fn prepare_init(
    archive: u64,
    archive_bytes: u64,
    ipc_buffer: u64,
    heap_bytes: u64,
) -> &'static [u8] {
    let stack = Range {
        start: INIT_STACK_END - INIT_STACK_BYTES,
        bytes: INIT_STACK_BYTES,
    };
    // SAFETY: the block lies at the end of the stack, where FS base points, above all frames.
    unsafe { block::initialise(thread_block(INIT_STACK_END), ipc_buffer, stack.start) };
    let mut startup = Startup {
        name: "init",
        stack,
        ..Startup::default()
    };
    for (name, handle) in [
        (names::TASK, init_handles::TASK),
        (names::DEVICE_CONTROL, init_handles::DEVICE_CONTROL),
        (names::SCHED_CONTROL, init_handles::SCHED_CONTROL),
        (names::SYSTEM_CONTROL, init_handles::SYSTEM_CONTROL),
        (names::TRACE, init_handles::TRACE),
    ] {
        // There is room for more than these.
        let _ = startup.handles.push(NamedHandle { name, handle });
    }
    startup.heap = init_heap(heap_bytes);
    // SAFETY: just mapped, and used by nothing.
    unsafe { heap::initialise(startup.heap) };
    start::keep(startup);
    log::use_kernel(init_handles::SYSTEM_CONTROL);
    // SAFETY: the kernel mapped the archive there, read-only and for ever.
    unsafe { bytes_at(archive, archive_bytes) }
}

/// Makes and maps init's heap. Without one init cannot run, and says so by its fault.
fn init_heap(bytes: u64) -> Range {
    let bytes = bytes.next_multiple_of(ipc::layout::PAGE_BYTES);
    let mapped = Memory::create(bytes).and_then(|memory| {
        map_into(
            init_handles::TASK,
            &memory,
            HEAP_START,
            0,
            bytes,
            Access::Write,
        )
    });
    match mapped {
        Ok(()) => Range {
            start: HEAP_START,
            bytes,
        },
        Err(_) => syscall::fault(),
    }
}

/// Bytes of the length in front of a startup block.
const LENGTH_BYTES: u64 = 8;

/// # Safety
///
/// The bytes are mapped, readable, and never change.
unsafe fn bytes_at(address: u64, bytes: u64) -> &'static [u8] {
    let start = core::ptr::with_exposed_provenance(address as usize);
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts(start, bytes as usize) }
}
