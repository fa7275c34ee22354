//! A virtual machine of a test: QEMU as the tool would start it, with its console and its control
//! channel in the test's hands. It is ended when dropped. What is said on the channels is `console`'s
//! and `qmp`'s.

use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use iso::cli::{Accel, Boot, Nic, RunOptions, Serial};
use iso::forward::Forward;
use iso::image::Image;
use iso::qemu::{self, DiskBus, Medium};
use iso::{process, run};
use tempfile::TempDir;

use crate::LIMIT;
use crate::console::Console;
use crate::qmp::Qmp;
use crate::slots::Slot;

/// What to start: an image and the options of `cargo run -- run`.
#[derive(Debug, Clone)]
pub struct Setup {
    /// What boots.
    pub image: Image,
    /// The machine. Where the console goes is replaced.
    pub options: RunOptions,
    /// The guest's port that a free port of the host leads to.
    pub guest_port: Option<u16>,
    /// QEMU's description of the network card and of what it is plugged into, where it is not one of
    /// the tool's; its network is `net0`.
    pub devices: Vec<String>,
    /// QEMU's description of the network behind [`Setup::devices`], where it is not QEMU's own.
    pub network: Option<String>,
    /// Whether a debugger's stub listens; its port is [`Machine::gdb`].
    pub gdb: bool,
    /// A disk's bytes and what it is plugged into, where it is not one of the tool's.
    pub disk: Option<(PathBuf, DiskBus)>,
}

impl Setup {
    /// The image on the default machine, with TCG: the tests are the same wherever they run.
    pub fn new(image: Image) -> Self {
        let options = RunOptions {
            accel: Accel::Tcg,
            ..RunOptions::default()
        };
        Self {
            image,
            options,
            guest_port: None,
            devices: Vec::new(),
            network: None,
            gdb: false,
            disk: None,
        }
    }

    /// With so many processors.
    pub fn cpus(mut self, cpus: u32) -> Self {
        self.options.cpus = cpus;
        self
    }

    /// With so much memory, in MiB.
    pub fn memory(mut self, mib: u32) -> Self {
        self.options.memory = mib;
        self
    }

    /// With this kernel command line.
    pub fn append(mut self, words: &str) -> Self {
        self.options.append = words.to_owned();
        self
    }

    /// With a free port of the host leading to this port of the guest.
    pub fn forward(mut self, guest: u16) -> Self {
        self.guest_port = Some(guest);
        self
    }

    /// With any of the tool's options changed.
    pub fn with(mut self, change: impl FnOnce(&mut RunOptions)) -> Self {
        change(&mut self.options);
        self
    }

    /// With these devices in place of the tool's network card.
    pub fn devices(mut self, devices: &[&str]) -> Self {
        self.devices = devices.iter().map(|device| (*device).to_owned()).collect();
        self
    }

    /// With this network behind the devices.
    pub fn network(mut self, network: String) -> Self {
        self.network = Some(network);
        self
    }

    /// With a debugger's stub.
    pub fn gdb(mut self) -> Self {
        self.gdb = true;
        self
    }

    /// From this disk.
    pub fn disk(mut self, file: PathBuf, bus: DiskBus) -> Self {
        self.options.boot = Boot::Disk;
        self.disk = Some((file, bus));
        self
    }

    /// Starts the machine.
    pub fn start(self) -> Result<Machine> {
        Machine::start(self)
    }
}

/// A running machine.
#[derive(Debug)]
pub struct Machine {
    /// The first serial port.
    pub console: Console,
    /// QEMU's control channel.
    pub qmp: Qmp,
    /// The host's address that leads to the guest's port.
    pub address: Option<SocketAddr>,
    /// The port of the debugger's stub.
    pub gdb: Option<u16>,
    child: Child,
    _folder: TempDir,
    _slot: Slot,
}

impl Machine {
    fn start(setup: Setup) -> Result<Self> {
        qemu::need(&setup.options)?;
        let slot = Slot::take();
        let folder = tempfile::tempdir().context("cannot make a folder for QEMU's sockets")?;
        let (serial, control) = (folder.path().join("serial"), folder.path().join("qmp"));
        let options = RunOptions {
            serial: Serial::Unix(serial.clone()),
            nic: if setup.devices.is_empty() {
                setup.options.nic
            } else {
                Nic::None
            },
            ..setup.options
        };
        options.check()?;
        let medium = match setup.disk {
            Some((file, bus)) => Medium::Disk { file, bus },
            None => run::medium(&setup.image, &options, folder.path())?,
        };
        let forward = setup
            .guest_port
            .map(|guest| Forward::local(0, guest).free())
            .transpose()?;
        let gdb = if setup.gdb {
            Some(Forward::local(0, 0).free()?.host.port())
        } else {
            None
        };
        let forwards: Vec<Forward> = forward.into_iter().collect();
        let mut command = qemu::command(&options, &medium, &forwards, gdb);
        if !setup.devices.is_empty() {
            let network = setup
                .network
                .unwrap_or_else(|| qemu::user_network(&forwards));
            command.args(["-netdev", &network]);
            command.args(setup.devices.iter().flat_map(|device| ["-device", device]));
        }
        // The processors start when the console is connected, so that no output is lost.
        command.args([
            "-S",
            "-qmp",
            &format!("unix:{},server=on,wait=off", control.display()),
        ]);
        command.stdin(Stdio::null());
        let mut child = process::start(&mut command)?;
        let connected = connect(&mut child, &serial).and_then(|serial| {
            let console = Console::new(serial)?;
            let mut qmp = Qmp::new(connect(&mut child, &control)?)?;
            // With a debugger, it is the debugger that starts them.
            if gdb.is_none() {
                qmp.execute("cont")?;
            }
            Ok((console, qmp))
        });
        match connected {
            Ok((console, qmp)) => {
                let address = forwards.first().map(|forward| forward.host);
                Ok(Self {
                    console,
                    qmp,
                    address,
                    gdb,
                    child,
                    _folder: folder,
                    _slot: slot,
                })
            }
            Err(error) => {
                process::end(&mut child)?;
                Err(error.context(process::line(&command)))
            }
        }
    }

    /// Waits until the guest has switched the machine off.
    pub fn wait_for_end(&mut self) -> Result<()> {
        let status =
            process::wait(&mut self.child, LIMIT).context("the machine was not switched off")?;
        ensure!(status.success(), "QEMU ended with {status}");
        Ok(())
    }

    /// QEMU's process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Whether QEMU still runs.
    pub fn runs(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Where the guest's port is on the host.
    pub fn address(&self) -> Result<SocketAddr> {
        let address = self.address;
        address.context("this machine was started without `forward`")
    }

    /// `http://ADDRESS` of the guest's port.
    pub fn url(&self, path: &str) -> Result<String> {
        Ok(format!("http://{}{path}", self.address()?))
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.console.keep();
        // Nothing in the guest is worth waiting for; QEMU may be gone already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Connects to a socket that QEMU makes as it starts.
fn connect(child: &mut Child, path: &Path) -> Result<UnixStream> {
    let begin = Instant::now();
    loop {
        if let Ok(stream) = UnixStream::connect(path) {
            return Ok(stream);
        }
        if let Some(status) = child.try_wait()? {
            bail!("QEMU ended at once ({status})");
        }
        ensure!(
            begin.elapsed() < LIMIT,
            "QEMU did not make {}",
            PathBuf::from(path).display()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
