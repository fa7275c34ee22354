//! Every number that is a matter of policy: name, unit, range, default and what it does, in one
//! table. The command line sets them at boot, SchedControl at run time; both can read them back.
//!
//! What this leaves to others: using the values. A value is read where it is used, each time, unless
//! its text says that it counts at boot only.

use crate::clock::source::Source;
use crate::sync::{AtomicU64, Ordering};
use core::fmt;

/// What a tunable's value counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Microseconds.
    Microseconds,
    /// Frames of 4,096 bytes.
    Frames,
    /// Things of the kind that the name says.
    Count,
    /// Nothing: the value stands for a choice.
    Choice,
}

/// What else than its range restricts a tunable's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Nothing.
    Any,
    /// It is a power of two.
    PowerOfTwo,
    /// On the command line these words stand for 0, 1 and so on; numbers are taken too.
    Words(&'static [&'static str]),
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Group, a dot, and a name within it.
    pub name: &'static str,
    /// What the value counts.
    pub unit: Unit,
    /// Smallest value.
    pub smallest: u64,
    /// Largest value.
    pub largest: u64,
    /// Value until something else is set.
    pub default: u64,
    /// What else restricts the value.
    pub rule: Rule,
    /// What it does.
    pub documentation: &'static str,
}

impl Definition {
    /// Whether the tunable may have the value.
    pub const fn admits(&self, value: u64) -> bool {
        let fits = match self.rule {
            Rule::Any | Rule::Words(_) => true,
            Rule::PowerOfTwo => value.is_power_of_two(),
        };
        fits && value >= self.smallest && value <= self.largest
    }

    /// The value that a command line's text stands for.
    fn parse(&self, text: &str) -> Option<u64> {
        if let Rule::Words(words) = self.rule
            && let Some(place) = words.iter().position(|word| *word == text)
        {
            return Some(place as u64);
        }
        text.parse().ok()
    }
}

