//! A task's handle table: which objects the task can name, with which rights.
//!
//! Looking a handle up takes no lock: an entry's handle is read before and after its object.
//! Opening and closing are under the table's lock. Each entry counts one reference to its object;
//! an entry with the right to receive counts as a receiver of its endpoint too.

use crate::endpoint::{Badge, Endpoint};
use crate::kernel::Kernel;
use crate::mutant::{self, Mutant};
use crate::notification::Notification;
use crate::object::{AtomicObject, Known, Object, Tagged};
use crate::platform::Platform;
use crate::quota::Quota;
use crate::slab::{Slot, Slotted};
use crate::static_ref::AtomicLink;
use crate::sync::{AtomicU32, AtomicU64, Lock, Ordering, Rank, fence};
use crate::task::Task;
use ipc::message::{MAX_HANDLES as MAX_HANDLES_IN_MESSAGE, Transfer};
use ipc::{Error, Handle, Rights};

const CHUNK_ENTRIES: usize = 32;
const MAX_CHUNKS: usize = 128;
/// Most handles of one task.
pub const MAX_HANDLES: usize = CHUNK_ENTRIES * MAX_CHUNKS;

/// A power of two of bytes, so that finding one takes no multiplication.
#[repr(align(32))]
struct Entry {
    /// The handle that names the entry; its generation is raised when the entry is closed. 0 before the
    /// entry is part of a table.
    handle: AtomicU64,
    object: AtomicObject,
    rights: AtomicU32,
    /// Next free entry's index; entry 0 is never used, so 0 ends the list.
    next_free: AtomicU32,
}

impl Entry {
    /// The object of a handle with these rights, if it is a `T`, dead or alive.
    #[inline(always)]
    fn find<T: Tagged>(&self, handle: Handle, rights: Rights) -> Option<Known<T>> {
        let (object, held) = self.find_held(handle)?;
        held.contains(rights).then_some(object)
    }

    /// The object of a handle, if it is a `T`, dead or alive, and its rights.
    #[inline(always)]
    fn find_held<T: Tagged>(&self, handle: Handle) -> Option<(Known<T>, Rights)> {
        if self.handle.load(Ordering::Acquire) != handle.0 {
            return None;
        }
        let object = self.object.get_known()?;
        let held = Rights(self.rights.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let same = self.handle.load(Ordering::Relaxed) == handle.0;
        same.then_some((object, held))
    }

    /// What the handle stands for, dead or alive. The table's lock is held, so nothing changes meanwhile.
    #[inline(always)]
    fn held_under_lock(&self, handle: Handle) -> Option<Held> {
        if self.handle.load(Ordering::Relaxed) != handle.0 {
            return None;
        }
        Some(Held {
            object: self.object.get()?,
            rights: Rights(self.rights.load(Ordering::Relaxed)),
        })
    }
}

/// A part of a handle table.
#[repr(align(64))]
pub struct Chunk {
    slot: Slot<Chunk>,
    entries: [Entry; CHUNK_ENTRIES],
}

impl Slotted for Chunk {
    fn make() -> Chunk {
        Chunk::new()
    }
    fn slot(&self) -> &Slot<Chunk> {
        &self.slot
    }
}

/// What stands where a table has no chunk: no handle is open in it.
static NO_CHUNK: Chunk = Chunk::new();

impl Chunk {
    const fn new() -> Chunk {
        Chunk {
            slot: Slot::new(),
            entries: [const {
                Entry {
                    handle: AtomicU64::new(0),
                    object: AtomicObject::none(),
                    rights: AtomicU32::new(0),
                    next_free: AtomicU32::new(0),
                }
            }; CHUNK_ENTRIES],
        }
    }
}

/// What a handle stands for.
#[derive(Clone, Copy)]
pub struct Held {
    /// The object.
    pub object: Object,
    /// What may be done with it.
    pub rights: Rights,
}

impl Held {
    /// This, if every right of `needed` is there.
    ///
    /// # Errors
    /// MissingRights.
    #[inline]
    pub fn require(self, needed: Rights) -> Result<Held, Error> {
        if self.rights.contains(needed) || mutant::active(Mutant::Rights) {
            Ok(self)
        } else {
            Err(Error::MissingRights)
        }
    }

    fn is_receiver(self) -> bool {
        matches!(self.object, Object::Endpoint(_)) && self.rights.contains(Rights::RECEIVE)
    }

    /// Counts the entry that is about to hold this.
    fn acquire(self) {
        if let Some(slot) = self.object.slot() {
            slot.reference();
        }
        if let (true, Object::Endpoint(endpoint)) = (self.is_receiver(), self.object) {
            endpoint.add_receiver();
        }
    }

