//! Ends: of threads, of tasks and of what they held.
//!
//! Ending a thread takes owning it. A thread that runs elsewhere is marked and its CPU kicked: it
//! ends on its way out of the kernel. What takes long - a task's address space and handles, the
//! frames of large memory, the waiters of a closed endpoint - stands in queues here and is worked
//! off in bounded steps, by idle CPUs at once and by busy ones now and then.

use crate::cpu::Cpu;
use crate::endpoint::Endpoint;
use crate::frames::Frame;
use crate::kernel::{Kernel, Next, Outcome};
use crate::memory::Memory;
use crate::object::Object;
use crate::page_table;
use crate::platform::Platform;
use crate::queue::Queue;
use crate::sync::{AtomicU64, Lock, Ordering, Rank};
use crate::task::{Task, TaskState};
use crate::thread::Thread;
use crate::trace::Kind as TraceKind;
use crate::tunables::Tunable;
use ipc::Error;
use ipc::layout::PAGE_BYTES;

/// Threads of a dying task, or handles, or waiters, that one step looks at.
const OBJECTS_PER_STEP: u32 = 32;

/// Memory whose frames are to be given back.
pub struct MemoryQueues {
    /// To be given back, in the order in which it came: who waits for some waits for what came before it, and
    /// for nothing else.
    emptying: Queue<Memory, 0>,
    /// A CPU has the first one in hand.
    in_hand: bool,
    /// How many have come to be given back.
    came: u64,
    /// How many of them have been.
    given: u64,
    /// Devices may still write it.
    pub quarantine: Queue<Memory, 0>,
}

impl MemoryQueues {
    /// Memory is to be given back: no device writes it.
    pub fn empty(&mut self, memory: &'static Memory) {
        self.emptying.push_back(memory);
        self.came += 1;
    }

    /// The next one to go on with, for one CPU at a time: they are to end in the order in which they came.
    fn take(&mut self) -> Option<&'static Memory> {
        if self.in_hand {
            return None;
        }
        let memory = self.emptying.pop_front()?;
        self.in_hand = true;
        Some(memory)
    }

    /// What was taken: `None` where all of it is given back.
    fn put_back(&mut self, rest: Option<&'static Memory>) {
        self.in_hand = false;
        match rest {
            Some(memory) => self.emptying.push_front(memory),
            None => self.given += 1,
        }
    }

    /// Whether there is some that no CPU has in hand. One that has goes on with the others.
    fn is_waiting(&self) -> bool {
        !self.in_hand && !self.emptying.is_empty()
    }
}

/// What is to be reclaimed. Each entry counts a reference.
pub struct Reclaim {
    /// Closed endpoints with waiters.
    pub endpoints: Lock<Queue<Endpoint, 0>>,
    /// Memory without references.
    pub memories: Lock<MemoryQueues>,
    tasks: Lock<Queue<Task, 0>>,
    /// Dying tasks that a CPU has in hand.
    working: AtomicU64,
    /// Something is queued.
    pending: AtomicU64,
    /// When the last step was made.
    last_step: AtomicU64,
}

impl Reclaim {
    /// Nothing to do.
    pub const fn new() -> Reclaim {
        Reclaim {
            endpoints: Lock::new(Rank::Reclaim, Queue::new(1)),
            memories: Lock::new(
                Rank::Reclaim,
                MemoryQueues {
                    emptying: Queue::new(1),
                    in_hand: false,
                    came: 0,
                    given: 0,
                    quarantine: Queue::new(2),
                },
            ),
            tasks: Lock::new(Rank::Reclaim, Queue::new(1)),
            working: AtomicU64::new(0),
            pending: AtomicU64::new(0),
            last_step: AtomicU64::new(0),
        }
    }

    /// Whether something is to be reclaimed.
    #[inline]
    pub fn is_pending(&self) -> bool {
        self.pending.load(Ordering::Relaxed) != 0
    }

    /// Says that something was queued.
    pub fn note(&self) {
        self.pending.store(1, Ordering::Release);
    }

    /// Number of dying objects.
    pub fn count(&self) -> u64 {
        let endpoints = self.endpoints.lock().len() as u64;
        let memories = self.memories.lock().emptying.len() as u64;
        let tasks = self.tasks.lock().len() as u64;
        endpoints + memories + tasks + self.working.load(Ordering::Relaxed)
    }
}

impl Default for Reclaim {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Platform> Kernel<P> {
    /// On the way out of the kernel: a step of reclaiming, if it is time for one.
    pub(crate) fn reclaim_some(&'static self, cpu: &'static Cpu) {
        if !self.reclaim.is_pending() {
            return;
        }
        let interval = self.tunables.get(Tunable::ReclaimIntervalUs) * 1000;
        let now = self.platform.now();
        let due = now.saturating_sub(self.reclaim.last_step.load(Ordering::Relaxed)) >= interval;
        let idle = cpu.current.get().is_none() && cpu.run_queue().is_empty();
        if due || idle {
            self.reclaim.last_step.store(now, Ordering::Relaxed);
            self.reclaim_step(cpu);
        }
    }

