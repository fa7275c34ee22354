//! Configuration space registers: offsets and bits of the PCI Local Bus Specification 3.0 ("PCI
//! 3.0") and the PCI-to-PCI Bridge Architecture Specification 1.2 ("bridge 1.2").

/// Vendor (bits 0 to 15) and device (bits 16 to 31); PCI 3.0, section 6.2.1.
pub(crate) const IDENTIFIERS: u16 = 0x00;
/// Vendor of a function that is not there; PCI 3.0, section 6.1.
pub(crate) const NO_VENDOR: u16 = 0xffff;
/// Command, 16 bits; PCI 3.0, section 6.2.2.
pub(crate) const COMMAND: u16 = 0x04;
/// Status, 16 bits; PCI 3.0, section 6.2.3.
pub(crate) const STATUS: u16 = 0x06;
/// Revision (bits 0 to 7) and class code (bits 8 to 31); PCI 3.0, section 6.2.1.
pub(crate) const CLASS: u16 = 0x08;
/// Header type; PCI 3.0, section 6.2.1.
pub(crate) const HEADER_TYPE: u16 = 0x0e;
/// First base address register; PCI 3.0, section 6.2.5.
pub(crate) const BAR0: u16 = 0x10;
/// Secondary bus number of a bridge; bridge 1.2, section 3.2.5.3.
pub(crate) const SECONDARY_BUS: u16 = 0x19;
/// Subsystem vendor (bits 0 to 15) and subsystem (bits 16 to 31); PCI 3.0, section 6.2.4.
pub(crate) const SUBSYSTEM: u16 = 0x2c;
/// Offset of the first capability; PCI 3.0, section 6.7.
pub(crate) const CAPABILITIES: u16 = 0x34;
/// Interrupt line; PCI 3.0, section 6.2.4.
pub(crate) const INTERRUPT_LINE: u16 = 0x3c;
/// Interrupt pin: 0 where the function has none; PCI 3.0, section 6.2.4.
pub(crate) const INTERRUPT_PIN: u16 = 0x3d;

/// Bits of the command register; PCI 3.0, table 6-1.
pub(crate) mod command {
    /// The function answers at its I/O addresses.
    pub(crate) const IO_SPACE: u16 = 1 << 0;
    /// The function answers at its memory addresses.
    pub(crate) const MEMORY_SPACE: u16 = 1 << 1;
    /// The function may read and write memory, and send message-signalled interrupts.
    pub(crate) const BUS_MASTER: u16 = 1 << 2;
    /// The function may not assert its INTx line.
    pub(crate) const INTERRUPT_DISABLE: u16 = 1 << 10;
}

/// Bit of the status register: there is a capability list; PCI 3.0, table 6-2.
pub(crate) const STATUS_CAPABILITIES: u16 = 1 << 4;
/// Bit of the header type: the device has more functions than function 0; PCI 3.0, section 6.2.1.
pub(crate) const HEADER_MULTIFUNCTION: u8 = 1 << 7;
/// Header type of an ordinary function.
pub(crate) const HEADER_ENDPOINT: u8 = 0;
/// Header type of a PCI-to-PCI bridge; bridge 1.2, section 3.2.
pub(crate) const HEADER_BRIDGE: u8 = 1;
/// Base class of bridges; PCI 3.0, appendix D.
pub(crate) const CLASS_BRIDGE: u32 = 0x06;

/// Capability identifiers; PCI 3.0, appendix H.
pub(crate) mod capability {
    /// Message-signalled interrupts; PCI 3.0, section 6.8.1.
    pub(crate) const MSI: u8 = 0x05;
    /// Vendor-specific; virtio's structures are told by these.
    pub(crate) const VENDOR: u8 = 0x09;
    /// MSI-X; PCI 3.0, section 6.8.2.
    pub(crate) const MSIX: u8 = 0x11;
}
