//! The real windows: I/O instructions and volatile memory accesses. Nothing but the access itself
//! is here; what is written where is decided by safe code above.
#![expect(
    unsafe_code,
    reason = "I/O instructions and volatile accesses to device memory have no safe form"
)]

use alloc::sync::Arc;
use core::ptr::NonNull;

use runtime::ports::IoPorts;
use runtime::{Error, Mapping};
use x86_64::instructions::port::{PortRead, PortWrite};

use crate::window::{Ports, Registers, inside};

/// A range of I/O ports that the task has attached, for as long as this value lives.
#[derive(Debug)]
pub struct PortWindow {
    first: u16,
    count: u16,
    /// The right to use them.
    _ports: IoPorts,
}

impl PortWindow {
    /// Attaches a range of ports: `count` from `first`, which is what the handle stands for. An
    /// access to others is a fault of this task. A range that would run past the last port is cut
    /// there.
    ///
    /// Errors: those of `IoPortsAttach`.
    pub fn attach(ports: IoPorts, first: u16, count: u16) -> Result<PortWindow, Error> {
        ports.attach()?;
        let rest = u16::MAX - first;
        Ok(PortWindow {
            first,
            count: if count > rest { rest } else { count },
            _ports: ports,
        })
    }

    fn read<T: PortRead>(&self, offset: u16, nothing: T) -> T {
        if !inside(offset.into(), size_of::<T>(), self.count.into()) {
            return nothing;
        }
        // SAFETY: reading a port changes no memory. A port that the kernel has not opened for this
        // task is a fault, which ends it.
        unsafe { T::read_from_port(self.first + offset) }
    }

    fn write<T: PortWrite>(&self, offset: u16, value: T) {
        if inside(offset.into(), size_of::<T>(), self.count.into()) {
            // SAFETY: writing a port changes no memory of this task but by a transfer of the device
            // behind it, and those go to memory that pci attached, of which no reference exists.
            unsafe { T::write_to_port(self.first + offset, value) }
        }
    }
}

impl Ports for PortWindow {
    fn length(&self) -> u16 {
        self.count
    }
    fn read8(&self, offset: u16) -> u8 {
        self.read(offset, u8::MAX)
    }
    fn read16(&self, offset: u16) -> u16 {
        self.read(offset, u16::MAX)
    }
    fn read32(&self, offset: u16) -> u32 {
        self.read(offset, u32::MAX)
    }
    fn write8(&self, offset: u16, value: u8) {
        self.write(offset, value);
    }
    fn write16(&self, offset: u16, value: u16) {
        self.write(offset, value);
    }
    fn write32(&self, offset: u16, value: u32) {
        self.write(offset, value);
    }
}

/// A range of device memory that is mapped into the task.
#[derive(Debug)]
pub struct MappedWindow {
    base: NonNull<u8>,
    length: usize,
    /// What keeps the range mapped; none in tests over ordinary memory.
    mapping: Option<Arc<Mapping>>,
}

// SAFETY: the registers belong to no thread; every access is one volatile load or store.
unsafe impl Send for MappedWindow {}

impl MappedWindow {
    /// All of a mapping of device memory, which is writable; the mapping lives as long as the
    /// window and its parts. `None` for a mapping at address 0, which does not exist.
    pub fn new(mapping: Mapping) -> Option<MappedWindow> {
        let base = NonNull::new(mapping.as_ptr())?;
        let length = mapping.len() as usize;
        Some(MappedWindow {
            base,
            length,
            mapping: Some(Arc::new(mapping)),
        })
    }

    /// The part of the window that starts at `offset`, `length` bytes long; `None` where it does
    /// not lie in it. Both parts reach the same registers.
    pub fn part(&self, offset: usize, length: usize) -> Option<MappedWindow> {
        if !inside(offset, length, self.length) {
            return None;
        }
        // SAFETY: the offset is inside the mapping, by the check above.
        let base = unsafe { self.base.add(offset) };
        Some(MappedWindow {
            base,
            length,
            mapping: self.mapping.clone(),
        })
    }

    /// Where an access of `T` at `offset` goes, if it is inside and aligned.
    fn place<T>(&self, offset: usize) -> Option<NonNull<T>> {
        if !inside(offset, size_of::<T>(), self.length) {
            return None;
        }
        // SAFETY: the offset is inside the mapping, by the check above.
        let place = unsafe { self.base.add(offset) }.cast::<T>();
        place.is_aligned().then_some(place)
    }

    fn read<T>(&self, offset: usize, nothing: T) -> T {
        match self.place::<T>(offset) {
            // SAFETY: in the mapping, which lives as long as this, and aligned, by `place`; `T` is an
            // integer, for which every bit pattern is a value. No reference to the place exists.
            Some(place) => unsafe { place.read_volatile() },
            None => nothing,
        }
    }

    fn write<T>(&self, offset: usize, value: T) {
        if let Some(place) = self.place::<T>(offset) {
            // SAFETY: as for reading. Writing to a mapping that is not writable is a fault.
            unsafe { place.write_volatile(value) }
        }
    }
}

impl Registers for MappedWindow {
    fn length(&self) -> usize {
        self.length
    }
    fn read8(&self, offset: usize) -> u8 {
        self.read(offset, u8::MAX)
    }
    fn read16(&self, offset: usize) -> u16 {
        self.read(offset, u16::MAX)
    }
    fn read32(&self, offset: usize) -> u32 {
        self.read(offset, u32::MAX)
    }
    fn write8(&self, offset: usize, value: u8) {
        self.write(offset, value);
    }
    fn write16(&self, offset: usize, value: u16) {
        self.write(offset, value);
    }
    fn write32(&self, offset: usize, value: u32) {
        self.write(offset, value);
    }
}

#[cfg(test)]
mod tests {
    use super::{MappedWindow, NonNull, Registers};

    /// A window over ordinary memory: the accesses are the same.
    fn window(memory: &mut [u32]) -> MappedWindow {
        let length = size_of_val(memory);
        MappedWindow {
            base: NonNull::from(memory).cast(),
            length,
            mapping: None,
        }
    }

    #[test]
    fn accesses_inside_reach_their_register() {
        let mut memory = [0u32; 4];
        let window = window(&mut memory);
        window.write32(4, 0x1234_5678);
        assert_eq!(
            (window.read8(4), window.read16(6), window.read32(4)),
            (0x78, 0x1234, 0x1234_5678)
        );
        assert_eq!(window.part(4, 4).unwrap().read32(0), 0x1234_5678);
    }

    #[test]
    fn accesses_outside_or_unaligned_find_nothing() {
        let mut memory = [0u32; 4];
        let window = window(&mut memory);
        window.write32(16, 1);
        window.write32(14, 1);
        window.write32(2, 1);
        assert_eq!(window.read32(16), u32::MAX);
        assert_eq!(window.read32(2), u32::MAX);
        assert_eq!(window.read32(usize::MAX - 1), u32::MAX);
        assert!(window.part(12, 8).is_none() && window.part(16, 0).is_some());
        assert_eq!(memory, [0; 4], "no write went through");
    }
}
