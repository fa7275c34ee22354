//! Memory that both this task and its device reach: mapped here, attached there by pci.
#![expect(
    unsafe_code,
    reason = "only here is known that a mapping and a physical address are the same memory"
)]

use core::ptr::NonNull;

use ipc::client::Deadline;
use ipc::interface::pci::PciClient;
use runtime::mapping::Access;
use runtime::{Error, Kernel, Mapping, Memory};

use crate::{Area, SetupError, dma};

/// Memory that the claimed device can reach, mapped into the task.
#[derive(Debug)]
pub struct Attached {
    area: Area,
    region: u32,
    /// Goes last.
    _mapping: Mapping,
}

impl Attached {
    /// Maps contiguous memory and lets the device of this pci session reach it.
    pub fn new(pci: &PciClient<Kernel>, memory: &Memory) -> Result<Attached, SetupError> {
        let mapping = Mapping::whole(memory, Access::Write)?;
        let start = NonNull::new(mapping.as_ptr()).ok_or(Error::InvalidArgument)?;
        // pci keeps what it gets: it gets a handle of its own.
        let region = pci.dma_attach(Deadline::NEVER, memory.handle())?;
        let length = mapping.len().min(region.bytes) as usize;
        // SAFETY: the mapping is writable and of the whole memory, which pci found contiguous at
        // this address; it lives until `detach`, before which the queues were dropped. Should a copy of
        // the area be left then, it reaches what is mapped there next, or nothing, which is a fault:
        // no reference to mapped memory is ever made, and what others write there is only ever copied.
        match unsafe { Area::new(start, length, region.physical) } {
            Ok(area) => Ok(Attached {
                area,
                region: region.region,
                _mapping: mapping,
            }),
            Err(error) => {
                let _ = pci.dma_detach(Deadline::NEVER, region.region);
                Err(error.into())
            }
        }
    }

    /// Makes the arena of the task's queues, of so many bytes. It stays for the life of the task.
    pub fn arena(pci: &PciClient<Kernel>, bytes: u64) -> Result<(), SetupError> {
        let memory = Memory::create_contiguous(bytes)?;
        let arena = Attached::new(pci, &memory)?;
        dma::install_arena(arena.area);
        core::mem::forget(arena);
        Ok(())
    }

    /// The memory as queues take it.
    pub fn area(&self) -> Area {
        self.area
    }

    /// Ends the attachment. The device was stopped and its bus mastering switched off; otherwise pci
    /// refuses, and keeps the memory until the device is stopped. No area of it is used any more.
    pub fn detach(self, pci: &PciClient<Kernel>) {
        let _ = pci.dma_detach(Deadline::NEVER, self.region);
    }
}
