//! Code that is chosen once, at boot: the entry assembly marks instructions that only some processors
//! have, and on the others this overwrites them with no-operations. (Section `.patches`, written by
//! the macros in entry.S.)
#![expect(
    unsafe_code,
    reason = "rewrites the kernel's code before it is write-protected"
)]

use crate::cpuid;
use core::slice;
use kernel_core::sync::Ordering;

/// One marked piece of code.
#[repr(C)]
struct Patch {
    start: u64,
    length: u32,
    /// Bit of [`cpuid::Feature`] without which the code goes.
    feature: u32,
}

unsafe extern "C" {
    static __patches_start: Patch;
    static __patches_end: Patch;
}

/// One-byte no-operation (Intel SDM volume 2B, NOP), and the recommended ones of 2 to 9 bytes.
const NO_OPERATION: [&[u8]; 9] = [
    &[0x90],
    &[0x66, 0x90],
    &[0x0f, 0x1f, 0x00],
    &[0x0f, 0x1f, 0x40, 0x00],
    &[0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
    &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
    &[0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
    &[0x66, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
];

/// Fits the entry code to this machine. To be called once, on the early page tables, after
/// [`cpuid::detect`], before any gate leads to that code.
pub(crate) fn apply() {
    let (start, end) = (&raw const __patches_start, &raw const __patches_end);
    let count = (end.addr() - start.addr()) / size_of::<Patch>();
    // SAFETY: kernel.ld puts the two symbols around the records that entry.S wrote.
    let patches = unsafe { slice::from_raw_parts(start, count) };
    for patch in patches
        .iter()
        .filter(|patch| !cpuid::has_bit(patch.feature))
    {
        let (start, length) = (patch.start as *mut u8, patch.length as usize);
        // SAFETY: the piece is code of entry.S, which no CPU runs yet, and the early page tables
        // have it writable.
        let code = unsafe { slice::from_raw_parts_mut(start, length) };
        for chunk in code.chunks_mut(NO_OPERATION.len()) {
            chunk.copy_from_slice(NO_OPERATION[chunk.len() - 1]);
        }
    }
    // The far return of the next interrupt or system call serialises instruction fetch.
    kernel_core::sync::fence(Ordering::SeqCst);
}
