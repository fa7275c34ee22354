//! What init says when a task dies: who, of what, where, with which registers.

use core::fmt::{Display, Formatter, Result};
use core::time::Duration;

use ipc::info::FaultMessage;
use ipc::symbols::Symbols;

use crate::packed::PackedError;
use crate::program::ProgramError;
use crate::shutdown::PATIENCE;

/// Why a task died or could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause<'a> {
    /// Somebody asked for it.
    Killed,
    /// One of its threads faulted.
    Fault(FaultMessage),
    /// Its last thread ended.
    Ended,
    /// It did not answer any more.
    Silent,
    /// The system stops.
    Stopped,
    /// This other task, with which it is restarted, died.
    Companion(&'a str),
    /// Its program cannot be loaded.
    Program(ProgramError),
    /// Its program's file cannot be unpacked.
    Packed(PackedError),
    /// The archive has no such program.
    NoProgram,
    /// An operation was refused while it was made.
    Refused(ipc::Error),
}

impl Cause<'_> {
    /// Whether another try cannot help.
    pub const fn is_permanent(&self) -> bool {
        matches!(self, Self::Program(_) | Self::Packed(_) | Self::NoProgram)
    }
}

impl Display for Cause<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> Result {
        match self {
            Self::Killed => formatter.write_str("killed"),
            Self::Fault(message) => Fault(message).fmt(formatter),
            Self::Ended => formatter.write_str("ended by itself"),
            Self::Silent => formatter.write_str("fell silent"),
            Self::Stopped => formatter.write_str("stopped"),
            Self::Companion(name) => write!(formatter, "restarted with {name}"),
            Self::Program(error) => error.fmt(formatter),
            Self::Packed(error) => write!(formatter, "its binary in the boot archive is {error}"),
            Self::NoProgram => formatter.write_str("its binary is not in the boot archive"),
            Self::Refused(error) => write!(formatter, "cannot be made: {error}"),
        }
    }
}

/// What init tells about a task, one line without its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report<'a> {
    /// It died and is started again.
    Restart {
        /// The task.
        task: &'a str,
        /// Why it died.
        cause: Cause<'a>,
        /// Which restart it will be.
        number: u32,
        /// How long it waits.
        delay: Duration,
    },
    /// It died too often, or can never live.
    GivenUp {
        /// The task.
        task: &'a str,
        /// Why it died last.
        cause: Cause<'a>,
    },
    /// It died and the manifest says that it stays away.
    Gone {
        /// The task.
        task: &'a str,
        /// Why it died.
        cause: Cause<'a>,
    },
    /// The system stops.
    Stopping {
        /// How many tasks live.
        tasks: usize,
    },
    /// It was told to stop and did not.
    Overdue {
        /// The task.
        task: &'a str,
    },
    /// All that could be stopped is.
    Stopped {
        /// How long it took.
        time: Duration,
        /// How many tasks are left.
        left: usize,
    },
}

impl Display for Report<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> Result {
        match self {
            Self::Restart {
                task,
                cause,
                number,
                delay,
            } => {
                write!(formatter, "init: {task} died ({cause}), restart {number} ")?;
                if delay.is_zero() {
                    formatter.write_str("now")
                } else {
                    write!(formatter, "in {} ms", delay.as_millis())
                }
            }
            Self::GivenUp { task, cause } => {
                write!(formatter, "init: {task} died ({cause}), given up")
            }
            Self::Gone { task, cause } => write!(formatter, "init: {task} died ({cause})"),
            Self::Stopping { tasks } => write!(formatter, "init: stopping {tasks} tasks"),
            Self::Overdue { task } => {
                let patience = PATIENCE.as_millis();
                write!(formatter, "init: {task} did not stop in {patience} ms")
            }
            Self::Stopped { time, left } => {
                let time = time.as_millis();
                match left {
                    0 => write!(formatter, "init: all tasks stopped in {time} ms"),
                    left => write!(formatter, "init: {left} tasks did not stop in {time} ms"),
                }
            }
        }
    }
}

/// A fault in words.
#[derive(Clone, Copy, Debug)]
pub struct Fault<'a>(pub &'a FaultMessage);

impl Display for Fault<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> Result {
        let message = self.0;
        formatter.write_str(exception_name(message.vector))?;
        if message.vector == PAGE_FAULT {
            let (did, found) = page_fault(message.error_code);
            write!(formatter, " at {:#x} ({did}, {found})", message.address)?;
        } else if message.error_code != 0 {
            write!(formatter, " {:#x}", message.error_code)?;
        }
        write!(formatter, " in {:#x}", message.instruction_pointer)
    }
}

/// The registers of a fault, in lines of three.
#[derive(Clone, Copy, Debug)]
pub struct Registers<'a>(pub &'a FaultMessage);

impl Display for Registers<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> Result {
        let message = self.0;
        let registers = [
            ("rip", message.instruction_pointer),
            ("rsp", message.stack_pointer),
            ("rbp", message.frame_pointer),
            ("rax", message.rax),
            ("rbx", message.rbx),
            ("rcx", message.rcx),
            ("rdx", message.rdx),
            ("rsi", message.rsi),
            ("rdi", message.rdi),
        ];
        for (position, (name, value)) in registers.iter().enumerate() {
            let gap = match position {
                0 => "init:   ",
                _ if position % 3 == 0 => "\ninit:   ",
                _ => "  ",
            };
            write!(formatter, "{gap}{name} {value:016x}")?;
        }
        write!(
            formatter,
            "  flags {:x}  thread {}",
            message.flags, message.thread
        )
    }
}

