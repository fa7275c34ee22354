//! User page tables: four levels, as x86-64 walks them (Intel SDM volume 3A, section 4.5).
//!
//! Tables are frames, read and written as atomic words through [`Platform::words`]: the CPUs walk
//! them at any time. An entry that is not present is 0 throughout. Levels are counted as the walk
//! goes: 4 is the root, 1 the table of 4 KiB pages. Every function takes at most one step a level
//! unless it says otherwise.
//!
//! What this leaves to others: exclusion (the lock of the address space), TLB shootdown before a
//! frame or table that was taken out is used again, the frames that leaves map, the kernel half, and
//! whether a task may map a frame at all.

use crate::frames::Frame;
use crate::mutant::{self, Mutant};
use crate::platform::{Access, Caching, FRAME_WORDS, FrameWords, Platform};
use crate::sync::{AtomicU64, Ordering};
use ipc::layout;

// Bits of an entry: Intel SDM volume 3A, tables 4-15 to 4-20.
/// Bit 0, P: the entry is used.
const PRESENT: u64 = 1 << 0;
/// Bit 1, R/W: writable, if it is set at every level.
const WRITABLE: u64 = 1 << 1;
/// Bit 2, U/S: accessible to ring 3, if it is set at every level.
const USER: u64 = 1 << 2;
/// Bit 3, PWT: with PCD the number of the page's entry in the PAT (section 4.9.2).
const WRITE_THROUGH: u64 = 1 << 3;
/// Bit 4, PCD.
const CACHE_DISABLE: u64 = 1 << 4;
/// Bit 5, A. Set in advance: nobody asks, and the CPU need not write it (section 4.8).
const ACCESSED: u64 = 1 << 5;
/// Bit 6, D, of a leaf. Set in advance as well where the page is writable.
const DIRTY: u64 = 1 << 6;
/// Bit 7, PS: at level 2 the entry maps a 2 MiB page. (At level 1 the bit is PAT, always 0 here.)
const LARGE: u64 = 1 << 7;
/// Bit 63, XD: no instruction fetches.
const NO_EXECUTE: u64 = 1 << 63;
/// Bits 51 to 12: physical address of the page or table.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What an entry that leads to a table says: all permissions; the leaf decides.
const TABLE: u64 = PRESENT | WRITABLE | USER | ACCESSED;
/// Level of the root.
const ROOT_LEVEL: u32 = 4;
/// Entries of the root that cover the lower canonical half (section 4.5.2: bits 47 to 39).
const USER_ROOT_ENTRIES: usize = FRAME_WORDS / 2;
/// End of the lower canonical half.
const USER_HALF_END: u64 = 1 << 47;

/// Entry of the page attribute table that [`Caching::WriteCombining`] pages name. The mechanism
/// sets it to write combining; as the reset leaves it, it means write through, which is slower but
/// as safe (Intel SDM volume 3A, table 11-12).
pub const WRITE_COMBINING_PAT_ENTRY: u32 = 1;

/// Size of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageSize {
    /// 4 KiB.
    Small,
    /// 2 MiB.
    Large,
}

impl PageSize {
    /// Bytes.
    pub const fn bytes(self) -> u64 {
        match self {
            PageSize::Small => layout::PAGE_BYTES,
            PageSize::Large => layout::LARGE_PAGE_BYTES,
        }
    }

    /// Frames.
    pub const fn frames(self) -> u64 {
        self.bytes() / layout::PAGE_BYTES
    }

    const fn level(self) -> u32 {
        match self {
            PageSize::Small => 1,
            PageSize::Large => 2,
        }
    }
}

/// Why [`map`] mapped nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// A page is mapped there.
    Occupied,
    /// The place of a 2 MiB page is divided into 4 KiB pages; maybe none of them is mapped. Map
    /// 4 KiB pages instead.
    Divided,
    /// There was no frame for a table.
    NoTable,
    /// The address is not the task's or the kernel's to map, address or frame is no multiple of the
    /// page size, or the page would be both writable and executable.
    Invalid,
}

