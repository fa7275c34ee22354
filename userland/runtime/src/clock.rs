//! Time: read from the clock page without a system call where the machine allows, and sleeping.
#![cfg_attr(
    target_os = "none",
    expect(
        unsafe_code,
        reason = "the clock page is the kernel's, and the TSC is read by inline assembly"
    )
)]

use crate::syscall::invoke;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use core::time::Duration;
use ipc::info::ClockPage;
use ipc::message::NEVER;
use ipc::{Deadline, Operation};

/// Nanoseconds of the monotonic clock since boot. 0 on the host.
pub fn now() -> u64 {
    match page() {
        Some(page) => time_of(&page, timestamp()),
        None => read().0,
    }
}

/// Nanoseconds since 1970-01-01 UTC; `None` where the machine has no wall clock.
pub fn wall() -> Option<u64> {
    let wall = match page() {
        Some(page) if page.wall_offset_ns == 0 => 0,
        Some(page) => time_of(&page, timestamp()).wrapping_add(page.wall_offset_ns),
        None => read().1,
    };
    (wall != 0).then_some(wall)
}

/// The deadline this far from now.
pub fn after(duration: Duration) -> Deadline {
    let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(NEVER);
    Deadline(now().saturating_add(nanoseconds))
}

/// Lets the calling thread sleep.
pub fn sleep(duration: Duration) {
    let deadline = after(duration);
    let word = AtomicU32::new(0);
    // Nobody wakes this word; the loop is for a futex that returns early all the same.
    while now() < deadline.0 {
        if crate::sync::futex_wait(&word, 0, deadline) == Err(ipc::Error::Unsupported) {
            return;
        }
    }
}

/// Asks the kernel for monotonic and wall time.
fn read() -> (u64, u64) {
    let times = invoke(Operation::ClockRead, [0; 6], NEVER);
    times.map_or((0, 0), |results| (results[0], results[1]))
}

/// The time at a TSC value: base + ticks * multiplier / 2^32.
fn time_of(page: &ClockPage, tsc: u64) -> u64 {
    // Another CPU's TSC may be a little behind the base.
    let ticks = tsc.saturating_sub(page.base_tsc);
    let passed = (u128::from(ticks) * u128::from(page.multiplier)) >> 32;
    page.base_ns.wrapping_add(passed as u64)
}

/// Reads one consistent state through the sequence lock.
fn consistent(word: impl Fn(usize) -> u64) -> ClockPage {
    loop {
        let mut words = [0; ClockPage::WORDS];
        for (position, value) in words.iter_mut().enumerate() {
            *value = word(position);
            if position == 0 {
                fence(Ordering::Acquire);
            }
        }
        fence(Ordering::Acquire);
        let page = ClockPage::from_words(&words);
        if page.sequence.is_multiple_of(2) && word(0) == page.sequence {
            return page;
        }
        core::hint::spin_loop();
    }
}

/// The clock page; `None` where ring 3 must not use the TSC.
#[cfg(target_os = "none")]
fn page() -> Option<ClockPage> {
    let start = core::ptr::with_exposed_provenance::<[AtomicU64; ClockPage::WORDS]>(
        ipc::layout::CLOCK_PAGE as usize,
    );
    // SAFETY: the kernel maps the page, readable, in every task for as long as it lives, and
    // writes its quadwords atomically.
    let words = unsafe { &*start };
    let page = consistent(|position| {
        words
            .get(position)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    });
    (page.usable != 0).then_some(page)
}

#[cfg(not(target_os = "none"))]
fn page() -> Option<ClockPage> {
    let none: &[AtomicU64] = &[];
    let page = consistent(|position| {
        none.get(position)
            .map_or(0, |word| word.load(Ordering::Relaxed))
    });
    (page.usable != 0).then_some(page)
}

/// The time stamp counter, read after all earlier loads (Intel SDM volume 2B, RDTSC).
#[cfg(target_os = "none")]
fn timestamp() -> u64 {
    let (low, high): (u64, u64);
    // SAFETY: RDTSC changes nothing; the kernel allows it where it says that the page is usable.
    unsafe {
        core::arch::asm!(
            "lfence",
            "rdtsc",
            lateout("rax") low,
            lateout("rdx") high,
            options(nostack, nomem, preserves_flags),
        );
    }
    high << 32 | low
}

#[cfg(not(target_os = "none"))]
fn timestamp() -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::{consistent, time_of};
    use core::cell::Cell;
    use ipc::info::ClockPage;

    #[test]
    fn ticks_are_scaled_without_overflow_and_never_run_backwards_past_the_base() {
        let page = ClockPage {
            base_tsc: 1_000,
            base_ns: 5_000,
            multiplier: 1 << 31,
            ..ClockPage::default()
        };
        assert_eq!(time_of(&page, 3_000), 6_000);
        assert_eq!(time_of(&page, 0), 5_000);
        let year = 3_000_000_000 * 86_400 * 365;
        assert_eq!(time_of(&page, 1_000 + year), 5_000 + year / 2);
    }

    #[test]
    fn a_state_that_is_being_written_is_read_again() {
        let reads = Cell::new(0);
        let page = consistent(|position| {
            reads.set(reads.get() + 1);
            match (position, reads.get()) {
                (0, 1) => 7,
                (0, _) => 8,
                (2, count) => count,
                _ => 1,
            }
        });
        assert_eq!(page.sequence, 8);
        assert!(page.base_ns > 7, "taken in the second round");
    }
}
