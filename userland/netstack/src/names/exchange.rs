//! One question, asked of the name servers until one answers: in a datagram, again and elsewhere when
//! nothing comes, and over TCP where the answer does not fit (RFC 1035, section 4.2; RFC 7766).
//!
//! An answer counts when it comes from a server that was asked, to the port that asked, with the
//! question's identifier and its very letters (RFC 5452, section 9). Port, identifier and letters are drawn
//! anew for each question. Whoever sends many that do not fit, or one with other letters, has the
//! question asked over TCP, where none of it can be forged from afar.

use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use super::message::{Answer, Carrier, DATAGRAM_BYTES, Question, STREAM_BYTES, Verdict};
use super::{NameError, Servers, Transports};
use crate::client::STACK;
use crate::random::Random;
use crate::tcp::{ConnectionId, Phase};
use crate::time::{Nanoseconds, SECOND};
use crate::udp::{Queues, UdpId};

/// Port of a name server (RFC 1035, section 4.2).
const PORT: u16 = 53;
/// How long the first datagram to a server is waited for; in each round over the servers twice as long
/// as in the one before.
const PATIENCE: Nanoseconds = SECOND;
/// Rounds over the servers.
const ROUNDS: u32 = 3;
/// How long a server may take to answer over TCP, the connection included.
const STREAM_PATIENCE: Nanoseconds = 5 * SECOND;
/// Datagrams to the question's port that are no answer to it before it is asked over TCP: a forger has
/// found the port, and is trying identifiers.
const MAX_STRAYS: u32 = 8;
/// Datagrams that a question's socket holds each way: room for those of a forger beside the answer.
const DATAGRAMS: usize = 16;
/// Bytes that it holds of what came: answers of full size from all servers.
const RECEIVED_BYTES: usize = 4 * DATAGRAM_BYTES;
/// Bytes that it holds of what is to be sent: questions to two servers (see [`Question::message`]).
const SENT_BYTES: usize = 2 * 512;
/// Ports tried until one is free.
const PORTS_TRIED: usize = 16;
/// Bytes of the length before a message on a stream (RFC 1035, section 4.2.2).
const PREFIX: usize = 2;

/// A question under way.
pub(super) struct Exchange {
    question: Question,
    socket: UdpId,
    /// Datagrams sent; the server asked and the patience follow from it.
    attempt: u32,
    /// The first server asked.
    first: usize,
    /// Servers, one bit each: those that were asked, that are asked without the record OPT, and that
    /// will not be asked again.
    asked: u8,
    plain: u8,
    failed: u8,
    strays: u32,
    /// When the server has been silent for too long.
    due: Nanoseconds,
    stream: Option<Stream>,
}

/// The question on a TCP connection.
struct Stream {
    connection: ConnectionId,
    server: usize,
    message: Vec<u8>,
    sent: usize,
    received: Vec<u8>,
}

impl Exchange {
    /// Asks the first server.
    ///
    /// Errors: Busy, when no port is free.
    pub(super) fn begin(
        now: Nanoseconds,
        transports: &mut Transports<'_>,
        servers: &Servers,
        random: &mut Random,
        question: Question,
    ) -> Result<Exchange, NameError> {
        let queues = Queues {
            datagrams: DATAGRAMS,
            received_bytes: RECEIVED_BYTES,
            sent_bytes: SENT_BYTES,
        };
        let mut bind = || {
            transports
                .udp
                .bind_own(transports.sockets, random.port(), queues)
        };
        let socket = (0..PORTS_TRIED).find_map(|_| bind().ok());
        let socket = socket.ok_or(NameError::Busy)?;
        let mut exchange = Exchange {
            question,
            socket,
            attempt: 0,
            first: servers.preferred,
            asked: 0,
            plain: 0,
            failed: 0,
            strays: 0,
            due: now,
            stream: None,
        };
        exchange.ask(now, transports, servers);
        Ok(exchange)
    }

    /// The question.
    pub(super) fn question(&self) -> &Question {
        &self.question
    }

    /// When [`Exchange::work`] has something to do even if nothing arrives.
    pub(super) fn deadline(&self) -> Nanoseconds {
        self.due
    }

    /// Lets port and connection go.
    pub(super) fn end(self, now: Nanoseconds, transports: &mut Transports<'_>) {
        transports
            .udp
            .close(transports.sockets, transports.ledger, self.socket);
        if let Some(stream) = self.stream {
            stream.end(now, transports);
        }
    }

