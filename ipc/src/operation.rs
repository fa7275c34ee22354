//! The system calls: one declaration gives the numbers, the dispatcher's names and the reference
//! page (`ipc/OPERATIONS.md` is generated from it by a test).
//!
//! Registers, the same for every operation. In: `rax` number, `rdi`, `rsi`, `rdx`, `r8`, `r9`, `r10`
//! arguments 0 to 5, `r12` deadline (nanoseconds of the monotonic clock, [`crate::message::NEVER`]
//! for none). Out: `rax` status (0 or an [`crate::Error`] code), results 0 to 5 in the registers of
//! the arguments. `rcx` and `r11` are lost (SYSCALL, AMD APM volume 3); all others are kept.
//!
//! A message travels in those registers: `rdi` handle (received: badge), `rsi` [`crate::Tag`],
//! `rdx`, `r8`, `r9`, `r10` the first 32 bytes.

macro_rules! operations {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal,)+) => {
        /// A system call's number.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Operation { $($(#[doc = $doc])+ $name = $number,)+ }

        impl Operation {
            /// Every operation, in the order of the numbers.
            pub const ALL: &'static [Operation] = &[$(Operation::$name,)+];

            /// The operation with this number.
            pub const fn from_number(number: u64) -> Option<Operation> {
                match number { $($number => Some(Operation::$name),)+ _ => None }
            }

            /// Name and documentation, for the reference page.
            pub const fn reference(self) -> (&'static str, &'static str) {
                match self { $(Operation::$name => (stringify!($name), concat!($($doc, "\n",)+)),)+ }
            }
        }
    };
}

