//! Which of this host's addresses packets come from (RFC 1122, section 3.3.4.3; RFC 6724, section 5, with
//! the rules that hosts with one interface and no labels have use for).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::Cidr;

/// Chooses among this host's addresses for packets to a destination. `deprecated` are addresses that
/// others are preferred to.
pub(crate) fn choose(own: &[Cidr], deprecated: &[Ipv6Addr], destination: IpAddr) -> Option<IpAddr> {
    match destination {
        IpAddr::V4(_) => ipv4(own, destination).map(IpAddr::V4),
        IpAddr::V6(destination) => ipv6(own, deprecated, destination).map(IpAddr::V6),
    }
}

fn ipv4(own: &[Cidr], destination: IpAddr) -> Option<Ipv4Addr> {
    let mut all = own.iter().filter_map(|cidr| match cidr.address {
        IpAddr::V4(address) => Some((address, cidr.contains(destination))),
        IpAddr::V6(_) => None,
    });
    let (first, near) = all.next()?;
    let nearer = (!near).then(|| all.find(|(_, near)| *near)).flatten();
    Some(nearer.map_or(first, |(address, _)| address))
}

fn ipv6(own: &[Cidr], deprecated: &[Ipv6Addr], destination: Ipv6Addr) -> Option<Ipv6Addr> {
    let mut best: Option<(Rank, Ipv6Addr)> = None;
    for cidr in own {
        let IpAddr::V6(address) = cidr.address else {
            continue;
        };
        // Beyond the link nobody could answer to an address on it.
        if Scope::of(address) < Scope::of(destination) {
            continue;
        }
        let same = address.to_bits() ^ destination.to_bits();
        let rank = Rank {
            same: address == destination,
            narrow: Scope::of(address) == Scope::of(destination),
            current: !deprecated.contains(&address),
            common: same.leading_zeros().min(cidr.prefix.into()),
        };
        // Of equal ones the first.
        if best.is_none_or(|(before, _)| rank > before) {
            best = Some((rank, address));
        }
    }
    best.map(|(_, address)| address)
}

/// What is compared, in this order (RFC 6724, section 5: rules 1, 2, 3 and 8).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    same: bool,
    narrow: bool,
    current: bool,
    common: u32,
}

/// How far an address reaches (RFC 6724, section 3.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Link,
    World,
}

impl Scope {
    fn of(address: Ipv6Addr) -> Scope {
        let [_, flags, ..] = address.octets();
        let near_group = address.is_multicast() && flags & 0xf <= 2;
        if address.is_unicast_link_local() || near_group || address.is_loopback() {
            Scope::Link
        } else {
            Scope::World
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(own: &[&str], deprecated: &[&str], destination: &str) -> Option<String> {
        let own: Vec<Cidr> = own.iter().map(|own| own.parse().expect("good")).collect();
        let deprecated: Vec<Ipv6Addr> = deprecated
            .iter()
            .map(|own| own.parse().expect("good"))
            .collect();
        let destination = destination.parse().expect("good");
        choose(&own, &deprecated, destination).map(|address| address.to_string())
    }

    #[test]
    fn the_address_of_the_same_network_is_chosen() {
        let own = ["10.0.0.5/24", "192.168.1.5/16", "fe80::5/64"];
        for (destination, source) in [
            ("10.0.0.9", "10.0.0.5"),
            ("192.168.9.9", "192.168.1.5"),
            ("8.8.8.8", "10.0.0.5"),
        ] {
            let found = chosen(&own, &[], destination);
            assert_eq!(found.as_deref(), Some(source), "{destination}");
        }
        assert_eq!(chosen(&["fe80::5/64"], &[], "8.8.8.8"), None);
    }

    #[test]
    fn scope_comes_before_age_and_age_before_the_prefix() {
        let own = ["2001:db8:1::5/64", "2001:db8:2::5/64", "fe80::5/64"];
        for (destination, source) in [
            ("fe80::9", "fe80::5"),
            ("ff02::1", "fe80::5"),
            ("2001:db8:2::9", "2001:db8:2::5"),
            ("2001:db8:1::9", "2001:db8:1::5"),
            ("2606::1", "2001:db8:1::5"),
            ("2001:db8:2::5", "2001:db8:2::5"),
        ] {
            let found = chosen(&own, &[], destination);
            assert_eq!(found.as_deref(), Some(source), "{destination}");
        }
        let found = chosen(&own, &["2001:db8:2::5"], "2001:db8:2::9");
        assert_eq!(found.as_deref(), Some("2001:db8:1::5"));
        let all = ["2001:db8:1::5", "2001:db8:2::5"];
        let found = chosen(&own, &all, "2001:db8:2::9");
        assert_eq!(found.as_deref(), Some("2001:db8:2::5"), "better than none");
        assert_eq!(chosen(&["fe80::5/64"], &[], "2606::1"), None);
        assert_eq!(chosen(&["10.0.0.5/24"], &[], "2606::1"), None);
    }
}
