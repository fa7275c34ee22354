//! A wire that means harm, for a long time: a stranger on the network sends B all that a generator with a
//! seed thinks of, while A and B go on. What must hold: nothing panics, A's bytes arrive whole and in time,
//! nothing stays behind, and the counters say what was dropped and why.

use std::net::Ipv6Addr;

use netstack::config::Config;
use netstack::stack::Counters;
use netstack::tcp::{End, Phase};
use netstack::time::SECOND;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv6Packet, IpProtocol, Ipv4Packet,
    TcpPacket, TcpSeqNumber,
};

use crate::common::{B, CLIENT, Chance, Pair, Transfer};

/// The stranger's and B's Ethernet addresses.
const STRANGER: [u8; 6] = [2, 0, 0, 0, 0, 0x66];
const B_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// The stranger's address where it wants to be answered.
const STRANGER_IP: [u8; 4] = [10, 0, 0, 66];
const B_IPV6: &str = "fd00::2";

fn config(last: u8) -> Config {
    let mut config = Config::default();
    for argument in [
        format!("ip=10.0.0.{last}/24"),
        format!("ip=fd00::{last}/64"),
    ] {
        config.apply(&argument).expect("good");
    }
    config
}

/// What the stranger sends.
struct Stranger {
    chance: Chance,
    /// Frames that A sent B, to change.
    seen: Vec<Vec<u8>>,
}

/// The frame with these ends.
fn ethernet(protocol: EthernetProtocol, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 14 + payload.len()];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    frame.set_dst_addr(EthernetAddress(B_MAC));
    frame.set_src_addr(EthernetAddress(STRANGER));
    frame.set_ethertype(protocol);
    frame.payload_mut().copy_from_slice(payload);
    bytes
}

/// An IPv4 packet from the stranger with good checksums where it has any.
fn ipv4(source: [u8; 4], protocol: IpProtocol, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 20 + payload.len()];
    bytes[0] = 0x45;
    bytes[20..].copy_from_slice(payload);
    let length = bytes.len() as u16;
    let mut packet = Ipv4Packet::new_unchecked(&mut bytes);
    packet.set_total_len(length);
    packet.set_hop_limit(64);
    packet.set_next_header(protocol);
    packet.set_src_addr(source.into());
    packet.set_dst_addr(B.into());
    ethernet(EthernetProtocol::Ipv4, &repaired(bytes))
}

/// An IPv4 packet with its header's checksum, and TCP's, made good.
fn repaired(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Ok(mut packet) = Ipv4Packet::new_checked(&mut bytes[..])
        && packet.header_len() >= 20
    {
        packet.fill_checksum();
        let (source, destination) = (packet.src_addr().into(), packet.dst_addr().into());
        if packet.next_header() == IpProtocol::Tcp
            && let Ok(mut segment) = TcpPacket::new_checked(packet.payload_mut())
        {
            segment.fill_checksum(&source, &destination);
        }
    }
    bytes
}

impl Stranger {
    fn below(&mut self, limit: usize) -> usize {
        self.chance.next() as usize % limit
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let length = self.below(most + 1);
        (0..length).map(|_| self.chance.next() as u8).collect()
    }

    /// An address of the network, but neither A's nor B's.
    fn source(&mut self) -> [u8; 4] {
        [10, 0, 0, 100 + self.below(100) as u8]
    }

    /// The next frame.
    fn frame(&mut self) -> Vec<u8> {
        match self.below(8) {
            0 | 1 => self.changed(),
            2 => self.segment(),
            3 => self.part(),
            4 => self.datagram(),
            5 => self.control(),
            6 => self.neighbour(),
            _ => {
                let protocols = [0x0800, 0x86dd, 0x0806, 0x8100, 0x0000];
                let protocol = EthernetProtocol::from(protocols[self.below(5)]);
                let payload = self.bytes(200);
                ethernet(protocol, &payload)
            }
        }
    }

