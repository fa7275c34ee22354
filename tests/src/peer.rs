//! A host on the guest's network that is not QEMU's: an IP stack in the test, joined to the guest's
//! card by datagrams on the loopback interface, a frame each. It pings the guest, which QEMU's own
//! network cannot, opens thousands of connections to it without a descriptor of the host for each, and
//! puts any bytes on the cable. What the guest answers is the guest's.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, ChecksumCapabilities, Device, DeviceCapabilities, Medium};
use smoltcp::socket::{icmp, tcp, udp};
use smoltcp::time::Instant as Moment;
use smoltcp::wire::{EthernetAddress, Icmpv4Packet, Icmpv4Repr, IpAddress, IpCidr};

use crate::LIMIT;

/// A locally administered address of our own.
const HARDWARE: EthernetAddress = EthernetAddress([0x02, 0, 0, 0, 0, 0x77]);

/// The identifier of our echo requests.
const IDENTIFIER: u16 = 0x757a;

/// Bytes of an Ethernet frame with its header, without tags.
const FRAME: usize = 1514;

/// How long one echo request waits for its reply before the next one is sent.
const ONE_PING: Duration = Duration::from_secs(2);

/// Bytes of each of a connection's two buffers.
const STREAM_BYTES: usize = 2048;

/// The first port that connections come from.
const FIRST_PORT: u16 = 10_000;

/// A TCP connection to the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connection(SocketHandle);

/// A UDP port of this host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port(SocketHandle);

/// A host at the other end of the guest's network cable.
pub struct Peer {
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    echo: SocketHandle,
    begin: Instant,
    sequence: u16,
    next_port: u16,
}

impl Peer {
    /// A host with this address in a network of 24 bits.
    pub fn new(address: Ipv4Addr) -> Result<Self> {
        let socket =
            UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("no port on the loopback")?;
        socket.set_nonblocking(true)?;
        let mut wire = Wire {
            socket,
            received: VecDeque::new(),
        };
        let begin = Instant::now();
        let mut interface = Interface::new(Config::new(HARDWARE.into()), &mut wire, Moment::ZERO);
        let mut full = false;
        interface
            .update_ip_addrs(|list| full = list.push(IpCidr::new(address.into(), 24)).is_err());
        if full {
            bail!("no room for an address");
        }
        let buffer =
            || icmp::PacketBuffer::new(vec![icmp::PacketMetadata::EMPTY; 8], vec![0; 16 * 1024]);
        let mut echo = icmp::Socket::new(buffer(), buffer());
        echo.bind(icmp::Endpoint::Ident(IDENTIFIER))
            .map_err(|error| anyhow!("{error:?}"))?;
        let mut sockets = SocketSet::new(Vec::new());
        let echo = sockets.add(echo);
        Ok(Self {
            wire,
            interface,
            sockets,
            echo,
            begin,
            sequence: 0,
            next_port: FIRST_PORT,
        })
    }

    /// QEMU's option that makes the cable to this host, as the network `net0`.
    pub fn netdev(&self, guest_port: u16) -> Result<String> {
        let port = self.wire.socket.local_addr()?.port();
        Ok(format!(
            "dgram,id=net0,local.type=inet,local.host=127.0.0.1,local.port={guest_port},\
             remote.type=inet,remote.host=127.0.0.1,remote.port={port}"
        ))
    }

    /// Plugs the cable's other end into this port.
    pub fn connect(&self, guest_port: u16) -> Result<()> {
        self.wire
            .socket
            .connect((Ipv4Addr::LOCALHOST, guest_port))
            .context("cannot reach QEMU's port")
    }