/// Maps a page.
///
/// `take_table` supplies up to three frames for tables; their contents do not matter. Tables that
/// were put in stay there when a later one is refused: they are empty, and [`tear_down_step`] finds
/// them. A new mapping needs no shootdown.
///
/// # Errors
/// See [`MapError`].
#[expect(clippy::too_many_arguments, reason = "a mapping has this many sides")]
pub fn map<P: Platform>(
    platform: &P,
    root: Frame,
    address: u64,
    frame: Frame,
    size: PageSize,
    access: Access,
    caching: Caching,
    take_table: &mut dyn FnMut() -> Option<Frame>,
) -> Result<(), MapError> {
    let aligned =
        address.is_multiple_of(size.bytes()) && frame.address().is_multiple_of(size.bytes());
    if !aligned
        || !may_map(address, size)
        || (access.write && access.execute && !mutant::active(Mutant::WriteAndExecute))
    {
        return Err(MapError::Invalid);
    }
    let mut table = platform.words(root);
    for level in (size.level() + 1..=ROOT_LEVEL).rev() {
        table = table_below(platform, &table[index(address, level)], take_table)?;
    }
    let entry = &table[index(address, size.level())];
    match entry.load(Ordering::Relaxed) {
        0 => {
            entry.store(leaf(frame, size, access, caching), Ordering::Release);
            Ok(())
        }
        old if is_leaf(old, size.level()) => Err(MapError::Occupied),
        _ => Err(MapError::Divided),
    }
}

/// Takes out the page that the address lies in and returns its first frame and its size. `None` if
/// nothing is mapped there.
///
/// CPUs may use the mapping until their TLBs are flushed.
pub fn unmap<P: Platform>(platform: &P, root: Frame, address: u64) -> Option<(Frame, PageSize)> {
    let (entry, size) = find_leaf(platform, root, address)?;
    let old = entry.swap(0, Ordering::AcqRel);
    Some((frame_of(old), size))
}

/// Where an address leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Physical address.
    pub physical: u64,
    /// Whether ring 3 may write there.
    pub writable: bool,
    /// Whether ring 3 may execute there.
    pub executable: bool,
}

/// Where an address leads, `None` if nothing is mapped there.
pub fn translate<P: Platform>(platform: &P, root: Frame, address: u64) -> Option<Translation> {
    let (entry, size) = find_leaf(platform, root, address)?;
    let value = entry.load(Ordering::Acquire);
    Some(Translation {
        physical: frame_of(value).address() + address % size.bytes(),
        writable: value & WRITABLE != 0,
        executable: value & NO_EXECUTE == 0,
    })
}

/// What [`is_free`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// Nothing is mapped in the range.
    Free,
    /// The page at this address is mapped; nothing in front of it is.
    Occupied(u64),
    /// The budget ran out; nothing below this address is mapped. Go on from here.
    Unfinished(u64),
}

/// Looks for mapped pages in `start .. end`, both multiples of 4 KiB, with at most `budget` walks.
/// A walk covers 4 KiB, or all that an absent table would cover. Only the user half is looked at;
/// [`map`] refuses the rest.
pub fn is_free<P: Platform>(
    platform: &P,
    root: Frame,
    start: u64,
    end: u64,
    budget: usize,
) -> Scan {
    let mut address = start;
    for _ in 0..budget {
        if address >= end.min(USER_HALF_END) {
            return Scan::Free;
        }
        let (entry, level) = walk(platform, root, address);
        if entry.load(Ordering::Relaxed) != 0 {
            return Scan::Occupied(address);
        }
        address = (address / span(level) + 1) * span(level);
    }
    if address >= end.min(USER_HALF_END) {
        Scan::Free
    } else {
        Scan::Unfinished(address)
    }
}

