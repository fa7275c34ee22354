//! A hostile wire, from outside: a stranger on the guest's network sends all that a generator with a seed
//! thinks of, while the web page is asked for and got. The network stack counts what it dropped, by the
//! reason, and is the one that was started.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};

use anyhow::{Context, Result, ensure};
use smoltcp::wire::{EthernetAddress, EthernetFrame, IpProtocol, Ipv4Packet, TcpPacket};
use tests::console::PROMPT;
use tests::images::{ADDRESS, Kind, image};
use tests::peer::Peer;
use tests::{Setup, case};

/// The host that asks for pages.
const HOST: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 1);
/// The stranger's Ethernet address, and the guest's: QEMU's first.
const STRANGER: [u8; 6] = [0x02, 0, 0, 0, 0, 0x66];
const GUEST: [u8; 6] = [0x52, 0x54, 0x00, 0x12, 0x34, 0x56];
/// Frames between two pages, and pages.
const FRAMES: usize = 200;
const PAGES: usize = 40;

/// Numbers, the same in every run (Marsaglia's xorshift).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = self.below(most + 1);
        (0..length).map(|_| self.next() as u8).collect()
    }

    /// The next frame to the guest.
    fn frame(&mut self) -> Vec<u8> {
        let mut frame = match self.below(6) {
            0 => self.segment(),
            1 => self.part(),
            2 => self.message(),
            3 => self.neighbour(),
            4 => {
                let payload = self.bytes(300);
                let protocol = [0x0800, 0x86dd, 0x0806, 0x8100, 0x1234][self.below(5)];
                ethernet(protocol, &payload)
            }
            _ => {
                // Longer than any frame of this network, and shorter than any at all.
                let most = [13, 9_000][self.below(2)];
                let payload = self.bytes(most);
                let frame = self.packet(IpProtocol::Udp, payload);
                frame[..frame.len().min(most)].to_vec()
            }
        };
        for _ in 0..[0, 0, 1, 3][self.below(4)] {
            let position = self.below(frame.len().max(1));
            // Whom it is for stays, mostly.
            if let Some(byte) = frame.get_mut(position).filter(|_| position >= 6) {
                *byte = self.next() as u8;
            }
        }
        // A good header around something bad is looked further into.
        if self.below(2) == 0 {
            repair(&mut frame);
        }
        frame
    }

    /// A packet from an address of the network at which nobody is.
    fn packet(&mut self, protocol: IpProtocol, payload: Vec<u8>) -> Vec<u8> {
        let mut bytes = vec![0; 20 + payload.len()];
        bytes[0] = 0x45;
        let length = bytes.len() as u16;
        let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
        packet.set_total_len(length);
        packet.set_hop_limit(64);
        packet.set_next_header(protocol);
        packet.set_src_addr(Ipv4Addr::new(10, 7, 0, 100 + self.below(100) as u8));
        packet.set_dst_addr(ADDRESS);
        packet.payload_mut().copy_from_slice(&payload);
        let mut frame = ethernet(0x0800, &bytes);
        repair(&mut frame);
        frame
    }

    /// A TCP segment with any flags to the open port or another one.
    fn segment(&mut self) -> Vec<u8> {
        let mut segment = self.bytes(0);
        segment.extend((0..20).map(|_| self.next() as u8));
        segment[2..4].copy_from_slice(&[0, [80, 81][self.below(2)]]);
        segment[12] = 0x50;
        if self.below(2) == 0 {
            segment[13] = [0x02, 0x04, 0x10, 0x12][self.below(4)];
        }
        let data = self.bytes(200);
        segment.extend(data);
        self.packet(IpProtocol::Tcp, segment)
    }

    /// A part of a packet, which may overlap others or end beyond what a packet holds.
    fn part(&mut self) -> Vec<u8> {
        let payload = self.bytes(800);
        let mut frame = self.packet(IpProtocol::Udp, payload);
        frame[20] = [0x20, 0x1f, 0x3f, 0x00][self.below(4)];
        frame[21] = 1 + self.below(255) as u8;
        repair(&mut frame);
        frame
    }

    /// A control message, good or bad.
    fn message(&mut self) -> Vec<u8> {
        let kinds = [0, 3, 4, 5, 8, 11, 13, 17, 255];
        let mut message = vec![kinds[self.below(kinds.len())], 0, 0, 0];
        let rest = self.bytes(500);
        message.extend(rest);
        self.packet(IpProtocol::Icmp, message)
    }

    /// Who is where, of strangers.
    fn neighbour(&mut self) -> Vec<u8> {
        let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1 + self.below(2) as u8];
        packet.extend(STRANGER);
        packet.extend([10, 7, 0, 100 + self.below(100) as u8]);
        packet.extend(GUEST);
        packet.extend(ADDRESS.octets());
        ethernet(0x0806, &packet)
    }
}

