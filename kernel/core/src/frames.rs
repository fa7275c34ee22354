//! The frame table: which physical frames are RAM, and a buddy allocator over them.
//!
//! A *block* of order n is 2^n frames that begin at a multiple of 2^n; its *buddy* is the other half
//! of the block of order n + 1 that it lies in. Two free buddies are always merged, so a request is
//! refused only if no free block is large enough.
//!
//! What this leaves to others: the contents of frames (nothing is zeroed here), quotas, and knowing
//! who owns what. The mechanism supplies the memory for the book-keeping and says at boot where RAM is.

use crate::sync::{AtomicU8, AtomicU32, Lock, Ordering, Rank};

/// Largest order of a block: 2^18 frames are 1 GiB.
pub const MAX_ORDER: u32 = 18;
const ORDERS: usize = MAX_ORDER as usize + 1;
const FRAME_SHIFT: u32 = ipc::layout::PAGE_BYTES.trailing_zeros();

/// A physical frame by number: its physical address divided by 4,096. Reaches up to 16 TiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Frame(pub u32);

impl Frame {
    /// Physical address of the frame's first byte.
    #[inline]
    pub const fn address(self) -> u64 {
        (self.0 as u64) << FRAME_SHIFT
    }

    /// The frame that the physical address lies in; `None` at and above 16 TiB.
    #[inline]
    pub const fn from_address(address: u64) -> Option<Frame> {
        let number = address >> FRAME_SHIFT;
        if number <= u32::MAX as u64 {
            Some(Frame(number as u32))
        } else {
            None
        }
    }
}

/// No RAM, or not added yet.
const UNUSABLE: u8 = 0;
/// RAM: allocated, or inside a free block but not its first frame.
const RAM: u8 = 1;
/// RAM that holds kernel objects, for good.
const OBJECTS: u8 = 2;
/// First frame of a free block; the low bits are its order.
const FREE: u8 = 0x80;

/// End of a free list. Frame 0 is never handed out, so that its number is free for this.
const NONE: u32 = 0;

/// The book-keeping of one frame: 12 bytes. All zero is [`FrameInfo::NEW`].
#[derive(Debug)]
pub struct FrameInfo {
    state: AtomicU8,
    /// Neighbours in the free list; only for the first frame of a free block.
    next: AtomicU32,
    previous: AtomicU32,
}

impl FrameInfo {
    /// A frame that is no RAM.
    #[expect(
        clippy::declare_interior_mutable_const,
        reason = "the initial value of each element of an array"
    )]
    pub const NEW: FrameInfo = FrameInfo {
        state: AtomicU8::new(UNUSABLE),
        next: AtomicU32::new(NONE),
        previous: AtomicU32::new(NONE),
    };
}

/// First blocks of the free lists, by order, and the counts.
#[derive(Debug)]
struct Lists {
    first: [u32; ORDERS],
    /// Bit n: the list of order n is not empty.
    present: u32,
    free: u64,
    total: u64,
}

/// The frames of the machine.
///
/// Invariants: a frame is in at most one free block; the first frame of a free block of order n has
/// state `FREE | n` and is in list n; no two free blocks are buddies.
#[derive(Debug)]
pub struct FrameTable {
    infos: &'static [FrameInfo],
    lists: Lock<Lists>,
}

impl FrameTable {
    /// A table over the frames `0 .. infos.len()`, none of which is usable yet. `infos` must be
    /// [`FrameInfo::NEW`] throughout.
    pub const fn new(infos: &'static [FrameInfo]) -> FrameTable {
        let lists = Lists {
            first: [NONE; ORDERS],
            present: 0,
            free: 0,
            total: 0,
        };
        FrameTable {
            infos,
            lists: Lock::new(Rank::Frames, lists),
        }
    }

    /// Adds `count` frames of RAM from `first` on; all of them are free then. Frame 0 is left out.
    /// Takes time in proportion to `count`: for boot.
    ///
    /// # Panics
    /// If one of them is outside the table or was added before.
    pub fn add_range(&self, first: Frame, count: u64) {
        let first = u64::from(first.0);
        let (start, end) = (first.max(1), first + count);
        if start >= end {
            return;
        }
        assert!(
            end <= self.infos.len() as u64,
            "RAM up to frame {end:#x} is outside the table"
        );
        for number in start as u32..end as u32 {
            assert!(
                self.state(number) == UNUSABLE,
                "frame {number:#x} was added before"
            );
            self.set_state(number, RAM);
        }
        let mut lists = self.lists.lock();
        lists.total += end - start;
        for (number, order) in blocks(start as u32, end - start) {
            self.give(&mut lists, number, order);
        }
    }

