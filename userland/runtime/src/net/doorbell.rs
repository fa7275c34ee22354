//! How the network stack hears of what its application did: the ring of notices, and its notification, which
//! is signalled once for all of them, as the application comes to wait.

use crate::mapping::SharedMapping;
use core::cell::{Cell, RefCell};
use ipc::Handle;
use ipc::interface::network::{DoorbellBits, Notice, Socket};
use ipc::ring::PacketProducer;

/// The network stack's doorbell, as one session rings it. The notification is borrowed: closing is its
/// owner's.
#[derive(Debug)]
pub struct Doorbell {
    notification: Handle,
    bits: DoorbellBits,
    /// What is to be signalled.
    rung: Cell<u64>,
    notices: Option<RefCell<PacketProducer<SharedMapping>>>,
}

impl Doorbell {
    /// A doorbell with these bits, and the session's ring of notices. Without a ring the network stack looks
    /// at all sockets.
    pub fn new(
        notification: Handle,
        bits: DoorbellBits,
        notices: Option<PacketProducer<SharedMapping>>,
    ) -> Doorbell {
        Doorbell {
            notification,
            bits,
            rung: Cell::new(0),
            notices: notices.map(RefCell::new),
        }
    }

    /// The network stack sleeps on one of this socket's rings and is to look.
    pub fn touch(&self, socket: Socket) {
        if !self.give(Notice::Touched(socket)) {
            self.rung.set(self.rung.get() | self.bits.all);
        }
    }

    /// Gives a notice; false where the ring has no room for it. Any call of the session's makes room: the
    /// network stack takes the notices before.
    #[must_use]
    pub fn give(&self, notice: Notice) -> bool {
        let given = self.notices.as_ref().is_some_and(|notices| {
            // Of a ring that the network stack has corrupted the session's end tells.
            notices.borrow_mut().push(notice.into()) == Ok(true)
        });
        if given {
            self.ring();
        }
        given
    }

    /// The network stack is to take the notices, and to look whether the ring of events has room.
    pub fn ring(&self) {
        self.rung.set(self.rung.get() | self.bits.touched);
    }

    /// What to signal, if it was rung since this was last asked: by the call that waits
    /// ([`crate::endpoint::signal_receive`]).
    pub fn take(&self) -> Option<(Handle, u64)> {
        let bits = self.rung.take();
        (bits != 0).then_some((self.notification, bits))
    }
}
