//! Threads: registers, scheduling parameters, and the wait word, the one arbiter of every wait.
//!
//! A thread that waits is found by a sender, a signaller, its deadline and its killer at the same
//! time. Whoever changes the wait word from Waiting to Claimed owns the thread: it takes it out of
//! the queue it stands in, gives it the result and makes it ready. The others do nothing. (The fast
//! path, which runs the thread at once, goes from Waiting to Active in one step.)
//!
//! The owner of a thread is: the CPU that runs it, or the CPU that claimed it, or the run queue.
//! Only the owner touches registers and message state, which is why relaxed accesses suffice.

use crate::endpoint::Endpoint;
use crate::frames::Frame;
use crate::mutant::{self, Mutant};
use crate::notification::Notification;
use crate::object::AtomicObject;
use crate::platform::FrameWords;
use crate::queue::{Linked, Links};
use crate::registers::Registers;
use crate::slab::{Slot, Slotted};
use crate::static_ref::{AtomicLink, AtomicRef};
use crate::sync::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use crate::task::{NO_TASK, Task};
use crate::timers::{Timed, TimerLinks};

/// No CPU.
pub const NOWHERE: u32 = u32::MAX;

/// Number of priorities; 63 is the most urgent.
pub const PRIORITIES: usize = 64;

/// The terms on which a thread can be run, in one word so that one look tells whether any of them has
/// changed: how urgent it is and where it is at home.
mod terms {
    /// Priority plus one.
    pub(super) const URGENCY: u32 = 0xff;
    /// Above it: the CPU on which nothing but its address space has to be loaded for it to run, as
    /// [`Kernel::settle`](crate::Kernel::settle) found.
    pub(super) const HOME_SHIFT: u32 = 8;
    /// In the home's place where there is more to do or to look at.
    pub(super) const AWAY: u32 = !URGENCY;
}

/// What a CPU's number looks like in the terms of a thread that is at home there, urgency left out.
pub const fn home_terms(cpu: usize) -> u32 {
    (cpu as u32) << terms::HOME_SHIFT
}

/// Nobody's terms: of a CPU on which no thread is to count as being at home.
pub const NOBODY_AT_HOME: u32 = 0x7f_ffff << terms::HOME_SHIFT;

/// What a thread waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Wait {
    /// To be started.
    Start = 0,
    /// For a receiver to take its message (a call or a fault).
    Send = 1,
    /// For a message.
    Receive = 2,
    /// For the reply to the message that was taken.
    Reply = 3,
    /// For signals.
    Notification = 4,
    /// For a futex.
    Futex = 5,
}

impl Wait {
    fn from_number(number: u8) -> Wait {
        match number {
            0 => Wait::Start,
            1 => Wait::Send,
            2 => Wait::Receive,
            3 => Wait::Reply,
            4 => Wait::Notification,
            _ => Wait::Futex,
        }
    }
}

mod state {
    pub(super) const ACTIVE: u64 = 0;
    pub(super) const WAITING: u64 = 1;
    pub(super) const CLAIMED: u64 = 2;
    pub(super) const MASK: u64 = 3;
    pub(super) const BITS: u32 = 2;
}

/// A weak reference to one particular wait of a thread: claimable while that very wait lasts.
#[derive(Clone, Copy)]
pub struct WaitRef {
    /// The thread.
    pub thread: &'static Thread,
    /// The generation of the wait: what the wait word is while it lasts.
    pub generation: u64,
}

