//! TCP between two stacks: opening, moving bytes over bad cables, and every way to end.

use std::net::SocketAddr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{IpProtocol, IpRepr, Ipv4Packet, TcpControl, TcpPacket, TcpRepr};

use crate::common::{A, B, CLIENT, Faults, Pair, Transfer, fixed, pattern};
use netstack::tcp::{Choice, End, Phase};
use netstack::time::SECOND;

#[test]
fn a_connection_opens_and_both_sides_know_the_ends() {
    let mut pair = Pair::new();
    let listener = pair.listen(80, 4);
    let (here, there) = pair.connect(listener, 80);
    let (mine, theirs) = (
        pair.a.tcp().flow(here).unwrap(),
        pair.b.tcp().flow(there).unwrap(),
    );
    assert_eq!((mine.local, mine.remote), (theirs.remote, theirs.local));
    assert_eq!(mine.remote, SocketAddr::from((B, 80)));
}

fn transfer(faults: Faults, length: usize, limit: u64) -> Pair {
    let mut pair = Pair::new();
    pair.end_a.outgoing.borrow_mut().faults = faults;
    pair.end_b.outgoing.borrow_mut().faults = faults;
    let listener = pair.listen(80, 4);
    let (here, there) = pair.connect(listener, 80);
    let (mut up, mut down) = (Transfer::new(length), Transfer::new(length));
    pair.until("both directions arrive", limit, |pair| {
        up.give(&mut pair.a, here);
        down.give(&mut pair.b, there);
        up.take(&mut pair.b, there);
        down.take(&mut pair.a, here);
        up.received == length && down.received == length
    });
    pair
}

#[test]
fn bulk_data_arrives_whole_in_both_directions_at_once() {
    let pair = transfer(Faults::default(), 8 << 20, 60 * SECOND);
    // 8 MiB of 1,460 bytes; acknowledgements ride on the other direction's data.
    assert!(
        pair.end_a.outgoing.borrow().carried < 9_000,
        "{}",
        pair.end_a.outgoing.borrow().carried
    );
}

#[test]
fn bulk_data_survives_loss_repetition_reordering_and_corruption() {
    let faults = Faults {
        loss: 10,
        repeat: 20,
        delay: 30,
        corrupt: 5,
    };
    let pair = transfer(faults, 1 << 20, 600 * SECOND);
    assert!(pair.end_a.outgoing.borrow().lost > 5 && pair.end_b.outgoing.borrow().lost > 5);
}

#[test]
fn the_short_end_of_a_long_piece_waits_for_nothing_and_short_pieces_are_joined() {
    const MILLISECOND: u64 = 1_000_000;
    let mut pair = Pair::new();
    let listener = pair.listen(80, 4);
    let (here, there) = pair.connect(listener, 80);
    let mut up = Transfer::new(2_000);
    up.give(&mut pair.a, here);
    pair.until("both segments", 3 * MILLISECOND, |pair| {
        up.take(&mut pair.b, there);
        up.received == 2_000
    });
    // One that is short goes at once, those after it wait for its acknowledgement and go together.
    pair.pass(SECOND);
    let carried = |pair: &Pair| pair.end_a.outgoing.borrow().carried;
    for (no_delay, frames) in [(false, 1..=6), (true, 10..=10)] {
        let now = pair.now;
        assert!(
            pair.a
                .tcp()
                .set_option(now, here, Choice::NoDelay(no_delay))
        );
        let before = carried(&pair);
        for _ in 0..10 {
            let mut left = 1;
            pair.a.tcp().send(here, |_| core::mem::take(&mut left));
            pair.pass(MILLISECOND / 10);
        }
        pair.until("all ten", SECOND, |pair| {
            pair.b.tcp().receive(there, |bytes| {
                up.received += bytes.len();
                bytes.len()
            });
            up.received.is_multiple_of(10)
        });
        pair.pass(SECOND);
        let count = carried(&pair) - before;
        assert!(frames.contains(&count), "no delay: {no_delay}, {count}");
    }
}

