//! The manifest's text form: one struct field a key of the TOML file. What the keys mean is in
//! `iso/README.md`; whether the values make sense together is `check`'s.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use serde::Deserialize;
use serde::de::{Deserializer, Error};

/// The whole file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The tasks, in the order in which they are started.
    #[serde(default)]
    pub task: Vec<Task>,
}

/// One `[[task]]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// What the task is called.
    pub name: String,
    binary: Option<String>,
    /// 0 (least) to 62.
    pub priority: u8,
    /// CPUs its threads may run on; `None` for all.
    pub cpus: Option<Vec<u8>>,
    /// Quota.
    pub memory: Size,
    /// Quota that is enough; `None` for all of it.
    pub memory_least: Option<Size>,
    /// Size of the first thread's stack.
    pub stack: Size,
    /// Size of the heap.
    pub heap: Size,
    /// Size of the heap with the least quota; `None` for all of it.
    pub heap_least: Option<Size>,
    /// What is done when it ends.
    pub restart: Restart,
    /// Tasks at whose restart it is restarted too.
    #[serde(default)]
    pub restart_with: Vec<String>,
    /// Services whose calls it receives.
    #[serde(default)]
    pub provides: Vec<String>,
    /// Services that it may call.
    #[serde(default)]
    pub uses: Vec<String>,
    /// What it may do at services that it may call.
    #[serde(default)]
    pub grants: BTreeMap<String, Vec<String>>,
    /// I/O ports.
    #[serde(default)]
    pub io_ports: Vec<Ports>,
    /// I/O APIC inputs.
    #[serde(default)]
    pub interrupts: Vec<u32>,
    /// Control objects.
    #[serde(default)]
    pub authority: Vec<Authority>,
    /// What its program is told.
    #[serde(default)]
    pub arguments: BTreeMap<String, String>,
}

impl Task {
    /// The program: the task's name, where nothing else is written.
    pub fn binary(&self) -> &str {
        self.binary.as_deref().unwrap_or(&self.name)
    }

    /// The quota that is enough.
    pub fn memory_least(&self) -> Size {
        self.memory_least.unwrap_or(self.memory)
    }

    /// The size of the heap with that.
    pub fn heap_least(&self) -> Size {
        self.heap_least.unwrap_or(self.heap)
    }
}

/// What is done when a task ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    /// It is started again.
    Always,
    /// It stays away.
    Never,
}

/// A right to one of the kernel's control objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Authority {
    /// Devices' memory, ports and interrupts, and DMA.
    DeviceControl,
    /// The scheduler's tunables.
    SchedControl,
    /// Halting, rebooting, the log and the counters.
    SystemControl,
    /// Reading the system's counters.
    SystemInspect,
    /// The kernel's trace rings.
    Trace,
    /// Writing to the kernel's log.
    Log,
    /// Making tasks out of the own quota.
    TaskCreate,
}

/// An amount of memory, written as `"64 KiB"`, `"2 MiB"`, `"1 GiB"` or a number of bytes in quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

/// The units of a [`Size`], largest first.
const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let (digits, unit) = UNITS
            .iter()
            .find_map(|(name, bytes)| {
                text.strip_suffix(name)
                    .map(|digits| (digits.trim_end(), *bytes))
            })
            .unwrap_or((&text, 1));
        let number: Option<u64> = digits.parse().ok();
        number
            .and_then(|number| number.checked_mul(unit))
            .map(Size)
            .ok_or_else(|| {
                D::Error::custom(format!(
                    "`{text}` is no amount of memory; write it as \"64 KiB\" or \"2 MiB\""
                ))
            })
    }
}

impl Display for Size {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let whole = UNITS
            .iter()
            .find(|(_, bytes)| self.0 != 0 && self.0.is_multiple_of(*bytes));
        match whole {
            Some((name, bytes)) => write!(formatter, "{} {name}", self.0 / bytes),
            None => write!(formatter, "{} bytes", self.0),
        }
    }
}

/// A range of I/O ports, written as `"0x3f8-0x3ff"` with both ends included, or as one port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let port = |text: &str| u16::from_str_radix(text.trim().strip_prefix("0x")?, 16).ok();
        let (first, last) = text.split_once('-').unwrap_or((&text, &text));
        match (port(first), port(last)) {
            (Some(first), Some(last)) => Ok(Self { first, last }),
            _ => Err(D::Error::custom(format!(
                "`{text}` is no range of ports; write it as \"0x3f8-0x3ff\""
            ))),
        }
    }
}

impl Display for Ports {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:#x}-{:#x}", self.first, self.last)
    }
}
