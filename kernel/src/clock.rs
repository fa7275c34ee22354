//! Time: the TSC, scaled to nanoseconds since boot, the same on every CPU; and the page from which
//! the kernel and ring 3 read it. How fast the TSC runs is `calibrate`'s to find out, what the page
//! means is `ipc::clock`'s.
#![expect(unsafe_code, reason = "reads the TSC")]

use crate::percpu;
use boot::PAGE;
use boot::entry::KERNEL_BASE;
use core::arch::asm;
use core::arch::x86_64::_rdtsc;
use ipc::clock::Reading;
use ipc::info::ClockPage;
use kernel_core::clock::{self, Rate, page, scaled};
use kernel_core::frames::Frame;
use kernel_core::mutant::{self, Mutant};
use kernel_core::platform::{FRAME_WORDS, FrameWords};
use kernel_core::sync::{AtomicU64, Ordering};

/// Nanoseconds in a second.
pub(crate) const SECOND: u64 = clock::SECOND;

/// The clock page, alone in its frame of the image.
#[repr(C, align(4096))]
struct Page(FrameWords);

static PAGE_WORDS: Page = Page([const { AtomicU64::new(0) }; FRAME_WORDS]);
const _: () = assert!(align_of::<Page>() as u64 == PAGE && size_of::<Page>() as u64 == PAGE);

/// Ticks per nanosecond, times 2^32.
static TO_TICKS: AtomicU64 = AtomicU64::new(0);
/// The latest time that the kernel gave out while the clock page was not usable: CPUs whose TSCs differ are
/// made to agree no better than could be measured, and this makes up for the rest.
static LATEST: AtomicU64 = AtomicU64::new(0);

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

/// CPU 0's TSC, by what was measured when this CPU started, read after what was done before and ahead of
/// what is done afterwards.
fn common_tsc() -> u64 {
    let tsc = tsc();
    // SAFETY: as in `tsc`.
    unsafe { asm!("lfence", options(nostack, preserves_flags)) };
    let this = percpu::this();
    if mutant::active(Mutant::ClockAgreement) && this.index.load(Ordering::Relaxed) != 0 {
        return tsc.saturating_sub(ticks_in(SECOND / 1000));
    }
    tsc.wrapping_add(this.tsc_offset.load(Ordering::Relaxed))
}

/// Another CPU's TSC now, by what was measured when it started.
pub(crate) fn ticks_on(cpu: &percpu::PerCpu) -> u64 {
    ticks()
        .wrapping_add(percpu::this().tsc_offset.load(Ordering::Relaxed))
        .wrapping_sub(cpu.tsc_offset.load(Ordering::Relaxed))
}

/// How long so many ticks of the TSC are, at its present rate.
pub(crate) fn nanoseconds(ticks: u64) -> u64 {
    scaled(ticks, word(MULTIPLIER))
}

/// How many ticks of the TSC so many nanoseconds are, at its present rate.
pub(crate) fn ticks_in(nanoseconds: u64) -> u64 {
    scaled(nanoseconds, TO_TICKS.load(Ordering::Relaxed))
}

/// Position of the multiplier in the page.
const MULTIPLIER: usize = 3;

#[inline(always)]
fn word(position: usize) -> u64 {
    PAGE_WORDS.0[position].load(Ordering::Relaxed)
}

/// Starts the clock at 0, now. The rate is above 0.
pub(crate) fn start(rate: Rate) {
    let multiplier = rate.nanoseconds_per_tick();
    change(|old, tsc| {
        Some(ClockPage {
            base_tsc: tsc,
            multiplier,
            ..old
        })
    });
}

/// Replaces the clock's state: see [`page::change`], which says what `next` must keep to.
pub(crate) fn change(mut next: impl FnMut(ClockPage, u64) -> Option<ClockPage>) -> bool {
    let recording = |old: ClockPage, tsc| {
        let new = next(old, tsc)?;
        TO_TICKS.store(clock::inverse(new.multiplier), Ordering::Relaxed);
        // What ring 3 read itself so far is not later than this.
        LATEST.fetch_max(new.time_at(tsc), Ordering::Relaxed);
        Some(new)
    };
    page::change(&PAGE_WORDS.0, common_tsc, recording)
}

/// CPU 0's TSC and the time. Spins while another CPU changes the state, which takes it some dozens of
/// instructions, in which it waits for nobody.
#[inline]
fn read() -> Reading {
    loop {
        if let Some(reading) = ClockPage::read(word, common_tsc) {
            return reading;
        }
        core::hint::spin_loop();
    }
}

/// CPU 0's TSC and the time then.
pub(crate) fn pair() -> (u64, u64) {
    let reading = read();
    (reading.tsc, reading.now)
}

/// Nanoseconds since [`start`]: never less than any CPU read before.
#[inline]
pub(crate) fn now() -> u64 {
    let reading = read();
    if reading.usable {
        reading.now
    } else {
        LATEST
            .fetch_max(reading.now, Ordering::AcqRel)
            .max(reading.now)
    }
}

/// This CPU's TSC when the time will be so many nanoseconds later, rounded up.
pub(crate) fn tsc_after(nanoseconds: u64) -> u64 {
    ticks()
        .saturating_add(ticks_in(nanoseconds))
        .saturating_add(2)
}

/// Spins for this long.
pub(crate) fn spin(nanoseconds: u64) {
    let end = now() + nanoseconds;
    while now() < end {
        core::hint::spin_loop();
    }
}

/// Sets the wall clock: its difference to the clock, in nanoseconds.
pub(crate) fn set_wall_offset(offset: u64) {
    change(|old, _| {
        Some(ClockPage {
            wall_offset_ns: offset,
            ..old
        })
    });
}

/// Position of the wall clock's offset in the page.
const WALL_OFFSET: usize = 4;

/// Wall time minus monotonic time in nanoseconds; 0 where there is no wall clock.
pub(crate) fn wall_offset() -> u64 {
    word(WALL_OFFSET)
}

/// Lets ring 3 read the TSC: all CPUs' agree.
pub(crate) fn allow_ring_3() {
    change(|old, _| Some(ClockPage { usable: 1, ..old }));
}

/// The clock page's frame.
pub(crate) fn page() -> Frame {
    let address = (&raw const PAGE_WORDS).addr() as u64 - KERNEL_BASE;
    Frame((address / PAGE) as u32)
}
