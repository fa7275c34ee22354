//! What is measured, under which names, and what the ratio to Linux has to be.

use anyhow::{Result, bail};
use iso::cli::Accel;

use super::guest::{Hardware, Offloads};
use super::load::Load;

/// What a ratio must be at least, and what it should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Aim {
    /// Less is a fault.
    pub(super) gate: f64,
    /// What is wanted.
    pub(super) goal: f64,
}

/// Of how much is done at once.
const THROUGHPUT: Aim = Aim {
    gate: 0.8,
    goal: 1.2,
};
/// Of how soon an answer is there.
const LATENCY: Aim = Aim {
    gate: 0.7,
    goal: 1.0,
};

/// The loads.
const LOADS: [(&str, Load, Aim); 12] = [
    ("tcp_out_1", Load::Out(1), THROUGHPUT),
    ("tcp_in_1", Load::In(1), THROUGHPUT),
    ("tcp_out_4", Load::Out(4), THROUGHPUT),
    ("tcp_in_4", Load::In(4), THROUGHPUT),
    ("tcp_out_32", Load::Out(32), THROUGHPUT),
    ("tcp_in_32", Load::In(32), THROUGHPUT),
    ("tcp_rr", Load::TcpRoundTrips, LATENCY),
    ("udp_rr", Load::UdpRoundTrips, LATENCY),
    ("connect", Load::Connections(1), THROUGHPUT),
    ("connect_8", Load::Connections(8), THROUGHPUT),
    ("http_1", Load::Requests(1), THROUGHPUT),
    ("http_8", Load::Requests(8), THROUGHPUT),
];

/// A load on machines of one kind.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Figure {
    /// Its name.
    pub(super) name: String,
    /// What the host does.
    pub(super) load: Load,
    /// What the ratio has to be.
    pub(super) aim: Aim,
}

impl Figure {
    /// The unit of how much is done.
    pub(super) fn unit(&self) -> &'static str {
        match self.load {
            Load::Out(_) | Load::In(_) => "MB/s",
            Load::TcpRoundTrips | Load::UdpRoundTrips => "round trips/s",
            Load::Connections(_) => "connections/s",
            Load::Requests(_) => "requests/s",
        }
    }

    /// The unit of what one of them takes.
    pub(super) fn each(&self) -> &'static str {
        match self.load {
            Load::Out(_) | Load::In(_) => "per MB",
            Load::TcpRoundTrips | Load::UdpRoundTrips => "per round trip",
            Load::Connections(_) => "per connection",
            Load::Requests(_) => "per request",
        }
    }

    /// The unit of the time that one of them takes.
    pub(super) fn microseconds(&self) -> &'static str {
        match self.load {
            Load::Out(_) | Load::In(_) => "us per MB",
            Load::TcpRoundTrips | Load::UdpRoundTrips => "us per round trip",
            Load::Connections(_) => "us per connection",
            Load::Requests(_) => "us per request",
        }
    }

    /// How many operations make one of the unit.
    pub(super) fn scale(&self) -> f64 {
        if self.load.is_bulk() { 1e6 } else { 1.0 }
    }
}

/// The machines of one kind and the figures that are taken on them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    /// The machines.
    pub(super) hardware: Hardware,
    /// The figures.
    pub(super) figures: Vec<Figure>,
}

/// All series, each one's best before equal offloads.
pub(super) fn all(cpus: &[u32]) -> Vec<Series> {
    let kinds = cpus
        .iter()
        .flat_map(|cpus| [(*cpus, Offloads::Best), (*cpus, Offloads::Plain)]);
    kinds
        .map(|(cpus, offloads)| series(cpus, offloads))
        .collect()
}

fn series(cpus: u32, offloads: Offloads) -> Series {
    let plain = match offloads {
        Offloads::Best => "",
        Offloads::Plain => "_plain",
    };
    let processors = suffix(cpus);
    let figures = LOADS.map(|(name, load, aim)| Figure {
        name: format!("{name}{plain}{processors}"),
        load,
        aim,
    });
    Series {
        hardware: Hardware {
            cpus,
            // What both execute at once is to be fast at once.
            accel: Accel::TcgThreads,
            offloads,
        },
        figures: figures.into(),
    }
}

/// How the names of figures end that are taken on so many processors.
fn suffix(cpus: u32) -> String {
    match cpus {
        1 => String::new(),
        _ => format!("_smp{cpus}"),
    }
}

/// The names as those of figures on so many processors, where that many are asked for: then they may be left out.
pub(super) fn on_processors(names: &[String], cpus: Option<u32>) -> Vec<String> {
    let suffix = cpus.map(suffix).unwrap_or_default();
    let whole = |name: &String| match name.ends_with(&suffix) {
        true => name.clone(),
        false => format!("{name}{suffix}"),
    };
    names.iter().map(whole).collect()
}

/// The series with the figures of these names alone; with all of them where there are no names. Refuses a name
/// that none has.
pub(super) fn choose(mut all: Vec<Series>, names: &[String]) -> Result<Vec<Series>> {
    let known = |name: &String| {
        let mut figures = all.iter().flat_map(|series| &series.figures);
        figures.any(|figure| figure.name == *name)
    };
    if let Some(name) = names.iter().find(|name| !known(name)) {
        let figures = all.iter().flat_map(|series| &series.figures);
        let known: Vec<&str> = figures.map(|figure| figure.name.as_str()).collect();
        bail!(
            "no figure is named `{name}`; there are: {}",
            known.join(" ")
        );
    }
    if !names.is_empty() {
        for series in &mut all {
            series.figures.retain(|figure| names.contains(&figure.name));
        }
        all.retain(|series| !series.figures.is_empty());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_chosen_by_name() {
        let names = ["tcp_rr_smp2", "udp_rr_plain"].map(str::to_owned);
        let chosen = choose(all(&[1, 2]), &names).unwrap();
        let found: Vec<_> = chosen
            .iter()
            .map(|series| {
                (
                    series.hardware.cpus,
                    series.hardware.offloads,
                    series.figures[0].name.as_str(),
                )
            })
            .collect();
        let expected = [
            (1, Offloads::Plain, "udp_rr_plain"),
            (2, Offloads::Best, "tcp_rr_smp2"),
        ];
        assert_eq!(found, expected);
        assert_eq!(choose(all(&[1]), &[]).unwrap().len(), 2);
    }

    #[test]
    fn processors_that_are_asked_for_need_not_be_named() {
        let names = ["tcp_rr", "tcp_out_1_smp2"].map(str::to_owned);
        let whole = on_processors(&names, Some(2));
        assert_eq!(whole, ["tcp_rr_smp2", "tcp_out_1_smp2"]);
        assert_eq!(on_processors(&names, Some(1)), names);
        assert_eq!(on_processors(&names, None), names);
    }

    #[test]
    fn a_name_that_no_figure_has_is_refused() {
        let error = choose(all(&[1]), &["tcp_rr_smp2".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("tcp_rr_plain"), "{error}");
    }
}
