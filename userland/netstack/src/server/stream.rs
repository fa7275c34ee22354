//! A TCP connection and the two rings through which its application sends and receives. Bytes are
//! copied once between a ring and the socket's buffer, each way.

use ipc::interface::network::{
    NetworkError, READY_END, READY_ERROR, READY_RECEIVE, READY_SEND, RingPair,
};
use ipc::ring::{RingError, SharedMemory, StreamConsumer, StreamProducer};

use super::rings::Taken;
use crate::tcp::{ConnectionId, End, Phase, Table};

/// Turns of moving bytes before others have theirs: an application that fills as fast as the stack
/// takes would keep it for ever.
const TURNS: usize = 4;

/// What a pump brought about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pumped {
    /// `READY_` bits to tell the application.
    pub(super) ready: u32,
    /// There is more to move at once.
    pub(super) more: bool,
}

/// One end of a stream.
pub(super) struct Stream<M> {
    pub(super) connection: ConnectionId,
    /// The pair that its rings are of.
    pub(super) rings: RingPair,
    capacity: u32,
    outgoing: StreamConsumer<M>,
    incoming: StreamProducer<M>,
    /// The application said that it sends no more than what is in the ring.
    send_shut: bool,
    /// The end was given to the connection.
    finished: bool,
    /// What arrives is dropped.
    receive_shut: bool,
    told_open: bool,
    told_end: bool,
    told_error: bool,
    pub(super) error: Option<NetworkError>,
}

impl<M: SharedMemory + Clone> Stream<M> {
    /// A connection that gets this pair, emptied.
    ///
    /// Errors: Geometry.
    pub(super) fn new(connection: ConnectionId, rings: &Taken<M>) -> Result<Stream<M>, RingError> {
        let (outgoing, incoming) = rings.hand_over()?;
        Ok(Stream {
            connection,
            rings: rings.number,
            capacity: rings.capacity,
            outgoing,
            incoming,
            send_shut: false,
            finished: false,
            receive_shut: false,
            told_open: false,
            told_end: false,
            told_error: false,
            error: None,
        })
    }

    /// An accepted connection is open: its application need not be told.
    pub(super) fn accepted(mut self) -> Stream<M> {
        self.told_open = true;
        self
    }

    /// Sends no more than what is in the ring.
    pub(super) fn shut_send(&mut self) {
        self.send_shut = true;
    }

    /// Drops what arrives from now on.
    pub(super) fn shut_receive(&mut self) {
        self.receive_shut = true;
    }

    /// Moves what can be moved, both ways, and leaves word on the rings what to be woken for.
    ///
    /// Errors: Corrupted; the application loses the stream.
    pub(super) fn pump(&mut self, tcp: &mut Table) -> Result<Pumped, RingError> {
        let mut pumped = Pumped::default();
        for _ in 0..TURNS {
            self.move_out(tcp)?;
            self.move_in(tcp)?;
            pumped.ready |= self.tell_phase(tcp)?;
            if self.outgoing.must_wake()? {
                pumped.ready |= READY_SEND;
            }
            if self.incoming.must_wake()? {
                pumped.ready |= READY_RECEIVE;
            }
            if !self.must_go_on(tcp)? {
                return Ok(pumped);
            }
        }
        pumped.more = true;
        Ok(pumped)
    }

    fn move_out(&mut self, tcp: &mut Table) -> Result<(), RingError> {
        let mut fault = None;
        let outgoing = &mut self.outgoing;
        tcp.send(self.connection, |space| {
            outgoing.read(space).unwrap_or_else(|error| {
                fault = Some(error);
                0
            })
        });
        fault.map_or(Ok(()), Err)?;
        let open = tcp.phase(self.connection) == Some(Phase::Open);
        let ended = self.outgoing.is_ended()? || self.send_shut && self.outgoing.available()? == 0;
        if open && ended && !self.finished {
            self.finished = true;
            tcp.finish_sending(self.connection);
        }
        Ok(())
    }