    /// Uncounts an entry that held this.
    pub fn release<P: Platform>(self, kernel: &'static Kernel<P>) {
        if let (true, Object::Endpoint(endpoint)) = (self.is_receiver(), self.object) {
            kernel.remove_receiver(endpoint);
        }
        kernel.drop_reference(self.object);
    }
}

struct Free {
    first: u32,
    count: u32,
    reserved: u32,
    chunks: u32,
    open: u32,
}

/// A handle table.
pub struct HandleTable {
    chunks: [AtomicLink<Chunk>; MAX_CHUNKS],
    free: Lock<Free>,
}

impl HandleTable {
    /// An empty table.
    pub const fn new() -> HandleTable {
        HandleTable {
            chunks: [const { AtomicLink::new(&NO_CHUNK) }; MAX_CHUNKS],
            free: Lock::new(
                Rank::Handles,
                Free {
                    first: 0,
                    count: 0,
                    reserved: 0,
                    chunks: 0,
                    open: 0,
                },
            ),
        }
    }

    #[inline(always)]
    fn entry(&self, index: usize) -> &'static Entry {
        // An index beyond the table leads to an entry of another handle, one beyond what there is of it
        // to an entry of none.
        let chunk = self.chunks[index / CHUNK_ENTRIES % MAX_CHUNKS].get();
        &chunk.entries[index % CHUNK_ENTRIES]
    }

    /// Number of handles open.
    pub fn open(&self) -> u64 {
        u64::from(self.free.lock().open)
    }

