//! Questions as they are sent and answers as they are judged (RFC 1035, section 4). The fields are
//! smoltcp's to read; what an answer means is found here.
//!
//! An answer is hostile input. The work on one is bounded: at most [`MAX_RECORDS`] records are looked at,
//! each name is read once, a pointer in a name leads back only, and aliases are followed [`MAX_LINKS`]
//! times at most.

use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;

use smoltcp::wire::{
    DnsFlags, DnsOpcode, DnsPacket, DnsQueryType, DnsQuestion, DnsRcode, DnsRecord, DnsRecordData,
    DnsRepr,
};

use super::name::{MAX_NAME, Name};

/// Largest answer that is asked for in a datagram: it fits a packet on every path without fragments
/// (RFC 6891, section 6.2.5; the DNS operators' advice of 2020).
pub(super) const DATAGRAM_BYTES: usize = 1232;
/// Bytes of an answer that came over TCP that are looked at; more than the answer's records are not
/// needed, and pointers lead no further.
pub(super) const STREAM_BYTES: usize = 4096;
/// Aliases that are followed: those of one answer, and those that were asked for one after the other. Real
/// names have a handful.
pub(super) const MAX_LINKS: usize = 12;
/// Records of a section that are looked at.
const MAX_RECORDS: usize = 64;

/// Bytes of a message's header (RFC 1035, section 4.1.1).
const HEADER_BYTES: usize = 12;
/// The record OPT that says how large an answer may be (RFC 6891, section 6.1.2): the root's name,
/// type 41, the size in place of the class, no extended code, version 0, no flags, no options.
const OPT: [u8; 11] = {
    let [high, low] = (DATAGRAM_BYTES as u16).to_be_bytes();
    [0, 0, 41, high, low, 0, 0, 0, 0, 0, 0]
};
/// Offset of the number of additional records in the header.
const ADDITIONAL_COUNT: usize = 10;
/// Bytes of the numbers at the end of a record SOA, of which the last is the time that a name's absence
/// holds (RFC 1035, section 3.3.13; RFC 2308, section 4).
const SOA_NUMBERS: usize = 20;

/// What kind of address is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// IPv4 (RFC 1035, section 3.4.1).
    A,
    /// IPv6 (RFC 3596, section 2.1).
    Aaaa,
}

impl Kind {
    pub(super) const ALL: [Kind; 2] = [Kind::A, Kind::Aaaa];

    pub(super) fn other(self) -> Kind {
        match self {
            Kind::A => Kind::Aaaa,
            Kind::Aaaa => Kind::A,
        }
    }

    fn code(self) -> DnsQueryType {
        match self {
            Kind::A => DnsQueryType::A,
            Kind::Aaaa => DnsQueryType::Aaaa,
        }
    }
}

/// A question: what an answer must repeat (RFC 5452, section 9.1).
#[derive(Debug)]
pub(super) struct Question {
    id: u16,
    name: Name,
    kind: Kind,
    /// The name as it travels: letters are large or small by chance, which an honest server repeats and
    /// a forger must guess.
    spelled: Vec<u8>,
}

/// What an answer came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carrier {
    /// A datagram, which anybody may have sent.
    Datagram,
    /// A connection to the server. `cut`: the end of the message is left out.
    Stream {
        /// Whether it is.
        cut: bool,
    },
}

/// What an answer is worth.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is no answer to this question.
    Stray,
    /// It is, but for the size of the letters.
    Misspelled,
    /// It did not fit the datagram.
    Truncated,
    /// The server does not understand the question, perhaps for its record OPT.
    NotUnderstood,
    /// The server will not or cannot answer, or its answer makes no sense.
    Failed,
    /// An answer.
    Answer(Answer),
}

/// What a server says of a name. `seconds`: how long it holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It has these addresses.
    Addresses { list: Vec<IpAddr>, seconds: u32 },
    /// It is another's name, which is to be asked for.
    Alias {
        target: Name,
        links: usize,
        seconds: u32,
    },
    /// It has no address of this kind.
    NoAddress { seconds: u32 },
    /// It does not exist.
    NoSuchHost { seconds: u32 },
}

impl Question {
    /// A question, with 16 bits for its identifier and one for each letter of chance.
    pub(super) fn new(
        name: Name,
        kind: Kind,
        id: u16,
        mut chance: impl FnMut() -> u64,
    ) -> Question {
        let mut bits = 0;
        let mut spelled = name.wire().to_vec();
        for (position, byte) in spelled.iter_mut().enumerate() {
            if position % 64 == 0 {
                bits = chance();
            }
            // Lengths are at most 63, which is no letter's number.
            if byte.is_ascii_lowercase() && bits >> (position % 64) & 1 == 1 {
                byte.make_ascii_uppercase();
            }
        }
        Question {
            id,
            name,
            kind,
            spelled,
        }
    }

