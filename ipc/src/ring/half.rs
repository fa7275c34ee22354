//! What the kinds of ring have in common: one side's counts, its sleep and its wake-ups. What is
//! counted, bytes or entries, is the callers'.

use super::{
    CONSUMER_CLOSED, CONSUMER_WANTED, HEADER_BYTES, MAX_CAPACITY, MIN_CAPACITY, PRODUCER_CLOSED,
    PRODUCER_WANTED, PUT, RingError, SharedMemory, TAKEN,
};
use core::sync::atomic::{AtomicU32, Ordering, fence};

/// The words of a ring's header.
type Header = [AtomicU32; HEADER_BYTES / 4];

/// One side of a ring: the producer's or the consumer's.
///
/// For the producer "ready" is free room, for the consumer it is what can be taken. Invariant:
/// `staged <= ready <= capacity`, whatever the peer writes.
#[derive(Debug)]
pub(super) struct Half<M, const PRODUCER: bool> {
    memory: M,
    /// Number of the header's first word.
    base: usize,
    capacity: u32,
    /// The own count, as the peer was told it. The trusted copy: the shared word is only ever written.
    count: u32,
    /// How much is ready, as last seen. Never shrinks but by the own doing.
    ready: u32,
    /// How much of that was put in or taken out without telling the peer yet.
    staged: u32,
    /// The count was moved, or this side closed, since it was last asked whether the peer must be woken.
    moved: bool,
    /// What was last announced to be waited for; 0 once that was withdrawn.
    announced: u32,
    /// Whether the own side has closed.
    closed: bool,
}

impl<M: SharedMemory, const PRODUCER: bool> Half<M, PRODUCER> {
    const OWN_COUNT: usize = if PRODUCER { PUT } else { TAKEN };
    const PEER_COUNT: usize = if PRODUCER { TAKEN } else { PUT };
    const OWN_WANTED: usize = if PRODUCER {
        PRODUCER_WANTED
    } else {
        CONSUMER_WANTED
    };
    const PEER_WANTED: usize = if PRODUCER {
        CONSUMER_WANTED
    } else {
        PRODUCER_WANTED
    };
    const OWN_CLOSED: usize = if PRODUCER {
        PRODUCER_CLOSED
    } else {
        CONSUMER_CLOSED
    };
    const PEER_CLOSED: usize = if PRODUCER {
        CONSUMER_CLOSED
    } else {
        PRODUCER_CLOSED
    };

    /// The side of an empty ring whose entries have `unit` bytes. `offset` is in bytes.
    pub(super) fn new(
        memory: M,
        offset: usize,
        capacity: u32,
        unit: usize,
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
        Ok(Half {
            memory,
            base: offset / 4,
            capacity,
            count: 0,
            ready: if PRODUCER { capacity } else { 0 },
            staged: 0,
            moved: false,
            announced: 0,
            closed: false,
        })
    }

