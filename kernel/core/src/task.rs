//! Tasks: address space, handle table, quota, and the threads that run in them.
//!
//! A task lives until it is destroyed or its last thread ends; then it is dying: its threads are
//! ended, every CPU leaves its address space, and what it holds is given back in steps
//! ([`crate::reclaim`]).

use crate::cpu::CpuSet;
use crate::endpoint::{Badge, Endpoint};
use crate::frames::Frame;
use crate::handles::HandleTable;
use crate::interrupt::IoPorts;
use crate::mapping::Space;
use crate::object::{AtomicObject, Known};
use crate::platform::PortRange;
use crate::queue::{Linked, Links, Queue};
use crate::quota::Quota;
use crate::slab::{Slot, Slotted};
use crate::static_ref::AtomicRef;
use crate::sync::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Guard, Lock, Ordering, Rank};
use crate::thread::{IN_TASK, QUEUE, Thread};
use ipc::Error;
use ipc::layout::{IPC_BUFFER_STRIDE, IPC_BUFFERS, MAX_THREADS_PER_TASK, PAGE_BYTES};

/// Most port ranges of one task.
pub const MAX_PORT_RANGES: usize = 8;

/// Queue numbers of sleepers: above those of endpoints, below those of run queues.
const FIRST_SLEEPERS: u64 = 1 << 61;

const SLOT_WORDS: usize = MAX_THREADS_PER_TASK / 64;

/// Where a task is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TaskState {
    /// Threads can run.
    Alive = 0,
    /// Threads are being ended, or what it held is being given back.
    Dying = 1,
    /// Nothing is left but the object.
    Dead = 2,
}

/// A weak reference to a port range: void when the object has ended, also when its place in the slab
/// is another object's by now.
struct PortsRef {
    ports: AtomicRef<IoPorts>,
    number: AtomicU64,
}

impl PortsRef {
    const fn none() -> PortsRef {
        PortsRef {
            ports: AtomicRef::none(),
            number: AtomicU64::new(0),
        }
    }

    fn is_set(&self) -> bool {
        self.ports.get().is_some()
    }

    fn set(&self, ports: &'static IoPorts) {
        self.number.store(ports.slot.number(), Ordering::Relaxed);
        self.ports.set(Some(ports));
    }

    /// The object, if it has not ended. It stays what it is until this CPU leaves the kernel.
    fn get(&self) -> Option<&'static IoPorts> {
        let ports = self.ports.get()?;
        let same = ports.slot.number() == self.number.load(Ordering::Relaxed);
        (same && ports.slot.is_alive()).then_some(ports)
    }

    fn clear(&self) {
        self.ports.set(None);
    }
}

/// A task.
#[repr(align(64))]
pub struct Task {
    /// The page-table root as CPUs load it: its address, and the tag's bits.
    root: AtomicU64,
    /// Tag of the TLB entries of its address space, and of those of all tasks that have this place in the
    /// slab, one after the other; 0 before the first.
    pub(crate) tag: AtomicU16,
    state: AtomicU8,
    /// Largest priority of its threads.
    pub max_priority: AtomicU8,
    /// How far reclaiming has come.
    pub reclaim_phase: AtomicU8,
    /// Position in the handle table while reclaiming.
    pub reclaim_position: AtomicU32,
    /// Memory that is to be given back before the task's end is told: so many have come by then.
    pub reclaim_memories: AtomicU64,
    /// Operations of other tasks that are giving it something.
    holds: AtomicU32,
    /// CPUs that may hold TLB entries of the address space.
    pub cpus: CpuSet,
    /// The endpoint (or badge) that its faults go to.
    pub fault: AtomicObject,
    quota: AtomicRef<Quota>,
    threads: Lock<Queue<Thread, IN_TASK>>,
    /// Mappings and page tables.
    pub space: Lock<Space>,
    /// Threads that sleep on futexes.
    pub sleepers: Lock<Queue<Thread, QUEUE>>,
    ports: [PortsRef; MAX_PORT_RANGES],
    buffer_slots: [AtomicU64; SLOT_WORDS],
    /// CPU time of threads that ended, in the platform's ticks.
    pub cpu_ticks: AtomicU64,
    links: Links<Task>,
    /// Handles.
    pub handles: HandleTable,
    /// Book-keeping.
    pub slot: Slot<Task>,
}

