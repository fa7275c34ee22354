//! The in-emulator suite, as the host sees it: boots its image and reads what it prints. The tests
//! of the suite are tasks, in `tests/suite`.

use anyhow::{Context, Result, ensure};

use crate::Console;

/// What one run of the suite came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How many tests passed, by the suite's own count.
    pub passed: usize,
    /// How many failed.
    pub failed: usize,
    /// The names of those that failed.
    pub failures: Vec<String>,
}

impl Report {
    /// Fails unless every test passed and there was one.
    pub fn all_passed(&self) -> Result<()> {
        ensure!(
            self.failed == 0,
            "{} of the suite's tests failed: {}",
            self.failed,
            self.failures.join(", ")
        );
        ensure!(self.passed > 0, "the suite ran no test");
        Ok(())
    }
}

/// Waits for the suite to end on a machine that boots it.
pub fn run(console: &mut Console) -> Result<Report> {
    let mut printed = String::new();
    // Line by line: no line takes long, however long all of them take in a slow emulator.
    while !printed.lines().last().is_some_and(is_count) {
        printed.push_str(&console.wait_for("\n")?);
    }
    parse(&printed)
}

/// Whether a line is the last one.
fn is_count(line: &str) -> bool {
    line.contains(" passed, ") && line.ends_with(" failed")
}

/// Reads lines `FAIL NAME: WHY` and the last one, `N passed, N failed`.
fn parse(printed: &str) -> Result<Report> {
    let failures = printed
        .lines()
        .filter_map(|line| line.strip_prefix("FAIL "));
    let name = |line: &str| line.split([':', ' ']).next().unwrap_or_default().to_owned();
    let failures = failures.map(name).collect();
    let last = printed.lines().last().unwrap_or_default();
    let counts = last
        .strip_suffix(" failed")
        .and_then(|line| line.split_once(" passed, "));
    let (passed, failed) = counts.with_context(|| format!("`{last}` is no count of the suite"))?;
    let passed = passed.rsplit(' ').next().unwrap_or_default();
    let number = |text: &str| {
        text.parse()
            .with_context(|| format!("`{text}` in `{last}`"))
    };
    Ok(Report {
        passed: number(passed)?,
        failed: number(failed)?,
        failures,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_names_are_read() {
        let report =
            parse("uzura 0.1.0\nPASS one\nFAIL two: 3 is not 4\nsuite: 1 passed, 1 failed\n")
                .unwrap();
        assert_eq!(
            report,
            Report {
                passed: 1,
                failed: 1,
                failures: vec!["two".to_owned()]
            }
        );
        assert!(report.all_passed().is_err());
    }

    /// The suite lets threads die in every state that the kernel's description lists.
    #[test]
    fn states_are_those_of_the_kernel() {
        let readme = include_str!("../../kernel/README.md");
        let (_, table) = readme.split_once("## Wait states of a thread").unwrap();
        let (_, table) = table.split_once("|---").unwrap();
        let mut listed: Vec<&str> = table
            .lines()
            .skip(1)
            .map_while(|line| line.strip_prefix("| ")?.split(" |").next())
            .collect();
        let source = include_str!("../suite/task/src/deaths.rs");
        let (_, states) = source.split_once("\nstates! {\n").unwrap();
        let mut tried: Vec<&str> = states
            .lines()
            .map_while(|line| line.trim().strip_prefix('"')?.split('"').next())
            .collect();
        listed.sort_unstable();
        tried.sort_unstable();
        tried.dedup();
        assert_eq!(tried, listed);
    }

    #[test]
    fn suite_without_tests_does_not_pass() {
        assert!(parse("0 passed, 0 failed\n").unwrap().all_passed().is_err());
    }
}
