//! A ring of legacy descriptors (manual, sections 3.2.6 and 3.4): memory that the device reads and
//! writes, and a private record of what it holds. Which registers tell the device of it is `device`'s.
//!
//! The device returns descriptors in their order, by writing "done" into them. Nothing else that it
//! writes decides which buffer is meant.

use alloc::vec::Vec;
use core::sync::atomic::{Ordering, fence};

use ipc::ring::Descriptor;
use pci_function::{Area, OutOfDmaMemory, dma};

/// Descriptors of a ring: a page of them. A multiple of 8, as its length must be one of 128 bytes
/// (manual, section 13.4.27).
pub(crate) const DESCRIPTORS: u16 = 256;
/// Bytes of a descriptor: its buffer's address, and a word of which "done" is a bit.
const DESCRIPTOR_BYTES: usize = 16;
/// Bytes of a ring.
pub(crate) const BYTES: usize = DESCRIPTORS as usize * DESCRIPTOR_BYTES;
/// Descriptor done, DD: bit 0 of the status, in both directions (manual, sections 3.2.3.1, 3.3.3.2).
const DONE: u64 = 1 << 32;

const _: () = assert!(BYTES == ipc::layout::PAGE_BYTES as usize);

/// A ring, and what the device holds of it.
#[derive(Debug)]
pub(crate) struct Ring {
    memory: Area,
    /// By descriptor.
    buffers: Vec<Descriptor>,
    /// The descriptor that the device returns next.
    oldest: u16,
    /// Descriptors that the device holds, or will when it is told of them.
    held: u16,
    /// Of these, those that it was not told of.
    untold: u16,
}

/// A descriptor that the device has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Done {
    /// What its buffer is called.
    pub(crate) buffer: Descriptor,
    /// The word that the device wrote.
    pub(crate) word: u64,
}

impl Ring {
    /// An empty ring. The device must have been stopped before it is released.
    pub(crate) fn new() -> Result<Ring, OutOfDmaMemory> {
        let memory = dma::allocate(BYTES.div_ceil(ipc::layout::PAGE_BYTES as usize))?;
        Ok(Ring {
            memory,
            buffers: alloc::vec![Descriptor::default(); DESCRIPTORS.into()],
            oldest: 0,
            held: 0,
            untold: 0,
        })
    }

    /// Gives the memory back.
    pub(crate) fn release(self) {
        dma::release(self.memory);
    }

    /// Physical address of the first descriptor.
    pub(crate) fn physical(&self) -> u64 {
        self.memory.physical()
    }

    /// Descriptors that the device can hold: with all of them, head and tail would be equal, which
    /// means none (manual, section 3.2.6).
    pub(crate) fn capacity(&self) -> usize {
        usize::from(DESCRIPTORS) - 1
    }

    /// Descriptors that the device holds.
    pub(crate) fn held(&self) -> usize {
        self.held.into()
    }

    /// Descriptors that the device was not told of yet.
    pub(crate) fn untold(&self) -> usize {
        self.untold.into()
    }

    /// Adds a buffer; false where there is no room.
    #[must_use]
    pub(crate) fn add(&mut self, address: u64, word: u64, buffer: Descriptor) -> bool {
        let index = (self.oldest + self.held) % DESCRIPTORS;
        let offset = usize::from(index) * DESCRIPTOR_BYTES;
        if self.held() == self.capacity()
            || self.memory.store64(offset, address).is_none()
            || self.memory.store64(offset + 8, word & !DONE).is_none()
        {
            return false;
        }
        self.buffers[usize::from(index)] = buffer;
        self.held += 1;
        self.untold += 1;
        true
    }

    /// The tail that tells the device of all that was added.
    pub(crate) fn tell(&mut self) -> u32 {
        self.untold = 0;
        // The descriptors are written before the register is.
        fence(Ordering::Release);
        u32::from((self.oldest + self.held) % DESCRIPTORS)
    }

    /// Whether the device has returned this many, at least 1, that were not taken. True only where there
    /// is one to take, so that nobody looks again in vain.
    pub(crate) fn has_done(&self, count: u16) -> bool {
        let is_done = |distance| self.word(distance) & DONE != 0;
        count <= self.held - self.untold && is_done(0) && is_done(count.saturating_sub(1))
    }

    /// Takes the next descriptor that the device has returned.
    pub(crate) fn take(&mut self) -> Option<Done> {
        if self.held == self.untold {
            return None;
        }
        let word = self.word(0);
        if word & DONE == 0 {
            return None;
        }
        // What the device wrote before is read after.
        fence(Ordering::Acquire);
        let buffer = self.buffers[usize::from(self.oldest)];
        self.oldest = (self.oldest + 1) % DESCRIPTORS;
        self.held -= 1;
        Some(Done { buffer, word })
    }

    /// The word of the descriptor this far from the oldest.
    fn word(&self, distance: u16) -> u64 {
        let index = (self.oldest + distance) % DESCRIPTORS;
        let offset = usize::from(index) * DESCRIPTOR_BYTES + 8;
        self.memory.load64(offset).unwrap_or(0)
    }
}
