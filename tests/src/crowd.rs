//! Many clients at once through a port that the emulator forwards. Single ones are `http`'s.
//!
//! The emulator listens on the host with a backlog of one. Whoever connects while another waits there is
//! dropped by the host, which tries again after times that double: minutes for a crowd, and nothing that the
//! guest could do about it. So each client connects when the one before was taken; then all of them are there
//! at once, and what the guest makes of that is its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::LIMIT;
use crate::http::{Download, of};

/// Between two looks at the host's table of sockets.
const PAUSE: Duration = Duration::from_millis(1);

/// Downloads the same page of so many clients at once and tells what each got.
pub fn download(server: SocketAddr, path: &str, clients: usize) -> Result<Vec<Download>> {
    let mut streams = Vec::new();
    for _ in 0..clients {
        let mut stream = TcpStream::connect_timeout(&server, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n"
        )?;
        streams.push(stream);
        await_taken(server)?;
    }
    std::thread::scope(|scope| {
        let clients: Vec<_> = streams
            .into_iter()
            .map(|stream| scope.spawn(|| answer(stream)))
            .collect();
        clients
            .into_iter()
            .map(|client| client.join().expect("a client does not panic"))
            .collect()
    })
}

/// Waits until no connection waits at the listening socket.
fn await_taken(server: SocketAddr) -> Result<()> {
    let end = Instant::now() + LIMIT;
    loop {
        let table = std::fs::read_to_string("/proc/net/tcp").context("the host's TCP sockets")?;
        let waiting = waiting(&table, server.port()).context("nobody listens any more")?;
        if waiting == 0 {
            return Ok(());
        }
        ensure!(Instant::now() < end, "the emulator takes no connection");
        std::thread::sleep(PAUSE);
    }
}

/// How many connections wait at a listening socket, by Linux's table of sockets (proc(5), `/proc/net/tcp`): of
/// one that listens, state 0A, the bytes to receive are the length of the queue.
fn waiting(table: &str, port: u16) -> Option<u64> {
    table.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, _, state, queues) = (
            fields.next()?,
            fields.next()?,
            fields.next()?,
            fields.next()?,
        );
        let (_, own) = local.split_once(':')?;
        let listens = state == "0A" && u16::from_str_radix(own, 16) == Ok(port);
        let (_, receive) = queues.split_once(':')?;
        listens
            .then(|| u64::from_str_radix(receive, 16).ok())
            .flatten()
    })
}

/// Reads an answer to its end.
fn answer(mut stream: TcpStream) -> Result<Download> {
    let mut answer = Vec::new();
    stream
        .read_to_end(&mut answer)
        .with_context(|| format!("after {} bytes", answer.len()))?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let (head, body) = answer.split_at(end.context("an answer without a head")? + 4);
    let head = std::str::from_utf8(head)?;
    ensure!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let length = format!("Content-Length: {}\r\n", body.len());
    ensure!(head.contains(&length), "{head}{} bytes", body.len());
    Ok(of(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queue_of_a_listening_socket_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n   \
                     0: 0100007F:1F90 00000000:0000 0A 00000000:00000002 00:00000000 00000000\n   \
                     1: 0100007F:1F91 0100007F:9999 01 00000000:00000007 00:00000000 00000000\n";
        assert_eq!(waiting(table, 8080), Some(2));
        assert_eq!(waiting(table, 8081), None, "it does not listen");
    }

    #[test]
    fn a_connection_that_waits_is_seen() {
        let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let count = || {
            waiting(
                &std::fs::read_to_string("/proc/net/tcp").unwrap(),
                address.port(),
            )
        };
        assert_eq!(count(), Some(0));
        let _client = TcpStream::connect(address).unwrap();
        assert_eq!(count(), Some(1));
        listener.accept().unwrap();
        assert_eq!(count(), Some(0));
    }
}
