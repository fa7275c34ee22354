//! The MADT (ACPI Specification 6.5, section 5.2.12): processors, I/O APICs, and how the ISA
//! interrupt lines reach them.

use super::{AcpiError, HEADER_BYTES};
use crate::physical::{u16_at, u32_at, u64_at};

/// Most processors that are listed; the kernel supports fewer.
pub const MAX_PROCESSORS: usize = 512;
/// Most I/O APICs, and interrupt source overrides, that are listed.
const MAX_IO_APICS: usize = 16;
const MAX_OVERRIDES: usize = 24;

/// Entry types (table 5.21).
const LOCAL_APIC: u8 = 0;
const IO_APIC: u8 = 1;
const OVERRIDE: u8 = 2;
const LOCAL_APIC_ADDRESS: u8 = 5;
const LOCAL_X2APIC: u8 = 9;
/// Processor flag "enabled" (table 5.23). "Online capable" ones are not there yet.
const ENABLED: u32 = 1;

/// An I/O APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Physical address of its registers.
    pub address: u64,
    /// Global system interrupt of its first input.
    pub first_line: u32,
}

/// An ISA interrupt that is not wired one to one (section 5.2.12.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Override {
    /// ISA interrupt.
    pub source: u8,
    /// Global system interrupt.
    pub line: u32,
    /// Active low, or active high; `None`: as on its bus.
    pub active_low: Option<bool>,
    /// Level-triggered, or by edge; `None`: as on its bus.
    pub level: Option<bool>,
}

/// How an interrupt reaches the I/O APICs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Global system interrupt.
    pub line: u32,
    /// Active low, else active high.
    pub active_low: bool,
    /// Level-triggered, else by edge.
    pub level: bool,
}

/// What the MADT says.
#[derive(Clone, Debug, Default)]
pub struct Madt {
    /// Local APIC identifiers of the enabled processors, in the table's order; the first is usually
    /// the one that boots.
    pub processors: heapless::Vec<u32, MAX_PROCESSORS>,
    /// Processors beyond [`MAX_PROCESSORS`].
    pub unlisted: usize,
    /// I/O APICs.
    pub io_apics: heapless::Vec<IoApic, MAX_IO_APICS>,
    /// Interrupt source overrides.
    pub overrides: heapless::Vec<Override, MAX_OVERRIDES>,
    /// Physical address of the local APICs' registers (xAPIC mode).
    pub local_apic: u64,
}

impl Madt {
    /// Reads a verified table.
    ///
    /// # Errors
    /// [`AcpiError::Malformed`] if an entry's length is wrong.
    pub fn read(table: &[u8]) -> Result<Madt, AcpiError> {
        const BAD: AcpiError = AcpiError::Malformed("APIC");
        let address = u32_at(table, HEADER_BYTES).ok_or(BAD)?;
        let mut madt = Madt {
            local_apic: u64::from(address),
            ..Madt::default()
        };
        let mut rest = table.get(HEADER_BYTES + 8..).ok_or(BAD)?;
        while let [kind, length, ..] = *rest {
            let length = usize::from(length);
            if length < 2 || length > rest.len() {
                return Err(BAD);
            }
            let (entry, after) = rest.split_at(length);
            madt.entry(kind, entry).ok_or(BAD)?;
            rest = after;
        }
        Ok(madt)
    }

    /// Takes one entry in; `None` if it is shorter than its kind.
    fn entry(&mut self, kind: u8, entry: &[u8]) -> Option<()> {
        match kind {
            LOCAL_APIC => self.processor(u32::from(*entry.get(3)?), u32_at(entry, 4)?),
            LOCAL_X2APIC => self.processor(u32_at(entry, 4)?, u32_at(entry, 8)?),
            IO_APIC => {
                let io_apic = IoApic {
                    address: u64::from(u32_at(entry, 4)?),
                    first_line: u32_at(entry, 8)?,
                };
                // A seventeenth is left out: no machine has one.
                let _ = self.io_apics.push(io_apic);
            }
            OVERRIDE => {
                // Polarity and trigger (table 5.26): 1 is active high, edge; 3 active low, level; 0 as
                // on the bus; 2 is reserved.
                let flags = u16_at(entry, 8)?;
                let entry = Override {
                    source: *entry.get(3)?,
                    line: u32_at(entry, 4)?,
                    active_low: choice(flags),
                    level: choice(flags >> 2),
                };
                let _ = self.overrides.push(entry);
            }
            LOCAL_APIC_ADDRESS => self.local_apic = u64_at(entry, 4)?,
            _ => {}
        }
        Some(())
    }

