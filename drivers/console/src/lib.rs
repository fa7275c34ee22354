//! The console server: a 16550 UART, interrupt-driven both ways, shared by many writers and read by
//! one session at a time.
//!
//! The library is the chip ([`Uart`]) and the service over it ([`Console`]); both are tested on the
//! host against a fake chip. [`run`] puts the system behind them. Editing, echo and line ends are the reader's.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

#[cfg(test)]
mod fake;
mod service;
mod task;
mod uart;

pub use service::{Console, Platform};
pub use task::run;
pub use uart::{FIRST_PORT, PORTS, Received, Uart, UartCounters};
