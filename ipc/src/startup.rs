//! What a task finds when it starts: the startup block that init writes for it, the address map
//! below the kernel's pages, and the first words of every thread.
//!
//! A task's first thread begins with
//!
//! | register | meaning |
//! |---|---|
//! | `rdi` | address of the startup block, [`STARTUP_ADDRESS`], read-only |
//! | `rsi` | its length in bytes; 0 where the maker of the thread could not set it, and then the block's pages end it |
//! | `rdx` | address of the thread's IPC buffer |
//! | `rsp`, FS base | [`thread_block`] of its stack's end |
//!
//! The block is a quadword with the length of what follows, and the encoded [`Startup`]. Init itself
//! starts with the boot archive instead (see [`crate::layout::init_handles`]), on the same registers.

use crate::Handle;
use crate::codec::{self, CodecError};
use crate::layout::INIT_STACK_END;
use serde::{Deserialize, Serialize};

/// Where the startup block is mapped.
pub const STARTUP_ADDRESS: u64 = 0x0f00_0000_0000;
/// Largest startup block in bytes.
pub const STARTUP_BYTES: usize = 2 * 4096;
/// Where a task's heap begins.
pub const HEAP_START: u64 = 0x2000_0000_0000;
/// End (exclusive) of a task's first stack.
pub const STACK_END: u64 = INIT_STACK_END;
/// Where a task's log memory is mapped.
pub const LOG_ADDRESS: u64 = 0x0f10_0000_0000;
/// From here up to [`MAPPINGS_END`] the runtime library places what the task maps itself: shared
/// rings, device registers, packet pools, further stacks.
pub const MAPPINGS_START: u64 = 0x3000_0000_0000;
/// End (exclusive) of the runtime library's range.
pub const MAPPINGS_END: u64 = 0x6000_0000_0000;

/// Most handles in a startup block.
pub const MAX_HANDLES: usize = 8 + crate::manifest::MAX_GRANTS;
/// Most arguments in a startup block.
pub const MAX_ARGUMENTS: usize = crate::manifest::MAX_ARGUMENTS;

/// Bytes at the end of every stack that are the thread block. FS base points at it.
///
/// | quadword | meaning |
/// |---|---|
/// | 0 | its own address (x86-64 psABI, 3.4.6: thread-local storage finds itself so) |
/// | 1 | address of the thread's IPC buffer |
/// | 2 to 7 | the runtime library's |
///
/// The runtime library writes it when the thread begins; the maker only sets FS base.
pub const THREAD_BLOCK_BYTES: u64 = 64;

/// Where the thread block of a stack that ends at `stack_end` lies; the first stack pointer and FS
/// base of its thread. `stack_end` is a multiple of 4,096.
pub const fn thread_block(stack_end: u64) -> u64 {
    stack_end - THREAD_BLOCK_BYTES
}

/// Names of the handles that init gives.
pub mod names {
    /// The own task: MAP, SPAWN, INSPECT.
    pub const TASK: &str = "task";
    /// Init: SEND. Always there.
    pub const SUPERVISOR: &str = crate::manifest::INIT_SERVICE;
    /// Notification of init: SIGNAL; signalled with [`super::LogMemory::bits`] after a log line.
    pub const LOG: &str = "log";
    /// Notification at which the interrupts of the manifest arrive: all rights. The n-th input of the
    /// manifest's list, from 0, sets bit n.
    pub const INTERRUPTS: &str = "interrupts";
    /// DeviceControl, where the manifest grants it.
    pub const DEVICE_CONTROL: &str = "device-control";
    /// SchedControl, where the manifest grants it.
    pub const SCHED_CONTROL: &str = "sched-control";
    /// SystemControl, where the manifest grants it.
    pub const SYSTEM_CONTROL: &str = "system-control";
    /// Trace, where the manifest grants it.
    pub const TRACE: &str = "trace";
    /// What the name of a public endpoint begins with that the task serves (RECEIVE, MINT). The
    /// endpoints that it uses have the plain name (SEND, DUPLICATE, TRANSFER).
    pub const SERVES: &str = "serves/";
    /// What the name of an interrupt begins with (ACKNOWLEDGE); the input in decimal follows.
    pub const INTERRUPT: &str = "interrupt/";
    /// What the name of a range of I/O ports begins with (ATTACH); the first port in hexadecimal
    /// without a prefix follows, `ports/3f8`.
    pub const PORTS: &str = "ports/";
}

/// A range of the task's addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// Length in bytes.
    pub bytes: u64,
}

/// A handle and what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedHandle<'a> {
    /// One of [`names`], or the name of a public endpoint.
    #[serde(borrow)]
    pub name: &'a str,
    /// The handle in the task's table.
    pub handle: Handle,
}

/// An argument from the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Argument<'a> {
    /// Name, unique in the task.
    #[serde(borrow)]
    pub name: &'a str,
    /// Value.
    #[serde(borrow)]
    pub value: &'a str,
}

/// Memory that the task shares with init: the heartbeat and the ring of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogMemory {
    /// Where it is mapped, writable.
    pub range: Range,
    /// The bits to signal on the notification [`names::LOG`].
    pub bits: u64,
}

