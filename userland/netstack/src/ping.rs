//! Echo requests that this host sends (RFC 792, RFC 4443), and the wait for their answers. Requests
//! of others are answered by smoltcp.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;

use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::icmp;
use smoltcp::wire::{
    Icmpv4Message, Icmpv4Packet, Icmpv4Repr, Icmpv6Message, Icmpv6Packet, Icmpv6Repr, IpAddress,
};

use crate::client::Owner;
use crate::time::Nanoseconds;

/// Requests under way at once.
const MAX_WAITING: usize = 64;
/// Bytes of an echo request before what it carries (RFC 792, page 14).
const HEADER_BYTES: usize = 8;
/// What a request carries, over and over.
const FILL: u8 = 0x75;
/// Bytes that the queue of requests, and that of answers, holds.
const BUFFER_BYTES: usize = 16 * 1024;

/// Why a request was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PingError {
    /// No address to send from, or none that can be sent to.
    Unreachable,
    /// Too many requests are under way.
    Busy,
}

/// What to send, and for whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asked.
    pub owner: Owner,
    /// Whom to ask.
    pub target: IpAddr,
    /// Bytes that the request carries.
    pub bytes: usize,
    /// When to give up.
    pub deadline: Nanoseconds,
}

/// The end of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pinged {
    /// What [`crate::stack::Stack::ping`] gave back.
    pub sequence: u16,
    /// Who asked.
    pub owner: Owner,
    /// What came back; `None`: nothing in time.
    pub answer: Option<Echo>,
}

/// An answer to an echo request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// Who answered.
    pub from: IpAddr,
    /// Bytes that came back.
    pub bytes: usize,
    /// Time to live of the answer.
    pub hop_limit: u8,
    /// Time until it came.
    pub round_trip: Nanoseconds,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    owner: Owner,
    target: IpAddr,
    sent: Nanoseconds,
    deadline: Nanoseconds,
}

/// The requests under way.
pub(crate) struct Pings {
    handle: SocketHandle,
    identifier: u16,
    next: u16,
    waiting: BTreeMap<u16, Waiting>,
    ended: VecDeque<Pinged>,
}

impl Pings {
    /// Adds the ICMP socket to the set.
    pub(crate) fn new(sockets: &mut SocketSet<'static>, identifier: u16) -> Pings {
        let buffer = || {
            icmp::PacketBuffer::new(
                vec![icmp::PacketMetadata::EMPTY; MAX_WAITING],
                vec![0; BUFFER_BYTES],
            )
        };
        let mut socket = icmp::Socket::new(buffer(), buffer());
        // A socket that was just made is not open, so binding cannot fail.
        let _ = socket.bind(icmp::Endpoint::Ident(identifier));
        Pings {
            handle: sockets.add(socket),
            identifier,
            next: 0,
            waiting: BTreeMap::new(),
            ended: VecDeque::new(),
        }
    }

    /// Queues a request from an address of this host and gives its sequence number.
    pub(crate) fn start(
        &mut self,
        now: Nanoseconds,
        sockets: &mut SocketSet<'static>,
        source: IpAddr,
        request: Request,
    ) -> Result<u16, PingError> {
        let Request {
            owner,
            target,
            bytes,
            deadline,
        } = request;
        if self.waiting.len() >= MAX_WAITING {
            return Err(PingError::Busy);
        }
        let sequence = self.next;
        let packet = self.packet(source.into(), target.into(), sequence, bytes);
        sockets
            .get_mut::<icmp::Socket<'static>>(self.handle)
            .send_slice(&packet, target.into())
            .map_err(|_| PingError::Busy)?;
        self.next = self.next.wrapping_add(1);
        self.waiting.insert(
            sequence,
            Waiting {
                owner,
                target,
                sent: now,
                deadline,
            },
        );
        Ok(sequence)
    }

    fn packet(
        &self,
        source: IpAddress,
        target: IpAddress,
        sequence: u16,
        length: usize,
    ) -> Vec<u8> {
        let checksums = ChecksumCapabilities::default();
        let payload = vec![FILL; length];
        let mut bytes = vec![0; HEADER_BYTES + length];
        match (source, target) {
            (IpAddress::Ipv6(source), IpAddress::Ipv6(target)) => Icmpv6Repr::EchoRequest {
                ident: self.identifier,
                seq_no: sequence,
                data: &payload,
            }
            .emit(
                &source,
                &target,
                &mut Icmpv6Packet::new_unchecked(&mut bytes),
                &checksums,
            ),
            _ => Icmpv4Repr::EchoRequest {
                ident: self.identifier,
                seq_no: sequence,
                data: &payload,
            }
            .emit(&mut Icmpv4Packet::new_unchecked(&mut bytes), &checksums),
        }
        bytes
    }

    /// Takes the answers that came with the frame just received, which had this hop limit.
    pub(crate) fn hear(
        &mut self,
        now: Nanoseconds,
        sockets: &mut SocketSet<'static>,
        hop_limit: u8,
    ) {
        let socket = sockets.get_mut::<icmp::Socket<'static>>(self.handle);
        while let Ok((payload, from)) = socket.recv() {
            let Some((sequence, bytes)) = answered(payload, from) else {
                continue;
            };
            let from = IpAddr::from(from);
            // Whoever was not asked does not answer.
            if self
                .waiting
                .get(&sequence)
                .is_none_or(|waiting| waiting.target != from)
            {
                continue;
            }
            if let Some(Waiting { owner, sent, .. }) = self.waiting.remove(&sequence) {
                let round_trip = now.saturating_sub(sent);
                let answer = Some(Echo {
                    from,
                    bytes,
                    hop_limit,
                    round_trip,
                });
                self.ended.push_back(Pinged {
                    sequence,
                    owner,
                    answer,
                });
            }
        }
    }

    /// The next request that ended; to be asked until `None`.
    pub(crate) fn poll(&mut self, now: Nanoseconds) -> Option<Pinged> {
        if let Some(pinged) = self.ended.pop_front() {
            return Some(pinged);
        }
        let late = self
            .waiting
            .iter()
            .find(|(_, waiting)| waiting.deadline <= now);
        let (sequence, owner) = late.map(|(sequence, waiting)| (*sequence, waiting.owner))?;
        self.waiting.remove(&sequence);
        Some(Pinged {
            sequence,
            owner,
            answer: None,
        })
    }

    /// When the first request under way is given up.
    pub(crate) fn deadline(&self) -> Option<Nanoseconds> {
        self.waiting.values().map(|waiting| waiting.deadline).min()
    }

    /// Forgets what a client asked.
    pub(crate) fn drop_owner(&mut self, owner: Owner) {
        self.waiting.retain(|_, waiting| waiting.owner != owner);
        self.ended.retain(|pinged| pinged.owner != owner);
    }
}

/// Sequence number and bytes carried of an echo reply; smoltcp checked its checksum and identifier.
fn answered(payload: &[u8], from: IpAddress) -> Option<(u16, usize)> {
    match from {
        IpAddress::Ipv4(_) => {
            let packet = Icmpv4Packet::new_checked(payload).ok()?;
            (packet.msg_type() == Icmpv4Message::EchoReply)
                .then(|| (packet.echo_seq_no(), packet.data().len()))
        }
        IpAddress::Ipv6(_) => {
            let packet = Icmpv6Packet::new_checked(payload).ok()?;
            (packet.msg_type() == Icmpv6Message::EchoReply)
                .then(|| (packet.echo_seq_no(), packet.payload().len()))
        }
    }
}
