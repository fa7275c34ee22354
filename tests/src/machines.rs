//! The machines that Uzura boots on: a row each, with what has to hold on all of them. Pairs of what can be
//! chosen - machine, firmware, medium, processors, memory, card and its place - are spread over the rows.
//! `cargo test` checks a slice of them, `cargo run -- test matrix` each.

use std::thread;

use anyhow::{Context, Result, ensure};
use iso::cli::{Boot, Machine as Kind, Nic};
use iso::qemu::DiskBus;
use tempfile::TempDir;

use crate::case::say;
use crate::console::PROMPT;
use crate::images::{self, image};
use crate::{Bochs, Console, Machine, Setup, gdb, http, media};

/// A machine that QEMU plays.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Whether `cargo test` checks it too.
    pub is_in_slice: bool,
    kind: Kind,
    /// No PIT and no PIC.
    no_legacy: bool,
    /// The processor's model, as QEMU calls it.
    model: &'static str,
    cpus: u32,
    /// In MiB.
    memory: u32,
    uefi: bool,
    from: From,
    card: Card,
}

/// What a machine boots from.
#[derive(Debug, Clone, Copy)]
enum From {
    /// The files, by QEMU's own loader.
    Files,
    /// The ISO as a CD.
    Cd,
    /// The ISO as a disk.
    IsoDisk(DiskBus),
    /// The disk that Compute Engine gets.
    Disk(DiskBus),
}

