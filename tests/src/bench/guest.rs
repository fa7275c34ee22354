//! A guest of the benchmark: a virtual machine on its cable that only runs while it is measured. What is done
//! to it is `load`'s; what its packets cost on the way is seen here, from outside.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use iso::cli::Accel;
use iso::image::Image;
use tempfile::TempDir;

use super::events::{self, Events};
use super::load::{Done, Load};
use super::wire::Cable;
use crate::machine::{Machine, Setup};

/// Memory of each guest, in MiB.
const MEMORY: u32 = 512;

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
}

/// A running guest.
#[derive(Debug)]
pub(super) struct Guest {
    /// What it is called in messages.
    pub(super) name: &'static str,
    cable: Cable,
    machine: Machine,
    events: PathBuf,
    _folder: TempDir,
}

/// What a load brought, and the time that QEMU's threads took for it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Measured {
    /// What was done.
    pub(super) done: Done,
    /// CPU time of QEMU meanwhile.
    pub(super) time: Time,
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
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Traced {
    /// What was done.
    pub(super) done: Done,
    /// What the device saw and did.
    pub(super) events: Events,
    /// Packets on the cable.
    pub(super) packets: u64,
}

impl Guest {
    /// Boots it and waits until it serves; it stands still then.
    pub(super) fn start(system: &System, cpus: u32, offloads: Offloads) -> Result<Self> {
        let folder = tempfile::tempdir().context("cannot make a folder for QEMU's log")?;
        let log = folder.path().join("events");
        let mut machine = Setup::new(system.image.clone())
            .cpus(cpus)
            .memory(MEMORY)
            .append(&system.append)
            .network(system.cable.netdev())
            .devices(&[offloads.device()])
            .with(|options| {
                options.accel = Accel::TcgThreads;
                options.qemu = vec!["-name".to_owned(), "bench,debug-threads=on".to_owned()];
                options.qemu.extend(events::options(&log));
            })
            .start()?;
        events::watch(&mut machine.qmp, false)?;
        let said = machine.console.wait_for_any(&[system.serves, FAILS])?;
        ensure!(!said.ends_with(FAILS), "{} fails: {}", system.name, said);
        let mut guest = Self {
            name: system.name,
            cable: system.cable,
            machine,
            events: log,
            _folder: folder,
        };
        guest.stop()?;
        Ok(guest)
    }

    /// Puts it under a load for so long.
    pub(super) fn measure(&mut self, load: Load, time: Duration) -> Result<Measured> {
        self.machine.qmp.execute("cont")?;
        let before = self.time()?;
        let done = load.run(self.cable.guest, time);
        let after = self.time()?;
        self.stop()?;
        let done = done.with_context(|| self.end_of_console())?;
        Ok(Measured {
            done,
            time: Time {
                guest: after.guest - before.guest,
                device: after.device - before.device,
            },
        })
    }

    /// The same with a look at what the device does. That takes time: how much is done does not count here.
    pub(super) fn trace(&mut self, load: Load, time: Duration) -> Result<Traced> {
        let (seen, packets) = (fs::metadata(&self.events)?.len(), self.cable.packets()?);
        events::watch(&mut self.machine.qmp, true)?;
        let measured = self.measure(load, time);
        events::watch(&mut self.machine.qmp, false)?;
        Ok(Traced {
            done: measured?.done,
            events: events::count(&self.events, seen)?,
            packets: self.cable.packets()? - packets,
        })
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
            match name.starts_with("CPU ") {
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
