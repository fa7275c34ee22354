//! The virtio network driver: a card with one receive and one transmit queue, and the packet rings
//! between it and one network stack.
//!
//! The library is three layers, each tested on the host against a fake device that also lies:
//! [`NetDevice`] is the device's protocol, [`Card`] moves packets between its queues and the rings,
//! [`NetServer`] is the service; [`run`] puts the system behind it. The packets lie in a pool that belongs to the network stack; nothing
//! here reads or copies them.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod card;
mod device;
mod server;
mod task;
#[cfg(test)]
mod test_bench;

pub use card::{Card, CardError, Pump, Rings};
pub use device::{NetDevice, StartFailure};
pub use server::{NetServer, Platform};
pub use task::run;
