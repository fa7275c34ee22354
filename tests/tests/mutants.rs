//! The suite can fail: each deliberate breakage of the kernel makes the test fail that is about it.
//!
//! Each breakage is run with that one test, on two processors; and before, the same kernel without a
//! breakage must pass all of these tests, so that a failure is the breakage's doing.

use anyhow::{Result, ensure};
use iso::cli::Accel;
use kernel_core::mutant::Mutant;
use tests::case::say;
use tests::images::{Kind, image};
use tests::{Setup, case, suite};

/// Which test of the suite finds which breakage.
const KILLERS: [(&str, &str); 13] = [
    ("rights", "rights_are_checked"),
    ("length", "too_long_messages_are_refused"),
    ("write-and-execute", "writable_and_executable_is_refused"),
    ("reply-one-shot", "reply_answers_once"),
    ("wait-arbitration", "old_deadline_does_not_end_a_new_wait"),
    ("shootdown", "unmapped_memory_is_gone_on_every_cpu"),
    ("end-of-interrupt", "interrupts_keep_coming"),
    ("quota-charge", "child_quota_comes_from_the_makers"),
    ("frame-zeroing", "new_memory_is_zero"),
    ("port-switch", "ports_are_switched_with_the_task"),
    ("handle-generation", "closed_handle_is_stale"),
    ("badge-mint", "badges_tell_the_sender"),
    ("clock-agreement", "clock_never_goes_back_between_cpus"),
];

fn machine(append: &str) -> Result<tests::Machine> {
    // A thread of the host for each processor: the suite moves no PCI memory (see `Accel::TcgThreads`), and
    // two processors that run at once show more.
    Setup::new(image(Kind::Mutants)?)
        .cpus(2)
        .append(append)
        .with(|options| options.accel = Accel::TcgThreads)
        .start()
}

#[test]
fn every_breakage_has_its_test() {
    for (name, _) in Mutant::ALL {
        assert!(
            KILLERS.iter().any(|(killed, _)| *killed == name),
            "no test is named for the breakage `{name}`"
        );
    }
    assert_eq!(KILLERS.len(), Mutant::ALL.len());
}

#[test]
fn mutants_are_killed() {
    let what = "each of thirteen breakages of the kernel makes a named test fail";
    case("mutants_are_killed", what, || {
        let mut survivors = Vec::new();
        for (mutant, test) in KILLERS {
            suite::run(&mut machine(&format!("suite={test}"))?.console)?.all_passed()?;
            let mut broken = machine(&format!("suite={test} mutant={mutant}"))?;
            let failure = format!("FAIL {test}");
            let printed = broken.console.wait_for_any(&[&failure, " passed, "])?;
            let killed = printed.ends_with(&failure);
            let verdict = if killed { "killed" } else { "SURVIVED" };
            say(&format!("  {mutant:<18} {verdict} by {test}"));
            if !killed {
                survivors.push(mutant);
            }
        }
        ensure!(
            survivors.is_empty(),
            "not noticed: {}",
            survivors.join(", ")
        );
        Ok(())
    });
}