/// A thread. Fields without a word of their own are accessed by the owner only.
#[repr(C, align(64))]
pub struct Thread {
    /// Registers of ring 3, while it is not running.
    pub registers: Registers,
    wait: AtomicU64,
    wait_kind: AtomicU8,
    /// Whether the wait is a fault's, so that the reply resumes and gives no result.
    pub faulting: AtomicBool,
    /// It has ended: nothing of it is left but the object.
    pub dead: AtomicBool,
    doomed: AtomicBool,
    /// Whether it uses the FPU.
    pub uses_fpu: AtomicBool,
    terms: AtomicU32,
    /// The CPU that it ran on last, or whose run queue it is in.
    pub cpu: AtomicU32,
    /// CPUs it may run on: a bit each for 0 to 63; all ones for any.
    pub affinity: AtomicU64,
    /// Its task.
    task: AtomicLink<Task>,
    /// The IPC buffer.
    pub buffer: AtomicRef<FrameWords>,
    /// The caller whose call was received and is not answered.
    pub reply_caller: AtomicRef<Thread>,
    /// The generation of that caller's wait; [`FAULT_REPLY`] is set where it waits for the answer to a
    /// fault.
    reply_generation: AtomicU64,
    /// The endpoint that it waits on, for sending or receiving.
    pub endpoint: AtomicRef<Endpoint>,
    /// The badge of the message that it sends.
    pub badge: AtomicU64,
    /// The notification that it waits on.
    pub notification: AtomicRef<Notification>,
    /// The notification bound to it.
    pub bound: AtomicRef<Notification>,
    /// The address of the futex that it sleeps on.
    pub futex: AtomicU64,
    /// When the wait, or the last one, ends; `u64::MAX` for never.
    deadline: AtomicU64,
    /// An operation in several steps: what it has made so far.
    pub operation: AtomicObject,
    /// A FutexWake in several steps: how many it has woken so far.
    pub woken: AtomicU64,
    /// Exception of the fault that it waits for an answer to: vector.
    pub fault_vector: AtomicU8,
    /// Address of that fault (CR2).
    pub fault_address: AtomicU64,
    /// Run queue, endpoint queue or futex queue: a thread is in one at a time.
    pub queue_links: Links<Thread>,
    /// The task's list of threads.
    pub task_links: Links<Thread>,
    /// The deadline's place among the timers.
    pub timer: TimerLinks<Thread>,
    /// Frame of the IPC buffer.
    pub buffer_frame: AtomicU32,
    /// Slot of the IPC buffer in the task's address space.
    pub buffer_slot: AtomicU32,
    /// What is left of its slice in nanoseconds while it waits, preempted, for its turn to go on;
    /// else 0.
    pub slice_left: AtomicU64,
    /// The CPU whose FPU registers are its latest; `u32::MAX` for none.
    pub fpu_cpu: AtomicU32,
    /// Frame of the FPU save area, 0 for none.
    pub fpu_frame: AtomicU32,
    /// CPU time in the platform's ticks.
    pub cpu_ticks: AtomicU64,
    /// Times switched to.
    pub switches: AtomicU64,
    /// Times woken.
    pub wakes: AtomicU64,
    /// Times it moved to another CPU.
    pub migrations: AtomicU64,
    /// Book-keeping.
    pub slot: Slot<Thread>,
}

/// Link set of the run queue, endpoint queues and futex queues.
pub const QUEUE: usize = 0;
/// Link set of the task's list of threads.
pub const IN_TASK: usize = 1;

impl Linked<QUEUE> for Thread {
    fn links(&self) -> &Links<Thread> {
        &self.queue_links
    }
}

impl Linked<IN_TASK> for Thread {
    fn links(&self) -> &Links<Thread> {
        &self.task_links
    }
}

impl Timed for Thread {
    fn timer(&self) -> &TimerLinks<Thread> {
        &self.timer
    }
    fn due(&self) -> u64 {
        self.deadline()
    }
}

impl Slotted for Thread {
    fn make() -> Thread {
        Thread {
            registers: Registers::default(),
            wait: AtomicU64::new(0),
            wait_kind: AtomicU8::new(0),
            faulting: AtomicBool::new(false),
            dead: AtomicBool::new(false),
            doomed: AtomicBool::new(false),
            uses_fpu: AtomicBool::new(false),
            terms: AtomicU32::new(terms::AWAY | 1),
            cpu: AtomicU32::new(0),
            affinity: AtomicU64::new(u64::MAX),
            task: AtomicLink::new(&NO_TASK),
            buffer: AtomicRef::none(),
            reply_caller: AtomicRef::none(),
            reply_generation: AtomicU64::new(0),
            endpoint: AtomicRef::none(),
            badge: AtomicU64::new(0),
            notification: AtomicRef::none(),
            bound: AtomicRef::none(),
            futex: AtomicU64::new(0),
            deadline: AtomicU64::new(u64::MAX),
            operation: AtomicObject::none(),
            woken: AtomicU64::new(0),
            fault_vector: AtomicU8::new(0),
            fault_address: AtomicU64::new(0),
            queue_links: Links::new(),
            task_links: Links::new(),
            timer: TimerLinks::new(),
            buffer_frame: AtomicU32::new(0),
            buffer_slot: AtomicU32::new(0),
            slice_left: AtomicU64::new(0),
            fpu_cpu: AtomicU32::new(u32::MAX),
            fpu_frame: AtomicU32::new(0),
            cpu_ticks: AtomicU64::new(0),
            switches: AtomicU64::new(0),
            wakes: AtomicU64::new(0),
            migrations: AtomicU64::new(0),
            slot: Slot::new(),
        }
    }
    fn slot(&self) -> &Slot<Thread> {
        &self.slot
    }
}

