//! kvmclock: what KVM says about time in two structures that it writes into the guest's memory (Linux,
//! Documentation/virt/kvm/x86/msr.rst and cpuid.rst). Reading one consistently, what it means, and
//! what becomes of the clock when it changes, as it does when the machine moves to another computer. Asking for the
//! structures, by MSRs, is the mechanism's.

use super::told::{self, Leaf};
use super::{PLAUSIBLE, Rate, SECOND};
use crate::sync::{AtomicU32, Ordering};
use ipc::info::ClockPage;

/// From KVM's first leaf: the one with the features, in EAX.
const FEATURES: u32 = 1;
const FEATURE_CLOCK_OLD: u32 = 1 << 0;
const FEATURE_CLOCK: u32 = 1 << 3;
/// The flag `STABLE` means something.
const FEATURE_STABLE: u32 = 1 << 24;
/// In `flags`: the structures of all virtual CPUs agree, one serves them all.
const STABLE: u8 = 1 << 0;

/// Quadwords are in two words each, lower first. Words of `pvclock_vcpu_time_info`: version, padding, TSC,
/// time, multiplier; then a byte each of shift and flags.
pub const TIME_WORDS: usize = 8;
/// Words of `pvclock_wall_clock`: version, seconds, nanoseconds.
pub const WALL_WORDS: usize = 3;
/// Readings before a structure that changes all the time is given up. KVM writes one in nanoseconds.
const TRIES: usize = 1_000;
/// The clock is corrected where it is behind KVM's by more than this, in nanoseconds: less comes and goes by
/// rounding each time that KVM writes the structure.
const TOLERANCE: u64 = 1_000_000;
/// No time of KVM's from here on is believed, in nanoseconds: 146 years. Sums of times do not overflow.
const LATEST: u64 = 1 << 62;

/// The registers that KVM has for the structures. Each takes a physical address, the first one's with bit 0
/// set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registers {
    /// Takes the address of the time's structure, aligned to 4 bytes, and bit 0: KVM writes it from then on.
    pub system_time: u32,
    /// Takes the address of the wall clock's structure, aligned to 4 bytes: KVM writes it now.
    pub wall_clock: u32,
    /// The flag in the time's structure counts.
    pub tells_stable: bool,
}

const NEW: (u32, u32) = (0x4b56_4d01, 0x4b56_4d00);
const OLD: (u32, u32) = (0x12, 0x11);

/// The registers, if KVM runs this machine and has them.
pub fn registers(cpuid: impl Fn(u32) -> Leaf) -> Option<Registers> {
    let kvm = told::kvm(&cpuid)?;
    let features = cpuid(kvm.base + FEATURES)[0];
    let (system_time, wall_clock) = match features {
        features if features & FEATURE_CLOCK != 0 => NEW,
        features if features & FEATURE_CLOCK_OLD != 0 => OLD,
        _ => return None,
    };
    Some(Registers {
        system_time,
        wall_clock,
        tells_stable: features & FEATURE_STABLE != 0,
    })
}

/// Why a structure says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvmClockError {
    /// Nothing was written.
    Empty,
    /// It was being written whenever it was looked at.
    Changing,
    /// A multiplier or shift that no TSC has, or more nanoseconds than a second.
    Malformed,
}

impl core::fmt::Display for KvmClockError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str(match self {
            KvmClockError::Empty => "KVM wrote nothing",
            KvmClockError::Changing => "it is always being written",
            KvmClockError::Malformed => "what KVM wrote makes no sense",
        })
    }
}

impl core::error::Error for KvmClockError {}

/// Reads a structure whose first word is its version: odd while it is being written, another one
/// afterwards, 0 before the first time. `word` reads one word at a position, atomically and after those that it
/// read before.
fn consistent<const WORDS: usize>(
    word: impl Fn(usize) -> u32,
) -> Result<[u32; WORDS], KvmClockError> {
    for _ in 0..TRIES {
        let mut words = [0; WORDS];
        for (position, value) in words.iter_mut().enumerate() {
            *value = word(position);
        }
        if word(0) == words[0] && words[0].is_multiple_of(2) {
            return if words[0] == 0 {
                Err(KvmClockError::Empty)
            } else {
                Ok(words)
            };
        }
        core::hint::spin_loop();
    }
    Err(KvmClockError::Changing)
}

