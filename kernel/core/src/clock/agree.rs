//! Whether two CPUs' TSCs agree, so far that a value that is handed from one to the other never lies
//! ahead of the other's TSC. Asking the other CPU is the mechanism's.

/// One question: the asking CPU's TSC before it asked, the other one's when it answered, the asking one's
/// when it had the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Before the question.
    pub before: u64,
    /// The answer.
    pub answer: u64,
    /// After it.
    pub after: u64,
}

/// How another CPU's TSC relates to the asking one's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// In no round did time seem to go backwards, on the way there or back.
    Agree,
    /// It differs: adding this many ticks (which wrap) makes it agree in every round.
    Differ(u64),
    /// No number of ticks does: the difference changes. This one comes nearest.
    Unsteady(u64),
}

impl Agreement {
    /// What to add to the other CPU's TSC.
    pub const fn offset(self) -> u64 {
        match self {
            Agreement::Agree => 0,
            Agreement::Differ(offset) | Agreement::Unsteady(offset) => offset,
        }
    }
}

/// Compares. Each round says that what is to be added to the answer lies between `before - answer` and
/// `after - answer`; together they say more than any of them.
pub fn compare(rounds: impl IntoIterator<Item = Round>) -> Agreement {
    let mut rounds = rounds.into_iter().peekable();
    // Differences are taken relative to the first: a TSC may be anything, but within the rounds it moves
    // little.
    let Some(first) = rounds.peek() else {
        return Agreement::Agree;
    };
    let origin = first.before.wrapping_sub(first.answer);
    let relative =
        |tsc: u64, answer: u64| tsc.wrapping_sub(answer).wrapping_sub(origin).cast_signed();
    let (mut low, mut high) = (i64::MIN, i64::MAX);
    for round in rounds {
        low = low.max(relative(round.before, round.answer));
        high = high.min(relative(round.after, round.answer));
    }
    let none = 0_u64.wrapping_sub(origin).cast_signed();
    let middle = origin.wrapping_add(low.midpoint(high).cast_unsigned());
    if low > high {
        Agreement::Unsteady(middle)
    } else if (low..=high).contains(&none) {
        Agreement::Agree
    } else {
        Agreement::Differ(middle)
    }
}

#[cfg(test)]
mod tests {
    use super::{Agreement, Round, compare};

    /// Rounds with a CPU whose TSC is `skew` ahead, by the times that the ways there and back take.
    fn rounds(skew: u64, ways: &[(u64, u64)]) -> Vec<Round> {
        let mut now = 1_000_u64;
        let ask = |(there, back): &(u64, u64)| {
            let before = now;
            now += there;
            let answer = now.wrapping_add(skew);
            now += back;
            let after = now;
            now += 100;
            Round {
                before,
                answer,
                after,
            }
        };
        ways.iter().map(ask).collect()
    }

    const WAYS: [(u64, u64); 4] = [(200, 300), (90, 40), (50, 5_000), (4_000, 60)];

    #[test]
    fn equal_tscs_agree_however_long_the_ways_are() {
        assert_eq!(compare(rounds(0, &WAYS)), Agreement::Agree);
        assert_eq!(compare(rounds(0, &[(0, 0)])), Agreement::Agree);
        assert_eq!(compare([]), Agreement::Agree);
    }

    #[test]
    fn a_difference_that_no_round_can_show_is_none() {
        // The shortest way there is 50 ticks, the shortest back 40: what is handed over takes as long.
        assert_eq!(compare(rounds(40, &WAYS)), Agreement::Agree);
        let behind = 50_u64.wrapping_neg();
        assert_eq!(compare(rounds(behind, &WAYS)), Agreement::Agree);
    }

    #[test]
    fn a_difference_is_found_as_well_as_the_rounds_tell() {
        for skew in [41, 1_000, 51_u64.wrapping_neg(), 1 << 63, u64::MAX / 2] {
            let Agreement::Differ(offset) = compare(rounds(skew, &WAYS)) else {
                panic!("{skew} is not noticed");
            };
            let wrong = offset.wrapping_add(skew).cast_signed();
            assert!((-50..=40).contains(&wrong), "{skew}: off by {wrong}");
            // With the offset they agree.
            let mended = rounds(skew, &WAYS).into_iter().map(|round| Round {
                answer: round.answer.wrapping_add(offset),
                ..round
            });
            assert_eq!(compare(mended), Agreement::Agree);
        }
    }

    #[test]
    fn a_difference_that_changes_is_unsteady() {
        let mut all = rounds(0, &WAYS);
        all.extend(rounds(10_000, &WAYS));
        assert!(matches!(compare(all), Agreement::Unsteady(_)));
        assert_eq!(Agreement::Unsteady(7).offset(), 7);
        assert_eq!(Agreement::Agree.offset(), 0);
    }

    #[test]
    fn wild_answers_do_no_harm() {
        let wild = [0, 1, u64::MAX, 1 << 63, (1 << 63) - 1];
        for before in wild {
            for answer in wild {
                for after in wild {
                    let round = Round {
                        before,
                        answer,
                        after,
                    };
                    compare([round]);
                    compare([round, Round { answer: 5, ..round }]);
                }
            }
        }
    }
}
