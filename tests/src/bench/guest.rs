//! A guest of the benchmark: a virtual machine on its cable that only runs while it is measured. What is done
//! to it is `load`'s; what its packets cost on the way is seen here, from outside, and by Uzura's own shell.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use iso::cli::Accel;
use iso::image::Image;
use iso::say;

use super::events::{self, Events};
use super::flushes;
use super::host::Moment;
use super::load::{Done, Load};
use super::wire::Cable;
use crate::machine::{Machine, Setup};
use crate::shell;

/// Memory of each guest, in MiB.
const MEMORY: u32 = 512;

/// How often a guest is booted that does not hear its console.
const BOOTS: u32 = 5;

/// How long it may take to hear.
const HEARING: Duration = Duration::from_secs(20);

/// What a guest says that cannot serve.
const FAILS: &str = " FAIL ";

/// How long a guest goes on after the load, so that what is still open ends.
const SETTLING: Duration = Duration::from_millis(100);

/// What both guests' cards can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offloads {
    /// All that the device has; each guest takes what it can.
    Best,
    /// None: whole checksums, packets as long as the wire has them, one buffer a packet.
    Plain,
}

impl Offloads {
    /// The card, as QEMU describes it.
    fn device(self) -> &'static str {
        match self {
            Self::Best => "virtio-net-pci,netdev=net0,romfile=,disable-legacy=on",
            Self::Plain => {
                "virtio-net-pci,netdev=net0,romfile=,disable-legacy=on,csum=off,gso=off,guest_csum=off,\
                 guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off,host_tso4=off,host_tso6=off,\
                 host_ecn=off,host_ufo=off,mrg_rxbuf=off"
            }
        }
    }
}

/// The machine that both guests have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hardware {
    /// Processors.
    pub(super) cpus: u32,
    /// How QEMU executes them: [`Accel::TcgThreads`] to compare speed, [`Accel::Tcg`] to rely on it.
    pub(super) accel: Accel,
    /// What its card can do.
    pub(super) offloads: Offloads,
}

/// What boots, and when it serves.
#[derive(Debug, Clone)]
pub(super) struct System {
    /// What it is called in messages.
    pub(super) name: &'static str,
    /// What boots.
    pub(super) image: Image,
    /// The kernel's command line.
    pub(super) append: String,
    /// What the console shows when it serves.
    pub(super) serves: &'static str,
    /// Where it is.
    pub(super) cable: Cable,
    /// Whether its console has Uzura's shell.
    pub(super) has_shell: bool,
}

/// A running guest.
#[derive(Debug)]
pub(super) struct Guest {
    /// What it is called in messages.
    pub(super) name: &'static str,
    cable: Cable,
    machine: Machine,
    has_shell: bool,
    /// QEMU's log, which has no name any more.
    log: File,
}

/// What a load brought, and the time that QEMU's threads took for it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Measured {
    /// What was done.
    pub(super) done: Done,
    /// CPU time of QEMU meanwhile.
    pub(super) time: Time,
    /// CPUs of the host that others kept busy.
    pub(super) others: f64,
}

/// CPU time of QEMU's threads, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Time {
    /// Of those that run the guest.
    pub(super) guest: u64,
    /// Of the others: the device, the tap, the timers.
    pub(super) device: u64,
}

/// What a load's packets took.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Traced {
    /// Operations.
    pub(super) operations: u64,
    /// What the device saw and did.
    pub(super) events: Events,
    /// Packets on the cable.
    pub(super) packets: u64,
    /// Switches of the address space.
    pub(super) switches: u64,
    /// CPU time of each task, in milliseconds. Only Uzura tells.
    pub(super) tasks: Vec<(String, u64)>,
}

impl Traced {
    /// Adds what another look showed.
    pub(super) fn add(&mut self, other: Traced) {
        self.operations += other.operations;
        self.events.kicks += other.events.kicks;
        self.events.interrupts += other.events.interrupts;
        self.packets += other.packets;
        self.switches += other.switches;
        for (task, took) in other.tasks {
            match self.tasks.iter_mut().find(|(known, _)| *known == task) {
                Some((_, all)) => *all += took,
                None => self.tasks.push((task, took)),
            }
        }
    }
}

impl Guest {
    /// Boots it and waits until it serves; it stands still then.
    ///
    /// With a thread for each processor QEMU 7.2 now and then ends, or loses the write that lets the console's
    /// interrupt through (`iso/src/qemu.rs`): such a guest is booted again.
    pub(super) fn start(system: &System, hardware: Hardware) -> Result<Self> {
        let mut reason = None;
        for _ in 0..BOOTS {
            match Self::boot(system, hardware) {
                Ok(mut guest) => {
                    guest.stop()?;
                    return Ok(guest);
                }
                // A machine that QEMU executes reliably has another fault, which comes again.
                Err(error) if hardware.accel == Accel::Tcg || hardware.cpus == 1 => {
                    return Err(error);
                }
                Err(error) => reason = Some(error),
            }
            say::progress(&format!("{} did not boot; again", system.name));
        }
        Err(reason.unwrap_or_else(|| anyhow!("{} was not booted", system.name)))
    }

