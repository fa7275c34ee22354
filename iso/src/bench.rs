//! `cargo run -- bench`: boots the benchmark's tasks on the release kernel, with one instruction counted
//! as one nanosecond, and prints what they measured. What is measured and how is `tests/bench`'s; the network's
//! benchmark is `tests/src/bench.rs`, which this only starts.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::build::Builder;
use crate::cli::{Accel, BenchKind, BenchOptions, Nic, Profile, RunOptions};
use crate::counts::{self, Counts};
use crate::figures::{self, Figure};
use crate::image::{self, Recipe};
use crate::qemu::{self, Medium};
use crate::{packages, process, say, workspace};

mod path;

/// The manifest of the benchmark's tasks, from the workspace's root.
pub const MANIFEST: &str = "tests/bench/manifest.toml";

/// The manifest of the benchmark in nanoseconds, and its processors.
const WALL_MANIFEST: &str = "tests/bench/wall.toml";
const WALL_CPUS: u32 = 4;

/// What the measuring task's lines begin with.
const PREFIX: &str = "bench: ";

/// How long the guest may say nothing.
const SILENCE: Duration = Duration::from_secs(300);

/// What each figure may be at most, in its unit.
const GATES: &[(&str, u64)] = &[
    ("calibration_error", 0),
    ("null_syscall", 100),
    ("call_0", 450),
    ("call_32", 480),
    ("call_64", 560),
    ("call_960", 900),
    ("call_postcard", 900),
    ("call_handle", 800),
    ("signal_wait", 700),
    ("signal_high", 450),
    ("interrupt_thread", 450),
    ("yield_switch", 200),
    ("fault_resume", 750),
    ("locked_per_call", 4),
    ("cr3_per_call", 2),
    ("msr_per_call", 0),
    ("common_lines_of_calls", 0),
];

/// Runs the benchmark that is asked for.
pub fn command(options: &BenchOptions) -> Result<()> {
    options.check()?;
    match options.kind {
        BenchKind::Ipc => print_ipc(options),
        BenchKind::Net => net(),
        BenchKind::Sched => bail!("bench sched is not yet available; there are: ipc, net"),
    }
}

/// How long the network may be measured.
const NET_LIMIT: Duration = Duration::from_secs(2 * 60 * 60);

/// Runs the network's benchmark, which needs what the system tests have: `tests/src/bench.rs`. It reads the same
/// command line.
fn net() -> Result<()> {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command
        .current_dir(workspace::root())
        // As the tests are built: what is measured is the guests.
        .args(["bench", "--quiet", "--profile", "test"])
        .args(["--package", "tests", "--bench", "net", "--"])
        .args(std::env::args_os().skip(1));
    process::run(&mut command, NET_LIMIT).context("the network's benchmark failed")
}

fn print_ipc(options: &BenchOptions) -> Result<()> {
    let found = ipc()?;
    let mut shown = found.clone();
    if options.wall {
        shown.extend(wall()?);
    }
    figures::print(&shown, options.json)?;
    if options.record {
        let builder = Builder::new()?;
        let mut counts = Counts::read(&builder.workspace.root)?;
        counts.record(&builder.toolchain.version, &found);
        counts.write(&builder.workspace.root)?;
        say::progress(&format!(
            "recorded in {} for {}",
            counts::FILE,
            builder.toolchain.version
        ));
    }
    let above = counts::above_budget(&found);
    ensure!(above.is_empty(), "above what it may be at most: {above:?}");
    Ok(())
}

/// The kernel's paths, in instructions.
pub fn ipc() -> Result<Vec<Figure>> {
    let builder = Builder::new()?;
    let options = measuring();
    say::progress("measuring in QEMU, one instruction a nanosecond");
    let mut figures = boot(&builder, MANIFEST, "bench", &options, |next| collect(next))?;
    figures.extend(path::figures(&builder)?);
    Ok(figures)
}

/// The same in nanoseconds, and what needs several processors. It depends on this machine and on what else it
/// does.
pub fn wall() -> Result<Vec<Figure>> {
    let accel = match qemu::has_virtualisation() {
        true => Accel::Kvm,
        // Each processor on a thread of the host: no PCI memory is moved here.
        false => Accel::TcgThreads,
    };
    let options = RunOptions {
        accel,
        cpus: WALL_CPUS,
        headless: true,
        nic: Nic::None,
        ..RunOptions::default()
    };
    say::progress("measuring in QEMU, in nanoseconds");
    boot(&Builder::new()?, WALL_MANIFEST, "wall", &options, collect)
}

