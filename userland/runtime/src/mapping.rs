//! Memory mapped into the own task. Other tasks and devices may write it at any time, so that no
//! reference to its bytes is ever made: they are copied in and out, and words are atomics.
#![expect(unsafe_code, reason = "mapped memory is reached through raw pointers")]

use crate::area;
use crate::memory::Memory;
use crate::start::own_task;
use crate::syscall::invoke;
use alloc::sync::Arc;
use core::sync::atomic::AtomicU32;
use ipc::layout::PAGE_BYTES;
use ipc::message::NEVER;
use ipc::ring::SharedMemory;
use ipc::{Error, Handle, Operation};

/// What a mapping lets its task do beside reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing.
    Read,
    /// Write.
    Write,
    /// Execute.
    Execute,
}

impl Access {
    const fn bits(self) -> u64 {
        match self {
            Access::Read => 0,
            Access::Write => 1,
            Access::Execute => 2,
        }
    }
}

/// Maps memory into a task, where nothing else is and nothing is relied upon to be.
///
/// This gives another task memory, or the own one memory that no Rust object lies in; either way it
/// changes no memory that anybody has a reference to. Errors: those of [`Operation::MemoryMap`].
pub fn map_into(
    task: Handle,
    memory: &Memory,
    address: u64,
    offset: u64,
    bytes: u64,
    access: Access,
) -> Result<(), Error> {
    // Arguments are in registers of 64 bits; access has the sixth.
    let arguments = [
        task.0,
        memory.handle().0,
        address,
        offset,
        bytes,
        access.bits(),
    ];
    invoke(Operation::MemoryMap, arguments, NEVER).map(drop)
}

/// A mapping of the own task, removed when this value is dropped.
#[derive(Debug)]
pub struct Mapping {
    start: u64,
    bytes: u64,
    access: Access,
}

impl Mapping {
    /// Maps a range of memory at an address of the library's choice. `offset` and `bytes` are
    /// multiples of 4,096. Errors: those of [`Operation::MemoryMap`]; OutOfMemory when the addresses
    /// are used up.
    pub fn new(memory: &Memory, offset: u64, bytes: u64, access: Access) -> Result<Mapping, Error> {
        if bytes == 0 || !bytes.is_multiple_of(PAGE_BYTES) {
            return Err(Error::InvalidArgument);
        }
        let start = area::take(bytes).ok_or(Error::OutOfMemory)?;
        match map_into(own_task(), memory, start, offset, bytes, access) {
            Ok(()) => Ok(Mapping {
                start,
                bytes,
                access,
            }),
            Err(error) => {
                area::give_back(start, bytes);
                Err(error)
            }
        }
    }

    /// Maps all of a memory object. Errors: as [`Mapping::new`].
    pub fn whole(memory: &Memory, access: Access) -> Result<Mapping, Error> {
        Self::new(memory, 0, memory.info()?.bytes, access)
    }

    /// Maps all of a memory object, writable, to be shared by several owners: the two ends of
    /// [`ipc::ring::StreamPair`]. Errors: as [`Mapping::new`].
    pub fn shared(memory: &Memory) -> Result<SharedMapping, Error> {
        Self::whole(memory, Access::Write).map(|mapping| SharedMapping(Arc::new(mapping)))
    }

    /// First address.
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// Length in bytes.
    pub const fn len(&self) -> u64 {
        self.bytes
    }

    /// Never: an empty mapping cannot be made.
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Pointer to the first byte, for a driver's register window. It may be used while the mapping
    /// lives.
    pub fn as_ptr(&self) -> *mut u8 {
        core::ptr::with_exposed_provenance_mut(self.start as usize)
    }

    /// Pointer to `bytes` bytes at `offset`, if they lie in the mapping.
    fn at(&self, offset: usize, bytes: usize) -> Option<*mut u8> {
        let end = (offset as u64).checked_add(bytes as u64)?;
        (end <= self.bytes).then(|| self.as_ptr().wrapping_add(offset))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let arguments = [own_task().0, self.start, 0, 0, 0, 0];
        // An address range that is still mapped is not handed out again.
        if invoke(Operation::MemoryUnmap, arguments, NEVER).is_ok() {
            area::give_back(self.start, self.bytes);
        }
    }
}

impl SharedMemory for Mapping {
    fn bytes(&self) -> usize {
        self.bytes as usize
    }

    fn words<const N: usize>(&self, first: usize) -> Option<&[AtomicU32; N]> {
        // One comparison: rings ask this for every packet.
        let there = words_fit(first, N, self.bytes) & (self.access != Access::Execute);
        let words = self.as_ptr().cast::<AtomicU32>().wrapping_add(first);
        // SAFETY: all of the words lie in the mapping, by the check above; it lives as long as the
        // reference and is aligned to pages. Atomic words may be written by others at any time, and
        // any bit pattern is one. Storing to a mapping that is not writable is a fault of this task,
        // as documented for the caller of a ring.
        there.then(|| unsafe { &*words.cast::<[AtomicU32; N]>() })
    }

