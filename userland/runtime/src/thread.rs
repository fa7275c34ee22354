//! Threads: starting them, waiting for their end, and what init does with those of other tasks.
#![expect(unsafe_code, reason = "a new thread begins on what this one prepared")]

use crate::buffer::Buffer;
use crate::handle::owned;
use crate::mapping::Mapping;
use crate::memory::Memory;
use crate::start::own_task;
use crate::sync::{futex_wait, futex_wake};
use crate::syscall::invoke;
use crate::system::words;
use crate::{Deadline, block};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;
use ipc::info::{ThreadInfo, ThreadParameter};
use ipc::layout::PAGE_BYTES;
use ipc::message::NEVER;
use ipc::startup::thread_block;
use ipc::{Error, Handle, Operation};

owned! {
    /// A thread. Closing the handle does not end it.
    Thread
}

/// What a thread begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Beginning {
    /// Address of its first instruction.
    pub entry: u64,
    /// Stack pointer.
    pub stack_pointer: u64,
    /// Its `rdi`.
    pub argument: u64,
    /// FS base.
    pub fs_base: u64,
    /// Priority, 0 to 63.
    pub priority: u8,
    /// Whether it uses the FPU.
    pub fpu: bool,
}

impl Thread {
    /// Makes a stopped thread in another task, and tells where its IPC buffer is. In the own task
    /// this would let any address run: [`spawn`] is for that, and this refuses with
    /// InvalidArgument. Errors: those of [`Operation::ThreadCreate`].
    pub fn create(task: Handle, beginning: Beginning) -> Result<(Thread, u64), Error> {
        if task == own_task() {
            return Err(Error::InvalidArgument);
        }
        create(task, beginning)
    }

    /// Starts it. Errors: those of [`Operation::ThreadSet`], as for the next two.
    pub fn start(&self) -> Result<(), Error> {
        self.set(ThreadParameter::Start, 0, Handle::NONE)
    }

    /// Sets its priority; `control` is a SchedControl with TUNE for more than the task's largest,
    /// else [`Handle::NONE`].
    pub fn set_priority(&self, priority: u8, control: Handle) -> Result<(), Error> {
        self.set(ThreadParameter::Priority, u64::from(priority), control)
    }

    /// Sets the CPUs that it may run on, a bit each.
    pub fn set_affinity(&self, cpus: u64) -> Result<(), Error> {
        self.set(ThreadParameter::Affinity, cpus, Handle::NONE)
    }

    /// Reads its registers and counters. Errors: those of [`Operation::ThreadInspect`].
    pub fn info(&self) -> Result<ThreadInfo, Error> {
        let mut buffer = Buffer::take()?;
        invoke(
            Operation::ThreadInspect,
            [self.handle().0, 0, 0, 0, 0, 0],
            NEVER,
        )?;
        Ok(ThreadInfo::from_words(&words(buffer.bytes())))
    }

    fn set(&self, what: ThreadParameter, value: u64, control: Handle) -> Result<(), Error> {
        let arguments = [self.handle().0, what as u64, value, control.0, 0, 0];
        invoke(Operation::ThreadSet, arguments, NEVER).map(drop)
    }
}

fn create(task: Handle, beginning: Beginning) -> Result<(Thread, u64), Error> {
    let flags = u64::from(beginning.priority) | u64::from(beginning.fpu) << 8;
    let arguments = [
        task.0,
        beginning.entry,
        beginning.stack_pointer,
        beginning.argument,
        beginning.fs_base,
        flags,
    ];
    let [handle, ipc_buffer, ..] = invoke(Operation::ThreadCreate, arguments, NEVER)?;
    Ok((Thread::from_handle(Handle(handle)), ipc_buffer))
}

/// Ends the calling thread. What its stack owns is not dropped.
pub fn exit() -> ! {
    let _ = invoke(Operation::Exit, [0; 6], NEVER);
    crate::syscall::fault()
}

/// Ends the task when its function has returned. A task ends with its last thread; one whose other
/// threads would go on without it ends by a fault.
pub fn finish() -> ! {
    match crate::task::info(own_task()) {
        Ok(info) if info.threads > 1 => {
            crate::log!("the task's function returned while other threads run");
            crate::syscall::fault()
        }
        _ => exit(),
    }
}

