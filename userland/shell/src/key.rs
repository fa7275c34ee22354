//! Turns the bytes of a terminal into keys. An escape sequence may be split over any number of
//! reads. What a key does is the editor's business.

/// A key, or what a key stands for on a line editor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// A printable ASCII character.
    Character(u8),
    /// Ends the line.
    Enter,
    /// Completes a word.
    Tab,
    /// Deletes the character before the cursor.
    Backspace,
    /// Deletes the character under the cursor.
    Delete,
    /// One character to the left.
    Left,
    /// One character to the right.
    Right,
    /// To the beginning of the line.
    Home,
    /// To the end of the line.
    End,
    /// The line before in the history.
    Up,
    /// The line after in the history.
    Down,
    /// Gives the line up (control C).
    Interrupt,
    /// Deletes everything before the cursor (control U).
    KillBefore,
    /// Deletes everything from the cursor on (control K).
    KillAfter,
    /// Deletes the word before the cursor (control W).
    KillWord,
    /// Clears the screen (control L).
    Clear,
}

/// Where in an escape sequence the decoder is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Outside.
    #[default]
    Ground,
    /// After a carriage return: a line feed belongs to it.
    Return,
    /// After ESC.
    Escape,
    /// After ESC O (ECMA-48, section 8.3.143: single shift three).
    SingleShift,
    /// In a control sequence (ECMA-48, section 5.4), with its first parameter so far; `None` once
    /// there was more than one parameter or a byte that makes it no key of ours.
    Control(Option<u8>),
}

/// The decoder. One byte gives at most one key.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    state: State,
}

impl Decoder {
    /// A decoder that has seen nothing.
    pub const fn new() -> Self {
        Self {
            state: State::Ground,
        }
    }

    /// Takes the next byte and says which key it completes, if any.
    pub fn feed(&mut self, byte: u8) -> Option<Key> {
        match core::mem::take(&mut self.state) {
            State::Ground => self.ground(byte),
            State::Return if byte == b'\n' => None,
            State::Return => self.ground(byte),
            State::Escape => self.escape(byte),
            State::SingleShift => letter(byte),
            State::Control(parameter) => self.control(parameter, byte),
        }
    }

    fn ground(&mut self, byte: u8) -> Option<Key> {
        match byte {
            b'\r' => {
                self.state = State::Return;
                Some(Key::Enter)
            }
            0x1b => {
                self.state = State::Escape;
                None
            }
            b'\n' => Some(Key::Enter),
            b'\t' => Some(Key::Tab),
            0x08 | 0x7f => Some(Key::Backspace),
            b' '..=b'~' => Some(Key::Character(byte)),
            _ => control_character(byte),
        }
    }

    fn escape(&mut self, byte: u8) -> Option<Key> {
        match byte {
            b'[' => self.state = State::Control(Some(0)),
            b'O' => self.state = State::SingleShift,
            0x1b => self.state = State::Escape,
            // A control character is never part of a sequence: the escape was a key of its own.
            0x00..=0x1f | 0x7f => return self.ground(byte),
            _ => {}
        }
        None
    }

    fn control(&mut self, parameter: Option<u8>, byte: u8) -> Option<Key> {
        match byte {
            b'0'..=b'9' => {
                let next = parameter
                    .and_then(|value| value.checked_mul(10))
                    .and_then(|value| value.checked_add(byte - b'0'));
                self.state = State::Control(next);
                None
            }
            // Parameter and intermediate bytes go on; the sequence is none of ours.
            b' '..=b'?' => {
                self.state = State::Control(None);
                None
            }
            b'~' => parameter.and_then(numbered),
            b'@'..=b'}' => parameter.and_then(|_| letter(byte)),
            _ => self.escape_or_ground(byte),
        }
    }

    /// A byte that cannot be inside a control sequence ends it and counts by itself.
    fn escape_or_ground(&mut self, byte: u8) -> Option<Key> {
        self.state = State::Ground;
        self.ground(byte)
    }
}

