//! A DHCP client (RFC 2131, section 4.4) as a state machine: it is told the time and what servers said,
//! and says what to send and what it has leased. Who sends, and what follows from a lease for addresses
//! and routes, is [`crate::address`]'s.

mod message;

use core::net::Ipv4Addr;

use smoltcp::wire::DhcpMessageType;

use self::message::{Kind, Reply, is_host, read};
pub(crate) use self::message::{Request, Terms, payload};
use crate::link::Mac;
use crate::random::Random;
use crate::time::{Nanoseconds, SECOND};

/// Time until an unanswered message is sent again, at first and at most: doubled each time, and longer or
/// shorter by up to a second (RFC 2131, section 4.1).
const FIRST_WAIT: Nanoseconds = 4 * SECOND;
const LONGEST_WAIT: Nanoseconds = 64 * SECOND;
/// Times that an offer is asked for (RFC 2131, section 3.1, step 5).
const REQUESTS: u32 = 4;
/// Shortest time between two messages for a longer lease (RFC 2131, section 4.4.5).
const SHORTEST_WAIT: Nanoseconds = 60 * SECOND;
/// Pause after an address was found in use (RFC 2131, section 3.1, step 5).
const DECLINE_PAUSE: Nanoseconds = 10 * SECOND;
/// How long after its lease began an address is given back where someone else has it; later it is
/// defended.
const PROBATION: Nanoseconds = 10 * SECOND;
/// Shortest lease that is taken, in seconds: a shorter one would be renewed more than it is used.
const SHORTEST_LEASE: u32 = 10;
/// No time.
const NEVER: Nanoseconds = Nanoseconds::MAX;

/// Where the client stands (RFC 2131, figure 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It asks who has an address to lease.
    Selecting,
    /// It asks one server for the address that it offered.
    Requesting { address: Ipv4Addr, server: Ipv4Addr },
    /// It has an address.
    Bound,
    /// It asks the server for a longer lease.
    Renewing,
    /// It asks any server for a longer lease.
    Rebinding,
}

/// What is leased, from whom and until when.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Lease {
    terms: Terms,
    server: Ipv4Addr,
    began: Nanoseconds,
    renew: Nanoseconds,
    rebind: Nanoseconds,
    ends: Nanoseconds,
}

/// What a client has to have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send this.
    Send(Request),
    /// The lease ended.
    Lost,
}

/// The client of one card.
#[derive(Debug)]
pub(crate) struct Client {
    mac: Mac,
    state: State,
    /// When there is something to do without being told.
    due: Nanoseconds,
    /// Messages sent in this state.
    attempt: u32,
    transaction: u32,
    began: Nanoseconds,
    /// Seconds since it began, as the last message said that was no answer to an offer (RFC 2131, section
    /// 4.4.1).
    seconds: u16,
    lease: Option<Lease>,
    /// Times in a row that a server took back what it had offered or leased.
    setbacks: u32,
    random: Random,
}

impl Client {
    /// A client that begins at once.
    pub(crate) fn new(mac: Mac, now: Nanoseconds, seed: u64) -> Client {
        Client {
            mac,
            state: State::Selecting,
            due: now,
            attempt: 0,
            transaction: 0,
            began: now,
            seconds: 0,
            lease: None,
            setbacks: 0,
            random: Random::new(seed, "dhcp"),
        }
    }

    /// Begins anew for a card with this address; what was leased is no longer.
    pub(crate) fn restart(&mut self, mac: Mac, now: Nanoseconds) {
        self.mac = mac;
        self.lease = None;
        self.begin(now);
    }

    fn begin(&mut self, at: Nanoseconds) {
        self.state = State::Selecting;
        self.attempt = 0;
        self.due = at;
    }

    /// The address of its card.
    pub(crate) fn mac(&self) -> Mac {
        self.mac
    }

    /// What is leased.
    pub(crate) fn terms(&self) -> Option<&Terms> {
        self.lease.as_ref().map(|lease| &lease.terms)
    }

