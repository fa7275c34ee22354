//! This host's IPv6 addresses, routers, prefixes and name servers, as routers say them (RFC 4861, section
//! 6.3; RFC 4862; RFC 8106), as a state machine: it is told the time and what was heard, and says what to
//! send and what holds.
//!
//! Interface identifiers are made of the card's address (RFC 4291, appendix A). No address is used before
//! it was asked whether another host has it.

use alloc::vec::Vec;
use core::net::Ipv6Addr;

use crate::config::Cidr;
use crate::link::Mac;
use crate::ndp::{Prefix, RouterAdvertisement, solicited_node};
use crate::random::Random;
use crate::sort;
use crate::time::{Nanoseconds, SECOND};

/// Time in which nobody objects to an address (RFC 4861, section 10: RETRANS_TIMER; RFC 4862, section 5.1:
/// DupAddrDetectTransmits is 1).
const PROBE_WAIT: Nanoseconds = SECOND;
/// Longest random delay before the first message (RFC 4861, section 10: MAX_RTR_SOLICITATION_DELAY).
const FIRST_DELAY: Nanoseconds = SECOND;
/// Wait for an answer of a router, at first and at most (RFC 7559, section 2: IRT, MRT).
const SOLICIT_WAIT: Nanoseconds = 4 * SECOND;
const LONGEST_SOLICIT_WAIT: Nanoseconds = 3600 * SECOND;
/// Below this a shorter life of an address is not believed at once (RFC 4862, section 5.5.3, e).
const TWO_HOURS: Nanoseconds = 7200 * SECOND;
/// Reports of a group that was joined, and the time within which the second follows (RFC 3810, sections
/// 9.1 and 9.11).
const REPORTS: u32 = 2;
const REPORT_INTERVAL: Nanoseconds = SECOND;
/// Most of what routers may say that is kept: the first that come.
const MAX_ROUTERS: usize = 4;
const MAX_ON_LINK: usize = 8;
const MAX_MADE: usize = 4;
const MAX_SERVERS: usize = 4;
/// Packet size that every link has (RFC 8200, section 5).
pub(crate) const SMALLEST_MTU: usize = 1280;
/// Bits of a prefix that leaves room for an interface identifier (RFC 4291, section 2.5.1).
const PREFIX_BITS: u8 = 64;
/// The prefix of addresses on the link (RFC 4291, section 2.5.6).
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);
/// No time.
const NEVER: Nanoseconds = Nanoseconds::MAX;

/// How far an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It will be asked then whether someone has it.
    Waiting(Nanoseconds),
    /// It was asked; then it is this host's.
    Probing(Nanoseconds),
    /// It is this host's.
    Assigned,
    /// Another host has it.
    Duplicate,
}

/// An address.
#[derive(Clone, Copy, Debug)]
struct Own {
    address: Ipv6Addr,
    prefix: u8,
    state: State,
    /// Until when it is the first choice, and until when it holds.
    preferred: Nanoseconds,
    valid: Nanoseconds,
    /// It is the first choice no longer.
    deprecated: bool,
    /// A router's prefix is in it.
    made: bool,
}

impl Own {
    fn cidr(&self) -> Cidr {
        Cidr {
            address: self.address.into(),
            prefix: self.prefix,
        }
    }
}

/// Something that holds for a time.
#[derive(Clone, Copy, Debug)]
struct Timed<T> {
    what: T,
    until: Nanoseconds,
}

/// Messages that are sent again until they are answered, or as often as is enough.
#[derive(Clone, Copy, Debug)]
struct Repeated {
    due: Nanoseconds,
    wait: Nanoseconds,
    left: u32,
}

/// What there is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Ask whether someone has this address.
    Probe(Ipv6Addr),
    /// Ask routers to say what they know, from this address.
    Solicit(Ipv6Addr),
    /// Tell routers and switches which groups are listened to.
    Report(Vec<Ipv6Addr>),
    /// What holds is another than before.
    Changed,
}

/// The state of one card.
pub(crate) struct Autoconfiguration {
    mac: Mac,
    fixed: Vec<Cidr>,
    /// Routers are asked and believed.
    listens: bool,
    addresses: Vec<Own>,
    routers: Vec<Timed<Ipv6Addr>>,
    on_link: Vec<Timed<Cidr>>,
    name_servers: Vec<Timed<Ipv6Addr>>,
    mtu: Option<usize>,
    solicitation: Option<Repeated>,
    report: Option<Repeated>,
    /// Nothing is to be done before.
    due: Nanoseconds,
    random: Random,
}