impl Thread {
    /// Makes a thread handed out by the slab one that never ran. Its wait word keeps counting, so
    /// that weak references to the waits of its predecessor stay void.
    pub fn reset(&'static self, task: &'static Task, priority: u8) {
        self.faulting.store(false, Ordering::Relaxed);
        self.dead.store(false, Ordering::Relaxed);
        self.doomed.store(false, Ordering::Relaxed);
        self.uses_fpu.store(false, Ordering::Relaxed);
        let urgency = u32::from(priority) + 1;
        self.terms.store(terms::AWAY | urgency, Ordering::Relaxed);
        self.affinity.store(u64::MAX, Ordering::Relaxed);
        self.cpu.store(0, Ordering::Relaxed);
        self.task.set(task);
        self.reply_caller.set(None);
        self.endpoint.set(None);
        self.notification.set(None);
        self.bound.set(None);
        self.operation.set(None);
        self.woken.store(0, Ordering::Relaxed);
        self.set_deadline(u64::MAX);
        self.slice_left.store(0, Ordering::Relaxed);
        self.fpu_cpu.store(u32::MAX, Ordering::Relaxed);
        self.fpu_frame.store(0, Ordering::Relaxed);
        for counter in [
            &self.cpu_ticks,
            &self.switches,
            &self.wakes,
            &self.migrations,
        ] {
            counter.store(0, Ordering::Relaxed);
        }
    }

    /// The registers, for the mechanism's exit code.
    pub fn registers(&self) -> &Registers {
        &self.registers
    }

