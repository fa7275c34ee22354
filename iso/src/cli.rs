//! The tool's command line: its commands and options, their defaults, and the pairs that cannot go
//! together. What a command does is its own module's.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::firmware;
use crate::forward::Forward;

/// Builds Uzura and boots it.
#[derive(Debug, Parser)]
#[command(version, about, long_about = None)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

impl Cli {
    /// The command; `run` with its defaults when none is named.
    pub fn command(self) -> Command {
        self.command.unwrap_or_else(|| Command::Run(Box::default()))
    }
}

/// One command of the tool.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Build everything and boot it in QEMU, with the console on the terminal
    Run(Box<RunOptions>),
    /// Build the kernel and the tasks for the bare machine, without starting anything
    Build(BuildOptions),
    /// Make the files that boot, and say where they are
    Image(ImageOptions),
    /// Show what is in an image: a kernel, a boot archive, an ISO, a disk or an archive of a disk
    Inspect(InspectOptions),
    /// Measure the source, folder by folder, and what boots
    Sizes(SizesOptions),
    /// Say which functions and source lines belong to addresses that the guest printed
    Symbolize(SymbolizeOptions),
    /// Measure the kernel's paths or the network in QEMU
    Bench(BenchOptions),
    /// Run tests that `cargo test` leaves out, or one campaign of those that it has
    Test(TestOptions),
    /// Run clippy on everything that is built for the bare machine
    Clippy,
}

/// Options of `build`.
#[derive(Debug, Args)]
pub struct BuildOptions {
    /// `kernel` or packages of tasks (`shell-task`); all of them when none is named
    pub packages: Vec<String>,
    /// How to compile
    #[arg(long, value_enum, default_value_t)]
    pub profile: Profile,
    /// Features of the kernel, separated by commas
    #[arg(long, value_delimiter = ',')]
    pub features: Vec<String>,
}

/// Options of `sizes`.
#[derive(Debug, Args)]
pub struct SizesOptions {
    /// Print one JSON array
    #[arg(long)]
    pub json: bool,
}

/// Options of `bench`.
#[derive(Debug, Args)]
pub struct BenchOptions {
    /// What to measure
    #[arg(value_enum)]
    pub kind: BenchKind,
    /// Print one JSON array
    #[arg(long)]
    pub json: bool,
    /// Record what is counted for this compiler (`ipc` only)
    #[arg(long)]
    pub record: bool,
    /// Measure nanoseconds as well, and what needs several processors (`ipc` only)
    #[arg(long)]
    pub wall: bool,
    /// Take these figures alone, by their names (`net` only)
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Measure on machines with so many processors alone (`net` only) [default: 1, then 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=8))]
    pub smp: Option<u32>,
    /// Measure shortly, to look at a change (`net` only)
    #[arg(long)]
    pub quick: bool,
}

impl BenchOptions {
    /// Refuses options that are another benchmark's, by name.
    pub fn check(&self) -> Result<()> {
        let net = self.kind == BenchKind::Net;
        let ipc = self.kind == BenchKind::Ipc;
        let given = [
            (self.record && !ipc, "--record", "ipc"),
            (self.wall && !ipc, "--wall", "ipc"),
            (!self.only.is_empty() && !net, "--only", "net"),
            (self.smp.is_some() && !net, "--smp", "net"),
            (self.quick && !net, "--quick", "net"),
        ];
        match given.iter().find(|(given, ..)| *given) {
            Some((_, option, kind)) => bail!("{option} belongs to `bench {kind}`"),
            None => Ok(()),
        }
    }
}

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BenchKind {
    /// The kernel's paths, in instructions
    Ipc,
    /// The network, beside a Linux guest
    Net,
    /// The scheduler's
    Sched,
}

/// Options of `test`.
#[derive(Debug, Args)]
pub struct TestOptions {
    /// Which tests
    #[arg(value_enum)]
    pub kind: TestKind,
}

/// A tier of tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TestKind {
    /// Everything: `cargo test`, then the soak
    Full,
    /// The suite against deliberate breakages of the kernel: a named test must fail for each
    Mutants,
    /// Every machine
    Matrix,
}

/// Options of `symbolize`.
#[derive(Debug, Args)]
pub struct SymbolizeOptions {
    /// Addresses, in hexadecimal
    #[arg(required_unless_present = "log", value_name = "ADDRESS")]
    pub addresses: Vec<String>,
    /// A console log to print with function and line at each address of a backtrace; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["addresses", "exact"])]
    pub log: Option<PathBuf>,
    /// The addresses are of instructions (a fault's rip), not of a backtrace
    #[arg(long)]
    pub exact: bool,
    /// Which image printed them: a folder of target/uzura
    #[arg(long, default_value = "system")]
    pub image: String,
}

