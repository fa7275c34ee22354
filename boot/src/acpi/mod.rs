//! The firmware's ACPI tables (ACPI Specification 6.5, chapter 5): found, checked, and read as far as
//! the kernel needs them. No AML is interpreted: a driver for more belongs in ring 3.
//!
//! Crate `acpi` wants an allocator and a mapping service before either exists, for what is three
//! tables of fixed layout here.

mod fadt;
mod hpet;
mod madt;
mod sleep;

pub use fadt::{EventBlock, Fadt, Register};
pub use hpet::hpet_address;
pub use madt::{IoApic, Line, MAX_PROCESSORS, Madt, Override};
pub use sleep::{Sleep, soft_off};

use crate::physical::{Physical, u32_at, u64_at};
use core::fmt;

/// Where a BIOS may have put the root pointer (section 5.2.5.1): the first KiB of the extended BIOS
/// data area, whose segment is at 0x40e, and the BIOS read-only memory. On 16-byte boundaries.
const EBDA_POINTER: u64 = 0x40e;
const BIOS_AREA: (u64, u64) = (0xe_0000, 0x10_0000);
/// Length of the root pointer of revision 0, and of 2 (section 5.2.5.3).
const RSDP_BYTES: [usize; 2] = [20, 36];
/// Length of the header of every other table (section 5.2.6).
const HEADER_BYTES: usize = 36;
/// Longest table that is believed: the DSDT of a large machine has a few hundred KiB.
const MOST_BYTES: u32 = 16 << 20;

/// Why a table cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcpiError {
    /// No valid root pointer: the machine has no ACPI, or the loader did not pass it on.
    NoRootPointer,
    /// The named table is not there.
    Missing(&'static str),
    /// The named table lies outside memory.
    OutOfReach(&'static str),
    /// The named table's checksum is wrong, or a length in it.
    Malformed(&'static str),
}

impl fmt::Display for AcpiError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AcpiError::NoRootPointer => formatter.write_str("no ACPI root pointer"),
            AcpiError::Missing(table) => write!(formatter, "no ACPI table {table}"),
            AcpiError::OutOfReach(table) => {
                write!(formatter, "ACPI table {table} is outside memory")
            }
            AcpiError::Malformed(table) => write!(formatter, "ACPI table {table} is malformed"),
        }
    }
}

fn sum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
}

/// The tables, by their root.
pub struct Tables<'a, M> {
    memory: &'a M,
    rsdp: u64,
    entries: &'a [u8],
    entry_bytes: usize,
}

impl<'a, M: Physical> Tables<'a, M> {
    /// Finds the tables: at the root pointer that the loader told, else where a BIOS has it.
    ///
    /// # Errors
    /// [`AcpiError`], about the root pointer or the root table.
    pub fn find(memory: &'a M, told: Option<u64>) -> Result<Self, AcpiError> {
        let rsdp = told
            .filter(|address| root_pointer(memory, *address).is_some())
            .or_else(|| scan(memory))
            .ok_or(AcpiError::NoRootPointer)?;
        let pointer = root_pointer(memory, rsdp).ok_or(AcpiError::NoRootPointer)?;
        // Revision 2 and later have a table of 64-bit addresses (section 5.2.5.3).
        let wide = pointer.get(15).is_some_and(|revision| *revision >= 2);
        let extended = if wide {
            u64_at(pointer, 24).filter(|address| *address != 0)
        } else {
            None
        };
        let (address, signature, entry_bytes) = match extended {
            Some(address) => (address, "XSDT", 8),
            None => (u64::from(u32_at(pointer, 16).unwrap_or(0)), "RSDT", 4),
        };
        let table = checked(memory, address, signature)?;
        Ok(Tables {
            memory,
            rsdp,
            entries: &table[HEADER_BYTES..],
            entry_bytes,
        })
    }

    /// Physical address of the root pointer.
    pub fn root(&self) -> u64 {
        self.rsdp
    }

    /// The first table with this signature, header included, its checksum verified.
    ///
    /// # Errors
    /// [`AcpiError`] with the signature.
    pub fn table(&self, signature: &'static str) -> Result<&'a [u8], AcpiError> {
        for entry in self.entries.chunks_exact(self.entry_bytes) {
            let address = match self.entry_bytes {
                8 => u64_at(entry, 0),
                _ => u32_at(entry, 0).map(u64::from),
            };
            let Some(address) = address else { continue };
            if self
                .memory
                .bytes(address, 4)
                .is_some_and(|found| found == signature.as_bytes())
            {
                return checked(self.memory, address, signature);
            }
        }
        Err(AcpiError::Missing(signature))
    }

    /// The DSDT, which only the FADT points to.
    ///
    /// # Errors
    /// [`AcpiError`].
    pub fn dsdt(&self, fadt: &Fadt) -> Result<&'a [u8], AcpiError> {
        checked(self.memory, fadt.dsdt, "DSDT")
    }
}

