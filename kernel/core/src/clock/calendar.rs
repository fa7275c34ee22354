//! The real-time clock's registers (Motorola MC146818 data sheet, section "Programming") as a time. UTC is
//! assumed, as hypervisors set it. Reading them is the mechanism's.

/// Status register B: the fields are binary numbers, not decimal digits.
pub const BINARY: u8 = 1 << 2;
/// Status register B: hours go to 24, not to 12.
pub const HOURS_24: u8 = 1 << 1;
/// In the hours, where they are 12: afternoon.
const AFTERNOON: u8 = 1 << 7;
/// The century where the clock does not tell it, and the first and last that are believed.
const CENTURY: u64 = 20;
const CENTURIES: core::ops::RangeInclusive<u64> = 20..=99;

/// What the registers hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// Register 0.
    pub second: u8,
    /// Register 2.
    pub minute: u8,
    /// Register 4.
    pub hour: u8,
    /// Register 7.
    pub day: u8,
    /// Register 8.
    pub month: u8,
    /// Register 9: the year in its century.
    pub year: u8,
    /// The register that the FADT names (ACPI Specification 6.5, table 5.9, CENTURY), if it names one.
    pub century: Option<u8>,
}

impl Fields {
    /// Seconds since 1970-01-01, as status register B says that the fields are to be read. `None` if they are no
    /// date and time. A century that cannot be is not believed.
    pub fn seconds(&self, status: u8) -> Option<u64> {
        let plain = |value: u8| {
            let (high, low) = (value >> 4, value & 0xf);
            match status & BINARY != 0 {
                true => Some(u64::from(value)),
                false if high <= 9 && low <= 9 => Some(u64::from(high * 10 + low)),
                false => None,
            }
        };
        let hour = if status & HOURS_24 != 0 {
            plain(self.hour)?
        } else {
            let hour = plain(self.hour & !AFTERNOON).filter(|hour| (1..=12).contains(hour))?;
            let noon = if self.hour & AFTERNOON != 0 { 12 } else { 0 };
            hour % 12 + noon
        };
        let century = self.century.and_then(plain);
        let century = century.filter(|century| CENTURIES.contains(century));
        let year = plain(self.year).filter(|year| *year <= 99)?;
        let year = century.unwrap_or(CENTURY) * 100 + year;
        let month = plain(self.month).filter(|month| (1..=12).contains(month))?;
        let day = plain(self.day).filter(|day| (1..=days_in(year, month)).contains(day))?;
        let (minute, second) = (plain(self.minute)?, plain(self.second)?);
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        Some(((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
    }
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

/// Days in a month, 1 to 12.
const fn days_in(year: u64, month: u64) -> u64 {
    let (next_year, next) = if month == 12 {
        (year + 1, 1)
    } else {
        (year, month + 1)
    };
    days(next_year, next, 1) - days(year, month, 1)
}

#[cfg(test)]
mod tests {
    use super::{BINARY, Fields, HOURS_24, days, days_in};

    /// 2031-02-28 23:59:58 in decimal digits and 24 hours.
    const DIGITS: Fields = Fields {
        second: 0x58,
        minute: 0x59,
        hour: 0x23,
        day: 0x28,
        month: 0x02,
        year: 0x31,
        century: None,
    };
    const SECONDS: u64 = 1_930_089_598;

    #[test]
    fn every_form_of_the_same_time_is_read() {
        let binary = Fields {
            second: 58,
            minute: 59,
            hour: 23,
            day: 28,
            month: 2,
            year: 31,
            century: None,
        };
        let hour = |fields: Fields, hour| Fields { hour, ..fields };
        assert_eq!(DIGITS.seconds(HOURS_24), Some(SECONDS));
        assert_eq!(binary.seconds(HOURS_24 | BINARY), Some(SECONDS));
        assert_eq!(hour(DIGITS, 0x91).seconds(0), Some(SECONDS));
        assert_eq!(hour(binary, 0x8b).seconds(BINARY), Some(SECONDS));
    }

    #[test]
    fn twelve_hours_begin_with_twelve() {
        let at = |hour| Fields { hour, ..DIGITS }.seconds(0);
        let midnight = SECONDS - 23 * 3600;
        assert_eq!(at(0x12), Some(midnight));
        assert_eq!(at(0x01), Some(midnight + 3600));
        assert_eq!(at(0x92), Some(midnight + 12 * 3600));
        for hour in [0x00, 0x80, 0x13, 0x93, 0x1a] {
            assert_eq!(at(hour), None, "{hour:#x}");
        }
    }

    #[test]
    fn a_century_is_believed_where_it_can_be() {
        let of = |century| {
            let century = Some(century);
            Fields { century, ..DIGITS }.seconds(HOURS_24)
        };
        assert_eq!(of(0x20), Some(SECONDS));
        let next = days(2131, 2, 28) * 86_400 + 86_398;
        assert_eq!(of(0x21), Some(next));
        for wrong in [0, 0x19, 0xff, 0x2a] {
            assert_eq!(of(wrong), Some(SECONDS), "{wrong:#x}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        assert_eq!(Fields::default().seconds(HOURS_24), None);
        let ones = Fields {
            second: 0xff,
            minute: 0xff,
            hour: 0xff,
            day: 0xff,
            month: 0xff,
            year: 0xff,
            century: Some(0xff),
        };
        for status in [0, BINARY, HOURS_24, BINARY | HOURS_24, 0xff] {
            assert_eq!(ones.seconds(status), None);
        }
        let wrong = |change: fn(&mut Fields)| {
            let mut fields = DIGITS;
            change(&mut fields);
            fields.seconds(HOURS_24)
        };
        assert_eq!(wrong(|fields| fields.day = 0x29), None, "no leap year");
        assert_eq!(wrong(|fields| fields.day = 0), None);
        assert_eq!(wrong(|fields| fields.month = 0x13), None);
        assert_eq!(wrong(|fields| fields.month = 0), None);
        assert_eq!(wrong(|fields| fields.hour = 0x24), None);
        assert_eq!(wrong(|fields| fields.minute = 0x60), None);
        assert_eq!(wrong(|fields| fields.second = 0x60), None);
        assert_eq!(wrong(|fields| fields.second = 0x5a), None, "no digit");
        assert_eq!(wrong(|fields| fields.year = 0xa0), None);
    }

    #[test]
    fn no_value_of_the_registers_does_harm() {
        for value in 0..=u8::MAX {
            for status in [0, BINARY, HOURS_24, BINARY | HOURS_24] {
                let fields = Fields {
                    second: value,
                    minute: value,
                    hour: value,
                    day: value,
                    month: value,
                    year: value,
                    century: Some(value),
                };
                if let Some(seconds) = fields.seconds(status) {
                    assert!(seconds < days(10_000, 1, 1) * 86_400);
                }
            }
        }
    }

    #[test]
    fn days_are_counted_through_leap_years() {
        assert_eq!(days(1970, 1, 1), 0);
        assert_eq!(days(2000, 2, 29), 11_016);
        assert_eq!(days(2026, 1, 1), 20_454);
        let lengths = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        for (month, length) in (1..).zip(lengths) {
            assert_eq!(days_in(2031, month), length);
        }
        let leap = [2000, 2024, 2028, 2400].map(|year| days_in(year, 2));
        assert_eq!(leap, [29; 4]);
        assert_eq!([2023, 2100, 2200].map(|year| days_in(year, 2)), [28; 3]);
    }
}
