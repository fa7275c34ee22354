//! What every driver of a PCI function needs of the pci server and the kernel: claiming the function,
//! its interrupts, its registers, and memory that the device reaches too.
//!
//! What the registers mean, and what goes into the memory, is each driver's.
#![cfg_attr(not(any(test, feature = "fake")), no_std)]

extern crate alloc;

mod attach;
pub mod dma;
mod error;
mod function;

pub use attach::Attached;
pub use dma::Area;
pub use error::{OutOfDmaMemory, SetupError};
pub use function::{Bar, Function, InterruptMode};
