//! This CPU's timer: one deadline at a time, from the local APIC. In TSC deadline mode the hardware
//! takes the deadline as it is; else its 32-bit counter is given as many ticks as it can hold, at the
//! finest rate that reaches the deadline, and long waits are chained.

use crate::cpuid::{self, Feature};
use crate::percpu::{self, PerCpu};
use crate::uart::say;
use crate::{apic, clock, kvmclock};
use kernel_core::sync::{AtomicU64, Ordering};

/// Timer ticks per nanosecond, times 2^32, at divider 1. Set once; 0 in TSC deadline mode.
static TICKS: AtomicU64 = AtomicU64::new(0);
/// Largest divider of the counter: 2^7.
const LARGEST_SHIFT: u32 = 7;
/// Longest wait that is given to the hardware in one piece, in nanoseconds: an hour. Deadlines come
/// from ring 3 and may be centuries away, where a hypervisor's own arithmetic overflows.
const LONGEST: u64 = 3600 * clock::SECOND;
/// The same where the clock goes by kvmclock, which the timer's interrupt looks at: a minute. So long CPU 0
/// sleeps at most then, with no deadline either.
const LONGEST_FOLLOWING: u64 = 60 * clock::SECOND;
/// How long the counter's rate is measured at a time, in nanoseconds, and how often.
const MEASURE: u64 = 500_000;
const MEASUREMENTS: u32 = 5;

/// How far ahead the deadline is by which the hardware is tried, in nanoseconds.
const TRIAL: u64 = 100_000;
/// Looks at the timer before its interrupt is given up: 0.1 s, or longer where each look leaves a guest.
const PATIENCE: u32 = 100_000;

/// Measures the counter's rate against the clock, where it is used. Returns it in Hz. To be called with
/// interrupts off, on the first CPU.
pub(crate) fn calibrate() -> Option<u64> {
    if cpuid::has(Feature::TscDeadline) {
        if keeps_deadlines() {
            return None;
        }
        say!("the timer does not keep TSC deadlines: it counts instead");
        cpuid::forget(Feature::TscDeadline);
        apic::enable();
    }
    // Each is too low, if by little, so that the highest is the best.
    let hz = (0..MEASUREMENTS).map(|_| measure()).max().unwrap_or(0);
    assert!(hz != 0, "the local APIC's timer does not count");
    TICKS.store(
        ((hz << 32) / u128::from(clock::SECOND)) as u64,
        Ordering::Relaxed,
    );
    u64::try_from(hz).ok()
}

/// The counter's rate in Hz, or less: its time lies within the clock's, and where a hypervisor holds the CPU up in
/// between, the rate comes out too low. A timer that is early is set again.
fn measure() -> u128 {
    let start = clock::now();
    apic::start_timer(u32::MAX, 0);
    clock::spin(MEASURE);
    let (left, end) = (apic::timer_count(), clock::now());
    apic::start_timer(0, 0);
    u128::from(u32::MAX - left) * u128::from(clock::SECOND) / u128::from(end - start)
}

/// Whether the timer interrupts when the TSC reaches a deadline, not before. One that forgets how far the TSC was
/// set back, as that of Bochs 2.7 after a reset, would interrupt without end.
fn keeps_deadlines() -> bool {
    let deadline = clock::tsc_after(TRIAL);
    apic::set_deadline(deadline);
    while !apic::timer_is_due() {
        if clock::tsc() >= deadline {
            let comes = (0..PATIENCE).any(|_| apic::timer_is_due());
            apic::set_deadline(0);
            return comes;
        }
    }
    clock::tsc() >= deadline
}

/// Replaces this CPU's deadline; `u64::MAX` for none.
pub(crate) fn set(deadline: u64) {
    let cpu = percpu::this();
    cpu.deadline.store(deadline, Ordering::Relaxed);
    if deadline != u64::MAX || looks_at_clock(cpu) {
        arm(deadline);
    } else if cpuid::has(Feature::TscDeadline) {
        apic::set_deadline(0);
    } else {
        apic::start_timer(0, 0);
    }
}

/// Whether this CPU looks at kvmclock from time to time, whatever else it waits for.
fn looks_at_clock(cpu: &PerCpu) -> bool {
    kvmclock::is_followed() && cpu.index.load(Ordering::Relaxed) == 0
}

fn arm(deadline: u64) {
    let longest = if kvmclock::is_followed() {
        LONGEST_FOLLOWING
    } else {
        LONGEST
    };
    let left = deadline.saturating_sub(clock::now()).min(longest);
    if cpuid::has(Feature::TscDeadline) {
        return apic::set_deadline(clock::tsc_after(left));
    }
    let ticks = (u128::from(left) * u128::from(TICKS.load(Ordering::Relaxed))) >> 32;
    let shift = (0..LARGEST_SHIFT).find(|shift| ticks >> shift <= u128::from(u32::MAX));
    let shift = shift.unwrap_or(LARGEST_SHIFT);
    let count = u32::try_from(ticks >> shift).unwrap_or(u32::MAX);
    apic::start_timer(count.saturating_add(1), shift);
}

/// In the timer's interrupt: whether the deadline has come. If it has not, the timer runs on. Lets the clock
/// follow kvmclock, and so deadlines.
pub(crate) fn expired(cpu: &PerCpu) -> bool {
    kvmclock::follow();
    let deadline = cpu.deadline.load(Ordering::Relaxed);
    if deadline == u64::MAX && !looks_at_clock(cpu) {
        // Disarmed while the interrupt was under way.
        return false;
    }
    if clock::now() >= deadline {
        cpu.deadline.store(u64::MAX, Ordering::Relaxed);
        if looks_at_clock(cpu) {
            arm(u64::MAX);
        }
        return true;
    }
    arm(deadline);
    false
}