    /// A frame of A's, as from someone else, changed, cut or lengthened.
    fn changed(&mut self) -> Vec<u8> {
        let Some(last) = self.seen.len().checked_sub(1) else {
            return self.datagram();
        };
        let position = self.below(last + 1);
        let mut frame = self.seen[position].clone();
        frame[6..12].copy_from_slice(&STRANGER);
        // What comes from A's own address may be taken for A's, and rightly.
        let source = self.source();
        match frame[12] {
            0x08 if frame[13] == 0 => frame[26..30].copy_from_slice(&source),
            _ => return self.neighbour(),
        }
        for _ in 0..self.below(4) {
            let position = 14 + self.below(frame.len() - 14);
            if !(26..30).contains(&position) {
                frame[position] = self.chance.next() as u8;
            }
        }
        match self.below(6) {
            0 => frame.truncate(self.below(frame.len())),
            1 => {
                let more = self.bytes(64);
                frame.extend(more);
            }
            2 => {
                // Longer than any packet of this network, with a length to match.
                let more = self.bytes(7_000);
                frame.extend(more);
                let length = (frame.len() - 14) as u16;
                frame[16..18].copy_from_slice(&length.to_be_bytes());
            }
            _ => {}
        }
        if self.chance.hits(700) && frame.len() > 34 {
            let packet = repaired(frame.split_off(14));
            frame.extend(packet);
        }
        frame
    }

    /// A TCP segment to the open port or another one, with any flags.
    fn segment(&mut self) -> Vec<u8> {
        let source = self.source();
        let mut segment = vec![0; 20];
        self.fill(&mut segment[..12]);
        let port: u16 = if self.chance.hits(500) { 80 } else { 81 };
        segment[2..4].copy_from_slice(&port.to_be_bytes());
        segment[12] = 0x50;
        segment[13] = match self.below(4) {
            0 => 0x02,
            1 => 0x04,
            2 => 0x10,
            _ => self.chance.next() as u8,
        };
        self.fill(&mut segment[14..16]);
        let more = self.bytes(100);
        segment.extend(more);
        ipv4(source, IpProtocol::Tcp, &segment)
    }

    fn fill(&mut self, bytes: &mut [u8]) {
        bytes
            .iter_mut()
            .for_each(|byte| *byte = self.chance.next() as u8);
    }

    /// A part of a packet, which may overlap others or end beyond what a packet holds.
    fn part(&mut self) -> Vec<u8> {
        let source = self.source();
        let protocol = [IpProtocol::Tcp, IpProtocol::Udp, IpProtocol::Icmp][self.below(3)];
        let payload = self.bytes(600);
        let mut frame = ipv4(source, protocol, &payload);
        frame[20] = [0x20, 0x1f, 0x3f, 0x00][self.below(4)];
        frame[21] = 1 + self.below(255) as u8;
        let packet = repaired(frame.split_off(14));
        frame.extend(packet);
        frame
    }

    /// A datagram to a bound port or another one, whose length may lie.
    fn datagram(&mut self) -> Vec<u8> {
        let source = self.source();
        let payload = self.bytes(300);
        let length = match self.chance.hits(800) {
            true => 8 + payload.len() as u16,
            false => self.chance.next() as u16,
        };
        let port: u16 = if self.chance.hits(300) { 53 } else { 9 };
        let mut datagram = vec![0, 7];
        datagram.extend(port.to_be_bytes());
        datagram.extend(length.to_be_bytes());
        // None computed, or a wrong one.
        datagram.extend([0, self.below(2) as u8]);
        datagram.extend(payload);
        ipv4(source, IpProtocol::Udp, &datagram)
    }

