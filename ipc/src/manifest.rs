//! The system manifest as init reads it from the boot archive: which tasks there are and exactly
//! what authority each one has.
//!
//! The text that people write, and every check on it, are the host tool's (`iso/README.md`): what is
//! packed here has passed them. The packed form is a [`Header`] and then that many [`Task`] records,
//! one after the other, so that a reader needs memory for one task at a time.

use crate::codec;
use heapless::Vec;
use serde::{Deserialize, Serialize};

/// The archive's file that holds the packed manifest.
pub const FILE: &str = "manifest";
/// The archive's file that holds init's ELF; init is no task of the manifest.
pub const INIT_FILE: &str = "init";
/// How the name of a file ends that is packed (an LZ4 frame): every program but init.
pub const PACKED: &str = ".lz4";
/// The name under which init serves, without being named in the manifest: every task may use it.
pub const INIT_SERVICE: &str = "init";
/// The version of the packed form; another one is refused.
pub const FORMAT: u8 = 2;
/// Largest number of bytes in the name of a task or a service.
pub const MAX_NAME: usize = 31;
/// Largest number of grants of one task.
pub const MAX_GRANTS: usize = 24;
/// Largest number of tasks that one task is restarted with.
pub const MAX_RESTART_WITH: usize = 8;
/// Largest number of arguments of one task, those of the kernel's command line included.
pub const MAX_ARGUMENTS: usize = 16;
/// First parts of words `group.name=value` of the kernel's command line that are no task's: the kernel's
/// tunables, and where a machine's virtio devices are. No task has such a name.
pub const OTHER_GROUPS: [&str; 9] = [
    "clock",
    "ipc",
    "mem",
    "panic",
    "reclaim",
    "sched",
    "task",
    "trace",
    "virtio_mmio",
];

/// The beginning of the packed manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`FORMAT`].
    pub format: u8,
    /// Number of tasks that follow.
    pub tasks: u16,
}

/// One task, in the order in which tasks are started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task<'a> {
    /// What the task is called; no two tasks have the same name.
    pub name: &'a str,
    /// Its program: the archive's file with this name and [`PACKED`] holds the ELF.
    pub binary: &'a str,
    /// Priority of its first thread and largest priority of all its threads.
    pub priority: u8,
    /// CPUs its threads may run on, as in [`crate::info::ThreadParameter::Affinity`].
    pub affinity: u64,
    /// Quota in bytes, where the machine has it.
    pub memory: u64,
    /// Quota in bytes that is enough; at most `memory`. A small machine gives something in between.
    pub memory_least: u64,
    /// Size of its first thread's stack in bytes.
    pub stack: u64,
    /// Size of its heap in bytes, with all of `memory`.
    pub heap: u64,
    /// Size of its heap in bytes with `memory_least`; at most `heap`.
    pub heap_least: u64,
    /// What is done when it ends.
    pub restart: Restart,
    /// Names of tasks at whose restart it is restarted too.
    #[serde(borrow)]
    pub restart_with: Vec<&'a str, MAX_RESTART_WITH>,
    /// All of its authority.
    #[serde(borrow)]
    pub grants: Vec<Grant<'a>, MAX_GRANTS>,
    /// What its program is told, as names and values of its own choosing.
    #[serde(borrow)]
    pub arguments: Vec<Argument<'a>, MAX_ARGUMENTS>,
}

/// What is done when a task ends, by a fault or by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Restart {
    /// It is started again, with back-off.
    Always,
    /// It stays away.
    Never,
}

/// One piece of authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Grant<'a> {
    /// Receives on the public endpoint of this service.
    Provide(&'a str),
    /// Sends to the public endpoint of this service.
    Use {
        /// The service.
        service: &'a str,
        /// What the task may do there, as in [`crate::badge::Client::grants`].
        grants: u32,
    },
    /// Uses a range of I/O ports.
    IoPorts {
        /// The first port.
        first: u16,
        /// The number of ports.
        count: u16,
    },
    /// Receives an I/O APIC input's interrupts.
    Interrupt {
        /// The input (global system interrupt).
        input: u32,
    },
    /// Holds DeviceControl.
    DeviceControl,
    /// Holds SchedControl with all rights.
    SchedControl,
    /// Holds SystemControl with all rights.
    SystemControl,
    /// Holds SystemControl with READ_STATE alone.
    SystemInspect,
    /// Holds SystemControl with LOG alone.
    Log,
    /// Holds Trace.
    Trace,
    /// Makes tasks out of its own quota.
    TaskCreate,
}

