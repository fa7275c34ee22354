//! The ring of datagrams: bytes with an address each, between two tasks. A datagram is there whole or not
//! at all.
//!
//! A record is a header of [`RECORD_HEADER_BYTES`] and the datagram's bytes, up to a multiple of 8. The
//! header has the length in bytes (32 bits), the port (16 bits), the kind of address (4 or 6, 8 bits), a
//! zero, and the address in the network's order, one of IPv4 in the first 4 of 16 bytes. Numbers are
//! little-endian.

use super::half::Half;
use super::packet::sleep;
use super::stream::stream_ring_bytes;
use super::{RingError, SharedMemory};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Size of what stands before the bytes of a datagram.
pub const RECORD_HEADER_BYTES: usize = 24;
/// Records begin at multiples of this.
const UNIT: u32 = 8;
/// Longest datagram in bytes (RFC 768: its length has 16 bits).
const LONGEST: u32 = 65_535;

/// Bytes of a ring that a datagram of this length takes.
const fn record_bytes(length: u32) -> u32 {
    (RECORD_HEADER_BYTES as u32 + length).next_multiple_of(UNIT)
}

fn header(address: SocketAddr, length: u32) -> [u8; RECORD_HEADER_BYTES] {
    let mut header = [0; RECORD_HEADER_BYTES];
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4..6].copy_from_slice(&address.port().to_le_bytes());
    match address.ip() {
        IpAddr::V4(address) => {
            header[6] = 4;
            header[8..12].copy_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            header[6] = 6;
            header[8..].copy_from_slice(&address.octets());
        }
    }
    header
}

/// What a header says; `None` where that is nothing.
fn read_header(header: &[u8; RECORD_HEADER_BYTES]) -> Option<(SocketAddr, u32)> {
    let (length, rest) = header.split_first_chunk::<4>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let (kind, rest) = rest.split_first_chunk::<2>()?;
    let address = match kind[0] {
        4 => IpAddr::V4(Ipv4Addr::from(*rest.first_chunk::<4>()?)),
        6 => IpAddr::V6(Ipv6Addr::from(*rest.first_chunk::<16>()?)),
        _ => return None,
    };
    let length = u32::from_le_bytes(*length);
    let address = SocketAddr::new(address, u16::from_le_bytes(*port));
    (length <= LONGEST).then_some((address, length))
}

/// One side of a ring of datagrams: what both do alike.
#[derive(Debug)]
pub struct DatagramHalf<M, const PRODUCER: bool> {
    half: Half<M, PRODUCER>,
}

/// The side that puts datagrams in.
pub type DatagramProducer<M> = DatagramHalf<M, true>;

/// The side that takes datagrams out.
pub type DatagramConsumer<M> = DatagramHalf<M, false>;

impl<M: SharedMemory, const PRODUCER: bool> DatagramHalf<M, PRODUCER> {
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
}

impl<M: SharedMemory> DatagramProducer<M> {
    /// Whether a datagram of this length fits the empty ring.
    pub fn fits(&self, length: usize) -> bool {
        u32::try_from(length)
            .is_ok_and(|length| length <= LONGEST && record_bytes(length) <= self.half.capacity())
    }

    /// Puts a datagram in; false, and nothing, when there is no room for it. Whoever has put in all
    /// it has then asks [`DatagramHalf::must_wake`].
    ///
    /// Errors: Corrupted.
    pub fn push(&mut self, address: SocketAddr, bytes: &[u8]) -> Result<bool, RingError> {
        if !self.fits(bytes.len()) {
            return Ok(false);
        }
        let length = bytes.len() as u32;
        let record = record_bytes(length);
        if self.half.ready(record)? < record {
            return Ok(false);
        }
        self.half.write_bytes(0, &header(address, length))?;
        self.half.write_bytes(RECORD_HEADER_BYTES as u32, bytes)?;
        self.half.advance(record)?;
        Ok(true)
    }

