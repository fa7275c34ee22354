//! What this library asks of a transport beyond `virtio-drivers`' trait: where a queue's rings are,
//! which interrupts it raises, and what went wrong in calls that have no result.

use alloc::vec::Vec;

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

/// Physical addresses of a queue's driver and device areas (VIRTIO 1.2, section 2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingAddresses {
    /// The available ring.
    pub driver: u64,
    /// The used ring.
    pub device: u64,
}

/// A transport of a virtio device.
pub trait VirtioTransport: Transport {
    /// Where the rings of a queue that was set up are.
    fn rings(&self, queue: u16) -> Option<RingAddresses>;
    /// Tells the device the vector of its configuration changes. The queues' are told when they are
    /// set up, and a reset forgets them all.
    fn route_configuration_interrupt(&mut self);
    /// The first failure since the last reset in an operation that has no result of its own.
    fn failure(&self) -> Option<VirtioError>;
    /// Forgets failures and rings, as the device does at a reset.
    fn forget(&mut self);
}

/// Notes a queue's rings in a table that grows with the queue numbers.
pub(crate) fn remember_rings(
    table: &mut Vec<Option<RingAddresses>>,
    queue: u16,
    rings: RingAddresses,
) {
    let index = usize::from(queue);
    if table.len() <= index {
        table.resize(index + 1, None);
    }
    table[index] = Some(rings);
}
