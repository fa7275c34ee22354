//! What `bench ipc` counted when it was last recorded, by compiler: another compiler makes other code. The
//! counts are data in `tests/bench/counts.toml`; CI fails where the ones that matter grow.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::figures::Figure;

/// The file, from the workspace's root.
pub const FILE: &str = "tests/bench/counts.toml";

/// What writes it.
const COMMAND: &str = "cargo run -- bench ipc --record";

/// The figures that may not grow by more than 5 per cent.
pub const WATCHED: [&str; 5] = [
    "call_0",
    "call_32",
    "call_postcard",
    "signal_wait",
    "interrupt_thread",
];

/// In per cent; see [`WATCHED`].
const MOST_GROWTH: u64 = 5;

/// Counts by compiler and by figure.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Counts(BTreeMap<String, BTreeMap<String, u64>>);

impl Counts {
    /// Reads the file; no file is no counts.
    pub fn read(root: &Path) -> Result<Self> {
        let path = root.join(FILE);
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = std::fs::read_to_string(&path).with_context(|| format!("reading {FILE}"))?;
        toml::from_str(&text).with_context(|| format!("{FILE} is damaged; `{COMMAND}` writes it"))
    }

    /// Records what was counted with a compiler, in place of what was recorded before.
    pub fn record(&mut self, compiler: &str, figures: &[Figure]) {
        let counts = figures
            .iter()
            .map(|figure| (figure.name.clone(), figure.value));
        self.0.insert(compiler.to_owned(), counts.collect());
    }

    /// Writes the file.
    pub fn write(&self, root: &Path) -> Result<()> {
        let text = format!(
            "# Written by `{COMMAND}`: instructions, by compiler and figure.\n\n{}",
            toml::to_string(self)?
        );
        std::fs::write(root.join(FILE), text).with_context(|| format!("writing {FILE}"))
    }

    /// Compares what was counted with what was recorded for the compiler.
    ///
    /// # Errors
    /// An unknown compiler; a watched figure that grew by more than 5 per cent.
    pub fn check(&self, compiler: &str, figures: &[Figure]) -> Result<()> {
        let Some(recorded) = self.0.get(compiler) else {
            bail!("no counts are recorded for {compiler}: `{COMMAND}` records them in {FILE}");
        };
        for name in WATCHED {
            let before = recorded
                .get(name)
                .with_context(|| format!("{FILE} has no {name} for {compiler}: `{COMMAND}`"))?;
            let now = value(figures, name)?;
            ensure!(
                now * 100 <= before * (100 + MOST_GROWTH),
                "{name} has grown from {before} to {now} instructions, by more than {MOST_GROWTH} %; if it \
                 has to be so, `{COMMAND}` records it"
            );
        }
        Ok(())
    }
}

/// The figures that are above what they may be at most.
pub fn above_budget(figures: &[Figure]) -> Vec<&Figure> {
    let above = |figure: &&Figure| figure.budget.is_some_and(|budget| figure.value > budget);
    figures.iter().filter(above).collect()
}

/// The value of a figure.
pub fn value(figures: &[Figure], name: &str) -> Result<u64> {
    let figure = figures.iter().find(|figure| figure.name == name);
    figure
        .map(|figure| figure.value)
        .with_context(|| format!("no {name} was measured"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(value: u64) -> Vec<Figure> {
        let figure = |name: &&str| Figure::new(*name, value, "instructions");
        WATCHED.iter().map(figure).collect()
    }

    #[test]
    fn growth_beyond_five_per_cent_is_refused() {
        let mut counts = Counts::default();
        counts.record("rustc 1", &figures(400));
        assert!(counts.check("rustc 1", &figures(300)).is_ok());
        assert!(counts.check("rustc 1", &figures(420)).is_ok());
        let error = counts.check("rustc 1", &figures(421)).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("call_0 has grown from 400 to 421"),
            "{error}"
        );
    }

    #[test]
    fn an_unknown_compiler_is_refused_by_name() {
        let mut counts = Counts::default();
        counts.record("rustc 1", &figures(400));
        let error = counts
            .check("rustc 2", &figures(1))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("rustc 2") && error.contains("--record"),
            "{error}"
        );
    }

    #[test]
    fn a_figure_that_is_missing_is_no_success() {
        let mut counts = Counts::default();
        counts.record("rustc 1", &figures(400));
        assert!(counts.check("rustc 1", &figures(400)[1..]).is_err());
        counts.record("rustc 1", &figures(400)[1..]);
        assert!(counts.check("rustc 1", &figures(400)).is_err());
    }

    #[test]
    fn what_is_written_is_read_again() {
        let root = std::env::temp_dir().join(format!("uzura-counts-{}", std::process::id()));
        std::fs::create_dir_all(root.join(FILE).parent().unwrap()).unwrap();
        let mut counts = Counts::default();
        counts.record("rustc 1", &figures(400));
        counts.record("rustc 2 (x 2026-01-01)", &figures(7));
        counts.write(&root).unwrap();
        assert_eq!(Counts::read(&root).unwrap(), counts);
        std::fs::write(root.join(FILE), "[").unwrap();
        assert!(Counts::read(&root).is_err());
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(Counts::read(&root).unwrap(), Counts::default());
    }

    #[test]
    fn what_is_above_its_budget_is_named() {
        let figures = [
            Figure::new("a", 5, "x").budget(5),
            Figure::new("b", 6, "x").budget(5),
            Figure::new("c", 9, "x"),
        ];
        assert_eq!(above_budget(&figures), [&figures[1]]);
    }
}