/// The network card.
#[derive(Debug, Clone, Copy)]
enum Card {
    /// One that the tool has.
    Tool(Nic),
    /// Another, or in another place: its name, and what QEMU is told.
    Placed(&'static str, &'static [&'static str]),
}

/// What `cargo run` starts.
const DEFAULT: Row = Row {
    is_in_slice: false,
    kind: Kind::Q35,
    no_legacy: false,
    model: "max",
    cpus: 1,
    memory: 256,
    uefi: false,
    from: From::Files,
    card: Card::Tool(Nic::Virtio),
};

/// A PCI Express root port.
const ROOT_PORT: &str =
    "pcie-root-port,port=0x10,chassis=1,id=pci.1,bus=pcie.0,multifunction=on,addr=0x3";

const BEHIND_A_ROOT_PORT: Card = Card::Placed(
    "modern, root port",
    &[ROOT_PORT, "virtio-net-pci,netdev=net0,romfile=,bus=pci.1"],
);
const LEGACY_BEHIND_A_ROOT_PORT: Card = Card::Placed(
    "legacy, root port",
    &[
        ROOT_PORT,
        "virtio-net-pci,netdev=net0,romfile=,bus=pci.1,disable-modern=on,disable-legacy=off",
    ],
);
const LAST_SLOT: Card = Card::Placed(
    "modern, slot 31",
    &["virtio-net-pci,netdev=net0,romfile=,addr=0x1f"],
);
/// A Q35's last one is the chipset's own.
const LAST_BUT_ONE: Card = Card::Placed(
    "modern, slot 30",
    &["virtio-net-pci,netdev=net0,romfile=,addr=0x1e"],
);
const TWO: Card = Card::Placed(
    "two modern",
    &[
        "virtio-net-pci,netdev=net0,romfile=,addr=0x4",
        "virtio-net-pci,romfile=,addr=0x5",
    ],
);
const TWO_KINDS: Card = Card::Placed(
    "modern and e1000",
    &["virtio-net-pci,netdev=net0,romfile=", "e1000,romfile="],
);
const LEGACY: Card = Card::Tool(Nic::VirtioLegacy);
const E1000: Card = Card::Tool(Nic::E1000);
const NO_CARD: Card = Card::Tool(Nic::None);

/// Every machine that QEMU plays.
pub const ALL: &[Row] = &[
    DEFAULT,
    Row {
        cpus: 8,
        memory: 6144,
        card: LEGACY,
        ..DEFAULT
    },
    Row {
        is_in_slice: true,
        kind: Kind::Pc,
        model: "qemu64",
        memory: 24,
        ..DEFAULT
    },
    Row {
        kind: Kind::Pc,
        model: "Nehalem",
        cpus: 2,
        from: From::Cd,
        card: LEGACY,
        ..DEFAULT
    },
    Row {
        is_in_slice: true,
        no_legacy: true,
        model: "EPYC",
        cpus: 4,
        ..DEFAULT
    },
    Row {
        no_legacy: true,
        cpus: 3,
        memory: 1024,
        card: BEHIND_A_ROOT_PORT,
        ..DEFAULT
    },
    Row {
        model: "Nehalem",
        memory: 64,
        card: LEGACY_BEHIND_A_ROOT_PORT,
        ..DEFAULT
    },
    Row {
        kind: Kind::Pc,
        cpus: 5,
        card: LAST_SLOT,
        ..DEFAULT
    },
    Row {
        cpus: 7,
        model: "qemu64",
        card: TWO,
        ..DEFAULT
    },
    Row {
        kind: Kind::Pc,
        memory: 64,
        card: TWO_KINDS,
        ..DEFAULT
    },
    Row {
        kind: Kind::Pc,
        cpus: 6,
        card: NO_CARD,
        ..DEFAULT
    },
    Row {
        no_legacy: true,
        cpus: 3,
        card: E1000,
        ..DEFAULT
    },
    // From what GRUB starts, by BIOS.
    Row {
        kind: Kind::Pc,
        cpus: 2,
        memory: 1024,
        from: From::Cd,
        card: E1000,
        ..DEFAULT
    },
    Row {
        model: "qemu64",
        cpus: 4,
        from: From::IsoDisk(DiskBus::Virtio),
        card: NO_CARD,
        ..DEFAULT
    },
    Row {
        model: "EPYC",
        cpus: 6,
        memory: 64,
        from: From::IsoDisk(DiskBus::Scsi),
        card: BEHIND_A_ROOT_PORT,
        ..DEFAULT
    },
    Row {
        no_legacy: true,
        cpus: 5,
        memory: 6144,
        from: From::Disk(DiskBus::Virtio),
        card: LEGACY,
        ..DEFAULT
    },
    // The nearest to a T2D instance of Compute Engine that QEMU plays.
    Row {
        kind: Kind::Pc,
        model: "EPYC",
        cpus: 8,
        memory: 4096,
        from: From::Disk(DiskBus::Scsi),
        card: LEGACY,
        ..DEFAULT
    },
    // The same, by UEFI.
    Row {
        is_in_slice: true,
        cpus: 3,
        memory: 64,
        uefi: true,
        from: From::Cd,
        ..DEFAULT
    },
    Row {
        kind: Kind::Pc,
        model: "EPYC",
        uefi: true,
        from: From::Disk(DiskBus::Virtio),
        card: LEGACY,
        ..DEFAULT
    },
    Row {
        model: "Nehalem",
        cpus: 7,
        memory: 1024,
        uefi: true,
        from: From::IsoDisk(DiskBus::Scsi),
        card: LEGACY_BEHIND_A_ROOT_PORT,
        ..DEFAULT
    },
    Row {
        kind: Kind::Pc,
        model: "qemu64",
        cpus: 4,
        memory: 6144,
        uefi: true,
        from: From::Disk(DiskBus::Scsi),
        card: E1000,
        ..DEFAULT
    },
    Row {
        no_legacy: true,
        cpus: 8,
        uefi: true,
        from: From::IsoDisk(DiskBus::Virtio),
        card: LAST_BUT_ONE,
        ..DEFAULT
    },
    Row {
        kind: Kind::Pc,
        cpus: 2,
        uefi: true,
        from: From::Cd,
        card: NO_CARD,
        ..DEFAULT
    },
    Row {
        kind: Kind::Microvm,
        memory: 24,
        ..DEFAULT
    },
    Row {
        is_in_slice: true,
        kind: Kind::Microvm,
        model: "EPYC",
        cpus: 8,
        memory: 6144,
        ..DEFAULT
    },
    Row {
        kind: Kind::Microvm,
        model: "qemu64",
        cpus: 2,
        ..DEFAULT
    },
    Row {
        kind: Kind::Microvm,
        model: "Nehalem",
        cpus: 3,
        memory: 64,
        card: NO_CARD,
        ..DEFAULT
    },
];

/// What has to hold on a machine, in the order in which it is tried.
const STEPS: [&str; 6] = ["shell", "page", "reboot", "halt", "gdb", "button"];

/// How far a machine came.
#[derive(Debug, Default)]
struct Progress {
    /// For each step that was passed, what the table says of it.
    passed: Vec<&'static str>,
}

impl Progress {
    fn pass(&mut self) {
        self.passed.push("yes");
    }

    /// The rest of the table's line.
    fn cells(&self) -> String {
        let verdicts = self.passed.iter().copied().chain(["FAIL"]);
        let mut line = String::new();
        for (step, verdict) in STEPS.iter().zip(verdicts) {
            line += &format!("  {verdict:<width$}", width = step.len());
        }
        line
    }
}

/// What a row says of its machine, below what.
const COLUMNS: [(&str, usize); 7] = [
    ("machine", 16),
    ("CPU", 7),
    ("CPUs", 4),
    ("MiB", 4),
    ("firmware", 8),
    ("from", 16),
    ("card", 17),
];

/// A line of the table, up to what was tried.
fn line(cells: [String; COLUMNS.len()]) -> String {
    let columns = COLUMNS.iter().zip(cells);
    let padded = columns.map(|((_, width), cell)| format!("{cell:<width$}"));
    padded.collect::<Vec<_>>().join("  ")
}

fn heading() -> String {
    let titles = COLUMNS.map(|(title, _)| title.to_owned());
    format!("  {}  {}", line(titles), STEPS.join("  "))
}

impl Row {
    /// The machine in the table's words.
    fn cells(&self) -> [String; COLUMNS.len()] {
        let from = match self.from {
            From::Files => "files".to_owned(),
            From::Cd => "ISO as CD".to_owned(),
            From::IsoDisk(bus) => format!("ISO as {}", name(bus)),
            From::Disk(bus) => format!("disk, {}", name(bus)),
        };
        let firmware = match (self.from, self.uefi) {
            (From::Files, _) => "-",
            (_, true) => "UEFI",
            (_, false) => "BIOS",
        };
        let card = match self.card {
            Card::Tool(Nic::Virtio) => "modern",
            Card::Tool(Nic::VirtioLegacy) => "legacy",
            Card::Tool(Nic::E1000) => "e1000",
            Card::Tool(Nic::None) => "none",
            Card::Placed(name, _) => name,
        };
        [
            if self.no_legacy {
                format!("{}, no PIT/PIC", self.kind())
            } else {
                self.kind().to_owned()
            },
            self.model.to_owned(),
            self.cpus.to_string(),
            self.memory.to_string(),
            firmware.to_owned(),
            from,
            card.to_owned(),
        ]
    }

    /// The machine as QEMU calls it.
    fn kind(&self) -> &'static str {
        match self.kind {
            Kind::Q35 => "q35",
            Kind::Pc => "pc",
            Kind::Microvm => "microvm",
        }
    }

    fn has_card(&self) -> bool {
        !matches!(self.card, Card::Tool(Nic::None))
    }

    /// The machine, and the folder of the disk that it boots from.
    fn setup(&self) -> Result<(Setup, TempDir)> {
        let folder = tempfile::tempdir().context("cannot make a folder for the disk")?;
        let image = image(images::Kind::System)?;
        let mut setup = Setup::new(image.clone())
            .cpus(self.cpus)
            .memory(self.memory);
        setup.options.machine = self.kind;
        setup.options.cpu = Some(self.model.to_owned());
        setup.options.uefi = self.uefi;
        if self.no_legacy {
            let machine = format!("{},pit=off,pic=off", self.kind());
            setup.options.qemu.extend(["-machine".to_owned(), machine]);
        }
        setup = match self.card {
            Card::Tool(nic) => setup.with(|options| options.nic = nic),
            Card::Placed(_, devices) => setup.devices(devices),
        };
        if self.has_card() {
            setup = setup.forward(80);
        }
        let setup = match self.from {
            From::Files => setup,
            From::Cd => setup.with(|options| options.boot = Boot::Iso),
            From::IsoDisk(bus) => setup.disk(media::iso(&image, "", folder.path())?, bus),
            From::Disk(bus) => setup.disk(media::compute_engine(&image, "", folder.path())?, bus),
        };
        Ok((setup, folder))
    }

    /// Boots the system there: it serves, restarts, is debugged, and ends by itself.
    fn check(&self, progress: &mut Progress) -> Result<()> {
        let (setup, _folder) = self.setup()?;
        let symbols = setup.image.symbols.join("kernel");
        let mut machine = setup.clone().start()?;
        let url = self.has_card().then(|| machine.url("/")).transpose()?;
        serves_restarts_ends(&mut machine.console, url.as_deref(), progress)?;
        machine.wait_for_end()?;
        // Whoever waits for a second emulator and keeps the first one's place waits for ever.
        drop(machine);
        progress.pass();
        let mut machine = setup.gdb().start()?;
        gdb::stop_at(&machine, &[&symbols], "kernel_start")?;
        progress.pass();
        self.ends_by_its_button(&mut machine)?;
        progress.pass();
        Ok(())
    }

    fn ends_by_its_button(&self, machine: &mut Machine) -> Result<()> {
        machine.console.wait_for("platform: power button: ")?;
        machine.qmp.press_power_button()?;
        machine.console.wait_for("init: all tasks stopped in ")?;
        machine.console.wait_for("uzura: halted\n")?;
        machine.wait_for_end()
    }

    /// Checks and tells; what went wrong, if something did.
    fn verdict(&self) -> Option<String> {
        let mut progress = Progress::default();
        let result = self.check(&mut progress);
        say(&format!("  {}{}", line(self.cells()), progress.cells()));
        result
            .err()
            .map(|error| format!("{}: {error:#}", self.cells().join(", ")))
    }
}

fn name(bus: DiskBus) -> &'static str {
    match bus {
        DiskBus::Virtio => "virtio",
        DiskBus::Scsi => "SCSI",
    }
}

