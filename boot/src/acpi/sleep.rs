//! The one thing that the kernel wants of the DSDT's AML: the numbers that mean "soft off".

use super::HEADER_BYTES;

/// What to write to the sleep-type fields of the PM1 control registers (ACPI Specification 6.5,
/// section 4.8.4.2.1), or of the sleep control register (section 4.8.3.7).
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
    use super::{Sleep, soft_off};
    use crate::acpi::tests::table;

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
