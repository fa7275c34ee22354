//! Init's safe core: reading the boot archive and programs, and deciding which task is started,
//! restarted or given up, and when. All of it runs on the host; making tasks, granting handles and
//! answering messages is the task's (`init-task`).
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod archive;
pub mod arguments;
pub mod authority;
pub mod back_off;
pub mod backtrace;
pub mod badge;
pub mod heartbeat;
pub mod journal;
pub mod packed;
pub mod place;
pub mod program;
pub mod report;
pub mod services;
pub mod share;
pub mod shutdown;
pub mod supervisor;
