//! The kernel's half of every address space (Intel SDM volume 3A, section 4.5):
//!
//! | from | what | pages |
//! |---|---|---|
//! | `0xffff_8000_0000_0000` | direct map: all RAM and nothing else, 16 TiB at most | largest that fit; kernel text and constants read-only; never executable |
//! | `0xffff_f000_0000_0000` | kernel stacks, an unmapped page under each | 4 KiB |
//! | `0xffff_f800_0000_0000` | registers of APICs and HPET | 4 KiB, uncached |
//! | `0xffff_ffff_8000_0000` | the kernel's image: text, constants, data | 4 KiB, writable or executable |
//!
//! All of it is complete, and its root entries final, before the first task exists: a root of a task
//! is made by copying them. User halves are the core's (`kernel_core::page_table`).
#![expect(unsafe_code, reason = "writes page tables and loads them")]

use crate::boot_memory::BootMemory;
use crate::cpuid::{self, Feature};
use crate::physical::{self, DIRECT_MAP, MOST_MEMORY};
use boot::entry::KERNEL_BASE;
use boot::{PAGE, Range, Ranges};
use core::arch::asm;
use kernel_core::frames::Frame;
use kernel_core::page_table::WRITE_COMBINING_PAT_ENTRY;
use kernel_core::platform::{FRAME_WORDS, FrameWords};
use kernel_core::sync::{AtomicU64, Ordering};
use kernel_core::tlb::SpaceTag;
use spin::Once;
use x86_64::instructions::tlb::{self, InvPcidCommand, Pcid};
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags, Efer, EferFlags};
use x86_64::registers::model_specific::Msr;

/// Where the kernel's stacks appear.
const STACKS: u64 = 0xffff_f000_0000_0000;
/// Address space of one stack: its pages and an unmapped one below.
const STACK_STRIDE: u64 = 128 * 1024;
/// Where device registers appear.
const DEVICES: u64 = 0xffff_f800_0000_0000;
/// Bytes of a stack on which the kernel runs; more in debug builds, whose frames are larger.
const STACK_BYTES: u64 = if cfg!(debug_assertions) {
    64 * 1024
} else {
    16 * 1024
};
/// Bytes of an interrupt stack: enough to print a panic on.
pub(crate) const INTERRUPT_STACK_BYTES: u64 = STACK_BYTES / 2;

/// Entry bits (tables 4-15 to 4-20).
const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const WRITE_THROUGH: u64 = 1 << 3;
const CACHE_DISABLE: u64 = 1 << 4;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const LARGE: u64 = 1 << 7;
const GLOBAL: u64 = 1 << 8;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Leaf bits of each kind of memory. Accessed and dirty are set in advance: the CPU never writes.
const LEAF: u64 = PRESENT | ACCESSED | DIRTY | GLOBAL;
const CODE: u64 = LEAF;
const CONSTANTS: u64 = LEAF | NO_EXECUTE;
const DATA: u64 = LEAF | NO_EXECUTE | WRITABLE;
/// Entry 3 of the page attribute table: uncached.
const REGISTERS: u64 = DATA | WRITE_THROUGH | CACHE_DISABLE;

/// Page attribute table (Intel SDM volume 3A, section 12.12.2): the reset's values in all entries but
/// the core's for write combining.
const IA32_PAT: u32 = 0x277;
const PAT_RESET: u64 = 0x0007_0406_0007_0406;
const PAT_WRITE_COMBINING: u64 = 1;

/// Bit 63 of what is moved to CR3, with process-context identifiers: entries with the identifier stay
/// (Intel SDM volume 3A, section 4.10.4.1).
const KEEP_ENTRIES: u64 = 1 << 63;

/// Entries of a root that belong to the kernel.
const KERNEL_HALF: core::ops::Range<usize> = FRAME_WORDS / 2..FRAME_WORDS;

unsafe extern "C" {
    static __image_start: u8;
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_end: u8;
    static __data_end: u8;
}

