//! The device's queues: pairs of a receive and a transmit queue, and the control queue where there are
//! several (VIRTIO 1.2, section 5.1.2). Which pair a packet goes through is decided here.

use alloc::vec::Vec;

use ipc::interface::net_device::{FEATURE_JOINED_RECEIVE, MAX_PACKET_BYTES, SendOffload};
use ipc::ring::Descriptor;
use net_driver::{Direction, ethernet};
use pci_function::Area;
use virtio::{Queue, Used, VirtioError, VirtioTransport, feature};

use crate::control::Control;
use crate::header;
use crate::negotiation::{self, net_feature};
use crate::settings::Settings;

/// Offset of `max_virtqueue_pairs` in the device's configuration, 16 bits (VIRTIO 1.2, section 5.1.4).
const MOST_PAIRS: usize = 8;
/// Most pairs of a device whose control queue is looked for: its number follows all of theirs.
const LARGEST_DEVICE: u16 = 512;
/// Buffers to receive into for each pair, at least: the longest packet has room in half of them.
const BUFFERS_A_PAIR: u32 = 64;
/// Entries of a receive queue that hold the longest packet in the smallest buffers that the interface
/// allows, of 2,048 bytes with 64 of headroom. With fewer a device would drop every such packet.
const ENOUGH_FOR_JOINED: u32 = MAX_PACKET_BYTES.div_ceil(2048 - 64).next_power_of_two() as u32;

/// A factor that spreads numbers which differ little: 2^32 by the golden ratio (Knuth, "The Art of Computer
/// Programming", volume 3, section 6.4).
const SPREAD: u32 = 0x9e37_79b1;

/// A queue of packets.
type PacketQueue = Queue<Descriptor>;

/// Queues that go together: the device receives a connection's packets into the pair that they are sent
/// through (VIRTIO 1.2, section 5.1.6.5.5).
struct Pair {
    receive: PacketQueue,
    transmit: PacketQueue,
}

impl Pair {
    fn queue(&self, direction: Direction) -> &PacketQueue {
        match direction {
            Direction::Receive => &self.receive,
            Direction::Transmit => &self.transmit,
        }
    }

    fn queue_mut(&mut self, direction: Direction) -> &mut PacketQueue {
        match direction {
            Direction::Receive => &mut self.receive,
            Direction::Transmit => &mut self.transmit,
        }
    }
}

/// The queues of a started device. The device is reset before they are dropped.
pub(crate) struct Queues {
    /// At least one.
    pairs: Vec<Pair>,
    /// Open as long as they are.
    control: Option<Control>,
    /// The pair that is looked at next for what was received, and for what was sent.
    next: [usize; 2],
    /// Bytes of the header that has a descriptor of its own; 0 where it shares the packet's.
    apart: usize,
}

/// What is asked of a device that starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wishes {
    /// The `FEATURE_` bits.
    pub(crate) features: u32,
    /// Buffers to receive into that there will be.
    pub(crate) buffers: u32,
    /// How it may be used.
    pub(crate) settings: Settings,
}

/// Starts a device; what was negotiated comes back, and its queues. What goes wrong with several pairs of
/// queues is tried once more with one.
pub(crate) fn start<T: VirtioTransport>(
    transport: &mut T,
    wishes: &Wishes,
) -> Result<(u64, Queues), VirtioError> {
    let enough_for = wishes.buffers / BUFFERS_A_PAIR;
    let pairs = u32::from(wishes.settings.pairs).min(enough_for).max(1) as u16;
    match attempt(transport, wishes, pairs) {
        Err(error) if pairs > 1 && error != VirtioError::ResetTimedOut => {
            attempt(transport, wishes, 1)
        }
        result => result,
    }
}

fn attempt<T: VirtioTransport>(
    transport: &mut T,
    wishes: &Wishes,
    pairs: u16,
) -> Result<(u64, Queues), VirtioError> {
    let features = match transport.max_queue_size(number(0, Direction::Receive)) {
        0..ENOUGH_FOR_JOINED => wishes.features & !FEATURE_JOINED_RECEIVE,
        _ => wishes.features,
    };
    let off = wishes.settings.off;
    let choose = |offered: u64| negotiation::choose(offered & !off, features, pairs > 1);
    let negotiated = virtio::negotiate_with(transport, choose)?;
    let mut queues = Queues::new(negotiated);
    match queues.set_up(transport, negotiated, pairs) {
        Ok(()) => Ok((negotiated, queues)),
        Err(error) => {
            virtio::fail(transport);
            let stopped = virtio::reset(transport);
            queues.end(stopped.is_ok());
            stopped.and(Err(error))
        }
    }
}

