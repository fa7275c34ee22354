//! What was found, for as long as the servers say that it holds (RFC 1035, section 3.2.1; RFC 2308).
//!
//! The cache is bounded. When it is full, whoever made the most entries loses the one that would have
//! expired first: a client that asks for thousands of names drives out its own.

use alloc::collections::BTreeMap;

use super::message::Kind;
use super::name::Name;
use super::{Finding, NameError};
use crate::client::Owner;
use crate::time::{Nanoseconds, SECOND};

/// Entries at most.
pub(super) const ENTRIES: usize = 256;
/// Longest time that addresses are believed, in seconds: a day, whatever the servers say.
const LONGEST: u32 = 86_400;
/// Longest time that a name's absence is believed (RFC 2308, section 5: one to three hours).
const LONGEST_ABSENT: u32 = 3_600;
/// How long a failure is believed (RFC 9520, section 3.2: one second at least), so that a client in a
/// loop does not ask the servers for it all the time.
const FAILURE: u32 = 1;

struct Entry {
    finding: Finding,
    expires: Nanoseconds,
    owner: Owner,
}

/// The cache.
#[derive(Default)]
pub(super) struct Cache {
    entries: BTreeMap<(Name, Kind), Entry>,
}

impl Cache {
    /// What is known of a name. That it does not exist holds for every kind of address (RFC 2308,
    /// section 5).
    pub(super) fn get(&self, now: Nanoseconds, name: &Name, kind: Kind) -> Option<&Finding> {
        let fresh = |kind: Kind| {
            let entry = self.entries.get(&(name.clone(), kind))?;
            (entry.expires > now).then_some(&entry.finding)
        };
        fresh(kind).or_else(|| fresh(kind.other()).filter(|found| **found == Finding::NoSuchHost))
    }

    /// Keeps what was found for `seconds` at most.
    pub(super) fn insert(
        &mut self,
        now: Nanoseconds,
        owner: Owner,
        (name, kind): (&Name, Kind),
        finding: &Finding,
        seconds: u32,
    ) {
        let seconds = match finding {
            Finding::Addresses(_) => seconds.min(LONGEST),
            Finding::NoAddress | Finding::NoSuchHost => seconds.min(LONGEST_ABSENT),
            Finding::Failed(NameError::ServerFailed | NameError::TimedOut) => FAILURE,
            Finding::Failed(_) => 0,
        };
        if seconds == 0 {
            return;
        }
        let key = (name.clone(), kind);
        if !self.entries.contains_key(&key) {
            self.make_room(now);
        }
        let entry = Entry {
            finding: finding.clone(),
            expires: now.saturating_add(u64::from(seconds) * SECOND),
            owner,
        };
        self.entries.insert(key, entry);
    }

    /// Forgets all: other servers may say otherwise.
    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    fn make_room(&mut self, now: Nanoseconds) {
        if self.entries.len() < ENTRIES {
            return;
        }
        self.entries.retain(|_, entry| entry.expires > now);
        if self.entries.len() < ENTRIES {
            return;
        }
        let mut made = BTreeMap::<Owner, usize>::new();
        for entry in self.entries.values() {
            *made.entry(entry.owner).or_default() += 1;
        }
        let most = made.iter().max_by_key(|(_, count)| **count);
        let first = most.and_then(|(owner, _)| {
            let own = self
                .entries
                .iter()
                .filter(|(_, entry)| entry.owner == *owner);
            own.min_by_key(|(_, entry)| entry.expires)
                .map(|(key, _)| key.clone())
        });
        if let Some(key) = first {
            self.entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn name(text: &str) -> Name {
        Name::from_text(text).expect("a name")
    }

    fn found() -> Finding {
        Finding::Addresses(vec![[192, 0, 2, 1].into()])
    }

    #[test]
    fn entries_end_with_their_time_which_is_limited() {
        let mut cache = Cache::default();
        for (text, finding, seconds, lives) in [
            ("a.org", found(), 30, 30),
            ("b.org", found(), u32::MAX, 86_400),
            ("c.org", Finding::NoAddress, 100_000, 3_600),
            ("d.org", Finding::Failed(NameError::TimedOut), 100, 1),
        ] {
            let name = name(text);
            cache.insert(5, 1, (&name, Kind::A), &finding, seconds);
            let end = 5 + lives * SECOND;
            assert_eq!(cache.get(end - 1, &name, Kind::A), Some(&finding), "{text}");
            assert_eq!(cache.get(end, &name, Kind::A), None, "{text}");
            assert_eq!(cache.get(5, &name, Kind::Aaaa), None, "{text}");
        }
        cache.insert(5, 1, (&name("e.org"), Kind::A), &found(), 0);
        assert_eq!(cache.get(5, &name("e.org"), Kind::A), None);
    }

    #[test]
    fn a_name_that_does_not_exist_has_no_address_of_any_kind() {
        let mut cache = Cache::default();
        cache.insert(0, 1, (&name("a.org"), Kind::Aaaa), &Finding::NoSuchHost, 9);
        let known = cache.get(1, &name("a.org"), Kind::A);
        assert_eq!(known, Some(&Finding::NoSuchHost));
    }

    #[test]
    fn a_client_that_fills_the_cache_drives_out_its_own() {
        let mut cache = Cache::default();
        for number in 0..10 {
            let name = name(&format!("mine{number}.org"));
            cache.insert(0, 1, (&name, Kind::A), &found(), 10);
        }
        for number in 0..10_000 {
            let name = name(&format!("other{number}.org"));
            cache.insert(0, 2, (&name, Kind::A), &found(), 1_000);
        }
        assert_eq!(cache.entries.len(), ENTRIES);
        for number in 0..10 {
            let name = name(&format!("mine{number}.org"));
            assert!(cache.get(1, &name, Kind::A).is_some(), "{number}");
        }
        // What has expired makes room before anything that holds.
        cache.insert(20 * SECOND, 2, (&name("new.org"), Kind::A), &found(), 5);
        assert_eq!(cache.entries.len(), ENTRIES - 9);
    }
}
