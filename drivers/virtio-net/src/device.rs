//! The device's protocol (VIRTIO 1.2, section 5.1): features, configuration, and buffers in and out
//! of its two queues. Which buffers, and when, is the card's business.

use alloc::boxed::Box;

use net_driver::{Device, Direction, Interrupt, Returned, ethernet};
use pci_function::Area;
use virtio::{Chain, Queue, VirtioError, VirtioTransport, feature};

/// Feature bits of network devices (VIRTIO 1.2, section 5.1.3).
mod net_feature {
    /// `mtu` is valid (VIRTIO_NET_F_MTU).
    pub(super) const MTU: u64 = 1 << 3;
    /// `mac` is valid (VIRTIO_NET_F_MAC).
    pub(super) const MAC: u64 = 1 << 5;
    /// `status` is valid (VIRTIO_NET_F_STATUS).
    pub(super) const STATUS: u64 = 1 << 16;
}

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
/// Bytes of `struct virtio_net_hdr` without its `num_buffers` (VIRTIO 1.2, section 5.1.6.1).
const LEGACY_HEADER_BYTES: usize = 10;
/// Bytes of the whole structure, which VERSION_1 always uses (section 5.1.6).
const HEADER_BYTES: usize = 12;
/// Smallest MTU of a device (VIRTIO 1.2, section 5.1.4.2) and of IPv4 (RFC 791, section 3.2).
const SMALLEST_MTU: u16 = 68;

/// A network device that works.
pub struct NetDevice<T: VirtioTransport> {
    transport: T,
    /// The queues, receive and transmit. They go before the transport does, and after its reset.
    queues: [Box<dyn Queue>; 2],
    features: u64,
    header_bytes: usize,
    one_segment: bool,
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

    fn queue(&self, direction: Direction) -> &dyn Queue {
        &*self.queues[usize::from(number(direction))]
    }

    fn queue_mut(&mut self, direction: Direction) -> &mut dyn Queue {
        &mut *self.queues[usize::from(number(direction))]
    }

    /// Descriptors that one packet takes.
    fn segments(&self) -> usize {
        if self.one_segment { 1 } else { 2 }
    }

    /// Header and packet, which follow one another in `area`, as the device takes them: together,
    /// or, where it does not accept any layout, the header by itself (VIRTIO 1.2, section 5.1.6.6).
    fn chain(&self, area: Area, device_writes: bool) -> Option<Chain> {
        let (header, rest) = (
            self.header_bytes,
            area.length().checked_sub(self.header_bytes)?,
        );
        let split = [area.part(0, header)?, area.part(header, rest)?];
        let whole = [area];
        let segments: &[Area] = if self.one_segment { &whole } else { &split };
        if device_writes {
            Chain::new(&[], segments)
        } else {
            Chain::new(segments, &[])
        }
    }
}

impl<T: VirtioTransport> Device for NetDevice<T> {
    type Idle = T;
    type Error = VirtioError;

    fn reset(transport: &mut T) -> Result<(), VirtioError> {
        virtio::reset(transport)
    }

    fn start(mut transport: T) -> Result<NetDevice<T>, (T, VirtioError)> {
        match bring_up(&mut transport) {
            Ok((features, queues)) => {
                let modern = features & feature::VERSION_1 != 0;
                Ok(NetDevice {
                    transport,
                    queues,
                    features,
                    header_bytes: if modern {
                        HEADER_BYTES
                    } else {
                        LEGACY_HEADER_BYTES
                    },
                    one_segment: modern || features & feature::ANY_LAYOUT != 0,
                    changed: false,
                })
            }
            Err(error) => Err((transport, error)),
        }
    }

    fn stop(self) -> T {
        self.halt().0
    }

    fn quiet(transport: &mut T) {
        transport.ack_interrupt();
    }

    fn header_bytes(&self) -> usize {
        self.header_bytes
    }

    fn largest_write(&self) -> usize {
        0
    }

    /// What is too long for its network the device drops.
    fn largest_sent(&self) -> usize {
        usize::MAX
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

    fn give(&mut self, area: Area, cookie: u64) -> Result<(), VirtioError> {
        let chain = self.chain(area, true).ok_or(VirtioError::BadWindow)?;
        self.queue_mut(Direction::Receive).add(chain, cookie)
    }

    /// The header asks for nothing: no checksum, no segmentation (VIRTIO 1.2, section 5.1.6.2).
    fn send(&mut self, area: Area, cookie: u64) -> Result<(), VirtioError> {
        let chain = self.chain(area, false).ok_or(VirtioError::BadWindow)?;
        area.write(&[0; HEADER_BYTES][..self.header_bytes]);
        self.queue_mut(Direction::Transmit).add(chain, cookie)
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

    fn take(&mut self, direction: Direction) -> Result<Option<Returned>, VirtioError> {
        let header = self.header_bytes;
        let used = self.queue_mut(direction).pop()?;
        Ok(used.map(|used| Returned {
            cookie: used.cookie,
            length: used.written.and_then(|written| written.checked_sub(header)),
        }))
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
        let offered = self.features & net_feature::MAC != 0;
        offered
            .then(read)
            .flatten()
            .filter(|address| ethernet::is_station(*address))
            .unwrap_or(ethernet::OWN_ADDRESS)
    }

    fn mtu(&self) -> u16 {
        let read = || self.transport.read_config_space(configuration::MTU).ok();
        let offered = self.features & net_feature::MTU != 0;
        let mtu = offered.then(read).flatten().unwrap_or(ethernet::MTU);
        mtu.max(SMALLEST_MTU)
    }

    fn tells_link(&self) -> bool {
        self.features & net_feature::STATUS != 0
    }

    fn is_link_up(&self) -> bool {
        let status = self.transport.read_config_space(configuration::STATUS);
        !self.tells_link() || status.is_ok_and(|status: u16| status & LINK_UP != 0)
    }
}

fn bring_up<T: VirtioTransport>(
    transport: &mut T,
) -> Result<(u64, [Box<dyn Queue>; 2]), VirtioError> {
    let wanted = net_feature::MAC
        | net_feature::MTU
        | net_feature::STATUS
        | feature::ANY_LAYOUT
        | feature::EVENT_INDEX
        | feature::VERSION_1;
    let features = virtio::negotiate(transport, wanted)?;
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
) -> Result<[Box<dyn Queue>; 2], VirtioError> {
    let receive = virtio::open(transport, RECEIVE_QUEUE, events)?;
    let transmit = virtio::open(transport, TRANSMIT_QUEUE, events)?;
    Ok([receive, transmit])
}