    /// Takes what arrived, and asks again where time has passed. The result is the end of the question;
    /// then it is to be ended.
    pub(super) fn work(
        &mut self,
        now: Nanoseconds,
        transports: &mut Transports<'_>,
        servers: &mut Servers,
    ) -> Option<Result<Answer, NameError>> {
        let ended = self.take_datagrams(now, transports, servers);
        let ended = ended.or_else(|| self.work_stream(now, transports, servers));
        if ended.is_some() {
            return ended.map(Ok);
        }
        if self.due <= now {
            match self.stream.take() {
                Some(stream) => {
                    self.failed |= 1 << stream.server;
                    stream.end(now, transports);
                }
                None => self.attempt += 1,
            }
            self.ask(now, transports, servers);
        }
        let over = self.stream.is_none() && self.server(servers).is_none();
        let error = match self.failed {
            0 => NameError::TimedOut,
            _ => NameError::ServerFailed,
        };
        over.then_some(Err(error))
    }

    /// The server whose turn it is; `None`: all had theirs.
    fn server(&self, servers: &Servers) -> Option<usize> {
        let count = servers.list.len();
        let round = (self.attempt as usize).checked_div(count)?;
        let server = (self.first + self.attempt as usize) % count;
        (round < ROUNDS as usize).then_some(server)
    }

    /// Sends the question to the server whose turn it is, leaving out those that failed.
    fn ask(&mut self, now: Nanoseconds, transports: &mut Transports<'_>, servers: &Servers) {
        while let Some(server) = self.server(servers) {
            if self.failed & 1 << server != 0 {
                self.attempt += 1;
                continue;
            }
            let message = self.question.message(self.plain & 1 << server == 0);
            let to = SocketAddr::new(servers.list[server], PORT);
            // Without room or an address to send from it is as if the datagram were lost: there may be
            // some when it is sent again.
            if let Some(source) = transports.link.source(to.ip()) {
                let (sockets, socket) = (&mut *transports.sockets, self.socket);
                let _ = transports.udp.send(sockets, socket, source, to, &message);
            }
            transports.queued = true;
            self.asked |= 1 << server;
            let round = self.attempt / servers.list.len() as u32;
            self.due = now.saturating_add(PATIENCE << round);
            return;
        }
    }

    /// Judges the datagrams that arrived: as many as the socket's queue holds, at most.
    fn take_datagrams(
        &mut self,
        now: Nanoseconds,
        transports: &mut Transports<'_>,
        servers: &mut Servers,
    ) -> Option<Answer> {
        for _ in 0..DATAGRAMS {
            let mut buffer = [0; DATAGRAM_BYTES];
            let received = transports
                .udp
                .receive(transports.sockets, self.socket, &mut buffer);
            let (length, from) = received?;
            // A question that is on a stream has nothing to expect of datagrams any more.
            if self.stream.is_some() {
                continue;
            }
            let server = self.sender(servers, from);
            let verdict = match server {
                Some(_) => self.question.judge(&buffer[..length], Carrier::Datagram),
                None => Verdict::Stray,
            };
            let server = server.unwrap_or(self.first);
            if let Verdict::Answer(answer) = verdict {
                servers.preferred = server;
                return Some(answer);
            }
            self.mistrust(now, transports, servers, (server, &verdict));
        }
        None
    }

    /// Draws the consequences of a datagram that was no answer to be used.
    fn mistrust(
        &mut self,
        now: Nanoseconds,
        transports: &mut Transports<'_>,
        servers: &mut Servers,
        (server, verdict): (usize, &Verdict),
    ) {
        match verdict {
            Verdict::Stray => {
                self.strays += 1;
                servers.strays += 1;
                if self.strays == MAX_STRAYS {
                    let server = self.server(servers).unwrap_or(self.first);
                    self.open_stream(now, transports, servers, server);
                }
            }
            Verdict::Misspelled | Verdict::Truncated => {
                self.open_stream(now, transports, servers, server);
            }
            Verdict::NotUnderstood if self.plain & 1 << server == 0 => {
                self.plain |= 1 << server;
                if self.server(servers) == Some(server) {
                    self.ask(now, transports, servers);
                }
            }
            Verdict::NotUnderstood | Verdict::Failed => {
                self.fail(now, transports, servers, server);
            }
            Verdict::Answer(_) => {}
        }
    }

