//! What the two kinds of ring have in common: one side's counts, its sleep and its wake-ups. What
//! is counted, bytes or entries, is the callers'.

use super::{
    CONSUMER_CLOSED, CONSUMER_WANTED, HEADER_BYTES, MAX_CAPACITY, MIN_CAPACITY, PRODUCER_CLOSED,
    PRODUCER_WANTED, PUT, RingError, SharedMemory, TAKEN, Writer,
};
use core::sync::atomic::{AtomicU32, Ordering, fence};

/// One side of a ring.
///
/// For the producer "ready" is free room, for the consumer it is what can be taken. Invariant:
/// `ready <= capacity`, whatever the peer writes.
#[derive(Debug)]
pub(super) struct Half<M> {
    memory: M,
    /// Offset of the header in words.
    base: usize,
    capacity: u32,
    side: Writer,
    /// The own count. The trusted copy: the shared word is only ever written.
    count: u32,
    /// How much is ready, as last seen. Never shrinks but by the own doing.
    ready: u32,
    /// Whether the own side has closed.
    closed: bool,
}

impl<M: SharedMemory> Half<M> {
    /// The side of an empty ring whose entries have `unit` bytes. `offset` is in bytes.
    pub(super) fn new(
        memory: M,
        offset: usize,
        capacity: u32,
        unit: usize,
        side: Writer,
    ) -> Result<Self, RingError> {
        let sensible = capacity.is_power_of_two()
            && (MIN_CAPACITY..=MAX_CAPACITY).contains(&capacity)
            && offset.is_multiple_of(64);
        let end = (capacity as usize)
            .checked_mul(unit)
            .and_then(|bytes| bytes.checked_add(HEADER_BYTES))
            .and_then(|bytes| bytes.checked_add(offset));
        if !sensible || end.is_none_or(|end| end > memory.bytes()) {
            return Err(RingError::Geometry);
        }
        let ready = match side {
            Writer::Producer => capacity,
            Writer::Consumer => 0,
        };
        Ok(Half {
            memory,
            base: offset / 4,
            capacity,
            side,
            count: 0,
            ready,
            closed: false,
        })
    }

    pub(super) const fn memory(&self) -> &M {
        &self.memory
    }

    pub(super) const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Where entry or byte number `ahead`, counted from the own position, is in the ring.
    pub(super) const fn slot(&self, ahead: u32) -> usize {
        (self.count.wrapping_add(ahead) & (self.capacity - 1)) as usize
    }

    /// Copies bytes of a ring of bytes out, from `ahead` of the own position on, round its end.
    pub(super) fn read_bytes(&self, ahead: u32, into: &mut [u8]) -> Result<(), RingError> {
        let (slot, body) = (self.slot(ahead), self.body());
        let until_end = self.capacity as usize - slot;
        let (first, second) = into.split_at_mut(until_end.min(into.len()));
        let (first, second) = (
            self.memory.read(body + slot, first),
            self.memory.read(body, second),
        );
        first.and(second).ok_or(RingError::Geometry)
    }

    /// Copies bytes into a ring of bytes, from `ahead` of the own position on, round its end.
    pub(super) fn write_bytes(&self, ahead: u32, from: &[u8]) -> Result<(), RingError> {
        let (slot, body) = (self.slot(ahead), self.body());
        let until_end = self.capacity as usize - slot;
        let (first, second) = from.split_at(until_end.min(from.len()));
        let (first, second) = (
            self.memory.write(body + slot, first),
            self.memory.write(body, second),
        );
        first.and(second).ok_or(RingError::Geometry)
    }

    /// Offset of the first byte after the header.
    pub(super) const fn body(&self) -> usize {
        self.base * 4 + HEADER_BYTES
    }

    fn word(&self, field: usize) -> Result<&AtomicU32, RingError> {
        self.memory
            .word(self.base + field)
            .ok_or(RingError::Geometry)
    }