    /// A control message: requests, replies that nobody asked for, errors about A's connection.
    fn control(&mut self) -> Vec<u8> {
        let kinds = [0, 3, 4, 5, 8, 8, 8, 11, 13, 17, 255];
        let mut message = vec![kinds[self.below(kinds.len())], self.below(16) as u8, 0, 0];
        message.extend(self.bytes(4));
        message.resize(8, 0);
        if let Some(frame) = self.seen.last().filter(|_| self.chance.hits(500)) {
            message.extend(&frame[14..frame.len().min(62)]);
        }
        let more = self.bytes(400);
        message.extend(more);
        if self.chance.hits(800) {
            let mut sum = 0u32;
            for pair in message.chunks(2) {
                sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            }
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            message[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
        }
        let source = self.source();
        ipv4(source, IpProtocol::Icmp, &message)
    }

    /// ARP or neighbour discovery: who is where, of strangers, now and then broken.
    fn neighbour(&mut self) -> Vec<u8> {
        let mut frame = if self.chance.hits(500) {
            let mut packet = vec![0, 1, 8, 0, 6, 4, 0, 1 + self.below(2) as u8];
            packet.extend(STRANGER);
            packet.extend(self.source());
            packet.extend(B_MAC);
            packet.extend(B);
            ethernet(EthernetProtocol::Arp, &packet)
        } else {
            self.discovery()
        };
        if self.chance.hits(300) {
            // Not the addresses: who says that it is A is believed, here as everywhere.
            let position = [14, 15, 16, 17, 18, 19, 20, 21][self.below(8)];
            frame[position] = self.chance.next() as u8;
        }
        if self.chance.hits(100) {
            frame.truncate(self.below(frame.len()));
        }
        frame
    }

    /// A message of IPv6 neighbour discovery: solicitations, advertisements, routers, redirects.
    fn discovery(&mut self) -> Vec<u8> {
        let source = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, self.below(1_000) as u16);
        let target: Ipv6Addr = B_IPV6.parse().expect("good");
        let mut message = vec![133 + self.below(5) as u8, 0, 0, 0];
        message.extend([0x60, 0, 0, 0]);
        message.extend(
            if self.chance.hits(500) {
                target
            } else {
                source
            }
            .octets(),
        );
        let more = self.bytes(60);
        message.extend([2, 1]);
        message.extend(STRANGER);
        message.extend(more);
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, 58, 255];
        packet[4..6].copy_from_slice(&(message.len() as u16).to_be_bytes());
        packet.extend(source.octets());
        packet.extend(target.octets());
        packet.extend(message);
        let body = &mut packet[40..];
        Icmpv6Packet::new_unchecked(body).fill_checksum(&source, &target);
        ethernet(EthernetProtocol::Ipv6, &packet)
    }
}

/// Puts a frame on B's end of the cable.
fn inject(pair: &Pair, frame: Vec<u8>) {
    let mut lane = pair.end_b.incoming.borrow_mut();
    lane.frames.push_front((pair.now, frame));
}

/// Takes what B sent the stranger off the cable, and says where the stranger is when B asks.
fn take(pair: &Pair) -> Vec<Vec<u8>> {
    let mut answers = vec![];
    let mut taken = vec![];
    pair.end_b
        .outgoing
        .borrow_mut()
        .frames
        .retain(|(_, frame)| {
            let request = frame[12..14] == [8, 6] && frame[38..42] == STRANGER_IP;
            if request {
                let mut reply = vec![0, 1, 8, 0, 6, 4, 0, 2];
                reply.extend(STRANGER);
                reply.extend(STRANGER_IP);
                reply.extend(B_MAC);
                reply.extend(B);
                answers.push(ethernet(EthernetProtocol::Arp, &reply));
            }
            if frame[..6] == STRANGER {
                taken.push(frame.clone());
            }
            frame[..6] != STRANGER
        });
    answers.into_iter().for_each(|answer| inject(pair, answer));
    taken
}

/// Whether a frame is A's.
fn is_whole(frame: &[u8]) -> bool {
    frame.get(6..12).is_some_and(|source| source != STRANGER)
}

/// Lets the clock move on, and takes what B sent the stranger meanwhile.
fn moment(pair: &mut Pair) -> Vec<Vec<u8>> {
    let now = pair.now;
    let mut taken = vec![];
    pair.until("a moment", SECOND, |pair| {
        taken.extend(take(pair));
        pair.now > now
    });
    taken
}