    /// One bounded step of reclaiming.
    pub(crate) fn reclaim_step(&'static self, cpu: &'static Cpu) {
        self.reclaim.pending.store(0, Ordering::SeqCst);
        let frames = self.tunables.get(Tunable::ReclaimStep);
        self.reclaim.working.fetch_add(1, Ordering::Relaxed);
        let endpoint = self.reclaim.endpoints.lock().pop_front();
        if let Some(endpoint) = endpoint
            && !self.drain_endpoint(endpoint, OBJECTS_PER_STEP)
        {
            self.reclaim.endpoints.lock().push_back(endpoint);
        }
        let memory = self.reclaim.memories.lock().take();
        if let Some(memory) = memory {
            let rest = (!self.empty_step(memory, frames)).then_some(memory);
            self.reclaim.memories.lock().put_back(rest);
        }
        let task = self.reclaim.tasks.lock().pop_front();
        if let Some(task) = task {
            self.trace(cpu, TraceKind::Reclaim, task.slot.number(), 0);
            if !self.reclaim_task_step(cpu, task, frames) {
                self.reclaim.tasks.lock().push_back(task);
            }
        }
        self.reclaim.working.fetch_sub(1, Ordering::Relaxed);
        let rest = !self.reclaim.endpoints.lock().is_empty()
            || self.reclaim.memories.lock().is_waiting()
            || !self.reclaim.tasks.lock().is_empty();
        if rest {
            self.reclaim.note();
        }
    }

    /// Starts the end of a task. Its threads are ended as far as they can be at once.
    pub fn destroy_task(&'static self, task: &'static Task) {
        if task.start_dying() {
            let number = task.slot.number();
            assert!(
                number != self.init_number.load(Ordering::Relaxed),
                "init has ended"
            );
            task.slot.kill();
            // The reclaim queue keeps the task until nothing is left of it.
            task.slot.reference();
            self.reclaim.tasks.lock().push_back(task);
            self.reclaim.note();
        }
        self.end_threads_step(task);
    }

    /// The last handle to a task is closed. A task with threads goes on until they end.
    pub(crate) fn release_task(&'static self, task: &'static Task) {
        if task.state() != TaskState::Dead {
            task.slot.revive();
            self.destroy_task(task);
            if !task.slot.dereference() {
                return;
            }
            // Another CPU has reclaimed it in the meantime.
        }
        self.tasks.retire(self, task);
    }

    /// Ends a bounded number of a dying task's threads; true when there is none any more.
    fn end_threads_step(&'static self, task: &'static Task) -> bool {
        for _ in 0..OBJECTS_PER_STEP {
            let thread = {
                let mut threads = task.threads();
                let Some(thread) = threads.pop_front() else {
                    return true;
                };
                threads.push_back(thread);
                thread.doom();
                thread
            };
            self.end_thread(thread);
        }
        task.threads().is_empty()
    }

    /// Ends a thread that is marked, if it can be owned at once; else its CPU is kicked, and who
    /// called tries again later.
    pub(crate) fn end_thread(&'static self, thread: &'static Thread) {
        if thread.dead.load(Ordering::Acquire) {
            return;
        }
        if thread.claim() {
            self.leave_queue(thread);
            thread.activate();
            self.bury(thread);
            return;
        }
        let home = &self.cpus()[thread.cpu.load(Ordering::Relaxed) as usize];
        if home.run_queue().remove(thread) {
            self.bury(thread);
            return;
        }
        let this = self.platform.this_cpu();
        // It runs there or is about to: the mark is looked at on the way out of the kernel.
        if home.index != this {
            home.reschedule.store(true, Ordering::Release);
            self.platform.kick(home.index);
        }
    }

    /// Ends a thread that was never started once only its own reference is left: nobody can start it
    /// any more, and it would keep its task for ever.
    pub(crate) fn end_unreachable(&'static self, thread: &'static Thread) {
        if thread.slot.is_last() && thread.claim_start() {
            thread.doom();
            thread.activate();
            self.bury(thread);
        }
    }

    /// Takes away what an ended thread has. The caller owns it, and no lock is held.
    pub(crate) fn bury(&'static self, thread: &'static Thread) {
        let task = thread.task();
        if let Some(operation) = thread.operation.take() {
            self.drop_reference(operation);
        }
        if let Some(caller) = thread.take_reply() {
            self.abandon(caller);
        }
        self.unbind_except(thread, None);
        self.disarm(thread);
        self.take_buffer(thread, task);
        if let Some(area) = thread.fpu_area() {
            thread.fpu_frame.store(0, Ordering::Relaxed);
            self.give_back_frame(task, area);
        }
        task.cpu_ticks
            .fetch_add(thread.cpu_ticks.load(Ordering::Relaxed), Ordering::Relaxed);
        let last = {
            let mut threads = task.threads();
            threads.remove(thread);
            threads.is_empty()
        };
        thread.dead.store(true, Ordering::Release);
        thread.slot.kill();
        if last {
            self.destroy_task(task);
        }
        self.drop_reference(Object::Thread(thread));
        self.drop_reference(Object::Task(task));
    }

