//! The kernel binary: the mechanism half of the kernel, and the start of the machine.
//!
//! Everything here touches hardware; what to do with it is `kernel_core`'s to decide, which knows the
//! machine only as `kernel_core::platform::Platform` (module `platform`). One hardware concept is one
//! module. kernel/SAFETY.md says why their unsafe code is sound. The package is built for the bare
//! machine only (`cargo run -- build kernel`).
#![no_std]
#![no_main]

mod apic;
mod boot_memory;
mod calibrate;
mod clock;
mod cpuid;
mod entry;
mod exit;
mod fpu;
mod gdt;
mod idt;
mod ioapic;
mod kernel;
mod kvmclock;
mod paging;
mod panic;
mod patch;
mod percpu;
mod physical;
mod platform;
mod ports;
mod power;
#[cfg(feature = "panics")]
mod provoke;
mod rtc;
mod smp;
mod start;
mod stop;
mod symbols;
mod system_call;
mod timer;
mod trap;
mod uart;
