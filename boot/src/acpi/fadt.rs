//! The FADT (ACPI Specification 6.5, section 5.2.9): where the registers are that switch the machine
//! off, reset it, and tell of its power button. What the registers are told is the kernel's and the
//! platform driver's.

use super::AcpiError;
use crate::physical::{u16_at, u32_at, u64_at};

/// Flags (table 5.10): the power button is a device that only AML describes, or there is none; the PM
/// timer has 32 bits; the reset register is supported; there are no fixed registers at all.
const BUTTON_IS_NOT_FIXED: u32 = 1 << 4;
const TIMER_32_BITS: u32 = 1 << 8;
const RESET_SUPPORTED: u32 = 1 << 10;
const HARDWARE_REDUCED: u32 = 1 << 20;
/// Registers of the real-time clock (Motorola MC146818 data sheet): the first that is not the time or its
/// status, and the last.
const FIRST_FREE: u8 = 14;
const LAST: u8 = 127;
/// Generic address (section 5.2.3.2): its address spaces memory and I/O; where in it the address is.
const SPACE_MEMORY: u8 = 0;
const SPACE_IO: u8 = 1;
const GENERIC_ADDRESS: usize = 4;
/// Shortest PM1 event block: a status and an enable register of two bytes each (table 5.9).
const LEAST_EVENT_BYTES: u8 = 4;

/// A register that is one byte wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Register {
    /// An I/O port.
    Port(u16),
    /// A physical address.
    Memory(u64),
}

/// A block of I/O ports whose first half are status registers and whose second half are enable
/// registers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventBlock {
    /// The first port; 0 where there is no such block.
    pub first: u16,
    /// Number of ports, even; 0 where there is no such block.
    pub bytes: u8,
}

/// What the FADT says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fadt {
    /// Physical address of the DSDT.
    pub dsdt: u64,
    /// I/O port of the PM timer (3.579545 MHz); 0 where there is none.
    pub pm_timer: u16,
    /// Whether the PM timer counts 32 bits; 24 otherwise.
    pub pm_timer_is_wide: bool,
    /// The PM1a event block.
    pub pm1a_event: EventBlock,
    /// The PM1b event block.
    pub pm1b_event: EventBlock,
    /// I/O port of the PM1a control register; 0 where there is none.
    pub pm1a_control: u16,
    /// I/O port of the PM1b control register; 0 where there is none.
    pub pm1b_control: u16,
    /// The two general-purpose event blocks.
    pub general_events: [EventBlock; 2],
    /// Port and value that switch ACPI mode on; `None` where it always is.
    pub enable: Option<(u16, u8)>,
    /// ISA interrupt of the events of all these blocks; how it is wired is the MADT's.
    pub sci: u16,
    /// Whether the power button is among the events of the PM1 blocks.
    pub has_fixed_button: bool,
    /// Where to write which value to reset the machine, where it can be.
    pub reset: Option<(Register, u8)>,
    /// What takes the sleep type where there are no fixed registers.
    pub sleep_control: Option<Register>,
    /// Register of the real-time clock that holds the century; `None` where none does.
    pub century: Option<u8>,
}

