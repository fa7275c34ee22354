//! The device's protocol (VIRTIO 1.2, section 5.1): features, configuration, and what stands before the
//! packets. Which buffers go in, and when, is the card's business, through which queue, `queues`'.

use ipc::interface::net_device::{
    FEATURE_JOINED_RECEIVE, FEATURE_LINK_STATE, FEATURE_RECEIVE_CHECKSUM, MAX_PACKET_BYTES,
    SendOffload,
};
use ipc::ring::Descriptor;
use net_driver::{Device, Direction, Fault, Interrupt, Received, ethernet};
use pci_function::Area;
use virtio::{Used, VirtioError, VirtioTransport};

use crate::header::{self, Said};
use crate::negotiation::{self, net_feature};
use crate::queues::{self, Queues, Wishes};
use crate::settings::{self, Settings};

/// Offsets in the device's configuration (VIRTIO 1.2, section 5.1.4).
mod configuration {
    /// Ethernet address, 6 bytes.
    pub(super) const MAC: usize = 0;
    /// Status, 16 bits.
    pub(super) const STATUS: usize = 6;
    /// Largest packet, 16 bits.
    pub(super) const MTU: usize = 10;
}

/// Status: the link is up (VIRTIO_NET_S_LINK_UP).
const LINK_UP: u16 = 1;
/// Smallest MTU of a device (VIRTIO 1.2, section 5.1.4.2) and of IPv4 (RFC 791, section 3.2).
const SMALLEST_MTU: u16 = 68;

/// A device that nobody uses.
#[derive(Debug)]
pub struct Idle<T> {
    /// How it is reached.
    pub transport: T,
    /// How it may be used.
    pub settings: Settings,
}

/// A network device that works.
pub struct NetDevice<T: VirtioTransport> {
    transport: T,
    settings: Settings,
    /// They go after the device's reset.
    queues: Queues,
    /// What was negotiated with the device.
    negotiated: u64,
    /// The `FEATURE_` bits that hold.
    features: u32,
    header_bytes: usize,
    /// Buffers that the device will still return of the packet that it returned last.
    rest: u16,
    /// The configuration has changed since that was last asked.
    changed: bool,
}

impl<T: VirtioTransport> NetDevice<T> {
    /// Resets the device: it reaches no memory any more. False where it does not confirm that.
    pub(crate) fn halt(mut self) -> (Idle<T>, bool) {
        let stopped = virtio::reset(&mut self.transport).is_ok();
        self.queues.end(stopped);
        let idle = Idle {
            transport: self.transport,
            settings: self.settings,
        };
        (idle, stopped)
    }

    /// Pairs of queues in use.
    pub fn pairs(&self) -> usize {
        self.queues.pairs()
    }

    /// What a returned buffer holds. Its header is read once, and the device held to it: a packet of
    /// many buffers ends where its header says, whatever is wrong with it.
    fn received(&mut self, used: Used<Descriptor>, pool: &Area) -> Result<Received, VirtioError> {
        let mut received = Received {
            buffer: used.cookie,
            length: used.written.ok_or(Fault::Long),
            more: false,
            verified: false,
        };
        if self.rest > 0 {
            self.rest -= 1;
            received.more = self.rest > 0;
            return Ok(received);
        }
        if let Ok(written) = received.length {
            let length = written.checked_sub(self.header_bytes);
            received.length = length.ok_or(Fault::Short);
        }
        let told = FEATURE_RECEIVE_CHECKSUM | FEATURE_JOINED_RECEIVE;
        if self.features & told == 0 || received.length == Err(Fault::Short) {
            return Ok(received);
        }
        let start = (used.cookie.offset as usize).saturating_sub(self.header_bytes);
        let said = match self.header_bytes {
            header::SHORT_BYTES => pool.load(start).map(Said::short),
            _ => pool.load(start).map(Said::new),
        };
        let said = said.ok_or(VirtioError::BadHeader)?;
        received.verified = said.is_verified();
        if self.features & FEATURE_JOINED_RECEIVE != 0 {
            let buffers = said.buffers();
            if buffers == 0 || buffers > self.queues.largest() {
                return Err(VirtioError::BadHeader);
            }
            self.rest = buffers - 1;
            received.more = self.rest > 0;
        }
        Ok(received)
    }
}

impl<T: VirtioTransport> Device for NetDevice<T> {
    type Idle = Idle<T>;
    type Error = VirtioError;

    fn reset(idle: &mut Idle<T>) -> Result<(), VirtioError> {
        virtio::reset(&mut idle.transport)
    }