#[test]
fn a_window_beyond_64_kib_is_used() {
    let mut pair = Pair::new();
    let listener = pair.listen(80, 4);
    let (here, _there) = pair.connect(listener, 80);
    let mut up = Transfer::new(1 << 20);
    pair.until(
        "the receiver's and the sender's buffer are full",
        10 * SECOND,
        |pair| {
            up.give(&mut pair.a, here);
            up.sent == 2 * 64 * 1024
        },
    );
}

#[test]
fn a_stalled_reader_holds_up_nobody_else() {
    let mut pair = Pair::new();
    let listener = pair.listen(80, 4);
    let (slow_here, slow_there) = pair.connect(listener, 80);
    let (here, there) = pair.connect(listener, 80);
    let (mut slow, mut quick) = (Transfer::new(1 << 20), Transfer::new(1 << 20));
    pair.until("the quick one's data", 10 * SECOND, |pair| {
        slow.give(&mut pair.a, slow_here);
        quick.give(&mut pair.a, here);
        quick.take(&mut pair.b, there);
        quick.received == quick.length
    });
    assert!(
        (120_000..=131_072).contains(&slow.sent),
        "the slow one fills the two buffers and waits: {}",
        slow.sent
    );
    pair.until(
        "the slow one's data, once it is read",
        60 * SECOND,
        |pair| {
            slow.give(&mut pair.a, slow_here);
            slow.take(&mut pair.b, slow_there);
            slow.received == slow.length
        },
    );
}

#[test]
fn a_half_closed_connection_still_carries_the_other_half() {
    let mut pair = Pair::new();
    let listener = pair.listen(80, 4);
    let (here, there) = pair.connect(listener, 80);
    let (mut up, mut down) = (Transfer::new(5_000), Transfer::new(300_000));
    up.give(&mut pair.a, here);
    pair.a.tcp().finish_sending(here);
    pair.until("the end of the request", 5 * SECOND, |pair| {
        up.take(&mut pair.b, there);
        pair.b.tcp().receive_finished(there)
    });
    assert_eq!(up.received, up.length);
    assert!(!pair.a.tcp().can_send(here) && !pair.a.tcp().receive_finished(here));
    pair.until("the answer", 5 * SECOND, |pair| {
        down.give(&mut pair.b, there);
        down.take(&mut pair.a, here);
        down.received == down.length
    });
    pair.b.tcp().finish_sending(there);
    pair.until("both ends closed", 5 * SECOND, |pair| {
        pair.a.tcp().phase(here) == Some(Phase::Ended(End::Finished))
            && pair.b.tcp().phase(there) == Some(Phase::Ended(End::Finished))
    });
}

#[test]
fn what_was_given_before_the_close_arrives_and_nothing_stays_behind() {
    let mut pair = Pair::new();
    let listener = pair.listen(80, 4);
    let (here, there) = pair.connect(listener, 80);
    let mut up = Transfer::new(60_000);
    up.give(&mut pair.a, here);
    let now = pair.now;
    pair.a.close(now, here);
    pair.until("the data and the end", 5 * SECOND, |pair| {
        up.take(&mut pair.b, there);
        pair.b.tcp().receive_finished(there)
    });
    assert_eq!(up.received, 60_000);
    pair.b.close(now, there);
    pair.until("both sockets are given back", 5 * SECOND, |pair| {
        pair.a.tcp().connections() == 0 && pair.b.tcp().connections() == 0
    });
    assert_eq!(
        (pair.a.ledger().bytes(), pair.a.ledger().sockets(CLIENT)),
        (0, 0)
    );
    assert_eq!(pair.a.tcp().time_waiting(), 1, "who closed first remembers");
    assert_eq!(pair.b.tcp().time_waiting(), 0);
    pair.pass(61 * SECOND);
    assert_eq!(pair.a.tcp().time_waiting(), 0);
}

