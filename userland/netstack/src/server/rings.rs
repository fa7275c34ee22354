//! The pairs of rings that a session shares: mapped once, used by one connection after another. Which of
//! them a connection gets is said by its client, in a call or by an offer ([`super::notices`]).
//!
//! A pair is handed over empty. The server writes its rings' counts anew when a connection gets it, and
//! tells the client only then; the client wrote to it for the last time before it closed the connection
//! that had it, which the server has taken note of. So no side reads what the other wrote for an earlier
//! connection. A client that writes all the same corrupts a ring of its own.

use alloc::vec::Vec;

use ipc::Handle;
use ipc::interface::network::{
    GRANT_CONNECT, GRANT_LISTEN, NetworkError, RingPair, Socket, StreamGeometry,
};
use ipc::ring::{RingError, SharedMemory, StreamConsumer, StreamPair, StreamProducer};

use super::operations::Result;
use super::session::Endpoint;
use super::{Server, System};

/// Who has a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    /// Nobody: the client may name it.
    Nobody,
    /// This listener is offered it.
    Listener(Socket),
    /// A connection.
    Connection,
}

/// A pair that is shared.
struct Shared<M> {
    memory: M,
    capacity: u32,
    holder: Holder,
}

/// A pair that a connection is to have.
pub(super) struct Taken<M> {
    pub(super) number: RingPair,
    pub(super) capacity: u32,
    memory: M,
}

impl<M: SharedMemory + Clone> Taken<M> {
    /// Empties the rings and takes the server's side of them.
    ///
    /// Errors: Geometry.
    pub(super) fn hand_over(
        &self,
    ) -> core::result::Result<(StreamConsumer<M>, StreamProducer<M>), RingError> {
        StreamPair::reset(&self.memory, self.capacity)?;
        StreamPair::peer(self.memory.clone(), self.capacity)
    }
}

/// The pairs of a session, each at the place that its number says.
pub(super) struct Pairs<M>(Vec<Option<Shared<M>>>);

impl<M: SharedMemory + Clone> Pairs<M> {
    pub(super) fn new() -> Pairs<M> {
        Pairs(Vec::new())
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.iter().flatten().count()
    }

    /// Adds a pair under the first number that is free.
    fn add(&mut self, memory: M, capacity: u32) -> RingPair {
        let place = self.0.iter().position(Option::is_none);
        let place = place.unwrap_or(self.0.len());
        if place == self.0.len() {
            self.0.push(None);
        }
        if let Some(free) = self.0.get_mut(place) {
            *free = Some(Shared {
                memory,
                capacity,
                holder: Holder::Nobody,
            });
        }
        // There are never as many as would not fit.
        RingPair(u32::try_from(place).unwrap_or(u32::MAX))
    }

    fn get(&mut self, pair: RingPair) -> Result<&mut Shared<M>> {
        let place = usize::try_from(pair.0).unwrap_or(usize::MAX);
        let shared = self.0.get_mut(place).and_then(Option::as_mut);
        shared.ok_or(NetworkError::NoSuchRings)
    }

    /// Changes hands; RingsInUse where another one than `from` has it.
    fn pass(&mut self, pair: RingPair, from: Holder, to: Holder) -> Result<Taken<M>> {
        let shared = self.get(pair)?;
        if shared.holder != from {
            return Err(NetworkError::RingsInUse);
        }
        shared.holder = to;
        Ok(Taken {
            number: pair,
            capacity: shared.capacity,
            memory: shared.memory.clone(),
        })
    }

    /// Takes a pair that nobody has for a connection.
    ///
    /// Errors: NoSuchRings, RingsInUse.
    pub(super) fn take(&mut self, pair: RingPair) -> Result<Taken<M>> {
        self.pass(pair, Holder::Nobody, Holder::Connection)
    }

    /// Takes a pair that a listener is offered for a connection.
    ///
    /// Errors: NoSuchRings, RingsInUse.
    pub(super) fn take_offered(&mut self, pair: RingPair, listener: Socket) -> Result<Taken<M>> {
        self.pass(pair, Holder::Listener(listener), Holder::Connection)
    }

    /// Notes that a pair that nobody has is offered to a listener.
    ///
    /// Errors: NoSuchRings, RingsInUse.
    pub(super) fn offer(&mut self, pair: RingPair, listener: Socket) -> Result<()> {
        self.pass(pair, Holder::Nobody, Holder::Listener(listener))
            .map(drop)
    }

    /// Nobody has the pair any more.
    pub(super) fn release(&mut self, pair: RingPair) {
        if let Ok(shared) = self.get(pair) {
            shared.holder = Holder::Nobody;
        }
    }

    /// Lets go of a pair and tells the listener that was offered it.
    ///
    /// Errors: NoSuchRings, RingsInUse where a connection has it.
    fn remove(&mut self, pair: RingPair) -> Result<Option<Socket>> {
        let listener = match self.get(pair)?.holder {
            Holder::Nobody => None,
            Holder::Listener(listener) => Some(listener),
            Holder::Connection => return Err(NetworkError::RingsInUse),
        };
        let place = usize::try_from(pair.0).unwrap_or(usize::MAX);
        if let Some(shared) = self.0.get_mut(place) {
            *shared = None;
        }
        Ok(listener)
    }
}

impl<S: System> Server<S> {
    /// Shares a pair of a client's that may have connections; the handle is used up whatever comes.
    pub(super) fn share_rings(
        &mut self,
        badge: u64,
        geometry: StreamGeometry,
        rings: Handle,
    ) -> Result<RingPair> {
        let (memory, capacity) = self.map_rings(geometry, rings)?;
        self.attached(badge)?;
        self.permitted(badge, GRANT_CONNECT)
            .or_else(|_| self.permitted(badge, GRANT_LISTEN))?;
        if !self.stack.charge_rings(badge) {
            return Err(NetworkError::Exhausted);
        }
        Ok(self.session(badge)?.rings.add(memory, capacity))
    }

    /// Takes a client's pair back, out of a listener's offers too.
    pub(super) fn unshare_rings(&mut self, badge: u64, pair: RingPair) -> Result<()> {
        let session = self.session(badge)?;
        let listener = session.rings.remove(pair)?;
        if let Some(Endpoint::Listener { offers, .. }) =
            listener.and_then(|listener| session.sockets.get_mut(&listener))
        {
            offers.retain(|offered| *offered != pair);
        }
        self.stack.refund_rings(badge, 1);
        Ok(())
    }
}
