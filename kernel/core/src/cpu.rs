//! Everything that one CPU has of its own: what it runs, its run queue, its timers, its mailbox, its
//! counters. All of it in one structure, a cache line apart where other CPUs write.

use crate::platform::MAX_CPUS;
use crate::queue::Queue;
use crate::static_ref::AtomicRef;
use crate::sync::{AtomicBool, AtomicU32, AtomicU64, Guard, Lock, Ordering, Rank};
use crate::task::Task;
use crate::thread::{NOBODY_AT_HOME, PRIORITIES, QUEUE, Thread};
use crate::timers::TimerQueue;
use crate::tlb::Mailbox;
use core::hint::cold_path;

/// A set of CPUs.
pub struct CpuSet([AtomicU64; MAX_CPUS / 64]);

impl CpuSet {
    /// The empty set.
    pub const fn new() -> CpuSet {
        CpuSet([const { AtomicU64::new(0) }; MAX_CPUS / 64])
    }

    /// Adds a CPU; writes only if it is not in the set.
    #[inline(always)]
    pub fn add(&self, cpu: usize) {
        let word = &self.0[cpu / 64 % (MAX_CPUS / 64)];
        if word.load(Ordering::Relaxed) >> (cpu % 64) & 1 == 0 {
            word.fetch_or(1 << (cpu % 64), Ordering::SeqCst);
        }
    }

    /// Whether a CPU is in the set.
    pub fn contains(&self, cpu: usize) -> bool {
        self.0[cpu / 64].load(Ordering::SeqCst) & 1 << (cpu % 64) != 0
    }

    /// Makes it empty.
    pub fn clear(&self) {
        for word in &self.0 {
            word.store(0, Ordering::Relaxed);
        }
    }
}

impl Default for CpuSet {
    fn default() -> Self {
        Self::new()
    }
}

/// Ready threads of one CPU: a FIFO for each priority and a bit for each FIFO that has threads; and one
/// place beside them for a thread that is the most urgent when it comes, as one that was preempted or is to
/// run soon mostly is: then no FIFO is touched.
struct RunQueue {
    queues: [Queue<Thread, QUEUE>; PRIORITIES],
    present: u64,
    /// A thread that goes before those of its priority in the FIFO.
    single: Option<&'static Thread>,
    /// Its urgency when it came; 0 where there is none.
    single_urgency: u32,
}

impl RunQueue {
    /// Queue numbers of run queues are above those of endpoints, which are twice a number counted
    /// up from 1, and of tasks' sleepers.
    const FIRST_NUMBER: u64 = 1 << 62;

    fn new(cpu: usize) -> RunQueue {
        RunQueue {
            queues: core::array::from_fn(|priority| {
                Queue::new(Self::FIRST_NUMBER + (cpu * PRIORITIES + priority) as u64)
            }),
            present: 0,
            single: None,
            single_urgency: 0,
        }
    }

    /// Urgency of the most urgent thread in the FIFOs.
    #[inline(always)]
    fn queued_top(&self) -> u32 {
        match self.present {
            0 => 0,
            present => present.ilog2() + 1,
        }
    }
}

/// The place of a thread's FIFO.
#[inline(always)]
fn place(urgency: u32) -> usize {
    urgency.wrapping_sub(1) as usize % PRIORITIES
}

/// Access to a run queue, until dropped.
pub struct RunQueueGuard<'a> {
    queue: Guard<'a, RunQueue>,
    /// [`Cpu::top`]: changed with the queue, read without its lock.
    top: &'a AtomicU32,
}

