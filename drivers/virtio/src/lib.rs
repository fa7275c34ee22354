//! The virtio library that every virtio driver stands on: finding and negotiating a device over its
//! legacy or modern PCI transport or its memory-mapped one, and its split queues.
//!
//! The transports implement `virtio-drivers`' `Transport`. Its `VirtQueue` is not used: the event index
//! that it compares does not wrap, its size is fixed when it is compiled, and a packet through it took
//! twice the instructions. What a device of one kind does with its queues is left to that kind's
//! driver; the function, its interrupts and DMA memory are `pci_function`'s.
//!
//! Sections quoted as "VIRTIO 1.2" are those of "Virtual I/O Device (VIRTIO) Version 1.2", OASIS
//! Committee Specification 01 of 1 July 2022.
#![cfg_attr(not(any(test, feature = "fake")), no_std)]

extern crate alloc;

mod any;
mod error;
#[cfg(any(test, feature = "fake"))]
pub mod fake;
pub mod feature;
mod fields;
mod function;
mod handshake;
mod legacy;
mod mmio;
mod modern;
mod queue;
mod transport;

pub use any::AnyTransport;
pub use error::VirtioError;
pub use function::{Avoid, FunctionTransport, InterruptBits, SetupError, claim};
pub use handshake::{fail, negotiate, negotiate_with, reset, start};
pub use legacy::LegacyTransport;
pub use mmio::MmioTransport;
pub use modern::{ModernTransport, ModernWindows};
pub use queue::{Queue, Used};
pub use transport::VirtioTransport;
pub use virtio_drivers::transport::{InterruptStatus, Transport};
