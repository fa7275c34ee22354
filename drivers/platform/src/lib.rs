//! The platform driver: owns the power registers that the firmware tells of, waits for the power
//! button, and asks init to shut the system down when it is pressed.
//!
//! There are two kinds of button: one among the fixed events of ACPI ([`FixedEvents`]), and one behind
//! a Generic Event Device where there are no fixed registers ([`GenericEvents`]). What a press and an
//! interrupt without one lead to is [`Button`]'s; which of the two a machine has is [`Layout`]'s. All of
//! it is tested on the host against fakes. [`run`] puts the system behind it.
//!
//! The last step, soft off, is not done here: the kernel has it, because a panic needs it too. Nor are
//! the events that only AML describes: there is no interpreter, and they stay switched off.
#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod button;
#[cfg(test)]
mod fake;
mod fixed;
mod generic;
mod layout;
mod task;

pub use button::{Answer, Button, Source, System};
pub use fixed::{Blocks, FixedEvents, Mode};
pub use generic::GenericEvents;
pub use layout::{Block, Fixed, Layout, LayoutError, Wiring};
pub use task::run;
