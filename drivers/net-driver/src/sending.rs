//! Which packets a card sends for its network stack: where they may lie, how long they may be, and what
//! the device may be asked to do with them.

use ipc::interface::net_device::{
    FEATURE_SEGMENT_IPV4, FEATURE_SEGMENT_IPV6, FEATURE_SEND_CHECKSUM, Geometry, MAX_PACKET_BYTES,
    SendOffload,
};
use ipc::ring::Descriptor;
use pci_function::Area;

use crate::device::Device;
use crate::ethernet;

/// Packets with the device that are many, however many a ring has room for.
const MANY: usize = 64;

/// Why a packet is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It does not lie whole where packets to send lie, or not with the headroom before it.
    Place,
    /// It is too short or too long.
    Length,
    /// Its flags mean nothing, or ask for what does not hold.
    Offload,
}

/// The rules of one attachment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sending {
    /// Offset in the pool from which packets may begin.
    first: u64,
    /// Offset at which they end at the latest.
    end: u64,
    /// Bytes of the device's header.
    header: usize,
    /// Bytes of the longest packet that is sent as it is.
    largest: usize,
    /// The `FEATURE_` bits that hold.
    features: u32,
    /// Packets with the device from which on the stack may come to wait for them.
    many: usize,
}

impl Sending {
    /// The rules for this device and this geometry, which was checked.
    pub(crate) fn new<D: Device>(device: &D, geometry: &Geometry) -> Sending {
        let receive = u64::from(geometry.receive_buffers) * u64::from(geometry.buffer_bytes);
        Sending {
            first: receive + u64::from(geometry.headroom_bytes),
            end: geometry.pool_bytes,
            header: device.header_bytes(),
            largest: device.largest_sent(),
            features: device.features(),
            many: (geometry.ring_entries as usize / 4).min(MANY),
        }
    }

    /// Where a packet lies, with the device's header before it, and what the device is to do with it.
    pub(crate) fn check(
        &self,
        packet: Descriptor,
        pool: &Area,
    ) -> Result<(Area, Option<SendOffload>), Refusal> {
        let (start, length) = (u64::from(packet.offset), packet.length as usize);
        if start < self.first || start + u64::from(packet.length) > self.end {
            return Err(Refusal::Place);
        }
        let offload = SendOffload::from_flags(packet.flags).map_err(|_| Refusal::Offload)?;
        let (smallest, largest) = match offload {
            None => (ethernet::HEADER_BYTES, self.largest),
            Some(offload) => {
                if needed(offload) & !self.features != 0 {
                    return Err(Refusal::Offload);
                }
                match offload.segment {
                    None => (offload.header_bytes(), self.largest),
                    Some(_) => (offload.header_bytes() + 1, MAX_PACKET_BYTES),
                }
            }
        };
        if length < smallest || length > largest {
            return Err(Refusal::Length);
        }
        // The headroom holds the header, or the geometry would have been refused.
        let area = pool.part(packet.offset as usize - self.header, self.header + length);
        Ok((area.ok_or(Refusal::Place)?, offload))
    }

    /// Whether so much of the stack's memory is with the device that the stack may come to wait for it.
    pub(crate) fn is_crowded(&self, packets: usize, bytes: u64) -> bool {
        packets >= self.many || bytes > self.end.saturating_sub(self.first) / 2
    }
}

/// The `FEATURE_` bits that an offload needs.
fn needed(offload: SendOffload) -> u32 {
    let segment = match (offload.segment, offload.ipv6) {
        (None, _) => 0,
        (Some(_), false) => FEATURE_SEGMENT_IPV4,
        (Some(_), true) => FEATURE_SEGMENT_IPV6,
    };
    FEATURE_SEND_CHECKSUM | segment
}
