//! A TCP connection as its application sees it: two rings, and whom to wake.

use super::doorbell::Doorbell;
use alloc::rc::Rc;
use ipc::interface::network::Socket;
use ipc::ring::{RingError, SharedMemory, StreamConsumer, StreamPair, StreamProducer};

/// A TCP connection. It is closed by [`super::Network::close`]; one that is dropped stays open, and its rings
/// in use, until the session ends.
#[derive(Debug)]
pub struct Stream<M> {
    socket: Socket,
    memory: M,
    outgoing: StreamProducer<M>,
    incoming: StreamConsumer<M>,
    capacity: u32,
    doorbell: Rc<Doorbell>,
}

impl<M: SharedMemory + Clone> Stream<M> {
    /// The connection whose empty rings are in `memory`, as its maker uses them.
    pub(super) fn new(
        socket: Socket,
        memory: M,
        capacity: u32,
        doorbell: Rc<Doorbell>,
    ) -> Result<Self, RingError> {
        let (outgoing, incoming) = StreamPair::maker(memory.clone(), capacity)?;
        Ok(Stream {
            socket,
            memory,
            outgoing,
            incoming,
            capacity,
            doorbell,
        })
    }

    /// The socket, as events and the stub name it.
    pub const fn socket(&self) -> Socket {
        self.socket
    }

    /// The rings' memory, of a stream that is closed.
    pub(super) fn into_rings(self) -> M {
        self.memory
    }

    /// Takes bytes that arrived and returns their number. 0 when there are none: then an event
    /// READY_RECEIVE will come, unless [`Stream::is_ended`].
    ///
    /// Errors: Corrupted, as for all operations here.
    pub fn read(&mut self, into: &mut [u8]) -> Result<usize, RingError> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            let count = self.incoming.read(into)?;
            if count != 0 {
                self.wake_incoming()?;
                return Ok(count);
            }
            // False: some arrived meanwhile, or the end did.
            if self.incoming.sleep(1)? || self.incoming.is_ended()? {
                return Ok(0);
            }
        }
    }

    /// Gives bytes to be sent and returns how many were taken. Fewer than offered: an event
    /// READY_SEND will come when half the ring is free or, if that is less, all of the rest has room.
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, RingError> {
        let mut taken = 0;
        loop {
            let rest = bytes.get(taken..).unwrap_or(&[]);
            taken += self.outgoing.write(rest)?;
            let left = bytes.len() - taken;
            let wanted = left.min(self.capacity as usize / 2);
            // False: there is room by now, or the other side has closed and takes nothing more.
            if left == 0 || self.outgoing.sleep(wanted)? || self.outgoing.is_peer_closed()? {
                break;
            }
        }
        if self.outgoing.must_wake()? {
            self.doorbell.touch(self.socket);
        }
        Ok(taken)
    }

    /// Says that nothing more will be sent, when all that was written has been.
    pub fn finish(&mut self) -> Result<(), RingError> {
        self.outgoing.close()?;
        if self.outgoing.must_wake()? {
            self.doorbell.touch(self.socket);
        }
        Ok(())
    }

    /// Whether the peer has ended its side and everything it sent was read.
    pub fn is_ended(&mut self) -> Result<bool, RingError> {
        self.incoming.is_ended()
    }

    fn wake_incoming(&mut self) -> Result<(), RingError> {
        if self.incoming.must_wake()? {
            self.doorbell.touch(self.socket);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::doorbell::Doorbell;
    use super::Stream;
    use alloc::rc::Rc;
    use core::sync::atomic::{AtomicU32, Ordering};
    use ipc::Handle;
    use ipc::interface::network::{DoorbellBits, Socket};
    use ipc::ring::{SharedMemory, StreamConsumer, StreamPair, StreamProducer};
    use std::sync::Arc;
    use std::vec::Vec;

    fn nobody() -> Rc<Doorbell> {
        let bits = DoorbellBits { touched: 1, all: 2 };
        Rc::new(Doorbell::new(Handle::NONE, bits, None))
    }

    /// Shared memory as an array of words.
    #[derive(Clone, Debug)]
    struct Array(Arc<[AtomicU32]>);

    impl SharedMemory for Array {
        fn bytes(&self) -> usize {
            self.0.len() * 4
        }

        fn words<const N: usize>(&self, first: usize) -> Option<&[AtomicU32; N]> {
            self.0.get(first..)?.first_chunk()
        }

        fn read(&self, offset: usize, into: &mut [u8]) -> Option<()> {
            for (position, byte) in (offset..).zip(into) {
                *byte = self
                    .word(position / 4)?
                    .load(Ordering::Relaxed)
                    .to_le_bytes()[position % 4];
            }
            Some(())
        }

        fn write(&self, offset: usize, from: &[u8]) -> Option<()> {
            for (position, byte) in (offset..).zip(from) {
                let word = self.word(position / 4)?;
                let mut bytes = word.load(Ordering::Relaxed).to_le_bytes();
                bytes[position % 4] = *byte;
                word.store(u32::from_le_bytes(bytes), Ordering::Relaxed);
            }
            Some(())
        }
    }

    fn pair() -> (Stream<Array>, StreamConsumer<Array>, StreamProducer<Array>) {
        let words: Vec<_> = (0..StreamPair::bytes_needed(64) / 4)
            .map(|_| AtomicU32::new(0))
            .collect();
        let memory = Array(words.into());
        let (from, to) = StreamPair::peer(memory.clone(), 64).unwrap();
        (
            Stream::new(Socket(1), memory, 64, nobody()).unwrap(),
            from,
            to,
        )
    }

    #[test]
    fn reading_nothing_leaves_word_to_be_woken() {
        let (mut stream, _, mut to) = pair();
        let mut into = [0; 16];
        assert_eq!(stream.read(&mut into), Ok(0));
        to.write(b"quail").unwrap();
        assert_eq!(to.must_wake(), Ok(true));
        assert_eq!(stream.read(&mut into), Ok(5));
        assert_eq!(to.must_wake(), Ok(false), "who reads is awake");
    }

    #[test]
    fn writing_too_much_leaves_word_to_be_woken_at_half() {
        let (mut stream, mut from, _) = pair();
        assert_eq!(stream.write(&[7; 100]), Ok(64));
        from.read(&mut [0; 31]).unwrap();
        assert_eq!(from.must_wake(), Ok(false));
        from.read(&mut [0; 1]).unwrap();
        assert_eq!(from.must_wake(), Ok(true));
        assert_eq!(stream.write(&[7; 36]), Ok(32));
    }

    #[test]
    fn the_end_is_seen_after_the_last_byte_and_nothing_waits_for_more() {
        let (mut stream, mut from, mut to) = pair();
        to.write(b"end").unwrap();
        to.close().unwrap();
        assert_eq!(stream.is_ended(), Ok(false));
        assert_eq!(stream.read(&mut [0; 16]), Ok(3));
        assert_eq!(stream.read(&mut [0; 16]), Ok(0));
        assert_eq!(stream.is_ended(), Ok(true));
        stream.finish().unwrap();
        assert_eq!(from.is_ended(), Ok(true));
        from.close().unwrap();
        assert_eq!(
            stream.write(&[7; 100]),
            Ok(64),
            "and a full ring nobody empties ends too"
        );
        assert_eq!(stream.write(&[7; 100]), Ok(0));
    }
}