/// An operation's hold on a living task, until dropped. It lasts no longer than the kernel entry.
pub struct Hold(&'static Task);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.holds.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Slotted for Task {
    fn make() -> Task {
        Task::new()
    }
    fn slot(&self) -> &Slot<Task> {
        &self.slot
    }
}

/// Nobody's task: it has nothing and never comes alive.
pub static NO_TASK: Task = Task::new();

impl Task {
    /// A task that was never handed out.
    const fn new() -> Task {
        Task {
            root: AtomicU64::new(0),
            tag: AtomicU16::new(0),
            state: AtomicU8::new(TaskState::Dead as u8),
            max_priority: AtomicU8::new(0),
            reclaim_phase: AtomicU8::new(0),
            reclaim_position: AtomicU32::new(0),
            reclaim_memories: AtomicU64::new(0),
            holds: AtomicU32::new(0),
            cpus: CpuSet::new(),
            fault: AtomicObject::none(),
            quota: AtomicRef::none(),
            threads: Lock::new(Rank::Task, Queue::new(1)),
            space: Lock::new(Rank::Space, Space::new(1)),
            sleepers: Lock::new(Rank::Futex, Queue::new(FIRST_SLEEPERS)),
            ports: [const { PortsRef::none() }; MAX_PORT_RANGES],
            buffer_slots: [const { AtomicU64::new(0) }; SLOT_WORDS],
            cpu_ticks: AtomicU64::new(0),
            links: Links::new(),
            handles: HandleTable::new(),
            slot: Slot::new(),
        }
    }
}

impl Linked<0> for Task {
    fn links(&self) -> &Links<Task> {
        &self.links
    }
}

impl Task {
    /// Makes a task handed out by the slab an empty, living one with this root, as CPUs load it.
    pub(crate) fn reset(&'static self, root: u64, quota: &'static Quota, max_priority: u8) {
        let number = self.slot.number();
        self.root.store(root, Ordering::Relaxed);
        self.max_priority.store(max_priority, Ordering::Relaxed);
        self.reclaim_phase.store(0, Ordering::Relaxed);
        self.reclaim_position.store(0, Ordering::Relaxed);
        self.reclaim_memories.store(0, Ordering::Relaxed);
        self.cpus.clear();
        self.fault.set(None);
        self.quota.set(Some(quota));
        *self.threads.lock() = Queue::new(number);
        *self.space.lock() = Space::new(number);
        *self.sleepers.lock() = Queue::new(FIRST_SLEEPERS + number);
        for ports in &self.ports {
            ports.clear();
        }
        for word in &self.buffer_slots {
            word.store(0, Ordering::Relaxed);
        }
        self.cpu_ticks.store(0, Ordering::Relaxed);
        self.state.store(TaskState::Alive as u8, Ordering::Release);
    }

    /// The endpoint and the badge that its faults go to.
    #[inline(always)]
    pub(crate) fn fault_target(&self) -> Option<(Known<Endpoint>, u64)> {
        if let Some(badge) = self.fault.get_known::<Badge>() {
            let badge = badge.get();
            return Some((Known::of(badge.endpoint()), badge.value()));
        }
        Some((self.fault.get_known()?, 0))
    }

