//! Makes a task: address space, program, stack, heap, log memory, handles, startup block, first
//! thread. A task that could not be finished is destroyed.

use alloc::vec::Vec;

use init::archive::Archive;
use init::authority::{self, Given, Object};
use init::badge::Life;
use init::place;
use init::program::{Program, Segment};
use init::report::Cause;
use init::services::Services;
use ipc::layout::init_handles;
use ipc::manifest::Task as Entry;
use ipc::ring::SharedMemory;
use ipc::startup::{
    Argument, HEAP_START, LOG_ADDRESS, LogMemory, NamedHandle, Range, STACK_END, STARTUP_ADDRESS,
    STARTUP_BYTES, Startup, thread_block,
};
use ipc::{Error, Handle};
use runtime::endpoint::{Endpoint, mint};
use runtime::mapping::{Access, Mapping, map_into};
use runtime::ports::{Interrupt, IoPorts, Trigger};
use runtime::task::Task;
use runtime::thread::{Beginning, Thread};
use runtime::{Memory, Notification, OwnedHandle};

use crate::logs::Log;
use crate::unpacking::Unpacking;

/// What init keeps of a living task.
#[derive(Debug)]
pub(crate) struct Alive {
    /// Its handle.
    pub(crate) task: Task,
    /// Its stack, for a backtrace.
    pub(crate) stack: Memory,
    /// Its log memory.
    pub(crate) log: Log,
    /// Bytes of its memory that init's quota pays for.
    pub(crate) paid_bytes: u64,
    /// Where it wants to be told that the system stops.
    pub(crate) stop_bell: Option<StopBell>,
}

/// What is signalled when a task is to stop.
#[derive(Debug)]
pub(crate) struct StopBell {
    /// The task's notification.
    pub(crate) bell: Notification,
    /// With which bits.
    pub(crate) bits: u64,
}

/// What the maker needs of its surroundings.
#[derive(Debug)]
pub(crate) struct Maker<'m> {
    /// The boot archive.
    pub(crate) archive: &'m Archive<'static>,
    /// The services.
    pub(crate) services: &'m Services<'static>,
    /// Their public endpoints, in the same order; `None` for one that was given up.
    pub(crate) public: &'m [Option<Endpoint>],
    /// Init's endpoint.
    pub(crate) endpoint: Handle,
    /// Init's notification for log lines.
    pub(crate) bell: &'m Notification,
}

/// The bit of the log bell that a task has.
pub(crate) const fn log_bit(position: u16) -> u64 {
    1 << (position % 64)
}

impl Maker<'_> {
    /// Makes and starts a task.
    pub(crate) fn make(
        &self,
        entry: &Entry<'static>,
        life: Life,
        restarts: u32,
    ) -> Result<Alive, Cause<'static>> {
        let mut file = Unpacking::begin(self.archive, entry.binary, "")?;
        let program = Program::read(file.part(), file.length()).map_err(Cause::Program)?;
        let faults = mint(self.endpoint, life.badge()).map_err(Cause::Refused)?;
        let faults = OwnedHandle::new(faults);
        let quota = place::quota(entry, &program).map_err(Cause::Program)?;
        let task = Task::create(
            init_handles::TASK,
            quota,
            Some(faults.get()),
            entry.priority,
        )
        .map_err(Cause::Refused)?;
        // From here on the task alone holds the badge: when the kernel has reclaimed it, init hears.
        drop(faults);
        let unfinished = Unfinished(Some(task));
        let target = unfinished.task().map_err(Cause::Refused)?.handle();
        load(target, &program, &mut file)?;
        drop(file);
        self.fill(unfinished, entry, &program, life, restarts)
            .map_err(Cause::Refused)
    }

    fn fill(
        &self,
        mut unfinished: Unfinished,
        entry: &Entry<'static>,
        program: &Program,
        life: Life,
        restarts: u32,
    ) -> Result<Alive, Error> {
        let task = unfinished.task()?;
        let target = task.handle();
        let stack = Memory::create(entry.stack)?;
        let stack_start = STACK_END - entry.stack;
        map_into(target, &stack, stack_start, 0, entry.stack, Access::Write)?;
        if entry.heap > 0 {
            let heap = Memory::create(entry.heap)?;
            map_into(target, &heap, HEAP_START, 0, entry.heap, Access::Write)?;
        }
        let (memory, log) = Log::make(entry.name)?;
        map_into(
            target,
            &memory,
            LOG_ADDRESS,
            0,
            LogMemory::BYTES,
            Access::Write,
        )?;
        self.write_startup(task, entry, life.task, restarts)?;
        start(target, entry, program.entry)?;
        let segments: u64 = program.segments.iter().map(|segment| segment.bytes).sum();
        let task = unfinished.0.take().ok_or(Error::Destroyed)?;
        Ok(Alive {
            task,
            stack,
            log,
            paid_bytes: segments + entry.stack + entry.heap,
            stop_bell: None,
        })
    }

    /// Grants the task its handles and maps the startup block that names them.
    fn write_startup(
        &self,
        task: &Task,
        entry: &Entry<'static>,
        position: u16,
        restarts: u32,
    ) -> Result<(), Error> {
        let list = authority::of(entry, position, self.services);
        let handles = self.grant_all(task, &list)?;
        let mut startup = Startup {
            name: entry.name,
            restarts,
            heap: Range {
                start: HEAP_START,
                bytes: entry.heap,
            },
            stack: Range {
                start: STACK_END - entry.stack,
                bytes: entry.stack,
            },
            log: LogMemory {
                range: Range {
                    start: LOG_ADDRESS,
                    bytes: LogMemory::BYTES,
                },
                bits: log_bit(position),
            },
            ..Startup::default()
        };
        for (given, handle) in list.iter().zip(handles) {
            let name = given.name.as_str();
            let named = NamedHandle { name, handle };
            startup.handles.push(named).map_err(|_| Error::TableFull)?;
        }
        for argument in &entry.arguments {
            let argument = Argument {
                name: argument.name,
                value: argument.value,
            };
            // As many fit as the manifest can have.
            let _ = startup.arguments.push(argument);
        }
        map_startup(task, &startup)
    }

    fn grant_all(&self, task: &Task, list: &[Given]) -> Result<Vec<Handle>, Error> {
        let mut interrupts = None;
        list.iter()
            .map(|given| self.grant(task, given, &mut interrupts))
            .collect()
    }

    /// Makes the object where there is none yet, and grants a handle to it. Init keeps no handle to
    /// what it made for the task alone.
    fn grant(
        &self,
        task: &Task,
        given: &Given,
        interrupts: &mut Option<Notification>,
    ) -> Result<Handle, Error> {
        let control = init_handles::DEVICE_CONTROL;
        let grant = |handle| task.grant(handle, given.rights);
        match given.object {
            Object::Task => grant(task.handle()),
            Object::Supervisor(client) => {
                let badged = OwnedHandle::new(mint(self.endpoint, client.badge())?);
                grant(badged.get())
            }
            Object::LogBell => grant(self.bell.handle()),
            Object::Serve(at) => grant(self.public(at)?.handle()),
            Object::Use(at, client) => grant(self.public(at)?.mint(client.badge())?.handle()),
            Object::IoPorts { first, count } => {
                grant(IoPorts::create(control, first, u32::from(count))?.handle())
            }
            Object::InterruptBell => {
                let bell = Notification::create()?;
                let handle = grant(bell.handle());
                *interrupts = Some(bell);
                handle
            }
            Object::Interrupt { input, bits } => {
                let bell = interrupts.as_ref().ok_or(Error::InvalidArgument)?;
                let trigger = Trigger::default();
                let made = Interrupt::line(control, input, bell.handle(), bits, trigger)?;
                grant(made.handle())
            }
            Object::DeviceControl => grant(control),
            Object::SchedControl => grant(init_handles::SCHED_CONTROL),
            Object::SystemControl => grant(init_handles::SYSTEM_CONTROL),
            Object::Trace => grant(init_handles::TRACE),
        }
    }

    fn public(&self, at: usize) -> Result<&Endpoint, Error> {
        self.public
            .get(at)
            .and_then(Option::as_ref)
            .ok_or(Error::Closed)
    }
}

