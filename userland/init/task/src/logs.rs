//! The log memory of each task: its ring of lines, which init empties, and its heartbeat.

use core::sync::atomic::Ordering;

use init::journal::Lines;
use ipc::Error;
use ipc::ring::{RingError, SharedMemory, StreamConsumer};
use ipc::startup::LogMemory;
use runtime::Memory;
use runtime::mapping::{Mapping, SharedMapping};

/// Most bytes taken from a task at one turn, so that one that talks without end leaves init time for
/// the others.
const BYTES_PER_TURN: usize = 2048;

/// Init's end of a task's log memory.
#[derive(Debug)]
pub(crate) struct Log {
    memory: SharedMapping,
    ring: StreamConsumer<SharedMapping>,
    lines: Lines,
    corrupted: bool,
}

/// What a turn left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Nothing; the task signals when there is more.
    Empty,
    /// Perhaps more.
    More,
}

impl Log {
    /// Makes the log memory of the task of this name, and the end of it that init keeps.
    pub(crate) fn make(name: &str) -> Result<(Memory, Log), Error> {
        let memory = Memory::create(LogMemory::BYTES)?;
        let mapping = Mapping::shared(&memory)?;
        let mut ring = StreamConsumer::new(
            mapping.clone(),
            LogMemory::RING_OFFSET as usize,
            LogMemory::RING_BYTES,
        )
        .map_err(|_| Error::InvalidArgument)?;
        // An empty ring: the first line is to ring the bell.
        ring.sleep(1).map_err(|_| Error::InvalidArgument)?;
        let log = Log {
            memory: mapping,
            ring,
            lines: Lines::new(name),
            corrupted: false,
        };
        Ok((memory, log))
    }

    /// The heartbeat.
    pub(crate) fn heartbeat(&self) -> u32 {
        let index = LogMemory::HEARTBEAT_OFFSET as usize / 4;
        let word = self.memory.word(index);
        word.map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// Takes what the task has said, up to a turn's worth.
    pub(crate) fn turn(&mut self, take: &mut dyn FnMut(&str)) -> Turn {
        if self.corrupted {
            return Turn::Empty;
        }
        self.empty(take).unwrap_or_else(|_| {
            self.corrupted = true;
            take("init: a task corrupted its log and is not heard any more");
            Turn::Empty
        })
    }

    fn empty(&mut self, take: &mut dyn FnMut(&str)) -> Result<Turn, RingError> {
        let mut left = BYTES_PER_TURN;
        let mut bytes = [0; 256];
        self.ring.wake()?;
        while left > 0 {
            let count = self.ring.read(&mut bytes)?;
            self.lines
                .feed(bytes.get(..count).unwrap_or(&[]), &mut *take);
            if count == 0 && self.ring.sleep(1)? {
                return Ok(Turn::Empty);
            }
            left = left.saturating_sub(count.max(1));
        }
        Ok(Turn::More)
    }

    /// Takes the rest: the task is gone.
    pub(crate) fn finish(mut self, take: &mut dyn FnMut(&str)) {
        let turns = LogMemory::RING_BYTES as usize / BYTES_PER_TURN + 1;
        for _ in 0..turns {
            if self.turn(take) == Turn::Empty {
                break;
            }
        }
        self.lines.finish(take);
    }
}
