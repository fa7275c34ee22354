//! Enumeration: which functions the machine has, also behind bridges, and what each one is. Bus
//! numbers and addresses are the firmware's: what it left unassigned is left out or refused.

use alloc::vec::Vec;

use ipc::interface::pci::{Match, PciAddress, PciFunction};

use crate::bar::{BARS, Bar, read_bars};
use crate::capability::Capabilities;
use crate::config::ConfigSpace;
use crate::header;

/// Devices on a bus.
const DEVICES: u8 = 32;
/// Functions of a device.
const FUNCTIONS: u8 = 8;

/// A function of the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// What it says it is.
    pub header: PciFunction,
    /// Its base address registers; none are read of bridges.
    pub bars: [Option<Bar>; BARS],
    pub(crate) capabilities: Capabilities,
    /// The bridge that it lies behind, as a position in the list.
    pub(crate) upstream: Option<usize>,
    /// Whether it is a bridge of any kind: those are never handed out.
    pub(crate) bridge: bool,
    /// The slot that it is in, as a position in the list of slots, where it is on no bus.
    pub(crate) slot: Option<usize>,
}

impl Function {
    /// Whether it is what a driver wants.
    pub(crate) fn matches(&self, wanted: &Match) -> bool {
        let header = &self.header;
        !self.bridge
            && wanted
                .address
                .is_none_or(|address| self.slot.is_none() && address == header.address)
            && wanted.vendor.is_none_or(|vendor| vendor == header.vendor)
            && wanted.device.is_none_or(|device| device == header.device)
            && wanted
                .class
                .is_none_or(|class| u32::from(class) == header.class >> 8)
    }

    /// Whether the firmware gave addresses to all its registers.
    pub(crate) fn is_assigned(&self) -> bool {
        !self.bars.contains(&Some(Bar::Unassigned))
    }
}

/// Finds all functions, a bridge before what lies behind it.
///
/// A bridge whose secondary bus number is not above its own bus, or is another bridge's already, was
/// not set up by the firmware: what lies behind it cannot be reached and is not listed.
pub fn enumerate(config: &dyn ConfigSpace) -> Vec<Function> {
    let mut functions = Vec::new();
    let mut buses: Vec<(u8, Option<usize>)> = alloc::vec![(0, None)];
    let mut next = 0;
    while let Some((bus, upstream)) = buses.get(next).copied() {
        next += 1;
        for device in 0..DEVICES {
            scan_device(config, bus, device, upstream, &mut functions);
        }
        for (position, function) in functions.iter().enumerate() {
            let address = function.header.address;
            if address.bus != bus || !is_pci_bridge(config, address) {
                continue;
            }
            let secondary = config.read8(address, header::SECONDARY_BUS);
            let known = buses.iter().any(|(bus, _)| *bus == secondary);
            if secondary > bus && !known {
                buses.push((secondary, Some(position)));
            }
        }
    }
    functions
}

fn is_pci_bridge(config: &dyn ConfigSpace, address: PciAddress) -> bool {
    config.read8(address, header::HEADER_TYPE) & !header::HEADER_MULTIFUNCTION
        == header::HEADER_BRIDGE
}

/// Adds the functions of a device. Function 0 says whether there are others (PCI 3.0, section
/// 3.2.2.3.4).
fn scan_device(
    config: &dyn ConfigSpace,
    bus: u8,
    device: u8,
    upstream: Option<usize>,
    functions: &mut Vec<Function>,
) {
    for function in 0..FUNCTIONS {
        let address = PciAddress {
            segment: 0,
            bus,
            device,
            function,
        };
        let found = describe(config, address, upstream);
        if function == 0 && found.is_none() {
            return;
        }
        functions.extend(found);
        let kind = config.read8(
            PciAddress {
                function: 0,
                ..address
            },
            header::HEADER_TYPE,
        );
        if kind & header::HEADER_MULTIFUNCTION == 0 {
            return;
        }
    }
}

