//! `cargo run -- test`: the tests that `cargo test` leaves out because they are long, and single
//! campaigns of those that it has. What is tested is in `tests/`; this only starts cargo.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cli::{TestKind, TestOptions};
use crate::{process, say, workspace};

/// How long one campaign may take, the longest included.
const LIMIT: Duration = Duration::from_secs(4 * 60 * 60);

/// Runs what is asked for.
pub fn command(options: &TestOptions) -> Result<()> {
    match options.kind {
        TestKind::Full => cargo(&[], "everything that `cargo test` runs")
            .and_then(|()| cargo(&["--package", "tests", "--test", "soak"], "the soak")),
        TestKind::Mutants => cargo(
            &["--package", "tests", "--test", "mutants"],
            "the suite against every breakage",
        ),
        TestKind::Matrix => cargo(
            &[
                "--package",
                "tests",
                "--test",
                "matrix",
                "--",
                "--nocapture",
                // Times are compared.
                "--test-threads=1",
            ],
            "every machine, and Linux beside",
        ),
    }
}

fn cargo(arguments: &[&str], what: &str) -> Result<()> {
    say::progress(&format!("testing {what}"));
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command
        .arg("test")
        .args(arguments)
        .current_dir(workspace::root());
    process::run(&mut command, LIMIT).with_context(|| format!("{what}: not all is well"))
}
