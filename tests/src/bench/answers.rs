//! That the servers answer right, whichever guest they are on: what is measured is worth something only then.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpStream, UdpSocket};

use anyhow::{Context, Result, ensure};

use super::load::{DATAGRAMS, ECHO, GREETER, LOST, PAGE, SINK, SOURCE, connect, together};

/// Lengths of what is sent back, up to the longest datagram and more than a segment.
const LENGTHS: [usize; 6] = [1, 2, 100, 1023, 1460, 1472];
/// Connections at once.
const STREAMS: usize = 32;
/// A request.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: guest\r\n\r\n";
/// Bytes of the page.
const PAGE_BYTES: usize = 1024;
/// How often a datagram may be lost.
const TRIES: u32 = 50;

/// Asks all servers of a guest.
pub(super) fn check(guest: Ipv4Addr) -> Result<()> {
    sink(guest).context("the sink")?;
    source(guest).context("the source")?;
    echo(guest).context("the echo")?;
    datagrams(guest).context("the echo of datagrams")?;
    greeter(guest).context("the greeter")?;
    page(guest).context("the page")
}

/// Bytes that differ from their neighbours.
fn pattern(length: usize) -> Vec<u8> {
    let bytes = (0..length).map(|place| (place * 7 + place / 251).to_le_bytes()[0]);
    bytes.collect()
}

/// Every byte is counted, on many connections at once.
fn sink(guest: Ipv4Addr) -> Result<()> {
    for length in [0, 1, 1_000_003] {
        let counts = together(STREAMS, || {
            let mut stream = connect(guest, SINK)?;
            stream.write_all(&pattern(length))?;
            stream.shutdown(Shutdown::Write)?;
            let mut count = Vec::new();
            stream.read_to_end(&mut count)?;
            Ok(count)
        })?;
        let expected = (length as u64).to_le_bytes();
        for count in counts {
            ensure!(count == expected, "of {length} bytes it says {count:?}");
        }
    }
    Ok(())
}

/// It sends more than any buffer holds, and outlives those who go away.
fn source(guest: Ipv4Addr) -> Result<()> {
    together(STREAMS, || {
        let mut stream = connect(guest, SOURCE)?;
        stream.read_exact(&mut vec![0; 1_000_003])?;
        Ok(())
    })
    .map(drop)
}

fn echo(guest: Ipv4Addr) -> Result<()> {
    let mut stream = connect(guest, ECHO)?;
    for length in LENGTHS {
        let sent = pattern(length);
        let mut back = vec![0; length];
        stream.write_all(&sent)?;
        stream.read_exact(&mut back)?;
        ensure!(back == sent, "{length} bytes came back changed");
    }
    stream.shutdown(Shutdown::Write)?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    ensure!(rest.is_empty(), "{} bytes came too many", rest.len());
    Ok(())
}

fn datagrams(guest: Ipv4Addr) -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((guest, DATAGRAMS))?;
    socket.set_read_timeout(Some(LOST))?;
    for length in LENGTHS {
        let (sent, mut back) = (pattern(length), vec![0; 2 * length]);
        let mut answered = false;
        for _ in 0..TRIES {
            socket.send(&sent)?;
            // One that comes late is one of before.
            while let Ok(count) = socket.recv(&mut back) {
                answered |= back[..count] == sent;
                if answered {
                    break;
                }
            }
            if answered {
                break;
            }
        }
        ensure!(answered, "{length} bytes did not come back");
    }
    Ok(())
}

fn greeter(guest: Ipv4Addr) -> Result<()> {
    for _ in 0..STREAMS {
        let mut said = Vec::new();
        connect(guest, GREETER)?.read_to_end(&mut said)?;
        ensure!(said == b"y", "it says {said:?}");
    }
    Ok(())
}

/// A request at once, one in two pieces, and two in one, on one connection.
fn page(guest: Ipv4Addr) -> Result<()> {
    let mut stream = connect(guest, PAGE)?;
    stream.write_all(REQUEST)?;
    response(&mut stream)?;
    let (begin, end) = REQUEST.split_at(REQUEST.len() - 2);
    stream.write_all(begin)?;
    stream.write_all(end)?;
    response(&mut stream)?;
    stream.write_all(&[REQUEST, REQUEST].concat())?;
    response(&mut stream)?;
    response(&mut stream)?;
    stream.shutdown(Shutdown::Write)?;
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    ensure!(rest.is_empty(), "{} bytes came too many", rest.len());
    Ok(())
}

/// Takes one response, and none of what comes after it.
fn response(stream: &mut TcpStream) -> Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let length = format!("Content-Length: {PAGE_BYTES}\r\n");
    ensure!(
        head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains(&length),
        "the head is `{head}`"
    );
    let mut body = vec![0; PAGE_BYTES];
    stream.read_exact(&mut body)?;
    ensure!(body == [b'x'; PAGE_BYTES], "the body is {body:?}");
    Ok(())
}