/// Attacks B with this seed while A and B move this many bytes each way.
fn campaign(seed: u64, frames: usize) -> Counters {
    let mut pair = Pair::with(config(1), config(2));
    pair.pass(5 * SECOND);
    let listener = pair.listen(80, 16);
    let quiet = pair.b.bind(CLIENT, 53).expect("free");
    let (here, there) = pair.connect(listener, 80);
    let mut stranger = Stranger {
        chance: Chance(seed),
        seen: vec![],
    };
    let length = 200_000;
    let (mut up, mut down) = (Transfer::new(length), Transfer::new(length));
    for number in 0..frames {
        // A little at a time, so that there is something to disturb until the end.
        if number % (frames / 200) == 0 {
            up.length = length * (number + 1) / frames;
            down.length = up.length;
        }
        up.give(&mut pair.a, here);
        down.give(&mut pair.b, there);
        up.take(&mut pair.b, there);
        down.take(&mut pair.a, here);
        let next = pair.end_b.incoming.borrow().frames.front().cloned();
        if let Some((_, frame)) = next.filter(|(_, frame)| is_whole(frame)) {
            stranger.seen.push(frame);
            if stranger.seen.len() > 50 {
                stranger.seen.remove(0);
            }
        }
        let frame = stranger.frame();
        inject(&pair, frame);
        if stranger.chance.hits(300) {
            moment(&mut pair);
        }
        if let Some(strange) = pair.b.tcp().accept(listener) {
            let now = pair.now;
            pair.b.tcp().abort(now, strange);
        }
    }
    (up.length, down.length) = (length, length);
    pair.until("A's bytes and B's", 120 * SECOND, |pair| {
        up.give(&mut pair.a, here);
        down.give(&mut pair.b, there);
        up.take(&mut pair.b, there);
        down.take(&mut pair.a, here);
        take(pair);
        up.received == length && down.received == length
    });
    assert_eq!(pair.b.tcp().phase(there), Some(Phase::Open));
    // A new connection finds its way too, and nothing stays.
    pair.pass(40 * SECOND);
    pair.connect(listener, 80);
    pair.b.close_udp(quiet);
    let now = pair.now;
    pair.a.drop_owner(now, CLIENT);
    pair.b.drop_owner(now, CLIENT);
    pair.pass(130 * SECOND);
    for stack in [&mut pair.a, &mut pair.b] {
        let left = (stack.tcp().connections(), stack.tcp().time_waiting());
        assert_eq!((left, stack.ledger().bytes()), ((0, 0), 0));
    }
    pair.b.counters()
}

#[test]
fn a_wire_that_means_harm_does_none() {
    for seed in [0x5eed_0001, 0x5eed_0002, 0x5eed_0003] {
        let frames = 20_000;
        let counters = campaign(seed, frames);
        for (reason, count) in [
            ("malformed", counters.malformed),
            ("misdirected", counters.misdirected),
            ("wrong checksums", counters.wrong_checksums),
            ("fragments", counters.fragments),
            ("unclaimed", counters.unclaimed),
            ("datagrams", counters.dropped_datagrams),
        ] {
            assert!(
                count > frames as u64 / 200,
                "seed {seed:#x}: {count} {reason}"
            );
        }
    }
}

/// A connection of the stranger's own, open on B.
fn handshake(pair: &mut Pair, port: u16) -> (u32, u32) {
    let mut syn = vec![0; 20];
    syn[..2].copy_from_slice(&port.to_be_bytes());
    syn[3] = 80;
    syn[4..8].copy_from_slice(&1_000u32.to_be_bytes());
    syn[12..16].copy_from_slice(&[0x50, 0x02, 0x40, 0]);
    inject(pair, ipv4(STRANGER_IP, IpProtocol::Tcp, &syn));
    let mut number = None;
    pair.until("the answer to the stranger's SYN", 5 * SECOND, |pair| {
        for frame in take(pair) {
            let packet = Ipv4Packet::new_checked(&frame[14..]).expect("whole");
            let segment = TcpPacket::new_checked(packet.payload()).expect("whole");
            assert!(segment.syn() && segment.ack());
            number = Some(segment.seq_number() + 1);
        }
        number.is_some()
    });
    let TcpSeqNumber(number) = number.expect("answered");
    (1_001, number as u32)
}