    pub(super) const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Where entry or byte number `ahead`, counted from the own count, is in the ring.
    const fn slot(&self, ahead: u32) -> usize {
        // A capacity is a power of two, so that nothing wraps here but the count.
        (self.count.wrapping_add(ahead) & self.capacity.wrapping_sub(1)) as usize
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
    const fn body(&self) -> usize {
        self.base * 4 + HEADER_BYTES
    }

    /// The header: one check for all of its words.
    #[inline(always)]
    fn header(&self) -> Result<&Header, RingError> {
        self.memory.words(self.base).ok_or(RingError::Geometry)
    }

    /// What is not ready as last seen: of the capacity, of which it is never more.
    #[inline(always)]
    const fn unready(&self) -> u32 {
        self.capacity.wrapping_sub(self.ready)
    }

    /// How much is ready as last seen, less what is staged.
    #[inline(always)]
    pub(super) const fn unstaged(&self) -> u32 {
        self.ready.wrapping_sub(self.staged)
    }

    /// The words of the next entry of a ring of such entries; it is staged: the peer is told with
    /// [`Half::publish`]. `None` where no more was ready when that was last looked at.
    #[inline(always)]
    pub(super) fn stage<const WORDS: usize>(
        &mut self,
    ) -> Result<Option<&[AtomicU32; WORDS]>, RingError> {
        if self.staged >= self.ready {
            return Ok(None);
        }
        // The entry lies in the memory, by the check in `new`; the memory checks it again.
        let entry = self.slot(self.staged).wrapping_mul(WORDS);
        let first = self.base.wrapping_add(HEADER_BYTES / 4).wrapping_add(entry);
        self.staged += 1;
        let words = self.memory.words(first).ok_or(RingError::Geometry)?;
        Ok(Some(words))
    }

    /// Tells the peer of everything that was staged.
    #[inline]
    pub(super) fn publish(&mut self) -> Result<(), RingError> {
        let staged = core::mem::take(&mut self.staged);
        self.advance(staged)
    }

    /// How much is ready, staged or not, after a look at the peer's count.
    #[inline]
    pub(super) fn refresh(&mut self) -> Result<u32, RingError> {
        let peer = self.header()?[Self::PEER_COUNT].load(Ordering::Acquire);
        // What the ring holds: modulo 2^32, so that a count out of place is more than it can.
        let ready = match PRODUCER {
            true => {
                let held = self.count.wrapping_sub(peer);
                self.capacity.wrapping_sub(held)
            }
            false => peer.wrapping_sub(self.count),
        };
        // It may only grow, and by no more than fits: less is, modulo 2^32, more than fits, too.
        let (more, fits) = (ready.wrapping_sub(self.ready), self.unready());
        if more > fits {
            return Err(RingError::Corrupted);
        }
        self.ready = ready;
        Ok(ready)
    }

    /// How much is ready, with a look at the peer's count only if that is less than `enough`.
    #[inline]
    pub(super) fn ready(&mut self, enough: u32) -> Result<u32, RingError> {
        if self.ready >= enough {
            return Ok(self.ready);
        }
        self.refresh()
    }

    /// Moves the own count on by at most what is ready, and tells the peer.
    #[inline]
    pub(super) fn advance(&mut self, by: u32) -> Result<(), RingError> {
        if by == 0 {
            return Ok(());
        }
        self.ready = self.ready.checked_sub(by).ok_or(RingError::Corrupted)?;
        self.count = self.count.wrapping_add(by);
        self.moved = true;
        self.header()?[Self::OWN_COUNT].store(self.count, Ordering::Release);
        Ok(())
    }

    /// Announces that the own side waits for `wanted`, 1 to the capacity. False: it is there by
    /// now, or the peer has closed, and the announcement is withdrawn.
    ///
    /// An announcement that stands is not made again, and needs no second look. The peer moved its
    /// count either before that announcement's fence, and then the look after it saw the move, or it
    /// reads the announcement, and if enough has come together clears it and signals. A clearing that
    /// cannot be seen here yet comes before a signal that has not been taken yet.
    pub(super) fn sleep(&mut self, wanted: u32) -> Result<bool, RingError> {
        let wanted = wanted.max(1).min(self.capacity);
        let word = &self.header()?[Self::OWN_WANTED];
        let stands = (self.announced == wanted) & (word.load(Ordering::Relaxed) == wanted);
        let mut there = self.ready >= wanted;
        if !stands {
            word.store(wanted, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            there = self.is_peer_closed()? || self.refresh()? >= wanted;
            self.announced = wanted;
        }
        if there {
            self.wake()?;
        }
        Ok(!there)
    }

    /// Withdraws the announcement.
    pub(super) fn wake(&mut self) -> Result<(), RingError> {
        self.announced = 0;
        self.header()?[Self::OWN_WANTED].store(0, Ordering::Relaxed);
        Ok(())
    }

    /// Whether the peer sleeps and what it waits for has come together: then it must be signalled,
    /// once. To be called after the own count was moved, or the own side closed.
    pub(super) fn must_wake(&mut self) -> Result<bool, RingError> {
        if !self.moved {
            return Ok(false);
        }
        fence(Ordering::SeqCst);
        self.must_wake_fenced()
    }

    /// The same, after a sequentially consistent fence of the caller's since the count was moved.
    ///
    /// Where it was not moved since this was last asked, there is nothing to ask: a peer that announced
    /// before the fence of then was seen, one that announces after it sees the count in its second look.
    #[inline]
    pub(super) fn must_wake_fenced(&mut self) -> Result<bool, RingError> {
        if !core::mem::take(&mut self.moved) {
            return Ok(false);
        }
        let wanted = self.header()?[Self::PEER_WANTED].load(Ordering::Relaxed);
        if wanted == 0 {
            return Ok(false);
        }
        self.refresh()?;
        if !self.closed && self.unready() < wanted.min(self.capacity) {
            return Ok(false);
        }
        self.header()?[Self::PEER_WANTED].store(0, Ordering::Relaxed);
        Ok(true)
    }

    /// Says that the own side puts in or takes out nothing more.
    pub(super) fn close(&mut self) -> Result<(), RingError> {
        self.closed = true;
        self.moved = true;
        self.header()?[Self::OWN_CLOSED].store(1, Ordering::Release);
        Ok(())
    }

    /// Whether the peer puts in or takes out nothing more. What it put in before can still be
    /// taken: the next [`Half::refresh`] sees all of it.
    pub(super) fn is_peer_closed(&self) -> Result<bool, RingError> {
        Ok(self.header()?[Self::PEER_CLOSED].load(Ordering::Acquire) != 0)
    }

    /// Moves both counts of an empty ring, as if `count` had gone through it.
    #[cfg(test)]
    pub(super) fn start_at(&mut self, count: u32) {
        self.count = count;
        if let Ok(header) = self.header() {
            header[PUT].store(count, Ordering::Relaxed);
            header[TAKEN].store(count, Ordering::Relaxed);
        }
    }
}
