//! Which Ethernet address each neighbour has, and whether it still answers there: one cache for IPv4
//! and IPv6, with the states of RFC 4861, section 7.3 (RFC 1122, section 2.3.2.1 asks the same of ARP).
//!
//! Nothing is sent here: the cache says whom to ask ([`Neighbours::next_request`]) and keeps a few
//! packets of each neighbour that has not answered yet. It is bounded in every direction; who only
//! hears of a neighbour never displaces one that is sent to.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::net::IpAddr;

use super::Mac;
use crate::time::{Nanoseconds, SECOND};

/// How long a confirmed neighbour is taken for reachable (RFC 4861, section 10: REACHABLE_TIME).
const REACHABLE: Nanoseconds = 30 * SECOND;
/// How long a neighbour that is sent to again may show that it is there before it is asked (RFC 4861,
/// section 10: DELAY_FIRST_PROBE_TIME).
const DELAY: Nanoseconds = 5 * SECOND;
/// Time between two requests for one neighbour (RFC 4861, section 10: RETRANS_TIMER).
const RETRANSMIT: Nanoseconds = SECOND;
/// Unanswered requests after which a neighbour is given up (RFC 4861, section 10:
/// MAX_MULTICAST_SOLICIT and MAX_UNICAST_SOLICIT).
const REQUESTS: u8 = 3;
/// Neighbours kept.
pub(super) const MAX_NEIGHBOURS: usize = 256;
/// First requests for new neighbours within a second.
pub(super) const REQUESTS_A_SECOND: u32 = 64;
/// Packets that wait for one neighbour; a further one takes the oldest one's place (RFC 4861, section
/// 7.2.2). So many connections may begin at once before the gateway is known without one of them having
/// to try again.
const MAX_PENDING: usize = 32;
/// Bytes of packets that wait for neighbours.
const PENDING_BYTES: usize = 64 * 1024;
/// No time.
const NEVER: Nanoseconds = Nanoseconds::MAX;

/// What is known of a neighbour (RFC 4861, section 7.3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It was asked for and has not answered yet.
    Incomplete,
    /// It answered a while ago at most.
    Reachable,
    /// Nobody knows, and nobody asked since.
    Stale,
    /// It is sent to, and not asked yet.
    Delay,
    /// It is asked whether it is still there.
    Probe,
}

#[derive(Debug)]
struct Neighbour {
    state: State,
    /// Meaningless in Incomplete.
    mac: Mac,
    /// Reachable: until when. Incomplete, Probe: when the next request is due. Delay: when the first is.
    due: Nanoseconds,
    /// Requests sent.
    asked: u8,
    /// When it was last looked up to be sent to; `None`: never.
    used: Option<Nanoseconds>,
    /// This host's address that packets to it come from.
    source: IpAddr,
    pending: Vec<Vec<u8>>,
}

impl Neighbour {
    /// When the cache has to do something about it.
    fn timer(&self) -> Nanoseconds {
        match self.state {
            State::Incomplete | State::Delay | State::Probe => self.due,
            State::Reachable | State::Stale => NEVER,
        }
    }
}

/// A question to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// Whom to ask for.
    pub(super) address: IpAddr,
    /// This host's address that packets to it come from.
    pub(super) source: IpAddr,
    /// Where to send the question; `None`: to all.
    pub(super) mac: Option<Mac>,
}

/// How something was heard of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Heard {
    /// It answers a request of this host.
    pub(super) solicited: bool,
    /// It takes the place of another Ethernet address.
    pub(super) overrides: bool,
    /// It makes a neighbour known that nobody asked for.
    pub(super) creates: bool,
}

/// What became of something heard.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Learnt {
    /// A known neighbour has another Ethernet address.
    pub(super) moved: bool,
    /// Packets that waited and can be sent, the oldest first.
    pub(super) released: Vec<Vec<u8>>,
}

/// The cache.
#[derive(Debug, Default)]
pub(super) struct Neighbours {
    table: BTreeMap<IpAddr, Neighbour>,
    /// No timer is due before.
    next_due: Nanoseconds,
    pending_bytes: usize,
    /// The second in which first requests are counted, and their number.
    window: Nanoseconds,
    in_window: u32,
    /// Packets dropped because their neighbour did not answer, or too many waited.
    dropped: u64,
}

impl Neighbours {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// Packets that were dropped for want of an answer.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Forgets everybody.
    pub(super) fn clear(&mut self) {
        self.table.clear();
        self.pending_bytes = 0;
    }

