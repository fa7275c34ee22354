//! The clock page as the kernel writes it; `ipc::clock` has the reader, which the kernel uses as well.

use crate::platform::FrameWords;
use crate::sync::{Ordering, fence};
use ipc::info::ClockPage;

/// Position of the sequence.
const SEQUENCE: usize = 0;

/// Replaces the state by what `next` makes of it and of the TSC. Readers that began earlier try again, so that
/// each reading of the TSC under the old state lies before the one that `next` is given; the new state's
/// time at that TSC must not be less than the old one's. `tsc` reads the TSC after all that was done
/// before. Whether the state was changed: not if `next` gives nothing, nor if another CPU is changing it.
pub fn change(
    words: &FrameWords,
    tsc: impl FnOnce() -> u64,
    next: impl FnOnce(ClockPage, u64) -> Option<ClockPage>,
) -> bool {
    let sequence = words[SEQUENCE].load(Ordering::Relaxed);
    let odd = sequence.wrapping_add(1);
    let mine = sequence.is_multiple_of(2)
        && words[SEQUENCE]
            .compare_exchange(sequence, odd, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok();
    if !mine {
        return false;
    }
    // The odd number is seen before the words change and before the TSC is read: the compare-and-swap is
    // a full barrier, and `tsc` waits for it.
    fence(Ordering::SeqCst);
    let next = next(state(words), tsc());
    let done = next.is_some();
    if let Some(page) = next {
        let values = page.to_words();
        for (word, value) in words.iter().zip(values).skip(SEQUENCE + 1) {
            word.store(value, Ordering::Relaxed);
        }
    }
    let even = if done { odd.wrapping_add(1) } else { sequence };
    words[SEQUENCE].store(even, Ordering::Release);
    done
}

/// The state, for the one CPU that may change it.
fn state(words: &FrameWords) -> ClockPage {
    let mut values = [0; ClockPage::WORDS];
    for (value, word) in values.iter_mut().zip(words) {
        *value = word.load(Ordering::Relaxed);
    }
    ClockPage::from_words(&values)
}

#[cfg(test)]
mod tests {
    use super::{change, state};
    use crate::platform::{FRAME_WORDS, FrameWords};
    use crate::sync::{AtomicBool, AtomicU64, Ordering};
    use ipc::info::ClockPage;
    use std::thread;

    fn page() -> Box<FrameWords> {
        Box::new([const { AtomicU64::new(0) }; FRAME_WORDS])
    }

    #[test]
    fn a_change_writes_the_record_and_ends_even() {
        let words = page();
        let next = ClockPage {
            sequence: 77,
            base_tsc: 1,
            base_ns: 2,
            multiplier: 3,
            wall_offset_ns: 4,
            usable: 1,
        };
        assert!(change(
            &words,
            || 9,
            |old, tsc| {
                let empty = ClockPage {
                    sequence: 1,
                    ..ClockPage::default()
                };
                assert_eq!((old, tsc), (empty, 9));
                assert_eq!(words[0].load(Ordering::Relaxed), 1, "odd meanwhile");
                // Another CPU that wants to change it goes away.
                assert!(!change(&words, || 0, |_, _| panic!("two at once")));
                Some(next)
            }
        ));
        assert_eq!(
            state(&words),
            ClockPage {
                sequence: 2,
                ..next
            }
        );
        assert!(words[6..].iter().all(|w| w.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn nothing_to_change_leaves_the_sequence() {
        let words = page();
        assert!(!change(&words, || 0, |_, _| None));
        assert_eq!(state(&words), ClockPage::default());
    }

    /// Two threads hand the time to each other while a third makes the clock run now faster, now slower.
    #[test]
    fn no_reader_sees_time_go_back_across_changes() {
        const CHANGES: u64 = 2_000;
        let words = page();
        let (tsc, latest) = (AtomicU64::new(1_000), AtomicU64::new(0));
        let over = AtomicBool::new(false);
        let tick = || tsc.fetch_add(1, Ordering::SeqCst);
        thread::scope(|scope| {
            let reader = || {
                let mut readings = 0_u64;
                while !over.load(Ordering::SeqCst) || readings == 0 {
                    let earlier = latest.load(Ordering::SeqCst);
                    let word = |place: usize| words[place].load(Ordering::SeqCst);
                    let Some(read) = ClockPage::read(word, tick) else {
                        thread::yield_now();
                        continue;
                    };
                    assert!(read.now >= earlier, "{} after {earlier}", read.now);
                    latest.fetch_max(read.now, Ordering::SeqCst);
                    readings += 1;
                }
            };
            let readers = [scope.spawn(reader), scope.spawn(reader)];
            for round in 0..CHANGES {
                // Between a millionth of a nanosecond and 1,000 of them for each tick.
                let multiplier = if round % 2 == 0 { 1_000 << 32 } else { 4_295 };
                change(&words, tick, |old, tsc| {
                    Some(ClockPage {
                        base_tsc: tsc,
                        base_ns: old.time_at(tsc),
                        multiplier,
                        ..old
                    })
                });
                thread::yield_now();
            }
            over.store(true, Ordering::SeqCst);
            for reader in readers {
                reader.join().unwrap();
            }
        });
        assert!(latest.load(Ordering::SeqCst) > 0);
        assert_eq!(words[0].load(Ordering::SeqCst), 2 * CHANGES);
    }
}
