//! Received packets: from the driver's descriptors, which are hostile, into private memory. Each
//! buffer goes back as soon as it was copied from.

use ipc::interface::net_device::{FLAG_CHECKSUM_VERIFIED, FLAG_MORE, MAX_PACKET_BYTES};
use ipc::ring::{Descriptor, RingError, SharedMemory};

use super::{Holder, Packets, Rings};
use crate::wire::Received;

/// Most buffers that one packet may lie in: those of the longest, of the smallest size, and one for
/// the bytes that the device's header displaces.
const MOST_PIECES: usize = MAX_PACKET_BYTES.div_ceil(2048) + 1;

/// Part of a received packet, in a buffer that the driver has handed back.
#[derive(Clone, Copy)]
pub(super) struct Piece {
    buffer: u32,
    /// Offset of its bytes in the pool, which were found to lie in that buffer, or the packet is spoiled.
    offset: u32,
    /// Their number.
    length: u32,
}

/// A received packet, as far as it has come.
#[derive(Default)]
pub(super) struct Arriving {
    pub(super) pieces: heapless::Vec<Piece, MOST_PIECES>,
    /// A piece was refused, or there were too many: the packet is dropped at its end.
    spoiled: bool,
    /// The card has verified its checksum: the first descriptor says so for all.
    verified: bool,
}

impl<M: SharedMemory + Clone> Packets<M> {
    /// Adds a piece to the packet that is being received.
    fn add_piece(&mut self, descriptor: Descriptor) -> Result<(), RingError> {
        let buffer = self.pool.buffer(descriptor);
        let held = buffer.filter(|b| self.holders.get(*b as usize) == Some(&Holder::Driver));
        let Some(buffer) = held else {
            self.counters.refused_descriptors += 1;
            self.arriving.spoiled = true;
            return Ok(());
        };
        self.set_holder(buffer, Holder::Stack);
        if self.pool.check(descriptor).is_none() {
            self.counters.refused_descriptors += 1;
            self.arriving.spoiled = true;
        }
        if self.arriving.pieces.is_empty() {
            self.arriving.verified = descriptor.flags & FLAG_CHECKSUM_VERIFIED != 0;
        }
        let piece = Piece {
            buffer,
            offset: descriptor.offset,
            length: descriptor.length,
        };
        if self.arriving.pieces.push(piece).is_err() {
            self.arriving.spoiled = true;
            return self.offer(buffer);
        }
        Ok(())
    }

    /// Copies the whole packet out of its pieces, whose buffers go back; `None`: it is dropped.
    fn gather(&mut self, into: &mut [u8]) -> Result<Option<Received>, RingError> {
        let mut whole = Some(0).filter(|_| !self.arriving.spoiled);
        for index in 0..self.arriving.pieces.len() {
            let piece = self.arriving.pieces[index];
            whole = whole.and_then(|begin: usize| {
                let end = begin.checked_add(piece.length as usize)?;
                let place = into.get_mut(begin..end)?;
                self.pool_memory.read(piece.offset as usize, place)?;
                Some(end)
            });
            self.offer(piece.buffer)?;
        }
        self.arriving.pieces.clear();
        self.arriving.spoiled = false;
        if whole.is_none() {
            self.counters.broken_packets += 1;
        }
        Ok(whole.map(|length| Received {
            length,
            checksum_verified: self.arriving.verified,
        }))
    }

    /// Takes descriptors until one packet is whole, or there are none. The driver is told what was taken
    /// when all that was seen is: before each look for more.
    pub(super) fn next_packet(&mut self, into: &mut [u8]) -> Result<Option<Received>, RingError> {
        // As many as there are buffers: a driver that lies does not keep the stack here.
        for _ in 0..self.shape.buffers {
            if self.rings.received.ready() == 0 {
                self.rings.tell_received()?;
                self.rings.received.look()?;
            }
            let Some(descriptor) = self.rings.received.take()? else {
                break;
            };
            self.add_piece(descriptor)?;
            if descriptor.flags & FLAG_MORE != 0 {
                continue;
            }
            if let Some(received) = self.gather(into)? {
                return Ok(Some(received));
            }
        }
        Ok(None)
    }
}

impl<M: SharedMemory> Rings<M> {
    /// Tells the driver which received packets were taken, and which buffers are free again.
    pub(super) fn tell_received(&mut self) -> Result<(), RingError> {
        self.received.publish()?;
        self.receive_free.publish()
    }
}