/// Takes the tables of the user half out from the bottom up, `budget` of them at most, and hands
/// their frames to `free`. True when only the root is left. Looks at no more than 512 entries for
/// each table, plus 1,280.
///
/// The frames that leaves map are not freed, only forgotten. No CPU may have the root loaded, or
/// hold TLB entries from it.
pub fn tear_down_step<P: Platform>(
    platform: &P,
    root: Frame,
    free: &mut dyn FnMut(Frame),
    budget: usize,
) -> bool {
    let mut left = budget;
    let mut take_out = |entry: &AtomicU64| {
        let paid = left > 0;
        if paid {
            left -= 1;
            free(frame_of(entry.swap(0, Ordering::AcqRel)));
        }
        paid
    };
    for (top_entry, directories) in tables(platform, &platform.words(root)[..USER_ROOT_ENTRIES]) {
        for (middle_entry, directory) in tables(platform, directories) {
            for (entry, _) in tables(platform, directory) {
                if !take_out(entry) {
                    return false;
                }
            }
            if !take_out(middle_entry) {
                return false;
            }
        }
        if !take_out(top_entry) {
            return false;
        }
    }
    true
}

/// The tables that a table of level 2 to 4 leads to, with the entries that do.
fn tables<'a, P: Platform>(
    platform: &'a P,
    table: &'static [AtomicU64],
) -> impl Iterator<Item = (&'static AtomicU64, &'static FrameWords)> + 'a {
    table.iter().filter_map(|entry| {
        let value = entry.load(Ordering::Relaxed);
        let leads_on = value & PRESENT != 0 && value & LARGE == 0;
        leads_on.then(|| (entry, platform.words(frame_of(value))))
    })
}

/// Whether a page of this size may be at the address: the task's part, or one of the kernel's pages.
fn may_map(address: u64, size: PageSize) -> bool {
    const IPC_BUFFERS_END: u64 =
        layout::IPC_BUFFERS + layout::MAX_THREADS_PER_TASK as u64 * layout::IPC_BUFFER_STRIDE;
    match address {
        layout::USER_START..layout::USER_END => true,
        layout::CLOCK_PAGE => size == PageSize::Small,
        layout::IPC_BUFFERS..IPC_BUFFERS_END => {
            let offset = address - layout::IPC_BUFFERS;
            size == PageSize::Small && offset.is_multiple_of(layout::IPC_BUFFER_STRIDE)
        }
        _ => false,
    }
}

/// Bytes that one entry covers at a level.
const fn span(level: u32) -> u64 {
    layout::PAGE_BYTES << (9 * (level - 1))
}

/// The entry of an address at a level (section 4.5.2).
fn index(address: u64, level: u32) -> usize {
    (address / span(level)) as usize % FRAME_WORDS
}

/// The frame that a present entry names.
fn frame_of(entry: u64) -> Frame {
    Frame::from_address(entry & ADDRESS).expect("entries are made from frames")
}

fn is_leaf(entry: u64, level: u32) -> bool {
    entry & PRESENT != 0 && (level == 1 || entry & LARGE != 0)
}

fn leaf(frame: Frame, size: PageSize, access: Access, caching: Caching) -> u64 {
    let mut entry = frame.address() | PRESENT | USER | ACCESSED;
    if size == PageSize::Large {
        entry |= LARGE;
    }
    if access.write {
        entry |= WRITABLE | DIRTY;
    }
    if !access.execute {
        entry |= NO_EXECUTE;
    }
    entry
        | match caching {
            Caching::WriteBack => 0,
            // Entry 3 of the PAT: uncached since reset (table 11-12).
            Caching::Uncached => CACHE_DISABLE | WRITE_THROUGH,
            // Entry 1: see `WRITE_COMBINING_PAT_ENTRY`.
            Caching::WriteCombining => WRITE_THROUGH,
        }
}

/// The table that an entry leads to; puts an empty one in if there is none.
fn table_below<P: Platform>(
    platform: &P,
    entry: &AtomicU64,
    take_table: &mut dyn FnMut() -> Option<Frame>,
) -> Result<&'static FrameWords, MapError> {
    let value = entry.load(Ordering::Relaxed);
    if value & LARGE != 0 {
        return Err(MapError::Occupied);
    }
    if value != 0 {
        return Ok(platform.words(frame_of(value)));
    }
    let frame = take_table().ok_or(MapError::NoTable)?;
    let table = platform.words(frame);
    table
        .iter()
        .for_each(|word| word.store(0, Ordering::Relaxed));
    // Release: a CPU that walks through the entry finds the table empty.
    entry.store(frame.address() | TABLE, Ordering::Release);
    Ok(table)
}

