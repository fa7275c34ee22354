//! Time: read from the clock page without a system call where the machine allows, and sleeping.
#![cfg_attr(
    target_os = "none",
    expect(
        unsafe_code,
        reason = "the clock page is the kernel's, and the TSC is read by inline assembly"
    )
)]

use crate::syscall::invoke;
use core::hint::spin_loop;
use core::sync::atomic::AtomicU32;
#[cfg(target_os = "none")]
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use ipc::info::ClockPage;
use ipc::message::NEVER;
use ipc::{Deadline, Operation};

/// Nanoseconds of the monotonic clock since boot. 0 on the host.
pub fn now() -> u64 {
    loop {
        match ClockPage::read(word, timestamp) {
            Some(reading) if reading.usable => return reading.now,
            Some(_) => return read().0,
            None => spin_loop(),
        }
    }
}

/// Nanoseconds since 1970-01-01 UTC; `None` where the machine has no wall clock.
pub fn wall() -> Option<u64> {
    let wall = loop {
        match ClockPage::read_wall(word, timestamp) {
            Some((reading, 0)) if reading.usable => break 0,
            Some((reading, offset)) if reading.usable => break reading.now.wrapping_add(offset),
            Some(_) => break read().1,
            None => spin_loop(),
        }
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

/// A quadword of the clock page.
#[cfg(target_os = "none")]
#[inline(always)]
fn word(position: usize) -> u64 {
    let start = core::ptr::with_exposed_provenance::<[AtomicU64; ClockPage::WORDS]>(
        ipc::layout::CLOCK_PAGE as usize,
    );
    // SAFETY: the kernel maps the page, readable, in every task for as long as it lives, and
    // writes its quadwords atomically.
    let words = unsafe { &*start };
    words
        .get(position)
        .map_or(0, |word| word.load(Ordering::Relaxed))
}

/// There is no page on the host: all is 0, and nothing usable.
#[cfg(not(target_os = "none"))]
fn word(_: usize) -> u64 {
    0
}

/// The time stamp counter, read after all earlier loads and before all later ones (Intel SDM volume 2B,
/// RDTSC).
#[cfg(target_os = "none")]
fn timestamp() -> u64 {
    let (low, high): (u64, u64);
    // SAFETY: RDTSC changes nothing, and the kernel lets ring 3 execute it.
    unsafe {
        core::arch::asm!(
            "lfence",
            "rdtsc",
            "lfence",
            lateout("rax") low,
            lateout("rdx") high,
            options(nostack, preserves_flags),
        );
    }
    high << 32 | low
}

#[cfg(not(target_os = "none"))]
fn timestamp() -> u64 {
    0
}
