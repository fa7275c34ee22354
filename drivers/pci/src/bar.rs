//! Base address registers: what they stand for and how large that is (PCI 3.0, section 6.2.5).

use ipc::interface::pci::PciAddress;

use crate::config::ConfigSpace;
use crate::header;

/// Number of base address registers of an ordinary function.
pub(crate) const BARS: usize = 6;

/// Bit 0: I/O ports. PCI 3.0, section 6.2.5.1, as those below.
const IO: u32 = 1 << 0;
/// Bits 1 and 2 of a memory register: the width of the address.
const WIDTH: u32 = 3 << 1;
/// A 64-bit address: the next register is its upper half.
const WIDTH_64: u32 = 2 << 1;
/// Bit 3 of a memory register: reads have no side effects.
const PREFETCHABLE: u32 = 1 << 3;
/// Address bits of a memory register.
const MEMORY_MASK: u32 = !0xf;
/// Address bits of an I/O register.
const IO_MASK: u32 = !0x3;
/// End of what x86-64 can address physically (Intel SDM volume 3A, section 4.1.4: at most 52 bits).
const PHYSICAL_END: u64 = 1 << 52;
/// x86 has 65,536 ports: upper address bits of an I/O register mean nothing.
const PORT_MASK: u32 = 0xffff;

/// What a base address register stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bar {
    /// Memory-mapped registers.
    Memory {
        /// Physical address.
        address: u64,
        /// Size in bytes.
        bytes: u64,
        /// Reads have no side effects.
        prefetchable: bool,
    },
    /// I/O ports.
    Ports {
        /// First port.
        first: u16,
        /// Number of ports.
        count: u16,
    },
    /// The firmware assigned no address: the function cannot be used.
    Unassigned,
}

/// Reads a function's base address registers. Address decoding is off meanwhile, because sizing
/// writes all ones into them (PCI 3.0, section 6.2.5.1); afterwards all is as it was.
pub(crate) fn read_bars(config: &dyn ConfigSpace, address: PciAddress) -> [Option<Bar>; BARS] {
    let command = config.command(address);
    let decoding = header::command::IO_SPACE | header::command::MEMORY_SPACE;
    config.change_command(address, decoding, 0);
    let mut bars = [None; BARS];
    let mut index = 0;
    while index < BARS {
        let (bar, registers) = read_bar(config, address, index);
        bars[index] = bar;
        index += registers;
    }
    config.change_command(address, decoding, command & decoding);
    bars
}

/// Reads one register, or the two of a 64-bit one; also says which of both.
fn read_bar(config: &dyn ConfigSpace, address: PciAddress, index: usize) -> (Option<Bar>, usize) {
    let offset = header::BAR0 + 4 * index as u16;
    let (low, low_mask) = probe(config, address, offset);
    if low & IO != 0 {
        return (ports(low, low_mask), 1);
    }
    if low & WIDTH != WIDTH_64 {
        // The upper half of a 32-bit address is 0 and its size mask all ones.
        return (memory(low, low_mask, 0, u32::MAX), 1);
    }
    if index + 1 == BARS {
        // A 64-bit register in the last place has no upper half: it is malformed.
        return (None, 1);
    }
    let (high, high_mask) = probe(config, address, offset + 4);
    (memory(low, low_mask, high, high_mask), 2)
}

/// A register's value, and which of its bits can be set.
fn probe(config: &dyn ConfigSpace, address: PciAddress, offset: u16) -> (u32, u32) {
    let value = config.read32(address, offset);
    config.write32(address, offset, u32::MAX);
    let mask = config.read32(address, offset);
    config.write32(address, offset, value);
    (value, mask)
}

fn ports(value: u32, mask: u32) -> Option<Bar> {
    let settable = mask & IO_MASK & PORT_MASK;
    if settable == 0 {
        return None;
    }
    let first = (value & IO_MASK & PORT_MASK) as u16;
    // The lowest bit that can be set is the size.
    let count = 1u32 << settable.trailing_zeros();
    if first == 0 || u32::from(first) + count > PORT_MASK + 1 {
        return Some(Bar::Unassigned);
    }
    Some(Bar::Ports {
        first,
        count: count as u16,
    })
}

