//! What a cloud's network does for a guest: a DHCP server that leases as Google Compute Engine's does, and a
//! router of IPv6 that says which prefix the link has. Each is a thread in the network of the thread that
//! starts it, and ends when it is dropped. The network itself is `namespace`'s.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use smoltcp::phy::{ChecksumCapabilities, Device, Medium, RawSocket, TxToken};
use smoltcp::time::Instant as Moment;
use smoltcp::wire::{
    DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr, EthernetAddress, EthernetFrame,
    EthernetProtocol, Icmpv6Packet, Icmpv6Repr, IpProtocol, Ipv6Packet, Ipv6Repr,
    NdiscPrefixInfoFlags, NdiscPrefixInformation, NdiscRepr, NdiscRouterFlags, RawHardwareAddress,
};

use crate::LIMIT;

/// How long a thread waits before it looks whether it is to end.
const TURN: Duration = Duration::from_millis(50);
/// Time between two advertisements.
const ADVERTISEMENT: Duration = Duration::from_millis(500);

/// What the DHCP server leases.
#[derive(Debug, Clone)]
pub struct Lease {
    /// The guest's address, which is a network by itself.
    pub address: Ipv4Addr,
    /// The gateway, which is in another one.
    pub gateway: Ipv4Addr,
    /// The server's name for itself, which only the gateway leads to, and the name server.
    pub server: Ipv4Addr,
    /// Largest packet in bytes.
    pub mtu: u16,
    /// Length of the lease in seconds, and when it is to be renewed.
    pub seconds: u32,
    /// See `seconds`.
    pub renewal: u32,
}

/// What a guest asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// The kind of its message.
    pub kind: DhcpMessageType,
    /// Where it came from.
    pub from: Ipv4Addr,
}

/// A thread that ends when this is dropped.
#[derive(Debug)]
struct Worker {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Worker {
    /// Starts a thread, which is to look now and then whether it shall end.
    fn start(work: impl FnOnce(&AtomicBool) -> Result<()> + Send + 'static) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&ends);
        let thread = thread::spawn(move || work(&seen));
        Self {
            ends,
            thread: Some(thread),
        }
    }

    /// Ends the thread, and says why it ended if it did so by itself.
    fn end(&mut self) -> Result<()> {
        self.ends.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(error))) => Err(error),
            Some(Err(_)) => bail!("a server of the test's network panicked"),
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Whoever wants to know why it ended has asked before.
        self.end().ok();
    }
}

/// The DHCP server.
#[derive(Debug)]
pub struct DhcpServer {
    asked: Arc<Mutex<Vec<Asked>>>,
    worker: Worker,
}

impl DhcpServer {
    /// Starts it. Broadcasts must have a route, and the server's own address must be the host's.
    pub fn start(lease: Lease) -> Result<Self> {
        let socket =
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 67)).context("no port for a DHCP server")?;
        socket.set_broadcast(true)?;
        socket.set_read_timeout(Some(TURN))?;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let list = Arc::clone(&asked);
        let worker = Worker::start(move |ends| {
            while !ends.load(Ordering::Relaxed) {
                let message = serve(&socket, &lease)?;
                list.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .extend(message);
            }
            Ok(())
        });
        Ok(Self { asked, worker })
    }

    /// Waits until the guest has asked something.
    pub fn wait_for(&mut self, what: &str, is: impl Fn(&Asked) -> bool) -> Result<Asked> {
        let begin = Instant::now();
        loop {
            let asked = self.asked();
            if let Some(found) = asked.iter().find(|asked| is(asked)) {
                return Ok(*found);
            }
            if begin.elapsed() > LIMIT {
                self.worker.end()?;
                bail!("the guest did not ask for {what}: {asked:?}");
            }
            thread::sleep(TURN);
        }
    }

    /// What was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Takes the next message, if there is one, and answers it.
