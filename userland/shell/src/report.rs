//! What the commands print: the services' answers, set for a person. Every line ends with CR LF.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use ipc::info::SystemInfo;
use ipc::interface::network::{Drops, InterfaceInfo, PingReply};
use ipc::interface::supervisor::{SystemReport, TaskState, TaskStatus, TimeReport};
use ipc::layout::PAGE_BYTES;

use crate::command::HELP;
use crate::text::{Align, cpu_time, date, duration, size, table};

/// The list of commands.
pub fn help() -> String {
    let heads = [("COMMAND", Align::Left), ("WHAT IT DOES", Align::Left)];
    let rows: Vec<Vec<String>> = HELP
        .iter()
        .map(|(usage, text)| Vec::from([usage.to_string(), text.to_string()]))
        .collect();
    table(&heads, &rows)
}

/// The table of `ps`.
pub fn tasks(list: &[TaskStatus]) -> String {
    let heads = [
        ("NAME", Align::Left),
        ("STATE", Align::Left),
        ("CPU", Align::Right),
        ("MEMORY", Align::Right),
        ("PRIORITY", Align::Right),
        ("ROOT", Align::Right),
        ("RESTARTS", Align::Right),
    ];
    let row = |task: &TaskStatus| {
        Vec::from([
            task.name.to_string(),
            state(task.state).to_string(),
            cpu_time(task.cpu_time_ns),
            size(task.used_bytes),
            task.priority.to_string(),
            format!("{:#x}", task.root),
            task.restarts.to_string(),
        ])
    };
    let rows: Vec<Vec<String>> = list.iter().map(row).collect();
    table(&heads, &rows)
}

/// One word for a task's state.
const fn state(state: TaskState) -> &'static str {
    match state {
        TaskState::Running => "running",
        TaskState::BackingOff => "waiting",
        TaskState::Ended => "ended",
        TaskState::GivenUp => "given-up",
    }
}

/// Sets names and values, a line each.
fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, value): &(&str, String)| format!("{name:<width$}  {value}\r\n");
    pairs.iter().map(line).collect()
}

/// What `info` says.
pub fn system(report: &SystemReport, time: &TimeReport) -> String {
    let counters = &report.counters;
    pairs(&[
        ("uzura", report.version.to_string()),
        ("CPUs", counters.cpus.to_string()),
        ("memory", size(counters.frames_total * PAGE_BYTES)),
        ("clock", time.source.to_string()),
        ("uptime", duration(time.monotonic_ns)),
        ("tasks", counters.tasks.to_string()),
        ("threads", counters.threads.to_string()),
        ("command line", report.command_line.to_string()),
    ])
}

/// What `mem` says.
pub fn memory(counters: &SystemInfo) -> String {
    let frames = |count: u64| size(count * PAGE_BYTES);
    pairs(&[
        ("memory", frames(counters.frames_total)),
        ("free", frames(counters.frames_free)),
        ("in quarantine", frames(counters.frames_quarantined)),
        ("kernel objects", size(counters.slab_bytes)),
        ("tasks", counters.tasks.to_string()),
        ("threads", counters.threads.to_string()),
        ("endpoints", counters.endpoints.to_string()),
        ("badges", counters.badges.to_string()),
        ("notifications", counters.notifications.to_string()),
        ("memory objects", counters.memories.to_string()),
        ("mappings", counters.mappings.to_string()),
        ("replies", counters.replies.to_string()),
        ("interrupts", counters.interrupts.to_string()),
        ("port ranges", counters.io_ports.to_string()),
        ("handles", counters.handles.to_string()),
        ("being reclaimed", counters.reclaiming.to_string()),
    ])
}

/// What `date` says.
pub fn time(time: &TimeReport) -> String {
    match time.wall_ns {
        Some(nanoseconds) => format!("{}\r\n", date(nanoseconds)),
        None => String::from("this machine has no wall clock\r\n"),
    }
}

/// What `net` says.
pub fn network(info: &InterfaceInfo) -> String {
    let none = || String::from("none");
    let address = match info.address {
        Some(address) => {
            let how = if info.dynamic { "DHCP" } else { "fixed" };
            format!("{address}/{} ({how})", info.prefix)
        }
        None => none(),
    };
    let link = match (info.attached, info.link_up) {
        (false, _) => "no driver",
        (true, false) => "down",
        (true, true) => "up",
    };
    let mac: Vec<String> = info.mac.iter().map(|byte| format!("{byte:02x}")).collect();
    let servers: Vec<String> = info.name_servers.iter().map(ToString::to_string).collect();
    let ipv6: Vec<String> = info
        .ipv6
        .iter()
        .map(|(address, prefix)| format!("{address}/{prefix}"))
        .collect();
    let counters = &info.counters;
    let traffic = |packets, bytes| format!("{packets} packets, {}", size(bytes));
    pairs(&[
        ("link", String::from(link)),
        ("hardware", mac.join(":")),
        ("MTU", info.mtu.to_string()),
        ("address", address),
        (
            "gateway",
            info.gateway
                .map_or_else(none, |gateway| gateway.to_string()),
        ),
        ("IPv6", joined(&ipv6)),
        (
            "IPv6 gateway",
            info.ipv6_gateway
                .map_or_else(none, |gateway| gateway.to_string()),
        ),
        ("name servers", joined(&servers)),
        (
            "received",
            traffic(counters.received_packets, counters.received_bytes),
        ),
        ("sent", traffic(counters.sent_packets, counters.sent_bytes)),
        ("dropped", dropped(&counters.drops)),
        ("sockets", counters.sockets.to_string()),
        ("attachments", counters.attachments.to_string()),
    ])
}

