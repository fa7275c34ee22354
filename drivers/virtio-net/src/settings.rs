//! What a device is not to be used for although it could: the words of the task's argument `off`, as in
//! `virtio-net.off=event_idx,mq` on the kernel's command line. The names are those that QEMU's options have.

use virtio::{Avoid, feature};

use crate::negotiation::net_feature::{
    CSUM, CTRL_VQ, GUEST_CSUM, GUEST_TSO4, GUEST_TSO6, HOST_TSO4, HOST_TSO6, MQ, MRG_RXBUF, MTU,
    STATUS,
};

/// Most pairs of queues that are used, however many processors and queues there are: one task serves all
/// of them, and more buy it nothing.
pub(crate) const MOST_PAIRS: u16 = 8;

/// The words that are features.
const FEATURES: [(&str, u64); 14] = [
    ("csum", CSUM),
    ("guest_csum", GUEST_CSUM),
    ("host_tso4", HOST_TSO4),
    ("host_tso6", HOST_TSO6),
    ("tso", HOST_TSO4 | HOST_TSO6),
    ("guest_tso4", GUEST_TSO4),
    ("guest_tso6", GUEST_TSO6),
    ("guest_tso", GUEST_TSO4 | GUEST_TSO6),
    ("mrg_rxbuf", MRG_RXBUF),
    ("mq", MQ | CTRL_VQ),
    ("status", STATUS),
    ("mtu", MTU),
    ("event_idx", feature::EVENT_INDEX),
    ("any_layout", feature::ANY_LAYOUT),
];
/// The word for interrupts by message.
const MESSAGES: &str = "msix";
/// The word for the modern transport: of a device that has both it leaves the legacy one.
const MODERN: &str = "version_1";

/// How a device may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Features that are not negotiated.
    pub off: u64,
    /// What is not used to reach it.
    pub avoid: Avoid,
    /// Most pairs of queues, at least 1.
    pub pairs: u16,
}

impl Settings {
    /// Everything may be used, on so many processors.
    pub fn new(processors: u64) -> Settings {
        Settings {
            off: 0,
            avoid: Avoid::default(),
            pairs: processors.clamp(1, MOST_PAIRS.into()) as u16,
        }
    }

    /// Switches off what these words name, which commas separate. Those that name nothing go to
    /// `unknown`, and do nothing.
    pub fn switch_off<'a>(&mut self, words: &'a str, mut unknown: impl FnMut(&'a str)) {
        for word in words.split(',') {
            match FEATURES.iter().find(|(name, _)| *name == word) {
                Some((_, bits)) => self.off |= bits,
                None if word == MESSAGES => self.avoid.messages = true,
                None if word == MODERN => self.avoid.modern = true,
                None => unknown(word),
            }
        }
    }
}

/// The words for features that have one bit, of those that were negotiated; for the log.
pub(crate) fn names(negotiated: u64) -> impl Iterator<Item = &'static str> {
    let modern = (MODERN, feature::VERSION_1);
    let of_one_bit = FEATURES.into_iter().chain([modern]);
    of_one_bit
        .filter(move |(name, bits)| {
            let shown = bits.is_power_of_two() || *name == "mq";
            shown && negotiated & bits == *bits
        })
        .map(|(name, _)| name)
}

/// The words that there are.
pub(crate) fn words() -> impl Iterator<Item = &'static str> {
    let features = FEATURES.iter().map(|(name, _)| *name);
    features.chain([MESSAGES, MODERN])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_switches_something_off_and_others_are_told() {
        let all = Settings::new(4);
        for word in words() {
            let mut settings = all;
            settings.switch_off(word, |word| panic!("{word} is unknown"));
            assert_ne!(settings, all, "{word}");
        }
        let mut settings = all;
        let mut unknown = Vec::new();
        settings.switch_off("mq,,tso,TSO,msix,tso4", |word| unknown.push(word));
        assert_eq!(unknown, ["", "TSO", "tso4"]);
        assert_eq!(settings.off, MQ | CTRL_VQ | HOST_TSO4 | HOST_TSO6);
        assert!(settings.avoid.messages && !settings.avoid.modern);
    }

    #[test]
    fn what_was_negotiated_is_named_once() {
        let all: Vec<&str> = names(u64::MAX).collect();
        assert_eq!(
            all.join(" "),
            "csum guest_csum host_tso4 host_tso6 guest_tso4 guest_tso6 mrg_rxbuf mq status mtu \
             event_idx any_layout version_1"
        );
        assert_eq!(names(MQ).count(), 0, "not without its control queue");
        assert_eq!(names(CSUM | feature::VERSION_1).count(), 2);
    }

    #[test]
    fn a_pair_a_processor_up_to_some() {
        let pairs = [0, 1, 3, 8, 9, u64::MAX].map(|cpus| Settings::new(cpus).pairs);
        assert_eq!(pairs, [1, 1, 3, 8, 8, 8]);
    }
}
