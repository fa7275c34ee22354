//! `cargo run -- bench net`: how fast the network is, beside a Linux guest in the same QEMU, on cables of the
//! same host. The two take turns, measurement by measurement, and the one whose turn it is not stands still: what
//! else the computer does meets both, and their ratio is the result.

mod answers;
mod events;
mod figure;
mod flushes;
mod guest;
mod host;
mod load;
mod table;
mod wire;
mod wrk;

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use iso::cli::{Accel, BenchOptions};
use iso::image::Image;
use iso::{packages, qemu, say};

use crate::images::{Kind, image};
use crate::linux::{self, Linux};
use crate::namespace;
use figure::{Figure, Series};
use guest::{Guest, Hardware, Offloads, System};
use load::Load;
use table::Row;

/// How often each guest is measured, for how long at a time.
#[derive(Debug, Clone, Copy)]
struct Effort {
    repetitions: usize,
    time: Duration,
}

/// What figures are to be shown from.
const THOROUGH: Effort = Effort {
    repetitions: 9,
    time: Duration::from_millis(700),
};
/// What a change is looked at with.
const QUICK: Effort = Effort {
    repetitions: 5,
    time: Duration::from_millis(400),
};
/// How often the device is looked at.
const TRACES: usize = 3;

/// Measures what is asked for and prints it. Fails where a gate is missed.
pub fn command(options: &BenchOptions) -> Result<()> {
    let cpus = match options.smp {
        Some(cpus) => vec![cpus],
        None => vec![1, 2],
    };
    let only = figure::on_processors(&options.only, options.smp);
    let chosen = figure::choose(figure::all(&cpus), &only)?;
    let effort = if options.quick { QUICK } else { THOROUGH };
    let systems = prepared()?;
    if !namespace::is_permitted()? {
        return namespace::run_again(env::args_os().skip(1));
    }
    let rows = wire::inside(|| {
        let mut rows = Vec::new();
        for series in &chosen {
            rows.extend(measure(series, &systems, effort));
        }
        Ok(rows)
    })?;
    table::print(&rows, options.json)?;
    let missed: Vec<String> = rows.iter().flat_map(Row::missed).collect();
    ensure!(missed.is_empty(), "gates missed: {}", missed.join(", "));
    Ok(())
}

/// Both guests, and all that measuring them needs: what is missing can be installed now, and not any more by
/// who is only root of a namespace.
fn prepared() -> Result<[System; 2]> {
    wrk::need()?;
    packages::need(qemu::PROGRAM, &[qemu::PACKAGE])?;
    Ok([uzura()?, peer()?])
}

/// Shows that both guests serve what is measured, and that what is looked at from outside is seen: the body of
/// the test of this name.
pub fn check(test: &str) -> Result<()> {
    let systems = prepared()?;
    namespace::tested(test, || wire::inside(|| serve(&systems)))
}

/// Asks the servers of both guests, on both kinds of machine.
fn serve(systems: &[System; 2]) -> Result<()> {
    for (cpus, offloads) in [(1, Offloads::Best), (2, Offloads::Plain)] {
        for system in systems {
            let hardware = Hardware {
                cpus,
                accel: Accel::Tcg,
                offloads,
            };
            let mut guest = Guest::start(system, hardware)?;
            guest.while_running(|guest| answers::check(guest.address()))?;
            sees(&mut guest, system.has_shell)?;
        }
    }
    Ok(())
}

/// Round trips are seen on the cable, by the device, by the translator and by Uzura.
fn sees(guest: &mut Guest, is_uzura: bool) -> Result<()> {
    let traced = guest.trace(Load::TcpRoundTrips, Duration::ZERO)?;
    let trips = traced.operations;
    ensure!(trips > 0 && traced.packets >= 2 * trips, "{traced:?}");
    ensure!(
        traced.events.kicks > 0 && traced.events.interrupts > 0,
        "{traced:?}"
    );
    if is_uzura {
        // There and back through several tasks.
        ensure!(traced.switches > trips, "{traced:?}");
        ensure!(
            traced.tasks.iter().any(|(task, _)| task == "netstack"),
            "{traced:?}"
        );
    }
    let measured = guest.measure(Load::TcpRoundTrips, Duration::ZERO)?;
    ensure!(
        measured.time.guest > 0 && measured.time.device > 0,
        "{measured:?}"
    );
    Ok(())
}

fn uzura() -> Result<System> {
    Ok(System {
        name: "Uzura",
        image: image(Kind::Network)?,
        append: String::new(),
        serves: "bench-net: serving\n",
        cable: wire::UZURA,
        has_shell: true,
    })
}

fn peer() -> Result<System> {
    let linux = Linux::build()?;
    Ok(System {
        name: "Linux",
        image: Image {
            kernel: linux.kernel,
            archive: Some(linux.archive),
            // Nobody debugs it.
            symbols: PathBuf::new(),
        },
        append: linux::command_line(wire::LINUX.guest, wire::LINUX.host),
        serves: linux::SERVES,
        cable: wire::LINUX,
        has_shell: false,
    })
}

/// Boots both guests and takes the figures. After one that fails both are booted anew.
fn measure(series: &Series, systems: &[System; 2], effort: Effort) -> Vec<Row> {
    let start = || -> Result<[Guest; 2]> {
        let [own, linux] = systems;
        let own = Guest::start(own, series.hardware)?;
        Ok([own, Guest::start(linux, series.hardware)?])
    };
    let mut guests = start();
    let mut rows = Vec::new();
    for figure in &series.figures {
        let row = match &mut guests {
            Ok(guests) => beside(figure, guests, effort),
            Err(error) => Row::failed(figure, error),
        };
        say::progress(&row.line());
        if guests.is_ok() && row.failure.is_some() {
            // Two emulators run at a time: these have to end first.
            drop(guests);
            guests = start();
        }
        rows.push(row);
    }
    rows
}

/// Takes one figure of both guests, in turns.
fn beside(figure: &Figure, guests: &mut [Guest; 2], effort: Effort) -> Row {
    let mut row = Row::new(figure);
    let mut take = |row: &mut Row| -> Result<()> {
        for _ in 0..effort.repetitions {
            for (guest, side) in guests.iter_mut().zip(&mut row.sides) {
                side.measured.push(guest.measure(figure.load, effort.time)?);
            }
        }
        for _ in 0..TRACES {
            for (guest, side) in guests.iter_mut().zip(&mut row.sides) {
                side.traced.add(guest.trace(figure.load, effort.time)?);
            }
        }
        Ok(())
    };
    match take(&mut row) {
        Ok(()) => row,
        Err(error) => Row::failed(figure, &error),
    }
}