#[test]
fn received_bytes_wait_for_a_slow_reader_past_both_closes() {
    let mut pair = Pair::new();
    let listener = pair.listen(80, 4);
    let (here, there) = pair.connect(listener, 80);
    pair.a.tcp().finish_sending(here);
    let mut down = Transfer::new(50_000);
    down.give(&mut pair.b, there);
    let now = pair.now;
    pair.b.close(now, there);
    pair.pass(40 * SECOND);
    assert_eq!(
        pair.a.tcp().phase(here),
        Some(Phase::Open),
        "not over before it is read"
    );
    down.take(&mut pair.a, here);
    assert_eq!(down.received, 50_000);
    pair.pass(SECOND);
    let now = pair.now;
    pair.a.close(now, here);
    pair.until("the socket is given back", SECOND, |pair| {
        pair.a.tcp().connections() == 0
    });
}

/// The same segment with more bytes, which are the last.
fn extended(frame: &[u8], more: &[u8]) -> Vec<u8> {
    let (ethernet, packet) = frame.split_at(14);
    let ip = Ipv4Packet::new_checked(packet).expect("whole");
    let (source, destination) = (ip.src_addr().into(), ip.dst_addr().into());
    let checksums = ChecksumCapabilities::default();
    let segment = TcpPacket::new_checked(ip.payload()).expect("whole");
    let segment = TcpRepr::parse(&segment, &source, &destination, &checksums).expect("whole");
    let payload = [segment.payload, more].concat();
    let segment = TcpRepr {
        control: TcpControl::Fin,
        payload: &payload,
        ..segment
    };
    let length = segment.buffer_len();
    let ip = IpRepr::new(source, destination, IpProtocol::Tcp, length, 64);
    let mut frame = ethernet.to_vec();
    frame.resize(14 + ip.buffer_len(), 0);
    ip.emit(&mut frame[14..], &checksums);
    let mut packet = TcpPacket::new_unchecked(&mut frame[34..]);
    segment.emit(&mut packet, &source, &destination, &checksums);
    frame
}

#[test]
fn the_end_is_not_taken_where_the_last_bytes_are_beyond_the_window() {
    // The window's unit is 32 bytes: it ends a little before the buffer does.
    const BUFFER: usize = 1 << 20;
    const LENGTH: usize = BUFFER - 3;
    let mut config = fixed(B, A);
    config.buffer_bytes = BUFFER;
    let mut pair = Pair::with(fixed(A, B), config);
    let listener = pair.listen(80, 4);
    let (here, there) = pair.connect(listener, 80);
    let mut up = Transfer::new(LENGTH);
    let (mut first, mut end) = (None, None);
    pair.until("the segment that fills the window", 5 * SECOND, |pair| {
        up.give(&mut pair.a, here);
        let frames = &mut pair.end_a.outgoing.borrow_mut().frames;
        frames.retain(|(_, frame)| {
            let sequence = u32::from_be_bytes(frame[38..42].try_into().unwrap());
            let bytes = frame.len().saturating_sub(54);
            if bytes > 0 {
                let first: u32 = *first.get_or_insert(sequence);
                let next = sequence.wrapping_sub(first) as usize + bytes;
                let fills = next > LENGTH - 100 && next < LENGTH;
                // It is taken from the cable, and so is what comes after it.
                if fills && end.is_none() {
                    let rest: Vec<u8> = (next..LENGTH).map(pattern).collect();
                    end = Some(extended(frame, &rest));
                }
            }
            end.is_none()
        });
        end.is_some()
    });
    let end = end.unwrap();
    let now = pair.now;
    pair.end_a.outgoing.borrow_mut().put(now, end.clone());
    pair.pass(SECOND / 1_000);
    assert!(pair.b.tcp().can_receive(there));
    up.take(&mut pair.b, there);
    assert!(up.received < LENGTH && !pair.b.tcp().receive_finished(there));
    // Then it is sent again.
    let now = pair.now;
    pair.end_a.outgoing.borrow_mut().put(now, end);
    pair.until("the end", SECOND, |pair| {
        up.take(&mut pair.b, there);
        pair.b.tcp().receive_finished(there)
    });
    assert_eq!(up.received, LENGTH);
}

