//! Figures as commands print them: a table for people, or one JSON array on standard output and
//! nothing else there. What they measure is the commands' business.

use anyhow::Result;
use serde::Serialize;

/// One measured figure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// How much it is.
    pub value: u64,
    /// Of what.
    pub unit: &'static str,
    /// How much it should be at most.
    pub budget: Option<u64>,
}

impl Figure {
    /// A figure without a budget.
    pub fn new(name: impl Into<String>, value: u64, unit: &'static str) -> Self {
        Self {
            name: name.into(),
            value,
            unit,
            budget: None,
        }
    }

    /// With a budget.
    pub fn budget(self, budget: u64) -> Self {
        Self {
            budget: Some(budget),
            ..self
        }
    }
}

/// Prints `figures`.
pub fn print(figures: &[Figure], json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(figures)?);
        return Ok(());
    }
    for Figure {
        name,
        value,
        unit,
        budget,
    } in figures
    {
        let budget = budget.map_or(String::new(), |budget| format!("  (at most {budget})"));
        println!("{name:34}{value:>10} {unit}{budget}");
    }
    Ok(())
}
