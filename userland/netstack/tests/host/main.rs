//! The network stack on the host: against itself, against small fake servers, and against a driver
//! and a wire that mean harm.

mod common;
mod datagrams;
mod driver;
mod hostile;
mod memory;
mod names;
mod server;
mod tcp;
