//! The device's protocol (VIRTIO 1.2, section 5.1): features, configuration, and buffers in and out
//! of its two queues. Which buffers, and when, is the card's business.

use ipc::interface::net_device::{
    FEATURE_JOINED_RECEIVE, FEATURE_LINK_STATE, FEATURE_RECEIVE_CHECKSUM, MAX_PACKET_BYTES,
    SendOffload,
};
use ipc::ring::Descriptor;
use net_driver::{Device, Direction, Fault, Interrupt, Received, ethernet};
use pci_function::Area;
use virtio::{Queue, Used, VirtioError, VirtioTransport, feature};

use crate::header::{self, Said};
use crate::negotiation::{self, net_feature};

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
/// Number of the receive queue (VIRTIO 1.2, section 5.1.2).
const RECEIVE_QUEUE: u16 = 0;
/// Number of the transmit queue.
const TRANSMIT_QUEUE: u16 = 1;
/// Smallest MTU of a device (VIRTIO 1.2, section 5.1.4.2) and of IPv4 (RFC 791, section 3.2).
const SMALLEST_MTU: u16 = 68;

/// Entries of a receive queue that hold the longest packet in the smallest buffers that the interface
/// allows, of 2,048 bytes with 64 of headroom. With fewer a device would drop every such packet.
const ENOUGH_FOR_JOINED: u32 = MAX_PACKET_BYTES.div_ceil(2048 - 64).next_power_of_two() as u32;

/// A queue of packets.
type PacketQueue = Queue<Descriptor>;

/// A network device that works.
pub struct NetDevice<T: VirtioTransport> {
    transport: T,
    /// The queues, receive and transmit. They go before the transport does, and after its reset.
    queues: [PacketQueue; 2],
    /// What was negotiated with the device.
    negotiated: u64,
    /// The `FEATURE_` bits that hold.
    features: u32,
    header_bytes: usize,
    one_segment: bool,
    /// Buffers that the device will still return of the packet that it returned last.
    rest: u16,
    /// The configuration has changed since that was last asked.
    changed: bool,
}

/// Number of a direction's queue.
fn number(direction: Direction) -> u16 {
    match direction {
        Direction::Receive => RECEIVE_QUEUE,
        Direction::Transmit => TRANSMIT_QUEUE,
    }
}

impl<T: VirtioTransport> NetDevice<T> {
    /// Resets the device: it reaches no memory any more. False where it does not confirm that.
    pub(crate) fn halt(self) -> (T, bool) {
        let NetDevice {
            mut transport,
            queues,
            ..
        } = self;
        let stopped = virtio::reset(&mut transport).is_ok();
        match stopped {
            true => drop(queues),
            // The device may still write there: the memory is never used again.
            false => core::mem::forget(queues),
        }
        (transport, stopped)
    }

    fn queue(&self, direction: Direction) -> &PacketQueue {
        &self.queues[usize::from(number(direction))]
    }

    fn queue_mut(&mut self, direction: Direction) -> &mut PacketQueue {
        &mut self.queues[usize::from(number(direction))]
    }

    /// Descriptors that one packet takes.
    fn segments(&self) -> usize {
        if self.one_segment { 1 } else { 2 }
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
            if buffers == 0 || buffers > self.queue(Direction::Receive).size() {
                return Err(VirtioError::BadHeader);
            }
            self.rest = buffers - 1;
            received.more = self.rest > 0;
        }
        Ok(received)
    }

    /// Gives the device header and packet, which follow one another in `area`: together, or, where it
    /// does not accept any layout, the header by itself (VIRTIO 1.2, section 5.1.6.6).
    fn add(
        &mut self,
        direction: Direction,
        area: Area,
        name: Descriptor,
    ) -> Result<(), VirtioError> {
        let device_writes = direction == Direction::Receive;
        let (header, one_segment) = (self.header_bytes, self.one_segment);
        let queue = self.queue_mut(direction);
        if one_segment {
            return queue.add_one(&area, device_writes, name);
        }
        let rest = area.length().saturating_sub(header);
        let (Some(start), Some(rest)) = (area.part(0, header), area.part(header, rest)) else {
            return Err(VirtioError::BadBuffer);
        };
        queue.add(&[start, rest], device_writes, name)
    }
}