    /// Announces that this side waits for room for a datagram of `length` bytes. False: do not wait,
    /// look again.
    pub fn sleep(&mut self, length: usize) -> Result<bool, RingError> {
        let length = u32::try_from(length).unwrap_or(LONGEST).min(LONGEST);
        let wanted = record_bytes(length).min(self.half.capacity());
        sleep(&mut self.half, wanted)
    }

    /// Room in bytes, headers included.
    pub fn free(&mut self) -> Result<usize, RingError> {
        Ok(self.half.refresh()? as usize)
    }
}

impl<M: SharedMemory> DatagramConsumer<M> {
    /// Bytes that can be taken, headers included.
    ///
    /// Errors: Corrupted.
    pub fn available(&mut self) -> Result<usize, RingError> {
        Ok(self.half.refresh()? as usize)
    }

    /// Address and length of the next datagram, which stays; `None` when there is none.
    ///
    /// Errors: Corrupted also where the record is none, or not whole.
    pub fn peek(&mut self) -> Result<Option<(SocketAddr, usize)>, RingError> {
        if self.half.ready(1)? == 0 {
            return Ok(None);
        }
        let mut header = [0; RECORD_HEADER_BYTES];
        if (self.half.ready(header.len() as u32)? as usize) < header.len() {
            return Err(RingError::Corrupted);
        }
        self.half.read_bytes(0, &mut header)?;
        let (address, length) = read_header(&header).ok_or(RingError::Corrupted)?;
        let record = record_bytes(length);
        if self.half.ready(record)? < record {
            return Err(RingError::Corrupted);
        }
        Ok(Some((address, length as usize)))
    }

    /// Takes the next datagram of which [`DatagramConsumer::peek`] told this length, and copies as many
    /// of its bytes as fit.
    ///
    /// Errors: Corrupted as well where there are not as many bytes.
    pub fn take(&mut self, length: usize, into: &mut [u8]) -> Result<usize, RingError> {
        let length = u32::try_from(length).unwrap_or(LONGEST).min(LONGEST);
        let record = record_bytes(length);
        if self.half.ready(record)? < record {
            return Err(RingError::Corrupted);
        }
        let count = into.len().min(length as usize);
        let into = into.get_mut(..count).unwrap_or(&mut []);
        self.half.read_bytes(RECORD_HEADER_BYTES as u32, into)?;
        self.half.advance(record)?;
        Ok(count)
    }

    /// Announces that this side waits for a datagram. False: do not wait, look again.
    pub fn sleep(&mut self) -> Result<bool, RingError> {
        sleep(&mut self.half, 1)
    }
}

/// Two datagram rings in one memory object: the first from the task that made the memory, the second
/// back to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatagramPair;

impl DatagramPair {
    /// Size in bytes of a memory object for two rings of this capacity, a multiple of 4,096.
    pub const fn bytes_needed(capacity: u32) -> usize {
        (2 * stream_ring_bytes(capacity)).next_multiple_of(4096)
    }

    /// The rings as the maker of the memory uses them.
    ///
    /// Errors: Geometry.
    pub fn maker<M: SharedMemory + Clone>(
        memory: M,
        capacity: u32,
    ) -> Result<(DatagramProducer<M>, DatagramConsumer<M>), RingError> {
        let second = stream_ring_bytes(capacity);
        let producer = DatagramProducer::new(memory.clone(), 0, capacity)?;
        Ok((producer, DatagramConsumer::new(memory, second, capacity)?))
    }

    /// The rings as the other task uses them.
    ///
    /// Errors: Geometry.
    pub fn peer<M: SharedMemory + Clone>(
        memory: M,
        capacity: u32,
    ) -> Result<(DatagramConsumer<M>, DatagramProducer<M>), RingError> {
        let second = stream_ring_bytes(capacity);
        let consumer = DatagramConsumer::new(memory.clone(), 0, capacity)?;
        Ok((consumer, DatagramProducer::new(memory, second, capacity)?))
    }
}
