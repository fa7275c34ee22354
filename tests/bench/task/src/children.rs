//! Threads of a child task that runs a few bytes of code: what their faults cost, and their making and
//! end.

use alloc::vec::Vec;

use ipc::client::Deadline;
use ipc::layout::{PAGE_BYTES, USER_START};
use ipc::ring::SharedMemory;
use ipc::{Error, Handle, Label, Operation, Rights, Tag};
use runtime::endpoint::Endpoint;
use runtime::mapping::{Access, map_into};
use runtime::task::Task;
use runtime::thread::{Beginning, Thread, yield_now};
use runtime::words::{receive, reply_receive};
use runtime::{Mapping, Memory};

use crate::counter::{measure as count, report};

/// An undefined instruction: UD2 (Intel SDM volume 2B).
const FAULTS: [u8; 2] = [0x0f, 0x0b];
/// MOV EAX, Exit; SYSCALL.
const EXITS: [u8; 7] = [0xb8, Operation::Exit as u8, 0, 0, 0, 0x0f, 0x05];
/// Memory of a child.
const QUOTA: u64 = 256 << 10;
/// Priority of its threads: this task's.
const PRIORITY: u8 = 20;

/// A task whose threads run a few bytes of code.
pub(crate) struct Child {
    task: Task,
    faults: Endpoint,
    priority: u8,
    /// Never started: the task lives on when the others have ended.
    _keeper: Thread,
}

impl Child {
    /// Makes one out of this task's quota, with threads of this priority.
    pub(crate) fn new(code: &[u8], quota: u64, priority: u8) -> Result<Child, Error> {
        Child::make(|_| Ok(code.to_vec()), quota, priority)
    }

    /// The same with a handle; the code is made for the number that it has there.
    pub(crate) fn with_handle(
        handle: Handle,
        code: impl FnOnce(Handle) -> Vec<u8>,
        quota: u64,
        priority: u8,
    ) -> Result<Child, Error> {
        let code = |task: &Task| task.grant(handle, Rights::ALL).map(code);
        Child::make(code, quota, priority)
    }

    fn make(
        code: impl FnOnce(&Task) -> Result<Vec<u8>, Error>,
        quota: u64,
        priority: u8,
    ) -> Result<Child, Error> {
        let own = runtime::start::own_task();
        let faults = Endpoint::create()?;
        let task = Task::create(own, quota, Some(faults.handle()), priority)?;
        let memory = Memory::create(PAGE_BYTES)?;
        let written = Mapping::whole(&memory, Access::Write)?.write(0, &code(&task)?);
        written.ok_or(Error::InvalidArgument)?;
        map_into(
            task.handle(),
            &memory,
            USER_START,
            0,
            PAGE_BYTES,
            Access::Execute,
        )?;
        let _keeper = thread(&task, priority)?;
        Ok(Child {
            task,
            faults,
            priority,
            _keeper,
        })
    }

    /// Makes a thread of it.
    pub(crate) fn thread(&self) -> Result<Thread, Error> {
        thread(&self.task, self.priority)
    }

    /// Ends it.
    pub(crate) fn destroy(&self) -> Result<(), Error> {
        self.task.destroy()
    }
}

fn thread(task: &Task, priority: u8) -> Result<Thread, Error> {
    let beginning = Beginning {
        entry: USER_START,
        stack_pointer: USER_START + PAGE_BYTES,
        argument: 0,
        fs_base: 0,
        priority,
        fpu: false,
    };
    Thread::create(task.handle(), beginning).map(|(thread, _)| thread)
}

pub(crate) fn measure() -> Result<(), Error> {
    fault()?;
    let child = Child::new(&EXITS, QUOTA, PRIORITY)?;
    let cost = count(|_| {
        let made = child.thread()?;
        made.start()?;
        // It runs, and ends.
        yield_now();
        Ok::<(), Error>(())
    })?;
    report("thread_create_exit", cost, "instructions");
    child.destroy()
}

/// A thread faults, and goes on at the same instruction when it is answered: each round is an answer, the
/// way back to ring 3, the fault and its message.
fn fault() -> Result<(), Error> {
    let child = Child::new(&FAULTS, QUOTA, PRIORITY)?;
    let faults = child.faults.handle();
    child.thread()?.start()?;
    receive(faults, 0, Deadline::NEVER)?;
    let cost = count(|_| {
        let fault = reply_receive(faults, Tag(0), [0; 4], Deadline::NEVER)?;
        if fault.tag.label() == Label::FAULT {
            Ok(())
        } else {
            Err(Error::InvalidArgument)
        }
    })?;
    report("fault_resume", cost, "instructions");
    child.destroy()
}
