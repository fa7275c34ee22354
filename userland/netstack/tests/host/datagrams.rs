//! Ping and UDP between two stacks.

use std::net::{IpAddr, SocketAddr};

use crate::common::{A, B, CLIENT, Pair};
use netstack::ping::{PingError, Request};
use netstack::time::SECOND;
use netstack::udp::UdpError;

fn request(pair: &Pair, target: [u8; 4], bytes: usize) -> Request {
    Request {
        owner: CLIENT,
        target: target.into(),
        bytes,
        deadline: pair.now + 2 * SECOND,
    }
}

#[test]
fn an_echo_request_is_answered_with_all_it_carried() {
    let mut pair = Pair::new();
    let (now, wanted) = (pair.now, request(&pair, B, 1_000));
    let sequence = pair.a.ping(now, wanted).unwrap();
    let mut pinged = None;
    pair.until("the answer", SECOND, |pair| {
        pinged = pinged.or(pair.a.next_pinged(pair.now));
        pinged.is_some()
    });
    let pinged = pinged.unwrap();
    let echo = pinged.answer.unwrap();
    assert_eq!((pinged.sequence, pinged.owner), (sequence, CLIENT));
    assert_eq!((echo.from, echo.bytes), (IpAddr::from(B), 1_000));
    assert_eq!(echo.hop_limit, 64);
    assert!(echo.round_trip > 0 && echo.round_trip < SECOND);
}

#[test]
fn an_echo_request_to_nobody_ends_at_its_deadline() {
    let mut pair = Pair::new();
    let (now, wanted) = (pair.now, request(&pair, [10, 0, 0, 77], 56));
    pair.a.ping(now, wanted).unwrap();
    let mut pinged = None;
    pair.until("the deadline", 3 * SECOND, |pair| {
        pinged = pinged.or(pair.a.next_pinged(pair.now));
        pinged.is_some()
    });
    assert_eq!(pinged.unwrap().answer, None);
    assert!(pair.now >= now + 2 * SECOND);
}

#[test]
fn echo_requests_are_limited_and_a_dead_clients_are_forgotten() {
    let mut pair = Pair::new();
    let (now, wanted) = (pair.now, request(&pair, [10, 0, 0, 77], 0));
    let refused = (0..100).find_map(|_| pair.a.ping(now, wanted).err());
    assert_eq!(refused, Some(PingError::Busy));
    pair.a.drop_owner(now, CLIENT);
    pair.pass(3 * SECOND);
    assert_eq!(pair.a.next_pinged(pair.now), None);
}

#[test]
fn datagrams_arrive_and_are_answered() {
    let mut pair = Pair::new();
    let (here, there) = (
        pair.a.bind(CLIENT, 0).unwrap(),
        pair.b.bind(CLIENT, 53).unwrap(),
    );
    pair.a
        .send_to(here, SocketAddr::from((B, 53)), b"question")
        .unwrap();
    pair.until("the question", SECOND, |pair| {
        pair.b.can_receive_from(there)
    });
    let mut buffer = [0; 4];
    let (length, from) = pair.b.receive_from(there, &mut buffer).unwrap();
    assert_eq!(
        (&buffer[..length], from.ip()),
        (&b"ques"[..], IpAddr::from(A))
    );
    assert_eq!(Some(from.port()), pair.a.udp().port(here));
    pair.b.send_to(there, from, b"answer").unwrap();
    pair.until("the answer", SECOND, |pair| pair.a.can_receive_from(here));
}

#[test]
fn a_port_that_nobody_chose_cannot_be_foretold() {
    let mut pair = Pair::new();
    let mut ports: Vec<u16> = (0..40)
        .map(|_| {
            let socket = pair.a.bind(CLIENT, 0).expect("one is free");
            pair.a.udp().port(socket).expect("bound")
        })
        .collect();
    assert!(ports.iter().all(|port| *port >= 49_152));
    let steps = ports
        .windows(2)
        .filter(|pair| pair[0].abs_diff(pair[1]) < 100);
    assert!(steps.count() < 10, "{ports:?}");
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 40);
}

#[test]
fn a_datagram_socket_says_what_it_cannot_do() {
    let mut pair = Pair::new();
    let socket = pair.a.bind(CLIENT, 9).unwrap();
    assert_eq!(pair.a.bind(CLIENT, 9), Err(UdpError::InUse));
    let peer = SocketAddr::from((B, 9));
    assert_eq!(
        pair.a.send_to(socket, peer, &vec![0; 100_000]),
        Err(UdpError::TooLong)
    );
    let full = (0..1_000).find_map(|_| pair.a.send_to(socket, peer, &[0; 1_000]).err());
    assert_eq!(full, Some(UdpError::Full));
    pair.a.close_udp(socket);
    assert_eq!(
        pair.a.send_to(socket, peer, b"late"),
        Err(UdpError::NoSocket)
    );
    assert_eq!(
        (pair.a.ledger().sockets(CLIENT), pair.a.ledger().bytes()),
        (0, 0)
    );
}
