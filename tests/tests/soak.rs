//! The soak: ten minutes of requests, kills and commands, after which the kernel's counts are where
//! they were. Left out of `cargo test`; `cargo run -- test full` has it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::case::say;
use tests::images::{Kind, image};
use tests::{Machine, Setup, case, http, shell};

/// How long the machine works.
const LENGTH: Duration = Duration::from_secs(10 * 60);
/// Longer than init remembers a death, for each task: six of them take turns.
const BETWEEN_KILLS: Duration = Duration::from_secs(10);
/// Longer than the network stack remembers a connection that it closed first, in guest time.
const TIME_WAIT: Duration = Duration::from_secs(90);
/// When a client gives a request up whose server was killed.
const PATIENCE: Duration = Duration::from_secs(20);
/// What `mem` rounds away, of each of its sizes, in bytes.
const ROUNDING: f64 = 0.11 * 1024.0 * 1024.0;

const KILLED: [&str; 6] = ["virtio-net", "web", "console", "netstack", "shell", "pci"];
const COMMANDS: [&str; 5] = ["info", "mem", "net", "ping 10.0.2.2", "uptime"];

#[test]
fn soak() {
    let what = "ten minutes of requests, kills and commands on 2 CPUs leave nothing behind";
    case("soak", what, || {
        let setup = Setup::new(image(Kind::System)?).cpus(2).forward(80);
        let mut machine = setup.start()?;
        machine.console.wait_for("web: serving port 80\n")?;
        // One round first, so that what the kernel keeps for reuse is there already.
        let each = BETWEEN_KILLS * KILLED.len() as u32;
        work(&mut machine, each)?;
        let before = counts(&mut machine)?;
        let requests = work(&mut machine, LENGTH)?;
        let after = counts(&mut machine)?;
        say(&format!(
            "  {requests} requests; before {before:?}; after {after:?}"
        ));
        compare(&before, &after)
    });
}

/// Requests from four clients, kills and commands, for so long. Returns the number of requests that
/// were answered.
fn work(machine: &mut Machine, length: Duration) -> Result<u64> {
    let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let url = machine.url("/bytes/100000")?;
    let page = machine.url("/")?;
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let expected = http::expected(100_000);
                while !stop.load(Ordering::Relaxed) {
                    // A kill of web or netstack breaks connections; what arrives whole is right.
                    match http::download(&http::client_within(PATIENCE), &url, |_| Ok(())) {
                        Ok(got) if got == expected => {
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        _ => thread::sleep(Duration::from_millis(50)),
                    }
                }
            });
        }
        let result = disturb(machine, &page, length);
        stop.store(true, Ordering::Relaxed);
        result
    })?;
    let answered = answered.load(Ordering::Relaxed);
    ensure!(answered > 0, "no request was answered");
    Ok(answered)
}

fn disturb(machine: &mut Machine, page: &str, length: Duration) -> Result<()> {
    let begin = Instant::now();
    for round in 0.. {
        if begin.elapsed() >= length {
            return Ok(());
        }
        let killed = KILLED[round % KILLED.len()];
        let next = Instant::now() + BETWEEN_KILLS;
        machine.console.send_line(&format!("kill {killed}"))?;
        machine
            .console
            .wait_for(&format!("{killed} died (killed)"))?;
        http::get_again(page).with_context(|| format!("after `kill {killed}`"))?;
        machine.console.send_line("")?;
        machine.console.wait_for("uzura> ")?;
        while Instant::now() < next {
            let command = COMMANDS[round % COMMANDS.len()];
            machine
                .console
                .command(command)
                .with_context(|| command.to_owned())?;
            thread::sleep(Duration::from_millis(500));
        }
    }
    Ok(())
}

/// What `mem` says once connections are forgotten and nothing is being reclaimed.
fn counts(machine: &mut Machine) -> Result<BTreeMap<String, String>> {
    thread::sleep(TIME_WAIT);
    let begin = Instant::now();
    loop {
        let counts = shell::pairs(&mut machine.console, "mem")?;
        let settled = counts
            .get("being reclaimed")
            .is_some_and(|count| count == "0");
        if settled || begin.elapsed() >= tests::LIMIT {
            return Ok(counts);
        }
        thread::sleep(Duration::from_millis(500));
    }
}

fn compare(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Result<()> {
    let read = |counts: &BTreeMap<String, String>, name: &str| -> Result<f64> {
        bytes(
            counts
                .get(name)
                .with_context(|| format!("`mem` has no `{name}`"))?,
        )
    };
    for (name, old) in before {
        if name == "free" || name == "kernel objects" {
            continue;
        }
        let new = after
            .get(name)
            .with_context(|| format!("`mem` has no `{name}`"))?;
        ensure!(old == new, "{name}: {old} before, {new} after");
    }
    // What the kernel keeps for objects to come is not lost, and not free either.
    let kept =
        |counts| Ok::<f64, anyhow::Error>(read(counts, "free")? + read(counts, "kernel objects")?);
    let (old, new) = (kept(before)?, kept(after)?);
    ensure!(
        (old - new).abs() <= 2.0 * ROUNDING,
        "memory free or kept: {old} bytes before, {new} after"
    );
    Ok(())
}

/// Reads a size as the shell prints it.
fn bytes(text: &str) -> Result<f64> {
    let (number, unit) = text
        .split_once(' ')
        .with_context(|| format!("`{text}` is no size"))?;
    let factor = match unit {
        "B" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => anyhow::bail!("`{unit}` is no unit"),
    };
    let number: f64 = number
        .parse()
        .with_context(|| format!("`{text}` is no size"))?;
    Ok(number * factor)
}