/// Physical address of the root; and how many bytes of the device window are taken.
static ROOT: AtomicU64 = AtomicU64::new(0);
static DEVICES_USED: AtomicU64 = AtomicU64::new(0);

/// Where the kernel's image lies in physical memory.
pub(crate) fn image() -> Range {
    let start = (&raw const __image_start).addr() as u64;
    Range {
        start,
        end: (&raw const __data_end).addr() as u64 - KERNEL_BASE,
    }
}

/// Tables under construction.
pub(crate) struct Tables<'a> {
    root: &'static FrameWords,
    memory: &'a mut BootMemory,
}

impl<'a> Tables<'a> {
    /// Empty tables.
    pub(crate) fn new(memory: &'a mut BootMemory) -> Tables<'a> {
        let root = memory.take(PAGE);
        ROOT.store(root, Ordering::Relaxed);
        Tables {
            root: table(root),
            memory,
        }
    }

    /// The tables of [`Tables::new`], to add to them.
    pub(crate) fn again(memory: &'a mut BootMemory) -> Tables<'a> {
        Tables {
            root: table(ROOT.load(Ordering::Relaxed)),
            memory,
        }
    }

    /// Maps the image, each section with its own permissions.
    pub(crate) fn map_image(&mut self) {
        let text = (&raw const __text_start).addr() as u64;
        let text_end = (&raw const __text_end).addr() as u64;
        let constants_end = (&raw const __rodata_end).addr() as u64;
        let data_end = (&raw const __data_end).addr() as u64;
        for (start, end, flags) in [
            (text, text_end, CODE),
            (text_end, constants_end, CONSTANTS),
            (constants_end, data_end, DATA),
        ] {
            self.map(start, start - KERNEL_BASE, end - start, flags, PAGE);
        }
    }

    /// Maps a range of RAM, page-aligned, in the direct map.
    pub(crate) fn map_ram(&mut self, range: Range) {
        let end = range.end.min(MOST_MEMORY);
        // What must not be written through the direct map either: entry code, text and constants.
        let start_fixed = image().start.clamp(range.start, end);
        let end_fixed =
            ((&raw const __rodata_end).addr() as u64 - KERNEL_BASE).clamp(range.start, end);
        let largest = if cpuid::has(Feature::GiganticPages) {
            1 << 30
        } else {
            2 << 20
        };
        for (start, end, flags) in [
            (range.start, start_fixed, DATA),
            (start_fixed, end_fixed, CONSTANTS),
            (end_fixed, end, DATA),
        ] {
            if start < end {
                self.map(DIRECT_MAP + start, start, end - start, flags, largest);
            }
        }
    }

    /// Makes a stack of `bytes` with an unmapped page below and returns its end. `slot` numbers the
    /// stacks.
    fn map_stack(&mut self, slot: u64, bytes: u64) -> u64 {
        let end = STACKS + (slot + 1) * STACK_STRIDE;
        assert!(bytes < STACK_STRIDE, "a page stays unmapped");
        let memory = self.memory.take(bytes);
        self.map(end - bytes, memory, bytes, DATA, PAGE);
        end
    }

    /// Makes a CPU's kernel stack and its interrupt stacks; returns their ends. `set` numbers them.
    pub(crate) fn map_stacks<const N: usize>(&mut self, set: u32) -> (u64, [u64; N]) {
        let first = u64::from(set) * (1 + N as u64);
        let kernel = self.map_stack(first, STACK_BYTES);
        let interrupt = core::array::from_fn(|index| {
            self.map_stack(first + 1 + index as u64, INTERRUPT_STACK_BYTES)
        });
        (kernel, interrupt)
    }

    /// Maps device registers, uncached, and returns the virtual address of `physical`.
    pub(crate) fn map_registers(&mut self, physical: u64, bytes: u64) -> u64 {
        let pages = Range {
            start: physical,
            end: physical + bytes,
        }
        .outer_pages();
        // A page in between stays unmapped.
        let place = DEVICES + DEVICES_USED.fetch_add(pages.bytes() + PAGE, Ordering::Relaxed);
        self.map(place, pages.start, pages.bytes(), REGISTERS, PAGE);
        place + (physical - pages.start)
    }

    /// Maps `bytes` from `address` on with the largest pages that fit, at most `largest` bytes each.
    fn map(
        &mut self,
        mut address: u64,
        mut physical: u64,
        mut bytes: u64,
        flags: u64,
        largest: u64,
    ) {
        while bytes > 0 {
            let page = [1 << 30, 2 << 20, PAGE]
                .into_iter()
                .filter(|page| *page <= largest.min(bytes))
                .find(|page| address.is_multiple_of(*page) && physical.is_multiple_of(*page))
                .unwrap_or(PAGE);
            let level = match page {
                PAGE => 1,
                0x20_0000 => 2,
                _ => 3,
            };
            let large = if level > 1 { LARGE } else { 0 };
            let entry = self.entry(address, level);
            assert!(
                entry.load(Ordering::Relaxed) == 0,
                "the kernel maps {address:#x} twice"
            );
            entry.store(physical | flags | large, Ordering::Relaxed);
            address = address.wrapping_add(page);
            physical += page;
            bytes -= page.min(bytes);
        }
    }

    /// The entry for an address in the table of a level (4 is the root); makes the tables above it.
    fn entry(&mut self, address: u64, level: u32) -> &'static AtomicU64 {
        let mut words = self.root;
        for above in (level + 1..=4).rev() {
            let entry = &words[index(address, above)];
            if entry.load(Ordering::Relaxed) == 0 {
                let table = self.memory.take(PAGE);
                entry.store(table | PRESENT | WRITABLE | ACCESSED, Ordering::Relaxed);
            }
            words = table(entry.load(Ordering::Relaxed) & ADDRESS);
        }
        &words[index(address, level)]
    }
}

fn index(address: u64, level: u32) -> usize {
    (address >> (12 + 9 * (level - 1))) as usize % FRAME_WORDS
}

fn table(address: u64) -> &'static FrameWords {
    // SAFETY: only called with addresses of tables of this module, from boot memory: RAM that is
    // mapped at this stage, and used as atomic words alone.
    unsafe { physical::early_words(address) }
}

