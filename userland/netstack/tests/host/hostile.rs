//! Frames that mean harm. What must hold: nothing panics, nothing stays behind, service goes on.

use crate::common::{CLIENT, Chance, Pair};
use netstack::tcp::Phase;
use netstack::time::SECOND;

/// Copies of real frames with a few bytes changed and the checksums made good or not, cut or
/// lengthened.
fn mangle(frame: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut frame = frame.to_vec();
    for _ in 0..=chance.next() % 4 {
        let position = chance.next() as usize % frame.len();
        frame[position] = chance.next() as u8;
    }
    match chance.next() % 8 {
        0 => frame.truncate(chance.next() as usize % frame.len()),
        1 => frame.extend((0..chance.next() % 64).map(|byte| byte as u8)),
        _ => {}
    }
    repair(&mut frame);
    frame
}

/// Makes the checksums of an IPv4 and TCP frame good, so that the rest is looked at.
fn repair(frame: &mut [u8]) {
    use smoltcp::wire::{EthernetFrame, IpProtocol, Ipv4Packet, TcpPacket};
    let Ok(mut frame) = EthernetFrame::new_checked(frame) else {
        return;
    };
    let Ok(mut ip) = Ipv4Packet::new_checked(frame.payload_mut()) else {
        return;
    };
    ip.fill_checksum();
    let (source, destination) = (ip.src_addr().into(), ip.dst_addr().into());
    if ip.next_header() == IpProtocol::Tcp
        && let Ok(mut tcp) = TcpPacket::new_checked(ip.payload_mut())
    {
        tcp.fill_checksum(&source, &destination);
    }
}

#[test]
fn mangled_frames_do_no_harm() {
    let mut pair = Pair::new();
    let listener = pair.listen(80, 4);
    let (mut here, mut there) = pair.connect(listener, 80);
    let mut chance = Chance(0xfeed_beef);
    let (mut mangled, mut died) = (0, 0);
    for round in 0..4_000 {
        pair.a.tcp().send(here, |space| space.len());
        pair.b.tcp().send(there, |space| space.len());
        pair.a.tcp().receive(here, <[u8]>::len);
        pair.b.tcp().receive(there, <[u8]>::len);
        for lane in [&pair.end_a.incoming, &pair.end_b.incoming] {
            let mut lane = lane.borrow_mut();
            let Some(frame) = lane.frames.front().map(|(_, frame)| frame.clone()) else {
                continue;
            };
            if !frame.is_empty() && chance.hits(300) {
                mangled += 1;
                let (now, bad) = (pair.now, mangle(&frame, &mut chance));
                lane.frames.push_front((now, bad));
            }
        }
        let now = pair.now;
        pair.until("a moment", SECOND, |pair| pair.now > now);
        // A forged segment inside the window is good TCP, and may end the connection.
        let ended = pair.a.tcp().phase(here) != Some(Phase::Open)
            || pair.b.tcp().phase(there) != Some(Phase::Open);
        // And a forged acknowledgement may leave it in a state that only time would end.
        if ended || round % 100 == 99 {
            died += u32::from(ended);
            pair.a.tcp().abort(now, here);
            pair.b.tcp().abort(now, there);
            (here, there) = pair.connect(listener, 80);
        }
    }
    assert!(
        mangled > 500 && died < 400,
        "{mangled} mangled, {died} died"
    );
    let (_, again) = pair.connect(listener, 80);
    assert_eq!(pair.b.tcp().phase(again), Some(Phase::Open));
    let now = pair.now;
    pair.a.drop_owner(now, CLIENT);
    pair.b.drop_owner(now, CLIENT);
    pair.pass(61 * SECOND);
    for stack in [&mut pair.a, &mut pair.b] {
        assert_eq!((stack.tcp().connections(), stack.ledger().bytes()), (0, 0));
    }
}

#[test]
fn random_bytes_do_no_harm() {
    let mut pair = Pair::new();
    let listener = pair.listen(80, 4);
    let mut chance = Chance(0x1234_5678);
    for _ in 0..50_000 {
        let length = chance.next() as usize % 200;
        let mut frame: Vec<u8> = (0..length).map(|_| chance.next() as u8).collect();
        // Addressed to B, and now and then with a protocol type that is looked into.
        let to_b = [2, 0, 0, 0, 0, 2];
        for (byte, wanted) in frame.iter_mut().zip(to_b) {
            *byte = wanted;
        }
        let types = [[0x08, 0x00], [0x08, 0x06], [0x86, 0xdd], [0xff, 0xff]];
        let chosen = types[chance.next() as usize % types.len()];
        for (byte, wanted) in frame.iter_mut().skip(12).zip(chosen) {
            *byte = wanted;
        }
        let now = pair.now;
        pair.end_b
            .incoming
            .borrow_mut()
            .frames
            .push_back((now, frame));
        if chance.hits(100) {
            pair.until("a moment", SECOND, |pair| pair.now > now);
        }
    }
    let (_, there) = pair.connect(listener, 80);
    assert_eq!(pair.b.tcp().phase(there), Some(Phase::Open));
}

