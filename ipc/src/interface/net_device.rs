//! A network card: packet rings to one network stack.

use super::{interface, service_errors};
use crate::Rights;
use serde::{Deserialize, Serialize};

/// Feature: the device fills in the checksum of what is sent.
pub const FEATURE_TX_CHECKSUM: u32 = 1 << 0;
/// Feature: the device has verified the checksum of what it received.
pub const FEATURE_RX_CHECKSUM: u32 = 1 << 1;
/// Feature: the device's link state is known.
pub const FEATURE_LINK_STATE: u32 = 1 << 2;

/// Number of rings between network stack and driver.
pub const RINGS: usize = 4;
/// Position of the ring of empty buffers, network stack to driver.
pub const RING_RECEIVE_FREE: usize = 0;
/// Position of the ring of received packets, driver to network stack.
pub const RING_RECEIVED: usize = 1;
/// Position of the ring of packets to send, network stack to driver.
pub const RING_TRANSMIT: usize = 2;
/// Position of the ring of packets sent, driver to network stack: the buffers come back.
pub const RING_TRANSMITTED: usize = 3;

/// What the network stack shares with the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Geometry {
    /// Size of the packet pool in bytes.
    pub pool_bytes: u64,
    /// Entries of each of the four rings, a power of two from 16 to 4,096.
    pub ring_entries: u32,
    /// Size of one packet buffer in bytes, 2,048 to 65,536; a descriptor lies within one buffer.
    pub buffer_bytes: u32,
    /// Bytes before the packet in each buffer that are the driver's for its header, 0 to 64.
    pub headroom_bytes: u32,
}

/// What the card is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    /// Ethernet address.
    pub mac: [u8; 6],
    /// Largest packet without its Ethernet header, in bytes.
    pub mtu: u16,
    /// The `FEATURE_` bits.
    pub features: u32,
    /// The bits to signal on the doorbell when a ring asks for it.
    pub doorbell_bits: u64,
}

/// The state of the cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Link {
    /// Connected, or the device does not tell.
    Up,
    /// Not connected.
    Down,
}

/// The card's counters since its driver started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Packets received.
    pub received_packets: u64,
    /// Bytes received, Ethernet headers included.
    pub received_bytes: u64,
    /// Packets received and dropped: no buffer, or malformed.
    pub received_dropped: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Bytes sent, Ethernet headers included.
    pub sent_bytes: u64,
    /// Descriptors refused: out of the pool, or too long.
    pub refused_descriptors: u64,
    /// Interrupts taken.
    pub interrupts: u64,
    /// Times the device was notified.
    pub kicks: u64,
}

interface! {
    /// A network card. One session at a time is attached. The packet pool and the rings are the
    /// network stack's own memory: when the driver dies they stay, and are attached again to the
    /// next instance.
    NetDevice = 5, client NetDeviceClient, server NetDeviceServer, error NetDeviceError;

    /// Attaches packet rings and starts the card.
    ///
    /// Arguments: `geometry`; `bits` what the driver signals on `bell`. Handles: `pool` contiguous
    /// memory of the packets; `rings` memory with the four packet rings one after another, each
    /// `ring::packet_ring_bytes(ring_entries)` long, initialised by the network stack; `bell` the
    /// network stack's notification; `lifeline` a badged send right of the network stack's own
    /// endpoint, which the driver keeps as long as the session and never uses: when the driver dies,
    /// the kernel closes it and tells the network stack so. Result: what the card is; `doorbell` the driver's
    /// notification. Errors: NoCard, Busy (another session is attached), OutOfRange, DeviceFailed,
    /// Kernel.
    /// Cost: one call, three mappings and the device's reset.
    ///
    /// A network stack that corrupts a ring is detached and its session ended. A descriptor out of
    /// the pool is counted in `refused_descriptors` and not used.
    ///
    /// Example: `let (card, doorbell) = device.attach(deadline, geometry, 1, pool, rings, bell,
    /// lifeline)?;`
    1 fn attach(geometry: Geometry, bits: u64) [
        pool: copied(Rights::ALL),
        rings: copied(Rights::READ | Rights::WRITE),
        bell: copied(Rights::SIGNAL),
        lifeline: moved(Rights::SEND),
    ] -> Attached [doorbell: copied(Rights::SIGNAL)];

    /// Stops the card and lets pool and rings go.
    ///
    /// Arguments: none. Result: none; the device does not touch the pool any more. Errors:
    /// NotAttached. Cost: one call and the device's reset.
    ///
    /// Example: `device.detach(deadline)?;`
    2 fn detach() -> ();

    /// Tells the counters.
    ///
    /// Arguments: none. Result: the counters. Errors: none of its own. Cost: one call.
    ///
    /// Example: `let dropped = device.statistics(deadline)?.received_dropped;`
    3 fn statistics() -> Statistics;

    /// Tells the state of the link.
    ///
    /// Arguments: none. Result: the state. Errors: none of its own. Cost: one call and one access
    /// to the device. A change is signalled on the network stack's `bell`.
    ///
    /// Example: `let up = device.link(deadline)? == Link::Up;`
    4 fn link() -> Link;

    /// Tells how many cards of the driver's kind the machine has. The driver drives one of them; the
    /// others are not used.
    ///
    /// Arguments: none. Result: the number. Errors: none of its own. Cost: one call.
    ///
    /// Example: `let unused = device.cards(deadline)?.saturating_sub(1);`
    5 fn cards() -> u16;
}

service_errors! {
    /// The card's own errors.
    NetDeviceError {
        /// Another session is attached.
        Busy = "another session is attached to the card",
        /// This session is not attached.
        NotAttached = "this session is not attached to the card",
        /// An argument is out of its documented range, or memory is too small for it.
        OutOfRange = "an argument is out of range",
        /// The device did not come up, or stopped working.
        DeviceFailed = "the device does not work",
        /// The kernel or pci refused the driver what the operation needs.
        Kernel = "the system refused what the operation needs",
        /// The machine has no card of the driver's kind.
        NoCard = "there is no card for this driver",
    }
}