/// Options of `image`.
#[derive(Debug, Args)]
pub struct ImageOptions {
    /// What kind of image
    #[arg(value_enum)]
    pub kind: ImageKind,
    /// Where to put it [default: target/uzura/system]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// The kernel's command line (of an ISO and of a disk)
    #[arg(
        long,
        value_name = "KERNEL COMMAND LINE",
        default_value = "",
        allow_hyphen_values = true
    )]
    pub append: String,
    /// How to compile
    #[arg(long, value_enum, default_value_t)]
    pub profile: Profile,
}

/// A kind of image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ImageKind {
    /// The kernel and the boot archive, as QEMU and GRUB load them
    Kernel,
    /// A CD image with GRUB, which is a disk's image too, for BIOS and UEFI
    Iso,
    /// A disk with GRUB for BIOS and UEFI, packed for Google Compute Engine
    Gce,
}

/// Options of `inspect`.
#[derive(Debug, Args)]
pub struct InspectOptions {
    /// What to look into
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// How to compile for the bare machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Profile {
    /// Optimised: what is meant to be booted
    #[default]
    Release,
    /// Quick to build, with debug assertions
    Dev,
}

impl Profile {
    /// What cargo calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Dev => "dev",
        }
    }
}

/// The machine QEMU plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Machine {
    /// PCI Express, of 2007
    #[default]
    Q35,
    /// PCI, of 1996: the nearest to Google Compute Engine
    Pc,
    /// No PCI at all: memory-mapped virtio devices
    Microvm,
}

/// The network card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Nic {
    /// virtio-net as of virtio 1.0
    #[default]
    Virtio,
    /// virtio-net by the older interface, through an I/O port range
    VirtioLegacy,
    /// Intel's 82540EM
    E1000,
    /// No card
    None,
}

/// Where the network card is plugged to on the host's side.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Net {
    /// QEMU's own network, with ports forwarded from the host
    #[default]
    User,
    /// A tap interface of the host
    Tap(String),
}

/// How the kernel is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Boot {
    /// QEMU loads kernel and archive itself (PVH)
    #[default]
    Kernel,
    /// GRUB loads them from a CD
    Iso,
    /// GRUB loads them from a virtio disk: that of `image gce`
    Disk,
}

/// What executes the guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Accel {
    /// KVM where the processor has virtualisation, else TCG
    #[default]
    Auto,
    /// QEMU's translator, for all processors on one thread of the host
    Tcg,
    /// The same, on a thread of the host for each of up to 8 processors: QEMU 7.2 may crash or
    /// lose writes then while PCI memory is moved
    TcgThreads,
    /// The Linux kernel's virtual machine
    Kvm,
}

/// Where the first serial port goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Serial {
    /// The terminal
    #[default]
    Stdio,
    /// A file
    File(PathBuf),
    /// A socket that QEMU listens on
    Unix(PathBuf),
}

/// Options of `run`.
#[derive(Debug, Clone, Args)]
pub struct RunOptions {
    /// Processors of the machine
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=255))]
    pub cpus: u32,
    /// Memory of the machine, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 256, value_parser = clap::value_parser!(u32).range(16..))]
    pub memory: u32,
    /// The machine
    #[arg(long, value_enum, default_value_t)]
    pub machine: Machine,
    /// Processor model as QEMU names it [default: max under TCG, host under KVM]
    #[arg(long, value_name = "MODEL")]
    pub cpu: Option<String>,
    /// The network card
    #[arg(long, value_enum, default_value_t)]
    pub nic: Nic,
    /// user, or tap:IFNAME for a tap interface of the host
    #[arg(long, value_parser = net, default_value = "user")]
    pub net: Net,
    /// Forward a port of the host to one of the guest; may be repeated
    /// [default: 127.0.0.1:8080:80 and 127.0.0.1:2222:22]
    #[arg(long, value_name = "[ADDR:]HOSTPORT:GUESTPORT")]
    pub forward: Vec<Forward>,
    /// How the kernel is started
    #[arg(
        long,
        value_enum,
        default_value_t,
        default_value_if("uefi", "true", "iso")
    )]
    pub boot: Boot,
    /// Start by UEFI firmware, from an ISO unless --boot says otherwise
    #[arg(long)]
    pub uefi: bool,
    /// The kernel's command line
    #[arg(
        long,
        value_name = "KERNEL COMMAND LINE",
        default_value = "",
        allow_hyphen_values = true
    )]
    pub append: String,
    /// Where the console goes: stdio, file:PATH or unix:PATH
    #[arg(long, value_parser = serial, default_value = "stdio")]
    pub serial: Serial,
    /// Read nothing from the terminal: the console is output only
    #[arg(long)]
    pub headless: bool,
    /// Stop the machine after so many seconds, which counts as a failure
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
    /// What executes the guest
    #[arg(long, value_enum, default_value_t)]
    pub accel: Accel,
    /// Make one guest instruction one nanosecond of virtual time
    #[arg(long)]
    pub icount: bool,
    /// Wait for gdb before the first instruction
    #[arg(long)]
    pub gdb: bool,
    /// A std program to run as a task
    #[arg(long, value_name = "CRATE_DIR")]
    pub app: Option<PathBuf>,
    /// How to compile
    #[arg(long, value_enum, default_value_t)]
    pub profile: Profile,
    /// Boot the system of this manifest [default: userland/manifest.toml]
    #[arg(long, value_name = "FILE")]
    pub manifest: Option<PathBuf>,
    /// Boot the kernel with no boot archive
    #[arg(long)]
    pub no_archive: bool,
    /// More arguments for QEMU
    #[arg(last = true, value_name = "QEMU ARGUMENTS")]
    pub qemu: Vec<String>,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self {
            cpus: 1,
            memory: 256,
            machine: Machine::default(),
            cpu: None,
            nic: Nic::default(),
            net: Net::default(),
            forward: Vec::new(),
            boot: Boot::default(),
            uefi: false,
            append: String::new(),
            serial: Serial::default(),
            headless: false,
            timeout: None,
            accel: Accel::default(),
            icount: false,
            gdb: false,
            app: None,
            profile: Profile::default(),
            manifest: None,
            no_archive: false,
            qemu: Vec::new(),
        }
    }
}

