//! What init answers: the supervisor's interface.

use core::time::Duration;

use init::badge::Sender;
use init::supervisor::{KillError, State};
use ipc::Handle;
use ipc::badge::Client;
use ipc::info::{CpuInfo, TaskInfo};
use ipc::interface::supervisor::{
    GRANT_KILL, GRANT_LOG, GRANT_POWER, HEARTBEAT_MIN_MS, LOG_BYTES_PER_REPLY, LogPiece,
    PowerAction, SupervisorError, SupervisorServer, SystemReport, TASKS_PER_REPLY, TaskList,
    TaskState, TaskStatus, TimeReport,
};
use ipc::layout::init_handles;
use ipc::manifest::INIT_SERVICE;
use ipc::server::Caller;
use runtime::{Notification, clock, system as kernel, task};

use crate::maker::StopBell;
use crate::system::{Shown, System, counters};

/// Who calls.
fn client(caller: &Caller<'_>) -> Client {
    match Sender::from_badge(caller.badge()) {
        Sender::Client(client) => client,
        Sender::Kernel(_) => Client::NOBODY,
    }
}

fn need(caller: &Caller<'_>, grant: u32) -> Result<(), SupervisorError> {
    if client(caller).may(grant) {
        Ok(())
    } else {
        Err(SupervisorError::NotPermitted)
    }
}

impl System {
    /// A line of `ps` for init itself.
    fn own_status(&self) -> TaskStatus {
        let info = task::info(init_handles::TASK).unwrap_or_default();
        let carved: u64 = self.alive.iter().flatten().map(paid_for).sum();
        let mut status = status(INIT_SERVICE, TaskState::Running, &info);
        status.used_bytes = info.used_bytes.saturating_sub(carved);
        status
    }

    /// A line of `ps` for a task of the manifest.
    fn status_of(&self, position: usize) -> Option<TaskStatus> {
        let known = self.supervisor.status(position)?;
        let entry = self.entries.get(position)?;
        let state = match known.state {
            State::Running { .. } => TaskState::Running,
            State::Ended => TaskState::Ended,
            State::GivenUp => TaskState::GivenUp,
            State::Waiting { .. } | State::Starting | State::Ending { .. } => TaskState::BackingOff,
        };
        let alive = self.alive.get(position)?.as_ref();
        let info = alive.and_then(|alive| alive.task.info().ok());
        let mut status = status(known.name, state, &info.unwrap_or_default());
        status.restarts = known.restarts;
        status.quota_bytes = entry.memory;
        status.used_bytes += alive.map_or(0, |alive| alive.paid_bytes);
        if alive.is_none() {
            status.priority = entry.priority;
        }
        Some(status)
    }
}

/// What of init's own quota is a task's.
fn paid_for(alive: &crate::maker::Alive) -> u64 {
    let quota = alive.task.info().map_or(0, |info| info.quota_bytes);
    quota + alive.paid_bytes
}

fn status(name: &str, state: TaskState, info: &TaskInfo) -> TaskStatus {
    TaskStatus {
        name: name.try_into().unwrap_or_default(),
        number: info.number,
        state,
        restarts: 0,
        priority: u8::try_from(info.priority).unwrap_or(u8::MAX),
        threads: u32::try_from(info.threads).unwrap_or(u32::MAX),
        handles: u32::try_from(info.handles).unwrap_or(u32::MAX),
        quota_bytes: info.quota_bytes,
        used_bytes: info.used_bytes,
        cpu_time_ns: info.cpu_time_ns,
        root: info.root,
    }
}

impl SupervisorServer for System {
    fn tasks(&mut self, _: &mut Caller<'_>, first: u16) -> Result<TaskList, SupervisorError> {
        let total = self.entries.len() + 1;
        let mut list = TaskList {
            total: u16::try_from(total).unwrap_or(u16::MAX),
            ..TaskList::default()
        };
        for position in usize::from(first)..total {
            let status = match position.checked_sub(1) {
                None => Some(self.own_status()),
                Some(position) => self.status_of(position),
            };
            let room = list.tasks.len() < TASKS_PER_REPLY;
            match status {
                // There is room, as just seen.
                Some(status) if room => drop(list.tasks.push(status)),
                _ => break,
            }
        }
        Ok(list)
    }

