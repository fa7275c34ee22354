//! Host names, in the form in which they travel (RFC 1035, section 3.1): labels, each with its length
//! before it, and an empty one at the end. Letters are small, because names differ in nothing by them
//! (RFC 4343).

use alloc::boxed::Box;
use alloc::vec::Vec;

/// Longest label in bytes (RFC 1035, section 2.3.4).
const MAX_LABEL: usize = 63;
/// Longest name in bytes, lengths and the last empty label included (RFC 1035, section 2.3.4).
pub(super) const MAX_NAME: usize = 255;

/// A name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name(Box<[u8]>);

impl Name {
    /// Reads a host name as people write it, with or without the root's dot at its end: letters,
    /// digits, hyphens (RFC 1123, section 2.1) and underscores, which some hosts have. A name whose
    /// last label is a number would be an address gone wrong, and is none.
    pub(super) fn from_text(text: &str) -> Option<Name> {
        let text = text.strip_suffix('.').unwrap_or(text);
        let host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let last = text.rsplit('.').next().unwrap_or_default();
        if !text.split('.').all(|label| label.bytes().all(host))
            || last.bytes().all(|byte| byte.is_ascii_digit())
        {
            return None;
        }
        Name::from_labels(text.split('.').map(|label| Some(label.as_bytes())))
    }

    /// Puts labels together; `None` where one is `None`, empty or too long, or all of them are.
    pub(super) fn from_labels<'a>(labels: impl Iterator<Item = Option<&'a [u8]>>) -> Option<Name> {
        let mut name = Vec::new();
        for label in labels {
            let label = label.filter(|label| (1..=MAX_LABEL).contains(&label.len()))?;
            // Room for this label, and for the empty one after it.
            if name.len() + label.len() + 2 > MAX_NAME {
                return None;
            }
            name.push(label.len() as u8);
            name.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        name.push(0);
        Some(Name(name.into_boxed_slice()))
    }

    /// The bytes that travel.
    pub(super) fn wire(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the top-level name `label`, or under it.
    pub(super) fn is_under(&self, label: &str) -> bool {
        self.labels().last() == Some(label.as_bytes())
    }

    fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.0[..];
        core::iter::from_fn(move || {
            let (length, after) = rest.split_first()?;
            let (label, after) = after.split_at_checked(usize::from(*length))?;
            rest = after;
            (!label.is_empty()).then_some(label)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_read_without_regard_to_letters_and_the_last_dot() {
        let name = Name::from_text("WWW.Example.org").expect("a name");
        assert_eq!(name.wire(), b"\x03www\x07example\x03org\0");
        assert_eq!(Name::from_text("www.example.org."), Some(name.clone()));
        assert!(name.is_under("org") && !name.is_under("example"));
        let alone = Name::from_text("localhost").expect("a name");
        assert!(alone.is_under("localhost"));
    }

    #[test]
    fn what_is_no_host_name_is_refused() {
        let label = "a".repeat(63);
        let longest = [&label[..], &label, &label, &label[..61]].join(".");
        assert_eq!(longest.len(), 253);
        assert_eq!(Name::from_text(&longest).expect("fits").wire().len(), 255);
        let too_long = [&label[..], &label, &label, &label[..62]].join(".");
        let wide = "a".repeat(64);
        for text in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a b",
            "caf\u{e9}.fr",
            "1.2.3",
            "10.0.0.256",
            "a.7",
            &too_long,
            &wide,
        ] {
            assert_eq!(Name::from_text(text), None, "{text}");
        }
    }
}
