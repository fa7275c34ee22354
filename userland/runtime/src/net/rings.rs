//! The memory of a socket's two rings: mapped here, and its handle, to be given to the network stack.

use crate::mapping::{Mapping, SharedMapping};
use crate::memory::Memory;
use alloc::rc::Rc;
use core::sync::atomic::AtomicU32;
use ipc::ring::SharedMemory;
use ipc::{Error, Handle};

/// Memory shared with the network stack. It goes with its last clone.
#[derive(Clone, Debug)]
pub struct Rings {
    memory: Rc<Memory>,
    mapping: SharedMapping,
}

impl Rings {
    /// Memory of this size, rounded up to whole pages, full of zeros.
    ///
    /// Errors: those of [`Memory::create`] and [`Mapping::shared`].
    pub fn new(bytes: usize) -> Result<Rings, Error> {
        let memory = Memory::create(bytes as u64)?;
        let mapping = Mapping::shared(&memory)?;
        Ok(Rings {
            memory: Rc::new(memory),
            mapping,
        })
    }

    /// The memory's handle.
    pub fn handle(&self) -> Handle {
        self.memory.handle()
    }
}

impl SharedMemory for Rings {
    fn bytes(&self) -> usize {
        self.mapping.bytes()
    }

    fn words<const N: usize>(&self, first: usize) -> Option<&[AtomicU32; N]> {
        self.mapping.words(first)
    }

    fn read(&self, offset: usize, into: &mut [u8]) -> Option<()> {
        self.mapping.read(offset, into)
    }

    fn write(&self, offset: usize, from: &[u8]) -> Option<()> {
        self.mapping.write(offset, from)
    }
}