/// A table of known signature, verified.
fn checked<'a>(
    memory: &'a impl Physical,
    address: u64,
    signature: &'static str,
) -> Result<&'a [u8], AcpiError> {
    let header = memory
        .bytes(address, HEADER_BYTES)
        .ok_or(AcpiError::OutOfReach(signature))?;
    let length = u32_at(header, 4)
        .filter(|length| (HEADER_BYTES as u32..=MOST_BYTES).contains(length))
        .ok_or(AcpiError::Malformed(signature))?;
    let table = memory
        .bytes(address, length as usize)
        .ok_or(AcpiError::OutOfReach(signature))?;
    if !table.starts_with(signature.as_bytes()) || sum(table) != 0 {
        return Err(AcpiError::Malformed(signature));
    }
    Ok(table)
}

/// The root pointer at an address, if there is a valid one.
fn root_pointer(memory: &impl Physical, address: u64) -> Option<&[u8]> {
    let short = memory.bytes(address, RSDP_BYTES[0])?;
    if !short.starts_with(b"RSD PTR ") || sum(short) != 0 {
        return None;
    }
    if short[15] < 2 {
        return Some(short);
    }
    memory
        .bytes(address, RSDP_BYTES[1])
        .filter(|long| sum(long) == 0)
}

fn scan(memory: &impl Physical) -> Option<u64> {
    let segment = memory
        .bytes(EBDA_POINTER, 2)
        .and_then(|bytes| bytes.first_chunk());
    let ebda = segment.map_or(0, |bytes| u64::from(u16::from_le_bytes(*bytes)) << 4);
    let areas = [(ebda, ebda + 1024), BIOS_AREA];
    areas
        .into_iter()
        .filter(|(start, _)| *start != 0)
        .flat_map(|(start, end)| (start..end).step_by(16))
        .find(|address| root_pointer(memory, *address).is_some())
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{AcpiError, Tables};
    use crate::physical::fake::Pieces;

    /// A table with its header and a right checksum.
    pub(crate) fn table(signature: &str, body: &[u8]) -> Vec<u8> {
        let mut bytes = signature.as_bytes().to_vec();
        bytes.extend((body.len() as u32 + 36).to_le_bytes());
        bytes.resize(36, 0);
        bytes.extend(body);
        bytes[9] = 0u8.wrapping_sub(super::sum(&bytes));
        bytes
    }

    fn rsdp(revision: u8, rsdt: u32, xsdt: u64) -> Vec<u8> {
        let mut bytes = b"RSD PTR \0uzura ".to_vec();
        bytes.push(revision);
        bytes.extend(rsdt.to_le_bytes());
        bytes[8] = 0u8.wrapping_sub(super::sum(&bytes));
        if revision >= 2 {
            bytes.extend(36u32.to_le_bytes());
            bytes.extend(xsdt.to_le_bytes());
            bytes.extend([0; 4]);
            bytes[32] = 0u8.wrapping_sub(super::sum(&bytes));
        }
        bytes
    }

    fn machine(pointer: Vec<u8>) -> Pieces {
        let mut low = vec![0; 0x10_0000 - 0xe_0000];
        low[0x1230..0x1230 + pointer.len()].copy_from_slice(&pointer);
        Pieces(vec![
            (0xe_0000, low),
            (
                0x1000,
                table(
                    "RSDT",
                    &[0x3000u32.to_le_bytes(), 0x4000u32.to_le_bytes()].concat(),
                ),
            ),
            (0x2000, table("XSDT", &0x4000u64.to_le_bytes())),
            (0x3000, table("HPET", &[0; 20])),
            (0x4000, table("APIC", &[0; 8])),
        ])
    }

    #[test]
    fn both_root_tables_are_followed() {
        let old = machine(rsdp(0, 0x1000, 0));
        let tables = Tables::find(&old, None).unwrap();
        assert_eq!(tables.root(), 0xe_1230);
        assert!(tables.table("HPET").is_ok() && tables.table("APIC").is_ok());
        let new = machine(rsdp(2, 0x1000, 0x2000));
        let tables = Tables::find(&new, Some(0xe_1230)).unwrap();
        assert_eq!(tables.table("HPET"), Err(AcpiError::Missing("HPET")));
        assert!(tables.table("APIC").is_ok());
    }

    #[test]
    fn damage_is_noticed() {
        let mut no_pointer = machine(rsdp(2, 0x1000, 0x2000));
        no_pointer.0[0].1[0x1231] ^= 1;
        assert_eq!(
            Tables::find(&no_pointer, None).map(|_| ()).unwrap_err(),
            AcpiError::NoRootPointer
        );
        for position in 0..44 {
            let mut bad = machine(rsdp(2, 0x1000, 0x2000));
            bad.0[4].1[position] ^= 0x10;
            let tables = Tables::find(&bad, None).unwrap();
            assert!(tables.table("APIC").is_err(), "byte {position}");
            let mut bad = machine(rsdp(2, 0x1000, 0x2000));
            bad.0[2].1[position] ^= 0x10;
            assert!(Tables::find(&bad, None).is_err(), "byte {position}");
        }
    }
}