impl RunQueueGuard<'_> {
    /// Number of threads.
    pub fn len(&self) -> u64 {
        let queued = self.queue.queues.iter().map(|queue| queue.len() as u64);
        queued.sum::<u64>() + u64::from(self.queue.single.is_some())
    }

    /// Whether there is no thread.
    pub fn is_empty(&self) -> bool {
        self.top() == 0
    }

    /// Priority of the most urgent thread, plus one; 0 if there is none.
    #[inline(always)]
    pub fn top(&self) -> u32 {
        self.top.load(Ordering::Relaxed)
    }

    /// Adds a thread behind (or, `first`, before) those of its priority.
    pub fn push(&mut self, thread: &'static Thread, first: bool) {
        self.push_as(thread, thread.urgency(), first);
    }

    /// The same for a thread whose urgency is known.
    #[inline(always)]
    pub fn push_as(&mut self, thread: &'static Thread, urgency: u32, first: bool) {
        let top = self.top();
        let is_top = urgency > top || first && urgency == top;
        if is_top && self.queue.single_urgency == 0 {
            self.queue.single = Some(thread);
            self.queue.single_urgency = urgency;
            self.top.store(urgency, Ordering::Relaxed);
        } else {
            cold_path();
            self.push_beside(thread, urgency, first);
        }
    }

    /// Adds a thread where there are others as urgent, or the place is taken.
    fn push_beside(&mut self, thread: &'static Thread, urgency: u32, first: bool) {
        let queue = &mut self.queue;
        let (single, before) = (
            queue.single_urgency,
            queue.queued_top().max(queue.single_urgency),
        );
        if urgency > before || first && urgency >= single {
            // The place is for the most urgent: who has it goes before those of its priority.
            if let Some(old) = queue.single {
                queue.queues[place(single)].push_front(old);
                queue.present |= 1 << place(single);
            }
            queue.single = Some(thread);
            queue.single_urgency = urgency;
        } else {
            if first {
                queue.queues[place(urgency)].push_front(thread);
            } else {
                queue.queues[place(urgency)].push_back(thread);
            }
            queue.present |= 1 << place(urgency);
        }
        if urgency > self.top() {
            self.top.store(urgency, Ordering::Relaxed);
        }
    }

    /// The thread that [`RunQueueGuard::pop`] would take.
    #[inline(always)]
    pub fn front(&self) -> Option<&'static Thread> {
        let top = self.top();
        if self.queue.single_urgency == top {
            return self.queue.single;
        }
        self.queue.queues[place(top)].front()
    }

    /// Takes the most urgent thread.
    pub fn pop(&mut self) -> Option<&'static Thread> {
        let thread = self.front()?;
        self.remove_at(thread, place(self.top()));
        Some(thread)
    }

    /// The thread in the place of its own, if it is more urgent than all others, and how urgent it is; it
    /// stays.
    #[inline(always)]
    pub fn single(&self) -> Option<(&'static Thread, u32)> {
        let (thread, urgency) = (self.queue.single?, self.queue.single_urgency);
        let others = self.queue.present;
        if others != 0 && others >> place(urgency) != 0 {
            return None;
        }
        Some((thread, urgency))
    }

    /// Takes the thread that [`RunQueueGuard::single`] said.
    #[inline(always)]
    pub fn pop_single(&mut self) {
        self.queue.single = None;
        self.queue.single_urgency = 0;
        self.top.store(self.queue.queued_top(), Ordering::Relaxed);
    }

    /// Puts a thread in the place of the one that [`RunQueueGuard::single`] said, which is as urgent.
    #[inline(always)]
    pub fn replace_single(&mut self, thread: &'static Thread) {
        self.queue.single = Some(thread);
    }

    /// Takes the most urgent thread that may run on `cpu`, looking at two threads of each priority at most.
    pub fn steal(&mut self, cpu: usize) -> Option<&'static Thread> {
        let single = self.queue.single.filter(|thread| thread.may_run_on(cpu));
        let mut present = self.queue.present;
        while present != 0 {
            let priority = present.ilog2() as usize;
            present &= !(1 << priority);
            if let Some(thread) = single
                && place(self.queue.single_urgency) >= priority
            {
                self.remove_at(thread, priority);
                return Some(thread);
            }
            let thread = self.queue.queues[priority].front()?;
            if thread.may_run_on(cpu) {
                self.remove_at(thread, priority);
                return Some(thread);
            }
        }
        if let Some(thread) = single {
            self.remove_at(thread, 0);
        }
        single
    }

    /// Takes a thread out, wherever it stands; false if it is not here.
    pub fn remove(&mut self, thread: &'static Thread) -> bool {
        if self.is_single(thread) {
            return self.remove_at(thread, 0);
        }
        // Its priority may have been changed since it was queued, so its queue is found by number.
        let mut queues = self.queue.queues.iter();
        match queues.position(|queue| queue.contains(thread)) {
            Some(priority) => self.remove_at(thread, priority),
            None => false,
        }
    }

    fn is_single(&self, thread: &Thread) -> bool {
        self.queue
            .single
            .is_some_and(|single| core::ptr::eq(single, thread))
    }

    /// Takes a thread out that is the single one or in this FIFO.
    fn remove_at(&mut self, thread: &'static Thread, priority: usize) -> bool {
        if self.is_single(thread) {
            self.queue.single = None;
            self.queue.single_urgency = 0;
        } else {
            self.queue.queues[priority].remove(thread);
            if self.queue.queues[priority].is_empty() {
                self.queue.present &= !(1 << priority);
            }
        }
        let top = self.queue.queued_top().max(self.queue.single_urgency);
        self.top.store(top, Ordering::Relaxed);
        true
    }
}

