//! The network's driver, killed while it works.

use anyhow::{Result, ensure};

use crate::{Machine, http};

/// Downloads so many bytes from the guest and kills the driver of this name each time that a stride more
/// of them has arrived. The download has to arrive whole. Returns how often the driver was killed.
pub fn killed_in_download(
    machine: &mut Machine,
    name: &str,
    length: u64,
    stride: u64,
) -> Result<u64> {
    let url = machine.url(&format!("/bytes/{length}"))?;
    let (mut next, mut kills) = (stride, 0);
    let got = http::download(&http::client(), &url, |total| {
        if total < next || total == length {
            return Ok(());
        }
        next = total + stride;
        if kills > 0 {
            // What the host had buffered arrives while the driver is still down, and may be more
            // than a stride: the next kill waits until there is a driver to kill.
            machine.console.wait_for("attached to the driver, time")?;
        }
        kills += 1;
        machine.console.send_line(&format!("kill {name}"))?;
        machine
            .console
            .wait_for(&format!("{name} died (killed)"))
            .map(drop)
    })?;
    ensure!(
        got == http::expected(length),
        "{} bytes arrived, with another SHA-256",
        got.length
    );
    Ok(kills)
}
