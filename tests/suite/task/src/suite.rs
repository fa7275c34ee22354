//! What every test stands on: the suite's own authority, time, log, memory mapped for a while, and
//! the kernel's counts.

use alloc::string::String;
use core::cell::Cell;
use core::fmt::Write;
use core::net::SocketAddr;

use ipc::info::{SystemInfo, SystemSelector};
use ipc::layout::PAGE_BYTES;
use ipc::message::NEVER;
use ipc::startup::names;
use ipc::{Error, Operation, Tag};
use runtime::startup;

use crate::failure::{Failure, Outcome};
use crate::raw;

/// Where the suite maps what tests need; far from what the runtime library maps.
const AREA: u64 = 0x6100_0000_0000;
/// Distance of two mappings: what runs over the end of one hits nothing.
const GAP: u64 = 16 * PAGE_BYTES;

/// The suite's own authority, as raw handles.
#[derive(Debug)]
pub(crate) struct Suite {
    /// The own task.
    pub(crate) task: u64,
    /// DeviceControl.
    pub(crate) device: u64,
    /// SchedControl.
    pub(crate) sched: u64,
    /// SystemControl.
    pub(crate) system: u64,
    /// Trace.
    pub(crate) trace: u64,
    /// Number of CPUs running.
    pub(crate) cpus: u64,
    /// A notification that nobody signals, to sleep on.
    pause: u64,
    next: Cell<u64>,
}

impl Suite {
    /// Takes what init gave.
    pub(crate) fn new() -> Result<Suite, Failure> {
        let find = |name: &str| match startup().handle(name) {
            Some(handle) => Ok(handle.0),
            None => Err(Failure::new(&alloc::format!("init gave no `{name}`"))),
        };
        let mut suite = Suite {
            task: find(names::TASK)?,
            device: find(names::DEVICE_CONTROL)?,
            sched: find(names::SCHED_CONTROL)?,
            system: find(names::SYSTEM_CONTROL)?,
            trace: find(names::TRACE)?,
            cpus: 1,
            pause: raw::value(Operation::NotificationCreate, &[])?,
            next: Cell::new(AREA),
        };
        suite.cpus = suite.counts()?.cpus;
        Ok(suite)
    }

    /// Monotonic time in nanoseconds.
    pub(crate) fn now(&self) -> u64 {
        raw::value(Operation::ClockRead, &[]).unwrap_or(0)
    }

    /// The time this many milliseconds from now.
    pub(crate) fn after(&self, milliseconds: u64) -> u64 {
        self.now() + milliseconds * 1_000_000
    }

    /// Lets others run for this many milliseconds.
    pub(crate) fn sleep(&self, milliseconds: u64) {
        let deadline = self.after(milliseconds);
        // It ends by its deadline: nobody else has the notification.
        let _ = raw::until(Operation::Wait, &[self.pause], deadline);
    }

    /// Waits until the condition holds; false if it did not within this many milliseconds.
    pub(crate) fn wait_for(&self, milliseconds: u64, condition: impl Fn() -> bool) -> bool {
        let end = self.after(milliseconds);
        while !condition() {
            if self.now() > end {
                return condition();
            }
            self.sleep(1);
        }
        true
    }

    /// A range of addresses that nothing is mapped at, never given again.
    pub(crate) fn area(&self, bytes: u64) -> u64 {
        let address = self.next.get();
        self.next
            .set(address + bytes.next_multiple_of(PAGE_BYTES) + GAP);
        address
    }

    /// Runs something whose ranges of addresses are given again afterwards: page tables stay where they
    /// once were made, so that whoever counts memory wants the same addresses each time.
    pub(crate) fn at_the_same_addresses<R>(&self, run: impl FnOnce() -> R) -> R {
        let next = self.next.get();
        let result = run();
        self.next.set(next);
        result
    }

    /// A range of addresses that begins at a multiple of `alignment`, a power of two.
    pub(crate) fn aligned_area(&self, bytes: u64, alignment: u64) -> u64 {
        let next = self.next.get().next_multiple_of(alignment);
        self.next.set(next);
        self.area(bytes)
    }

    /// The kernel's counts of everything.
    pub(crate) fn counts(&self) -> Result<SystemInfo, Error> {
        let words = inspect_system(self.system, SystemSelector::System, 0)?;
        Ok(SystemInfo::from_words(&words))
    }

    /// What follows `prefix` in the word of the kernel's command line that begins with it.
    pub(crate) fn option(&self, prefix: &str) -> Option<String> {
        let mut line = [0; 1000];
        let line = runtime::system::command_line(ipc::Handle(self.system), &mut line).ok()?;
        let mut words = core::str::from_utf8(line).ok()?.split_ascii_whitespace();
        words
            .find_map(|word| word.strip_prefix(prefix))
            .map(String::from)
    }