#[test]
fn closing_with_unread_data_resets_the_peer() {
    let mut pair = Pair::new();
    let listener = pair.listen(80, 4);
    let (here, there) = pair.connect(listener, 80);
    Transfer::new(10).give(&mut pair.a, here);
    pair.until("the bytes arrive", SECOND, |pair| {
        pair.b.tcp().can_receive(there)
    });
    let now = pair.now;
    pair.b.close(now, there);
    pair.until("the reset", SECOND, |pair| {
        pair.a.tcp().phase(here) == Some(Phase::Ended(End::Reset))
    });
    assert_eq!(pair.b.tcp().connections(), 0);
}

#[test]
fn what_is_left_to_send_is_charged_before_it_is_taken_and_given_back() {
    const LEFT: usize = 2_000;
    for (allowed, broken) in [(LEFT - 1, false), (LEFT, true), (LEFT, false)] {
        let mut config = crate::common::fixed(crate::common::A, B);
        let connection = 2 * config.buffer_bytes;
        config.limits.client_bytes = connection + allowed;
        let mut pair = Pair::with(config, crate::common::fixed(B, crate::common::A));
        let listener = pair.listen(80, 4);
        let (here, there) = pair.connect(listener, 80);
        let (now, mut taken) = (pair.now, false);
        pair.a.close_with(now, here, LEFT, |tail| {
            taken = true;
            tail.fill(7);
            !broken
        });
        assert_eq!(taken, allowed == LEFT, "what is refused is not asked for");
        let whole = taken && !broken;
        let mut heard = Vec::new();
        pair.until("the end", SECOND, |pair| {
            pair.b.tcp().receive(there, |bytes| {
                heard.extend_from_slice(bytes);
                bytes.len()
            });
            pair.b.tcp().receive_finished(there)
        });
        let reset = pair.b.tcp().phase(there) == Some(Phase::Ended(End::Reset));
        assert_eq!(
            (heard.len(), reset),
            if whole { (LEFT, false) } else { (0, true) }
        );
        let now = pair.now;
        pair.b.close(now, there);
        pair.pass(SECOND);
        assert_eq!(pair.a.ledger().bytes(), 0);
    }
}

#[test]
fn a_dead_connection_that_nobody_closes_keeps_nobody_awake() {
    let mut pair = Pair::new();
    let listener = pair.listen(80, 4);
    let (here, _there) = pair.connect(listener, 80);
    let now = pair.now;
    assert!(
        pair.a
            .tcp()
            .set_option(now, here, Choice::UserTimeout(SECOND))
    );
    pair.end_b.plugged = false;
    Transfer::new(10_000).give(&mut pair.a, here);
    pair.until("the end", 10 * SECOND, |pair| {
        pair.a.tcp().phase(here) == Some(Phase::Ended(End::TimedOut))
    });
    pair.pass(SECOND);
    let now = pair.now;
    let deadline = pair.a.deadline(now);
    assert!(
        deadline.is_none_or(|deadline| deadline > now + SECOND),
        "{deadline:?} at {now}"
    );
}

