//! QEMU's microvm: no PCI bus, memory-mapped virtio devices that the command line names, a line for an
//! interrupt.

use anyhow::{Result, ensure};
use iso::cli::{Machine as Kind, Nic};
use tests::console::PROMPT;
use tests::images::{self, image};
use tests::{Setup, case, driver, http, shell};

/// The system on a microvm.
fn setup() -> Result<Setup> {
    let setup = Setup::new(image(images::Kind::System)?);
    Ok(setup.with(|options| options.machine = Kind::Microvm))
}

/// Shell, page, and a download in which the driver is killed.
fn serves(cpus: u32) -> Result<()> {
    let mut machine = setup()?.cpus(cpus).forward(80).start()?;
    let console = &mut machine.console;
    let processors = format!("CPUs: {cpus} of {cpus}, ");
    console.wait_for(&processors)?;
    console.wait_for("virtio-net: memory-mapped device, interrupts: Line\n")?;
    console.wait_for("web: serving port 80\n")?;
    let page = http::get(&http::client(), &machine.url("/")?)?;
    ensure!(page.contains("virtio-net"), "the page is: {page}");
    let kills = driver::killed_in_download(&mut machine, "virtio-net", 32 << 20, 6 << 20)?;
    ensure!(kills >= 3, "the driver was killed {kills} times only");
    let tasks = shell::ps(&mut machine.console)?;
    let restarted = tasks
        .iter()
        .find(|task| task.name == "virtio-net" && task.restarts >= kills);
    ensure!(restarted.is_some(), "{kills} kills and {tasks:?}");
    Ok(())
}

#[test]
fn microvm_serves_with_1_cpu() {
    let what = "microvm with 1 CPU: shell, page, and the driver is killed during a download";
    case("microvm_serves_with_1_cpu", what, || serves(1));
}

#[test]
fn microvm_serves_with_4_cpus() {
    let what = "microvm with 4 CPUs: shell, page, and the driver is killed during a download";
    case("microvm_serves_with_4_cpus", what, || serves(4));
}

#[test]
fn microvm_stops_what_a_dead_bus_left() {
    let what = "microvm: `kill pci` takes the card from its driver and gives it back";
    case("microvm_stops_what_a_dead_bus_left", what, || {
        let mut machine = setup()?.cpus(8).forward(80).start()?;
        machine.console.wait_for("web: serving port 80\n")?;
        let url = machine.url("/bytes/1000000")?;
        http::download(&http::client(), &url, |_| Ok(()))?;
        machine.console.send_line("kill pci")?;
        machine.console.wait_for("pci died (killed)")?;
        machine.console.wait_for("a device, stopped\n")?;
        machine.console.wait_for("attached to the driver")?;
        let got = http::download(&http::client(), &url, |_| Ok(()))?;
        ensure!(got == http::expected(1_000_000), "{got:?}");
        Ok(())
    });
}

#[test]
fn microvm_without_a_card() {
    let what = "microvm without a card: the shell works, and what lacks the card says so";
    case("microvm_without_a_card", what, || {
        let setup = setup()?.with(|options| options.nic = Nic::None);
        let mut machine = setup.start()?;
        machine
            .console
            .wait_for("virtio-net: no virtio network device")?;
        machine.console.wait_for("no network for now")?;
        let tasks = shell::ps(&mut machine.console)?;
        let well = |task: &shell::Task| task.state == "running" && task.restarts == 0;
        ensure!(tasks.iter().all(well), "{tasks:?}");
        Ok(())
    });
}

/// A microvm with one I/O APIC, whose eight slots have the lines from 16 on, a card in the last of
/// them, and this command line.
fn one_io_apic(words: &str) -> Result<Setup> {
    let card = "virtio-net-device,netdev=net0,bus=virtio-mmio-bus.7";
    let setup = setup()?.devices(&[card]).append(words).forward(80);
    Ok(setup.with(|options| {
        let machine = ["-machine", "microvm,ioapic2=off"];
        options.qemu.extend(machine.map(str::to_owned));
    }))
}

#[test]
fn microvm_with_one_io_apic() {
    let what = "microvm with 24 interrupt lines: words for an empty slot, and bad ones, do no harm";
    case("microvm_with_one_io_apic", what, || {
        let words = "virtio_mmio.device=512@0xfeb00c00:22 virtio_mmio.device=512@0xfeb00e00:23 \
                     virtio_mmio.device=512@0x1000:5 virtio_mmio.device=here";
        let mut machine = one_io_apic(words)?.start()?;
        let console = &mut machine.console;
        console.wait_for(", 24 interrupt lines\n")?;
        console.wait_for("virtio_mmio.device=here: write SIZE@ADDRESS:LINE")?;
        console.wait_for("virtio-mmio at 0xfeb00c00: no device\n")?;
        console.wait_for("virtio-mmio at 0xfeb00e00: a device, stopped\n")?;
        // That is RAM.
        console.wait_for("virtio-mmio at 0x1000: cannot be mapped")?;
        console.wait_for("web: serving port 80\n")?;
        let page = http::get(&http::client(), &machine.url("/")?)?;
        ensure!(page.contains("virtio-net"), "the page is: {page}");
        let text = machine.console.text();
        let unknown = text.lines().find(|line| line.contains("no such tunable"));
        ensure!(unknown.is_none(), "{unknown:?}");
        Ok(())
    });
}

#[test]
fn microvm_with_the_older_interface() {
    let what = "microvm with a card of the older interface: it is stopped, and said to be useless";
    case("microvm_with_the_older_interface", what, || {
        let setup = one_io_apic("virtio_mmio.device=512@0xfeb00e00:23")?;
        let setup = setup.with(|options| {
            let older = ["-global", "virtio-mmio.force-legacy=true"];
            options.qemu.extend(older.map(str::to_owned));
        });
        let mut machine = setup.start()?;
        machine
            .console
            .wait_for("0xfeb00e00: version 1, which no driver speaks")?;
        machine
            .console
            .wait_for("virtio-net: no virtio network device")?;
        machine.console.wait_for(PROMPT).map(drop)
    });
}
