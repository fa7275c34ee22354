//! The clients: what the host does to a guest for a while, and how much of it was done. Which guest, and what
//! else is looked at meanwhile, is `guest`'s and the benchmark's.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use super::wrk;

/// The ports, as `tests/bench/net/task` and `tests/linux-peer` have them.
pub(super) const SINK: u16 = 5001;
pub(super) const SOURCE: u16 = 5002;
pub(super) const ECHO: u16 = 5003;
pub(super) const DATAGRAMS: u16 = 5004;
pub(super) const GREETER: u16 = 5005;
/// The port that serves HTTP.
pub(super) const PAGE: u16 = 80;

/// How long a guest may be silent before that is an error.
const PATIENCE: Duration = Duration::from_secs(20);
/// After how long a datagram counts as lost.
pub(super) const LOST: Duration = Duration::from_millis(200);
/// Bytes read or written at a time.
const PIECE: usize = 128 * 1024;
/// What flows before it is counted, so that windows are open.
const WARM_UP: Duration = Duration::from_millis(300);
/// Round trips before they are counted.
const FIRST_TRIPS: u32 = 50;

/// What the host does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Load {
    /// So many connections on which the guest sends.
    Out(usize),
    /// So many connections on which the guest receives.
    In(usize),
    /// One byte there and back on a connection.
    TcpRoundTrips,
    /// A datagram of four bytes there and back.
    UdpRoundTrips,
    /// Connections that bring one byte, so many clients at once.
    Connections(usize),
    /// HTTP requests on so many connections.
    Requests(usize),
}

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Done {
    /// Operations a second; for bulk, bytes.
    pub(super) rate: f64,
    /// Operations in all, with those that were not timed.
    pub(super) operations: u64,
}

impl Load {
    /// Does it for so long.
    pub(super) fn run(self, guest: Ipv4Addr, time: Duration) -> Result<Done> {
        match self {
            Self::Out(streams) => out(guest, streams, time),
            Self::In(streams) => into(guest, streams, time),
            Self::TcpRoundTrips => tcp_round_trips(guest, time),
            Self::UdpRoundTrips => udp_round_trips(guest, time),
            Self::Connections(clients) => connections(guest, clients, time),
            Self::Requests(clients) => wrk::run(guest, clients, time),
        }
    }

    /// Whether an operation is a byte.
    pub(super) fn is_bulk(self) -> bool {
        matches!(self, Self::Out(_) | Self::In(_))
    }
}

/// Connects, and fails rather than to wait for ever.
pub(super) fn connect(guest: Ipv4Addr, port: u16) -> Result<TcpStream> {
    let address = SocketAddr::from((guest, port));
    let stream = TcpStream::connect_timeout(&address, PATIENCE)
        .with_context(|| format!("no connection to {address}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Runs `body` on so many threads at once and returns what they return.
pub(super) fn together<R: Send>(
    count: usize,
    body: impl Fn() -> Result<R> + Sync,
) -> Result<Vec<R>> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count).map(|_| scope.spawn(&body)).collect();
        let ended = threads.into_iter().map(|thread| {
            thread
                .join()
                .map_err(|_| anyhow!("a client panicked"))
                .flatten()
        });
        ended.collect()
    })
}

fn out(guest: Ipv4Addr, streams: usize, time: Duration) -> Result<Done> {
    let start = Barrier::new(streams);
    let counts = together(streams, || {
        let stream = connect(guest, SOURCE);
        // Who fails must not keep the others waiting.
        start.wait();
        let mut stream = stream?;
        let begin = Instant::now() + WARM_UP;
        let before = receive_until(&mut stream, begin)?;
        let counted = receive_until(&mut stream, begin + time)?;
        Ok((before, counted))
    })?;
    let counted: u64 = counts.iter().map(|(_, counted)| counted).sum();
    let before: u64 = counts.iter().map(|(before, _)| before).sum();
    Ok(Done {
        rate: counted as f64 / time.as_secs_f64(),
        operations: before + counted,
    })
}

fn receive_until(stream: &mut TcpStream, end: Instant) -> Result<u64> {
    let mut piece = vec![0; PIECE];
    let mut received = 0;
    while Instant::now() < end {
        let count = stream.read(&mut piece).context("the guest sends no more")?;
        ensure!(count > 0, "the guest ended what has no end");
        received += count as u64;
    }
    Ok(received)
}