#[test]
fn nobody_listening_is_a_refusal_and_nobody_there_a_timeout() {
    let mut pair = Pair::new();
    let here = pair.a.connect(CLIENT, SocketAddr::from((B, 81))).unwrap();
    pair.until("the refusal", SECOND, |pair| {
        pair.a.tcp().phase(here) == Some(Phase::Ended(End::Refused))
    });
    let nowhere = pair
        .a
        .connect(CLIENT, SocketAddr::from(([10, 0, 0, 9], 80)))
        .unwrap();
    pair.until("the timeout", 60 * SECOND, |pair| {
        pair.a.tcp().phase(nowhere) == Some(Phase::Ended(End::TimedOut))
    });
    let now = pair.now;
    pair.a.close(now, here);
    pair.a.close(now, nowhere);
    pair.pass(5 * SECOND);
    assert_eq!(
        (pair.a.tcp().connections(), pair.a.ledger().bytes()),
        (0, 0)
    );
}

#[test]
fn the_backlog_holds_so_many_and_drops_the_next_until_there_is_room() {
    let mut pair = Pair::new();
    let listener = pair.listen(80, 3);
    let opened: Vec<_> = (0..5)
        .map(|_| pair.a.connect(CLIENT, SocketAddr::from((B, 80))).unwrap())
        .collect();
    pair.pass(SECOND / 2);
    let open = |pair: &mut Pair| {
        opened
            .iter()
            .filter(|id| pair.a.tcp().phase(**id) == Some(Phase::Open))
            .count()
    };
    assert_eq!(open(&mut pair), 3);
    assert!(pair.b.tcp().refused().backlog >= 2);
    for _ in 0..3 {
        assert!(pair.b.tcp().accept(listener).is_some());
    }
    pair.until("the others, when they try again", 10 * SECOND, |pair| {
        open(pair) == 5
    });
}

#[test]
fn one_clients_limits_do_not_touch_another() {
    let mut config = crate::common::fixed(crate::common::A, B);
    config.limits.client_sockets = 3;
    let mut pair = Pair::with(config, crate::common::fixed(B, crate::common::A));
    let peer = SocketAddr::from((B, 80));
    for _ in 0..3 {
        pair.a.connect(CLIENT, peer).unwrap();
    }
    assert!(pair.a.connect(CLIENT, peer).is_err());
    assert!(pair.a.listen(CLIENT, None, 80, 1).is_err());
    assert!(pair.a.bind(CLIENT, 0).is_err());
    assert!(pair.a.connect(CLIENT + 1, peer).is_ok());
}

#[test]
fn a_dead_clients_streams_are_reset_and_its_port_is_free() {
    let mut pair = Pair::new();
    let listener = pair.listen(80, 4);
    let (here, _) = pair.connect(listener, 80);
    let waiting = pair.a.connect(CLIENT, SocketAddr::from((B, 80))).unwrap();
    pair.pass(SECOND / 10);
    let now = pair.now;
    pair.b.drop_owner(now, CLIENT);
    pair.until("both resets", SECOND, |pair| {
        [here, waiting]
            .iter()
            .all(|id| pair.a.tcp().phase(*id) == Some(Phase::Ended(End::Reset)))
    });
    assert_eq!(
        (pair.b.tcp().connections(), pair.b.ledger().bytes()),
        (0, 0)
    );
    pair.listen(80, 4);
}

#[test]
fn a_thousand_short_connections_whoever_closes_first() {
    for server_closes in [true, false] {
        let mut pair = Pair::new();
        let listener = pair.listen(80, 4);
        for round in 0..1_000 {
            let (here, there) = pair.connect(listener, 80);
            let mut up = Transfer::new(100);
            up.give(&mut pair.a, here);
            pair.until("the request", SECOND, |pair| {
                up.take(&mut pair.b, there);
                up.received == up.length
            });
            let now = pair.now;
            if server_closes {
                pair.b.close(now, there);
                pair.until("the server's end", SECOND, |p| {
                    p.a.tcp().receive_finished(here)
                });
                pair.a.close(now, here);
            } else {
                pair.a.close(now, here);
                pair.until("the client's end", SECOND, |p| {
                    p.b.tcp().receive_finished(there)
                });
                pair.b.close(now, there);
            }
            assert!(
                pair.b.tcp().connections() < 8,
                "sockets pile up in round {round}"
            );
        }
        pair.pass(SECOND);
        assert_eq!(
            (pair.a.tcp().connections(), pair.b.tcp().connections()),
            (0, 0)
        );
        let waiting = (pair.a.tcp().time_waiting(), pair.b.tcp().time_waiting());
        assert_eq!(
            waiting,
            if server_closes {
                (0, 1_000)
            } else {
                (1_000, 0)
            }
        );
    }
}

