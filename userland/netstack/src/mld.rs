//! Multicast listener discovery (RFC 3810) as far as a host needs it that listens only where neighbours
//! ask for it: reports of those groups, for switches that would not pass them on else, and the question
//! of a router for them.

use core::net::Ipv6Addr;

use smoltcp::wire::{IPV6_HEADER_LEN, Icmpv6Packet, IpProtocol, Ipv6Packet, Ipv6Repr};

use crate::time::Nanoseconds;

/// Message types (RFC 3810, section 5).
const QUERY: u8 = 130;
const REPORT: u8 = 143;
/// A group joined, whatever the source (RFC 3810, section 5.2.12: CHANGE_TO_EXCLUDE_MODE); a router takes
/// it for an answer to its question, too.
const JOINED: u8 = 4;
/// The options of every such message: ICMPv6 follows, routers are to look at it (RFC 2711), padding.
const OPTIONS: [u8; 8] = [58, 0, 5, 2, 0, 0, 1, 0];
/// Whom reports are for: all routers that know this version (RFC 3810, section 5.2.14).
pub(crate) const ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
/// Bytes of a report before its groups, and of each.
const HEADER_BYTES: usize = 8;
const RECORD_BYTES: usize = 20;
/// Bytes of a question of the first version (RFC 2710, section 3).
const QUERY_BYTES: usize = 24;
/// Longest time to answer: a later answer is for nobody.
const LONGEST_DELAY_MS: u64 = 60_000;

/// Within which time to answer, where a packet is a router's question (RFC 3810, section 6.2).
pub(crate) fn query(packet: &[u8]) -> Option<Nanoseconds> {
    let packet = Ipv6Packet::new_checked(packet).ok()?;
    let (source, destination) = (packet.src_addr(), packet.dst_addr());
    let from_router = packet.hop_limit() == 1 && source.is_unicast_link_local();
    if packet.next_header() != IpProtocol::HopByHop || !from_router {
        return None;
    }
    let [next, units, ..] = packet.payload() else {
        return None;
    };
    let body = packet.payload().get(8 * (usize::from(*units) + 1)..)?;
    let is_query = *next == OPTIONS[0] && body.first() == Some(&QUERY);
    if !is_query || body.len() < QUERY_BYTES {
        return None;
    }
    let intact = Icmpv6Packet::new_unchecked(body).verify_checksum(&source, &destination);
    let code = u16::from_be_bytes(*body.get(4..)?.first_chunk()?);
    intact.then(|| delay_ms(code) * 1_000_000)
}

/// The delay of a code (RFC 3810, section 5.1.3).
fn delay_ms(code: u16) -> u64 {
    let (mantissa, exponent) = (u64::from(code & 0xfff), u32::from(code >> 12 & 7));
    let delay = if code < 0x8000 {
        u64::from(code)
    } else {
        (mantissa | 0x1000) << (exponent + 3)
    };
    delay.min(LONGEST_DELAY_MS)
}

/// Bytes of the IPv6 packet that reports so many groups.
pub(crate) fn report_bytes(groups: usize) -> usize {
    IPV6_HEADER_LEN + OPTIONS.len() + HEADER_BYTES + groups * RECORD_BYTES
}

/// Writes the IPv6 packet that reports these groups.
pub(crate) fn write_report(source: Ipv6Addr, groups: &[Ipv6Addr], packet: &mut [u8]) {
    let header = Ipv6Repr {
        src_addr: source,
        dst_addr: ROUTERS,
        next_header: IpProtocol::HopByHop,
        payload_len: report_bytes(groups.len()) - IPV6_HEADER_LEN,
        hop_limit: 1,
    };
    let mut packet = Ipv6Packet::new_unchecked(packet);
    header.emit(&mut packet);
    let payload = packet.payload_mut();
    let (options, body) = payload.split_at_mut(OPTIONS.len());
    options.copy_from_slice(&OPTIONS);
    body.fill(0);
    body[0] = REPORT;
    body[6..HEADER_BYTES].copy_from_slice(&(groups.len() as u16).to_be_bytes());
    for (record, group) in body[HEADER_BYTES..]
        .chunks_exact_mut(RECORD_BYTES)
        .zip(groups)
    {
        record[0] = JOINED;
        record[4..].copy_from_slice(&group.octets());
    }
    Icmpv6Packet::new_unchecked(body).fill_checksum(&source, &ROUTERS);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_are_numbers_and_from_some_size_on_floating_ones() {
        for (code, delay) in [
            (0, 0),
            (1_000, 1_000),
            (0x7fff, 32_767),
            (0x8000, 0x1000 << 3),
            (0x8123, 0x1123 << 3),
            (0xffff, LONGEST_DELAY_MS),
        ] {
            assert_eq!(delay_ms(code), delay, "{code:x}");
        }
    }
}
