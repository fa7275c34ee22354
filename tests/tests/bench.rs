//! The benchmark of the kernel's paths counts instructions, and counts the same ones each time. That of the network
//! measures servers that answer right.

use anyhow::ensure;
use iso::counts::value;
use tests::case;
use tests::case::say;

#[test]
fn instructions_are_counted_exactly() {
    let what = "`bench ipc` counts a stretch of known length right, and all paths alike twice";
    case("instructions_are_counted_exactly", what, || {
        let (first, second) = (iso::bench::ipc()?, iso::bench::ipc()?);
        ensure!(first == second, "{first:?}, then {second:?}");
        for figure in &first {
            say(&format!(
                "  {} {} {}",
                figure.name, figure.value, figure.unit
            ));
        }
        ensure!(value(&first, "calibration_error")? == 0, "{first:?}");
        // Longer messages cost more, and nothing is free.
        let calls = ["call_0", "call_64", "call_256", "call_960", "call_4000"];
        let mut costs = Vec::new();
        for name in calls {
            costs.push(value(&first, name)?);
        }
        ensure!(costs.is_sorted() && costs[0] > 100, "{calls:?}: {costs:?}");
        Ok(())
    });
}

#[test]
fn counts_hold_their_gates_and_have_not_grown() {
    let what = "no path is longer than its gate, or than what was recorded, and none grows with what there is";
    case("counts_hold_their_gates_and_have_not_grown", what, || {
        let figures = iso::bench::ipc()?;
        let above = iso::counts::above_budget(&figures);
        ensure!(above.is_empty(), "above their gates: {above:?}");
        for base in ["call_0", "signal_high"] {
            let alone = value(&figures, &format!("{base}_alone"))?;
            let among = format!("{base}_with_");
            let others = figures.iter().filter(|one| one.name.starts_with(&among));
            let mut count = 0;
            for figure in others {
                ensure!(
                    figure.value * 100 <= alone * 105,
                    "{} is {}, alone it is {alone}",
                    figure.name,
                    figure.value
                );
                count += 1;
            }
            // 10, 100 and 1,000 threads that wait or are ready; handles; tasks.
            ensure!(count == 8, "{count} figures of {base}");
        }
        let builder = iso::build::Builder::new()?;
        let recorded = iso::counts::Counts::read(&builder.workspace.root)?;
        recorded.check(&builder.toolchain.version, &figures)
    });
}

#[test]
fn nanoseconds_are_measured_across_processors() {
    let what = "`bench ipc --wall` measures calls, signals and unmapping across processors, and pairs beside each other";
    case("nanoseconds_are_measured_across_processors", what, || {
        let figures = iso::bench::wall()?;
        let names = [
            "call_0_ns",
            "cross_call",
            "cross_signal",
            "cross_unmap",
            "cross_unmap_4",
            "pairs_1",
            "pairs_2",
            "pairs_4",
        ];
        for name in names {
            ensure!(
                value(&figures, name)? > 0,
                "{name} took no time: {figures:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn servers_of_the_network_benchmark_answer_right() {
    let what = "what `bench net` measures on both guests: every count, echo and page is whole, and kicks, \
                interrupts and switches are seen";
    let name = "servers_of_the_network_benchmark_answer_right";
    case(name, what, || tests::bench::check(name));
}
