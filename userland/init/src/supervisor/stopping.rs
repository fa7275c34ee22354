//! The end of the system: the supervisor starts nothing any more, tells tasks to stop in the order that
//! [`crate::shutdown`] gives, destroys what takes too long, and then stops the machine.

use alloc::vec::Vec;
use core::time::Duration;

use crate::badge::Life;
use crate::report::{Cause, Report};
use crate::shutdown::{LIMIT, PATIENCE};

use super::{Action, Entry, State, Supervisor};

/// How far it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shutdown {
    begun: Duration,
    /// There is nothing more to be done.
    over: bool,
}

impl<'a> Supervisor<'a> {
    /// Begins to stop the system. [`Action::PowerOff`] comes at the end, after [`LIMIT`] at the latest.
    /// A system that stops already goes on doing so.
    pub fn stop(&mut self, now: Duration) {
        if self.shutdown.is_some() {
            return;
        }
        self.shutdown = Some(Shutdown {
            begun: now,
            over: false,
        });
        for entry in &mut self.entries {
            if matches!(entry.state, State::Waiting { .. }) {
                entry.state = State::Ended;
            }
        }
        let tasks = self.living();
        self.actions
            .push_back(Action::Report(Report::Stopping { tasks }));
        self.stop_next(now);
    }

    /// Whether the system stops.
    pub const fn is_stopping(&self) -> bool {
        self.shutdown.is_some()
    }

    /// The task that was told to stop has finished, or asked for no word of it.
    pub fn stopped(&mut self, life: Life) {
        if self.present(life).is_some_and(|entry| entry.told.is_some()) {
            self.end(life, Cause::Stopped);
        }
    }

    /// The present life of a task.
    pub fn life(&self, task: usize) -> Option<Life> {
        self.entries.get(task).map(|entry| entry.life(task))
    }

    /// When [`Supervisor::tick`] is next needed.
    pub(super) fn next_stop(&self, shutdown: Shutdown) -> Option<Duration> {
        let running = self.entries.iter().filter(|entry| entry.is_running());
        let due = running.filter_map(|entry| entry.told);
        let due = due.chain([shutdown.begun + LIMIT]).min();
        due.filter(|_| !shutdown.over)
    }

    /// Destroys what has used up its time, tells those to stop whom nobody needs any more, and ends
    /// the machine when none is left.
    pub(super) fn stop_next(&mut self, now: Duration) {
        let Some(Shutdown { begun, over: false }) = self.shutdown else {
            return;
        };
        self.end_overdue(now);
        self.tell_free(now);
        let left = self.living();
        if left == 0 || now >= begun + LIMIT {
            self.shutdown = Some(Shutdown { begun, over: true });
            let time = now.saturating_sub(begun);
            self.actions
                .push_back(Action::Report(Report::Stopped { time, left }));
            self.actions.push_back(Action::PowerOff);
        }
    }

    fn end_overdue(&mut self, now: Duration) {
        for task in 0..self.entries.len() {
            let entry = &self.entries[task];
            let (name, life) = (entry.name, entry.life(task));
            if entry.told.is_some_and(|due| due <= now) && self.end(life, Cause::Stopped) {
                let report = Report::Overdue { task: name };
                self.actions.push_back(Action::Report(report));
            }
        }
    }

    /// Tells those to stop whom nobody needs any more. Where all wait for each other - tasks may be
    /// restarted with each other - nobody comes first, and all are told.
    fn tell_free(&mut self, now: Duration) {
        let lives: Vec<bool> = self.entries.iter().map(Entry::lives).collect();
        let lives = |task: usize| lives.get(task).copied().unwrap_or(false);
        let is_free = |task: usize| self.order.is_free(task, lives);
        let nobody_moves = !(0..self.entries.len())
            .any(|task| lives(task) && (self.entries[task].is_stopping() || is_free(task)));
        let free: Vec<usize> = (0..self.entries.len())
            .filter(|task| nobody_moves || is_free(*task))
            .collect();
        for task in free {
            let entry = &mut self.entries[task];
            if entry.is_running() && entry.told.is_none() {
                entry.told = Some(now + PATIENCE);
                let life = entry.life(task);
                self.actions.push_back(Action::Stop(life));
            }
        }
    }

    /// A task is no more. An end as it was asked for is not worth a line.
    pub(super) fn bury_for_good(&mut self, task: usize, cause: Cause<'a>, now: Duration) {
        let entry = &mut self.entries[task];
        entry.state = State::Ended;
        let expected = matches!(cause, Cause::Stopped | Cause::Ended) && entry.told.is_some();
        if !expected {
            let task = entry.name;
            self.actions
                .push_back(Action::Report(Report::Gone { task, cause }));
        }
        self.actions.push_back(Action::GiveUp(task));
        self.stop_next(now);
    }

