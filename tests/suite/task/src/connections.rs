//! An echo server for as many connections as the other side opens, all of them served by one thread
//! through one ring of events. Runs only when it is asked for: it needs a network stack with memory for
//! them (`tests/suite/connections.toml`), and a host that opens `suite.connections=N` at once.

use alloc::collections::BTreeMap;
use core::time::Duration;

use ipc::interface::network::{Event, READY_ERROR, Socket};
use runtime::clock::after;
use runtime::net::{NetError, Network, Pair, Stream, Wake};

use crate::failure::{Failure, Outcome, ensure_equal};
use crate::streams::SERVICE;
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[("many_connections_are_served", serve)];

/// The port of the protocol (RFC 862).
const PORT: u16 = 7;
/// Connections that wait to be accepted.
const BACKLOG: u16 = 256;
/// Capacity of each of a connection's two rings, in bytes.
const RING_BYTES: u32 = 4096;
/// Bytes of a connection that are on their way back.
const HELD: usize = 256;
/// How long one call may take, and the host between two events.
const PATIENCE: Duration = Duration::from_secs(60);

impl From<NetError> for Failure {
    #[track_caller]
    fn from(error: NetError) -> Failure {
        Failure::new(&alloc::format!("unexpected: {error}"))
    }
}

/// The server.
struct Echo {
    network: Network,
    streams: BTreeMap<Socket, Echoed>,
    most: usize,
}

/// A connection, and what came and was not sent back yet.
struct Echoed {
    stream: Stream<Pair>,
    held: [u8; HELD],
    first: usize,
    end: usize,
}

/// Serves until every connection has ended; then as many must have been open at once as was said.
fn serve(context: &Context) -> Outcome {
    let wanted = context.suite.option("suite.connections=");
    let wanted = wanted.and_then(|number| number.parse::<usize>().ok());
    let wanted = wanted.ok_or_else(|| Failure::new("suite.connections= is no number"))?;
    let network = Network::open(SERVICE, after(PATIENCE))?;
    let listener = network.stub().listen(after(PATIENCE), PORT, BACKLOG);
    let listener = listener.map_err(NetError::from)?;
    network.offer(after(PATIENCE), listener, RING_BYTES)?;
    let mut echo = Echo {
        network,
        streams: BTreeMap::new(),
        most: 0,
    };
    context.suite.say(format_args!("listening"));
    while echo.most == 0 || !echo.streams.is_empty() {
        match echo.network.wait(after(PATIENCE))? {
            Wake::Socket(event) => echo.take(event)?,
            Wake::Accepted(new) => echo.add(new.stream)?,
            Wake::Signal(_) => {}
            Wake::TimedOut => return Err(Failure::new("the host says nothing")),
            Wake::Lost => return Err(Failure::new("the network stack died")),
        }
    }
    ensure_equal!(echo.most, wanted, "connections open at once");
    let info = echo.network.stub().info(after(PATIENCE));
    let left = info.map_err(NetError::from)?.counters.sockets;
    ensure_equal!(left, 1, "sockets when all connections are closed");
    Ok(())
}

impl Echo {
    fn take(&mut self, event: Event) -> Outcome {
        let Some(echoed) = self.streams.get_mut(&event.socket) else {
            return Ok(());
        };
        let over = event.ready & READY_ERROR != 0 || echoed.work()?;
        if over && let Some(echoed) = self.streams.remove(&event.socket) {
            self.network.close(after(PATIENCE), echoed.stream)?;
        }
        Ok(())
    }

    fn add(&mut self, stream: Stream<Pair>) -> Outcome {
        let mut echoed = Echoed {
            stream,
            held: [0; HELD],
            first: 0,
            end: 0,
        };
        // What came before the connection was accepted is told by no event.
        echoed.work()?;
        self.streams.insert(echoed.stream.socket(), echoed);
        self.most = self.most.max(self.streams.len());
        Ok(())
    }
}

impl Echoed {
    /// Sends back what came; true: the peer has ended and has all of it.
    fn work(&mut self) -> Outcome<bool> {
        loop {
            let rest = self.held.get(self.first..self.end).unwrap_or_default();
            self.first += self.stream.write(rest).map_err(NetError::from)?;
            if self.first < self.end {
                return Ok(false);
            }
            self.first = 0;
            self.end = self.stream.read(&mut self.held).map_err(NetError::from)?;
            if self.end == 0 {
                return Ok(self.stream.is_ended().map_err(NetError::from)?);
            }
        }
    }
}
