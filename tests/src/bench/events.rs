//! What QEMU's trace events tell of a virtio device: how often the guest kicked it, and how often it interrupted
//! the guest (QEMU 7.2, hw/virtio/trace-events). Debian's QEMU writes each event to its log.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;

use anyhow::Result;

use crate::qmp::Qmp;

/// The guest told the device of new buffers in a queue.
const KICK: &str = "virtio_queue_notify";
/// The device interrupts the guest.
const INTERRUPT: &str = "virtio_notify";

/// How often things happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Events {
    /// Kicks of the device.
    pub(super) kicks: u64,
    /// Interrupts.
    pub(super) interrupts: u64,
}

/// QEMU's options that make it write events to this file. It does at once: see [`watch`].
pub(super) fn options(log: &Path) -> Vec<String> {
    let log = log.display().to_string().replace(',', ",,");
    let mut options = vec!["-D".to_owned(), log];
    for event in [KICK, INTERRUPT] {
        options.extend(["-trace".to_owned(), format!("enable={event}")]);
    }
    options
}

/// Makes QEMU write events from now on, or no more.
pub(super) fn watch(qmp: &mut Qmp, on: bool) -> Result<()> {
    let state = if on { "on" } else { "off" };
    for event in [KICK, INTERRUPT] {
        qmp.monitor(&format!("trace-event {event} {state}"))?;
    }
    Ok(())
}

/// Counts the events in the log from a byte on.
pub(super) fn count(mut log: &File, from: u64) -> Result<Events> {
    log.seek(SeekFrom::Start(from))?;
    let mut events = Events::default();
    for line in BufReader::new(log).lines() {
        events.add(&line?);
    }
    Ok(events)
}

impl Events {
    /// Counts a line, `EVENT ARGUMENTS` with or without the process and the time before it.
    fn add(&mut self, line: &str) {
        let event = line.split(' ').next().unwrap_or_default();
        match event.rsplit(':').next() {
            Some(KICK) => self.kicks += 1,
            Some(INTERRUPT) => self.interrupts += 1,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_counted_by_their_names() {
        let mut events = Events::default();
        for line in [
            "virtio_queue_notify vdev 0x55d5 n 1 vq 0x7f01",
            "4711@1700000000.123456:virtio_notify vdev 0x55d5 vq 0x7f01",
            "virtio_notify vdev 0x55d5 vq 0x7f01",
            "virtio_notify_irqfd vdev 0x55d5 vq 0x7f01",
            "virtio_set_status vdev 0x55d5 val 15",
            "",
        ] {
            events.add(line);
        }
        let expected = Events {
            kicks: 1,
            interrupts: 2,
        };
        assert_eq!(events, expected);
    }
}
