//! What each client holds, and how much it may: one client's appetite is its own trouble. However many they
//! are, something is left for the next: whoever takes more leaves at least a third of what it then holds.

use alloc::collections::BTreeMap;

/// The badge of a client's session; never 0 (see the operation BadgeMint).
pub type Owner = u64;

/// The stack itself, where it uses its own sockets.
pub(crate) const STACK: Owner = 0;

/// How much clients may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sockets of one client, listeners and connections not yet accepted included.
    pub client_sockets: usize,
    /// Bytes of socket buffers of one client.
    pub client_bytes: usize,
    /// Bytes of socket buffers of all clients.
    pub total_bytes: usize,
}

/// How much of what is left a client may hold, as a factor: alone it gets three quarters of all.
const PART: usize = 3;

/// Whether a client may come to hold so much where all then hold `used` of `total`. The first that it has it
/// gets as long as there is any.
fn leaves_enough(held: usize, is_first: bool, used: usize, total: usize) -> bool {
    let left = total.checked_sub(used);
    left.is_some_and(|left| is_first || held <= left.saturating_mul(PART))
}

impl Limits {
    /// Pairs of rings of one client and of all: one for each connection that they could have, which takes
    /// `connection_bytes` of socket buffers, and one that lies ready. They are of the client's memory.
    fn rings(&self, connection_bytes: usize) -> (usize, usize) {
        let fit = |bytes: usize| 2 * (bytes / connection_bytes.max(1));
        let client = fit(self.client_bytes).min(self.client_sockets);
        (client, fit(self.total_bytes))
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            client_sockets: 1024,
            client_bytes: 12 * 1024 * 1024,
            total_bytes: 16 * 1024 * 1024,
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Holding {
    sockets: usize,
    bytes: usize,
    rings: usize,
}

impl Holding {
    fn is_empty(&self) -> bool {
        self.sockets == 0 && self.rings == 0
    }
}

/// The books: who holds how many sockets, buffer bytes and pairs of rings.
#[derive(Debug)]
pub struct Ledger {
    limits: Limits,
    clients: BTreeMap<Owner, Holding>,
    bytes: usize,
    rings: usize,
}

impl Ledger {
    /// Empty books with these limits.
    pub fn new(limits: Limits) -> Ledger {
        Ledger {
            limits,
            clients: BTreeMap::new(),
            bytes: 0,
            rings: 0,
        }
    }

    /// Writes down one more socket with `bytes` of buffers; false, and nothing written, when a limit
    /// stands against it.
    #[must_use]
    pub fn charge(&mut self, owner: Owner, bytes: usize) -> bool {
        let holding = self.clients.get(&owner).copied().unwrap_or_default();
        if holding.sockets >= self.limits.client_sockets || !self.has_room(&holding, bytes) {
            return false;
        }
        self.bytes += bytes;
        let sockets = holding.sockets + 1;
        self.clients.insert(
            owner,
            Holding {
                sockets,
                bytes: holding.bytes + bytes,
                ..holding
            },
        );
        true
    }

    /// Writes down more bytes for a socket that is charged already; false, and nothing written, when
    /// a limit stands against it. They are on their way out, and need leave nothing for others.
    #[must_use]
    pub fn charge_bytes(&mut self, owner: Owner, bytes: usize) -> bool {
        let Some(holding) = self.clients.get(&owner).copied() else {
            return false;
        };
        if holding.bytes + bytes > self.limits.client_bytes
            || self.bytes + bytes > self.limits.total_bytes
        {
            return false;
        }
        let holding = self.clients.entry(owner).or_default();
        holding.bytes += bytes;
        self.bytes += bytes;
        true
    }

    fn has_room(&self, holding: &Holding, bytes: usize) -> bool {
        let (held, used) = (holding.bytes + bytes, self.bytes + bytes);
        let is_first = holding.bytes == 0;
        // What takes nothing takes nothing from others, whatever these have taken since.
        bytes == 0
            || held <= self.limits.client_bytes
                && leaves_enough(held, is_first, used, self.limits.total_bytes)
    }

    /// Takes back what [`Ledger::charge`] and [`Ledger::charge_bytes`] wrote for one socket.
    pub fn refund(&mut self, owner: Owner, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
        let Some(holding) = self.clients.get_mut(&owner) else {
            return;
        };
        holding.sockets = holding.sockets.saturating_sub(1);
        holding.bytes = holding.bytes.saturating_sub(bytes);
        if holding.is_empty() {
            self.clients.remove(&owner);
        }
    }

    /// Writes down one more pair of rings, for connections of so many bytes of buffers; false, and nothing
    /// written, when a limit stands against it.
    #[must_use]
    pub fn charge_rings(&mut self, owner: Owner, connection_bytes: usize) -> bool {
        let (client, all) = self.limits.rings(connection_bytes);
        let held = self.clients.get(&owner).map_or(0, |holding| holding.rings);
        if held >= client || !leaves_enough(held + 1, held == 0, self.rings + 1, all) {
            return false;
        }
        self.rings += 1;
        self.clients.entry(owner).or_default().rings += 1;
        true
    }

    /// Takes back what [`Ledger::charge_rings`] wrote, so many times.
    pub fn refund_rings(&mut self, owner: Owner, count: usize) {
        self.rings = self.rings.saturating_sub(count);
        let Some(holding) = self.clients.get_mut(&owner) else {
            return;
        };
        holding.rings = holding.rings.saturating_sub(count);
        if holding.is_empty() {
            self.clients.remove(&owner);
        }
    }

    /// Pairs of rings of all clients.
    pub fn rings(&self) -> usize {
        self.rings
    }

    /// Sockets of one client.
    pub fn sockets(&self, owner: Owner) -> usize {
        self.clients
            .get(&owner)
            .map_or(0, |holding| holding.sockets)
    }

    /// Bytes of socket buffers of all clients.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_refuses_and_a_refund_makes_room() {
        let limits = Limits {
            client_sockets: 2,
            client_bytes: 100,
            total_bytes: 150,
        };
        let mut ledger = Ledger::new(limits);
        assert!(ledger.charge(1, 60));
        assert!(!ledger.charge(1, 60), "bytes of one client");
        assert!(ledger.charge(1, 0));
        assert!(!ledger.charge(1, 0), "sockets of one client");
        assert!(!ledger.charge(2, 91), "bytes of all");
        assert!(ledger.charge(2, 90), "the first that it has");
        ledger.refund(1, 60);
        assert!(ledger.charge(2, 10));
        assert_eq!(
            (ledger.sockets(1), ledger.sockets(2), ledger.bytes()),
            (1, 2, 100)
        );
    }

    #[test]
    fn what_others_take_later_is_not_held_against_a_client() {
        let mut ledger = Ledger::new(Limits {
            client_sockets: 9,
            client_bytes: 75,
            total_bytes: 100,
        });
        assert!(ledger.charge(1, 70) && ledger.charge(2, 10));
        assert!(!ledger.charge(1, 1), "too little would be left");
        assert!(ledger.charge(1, 0), "a listener");
        assert!(ledger.charge_bytes(1, 0) && ledger.charge_bytes(1, 5));
        assert!(!ledger.charge_bytes(1, 1), "bytes of one client");
        assert!(!ledger.charge_bytes(2, 16), "bytes of all");
        assert_eq!((ledger.bytes(), ledger.sockets(1)), (85, 2));
    }

    #[test]
    fn whoever_comes_last_still_gets_something() {
        let mut ledger = Ledger::new(Limits {
            client_sockets: 8192,
            client_bytes: 3072,
            total_bytes: 4096,
        });
        let greedy = |ledger: &mut Ledger, owner| {
            let sockets = (0..4096).take_while(|_| ledger.charge(owner, 1)).count();
            let rings = (0..8192).take_while(|_| ledger.charge_rings(owner, 1));
            (sockets, rings.count())
        };
        assert_eq!(greedy(&mut ledger, 1), (3072, 6144));
        assert_eq!(greedy(&mut ledger, 2), (768, 1536));
        assert_eq!(greedy(&mut ledger, 3), (192, 384));
        assert_eq!(greedy(&mut ledger, 4), (48, 96));
    }

    #[test]
    fn there_are_two_pairs_of_rings_for_each_connection_that_could_be() {
        let limits = Limits {
            client_sockets: 5,
            client_bytes: 100,
            total_bytes: 150,
        };
        let mut ledger = Ledger::new(limits);
        let charge = |ledger: &mut Ledger, owner, bytes| {
            (0..9)
                .take_while(|_| ledger.charge_rings(owner, bytes))
                .count()
        };
        assert_eq!(charge(&mut ledger, 1, 50), 4, "bytes of one client");
        assert_eq!(charge(&mut ledger, 2, 50), 1, "the first that it has");
        assert!(ledger.charge(1, 50));
        ledger.refund_rings(1, 4);
        assert_eq!((ledger.sockets(1), ledger.rings()), (1, 1));
        assert_eq!(charge(&mut ledger, 1, 1), 5, "sockets of one client");
        ledger.refund(1, 50);
        ledger.refund_rings(1, 5);
        ledger.refund_rings(2, 1);
        assert!(ledger.clients.is_empty() && ledger.rings() == 0);
    }
}
