//! Memory objects: which frames they have, how they get them and give them back.
//!
//! Ordinary memory is a table of chunks of 512 pages: one large frame block where there is one, else
//! a leaf table of single frames. Contiguous and device memory is a base frame. The frames of a memory
//! object do not change between its making and its end, so they are read without a lock.
//!
//! Memory whose physical address was told (MemoryExpose) may be written by a device. Its frames go to
//! quarantine at its end and are reused only after they were concealed, or after DmaReset.

use crate::frames::Frame;
use crate::kernel::{Kernel, Next, Outcome};
use crate::mapping::{IN_MEMORY, Mapping};
use crate::mutant::{self, Mutant};
use crate::object::Object;
use crate::platform::{Caching, FRAME_WORDS, Platform};
use crate::queue::{Linked, Links, Queue};
use crate::quota::Quota;
use crate::slab::{Slot, Slotted};
use crate::sync::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Guard, Lock, Ordering, Rank};
use crate::thread::Thread;
use crate::tunables::Tunable;
use ipc::Error;
use ipc::layout::PAGE_BYTES;

/// Most pages of one memory object: 1 GiB.
pub const MAX_PAGES: u64 = (FRAME_WORDS * FRAME_WORDS) as u64;
/// Pages of a chunk: 2 MiB.
const CHUNK_PAGES: u64 = FRAME_WORDS as u64;
const CHUNK_ORDER: u32 = 9;
/// In a chunk's word: the frames are one block, not a leaf table.
const BLOCK: u64 = 1;

/// What kind of frames a memory object has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum MemoryKind {
    /// Frames wherever they are.
    Ordinary = 0,
    /// Frames in a row.
    Contiguous = 1,
    /// A device's range: no frames of its own.
    Device = 2,
    /// RAM reserved at boot (the boot archive): no frames of its own.
    Reserved = 3,
}

/// Memory.
#[repr(align(64))]
pub struct Memory {
    /// Book-keeping.
    pub slot: Slot<Memory>,
    pages: AtomicU64,
    kind: AtomicU8,
    caching: AtomicU8,
    /// Table of chunks, or first frame.
    base: AtomicU32,
    /// Pages that it has so far (while being made) or still (while being given back).
    progress: AtomicU64,
    /// DMA epoch in which its address was told; 0 for never.
    exposed: AtomicU64,
    /// Its frames are given back, or in quarantine.
    emptied: AtomicBool,
    mappings: Lock<Queue<Mapping, IN_MEMORY>>,
    links: Links<Memory>,
}

impl Slotted for Memory {
    fn make() -> Memory {
        Memory {
            slot: Slot::new(),
            pages: AtomicU64::new(0),
            kind: AtomicU8::new(0),
            caching: AtomicU8::new(0),
            base: AtomicU32::new(0),
            progress: AtomicU64::new(0),
            exposed: AtomicU64::new(0),
            emptied: AtomicBool::new(false),
            mappings: Lock::new(Rank::Memory, Queue::new(1)),
            links: Links::new(),
        }
    }
    fn slot(&self) -> &Slot<Memory> {
        &self.slot
    }
}

impl Linked<0> for Memory {
    fn links(&self) -> &Links<Memory> {
        &self.links
    }
}

impl Memory {
    /// Size in pages.
    pub fn pages(&self) -> u64 {
        self.pages.load(Ordering::Relaxed)
    }

    /// What kind of frames it has.
    pub fn kind(&self) -> MemoryKind {
        match self.kind.load(Ordering::Relaxed) {
            0 => MemoryKind::Ordinary,
            1 => MemoryKind::Contiguous,
            2 => MemoryKind::Device,
            _ => MemoryKind::Reserved,
        }
    }

    /// How it is cached.
    pub fn caching(&self) -> Caching {
        match self.caching.load(Ordering::Relaxed) {
            0 => Caching::WriteBack,
            1 => Caching::Uncached,
            _ => Caching::WriteCombining,
        }
    }

    /// Its first frame, where its frames are in a row.
    pub fn base(&self) -> Frame {
        Frame(self.base.load(Ordering::Relaxed))
    }

    /// Where it is mapped.
    pub fn mappings(&self) -> Guard<'_, Queue<Mapping, IN_MEMORY>> {
        self.mappings.lock()
    }

    /// Whether its frames are in a row.
    pub fn is_contiguous(&self) -> bool {
        self.kind() != MemoryKind::Ordinary
    }

    fn owns_frames(&self) -> bool {
        matches!(self.kind(), MemoryKind::Ordinary | MemoryKind::Contiguous)
    }

    /// Whether a device may write it.
    pub fn is_exposed(&self, dma_epoch: u64) -> bool {
        self.exposed.load(Ordering::Acquire) == dma_epoch
    }

    /// Marks it exposed in a DMA epoch, or (0) concealed.
    pub fn set_exposed(&self, dma_epoch: u64) {
        self.exposed.store(dma_epoch, Ordering::Release);
    }
}

