//! This host's addresses, routes and name servers: fixed by the configuration, or leased from a DHCP
//! server (RFC 2131) and given back when the lease ends.

use alloc::vec::Vec;
use core::net::IpAddr;

use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::socket::dhcpv4;
use smoltcp::time::Duration;
use smoltcp::wire::IpCidr;

use crate::config::Config;

/// Time until an unanswered DISCOVER is sent again (RFC 2131, section 4.1 starts at four seconds).
const DISCOVER_TIMEOUT: Duration = Duration::from_secs(4);

/// Where addresses come from, and the name servers known.
pub(crate) struct Addresses {
    lease: Option<SocketHandle>,
    name_servers: Vec<IpAddr>,
}

impl Addresses {
    /// Sets the fixed addresses, or adds a DHCP client to the sockets.
    pub(crate) fn new(
        config: &Config,
        interface: &mut Interface,
        sockets: &mut SocketSet<'static>,
    ) -> Addresses {
        let lease = config.is_dynamic().then(|| sockets.add(client()));
        interface.update_ip_addrs(|list| {
            list.extend(config.addresses.iter().map(|cidr| IpCidr::from(*cidr)));
        });
        for gateway in &config.gateways {
            // The table is full with the 17th gateway: those before it hold.
            let _ = match gateway {
                IpAddr::V4(address) => interface
                    .routes_mut()
                    .add_default_ipv4_route(*address)
                    .is_ok(),
                IpAddr::V6(address) => interface
                    .routes_mut()
                    .add_default_ipv6_route(*address)
                    .is_ok(),
            };
        }
        Addresses {
            lease,
            name_servers: config.name_servers.clone(),
        }
    }

    /// Asks the DHCP client for news; true when this host's addresses changed.
    pub(crate) fn poll(
        &mut self,
        interface: &mut Interface,
        sockets: &mut SocketSet<'static>,
    ) -> bool {
        let Some(handle) = self.lease else {
            return false;
        };
        match sockets.get_mut::<dhcpv4::Socket<'static>>(handle).poll() {
            None => false,
            Some(dhcpv4::Event::Deconfigured) => {
                self.name_servers.clear();
                interface.routes_mut().remove_default_ipv4_route();
                replace(interface, None)
            }
            Some(dhcpv4::Event::Configured(lease)) => {
                self.name_servers = lease.dns_servers.iter().map(|a| IpAddr::V4(*a)).collect();
                interface.routes_mut().remove_default_ipv4_route();
                if let Some(router) = lease.router {
                    // One IPv4 default route was just removed, so there is room.
                    let _ = interface.routes_mut().add_default_ipv4_route(router);
                }
                replace(interface, Some(IpCidr::Ipv4(lease.address)))
            }
        }
    }

    /// Name servers, in the order of preference.
    pub(crate) fn name_servers(&self) -> &[IpAddr] {
        &self.name_servers
    }

    /// Asks for a lease anew: the cable may lead elsewhere now.
    pub(crate) fn renew(&mut self, sockets: &mut SocketSet<'static>) {
        if let Some(handle) = self.lease {
            sockets.get_mut::<dhcpv4::Socket<'static>>(handle).reset();
        }
    }
}

fn client() -> dhcpv4::Socket<'static> {
    let mut client = dhcpv4::Socket::new();
    let mut retry = client.get_retry_config();
    retry.discover_timeout = DISCOVER_TIMEOUT;
    client.set_retry_config(retry);
    client
}

/// Puts the leased address in the place of the one before; true when they differ.
fn replace(interface: &mut Interface, leased: Option<IpCidr>) -> bool {
    if interface.ip_addrs() == leased.as_slice() {
        return false;
    }
    interface.update_ip_addrs(|list| {
        list.clear();
        list.extend(leased);
    });
    true
}
