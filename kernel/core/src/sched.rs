//! The scheduler: which thread runs where and when.
//!
//! Fixed priorities, a FIFO each, per CPU; the guarantee that the most urgent ready thread runs is
//! per CPU. A thread that is woken goes to the CPU that it ran on last if that is idle or does
//! something less urgent, else to an idle one, else to the one that does the least urgent thing. An
//! idle CPU takes from the others before it halts. Nothing ticks: the timer is set only for
//! deadlines, for the end of a slice while somebody of equal priority is ready, and while there is
//! something to reclaim.

use crate::cpu::Cpu;
use crate::kernel::{Kernel, Next, Outcome};
use crate::mutant::{self, Mutant};
use crate::platform::{Platform, PortRange};
use crate::sync::{Ordering, fence};
use crate::task::{MAX_PORT_RANGES, Task};
use crate::thread::Thread;
use crate::trace::Kind as TraceKind;
use crate::tunables::Tunable;
use ipc::Error;
use ipc::message::NEVER;

/// Expired deadlines that one timer interrupt works off; the next follows at once.
const EXPIRIES_PER_INTERRUPT: u32 = 64;
const NS_PER_US: u64 = 1000;
/// How often the way out of the kernel chooses again, where what it chose was changed meanwhile.
const CHOICES: u32 = 4;

impl<P: Platform> Kernel<P> {
    /// Records an event in this CPU's trace ring, while that is wanted.
    #[inline(always)]
    pub fn trace(&self, cpu: &Cpu, kind: TraceKind, first: u64, second: u64) {
        if self.tunables.get(Tunable::TraceEnabled) != 0 {
            self.record(cpu, kind, first, second);
        }
    }

    #[cold]
    #[inline(never)]
    fn record(&self, cpu: &Cpu, kind: TraceKind, first: u64, second: u64) {
        if let Some(ring) = self.trace_ring(cpu.index)
            && ring.is_enabled()
        {
            ring.record(self.platform.now(), kind, first, second);
        }
    }

    /// Charges the running thread for its time up to now.
    #[inline(always)]
    pub(crate) fn charge(&self, cpu: &Cpu, thread: &Thread) {
        let now = self.platform.ticks();
        let spent = now.wrapping_sub(cpu.charged_at.load(Ordering::Relaxed));
        cpu.charged_at.store(now, Ordering::Relaxed);
        let total = thread.cpu_ticks.load(Ordering::Relaxed);
        thread
            .cpu_ticks
            .store(total.wrapping_add(spent), Ordering::Relaxed);
    }

    /// Takes the running thread off this CPU, which keeps nothing of it: afterwards it can be
    /// published as waiting, or queued, and be run elsewhere at once.
    pub fn detach(&self, cpu: &Cpu, thread: &'static Thread) {
        self.charge(cpu, thread);
        if thread.uses_fpu.load(Ordering::Relaxed)
            && let Some(area) = thread.fpu_area()
        {
            self.platform.fpu_save(area);
        }
        cpu.current.set(None);
    }

    /// Sets the deadline of the wait that is about to be published. An entry for an earlier one that is left
    /// of another wait stands for it: [`Kernel::timer`] moves it when it expires.
    pub fn arm(&self, cpu: &Cpu, thread: &'static Thread, deadline: u64) {
        thread.set_deadline(deadline);
        if deadline == NEVER || thread.timer.stand_for(cpu.index, deadline) {
            return;
        }
        self.disarm(thread);
        cpu.timers().insert(thread, deadline);
        if deadline < cpu.programmed.load(Ordering::Relaxed) {
            cpu.timer_dirty.store(true, Ordering::Relaxed);
        }
    }

    /// Takes a thread out of the timers. Entries of waits that ended are otherwise left to expire: a wait
    /// that has begun since ends by its own deadline only.
    pub fn disarm(&self, thread: &'static Thread) {
        while let Some(index) = thread.timer.cpu() {
            self.cpus()[index].timers().remove(thread);
        }
    }