fn send(pair: &Pair, port: u16, (sequence, acknowledged): (u32, u32), flags: u8, data: &[u8]) {
    let mut segment = vec![0; 20];
    segment[..2].copy_from_slice(&port.to_be_bytes());
    segment[3] = 80;
    segment[4..8].copy_from_slice(&sequence.to_be_bytes());
    segment[8..12].copy_from_slice(&acknowledged.to_be_bytes());
    segment[12..16].copy_from_slice(&[0x50, flags, 0x40, 0]);
    segment.extend(data);
    inject(pair, ipv4(STRANGER_IP, IpProtocol::Tcp, &segment));
}

#[test]
fn segments_that_overlap_are_put_together_as_the_first_of_them_says() {
    let mut pair = Pair::with(config(1), config(2));
    let listener = pair.listen(80, 16);
    let mut chance = Chance(0x5eed_0004);
    for round in 0..30u16 {
        let port = 2_000 + round;
        let (first, acknowledged) = handshake(&mut pair, port);
        send(&pair, port, (first, acknowledged), 0x10, &[]);
        moment(&mut pair);
        let there = pair.b.tcp().accept(listener).expect("open");
        let bytes: Vec<u8> = (0..3_000).map(|position| (position % 251) as u8).collect();
        let mut got = vec![];
        // Segments of any length from anywhere, again and again, until all has been sent.
        let (mut turns, mut answers) = (0, 0);
        while got.len() < bytes.len() {
            let start = chance.next() as usize % (bytes.len() / 50) * 50;
            let end = (start + 1 + chance.next() as usize % 500).min(bytes.len());
            let sequence = first.wrapping_add(start as u32);
            send(
                &pair,
                port,
                (sequence, acknowledged),
                0x18,
                &bytes[start..end],
            );
            // And some that lie beyond every window, or acknowledge what was never sent.
            let lie = chance.next() as u32;
            send(
                &pair,
                port,
                (first.wrapping_add(lie | 1 << 30), acknowledged),
                0x18,
                b"lies",
            );
            send(
                &pair,
                port,
                (sequence, acknowledged.wrapping_add(lie >> 1)),
                0x10,
                &[],
            );
            answers += moment(&mut pair).len();
            pair.b.tcp().receive(there, |piece| {
                got.extend_from_slice(piece);
                piece.len()
            });
            turns += 1;
            assert!(turns < 5_000, "round {round}: {} bytes", got.len());
        }
        assert_eq!(got, bytes);
        assert!(answers > 10, "round {round}: {answers}");
        let now = pair.now;
        pair.b.tcp().abort(now, there);
        moment(&mut pair);
    }
    pair.pass(5 * SECOND);
    assert_eq!(
        (pair.b.tcp().connections(), pair.b.ledger().bytes()),
        (0, 0)
    );
}

