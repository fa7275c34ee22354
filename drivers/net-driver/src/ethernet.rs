//! What every Ethernet card has in common: sizes, and which addresses are one station's.

/// Bytes of a frame's header (IEEE 802.3-2018, section 3.2.1, without the checksum).
pub const HEADER_BYTES: usize = 14;
/// What a frame carries where the device does not say (RFC 894).
pub const MTU: u16 = 1500;
/// A locally administered address (IEEE 802-2014, section 8.2), for a device that has none.
pub const OWN_ADDRESS: [u8; 6] = [0x02, 0, 0, 0, 0, 0x01];

/// Whether this is an address of one station. The lowest bit of the first byte is that of groups
/// (IEEE 802-2014, section 8.2.2).
pub fn is_station(address: [u8; 6]) -> bool {
    address[0] & 1 == 0 && address != [0; 6]
}
