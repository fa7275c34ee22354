//! Panics on request, for the test of what a panic says: `panic=assertion`, `panic=exception`,
//! `panic=double-fault` or `panic=interrupted` on the command line of a kernel that was built with the feature `panics`. The default build
//! has none of it.
#![expect(unsafe_code, reason = "an exception on purpose")]

use core::arch::asm;

/// Panics if the command line says so.
pub(crate) fn by(command_line: &str) {
    let mut words = command_line.split_ascii_whitespace();
    match words.find_map(|word| word.strip_prefix("panic=")) {
        Some("assertion") => assertion(),
        Some("exception") => exception(),
        Some("double-fault") => double_fault(),
        Some("interrupted") => panic!("{Interrupted} on purpose"),
        Some(other) => panic!("there is no panic {other}"),
        None => {}
    }
}

#[inline(never)]
fn assertion() {
    broken_invariant(core::hint::black_box(7));
    // What the call returns to is in this function: it is no tail call.
    core::hint::black_box(());
}

#[inline(never)]
fn broken_invariant(number: u32) {
    assert!(number == 0, "{number} on purpose");
}

#[inline(never)]
fn exception() {
    wild_read(core::hint::black_box(0xdead_0000));
    core::hint::black_box(());
}

/// Reads where nothing is mapped, with a number of its own in every register that it may change.
#[inline(never)]
fn wild_read(address: u64) {
    // SAFETY: an exception in ring 0 ends the kernel, which is what this is for; nothing is read before.
    unsafe {
        asm!(
            "mov rax, [rcx]",
            in("rcx") address,
            inout("rax") 0xa0_u64 => _,
            in("rdx") 0xa2_u64,
            in("rsi") 0xa3_u64,
            in("rdi") 0xa4_u64,
            in("r8") 0xa8_u64,
            in("r9") 0xa9_u64,
            in("r10") 0xaa_u64,
            in("r11") 0xab_u64,
            in("r12") 0xac_u64,
            in("r13") 0xad_u64,
            in("r14") 0xae_u64,
            in("r15") 0xaf_u64,
        );
    }
}

/// Pushes onto a stack that is not there, with the direction flag as ring 3 may have it when a machine check comes.
#[inline(never)]
fn double_fault() {
    // SAFETY: a double fault ends the kernel, which is what this is for, on a stack of its own; nothing is written
    // before.
    unsafe {
        asm!(
            "mov rsp, {nowhere:r}",
            "std",
            "push rax",
            "ud2",
            nowhere = in(reg) 0xdead_0000_u64,
            options(noreturn)
        );
    }
}

/// Says so after an NMI, which comes while the panic speaks.
struct Interrupted;

impl core::fmt::Display for Interrupted {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        // SAFETY: enters the NMI's handler, on its own stack, which returns with all registers as they were.
        unsafe { asm!("int 2") };
        formatter.write_str("interrupted")
    }
}
