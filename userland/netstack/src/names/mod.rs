//! Host names to addresses (RFC 1035): a resolver that asks the recursive name servers it is told of.
//!
//! A search is for one name and has every client that waits for it; it asks for the addresses of both
//! families, as far as they are of use. What is found stays in a cache as long as it holds. Names that
//! never leave a host are answered here (RFC 6761). How a server is asked is `exchange`'s, what an answer
//! means `message`'s.

mod cache;
mod exchange;
mod message;
mod name;
mod order;

use alloc::vec;
use alloc::vec::Vec;
use core::mem;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipc::interface::network::MAX_ADDRESSES;
use slotmap::{SlotMap, new_key_type};
use smoltcp::iface::{Interface, SocketSet};

use self::cache::Cache;
use self::exchange::Exchange;
use self::message::{Answer, Kind, MAX_LINKS, Question};
use self::name::Name;
use crate::client::{Ledger, Owner};
use crate::link::Link;
use crate::random::Random;
use crate::tcp::Table;
use crate::time::{Nanoseconds, SECOND};
use crate::udp::UdpSockets;

/// Names searched for at once.
const MAX_SEARCHES: usize = 16;
/// Questions of clients under way at once.
const MAX_WAITING: usize = 64;
/// Those of one client.
const MAX_WAITING_OF_ONE: usize = 16;
/// When a search is given up.
const PATIENCE: Nanoseconds = 15 * SECOND;
/// How long the addresses of one family wait for the other's (RFC 8305, section 3 has 50 ms, for
/// connections that race; here the first answer is all that there is).
const COMPANION_PATIENCE: Nanoseconds = SECOND;
/// Name servers asked.
const MAX_SERVERS: usize = 4;

new_key_type! {
    /// Names a question.
    pub struct QueryId;
}

/// Why a name has no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// It is no host name.
    Invalid,
    /// No name server is known.
    NoServer,
    /// Too many questions are under way.
    Busy,
    /// The name does not exist.
    NoSuchHost,
    /// The name exists, and has no address.
    NoAddress,
    /// The servers would not or could not answer.
    ServerFailed,
    /// No server answered.
    TimedOut,
}

/// What a question for a name came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The answer was known.
    Known(Vec<IpAddr>),
    /// [`crate::stack::Stack::next_resolved`] will tell.
    Later(QueryId),
}

/// The end of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// What [`crate::stack::Stack::resolve`] gave back.
    pub query: QueryId,
    /// Who asked.
    pub owner: Owner,
    /// The answer: one address at least, those to try first in front.
    pub answer: Result<Vec<IpAddr>, NameError>,
}

/// What was found for one family of addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Finding {
    Addresses(Vec<IpAddr>),
    NoAddress,
    NoSuchHost,
    Failed(NameError),
}

/// What the resolver sends and receives through.
pub(crate) struct Transports<'a> {
    pub(crate) interface: &'a mut Interface,
    pub(crate) link: &'a Link,
    pub(crate) sockets: &'a mut SocketSet<'static>,
    pub(crate) udp: &'a mut UdpSockets,
    pub(crate) tcp: &'a mut Table,
    pub(crate) ledger: &'a mut Ledger,
    /// Set where a datagram was queued.
    pub(crate) queued: bool,
}

/// The name servers.
#[derive(Default)]
struct Servers {
    list: Vec<IpAddr>,
    /// The one that answered last: the first to be asked next time.
    preferred: usize,
    /// Datagrams that were no answer to what was asked.
    strays: u64,
}

/// The resolver.
pub(crate) struct Names {
    servers: Servers,
    /// The list changed: what is under way starts again.
    servers_changed: bool,
    cache: Cache,
    searches: Vec<Search>,
    waiting: SlotMap<QueryId, Owner>,
    ended: Vec<Resolved>,
    random: Random,
}