/// The entry at which the walk for an address of the user half ends, and its level: a leaf or absent.
fn walk<P: Platform>(platform: &P, root: Frame, address: u64) -> (&'static AtomicU64, u32) {
    let (mut table, mut level) = (platform.words(root), ROOT_LEVEL);
    loop {
        let entry = &table[index(address, level)];
        let value = entry.load(Ordering::Acquire);
        if value == 0 || is_leaf(value, level) {
            return (entry, level);
        }
        table = platform.words(frame_of(value));
        level -= 1;
    }
}

fn find_leaf<P: Platform>(
    platform: &P,
    root: Frame,
    address: u64,
) -> Option<(&'static AtomicU64, PageSize)> {
    if address >= USER_HALF_END {
        return None;
    }
    let (entry, level) = walk(platform, root, address);
    let size = if level == 1 {
        PageSize::Small
    } else {
        PageSize::Large
    };
    (entry.load(Ordering::Relaxed) != 0).then_some((entry, size))
}

#[cfg(test)]
mod tests {
    use super::{
        ACCESSED, CACHE_DISABLE, DIRTY, LARGE, MapError, NO_EXECUTE, PRESENT, PageSize, Scan,
        TABLE, Translation, USER, USER_ROOT_ENTRIES, WRITABLE, WRITE_THROUGH, is_free, map, span,
        tear_down_step, translate, unmap, walk,
    };
    use crate::fake::{EXECUTE, Fake, MEMORY, READ, WRITE};
    use crate::frames::Frame;
    use crate::platform::{Access, Caching, Platform};
    use crate::random::Random;
    use crate::sync::Ordering;
    use ipc::layout;
    use std::collections::{BTreeMap, BTreeSet};

    const ROOT: Frame = Frame(16);
    const ADDRESS: u64 = 0x1234_5678_9000;

    /// An address space with its own store of table frames.
    struct Space {
        machine: &'static Fake,
        next: u32,
        tables: BTreeSet<Frame>,
        limit: usize,
    }

    impl Space {
        fn new() -> Space {
            let machine = Fake::new(Frame(0x8000));
            machine.install_kernel_half(ROOT);
            Space {
                machine,
                next: ROOT.0 + 1,
                tables: BTreeSet::new(),
                limit: usize::MAX,
            }
        }

        fn map_as(
            &mut self,
            address: u64,
            frame: Frame,
            size: PageSize,
            access: Access,
            caching: Caching,
        ) -> Result<(), MapError> {
            let machine = self.machine;
            let mut take = || {
                let frame = Frame(self.next);
                if self.tables.len() >= self.limit {
                    return None;
                }
                // What lies in the frame must not matter.
                machine
                    .words(frame)
                    .iter()
                    .for_each(|word| word.store(u64::MAX, Ordering::SeqCst));
                self.next += 1;
                self.tables.insert(frame);
                Some(frame)
            };
            map(
                machine, ROOT, address, frame, size, access, caching, &mut take,
            )
        }

        fn map(&mut self, address: u64, frame: u32, size: PageSize) -> Result<(), MapError> {
            self.map_as(address, Frame(frame), size, WRITE, MEMORY)
        }

        fn translate(&self, address: u64) -> Option<Translation> {
            translate(self.machine, ROOT, address)
        }

        fn entry(&self, address: u64) -> u64 {
            walk(self.machine, ROOT, address).0.load(Ordering::SeqCst)
        }
    }

