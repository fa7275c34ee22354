//! A CPU's trace: a ring of the latest events, written by that CPU without a lock and read by any.
//!
//! A record is four words: its number since boot (bits 63 to 8) and [`Kind`] (bits 7 to 0), the time
//! in nanoseconds since boot, and two words that depend on the kind. The first word is 0 while the
//! record is being written, so that a reader never takes half of one; what was overwritten before it
//! was read is counted.
//!
//! What this leaves to others: the memory of the rings, the clock, and deciding what to record.

use crate::sync::{AtomicU64, Lock, Ordering, Rank, fence};

/// Words in a record.
pub const RECORD_WORDS: usize = 4;

/// A record as it is read: header, time, and the two words of its kind.
pub type Record = [u64; RECORD_WORDS];

/// What happened. Threads and tasks are given by their numbers since boot, 0 for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The CPU switched threads. Words: the thread that runs now, 0 for idle; the one before.
    Switch = 1,
    /// A thread became ready. Words: thread; CPU whose queue it went to.
    Wake = 2,
    /// A system call began. Words: operation; thread.
    SystemCall = 3,
    /// A call was delivered. Words: caller; server's thread.
    Call = 4,
    /// A call was answered. Words: server's thread; caller.
    Reply = 5,
    /// A notification was signalled. Words: bits; thread that it woke.
    Signal = 6,
    /// A device interrupt arrived. Words: vector; bits that it signals.
    Interrupt = 7,
    /// A deadline expired. Words: deadline; thread.
    Timer = 8,
    /// The CPU interrupted another one. Words: that CPU; 0.
    Kick = 9,
    /// The CPU took a thread from another one's queue. Words: thread; the other CPU.
    Steal = 10,
    /// A thread faulted. Words: thread; vector in bits 63 to 56, instruction pointer below.
    Fault = 11,
    /// Other CPUs were asked to flush their TLBs. Words: task; number of CPUs.
    Shootdown = 12,
    /// A task was killed. Words: task; the one whose thread asked.
    Kill = 13,
    /// A step of reclaiming. Words: task or 0; frames freed.
    Reclaim = 14,
}

/// What [`TraceRing::read`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Records handed out.
    pub records: usize,
    /// Records lost since the previous read: overwritten before they were read.
    pub lost: u64,
}

/// The trace of one CPU.
///
/// Invariant: record n lies in slot n modulo the number of slots, if its header says n; the header
/// is 0 from before its other words change until after.
#[derive(Debug)]
pub struct TraceRing {
    words: &'static [AtomicU64],
    /// Records written since boot; changed by the own CPU only.
    written: AtomicU64,
    /// Number of the record that is read next.
    next: Lock<u64>,
}

impl TraceRing {
    /// A ring over zeroed memory: four words for each of a power of two of records. Without memory
    /// nothing is recorded.
    ///
    /// # Panics
    /// If the number of words is neither 0 nor four times a power of two.
    pub const fn new(words: &'static [AtomicU64]) -> TraceRing {
        let records = words.len() / RECORD_WORDS;
        let whole = records.is_power_of_two() && words.len().is_multiple_of(RECORD_WORDS);
        assert!(
            words.is_empty() || whole,
            "a trace ring has a power of two of records"
        );
        TraceRing {
            words,
            written: AtomicU64::new(0),
            next: Lock::new(Rank::Trace, 0),
        }
    }

    /// Whether it has memory to record in.
    #[inline]
    pub fn is_enabled(&self) -> bool {
        !self.words.is_empty()
    }

    /// Records an event of this CPU at `now` (nanoseconds since boot): six plain stores. Called by
    /// the ring's own CPU only.
    #[inline]
    pub fn record(&self, now: u64, kind: Kind, first: u64, second: u64) {
        let number = self.written.load(Ordering::Relaxed);
        let Some([header, time, one, two]) = self.slot(number) else {
            return;
        };
        header.store(0, Ordering::Relaxed);
        // A reader that sees one of the stores below sees the one above (pairs with `take`).
        fence(Ordering::Release);
        time.store(now, Ordering::Relaxed);
        one.store(first, Ordering::Relaxed);
        two.store(second, Ordering::Relaxed);
        header.store(number << 8 | kind as u64, Ordering::Release);
        self.written.store(number + 1, Ordering::Release);
    }

    /// Hands the oldest records that were not read yet to `sink`, `limit` at most, in order. Looks
    /// at no more than `limit` records, so that the CPU that writes them cannot hold the reader up.
    pub fn read(&self, limit: usize, sink: &mut dyn FnMut(&Record)) -> Taken {
        let mut taken = Taken {
            records: 0,
            lost: 0,
        };
        let mut next = self.next.lock();
        for _ in 0..limit {
            let written = self.written.load(Ordering::Acquire);
            if *next >= written {
                break;
            }
            let oldest = written.saturating_sub(self.slots());
            taken.lost += oldest.saturating_sub(*next);
            *next = oldest.max(*next);
            match self.take(*next) {
                Some(record) => {
                    sink(&record);
                    taken.records += 1;
                }
                None => taken.lost += 1,
            }
            *next += 1;
        }
        taken
    }

    fn slots(&self) -> u64 {
        (self.words.len() / RECORD_WORDS) as u64
    }