/// Number of a pair's queue (VIRTIO 1.2, section 5.1.2).
fn number(pair: usize, direction: Direction) -> u16 {
    2 * pair as u16 + u16::from(direction == Direction::Transmit)
}

impl Queues {
    /// No queues yet.
    fn new(negotiated: u64) -> Queues {
        Queues {
            pairs: Vec::new(),
            control: None,
            next: [0; 2],
            apart: match negotiated & (feature::VERSION_1 | feature::ANY_LAYOUT) {
                0 => header_bytes(negotiated),
                _ => 0,
            },
        }
    }

    /// Opens up to so many pairs, lets the device work, and tells it their number.
    fn set_up<T: VirtioTransport>(
        &mut self,
        transport: &mut T,
        negotiated: u64,
        pairs: u16,
    ) -> Result<(), VirtioError> {
        let events = negotiated & feature::EVENT_INDEX != 0;
        let device_has = match negotiated & net_feature::MQ {
            0 => 1,
            _ => transport.read_config_space(MOST_PAIRS).unwrap_or(1),
        };
        let pairs = match device_has {
            2..=LARGEST_DEVICE => pairs.min(device_has),
            _ => 1,
        };
        for pair in 0..pairs.into() {
            let mut open = |direction| Queue::open(transport, number(pair, direction), events);
            let receive = open(Direction::Receive)?;
            let transmit = open(Direction::Transmit)?;
            self.pairs.push(Pair { receive, transmit });
        }
        if pairs > 1 {
            let number = number(device_has.into(), Direction::Receive);
            self.control = Some(Control::open(transport, number, events)?);
        }
        virtio::start(transport)?;
        match &mut self.control {
            Some(control) => control.set_pairs(transport, pairs),
            None => Ok(()),
        }
    }

    /// Gives the queues' memory back where the device was stopped. Else it may still write there: the
    /// memory is never used again.
    pub(crate) fn end(self, stopped: bool) {
        match stopped {
            true => drop(self),
            false => core::mem::forget(self),
        }
    }

    /// Number of pairs.
    pub(crate) fn pairs(&self) -> usize {
        self.pairs.len()
    }

    /// Sizes of the first pair's queues, receive and transmit.
    pub(crate) fn sizes(&self) -> [u16; 2] {
        let directions = [Direction::Receive, Direction::Transmit];
        directions.map(|direction| self.each(direction).next().map_or(0, Queue::size))
    }

    fn each(&self, direction: Direction) -> impl Iterator<Item = &PacketQueue> {
        self.pairs.iter().map(move |pair| pair.queue(direction))
    }

    /// Descriptors that one packet takes.
    fn segments(&self) -> usize {
        1 + usize::from(self.apart > 0)
    }

    /// Entries of the largest receive queue.
    pub(crate) fn largest(&self) -> u16 {
        let sizes = self.each(Direction::Receive).map(Queue::size);
        sizes.max().unwrap_or(0)
    }

    /// The only pair, if there is but one: what is asked for every packet takes a short way then.
    #[inline(always)]
    fn only(&self) -> Option<&Pair> {
        match &self.pairs[..] {
            [pair] => Some(pair),
            _ => None,
        }
    }

    /// Whether a buffer to receive into has room in some pair, or a packet to send in every one.
    #[inline]
    pub(crate) fn has_room(&self, direction: Direction) -> bool {
        let segments = self.segments();
        if let Some(pair) = self.only() {
            return pair.queue(direction).free() >= segments;
        }
        let mut queues = self.each(direction);
        match direction {
            Direction::Receive => queues.any(|queue| queue.free() >= segments),
            Direction::Transmit => queues.all(|queue| queue.free() >= segments),
        }
    }

    /// Buffers that the device holds.
    pub(crate) fn held(&self, direction: Direction) -> usize {
        match self.only() {
            Some(pair) => pair.queue(direction).outstanding(),
            None => self.each(direction).map(Queue::outstanding).sum(),
        }
    }

    /// Buffers that the device can hold.
    pub(crate) fn capacity(&self, direction: Direction) -> usize {
        let size = |queue: &PacketQueue| usize::from(queue.size());
        let entries: usize = match self.only() {
            Some(pair) => size(pair.queue(direction)),
            None => self.each(direction).map(size).sum(),
        };
        // A division costs more than all the rest.
        entries >> u32::from(self.apart > 0)
    }

    /// Gives the device a buffer to receive into: to the pair that has the fewest.
    #[inline]
    pub(crate) fn give(&mut self, area: Area, buffer: Descriptor) -> Result<(), VirtioError> {
        let pair = match self.only() {
            Some(_) => 0,
            None => {
                let free = |pair: &usize| self.pairs[*pair].receive.free();
                (0..self.pairs.len()).max_by_key(free).unwrap_or(0)
            }
        };
        self.add(pair, Direction::Receive, area, buffer)
    }

