//! A thread's saved registers: the one layout that the entry assembly and the core share.
//!
//! The entry code stores them from its first instructions on, straight into the thread; the exit
//! code loads them from there. They are atomic because the core is safe code that is shared between
//! CPUs; only the CPU that runs or has claimed the thread touches them, so every access is relaxed,
//! which costs no more than a plain one.

use crate::sync::{AtomicU64, Ordering};

macro_rules! registers {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// Registers of ring 3, in the order in which they lie in memory: the last five are what
        /// the CPU pushes for an interrupt (Intel SDM volume 3A, section 6.14.2), so that the
        /// stack pointer of the interrupted thread's entry can be the end of this structure.
        #[derive(Debug, Default)]
        #[repr(C, align(16))]
        pub struct Registers { $($(#[$doc])* pub $name: Register,)+ }

        impl Registers {
            /// Zeroes them all.
            pub fn clear(&self) {
                $(self.$name.set(0);)+
            }
        }
    };
}

/// One saved register.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Register(AtomicU64);

impl Register {
    /// The value.
    #[inline(always)]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Replaces the value.
    #[inline(always)]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }
}

registers! {
    /// FS base.
    fs_base,
    /// GS base of ring 3.
    gs_base,
    /// How the thread entered last: 0 by SYSCALL (rcx and r11 are free to change), 1 by interrupt or
    /// exception (every register must come back: IRETQ, which makes it 0). A new thread has 1.
    entry,
    /// Deadline of an operation; else kept.
    r12,
    /// Kept.
    r13,
    /// Kept.
    r14,
    /// Kept.
    r15,
    /// Kept.
    rbx,
    /// Kept.
    rbp,
    /// Argument and result 0; handle, badge.
    rdi,
    /// Argument and result 1; tag.
    rsi,
    /// Argument and result 2; message word 0.
    rdx,
    /// Argument and result 3; message word 1.
    r8,
    /// Argument and result 4; message word 2.
    r9,
    /// Argument and result 5; message word 3.
    r10,
    /// RFLAGS at SYSCALL (AMD APM volume 3, SYSCALL); else r11.
    r11,
    /// RIP at SYSCALL; else rcx.
    rcx,
    /// Operation; status.
    rax,
    /// Exception error code, or 0.
    error_code,
    /// Instruction pointer.
    rip,
    /// Code segment.
    cs,
    /// Flags.
    rflags,
    /// Stack pointer.
    rsp,
    /// Stack segment.
    ss,
}
