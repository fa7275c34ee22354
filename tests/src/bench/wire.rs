//! A network for the benchmark alone: a namespace of the host's with a cable (a tap device) to each guest.
//! What is sent on the cables is others' business.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, bail, ensure};

use crate::{images, namespace};

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

/// Runs `body` in a new network with both cables.
pub(super) fn inside<R: Send>(body: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    namespace::inside(|| {
        [UZURA, LINUX].iter().try_for_each(Cable::make)?;
        body()
    })
}

impl Cable {
    fn make(&self) -> Result<()> {
        let Self { name, host, .. } = self;
        namespace::tap(name)?;
        namespace::ip(&format!("address add {host}/24 dev {name}"))
    }

    /// QEMU's description of the network behind its end of the cable, as `net0`.
    pub(super) fn netdev(&self) -> String {
        namespace::netdev(self.name)
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