    /// The kind of address that is asked for.
    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// The message to send; `extended` with the size that the answer may have.
    pub(super) fn message(&self, extended: bool) -> Vec<u8> {
        let repr = DnsRepr {
            transaction_id: self.id,
            opcode: DnsOpcode::Query,
            flags: DnsFlags::RECURSION_DESIRED,
            question: DnsQuestion {
                name: &self.spelled,
                type_: self.kind.code(),
            },
        };
        let mut bytes = vec![0; repr.buffer_len()];
        repr.emit(&mut DnsPacket::new_unchecked(&mut bytes[..]));
        if extended {
            bytes[ADDITIONAL_COUNT + 1] = 1;
            bytes.extend(OPT);
        }
        bytes
    }

    /// Judges a message that came from a server that was asked.
    pub(super) fn judge(&self, message: &[u8], carrier: Carrier) -> Verdict {
        let Ok(packet) = DnsPacket::new_checked(message) else {
            return Verdict::Stray;
        };
        let answers = packet.flags().contains(DnsFlags::RESPONSE)
            && packet.opcode() == DnsOpcode::Query
            && packet.transaction_id() == self.id;
        if !answers {
            return Verdict::Stray;
        }
        let not_understood = matches!(packet.rcode(), DnsRcode::FormErr | DnsRcode::NotImp);
        // A server that does not understand a message need not repeat the question.
        if not_understood && packet.question_count() == 0 {
            return Verdict::NotUnderstood;
        }
        let Some((records, spelled)) = self.repeated(&packet) else {
            return Verdict::Stray;
        };
        let cut = carrier == Carrier::Stream { cut: true };
        if carrier == Carrier::Datagram && !spelled {
            return Verdict::Misspelled;
        }
        if packet.flags().contains(DnsFlags::TRUNCATED) {
            return Verdict::Truncated;
        }
        match packet.rcode() {
            DnsRcode::FormErr | DnsRcode::NotImp => Verdict::NotUnderstood,
            DnsRcode::NoError | DnsRcode::NXDomain => self
                .answer(&packet, records, cut)
                .map_or(Verdict::Failed, Verdict::Answer),
            _ => Verdict::Failed,
        }
    }

    /// What follows the question, if it is this one, and whether its letters are the same too.
    fn repeated<'a>(&self, packet: &'a DnsPacket<&'a [u8]>) -> Option<(&'a [u8], bool)> {
        if packet.question_count() != 1 {
            return None;
        }
        let (rest, question) = DnsQuestion::parse(packet.payload()).ok()?;
        let same =
            question.type_ == self.kind.code() && question.name.eq_ignore_ascii_case(&self.spelled);
        same.then(|| (rest, question.name == self.spelled))
    }

    fn answer(&self, packet: &DnsPacket<&[u8]>, records: &[u8], cut: bool) -> Option<Answer> {
        let mut rest = records;
        let answers = Section::read(packet, &mut rest, packet.answer_record_count(), cut)?;
        let (name, links, seconds) = answers.follow(&self.name)?;
        let absent = packet.rcode() == DnsRcode::NXDomain;
        let (list, lives) = answers.addresses(name, self.kind);
        if !list.is_empty() && !absent {
            let seconds = seconds.min(lives);
            return Some(Answer::Addresses { list, seconds });
        }
        // Where not all answers were read it is not known where the next section begins.
        let whole = usize::from(packet.answer_record_count()) <= MAX_RECORDS;
        let authority = packet.authority_record_count() * u16::from(whole);
        let authority = Section::read(packet, &mut rest, authority, cut)?;
        if absent {
            let seconds = authority.absence().unwrap_or(0).min(seconds);
            return Some(Answer::NoSuchHost { seconds });
        }
        // A server that names other servers instead of an answer does not do what was asked of it
        // (RFC 2308, section 2.2.1: a referral).
        match authority.absence() {
            Some(lives) => Some(Answer::NoAddress {
                seconds: lives.min(seconds),
            }),
            None if links > 0 => Some(Answer::Alias {
                target: name.clone(),
                links,
                seconds,
            }),
            None if authority.refers => None,
            None => Some(Answer::NoAddress { seconds: 0 }),
        }
    }
}

