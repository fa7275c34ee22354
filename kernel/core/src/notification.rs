//! Notifications: a word of signal bits, one thread that may wait for them, and the thread they are
//! bound to, whose Receive ends for signals as well.

use crate::cpu::Cpu;
use crate::kernel::{Kernel, Next, Outcome};
use crate::object::Object;
use crate::platform::Platform;
use crate::quota::Quota;
use crate::slab::{Slot, Slotted};
use crate::sync::{Guard, Lock, Rank};
use crate::thread::{Thread, Wait, WaitRef};
use ipc::message::NEVER;
use ipc::{Error, Label, Tag};

/// What a notification's lock guards.
pub struct Signals {
    bits: u64,
    /// The wait of the thread in Wait.
    waiter: Option<WaitRef>,
    /// The thread that the notification is bound to.
    bound: Option<&'static Thread>,
    /// The bound thread's wait in Receive.
    bound_wait: Option<WaitRef>,
    /// It was destroyed, and nobody waits any more.
    over: bool,
}

impl Signals {
    const EMPTY: Signals = Signals {
        bits: 0,
        waiter: None,
        bound: None,
        bound_wait: None,
        over: false,
    };

    /// Takes the bits, leaving none.
    pub fn take(&mut self) -> u64 {
        core::mem::take(&mut self.bits)
    }

    /// The bits that are there.
    #[inline(always)]
    pub(crate) fn bits(&self) -> u64 {
        self.bits
    }

    /// Adds bits that nobody waits for.
    #[inline(always)]
    pub(crate) fn add(&mut self, bits: u64) {
        self.bits |= bits;
    }

    /// The wait of the thread in Wait.
    #[inline(always)]
    pub(crate) fn waiter(&self) -> Option<WaitRef> {
        self.waiter
    }

    /// Remembers the wait of the thread in Wait; it is published before the lock is dropped.
    #[inline(always)]
    pub(crate) fn expect(&mut self, wait: WaitRef) {
        self.waiter = Some(wait);
    }

    /// Forgets the thread in Wait, whose wait has been ended.
    #[inline(always)]
    pub(crate) fn waited(&mut self) {
        self.waiter = None;
    }

    /// Whether it was destroyed.
    #[inline(always)]
    pub(crate) fn is_over(&self) -> bool {
        self.over
    }

    /// Whether nobody can begin to wait for it: somebody does, or it is bound to a thread, or over.
    #[inline(always)]
    pub(crate) fn is_taken(&self) -> bool {
        // Without a branch each.
        self.waiter.is_some() | self.bound.is_some() | self.over
    }

    /// Whether the bound thread has waited in Receive and no signal has ended that.
    #[inline(always)]
    pub(crate) fn is_watched(&self) -> bool {
        self.bound_wait.is_some()
    }

    /// The wait of the bound thread in Receive, if these bits end it. Not one that has ended otherwise, nor
    /// one that somebody has claimed: who gives that back looks here afterwards.
    #[inline(always)]
    pub(crate) fn receiver(&self, bits: u64) -> Option<WaitRef> {
        let wait = self.bound_wait?;
        let is_ended = wait.thread.waits_as(wait.generation) && self.bits | bits != 0;
        is_ended.then_some(wait)
    }

    /// Forgets the wait of the bound thread in Receive, which has been ended.
    #[inline(always)]
    pub(crate) fn watched(&mut self) {
        self.bound_wait = None;
    }

    /// Remembers the wait of the bound thread in Receive, so that a signal can end it. It is
    /// published before the lock is dropped: a signal that comes later finds it.
    #[inline(always)]
    pub fn watch(&mut self, wait: WaitRef) {
        self.bound_wait = Some(wait);
    }
}

/// A notification.
#[repr(align(64))]
pub struct Notification {
    /// Book-keeping.
    pub slot: Slot<Notification>,
    signals: Lock<Signals>,
}

impl Slotted for Notification {
    fn make() -> Notification {
        Notification {
            slot: Slot::new(),
            signals: Lock::new(Rank::Notification, Signals::EMPTY),
        }
    }
    fn slot(&self) -> &Slot<Notification> {
        &self.slot
    }
}

impl Notification {
    /// The bits and who waits for them.
    pub fn signals(&self) -> Guard<'_, Signals> {
        self.signals.lock()
    }

    /// The same, if nobody else has them.
    #[inline(always)]
    pub(crate) fn try_signals(&self) -> Option<Guard<'_, Signals>> {
        self.signals.try_lock()
    }

    /// Forgets a waiter whose wait ended otherwise.
    pub fn forget(&self, thread: &'static Thread) {
        let mut signals = self.signals.lock();
        if signals
            .waiter
            .is_some_and(|waiter| core::ptr::eq(waiter.thread, thread))
        {
            signals.waiter = None;
        }
    }

    /// Unbinds the thread.
    pub fn unbind(&self, thread: &'static Thread) {
        let mut signals = self.signals.lock();
        if signals
            .bound
            .is_some_and(|bound| core::ptr::eq(bound, thread))
        {
            signals.bound = None;
            signals.bound_wait = None;
        }
    }
}