    /// The server that a datagram came from, if it was asked.
    fn sender(&self, servers: &Servers, from: SocketAddr) -> Option<usize> {
        let server = servers
            .list
            .iter()
            .position(|server| *server == from.ip())?;
        (from.port() == PORT && self.asked & 1 << server != 0).then_some(server)
    }

    /// A server will not do: if its turn it is, the next one has it.
    fn fail(
        &mut self,
        now: Nanoseconds,
        transports: &mut Transports<'_>,
        servers: &Servers,
        server: usize,
    ) {
        self.failed |= 1 << server;
        if self.server(servers) == Some(server) {
            self.ask(now, transports, servers);
        }
    }

    fn open_stream(
        &mut self,
        now: Nanoseconds,
        transports: &mut Transports<'_>,
        servers: &Servers,
        server: usize,
    ) {
        match Stream::open(transports, servers.list[server], server, &self.question) {
            Some(stream) => {
                self.due = now.saturating_add(STREAM_PATIENCE);
                self.stream = Some(stream);
            }
            None => self.fail(now, transports, servers, server),
        }
    }

    /// Moves the bytes of the stream; one that fails gives way to the next server.
    fn work_stream(
        &mut self,
        now: Nanoseconds,
        transports: &mut Transports<'_>,
        servers: &mut Servers,
    ) -> Option<Answer> {
        let stream = self.stream.as_mut()?;
        let ended = stream.work(transports, &self.question)?;
        let server = stream.server;
        if let Some(stream) = self.stream.take() {
            stream.end(now, transports);
        }
        match ended {
            Some(answer) => {
                servers.preferred = server;
                Some(answer)
            }
            None => {
                self.failed |= 1 << server;
                self.ask(now, transports, servers);
                None
            }
        }
    }
}

impl Stream {
    fn open(
        transports: &mut Transports<'_>,
        address: IpAddr,
        server: usize,
        question: &Question,
    ) -> Option<Stream> {
        let source = transports.link.source(address)?;
        let connection = transports.tcp.connect(
            transports.interface,
            transports.ledger,
            STACK,
            source,
            SocketAddr::new(address, PORT),
        );
        let question = question.message(true);
        let mut message = vec![];
        message.extend((question.len() as u16).to_be_bytes());
        message.extend(question);
        Some(Stream {
            connection: connection.ok()?,
            server,
            message,
            sent: 0,
            received: vec![],
        })
    }

    fn end(self, now: Nanoseconds, transports: &mut Transports<'_>) {
        let (tcp, ledger) = (&mut *transports.tcp, &mut *transports.ledger);
        tcp.close(now, ledger, self.connection, 0, |_| true);
    }

    /// Moves bytes. `Some(None)`: the stream will bring no answer.
    fn work(
        &mut self,
        transports: &mut Transports<'_>,
        question: &Question,
    ) -> Option<Option<Answer>> {
        let (tcp, connection) = (&mut *transports.tcp, self.connection);
        tcp.send(connection, |space| {
            let rest = &self.message[self.sent..];
            let count = rest.len().min(space.len());
            space[..count].copy_from_slice(&rest[..count]);
            self.sent += count;
            count
        });
        let received = &mut self.received;
        tcp.receive(connection, |bytes| {
            let count = bytes.len().min(PREFIX + STREAM_BYTES - received.len());
            received.extend(&bytes[..count]);
            count
        });
        if let Some((message, cut)) = self.message() {
            return Some(match question.judge(message, Carrier::Stream { cut }) {
                Verdict::Answer(answer) => Some(answer),
                _ => None,
            });
        }
        let over = !matches!(tcp.phase(connection), Some(Phase::Connecting | Phase::Open))
            || tcp.receive_finished(connection);
        over.then_some(None)
    }

    /// The message that has arrived, as far as it is wanted, and whether that is not all of it.
    fn message(&self) -> Option<(&[u8], bool)> {
        let (prefix, rest) = self.received.split_first_chunk::<PREFIX>()?;
        let length = usize::from(u16::from_be_bytes(*prefix));
        let wanted = length.min(STREAM_BYTES);
        Some((rest.get(..wanted)?, wanted < length))
    }
}