    /// Number of frames of RAM that were added.
    pub fn total(&self) -> u64 {
        self.lists.lock().total
    }

    /// Number of free frames.
    pub fn free_count(&self) -> u64 {
        self.lists.lock().free
    }

    /// Whether the frame is RAM of this table, free or not.
    #[inline]
    pub fn is_ram(&self, frame: Frame) -> bool {
        self.infos
            .get(frame.0 as usize)
            .is_some_and(|info| info.state.load(Ordering::Acquire) != UNUSABLE)
    }

    /// Whether the frame holds kernel objects, so that nobody may read or write it as words.
    #[inline]
    pub fn is_object_page(&self, frame: Frame) -> bool {
        self.infos
            .get(frame.0 as usize)
            .is_some_and(|info| info.state.load(Ordering::Acquire) == OBJECTS)
    }

    /// Says for good that `count` allocated frames hold kernel objects. They can never be freed.
    ///
    /// # Panics
    /// If one of them is not allocated.
    pub fn mark_object_page(&self, first: Frame, count: u64) {
        let _lists = self.lists.lock();
        self.assert_allocated(first.0, count);
        for number in first.0..(u64::from(first.0) + count) as u32 {
            self.set_state(number, OBJECTS);
        }
    }

    /// Takes a block of 2^`order` frames that begins at a multiple of its size. `None` if there is
    /// none, or if `order` is above [`MAX_ORDER`]. Takes time in proportion to the orders.
    ///
    /// It comes from the smallest free block that is large enough, so that large ones last.
    #[must_use]
    pub fn allocate(&self, order: u32) -> Option<Frame> {
        if order > MAX_ORDER {
            return None;
        }
        let mut lists = self.lists.lock();
        let candidates = lists.present >> order << order;
        if candidates == 0 {
            return None;
        }
        let mut larger = candidates.trailing_zeros();
        let number = lists.first[larger as usize];
        self.unlink(&mut lists, number, larger);
        while larger > order {
            larger -= 1;
            self.link(&mut lists, number + (1 << larger), larger);
        }
        lists.free -= 1 << order;
        Some(Frame(number))
    }

    /// Takes `count` frames that lie side by side. `None` if there are none, or if `count` is 0 or
    /// above 2^[`MAX_ORDER`]. They begin at a multiple of the next power of two. Give them back with
    /// [`FrameTable::free_range`], all at once or in parts.
    #[must_use]
    pub fn allocate_contiguous(&self, count: u64) -> Option<Frame> {
        if count == 0 || count > 1 << MAX_ORDER {
            return None;
        }
        let whole = count.next_power_of_two();
        let first = self.allocate(whole.trailing_zeros())?;
        if count < whole {
            self.free_range(Frame(first.0 + count as u32), whole - count);
        }
        Some(first)
    }

    /// Gives back a block of 2^`order` frames: one that [`FrameTable::allocate`] returned or a part
    /// of a larger one. Takes time in proportion to the orders, and one look at each frame of it.
    ///
    /// # Panics
    /// If one of the frames is not allocated or holds kernel objects, if the block does not begin at
    /// a multiple of its size, or if `order` is above [`MAX_ORDER`].
    pub fn free(&self, first: Frame, order: u32) {
        assert!(order <= MAX_ORDER, "no block has order {order}");
        assert!(
            first.0.trailing_zeros() >= order,
            "{first:?} begins no block of order {order}"
        );
        self.free_range(first, 1 << order);
    }

    /// Gives back `count` frames that lie side by side, allocated together or not. Takes one look at
    /// each frame, and for each largest aligned block in the range time in proportion to the orders.
    ///
    /// # Panics
    /// If one of the frames is not allocated or holds kernel objects.
    pub fn free_range(&self, first: Frame, count: u64) {
        #[cfg(test)]
        crate::tests::tlb::check_forgotten(self, first, count);
        let mut lists = self.lists.lock();
        self.assert_allocated(first.0, count);
        for (number, order) in blocks(first.0, count) {
            self.give(&mut lists, number, order);
        }
    }

