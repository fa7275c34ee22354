//! Many connections at once to one server, all alive, and one whose client reads slowly beside others
//! that do not.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};

use anyhow::{Context, Result, ensure};
use tests::images::{ADDRESS, Kind, image};
use tests::peer::{Connection, Peer};
use tests::{Setup, case, http, suite};

/// Connections open at once.
const CONNECTIONS: usize = 1_000;
/// Connections begun, or spoken on, before their answers are waited for.
const TOGETHER: usize = 50;
/// How often each is spoken on.
const ROUNDS: usize = 3;
/// The echo server's port.
const ECHO: u16 = 7;

#[test]
fn thousand_connections() {
    let what = "an echo server answers on each of 1,000 connections while all of them are open";
    case("thousand_connections", what, || {
        let mut peer = Peer::new(Ipv4Addr::new(10, 7, 0, 1))?;
        let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let mut machine = Setup::new(image(Kind::Connections)?)
            .memory(256)
            .append(&format!("suite.connections={CONNECTIONS}"))
            .devices(&["virtio-net-pci,netdev=net0,romfile="])
            .network(peer.netdev(port)?)
            .start()?;
        peer.connect(port)?;
        machine.console.wait_for("listening\n")?;
        let mut connections = Vec::new();
        for _ in 0..CONNECTIONS / TOGETHER {
            let begun = (0..TOGETHER).map(|_| peer.open(SocketAddrV4::new(ADDRESS, ECHO)));
            let begun = begun.collect::<Result<Vec<_>>>()?;
            peer.until("the next connections stand", |peer| {
                begun.iter().all(|connection| peer.is_open(*connection))
            })?;
            connections.extend(begun);
        }
        for round in 0..ROUNDS {
            for (number, together) in connections.chunks(TOGETHER).enumerate() {
                echoes(&mut peer, together, |place| {
                    format!("connection {}, round {round}", number * TOGETHER + place)
                })?;
            }
            let open = connections
                .iter()
                .filter(|connection| peer.is_open(**connection));
            ensure!(open.count() == CONNECTIONS, "not all are open any more");
        }
        connections
            .iter()
            .for_each(|connection| peer.finish(*connection));
        peer.until("all connections end", |peer| {
            connections
                .iter()
                .all(|connection| peer.is_over(*connection))
        })?;
        suite::run(&mut machine.console)?.all_passed()
    });
}

/// Says something else on each of these connections and waits until each has it back.
fn echoes(peer: &mut Peer, on: &[Connection], text: impl Fn(usize) -> String) -> Result<()> {
    for (place, connection) in on.iter().enumerate() {
        let text = text(place);
        ensure!(
            peer.give(*connection, text.as_bytes())? == text.len(),
            "no room for {text}"
        );
    }
    let mut back = vec![Vec::new(); on.len()];
    let ended = |peer: &Peer| on.iter().any(|connection| peer.is_over(*connection));
    peer.until("every connection has its echo", |peer| {
        for (connection, back) in on.iter().zip(&mut back) {
            let mut piece = [0; 256];
            let count = peer.take(*connection, &mut piece);
            back.extend_from_slice(&piece[..count]);
        }
        (0..on.len()).all(|place| back[place].len() >= text(place).len()) || ended(peer)
    })?;
    ensure!(!ended(peer), "the guest ended a connection");
    for (place, back) in back.iter().enumerate() {
        ensure!(
            *back == text(place).as_bytes(),
            "{} has another's echo",
            text(place)
        );
    }
    Ok(())
}

/// The length of what the slow client asks for: more than all buffers between hold.
const SLOW: u64 = 64 << 20;
/// The length of what the others ask for.
const QUICK: u64 = 2 << 20;
/// Short requests of the others. The server bears a client that takes nothing for a minute.
const REQUESTS: usize = 50;

#[test]
fn slow_reader_holds_nobody_up() {
    let what =
        "a client that does not read its download holds up none of the others, and gets all of it";
    case("slow_reader_holds_nobody_up", what, || {
        let machine = Setup::new(image(Kind::System)?)
            .cpus(2)
            .forward(80)
            .start()?;
        http::get_again(&machine.url("/")?)?;
        let address = machine.address.context("no port leads to the guest")?;
        let mut slow = TcpStream::connect(address)?;
        write!(
            slow,
            "GET /bytes/{SLOW} HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n"
        )?;
        // It has begun.
        let mut first = [0];
        slow.read_exact(&mut first)?;
        let quick = machine.url(&format!("/bytes/{QUICK}"))?;
        let got = http::download(&http::client(), &quick, |_| Ok(()))?;
        ensure!(
            got == http::expected(QUICK),
            "{} bytes arrived wrong",
            got.length
        );
        let small = machine.url("/bytes/100")?;
        for number in 0..REQUESTS {
            let got = http::download(&http::client(), &small, |_| Ok(()));
            let got = got.with_context(|| format!("request {number} beside the slow one"))?;
            ensure!(got == http::expected(100), "request {number}");
        }
        // A connection of which nothing was taken for all that time is whole.
        let mut rest = Vec::new();
        slow.read_to_end(&mut rest)?;
        let head = rest.windows(4).position(|window| window == b"\r\n\r\n");
        let body = rest.split_off(head.context("no end of the head")? + 4);
        ensure!(
            http::of(&body) == http::expected(SLOW),
            "{} bytes arrived wrong",
            body.len()
        );
        Ok(())
    });
}
