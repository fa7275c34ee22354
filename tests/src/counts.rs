//! The kernel's counts of memory and objects, as `mem` prints them, before and after something that is
//! to leave nothing behind. How the shell is asked is `shell`'s.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::{Console, LIMIT, shell};

/// What `mem` rounds away, of each of its sizes, in bytes.
const ROUNDING: f64 = 0.11 * 1024.0 * 1024.0;

/// What `mem` said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts(BTreeMap<String, String>);

impl Counts {
    /// What `mem` says once nothing is being reclaimed.
    pub fn read(console: &mut Console) -> Result<Self> {
        let begin = Instant::now();
        loop {
            let counts = Self(shell::pairs(console, "mem")?);
            let settled = counts.0.get("being reclaimed");
            if settled.is_some_and(|count| count == "0") || begin.elapsed() >= LIMIT {
                return Ok(counts);
            }
            thread::sleep(Duration::from_millis(500));
        }
    }

    /// Waits until `mem` says this again. Fails with the first difference where it does not.
    pub fn come_back(&self, console: &mut Console) -> Result<()> {
        let begin = Instant::now();
        loop {
            let compared = self.compare(&Self::read(console)?);
            if compared.is_ok() || begin.elapsed() >= LIMIT {
                return compared;
            }
            thread::sleep(Duration::from_millis(500));
        }
    }

    fn compare(&self, after: &Self) -> Result<()> {
        for (name, old) in &self.0 {
            if name == "free" || name == "kernel objects" {
                continue;
            }
            let new = after.get(name)?;
            ensure!(old == new, "{name}: {old} before, {new} after");
        }
        let (old, new) = (self.kept()?, after.kept()?);
        ensure!(
            (old - new).abs() <= 2.0 * ROUNDING,
            "memory free or kept: {old} bytes before, {new} after"
        );
        Ok(())
    }

    fn get(&self, name: &str) -> Result<&String> {
        self.0
            .get(name)
            .with_context(|| format!("`mem` has no `{name}`"))
    }

    /// What the kernel keeps for objects to come is not lost, and not free either.
    fn kept(&self) -> Result<f64> {
        Ok(bytes(self.get("free")?)? + bytes(self.get("kernel objects")?)?)
    }
}

/// Reads a size as the shell prints it.
fn bytes(text: &str) -> Result<f64> {
    let (number, unit) = text
        .split_once(' ')
        .with_context(|| format!("`{text}` is no size"))?;
    let factor = match unit {
        "B" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => anyhow::bail!("`{unit}` is no unit"),
    };
    let number: f64 = number
        .parse()
        .with_context(|| format!("`{text}` is no size"))?;
    Ok(number * factor)
}
