//! QEMU's command line, from the options of `run` and the files to boot. Building the files and
//! watching the process are others' business.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::cli::{Accel, Machine, Net, Nic, RunOptions, Serial};
use crate::forward::Forward;
use crate::{firmware, packages};

/// The emulator.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// Debian's package of it.
pub const PACKAGE: &str = "qemu-system-x86";

/// What the machine starts from.
#[derive(Debug, Clone)]
pub enum Medium {
    /// Kernel and boot archive, loaded by QEMU.
    Files {
        /// The kernel's ELF file.
        kernel: PathBuf,
        /// The boot archive, if one is given.
        archive: Option<PathBuf>,
    },
    /// A CD.
    Cd(PathBuf),
    /// A disk.
    Disk {
        /// The disk's bytes. What the machine writes is forgotten when it ends.
        file: PathBuf,
        /// What it is plugged into.
        bus: DiskBus,
    },
}

/// What a disk is plugged into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskBus {
    /// A virtio block device of its own.
    Virtio,
    /// A virtio SCSI adapter, as on Compute Engine.
    Scsi,
}

/// Makes sure that QEMU is there, and the firmware that `options` ask for.
pub fn need(options: &RunOptions) -> Result<()> {
    packages::need(PROGRAM, &[PACKAGE])?;
    if options.uefi {
        firmware::need()?;
    }
    Ok(())
}

/// Whether the processor of this machine can run guests itself. The device file alone says nothing:
/// where it exists without the processor's help, a guest hangs.
pub fn has_virtualisation() -> bool {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let capable = flags
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| {
            line.split_whitespace()
                .any(|flag| flag == "svm" || flag == "vmx")
        });
    capable && Path::new("/dev/kvm").exists()
}

/// The command that starts QEMU as `options` say. `forwards` are the ports, known to be free; `gdb`
/// is the port of the debugger's stub, if one is wanted.
pub fn command(
    options: &RunOptions,
    medium: &Medium,
    forwards: &[Forward],
    gdb: Option<u16>,
) -> Command {
    let mut qemu = Command::new(PROGRAM);
    // No defaults of QEMU's own and no files of the user's: the machine is what is written here.
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none"]);
    machine(&mut qemu, options);
    if options.uefi {
        uefi(&mut qemu);
    }
    start(&mut qemu, options, medium);
    serial(&mut qemu, options);
    network(&mut qemu, options, forwards);
    if let Some(port) = gdb {
        qemu.args(["-S", "-gdb", &format!("tcp:127.0.0.1:{port}")]);
    }
    qemu.args(&options.qemu);
    qemu
}

fn machine(qemu: &mut Command, options: &RunOptions) {
    let name = match options.machine {
        Machine::Q35 => "q35",
        Machine::Pc => "pc",
        // With two I/O APICs there are 24 slots, so that devices need not share a page of registers.
        Machine::Microvm => "microvm,acpi=on,ioapic2=on,pit=on,rtc=on,pcie=off",
    };
    let kvm = match options.accel {
        Accel::Kvm => true,
        Accel::Tcg | Accel::TcgThreads => false,
        // Counting instructions is TCG's alone.
        Accel::Auto => !options.icount && has_virtualisation(),
    };
    let model = options
        .cpu
        .as_deref()
        .unwrap_or(if kvm { "host" } else { "max" });
    let accel = if kvm { "kvm" } else { translator(options) };
    qemu.args(["-machine", name, "-cpu", model, "-accel", accel]);
    qemu.args([
        "-smp",
        &options.cpus.to_string(),
        "-m",
        &format!("{}M", options.memory),
    ]);
    if options.icount {
        qemu.args(["-icount", "shift=0,sleep=off"]);
    }
}

/// How QEMU's translator shares out the processors.
///
/// With a host thread for each, QEMU 7.2 now and then sends a write to the wrong place when one
/// processor moves PCI memory while another one writes a device register: the write goes through the
/// old memory map. QEMU ends with a segmentation fault then, or the write is lost: seen with the I/O
/// APIC's data register while pci looked at the bus, so that the console's interrupt stayed masked.
/// So the processors take turns on one thread unless `--accel tcg-threads` asks for the other; of
/// more than eight, each would mostly wait for the others.
fn translator(options: &RunOptions) -> &'static str {
    match (options.accel, options.cpus) {
        (_, 1) => "tcg",
        (Accel::TcgThreads, 2..=8) => "tcg,thread=multi",
        _ => "tcg,thread=single",
    }
}