    /// This CPU's timer fired.
    pub fn timer(&'static self, cpu: &'static Cpu) {
        self.enter(cpu);
        cpu.counters.timer_interrupts.add(1);
        let now = self.platform.now();
        for _ in 0..EXPIRIES_PER_INTERRUPT {
            let expired = cpu.timers().take_expired(now);
            let Some(thread) = expired else {
                break;
            };
            // Who gives a claimed wait back looks for its entry afterwards; here it is the other way round,
            // so that one of the two sees the other.
            fence(Ordering::SeqCst);
            if let Some(generation) = thread.overdue(now)
                && thread.claim_generation(generation)
            {
                self.trace(cpu, TraceKind::Timer, thread.slot.number(), 0);
                self.expire(thread);
            }
        }
        cpu.programmed.store(NEVER, Ordering::Relaxed);
        cpu.reuse_timer_until.store(0, Ordering::Relaxed);
        cpu.timer_dirty.store(true, Ordering::Relaxed);
        if cpu.slice_end.load(Ordering::Relaxed) <= now {
            cpu.reschedule.store(true, Ordering::Relaxed);
        }
    }

    /// Makes a claimed thread, whose result is in place, ready.
    pub fn make_ready(&'static self, cpu: &'static Cpu, thread: &'static Thread) {
        thread.activate();
        cpu.counters.wakes.add(1);
        thread.count_wake();
        self.ready(cpu, thread);
    }

    /// Queues an active thread that nobody else has where it should run.
    pub(crate) fn ready(&'static self, cpu: &'static Cpu, thread: &'static Thread) {
        let target = self.place(thread);
        self.trace(
            cpu,
            TraceKind::Wake,
            thread.slot.number(),
            target.index as u64,
        );
        self.enqueue(cpu, target, thread);
    }

    fn enqueue(&'static self, cpu: &'static Cpu, target: &'static Cpu, thread: &'static Thread) {
        // Before the lock: who changes the thread meanwhile looks for it here, or is seen under the lock.
        if thread.cpu.load(Ordering::Relaxed) != target.index as u32 {
            thread.cpu.store(target.index as u32, Ordering::Relaxed);
            thread.count_migration();
        }
        // Under the lock: a target that looks into its queue later finds the thread, and then says
        // itself what it runs; until then it counts as busy with what it was given.
        let (before, wanted) = {
            let mut queue = target.run_queue();
            let wanted = thread.urgency();
            queue.push_as(thread, wanted, false);
            // The fast path stores what it will run and then looks at the queue's top; here it is the
            // other way round, so that one of the two sees the other.
            fence(Ordering::SeqCst);
            let before = target.running.load(Ordering::Relaxed);
            // Only where it gets a kick, after which it says itself what it runs: it may have changed
            // that meanwhile, and must not be taken for busy with what it no longer runs.
            if before < wanted {
                target.running.store(wanted, Ordering::Relaxed);
            }
            (before, wanted)
        };
        if before <= wanted {
            target.reschedule.store(true, Ordering::Release);
            if target.index != cpu.index {
                cpu.counters.ipis.add(1);
                self.platform.kick(target.index);
            }
        }
    }