    fn give_back_frame(&'static self, task: &'static Task, frame: Frame) {
        self.frames.free(frame, 0);
        task.quota().credit(self, PAGE_BYTES);
    }

    /// Unmaps and frees the IPC buffer; other threads of the task may be using it until the
    /// shootdown is served.
    pub(crate) fn take_buffer(&'static self, thread: &'static Thread, task: &'static Task) {
        let slot = thread.buffer_slot.load(Ordering::Relaxed);
        {
            let _space = task.space.lock();
            page_table::unmap(&self.platform, task.root(), Task::buffer_address(slot));
        }
        self.shoot_down(task);
        let frame = Frame(thread.buffer_frame.swap(0, Ordering::Relaxed));
        thread.buffer.set(None);
        task.give_buffer_slot(slot);
        self.give_back_frame(task, frame);
    }

    /// One bounded step of reclaiming a dying task; true when only the object is left.
    fn reclaim_task_step(
        &'static self,
        cpu: &'static Cpu,
        task: &'static Task,
        frames: u64,
    ) -> bool {
        let done = match task.reclaim_phase.load(Ordering::Relaxed) {
            // The holds first: an operation may give the task a thread until it lets go.
            0 => !task.is_held() && self.end_threads_step(task),
            1 => {
                self.move_off(cpu, task);
                true
            }
            2 => self.forget_mappings(task, frames),
            3 => self.tear_down_step(task, frames),
            4 => {
                let from = task.reclaim_position.load(Ordering::Relaxed);
                let next = task.handles.clear_step(self, from, OBJECTS_PER_STEP);
                task.reclaim_position
                    .store(next.unwrap_or(0), Ordering::Relaxed);
                next.is_none()
            }
            5 => {
                let came = self.reclaim.memories.lock().came;
                task.reclaim_memories.store(came, Ordering::Relaxed);
                true
            }
            _ => {
                let given = self.reclaim.memories.lock().given;
                if given < task.reclaim_memories.load(Ordering::Relaxed) {
                    return false;
                }
                self.finish_task(task);
                return true;
            }
        };
        if done {
            task.reclaim_phase.fetch_add(1, Ordering::Relaxed);
        }
        false
    }

    fn tear_down_step(&'static self, task: &'static Task, budget: u64) -> bool {
        let mut freed = 0;
        let mut free = |frame: Frame| {
            self.frames.free(frame, 0);
            freed += 1;
        };
        let done =
            page_table::tear_down_step(&self.platform, task.root(), &mut free, budget as usize);
        if done {
            self.frames.free(task.root(), 0);
            freed += 1;
        }
        task.quota().credit(self, freed * PAGE_BYTES);
        done
    }

    fn finish_task(&'static self, task: &'static Task) {
        let fault = task.fault.take();
        if let Some(quota) = task.take_quota() {
            quota.close(self);
        }
        task.set_dead();
        // Last: the supervisor that is told by its badge finds everything given back.
        if let Some(fault) = fault {
            self.drop_reference(fault);
        }
        self.drop_reference(Object::Task(task));
    }

    /// Destroy.
    pub fn destroy(&'static self, thread: &'static Thread, object: Object) -> Outcome {
        self.holding(object, || self.destroy_held(thread, object))
    }

    fn destroy_held(&'static self, thread: &'static Thread, object: Object) -> Outcome {
        match object {
            Object::Task(task) => {
                self.destroy_task(task);
                let own = core::ptr::eq(task, thread.task());
                if own {
                    // However many threads there are: this one is not to see its end.
                    thread.doom();
                }
                if own || task.threads().is_empty() {
                    Ok(Next::Return)
                } else {
                    Ok(Next::Again)
                }
            }
            Object::Thread(victim) => {
                victim.doom();
                if core::ptr::eq(victim, thread) {
                    return Ok(Next::Return);
                }
                self.end_thread(victim);
                let dead = victim.dead.load(Ordering::Acquire);
                if dead {
                    Ok(Next::Return)
                } else {
                    Ok(Next::Again)
                }
            }
            Object::Endpoint(endpoint) => {
                endpoint.slot.kill();
                self.close_endpoint(endpoint);
                Ok(Next::Return)
            }
            Object::Notification(notification) => {
                notification.slot.kill();
                self.empty_notification(notification);
                Ok(Next::Return)
            }
            Object::Memory(memory) => {
                memory.slot.kill();
                if !self.unmap_everywhere_step(memory) {
                    return Ok(Next::Again);
                }
                self.empty_memory(memory);
                Ok(Next::Return)
            }
            Object::IoPorts(ports) => {
                self.close_ports(ports);
                Ok(Next::Return)
            }
            Object::Interrupt(interrupt) => {
                interrupt.slot.kill();
                self.silence(interrupt);
                Ok(Next::Return)
            }
            Object::Badge(_)
            | Object::Reply(_)
            | Object::DeviceControl
            | Object::SchedControl
            | Object::SystemControl
            | Object::Trace => Err(Error::WrongKind),
        }
    }
}