impl Autoconfiguration {
    /// Begins with the address on the link and the fixed ones. `listens`: what routers say is believed.
    pub(crate) fn new(
        mac: Mac,
        fixed: Vec<Cidr>,
        listens: bool,
        now: Nanoseconds,
        seed: u64,
    ) -> Autoconfiguration {
        let mut begun = Autoconfiguration {
            mac,
            fixed,
            listens,
            addresses: Vec::new(),
            routers: Vec::new(),
            on_link: Vec::new(),
            name_servers: Vec::new(),
            mtu: None,
            solicitation: None,
            report: None,
            due: now,
            random: Random::new(seed, "slaac"),
        };
        begun.begin(now);
        begun
    }

    fn begin(&mut self, now: Nanoseconds) {
        self.addresses.clear();
        self.routers.clear();
        self.on_link.clear();
        self.name_servers.clear();
        self.mtu = None;
        self.solicitation = None;
        let due = now.saturating_add(self.random.below(FIRST_DELAY));
        self.add(identified(LINK_LOCAL, self.mac), PREFIX_BITS, due);
        for own in self.fixed.clone() {
            if let core::net::IpAddr::V6(address) = own.address {
                self.add(address, own.prefix, due);
            }
        }
    }

    /// Adds an address for ever, that is asked for at this time.
    fn add(&mut self, address: Ipv6Addr, prefix: u8, due: Nanoseconds) {
        self.addresses.push(Own {
            address,
            prefix,
            state: State::Waiting(due),
            preferred: NEVER,
            valid: NEVER,
            deprecated: false,
            made: false,
        });
        self.report_from(due, REPORTS);
    }

    /// The card came back, with this address. Behind the same one everything goes on, and routers are
    /// asked again; behind another one all begins anew.
    pub(crate) fn card_returned(&mut self, mac: Mac, now: Nanoseconds) {
        if mac != self.mac {
            self.mac = mac;
            return self.begin(now);
        }
        self.solicit_from(now);
        self.report_from(now, REPORTS);
    }

