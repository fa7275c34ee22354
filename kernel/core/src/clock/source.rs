//! Where the TSC's rate comes from: which sources there are, in what order they are asked, and what a
//! statement that is not sure is worth.

use super::{PLAUSIBLE, Rate, parts_per_million};
use core::fmt;

/// A source of the TSC's rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// KVM's clock.
    KvmClock,
    /// CPUID leaves 0x15 and 0x16.
    Processor,
    /// The hypervisor's leaf for rates.
    Hypervisor,
    /// A measurement against the HPET.
    Hpet,
    /// A measurement against the ACPI PM timer.
    PmTimer,
    /// A measurement against channel 2 of the PIT.
    Pit,
}

impl Source {
    /// All, in the order in which they are asked.
    pub const ALL: [Source; 6] = [
        Source::KvmClock,
        Source::Processor,
        Source::Hypervisor,
        Source::Hpet,
        Source::PmTimer,
        Source::Pit,
    ];

    /// The words of the tunable `clock.source`: 0 is for choosing by itself, the others are in the
    /// order of [`Source::ALL`].
    pub const WORDS: [&'static str; 7] = [
        "auto",
        "kvmclock",
        "processor",
        "hypervisor",
        "hpet",
        "pm-timer",
        "pit",
    ];

    /// The source that a value of `clock.source` stands for, `None` for all of them in turn.
    pub fn wanted(value: u64) -> Option<Source> {
        let place = usize::try_from(value).ok()?.checked_sub(1)?;
        Source::ALL.get(place).copied()
    }

    /// Its name, for the log and for `SystemSelector::ClockSource`.
    pub const fn name(self) -> &'static str {
        match self {
            Source::KvmClock => "kvmclock",
            Source::Processor => "processor",
            Source::Hypervisor => "hypervisor",
            Source::Hpet => "HPET",
            Source::PmTimer => "PM timer",
            Source::Pit => "PIT",
        }
    }
}

/// What a source answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The rate.
    pub rate: Rate,
    /// Whether it needs no measurement beside it. Measurements themselves are sure.
    pub sure: bool,
}

/// What was noticed on the way to a rate, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// The source that was asked for is not there.
    Missing(Source),
    /// A source says what no TSC does.
    Implausible(Source, u64),
    /// A statement that was not sure and the measurement that shows it to be wrong.
    Contradicted(Source, Rate, Source, Rate),
    /// A statement that is not sure, and nothing to measure by.
    Unchecked(Source),
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Missing(source) => write!(
                out,
                "clock.source: no rate by {} on this machine; choosing by itself",
                source.name()
            ),
            Finding::Implausible(source, hz) => {
                write!(out, "{} says {hz} Hz; not believed", source.name())
            }
            Finding::Contradicted(told, rate, by, measured) => write!(
                out,
                "{} says {} kHz, {} shows {} kHz: that is taken",
                told.name(),
                rate.hz / 1_000,
                by.name(),
                measured.hz / 1_000
            ),
            Finding::Unchecked(source) => write!(
                out,
                "{} is not sure of the rate, and there is no timer to check it by",
                source.name()
            ),
        }
    }
}

/// Finds the rate: of the source that is wanted, where it is there; else of the first that is sure. A
/// statement that is not sure waits for the first measurement: where that agrees, the statement is taken with
/// the error that the measurement leaves it; else the measurement. Each source is asked once at most, but
/// that the one wanted, if it gave nothing, is asked in its turn too.
pub fn choose(
    wanted: Option<Source>,
    mut ask: impl FnMut(Source) -> Option<Answer>,
    mut report: impl FnMut(Finding),
) -> Option<(Source, Rate)> {
    let mut believed = |source, report: &mut dyn FnMut(Finding)| {
        let answer: Answer = ask(source)?;
        let plausible = PLAUSIBLE.contains(&answer.rate.hz);
        if !plausible {
            report(Finding::Implausible(source, answer.rate.hz));
        }
        plausible.then_some(answer)
    };
    if let Some(source) = wanted {
        match believed(source, &mut report) {
            Some(answer) => return Some((source, answer.rate)),
            None => report(Finding::Missing(source)),
        }
    }
    let mut doubtful = None;
    for source in Source::ALL {
        let Some(answer) = believed(source, &mut report) else {
            continue;
        };
        if answer.sure {
            return Some(compare(doubtful, (source, answer.rate), report));
        }
        doubtful = doubtful.or(Some((source, answer.rate)));
    }
    if let Some((source, _)) = doubtful {
        report(Finding::Unchecked(source));
    }
    doubtful
}

/// Of a statement and what is sure, the one to take.
fn compare(
    doubtful: Option<(Source, Rate)>,
    sure: (Source, Rate),
    mut report: impl FnMut(Finding),
) -> (Source, Rate) {
    let Some((source, told)) = doubtful else {
        return sure;
    };
    let (by, measured) = sure;
    if !told.agrees_with(&measured) {
        report(Finding::Contradicted(source, told, by, measured));
        return sure;
    }
    let difference = parts_per_million(told.hz.abs_diff(measured.hz), told.hz);
    let error_ppm = measured.error_ppm.saturating_add(difference);
    let hz = told.hz;
    (source, Rate { hz, error_ppm })
}

#[cfg(test)]
mod tests {
    use super::{Answer, Finding, Source, choose};
    use crate::clock::Rate;
    use crate::tunables::{Rule, Tunable};

