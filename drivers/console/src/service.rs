//! The service: one queue of bytes out, which many writers fill, one buffer of bytes in, which one
//! session reads; by calls, or by rings that the session shares with the server.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use ipc::interface::console::{
    ConsoleError, ConsoleServer, MAX_READ_BYTES, MAX_WRITE_BYTES, Read, Typed,
};
use ipc::interface::supervisor::LOG_BYTES_PER_REPLY;
use ipc::ring::{RingError, SharedMemory, StreamConsumer, StreamPair, StreamProducer};
use ipc::server::{Answer, Caller, Deferred};
use ipc::{Error, Handle};
use registers::Ports;

use crate::uart::{Uart, UartCounters};

/// Bytes that wait for the line.
const OUTPUT_BYTES: usize = 16 * 1024;
/// Bytes typed that nobody has taken yet.
const INPUT_BYTES: usize = 4 * 1024;
/// Bytes moved from a ring at a time.
const CHUNK: usize = 512;
/// Times the chip is looked at before others get their turn.
const MOST_ROUNDS: usize = 64;
/// Most sessions with rings.
const MOST_ATTACHED: usize = 8;
/// Smallest and largest ring of a session, in bytes.
const RING_BYTES: core::ops::RangeInclusive<u32> = 64..=65_536;

/// What the service asks of the system: the task has the real one, the tests a fake.
pub trait Platform {
    /// Memory shared with a client. Dropping the last copy ends the mapping.
    type Memory: SharedMemory + Clone;

    /// Maps a client's memory.
    fn map(&mut self, memory: Handle) -> Result<Self::Memory, Error>;
    /// Signals a client's notification.
    fn signal(&mut self, bell: Handle, bits: u64);
    /// A handle to the server's notification, to be given to clients, and the bits to signal there.
    fn doorbell(&self) -> (Handle, u64);
    /// Reads on in the joined log of all tasks; nothing at its end.
    fn read_log(&mut self) -> Vec<u8>;
    /// Closes a handle.
    fn close(&mut self, handle: Handle);
}

/// The server's ends of a session's rings: what it writes, and what is typed for it.
type Rings<M> = (StreamConsumer<M>, StreamProducer<M>);

/// A session's rings.
struct Attachment<M: SharedMemory> {
    outgoing: StreamConsumer<M>,
    typed: StreamProducer<M>,
    bell: Handle,
    bits: u64,
}

/// A session.
struct Session<M: SharedMemory> {
    may_read: bool,
    attachment: Option<Attachment<M>>,
}

/// The console.
pub struct Console<P: Ports, S: Platform> {
    uart: Uart<P>,
    platform: S,
    output: VecDeque<u8>,
    input: VecDeque<u8>,
    input_lost: u64,
    sessions: BTreeMap<u64, Session<S::Memory>>,
    /// The session that reads: by a call that waits, or by its rings.
    reader: Option<u64>,
    waiting: Option<(u64, usize, Deferred<Read>)>,
    /// The session whose ring is looked at first next time.
    turn: u64,
    /// The joined log has something to read.
    log_news: bool,
    /// The beginning of a log line whose end was not read yet.
    log_line: Vec<u8>,
    /// The system stops: what is to be shown is shown, and then the task ends.
    stopping: bool,
}

impl<P: Ports, S: Platform> Console<P, S> {
    /// The console on this chip.
    pub fn new(uart: Uart<P>, platform: S) -> Self {
        Console {
            uart,
            platform,
            output: VecDeque::with_capacity(OUTPUT_BYTES),
            input: VecDeque::with_capacity(INPUT_BYTES),
            input_lost: 0,
            sessions: BTreeMap::new(),
            reader: None,
            waiting: None,
            turn: 0,
            log_news: false,
            log_line: Vec::new(),
            stopping: false,
        }
    }

    /// What the chip has reported, and the bytes typed that were lost because nobody took them.
    pub fn counters(&self) -> (UartCounters, u64) {
        (self.uart.counters(), self.input_lost)
    }

    /// The kernel's part of the service.
    pub fn platform(&mut self) -> &mut S {
        &mut self.platform
    }

    /// A client has connected; `may_read` is the manifest's word.
    pub fn opened(&mut self, badge: u64, may_read: bool) {
        self.sessions.insert(
            badge,
            Session {
                may_read,
                attachment: None,
            },
        );
    }

    /// A session has ended: it reads no more, and its rings are let go. What it wrote goes out.
    pub fn closed(&mut self, badge: u64) {
        self.detach(badge);
        self.sessions.remove(&badge);
        if let Some((_, _, deferred)) = self.waiting.take_if(|waiting| waiting.0 == badge) {
            self.platform.close(deferred.abandon());
        }
    }

    /// Takes a session's rings away, with what it still had put in.
    fn detach(&mut self, badge: u64) {
        let attachment = self
            .sessions
            .get_mut(&badge)
            .and_then(|found| found.attachment.take());
        if let Some(mut attachment) = attachment {
            let _ = drain_ring(&mut attachment.outgoing, &mut self.output);
            self.platform.close(attachment.bell);
        }
        if self.reader == Some(badge) {
            self.reader = None;
        }
    }

