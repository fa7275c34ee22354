//! What the kernel and the tasks agree on: operation numbers and their registers, message layout,
//! errors, handles and rights, the user address map, and every service's interface.
//!
//! The crate knows no mechanism: the kernel implements the operations, the runtime library issues
//! them. It is `no_std`, has no unsafe code and is tested on the host.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod badge;
pub mod client;
pub mod clock;
pub mod codec;
pub mod error;
pub mod handle;
pub mod info;
pub mod interface;
pub mod layout;
pub mod manifest;
pub mod message;
pub mod note;
pub mod operation;
pub mod ring;
pub mod server;
pub mod startup;
pub mod symbols;

pub use client::Deadline;
pub use error::Error;
pub use handle::{Handle, ObjectKind, Rights};
pub use message::{Label, Tag};
pub use operation::Operation;
