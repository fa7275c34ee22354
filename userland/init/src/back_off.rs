//! How long a task that died waits for its next life, and when it gets none.

use core::time::Duration;

/// The delay of the second restart in a row; the first is immediate. Each further one doubles it.
pub const FIRST_DELAY: Duration = Duration::from_millis(100);
/// The longest delay.
pub const LONGEST_DELAY: Duration = Duration::from_secs(2);
/// A task that lived this long starts counting anew.
pub const QUIET: Duration = Duration::from_secs(20);
/// Failures in a row after which a task is given up. Deaths on request are no failures.
pub const MOST_FAILURES: u32 = 10;

/// What is to be done about a death.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Start the task again after this delay.
    Restart(Duration),
    /// It failed too often in a row.
    GiveUp,
}

/// Whether the task died of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It faulted, ended, fell silent or could not be started.
    Failure,
    /// It was killed on request.
    Request,
    /// It was killed because a task that it depends on died; that one has the delay.
    Companion,
}

/// The deaths of one task in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackOff {
    deaths: u32,
    failures: u32,
}

impl BackOff {
    /// Decides about a death after a life of this length.
    pub fn died(&mut self, lived: Duration, kind: Kind) -> Verdict {
        if lived >= QUIET {
            *self = Self::default();
        }
        if kind == Kind::Companion {
            return Verdict::Restart(Duration::ZERO);
        }
        if kind == Kind::Failure {
            self.failures = self.failures.saturating_add(1);
            if self.failures > MOST_FAILURES {
                return Verdict::GiveUp;
            }
        }
        let delay = match self.deaths {
            0 => Duration::ZERO,
            earlier => FIRST_DELAY
                .saturating_mul(1 << (earlier - 1).min(16))
                .min(LONGEST_DELAY),
        };
        self.deaths = self.deaths.saturating_add(1);
        Verdict::Restart(delay)
    }
}

#[cfg(test)]
mod tests {
    use super::{BackOff, Kind, LONGEST_DELAY, MOST_FAILURES, QUIET, Verdict};
    use core::time::Duration;

    fn milliseconds(verdict: Verdict) -> u128 {
        match verdict {
            Verdict::Restart(delay) => delay.as_millis(),
            Verdict::GiveUp => panic!("given up"),
        }
    }

    #[test]
    fn the_first_restart_is_immediate_and_the_delay_doubles_to_the_cap() {
        let mut back_off = BackOff::default();
        let delays: Vec<u128> = (0..8)
            .map(|_| milliseconds(back_off.died(Duration::ZERO, Kind::Request)))
            .collect();
        let cap = LONGEST_DELAY.as_millis();
        assert_eq!(delays, [0, 100, 200, 400, 800, 1600, cap, cap]);
    }

    #[test]
    fn a_quiet_time_forgives() {
        let mut back_off = BackOff::default();
        for _ in 0..5 {
            back_off.died(Duration::ZERO, Kind::Failure);
        }
        assert_eq!(milliseconds(back_off.died(QUIET, Kind::Failure)), 0);
        assert_eq!(
            milliseconds(back_off.died(Duration::ZERO, Kind::Failure)),
            100
        );
    }

    #[test]
    fn too_many_failures_in_a_row_end_it() {
        let mut back_off = BackOff::default();
        for _ in 0..MOST_FAILURES {
            assert_ne!(
                back_off.died(Duration::ZERO, Kind::Failure),
                Verdict::GiveUp
            );
        }
        assert_eq!(
            back_off.died(Duration::ZERO, Kind::Failure),
            Verdict::GiveUp
        );
    }

    #[test]
    fn deaths_on_request_are_never_too_many() {
        let mut back_off = BackOff::default();
        for _ in 0..10_000 {
            assert_ne!(
                back_off.died(Duration::ZERO, Kind::Request),
                Verdict::GiveUp
            );
        }
    }

    #[test]
    fn a_companion_waits_for_nothing_and_is_not_charged() {
        let mut back_off = BackOff::default();
        for _ in 0..3 {
            assert_eq!(
                milliseconds(back_off.died(Duration::ZERO, Kind::Companion)),
                0
            );
        }
        assert_eq!(
            milliseconds(back_off.died(Duration::ZERO, Kind::Failure)),
            0
        );
    }
}
