//! The network stack on the host: against itself, against small fake servers, and against a driver
//! and a wire that mean harm.

mod campaign;
mod common;
mod datagrams;
mod dhcp;
mod driver;
mod hostile;
mod ipv6;
mod link;
mod memory;
mod names;
mod rings;
mod segment;
mod server;
mod tcp;
