//! How the shell writes durations, sizes, dates and tables.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

/// A duration in nanoseconds, as a person reads it: `3 d 04:05:06` or `04:05:06.789`.
pub fn duration(nanoseconds: u64) -> String {
    let milliseconds = nanoseconds / 1_000_000;
    let seconds = milliseconds / 1000;
    let (days, hours) = (seconds / 86_400, seconds / 3600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = if days > 0 {
        write!(text, "{days} d {hours:02}:{minutes:02}:{rest:02}")
    } else {
        let thousandths = milliseconds % 1000;
        write!(text, "{hours:02}:{minutes:02}:{rest:02}.{thousandths:03}")
    };
    text
}

/// CPU time in nanoseconds as seconds with three digits: `12.345`.
pub fn cpu_time(nanoseconds: u64) -> String {
    let milliseconds = nanoseconds / 1_000_000;
    let mut text = String::new();
    let _ = write!(text, "{}.{:03}", milliseconds / 1000, milliseconds % 1000);
    text
}

/// A number of bytes: `512 B`, `12 KiB`, `3.5 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut text = String::new();
    if bytes < 1024 {
        let _ = write!(text, "{bytes} B");
        return text;
    }
    let mut position = 0;
    let mut unit = 1024_u64;
    while bytes / unit >= 1024 && position + 1 < UNITS.len() {
        unit *= 1024;
        position += 1;
    }
    let tenths = u128::from(bytes) * 10 / u128::from(unit);
    let name = UNITS[position];
    let _ = if tenths >= 100 || tenths % 10 == 0 {
        write!(text, "{} {name}", tenths / 10)
    } else {
        write!(text, "{}.{} {name}", tenths / 10, tenths % 10)
    };
    text
}

/// A time in nanoseconds since 1970-01-01 00:00 UTC: `2026-11-22 22:02:21 UTC`.
pub fn date(nanoseconds: u64) -> String {
    let seconds = nanoseconds / 1_000_000_000;
    let (year, month, day) = civil(seconds / 86_400);
    let (hours, minutes, rest) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let mut text = String::new();
    let _ = write!(
        text,
        "{year}-{month:02}-{day:02} {hours:02}:{minutes:02}:{rest:02} UTC"
    );
    text
}

/// The Gregorian date of a day number, day 0 being 1970-01-01.
fn civil(mut days: u64) -> (u64, u64, u64) {
    // 400 years are a whole number of days, so that the loop below is short.
    const DAYS_OF_400_YEARS: u64 = 146_097;
    let mut year = 1970 + days / DAYS_OF_400_YEARS * 400;
    days %= DAYS_OF_400_YEARS;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

/// How a column of a table is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Sets a table: each column as wide as its widest cell, two blanks between columns, lines ended
/// by CR LF.
pub fn table(heads: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let widths: Vec<usize> = (0..heads.len())
        .map(|column| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .map(String::len)
                .fold(heads[column].0.len(), usize::max)
        })
        .collect();
    let mut text = String::new();
    let head: Vec<&str> = heads.iter().map(|(name, _)| *name).collect();
    line(&mut text, heads, &widths, &head);
    for row in rows {
        let cells: Vec<&str> = row.iter().map(String::as_str).collect();
        line(&mut text, heads, &widths, &cells);
    }
    text
}

fn line(text: &mut String, heads: &[(&str, Align)], widths: &[usize], cells: &[&str]) {
    let start = text.len();
    for ((cell, width), (_, align)) in cells.iter().zip(widths).zip(heads) {
        let _ = match align {
            Align::Left => write!(text, "{cell:<width$}  "),
            Align::Right => write!(text, "{cell:>width$}  "),
        };
    }
    let end = text[start..].trim_end().len();
    text.truncate(start + end);
    text.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use super::{Align, cpu_time, date, duration, size, table};

    #[test]
    fn durations() {
        assert_eq!(duration(0), "00:00:00.000");
        assert_eq!(duration(3_723_004_999_999), "01:02:03.004");
        assert_eq!(duration(90_061_000_000_000), "1 d 01:01:01");
        assert_eq!(cpu_time(12_345_678_901), "12.345");
    }

    #[test]
    fn sizes() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1024), "1 KiB");
        assert_eq!(size(3 << 19), "1.5 MiB");
        assert_eq!(size(64 << 20), "64 MiB");
        assert_eq!(size(u64::MAX), "16777215 TiB");
    }

    #[test]
    fn dates() {
        let at = |seconds: u64| date(seconds * 1_000_000_000);
        assert_eq!(at(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(at(951_782_399), "2000-02-28 23:59:59 UTC");
        assert_eq!(at(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(at(1_795_384_941), "2026-11-22 22:02:21 UTC");
        assert_eq!(at(4_107_542_400), "2100-03-01 00:00:00 UTC");
    }

    #[test]
    fn tables_line_up() {
        let rows = [
            vec!["init".to_string(), "1".to_string()],
            vec!["virtio-net".to_string(), "1234".to_string()],
        ];
        let text = table(&[("NAME", Align::Left), ("CPU", Align::Right)], &rows);
        assert_eq!(
            text,
            "NAME         CPU\r\ninit           1\r\nvirtio-net  1234\r\n"
        );
    }
}