    /// Its task; of a thread that was never handed out one without anything.
    #[inline(always)]
    pub fn task(&self) -> &'static Task {
        self.task.get()
    }

    /// Its IPC buffer.
    #[inline]
    pub fn buffer(&'static self) -> &'static FrameWords {
        self.buffer
            .get()
            .expect("a thread has an IPC buffer until it is retired")
    }

    /// Priority, 0 to 63.
    #[inline]
    pub fn priority(&self) -> u8 {
        (self.urgency() - 1) as u8
    }

    /// Priority plus one: what is compared with the top of a run queue, where 0 is nobody.
    #[inline(always)]
    pub fn urgency(&self) -> u32 {
        self.terms() & terms::URGENCY
    }

    /// How urgent a thread with these terms is.
    #[inline(always)]
    pub(crate) fn urgency_of(terms: u32) -> u32 {
        terms & terms::URGENCY
    }

    /// The whole word of terms, to be compared with another look at it.
    #[inline(always)]
    pub(crate) fn terms(&self) -> u32 {
        self.terms.load(Ordering::Relaxed)
    }

    /// How urgent the thread with these terms is, if it is at home on the CPU of these [`home_terms`].
    #[inline(always)]
    pub(crate) fn urgency_at_home(terms: u32, home: u32) -> Option<u32> {
        let urgency = terms.wrapping_sub(home);
        (urgency <= PRIORITIES as u32).then_some(urgency)
    }

    /// Sets the priority, 0 to 63. Orders what comes before ahead of what comes after.
    pub(crate) fn set_priority(&self, priority: u8) {
        let urgency = u32::from(priority) + 1;
        let change = |terms: u32| Some(terms & !terms::URGENCY | urgency);
        let _ = self
            .terms
            .fetch_update(Ordering::SeqCst, Ordering::Relaxed, change);
    }

    /// Whether this CPU has to load nothing for it but its address space, tracing or not.
    pub(crate) fn is_at_home(&self, cpu: usize) -> bool {
        self.terms() & !terms::URGENCY == home_terms(cpu)
    }

    /// Notes where it is at home. Orders what comes before ahead of what comes after.
    pub(crate) fn settle(&self, cpu: usize) {
        let change = |terms: u32| Some(terms & terms::URGENCY | home_terms(cpu));
        let _ = self
            .terms
            .fetch_update(Ordering::SeqCst, Ordering::Relaxed, change);
    }

    /// Makes every CPU look anew at what it has to load for this thread. To be called when that was
    /// changed; orders what comes before ahead of what comes after.
    pub(crate) fn unsettle(&self) {
        self.terms.fetch_or(terms::AWAY, Ordering::SeqCst);
    }

    /// To be ended as soon as somebody owns it.
    pub fn doom(&self) {
        self.doomed.store(true, Ordering::SeqCst);
        self.unsettle();
    }

    /// Whether it is to be ended.
    #[inline]
    pub fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::SeqCst)
    }

    /// Whether it may run on a CPU.
    #[inline]
    pub fn may_run_on(&self, cpu: usize) -> bool {
        let affinity = self.affinity.load(Ordering::Relaxed);
        affinity == u64::MAX || (cpu < 64 && affinity & 1 << cpu != 0)
    }

    /// Starts a new wait and returns its generation. From here on anybody who finds the thread can
    /// claim it: this is the last thing its CPU does with it. The thread already stands in the queue
    /// whose lock the caller holds, where the wait has one.
    pub fn publish(&self, kind: Wait) -> u64 {
        let generation = self.next_generation();
        self.publish_as(kind, generation);
        generation
    }

    /// The generation that the next [`Thread::publish`] will give.
    #[inline]
    pub fn next_generation(&self) -> u64 {
        self.wait
            .load(Ordering::Relaxed)
            .wrapping_add(1 << state::BITS)
            & !state::MASK
            | state::WAITING
    }

    /// The same, of a thread that is known to be active: it is the one that runs.
    #[inline(always)]
    pub(crate) fn next_generation_of_active(&self) -> u64 {
        let word = self.wait.load(Ordering::Relaxed);
        debug_assert!(word & state::MASK == state::ACTIVE);
        word.wrapping_add(1 << state::BITS | state::WAITING)
    }

    /// Starts the wait of a generation that was handed out beforehand.
    #[inline]
    pub fn publish_as(&self, kind: Wait, generation: u64) {
        self.wait_kind.store(kind as u8, Ordering::Relaxed);
        self.wait.store(generation, Ordering::Release);
    }

    /// Claims the current wait, whatever it is. False: the thread is active, or somebody else
    /// owns it.
    pub fn claim(&self) -> bool {
        let word = self.wait.load(Ordering::Relaxed);
        self.claim_word(word)
    }

    /// Claims the wait to be started; false, and nothing changes, if the thread is past it.
    pub fn claim_start(&self) -> bool {
        // The kind is stored before the word. So a kind read after the word is that wait's or a
        // later one's; and Start is no thread's kind again after its first wait.
        let word = self.wait.load(Ordering::Acquire);
        self.wait_kind() == Wait::Start && self.claim_word(word)
    }

    /// Claims one particular wait.
    #[inline]
    pub fn claim_generation(&self, generation: u64) -> bool {
        self.claim_word(generation)
    }

    #[inline]
    fn claim_word(&self, word: u64) -> bool {
        word & state::MASK == state::WAITING && self.change(word, state::CLAIMED)
    }

    /// Claims the current wait and ends it at once: the thread is active, and the caller's to run or
    /// to make ready.
    #[inline(always)]
    pub(crate) fn take(&self) -> bool {
        let word = self.wait.load(Ordering::Relaxed);
        word & state::WAITING != 0 && self.change(word, state::ACTIVE)
    }

    /// The same for one particular wait.
    #[inline(always)]
    pub(crate) fn take_generation(&self, generation: u64) -> bool {
        self.change(generation, state::ACTIVE)
    }

    /// From waiting to another state.
    #[inline(always)]
    fn change(&self, word: u64, to: u64) -> bool {
        // Waiting is 1: so that no other bit changes, and no mask is needed.
        let changed = word.wrapping_sub(state::WAITING).wrapping_add(to);
        if mutant::active(Mutant::WaitArbitration) {
            let now = self.wait.load(Ordering::Acquire);
            self.wait.store(changed, Ordering::Release);
            return now & state::MASK != state::ACTIVE;
        }
        self.wait
            .compare_exchange(word, changed, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// When the wait ends, in nanoseconds since boot; `u64::MAX` for never. Meaningful to the owner, and to
    /// who claims that very wait afterwards.
    #[inline]
    pub(crate) fn deadline(&self) -> u64 {
        self.deadline.load(Ordering::Acquire)
    }

    /// Sets the deadline of the wait that is about to be published. Releases the end of the one before:
    /// who sees the new deadline cannot take that for the wait that it belongs to.
    #[inline(always)]
    pub(crate) fn set_deadline(&self, deadline: u64) {
        self.deadline.store(deadline, Ordering::Release);
    }

    /// The generation of the current wait, if nobody has claimed it and its deadline is not after `now`.
    pub(crate) fn overdue(&self, now: u64) -> Option<u64> {
        // The wait first: a deadline that is read later is that wait's as long as it can be claimed.
        let word = self.wait.load(Ordering::Acquire);
        let due = self.deadline() <= now || mutant::active(Mutant::WaitArbitration);
        (word & state::MASK == state::WAITING && due).then_some(word)
    }

    /// Whether it is in this particular wait, and nobody has claimed it, as a snapshot.
    #[inline(always)]
    pub(crate) fn waits_as(&self, generation: u64) -> bool {
        self.wait.load(Ordering::Relaxed) == generation
    }

    /// Gives a claimed wait back: it goes on under the same generation.
    pub fn unclaim(&self, kind: Wait) {
        self.wait_kind.store(kind as u8, Ordering::Relaxed);
        let word = self.wait.load(Ordering::Relaxed);
        self.wait
            .store(word & !state::MASK | state::WAITING, Ordering::SeqCst);
    }

    /// Ends a claimed wait: the thread is active, and its owner makes it ready.
    #[inline]
    pub fn activate(&self) {
        let word = self.wait.load(Ordering::Relaxed);
        self.wait.store(word & !state::MASK, Ordering::Relaxed);
    }

    /// What the thread waits for; meaningful to its owner.
    #[inline]
    pub fn wait_kind(&self) -> Wait {
        Wait::from_number(self.wait_kind.load(Ordering::Relaxed))
    }

    /// Whether somebody owns it, as a snapshot: a CPU that runs it or has claimed it, or a run queue.
    pub(crate) fn is_owned(&self) -> bool {
        self.wait.load(Ordering::Relaxed) & state::MASK != state::WAITING
    }

    /// Whether it waits (or is claimed), as a snapshot for reports.
    pub fn is_waiting(&self) -> bool {
        self.wait.load(Ordering::Relaxed) & state::MASK != state::ACTIVE
    }

    /// The current wait's generation.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.wait.load(Ordering::Relaxed) & !state::MASK | state::WAITING
    }

    /// The caller whose call is not answered yet, taken out.
    pub fn take_reply(&self) -> Option<WaitRef> {
        let thread = self.reply_caller.get()?;
        self.reply_caller.set(None);
        Some(WaitRef {
            thread,
            generation: self.reply_to().0,
        })
    }

    /// The generation of the wait of the caller whose call is not answered yet, and whether it waits for
    /// the answer to a fault.
    #[inline(always)]
    pub(crate) fn reply_to(&self) -> (u64, bool) {
        let generation = self.reply_generation.load(Ordering::Relaxed);
        (generation & !FAULT_REPLY, generation & FAULT_REPLY != 0)
    }

    /// The generation of the wait of the caller whose call is not answered yet; `None` where it waits for
    /// the answer to a fault.
    #[inline(always)]
    pub(crate) fn reply_to_call(&self) -> Option<u64> {
        let generation = self.reply_generation.load(Ordering::Relaxed);
        (generation & FAULT_REPLY == 0).then_some(generation)
    }

    /// Remembers the caller whose call, or fault, was received.
    pub fn set_reply(&self, caller: WaitRef) {
        let fault = match caller.thread.faulting.load(Ordering::Relaxed) {
            true => FAULT_REPLY,
            false => 0,
        };
        self.set_reply_to_call(WaitRef {
            generation: caller.generation | fault,
            ..caller
        });
    }

    /// Remembers the caller whose call was received.
    #[inline(always)]
    pub(crate) fn set_reply_to_call(&self, caller: WaitRef) {
        self.reply_generation
            .store(caller.generation, Ordering::Relaxed);
        self.reply_caller.set(Some(caller.thread));
    }

    /// Counts a wake. These three are called by the owner only, so that no locked instruction is needed.
    #[inline(always)]
    pub(crate) fn count_wake(&self) {
        add_one(&self.wakes);
    }

    /// Counts a switch to it.
    #[inline(always)]
    pub(crate) fn count_switch(&self) {
        add_one(&self.switches);
    }

    /// Counts a move to another CPU.
    pub(crate) fn count_migration(&self) {
        add_one(&self.migrations);
    }

    /// The frame of the FPU save area.
    pub fn fpu_area(&self) -> Option<Frame> {
        match self.fpu_frame.load(Ordering::Relaxed) {
            0 => None,
            number => Some(Frame(number)),
        }
    }
}

#[inline(always)]
fn add_one(counter: &AtomicU64) {
    let count = counter.load(Ordering::Relaxed);
    counter.store(count.wrapping_add(1), Ordering::Relaxed);
}

/// No generation has this bit: waiting is another one.
const FAULT_REPLY: u64 = state::CLAIMED;

/// Length of the SYSCALL instruction in bytes (AMD APM volume 3).
const SYSCALL_BYTES: u64 = 2;

impl Thread {
    /// Makes the thread issue its system call again when it runs next, with the same registers.
    pub fn rewind(&self) {
        let rip = self.registers.rip.get();
        self.registers.rip.set(rip - SYSCALL_BYTES);
        self.registers.rcx.set(rip - SYSCALL_BYTES);
    }
}