impl Names {
    /// A resolver that knows no server yet.
    pub(crate) fn new(seed: u64) -> Names {
        Names {
            servers: Servers::default(),
            servers_changed: false,
            cache: Cache::default(),
            searches: Vec::new(),
            waiting: SlotMap::with_key(),
            ended: Vec::new(),
            random: Random::new(seed, "names"),
        }
    }

    /// Says whom to ask, in the order of preference. Other servers than before may answer otherwise: what
    /// is known is forgotten.
    pub(crate) fn set_servers(&mut self, servers: &[IpAddr]) {
        let servers = servers.get(..MAX_SERVERS).unwrap_or(servers);
        if self.servers.list != servers {
            self.servers.list = servers.to_vec();
            self.servers.preferred = 0;
            self.servers_changed = true;
            self.cache.clear();
        }
    }

    /// Datagrams that claimed to be answers and were none.
    pub(crate) fn strays(&self) -> u64 {
        self.servers.strays
    }

    /// Asks for the addresses of a host on behalf of a client. `own` are this host's addresses.
    pub(crate) fn start(
        &mut self,
        now: Nanoseconds,
        owner: Owner,
        host: &str,
        own: &[IpAddr],
    ) -> Result<Asked, NameError> {
        if let Ok(address) = host.parse() {
            return Ok(Asked::Known(vec![address]));
        }
        let name = Name::from_text(host).ok_or(NameError::Invalid)?;
        if let Some(answer) = local(&name) {
            return answer.map(Asked::Known);
        }
        if self.servers.list.is_empty() {
            return Err(NameError::NoServer);
        }
        let mut search = Search::new(now, name, own);
        search.look(now, &self.cache);
        if let Some(answer) = search.conclusion(now) {
            return answer.map(Asked::Known);
        }
        let own_waiting = self.waiting.values().filter(|other| **other == owner);
        if self.waiting.len() >= MAX_WAITING || own_waiting.count() >= MAX_WAITING_OF_ONE {
            return Err(NameError::Busy);
        }
        let joined = self
            .searches
            .iter()
            .position(|other| other.name == search.name);
        if joined.is_none() && self.searches.len() >= MAX_SEARCHES {
            return Err(NameError::Busy);
        }
        let query = self.waiting.insert(owner);
        match joined.and_then(|position| self.searches.get_mut(position)) {
            Some(search) => search.waiting.push(query),
            None => {
                search.waiting.push(query);
                self.searches.push(search);
            }
        }
        Ok(Asked::Later(query))
    }

    /// Does what is to do.
    pub(crate) fn work(&mut self, now: Nanoseconds, transports: &mut Transports<'_>) {
        if self.searches.is_empty() {
            self.servers_changed = false;
            return;
        }
        let restart = mem::take(&mut self.servers_changed);
        for mut search in mem::take(&mut self.searches) {
            search
                .waiting
                .retain(|query| self.waiting.contains_key(*query));
            if restart || search.waiting.is_empty() {
                search.stop(now, transports);
            }
            if search.waiting.is_empty() {
                continue;
            }
            self.work_search(now, transports, &mut search);
            match search.conclusion(now) {
                None => self.searches.push(search),
                Some(answer) => {
                    search.stop(now, transports);
                    self.tell(&search, &answer);
                }
            }
        }
    }

    fn tell(&mut self, search: &Search, answer: &Result<Vec<IpAddr>, NameError>) {
        for query in &search.waiting {
            if let Some(owner) = self.waiting.remove(*query) {
                self.ended.push(Resolved {
                    query: *query,
                    owner,
                    answer: answer.clone(),
                });
            }
        }
    }

    /// Goes on with both families of a search.
    fn work_search(
        &mut self,
        now: Nanoseconds,
        transports: &mut Transports<'_>,
        search: &mut Search,
    ) {
        for kind in [search.first, search.first.other()] {
            if search.is_due(kind) {
                let question = self.question(search.name.clone(), kind);
                search.halves[kind as usize] = self.begin(now, transports, question, (0, u32::MAX));
            }
            // Each turn follows an alias or is the last.
            while let Half::Asking(lookup) = &mut search.halves[kind as usize] {
                let Some(answer) = lookup.exchange.work(now, transports, &mut self.servers) else {
                    break;
                };
                let half = mem::replace(&mut search.halves[kind as usize], Half::Idle);
                let half = self.proceed(now, transports, search, half, answer);
                search.halves[kind as usize] = half;
            }
            search.note_found(now, kind);
        }
    }

