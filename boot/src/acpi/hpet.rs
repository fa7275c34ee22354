//! The HPET table (IA-PC HPET Specification 1.0a, section 3.2.4): where the timer's registers are.

use super::AcpiError;
use crate::physical::u64_at;

/// Physical address of the registers, from a verified table: below 4 GiB, where they always are. A processor may
/// not have the bits for what lies far above.
///
/// # Errors
/// [`AcpiError::Malformed`] if they are not in memory space, or the table is too short.
pub fn hpet_address(table: &[u8]) -> Result<u64, AcpiError> {
    const BAD: AcpiError = AcpiError::Malformed("HPET");
    // The address space is the first byte of the generic address.
    if table.get(40) != Some(&0) {
        return Err(BAD);
    }
    u64_at(table, 44)
        .filter(|address| *address != 0 && address % 8 == 0 && *address < 1 << 32)
        .ok_or(BAD)
}

#[cfg(test)]
mod tests {
    use super::hpet_address;
    use crate::acpi::tests::table;

    #[test]
    fn the_address_is_read() {
        let mut body = [0; 20];
        body[8..16].copy_from_slice(&0xfed0_0000u64.to_le_bytes());
        assert_eq!(hpet_address(&table("HPET", &body)), Ok(0xfed0_0000));
        body[4] = 1;
        assert!(hpet_address(&table("HPET", &body)).is_err());
        assert!(hpet_address(&table("HPET", &body[..15])).is_err());
        body[4] = 0;
        for address in [0, 0xfed0_0004, 1 << 32, u64::MAX - 7] {
            body[8..16].copy_from_slice(&u64::to_le_bytes(address));
            assert!(hpet_address(&table("HPET", &body)).is_err());
        }
    }
}