#[test]
fn a_lost_last_acknowledgement_is_sent_again_from_time_wait() {
    let mut pair = Pair::new();
    let listener = pair.listen(80, 4);
    let (here, there) = pair.connect(listener, 80);
    let now = pair.now;
    pair.a.close(now, here);
    pair.until("the first FIN", SECOND, |pair| {
        pair.b.tcp().receive_finished(there)
    });
    pair.pass(SECOND / 10);
    // B's FIN arrives, and A's acknowledgement of it is lost.
    pair.end_a.outgoing.borrow_mut().faults.loss = 1_000;
    pair.b.tcp().finish_sending(there);
    pair.until("A forgets its socket", SECOND, |pair| {
        pair.a.tcp().connections() == 0
    });
    pair.pass(SECOND / 10);
    assert_eq!(pair.b.tcp().phase(there), Some(Phase::Open));
    pair.end_a.outgoing.borrow_mut().faults.loss = 0;
    pair.until("B's FIN is acknowledged", 5 * SECOND, |pair| {
        pair.b.tcp().phase(there) == Some(Phase::Ended(End::Finished))
    });
}

#[test]
fn a_connection_outlives_an_unplugged_cable() {
    let mut pair = Pair::new();
    let listener = pair.listen(80, 4);
    let (here, there) = pair.connect(listener, 80);
    let mut up = Transfer::new(1 << 20);
    pair.until("a part", 10 * SECOND, |pair| {
        up.give(&mut pair.a, here);
        up.take(&mut pair.b, there);
        up.received > 300_000
    });
    pair.end_a.plugged = false;
    pair.end_a.outgoing.borrow_mut().frames.clear();
    pair.end_a.incoming.borrow_mut().frames.clear();
    pair.pass(3 * SECOND);
    pair.end_a.plugged = true;
    let card = pair.a.card();
    let now = pair.now;
    pair.a.card_returned(now, card);
    pair.until("the rest", 20 * SECOND, |pair| {
        up.give(&mut pair.a, here);
        up.take(&mut pair.b, there);
        up.received == up.length
    });
}

#[test]
fn an_idle_connection_lives_and_one_whose_peer_is_silent_dies() {
    let mut pair = Pair::new();
    let listener = pair.listen(80, 4);
    let (here, there) = pair.connect(listener, 80);
    pair.pass(3_600 * SECOND);
    let mut up = Transfer::new(1_000);
    up.give(&mut pair.a, here);
    pair.until("data after an hour", SECOND, |pair| {
        up.take(&mut pair.b, there);
        up.received == up.length
    });
    // A closed window is no silence: the peer answers the probes.
    let mut more = Transfer::new(1 << 20);
    more.give(&mut pair.a, here);
    pair.pass(SECOND);
    more.give(&mut pair.a, here);
    pair.pass(600 * SECOND);
    assert_eq!(pair.a.tcp().phase(here), Some(Phase::Open));
    pair.end_a.outgoing.borrow_mut().faults.loss = 1_000;
    pair.until("the end of patience", 200 * SECOND, |pair| {
        pair.a.tcp().phase(here) == Some(Phase::Ended(End::TimedOut))
    });
}

