//! The benchmark of the kernel's paths counts instructions, and counts the same ones each time.

use anyhow::{Result, ensure};
use iso::figures::Figure;
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

fn value(figures: &[Figure], name: &str) -> Result<u64> {
    let figure = figures.iter().find(|figure| figure.name == name);
    figure
        .map(|figure| figure.value)
        .ok_or_else(|| anyhow::anyhow!("no {name} in {figures:?}"))
}
