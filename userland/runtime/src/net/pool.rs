//! Pairs of rings that are shared with the network stack, and go from one connection to the next.

use super::NetError;
use super::doorbell::Doorbell;
use crate::mapping::{Mapping, SharedMapping};
use crate::memory::Memory;
use crate::start::own_task;
use crate::task;
use crate::transport::Kernel;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU32;
use ipc::Handle;
use ipc::client::Deadline;
use ipc::interface::network::{NetworkClient, Notice, RingPair, Socket, StreamGeometry};
use ipc::ring::{SharedMemory, StreamPair};

/// Most pairs kept for the next connections, and offered to a listener.
const MOST: usize = 32;
/// Part of the own memory that either may take, as a divisor.
const PART: u64 = 16;

/// How many pairs of this capacity may lie ready in a task that may use so much memory.
fn pairs_that_fit(quota: u64, ring_bytes: u32) -> usize {
    let fit = quota / PART / StreamPair::bytes_needed(ring_bytes) as u64;
    usize::try_from(fit).unwrap_or(MOST).clamp(1, MOST)
}

/// A pair of stream rings that the network stack has mapped.
#[derive(Clone, Debug)]
pub struct Pair {
    number: RingPair,
    ring_bytes: u32,
    mapping: SharedMapping,
}

impl Pair {
    /// The pair, as the interface names it.
    pub const fn number(&self) -> RingPair {
        self.number
    }

    /// Capacity of each ring in bytes.
    pub const fn ring_bytes(&self) -> u32 {
        self.ring_bytes
    }
}

impl SharedMemory for Pair {
    fn bytes(&self) -> usize {
        self.mapping.bytes()
    }

    fn word(&self, index: usize) -> Option<&AtomicU32> {
        self.mapping.word(index)
    }

    fn read(&self, offset: usize, into: &mut [u8]) -> Option<()> {
        self.mapping.read(offset, into)
    }

    fn write(&self, offset: usize, from: &[u8]) -> Option<()> {
        self.mapping.write(offset, from)
    }
}

/// A session's pairs that no connection uses.
#[derive(Debug)]
pub struct Pool {
    session: Handle,
    doorbell: Rc<Doorbell>,
    /// What memory this task may use, in bytes.
    quota: u64,
    spare: Vec<Pair>,
    /// Pairs that were taken and not brought back.
    out: usize,
    /// Why there was no further pair. While none comes back there is no use in asking again.
    refused: Option<NetError>,
}

impl Pool {
    /// An empty pool. What is taken from it is brought back by [`Pool::keep`] or [`Pool::close`]. The session
    /// is borrowed: closing is its owner's.
    pub fn new(session: Handle, doorbell: Rc<Doorbell>) -> Pool {
        Pool {
            session,
            doorbell,
            quota: task::info(own_task()).map_or(0, |info| info.quota_bytes),
            spare: Vec::new(),
            out: 0,
            refused: None,
        }
    }

    /// How its session gives notices.
    pub const fn doorbell(&self) -> &Rc<Doorbell> {
        &self.doorbell
    }

    /// How many pairs of this capacity may lie ready, by the memory that this task may use: 1 to 32.
    pub fn pairs_ready(&self, ring_bytes: u32) -> usize {
        pairs_that_fit(self.quota, ring_bytes)
    }

    fn stub(&self) -> NetworkClient<Kernel> {
        NetworkClient::new(Kernel, self.session)
    }

    /// A pair for a connection: one that is spare, or a new one. `ring_bytes` is the capacity of each of the
    /// two rings, a power of two from 4,096 to 1,048,576.
    ///
    /// Errors: Kernel, where this task has no memory for it; Call, where the network stack refuses.
    pub fn take(&mut self, deadline: Deadline, ring_bytes: u32) -> Result<Pair, NetError> {
        let fits = |pair: &Pair| pair.ring_bytes == ring_bytes;
        if let Some(place) = self.spare.iter().rposition(fits) {
            self.out += 1;
            return Ok(self.spare.swap_remove(place));
        }
        if let Some(error) = self.refused {
            return Err(error);
        }
        let mut shared = self.share(deadline, ring_bytes);
        if shared.is_err() && !self.spare.is_empty() {
            // Those of other sizes may take the room.
            for pair in core::mem::take(&mut self.spare) {
                self.stub().unshare(deadline, pair.number)?;
            }
            shared = self.share(deadline, ring_bytes);
        }
        match shared {
            Ok(_) => self.out += 1,
            Err(error) if self.out > 0 => self.refused = Some(error),
            Err(_) => {}
        }
        shared
    }

    fn share(&self, deadline: Deadline, ring_bytes: u32) -> Result<Pair, NetError> {
        let memory = Memory::create(StreamPair::bytes_needed(ring_bytes) as u64)?;
        let mapping = Mapping::shared(&memory)?;
        let geometry = StreamGeometry { ring_bytes };
        let number = self.stub().share(deadline, geometry, memory.handle())?;
        Ok(Pair {
            number,
            ring_bytes,
            mapping,
        })
    }

    /// Keeps a pair that no connection uses any more for the next one, or gives it back where enough are
    /// kept.
    ///
    /// Errors: Call.
    pub fn keep(&mut self, deadline: Deadline, pair: Pair) -> Result<(), NetError> {
        self.refused = None;
        self.out = self.out.saturating_sub(1);
        let alike = |spare: &&Pair| spare.ring_bytes == pair.ring_bytes;
        if self.spare.iter().filter(alike).count() < self.pairs_ready(pair.ring_bytes) {
            self.spare.push(pair);
            return Ok(());
        }
        Ok(self.stub().unshare(deadline, pair.number)?)
    }

    /// Closes a connection, by a notice where there is room for one, and keeps its pair. The pair must not
    /// be written to any more.
    ///
    /// Errors: Call.
    pub fn close(
        &mut self,
        deadline: Deadline,
        socket: Socket,
        pair: Pair,
    ) -> Result<(), NetError> {
        if !self.doorbell.give(Notice::Close(socket)) {
            self.stub().close(deadline, socket)?;
        }
        self.keep(deadline, pair)
    }

    /// Offers a pair to a listener.
    ///
    /// Errors: Call.
    pub(super) fn offer(
        &self,
        deadline: Deadline,
        listener: Socket,
        rings: RingPair,
    ) -> Result<(), NetError> {
        let offer = Notice::Offer { listener, rings };
        if !self.doorbell.give(offer) {
            // A call has the notices taken first.
            self.stub().status(deadline, listener)?;
            // One that is full still is broken, and the session with it.
            let _ = self.doorbell.give(offer);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::pairs_that_fit;

    #[test]
    fn the_pairs_that_lie_ready_follow_the_memory() {
        for (quota, ring_bytes, pairs) in [
            (0, 4096, 1),
            (3 << 20, 32 * 1024, 2),
            (8 << 20, 32 * 1024, 7),
            (32 << 20, 4096, 32),
        ] {
            assert_eq!(pairs_that_fit(quota, ring_bytes), pairs, "{quota}");
        }
    }
}
