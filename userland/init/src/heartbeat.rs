//! Watches the heartbeat of a task that asked for it: a word that the task increments.

use core::time::Duration;

/// Periods without a change after which a task counts as silent.
pub const PERIODS: u32 = 2;

/// One task under watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    period: Duration,
    last: u32,
    /// When the task is silent if the word does not change before.
    due: Duration,
}

impl Watch {
    /// Begins to watch at `now`, when the word holds `word`.
    pub fn new(period: Duration, word: u32, now: Duration) -> Self {
        Self {
            period,
            last: word,
            due: now + period * PERIODS,
        }
    }

    /// When to look next.
    pub const fn due(&self) -> Duration {
        self.due
    }

    /// Looks at the word, if it is time. True if the task is silent.
    pub fn is_silent(&mut self, word: u32, now: Duration) -> bool {
        if now < self.due {
            return false;
        }
        let silent = word == self.last;
        self.last = word;
        self.due = now + self.period * PERIODS;
        silent
    }
}

#[cfg(test)]
mod tests {
    use super::Watch;
    use core::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_beating_task_is_left_alone_and_a_silent_one_found_after_two_periods() {
        let mut watch = Watch::new(SECOND, 7, SECOND);
        assert_eq!(watch.due(), 3 * SECOND);
        assert!(!watch.is_silent(7, 2 * SECOND), "not yet time to tell");
        assert!(!watch.is_silent(8, 3 * SECOND));
        assert_eq!(watch.due(), 5 * SECOND);
        assert!(watch.is_silent(8, 5 * SECOND));
    }

    #[test]
    fn the_word_may_wrap() {
        let mut watch = Watch::new(SECOND, u32::MAX, SECOND);
        assert!(!watch.is_silent(0, 3 * SECOND));
    }
}
