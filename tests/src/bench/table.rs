//! The figures as they are printed: two tables of lines with both guests, or one JSON array of what each is
//! under a name of its own.

use anyhow::Result;
use serde::Serialize;

use super::figure::Figure;
use super::guest::{Measured, Traced};

/// What kicks and interrupts may be more than Linux's before that is a fault: of its own number, and for each
/// packet. Some differ each time.
const SLACK: (f64, f64) = (1.05, 0.01);

/// What was taken of one figure.
#[derive(Debug, Clone)]
pub(super) struct Row {
    figure: Figure,
    /// Of Uzura, of Linux.
    pub(super) sides: [Side; 2],
    /// Why not all of it was.
    pub(super) failure: Option<String>,
}

/// What was taken of one guest.
#[derive(Debug, Clone, Default)]
pub(super) struct Side {
    /// Each time that it was measured.
    pub(super) measured: Vec<Measured>,
    /// What was seen when the device was looked at.
    pub(super) traced: Traced,
}

/// A figure in the JSON array.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Entry {
    name: String,
    /// Nothing where it could not be taken.
    value: Option<f64>,
    unit: &'static str,
    /// What a ratio must be at least; what a number of kicks or interrupts may be at most.
    budget: Option<f64>,
}

/// Something that packets cost, of both guests.
struct Cost {
    /// What names of figures end in, and columns are called.
    name: &'static str,
    unit: &'static str,
    values: [Option<f64>; 2],
}

/// The middle one, or the mean of the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.len().checked_sub(1)? / 2, sorted.len() / 2);
    Some((sorted[low] + sorted[high]) / 2.0)
}

/// A quotient that is a number.
fn quotient(part: f64, whole: f64) -> Option<f64> {
    let quotient = part / whole;
    quotient.is_finite().then_some(quotient)
}

impl Side {
    /// How much was done in a second, in units of so many operations.
    fn rate(&self, scale: f64) -> Option<f64> {
        let rates = self.measured.iter().map(|one| one.done.rate / scale);
        median(rates)
    }

    /// CPU time for each of so many operations, in microseconds.
    fn time(&self, scale: f64, of: impl Fn(&Measured) -> u64) -> Option<f64> {
        let operations = |one: &Measured| one.done.operations as f64 / scale;
        let times = self.measured.iter();
        median(times.filter_map(|one| quotient(of(one) as f64 / 1000.0, operations(one))))
    }

    /// How many there were of something for each of so many operations.
    fn each(&self, scale: f64, of: impl Fn(&Traced) -> u64) -> Option<f64> {
        let operations = self.traced.operations as f64 / scale;
        quotient(of(&self.traced) as f64, operations)
    }

    /// How many there were of something for each packet.
    fn each_packet(&self, of: impl Fn(&Traced) -> u64) -> Option<f64> {
        quotient(of(&self.traced) as f64, self.traced.packets as f64)
    }

    /// CPUs of the host that others kept busy.
    fn others(&self) -> Option<f64> {
        median(self.measured.iter().map(|one| one.others))
    }

    /// The tasks that took a hundredth of the CPU time or more, and how many hundredths.
    fn shares(&self) -> Vec<(&str, f64)> {
        let tasks = self.traced.tasks.iter();
        let whole: u64 = tasks.clone().map(|(_, took)| took).sum();
        let share = |took: u64| quotient(took as f64 * 100.0, whole as f64);
        let shares = tasks.filter_map(|(task, took)| Some((task.as_str(), share(*took)?)));
        let mut shares: Vec<_> = shares.filter(|(_, share)| *share >= 1.0).collect();
        shares.sort_by(|one, other| other.1.total_cmp(&one.1));
        shares
    }
}

impl Row {
    /// Nothing yet.
    pub(super) fn new(figure: &Figure) -> Self {
        Self {
            figure: figure.clone(),
            sides: Default::default(),
            failure: None,
        }
    }

    /// Nothing, for this reason.
    pub(super) fn failed(figure: &Figure, error: &anyhow::Error) -> Self {
        Self {
            failure: Some(format!("{error:#}")),
            ..Self::new(figure)
        }
    }

    fn ratio(&self) -> Option<f64> {
        let [own, linux] = self.sides.each_ref().map(|side| side.rate(1.0));
        quotient(own?, linux?)
    }

    /// What a packet may take at most of Linux's: kicks and interrupts.
    fn limited(&self) -> [Cost; 2] {
        let cost = |name, of: fn(&Traced) -> u64| Cost {
            name,
            unit: "per packet",
            values: self.sides.each_ref().map(|side| side.each_packet(of)),
        };
        [
            cost("kicks", |traced| traced.events.kicks),
            cost("interrupts", |traced| traced.events.interrupts),
        ]
    }