fn into(guest: Ipv4Addr, streams: usize, time: Duration) -> Result<Done> {
    let start = Barrier::new(streams);
    let counts = together(streams, || {
        let stream = connect(guest, SINK);
        start.wait();
        let begin = Instant::now();
        let sent = send_until(stream?, begin + time)?;
        Ok((sent, begin, Instant::now()))
    })?;
    let operations = counts.iter().map(|(sent, ..)| sent).sum();
    let begin = counts.iter().map(|(_, begin, _)| *begin).min();
    let end = counts.iter().map(|(.., end)| *end).max();
    let (begin, end) = begin.zip(end).context("there are no streams")?;
    Ok(Done {
        rate: operations as f64 / (end - begin).as_secs_f64(),
        operations,
    })
}

/// Sends until then, and waits until the guest says that it has received all of it.
fn send_until(mut stream: TcpStream, end: Instant) -> Result<u64> {
    let piece = vec![0x71; PIECE];
    let mut sent = 0;
    while Instant::now() < end {
        sent += stream.write(&piece).context("the guest takes no more")? as u64;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut count = [0; 8];
    stream
        .read_exact(&mut count)
        .context("the guest does not say how many bytes came")?;
    let count = u64::from_le_bytes(count);
    ensure!(
        count == sent,
        "{sent} bytes were sent, and the guest counted {count}"
    );
    Ok(sent)
}

fn tcp_round_trips(guest: Ipv4Addr, time: Duration) -> Result<Done> {
    let mut stream = connect(guest, ECHO)?;
    let mut trip = |number: u32| -> Result<()> {
        let sent = number.to_le_bytes()[0];
        let mut back = [!sent];
        stream.write_all(&[sent])?;
        stream.read_exact(&mut back).context("no byte came back")?;
        ensure!(back == [sent], "{sent} came back as {back:?}");
        Ok(())
    };
    (0..FIRST_TRIPS).try_for_each(&mut trip)?;
    let (begin, mut count) = (Instant::now(), 0);
    while begin.elapsed() < time {
        trip(count)?;
        count += 1;
    }
    Ok(Done {
        rate: f64::from(count) / begin.elapsed().as_secs_f64(),
        operations: u64::from(count + FIRST_TRIPS),
    })
}

fn udp_round_trips(guest: Ipv4Addr, time: Duration) -> Result<Done> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((guest, DATAGRAMS))?;
    socket.set_read_timeout(Some(LOST))?;
    let mut number: u32 = 0;
    // Whether the datagram came back; late ones of before are passed over.
    let mut trip = || -> Result<bool> {
        number += 1;
        let (sent, mut back) = (number.to_le_bytes(), [0; 64]);
        socket.send(&sent)?;
        while let Ok(count) = socket.recv(&mut back) {
            if back[..count] == sent {
                return Ok(true);
            }
        }
        Ok(false)
    };
    let mut first = 0;
    for _ in 0..FIRST_TRIPS {
        first += u32::from(trip()?);
    }
    ensure!(first > 0, "of {FIRST_TRIPS} datagrams none came back");
    let (begin, mut count) = (Instant::now(), 0);
    while begin.elapsed() < time {
        count += u32::from(trip()?);
    }
    Ok(Done {
        rate: f64::from(count) / begin.elapsed().as_secs_f64(),
        operations: u64::from(count + first),
    })
}

fn connections(guest: Ipv4Addr, clients: usize, time: Duration) -> Result<Done> {
    let end = Instant::now() + time;
    let counts = together(clients, || {
        let mut count: u64 = 0;
        while Instant::now() < end {
            let mut stream = connect(guest, GREETER)?;
            let mut said = Vec::new();
            stream
                .read_to_end(&mut said)
                .context("a connection brought nothing")?;
            ensure!(said == b"y", "a connection brought {said:?}");
            // One that ends late does not count, and does not stretch the time.
            count += u64::from(Instant::now() < end);
        }
        Ok(count)
    })?;
    let operations = counts.iter().sum();
    Ok(Done {
        rate: operations as f64 / time.as_secs_f64(),
        operations,
    })
}
