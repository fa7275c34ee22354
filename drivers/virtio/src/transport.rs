//! What this library asks of a transport beyond `virtio-drivers`' trait: which
//! interrupts it raises, and what went wrong in calls that have no result.

use virtio_drivers::transport::Transport;

use crate::VirtioError;

/// "No vector" in a vector register (VIRTIO 1.2, section 4.1.5.1.2).
pub(crate) const NO_VECTOR: u16 = 0xffff;

/// Number of the interrupt cause "configuration change".
pub(crate) const CONFIGURATION_CAUSE: u16 = 0;

/// Number of a queue's interrupt cause: they follow the configuration's.
pub(crate) fn queue_cause(queue: u16) -> u16 {
    queue.saturating_add(1)
}

/// A transport of a virtio device.
pub trait VirtioTransport: Transport {
    /// Tells the device the vector of its configuration changes. The queues' are told when they are
    /// set up, and a reset forgets them all.
    fn route_configuration_interrupt(&mut self);
    /// The first failure since the last reset in an operation that has no result of its own.
    fn failure(&self) -> Option<VirtioError>;
    /// Forgets failures and queues, as the device does at a reset.
    fn forget(&mut self);
}