/// Turns on, on this CPU, what the tables rely on and what protects the kernel from ring 3: NX, write
/// protection in ring 0, global pages, SMEP, SMAP, UMIP, process-context identifiers where there, the page
/// attribute table.
pub(crate) fn enable_protection() {
    let shift = WRITE_COMBINING_PAT_ENTRY * 8;
    let attributes = PAT_RESET & !(0xff << shift) | PAT_WRITE_COMBINING << shift;
    let mut flags = Cr4Flags::PAGE_GLOBAL;
    for (feature, flag) in [
        (
            Feature::Smep,
            Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION,
        ),
        (Feature::Smap, Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION),
        (Feature::Umip, Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION),
        (Feature::FsGsBase, Cr4Flags::FSGSBASE),
        // In 64-bit mode, and with a CR3 that names no identifier (section 4.10.1): both are so at boot.
        (Feature::Pcid, Cr4Flags::PCID),
    ] {
        flags.set(flag, cpuid::has(feature));
    }
    // SAFETY: the processor has each of these (`cpuid::detect` insists on the first two), and the
    // kernel neither executes nor touches user pages, writes its text, or relies on the attribute
    // that is replaced.
    unsafe {
        Efer::update(|efer| efer.insert(EferFlags::NO_EXECUTE_ENABLE));
        Msr::new(IA32_PAT).write(attributes);
        Cr0::update(|cr0| cr0.insert(Cr0Flags::WRITE_PROTECT));
        Cr4::update(|cr4| cr4.insert(flags));
    }
}

/// Frame of the kernel's own root.
pub(crate) fn root() -> Frame {
    // Boot memory for it comes from below 4 GiB.
    Frame((ROOT.load(Ordering::Relaxed) / PAGE) as u32)
}

