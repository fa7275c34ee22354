//! A network for the benchmark alone: a namespace of the host's with a cable (a tap device) to each guest. It
//! goes when the thread that is in it ends, and with the process however that ends: nothing of it has a name
//! outside. What is sent on the cables is others' business.

use std::fs::File;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, anyhow, bail, ensure};
use iso::{packages, process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{LIMIT, images};

/// What a person does about it when the host does not let the network be made.
const MEND: &str = "the benchmark's network is a namespace with tap devices, which takes root's rights: run this as \
                    root, or as `unshare --map-root-user COMMAND` where users may have namespaces; /dev/net/tun \
                    must be there";

/// A cable from the host to a guest, in a network of 24 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cable {
    /// The tap device.
    pub(super) name: &'static str,
    /// The host's address.
    pub(super) host: Ipv4Addr,
    /// The guest's address.
    pub(super) guest: Ipv4Addr,
}

/// The cable of the guest that is Uzura.
pub(super) const UZURA: Cable = Cable {
    name: "uzura0",
    host: images::NETWORK_HOST,
    guest: images::NETWORK_GUEST,
};

/// The cable of the guest that is Linux.
pub(super) const LINUX: Cable = Cable {
    name: "linux0",
    host: Ipv4Addr::new(10, 77, 1, 1),
    guest: Ipv4Addr::new(10, 77, 1, 2),
};

/// Runs `body` on a thread that is in a new network with both cables, as are the threads and the processes
/// that it starts.
pub(super) fn inside<R: Send>(body: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    packages::need("ip", &["iproute2"])?;
    packages::need("unshare", &["util-linux"])?;
    let made = || {
        enter().context(MEND)?;
        [UZURA, LINUX].iter().try_for_each(Cable::make)?;
        body()
    };
    let name = thread::current().name().map(str::to_owned);
    thread::scope(|scope| {
        let named = thread::Builder::new().name(name.unwrap_or_else(|| "bench".to_owned()));
        let thread = named.spawn_scoped(scope, made)?;
        thread
            .join()
            .map_err(|_| anyhow!("the benchmark panicked"))?
    })
}

/// Moves the calling thread into a new network namespace.
///
/// A process of its own makes it, because a thread of this one cannot without unsafe code; this thread joins
/// it, which keeps it, and the process ends.
fn enter() -> Result<()> {
    let mut command = Command::new("unshare");
    command.args(["--net", "cat"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut holder = process::start(&mut command)?;
    let (input, output) = (holder.stdin.take(), holder.stdout.take());
    let (mut input, mut output) = input.zip(output).context("`unshare` has no pipes")?;
    // What comes back says that the namespace is made. A process that has ended cannot be written to.
    let mut word = *b"?";
    let answered = input
        .write_all(&word)
        .and_then(|()| output.read_exact(&mut word));
    let joined = match answered {
        Ok(()) => join(holder.id()),
        Err(_) => Err(anyhow!("no namespace was made")),
    };
    drop(input);
    process::wait(&mut holder, LIMIT)?;
    let mut said = String::new();
    if let Some(mut errors) = holder.stderr.take() {
        errors.read_to_string(&mut said)?;
    }
    joined.with_context(|| format!("`{}` says: {}", process::line(&command), said.trim()))
}

/// Joins the network namespace of a process.
fn join(process: u32) -> Result<()> {
    let namespace = File::open(format!("/proc/{process}/ns/net"))?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .context("cannot join a network namespace")
}

fn ip(words: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(words.split(' '));
    process::output(&mut command, LIMIT).map(drop)
}

impl Cable {
    fn make(&self) -> Result<()> {
        let Self { name, host, .. } = self;
        ip(&format!("tuntap add dev {name} mode tap")).context(MEND)?;
        ip(&format!("address add {host}/24 dev {name}"))?;
        // The host says nothing by itself that would wake a guest.
        ip(&format!("link set dev {name} addrgenmode none"))?;
        ip(&format!("link set dev {name} up"))
    }

    /// QEMU's description of the network behind its end of the cable, as `net0`.
    pub(super) fn netdev(&self) -> String {
        format!("tap,id=net0,ifname={},script=no,downscript=no", self.name)
    }

    /// Packets that went over the cable so far, both ways, as the host's end counts them. One that is to be
    /// segmented later, or was joined of several, is one.
    pub(super) fn packets(&self) -> Result<u64> {
        let table = std::fs::read_to_string("/proc/thread-self/net/dev")?;
        packets(&table, self.name)
    }
}

/// Packets received and sent by a device, from the table that Linux's `/proc/net/dev` is (proc(5)).
fn packets(table: &str, device: &str) -> Result<u64> {
    let counters = table
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'))
        .with_context(|| format!("the host has no device {device}"))?;
    let counters: Vec<&str> = counters.split_ascii_whitespace().collect();
    ensure!(counters.len() >= 16, "counters of {device}: {counters:?}");
    let number = |place: usize| counters[place].parse::<u64>();
    match (number(1), number(9)) {
        (Ok(received), Ok(sent)) => Ok(received + sent),
        _ => bail!("counters of {device}: {counters:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_counted_both_ways() {
        let table = "Inter-|   Receive  |  Transmit\n face |bytes packets errs drop fifo frame compressed multicast|...\n\
                     \x20   lo: 1 2 0 0 0 0 0 0 3 4 0 0 0 0 0 0\n\
                     uzura0: 100 20 0 0 0 0 0 0 300 40 0 0 0 0 0 0\n";
        assert_eq!(packets(table, "uzura0").unwrap(), 60);
        assert!(packets(table, "linux0").is_err());
        assert!(packets("uzura0: 1 2 3\n", "uzura0").is_err());
    }
}
