//! The joined log: what all tasks say, line by line, each line with its task's name. The newest
//! bytes are kept; a position in the log stays valid, or says that it is gone.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;

/// Bytes of the log that are kept.
pub const KEPT_BYTES: usize = 32 * 1024;
/// Longest line of a task; what is longer is broken.
pub const MAX_LINE: usize = 240;

/// The log.
#[derive(Debug, Default)]
pub struct Journal {
    bytes: VecDeque<u8>,
    /// Position of the first byte kept.
    start: u64,
}

impl Journal {
    /// An empty log.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a line; its end is added too.
    pub fn add(&mut self, line: &str) {
        let added = line.len() + 1;
        let excess = (self.bytes.len() + added).saturating_sub(KEPT_BYTES);
        let dropped = excess.min(self.bytes.len());
        self.bytes.drain(..dropped);
        self.start += dropped as u64;
        self.bytes.extend(line.bytes());
        self.bytes.push_back(b'\n');
    }

    /// Position of the log's end.
    pub fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// At most `limit` bytes from a position on, and the position of the first: later than asked
    /// where older ones are gone, the log's end where it is beyond it.
    pub fn read(&self, from: u64, limit: usize) -> (u64, Vec<u8>) {
        let end = self.end();
        let position = from.clamp(self.start, end);
        // The difference is at most the number of bytes kept.
        let skip = (position - self.start) as usize;
        let bytes = self.bytes.iter().skip(skip).take(limit).copied();
        (position, bytes.collect())
    }
}

/// Cuts the bytes of one task into lines.
#[derive(Debug)]
pub struct Lines {
    name: String,
    line: String,
}

impl Lines {
    /// Nothing was said yet by the task of this name.
    pub fn new(name: &str) -> Self {
        let mut lines = Self {
            name: String::from(name),
            line: String::new(),
        };
        lines.begin();
        lines
    }

    fn begin(&mut self) {
        self.line.clear();
        self.line.push_str(&self.name);
        self.line.push_str(": ");
    }

    /// Takes bytes and hands on every line that they complete. A task cannot send control
    /// characters to the terminal of whoever reads its log.
    pub fn feed(&mut self, bytes: &[u8], mut take: impl FnMut(&str)) {
        for byte in bytes {
            let full = self.line.len() >= self.name.len() + 2 + MAX_LINE;
            if *byte == b'\n' || full {
                take(&self.line);
                self.begin();
            }
            match *byte {
                b'\n' | b'\r' => {}
                b' '..=b'~' => self.line.push(char::from(*byte)),
                _ => self.line.push('?'),
            }
        }
    }

    /// Hands on what was said of an unfinished line: nothing will follow.
    pub fn finish(&mut self, take: impl FnOnce(&str)) {
        if self.line.len() > self.name.len() + 2 {
            take(&self.line);
        }
        self.begin();
    }
}

#[cfg(test)]
mod tests {
    use super::{Journal, KEPT_BYTES, Lines, MAX_LINE};

    fn text(bytes: &[u8]) -> &str {
        core::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn positions_lead_through_the_log() {
        let mut journal = Journal::new();
        journal.add("one");
        journal.add("two");
        let (position, bytes) = journal.read(0, 6);
        assert_eq!((position, text(&bytes)), (0, "one\ntw"));
        let (position, bytes) = journal.read(6, 100);
        assert_eq!((position, text(&bytes)), (6, "o\n"));
        assert_eq!(journal.read(8, 100), (8, Vec::new()));
        assert_eq!(journal.read(u64::MAX, 100), (8, Vec::new()));
    }

    #[test]
    fn the_oldest_bytes_go_and_their_positions_with_them() {
        let mut journal = Journal::new();
        for _ in 0..KEPT_BYTES {
            journal.add("0123456789");
        }
        let (position, bytes) = journal.read(0, usize::MAX);
        assert_eq!(position, (KEPT_BYTES * 11 - KEPT_BYTES) as u64);
        assert_eq!(bytes.len(), KEPT_BYTES);
    }

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let mut found = Vec::new();
        let mut lines = Lines::new("web");
        for piece in pieces {
            lines.feed(piece, |line| found.push(line.to_string()));
        }
        lines.finish(|line| found.push(line.to_string()));
        found
    }

    #[test]
    fn lines_may_come_in_pieces_and_end_unfinished() {
        assert_eq!(
            lines(&[b"on", b"e\r\ntwo", b"\n", b"thr"]),
            ["web: one", "web: two", "web: thr"]
        );
        assert_eq!(lines(&[b"\n"]), ["web: "]);
        assert!(lines(&[]).is_empty());
    }

    #[test]
    fn control_characters_do_not_pass() {
        assert_eq!(lines(&[b"\x1b[2Ja\x00\xff\n"]), ["web: ?[2Ja??"]);
    }

    #[test]
    fn a_long_line_is_broken() {
        let found = lines(&[&[b'a'; 2 * MAX_LINE + 1]]);
        let lengths: Vec<usize> = found.iter().map(|line| line.len() - 5).collect();
        assert_eq!(lengths, [MAX_LINE, MAX_LINE, 1]);
    }
}
