//! The virtio network driver: a card with one or more pairs of receive and transmit queues.
//!
//! [`NetDevice`] is the device's protocol, tested on the host against a fake device that also lies;
//! [`run`] claims the card. The rings between it and the network stack, and the service, are
//! `net_driver`'s.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod card_tests;
mod control;
mod device;
mod header;
mod negotiation;
#[cfg(test)]
mod offload_tests;
#[cfg(test)]
mod pair_tests;
#[cfg(test)]
mod pairwise_tests;
mod queues;
#[cfg(test)]
mod server_tests;
mod settings;
mod task;
#[cfg(test)]
mod wake_tests;

pub use device::{Idle, NetDevice};
pub use settings::Settings;
pub use task::run;
