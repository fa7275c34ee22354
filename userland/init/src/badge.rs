//! The badge of a task's fault endpoint: which task of the manifest, and which of its lives. A late
//! message of an earlier life is told from one of the present.

/// Which life of which task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// The task's position in the manifest.
    pub task: u16,
    /// Number of the life, counted from 0.
    pub number: u32,
}

impl Life {
    /// The badge; never 0.
    pub const fn badge(self) -> u64 {
        (self.number as u64) << 17 | (self.task as u64) << 1 | 1
    }

    /// The life with this badge; `None` if it is none of init's badges.
    pub const fn from_badge(badge: u64) -> Option<Life> {
        if badge & 1 == 0 || badge >> 49 != 0 {
            return None;
        }
        Some(Life {
            task: (badge >> 1) as u16,
            number: (badge >> 17) as u32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Life;

    #[test]
    fn badges_round_trip() {
        for (task, number) in [(0, 0), (1, 0), (0, 1), (u16::MAX, u32::MAX)] {
            let life = Life { task, number };
            assert_ne!(life.badge(), 0);
            assert_eq!(Life::from_badge(life.badge()), Some(life));
        }
        assert_eq!(Life::from_badge(0), None);
        assert_eq!(Life::from_badge(1 << 60 | 1), None);
    }
}
