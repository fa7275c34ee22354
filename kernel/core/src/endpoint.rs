//! Endpoints and badges: where senders and receivers meet.
//!
//! An endpoint is open while a handle with the right to receive exists. A badge is a counted send
//! right: when its last handle is closed, the endpoint delivers the kernel message Closed(badge).
//! The rendezvous itself is in [`crate::rendezvous`].

use crate::kernel::Kernel;
use crate::mutant::{self, Mutant};
use crate::object::Object;
use crate::platform::Platform;
use crate::queue::{Linked, Links, Queue};
use crate::quota::Quota;
use crate::slab::{Slot, Slotted};
use crate::static_ref::AtomicLink;
use crate::sync::{AtomicU32, AtomicU64, Guard, Lock, Ordering, Rank};
use crate::thread::{QUEUE, Thread};
use ipc::Error;

/// Who waits at an endpoint. Callers and receivers never both wait.
pub struct Waiters {
    /// Threads whose message no receiver has taken, in the order of their arrival.
    pub senders: Queue<Thread, QUEUE>,
    /// Threads that wait for a message.
    pub receivers: Queue<Thread, QUEUE>,
    /// Badges whose last handle was closed and whose Closed is not delivered.
    pub closed_badges: Queue<Badge, 0>,
    /// No receiver can come any more.
    closed: bool,
    /// Whether there may be more to do for a receiver than to wait: false only where nobody sends, no
    /// badge is closed and the endpoint is open. One look for the fast path.
    busy: bool,
}

impl Waiters {
    const fn new(number: u64) -> Waiters {
        // Two queues of one link set: even and odd numbers tell them apart.
        Waiters {
            senders: Queue::new(number << 1),
            receivers: Queue::new(number << 1 | 1),
            closed_badges: Queue::new(number),
            closed: false,
            busy: false,
        }
    }

    /// Whether no receiver can come any more.
    #[inline]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether there may be senders or closed badges, or the endpoint is closed.
    #[inline(always)]
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// Adds a sender.
    pub fn queue_sender(&mut self, sender: &'static Thread) {
        self.busy = true;
        self.senders.push_back(sender);
    }

    /// Looks anew whether there is more to do than to wait; for a receiver that is about to.
    pub fn settle(&mut self) {
        let is_deserted = self.senders.is_empty() && self.closed_badges.is_empty();
        self.busy = self.closed || !is_deserted;
    }

    /// Closes the endpoint; true for the first call.
    fn close(&mut self) -> bool {
        self.busy = true;
        !core::mem::replace(&mut self.closed, true)
    }
}

/// An endpoint.
#[repr(align(64))]
pub struct Endpoint {
    /// Book-keeping.
    pub slot: Slot<Endpoint>,
    waiters: Lock<Waiters>,
    /// Handles with the right to receive.
    receivers: AtomicU32,
    links: Links<Endpoint>,
}

impl Slotted for Endpoint {
    fn make() -> Endpoint {
        Endpoint::new()
    }
    fn slot(&self) -> &Slot<Endpoint> {
        &self.slot
    }
}

/// The endpoint of badges that were never handed out.
static NO_ENDPOINT: Endpoint = Endpoint::new();

impl Linked<0> for Endpoint {
    fn links(&self) -> &Links<Endpoint> {
        &self.links
    }
}

impl Endpoint {
    /// An endpoint that was never handed out.
    const fn new() -> Endpoint {
        Endpoint {
            slot: Slot::new(),
            waiters: Lock::new(Rank::Endpoint, Waiters::new(1)),
            receivers: AtomicU32::new(0),
            links: Links::new(),
        }
    }

    /// The queues.
    #[inline]
    pub fn waiters(&self) -> Guard<'_, Waiters> {
        self.waiters.lock()
    }

    /// The queues, if nobody else has them.
    #[inline(always)]
    pub fn try_waiters(&self) -> Option<Guard<'_, Waiters>> {
        self.waiters.try_lock()
    }

    /// Counts a handle with the right to receive.
    pub fn add_receiver(&self) {
        self.receivers.fetch_add(1, Ordering::Relaxed);
    }
}

/// A badged send right to an endpoint.
#[repr(align(64))]
pub struct Badge {
    /// Book-keeping.
    pub slot: Slot<Badge>,
    endpoint: AtomicLink<Endpoint>,
    value: AtomicU64,
    links: Links<Badge>,
}

