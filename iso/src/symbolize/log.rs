//! A console log with function and source line under each address of a backtrace: of the kernel's panics, of
//! the faults that init tells, and of what a panicking task says itself.

use std::fmt::Write;

use anyhow::Result;

use super::{Place, Symbols};

/// What the lines of a panic of the kernel begin with.
const PANIC: &str = "uzura: panic:";

/// What init says of the end of a task: `init: NAME faulted: ...`, and then indented lines.
const INIT: &str = "init: ";
const FAULTED: &str = " faulted: ";

/// What a task says of its own panic: `NAME: backtrace: ADDRESS...`.
const BACKTRACE: &str = ": backtrace:";

/// How the instruction pointer begins a line of registers.
const INSTRUCTION_POINTER: &str = "  rip ";

/// The log with lines put in under the addresses.
pub fn annotate(log: &str, symbols: &Symbols) -> Result<String> {
    let mut reader = Reader::default();
    let mut annotated = String::new();
    for line in log.lines() {
        let line = line.trim_end_matches('\r');
        writeln!(annotated, "{line}")?;
        for address in reader.addresses(line) {
            if let Some(place) = reader.place(symbols, address)? {
                show(&mut annotated, address, &place)?;
            }
        }
    }
    Ok(annotated)
}

/// Writes the functions and lines of a place, the innermost first.
fn show(out: &mut String, address: u64, place: &Place) -> Result<()> {
    for (position, frame) in place.frames.iter().enumerate() {
        let line = frame.line.as_deref().unwrap_or("?");
        let what = match position {
            0 => format!("{address:#x} is {}", place.file),
            _ => "inlined into".to_owned(),
        };
        writeln!(out, "    {what} {} at {line}", frame.function)?;
    }
    Ok(())
}

/// Whose addresses a log's lines have.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
enum Whose {
    /// Nobody's yet.
    #[default]
    Nobody,
    /// The kernel's.
    Kernel,
    /// This task's.
    Task(String),
}

/// What was read of the log so far.
#[derive(Debug, Default)]
struct Reader {
    whose: Whose,
    /// Where the failed instruction is; every other address is one that a call returns to.
    failed: Option<u64>,
}

impl Reader {
    /// The addresses of a backtrace in this line, the next one of the log.
    fn addresses(&mut self, line: &str) -> Vec<u64> {
        // A line may begin behind the shell's prompt.
        if let Some((_, rest)) = line.split_once(PANIC) {
            self.begin(Whose::Kernel);
            return self.indented(rest);
        }
        if let Some((name, rest)) = line.split_once(BACKTRACE) {
            let name = name.rsplit(' ').next().unwrap_or_default();
            self.begin(Whose::Task(name.to_owned()));
            self.failed = None;
            return rest.split(' ').filter_map(hexadecimal).collect();
        }
        let Some((_, rest)) = line.split_once(INIT) else {
            return Vec::new();
        };
        if let Some((name, _)) = rest.split_once(FAULTED) {
            self.begin(Whose::Task(name.to_owned()));
            self.failed = None;
            return Vec::new();
        }
        match self.whose {
            Whose::Task(_) => self.indented(rest),
            Whose::Nobody | Whose::Kernel => Vec::new(),
        }
    }

    fn begin(&mut self, whose: Whose) {
        if self.whose != whose {
            *self = Reader {
                whose,
                failed: None,
            };
        }
    }

    /// The address that an indented line begins with. What a line of registers has is kept.
    fn indented(&mut self, rest: &str) -> Vec<u64> {
        if let Some((_, value)) = rest.split_once(INSTRUCTION_POINTER) {
            let digits = value.split(' ').next().unwrap_or_default();
            self.failed = u64::from_str_radix(digits, 16).ok();
        }
        let indented = rest.starts_with("  ");
        let first = rest.split_ascii_whitespace().next();
        let address = first.filter(|_| indented).and_then(hexadecimal);
        address.into_iter().collect()
    }

    /// Where an address of the current line's task, or of the kernel, lies.
    fn place(&mut self, symbols: &Symbols, address: u64) -> Result<Option<Place>> {
        // A call is just before where it returns to, and may be the last instruction of its function. The
        // failed instruction comes first; should it come again, something has returned to it.
        let failed = self.failed.take_if(|failed| *failed == address).is_some();
        let inside = address.saturating_sub(u64::from(!failed));
        match &self.whose {
            Whose::Nobody => Ok(None),
            Whose::Kernel => symbols.place_in(inside, |file| file == KERNEL),
            Whose::Task(name) => {
                // A task has its program's name where the manifest says nothing else.
                let own = symbols.has(name);
                symbols.place_in(
                    inside,
                    |file| {
                        if own { file == name } else { file != KERNEL }
                    },
                )
            }
        }
    }
}

/// The kernel's file among those with symbols.
const KERNEL: &str = "kernel";

fn hexadecimal(word: &str) -> Option<u64> {
    u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
uzura> init: web faulted: page fault at 0xdead0000 (write, not mapped) in 0x201234
init:   rip 0000000000201234  rsp 0000000000700000  rbp 0000000000700010
init:   called from
init:     0x201234 web::serve+0x34
init:     0x201300 web::run+0x20
init: web died (page fault at 0xdead0000 (write, not mapped) in 0x201234), restart 1 now
web: panic: panicked at 0x5000
web: backtrace: 0x201111 0x202222
shell: 0x99 bottles
uzura: panic: exception 14 (error code 0x0, address 0xdead0000) at 0xffffffff80201000
uzura: panic: on CPU 0, in thread 3, rip 0x201234, rsp 0x700000
uzura: panic:   rip ffffffff80201000  rsp ffffffff80300000  rbp ffffffff80300010
uzura: panic: called from
uzura: panic:   0xffffffff80201000 kernel::start+0x10
uzura: panic:   0xffffffff80201000
";

    /// Whose addresses a log has, and whether each is a failed instruction's.
    fn read(log: &str) -> Vec<(Whose, u64, bool)> {
        let mut reader = Reader::default();
        let mut found = Vec::new();
        for line in log.lines() {
            for address in reader.addresses(line) {
                let failed = reader.failed.take_if(|failed| *failed == address);
                found.push((reader.whose.clone(), address, failed.is_some()));
            }
        }
        found
    }

    #[test]
    fn every_address_of_a_backtrace_is_found_with_its_owner() {
        let web = || Whose::Task("web".to_owned());
        let kernel = 0xffff_ffff_8020_1000;
        let expected = [
            (web(), 0x20_1234, true),
            (web(), 0x20_1300, false),
            (web(), 0x20_1111, false),
            (web(), 0x20_2222, false),
            (Whose::Kernel, kernel, true),
            (Whose::Kernel, kernel, false),
        ];
        assert_eq!(read(LOG), expected);
    }

    #[test]
    fn logs_without_backtraces_stay_as_they_are() {
        let log = "uzura 0.1.0\ninit: the manifest has 6 tasks\ninit:   0x1234\nuzura> ps\n";
        assert_eq!(read(log), []);
    }
}