impl<T: VirtioTransport> Device for NetDevice<T> {
    type Idle = T;
    type Error = VirtioError;

    fn reset(transport: &mut T) -> Result<(), VirtioError> {
        virtio::reset(transport)
    }

    fn start(mut transport: T, features: u32) -> Result<NetDevice<T>, (T, VirtioError)> {
        let (negotiated, queues) = match bring_up(&mut transport, features) {
            Ok(started) => started,
            Err(error) => return Err((transport, error)),
        };
        let modern = negotiated & feature::VERSION_1 != 0;
        let whole = modern || negotiated & net_feature::MRG_RXBUF != 0;
        Ok(NetDevice {
            transport,
            queues,
            negotiated,
            features: negotiation::held(negotiated, features),
            header_bytes: if whole {
                header::BYTES
            } else {
                header::SHORT_BYTES
            },
            one_segment: modern || negotiated & feature::ANY_LAYOUT != 0,
            rest: 0,
            changed: false,
        })
    }

    fn stop(self) -> T {
        self.halt().0
    }

    fn quiet(transport: &mut T) {
        transport.ack_interrupt();
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
        self.queue(direction).free() >= self.segments()
    }

    fn held(&self, direction: Direction) -> usize {
        self.queue(direction).outstanding()
    }

    fn capacity(&self, direction: Direction) -> usize {
        usize::from(self.queue(direction).size()) / self.segments()
    }

    fn give(&mut self, area: Area, buffer: Descriptor) -> Result<(), VirtioError> {
        self.add(Direction::Receive, area, buffer)
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
        self.add(Direction::Transmit, area, packet)
    }

    fn notify(&mut self) -> u64 {
        let mut count = 0;
        for direction in [Direction::Receive, Direction::Transmit] {
            if self.queue_mut(direction).should_notify() {
                self.transport.notify(number(direction));
                count += 1;
            }
        }
        count
    }

    fn take_received(&mut self, pool: &Area) -> Result<Option<Received>, VirtioError> {
        match self.queue_mut(Direction::Receive).pop()? {
            Some(used) => self.received(used, pool).map(Some),
            None => Ok(None),
        }
    }

    fn take_sent(&mut self) -> Result<Option<Descriptor>, VirtioError> {
        let used = self.queue_mut(Direction::Transmit).pop()?;
        Ok(used.map(|used| used.cookie))
    }

    fn disarm(&mut self) {
        for queue in &mut self.queues {
            queue.disarm();
        }
    }

    fn arm(&mut self, direction: Direction, count: u16) -> bool {
        self.queue_mut(direction).arm(count)
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

fn bring_up<T: VirtioTransport>(
    transport: &mut T,
    asked: u32,
) -> Result<(u64, [PacketQueue; 2]), VirtioError> {
    let asked = match transport.max_queue_size(RECEIVE_QUEUE) {
        0..ENOUGH_FOR_JOINED => asked & !FEATURE_JOINED_RECEIVE,
        _ => asked,
    };
    let choose = |offered| negotiation::choose(offered, asked);
    let features = virtio::negotiate_with(transport, choose)?;
    let events = features & feature::EVENT_INDEX != 0;
    let queues = open_both(transport, events).and_then(|queues| {
        virtio::start(transport)?;
        Ok(queues)
    });
    match queues {
        Ok(queues) => Ok((features, queues)),
        Err(error) => {
            // Before the queues' memory is used for anything else.
            virtio::fail(transport);
            virtio::reset(transport)?;
            Err(error)
        }
    }
}

fn open_both<T: VirtioTransport>(
    transport: &mut T,
    events: bool,
) -> Result<[PacketQueue; 2], VirtioError> {
    let receive = Queue::open(transport, RECEIVE_QUEUE, events)?;
    let transmit = Queue::open(transport, TRANSMIT_QUEUE, events)?;
    Ok([receive, transmit])
}
