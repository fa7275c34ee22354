//! Which features of the device are accepted for what a network stack has a use for.

use ipc::interface::net_device::{
    FEATURE_JOINED_RECEIVE, FEATURE_LINK_STATE, FEATURE_RECEIVE_CHECKSUM, FEATURE_SEGMENT_IPV4,
    FEATURE_SEGMENT_IPV6, FEATURE_SEND_CHECKSUM,
};
use virtio::feature::{ANY_LAYOUT, EVENT_INDEX, VERSION_1};

/// Feature bits of network devices (VIRTIO 1.2, section 5.1.3).
pub(crate) mod net_feature {
    /// The device computes checksums (VIRTIO_NET_F_CSUM).
    pub(crate) const CSUM: u64 = 1 << 0;
    /// The driver takes packets without checksum, and the device's word for one (VIRTIO_NET_F_GUEST_CSUM).
    pub(crate) const GUEST_CSUM: u64 = 1 << 1;
    /// `mtu` is valid (VIRTIO_NET_F_MTU).
    pub(crate) const MTU: u64 = 1 << 3;
    /// `mac` is valid (VIRTIO_NET_F_MAC).
    pub(crate) const MAC: u64 = 1 << 5;
    /// The driver takes joined TCP segments over IPv4 (VIRTIO_NET_F_GUEST_TSO4).
    pub(crate) const GUEST_TSO4: u64 = 1 << 7;
    /// The same over IPv6 (VIRTIO_NET_F_GUEST_TSO6).
    pub(crate) const GUEST_TSO6: u64 = 1 << 8;
    /// The device cuts TCP segments over IPv4 (VIRTIO_NET_F_HOST_TSO4).
    pub(crate) const HOST_TSO4: u64 = 1 << 11;
    /// The same over IPv6 (VIRTIO_NET_F_HOST_TSO6).
    pub(crate) const HOST_TSO6: u64 = 1 << 12;
    /// A packet is received into as many buffers as it needs (VIRTIO_NET_F_MRG_RXBUF).
    pub(crate) const MRG_RXBUF: u64 = 1 << 15;
    /// `status` is valid (VIRTIO_NET_F_STATUS).
    pub(crate) const STATUS: u64 = 1 << 16;
    /// There is a control queue (VIRTIO_NET_F_CTRL_VQ).
    pub(crate) const CTRL_VQ: u64 = 1 << 17;
    /// There are several pairs of queues (VIRTIO_NET_F_MQ).
    pub(crate) const MQ: u64 = 1 << 22;
}

use net_feature::{
    CSUM, CTRL_VQ, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6, MAC, MQ, MRG_RXBUF,
    MTU, STATUS,
};

/// What each `FEATURE_` bit needs of the device: all of the first, and one of the second where there are
/// any. The others follow their requirements (VIRTIO 1.2, section 5.1.3.1).
///
/// The bits for ECN are left: without them no segment with its flags is joined or cut, and the
/// network stack sends none.
const NEEDS: [(u32, u64, u64); 6] = [
    (FEATURE_LINK_STATE, STATUS, 0),
    (FEATURE_SEND_CHECKSUM, CSUM, 0),
    (FEATURE_RECEIVE_CHECKSUM, GUEST_CSUM, 0),
    (FEATURE_SEGMENT_IPV4, CSUM | HOST_TSO4, 0),
    (FEATURE_SEGMENT_IPV6, CSUM | HOST_TSO6, 0),
    // Without mergeable buffers each would have to hold the longest packet (section 5.1.6.3.1).
    (
        FEATURE_JOINED_RECEIVE,
        GUEST_CSUM | MRG_RXBUF,
        GUEST_TSO4 | GUEST_TSO6,
    ),
];
/// What a `FEATURE_` bit is of no use without: a packet to be cut has its checksum left to the device, a
/// joined one has none that could be verified.
const USELESS_WITHOUT: [(u32, u32); 3] = [
    (FEATURE_SEGMENT_IPV4, FEATURE_SEND_CHECKSUM),
    (FEATURE_SEGMENT_IPV6, FEATURE_SEND_CHECKSUM),
    (FEATURE_JOINED_RECEIVE, FEATURE_RECEIVE_CHECKSUM),
];
/// What is always of use.
const PLAIN: u64 = MAC | MTU | ANY_LAYOUT | EVENT_INDEX | VERSION_1;

