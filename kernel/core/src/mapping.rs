//! Mappings: which memory a task sees where, and taking it away again.
//!
//! A mapping is made and removed a bounded number of pages at a time; it stands in the task's list
//! from the beginning to the end of both, so that nobody else takes its addresses. A page that was
//! unmapped is gone from every CPU before its frame can be used for anything else: the shootdown is
//! part of the removal. A mapping counts a reference to its memory.

use crate::frames::Frame;
use crate::kernel::{Kernel, Next, Outcome};
use crate::memory::Memory;
use crate::mutant::{self, Mutant};
use crate::object::Object;
use crate::page_table::{self, MapError, PageSize};
use crate::platform::{Access, Platform};
use crate::queue::{Linked, Links, Queue};
use crate::slab::{Slot, Slotted};
use crate::static_ref::AtomicRef;
use crate::sync::{AtomicBool, AtomicU64, Ordering};
use crate::task::Task;
use crate::thread::Thread;
use crate::tunables::Tunable;
use ipc::Error;
use ipc::layout::{LARGE_PAGE_BYTES, PAGE_BYTES, USER_END, USER_START};

/// Link set of the memory's list of mappings.
pub const IN_MEMORY: usize = 1;
/// Link set of the task's list of mappings.
pub const IN_SPACE: usize = 0;

const LARGE_PAGES: u64 = LARGE_PAGE_BYTES / PAGE_BYTES;
/// Pages removed between two shootdowns.
const UNMAP_STEP: u64 = 512;

/// A mapping. Its fields are guarded by its task's space lock.
#[repr(align(64))]
pub struct Mapping {
    slot: Slot<Mapping>,
    task: AtomicRef<Task>,
    memory: AtomicRef<Memory>,
    address: AtomicU64,
    offset: AtomicU64,
    pages: AtomicU64,
    write: AtomicBool,
    execute: AtomicBool,
    /// Pages from the start that are mapped so far, or still.
    mapped: AtomicU64,
    /// Number of the thread that is making it; 0 when it is complete.
    maker: AtomicU64,
    removing: AtomicBool,
    /// Code of the error for which its maker is removing it; 0 for none.
    failure: AtomicU64,
    in_space: Links<Mapping>,
    in_memory: Links<Mapping>,
}

impl Slotted for Mapping {
    fn make() -> Mapping {
        Mapping {
            slot: Slot::new(),
            task: AtomicRef::none(),
            memory: AtomicRef::none(),
            address: AtomicU64::new(0),
            offset: AtomicU64::new(0),
            pages: AtomicU64::new(0),
            write: AtomicBool::new(false),
            execute: AtomicBool::new(false),
            mapped: AtomicU64::new(0),
            maker: AtomicU64::new(0),
            removing: AtomicBool::new(false),
            failure: AtomicU64::new(0),
            in_space: Links::new(),
            in_memory: Links::new(),
        }
    }
    fn slot(&self) -> &Slot<Mapping> {
        &self.slot
    }
}

impl Linked<IN_SPACE> for Mapping {
    fn links(&self) -> &Links<Mapping> {
        &self.in_space
    }
}

impl Linked<IN_MEMORY> for Mapping {
    fn links(&self) -> &Links<Mapping> {
        &self.in_memory
    }
}

impl Mapping {
    fn start(&self) -> u64 {
        self.address.load(Ordering::Relaxed)
    }

    fn end(&self) -> u64 {
        self.start() + self.pages.load(Ordering::Relaxed) * PAGE_BYTES
    }
}

/// What a task's space lock guards: its mappings and the right to change its page tables.
pub struct Space {
    mappings: Queue<Mapping, IN_SPACE>,
    /// Frames of page tables, the root not counted.
    pub tables: u64,
}

impl Space {
    /// The space of a task with this number: nothing is mapped.
    pub const fn new(number: u64) -> Space {
        Space {
            mappings: Queue::new(number),
            tables: 0,
        }
    }

    /// Number of mappings.
    pub fn count(&self) -> u64 {
        self.mappings.len() as u64
    }