    #[test]
    fn entries_are_as_the_manual_says() {
        let mut space = Space::new();
        let base = PRESENT | USER | ACCESSED;
        let cases = [
            (READ, MEMORY, NO_EXECUTE),
            (WRITE, MEMORY, NO_EXECUTE | WRITABLE | DIRTY),
            (EXECUTE, MEMORY, 0),
            (
                READ,
                Caching::Uncached,
                NO_EXECUTE | CACHE_DISABLE | WRITE_THROUGH,
            ),
            (READ, Caching::WriteCombining, NO_EXECUTE | WRITE_THROUGH),
        ];
        for (number, (access, caching, bits)) in cases.into_iter().enumerate() {
            let number = number as u32 + 1;
            let (small, large) = (u64::from(number) << 12, 0x4000_0000 * u64::from(number));
            let small = ADDRESS + small;
            space
                .map_as(small, Frame(number), PageSize::Small, access, caching)
                .unwrap();
            assert_eq!(space.entry(small), Frame(number).address() | base | bits);
            space
                .map_as(large, Frame(number << 9), PageSize::Large, access, caching)
                .unwrap();
            assert_eq!(
                space.entry(large),
                u64::from(number) << 21 | base | bits | LARGE
            );
        }
        // The walk by hand: bits 47-39, 38-30, 29-21, 20-12.
        let mut table = ROOT;
        for index in [0x24, 0xd1, 0xb3] {
            let entry = space.machine.words(table)[index].load(Ordering::SeqCst);
            assert_eq!(entry & 0xfff, TABLE);
            table = Frame((entry >> 12) as u32);
        }
        let entry = space.machine.words(table)[0x189 + 1].load(Ordering::SeqCst);
        assert_eq!(entry, 0x1000 | base | NO_EXECUTE);
    }

    #[test]
    fn frames_up_to_16_tib_can_be_mapped() {
        let mut space = Space::new();
        space.map(ADDRESS, u32::MAX, PageSize::Small).unwrap();
        assert_eq!(
            space.translate(ADDRESS).map(|t| t.physical),
            Some((16 << 40) - 0x1000)
        );
    }

    #[test]
    fn a_page_is_mapped_found_and_unmapped() {
        let mut space = Space::new();
        space.map(ADDRESS, 0x500, PageSize::Small).unwrap();
        let found = Translation {
            physical: 0x50_0123,
            writable: true,
            executable: false,
        };
        assert_eq!(space.translate(ADDRESS + 0x123), Some(found));
        assert_eq!(space.translate(ADDRESS + 0x1000), None);
        assert_eq!(
            space.map(ADDRESS, 0x501, PageSize::Small),
            Err(MapError::Occupied)
        );
        let machine = space.machine;
        assert_eq!(
            unmap(machine, ROOT, ADDRESS),
            Some((Frame(0x500), PageSize::Small))
        );
        assert_eq!(unmap(machine, ROOT, ADDRESS), None);
        assert_eq!(space.translate(ADDRESS), None);
        space
            .map_as(ADDRESS, Frame(0x501), PageSize::Small, EXECUTE, MEMORY)
            .unwrap();
        let found = Translation {
            physical: 0x50_1000,
            writable: false,
            executable: true,
        };
        assert_eq!(space.translate(ADDRESS), Some(found));
    }

    #[test]
    fn large_pages_exclude_small_ones() {
        let mut space = Space::new();
        let large = 0x4000_0000;
        space.map(large, 0x200, PageSize::Large).unwrap();
        assert_eq!(space.tables.len(), 2);
        assert_eq!(
            space.map(large + 0x5000, 1, PageSize::Small),
            Err(MapError::Occupied)
        );
        assert_eq!(
            space.map(large, 0x400, PageSize::Large),
            Err(MapError::Occupied)
        );
        assert_eq!(
            space.translate(large + 0x12_3456).map(|t| t.physical),
            Some(0x32_3456)
        );
        let taken = unmap(space.machine, ROOT, large + 0x12_3456);
        assert_eq!(taken, Some((Frame(0x200), PageSize::Large)));
        space.map(large + 0x5000, 1, PageSize::Small).unwrap();
        assert_eq!(
            space.map(large, 0x400, PageSize::Large),
            Err(MapError::Divided)
        );
        unmap(space.machine, ROOT, large + 0x5000).unwrap();
        assert_eq!(
            space.map(large, 0x400, PageSize::Large),
            Err(MapError::Divided)
        );
    }

