//! The thread block: the words at the end of each thread's stack that FS base points at. What its
//! first two words are is `ipc::startup`'s; the others are declared here.
#![expect(
    unsafe_code,
    reason = "the block is reached through FS base, by inline assembly"
)]

use ipc::startup::THREAD_BLOCK_BYTES;

/// Its own address.
const OWN_ADDRESS: usize = 0;
/// Address of the IPC buffer.
pub(crate) const IPC_BUFFER: usize = 1;
/// Not 0 while somebody uses the IPC buffer.
pub(crate) const BUFFER_TAKEN: usize = 2;
/// First address of the stack.
pub(crate) const STACK_START: usize = 3;
/// Number of words.
const WORDS: usize = THREAD_BLOCK_BYTES as usize / 8;

/// Writes the block of a thread that does not run yet, or the calling thread's own at its start.
///
/// # Safety
///
/// `block` is the address of [`THREAD_BLOCK_BYTES`] writable bytes, a multiple of 8, that nothing
/// else uses, and `ipc_buffer` that of the thread's IPC buffer.
pub(crate) unsafe fn initialise(block: u64, ipc_buffer: u64, stack_start: u64) {
    let mut words = [0; WORDS];
    words[OWN_ADDRESS] = block;
    words[IPC_BUFFER] = ipc_buffer;
    words[STACK_START] = stack_start;
    // SAFETY: the caller's promise.
    unsafe { core::ptr::with_exposed_provenance_mut::<[u64; WORDS]>(block as usize).write(words) };
}

/// Reads a word of the calling thread's block.
#[cfg(target_os = "none")]
pub(crate) fn read(word: usize) -> u64 {
    assert!(word < WORDS, "the word is in the block");
    let value;
    // SAFETY: FS base is the block of the running thread, by the contract of its start, and the
    // word is in it.
    unsafe {
        core::arch::asm!(
            "mov {value}, fs:[{word} * 8]",
            value = lateout(reg) value,
            word = in(reg) word,
            options(nostack, preserves_flags, readonly),
        );
    }
    value
}

/// Writes a word of the calling thread's block. Words 0 and 1 are never written so.
#[cfg(target_os = "none")]
pub(crate) fn write(word: usize, value: u64) {
    assert!(
        (BUFFER_TAKEN..WORDS).contains(&word),
        "the word is one of the library's"
    );
    // SAFETY: as in `read`; no reference to the block exists.
    unsafe {
        core::arch::asm!(
            "mov fs:[{word} * 8], {value}",
            value = in(reg) value,
            word = in(reg) word,
            options(nostack, preserves_flags),
        );
    }
}

/// On the host there is no block: all words are 0.
#[cfg(not(target_os = "none"))]
pub(crate) fn read(_: usize) -> u64 {
    0
}

/// On the host there is no block.
#[cfg(not(target_os = "none"))]
pub(crate) fn write(_: usize, _: u64) {}