impl Fadt {
    /// Reads a verified table.
    ///
    /// # Errors
    /// [`AcpiError::Malformed`] if it is shorter than revision 1.
    pub fn read(table: &[u8]) -> Result<Fadt, AcpiError> {
        const BAD: AcpiError = AcpiError::Malformed("FACP");
        let flags = u32_at(table, 112).ok_or(BAD)?;
        let narrow_dsdt = u32_at(table, 40).ok_or(BAD)?;
        let everywhere = Fadt {
            dsdt: u64_at(table, 140)
                .filter(|address| *address != 0)
                .unwrap_or(u64::from(narrow_dsdt)),
            century: table
                .get(108)
                .copied()
                .filter(|register| (FIRST_FREE..=LAST).contains(register)),
            reset: if flags & RESET_SUPPORTED != 0 {
                register(table, 116).zip(table.get(128).copied())
            } else {
                None
            },
            ..Fadt::default()
        };
        if flags & HARDWARE_REDUCED != 0 {
            // The fields of the fixed registers mean nothing then (section 4.1).
            return Ok(Fadt {
                sleep_control: register(table, 244),
                ..everywhere
            });
        }
        let enable_port = narrow_port(table, 48);
        let enable_value = table.get(52).copied().unwrap_or(0);
        let event_bytes = table.get(88).copied().unwrap_or(0);
        let event_bytes = if event_bytes < LEAST_EVENT_BYTES {
            0
        } else {
            event_bytes
        };
        let pm1a_event = event_block(table, 56, 148, event_bytes);
        Ok(Fadt {
            pm_timer: port(table, 76, 208),
            pm_timer_is_wide: flags & TIMER_32_BITS != 0,
            pm1a_event,
            pm1b_event: event_block(table, 60, 160, event_bytes),
            pm1a_control: port(table, 64, 172),
            pm1b_control: port(table, 68, 184),
            general_events: [
                event_block(table, 80, 220, table.get(92).copied().unwrap_or(0)),
                event_block(table, 84, 232, table.get(93).copied().unwrap_or(0)),
            ],
            enable: (enable_port != 0 && enable_value != 0).then_some((enable_port, enable_value)),
            sci: u16_at(table, 46).unwrap_or(0),
            has_fixed_button: flags & BUTTON_IS_NOT_FIXED == 0 && pm1a_event.bytes != 0,
            ..everywhere
        })
    }
}

/// The port in a field of revision 1; 0 for none.
fn narrow_port(table: &[u8], offset: usize) -> u16 {
    u32_at(table, offset)
        .and_then(|port| u16::try_from(port).ok())
        .unwrap_or(0)
}

/// The port in the generic address at `wide`, where there is one, else in the field of revision 1 at
/// `narrow`; 0 for none.
fn port(table: &[u8], narrow: usize, wide: usize) -> u16 {
    match register(table, wide) {
        Some(Register::Port(port)) => port,
        _ => narrow_port(table, narrow),
    }
}

/// A block of this length; none if it is empty, cannot be halved, or runs past the last port.
fn event_block(table: &[u8], narrow: usize, wide: usize, bytes: u8) -> EventBlock {
    let first = port(table, narrow, wide);
    let fits = first.checked_add(u16::from(bytes)).is_some();
    if first == 0 || bytes == 0 || !bytes.is_multiple_of(2) || !fits {
        return EventBlock::default();
    }
    EventBlock { first, bytes }
}

/// The register that the generic address at `offset` names, if it names one.
fn register(table: &[u8], offset: usize) -> Option<Register> {
    let address = u64_at(table, offset + GENERIC_ADDRESS).filter(|address| *address != 0)?;
    match *table.get(offset)? {
        SPACE_IO => Some(Register::Port(u16::try_from(address).ok()?)),
        SPACE_MEMORY => Some(Register::Memory(address)),
        _ => None,
    }
}

#[cfg(test)]
mod recorded;

#[cfg(test)]
mod tests {
    use super::{EventBlock, Fadt, Register, recorded};
    use crate::acpi::tests::table;

    fn fadt(change: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut body = recorded::bytes(recorded::Q35).split_off(36);
        change(&mut body);
        table("FACP", &body)
    }

    /// Writes at an offset of the whole table.
    fn put(body: &mut [u8], offset: usize, bytes: &[u8]) {
        body[offset - 36..][..bytes.len()].copy_from_slice(bytes);
    }

    const fn block(first: u16, bytes: u8) -> EventBlock {
        EventBlock { first, bytes }
    }

    /// What both QEMU's chipsets have, with the registers from `base` on.
    fn chipset(base: u16, general: EventBlock) -> Fadt {
        Fadt {
            pm_timer: base + 8,
            pm1a_event: block(base, 4),
            pm1a_control: base + 4,
            general_events: [general, EventBlock::default()],
            sci: 9,
            has_fixed_button: true,
            century: Some(0x32),
            ..Fadt::default()
        }
    }

