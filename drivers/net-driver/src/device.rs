//! What a card needs of a device's protocol. Which buffers a device gets, and when, is [`crate::Card`]'s.

use ipc::interface::net_device::SendOffload;
use ipc::ring::Descriptor;
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

/// Why a received packet is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is shorter than its headers.
    Short,
    /// It is longer than what it was given, or than any packet is.
    Long,
    /// The device says that it is damaged.
    Damaged,
}

/// A buffer to receive into that the device has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// What the card called it.
    pub buffer: Descriptor,
    /// Bytes of a packet that it holds, without the device's header, or why they are of no use. A
    /// packet's first buffer begins with the device's header, the others begin with bytes of the packet.
    pub length: Result<usize, Fault>,
    /// The packet goes on in the buffer that the device returns next.
    pub more: bool,
    /// The packet's TCP or UDP checksum was verified, or was never computed. Of a packet's first buffer.
    pub verified: bool,
}

/// A network device that works. What it writes and says is hostile: an implementation answers
/// with an error, or with a packet that is dropped, and never with a buffer that it was not given.
pub trait Device: Sized {
    /// The device while nobody uses it: what is needed to start it.
    type Idle;
    /// How a device breaks its protocol.
    type Error: core::fmt::Debug;

    /// Resets the device, whatever state an earlier driver left it in: it reaches no memory until it is
    /// started. Comes before its bus mastering is switched on, so it must work without.
    fn reset(idle: &mut Self::Idle) -> Result<(), Self::Error>;
    /// Resets the device and starts it, with those of these `FEATURE_` bits that it has, for so many
    /// `buffers` to receive into. The idle device comes back where it cannot be started.
    fn start(
        idle: Self::Idle,
        features: u32,
        buffers: u32,
    ) -> Result<Self, (Self::Idle, Self::Error)>;
    /// Resets the device. Where it does not confirm that, only switching its bus mastering off, which
    /// comes next, keeps it from memory; the memory of its queues is never used again then.
    fn stop(self) -> Self::Idle;
    /// Reads why an idle device has interrupted, which lowers its line.
    fn quiet(idle: &mut Self::Idle);

    /// Says for the log what of the device is used.
    fn describe(&self, to: &mut core::fmt::Formatter<'_>) -> core::fmt::Result;
    /// The `FEATURE_` bits that hold: of those that it was started with.
    fn features(&self) -> u32;
    /// Bytes of the device's header that stand before every packet.
    fn header_bytes(&self) -> usize;
    /// Bytes of a packet, without that header, that the device writes at most if it is not told a
    /// buffer's length; 0 if it is told.
    fn largest_write(&self) -> usize;
    /// Bytes of the longest packet that it sends, without that header; one that it is to cut may have
    /// all that the interface allows.
    fn largest_sent(&self) -> usize;

    /// Whether the device takes one more packet, or buffer for one.
    fn has_room(&self, direction: Direction) -> bool;
    /// Buffers that the device holds.
    fn held(&self, direction: Direction) -> usize;
    /// Buffers that the device can hold.
    fn capacity(&self, direction: Direction) -> usize;

    /// Gives the device room for a packet: `area` is header and packet. `buffer` is what the card calls
    /// it. The device learns of it with [`Device::notify`].
    fn give(&mut self, area: Area, buffer: Descriptor) -> Result<(), Self::Error>;
    /// Gives the device a packet to send: `area` is room for the header, and the packet. `packet` is
    /// what the card calls it; `offload`, what the device is to do with it, is in the features that hold.
    /// The device learns of it with [`Device::notify`].
    fn send(
        &mut self,
        area: Area,
        offload: Option<SendOffload>,
        packet: Descriptor,
    ) -> Result<(), Self::Error>;
    /// Tells the device of what it was given, where it wants to know; how often it was told.
    fn notify(&mut self) -> u64;
    /// Takes the next buffer that the device has received into; they are parts of `pool`. After an error
    /// the device does not follow its protocol, and only a reset mends that.
    fn take_received(&mut self, pool: &Area) -> Result<Option<Received>, Self::Error>;
    /// Takes the next packet that the device has sent. Errors are as there.
    fn take_sent(&mut self) -> Result<Option<Descriptor>, Self::Error>;

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
    /// Whether the link is up, as far as the device tells.
    fn is_link_up(&self) -> bool;
}
