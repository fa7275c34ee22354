//! The web server is served by the isolated tasks under it, on every kind of machine and card: the
//! page, thousands of requests, long downloads and uploads, two of them side by side, and pings.

use std::net::Ipv4Addr;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use iso::cli::Nic;
use tests::images::{ADDRESS, Kind, image};
use tests::peer::Peer;
use tests::{Machine, Setup, case, console, http};

/// The length of the long transfers.
const LONG: u64 = 64 << 20;

/// A machine with so many processors and this card, on which all of the above has to work.
fn serves(cpus: u32, change: impl FnOnce(Setup) -> Setup) -> Result<()> {
    let setup = Setup::new(image(Kind::System)?).cpus(cpus).forward(80);
    let mut machine = change(setup).start()?;
    machine.console.wait_for("web: serving port 80\n")?;
    page(&machine)?;
    sequential(&machine, 2000)?;
    parallel(&machine, 8, 500)?;
    long_transfers(&machine)?;
    page(&machine)
}

fn page(machine: &Machine) -> Result<()> {
    let page = http::get(&http::client(), &machine.url("/")?)?;
    ensure!(
        page.contains("Uzura") && page.contains("virtio-net"),
        "the page is: {page}"
    );
    Ok(())
}

/// Each on a connection of its own, one after the other.
fn sequential(machine: &Machine, count: u32) -> Result<()> {
    let url = machine.url("/bytes/100")?;
    for number in 0..count {
        let got = http::download(&http::client(), &url, |_| Ok(()));
        ensure!(
            got.with_context(|| format!("request {number}"))? == http::expected(100),
            "request {number}"
        );
    }
    Ok(())
}

/// So many clients at a time, each with a connection that it keeps.
fn parallel(machine: &Machine, clients: u32, count: u32) -> Result<()> {
    let url = machine.url("/bytes/1000")?;
    let expected = http::expected(1000);
    together((0..clients).map(|client| {
        let (url, expected) = (&url, &expected);
        move || {
            let agent = http::client();
            for number in 0..count {
                let got = http::download(&agent, url, |_| Ok(()));
                let got = got.with_context(|| format!("client {client}, request {number}"))?;
                ensure!(got == *expected, "client {client}, request {number}");
            }
            Ok(())
        }
    }))
}

fn long_transfers(machine: &Machine) -> Result<()> {
    let (down, up) = (
        machine.url(&format!("/bytes/{LONG}"))?,
        machine.url("/sink")?,
    );
    let expected = http::expected(LONG);
    let download = || -> Result<()> {
        let got = http::download(&http::client(), &down, |_| Ok(()))?;
        ensure!(
            got == expected,
            "{} bytes arrived, with another SHA-256",
            got.length
        );
        Ok(())
    };
    download()?;
    let body: Vec<u8> = (0..LONG)
        .map(|position| ((position * 7) >> 3) as u8)
        .collect();
    let receipt = http::receipt(&body);
    let answer = http::upload(&http::client(), &up, &body)?;
    ensure!(
        answer == receipt,
        "the sink says `{answer}`, not `{receipt}`"
    );
    together([&download, &download])
}

/// Runs all of these at a time and returns the first error.
fn together<F: FnOnce() -> Result<()> + Send>(bodies: impl IntoIterator<Item = F>) -> Result<()> {
    thread::scope(|scope| {
        let threads: Vec<_> = bodies.into_iter().map(|body| scope.spawn(body)).collect();
        for thread in threads {
            thread.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        Ok(())
    })
}

/// One test for each machine.
macro_rules! machines {
    ($($name:ident: $what:expr, $cpus:expr, $change:expr;)+) => {
        $(#[test]
        fn $name() {
            case(stringify!($name), $what, || serves($cpus, $change));
        })+
    };
}

machines! {
    web_modern_1_cpu: "a modern card, 1 CPU", 1, |setup| setup;
    web_modern_2_cpus: "a modern card, 2 CPUs", 2, |setup| setup;
    web_modern_4_cpus: "a modern card, 4 CPUs", 4, |setup| setup;
    web_legacy_1_cpu: "a legacy card, 1 CPU", 1, legacy;
    web_legacy_2_cpus: "a legacy card, 2 CPUs", 2, legacy;
    web_legacy_4_cpus: "a legacy card, 4 CPUs", 4, legacy;
    web_e1000_1_cpu: "an e1000 card, 1 CPU, the older machine", 1, |setup| {
        e1000(setup).with(|options| options.machine = iso::cli::Machine::Pc)
    };
    web_e1000_2_cpus: "an e1000 card, 2 CPUs", 2, e1000;
    web_64_mib: "64 MiB of memory", 1, |setup| setup.memory(64);
    web_no_pit_no_pic: "no PIT and no PIC, a legacy card on the root bus", 2, |setup| {
        bare(setup, &["virtio-net-pci,netdev=net0,romfile=,disable-modern=on,disable-legacy=off"])
    };
    web_root_port_legacy: "no PIT and no PIC, a legacy card behind a root port", 2, |setup| {
        let card = "virtio-net-pci,netdev=net0,romfile=,bus=pci.1,disable-modern=on,disable-legacy=off";
        bare(setup, &[ROOT_PORT, card])
    };
    web_root_port_modern: "no PIT and no PIC, a modern card behind a root port", 2, |setup| {
        bare(setup, &[ROOT_PORT, "virtio-net-pci,netdev=net0,romfile=,bus=pci.1"])
    };
}

/// A PCI Express root port.
const ROOT_PORT: &str =
    "pcie-root-port,port=0x10,chassis=1,id=pci.1,bus=pcie.0,multifunction=on,addr=0x3";

fn legacy(setup: Setup) -> Setup {
    setup.with(|options| options.nic = Nic::VirtioLegacy)
}

fn e1000(setup: Setup) -> Setup {
    setup.with(|options| options.nic = Nic::E1000)
}

/// A machine without the old timer and the old interrupt controller.
fn bare(setup: Setup, devices: &[&str]) -> Setup {
    let setup = setup.devices(devices);
    setup.with(|options| {
        options
            .qemu
            .extend(["-machine".to_owned(), "q35,pit=off,pic=off".to_owned()])
    })
}

#[test]
fn ping_is_answered() {
    case(
        "ping_is_answered",
        "a host on the guest's own network pings it",
        || {
            let host = Ipv4Addr::new(10, 7, 0, 1);
            let mut peer = Peer::new(host)?;
            let port = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?
                .local_addr()?
                .port();
            let card = ["virtio-net-pci,netdev=net0,romfile="];
            let setup = Setup::new(image(Kind::Static)?)
                .devices(&card)
                .network(peer.netdev(port)?);
            let mut machine = setup.start()?;
            peer.connect(port)?;
            machine.console.wait_for(console::PROMPT)?;
            for bytes in [0, 1, 56, 1400] {
                peer.ping(ADDRESS, bytes)?;
            }
            Ok(())
        },
    );
}