fn start(qemu: &mut Command, options: &RunOptions, medium: &Medium) {
    match medium {
        Medium::Files { kernel, archive } => {
            qemu.arg("-kernel").arg(kernel);
            if let Some(archive) = archive {
                qemu.arg("-initrd").arg(archive);
            }
            let line = command_line(options);
            if !line.is_empty() {
                qemu.args(["-append", &line]);
            }
        }
        // The kernel's command line is in GRUB's configuration on the medium.
        Medium::Cd(image) => {
            qemu.arg("-cdrom").arg(image).args(["-boot", "d"]);
        }
        Medium::Disk { file, bus } => {
            let drive = format!(
                "if=none,id=disk,format=raw,snapshot=on,{}",
                file_option(file)
            );
            qemu.args(["-drive", &drive]);
            match bus {
                DiskBus::Virtio => qemu.args(["-device", "virtio-blk-pci,drive=disk"]),
                DiskBus::Scsi => qemu.args([
                    "-device",
                    "virtio-scsi-pci",
                    "-device",
                    "scsi-hd,drive=disk",
                ]),
            };
        }
    }
}

/// The firmware and its variables in flash memory. A new machine each time: what the firmware writes is
/// forgotten.
fn uefi(qemu: &mut Command) {
    for (unit, file, access) in [
        (0, firmware::CODE, "readonly=on"),
        (1, firmware::VARIABLES, "snapshot=on"),
    ] {
        let file = file_option(Path::new(file));
        qemu.args([
            "-drive",
            &format!("if=pflash,format=raw,unit={unit},{access},{file}"),
        ]);
    }
}

/// A file's path as a part of an option of QEMU's, where a comma has to be doubled.
fn file_option(path: &Path) -> String {
    format!("file={}", path.display().to_string().replace(',', ",,"))
}

/// The kernel's command line: what `--append` says, and on microvm where its devices are. They are
/// named nowhere else but in the machine's AML.
fn command_line(options: &RunOptions) -> String {
    let mut words = options.append.clone();
    let mut add = |word: &str| {
        if !words.is_empty() {
            words.push(' ');
        }
        words.push_str(word);
    };
    if options.machine == Machine::Microvm {
        if options.nic != Nic::None {
            add(&slot(CARD_SLOT));
        }
        add(EVENT_DEVICE);
    }
    words
}

/// The word for microvm's Generic Event Device, which tells of the power button (QEMU 7.2, hw/i386/microvm.c): its
/// event register, and its line.
const EVENT_DEVICE: &str = "acpi_ged=0xfea00000,9";

/// The slot of microvm that the network card is in, the last, which QEMU would take itself. Eight slots
/// share a page, so another device goes to slot 15, then 7. Slot 0 is none to use: QEMU 7.2 sends the
/// first line of every I/O APIC to its third input, as is right for the timer of a PC alone.
const CARD_SLOT: u64 = 23;

/// The word for a slot of QEMU's microvm with two I/O APICs (QEMU 7.2, hw/i386/microvm.c): 512 bytes
/// each from 0xfeb00000 on, and the lines of the second I/O APIC.
fn slot(number: u64) -> String {
    let (address, line) = (0xfeb0_0000 + 512 * number, 24 + number);
    format!("virtio_mmio.device=512@{address:#x}:{line}")
}

fn serial(qemu: &mut Command, options: &RunOptions) {
    match &options.serial {
        Serial::Stdio if options.headless => qemu.args(["-serial", "stdio", "-monitor", "none"]),
        // QEMU's multiplexer puts the terminal into raw mode and back and keeps Ctrl-A for itself.
        Serial::Stdio => qemu.args(["-serial", "mon:stdio"]),
        Serial::File(path) => qemu.args([
            "-monitor",
            "none",
            "-serial",
            &format!("file:{}", path.display()),
        ]),
        Serial::Unix(path) => qemu.args([
            "-monitor",
            "none",
            "-serial",
            &format!("unix:{},server=on,wait=off", path.display()),
        ]),
    };
}

fn network(qemu: &mut Command, options: &RunOptions, forwards: &[Forward]) {
    if options.machine == Machine::Microvm {
        // QEMU 7.2's own choice is the older interface.
        qemu.args(["-global", "virtio-mmio.force-legacy=false"]);
    }
    let on_no_bus = format!("virtio-net-device,netdev=net0,bus=virtio-mmio-bus.{CARD_SLOT}");
    // The card's boot ROM is of no use here and would cost time in firmware.
    let device = match options.nic {
        Nic::None => {
            qemu.args(["-nic", "none"]);
            return;
        }
        Nic::Virtio if options.machine == Machine::Microvm => &on_no_bus,
        Nic::Virtio => "virtio-net-pci,netdev=net0,romfile=",
        Nic::VirtioLegacy => {
            "virtio-net-pci,netdev=net0,romfile=,disable-modern=on,disable-legacy=off"
        }
        Nic::E1000 => "e1000,netdev=net0,romfile=",
    };
    let backend = match &options.net {
        Net::Tap(name) => format!("tap,id=net0,ifname={name},script=no,downscript=no"),
        Net::User => user_network(forwards),
    };
    qemu.args(["-netdev", &backend, "-device", device]);
}

/// QEMU's own network as `net0`, with these ports forwarded.
pub fn user_network(forwards: &[Forward]) -> String {
    forwards
        .iter()
        .fold("user,id=net0".to_owned(), |text, forward| {
            format!("{text},hostfwd=tcp:{}-:{}", forward.host, forward.guest)
        })
}