#[test]
fn a_peer_that_is_gone_is_found_out_by_probes_and_one_that_is_there_is_kept() {
    let probes = Choice::KeepAlive(Some((10 * SECOND, 2)));
    let mut pair = Pair::new();
    let listener = pair.listen(80, 4);
    let (here, there) = pair.connect(listener, 80);
    let (idle, _) = pair.connect(listener, 80);
    let now = pair.now;
    assert!(pair.a.tcp().set_option(now, here, probes));
    let carried = pair.end_b.outgoing.borrow().carried;
    pair.pass(3_600 * SECOND);
    let answers = pair.end_b.outgoing.borrow().carried - carried;
    assert!(
        (300..=700).contains(&answers),
        "a probe every ten seconds, and what keeps the neighbours known: {answers}"
    );
    assert_eq!(pair.a.tcp().phase(here), Some(Phase::Open));
    assert_eq!(pair.b.tcp().phase(there), Some(Phase::Open));
    assert!(!pair.b.tcp().can_receive(there), "a probe carries nothing");

    pair.end_b.plugged = false;
    let start = pair.now;
    pair.until("the peer is given up", 60 * SECOND, |pair| {
        pair.a.tcp().phase(here) == Some(Phase::Ended(End::TimedOut))
    });
    let time = (pair.now - start) / SECOND;
    assert!((20..=31).contains(&time), "{time} seconds");
    // Without probes an idle connection is kept, and so is one whose probes were taken back.
    pair.pass(600 * SECOND);
    assert_eq!(pair.a.tcp().phase(idle), Some(Phase::Open));
    let now = pair.now;
    assert!(pair.a.tcp().set_option(now, idle, probes));
    pair.pass(15 * SECOND);
    let now = pair.now;
    assert!(pair.a.tcp().set_option(now, idle, Choice::KeepAlive(None)));
    pair.pass(600 * SECOND);
    assert_eq!(pair.a.tcp().phase(idle), Some(Phase::Open));
    assert!(!pair.a.tcp().set_option(now, Default::default(), probes));
}

#[test]
fn silence_is_borne_as_long_as_was_chosen() {
    for (choice, seconds) in [(None, 120), (Some(Choice::UserTimeout(5 * SECOND)), 5)] {
        let mut pair = Pair::new();
        let listener = pair.listen(80, 4);
        let (here, _there) = pair.connect(listener, 80);
        let now = pair.now;
        if let Some(choice) = choice {
            assert!(pair.a.tcp().set_option(now, here, choice));
        }
        pair.end_b.plugged = false;
        Transfer::new(1_000).give(&mut pair.a, here);
        let start = pair.now;
        pair.until("the end", 200 * SECOND, |pair| {
            pair.a.tcp().phase(here) == Some(Phase::Ended(End::TimedOut))
        });
        let time = (pair.now - start) / SECOND;
        assert!((seconds..=seconds + 1).contains(&time), "{time} seconds");
    }
}

#[test]
fn a_handshake_takes_no_longer_than_was_chosen() {
    for (choice, seconds) in [(None, 30), (Some(Choice::ConnectTimeout(3 * SECOND)), 3)] {
        let mut pair = Pair::new();
        let listener = pair.listen(80, 4);
        pair.connect(listener, 80);
        pair.end_b.plugged = false;
        let here = pair
            .a
            .connect(CLIENT, SocketAddr::from((B, 80)))
            .expect("begun");
        let start = pair.now;
        if let Some(choice) = choice {
            assert!(pair.a.tcp().set_option(start, here, choice));
        }
        pair.until("the end", 100 * SECOND, |pair| {
            pair.a.tcp().phase(here) == Some(Phase::Ended(End::TimedOut))
        });
        let time = (pair.now - start) / SECOND;
        assert!((seconds..=seconds + 1).contains(&time), "{time} seconds");
    }
    let mut pair = Pair::new();
    let listener = pair.listen(80, 4);
    let (here, _) = pair.connect(listener, 80);
    let late = Choice::ConnectTimeout(3 * SECOND);
    let now = pair.now;
    assert!(
        !pair.a.tcp().set_option(now, here, late),
        "it stands already"
    );
}
