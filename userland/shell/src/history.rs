//! The lines entered so far, for the cursor keys. Bounded: the oldest line makes room.

use alloc::collections::VecDeque;
use alloc::string::String;

/// Most lines kept.
pub const MAX_LINES: usize = 32;

/// The history, with the place in it where the person looks.
#[derive(Clone, Debug, Default)]
pub struct History {
    lines: VecDeque<String>,
    /// How many lines back the person looks; 0 is the line being written.
    back: usize,
    /// The line being written, while the person looks at others.
    draft: String,
}

impl History {
    /// An empty history.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a line that was entered, unless it is empty or the same as the last one, and looks at
    /// the line being written again.
    pub fn add(&mut self, line: &str) {
        self.back = 0;
        self.draft.clear();
        if line.is_empty() || self.lines.back().is_some_and(|last| last == line) {
            return;
        }
        if self.lines.len() == MAX_LINES {
            self.lines.pop_front();
        }
        self.lines.push_back(String::from(line));
    }

    /// The line before; `current` is what is on the screen. `None` at the oldest.
    pub fn up(&mut self, current: &str) -> Option<&str> {
        if self.back == self.lines.len() {
            return None;
        }
        if self.back == 0 {
            self.draft.clear();
            self.draft.push_str(current);
        }
        self.back += 1;
        self.shown()
    }

    /// The line after. `None` at the line being written.
    pub fn down(&mut self) -> Option<&str> {
        self.back = self.back.checked_sub(1)?;
        self.shown()
    }

    fn shown(&self) -> Option<&str> {
        if self.back == 0 {
            return Some(&self.draft);
        }
        let position = self.lines.len().checked_sub(self.back)?;
        self.lines.get(position).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::{History, MAX_LINES};

    #[test]
    fn the_line_being_written_comes_back() {
        let mut history = History::new();
        history.add("one");
        history.add("two");
        assert_eq!(history.up("dra"), Some("two"));
        assert_eq!(history.up("two"), Some("one"));
        assert_eq!(history.up("one"), None);
        assert_eq!(history.down(), Some("two"));
        assert_eq!(history.down(), Some("dra"));
        assert_eq!(history.down(), None);
    }

    #[test]
    fn empty_lines_and_repetitions_are_not_kept() {
        let mut history = History::new();
        history.add("one");
        history.add("");
        history.add("one");
        assert_eq!(history.up(""), Some("one"));
        assert_eq!(history.up("one"), None);
    }

    #[test]
    fn the_oldest_line_makes_room() {
        let mut history = History::new();
        for number in 0..=MAX_LINES {
            history.add(&number.to_string());
        }
        let mut oldest = String::new();
        while let Some(line) = history.up(&oldest) {
            oldest = line.to_string();
        }
        assert_eq!(oldest, "1");
    }
}
