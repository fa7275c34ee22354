//! The assembly between a boot loader, or a start-up interrupt, and the kernel's first Rust function
//! on each processor. It leaves the kernel early page tables: physical memory up to 4 GiB twice, at
//! its own address and (the first 2 GiB) at [`KERNEL_BASE`], all writable and executable. The kernel
//! replaces them by its own; only a starting processor passes through them again.
//!
//! The kernel provides `kernel_start(magic: u32, info: u32) -> !` and
//! `kernel_start_ap(argument: u64) -> !`.
#![expect(unsafe_code, reason = "declares and places the entry assembly")]

use core::arch::global_asm;
use core::mem::offset_of;

/// Virtual address at which physical address 0 appears in the kernel's image.
pub const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
/// End (exclusive) of the physical memory that the early page tables map at its own address.
pub const EARLY_END: u64 = 1 << 32;

/// Stack on which the boot processor starts, used until it enters ring 3. Code that is not optimised
/// copies the lists of boot information from frame to frame.
const STACK_BYTES: usize = if cfg!(debug_assertions) {
    512 * 1024
} else {
    128 * 1024
};

/// Where the parameters lie in the trampoline's page, in bytes from its beginning.
pub const PARAMETERS: usize = 0xf00;

/// What a starting processor finds in the trampoline's page at [`PARAMETERS`].
#[derive(Debug)]
#[repr(C)]
pub struct Parameters {
    /// Passed to `kernel_start_ap`. A processor takes it by exchanging it with 0; one that finds 0
    /// was given up, and halts. Written last.
    pub argument: u64,
    /// Stack pointer, mapped in `root`.
    pub stack: u64,
    /// Physical address of the kernel's page-table root.
    pub root: u64,
    /// Physical address of the early page-table root.
    pub early_root: u64,
}

global_asm!(
    include_str!("entry.S"),
    // What turns a linked address into the physical one when added, modulo 2^64.
    LOW = const KERNEL_BASE.wrapping_neg(),
    STACK_BYTES = const STACK_BYTES,
    PARAMETERS = const PARAMETERS,
    ARGUMENT = const offset_of!(Parameters, argument),
    STACK = const offset_of!(Parameters, stack),
    ROOT = const offset_of!(Parameters, root),
    EARLY_ROOT = const offset_of!(Parameters, early_root),
);

unsafe extern "C" {
    static trampoline: u8;
    static trampoline_end: u8;
    static early_root: u8;
}

/// The code to be copied to the beginning of a page below 1 MiB. Shorter than [`PARAMETERS`].
pub fn trampoline_code() -> &'static [u8] {
    let (start, end) = (&raw const trampoline, &raw const trampoline_end);
    // SAFETY: entry.S places both symbols around the trampoline, in read-only data.
    unsafe { core::slice::from_raw_parts(start, end.addr() - start.addr()) }
}

/// Physical address of the early page-table root.
pub fn early_root_address() -> u64 {
    (&raw const early_root).addr() as u64 - KERNEL_BASE
}