    #[test]
    fn what_may_not_be_mapped_is_refused() {
        let mut space = Space::new();
        let both = Access {
            write: true,
            execute: true,
        };
        let refused = space.map_as(ADDRESS, Frame(1), PageSize::Small, both, MEMORY);
        assert_eq!(refused, Err(MapError::Invalid));
        let end_of_buffers =
            layout::IPC_BUFFERS + layout::MAX_THREADS_PER_TASK as u64 * layout::IPC_BUFFER_STRIDE;
        for address in [
            0,
            layout::USER_START - 0x1000,
            ADDRESS + 1,
            ADDRESS + 0x800,
            layout::CLOCK_PAGE + 0x1000,
            layout::IPC_BUFFERS - 0x1000,
            layout::IPC_BUFFERS + 0x1000,
            end_of_buffers,
            super::USER_HALF_END - 0x1000,
            super::USER_HALF_END,
            0xffff_8000_0000_0000,
            u64::MAX - 0xfff,
        ] {
            let refused = space.map(address, 1, PageSize::Small);
            assert_eq!(refused, Err(MapError::Invalid), "{address:#x}");
        }
        for (address, frame) in [
            (0, 0x200),
            (0x4000_0000, 0x201),
            (0x4000_1000, 0x200),
            (layout::CLOCK_PAGE, 0x200),
            (layout::IPC_BUFFERS, 0x200),
        ] {
            let refused = space.map(address, frame, PageSize::Large);
            assert_eq!(refused, Err(MapError::Invalid), "{address:#x}");
        }
        assert!(space.tables.is_empty());
        for address in [
            layout::USER_START,
            layout::USER_END - 0x1000,
            layout::CLOCK_PAGE,
            layout::IPC_BUFFERS,
            end_of_buffers - layout::IPC_BUFFER_STRIDE,
        ] {
            space.map(address, 1, PageSize::Small).unwrap();
        }
        space
            .map(layout::USER_END - 0x40_0000, 0x200, PageSize::Large)
            .unwrap();
    }

    #[test]
    fn addresses_above_the_user_half_lead_nowhere() {
        let mut space = Space::new();
        let below_kernel_half = Frame::from_address(crate::fake::KERNEL_HALF).unwrap();
        space.machine.words(below_kernel_half)[0].store(PRESENT | LARGE, Ordering::SeqCst);
        let kernel = 0xffff_ff80_0000_0000;
        assert_eq!(walk(space.machine, ROOT, kernel).1, 3);
        space.map(ADDRESS, 1, PageSize::Small).unwrap();
        for address in [kernel, ADDRESS + (1 << 48), super::USER_HALF_END, u64::MAX] {
            assert_eq!(space.translate(address), None, "{address:#x}");
            assert_eq!(unmap(space.machine, ROOT, address), None, "{address:#x}");
        }
        assert!(space.translate(ADDRESS).is_some());
    }

    #[test]
    fn tables_that_were_put_in_before_a_refusal_are_used_later() {
        let mut space = Space::new();
        for limit in 0..3 {
            space.limit = limit;
            assert_eq!(
                space.map(ADDRESS, 1, PageSize::Small),
                Err(MapError::NoTable)
            );
            assert_eq!(space.tables.len(), limit);
            assert_eq!(space.translate(ADDRESS), None);
        }
        space.limit = 3;
        space.map(ADDRESS, 1, PageSize::Small).unwrap();
        space.map(ADDRESS + 0x1000, 2, PageSize::Small).unwrap();
    }

    #[test]
    fn scans_skip_absent_tables_and_stop_at_their_budget() {
        let mut space = Space::new();
        let machine = space.machine;
        let scan = |start, end, budget| is_free(machine, ROOT, start, end, budget);
        let (start, end) = (layout::USER_START, layout::USER_END);
        assert_eq!(scan(start, end, 256), Scan::Free);
        assert_eq!(scan(start, end, 2), Scan::Unfinished(2 * span(4)));
        space.map(ADDRESS, 1, PageSize::Small).unwrap();
        assert_eq!(scan(start, end, 2000), Scan::Occupied(ADDRESS));
        assert_eq!(scan(ADDRESS - 0x3000, ADDRESS, 3), Scan::Free);
        assert_eq!(
            scan(ADDRESS - 0x3000, ADDRESS + 0x1000, 3),
            Scan::Unfinished(ADDRESS)
        );
        assert_eq!(
            scan(ADDRESS - 0x3000, ADDRESS + 0x1000, 4),
            Scan::Occupied(ADDRESS)
        );
        assert_eq!(scan(ADDRESS + 0x1000, end, 2000), Scan::Free);
        assert_eq!(scan(ADDRESS, ADDRESS, 0), Scan::Free);
        space.map(0x4020_0000, 0x200, PageSize::Large).unwrap();
        assert_eq!(
            scan(0x4030_0000, 0x4030_1000, 1),
            Scan::Occupied(0x4030_0000)
        );
    }