    /// When [`Client::poll`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Nanoseconds> {
        (self.due != NEVER).then_some(self.due)
    }

    /// What is to be done now; to be asked until `None`.
    pub(crate) fn poll(&mut self, now: Nanoseconds) -> Option<Step> {
        if now < self.due {
            return None;
        }
        match self.state {
            State::Selecting => Some(self.discover(now)),
            State::Requesting { .. } if self.attempt == REQUESTS => {
                self.begin(now);
                self.poll(now)
            }
            State::Requesting { address, server } => Some(self.request(now, address, server)),
            State::Bound | State::Renewing | State::Rebinding => self.extend(now),
        }
    }

    fn discover(&mut self, now: Nanoseconds) -> Step {
        if self.attempt == 0 {
            self.began = now;
            self.transaction = self.random.next() as u32;
        }
        self.due = now.saturating_add(self.backoff());
        self.count_seconds(now);
        Step::Send(self.broadcast(DhcpMessageType::Discover))
    }

    fn request(&mut self, now: Nanoseconds, address: Ipv4Addr, server: Ipv4Addr) -> Step {
        self.due = now.saturating_add(self.backoff());
        Step::Send(Request {
            requested: Some(address),
            server: Some(server),
            ..self.broadcast(DhcpMessageType::Request)
        })
    }

    /// Asks for a longer lease, first its server, then all; ends it in the end.
    fn extend(&mut self, now: Nanoseconds) -> Option<Step> {
        let Some(lease) = &self.lease else {
            self.begin(now);
            return self.poll(now);
        };
        let (address, server) = (lease.terms.address, lease.server);
        let (rebind, ends) = (lease.rebind, lease.ends);
        if now >= ends {
            self.lease = None;
            self.begin(now);
            return Some(Step::Lost);
        }
        if self.state == State::Bound {
            self.began = now;
            self.transaction = self.random.next() as u32;
        }
        let (state, to, until) = if now < rebind {
            (State::Renewing, server, rebind)
        } else {
            (State::Rebinding, Ipv4Addr::BROADCAST, ends)
        };
        self.state = state;
        self.count_seconds(now);
        // Half of the time that is left, a minute at least (RFC 2131, section 4.4.5).
        let wait = ((until - now) / 2).max(SHORTEST_WAIT);
        self.due = now.saturating_add(wait).min(until);
        Some(Step::Send(Request {
            client: address,
            to,
            ..self.broadcast(DhcpMessageType::Request)
        }))
    }

    fn count_seconds(&mut self, now: Nanoseconds) {
        let seconds = now.saturating_sub(self.began) / SECOND;
        self.seconds = u16::try_from(seconds).unwrap_or(u16::MAX);
    }

    /// A message of this transaction to whoever hears it.
    fn broadcast(&self, kind: DhcpMessageType) -> Request {
        Request {
            kind,
            transaction: self.transaction,
            seconds: self.seconds,
            client: Ipv4Addr::UNSPECIFIED,
            requested: None,
            server: None,
            to: Ipv4Addr::BROADCAST,
        }
    }

    /// How long to wait for an answer to the message that is sent now.
    fn backoff(&mut self) -> Nanoseconds {
        let wait = (FIRST_WAIT << self.attempt.min(8)).min(LONGEST_WAIT);
        self.attempt += 1;
        wait - SECOND + self.random.below(2 * SECOND)
    }

    /// Takes a message that came to the client's port; true when what is leased has changed.
    pub(crate) fn receive(&mut self, now: Nanoseconds, message: &[u8]) -> bool {
        let Some(reply) = read(message, self.mac, self.transaction) else {
            return false;
        };
        match (self.state, reply.kind) {
            (State::Selecting, Kind::Offer) if self.attempt > 0 && is_acceptable(&reply) => {
                self.state = State::Requesting {
                    address: reply.terms.address,
                    server: reply.server,
                };
                self.attempt = 0;
                self.due = now;
                false
            }
            (State::Requesting { address, server }, Kind::Ack) => {
                let offered = server == reply.server && address == reply.terms.address;
                offered && self.bind(now, reply)
            }
            (State::Requesting { server, .. }, Kind::Nak) if server == reply.server => {
                self.set_back(now)
            }
            (State::Renewing, Kind::Ack | Kind::Nak) if !self.is_server(reply.server) => false,
            (State::Renewing | State::Rebinding, Kind::Ack) => self.bind(now, reply),
            (State::Renewing | State::Rebinding, Kind::Nak) => self.set_back(now),
            _ => false,
        }
    }

    fn is_server(&self, server: Ipv4Addr) -> bool {
        self.lease
            .as_ref()
            .is_some_and(|lease| lease.server == server)
    }

    /// A server took back what it gave: begins anew, later each time.
    fn set_back(&mut self, now: Nanoseconds) -> bool {
        let pause = (FIRST_WAIT << self.setbacks.min(8)).min(LONGEST_WAIT);
        self.setbacks += 1;
        self.begin(now.saturating_add(pause));
        self.lease.take().is_some()
    }

    /// Takes the lease of an acknowledgement; true when it is another than before.
    fn bind(&mut self, now: Nanoseconds, reply: Reply) -> bool {
        if !is_acceptable(&reply) {
            return false;
        }
        let Some(seconds) = reply.lease_time else {
            return false;
        };
        let (renew, rebind) = self.times(seconds, reply.renewal_time, reply.rebinding_time);
        let at = |time: Nanoseconds| now.saturating_add(time);
        let before = self.lease.take();
        let same = before
            .as_ref()
            .is_some_and(|before| before.terms == reply.terms);
        // An address that is leased on stays what it was found to be.
        let began = before
            .filter(|before| before.terms.address == reply.terms.address)
            .map_or(now, |before| before.began);
        self.lease = Some(Lease {
            terms: reply.terms,
            server: reply.server,
            began,
            renew: at(renew),
            rebind: at(rebind),
            ends: at(length(seconds)),
        });
        self.state = State::Bound;
        self.due = at(renew);
        self.setbacks = 0;
        !same
    }

    /// When to ask the server, and when to ask all, after a lease of so many seconds began: what the
    /// server says if that is in order, else half and seven eighths (RFC 2131, section 4.4.5); a little
    /// earlier, so that not all clients ask at once.
    fn times(
        &mut self,
        lease: u32,
        renewal: Option<u32>,
        rebinding: Option<u32>,
    ) -> (Nanoseconds, Nanoseconds) {
        if lease == u32::MAX {
            return (NEVER, NEVER);
        }
        let lease = length(lease);
        let rebind = rebinding
            .map(length)
            .filter(|rebind| *rebind < lease)
            .unwrap_or(lease / 8 * 7);
        let renew = renewal
            .map(length)
            .filter(|renew| *renew < rebind && *renew >= SECOND)
            .unwrap_or(rebind.min(lease / 2));
        let earlier = self.random.below(renew / 32 + 1);
        (renew - earlier, rebind)
    }

    /// Someone else uses the leased address. Where the lease is new it is given back (RFC 2131, section
    /// 3.1, step 5), and what to say is told; what is leased has changed then.
    pub(crate) fn conflict(&mut self, now: Nanoseconds, address: Ipv4Addr) -> Option<Request> {
        let lease = self.lease.as_ref()?;
        let young = now < lease.began.saturating_add(PROBATION);
        if lease.terms.address != address || !young {
            return None;
        }
        let decline = Request {
            requested: Some(address),
            server: Some(lease.server),
            ..self.broadcast(DhcpMessageType::Decline)
        };
        self.lease = None;
        self.begin(now.saturating_add(DECLINE_PAUSE));
        Some(decline)
    }
}

/// The length of time in an option: seconds, or for ever.
fn length(seconds: u32) -> Nanoseconds {
    if seconds == u32::MAX {
        NEVER
    } else {
        Nanoseconds::from(seconds) * SECOND
    }
}

/// Whether a lease can be had of an offer or an acknowledgement: it is for one host's address, not its
/// network's first or last, and long enough.
fn is_acceptable(reply: &Reply) -> bool {
    let Terms {
        address, prefix, ..
    } = reply.terms;
    let hosts = u32::MAX.checked_shr(u32::from(prefix)).unwrap_or(0);
    let host = address.to_bits() & hosts;
    let edge = prefix < 31 && (host == 0 || host == hosts);
    let long = reply.lease_time.is_some_and(|time| time >= SHORTEST_LEASE);
    is_host(address) && !edge && long
}