    fn kill(&mut self, caller: &mut Caller<'_>, name: &str) -> Result<(), SupervisorError> {
        need(caller, GRANT_KILL)?;
        if name == INIT_SERVICE {
            return Err(SupervisorError::NotRestartable);
        }
        self.supervisor.kill(name).map_err(|error| match error {
            KillError::Unknown => SupervisorError::NoSuchTask,
            KillError::NotRunning => SupervisorError::NotRunning,
        })?;
        self.act();
        Ok(())
    }

    fn power(
        &mut self,
        caller: &mut Caller<'_>,
        action: PowerAction,
    ) -> Result<(), SupervisorError> {
        need(caller, GRANT_POWER)?;
        self.stop(action);
        Ok(())
    }

    fn time(&mut self, _: &mut Caller<'_>) -> Result<TimeReport, SupervisorError> {
        let mut name = [0; 24];
        let source = kernel::clock_source(init_handles::SYSTEM_CONTROL, &mut name);
        let source = source.ok().and_then(|name| core::str::from_utf8(name).ok());
        Ok(TimeReport {
            monotonic_ns: clock::now(),
            wall_ns: clock::wall(),
            source: source.unwrap_or("").try_into().unwrap_or_default(),
        })
    }

    fn system(&mut self, _: &mut Caller<'_>) -> Result<SystemReport, SupervisorError> {
        let mut line = [0; 256];
        let line = kernel::command_line(init_handles::SYSTEM_CONTROL, &mut line);
        let line = line.ok().and_then(|line| core::str::from_utf8(line).ok());
        Ok(SystemReport {
            version: env!("CARGO_PKG_VERSION").try_into().unwrap_or_default(),
            command_line: line.unwrap_or("").try_into().unwrap_or_default(),
            counters: counters(),
        })
    }

    fn cpu(&mut self, _: &mut Caller<'_>, cpu: u16) -> Result<CpuInfo, SupervisorError> {
        kernel::cpu(init_handles::SYSTEM_CONTROL, u64::from(cpu))
            .map_err(|_| SupervisorError::NoSuchCpu)
    }

    fn heartbeat(
        &mut self,
        caller: &mut Caller<'_>,
        period_ms: u32,
    ) -> Result<(), SupervisorError> {
        if period_ms != 0 && period_ms < HEARTBEAT_MIN_MS {
            return Err(SupervisorError::OutOfRange);
        }
        if let Some(position) = usize::from(client(caller).task).checked_sub(1) {
            self.watch(position, Duration::from_millis(u64::from(period_ms)));
        }
        Ok(())
    }

    fn log(&mut self, caller: &mut Caller<'_>, from: u64) -> Result<LogPiece, SupervisorError> {
        need(caller, GRANT_LOG)?;
        let (position, bytes) = self.journal.read(from, LOG_BYTES_PER_REPLY);
        if let Some(shown) = &mut self.shown
            && shown.task == client(caller).task
        {
            shown.read = position + bytes.len() as u64;
        }
        Ok(LogPiece {
            position,
            bytes: bytes.into_iter().collect(),
        })
    }

    fn show_log(
        &mut self,
        caller: &mut Caller<'_>,
        bits: u64,
        bell: Handle,
    ) -> Result<u64, SupervisorError> {
        // Owned, so that every way out of here closes it.
        let bell = Notification::from_handle(bell);
        need(caller, GRANT_LOG)?;
        self.take_log_back();
        let read = self.journal.end();
        self.shown = Some(Shown {
            task: client(caller).task,
            bell,
            bits,
            read,
        });
        Ok(read)
    }

    fn stop_bell(
        &mut self,
        caller: &mut Caller<'_>,
        bits: u64,
        bell: Handle,
    ) -> Result<(), SupervisorError> {
        // Owned, so that it is closed where the caller is no task of the manifest.
        let bell = Notification::from_handle(bell);
        let position = usize::from(client(caller).task).checked_sub(1);
        let alive = position.and_then(|position| self.alive.get_mut(position));
        if let Some(Some(alive)) = alive {
            alive.stop_bell = Some(StopBell { bell, bits });
        }
        Ok(())
    }

    fn stopped(&mut self, caller: &mut Caller<'_>) -> Result<(), SupervisorError> {
        let position = usize::from(client(caller).task).checked_sub(1);
        if let Some(life) = position.and_then(|position| self.supervisor.life(position)) {
            self.supervisor.stopped(life);
        }
        Ok(())
    }
}