    /// Gives the device a packet to send; the header before it is written.
    #[inline]
    pub(crate) fn send(
        &mut self,
        area: Area,
        offload: Option<SendOffload>,
        packet: Descriptor,
    ) -> Result<(), VirtioError> {
        let pair = self.pair_of(&area, offload, packet.length as usize);
        self.add(pair, Direction::Transmit, area, packet)
    }

    /// The pair of a packet: by its two ports, where it is known where they are, so that a connection
    /// keeps to one pair and its order. They may change while they are read; it is one pair or another.
    #[inline]
    fn pair_of(&self, area: &Area, offload: Option<SendOffload>, length: usize) -> usize {
        let Some(offload) = offload.filter(|_| self.pairs.len() > 1) else {
            return 0;
        };
        let header = area.length().saturating_sub(length);
        let at = header + ethernet::HEADER_BYTES + usize::from(offload.network_bytes);
        let ports = u32::from_le_bytes(area.load(at).unwrap_or_default());
        // The upper bits depend on all of the factors'.
        let share = u64::from(ports.wrapping_mul(SPREAD)) * self.pairs.len() as u64;
        (share >> 32) as usize
    }

    /// Hands header and packet over, which follow one another in `area`: together, or, where the device
    /// does not accept any layout, the header by itself (VIRTIO 1.2, section 5.1.6.6).
    #[inline]
    fn add(
        &mut self,
        pair: usize,
        direction: Direction,
        area: Area,
        name: Descriptor,
    ) -> Result<(), VirtioError> {
        let apart = self.apart;
        let pair = self.pairs.get_mut(pair).ok_or(VirtioError::NoQueue)?;
        let queue = pair.queue_mut(direction);
        if apart == 0 {
            return queue.add_one(&area, direction == Direction::Receive, name);
        }
        let rest = area.length().saturating_sub(apart);
        let (Some(header), Some(rest)) = (area.part(0, apart), area.part(apart, rest)) else {
            return Err(VirtioError::BadBuffer);
        };
        match direction {
            Direction::Receive => queue.add(&[], &[header, rest], name),
            Direction::Transmit => queue.add(&[header, rest], &[], name),
        }
    }

    /// Takes the next buffer that the device has returned. The pairs take turns, each as long as it has
    /// something; `stay` keeps to the one that had something last.
    #[inline]
    pub(crate) fn take(
        &mut self,
        direction: Direction,
        stay: bool,
    ) -> Result<Option<Used<Descriptor>>, VirtioError> {
        if let [pair] = &mut self.pairs[..] {
            return pair.queue_mut(direction).pop();
        }
        let turn = usize::from(direction == Direction::Transmit);
        for _ in 0..self.pairs.len() {
            let pair = self.pairs.get_mut(self.next[turn]);
            let pair = pair.ok_or(VirtioError::NoQueue)?;
            let used = pair.queue_mut(direction).pop()?;
            if used.is_some() || stay {
                return Ok(used);
            }
            self.next[turn] = (self.next[turn] + 1) % self.pairs.len();
        }
        Ok(None)
    }

    /// Tells the device of what was added, where it wants to know; how often it was told.
    pub(crate) fn notify<T: VirtioTransport>(&mut self, transport: &mut T) -> u64 {
        let mut count = 0;
        for pair in &mut self.pairs {
            if pair.receive.should_notify() {
                transport.notify(pair.receive.number());
                count += 1;
            }
            if pair.transmit.should_notify() {
                transport.notify(pair.transmit.number());
                count += 1;
            }
        }
        count
    }

    /// Asks for no interrupt.
    pub(crate) fn disarm(&mut self) {
        for pair in &mut self.pairs {
            pair.receive.disarm();
            pair.transmit.disarm();
        }
    }

    /// Asks for an interrupt once so many more buffers are returned; of several pairs, once one of them
    /// returns half of what it holds. True if they are there already.
    pub(crate) fn arm(&mut self, direction: Direction, count: u16) -> bool {
        if let [pair] = &mut self.pairs[..] {
            return pair.queue_mut(direction).arm(count);
        }
        let mut there = false;
        for pair in &mut self.pairs {
            let queue = pair.queue_mut(direction);
            let half = (queue.outstanding() / 2).clamp(1, count.max(1).into()) as u16;
            there |= queue.outstanding() > 0 && queue.arm(half);
        }
        there
    }
}

/// Bytes of the header before every packet, with these features (VIRTIO 1.2, section 5.1.6.1).
pub(crate) fn header_bytes(negotiated: u64) -> usize {
    match negotiated & (feature::VERSION_1 | net_feature::MRG_RXBUF) {
        0 => header::SHORT_BYTES,
        _ => header::BYTES,
    }
}
