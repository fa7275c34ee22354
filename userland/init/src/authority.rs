//! What a task is given, as the manifest says and nothing else. Making the objects and granting the
//! handles is the task's (`init-task`).

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use ipc::Rights;
use ipc::badge::Client;
use ipc::manifest::{Grant, INIT_SERVICE, Task};
use ipc::startup::names;

use crate::services::Services;

/// An object that a task gets a handle to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// Itself.
    Task,
    /// Init's endpoint, with this badge.
    Supervisor(Client),
    /// Init's notification for log lines.
    LogBell,
    /// The public endpoint of the service at this position, to receive.
    Serve(usize),
    /// The public endpoint of the service at this position, to call, with this badge.
    Use(usize, Client),
    /// A range of I/O ports.
    IoPorts {
        /// The first port.
        first: u16,
        /// The number of ports.
        count: u16,
    },
    /// The notification of the task's interrupts.
    InterruptBell,
    /// An I/O APIC input, which sets a bit of the notification.
    Interrupt {
        /// The input.
        input: u32,
        /// The bits to set.
        bits: u64,
    },
    /// DeviceControl.
    DeviceControl,
    /// SchedControl.
    SchedControl,
    /// SystemControl.
    SystemControl,
    /// Trace.
    Trace,
}

/// A handle to be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Given {
    /// The name under which the task finds it.
    pub name: String,
    /// What it names.
    pub object: Object,
    /// The rights that it carries.
    pub rights: Rights,
}

/// What every task may do with itself.
const OWN_TASK: Rights = Rights(Rights::MAP.0 | Rights::SPAWN.0 | Rights::INSPECT.0);
/// What a client may do with a service's public endpoint.
const CLIENT: Rights = Rights(Rights::SEND.0 | Rights::DUPLICATE.0 | Rights::TRANSFER.0);

/// Everything that the task at `position` of the manifest is given. A service that nobody provides
/// is left out: the manifest was checked when it was packed.
pub fn of(task: &Task<'_>, position: u16, services: &Services<'_>) -> Vec<Given> {
    let client = |grants| Client {
        task: position.saturating_add(1),
        grants,
    };
    let mut list = Vec::new();
    let mut give = |name: &str, object, rights| {
        list.push(Given {
            name: String::from(name),
            object,
            rights,
        });
    };
    give(names::TASK, Object::Task, own_task(task));
    let supervisor = Object::Supervisor(client(supervisor_grants(task)));
    give(names::SUPERVISOR, supervisor, CLIENT);
    give(names::LOG, Object::LogBell, Rights::SIGNAL);
    let mut inputs = 0;
    for grant in &task.grants {
        match *grant {
            Grant::Provide(service) => {
                if let Some(at) = services.position(service) {
                    let name = format!("{}{service}", names::SERVES);
                    give(&name, Object::Serve(at), Rights::RECEIVE | Rights::MINT);
                }
            }
            Grant::Use { service, grants } => {
                if let Some(at) = services.position(service) {
                    give(service, Object::Use(at, client(grants)), CLIENT);
                }
            }
            Grant::IoPorts { first, count } => {
                let name = format!("{}{first:x}", names::PORTS);
                give(&name, Object::IoPorts { first, count }, Rights::ATTACH);
            }
            Grant::Interrupt { input } => {
                if inputs == 0 {
                    give(names::INTERRUPTS, Object::InterruptBell, Rights::ALL);
                }
                let name = format!("{}{input}", names::INTERRUPT);
                let bits = 1_u64.checked_shl(inputs).unwrap_or(0);
                let interrupt = Object::Interrupt { input, bits };
                give(&name, interrupt, Rights::ACKNOWLEDGE);
                inputs += 1;
            }
            Grant::DeviceControl => give(names::DEVICE_CONTROL, Object::DeviceControl, Rights::ALL),
            Grant::SchedControl => {
                give(names::SCHED_CONTROL, Object::SchedControl, Rights::ALL);
            }
            Grant::Trace => give(names::TRACE, Object::Trace, Rights::ALL),
            Grant::SystemControl | Grant::SystemInspect | Grant::Log | Grant::TaskCreate => {}
        }
    }
    if let Some(rights) = system_control(task) {
        give(names::SYSTEM_CONTROL, Object::SystemControl, rights);
    }
    list
}

/// The rights to itself, and to make tasks where the manifest says so.
fn own_task(task: &Task<'_>) -> Rights {
    if task.grants.contains(&Grant::TaskCreate) {
        OWN_TASK | Rights::CREATE
    } else {
        OWN_TASK
    }
}

