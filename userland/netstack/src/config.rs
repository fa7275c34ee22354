//! The network's configuration, as the task's arguments write it: in the manifest, or on the kernel's
//! command line as `netstack.ip=10.0.2.15/24`.
//!
//! | argument | meaning |
//! |---|---|
//! | `ip=dhcp` | ask a DHCP server (the default) |
//! | `ip=10.0.2.15/24,fd00::5/64` | these addresses with their networks, up to 8 |
//! | `gw=10.0.2.2` | default gateways, one each for IPv4 and IPv6; with DHCP instead of the leased one |
//! | `dns=10.0.2.3,1.1.1.1` | name servers; with DHCP instead of the leased ones |
//! | `ipv6=auto` | IPv6 addresses on the link, fixed ones, and those that routers give prefixes for (the default) |
//! | `ipv6=fixed` | what routers say is not believed |
//! | `ipv6=off` | no IPv6; fixed addresses of it are not used |
//! | `mtu=1460` | largest packet in bytes, at most the card's and what the network says |
//! | `buffer=262144` | bytes of each of a connection's two buffers |
//! | `sockets=1024` | sockets of one client |
//! | `client=12582912` | bytes of socket buffers of one client |
//! | `total=16777216` | bytes of socket buffers of all clients |
//!
//! Where `buffer`, `client` and `total` are not said, they follow from the heap's size
//! ([`Config::for_heap`]). Where several values can be, commas or spaces are between them.

use alloc::vec::Vec;
use core::fmt;
use core::net::{IpAddr, Ipv4Addr};
use core::str::FromStr;

use smoltcp::wire::IpCidr;

use crate::client::Limits;

/// Smallest and largest socket buffer.
const BUFFER_RANGE: core::ops::RangeInclusive<usize> = 2048..=16 * 1024 * 1024;
/// Part of the heap that is for tables: records of TIME-WAIT, sessions, connections without their buffers.
const TABLES: usize = 1 << 20;
/// Connections that are to fit before their buffers get their full size.
const MANY: usize = 48;
/// Smallest buffer that is chosen where the arguments say nothing.
const SMALL_BUFFER: usize = 16 * 1024;
/// Packet sizes that can be asked for: what every host takes (RFC 791, section 3.2), and the largest that
/// networks of clouds have, rounded up.
const MTU_RANGE: core::ops::RangeInclusive<usize> = 576..=9000;
/// Most sockets kept with their buffers for the next connections.
const SPARE: usize = 16;
/// Part of the heap that they may take, as a divisor.
const SPARE_PART: usize = 6;
/// Addresses that an interface can have; smoltcp is built for as many.
pub(crate) const MAX_ADDRESSES: usize = 8;

/// An address of this host with the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address.
    pub address: IpAddr,
    /// Bits that all hosts of the network share.
    pub prefix: u8,
}

impl Cidr {
    /// Whether an address shares the prefix.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(address)) => {
                let differing = own.to_bits() ^ address.to_bits();
                differing.leading_zeros() >= u32::from(self.prefix)
            }
            (IpAddr::V6(own), IpAddr::V6(address)) => {
                let differing = own.to_bits() ^ address.to_bits();
                differing.leading_zeros() >= u32::from(self.prefix)
            }
            _ => false,
        }
    }

    /// Whether an address means all hosts of the network (RFC 922, section 7). Networks of two addresses
    /// and of one have none (RFC 3021).
    pub fn is_broadcast(&self, address: Ipv4Addr) -> bool {
        let hosts = u32::MAX.checked_shr(u32::from(self.prefix)).unwrap_or(0);
        let last = address.to_bits() & hosts == hosts;
        self.prefix < 31 && last && self.contains(address.into())
    }
}

impl FromStr for Cidr {
    type Err = BadArgument;

    /// Reads an address and the length of a prefix, as `10.0.2.15/24`.
    fn from_str(text: &str) -> Result<Cidr, BadArgument> {
        let (address, prefix) = text.split_once('/').ok_or(IP)?;
        let cidr = Cidr {
            address: parse(address, IP)?,
            prefix: parse(prefix, IP)?,
        };
        let widest = if cidr.address.is_ipv4() { 32 } else { 128 };
        (cidr.prefix <= widest).then_some(cidr).ok_or(IP)
    }
}

impl From<Cidr> for IpCidr {
    fn from(cidr: Cidr) -> IpCidr {
        IpCidr::new(cidr.address.into(), cidr.prefix)
    }
}

/// Which IPv6 addresses a host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipv6 {
    /// One on the link, fixed ones, and those that routers give prefixes for.
    Auto,
    /// One on the link and fixed ones; what routers say is not believed.
    Fixed,
    /// None.
    Off,
}

