//! How many emulators run at a time: two, however many threads the test runner has, because a guest
//! keeps a processor busy and the tests are made for computers with two.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

const SLOTS: usize = 2;

static FREE: Mutex<usize> = Mutex::new(SLOTS);
static FREED: Condvar = Condvar::new();

/// The right to run an emulator; given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot(());

impl Slot {
    /// Waits until an emulator may be started.
    pub(crate) fn take() -> Self {
        let mut free = lock();
        while *free == 0 {
            free = FREED.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Self(())
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *lock() += 1;
        FREED.notify_one();
    }
}

/// The count stays right when a test panics: nobody panics while holding it.
fn lock() -> MutexGuard<'static, usize> {
    FREE.lock().unwrap_or_else(PoisonError::into_inner)
}