    /// Sends an echo request with `bytes` of data and waits for its reply; sends again as long as none
    /// comes. Returns how many it took.
    pub fn ping(&mut self, guest: Ipv4Addr, bytes: usize) -> Result<u32> {
        let begin = Instant::now();
        let data: Vec<u8> = (0..bytes)
            .map(|position| position.to_le_bytes()[0])
            .collect();
        for count in 1.. {
            if begin.elapsed() > LIMIT {
                bail!(
                    "{guest} answered none of {} pings with {bytes} bytes",
                    count - 1
                );
            }
            self.sequence = self.sequence.wrapping_add(1);
            self.send(guest, &data)?;
            let sent = Instant::now();
            while sent.elapsed() < ONE_PING {
                self.poll();
                if self.answered(guest, &data) {
                    return Ok(count);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        bail!("unreachable: the limit ends the pings")
    }

    /// Lets the host's stack work: it answers ARP requests and pings of the guest meanwhile.
    pub fn poll(&mut self) {
        let now = Moment::from_micros(
            i64::try_from(self.begin.elapsed().as_micros()).unwrap_or(i64::MAX),
        );
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
    }

    /// Lets the host's stack work until something holds.
    pub fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) -> Result<()> {
        let begin = Instant::now();
        loop {
            self.poll();
            if holds(self) {
                return Ok(());
            }
            if begin.elapsed() > LIMIT {
                bail!("{what}: not within {LIMIT:?}");
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Begins a connection, from a port that no other one has had.
    pub fn open(&mut self, guest: SocketAddrV4) -> Result<Connection> {
        let buffer = || tcp::SocketBuffer::new(vec![0; STREAM_BYTES]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        let context = self.interface.context();
        socket
            .connect(context, (*guest.ip(), guest.port()), self.next_port)
            .map_err(|error| anyhow!("cannot connect: {error}"))?;
        self.next_port = self.next_port.checked_add(1).context("no port is left")?;
        Ok(Connection(self.sockets.add(socket)))
    }

    /// Waits for one connection to this port.
    pub fn listen(&mut self, port: u16) -> Result<Connection> {
        let buffer = || tcp::SocketBuffer::new(vec![0; STREAM_BYTES]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket
            .listen(port)
            .map_err(|error| anyhow!("cannot listen: {error}"))?;
        Ok(Connection(self.sockets.add(socket)))
    }

    /// Takes datagrams to this port.
    pub fn bind(&mut self, port: u16) -> Result<Port> {
        let buffer =
            || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 16], vec![0; 16 * 1024]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket
            .bind(port)
            .map_err(|error| anyhow!("cannot bind: {error}"))?;
        Ok(Port(self.sockets.add(socket)))
    }

    /// The next datagram that came to a port, and where it came from.
    pub fn receive_from(&mut self, port: Port) -> Option<(Vec<u8>, SocketAddr)> {
        let socket = self.sockets.get_mut::<udp::Socket>(port.0);
        let (bytes, from) = socket.recv().ok()?;
        let (address, port) = (from.endpoint.addr, from.endpoint.port);
        Some((bytes.to_vec(), SocketAddr::new(address.into(), port)))
    }

    /// Sends a datagram from a port.
    pub fn send_to(&mut self, port: Port, to: SocketAddr, bytes: &[u8]) -> Result<()> {
        let socket = self.sockets.get_mut::<udp::Socket>(port.0);
        let sent = socket.send_slice(bytes, (IpAddress::from(to.ip()), to.port()));
        sent.map_err(|error| anyhow!("cannot send a datagram: {error}"))
    }

    /// Whether a connection stands, and either side may still send.
    pub fn is_open(&self, connection: Connection) -> bool {
        let socket = self.sockets.get::<tcp::Socket>(connection.0);
        socket.state() == tcp::State::Established
    }

    /// Whether a connection has ended.
    pub fn is_over(&self, connection: Connection) -> bool {
        let socket = self.sockets.get::<tcp::Socket>(connection.0);
        matches!(socket.state(), tcp::State::Closed | tcp::State::TimeWait)
    }

    /// Whether the guest may still send on a connection, or has sent what was not taken yet.
    pub fn may_receive(&self, connection: Connection) -> bool {
        self.sockets.get::<tcp::Socket>(connection.0).may_recv()
    }

    /// Gives bytes to be sent and returns how many there was room for.
    pub fn give(&mut self, connection: Connection, bytes: &[u8]) -> Result<usize> {
        let socket = self.sockets.get_mut::<tcp::Socket>(connection.0);
        let given = socket.send_slice(bytes);
        given.map_err(|error| anyhow!("cannot send: {error}"))
    }

    /// Takes what has arrived, as far as there is room, and returns how many bytes that was.
    pub fn take(&mut self, connection: Connection, into: &mut [u8]) -> usize {
        let socket = self.sockets.get_mut::<tcp::Socket>(connection.0);
        socket.recv_slice(into).unwrap_or(0)
    }

    /// Ends a connection's sending half.
    pub fn finish(&mut self, connection: Connection) {
        self.sockets.get_mut::<tcp::Socket>(connection.0).close();
    }

    /// Forgets a connection, whatever its state: the guest is told nothing.
    pub fn forget(&mut self, connection: Connection) {
        self.sockets.remove(connection.0);
    }

    /// Puts any bytes on the cable as a frame.
    pub fn put(&self, frame: &[u8]) {
        // A cable may lose a frame.
        self.wire.socket.send(frame).ok();
    }

    fn send(&mut self, guest: Ipv4Addr, data: &[u8]) -> Result<()> {
        let request = Icmpv4Repr::EchoRequest {
            ident: IDENTIFIER,
            seq_no: self.sequence,
            data,
        };
        let socket = self.sockets.get_mut::<icmp::Socket>(self.echo);
        let payload = socket
            .send(request.buffer_len(), IpAddress::Ipv4(guest))
            .map_err(|error| anyhow!("cannot send an echo request: {error}"))?;
        request.emit(
            &mut Icmpv4Packet::new_unchecked(payload),
            &ChecksumCapabilities::default(),
        );
        Ok(())
    }

    /// Whether the reply to the last request is among what was received.
    fn answered(&mut self, guest: Ipv4Addr, data: &[u8]) -> bool {
        let sequence = self.sequence;
        let socket = self.sockets.get_mut::<icmp::Socket>(self.echo);
        let mut answered = false;
        while let Ok((payload, from)) = socket.recv() {
            let packet = Icmpv4Packet::new_checked(payload);
            let reply = packet.ok().and_then(|packet| {
                Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default())
                    .ok()
                    .map(|reply| {
                        reply
                            == Icmpv4Repr::EchoReply {
                                ident: IDENTIFIER,
                                seq_no: sequence,
                                data,
                            }
                    })
            });
            answered |= from == IpAddress::Ipv4(guest) && reply == Some(true);
        }
        answered
    }
}

/// The cable: a frame is a datagram.
struct Wire {
    socket: UdpSocket,
    received: VecDeque<Vec<u8>>,
}

/// A frame on its way in.
struct Received(Vec<u8>);

/// The way out.
struct Sending<'wire>(&'wire UdpSocket);

impl Device for Wire {
    type RxToken<'wire> = Received;
    type TxToken<'wire> = Sending<'wire>;

    fn receive(&mut self, _now: Moment) -> Option<(Received, Sending<'_>)> {
        let mut frame = vec![0; 2 * FRAME];
        if let Ok(length) = self.socket.recv(&mut frame) {
            frame.truncate(length);
            self.received.push_back(frame);
        }
        Some((Received(self.received.pop_front()?), Sending(&self.socket)))
    }

    fn transmit(&mut self, _now: Moment) -> Option<Sending<'_>> {
        Some(Sending(&self.socket))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = FRAME;
        capabilities
    }
}

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl phy::TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        let mut frame = vec![0; length];
        let result = write(&mut frame);
        // A cable may lose a frame, and does while the guest's end is not plugged in yet.
        self.0.send(&frame).ok();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_that_is_there_answers_a_ping() {
        let (one, two) = (Ipv4Addr::new(10, 7, 0, 1), Ipv4Addr::new(10, 7, 0, 2));
        let (mut near, mut far) = (Peer::new(one).unwrap(), Peer::new(two).unwrap());
        let port = |peer: &Peer| peer.wire.socket.local_addr().unwrap().port();
        near.connect(port(&far)).unwrap();
        far.connect(port(&near)).unwrap();
        let (done, stop) = std::sync::mpsc::channel::<()>();
        let answering = std::thread::spawn(move || {
            while stop.try_recv().is_err() {
                far.poll();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        near.ping(two, 56).unwrap();
        near.ping(two, 1400).unwrap();
        done.send(()).unwrap();
        answering.join().unwrap();
    }
}
