//! What the shell's commands print, taken apart: the tables and lists that the tests look into. The
//! typing is `console`'s.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};

use crate::Console;

/// A line of `ps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// `running`, or what else it is doing.
    pub state: String,
    /// CPU time in milliseconds.
    pub cpu_time: u64,
    /// Memory in use, as it is printed.
    pub memory: String,
    /// Its priority.
    pub priority: u8,
    /// Its page-table root.
    pub root: u64,
    /// How often it was restarted.
    pub restarts: u64,
}

/// Types `ps` and reads its table.
pub fn ps(console: &mut Console) -> Result<Vec<Task>> {
    parse_ps(&console.command("ps")?)
}

/// Types a command that prints names and values, a line each, and reads them.
pub fn pairs(console: &mut Console, command: &str) -> Result<BTreeMap<String, String>> {
    let printed = console.command(command)?;
    Ok(printed.lines().filter_map(columns_of_pair).collect())
}

fn columns_of_pair(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once("  ")?;
    Some((name.to_owned(), value.trim().to_owned()))
}

fn parse_ps(printed: &str) -> Result<Vec<Task>> {
    // Lines that tasks log meanwhile can come between.
    let mut lines = printed
        .lines()
        .skip_while(|line| !line.starts_with("NAME  "));
    ensure!(lines.next().is_some(), "`ps` printed no table:\n{printed}");
    Ok(lines.filter_map(task).collect())
}

/// Columns are at least two blanks apart.
fn task(line: &str) -> Option<Task> {
    let cells: Vec<&str> = line
        .split("  ")
        .map(str::trim)
        .filter(|cell| !cell.is_empty())
        .collect();
    let [name, state, cpu_time, memory, priority, root, restarts] = cells.as_slice() else {
        return None;
    };
    let (seconds, thousandths) = cpu_time.split_once('.')?;
    Some(Task {
        name: (*name).to_owned(),
        state: (*state).to_owned(),
        cpu_time: seconds.parse::<u64>().ok()? * 1000 + thousandths.parse::<u64>().ok()?,
        memory: (*memory).to_owned(),
        priority: priority.parse().ok()?,
        root: u64::from_str_radix(root.strip_prefix("0x")?, 16).ok()?,
        restarts: restarts.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_of_tasks_is_read() {
        let printed = "NAME        STATE       CPU   MEMORY  PRIORITY      ROOT  RESTARTS\n\
                       virtio-net  running  12.345  3.5 MiB        45  0x30a000         2\n";
        let expected = Task {
            name: "virtio-net".to_owned(),
            state: "running".to_owned(),
            cpu_time: 12_345,
            memory: "3.5 MiB".to_owned(),
            priority: 45,
            root: 0x30_a000,
            restarts: 2,
        };
        assert_eq!(parse_ps(printed).unwrap(), [expected]);
        assert!(parse_ps("error: no\n").is_err());
    }

    #[test]
    fn names_and_values_are_read() {
        let pair = columns_of_pair("kernel objects   12 KiB").unwrap();
        assert_eq!(pair, ("kernel objects".to_owned(), "12 KiB".to_owned()));
    }
}
