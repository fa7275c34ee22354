//! What a card needs of a device's protocol. Which buffers a device gets, and when, is [`crate::Card`]'s.

use pci_function::Area;

/// Which way a packet goes, and so which of the device's queues is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the cable to the network stack.
    Receive,
    /// From the network stack to the cable.
    Transmit,
}

/// How a device has interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// By its only interrupt: its registers say why, and reading them lowers its line.
    Line,
    /// By one of several messages.
    Message {
        /// The first message came: the device's configuration, such as its link, may have changed.
        configuration: bool,
    },
}

/// A buffer that the device has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Returned {
    /// What the card called it.
    pub cookie: u64,
    /// Bytes of the received packet that it holds, without the device's header; `None` where it holds
    /// none that is whole, or what the device says is more than fits. Of a sent packet of no meaning.
    pub length: Option<usize>,
}

/// A network device that works. What it writes and says is hostile: an implementation answers
/// with an error, or with a packet of no length, and never with a cookie that it was not given.
pub trait Device: Sized {
    /// The device while nobody uses it: what is needed to start it.
    type Idle;
    /// How a device breaks its protocol.
    type Error: core::fmt::Debug;

    /// Resets the device, whatever state an earlier driver left it in: it reaches no memory until it is
    /// started. Comes before its bus mastering is switched on, so it must work without.
    fn reset(idle: &mut Self::Idle) -> Result<(), Self::Error>;
    /// Resets the device and starts it. The idle device comes back where it cannot be started.
    fn start(idle: Self::Idle) -> Result<Self, (Self::Idle, Self::Error)>;
    /// Resets the device. Where it does not confirm that, only switching its bus mastering off, which
    /// comes next, keeps it from memory; the memory of its queues is never used again then.
    fn stop(self) -> Self::Idle;
    /// Reads why an idle device has interrupted, which lowers its line.
    fn quiet(idle: &mut Self::Idle);

    /// Bytes of the device's header that stand before every packet.
    fn header_bytes(&self) -> usize;
    /// Bytes of a packet, without that header, that the device writes at most if it is not told a
    /// buffer's length; 0 if it is told.
    fn largest_write(&self) -> usize;
    /// Bytes of the longest packet that it sends, without that header.
    fn largest_sent(&self) -> usize;

    /// Whether the device takes one more packet, or buffer for one.
    fn has_room(&self, direction: Direction) -> bool;
    /// Buffers that the device holds.
    fn held(&self, direction: Direction) -> usize;
    /// Buffers that the device can hold.
    fn capacity(&self, direction: Direction) -> usize;

    /// Gives the device room for a packet: `area` is header and packet. The cookie comes back with the
    /// packet. The device learns of it with [`Device::notify`].
    fn give(&mut self, area: Area, cookie: u64) -> Result<(), Self::Error>;
    /// Gives the device a packet to send: `area` is room for the header, and the packet. The device
    /// learns of it with [`Device::notify`].
    fn send(&mut self, area: Area, cookie: u64) -> Result<(), Self::Error>;
    /// Tells the device of what it was given, where it wants to know; how often it was told.
    fn notify(&mut self) -> u64;
    /// Takes the next buffer that the device has returned. After an error the device does not follow
    /// its protocol, and only a reset mends that.
    fn take(&mut self, direction: Direction) -> Result<Option<Returned>, Self::Error>;

    /// Asks for no interrupt about packets. The device may still send one.
    fn disarm(&mut self);
    /// Asks for an interrupt once the device returns `count` more buffers, at least 1; a device that
    /// cannot count interrupts for the first. True if they are there already, and then no interrupt
    /// may come.
    fn arm(&mut self, direction: Direction, count: u16) -> bool;

    /// The device has interrupted: its cause is read, which lowers its line where it is one.
    fn interrupted(&mut self, interrupt: Interrupt);
    /// Whether the link may have changed since this was last asked.
    fn take_link_change(&mut self) -> bool;

    /// The Ethernet address.
    fn mac(&self) -> [u8; 6];
    /// Largest packet without its Ethernet header.
    fn mtu(&self) -> u16;
    /// Whether the device tells the state of its link.
    fn tells_link(&self) -> bool;
    /// Whether the link is up, as far as the device tells.
    fn is_link_up(&self) -> bool;
}
