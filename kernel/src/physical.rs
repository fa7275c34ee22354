//! Physical memory as the kernel addresses it: at its own address while the early page tables are
//! loaded, in the direct map afterwards. The direct map holds RAM only, so the kernel reaches no
//! device through it.
#![expect(unsafe_code, reason = "turns physical addresses into references")]

use boot::{PAGE, Physical};
use core::slice;
use kernel_core::frames::Frame;
use kernel_core::platform::{FRAME_WORDS, FrameWords};
use kernel_core::sync::{AtomicU64, Ordering};

/// Virtual address at which the kernel's own page tables show physical address 0.
pub(crate) const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;
/// End of the physical memory that can be used: what a frame's number reaches.
pub(crate) const MOST_MEMORY: u64 = (u32::MAX as u64 + 1) * PAGE;

/// What is added to a physical address: 0, then [`DIRECT_MAP`].
static OFFSET: AtomicU64 = AtomicU64::new(0);

/// From now on RAM is reached in the direct map. To be called once, with the kernel's page tables
/// loaded, before any other CPU runs.
pub(crate) fn direct_map_is_loaded() {
    OFFSET.store(DIRECT_MAP, Ordering::Relaxed);
}

/// Virtual address of a physical address of RAM, at any stage of boot.
pub(crate) fn address_of(physical: u64) -> u64 {
    physical + OFFSET.load(Ordering::Relaxed)
}

/// The contents of a frame of RAM, for the mechanism's own tables at any stage of boot.
///
/// # Safety
/// The frame is RAM below [`boot::entry::EARLY_END`], or RAM and the direct map is loaded; nothing
/// refers to it but as atomic words.
pub(crate) unsafe fn early_words(address: u64) -> &'static FrameWords {
    // SAFETY: the caller's promise: mapped at both stages, page-aligned, and shared as atomics only.
    unsafe { &*(address_of(address / PAGE * PAGE) as *const FrameWords) }
}

/// The contents of a frame that the frame table handed out.
#[inline(always)]
pub(crate) fn words(frame: Frame) -> &'static FrameWords {
    // SAFETY: the direct map shows all RAM for good; frames that the frame table hands out overlap
    // nothing that Rust knows (image, stacks, per-CPU data and page tables were cut out before the
    // table was filled), and slab pages, the exception, are excluded by the core's frame table. Any
    // bit pattern is a valid array of atomics. For a frame that is no RAM the access faults, which
    // is a panic.
    unsafe { &*((DIRECT_MAP + frame.address()) as *const FrameWords) }
}

/// Turns frames for good into objects. See [`kernel_core::platform::Platform::objects`].
pub(crate) fn objects<T: Sync>(first: Frame, count: usize, make: fn() -> T) -> &'static [T] {
    let number = count * FRAME_WORDS * 8 / size_of::<T>();
    // SAFETY: `number` values fit the frames; they are RAM, in the direct map, and the core gives them
    // up for good to this slab, so that nothing else refers to them.
    unsafe { place(first.address(), number, |_| make()) }
}

/// Places values in memory that is given up for good to them.
///
/// # Safety
/// `address` begins enough RAM for `number` values, page-aligned, which nothing else refers to, and
/// mapped from now on at the current offset.
pub(crate) unsafe fn place<T: Sync>(
    address: u64,
    number: usize,
    mut make: impl FnMut(usize) -> T,
) -> &'static [T] {
    const { assert!(align_of::<T>() <= FRAME_WORDS * 8) };
    let start = address_of(address) as *mut T;
    for index in 0..number {
        // SAFETY: the caller's promise.
        unsafe { start.add(index).write(make(index)) };
    }
    // SAFETY: `number` values were written; nothing will move or write them but through `&T`.
    unsafe { slice::from_raw_parts(start, number) }
}

/// Bytes of RAM that nobody writes.
///
/// # Safety
/// The range is RAM, in the direct map, and nobody writes it ever again.
pub(crate) unsafe fn bytes(address: u64, length: u64) -> &'static [u8] {
    // SAFETY: the caller's promise.
    unsafe { slice::from_raw_parts(address_of(address) as *const u8, length as usize) }
}

/// Clears physical memory.
///
/// # Safety
/// The range is RAM that nothing refers to, mapped at the current offset.
pub(crate) unsafe fn clear(address: u64, bytes: u64) {
    // SAFETY: the caller's promise.
    unsafe { core::ptr::write_bytes(address_of(address) as *mut u8, 0, bytes as usize) }
}

/// The memory that the boot loader and the firmware left, below 4 GiB, while the early page tables
/// are loaded.
pub(crate) struct EarlyMemory(());

impl EarlyMemory {
    /// Access to it.
    ///
    /// # Safety
    /// The early page tables are loaded, and nothing writes the memory that will be read for as long
    /// as the value and what was read through it live.
    pub(crate) unsafe fn new() -> EarlyMemory {
        EarlyMemory(())
    }
}

impl Physical for EarlyMemory {
    fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
        let end = address.checked_add(length as u64)?;
        if end > boot::entry::EARLY_END || address == 0 {
            return None;
        }
        // SAFETY: mapped at its own address by the early page tables, not null, and unchanged for
        // this value's life (promised to `new`). What is there is the firmware's or the loader's,
        // outside every Rust object.
        Some(unsafe { slice::from_raw_parts(address as *const u8, length) })
    }
}