    /// Where to send a packet of `source` for this neighbour, and until when that holds. `None`: it is
    /// asked for; the packet is to be held ([`Neighbours::hold`]).
    pub(super) fn look_up(
        &mut self,
        now: Nanoseconds,
        address: IpAddr,
        source: IpAddr,
    ) -> Option<(Mac, Nanoseconds)> {
        let Some(neighbour) = self.table.get_mut(&address) else {
            self.insert(now, address, source);
            return None;
        };
        neighbour.used = Some(now);
        neighbour.source = source;
        match neighbour.state {
            State::Incomplete => return None,
            State::Reachable if now < neighbour.due => {}
            State::Reachable | State::Stale => {
                neighbour.state = State::Delay;
                neighbour.due = now.saturating_add(DELAY);
                self.next_due = self.next_due.min(neighbour.due);
            }
            State::Delay | State::Probe => {}
        }
        Some((neighbour.mac, neighbour.due))
    }

    /// Keeps a packet until its neighbour answers; without one it is counted only.
    pub(super) fn hold(&mut self, address: IpAddr, packet: Option<&[u8]>) {
        let (Some(neighbour), Some(packet)) = (self.table.get_mut(&address), packet) else {
            self.dropped += 1;
            return;
        };
        if neighbour.pending.len() >= MAX_PENDING {
            self.pending_bytes -= neighbour.pending.remove(0).len();
            self.dropped += 1;
        }
        if self.pending_bytes + packet.len() > PENDING_BYTES {
            self.dropped += 1;
            return;
        }
        self.pending_bytes += packet.len();
        neighbour.pending.push(packet.to_vec());
    }

    /// Takes note of where a neighbour says it is; `None`: where it was (RFC 4861, section 7.2.5).
    pub(super) fn learn(
        &mut self,
        now: Nanoseconds,
        address: IpAddr,
        mac: Option<Mac>,
        heard: Heard,
    ) -> Learnt {
        if let Some(mac) = mac
            && heard.creates
            && !self.table.contains_key(&address)
        {
            self.insert_heard(address, mac);
            return Learnt::default();
        }
        let Some(neighbour) = self.table.get_mut(&address) else {
            return Learnt::default();
        };
        let incomplete = neighbour.state == State::Incomplete;
        let Some(mac) = mac.or((!incomplete).then_some(neighbour.mac)) else {
            return Learnt::default();
        };
        let moved = !incomplete && mac != neighbour.mac;
        if moved && !heard.overrides {
            // Someone else claims the address: it is asked where it was before it is believed.
            if neighbour.state == State::Reachable {
                neighbour.state = State::Stale;
            }
            return Learnt::default();
        }
        neighbour.mac = mac;
        if heard.solicited {
            neighbour.state = State::Reachable;
            neighbour.due = now.saturating_add(REACHABLE);
        } else if moved || incomplete {
            neighbour.state = State::Stale;
        }
        let released = core::mem::take(&mut neighbour.pending);
        self.pending_bytes -= released.iter().map(Vec::len).sum::<usize>();
        Learnt { moved, released }
    }

    /// Whether a timer may be due.
    pub(super) fn is_due(&self, now: Nanoseconds) -> bool {
        self.next_due <= now
    }

    /// When [`Neighbours::next_request`] has something to do.
    pub(super) fn deadline(&self) -> Option<Nanoseconds> {
        (self.next_due != NEVER && !self.table.is_empty()).then_some(self.next_due)
    }

    /// The next question that is due; to be asked until `None`. Neighbours that do not answer are
    /// forgotten, and `gone` is told of each.
    pub(super) fn next_request(
        &mut self,
        now: Nanoseconds,
        mut gone: impl FnMut(IpAddr),
    ) -> Option<Request> {
        while self.is_due(now) {
            let due = self
                .table
                .iter()
                .find(|(_, neighbour)| neighbour.timer() <= now)
                .map(|(address, _)| *address);
            let Some(address) = due else {
                let timers = self.table.values().map(Neighbour::timer);
                self.next_due = timers.min().unwrap_or(NEVER);
                return None;
            };
            match self.ask(now, address) {
                Asked::Now(request) => return Some(request),
                Asked::Later => {}
                Asked::InVain => {
                    self.remove(address);
                    gone(address);
                }
            }
        }
        None
    }

    /// Decides on the request that is due for a neighbour.
    fn ask(&mut self, now: Nanoseconds, address: IpAddr) -> Asked {
        let Some(neighbour) = self.table.get_mut(&address) else {
            return Asked::InVain;
        };
        if neighbour.state == State::Delay {
            neighbour.state = State::Probe;
            neighbour.asked = 0;
        }
        if neighbour.asked == REQUESTS {
            return Asked::InVain;
        }
        let first = neighbour.state == State::Incomplete && neighbour.asked == 0;
        if first {
            let window = now / SECOND;
            if window != self.window {
                (self.window, self.in_window) = (window, 0);
            }
            if self.in_window == REQUESTS_A_SECOND {
                neighbour.due = (window + 1).saturating_mul(SECOND);
                return Asked::Later;
            }
            self.in_window += 1;
        }
        neighbour.asked += 1;
        neighbour.due = now.saturating_add(RETRANSMIT);
        Asked::Now(Request {
            address,
            source: neighbour.source,
            mac: (neighbour.state == State::Probe).then_some(neighbour.mac),
        })
    }