    fn boot(system: &System, hardware: Hardware) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a folder for QEMU's log")?;
        let path = folder.path().join("events");
        let mut machine = Setup::new(system.image.clone())
            .cpus(hardware.cpus)
            .memory(MEMORY)
            .append(&system.append)
            .network(system.cable.netdev())
            .devices(&[hardware.offloads.device()])
            .with(|options| {
                options.accel = hardware.accel;
                options.qemu = vec!["-name".to_owned(), "bench,debug-threads=on".to_owned()];
                options.qemu.extend(events::options(&path));
            })
            .start()?;
        events::watch(&mut machine.qmp, false)?;
        let log = File::open(&path).context("QEMU writes no log")?;
        let said = machine.console.wait_for_any(&[system.serves, FAILS])?;
        ensure!(!said.ends_with(FAILS), "{} fails: {said}", system.name);
        let hears = !system.has_shell || machine.console.answers(HEARING)?;
        ensure!(hears, "{} does not hear its console", system.name);
        Ok(Self {
            name: system.name,
            cable: system.cable,
            machine,
            has_shell: system.has_shell,
            log,
        })
    }

    /// Puts it under a load for so long.
    pub(super) fn measure(&mut self, load: Load, time: Duration) -> Result<Measured> {
        self.while_running(|guest| {
            let (begin, before) = (Moment::now()?, guest.time()?);
            let done = load.run(guest.cable.guest, time)?;
            let after = guest.time()?;
            let time = Time {
                guest: after.guest - before.guest,
                device: after.device - before.device,
            };
            Ok(Measured {
                done,
                time,
                others: begin.others(time.guest + time.device)?,
            })
        })
    }

    /// The same with a look at what the device does. That takes time: how much is done does not count here.
    pub(super) fn trace(&mut self, load: Load, time: Duration) -> Result<Traced> {
        self.while_running(|guest| {
            let tasks = guest.tasks()?;
            let (seen, packets) = (guest.log.metadata()?.len(), guest.cable.packets()?);
            let flushes = flushes::count(&mut guest.machine.qmp)?;
            events::watch(&mut guest.machine.qmp, true)?;
            let done = load.run(guest.cable.guest, time);
            events::watch(&mut guest.machine.qmp, false)?;
            Ok(Traced {
                operations: done?.operations,
                events: events::count(&guest.log, seen)?,
                packets: guest.cable.packets()? - packets,
                switches: flushes::count(&mut guest.machine.qmp)? - flushes,
                tasks: since(&tasks, guest.tasks()?),
            })
        })
    }

    /// Lets it run for as long as `body` takes.
    pub(super) fn while_running<R>(
        &mut self,
        body: impl FnOnce(&mut Self) -> Result<R>,
    ) -> Result<R> {
        self.machine.qmp.execute("cont")?;
        let result = body(self);
        self.stop()?;
        result.with_context(|| self.end_of_console())
    }

    /// Its address.
    pub(super) fn address(&self) -> Ipv4Addr {
        self.cable.guest
    }

    /// CPU time of its tasks so far; none where there is no shell.
    fn tasks(&mut self) -> Result<Vec<shell::Task>> {
        match self.has_shell {
            true => shell::ps(&mut self.machine.console),
            false => Ok(Vec::new()),
        }
    }

    /// Lets it come to rest and stand still.
    fn stop(&mut self) -> Result<()> {
        thread::sleep(SETTLING);
        self.machine.qmp.execute("stop").map(drop)
    }

    /// CPU time of QEMU's threads so far.
    fn time(&self) -> Result<Time> {
        let mut time = Time::default();
        for entry in fs::read_dir(format!("/proc/{}/task", self.machine.process()))? {
            let thread = entry?.path();
            // A thread of the device's may end between two looks.
            let (Ok(name), Ok(statistics)) = (
                fs::read_to_string(thread.join("comm")),
                fs::read_to_string(thread.join("schedstat")),
            ) else {
                continue;
            };
            let run = statistics.split_ascii_whitespace().next();
            let run: u64 = run.context("a thread without CPU time")?.parse()?;
            // "CPU 0/TCG", or "ALL CPUs/TCG" where they take turns on one.
            match name.contains("CPU") {
                true => time.guest += run,
                false => time.device += run,
            }
        }
        Ok(time)
    }

    fn end_of_console(&self) -> String {
        let text = self.machine.console.text();
        let lines: Vec<&str> = text.lines().collect();
        let end = lines[lines.len().saturating_sub(5)..].join("\n    ");
        format!("{}, whose console ends with:\n    {end}", self.name)
    }
}

/// What each task took between two looks.
fn since(before: &[shell::Task], after: Vec<shell::Task>) -> Vec<(String, u64)> {
    let took = after.into_iter().map(|task| {
        let old = before.iter().find(|old| old.name == task.name);
        let old = old.map_or(0, |old| old.cpu_time);
        // One that was restarted counts from its start.
        let took = task.cpu_time.checked_sub(old).unwrap_or(task.cpu_time);
        (task.name, took)
    });
    took.collect()
}
