//! Checks of a manifest that was read: every rule that its text can break, and the call-order law.
//! The messages are `mistake`'s.

use std::collections::BTreeMap;
use std::fmt::Debug;

use ipc::badge::GRANTS;
use ipc::manifest::{INIT_SERVICE, MAX_NAME, OTHER_GROUPS};

use super::mistake::Mistake;
use super::text::{Manifest, Ports, Restart, Task};

/// The largest priority of a task in the manifest; init, whom all may call, has the next one.
const MAX_PRIORITY: u8 = 62;

/// Refuses the first mistake in `manifest`. `programs` are the binaries there are.
pub fn check(manifest: &Manifest, programs: &[&str]) -> Result<(), Mistake> {
    if manifest.task.is_empty() {
        return Err(Mistake::NoTask);
    }
    names(manifest)?;
    for task in &manifest.task {
        program(task, programs)?;
        processor(task)?;
        sizes(task)?;
        restarts(manifest, task)?;
        no_repetition(task)?;
        grants(task)?;
    }
    ports(manifest)?;
    interrupts(manifest)?;
    let providers = providers(manifest)?;
    for task in &manifest.task {
        calls(task, &providers)?;
    }
    no_circle(manifest, &providers)
}

fn names(manifest: &Manifest) -> Result<(), Mistake> {
    let mut seen: Vec<&str> = Vec::new();
    for task in &manifest.task {
        name(&task.name)?;
        if OTHER_GROUPS.contains(&task.name.as_str()) {
            return Err(Mistake::NameIsGroup {
                name: task.name.clone(),
            });
        }
        if seen.contains(&task.name.as_str()) {
            return Err(Mistake::NameTwice {
                name: task.name.clone(),
            });
        }
        seen.push(&task.name);
        task.provides.iter().try_for_each(|service| name(service))?;
    }
    Ok(())
}

fn name(name: &str) -> Result<(), Mistake> {
    if name == INIT_SERVICE {
        return Err(Mistake::NameIsInit);
    }
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let good = name.len() <= MAX_NAME && name.bytes().all(allowed);
    if good && name.starts_with(|first: char| first.is_ascii_lowercase()) {
        return Ok(());
    }
    Err(Mistake::BadName {
        name: name.to_owned(),
    })
}

fn program(task: &Task, programs: &[&str]) -> Result<(), Mistake> {
    if programs.contains(&task.binary()) {
        return Ok(());
    }
    Err(Mistake::UnknownBinary {
        task: task.name.clone(),
        binary: task.binary().to_owned(),
        known: programs.join(", "),
    })
}

fn processor(task: &Task) -> Result<(), Mistake> {
    if task.priority > MAX_PRIORITY {
        let (task, priority) = (task.name.clone(), task.priority);
        return Err(Mistake::PriorityOutOfRange {
            task,
            priority,
            max: MAX_PRIORITY,
        });
    }
    let Some(cpus) = &task.cpus else {
        return Ok(());
    };
    if cpus.is_empty() {
        return Err(Mistake::NoCpu {
            task: task.name.clone(),
        });
    }
    match cpus.iter().find(|cpu| **cpu > 63) {
        Some(cpu) => Err(Mistake::CpuOutOfRange {
            task: task.name.clone(),
            cpu: *cpu,
        }),
        None => Ok(()),
    }
}

fn sizes(task: &Task) -> Result<(), Mistake> {
    for (field, size) in [
        ("memory", task.memory),
        ("memory_least", task.memory_least()),
        ("stack", task.stack),
        ("heap", task.heap),
        ("heap_least", task.heap_least()),
    ] {
        if !size.0.is_multiple_of(ipc::layout::PAGE_BYTES) {
            return Err(Mistake::SizeNotPages {
                task: task.name.clone(),
                field,
                size,
            });
        }
    }
    if task.stack.0 == 0 {
        return Err(Mistake::NoStack {
            task: task.name.clone(),
        });
    }
    leasts(task)?;
    task.fits(0)
}

fn leasts(task: &Task) -> Result<(), Mistake> {
    for (field, least, whole, most) in [
        ("memory_least", task.memory_least(), "memory", task.memory),
        ("heap_least", task.heap_least(), "heap", task.heap),
    ] {
        if least > most {
            return Err(Mistake::LeastIsMore {
                task: task.name.clone(),
                field,
                least,
                whole,
                most,
            });
        }
    }
    // The heap shrinks with the memory: with the same memory it cannot.
    if task.heap_least() < task.heap && task.memory_least() == task.memory {
        return Err(Mistake::HeapLeastAlone {
            task: task.name.clone(),
        });
    }
    Ok(())
}

fn restarts(manifest: &Manifest, task: &Task) -> Result<(), Mistake> {
    for other in &task.restart_with {
        if *other == task.name {
            return Err(Mistake::RestartWithItself {
                task: task.name.clone(),
            });
        }
        if !manifest.task.iter().any(|known| known.name == *other) {
            return Err(Mistake::UnknownRestartWith {
                task: task.name.clone(),
                other: other.clone(),
            });
        }
    }
    if task.restart == Restart::Never && !task.restart_with.is_empty() {
        return Err(Mistake::RestartWithButNever {
            task: task.name.clone(),
        });
    }
    Ok(())
}

