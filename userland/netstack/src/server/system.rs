//! What the server needs of the system around it: the kernel's objects and the driver's session. The
//! task has them from the runtime library, a test fakes them.

use ipc::ring::SharedMemory;
use ipc::server::Outgoing;
use ipc::{Error, Handle};

use crate::packets::Shape;
use crate::stack::Card;
use crate::time::Nanoseconds;

/// A driver that took the packet rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// What the card is.
    pub card: Card,
    /// The session; it ends when this is closed.
    pub session: Handle,
    /// The driver's notification.
    pub doorbell: Handle,
    /// What to signal there.
    pub bits: u64,
}

/// Why a driver was not attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It has no card, or none that works, or will not be started any more.
    NoCard,
    /// It is not there yet, or busy.
    NotYet,
}

/// The system around the server.
pub trait System {
    /// Memory shared with another task; what is mapped goes with its last clone.
    type Memory: SharedMemory + Clone;

    /// Nanoseconds of the monotonic clock.
    fn now(&self) -> Nanoseconds;

    /// Maps memory of at least `bytes` that a client sent, and takes its handle over.
    ///
    /// Errors: the kernel's; InvalidArgument where it is smaller.
    fn map(&self, memory: Handle, bytes: usize) -> Result<Self::Memory, Error>;

    /// The server's own notification, to be copied to those who shall wake it.
    fn bell(&self) -> Handle;

    /// Signals a notification. That its owner is gone is told elsewhere.
    fn signal(&self, notification: Handle, bits: u64);

    /// Closes a handle.
    fn close(&self, handle: Handle);

    /// Answers a call that was stashed.
    fn reply(&self, to: Handle, outgoing: &Outgoing<'_>);

    /// Number of drivers that may have a card, in the order in which they are asked.
    fn drivers(&self) -> usize;

    /// A driver's name, by its place in that order.
    fn driver_name(&self, driver: usize) -> &str;

    /// Connects to this driver and gives it pool and rings, a bell with the bits `bits`, and a send
    /// right with the badge `lifeline`. Takes a tenth of a second at most while the driver is not
    /// there.
    fn attach(
        &self,
        driver: usize,
        shape: Shape,
        bits: u64,
        lifeline: u64,
    ) -> Result<Attachment, Refusal>;

    /// How many cards the machine has for this driver; `None` where it does not answer yet, which is
    /// waited for as in [`System::attach`].
    fn cards(&self, driver: usize) -> Option<u16>;

    /// Whether the cable is connected, as the driver of this session says.
    fn link_up(&self, session: Handle) -> bool;

    /// Says something to the log.
    fn log(&self, line: core::fmt::Arguments<'_>);
}