    /// Moves whatever can be moved: to be called after an interrupt, a doorbell or an operation.
    /// True if it is to be called again without waiting.
    ///
    /// The interrupt line is edge-triggered: before the next wait all of the chip's causes must be
    /// gone, or no further edge comes.
    #[must_use = "what is left is announced by no interrupt"]
    pub fn run(&mut self) -> bool {
        for _ in 0..MOST_ROUNDS {
            let more = self.receive();
            self.pass_typed();
            self.show_log();
            self.collect();
            self.uart.send(|| self.output.pop_front());
            if !more && !self.uart.is_pending() {
                return false;
            }
        }
        true
    }

    /// There is something new in the joined log.
    pub fn log_has_news(&mut self) {
        self.log_news = true;
    }

    /// The system stops.
    pub fn stop(&mut self) {
        self.stopping = true;
        self.log_news = true;
    }

    /// Whether the system stops and everything is shown: to be asked after [`Console::run`].
    pub fn has_finished(&self) -> bool {
        self.stopping && !self.log_news && self.output.is_empty()
    }

    /// Puts the lines of the joined log into the queue, whole ones only, and as a terminal takes them.
    fn show_log(&mut self) {
        // Every byte of a piece can be a line feed, and the piece may end a line begun before.
        while self.log_news && OUTPUT_BYTES - self.output.len() >= 3 * LOG_BYTES_PER_REPLY {
            let piece = self.platform.read_log();
            self.log_news = !piece.is_empty();
            self.log_line.extend(piece);
            let whole = self.log_line.iter().rposition(|byte| *byte == b'\n');
            let mut end = whole.map_or(0, |last| last + 1);
            if end == 0 && self.log_line.len() > LOG_BYTES_PER_REPLY {
                // No line is as long as this: it is shown as it is rather than kept for ever.
                end = self.log_line.len();
            }
            for byte in self.log_line.drain(..end) {
                if byte == b'\n' {
                    self.output.push_back(b'\r');
                }
                self.output.push_back(byte);
            }
        }
    }

    fn receive(&mut self) -> bool {
        let (input, lost) = (&mut self.input, &mut self.input_lost);
        self.uart.receive_all(|byte| {
            if input.len() < INPUT_BYTES {
                input.push_back(byte);
            } else {
                *lost += 1;
            }
        })
    }

    /// Gives typed bytes to the reader's ring.
    fn pass_typed(&mut self) {
        let Some(badge) = self.reader else { return };
        let session = self.sessions.get_mut(&badge);
        let Some(attachment) = session.and_then(|session| session.attachment.as_mut()) else {
            return;
        };
        match pass(&mut attachment.typed, &mut self.input) {
            Ok(true) => self.platform.signal(attachment.bell, attachment.bits),
            Ok(false) => {}
            Err(_) => self.end(badge),
        }
    }

    /// Ends the session of a client that corrupted its rings.
    fn end(&mut self, badge: u64) {
        self.detach(badge);
        self.sessions.remove(&badge);
    }

    /// Takes what attached sessions have written, each in turn, as far as there is room.
    fn collect(&mut self) {
        let attached =
            |entry: (&u64, &Session<S::Memory>)| entry.1.attachment.as_ref().map(|_| *entry.0);
        let after = self.sessions.range(self.turn..).filter_map(attached);
        let before = self.sessions.range(..self.turn).filter_map(attached);
        let order: Vec<u64> = after.chain(before).collect();
        for badge in order {
            if self.output.len() >= OUTPUT_BYTES {
                return;
            }
            self.turn = badge + 1;
            let session = self.sessions.get_mut(&badge);
            let Some(attachment) = session.and_then(|session| session.attachment.as_mut()) else {
                continue;
            };
            match drain_ring(&mut attachment.outgoing, &mut self.output) {
                Ok(true) => self.platform.signal(attachment.bell, attachment.bits),
                Ok(false) => {}
                Err(_) => self.end(badge),
            }
        }
    }

    /// The read that waits and its bytes, once there are any: to be asked after [`Console::run`].
    pub fn answer(&mut self) -> Option<(Deferred<Read>, Typed)> {
        if self.input.is_empty() {
            return None;
        }
        let (_, limit, deferred) = self.waiting.take()?;
        Some((deferred, self.take_typed(limit)))
    }

    fn take_typed(&mut self, limit: usize) -> Typed {
        let count = limit.min(self.input.len()).min(MAX_READ_BYTES);
        self.input.drain(..count).collect()
    }

    /// Whether the session may be the reader now.
    fn may_read(&self, badge: u64) -> Result<(), ConsoleError> {
        if !self
            .sessions
            .get(&badge)
            .is_some_and(|session| session.may_read)
        {
            return Err(ConsoleError::NotPermitted);
        }
        match self.reader {
            Some(reader) if reader != badge => Err(ConsoleError::ReaderBusy),
            _ => Ok(()),
        }
    }

