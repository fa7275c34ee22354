//! The kernel on two processors under coarse instruction counting: QEMU then changes from one processor to
//! the other at each deadline of a timer, a few hundred instructions apart, and does so at the same places
//! each time for a seed. What is tested is `tests/bench/task/src/interleave.rs`'s.

use anyhow::{Result, ensure};
use iso::cli::Accel;
use tests::case::say;
use tests::images::{Kind, image};
use tests::{Setup, case};

/// What an instruction takes: 2 to the power of this, in nanoseconds.
const SHIFTS: [u32; 2] = [8, 10];
/// Seeds with each.
const SEEDS: u32 = 50;

/// Runs one seed: what the guest said at the end, the time among it.
fn run(shift: u32, seed: u32) -> Result<String> {
    let setup = Setup::new(image(Kind::Interleave)?)
        .cpus(2)
        .append(&format!(
            "interleave.seed={seed} interleave.instruction_ns={}",
            1 << shift
        ))
        .with(|options| {
            options.accel = Accel::Tcg;
            let counting = ["-icount".to_owned(), format!("shift={shift},sleep=off")];
            options.qemu.extend(counting);
        });
    let mut machine = setup.start()?;
    let mut said = machine.console.wait_for("interleave: ")?;
    said.push_str(&machine.console.wait_for("\n")?);
    let last = said
        .rsplit("interleave: ")
        .next()
        .unwrap_or_default()
        .trim();
    ensure!(
        last.starts_with("done at "),
        "shift {shift}, seed {seed}: {last}"
    );
    Ok(last.to_owned())
}

#[test]
fn processors_take_turns_at_any_instruction() {
    let what =
        "calls, signals, priorities and affinities on two CPUs that change every few instructions";
    case("processors_take_turns_at_any_instruction", what, || {
        for shift in SHIFTS {
            for seed in 1..=SEEDS {
                let said = run(shift, seed)?;
                say(&format!("  shift {shift}, seed {seed}: {said} ns"));
            }
        }
        Ok(())
    });
}

#[test]
fn the_same_seed_takes_the_same_turns() {
    let what = "the same seed ends at the same nanosecond of the guest, another one does not";
    case("the_same_seed_takes_the_same_turns", what, || {
        let (one, again, other) = (run(10, 7)?, run(10, 7)?, run(10, 8)?);
        ensure!(one == again, "{one}, then {again}");
        ensure!(one != other, "seeds 7 and 8 both: {one}");
        Ok(())
    });
}