/// What a function is, if it is there.
fn describe(
    config: &dyn ConfigSpace,
    address: PciAddress,
    upstream: Option<usize>,
) -> Option<Function> {
    let identifiers = config.read32(address, header::IDENTIFIERS);
    let vendor = identifiers as u16;
    if vendor == header::NO_VENDOR {
        return None;
    }
    let class = config.read32(address, header::CLASS);
    let kind = config.read8(address, header::HEADER_TYPE) & !header::HEADER_MULTIFUNCTION;
    let endpoint = kind == header::HEADER_ENDPOINT;
    let bridge = !endpoint || class >> 24 == header::CLASS_BRIDGE;
    let subsystem = if endpoint {
        config.read32(address, header::SUBSYSTEM)
    } else {
        0
    };
    let bars = if bridge {
        [None; BARS]
    } else {
        read_bars(config, address)
    };
    let capabilities = Capabilities::read(config, address, &bars);
    let header = PciFunction {
        address,
        vendor,
        device: (identifiers >> 16) as u16,
        subsystem_vendor: subsystem as u16,
        subsystem: (subsystem >> 16) as u16,
        class: class >> 8,
        revision: class as u8,
        ..PciFunction::default()
    };
    Some(Function {
        header,
        bars,
        capabilities,
        upstream,
        bridge,
        slot: None,
    })
}

#[cfg(test)]
mod tests {
    use super::enumerate;
    use crate::fake::{FakeConfig, at};
    use ipc::interface::pci::{Match, PciAddress};

    fn addresses(config: &FakeConfig) -> Vec<PciAddress> {
        enumerate(config)
            .iter()
            .map(|function| function.header.address)
            .collect()
    }

    #[test]
    fn all_functions_of_a_device_are_found_only_if_it_says_it_has_them() {
        let config = FakeConfig::default();
        config.add(at(0, 3, 0), 1, 2, 0x02_0000);
        config.add(at(0, 3, 2), 1, 3, 0x02_0000);
        assert_eq!(addresses(&config), [at(0, 3, 0)]);
        config.set_header_type(at(0, 3, 0), 0x80);
        assert_eq!(addresses(&config), [at(0, 3, 0), at(0, 3, 2)]);
    }

    #[test]
    fn a_function_behind_bridges_knows_them() {
        let config = FakeConfig::default();
        config.add_bridge(at(0, 1, 0), 5);
        config.add_bridge(at(5, 0, 0), 6);
        config.add(at(6, 2, 0), 1, 2, 0x02_0000);
        let functions = enumerate(&config);
        assert_eq!(addresses(&config), [at(0, 1, 0), at(5, 0, 0), at(6, 2, 0)]);
        assert_eq!(
            (functions[2].upstream, functions[1].upstream),
            (Some(1), Some(0))
        );
    }

    #[test]
    fn bridges_without_or_with_another_ones_bus_number_are_not_followed() {
        let config = FakeConfig::default();
        config.add_bridge(at(0, 1, 0), 0);
        config.add_bridge(at(0, 2, 0), 5);
        config.add_bridge(at(0, 3, 0), 5);
        config.add_bridge(at(5, 0, 0), 5);
        config.add_bridge(at(5, 1, 0), 3);
        config.add(at(3, 0, 0), 1, 2, 0x02_0000);
        config.add(at(5, 2, 0), 1, 2, 0x02_0000);
        let functions = enumerate(&config);
        assert_eq!(functions.len(), 6, "each once, and nothing on bus 3");
        assert_eq!(functions[5].upstream, Some(1));
    }

    #[test]
    fn a_match_compares_what_is_given_and_never_takes_a_bridge() {
        let config = FakeConfig::default();
        config.add_bridge(at(0, 1, 0), 0);
        config.add(at(0, 2, 0), 0x1af4, 0x1000, 0x02_0000);
        let functions = enumerate(&config);
        assert!(!functions[0].matches(&Match::default()));
        let card = &functions[1];
        assert!(card.matches(&Match::default()));
        assert!(card.matches(&Match {
            vendor: Some(0x1af4),
            class: Some(0x0200),
            ..Match::default()
        }));
        assert!(!card.matches(&Match {
            vendor: Some(0x1af4),
            device: Some(1),
            ..Match::default()
        }));
        assert!(!card.matches(&Match {
            address: Some(at(0, 3, 0)),
            ..Match::default()
        }));
    }
}
