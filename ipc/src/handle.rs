//! Handles, the kinds of object that they name, and the rights that they carry.

use serde::{Deserialize, Serialize};

/// A name for a kernel object, valid in the task that holds it.
///
/// The low [`Handle::INDEX_BITS`] bits are the index into the task's handle table, the rest is the
/// generation of that entry: a handle that was closed never names the entry's next object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(transparent)]
pub struct Handle(pub u64);

impl Handle {
    /// Width of the index part, in bits.
    pub const INDEX_BITS: u32 = 16;
    /// Largest number of handles of one task.
    pub const MAX_PER_TASK: usize = 1 << Self::INDEX_BITS;
    /// Names nothing in any task: generations start at 1.
    pub const NONE: Handle = Handle(0);

    /// Puts a handle together. `index` is below [`Handle::MAX_PER_TASK`]; `generation` is at least
    /// 1 and below 2^48.
    pub const fn new(index: usize, generation: u64) -> Handle {
        Handle(generation << Self::INDEX_BITS | (index as u64 & (Self::MAX_PER_TASK as u64 - 1)))
    }

    /// The entry of the handle table.
    pub const fn index(self) -> usize {
        (self.0 & (Self::MAX_PER_TASK as u64 - 1)) as usize
    }

    /// The generation that the entry must have.
    pub const fn generation(self) -> u64 {
        self.0 >> Self::INDEX_BITS
    }
}

/// The kinds of kernel object that a handle can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum ObjectKind {
    /// Synchronous rendezvous; with a badge, a session's send right.
    Endpoint = 1,
    /// A word of signal bits.
    Notification = 2,
    /// Physical frames that can be mapped.
    Memory = 3,
    /// Address space, handle table and quota.
    Task = 4,
    /// Registers, priority, affinity, IPC buffer.
    Thread = 5,
    /// One-shot right to answer one call.
    Reply = 6,
    /// An interrupt bound to a notification.
    Interrupt = 7,
    /// A range of x86 I/O ports.
    IoPorts = 8,
    /// The right to make Interrupt, IoPorts and device Memory objects, and to expose memory to DMA.
    DeviceControl = 9,
    /// The right to read and set the scheduler's tunables, and priorities above the maker's own.
    SchedControl = 10,
    /// The right to halt and reboot, to write the kernel's log and to read the system's counters.
    SystemControl = 11,
    /// The right to read the kernel's trace rings.
    Trace = 12,
}

impl ObjectKind {
    /// Every kind, in the order of the numbers.
    pub const ALL: [ObjectKind; 12] = [
        Self::Endpoint,
        Self::Notification,
        Self::Memory,
        Self::Task,
        Self::Thread,
        Self::Reply,
        Self::Interrupt,
        Self::IoPorts,
        Self::DeviceControl,
        Self::SchedControl,
        Self::SystemControl,
        Self::Trace,
    ];

    /// The kind with this number.
    pub const fn from_number(number: u8) -> Option<ObjectKind> {
        if number == 0 || number as usize > Self::ALL.len() {
            return None;
        }
        Some(Self::ALL[number as usize - 1])
    }
}

/// A set of rights. The low eight bits mean the same for every kind; the others are the kind's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[repr(transparent)]
pub struct Rights(pub u32);

impl Rights {
    /// No right at all.
    pub const NONE: Rights = Rights(0);
    /// Every right of the kind.
    pub const ALL: Rights = Rights(u32::MAX >> 1);

    /// The handle can be duplicated (also by copying it in a message).
    pub const DUPLICATE: Rights = Rights(1 << 0);
    /// The handle can be moved in a message.
    pub const TRANSFER: Rights = Rights(1 << 1);
    /// The object can be destroyed: with it go its mappings and every handle to it.
    pub const DESTROY: Rights = Rights(1 << 2);

    /// Endpoint: call and send.
    pub const SEND: Rights = Rights(1 << 8);
    /// Endpoint: receive.
    pub const RECEIVE: Rights = Rights(1 << 9);
    /// Endpoint: mint badged send rights.
    pub const MINT: Rights = Rights(1 << 10);

    /// Notification: set bits.
    pub const SIGNAL: Rights = Rights(1 << 8);
    /// Notification: wait for bits, bind to a thread or an interrupt.
    pub const WAIT: Rights = Rights(1 << 9);

    /// Memory: map readable.
    pub const READ: Rights = Rights(1 << 8);
    /// Memory: map writable.
    pub const WRITE: Rights = Rights(1 << 9);
    /// Memory: map executable.
    pub const EXECUTE: Rights = Rights(1 << 10);

    /// Task: map memory into it and unmap.
    pub const MAP: Rights = Rights(1 << 8);
    /// Task: put handles into its table.
    pub const GRANT: Rights = Rights(1 << 9);
    /// Task: create threads in it.
    pub const SPAWN: Rights = Rights(1 << 10);
    /// Task: create child tasks from its quota.
    pub const CREATE: Rights = Rights(1 << 11);
    /// Task and thread: read counters and state.
    pub const INSPECT: Rights = Rights(1 << 12);

    /// Thread: start, change priority and affinity, read and write registers.
    pub const CONTROL: Rights = Rights(1 << 8);

    /// Interrupt: acknowledge.
    pub const ACKNOWLEDGE: Rights = Rights(1 << 8);

    /// IoPorts: attach to the own task.
    pub const ATTACH: Rights = Rights(1 << 8);

    /// SystemControl: halt and reboot.
    pub const POWER: Rights = Rights(1 << 8);
    /// SystemControl: write to the kernel's log.
    pub const LOG: Rights = Rights(1 << 9);
    /// SystemControl, SchedControl, Trace: read.
    pub const READ_STATE: Rights = Rights(1 << 10);
    /// SchedControl: set.
    pub const TUNE: Rights = Rights(1 << 11);

    /// Whether every right of `needed` is in this set.
    pub const fn contains(self, needed: Rights) -> bool {
        self.0 & needed.0 == needed.0
    }

    /// The rights that are in both sets.
    pub const fn intersection(self, other: Rights) -> Rights {
        Rights(self.0 & other.0)
    }

    /// The rights that are in either set.
    pub const fn union(self, other: Rights) -> Rights {
        Rights(self.0 | other.0)
    }
}

impl core::ops::BitOr for Rights {
    type Output = Rights;
    fn bitor(self, other: Rights) -> Rights {
        self.union(other)
    }
}

#[cfg(test)]
mod tests {
    use super::{Handle, ObjectKind, Rights};

    #[test]
    fn a_handle_keeps_index_and_generation_apart() {
        let handle = Handle::new(Handle::MAX_PER_TASK - 1, 7);
        assert_eq!(handle.index(), Handle::MAX_PER_TASK - 1);
        assert_eq!(handle.generation(), 7);
        assert_eq!(Handle::NONE.generation(), 0);
    }

    #[test]
    fn kinds_round_trip() {
        for kind in ObjectKind::ALL {
            assert_eq!(ObjectKind::from_number(kind as u8), Some(kind));
        }
        assert_eq!(ObjectKind::from_number(0), None);
        assert_eq!(ObjectKind::from_number(13), None);
    }

    #[test]
    fn rights_only_shrink_by_intersection() {
        let rights = Rights::SEND | Rights::DUPLICATE;
        assert!(rights.contains(Rights::SEND));
        assert!(!rights.contains(Rights::SEND | Rights::RECEIVE));
        assert_eq!(rights.intersection(Rights::RECEIVE), Rights::NONE);
    }
}