/// Counters of one CPU; only it writes them.
#[derive(Default)]
pub struct Counters {
    /// Switches from one thread to another, but for handovers.
    pub switches: Counter,
    /// System calls that switched to another thread by the fast path.
    pub handovers: Counter,
    /// Threads woken.
    pub wakes: Counter,
    /// Threads taken from another CPU's queue.
    pub steals: Counter,
    /// Threads that came from another CPU.
    pub migrations: Counter,
    /// Inter-processor interrupts sent.
    pub ipis: Counter,
    /// Time not spent idle, up to when it last became idle, in the platform's ticks.
    pub busy_ticks: Counter,
    /// Device interrupts.
    pub interrupts: Counter,
    /// Timer interrupts.
    pub timer_interrupts: Counter,
    /// System calls, but for handovers.
    pub system_calls: Counter,
    /// Shootdown requests served.
    pub shootdowns: Counter,
}

/// A counter that one CPU writes and all may read.
#[derive(Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds to it: no locked instruction, the own CPU is the only writer.
    #[inline(always)]
    pub fn add(&self, amount: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(amount),
            Ordering::Relaxed,
        );
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One CPU.
#[repr(align(64))]
pub struct Cpu {
    /// Its number, 0 for the boot CPU.
    pub index: usize,
    /// Its local APIC's identifier.
    pub apic: AtomicU32,
    /// Whether it came up.
    pub online: AtomicBool,
    /// The thread that it runs; none while idle or between a block and the next switch.
    pub current: AtomicRef<Thread>,
    /// The task whose address space is loaded.
    pub loaded: AtomicRef<Task>,
    /// The thread whose FPU state is in its registers.
    pub fpu_owner: AtomicRef<Thread>,
    /// Whether ring 3 may use the FPU.
    pub fpu_enabled: AtomicBool,
    /// Whether the I/O bitmap lets any port through.
    pub ports_open: AtomicBool,
    /// Generation of the port ranges that the bitmap was made from.
    pub ports_generation: AtomicU64,
    /// When the running thread was switched to, or its time was last charged, in the platform's ticks.
    pub charged_at: AtomicU64,
    /// When it last stopped being idle, in the platform's ticks.
    pub busy_since: AtomicU64,
    /// Terms of the threads that the fast path may run here: those at home on this CPU, or nobody's.
    pub fast_terms: AtomicU32,
    /// When the running thread's slice ends: set while another of its priority is ready, and perhaps a
    /// while longer.
    pub slice_end: AtomicU64,
    /// The deadline that the timer is programmed for.
    pub programmed: AtomicU64,
    /// Until when, in the platform's ticks, that is the end of a slice and at least half a slice away.
    pub reuse_timer_until: AtomicU64,
    /// The timer's deadline may have to change.
    pub timer_dirty: AtomicBool,
    /// Counters.
    pub counters: Counters,
    /// Priority of the running thread plus one; 0 while idle. Other CPUs read it to place threads.
    pub running: AtomicU32,
    /// The run queue must be looked at before going back to ring 3. Other CPUs set it.
    pub reschedule: AtomicBool,
    /// The epoch that this CPU saw when it last left the kernel by [`Kernel::leave`](crate::Kernel::leave); `u64::MAX` while idle or offline.
    pub seen_epoch: AtomicU64,
    /// What it is asked to forget.
    pub mailbox: Mailbox,
    /// The run queue's top, for those who look without its lock.
    top: AtomicU32,
    run_queue: Lock<RunQueue>,
    timers: Lock<TimerQueue<Thread>>,
}

