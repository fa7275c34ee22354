//! Threads of a child task that runs a few bytes of code: what their faults cost, and their making and
//! end.

use ipc::client::Deadline;
use ipc::layout::{PAGE_BYTES, USER_START};
use ipc::ring::SharedMemory;
use ipc::{Error, Label, Operation, Tag};
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
struct Child {
    task: Task,
    faults: Endpoint,
    /// Never started: the task lives on when the others have ended.
    _keeper: Thread,
}

impl Child {
    fn new(code: &[u8]) -> Result<Child, Error> {
        let own = runtime::start::own_task();
        let memory = Memory::create(PAGE_BYTES)?;
        let written = Mapping::whole(&memory, Access::Write)?.write(0, code);
        written.ok_or(Error::InvalidArgument)?;
        let faults = Endpoint::create()?;
        let task = Task::create(own, QUOTA, Some(faults.handle()), PRIORITY)?;
        map_into(
            task.handle(),
            &memory,
            USER_START,
            0,
            PAGE_BYTES,
            Access::Execute,
        )?;
        let _keeper = thread(&task)?;
        Ok(Child {
            task,
            faults,
            _keeper,
        })
    }
}

fn thread(task: &Task) -> Result<Thread, Error> {
    let beginning = Beginning {
        entry: USER_START,
        stack_pointer: USER_START + PAGE_BYTES,
        argument: 0,
        fs_base: 0,
        priority: PRIORITY,
        fpu: false,
    };
    Thread::create(task.handle(), beginning).map(|(thread, _)| thread)
}

pub(crate) fn measure() -> Result<(), Error> {
    fault()?;
    let child = Child::new(&EXITS)?;
    let cost = count(|_| {
        let made = thread(&child.task)?;
        made.start()?;
        // It runs, and ends.
        yield_now();
        Ok::<(), Error>(())
    })?;
    report("thread_create_exit", cost, "instructions");
    child.task.destroy()
}

/// A thread faults, and goes on at the same instruction when it is answered: each round is an answer, the
/// way back to ring 3, the fault and its message.
fn fault() -> Result<(), Error> {
    let child = Child::new(&FAULTS)?;
    let faults = child.faults.handle();
    thread(&child.task)?.start()?;
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
    child.task.destroy()
}
