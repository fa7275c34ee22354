//! Slabs: where kernel objects live.
//!
//! A slab hands out objects of one type from frames that never become anything else, so a reference
//! to an object is `&'static` and a stale one still points to an object of that type. A freed object
//! is handed out again only when every CPU has left the kernel since (the grace period), so that a
//! look-up in a handle table needs neither lock nor reference count.
//!
//! What an object means, and what it holds, is its own module's business: a slab never drops or
//! resets anything.

use crate::kernel::Kernel;
use crate::platform::Platform;
use crate::quota::Quota;
use crate::static_ref::AtomicRef;
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Lock, Ordering, Rank};
use ipc::Error;

/// Retired objects in one slab beyond which CPUs that linger outside the kernel are kicked.
const RETIRED_BEFORE_KICK: u64 = 64;

/// The book-keeping part of an object, embedded in it.
pub struct Slot<T: 'static> {
    next: AtomicRef<T>,
    stamp: AtomicU64,
    number: AtomicU64,
    references: AtomicU32,
    alive: AtomicBool,
    quota: AtomicRef<Quota>,
}

impl<T: Sync> Slot<T> {
    /// The slot of an object that was never handed out.
    pub const fn new() -> Slot<T> {
        Slot {
            next: AtomicRef::none(),
            stamp: AtomicU64::new(0),
            number: AtomicU64::new(0),
            references: AtomicU32::new(0),
            alive: AtomicBool::new(false),
            quota: AtomicRef::none(),
        }
    }

    /// The object's number, unique since boot.
    pub fn number(&self) -> u64 {
        self.number.load(Ordering::Relaxed)
    }

    /// Whether the object was not destroyed.
    #[inline]
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Acquire)
    }

    /// Marks the object destroyed; true for the first call.
    pub fn kill(&self) -> bool {
        self.alive.swap(false, Ordering::AcqRel)
    }

    /// Counts one more reference. The caller has one, or somebody who cannot drop it meanwhile.
    pub fn reference(&self) {
        let before = self.references.fetch_add(1, Ordering::Relaxed);
        assert!(
            before != 0 && before < u32::MAX / 2,
            "a reference is made of one"
        );
    }

    /// Counts one more reference unless the last one is gone: for whoever found the object in a
    /// handle table, where another CPU may close the handle at any time. What has no reference is
    /// on its way back to the slab, and a reference made then would name the next object.
    #[must_use]
    pub fn try_reference(&self) -> bool {
        self.references
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |before| {
                (before != 0 && before < u32::MAX / 2).then(|| before + 1)
            })
            .is_ok()
    }

    /// The first reference again, of an object whose last one the caller has just dropped: to keep
    /// it until what it has is given back.
    pub fn revive(&self) {
        let before = self.references.fetch_add(1, Ordering::AcqRel);
        assert!(before == 0, "the last reference was dropped");
    }

    /// Counts one reference less; true if it was the last.
    pub fn dereference(&self) -> bool {
        let before = self.references.fetch_sub(1, Ordering::AcqRel);
        assert!(before > 0, "reference count underflow");
        before == 1
    }

    /// Whether one reference is left, as a snapshot.
    pub fn is_last(&self) -> bool {
        self.references.load(Ordering::Acquire) == 1
    }

    /// The quota that pays for the object.
    pub fn quota(&self) -> Option<&'static Quota> {
        self.quota.get()
    }
}

impl<T: Sync> Default for Slot<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// An object that lives in a slab.
pub trait Slotted: Sync + Sized + 'static {
    /// An object that was never used.
    fn make() -> Self;
    /// Its slot.
    fn slot(&self) -> &Slot<Self>;
    /// Frames that a slab grows by at a time, a power of two: enough for one object.
    const ORDER: u32 = (size_of::<Self>() as u64)
        .div_ceil(4096)
        .next_power_of_two()
        .trailing_zeros();
}

struct Lists<T: 'static> {
    free: Option<&'static T>,
    retired_first: Option<&'static T>,
    retired_last: Option<&'static T>,
    retired: u64,
}

/// The slab of one type of object.
pub struct Slab<T: 'static> {
    lists: Lock<Lists<T>>,
    live: AtomicU64,
    frames: AtomicU64,
}

