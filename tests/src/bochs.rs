//! A virtual machine of a test that Bochs plays, for what QEMU's translator does not have: x2APIC, the TSC
//! deadline timer, process-context identifiers, RDSEED. It boots a CD; the console is its first serial port.
//! It is ended when dropped. What is said on the console is `console`'s.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use iso::image::Image;
use iso::{grub, packages, process};
use tempfile::TempDir;

use crate::LIMIT;
use crate::console::Console;
use crate::slots::Slot;

/// The emulator.
const PROGRAM: &str = "bochs";

/// Debian's package of it, with the smallest of the displays that it insists on. None is used.
const PACKAGES: [&str; 2] = ["bochs", "bochs-term"];

/// A processor that has the features named above, as Bochs calls it. Later ones say by CPUID that their
/// TSC runs at gigahertz, so that a second of the guest's is that many instructions.
const MODEL: &str = "broadwell_ult";

/// The firmware that Debian's packages bring.
const BIOS: &str = "/usr/share/bochs/BIOS-bochs-latest";
const VGA_BIOS: &str = "/usr/share/vgabios/vgabios.bin";

/// What the debugger, which Debian's Bochs starts in, is told: to go on.
const DEBUGGER: &str = "continue\n";

/// A running machine.
#[derive(Debug)]
pub struct Bochs {
    /// The first serial port.
    pub console: Console,
    child: Child,
    _folder: TempDir,
    _slot: Slot,
}

impl Bochs {
    /// Boots an image with this many processors and this kernel command line.
    pub fn start(image: &Image, cpus: u32, append: &str) -> Result<Self> {
        packages::need(PROGRAM, &PACKAGES)?;
        let slot = Slot::take();
        let folder = tempfile::tempdir().context("cannot make a folder for Bochs' settings")?;
        let iso = grub::iso(image, append, folder.path())?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let [settings, commands, log] =
            ["settings", "commands", "output"].map(|name| folder.path().join(name));
        fs::write(&settings, self::settings(&iso, cpus, port, folder.path()))?;
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
                child,
                _folder: folder,
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
        folder.join("log").display(),
    )
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
