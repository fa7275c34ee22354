//! The kernel as one structure: the machine below it, the objects' slabs, the CPUs, and the way in
//! and out. What each operation does is in the module of its object.

use crate::cpu::Cpu;
use crate::endpoint::{Badge, Endpoint};
use crate::frames::FrameTable;
use crate::handles::Chunk;
use crate::interrupt::{Interrupt, IoPorts, Vectors};
use crate::mapping::Mapping;
use crate::memory::Memory;
use crate::notification::Notification;
use crate::object::Object;
use crate::platform::Platform;
use crate::quota::Quota;
use crate::reclaim::Reclaim;
use crate::reply::Reply;
use crate::slab::Slab;
use crate::sync::{AtomicU64, Ordering, fence};
use crate::task::Task;
use crate::thread::{NOBODY_AT_HOME, Thread, home_terms};
use crate::tlb::Tags;
use crate::trace::TraceRing;
use crate::tunables::{Tunable, Tunables};
use ipc::Error;
use ipc::info::PowerInfo;

/// Who runs next on this CPU: what every operation answers, besides its errors.
#[must_use]
#[derive(Clone, Copy)]
pub enum Next {
    /// The caller goes on; status and results are success.
    Return,
    /// The caller goes on with registers that are complete, status included.
    Resume,
    /// The caller's operation is not finished: it is issued again from ring 3, after interrupts.
    Again,
    /// The caller waits; somebody else runs.
    Blocked,
    /// The caller waits; this thread, claimed and with its result in place, runs now unless a
    /// more urgent one is ready.
    Switch(&'static Thread),
    /// The caller goes behind the others of its priority.
    Yield,
}

/// What an operation answers.
pub type Outcome = Result<Next, Error>;

/// What the mechanism tells the core about the machine that it found.
#[derive(Clone, Copy, Default)]
pub struct Machine {
    /// The kernel command line.
    pub command_line: &'static str,
    /// Name of the clock source.
    pub clock_source: &'static str,
    /// Physical address of the ACPI root pointer, 0 where there is none.
    pub acpi_root: u64,
    /// The power registers that the firmware tells of.
    pub power: PowerInfo,
}

/// The kernel.
pub struct Kernel<P: Platform> {
    /// The machine below.
    pub platform: P,
    /// The frames of RAM.
    pub frames: FrameTable,
    /// What the machine is.
    pub machine: Machine,
    /// Policy numbers.
    pub tunables: Tunables,
    /// The quota of the whole machine: init's.
    pub root_quota: Quota,
    pub(crate) endpoints: Slab<Endpoint>,
    pub(crate) badges: Slab<Badge>,
    pub(crate) notifications: Slab<Notification>,
    pub(crate) memories: Slab<Memory>,
    pub(crate) mappings: Slab<Mapping>,
    pub(crate) tasks: Slab<Task>,
    pub(crate) threads: Slab<Thread>,
    pub(crate) replies: Slab<Reply>,
    pub(crate) interrupts: Slab<Interrupt>,
    pub(crate) io_ports: Slab<IoPorts>,
    pub(crate) chunks: Slab<Chunk>,
    pub(crate) quotas: Slab<Quota>,
    pub(crate) reclaim: Reclaim,
    pub(crate) vectors: Vectors,
    pub(crate) dma_epoch: AtomicU64,
    pub(crate) quarantined: AtomicU64,
    pub(crate) ports_generation: AtomicU64,
    /// Tags of address spaces.
    pub(crate) tags: Tags,
    /// Handles open in all tasks.
    pub(crate) open_handles: AtomicU64,
    /// Number of init, whose end is the kernel's.
    pub(crate) init_number: AtomicU64,
    cpus: &'static [Cpu],
    traces: &'static [TraceRing],
    epoch: AtomicU64,
    numbers: AtomicU64,
}

impl<P: Platform> Kernel<P> {
    /// A kernel without tasks. `cpus` are all that may come up, each with its trace ring; the boot
    /// CPU is the first.
    pub fn new(
        platform: P,
        frames: FrameTable,
        cpus: &'static [Cpu],
        traces: &'static [TraceRing],
        tunables: Tunables,
        machine: Machine,
    ) -> Kernel<P> {
        assert!(cpus.len() == traces.len(), "each CPU has a trace ring");
        Kernel {
            platform,
            frames,
            machine,
            tunables,
            root_quota: Quota::root(),
            endpoints: Slab::new(),
            badges: Slab::new(),
            notifications: Slab::new(),
            memories: Slab::new(),
            mappings: Slab::new(),
            tasks: Slab::new(),
            threads: Slab::new(),
            replies: Slab::new(),
            interrupts: Slab::new(),
            io_ports: Slab::new(),
            chunks: Slab::new(),
            quotas: Slab::new(),
            reclaim: Reclaim::new(),
            vectors: Vectors::new(),
            dma_epoch: AtomicU64::new(1),
            quarantined: AtomicU64::new(0),
            tags: Tags::new(),
            ports_generation: AtomicU64::new(0),
            open_handles: AtomicU64::new(0),
            init_number: AtomicU64::new(0),
            cpus,
            traces,
            epoch: AtomicU64::new(1),
            numbers: AtomicU64::new(0),
        }
    }

