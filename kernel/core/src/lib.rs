//! The policy half of the kernel: objects, IPC, scheduling and book-keeping as safe code.
//!
//! What the code here needs of the machine it asks of a [`platform::Platform`]; page tables, traps,
//! APICs and every `unsafe` of the kernel live in the `kernel` package, which implements it. The
//! host tests implement it with memory and counters. Nothing here allocates from a heap, blocks or
//! recurses; every loop is bounded.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

pub mod archive;
pub mod clock;
pub mod cpu;
pub mod create;
pub mod dispatch;
pub mod elf;
pub mod endpoint;
pub mod frames;
pub mod futex;
pub mod handles;
pub mod inspect;
pub mod interrupt;
pub mod kernel;
pub mod mapping;
pub mod memory;
pub mod mutant;
pub mod notification;
pub mod object;
pub mod page_table;
pub mod platform;
pub mod queue;
pub mod quota;
pub mod reclaim;
pub mod registers;
pub mod rendezvous;
pub mod reply;
pub mod sched;
pub mod slab;
pub mod start;
pub mod static_ref;
pub mod sync;
pub mod task;
pub mod thread;
pub mod timers;
pub mod tlb;
pub mod trace;
pub mod tunables;

pub use kernel::Kernel;

#[cfg(test)]
pub mod explore;
#[cfg(test)]
pub mod fake;
pub mod fast;
#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;