/// A line of a backtrace: where in which function, if the function is known.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The instruction that faulted, or where a call returns to.
    pub address: u64,
    /// Whether it is where a call returns to: the call is just before, and may be the last instruction of its
    /// function.
    pub returns: bool,
    /// The program's symbols.
    pub symbols: Option<Symbols<'a>>,
}

impl Display for Place<'_> {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> Result {
        let address = self.address;
        write!(formatter, "init:     {address:#x}")?;
        let inside = address.saturating_sub(u64::from(self.returns));
        match self.symbols.and_then(|symbols| symbols.find(inside)) {
            Some(function) => {
                let (name, offset) = (function.name(), address - function.start);
                write!(formatter, " {name}+{offset:#x}")
            }
            None => Ok(()),
        }
    }
}

/// Vector of the page fault (Intel SDM volume 3A, table 6-1).
const PAGE_FAULT: u64 = 14;

/// Names of the exceptions, by vector (Intel SDM volume 3A, table 6-1).
const fn exception_name(vector: u64) -> &'static str {
    match vector {
        0 => "division error",
        1 => "debug exception",
        2 => "non-maskable interrupt",
        3 => "breakpoint",
        4 => "overflow",
        5 => "bound range exceeded",
        6 => "invalid opcode",
        7 => "FPU not available",
        8 => "double fault",
        10 => "invalid TSS",
        11 => "segment not present",
        12 => "stack fault",
        13 => "general protection fault",
        PAGE_FAULT => "page fault",
        16 => "x87 error",
        17 => "alignment check",
        18 => "machine check",
        19 => "SIMD error",
        21 => "control protection fault",
        _ => "unknown exception",
    }
}

/// What the access of a page fault was and what it met (Intel SDM volume 3A, section 4.7).
const fn page_fault(error_code: u64) -> (&'static str, &'static str) {
    let did = if error_code & 1 << 4 != 0 {
        "execute"
    } else if error_code & 1 << 1 != 0 {
        "write"
    } else {
        "read"
    };
    let found = if error_code & 1 != 0 {
        "not allowed"
    } else {
        "not mapped"
    };
    (did, found)
}

#[cfg(test)]
mod tests {
    use super::{Cause, Fault, Place, Registers, Report};
    use core::time::Duration;
    use ipc::info::FaultMessage;
    use ipc::symbols::{self, Symbols};

    fn page_fault(error_code: u64) -> FaultMessage {
        FaultMessage {
            vector: 14,
            error_code,
            address: 0xdead_0000,
            instruction_pointer: 0x20_1234,
            thread: 42,
            ..FaultMessage::default()
        }
    }

    #[test]
    fn a_death_is_told_in_one_line() {
        let report = |cause, delay| Report::Restart {
            task: "virtio-net",
            cause,
            number: 2,
            delay,
        };
        assert_eq!(
            report(Cause::Killed, Duration::from_millis(100)).to_string(),
            "init: virtio-net died (killed), restart 2 in 100 ms"
        );
        assert_eq!(
            report(Cause::Fault(page_fault(6)), Duration::ZERO).to_string(),
            "init: virtio-net died (page fault at 0xdead0000 (write, not mapped) in 0x201234), \
             restart 2 now"
        );
    }

    #[test]
    fn page_faults_say_what_was_tried() {
        let text = |code| Fault(&page_fault(code)).to_string();
        assert!(text(4).contains("(read, not mapped)"));
        assert!(text(5).contains("(read, not allowed)"));
        assert!(text(7).contains("(write, not allowed)"));
        assert!(text(0x15).contains("(execute, not allowed)"));
    }

    #[test]
    fn a_return_address_belongs_to_the_call_before_it() {
        let mut room = [0; 100];
        let functions = [(0x20_1000, "one"), (0x20_1040, "two"), (0x20_1080, "")];
        let table = symbols::pack(0, &functions, &mut room).unwrap();
        let symbols = Some(Symbols::read(table).unwrap());
        let text = |address, returns| {
            Place {
                address,
                returns,
                symbols,
            }
            .to_string()
        };
        assert_eq!(text(0x20_1040, false), "init:     0x201040 two+0x0");
        assert_eq!(text(0x20_1040, true), "init:     0x201040 one+0x40");
        assert_eq!(text(0x20_1080, true), "init:     0x201080 two+0x40");
        assert_eq!(text(0x20_1081, true), "init:     0x201081");
        assert_eq!(text(0, true), "init:     0x0");
    }

    #[test]
    fn every_register_is_shown() {
        let mut words = [0; FaultMessage::WORDS];
        for (position, word) in words.iter_mut().enumerate() {
            *word = 0xab00 + position as u64;
        }
        let text = Registers(&FaultMessage::from_words(&words)).to_string();
        for (position, field) in FaultMessage::FIELDS.iter().enumerate().skip(3) {
            let expected = match *field {
                "flags" => "flags ab06".to_string(),
                "thread" => format!("thread {}", 0xab07),
                _ => format!("{:016x}", 0xab00 + position),
            };
            assert!(text.contains(&expected), "{field}");
        }
        assert!(text.lines().all(|line| line.starts_with("init: ")));
    }
}
