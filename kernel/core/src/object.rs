//! What all kernel objects have in common: the enumeration of kinds and the atomic cell that holds
//! a reference to an object of any kind, as handle tables need it.
#![expect(
    unsafe_code,
    reason = "tagged pointers to objects of several types in one atomic word"
)]

use crate::endpoint::{Badge, Endpoint};
use crate::interrupt::{Interrupt, IoPorts};
use crate::memory::Memory;
use crate::notification::Notification;
use crate::reply::Reply;
use crate::slab::Slot;
use crate::sync::{AtomicPtr, Ordering};
use crate::task::Task;
use crate::thread::Thread;
use core::ptr;
use ipc::ObjectKind;

/// A reference to a kernel object of any kind.
#[derive(Clone, Copy)]
pub enum Object {
    /// An endpoint without badge.
    Endpoint(&'static Endpoint),
    /// A badged send right.
    Badge(&'static Badge),
    /// A notification.
    Notification(&'static Notification),
    /// Memory.
    Memory(&'static Memory),
    /// A task.
    Task(&'static Task),
    /// A thread.
    Thread(&'static Thread),
    /// A stashed reply right.
    Reply(&'static Reply),
    /// An interrupt.
    Interrupt(&'static Interrupt),
    /// A range of I/O ports.
    IoPorts(&'static IoPorts),
    /// The right to make device objects.
    DeviceControl,
    /// The right to tune.
    SchedControl,
    /// The right to halt, to log and to read counters.
    SystemControl,
    /// The right to read trace rings.
    Trace,
}

/// Objects are aligned to 64 bytes, so that their pointers have room for the kind.
const TAG_MASK: usize = 63;

/// What a pointer of each kind is tagged with; 0 is the empty cell.
mod tag {
    pub(super) const ENDPOINT: usize = 1;
    pub(super) const BADGE: usize = 2;
    pub(super) const NOTIFICATION: usize = 3;
    pub(super) const MEMORY: usize = 4;
    pub(super) const TASK: usize = 5;
    pub(super) const THREAD: usize = 6;
    pub(super) const REPLY: usize = 7;
    pub(super) const INTERRUPT: usize = 8;
    pub(super) const IO_PORTS: usize = 9;
    pub(super) const DEVICE_CONTROL: usize = 10;
    pub(super) const SCHED_CONTROL: usize = 11;
    pub(super) const SYSTEM_CONTROL: usize = 12;
    pub(super) const TRACE: usize = 13;
}

impl Object {
    /// The kind as tasks know it: a badged send right is an endpoint to them.
    pub fn kind(self) -> ObjectKind {
        match self {
            Object::Endpoint(_) | Object::Badge(_) => ObjectKind::Endpoint,
            Object::Notification(_) => ObjectKind::Notification,
            Object::Memory(_) => ObjectKind::Memory,
            Object::Task(_) => ObjectKind::Task,
            Object::Thread(_) => ObjectKind::Thread,
            Object::Reply(_) => ObjectKind::Reply,
            Object::Interrupt(_) => ObjectKind::Interrupt,
            Object::IoPorts(_) => ObjectKind::IoPorts,
            Object::DeviceControl => ObjectKind::DeviceControl,
            Object::SchedControl => ObjectKind::SchedControl,
            Object::SystemControl => ObjectKind::SystemControl,
            Object::Trace => ObjectKind::Trace,
        }
    }

    /// The book-keeping part; control objects have none.
    pub fn slot(self) -> Option<&'static dyn SlotView> {
        Some(match self {
            Object::Endpoint(object) => &object.slot,
            Object::Badge(object) => &object.slot,
            Object::Notification(object) => &object.slot,
            Object::Memory(object) => &object.slot,
            Object::Task(object) => &object.slot,
            Object::Thread(object) => &object.slot,
            Object::Reply(object) => &object.slot,
            Object::Interrupt(object) => &object.slot,
            Object::IoPorts(object) => &object.slot,
            _ => return None,
        })
    }

    /// Whether the object was not destroyed.
    #[inline(always)]
    pub fn is_alive(self) -> bool {
        match self {
            Object::Endpoint(object) => object.slot.is_alive(),
            Object::Badge(object) => object.slot.is_alive(),
            Object::Notification(object) => object.slot.is_alive(),
            Object::Memory(object) => object.slot.is_alive(),
            Object::Task(object) => object.slot.is_alive(),
            Object::Thread(object) => object.slot.is_alive(),
            Object::Reply(object) => object.slot.is_alive(),
            Object::Interrupt(object) => object.slot.is_alive(),
            Object::IoPorts(object) => object.slot.is_alive(),
            Object::DeviceControl
            | Object::SchedControl
            | Object::SystemControl
            | Object::Trace => true,
        }
    }

    fn pack(self) -> *mut () {
        fn tagged<T: Sync>(object: &'static T, tag: usize) -> *mut () {
            const {
                assert!(
                    align_of::<T>() > TAG_MASK,
                    "objects are aligned for the tag"
                )
            };
            ptr::from_ref(object)
                .cast_mut()
                .cast::<()>()
                .map_addr(|address| address | tag)
        }
        match self {
            Object::Endpoint(object) => tagged(object, tag::ENDPOINT),
            Object::Badge(object) => tagged(object, tag::BADGE),
            Object::Notification(object) => tagged(object, tag::NOTIFICATION),
            Object::Memory(object) => tagged(object, tag::MEMORY),
            Object::Task(object) => tagged(object, tag::TASK),
            Object::Thread(object) => tagged(object, tag::THREAD),
            Object::Reply(object) => tagged(object, tag::REPLY),
            Object::Interrupt(object) => tagged(object, tag::INTERRUPT),
            Object::IoPorts(object) => tagged(object, tag::IO_PORTS),
            Object::DeviceControl => ptr::without_provenance_mut(tag::DEVICE_CONTROL),
            Object::SchedControl => ptr::without_provenance_mut(tag::SCHED_CONTROL),
            Object::SystemControl => ptr::without_provenance_mut(tag::SYSTEM_CONTROL),
            Object::Trace => ptr::without_provenance_mut(tag::TRACE),
        }
    }

    #[inline(always)]
    fn unpack(packed: *mut ()) -> Option<Object> {
        let pointer = packed.map_addr(|address| address & !TAG_MASK);
        /// # Safety
        /// `pointer` came from a `&'static T`.
        unsafe fn object<T: Sync>(pointer: *mut ()) -> &'static T {
            // SAFETY: the caller's promise; the reference is shared, and `T: Sync` makes it good on
            // every CPU.
            unsafe { &*pointer.cast::<T>() }
        }
        // SAFETY: the only source of tagged pointers is `pack`, which pairs each tag with the type
        // that is read back under it here.
        Some(unsafe {
            match packed.addr() & TAG_MASK {
                tag::ENDPOINT => Object::Endpoint(object(pointer)),
                tag::BADGE => Object::Badge(object(pointer)),
                tag::NOTIFICATION => Object::Notification(object(pointer)),
                tag::MEMORY => Object::Memory(object(pointer)),
                tag::TASK => Object::Task(object(pointer)),
                tag::THREAD => Object::Thread(object(pointer)),
                tag::REPLY => Object::Reply(object(pointer)),
                tag::INTERRUPT => Object::Interrupt(object(pointer)),
                tag::IO_PORTS => Object::IoPorts(object(pointer)),
                tag::DEVICE_CONTROL => Object::DeviceControl,
                tag::SCHED_CONTROL => Object::SchedControl,
                tag::SYSTEM_CONTROL => Object::SystemControl,
                tag::TRACE => Object::Trace,
                _ => return None,
            }
        })
    }
}

/// The part of [`Slot`] that does not depend on the object's type.
pub trait SlotView: Sync {
    /// Whether the object was not destroyed.
    fn is_alive(&self) -> bool;
    /// Marks the object destroyed; true for the first call.
    fn kill(&self) -> bool;
    /// Counts one more reference.
    fn reference(&self);
    /// Counts one more reference unless the last one is gone.
    fn try_reference(&self) -> bool;
    /// Counts one reference less; true if it was the last.
    fn dereference(&self) -> bool;
}

impl<T: Sync> SlotView for Slot<T> {
    fn is_alive(&self) -> bool {
        Slot::is_alive(self)
    }
    fn kill(&self) -> bool {
        Slot::kill(self)
    }
    fn reference(&self) {
        Slot::reference(self);
    }
    fn try_reference(&self) -> bool {
        Slot::try_reference(self)
    }
    fn dereference(&self) -> bool {
        Slot::dereference(self)
    }
}

/// An atomic `Option<Object>`.
pub struct AtomicObject(AtomicPtr<()>);

impl AtomicObject {
    /// An empty cell.
    pub const fn none() -> AtomicObject {
        AtomicObject(AtomicPtr::new(ptr::null_mut()))
    }

    /// The object; acquires what was stored before it.
    #[inline]
    pub fn get(&self) -> Option<Object> {
        Object::unpack(self.0.load(Ordering::Acquire))
    }

    /// The object if it is a `T`, by one look at its kind.
    #[inline(always)]
    pub(crate) fn get_known<T: Tagged>(&self) -> Option<Known<T>> {
        let packed = self.0.load(Ordering::Acquire);
        (packed.addr() & TAG_MASK == T::TAG).then(|| Known {
            pointer: packed.wrapping_byte_sub(T::TAG).cast(),
        })
    }

    /// Replaces the object; releases what was stored before.
    #[inline]
    pub fn set(&self, value: Option<Object>) {
        self.0.store(
            value.map_or(ptr::null_mut(), Object::pack),
            Ordering::Release,
        );
    }

    /// Takes the object out and leaves nothing.
    pub fn take(&self) -> Option<Object> {
        Object::unpack(self.0.swap(ptr::null_mut(), Ordering::AcqRel))
    }
}

/// A reference to an object that [`AtomicObject::get_known`] found. A pointer and not a reference, because
/// the compiler would look whether it is null.
pub(crate) struct Known<T: 'static> {
    pointer: *const T,
}

impl<T: Sync> Known<T> {
    /// Of a reference at hand.
    #[inline(always)]
    pub(crate) fn of(object: &'static T) -> Known<T> {
        Known { pointer: object }
    }

    /// The reference.
    #[inline(always)]
    pub(crate) fn get(self) -> &'static T {
        // SAFETY: the only source of what carries the type's tag is `Object::pack`, which made it from a
        // `&'static T`; `get_known` took the tag off. The reference is shared, and `T: Sync` makes it good
        // on every CPU.
        unsafe { &*self.pointer }
    }
}

/// A type that [`Object::pack`] gives a tag of its own.
///
/// # Safety
/// `TAG` is the one that `pack` gives to this type, and to no other.
pub(crate) unsafe trait Tagged: Sync + 'static {
    /// The tag.
    const TAG: usize;
}

// SAFETY: see `Object::pack`.
unsafe impl Tagged for Endpoint {
    const TAG: usize = tag::ENDPOINT;
}
// SAFETY: see `Object::pack`.
unsafe impl Tagged for Badge {
    const TAG: usize = tag::BADGE;
}
// SAFETY: see `Object::pack`.
unsafe impl Tagged for Notification {
    const TAG: usize = tag::NOTIFICATION;
}
// SAFETY: see `Object::pack`.
unsafe impl Tagged for Task {
    const TAG: usize = tag::TASK;
}

impl Default for AtomicObject {
    fn default() -> Self {
        Self::none()
    }
}
