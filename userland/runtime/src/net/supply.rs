//! Where pairs of rings come from, and how the network stack hears what becomes of them.

use super::NetError;
use super::doorbell::Doorbell;
use crate::clock;
use crate::mapping::{Mapping, SharedMapping};
use crate::memory::Memory;
use crate::transport::Kernel;
use alloc::rc::Rc;
use ipc::Handle;
use ipc::client::{CallError, Deadline};
use ipc::interface::network::{
    NetworkClient, NetworkError, Notice, RingPair, Socket, StreamGeometry,
};
use ipc::ring::StreamPair;

/// What a [`super::Pool`] asks of the kernel and the network stack.
pub trait Supply {
    /// Memory that is shared with the network stack.
    type Memory;

    /// The monotonic clock, in nanoseconds.
    fn now(&self) -> u64;

    /// Shares memory for a pair of rings of this capacity.
    ///
    /// Errors: Kernel, where this task has no memory for it; Call, where the network stack refuses.
    fn share(
        &self,
        deadline: Deadline,
        ring_bytes: u32,
    ) -> Result<(RingPair, Self::Memory), NetError>;

    /// Takes a pair back from the network stack.
    ///
    /// Errors: those of the interface's `unshare`.
    fn unshare(&self, deadline: Deadline, rings: RingPair) -> Result<(), CallError<NetworkError>>;

    /// Offers a pair to a listener, without a call where there is room for a notice.
    ///
    /// Errors: Call.
    fn offer(&self, deadline: Deadline, listener: Socket, rings: RingPair) -> Result<(), NetError>;

    /// Closes a connection, without a call where there is room for a notice.
    ///
    /// Errors: Call.
    fn close(&self, deadline: Deadline, socket: Socket) -> Result<(), NetError>;
}

/// A session with the network stack, and its doorbell. The session is borrowed: closing is its owner's.
#[derive(Debug)]
pub struct Supplier {
    session: Handle,
    pub(super) doorbell: Rc<Doorbell>,
}

impl Supplier {
    pub(super) const fn new(session: Handle, doorbell: Rc<Doorbell>) -> Supplier {
        Supplier { session, doorbell }
    }

    fn stub(&self) -> NetworkClient<Kernel> {
        NetworkClient::new(Kernel, self.session)
    }
}

impl Supply for Supplier {
    type Memory = SharedMapping;

    fn now(&self) -> u64 {
        clock::now()
    }

    fn share(
        &self,
        deadline: Deadline,
        ring_bytes: u32,
    ) -> Result<(RingPair, SharedMapping), NetError> {
        // The mapping keeps the frames; the handle is closed at the end of this function.
        let memory = Memory::create(StreamPair::bytes_needed(ring_bytes) as u64)?;
        let mapping = Mapping::shared(&memory)?;
        let geometry = StreamGeometry { ring_bytes };
        let number = self.stub().share(deadline, geometry, memory.handle())?;
        Ok((number, mapping))
    }

    fn unshare(&self, deadline: Deadline, rings: RingPair) -> Result<(), CallError<NetworkError>> {
        self.stub().unshare(deadline, rings)
    }

    fn offer(&self, deadline: Deadline, listener: Socket, rings: RingPair) -> Result<(), NetError> {
        let offer = Notice::Offer { listener, rings };
        if !self.doorbell.give(offer) {
            // A call has the notices taken first.
            self.stub().status(deadline, listener)?;
            // A ring that is full still is broken, and the session with it.
            let _ = self.doorbell.give(offer);
        }
        Ok(())
    }

    fn close(&self, deadline: Deadline, socket: Socket) -> Result<(), NetError> {
        match self.doorbell.give(Notice::Close(socket)) {
            true => Ok(()),
            false => Ok(self.stub().close(deadline, socket)?),
        }
    }
}
