//! Where a packet goes next: this host's routing table, longest prefix first (RFC 1122, section
//! 3.3.1.1; RFC 4861, section 5.2).
//!
//! A gateway is a neighbour whether or not another route covers it: a lease of one address (/32) comes
//! with a gateway outside of its network.

use alloc::vec::Vec;
use core::net::IpAddr;

use crate::config::Cidr;
use crate::sort;

/// Routes kept at most; who adds more loses the last.
const MAX_ROUTES: usize = 64;

/// One route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// The addresses that it is for.
    pub(crate) to: Cidr,
    /// The neighbour that takes packets for them; `None`: each is a neighbour itself.
    pub(crate) gateway: Option<IpAddr>,
}

impl Route {
    /// The route of all addresses of the gateway's kind.
    pub(crate) fn default_by(gateway: IpAddr) -> Route {
        Route {
            to: Cidr {
                address: gateway,
                prefix: 0,
            },
            gateway: Some(gateway),
        }
    }

    /// The route of a network whose hosts are neighbours.
    pub(crate) fn on_link(to: Cidr) -> Route {
        Route { to, gateway: None }
    }
}

/// The table, the longest prefix in front; of equal ones the one added first.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    routes: Vec<Route>,
}

impl Routes {
    /// Takes the place of all routes.
    pub(crate) fn replace(&mut self, routes: impl IntoIterator<Item = Route>) {
        self.routes.clear();
        self.routes.extend(routes.into_iter().take(MAX_ROUTES));
        sort::by_key(&mut self.routes, |route| {
            core::cmp::Reverse(route.to.prefix)
        });
    }

    /// The neighbour that takes packets for an address.
    pub(crate) fn next_hop(&self, destination: IpAddr) -> Option<IpAddr> {
        let route = self
            .routes
            .iter()
            .find(|route| route.to.contains(destination))?;
        Some(route.gateway.unwrap_or(destination))
    }

    /// Whether an address is a neighbour's: one on the link, or a gateway.
    pub(crate) fn is_neighbour(&self, address: IpAddr) -> bool {
        self.next_hop(address) == Some(address)
            || self
                .routes
                .iter()
                .any(|route| route.gateway == Some(address))
    }

    /// The gateway of the route for all IPv4 addresses, or for all IPv6 addresses.
    pub(crate) fn default_gateway(&self, ipv4: bool) -> Option<IpAddr> {
        self.routes
            .iter()
            .filter(|route| route.to.prefix == 0)
            .find_map(|route| route.gateway.filter(|gateway| gateway.is_ipv4() == ipv4))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn route(to: &str, gateway: Option<&str>) -> Route {
        Route {
            to: to.parse().expect("a network"),
            gateway: gateway.map(address),
        }
    }

    #[test]
    fn the_longest_prefix_wins_whatever_the_order() {
        let mut routes = Routes::default();
        routes.replace([
            route("0.0.0.0/0", Some("10.0.0.1")),
            route("10.0.0.0/8", None),
            route("10.9.0.0/16", Some("10.0.0.2")),
            route("10.9.9.9/32", Some("10.0.0.3")),
            route("::/0", Some("fe80::1")),
        ]);
        for (destination, hop) in [
            ("8.8.8.8", "10.0.0.1"),
            ("10.1.2.3", "10.1.2.3"),
            ("10.9.1.1", "10.0.0.2"),
            ("10.9.9.9", "10.0.0.3"),
            ("2001:db8::1", "fe80::1"),
        ] {
            assert_eq!(
                routes.next_hop(address(destination)),
                Some(address(hop)),
                "{destination}"
            );
        }
    }

    #[test]
    fn a_gateway_outside_of_every_network_is_a_neighbour() {
        let mut routes = Routes::default();
        routes.replace([Route::default_by(address("10.128.0.1"))]);
        assert_eq!(
            routes.next_hop(address("10.128.0.1")),
            Some(address("10.128.0.1"))
        );
        assert!(routes.is_neighbour(address("10.128.0.1")));
        assert!(!routes.is_neighbour(address("10.128.0.2")));
        assert_eq!(routes.default_gateway(true), Some(address("10.128.0.1")));
        assert_eq!(routes.default_gateway(false), None);
    }

    #[test]
    fn nothing_is_reached_without_a_route() {
        let mut routes = Routes::default();
        assert_eq!(routes.next_hop(address("10.0.0.1")), None);
        routes.replace([route("10.0.0.0/24", None)]);
        assert_eq!(routes.next_hop(address("10.0.1.1")), None);
        assert_eq!(routes.next_hop(address("fe80::1")), None);
    }
}
