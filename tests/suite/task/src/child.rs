//! Threads and child tasks for the tests. A child runs this program's own code, from copies of its
//! segments, with a handle table of its own: it holds nothing but what a test grants.

use alloc::vec::Vec;
use core::sync::atomic::Ordering;

use ipc::info::{FaultMessage, TaskInfo, ThreadInfo, ThreadParameter};
use ipc::layout::{PAGE_BYTES, USER_START};
use ipc::startup::thread_block;
use ipc::{Error, Label, Operation};

use crate::failure::{Failure, Outcome, ensure};
use crate::raw::{self, Board, Body};
use crate::suite::{EXECUTE, Owned, Suite, WRITE, abandon, buffer_words, map, receive};

/// Largest priority of the threads that tests make: below the suite's own, so that the test itself
/// always gets on.
pub(crate) const PRIORITY: u64 = 20;
/// Flag of a thread that uses the FPU.
pub(crate) const FPU: u64 = 1 << 8;
/// How long a test waits for what must come, in milliseconds.
pub(crate) const PATIENCE: u64 = 5_000;
/// A quota with which a child can do what tests usually ask of it.
pub(crate) const QUOTA: u64 = 1 << 20;

/// Board and stack of a thread.
const THREAD_BYTES: u64 = 8 * PAGE_BYTES;

/// The program's segments, copied, for all children.
#[derive(Debug)]
pub(crate) struct Program {
    parts: Vec<(Owned, raw::Part)>,
}

impl Program {
    /// Copies this program.
    pub(crate) fn copy(suite: &Suite) -> Outcome<Program> {
        let mut parts = Vec::new();
        while let Some(part) = raw::part(parts.len()) {
            let start = part.address / PAGE_BYTES * PAGE_BYTES;
            let bytes = (part.address + part.bytes).next_multiple_of(PAGE_BYTES) - start;
            let memory = Owned::make(Operation::MemoryCreate, &[bytes])?;
            let address = suite.area(bytes);
            map(suite.task, memory.0, address, bytes, WRITE)?;
            let from = raw::words(start, bytes);
            for (to, from) in raw::words(address, bytes).iter().zip(from) {
                to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            raw::call(Operation::MemoryUnmap, &[suite.task, address])?;
            let whole = raw::Part {
                address: start,
                bytes,
                ..part
            };
            parts.push((memory, whole));
        }
        Ok(Program { parts })
    }

    /// Maps it into a task: code executable, everything else readable.
    fn map_into(&self, task: u64) -> Outcome {
        for (memory, part) in &self.parts {
            let access = if part.execute { EXECUTE } else { 0 };
            map(task, memory.0, part.address, part.bytes, access)?;
        }
        Ok(())
    }
}

/// A thread of the suite or of a child.
#[derive(Debug)]
pub(crate) struct Thread {
    /// Its handle.
    pub(crate) handle: u64,
    /// Its board, which the suite shares with it.
    pub(crate) board: &'static Board,
    memory: Owned,
    address: u64,
    own: u64,
    other: Option<u64>,
}

impl Thread {
    /// Makes a thread of the suite's own task and starts it. `values` become the first words of its
    /// board.
    pub(crate) fn start(suite: &Suite, body: Body, values: &[u64]) -> Outcome<Thread> {
        let thread = Thread::stopped(suite, None, body, values, PRIORITY)?;
        thread.go()?;
        Ok(thread)
    }

    /// Makes a thread of the suite's task, or of another, without starting it. `flags` are
    /// ThreadCreate's.
    pub(crate) fn stopped(
        suite: &Suite,
        task: Option<u64>,
        body: Body,
        values: &[u64],
        flags: u64,
    ) -> Outcome<Thread> {
        let memory = Owned::make(Operation::MemoryCreate, &[THREAD_BYTES])?;
        let address = suite.area(THREAD_BYTES);
        map(suite.task, memory.0, address, THREAD_BYTES, WRITE)?;
        let mut thread = Thread {
            handle: 0,
            board: raw::board(address),
            memory,
            address,
            own: suite.task,
            other: None,
        };
        if let Some(other) = task {
            map(other, thread.memory.0, address, THREAD_BYTES, WRITE)?;
            thread.other = Some(other);
        }
        thread.create(task.unwrap_or(suite.task), body, values, flags)?;
        Ok(thread)
    }