    const fn rate(hz: u64, error_ppm: u64) -> Rate {
        Rate { hz, error_ppm }
    }

    const HPET: (Source, Answer) = (
        Source::Hpet,
        Answer {
            rate: rate(2_904_000_000, 50),
            sure: true,
        },
    );

    fn told(source: Source, hz: u64, sure: bool) -> (Source, Answer) {
        let rate = Rate::stated(hz, 1_000_000);
        (source, Answer { rate, sure })
    }

    /// What is chosen on a machine with these sources, which were asked, and what was found.
    fn chosen(
        wanted: Option<Source>,
        there: &[(Source, Answer)],
    ) -> (Option<(Source, Rate)>, Vec<Source>, Vec<Finding>) {
        let (mut asked, mut findings) = (Vec::new(), Vec::new());
        let ask = |source| {
            asked.push(source);
            let found = there.iter().find(|(known, _)| *known == source);
            found.map(|(_, answer)| *answer)
        };
        let choice = choose(wanted, ask, |finding| findings.push(finding));
        (choice, asked, findings)
    }

    #[test]
    fn words_and_numbers_name_the_sources() {
        let definition = Tunable::ClockSource.definition();
        assert_eq!(definition.rule, Rule::Words(&Source::WORDS));
        assert_eq!(definition.largest, Source::ALL.len() as u64);
        assert_eq!(Source::wanted(definition.default), None);
        for (value, source) in (1..).zip(Source::ALL) {
            assert_eq!(Source::wanted(value), Some(source));
            let word = source.name().to_lowercase().replace(' ', "-");
            assert_eq!(Source::WORDS[value as usize], word);
        }
        assert_eq!(Source::wanted(7), None);
        assert_eq!(Source::wanted(u64::MAX), None);
    }

    #[test]
    fn the_first_that_is_sure_ends_the_search() {
        let kvm = told(Source::KvmClock, 2_250_000_000, true);
        let (choice, asked, findings) = chosen(None, &[kvm, HPET]);
        assert_eq!(choice, Some((kvm.0, kvm.1.rate)));
        assert_eq!((asked, findings), (vec![Source::KvmClock], vec![]));
        let (choice, asked, _) = chosen(None, &[HPET]);
        assert_eq!(choice, Some((HPET.0, HPET.1.rate)));
        assert_eq!(asked, Source::ALL[..4]);
        assert_eq!(chosen(None, &[]), (None, Source::ALL.to_vec(), vec![]));
    }

    #[test]
    fn a_statement_that_is_not_sure_is_checked() {
        // 2,904,000 is within what leaf 0x16 means by 2,904.
        let right = told(Source::Processor, 2_904_000_000, false);
        let (choice, _, findings) = chosen(None, &[right, HPET]);
        assert_eq!(choice, Some((Source::Processor, rate(2_904_000_000, 50))));
        assert_eq!(findings, []);
        let near = told(Source::Processor, 2_903_500_000, false);
        let choice = chosen(None, &[near, HPET]).0;
        assert_eq!(choice, Some((Source::Processor, rate(2_903_500_000, 223))));
        let wrong = told(Source::Processor, 2_900_000_000, false);
        let (choice, _, findings) = chosen(None, &[wrong, HPET]);
        assert_eq!(choice, Some((Source::Hpet, HPET.1.rate)));
        let expected = Finding::Contradicted(wrong.0, wrong.1.rate, HPET.0, HPET.1.rate);
        assert_eq!(findings, [expected]);
        assert_eq!(
            expected.to_string(),
            "processor says 2900000 kHz, HPET shows 2904000 kHz: that is taken"
        );
    }

    #[test]
    fn a_statement_that_nothing_can_check_is_better_than_none() {
        let only = told(Source::Processor, 2_900_000_000, false);
        let (choice, asked, findings) = chosen(None, &[only]);
        assert_eq!(choice, Some((only.0, only.1.rate)));
        assert_eq!(asked, Source::ALL);
        assert_eq!(findings, [Finding::Unchecked(Source::Processor)]);
    }

    #[test]
    fn what_no_tsc_does_is_not_believed() {
        for hz in [0, 1, 9_999_999, 20_000_000_001, u64::MAX] {
            let liar = told(Source::KvmClock, hz, true);
            let (choice, _, findings) = chosen(None, &[liar, HPET]);
            assert_eq!(choice, Some((HPET.0, HPET.1.rate)), "{hz}");
            assert_eq!(findings, [Finding::Implausible(Source::KvmClock, hz)]);
        }
    }

    #[test]
    fn the_one_wanted_is_taken_where_it_is_there() {
        let kvm = told(Source::KvmClock, 2_250_000_000, true);
        let (choice, asked, _) = chosen(Some(Source::Hpet), &[kvm, HPET]);
        assert_eq!(choice, Some((HPET.0, HPET.1.rate)));
        assert_eq!(asked, [Source::Hpet]);
        let (choice, _, findings) = chosen(Some(Source::Pit), &[kvm, HPET]);
        assert_eq!(choice, Some((kvm.0, kvm.1.rate)));
        assert_eq!(findings, [Finding::Missing(Source::Pit)]);
        assert_eq!(
            findings[0].to_string(),
            "clock.source: no rate by PIT on this machine; choosing by itself"
        );
    }
}
