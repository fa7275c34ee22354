//! A UDP socket as its application sees it: two rings, and whom to wake.

use super::doorbell::Doorbell;
use alloc::rc::Rc;
use core::net::SocketAddr;
use ipc::interface::network::Socket;
use ipc::ring::{DatagramConsumer, DatagramPair, DatagramProducer, RingError, SharedMemory};

/// A UDP socket. Dropping it unmaps the rings here; the socket is closed by the stub's `close`.
#[derive(Debug)]
pub struct DatagramSocket<M> {
    socket: Socket,
    outgoing: DatagramProducer<M>,
    incoming: DatagramConsumer<M>,
    doorbell: Rc<Doorbell>,
}

impl<M: SharedMemory + Clone> DatagramSocket<M> {
    /// A socket to be, whose empty rings are in `memory`, as its maker uses them: it waits for a datagram.
    pub(super) fn new(memory: M, capacity: u32, doorbell: Rc<Doorbell>) -> Result<Self, RingError> {
        let (outgoing, mut incoming) = DatagramPair::maker(memory, capacity)?;
        incoming.sleep()?;
        Ok(DatagramSocket {
            socket: Socket(0),
            outgoing,
            incoming,
            doorbell,
        })
    }

    /// The network stack has the rings, and calls it so.
    pub(super) fn is_bound(&mut self, socket: Socket) {
        self.socket = socket;
    }

    /// The socket, as events and the stub name it.
    pub const fn socket(&self) -> Socket {
        self.socket
    }

    /// Takes the next datagram: copies as much of it as fits, and tells that number and who sent it.
    /// `None` when there is none: then an event READY_RECEIVE will come.
    ///
    /// Errors: Corrupted, as for all operations here.
    pub fn receive(&mut self, into: &mut [u8]) -> Result<Option<(usize, SocketAddr)>, RingError> {
        loop {
            if let Some((peer, length)) = self.incoming.peek()? {
                let count = self.incoming.take(length, into)?;
                if self.incoming.must_wake()? {
                    self.doorbell.touch(self.socket);
                }
                return Ok(Some((count, peer)));
            }
            // False: one came meanwhile.
            if self.incoming.sleep()? {
                return Ok(None);
            }
        }
    }

    /// Gives a datagram to be sent. False when there is no room for it: then an event READY_SEND will come
    /// when there is. One longer than the ring never has room.
    pub fn send(&mut self, peer: SocketAddr, bytes: &[u8]) -> Result<bool, RingError> {
        loop {
            if self.outgoing.push(peer, bytes)? {
                if self.outgoing.must_wake()? {
                    self.doorbell.touch(self.socket);
                }
                return Ok(true);
            }
            // False: there is room by now.
            if !self.outgoing.fits(bytes.len()) || self.outgoing.sleep(bytes.len())? {
                return Ok(false);
            }
        }
    }
}
