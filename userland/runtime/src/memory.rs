//! Memory objects: frames that can be mapped and shared.

use crate::handle::owned;
use crate::syscall::invoke;
use ipc::message::NEVER;
use ipc::{Error, Handle, Operation};

owned! {
    /// A memory object.
    Memory
}

/// What a memory object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryInfo {
    /// Size in bytes.
    pub bytes: u64,
    /// Whether its frames are contiguous.
    pub contiguous: bool,
    /// Whether it is a device's.
    pub device: bool,
    /// Whether a device may reach it.
    pub exposed: bool,
}

impl Memory {
    /// Makes zeroed memory of at least this many bytes, rounded up to pages. Errors: those of
    /// [`Operation::MemoryCreate`].
    pub fn create(bytes: u64) -> Result<Memory, Error> {
        Self::make(bytes, 0)
    }

    /// The same with contiguous frames, for DMA.
    pub fn create_contiguous(bytes: u64) -> Result<Memory, Error> {
        Self::make(bytes, 1)
    }

    fn make(bytes: u64, flags: u64) -> Result<Memory, Error> {
        let bytes = bytes
            .checked_next_multiple_of(ipc::layout::PAGE_BYTES)
            .ok_or(Error::InvalidArgument)?;
        let [handle, ..] = invoke(Operation::MemoryCreate, [bytes, flags, 0, 0, 0, 0], NEVER)?;
        Ok(Memory::from_handle(Handle(handle)))
    }

    /// Makes memory of a device's physical range. Errors: those of [`Operation::MemoryDevice`].
    pub fn device(
        control: Handle,
        physical: u64,
        bytes: u64,
        write_combining: bool,
    ) -> Result<Memory, Error> {
        let arguments = [control.0, physical, bytes, u64::from(write_combining), 0, 0];
        let [handle, ..] = invoke(Operation::MemoryDevice, arguments, NEVER)?;
        Ok(Memory::from_handle(Handle(handle)))
    }

    /// Says what it is. Errors: those of [`Operation::MemoryInspect`].
    pub fn info(&self) -> Result<MemoryInfo, Error> {
        let arguments = [self.handle().0, 0, 0, 0, 0, 0];
        let [bytes, flags, ..] = invoke(Operation::MemoryInspect, arguments, NEVER)?;
        Ok(MemoryInfo {
            bytes,
            contiguous: flags & 1 != 0,
            device: flags & 2 != 0,
            exposed: flags & 4 != 0,
        })
    }

    /// Tells the physical address and marks the frames as reachable by devices. Errors: those of
    /// [`Operation::MemoryExpose`].
    pub fn expose(&self, control: Handle) -> Result<u64, Error> {
        let arguments = [control.0, self.handle().0, 1, 0, 0, 0];
        invoke(Operation::MemoryExpose, arguments, NEVER).map(|results| results[0])
    }

    /// Says that no device reaches the frames any more. Errors: those of
    /// [`Operation::MemoryExpose`].
    pub fn conceal(&self, control: Handle) -> Result<(), Error> {
        let arguments = [control.0, self.handle().0, 0, 0, 0, 0];
        invoke(Operation::MemoryExpose, arguments, NEVER).map(drop)
    }
}

/// Says that no device writes memory any more. Returns the number of frames freed. Errors: those of
/// [`Operation::DmaReset`].
pub fn dma_reset(control: Handle) -> Result<u64, Error> {
    invoke(Operation::DmaReset, [control.0, 0, 0, 0, 0, 0], NEVER).map(|results| results[0])
}
