//! Completes the first word of a line.

use alloc::string::String;
use alloc::vec::Vec;

/// What completion found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Completion {
    /// Nothing fits, or there is nothing to add.
    Nothing,
    /// This text is to be inserted at the cursor.
    Insert(String),
    /// These words fit, and they differ right after what is written.
    Several(Vec<&'static str>),
}

/// Completes `before`, the line up to the cursor, to one of `words`.
pub fn complete(before: &str, words: &[&'static str]) -> Completion {
    if before.contains(' ') {
        return Completion::Nothing;
    }
    let fitting: Vec<&'static str> = words
        .iter()
        .copied()
        .filter(|word| word.starts_with(before))
        .collect();
    let Some(first) = fitting.first() else {
        return Completion::Nothing;
    };
    if fitting.len() == 1 {
        let mut rest = String::from(&first[before.len()..]);
        rest.push(' ');
        return Completion::Insert(rest);
    }
    let common = fitting
        .iter()
        .map(|word| common_length(first, word))
        .min()
        .unwrap_or(0);
    if common > before.len() {
        return Completion::Insert(String::from(&first[before.len()..common]));
    }
    Completion::Several(fitting)
}

/// Length of the longest common beginning of two ASCII words.
fn common_length(one: &str, other: &str) -> usize {
    one.bytes()
        .zip(other.bytes())
        .take_while(|(left, right)| left == right)
        .count()
}

#[cfg(test)]
mod tests {
    use super::{Completion, complete};

    const WORDS: &[&str] = &["kill", "memory", "memstat", "ps"];

    #[test]
    fn one_fitting_word_is_finished_with_a_blank() {
        assert_eq!(complete("k", WORDS), Completion::Insert("ill ".into()));
        assert_eq!(complete("kill", WORDS), Completion::Insert(" ".into()));
    }

    #[test]
    fn several_are_finished_as_far_as_they_agree_and_then_listed() {
        assert_eq!(complete("m", WORDS), Completion::Insert("em".into()));
        assert_eq!(
            complete("mem", WORDS),
            Completion::Several(vec!["memory", "memstat"])
        );
    }

    #[test]
    fn nothing_fits() {
        assert_eq!(complete("x", WORDS), Completion::Nothing);
        assert_eq!(complete("kill p", WORDS), Completion::Nothing);
        assert_eq!(complete("kills", WORDS), Completion::Nothing);
    }
}