    fn question(&mut self, name: Name, kind: Kind) -> Question {
        let id = self.random.next() as u16;
        Question::new(name, kind, id, || self.random.next())
    }

    fn begin(
        &mut self,
        now: Nanoseconds,
        transports: &mut Transports<'_>,
        question: Question,
        (links, seconds): (usize, u32),
    ) -> Half {
        if self.servers.list.is_empty() {
            return Half::Found(Finding::Failed(NameError::NoServer));
        }
        let begun = Exchange::begin(now, transports, &self.servers, &mut self.random, question);
        begun.map_or_else(
            |error| Half::Found(Finding::Failed(error)),
            |exchange| {
                Half::Asking(Lookup {
                    exchange,
                    links,
                    seconds,
                })
            },
        )
    }

    /// Draws the consequences of an answer: the next alias is asked for, or the finding kept.
    fn proceed(
        &mut self,
        now: Nanoseconds,
        transports: &mut Transports<'_>,
        search: &Search,
        half: Half,
        answer: Result<Answer, NameError>,
    ) -> Half {
        let Half::Asking(lookup) = half else {
            return half;
        };
        let Lookup {
            exchange,
            links,
            seconds,
        } = lookup;
        let kind = exchange.question().kind();
        exchange.end(now, transports);
        let (finding, lives) = match answer {
            Ok(Answer::Alias {
                target,
                links: more,
                seconds: lives,
            }) => {
                let links = links + more;
                if links <= MAX_LINKS {
                    let question = self.question(target, kind);
                    return self.begin(now, transports, question, (links, seconds.min(lives)));
                }
                (Finding::Failed(NameError::ServerFailed), 0)
            }
            Ok(Answer::Addresses {
                list,
                seconds: lives,
                ..
            }) => (Finding::Addresses(list), lives),
            Ok(Answer::NoAddress { seconds: lives }) => (Finding::NoAddress, lives),
            Ok(Answer::NoSuchHost { seconds: lives }) => (Finding::NoSuchHost, lives),
            Err(error) => (Finding::Failed(error), 0),
        };
        let asker = search
            .waiting
            .iter()
            .find_map(|query| self.waiting.get(*query));
        if let Some(owner) = asker {
            let key = (&search.name, kind);
            self.cache
                .insert(now, *owner, key, &finding, seconds.min(lives));
        }
        Half::Found(finding)
    }

    /// The next question that ended; to be asked until `None`.
    pub(crate) fn next_ended(&mut self) -> Option<Resolved> {
        self.ended.pop()
    }

    /// When [`Names::work`] next has something to do.
    pub(crate) fn deadline(&self) -> Option<Nanoseconds> {
        self.searches.iter().map(Search::deadline).min()
    }

    /// Forgets what a client asked. Searches that nobody waits for end with the next round of work.
    pub(crate) fn drop_owner(&mut self, owner: Owner) {
        self.waiting.retain(|_, other| *other != owner);
        self.ended.retain(|resolved| resolved.owner != owner);
    }
}

/// One family's part of a search.
enum Half {
    /// Not asked for, yet at least.
    Idle,
    Asking(Lookup),
    Found(Finding),
}

/// The question for one family, and what the aliases so far came to.
struct Lookup {
    exchange: Exchange,
    links: usize,
    seconds: u32,
}

/// The search for a name's addresses.
struct Search {
    name: Name,
    waiting: Vec<QueryId>,
    /// This host's addresses when the search began.
    own: Vec<IpAddr>,
    /// The family that is of more use, and whether the other one is as much use, and asked for at once. If
    /// not it is asked for where the first has no address.
    first: Kind,
    both: bool,
    halves: [Half; Kind::ALL.len()],
    deadline: Nanoseconds,
}