impl Slotted for Badge {
    fn make() -> Badge {
        Badge {
            slot: Slot::new(),
            endpoint: AtomicLink::new(&NO_ENDPOINT),
            value: AtomicU64::new(0),
            links: Links::new(),
        }
    }
    fn slot(&self) -> &Slot<Badge> {
        &self.slot
    }
}

impl Linked<0> for Badge {
    fn links(&self) -> &Links<Badge> {
        &self.links
    }
}

impl Badge {
    /// The endpoint; of a badge that was never handed out one that nobody uses.
    #[inline(always)]
    pub fn endpoint(&self) -> &'static Endpoint {
        self.endpoint.get()
    }

    /// The badge as the receiver sees it.
    #[inline]
    pub fn value(&self) -> u64 {
        self.value.load(Ordering::Relaxed)
    }
}

impl<P: Platform> Kernel<P> {
    /// Makes an endpoint, with one reference that the caller owns.
    ///
    /// # Errors
    /// OutOfQuota, OutOfMemory.
    pub fn make_endpoint(&'static self, quota: &'static Quota) -> Result<&'static Endpoint, Error> {
        let endpoint = self.endpoints.allocate(self, quota)?;
        *endpoint.waiters.lock() = Waiters::new(endpoint.slot.number());
        endpoint.receivers.store(0, Ordering::Relaxed);
        Ok(endpoint)
    }

    /// Makes a badge of an endpoint to which the caller has a reference, with one reference that the
    /// caller owns.
    ///
    /// # Errors
    /// OutOfQuota, OutOfMemory.
    pub fn make_badge(
        &'static self,
        endpoint: &'static Endpoint,
        value: u64,
        quota: &'static Quota,
    ) -> Result<&'static Badge, Error> {
        let badge = self.badges.allocate(self, quota)?;
        endpoint.slot.reference();
        badge.endpoint.set(endpoint);
        let value = if mutant::active(Mutant::BadgeMint) {
            0
        } else {
            value
        };
        badge.value.store(value, Ordering::Relaxed);
        Ok(badge)
    }

    /// Uncounts a handle with the right to receive; with the last one the endpoint is closed.
    pub fn remove_receiver(&'static self, endpoint: &'static Endpoint) {
        if endpoint.receivers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.close_endpoint(endpoint);
        }
    }

    /// Closes an endpoint: nobody can send any more, and those that wait are told, in steps.
    pub fn close_endpoint(&'static self, endpoint: &'static Endpoint) {
        let first = {
            let mut waiters = endpoint.waiters();
            waiters.close()
        };
        if first {
            // The reclaim queue keeps the endpoint until it is drained.
            endpoint.slot.reference();
            self.reclaim.endpoints.lock().push_back(endpoint);
            self.reclaim.note();
        }
    }

    /// Tells up to `budget` of those that wait at a closed endpoint; true when nobody is left and
    /// the reclaim queue's reference is dropped.
    pub fn drain_endpoint(&'static self, endpoint: &'static Endpoint, budget: u32) -> bool {
        for _ in 0..budget {
            let mut waiters = endpoint.waiters();
            if let Some(badge) = waiters.closed_badges.pop_front() {
                drop(waiters);
                self.retire_badge(badge);
                continue;
            }
            let (thread, error) = if let Some(sender) = waiters.senders.pop_front() {
                (sender, Error::NotDelivered)
            } else if let Some(receiver) = waiters.receivers.pop_front() {
                (receiver, Error::Destroyed)
            } else {
                drop(waiters);
                self.drop_reference(Object::Endpoint(endpoint));
                return true;
            };
            // Whoever else claimed it finds it in no queue and goes on.
            if thread.claim() {
                drop(waiters);
                self.finish_with_error(thread, error);
            }
        }
        false
    }

    /// The last handle of a badge is closed: the endpoint's receiver is told.
    pub fn close_badge(&'static self, badge: &'static Badge) {
        let endpoint = badge.endpoint();
        let mut waiters = endpoint.waiters();
        if waiters.is_closed() {
            drop(waiters);
            self.retire_badge(badge);
            return;
        }
        waiters.busy = true;
        waiters.closed_badges.push_back(badge);
        self.deliver_kernel_message(endpoint, waiters);
    }

    /// Takes back a badge that is in no queue and whose handles are closed.
    pub fn retire_badge(&'static self, badge: &'static Badge) {
        let endpoint = badge.endpoint();
        self.badges.retire(self, badge);
        self.drop_reference(Object::Endpoint(endpoint));
    }
}