    #[test]
    fn recorded_tables_are_read() {
        let q35 = Fadt {
            dsdt: 0x7fe_0040,
            enable: Some((0xb2, 2)),
            reset: Some((Register::Port(0xcf9), 0xf)),
            ..chipset(0x600, block(0x620, 16))
        };
        let pc = Fadt {
            dsdt: 0x7fe_0040,
            enable: Some((0xb2, 0xf1)),
            ..chipset(0x600, block(0xafe0, 4))
        };
        let pc_uefi = Fadt {
            dsdt: 0x777_a000,
            enable: Some((0xb2, 0xf1)),
            ..chipset(0xb000, block(0xafe0, 4))
        };
        let microvm = Fadt {
            dsdt: 0xe_fd00,
            reset: Some((Register::Memory(0xfea0_0202), 0x42)),
            sleep_control: Some(Register::Memory(0xfea0_0200)),
            ..Fadt::default()
        };
        let q35_uefi = Fadt {
            dsdt: 0x777_9000,
            ..q35
        };
        for (name, table, expected) in [
            ("q35", recorded::Q35, q35),
            ("q35, UEFI", recorded::Q35_UEFI, q35_uefi),
            ("pc", recorded::PC, pc),
            ("pc, UEFI", recorded::PC_UEFI, pc_uefi),
            ("microvm", recorded::MICROVM, microvm),
        ] {
            assert_eq!(Fadt::read(&recorded::bytes(table)), Ok(expected), "{name}");
        }
    }

    #[test]
    fn a_century_is_no_other_register_of_the_clock() {
        let century = |register: u8| {
            let table = fadt(|body| put(body, 108, &[register]));
            Fadt::read(&table).unwrap().century
        };
        for register in [0, 9, 11, 13, 128, 255] {
            assert_eq!(century(register), None);
        }
        assert_eq!([14, 127].map(century), [Some(14), Some(127)]);
    }

    #[test]
    fn wide_addresses_come_first_where_they_are_ports() {
        let wide = fadt(|body| put(body, 148, &[1, 32, 0, 2, 0, 8, 0, 0, 0, 0, 0, 0]));
        assert_eq!(Fadt::read(&wide).unwrap().pm1a_event, block(0x800, 4));
        let memory = fadt(|body| put(body, 148, &[0, 32, 0, 2, 0, 8, 0, 0, 0, 0, 0, 0]));
        assert_eq!(Fadt::read(&memory).unwrap().pm1a_event, block(0x600, 4));
        let far = fadt(|body| put(body, 120, &0x1_0000u64.to_le_bytes()));
        assert_eq!(
            Fadt::read(&far).unwrap().reset,
            None,
            "there is no such port"
        );
    }

    #[test]
    fn blocks_that_cannot_be_are_none() {
        let none = EventBlock::default();
        for (length, expected) in [(0, none), (2, none), (5, none), (8, block(0x600, 8))] {
            let table = fadt(|body| put(body, 88, &[length]));
            let fadt = Fadt::read(&table).unwrap();
            assert_eq!(fadt.pm1a_event, expected, "length {length}");
            assert_eq!(fadt.has_fixed_button, expected != none);
        }
        let last = fadt(|body| {
            put(body, 56, &0xfffe_u32.to_le_bytes());
            put(body, 148, &[0; 12]);
        });
        assert_eq!(Fadt::read(&last).unwrap().pm1a_event, none);
    }

    #[test]
    fn button_that_is_a_device_is_not_fixed() {
        let table = fadt(|body| {
            let flags = 0x84a5_u32 | 1 << 4;
            put(body, 112, &flags.to_le_bytes());
        });
        assert!(!Fadt::read(&table).unwrap().has_fixed_button);
    }

    #[test]
    fn every_length_is_read_or_refused() {
        let whole = recorded::bytes(recorded::MICROVM);
        for length in 0..whole.len() {
            let read = Fadt::read(&whole[..length]);
            assert_eq!(read.is_ok(), length >= 116, "{length} bytes");
        }
        let cut = Fadt::read(&whole[..244]).unwrap();
        assert_eq!(cut.sleep_control, None);
    }
}
