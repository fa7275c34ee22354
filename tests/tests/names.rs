//! Host names in the whole system: the shell pings hosts by their names, which a name server on the guest's
//! network knows, or does not. How the resolver bears bad servers is tested on the host
//! (`userland/netstack/tests/host/names.rs`).

use std::net::{Ipv4Addr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Result, anyhow, ensure};
use tests::console::PROMPT;
use tests::images::{Kind, image};
use tests::peer::{Connection, Peer, Port};
use tests::{Setup, case};

/// The name server, which is also the host whose address it tells.
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);
/// Port of a name server (RFC 1035, section 4.2).
const PORT: u16 = 53;
/// Code of a record of an IPv4 address (RFC 1035, section 3.2.2).
const A: u8 = 1;

/// A name server for three names: one whose answer fits a datagram, one whose answer does not, and one
/// that does not exist. Of all else it says that the name has no address.
struct NameServer<'peer> {
    peer: &'peer mut Peer,
    port: Port,
    listener: Connection,
    received: Vec<u8>,
    /// Questions by datagram and over TCP.
    asked: (u32, u32),
}

impl NameServer<'_> {
    fn new(peer: &mut Peer) -> Result<NameServer<'_>> {
        Ok(NameServer {
            port: peer.bind(PORT)?,
            listener: peer.listen(PORT)?,
            peer,
            received: Vec::new(),
            asked: (0, 0),
        })
    }

    /// Answers what has come.
    fn work(&mut self) -> Result<()> {
        self.peer.poll();
        while let Some((question, from)) = self.peer.receive_from(self.port) {
            self.asked.0 += 1;
            let answer = answer(&question, false);
            self.peer.send_to(self.port, from, &answer)?;
        }
        let mut piece = [0; 512];
        let count = self.peer.take(self.listener, &mut piece);
        self.received.extend_from_slice(&piece[..count]);
        if let Some((length, question)) = self.received.split_first_chunk()
            && question.len() >= usize::from(u16::from_be_bytes(*length))
        {
            self.asked.1 += 1;
            let answer = answer(question, true);
            let length = (answer.len() as u16).to_be_bytes();
            self.peer
                .give(self.listener, &[&length[..], &answer].concat())?;
            self.peer.finish(self.listener);
            self.received.clear();
        }
        if self.peer.is_over(self.listener) {
            self.listener = self.peer.listen(PORT)?;
        }
        Ok(())
    }
}

/// The answer to a question.
fn answer(question: &[u8], tcp: bool) -> Vec<u8> {
    let name = question[12..].iter().position(|byte| *byte == 0);
    let end = 12 + name.expect("a name ends") + 5;
    let text = String::from_utf8_lossy(&question[12..end]).to_ascii_lowercase();
    let mut bytes = question[..end].to_vec();
    bytes[6..12].fill(0);
    let known = text.contains("known") || text.contains("large") && tcp;
    // A response; its end is cut off; the recursion that was wanted is done; and the name is unknown.
    bytes[2] = 0x81 | if text.contains("large") && !tcp { 2 } else { 0 };
    bytes[3] = 0x80 | if text.contains("absent") { 3 } else { 0 };
    if known && bytes[end - 3] == A {
        bytes[7] = 1;
        bytes.extend([0xc0, 12, 0, A, 0, 1, 0, 0, 1, 0, 0, 4]);
        bytes.extend(SERVER.octets());
    }
    bytes
}

#[test]
fn hosts_are_pinged_by_name() {
    let what = "the shell pings hosts by names that a name server tells by datagram and over TCP";
    case("hosts_are_pinged_by_name", what, || {
        let mut peer = Peer::new(SERVER)?;
        let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let mut machine = Setup::new(image(Kind::Static)?)
            // The first server is not there.
            .append(&format!("netstack.dns=10.7.0.9,{SERVER}"))
            .devices(&["virtio-net-pci,netdev=net0,romfile="])
            .network(peer.netdev(port)?)
            .start()?;
        peer.connect(port)?;
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            let server = scope.spawn(|| -> Result<(u32, u32)> {
                let mut server = NameServer::new(&mut peer)?;
                while !over.load(Ordering::Relaxed) {
                    server.work()?;
                    thread::sleep(std::time::Duration::from_micros(200));
                }
                Ok(server.asked)
            });
            let typed = (|| -> Result<()> {
                machine.console.wait_for(PROMPT)?;
                let mut ping = |host: &str| machine.console.command(&format!("ping {host}"));
                for host in ["known.example", "LARGE.example", "known.example"] {
                    let said = ping(host)?;
                    let line = format!("bytes from {SERVER}");
                    ensure!(said.contains(&line), "`ping {host}` says: {said}");
                }
                for (host, why) in [
                    ("absent.example", "there is no host of this name"),
                    ("other.example", "the host has no address"),
                    ("two..dots", "an argument is out of range"),
                    ("localhost", "the host is unreachable"),
                ] {
                    let said = ping(host)?;
                    ensure!(said.contains(why), "`ping {host}` says: {said}");
                }
                Ok(())
            })();
            over.store(true, Ordering::Relaxed);
            let asked = server.join().map_err(|_| anyhow!("the server panicked"))?;
            typed?;
            let (datagrams, streams) = asked?;
            // Known and large once each, absent once, the other for both families; some may have been
            // asked again on a slow machine.
            ensure!(
                datagrams >= 5 && streams >= 1,
                "{datagrams} and {streams} questions"
            );
            Ok(())
        })
    });
}