    /// How much is ready, after a look at the peer's count.
    pub(super) fn refresh(&mut self) -> Result<u32, RingError> {
        let peer = match self.side {
            Writer::Producer => self.word(TAKEN)?.load(Ordering::Acquire),
            Writer::Consumer => self.word(PUT)?.load(Ordering::Acquire),
        };
        let ready = match self.side {
            Writer::Producer => {
                let used = self.count.wrapping_sub(peer);
                self.capacity
                    .checked_sub(used)
                    .ok_or(RingError::Corrupted)?
            }
            Writer::Consumer => peer.wrapping_sub(self.count),
        };
        if ready > self.capacity || ready < self.ready {
            return Err(RingError::Corrupted);
        }
        self.ready = ready;
        Ok(ready)
    }

    /// How much is ready, with a look at the peer's count only if that is less than `enough`.
    pub(super) fn ready(&mut self, enough: u32) -> Result<u32, RingError> {
        if self.ready >= enough {
            return Ok(self.ready);
        }
        self.refresh()
    }

    /// Moves the own count on by at most what is ready, and tells the peer.
    pub(super) fn advance(&mut self, by: u32) -> Result<(), RingError> {
        self.ready = self.ready.checked_sub(by).ok_or(RingError::Corrupted)?;
        self.count = self.count.wrapping_add(by);
        let field = match self.side {
            Writer::Producer => PUT,
            Writer::Consumer => TAKEN,
        };
        self.word(field)?.store(self.count, Ordering::Release);
        Ok(())
    }

    /// Announces that the own side waits for `wanted`, 1 to the capacity. False: it is there by
    /// now, or the peer has closed, and the announcement is withdrawn.
    pub(super) fn sleep(&mut self, wanted: u32) -> Result<bool, RingError> {
        let wanted = wanted.clamp(1, self.capacity);
        self.own_wanted()?.store(wanted, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let closed = self.is_peer_closed()?;
        if closed || self.refresh()? >= wanted {
            self.wake()?;
            return Ok(false);
        }
        Ok(true)
    }

    /// Withdraws the announcement.
    pub(super) fn wake(&mut self) -> Result<(), RingError> {
        self.own_wanted()?.store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the peer sleeps and what it waits for has come together: then it must be signalled,
    /// once. To be called after the own count was moved, or the own side closed.
    pub(super) fn must_wake(&mut self) -> Result<bool, RingError> {
        fence(Ordering::SeqCst);
        self.must_wake_fenced()
    }

    /// The same, after a sequentially consistent fence of the caller's.
    pub(super) fn must_wake_fenced(&mut self) -> Result<bool, RingError> {
        let field = match self.side {
            Writer::Producer => CONSUMER_WANTED,
            Writer::Consumer => PRODUCER_WANTED,
        };
        let wanted = self.word(field)?.load(Ordering::Relaxed);
        if wanted == 0 {
            return Ok(false);
        }
        let for_peer = self.capacity - self.refresh()?;
        if !self.closed && for_peer < wanted.min(self.capacity) {
            return Ok(false);
        }
        self.word(field)?.store(0, Ordering::Relaxed);
        Ok(true)
    }

    /// Says that the own side puts in or takes out nothing more.
    pub(super) fn close(&mut self) -> Result<(), RingError> {
        let field = match self.side {
            Writer::Producer => PRODUCER_CLOSED,
            Writer::Consumer => CONSUMER_CLOSED,
        };
        self.closed = true;
        self.word(field)?.store(1, Ordering::Release);
        Ok(())
    }

    /// Whether the peer puts in or takes out nothing more. What it put in before can still be
    /// taken: the next [`Half::refresh`] sees all of it.
    pub(super) fn is_peer_closed(&self) -> Result<bool, RingError> {
        let field = match self.side {
            Writer::Producer => CONSUMER_CLOSED,
            Writer::Consumer => PRODUCER_CLOSED,
        };
        Ok(self.word(field)?.load(Ordering::Acquire) != 0)
    }

    fn own_wanted(&self) -> Result<&AtomicU32, RingError> {
        self.word(match self.side {
            Writer::Producer => PRODUCER_WANTED,
            Writer::Consumer => CONSUMER_WANTED,
        })
    }

    /// Moves both counts of an empty ring, as if `count` had gone through it.
    #[cfg(test)]
    pub(super) fn start_at(&mut self, count: u32) {
        self.count = count;
        for field in [PUT, TAKEN] {
            if let Ok(word) = self.word(field) {
                word.store(count, Ordering::Relaxed);
            }
        }
    }
}
