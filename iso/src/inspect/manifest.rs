//! A packed manifest in the words of the manifest's text.

use std::fmt::Write;

use anyhow::{Context, Result};
use ipc::badge::GRANTS;
use ipc::manifest::{FORMAT, Grant, Restart, Task, Tasks};

use crate::manifest::Size;

/// The names of the grants of each service: the same bit is another grant elsewhere.
const SERVICES: [(&str, &[&str]); 4] = [
    ("init", &["kill", "log", "power"]),
    ("pci", &["claim"]),
    ("console", &["read"]),
    ("netstack", &["connect", "listen"]),
];

/// What a packed manifest says.
pub(super) fn describe(bytes: &[u8]) -> Result<String> {
    const DAMAGED: &str = "the manifest cannot be read";
    let tasks: Vec<Task<'_>> = Tasks::read(bytes)
        .context(DAMAGED)?
        .collect::<Result<_, _>>()
        .context(DAMAGED)?;
    let mut text = format!("manifest: format {FORMAT}, {} tasks\n", tasks.len());
    for task in &tasks {
        text.push_str(&super::indent(&describe_task(task)?));
    }
    Ok(text)
}

fn describe_task(task: &Task<'_>) -> Result<String> {
    let mut text = format!(
        "{}: program {}, priority {}, memory {}, stack {}, heap {}, {}, {}\n",
        plain(task.name),
        plain(task.binary),
        task.priority,
        Size(task.memory),
        Size(task.stack),
        Size(task.heap),
        cpus(task.affinity),
        match task.restart {
            Restart::Always => "restarted always",
            Restart::Never => "restarted never",
        },
    );
    if (task.memory_least, task.heap_least) != (task.memory, task.heap) {
        let (memory, heap) = (Size(task.memory_least), Size(task.heap_least));
        writeln!(
            text,
            "  on a small machine at least memory {memory}, heap {heap}"
        )?;
    }
    if !task.restart_with.is_empty() {
        let names: Vec<String> = task.restart_with.iter().copied().map(plain).collect();
        writeln!(text, "  restarted with {}", names.join(", "))?;
    }
    for grant in &task.grants {
        writeln!(text, "  {}", describe_grant(grant))?;
    }
    for argument in &task.arguments {
        let name = plain(argument.name);
        writeln!(text, "  argument {name} = {:?}", argument.value)?;
    }
    Ok(text)
}

/// A name without what a terminal would obey, and on one line: it need not be one that the tool packs.
fn plain(name: &str) -> String {
    name.escape_debug().to_string()
}

/// Which CPUs' bits are set.
fn cpus(affinity: u64) -> String {
    if affinity == u64::MAX {
        return "any CPU".to_owned();
    }
    let set = (0..u64::BITS).filter(|cpu| affinity >> cpu & 1 == 1);
    let list: Vec<String> = set.map(|cpu| cpu.to_string()).collect();
    format!("CPUs {}", list.join(", "))
}

fn describe_grant(grant: &Grant<'_>) -> String {
    match grant {
        Grant::Provide(service) => format!("provides {}", plain(service)),
        Grant::Use { service, grants } => match grant_names(service, *grants) {
            names if names.is_empty() => format!("uses {}", plain(service)),
            names => format!("uses {}: {names}", plain(service)),
        },
        Grant::IoPorts { first, count } => {
            let last = u32::from(*first) + u32::from(*count).saturating_sub(1);
            format!("I/O ports {first:#x}-{last:#x}")
        }
        Grant::Interrupt { input } => format!("interrupt {input}"),
        Grant::DeviceControl => "authority device-control".to_owned(),
        Grant::SchedControl => "authority sched-control".to_owned(),
        Grant::SystemControl => "authority system-control".to_owned(),
        Grant::SystemInspect => "authority system-inspect".to_owned(),
        Grant::Log => "authority log".to_owned(),
        Grant::Trace => "authority trace".to_owned(),
        Grant::TaskCreate => "authority task-create".to_owned(),
    }
}

/// The names of the bits that are set; a bit without a name there is shown as a number.
fn grant_names(service: &str, grants: u32) -> String {
    let own = SERVICES.iter().find(|(name, _)| *name == service);
    let (mut left, mut names) = (grants, Vec::new());
    for name in own.map_or(&[][..], |(_, names)| names) {
        let bit = GRANTS.iter().find(|(known, _)| known == name);
        if let Some((_, bit)) = bit.filter(|(_, bit)| left & bit != 0) {
            left &= !bit;
            names.push((*name).to_owned());
        }
    }
    if left != 0 {
        names.push(format!("{left:#x}"));
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use ipc::manifest::{Argument, Grant, Restart, Task, pack};

    use super::describe;

    #[test]
    fn names_are_shown_as_text_whatever_they_are() {
        const WILD: &str = "\x1b[2J\nfirst";
        let argument = Argument {
            name: WILD,
            value: WILD,
        };
        let task = Task {
            name: WILD,
            binary: WILD,
            priority: 255,
            affinity: 0,
            memory: u64::MAX,
            memory_least: 0,
            stack: 1,
            heap: 0,
            heap_least: u64::MAX,
            restart: Restart::Never,
            restart_with: [WILD].into_iter().collect(),
            grants: [
                Grant::Provide(WILD),
                Grant::Use {
                    service: WILD,
                    grants: u32::MAX,
                },
            ]
            .into_iter()
            .collect(),
            arguments: [argument].into_iter().collect(),
        };
        let mut room = [0; 1000];
        let text = describe(pack(&[task], &mut room).unwrap()).unwrap();
        assert_eq!(text.lines().count(), 7, "{text}");
        assert!(
            text.lines().all(|line| !line.contains(char::is_control)),
            "{text:?}"
        );
    }
}