impl<P: Platform> Kernel<P> {
    fn allocate_memory(
        &'static self,
        quota: &'static Quota,
        pages: u64,
        kind: MemoryKind,
        caching: Caching,
    ) -> Result<&'static Memory, Error> {
        let memory = self.memories.allocate(self, quota)?;
        memory.pages.store(pages, Ordering::Relaxed);
        memory.kind.store(kind as u8, Ordering::Relaxed);
        memory.caching.store(caching as u8, Ordering::Relaxed);
        memory.base.store(0, Ordering::Relaxed);
        memory.progress.store(0, Ordering::Relaxed);
        memory.exposed.store(0, Ordering::Relaxed);
        memory.emptied.store(false, Ordering::Relaxed);
        *memory.mappings.lock() = Queue::new(memory.slot.number());
        Ok(memory)
    }

    /// Makes memory over frames that it does not own, with one reference that the caller owns.
    ///
    /// # Errors
    /// OutOfQuota, OutOfMemory.
    pub fn make_fixed_memory(
        &'static self,
        quota: &'static Quota,
        base: Frame,
        pages: u64,
        kind: MemoryKind,
        caching: Caching,
    ) -> Result<&'static Memory, Error> {
        let memory = self.allocate_memory(quota, pages, kind, caching)?;
        memory.base.store(base.0, Ordering::Relaxed);
        Ok(memory)
    }

    /// Starts making memory; [`Kernel::fill_step`] goes on until all pages are there.
    ///
    /// # Errors
    /// OutOfQuota, OutOfMemory.
    pub fn begin_memory(
        &'static self,
        quota: &'static Quota,
        pages: u64,
        contiguous: bool,
    ) -> Result<&'static Memory, Error> {
        let tables = if contiguous { 0 } else { 1 };
        quota.charge((pages + tables) * PAGE_BYTES)?;
        let undo = || quota.credit(self, (pages + tables) * PAGE_BYTES);
        let kind = if contiguous {
            MemoryKind::Contiguous
        } else {
            MemoryKind::Ordinary
        };
        let memory = self
            .allocate_memory(quota, pages, kind, Caching::WriteBack)
            .inspect_err(|_| undo())?;
        let base = if contiguous {
            self.frames.allocate_contiguous(pages)
        } else {
            self.frames.allocate(0).inspect(|frame| self.zero(*frame))
        };
        let Some(base) = base else {
            self.memories.retire(self, memory);
            undo();
            return Err(Error::OutOfMemory);
        };
        memory.base.store(base.0, Ordering::Relaxed);
        Ok(memory)
    }

    /// Zeroes a frame.
    pub fn zero(&self, frame: Frame) {
        // Eight at a time, or counting would cost as much as storing: a task's memory is zeroed before it starts.
        for line in self.platform.words(frame).chunks(8) {
            for word in line {
                word.store(0, Ordering::Relaxed);
            }
        }
    }

    /// Gives memory that is being made up to `budget` further pages; true when it has all.
    ///
    /// # Errors
    /// OutOfMemory, OutOfQuota (a leaf table); what it has so far stays its own.
    pub fn fill_step(&'static self, memory: &'static Memory, budget: u64) -> Result<bool, Error> {
        let (pages, start) = (memory.pages(), memory.progress.load(Ordering::Relaxed));
        let end = pages.min(start + budget);
        for page in start..end {
            let frame = match memory.kind() {
                MemoryKind::Ordinary => self.give_page(memory, page)?,
                _ => Frame(memory.base().0 + page as u32),
            };
            if !mutant::active(Mutant::FrameZeroing) || self.is_paid_by_init(memory) {
                self.zero(frame);
            }
            memory.progress.store(page + 1, Ordering::Release);
        }
        Ok(end == pages)
    }

    /// Whether init pays for it: that is its own, or what it makes tasks of.
    fn is_paid_by_init(&self, memory: &Memory) -> bool {
        let quota = memory.slot.quota();
        quota.is_some_and(|quota| core::ptr::eq(quota, &self.root_quota))
    }

    fn give_page(&'static self, memory: &'static Memory, page: u64) -> Result<Frame, Error> {
        let chunks = self.platform.words(memory.base());
        let chunk = &chunks[(page / CHUNK_PAGES) as usize];
        let offset = page % CHUNK_PAGES;
        if offset == 0 {
            chunk.store(
                self.start_chunk(memory, memory.pages() - page)?,
                Ordering::Relaxed,
            );
        }
        let word = chunk.load(Ordering::Relaxed);
        if word & BLOCK != 0 {
            return Ok(Frame((word / PAGE_BYTES + offset) as u32));
        }
        let frame = self.frames.allocate(0).ok_or(Error::OutOfMemory)?;
        let leaf = self.platform.words(Frame((word / PAGE_BYTES) as u32));
        leaf[offset as usize].store(frame.address(), Ordering::Relaxed);
        Ok(frame)
    }

    /// A block of 512 frames for a whole chunk, if there is one; else a leaf table.
    fn start_chunk(&'static self, memory: &'static Memory, left: u64) -> Result<u64, Error> {
        if left >= CHUNK_PAGES
            && let Some(block) = self.frames.allocate(CHUNK_ORDER)
        {
            return Ok(block.address() | BLOCK);
        }
        let quota = memory.slot.quota().ok_or(Error::OutOfQuota)?;
        quota.charge(PAGE_BYTES)?;
        let Some(leaf) = self.frames.allocate(0) else {
            quota.credit(self, PAGE_BYTES);
            return Err(Error::OutOfMemory);
        };
        self.zero(leaf);
        Ok(leaf.address())
    }

    /// The frame of a page, and whether it begins a block of 512 frames that belong to the pages
    /// that follow.
    pub fn frame_of(&self, memory: &Memory, page: u64) -> (Frame, bool) {
        if memory.is_contiguous() {
            let frame = Frame((u64::from(memory.base().0) + page) as u32);
            return (frame, memory.pages() - page >= CHUNK_PAGES);
        }
        let word = self.platform.words(memory.base())[(page / CHUNK_PAGES) as usize]
            .load(Ordering::Relaxed);
        let offset = page % CHUNK_PAGES;
        if word & BLOCK != 0 {
            return (Frame((word / PAGE_BYTES + offset) as u32), offset == 0);
        }
        let leaf = self.platform.words(Frame((word / PAGE_BYTES) as u32));
        (
            Frame((leaf[offset as usize].load(Ordering::Relaxed) / PAGE_BYTES) as u32),
            false,
        )
    }

    /// MemoryCreate: works off a bounded number of pages at a time.
    pub fn create_memory(
        &'static self,
        thread: &'static Thread,
        bytes: u64,
        flags: u64,
    ) -> Outcome {
        let pages = bytes / PAGE_BYTES;
        if !bytes.is_multiple_of(PAGE_BYTES) || pages == 0 || pages > MAX_PAGES || flags > 1 {
            return Err(Error::InvalidArgument);
        }
        let quota = thread.task().quota();
        let memory = match thread.operation.get() {
            Some(Object::Memory(memory)) => memory,
            _ => {
                let memory = self.begin_memory(quota, pages, flags == 1)?;
                thread.operation.set(Some(Object::Memory(memory)));
                memory
            }
        };
        let done = self.fill_step(memory, self.tunables.get(Tunable::MemStepPages));
        match done {
            Ok(false) => return Ok(Next::Again),
            Ok(true) => thread.operation.set(None),
            Err(error) => {
                thread.operation.set(None);
                self.drop_reference(Object::Memory(memory));
                return Err(error);
            }
        }
        self.give_handle(thread, Object::Memory(memory), ipc::Rights::ALL)
    }

    /// The last reference to memory is gone, or it was destroyed: its frames come back in steps.
    pub fn empty_memory(&'static self, memory: &'static Memory) {
        if memory.emptied.swap(true, Ordering::AcqRel) {
            return;
        }
        memory.slot.reference();
        if memory.kind() == MemoryKind::Contiguous {
            // It has had all its frames from the beginning, zeroed or not.
            memory.progress.store(memory.pages(), Ordering::Relaxed);
        }
        let mut queues = self.reclaim.memories.lock();
        let exposed = memory.is_exposed(self.dma_epoch.load(Ordering::Acquire));
        if exposed && memory.owns_frames() {
            let pages = memory.progress.load(Ordering::Relaxed);
            self.quarantined.fetch_add(pages, Ordering::Relaxed);
            queues.quarantine.push_back(memory);
        } else {
            queues.empty(memory);
            self.reclaim.note();
        }
    }

    /// Whether [`Kernel::empty_memory`] has taken charge of its frames.
    pub fn is_emptied(memory: &Memory) -> bool {
        memory.emptied.load(Ordering::Acquire)
    }

    /// Gives up to `budget` pages back; true when none is left and the reference of the reclaim
    /// queue is dropped.
    pub fn empty_step(&'static self, memory: &'static Memory, budget: u64) -> bool {
        let quota = memory.slot.quota();
        let credit = |pages: u64| {
            if let Some(quota) = quota {
                quota.credit(self, pages * PAGE_BYTES);
            }
        };
        match memory.kind() {
            MemoryKind::Ordinary => {
                let mut left = memory.progress.load(Ordering::Relaxed);
                let mut budget = budget;
                while left > 0 && budget > 0 {
                    left = self.take_pages(memory, left, &credit);
                    memory.progress.store(left, Ordering::Relaxed);
                    budget -= 1;
                }
                if left > 0 {
                    return false;
                }
                self.take_unfilled_chunk(memory, &credit);
                self.frames.free(memory.base(), 0);
                // The pages were charged when it was begun, all of them at once.
                credit(memory.pages() + 1);
            }
            MemoryKind::Contiguous => {
                let left = memory.progress.load(Ordering::Relaxed);
                let part = left.min(budget);
                let first = Frame((u64::from(memory.base().0) + left - part) as u32);
                self.frames.free_range(first, part);
                memory.progress.store(left - part, Ordering::Relaxed);
                if left > part {
                    return false;
                }
                credit(memory.pages());
            }
            MemoryKind::Device | MemoryKind::Reserved => {}
        }
        self.drop_reference(Object::Memory(memory));
        true
    }

    /// Frees the last page or block below `left`; what is left then. Charges of pages stay: they
    /// are credited at the end.
    fn take_pages(&'static self, memory: &'static Memory, left: u64, credit: &dyn Fn(u64)) -> u64 {
        let page = left - 1;
        let chunk = &self.platform.words(memory.base())[(page / CHUNK_PAGES) as usize];
        let word = chunk.load(Ordering::Relaxed);
        let frame = Frame((word / PAGE_BYTES) as u32);
        if word & BLOCK != 0 {
            self.frames.free(frame, CHUNK_ORDER);
            chunk.store(0, Ordering::Relaxed);
            return page / CHUNK_PAGES * CHUNK_PAGES;
        }
        let leaf = self.platform.words(frame);
        let single = leaf[(page % CHUNK_PAGES) as usize].load(Ordering::Relaxed);
        self.frames.free(Frame((single / PAGE_BYTES) as u32), 0);
        if page.is_multiple_of(CHUNK_PAGES) {
            self.frames.free(frame, 0);
            chunk.store(0, Ordering::Relaxed);
            credit(1);
        }
        page
    }

    /// Frees the chunk that was started when making the memory failed before its first page.
    fn take_unfilled_chunk(&'static self, memory: &'static Memory, credit: &dyn Fn(u64)) {
        for chunk in self.platform.words(memory.base()) {
            let word = chunk.load(Ordering::Relaxed);
            if word == 0 {
                continue;
            }
            let frame = Frame((word / PAGE_BYTES) as u32);
            let order = if word & BLOCK != 0 { CHUNK_ORDER } else { 0 };
            self.frames.free(frame, order);
            if order == 0 {
                credit(1);
            }
            chunk.store(0, Ordering::Relaxed);
        }
    }

    /// MemoryExpose.
    ///
    /// # Errors
    /// InvalidArgument for memory whose frames are not in a row or not its own, InvalidHandle for
    /// memory that has ended.
    pub fn expose(&'static self, memory: &'static Memory, expose: bool) -> Result<u64, Error> {
        if memory.kind() != MemoryKind::Contiguous {
            return Err(Error::InvalidArgument);
        }
        let epoch = if expose {
            self.dma_epoch.load(Ordering::Acquire)
        } else {
            0
        };
        // Under the lock that decides between quarantine and freedom: either that decision sees this
        // mark, or this sees that the memory has ended.
        let queues = self.reclaim.memories.lock();
        if Self::is_emptied(memory) {
            return Err(Error::InvalidHandle);
        }
        memory.set_exposed(epoch);
        drop(queues);
        Ok(memory.base().address())
    }

    /// DmaReset: starts a new DMA epoch and lets the frames in quarantine go. Returns their number.
    pub fn reset_dma(&'static self) -> u64 {
        let mut queues = self.reclaim.memories.lock();
        self.dma_epoch.fetch_add(1, Ordering::AcqRel);
        while let Some(memory) = queues.quarantine.pop_front() {
            queues.empty(memory);
            self.reclaim.note();
        }
        self.quarantined.swap(0, Ordering::Relaxed)
    }
}
