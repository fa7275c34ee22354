//! The runtime library of native tasks: system calls, owned handles, mappings, messages, the server
//! loop, threads and locks, the clock, the log, the heap and the entry point.
//!
//! A task's logic is a library crate that is tested on the host, so this crate compiles there too:
//! on the host every system call fails as [`Error::Unsupported`], and nothing else changes.
//!
//! `unsafe` is confined to the modules that open with an `expect`; each block says why it holds.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod area;
pub mod backtrace;
mod block;
mod buffer;
pub mod clock;
pub mod endpoint;
pub mod entry;
pub mod handle;
mod heap;
pub mod log;
pub mod mapping;
pub mod memory;
pub mod net;
pub mod notification;
#[cfg(target_os = "none")]
mod panic;
pub mod ports;
pub mod server;
pub mod service;
pub mod start;
pub mod stop;
pub mod sync;
pub mod syscall;
pub mod system;
pub mod task;
pub mod thread;
pub mod transport;
pub mod words;

pub use handle::OwnedHandle;
pub use ipc::{Deadline, Error, Handle, Rights};
pub use mapping::Mapping;
pub use memory::Memory;
pub use notification::Notification;
pub use start::startup;
pub use transport::Kernel;