macro_rules! tunables {
    ($(
        $(#[doc = $doc:literal])+
        $variant:ident = $name:literal, $unit:ident, $smallest:literal..=$largest:literal,
        default $default:literal, $rule:expr;
    )+) => {
        /// A tunable; the discriminant is its number in the ABI.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(usize)]
        pub enum Tunable { $($(#[doc = $doc])+ $variant,)+ }

        /// The table, in the order of the numbers.
        pub const DEFINITIONS: [Definition; COUNT] = [$(Definition {
            name: $name,
            unit: Unit::$unit,
            smallest: $smallest,
            largest: $largest,
            default: $default,
            rule: $rule,
            documentation: concat!($($doc,)+).trim_ascii(),
        },)+];

        /// Number of tunables.
        pub const COUNT: usize = [$($name,)+].len();
    };
}

tunables! {
    /// How long a thread runs while others of its priority wait.
    SchedSliceUs = "sched.slice_us", Microseconds, 100..=1_000_000, default 10_000, Rule::Any;
    /// Whether an idle CPU takes threads from another CPU's queue: 1 yes, 0 no.
    SchedSteal = "sched.steal", Choice, 0..=1, default 1, Rule::Words(&["off", "on"]);
    /// Frames that one step of reclaiming frees, before interrupts are taken again.
    ReclaimStep = "reclaim.step", Frames, 1..=1_024, default 64, Rule::Any;
    /// Time between two steps of reclaiming while threads want to run.
    ReclaimIntervalUs = "reclaim.interval_us", Microseconds, 1..=1_000_000, default 200, Rule::Any;
    /// Pages that one step of mapping, unmapping or allocating handles, before interrupts are taken
    /// again.
    MemStepPages = "mem.step_pages", Count, 1..=512, default 32, Rule::Any;
    /// Mappings that one task may have.
    TaskMaxMappings = "task.max_mappings", Count, 16..=65_536, default 1_024, Rule::Any;
    /// Records in each CPU's trace ring, 32 bytes each. Counts at boot only.
    TraceRecords = "trace.records", Count, 64..=65_536, default 1_024, Rule::PowerOfTwo;
    /// Whether events are recorded in the trace rings: 1 yes, 0 no. Recording takes system calls off
    /// their shortest way.
    TraceEnabled = "trace.enabled", Choice, 0..=1, default 0, Rule::Words(&["off", "on"]);
    /// What follows a panic of the kernel: 0 (halt) or 1 (reboot).
    PanicAction = "panic.action", Choice, 0..=1, default 0, Rule::Words(&["halt", "reboot"]);
    /// Where the TSC's rate is to come from: 0 (auto) for the first source that is sure. Counts at boot only.
    ClockSource = "clock.source", Choice, 0..=6, default 0, Rule::Words(&Source::WORDS);
}

impl Tunable {
    /// The tunable's row of the table.
    pub const fn definition(self) -> &'static Definition {
        const TABLE: &[Definition; COUNT] = &DEFINITIONS;
        &TABLE[self as usize]
    }
}

/// Why a tunable was not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such tunable.
    Unknown,
    /// The value is missing or neither a number nor a word that the tunable knows.
    NoNumber(&'static Definition),
    /// The tunable may not have this value.
    OutOfRange(&'static Definition),
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let definition = match self {
            Refusal::Unknown => return out.write_str("there is no such tunable"),
            Refusal::NoNumber(definition) => {
                out.write_str("the value is no number")?;
                definition
            }
            Refusal::OutOfRange(definition) => {
                out.write_str("the value is out of range")?;
                definition
            }
        };
        let Definition {
            name,
            smallest,
            largest,
            default,
            ..
        } = definition;
        write!(out, ": {name} takes {smallest} to {largest}")?;
        match definition.rule {
            Rule::Any => {}
            Rule::PowerOfTwo => out.write_str(", a power of two")?,
            Rule::Words(words) => {
                for (number, word) in words.iter().enumerate() {
                    write!(out, ", {number} or {word}")?;
                }
            }
        }
        write!(out, "; it would be {default} by default")
    }
}

/// A group of which every name on the command line is the kernel's, though it has no tunable yet.
const RESERVED_GROUP: &str = "ipc";

/// The values. All operations are safe from every CPU at any time; a change is seen soon, not at
/// once, by the others.
#[derive(Debug)]
pub struct Tunables([AtomicU64; COUNT]);

impl Tunables {
    /// All at their defaults.
    pub const fn new() -> Tunables {
        let mut values = [const { AtomicU64::new(0) }; COUNT];
        let mut number = 0;
        while number < COUNT {
            values[number] = AtomicU64::new(DEFINITIONS[number].default);
            number += 1;
        }
        Tunables(values)
    }

    /// The value, in the tunable's unit and range.
    #[inline]
    pub fn get(&self, tunable: Tunable) -> u64 {
        self.0[tunable as usize].load(Ordering::Relaxed)
    }

    /// Definition and value of the tunable with a number of the ABI, `None` if there is none.
    pub fn read(&self, number: u64) -> Option<(&'static Definition, u64)> {
        let place = usize::try_from(number).ok()?;
        let value = self.0.get(place)?.load(Ordering::Relaxed);
        const TABLE: &[Definition; COUNT] = &DEFINITIONS;
        Some((&TABLE[place], value))
    }

    /// Sets the tunable with a number of the ABI.
    ///
    /// # Errors
    /// [`Refusal::Unknown`] and [`Refusal::OutOfRange`]; nothing changes then.
    pub fn set(&self, number: u64, value: u64) -> Result<(), Refusal> {
        let (definition, _) = self.read(number).ok_or(Refusal::Unknown)?;
        if !definition.admits(value) {
            return Err(Refusal::OutOfRange(definition));
        }
        self.0[number as usize].store(value, Ordering::Relaxed);
        Ok(())
    }

    /// Sets what the words `name=value` of a command line say, the last word for a name at the end.
    /// A word in a group of tunables that sets nothing goes to `report`, with the reason; words of
    /// other groups are others' affair.
    pub fn parse_command_line(&self, line: &str, report: &mut dyn FnMut(&str, Refusal)) {
        for word in line.split_ascii_whitespace() {
            if let Err(refusal) = self.parse_word(word) {
                report(word, refusal);
            }
        }
    }

    fn parse_word(&self, word: &str) -> Result<(), Refusal> {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let Some((group, _)) = name.split_once('.') else {
            return Ok(());
        };
        if !is_group(group) {
            return Ok(());
        }
        let known = DEFINITIONS
            .iter()
            .position(|definition| definition.name == name);
        let number = known.ok_or(Refusal::Unknown)? as u64;
        let (definition, _) = self.read(number).ok_or(Refusal::Unknown)?;
        let value = definition
            .parse(value)
            .ok_or(Refusal::NoNumber(definition))?;
        self.set(number, value)
    }
}

impl Default for Tunables {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether names of the group are tunables.
fn is_group(group: &str) -> bool {
    let named = |definition: &Definition| definition.name.split_once('.').map(|name| name.0);
    group == RESERVED_GROUP
        || DEFINITIONS
            .iter()
            .any(|definition| named(definition) == Some(group))
}

#[cfg(test)]
mod tests {
    use super::{COUNT, DEFINITIONS, RESERVED_GROUP, Refusal, Rule, Tunable, Tunables};

    fn parse(line: &str) -> (Tunables, Vec<(String, Refusal)>) {
        let (tunables, mut refused) = (Tunables::new(), Vec::new());
        tunables.parse_command_line(line, &mut |word, why| refused.push((word.to_owned(), why)));
        (tunables, refused)
    }

    #[test]
    fn the_table_is_sound() {
        for (number, definition) in DEFINITIONS.iter().enumerate() {
            assert!(definition.admits(definition.default), "{}", definition.name);
            assert!(definition.smallest < definition.largest);
            assert!(!definition.documentation.is_empty());
            assert!(!definition.documentation.contains('\n'));
            let same = DEFINITIONS
                .iter()
                .position(|other| other.name == definition.name);
            assert_eq!(same, Some(number), "{} is there twice", definition.name);
            if let Rule::Words(words) = definition.rule {
                assert_eq!(words.len() as u64, definition.largest + 1);
            }
        }
        assert_eq!(Tunable::SchedSliceUs.definition().name, "sched.slice_us");
        assert_eq!(Tunable::PanicAction.definition().name, "panic.action");
        let text = "Mappings that one task may have.";
        assert_eq!(Tunable::TaskMaxMappings.definition().documentation, text);
    }

    #[test]
    fn no_task_is_named_like_a_group() {
        let groups = DEFINITIONS
            .iter()
            .filter_map(|definition| definition.name.split_once('.').map(|name| name.0))
            .chain([RESERVED_GROUP]);
        for group in groups {
            assert!(ipc::manifest::OTHER_GROUPS.contains(&group), "{group}");
        }
    }

    #[test]
    fn values_are_set_within_their_ranges() {
        let tunables = Tunables::new();
        assert_eq!(tunables.get(Tunable::SchedSliceUs), 10_000);
        let number = Tunable::SchedSliceUs as u64;
        assert_eq!(tunables.set(number, 100), Ok(()));
        assert_eq!(tunables.get(Tunable::SchedSliceUs), 100);
        let refusal = Refusal::OutOfRange(Tunable::SchedSliceUs.definition());
        assert_eq!(tunables.set(number, 99), Err(refusal));
        assert_eq!(tunables.set(number, 1_000_001), Err(refusal));
        assert_eq!(tunables.set(number, u64::MAX), Err(refusal));
        assert_eq!(tunables.get(Tunable::SchedSliceUs), 100);
        assert_eq!(tunables.set(COUNT as u64, 1), Err(Refusal::Unknown));
        assert_eq!(tunables.set(u64::MAX, 1), Err(Refusal::Unknown));
        assert_eq!(
            tunables.read(number),
            Some((Tunable::SchedSliceUs.definition(), 100))
        );
        assert_eq!(tunables.read(COUNT as u64), None);
    }

    #[test]
    fn rules_restrict_values() {
        let tunables = Tunables::new();
        assert!(tunables.set(Tunable::TraceRecords as u64, 4096).is_ok());
        assert!(tunables.set(Tunable::TraceRecords as u64, 4095).is_err());
        assert!(tunables.set(Tunable::TraceRecords as u64, 32).is_err());
    }

    #[test]
    fn the_command_line_sets_values() {
        let line =
            "  quiet sched.slice_us=5000\tpanic.action=reboot trace.records=64 sched.steal=0 ";
        let (tunables, refused) = parse(line);
        assert_eq!(refused, []);
        assert_eq!(tunables.get(Tunable::SchedSliceUs), 5_000);
        assert_eq!(tunables.get(Tunable::PanicAction), 1);
        assert_eq!(tunables.get(Tunable::TraceRecords), 64);
        assert_eq!(tunables.get(Tunable::SchedSteal), 0);
        assert_eq!(tunables.get(Tunable::ReclaimStep), 64);
        assert_eq!(
            parse("sched.steal=0 sched.steal=on")
                .0
                .get(Tunable::SchedSteal),
            1
        );
    }

    #[test]
    fn mistakes_on_the_command_line_are_reported() {
        let slice = Tunable::SchedSliceUs.definition();
        for (word, why) in [
            ("sched.slice=5", Refusal::Unknown),
            ("ipc.depth=5", Refusal::Unknown),
            ("mem.=5", Refusal::Unknown),
            ("trace.", Refusal::Unknown),
            ("sched.slice_us", Refusal::NoNumber(slice)),
            ("sched.slice_us=", Refusal::NoNumber(slice)),
            ("sched.slice_us=10ms", Refusal::NoNumber(slice)),
            ("sched.slice_us=-1", Refusal::NoNumber(slice)),
            (
                "sched.slice_us=99999999999999999999",
                Refusal::NoNumber(slice),
            ),
            ("sched.slice_us=5", Refusal::OutOfRange(slice)),
            (
                "panic.action=burn",
                Refusal::NoNumber(Tunable::PanicAction.definition()),
            ),
            (
                "panic.action=2",
                Refusal::OutOfRange(Tunable::PanicAction.definition()),
            ),
        ] {
            let (tunables, refused) = parse(&format!("a {word} b"));
            assert_eq!(refused, [(word.to_owned(), why)]);
            assert_eq!(tunables.get(Tunable::SchedSliceUs), 10_000);
        }
    }

    #[test]
    fn other_words_are_left_alone() {
        let line = "console=ttyS0 virtio_mmio.device=4K@0xfeb00000:12 x=sched.y sched = . =";
        assert_eq!(parse(line).1, []);
        assert_eq!(parse("").1, []);
    }

    #[test]
    fn refusals_say_what_would_do() {
        let text = |tunable: Tunable| Refusal::OutOfRange(tunable.definition()).to_string();
        assert_eq!(
            text(Tunable::PanicAction),
            "the value is out of range: panic.action takes 0 to 1, 0 or halt, 1 or reboot; it would be 0 by default"
        );
        assert!(text(Tunable::TraceRecords).contains("64 to 65536, a power of two;"));
        assert_eq!(Refusal::Unknown.to_string(), "there is no such tunable");
    }
}