    /// Addresses that are this host's, the first choice in front.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = Cidr> {
        // Those that reach farther come first.
        let reaching = |far: bool| {
            self.addresses.iter().filter(move |own| {
                let assigned = own.state == State::Assigned;
                assigned && own.address.is_unicast_link_local() != far
            })
        };
        reaching(true).chain(reaching(false)).map(Own::cidr)
    }

    /// Addresses that are not to be used for what begins now, if there is another (RFC 4862, section
    /// 5.5.4).
    pub(crate) fn deprecated(&self) -> impl Iterator<Item = Ipv6Addr> {
        let deprecated = self.addresses.iter().filter(|own| own.deprecated);
        deprecated.map(|own| own.address)
    }

    /// Addresses that will be this host's if nobody objects.
    pub(crate) fn tentative(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.addresses
            .iter()
            .filter(|own| matches!(own.state, State::Waiting(_) | State::Probing(_)))
            .map(|own| own.address)
    }

    /// Networks whose hosts are neighbours.
    pub(crate) fn on_link(&self) -> impl Iterator<Item = Cidr> {
        let fixed = self.addresses.iter().filter(|own| !own.made);
        fixed
            .map(Own::cidr)
            .chain(self.on_link.iter().map(|network| network.what))
    }

    /// Default routers, the first choice in front.
    pub(crate) fn routers(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.routers.iter().map(|router| router.what)
    }

    /// Name servers.
    pub(crate) fn name_servers(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.name_servers.iter().map(|server| server.what)
    }

    /// Largest packet in bytes, where a router says so.
    pub(crate) fn mtu(&self) -> Option<usize> {
        self.mtu
    }

    /// When [`Autoconfiguration::poll`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Nanoseconds> {
        (self.due != NEVER).then_some(self.due)
    }

    /// What is to be done now; to be asked until `None`.
    pub(crate) fn poll(&mut self, now: Nanoseconds) -> Option<Step> {
        if now < self.due {
            return None;
        }
        let step = self
            .next_report(now)
            .or_else(|| self.next_address(now))
            .or_else(|| self.next_solicitation(now))
            .or_else(|| self.expire(now).then_some(Step::Changed));
        if step.is_none() {
            self.due = self.next_due(now);
        }
        step
    }

    fn next_report(&mut self, now: Nanoseconds) -> Option<Step> {
        let report = self.report.filter(|report| report.due <= now)?;
        let again = now.saturating_add(self.random.below(REPORT_INTERVAL));
        self.report = (report.left > 1).then_some(Repeated {
            due: again,
            left: report.left - 1,
            ..report
        });
        let mut groups: Vec<Ipv6Addr> = self
            .addresses
            .iter()
            .filter(|own| own.state != State::Duplicate)
            .map(|own| solicited_node(own.address))
            .collect();
        sort::by_key(&mut groups, |group| *group);
        groups.dedup();
        (!groups.is_empty()).then_some(Step::Report(groups))
    }

    /// Takes the next address a step further.
    fn next_address(&mut self, now: Nanoseconds) -> Option<Step> {
        for place in 0..self.addresses.len() {
            let own = self.addresses.get_mut(place)?;
            match own.state {
                State::Waiting(due) if due <= now => {
                    own.state = State::Probing(now.saturating_add(PROBE_WAIT));
                    return Some(Step::Probe(own.address));
                }
                State::Probing(due) if due <= now => {
                    own.state = State::Assigned;
                    if own.address.is_unicast_link_local() {
                        self.solicit_from(now);
                    }
                    return Some(Step::Changed);
                }
                _ => {}
            }
        }
        None
    }

    fn next_solicitation(&mut self, now: Nanoseconds) -> Option<Step> {
        let due = self.solicitation.filter(|again| again.due <= now)?;
        let source = self.link_local()?;
        // Longer each time, and not for all hosts at once (RFC 7559, section 2).
        let jitter = self.random.below(due.wait / 5);
        let wait = due.wait - due.wait / 10 + jitter;
        self.solicitation = Some(Repeated {
            due: now.saturating_add(wait),
            wait: (due.wait * 2).min(LONGEST_SOLICIT_WAIT),
            ..due
        });
        Some(Step::Solicit(source))
    }

    /// Lets go of what holds no longer; true where there was something.
    fn expire(&mut self, now: Nanoseconds) -> bool {
        let before = self.held();
        self.addresses.retain(|own| own.valid > now);
        self.routers.retain(|router| router.until > now);
        self.on_link.retain(|network| network.until > now);
        self.name_servers.retain(|server| server.until > now);
        for own in &mut self.addresses {
            own.deprecated = own.preferred <= now;
        }
        let after = self.held();
        if after[2] == 0 && before[2] > 0 {
            self.solicit_from(now);
        }
        after != before
    }

    /// How much there is of each kind.
    fn held(&self) -> [usize; 5] {
        [
            self.addresses.len(),
            self.deprecated().count(),
            self.routers.len(),
            self.on_link.len(),
            self.name_servers.len(),
        ]
    }

    fn next_due(&self, now: Nanoseconds) -> Nanoseconds {
        let states = self.addresses.iter().map(|own| match own.state {
            State::Waiting(due) | State::Probing(due) => due,
            State::Assigned | State::Duplicate => NEVER,
        });
        let lives = self
            .addresses
            .iter()
            .flat_map(|own| [own.valid, own.preferred]);
        let routers = self.routers.iter().map(|router| router.until);
        let networks = self.on_link.iter().map(|network| network.until);
        let servers = self.name_servers.iter().map(|server| server.until);
        let repeated = [self.solicitation, self.report].into_iter().flatten();
        let all = lives.chain(routers).chain(networks).chain(servers);
        let all = all.chain(states).chain(repeated.map(|again| again.due));
        // What was due is done.
        all.filter(|due| *due > now).min().unwrap_or(NEVER)
    }

    fn link_local(&self) -> Option<Ipv6Addr> {
        self.addresses
            .iter()
            .find(|own| own.state == State::Assigned && own.address.is_unicast_link_local())
            .map(|own| own.address)
    }

    fn solicit_from(&mut self, due: Nanoseconds) {
        if !self.listens {
            return;
        }
        self.solicitation = Some(Repeated {
            due,
            wait: SOLICIT_WAIT,
            left: 0,
        });
        self.due = self.due.min(due);
    }

    fn report_from(&mut self, due: Nanoseconds, left: u32) {
        self.report = Some(Repeated {
            due,
            wait: REPORT_INTERVAL,
            left,
        });
        self.due = self.due.min(due);
    }

    /// A router asks which groups are listened to, and may be answered within this time (RFC 3810, section
    /// 6.2).
    pub(crate) fn queried(&mut self, now: Nanoseconds, within: Nanoseconds) {
        let due = now.saturating_add(self.random.below(within.max(1)));
        if self.report.is_none_or(|report| report.due > due) {
            let left = self.report.map_or(1, |report| report.left);
            self.report_from(due, left);
        }
    }

    /// Another host has this address, or means to take it. Where it is not this host's yet it will not be;
    /// true when that is so.
    pub(crate) fn conflict(&mut self, now: Nanoseconds, address: Ipv6Addr) -> bool {
        let tentative = self.tentative().any(|own| own == address);
        if !tentative {
            return false;
        }
        // All others are made of the same identifier as the link's own (RFC 4862, section 5.4.5).
        let all = address.is_unicast_link_local();
        for own in &mut self.addresses {
            if own.address == address || all {
                own.state = State::Duplicate;
            }
        }
        self.due = self.due.min(now);
        true
    }

    /// A router does not answer any more: the next one takes its place (RFC 4861, section 6.3.6). True when
    /// there is another.
    pub(crate) fn router_lost(&mut self, address: Ipv6Addr) -> bool {
        match self.routers.first() {
            Some(first) if first.what == address && self.routers.len() > 1 => {
                self.routers.rotate_left(1);
                true
            }
            _ => false,
        }
    }

    /// Takes what a router says (RFC 4861, section 6.3.4).
    pub(crate) fn receive(&mut self, now: Nanoseconds, said: &RouterAdvertisement) {
        if !self.listens || self.link_local().is_none() {
            return;
        }
        let until = |seconds: u32| match seconds {
            u32::MAX => NEVER,
            _ => now.saturating_add(Nanoseconds::from(seconds) * SECOND),
        };
        if let Some(router) = said.router {
            let until = until(said.lifetime.into());
            renew(&mut self.routers, router, until, now, MAX_ROUTERS);
            if said.lifetime > 0 {
                self.solicitation = None;
            }
        }
        let mtu = said.mtu.and_then(|mtu| usize::try_from(mtu).ok());
        self.mtu = mtu.filter(|mtu| *mtu >= SMALLEST_MTU).or(self.mtu);
        for prefix in &said.prefixes {
            self.receive_prefix(now, prefix, until(prefix.valid), until(prefix.preferred));
        }
        for (server, seconds) in &said.name_servers {
            if !server.is_multicast() && !server.is_unspecified() {
                let until = until(*seconds);
                renew(&mut self.name_servers, *server, until, now, MAX_SERVERS);
            }
        }
        self.due = now;
    }

    fn receive_prefix(
        &mut self,
        now: Nanoseconds,
        said: &Prefix,
        valid: Nanoseconds,
        preferred: Nanoseconds,
    ) {
        let network = Cidr {
            address: said.prefix.into(),
            prefix: said.length,
        };
        let special = said.prefix.is_unicast_link_local() || said.prefix.is_multicast();
        // One without bits would make everybody a neighbour.
        if special || said.length == 0 {
            return;
        }
        if said.on_link {
            renew(&mut self.on_link, network, valid, now, MAX_ON_LINK);
        }
        if said.autonomous && said.length == PREFIX_BITS && said.preferred <= said.valid {
            self.make(now, said.prefix, valid, preferred);
        }
    }

    /// Makes an address of a prefix, or lets it live longer (RFC 4862, section 5.5.3).
    fn make(
        &mut self,
        now: Nanoseconds,
        prefix: Ipv6Addr,
        valid: Nanoseconds,
        preferred: Nanoseconds,
    ) {
        let address = identified(prefix, self.mac);
        if let Some(own) = self.addresses.iter_mut().find(|own| own.address == address) {
            if own.made {
                own.preferred = preferred;
                own.deprecated = preferred <= now;
                let left = own.valid.saturating_sub(now);
                let offered = valid.saturating_sub(now);
                if offered > TWO_HOURS || offered > left {
                    own.valid = valid;
                } else if left > TWO_HOURS {
                    own.valid = now.saturating_add(TWO_HOURS);
                }
            }
            return;
        }
        let made = self.addresses.iter().filter(|own| own.made).count();
        if valid <= now || made == MAX_MADE {
            return;
        }
        self.addresses.push(Own {
            address,
            prefix: PREFIX_BITS,
            state: State::Waiting(now.saturating_add(self.random.below(FIRST_DELAY))),
            preferred,
            valid,
            deprecated: preferred <= now,
            made: true,
        });
        self.report_from(now, REPORTS);
    }
}

/// Sets until when something holds; it is gone where that is not after now.
fn renew<T: Copy + PartialEq>(
    list: &mut Vec<Timed<T>>,
    what: T,
    until: Nanoseconds,
    now: Nanoseconds,
    most: usize,
) {
    if let Some(known) = list.iter_mut().find(|known| known.what == what) {
        known.until = until;
    } else if until > now && list.len() < most {
        list.push(Timed { what, until });
    }
}

/// The address of a prefix of 64 bits and the identifier that is made of an Ethernet address (RFC 4291,
/// appendix A).
fn identified(prefix: Ipv6Addr, mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac;
    let identifier = u64::from_be_bytes([a ^ 2, b, c, 0xff, 0xfe, d, e, f]);
    let network = prefix.to_bits() >> 64 << 64;
    Ipv6Addr::from_bits(network | u128::from(identifier))
}