    fn create(&mut self, task: u64, body: Body, values: &[u64], flags: u64) -> Outcome {
        let end = self.address + THREAD_BYTES;
        let block = thread_block(end);
        let entry: extern "C" fn(u64) -> ! = raw::thread_entry;
        // As if it were called: the stack is 8 off a multiple of 16 (x86-64 psABI, 3.2.2).
        let values_in = [
            task,
            entry as usize as u64,
            block - 8,
            self.address,
            block,
            flags,
        ];
        let [handle, ipc_buffer, ..] = raw::call(Operation::ThreadCreate, &values_in)?;
        self.handle = handle;
        raw::write_thread_block(end, ipc_buffer);
        for (word, value) in self.board.words.iter().zip(values) {
            word.store(*value, Ordering::Relaxed);
        }
        self.board.words[raw::BODY].store(raw::body_number(body), Ordering::Release);
        Ok(())
    }

    /// Starts it.
    pub(crate) fn go(&self) -> Result<(), Error> {
        self.set(ThreadParameter::Start, 0)
    }

    /// Sets a parameter of it.
    pub(crate) fn set(&self, parameter: ThreadParameter, value: u64) -> Result<(), Error> {
        let values = [self.handle, parameter as u64, value];
        raw::call(Operation::ThreadSet, &values).map(drop)
    }

    /// Reads its state and counters.
    pub(crate) fn info(&self) -> Result<ThreadInfo, Error> {
        raw::call(Operation::ThreadInspect, &[self.handle])?;
        Ok(ThreadInfo::from_words(&buffer_words()))
    }

    /// A word of its board.
    pub(crate) fn word(&self, index: usize) -> u64 {
        self.board.words[index].load(Ordering::Acquire)
    }

    /// Sets a word of its board.
    pub(crate) fn set_word(&self, index: usize, value: u64) {
        self.board.words[index].store(value, Ordering::Release);
    }

    /// Whether its body has returned.
    pub(crate) fn is_done(&self) -> bool {
        self.word(raw::DONE) != 0
    }

    /// Waits until its body has returned.
    pub(crate) fn finish(&self, suite: &Suite) -> Outcome {
        ensure!(
            suite.wait_for(PATIENCE, || self.is_done()),
            "a thread did not end: {:?}, words {:?}",
            self.info(),
            [0, 1, 2, 3, 4, 5, 6, 7].map(|index| self.word(index))
        );
        Ok(())
    }

    /// Waits until it is in this state: 2 waiting, 3 faulted, 4 dead. The handle of a thread that is
    /// gone names nothing any more.
    pub(crate) fn reach(&self, suite: &Suite, state: u64) -> Outcome {
        const DEAD: u64 = 4;
        let found = || self.info().map_or(DEAD, |info| info.state);
        ensure!(
            suite.wait_for(PATIENCE, || found() == state),
            "a thread is in state {}, not in {state}",
            found()
        );
        Ok(())
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        // The test may have ended any of them.
        let _ = raw::call(Operation::Destroy, &[self.handle]);
        let _ = raw::call(Operation::Close, &[self.handle]);
        if let Some(task) = self.other {
            let _ = raw::call(Operation::MemoryUnmap, &[task, self.address]);
        }
        let _ = raw::call(Operation::MemoryUnmap, &[self.own, self.address]);
    }
}

/// A child task whose faults come to the suite.
#[derive(Debug)]
pub(crate) struct Child {
    /// Its handle.
    pub(crate) task: u64,
    /// The endpoint that its faults and its end come to.
    pub(crate) faults: Owned,
    /// A thread that is never started: with it the task lives on when its other threads have ended.
    keeper: Option<Owned>,
    ended: bool,
}

/// The badge of children's fault endpoints.
pub(crate) const FAULT_BADGE: u64 = 0xfa17;

impl Child {
    /// Makes a child with the program mapped and this quota.
    pub(crate) fn new(suite: &Suite, program: &Program, quota: u64) -> Outcome<Child> {
        let mut child = Child::empty(suite, quota)?;
        program.map_into(child.task)?;
        let keeper = [child.task, USER_START, USER_START, 0, 0, 0];
        child.keeper = Some(Owned::make(Operation::ThreadCreate, &keeper)?);
        Ok(child)
    }

