//! The supervisor: which task lives, which is to be started, destroyed or given up, and when.
//!
//! A state machine without mechanism. Events go in by its methods; what is to be done comes out of
//! [`Supervisor::next_action`] and must be done in that order. Times are those of the monotonic
//! clock.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::time::Duration;

use ipc::info::FaultMessage;
use ipc::manifest::{Restart, Task};

use crate::back_off::{BackOff, Kind, Verdict};
use crate::badge::Life;
use crate::report::{Cause, Report};
use crate::shutdown::Order;

mod stopping;

use stopping::Shutdown;

/// What is to be done; tasks are named by their position in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// Make the task and start it, with this life's badge; then call [`Supervisor::started`] or
    /// [`Supervisor::start_failed`].
    Start(Life),
    /// Destroy the task of this life.
    Destroy(Life),
    /// Close what was kept for the task: it will not live again.
    GiveUp(usize),
    /// Tell the task of this life that it is to stop; then call [`Supervisor::stopped`] if it asked for
    /// no word of it, else when it says that it has finished.
    Stop(Life),
    /// Tell this.
    Report(Report<'a>),
    /// Stop the machine: there is nothing left to wait for.
    PowerOff,
}

/// What a task is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State<'a> {
    /// It is to be started at this time.
    Waiting {
        /// When.
        at: Duration,
    },
    /// It is being made.
    Starting,
    /// It lives.
    Running {
        /// Since when.
        since: Duration,
    },
    /// It was destroyed, and the kernel is reclaiming it.
    Ending {
        /// Since when it lived.
        since: Duration,
        /// Why it dies.
        cause: Cause<'a>,
    },
    /// It died, and the manifest says that it stays away.
    Ended,
    /// It will not live again, because it failed too often or can never live.
    GivenUp,
}

/// One task of the manifest.
#[derive(Debug)]
struct Entry<'a> {
    name: &'a str,
    restart: Restart,
    restart_with: Vec<&'a str>,
    state: State<'a>,
    back_off: BackOff,
    life: u32,
    restarts: u32,
    /// It was told to stop, and may take until then.
    told: Option<Duration>,
}

/// What is known about a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status<'a> {
    /// Its name.
    pub name: &'a str,
    /// What it is doing.
    pub state: State<'a>,
    /// How often it was started again.
    pub restarts: u32,
}

/// The supervisor of a manifest's tasks.
#[derive(Debug)]
pub struct Supervisor<'a> {
    entries: Vec<Entry<'a>>,
    actions: VecDeque<Action<'a>>,
    order: Order,
    shutdown: Option<Shutdown>,
}

/// Why a task cannot be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillError {
    /// There is no task of that name.
    Unknown,
    /// It does not live at the moment.
    NotRunning,
}

impl<'a> Supervisor<'a> {
    /// All tasks wait to be started at once, in the manifest's order.
    pub fn new(tasks: &[Task<'a>]) -> Self {
        let entries = tasks
            .iter()
            .map(|task| Entry {
                name: task.name,
                restart: task.restart,
                restart_with: task.restart_with.iter().copied().collect(),
                state: State::Waiting { at: Duration::ZERO },
                back_off: BackOff::default(),
                life: 0,
                restarts: 0,
                told: None,
            })
            .collect();
        Self {
            entries,
            actions: VecDeque::new(),
            order: Order::of(tasks),
            shutdown: None,
        }
    }

    /// The next thing to do.
    pub fn next_action(&mut self) -> Option<Action<'a>> {
        self.actions.pop_front()
    }

