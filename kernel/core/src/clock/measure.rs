//! Measuring the TSC's rate against a counter of known rate, and how wrong the result may be. Reading the
//! two is the mechanism's. A counter may stand still, wrap, jump or be read slowly: each of these either ends
//! in `None` or widens the bound.

use super::{PLAUSIBLE, Rate, parts_per_million};

/// The measurement takes this fraction of a second, in two halves that must agree: a counter that
/// wraps unseen, or jumps, spoils one of them.
const FRACTION: u64 = 40;
const ATTEMPTS: usize = 3;
/// Changes of the counter that are watched at each of the three moments; the one that is known best counts.
const CHANGES: usize = 8;
/// Readings without a change after which the counter counts as standing still: the slowest counter, the
/// PIT, goes on after 838 ns, and a reading takes nanoseconds.
const STILL: u64 = 100_000;
/// Most readings in half a measurement: three nanoseconds for each.
const READINGS: u64 = 4_000_000;
/// Added to the bound, in millionths: the rates of timers are stated in whole hertz.
const NOMINAL_PPM: u64 = 1;

/// A counter that goes up at a known rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Its rate in Hz as a fraction, `numerator / denominator`.
    pub numerator: u64,
    /// Not 0.
    pub denominator: u64,
    /// The bits that it has, from the lowest on.
    pub mask: u64,
}

impl Unit {
    /// Ticks in half a measurement.
    fn half(&self) -> u64 {
        self.numerator / self.denominator / FRACTION / 2
    }

    /// Ticks from one value to a later one.
    fn between(&self, from: u64, to: u64) -> u64 {
        to.wrapping_sub(from) & self.mask
    }
}

/// The counter came to `value` after the TSC was `earliest` and before it was `latest`.
#[derive(Clone, Copy, Debug)]
struct Moment {
    earliest: u64,
    latest: u64,
    value: u64,
}

/// The lowest and the highest rate of the TSC, in Hz.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    low: u64,
    high: u64,
}

impl Bounds {
    /// What two moments say. The counter is read in whole ticks, so that the number of them between the
    /// moments may be off by one.
    fn of(unit: Unit, from: Moment, to: Moment) -> Option<Bounds> {
        let ticks = unit.between(from.value, to.value);
        let shortest = to.earliest.checked_sub(from.latest)?;
        let longest = to.latest.checked_sub(from.earliest)?;
        let hz = |tsc: u64, ticks: u64| {
            let scaled = u128::from(tsc).checked_mul(u128::from(unit.numerator))?;
            let divisor = u128::from(ticks) * u128::from(unit.denominator);
            u64::try_from(scaled.checked_div(divisor)?).ok()
        };
        Some(Bounds {
            low: hz(shortest, ticks.checked_add(1)?)?,
            high: hz(longest, ticks.checked_sub(1)?)?.checked_add(1)?,
        })
    }

    fn overlap(&self, other: &Bounds) -> bool {
        self.low <= other.high && other.low <= self.high
    }

    fn rate(&self) -> Rate {
        let hz = self.low.midpoint(self.high);
        let error = parts_per_million(self.high - hz, hz);
        Rate {
            hz,
            error_ppm: error.saturating_add(NOMINAL_PPM),
        }
    }
}

/// Measures. `counter` and `tsc` read the two, in the order in which they are called. `None` if the counter
/// does not count as it should. Reads the counter some 31 million times at most.
pub fn measure(
    unit: Unit,
    mut counter: impl FnMut() -> u64,
    mut tsc: impl FnMut() -> u64,
) -> Option<Rate> {
    let mut instruments = Instruments {
        unit,
        counter: &mut counter,
        tsc: &mut tsc,
    };
    (0..ATTEMPTS).find_map(|_| instruments.attempt())
}

struct Instruments<'a> {
    unit: Unit,
    counter: &'a mut dyn FnMut() -> u64,
    tsc: &'a mut dyn FnMut() -> u64,
}