fn no_repetition(task: &Task) -> Result<(), Mistake> {
    let empty = Vec::new();
    once(task, "cpus", task.cpus.as_ref().unwrap_or(&empty))?;
    once(task, "provides", &task.provides)?;
    once(task, "uses", &task.uses)?;
    once(task, "restart_with", &task.restart_with)?;
    once(task, "authority", &task.authority)
}

fn once<T: PartialEq + Debug>(
    task: &Task,
    field: &'static str,
    values: &[T],
) -> Result<(), Mistake> {
    for (position, value) in values.iter().enumerate() {
        if values[..position].contains(value) {
            return Err(Mistake::SameTwice {
                task: task.name.clone(),
                field,
                value: format!("{value:?}"),
            });
        }
    }
    Ok(())
}

fn grants(task: &Task) -> Result<(), Mistake> {
    for (service, names) in &task.grants {
        if !task.uses.contains(service) {
            return Err(Mistake::GrantWithoutUse {
                task: task.name.clone(),
                service: service.clone(),
            });
        }
        let known = |name: &&String| GRANTS.iter().any(|(known, _)| known == name);
        if let Some(grant) = names.iter().find(|name| !known(name)) {
            return Err(Mistake::UnknownGrant {
                task: task.name.clone(),
                grant: grant.clone(),
                known: GRANTS.map(|(name, _)| name).join(", "),
            });
        }
    }
    Ok(())
}

fn ports(manifest: &Manifest) -> Result<(), Mistake> {
    let mut owners: Vec<(&str, Ports)> = Vec::new();
    for task in &manifest.task {
        for ports in &task.io_ports {
            if ports.first > ports.last {
                return Err(Mistake::PortsBackwards {
                    task: task.name.clone(),
                    ports: *ports,
                });
            }
            let overlap = |other: &Ports| ports.first <= other.last && other.first <= ports.last;
            if let Some((one, one_ports)) = owners.iter().find(|(_, other)| overlap(other)) {
                return Err(Mistake::PortsOverlap {
                    one: (*one).to_owned(),
                    one_ports: *one_ports,
                    other: task.name.clone(),
                    other_ports: *ports,
                });
            }
            owners.push((&task.name, *ports));
        }
    }
    Ok(())
}

fn interrupts(manifest: &Manifest) -> Result<(), Mistake> {
    let mut owners: BTreeMap<u32, &str> = BTreeMap::new();
    for task in &manifest.task {
        for input in &task.interrupts {
            if let Some(one) = owners.insert(*input, &task.name) {
                return Err(Mistake::InterruptTwice {
                    input: *input,
                    one: one.to_owned(),
                    other: task.name.clone(),
                });
            }
        }
    }
    Ok(())
}

/// Who provides what.
fn providers(manifest: &Manifest) -> Result<BTreeMap<&str, &Task>, Mistake> {
    let mut providers: BTreeMap<&str, &Task> = BTreeMap::new();
    for task in &manifest.task {
        for service in &task.provides {
            if let Some(one) = providers.insert(service, task) {
                return Err(Mistake::ServiceProvidedTwice {
                    service: service.clone(),
                    one: one.name.clone(),
                    other: task.name.clone(),
                });
            }
        }
    }
    Ok(providers)
}

/// The call-order law, first half: nobody calls a less urgent task.
fn calls(task: &Task, providers: &BTreeMap<&str, &Task>) -> Result<(), Mistake> {
    for service in task.uses.iter().filter(|service| *service != INIT_SERVICE) {
        let (name, service) = (task.name.clone(), service.clone());
        let Some(provider) = providers.get(service.as_str()) else {
            return Err(Mistake::ServiceNotProvided {
                task: name,
                service,
            });
        };
        if provider.name == task.name {
            return Err(Mistake::UsesOwnService {
                task: name,
                service,
            });
        }
        if provider.priority < task.priority {
            return Err(Mistake::CallsLessUrgent {
                task: name,
                priority: task.priority,
                service,
                provider: provider.name.clone(),
                provider_priority: provider.priority,
            });
        }
    }
    Ok(())
}

/// The call-order law, second half: following `uses` never leads back.
fn no_circle(manifest: &Manifest, providers: &BTreeMap<&str, &Task>) -> Result<(), Mistake> {
    let mut cleared: Vec<&str> = Vec::new();
    for task in &manifest.task {
        follow(task, providers, &mut Vec::new(), &mut cleared)?;
    }
    Ok(())
}

/// Visits what `task` uses, depth first. `path` is the way here; no circle is behind the `cleared`.
fn follow<'a>(
    task: &'a Task,
    providers: &BTreeMap<&str, &'a Task>,
    path: &mut Vec<&'a str>,
    cleared: &mut Vec<&'a str>,
) -> Result<(), Mistake> {
    if cleared.contains(&task.name.as_str()) {
        return Ok(());
    }
    if let Some(begin) = path.iter().position(|name| *name == task.name) {
        let mut circle = path[begin..].to_vec();
        circle.push(&task.name);
        return Err(Mistake::UsesCircle {
            circle: circle.join(" -> "),
        });
    }
    path.push(&task.name);
    for provider in task
        .uses
        .iter()
        .filter_map(|service| providers.get(service.as_str()))
    {
        follow(provider, providers, path, cleared)?;
    }
    path.pop();
    cleared.push(&task.name);
    Ok(())
}