impl Cpu {
    /// A CPU that is offline.
    pub fn new(index: usize) -> Cpu {
        Cpu {
            index,
            apic: AtomicU32::new(0),
            online: AtomicBool::new(false),
            current: AtomicRef::none(),
            loaded: AtomicRef::none(),
            fpu_owner: AtomicRef::none(),
            fpu_enabled: AtomicBool::new(false),
            ports_open: AtomicBool::new(false),
            ports_generation: AtomicU64::new(0),
            charged_at: AtomicU64::new(0),
            busy_since: AtomicU64::new(0),
            fast_terms: AtomicU32::new(NOBODY_AT_HOME),
            slice_end: AtomicU64::new(u64::MAX),
            programmed: AtomicU64::new(u64::MAX),
            reuse_timer_until: AtomicU64::new(0),
            timer_dirty: AtomicBool::new(false),
            counters: Counters::default(),
            running: AtomicU32::new(0),
            reschedule: AtomicBool::new(false),
            seen_epoch: AtomicU64::new(u64::MAX),
            mailbox: Mailbox::new(),
            top: AtomicU32::new(0),
            run_queue: Lock::new(Rank::RunQueue, RunQueue::new(index)),
            timers: Lock::new(Rank::Timers, TimerQueue::new(index)),
        }
    }

    /// Whether it takes the slow path only.
    #[inline(always)]
    pub(crate) fn is_slow(&self) -> bool {
        self.fast_terms.load(Ordering::Relaxed) == NOBODY_AT_HOME
    }

    /// Its ready threads.
    #[inline]
    pub fn run_queue(&self) -> RunQueueGuard<'_> {
        RunQueueGuard {
            queue: self.run_queue.lock(),
            top: &self.top,
        }
    }

    /// The same, if nobody else has them.
    #[inline(always)]
    pub fn try_run_queue(&self) -> Option<RunQueueGuard<'_>> {
        Some(RunQueueGuard {
            queue: self.run_queue.try_lock()?,
            top: &self.top,
        })
    }

    /// [`RunQueueGuard::top`] without the lock.
    #[inline(always)]
    pub fn top(&self) -> u32 {
        self.top.load(Ordering::Relaxed)
    }

    /// Its deadlines.
    #[inline]
    pub fn timers(&self) -> Guard<'_, TimerQueue<Thread>> {
        self.timers.lock()
    }
}

/// A set of CPUs of the caller's own.
#[derive(Clone, Copy, Default)]
pub struct LocalCpuSet([u64; MAX_CPUS / 64]);

impl LocalCpuSet {
    /// The empty set.
    pub const fn new() -> LocalCpuSet {
        LocalCpuSet([0; MAX_CPUS / 64])
    }

    /// Adds a CPU.
    pub fn add(&mut self, cpu: usize) {
        self.0[cpu / 64] |= 1 << (cpu % 64);
    }

    /// Whether a CPU is in the set.
    pub fn contains(&self, cpu: usize) -> bool {
        self.0[cpu / 64] & 1 << (cpu % 64) != 0
    }
}