    /// What is known about a task.
    pub fn status(&self, task: usize) -> Option<Status<'a>> {
        self.entries.get(task).map(|entry| Status {
            name: entry.name,
            state: entry.state,
            restarts: entry.restarts,
        })
    }

    /// When [`Supervisor::tick`] is next needed.
    pub fn next_deadline(&self) -> Option<Duration> {
        if let Some(shutdown) = self.shutdown {
            return self.next_stop(shutdown);
        }
        let waiting = self.entries.iter().filter_map(|entry| match entry.state {
            State::Waiting { at } => Some(at),
            _ => None,
        });
        waiting.min()
    }

    /// Starts what is due; once the system stops, stops what is to be stopped next.
    pub fn tick(&mut self, now: Duration) {
        if self.shutdown.is_some() {
            return self.stop_next(now);
        }
        for (task, entry) in self.entries.iter_mut().enumerate() {
            if matches!(entry.state, State::Waiting { at } if at <= now) {
                entry.state = State::Starting;
                self.actions.push_back(Action::Start(entry.life(task)));
            }
        }
    }

    /// The task lives.
    pub fn started(&mut self, life: Life, now: Duration) {
        if let Some(entry) = self.present(life)
            && entry.state == State::Starting
        {
            entry.state = State::Running { since: now };
        }
    }

    /// The task could not be made; what there was of it is gone or going.
    pub fn start_failed(&mut self, life: Life, cause: Cause<'a>, now: Duration) {
        let starting = self.present(life).map(|entry| entry.state) == Some(State::Starting);
        if starting {
            self.bury(usize::from(life.task), cause, Duration::ZERO, now);
        }
    }

    /// A thread of the task faulted. False if it is a life of the past.
    pub fn faulted(&mut self, life: Life, message: FaultMessage) -> bool {
        self.end(life, Cause::Fault(message))
    }

    /// The task does not answer any more.
    pub fn silent(&mut self, task: usize) {
        if let Some(life) = self.entries.get(task).map(|entry| entry.life(task)) {
            self.end(life, Cause::Silent);
        }
    }

    /// Whether this is the task's present life.
    pub fn is_present(&self, life: Life) -> bool {
        let entry = self.entries.get(usize::from(life.task));
        entry.is_some_and(|entry| entry.life == life.number)
    }

    /// The kernel reclaimed the task: its badge is closed.
    pub fn closed(&mut self, life: Life, now: Duration) {
        let (cause, since) = match self.present(life).map(|entry| entry.state) {
            Some(State::Running { since }) => (Cause::Ended, since),
            Some(State::Ending { since, cause }) => (cause, since),
            _ => return,
        };
        self.bury(usize::from(life.task), cause, since, now);
    }

    /// Somebody wants the task dead.
    pub fn kill(&mut self, name: &str) -> Result<(), KillError> {
        let task = self
            .entries
            .iter()
            .position(|entry| entry.name == name)
            .ok_or(KillError::Unknown)?;
        let life = self.entries[task].life(task);
        if self.end(life, Cause::Killed) {
            Ok(())
        } else {
            Err(KillError::NotRunning)
        }
    }

    /// The entry of a life, unless it is a life of the past.
    fn present(&mut self, life: Life) -> Option<&mut Entry<'a>> {
        let entry = self.entries.get_mut(usize::from(life.task))?;
        (entry.life == life.number).then_some(entry)
    }

    /// Destroys a running task.
    fn end(&mut self, life: Life, cause: Cause<'a>) -> bool {
        let Some(entry) = self.present(life) else {
            return false;
        };
        let State::Running { since } = entry.state else {
            return false;
        };
        entry.state = State::Ending { since, cause };
        self.actions.push_back(Action::Destroy(life));
        true
    }

    /// A task is no more: decides what comes after it.
    fn bury(&mut self, task: usize, cause: Cause<'a>, since: Duration, now: Duration) {
        if self.shutdown.is_some() {
            return self.bury_for_good(task, cause, now);
        }
        let entry = &mut self.entries[task];
        let name = entry.name;
        let lived = now.saturating_sub(since);
        // A failed start was no life at all, however long ago the last one began.
        let lived = match cause {
            Cause::Refused(_) | Cause::NoProgram | Cause::Packed(_) | Cause::Program(_) => {
                Duration::ZERO
            }
            _ => lived,
        };
        let verdict = match (entry.restart, cause.is_permanent()) {
            (_, true) => None,
            (Restart::Never, _) => None,
            (Restart::Always, false) => Some(entry.back_off.died(lived, kind(&cause))),
        };
        let report = match verdict {
            Some(Verdict::Restart(delay)) => {
                entry.life += 1;
                entry.restarts += 1;
                entry.state = State::Waiting { at: now + delay };
                Report::Restart {
                    task: name,
                    cause,
                    number: entry.restarts,
                    delay,
                }
            }
            Some(Verdict::GiveUp) => Report::GivenUp { task: name, cause },
            None if cause.is_permanent() => Report::GivenUp { task: name, cause },
            None => Report::Gone { task: name, cause },
        };
        self.actions.push_back(Action::Report(report));
        if !matches!(report, Report::Restart { .. }) {
            self.entries[task].state = match report {
                Report::Gone { .. } => State::Ended,
                _ => State::GivenUp,
            };
            self.actions.push_back(Action::GiveUp(task));
        }
        self.end_companions(name);
    }

    /// Destroys what is restarted together with the task of this name.
    fn end_companions(&mut self, name: &'a str) {
        for task in 0..self.entries.len() {
            let entry = &self.entries[task];
            if entry.restart_with.contains(&name) {
                let life = entry.life(task);
                self.end(life, Cause::Companion(name));
            }
        }
    }
}