    /// Where a thread that becomes ready should run.
    fn place(&self, thread: &Thread) -> &'static Cpu {
        let wanted = thread.urgency();
        let last = &self.cpus()[thread.cpu.load(Ordering::Relaxed) as usize];
        let last_allowed = last.online.load(Ordering::Relaxed) && thread.may_run_on(last.index);
        if last_allowed && last.running.load(Ordering::Relaxed) < wanted {
            return last;
        }
        let allowed =
            |cpu: &&'static Cpu| cpu.online.load(Ordering::Relaxed) && thread.may_run_on(cpu.index);
        let running = |cpu: &'static Cpu| cpu.running.load(Ordering::Relaxed);
        let least = self
            .cpus()
            .iter()
            .filter(allowed)
            .min_by_key(|cpu| running(cpu));
        match least {
            Some(least) if !last_allowed || running(least) < wanted => least,
            _ => last,
        }
    }

    /// Yield.
    pub fn yield_now(&'static self) -> Outcome {
        Ok(Next::Yield)
    }

    /// Does what an operation answered.
    pub fn apply(&'static self, cpu: &'static Cpu, thread: &'static Thread, outcome: Outcome) {
        match outcome {
            Ok(Next::Return) => thread.registers.rax.set(0),
            Ok(Next::Resume) => {}
            Ok(Next::Again) => thread.rewind(),
            Ok(Next::Blocked) => {}
            Ok(Next::Switch(next)) => self.switch_or_queue(cpu, next),
            Ok(Next::Yield) => {
                thread.registers.rax.set(0);
                self.requeue(cpu, thread, false);
            }
            Err(error) => thread.registers.rax.set(error.code()),
        }
    }

    /// Runs a claimed thread on this CPU, which has none now, unless it may not run here or a more
    /// urgent one is ready.
    pub(crate) fn switch_or_queue(&'static self, cpu: &'static Cpu, next: &'static Thread) {
        let wanted = next.urgency();
        // Before the queue is looked at: whoever queues an urgent thread afterwards sees it and kicks.
        cpu.running.store(wanted, Ordering::Relaxed);
        let top = cpu.run_queue().top();
        if next.may_run_on(cpu.index) && top <= wanted {
            next.activate();
            self.switch_to(cpu, next);
            if top == wanted && cpu.slice_end.load(Ordering::Relaxed) == NEVER {
                self.start_slice(cpu);
            }
        } else {
            self.make_ready(cpu, next);
        }
    }

    /// Puts the running thread back into this CPU's queue.
    fn requeue(&'static self, cpu: &'static Cpu, thread: &'static Thread, first: bool) {
        self.detach(cpu, thread);
        cpu.run_queue().push(thread, first);
    }

    /// The way out of the kernel: what to resume on this CPU, `None` to idle. Idling ends with the
    /// next interrupt.
    pub fn leave(&'static self, cpu: &'static Cpu) -> Option<&'static Thread> {
        self.serve_flush(cpu);
        self.reclaim_some(cpu);
        let thread = self.choose(cpu);
        if thread.is_none() {
            cpu.slice_end.store(NEVER, Ordering::Relaxed);
        }
        if cpu.timer_dirty.load(Ordering::Relaxed) || self.reclaim.is_pending() {
            self.program_timer(cpu, thread.is_none());
        }
        // Nothing waits for a lock from here on: a request that is served after the look at the ports would be
        // served too early.
        if let Some(thread) = thread {
            self.load(cpu, thread.task());
        }
        self.see_epoch(cpu, thread.is_none());
        thread
    }

    /// Which thread runs on this CPU, by what it is when it does.
    fn choose(&'static self, cpu: &'static Cpu) -> Option<&'static Thread> {
        let mut thread = self.choose_once(cpu);
        for _ in 0..CHOICES {
            if thread.is_none() || !cpu.reschedule.load(Ordering::Relaxed) {
                break;
            }
            thread = self.choose_once(cpu);
        }
        thread
    }

    fn choose_once(&'static self, cpu: &'static Cpu) -> Option<&'static Thread> {
        if let Some(thread) = cpu.current.get() {
            if thread.is_doomed() {
                self.detach(cpu, thread);
                self.bury(thread);
            } else if !cpu.reschedule.load(Ordering::Relaxed) {
                return Some(thread);
            } else {
                // Before what it asks for is looked at: a request that comes later is not lost.
                cpu.reschedule.swap(false, Ordering::SeqCst);
                self.preempt(cpu, thread);
            }
        }
        if let Some(thread) = cpu.current.get() {
            return Some(thread);
        }
        loop {
            cpu.reschedule.store(false, Ordering::Relaxed);
            // Before the queue is looked at: see `enqueue`.
            cpu.running.store(0, Ordering::Relaxed);
            let found = cpu.run_queue().pop();
            let thread = found.or_else(|| self.steal(cpu))?;
            if thread.is_doomed() {
                self.bury(thread);
                continue;
            }
            if !thread.may_run_on(cpu.index) {
                // Its affinity was changed while it was on its way into this queue.
                let target = self.place(thread);
                if target.index != cpu.index {
                    self.enqueue(cpu, target, thread);
                    continue;
                }
            }
            self.switch_to(cpu, thread);
            self.start_slice(cpu);
            return Some(thread);
        }
    }

    /// Lets a more urgent thread, or after its slice one of equal priority, take the CPU.
    fn preempt(&'static self, cpu: &'static Cpu, thread: &'static Thread) {
        let running = thread.urgency();
        let top = cpu.run_queue().top();
        let slice_over = cpu.slice_end.load(Ordering::Relaxed) <= self.platform.now();
        if !thread.may_run_on(cpu.index) {
            self.detach(cpu, thread);
            let target = self.place(thread);
            self.enqueue(cpu, target, thread);
        } else if top > running {
            // It goes on with the rest of its slice: a new one each time would starve its equals.
            thread
                .slice_left
                .store(self.slice_left(cpu), Ordering::Relaxed);
            self.requeue(cpu, thread, !slice_over);
        } else if top == running && slice_over {
            self.requeue(cpu, thread, false);
        } else {
            cpu.running.store(running, Ordering::Relaxed);
            self.start_slice(cpu);
        }
    }

    /// What is left of the slice that runs on this CPU, in nanoseconds; 0 where none does.
    fn slice_left(&self, cpu: &Cpu) -> u64 {
        match cpu.slice_end.load(Ordering::Relaxed) {
            NEVER => 0,
            end => end.saturating_sub(self.platform.now()),
        }
    }

    /// Starts a slice where somebody of the running thread's priority is ready, and ends it where
    /// nobody is. A thread that was preempted gets the rest of its own.
    fn start_slice(&self, cpu: &Cpu) {
        let contended = cpu.run_queue().top() >= cpu.running.load(Ordering::Relaxed);
        let mut left = 0;
        if let Some(thread) = cpu.current.get() {
            left = thread.slice_left.load(Ordering::Relaxed);
            thread.slice_left.store(0, Ordering::Relaxed);
        }
        if !contended {
            cpu.slice_end.store(NEVER, Ordering::Relaxed);
            return;
        }
        let end = cpu.slice_end.load(Ordering::Relaxed);
        let now = self.platform.now();
        if end == NEVER || end <= now {
            let whole = self.tunables.get(Tunable::SchedSliceUs) * NS_PER_US;
            let slice = if left > 0 { left } else { whole };
            cpu.slice_end.store(now + slice, Ordering::Relaxed);
            cpu.timer_dirty.store(true, Ordering::Relaxed);
        }
    }

    /// Takes a thread from another CPU's queue.
    fn steal(&'static self, cpu: &'static Cpu) -> Option<&'static Thread> {
        if self.tunables.get(Tunable::SchedSteal) == 0 {
            return None;
        }
        for other in self.cpus() {
            if other.index == cpu.index || !other.online.load(Ordering::Relaxed) {
                continue;
            }
            let stolen = other.run_queue().steal(cpu.index);
            if let Some(thread) = stolen {
                thread.cpu.store(cpu.index as u32, Ordering::Relaxed);
                thread.count_migration();
                cpu.counters.steals.add(1);
                self.trace(
                    cpu,
                    TraceKind::Steal,
                    thread.slot.number(),
                    other.index as u64,
                );
                return Some(thread);
            }
        }
        None
    }

    /// Makes an active thread that nobody else has the running one of this CPU, which has none.
    fn switch_to(&'static self, cpu: &'static Cpu, thread: &'static Thread) {
        cpu.charged_at
            .store(self.platform.ticks(), Ordering::Relaxed);
        cpu.counters.switches.add(1);
        thread.count_switch();
        if thread.cpu.load(Ordering::Relaxed) != cpu.index as u32 {
            thread.cpu.store(cpu.index as u32, Ordering::Relaxed);
            cpu.counters.migrations.add(1);
            thread.count_migration();
        }
        let urgency = thread.urgency();
        cpu.running.store(urgency, Ordering::Relaxed);
        // Who changed it before it was here has kicked the CPU where it was.
        fence(Ordering::SeqCst);
        if thread.urgency() != urgency || !thread.may_run_on(cpu.index) {
            cpu.reschedule.store(true, Ordering::Relaxed);
        }
        cpu.current.set(Some(thread));
        self.switch_fpu(cpu, thread);
        Self::settle(cpu, thread);
        self.trace(
            cpu,
            TraceKind::Switch,
            thread.slot.number(),
            thread.task().slot.number(),
        );
    }

    /// Notes for the fast path whether the thread that comes to run on this CPU needs nothing but its
    /// address space the next time: it has no FPU, its task no ports, the CPU is one of its own, and it
    /// is not to end. The CPU is in the address space's set from then on, which never loses one.
    pub fn settle(cpu: &Cpu, thread: &'static Thread) {
        if thread.is_at_home(cpu.index) {
            return;
        }
        let needs_nothing = || {
            !thread.uses_fpu.load(Ordering::Relaxed)
                && !thread.task().has_ports()
                && thread.may_run_on(cpu.index)
                && !thread.is_doomed()
        };
        if needs_nothing() {
            // First into the space's set: from here on the fast path may load it.
            thread.task().cpus.add(cpu.index);
            thread.settle(cpu.index);
            // Whoever changes one of these does so before it takes the note away. So either that
            // comes after the note, or the change is seen here.
            if needs_nothing() {
                return;
            }
        }
        thread.unsettle();
    }

    /// Gives ring 3 the FPU with the thread's registers, or takes it away.
    fn switch_fpu(&self, cpu: &Cpu, thread: &'static Thread) {
        let uses = thread.uses_fpu.load(Ordering::Relaxed);
        if uses != cpu.fpu_enabled.load(Ordering::Relaxed) {
            self.platform.fpu_enable(uses);
            cpu.fpu_enabled.store(uses, Ordering::Relaxed);
        }
        if !uses {
            return;
        }
        // Both sides have to agree that the registers are this thread's latest.
        let mine = cpu
            .fpu_owner
            .get()
            .is_some_and(|owner| core::ptr::eq(owner, thread))
            && thread.fpu_cpu.load(Ordering::Relaxed) == cpu.index as u32;
        if !mine && let Some(area) = thread.fpu_area() {
            self.platform.fpu_restore(area);
            cpu.fpu_owner.set(Some(thread));
            thread.fpu_cpu.store(cpu.index as u32, Ordering::Relaxed);
        }
    }

    /// Loads the address space and the I/O ports of the task that is about to run.
    fn load(&'static self, cpu: &'static Cpu, task: &'static Task) {
        let loaded = cpu.loaded.is(task);
        let ports = task.has_ports() || cpu.ports_open.load(Ordering::Relaxed);
        let generation = self.ports_generation.load(Ordering::Relaxed);
        self.load_space(cpu, task);
        let stale = generation != cpu.ports_generation.load(Ordering::Relaxed);
        if ports && (!loaded || stale) {
            self.load_ports(cpu, task);
        }
        if stale {
            cpu.ports_generation.store(generation, Ordering::Relaxed);
        }
    }

    /// Loads a task's address space, unless it is loaded.
    #[inline(always)]
    pub(crate) fn load_space(&self, cpu: &Cpu, task: &'static Task) {
        if cpu.loaded.is(task) {
            return;
        }
        cpu.loaded.set(Some(task));
        // First into the set, then the root: a shootdown that misses this CPU in the set changed
        // the tables before this CPU walks them.
        task.cpus.add(cpu.index);
        self.platform.load_root(task.tagged_root());
    }

    /// The same for the task of a thread that is at home on this CPU: it is in the space's set, which
    /// loses none as long as the space lives.
    #[inline(always)]
    pub(crate) fn load_space_at_home(&self, cpu: &Cpu, task: &'static Task) {
        debug_assert!(task.cpus.contains(cpu.index));
        if !cpu.loaded.is(task) {
            cpu.loaded.set(Some(task));
            self.platform.load_root(task.tagged_root());
        }
    }

    fn load_ports(&self, cpu: &Cpu, task: &Task) {
        // Whoever closes a range marks it closed and looks at this afterwards; here it is the other way round,
        // so that one of the two sees the other.
        let were_open = cpu.ports_open.swap(true, Ordering::SeqCst);
        let mut ranges = [PortRange::default(); MAX_PORT_RANGES];
        let count = task.port_ranges(&mut ranges);
        if count == 0 && mutant::active(Mutant::PortSwitch) {
            cpu.ports_open.store(were_open, Ordering::Relaxed);
            return;
        }
        self.platform.set_ports(&ranges[..count]);
        cpu.ports_open.store(count > 0, Ordering::Relaxed);
    }

    fn program_timer(&self, cpu: &Cpu, idle: bool) {
        cpu.timer_dirty.store(false, Ordering::Relaxed);
        let mut deadline = cpu
            .timers()
            .earliest()
            .min(cpu.slice_end.load(Ordering::Relaxed));
        if self.reclaim.is_pending() {
            let interval = self.tunables.get(Tunable::ReclaimIntervalUs) * NS_PER_US;
            let pause = if idle { 0 } else { interval };
            deadline = deadline.min(self.platform.now() + pause);
        }
        let is_slice = deadline != NEVER && deadline == cpu.slice_end.load(Ordering::Relaxed);
        let reuse_until = match is_slice {
            true => {
                let half = self.tunables.get(Tunable::SchedSliceUs) * NS_PER_US / 2;
                let left = deadline.saturating_sub(self.platform.now());
                self.platform.ticks() + self.platform.ns_to_ticks(left.saturating_sub(half))
            }
            false => 0,
        };
        cpu.reuse_timer_until.store(reuse_until, Ordering::Relaxed);
        if deadline != cpu.programmed.load(Ordering::Relaxed) {
            cpu.programmed.store(deadline, Ordering::Relaxed);
            self.platform.set_timer(deadline);
        }
    }

    /// Sets a thread's priority: of one that is queued, at its next turn.
    pub fn set_priority(&'static self, cpu: &'static Cpu, thread: &'static Thread, priority: u8) {
        thread.set_priority(priority);
        self.rethink(cpu, thread);
    }

    /// Sets the CPUs that a thread may run on.
    ///
    /// # Errors
    /// InvalidArgument if none of them is online.
    pub fn set_affinity(
        &'static self,
        cpu: &'static Cpu,
        thread: &'static Thread,
        affinity: u64,
    ) -> Outcome {
        let possible = self.cpus().iter().any(|cpu| {
            let in_set = affinity == u64::MAX || (cpu.index < 64 && affinity & 1 << cpu.index != 0);
            cpu.online.load(Ordering::Relaxed) && in_set
        });
        if !possible {
            return Err(Error::InvalidArgument);
        }
        thread.affinity.store(affinity, Ordering::Relaxed);
        thread.unsettle();
        self.rethink(cpu, thread);
        Ok(Next::Return)
    }

    /// A thread's parameters changed: if it is ready it is queued anew, if it runs, or is about to, its
    /// CPU looks again.
    fn rethink(&'static self, cpu: &'static Cpu, thread: &'static Thread) {
        // What was changed comes before the look at who owns the thread; who claims it looks at what
        // was changed afterwards.
        fence(Ordering::SeqCst);
        let home = &self.cpus()[thread.cpu.load(Ordering::Relaxed) as usize];
        if home.run_queue().remove(thread) {
            let target = self.place(thread);
            self.enqueue(cpu, target, thread);
        } else if thread.is_owned() {
            home.reschedule.store(true, Ordering::Release);
            if home.index != cpu.index {
                self.platform.kick(home.index);
            }
        }
    }
}
