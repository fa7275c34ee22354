//! `cargo run -- run`: builds, starts QEMU with the console on the terminal, and waits for its end.
//! What is built and what QEMU is told are `build`'s and `qemu`'s.

use std::path::Path;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Result, bail};
use rustix::termios;

use crate::build::Builder;
use crate::cli::{Boot, Net, Nic, RunOptions, Serial};
use crate::forward::{self, Forward};
use crate::image::{self, Image, Recipe};
use crate::qemu::{self, DiskBus, Medium};
use crate::{disk, grub, process, say};

/// A run without `--timeout` ends when the person at the terminal ends it; this is for ever to them.
const NO_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Builds everything and boots it as `options` say.
pub fn run(options: &RunOptions) -> Result<ExitCode> {
    options.check()?;
    let builder = Builder::new()?;
    qemu::need(options)?;
    let image = image(&builder, options)?;
    let medium = medium(&image, options, image.folder())?;
    let forwards = forwards(options)?;
    let gdb = if options.gdb {
        Some(Forward::local(1234, 0).free()?.host.port())
    } else {
        None
    };
    announce(options, &forwards);
    if let Some(port) = gdb {
        explain_gdb(port, &image.symbols);
    }
    let mut command = qemu::command(options, &medium, &forwards, gdb);
    if options.headless {
        command.stdin(Stdio::null());
    }
    let _terminal = Terminal::keep();
    let mut child = process::start(&mut command)?;
    let limit = options.timeout.map_or(NO_TIMEOUT, Duration::from_secs);
    let Some(status) = process::poll(&mut child, limit)? else {
        process::end(&mut child)?;
        bail!("stopped after {} s, as --timeout says", limit.as_secs());
    };
    if !status.success() {
        bail!(
            "QEMU ended with {status}; its command was: {}",
            process::line(&command)
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds what is to be booted.
fn image(builder: &Builder, options: &RunOptions) -> Result<Image> {
    let manifest = options
        .manifest
        .clone()
        .unwrap_or_else(|| builder.workspace.root.join(image::SYSTEM));
    let manifest = (!options.no_archive).then_some(manifest.as_path());
    image::assemble(
        builder,
        &Recipe {
            manifest,
            ..Recipe::system(options.profile)
        },
    )
}

/// What the machine starts from, made now, in `folder`, if it is not the files of the image.
pub fn medium(image: &Image, options: &RunOptions, folder: &Path) -> Result<Medium> {
    Ok(match options.boot {
        Boot::Kernel => Medium::Files {
            kernel: image.kernel.clone(),
            archive: image.archive.clone(),
        },
        Boot::Iso => Medium::Cd(grub::iso(image, &options.append, folder)?),
        Boot::Disk => Medium::Disk {
            file: disk::make(image, &options.append, folder)?,
            bus: DiskBus::Virtio,
        },
    })
}

/// The ports to forward, each replaced if it is taken.
fn forwards(options: &RunOptions) -> Result<Vec<Forward>> {
    if options.nic == Nic::None || options.net != Net::User {
        return Ok(Vec::new());
    }
    let wanted = if options.forward.is_empty() {
        forward::defaults()
    } else {
        options.forward.clone()
    };
    wanted.into_iter().map(Forward::free).collect()
}

fn announce(options: &RunOptions, forwards: &[Forward]) {
    for forward in forwards {
        match forward.guest {
            80 => say::progress(&format!("the web page is at http://{}/", forward.host)),
            guest => say::progress(&format!(
                "{} leads to port {guest} of the guest",
                forward.host
            )),
        }
    }
    match &options.serial {
        Serial::Stdio if options.headless => {}
        Serial::Stdio => say::progress("starting QEMU; Ctrl-A x ends it, Ctrl-A h lists more"),
        Serial::File(path) => say::progress(&format!(
            "starting QEMU; the console goes to {}",
            path.display()
        )),
        Serial::Unix(path) => say::progress(&format!(
            "starting QEMU; the console is at {}",
            path.display()
        )),
    }
}

/// Says how a debugger is attached. Nothing is mapped yet when it attaches, so breakpoints have to be
/// the processor's own, `hbreak`.
fn explain_gdb(port: u16, symbols: &Path) {
    let folder = symbols.display();
    say::progress(&format!(
        "waiting for: gdb {folder}/kernel -ex 'target remote 127.0.0.1:{port}'"
    ));
    say::progress(&format!(
        "then: add-symbol-file {folder}/web  (or another task), hbreak FUNCTION, continue"
    ));
}

/// The terminal's settings, put back when this is dropped: a QEMU that is killed leaves the terminal
/// in raw mode.
struct Terminal(Option<termios::Termios>);

impl Terminal {
    fn keep() -> Self {
        Self(termios::tcgetattr(std::io::stdin()).ok())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(settings) = &self.0 {
            // Nothing can be done about a terminal that is gone.
            termios::tcsetattr(std::io::stdin(), termios::OptionalActions::Now, settings).ok();
        }
    }
}
