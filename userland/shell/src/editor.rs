//! The line editor: takes keys, keeps the line and writes what the terminal has to show.
//!
//! It writes the prompt once for each line; later changes move the cursor instead, so that what
//! reads the console sees one prompt for each command. A line that is wider than the terminal is
//! shown through a window.

use alloc::string::String;
use core::fmt::Write;

use crate::completion::{self, Completion};
use crate::history::History;
use crate::key::Key;

/// Most characters of a line.
pub const MAX_LINE: usize = 512;
/// Width of the terminal that is assumed; its last column stays free, so that it never wraps.
pub const COLUMNS: usize = 80;

/// What came of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The line goes on.
    Editing,
    /// The line is complete.
    Entered(String),
    /// The line was given up.
    Interrupted,
}

/// The editor. The line is ASCII: the decoder lets nothing else through.
#[derive(Debug)]
pub struct Editor {
    prompt: &'static str,
    words: &'static [&'static str],
    line: String,
    cursor: usize,
    /// First character of the line that is on the screen.
    first: usize,
    history: History,
}

impl Editor {
    /// An editor with this prompt that completes these words.
    pub fn new(prompt: &'static str, words: &'static [&'static str]) -> Self {
        Self {
            prompt,
            words,
            line: String::new(),
            cursor: 0,
            first: 0,
            history: History::new(),
        }
    }

    /// Shows the prompt and the line so far: at the beginning, and when something else was printed
    /// in between.
    pub fn show(&mut self, out: &mut String) {
        out.push_str(self.prompt);
        if !self.line.is_empty() {
            self.redraw(out);
        }
    }

    /// Takes one key; `out` gets what to write to the terminal.
    pub fn key(&mut self, key: Key, out: &mut String) -> Outcome {
        match key {
            Key::Character(byte) => self.insert(byte, out),
            Key::Enter => return self.enter(out),
            Key::Interrupt => return self.interrupt(out),
            Key::Tab => self.complete(out),
            Key::Clear => {
                out.push_str("\x1b[H\x1b[2J");
                self.show(out);
            }
            Key::Up | Key::Down => self.recall(key, out),
            Key::Left | Key::Right | Key::Home | Key::End => self.motion(key, out),
            Key::Backspace | Key::Delete | Key::KillBefore | Key::KillAfter | Key::KillWord => {
                self.delete(key, out);
            }
        }
        Outcome::Editing
    }

    fn enter(&mut self, out: &mut String) -> Outcome {
        out.push_str("\r\n");
        let line = core::mem::take(&mut self.line);
        self.history.add(line.trim());
        self.reset();
        Outcome::Entered(line)
    }

    fn interrupt(&mut self, out: &mut String) -> Outcome {
        out.push_str("^C\r\n");
        self.history.add("");
        self.reset();
        Outcome::Interrupted
    }

    fn reset(&mut self) {
        self.line.clear();
        self.cursor = 0;
        self.first = 0;
    }

    fn insert(&mut self, byte: u8, out: &mut String) {
        if self.line.len() >= MAX_LINE {
            return out.push('\x07');
        }
        let at_end = self.cursor == self.line.len();
        self.line.insert(self.cursor, char::from(byte));
        self.cursor += 1;
        // The common case, and the one that must work on a terminal without cursor control.
        if at_end && self.cursor - self.first < self.width() {
            out.push(char::from(byte));
        } else {
            self.redraw(out);
        }
    }

    fn motion(&mut self, key: Key, out: &mut String) {
        let target = match key {
            Key::Left => self.cursor.saturating_sub(1),
            Key::Right => (self.cursor + 1).min(self.line.len()),
            Key::Home => 0,
            _ => self.line.len(),
        };
        if target != self.cursor {
            self.cursor = target;
            self.redraw(out);
        }
    }

    fn delete(&mut self, key: Key, out: &mut String) {
        let (from, to) = match key {
            Key::Backspace => (self.cursor.saturating_sub(1), self.cursor),
            Key::Delete => (self.cursor, (self.cursor + 1).min(self.line.len())),
            Key::KillBefore => (0, self.cursor),
            Key::KillAfter => (self.cursor, self.line.len()),
            _ => (self.word_start(), self.cursor),
        };
        if from == to {
            return;
        }
        let at_end = to == self.line.len();
        self.line.drain(from..to);
        self.cursor = from;
        if key == Key::Backspace && at_end && self.cursor > self.first {
            out.push_str("\x08 \x08");
        } else {
            self.redraw(out);
        }
    }

    /// Where the word before the cursor begins, blanks after it included.
    fn word_start(&self) -> usize {
        let before = self.line[..self.cursor].trim_end();
        before.rfind(' ').map_or(0, |blank| blank + 1)
    }

    fn recall(&mut self, key: Key, out: &mut String) {
        let shown = match key {
            Key::Up => self.history.up(&self.line),
            _ => self.history.down(),
        };
        let Some(shown) = shown else {
            return out.push('\x07');
        };
        let shown = String::from(shown);
        self.line = shown;
        self.cursor = self.line.len();
        self.redraw(out);
    }

    fn complete(&mut self, out: &mut String) {
        match completion::complete(&self.line[..self.cursor], self.words) {
            Completion::Nothing => out.push('\x07'),
            Completion::Insert(text) => {
                for byte in text.bytes() {
                    self.insert(byte, out);
                }
            }
            Completion::Several(words) => {
                out.push_str("\r\n");
                for word in words {
                    out.push_str(word);
                    out.push_str("  ");
                }
                out.push_str("\r\n");
                self.show(out);
            }
        }
    }

    /// Characters of the line that fit on the screen.
    fn width(&self) -> usize {
        COLUMNS - 1 - self.prompt.len()
    }

    /// Writes the visible part of the line anew and puts the cursor where it belongs.
    fn redraw(&mut self, out: &mut String) {
        let width = self.width();
        if self.cursor < self.first {
            self.first = self.cursor;
        } else if self.cursor - self.first >= width {
            self.first = self.cursor - width + 1;
        }
        let end = self.line.len().min(self.first + width);
        column(self.prompt.len(), out);
        out.push_str(&self.line[self.first..end]);
        out.push_str("\x1b[K");
        column(self.prompt.len() + self.cursor - self.first, out);
    }
}

/// Moves the terminal's cursor to a column of its row, counted from 0.
fn column(column: usize, out: &mut String) {
    // Writing to a string cannot fail.
    let _ = write!(out, "\r\x1b[{column}C");
}

#[cfg(test)]
mod tests {
    use super::{COLUMNS, Editor, MAX_LINE, Outcome};
    use crate::key::Decoder;

