//! What boots is as small as it is meant to be.

use anyhow::ensure;
use iso::counts::{above_budget, value};
use iso::sizes;
use tests::images::{Kind, image};
use tests::{case, case::say};

#[test]
fn what_boots_is_within_its_budgets() {
    let what = "kernel, and kernel with archive, against the budgets of `cargo run -- sizes`";
    case("what_boots_is_within_its_budgets", what, || {
        let image = image(Kind::System)?;
        let figures = sizes::binaries(&image)?;
        for name in ["file_kernel", "archive", "boot_files"] {
            say(&format!("  {name} {} bytes", value(&figures, name)?));
        }
        // What is compared is what is loaded, and each budget is there to be exceeded.
        let kernel = std::fs::metadata(&image.kernel)?.len();
        ensure!(value(&figures, "file_kernel")? == kernel, "{figures:?}");
        let files = kernel + value(&figures, "archive")?;
        ensure!(value(&figures, "boot_files")? == files, "{figures:?}");
        let budgets = figures.iter().filter(|figure| figure.budget.is_some());
        ensure!(budgets.count() == 2, "{figures:?}");
        let above = above_budget(&figures);
        ensure!(above.is_empty(), "above budget: {above:?}");
        Ok(())
    });
}