    fn attach_rings(
        &mut self,
        badge: u64,
        bytes: u32,
        rings: Handle,
    ) -> Result<Rings<S::Memory>, ConsoleError> {
        if !self.sessions.contains_key(&badge) {
            return Err(ConsoleError::NotPermitted);
        }
        let others = self
            .sessions
            .iter()
            .filter(|(other, session)| **other != badge && session.attachment.is_some());
        if others.count() >= MOST_ATTACHED {
            return Err(ConsoleError::Exhausted);
        }
        if !RING_BYTES.contains(&bytes) {
            return Err(ConsoleError::OutOfRange);
        }
        let memory = self
            .platform
            .map(rings)
            .map_err(|_| ConsoleError::Exhausted)?;
        StreamPair::peer(memory, bytes).map_err(|_| ConsoleError::OutOfRange)
    }
}

/// Moves typed bytes into a ring; true if its reader is to be signalled.
fn pass<M: SharedMemory>(
    ring: &mut StreamProducer<M>,
    input: &mut VecDeque<u8>,
) -> Result<bool, RingError> {
    ring.wake()?;
    loop {
        let (first, _) = input.as_slices();
        let written = ring.write(first)?;
        if written > 0 {
            input.drain(..written);
        } else if input.is_empty() || ring.sleep(1)? {
            return ring.must_wake();
        }
    }
}

/// Moves bytes out of a ring, as many as there are and there is room for; true if its writer is to
/// be signalled. Where room ends in the middle of a line, the line waits as a whole if it can, so
/// that another writer's does not come into it.
fn drain_ring<M: SharedMemory>(
    ring: &mut StreamConsumer<M>,
    output: &mut VecDeque<u8>,
) -> Result<bool, RingError> {
    ring.wake()?;
    let mut chunk = [0; CHUNK];
    loop {
        let room = OUTPUT_BYTES.saturating_sub(output.len());
        let count = ring.peek(&mut chunk[..room.min(CHUNK)])?;
        if room == 0 || (count == 0 && ring.sleep(1)?) {
            return ring.must_wake();
        }
        let bytes = &chunk[..count];
        let whole = match bytes.iter().rposition(|byte| *byte == b'\n') {
            Some(end) if count == room => end + 1,
            _ => count,
        };
        output.extend(&bytes[..whole]);
        ring.skip(whole)?;
        if whole < count {
            return ring.must_wake();
        }
    }
}

impl<P: Ports, S: Platform> ConsoleServer for Console<P, S> {
    /// Takes all of the bytes or none: what does not fit now would come apart on the line.
    fn write(&mut self, _caller: &mut Caller<'_>, bytes: &[u8]) -> Result<u32, ConsoleError> {
        if bytes.len() > MAX_WRITE_BYTES || bytes.len() > OUTPUT_BYTES - self.output.len() {
            return Ok(0);
        }
        self.output.extend(bytes);
        Ok(bytes.len() as u32)
    }

    fn read(&mut self, caller: &mut Caller<'_>, limit: u16) -> Result<Answer<Typed>, ConsoleError> {
        let badge = caller.badge();
        self.may_read(badge)?;
        if limit == 0 || usize::from(limit) > MAX_READ_BYTES {
            return Err(ConsoleError::OutOfRange);
        }
        self.reader = Some(badge);
        // An earlier read of this session has been given up, or it could not call again.
        if let Some((_, _, deferred)) = self.waiting.take() {
            self.platform.close(deferred.abandon());
        }
        if !self.input.is_empty() {
            return Ok(Answer::Now(self.take_typed(limit.into())));
        }
        match caller.stash::<Read>() {
            Ok((deferred, stashed)) => {
                self.waiting = Some((badge, limit.into(), deferred));
                Ok(Answer::Later(stashed))
            }
            // No handle to keep the call with: the reader tries again.
            Err(_) => Err(ConsoleError::ReaderBusy),
        }
    }

    fn attach(
        &mut self,
        caller: &mut Caller<'_>,
        bytes: u32,
        reads: bool,
        bits: u64,
        rings: Handle,
        bell: Handle,
    ) -> Result<(u64, Handle), ConsoleError> {
        let badge = caller.badge();
        let made = match reads {
            true => self
                .may_read(badge)
                .and_then(|()| self.attach_rings(badge, bytes, rings)),
            false => self.attach_rings(badge, bytes, rings),
        };
        self.platform.close(rings);
        let (outgoing, typed) = match made {
            Ok(made) => made,
            Err(error) => {
                self.platform.close(bell);
                return Err(error);
            }
        };
        self.detach(badge);
        if reads {
            self.reader = Some(badge);
        }
        let attachment = Attachment {
            outgoing,
            typed,
            bell,
            bits,
        };
        if let Some(session) = self.sessions.get_mut(&badge) {
            session.attachment = Some(attachment);
        }
        let (doorbell, doorbell_bits) = self.platform.doorbell();
        Ok((doorbell_bits, doorbell))
    }
}

#[cfg(test)]
mod tests;
