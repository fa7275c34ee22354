//! Pairs of rings that are shared with the network stack, and go from one connection to the next.

use super::NetError;
use super::doorbell::Doorbell;
use super::supply::{Supplier, Supply};
use crate::mapping::SharedMapping;
use crate::start::own_task;
use crate::task;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::sync::atomic::AtomicU32;
use ipc::Handle;
use ipc::client::{CallError, Deadline};
use ipc::interface::network::{NetworkError, RingPair, Socket};
use ipc::ring::{SharedMemory, StreamPair};

/// Most pairs kept for the next connections, and offered to a listener.
const MOST: usize = 32;
/// Part of the own memory that either may take, as a divisor.
const PART: u64 = 16;
/// How long after a refusal none is asked for ahead, in nanoseconds.
const RETRY: u64 = 100_000_000;

/// A pair of stream rings that the network stack has mapped.
#[derive(Clone, Debug)]
pub struct Pair<M = SharedMapping> {
    number: RingPair,
    ring_bytes: u32,
    memory: M,
}

impl<M> Pair<M> {
    /// The pair, as the interface names it.
    pub const fn number(&self) -> RingPair {
        self.number
    }

    /// Capacity of each ring in bytes.
    pub const fn ring_bytes(&self) -> u32 {
        self.ring_bytes
    }
}

impl<M: SharedMemory> SharedMemory for Pair<M> {
    fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    fn words<const N: usize>(&self, first: usize) -> Option<&[AtomicU32; N]> {
        self.memory.words(first)
    }

    fn read(&self, offset: usize, into: &mut [u8]) -> Option<()> {
        self.memory.read(offset, into)
    }

    fn write(&self, offset: usize, from: &[u8]) -> Option<()> {
        self.memory.write(offset, from)
    }
}

/// There was no further pair, and why.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    error: NetError,
    /// Pairs of this capacity, and larger ones.
    ring_bytes: u32,
    /// Until when to count on that, in nanoseconds of the monotonic clock.
    until: u64,
}

/// A session's pairs that no connection uses. What is taken from it is brought back by [`Pool::keep`] or
/// [`Pool::close`].
#[derive(Debug)]
pub struct Pool<S: Supply = Supplier> {
    supply: S,
    /// What memory this task may use, in bytes.
    quota: u64,
    spare: Vec<Pair<S::Memory>>,
    /// The last refusal.
    refused: Option<Refusal>,
    /// A pair came back since.
    came_back: bool,
}

impl Pool {
    /// An empty pool of a session, which is borrowed: closing is its owner's.
    pub fn new(session: Handle, doorbell: Rc<Doorbell>) -> Pool {
        let quota = task::info(own_task()).map_or(0, |info| info.quota_bytes);
        Pool::with(Supplier::new(session, doorbell), quota)
    }

    /// How its session gives notices.
    pub const fn doorbell(&self) -> &Rc<Doorbell> {
        &self.supply.doorbell
    }
}

impl<S: Supply> Pool<S> {
    /// An empty pool in a task that may use so many bytes of memory.
    pub(super) const fn with(supply: S, quota: u64) -> Pool<S> {
        Pool {
            supply,
            quota,
            spare: Vec::new(),
            refused: None,
            came_back: false,
        }
    }

    /// How many pairs of this capacity may lie ready, by the memory that this task may use: 1 to 32.
    pub fn pairs_ready(&self, ring_bytes: u32) -> usize {
        let fit = self.quota / PART / StreamPair::bytes_needed(ring_bytes) as u64;
        usize::try_from(fit).unwrap_or(MOST).clamp(1, MOST)
    }

    /// A pair for a connection: one that is spare, or a new one. `ring_bytes` is the capacity of each of the
    /// two rings, a power of two from 4,096 to 1,048,576.
    ///
    /// Errors: Kernel, where this task has no memory for it; Call, where the network stack refuses.
    pub fn take(
        &mut self,
        deadline: Deadline,
        ring_bytes: u32,
    ) -> Result<Pair<S::Memory>, NetError> {
        match self.take_spare(ring_bytes) {
            Some(pair) => Ok(pair),
            None => self.share(deadline, ring_bytes, true),
        }
    }

    fn take_spare(&mut self, ring_bytes: u32) -> Option<Pair<S::Memory>> {
        let fits = |pair: &Pair<S::Memory>| pair.ring_bytes == ring_bytes;
        let place = self.spare.iter().rposition(fits)?;
        Some(self.spare.swap_remove(place))
    }