    /// What an operation takes.
    fn costs(&self) -> [Cost; 7] {
        let scale = self.figure.scale();
        let traced = |name, of: fn(&Traced) -> u64| Cost {
            name,
            unit: self.figure.each(),
            values: self.sides.each_ref().map(|side| side.each(scale, of)),
        };
        let time = |name, of: fn(&Measured) -> u64| Cost {
            name,
            unit: self.figure.microseconds(),
            values: self.sides.each_ref().map(|side| side.time(scale, of)),
        };
        [
            traced("packets", |traced| traced.packets),
            traced("all_kicks", |traced| traced.events.kicks),
            traced("all_interrupts", |traced| traced.events.interrupts),
            traced("switches", |traced| traced.switches),
            time("guest_cpu", |measured| measured.time.guest),
            time("device_cpu", |measured| measured.time.device),
            Cost {
                name: "others",
                unit: "CPUs of the host",
                values: self.sides.each_ref().map(Side::others),
            },
        ]
    }

    /// What has to hold and does not.
    pub(super) fn missed(&self) -> Vec<String> {
        let name = &self.figure.name;
        if let Some(failure) = &self.failure {
            return vec![format!("{name} ({failure})")];
        }
        let mut missed = Vec::new();
        if self
            .ratio()
            .is_none_or(|ratio| ratio < self.figure.aim.gate)
        {
            missed.push(format!("{name}_ratio"));
        }
        let above = self.limited().into_iter().filter(Cost::is_above);
        missed.extend(above.map(|cost| format!("{name}_{}", cost.name)));
        missed
    }

    fn verdict(&self) -> &'static str {
        match self.ratio() {
            _ if self.failure.is_some() => "FAILED",
            Some(ratio) if ratio >= self.figure.aim.goal => "goal",
            Some(ratio) if ratio >= self.figure.aim.gate => "gate",
            _ => "MISSED",
        }
    }

    /// Its line of the first table.
    pub(super) fn line(&self) -> String {
        let scale = self.figure.scale();
        let [own, linux] = self.sides.each_ref().map(|side| side.rate(scale));
        let aim = self.figure.aim;
        let mut line = format!(
            "{:<21}{:>10}{:>10}  {:<14}{:>6}{:>6}{:>6}  {:<7}",
            self.figure.name,
            number(own),
            number(linux),
            self.figure.unit(),
            number(self.ratio()),
            number(Some(aim.gate)),
            number(Some(aim.goal)),
            self.verdict(),
        );
        for cost in self.limited() {
            let above = if cost.is_above() { " MORE" } else { "" };
            line += &format!("{:>14}{above:<5}", cost.pair());
        }
        line.trim_end().to_owned()
    }

    /// Its line of the second table.
    fn cost_line(&self) -> String {
        let mut line = format!("{:<21}", self.figure.name);
        for cost in self.costs() {
            line += &format!("{:>14}", cost.pair());
        }
        let shares = self.sides[0].shares();
        let shares = shares
            .iter()
            .map(|(task, share)| format!("{task} {share:.0}"));
        format!("{line}  {}", shares.collect::<Vec<_>>().join(", "))
    }

    fn entries(&self) -> Vec<Entry> {
        let (name, scale) = (&self.figure.name, self.figure.scale());
        let entry = |name: String, value, unit| Entry {
            name,
            value,
            unit,
            budget: None,
        };
        let rates = Cost {
            name: "",
            unit: self.figure.unit(),
            values: self.sides.each_ref().map(|side| side.rate(scale)),
        };
        let mut entries = rates.entries(name);
        entries.push(Entry {
            budget: Some(self.figure.aim.gate),
            ..entry(format!("{name}_ratio"), self.ratio(), "of Linux")
        });
        for cost in self.limited() {
            let budget = cost.most();
            let mut both = cost.entries(&format!("{name}_{}", cost.name));
            both[0].budget = budget;
            entries.extend(both);
        }
        for cost in self.costs() {
            entries.extend(cost.entries(&format!("{name}_{}", cost.name)));
        }
        let shares = self.sides[0].shares().into_iter();
        entries.extend(
            shares.map(|(task, share)| entry(format!("{name}_share_{task}"), Some(share), "%")),
        );
        entries
    }
}

impl Cost {
    /// How much Uzura's may be.
    fn most(&self) -> Option<f64> {
        self.values[1].map(|linux| linux * SLACK.0 + SLACK.1)
    }

    fn is_above(&self) -> bool {
        let most = self.values[0].zip(self.most());
        most.is_some_and(|(own, most)| own > most)
    }

    /// Both as a cell of a table.
    fn pair(&self) -> String {
        let [own, linux] = self.values.map(number);
        format!("{own}/{linux}")
    }

    /// Both under their names.
    fn entries(&self, name: &str) -> Vec<Entry> {
        let whose = ["", "_linux"].iter().zip(self.values);
        let entry = |(whose, value): (&&str, Option<f64>)| Entry {
            name: format!("{name}{whose}"),
            value,
            unit: self.unit,
            budget: None,
        };
        whose.map(entry).collect()
    }
}

