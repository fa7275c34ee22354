//! The FADT (ACPI Specification 6.5, section 5.2.9) and the one thing the kernel wants of the DSDT's
//! AML: the numbers that mean "soft off".

use super::{AcpiError, HEADER_BYTES};
use crate::physical::{u32_at, u64_at};

/// Flags (table 5.10): the PM timer has 32 bits; the reset register is supported.
const TIMER_32_BITS: u32 = 1 << 8;
const RESET_SUPPORTED: u32 = 1 << 10;
/// Generic address (section 5.2.3.2): address spaces memory and I/O.
const SPACE_MEMORY: u8 = 0;
const SPACE_IO: u8 = 1;

/// Where to write what to reset the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetRegister {
    /// An I/O port and the value.
    Port(u16, u8),
    /// A physical address and the value.
    Memory(u64, u8),
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
    /// I/O port of the PM1a control register; 0 where there is none.
    pub pm1a_control: u16,
    /// I/O port of the PM1b control register; 0 where there is none.
    pub pm1b_control: u16,
    /// Port and value that switch ACPI mode on; `None` where it always is.
    pub enable: Option<(u16, u8)>,
    /// How to reset the machine, where it can be.
    pub reset: Option<ResetRegister>,
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
        let port = |offset| {
            u32_at(table, offset)
                .and_then(|port| u16::try_from(port).ok())
                .unwrap_or(0)
        };
        let enable_port = port(48);
        let enable_value = table.get(52).copied().unwrap_or(0);
        Ok(Fadt {
            dsdt: u64_at(table, 140)
                .filter(|address| *address != 0)
                .unwrap_or(u64::from(narrow_dsdt)),
            pm_timer: port(76),
            pm_timer_is_wide: flags & TIMER_32_BITS != 0,
            pm1a_control: port(64),
            pm1b_control: port(68),
            enable: (enable_port != 0 && enable_value != 0).then_some((enable_port, enable_value)),
            reset: if flags & RESET_SUPPORTED != 0 {
                reset_register(table)
            } else {
                None
            },
        })
    }
}

fn reset_register(table: &[u8]) -> Option<ResetRegister> {
    let (address, value) = (u64_at(table, 120)?, *table.get(128)?);
    match *table.get(116)? {
        SPACE_IO => Some(ResetRegister::Port(u16::try_from(address).ok()?, value)),
        SPACE_MEMORY if address != 0 => Some(ResetRegister::Memory(address, value)),
        _ => None,
    }
}

/// What to write to the sleep-type fields of the PM1 control registers (section 4.8.4.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sleep {
    /// For PM1a.
    pub pm1a: u8,
    /// For PM1b.
    pub pm1b: u8,
}

/// Finds the sleep types of S5: the package `\_S5_` in a DSDT, by its bytes. AML (sections 20.2.4 and
/// 20.2.5): name, package operator, package length of one to four bytes, number of elements, elements.
pub fn soft_off(dsdt: &[u8]) -> Option<Sleep> {
    let body = dsdt.get(HEADER_BYTES..)?;
    let mut places = body
        .windows(5)
        .enumerate()
        .filter(|(_, window)| *window == b"_S5_\x12");
    places.find_map(|(place, _)| {
        let package = body.get(place + 5..)?;
        // The top two bits of the first byte say how many more bytes the length has.
        let length_bytes = 1 + usize::from(package.first()? >> 6);
        let mut elements = package.get(length_bytes + 1..)?;
        let pm1a = small_number(&mut elements)?;
        let pm1b = small_number(&mut elements).unwrap_or(pm1a);
        Some(Sleep { pm1a, pm1b })
    })
}

/// Takes one AML integer of at most a byte (section 20.2.3) that fits the three-bit field.
fn small_number(elements: &mut &[u8]) -> Option<u8> {
    let (value, bytes) = match **elements {
        [0x00, ..] => (0, 1),
        [0x01, ..] => (1, 1),
        [0x0a, value, ..] => (value, 2),
        _ => return None,
    };
    *elements = &elements[bytes..];
    (value < 8).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::{Fadt, ResetRegister, Sleep, soft_off};
    use crate::acpi::tests::table;

    fn fadt(length: usize) -> Vec<u8> {
        let mut body = vec![0; 244 - 36];
        let mut put =
            |offset: usize, bytes: &[u8]| body[offset - 36..][..bytes.len()].copy_from_slice(bytes);
        put(40, &0x7fe_0000u32.to_le_bytes());
        put(48, &0xb2u32.to_le_bytes());
        put(52, &[0xf1]);
        put(64, &0x604u32.to_le_bytes());
        put(76, &0x608u32.to_le_bytes());
        put(112, &(1u32 << 10).to_le_bytes());
        put(116, &[1, 8, 0, 0]);
        put(120, &0xcf9u64.to_le_bytes());
        put(128, &[0xf]);
        table("FACP", &body[..length - 36])
    }

    #[test]
    fn both_lengths_are_read() {
        let long = Fadt::read(&fadt(244)).unwrap();
        assert_eq!(long.pm1a_control, 0x604);
        assert_eq!((long.pm_timer, long.pm_timer_is_wide), (0x608, false));
        assert_eq!(long.enable, Some((0xb2, 0xf1)));
        assert_eq!(long.reset, Some(ResetRegister::Port(0xcf9, 0xf)));
        assert_eq!(long.dsdt, 0x7fe_0000);
        let short = Fadt::read(&fadt(116)).unwrap();
        assert_eq!((short.dsdt, short.reset), (0x7fe_0000, None));
        assert!(Fadt::read(&fadt(100)).is_err());
    }

    #[test]
    fn soft_off_is_found_in_either_form() {
        let aml = |package: &[u8]| table("DSDT", &[b"\x08\\_S4_\x08_S5_\x12", package].concat());
        assert_eq!(
            soft_off(&aml(&[6, 4, 0, 0, 0, 0])),
            Some(Sleep { pm1a: 0, pm1b: 0 })
        );
        assert_eq!(
            soft_off(&aml(&[8, 4, 0x0a, 5, 0x0a, 6, 0, 0])),
            Some(Sleep { pm1a: 5, pm1b: 6 })
        );
        assert_eq!(
            soft_off(&aml(&[0x47, 0, 4, 1, 0, 0, 0])),
            Some(Sleep { pm1a: 1, pm1b: 0 })
        );
        assert_eq!(soft_off(&aml(&[8, 4, 0x0a, 9, 0])), None, "three bits");
        assert_eq!(soft_off(&aml(&[])), None);
        assert_eq!(soft_off(b"_S5_\x12"), None);
    }
}