    /// What a handle stands for. No lock, no reference count: the object stays what it is until
    /// this CPU leaves the kernel.
    ///
    /// # Errors
    /// InvalidHandle, also for objects that were destroyed.
    #[inline]
    pub fn look_up(&self, handle: Handle) -> Result<Held, Error> {
        let entry = self.entry(handle.index());
        let check = |named: u64| named == handle.0 || mutant::active(Mutant::HandleGeneration);
        if !check(entry.handle.load(Ordering::Acquire)) {
            return Err(Error::InvalidHandle);
        }
        let object = entry.object.get();
        let rights = Rights(entry.rights.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        if !check(entry.handle.load(Ordering::Relaxed)) {
            return Err(Error::InvalidHandle);
        }
        match object {
            Some(object) if object.is_alive() => Ok(Held { object, rights }),
            _ => Err(Error::InvalidHandle),
        }
    }

    /// The endpoint and the badge that a handle lets its holder send with; `None` where
    /// [`HandleTable::look_up`] would find anything else. The same steps, fewer of them: an endpoint that was
    /// destroyed is closed as well, which its lock tells; and a badge cannot be.
    #[inline(always)]
    pub(crate) fn look_up_target(&self, handle: Handle) -> Option<(Known<Endpoint>, u64)> {
        let entry = self.entry(handle.index());
        if let Some(badge) = entry.find::<Badge>(handle, Rights::SEND) {
            let badge = badge.get();
            return Some((Known::of(badge.endpoint()), badge.value()));
        }
        let endpoint = entry.find::<Endpoint>(handle, Rights::SEND)?;
        Some((endpoint, 0))
    }

    /// The same for an endpoint that the handle lets its holder receive from.
    #[inline(always)]
    pub(crate) fn look_up_source(&self, handle: Handle) -> Option<Known<Endpoint>> {
        let entry = self.entry(handle.index());
        entry.find(handle, Rights::RECEIVE)
    }

    /// The same for a notification, with these rights. Whether it was destroyed is to be looked at under
    /// its lock.
    #[inline(always)]
    pub(crate) fn look_up_notification(
        &self,
        handle: Handle,
        rights: Rights,
    ) -> Option<Known<Notification>> {
        let entry = self.entry(handle.index());
        entry.find(handle, rights)
    }

    /// The rights of a handle, if it stands for a task that was not destroyed.
    #[inline(always)]
    pub(crate) fn look_up_task_rights(&self, handle: Handle) -> Option<Rights> {
        let entry = self.entry(handle.index());
        let (task, rights) = entry.find_held::<Task>(handle)?;
        task.get().slot.is_alive().then_some(rights)
    }

    /// What a handle stands for whose object is being destroyed: for the operation that goes on
    /// destroying it.
    pub fn look_up_dead(&self, handle: Handle) -> Option<Held> {
        let entry = self.entry(handle.index());
        let named = || entry.handle.load(Ordering::Acquire);
        if named() != handle.0 {
            return None;
        }
        let held = Held {
            object: entry.object.get()?,
            rights: Rights(entry.rights.load(Ordering::Relaxed)),
        };
        fence(Ordering::Acquire);
        (named() == handle.0).then_some(held)
    }

    /// Sets `count` entries aside for [`HandleTable::insert_reserved`].
    ///
    /// # Errors
    /// TableFull, OutOfQuota, OutOfMemory; nothing is set aside then.
    pub fn reserve<P: Platform>(
        &self,
        kernel: &'static Kernel<P>,
        quota: &'static Quota,
        count: u32,
    ) -> Result<(), Error> {
        let mut free = self.free.lock();
        while free.count - free.reserved < count {
            self.grow(kernel, quota, &mut free)?;
        }
        free.reserved += count;
        Ok(())
    }

    /// Gives entries back that were set aside and not used.
    pub fn unreserve(&self, count: u32) {
        self.free.lock().reserved -= count;
    }

    fn grow<P: Platform>(
        &self,
        kernel: &'static Kernel<P>,
        quota: &'static Quota,
        free: &mut Free,
    ) -> Result<(), Error> {
        let position = free.chunks as usize;
        let place = self.chunks.get(position).ok_or(Error::TableFull)?;
        let chunk = kernel.chunks.allocate(kernel, quota)?;
        let base = position * CHUNK_ENTRIES;
        for (offset, entry) in chunk.entries.iter().enumerate().rev() {
            let handle = Handle::new(base + offset, 1);
            entry.handle.store(handle.0, Ordering::Relaxed);
            entry.object.set(None);
            if base + offset == 0 {
                continue;
            }
            entry.next_free.store(free.first, Ordering::Relaxed);
            free.first = (base + offset) as u32;
            free.count += 1;
        }
        place.set(chunk);
        free.chunks += 1;
        Ok(())
    }

    /// Opens a handle in an entry that was set aside, for what is counted already: the count is the entry's
    /// from then on, which anybody can close as soon as it is open.
    pub fn insert_reserved<P: Platform>(&self, kernel: &Kernel<P>, held: Held) -> Handle {
        let mut free = self.free.lock();
        free.reserved -= 1;
        kernel.open_handles.fetch_add(1, Ordering::Relaxed);
        self.open_counted(&mut free, held)
    }

    /// Opens a handle.
    ///
    /// # Errors
    /// TableFull, OutOfQuota, OutOfMemory.
    pub fn insert<P: Platform>(
        &self,
        kernel: &'static Kernel<P>,
        quota: &'static Quota,
        held: Held,
    ) -> Result<Handle, Error> {
        let mut free = self.free.lock();
        if free.count == free.reserved {
            self.grow(kernel, quota, &mut free)?;
        }
        Ok(self.open_first(kernel, &mut free, held))
    }

    fn open_first<P: Platform>(&self, kernel: &Kernel<P>, free: &mut Free, held: Held) -> Handle {
        kernel.open_handles.fetch_add(1, Ordering::Relaxed);
        held.acquire();
        self.open_counted(free, held)
    }

    /// Opens the first free entry for what is counted already.
    #[inline(always)]
    fn open_counted(&self, free: &mut Free, held: Held) -> Handle {
        let entry = self.entry(free.first as usize);
        free.first = entry.next_free.load(Ordering::Relaxed);
        free.count = free.count.wrapping_sub(1);
        free.open = free.open.wrapping_add(1);
        // Releases the generation that closing the entry raised: a look-up with the old handle that
        // sees these rights sees that generation when it looks again.
        entry.rights.store(held.rights.0, Ordering::Release);
        entry.object.set(Some(held.object));
        Handle(entry.handle.load(Ordering::Relaxed))
    }

    /// Takes handles out (moved) or looks them up (copied) for a message, all or none. The caller
    /// owns the references of what it got in `taken`, and of the entries that were closed, which
    /// it finds in `closed` and releases.
    ///
    /// # Errors
    /// InvalidHandle, MissingRights (TRANSFER to move, DUPLICATE to copy); nothing is taken then.
    pub fn take_for_message<P: Platform>(
        &self,
        kernel: &Kernel<P>,
        wanted: &[(Handle, Transfer)],
        taken: &mut [Option<Held>; MAX_HANDLES_IN_MESSAGE],
        closed: &mut [Option<Held>; MAX_HANDLES_IN_MESSAGE],
    ) -> Result<(), Error> {
        let mut free = self.free.lock();
        for (position, (handle, transfer)) in wanted.iter().enumerate() {
            let held = self.look_up(*handle)?;
            let needed = if transfer.is_copy() {
                Rights::DUPLICATE
            } else {
                Rights::TRANSFER
            };
            held.require(needed)?;
            let earlier = wanted[..position].iter().find(|(other, _)| other == handle);
            if earlier.is_some_and(|(_, earlier)| !earlier.is_copy()) {
                return Err(Error::InvalidHandle);
            }
            let rights = held.rights.intersection(transfer.rights());
            taken[position] = Some(Held {
                object: held.object,
                rights,
            });
        }
        for (position, (handle, transfer)) in wanted.iter().enumerate() {
            // The message holds counted references of its own until delivery.
            if let Some(held) = taken[position] {
                held.acquire();
            }
            if !transfer.is_copy() {
                closed[position] = self.close_entry(kernel, &mut free, *handle);
            }
        }
        Ok(())
    }

    /// Moves a handle to another table, or to another entry of this one, if that needs nothing but the two
    /// entries: the object lives, may be transferred, and is counted in the new entry as it was in the old
    /// one; and the other table has room. `None`, and nothing is changed, if not.
    #[inline(always)]
    pub(crate) fn move_one(
        &self,
        handle: Handle,
        rights: Rights,
        to: &HandleTable,
    ) -> Option<Handle> {
        // Two tables' locks are not held together: first the room, then the entry.
        {
            let mut free = to.free.try_lock()?;
            if free.count == free.reserved {
                return None;
            }
            free.reserved += 1;
        }
        let held = self.take_counted(handle, rights);
        let mut free = to.free.lock();
        free.reserved -= 1;
        Some(to.open_counted(&mut free, held?))
    }

    /// Takes a handle's object out with at most these rights, counted as it is.
    #[inline(always)]
    fn take_counted(&self, handle: Handle, rights: Rights) -> Option<Held> {
        let mut free = self.free.try_lock()?;
        let entry = self.entry(handle.index());
        let held = entry.held_under_lock(handle)?;
        let moved = Held {
            object: held.object,
            rights: held.rights.intersection(rights),
        };
        let as_counted = held.is_receiver() == moved.is_receiver();
        if !held.rights.contains(Rights::TRANSFER) || !as_counted || !held.object.is_alive() {
            return None;
        }
        self.free_entry(&mut free, entry, handle);
        Some(moved)
    }

    /// Puts an entry, whose object was taken, among the free ones; its handle names nothing from now on.
    #[inline(always)]
    fn free_entry(&self, free: &mut Free, entry: &Entry, handle: Handle) {
        entry.object.set(None);
        let next = Handle::new(handle.index(), handle.generation() + 1);
        entry.handle.store(next.0, Ordering::Release);
        entry.next_free.store(free.first, Ordering::Relaxed);
        free.first = handle.index() as u32;
        free.count = free.count.wrapping_add(1);
        free.open = free.open.wrapping_sub(1);
    }

    fn close_entry<P: Platform>(
        &self,
        kernel: &Kernel<P>,
        free: &mut Free,
        handle: Handle,
    ) -> Option<Held> {
        let entry = self.entry(handle.index());
        let held = entry.held_under_lock(handle)?;
        self.free_entry(free, entry, handle);
        kernel.open_handles.fetch_sub(1, Ordering::Relaxed);
        Some(held)
    }

    /// Closes a handle and returns what it held, still counted: the caller releases it. Handles of
    /// destroyed objects can be closed as well.
    ///
    /// # Errors
    /// InvalidHandle.
    pub fn remove<P: Platform>(&self, kernel: &Kernel<P>, handle: Handle) -> Result<Held, Error> {
        let mut free = self.free.lock();
        self.close_entry(kernel, &mut free, handle)
            .ok_or(Error::InvalidHandle)
    }

    /// Closes up to `budget` handles of a dying task, from position `from` on; the position to go
    /// on from, or `None` when all are closed and the table's memory is given back.
    pub fn clear_step<P: Platform>(
        &self,
        kernel: &'static Kernel<P>,
        from: u32,
        budget: u32,
    ) -> Option<u32> {
        let mut index = from;
        let end = self.free.lock().chunks * CHUNK_ENTRIES as u32;
        for _ in 0..budget {
            if index >= end {
                self.give_back_chunks(kernel);
                return None;
            }
            let entry = self.entry(index as usize);
            let handle = Handle(entry.handle.load(Ordering::Relaxed));
            if let Ok(held) = self.remove(kernel, handle) {
                held.release(kernel);
            }
            index += 1;
        }
        Some(index)
    }

    fn give_back_chunks<P: Platform>(&self, kernel: &'static Kernel<P>) {
        for place in &self.chunks {
            let chunk = place.get();
            if !core::ptr::eq(chunk, &NO_CHUNK) {
                place.set(&NO_CHUNK);
                kernel.chunks.retire(kernel, chunk);
            }
        }
        *self.free.lock() = Free {
            first: 0,
            count: 0,
            reserved: 0,
            chunks: 0,
            open: 0,
        };
    }
}

impl Default for HandleTable {
    fn default() -> Self {
        Self::new()
    }
}