/// The records of a section that matter.
#[derive(Default)]
struct Section {
    addresses: Vec<(Name, IpAddr, u32)>,
    aliases: Vec<(Name, Name, u32)>,
    /// How long it holds that a name is absent, by a record SOA.
    absent: Option<u32>,
    /// It names servers.
    refers: bool,
}

impl Section {
    /// Reads `count` records from the front of `rest`; `None` where they are not what they claim. What
    /// is left out at the end of a message that is `cut` is no fault.
    fn read(packet: &DnsPacket<&[u8]>, rest: &mut &[u8], count: u16, cut: bool) -> Option<Section> {
        let mut section = Section::default();
        for _ in 0..usize::from(count).min(MAX_RECORDS) {
            match DnsRecord::parse(rest) {
                Ok((after, record)) => {
                    *rest = after;
                    section.add(packet, &record)?;
                }
                Err(_) if cut => break,
                Err(_) => return None,
            }
        }
        Some(section)
    }

    fn add(&mut self, packet: &DnsPacket<&[u8]>, record: &DnsRecord<'_>) -> Option<()> {
        let seconds = lifetime(record.ttl);
        match record.data {
            DnsRecordData::A(address) => {
                let owner = read_name(packet, record.name)?;
                self.addresses.push((owner, address.into(), seconds));
            }
            DnsRecordData::Aaaa(address) => {
                let owner = read_name(packet, record.name)?;
                self.addresses.push((owner, address.into(), seconds));
            }
            DnsRecordData::Cname(target) => {
                let owner = read_name(packet, record.name)?;
                let target = read_name(packet, target)?;
                self.aliases.push((owner, target, seconds));
            }
            DnsRecordData::Other(DnsQueryType::Soa, data) => {
                // Two names of one byte at least stand before the numbers.
                let numbers = data
                    .len()
                    .checked_sub(SOA_NUMBERS)
                    .filter(|names| *names >= 2)?;
                let minimum = data.get(numbers + 16..)?.try_into().ok()?;
                let minimum = lifetime(u32::from_be_bytes(minimum));
                self.absent.get_or_insert(seconds.min(minimum));
            }
            DnsRecordData::Other(DnsQueryType::Ns, _) => self.refers = true,
            DnsRecordData::Other(..) => {}
        }
        Some(())
    }

    /// The name that aliases lead to, their number, and how long they hold; `None` where they do not
    /// end.
    fn follow<'a>(&'a self, name: &'a Name) -> Option<(&'a Name, usize, u32)> {
        let (mut name, mut seconds) = (name, u32::MAX);
        for links in 0..=MAX_LINKS {
            let alias = self.aliases.iter().find(|(owner, ..)| owner == name);
            let Some((_, target, lives)) = alias else {
                return Some((name, links, seconds));
            };
            name = target;
            seconds = seconds.min(*lives);
        }
        None
    }

    /// The addresses of a name, and how long they hold.
    fn addresses(&self, name: &Name, kind: Kind) -> (Vec<IpAddr>, u32) {
        let mut seconds = u32::MAX;
        let mut list = Vec::new();
        for (owner, address, lives) in &self.addresses {
            if owner == name && address.is_ipv4() == (kind == Kind::A) {
                seconds = seconds.min(*lives);
                list.push(*address);
            }
        }
        (list, seconds)
    }

    fn absence(&self) -> Option<u32> {
        self.absent
    }
}

/// A number with its highest bit set is taken for 0 (RFC 2181, section 8).
fn lifetime(seconds: u32) -> u32 {
    if seconds > i32::MAX as u32 {
        0
    } else {
        seconds
    }
}

/// Reads a name, following its pointers; `None` where it is none.
fn read_name(packet: &DnsPacket<&[u8]>, bytes: &[u8]) -> Option<Name> {
    Name::from_labels(packet.parse_name(bytes).take(MAX_NAME).map(Result::ok))
}

