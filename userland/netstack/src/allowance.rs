//! How many answers to packets for nobody are sent: so many a second and no more, so that a flood of them is
//! not answered by another (RFC 4443, section 2.4; RFC 1812, section 4.3.2.8).

use crate::time::{Nanoseconds, SECOND};

/// Answers a second, and at once.
const ANSWERS: u64 = 200;

/// What may still be sent.
#[derive(Debug)]
pub(crate) struct Allowance {
    answers: u64,
    /// Until when it was counted.
    counted: Nanoseconds,
}

impl Allowance {
    /// All of a second's.
    pub(crate) fn new(now: Nanoseconds) -> Allowance {
        Allowance {
            answers: ANSWERS,
            counted: now,
        }
    }

    /// Takes one answer; false: there is none to take.
    pub(crate) fn take(&mut self, now: Nanoseconds) -> bool {
        let one = SECOND / ANSWERS;
        let more = now.saturating_sub(self.counted) / one;
        self.counted += more * one;
        self.answers = self.answers.saturating_add(more).min(ANSWERS);
        let may = self.answers > 0;
        self.answers -= u64::from(may);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_back_with_time_and_no_more_than_a_seconds_are_kept() {
        let mut allowance = Allowance::new(5);
        let taken = |allowance: &mut Allowance, now| {
            (0..1_000).filter(|_| allowance.take(now)).count() as u64
        };
        assert_eq!(taken(&mut allowance, 5), ANSWERS);
        assert_eq!(taken(&mut allowance, 5 + SECOND / 2), ANSWERS / 2);
        assert_eq!(taken(&mut allowance, 5 + 60 * SECOND), ANSWERS);
        assert_eq!(
            taken(&mut allowance, 0),
            0,
            "a clock that goes back gives nothing"
        );
    }
}
