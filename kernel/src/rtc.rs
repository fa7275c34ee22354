//! The wall clock at boot: the CMOS real-time clock (Motorola MC146818 data sheet), read once. UTC is
//! assumed, as hypervisors set it.
#![expect(unsafe_code, reason = "I/O ports")]

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
/// Status A: an update is in progress. Status B: binary, not decimal digits; 24 hours, not 12.
const UPDATING: u8 = 1 << 7;
const BINARY: u8 = 1 << 2;
const HOURS_24: u8 = 1 << 1;
/// In the hours, where they are 12: afternoon.
const AFTERNOON: u8 = 1 << 7;
/// Readings before two alike are given up: a clock that is not there reads as anything.
const TRIES: u32 = 1000;

fn read(register: u8) -> u8 {
    // SAFETY: the index selects what is read, and reading these registers changes nothing.
    unsafe {
        Port::<u8>::new(INDEX).write(register);
        Port::<u8>::new(DATA).read()
    }
}

/// Seconds since 1970-01-01, or `None` where the clock is missing or unset.
pub(crate) fn seconds() -> Option<u64> {
    let reading = || [SECONDS, MINUTES, HOURS, DAY, MONTH, YEAR].map(read);
    let mut last = reading();
    for _ in 0..TRIES {
        if read(STATUS_A) & UPDATING != 0 {
            continue;
        }
        let next = reading();
        if next == last {
            return convert(next, read(STATUS_B));
        }
        last = next;
    }
    None
}

fn convert(fields: [u8; 6], status: u8) -> Option<u64> {
    let plain = |value: u8| {
        if status & BINARY != 0 {
            value
        } else {
            (value >> 4) * 10 + (value & 0xf)
        }
    };
    let [second, minute, hour, day, month, year] = fields;
    let mut hours = plain(hour & !AFTERNOON);
    if status & HOURS_24 == 0 {
        hours = hours % 12 + if hour & AFTERNOON != 0 { 12 } else { 0 };
    }
    let (second, minute, day, month, year) = (
        plain(second),
        plain(minute),
        plain(day),
        plain(month),
        plain(year),
    );
    if second > 59
        || minute > 59
        || hours > 23
        || !(1..=31).contains(&day)
        || !(1..=12).contains(&month)
        || year > 99
    {
        return None;
    }
    let days = days(2000 + year as u64, month as u64, day as u64);
    Some(((days * 24 + u64::from(hours)) * 60 + u64::from(minute)) * 60 + u64::from(second))
}

/// Days from 1970-01-01 to a date of the Gregorian calendar, 1970 and later.
const fn days(year: u64, month: u64, day: u64) -> u64 {
    // Years begin in March here, so that the leap day is the last: month 0 is March.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    // Days from March to the month: 31, 30, 31, 30, 31 repeat every five months.
    let in_year = (153 * month + 2) / 5 + day - 1;
    // 719,468 days from 0000-03-01 to 1970-01-01.
    365 * year + year / 4 - year / 100 + year / 400 + in_year - 719_468
}

const _: () =
    assert!(days(1970, 1, 1) == 0 && days(2000, 2, 29) == 11_016 && days(2026, 1, 1) == 20_454);