    fn at(&self, address: u64) -> Option<&'static Mapping> {
        self.iterate().find(|mapping| mapping.start() == address)
    }

    fn iterate(&self) -> impl Iterator<Item = &'static Mapping> + use<> {
        self.mappings.iterate()
    }
}

/// What MemoryMap is asked for, checked for range and alignment.
#[derive(Clone, Copy)]
pub struct MapRequest {
    /// First address.
    pub address: u64,
    /// Offset in the memory, in pages.
    pub offset: u64,
    /// Length in pages.
    pub pages: u64,
    /// Permissions.
    pub access: Access,
}

impl MapRequest {
    /// Checks the arguments of MemoryMap.
    ///
    /// # Errors
    /// InvalidArgument, WriteAndExecute.
    pub fn check(
        memory: &Memory,
        address: u64,
        offset: u64,
        length: u64,
        access: u64,
    ) -> Result<MapRequest, Error> {
        if !(address | offset | length).is_multiple_of(PAGE_BYTES) || length == 0 || access > 3 {
            return Err(Error::InvalidArgument);
        }
        let end = address.checked_add(length).ok_or(Error::InvalidArgument)?;
        let (offset, pages) = (offset / PAGE_BYTES, length / PAGE_BYTES);
        let inside = offset
            .checked_add(pages)
            .is_some_and(|last| last <= memory.pages());
        if address < USER_START || end > USER_END || !inside {
            return Err(Error::InvalidArgument);
        }
        let access = Access {
            write: access & 1 != 0,
            execute: access & 2 != 0,
        };
        if access.write && access.execute && !mutant::active(Mutant::WriteAndExecute) {
            return Err(Error::WriteAndExecute);
        }
        Ok(MapRequest {
            address,
            offset,
            pages,
            access,
        })
    }
}

impl<P: Platform> Kernel<P> {
    /// MemoryMap: a bounded number of pages at a time.
    pub fn map_memory(
        &'static self,
        thread: &'static Thread,
        task: &'static Task,
        memory: &'static Memory,
        request: MapRequest,
    ) -> Outcome {
        let _hold = task.hold()?;
        let maker = thread.slot.number();
        let begin = || self.begin_mapping(maker, task, memory, request);
        let mapping = self.holding(Object::Memory(memory), begin)?;
        match self.map_step(task, mapping, self.tunables.get(Tunable::MemStepPages)) {
            Ok(true) => Ok(Next::Return),
            Ok(false) => Ok(Next::Again),
            // What was mapped is removed in steps as well; the last one tells the error.
            Err(error) => match self.remove_step(task, mapping) {
                true => Err(error),
                false => Ok(Next::Again),
            },
        }
    }

    /// Maps all of it at once: for init, before anything runs.
    ///
    /// # Errors
    /// As MemoryMap.
    pub fn map_whole(
        &'static self,
        task: &'static Task,
        memory: &'static Memory,
        request: MapRequest,
    ) -> Result<(), Error> {
        let _hold = task.hold()?;
        let mapping = self.begin_mapping(0, task, memory, request)?;
        while !self.map_step(task, mapping, UNMAP_STEP)? {}
        Ok(())
    }

