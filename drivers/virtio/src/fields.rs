//! Fields behind memory-mapped registers, as both memory-mapped transports access them: those of a
//! device's own configuration, each in its own width, whole or not at all, and addresses.

use registers::Registers;
use virtio_drivers::{Error, Result};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Where a field of `length` bytes at `offset` of the configuration lies, which begins at `start` of
/// the window and goes to its end.
fn place<R: Registers>(window: &R, start: usize, offset: usize, length: usize) -> Result<usize> {
    let place = start.checked_add(offset);
    place
        .filter(|place| {
            place
                .checked_add(length)
                .is_some_and(|end| end <= window.length())
        })
        .ok_or(Error::ConfigSpaceTooSmall)
}

/// Reads a field. One of 1, 2 or 4 bytes is read in one access, another one byte by byte (VIRTIO 1.2,
/// sections 4.1.3.1 and 4.2.2.2).
pub(crate) fn read<R: Registers, T: FromBytes + IntoBytes>(
    window: &R,
    start: usize,
    offset: usize,
) -> Result<T> {
    let place = place(window, start, offset, size_of::<T>())?;
    let mut value = T::new_zeroed();
    match value.as_mut_bytes() {
        [byte] => *byte = window.read8(place),
        bytes @ [_, _] => bytes.copy_from_slice(&window.read16(place).to_le_bytes()),
        bytes @ [_, _, _, _] => bytes.copy_from_slice(&window.read32(place).to_le_bytes()),
        bytes => {
            for (index, byte) in bytes.iter_mut().enumerate() {
                *byte = window.read8(place + index);
            }
        }
    }
    Ok(value)
}

/// Writes a field, in accesses as [`read`] reads it.
pub(crate) fn write<R: Registers, T: IntoBytes + Immutable>(
    window: &R,
    start: usize,
    offset: usize,
    value: T,
) -> Result<()> {
    let place = place(window, start, offset, size_of::<T>())?;
    match *value.as_bytes() {
        [byte] => window.write8(place, byte),
        [a, b] => window.write16(place, u16::from_le_bytes([a, b])),
        [a, b, c, d] => window.write32(place, u32::from_le_bytes([a, b, c, d])),
        ref bytes => {
            for (index, byte) in bytes.iter().enumerate() {
                window.write8(place + index, *byte);
            }
        }
    }
    Ok(())
}

/// Writes a 64-bit register, as two of 32 bits (VIRTIO 1.2, sections 4.1.3.1 and 4.2.2).
pub(crate) fn write_address<R: Registers>(window: &R, offset: usize, address: u64) {
    window.write32(offset, address as u32);
    window.write32(offset + 4, (address >> 32) as u32);
}
