//! Tasks die and come back: the network's driver in the middle of a download, which it must not
//! harm, and every other task, which must serve again.

use anyhow::{Context, Result, ensure};
use tests::images::{Kind, image};
use tests::{Setup, case, http, shell};

/// The length of the download.
const LONG: u64 = 64 << 20;

/// The driver is killed each time so much more has arrived.
const STRIDE: u64 = 6 << 20;

#[test]
fn download_survives_its_driver() {
    let what = "the driver is killed after each 6 MiB of a download of 64 MiB, which arrives whole";
    case("download_survives_its_driver", what, || {
        let mut machine = Setup::new(image(Kind::System)?)
            .cpus(2)
            .forward(80)
            .start()?;
        machine.console.wait_for("web: serving port 80\n")?;
        let url = machine.url(&format!("/bytes/{LONG}"))?;
        let (mut next, mut kills) = (STRIDE, 0);
        let got = http::download(&http::client(), &url, |total| {
            if total < next || total == LONG {
                return Ok(());
            }
            next = total + STRIDE;
            if kills > 0 {
                // What the host had buffered arrives while the driver is still down, and may be more
                // than a stride: the next kill waits until there is a driver to kill.
                machine.console.wait_for("attached to the driver, time")?;
            }
            kills += 1;
            machine.console.send_line("kill virtio-net")?;
            machine
                .console
                .wait_for("virtio-net died (killed)")
                .map(drop)
        })?;
        ensure!(
            got == http::expected(LONG),
            "{} bytes arrived, with another SHA-256",
            got.length
        );
        ensure!(kills >= 5, "the driver was killed {kills} times only");
        let tasks = shell::ps(&mut machine.console)?;
        let driver = tasks
            .iter()
            .find(|task| task.name == "virtio-net")
            .context("no driver in `ps`")?;
        ensure!(
            driver.restarts >= kills,
            "{kills} kills and {} restarts",
            driver.restarts
        );
        Ok(())
    });
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