    fn begin_mapping(
        &'static self,
        maker: u64,
        task: &'static Task,
        memory: &'static Memory,
        request: MapRequest,
    ) -> Result<&'static Mapping, Error> {
        let end = request.address + request.pages * PAGE_BYTES;
        let mut space = task.space.lock();
        for other in space.iterate() {
            if request.address < other.end() && other.start() < end {
                let mine = other.start() == request.address
                    && maker != 0
                    && other.maker.load(Ordering::Relaxed) == maker;
                return if mine {
                    Ok(other)
                } else {
                    Err(Error::Occupied)
                };
            }
        }
        if space.count() >= self.tunables.get(Tunable::TaskMaxMappings) {
            return Err(Error::OutOfQuota);
        }
        let mapping = self.mappings.allocate(self, task.quota())?;
        mapping.task.set(Some(task));
        mapping.memory.set(Some(memory));
        mapping.address.store(request.address, Ordering::Relaxed);
        mapping.offset.store(request.offset, Ordering::Relaxed);
        mapping.pages.store(request.pages, Ordering::Relaxed);
        mapping.write.store(request.access.write, Ordering::Relaxed);
        mapping
            .execute
            .store(request.access.execute, Ordering::Relaxed);
        mapping.mapped.store(0, Ordering::Relaxed);
        mapping.maker.store(maker, Ordering::Relaxed);
        mapping.removing.store(false, Ordering::Relaxed);
        mapping.failure.store(0, Ordering::Relaxed);
        {
            let mut mappings = memory.mappings();
            // Whoever destroys the memory marks it first and looks at this list afterwards.
            if !memory.slot.is_alive() {
                drop(mappings);
                self.mappings.retire(self, mapping);
                return Err(Error::InvalidHandle);
            }
            memory.slot.reference();
            mappings.push_back(mapping);
        }
        space.mappings.push_back(mapping);
        Ok(mapping)
    }

    /// Maps up to `budget` further pages; true when all are mapped.
    fn map_step(
        &'static self,
        task: &'static Task,
        mapping: &'static Mapping,
        budget: u64,
    ) -> Result<bool, Error> {
        let mut space = task.space.lock();
        if mapping.removing.load(Ordering::Relaxed) {
            let failure = Error::from_code(mapping.failure.load(Ordering::Relaxed));
            return Err(failure.unwrap_or(Error::NotMapped));
        }
        let memory = mapping.memory.get().ok_or(Error::NotMapped)?;
        let pages = mapping.pages.load(Ordering::Relaxed);
        let mut done = mapping.mapped.load(Ordering::Relaxed);
        let mut left = budget;
        while done < pages && left > 0 {
            let fail = |error: &Error| mapping.failure.store(error.code(), Ordering::Relaxed);
            let mapped = self.map_one(task, &mut space, mapping, memory, done);
            done += mapped.inspect_err(fail)?;
            mapping.mapped.store(done, Ordering::Relaxed);
            left -= 1;
        }
        if done == pages {
            mapping.maker.store(0, Ordering::Relaxed);
        }
        Ok(done == pages)
    }

    /// Maps the page at `done`, or the large page that begins there; the number of pages mapped.
    fn map_one(
        &'static self,
        task: &'static Task,
        space: &mut Space,
        mapping: &Mapping,
        memory: &Memory,
        done: u64,
    ) -> Result<u64, Error> {
        let address = mapping.start() + done * PAGE_BYTES;
        let page = mapping.offset.load(Ordering::Relaxed) + done;
        let left = mapping.pages.load(Ordering::Relaxed) - done;
        let (frame, block) = self.frame_of(memory, page);
        let large = block
            && left >= LARGE_PAGES
            && address.is_multiple_of(LARGE_PAGE_BYTES)
            && frame.address().is_multiple_of(LARGE_PAGE_BYTES);
        let access = Access {
            write: mapping.write.load(Ordering::Relaxed),
            execute: mapping.execute.load(Ordering::Relaxed),
        };
        let mut map =
            |size| self.map_page(task, space, address, frame, size, access, memory.caching());
        if large {
            match map(PageSize::Large) {
                Err(MapError::Divided) => {}
                result => return result.map(|()| LARGE_PAGES).map_err(map_error),
            }
        }
        map(PageSize::Small).map(|()| 1).map_err(map_error)
    }

    /// Puts one page into a task's page tables; frames for tables are charged to the task.
    #[expect(clippy::too_many_arguments, reason = "a page has this many sides")]
    pub fn map_page(
        &'static self,
        task: &'static Task,
        space: &mut Space,
        address: u64,
        frame: Frame,
        size: PageSize,
        access: Access,
        caching: crate::platform::Caching,
    ) -> Result<(), MapError> {
        let tables = &mut space.tables;
        let mut take_table = || {
            task.quota().charge(PAGE_BYTES).ok()?;
            let frame = self.frames.allocate(0);
            match frame {
                Some(_) => *tables += 1,
                None => task.quota().credit(self, PAGE_BYTES),
            }
            frame
        };
        page_table::map(
            &self.platform,
            task.root(),
            address,
            frame,
            size,
            access,
            caching,
            &mut take_table,
        )
    }

    /// MemoryUnmap: a bounded number of pages at a time.
    pub fn unmap_memory(&'static self, task: &'static Task, address: u64) -> Outcome {
        match self.unmap_step(task, address)? {
            true => Ok(Next::Return),
            false => Ok(Next::Again),
        }
    }

    /// A step of [`Kernel::unmap_memory`]; true when the mapping is gone.
    ///
    /// # Errors
    /// NotMapped.
    pub fn unmap_step(&'static self, task: &'static Task, address: u64) -> Result<bool, Error> {
        let mapping = task.space.lock().at(address).ok_or(Error::NotMapped)?;
        Ok(self.remove_step(task, mapping))
    }

    /// Removes up to 512 pages of a mapping, from its end, and waits until no CPU can use them; true
    /// when the mapping is gone, by whomever.
    fn remove_step(&'static self, task: &'static Task, mapping: &'static Mapping) -> bool {
        let mapping = {
            let space = task.space.lock();
            // Another CPU may have ended it, and another one may begin at its address by now.
            if !space.mappings.contains(mapping) {
                return true;
            }
            let address = mapping.start();
            mapping.removing.store(true, Ordering::Relaxed);
            let mapped = mapping.mapped.load(Ordering::Relaxed);
            let rest = mapped.saturating_sub(UNMAP_STEP);
            let mut page = mapped;
            while page > rest {
                let last = address + (page - 1) * PAGE_BYTES;
                let large = matches!(
                    page_table::unmap(&self.platform, task.root(), last),
                    Some((_, PageSize::Large))
                );
                page -= if large { LARGE_PAGES } else { 1 };
            }
            mapping.mapped.store(page, Ordering::Relaxed);
            (page == 0).then_some(mapping)
        };
        self.shoot_down(task);
        let Some(mapping) = mapping else {
            return false;
        };
        self.end_mapping(task, mapping)
    }

    /// Takes a mapping whose pages are gone out of both lists. Two threads may get here for one
    /// mapping: the first one ends it.
    fn end_mapping(&'static self, task: &'static Task, mapping: &'static Mapping) -> bool {
        let mut space = task.space.lock();
        if !space.mappings.contains(mapping) {
            return true;
        }
        let Some(memory) = mapping.memory.get() else {
            return true;
        };
        memory.mappings().remove(mapping);
        space.mappings.remove(mapping);
        drop(space);
        self.mappings.retire(self, mapping);
        self.drop_reference(Object::Memory(memory));
        true
    }

    /// Forgets up to `budget` mappings of a dying task that no CPU has loaded any more; its page
    /// tables go as a whole afterwards. True when none is left.
    pub fn forget_mappings(&'static self, task: &'static Task, budget: u64) -> bool {
        for _ in 0..budget {
            let mapping = task.space.lock().mappings.front();
            let Some(mapping) = mapping else { return true };
            self.end_mapping(task, mapping);
        }
        false
    }

    /// Removes one bounded part of a destroyed memory object's mappings; true when none is left.
    pub fn unmap_everywhere_step(&'static self, memory: &'static Memory) -> bool {
        let Some(mapping) = memory.mappings().front() else {
            return true;
        };
        // It may have ended meanwhile; the object stays what it is until this CPU leaves the kernel.
        if let Some(task) = mapping.task.get() {
            self.remove_step(task, mapping);
        }
        false
    }
}

fn map_error(error: MapError) -> Error {
    match error {
        MapError::Occupied | MapError::Divided => Error::Occupied,
        MapError::NoTable => Error::OutOfQuota,
        MapError::Invalid => Error::InvalidArgument,
    }
}
