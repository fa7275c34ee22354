//! Tasks die and come back: the network's driver in the middle of a download, which it must not
//! harm, and every other task, which must serve again.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use iso::cli::Nic;
use tests::counts::Counts;
use tests::images::{self, INIT, Kind, image};
use tests::{LIMIT, Machine, Setup, case, driver, http, shell};

/// The length of the download.
const LONG: u64 = 64 << 20;

/// The driver is killed each time so much more has arrived.
const STRIDE: u64 = 6 << 20;

#[test]
fn download_survives_its_driver() {
    let what = "virtio-net is killed after each 6 MiB of a download of 64 MiB, which arrives whole";
    case("download_survives_its_driver", what, || {
        survives("virtio-net", |setup| setup)
    });
}

#[test]
fn download_survives_e1000() {
    let what = "e1000 is killed after each 6 MiB of a download of 64 MiB, which arrives whole";
    case("download_survives_e1000", what, || {
        survives("e1000", |setup| {
            setup.with(|options| options.nic = Nic::E1000)
        })
    });
}

/// Kills the card's driver again and again during a download.
fn survives(name: &str, change: impl FnOnce(Setup) -> Setup) -> Result<()> {
    let setup = Setup::new(image(Kind::System)?).cpus(2).forward(80);
    let mut machine = change(setup).start()?;
    machine.console.wait_for("web: serving port 80\n")?;
    let kills = driver::killed_in_download(&mut machine, name, LONG, STRIDE)?;
    ensure!(kills >= 5, "the driver was killed {kills} times only");
    let tasks = shell::ps(&mut machine.console)?;
    let task = tasks.iter().find(|task| task.name == name);
    let task = task.context("no driver in `ps`")?;
    ensure!(
        task.restarts >= kills,
        "{kills} kills and {} restarts",
        task.restarts
    );
    Ok(())
}

/// Kills a task and checks that it is reported, and that console and page serve afterwards.
fn comes_back(name: &str) -> Result<()> {
    let mut machine = Setup::new(image(Kind::System)?)
        .cpus(2)
        .forward(80)
        .start()?;
    machine.console.wait_for("web: serving port 80\n")?;
    let url = machine.url("/")?;
    http::get(&http::client(), &url)?;
    machine.console.send_line(&format!("kill {name}"))?;
    machine.console.wait_for(&format!("{name} died (killed)"))?;
    let page = http::get_again(&url)?;
    ensure!(page.contains("Uzura"), "{page}");
    let tasks = shell::ps(&mut machine.console)?;
    let task = tasks
        .iter()
        .find(|task| task.name == name)
        .with_context(|| format!("no {name} in `ps`"))?;
    ensure!(task.restarts == 1 && task.state == "running", "{task:?}");
    Ok(())
}

#[test]
fn restarts_leave_nothing() {
    let what = "after each task was killed twice, the kernel's counts are where they were";
    case("restarts_leave_nothing", what, || {
        let mut machine = Setup::new(image(Kind::System)?).cpus(2).start()?;
        machine.console.wait_for("web: serving port 80\n")?;
        // One round first, so that what the kernel keeps for reuse is there already.
        kill_each(&mut machine)?;
        let before = Counts::read(&mut machine.console)?;
        for _ in 0..2 {
            kill_each(&mut machine)?;
        }
        before.come_back(&mut machine.console)
    });
}

/// What the log says when all that the death of this task broke is whole again, where it says anything:
/// a driver without a card of its own breaks nothing.
fn mended(name: &str) -> Option<&'static str> {
    match name {
        "virtio-net" | "netstack" | "pci" => Some("netstack: attached to the driver"),
        "web" => Some("web: serving port 80"),
        "platform" => Some("platform: power button: fixed"),
        _ => None,
    }
}

/// Kills every task but init, one after the other, each when what the one before did is mended.
fn kill_each(machine: &mut Machine) -> Result<()> {
    let console = &mut machine.console;
    for name in images::tasks()?.iter().filter(|name| *name != INIT) {
        console.send_line(&format!("kill {name}"))?;
        console.wait_for(&format!("{name} died (killed)"))?;
        if let Some(line) = mended(name) {
            console.wait_for(line)?;
        }
        let begin = Instant::now();
        while !shell::ps(console)?
            .iter()
            .all(|task| task.state == "running")
        {
            ensure!(begin.elapsed() < LIMIT, "a task does not run again");
        }
    }
    Ok(())
}

/// One test for each task.
macro_rules! tasks {
    ($($test:ident: $name:expr;)+) => {
        $(#[test]
        fn $test() {
            case(stringify!($test), concat!("`kill ", $name, "`"), || comes_back($name));
        })+
    };
}

tasks! {
    console_comes_back: "console";
    web_comes_back: "web";
    netstack_comes_back: "netstack";
    pci_comes_back: "pci";
    shell_comes_back: "shell";
}
