//! Connections in TIME-WAIT, without their sockets.
//!
//! A connection that this host closed first must be remembered for twice the maximum segment
//! lifetime (RFC 9293, section 3.4.1), so that a stray segment of it is not taken for the next
//! connection's and the peer's last FIN can be acknowledged again. A smoltcp socket would hold its
//! two buffers for that time. A server that closes thousands of short connections would run out of
//! them, so the socket is given back at once and a record of a hundred bytes stays.
//!
//! The table is bounded. When it is full the oldest record goes: forgetting early risks that a
//! segment delayed longer than the rest of the time is misread, refusing service does not risk, it
//! fails. What follows from a record is the caller's to do.

use alloc::collections::VecDeque;

use super::flows::Flows;
use crate::peek::{Flow, Segment};
use crate::random::Random;
use crate::time::{Nanoseconds, SECOND};

/// Twice the maximum segment lifetime. RFC 9293, section 3.4.2 says two minutes for one; as other
/// stacks do, this one takes 30 seconds, far beyond what routers keep a packet today.
pub const TIME_WAIT: Nanoseconds = 60 * SECOND;
/// Records kept at most.
pub const TIME_WAIT_RECORDS: usize = 4096;

#[derive(Clone, Copy, Debug)]
struct Record {
    expires: Nanoseconds,
    /// The sequence number that the peer would use next: the one after its FIN.
    next: u32,
}

/// What to do with a segment of a connection in TIME-WAIT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It opens a new connection; the record is gone.
    Reopen,
    /// The peer has not seen the last acknowledgement: send it again.
    Acknowledge,
    /// Nothing.
    Drop,
}

/// The records, oldest first.
#[derive(Debug)]
pub(crate) struct TimeWait {
    records: Flows<Record>,
    /// When each is to be forgotten: all wait equally long. Some of these have been reopened since.
    order: VecDeque<(Nanoseconds, Flow)>,
}

impl TimeWait {
    /// No records, whose places follow from `random`.
    pub(crate) fn new(random: &mut Random) -> TimeWait {
        TimeWait {
            records: Flows::new(random),
            order: VecDeque::new(),
        }
    }

    /// Remembers a connection whose peer will use the sequence number `next`.
    pub(crate) fn insert(&mut self, now: Nanoseconds, flow: Flow, next: u32) {
        while self.order.len() >= TIME_WAIT_RECORDS {
            self.drop_oldest();
        }
        let expires = now.saturating_add(TIME_WAIT);
        self.records.insert(&flow, Record { expires, next });
        self.order.push_back((expires, flow));
    }

    /// Whether a new connection may not use this pair of ends yet.
    pub(crate) fn holds(&self, flow: &Flow) -> bool {
        self.records.get(flow).is_some()
    }

    /// Number of records.
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Judges a segment; `None` when its connection is not in the table.
    pub(crate) fn judge(&mut self, segment: &Segment) -> Option<Verdict> {
        let record = self.records.get(&segment.flow)?;
        // A reset in TIME-WAIT is ignored (RFC 1337, section 3: fix F1).
        if segment.rst {
            return Some(Verdict::Drop);
        }
        // A SYN beyond all that the old connection used may reopen it (RFC 9293, section 3.6.1;
        // RFC 1122, section 4.2.2.13).
        let beyond = segment.sequence.wrapping_sub(record.next) as i32 >= 0;
        if segment.syn && !segment.ack && beyond {
            self.records.remove(&segment.flow);
            return Some(Verdict::Reopen);
        }
        // Anything else that occupies sequence space was sent by a peer that missed our last ACK
        // (RFC 9293, section 3.10.7.4, first and eighth check).
        let occupies = segment.end != segment.sequence || segment.syn;
        Some(if occupies {
            Verdict::Acknowledge
        } else {
            Verdict::Drop
        })
    }

    /// Forgets what has waited long enough.
    pub(crate) fn expire(&mut self, now: Nanoseconds) {
        while self
            .order
            .front()
            .is_some_and(|(expires, _)| *expires <= now)
        {
            self.drop_oldest();
        }
    }

    /// When [`TimeWait::expire`] next has something to do.
    pub(crate) fn deadline(&self) -> Option<Nanoseconds> {
        self.order.front().map(|(expires, _)| *expires)
    }

