//! Time: the TSC, scaled to nanoseconds since boot, the same on every CPU; and the page from which
//! ring 3 reads it without a system call. How fast the TSC runs is `calibrate`'s to find out.
#![expect(unsafe_code, reason = "reads the TSC")]

use crate::{percpu, physical};
use core::arch::asm;
use core::arch::x86_64::_rdtsc;
use ipc::info::ClockPage;
use kernel_core::frames::Frame;
use kernel_core::sync::{AtomicU64, Ordering};

/// Nanoseconds in a second.
pub(crate) const SECOND: u64 = 1_000_000_000;

/// TSC at boot; nanoseconds per tick and ticks per nanosecond, each times 2^32. Set once.
static BASE: AtomicU64 = AtomicU64::new(0);
static TO_NANOSECONDS: AtomicU64 = AtomicU64::new(0);
static TO_TICKS: AtomicU64 = AtomicU64::new(0);
/// Wall time minus monotonic time in nanoseconds, 0 for none. Set once.
static WALL_OFFSET: AtomicU64 = AtomicU64::new(0);
/// Number of the clock page's frame.
static PAGE: AtomicU64 = AtomicU64::new(0);

/// The TSC, not read ahead of earlier instructions (Intel SDM volume 2B, RDTSC).
#[inline(always)]
pub(crate) fn tsc() -> u64 {
    // SAFETY: the processor has SSE2, whose LFENCE has no other effect.
    unsafe { asm!("lfence", options(nostack, preserves_flags)) };
    ticks()
}

/// This CPU's TSC, in no particular order to other instructions.
#[inline(always)]
pub(crate) fn ticks() -> u64 {
    // SAFETY: the processor has a TSC.
    unsafe { _rdtsc() }
}

/// Another CPU's TSC now, by what was measured when it started.
pub(crate) fn ticks_on(cpu: &percpu::PerCpu) -> u64 {
    ticks()
        .wrapping_add(percpu::this().tsc_offset.load(Ordering::Relaxed))
        .wrapping_sub(cpu.tsc_offset.load(Ordering::Relaxed))
}

/// How long so many ticks of the TSC are.
pub(crate) fn nanoseconds(ticks: u64) -> u64 {
    scaled(ticks, TO_NANOSECONDS.load(Ordering::Relaxed))
}

/// How many ticks of the TSC so many nanoseconds are.
pub(crate) fn ticks_in(nanoseconds: u64) -> u64 {
    scaled(nanoseconds, TO_TICKS.load(Ordering::Relaxed))
}

/// `value` * `scale` / 2^32.
#[inline(always)]
fn scaled(value: u64, scale: u64) -> u64 {
    ((u128::from(value) * u128::from(scale)) >> 32) as u64
}

/// Starts the clock at 0, now. `hz` is the TSC's rate, above 0.
pub(crate) fn start(hz: u64) {
    TO_NANOSECONDS.store(
        ((u128::from(SECOND) << 32) / u128::from(hz)) as u64,
        Ordering::Relaxed,
    );
    TO_TICKS.store(
        ((u128::from(hz) << 32) / u128::from(SECOND)) as u64,
        Ordering::Relaxed,
    );
    BASE.store(tsc(), Ordering::Relaxed);
}

/// Nanoseconds since [`start`].
#[inline]
pub(crate) fn now() -> u64 {
    let ticks = tsc().wrapping_add(percpu::this().tsc_offset.load(Ordering::Relaxed));
    // A CPU whose TSC is behind by less than could be measured must not see a time before 0.
    let since = ticks.wrapping_sub(BASE.load(Ordering::Relaxed)) as i64;
    scaled(since.max(0) as u64, TO_NANOSECONDS.load(Ordering::Relaxed))
}

/// This CPU's TSC at a time, rounded up. The time is less than a century away.
pub(crate) fn tsc_at(nanoseconds: u64) -> u64 {
    let ticks = scaled(nanoseconds, TO_TICKS.load(Ordering::Relaxed)).saturating_add(2);
    let offset = percpu::this().tsc_offset.load(Ordering::Relaxed);
    ticks
        .saturating_add(BASE.load(Ordering::Relaxed))
        .saturating_sub(offset.cast_signed().max(0) as u64)
        .saturating_add(offset.cast_signed().min(0).unsigned_abs())
}

/// Spins for this long.
pub(crate) fn spin(nanoseconds: u64) {
    let end = now() + nanoseconds;
    while now() < end {
        core::hint::spin_loop();
    }
}

/// Sets the wall clock: seconds since 1970-01-01, now.
pub(crate) fn set_wall(seconds: u64) {
    WALL_OFFSET.store((seconds * SECOND).saturating_sub(now()), Ordering::Relaxed);
}

/// Wall time minus monotonic time in nanoseconds; 0 where there is no wall clock.
pub(crate) fn wall_offset() -> u64 {
    WALL_OFFSET.load(Ordering::Relaxed)
}

/// Fills the clock page. `usable` says whether all CPUs' TSCs agree, so that ring 3 may read them.
/// To be called once, after all CPUs are started; `frame` is RAM of the kernel's own.
pub(crate) fn fill_page(frame: Frame, usable: bool) {
    let page = ClockPage {
        sequence: 0,
        base_tsc: BASE.load(Ordering::Relaxed),
        base_ns: 0,
        multiplier: TO_NANOSECONDS.load(Ordering::Relaxed),
        wall_offset_ns: wall_offset(),
        usable: u64::from(usable),
    };
    for (word, value) in physical::words(frame).iter().zip(page.to_words()) {
        word.store(value, Ordering::Relaxed);
    }
    PAGE.store(u64::from(frame.0), Ordering::Relaxed);
}

/// The clock page's frame.
pub(crate) fn page() -> Frame {
    Frame(PAGE.load(Ordering::Relaxed) as u32)
}