fn ethernet(protocol: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 14 + payload.len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    frame.set_dst_addr(EthernetAddress(GUEST));
    frame.set_src_addr(EthernetAddress(STRANGER));
    frame.set_ethertype(protocol.into());
    frame.payload_mut().copy_from_slice(payload);
    bytes
}

/// Makes the checksums of an IPv4 packet and of a TCP segment good, as far as they are there.
fn repair(frame: &mut [u8]) {
    let Ok(mut frame) = EthernetFrame::new_checked(frame) else {
        return;
    };
    let Ok(mut packet) = Ipv4Packet::new_checked(frame.payload_mut()) else {
        return;
    };
    if packet.header_len() < 20 {
        return;
    }
    packet.fill_checksum();
    let (source, destination) = (packet.src_addr().into(), packet.dst_addr().into());
    if packet.next_header() == IpProtocol::Tcp
        && let Ok(mut segment) = TcpPacket::new_checked(packet.payload_mut())
    {
        segment.fill_checksum(&source, &destination);
    }
}

/// Asks for the page on a connection of its own.
fn page(peer: &mut Peer) -> Result<String> {
    let connection = peer.open(SocketAddrV4::new(ADDRESS, 80))?;
    peer.until("the connection stands", |peer| peer.is_open(connection))?;
    let request = b"GET / HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n";
    ensure!(
        peer.give(connection, request)? == request.len(),
        "no room for a request"
    );
    let mut page = Vec::new();
    peer.until("the page", |peer| {
        let mut piece = [0; 2048];
        let count = peer.take(connection, &mut piece);
        page.extend_from_slice(&piece[..count]);
        count == 0 && !peer.may_receive(connection)
    })?;
    peer.finish(connection);
    peer.until("the connection ends", |peer| peer.is_over(connection))?;
    peer.forget(connection);
    Ok(String::from_utf8(page)?)
}

#[test]
fn hostile_wire_is_borne() {
    let what =
        "pages are served while a stranger sends 8,000 malformed, forged and flooding frames";
    case("hostile_wire_is_borne", what, || {
        let mut peer = Peer::new(HOST)?;
        let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let card = format!(
            "virtio-net-pci,netdev=net0,romfile=,mac={}",
            EthernetAddress(GUEST)
        );
        let mut machine = Setup::new(image(Kind::Static)?)
            .devices(&[&card])
            .network(peer.netdev(port)?)
            .start()?;
        peer.connect(port)?;
        machine.console.wait_for("web: serving port 80\n")?;
        let mut chance = Chance(0x5eed_0777);
        for number in 0..PAGES {
            for _ in 0..FRAMES {
                peer.put(&chance.frame());
            }
            let page = page(&mut peer).with_context(|| format!("page {number}"))?;
            ensure!(
                page.contains("200 OK") && page.ends_with("</html>\n"),
                "the page is: {page}"
            );
        }
        machine.console.send_line("")?;
        machine.console.wait_for(PROMPT)?;
        let net = machine.console.command("net")?;
        for reason in ["malformed", "wrong checksums", "fragments", "unclaimed"] {
            ensure!(
                net.contains(reason),
                "nothing was dropped as {reason}:\n{net}"
            );
        }
        let once = |line: &str| line.split_whitespace().eq(["attachments", "1"]);
        ensure!(
            net.lines().any(once),
            "the driver was attached again:\n{net}"
        );
        let tasks = machine.console.command("ps")?;
        let line = tasks.lines().find(|line| line.starts_with("netstack"));
        let restarts = line.and_then(|line| line.split_whitespace().last());
        ensure!(
            restarts == Some("0"),
            "the network stack was started again:\n{tasks}"
        );
        Ok(())
    });
}
