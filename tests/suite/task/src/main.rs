//! The in-emulator suite: runs each test, says how it went, and at the end how many passed. The tests
//! are in the modules; what a run prints is described in `tests/README.md`.
//!
//! After every test the kernel's counts of all objects must be what they were before it, unless the
//! manifest says that the suite is not alone (`alone = "no"`).
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(
    not(target_os = "none"),
    allow(dead_code, unused, reason = "on the host there is no kernel to test")
)]

extern crate alloc;

mod card;
mod child;
mod connections;
mod deaths;
mod devices;
mod failure;
mod fault;
mod floods;
mod handles;
mod hostile;
mod large;
mod memory;
mod messages;
mod notifications;
mod operations;
mod processors;
mod quotas;
mod raw;
mod replies;
mod stopping;
mod streams;
mod suite;
mod table;
mod time;

use alloc::string::String;

use ipc::info::SystemInfo;
use runtime::startup;

use crate::child::Program;
use crate::failure::{Failure, Outcome};
use crate::streams::is_given;
use crate::suite::Suite;

runtime::task_main!(run);

/// What a test is given.
#[derive(Debug)]
pub(crate) struct Context {
    /// The suite's authority.
    pub(crate) suite: Suite,
    /// The program, for children.
    pub(crate) program: Program,
}

/// A test: its name and what it does.
pub(crate) type Test = (&'static str, fn(&Context) -> Outcome);

/// The tests that run everywhere, in their order.
const ALL: &[&[Test]] = &[
    handles::TESTS,
    messages::TESTS,
    replies::TESTS,
    notifications::TESTS,
    time::TESTS,
    memory::TESTS,
    processors::TESTS,
    devices::TESTS,
    quotas::TESTS,
    hostile::TESTS,
    floods::TESTS,
    deaths::TESTS,
    table::TESTS,
];

/// Runs what is to be run and reports.
fn run(_: &'static ipc::startup::Startup<'static>) {
    let suite = match Suite::new() {
        Ok(suite) => suite,
        Err(failure) => {
            runtime::log!("{}", failure.0);
            return;
        }
    };
    fault::by(&suite);
    let program = match Program::copy(&suite) {
        Ok(program) => program,
        Err(failure) => {
            suite.say(format_args!("FAIL program_is_copied: {}", failure.0));
            suite.say(format_args!("0 passed, 1 failed"));
            return;
        }
    };
    if let Err(error) = devices::attach_clock(&suite) {
        suite.say(format_args!("FAIL clock_is_attached: {error:?}"));
    }
    let only = chosen(&suite);
    let context = Context { suite, program };
    wait_for_init(&context);
    let (mut passed, mut failed) = (0, 0);
    for (name, test) in tests(only.as_deref()) {
        match run_one(&context, *test) {
            Ok(()) => {
                passed += 1;
                context.suite.say(format_args!("PASS {name}"));
            }
            Err(failure) => {
                failed += 1;
                context
                    .suite
                    .say(format_args!("FAIL {name}: {}", failure.0));
            }
        }
    }
    context
        .suite
        .say(format_args!("{passed} passed, {failed} failed"));
}

/// Lets init finish with what it does after starting a task: the counts are to be the suite's alone.
fn wait_for_init(context: &Context) {
    for _ in 0..10 {
        let before = context.suite.counts().unwrap_or_default();
        context.suite.sleep(20);
        if left(&before, &context.suite.counts().unwrap_or_default()).is_empty() {
            return;
        }
    }
}

/// The one test that the kernel command line (`suite=NAME`) or the manifest asks for.
fn chosen(suite: &Suite) -> Option<String> {
    match startup().argument("only") {
        Some(only) => Some(String::from(only)),
        None => suite.option("suite="),
    }
}

/// The tests to be run. Those of a server's rings run where the suite is that server's client; what
/// needs a special machine runs only when it is asked for.
fn tests(only: Option<&str>) -> impl Iterator<Item = &'static Test> {
    let of_service = |service, tests: &'static [Test]| if is_given(service) { tests } else { &[] };
    let special = [
        of_service(streams::SERVICE, streams::TESTS),
        of_service(card::SERVICES[0], card::TESTS),
        of_service(card::SERVICES[1], card::TESTS),
    ];
    let asked_for = match only {
        Some(_) => [large::TESTS, stopping::TESTS, connections::TESTS],
        None => [&[][..]; 3],
    };
    let all = ALL
        .iter()
        .copied()
        .chain(special)
        .chain(asked_for)
        .flatten();
    all.filter(move |(name, _)| only.is_none_or(|only| only == *name))
}

/// Runs a test and checks that it left nothing behind, unless others run beside the suite: the counts
/// are theirs too.
fn run_one(context: &Context, test: fn(&Context) -> Outcome) -> Outcome {
    if startup().argument("alone") == Some("no") {
        return test(context);
    }
    let before = context.suite.counts()?;
    let outcome = test(context);
    let now = || context.suite.counts().unwrap_or(before);
    let settled = context
        .suite
        .wait_for(child::PATIENCE, || left(&before, &now()).is_empty());
    outcome?;
    if settled {
        return Ok(());
    }
    Err(Failure::new(&alloc::format!(
        "it left behind:{}",
        left(&before, &now())
    )))
}

/// What there is more or less of than before.
fn left(before: &SystemInfo, after: &SystemInfo) -> String {
    const COUNTED: [&str; 11] = [
        "tasks",
        "threads",
        "endpoints",
        "badges",
        "notifications",
        "memories",
        "mappings",
        "replies",
        "interrupts",
        "io_ports",
        "handles",
    ];
    let (before, after) = (before.to_words(), after.to_words());
    let mut text = String::new();
    for (field, (before, after)) in SystemInfo::FIELDS.iter().zip(before.iter().zip(after)) {
        if COUNTED.contains(field) && *before != after {
            text.push_str(&alloc::format!(" {field} {before} -> {after}"));
        }
    }
    text
}