/// Lets another thread of the same priority run.
pub fn yield_now() {
    // It has no errors but the host's.
    let _ = invoke(Operation::Yield, [0; 6], NEVER);
}

/// How a thread of the own task is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Stack in bytes, rounded up to pages.
    pub stack_bytes: u64,
    /// Priority, 0 to the task's largest.
    pub priority: u8,
}

/// A thread's program, kept for it until it begins.
type Program = Box<dyn FnOnce() + Send>;

/// What a new thread finds in `rdi`.
struct Package {
    program: Program,
    done: Arc<AtomicU32>,
}

/// A running thread of the own task. Dropping this lets it run; its stack is then never unmapped.
#[derive(Debug)]
pub struct Running {
    thread: Thread,
    done: Arc<AtomicU32>,
    stack: Option<Mapping>,
}

/// Starts a thread in the own task.
///
/// Errors: those of [`Operation::MemoryCreate`], [`Operation::MemoryMap`] and
/// [`Operation::ThreadCreate`].
pub fn spawn(options: Options, program: impl FnOnce() + Send + 'static) -> Result<Running, Error> {
    let bytes = options
        .stack_bytes
        .max(PAGE_BYTES)
        .next_multiple_of(PAGE_BYTES);
    let memory = Memory::create(bytes)?;
    let stack = Mapping::whole(&memory, crate::mapping::Access::Write)?;
    let block = thread_block(stack.start() + bytes);
    let done = Arc::new(AtomicU32::new(0));
    let package = Box::new(Package {
        program: Box::new(program),
        done: done.clone(),
    });
    let argument = Box::into_raw(package);
    let beginning = Beginning {
        entry: entry_address(),
        stack_pointer: block,
        argument: argument.expose_provenance() as u64,
        fs_base: block,
        priority: options.priority,
        fpu: false,
    };
    let started = create(own_task(), beginning).and_then(|(thread, ipc_buffer)| {
        // SAFETY: the block lies at the end of the new stack, which nothing uses yet.
        unsafe { block::initialise(block, ipc_buffer, stack.start()) };
        thread.start()?;
        Ok(thread)
    });
    match started {
        Ok(thread) => Ok(Running {
            thread,
            done,
            stack: Some(stack),
        }),
        Err(error) => {
            // SAFETY: the pointer came from `into_raw`, and no thread has begun with it.
            drop(unsafe { Box::from_raw(argument) });
            Err(error)
        }
    }
}

impl Running {
    /// The thread.
    pub const fn thread(&self) -> &Thread {
        &self.thread
    }

    /// Whether its program has ended.
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire) != 0
    }

    /// Waits until the thread has ended and takes its stack back.
    pub fn join(mut self) {
        while !self.is_done() {
            if futex_wait(&self.done, 0, Deadline::NEVER) == Err(Error::Unsupported) {
                return;
            }
        }
        // From its last word to its end the thread still uses the stack.
        while matches!(self.thread.info(), Ok(info) if info.state != THREAD_DEAD) {
            crate::clock::sleep(Duration::from_micros(50));
        }
        drop(self.stack.take());
    }
}

/// `ThreadInfo::state` of a thread that has ended.
const THREAD_DEAD: u64 = 4;

impl Drop for Running {
    fn drop(&mut self) {
        // The thread may still run on it.
        core::mem::forget(self.stack.take());
    }
}

/// A thread's first function.
extern "C" fn begin(package: *mut Package) -> ! {
    // SAFETY: `spawn` made the pointer by `into_raw` for this thread alone.
    let package = unsafe { Box::from_raw(package) };
    let Package { program, done } = *package;
    program();
    done.store(1, Ordering::Release);
    futex_wake(&done, 1024);
    drop(done);
    exit()
}

/// Where a new thread's first instructions are: end the chain of frames, align the stack, go on in
/// [`begin`] with the argument where it is.
#[cfg(target_os = "none")]
fn entry_address() -> u64 {
    #[unsafe(naked)]
    extern "C" fn first() -> ! {
        core::arch::naked_asm!(
            "xor ebp, ebp",
            "and rsp, -16",
            "call {begin}",
            "ud2",
            begin = sym begin,
        )
    }
    first as *const () as u64
}

#[cfg(not(target_os = "none"))]
fn entry_address() -> u64 {
    begin as *const () as u64
}
