//! What the kernel does between two marks, as `tests/plugin` sees it in QEMU: locked instructions, writes of
//! CR3 and of model-specific registers for each call, and the cache lines that calls on two processors,
//! through different endpoints, both write.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{boot, gated, measuring};
use crate::build::Builder;
use crate::cli::RunOptions;
use crate::figures::Figure;
use crate::{process, say};

/// The manifest of the tasks that call each other, from the workspace's root.
const MANIFEST: &str = "tests/bench/pairs.toml";
/// Calls between the marks (`tests/bench/task/src/pairs.rs`).
const CALLS: u64 = 50;
/// How long the plugin may take to build.
const BUILDING: Duration = Duration::from_secs(600);
/// Processors that call.
const CPUS: u32 = 2;

/// What one processor did between its marks.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    locked: u64,
    cr3: u64,
    msr: u64,
    lines: BTreeSet<u64>,
}

/// Measures.
pub(super) fn figures(builder: &Builder) -> Result<Vec<Figure>> {
    let plugin = build(builder)?;
    // Of this run alone: others may look at the same time.
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let out = plugin.with_extension(format!("{}-{run}.seen", std::process::id()));
    let options = RunOptions {
        cpus: CPUS,
        qemu: vec![
            "-plugin".to_owned(),
            format!("{},out={}", plugin.display(), out.display()),
        ],
        ..measuring()
    };
    say::progress("looking at what calls on two processors execute and write");
    boot(builder, MANIFEST, "pairs", &options, |next| {
        let (mut done, mut console) = (0, String::new());
        while done < CPUS {
            let line = next().map_err(|_| anyhow::anyhow!("the guest fell silent: {console}"))?;
            let failed = line.contains("FAIL") || line.contains("panic");
            done += u32::from(line.trim_end().ends_with(": done"));
            console.push_str(&line);
            console.push('\n');
            ensure!(!failed, "the guest failed: {console}");
        }
        Ok(())
    })?;
    let text = std::fs::read_to_string(&out).context("the plugin has written nothing")?;
    std::fs::remove_file(&out)?;
    evaluate(&text)
}

/// Builds the plugin for this machine.
fn build(builder: &Builder) -> Result<PathBuf> {
    let target = builder.workspace.target.join("plugin");
    let mut command = builder.toolchain.cargo();
    command
        .current_dir(&builder.workspace.root)
        .args(["build", "--quiet", "--release", "--package", "path-plugin"])
        .arg("--target-dir")
        .arg(&target);
    process::run(&mut command, BUILDING)?;
    Ok(target.join("release").join("libpath_plugin.so"))
}

/// Makes figures of the plugin's lines, `CPU LOCKED CR3 MSR LINE...`, one for each processor.
fn evaluate(text: &str) -> Result<Vec<Figure>> {
    let mut all: Vec<Seen> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace().skip(1);
        let mut number = || -> Result<u64> {
            let word = words.next().context("a number is missing")?;
            Ok(word.parse()?)
        };
        let (locked, cr3, msr) = (number()?, number()?, number()?);
        let lines = words.map(|word| u64::from_str_radix(word, 16));
        all.push(Seen {
            locked,
            cr3,
            msr,
            lines: lines.collect::<Result<_, _>>()?,
        });
    }
    let [one, other] = &all[..] else {
        anyhow::bail!("{} processors were seen, not {CPUS}: {text}", all.len());
    };
    ensure!(
        !one.lines.is_empty() && !other.lines.is_empty(),
        "calls that write nothing were not seen: {text}"
    );
    let per_call = |name: &str, count: fn(&Seen) -> u64| {
        // Both do the same; what a timer's interrupt added, if one came, is in one of them.
        let least = count(one).min(count(other));
        gated(Figure::new(name, least.div_ceil(CALLS), "instructions"))
    };
    let common = one.lines.intersection(&other.lines);
    for line in common.clone() {
        say::progress(&format!("both write the cache line at {line:#x}"));
    }
    Ok(vec![
        per_call("locked_per_call", |seen| seen.locked),
        per_call("cr3_per_call", |seen| seen.cr3),
        per_call("msr_per_call", |seen| seen.msr),
        Figure::new("lines_per_call", one.lines.len() as u64, "cache lines"),
        gated(Figure::new(
            "common_lines_of_calls",
            common.count() as u64,
            "cache lines",
        )),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_both_write_are_counted() {
        let figures = evaluate("0 200 100 0 1000 1040\n1 200 101 0 1040 2000 2040\n").unwrap();
        let value = |name: &str| crate::counts::value(&figures, name).unwrap();
        assert_eq!(value("locked_per_call"), 4);
        assert_eq!(value("cr3_per_call"), 2);
        assert_eq!(value("msr_per_call"), 0);
        assert_eq!(value("common_lines_of_calls"), 1);
        assert_eq!(crate::counts::above_budget(&figures).len(), 1);
    }

    #[test]
    fn a_processor_that_was_not_seen_is_no_result() {
        assert!(evaluate("").is_err());
        assert!(evaluate("0 200 100 0 1000\n").is_err());
        assert!(evaluate("0 200 100 0\n1 200 100 0\n").is_err());
        assert!(evaluate("0 200 x 0 1000\n1 200 100 0 2000\n").is_err());
    }
}
