//! Atomic cells for references to kernel objects: the only unsafe code of the core.
//!
//! Kernel objects live in slabs whose frames are never used for anything else, so a reference to
//! one is `&'static`. What these cells add to `AtomicPtr` is that nothing but such references can be
//! put in, which is why taking them out is safe.
#![expect(
    unsafe_code,
    reason = "turns stored pointers back into the references they were made from"
)]

use crate::sync::{AtomicPtr, Ordering};
use core::marker::PhantomData;
use core::ptr;

/// An atomic `Option<&'static T>`.
pub struct AtomicRef<T: 'static> {
    pointer: AtomicPtr<T>,
    kind: PhantomData<&'static T>,
}

impl<T: Sync> AtomicRef<T> {
    /// An empty cell.
    pub const fn none() -> AtomicRef<T> {
        AtomicRef {
            pointer: AtomicPtr::new(ptr::null_mut()),
            kind: PhantomData,
        }
    }

    fn raw(value: Option<&'static T>) -> *mut T {
        value.map_or(ptr::null_mut(), |reference| {
            ptr::from_ref(reference).cast_mut()
        })
    }

    fn reference(pointer: *mut T) -> Option<&'static T> {
        // SAFETY: `pointer` is null or came from a `&'static T` by `raw`, the only source of what is
        // stored; it is read only, and `T: Sync` makes the reference good on every CPU.
        unsafe { pointer.as_ref() }
    }

    /// The reference; acquires what was stored before it.
    #[inline]
    pub fn get(&self) -> Option<&'static T> {
        Self::reference(self.pointer.load(Ordering::Acquire))
    }

    /// Whether the reference is this one.
    #[inline(always)]
    pub fn is(&self, value: &'static T) -> bool {
        ptr::eq(self.pointer.load(Ordering::Relaxed), value)
    }

    /// Replaces the reference; releases what was stored before.
    #[inline]
    pub fn set(&self, value: Option<&'static T>) {
        self.pointer.store(Self::raw(value), Ordering::Release);
    }

    /// Takes the reference out and leaves nothing. Two plain accesses, not one step: only one CPU
    /// at a time may take.
    #[inline]
    pub fn take(&self) -> Option<&'static T> {
        let reference = self.get();
        self.set(None);
        reference
    }
}

/// An atomic `&'static T`: as [`AtomicRef`], but there always is one, and nobody has to look.
pub struct AtomicLink<T: 'static> {
    pointer: AtomicPtr<T>,
    kind: PhantomData<&'static T>,
}

impl<T: Sync> AtomicLink<T> {
    /// A cell with this reference.
    pub const fn new(value: &'static T) -> AtomicLink<T> {
        AtomicLink {
            pointer: AtomicPtr::new(ptr::from_ref(value).cast_mut()),
            kind: PhantomData,
        }
    }

    /// The reference; acquires what was stored before it.
    #[inline(always)]
    pub fn get(&self) -> &'static T {
        // SAFETY: `new` and `set` are the only source of what is stored, and take a `&'static T`; it is
        // read only, and `T: Sync` makes the reference good on every CPU.
        unsafe { &*self.pointer.load(Ordering::Acquire) }
    }

    /// Replaces the reference; releases what was stored before.
    #[inline]
    pub fn set(&self, value: &'static T) {
        self.pointer
            .store(ptr::from_ref(value).cast_mut(), Ordering::Release);
    }
}

impl<T: Sync> Default for AtomicRef<T> {
    fn default() -> Self {
        Self::none()
    }
}
