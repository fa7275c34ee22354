//! What belongs to which pair of ends: a hash table in which peers cannot foresee their places.
//!
//! A peer chooses its address and its ports. Of a hash that it can compute it would choose such as share
//! a place, and finding one connection would cost as much as going through all of them. So the hash
//! has a key, SipHash-1-3 (Aumasson, Bernstein: SipHash, a fast short-input PRF, 2012), and the key is
//! the stack's secret.

use core::net::IpAddr;

use hashbrown::HashTable;
use siphasher::sip::SipHasher13;

use crate::peek::Flow;
use crate::random::Random;

/// A pair of ends as few words, which are quick to compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ends {
    local: (u64, u64),
    remote: (u64, u64),
    ports: u32,
}

impl Ends {
    fn of(flow: &Flow) -> Ends {
        Ends {
            local: halves(flow.local.ip()),
            remote: halves(flow.remote.ip()),
            ports: u32::from(flow.local.port()) << 16 | u32::from(flow.remote.port()),
        }
    }

    /// What is hashed.
    fn bytes(&self) -> [u8; 36] {
        let words = [self.local.0, self.local.1, self.remote.0, self.remote.1];
        let mut bytes = [0; 36];
        for (place, word) in bytes.chunks_exact_mut(8).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes[32..].copy_from_slice(&self.ports.to_le_bytes());
        bytes
    }
}

/// An IPv6 address in two words. In place of an IPv4 address stands the one that maps it (RFC 4291, section
/// 2.5.5.2), which is no interface's.
fn halves(address: IpAddr) -> (u64, u64) {
    match address {
        IpAddr::V4(address) => (0, 0xffff << 32 | u64::from(address.to_bits())),
        IpAddr::V6(address) => {
            let bits = address.to_bits();
            ((bits >> 64) as u64, bits as u64)
        }
    }
}

/// One value for each of some flows.
#[derive(Debug)]
pub(super) struct Flows<V> {
    entries: HashTable<(Ends, V)>,
    keyed: SipHasher13,
}

impl<V: Copy> Flows<V> {
    /// An empty table with a key of its own.
    pub(super) fn new(random: &mut Random) -> Flows<V> {
        Flows {
            entries: HashTable::new(),
            keyed: SipHasher13::new_with_keys(random.next(), random.next()),
        }
    }

    /// Number of flows.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The value of a flow.
    pub(super) fn get(&self, flow: &Flow) -> Option<V> {
        let ends = Ends::of(flow);
        let hash = self.keyed.hash(&ends.bytes());
        let found = self.entries.find(hash, |entry| entry.0 == ends);
        found.map(|entry| entry.1)
    }

    /// Gives a flow a value, in place of the one it had.
    pub(super) fn insert(&mut self, flow: &Flow, value: V) {
        let ends = Ends::of(flow);
        let (keyed, hash) = (&self.keyed, self.keyed.hash(&ends.bytes()));
        match self.entries.find_mut(hash, |entry| entry.0 == ends) {
            Some(entry) => entry.1 = value,
            None => {
                let rehash = |entry: &(Ends, V)| keyed.hash(&entry.0.bytes());
                self.entries.insert_unique(hash, (ends, value), rehash);
            }
        }
    }

    /// Takes a flow's value out.
    pub(super) fn remove(&mut self, flow: &Flow) -> Option<V> {
        let ends = Ends::of(flow);
        let hash = self.keyed.hash(&ends.bytes());
        let found = self.entries.find_entry(hash, |entry| entry.0 == ends);
        found.ok().map(|entry| entry.remove().0.1)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::{IpAddr, SocketAddr};

    use super::*;

    /// One of a few addresses of both families, alike where they can be.
    fn address(choice: u64) -> IpAddr {
        match choice % 4 {
            0 => IpAddr::from([10, 0, 0, 1]),
            1 => IpAddr::from([10, 0, 0, 2]),
            2 => IpAddr::from([0x0a00, 1, 0, 0, 0, 0, 0, 0]),
            _ => IpAddr::from([0, 0, 0, 0, 0, 0, 0x0a00, 1]),
        }
    }

    fn flow(choice: u64) -> Flow {
        let end = |choice: u64| SocketAddr::new(address(choice), 80 + (choice >> 2) as u16 % 8);
        Flow {
            local: end(choice),
            remote: end(choice >> 8),
        }
    }

    #[test]
    fn it_holds_what_a_sorted_map_holds() {
        let mut random = Random::new(1, "operations");
        let mut flows = Flows::new(&mut random);
        let mut model = BTreeMap::new();
        for turn in 0..40_000_u32 {
            let choice = random.next();
            let flow = flow(choice);
            // Both a table that grows and one that is emptied again.
            let growing = turn / 4_000 % 2 == 0;
            match choice >> 32 & 3 {
                0 => assert_eq!(flows.remove(&flow), model.remove(&flow)),
                1 => assert_eq!(flows.get(&flow), model.get(&flow).copied()),
                _ if growing => {
                    flows.insert(&flow, turn);
                    model.insert(flow, turn);
                }
                _ => assert_eq!(flows.remove(&flow), model.remove(&flow)),
            }
            assert_eq!(flows.len(), model.len());
        }
        for (flow, value) in &model {
            assert_eq!(flows.get(flow), Some(*value));
        }
    }

    #[test]
    fn the_places_of_flows_follow_from_the_seed() {
        let hashes = |seed| {
            let flows: Flows<()> = Flows::new(&mut Random::new(seed, "flows"));
            [1, 2].map(|choice| flows.keyed.hash(&Ends::of(&flow(choice)).bytes()))
        };
        assert_eq!(hashes(1), hashes(1));
        let all = [hashes(1), hashes(2)].concat();
        for (index, hash) in all.iter().enumerate() {
            assert!(!all[..index].contains(hash));
        }
    }
}
