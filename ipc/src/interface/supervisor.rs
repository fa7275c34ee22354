//! Init, the supervisor: what runs, what it costs, stopping it, and the machine's power.

use super::{interface, service_errors};
use crate::Rights;
use crate::info::{CpuInfo, SystemInfo};
use serde::{Deserialize, Serialize};

/// Grant in the manifest: the client may kill tasks.
pub const GRANT_KILL: u32 = 1 << 0;
/// Grant in the manifest: the client may halt and reboot the machine.
pub const GRANT_POWER: u32 = 1 << 1;
/// Grant in the manifest: the client may read other tasks' log lines, and show them in init's place.
pub const GRANT_LOG: u32 = 1 << 2;

/// Longest name of a task in bytes.
pub const TASK_NAME_BYTES: usize = crate::manifest::MAX_NAME;
/// Largest number of tasks in one reply of [`SupervisorClient::tasks`].
pub const TASKS_PER_REPLY: usize = 16;
/// Largest number of bytes in one reply of [`SupervisorClient::log`].
pub const LOG_BYTES_PER_REPLY: usize = 2048;
/// Shortest period of [`SupervisorClient::heartbeat`] in milliseconds.
pub const HEARTBEAT_MIN_MS: u32 = 100;

/// A task's name.
pub type TaskName = heapless::String<TASK_NAME_BYTES>;

/// What a task is doing, as the supervisor sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskState {
    /// It runs.
    Running,
    /// It ended and will be started again when its back-off is over.
    BackingOff,
    /// It ended, and its restart policy leaves it so.
    Ended,
    /// It ended so often that the supervisor gave it up; its public endpoints are closed.
    GivenUp,
}

/// One line of `ps`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStatus {
    /// Name, as in the manifest.
    pub name: TaskName,
    /// The kernel's number of this instance, unique since boot; 0 while none runs.
    pub number: u64,
    /// What it is doing.
    pub state: TaskState,
    /// How often it was started again.
    pub restarts: u32,
    /// Largest priority among its threads, 0 to 63.
    pub priority: u8,
    /// Threads alive.
    pub threads: u32,
    /// Open handles.
    pub handles: u32,
    /// Quota in bytes.
    pub quota_bytes: u64,
    /// Bytes of the quota in use.
    pub used_bytes: u64,
    /// CPU time of this instance in nanoseconds.
    pub cpu_time_ns: u64,
    /// Physical address of the page-table root; 0 while none runs.
    pub root: u64,
}

/// A part of the list of tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskList {
    /// Number of tasks in all.
    pub total: u16,
    /// The tasks from the position asked for, in the manifest's order, init first.
    pub tasks: heapless::Vec<TaskStatus, TASKS_PER_REPLY>,
}

/// What `power` does to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PowerAction {
    /// Stops it, and switches it off where it can be.
    Halt,
    /// Starts it again.
    Reboot,
}

/// The machine's time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeReport {
    /// Nanoseconds since boot.
    pub monotonic_ns: u64,
    /// Nanoseconds since 1970-01-01 UTC; `None` where the machine has no wall clock.
    pub wall_ns: Option<u64>,
    /// Name of the clock source.
    pub source: heapless::String<24>,
}

/// The system as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SystemReport {
    /// Version of the system.
    pub version: heapless::String<32>,
    /// The kernel's command line, cut at 256 bytes.
    pub command_line: heapless::String<256>,
    /// Counters and sizes.
    pub counters: SystemInfo,
}

/// A piece of the joined log of all tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPiece {
    /// Position of the first byte given, later than asked where older ones are gone.
    pub position: u64,
    /// The bytes: lines, each beginning with the name of its task. Empty at the end of the log.
    pub bytes: heapless::Vec<u8, LOG_BYTES_PER_REPLY>,
}

interface! {
    /// The supervisor. The handle that a task gets from init is a session at once: no `connect`.
    Supervisor = 2, client SupervisorClient, server SupervisorServer, error SupervisorError;

    /// Lists tasks.
    ///
    /// Arguments: `first` position of the first task wanted, from 0. Result: up to 16 tasks and the
    /// number of all; empty past the end. Errors: none of its own. Cost: one call, and two system
    /// calls of init for each task given.
    ///
    /// Example: `for task in supervisor.tasks(deadline, 0)?.tasks { .. }`
    1 fn tasks(first: u16) -> TaskList;

    /// Ends a task as if it had faulted; the restart policy then does what it says.
    ///
    /// Arguments: `name` the task's. Result: none; the task has stopped running, and its memory
    /// comes back soon after. Errors: NotPermitted, NoSuchTask, NotRunning, NotRestartable (init).
    /// Cost: one call and the destruction of the task, some milliseconds where it is large.
    ///
    /// Example: `supervisor.kill(deadline, "virtio-net")?;`
    2 fn kill(name: &str) -> ();

