//! Futexes: sleeping on a word of the own task's memory.
//!
//! The queues are here, keyed by task and address, because a queue in user memory would make threads
//! of fixed priorities spin. The word is read through the task's page tables; that is the only user
//! address which the kernel looks at.

use crate::cpu::Cpu;
use crate::frames::Frame;
use crate::kernel::{Kernel, Next, Outcome};
use crate::page_table;
use crate::platform::Platform;
use crate::queue::Queue;
use crate::sync::{Lock, Ordering, Rank};
use crate::task::Task;
use crate::thread::{QUEUE, Thread, Wait};
use ipc::Error;
use ipc::layout::{MAX_THREADS_PER_TASK, PAGE_BYTES, USER_END};
use ipc::message::NEVER;

const BUCKETS: usize = 64;
/// Queue numbers of the buckets, above those of endpoints and below those of run queues.
const FIRST_NUMBER: u64 = 1 << 61;
/// Sleepers in a bucket that one FutexWake looks at. Buckets are shared between tasks, so their
/// length is not the caller's doing.
const SEARCH_LIMIT: usize = 4 * MAX_THREADS_PER_TASK;

/// All sleepers.
pub struct Futexes {
    buckets: [Lock<Queue<Thread, QUEUE>>; BUCKETS],
}

impl Futexes {
    /// Nobody sleeps.
    pub fn new() -> Futexes {
        Futexes {
            buckets: core::array::from_fn(|index| {
                Lock::new(Rank::Futex, Queue::new(FIRST_NUMBER + index as u64))
            }),
        }
    }

    fn bucket(&self, task: &Task, address: u64) -> &Lock<Queue<Thread, QUEUE>> {
        // Fibonacci hashing: the top bits of a product with 2^64 divided by the golden ratio.
        let key = (address >> 2) ^ task.slot.number() << 32;
        let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.buckets[(hash >> (u64::BITS - BUCKETS.trailing_zeros())) as usize]
    }
}

impl Default for Futexes {
    fn default() -> Self {
        Self::new()
    }
}

impl<P: Platform> Kernel<P> {
    /// FutexWait.
    ///
    /// The space's lock keeps the page mapped while its word is read. The sleeper is in the bucket
    /// before the bucket's lock is dropped, and the word was read under it: a wake that follows a
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
        let mut bucket = self.futexes.bucket(task, address).lock();
        if u64::from(self.read_word(task, address)?) != expected {
            return Err(Error::Changed);
        }
        if deadline != NEVER && deadline <= self.platform.now() {
            return Err(Error::TimedOut);
        }
        let generation = thread.next_generation();
        thread.futex.store(address, Ordering::Relaxed);
        self.detach(cpu, thread);
        self.arm(cpu, thread, deadline, generation);
        bucket.push_back(thread);
        thread.publish_as(Wait::Futex, generation);
        drop(bucket);
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
        let task = thread.task();
        let mut woken = 0;
        while woken < count {
            let sleeper = {
                let mut bucket = self.futexes.bucket(task, address).lock();
                let Some(sleeper) = find_sleeper(&bucket, task, address) else {
                    break;
                };
                bucket.remove(sleeper);
                sleeper
            };
            if sleeper.claim() {
                sleeper.registers.rax.set(0);
                self.make_ready(cpu, sleeper);
                woken += 1;
            }
        }
        thread.registers.rdi.set(woken);
        Ok(Next::Return)
    }

    /// Takes a claimed sleeper out of its bucket.
    pub fn leave_futex(&self, thread: &'static Thread) {
        let address = thread.futex.load(Ordering::Relaxed);
        self.futexes
            .bucket(thread.task(), address)
            .lock()
            .remove(thread);
    }
}

fn find_sleeper(
    bucket: &Queue<Thread, QUEUE>,
    task: &'static Task,
    address: u64,
) -> Option<&'static Thread> {
    let sleeping_there = |thread: &&'static Thread| {
        core::ptr::eq(thread.task(), task) && thread.futex.load(Ordering::Relaxed) == address
    };
    bucket.iterate().take(SEARCH_LIMIT).find(sleeping_there)
}
