//! One system test: says what runs and how it ended, past the test runner's capture, so that the log
//! of a run names every pass. What a test does is its own.

use std::io::Write;
use std::time::Instant;

use anyhow::Result;

/// Runs `body` as the test `name`, which checks `what`. Fails the test with the error and its causes.
pub fn case(name: &str, what: &str, body: impl FnOnce() -> Result<()>) {
    say(&format!("RUN  {name}: {what}"));
    let begin = Instant::now();
    if let Err(error) = body() {
        say(&format!("FAIL {name}"));
        let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
        panic!("{name}: {}", causes.join("\n  because: "));
    }
    say(&format!("PASS {name} ({} s)", begin.elapsed().as_secs()));
}

/// Writes a line that the test runner does not capture.
pub fn say(line: &str) {
    // Only the log suffers when standard error is gone.
    writeln!(std::io::stderr(), "{line}").ok();
}
