//! The shell's safe core: keys, line editing, history, completion, commands and the texts that they
//! print. All of it runs on the host; talking to the services is the task's (`shell-task`).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod command;
pub mod completion;
pub mod editor;
pub mod history;
pub mod key;
pub mod report;
pub mod text;

/// What the shell prints when it waits for a command.
pub const PROMPT: &str = "uzura> ";