    /// Adds a neighbour that a packet is for.
    fn insert(&mut self, now: Nanoseconds, address: IpAddr, source: IpAddr) {
        if self.table.len() >= MAX_NEIGHBOURS {
            // Those that were only heard of go first, then those that were asked in vain so far, then
            // those that were sent to longest ago.
            let rank = |neighbour: &Neighbour| match (neighbour.used, neighbour.state) {
                (None, _) => (0, 0),
                (Some(used), State::Incomplete) => (1, used),
                (Some(used), _) => (2, used),
            };
            let last = self
                .table
                .iter()
                .min_by_key(|(_, neighbour)| rank(neighbour));
            if let Some(address) = last.map(|(address, _)| *address) {
                self.remove(address);
            }
        }
        self.next_due = self.next_due.min(now);
        self.table.insert(
            address,
            Neighbour {
                state: State::Incomplete,
                mac: [0; 6],
                due: now,
                asked: 0,
                used: Some(now),
                source,
                pending: Vec::new(),
            },
        );
    }

    /// Adds a neighbour that made itself known. Where the table is full only another such one gives way.
    fn insert_heard(&mut self, address: IpAddr, mac: Mac) {
        if self.table.len() >= MAX_NEIGHBOURS {
            let unused = self
                .table
                .iter()
                .find(|(_, neighbour)| neighbour.used.is_none());
            let Some(unused) = unused.map(|(address, _)| *address) else {
                return;
            };
            self.remove(unused);
        }
        self.table.insert(
            address,
            Neighbour {
                state: State::Stale,
                mac,
                due: NEVER,
                asked: 0,
                used: None,
                source: address,
                pending: Vec::new(),
            },
        );
    }

    /// Forgets a neighbour and its packets.
    fn remove(&mut self, address: IpAddr) {
        if let Some(neighbour) = self.table.remove(&address) {
            self.dropped += neighbour.pending.len() as u64;
            self.pending_bytes -= neighbour.pending.iter().map(Vec::len).sum::<usize>();
        }
    }
}

