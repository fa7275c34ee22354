//! The two traits. Which register lies at which offset is each driver's own knowledge.
//!
//! A window knows its length, and an access that does not lie in it whole behaves as on a bus where
//! nothing answers: a read gives all ones, a write goes nowhere. So an offset that a device made up
//! cannot reach past what the driver was given.

/// A window of x86 I/O ports. Offsets count from its first port.
pub trait Ports {
    /// Number of ports.
    fn length(&self) -> u16;
    /// Reads one byte.
    fn read8(&self, offset: u16) -> u8;
    /// Reads two bytes.
    fn read16(&self, offset: u16) -> u16;
    /// Reads four bytes.
    fn read32(&self, offset: u16) -> u32;
    /// Writes one byte.
    fn write8(&self, offset: u16, value: u8);
    /// Writes two bytes.
    fn write16(&self, offset: u16, value: u16);
    /// Writes four bytes.
    fn write32(&self, offset: u16, value: u32);
}

/// A window of memory-mapped registers. Offsets are bytes from its start; an access that is not
/// aligned to its own width counts as outside the window.
pub trait Registers {
    /// Length in bytes.
    fn length(&self) -> usize;
    /// Reads one byte.
    fn read8(&self, offset: usize) -> u8;
    /// Reads two bytes.
    fn read16(&self, offset: usize) -> u16;
    /// Reads four bytes.
    fn read32(&self, offset: usize) -> u32;
    /// Writes one byte.
    fn write8(&self, offset: usize, value: u8);
    /// Writes two bytes.
    fn write16(&self, offset: usize, value: u16);
    /// Writes four bytes.
    fn write32(&self, offset: usize, value: u32);
}

/// Whether `width` bytes at `offset` lie in a window of `length` bytes.
pub(crate) const fn inside(offset: usize, width: usize, length: usize) -> bool {
    offset <= length && width <= length - offset
}

#[cfg(test)]
mod tests {
    use super::inside;

    #[test]
    fn an_access_lies_inside_whole_or_not_at_all() {
        assert!(inside(0, 4, 4));
        assert!(!inside(1, 4, 4));
        assert!(!inside(5, 0, 4));
        assert!(!inside(usize::MAX, 4, 4), "the sum does not wrap");
    }
}