/// What several pairs of queues need (VIRTIO 1.2, section 5.1.3.1).
const SEVERAL_PAIRS: u64 = MQ | CTRL_VQ;

/// Of the features that a device offers those that are accepted for these `FEATURE_` bits, and for several
/// pairs of queues.
pub(crate) fn choose(offered: u64, asked: u32, several_pairs: bool) -> u64 {
    let held = held(offered, asked);
    let needed = NEEDS
        .iter()
        .filter(|(feature, ..)| held & feature != 0)
        .fold(0, |all, (_, needed, one_of)| all | needed | one_of);
    let pairs = match several_pairs && offered & SEVERAL_PAIRS == SEVERAL_PAIRS {
        true => SEVERAL_PAIRS,
        false => 0,
    };
    offered & (PLAIN | needed | pairs)
}

/// The `FEATURE_` bits of those asked for that hold with these features of the device.
pub(crate) fn held(features: u64, asked: u32) -> u32 {
    let mut held = NEEDS
        .iter()
        .filter(|(_, needed, one_of)| {
            features & needed == *needed && (*one_of == 0 || features & one_of != 0)
        })
        .fold(0, |all, (feature, ..)| all | feature)
        & asked;
    for (feature, other) in USELESS_WITHOUT {
        if held & other == 0 {
            held &= !feature;
        }
    }
    held
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The features that have requirements, and what they require: all of the second, one of the third.
    const REQUIREMENTS: [(u64, u64, u64); 6] = [
        (MQ, CTRL_VQ, 0),
        (GUEST_TSO4, GUEST_CSUM, 0),
        (GUEST_TSO6, GUEST_CSUM, 0),
        (HOST_TSO4, CSUM, 0),
        (HOST_TSO6, CSUM, 0),
        // Not of the specification: joined packets have no room in one buffer here.
        (MRG_RXBUF, GUEST_CSUM, GUEST_TSO4 | GUEST_TSO6),
    ];
    const BITS: [u64; 10] = [
        CSUM,
        GUEST_CSUM,
        GUEST_TSO4,
        GUEST_TSO6,
        HOST_TSO4,
        HOST_TSO6,
        MRG_RXBUF,
        STATUS,
        MAC,
        EVENT_INDEX,
    ];

    #[test]
    fn every_choice_is_offered_asked_for_and_has_what_it_requires() {
        for pattern in 0..1u32 << BITS.len() {
            let chosen_bits = (0..).zip(BITS).filter(|(at, _)| pattern >> at & 1 != 0);
            let offered = chosen_bits.fold(1 << 40 | 1 << 9, |all, (_, bit)| all | bit);
            for asked in 0..64 {
                let accepted = choose(offered, asked, asked % 2 == 0);
                let held = held(accepted, asked);
                assert_eq!(accepted & !offered, 0);
                assert_eq!(held & !asked, 0);
                assert_eq!(accepted & (1 << 40 | 1 << 9), 0, "unknown features");
                for (feature, all, one) in REQUIREMENTS {
                    if accepted & feature != 0 {
                        assert_eq!(accepted & all, all, "{offered:#x} {asked:#x}");
                        assert!(one == 0 || accepted & one != 0, "{offered:#x} {asked:#x}");
                    }
                }
                if held & FEATURE_JOINED_RECEIVE == 0 {
                    let large = GUEST_TSO4 | GUEST_TSO6 | MRG_RXBUF;
                    assert_eq!(accepted & large, 0, "{offered:#x} {asked:#x}");
                }
                for (_, other) in USELESS_WITHOUT.iter().filter(|(one, _)| held & one != 0) {
                    assert_eq!(held & other, *other);
                }
            }
        }
    }

    #[test]
    fn a_device_with_everything_gives_everything_that_is_asked_for() {
        for asked in [
            0,
            FEATURE_LINK_STATE,
            FEATURE_SEND_CHECKSUM | FEATURE_SEGMENT_IPV4,
            FEATURE_RECEIVE_CHECKSUM | FEATURE_JOINED_RECEIVE,
            63,
        ] {
            assert_eq!(held(choose(u64::MAX, asked, true), asked), asked);
        }
        assert_eq!(choose(u64::MAX, 0, false), PLAIN);
        let no_ipv6 = !(HOST_TSO6 | GUEST_TSO6);
        assert_eq!(
            held(choose(no_ipv6, 63, true), 63),
            63 & !FEATURE_SEGMENT_IPV6
        );
    }
}
