//! DMA memory: ranges that the task has mapped and whose physical address it knows.
//!
//! A task has one arena, from which its queues come, and may have further areas, such as the packet
//! pool that belongs to the network stack. Making the memory and learning its address is `attach`'s.
#![expect(
    unsafe_code,
    reason = "memory that a device reads and writes is reached through raw pointers"
)]

use core::ptr::NonNull;
use core::sync::atomic::AtomicU16;

use spin::Mutex;

use crate::OutOfDmaMemory;

/// Unit of allocation in bytes.
const PAGE: usize = ipc::layout::PAGE_BYTES as usize;
/// Pages of the arena that are managed at most (16 MiB).
const ARENA_PAGES: usize = 4096;

/// A range of DMA memory: where the task sees it and where a device does.
///
/// An area is a name for the range and may be copied. The bytes are shared with a device and maybe
/// with another task, so that no reference to them is ever made; they are copied in and out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    start: NonNull<u8>,
    length: usize,
    physical: u64,
}

// SAFETY: an area is an address range; every access to it is a copy through raw pointers, which
// does not depend on the thread.
unsafe impl Send for Area {}

/// What the queues are made of.
static ARENA: Mutex<Option<Arena>> = Mutex::new(None);

impl Area {
    /// The area that is this range.
    ///
    /// # Errors
    ///
    /// OutOfDmaMemory where the range is empty or wraps around.
    ///
    /// # Safety
    ///
    /// `length` bytes at `start` are mapped readable and writable and lie, without a gap, at
    /// `physical`; both stay so for as long as the area, or a part of it, is used. No reference to the
    /// range exists, and what a device or another task writes into it can change nothing that this task
    /// relies on.
    pub unsafe fn new(
        start: NonNull<u8>,
        length: usize,
        physical: u64,
    ) -> Result<Area, OutOfDmaMemory> {
        let wraps = (start.as_ptr() as usize).checked_add(length).is_none()
            || physical.checked_add(length as u64).is_none();
        if length == 0 || wraps {
            return Err(OutOfDmaMemory);
        }
        Ok(Area {
            start,
            length,
            physical,
        })
    }

    /// Length in bytes.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Physical address of the first byte.
    pub fn physical(&self) -> u64 {
        self.physical
    }

    /// `length` bytes at `offset`; `None` where they do not lie in the area or are none.
    pub fn part(&self, offset: usize, length: usize) -> Option<Area> {
        let start = self.place(offset, length).filter(|_| length > 0)?;
        Some(Area {
            start,
            length,
            // It does not wrap, by the check in `new`.
            physical: self.physical.wrapping_add(offset as u64),
        })
    }

    /// Where `length` bytes at `offset` are; `None` where they do not lie in the area.
    #[inline(always)]
    fn place(&self, offset: usize, length: usize) -> Option<NonNull<u8>> {
        // One comparison: queues ask this several times a packet. No area is as long as a sum that
        // saturates.
        let inside = offset.saturating_add(length) <= self.length;
        // SAFETY: the offset is inside the range, or its end, by the check.
        inside.then(|| unsafe { self.start.add(offset) })
    }

    /// Copies the first bytes out, as many as both have.
    pub fn read(&self, target: &mut [u8]) {
        for (index, byte) in target.iter_mut().enumerate().take(self.length) {
            // SAFETY: the index is inside the range, mapped by `new`'s promise. Volatile,
            // because a device may write at any time.
            *byte = unsafe { self.start.add(index).read_volatile() };
        }
    }

    /// Copies bytes to the start, as many as both have.
    pub fn write(&self, source: &[u8]) {
        for (index, byte) in source.iter().enumerate().take(self.length) {
            // SAFETY: the index is inside the range, mapped by `new`'s promise. Volatile,
            // because a device may read at any time.
            unsafe { self.start.add(index).write_volatile(*byte) };
        }
    }