#[test]
fn a_flood_of_syns_fills_the_backlog_and_drains_from_it() {
    let mut pair = Pair::new();
    let listener = pair.listen(80, 8);
    let frame = {
        pair.a.connect(CLIENT, ([10, 0, 0, 2], 80).into()).unwrap();
        let mut first = None;
        pair.until("a SYN to copy", SECOND, |pair| {
            let lane = pair.end_b.incoming.borrow();
            first = lane
                .frames
                .iter()
                .find(|(_, f)| f.len() > 60)
                .map(|(_, f)| f.clone());
            first.is_some()
        });
        first.unwrap()
    };
    let before = pair.b.ledger().bytes();
    for port in 1_024..3_000u16 {
        let mut syn = frame.clone();
        // From addresses where nobody is: the answers go nowhere, and no reset comes back.
        syn[29] = 100 + (port % 100) as u8;
        syn[34..36].copy_from_slice(&port.to_be_bytes());
        repair(&mut syn);
        let now = pair.now;
        pair.end_b
            .incoming
            .borrow_mut()
            .frames
            .push_back((now, syn));
        pair.until("a moment", SECOND, |pair| pair.now > now);
    }
    let one = pair.b.tcp().connection_bytes();
    assert!(pair.b.ledger().bytes() <= before + 8 * one);
    assert!(pair.b.tcp().refused().backlog > 1_500);
    pair.pass(60 * SECOND);
    let now = pair.now;
    pair.a.drop_owner(now, CLIENT);
    while pair.b.tcp().accept(listener).is_some() {}
    let (_, there) = pair.connect(listener, 80);
    assert_eq!(pair.b.tcp().phase(there), Some(Phase::Open));
}

#[test]
fn in_a_flood_of_syns_those_that_somebody_stands_behind_get_through() {
    let mut pair = Pair::new();
    let listener = pair.listen(80, 8);
    // What a handshake takes here is known.
    pair.connect(listener, 80);
    let mut syn = None;
    pair.a.connect(CLIENT, ([10, 0, 0, 2], 81).into()).unwrap();
    pair.until("a SYN to copy", SECOND, |pair| {
        let lane = pair.end_b.incoming.borrow();
        let mut frames = lane.frames.iter().map(|(_, frame)| frame);
        syn = frames.rfind(|frame| frame.len() > 50).cloned();
        syn.is_some()
    });
    let mut syn = syn.unwrap();
    syn[37] = 80;
    let mut chance = Chance(0x5eed_0006);
    // A thousand a second, from addresses where nobody is.
    let mut flood = |pair: &mut Pair| {
        syn[29] = 100 + (chance.next() % 100) as u8;
        syn[34..36].copy_from_slice(&(chance.next() as u16 | 1).to_be_bytes());
        repair(&mut syn);
        let now = pair.now;
        let frame = (now, syn.clone());
        pair.end_b.incoming.borrow_mut().frames.push_back(frame);
        pair.until("a millisecond", SECOND, |pair| pair.now >= now + 1_000_000);
    };
    for number in 1..=10 {
        (0..100).for_each(|_| flood(&mut pair));
        assert!(pair.b.tcp().connections() >= 8, "the backlog is full");
        let here = pair.a.connect(CLIENT, ([10, 0, 0, 2], 80).into()).unwrap();
        let start = pair.now;
        let mut there = None;
        while there.is_none() {
            flood(&mut pair);
            there = pair.b.tcp().accept(listener);
            assert!(pair.now - start < 8 * SECOND, "connection {number}");
        }
        assert_eq!(pair.a.tcp().phase(here), Some(Phase::Open));
    }
    assert!(pair.b.tcp().refused().backlog > 500);
    let now = pair.now;
    pair.b.close_listener(now, listener);
    pair.b.drop_owner(now, CLIENT);
    pair.pass(5 * SECOND);
    assert_eq!(
        (pair.b.tcp().connections(), pair.b.ledger().bytes()),
        (0, 0)
    );
}
