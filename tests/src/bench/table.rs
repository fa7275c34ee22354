//! The figures as they are printed: a line each with both guests and their ratio, or one JSON array of what each
//! is under a name of its own.

use anyhow::Result;
use serde::Serialize;

use super::figure::Figure;
use super::guest::{Measured, Traced};

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
    /// When the device was looked at.
    pub(super) traced: Option<Traced>,
}

/// A figure in the JSON array.
#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    value: Option<f64>,
    unit: &'static str,
    /// What a ratio must be at least; what a number of kicks or interrupts may be at most.
    budget: Option<f64>,
}

/// The middle one, or the mean of the two in the middle.
fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let (low, high) = (sorted.len().checked_sub(1)? / 2, sorted.len() / 2);
    Some((sorted[low] + sorted[high]) / 2.0)
}

impl Side {
    /// How much was done in a second, in units of so many operations.
    fn rate(&self, scale: f64) -> Option<f64> {
        median(
            self.measured
                .iter()
                .map(|measured| measured.done.rate / scale),
        )
    }

    /// CPU time for each of so many operations, in microseconds.
    fn time(&self, scale: f64, of: impl Fn(&Measured) -> u64) -> Option<f64> {
        median(self.measured.iter().map(|measured| {
            of(measured) as f64 / 1000.0 / (measured.done.operations as f64 / scale)
        }))
    }

    /// How many there were of something for each packet.
    fn per_packet(&self, of: impl Fn(&Traced) -> u64) -> Option<f64> {
        let traced = self.traced.as_ref()?;
        Some(of(traced) as f64 / traced.packets as f64)
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

    fn ratio(&self) -> Option<f64> {
        let [own, linux] = self.sides.each_ref().map(|side| side.rate(1.0));
        Some(own? / linux?)
    }

    /// What has to hold and does not.
    pub(super) fn missed(&self) -> Option<String> {
        match (&self.failure, self.ratio()) {
            (Some(failure), _) => Some(format!("{} ({failure})", self.figure.name)),
            (None, Some(ratio)) if ratio >= self.figure.aim.gate => None,
            (None, _) => Some(format!("{}_ratio", self.figure.name)),
        }
    }

    fn verdict(&self) -> &'static str {
        match self.ratio() {
            _ if self.failure.is_some() => "FAILED",
            Some(ratio) if ratio >= self.figure.aim.goal => "goal",
            Some(ratio) if ratio >= self.figure.aim.gate => "gate",
            _ => "MISSED",
        }
    }

    /// Its line of the table.
    pub(super) fn line(&self) -> String {
        let scale = self.figure.scale();
        let [own, linux] = self.sides.each_ref().map(|side| side.rate(scale));
        let pair = |of: &dyn Fn(&Side) -> Option<f64>| {
            let [own, linux] = self.sides.each_ref().map(of);
            format!("{}/{}", number(own, 2), number(linux, 2))
        };
        format!(
            "{:<22}{:>10}{:>10} {:<14}{:>6}  {:>4} {:>4}  {:<7}{:>14}{:>14}{:>16}{:>16}",
            self.figure.name,
            number(own, 1),
            number(linux, 1),
            self.figure.unit(),
            number(self.ratio(), 2),
            self.figure.aim.gate,
            self.figure.aim.goal,
            self.verdict(),
            pair(&|side| side.per_packet(|traced| traced.events.kicks)),
            pair(&|side| side.per_packet(|traced| traced.events.interrupts)),
            pair(&|side| side.time(scale, |measured| measured.time.guest)),
            pair(&|side| side.time(scale, |measured| measured.time.device)),
        )
    }

    fn entries(&self) -> Vec<Entry> {
        let (name, scale) = (&self.figure.name, self.figure.scale());
        let mut entries = Vec::new();
        for (side, whose) in self.sides.iter().zip(["", "_linux"]) {
            let mut add = |what: &str, value, unit| {
                entries.push(Entry {
                    name: format!("{name}{what}{whose}"),
                    value,
                    unit,
                    budget: None,
                });
            };
            add("", side.rate(scale), self.figure.unit());
            let kicks = side.per_packet(|traced| traced.events.kicks);
            add("_kicks", kicks, "per packet");
            let interrupts = side.per_packet(|traced| traced.events.interrupts);
            add("_interrupts", interrupts, "per packet");
            let guest = side.time(scale, |measured| measured.time.guest);
            add("_cpu", guest, "us per operation");
            let device = side.time(scale, |measured| measured.time.device);
            add("_device_cpu", device, "us per operation");
        }
        entries.push(Entry {
            name: format!("{name}_ratio"),
            value: self.ratio(),
            unit: "of Linux",
            budget: Some(self.figure.aim.gate),
        });
        entries
    }
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
}

/// Prints all of it on standard output.
pub(super) fn print(rows: &[Row], json: bool) -> Result<()> {
    if json {
        let entries: Vec<Entry> = rows.iter().flat_map(Row::entries).collect();
        println!("{}", serde_json::to_string_pretty(&entries)?);
        return Ok(());
    }
    println!(
        "{:<22}{:>10}{:>10} {:<14}{:>6}  {:>4} {:>4}  {:<7}{:>14}{:>14}{:>16}{:>16}",
        "figure",
        "Uzura",
        "Linux",
        "",
        "ratio",
        "gate",
        "goal",
        "",
        "kicks/packet",
        "irqs/packet",
        "guest us/op",
        "device us/op",
    );
    for row in rows {
        println!("{}", row.line());
    }
    Ok(())
}
