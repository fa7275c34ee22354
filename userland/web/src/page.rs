//! The page about the running system, as HTML. What it tells is asked elsewhere.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

use ipc::interface::network::InterfaceInfo;
use ipc::interface::supervisor::{SystemReport, TaskState, TaskStatus};

/// What the page tells; what could not be asked is left out.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The system as a whole.
    pub system: Option<SystemReport>,
    /// The tasks.
    pub tasks: Vec<TaskStatus>,
    /// The network.
    pub network: Option<InterfaceInfo>,
    /// Requests that this server answered.
    pub requests: u64,
    /// Connections open now.
    pub connections: usize,
}

/// Bytes of a frame.
const FRAME_BYTES: u64 = 4096;

const HEAD: &str = "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
<title>Uzura</title><style>body{font-family:monospace;margin:2em}\
td,th{padding:.1em 1em .1em 0;text-align:right}td:first-child,th:first-child{text-align:left}\
</style></head><body>\n<h1>Uzura</h1>\n";

/// Writes the page.
pub fn render(snapshot: &Snapshot) -> String {
    let mut page = String::with_capacity(4096);
    page.push_str(HEAD);
    // Writing to a string does not fail.
    if let Some(system) = &snapshot.system {
        let _ = write_system(&mut page, system);
    }
    let _ = write_tasks(&mut page, &snapshot.tasks);
    if let Some(network) = &snapshot.network {
        let _ = write_network(&mut page, network);
    }
    let _ = write!(
        page,
        "<p>This server: {} requests, {} connections open.</p>\n</body></html>\n",
        snapshot.requests, snapshot.connections
    );
    page
}

fn write_system(page: &mut String, report: &SystemReport) -> core::fmt::Result {
    let counters = &report.counters;
    let (free, total) = (
        (counters.frames_free * FRAME_BYTES) >> 10,
        (counters.frames_total * FRAME_BYTES) >> 10,
    );
    writeln!(
        page,
        "<p>Version {}, up {}, {} CPUs, {free} of {total} KiB of memory free, {} threads.</p>",
        Escaped(&report.version),
        Seconds(counters.uptime_ns),
        counters.cpus,
        counters.threads,
    )
}

fn write_tasks(page: &mut String, tasks: &[TaskStatus]) -> core::fmt::Result {
    page.push_str(
        "<h2>Tasks</h2>\n<table><tr><th>task</th><th>state</th><th>priority</th><th>CPU</th>\
         <th>KiB used</th><th>of</th><th>threads</th><th>handles</th><th>restarts</th></tr>\n",
    );
    for task in tasks {
        writeln!(
            page,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td>\
             <td>{}</td><td>{}</td></tr>",
            Escaped(&task.name),
            state(task.state),
            task.priority,
            Seconds(task.cpu_time_ns),
            task.used_bytes >> 10,
            task.quota_bytes >> 10,
            task.threads,
            task.handles,
            task.restarts,
        )?;
    }
    page.push_str("</table>\n");
    Ok(())
}

fn write_network(page: &mut String, network: &InterfaceInfo) -> core::fmt::Result {
    let counters = &network.counters;
    page.push_str("<h2>Network</h2>\n<p>");
    match network.address {
        Some(address) => write!(page, "Address {address}/{}", network.prefix)?,
        None => page.push_str("No address"),
    }
    let [a, b, c, d, e, f] = network.mac;
    writeln!(
        page,
        ", Ethernet {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}, packets of {} bytes.</p>\n\
         <table><tr><th></th><th>packets</th><th>bytes</th></tr>\n\
         <tr><td>received</td><td>{}</td><td>{}</td></tr>\n\
         <tr><td>sent</td><td>{}</td><td>{}</td></tr></table>\n\
         <p>{} dropped, {} sockets, driver attached {} times.</p>",
        network.mtu,
        counters.received_packets,
        counters.received_bytes,
        counters.sent_packets,
        counters.sent_bytes,
        counters.drops.total(),
        counters.sockets,
        counters.attachments,
    )
}

fn state(state: TaskState) -> &'static str {
    match state {
        TaskState::Running => "running",
        TaskState::BackingOff => "restarting",
        TaskState::Ended => "ended",
        TaskState::GivenUp => "given up",
    }
}

/// Nanoseconds, shown as seconds with three decimals.
struct Seconds(u64);

impl core::fmt::Display for Seconds {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let milliseconds = self.0 / 1_000_000;
        write!(
            formatter,
            "{}.{:03} s",
            milliseconds / 1000,
            milliseconds % 1000
        )
    }
}

/// Text with what HTML would take for its own replaced.
struct Escaped<'a>(&'a str);

impl core::fmt::Display for Escaped<'_> {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        for character in self.0.chars() {
            match character {
                '<' => formatter.write_str("&lt;")?,
                '>' => formatter.write_str("&gt;")?,
                '&' => formatter.write_str("&amp;")?,
                '"' => formatter.write_str("&quot;")?,
                other => formatter.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Snapshot, render};
    use ipc::interface::supervisor::{SystemReport, TaskState, TaskStatus};

    #[test]
    fn the_page_names_the_tasks_and_cannot_be_broken_out_of() {
        let task = TaskStatus {
            name: "<script>".try_into().unwrap(),
            number: 7,
            state: TaskState::Running,
            restarts: 2,
            priority: 35,
            threads: 1,
            handles: 9,
            quota_bytes: 1 << 20,
            used_bytes: 1 << 19,
            cpu_time_ns: 1_234_567_890,
            root: 4096,
        };
        let system = SystemReport {
            version: "0.1.0".try_into().unwrap(),
            ..Default::default()
        };
        let snapshot = Snapshot {
            system: Some(system),
            tasks: vec![task],
            ..Snapshot::default()
        };
        let page = render(&snapshot);
        assert!(
            page.contains("<td>&lt;script&gt;</td><td>running</td><td>35</td><td>1.234 s</td>")
        );
        assert!(page.contains("Version 0.1.0") && page.ends_with("</html>\n"));
        assert!(!page.contains("Network"));
    }
}
