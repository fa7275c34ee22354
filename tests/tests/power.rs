//! The end of the system: by `halt`, by `reboot` and by the machine's power button, with the tasks stopped in
//! order before, in bounded time of the guest's own clock, and with QEMU ending by itself.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use iso::cli::{Machine as Chipset, Nic};
use tests::console::PROMPT;
use tests::images::{Kind, image};
use tests::{Console, Machine, Setup, case};

/// What the platform driver says when it waits for the button.
const WAITS: &str = "platform: power button: fixed, interrupt line 9\n";

/// How long the system may take to end, in time of the guest.
const LONGEST: Duration = Duration::from_secs(10);

fn on(chipset: Chipset) -> Result<Setup> {
    Ok(Setup::new(image(Kind::System)?).with(|options| options.machine = chipset))
}

fn without_legacy() -> Result<Setup> {
    let setup = on(Chipset::Q35)?;
    Ok(setup.with(|options| {
        options
            .qemu
            .extend(["-machine".to_owned(), "q35,pit=off,pic=off".to_owned()])
    }))
}

/// Waits until init has stopped the tasks and the kernel its work; how long the former took, by the guest's
/// clock.
fn ended(console: &mut Console, last: &str) -> Result<Duration> {
    console.wait_for("init: stopping ")?;
    let printed = console.wait_for(last)?;
    let mut lines = printed.lines().filter(|line| line.starts_with("init: "));
    let line = lines.next_back().context("init said nothing at the end")?;
    let milliseconds = line
        .strip_suffix(" ms")
        .and_then(|line| line.rsplit(' ').next())
        .and_then(|number| number.parse().ok());
    let time = milliseconds
        .map(Duration::from_millis)
        .with_context(|| format!("no time in `{line}`"))?;
    ensure!(time < LONGEST, "it took {time:?}");
    Ok(time)
}

/// The last line of all comes, init says before it that every task has stopped, and QEMU ends by itself.
fn switched_off(machine: &mut Machine) -> Result<()> {
    ended(&mut machine.console, "uzura: halted\n")?;
    machine.wait_for_end()?;
    let text = machine.console.text();
    ensure!(
        text.ends_with("uzura: halted\n"),
        "something was said after the last line"
    );
    ensure!(
        text.contains("init: all tasks stopped in "),
        "some task did not stop"
    );
    Ok(())
}

/// `reboot` leads to the prompt again, the second time `halt` ends QEMU.
fn restarts_and_ends(setup: Setup) -> Result<()> {
    let mut machine = setup.start()?;
    machine.console.wait_for(PROMPT)?;
    machine.console.send_line("reboot")?;
    ended(&mut machine.console, "uzura: rebooting\n")?;
    machine.console.wait_for("uzura 0")?;
    machine.console.wait_for(PROMPT)?;
    machine.console.send_line("halt")?;
    switched_off(&mut machine)
}

/// The power button ends QEMU.
fn button_ends(setup: Setup) -> Result<()> {
    let mut machine = setup.start()?;
    machine.console.wait_for(WAITS)?;
    machine.qmp.press_power_button()?;
    machine
        .console
        .wait_for("platform: the power button was pressed\n")?;
    switched_off(&mut machine)
}

#[test]
fn restart_and_end_on_pc() {
    case(
        "restart_and_end_on_pc",
        "an i440FX, which has no ACPI reset register, restarts and ends",
        || restarts_and_ends(on(Chipset::Pc)?),
    );
}

#[test]
fn restart_and_end_without_legacy() {
    case(
        "restart_and_end_without_legacy",
        "a Q35 without PIT and PIC restarts and ends",
        || restarts_and_ends(without_legacy()?.cpus(2)),
    );
}

#[test]
fn power_button_on_q35() {
    case(
        "power_button_on_q35",
        "the power button of a Q35 stops the tasks in order, and QEMU ends",
        || button_ends(on(Chipset::Q35)?.cpus(2)),
    );
}

