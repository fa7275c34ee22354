//! Registers of a window that does not start on a page.

use alloc::boxed::Box;

use registers::Registers;

/// The part of mapped registers that begins at `skip`.
pub(crate) struct Shifted {
    pub(crate) registers: Box<dyn Registers>,
    pub(crate) skip: usize,
}

impl Registers for Shifted {
    fn length(&self) -> usize {
        self.registers.length().saturating_sub(self.skip)
    }
    fn read8(&self, offset: usize) -> u8 {
        self.registers.read8(offset.saturating_add(self.skip))
    }
    fn read16(&self, offset: usize) -> u16 {
        self.registers.read16(offset.saturating_add(self.skip))
    }
    fn read32(&self, offset: usize) -> u32 {
        self.registers.read32(offset.saturating_add(self.skip))
    }
    fn write8(&self, offset: usize, value: u8) {
        self.registers
            .write8(offset.saturating_add(self.skip), value);
    }
    fn write16(&self, offset: usize, value: u16) {
        self.registers
            .write16(offset.saturating_add(self.skip), value);
    }
    fn write32(&self, offset: usize, value: u32) {
        self.registers
            .write32(offset.saturating_add(self.skip), value);
    }
}