fn serve(socket: &UdpSocket, lease: &Lease) -> Result<Option<Asked>> {
    let mut buffer = [0; 1500];
    let (length, from) = match socket.recv_from(&mut buffer) {
        Ok((length, std::net::SocketAddr::V4(from))) => (length, *from.ip()),
        Ok(_) => return Ok(None),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let Ok(packet) = DhcpPacket::new_checked(&buffer[..length]) else {
        return Ok(None);
    };
    let Ok(request) = DhcpRepr::parse(&packet) else {
        return Ok(None);
    };
    let answer = match request.message_type {
        DhcpMessageType::Discover => Some(DhcpMessageType::Offer),
        DhcpMessageType::Request => Some(DhcpMessageType::Ack),
        _ => None,
    };
    if let Some(kind) = answer {
        let message = lease.message(&request, kind)?;
        // A client that has its address already is answered there (RFC 2131, section 4.1).
        let to = if request.client_ip.is_unspecified() {
            Ipv4Addr::BROADCAST
        } else {
            request.client_ip
        };
        socket
            .send_to(&message, SocketAddrV4::new(to, 68))
            .with_context(|| format!("cannot answer a DHCP client at {to}"))?;
    }
    Ok(Some(Asked {
        kind: request.message_type,
        from,
    }))
}

impl Lease {
    fn message(&self, request: &DhcpRepr<'_>, kind: DhcpMessageType) -> Result<Vec<u8>> {
        // The gateway is on the link, and everything else behind it (RFC 3442).
        let gateway = self.gateway.octets();
        let routes = [&[32][..], &gateway, &[0; 4], &[0], &gateway].concat();
        let (mtu, renewal) = (self.mtu.to_be_bytes(), self.renewal.to_be_bytes());
        let option = |kind, data| DhcpOption { kind, data };
        let additional = [option(121, &routes), option(26, &mtu), option(58, &renewal)];
        let answer = DhcpRepr {
            message_type: kind,
            transaction_id: request.transaction_id,
            secs: 0,
            client_hardware_address: request.client_hardware_address,
            client_ip: request.client_ip,
            your_ip: self.address,
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: Some(self.gateway),
            subnet_mask: Some(Ipv4Addr::BROADCAST),
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast: false,
            requested_ip: None,
            client_identifier: None,
            server_identifier: Some(self.server),
            parameter_request_list: None,
            dns_servers: Some([self.server].into_iter().collect()),
            max_size: None,
            lease_duration: Some(self.seconds),
            renew_duration: None,
            rebind_duration: None,
            additional_options: &additional,
        };
        let mut bytes = vec![0; answer.buffer_len()];
        let mut packet = DhcpPacket::new_unchecked(&mut bytes[..]);
        answer
            .emit(&mut packet)
            .map_err(|error| anyhow::anyhow!("a DHCP message: {error}"))?;
        Ok(bytes)
    }
}

/// A router of IPv6, as far as it says what it knows of the link.
#[derive(Debug)]
pub struct Router {
    worker: Worker,
}

/// What a router says.
#[derive(Debug, Clone, Copy)]
pub struct Advertised {
    /// The Ethernet address of the host's end of the cable.
    pub mac: [u8; 6],
    /// The router's address on the link, which is that end's.
    pub router: Ipv6Addr,
    /// The link's prefix of 64 bits, of which hosts make addresses.
    pub prefix: Ipv6Addr,
    /// Largest packet in bytes.
    pub mtu: u32,
}

impl Router {
    /// Starts to say it, on this end of a cable, over and over.
    pub fn start(device: &str, said: Advertised) -> Self {
        let device = device.to_owned();
        let worker = Worker::start(move |ends| {
            let frame = said.frame();
            let mut socket = RawSocket::new(&device, Medium::Ethernet)
                .with_context(|| format!("no raw socket on {device}"))?;
            while !ends.load(Ordering::Relaxed) {
                if let Some(token) = socket.transmit(Moment::ZERO) {
                    token.consume(frame.len(), |space| space.copy_from_slice(&frame));
                }
                thread::sleep(ADVERTISEMENT);
            }
            Ok(())
        });
        Self { worker }
    }

    /// Ends it, and says why it ended if it did so by itself.
    pub fn end(mut self) -> Result<()> {
        self.worker.end()
    }
}

impl Advertised {
    /// The advertisement (RFC 4861, section 4.2) to all hosts on the link, in a frame.
    fn frame(&self) -> Vec<u8> {
        let all = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let own = EthernetAddress(self.mac);
        let seconds = smoltcp::time::Duration::from_secs(1800);
        let said = Icmpv6Repr::Ndisc(NdiscRepr::RouterAdvert {
            hop_limit: 64,
            flags: NdiscRouterFlags::empty(),
            router_lifetime: seconds,
            reachable_time: smoltcp::time::Duration::ZERO,
            retrans_time: smoltcp::time::Duration::ZERO,
            lladdr: Some(RawHardwareAddress::from(own)),
            mtu: Some(self.mtu),
            prefix_info: Some(NdiscPrefixInformation {
                prefix_len: 64,
                flags: NdiscPrefixInfoFlags::ON_LINK | NdiscPrefixInfoFlags::ADDRCONF,
                valid_lifetime: seconds,
                preferred_lifetime: seconds,
                prefix: self.prefix,
            }),
        });
        let header = Ipv6Repr {
            src_addr: self.router,
            dst_addr: all,
            next_header: IpProtocol::Icmpv6,
            payload_len: said.buffer_len(),
            hop_limit: 255,
        };
        let mut bytes =
            vec![0; EthernetFrame::<&[u8]>::buffer_len(header.buffer_len() + said.buffer_len())];
        let mut frame = EthernetFrame::new_unchecked(&mut bytes[..]);
        frame.set_src_addr(own);
        frame.set_dst_addr(EthernetAddress([0x33, 0x33, 0, 0, 0, 1]));
        frame.set_ethertype(EthernetProtocol::Ipv6);
        let mut packet = Ipv6Packet::new_unchecked(frame.payload_mut());
        header.emit(&mut packet);
        said.emit(
            &self.router,
            &all,
            &mut Icmpv6Packet::new_unchecked(packet.payload_mut()),
            &ChecksumCapabilities::default(),
        );
        bytes
    }
}