    fn drop_oldest(&mut self) {
        let Some((expires, flow)) = self.order.pop_front() else {
            return;
        };
        // The same pair of ends may have been reopened, and wait again since.
        if self
            .records
            .get(&flow)
            .is_some_and(|record| record.expires == expires)
        {
            self.records.remove(&flow);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn new() -> TimeWait {
        TimeWait::new(&mut Random::new(1, "flows"))
    }

    fn segment(port: u16, sequence: u32) -> Segment {
        Segment {
            flow: Flow {
                local: ([10, 0, 0, 1], 80).into(),
                remote: ([10, 0, 0, 2], port).into(),
            },
            syn: false,
            ack: true,
            fin: false,
            rst: false,
            sequence,
            acknowledgement: 1,
            end: sequence,
        }
    }

    #[test]
    fn a_late_fin_is_acknowledged_and_a_bare_ack_or_reset_is_not() {
        let mut table = new();
        let fin = Segment {
            fin: true,
            end: 100,
            ..segment(1, 99)
        };
        assert_eq!(table.judge(&fin), None);
        table.insert(0, fin.flow, 100);
        assert_eq!(table.judge(&fin), Some(Verdict::Acknowledge));
        assert_eq!(table.judge(&segment(1, 100)), Some(Verdict::Drop));
        let reset = Segment {
            rst: true,
            ..segment(1, 100)
        };
        assert_eq!(table.judge(&reset), Some(Verdict::Drop));
        assert!(table.holds(&fin.flow));
    }

    #[test]
    fn only_a_syn_beyond_the_old_connection_reopens_it_across_the_wrap() {
        let mut table = new();
        let syn = Segment {
            syn: true,
            ack: false,
            ..segment(1, 5)
        };
        table.insert(0, syn.flow, u32::MAX - 5);
        let old = Segment {
            sequence: u32::MAX - 6,
            end: u32::MAX - 6,
            ..syn
        };
        assert_eq!(table.judge(&old), Some(Verdict::Acknowledge));
        assert_eq!(table.judge(&syn), Some(Verdict::Reopen));
        assert!(!table.holds(&syn.flow));
    }

    #[test]
    fn a_full_table_forgets_the_oldest_and_time_forgets_all() {
        let mut table = new();
        for port in 0..=TIME_WAIT_RECORDS as u16 {
            table.insert(u64::from(port), segment(port, 0).flow, 0);
        }
        assert_eq!(table.len(), TIME_WAIT_RECORDS);
        assert!(!table.holds(&segment(0, 0).flow) && table.holds(&segment(1, 0).flow));
        assert_eq!(table.deadline(), Some(TIME_WAIT + 1));
        table.expire(TIME_WAIT + 1);
        assert!(!table.holds(&segment(1, 0).flow) && table.holds(&segment(2, 0).flow));
        table.expire(u64::MAX);
        assert_eq!((table.len(), table.deadline()), (0, None));
    }

    #[test]
    fn a_reopened_pair_is_not_forgotten_with_its_first_record() {
        let mut table = new();
        let syn = Segment {
            syn: true,
            ack: false,
            ..segment(1, 5)
        };
        table.insert(0, syn.flow, 5);
        assert_eq!(table.judge(&syn), Some(Verdict::Reopen));
        table.insert(10, syn.flow, 9);
        table.expire(TIME_WAIT);
        assert!(table.holds(&syn.flow));
    }

    #[test]
    fn it_remembers_what_a_list_of_ends_remembers() {
        let mut random = Random::new(1, "operations");
        let mut table = new();
        let mut model: BTreeMap<Flow, Nanoseconds> = BTreeMap::new();
        let mut now = 0;
        for _ in 0..20_000 {
            now += random.below(TIME_WAIT / 500);
            table.expire(now);
            model.retain(|_, expires| *expires > now);
            let syn = Segment {
                syn: true,
                ack: false,
                ..segment(random.below(800) as u16, random.next() as u32)
            };
            assert_eq!(table.holds(&syn.flow), model.contains_key(&syn.flow));
            let verdict = table.judge(&syn);
            assert_eq!(verdict.is_some(), model.contains_key(&syn.flow));
            if verdict == Some(Verdict::Reopen) {
                model.remove(&syn.flow);
            }
            if !table.holds(&syn.flow) && random.below(2) == 0 {
                table.insert(now, syn.flow, random.next() as u32);
                model.insert(syn.flow, now + TIME_WAIT);
            }
            assert_eq!(table.len(), model.len());
            let first = model.values().min();
            assert!(first.is_none_or(|first| table.deadline().is_some_and(|at| at <= *first)));
        }
        assert!(model.len() > 100, "{}", model.len());
    }
}