/// Reaches the shell, gets the page where there is a card, restarts, does so again, and ends.
fn serves_restarts_ends(
    console: &mut Console,
    url: Option<&str>,
    progress: &mut Progress,
) -> Result<()> {
    console.wait_for(PROMPT)?;
    progress.pass();
    works(console, url)?;
    progress
        .passed
        .push(if url.is_some() { "yes" } else { "-" });
    console.send_line("reboot")?;
    console.wait_for("uzura: rebooting")?;
    console.wait_for(PROMPT)?;
    works(console, url).context("after `reboot`")?;
    progress.pass();
    console.send_line("halt")?;
    console.wait_for("uzura: halted\n").map(drop)
}

/// Serves the page, or says that there is no card.
fn works(console: &mut Console, url: Option<&str>) -> Result<()> {
    if let Some(url) = url {
        let page = http::get_again(url)?;
        ensure!(page.contains("Uzura"), "the page is: {page}");
    } else {
        let said = console.command("net")?;
        ensure!(said.contains("no driver"), "`net` says: {said}");
    }
    Ok(())
}

/// Checks the machine that Bochs plays, which has neither gdb's stub nor a power button from outside, and
/// prints a line of the table.
pub fn check_bochs() -> Result<()> {
    const CPUS: u32 = 2;
    let mut machine = Bochs::start_with_card(&image(images::Kind::System)?, CPUS, 80)?;
    let url = machine.url("/")?;
    let mut progress = Progress::default();
    let result = serves_restarts_ends(&mut machine.console, Some(&url), &mut progress);
    let result = result.and_then(|()| machine.wait_for_end());
    if result.is_ok() {
        progress.passed.extend(["yes", "-", "-"]);
    }
    let words = ["Bochs", "", "2", "128", "BIOS", "ISO as CD", "e1000"];
    say(&format!(
        "  {}{}",
        line(words.map(str::to_owned)),
        progress.cells()
    ));
    result.context("Bochs")
}

/// Checks all of these machines, as many at a time as there is room for, and prints a line of the table for
/// each. The error names those that failed.
pub fn check<'a>(rows: impl Iterator<Item = &'a Row>) -> Result<()> {
    say(&heading());
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
