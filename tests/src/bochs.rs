//! A virtual machine of a test that Bochs plays, for what QEMU's translator does not have: x2APIC, the TSC
//! deadline timer, process-context identifiers, RDSEED. It boots a CD; the console is its first serial port.
//! It can have an e1000 card on Bochs' own network, which hands out addresses and forwards a port of the
//! host. It is ended when dropped. What is said on the console is `console`'s.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use iso::forward::Forward;
use iso::image::Image;
use iso::{grub, packages, process};
use tempfile::TempDir;

use crate::LIMIT;
use crate::console::Console;
use crate::slots::Slot;

/// The emulator.
const PROGRAM: &str = "bochs";

/// Debian's package of it, with the smallest of the displays that it insists on. None is used.
const PACKAGES: [&str; 4] = ["bochs", "bochs-term", "bochsbios", "vgabios"];

/// A processor that has the features named above, as Bochs calls it. Later ones say by CPUID that their
/// TSC runs at gigahertz, so that a second of the guest's is that many instructions.
const MODEL: &str = "broadwell_ult";

/// The firmware that Debian's packages bring.
const BIOS: &str = "/usr/share/bochs/BIOS-bochs-latest";
const VGA_BIOS: &str = "/usr/share/vgabios/vgabios.bin";

/// What the debugger, which Debian's Bochs starts in, is told: to go on.
const DEBUGGER: &str = "continue\n";

/// The file in its folder that Bochs writes its log to.
const LOG: &str = "log";

/// The Ethernet address of the card.
pub const CARD: &str = "52:54:00:12:34:56";

/// A running machine.
#[derive(Debug)]
pub struct Bochs {
    /// The first serial port.
    pub console: Console,
    /// The host's address that leads to the guest's port.
    pub address: Option<SocketAddr>,
    child: Child,
    folder: TempDir,
    _slot: Slot,
}

impl Bochs {
    /// Boots an image with this many processors and this kernel command line.
    pub fn start(image: &Image, cpus: u32, append: &str) -> Result<Self> {
        Self::boot(image, cpus, append, None)
    }

    /// The same with a network card; a free port of the host leads to this port of the guest.
    pub fn start_with_card(image: &Image, cpus: u32, guest_port: u16) -> Result<Self> {
        let forward = Forward::local(0, guest_port).free()?;
        Self::boot(image, cpus, "", Some(forward))
    }

    fn boot(image: &Image, cpus: u32, append: &str, forward: Option<Forward>) -> Result<Self> {
        packages::need(PROGRAM, &PACKAGES)?;
        // Debian's Bochs is content with any one firmware.
        for firmware in [BIOS, VGA_BIOS] {
            if !Path::new(firmware).exists() {
                packages::install(firmware, &PACKAGES)?;
            }
        }
        let slot = Slot::take();
        let folder = tempfile::tempdir().context("cannot make a folder for Bochs' settings")?;
        let iso = grub::iso(image, append, folder.path())?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let [settings, commands, log] =
            ["settings", "commands", "output"].map(|name| folder.path().join(name));
        let mut text = self::settings(&iso, cpus, port, folder.path());
        if let Some(forward) = forward {
            text += &card(forward, folder.path())?;
        }
        fs::write(&settings, text)?;
        fs::write(&commands, DEBUGGER)?;
        let mut command = Command::new(PROGRAM);
        command.arg("-q").arg("-f").arg(&settings);
        command.arg("-rc").arg(&commands);
        command.stdin(Stdio::null());
        command
            .stdout(File::create(&log)?)
            .stderr(File::create(&log)?);
        let mut child = process::start(&mut command)?;
        match accept(&mut child, &listener).and_then(Console::new) {
            Ok(console) => Ok(Self {
                console,
                address: forward.map(|forward| forward.host),
                child,
                folder,
                _slot: slot,
            }),
            Err(error) => {
                process::end(&mut child)?;
                let said = fs::read_to_string(&log).unwrap_or_default();
                Err(error.context(said).context(process::line(&command)))
            }
        }
    }
}

impl Bochs {
    /// `http://ADDRESS` of the guest's port.
    pub fn url(&self, path: &str) -> Result<String> {
        let address = self.address.context("this machine has no card")?;
        Ok(format!("http://{address}{path}"))
    }

    /// Waits until the guest has reset the machine, as Bochs' own log says. Coming up again is more than can be waited
    /// for: after a reset the timers of Bochs 2.7 stand still for 2^32 ticks, which its own firmware takes for
    /// a broken keyboard as a rule.
    pub fn wait_for_reset(&mut self) -> Result<()> {
        const RESET: &str = "bx_pc_system_c::Reset(HARDWARE) called";
        let log = self.folder.path().join(LOG);
        let begin = Instant::now();
        // The first one is the start.
        while fs::read_to_string(&log)?.matches(RESET).count() < 2 {
            ensure!(begin.elapsed() < LIMIT, "the machine was not reset");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Waits until the guest has switched the machine off. How Bochs ends then says nothing: it counts
    /// that as being interrupted.
    pub fn wait_for_end(&mut self) -> Result<()> {
        process::wait(&mut self.child, LIMIT)
            .context("the machine was not switched off")
            .map(drop)
    }
}

impl Drop for Bochs {
    fn drop(&mut self) {
        self.console.keep();
        // Nothing in the guest is worth waiting for; Bochs may be gone already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Bochs' settings (Bochs user manual, chapter 4). Time is that of the instructions, and goes no slower
/// than the host's: nobody waits for it.
fn settings(iso: &Path, cpus: u32, port: u16, folder: &Path) -> String {
    format!(
        "cpu: model={MODEL}, count={cpus}, ips=100000000, reset_on_triple_fault=0\n\
         memory: guest=128, host=128\n\
         romimage: file={BIOS}\n\
         vgaromimage: file={VGA_BIOS}\n\
         display_library: rfb, options=\"timeout=0\"\n\
         ata0-master: type=cdrom, path={}, status=inserted\n\
         boot: cdrom\n\
         com1: enabled=1, mode=socket-client, dev=127.0.0.1:{port}\n\
         sound: waveoutdrv=dummy, waveindrv=dummy, midioutdrv=dummy\n\
         speaker: enabled=0\n\
         clock: sync=none, time0=utc\n\
         panic: action=fatal\n\
         log: {}\n",
        iso.display(),
        folder.join(LOG).display(),
    )
}

/// The settings of a card, with the file that describes the network behind it (Bochs user manual,
/// section 4.3, `e1000` and the `slirp` module).
fn card(forward: Forward, folder: &Path) -> Result<String> {
    let network = folder.join("network");
    let rule = format!(
        "# slirp config\nhostfwd = tcp:{}-:{}\n",
        forward.host, forward.guest
    );
    fs::write(&network, rule)?;
    Ok(format!(
        "pci: enabled=1, chipset=i440fx, slot1=e1000\n\
         e1000: enabled=1, mac={CARD}, ethmod=slirp, script={}\n",
        network.display()
    ))
}

/// The connection that Bochs makes as it starts.
fn accept(child: &mut Child, listener: &TcpListener) -> Result<TcpStream> {
    let begin = Instant::now();
    listener.set_nonblocking(true)?;
    loop {
        if let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(false)?;
            return Ok(stream);
        }
        if let Some(status) = child.try_wait()? {
            bail!("Bochs ended at once ({status})");
        }
        ensure!(
            begin.elapsed() < LIMIT,
            "Bochs did not connect its serial port"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