/// What there is to do about a neighbour whose timer is due.
enum Asked {
    /// Send this.
    Now(Request),
    /// Too many were asked for within this second.
    Later,
    /// It does not answer.
    InVain,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 0, 1));
    const ANSWER: Heard = Heard {
        solicited: true,
        overrides: true,
        creates: false,
    };
    const GRATUITOUS: Heard = Heard {
        solicited: false,
        overrides: true,
        creates: false,
    };
    const ASKS_FOR_US: Heard = Heard {
        solicited: false,
        overrides: true,
        creates: true,
    };

    fn host(number: usize) -> IpAddr {
        IpAddr::from([10, 0, (number >> 8) as u8, number as u8])
    }

    fn requests(neighbours: &mut Neighbours, now: Nanoseconds) -> Vec<Request> {
        let gone = |_| {};
        core::iter::from_fn(|| neighbours.next_request(now, gone)).collect()
    }

    #[test]
    fn a_neighbour_is_asked_for_and_its_packets_wait() {
        let mut neighbours = Neighbours::default();
        assert_eq!(neighbours.look_up(0, host(2), SOURCE), None);
        for packet in 0..MAX_PENDING as u8 + 2 {
            neighbours.hold(host(2), Some(&[packet; 10]));
        }
        let asked = Request {
            address: host(2),
            source: SOURCE,
            mac: None,
        };
        assert_eq!(requests(&mut neighbours, 0), [asked]);
        assert_eq!(neighbours.deadline(), Some(SECOND));
        assert_eq!(requests(&mut neighbours, SECOND - 1), []);
        assert_eq!(requests(&mut neighbours, SECOND), [asked]);
        let learnt = neighbours.learn(SECOND, host(2), Some([2; 6]), ANSWER);
        let kept: Vec<Vec<u8>> = (2..MAX_PENDING as u8 + 2)
            .map(|byte| vec![byte; 10])
            .collect();
        assert_eq!(learnt.released, kept);
        assert_eq!((neighbours.dropped(), neighbours.pending_bytes), (2, 0));
        assert_eq!(
            neighbours.look_up(SECOND, host(2), SOURCE),
            Some(([2; 6], SECOND + REACHABLE))
        );
    }

    #[test]
    fn one_that_never_answers_is_given_up_with_its_packets() {
        let mut neighbours = Neighbours::default();
        neighbours.look_up(0, host(2), SOURCE);
        neighbours.hold(host(2), Some(&[1; 10]));
        for second in 0..3 {
            assert_eq!(requests(&mut neighbours, second * SECOND).len(), 1);
        }
        assert_eq!(requests(&mut neighbours, 3 * SECOND), []);
        let left = (
            neighbours.len(),
            neighbours.dropped(),
            neighbours.pending_bytes,
        );
        assert_eq!((left, neighbours.deadline()), ((0, 1, 0), None));
    }

    #[test]
    fn an_old_entry_is_used_while_it_is_asked_and_forgotten_in_the_end() {
        let mut neighbours = Neighbours::default();
        neighbours.look_up(0, host(2), SOURCE);
        neighbours.learn(0, host(2), Some([2; 6]), ANSWER);
        let late = REACHABLE + 1;
        let (mac, until) = neighbours.look_up(late, host(2), SOURCE).unwrap();
        assert_eq!((mac, until), ([2; 6], late + DELAY));
        assert_eq!(requests(&mut neighbours, late), [], "not asked at once");
        for probe in 0..3 {
            let now = late + DELAY + probe * RETRANSMIT;
            let asked = requests(&mut neighbours, now);
            assert_eq!(asked[0].mac, Some([2; 6]), "asked where it was");
            assert!(neighbours.look_up(now, host(2), SOURCE).is_some());
        }
        let mut gone = Vec::new();
        let end = late + DELAY + 3 * RETRANSMIT;
        assert_eq!(neighbours.next_request(end, |who| gone.push(who)), None);
        assert_eq!((gone, neighbours.len()), (vec![host(2)], 0));
    }

    #[test]
    fn unsolicited_news_update_who_is_known_and_add_nobody() {
        let mut neighbours = Neighbours::default();
        neighbours.learn(0, host(2), Some([2; 6]), GRATUITOUS);
        neighbours.learn(0, host(2), Some([2; 6]), ANSWER);
        assert_eq!(neighbours.len(), 0);
        neighbours.look_up(0, host(2), SOURCE);
        neighbours.learn(0, host(2), Some([2; 6]), ANSWER);
        let learnt = neighbours.learn(0, host(2), Some([3; 6]), GRATUITOUS);
        assert!(learnt.moved);
        let (mac, until) = neighbours.look_up(0, host(2), SOURCE).unwrap();
        assert_eq!((mac, until), ([3; 6], DELAY), "believed, and asked soon");
        let weak = Heard {
            overrides: false,
            ..GRATUITOUS
        };
        assert!(!neighbours.learn(0, host(2), Some([4; 6]), weak).moved);
        assert_eq!(neighbours.look_up(0, host(2), SOURCE).unwrap().0, [3; 6]);
    }

    #[test]
    fn a_flood_of_strangers_displaces_nobody_that_is_sent_to() {
        let mut neighbours = Neighbours::default();
        for number in 0..MAX_NEIGHBOURS {
            neighbours.look_up(0, host(number), SOURCE);
            neighbours.learn(0, host(number), Some([2; 6]), ANSWER);
        }
        for number in 0..10_000 {
            neighbours.learn(0, host(1_000 + number), Some([9; 6]), ASKS_FOR_US);
        }
        assert_eq!(neighbours.len(), MAX_NEIGHBOURS);
        assert!((0..MAX_NEIGHBOURS).all(|number| neighbours.table.contains_key(&host(number))));
        // Nor does a scan: those asked for in vain give way to one another.
        neighbours.remove(host(0));
        for number in 1_000..3_000 {
            neighbours.look_up(1, host(number), SOURCE);
        }
        assert!((1..MAX_NEIGHBOURS).all(|number| neighbours.table.contains_key(&host(number))));
    }

    #[test]
    fn first_requests_are_limited_by_the_second() {
        let mut neighbours = Neighbours::default();
        for number in 0..200 {
            neighbours.look_up(0, host(number), SOURCE);
        }
        let limit = REQUESTS_A_SECOND as usize;
        assert_eq!(requests(&mut neighbours, 0).len(), limit);
        assert_eq!(requests(&mut neighbours, SECOND / 2).len(), 0);
        assert_eq!(neighbours.deadline(), Some(SECOND));
        // The next ones, and the second requests of the first.
        assert_eq!(requests(&mut neighbours, SECOND).len(), 2 * limit);
    }

    #[test]
    fn waiting_packets_are_bounded_by_bytes() {
        let mut neighbours = Neighbours::default();
        for number in 0..100 {
            neighbours.look_up(0, host(number), SOURCE);
            neighbours.hold(host(number), Some(&[0; 1_500]));
        }
        assert!(neighbours.pending_bytes <= PENDING_BYTES);
        neighbours.clear();
        assert_eq!((neighbours.len(), neighbours.pending_bytes), (0, 0));
    }
}
