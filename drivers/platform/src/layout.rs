//! Which power button a machine has and where: what the kernel read in the firmware's FADT, and for
//! machines without fixed registers a word of the command line, since only AML describes their device.

use ipc::info::PowerInfo;

/// The word of the command line that names a Generic Event Device: `acpi_ged=ADDRESS,LINE`, the
/// address of its register in hexadecimal and its I/O APIC input in decimal.
const GENERIC: &str = "acpi_ged=";

/// A range of I/O ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The first port.
    pub first: u16,
    /// Their number.
    pub ports: u16,
}

/// How the interrupt is wired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wiring {
    /// I/O APIC input.
    pub line: u32,
    /// Level-triggered, else by edge.
    pub level: bool,
    /// Active low, else active high.
    pub active_low: bool,
}

/// The fixed registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fixed {
    /// The PM1 event blocks, a and b.
    pub pm1: [Option<Block>; 2],
    /// The PM1a control register.
    pub control: Option<Block>,
    /// The general-purpose event blocks.
    pub general: [Option<Block>; 2],
    /// The port that switches ACPI mode on, and what to write to it.
    pub enable: Option<(Block, u8)>,
    /// The interrupt.
    pub wiring: Wiring,
}

/// The machine's power button.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Among the fixed events.
    Fixed(Fixed),
    /// Behind a Generic Event Device.
    Generic {
        /// Physical address of its event register.
        address: u64,
        /// The interrupt.
        wiring: Wiring,
    },
    /// There is none, or only AML knows it.
    None,
}

/// Why a layout cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// The command line's word is none: its value.
    Word,
    /// The firmware's table names something that is no port.
    Port,
}

impl core::fmt::Display for LayoutError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str(match self {
            Self::Word => "write acpi_ged=ADDRESS,LINE, as in acpi_ged=0xfea00000,9",
            Self::Port => "the firmware's FADT names an I/O port that cannot be",
        })
    }
}

impl core::error::Error for LayoutError {}

impl Layout {
    /// What the machine has. The word of the command line comes first: who wrote it knows more.
    ///
    /// # Errors
    /// [`LayoutError`].
    pub fn find(power: &PowerInfo, command_line: &str) -> Result<Layout, LayoutError> {
        let mut words = command_line.split_ascii_whitespace();
        if let Some(value) = words.find_map(|word| word.strip_prefix(GENERIC)) {
            return generic(value).ok_or(LayoutError::Word);
        }
        if power.fixed_button == 0 {
            return Ok(Layout::None);
        }
        fixed(power).map(Layout::Fixed).ok_or(LayoutError::Port)
    }
}

/// Reads `ADDRESS,LINE`. QEMU's device, the only one that is known, interrupts by a rising edge.
fn generic(value: &str) -> Option<Layout> {
    let (address, line) = value.split_once(',')?;
    let address = u64::from_str_radix(address.strip_prefix("0x")?, 16).ok()?;
    let wiring = Wiring {
        line: line.parse().ok()?,
        level: false,
        active_low: false,
    };
    // The register is four bytes wide, and no device is at address 0.
    (address != 0 && address.is_multiple_of(4)).then_some(Layout::Generic { address, wiring })
}

fn fixed(power: &PowerInfo) -> Option<Fixed> {
    let pm1 = |first| block(first, power.pm1_event_ports);
    let enable = block(power.enable_port, 1)?;
    let value = u8::try_from(power.enable_value).ok()?;
    Some(Fixed {
        pm1: [pm1(power.pm1a_event)?, pm1(power.pm1b_event)?],
        control: block(power.pm1a_control, 2)?,
        general: [
            block(power.general_0, power.general_0_ports)?,
            block(power.general_1, power.general_1_ports)?,
        ],
        enable: enable.map(|block| (block, value)),
        wiring: Wiring {
            line: u32::try_from(power.line).ok()?,
            level: power.line_level != 0,
            active_low: power.line_active_low != 0,
        },
    })
}

/// A block, none if it begins at port 0; `None` if it cannot be.
fn block(first: u64, ports: u64) -> Option<Option<Block>> {
    if first == 0 || ports == 0 {
        return Some(None);
    }
    let first = u16::try_from(first).ok()?;
    let ports = u16::try_from(ports).ok()?;
    first.checked_add(ports - 1)?;
    Some(Some(Block { first, ports }))
}

#[cfg(test)]
mod tests {
    use super::{Block, Fixed, Layout, LayoutError, Wiring};
    use ipc::info::PowerInfo;

    /// What the kernel says of QEMU's pc.
    const PC: PowerInfo = PowerInfo {
        pm1a_event: 0x600,
        pm1b_event: 0,
        pm1_event_ports: 4,
        pm1a_control: 0x604,
        general_0: 0xafe0,
        general_0_ports: 4,
        general_1: 0,
        general_1_ports: 0,
        enable_port: 0xb2,
        enable_value: 0xf1,
        line: 9,
        line_level: 1,
        line_active_low: 0,
        fixed_button: 1,
    };

    const fn block(first: u16, ports: u16) -> Option<Block> {
        Some(Block { first, ports })
    }

    #[test]
    fn fixed_registers_are_found() {
        let expected = Fixed {
            pm1: [block(0x600, 4), None],
            control: block(0x604, 2),
            general: [block(0xafe0, 4), None],
            enable: Some((
                Block {
                    first: 0xb2,
                    ports: 1,
                },
                0xf1,
            )),
            wiring: Wiring {
                line: 9,
                level: true,
                active_low: false,
            },
        };
        assert_eq!(Layout::find(&PC, "a=b"), Ok(Layout::Fixed(expected)));
    }

    #[test]
    fn button_that_is_not_fixed_is_none() {
        let power = PowerInfo {
            fixed_button: 0,
            ..PC
        };
        assert_eq!(Layout::find(&power, ""), Ok(Layout::None));
        assert_eq!(
            Layout::find(&PowerInfo::default(), ""),
            Ok(Layout::None),
            "a machine without a FADT"
        );
    }

    #[test]
    fn ports_that_cannot_be_are_refused() {
        for power in [
            PowerInfo {
                pm1a_event: 0x1_0000,
                ..PC
            },
            PowerInfo {
                general_0: 0xfffe,
                ..PC
            },
            PowerInfo {
                enable_value: 0x100,
                ..PC
            },
        ] {
            assert_eq!(Layout::find(&power, ""), Err(LayoutError::Port));
        }
    }

    #[test]
    fn generic_event_device_is_named_on_the_command_line() {
        let line = "suite=x acpi_ged=0xfea00000,9 console=ttyS0";
        let found = Layout::find(&PowerInfo::default(), line);
        let wiring = Wiring {
            line: 9,
            level: false,
            active_low: false,
        };
        let expected = Layout::Generic {
            address: 0xfea0_0000,
            wiring,
        };
        assert_eq!(found, Ok(expected));
        for bad in [
            "",
            "0xfea00000",
            "fea00000,9",
            "0xfea00002,9",
            "0x0,9",
            "0xfea00000,-1",
            "0xfea00000,9,1",
        ] {
            let line = std::format!("acpi_ged={bad}");
            assert_eq!(
                Layout::find(&PC, &line),
                Err(LayoutError::Word),
                "`{bad}` is refused, not left out"
            );
        }
    }
}
