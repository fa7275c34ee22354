//! Host names to addresses (RFC 1035), asked of the name servers that are known.

use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;

use slotmap::{SlotMap, new_key_type};
use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::socket::dns::{GetQueryResultError, QueryHandle, Socket, StartQueryError};
use smoltcp::wire::{DnsQueryType, IpAddress};

use crate::client::Owner;
use crate::time::Nanoseconds;

/// Questions under way at once.
const MAX_WAITING: usize = 16;
/// When a question is given up that no server answered.
const PATIENCE: Nanoseconds = 10_000_000_000;
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
    /// The servers know no address of it.
    NoSuchHost,
    /// No server answered.
    TimedOut,
}

/// The end of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// What [`crate::stack::Stack::resolve`] gave back.
    pub query: QueryId,
    /// Who asked.
    pub owner: Owner,
    /// The answer.
    pub answer: Result<Vec<IpAddr>, NameError>,
}

struct Waiting {
    owner: Owner,
    query: QueryHandle,
    deadline: Nanoseconds,
}

/// The questions under way.
pub(crate) struct Names {
    handle: SocketHandle,
    waiting: SlotMap<QueryId, Waiting>,
}

impl Names {
    /// Adds the resolver's socket to the set.
    pub(crate) fn new(sockets: &mut SocketSet<'static>) -> Names {
        let handle = sockets.add(Socket::new(&[], vec![]));
        Names {
            handle,
            waiting: SlotMap::with_key(),
        }
    }

    /// Says whom to ask.
    pub(crate) fn set_servers(&mut self, sockets: &mut SocketSet<'static>, servers: &[IpAddr]) {
        let list: Vec<IpAddress> = servers
            .iter()
            .take(MAX_SERVERS)
            .map(|server| (*server).into())
            .collect();
        sockets
            .get_mut::<Socket<'static>>(self.handle)
            .update_servers(&list);
    }

    /// Asks for the IPv4 addresses of a name.
    pub(crate) fn start(
        &mut self,
        now: Nanoseconds,
        interface: &mut Interface,
        sockets: &mut SocketSet<'static>,
        owner: Owner,
        name: &str,
        servers: &[IpAddr],
    ) -> Result<QueryId, NameError> {
        if servers.is_empty() {
            return Err(NameError::NoServer);
        }
        if self.waiting.len() >= MAX_WAITING {
            return Err(NameError::Busy);
        }
        let query = sockets
            .get_mut::<Socket<'static>>(self.handle)
            .start_query(interface.context(), name, DnsQueryType::A)
            .map_err(|error| match error {
                StartQueryError::NoFreeSlot => NameError::Busy,
                StartQueryError::InvalidName | StartQueryError::NameTooLong => NameError::Invalid,
            })?;
        let deadline = now.saturating_add(PATIENCE);
        Ok(self.waiting.insert(Waiting {
            owner,
            query,
            deadline,
        }))
    }

    /// The next question that ended; to be asked until `None`.
    pub(crate) fn poll(
        &mut self,
        now: Nanoseconds,
        sockets: &mut SocketSet<'static>,
    ) -> Option<Resolved> {
        let socket = sockets.get_mut::<Socket<'static>>(self.handle);
        let ended = self.waiting.iter().find_map(|(id, waiting)| {
            match socket.get_query_result(waiting.query) {
                Ok(addresses) => Some((id, Ok(addresses.iter().map(|a| (*a).into()).collect()))),
                Err(GetQueryResultError::Failed) => Some((id, Err(NameError::NoSuchHost))),
                Err(GetQueryResultError::Pending) if waiting.deadline > now => None,
                Err(GetQueryResultError::Pending) => {
                    socket.cancel_query(waiting.query);
                    Some((id, Err(NameError::TimedOut)))
                }
            }
        });
        let (query, answer) = ended?;
        let owner = self.waiting.remove(query)?.owner;
        Some(Resolved {
            query,
            owner,
            answer,
        })
    }

    /// When the first question under way is given up.
    pub(crate) fn deadline(&self) -> Option<Nanoseconds> {
        self.waiting.values().map(|waiting| waiting.deadline).min()
    }

    /// Forgets what a client asked.
    pub(crate) fn drop_owner(&mut self, sockets: &mut SocketSet<'static>, owner: Owner) {
        let socket = sockets.get_mut::<Socket<'static>>(self.handle);
        self.waiting.retain(|_, waiting| {
            if waiting.owner == owner {
                socket.cancel_query(waiting.query);
            }
            waiting.owner != owner
        });
    }
}