/// One argument of a task's program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Argument<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its value.
    pub value: &'a str,
}

/// Why a packed manifest cannot be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestError {
    /// It was packed for another version of this module.
    Format(u8),
    /// It ends early or its bytes make no sense.
    Malformed,
    /// There is no room for it.
    NoRoom,
}

impl core::fmt::Display for ManifestError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Format(found) => {
                write!(
                    formatter,
                    "the manifest has format {found}, not {FORMAT}: rebuild the archive"
                )
            }
            Self::Malformed => formatter.write_str("the manifest is cut short or damaged"),
            Self::NoRoom => formatter.write_str("the manifest does not fit"),
        }
    }
}

impl core::error::Error for ManifestError {}

/// The tasks of a packed manifest, in their order; ends after the first error.
#[derive(Clone, Debug)]
pub struct Tasks<'a> {
    rest: &'a [u8],
    left: u16,
}

impl<'a> Tasks<'a> {
    /// Reads the header of a packed manifest.
    pub fn read(bytes: &'a [u8]) -> Result<Self, ManifestError> {
        let (header, rest): (Header, _) =
            codec::decode_first(bytes).map_err(|_| ManifestError::Malformed)?;
        if header.format != FORMAT {
            return Err(ManifestError::Format(header.format));
        }
        Ok(Self {
            rest,
            left: header.tasks,
        })
    }
}

impl<'a> Iterator for Tasks<'a> {
    type Item = Result<Task<'a>, ManifestError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        match codec::decode_first(self.rest) {
            Ok((task, rest)) => {
                self.rest = rest;
                Some(Ok(task))
            }
            Err(_) => {
                self.left = 0;
                Some(Err(ManifestError::Malformed))
            }
        }
    }
}

/// Packs a manifest into `room` and returns the part that was used.
pub fn pack<'room>(
    tasks: &[Task<'_>],
    room: &'room mut [u8],
) -> Result<&'room [u8], ManifestError> {
    let count = u16::try_from(tasks.len()).map_err(|_| ManifestError::NoRoom)?;
    let header = Header {
        format: FORMAT,
        tasks: count,
    };
    let mut used = write(&header, room)?;
    for task in tasks {
        used += write(task, &mut room[used..])?;
    }
    Ok(&room[..used])
}

/// Writes one record and says how many bytes it took.
fn write<T: Serialize>(record: &T, room: &mut [u8]) -> Result<usize, ManifestError> {
    codec::encode(record, room).map_err(|_| ManifestError::NoRoom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(name: &str) -> Task<'_> {
        Task {
            name,
            binary: "program",
            priority: 20,
            affinity: 0b10,
            memory: 1 << 20,
            memory_least: 1 << 19,
            stack: 1 << 14,
            heap: 1 << 16,
            heap_least: 1 << 15,
            restart: Restart::Always,
            restart_with: Vec::from_slice(&["other"]).unwrap(),
            grants: Vec::from_slice(&[
                Grant::Use {
                    service: "pci",
                    grants: 1,
                },
                Grant::IoPorts {
                    first: 0x3f8,
                    count: 8,
                },
            ])
            .unwrap(),
            arguments: Vec::from_slice(&[Argument {
                name: "address",
                value: "dhcp",
            }])
            .unwrap(),
        }
    }

    #[test]
    fn what_is_packed_is_read() {
        let tasks = [task("one"), task("two")];
        let mut room = [0; 512];
        let bytes = pack(&tasks, &mut room).unwrap();
        let read: std::vec::Vec<_> = Tasks::read(bytes).unwrap().map(Result::unwrap).collect();
        assert_eq!(read, tasks);
    }

    #[test]
    fn manifest_that_is_cut_short_ends_with_an_error() {
        let tasks = [task("one"), task("two")];
        let mut room = [0; 512];
        let bytes = pack(&tasks, &mut room).unwrap();
        for length in 0..bytes.len() {
            let failed = match Tasks::read(&bytes[..length]) {
                Ok(tasks) => tasks.last().is_none_or(|last| last.is_err()),
                Err(_) => true,
            };
            assert!(
                failed,
                "{length} bytes of {} were taken for a whole manifest",
                bytes.len()
            );
        }
    }

    #[test]
    fn another_format_is_refused() {
        assert!(matches!(
            Tasks::read(&[FORMAT + 1, 0]),
            Err(ManifestError::Format(_))
        ));
    }

    #[test]
    fn too_little_room_is_an_error() {
        assert_eq!(
            pack(&[task("one")], &mut [0; 16]),
            Err(ManifestError::NoRoom)
        );
    }
}
