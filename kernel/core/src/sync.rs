//! Atomics and the spin lock. Everything in the core takes them from here, so that in the tests of the core
//! an explorer can take their place.
//!
//! Lock order: each lock has a [`Rank`]; a CPU takes locks in rising rank only. Debug builds check
//! it at every acquisition. A CPU that spins for a lock serves its own shootdown mailbox meanwhile
//! (see [`Hooks::relax`]): the holder may be waiting for exactly that.

#[cfg(test)]
pub use crate::explore::atomics::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
#[cfg(not(test))]
pub use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU16, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};

/// What the mechanism gives the locks.
pub struct Hooks {
    /// Called in every turn of a spin loop: serves this CPU's shootdown mailbox.
    pub relax: fn(),
    /// This CPU's word for the ranks that it holds, a bit each (debug builds).
    pub held: fn() -> &'static AtomicU64,
}

static HOOKS: spin::Once<Hooks> = spin::Once::new();

/// Installs the hooks; the first call counts. Before it, spin loops only pause and the lock order
/// is not checked.
pub fn install_hooks(hooks: Hooks) {
    HOOKS.call_once(|| hooks);
}

/// Orders the stores before an atomic read-modify-write that succeeded ahead of the loads after it. On
/// x86 that instruction is locked, which does it (Intel SDM volume 3A, section 8.2.3.9); what is left
/// is to keep the compiler from changing the order.
#[inline(always)]
pub fn after_locked() {
    if cfg!(target_arch = "x86_64") {
        core::sync::atomic::compiler_fence(Ordering::SeqCst);
    } else {
        fence(Ordering::SeqCst);
    }
}

/// One turn of a spin loop. A function of its own, as there are many such loops.
#[cold]
#[inline(never)]
pub fn relax() {
    core::hint::spin_loop();
    if let Some(hooks) = HOOKS.get() {
        (hooks.relax)();
    }
}

struct Relax;

impl spin::RelaxStrategy for Relax {
    fn relax() {
        relax();
    }
}

/// The order of locks, outermost first. Two locks of one rank are never held together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Rank {
    /// A task's thread list and state.
    Task,
    /// A task's address space: mappings and page tables.
    Space,
    /// A memory object's frames and list of mappings.
    Memory,
    /// An endpoint's queues.
    Endpoint,
    /// A stashed reply right.
    Reply,
    /// A task's sleepers.
    Futex,
    /// A notification.
    Notification,
    /// The table of interrupt vectors.
    Interrupt,
    /// A task's handle table.
    Handles,
    /// A CPU's timers.
    Timers,
    /// A CPU's run queue.
    RunQueue,
    /// The queue of what is to be reclaimed.
    Reclaim,
    /// A slab.
    Slab,
    /// The frame table.
    Frames,
    /// A trace ring's reader.
    Trace,
    /// The log.
    Log,
}

/// A spin lock with a place in the lock order.
#[derive(Debug)]
pub struct Lock<T> {
    inner: spin::mutex::SpinMutex<T, Relax>,
    #[cfg(debug_assertions)]
    rank: Rank,
}

/// Access to what a [`Lock`] guards, until dropped.
pub struct Guard<'a, T> {
    inner: spin::mutex::SpinMutexGuard<'a, T, Relax>,
    #[cfg(debug_assertions)]
    held: Option<(&'static AtomicU64, u64)>,
    #[cfg(test)]
    lock: usize,
}

impl<T> Lock<T> {
    /// A free lock.
    pub const fn new(rank: Rank, value: T) -> Lock<T> {
        #[cfg(not(debug_assertions))]
        let _ = rank;
        Lock {
            inner: spin::mutex::SpinMutex::new(value),
            #[cfg(debug_assertions)]
            rank,
        }
    }

    /// Takes the lock, spinning while another CPU holds it.
    ///
    /// # Panics
    /// In debug builds, if this CPU holds a lock of the same or a later rank.
    #[inline]
    pub fn lock(&self) -> Guard<'_, T> {
        #[cfg(debug_assertions)]
        let held = self.check_order();
        #[cfg(test)]
        crate::explore::before_lock_changes(self.address());
        Guard {
            inner: self.inner.lock(),
            #[cfg(debug_assertions)]
            held: held.map(note),
            #[cfg(test)]
            lock: self.address(),
        }
    }

    /// Takes the lock if it is free. Panics as [`Lock::lock`] does.
    #[inline(always)]
    pub fn try_lock(&self) -> Option<Guard<'_, T>> {
        #[cfg(debug_assertions)]
        let held = self.check_order();
        #[cfg(test)]
        crate::explore::before_lock_changes(self.address());
        self.inner.try_lock().map(|inner| Guard {
            inner,
            #[cfg(debug_assertions)]
            held: held.map(note),
            #[cfg(test)]
            lock: self.address(),
        })
    }

    #[cfg(test)]
    fn address(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }

    /// This CPU's word of ranks and the lock's own, which is above them.
    #[cfg(debug_assertions)]
    fn check_order(&self) -> Option<(&'static AtomicU64, u64)> {
        let (word, bit) = ((HOOKS.get()?.held)(), 1 << self.rank as u8);
        let before = word.load(Ordering::Relaxed);
        assert!(
            before < bit,
            "lock order: {:?} taken while holding {before:#b}",
            self.rank
        );
        Some((word, bit))
    }
}

/// Notes that a lock of this rank is held.
#[cfg(debug_assertions)]
fn note((word, bit): (&'static AtomicU64, u64)) -> (&'static AtomicU64, u64) {
    word.store(word.load(Ordering::Relaxed) | bit, Ordering::Relaxed);
    (word, bit)
}

impl<T> core::ops::Deref for Guard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T> core::ops::DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

#[cfg(debug_assertions)]
impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        #[cfg(test)]
        crate::explore::before_lock_changes(self.lock);
        if let Some((word, bit)) = self.held {
            word.store(word.load(Ordering::Relaxed) & !bit, Ordering::Relaxed);
        }
    }
}
