//! The PCI server: it owns configuration space, finds the machine's functions, and the virtio-mmio
//! devices that the kernel's command line names, and hands a driver exactly its device: registers,
//! interrupts, and memory that the device can reach.
//!
//! The library is policy over two traits, [`ConfigSpace`] and [`Platform`], and is tested on the host
//! against fakes of both; [`run`] puts the machine behind them. What a device does with what
//! it is given is its driver's business.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod bar;
mod bus;
mod capability;
mod config;
#[cfg(test)]
mod fake;
mod header;
mod platform;
mod service;
mod session;
mod shifted;
mod slot;
mod task;
mod words;

pub use bar::Bar;
pub use bus::{Function, enumerate};
pub use config::{ConfigSpace, MECHANISM1_FIRST_PORT, MECHANISM1_PORTS, Mechanism1};
pub use platform::{Message, Platform};
pub use service::PciBus;
pub use slot::{Slot, SlotState};
pub use task::run;
pub use words::{BadWord, MOST_SLOTS, SlotWord, slots};
