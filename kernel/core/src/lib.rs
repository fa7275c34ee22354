//! The policy half of the kernel: objects, IPC, scheduling and book-keeping as safe code.
//!
//! What the code here needs of the machine it asks of a [`platform::Platform`]; page tables, traps,
//! APICs and every `unsafe` of the kernel live in the `kernel` package, which implements it. The
//! host tests implement it with memory and counters. Nothing here allocates from a heap, blocks or
//! recurses; every loop is bounded.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]

pub mod archive;
pub mod elf;
pub mod frames;
pub mod page_table;
pub mod platform;
pub mod queue;
pub mod registers;
pub mod static_ref;
pub mod sync;
pub mod timers;
pub mod trace;
pub mod tunables;

#[cfg(test)]
pub mod fake;
#[cfg(test)]
mod random;