    const WORDS: &[&str] = &["halt", "help", "ping", "ps"];

    /// A terminal that knows what the editor uses: text, CR, LF, BS, and the control sequences
    /// C (right), K (erase to the end), H (home), J (clear).
    #[derive(Default)]
    struct Terminal {
        rows: Vec<Vec<u8>>,
        row: usize,
        column: usize,
    }

    impl Terminal {
        fn write(&mut self, text: &str) {
            let mut bytes = text.bytes();
            while let Some(byte) = bytes.next() {
                match byte {
                    b'\r' => self.column = 0,
                    b'\n' => self.row += 1,
                    0x08 => self.column -= 1,
                    0x07 => {}
                    0x1b => {
                        assert_eq!(bytes.next(), Some(b'['));
                        let mut number = 0;
                        let end = loop {
                            let byte = bytes.next().unwrap();
                            if !byte.is_ascii_digit() {
                                break byte;
                            }
                            number = number * 10 + usize::from(byte - b'0');
                        };
                        self.control(number, end);
                    }
                    _ => self.put(byte),
                }
            }
        }

        fn control(&mut self, number: usize, end: u8) {
            match end {
                b'C' => self.column += number.max(1),
                b'K' => {
                    let column = self.column;
                    self.current().truncate(column);
                }
                b'H' => (self.row, self.column) = (0, 0),
                b'J' => self.rows.clear(),
                other => panic!("the terminal does not know {other}"),
            }
        }

        fn current(&mut self) -> &mut Vec<u8> {
            while self.rows.len() <= self.row {
                self.rows.push(Vec::new());
            }
            &mut self.rows[self.row]
        }

        fn put(&mut self, byte: u8) {
            let column = self.column;
            let row = self.current();
            while row.len() <= column {
                row.push(b' ');
            }
            row[column] = byte;
            self.column += 1;
            assert!(self.column < COLUMNS, "the last column stays free");
        }

        fn row(&self, number: usize) -> String {
            let row = self.rows.get(number).cloned().unwrap_or_default();
            String::from_utf8(row).unwrap().trim_end().to_string()
        }
    }

    struct Session {
        editor: Editor,
        decoder: Decoder,
        terminal: Terminal,
        entered: Vec<String>,
        interrupted: usize,
        raw: String,
    }

    impl Session {
        fn new() -> Self {
            let mut session = Self {
                editor: Editor::new("> ", WORDS),
                decoder: Decoder::new(),
                terminal: Terminal::default(),
                entered: Vec::new(),
                interrupted: 0,
                raw: String::new(),
            };
            let mut out = String::new();
            session.editor.show(&mut out);
            session.terminal.write(&out);
            session
        }

