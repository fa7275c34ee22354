//! UDP sockets (RFC 768): a port, and two queues of datagrams.

use alloc::vec;
use alloc::vec::Vec;
use core::net::{IpAddr, SocketAddr};

use slotmap::{SlotMap, new_key_type};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::socket::udp;
use smoltcp::wire::{IpEndpoint, IpListenEndpoint};

use crate::client::{Ledger, Owner, STACK};
use crate::random::Random;
use crate::sift::Claim;

/// Datagrams that each queue of a socket holds.
const DATAGRAMS: usize = 64;
/// Bytes that each queue of a socket holds.
const QUEUE_BYTES: usize = 32 * 1024;
/// What one socket is charged.
const SOCKET_BYTES: usize = 2 * QUEUE_BYTES;
/// What the queues of a client's socket hold.
const CLIENT_QUEUES: Queues = Queues {
    datagrams: DATAGRAMS,
    received_bytes: QUEUE_BYTES,
    sent_bytes: QUEUE_BYTES,
};
/// First port that sockets bound to port 0 get (RFC 6335, section 6).
const FIRST_DYNAMIC: u16 = 49152;

new_key_type! {
    /// Names a UDP socket; never names another one later.
    pub struct UdpId;
}

/// Why a UDP operation was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UdpError {
    /// The port is taken, or none is free.
    InUse,
    /// The client holds as much as it may.
    Limit,
    /// No socket of this name.
    NoSocket,
    /// The address cannot be sent to, or there is none to send from.
    Unreachable,
    /// The queue is full.
    Full,
    /// More than a datagram can hold.
    TooLong,
}

/// How much the two queues of a socket hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queues {
    /// Datagrams, each way.
    pub(crate) datagrams: usize,
    /// Bytes of what was received.
    pub(crate) received_bytes: usize,
    /// Bytes of what is to be sent.
    pub(crate) sent_bytes: usize,
}

struct Bound {
    owner: Owner,
    handle: SocketHandle,
    port: u16,
    /// Its client is to be told when there is something to receive.
    awaits_data: bool,
    /// Its client is to be told when there is room to send.
    awaits_room: bool,
}

/// All UDP sockets.
pub struct UdpSockets {
    sockets: SlotMap<UdpId, Bound>,
    random: Random,
}

impl UdpSockets {
    /// No socket yet. From the seed follow the ports that are not chosen by anybody.
    pub(crate) fn new(seed: u64) -> UdpSockets {
        UdpSockets {
            sockets: SlotMap::with_key(),
            random: Random::new(seed, "udp"),
        }
    }

    /// Binds a socket to a port, or to a free one for port 0.
    pub(crate) fn bind(
        &mut self,
        set: &mut SocketSet<'static>,
        ledger: &mut Ledger,
        owner: Owner,
        address: Option<IpAddr>,
        port: u16,
    ) -> Result<UdpId, UdpError> {
        let port = self.free_port(port).ok_or(UdpError::InUse)?;
        if !ledger.charge(owner, SOCKET_BYTES) {
            return Err(UdpError::Limit);
        }
        let mut socket = socket_of(CLIENT_QUEUES);
        let endpoint = IpListenEndpoint {
            addr: address.map(Into::into),
            port,
        };
        if socket.bind(endpoint).is_err() {
            ledger.refund(owner, SOCKET_BYTES);
            return Err(UdpError::InUse);
        }
        let handle = set.add(socket);
        Ok(self.sockets.insert(Bound {
            owner,
            handle,
            port,
            awaits_data: true,
            awaits_room: false,
        }))
    }

    /// Binds a socket of the stack's own, which is on nobody's account, to a port.
    pub(crate) fn bind_own(
        &mut self,
        set: &mut SocketSet<'static>,
        port: u16,
        queues: Queues,
    ) -> Result<UdpId, UdpError> {
        let port = self.free_port(port).ok_or(UdpError::InUse)?;
        let mut socket = socket_of(queues);
        socket.bind(port).map_err(|_| UdpError::InUse)?;
        let handle = set.add(socket);
        Ok(self.sockets.insert(Bound {
            owner: STACK,
            handle,
            port,
            awaits_data: false,
            awaits_room: false,
        }))
    }

    /// The wanted port if it is free, or for 0 any that is, which nobody can foretell: much believes what
    /// comes to the right port (RFC 6056, section 3.3.1).
    fn free_port(&mut self, wanted: u16) -> Option<u16> {
        let taken = |port: u16| self.sockets.values().any(|bound| bound.port == port);
        if wanted != 0 {
            return (!taken(wanted)).then_some(wanted);
        }
        let first = self.random.port();
        let mut ports = (first..=u16::MAX).chain(FIRST_DYNAMIC..first);
        ports.find(|port| !taken(*port))
    }

    /// The socket that a packet is for.
    pub(crate) fn find(&self, claim: Claim) -> Option<UdpId> {
        let Claim::Udp { port, .. } = claim else {
            return None;
        };
        let found = self.sockets.iter().find(|(_, bound)| bound.port == port);
        found.map(|(id, _)| id)
    }

    /// Bytes that a socket holds of what was received.
    pub(crate) fn queued(&self, set: &SocketSet<'static>, id: UdpId) -> usize {
        self.sockets
            .get(id)
            .map_or(0, |bound| socket(set, bound).recv_queue())
    }

    /// The port of a socket.
    pub fn port(&self, id: UdpId) -> Option<u16> {
        self.sockets.get(id).map(|bound| bound.port)
    }

    /// The owner of a socket.
    pub fn owner(&self, id: UdpId) -> Option<Owner> {
        self.sockets.get(id).map(|bound| bound.owner)
    }

