//! The pairs of rings that a listener is offered, so that its connections are accepted as they come.
//!
//! One is offered at first. When a connection comes that finds none, twice as many are from then on, as far
//! as memory allows: a listener that is called seldom keeps little memory.

use super::NetError;
use super::pool::{Pair, Pool};
use alloc::vec::Vec;
use ipc::client::Deadline;
use ipc::interface::network::{RingPair, Socket};

/// What a listener is offered.
#[derive(Debug)]
pub struct Offers {
    listener: Socket,
    ring_bytes: u32,
    offered: Vec<Pair>,
    /// How many are to be offered.
    wanted: usize,
}

impl Offers {
    /// Nothing offered yet. `ring_bytes` is the capacity of each of a connection's two rings, a power of two
    /// from 4,096 to 1,048,576.
    pub fn new(listener: Socket, ring_bytes: u32) -> Offers {
        Offers {
            listener,
            ring_bytes,
            offered: Vec::new(),
            wanted: 1,
        }
    }

    /// The listener.
    pub const fn listener(&self) -> Socket {
        self.listener
    }

    /// Connections come faster than pairs are offered: more are to be.
    pub fn grow(&mut self, pool: &Pool) {
        self.wanted = (2 * self.wanted).min(pool.pairs_ready(self.ring_bytes));
    }

    /// Offers pairs of the pool until as many are offered as is of use, and at most `room`.
    ///
    /// Errors: Kernel, where this task has no memory for another one; Call, where the network stack refuses.
    pub fn fill(
        &mut self,
        pool: &mut Pool,
        deadline: Deadline,
        room: usize,
    ) -> Result<(), NetError> {
        while self.offered.len() < self.wanted.min(room) {
            let pair = pool.take(deadline, self.ring_bytes)?;
            pool.offer(deadline, self.listener, pair.number())?;
            self.offered.push(pair);
        }
        Ok(())
    }

    /// The pair with this number, which a connection has now; `None` where the listener is not offered it.
    pub fn take(&mut self, number: RingPair) -> Option<Pair> {
        let place = self
            .offered
            .iter()
            .position(|pair| pair.number() == number)?;
        Some(self.offered.swap_remove(place))
    }
}
