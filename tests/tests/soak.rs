//! The soak: ten minutes of requests, kills and commands, after which the kernel's counts are where
//! they were. Left out of `cargo test`; `cargo run -- test full` has it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::case::say;
use tests::counts::Counts;
use tests::images::{self, INIT, Kind, image};
use tests::{Machine, Setup, case, http};

/// How long the machine works.
const LENGTH: Duration = Duration::from_secs(10 * 60);
/// Longer than init remembers a death, for each task: all but init take turns.
const BETWEEN_KILLS: Duration = Duration::from_secs(10);
/// Longer than the network stack remembers a connection that it closed first, in guest time.
const TIME_WAIT: Duration = Duration::from_secs(90);
/// When a client gives a request up whose server was killed.
const PATIENCE: Duration = Duration::from_secs(20);

const COMMANDS: [&str; 5] = ["info", "mem", "net", "ping 10.0.2.2", "uptime"];

#[test]
fn soak() {
    let what = "ten minutes of requests, kills and commands on 2 CPUs leave nothing behind";
    case("soak", what, || {
        let setup = Setup::new(image(Kind::System)?).cpus(2).forward(80);
        let mut machine = setup.start()?;
        machine.console.wait_for("web: serving port 80\n")?;
        // One round first, so that what the kernel keeps for reuse is there already.
        let each = BETWEEN_KILLS * killed()?.len() as u32;
        work(&mut machine, each)?;
        settle(&mut machine)?;
        let before = Counts::read(&mut machine.console)?;
        let requests = work(&mut machine, LENGTH)?;
        settle(&mut machine)?;
        let after = before.come_back(&mut machine.console);
        say(&format!(
            "  {requests} requests; before {before:?}; after {:?}",
            Counts::read(&mut machine.console)?
        ));
        after
    });
}

/// Lets the network stack forget connections, and the shell have the session that it keeps from its
/// first command about the network on. How many rings the web server shares depends on how many called it
/// at once: it begins anew, and serves one page.
fn settle(machine: &mut Machine) -> Result<()> {
    thread::sleep(TIME_WAIT);
    machine.console.send_line("kill web")?;
    machine.console.wait_for("web died (killed)")?;
    machine.console.wait_for("web: serving port 80\n")?;
    http::get_again(&machine.url("/")?)?;
    machine.console.send_line("")?;
    machine.console.wait_for("uzura> ")?;
    machine.console.command("net").map(drop)
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

/// The tasks that are killed.
fn killed() -> Result<Vec<String>> {
    let tasks = images::tasks()?;
    Ok(tasks.into_iter().filter(|name| name != INIT).collect())
}

fn disturb(machine: &mut Machine, page: &str, length: Duration) -> Result<()> {
    let tasks = killed()?;
    let begin = Instant::now();
    for round in 0.. {
        if begin.elapsed() >= length {
            return Ok(());
        }
        let killed = &tasks[round % tasks.len()];
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
