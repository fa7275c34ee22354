//! The ring of bytes: a pipe between two tasks.

use super::half::Half;
use super::{HEADER_BYTES, RingError, SharedMemory};

/// Size in bytes of a stream ring of this capacity.
pub const fn stream_ring_bytes(capacity: u32) -> usize {
    HEADER_BYTES + capacity as usize
}

/// One side of a ring of bytes: what both do alike.
#[derive(Debug)]
pub struct StreamHalf<M, const PRODUCER: bool> {
    pub(super) half: Half<M, PRODUCER>,
}

/// The side that writes bytes. What it waits for is room.
pub type StreamProducer<M> = StreamHalf<M, true>;

/// The side that reads bytes.
pub type StreamConsumer<M> = StreamHalf<M, false>;

impl<M: SharedMemory, const PRODUCER: bool> StreamHalf<M, PRODUCER> {
    /// This side of the empty ring at `offset` (a multiple of 64) of the memory. `capacity` is in
    /// bytes, a power of two.
    ///
    /// Errors: Geometry.
    pub fn new(memory: M, offset: usize, capacity: u32) -> Result<Self, RingError> {
        Half::new(memory, offset, capacity, 1).map(|half| Self { half })
    }

    /// Whether the peer sleeps and is now to be signalled. Once true, it is false until the peer sleeps
    /// again.
    ///
    /// Errors: Corrupted, as for all operations from here on.
    pub fn must_wake(&mut self) -> Result<bool, RingError> {
        self.half.must_wake()
    }

    /// Announces that this side waits until `wanted` bytes are there, or have room; 1 to the capacity.
    /// False: do not wait, look again.
    pub fn sleep(&mut self, wanted: usize) -> Result<bool, RingError> {
        self.half.sleep(u32::try_from(wanted).unwrap_or(u32::MAX))
    }

    /// Ends what [`StreamHalf::sleep`] announced.
    pub fn wake(&mut self) -> Result<(), RingError> {
        self.half.wake()
    }

    /// Says that no byte will follow, or be taken any more. Ask [`StreamHalf::must_wake`] afterwards.
    pub fn close(&mut self) -> Result<(), RingError> {
        self.half.close()
    }
}

impl<M: SharedMemory> StreamProducer<M> {
    /// Room in bytes.
    ///
    /// Errors: Corrupted.
    pub fn free(&mut self) -> Result<usize, RingError> {
        Ok(self.half.refresh()? as usize)
    }

    /// Puts in as many of the bytes as there is room for and returns their number. Whoever has put
    /// in all it has then asks [`StreamHalf::must_wake`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<usize, RingError> {
        let enough = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let count = self.half.ready(enough)?.min(enough);
        let bytes = bytes.get(..count as usize).unwrap_or(bytes);
        self.half.write_bytes(0, bytes)?;
        self.half.advance(count)?;
        Ok(count as usize)
    }

    /// Whether the consumer takes nothing more.
    pub fn is_peer_closed(&self) -> Result<bool, RingError> {
        self.half.is_peer_closed()
    }
}

impl<M: SharedMemory> StreamConsumer<M> {
    /// Bytes that can be read.
    ///
    /// Errors: Corrupted.
    pub fn available(&mut self) -> Result<usize, RingError> {
        Ok(self.half.refresh()? as usize)
    }

    /// Takes as many bytes as there are and fit `into`, and returns their number. Ask
    /// [`StreamHalf::must_wake`] afterwards.
    pub fn read(&mut self, into: &mut [u8]) -> Result<usize, RingError> {
        let count = self.peek(into)?;
        self.skip(count)?;
        Ok(count)
    }

    /// Copies as many bytes as there are and fit `into` without taking them.
    pub fn peek(&mut self, into: &mut [u8]) -> Result<usize, RingError> {
        let enough = u32::try_from(into.len()).unwrap_or(u32::MAX);
        let count = self.half.ready(enough)?.min(enough) as usize;
        self.half
            .read_bytes(0, into.get_mut(..count).unwrap_or(&mut []))?;
        Ok(count)
    }

    /// Takes bytes that were peeked at. Corrupted where there are not as many.
    pub fn skip(&mut self, count: usize) -> Result<(), RingError> {
        self.half.advance(u32::try_from(count).unwrap_or(u32::MAX))
    }

    /// Whether the producer has closed and everything it put in was taken.
    pub fn is_ended(&mut self) -> Result<bool, RingError> {
        Ok(self.half.is_peer_closed()? && self.half.refresh()? == 0)
    }
}

/// Two stream rings in one memory object: the first from the task that made the memory, the second
/// back to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamPair;

impl StreamPair {
    /// Size in bytes of a memory object for two rings of this capacity, a multiple of 4,096.
    pub const fn bytes_needed(capacity: u32) -> usize {
        (2 * stream_ring_bytes(capacity)).next_multiple_of(4096)
    }

    /// Makes both rings empty and open again, as [`super::reset`] does one. Only while the other task uses
    /// neither.
    ///
    /// Errors: Geometry.
    pub fn reset<M: SharedMemory>(memory: &M, capacity: u32) -> Result<(), RingError> {
        super::reset(memory, 0)?;
        super::reset(memory, stream_ring_bytes(capacity))
    }

    /// The rings as the maker of the memory uses them.
    ///
    /// Errors: Geometry.
    pub fn maker<M: SharedMemory + Clone>(
        memory: M,
        capacity: u32,
    ) -> Result<(StreamProducer<M>, StreamConsumer<M>), RingError> {
        let second = stream_ring_bytes(capacity);
        let producer = StreamProducer::new(memory.clone(), 0, capacity)?;
        Ok((producer, StreamConsumer::new(memory, second, capacity)?))
    }

    /// The rings as the other task uses them.
    ///
    /// Errors: Geometry.
    pub fn peer<M: SharedMemory + Clone>(
        memory: M,
        capacity: u32,
    ) -> Result<(StreamConsumer<M>, StreamProducer<M>), RingError> {
        let second = stream_ring_bytes(capacity);
        let consumer = StreamConsumer::new(memory.clone(), 0, capacity)?;
        Ok((consumer, StreamProducer::new(memory, second, capacity)?))
    }
}
