//! The harness of the system tests: builds what `cargo run` boots, starts it in an emulator, and
//! talks to it as a person and as a network client would. The tests themselves are in `tests/tests`;
//! what they boot is the rest of the workspace.

pub mod bench;
pub mod bochs;
pub mod case;
pub mod cloud;
pub mod console;
pub mod counts;
pub mod crowd;
pub mod driver;
pub mod features;
pub mod gdb;
pub mod http;
pub mod images;
pub mod linux;
pub mod machine;
pub mod machines;
pub mod media;
pub mod namespace;
pub mod peer;
pub mod qmp;
pub mod shell;
mod slots;
pub mod stopwatch;
pub mod suite;

pub use bochs::Bochs;
pub use case::case;
pub use console::Console;
pub use machine::{Machine, Setup};

use std::time::Duration;

/// How long anything that a test waits for may take before it counts as hanging. It is many times
/// what a slow, busy computer needs, so that passing it says nothing about speed.
pub const LIMIT: Duration = Duration::from_secs(300);
