//! In which order tasks are stopped: first those that nobody uses, then what only they used, and so on.
//! Asking them, and how long they may take, is [`crate::supervisor`]'s.

use alloc::vec::Vec;
use core::time::Duration;

use ipc::manifest::{Grant, Task};

use crate::services::Services;

/// How long a task may take to stop once it was told to, before it is destroyed.
pub const PATIENCE: Duration = Duration::from_millis(1_500);
/// How long all of them may take: then the machine stops whatever is left. Who switches a machine off
/// from outside waits longer than this, but not for ever.
pub const LIMIT: Duration = Duration::from_secs(7);

/// Who is to be gone before whom.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// For each task of the manifest, by position, those that depend on it.
    dependents: Vec<Vec<usize>>,
}

impl Order {
    /// The order of a manifest's tasks: a task depends on the providers of what it uses, and on what
    /// it is restarted with.
    pub fn of(tasks: &[Task<'_>]) -> Order {
        let services = Services::collect(tasks);
        let mut dependents: Vec<Vec<usize>> = tasks.iter().map(|_| Vec::new()).collect();
        for (dependent, task) in tasks.iter().enumerate() {
            let providers = task.grants.iter().filter_map(|grant| match *grant {
                Grant::Use { service, .. } => {
                    let at = services.position(service)?;
                    services.list().get(at).map(|service| service.provider)
                }
                _ => None,
            });
            let companions = task
                .restart_with
                .iter()
                .filter_map(|name| tasks.iter().position(|other| other.name == *name));
            for needed in providers.chain(companions) {
                if let Some(list) = dependents.get_mut(needed) {
                    list.push(dependent);
                }
            }
        }
        Order { dependents }
    }

    /// Whether nothing that depends on this task lives any more.
    pub fn is_free(&self, task: usize, lives: impl Fn(usize) -> bool) -> bool {
        let dependents = self.dependents.get(task).map_or(&[][..], Vec::as_slice);
        !dependents
            .iter()
            .any(|dependent| *dependent != task && lives(*dependent))
    }
}

#[cfg(test)]
mod tests {
    use super::Order;
    use crate::services::tests::task;
    use ipc::manifest::Grant;

    const fn uses(service: &str) -> Grant<'_> {
        Grant::Use { service, grants: 0 }
    }

    #[test]
    fn who_depends_on_a_task_goes_before_it() {
        let tasks = [
            task("pci", &[Grant::Provide("bus")], &[]),
            task("card", &[Grant::Provide("card"), uses("bus")], &["pci"]),
            task("app", &[uses("card"), uses("init")], &[]),
            task("alone", &[uses("init")], &[]),
            task("with", &[], &["alone"]),
        ];
        let order = Order::of(&tasks);
        let free = |living: &[usize]| {
            let mut list = living.to_vec();
            list.retain(|task| order.is_free(*task, |other| living.contains(&other)));
            list
        };
        assert_eq!(free(&[0, 1, 2, 3, 4]), [2, 4]);
        assert_eq!(free(&[0, 1, 3]), [1, 3]);
        assert_eq!(free(&[0]), [0]);
    }

    #[test]
    fn a_task_does_not_wait_for_itself() {
        let order = Order::of(&[task("one", &[Grant::Provide("one"), uses("one")], &["one"])]);
        assert!(order.is_free(0, |_| true));
        assert!(order.is_free(7, |_| true), "nor does one that is not there");
    }
}
