//! What this library asks of a transport beyond `virtio-drivers`' trait: where a queue's rings are,
//! which interrupts it raises, and what went wrong in calls that have no result.

use alloc::vec::Vec;

use virtio_drivers::transport::Transport;

use crate::VirtioError;

/// "No vector" in a vector register (VIRTIO 1.2, section 4.1.5.1.2).
pub(crate) const NO_VECTOR: u16 = 0xffff;

/// How a device tells that it has something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptMode {
    /// By its line; taking the causes, from the ISR status or the interrupt status, lowers it.
    Line,
    /// By MSI-X, with this many vectors (at least 1): the first for configuration changes, the
    /// following ones for the queues in order; the last serves all that remain.
    Message {
        /// Number of vectors that pci has set up.
        vectors: u16,
    },
}

impl InterruptMode {
    /// The vector of configuration changes.
    pub(crate) fn configuration_vector(self) -> Option<u16> {
        match self {
            InterruptMode::Line => None,
            InterruptMode::Message { .. } => Some(0),
        }
    }

    /// The vector of a queue.
    pub fn queue_vector(self, queue: u16) -> Option<u16> {
        match self {
            InterruptMode::Line => None,
            InterruptMode::Message { vectors } => {
                Some(queue.saturating_add(1).min(vectors.saturating_sub(1)))
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use super::InterruptMode;

    #[test]
    fn queues_share_the_last_vector_when_vectors_are_few() {
        assert_eq!(InterruptMode::Line.queue_vector(0), None);
        let vector = |vectors, queue| InterruptMode::Message { vectors }.queue_vector(queue);
        assert_eq!((vector(1, 0), vector(1, 1)), (Some(0), Some(0)));
        assert_eq!((vector(2, 0), vector(2, 1)), (Some(1), Some(1)));
        assert_eq!(
            (vector(3, 0), vector(3, 1), vector(3, 2)),
            (Some(1), Some(2), Some(2))
        );
    }
}
