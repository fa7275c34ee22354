//! gdb, as README says it is attached, stops at a function by its name: in the kernel and in a task.

use anyhow::{Result, ensure};
use iso::cli::{Boot, Machine, RunOptions};
use tests::images::{Kind, image};
use tests::{Setup, case, console, gdb};

/// Stops at `function`, whose code is in these files, and lets the machine go on afterwards.
fn stops(files: &[&str], function: &str, machine: impl FnOnce(&mut RunOptions)) -> Result<()> {
    let image = image(Kind::System)?;
    let setup = Setup::new(image.clone()).gdb().with(machine);
    let mut machine = setup.start()?;
    let files: Vec<_> = files.iter().map(|file| image.symbols.join(file)).collect();
    let said = gdb::stop_at(
        &machine,
        &files.iter().map(AsRef::as_ref).collect::<Vec<_>>(),
        function,
    )?;
    ensure!(
        said.contains(function),
        "gdb does not name `{function}`:\n{said}"
    );
    machine.console.wait_for(console::PROMPT).map(drop)
}

#[test]
fn gdb_stops_in_the_kernel() {
    case("gdb_stops_in_the_kernel", "hbreak kernel_start", || {
        stops(&["kernel"], "kernel_start", |_| {})
    });
}

#[test]
fn gdb_stops_on_the_older_machine() {
    let what = "hbreak kernel_start on i440FX with 2 CPUs";
    case("gdb_stops_on_the_older_machine", what, || {
        stops(&["kernel"], "kernel_start", |options| {
            options.machine = Machine::Pc;
            options.cpus = 2;
        })
    });
}

#[test]
fn gdb_stops_in_what_grub_loads() {
    let what = "hbreak kernel_start in a kernel from an ISO, 2 CPUs";
    case("gdb_stops_in_what_grub_loads", what, || {
        stops(&["kernel"], "kernel_start", |options| {
            options.boot = Boot::Iso;
            options.cpus = 2;
        })
    });
}

#[test]
fn gdb_stops_in_a_task() {
    case(
        "gdb_stops_in_a_task",
        "hbreak in the shell's program",
        || stops(&["kernel", "shell"], "shell_task::run", |_| {}),
    );
}