    fn start(
        idle: Idle<T>,
        features: u32,
        buffers: u32,
    ) -> Result<NetDevice<T>, (Idle<T>, VirtioError)> {
        let Idle {
            mut transport,
            settings,
        } = idle;
        let wishes = Wishes {
            features,
            buffers,
            settings,
        };
        let (negotiated, queues) = match queues::start(&mut transport, &wishes) {
            Ok(started) => started,
            Err(error) => {
                let idle = Idle {
                    transport,
                    settings,
                };
                return Err((idle, error));
            }
        };
        Ok(NetDevice {
            transport,
            settings,
            queues,
            negotiated,
            features: negotiation::held(negotiated, features),
            header_bytes: queues::header_bytes(negotiated),
            rest: 0,
            changed: false,
        })
    }

    fn stop(self) -> Idle<T> {
        self.halt().0
    }

    fn quiet(idle: &mut Idle<T>) {
        idle.transport.ack_interrupt();
    }

    fn describe(&self, to: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let [receive, transmit] = self.queues.sizes();
        let pairs = self.queues.pairs();
        write!(to, "{pairs} x {receive}+{transmit} buffers")?;
        for name in settings::names(self.negotiated) {
            write!(to, " {name}")?;
        }
        Ok(())
    }

    fn features(&self) -> u32 {
        self.features
    }

    fn header_bytes(&self) -> usize {
        self.header_bytes
    }

    fn largest_write(&self) -> usize {
        0
    }

    /// What is too long for its network the device drops.
    fn largest_sent(&self) -> usize {
        MAX_PACKET_BYTES
    }

    fn has_room(&self, direction: Direction) -> bool {
        self.queues.has_room(direction)
    }

    fn held(&self, direction: Direction) -> usize {
        self.queues.held(direction)
    }

    fn capacity(&self, direction: Direction) -> usize {
        self.queues.capacity(direction)
    }

    fn give(&mut self, area: Area, buffer: Descriptor) -> Result<(), VirtioError> {
        self.queues.give(area, buffer)
    }

    fn send(
        &mut self,
        area: Area,
        offload: Option<SendOffload>,
        packet: Descriptor,
    ) -> Result<(), VirtioError> {
        let header = header::to_send(offload);
        let written = match header.first_chunk::<{ header::SHORT_BYTES }>() {
            Some(short) if self.header_bytes == header::SHORT_BYTES => area.store(0, *short),
            _ => area.store(0, header),
        };
        written.ok_or(VirtioError::BadBuffer)?;
        self.queues.send(area, offload, packet)
    }

    fn notify(&mut self) -> u64 {
        self.queues.notify(&mut self.transport)
    }

    fn take_received(&mut self, pool: &Area) -> Result<Option<Received>, VirtioError> {
        match self.queues.take(Direction::Receive, self.rest > 0)? {
            Some(used) => self.received(used, pool).map(Some),
            None => Ok(None),
        }
    }

    fn take_sent(&mut self) -> Result<Option<Descriptor>, VirtioError> {
        let used = self.queues.take(Direction::Transmit, false)?;
        Ok(used.map(|used| used.cookie))
    }

    fn disarm(&mut self) {
        self.queues.disarm();
    }

    fn arm(&mut self, direction: Direction, count: u16) -> bool {
        self.queues.arm(direction, count)
    }

    fn interrupted(&mut self, interrupt: Interrupt) {
        self.changed |= match interrupt {
            Interrupt::Line => {
                let causes = self.transport.ack_interrupt();
                causes.contains(virtio::InterruptStatus::DEVICE_CONFIGURATION_INTERRUPT)
            }
            Interrupt::Message { configuration } => configuration,
        };
    }

    fn take_link_change(&mut self) -> bool {
        core::mem::take(&mut self.changed)
    }

    /// A device without an address, or with one that is none, gets a locally administered one: the
    /// driver has to make it up (VIRTIO 1.2, section 5.1.5).
    fn mac(&self) -> [u8; 6] {
        let read = || self.transport.read_config_space(configuration::MAC).ok();
        let offered = self.negotiated & net_feature::MAC != 0;
        offered
            .then(read)
            .flatten()
            .filter(|address| ethernet::is_station(*address))
            .unwrap_or(ethernet::OWN_ADDRESS)
    }

    fn mtu(&self) -> u16 {
        let read = || self.transport.read_config_space(configuration::MTU).ok();
        let offered = self.negotiated & net_feature::MTU != 0;
        let mtu = offered.then(read).flatten().unwrap_or(ethernet::MTU);
        mtu.max(SMALLEST_MTU)
    }

    fn is_link_up(&self) -> bool {
        let status = self.transport.read_config_space(configuration::STATUS);
        let tells = self.features & FEATURE_LINK_STATE != 0;
        !tells || status.is_ok_and(|status: u16| status & LINK_UP != 0)
    }
}