fn quadword(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// The time's structure: the time is `time` + (TSC - `tsc`) * 2^`shift` * `multiplier` / 2^32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeInfo {
    /// The structure's version.
    pub version: u32,
    tsc: u64,
    time: u64,
    multiplier: u32,
    shift: i8,
    flags: u8,
}

impl TimeInfo {
    /// Reads the structure through `word` (see [`TIME_WORDS`]).
    ///
    /// # Errors
    /// [`KvmClockError`].
    pub fn read(word: impl Fn(usize) -> u32) -> Result<TimeInfo, KvmClockError> {
        let words: [u32; TIME_WORDS] = consistent(word)?;
        let [shift, flags, ..] = words[7].to_le_bytes();
        let info = TimeInfo {
            version: words[0],
            tsc: quadword(words[2], words[3]),
            time: quadword(words[4], words[5]),
            multiplier: words[6],
            shift: shift.cast_signed(),
            flags,
        };
        let plausible = info.hz().is_some_and(|hz| PLAUSIBLE.contains(&hz));
        if plausible {
            Ok(info)
        } else {
            Err(KvmClockError::Malformed)
        }
    }

    fn hz(&self) -> Option<u64> {
        if !(-31..=31).contains(&self.shift) {
            return None;
        }
        let scaled = (u128::from(SECOND) << 64).checked_div(u128::from(self.multiplier))?;
        u64::try_from(scaled >> (32 + i32::from(self.shift))).ok()
    }

    /// The TSC's rate. KVM knows it in kHz.
    pub fn rate(&self) -> Rate {
        // `read` made sure of it.
        Rate::stated(self.hz().unwrap_or(1), 1_000)
    }

    /// Nanoseconds per tick of the TSC, times 2^32.
    pub fn nanoseconds_per_tick(&self) -> u64 {
        let multiplier = u64::from(self.multiplier);
        match self.shift {
            shift @ 0.. => multiplier << shift,
            shift => multiplier >> shift.unsigned_abs(),
        }
    }

    /// KVM's time at a TSC value, in nanoseconds, at most 2^63 ticks before or after the structure's own: KVM
    /// may have written it after the TSC was read.
    fn time_at(&self, tsc: u64) -> u64 {
        let ticks = tsc.wrapping_sub(self.tsc).cast_signed();
        let distance = u128::from(ticks.unsigned_abs());
        let shifted = match self.shift {
            shift @ 0.. => distance << shift,
            shift => distance >> shift.unsigned_abs(),
        };
        // 2^(63 + 31 + 32) at most.
        let time = (shifted * u128::from(self.multiplier)) >> 32;
        let time = u64::try_from(time).unwrap_or(u64::MAX);
        if ticks < 0 {
            self.time.saturating_sub(time)
        } else {
            self.time.saturating_add(time)
        }
    }
}

/// Wall time when KVM's time is 0, in nanoseconds since 1970-01-01, through `word` (see [`WALL_WORDS`]).
///
/// # Errors
/// [`KvmClockError`].
pub fn wall_clock(word: impl Fn(usize) -> u32) -> Result<u64, KvmClockError> {
    let [_, seconds, nanoseconds]: [u32; WALL_WORDS] = consistent(word)?;
    if u64::from(nanoseconds) >= SECOND {
        return Err(KvmClockError::Malformed);
    }
    Ok(u64::from(seconds) * SECOND + u64::from(nanoseconds))
}

/// How the clock and KVM's belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvmClock {
    /// KVM's time when the clock was 0.
    origin: u64,
    tells_stable: bool,
}