#[test]
fn a_flood_for_nobody_is_answered_by_less() {
    let mut pair = Pair::with(config(1), config(2));
    let listener = pair.listen(80, 4);
    let (here, there) = pair.connect(listener, 80);
    let mut stranger = Stranger {
        chance: Chance(0x5eed_0005),
        seen: vec![],
    };
    // The stranger is known, so that answers need not be asked for.
    let mut hello = vec![0, 1, 8, 0, 6, 4, 0, 1];
    hello.extend(STRANGER);
    hello.extend(STRANGER_IP);
    hello.extend([0; 6]);
    hello.extend(B);
    inject(&pair, ethernet(EthernetProtocol::Arp, &hello));
    moment(&mut pair);
    let (start, before) = (pair.now, pair.b.counters().unclaimed);
    let mut answers = 0;
    let (frames, mut sent) = (20_000, 0);
    let mut up = Transfer::new(100_000);
    for number in 0..frames {
        let mut segment = vec![0; 20];
        stranger.fill(&mut segment[..12]);
        segment[2..4].copy_from_slice(&9_999u16.to_be_bytes());
        segment[12] = 0x50;
        // Anything but a reset, which nobody would answer.
        segment[13] = [0x02, 0x10, 0x11, 0x18][number % 4];
        segment[1] |= 1;
        inject(&pair, ipv4(STRANGER_IP, IpProtocol::Tcp, &segment));
        sent += 1;
        if number % 20 == 0 {
            up.give(&mut pair.a, here);
            up.take(&mut pair.b, there);
            answers += moment(&mut pair).len() as u64;
        }
    }
    pair.until("A's bytes", 10 * SECOND, |pair| {
        up.give(&mut pair.a, here);
        up.take(&mut pair.b, there);
        answers += take(pair).len() as u64;
        up.received == up.length
    });
    let unclaimed = pair.b.counters().unclaimed - before;
    assert_eq!(unclaimed, sent);
    let seconds = (pair.now - start) / SECOND + 1;
    assert!(
        (100..=200 * (seconds + 1)).contains(&answers),
        "{answers} in {seconds} s"
    );
    assert_eq!(pair.b.tcp().connections(), 1);
}

#[test]
fn a_reset_counts_only_with_the_very_number_that_comes_next() {
    let mut pair = Pair::with(config(1), config(2));
    let listener = pair.listen(80, 16);
    // With nothing sent, with bytes that were taken and some that were not, after the peer's end, and after
    // both ends.
    for (port, bytes, taken, ends, closes) in [
        (2_000, 0, 0, false, false),
        (2_001, 500, 0, false, false),
        (2_002, 500, 200, false, false),
        (2_003, 500, 500, true, false),
        (2_004, 30, 10, true, false),
        (2_005, 500, 500, false, true),
    ] {
        let (mut next, acknowledged) = handshake(&mut pair, port);
        send(&pair, port, (next, acknowledged), 0x10, &[]);
        moment(&mut pair);
        let there = pair.b.tcp().accept(listener).expect("open");
        send(&pair, port, (next, acknowledged), 0x18, &vec![7; bytes]);
        next += bytes as u32;
        moment(&mut pair);
        let mut left = taken;
        pair.b.tcp().receive(there, |piece| {
            let count = piece.len().min(left);
            left -= count;
            count
        });
        assert_eq!(left, 0);
        if ends {
            send(&pair, port, (next, acknowledged), 0x11, &[]);
            next += 1;
        }
        if closes {
            pair.b.tcp().finish_sending(there);
        }
        pair.pass(SECOND / 10);
        take(&pair);
        let before = pair.b.tcp().refused().resets;
        let mut asked = vec![];
        for forged in [next + 1, next + 1_000, next.wrapping_sub(1), next + 60_000] {
            send(&pair, port, (forged, acknowledged), 0x04, &[]);
            asked.extend(moment(&mut pair));
        }
        assert_eq!(pair.b.tcp().phase(there), Some(Phase::Open), "port {port}");
        assert_eq!(pair.b.tcp().refused().resets, before + 4);
        // The peer is asked, or is still owed an answer: with the number that its reset has to have.
        pair.until("the question", 3 * SECOND, |pair| {
            asked.extend(take(pair));
            !asked.is_empty()
        });
        let packet = Ipv4Packet::new_checked(&asked[0][14..]).expect("whole");
        let segment = TcpPacket::new_checked(packet.payload()).expect("whole");
        assert_eq!(
            segment.ack_number(),
            TcpSeqNumber(next as i32),
            "port {port}"
        );
        send(&pair, port, (next, acknowledged), 0x04, &[]);
        moment(&mut pair);
        pair.b.tcp().receive(there, <[u8]>::len);
        let phase = pair.b.tcp().phase(there);
        assert_eq!(phase, Some(Phase::Ended(End::Reset)), "port {port}");
        let now = pair.now;
        pair.b.tcp().abort(now, there);
        pair.pass(SECOND);
    }
    assert_eq!(
        (pair.b.tcp().connections(), pair.b.ledger().bytes()),
        (0, 0)
    );
}