impl Entry<'_> {
    /// The present life of this entry, which is the manifest's task number `task`.
    fn life(&self, task: usize) -> Life {
        Life {
            // A packed manifest has at most 65,535 tasks.
            task: task as u16,
            number: self.life,
        }
    }
}

/// Whose doing a death was.
const fn kind(cause: &Cause<'_>) -> Kind {
    match cause {
        Cause::Killed | Cause::Stopped => Kind::Request,
        Cause::Companion(_) => Kind::Companion,
        Cause::Fault(_)
        | Cause::Ended
        | Cause::Silent
        | Cause::Program(_)
        | Cause::Packed(_)
        | Cause::NoProgram
        | Cause::Refused(_) => Kind::Failure,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{Action, KillError, State, Supervisor};
    use crate::back_off::{FIRST_DELAY, MOST_FAILURES, QUIET};
    use crate::badge::Life;
    use crate::program::ProgramError;
    use crate::report::{Cause, Report};
    use crate::services::tests::task;
    use core::time::Duration;
    use ipc::info::FaultMessage;
    use ipc::manifest::{Restart, Task};

    pub(super) const NOW: Duration = Duration::from_secs(1);

    pub(super) fn life(task: u16, number: u32) -> Life {
        Life { task, number }
    }

    pub(super) fn actions<'a>(supervisor: &mut Supervisor<'a>) -> Vec<Action<'a>> {
        core::iter::from_fn(|| supervisor.next_action()).collect()
    }

    /// A supervisor whose tasks all run since `NOW`.
    pub(super) fn running<'a>(tasks: &[Task<'a>]) -> Supervisor<'a> {
        let mut supervisor = Supervisor::new(tasks);
        supervisor.tick(NOW);
        for action in actions(&mut supervisor) {
            let Action::Start(life) = action else {
                panic!("only starts are due");
            };
            supervisor.started(life, NOW);
        }
        supervisor
    }

    fn two() -> [Task<'static>; 2] {
        [task("pci", &[], &[]), task("net", &[], &["pci"])]
    }

    #[test]
    fn tasks_start_in_the_manifest_s_order() {
        let mut supervisor = Supervisor::new(&two());
        assert_eq!(supervisor.next_deadline(), Some(Duration::ZERO));
        supervisor.tick(Duration::ZERO);
        assert_eq!(
            actions(&mut supervisor),
            [Action::Start(life(0, 0)), Action::Start(life(1, 0))]
        );
        assert_eq!(supervisor.next_deadline(), None);
        supervisor.tick(NOW);
        assert_eq!(actions(&mut supervisor), [], "nothing is started twice");
    }

    #[test]
    fn a_killed_task_is_destroyed_reported_and_started_again() {
        let mut supervisor = running(&two());
        assert_eq!(supervisor.kill("net"), Ok(()));
        assert_eq!(
            actions(&mut supervisor),
            [Action::Destroy(life(1, 0))],
            "nothing is said or started before the kernel reclaimed it"
        );
        assert_eq!(supervisor.kill("net"), Err(KillError::NotRunning));
        supervisor.closed(life(1, 0), NOW);
        let report = Report::Restart {
            task: "net",
            cause: Cause::Killed,
            number: 1,
            delay: Duration::ZERO,
        };
        assert_eq!(actions(&mut supervisor), [Action::Report(report)]);
        supervisor.tick(NOW);
        assert_eq!(actions(&mut supervisor), [Action::Start(life(1, 1))]);
    }

    #[test]
    fn the_second_restart_waits() {
        let mut supervisor = running(&two());
        for number in 0..2 {
            supervisor.kill("net").unwrap();
            supervisor.closed(life(1, number), NOW);
            actions(&mut supervisor);
            let due = supervisor.next_deadline().unwrap();
            assert_eq!(due, NOW + FIRST_DELAY * number);
            supervisor.tick(due);
            assert_eq!(
                actions(&mut supervisor),
                [Action::Start(life(1, number + 1))]
            );
            supervisor.started(life(1, number + 1), NOW);
        }
    }

    #[test]
    fn a_fault_is_the_cause_and_later_ones_of_that_life_do_nothing() {
        let mut supervisor = running(&two());
        let message = FaultMessage {
            vector: 6,
            ..FaultMessage::default()
        };
        assert!(supervisor.faulted(life(1, 0), message));
        assert!(!supervisor.faulted(life(1, 0), FaultMessage::default()));
        assert_eq!(actions(&mut supervisor), [Action::Destroy(life(1, 0))]);
        supervisor.closed(life(1, 0), NOW);
        assert!(matches!(
            actions(&mut supervisor)[..],
            [Action::Report(Report::Restart { cause: Cause::Fault(found), .. })] if found == message
        ));
    }

    #[test]
    fn messages_of_past_lives_and_strangers_do_nothing() {
        let mut supervisor = running(&two());
        supervisor.kill("net").unwrap();
        supervisor.closed(life(1, 0), NOW);
        supervisor.tick(NOW);
        supervisor.started(life(1, 1), NOW);
        actions(&mut supervisor);
        supervisor.closed(life(1, 0), NOW);
        supervisor.closed(life(7, 0), NOW);
        assert!(!supervisor.faulted(life(1, 0), FaultMessage::default()));
        assert!(!supervisor.is_present(life(1, 0)) && supervisor.is_present(life(1, 1)));
        supervisor.silent(9);
        assert_eq!(supervisor.kill("nobody"), Err(KillError::Unknown));
        assert_eq!(actions(&mut supervisor), []);
        assert_eq!(
            supervisor.status(1).unwrap().state,
            State::Running { since: NOW }
        );
    }

    #[test]
    fn companions_are_destroyed_with_the_task_they_depend_on() {
        let mut supervisor = running(&two());
        supervisor.kill("pci").unwrap();
        assert_eq!(actions(&mut supervisor), [Action::Destroy(life(0, 0))]);
        supervisor.closed(life(0, 0), NOW);
        let found = actions(&mut supervisor);
        assert!(matches!(
            found[..],
            [
                Action::Report(Report::Restart { task: "pci", .. }),
                Action::Destroy(Life { task: 1, number: 0 })
            ]
        ));
        supervisor.closed(life(1, 0), NOW);
        assert!(matches!(
            actions(&mut supervisor)[..],
            [Action::Report(Report::Restart {
                task: "net",
                cause: Cause::Companion("pci"),
                delay: Duration::ZERO,
                ..
            })]
        ));
    }

    #[test]
    fn a_task_that_dies_alone_leaves_what_it_depends_on_in_peace() {
        let mut supervisor = running(&two());
        supervisor.kill("net").unwrap();
        supervisor.closed(life(1, 0), NOW);
        actions(&mut supervisor);
        assert_eq!(
            supervisor.status(0).unwrap().state,
            State::Running { since: NOW }
        );
    }

    #[test]
    fn a_silent_task_is_destroyed() {
        let mut supervisor = running(&two());
        supervisor.silent(1);
        assert_eq!(actions(&mut supervisor), [Action::Destroy(life(1, 0))]);
    }

    #[test]
    fn a_task_that_never_restarts_stays_away() {
        let mut tasks = two();
        tasks[1].restart = Restart::Never;
        let mut supervisor = running(&tasks);
        supervisor.closed(life(1, 0), NOW);
        let report = Report::Gone {
            task: "net",
            cause: Cause::Ended,
        };
        assert_eq!(
            actions(&mut supervisor),
            [Action::Report(report), Action::GiveUp(1)]
        );
        supervisor.tick(Duration::MAX);
        assert_eq!(actions(&mut supervisor), []);
    }

    #[test]
    fn a_malformed_program_is_given_up_at_once() {
        let mut supervisor = Supervisor::new(&two());
        supervisor.tick(NOW);
        actions(&mut supervisor);
        let cause = Cause::Program(ProgramError::NotElf);
        supervisor.start_failed(life(1, 0), cause, NOW);
        let report = Report::GivenUp { task: "net", cause };
        assert_eq!(
            actions(&mut supervisor),
            [Action::Report(report), Action::GiveUp(1)]
        );
    }

    #[test]
    fn failures_in_a_row_end_with_giving_up_and_a_quiet_life_does_not() {
        let mut supervisor = running(&two());
        let mut now = NOW;
        let mut number = 0;
        let mut lived = |supervisor: &mut Supervisor<'static>, time| {
            supervisor.started(life(0, number), now);
            supervisor.closed(life(0, number), now + time);
            number += 1;
            now = now + time + Duration::from_secs(3);
            supervisor.tick(now);
            actions(supervisor)
        };
        for _ in 0..MOST_FAILURES {
            let done = lived(&mut supervisor, Duration::ZERO);
            assert!(done.iter().any(|action| matches!(action, Action::Start(_))));
        }
        for _ in 0..MOST_FAILURES {
            let done = lived(&mut supervisor, QUIET);
            assert!(!done.contains(&Action::GiveUp(0)));
        }
        for _ in 0..MOST_FAILURES - 1 {
            lived(&mut supervisor, Duration::ZERO);
        }
        assert!(lived(&mut supervisor, Duration::ZERO).contains(&Action::GiveUp(0)));
    }
}