impl<P: Platform> Kernel<P> {
    /// Makes a notification, with one reference that the caller owns.
    ///
    /// # Errors
    /// OutOfQuota, OutOfMemory.
    pub fn make_notification(
        &'static self,
        quota: &'static Quota,
    ) -> Result<&'static Notification, Error> {
        let notification = self.notifications.allocate(self, quota)?;
        *notification.signals.lock() = Signals::EMPTY;
        Ok(notification)
    }

    /// Sets bits, and ends the wait of the thread that waits for them. Returns that thread, claimed
    /// and with its result in place, for the caller to make ready.
    #[must_use]
    pub fn set_bits(
        &'static self,
        notification: &'static Notification,
        bits: u64,
    ) -> Option<&'static Thread> {
        let mut signals = notification.signals.lock();
        signals.bits |= bits;
        if signals.bits == 0 {
            return None;
        }
        if let Some(waiter) = signals.waiter
            && waiter.thread.claim_generation(waiter.generation)
        {
            signals.waiter = None;
            let bits = signals.take();
            drop(signals);
            let registers = &waiter.thread.registers;
            registers.rax.set(0);
            registers.rdi.set(bits);
            return Some(waiter.thread);
        }
        // Where the claim fails the wait stays known: a sender that has claimed the receiver may give
        // it back, and looks here then.
        if let Some(waiter) = signals.bound_wait
            && waiter.thread.claim_generation(waiter.generation)
        {
            signals.bound_wait = None;
            let bits = signals.take();
            drop(signals);
            self.leave_queue(waiter.thread);
            give_signal(waiter.thread, bits);
            return Some(waiter.thread);
        }
        None
    }

    /// Signal.
    pub fn signal(
        &'static self,
        cpu: &'static Cpu,
        notification: &'static Notification,
        bits: u64,
    ) -> Outcome {
        if let Some(thread) = self.set_bits(notification, bits) {
            self.make_ready(cpu, thread);
        }
        Ok(Next::Return)
    }

    /// Wait.
    pub fn wait(
        &'static self,
        cpu: &'static Cpu,
        thread: &'static Thread,
        notification: &'static Notification,
        deadline: u64,
    ) -> Outcome {
        let mut signals = notification.signals.lock();
        // Whoever ends it marks it first and looks for a waiter under the lock afterwards.
        if !notification.slot.is_alive() {
            return Err(Error::Destroyed);
        }
        let bits = signals.take();
        if bits != 0 {
            thread.registers.rdi.set(bits);
            return Ok(Next::Return);
        }
        if signals.waiter.is_some() || signals.bound.is_some_and(|t| !core::ptr::eq(t, thread)) {
            return Err(Error::Busy);
        }
        if deadline != NEVER && deadline <= self.platform.now() {
            return Err(Error::TimedOut);
        }
        let generation = thread.next_generation();
        signals.waiter = Some(WaitRef { thread, generation });
        thread.notification.set(Some(notification));
        self.detach(cpu, thread);
        self.arm(cpu, thread, deadline);
        thread.publish_as(Wait::Notification, generation);
        Ok(Next::Blocked)
    }

    /// NotificationBind with a notification.
    pub fn bind(
        &'static self,
        thread: &'static Thread,
        notification: &'static Notification,
    ) -> Outcome {
        {
            let mut signals = notification.signals.lock();
            if signals
                .bound
                .is_some_and(|bound| !core::ptr::eq(bound, thread))
                || signals.waiter.is_some()
            {
                return Err(Error::Busy);
            }
            if !notification.slot.try_reference() {
                return Err(Error::InvalidHandle);
            }
            signals.bound = Some(thread);
        }
        self.unbind_except(thread, Some(notification));
        Ok(Next::Return)
    }

    /// Binds the thread to `new`, whose reference the caller hands over, instead of what it was
    /// bound to.
    pub fn unbind_except(
        &'static self,
        thread: &'static Thread,
        new: Option<&'static Notification>,
    ) {
        let old = thread.bound.get();
        thread.bound.set(new);
        if let Some(old) = old {
            if new.is_none_or(|new| !core::ptr::eq(new, old)) {
                old.unbind(thread);
            }
            self.drop_reference(Object::Notification(old));
        }
    }

    /// Destroys a notification: the waits on it end.
    pub fn empty_notification(&'static self, notification: &'static Notification) {
        let waiter = {
            let mut signals = notification.signals.lock();
            // The bound thread goes on waiting for messages; no signal can come any more.
            signals.bound_wait = None;
            signals.over = true;
            signals.waiter.take()
        };
        if let Some(waiter) = waiter
            && waiter.thread.claim_generation(waiter.generation)
        {
            self.finish_with_error(waiter.thread, Error::Destroyed);
        }
    }
}

/// The tag of the kernel message Signal, whose first word are the bits.
pub(crate) const SIGNAL_TAG: u64 = Tag::new(Label::SIGNAL, 8, 0).0 | Tag::KERNEL;

/// Puts the kernel message Signal into the registers of a thread whose Receive it ends.
pub fn give_signal(thread: &'static Thread, bits: u64) {
    let registers = &thread.registers;
    registers.rax.set(0);
    registers.rdi.set(0);
    registers.rsi.set(SIGNAL_TAG);
    registers.rdx.set(bits);
}
