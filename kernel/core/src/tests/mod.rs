//! Tests of the core as a whole: threads on a fake machine issue system calls, and what they get is
//! what the ABI says. One file a subject.

mod bench;

mod calls;
mod cast;
mod death;
mod explored;
mod fast;
mod hostile;
mod ipc;
mod memory;
mod model;
mod receives;
mod scheduling;
mod stress;
pub(crate) mod tlb;
