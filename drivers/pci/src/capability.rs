//! The capability list (PCI 3.0, section 6.7) and the capabilities that this server knows: MSI,
//! MSI-X and virtio's. The list is the device's to write: it may loop or point anywhere.

use alloc::vec::Vec;

use ipc::interface::pci::{PciAddress, VirtioLocation, VirtioStructure};

use crate::bar::{BARS, Bar};
use crate::config::ConfigSpace;
use crate::header;

/// First byte that capabilities can use: the header ends there.
const FIRST: u16 = 0x40;
/// Most capabilities that fit, 4 bytes each, between the header and byte 256.
const MOST: usize = (256 - FIRST as usize) / 4;

/// A function's capabilities, identifier and offset each, in the order of the list. A list that
/// comes back to where it was, or leaves its room, ends there.
pub(crate) fn capabilities(config: &dyn ConfigSpace, address: PciAddress) -> Vec<(u8, u16)> {
    let mut found = Vec::new();
    if config.read16(address, header::STATUS) & header::STATUS_CAPABILITIES == 0 {
        return found;
    }
    // The lowest two bits are reserved (PCI 3.0, section 6.7).
    let mut offset = u16::from(config.read8(address, header::CAPABILITIES) & !3);
    while offset >= FIRST && found.len() < MOST {
        if found.iter().any(|(_, seen)| *seen == offset) {
            break;
        }
        let entry = config.read16(address, offset);
        found.push((entry as u8, offset));
        offset = entry >> 8 & !3;
    }
    found
}

/// The MSI-X capability (PCI 3.0, section 6.8.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Msix {
    offset: u16,
    /// Entries of the table, 1 to 2,048.
    pub(crate) entries: u16,
    /// The base address register that the table lies in.
    pub(crate) bar: usize,
    /// Its offset there.
    pub(crate) table: u32,
}

/// Bytes of a table entry (PCI 3.0, figure 6-11).
pub(crate) const MSIX_ENTRY_BYTES: u32 = 16;
/// Message control: MSI-X on (PCI 3.0, section 6.8.2.3).
const MSIX_ENABLE: u16 = 1 << 15;
/// Message control: all vectors masked.
const MSIX_MASK_ALL: u16 = 1 << 14;

impl Msix {
    /// Reads the capability at `offset`; `None` where the table does not lie in a BAR whole.
    fn read(
        config: &dyn ConfigSpace,
        address: PciAddress,
        offset: u16,
        bars: &[Option<Bar>; BARS],
    ) -> Option<Msix> {
        let entries = (config.read16(address, offset + 2) & 0x7ff) + 1;
        let place = config.read32(address, offset + 4);
        let (bar, table) = ((place & 7) as usize, place & !7);
        let Bar::Memory { bytes, .. } = (*bars.get(bar)?)? else {
            return None;
        };
        let end = u64::from(table) + u64::from(entries) * u64::from(MSIX_ENTRY_BYTES);
        (end <= bytes).then_some(Msix {
            offset,
            entries,
            bar,
            table,
        })
    }

    /// Switches MSI-X on or off; on, the vectors that are not masked singly are let through.
    pub(crate) fn switch(&self, config: &dyn ConfigSpace, address: PciAddress, on: bool) {
        let control = config.read16(address, self.offset + 2) & !(MSIX_ENABLE | MSIX_MASK_ALL);
        let control = if on { control | MSIX_ENABLE } else { control };
        config.write16(address, self.offset + 2, control);
    }
}

/// The MSI capability (PCI 3.0, section 6.8.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Msi {
    offset: u16,
    wide: bool,
}

/// Message control: MSI on (PCI 3.0, section 6.8.1.3).
const MSI_ENABLE: u16 = 1 << 0;
/// Message control: number of messages, 0 for one.
const MSI_COUNT: u16 = 7 << 4;
/// Message control: the address has 64 bits.
const MSI_WIDE: u16 = 1 << 7;