    /// Panics unless all frames of the range are allocated. Under the lock.
    fn assert_allocated(&self, first: u32, count: u64) {
        if count == 0 {
            return;
        }
        let end = u64::from(first) + count;
        assert!(
            end <= self.infos.len() as u64,
            "frames up to {end:#x} are outside the table"
        );
        for number in first..end as u32 {
            let state = self.state(number);
            assert!(
                state == RAM,
                "frame {number:#x} is not allocated (state {state:#x})"
            );
        }
        // Inside a free block only the first frame says so. One that reaches into the range begins
        // either in it, which the loop above has ruled out, or in front of it and covers `first`.
        for order in 0..=MAX_ORDER {
            let start = first >> order << order;
            let free = self.state(start) == FREE | order as u8;
            assert!(!free, "frame {first:#x} is free already");
        }
    }

    /// Adds a block to the free ones and merges it with its buddies.
    fn give(&self, lists: &mut Lists, mut number: u32, mut order: u32) {
        lists.free += 1 << order;
        while order < MAX_ORDER {
            let buddy = number ^ (1 << order);
            if buddy as usize >= self.infos.len() || self.state(buddy) != FREE | order as u8 {
                break;
            }
            self.unlink(lists, buddy, order);
            number = number.min(buddy);
            order += 1;
        }
        self.link(lists, number, order);
    }

    fn link(&self, lists: &mut Lists, number: u32, order: u32) {
        let next = lists.first[order as usize];
        self.info(number).next.store(next, Ordering::Relaxed);
        self.info(number).previous.store(NONE, Ordering::Relaxed);
        if next != NONE {
            self.info(next).previous.store(number, Ordering::Relaxed);
        }
        lists.first[order as usize] = number;
        lists.present |= 1 << order;
        self.set_state(number, FREE | order as u8);
    }

    fn unlink(&self, lists: &mut Lists, number: u32, order: u32) {
        let next = self.info(number).next.load(Ordering::Relaxed);
        let previous = self.info(number).previous.load(Ordering::Relaxed);
        if next != NONE {
            self.info(next).previous.store(previous, Ordering::Relaxed);
        }
        if previous != NONE {
            self.info(previous).next.store(next, Ordering::Relaxed);
        } else {
            lists.first[order as usize] = next;
            if next == NONE {
                lists.present &= !(1 << order);
            }
        }
        self.set_state(number, RAM);
    }

    fn info(&self, number: u32) -> &FrameInfo {
        &self.infos[number as usize]
    }

    fn state(&self, number: u32) -> u8 {
        self.info(number).state.load(Ordering::Relaxed)
    }

    fn set_state(&self, number: u32, state: u8) {
        // Release, because `is_ram` and `is_object_page` look without the lock.
        self.info(number).state.store(state, Ordering::Release);
    }
}

/// Cuts a range of frames into the largest aligned blocks: (first frame, order). At most two of each
/// order below [`MAX_ORDER`].
fn blocks(first: u32, count: u64) -> impl Iterator<Item = (u32, u32)> {
    let (mut number, mut left) = (u64::from(first), count);
    core::iter::from_fn(move || {
        let order = number
            .trailing_zeros()
            .min(left.checked_ilog2()?)
            .min(MAX_ORDER);
        let block = (number as u32, order);
        number += 1 << order;
        left -= 1 << order;
        Some(block)
    })
}

#[cfg(test)]
mod tests {
    use super::{FREE, Frame, FrameInfo, FrameTable, MAX_ORDER, NONE};
    use crate::random::Random;

    fn table(span: usize) -> FrameTable {
        let infos: Vec<FrameInfo> = (0..span).map(|_| FrameInfo::NEW).collect();
        FrameTable::new(infos.leak())
    }

    fn filled(first: u32, count: u64) -> FrameTable {
        let table = table(first as usize + count as usize);
        table.add_range(Frame(first), count);
        table
    }

    /// The free blocks as (first frame, order), in order; checks the lists on the way.
    fn free_blocks(table: &FrameTable) -> Vec<(u32, u32)> {
        let lists = table.lists.lock();
        let mut found = Vec::new();
        for order in 0..=MAX_ORDER {
            let (mut number, mut previous) = (lists.first[order as usize], NONE);
            assert_eq!(number != NONE, lists.present & (1 << order) != 0);
            while number != NONE {
                let info = table.info(number);
                assert_eq!(table.state(number), FREE | order as u8);
                assert_eq!(
                    info.previous.load(std::sync::atomic::Ordering::Relaxed),
                    previous
                );
                found.push((number, order));
                previous = number;
                number = info.next.load(std::sync::atomic::Ordering::Relaxed);
            }
        }
        found.sort_unstable();
        assert_eq!(
            found.iter().map(|&(_, order)| 1 << order).sum::<u64>(),
            lists.free
        );
        found
    }