#[test]
fn power_button_on_pc() {
    case(
        "power_button_on_pc",
        "the power button of an i440FX works, also when nothing else is plugged in",
        || button_ends(on(Chipset::Pc)?.with(|options| options.nic = Nic::None)),
    );
}

#[test]
fn power_button_without_legacy() {
    case(
        "power_button_without_legacy",
        "the power button of a Q35 without PIT and PIC works",
        || button_ends(without_legacy()?),
    );
}

#[test]
fn power_button_after_its_driver_died() {
    let what = "the platform driver comes back, and a press is heard once, however often it comes";
    case("power_button_after_its_driver_died", what, || {
        let mut machine = on(Chipset::Q35)?.start()?;
        machine.console.wait_for(WAITS)?;
        machine.console.wait_for(PROMPT)?;
        machine.console.send_line("kill platform")?;
        machine.console.wait_for("platform died (killed)")?;
        machine.console.wait_for(WAITS)?;
        machine.qmp.press_power_button()?;
        machine.console.wait_for("init: stopping ")?;
        // The machine may be gone already.
        let _ = machine.qmp.press_power_button();
        let printed = machine.console.wait_for("uzura: halted\n")?;
        ensure!(
            !printed.contains("init: stopping "),
            "it began to stop twice"
        );
        machine.wait_for_end()
    });
}

#[test]
fn task_that_never_stops_is_ended() {
    let what =
        "a task that hangs, more urgent than the applications, delays the end by seconds only";
    case("task_that_never_stops_is_ended", what, || {
        let setup = Setup::new(image(Kind::Beside)?).append("suite=task_that_never_stops");
        let mut machine = setup.start()?;
        machine.console.wait_for(WAITS)?;
        machine.console.wait_for("it hangs from now on\n")?;
        machine.qmp.press_power_button()?;
        let time = ended(&mut machine.console, "uzura: halted\n")?;
        machine.wait_for_end()?;
        let text = machine.console.text();
        ensure!(
            text.contains("init: suite did not stop in "),
            "nobody noticed that it hung"
        );
        ensure!(
            time >= Duration::from_secs(1),
            "it had {time:?} only to stop"
        );
        Ok(())
    });
}

#[test]
fn restart_without_keyboard_controller() {
    case(
        "restart_without_keyboard_controller",
        "an i440FX without a keyboard controller restarts by the chipset's own register",
        || {
            let without = ["-machine".to_owned(), "pc,i8042=off".to_owned()];
            restarts_and_ends(on(Chipset::Pc)?.with(|options| options.qemu.extend(without)))
        },
    );
}

/// The kernel alone panics, for lack of a boot archive, and restarts this machine, which has no ACPI.
fn panic_restarts(machine: &str) -> Result<()> {
    let machine = ["-machine".to_owned(), machine.to_owned()];
    let setup = Setup::new(image(Kind::Kernel)?)
        .append("panic.action=reboot")
        .with(|options| options.qemu.extend(machine))
        .with(|options| options.nic = Nic::None);
    let mut machine = setup.start()?;
    machine.console.wait_for("uzura 0")?;
    machine.console.panic()?;
    let text = machine.console.text();
    ensure!(
        text.contains("uzura: no ACPI root pointer"),
        "it has ACPI: {text}"
    );
    let (_, after) = text
        .split_once("uzura: rebooting\n")
        .context("the panic does not restart it")?;
    if !after.contains("uzura 0") {
        machine.console.wait_for("uzura 0")?;
    }
    Ok(())
}

#[test]
fn restart_by_the_keyboard_controller() {
    let what = "an ISA PC, whose keyboard controller alone resets it, restarts after a panic";
    case("restart_by_the_keyboard_controller", what, || {
        panic_restarts("isapc")
    });
}

#[test]
fn restart_by_a_triple_fault() {
    let what =
        "a microvm without ACPI, where nothing else resets the machine, restarts after a panic";
    case("restart_by_a_triple_fault", what, || {
        panic_restarts("microvm,acpi=off")
    });
}