    fn move_in(&mut self, tcp: &mut Table) -> Result<(), RingError> {
        self.receive_shut |= self.incoming.is_peer_closed()?;
        let mut fault = None;
        let (incoming, shut) = (&mut self.incoming, self.receive_shut);
        tcp.receive(self.connection, |bytes| {
            if shut {
                return bytes.len();
            }
            incoming.write(bytes).unwrap_or_else(|error| {
                fault = Some(error);
                0
            })
        });
        fault.map_or(Ok(()), Err)
    }

    /// Tells each step of the connection's life once.
    fn tell_phase(&mut self, tcp: &mut Table) -> Result<u32, RingError> {
        let phase = tcp.phase(self.connection);
        let mut ready = 0;
        if phase == Some(Phase::Open) && !self.told_open {
            self.told_open = true;
            ready |= READY_SEND;
        }
        if let Some(error) = phase.and_then(failure)
            && !self.told_error
        {
            self.told_error = true;
            self.error = Some(error);
            ready |= READY_ERROR;
        }
        let whole = self.error.is_none() && tcp.receive_finished(self.connection);
        if whole && !self.told_end {
            self.told_end = true;
            self.incoming.close()?;
            ready |= READY_END;
        }
        Ok(ready)
    }

    /// Asks to be woken where something can happen; true: it has happened already.
    fn must_go_on(&mut self, tcp: &mut Table) -> Result<bool, RingError> {
        let mut go_on = false;
        if tcp.can_send(self.connection) && !self.finished {
            go_on |= !self.outgoing.sleep(1)?;
        }
        if tcp.can_receive(self.connection) && !self.receive_shut {
            // Half the ring at a time: a wake for every few bytes read would cost more than it gives.
            go_on |= !self.incoming.sleep(self.capacity as usize / 2)?;
        }
        Ok(go_on)
    }

    /// The `READY_` bits that hold now.
    pub(super) fn ready(&mut self, tcp: &mut Table) -> Result<u32, RingError> {
        let free = self.incoming.free()?;
        let waiting = free < self.capacity as usize || tcp.can_receive(self.connection);
        let open = tcp.phase(self.connection) == Some(Phase::Open);
        let room = open && !self.finished && self.outgoing.available()? < self.capacity as usize;
        let mut ready = 0;
        ready |= if waiting { READY_RECEIVE } else { 0 };
        ready |= if room { READY_SEND } else { 0 };
        ready |= if self.told_end { READY_END } else { 0 };
        ready |= if self.error.is_some() { READY_ERROR } else { 0 };
        Ok(ready)
    }

    /// Notes that the application corrupted a ring; false where the stream had failed before.
    pub(super) fn note_corrupted(&mut self) -> bool {
        let first = self.error.is_none();
        self.error.get_or_insert(NetworkError::RingCorrupted);
        // The connection's reset, which follows, is no news.
        self.told_error = true;
        first
    }

    /// Whether one of the two directions has ended.
    pub(super) fn is_closing(&self) -> bool {
        self.finished || self.told_end
    }

    /// How much is left to send; `None` where the application left received bytes unread, or the ring is
    /// broken: then the connection is to be reset.
    pub(super) fn tail_bytes(&mut self) -> Option<usize> {
        let all_read = self.receive_shut || self.incoming.free().ok()? == self.capacity as usize;
        all_read.then(|| self.outgoing.available().ok())?
    }

    /// Takes what is left to send out of the ring; false where the ring is broken.
    pub(super) fn take_tail(&mut self, tail: &mut [u8]) -> bool {
        self.outgoing.read(tail) == Ok(tail.len())
    }
}

/// The error that an application is told of a connection's end.
fn failure(phase: Phase) -> Option<NetworkError> {
    match phase {
        Phase::Ended(End::Refused) => Some(NetworkError::Refused),
        Phase::Ended(End::Reset | End::Aborted) => Some(NetworkError::Reset),
        Phase::Ended(End::TimedOut) => Some(NetworkError::TimedOut),
        Phase::Ended(End::Finished) | Phase::Connecting | Phase::Open => None,
    }
}
