//! The network's configuration, as the task's arguments write it.
//!
//! | argument | meaning |
//! |---|---|
//! | `ip=dhcp` | ask a DHCP server (the default) |
//! | `ip=10.0.2.15/24` | this address and prefix length, IPv4 or IPv6; may be repeated |
//! | `gw=10.0.2.2` | default gateway, one each for IPv4 and IPv6 |
//! | `dns=10.0.2.3` | name server; may be repeated |
//! | `buffer=65536` | bytes of each of a connection's two buffers |
//! | `sockets=1024` | sockets of one client |
//! | `client=12582912` | bytes of socket buffers of one client |
//! | `total=16777216` | bytes of socket buffers of all clients |

use alloc::vec::Vec;
use core::net::IpAddr;
use core::str::FromStr;

use smoltcp::wire::IpCidr;

use crate::client::Limits;

/// Smallest and largest socket buffer.
const BUFFER_RANGE: core::ops::RangeInclusive<usize> = 2048..=16 * 1024 * 1024;
/// Addresses that an interface can have; smoltcp is built for as many.
const MAX_ADDRESSES: usize = 8;

/// An address of this host with the length of its network's prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// The address.
    pub address: IpAddr,
    /// Bits that all hosts of the network share.
    pub prefix: u8,
}

impl From<Cidr> for IpCidr {
    fn from(cidr: Cidr) -> IpCidr {
        IpCidr::new(cidr.address.into(), cidr.prefix)
    }
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
    /// Bytes of each of a connection's two socket buffers. Above 65,535 the window is scaled
    /// (RFC 7323, section 2.2).
    pub buffer_bytes: usize,
    /// What clients may hold.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            addresses: Vec::new(),
            gateways: Vec::new(),
            name_servers: Vec::new(),
            buffer_bytes: 64 * 1024,
            limits: Limits::default(),
        }
    }
}

/// An argument that is not in the table of this module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadArgument;

impl Config {
    /// Whether the address comes from a DHCP server.
    pub fn is_dynamic(&self) -> bool {
        self.addresses.is_empty()
    }

    /// Takes one argument into account. A bad one changes nothing.
    pub fn apply(&mut self, argument: &str) -> Result<(), BadArgument> {
        let (name, value) = argument.split_once('=').ok_or(BadArgument)?;
        self.set(name, value)
    }

    /// Takes one argument into account, as the startup block has it.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), BadArgument> {
        match name {
            "ip" if value == "dhcp" => self.addresses.clear(),
            "ip" => self.add_address(value)?,
            "gw" => self.gateways.push(parse(value)?),
            "dns" => self.name_servers.push(parse(value)?),
            "buffer" => self.buffer_bytes = in_range(value)?,
            "sockets" => self.limits.client_sockets = parse(value)?,
            "client" => self.limits.client_bytes = parse(value)?,
            "total" => self.limits.total_bytes = parse(value)?,
            _ => return Err(BadArgument),
        }
        Ok(())
    }

    fn add_address(&mut self, value: &str) -> Result<(), BadArgument> {
        let (address, prefix) = value.split_once('/').ok_or(BadArgument)?;
        let cidr = Cidr {
            address: parse(address)?,
            prefix: parse(prefix)?,
        };
        let widest = if cidr.address.is_ipv4() { 32 } else { 128 };
        let broadcast = IpAddr::from([255, 255, 255, 255]);
        let unicast = !cidr.address.is_unspecified()
            && !cidr.address.is_multicast()
            && cidr.address != broadcast;
        if cidr.prefix > widest || !unicast || self.addresses.len() == MAX_ADDRESSES {
            return Err(BadArgument);
        }
        self.addresses.push(cidr);
        Ok(())
    }
}

fn parse<T: FromStr>(value: &str) -> Result<T, BadArgument> {
    value.parse().map_err(|_| BadArgument)
}

fn in_range(value: &str) -> Result<usize, BadArgument> {
    parse(value).and_then(|bytes| {
        BUFFER_RANGE
            .contains(&bytes)
            .then_some(bytes)
            .ok_or(BadArgument)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
            "mtu=1500",
            "buffer=1",
            "buffer=99999999",
            "sockets=-1",
        ] {
            assert_eq!(config.apply(argument), Err(BadArgument), "{argument}");
        }
        assert_eq!(config, Config::default());
    }
}
