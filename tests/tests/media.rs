//! The system boots from every medium that the tool makes, as a CD and as a disk, by BIOS and by UEFI, and
//! serves the web page there. Pairs of medium, firmware, machine and card are each met once, not all
//! together.

use anyhow::{Context, Result, ensure};
use iso::cli::{Boot, Machine, Nic};
use iso::qemu::DiskBus;
use iso::{disk, firmware, grub, inspect};
use tests::console::PROMPT;
use tests::images::{Kind, image};
use tests::media::{self, Maker};
use tests::{Setup, case, http};

/// What every medium's kernel command line has: the kernel does not know it and says so, which shows that
/// GRUB handed it on.
const COMMAND_LINE: &str = "sched.medium=1";

/// What the kernel says of it.
const REFUSED: &str = "sched.medium=1: there is no such tunable\n";

/// Boots to the prompt, gets the page, and switches the machine off.
fn serves(setup: Setup) -> Result<()> {
    let mut machine = setup.append(COMMAND_LINE).forward(80).start()?;
    machine.console.wait_for("booted by multiboot2")?;
    machine.console.wait_for(REFUSED)?;
    machine.console.wait_for(PROMPT)?;
    while !machine.console.text().contains("web: serving port 80\n") {
        machine.console.command("uptime")?;
    }
    let page = http::get(&http::client(), &machine.url("/")?)?;
    ensure!(page.contains("Uzura"), "the page is: {page}");
    machine.console.send_line("halt")?;
    machine.console.wait_for("uzura: halted")?;
    machine.wait_for_end()
}

/// The system, started by UEFI.
fn by_uefi(setup: Setup) -> Setup {
    setup.with(|options| options.uefi = true)
}

/// The system on the machine that is nearest to Compute Engine, with its network card.
fn compute_engine(setup: Setup) -> Setup {
    setup.with(|options| {
        options.machine = Machine::Pc;
        options.nic = Nic::VirtioLegacy;
    })
}

/// Boots a disk that `make` makes of the system, plugged into `bus`, on a machine that `change` makes.
fn serves_from(make: Maker, bus: DiskBus, change: impl FnOnce(Setup) -> Setup) -> Result<()> {
    let image = image(Kind::System)?;
    let folder = tempfile::tempdir().context("cannot make a folder for the disk")?;
    let disk = make(&image, COMMAND_LINE, folder.path())?;
    serves(change(Setup::new(image).disk(disk, bus)))
}

#[test]
fn cd_by_bios() {
    case("cd_by_bios", "the ISO as a CD, BIOS, q35", || {
        serves(Setup::new(image(Kind::System)?).with(|options| options.boot = Boot::Iso))
    });
}

#[test]
fn iso_as_virtio_disk_by_bios() {
    let what = "the ISO as a virtio disk, BIOS, pc, 2 CPUs";
    case("iso_as_virtio_disk_by_bios", what, || {
        serves_from(grub::iso, DiskBus::Virtio, |setup| {
            setup.with(|options| options.machine = Machine::Pc).cpus(2)
        })
    });
}

#[test]
fn iso_as_scsi_disk_by_uefi_with_little_memory() {
    let what =
        "the ISO as a SCSI disk, UEFI, q35, 2 CPUs, the least memory that the firmware starts with";
    case("iso_as_scsi_disk_by_uefi_with_little_memory", what, || {
        serves_from(grub::iso, DiskBus::Scsi, |setup| {
            by_uefi(setup).cpus(2).memory(firmware::LEAST_MEMORY)
        })
    });
}

#[test]
fn compute_engine_disk_by_bios() {
    let what = "what Compute Engine gets, a SCSI disk, BIOS, pc, a legacy card";
    case("compute_engine_disk_by_bios", what, || {
        serves_from(media::compute_engine, DiskBus::Scsi, compute_engine)
    });
}

#[test]
fn compute_engine_disk_by_uefi() {
    let what = "what Compute Engine gets, a virtio disk, UEFI, pc, a legacy card, 5 GiB";
    case("compute_engine_disk_by_uefi", what, || {
        serves_from(media::compute_engine, DiskBus::Virtio, |setup| {
            by_uefi(compute_engine(setup)).memory(5 << 10)
        })
    });
}

#[test]
fn inspection_finds_what_boots() {
    let what = "`inspect` shows the same kernel, programs and tasks in the files and in the disk";
    case("inspection_finds_what_boots", what, || {
        let image = image(Kind::System)?;
        let folder = tempfile::tempdir().context("cannot make a folder for the disk")?;
        let archive = image.archive.clone().context("the system has an archive")?;
        let files = [
            inspect::describe(&image.kernel)?,
            inspect::describe(&archive)?,
        ];
        let disk = inspect::describe(&disk::make(&image, COMMAND_LINE, folder.path())?)?;
        let lines: Vec<&str> = disk.lines().map(str::trim).collect();
        let version = format!("version {}", env!("CARGO_PKG_VERSION"));
        let marks = [
            version.as_str(),
            "multiboot2 header",
            "PVH note",
            "netstack: program netstack",
        ];
        for mark in marks {
            ensure!(files.concat().contains(mark), "no `{mark}` in {files:?}");
        }
        for line in files.iter().flat_map(|text| text.lines()) {
            ensure!(lines.contains(&line.trim()), "no `{line}` in {disk}");
        }
        ensure!(disk.contains(COMMAND_LINE), "no command line in {disk}");
        Ok(())
    });
}