impl RunOptions {
    /// Refuses what cannot be done yet and options that contradict each other, by name.
    pub fn check(&self) -> Result<()> {
        let tap = matches!(self.net, Net::Tap(_));
        let no_nic = self.nic == Nic::None;
        let forwards = !self.forward.is_empty();
        let elsewhere = self.serial != Serial::Stdio;
        let microvm = self.machine == Machine::Microvm;
        let pairs = [
            (
                self.uefi && self.boot == Boot::Kernel,
                "--uefi",
                "--boot kernel",
                "UEFI firmware does not take QEMU's -kernel",
            ),
            (
                self.uefi && self.memory < firmware::LEAST_MEMORY,
                "--uefi",
                "--memory",
                "the firmware needs 64 MiB",
            ),
            // Before what it implies.
            (
                microvm && self.uefi,
                "--uefi",
                "--machine microvm",
                "its firmware is not UEFI, and UEFI takes no kernel of this kind from QEMU",
            ),
            (
                microvm && self.boot == Boot::Iso,
                "--boot iso",
                "--machine microvm",
                "its firmware boots no disk: QEMU loads kernel and archive",
            ),
            (
                microvm && self.boot == Boot::Disk,
                "--boot disk",
                "--machine microvm",
                "its firmware boots no disk: QEMU loads kernel and archive",
            ),
            (
                microvm && self.nic == Nic::VirtioLegacy,
                "--nic virtio-legacy",
                "--machine microvm",
                "its cards are memory-mapped, and no driver speaks their older interface",
            ),
            (
                forwards && tap,
                "--forward",
                "--net tap",
                "a tap interface has addresses of its own",
            ),
            (
                forwards && no_nic,
                "--forward",
                "--nic none",
                "there is no card to forward to",
            ),
            (
                tap && no_nic,
                "--net tap",
                "--nic none",
                "there is no card to plug in",
            ),
            (
                self.icount && self.accel == Accel::Kvm,
                "--icount",
                "--accel kvm",
                "only TCG counts instructions",
            ),
            (
                self.headless && elsewhere,
                "--headless",
                "--serial",
                "nothing is read from the terminal then anyway",
            ),
            (
                self.no_archive && self.manifest.is_some(),
                "--no-archive",
                "--manifest",
                "the archive holds the manifest",
            ),
        ];
        if let Some((_, one, other, why)) = pairs.iter().find(|(together, ..)| *together) {
            bail!("{one} and {other} do not go together: {why}");
        }
        if self.app.is_some() {
            bail!("--app is not yet available; there is: the tasks of userland/manifest.toml");
        }
        Ok(())
    }
}

fn net(text: &str) -> Result<Net, String> {
    match text.split_once(':') {
        None if text == "user" => Ok(Net::User),
        Some(("tap", name)) if !name.is_empty() => Ok(Net::Tap(name.to_owned())),
        _ => Err("write `user` or `tap:IFNAME`".to_owned()),
    }
}

fn serial(text: &str) -> Result<Serial, String> {
    match text.split_once(':') {
        None if text == "stdio" => Ok(Serial::Stdio),
        Some(("file", path)) if !path.is_empty() => Ok(Serial::File(path.into())),
        Some(("unix", path)) if !path.is_empty() => Ok(Serial::Unix(path.into())),
        _ => Err("write `stdio`, `file:PATH` or `unix:PATH`".to_owned()),
    }
}