impl Instruments<'_> {
    fn attempt(&mut self) -> Option<Rate> {
        let start = self.moment()?;
        self.wait(start.value)?;
        let middle = self.moment()?;
        self.wait(middle.value)?;
        let end = self.moment()?;
        let first = Bounds::of(self.unit, start, middle)?;
        let second = Bounds::of(self.unit, middle, end)?;
        let whole = Bounds::of(self.unit, start, end)?;
        let rate = whole.rate();
        (first.overlap(&second) && PLAUSIBLE.contains(&rate.hz)).then_some(rate)
    }

    fn read(&mut self) -> u64 {
        (self.counter)() & self.unit.mask
    }

    /// A change of the counter: of some, the one whose moment is known best.
    fn moment(&mut self) -> Option<Moment> {
        let mut best: Option<Moment> = None;
        for _ in 0..CHANGES {
            let next = self.change()?;
            let width = |moment: &Moment| moment.latest.saturating_sub(moment.earliest);
            if best.is_none_or(|best| width(&next) < width(&best)) {
                best = Some(next);
            }
        }
        best
    }

    /// The next change of the counter.
    fn change(&mut self) -> Option<Moment> {
        let mut earliest = (self.tsc)();
        let old = self.read();
        for _ in 0..STILL {
            let before = (self.tsc)();
            let value = self.read();
            if value != old {
                let latest = (self.tsc)();
                return Some(Moment {
                    earliest,
                    latest,
                    value,
                });
            }
            earliest = before;
        }
        None
    }

    /// Waits for half a measurement.
    fn wait(&mut self, start: u64) -> Option<()> {
        let (mut last, mut still) = (start, 0);
        for _ in 0..READINGS {
            let value = self.read();
            if self.unit.between(start, value) >= self.unit.half() {
                return Some(());
            }
            still = if value == last { still + 1 } else { 0 };
            if still >= STILL {
                return None;
            }
            last = value;
            core::hint::spin_loop();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::{Unit, measure};
    use crate::clock::Rate;
    use std::cell::Cell;

    const PIT: Unit = Unit {
        numerator: 1_193_182,
        denominator: 1,
        mask: 0xffff,
    };
    const PM_TIMER: Unit = Unit {
        numerator: 3_579_545,
        denominator: 1,
        mask: 0xff_ffff,
    };
    /// 69,841,279 femtoseconds for each tick.
    const HPET: Unit = Unit {
        numerator: 1_000_000_000_000_000,
        denominator: 69_841_279,
        mask: u64::MAX,
    };

    /// A machine: picoseconds since it began, which pass when something is read.
    struct World {
        now: Cell<u64>,
        hz: u64,
        unit: Unit,
        /// How long it takes to read the counter, before and after it is looked at.
        slow: (u64, u64),
        start: u64,
    }

    impl World {
        fn new(hz: u64, unit: Unit) -> World {
            World {
                now: Cell::new(123_456_789),
                hz,
                unit,
                slow: (400_000, 300_000),
                start: 0xfff0,
            }
        }

        fn pass(&self, picoseconds: u64) {
            self.now.set(self.now.get() + picoseconds);
        }

        fn ticks(&self, numerator: u64, denominator: u64) -> u64 {
            let scaled = u128::from(self.now.get()) * u128::from(numerator);
            (scaled / (1_000_000_000_000 * u128::from(denominator))) as u64
        }

        fn tsc(&self) -> u64 {
            self.pass(10_000);
            self.ticks(self.hz, 1)
        }

        fn counter(&self) -> u64 {
            self.pass(self.slow.0);
            let value = self.ticks(self.unit.numerator, self.unit.denominator);
            self.pass(self.slow.1);
            value.wrapping_add(self.start)
        }

        fn measure(&self) -> Option<Rate> {
            measure(self.unit, || self.counter(), || self.tsc())
        }
    }

    fn assert_right(rate: Option<Rate>, hz: u64, at_most_ppm: u64) {
        let rate = rate.expect("a measurement");
        let wrong = rate.hz.abs_diff(hz) as f64 / hz as f64 * 1e6;
        assert!(
            wrong <= rate.error_ppm as f64,
            "{rate:?} is wrong by {wrong}"
        );
        assert!(rate.error_ppm <= at_most_ppm, "{rate:?} says too little");
    }

    #[test]
    fn the_truth_is_within_the_bound() {
        for hz in [
            100_000_000,
            1_000_000_000,
            2_250_000_000,
            3_000_000_000,
            19_999_999_999,
        ] {
            assert_right(World::new(hz, PIT).measure(), hz, 130);
            assert_right(World::new(hz, PM_TIMER).measure(), hz, 100);
            assert_right(World::new(hz, HPET).measure(), hz, 100);
        }
    }

    /// Reading through a hypervisor takes microseconds, and they need not be the same on both sides.
    #[test]
    fn a_slow_reading_widens_the_bound() {
        for slow in [(20_000_000, 0), (0, 20_000_000), (50_000_000, 50_000_000)] {
            let mut world = World::new(2_250_000_000, HPET);
            world.slow = slow;
            let rate = world.measure();
            assert_right(rate, 2_250_000_000, 10_000);
            assert!(rate.unwrap().error_ppm > 500);
        }
    }

    /// An emulator may keep a counter in microseconds: it goes up by three or four at a time.
    #[test]
    fn a_counter_that_goes_up_in_steps_is_measured_at_its_steps() {
        let world = World::new(100_000_000, PM_TIMER);
        let counter = || {
            let microsecond = world.now.get() / 1_000_000 * 1_000_000;
            world.pass(100_000);
            let ticks = u128::from(microsecond) * 3_579_545 / 1_000_000_000_000;
            ticks as u64
        };
        assert_right(measure(PM_TIMER, counter, || world.tsc()), 100_000_000, 100);
    }

    #[test]
    fn wrapping_counters_are_measured() {
        for start in [0, 0xff00, 0xffff] {
            let mut world = World::new(1_000_000_000, PIT);
            world.start = start;
            assert_right(world.measure(), 1_000_000_000, 130);
        }
        let mut world = World::new(1_000_000_000, PM_TIMER);
        world.start = 0xff_ff00;
        assert_right(world.measure(), 1_000_000_000, 100);
    }

    /// The virtual machine is not run for so long that the counter wraps unseen.
    #[test]
    fn a_wrap_that_nobody_saw_spoils_one_attempt_only() {
        for reading in [50, 1_000, 20_000] {
            let world = World::new(1_000_000_000, PIT);
            let readings = Cell::new(0);
            let counter = || {
                readings.set(readings.get() + 1);
                if readings.get() == reading {
                    world.pass(60_000_000_000);
                }
                world.counter()
            };
            let rate = measure(PIT, counter, || world.tsc());
            assert_right(rate, 1_000_000_000, 130);
        }
    }

    #[test]
    fn counters_that_do_not_count_give_nothing() {
        let world = World::new(1_000_000_000, HPET);
        for value in [0, 0xffff, u64::MAX] {
            let readings = Cell::new(0_u64);
            let still = || {
                readings.set(readings.get() + 1);
                value
            };
            assert_eq!(measure(HPET, still, || world.tsc()), None);
            assert!(readings.get() < 1_000_000, "it is given up soon");
        }
        // One that stops in the middle.
        let stops = || world.counter().min(200_000);
        assert_eq!(measure(HPET, stops, || world.tsc()), None);
    }

    #[test]
    fn counters_that_lie_end() {
        let world = World::new(1_000_000_000, HPET);
        let random = Cell::new(88_172_645_463_325_252_u64);
        let wild = || {
            let mut value = random.get();
            value ^= value << 13;
            value ^= value >> 7;
            value ^= value << 17;
            random.set(value);
            value
        };
        for unit in [HPET, PM_TIMER, PIT] {
            // Whatever it says, it ends and does not overflow.
            measure(unit, wild, || world.tsc());
        }
        // One that creeps: a tick in 1,000 readings.
        let readings = Cell::new(0_u64);
        let creeps = || {
            readings.set(readings.get() + 1);
            readings.get() / 1_000
        };
        assert_eq!(measure(HPET, creeps, || world.tsc()), None);
        assert!(readings.get() < 24_000_000);
        // One that runs backwards.
        let backwards = || u64::MAX - world.counter();
        assert_eq!(measure(PM_TIMER, backwards, || world.tsc()), None);
    }

    #[test]
    fn a_tsc_that_goes_back_or_stands_still_gives_nothing() {
        let world = World::new(1_000_000_000, HPET);
        let counter = || world.counter();
        assert_eq!(measure(HPET, counter, || u64::MAX / 2 - world.tsc()), None);
        assert_eq!(measure(HPET, counter, || 5), None);
        assert_eq!(measure(HPET, counter, || u64::MAX), None);
    }
}