    /// The slot of a record; `None` if there is no memory.
    #[inline]
    fn slot(&self, number: u64) -> Option<&[AtomicU64; RECORD_WORDS]> {
        let (slots, _) = self.words.as_chunks();
        slots.get(number as usize & slots.len().wrapping_sub(1))
    }

    /// Record `number`, unless it was overwritten or is being overwritten.
    fn take(&self, number: u64) -> Option<Record> {
        let [header, time, one, two] = self.slot(number)?;
        let before = header.load(Ordering::Acquire);
        let rest = [time, one, two].map(|word| word.load(Ordering::Relaxed));
        // If one of these loads saw a later record, the next load sees that the header has changed.
        fence(Ordering::Acquire);
        let after = header.load(Ordering::Relaxed);
        let whole = before == after && before != 0 && before >> 8 == number;
        whole.then_some([before, rest[0], rest[1], rest[2]])
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, Record, Taken, TraceRing};
    use crate::sync::AtomicU64;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn ring(records: usize) -> &'static TraceRing {
        let words: Vec<AtomicU64> = (0..records * 4).map(|_| AtomicU64::new(0)).collect();
        Box::leak(Box::new(TraceRing::new(words.leak())))
    }

    fn read(ring: &TraceRing, limit: usize) -> (Vec<Record>, Taken) {
        let mut records = Vec::new();
        let taken = ring.read(limit, &mut |record| records.push(*record));
        assert_eq!(records.len(), taken.records);
        (records, taken)
    }

    #[test]
    fn records_come_out_as_they_went_in() {
        let ring = ring(8);
        assert_eq!(
            read(ring, 10),
            (
                vec![],
                Taken {
                    records: 0,
                    lost: 0
                }
            )
        );
        ring.record(1000, Kind::Switch, 5, 6);
        ring.record(1001, Kind::Reclaim, 7, u64::MAX);
        assert_eq!(read(ring, 1).0, [[1, 1000, 5, 6]]);
        assert_eq!(read(ring, 10).0, [[1 << 8 | 14, 1001, 7, u64::MAX]]);
        assert_eq!(
            read(ring, 10).1,
            Taken {
                records: 0,
                lost: 0
            }
        );
    }

    #[test]
    fn overwritten_records_are_counted() {
        let ring = ring(8);
        for number in 0..21 {
            ring.record(number, Kind::Wake, number, 0);
        }
        let (records, taken) = read(ring, 5);
        assert_eq!(
            taken,
            Taken {
                records: 5,
                lost: 13
            }
        );
        assert_eq!(records[0], [13 << 8 | 2, 13, 13, 0]);
        let (records, taken) = read(ring, 5);
        assert_eq!(
            taken,
            Taken {
                records: 3,
                lost: 0
            }
        );
        assert_eq!(records[2][1], 20);
    }

    #[test]
    fn a_record_that_is_being_written_is_not_taken() {
        let ring = ring(2);
        ring.record(0, Kind::Kick, 1, 0);
        ring.record(1, Kind::Kick, 1, 0);
        // Record 2 has been begun over record 0.
        ring.words[0].store(0, Ordering::SeqCst);
        let (records, taken) = read(ring, 5);
        assert_eq!((records.len(), taken.lost), (1, 1));
        assert_eq!(records[0][1], 1);
        // And record 2 is not record 0, when the reader comes late to the slot.
        ring.record(2, Kind::Kick, 1, 0);
        assert_eq!(ring.take(0), None);
        assert!(ring.take(2).is_some());
    }

    #[test]
    fn without_memory_nothing_is_recorded() {
        let ring = TraceRing::new(&[]);
        ring.record(1, Kind::Kill, 2, 3);
        assert_eq!(
            read(&ring, 10).1,
            Taken {
                records: 0,
                lost: 0
            }
        );
    }

    #[test]
    #[should_panic(expected = "power of two")]
    fn a_ring_of_odd_size_is_refused() {
        ring(3);
    }

    #[test]
    fn a_reader_beside_the_writer_sees_whole_records() {
        const ENOUGH: u64 = 10_000;
        let ring = ring(16);
        let enough = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut number = 0;
                while !enough.load(Ordering::SeqCst) {
                    // More than the ring holds, then a chance for the reader.
                    for _ in 0..64 {
                        ring.record(number, Kind::Timer, number ^ 0x5555, !number);
                        number += 1;
                    }
                    std::thread::yield_now();
                }
                number
            });
            let (mut next, mut lost, mut whole) = (0, 0, 0);
            let mut read_some = || {
                let (records, taken) = read(ring, 5);
                lost += taken.lost;
                whole += taken.records as u64;
                for [header, time, one, two] in records {
                    let number = header >> 8;
                    assert!(number >= next, "records come in order, once");
                    next = number + 1;
                    assert_eq!((time, one, two), (number, number ^ 0x5555, !number), "torn");
                }
                (whole, lost)
            };
            // Until it has met both; a failed assertion must not leave the writer running.
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                loop {
                    let (whole, lost) = read_some();
                    if whole >= ENOUGH && lost >= ENOUGH {
                        break;
                    }
                }
            }));
            enough.store(true, Ordering::SeqCst);
            let written = writer.join().unwrap();
            outcome.unwrap();
            while ring.written.load(Ordering::SeqCst) > *ring.next.lock() {
                read_some();
            }
            let (whole, lost) = read_some();
            assert_eq!(whole + lost, written, "every record is read or counted");
        });
    }
}
