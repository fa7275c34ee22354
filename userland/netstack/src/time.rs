//! The two clocks' meeting point: the kernel counts nanoseconds, smoltcp microseconds.

use smoltcp::time::Instant;

/// Nanoseconds of the kernel's monotonic clock.
pub type Nanoseconds = u64;

/// One second.
pub const SECOND: Nanoseconds = 1_000_000_000;

/// smoltcp's notion of a moment, rounded down.
pub(crate) fn instant(now: Nanoseconds) -> Instant {
    Instant::from_micros((now / 1_000) as i64)
}

/// The first moment at which [`instant`] reaches what smoltcp asked for: a caller that sleeps until
/// then never wakes a microsecond early and spins.
pub(crate) fn nanoseconds(moment: Instant) -> Nanoseconds {
    (moment.total_micros().max(0) as u64).saturating_mul(1_000)
}