impl KvmClock {
    /// The clock says `now` at a TSC value, and KVM what is in `info`.
    pub fn start(info: &TimeInfo, tells_stable: bool, tsc: u64, now: u64) -> KvmClock {
        KvmClock {
            origin: info.time_at(tsc).saturating_sub(now),
            tells_stable,
        }
    }

    /// Whether one structure serves all CPUs, and their TSCs agree for good.
    pub fn is_stable(&self, info: &TimeInfo) -> bool {
        self.tells_stable && info.flags & STABLE != 0
    }

    /// Wall time minus monotonic time, at a TSC value at which the clock says `now`. `wall` is KVM's, see
    /// [`wall_clock`].
    pub fn wall_offset(info: &TimeInfo, wall: u64, tsc: u64, now: u64) -> u64 {
        wall.saturating_add(info.time_at(tsc)).saturating_sub(now)
    }

    /// What [`page::change`](super::page::change) makes of the clock's state: it follows the structure, which
    /// `word` reads (see [`TIME_WORDS`]). That is done here, by the one CPU that may change the clock: what was read
    /// before may be older than what another CPU has followed meanwhile. `version` is the structure's that the clock
    /// goes by; it stays where nothing can be read, so that whoever looks at it tries again. `wall` is as for
    /// [`KvmClock::wall_offset`], if there is one.
    pub fn follow(
        &self,
        version: &AtomicU32,
        word: impl Fn(usize) -> u32,
        wall: impl FnOnce() -> Option<u64>,
        old: ClockPage,
        tsc: u64,
    ) -> Option<ClockPage> {
        let info = TimeInfo::read(word).ok()?;
        version.store(info.version, Ordering::Relaxed);
        self.next(old, &info, wall, tsc)
    }