/// The keys that are single control characters.
fn control_character(byte: u8) -> Option<Key> {
    match byte {
        0x01 => Some(Key::Home),
        0x02 => Some(Key::Left),
        0x03 => Some(Key::Interrupt),
        0x04 => Some(Key::Delete),
        0x05 => Some(Key::End),
        0x06 => Some(Key::Right),
        0x0b => Some(Key::KillAfter),
        0x0c => Some(Key::Clear),
        0x0e => Some(Key::Down),
        0x10 => Some(Key::Up),
        0x15 => Some(Key::KillBefore),
        0x17 => Some(Key::KillWord),
        _ => None,
    }
}

/// The keys that terminals send as a sequence that ends with a letter.
fn letter(byte: u8) -> Option<Key> {
    match byte {
        b'A' => Some(Key::Up),
        b'B' => Some(Key::Down),
        b'C' => Some(Key::Right),
        b'D' => Some(Key::Left),
        b'H' => Some(Key::Home),
        b'F' => Some(Key::End),
        _ => None,
    }
}

/// The keys that terminals send as a number and a tilde.
fn numbered(parameter: u8) -> Option<Key> {
    match parameter {
        1 | 7 => Some(Key::Home),
        3 => Some(Key::Delete),
        4 | 8 => Some(Key::End),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Decoder, Key};

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut decoder = Decoder::new();
        bytes
            .iter()
            .filter_map(|byte| decoder.feed(*byte))
            .collect()
    }

    #[test]
    fn one_enter_for_each_way_to_end_a_line() {
        assert_eq!(keys(b"\r"), [Key::Enter]);
        assert_eq!(keys(b"\n"), [Key::Enter]);
        assert_eq!(keys(b"\r\n"), [Key::Enter]);
        assert_eq!(keys(b"\r\r\n\n"), [Key::Enter, Key::Enter, Key::Enter]);
        assert_eq!(keys(b"\ra"), [Key::Enter, Key::Character(b'a')]);
    }

    #[test]
    fn cursor_keys_in_both_modes() {
        let expected = [Key::Up, Key::Down, Key::Right, Key::Left];
        assert_eq!(keys(b"\x1b[A\x1b[B\x1b[C\x1b[D"), expected);
        assert_eq!(keys(b"\x1bOA\x1bOB\x1bOC\x1bOD"), expected);
    }

    #[test]
    fn home_end_and_delete_of_several_terminals() {
        for home in [&b"\x1b[H"[..], b"\x1bOH", b"\x1b[1~", b"\x1b[7~", b"\x01"] {
            assert_eq!(keys(home), [Key::Home]);
        }
        for end in [&b"\x1b[F"[..], b"\x1bOF", b"\x1b[4~", b"\x1b[8~", b"\x05"] {
            assert_eq!(keys(end), [Key::End]);
        }
        assert_eq!(keys(b"\x1b[3~"), [Key::Delete]);
    }

    #[test]
    fn unknown_sequences_are_swallowed_whole() {
        assert_eq!(keys(b"\x1b[1;5Cx"), [Key::Character(b'x')]);
        assert_eq!(keys(b"\x1b[?2004hx"), [Key::Character(b'x')]);
        assert_eq!(keys(b"\x1b[99999999999~x"), [Key::Character(b'x')]);
        assert_eq!(keys(b"\x1bqx"), [Key::Character(b'x')]);
    }

    #[test]
    fn a_control_character_breaks_off_a_sequence() {
        assert_eq!(keys(b"\x1b\rx"), [Key::Enter, Key::Character(b'x')]);
        assert_eq!(keys(b"\x1b[1\x03x"), [Key::Interrupt, Key::Character(b'x')]);
        assert_eq!(keys(b"\x1b[\x1b[A"), [Key::Up]);
        assert_eq!(keys(b"\x1b\x1b[A"), [Key::Up]);
    }

    #[test]
    fn bytes_that_are_no_keys_do_nothing() {
        assert_eq!(keys(&[0x00, 0x80, 0xc3, 0xa4, 0xff, 0x1a]), []);
    }
}
