//! From the boot loader to the kernel's first Rust function, and what the boot loader said.
//!
//! Two front doors, PVH and multiboot2, lead to one 32-bit entry (`entry`: assembly, on the bare
//! machine only), which climbs to 64-bit mode; [`pvh`] and [`multiboot`] then turn what either loader
//! left in memory into one [`BootInfo`]. [`acpi`] reads the firmware's tables for processors, interrupt controllers and power
//! control. Everything but the assembly is parsing of bytes that others wrote: no function here
//! panics on them, each says what is wrong with them. The kernel does the rest.
#![cfg_attr(not(test), no_std)]

pub mod acpi;
#[cfg(target_os = "none")]
pub mod entry;
mod info;
mod memory;
pub mod multiboot;
mod physical;
pub mod pvh;

pub use info::{BootError, BootInfo, CommandLine, Door, MAX_COMMAND_LINE};
pub use memory::{MAX_RANGES, PAGE, Range, Ranges, TooManyRanges};
pub use physical::Physical;
