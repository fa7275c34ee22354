//! What a virtio network card can be and have, as QEMU plays it: transport, interrupts, sizes of queues, and
//! each feature there, missing in the device, or switched off in the driver. A row is one card; the rows have
//! every pair of values. On each the system serves the host, over a cable whose other end has all offloads.

use anyhow::{Result, ensure};
use iso::{packages, qemu};

use crate::case::say;
use crate::images::{Kind, image};
use crate::machines::pairs::{self, cover};
use crate::namespace::{inside, ip};
use crate::{Setup, http};

/// Bytes of a transfer each way.
const LONG: u64 = 4 << 20;

/// The features, by what the device's property is called and what the driver's word is; in the log stand the
/// names of the third.
const FEATURES: [(&[&str], &str, &[&str]); 6] = [
    (&["csum"], "csum", &["csum"]),
    (&["guest_csum"], "guest_csum", &["guest_csum"]),
    (
        &["host_tso4", "host_tso6"],
        "tso",
        &["host_tso4", "host_tso6"],
    ),
    (
        &["guest_tso4", "guest_tso6"],
        "guest_tso",
        &["guest_tso4", "guest_tso6"],
    ),
    (&["mrg_rxbuf"], "mrg_rxbuf", &["mrg_rxbuf"]),
    (&["event_idx"], "event_idx", &["event_idx"]),
];
/// What is with a feature: it is there, the device lacks it, the driver is not to use it.
const STATES: u8 = 3;

/// The transport.
const TRANSPORTS: [&str; 3] = ["modern", "legacy", "legacy by off="];
/// How the card interrupts.
const INTERRUPTS: [&str; 5] = ["3 vectors", "2 vectors", "1 vector", "line", "line by off="];
/// Entries of the receive queue.
const SIZES: [u16; 2] = [256, 1024];
/// Pairs of queues.
const PAIRS: [&str; 3] = ["1 pair", "2 pairs", "2 pairs, off="];
/// Axes: the four above, and the features.
const AXES: usize = 4 + FEATURES.len();

/// A card: for each axis the number of its value.
type Numbers = pairs::Row<AXES>;

/// A card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Card(Numbers);

/// Cards with every pair of values, those with the most first.
pub fn cards() -> Vec<Card> {
    let values = |axis| match axis {
        0 => TRANSPORTS.len() as u8,
        1 => INTERRUPTS.len() as u8,
        2 => SIZES.len() as u8,
        3 => PAIRS.len() as u8,
        _ => STATES,
    };
    let mut possible: Vec<Numbers> = vec![[0; AXES]];
    for axis in 0..AXES {
        let more = possible.iter().flat_map(|row| {
            (0..values(axis)).map(move |value| {
                let mut row = *row;
                row[axis] = value;
                row
            })
        });
        possible = more.collect();
    }
    let chosen = cover(&possible, &[]);
    chosen
        .into_iter()
        .map(|index| Card(possible[index]))
        .collect()
}

impl Card {
    fn pairs(self) -> u8 {
        1 + u8::from(self.0[3] > 0)
    }

    /// Whether a feature is used as far as it is up to the feature alone.
    fn has(self, feature: &str) -> bool {
        let states = FEATURES.iter().zip(&self.0[4..]);
        states
            .filter(|((_, word, _), _)| *word == feature)
            .all(|(_, state)| *state == 0)
    }

