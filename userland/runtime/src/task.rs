//! Other tasks: making them, giving them handles, reading their counters. Init's business.

use crate::buffer::Buffer;
use crate::handle::owned;
use crate::syscall::invoke;
use crate::system::words;
use ipc::info::TaskInfo;
use ipc::message::NEVER;
use ipc::{Error, Handle, Operation, Rights};

owned! {
    /// A task.
    Task
}

impl Task {
    /// Makes an empty task out of the quota of `maker`. `faults` is the endpoint that hears of its
    /// faults. Errors: those of [`Operation::TaskCreate`].
    pub fn create(
        maker: Handle,
        quota_bytes: u64,
        faults: Option<Handle>,
        largest_priority: u8,
    ) -> Result<Task, Error> {
        let faults = faults.unwrap_or(Handle::NONE);
        let arguments = [
            maker.0,
            quota_bytes,
            faults.0,
            u64::from(largest_priority),
            0,
            0,
        ];
        let [handle, ..] = invoke(Operation::TaskCreate, arguments, NEVER)?;
        Ok(Task::from_handle(Handle(handle)))
    }

    /// Puts a copy of a handle, with at most these rights, into the task's table, and returns its
    /// value there. Errors: those of [`Operation::TaskGrant`].
    pub fn grant(&self, handle: Handle, rights: Rights) -> Result<Handle, Error> {
        let arguments = [self.handle().0, handle.0, u64::from(rights.0), 0, 0, 0];
        invoke(Operation::TaskGrant, arguments, NEVER).map(|results| Handle(results[0]))
    }

    /// Reads the task's counters. Errors: those of [`Operation::TaskInspect`].
    pub fn info(&self) -> Result<TaskInfo, Error> {
        info(self.handle())
    }

    /// Ends the task: its threads have stopped when this returns. Errors: those of
    /// [`Operation::Destroy`].
    pub fn destroy(&self) -> Result<(), Error> {
        crate::handle::destroy(self.handle())
    }
}

/// Reads a task's counters. Errors: those of [`Operation::TaskInspect`].
pub fn info(task: Handle) -> Result<TaskInfo, Error> {
    let mut buffer = Buffer::take()?;
    invoke(Operation::TaskInspect, [task.0, 0, 0, 0, 0, 0], NEVER)?;
    Ok(TaskInfo::from_words(&words(buffer.bytes())))
}