impl<T: Slotted> Slab<T> {
    /// An empty slab.
    pub const fn new() -> Slab<T> {
        Slab {
            lists: Lock::new(
                Rank::Slab,
                Lists {
                    free: None,
                    retired_first: None,
                    retired_last: None,
                    retired: 0,
                },
            ),
            live: AtomicU64::new(0),
            frames: AtomicU64::new(0),
        }
    }

    /// Number of objects handed out and not retired.
    pub fn live(&self) -> u64 {
        self.live.load(Ordering::Relaxed)
    }

    /// Frames that the slab has taken.
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Hands out an object, alive, with one reference and a new number, charged to `quota`.
    /// Its other fields are as their last user left them.
    ///
    /// # Errors
    /// OutOfQuota, OutOfMemory.
    pub fn allocate<P: Platform>(
        &self,
        kernel: &'static Kernel<P>,
        quota: &'static Quota,
    ) -> Result<&'static T, Error> {
        quota.charge(size_of::<T>() as u64)?;
        let Some(object) = self.take(kernel) else {
            quota.credit(kernel, size_of::<T>() as u64);
            return Err(Error::OutOfMemory);
        };
        let slot = object.slot();
        slot.next.set(None);
        slot.number.store(kernel.next_number(), Ordering::Relaxed);
        slot.references.store(1, Ordering::Relaxed);
        slot.quota.set(Some(quota));
        slot.alive.store(true, Ordering::Release);
        self.live.fetch_add(1, Ordering::Relaxed);
        Ok(object)
    }

    fn take<P: Platform>(&self, kernel: &'static Kernel<P>) -> Option<&'static T> {
        let mut lists = self.lists.lock();
        if lists.free.is_none() {
            Self::recycle(kernel, &mut lists);
        }
        if lists.free.is_none() {
            self.grow(kernel, &mut lists)?;
        }
        let object = lists.free?;
        lists.free = object.slot().next.get();
        Some(object)
    }

    /// Moves retired objects whose grace period is over to the free list, a bounded number.
    fn recycle<P: Platform>(kernel: &'static Kernel<P>, lists: &mut Lists<T>) {
        let passed = kernel.epoch_passed();
        for _ in 0..RETIRED_BEFORE_KICK {
            let Some(object) = lists.retired_first else {
                return;
            };
            if object.slot().stamp.load(Ordering::Relaxed) >= passed {
                return;
            }
            lists.retired_first = object.slot().next.get();
            if lists.retired_first.is_none() {
                lists.retired_last = None;
            }
            lists.retired -= 1;
            object.slot().next.set(lists.free);
            lists.free = Some(object);
        }
    }

    fn grow<P: Platform>(&self, kernel: &'static Kernel<P>, lists: &mut Lists<T>) -> Option<()> {
        let first = kernel.frames.allocate(T::ORDER)?;
        let count = 1 << T::ORDER;
        kernel.frames.mark_object_page(first, count);
        self.frames.fetch_add(count, Ordering::Relaxed);
        for object in kernel.platform.objects(first, count as usize, T::make) {
            object.slot().next.set(lists.free);
            lists.free = Some(object);
        }
        Some(())
    }

    /// Takes an object back whose last reference is gone and that nothing finds any more. It is
    /// handed out again after the grace period; its quota is credited now.
    pub fn retire<P: Platform>(&self, kernel: &'static Kernel<P>, object: &'static T) {
        let slot = object.slot();
        slot.alive.store(false, Ordering::Release);
        let quota = slot.quota.take();
        slot.next.set(None);
        slot.stamp.store(kernel.advance_epoch(), Ordering::Relaxed);
        self.live.fetch_sub(1, Ordering::Relaxed);
        let crowded = {
            let mut lists = self.lists.lock();
            match lists.retired_last {
                Some(last) => last.slot().next.set(Some(object)),
                None => lists.retired_first = Some(object),
            }
            lists.retired_last = Some(object);
            lists.retired += 1;
            lists.retired.is_multiple_of(RETIRED_BEFORE_KICK)
        };
        if crowded {
            kernel.hasten_epoch();
        }
        if let Some(quota) = quota {
            quota.credit(kernel, size_of::<T>() as u64);
        }
    }
}

impl<T: Slotted> Default for Slab<T> {
    fn default() -> Self {
        Self::new()
    }
}