    /// What the table says of it.
    fn name(self) -> String {
        let states = FEATURES.iter().zip(&self.0[4..]);
        let features = states.map(|((_, word, _), state)| match state {
            0 => (*word).to_owned(),
            1 => format!("no {word}"),
            _ => format!("off={word}"),
        });
        let [transport, interrupts, size, pairs, ..] = self.0.map(usize::from);
        let first = [
            TRANSPORTS[transport].to_owned(),
            INTERRUPTS[interrupts].to_owned(),
            SIZES[size].to_string(),
            PAIRS[pairs].to_owned(),
        ];
        first
            .into_iter()
            .chain(features)
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// QEMU's description.
    fn device(self) -> String {
        let mut device = "virtio-net-pci,netdev=net0,romfile=".to_owned();
        if self.0[0] == 1 {
            device += ",disable-modern=on,disable-legacy=off";
        }
        device += match self.0[1] {
            0 | 4 => ",vectors=8",
            1 => ",vectors=2",
            2 => ",vectors=1",
            _ => ",vectors=0",
        };
        device += &format!(",rx_queue_size={}", SIZES[usize::from(self.0[2])]);
        if self.pairs() > 1 {
            device += ",mq=on";
        }
        for ((properties, ..), state) in FEATURES.iter().zip(&self.0[4..]) {
            for property in properties.iter().filter(|_| *state == 1) {
                device += &format!(",{property}=off");
            }
        }
        device
    }

    /// The words that the driver is told to leave.
    fn off(self) -> String {
        let states = FEATURES.iter().zip(&self.0[4..]);
        let features = states.filter(|(_, state)| **state == 2);
        let mut words: Vec<&str> = features.map(|((_, word, _), _)| *word).collect();
        words.extend((self.0[0] == 2).then_some("version_1"));
        words.extend((self.0[1] == 4).then_some("msix"));
        words.extend((self.0[3] == 2).then_some("mq"));
        words.join(",")
    }

    /// What the driver must say that it uses.
    fn said(self) -> String {
        let modern = self.0[0] == 0;
        let joined = ["guest_csum", "guest_tso", "mrg_rxbuf"];
        let joined = joined.into_iter().all(|word| self.has(word));
        let several = self.0[3] == 1;
        let receive = if modern {
            256
        } else {
            SIZES[usize::from(self.0[2])]
        };
        let uses = |word: &str| match word {
            "tso" => self.has("csum") && self.has("tso"),
            "guest_tso" | "mrg_rxbuf" => joined,
            word => self.has(word),
        };
        let names = |words: &[&str]| -> String {
            let used = FEATURES
                .iter()
                .filter(|(_, word, _)| words.contains(word) && uses(word));
            used.flat_map(|(.., names)| names.iter().map(|name| format!(" {name}")))
                .collect()
        };
        format!(
            "attached: {} x {receive}+256 buffers{}{} status{}{}\n",
            1 + u8::from(several),
            names(&["csum", "guest_csum", "tso", "guest_tso", "mrg_rxbuf"]),
            if several { " mq" } else { "" },
            names(&["event_idx"]),
            if modern { " version_1" } else { " any_layout" },
        )
    }

    /// The system serves the host through this card.
    fn check(self, number: usize) -> Result<()> {
        let tap = format!("uzura{number}");
        let several = if self.pairs() > 1 { " multi_queue" } else { "" };
        ip(&format!("tuntap add dev {tap} mode tap{several}"))?;
        ip(&format!("link set dev {tap} addrgenmode none"))?;
        ip(&format!("address add 10.9.{number}.1/24 dev {tap}"))?;
        ip(&format!("link set dev {tap} up"))?;
        let network = format!(
            "tap,id=net0,ifname={tap},script=no,downscript=no,queues={}",
            self.pairs()
        );
        let mut words = format!("netstack.ip=10.9.{number}.2/24 netstack.gw=10.9.{number}.1");
        match self.off() {
            off if off.is_empty() => {}
            off => words += &format!(" virtio-net.off={off}"),
        }
        let setup = Setup::new(image(Kind::System)?).cpus(2).append(&words);
        let setup = setup.devices(&[&self.device()]).network(network);
        let mut machine = setup.start()?;
        let console = &mut machine.console;
        console.wait_for("virtio-net: attached")?;
        console.wait_for("web: serving port 80\n")?;
        let (text, said) = (console.text(), self.said());
        ensure!(text.contains(&said), "not `{said}`, but: {text}");
        transfers(&format!("http://10.9.{number}.2"))
    }
}

/// A page, a download and an upload.
fn transfers(host: &str) -> Result<()> {
    let page = http::get_again(&format!("{host}/"))?;
    ensure!(page.contains("Uzura"), "the page is: {page}");
    let got = http::download(&http::client(), &format!("{host}/bytes/{LONG}"), |_| Ok(()))?;
    ensure!(got == http::expected(LONG), "{} bytes arrived", got.length);
    let body: Vec<u8> = (0..LONG).map(|at| ((at * 7) >> 3) as u8).collect();
    let (answer, receipt) = (
        http::upload(&http::client(), &format!("{host}/sink"), &body)?,
        http::receipt(&body),
    );
    ensure!(
        answer == receipt,
        "the sink says `{answer}`, not `{receipt}`"
    );
    Ok(())
}

/// Checks these cards one after the other. The error names those that failed.
pub fn check(cards: &[Card]) -> Result<()> {
    let mut failed = Vec::new();
    // Inside nothing can be installed.
    packages::need(qemu::PROGRAM, &[qemu::PACKAGE])?;
    inside(|| {
        for (number, card) in cards.iter().enumerate() {
            let result = card.check(number);
            let verdict = if result.is_ok() { "yes " } else { "FAIL" };
            say(&format!("  {verdict} {}", card.name()));
            failed.extend(
                result
                    .err()
                    .map(|error| format!("{}: {error:#}", card.name())),
            );
        }
        Ok(())
    })?;
    ensure!(failed.is_empty(), "{}", failed.join("\n"));
    Ok(())
}