    /// Halts or reboots the machine, once the tasks are stopped: first those that nobody uses, then
    /// what only they used, and so on. One that asked for it (`stop_bell`) is told, and has 1.5 s to
    /// finish; all of them together have 7 s.
    ///
    /// Arguments: `action`. Result: none; the tasks are being stopped, the caller among them, and no
    /// death of the caller changes that. The first action counts: while the system stops, others do
    /// nothing. Errors: NotPermitted. Cost: everything.
    ///
    /// Example: `supervisor.power(deadline, PowerAction::Halt)?;`
    3 fn power(action: PowerAction) -> ();

    /// Tells the time and where it comes from. A task reads the time itself from the clock page;
    /// this adds the name of the source.
    ///
    /// Arguments: none. Result: the time. Errors: none of its own. Cost: one call.
    ///
    /// Example: `let now = supervisor.time(deadline)?.wall_ns;`
    4 fn time() -> TimeReport;

    /// Tells the system's version, command line and counters.
    ///
    /// Arguments: none. Result: the report, a snapshot that may be torn between two counters.
    /// Errors: none of its own. Cost: one call and three system calls of init.
    ///
    /// Example: `let free = supervisor.system(deadline)?.counters.frames_free;`
    5 fn system() -> SystemReport;

    /// Tells the counters of one CPU.
    ///
    /// Arguments: `cpu` from 0. Result: the counters. Errors: NoSuchCpu. Cost: one call.
    ///
    /// Example: `let steals = supervisor.cpu(deadline, 0)?.steals;`
    6 fn cpu(cpu: u16) -> CpuInfo;

    /// Asks to be watched: from now on the task increments the heartbeat word of its log memory
    /// (see `startup::LogMemory`) at least once a period, and is ended as if it had faulted when two
    /// periods go by without.
    ///
    /// Arguments: `period_ms` milliseconds, at least 100; 0 ends the watch. Result: none. Errors:
    /// OutOfRange. Cost: one call; afterwards a memory write a period for the task and a timer for
    /// init.
    ///
    /// Example: `supervisor.heartbeat(deadline, 5_000)?;`
    7 fn heartbeat(period_ms: u32) -> ();

    /// Reads the joined log of all tasks. Tasks write theirs into a ring of their own, which init
    /// gives them at their start; init joins them.
    ///
    /// Arguments: `from` a position: 0 for the oldest byte kept, later the end of the last piece.
    /// Result: at most 2,048 bytes; empty when there is nothing newer. Errors: NotPermitted. Cost:
    /// one call and a copy.
    ///
    /// Example: `let piece = supervisor.log(deadline, 0)?;`
    8 fn log(from: u64) -> LogPiece;

    /// Shows the log in init's place: until the caller's task ends, init writes no line to the
    /// kernel's log, and signals the caller after each. What it has not read by then init writes
    /// itself. A later caller takes the place over.
    ///
    /// Arguments: `bits` what to signal. Handles: `bell` the caller's notification. Result: the
    /// position from which on to read; everything before was shown. Errors: NotPermitted. Cost: one
    /// call; afterwards a signal a line.
    ///
    /// Example: `let position = supervisor.show_log(deadline, 1, bell)?;`
    9 fn show_log(bits: u64) [bell: copied(Rights::SIGNAL)] -> u64;

    /// Asks to be told before the system stops: init then signals the caller, which finishes what
    /// must not be cut off and calls `stopped`. A task that did not ask for it is ended without a word.
    ///
    /// Arguments: `bits` what to signal. Handles: `bell` the caller's notification; a later one takes
    /// its place. Result: none. Errors: none of its own. Cost: one call.
    ///
    /// Example: `supervisor.stop_bell(deadline, 1, bell)?;`
    10 fn stop_bell(bits: u64) [bell: copied(Rights::SIGNAL)] -> ();

    /// Says that the caller, which was told to stop, has finished; init ends it then. Before it was
    /// told this does nothing.
    ///
    /// Arguments: none. Result: does not come as a rule: the task is ended. Errors: none of its own.
    /// Cost: one call and the destruction of the task.
    ///
    /// Example: `supervisor.stopped(deadline)?;`
    11 fn stopped() -> ();
}

service_errors! {
    /// The supervisor's own errors.
    SupervisorError {
        /// The manifest does not grant this to the caller.
        NotPermitted = "the system manifest does not permit this",
        /// The manifest has no task of the name.
        NoSuchTask = "there is no task of this name",
        /// The task does not run at the moment.
        NotRunning = "the task is not running",
        /// Init cannot be ended.
        NotRestartable = "this task cannot be restarted",
        /// The machine has fewer CPUs.
        NoSuchCpu = "there is no such CPU",
        /// An argument is out of its documented range.
        OutOfRange = "an argument is out of range",
    }
}