    #[test]
    fn random_mappings_behave_like_a_map() {
        let mut space = Space::new();
        let mut random = Random::new(4);
        let mut model: BTreeMap<u64, (Frame, PageSize)> = BTreeMap::new();
        for _ in 0..10_000 {
            // Four regions of 8 MiB, of which the first is for large pages.
            let region = random.below(4) as u64;
            let base = 0x7_c000_0000 + region * 0x2000_0000_0000;
            let size = if region == 0 {
                PageSize::Large
            } else {
                PageSize::Small
            };
            let pages = (0x80_0000 / size.bytes()) as usize;
            let address = base + random.below(pages) as u64 * size.bytes();
            let frame = Frame((random.below(1 << 20) as u32) << 9);
            if random.below(2) == 0 {
                let result = space.map(address, frame.0, size);
                let old = model.get(&address);
                assert_eq!(result, old.map_or(Ok(()), |_| Err(MapError::Occupied)));
                model.entry(address).or_insert((frame, size));
            } else {
                assert_eq!(unmap(space.machine, ROOT, address), model.remove(&address));
            }
            let expected = model
                .get(&address)
                .map(|(frame, _)| frame.address() + 0x7ff);
            assert_eq!(
                space.translate(address + 0x7ff).map(|t| t.physical),
                expected
            );
        }
        assert!(model.len() > 1000);
        for (address, (frame, _)) in model {
            assert_eq!(
                space.translate(address).map(|t| t.physical),
                Some(frame.address())
            );
        }
    }

    #[test]
    fn tear_down_frees_every_table_once_and_no_leaf() {
        for budget in [1, 2, 7, 1000] {
            let mut space = Space::new();
            let mut random = Random::new(5);
            for number in 0..300 {
                let address = (random.next() % layout::USER_END) & !0x1f_ffff;
                let size = if number % 3 == 0 {
                    PageSize::Large
                } else {
                    PageSize::Small
                };
                let _ = space.map(address.max(layout::LARGE_PAGE_BYTES), 0x200, size);
            }
            // A full directory: 512 tables.
            for number in 0..512 {
                space
                    .map(0x40_0000_0000 + number * span(2), 0x200, PageSize::Small)
                    .unwrap();
            }
            space.map(layout::CLOCK_PAGE, 1, PageSize::Small).unwrap();
            let mut freed = BTreeSet::new();
            let mut steps = 0;
            loop {
                let before = freed.len();
                let mut free = |frame| assert!(freed.insert(frame), "{frame:?} freed twice");
                let done = tear_down_step(space.machine, ROOT, &mut free, budget);
                steps += 1;
                assert!(freed.len() - before <= budget);
                if done {
                    break;
                }
                assert_eq!(freed.len() - before, budget, "a step has to make progress");
            }
            assert_eq!(freed, space.tables);
            assert!(steps <= space.tables.len() / budget + 1);
            let root = space.machine.words(ROOT);
            assert!(
                root[..USER_ROOT_ENTRIES]
                    .iter()
                    .all(|word| word.load(Ordering::SeqCst) == 0)
            );
            assert_eq!(root[511].load(Ordering::SeqCst), crate::fake::KERNEL_HALF);
        }
    }

    #[test]
    fn tear_down_of_an_empty_space_is_done_at_once() {
        let space = Space::new();
        assert!(tear_down_step(
            space.machine,
            ROOT,
            &mut |_| panic!("nothing to free"),
            0
        ));
    }
}