impl Msi {
    fn read(config: &dyn ConfigSpace, address: PciAddress, offset: u16) -> Msi {
        Msi {
            offset,
            wide: config.read16(address, offset + 2) & MSI_WIDE != 0,
        }
    }

    /// Sends this one message for interrupts from now on.
    pub(crate) fn enable(
        &self,
        config: &dyn ConfigSpace,
        address: PciAddress,
        message: (u64, u32),
    ) {
        config.write32(address, self.offset + 4, message.0 as u32);
        let data = if self.wide {
            config.write32(address, self.offset + 8, (message.0 >> 32) as u32);
            self.offset + 12
        } else {
            self.offset + 8
        };
        config.write16(address, data, message.1 as u16);
        let control = config.read16(address, self.offset + 2) & !MSI_COUNT;
        config.write16(address, self.offset + 2, control | MSI_ENABLE);
    }

    /// Sends none any more.
    pub(crate) fn disable(&self, config: &dyn ConfigSpace, address: PciAddress) {
        let control = config.read16(address, self.offset + 2);
        config.write16(address, self.offset + 2, control & !MSI_ENABLE);
    }
}

/// The capabilities of a function that this server uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capabilities {
    pub(crate) msi: Option<Msi>,
    pub(crate) msix: Option<Msix>,
    vendor: Vec<u16>,
}

impl Capabilities {
    /// Reads the list of a function with these base address registers.
    pub(crate) fn read(
        config: &dyn ConfigSpace,
        address: PciAddress,
        bars: &[Option<Bar>; BARS],
    ) -> Capabilities {
        let mut found = Capabilities::default();
        for (identifier, offset) in capabilities(config, address) {
            match identifier {
                header::capability::MSI => found.msi = Some(Msi::read(config, address, offset)),
                header::capability::MSIX => found.msix = Msix::read(config, address, offset, bars),
                header::capability::VENDOR => found.vendor.push(offset),
                _ => {}
            }
        }
        found
    }

