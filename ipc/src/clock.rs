//! Reading the clock page: from one consistent state and the TSC to a time. Where the page is, and how
//! its words and the TSC are read, is the reader's affair; the kernel alone writes it.
//!
//! The scale changes while ring 3 reads, when a virtual machine moves to another computer. The page's
//! sequence is a sequence lock around the words *and* the reading of the TSC: the kernel makes it odd,
//! then reads the TSC that the new state begins at. So a TSC that was read under the old state lies before that
//! one, and no time under the new state is earlier than one under the old.

use core::sync::atomic::{Ordering, fence};

use crate::info::ClockPage;

/// Positions of the words in the page.
const SEQUENCE: usize = 0;
const BASE_TSC: usize = 1;
const BASE_NS: usize = 2;
const MULTIPLIER: usize = 3;
const WALL_OFFSET_NS: usize = 4;
const USABLE: usize = 5;

/// What one look at the page and the TSC gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The TSC that was read.
    pub tsc: u64,
    /// Monotonic time then, in nanoseconds since boot.
    pub now: u64,
    /// [`ClockPage::usable`]: whether ring 3 may believe `now`.
    pub usable: bool,
}

impl ClockPage {
    /// Monotonic time at a TSC value, in nanoseconds. Before the base, where a CPU's TSC may be by less
    /// than could be measured, the base's time. Costs a multiplication.
    #[inline(always)]
    pub const fn time_at(&self, tsc: u64) -> u64 {
        let behind = tsc.wrapping_sub(self.base_tsc);
        let ticks = if behind.cast_signed() < 0 { 0 } else { behind };
        let passed = (ticks as u128 * self.multiplier as u128) >> 32;
        self.base_ns.wrapping_add(passed as u64)
    }

    /// Monotonic time now, or `None` while the page is being written: then it is to be tried again.
    /// `word` reads a quadword of the page at a position below [`ClockPage::WORDS`], atomically; `tsc` reads the
    /// TSC after what was read before and ahead of what is read afterwards.
    #[inline(always)]
    pub fn read(word: impl Fn(usize) -> u64, tsc: impl FnOnce() -> u64) -> Option<Reading> {
        consistent(&word, || {
            let page = ClockPage {
                base_tsc: word(BASE_TSC),
                base_ns: word(BASE_NS),
                multiplier: word(MULTIPLIER),
                ..ClockPage::default()
            };
            let usable = word(USABLE) != 0;
            let tsc = tsc();
            Reading {
                tsc,
                now: page.time_at(tsc),
                usable,
            }
        })
    }

    /// Monotonic time now and wall time minus monotonic time; as [`ClockPage::read`].
    #[inline(always)]
    pub fn read_wall(
        word: impl Fn(usize) -> u64,
        tsc: impl FnOnce() -> u64,
    ) -> Option<(Reading, u64)> {
        consistent(&word, || {
            let offset = word(WALL_OFFSET_NS);
            ClockPage::read(&word, tsc).map(|reading| (reading, offset))
        })
        .flatten()
    }
}

/// What `body` gives, unless the page is written meanwhile.
#[inline(always)]
fn consistent<T>(word: &impl Fn(usize) -> u64, body: impl FnOnce() -> T) -> Option<T> {
    let sequence = word(SEQUENCE);
    fence(Ordering::Acquire);
    let result = body();
    fence(Ordering::Acquire);
    (sequence.is_multiple_of(2) && word(SEQUENCE) == sequence).then_some(result)
}

#[cfg(test)]
mod tests {
    use super::{BASE_NS, BASE_TSC, MULTIPLIER, Reading, SEQUENCE, USABLE, WALL_OFFSET_NS};
    use crate::info::ClockPage;
    use std::cell::Cell;

    #[test]
    fn positions_are_those_of_the_record() {
        for (position, name) in [
            (SEQUENCE, "sequence"),
            (BASE_TSC, "base_tsc"),
            (BASE_NS, "base_ns"),
            (MULTIPLIER, "multiplier"),
            (WALL_OFFSET_NS, "wall_offset_ns"),
            (USABLE, "usable"),
        ] {
            assert_eq!(ClockPage::FIELDS[position], name);
        }
    }

    #[test]
    fn ticks_are_scaled_without_overflow_and_never_run_backwards_past_the_base() {
        let page = ClockPage {
            base_tsc: 1_000,
            base_ns: 5_000,
            multiplier: 1 << 31,
            ..ClockPage::default()
        };
        assert_eq!(page.time_at(3_000), 6_000);
        assert_eq!(page.time_at(0), 5_000);
        let year = 3_000_000_000 * 86_400 * 365;
        assert_eq!(page.time_at(1_000 + year), 5_000 + year / 2);
    }

    fn words(sequence: u64) -> [u64; ClockPage::WORDS] {
        ClockPage {
            sequence,
            base_tsc: 100,
            base_ns: 7,
            multiplier: 1 << 32,
            wall_offset_ns: 50,
            usable: 1,
        }
        .to_words()
    }

    #[test]
    fn a_consistent_state_gives_the_time() {
        let words = words(4);
        let reading = Reading {
            tsc: 130,
            now: 37,
            usable: true,
        };
        assert_eq!(ClockPage::read(|place| words[place], || 130), Some(reading));
        let wall = ClockPage::read_wall(|place| words[place], || 130);
        assert_eq!(wall, Some((reading, 50)));
    }

    #[test]
    fn a_state_that_is_being_written_is_no_time() {
        let words = words(5);
        assert_eq!(ClockPage::read(|place| words[place], || 130), None);
        assert_eq!(ClockPage::read_wall(|place| words[place], || 130), None);
    }

    /// Wherever between two accesses the kernel writes a new state, the reader notices.
    #[test]
    fn a_change_anywhere_in_a_reading_is_noticed() {
        for change in 1..=6 {
            let accesses = Cell::new(0);
            let access = || {
                accesses.set(accesses.get() + 1);
                accesses.get() > change
            };
            let word = |place| words(if access() { 6 } else { 4 })[place];
            let tsc = || {
                access();
                130
            };
            let read = ClockPage::read(word, tsc);
            // Sequence, three words, usable, TSC, sequence: the seventh access is the last.
            assert_eq!(read, None, "a change after access {change}");
            assert_eq!(accesses.get(), 7);
        }
    }
}