    /// Copies so many bytes out from this offset on, in as few accesses as there can be; `None` where
    /// they do not lie in the area.
    pub fn load<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let bytes = self.place(offset, N)?.cast::<[u8; N]>();
        // SAFETY: inside the range, which is mapped by `new`'s promise; an array of bytes needs no
        // alignment. Volatile, because a device may write at any time.
        Some(unsafe { bytes.read_volatile() })
    }

    /// Copies bytes to this offset, in as few accesses as there can be; `None`, and nothing copied, where
    /// they do not lie in the area.
    pub fn store<const N: usize>(&self, offset: usize, bytes: [u8; N]) -> Option<()> {
        let place = self.place(offset, N)?.cast::<[u8; N]>();
        // SAFETY: inside the range, which is mapped by `new`'s promise; an array of bytes needs no
        // alignment. Volatile, because a device may read at any time.
        unsafe { place.write_volatile(bytes) };
        Some(())
    }

    /// Reads the aligned 64-bit word at this offset, in one access; `None` where none is.
    pub fn load64(&self, offset: usize) -> Option<u64> {
        let word = self.place64(offset)?;
        // SAFETY: inside the range, which is mapped by `new`'s promise, and aligned. Volatile,
        // because a device may write at any time.
        Some(unsafe { word.read_volatile() })
    }

    /// Writes the aligned 64-bit word at this offset, in one access; `None` where none is.
    pub fn store64(&self, offset: usize, value: u64) -> Option<()> {
        let word = self.place64(offset)?;
        // SAFETY: inside the range, which is mapped by `new`'s promise, and aligned. Volatile,
        // because a device may read at any time.
        unsafe { word.write_volatile(value) };
        Some(())
    }

    /// Where the aligned 64-bit word at this offset is.
    fn place64(&self, offset: usize) -> Option<NonNull<u64>> {
        let word = self.place(offset, size_of::<u64>())?.cast::<u64>();
        word.is_aligned().then_some(word)
    }

    /// The aligned 16-bit word that the area is, as an atomic; `None` for any other area.
    pub fn word(&self) -> Option<&'static AtomicU16> {
        let pointer = self.start.cast::<u16>();
        if self.length != 2 || !pointer.is_aligned() {
            return None;
        }
        // SAFETY: aligned, two bytes long, mapped by `new`'s promise. The word is a ring's:
        // both sides only ever access it atomically. A ring outlives its users, which are
        // dropped with it.
        Some(unsafe { AtomicU16::from_ptr(pointer.as_ptr()) })
    }
}

/// Pages of an area, given out in runs.
struct Arena {
    area: Area,
    taken: [u64; ARENA_PAGES / 64],
}

impl Arena {
    fn is_taken(&self, page: usize) -> bool {
        self.taken[page / 64] >> (page % 64) & 1 != 0
    }

    fn mark(&mut self, first: usize, count: usize, taken: bool) {
        for page in first..first + count {
            let bit = 1 << (page % 64);
            if taken {
                self.taken[page / 64] |= bit;
            } else {
                self.taken[page / 64] &= !bit;
            }
        }
    }

    /// First fit: a driver makes its few queues once.
    fn allocate(&mut self, pages: usize) -> Option<Area> {
        let total = (self.area.length / PAGE).min(ARENA_PAGES);
        let mut run = 0;
        for page in 0..total {
            run = if self.is_taken(page) { 0 } else { run + 1 };
            if run == pages {
                let first = page + 1 - pages;
                self.mark(first, pages, true);
                return self.area.part(first * PAGE, pages * PAGE);
            }
        }
        None
    }

    /// Frees pages; an area that is not of this arena, or is none of whole pages, frees nothing.
    fn free(&mut self, area: Area) {
        let offset = area.physical.wrapping_sub(self.area.physical) as usize;
        let whole = offset.is_multiple_of(PAGE) && area.length.is_multiple_of(PAGE);
        let (first, pages) = (offset / PAGE, area.length / PAGE);
        let managed = first + pages <= ARENA_PAGES;
        if whole && managed && self.area.part(offset, area.length) == Some(area) {
            self.mark(first, pages, false);
        }
    }
}

/// Makes an area the task's arena. Its start is a page's, in both address spaces.
pub fn install_arena(area: Area) {
    *ARENA.lock() = Some(Arena {
        area,
        taken: [0; ARENA_PAGES / 64],
    });
}

/// Takes zeroed pages of the arena for a driver's own use; [`release`] gives them back.
pub fn allocate(pages: usize) -> Result<Area, OutOfDmaMemory> {
    let area = ARENA
        .lock()
        .as_mut()
        .and_then(|arena| arena.allocate(pages));
    let area = area.ok_or(OutOfDmaMemory)?;
    // SAFETY: the pages are mapped, by `new`'s promise, and nobody else holds them.
    unsafe { area.start.write_bytes(0, area.length) };
    Ok(area)
}

/// Gives pages back that [`allocate`] gave, once no device uses them any more.
pub fn release(area: Area) {
    if let Some(arena) = ARENA.lock().as_mut() {
        arena.free(area);
    }
}

#[cfg(any(test, feature = "fake"))]
pub mod test_memory {
    //! DMA memory for host tests: ordinary memory with made-up physical addresses.

    use super::{ARENA, Area, NonNull, PAGE, install_arena};

