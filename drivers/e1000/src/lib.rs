//! The driver of Intel's 8254x family of Gigabit Ethernet controllers, which emulators call e1000.
//!
//! [`Nic`] is the device's protocol, tested on the host against a fake device that also lies; [`run`]
//! claims the card. The rings between it and the network stack, and the service, are `net_driver`'s.
//!
//! "Manual" is Intel's "PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual",
//! document 317453, revision 4.0.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod device;
#[cfg(test)]
mod fake;
mod register;
mod ring;
mod task;
#[cfg(test)]
mod tests;

pub use device::{Nic, NicError};
pub use task::run;