/// How many packets were dropped, and for which reasons.
fn dropped(drops: &Drops) -> String {
    let reasons = drops
        .reasons()
        .into_iter()
        .filter(|(_, number)| *number > 0);
    let reasons: Vec<String> = reasons
        .map(|(reason, number)| format!("{number} {reason}"))
        .collect();
    match reasons.is_empty() {
        true => drops.total().to_string(),
        false => format!("{} ({})", drops.total(), reasons.join(", ")),
    }
}

/// A list, or that there is nothing.
fn joined(list: &[String]) -> String {
    if list.is_empty() {
        String::from("none")
    } else {
        list.join(", ")
    }
}

/// A line of `ping`.
pub fn ping(reply: &PingReply) -> String {
    let microseconds = reply.time_ns / 1000;
    format!(
        "{} bytes from {}: ttl {}, {}.{:03} ms\r\n",
        reply.bytes,
        reply.from,
        reply.hop_limit,
        microseconds / 1000,
        microseconds % 1000
    )
}

#[cfg(test)]
mod tests {
    use super::{help, network, ping, tasks, time};
    use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    use ipc::interface::network::{Counters, InterfaceInfo, PingReply};
    use ipc::interface::supervisor::{TaskState, TaskStatus, TimeReport};

    #[test]
    fn ps_has_a_line_for_each_task_with_all_columns() {
        let status = TaskStatus {
            name: "virtio-net".try_into().unwrap(),
            number: 7,
            state: TaskState::Running,
            restarts: 2,
            priority: 45,
            threads: 2,
            handles: 9,
            quota_bytes: 1 << 22,
            used_bytes: 3 << 19,
            cpu_time_ns: 1_234_567_890,
            root: 0x12_3000,
        };
        let text = tasks(&[status]);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(
            lines[0],
            [
                "NAME", "STATE", "CPU", "MEMORY", "PRIORITY", "ROOT", "RESTARTS"
            ]
        );
        assert_eq!(
            lines[1],
            [
                "virtio-net",
                "running",
                "1.234",
                "1.5",
                "MiB",
                "45",
                "0x123000",
                "2"
            ]
        );
    }

    #[test]
    fn the_network_without_an_address_is_said_so() {
        let info = InterfaceInfo {
            attached: true,
            link_up: true,
            mac: [0x52, 0x54, 0, 0x12, 0x34, 0x56],
            mtu: 1500,
            address: None,
            prefix: 0,
            gateway: None,
            ipv6: [].into_iter().collect(),
            ipv6_gateway: None,
            dynamic: true,
            name_servers: [].into_iter().collect(),
            counters: Counters::default(),
        };
        let text = network(&info);
        assert!(text.contains("link          up\r\n"));
        assert!(text.contains("52:54:00:12:34:56"));
        assert!(text.contains("address       none\r\n"));
        assert!(text.contains("dropped       0\r\n"));
        let mut counters = Counters::default();
        (counters.drops.fragments, counters.drops.unsent) = (3, 4);
        let text = network(&InterfaceInfo {
            counters,
            address: Some(Ipv4Addr::new(10, 0, 2, 15)),
            prefix: 24,
            ipv6: [(Ipv6Addr::LOCALHOST, 64), (Ipv6Addr::UNSPECIFIED, 128)]
                .into_iter()
                .collect(),
            ..info
        });
        assert!(text.contains("10.0.2.15/24 (DHCP)"));
        assert!(text.contains("dropped       7 (3 fragments, 4 unsent)\r\n"));
        assert!(text.contains("::1/64, ::/128\r\n"));
        assert!(text.contains("IPv6 gateway  none\r\n"));
    }

    #[test]
    fn times_and_pings() {
        let reply = PingReply {
            from: IpAddr::V4(Ipv4Addr::new(10, 0, 2, 2)),
            bytes: 56,
            hop_limit: 255,
            time_ns: 1_234_567,
        };
        assert_eq!(
            ping(&reply),
            "56 bytes from 10.0.2.2: ttl 255, 1.234 ms\r\n"
        );
        let mut now = TimeReport::default();
        assert!(time(&now).contains("no wall clock"));
        now.wall_ns = Some(0);
        assert_eq!(time(&now), "1970-01-01 00:00:00 UTC\r\n");
    }

    #[test]
    fn help_names_every_command() {
        for (usage, _) in crate::command::HELP {
            assert!(help().contains(usage));
        }
    }
}