/// As many digits as say something.
fn number(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value >= 100.0 => format!("{value:.0}"),
        Some(value) if value >= 10.0 => format!("{value:.1}"),
        Some(value) => format!("{value:.2}"),
    }
}

/// Prints all of it on standard output.
pub(super) fn print(rows: &[Row], json: bool) -> Result<()> {
    if json {
        let entries: Vec<Entry> = rows.iter().flat_map(Row::entries).collect();
        println!("{}", serde_json::to_string_pretty(&entries)?);
        return Ok(());
    }
    println!(
        "{:<21}{:>10}{:>10}  {:<14}{:>6}{:>6}{:>6}  {:<7}{:>14}     {:>14}",
        "", "Uzura", "Linux", "", "ratio", "gate", "goal", "", "kicks/packet", "irqs/packet",
    );
    for row in rows {
        println!("{}", row.line());
    }
    println!();
    print!("{:<21}", "for each (1)");
    for name in [
        "packets",
        "kicks",
        "irqs",
        "switches",
        "guest us",
        "device us",
        "others",
    ] {
        print!("{name:>14}");
    }
    println!("  CPU of Uzura's tasks, %");
    for row in rows {
        println!("{}", row.cost_line());
    }
    println!(
        "\n(1) MB, round trip, connection or request; Uzura/Linux. Switches are of the address space, times are \
         QEMU's CPU time in the guest's processors and in all else; \
         others are CPUs of the host that other work took."
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::events::Events;
    use super::super::figure;
    use super::super::guest::Time;
    use super::super::load::Done;
    use super::*;

    /// A figure of which Uzura has done so many operations a second, Linux 1,000, with so many kicks.
    fn row(name: &str, rates: &[f64], kicks: u64) -> Row {
        let chosen = figure::choose(figure::all(&[1]), &[name.to_owned()]).unwrap();
        let mut row = Row::new(&chosen[0].figures[0]);
        let done = |rate| Done {
            rate,
            operations: 1000,
        };
        let time = Time {
            guest: Duration::from_millis(20).as_nanos() as u64,
            device: Duration::from_millis(10).as_nanos() as u64,
        };
        for (side, kicks) in row.sides.iter_mut().zip([kicks, 1000]) {
            side.traced.add(Traced {
                operations: 1000,
                events: Events {
                    kicks,
                    interrupts: 0,
                },
                packets: 2000,
                switches: 4000,
                tasks: vec![("netstack".to_owned(), 30), ("web".to_owned(), 10)],
            });
        }
        let measured = |rate| Measured {
            done: done(rate),
            time,
            others: 0.5,
        };
        row.sides[0].measured = rates.iter().map(|rate| measured(*rate)).collect();
        row.sides[1].measured = vec![measured(1000.0)];
        row
    }

    fn value(row: &Row, name: &str) -> Entry {
        let entries = row.entries();
        entries.into_iter().find(|one| one.name == name).unwrap()
    }

    #[test]
    fn the_middle_one_counts_beside_linux() {
        let row = row("tcp_rr", &[900.0, 1.0, 5000.0], 1000);
        assert_eq!(value(&row, "tcp_rr").value, Some(900.0));
        assert_eq!(value(&row, "tcp_rr_linux").value, Some(1000.0));
        let ratio = value(&row, "tcp_rr_ratio");
        assert_eq!((ratio.value, ratio.budget), (Some(0.9), Some(0.7)));
        assert_eq!(value(&row, "tcp_rr_packets").value, Some(2.0));
        assert_eq!(value(&row, "tcp_rr_switches_linux").value, Some(4.0));
        assert_eq!(value(&row, "tcp_rr_guest_cpu").value, Some(20.0));
        assert_eq!(value(&row, "tcp_rr_share_netstack").value, Some(75.0));
        assert!(row.missed().is_empty());
        assert!(row.line().contains("gate"), "{}", row.line());
    }

    #[test]
    fn a_gate_that_is_missed_is_named_and_seen() {
        let slow = row("tcp_rr", &[600.0], 1000);
        assert_eq!(slow.missed(), ["tcp_rr_ratio"]);
        assert!(slow.line().contains("MISSED"));
        let kicking = row("tcp_rr", &[2000.0], 1100);
        assert_eq!(kicking.missed(), ["tcp_rr_kicks"]);
        assert!(kicking.line().contains("goal") && kicking.line().contains("MORE"));
    }

    #[test]
    fn what_could_not_be_taken_is_missed() {
        let mut failed = row("tcp_rr", &[], 0);
        assert_eq!(failed.missed(), ["tcp_rr_ratio"]);
        assert_eq!(value(&failed, "tcp_rr").value, None);
        failed.failure = Some("no byte came back".to_owned());
        assert_eq!(failed.missed(), ["tcp_rr (no byte came back)"]);
        assert!(failed.line().contains("FAILED"));
    }
}