impl LogMemory {
    /// Offset in bytes of the heartbeat, a 32-bit word that only the task writes.
    pub const HEARTBEAT_OFFSET: u64 = 0;
    /// Offset in bytes of the stream ring, the task its producer, as `ring::StreamRing` lays it out.
    pub const RING_OFFSET: u64 = 64;
    /// Capacity of the ring in bytes.
    pub const RING_BYTES: u32 = 8192;
    /// Size of the memory in bytes.
    pub const BYTES: u64 = 3 * 4096;
}

/// What init tells a task at its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Startup<'a> {
    /// The task's name in the manifest.
    #[serde(borrow)]
    pub name: &'a str,
    /// How often the task was started before.
    pub restarts: u32,
    /// Its handles.
    #[serde(borrow)]
    pub handles: heapless::Vec<NamedHandle<'a>, MAX_HANDLES>,
    /// Its arguments.
    #[serde(borrow)]
    pub arguments: heapless::Vec<Argument<'a>, MAX_ARGUMENTS>,
    /// Its heap, mapped and zeroed.
    pub heap: Range,
    /// Its first thread's stack, thread block included.
    pub stack: Range,
    /// Its log memory.
    pub log: LogMemory,
}

/// Bytes of the length at the beginning of the block.
const LENGTH_BYTES: usize = 8;

impl<'a> Startup<'a> {
    /// Writes the block at the start of `buffer` and returns its length in bytes.
    ///
    /// Errors: TooLong where the buffer (at most [`STARTUP_BYTES`] are mapped) does not suffice.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, CodecError> {
        let (head, body) = buffer
            .split_first_chunk_mut::<LENGTH_BYTES>()
            .ok_or(CodecError::TooLong)?;
        let length = codec::encode(self, body)?;
        *head = (length as u64).to_le_bytes();
        Ok(LENGTH_BYTES + length)
    }

    /// Reads a block. Bytes after it are ignored.
    pub fn decode(block: &'a [u8]) -> Result<Startup<'a>, CodecError> {
        let (head, body) = block
            .split_first_chunk::<LENGTH_BYTES>()
            .ok_or(CodecError::Malformed)?;
        let length =
            usize::try_from(u64::from_le_bytes(*head)).map_err(|_| CodecError::Malformed)?;
        codec::decode(body.get(..length).ok_or(CodecError::Malformed)?)
    }

    /// The handle of this name.
    pub fn handle(&self, name: &str) -> Option<Handle> {
        self.handles
            .iter()
            .find(|entry| entry.name == name)
            .map(|entry| entry.handle)
    }

    /// The handle whose name is `prefix` followed by `name`: one of [`names::SERVES`],
    /// [`names::INTERRUPT`] and [`names::PORTS`].
    pub fn handle_of(&self, prefix: &str, name: &str) -> Option<Handle> {
        let is = |entry: &&NamedHandle<'_>| entry.name.strip_prefix(prefix) == Some(name);
        self.handles.iter().find(is).map(|entry| entry.handle)
    }

    /// The value of an argument.
    pub fn argument(&self, name: &str) -> Option<&'a str> {
        self.arguments
            .iter()
            .find(|entry| entry.name == name)
            .map(|entry| entry.value)
    }
}

#[cfg(test)]
mod tests {
    use super::{Argument, NamedHandle, STARTUP_BYTES, Startup, names};
    use crate::Handle;
    use crate::codec::CodecError;

    fn example() -> Startup<'static> {
        let mut startup = Startup {
            name: "console",
            restarts: 3,
            ..Startup::default()
        };
        let handle = Handle::new(4, 1);
        startup
            .handles
            .push(NamedHandle {
                name: "serves/console",
                handle,
            })
            .unwrap();
        startup
            .arguments
            .push(Argument {
                name: "baud",
                value: "115200",
            })
            .unwrap();
        startup
    }

    #[test]
    fn a_block_round_trips_with_its_tail_ignored() {
        let mut block = [0xff; STARTUP_BYTES];
        let length = example().encode(&mut block).unwrap();
        assert!(length < block.len());
        let startup = Startup::decode(&block).unwrap();
        assert_eq!(startup, example());
        assert_eq!(
            startup.handle_of(names::SERVES, "console"),
            Some(Handle::new(4, 1))
        );
        assert_eq!(startup.handle("console"), None);
        assert_eq!(startup.argument("baud"), Some("115200"));
    }

    #[test]
    fn a_cut_block_is_an_error() {
        let mut block = [0; STARTUP_BYTES];
        let length = example().encode(&mut block).unwrap();
        for cut in 0..length {
            assert_eq!(Startup::decode(&block[..cut]), Err(CodecError::Malformed));
        }
        block[..8].fill(0xff);
        assert_eq!(Startup::decode(&block), Err(CodecError::Malformed));
    }

    #[test]
    fn a_full_block_fits() {
        let mut startup = example();
        let long = "sixteen-bytes-16/sixteen-bytes-16";
        while startup
            .handles
            .push(NamedHandle {
                name: long,
                handle: Handle(u64::MAX),
            })
            .is_ok()
        {}
        while startup
            .arguments
            .push(Argument {
                name: long,
                value: long,
            })
            .is_ok()
        {}
        assert!(startup.encode(&mut [0; STARTUP_BYTES]).is_ok());
    }
}
