//! Stashed reply rights: the right to answer one call, as an object that a handle names.
//!
//! The right to answer the call received last is no object but a slot of the receiving thread
//! ([`crate::thread::Thread::set_reply`]); Stash moves it here.

use crate::mutant::{self, Mutant};
use crate::slab::{Slot, Slotted};
use crate::static_ref::AtomicRef;
use crate::sync::{AtomicU64, Lock, Ordering, Rank};
use crate::thread::{Thread, WaitRef};

/// A stashed reply right.
#[repr(align(64))]
pub struct Reply {
    /// Book-keeping.
    pub slot: Slot<Reply>,
    caller: AtomicRef<Thread>,
    generation: AtomicU64,
    /// Makes taking the right one step.
    taking: Lock<()>,
}

impl Slotted for Reply {
    fn make() -> Reply {
        Reply {
            slot: Slot::new(),
            caller: AtomicRef::none(),
            generation: AtomicU64::new(0),
            taking: Lock::new(Rank::Reply, ()),
        }
    }
    fn slot(&self) -> &Slot<Reply> {
        &self.slot
    }
}

impl Reply {
    /// Fills a fresh object, or gives the right back after a reply that was refused.
    pub fn set(&self, caller: WaitRef) {
        let _guard = self.taking.lock();
        self.generation.store(caller.generation, Ordering::Relaxed);
        self.caller.set(Some(caller.thread));
    }

    /// Takes the right: it works once.
    pub fn take(&self) -> Option<WaitRef> {
        let _guard = self.taking.lock();
        let thread = self.caller.get()?;
        if !mutant::active(Mutant::ReplyOneShot) {
            self.caller.set(None);
        }
        Some(WaitRef {
            thread,
            generation: self.generation.load(Ordering::Relaxed),
        })
    }
}