const _: () = assert!(HEADER_BYTES + MAX_NAME + 4 + OPT.len() <= 512);

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        Name::from_text(text).expect("a name")
    }

    fn question(kind: Kind) -> Question {
        Question::new(name("www.example.org"), kind, 0x1234, || {
            0x5555_5555_5555_5555
        })
    }

    /// The question with other flags and counts, followed by records.
    fn reply(question: &Question, flags: u16, counts: [u16; 3], records: &[&[u8]]) -> Vec<u8> {
        let mut bytes = question.message(false);
        bytes[2..4].copy_from_slice(&flags.to_be_bytes());
        for (place, count) in counts.into_iter().enumerate() {
            bytes[6 + 2 * place..][..2].copy_from_slice(&count.to_be_bytes());
        }
        records.iter().for_each(|record| bytes.extend(*record));
        bytes
    }

    fn record(owner: &[u8], code: u16, class: u16, seconds: u32, data: &[u8]) -> Vec<u8> {
        let mut bytes = owner.to_vec();
        bytes.extend(code.to_be_bytes());
        bytes.extend(class.to_be_bytes());
        bytes.extend(seconds.to_be_bytes());
        bytes.extend((data.len() as u16).to_be_bytes());
        bytes.extend(data);
        bytes
    }

    /// A pointer to the question's name.
    const ASKED: &[u8] = &[0xc0, 12];
    const GOOD: u16 = 0x8180;

    fn soa(seconds: u32, minimum: u32) -> Vec<u8> {
        let mut data = vec![0, 0];
        data.extend([0; 16]);
        data.extend(minimum.to_be_bytes());
        record(&[0], 6, 1, seconds, &data)
    }

    fn judged(flags: u16, counts: [u16; 3], records: &[&[u8]]) -> Verdict {
        let question = question(Kind::A);
        question.judge(&reply(&question, flags, counts, records), Carrier::Datagram)
    }

    #[test]
    fn a_question_is_spelled_by_chance_and_says_how_large_the_answer_may_be() {
        let question = question(Kind::Aaaa);
        let message = question.message(true);
        assert_eq!(message[..4], [0x12, 0x34, 0x01, 0x00]);
        assert_eq!(message[4..12], [0, 1, 0, 0, 0, 0, 0, 1]);
        assert_eq!(&message[12..29], b"\x03wWw\x07eXaMpLe\x03oRg\0");
        assert_eq!(message[29..33], [0, 28, 0, 1]);
        assert_eq!(message[33..], [0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn addresses_are_found_behind_aliases_in_any_order_with_the_shortest_time() {
        let alias = record(ASKED, 5, 1, 40, b"\x01b\x01c\0");
        let again = record(b"\x01B\x01c\0", 5, 1, 50, b"\x01d\0");
        let address = record(b"\x01d\0", 1, 1, 60, &[192, 0, 2, 1]);
        let other = record(b"\x01e\0", 1, 1, 5, &[192, 0, 2, 9]);
        let records: [&[u8]; 4] = [&address, &other, &again, &alias];
        let list = vec![IpAddr::from([192, 0, 2, 1])];
        let wanted = Answer::Addresses { list, seconds: 40 };
        assert_eq!(judged(GOOD, [4, 0, 0], &records), Verdict::Answer(wanted));
        let target = name("d");
        let wanted = Answer::Alias {
            target,
            links: 2,
            seconds: 40,
        };
        assert_eq!(
            judged(GOOD, [2, 0, 0], &records[2..]),
            Verdict::Answer(wanted)
        );
    }

    #[test]
    fn absence_holds_as_long_as_the_authority_says() {
        let soa = soa(100, 30);
        let wanted = Verdict::Answer(Answer::NoSuchHost { seconds: 30 });
        assert_eq!(judged(GOOD | 3, [0, 1, 0], &[&soa]), wanted);
        let wanted = Verdict::Answer(Answer::NoSuchHost { seconds: 0 });
        assert_eq!(judged(GOOD | 3, [0, 0, 0], &[]), wanted);
        let wanted = Verdict::Answer(Answer::NoAddress { seconds: 30 });
        assert_eq!(judged(GOOD, [0, 1, 0], &[&soa]), wanted);
        let wanted = Verdict::Answer(Answer::NoAddress { seconds: 0 });
        assert_eq!(judged(GOOD, [0, 0, 0], &[]), wanted);
        let referral = record(&[0], 2, 1, 9, &[0]);
        assert_eq!(judged(GOOD, [0, 1, 0], &[&referral]), Verdict::Failed);
    }

    #[test]
    fn what_is_no_answer_to_the_question_is_told_from_a_bad_one() {
        let question = question(Kind::A);
        let good = reply(&question, GOOD, [0; 3], &[]);
        let changed = |position: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[position] = value;
            question.judge(&bytes, Carrier::Datagram)
        };
        let stray = [
            (0, 9),
            (1, 9),
            (2, 1),
            (2, 0x91),
            (5, 0),
            (5, 2),
            (13, b'x'),
            (30, 28),
            (32, 3),
        ];
        for (position, value) in stray {
            assert_eq!(changed(position, value), Verdict::Stray, "{position}");
        }
        assert_eq!(changed(13, b'W'), Verdict::Misspelled);
        assert_eq!(changed(2, 0x83), Verdict::Truncated);
        for (code, verdict) in [
            (1, Verdict::NotUnderstood),
            (2, Verdict::Failed),
            (4, Verdict::NotUnderstood),
            (5, Verdict::Failed),
            (15, Verdict::Failed),
        ] {
            assert_eq!(changed(3, 0x80 | code), verdict, "{code}");
        }
        assert_eq!(
            question.judge(&good[..20], Carrier::Datagram),
            Verdict::Stray
        );
        assert_eq!(
            question.judge(&good[..11], Carrier::Datagram),
            Verdict::Stray
        );
    }

    #[test]
    fn answers_that_lie_fail() {
        let address = record(ASKED, 1, 1, 60, &[192, 0, 2, 1]);
        let short = record(ASKED, 1, 1, 60, &[192, 0, 2]);
        let class = record(ASKED, 1, 3, 60, &[192, 0, 2, 1]);
        let forward = record(&[0xff, 0xff], 1, 1, 60, &[192, 0, 2, 1]);
        // A pointer to itself: the record begins where the question ends.
        let itself = record(&[0xc0, 33], 1, 1, 60, &[192, 0, 2, 1]);
        let ring = record(ASKED, 5, 1, 60, ASKED);
        let reserved = record(&[0x80, 0], 1, 1, 60, &[192, 0, 2, 1]);
        for (case, records) in [
            ("more than there is", &[&address[..]][..]),
            ("short", &[&short, &address]),
            ("class", &[&class, &address]),
            ("beyond the end", &[&forward, &address]),
            ("itself", &[&itself, &address]),
            ("an alias of itself", &[&ring, &address]),
            ("a reserved length", &[&reserved, &address]),
            ("cut", &[&address, &address[..9]]),
        ] {
            assert_eq!(judged(GOOD, [2, 0, 0], records), Verdict::Failed, "{case}");
        }
        let mut whole = reply(&question(Kind::A), GOOD, [200, 0, 0], &[&address]);
        whole.extend(&address[..7]);
        let cut = Carrier::Stream { cut: true };
        let Verdict::Answer(Answer::Addresses { list, .. }) = question(Kind::A).judge(&whole, cut)
        else {
            panic!("what is there counts, where the rest was left out");
        };
        assert_eq!(list.len(), 1);
    }

    #[test]
    fn bytes_changed_by_chance_are_judged_without_harm_and_in_bounded_work() {
        let question = question(Kind::A);
        let alias = record(ASKED, 5, 1, 40, b"\x01b\xc0\x0c");
        let address = record(&[0xc0, 45], 1, 1, 60, &[192, 0, 2, 1]);
        let whole = reply(&question, GOOD, [2, 1, 0], &[&alias, &address, &soa(9, 9)]);
        let mut state = 0x1357_9bdf_u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut answered = 0;
        for _ in 0..200_000 {
            let mut bytes = whole.clone();
            for _ in 0..=next() % 3 {
                let position = 2 + next() as usize % (bytes.len() - 2);
                bytes[position] = next() as u8;
            }
            bytes.truncate(bytes.len() - (next() % 8) as usize * (next() % 3) as usize);
            let carrier = match next() % 3 {
                0 => Carrier::Datagram,
                cut => Carrier::Stream { cut: cut == 1 },
            };
            let verdict = question.judge(&bytes, carrier);
            answered += u32::from(matches!(verdict, Verdict::Answer(_)));
        }
        assert!(answered > 10_000, "{answered}");
        // Pointers to pointers all the way, and as many records as there can be.
        let mut chain = Vec::new();
        let start = question.message(false).len() + 11;
        while chain.len() < 2048 {
            let before = if chain.is_empty() {
                12
            } else {
                start + chain.len() - 2
            };
            chain.extend((0xc000 | before as u16).to_be_bytes());
        }
        let last = (0xc000 | (start + chain.len() - 2) as u16).to_be_bytes();
        let text = record(&[0], 16, 1, 60, &chain);
        let address = record(&last, 1, 1, 60, &[192, 0, 2, 1]);
        let records: Vec<&[u8]> = [&text[..]].into_iter().chain([&address[..]; 100]).collect();
        let deep = reply(&question, GOOD, [101, 0, 0], &records);
        let Verdict::Answer(Answer::Addresses { list, .. }) =
            question.judge(&deep, Carrier::Datagram)
        else {
            panic!("pointers that lead back are good");
        };
        assert_eq!(list.len(), MAX_RECORDS - 1);
    }
}