/// What the stack is told at its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Fixed addresses; with none, DHCP is asked.
    pub addresses: Vec<Cidr>,
    /// Fixed default gateways.
    pub gateways: Vec<IpAddr>,
    /// Fixed name servers.
    pub name_servers: Vec<IpAddr>,
    /// Which IPv6 addresses there are.
    pub ipv6: Ipv6,
    /// Largest packet in bytes.
    pub mtu: Option<usize>,
    /// Bytes of each of a connection's two socket buffers. Above 65,535 the window is scaled
    /// (RFC 7323, section 2.2).
    pub buffer_bytes: usize,
    /// Sockets kept with their buffers for the next connections.
    pub spare: usize,
    /// What clients may hold.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            addresses: Vec::new(),
            gateways: Vec::new(),
            name_servers: Vec::new(),
            ipv6: Ipv6::Auto,
            mtu: None,
            buffer_bytes: 512 * 1024,
            spare: SPARE,
            limits: Limits::default(),
        }
    }
}

/// An argument that is not as the table of this module says. It tells how to mend that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadArgument(&'static str);

impl fmt::Display for BadArgument {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0)
    }
}

const IP: BadArgument =
    BadArgument("use dhcp, or up to 8 addresses of hosts as 10.0.2.15/24,fd00::5/64");
const GATEWAY: BadArgument =
    BadArgument("use the address of a host as 10.0.2.2, and one of IPv6 after a comma");
const NAME_SERVER: BadArgument = BadArgument("use addresses of hosts as 10.0.2.3,1.1.1.1");
const IPV6: BadArgument = BadArgument("use auto, fixed or off");
const PACKET_SIZE: BadArgument = BadArgument("use a number of bytes from 576 to 9000");
const BUFFER: BadArgument = BadArgument("use a number of bytes from 2048 to 16777216");
const NUMBER: BadArgument = BadArgument("use a number");
const UNKNOWN: BadArgument = BadArgument(
    "there is no such argument; there are ip, gw, dns, ipv6, mtu, buffer, sockets, client, total, device, packets",
);

impl Config {
    /// What is said where no argument says anything, for a heap of so many bytes. On a small one the
    /// buffers are halved, to 16 KiB at least, until many connections fit; spare sockets are fewer.
    pub fn for_heap(bytes: usize) -> Config {
        let mut config = Config::default();
        let room = bytes.saturating_sub(TABLES);
        let spares = room / SPARE_PART;
        let fit = |buffer: usize| (room - spares) / (2 * buffer);
        while fit(config.buffer_bytes) < MANY && config.buffer_bytes > SMALL_BUFFER {
            config.buffer_bytes /= 2;
        }
        let connection = 2 * config.buffer_bytes;
        config.spare = (spares / connection).min(SPARE);
        config.limits.total_bytes = room - config.spare * connection;
        config.limits.client_bytes = config.limits.total_bytes / 4 * 3;
        config
    }

    /// Whether the address comes from a DHCP server.
    pub fn is_dynamic(&self) -> bool {
        self.addresses.is_empty()
    }

    /// Takes one argument into account. A bad one changes nothing.
    pub fn apply(&mut self, argument: &str) -> Result<(), BadArgument> {
        let (name, value) = argument.split_once('=').ok_or(UNKNOWN)?;
        self.set(name, value)
    }

    /// Takes one argument into account, as the startup block has it. A bad one changes nothing.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), BadArgument> {
        match name {
            "ip" if value == "dhcp" => self.addresses.clear(),
            "ip" => {
                let added: Vec<Cidr> = list(value, IP)?;
                let fit = self.addresses.len() + added.len() <= MAX_ADDRESSES;
                if !fit || !added.iter().all(|own| is_host(own.address)) {
                    return Err(IP);
                }
                self.addresses.extend(added);
            }
            "gw" => self.gateways.extend(hosts(value, GATEWAY)?),
            "dns" => self.name_servers.extend(hosts(value, NAME_SERVER)?),
            "ipv6" => {
                self.ipv6 = match value {
                    "auto" => Ipv6::Auto,
                    "fixed" => Ipv6::Fixed,
                    "off" => Ipv6::Off,
                    _ => return Err(IPV6),
                }
            }
            "mtu" => self.mtu = Some(in_range(value, MTU_RANGE, PACKET_SIZE)?),
            "buffer" => self.buffer_bytes = in_range(value, BUFFER_RANGE, BUFFER)?,
            "sockets" => self.limits.client_sockets = parse(value, NUMBER)?,
            "client" => self.limits.client_bytes = parse(value, NUMBER)?,
            "total" => self.limits.total_bytes = parse(value, NUMBER)?,
            _ => return Err(UNKNOWN),
        }
        Ok(())
    }
}

