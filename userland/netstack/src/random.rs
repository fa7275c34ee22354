//! Numbers that nobody outside can foretell: query identifiers, source ports.
//!
//! A counter hashed with a secret key (SHA-256, FIPS 180-4): whoever has seen any number of outputs knows
//! nothing of the next, as long as the key is unknown. The key is as good as the seed that it is made of.

use sha2::{Digest, Sha256};

/// First port of those that are given out without being asked for (RFC 6335, section 6).
const FIRST_DYNAMIC: u16 = 49152;

/// A generator.
#[derive(Debug)]
pub(crate) struct Random {
    key: [u8; 32],
    counter: u64,
}

impl Random {
    /// A generator whose key follows from `seed`; `purpose` keeps two with the same seed apart.
    pub(crate) fn new(seed: u64, purpose: &str) -> Random {
        let hash = Sha256::new()
            .chain_update(seed.to_le_bytes())
            .chain_update(purpose);
        Random {
            key: hash.finalize().into(),
            counter: 0,
        }
    }

    /// 64 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(1);
        let hash = Sha256::new()
            .chain_update(self.key)
            .chain_update(self.counter.to_le_bytes());
        let hash: [u8; 32] = hash.finalize().into();
        let mut word = [0; 8];
        word.copy_from_slice(&hash[..8]);
        u64::from_le_bytes(word)
    }

    /// A number below `limit`, which is not 0 and so small that the remainder favours none.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// A dynamic port, each as likely as the others.
    pub(crate) fn port(&mut self) -> u16 {
        // There are 2^14 of them, so the remainder favours none.
        FIRST_DYNAMIC | (self.next() as u16 & !FIRST_DYNAMIC)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_differ_by_seed_purpose_and_turn_and_ports_cover_their_range() {
        let first = |seed, purpose| Random::new(seed, purpose).next();
        assert_ne!(first(1, "a"), first(2, "a"));
        assert_ne!(first(1, "a"), first(1, "b"));
        let mut random = Random::new(1, "a");
        assert_ne!(random.next(), random.next());
        let mut seen = [0_u32; 16];
        for _ in 0..16_000 {
            let port = random.port();
            assert!(port >= FIRST_DYNAMIC);
            seen[usize::from(port - FIRST_DYNAMIC) / 1024] += 1;
        }
        assert!(
            seen.iter().all(|count| (800..1200).contains(count)),
            "{seen:?}"
        );
    }
}
