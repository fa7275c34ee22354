//! The wall clock at boot where the hypervisor tells none: the CMOS real-time clock (Motorola MC146818 data
//! sheet), read once. What its registers mean is `kernel_core::clock::calendar`'s.
#![expect(unsafe_code, reason = "I/O ports")]

use crate::clock;
use kernel_core::clock::calendar::Fields;
use x86_64::instructions::port::Port;

/// Index and data port. Bit 7 of the index keeps NMIs on while it is clear.
const INDEX: u16 = 0x70;
const DATA: u16 = 0x71;
/// Registers.
const SECONDS: u8 = 0;
const MINUTES: u8 = 2;
const HOURS: u8 = 4;
const DAY: u8 = 7;
const MONTH: u8 = 8;
const YEAR: u8 = 9;
const STATUS_A: u8 = 10;
const STATUS_B: u8 = 11;
/// Status A: an update is in progress.
const UPDATING: u8 = 1 << 7;
/// What a clock that is not there reads as.
const ABSENT: u8 = 0xff;
/// How long the clock is read until two readings are alike, in nanoseconds. An update takes 2.2 ms at most, once a
/// second.
const PATIENCE: u64 = 20_000_000;

fn read(register: u8) -> u8 {
    // SAFETY: the index selects what is read, and reading these registers changes nothing: they are the time, the
    // first two of the status and what the FADT calls the century, among the clock's memory.
    unsafe {
        Port::<u8>::new(INDEX).write(register);
        Port::<u8>::new(DATA).read()
    }
}

/// Seconds since 1970-01-01, or `None` where the clock is missing or unset. `century` is the register that
/// the FADT names.
pub(crate) fn seconds(century: Option<u8>) -> Option<u64> {
    let fields = || Fields {
        second: read(SECONDS),
        minute: read(MINUTES),
        hour: read(HOURS),
        day: read(DAY),
        month: read(MONTH),
        year: read(YEAR),
        century: century.map(read),
    };
    let end = clock::now() + PATIENCE;
    let mut last = None;
    while clock::now() < end {
        match read(STATUS_A) {
            ABSENT => return None,
            status if status & UPDATING != 0 => core::hint::spin_loop(),
            _ => {
                let next = fields();
                if last == Some(next) {
                    return next.seconds(read(STATUS_B));
                }
                last = Some(next);
            }
        }
    }
    None
}