/// Several values: commas or spaces are between them. There is one at least.
fn list<T: FromStr>(value: &str, mend: BadArgument) -> Result<Vec<T>, BadArgument> {
    let between = |letter: char| letter == ',' || letter == ' ';
    value
        .split(between)
        .map(|value| parse(value, mend))
        .collect()
}

/// Addresses of hosts.
fn hosts(value: &str, mend: BadArgument) -> Result<Vec<IpAddr>, BadArgument> {
    let hosts: Vec<IpAddr> = list(value, mend)?;
    let good = hosts.iter().all(|host| is_host(*host));
    good.then_some(hosts).ok_or(mend)
}

/// Whether this can be the address of one host.
fn is_host(address: IpAddr) -> bool {
    let broadcast = IpAddr::V4(Ipv4Addr::BROADCAST);
    !address.is_unspecified() && !address.is_multicast() && address != broadcast
}

fn parse<T: FromStr>(value: &str, mend: BadArgument) -> Result<T, BadArgument> {
    value.parse().map_err(|_| mend)
}

fn in_range(
    value: &str,
    range: core::ops::RangeInclusive<usize>,
    mend: BadArgument,
) -> Result<usize, BadArgument> {
    let number = parse(value, mend)?;
    range.contains(&number).then_some(number).ok_or(mend)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_heap_has_large_buffers_and_a_small_one_has_connections() {
        for (heap, buffer, connections, spare) in [
            (68 << 20, 512 * 1024, 56, 11),
            (36 << 20, 256 * 1024, 59, 11),
            (14 << 20, 64 * 1024, 88, 16),
            (8 << 20, 32 * 1024, 96, 16),
            (2560 << 10, 16 * 1024, 40, 8),
            (1280 << 10, 16 * 1024, 7, 1),
            (1 << 20, 16 * 1024, 0, 0),
            (0, 16 * 1024, 0, 0),
        ] {
            let config = Config::for_heap(heap);
            let fit = config.limits.total_bytes / (2 * config.buffer_bytes);
            let found = (config.buffer_bytes, fit, config.spare);
            assert_eq!(found, (buffer, connections, spare), "{heap}");
            let kept = config.spare * 2 * config.buffer_bytes;
            assert!(config.limits.total_bytes + kept <= heap.saturating_sub(TABLES));
        }
    }

    #[test]
    fn nothing_said_means_dhcp() {
        assert!(Config::default().is_dynamic());
    }

    #[test]
    fn a_static_configuration_is_read_and_dhcp_takes_it_back() {
        let mut config = Config::default();
        for argument in [
            "ip=10.0.2.15/24",
            "gw=10.0.2.2",
            "dns=10.0.2.3",
            "ip=fec0::5/64",
        ] {
            assert_eq!(config.apply(argument), Ok(()));
        }
        assert_eq!(config.addresses[0].address, IpAddr::from([10, 0, 2, 15]));
        assert_eq!(
            (config.addresses[0].prefix, config.addresses[1].prefix),
            (24, 64)
        );
        assert_eq!(config.gateways, [IpAddr::from([10, 0, 2, 2])]);
        assert_eq!(config.apply("ip=dhcp"), Ok(()));
        assert!(config.is_dynamic());
        assert_eq!(config.apply("ip=10.0.2.15/24,fd00::5/64"), Ok(()));
        assert_eq!(config.apply("dns=8.8.8.8 1.1.1.1"), Ok(()));
        assert_eq!(config.apply("mtu=1460"), Ok(()));
        let counts = (config.addresses.len(), config.name_servers.len());
        assert_eq!((counts, config.mtu), ((2, 3), Some(1460)));
    }

    #[test]
    fn bad_arguments_are_refused_and_change_nothing() {
        let mut config = Config::default();
        for argument in [
            "ip",
            "ip=",
            "ip=10.0.2.15",
            "ip=10.0.2.15/33",
            "ip=224.0.0.1/24",
            "ip=0.0.0.0/0",
            "ip=255.255.255.255/8",
            "gw=10.0.2",
            "gw=10.0.2.2/24",
            "gw=0.0.0.0",
            "ip=10.0.2.15/24,",
            "ip=10.0.2.15/24,10.0.2",
            "ip=1.0.0.1/8 1.0.0.2/8 1.0.0.3/8 1.0.0.4/8 1.0.0.5/8 1.0.0.6/8 1.0.0.7/8 1.0.0.8/8 1.0.0.9/8",
            "dns=8.8.8.8,224.0.0.1",
            "ipv6=on",
            "mtu=575",
            "mtu=9001",
            "mtu=large",
            "colour=blue",
            "buffer=1",
            "buffer=99999999",
            "sockets=-1",
        ] {
            assert!(config.apply(argument).is_err(), "{argument}");
        }
        assert_eq!(config, Config::default());
    }
}