impl Search {
    fn new(now: Nanoseconds, name: Name, own: &[IpAddr]) -> Search {
        let (v4, v6) = order::families(own);
        Search {
            name,
            waiting: Vec::new(),
            own: own.to_vec(),
            first: if v6 && !v4 { Kind::Aaaa } else { Kind::A },
            both: v4 == v6,
            halves: [Half::Idle, Half::Idle],
            deadline: now.saturating_add(PATIENCE),
        }
    }

    /// Takes what the cache has.
    fn look(&mut self, now: Nanoseconds, cache: &Cache) {
        for kind in Kind::ALL {
            if let Some(finding) = cache.get(now, &self.name, kind) {
                self.halves[kind as usize] = Half::Found(finding.clone());
            }
        }
    }

    fn found(&self, kind: Kind) -> Option<&Finding> {
        match &self.halves[kind as usize] {
            Half::Found(finding) => Some(finding),
            Half::Idle | Half::Asking(_) => None,
        }
    }

    /// Whether a family is to be asked for and was not yet.
    fn is_due(&self, kind: Kind) -> bool {
        let useful =
            self.both || kind == self.first || self.found(self.first) == Some(&Finding::NoAddress);
        useful && matches!(self.halves[kind as usize], Half::Idle)
    }

    /// Where one family's addresses are there, the other's are not waited for as long.
    fn note_found(&mut self, now: Nanoseconds, kind: Kind) {
        if matches!(self.found(kind), Some(Finding::Addresses(_))) {
            let soon = now.saturating_add(COMPANION_PATIENCE);
            self.deadline = self.deadline.min(soon);
        }
    }

    /// How the search ended, if it has.
    fn conclusion(&self, now: Nanoseconds) -> Option<Result<Vec<IpAddr>, NameError>> {
        let (first, other) = (self.found(self.first), self.found(self.first.other()));
        let found = [first, other].into_iter().flatten();
        if found.clone().any(|finding| *finding == Finding::NoSuchHost) {
            return Some(Err(NameError::NoSuchHost));
        }
        let other_wanted = self.both || first == Some(&Finding::NoAddress);
        let complete = first.is_some() && (other.is_some() || !other_wanted);
        if !complete && now < self.deadline {
            return None;
        }
        let mut addresses = Vec::new();
        let mut error = if complete {
            NameError::NoAddress
        } else {
            NameError::TimedOut
        };
        for finding in found {
            match finding {
                Finding::Addresses(list) => addresses.extend(list),
                Finding::Failed(why) => error = *why,
                Finding::NoAddress | Finding::NoSuchHost => {}
            }
        }
        order::arrange(&mut addresses, &self.own, MAX_ADDRESSES);
        Some(if addresses.is_empty() {
            Err(error)
        } else {
            Ok(addresses)
        })
    }

    fn deadline(&self) -> Nanoseconds {
        let exchanges = self.halves.iter().filter_map(|half| match half {
            Half::Asking(lookup) => Some(lookup.exchange.deadline()),
            Half::Idle | Half::Found(_) => None,
        });
        exchanges.fold(self.deadline, Nanoseconds::min)
    }

    /// Lets go of what is being asked; it may be asked for again.
    fn stop(&mut self, now: Nanoseconds, transports: &mut Transports<'_>) {
        for half in &mut self.halves {
            if let Half::Asking(lookup) = mem::replace(half, Half::Idle) {
                lookup.exchange.end(now, transports);
            }
        }
    }
}

/// The answer for names that never leave a host (RFC 6761, sections 6.3 and 6.4).
fn local(name: &Name) -> Option<Result<Vec<IpAddr>, NameError>> {
    if name.is_under("localhost") {
        return Some(Ok(vec![
            Ipv4Addr::LOCALHOST.into(),
            Ipv6Addr::LOCALHOST.into(),
        ]));
    }
    name.is_under("invalid")
        .then_some(Err(NameError::NoSuchHost))
}
