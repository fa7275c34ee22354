//! What else the host was busy with while a guest was measured: where that is much, figures are worth little.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};

/// CPU time of the host and of the clients, at a moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    at: Instant,
    /// All CPUs' time that was not idle, in ticks.
    busy: u64,
    /// This process's and its ended children's, in ticks.
    own: u64,
}

/// Linux's unit of time in these files, USER_HZ (time(7)): an amd64 kernel has no other.
const TICKS_PER_SECOND: f64 = 100.0;

impl Moment {
    /// Now.
    pub(super) fn now() -> Result<Self> {
        Ok(Self {
            at: Instant::now(),
            busy: busy(&fs::read_to_string("/proc/stat")?)?,
            own: own(&fs::read_to_string("/proc/self/stat")?)?,
        })
    }

    /// How many CPUs others kept busy since then, where the guest took so many nanoseconds.
    pub(super) fn others(&self, guest: u64) -> Result<f64> {
        let now = Self::now()?;
        let ticks = (now.busy - self.busy).saturating_sub(now.own - self.own);
        let others = ticks as f64 / TICKS_PER_SECOND - guest as f64 / 1e9;
        Ok((others / (now.at - self.at).as_secs_f64()).max(0.0))
    }
}

fn numbers(words: &str) -> impl Iterator<Item = u64> {
    words
        .split_ascii_whitespace()
        .map_while(|word| word.parse().ok())
}

/// Ticks that were not idle, of `/proc/stat` (proc(5)): the first line's user, nice, system, idle, iowait, irq,
/// softirq.
fn busy(stat: &str) -> Result<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "));
    let ticks: Vec<u64> = numbers(line.context("the host does not count its CPU time")?).collect();
    let idle = ticks.iter().skip(3).take(2).sum::<u64>();
    Ok(ticks.iter().take(7).sum::<u64>() - idle)
}

/// Ticks of a process and its children, of `/proc/PID/stat` (proc(5)): fields 14 to 17, the second of which is a
/// name in parentheses.
fn own(stat: &str) -> Result<u64> {
    let (_, fields) = stat.rsplit_once(") ").context("a process without a name")?;
    let fields = fields
        .split_once(' ')
        .context("a process without a state")?;
    let signed = fields.1.split_ascii_whitespace().skip(10).take(4);
    let ticks: Vec<u64> = signed.map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_left_out() {
        let stat = "cpu  100 1 20 5000 300 4 5 0 0 0\ncpu0 1 1 1 1 1 1 1 0 0 0\n";
        assert_eq!(busy(stat).unwrap(), 130);
        assert!(busy("intr 1 2 3\n").is_err());
    }

    #[test]
    fn ended_children_are_counted() {
        let stat =
            "42 (net (x) y) S 1 42 42 0 -1 4194560 1000 20 0 0 70 8 900 1000 20 0 3 0 1 2 3\n";
        assert_eq!(own(stat).unwrap(), 1978);
        assert!(own("42").is_err());
    }
}
