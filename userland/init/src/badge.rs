//! The badges on init's own endpoint. A task's fault endpoint carries which task of the manifest it
//! is and which of its lives, so that a late message of an earlier life is told from one of the
//! present; a client of the supervisor carries `ipc::badge::Client`.

use ipc::badge::Client;

/// Bit of a fault endpoint's badge; `Client` leaves it zero.
const FAULT: u64 = 1 << 16;

/// Which life of which task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// The task's position in the manifest.
    pub task: u16,
    /// Number of the life, counted from 0.
    pub number: u32,
}

/// Who sent a message to init.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The kernel, for a thread or the end of this life.
    Kernel(Life),
    /// A task that calls the supervisor.
    Client(Client),
}

impl Life {
    /// The badge of this life's fault endpoint.
    pub const fn badge(self) -> u64 {
        (self.number as u64) << 17 | FAULT | self.task as u64
    }
}

impl Sender {
    /// The sender with this badge. Every value is a sender; only init mints them.
    pub const fn from_badge(badge: u64) -> Sender {
        if badge & FAULT == 0 {
            return Sender::Client(Client::from_badge(badge));
        }
        Sender::Kernel(Life {
            task: badge as u16,
            number: (badge >> 17) as u32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Client, Life, Sender};

    #[test]
    fn badges_round_trip_and_are_told_apart() {
        for (task, number) in [(0, 0), (1, 0), (0, 1), (u16::MAX, u32::MAX)] {
            let life = Life { task, number };
            assert_ne!(life.badge(), 0);
            assert_eq!(Sender::from_badge(life.badge()), Sender::Kernel(life));
            let client = Client {
                task,
                grants: number,
            };
            assert_eq!(Sender::from_badge(client.badge()), Sender::Client(client));
        }
    }
}
