//! Locks that sleep in the kernel: a mutex and a condition variable over futex words.
#![expect(unsafe_code, reason = "a mutex hands out what its lock protects")]

use crate::syscall::invoke;
use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicU32, Ordering};
use ipc::client::Deadline;
use ipc::message::NEVER;
use ipc::{Error, Operation};

/// Sleeps while the word holds `expected`. Errors: those of [`Operation::FutexWait`].
pub fn futex_wait(word: &AtomicU32, expected: u32, deadline: Deadline) -> Result<(), Error> {
    let arguments = [word.as_ptr().addr() as u64, u64::from(expected), 0, 0, 0, 0];
    invoke(Operation::FutexWait, arguments, deadline.0).map(drop)
}

/// Wakes up to `count` sleepers on the word and returns their number.
pub fn futex_wake(word: &AtomicU32, count: u32) -> u32 {
    let arguments = [word.as_ptr().addr() as u64, u64::from(count), 0, 0, 0, 0];
    invoke(Operation::FutexWake, arguments, NEVER).map_or(0, |results| results[0] as u32)
}

/// Nobody holds the lock.
const FREE: u32 = 0;
/// Somebody holds it, nobody waits.
const HELD: u32 = 1;
/// Somebody holds it, and somebody may wait.
const CONTENDED: u32 = 2;

/// A lock around a value. A thread that waits for it sleeps.
#[derive(Debug, Default)]
pub struct Mutex<T: ?Sized> {
    state: AtomicU32,
    value: UnsafeCell<T>,
}

// SAFETY: the lock lets one thread at a time at the value, so that sharing the mutex only ever moves
// the use of the value from thread to thread.
unsafe impl<T: ?Sized + Send> Sync for Mutex<T> {}

impl<T> Mutex<T> {
    /// A free lock.
    pub const fn new(value: T) -> Mutex<T> {
        Mutex {
            state: AtomicU32::new(FREE),
            value: UnsafeCell::new(value),
        }
    }
}

impl<T: ?Sized> Mutex<T> {
    /// Waits until the lock is free and takes it. A thread that holds it already waits for ever.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        if let Some(guard) = self.try_lock() {
            return guard;
        }
        while self.state.swap(CONTENDED, Ordering::Acquire) != FREE {
            // Woken or not, the swap decides.
            if futex_wait(&self.state, CONTENDED, Deadline::NEVER) == Err(Error::Unsupported) {
                core::hint::spin_loop();
            }
        }
        self.guard()
    }

    /// Takes the lock if it is free.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        let taken = self
            .state
            .compare_exchange(FREE, HELD, Ordering::Acquire, Ordering::Relaxed)
            .is_ok();
        taken.then(|| self.guard())
    }

    /// To be called by whoever has just taken the lock.
    fn guard(&self) -> MutexGuard<'_, T> {
        MutexGuard {
            mutex: self,
            value: PhantomData,
        }
    }

    fn unlock(&self) {
        if self.state.swap(FREE, Ordering::Release) == CONTENDED {
            futex_wake(&self.state, 1);
        }
    }
}

/// The lock, held; dropping it frees it.
#[derive(Debug)]
pub struct MutexGuard<'a, T: ?Sized> {
    mutex: &'a Mutex<T>,
    /// Sent and shared as the value's mutable reference would be.
    value: PhantomData<&'a mut T>,
}

impl<T: ?Sized> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the guard exists only while its thread holds the lock.
        unsafe { &*self.mutex.value.get() }
    }
}

impl<T: ?Sized> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: as above, and the guard is borrowed mutably.
        unsafe { &mut *self.mutex.value.get() }
    }
}

impl<T: ?Sized> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.mutex.unlock();
    }
}

/// Lets threads wait until what a mutex protects has changed.
#[derive(Debug, Default)]
pub struct Condvar {
    changes: AtomicU32,
}

impl Condvar {
    /// Nobody waits.
    pub const fn new() -> Condvar {
        Condvar {
            changes: AtomicU32::new(0),
        }
    }

    /// Frees the lock, sleeps until a notification or the deadline, and takes the lock again. It may
    /// return early: look at the condition again. False after the deadline.
    pub fn wait<'a, T: ?Sized>(
        &self,
        guard: MutexGuard<'a, T>,
        deadline: Deadline,
    ) -> (MutexGuard<'a, T>, bool) {
        let seen = self.changes.load(Ordering::Relaxed);
        let mutex = guard.mutex;
        drop(guard);
        let result = futex_wait(&self.changes, seen, deadline);
        (mutex.lock(), result != Err(Error::TimedOut))
    }

    /// Wakes one waiter.
    pub fn notify_one(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
        futex_wake(&self.changes, 1);
    }

    /// Wakes all waiters.
    pub fn notify_all(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
        while futex_wake(&self.changes, 1024) == 1024 {}
    }
}

#[cfg(test)]
mod tests {
    use super::Mutex;

    #[test]
    fn a_mutex_lets_one_thread_in_at_a_time() {
        let mutex = Mutex::new(0u64);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        let mut value = mutex.lock();
                        let seen = *value;
                        std::hint::black_box(seen);
                        *value = seen + 1;
                    }
                });
            }
        });
        assert_eq!(*mutex.lock(), 40_000);
        let held = mutex.lock();
        assert!(mutex.try_lock().is_none());
        drop(held);
        assert!(mutex.try_lock().is_some());
    }
}