    /// Finds a structure of a virtio device: the first of its type that lies in a memory BAR
    /// (VIRTIO 1.2, section 4.1.4).
    pub(crate) fn virtio(
        &self,
        config: &dyn ConfigSpace,
        address: PciAddress,
        bars: &[Option<Bar>; BARS],
        structure: VirtioStructure,
    ) -> Option<VirtioLocation> {
        let wanted = match structure {
            VirtioStructure::Common => 1,
            VirtioStructure::Notify => 2,
            VirtioStructure::InterruptStatus => 3,
            VirtioStructure::Device => 4,
        };
        self.vendor.iter().find_map(|offset| {
            let length = config.read8(address, offset + 2);
            let kind = config.read8(address, offset + 3);
            // `struct virtio_pci_cap` has 16 bytes, with the notify multiplier 20.
            let needed = if structure == VirtioStructure::Notify {
                20
            } else {
                16
            };
            if kind != wanted || length < needed || *offset > 256 - u16::from(needed) {
                return None;
            }
            let bar = config.read8(address, offset + 4);
            let start = config.read32(address, offset + 8);
            let bytes = config.read32(address, offset + 12);
            let Bar::Memory { bytes: room, .. } = (*bars.get(usize::from(bar))?)? else {
                return None;
            };
            let inside = u64::from(start) + u64::from(bytes) <= room;
            let notify_multiplier = match structure {
                VirtioStructure::Notify => config.read32(address, offset + 16),
                _ => 0,
            };
            inside.then_some(VirtioLocation {
                bar,
                offset: start,
                bytes,
                notify_multiplier,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Bar, Capabilities, VirtioStructure, capabilities};
    use crate::config::ConfigSpace;
    use crate::fake::{CARD, FakeConfig};

    fn card() -> FakeConfig {
        let config = FakeConfig::default();
        config.add(CARD, 0x1af4, 0x1041, 0x02_0000);
        config
    }

    fn bars(bytes: u64) -> [Option<Bar>; 6] {
        let mut bars = [None; 6];
        bars[4] = Some(Bar::Memory {
            address: 0xfe00_0000,
            bytes,
            prefetchable: true,
        });
        bars[0] = Some(Bar::Ports {
            first: 0xc000,
            count: 32,
        });
        bars
    }

    #[test]
    fn a_list_is_read_in_order() {
        let config = card();
        config.set_capabilities(CARD, &[(0x40, 0x01), (0x80, 0x11), (0x50, 0x09)]);
        assert_eq!(
            capabilities(&config, CARD),
            [(1, 0x40), (0x11, 0x80), (9, 0x50)]
        );
    }

    #[test]
    fn a_list_that_loops_ends() {
        let config = card();
        config.set_capabilities(CARD, &[(0x40, 1), (0x44, 2)]);
        config.write32(CARD, 0x44, 0x4002);
        assert_eq!(capabilities(&config, CARD).len(), 2);
        config.write32(CARD, 0x40, 0x4001);
        assert_eq!(
            capabilities(&config, CARD).len(),
            1,
            "a capability that is its own next"
        );
    }

    #[test]
    fn a_list_that_leaves_its_room_ends() {
        let config = card();
        config.set_capabilities(CARD, &[(0x40, 1)]);
        config.write32(CARD, 0x40, 0x0c01);
        assert_eq!(
            capabilities(&config, CARD),
            [(1, 0x40)],
            "it points into the header"
        );
        config.write32(CARD, 0x40, 0x4301);
        assert_eq!(
            capabilities(&config, CARD),
            [(1, 0x40)],
            "reserved bits are ignored"
        );
    }

    #[test]
    fn no_list_without_the_status_bit() {
        let config = card();
        config.set_capabilities(CARD, &[(0x40, 1)]);
        config.raw_write(CARD, 4, 0);
        assert!(capabilities(&config, CARD).is_empty());
    }

    #[test]
    fn msix_whose_table_is_not_in_a_memory_bar_is_not_used() {
        let config = card();
        config.set_capabilities(CARD, &[(0x40, 0x11)]);
        config.raw_write(CARD, 0x40, 0x0002_0011);
        for (place, good) in [
            (4, true),
            (4 | 0xfd0, true),
            (4 | 0xfd8, false),
            (0, false),
            (6, false),
            (7, false),
        ] {
            config.raw_write(CARD, 0x44, place);
            let found = Capabilities::read(&config, CARD, &bars(4096)).msix;
            assert_eq!(found.is_some(), good, "table at {place:#x}");
        }
    }

    #[test]
    fn virtio_structures_lie_in_their_bar_or_are_not_there() {
        let config = card();
        config.set_capabilities(CARD, &[(0x40, 9), (0x54, 9), (0x68, 9)]);
        config.set_virtio(CARD, 0x40, 1, 4, 0, 56);
        config.set_virtio(CARD, 0x54, 2, 4, 0x3000, 0x1000);
        config.raw_write(CARD, 0x64, 4);
        config.set_virtio(CARD, 0x68, 4, 4, 0x3ff0, 0x20);
        let find = |structure| {
            let found = Capabilities::read(&config, CARD, &bars(0x4000));
            found.virtio(&config, CARD, &bars(0x4000), structure)
        };
        let common = find(VirtioStructure::Common).unwrap();
        assert_eq!((common.bar, common.offset, common.bytes), (4, 0, 56));
        assert_eq!(find(VirtioStructure::Notify).unwrap().notify_multiplier, 4);
        assert_eq!(find(VirtioStructure::InterruptStatus), None);
        assert_eq!(
            find(VirtioStructure::Device),
            None,
            "it ends beyond the BAR"
        );
        config.set_virtio(CARD, 0x68, 4, 4, u32::MAX, u32::MAX);
        assert_eq!(find(VirtioStructure::Device), None, "the sum does not wrap");
        config.set_virtio(CARD, 0x68, 4, 0, 0, 16);
        assert_eq!(find(VirtioStructure::Device), None, "it is in I/O ports");
        config.set_virtio(CARD, 0x68, 4, 200, 0, 16);
        assert_eq!(find(VirtioStructure::Device), None, "there is no such BAR");
    }
}
