//! The network stack: TCP, UDP, ICMP echo, DHCP and DNS on smoltcp, for many clients that do not
//! trust each other, above a driver that can die and come back.
//!
//! The library is a state machine that is tested on the host; its task is a few lines around it.
//! README.md follows a packet through it.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod address;
mod allowance;
mod checksum;
pub mod client;
pub mod config;
mod dhcp;
mod link;
mod mld;
pub mod names;
mod ndp;
pub mod packets;
mod peek;
pub mod ping;
mod random;
pub mod server;
mod sift;
mod slaac;
mod sort;
mod source;
pub mod stack;
pub mod task;
pub mod tcp;
pub mod time;
pub mod udp;
pub mod wire;

pub use link::Counters as LinkCounters;
pub use peek::Flow;
