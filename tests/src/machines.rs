//! The machines that Uzura boots on: a row each, with what has to hold on all of them. Pairs of what can be
//! chosen - machine, firmware, medium, processors, memory, card and its place - are spread over the rows.
//! `cargo test` checks a slice of them, `cargo run -- test matrix` each.

use std::thread;

use anyhow::{Context, Result, ensure};
use iso::cli::{Boot, Machine as Kind, Nic, RunOptions};

use crate::case::say;
use crate::console::PROMPT;
use crate::images::{self, image};
use crate::{Machine, Setup, http};

/// A machine.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// What it is called.
    pub name: &'static str,
    /// What is special about it.
    pub what: &'static str,
    /// Whether `cargo test` checks it too.
    pub is_in_slice: bool,
    /// How it is made from the default one.
    change: fn(Setup) -> Setup,
    /// Whether it has a network card.
    has_card: bool,
}

impl Row {
    /// Boots the system there: the shell is reached, the page is served, it restarts, and it ends by itself.
    pub fn check(&self) -> Result<()> {
        let setup = Setup::new(image(images::Kind::System)?);
        let setup = if self.has_card {
            setup.forward(80)
        } else {
            setup
        };
        let mut machine = (self.change)(setup).start()?;
        self.is_up(&mut machine).context("at the first start")?;
        machine.console.send_line("reboot")?;
        machine.console.wait_for("uzura: rebooting")?;
        self.is_up(&mut machine).context("after `reboot`")?;
        machine.console.send_line("halt")?;
        machine.console.wait_for("uzura: halted")?;
        machine.wait_for_end()
    }

    /// Checks and tells; what went wrong, if something did.
    fn verdict(&self) -> Option<String> {
        let result = self.check();
        let verdict = if result.is_ok() { "PASS" } else { "FAIL" };
        say(&format!("  {verdict}  {:<24} {}", self.name, self.what));
        result
            .err()
            .map(|error| format!("{}: {error:#}", self.name))
    }

    fn is_up(&self, machine: &mut Machine) -> Result<()> {
        machine.console.wait_for(PROMPT)?;
        if self.has_card {
            let page = http::get_again(&machine.url("/")?)?;
            ensure!(page.contains("Uzura"), "the page is: {page}");
        } else {
            let said = machine.console.command("net")?;
            ensure!(said.contains("no driver"), "`net` says: {said}");
        }
        Ok(())
    }
}

/// Checks all of these machines, as many at a time as there is room for, and tells of each how it went. The
/// error names those that failed.
pub fn check<'a>(rows: impl Iterator<Item = &'a Row>) -> Result<()> {
    let failed: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = rows.map(|row| scope.spawn(|| row.verdict())).collect();
        let verdicts = threads.into_iter().map(|thread| {
            let lost = |_| Some("a check of a machine panicked".to_owned());
            thread.join().unwrap_or_else(lost)
        });
        verdicts.flatten().collect()
    });
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}

/// One entry of [`ALL`].
macro_rules! rows {
    ($($slice:ident $card:ident $name:literal: $what:literal, $change:expr;)+) => {
        &[$(Row {
            name: $name,
            what: $what,
            is_in_slice: rows!($slice),
            has_card: rows!($card),
            change: $change,
        },)+]
    };
    (slice) => { true };
    (matrix) => { false };
    (card) => { true };
    (bare) => { false };
}

/// Every machine.
pub const ALL: &[Row] = rows! {
    matrix card "q35": "what `cargo run` starts", |setup| setup;
    matrix card "q35-8-cpus-6-gib": "8 CPUs, 6 GiB, a legacy card", |setup| {
        legacy(setup.cpus(8).memory(6144))
    };
    slice card "pc-qemu64-24-mib": "i440FX, CPU qemu64, 24 MiB", |setup| {
        on(setup.memory(24), Kind::Pc, "qemu64")
    };
    matrix card "pc-nehalem-iso": "i440FX, CPU Nehalem, 2 CPUs, a legacy card, from a CD", |setup| {
        legacy(on(setup.cpus(2), Kind::Pc, "Nehalem")).with(|options| options.boot = Boot::Iso)
    };
    slice card "q35-epyc-no-pit": "CPU EPYC, 4 CPUs, no PIT and no PIC", |setup| {
        no_pit(on(setup.cpus(4), Kind::Q35, "EPYC"))
    };
    matrix card "q35-root-port": "no PIT and no PIC, 3 CPUs, a modern card behind a root port", |setup| {
        no_pit(setup.cpus(3)).devices(&[ROOT_PORT, "virtio-net-pci,netdev=net0,romfile=,bus=pci.1"])
    };
    matrix card "q35-root-port-legacy": "a legacy card behind a root port, 64 MiB", |setup| {
        let card = "virtio-net-pci,netdev=net0,romfile=,bus=pci.1,disable-modern=on,disable-legacy=off";
        setup.memory(64).devices(&[ROOT_PORT, card])
    };
    matrix card "pc-last-slot": "i440FX, a card in the last slot, 5 CPUs", |setup| {
        on(setup.cpus(5), Kind::Pc, "max").devices(&["virtio-net-pci,netdev=net0,romfile=,addr=0x1f"])
    };
    matrix card "q35-uefi-cd": "UEFI, 3 CPUs, 64 MiB, from a CD", |setup| {
        setup.cpus(3).memory(64).with(|options| (options.uefi, options.boot) = (true, Boot::Iso))
    };
    matrix card "pc-uefi-disk": "i440FX, UEFI, CPU EPYC, from a disk, a legacy card", |setup| {
        legacy(on(setup, Kind::Pc, "EPYC"))
            .with(|options| (options.uefi, options.boot) = (true, Boot::Disk))
    };
    matrix card "q35-two-cards": "two cards, the second one plugged in nowhere", |setup| {
        setup.devices(&[
            "virtio-net-pci,netdev=net0,romfile=,addr=0x4",
            "virtio-net-pci,romfile=,addr=0x5",
        ])
    };
    matrix card "pc-e1000-iso": "i440FX, an e1000 card, 2 CPUs, from a CD", |setup| {
        e1000(on(setup.cpus(2), Kind::Pc, "max")).with(|options| options.boot = Boot::Iso)
    };
    matrix card "q35-e1000-no-pit": "an e1000 card, 3 CPUs, no PIT and no PIC", |setup| {
        e1000(no_pit(setup.cpus(3)))
    };
    matrix bare "pc-no-card": "i440FX, no card, 6 CPUs", |setup| {
        on(setup.cpus(6), Kind::Pc, "max").with(|options| options.nic = Nic::None)
    };
};

/// A PCI Express root port.
const ROOT_PORT: &str =
    "pcie-root-port,port=0x10,chassis=1,id=pci.1,bus=pcie.0,multifunction=on,addr=0x3";

fn on(setup: Setup, machine: Kind, cpu: &str) -> Setup {
    setup.with(|options| {
        options.machine = machine;
        options.cpu = Some(cpu.to_owned());
    })
}

fn legacy(setup: Setup) -> Setup {
    setup.with(|options| options.nic = Nic::VirtioLegacy)
}

fn e1000(setup: Setup) -> Setup {
    setup.with(|options| options.nic = Nic::E1000)
}

fn no_pit(setup: Setup) -> Setup {
    qemu(setup, &["-machine", "q35,pit=off,pic=off"])
}

/// With more arguments for QEMU.
fn qemu(setup: Setup, arguments: &[&str]) -> Setup {
    let more = arguments.iter().map(|argument| (*argument).to_owned());
    setup.with(|options: &mut RunOptions| options.qemu.extend(more))
}
