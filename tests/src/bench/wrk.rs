//! wrk, the HTTP client that the web is measured with: how it is run and what it says.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use iso::{packages, process};

use super::load::{Done, PAGE};
use crate::LIMIT;

/// Makes sure that it is there.
pub(super) fn need() -> Result<()> {
    packages::need("wrk", &["wrk"])
}

/// Requests on so many connections, each kept, for so long, in whole seconds.
pub(super) fn run(guest: Ipv4Addr, connections: usize, time: Duration) -> Result<Done> {
    let mut command = Command::new("wrk");
    command.args([
        "--threads=1".to_owned(),
        format!("--connections={connections}"),
        format!("--duration={}s", time.as_secs().max(1)),
        format!("http://{guest}:{PAGE}/"),
    ]);
    let said = process::output(&mut command, LIMIT)?;
    read(&said).with_context(|| format!("wrk says: {said}"))
}

/// Reads the summary.
fn read(said: &str) -> Result<Done> {
    for mistake in ["Socket errors", "Non-2xx"] {
        ensure!(!said.contains(mistake), "not all requests were answered");
    }
    let mut lines = said.lines().map(str::trim);
    let rate = lines
        .clone()
        .find_map(|line| line.strip_prefix("Requests/sec:"))
        .context("there is no rate")?;
    let operations = lines
        .find_map(|line| line.split_once(" requests in "))
        .context("there is no count")?;
    Ok(Done {
        rate: rate.trim().parse()?,
        operations: operations.0.parse()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "Running 2s test @ http://10.77.0.2:80/\n  1 threads and 8 connections\n\
                        \x20 Thread Stats   Avg      Stdev     Max   +/- Stdev\n\
                        \x20   Latency     1.62ms    2.10ms  40.01ms   96.72%\n\
                        \x20 11171 requests in 2.00s, 12.09MB read\n\
                        Requests/sec:   5583.20\nTransfer/sec:      6.04MB\n";

    #[test]
    fn the_summary_is_read() {
        let done = read(SAID).unwrap();
        assert_eq!((done.rate, done.operations), (5583.2, 11171));
    }

    #[test]
    fn requests_that_failed_are_no_result() {
        for mistake in [
            "  Socket errors: connect 0, read 3, write 0, timeout 0\n",
            "  Non-2xx or 3xx responses: 7\n",
        ] {
            assert!(read(&format!("{SAID}{mistake}")).is_err(), "{mistake}");
        }
        assert!(read("").is_err());
    }
}
