//! Quotas: how much memory, in bytes, a task and what it makes may take.
//!
//! A child's quota is carved from its maker's. When a task ends, its quota is closed: what is still
//! charged to it, for objects that other tasks hold on to, is paid by the maker from then on; the
//! rest goes back at once. A closed quota lives until the last such object is gone.

use crate::kernel::Kernel;
use crate::mutant::{self, Mutant};
use crate::platform::Platform;
use crate::slab::{Slot, Slotted};
use crate::static_ref::AtomicRef;
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use ipc::Error;

/// Set in the count of a quota whose task has ended.
const CLOSED: u64 = 1 << 63;

/// How deep tasks can be made by tasks. A credit goes up a chain of closed quotas as long as this.
pub const MAX_NESTING: u32 = 32;

/// A task's quota.
#[repr(align(64))]
pub struct Quota {
    /// Book-keeping.
    pub slot: Slot<Quota>,
    limit: AtomicU64,
    used: AtomicU64,
    parent: AtomicRef<Quota>,
    /// Quotas above it.
    depth: AtomicU32,
}

impl Slotted for Quota {
    fn make() -> Quota {
        Quota {
            slot: Slot::new(),
            limit: AtomicU64::new(0),
            used: AtomicU64::new(0),
            parent: AtomicRef::none(),
            depth: AtomicU32::new(0),
        }
    }
    fn slot(&self) -> &Slot<Quota> {
        &self.slot
    }
}

impl Quota {
    /// The quota of the whole machine, that init has.
    pub const fn root() -> Quota {
        Quota {
            slot: Slot::new(),
            limit: AtomicU64::new(0),
            used: AtomicU64::new(0),
            parent: AtomicRef::none(),
            depth: AtomicU32::new(0),
        }
    }

    /// Sets the root quota's limit, once at boot.
    pub fn set_limit(&self, bytes: u64) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    /// The limit in bytes.
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Bytes charged, what was carved off for children included.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed) & !CLOSED
    }

    /// Takes bytes from the quota.
    ///
    /// # Errors
    /// OutOfQuota, and nothing is taken.
    pub fn charge(&self, bytes: u64) -> Result<(), Error> {
        let limit = self.limit.load(Ordering::Relaxed);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                // A closed quota has its top bit set and is beyond every limit.
                let sum = used.checked_add(bytes)?;
                (sum <= limit || mutant::active(Mutant::QuotaCharge)).then_some(sum)
            })
            .map(drop)
            .map_err(|_| Error::OutOfQuota)
    }

    /// Gives bytes back, to the maker as well where the quota is closed. Chains of closed quotas
    /// are as long as the nesting of tasks, [`MAX_NESTING`] at most.
    #[inline(never)]
    pub fn credit<P: Platform>(&'static self, kernel: &'static Kernel<P>, bytes: u64) {
        let mut quota = self;
        loop {
            let parent = quota.parent.get();
            let before = quota.used.fetch_sub(bytes, Ordering::AcqRel);
            assert!(before & !CLOSED >= bytes, "more credited than charged");
            if before & CLOSED == 0 {
                return;
            }
            if before & !CLOSED == bytes {
                kernel.quotas.retire(kernel, quota);
            }
            let Some(parent) = parent else { return };
            quota = parent;
        }
    }

    /// Carves a quota off this one.
    ///
    /// # Errors
    /// OutOfQuota (also where the nesting would be too deep), OutOfMemory.
    pub fn carve<P: Platform>(
        &'static self,
        kernel: &'static Kernel<P>,
        bytes: u64,
    ) -> Result<&'static Quota, Error> {
        let depth = self.depth.load(Ordering::Relaxed) + 1;
        if depth > MAX_NESTING {
            return Err(Error::OutOfQuota);
        }
        self.charge(bytes)?;
        let child = kernel
            .quotas
            .allocate(kernel, self)
            .inspect_err(|_| self.credit(kernel, bytes))?;
        child.limit.store(bytes, Ordering::Relaxed);
        child.used.store(0, Ordering::Relaxed);
        child.parent.set(Some(self));
        child.depth.store(depth, Ordering::Relaxed);
        Ok(child)
    }

    /// Closes the quota of a task that ended: the maker gets back what is not in use. Called once.
    pub fn close<P: Platform>(&'static self, kernel: &'static Kernel<P>) {
        let Some(parent) = self.parent.get() else {
            return;
        };
        // From this instant each credit goes to the maker as well, so the rest at this instant is
        // exactly what the maker goes on paying for.
        let rest = self.used.fetch_or(CLOSED, Ordering::AcqRel);
        let limit = self.limit.load(Ordering::Relaxed);
        if rest == 0 {
            kernel.quotas.retire(kernel, self);
        }
        parent.credit(kernel, limit.saturating_sub(rest));
    }
}
