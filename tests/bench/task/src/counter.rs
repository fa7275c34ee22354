//! Counting: the time-stamp counter, which under `-icount shift=0` counts instructions, and what is
//! subtracted from each measurement.
#![cfg_attr(
    target_os = "none",
    expect(
        unsafe_code,
        reason = "reading the time-stamp counter and a stretch of code of known length are assembly"
    )
)]

/// How often an operation is measured at once.
pub(crate) const ROUNDS: u64 = 1000;
/// Rounds that are not counted.
pub(crate) const WARM_UP: u64 = 4;
/// Instructions in [`known`]'s stretch.
const KNOWN: u64 = 1000;

/// The time-stamp counter. One instruction by `rdtsc`, two to put its halves together.
#[inline(always)]
pub(crate) fn read() -> u64 {
    #[cfg(target_os = "none")]
    // SAFETY: reading the counter changes nothing; the kernel lets ring 3 read it.
    unsafe {
        core::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_os = "none"))]
    0
}

/// Marks the beginning of what `tests/plugin` looks at on this processor; without the plugin it does
/// nothing.
#[inline(always)]
pub(crate) fn mark_begin() {
    #[cfg(target_os = "none")]
    // SAFETY: a no-operation that accesses no memory.
    unsafe {
        core::arch::asm!("nop dword ptr [rax + 0x5a750001]", options(nomem, nostack));
    }
}

/// Marks its end.
#[inline(always)]
pub(crate) fn mark_end() {
    #[cfg(target_os = "none")]
    // SAFETY: as above.
    unsafe {
        core::arch::asm!("nop dword ptr [rax + 0x5a750002]", options(nomem, nostack));
    }
}

/// Runs [`KNOWN`] instructions that do nothing.
#[inline(always)]
fn known() {
    #[cfg(target_os = "none")]
    // SAFETY: the instructions do nothing.
    unsafe {
        core::arch::asm!(".rept 1000", "nop", ".endr", options(nomem, nostack));
    }
}

/// Reports how much a stretch of known length is miscounted, once the cost of reading is taken off.
pub(crate) fn calibrate() {
    let cost = {
        let before = read();
        read() - before
    };
    let before = read();
    known();
    let counted = read() - before - cost;
    report("calibration_error", counted.abs_diff(KNOWN), "instructions");
}

/// Measures an operation: the mean of [`ROUNDS`], rounded to the nearest, the loop's own instructions
/// taken off.
pub(crate) fn measure<E>(mut operation: impl FnMut(u64) -> Result<(), E>) -> Result<u64, E> {
    // Once beforehand, so that what is made at first use is there.
    for round in 0..WARM_UP {
        operation(round)?;
    }
    let empty = {
        let before = read();
        for round in 0..ROUNDS {
            core::hint::black_box(round);
        }
        read() - before
    };
    let before = read();
    for round in 0..ROUNDS {
        operation(core::hint::black_box(round))?;
    }
    let taken = (read() - before).saturating_sub(empty);
    Ok((taken + ROUNDS / 2) / ROUNDS)
}

/// Prints a figure.
pub(crate) fn report(name: &str, value: u64, unit: &str) {
    runtime::log!("{name} {value} {unit}");
}
