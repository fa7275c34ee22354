//! The in-emulator suite, on machines with few and with many processors, and its part that needs much
//! memory.

use anyhow::Result;
use iso::cli::{Accel, Nic};
use tests::images::{Kind, image};
use tests::{Bochs, Setup, case, suite};

fn passes(kind: Kind, change: impl FnOnce(Setup) -> Setup) -> Result<()> {
    let mut machine = change(Setup::new(image(kind)?)).start()?;
    suite::run(&mut machine.console)?.all_passed()
}

/// One test for each number of processors.
macro_rules! processors {
    ($($name:ident: $cpus:expr;)+) => {
        $(#[test]
        fn $name() {
            case(stringify!($name), concat!("the suite on ", $cpus, " CPUs"), || {
                passes(Kind::Suite, |setup| setup.cpus($cpus))
            });
        })+
    };
}

processors! {
    suite_1_cpu: 1;
    suite_2_cpus: 2;
    suite_8_cpus: 8;
    suite_32_cpus: 32;
}

#[test]
fn suite_2_cpus_at_once() {
    let what = "the suite on 2 CPUs, each on a thread of the host";
    case("suite_2_cpus_at_once", what, || {
        // The suite moves no PCI memory (see `Accel::TcgThreads`).
        passes(Kind::Suite, |setup| {
            setup
                .cpus(2)
                .with(|options| options.accel = Accel::TcgThreads)
        })
    });
}

/// One test for each model of processor: without FSGSBASE, SMAP, SMEP, XSAVE, RDTSCP in different numbers.
macro_rules! models {
    ($($name:ident: $model:literal;)+) => {
        $(#[test]
        fn $name() {
            case(stringify!($name), concat!("the suite on processors of model ", $model), || {
                passes(Kind::Suite, |setup| {
                    setup
                        .cpus(2)
                        .with(|options| options.cpu = Some($model.to_owned()))
                })
            });
        })+
    };
}

models! {
    suite_qemu64: "qemu64";
    suite_nehalem: "Nehalem";
    suite_haswell: "Haswell-noTSX";
}

#[test]
fn suite_bochs() {
    let what = "the suite in Bochs, on 2 CPUs with x2APIC, TSC deadline timer, PCID and INVPCID";
    case("suite_bochs", what, || {
        let mut machine = Bochs::start(&image(Kind::Suite)?, 2, "")?;
        machine.console.wait_for("timer: TSC deadline\n")?;
        machine.console.wait_for("CPUs: 2 of 2, x2APIC, PCID, ")?;
        suite::run(&mut machine.console)?.all_passed()
    });
}

#[test]
fn suite_6_gib() {
    case(
        "suite_6_gib",
        "a task maps and checks memory above 4 GiB, to the end of 6 GiB",
        || passes(Kind::Large, |setup| setup.memory(6 * 1024)),
    );
}

#[test]
fn suite_card() {
    let what =
        "every word of every ring between the card's driver and a network stack is corrupted";
    case("suite_card", what, || {
        passes(Kind::Card, |setup| setup.cpus(2))
    });
}

#[test]
fn suite_card_e1000() {
    let what = "the same for the driver of an e1000 card";
    case("suite_card_e1000", what, || {
        passes(Kind::CardE1000, |setup| {
            setup.cpus(2).with(|options| options.nic = Nic::E1000)
        })
    });
}
