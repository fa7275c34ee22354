//! Which of a host's addresses to try first (RFC 6724): a few of its rules, those that this host's own
//! addresses decide. Prefixes in common and the network's measured state are left out.

use crate::sort;
use alloc::vec::Vec;
use core::net::{IpAddr, Ipv6Addr};

/// Prefix, its length, precedence and label (RFC 6724, section 2.1).
const POLICY: [(Ipv6Addr, u32, u8, u8); 9] = [
    (Ipv6Addr::LOCALHOST, 128, 50, 0),
    (Ipv6Addr::UNSPECIFIED, 0, 40, 1),
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96, 35, 4),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, 30, 2),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 32, 5, 5),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, 3, 13),
    (Ipv6Addr::UNSPECIFIED, 96, 1, 3),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, 1, 11),
    (Ipv6Addr::new(0x3ffe, 0, 0, 0, 0, 0, 0, 0), 16, 1, 12),
];

/// Precedence and label of the longest prefix that the address has.
fn policy(address: IpAddr) -> (u8, u8) {
    let bits = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
    .to_bits();
    let matching = POLICY.iter().filter(|(prefix, length, ..)| {
        (bits ^ prefix.to_bits())
            .checked_shr(128 - length)
            .unwrap_or(0)
            == 0
    });
    let longest = matching.max_by_key(|(_, length, ..)| length);
    // The prefix of length 0 is every address's.
    longest.map_or((0, 0), |(.., precedence, label)| (*precedence, *label))
}

/// Whether only hosts on the same link know the address (RFC 4291, section 2.5.6; RFC 3927).
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

/// Whether a host with this address reaches hosts everywhere by its family.
fn is_global(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => !is_link_local(address),
        IpAddr::V6(_) => !is_link_local(address) && policy(address) == policy(everywhere()),
    }
}

fn everywhere() -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0))
}

/// Whether a host with these addresses reaches hosts everywhere by IPv4, and by IPv6.
pub(super) fn families(own: &[IpAddr]) -> (bool, bool) {
    let global = |v4: bool| {
        own.iter()
            .any(|address| address.is_ipv4() == v4 && is_global(*address))
    };
    (global(true), global(false))
}

/// Sorts addresses, those to try first in front, and keeps `most` of them: where that leaves one
/// family out, the last place is its own, so that whoever tries them all tries both.
pub(super) fn arrange(addresses: &mut Vec<IpAddr>, own: &[IpAddr], most: usize) {
    sort::by_key(addresses, |address| rank(*address, own));
    let Some(first) = addresses.first().copied() else {
        return;
    };
    let other = addresses
        .iter()
        .position(|address| address.is_ipv4() != first.is_ipv4());
    if let Some(position) = other
        && position >= most
        && most > 1
    {
        addresses.swap(position, most - 1);
    }
    addresses.truncate(most);
}

/// Rules 1 (unusable last), 5 (an own address of the same label) and 6 (precedence) of RFC 6724,
/// section 6. Where they say nothing the order stays as it was (rule 10).
fn rank(address: IpAddr, own: &[IpAddr]) -> (bool, bool, u8) {
    let (precedence, label) = policy(address);
    let source = |own: &&IpAddr| {
        own.is_ipv4() == address.is_ipv4() && (!is_link_local(**own) || is_link_local(address))
    };
    let usable = own.iter().any(|own| source(&own));
    let alike = own.iter().filter(source).any(|own| policy(*own).1 == label);
    (!usable, !alike, u8::MAX - precedence)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(text: &[&str]) -> Vec<IpAddr> {
        text.iter()
            .map(|text| text.parse().expect("good"))
            .collect()
    }

    fn arranged(addresses: &[&str], own: &[&str]) -> Vec<IpAddr> {
        let mut addresses = list(addresses);
        arrange(&mut addresses, &list(own), 4);
        addresses
    }

    #[test]
    fn ipv6_is_first_only_where_there_is_a_global_address_to_send_from() {
        let both = ["192.0.2.1", "2001:db8::1"];
        let v6_first = list(&["2001:db8::1", "192.0.2.1"]);
        assert_eq!(arranged(&both, &["10.0.0.1", "2001:db8::7"]), v6_first);
        for own in [
            &["10.0.0.1"][..],
            &["10.0.0.1", "fe80::1"],
            &["10.0.0.1", "fd00::1"],
            &["10.0.0.1", "fec0::1"],
        ] {
            assert_eq!(arranged(&both, own), list(&both), "{own:?}");
        }
        assert_eq!(arranged(&both, &["fe80::1", "2001:db8::7"]), v6_first);
        // A local network's address is reached from it.
        let local = ["fd00::9", "192.0.2.1"];
        assert_eq!(arranged(&local, &["fd00::1", "fe80::1"]), list(&local));
    }

    #[test]
    fn the_order_of_the_answer_stays_and_the_other_family_has_a_place() {
        let four = ["192.0.2.4", "192.0.2.3", "192.0.2.2", "192.0.2.1"];
        assert_eq!(arranged(&four, &["10.0.0.1"]), list(&four));
        let mut six = vec!["2001:db8::4", "2001:db8::3", "2001:db8::2", "2001:db8::1"];
        six.extend(four);
        let found = arranged(&six, &["10.0.0.1", "2001:db8::7"]);
        let wanted = ["2001:db8::4", "2001:db8::3", "2001:db8::2", "192.0.2.4"];
        assert_eq!(found, list(&wanted));
        assert!(arranged(&[], &[]).is_empty());
    }

    #[test]
    fn families_are_those_that_reach_everywhere() {
        assert_eq!(families(&list(&["10.0.0.1"])), (true, false));
        assert_eq!(families(&list(&["fe80::1", "fec0::2"])), (false, false));
        assert_eq!(
            families(&list(&["169.254.0.1", "2600:1900::1"])),
            (false, true)
        );
    }
}
