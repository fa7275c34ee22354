//! Atomics in place of the processor's: each access is a place where another CPU of an explored test may go
//! on, and stores are seen late if the test says so. Elsewhere they do what the processor's do.

use super::{Access, Buffered, Stores, drain, explored};
use core::ptr::with_exposed_provenance_mut;
use core::sync::atomic;

pub use core::sync::atomic::Ordering;

/// A fence: a full one empties the store buffer.
pub fn fence(order: Ordering) {
    if order == Ordering::SeqCst {
        drain();
    }
    atomic::fence(order);
}

/// Another CPU may go on; then a store with this order to `address`, where `before` reads what is there.
fn before_store(address: usize, order: Ordering, before: impl FnOnce() -> u64) {
    if order == Ordering::SeqCst {
        before_exchange(address);
        return;
    }
    explored(|explorer, me| {
        explorer.point(me, address, Access::Store);
        let mut state = explorer.lock();
        if state.stores == Stores::AtOnce {
            return;
        }
        let has = |buffer: &Vec<Buffered>| buffer.iter().any(|store| store.address == address);
        for (cpu, buffer) in state.buffers.iter_mut().enumerate() {
            // The other's store comes first, and all before it.
            if cpu != me && has(buffer) {
                buffer.clear();
            }
        }
        if !has(&state.buffers[me]) {
            let before = before();
            state.buffers[me].push(Buffered { address, before });
        }
    });
}

/// Another CPU may go on; then a locked instruction on `address`.
fn before_exchange(address: usize) {
    explored(|explorer, me| {
        explorer.point(me, address, Access::Exchange);
        let mut state = explorer.lock();
        for (cpu, buffer) in state.buffers.iter_mut().enumerate() {
            if cpu == me || buffer.iter().any(|store| store.address == address) {
                buffer.clear();
            }
        }
    });
}

/// Another CPU may go on; then a load from `address`. Returns what another CPU's buffered store hides.
fn before_load(address: usize) -> Option<u64> {
    explored(|explorer, me| {
        explorer.point(me, address, Access::Load);
        let state = explorer.lock();
        let others = state
            .buffers
            .iter()
            .enumerate()
            .filter(|(cpu, _)| *cpu != me);
        others
            .flat_map(|(_, buffer)| buffer)
            .find(|store| store.address == address)
            .map(|store| store.before)
    })?
}

macro_rules! atomic {
    ($name:ident$(<$generic:ident>)?, $value:ty, $to:expr, $from:expr) => {
        #[doc = concat!("As the processor's `", stringify!($name), "`.")]
        #[derive(Debug)]
        #[repr(transparent)]
        pub struct $name$(<$generic>)?(atomic::$name$(<$generic>)?);

        impl$(<$generic>)? $name$(<$generic>)? {
            /// One with this value.
            pub const fn new(value: $value) -> Self {
                Self(atomic::$name::new(value))
            }

            fn address(&self) -> usize {
                core::ptr::from_ref(self).addr()
            }

            /// Loads it.
            #[inline]
            pub fn load(&self, order: Ordering) -> $value {
                match before_load(self.address()) {
                    Some(hidden) => $from(hidden),
                    None => self.0.load(order),
                }
            }

            /// Stores it.
            #[inline]
            pub fn store(&self, value: $value, order: Ordering) {
                before_store(self.address(), order, || $to(self.0.load(Ordering::Relaxed)));
                self.0.store(value, order);
            }

            /// Stores it and returns what was there.
            #[inline]
            pub fn swap(&self, value: $value, order: Ordering) -> $value {
                before_exchange(self.address());
                self.0.swap(value, order)
            }

            /// Stores it if the expected is there.
            ///
            /// # Errors
            /// What is there instead.
            #[inline]
            pub fn compare_exchange(
                &self,
                expected: $value,
                value: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                before_exchange(self.address());
                self.0.compare_exchange(expected, value, success, failure)
            }

            /// Replaces it by what a function makes of it, if anything.
            ///
            /// # Errors
            /// What is there, of which the function makes nothing.
            pub fn fetch_update(
                &self,
                success: Ordering,
                failure: Ordering,
                mut update: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                let mut before = self.load(failure);
                while let Some(value) = update(before) {
                    match self.compare_exchange(before, value, success, failure) {
                        Ok(before) => return Ok(before),
                        Err(other) => before = other,
                    }
                }
                Err(before)
            }
        }
    };
}

macro_rules! integer {
    ($name:ident, $value:ty) => {
        atomic!($name, $value, u64::from, |word: u64| word as $value);

        impl Default for $name {
            fn default() -> Self {
                Self::new(0)
            }
        }

        integer!(@ $name, $value: fetch_add, fetch_sub, fetch_and, fetch_or, fetch_max);
    };
    (@ $name:ident, $value:ty: $($operation:ident),+) => {
        impl $name {
            $(/// Changes it and returns what was there.
            #[inline]
            pub fn $operation(&self, value: $value, order: Ordering) -> $value {
                before_exchange(self.address());
                self.0.$operation(value, order)
            })+
        }
    };
}

integer!(AtomicU8, u8);
integer!(AtomicU16, u16);
integer!(AtomicU32, u32);
integer!(AtomicU64, u64);
atomic!(AtomicBool, bool, u64::from, |word: u64| word != 0);
atomic!(
    AtomicUsize,
    usize,
    |value: usize| value as u64,
    |word: u64| word as usize
);
integer!(@ AtomicUsize, usize: fetch_add, fetch_sub, fetch_max);
atomic!(
    AtomicPtr<T>,
    *mut T,
    |pointer: *mut T| pointer.expose_provenance() as u64,
    |word: u64| with_exposed_provenance_mut(word as usize)
);

impl Default for AtomicBool {
    fn default() -> Self {
        Self::new(false)
    }
}

impl Default for AtomicUsize {
    fn default() -> Self {
        Self::new(0)
    }
}
