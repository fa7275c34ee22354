//! The machines that Uzura boots on: a row each, with what has to hold on all of them. `cargo test` checks a
//! slice of them, `cargo run -- test matrix` each. What a row can be is `row`'s.

pub(crate) mod pairs;
mod row;

use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, ensure};

use crate::case::say;
use crate::console::PROMPT;
use crate::images::{Kind, image};
use crate::{Bochs, Console, Machine, gdb, http};

pub use row::{Row, SLICE, all};

/// How many rows are checked at a time: one more than emulators run, so that the next disk is made meanwhile.
const AT_A_TIME: usize = 3;

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
    /// Boots the system there: it serves, restarts, is debugged, and ends by itself.
    fn check(&self, progress: &mut Progress) -> Result<()> {
        let (setup, _folder) = self.setup(&image(Kind::System)?)?;
        let symbols = setup.image.symbols.join("kernel");
        let mut machine = setup.clone().start()?;
        let url = self.has_card().then(|| machine.url("/")).transpose()?;
        serves(&mut machine.console, url.as_deref(), progress)?;
        restarts(&mut machine.console, url.as_deref(), progress)?;
        ends(&mut machine.console)?;
        machine.wait_for_end()?;
        // Whoever waits for a second emulator and keeps the first one's place waits for ever.
        drop(machine);
        progress.pass();
        let mut machine = setup.gdb().start()?;
        gdb::stop_at(&machine, &[&symbols], "kernel_start")?;
        progress.pass();
        ends_by_its_button(&mut machine)?;
        progress.pass();
        Ok(())
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

/// The power button stops the tasks and ends the machine.
fn ends_by_its_button(machine: &mut Machine) -> Result<()> {
    machine.console.wait_for("platform: power button: ")?;
    machine.qmp.press_power_button()?;
    machine.console.wait_for("init: all tasks stopped in ")?;
    machine.console.wait_for("uzura: halted\n")?;
    machine.wait_for_end()
}

/// Reaches the shell, and gets the page where there is a card.
fn serves(console: &mut Console, url: Option<&str>, progress: &mut Progress) -> Result<()> {
    console.wait_for(PROMPT)?;
    progress.pass();
    works(console, url)?;
    let page = if url.is_some() { "yes" } else { "-" };
    progress.passed.push(page);
    Ok(())
}

fn restarts(console: &mut Console, url: Option<&str>, progress: &mut Progress) -> Result<()> {
    console.send_line("reboot")?;
    console.wait_for("uzura: rebooting")?;
    console.wait_for(PROMPT)?;
    works(console, url).context("after `reboot`")?;
    progress.pass();
    Ok(())
}

fn ends(console: &mut Console) -> Result<()> {
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

/// Checks the machine that Bochs plays, which has neither gdb's stub nor a power button from outside and does
/// not come up again after a reset, and prints lines of the table.
pub fn check_bochs() -> Result<()> {
    let system = image(Kind::System)?;
    let ends = |progress: &mut Progress| {
        let mut machine = Bochs::start_with_card(&system, BOCHS_CPUS, 80)?;
        let url = machine.url("/")?;
        serves(&mut machine.console, Some(&url), progress)?;
        ends(&mut machine.console)?;
        machine.wait_for_end()?;
        progress.passed.extend(["-", "yes", "-", "-"]);
        Ok(())
    };
    let is_reset = |progress: &mut Progress| {
        let mut machine = Bochs::start(&system, BOCHS_CPUS, "")?;
        serves(&mut machine.console, None, progress)?;
        machine.console.send_line("reboot")?;
        machine.console.wait_for("uzura: rebooting\n")?;
        machine.wait_for_reset()?;
        progress.passed.extend(["reset", "-", "-", "-"]);
        Ok(())
    };
    bochs_line("e1000", ends).and_then(|()| bochs_line("none", is_reset))
}

/// Processors of the machine in Bochs.
const BOCHS_CPUS: u32 = 2;

/// Checks a machine in Bochs, with or without a card, and prints its line.
fn bochs_line(card: &str, check: impl FnOnce(&mut Progress) -> Result<()>) -> Result<()> {
    let mut progress = Progress::default();
    let result = check(&mut progress);
    let cpus = BOCHS_CPUS.to_string();
    let words = ["Bochs", "", &cpus, "128", "BIOS", "ISO as CD", card];
    let machine = line(words.map(str::to_owned));
    say(&format!("  {machine}{}", progress.cells()));
    result.context("Bochs")
}

/// Checks all of these machines, and prints a line of the table for each. The error names those that failed.
pub fn check(rows: &[Row]) -> Result<()> {
    say(&heading());
    let left = Mutex::new(rows.iter());
    let next = || left.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        let mut failed = Vec::new();
        while let Some(row) = next() {
            failed.extend(row.verdict());
        }
        failed
    };
    let failed: Vec<String> = thread::scope(|scope| {
        let workers = [(); AT_A_TIME].map(|()| scope.spawn(work));
        let failed = workers.into_iter().flat_map(|worker| {
            let lost = |_| vec!["a check of a machine panicked".to_owned()];
            worker.join().unwrap_or_else(lost)
        });
        failed.collect()
    });
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    say(&format!("  {} machines", rows.len()));
    Ok(())
}
