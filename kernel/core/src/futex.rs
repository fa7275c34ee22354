//! Futexes: sleeping on a word of the own task's memory.
//!
//! The queue is here, one a task, because a queue in user memory would make threads of fixed
//! priorities spin. It is as long as the task has threads at most, so that what a wake costs is the
//! task's own doing. The word is read through the task's page tables; that is the only user address
//! which the kernel looks at.

use crate::cpu::Cpu;
use crate::frames::Frame;
use crate::kernel::{Kernel, Next, Outcome};
use crate::page_table;
use crate::platform::Platform;
use crate::sync::Ordering;
use crate::task::Task;
use crate::thread::{Thread, Wait};
use ipc::Error;
use ipc::layout::{MAX_THREADS_PER_TASK, PAGE_BYTES, USER_END};
use ipc::message::NEVER;

/// Threads that one FutexWake wakes before it lets interrupts in.
const WAKES_PER_STEP: u64 = 32;

impl<P: Platform> Kernel<P> {
    /// FutexWait.
    ///
    /// The space's lock keeps the page mapped while its word is read. The sleeper is in the queue
    /// before the queue's lock is dropped, and the word was read under it: a wake that follows a
    /// change of the word finds the sleeper, or this thread finds the change.
    pub fn futex_wait(
        &'static self,
        cpu: &'static Cpu,
        thread: &'static Thread,
        address: u64,
        expected: u64,
        deadline: u64,
    ) -> Outcome {
        if !address.is_multiple_of(4) || address >= USER_END {
            return Err(Error::InvalidArgument);
        }
        let task = thread.task();
        let space = task.space.lock();
        let mut sleepers = task.sleepers.lock();
        if u64::from(self.read_word(task, address)?) != expected {
            return Err(Error::Changed);
        }
        if deadline != NEVER && deadline <= self.platform.now() {
            return Err(Error::TimedOut);
        }
        let generation = thread.next_generation();
        thread.futex.store(address, Ordering::Relaxed);
        self.detach(cpu, thread);
        self.arm(cpu, thread, deadline);
        sleepers.push_back(thread);
        thread.publish_as(Wait::Futex, generation);
        drop(sleepers);
        drop(space);
        Ok(Next::Blocked)
    }

    /// The word at an aligned address of a task's RAM; the caller holds the space's lock.
    fn read_word(&self, task: &Task, address: u64) -> Result<u32, Error> {
        let found = page_table::translate(&self.platform, task.root(), address);
        let physical = found.ok_or(Error::InvalidArgument)?.physical;
        let frame = Frame::from_address(physical).filter(|frame| self.frames.is_ram(*frame));
        let words = self.platform.words(frame.ok_or(Error::InvalidArgument)?);
        let word = words[(physical % PAGE_BYTES / 8) as usize].load(Ordering::SeqCst);
        Ok(if physical.is_multiple_of(8) {
            word as u32
        } else {
            (word >> 32) as u32
        })
    }

    /// FutexWake.
    pub fn futex_wake(
        &'static self,
        cpu: &'static Cpu,
        thread: &'static Thread,
        address: u64,
        count: u64,
    ) -> Outcome {
        if !address.is_multiple_of(4) || count == 0 || count > MAX_THREADS_PER_TASK as u64 {
            return Err(Error::InvalidArgument);
        }
        let mut woken = thread.woken.load(Ordering::Relaxed);
        let step = woken + WAKES_PER_STEP;
        while woken < count {
            if woken == step {
                thread.woken.store(woken, Ordering::Relaxed);
                return Ok(Next::Again);
            }
            let Some(sleeper) = take_sleeper(thread.task(), address) else {
                break;
            };
            sleeper.registers.rax.set(0);
            self.make_ready(cpu, sleeper);
            woken += 1;
        }
        thread.woken.store(0, Ordering::Relaxed);
        thread.registers.rdi.set(woken);
        Ok(Next::Return)
    }

    /// Takes a claimed sleeper out of the queue.
    pub fn leave_futex(&self, thread: &'static Thread) {
        thread.task().sleepers.lock().remove(thread);
    }
}

/// Takes out and claims the thread that has slept longest on an address. The claim is under the
/// queue's lock: whoever else has claimed a sleeper has to take it out of the queue before it can
/// wait for anything else, so that no other wait of it is claimed here.
fn take_sleeper(task: &'static Task, address: u64) -> Option<&'static Thread> {
    let mut sleepers = task.sleepers.lock();
    let sleeps_there = |thread: &&'static Thread| {
        thread.futex.load(Ordering::Relaxed) == address && thread.claim()
    };
    let sleeper = sleepers.iterate().find(sleeps_there)?;
    sleepers.remove(sleeper);
    Some(sleeper)
}
