//! How the network stack comes to its addresses, on networks as clouds have them: a lease of one address
//! with a gateway outside of it, IPv6 by a router's word, and what the kernel's command line says.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use iso::{packages, process, qemu};
use smoltcp::wire::DhcpMessageType;
use tests::cloud::{Advertised, DhcpServer, Lease, Router};
use tests::images::{Kind, image};
use tests::namespace::{inside, ip, netdev, tap, tested};
use tests::peer::Peer;
use tests::{LIMIT, Machine, Setup, case, console, http, shell};

/// The host's end of the cable.
const TAP: &str = "uzura0";
/// A modern card.
const CARD: [&str; 1] = ["virtio-net-pci,netdev=net0,romfile="];
/// Bytes of a download that takes many packets.
const LONG: u64 = 4 << 20;

/// Boots the system at the guest's end of the cable, and waits until the stack says so of its state.
fn boot(image: iso::image::Image, what: &str, holds: impl Fn(&str) -> bool) -> Result<Machine> {
    let setup = Setup::new(image).devices(&CARD).network(netdev(TAP));
    let mut machine = setup.start()?;
    machine.console.wait_for("web: serving port 80\n")?;
    wait_for(&mut machine, what, holds)?;
    Ok(machine)
}

/// Waits until the stack says so of its state.
fn wait_for(machine: &mut Machine, what: &str, holds: impl Fn(&str) -> bool) -> Result<()> {
    let begin = Instant::now();
    loop {
        let state = machine.console.command("net")?;
        if holds(&state) {
            return Ok(());
        }
        ensure!(begin.elapsed() < LIMIT, "no {what}: {state}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The web page, and a download that is whole.
fn served(host: &str) -> Result<()> {
    let page = http::get(&http::client(), &format!("http://{host}/"))?;
    ensure!(page.contains("Uzura"), "the page is: {page}");
    let got = http::download(
        &http::client(),
        &format!("http://{host}/bytes/{LONG}"),
        |_| Ok(()),
    )?;
    ensure!(got == http::expected(LONG), "{} bytes arrived", got.length);
    Ok(())
}

/// The host pings the guest.
fn pinged(guest: &str) -> Result<()> {
    let mut ping = Command::new("ping");
    ping.args(["-c", "3", "-W", "60", guest]);
    let said = process::output(&mut ping, LIMIT)?;
    ensure!(said.contains(" 3 received"), "`ping` says: {said}");
    Ok(())
}

/// The guest pings a host.
fn pings(machine: &mut Machine, host: &str) -> Result<()> {
    let said = machine.console.command(&format!("ping {host}"))?;
    let answered = format!("bytes from {host}: ttl 64");
    ensure!(said.contains(&answered), "`ping {host}` says: {said}");
    Ok(())
}

/// What is booted, and all that is needed besides: what is missing can be installed now, and not any more in
/// a namespace.
fn prepared() -> Result<iso::image::Image> {
    packages::need("ping", &["iputils-ping"])?;
    packages::need(qemu::PROGRAM, &[qemu::PACKAGE])?;
    image(Kind::System)
}

#[test]
fn a_lease_of_one_address() {
    let what = "a DHCP server leases one address, with a gateway outside of it and 1,460 bytes, as \
                Google Compute Engine does: the world is reached, and the lease renewed";
    case("a_lease_of_one_address", what, || {
        let image = prepared()?;
        tested("a_lease_of_one_address", || inside(|| leased(image)))
    });
}

fn leased(image: iso::image::Image) -> Result<()> {
    tap(TAP)?;
    ip("link set dev lo up")?;
    ip(&format!("address add 10.128.0.1/32 dev {TAP}"))?;
    ip(&format!("route add 10.128.0.7/32 dev {TAP}"))?;
    ip(&format!("route add 255.255.255.255/32 dev {TAP}"))?;
    // The server, and a host of the world: the gateway alone leads there.
    ip("address add 169.254.169.254/32 dev lo")?;
    ip("address add 198.51.100.1/32 dev lo")?;
    let mut server = DhcpServer::start(Lease {
        address: Ipv4Addr::new(10, 128, 0, 7),
        gateway: Ipv4Addr::new(10, 128, 0, 1),
        server: Ipv4Addr::new(169, 254, 169, 254),
        mtu: 1460,
        seconds: 3600,
        renewal: 5,
    })?;
    let mut machine = boot(image, "lease", |state| {
        state.contains("10.128.0.7/32 (DHCP)")
    })?;
    let state = shell::pairs(&mut machine.console, "net")?;
    for (name, value) in [
        ("gateway", "10.128.0.1"),
        ("MTU", "1460"),
        ("name servers", "169.254.169.254"),
    ] {
        let found = state.get(name).map(String::as_str);
        ensure!(found == Some(value), "{name}: {state:?}");
    }
    pinged("10.128.0.7")?;
    pings(&mut machine, "10.128.0.1")?;
    pings(&mut machine, "198.51.100.1")?;
    served("10.128.0.7")?;
    let own = Ipv4Addr::new(10, 128, 0, 7);
    let renewed =
        |asked: &tests::cloud::Asked| asked.kind == DhcpMessageType::Request && asked.from == own;
    server.wait_for("a longer lease", renewed)?;
    served("10.128.0.7")
}

#[test]
fn ipv6_by_a_router() {
    let what = "a router says the link's prefix: the guest makes an address of it, is pinged and serves \
                its page over IPv6, and reaches the world";
    case("ipv6_by_a_router", what, || {
        let image = prepared()?;
        tested("ipv6_by_a_router", || inside(|| advertised(image)))
    });
}

fn advertised(image: iso::image::Image) -> Result<()> {
    tap(TAP)?;
    ip("link set dev lo up")?;
    ip(&format!("link set dev {TAP} address 02:00:00:00:00:01"))?;
    ip(&format!("-6 address add fe80::1/64 dev {TAP} nodad"))?;
    ip(&format!("-6 address add 2001:db8:1::1/64 dev {TAP} nodad"))?;
    // A host of the world: the router alone leads there.
    ip("-6 address add 2001:db8:2::1/128 dev lo nodad")?;
    let router = Router::start(
        TAP,
        Advertised {
            mac: [2, 0, 0, 0, 0, 1],
            router: "fe80::1".parse()?,
            prefix: "2001:db8:1::".parse()?,
            mtu: 1400,
        },
    );
    // What QEMU's first card makes of the prefix.
    let own = "2001:db8:1:0:5054:ff:fe12:3456";
    let mut machine = boot(image, "address", |state| {
        state.contains(&format!("{own}/64"))
    })?;
    let state = shell::pairs(&mut machine.console, "net")?;
    ensure!(
        state.get("IPv6 gateway").map(String::as_str) == Some("fe80::1"),
        "{state:?}"
    );
    ensure!(
        state.get("MTU").map(String::as_str) == Some("1400"),
        "{state:?}"
    );
    pinged(own)?;
    pings(&mut machine, "2001:db8:1::1")?;
    pings(&mut machine, "2001:db8:2::1")?;
    served(&format!("[{own}]"))?;
    router.end()
}

#[test]
fn addresses_from_the_command_line() {
    let what = "the kernel's command line gives the network stack its address; words that make no sense \
                are told and change nothing";
    case("addresses_from_the_command_line", what, || {
        let host = Ipv4Addr::new(10, 9, 0, 1);
        let mut peer = Peer::new(host)?;
        let port = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let words = "netstack.ip=10.9.0.2/24,fd00::2/64 netstack.gw=10.9.0.1 netstack.dns=10.9.0.x \
                     netstack.mtu=1400 netsack.ip=10.9.0.3/24";
        let setup = Setup::new(image(Kind::System)?)
            .append(words)
            .devices(&CARD)
            .network(peer.netdev(port)?);
        let mut machine = setup.start()?;
        peer.connect(port)?;
        machine
            .console
            .wait_for("init: command line: netsack.ip=10.9.0.3/24: no task is named netsack;")?;
        machine
            .console
            .wait_for("netstack: argument dns=10.9.0.x: use addresses of hosts as ")?;
        machine.console.wait_for(console::PROMPT)?;
        peer.ping(Ipv4Addr::new(10, 9, 0, 2), 56)?;
        // Nobody objects to an address of IPv6 before it is used.
        wait_for(&mut machine, "address", |state| {
            state.contains("fd00::2/64")
        })?;
        let state = shell::pairs(&mut machine.console, "net")?;
        for (name, value) in [
            ("address", "10.9.0.2/24 (fixed)"),
            ("gateway", "10.9.0.1"),
            ("MTU", "1400"),
            ("name servers", "none"),
        ] {
            let found = state.get(name).map(String::as_str);
            ensure!(found == Some(value), "{name}: {state:?}");
        }
        Ok(())
    });
}