    /// Its quota.
    #[inline]
    pub fn quota(&self) -> &'static Quota {
        self.quota
            .get()
            .expect("a task has a quota until it is retired")
    }

    /// Limit of its quota in bytes; 0 when it has ended.
    pub fn quota_limit(&self) -> u64 {
        self.quota.get().map_or(0, Quota::limit)
    }

    /// Bytes charged to its quota; 0 when it has ended.
    pub fn quota_used(&self) -> u64 {
        self.quota.get().map_or(0, Quota::used)
    }

    /// The page-table root.
    #[inline]
    pub fn root(&self) -> Frame {
        // Its address fits a frame's number; what is beside it, in the lowest and the highest bits, does not.
        Frame((self.tagged_root() / PAGE_BYTES) as u32)
    }

    /// The page-table root as CPUs load it.
    #[inline(always)]
    pub(crate) fn tagged_root(&self) -> u64 {
        self.root.load(Ordering::Relaxed)
    }

    /// Where it is in its life.
    #[inline]
    pub fn state(&self) -> TaskState {
        match self.state.load(Ordering::Acquire) {
            0 => TaskState::Alive,
            1 => TaskState::Dying,
            _ => TaskState::Dead,
        }
    }

    /// Starts its end; true for the first call.
    pub fn start_dying(&self) -> bool {
        self.state
            .compare_exchange(
                TaskState::Alive as u8,
                TaskState::Dying as u8,
                Ordering::SeqCst,
                Ordering::Acquire,
            )
            .is_ok()
    }

    /// Keeps reclaiming from starting while an operation gives the task threads, mappings or handles.
    ///
    /// # Errors
    /// Destroyed, if its end has begun.
    pub fn hold(&'static self) -> Result<Hold, Error> {
        // Either the end of the task sees the hold, or the hold sees the end: both sides write
        // first and read afterwards, with sequential consistency.
        self.holds.fetch_add(1, Ordering::SeqCst);
        let hold = Hold(self);
        if self.state.load(Ordering::SeqCst) == TaskState::Alive as u8 {
            Ok(hold)
        } else {
            Err(Error::Destroyed)
        }
    }

    /// Whether an operation holds it.
    pub fn is_held(&self) -> bool {
        self.holds.load(Ordering::SeqCst) != 0
    }

    /// Nothing is left.
    pub fn set_dead(&self) {
        self.state.store(TaskState::Dead as u8, Ordering::Release);
    }

    /// Its threads.
    pub fn threads(&self) -> Guard<'_, Queue<Thread, IN_TASK>> {
        self.threads.lock()
    }

    /// Takes a slot for an IPC buffer.
    pub fn take_buffer_slot(&self) -> Option<u32> {
        for (position, word) in self.buffer_slots.iter().enumerate() {
            let taken = word.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bits| {
                (bits != u64::MAX).then(|| bits | (bits + 1))
            });
            if let Ok(before) = taken {
                return Some(position as u32 * 64 + before.trailing_ones());
            }
        }
        None
    }

    /// Gives a slot back.
    pub fn give_buffer_slot(&self, slot: u32) {
        let bit = 1 << (slot % 64);
        self.buffer_slots[slot as usize / 64].fetch_and(!bit, Ordering::Relaxed);
    }

    /// Address of the IPC buffer in a slot.
    pub fn buffer_address(slot: u32) -> u64 {
        IPC_BUFFERS + u64::from(slot) * IPC_BUFFER_STRIDE
    }

    /// Attaches a port range, without counting a reference: the ports are the task's until the
    /// object ends. False: no room.
    pub fn attach_ports(&self, ports: &'static IoPorts) -> bool {
        // Only its own threads attach, under the thread list's lock.
        let threads = self.threads.lock();
        match self.ports.iter().find(|place| place.get().is_none()) {
            Some(place) => {
                place.set(ports);
                threads.iterate().for_each(Thread::unsettle);
                true
            }
            None => false,
        }
    }

    /// The port ranges that its threads may use.
    pub fn port_ranges(&self, ranges: &mut [PortRange; MAX_PORT_RANGES]) -> usize {
        let mut count = 0;
        for ports in self.ports.iter().filter_map(PortsRef::get) {
            ranges[count] = ports.range();
            count += 1;
        }
        count
    }

    /// Whether it ever attached ports: the switch's quick question.
    #[inline]
    pub fn has_ports(&self) -> bool {
        self.ports[0].is_set()
    }

    /// Takes the quota out, for closing it.
    pub fn take_quota(&self) -> Option<&'static Quota> {
        self.quota.take()
    }
}
