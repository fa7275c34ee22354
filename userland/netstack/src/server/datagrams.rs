//! A UDP socket and the two rings through which its application sends and receives. A datagram is copied
//! once between a ring and the socket's queue, each way.

use ipc::interface::network::{READY_RECEIVE, READY_SEND};
use ipc::ring::{DatagramConsumer, DatagramPair, DatagramProducer, RingError, SharedMemory};

use super::stream::Pumped;
use crate::stack::Stack;
use crate::udp::{UdpError, UdpId};

/// Turns of moving datagrams before others have theirs: an application that fills as fast as the stack
/// takes would keep it for ever.
const TURNS: usize = 4;
/// Datagrams moved in one direction in a turn.
const BATCH: usize = 64;

/// One end of a datagram socket.
pub(super) struct Datagrams<M> {
    pub(super) id: UdpId,
    capacity: u32,
    outgoing: DatagramConsumer<M>,
    incoming: DatagramProducer<M>,
    /// The socket's queue is full: the stack says when it has room.
    blocked: bool,
    /// Length of the datagram that the application's ring had no room for.
    waiting: Option<usize>,
}

impl<M: SharedMemory + Clone> Datagrams<M> {
    /// Takes the peer's side of a pair of datagram rings.
    ///
    /// Errors: Geometry.
    pub(super) fn new(id: UdpId, memory: M, capacity: u32) -> Result<Datagrams<M>, RingError> {
        let (outgoing, incoming) = DatagramPair::peer(memory, capacity)?;
        Ok(Datagrams {
            id,
            capacity,
            outgoing,
            incoming,
            blocked: false,
            waiting: None,
        })
    }

    /// Moves what can be moved, both ways, and leaves word on the rings what to be woken for.
    ///
    /// Errors: Corrupted; the application loses the socket.
    pub(super) fn pump(&mut self, stack: &mut Stack) -> Result<Pumped, RingError> {
        let mut pumped = Pumped::default();
        for _ in 0..TURNS {
            self.move_out(stack)?;
            let more = self.move_in(stack)?;
            if self.outgoing.must_wake()? {
                pumped.ready |= READY_SEND;
            }
            if self.incoming.must_wake()? {
                pumped.ready |= READY_RECEIVE;
            }
            if !self.must_go_on()? && !more {
                return Ok(pumped);
            }
        }
        pumped.more = true;
        Ok(pumped)
    }

    fn move_out(&mut self, stack: &mut Stack) -> Result<(), RingError> {
        self.blocked = false;
        for _ in 0..BATCH {
            let Some((peer, length)) = self.outgoing.peek()? else {
                return Ok(());
            };
            let outgoing = &mut self.outgoing;
            let mut taken = Ok(0);
            let sent = stack.send_with(self.id, peer, length, |space| {
                taken = outgoing.take(length, space);
            });
            taken?;
            match sent {
                Ok(()) => {}
                Err(UdpError::Full) => {
                    self.blocked = true;
                    return Ok(());
                }
                // A datagram that cannot be sent is lost, as datagrams are.
                Err(_) => {
                    stack.count_dropped_datagram();
                    self.outgoing.take(length, &mut [])?;
                }
            }
        }
        Ok(())
    }

    /// True: there may be more, of which nobody else will tell.
    fn move_in(&mut self, stack: &mut Stack) -> Result<bool, RingError> {
        self.waiting = None;
        let (mut fault, mut waiting, mut dropped) = (None, None, 0);
        let incoming = &mut self.incoming;
        let mut more = true;
        for _ in 0..BATCH {
            let taken = stack.receive_with(self.id, |peer, payload| {
                if !incoming.fits(payload.len()) {
                    dropped += 1;
                    return true;
                }
                incoming.push(peer, payload).unwrap_or_else(|error| {
                    fault = Some(error);
                    false
                }) || {
                    waiting = Some(payload.len());
                    false
                }
            });
            if !taken {
                more = false;
                break;
            }
        }
        self.waiting = waiting;
        for _ in 0..dropped {
            stack.count_dropped_datagram();
        }
        fault.map_or(Ok(more), Err)
    }

    /// Asks to be woken where something can happen; true: it has happened already.
    fn must_go_on(&mut self) -> Result<bool, RingError> {
        let mut go_on = false;
        if !self.blocked {
            go_on |= !self.outgoing.sleep()?;
        }
        if let Some(length) = self.waiting {
            go_on |= !self.incoming.sleep(length)?;
        }
        Ok(go_on)
    }

    /// The `READY_` bits that hold now.
    pub(super) fn ready(&mut self) -> Result<u32, RingError> {
        let waiting = self.incoming.free()? < self.capacity as usize;
        let room = self.outgoing.available()? < self.capacity as usize;
        let mut ready = 0;
        ready |= if waiting { READY_RECEIVE } else { 0 };
        ready |= if room { READY_SEND } else { 0 };
        Ok(ready)
    }
}