    /// Makes a child with nothing in it.
    pub(crate) fn empty(suite: &Suite, quota: u64) -> Outcome<Child> {
        let faults = Owned::make(Operation::EndpointCreate, &[])?;
        let badge = Owned::make(Operation::BadgeMint, &[faults.0, FAULT_BADGE])?;
        let values = [suite.task, quota, badge.0, PRIORITY];
        let task = raw::value(Operation::TaskCreate, &values)?;
        Ok(Child {
            task,
            faults,
            keeper: None,
            ended: false,
        })
    }

    /// Lets it end with its last thread.
    pub(crate) fn let_go(&mut self) -> Outcome {
        if let Some(keeper) = self.keeper.take() {
            raw::call(Operation::Destroy, &[keeper.0])?;
        }
        Ok(())
    }

    /// Makes a thread of it and starts it.
    pub(crate) fn start(&self, suite: &Suite, body: Body, values: &[u64]) -> Outcome<Thread> {
        let thread = Thread::stopped(suite, Some(self.task), body, values, PRIORITY)?;
        thread.go()?;
        Ok(thread)
    }

    /// Gives it a copy of a handle and says what it is called there.
    pub(crate) fn grant(&self, handle: u64, rights: ipc::Rights) -> Result<u64, Error> {
        raw::value(
            Operation::TaskGrant,
            &[self.task, handle, u64::from(rights.0)],
        )
    }

    /// Waits for a fault of one of its threads, which is then ended.
    pub(crate) fn fault(&self, suite: &Suite) -> Outcome<FaultMessage> {
        let (badge, tag, words) = receive(self.faults.0, suite.after(PATIENCE))?;
        let mut message: [u64; FaultMessage::WORDS] = buffer_words();
        message[..4].copy_from_slice(&words);
        abandon();
        ensure!(
            badge == FAULT_BADGE && tag.is_kernel() && tag.label() == Label::FAULT,
            "no fault message came, but badge {badge:#x} and {tag:?}"
        );
        Ok(FaultMessage::from_words(&message))
    }

    /// Whether no fault came within this many milliseconds.
    pub(crate) fn is_sound(&self, suite: &Suite, milliseconds: u64) -> bool {
        let quiet = matches!(
            receive(self.faults.0, suite.after(milliseconds)),
            Err(Error::TimedOut)
        );
        if !quiet {
            abandon();
        }
        quiet
    }

    /// Reads its state and counters.
    pub(crate) fn info(&self) -> Result<TaskInfo, Error> {
        raw::call(Operation::TaskInspect, &[self.task])?;
        Ok(TaskInfo::from_words(&buffer_words()))
    }

    /// Waits for the message that says that it is gone.
    pub(crate) fn closed(&mut self, suite: &Suite) -> Outcome {
        let end = suite.after(PATIENCE);
        loop {
            let (badge, tag, _) = receive(self.faults.0, end)?;
            if tag.is_kernel() && tag.label() == Label::CLOSED && badge == FAULT_BADGE {
                self.ended = true;
                return Ok(());
            }
            abandon();
        }
    }

    /// Destroys it and waits until the kernel has reclaimed it.
    pub(crate) fn destroy(&mut self, suite: &Suite) -> Outcome {
        raw::call(Operation::Destroy, &[self.task])?;
        self.closed(suite)
    }

    /// Runs a body in a thread of its own and expects that it ends without a fault.
    pub(crate) fn run(&self, suite: &Suite, body: Body, values: &[u64]) -> Outcome<Thread> {
        let thread = self.start(suite, body, values)?;
        if !suite.wait_for(PATIENCE, || thread.is_done()) {
            let state = thread.info();
            let fault = self.fault(suite);
            return Err(Failure::new(&alloc::format!(
                "a child's thread did not end: {state:?}, {fault:?}"
            )));
        }
        Ok(thread)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        abandon();
        if !self.ended && raw::call(Operation::Destroy, &[self.task]).is_ok() {
            let now = raw::value(Operation::ClockRead, &[]).unwrap_or(0);
            let end = now + PATIENCE * 1_000_000;
            // What comes before the end is of no interest any more.
            while let Ok((_, tag, _)) = receive(self.faults.0, end) {
                if tag.label() == Label::CLOSED {
                    break;
                }
                abandon();
            }
        }
        let _ = raw::call(Operation::Close, &[self.task]);
    }
}
