//! What can go wrong between a driver and a virtio device. None of it is a panic: a device that
//! breaks the rules is reset, and the error says which rule it was.

use pci_function::OutOfDmaMemory;

/// Why an operation on a virtio device failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VirtioError {
    /// The device did not read back as reset in the time it has.
    ResetTimedOut,
    /// The device refused the features chosen (it cleared FEATURES_OK).
    FeaturesRefused,
    /// The device offers no VERSION_1 over a modern transport, or its memory-mapped registers are
    /// those of version 1.
    NotModern,
    /// The device has no such queue.
    NoQueue,
    /// The device's queue size is not a power of two from 16 to 4,096.
    QueueSize,
    /// The device set the queue up already, although it was reset.
    QueueInUse,
    /// A capability's range is missing or does not lie in its BAR, or no such device is behind the
    /// registers.
    BadWindow,
    /// The device did not take the interrupt vector.
    VectorRefused,
    /// The queue's memory lies where the device cannot reach it.
    OutOfReach,
    /// No DMA memory is left.
    OutOfDmaMemory,
    /// The buffer has no segments, or more bytes than a descriptor can tell.
    BadBuffer,
    /// The queue has no room for the buffer.
    QueueFull,
    /// The device returned a buffer that it does not hold.
    UnknownBuffer,
    /// The device says that it has returned more than it holds.
    RingChanged,
    /// The device refused a command, or did not answer it in the time it has.
    NotAcknowledged,
    /// What the device wrote before a packet cannot be.
    BadHeader,
    /// The device has no configuration field there.
    NoConfiguration,
}

impl From<OutOfDmaMemory> for VirtioError {
    fn from(OutOfDmaMemory: OutOfDmaMemory) -> VirtioError {
        VirtioError::OutOfDmaMemory
    }
}