operations! {
    /// Lets another ready thread of the same priority run.
    ///
    /// Arguments: none. Result: none. Errors: none.
    Yield = 0,
    /// Ends the calling thread; the task ends with its last thread.
    ///
    /// Arguments: none. Result: does not return. Errors: none.
    Exit = 1,
    /// Reads the clock, for where the clock page is not enough.
    ///
    /// Arguments: none. Result: 0 monotonic time in nanoseconds since boot; 1 wall time in
    /// nanoseconds since 1970-01-01 (0 where the machine has no wall clock). Errors: none.
    ClockRead = 2,
    /// Sleeps while the aligned 32-bit word at an address holds the expected value.
    ///
    /// Arguments: 0 address; 1 expected value; deadline. Result: none. Errors: Changed, TimedOut,
    /// InvalidArgument (address unaligned or not mapped readable).
    FutexWait = 3,
    /// Wakes threads of the own task that sleep on an address, the longest waiting first.
    ///
    /// Arguments: 0 address; 1 largest number to wake (1 to 1,024). Result: 0 number woken.
    /// Errors: InvalidArgument.
    FutexWake = 4,

    /// Sends a message and waits for its reply. The deadline covers both.
    ///
    /// Arguments: 0 endpoint (SEND); 1 tag (accepted: handles taken in the reply); 2 to 5 words;
    /// deadline. Result: 1 tag; 2 to 5 words of the reply. Errors: InvalidHandle, WrongKind,
    /// MissingRights, InvalidArgument, ReceiverFull, NotDelivered, Abandoned, Closed, OutOfQuota.
    Call = 5,
    /// Gives a message to a waiting receiver; never blocks, and no reply can come.
    ///
    /// Arguments: 0 endpoint (SEND); 1 tag; 2 to 5 words. Result: none. Errors: as Call, and
    /// WouldBlock where no receiver waits.
    Send = 6,
    /// Waits for a message, a kernel message, or a signal of the notification bound to the thread.
    ///
    /// Arguments: 0 endpoint (RECEIVE); 1 tag (accepted); deadline. Result: 0 badge (0 for an
    /// unbadged handle); 1 tag; 2 to 5 words. Errors: InvalidHandle, WrongKind, MissingRights,
    /// InvalidArgument, ReplyPending, TimedOut, Destroyed.
    Receive = 7,
    /// Answers the last call received, or a stashed one. Never blocks. A caller that is gone loses
    /// the reply, handles stay; that is no error.
    ///
    /// Arguments: 0 zero for the last call, or a Reply handle (consumed on success); 1 tag; 2 to 5
    /// words. Result: none. Errors: NoReplyPending, InvalidHandle, WrongKind, MissingRights (of a
    /// handle in the message), InvalidArgument, ReceiverFull (the reply right is kept).
    Reply = 8,
    /// Reply to the last call, then Receive, as one operation.
    ///
    /// Arguments: 0 endpoint (RECEIVE); 1 tag of the reply (accepted: for the receive); 2 to 5
    /// words of the reply; deadline of the receive. Result and errors: as Reply where the reply is
    /// refused (nothing is received), else as Receive.
    ReplyReceive = 9,
    /// Moves the right to answer the last call to a handle, to be answered later in any order.
    ///
    /// Arguments: none. Result: 0 Reply handle. Errors: NoReplyPending, OutOfQuota, TableFull.
    Stash = 10,
    /// Sets bits of a notification and wakes its waiter. Never blocks.
    ///
    /// Arguments: 0 notification (SIGNAL); 1 bits. Result: none. Errors: InvalidHandle, WrongKind,
    /// MissingRights.
    Signal = 11,
    /// Waits until a notification has bits, takes them all and clears them. One thread at a time.
    ///
    /// Arguments: 0 notification (WAIT); deadline (0 polls). Result: 0 bits. Errors: InvalidHandle,
    /// WrongKind, MissingRights, TimedOut, Busy (another thread waits), Destroyed.
    Wait = 12,

    /// Closes a handle. The last handle of an object ends it, as the object's page says.
    ///
    /// Arguments: 0 handle. Result: none. Errors: InvalidHandle.
    Close = 13,
    /// Makes a second handle with the same badge and the same or fewer rights.
    ///
    /// Arguments: 0 handle (DUPLICATE); 1 rights. Result: 0 handle. Errors: InvalidHandle,
    /// MissingRights, OutOfQuota, TableFull.
    Duplicate = 14,
    /// Says what a handle names. The cheapest operation that validates a handle.
    ///
    /// Arguments: 0 handle. Result: 0 kind; 1 rights; 2 badge. Errors: InvalidHandle.
    HandleInspect = 15,
    /// Destroys an object: its mappings, what waits on it (Destroyed, NotDelivered, Abandoned) and
    /// every handle to it, which names nothing from then on but is still to be closed: the last one
    /// gives the object's record back. A task's threads stop before the operation returns; its
    /// memory comes back in steps.
    ///
    /// Arguments: 0 handle (DESTROY). Result: none. Errors: InvalidHandle, MissingRights,
    /// WrongKind (control objects cannot be destroyed).
    Destroy = 16,

    /// Makes an endpoint.
    ///
    /// Arguments: none. Result: 0 handle with all rights. Errors: OutOfQuota, OutOfMemory, TableFull.
    EndpointCreate = 17,
    /// Makes a badged send right. When the last handle with that badge is closed, the endpoint
    /// delivers the kernel message Closed with the badge.
    ///
    /// Arguments: 0 endpoint (MINT); 1 badge (not 0). Result: 0 handle (SEND, DUPLICATE, TRANSFER).
    /// Errors: InvalidHandle, WrongKind, MissingRights, InvalidArgument, OutOfQuota, OutOfMemory,
    /// TableFull.
    BadgeMint = 18,
    /// Makes a notification.
    ///
    /// Arguments: none. Result: 0 handle with all rights. Errors: OutOfQuota, OutOfMemory, TableFull.
    NotificationCreate = 19,
    /// Binds a notification to the calling thread, so that its Receive ends for signals as well;
    /// with handle 0 unbinds.
    ///
    /// Arguments: 0 notification (WAIT) or 0. Result: none. Errors: InvalidHandle, WrongKind,
    /// MissingRights, Busy (bound to another thread, or a thread waits on it).
    NotificationBind = 20,

    /// Makes memory: zeroed frames charged to the task's quota. Large sizes are worked off in steps
    /// during which interrupts are taken.
    ///
    /// Arguments: 0 size in bytes (a multiple of 4,096, 1 page to 1 GiB); 1 flags (bit 0:
    /// physically contiguous). Result: 0 handle with all rights. Errors: InvalidArgument,
    /// OutOfQuota, OutOfMemory, TableFull.
    MemoryCreate = 21,
    /// Makes memory of a device's physical range (never RAM).
    ///
    /// Arguments: 0 DeviceControl; 1 physical address; 2 size in bytes; 3 caching (0 uncached,
    /// 1 write-combining). Result: 0 handle. Errors: InvalidHandle, WrongKind, InvalidArgument,
    /// OutOfQuota, OutOfMemory, TableFull.
    MemoryDevice = 22,
    /// Maps a range of memory into a task. A mapping is removed whole.
    ///
    /// Arguments: 0 task (MAP); 1 memory (READ, and WRITE, EXECUTE as asked); 2 address; 3 offset;
    /// 4 length in bytes; 5 access (bit 0 write, bit 1 execute). All multiples of 4,096. Result:
    /// none. Errors: InvalidHandle, WrongKind, MissingRights, InvalidArgument, WriteAndExecute,
    /// Occupied, OutOfQuota, OutOfMemory.
    MemoryMap = 23,
    /// Removes the mapping that starts at an address; on return no CPU can use it any more.
    ///
    /// Arguments: 0 task (MAP); 1 address. Result: none. Errors: InvalidHandle, WrongKind,
    /// MissingRights, NotMapped.
    MemoryUnmap = 24,
    /// Says what a memory object is.
    ///
    /// Arguments: 0 memory. Result: 0 size in bytes; 1 flags (bit 0 contiguous, bit 1 device,
    /// bit 2 exposed). Errors: InvalidHandle, WrongKind.
    MemoryInspect = 25,
    /// Tells the physical address of contiguous memory and marks it exposed: from now on its frames
    /// are not reused until it is concealed or DmaReset says that all devices were stopped.
    ///
    /// Arguments: 0 DeviceControl; 1 memory; 2 1 to expose, 0 to conceal (its device was stopped).
    /// Result: 0 physical address. Errors: InvalidHandle, WrongKind, InvalidArgument (not
    /// contiguous).
    MemoryExpose = 26,
    /// Says that no device can write memory any more: everything exposed counts as concealed, and
    /// the frames in quarantine are freed.
    ///
    /// Arguments: 0 DeviceControl. Result: 0 number of frames freed. Errors: InvalidHandle,
    /// WrongKind.
    DmaReset = 27,

    /// Makes an empty task whose quota is carved from the maker's.
    ///
    /// Arguments: 0 own task (CREATE); 1 quota in bytes; 2 endpoint for its faults (SEND, usually
    /// badged) or 0; 3 largest priority of its threads, at most that of the own task. Result: 0 task
    /// handle with all rights. Errors: InvalidHandle, WrongKind, MissingRights, InvalidArgument,
    /// OutOfQuota (also where tasks would be nested more than 32 deep), OutOfMemory, TableFull.
    TaskCreate = 28,
    /// Puts a copy of a handle into another task's table.
    ///
    /// Arguments: 0 task (GRANT); 1 handle (DUPLICATE); 2 rights. Result: 0 the handle's value in
    /// that task. Errors: InvalidHandle, WrongKind, MissingRights, OutOfQuota, OutOfMemory,
    /// TableFull, Destroyed.
    TaskGrant = 29,
    /// Reads a task's state and counters into the IPC buffer as [`crate::info::TaskInfo`].
    ///
    /// Arguments: 0 task (INSPECT). Result: none. Errors: InvalidHandle, WrongKind, MissingRights.
    TaskInspect = 30,
    /// Makes a thread, stopped. Its IPC buffer appears in its task at result 1. A thread that was
    /// never started ends when its last handle is closed.
    ///
    /// Arguments: 0 task (SPAWN); 1 entry address; 2 stack pointer; 3 first argument (its `rdi`);
    /// 4 FS base; 5 flags: bits 0..8 priority, bit 8 uses the FPU. Result: 0 thread handle with all
    /// rights; 1 address of the IPC buffer. Errors: InvalidHandle, WrongKind, MissingRights,
    /// InvalidArgument, OutOfQuota, OutOfMemory, TableFull, Destroyed.
    ThreadCreate = 31,
    /// Starts a thread, or changes one parameter of it.
    ///
    /// Arguments: 0 thread (CONTROL); 1 parameter ([`crate::info::ThreadParameter`]); 2 value;
    /// 3 SchedControl (TUNE), only to raise a priority above the task's largest. Result: none.
    /// Errors: InvalidHandle, WrongKind, MissingRights, InvalidArgument, Destroyed.
    ThreadSet = 32,
    /// Reads a thread's registers and counters into the IPC buffer as [`crate::info::ThreadInfo`].
    ///
    /// Arguments: 0 thread (CONTROL). Result: none. Errors: InvalidHandle, WrongKind, MissingRights.
    ThreadInspect = 33,

    /// Makes an interrupt and binds it to a notification.
    ///
    /// Arguments: 0 DeviceControl; 1 I/O APIC input (global system interrupt), or
    /// [`crate::info::INTERRUPT_MESSAGE`] for a message-signalled one; 2 notification (WAIT);
    /// 3 bits to set; 4 for an input: bit 0 level-triggered, bit 1 active low. Result: 0 handle;
    /// 1 message address; 2 message data. Errors: InvalidHandle, WrongKind, MissingRights,
    /// InvalidArgument, Busy, OutOfQuota, OutOfMemory, TableFull, Unsupported.
    InterruptCreate = 34,
    /// Lets a level-triggered interrupt come again.
    ///
    /// Arguments: 0 interrupt (ACKNOWLEDGE). Result: none. Errors: InvalidHandle, WrongKind,
    /// MissingRights.
    InterruptAcknowledge = 35,
    /// Makes a range of I/O ports.
    ///
    /// Arguments: 0 DeviceControl; 1 first port; 2 number of ports. Result: 0 handle. Errors:
    /// InvalidHandle, WrongKind, InvalidArgument, OutOfQuota, OutOfMemory, TableFull.
    IoPortsCreate = 36,
    /// Lets the own task use the ports; closing the object's last handle ends it.
    ///
    /// Arguments: 0 ports (ATTACH). Result: none. Errors: InvalidHandle, WrongKind, MissingRights,
    /// TableFull (a task has at most eight ranges).
    IoPortsAttach = 37,

    /// Reads the system's state and counters into the IPC buffer.
    ///
    /// Arguments: 0 SystemControl (READ_STATE); 1 selector ([`crate::info::SystemSelector`]);
    /// 2 index (CPU number, for per-CPU state). Result: 0 number of bytes. Errors: InvalidHandle,
    /// WrongKind, MissingRights, InvalidArgument.
    SystemInspect = 38,
    /// Halts or reboots the machine.
    ///
    /// Arguments: 0 SystemControl (POWER); 1 0 to halt, 1 to reboot. Result: does not return.
    /// Errors: InvalidHandle, WrongKind, MissingRights, InvalidArgument.
    SystemPower = 39,
    /// Writes bytes of the IPC buffer to the kernel's log (the debug UART until the console task
    /// takes it over).
    ///
    /// Arguments: 0 SystemControl (LOG); 1 number of bytes, at most 4,000. Result: none. Errors:
    /// InvalidHandle, WrongKind, MissingRights, InvalidArgument.
    LogWrite = 40,
    /// Reads or sets a tunable by its number in the tunables' table.
    ///
    /// Arguments: 0 SchedControl (READ_STATE; to set, TUNE); 1 tunable; 2 1 to set, 0 to read;
    /// 3 value. Result: 0 value; 1 smallest; 2 largest; 3 default. Errors: InvalidHandle, WrongKind,
    /// MissingRights, InvalidArgument (no such tunable, value out of range).
    Tunable = 41,
    /// Takes records out of one CPU's trace ring into the IPC buffer.
    ///
    /// Arguments: 0 Trace (READ_STATE); 1 CPU. Result: 0 number of records (32 bytes each, at most
    /// 125); 1 number lost since the last read. Errors: InvalidHandle, WrongKind, MissingRights,
    /// InvalidArgument.
    TraceRead = 42,

    /// Signal, then Receive, as one operation: where the caller then waits, the thread that it woke runs
    /// next, and nothing is switched to and fro between the two.
    ///
    /// Arguments: 0 endpoint (RECEIVE); 1 tag (accepted); 2 notification (SIGNAL); 3 bits; deadline of
    /// the receive. Result: as Receive. Errors: InvalidHandle, WrongKind, MissingRights, InvalidArgument,
    /// ReplyPending (nothing is signalled, nor received); else as Receive, after the signal.
    SignalReceive = 43,
}

#[cfg(test)]
mod tests {
    use super::Operation;

    #[test]
    fn numbers_are_dense_and_round_trip() {
        for (position, operation) in Operation::ALL.iter().enumerate() {
            assert_eq!(*operation as usize, position);
            assert_eq!(Operation::from_number(position as u64), Some(*operation));
        }
        assert_eq!(Operation::from_number(Operation::ALL.len() as u64), None);
    }
}
