//! TLBs: which CPUs may hold entries of an address space, and how they are made to forget them.
//!
//! Each space's entries bear a tag where the processor has tags (a process-context identifier), so that a
//! CPU keeps what it holds of one space while it runs another. Three rules keep it from holding too much:
//!
//! - A CPU is in a space's set before it loads the space, and the set loses none as long as the space lives:
//!   who is not in it holds nothing with the space's tag.
//! - What was taken out of a space's tables, and tables that were taken out of the space, are used for
//!   nothing else before every CPU of the set has forgotten all with its tag ([`Kernel::shoot_down`]), the
//!   spaces that it runs meanwhile notwithstanding.
//! - A tag is handed out anew only when the space before is gone: after every CPU was moved off it, and has
//!   forgotten it. It is the task's place in its slab that has the tag, for good.
//!
//! What the kernel maps for itself is global, complete before the first task, and never taken away.

use crate::cpu::{Cpu, LocalCpuSet};
use crate::frames::Frame;
use crate::kernel::Kernel;
use crate::mutant::{self, Mutant};
use crate::platform::{MAX_CPUS, Platform};
use crate::sync::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence, relax};
use crate::task::{Task, TaskState};
use crate::thread::Thread;

/// The tag of an address space's TLB entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SpaceTag(u16);

impl SpaceTag {
    /// The tag of the kernel's own root, and of the spaces that are left without one of their own: entries
    /// that bear it are gone with the next load of a root that bears it.
    pub const SHARED: SpaceTag = SpaceTag(0);
    /// The largest (Intel SDM volume 3A, section 4.10.1: process-context identifiers have 12 bits).
    pub const MAX: SpaceTag = SpaceTag(0xfff);

    /// Its number, at most that of [`SpaceTag::MAX`].
    pub fn number(self) -> u16 {
        self.0
    }
}

/// The tags that were not given out yet.
pub struct Tags(AtomicU16);

impl Tags {
    /// All but the shared one.
    pub const fn new() -> Tags {
        Tags(AtomicU16::new(1))
    }

    /// The next one; the shared one where all have been given out.
    pub fn take(&self) -> SpaceTag {
        let next = |next: u16| (next <= SpaceTag::MAX.0).then_some(next + 1);
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .map_or(SpaceTag::SHARED, SpaceTag)
    }
}

impl Default for Tags {
    fn default() -> Self {
        Self::new()
    }
}

/// What a CPU is asked to forget, and whether it has.
pub struct Mailbox {
    /// Requests made.
    requested: AtomicU64,
    /// Requests that were served.
    served: AtomicU64,
    /// What is to be forgotten: a tag, or one of the two values beyond.
    stale: AtomicU32,
}

/// There is nothing to be forgotten.
const NOTHING: u32 = u32::MAX;
/// Entries with more than one tag are.
const SEVERAL: u32 = u32::MAX - 1;

impl Mailbox {
    /// One with no request.
    pub const fn new() -> Mailbox {
        Mailbox {
            requested: AtomicU64::new(0),
            served: AtomicU64::new(0),
            stale: AtomicU32::new(NOTHING),
        }
    }

    /// Asks for a flush of this tag, or of none: to enter the kernel is all that is asked for then. Returns
    /// the ticket of the request.
    fn request(&self, tag: Option<SpaceTag>) -> u64 {
        if let Some(tag) = tag {
            let mine = u32::from(tag.0);
            let both = |stale: u32| match stale {
                NOTHING => Some(mine),
                stale if stale == mine => None,
                _ => Some(SEVERAL),
            };
            // First the tag, then the request: who sees the request sees the tag, or has served it.
            let order = Ordering::SeqCst;
            self.stale.fetch_update(order, order, both).ok();
        }
        self.requested.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn has_served(&self, ticket: u64) -> bool {
        self.served.load(Ordering::Acquire) >= ticket
    }
}

impl Default for Mailbox {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Platform> Kernel<P> {
    /// A new address space's root as CPUs load it. The task's place in the slab gets its tag here, with its
    /// first task.
    pub(crate) fn tagged_root(&self, task: &Task, root: Frame) -> u64 {
        let tag = match task.tag.load(Ordering::Relaxed) {
            0 => self.tags.take(),
            number => SpaceTag(number),
        };
        task.tag.store(tag.0, Ordering::Relaxed);
        self.platform.tagged_root(root, tag)
    }

