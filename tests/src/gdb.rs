//! A debugger on the guest: gdb in batch mode, attached to the machine's stub as a person would attach
//! it. Which function is worth stopping at is the tests' business.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use iso::{packages, process};

use crate::{LIMIT, Machine};

/// Lets the machine run until it comes to `function` and returns what gdb says then: the breakpoint
/// it stopped at, the call stack and the instruction pointer. `symbols` are the files with symbols,
/// the kernel's first.
pub fn stop_at(machine: &Machine, symbols: &[&Path], function: &str) -> Result<String> {
    packages::need("gdb", &["gdb"])?;
    let port = machine
        .gdb
        .context("this machine was started without `gdb`")?;
    let (kernel, tasks) = symbols
        .split_first()
        .context("gdb needs the kernel's symbols")?;
    let mut gdb = Command::new("gdb");
    // Nothing of the user's own settings, and no questions.
    gdb.args(["--nx", "--batch"]).arg(kernel);
    for task in tasks {
        gdb.arg("-ex")
            .arg(format!("add-symbol-file {}", task.display()));
    }
    let commands = [
        format!("target remote 127.0.0.1:{port}"),
        // The code is not loaded yet, so a breakpoint cannot be written into it.
        format!("hbreak {function}"),
        "continue".to_owned(),
        "backtrace 8".to_owned(),
        "print/x $pc".to_owned(),
        "delete".to_owned(),
        "detach".to_owned(),
    ];
    for command in commands {
        gdb.arg("-ex").arg(command);
    }
    let said = process::output(&mut gdb, LIMIT)?;
    ensure!(
        said.contains("Breakpoint 1, "),
        "gdb did not stop at `{function}`:\n{said}"
    );
    Ok(said)
}
