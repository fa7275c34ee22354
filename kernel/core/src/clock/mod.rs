//! Time as arithmetic: how fast the TSC runs and how sure that is, what the hypervisor and the real-time
//! clock say, whether the CPUs' TSCs agree, and the page from which everybody reads the time. Reading
//! registers, ports and the TSC is the mechanism's; it hands in what it read, all of which is looked at as
//! what a liar could have written.

pub mod agree;
pub mod calendar;
pub mod kvmclock;
pub mod measure;
pub mod page;
pub mod source;
pub mod told;

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;
/// Slowest and fastest TSC that is believed, in Hz. The slow end is an emulator's.
pub const PLAUSIBLE: core::ops::RangeInclusive<u64> = 10_000_000..=20_000_000_000;
/// Parts in a million.
const MILLION: u64 = 1_000_000;

/// A rate, and by how much it may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Ticks per second.
    pub hz: u64,
    /// The error is at most so many millionths of it.
    pub error_ppm: u64,
}

impl Rate {
    /// A rate that is stated in steps of `unit` Hz, and so may be wrong by one of them.
    pub fn stated(hz: u64, unit: u64) -> Rate {
        Rate {
            hz,
            error_ppm: parts_per_million(unit, hz),
        }
    }

    /// The lowest and the highest rate that it may be.
    fn bounds(&self) -> (u64, u64) {
        let error = u128::from(self.hz) * u128::from(self.error_ppm) / u128::from(MILLION);
        let error = u64::try_from(error).unwrap_or(u64::MAX);
        (self.hz.saturating_sub(error), self.hz.saturating_add(error))
    }

    /// Whether both may be right.
    pub fn agrees_with(&self, other: &Rate) -> bool {
        let (low, high) = self.bounds();
        let (other_low, other_high) = other.bounds();
        low <= other_high && other_low <= high
    }

    /// Nanoseconds per tick, times 2^32. The rate is above 0.
    pub fn nanoseconds_per_tick(&self) -> u64 {
        ((u128::from(SECOND) << 32) / u128::from(self.hz)) as u64
    }
}

/// `part` in millionths of `whole`, rounded up; all ones if `whole` is 0.
fn parts_per_million(part: u64, whole: u64) -> u64 {
    let scaled = u128::from(part) * u128::from(MILLION);
    if whole == 0 {
        return u64::MAX;
    }
    u64::try_from(scaled.div_ceil(u128::from(whole))).unwrap_or(u64::MAX)
}

/// Ticks per nanosecond, times 2^32, of nanoseconds per tick, times 2^32; 0 of 0.
pub fn inverse(scale: u64) -> u64 {
    let inverse = (1u128 << 64).checked_div(u128::from(scale)).unwrap_or(0);
    u64::try_from(inverse).unwrap_or(u64::MAX)
}

/// `value` * `scale` / 2^32, the lower 64 bits.
#[inline(always)]
pub fn scaled(value: u64, scale: u64) -> u64 {
    ((u128::from(value) * u128::from(scale)) >> 32) as u64
}

#[cfg(test)]
mod tests {
    use super::{Rate, inverse, parts_per_million, scaled};

    #[test]
    fn errors_are_rounded_up() {
        assert_eq!(parts_per_million(1, 1_000_000), 1);
        assert_eq!(parts_per_million(1, 3_000_000_000), 1);
        assert_eq!(parts_per_million(1_000_001, 1_000_000_000), 1_001);
        assert_eq!(parts_per_million(0, 5), 0);
        assert_eq!(parts_per_million(u64::MAX, 1), u64::MAX);
        assert_eq!(parts_per_million(1, 0), u64::MAX);
        assert_eq!(Rate::stated(2_900_000_000, 1_000_000).error_ppm, 345);
    }

    #[test]
    fn rates_agree_where_their_errors_overlap() {
        let rate = |hz, error_ppm| Rate { hz, error_ppm };
        let measured = rate(1_000_000_000, 100);
        assert!(measured.agrees_with(&rate(1_000_100_000, 0)));
        assert!(!measured.agrees_with(&rate(1_000_100_001, 0)));
        assert!(rate(999_850_000, 60).agrees_with(&measured));
        assert!(!rate(999_850_000, 10).agrees_with(&measured));
        assert!(rate(1, u64::MAX).agrees_with(&measured));
    }

    #[test]
    fn scales_turn_ticks_into_nanoseconds_and_back() {
        for hz in [
            100_000_000,
            1_000_000_000,
            2_250_000_000,
            3_000_000_000,
            20_000_000_000,
        ] {
            let scale = Rate { hz, error_ppm: 0 }.nanoseconds_per_tick();
            let day = scaled(hz * 86_400, scale);
            let right = 86_400_000_000_000;
            assert!(right - day <= right / 100_000_000, "{hz}: {day}");
            let ticks = scaled(right, inverse(scale));
            assert!(
                ticks.abs_diff(hz * 86_400) <= hz * 86_400 / 100_000_000,
                "{hz}"
            );
        }
        assert_eq!(inverse(0), 0);
        assert_eq!(inverse(1), u64::MAX);
    }
}
