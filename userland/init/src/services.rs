//! The services' names. Init makes a public endpoint for each name that the manifest provides, once;
//! this module says which names there are and who provides them. The handles are the task's.

use alloc::vec::Vec;
use ipc::manifest::{Grant, Task};

/// A service of the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Service<'a> {
    /// Its name.
    pub name: &'a str,
    /// The provider's position in the manifest.
    pub provider: usize,
}

/// All services of a manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Services<'a> {
    list: Vec<Service<'a>>,
}

impl<'a> Services<'a> {
    /// Collects what the tasks provide.
    pub fn collect(tasks: &[Task<'a>]) -> Self {
        let mut list = Vec::new();
        for (provider, task) in tasks.iter().enumerate() {
            for grant in &task.grants {
                if let Grant::Provide(name) = *grant {
                    list.push(Service { name, provider });
                }
            }
        }
        Self { list }
    }

    /// The services, in the order in which their endpoints are kept.
    pub fn list(&self) -> &[Service<'a>] {
        &self.list
    }

    /// The position of the service with this name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.list.iter().position(|service| service.name == name)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Service, Services};
    use ipc::manifest::{Grant, Restart, Task};

    pub(crate) fn task<'a>(name: &'a str, grants: &[Grant<'a>], with: &[&'a str]) -> Task<'a> {
        Task {
            name,
            binary: name,
            priority: 20,
            affinity: u64::MAX,
            memory: 1 << 20,
            memory_least: 1 << 20,
            stack: 1 << 14,
            heap: 1 << 16,
            heap_least: 1 << 16,
            restart: Restart::Always,
            restart_with: with.iter().copied().collect(),
            grants: grants.iter().copied().collect(),
            arguments: [].into_iter().collect(),
        }
    }

    #[test]
    fn providers_are_found_and_users_are_none() {
        let tasks = [
            task("pci", &[Grant::Provide("pci"), Grant::DeviceControl], &[]),
            task(
                "net",
                &[
                    Grant::Use {
                        service: "pci",
                        grants: 0,
                    },
                    Grant::Provide("network"),
                ],
                &[],
            ),
        ];
        let services = Services::collect(&tasks);
        assert_eq!(services.list().len(), 2);
        assert_eq!(
            services.list()[1],
            Service {
                name: "network",
                provider: 1
            }
        );
        assert_eq!(services.position("pci"), Some(0));
        assert_eq!(services.position("init"), None);
    }
}
