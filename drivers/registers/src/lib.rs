//! How a driver library reaches its device's registers: through two small traits, so that the same
//! code drives the hardware in a task and a fake device in a host test.
//!
//! [`Ports`] is a window of x86 I/O ports, [`Registers`] a window of memory-mapped registers. The
//! real ones are [`hardware::PortWindow`] and [`hardware::MappedWindow`], made of the handles and
//! mappings that init or pci gave.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

pub mod hardware;
mod window;

pub use window::{Ports, Registers};
