//! A host on the guest's network that is not QEMU's: an IP stack in the test, joined to the guest's
//! card by datagrams on the loopback interface, a frame each. It pings the guest, which QEMU's own
//! network cannot. What the guest answers is the guest's.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, ChecksumCapabilities, Device, DeviceCapabilities, Medium};
use smoltcp::socket::icmp;
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

/// A host at the other end of the guest's network cable.
pub struct Peer {
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    echo: SocketHandle,
    begin: Instant,
    sequence: u16,
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