    /// Queues a datagram from an address of this host.
    pub(crate) fn send(
        &mut self,
        set: &mut SocketSet<'static>,
        id: UdpId,
        source: IpAddr,
        remote: SocketAddr,
        payload: &[u8],
    ) -> Result<(), UdpError> {
        self.send_with(set, id, (source, remote), payload.len(), |space| {
            space.copy_from_slice(payload);
        })
    }

    /// Queues a datagram of `length` bytes, which `fill` writes.
    pub(crate) fn send_with(
        &mut self,
        set: &mut SocketSet<'static>,
        id: UdpId,
        (source, remote): (IpAddr, SocketAddr),
        length: usize,
        fill: impl FnOnce(&mut [u8]),
    ) -> Result<(), UdpError> {
        let bound = self.sockets.get_mut(id).ok_or(UdpError::NoSocket)?;
        let socket = set.get_mut::<udp::Socket<'static>>(bound.handle);
        if length > socket.payload_send_capacity() {
            return Err(UdpError::TooLong);
        }
        let to = udp::UdpMetadata {
            local_address: Some(source.into()),
            ..IpEndpoint::from(remote).into()
        };
        let place = socket.send(length, to);
        place.map(fill).map_err(|error| match error {
            udp::SendError::Unaddressable => UdpError::Unreachable,
            udp::SendError::BufferFull => {
                bound.awaits_room = true;
                UdpError::Full
            }
        })
    }

    /// Offers the next received datagram to `take`, which says whether it took it. False: there is none, or
    /// it was not taken.
    pub(crate) fn receive_with(
        &mut self,
        set: &mut SocketSet<'static>,
        id: UdpId,
        take: impl FnOnce(SocketAddr, &[u8]) -> bool,
    ) -> bool {
        let Some(bound) = self.sockets.get_mut(id) else {
            return false;
        };
        let socket = set.get_mut::<udp::Socket<'static>>(bound.handle);
        let Ok((payload, from)) = socket.peek() else {
            bound.awaits_data = true;
            return false;
        };
        let sender = SocketAddr::new(from.endpoint.addr.into(), from.endpoint.port);
        // There is one, as was seen.
        take(sender, payload) && socket.recv().is_ok()
    }

    /// Copies the next received datagram into `buffer`, cut off at its end, and tells how many bytes
    /// went in and who sent it.
    pub(crate) fn receive(
        &mut self,
        set: &mut SocketSet<'static>,
        id: UdpId,
        buffer: &mut [u8],
    ) -> Option<(usize, SocketAddr)> {
        let bound = self.sockets.get_mut(id)?;
        let received = set.get_mut::<udp::Socket<'static>>(bound.handle).recv();
        let Ok((payload, from)) = received else {
            bound.awaits_data = true;
            return None;
        };
        let length = payload.len().min(buffer.len());
        buffer[..length].copy_from_slice(&payload[..length]);
        let sender = SocketAddr::new(from.endpoint.addr.into(), from.endpoint.port);
        Some((length, sender))
    }

    /// Whether a socket has something to receive.
    pub(crate) fn can_receive(&self, set: &SocketSet<'static>, id: UdpId) -> bool {
        self.sockets
            .get(id)
            .is_some_and(|bound| socket(set, bound).can_recv())
    }

    /// Whether a socket can queue a datagram.
    pub(crate) fn can_send(&self, set: &SocketSet<'static>, id: UdpId) -> bool {
        self.sockets
            .get(id)
            .is_some_and(|bound| socket(set, bound).can_send())
    }

    /// Clients' sockets with something to receive, or room to send, since that was asked for in vain. Each is
    /// told once, until it asked in vain again.
    pub(crate) fn take_changed(&mut self, set: &SocketSet<'static>) -> Vec<UdpId> {
        let mut changed = Vec::new();
        let clients = |bound: &&mut Bound| bound.owner != STACK;
        for (id, bound) in self.sockets.iter_mut().filter(|(_, bound)| clients(bound)) {
            let readable = bound.awaits_data && socket(set, bound).can_recv();
            let writable = bound.awaits_room && socket(set, bound).can_send();
            bound.awaits_data &= !readable;
            bound.awaits_room &= !writable;
            if readable || writable {
                changed.push(id);
            }
        }
        changed
    }

    /// Closes a socket.
    pub(crate) fn close(&mut self, set: &mut SocketSet<'static>, ledger: &mut Ledger, id: UdpId) {
        if let Some(bound) = self.sockets.remove(id) {
            set.remove(bound.handle);
            if bound.owner != STACK {
                ledger.refund(bound.owner, SOCKET_BYTES);
            }
        }
    }

    /// Closes every socket of a client.
    pub(crate) fn drop_owner(
        &mut self,
        set: &mut SocketSet<'static>,
        ledger: &mut Ledger,
        owner: Owner,
    ) {
        let gone: Vec<UdpId> = self
            .sockets
            .iter()
            .filter_map(|(id, bound)| (bound.owner == owner).then_some(id))
            .collect();
        for id in gone {
            self.close(set, ledger, id);
        }
    }
}

fn socket<'a>(set: &'a SocketSet<'static>, bound: &Bound) -> &'a udp::Socket<'static> {
    set.get(bound.handle)
}

fn socket_of(queues: Queues) -> udp::Socket<'static> {
    let queue = |bytes| {
        let metadata = vec![udp::PacketMetadata::EMPTY; queues.datagrams];
        udp::PacketBuffer::new(metadata, vec![0; bytes])
    };
    udp::Socket::new(queue(queues.received_bytes), queue(queues.sent_bytes))
}
