//! From the manifest's text form to the packed form of `ipc::manifest`. The manifest was checked
//! before; what can still fail here is room.

use heapless::Vec as Bounded;
use ipc::badge::GRANTS;
use ipc::manifest as packed;

use super::mistake::Mistake;
use super::text::{Authority, Manifest, Restart, Task};

/// More than any manifest of the largest number of sensible tasks takes.
const ROOM: usize = 256 * 1024;

/// The packed form of `manifest`.
pub(super) fn pack(manifest: &Manifest) -> Result<Vec<u8>, Mistake> {
    let tasks = manifest
        .task
        .iter()
        .map(task)
        .collect::<Result<Vec<_>, _>>()?;
    let mut room = vec![0; ROOM];
    packed::pack(&tasks, &mut room)
        .map(<[u8]>::to_vec)
        .map_err(Mistake::Packed)
}

fn task(task: &Task) -> Result<packed::Task<'_>, Mistake> {
    let arguments: Vec<_> = task
        .arguments
        .iter()
        .map(|(name, value)| packed::Argument { name, value })
        .collect();
    let restart_with: Vec<&str> = task.restart_with.iter().map(String::as_str).collect();
    Ok(packed::Task {
        name: &task.name,
        binary: task.binary(),
        priority: task.priority,
        affinity: affinity(task),
        memory: task.memory.0,
        memory_least: task.memory_least().0,
        stack: task.stack.0,
        heap: task.heap.0,
        heap_least: task.heap_least().0,
        restart: match task.restart {
            Restart::Always => packed::Restart::Always,
            Restart::Never => packed::Restart::Never,
        },
        restart_with: bounded(task, "tasks in `restart_with`", &restart_with)?,
        grants: bounded(task, "grants", &grants(task))?,
        arguments: bounded(task, "arguments", &arguments)?,
    })
}

/// A bit a CPU; all of them when nothing is said.
fn affinity(task: &Task) -> u64 {
    task.cpus.as_ref().map_or(u64::MAX, |cpus| {
        cpus.iter().fold(0, |mask, cpu| mask | 1 << (cpu & 63))
    })
}

fn grants(task: &Task) -> Vec<packed::Grant<'_>> {
    let mut grants: Vec<packed::Grant<'_>> = Vec::new();
    grants.extend(
        task.provides
            .iter()
            .map(|service| packed::Grant::Provide(service)),
    );
    grants.extend(task.uses.iter().map(|service| packed::Grant::Use {
        service,
        grants: grant_bits(task, service),
    }));
    grants.extend(
        task.io_ports
            .iter()
            .flat_map(|ports| ranges(ports.first, ports.last)),
    );
    grants.extend(
        task.interrupts
            .iter()
            .map(|input| packed::Grant::Interrupt { input: *input }),
    );
    grants.extend(task.authority.iter().map(|authority| match authority {
        Authority::DeviceControl => packed::Grant::DeviceControl,
        Authority::SchedControl => packed::Grant::SchedControl,
        Authority::SystemControl => packed::Grant::SystemControl,
        Authority::SystemInspect => packed::Grant::SystemInspect,
        Authority::Trace => packed::Grant::Trace,
        Authority::Log => packed::Grant::Log,
        Authority::TaskCreate => packed::Grant::TaskCreate,
    }));
    grants
}

/// What the task may do at a service. Names that are none were refused before.
fn grant_bits(task: &Task, service: &str) -> u32 {
    let names = task.grants.get(service).map_or(&[][..], Vec::as_slice);
    let known = |name: &String| GRANTS.iter().find(|(known, _)| known == name);
    names
        .iter()
        .filter_map(known)
        .fold(0, |bits, (_, bit)| bits | bit)
}

/// All 65,536 ports are one more than a count holds, so that range is packed as two.
fn ranges<'a>(first: u16, last: u16) -> impl Iterator<Item = packed::Grant<'a>> {
    let whole = first == 0 && last == u16::MAX;
    let head = whole.then_some(packed::Grant::IoPorts { first: 0, count: 1 });
    let first = if whole { 1 } else { first };
    head.into_iter().chain([packed::Grant::IoPorts {
        first,
        count: last - first + 1,
    }])
}

fn bounded<T: Clone, const N: usize>(
    task: &Task,
    what: &'static str,
    items: &[T],
) -> Result<Bounded<T, N>, Mistake> {
    Bounded::from_slice(items).map_err(|_| Mistake::TooMany {
        task: task.name.clone(),
        what,
        count: items.len(),
        limit: N,
    })
}