/// The machine that counts instructions.
fn measuring() -> RunOptions {
    RunOptions {
        accel: Accel::Tcg,
        icount: true,
        headless: true,
        nic: Nic::None,
        ..RunOptions::default()
    }
}

/// The console's next line.
type Next<'a> = dyn FnMut() -> Result<String, RecvTimeoutError> + 'a;

/// Boots a manifest's tasks on the release kernel and gives the console's lines to `read`.
fn boot<R>(
    builder: &Builder,
    manifest: &str,
    name: &str,
    options: &RunOptions,
    read: impl FnOnce(&mut Next<'_>) -> Result<R>,
) -> Result<R> {
    /// One at a time: an image's folder is emptied when it is made anew.
    static MEASURING: Mutex<()> = Mutex::new(());
    let _measuring = MEASURING.lock().unwrap_or_else(PoisonError::into_inner);
    packages::need(qemu::PROGRAM, &[qemu::PACKAGE])?;
    let manifest = builder.workspace.root.join(manifest);
    let image = image::assemble(
        builder,
        &Recipe {
            name,
            manifest: Some(&manifest),
            profile: Profile::Release,
            features: &[],
        },
    )?;
    let medium = Medium::Files {
        kernel: image.kernel,
        archive: image.archive,
    };
    let mut command = qemu::command(options, &medium, &[], None);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = process::start(&mut command)?;
    let output = child.stdout.take().context("QEMU has no output")?;
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let result = read(&mut || lines.recv_timeout(SILENCE));
    process::end(&mut child)?;
    result
}

/// Reads the console until the measuring task has done.
fn collect(next: &mut Next<'_>) -> Result<Vec<Figure>> {
    let (mut figures, mut console) = (Vec::new(), String::new());
    loop {
        let line = next().map_err(|_| anyhow::anyhow!("the guest fell silent: {console}"))?;
        console.push_str(&line);
        console.push('\n');
        ensure!(!line.contains("panic"), "the guest failed: {console}");
        let Some(said) = line.trim_end().strip_prefix(PREFIX) else {
            continue;
        };
        if said == "done" {
            return Ok(figures);
        }
        figures.push(figure(said).with_context(|| format!("in `{said}`"))?);
    }
}

/// The units that a figure can have.
const UNITS: [&str; 3] = ["instructions", "ns", "calls/s"];

/// Reads `NAME VALUE UNIT`.
fn figure(line: &str) -> Result<Figure> {
    let mut words = line.split_ascii_whitespace();
    let (Some(name), Some(value), Some(unit), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        bail!("the benchmark failed: {line}");
    };
    let unit = UNITS.into_iter().find(|one| *one == unit);
    let unit = unit.with_context(|| format!("the benchmark failed: {line}"))?;
    Ok(gated(Figure::new(name, value.parse()?, unit)))
}

/// The figure with what it may be at most, where that is said.
fn gated(figure: Figure) -> Figure {
    let gate = GATES.iter().find(|(gated, _)| *gated == figure.name);
    match gate {
        Some((_, most)) => figure.budget(*most),
        None => figure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(console: &str) -> Result<Vec<Figure>> {
        let mut lines = console.lines().map(str::to_owned);
        collect(&mut || lines.next().ok_or(RecvTimeoutError::Disconnected))
    }

    #[test]
    fn figures_are_read_up_to_the_end() {
        let console = "uzura 0.1.0\nbench: call_0 1807 instructions\nbench: done\nbench: x";
        let figures = read(console).unwrap();
        assert_eq!(figures.len(), 1);
        assert_eq!((figures[0].value, figures[0].budget), (1807, Some(450)));
    }

    #[test]
    fn a_guest_that_fails_or_stops_is_no_result() {
        for console in [
            "bench: FAIL no such handle\nbench: done\n",
            "bench: call_0 1807 instructions\n",
            "uzura: panic: at 1\nbench: done\n",
            "bench: call_0 many instructions\nbench: done\n",
        ] {
            assert!(read(console).is_err(), "{console}");
        }
    }
}
