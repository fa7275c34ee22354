//! What every driver of a network card needs above its device: [`Card`] moves packets between the
//! device's queues and the rings of one network stack, [`NetServer`] is the service with its sessions,
//! [`serve_card`] puts the system behind it.
//!
//! The device's own protocol, behind [`Device`], is each driver's. The packets lie in a pool that
//! belongs to the network stack; nothing here reads or copies them.
#![cfg_attr(not(any(test, feature = "fake")), no_std)]

extern crate alloc;

#[cfg(any(test, feature = "fake"))]
pub mod bench;
mod card;
mod device;
pub mod ethernet;
mod rings;
mod sending;
mod server;
mod task;

pub use card::{Card, CardError, Pump};
pub use device::{Device, Direction, Fault, Interrupt, Received};
pub use rings::Rings;
pub use server::{NetServer, Platform};
pub use task::{INTERRUPTS, serve_card};