        fn type_in(&mut self, bytes: &[u8]) {
            for byte in bytes {
                let Some(key) = self.decoder.feed(*byte) else {
                    continue;
                };
                let mut out = String::new();
                match self.editor.key(key, &mut out) {
                    Outcome::Editing => {}
                    Outcome::Entered(line) => {
                        self.entered.push(line);
                        self.editor.show(&mut out);
                    }
                    Outcome::Interrupted => {
                        self.interrupted += 1;
                        self.editor.show(&mut out);
                    }
                }
                self.terminal.write(&out);
                self.raw.push_str(&out);
            }
        }

        /// The screen shows the line and the cursor stands where the editor thinks.
        fn expect(&self, row: usize, text: &str, cursor: usize) {
            assert_eq!(self.terminal.row(row), text);
            assert_eq!((self.terminal.row, self.terminal.column), (row, cursor));
        }
    }

    #[test]
    fn text_is_entered() {
        let mut session = Session::new();
        session.type_in(b"ps\r");
        assert_eq!(session.entered, ["ps"]);
        session.expect(1, ">", 2);
        assert_eq!(
            session.raw, "ps\r\n> ",
            "plain typing needs no cursor control"
        );
    }

    #[test]
    fn editing_in_the_middle() {
        let mut session = Session::new();
        session.type_in(b"pxg\x1b[D\x7fin");
        session.expect(0, "> ping", 5);
        session.type_in(b"\x1b[Ha\x1b[Fz");
        session.expect(0, "> apingz", 8);
        session.type_in(b"\x01\x1b[3~\r");
        assert_eq!(session.entered, ["pingz"]);
    }

    #[test]
    fn deleting_at_the_ends_does_nothing() {
        let mut session = Session::new();
        session.type_in(b"\x7f\x1b[3~\x1b[D\x1b[Cab\x1b[3~\x01\x7f\r");
        assert_eq!(session.entered, ["ab"]);
    }

    #[test]
    fn killing_parts_of_the_line() {
        let mut session = Session::new();
        session.type_in(b"one two  \x17");
        session.expect(0, "> one", 6);
        session.type_in(b"three\x1b[D\x1b[D\x15");
        session.expect(0, "> ee", 2);
        session.type_in(b"\x1b[C\x0b\r");
        assert_eq!(session.entered, ["e"]);
    }

    #[test]
    fn control_c_gives_the_line_up() {
        let mut session = Session::new();
        session.type_in(b"nonsense\x03ps\r");
        assert_eq!(session.interrupted, 1);
        assert_eq!(session.entered, ["ps"]);
        assert_eq!(session.terminal.row(0), "> nonsense^C");
    }

    #[test]
    fn control_l_keeps_the_line() {
        let mut session = Session::new();
        session.type_in(b"ps\rhel\x1b[D\x0c");
        session.expect(0, "> hel", 4);
    }

    #[test]
    fn history_is_recalled_and_edited() {
        let mut session = Session::new();
        session.type_in(b"ping a\rps\rdraft\x1b[A\x1b[A");
        session.expect(2, "> ping a", 8);
        session.type_in(b"\x1b[B\x1b[B");
        session.expect(2, "> draft", 7);
        session.type_in(b"\x1b[A\x1b[A\x7fb\r");
        assert_eq!(session.entered, ["ping a", "ps", "ping b"]);
    }

    #[test]
    fn tab_completes_and_lists() {
        let mut session = Session::new();
        session.type_in(b"pi\t");
        session.expect(0, "> ping", 7);
        session.type_in(b"\x15h\t");
        assert_eq!(session.terminal.row(1), "halt  help");
        session.expect(2, "> h", 3);
    }

    #[test]
    fn lines_wider_than_the_terminal_scroll() {
        let mut session = Session::new();
        let long: Vec<u8> = (0..200).map(|number| b'a' + number % 26).collect();
        session.type_in(&long);
        session.type_in(b"\x1b[H");
        session.expect(
            0,
            &format!("> {}", core::str::from_utf8(&long[..COLUMNS - 3]).unwrap()),
            2,
        );
        session.type_in(b"X\x1b[F\x7f\r");
        let expected = format!("X{}", core::str::from_utf8(&long[..199]).unwrap());
        assert_eq!(session.entered, [expected]);
    }

    #[test]
    fn a_line_has_an_end() {
        let mut session = Session::new();
        session.type_in(&[b'a'; MAX_LINE + 10]);
        session.type_in(b"\r");
        assert_eq!(session.entered[0].len(), MAX_LINE);
    }
}
