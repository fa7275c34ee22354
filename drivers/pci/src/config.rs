//! Access to configuration space: the trait, and configuration mechanism #1 behind it. Which
//! register means what is `header`'s; who may touch which function is the service's.

use ipc::interface::pci::PciAddress;
use registers::Ports;

use crate::header;

/// First port of configuration mechanism #1 (PCI 3.0, section 3.2.2.3.2).
pub const MECHANISM1_FIRST_PORT: u16 = 0xcf8;
/// Number of its ports: CONFIG_ADDRESS and CONFIG_DATA.
pub const MECHANISM1_PORTS: u16 = 8;
/// Offset of CONFIG_ADDRESS.
const ADDRESS: u16 = 0;
/// Offset of CONFIG_DATA.
const DATA: u16 = 4;
/// CONFIG_ADDRESS: the next access to CONFIG_DATA is a configuration access.
const ENABLE: u32 = 1 << 31;

/// A machine's configuration space. What is not there reads as all ones.
pub trait ConfigSpace {
    /// Bytes that each function has: 256, or 4,096 where configuration space is memory-mapped.
    fn bytes(&self) -> u16;
    /// Reads four bytes at a multiple of four.
    fn read32(&self, address: PciAddress, offset: u16) -> u32;
    /// Writes four bytes at a multiple of four.
    fn write32(&self, address: PciAddress, offset: u16, value: u32);

    /// Reads two bytes at a multiple of two.
    fn read16(&self, address: PciAddress, offset: u16) -> u16 {
        (self.read32(address, offset & !3) >> (8 * (offset & 2))) as u16
    }

    /// Reads one byte.
    fn read8(&self, address: PciAddress, offset: u16) -> u8 {
        (self.read32(address, offset & !3) >> (8 * (offset & 3))) as u8
    }

    /// Writes two bytes at a multiple of two, the other two with what is read there.
    fn write16(&self, address: PciAddress, offset: u16, value: u16) {
        let shift = 8 * (offset & 2);
        let other = self.read32(address, offset & !3) & !(0xffff << shift);
        self.write32(address, offset & !3, other | u32::from(value) << shift);
    }

    /// The command register.
    fn command(&self, address: PciAddress) -> u16 {
        self.read16(address, header::COMMAND)
    }

    /// Changes bits of the command register. The status register above it is written as zeros,
    /// which leaves its write-one-to-clear bits alone (PCI 3.0, section 6.2.3).
    fn change_command(&self, address: PciAddress, clear: u16, set: u16) {
        let command = self.command(address) & !clear | set;
        self.write32(address, header::COMMAND, command.into());
    }
}

/// Configuration mechanism #1: an address port and a data port, segment 0, 256 bytes a function.
#[derive(Debug)]
pub struct Mechanism1<P: Ports> {
    ports: P,
}

impl<P: Ports> Mechanism1<P> {
    /// The mechanism behind the window of [`MECHANISM1_PORTS`] ports.
    pub const fn new(ports: P) -> Mechanism1<P> {
        Mechanism1 { ports }
    }

    /// Selects a register; false for one that this mechanism cannot name.
    fn select(&self, address: PciAddress, offset: u16) -> bool {
        if address.segment != 0 || offset >= self.bytes() || address.device > 31 {
            return false;
        }
        let bus = u32::from(address.bus) << 16;
        let device = u32::from(address.device) << 11;
        let function = u32::from(address.function & 7) << 8;
        let register = u32::from(offset & !3);
        self.ports
            .write32(ADDRESS, ENABLE | bus | device | function | register);
        true
    }
}

impl<P: Ports> ConfigSpace for Mechanism1<P> {
    fn bytes(&self) -> u16 {
        256
    }

    fn read32(&self, address: PciAddress, offset: u16) -> u32 {
        if self.select(address, offset) {
            self.ports.read32(DATA)
        } else {
            u32::MAX
        }
    }

    fn write32(&self, address: PciAddress, offset: u16, value: u32) {
        if self.select(address, offset) {
            self.ports.write32(DATA, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ConfigSpace, Mechanism1, PciAddress};
    use core::cell::RefCell;
    use registers::Ports;

    /// Remembers the 32-bit writes and answers reads with the last address written.
    #[derive(Default)]
    struct Wire(RefCell<Vec<(u16, u32)>>);

    impl Ports for &Wire {
        fn length(&self) -> u16 {
            8
        }
        fn read8(&self, _: u16) -> u8 {
            unreachable!("this mechanism is used with 32-bit accesses")
        }
        fn read16(&self, _: u16) -> u16 {
            unreachable!("this mechanism is used with 32-bit accesses")
        }
        fn read32(&self, offset: u16) -> u32 {
            assert_eq!(offset, 4);
            self.0.borrow().last().unwrap().1
        }
        fn write8(&self, _: u16, _: u8) {
            unreachable!("this mechanism is used with 32-bit accesses")
        }
        fn write16(&self, _: u16, _: u16) {
            unreachable!("this mechanism is used with 32-bit accesses")
        }
        fn write32(&self, offset: u16, value: u32) {
            self.0.borrow_mut().push((offset, value));
        }
    }

    const CARD: PciAddress = PciAddress {
        segment: 0,
        bus: 2,
        device: 31,
        function: 7,
    };

    #[test]
    fn an_address_names_bus_device_function_and_register() {
        let wire = Wire::default();
        let config = Mechanism1::new(&wire);
        assert_eq!(config.read32(CARD, 0x3c), 0x8002_ff3c);
        config.write32(CARD, 0x10, 7);
        assert_eq!(wire.0.borrow()[1..], [(0, 0x8002_ff10), (4, 7)]);
        assert_eq!(config.read16(CARD, 0x3e), 0x8002);
        assert_eq!(config.read8(CARD, 0x3d), 0xff);
    }

    #[test]
    fn what_it_cannot_name_is_not_there() {
        let wire = Wire::default();
        let config = Mechanism1::new(&wire);
        assert_eq!(
            config.read32(PciAddress { segment: 1, ..CARD }, 0),
            u32::MAX
        );
        assert_eq!(config.read32(CARD, 256), u32::MAX);
        assert_eq!(
            config.read32(PciAddress { device: 32, ..CARD }, 0),
            u32::MAX
        );
        assert!(wire.0.borrow().is_empty(), "no access was made");
    }
}
