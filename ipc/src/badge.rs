//! The badge on a public endpoint's send right: which task holds it, and what the system manifest
//! lets that task do there. Badges of sessions are not these: a server numbers its own sessions.

use crate::interface::{console, network, pci, supervisor};

/// The grants' names in the system manifest, and the bit of each in [`Client::grants`].
pub const GRANTS: [(&str, u32); 7] = [
    ("claim", pci::GRANT_CLAIM),
    ("connect", network::GRANT_CONNECT),
    ("kill", supervisor::GRANT_KILL),
    ("listen", network::GRANT_LISTEN),
    ("log", supervisor::GRANT_LOG),
    ("power", supervisor::GRANT_POWER),
    ("read", console::GRANT_READ),
];

/// A client of a public endpoint, as init writes it into the badge that it mints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// Position of the task in the manifest plus one: 1 to 65,535.
    pub task: u16,
    /// What the manifest grants the client there, a bit each; the service's interface names them.
    pub grants: u32,
}

impl Client {
    /// Badge 0, an unbadged handle: no client at all. It has no grants.
    pub const NOBODY: Client = Client { task: 0, grants: 0 };

    /// The client of a received badge. Every value is a client; only init mints them.
    pub const fn from_badge(badge: u64) -> Client {
        Client {
            task: badge as u16,
            grants: (badge >> 32) as u32,
        }
    }

    /// The badge to mint.
    pub const fn badge(self) -> u64 {
        self.task as u64 | (self.grants as u64) << 32
    }

    /// Whether all bits of `grant` were granted.
    pub const fn may(self, grant: u32) -> bool {
        self.grants & grant == grant
    }
}

#[cfg(test)]
mod tests {
    use super::Client;

    #[test]
    fn a_client_round_trips_through_its_badge() {
        let client = Client {
            task: 0xfffe,
            grants: 0x8000_0001,
        };
        assert_eq!(Client::from_badge(client.badge()), client);
        assert!(client.may(1) && !client.may(3));
        assert!(!Client::NOBODY.may(1));
    }
}