    /// Free frames by brute force.
    fn free_frames(table: &FrameTable) -> Vec<bool> {
        let mut free = vec![false; table.infos.len()];
        for (number, order) in free_blocks(table) {
            for frame in &mut free[number as usize..number as usize + (1 << order)] {
                assert!(!std::mem::replace(frame, true), "two free blocks overlap");
            }
        }
        free
    }

    #[test]
    fn addresses_convert() {
        assert_eq!(Frame(3).address(), 0x3000);
        assert_eq!(Frame::from_address(0x3fff), Some(Frame(3)));
        assert_eq!(Frame(u32::MAX).address(), (16 << 40) - 0x1000);
        assert_eq!(
            Frame::from_address(Frame(u32::MAX).address()),
            Some(Frame(u32::MAX))
        );
        assert_eq!(Frame::from_address(16 << 40), None);
        assert_eq!(size_of::<FrameInfo>(), 12);
    }

    #[test]
    fn random_use_never_overlaps_and_merges_at_the_end() {
        let mut random = Random::new(2);
        let table = table(5000);
        table.add_range(Frame(0), 160); // Frame 0 is left out.
        table.add_range(Frame(256), 4001);
        let (before, total) = (free_blocks(&table), 159 + 4001);
        assert_eq!((table.total(), table.free_count()), (total, total));
        let mut used = vec![false; 5000];
        let mut held: Vec<(Frame, u64, Option<u32>)> = Vec::new();
        for step in 0..20_000 {
            // Alternate between filling up and draining.
            if random.below(10) < if step / 1000 % 2 == 0 { 7 } else { 3 } {
                let order = random.below(7) as u32;
                let whole = random.below(2) == 0;
                let count = if whole {
                    1 << order
                } else {
                    random.below(100) as u64 + 1
                };
                let order = whole.then_some(order);
                let taken = order.map_or_else(
                    || table.allocate_contiguous(count),
                    |order| table.allocate(order),
                );
                let Some(first) = taken else {
                    let need = count.next_power_of_two().trailing_zeros();
                    assert!(free_blocks(&table).iter().all(|&(_, order)| order < need));
                    continue;
                };
                assert_eq!(u64::from(first.0) % count.next_power_of_two(), 0);
                for number in first.0..first.0 + count as u32 {
                    assert!(matches!(number, 1..160 | 256..4257), "{number} is no RAM");
                    assert!(
                        !std::mem::replace(&mut used[number as usize], true),
                        "overlap"
                    );
                }
                held.push((first, count, order));
            } else if !held.is_empty() {
                let (first, count, order) = held.swap_remove(random.below(held.len()));
                match order {
                    Some(order) => table.free(first, order),
                    None => {
                        let head = random.below(count as usize + 1) as u64;
                        table.free_range(first, head);
                        table.free_range(Frame(first.0 + head as u32), count - head);
                    }
                }
                used[first.0 as usize..][..count as usize].fill(false);
            }
            let in_use = held.iter().map(|&(_, count, _)| count).sum::<u64>();
            assert_eq!(table.free_count(), total - in_use);
            if step % 64 == 0 {
                let free = free_frames(&table);
                for number in 0..5000 {
                    let ram = matches!(number, 1..160 | 256..4257);
                    assert_eq!(free[number], ram && !used[number], "frame {number}");
                }
            }
        }
        for (first, count, _) in held {
            table.free_range(first, count);
        }
        assert_eq!(free_blocks(&table), before, "not everything was merged");
    }

    #[test]
    fn memory_runs_out_and_comes_back() {
        let table = filled(1, 1000);
        let mut frames: Vec<Frame> = std::iter::from_fn(|| table.allocate(0)).collect();
        frames.sort_unstable();
        assert_eq!(frames, (1..=1000).map(Frame).collect::<Vec<_>>());
        assert_eq!(table.free_count(), 0);
        assert_eq!(table.allocate(3), None);
        table.free(frames[499], 0);
        assert_eq!(table.allocate(1), None);
        assert_eq!(table.allocate(0), Some(frames[499]));
    }

