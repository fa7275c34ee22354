//! The device's protocol (VIRTIO 1.2, section 5.1): features, configuration, and buffers in and out
//! of its two queues. Which buffers, and when, is the card's business.

use alloc::boxed::Box;

use virtio::{Area, Chain, Queue, VirtioError, VirtioTransport, feature};

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
/// What Ethernet carries where the device does not say (RFC 894).
const ETHERNET_MTU: u16 = 1500;
/// Smallest MTU of a device (VIRTIO 1.2, section 5.1.4.2) and of IPv4 (RFC 791, section 3.2).
const SMALLEST_MTU: u16 = 68;

/// A network device that works.
pub struct NetDevice<T: VirtioTransport> {
    transport: T,
    /// The queues, receive and transmit. They go before the transport does, and after its reset.
    queues: Option<[Box<dyn Queue>; 2]>,
    features: u64,
    header_bytes: usize,
    one_segment: bool,
}

/// A device that could not be started, and why; the transport comes back.
pub type StartFailure<T> = (T, VirtioError);

impl<T: VirtioTransport> NetDevice<T> {
    /// Resets the device, whatever state an earlier driver left it in, and starts it.
    pub fn start(mut transport: T) -> Result<NetDevice<T>, StartFailure<T>> {
        match bring_up(&mut transport) {
            Ok((features, queues)) => {
                let modern = features & feature::VERSION_1 != 0;
                Ok(NetDevice {
                    transport,
                    queues: Some(queues),
                    features,
                    header_bytes: if modern {
                        HEADER_BYTES
                    } else {
                        LEGACY_HEADER_BYTES
                    },
                    one_segment: modern || features & feature::ANY_LAYOUT != 0,
                })
            }
            Err(error) => Err((transport, error)),
        }
    }

    /// Resets the device: it reaches no memory any more. False where it does not confirm that, and
    /// only switching its bus mastering off is left.
    pub fn stop(self) -> (T, bool) {
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

    fn queue(&mut self, index: usize) -> Result<&mut Box<dyn Queue>, VirtioError> {
        self.queues
            .as_mut()
            .map(|queues| &mut queues[index])
            .ok_or(VirtioError::NoQueue)
    }

    /// The receive queue.
    pub fn receive(&mut self) -> Result<&mut Box<dyn Queue>, VirtioError> {
        self.queue(RECEIVE_QUEUE.into())
    }

    /// The transmit queue.
    pub fn transmit(&mut self) -> Result<&mut Box<dyn Queue>, VirtioError> {
        self.queue(TRANSMIT_QUEUE.into())
    }

    /// Bytes of the header that stands before every packet.
    pub fn header_bytes(&self) -> usize {
        self.header_bytes
    }

    /// Descriptors that one packet takes.
    pub fn segments(&self) -> usize {
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

    /// Gives the device room for a packet: `area` is header and packet. The cookie comes back with
    /// the packet.
    pub fn give(&mut self, area: Area, cookie: u64) -> Result<(), VirtioError> {
        let chain = self.chain(area, true).ok_or(VirtioError::BadWindow)?;
        self.receive()?.add(chain, cookie)
    }

    /// Gives the device a packet to send: `area` is room for the header, and the packet. The header
    /// asks for nothing: no checksum, no segmentation (VIRTIO 1.2, section 5.1.6.2).
    pub fn send(&mut self, area: Area, cookie: u64) -> Result<(), VirtioError> {
        let chain = self.chain(area, false).ok_or(VirtioError::BadWindow)?;
        area.write(&[0; HEADER_BYTES][..self.header_bytes]);
        self.transmit()?.add(chain, cookie)
    }

    /// Tells the device of what it was given, where it wants to know; how often it was told.
    pub fn notify(&mut self) -> Result<u64, VirtioError> {
        let mut count = 0;
        for number in [RECEIVE_QUEUE, TRANSMIT_QUEUE] {
            if self.queue(number.into())?.should_notify() {
                self.transport.notify(number);
                count += 1;
            }
        }
        Ok(count)
    }

    /// Takes the interrupt's causes, which lowers its line where it is one; true if the device's
    /// configuration has changed.
    pub fn take_interrupt(&mut self) -> bool {
        let causes = self.transport.ack_interrupt();
        causes.contains(virtio::InterruptStatus::DEVICE_CONFIGURATION_INTERRUPT)
    }

    /// The Ethernet address. A device without one gets a locally administered one (IEEE 802-2014,
    /// section 8.2): the driver has to make it up (VIRTIO 1.2, section 5.1.5).
    pub fn mac(&self) -> [u8; 6] {
        let read = || self.transport.read_config_space(configuration::MAC).ok();
        let offered = self.features & net_feature::MAC != 0;
        offered
            .then(read)
            .flatten()
            .unwrap_or([0x02, 0, 0, 0, 0, 0x01])
    }

    /// Largest packet without its Ethernet header.
    pub fn mtu(&self) -> u16 {
        let read = || self.transport.read_config_space(configuration::MTU).ok();
        let offered = self.features & net_feature::MTU != 0;
        let mtu = offered.then(read).flatten().unwrap_or(ETHERNET_MTU);
        mtu.max(SMALLEST_MTU)
    }

    /// Whether the device tells the state of its link.
    pub fn tells_link(&self) -> bool {
        self.features & net_feature::STATUS != 0
    }

    /// Whether the link is up, as far as the device tells.
    pub fn is_link_up(&self) -> bool {
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