    fn read(&self, offset: usize, into: &mut [u8]) -> Option<()> {
        let from = self.at(offset, into.len())?;
        // SAFETY: `from` is mapped for that length, by the check in `at`; `into` is this task's own.
        unsafe { copy(from, into.as_mut_ptr(), into.len()) };
        Some(())
    }

    fn write(&self, offset: usize, from: &[u8]) -> Option<()> {
        if self.access != Access::Write {
            return None;
        }
        let to = self.at(offset, from.len())?;
        // SAFETY: `to` is mapped writable for that length, by the checks above, and no reference to
        // it exists; `from` is this task's own.
        unsafe { copy(from.as_ptr(), to, from.len()) };
        Some(())
    }
}

/// Whether so many 32-bit words, from this one on, lie in memory of this size.
const fn words_fit(first: usize, count: usize, bytes: u64) -> bool {
    first.saturating_add(count) as u64 <= bytes / 4
}

/// Copies bytes of which one side may be written by others meanwhile. It is assembly so that the
/// compiler cannot assume otherwise: quadwords, then the rest (Intel SDM volume 2B, REP).
///
/// # Safety
///
/// `from` is readable, `to` writable for `bytes` bytes, and they do not overlap.
#[cfg(target_os = "none")]
unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: the caller's promise; the direction flag is clear, by the calling convention.
    unsafe {
        core::arch::asm!(
            "rep movsq",
            "mov rcx, {rest}",
            "rep movsb",
            rest = in(reg) bytes % 8,
            inout("rcx") bytes / 8 => _,
            inout("rsi") from => _,
            inout("rdi") to => _,
            options(nostack, preserves_flags),
        );
    }
}

/// The host has no mappings, so that this is never reached.
#[cfg(not(target_os = "none"))]
unsafe fn copy(_: *const u8, _: *mut u8, _: usize) {}

/// A mapping with several owners, removed with the last.
#[derive(Clone, Debug)]
pub struct SharedMapping(Arc<Mapping>);

impl SharedMapping {
    /// The mapping.
    pub fn mapping(&self) -> &Mapping {
        &self.0
    }
}

impl SharedMemory for SharedMapping {
    fn bytes(&self) -> usize {
        self.0.bytes()
    }

    fn words<const N: usize>(&self, first: usize) -> Option<&[AtomicU32; N]> {
        self.0.words(first)
    }

    fn read(&self, offset: usize, into: &mut [u8]) -> Option<()> {
        self.0.read(offset, into)
    }

    fn write(&self, offset: usize, from: &[u8]) -> Option<()> {
        self.0.write(offset, from)
    }
}

/// Memory that the kernel or init mapped at the task's start and that stays for ever.
#[derive(Clone, Copy, Debug)]
pub struct Permanent {
    start: u64,
    bytes: u64,
}

impl Permanent {
    /// # Safety
    ///
    /// The range is mapped writable for the life of the task, page-aligned, and no Rust object lies
    /// in it.
    pub(crate) const unsafe fn new(start: u64, bytes: u64) -> Permanent {
        Permanent { start, bytes }
    }

    fn at(&self, offset: usize, bytes: usize) -> Option<*mut u8> {
        let end = (offset as u64).checked_add(bytes as u64)?;
        let start = core::ptr::with_exposed_provenance_mut::<u8>(self.start as usize);
        (end <= self.bytes).then(|| start.wrapping_add(offset))
    }
}

impl SharedMemory for Permanent {
    fn bytes(&self) -> usize {
        self.bytes as usize
    }

    fn words<const N: usize>(&self, first: usize) -> Option<&[AtomicU32; N]> {
        let start = core::ptr::with_exposed_provenance_mut::<AtomicU32>(self.start as usize);
        let words = start.wrapping_add(first);
        // SAFETY: all of the words lie in the range, by the check; it is mapped for ever and aligned, by
        // the promise of `new`. Atomic words may be written by others at any time, and any bit pattern
        // is one.
        words_fit(first, N, self.bytes).then(|| unsafe { &*words.cast::<[AtomicU32; N]>() })
    }

    fn read(&self, offset: usize, into: &mut [u8]) -> Option<()> {
        let from = self.at(offset, into.len())?;
        // SAFETY: as above; `into` is this task's own.
        unsafe { copy(from, into.as_mut_ptr(), into.len()) };
        Some(())
    }

    fn write(&self, offset: usize, from: &[u8]) -> Option<()> {
        let to = self.at(offset, from.len())?;
        // SAFETY: as above; `from` is this task's own.
        unsafe { copy(from.as_ptr(), to, from.len()) };
        Some(())
    }
}