    /// All CPUs, online or not.
    #[inline]
    pub fn cpus(&self) -> &'static [Cpu] {
        self.cpus
    }

    /// The CPU that calls.
    #[inline]
    pub fn here(&self) -> &'static Cpu {
        &self.cpus[self.platform.this_cpu()]
    }

    /// The trace ring of a CPU.
    #[inline]
    pub fn trace_ring(&self, cpu: usize) -> Option<&'static TraceRing> {
        self.traces.get(cpu)
    }

    /// A number that no object had before.
    pub fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Marks a CPU online: it is about to call [`Kernel::leave`] for the first time.
    pub fn bring_online(&'static self, cpu: &'static Cpu) {
        cpu.seen_epoch
            .store(self.epoch.load(Ordering::SeqCst), Ordering::SeqCst);
        let now = self.platform.ticks();
        cpu.charged_at.store(now, Ordering::Relaxed);
        cpu.busy_since.store(now, Ordering::Relaxed);
        self.allow_fast(cpu);
        cpu.online.store(true, Ordering::Release);
        cpu.reschedule.store(true, Ordering::Relaxed);
    }

    /// Lets a CPU take the fast path, unless events are to be recorded or the machine has no short way
    /// to save a thread's segment bases.
    pub(crate) fn allow_fast(&self, cpu: &Cpu) {
        let plain = self.tunables.get(Tunable::TraceEnabled) == 0 && P::saves_bases_fast();
        let terms = match plain {
            true => home_terms(cpu.index),
            false => NOBODY_AT_HOME,
        };
        cpu.fast_terms.store(terms, Ordering::Relaxed);
    }

    /// The way into the kernel: every entry but the fast path's begins with it.
    #[inline]
    pub fn enter(&'static self, cpu: &'static Cpu) {
        if cpu.seen_epoch.load(Ordering::Relaxed) == u64::MAX {
            // An idle CPU holds up no grace period. Before it reads any object it says that it
            // is back, and the fence makes that visible ahead of its reads.
            cpu.seen_epoch
                .store(self.epoch.load(Ordering::Relaxed), Ordering::Relaxed);
            fence(Ordering::SeqCst);
            cpu.busy_since
                .store(self.platform.ticks(), Ordering::Relaxed);
        }
        self.serve_flush(cpu);
    }

    /// Ends an epoch: the stamp of what was unlinked in it.
    pub(crate) fn advance_epoch(&self) -> u64 {
        self.epoch.fetch_add(1, Ordering::SeqCst)
    }

    /// The epoch that every CPU has seen: what was stamped earlier is found by nobody any more.
    #[inline(never)]
    pub(crate) fn epoch_passed(&self) -> u64 {
        fence(Ordering::SeqCst);
        let seen = self
            .cpus
            .iter()
            .map(|cpu| cpu.seen_epoch.load(Ordering::Acquire));
        // The own CPU is inside the kernel: what it unlinked just now has to wait.
        seen.min()
            .unwrap_or(0)
            .min(self.epoch.load(Ordering::Relaxed))
    }

    /// Kicks the CPUs that have not seen the current epoch, so that they do.
    #[cold]
    #[inline(never)]
    pub(crate) fn hasten_epoch(&self) {
        let epoch = self.epoch.load(Ordering::Relaxed);
        let this = self.platform.this_cpu();
        for cpu in self.cpus {
            if cpu.index != this && cpu.seen_epoch.load(Ordering::Relaxed) < epoch {
                self.platform.kick(cpu.index);
            }
        }
    }

    /// Notes that this CPU leaves the kernel and holds no reference to anything unlinked before.
    pub(crate) fn see_epoch(&self, cpu: &Cpu, idle: bool) {
        let epoch = if idle {
            u64::MAX
        } else {
            self.epoch.load(Ordering::Relaxed)
        };
        // A release store: all of this CPU's reads come before it.
        if cpu.seen_epoch.load(Ordering::Relaxed) != epoch {
            if idle {
                let busy = self.platform.ticks() - cpu.busy_since.load(Ordering::Relaxed);
                cpu.counters.busy_ticks.add(busy);
            }
            cpu.seen_epoch.store(epoch, Ordering::Release);
        }
    }

    /// Another CPU wants this one in the kernel: its mailbox is served by the way in, its run queue
    /// looked at on the way out.
    pub fn kicked(&'static self, cpu: &'static Cpu) {
        self.enter(cpu);
    }

    /// Runs an operation that passes an object on or keeps it, with a reference of its own: the
    /// handle in which the object was found may be closed meanwhile.
    ///
    /// # Errors
    /// InvalidHandle, if the last reference is gone; else the operation's.
    pub(crate) fn holding<R>(
        &'static self,
        object: Object,
        operation: impl FnOnce() -> Result<R, Error>,
    ) -> Result<R, Error> {
        if object.slot().is_some_and(|slot| !slot.try_reference()) {
            return Err(Error::InvalidHandle);
        }
        let result = operation();
        self.drop_reference(object);
        result
    }

    /// Drops a reference that the caller owns. With the last one the object ends; what it held is
    /// dropped in turn, a chain no longer than the kinds of objects (badge or interrupt or mapping,
    /// then endpoint or notification or memory).
    pub fn drop_reference(&'static self, object: Object) {
        let Some(slot) = object.slot() else { return };
        if !slot.dereference() {
            if let Object::Thread(thread) = object {
                self.end_unreachable(thread);
            }
            return;
        }
        match object {
            Object::Endpoint(endpoint) => self.endpoints.retire(self, endpoint),
            Object::Badge(badge) => self.close_badge(badge),
            Object::Notification(notification) => {
                // First, so that nobody begins to wait on it when it was emptied.
                notification.slot.kill();
                self.empty_notification(notification);
                self.notifications.retire(self, notification);
            }
            Object::Memory(memory) => {
                if !Self::is_emptied(memory) {
                    memory.slot.kill();
                    memory.slot.revive();
                    self.empty_memory(memory);
                    if !memory.slot.dereference() {
                        return;
                    }
                }
                self.memories.retire(self, memory);
            }
            Object::Task(task) => self.release_task(task),
            Object::Thread(thread) => self.threads.retire(self, thread),
            Object::Reply(reply) => {
                if let Some(caller) = reply.take() {
                    self.abandon(caller);
                }
                self.replies.retire(self, reply);
            }
            Object::Interrupt(interrupt) => self.release_interrupt(interrupt),
            Object::IoPorts(ports) => {
                self.close_ports(ports);
                self.io_ports.retire(self, ports);
            }
            Object::DeviceControl
            | Object::SchedControl
            | Object::SystemControl
            | Object::Trace => {}
        }
    }
}