    fn living(&self) -> usize {
        self.entries.iter().filter(|entry| entry.lives()).count()
    }
}

impl Entry<'_> {
    /// Whether there is something of it: it is made, runs, or is being reclaimed.
    const fn lives(&self) -> bool {
        matches!(
            self.state,
            State::Starting | State::Running { .. } | State::Ending { .. }
        )
    }

    const fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// Whether it is on its way to its end, or, while it is made, to where it can be told.
    const fn is_stopping(&self) -> bool {
        matches!(self.state, State::Starting | State::Ending { .. }) || self.told.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{NOW, actions, life, running};
    use super::{Action, LIMIT, PATIENCE, Report, Supervisor};
    use crate::badge::Life;
    use crate::report::Cause;
    use crate::services::tests::task;
    use core::time::Duration;
    use ipc::info::FaultMessage;
    use ipc::manifest::{Grant, Task};

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// A bus, a driver on it, an application on that, and one that depends on nobody.
    fn four() -> [Task<'static>; 4] {
        let uses = |service| Grant::Use { service, grants: 0 };
        [
            task("bus", &[Grant::Provide("bus")], &[]),
            task("card", &[Grant::Provide("card"), uses("bus")], &["bus"]),
            task("app", &[uses("card")], &[]),
            task("alone", &[], &[]),
        ]
    }

    /// Those that are told to stop, of what is done next.
    fn told(supervisor: &mut Supervisor<'_>) -> Vec<u16> {
        let stop = |action: &Action<'_>| match action {
            Action::Stop(life) => Some(life.task),
            _ => None,
        };
        actions(supervisor).iter().filter_map(stop).collect()
    }

    /// The task says that it has finished, and is reclaimed.
    fn finish(supervisor: &mut Supervisor<'_>, task: u16, now: Duration) {
        supervisor.stopped(life(task, 0));
        assert_eq!(
            supervisor.next_action(),
            Some(Action::Destroy(life(task, 0)))
        );
        supervisor.closed(life(task, 0), now);
    }

    #[test]
    fn tasks_are_told_in_the_order_of_their_dependence() {
        let mut supervisor = running(&four());
        supervisor.stop(NOW);
        let report = Report::Stopping { tasks: 4 };
        assert_eq!(supervisor.next_action(), Some(Action::Report(report)));
        assert_eq!(told(&mut supervisor), [2, 3]);
        finish(&mut supervisor, 3, NOW);
        assert_eq!(told(&mut supervisor), [], "the application still lives");
        finish(&mut supervisor, 2, NOW);
        assert_eq!(told(&mut supervisor), [1]);
        finish(&mut supervisor, 1, NOW);
        assert_eq!(told(&mut supervisor), [0]);
        supervisor.stopped(life(0, 0));
        actions(&mut supervisor);
        supervisor.closed(life(0, 0), NOW + MILLISECOND);
        let report = Report::Stopped {
            time: MILLISECOND,
            left: 0,
        };
        assert_eq!(
            actions(&mut supervisor),
            [Action::GiveUp(0), Action::Report(report), Action::PowerOff]
        );
        assert_eq!(supervisor.next_deadline(), None);
        supervisor.tick(NOW + 2 * LIMIT);
        assert_eq!(actions(&mut supervisor), [], "the end comes once");
    }

    #[test]
    fn what_does_not_stop_is_destroyed_in_time() {
        let mut supervisor = running(&four());
        supervisor.stop(NOW);
        finish_quietly(&mut supervisor, 3);
        assert_eq!(supervisor.next_deadline(), Some(NOW + PATIENCE));
        supervisor.tick(NOW + PATIENCE - MILLISECOND);
        assert_eq!(actions(&mut supervisor), []);
        supervisor.tick(NOW + PATIENCE);
        assert_eq!(
            actions(&mut supervisor),
            [
                Action::Destroy(life(2, 0)),
                Action::Report(Report::Overdue { task: "app" })
            ]
        );
        supervisor.closed(life(2, 0), NOW + PATIENCE);
        assert_eq!(told(&mut supervisor), [1], "the others go on as if it had");
    }

    /// As [`finish`], whatever else is to be done.
    fn finish_quietly(supervisor: &mut Supervisor<'_>, task: u16) {
        supervisor.stopped(life(task, 0));
        supervisor.closed(life(task, 0), NOW);
        actions(supervisor);
    }

    #[test]
    fn the_machine_stops_in_time_whatever_is_left() {
        let mut supervisor = running(&four());
        supervisor.stop(NOW);
        actions(&mut supervisor);
        // Nobody finishes, and nobody is ever reclaimed.
        let mut last = NOW;
        while let Some(due) = supervisor.next_deadline() {
            assert!(due > last, "time goes on");
            last = due;
            supervisor.tick(due);
        }
        assert_eq!(last, NOW + LIMIT);
        let report = Report::Stopped {
            time: LIMIT,
            left: 4,
        };
        let done = actions(&mut supervisor);
        assert!(done.ends_with(&[Action::Report(report), Action::PowerOff]));
    }

    #[test]
    fn chain_of_tasks_that_hang_takes_the_limit_and_no_longer() {
        let uses = |service| Grant::Use { service, grants: 0 };
        const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let tasks: Vec<Task<'_>> = (0..NAMES.len())
            .map(|at| match at.checked_sub(1) {
                Some(below) => task(
                    NAMES[at],
                    &[Grant::Provide(NAMES[at]), uses(NAMES[below])],
                    &[],
                ),
                None => task(NAMES[at], &[Grant::Provide(NAMES[at])], &[]),
            })
            .collect();
        let mut supervisor = running(&tasks);
        supervisor.stop(NOW);
        let mut end = None;
        while let Some(due) = supervisor.next_deadline() {
            supervisor.tick(due);
            for action in actions(&mut supervisor) {
                match action {
                    Action::Destroy(life) => supervisor.closed(life, due),
                    Action::PowerOff => end = Some(due),
                    _ => {}
                }
            }
        }
        assert_eq!(end, Some(NOW + LIMIT));
    }

    #[test]
    fn nothing_is_started_any_more() {
        let mut supervisor = running(&four());
        supervisor.kill("alone").unwrap();
        supervisor.closed(life(3, 0), NOW);
        supervisor.kill("card").unwrap();
        actions(&mut supervisor);
        // One waits to be started, another is being reclaimed.
        supervisor.stop(NOW);
        assert_eq!(told(&mut supervisor), [2]);
        supervisor.closed(life(1, 0), NOW);
        let cause = Cause::Killed;
        let report = Report::Gone {
            task: "card",
            cause,
        };
        assert_eq!(
            actions(&mut supervisor),
            [
                Action::Report(report),
                Action::GiveUp(1),
                Action::Stop(life(0, 0))
            ],
            "nobody else needs the bus"
        );
        supervisor.tick(NOW + MILLISECOND);
        assert_eq!(actions(&mut supervisor), []);
    }

    #[test]
    fn task_that_is_just_being_made_is_told_later() {
        let tasks = four();
        let mut supervisor = Supervisor::new(&tasks);
        supervisor.tick(NOW);
        actions(&mut supervisor);
        for task in 0..3 {
            supervisor.started(life(task, 0), NOW);
        }
        supervisor.stop(NOW);
        assert_eq!(told(&mut supervisor), [2]);
        supervisor.started(life(3, 0), NOW);
        supervisor.tick(NOW + MILLISECOND);
        assert_eq!(told(&mut supervisor), [3]);
    }

    #[test]
    fn faults_on_the_way_are_told_and_end_the_task() {
        let mut supervisor = running(&four());
        supervisor.stop(NOW);
        actions(&mut supervisor);
        assert!(supervisor.faulted(life(2, 0), FaultMessage::default()));
        supervisor.closed(life(2, 0), NOW);
        let done = actions(&mut supervisor);
        assert!(
            done.iter()
                .any(|action| matches!(action, Action::Report(Report::Gone { task: "app", .. }))),
            "{done:?}"
        );
        assert!(done.contains(&Action::Stop(life(1, 0))));
    }

    #[test]
    fn tasks_that_are_restarted_with_each_other_are_told_together() {
        let tasks = [task("one", &[], &["two"]), task("two", &[], &["one"])];
        let mut supervisor = running(&tasks);
        supervisor.stop(NOW);
        assert_eq!(told(&mut supervisor), [0, 1]);
    }

    #[test]
    fn words_out_of_place_do_nothing() {
        let mut supervisor = running(&four());
        supervisor.stopped(life(2, 0));
        assert_eq!(actions(&mut supervisor), [], "the system does not stop");
        supervisor.stop(NOW);
        actions(&mut supervisor);
        supervisor.stop(NOW + MILLISECOND);
        supervisor.stopped(life(0, 0));
        supervisor.stopped(life(2, 1));
        supervisor.stopped(Life { task: 9, number: 0 });
        assert_eq!(actions(&mut supervisor), []);
        assert_eq!(supervisor.life(2), Some(life(2, 0)));
        assert_eq!(supervisor.life(9), None);
    }

    #[test]
    fn system_without_tasks_stops_at_once() {
        let mut supervisor = Supervisor::new(&[]);
        supervisor.stop(NOW);
        assert_eq!(actions(&mut supervisor).last(), Some(&Action::PowerOff));
    }
}
