//! Feature bits that are the same for every kind of device (VIRTIO 1.2, section 6 and, for those of
//! legacy devices, 6.3). A kind's own bits are its driver's.

/// Any layout of descriptors is good, a header may share one with data (legacy; section 6.3).
pub const ANY_LAYOUT: u64 = 1 << 27;
/// `used_event` and `avail_event` are used (VIRTIO_F_EVENT_IDX, section 2.7.10).
pub const EVENT_INDEX: u64 = 1 << 29;
/// The device follows version 1 of the specification (VIRTIO_F_VERSION_1, section 6).
pub const VERSION_1: u64 = 1 << 32;
