//! Log lines. A task's go into the ring that init gave it at its start and holds the other end of,
//! so that a line needs no call and outlives the task; init's own go to the kernel's log.
//!
//! A line is written whole or not at all: what does not fit is counted, and said in the next line
//! that does.

use crate::notification::signal;
use crate::start::startup;
use crate::sync::Mutex;
use crate::{mapping::Permanent, system};
use core::fmt::Write;
use core::sync::atomic::{AtomicU32, Ordering};
use ipc::Handle;
use ipc::ring::{SharedMemory, StreamProducer};
use ipc::startup::{LogMemory, names};

/// Longest line in bytes; the rest of a longer one is cut off.
pub const MAX_LINE_BYTES: usize = 512;

/// Where lines go.
enum Sink {
    /// Nowhere: the host, or a task without log memory.
    None,
    /// The ring of the log memory.
    Ring {
        ring: StreamProducer<Permanent>,
        memory: Permanent,
        bell: Handle,
        bits: u64,
    },
    /// The kernel's log.
    Kernel(Handle),
}

struct Log {
    sink: Sink,
    lost: u32,
}

static LOG: Mutex<Log> = Mutex::new(Log {
    sink: Sink::None,
    lost: 0,
});
static HEARTBEAT: AtomicU32 = AtomicU32::new(0);

/// Lets lines go into the log memory.
pub(crate) fn use_memory(memory: Permanent, bits: u64) {
    let offset = LogMemory::RING_OFFSET as usize;
    if let Ok(ring) = StreamProducer::new(memory, offset, LogMemory::RING_BYTES) {
        let bell = startup().handle(names::LOG).unwrap_or(Handle::NONE);
        LOG.lock().sink = Sink::Ring {
            ring,
            memory,
            bell,
            bits,
        };
    }
}

/// Lets lines go to the kernel's log.
pub(crate) fn use_kernel(control: Handle) {
    LOG.lock().sink = Sink::Kernel(control);
}

/// Tells the supervisor that the task is alive; see `SupervisorClient::heartbeat`.
pub fn heartbeat() {
    let count = HEARTBEAT.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
    if let Sink::Ring { memory, .. } = &LOG.lock().sink
        && let Some(word) = memory.word(LogMemory::HEARTBEAT_OFFSET as usize / 4)
    {
        word.store(count, Ordering::Relaxed);
    }
}

/// Writes a line; use [`log!`](crate::log!).
pub fn line(arguments: core::fmt::Arguments<'_>) {
    write_line(&mut LOG.lock(), arguments);
}

/// Writes a line unless another line is being written: for the panic handler, which may have
/// interrupted it.
#[cfg_attr(
    not(target_os = "none"),
    expect(dead_code, reason = "the panic handler is the task's")
)]
pub(crate) fn try_line(arguments: core::fmt::Arguments<'_>) {
    if let Some(mut log) = LOG.try_lock() {
        write_line(&mut log, arguments);
    }
}

fn write_line(log: &mut Log, arguments: core::fmt::Arguments<'_>) {
    if matches!(log.sink, Sink::None) {
        return;
    }
    let mut line = Line::new();
    if log.lost != 0 {
        let _ = write!(line, "({} lines lost) ", log.lost);
    }
    let _ = line.write_fmt(arguments);
    if log.sink.put(line.finish()) {
        log.lost = 0;
    } else {
        log.lost = log.lost.saturating_add(1);
    }
}

impl Sink {
    /// False: there was no room.
    fn put(&mut self, line: &[u8]) -> bool {
        match self {
            Sink::None => true,
            Sink::Kernel(control) => system::kernel_log(*control, line).is_ok(),
            Sink::Ring {
                ring, bell, bits, ..
            } => {
                if ring.free().unwrap_or(0) < line.len() || ring.write(line).is_err() {
                    return false;
                }
                if ring.must_wake() == Ok(true) {
                    // The line is in the ring: init sees it at the next signal if not at this one.
                    let _ = signal(*bell, *bits);
                }
                true
            }
        }
    }
}

/// A line under construction.
struct Line {
    bytes: [u8; MAX_LINE_BYTES],
    length: usize,
}

impl Line {
    const fn new() -> Line {
        Line {
            bytes: [0; MAX_LINE_BYTES],
            length: 0,
        }
    }

    /// The line with its end.
    fn finish(&mut self) -> &[u8] {
        self.length = self.length.min(MAX_LINE_BYTES - 1);
        if let Some(end) = self.bytes.get_mut(self.length) {
            *end = b'\n';
        }
        self.bytes.get(..=self.length).unwrap_or(&[])
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        for byte in text.bytes() {
            if let Some(slot) = self.bytes.get_mut(self.length) {
                // One line is one line.
                *slot = if byte == b'\n' { b' ' } else { byte };
                self.length += 1;
            }
        }
        Ok(())
    }
}

/// Writes a log line, formatted as by `format!`. Never blocks and never fails: see the module
/// of the same name.
#[macro_export]
macro_rules! log {
    ($($argument:tt)*) => { $crate::log::line(core::format_args!($($argument)*)) };
}

#[cfg(test)]
mod tests {
    use super::{Line, MAX_LINE_BYTES};
    use core::fmt::Write;

    #[test]
    fn a_line_is_one_line_and_bounded() {
        let mut line = Line::new();
        write!(line, "two\nlines").unwrap();
        assert_eq!(line.finish(), b"two lines\n");
        let mut line = Line::new();
        write!(line, "{:1000}", 1).unwrap();
        let bytes = line.finish();
        assert_eq!((bytes.len(), bytes.last()), (MAX_LINE_BYTES, Some(&b'\n')));
    }
}