    /// Where an echo server listens, by the kernel's command line.
    pub(crate) fn peer(&self) -> Outcome<SocketAddr> {
        let peer = self.option("suite.peer=").unwrap_or_default();
        peer.parse()
            .map_err(|_| Failure::new(&alloc::format!("suite.peer=`{peer}` is no address")))
    }

    /// Writes a line to the kernel's log.
    pub(crate) fn say(&self, line: core::fmt::Arguments<'_>) {
        let mut text = Line::default();
        // A line that is too long is cut.
        let _ = writeln!(text, "{line}");
        let Some(bytes) = text.bytes.get(..text.used) else {
            return;
        };
        let Some(room) = raw::buffer().get_mut(..bytes.len()) else {
            return;
        };
        room.copy_from_slice(bytes);
        let _ = raw::call(Operation::LogWrite, &[self.system, bytes.len() as u64]);
    }
}

/// Reads one of the kernel's records as quadwords.
pub(crate) fn inspect_system<const WORDS: usize>(
    system: u64,
    selector: SystemSelector,
    index: u64,
) -> Result<[u64; WORDS], Error> {
    raw::call(Operation::SystemInspect, &[system, selector as u64, index])?;
    Ok(buffer_words())
}

/// The first quadwords of the own IPC buffer.
pub(crate) fn buffer_words<const WORDS: usize>() -> [u64; WORDS] {
    let (chunks, _) = raw::buffer().as_chunks::<8>();
    let mut words = [0; WORDS];
    for (word, chunk) in words.iter_mut().zip(chunks) {
        *word = u64::from_le_bytes(*chunk);
    }
    words
}

/// A line under construction.
struct Line {
    bytes: [u8; 1000],
    used: usize,
}

impl Default for Line {
    fn default() -> Self {
        Line {
            bytes: [0; 1000],
            used: 0,
        }
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        let room = self.bytes.get_mut(self.used..).unwrap_or(&mut []);
        for (slot, byte) in room.iter_mut().zip(text.bytes()) {
            *slot = byte;
            self.used += 1;
        }
        Ok(())
    }
}

/// Memory mapped writable in the suite; both end when it is dropped.
#[derive(Debug)]
pub(crate) struct Region {
    /// The memory object.
    pub(crate) memory: u64,
    /// Where it is mapped.
    pub(crate) address: u64,
    /// Its length.
    pub(crate) bytes: u64,
    task: u64,
}

impl Region {
    /// Makes and maps memory of this length.
    pub(crate) fn new(suite: &Suite, bytes: u64) -> Outcome<Region> {
        let memory = raw::value(Operation::MemoryCreate, &[bytes])?;
        let region = Region {
            memory,
            address: suite.area(bytes),
            bytes,
            task: suite.task,
        };
        map(region.task, memory, region.address, bytes, WRITE)?;
        Ok(region)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // A test may have ended either itself.
        let _ = raw::call(Operation::MemoryUnmap, &[self.task, self.address]);
        let _ = raw::call(Operation::Close, &[self.memory]);
    }
}

/// Access of a mapping: write.
pub(crate) const WRITE: u64 = 1;
/// Access of a mapping: execute.
pub(crate) const EXECUTE: u64 = 2;

/// Maps the beginning of a memory object into a task.
pub(crate) fn map(
    task: u64,
    memory: u64,
    address: u64,
    bytes: u64,
    access: u64,
) -> Result<(), Error> {
    let values = [task, memory, address, 0, bytes, access];
    raw::call(Operation::MemoryMap, &values).map(drop)
}

/// A handle that is closed when it is dropped.
#[derive(Debug)]
pub(crate) struct Owned(pub(crate) u64);

impl Owned {
    /// Makes an object by an operation whose result 0 is its handle.
    pub(crate) fn make(operation: Operation, values: &[u64]) -> Result<Owned, Error> {
        raw::value(operation, values).map(Owned)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        // The test may have closed or destroyed it.
        let _ = raw::call(Operation::Close, &[self.0]);
    }
}

/// Receives on an endpoint, accepting four handles: badge, tag, words.
pub(crate) fn receive(endpoint: u64, deadline: u64) -> Result<(u64, Tag, [u64; 4]), Error> {
    let accepting = Tag(0).accepting(4).0;
    let [badge, tag, words @ ..] =
        raw::until(Operation::Receive, &[endpoint, accepting], deadline)?;
    Ok((badge, Tag(tag), words))
}

/// Gives the implicit reply right of this thread up, if there is one.
pub(crate) fn abandon() {
    if let Ok(reply) = raw::value(Operation::Stash, &[]) {
        let _ = raw::until(Operation::Close, &[reply], NEVER);
    }
}