    /// The clock's state from a TSC value on, now that KVM wrote another `info`; `None` if nothing
    /// changes. `wall` asks for KVM's wall clock, if there is one. The clock takes KVM's scale. It is set forward to KVM's
    /// time, never back: where it is ahead, because time stood still for the machine and not for its TSC, or the TSC
    /// jumped, it stays so. Where CPUs' TSCs agree no more, ring 3 has to ask the kernel from now on.
    fn next(
        &self,
        old: ClockPage,
        info: &TimeInfo,
        wall: impl FnOnce() -> Option<u64>,
        tsc: u64,
    ) -> Option<ClockPage> {
        let before = old.time_at(tsc);
        let theirs = info.time_at(tsc).saturating_sub(self.origin);
        let multiplier = info.nanoseconds_per_tick();
        let usable = if self.is_stable(info) { old.usable } else { 0 };
        let behind = theirs > before.saturating_add(TOLERANCE) && theirs < LATEST;
        // A base ahead of the TSC, which went back, would stop the clock.
        let stuck = tsc.wrapping_sub(old.base_tsc).cast_signed() < 0;
        let same = multiplier == old.multiplier && usable == old.usable;
        if same && !behind && !stuck {
            return None;
        }
        let base_ns = if behind { theirs } else { before };
        let wall_offset = |wall| KvmClock::wall_offset(info, wall, tsc, base_ns);
        Some(ClockPage {
            sequence: old.sequence,
            base_tsc: tsc,
            base_ns,
            multiplier,
            wall_offset_ns: wall().map_or(old.wall_offset_ns, wall_offset),
            usable,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{KvmClock, KvmClockError, Registers, TimeInfo, registers, wall_clock};
    use crate::clock::told::tests::{HYPERVISOR, kvm_leaf, table};
    use crate::clock::{SECOND, page};
    use crate::platform::{FRAME_WORDS, FrameWords};
    use crate::sync::{AtomicU32, AtomicU64, Ordering};
    use ipc::info::ClockPage;
    use std::cell::Cell;

    /// The structure as KVM writes it for a TSC of this rate (Linux, arch/x86/kvm/x86.c, kvm_get_time_scale):
    /// 2.25 GHz, 3 GHz, 2 GHz, 2.6 GHz, 800 MHz.
    const WRITTEN: [(u64, u32, i8); 5] = [
        (2_250_000_000, 0xe38e_38e3, -1),
        (3_000_000_000, 0xaaaa_aaaa, -1),
        (2_000_000_000, 0x8000_0000, 0),
        (2_600_000_000, 0xc4ec_4ec4, -1),
        (800_000_000, 0xa000_0000, 1),
    ];

    fn structure(tsc: u64, time: u64, multiplier: u32, shift: i8, flags: u8) -> [u32; 8] {
        let halves = |value: u64| [value as u32, (value >> 32) as u32];
        let ([tsc_low, tsc_high], [time_low, time_high]) = (halves(tsc), halves(time));
        let last = u32::from_le_bytes([shift.cast_unsigned(), flags, 0, 0]);
        [
            6, 0, tsc_low, tsc_high, time_low, time_high, multiplier, last,
        ]
    }

    fn info(tsc: u64, time: u64, (_, multiplier, shift): (u64, u32, i8)) -> TimeInfo {
        read(&structure(tsc, time, multiplier, shift, 1)).unwrap()
    }

    fn read(words: &[u32; 8]) -> Result<TimeInfo, KvmClockError> {
        TimeInfo::read(|place| words[place])
    }

    #[test]
    fn both_sets_of_registers_are_known() {
        let on = |features| {
            let leaves = [
                HYPERVISOR,
                (0x4000_0100, kvm_leaf(0x4000_0101)),
                (0x4000_0101, [features, 0, 0, 0]),
            ];
            registers(table(&leaves))
        };
        let new = Registers {
            system_time: 0x4b56_4d01,
            wall_clock: 0x4b56_4d00,
            tells_stable: true,
        };
        let old = Registers {
            system_time: 0x12,
            wall_clock: 0x11,
            tells_stable: false,
        };
        assert_eq!(on(0x0100_7efb), Some(new), "as QEMU with KVM has it");
        assert_eq!(on(1), Some(old));
        assert_eq!(on(1 << 24 | 1 << 1), None);
        assert_eq!(registers(table(&[HYPERVISOR])), None);
    }

    #[test]
    fn rates_are_those_that_kvm_scaled_by() {
        for written @ (hz, ..) in WRITTEN {
            let rate = info(0, 0, written).rate();
            assert!(rate.hz.abs_diff(hz) <= 1, "{hz}: {rate:?}");
            assert!((1..=2).contains(&rate.error_ppm));
        }
    }

    #[test]
    fn times_are_kvms() {
        for written @ (hz, ..) in WRITTEN {
            let info = info(5_000, 77 * SECOND, written);
            assert_eq!(info.time_at(5_000), 77 * SECOND);
            let before = 77 * SECOND - info.time_at(5_000 - hz / 1_000_000);
            assert!(before.abs_diff(1_000) <= 1, "a microsecond: {before}");
            let day = info.time_at(5_000 + 86_400 * hz) - 77 * SECOND;
            assert!(day.abs_diff(86_400 * SECOND) < 100_000, "{hz}: {day}");
            let scaled = (u128::from(86_400 * hz) * u128::from(info.nanoseconds_per_tick())) >> 32;
            assert!((scaled as u64).abs_diff(day) < 100_000);
        }
    }

    #[test]
    fn a_structure_that_is_being_written_is_read_again() {
        let (written, reads) = (structure(1, 2, 0x8000_0000, 0, 1), Cell::new(0));
        // Until the 20th access it is being written, with half of it old.
        let word = |place: usize| {
            reads.set(reads.get() + 1);
            match (place, reads.get()) {
                (0, ..20) => 5,
                (2, ..20) => 0xdead,
                _ => written[place],
            }
        };
        let info = TimeInfo::read(word).unwrap();
        assert_eq!((info.version, info.tsc), (6, 1));
    }

    #[test]
    fn a_version_that_never_stays_is_given_up() {
        for odd in [1, 7, u32::MAX] {
            let mut words = structure(0, 0, 0x8000_0000, 0, 0);
            words[0] = odd;
            assert_eq!(read(&words), Err(KvmClockError::Changing));
        }
        let version = Cell::new(0_u32);
        let reads = Cell::new(0);
        let changing = |place| {
            reads.set(reads.get() + 1);
            if place == 0 {
                version.set(version.get().wrapping_add(2));
            }
            version.get()
        };
        assert_eq!(TimeInfo::read(changing), Err(KvmClockError::Changing));
        assert!(reads.get() < 10_000);
        version.set(0);
        assert_eq!(wall_clock(changing), Err(KvmClockError::Changing));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert_eq!(read(&[0; 8]), Err(KvmClockError::Empty));
        for (multiplier, shift) in [
            (0, 0),
            (1, 0),
            (0x8000_0000, 32),
            (0x8000_0000, -32),
            (0x8000_0000, i8::MIN),
            (0x8000_0000, i8::MAX),
            (0x8000_0000, 31),
            (0x8000_0000, -31),
            (u32::MAX, -8),
            (u32::MAX, 7),
        ] {
            let words = structure(0, 0, multiplier, shift, 0);
            let refused = Err(KvmClockError::Malformed);
            assert_eq!(read(&words), refused, "{multiplier:#x}, {shift}");
        }
    }

    #[test]
    fn times_do_not_overflow() {
        for multiplier in [0x8000_0000, u32::MAX] {
            for shift in [-5, -1, 0, 3] {
                let Ok(info) = read(&structure(0, u64::MAX - 5, multiplier, shift, 1)) else {
                    continue;
                };
                assert_eq!(info.time_at(u64::MAX / 2), u64::MAX);
                assert!(info.time_at(1 << 63) < u64::MAX);
                let clock = KvmClock::start(&info, true, 0, 0);
                let wild = ClockPage {
                    base_ns: u64::MAX,
                    ..ClockPage::default()
                };
                for tsc in [0, 1, u64::MAX / 2, u64::MAX / 2 + 1, u64::MAX] {
                    clock.next(wild, &info, || Some(u64::MAX), tsc);
                    clock.next(ClockPage::default(), &info, || Some(0), tsc);
                }
            }
        }
    }

    #[test]
    fn wall_clocks_are_read() {
        let words = |words: [u32; 3]| wall_clock(move |place| words[place]);
        assert_eq!(
            words([2, 1_700_000_000, 999_999_999]),
            Ok(1_700_000_000_999_999_999)
        );
        let latest = u64::from(u32::MAX) * SECOND;
        assert_eq!(words([2, u32::MAX, 0]), Ok(latest));
        assert_eq!(words([2, 5, 1_000_000_000]), Err(KvmClockError::Malformed));
        assert_eq!(words([0, 5, 5]), Err(KvmClockError::Empty));
        assert_eq!(words([3, 5, 5]), Err(KvmClockError::Changing));
        let info = info(1_000, 50 * SECOND, WRITTEN[2]);
        let offset = KvmClock::wall_offset(&info, 1_700_000_000 * SECOND, 1_000, 3 * SECOND);
        assert_eq!(offset, 1_700_000_047 * SECOND);
    }

    fn state(info: &TimeInfo, tsc: u64) -> ClockPage {
        ClockPage {
            sequence: 2,
            base_tsc: tsc,
            base_ns: 0,
            multiplier: info.nanoseconds_per_tick(),
            wall_offset_ns: 7,
            usable: 1,
        }
    }

    #[test]
    fn a_new_scale_takes_over_where_the_old_one_ends() {
        let at_2_25 = info(1_000, 9 * SECOND, WRITTEN[0]);
        let clock = KvmClock::start(&at_2_25, true, 1_000, 0);
        let old = state(&at_2_25, 1_000);
        // Ten seconds later the machine is on a computer of 3 GHz; nobody noticed for a second.
        let moved = 1_000 + 22_500_000_000;
        let at_3 = info(moved, 19 * SECOND, WRITTEN[1]);
        let noticed = moved + 3_000_000_000;
        let new = clock.next(old, &at_3, || Some(SECOND), noticed).unwrap();
        assert_eq!(new.multiplier, at_3.nanoseconds_per_tick());
        // The old scale ran too fast for that second: 4/3 of it. Time goes on from there.
        assert_eq!(new.time_at(noticed), old.time_at(noticed));
        assert!(new.time_at(noticed).abs_diff(11_333_333_333) < 10);
        let second = new.time_at(noticed + 3_000_000_000) - new.time_at(noticed);
        assert!(second.abs_diff(SECOND) < 10);
        // The wall clock is right all the same: KVM's time is 20 s and KVM's zero was 1 s after 1970.
        let wall = new.time_at(noticed) + new.wall_offset_ns;
        assert!(wall.abs_diff(21 * SECOND) < 10);
        assert_eq!((new.usable, new.sequence), (1, 2));
        assert_eq!(clock.next(new, &at_3, || Some(SECOND), noticed + 5), None);
    }

    /// The CPU stood still between its TSC and the structure, which KVM wrote meanwhile.
    #[test]
    fn a_structure_that_is_later_than_the_tsc_does_not_set_the_clock_forward() {
        let first = info(0, 0, WRITTEN[2]);
        let clock = KvmClock::start(&first, true, 0, 0);
        let tsc = 20_000_000_000;
        let later = info(tsc + 600_000_000, 10 * SECOND + 200_000_000, WRITTEN[1]);
        let new = clock
            .next(state(&first, 0), &later, || Some(SECOND), tsc)
            .unwrap();
        assert_eq!(new.base_ns, 10 * SECOND);
        assert!(new.wall_offset_ns.abs_diff(SECOND) < 10);
    }

    /// Two CPUs see that KVM wrote the structure, and KVM writes it once more before the clock is theirs.
    #[test]
    fn who_changes_the_clock_follows_what_is_written_then() {
        let words: Box<FrameWords> = Box::new([const { AtomicU64::new(0) }; FRAME_WORDS]);
        let version = AtomicU32::new(4);
        let first = info(0, 0, WRITTEN[2]);
        let clock = KvmClock::start(&first, true, 0, 0);
        page::change(&words, || 0, |_, _| Some(state(&first, 0)));
        let (_, multiplier, shift) = WRITTEN[1];
        let written = Cell::new(structure(0, 0, multiplier, shift, 1));
        let follow = |old, tsc| {
            let word = |place: usize| written.get()[place];
            clock.follow(&version, word, || None, old, tsc)
        };
        let changed = page::change(
            &words,
            || 1_000,
            |old, tsc| {
                // The other CPU does not have the clock, and may not say that it goes by this version.
                assert!(!page::change(&words, || 1_000, follow));
                assert_eq!(version.load(Ordering::Relaxed), 4);
                let (_, multiplier, shift) = WRITTEN[0];
                let mut last = structure(0, 0, multiplier, shift, 1);
                last[0] = 8;
                written.set(last);
                follow(old, tsc)
            },
        );
        assert!(changed);
        assert_eq!(version.load(Ordering::Relaxed), 8);
        let expected = info(0, 0, WRITTEN[0]).nanoseconds_per_tick();
        assert_eq!(words[3].load(Ordering::Relaxed), expected);
        // What cannot be read leaves clock and version.
        written.set([9; 8]);
        assert!(!page::change(&words, || 2_000, follow));
        assert_eq!(version.load(Ordering::Relaxed), 8);
    }

    #[test]
    fn a_clock_that_fell_behind_is_set_forward() {
        let at_3 = info(0, 0, WRITTEN[1]);
        let clock = KvmClock::start(&at_3, true, 0, 0);
        let at_2 = info(30_000_000_000, 10 * SECOND, WRITTEN[2]);
        let noticed = 30_000_000_000 + 2_000_000_000;
        let new = clock
            .next(state(&at_3, 0), &at_2, || None, noticed)
            .unwrap();
        assert!(new.base_ns.abs_diff(11 * SECOND) < 10);
        assert_eq!(new.wall_offset_ns, 7, "none was told");
        for wild in [1 << 62, u64::MAX] {
            let at_2 = info(30_000_000_000, wild, WRITTEN[2]);
            let new = clock
                .next(state(&at_3, 0), &at_2, || None, noticed)
                .unwrap();
            assert!(new.base_ns < 11 * SECOND, "not believed");
        }
    }

    #[test]
    fn times_that_jump_back_do_not_move_the_clock_back() {
        let first = info(0, 100 * SECOND, WRITTEN[2]);
        let clock = KvmClock::start(&first, true, 0, 0);
        let old = state(&first, 0);
        let tsc = 20_000_000_000;
        // The same scale: nothing is to be done, whatever the time. Another one: it goes on from here.
        for time in [0, 50 * SECOND, 105 * SECOND] {
            let back = info(tsc, time, WRITTEN[2]);
            assert_eq!(clock.next(old, &back, || None, tsc), None);
            let back = info(tsc, time, WRITTEN[1]);
            let new = clock.next(old, &back, || None, tsc).unwrap();
            assert_eq!(new.base_ns, 10 * SECOND);
        }
        // The TSC itself goes back: the clock does not, and does not stop either.
        let old = ClockPage {
            base_tsc: tsc,
            base_ns: 10 * SECOND,
            ..old
        };
        let restored = info(1_000, 90 * SECOND, WRITTEN[2]);
        let new = clock.next(old, &restored, || None, 1_000).unwrap();
        assert_eq!((new.base_tsc, new.base_ns), (1_000, 10 * SECOND));
        assert_eq!(new.time_at(2_000_001_000), 11 * SECOND);
    }

    #[test]
    fn rounding_moves_nothing() {
        let first = info(0, 0, WRITTEN[0]);
        let clock = KvmClock::start(&first, true, 0, 0);
        let tsc = 2_250_000_000;
        for time in [SECOND - 900_000, SECOND + 900_000] {
            let again = info(tsc, time, WRITTEN[0]);
            assert_eq!(clock.next(state(&first, 0), &again, || None, tsc), None);
        }
    }

    #[test]
    fn without_the_stable_bit_ring_3_asks_the_kernel() {
        let stable = info(0, 0, WRITTEN[0]);
        let clock = KvmClock::start(&stable, true, 0, 0);
        assert!(clock.is_stable(&stable));
        assert!(!KvmClock::start(&stable, false, 0, 0).is_stable(&stable));
        let unstable = read(&structure(0, 0, WRITTEN[0].1, WRITTEN[0].2, 0)).unwrap();
        assert!(!clock.is_stable(&unstable));
        let old = state(&stable, 0);
        let new = clock.next(old, &unstable, || None, 1_000).unwrap();
        assert_eq!(new.usable, 0);
        assert_eq!(new.time_at(1_000), old.time_at(1_000));
        // It does not come back: what ring 3 and the kernel read since would have to be compared.
        assert_eq!(clock.next(new, &stable, || None, 2_000), None);
    }

    /// The machine moves about: whoever reads the clock, before and after each move, sees it go forward.
    #[test]
    fn the_clock_never_goes_back_whatever_kvm_says() {
        let mut random = crate::random::Random::new(7);
        let mut below = |end: u64| random.below(end as usize) as u64;
        let first = info(0, 1_000, WRITTEN[0]);
        let clock = KvmClock::start(&first, true, 0, 0);
        let mut page = state(&first, 0);
        let (mut tsc, mut last) = (0_u64, 0_u64);
        for _ in 0..20_000 {
            tsc += below(10_000_000_000);
            assert!(page.time_at(tsc) >= last);
            last = page.time_at(tsc);
            let written = WRITTEN[below(5) as usize];
            let time = below(40 * SECOND) + last / 2;
            let told = info(tsc - below(tsc.min(1_000) + 1), time, written);
            page = clock.next(page, &told, || None, tsc).unwrap_or(page);
            assert!(page.time_at(tsc) >= last, "{told:?}");
            last = page.time_at(tsc);
        }
    }
}