/// A task that is destroyed unless it is taken out.
struct Unfinished(Option<Task>);

impl Unfinished {
    fn task(&self) -> Result<&Task, Error> {
        self.0.as_ref().ok_or(Error::Destroyed)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            // Init made it and has every right to it.
            let _ = task.destroy();
        }
    }
}

/// Puts a program into a task: all of it is written, and known to be whole, before the task sees any of it.
fn load(task: Handle, program: &Program, file: &mut Unpacking) -> Result<(), Cause<'static>> {
    let mut segments: Vec<(&Segment, Memory, Mapping)> = Vec::new();
    for segment in &program.segments {
        let memory = Memory::create(segment.bytes).map_err(Cause::Refused)?;
        let window = Mapping::whole(&memory, Access::Write).map_err(Cause::Refused)?;
        segments.push((segment, memory, window));
    }
    loop {
        for (segment, _, window) in &segments {
            if let Some((offset, part)) = segment.part(file.position(), file.part()) {
                // It fits, as the program was checked.
                let written = window.write(offset as usize, part);
                written.ok_or(Cause::Refused(Error::InvalidArgument))?;
            }
        }
        if !file.go_on()? {
            break;
        }
    }
    for (segment, memory, window) in segments {
        drop(window);
        let access = match (segment.write, segment.execute) {
            (true, _) => Access::Write,
            (false, true) => Access::Execute,
            (false, false) => Access::Read,
        };
        map_into(task, &memory, segment.address, 0, segment.bytes, access)
            .map_err(Cause::Refused)?;
    }
    Ok(())
}

fn map_startup(task: &Task, startup: &Startup<'_>) -> Result<(), Error> {
    let bytes = STARTUP_BYTES as u64;
    let mut block = [0; STARTUP_BYTES];
    let length = startup
        .encode(&mut block)
        .map_err(|_| Error::InvalidArgument)?;
    let memory = Memory::create(bytes)?;
    let window = Mapping::new(&memory, 0, bytes, Access::Write)?;
    window
        .write(0, block.get(..length).unwrap_or(&block))
        .ok_or(Error::InvalidArgument)?;
    drop(window);
    map_into(
        task.handle(),
        &memory,
        STARTUP_ADDRESS,
        0,
        bytes,
        Access::Read,
    )
}

fn start(task: Handle, entry: &Entry<'_>, address: u64) -> Result<(), Error> {
    let block = thread_block(STACK_END);
    let beginning = Beginning {
        entry: address,
        stack_pointer: block,
        argument: STARTUP_ADDRESS,
        fs_base: block,
        priority: entry.priority,
        fpu: false,
    };
    let (thread, _) = Thread::create(task, beginning)?;
    if entry.affinity != u64::MAX {
        thread.set_affinity(entry.affinity)?;
    }
    thread.start()
}