fn memory(low: u32, low_mask: u32, high: u32, high_mask: u32) -> Option<Bar> {
    let settable = u64::from(high_mask) << 32 | u64::from(low_mask & MEMORY_MASK);
    let implemented = low_mask & MEMORY_MASK != 0 || (low & WIDTH == WIDTH_64 && high_mask != 0);
    if !implemented {
        return None;
    }
    let address = u64::from(high) << 32 | u64::from(low & MEMORY_MASK);
    let bytes = 1u64 << settable.trailing_zeros();
    if address == 0
        || address
            .checked_add(bytes)
            .is_none_or(|end| end > PHYSICAL_END)
    {
        return Some(Bar::Unassigned);
    }
    Some(Bar::Memory {
        address,
        bytes,
        prefetchable: low & PREFETCHABLE != 0,
    })
}

#[cfg(test)]
mod tests {
    use super::{Bar, read_bars};
    use crate::config::ConfigSpace;
    use crate::fake::{CARD, FakeConfig};

    /// The registers of a function whose BARs have these values and size masks.
    fn bars(registers: &[(u32, u32)]) -> [Option<Bar>; 6] {
        let config = FakeConfig::default();
        config.add(CARD, 0x1af4, 0x1000, 0x02_0000);
        config.write32(CARD, 4, 3);
        for (index, (value, mask)) in registers.iter().enumerate() {
            config.set_bar(CARD, index, *value, *mask);
        }
        let bars = read_bars(&config, CARD);
        assert_eq!(config.command(CARD), 3, "decoding is on again");
        assert!(!config.decoding_while_sizing());
        for (index, (value, _)) in registers.iter().enumerate() {
            assert_eq!(
                config.read32(CARD, 0x10 + 4 * index as u16),
                *value,
                "values are restored"
            );
        }
        bars
    }

    #[test]
    fn all_kinds_are_sized() {
        let found = bars(&[
            (0xc041, 0xffff_ffe1),
            (0xfebd_1000, 0xffff_f000),
            (0x0000_000c, 0xffff_c00c),
            (0x0000_0008, 0xffff_ffff),
            (0, 0),
        ]);
        assert_eq!(
            found[0],
            Some(Bar::Ports {
                first: 0xc040,
                count: 32
            })
        );
        let bytes = 4096;
        assert_eq!(
            found[1],
            Some(Bar::Memory {
                address: 0xfebd_1000,
                bytes,
                prefetchable: false
            })
        );
        let (address, bytes) = (0x8_0000_0000, 0x4000);
        assert_eq!(
            found[2],
            Some(Bar::Memory {
                address,
                bytes,
                prefetchable: true
            })
        );
        assert_eq!(found[3..], [None, None, None]);
    }

    #[test]
    fn what_the_firmware_left_out_is_told_apart_from_what_is_not_there() {
        let found = bars(&[
            (1, 0xffff_ffe1),
            (0, 0xffff_f000),
            (4, 0xffff_c004),
            (0, 0xffff_ffff),
        ]);
        assert_eq!(found[..3], [Some(Bar::Unassigned); 3]);
    }

    #[test]
    fn malformed_registers_are_left_out() {
        let mut registers = [(0, 0); 6];
        registers[5] = (4, 0xffff_f004);
        assert_eq!(
            bars(&registers)[5],
            None,
            "a 64-bit register without an upper half"
        );
        registers[5] = (0xffff_ffe1, 0xffff_ffe1);
        assert_eq!(
            bars(&registers)[5],
            Some(Bar::Ports {
                first: 0xffe0,
                count: 32
            })
        );
        // All ones is what a function that is gone answers: nothing about it is believed, but
        // neither does it panic.
        registers[4] = (0xffff_fff4, 0xffff_fff4);
        registers[5] = (0xffff_ffff, 0xffff_ffff);
        assert_eq!(bars(&registers)[4], Some(Bar::Unassigned));
        registers[5] = (0x000f_ffff, 0xffff_ffff);
        assert!(
            matches!(bars(&registers)[4], Some(Bar::Memory { .. })),
            "the last addresses"
        );
        registers[5] = (0x0010_0000, 0xffff_ffff);
        assert_eq!(
            bars(&registers)[4],
            Some(Bar::Unassigned),
            "beyond what a CPU can address"
        );
    }
}
