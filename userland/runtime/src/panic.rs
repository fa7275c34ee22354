//! What happens when a task panics: a log line with the place, one with the backtrace, and then a
//! fault, so that the supervisor restarts the task whatever its other threads do.

use crate::{backtrace, log, syscall};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

static PANICKING: AtomicBool = AtomicBool::new(false);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    // A panic in here, or in a second thread, says nothing more.
    if !PANICKING.swap(true, Ordering::Relaxed) {
        log::try_line(format_args!("panic: {info}"));
        log::try_line(format_args!("backtrace:{}", Addresses));
    }
    syscall::fault()
}

/// Writes the return addresses.
struct Addresses;

impl core::fmt::Display for Addresses {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mut result = Ok(());
        backtrace::each(|address| {
            if result.is_ok() {
                result = write!(formatter, " {address:#x}");
            }
        });
        result
    }
}