    /// Physical address of the test arena: not where the process sees it, so that a mix-up shows.
    const PHYSICAL: u64 = 0x1_2340_0000;
    /// Its size: all tests of a process share it.
    const BYTES: usize = 16 * 1024 * 1024;

    /// Installs the process's arena, once.
    pub fn install() {
        static INSTALL: std::sync::Once = std::sync::Once::new();
        INSTALL.call_once(|| {
            let memory = std::vec![0u8; BYTES + PAGE].leak();
            let skip = memory.as_ptr().align_offset(PAGE);
            let start = NonNull::from(&mut memory[skip..]).cast();
            // SAFETY: the memory is leaked and was never used before.
            let area = unsafe { Area::new(start, BYTES, PHYSICAL) };
            install_arena(area.expect("a range"));
        });
    }

    /// Pages of the arena that are taken.
    pub fn taken() -> u32 {
        let arena = ARENA.lock();
        let words = arena.iter().flat_map(|arena| arena.taken);
        words.map(u64::count_ones).sum()
    }

    /// What a device finds at a physical address: a part of the arena, or nothing.
    pub fn at_physical(physical: u64, length: usize) -> Option<Area> {
        let arena = ARENA.lock().as_ref().map(|arena| arena.area)?;
        let offset = usize::try_from(physical.checked_sub(PHYSICAL)?).ok()?;
        arena.part(offset, length)
    }
}

#[cfg(test)]
mod tests {
    use super::test_memory::{self, at_physical};
    use super::{ARENA_PAGES, Area, Arena, NonNull, PAGE};
    use super::{allocate, release};

    #[test]
    fn pages_are_zeroed_apart_and_come_back() {
        test_memory::install();
        let first = allocate(2).unwrap();
        let second = allocate(1).unwrap();
        assert!(
            first.physical + 2 * PAGE as u64 <= second.physical || second.physical < first.physical
        );
        first.write(&[7; 8]);
        release(first);
        release(second);
        let again = allocate(2).unwrap();
        let mut bytes = [1; 8];
        again.read(&mut bytes);
        assert_eq!(bytes, [0; 8]);
        release(again);
        assert!(allocate(usize::MAX / PAGE).is_err(), "more than there is");
    }

    #[test]
    fn only_pages_of_the_arena_come_back() {
        test_memory::install();
        let area = allocate(4).unwrap();
        let mut arena = Arena {
            area: area.part(PAGE, 2 * PAGE).unwrap(),
            taken: [0; ARENA_PAGES / 64],
        };
        let pages = [1, 1].map(|count| arena.allocate(count).unwrap());
        let foreign = [(0, 1), (3, 1), (0, 2), (2, 2)];
        for (page, count) in foreign {
            arena.free(area.part(page * PAGE, count * PAGE).unwrap());
        }
        arena.free(pages[0].part(8, 8).unwrap());
        assert!(arena.allocate(1).is_none(), "both are still taken");
        arena.free(pages[1]);
        assert_eq!(arena.allocate(1), Some(pages[1]));
        release(area);
    }

    #[test]
    fn addresses_translate_only_inside_areas() {
        test_memory::install();
        let area = allocate(1).unwrap();
        let part = area.part(100, 50).unwrap();
        assert_eq!(at_physical(part.physical, 50), Some(part));
        assert_eq!(at_physical(area.physical, usize::MAX), None);
        assert_eq!(at_physical(8, 8), None);
        assert!(area.part(PAGE, 1).is_none() && area.part(1, PAGE).is_none());
        assert!(area.part(0, 0).is_none() && area.part(usize::MAX, 2).is_none());
        release(area);
    }

    #[test]
    fn words_lie_inside_and_are_aligned() {
        test_memory::install();
        let area = allocate(1).unwrap();
        assert_eq!(area.store64(4088, 0x0102_0304_0506_0708), Some(()));
        assert_eq!(area.load64(4088), Some(0x0102_0304_0506_0708));
        for offset in [4089, 4096, usize::MAX, 4] {
            assert_eq!(area.load64(offset), None, "{offset}");
            assert_eq!(area.store64(offset, 1), None, "{offset}");
        }
        release(area);
    }

    #[test]
    fn ranges_that_wrap_are_refused() {
        let mut byte = 0u8;
        let start = NonNull::from(&mut byte);
        // SAFETY: the range is refused before anything is done with it.
        let wrapped = unsafe { Area::new(start, 1, u64::MAX) };
        assert!(wrapped.is_err());
        // SAFETY: as above.
        assert!(unsafe { Area::new(start, usize::MAX, 0) }.is_err());
    }
}