    /// How the system control interrupt is wired: level-triggered and active low, one to one, where
    /// no override says otherwise (table 5.9, SCI_INT).
    pub fn sci(&self, source: u16) -> Line {
        let found = self
            .overrides
            .iter()
            .find(|entry| u16::from(entry.source) == source);
        Line {
            line: found.map_or(u32::from(source), |entry| entry.line),
            active_low: found.and_then(|entry| entry.active_low).unwrap_or(true),
            level: found.and_then(|entry| entry.level).unwrap_or(true),
        }
    }

    fn processor(&mut self, apic: u32, flags: u32) {
        // Firmware may list a processor in both forms.
        if flags & ENABLED != 0
            && !self.processors.contains(&apic)
            && self.processors.push(apic).is_err()
        {
            self.unlisted += 1;
        }
    }
}

/// A choice of two in the two lowest bits, of which neither may be made.
fn choice(bits: u16) -> Option<bool> {
    match bits & 3 {
        1 => Some(false),
        3 => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{IoApic, Line, Madt, Override};
    use crate::acpi::tests::table;

    fn body() -> Vec<u8> {
        let mut body = [0xfee0_0000u32.to_le_bytes(), 1u32.to_le_bytes()].concat();
        body.extend([0, 8, 0, 0, 1, 0, 0, 0]);
        body.extend([0, 8, 1, 4, 1, 0, 0, 0]);
        body.extend([0, 8, 2, 5, 0, 0, 0, 0]);
        body.extend([9, 16, 0, 0, 0x2c, 1, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0]);
        body.extend([9, 16, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0]);
        body.extend([1, 12, 0, 0, 0, 0, 0xc0, 0xfe, 0, 0, 0, 0]);
        body.extend([2, 10, 0, 9, 9, 0, 0, 0, 0xd, 0]);
        body.extend([2, 10, 0, 0, 2, 0, 0, 0, 0, 0]);
        body.extend([77, 3, 0]);
        body.extend([5, 12, 0, 0, 0, 0, 0xe0, 0xfe, 1, 0, 0, 0]);
        body
    }

    #[test]
    fn every_kind_is_read() {
        let madt = Madt::read(&table("APIC", &body())).unwrap();
        assert_eq!(madt.processors, [0, 4, 0x12c]);
        assert_eq!(
            madt.io_apics,
            [IoApic {
                address: 0xfec0_0000,
                first_line: 0
            }]
        );
        assert_eq!(
            madt.overrides,
            [
                Override {
                    source: 9,
                    line: 9,
                    active_low: Some(false),
                    level: Some(true)
                },
                Override {
                    source: 0,
                    line: 2,
                    active_low: None,
                    level: None
                },
            ]
        );
        assert_eq!(madt.local_apic, 0x1_fee0_0000);
    }

    #[test]
    fn sci_is_wired_as_an_override_says_and_else_as_pci_s_lines() {
        let madt = Madt::read(&table("APIC", &body())).unwrap();
        let line = |line, active_low, level| Line {
            line,
            active_low,
            level,
        };
        assert_eq!(madt.sci(9), line(9, false, true));
        assert_eq!(madt.sci(0), line(2, true, true), "as on the bus");
        assert_eq!(madt.sci(20), line(20, true, true));
        let edge = [&[0; 8][..], &[2, 10, 0, 9, 20, 0, 0, 0, 0x5, 0]].concat();
        let madt = Madt::read(&table("APIC", &edge)).unwrap();
        assert_eq!(madt.sci(9), line(20, false, false));
    }

    #[test]
    fn no_damage_panics() {
        let good = table("APIC", &body());
        for position in 36..good.len() {
            for value in [0, 1, 2, 0x7f, 0xff] {
                let mut bytes = good.clone();
                bytes[position] = value;
                let _ = Madt::read(&bytes);
            }
            let _ = Madt::read(&good[..position]);
        }
        assert!(Madt::read(&good[..good.len() - 1]).is_err());
    }
}