/// What the task may do at the supervisor.
fn supervisor_grants(task: &Task<'_>) -> u32 {
    let find = |grant: &Grant<'_>| match *grant {
        Grant::Use { service, grants } if service == INIT_SERVICE => Some(grants),
        _ => None,
    };
    task.grants.iter().find_map(find).unwrap_or(0)
}

/// The rights to SystemControl, which several grants make up together.
fn system_control(task: &Task<'_>) -> Option<Rights> {
    let rights = task.grants.iter().filter_map(|grant| match grant {
        Grant::SystemControl => Some(Rights::ALL),
        Grant::SystemInspect => Some(Rights::READ_STATE),
        Grant::Log => Some(Rights::LOG),
        _ => None,
    });
    rights.reduce(Rights::union)
}

#[cfg(test)]
mod tests {
    use super::{CLIENT, Object, of};
    use crate::services::Services;
    use crate::services::tests::task;
    use ipc::Rights;
    use ipc::badge::Client;
    use ipc::manifest::Grant;

    /// Names, objects and rights that a task gets beyond what every task gets.
    fn given(grants: &[Grant<'_>]) -> Vec<(String, Object, Rights)> {
        let tasks = [
            task("driver", &[Grant::Provide("card")], &[]),
            task("user", grants, &[]),
        ];
        let list = of(&tasks[1], 1, &Services::collect(&tasks));
        assert_eq!(list[0].object, Object::Task);
        assert_eq!(list[2].object, Object::LogBell);
        list.into_iter()
            .skip(3)
            .map(|given| (given.name, given.object, given.rights))
            .collect()
    }

    #[test]
    fn nothing_granted_nothing_given() {
        let tasks = [task("alone", &[], &[])];
        let list = of(&tasks[0], 0, &Services::collect(&tasks));
        assert_eq!(list.len(), 3);
        let nobody = Client { task: 1, grants: 0 };
        assert_eq!(list[1].object, Object::Supervisor(nobody));
        assert!(!list[0].rights.contains(Rights::CREATE));
        assert!(!list[0].rights.contains(Rights::DESTROY));
    }

    #[test]
    fn a_service_is_received_by_one_and_called_by_the_other() {
        let client = Client { task: 2, grants: 5 };
        let used = Grant::Use {
            service: "card",
            grants: 5,
        };
        assert_eq!(
            given(&[used]),
            [("card".into(), Object::Use(0, client), CLIENT)]
        );
        let tasks = [task("driver", &[Grant::Provide("card")], &[])];
        let list = of(&tasks[0], 0, &Services::collect(&tasks));
        assert_eq!(list[3].name, "serves/card");
        assert_eq!(list[3].rights, Rights::RECEIVE | Rights::MINT);
    }

    #[test]
    fn grants_at_the_supervisor_travel_in_its_badge() {
        let used = Grant::Use {
            service: "init",
            grants: 3,
        };
        let tasks = [task("user", &[used], &[])];
        let list = of(&tasks[0], 0, &Services::collect(&tasks));
        let client = Client { task: 1, grants: 3 };
        assert_eq!(list[1].object, Object::Supervisor(client));
        assert_eq!(list.len(), 3);
    }

    #[test]
    fn interrupts_share_a_notification_with_a_bit_each() {
        let list = given(&[
            Grant::Interrupt { input: 4 },
            Grant::Interrupt { input: 11 },
        ]);
        let names: Vec<&str> = list.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["interrupts", "interrupt/4", "interrupt/11"]);
        assert_eq!(list[1].1, Object::Interrupt { input: 4, bits: 1 });
        assert_eq!(list[2].1, Object::Interrupt { input: 11, bits: 2 });
    }

    #[test]
    fn ports_are_named_in_hexadecimal() {
        let range = Grant::IoPorts {
            first: 0x3f8,
            count: 8,
        };
        assert_eq!(given(&[range])[0].0, "ports/3f8");
    }

    #[test]
    fn parts_of_system_control_are_joined_in_one_handle() {
        assert!(given(&[]).is_empty());
        let list = given(&[Grant::Log, Grant::SystemInspect]);
        assert_eq!(list.len(), 1);
        assert_eq!(list[0].2, Rights::LOG | Rights::READ_STATE);
        assert!(!list[0].2.contains(Rights::POWER));
    }

    #[test]
    fn making_tasks_is_a_grant_of_its_own() {
        let tasks = [task("suite", &[Grant::TaskCreate], &[])];
        let list = of(&tasks[0], 0, &Services::collect(&tasks));
        assert!(list[0].rights.contains(Rights::CREATE));
        assert!(!list[0].rights.contains(Rights::DESTROY));
    }
}