    /// Makes every CPU that may hold TLB entries of a task's address space forget them, and waits
    /// until they have. No lock may be held.
    pub fn shoot_down(&'static self, task: &'static Task) {
        let tag = SpaceTag(task.tag.load(Ordering::Relaxed));
        if mutant::active(Mutant::Shootdown) {
            self.platform.flush(tag);
            return;
        }
        // The cleared entries are visible before the set of CPUs is read: a CPU that is not in it
        // yet loads the root later, and walks the tables as they are then.
        fence(Ordering::SeqCst);
        self.platform.flush(tag);
        self.request_flush(Some(tag), |cpu| task.cpus.contains(cpu.index));
    }

    /// Moves every CPU off the address space of a task without threads; afterwards none holds anything of it.
    pub(crate) fn move_off(&'static self, cpu: &'static Cpu, task: &'static Task) {
        if cpu.loaded.is(task) {
            self.load_kernel_root(cpu);
        }
        self.shoot_down(task);
    }

    fn load_kernel_root(&self, cpu: &Cpu) {
        cpu.loaded.set(None);
        self.platform
            .load_root(self.platform.kernel_root().address());
    }

    /// Has other CPUs enter the kernel and flush what bears the tag, if any, and waits for them while serving
    /// this CPU's own mailbox. No lock may be held.
    pub(crate) fn request_flush(
        &'static self,
        tag: Option<SpaceTag>,
        wanted: impl Fn(&Cpu) -> bool,
    ) {
        let this = self.platform.this_cpu();
        let mut waiting = LocalCpuSet::new();
        let mut tickets = [0u64; MAX_CPUS];
        for cpu in self.cpus() {
            if cpu.index != this && cpu.online.load(Ordering::Relaxed) && wanted(cpu) {
                tickets[cpu.index] = cpu.mailbox.request(tag);
                waiting.add(cpu.index);
                self.platform.kick(cpu.index);
            }
        }
        for cpu in self.cpus() {
            if waiting.contains(cpu.index) {
                while !cpu.mailbox.has_served(tickets[cpu.index]) {
                    relax();
                }
            }
        }
    }

    /// Serves this CPU's mailbox: called from every entry but the fast path's and from every spin loop.
    pub fn serve_flush(&'static self, cpu: &'static Cpu) {
        let mailbox = &cpu.mailbox;
        let requested = mailbox.requested.load(Ordering::Acquire);
        if requested == mailbox.served.load(Ordering::Relaxed) {
            return;
        }
        // First what is to be forgotten, then whether the space that is loaded is to be left: whoever asks for
        // a space that is to be left has marked it before. And only then the flush: what is loaded can come
        // back into the TLB at any time.
        let stale = mailbox.stale.swap(NOTHING, Ordering::SeqCst);
        let is_left = |task: &'static Task| {
            let runs = |thread: &Thread| core::ptr::eq(thread.task(), task);
            task.state() != TaskState::Alive && !cpu.current.get().is_some_and(runs)
        };
        if cpu.loaded.get().is_some_and(is_left) {
            self.load_kernel_root(cpu);
        }
        match stale {
            NOTHING => {}
            SEVERAL => self.platform.flush_all(),
            number => self.platform.flush(SpaceTag(number as u16)),
        }
        cpu.counters.shootdowns.add(1);
        mailbox.served.store(requested, Ordering::Release);
    }
}
