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
    /// Active low.
    pub active_low: bool,
    /// Level-triggered.
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
                // Polarity and trigger (table 5.26): 3 is active low, level; 0 "as the bus", which for
                // ISA is active high and edge.
                let flags = u16_at(entry, 8)?;
                let entry = Override {
                    source: *entry.get(3)?,
                    line: u32_at(entry, 4)?,
                    active_low: flags & 3 == 3,
                    level: flags >> 2 & 3 == 3,
                };
                let _ = self.overrides.push(entry);
            }
            LOCAL_APIC_ADDRESS => self.local_apic = u64_at(entry, 4)?,
            _ => {}
        }
        Some(())
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

#[cfg(test)]
mod tests {
    use super::{IoApic, Madt, Override};
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
                    active_low: false,
                    level: true
                },
                Override {
                    source: 0,
                    line: 2,
                    active_low: false,
                    level: false
                },
            ]
        );
        assert_eq!(madt.local_apic, 0x1_fee0_0000);
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
