//! The system as a person meets it: the prompt, the tasks, and that they run where they should: each in
//! an address space of its own, in ring 3.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Result, ensure};
use iso::cli::Nic;
use tests::console::PROMPT;
use tests::images::{self, Kind, image};
use tests::shell::{self, Task};
use tests::{LIMIT, Machine, Setup, case, http};

#[test]
fn prompt_and_tasks() {
    case(
        "prompt_and_tasks",
        "`ps` lists every task with its CPU time, memory, priority and root",
        || {
            let mut machine = Setup::new(image(Kind::System)?).start()?;
            machine.console.wait_for(PROMPT)?;
            let tasks = shell::ps(&mut machine.console)?;
            let names: BTreeSet<String> = tasks.iter().map(|task| task.name.clone()).collect();
            ensure!(names == images::tasks()?, "`ps` lists {names:?}");
            let roots: BTreeSet<u64> = tasks.iter().map(|task| task.root).collect();
            ensure!(
                roots.len() == tasks.len() && !roots.contains(&0),
                "two tasks share a root: {tasks:?}"
            );
            let odd = tasks
                .iter()
                .find(|task| task.state != "running" || task.priority == 0 || task.memory == "0 B");
            ensure!(odd.is_none(), "{odd:?}");
            ensure!(
                tasks.iter().any(|task| task.cpu_time > 0),
                "no task used any CPU time: {tasks:?}"
            );
            Ok(())
        },
    );
}

#[test]
fn every_root_is_seen_in_ring_3() {
    let what = "QEMU sees each task's page-table root in ring 3 while the tasks work";
    case("every_root_is_seen_in_ring_3", what, || {
        let mut machine = Setup::new(image(Kind::System)?)
            .cpus(2)
            .forward(80)
            .start()?;
        let mut seen = BTreeSet::new();
        // The tasks that only work when the system starts are seen then.
        while !machine.console.text().contains(PROMPT) {
            look(&mut machine, &mut seen)?;
        }
        machine.console.wait_for("web: serving port 80\n")?;
        let begin = Instant::now();
        loop {
            let tasks = shell::ps(&mut machine.console)?;
            let missing: Vec<&Task> = tasks
                .iter()
                .filter(|task| !seen.contains(&task.root))
                .collect();
            if missing.is_empty() {
                return Ok(());
            }
            ensure!(begin.elapsed() < LIMIT, "never seen in ring 3: {missing:?}");
            work(&mut machine, &mut seen)?;
        }
    });
}

/// Notes the roots that are in ring 3 at this moment.
fn look(machine: &mut Machine, seen: &mut BTreeSet<u64>) -> Result<()> {
    let samples = machine.qmp.sample()?;
    seen.extend(
        samples
            .iter()
            .filter(|sample| sample.cpl == 3 && !sample.halted)
            .map(|sample| sample.root),
    );
    Ok(())
}

/// Gives the tasks something to do, and looks at the processors meanwhile. A restart of the network's
/// driver gives pci and init work too.
fn work(machine: &mut Machine, seen: &mut BTreeSet<u64>) -> Result<()> {
    let url = machine.url("/bytes/8388608")?;
    machine.console.command("kill virtio-net")?;
    // These work when they start, and then wait: for the power button, and for who asks after a card.
    for (name, line) in [
        ("platform", "platform: power button"),
        ("e1000", "e1000: no e1000 network device"),
    ] {
        let starts = |machine: &Machine| machine.console.text().matches(line).count();
        let before = starts(machine);
        machine.console.send_line(&format!("kill {name}"))?;
        while starts(machine) == before {
            look(machine, seen)?;
        }
        machine.console.wait_for(PROMPT)?;
    }
    let download = std::thread::spawn(move || http::download(&http::client(), &url, |_| Ok(())));
    while !download.is_finished() {
        machine.console.command("mem")?;
        for _ in 0..20 {
            look(machine, seen)?;
        }
    }
    // Whether it arrives is another test's question.
    drop(download.join());
    Ok(())
}

#[test]
fn no_card() {
    let what = "without a network card everything else works, and what lacks it says so once";
    case("no_card", what, || {
        let setup = Setup::new(image(Kind::System)?).with(|options| options.nic = Nic::None);
        let mut machine = setup.start()?;
        let console = &mut machine.console;
        let refused = "netstack: no network for now: no driver has a card\n";
        console.wait_for(refused)?;
        for cause in ["virtio-net: no virtio network", "e1000: no e1000 network"] {
            let said = console.text().matches(cause).count();
            ensure!(said == 1, "`{cause}` was said {said} times");
        }
        let net = console.command("net")?;
        ensure!(net.contains("no driver"), "`net` says: {net}");
        let ping = console.command("ping 10.0.2.2")?;
        ensure!(ping.contains("unreachable"), "`ping` says: {ping}");
        // The network stack goes on looking for a driver.
        let tasks = shell::ps(console)?;
        ensure!(
            tasks
                .iter()
                .all(|task| task.state == "running" && task.restarts == 0),
            "{tasks:?}"
        );
        let said = console.text().matches(refused).count();
        ensure!(said == 1, "it said so {said} times");
        Ok(())
    });
}

#[test]
fn halt_switches_the_machine_off() {
    case(
        "halt_switches_the_machine_off",
        "`halt` says its last line and ends QEMU",
        || {
            let mut machine = Setup::new(image(Kind::System)?).start()?;
            machine.console.wait_for(PROMPT)?;
            machine.console.send_line("halt")?;
            machine.console.wait_for("uzura: halted")?;
            machine.wait_for_end()
        },
    );
}

#[test]
fn reboot_comes_back() {
    case(
        "reboot_comes_back",
        "`reboot` and the reset button lead to the prompt again",
        || {
            let mut machine = Setup::new(image(Kind::System)?).start()?;
            machine.console.wait_for(PROMPT)?;
            machine.console.send_line("reboot")?;
            machine.console.wait_for("uzura: rebooting")?;
            machine.console.wait_for(PROMPT)?;
            machine.qmp.reset()?;
            machine.console.wait_for("uzura 0")?;
            machine.console.wait_for(PROMPT).map(drop)
        },
    );
}