    /// As [`Pool::take`], for a connection that is still to come. Where there was no new pair just now, none is
    /// asked for until [`Pool::refused_until`]; where one is needed, until one comes back. Spare ones of other
    /// sizes make room for one that is needed only.
    ///
    /// Errors: Kernel, Call, also of that time.
    pub(super) fn take_ahead(
        &mut self,
        deadline: Deadline,
        ring_bytes: u32,
        needed: bool,
    ) -> Result<Pair<S::Memory>, NetError> {
        if let Some(pair) = self.take_spare(ring_bytes) {
            return Ok(pair);
        }
        if let Some(refusal) = self.refused
            && ring_bytes >= refusal.ring_bytes
            && self.supply.now() < refusal.until
            && !(needed && self.came_back)
        {
            return Err(refusal.error);
        }
        self.share(deadline, ring_bytes, needed)
    }

    /// Until when no pair is asked for ahead, in nanoseconds of the monotonic clock.
    pub fn refused_until(&self) -> Option<u64> {
        self.refused.map(|refusal| refusal.until)
    }

    /// Has pairs asked for at once that were refused just now.
    pub(super) const fn forget_refusal(&mut self) {
        self.refused = None;
    }

    /// A new pair; where there is no room for one that is needed, spare ones, which are of other sizes, make
    /// some.
    fn share(
        &mut self,
        deadline: Deadline,
        ring_bytes: u32,
        needed: bool,
    ) -> Result<Pair<S::Memory>, NetError> {
        let mut shared = self.supply.share(deadline, ring_bytes);
        if shared.is_err() && needed && !self.spare.is_empty() {
            for pair in core::mem::take(&mut self.spare) {
                self.supply.unshare(deadline, pair.number)?;
            }
            shared = self.supply.share(deadline, ring_bytes);
        }
        match &shared {
            Err(error) => {
                self.refused = Some(Refusal {
                    error: *error,
                    ring_bytes,
                    until: self.supply.now() + RETRY,
                });
                self.came_back = false;
            }
            Ok(_) => self.refused = self.refused.filter(|old| ring_bytes < old.ring_bytes),
        }
        shared.map(|(number, memory)| Pair {
            number,
            ring_bytes,
            memory,
        })
    }

    fn is_back(&mut self) {
        self.came_back = true;
    }

    /// Keeps a pair that no connection uses any more for the next one, or gives it back where enough are
    /// kept.
    ///
    /// Errors: Call.
    pub fn keep(&mut self, deadline: Deadline, pair: Pair<S::Memory>) -> Result<(), NetError> {
        self.is_back();
        let alike = |spare: &&Pair<S::Memory>| spare.ring_bytes == pair.ring_bytes;
        if self.spare.iter().filter(alike).count() < self.pairs_ready(pair.ring_bytes) {
            self.spare.push(pair);
            return Ok(());
        }
        Ok(self.supply.unshare(deadline, pair.number)?)
    }

    /// Closes a connection and keeps its pair, which must not be written to any more.
    ///
    /// Errors: Call.
    pub fn close(
        &mut self,
        deadline: Deadline,
        socket: Socket,
        pair: Pair<S::Memory>,
    ) -> Result<(), NetError> {
        self.supply.close(deadline, socket)?;
        self.keep(deadline, pair)
    }

    /// Offers a pair to a listener.
    ///
    /// Errors: Call.
    pub(super) fn offer(
        &self,
        deadline: Deadline,
        listener: Socket,
        pair: &Pair<S::Memory>,
    ) -> Result<(), NetError> {
        self.supply.offer(deadline, listener, pair.number)
    }

    /// Gives back a pair that a listener is offered; the pair, where a connection has it by now.
    ///
    /// Errors: Call.
    pub(super) fn withdraw(
        &mut self,
        deadline: Deadline,
        pair: Pair<S::Memory>,
    ) -> Result<Option<Pair<S::Memory>>, NetError> {
        match self.supply.unshare(deadline, pair.number) {
            Ok(()) => self.is_back(),
            Err(CallError::Service(NetworkError::RingsInUse)) => return Ok(Some(pair)),
            Err(error) => return Err(error.into()),
        }
        Ok(None)
    }
}