    #[test]
    fn small_requests_leave_large_blocks_alone() {
        let table = filled(16, 1024 - 16);
        // Blocks of 16, 32, ... 512 frames: 16 frames come out of the smallest.
        let frames: Vec<_> = (0..16).filter_map(|_| table.allocate(0)).collect();
        assert!(frames.iter().all(|frame| (16..32).contains(&frame.0)));
        assert_eq!(table.allocate(9), Some(Frame(512)));
    }

    #[test]
    fn the_largest_block_is_a_gibibyte() {
        let table = filled(1 << 18, 3 << 18);
        assert_eq!(free_blocks(&table).len(), 3);
        assert_eq!(table.allocate(MAX_ORDER + 1), None);
        assert_eq!(table.allocate_contiguous((1 << 18) + 1), None);
        assert_eq!(table.allocate_contiguous(0), None);
        let first = table.allocate_contiguous((1 << 18) - 1).unwrap();
        assert_eq!(table.free_count(), (2 << 18) + 1);
        table.free_range(first, (1 << 18) - 1);
        assert_eq!(free_blocks(&table).len(), 3);
        assert_eq!(
            table.allocate(MAX_ORDER).map(|frame| frame.0 % (1 << 18)),
            Some(0)
        );
    }

    #[test]
    fn odd_edges_make_odd_blocks() {
        let table = filled(3, 10);
        assert_eq!(free_blocks(&table), [(3, 0), (4, 2), (8, 2), (12, 0)]);
        assert!(!table.is_ram(Frame(2)) && table.is_ram(Frame(3)) && table.is_ram(Frame(12)));
        assert!(!table.is_ram(Frame(13)) && !table.is_ram(Frame(u32::MAX)));
        let empty = filled(0, 1);
        assert_eq!((empty.total(), empty.allocate(0)), (0, None));
    }

    #[test]
    fn neighbouring_ranges_merge() {
        let table = table(64);
        table.add_range(Frame(32), 17);
        table.add_range(Frame(49), 15);
        assert_eq!(free_blocks(&table), [(32, 5)]);
    }

    #[test]
    fn object_pages_are_known() {
        let table = filled(16, 16);
        let first = table.allocate(2).unwrap();
        assert!(!table.is_object_page(first));
        table.mark_object_page(first, 3);
        assert!(table.is_object_page(Frame(first.0 + 2)) && table.is_ram(first));
        assert!(!table.is_object_page(Frame(first.0 + 3)));
        table.free(Frame(first.0 + 3), 0);
    }

    #[test]
    #[should_panic(expected = "is not allocated")]
    fn double_free_of_a_block_panics() {
        let table = filled(16, 16);
        let (first, _other) = (table.allocate(2).unwrap(), table.allocate(2).unwrap());
        table.free(first, 2);
        table.free(first, 2);
    }

    #[test]
    #[should_panic(expected = "is free already")]
    fn double_free_inside_a_merged_block_panics() {
        let table = filled(16, 16);
        let first = table.allocate(2).unwrap();
        table.free(first, 2);
        table.free(Frame(first.0 + 1), 0);
    }

    #[test]
    #[should_panic(expected = "is not allocated")]
    fn freeing_around_a_free_frame_panics() {
        let table = filled(16, 16);
        let first = table.allocate(2).unwrap();
        table.free(Frame(first.0 + 2), 0);
        table.free(first, 2);
    }

    #[test]
    #[should_panic(expected = "is not allocated")]
    fn freeing_an_object_page_panics() {
        let table = filled(16, 16);
        let first = table.allocate(0).unwrap();
        table.mark_object_page(first, 1);
        table.free(first, 0);
    }

    #[test]
    #[should_panic(expected = "is not allocated")]
    fn freeing_what_is_no_ram_panics() {
        filled(16, 16).free(Frame(15), 0);
    }

    #[test]
    #[should_panic(expected = "outside the table")]
    fn freeing_beyond_the_table_panics() {
        filled(16, 16).free(Frame(32), 0);
    }

    #[test]
    #[should_panic(expected = "begins no block")]
    fn freeing_an_unaligned_block_panics() {
        let table = filled(16, 16);
        let first = table.allocate(2).unwrap();
        table.free(Frame(first.0 + 1), 1);
    }

    #[test]
    #[should_panic(expected = "was added before")]
    fn adding_twice_panics() {
        let table = filled(16, 16);
        table.add_range(Frame(20), 1);
    }
}