/// What CR3 takes for a root and the tag of its TLB entries, which are kept as it is loaded if they are no
/// other space's: the tag is the process-context identifier.
pub(crate) fn tagged(root: Frame, tag: SpaceTag) -> u64 {
    if tag == SpaceTag::SHARED || !cpuid::has(Feature::Pcid) {
        return root.address();
    }
    root.address() | u64::from(tag.number()) | KEEP_ENTRIES
}

/// Loads a root on this CPU, as [`tagged`] gave it or the address of the kernel's. TLB entries are flushed
/// but for global ones: all, or with process-context identifiers those of the root's, if at all.
#[inline]
pub(crate) fn load(root: u64) {
    // SAFETY: roots come from the core and have the kernel's half from `install_kernel_half` on, or
    // are the kernel's own; what the user half maps is of no concern to Rust. Beside the address there is
    // nothing but what `tagged` says, which sets no flag where processors lack the feature (Intel SDM
    // volume 3A, section 2.5), and the same kernel half is in every root.
    unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack, preserves_flags)) };
}

/// Drops this CPU's TLB entries that bear a tag, but for global ones; without process-context identifiers
/// all but global ones.
pub(crate) fn flush(tag: SpaceTag) {
    if !cpuid::has(Feature::Pcid) {
        tlb::flush_all();
        return;
    }
    let pcid = Pcid::new(tag.number()).expect("a tag has 12 bits");
    // SAFETY: the processor has INVPCID, or `has` would be false; to drop entries is always right.
    unsafe { tlb::flush_pcid(InvPcidCommand::Single(pcid)) };
}

/// Drops all of this CPU's TLB entries but for global ones.
pub(crate) fn flush_all() {
    if !cpuid::has(Feature::Pcid) {
        tlb::flush_all();
        return;
    }
    // SAFETY: as in `flush`.
    unsafe { tlb::flush_pcid(InvPcidCommand::AllExceptGlobal) };
}

/// Copies the kernel's half into a task's root.
pub(crate) fn install_kernel_half(root_frame: Frame) {
    let from = physical::words(root());
    let to = physical::words(root_frame);
    for (from, to) in from[KERNEL_HALF].iter().zip(&to[KERNEL_HALF]) {
        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// Whether these bytes lie on a mapped stack of the kernel: for a backtrace.
pub(crate) fn is_stack(address: u64, bytes: u64) -> bool {
    let Some(end) = address.checked_add(bytes) else {
        return false;
    };
    let data = (&raw const __rodata_end).addr() as u64..(&raw const __data_end).addr() as u64;
    if data.contains(&address) && end <= data.end {
        // The stack that the boot CPU starts on is part of the image.
        return true;
    }
    (STACKS..DEVICES).contains(&address) && is_mapped(address) && is_mapped(end - 1)
}

fn is_mapped(address: u64) -> bool {
    let mut words = table(ROOT.load(Ordering::Relaxed));
    for level in (1..=4).rev() {
        let entry = words[index(address, level)].load(Ordering::Relaxed);
        if entry & PRESENT == 0 {
            return false;
        }
        if entry & LARGE != 0 && level > 1 {
            return true;
        }
        words = if level > 1 {
            table(entry & ADDRESS)
        } else {
            words
        };
    }
    true
}

/// All RAM, and the APICs' registers: what no driver may map.
static KEPT: Once<Ranges> = Once::new();

/// Remembers what no driver may map. To be called once.
pub(crate) fn keep(ranges: Ranges) {
    KEPT.call_once(|| ranges);
}

/// Whether a driver may map the range: it is outside RAM, the kernel's own APICs and address 0.
pub(crate) fn is_device_range(range: Range) -> bool {
    let pages = range.outer_pages();
    pages.end <= MOST_MEMORY && KEPT.get().is_some_and(|kept| !kept.overlaps(pages))
}
