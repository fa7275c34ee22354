//! One TCP connection: what each port does with its bytes. Who is served when is `server`'s.

use alloc::vec::Vec;

use ipc::interface::network::Socket;
use ipc::ring::RingError;
use runtime::net::{Pair, Stream};

/// What a TCP port does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    /// Counts what it receives.
    Sink,
    /// Sends for ever.
    Source,
    /// Sends back what it receives.
    Echo,
    /// Sends one byte and closes.
    Greeter,
    /// Serves HTTP.
    Page,
}

impl Service {
    /// Bytes of each of a connection's two rings: as many as flow in bulk, or little.
    pub(crate) const fn ring_bytes(self) -> u32 {
        match self {
            Service::Sink | Service::Source => 512 * 1024,
            Service::Echo | Service::Greeter | Service::Page => 8 * 1024,
        }
    }
}

/// How a connection is after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// An event will say when there is more to do.
    Waits,
    /// It could go on; the others come first.
    Again,
    /// It is over.
    Over,
}

/// Pieces that one connection moves in its turn.
const PIECES: usize = 16;
/// The head of each response.
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 1024\r\n\r\n";
/// Bytes of its body.
const BODY_BYTES: usize = 1024;
/// Where the head of a request ends (RFC 9112, section 2.1).
const END_OF_HEAD: &[u8] = b"\r\n\r\n";
/// Longest head of a request.
const MAX_HEAD_BYTES: usize = 2048;
/// What a connection that is only to be made gets.
const GREETING: &[u8] = b"y";

/// The response to every request.
pub(crate) fn response() -> Vec<u8> {
    let mut response = Vec::from(HEAD);
    response.resize(HEAD.len() + BODY_BYTES, b'x');
    response
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: Stream<Pair>,
    service: Service,
    /// Bytes received so far.
    count: u64,
    /// What was received of a request that is not whole.
    request: Vec<u8>,
    /// What is to be sent before anything else is received.
    unsent: Vec<u8>,
}

impl Connection {
    pub(crate) fn new(stream: Stream<Pair>, service: Service) -> Connection {
        Connection {
            stream,
            service,
            count: 0,
            request: Vec::new(),
            unsent: Vec::new(),
        }
    }

    /// The stream, to be closed.
    pub(crate) fn into_stream(self) -> Stream<Pair> {
        self.stream
    }

    /// The socket.
    pub(crate) fn socket(&self) -> Socket {
        self.stream.socket()
    }

    /// Does what can be done, for a turn. `piece` is room for bytes on their way, `response` what HTTP
    /// requests are answered with.
    pub(crate) fn serve(&mut self, piece: &mut [u8], response: &[u8]) -> Result<Turn, RingError> {
        match self.service {
            Service::Sink => self.sink(piece),
            Service::Source => self.source(piece),
            Service::Echo => self.answer(piece, |connection, bytes| connection.send(bytes)),
            Service::Page => self.answer(piece, |connection, bytes| {
                connection.requests(bytes, response)
            }),
            Service::Greeter => {
                self.stream.write(GREETING)?;
                Ok(Turn::Over)
            }
        }
    }

    fn sink(&mut self, piece: &mut [u8]) -> Result<Turn, RingError> {
        for _ in 0..PIECES {
            let received = self.stream.read(piece)?;
            self.count += received as u64;
            if received > 0 {
                continue;
            }
            if !self.stream.is_ended()? {
                return Ok(Turn::Waits);
            }
            // Nothing was sent yet: there is room.
            self.stream.write(&self.count.to_le_bytes())?;
            return Ok(Turn::Over);
        }
        Ok(Turn::Again)
    }

    fn source(&mut self, piece: &[u8]) -> Result<Turn, RingError> {
        for _ in 0..PIECES {
            if self.stream.write(piece)? < piece.len() {
                return Ok(Turn::Waits);
            }
        }
        Ok(Turn::Again)
    }

    /// Answers what is received, and receives nothing more while an answer has no room.
    fn answer(
        &mut self,
        piece: &mut [u8],
        mut with: impl FnMut(&mut Self, &[u8]) -> Result<Turn, RingError>,
    ) -> Result<Turn, RingError> {
        for _ in 0..PIECES {
            if !self.flush()? {
                return Ok(Turn::Waits);
            }
            let received = self.stream.read(piece)?;
            if received == 0 {
                let ended = self.stream.is_ended()?;
                return Ok(if ended { Turn::Over } else { Turn::Waits });
            }
            let bytes = piece.get(..received).unwrap_or_default();
            if with(self, bytes)? == Turn::Over {
                return Ok(Turn::Over);
            }
        }
        Ok(Turn::Again)
    }

    /// Answers each request that is whole with these bytes; what is left of another one is kept.
    fn requests(&mut self, bytes: &[u8], response: &[u8]) -> Result<Turn, RingError> {
        self.request.extend_from_slice(bytes);
        while let Some(at) = find(&self.request, END_OF_HEAD) {
            self.request.drain(..at + END_OF_HEAD.len());
            self.send(response)?;
        }
        let too_long = self.request.len() > MAX_HEAD_BYTES;
        Ok(if too_long { Turn::Over } else { Turn::Again })
    }

    /// Sends these bytes after those that had no room; what has none either is kept.
    fn send(&mut self, bytes: &[u8]) -> Result<Turn, RingError> {
        let taken = match self.unsent.is_empty() {
            true => self.stream.write(bytes)?,
            false => 0,
        };
        self.unsent
            .extend_from_slice(bytes.get(taken..).unwrap_or_default());
        Ok(Turn::Again)
    }

    /// Sends what had no room; true: there is nothing of it left.
    fn flush(&mut self) -> Result<bool, RingError> {
        if !self.unsent.is_empty() {
            let taken = self.stream.write(&self.unsent)?;
            self.unsent.drain(..taken);
        }
        Ok(self.unsent.is_empty())
    }
}

/// Where `what` begins in `bytes`.
fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
