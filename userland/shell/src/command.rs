//! The commands: one table gives their names, usage, help text and the parser.

/// A command, as the person entered it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Lists the commands.
    Help,
    /// Shows what the machine and the system are.
    Info,
    /// Lists the tasks.
    Tasks,
    /// Shows how much memory and how many objects there are.
    Memory,
    /// Shows the time since boot.
    Uptime,
    /// Shows date and time.
    Date,
    /// Shows the network's configuration.
    Network,
    /// Asks a host whether it is there.
    Ping(&'a str),
    /// Kills a task; init starts it again.
    Kill(&'a str),
    /// Stops the machine.
    Halt,
    /// Starts the machine anew.
    Reboot,
}

/// Why a line is no command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandError<'a> {
    /// There is no such command.
    Unknown(&'a str),
    /// The command takes other arguments: its usage.
    Usage(&'static str),
}

impl core::fmt::Display for CommandError<'_> {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Unknown(word) => {
                write!(formatter, "{word}: no such command; try help")
            }
            Self::Usage(usage) => write!(formatter, "usage: {usage}"),
        }
    }
}

impl core::error::Error for CommandError<'_> {}

/// Usage and one line of help of each command, in the order in which help lists them.
pub const HELP: &[(&str, &str)] = &[
    ("help", "list the commands"),
    ("info", "what machine and system this is"),
    ("ps", "list the tasks"),
    ("mem", "memory and kernel objects"),
    ("uptime", "time since boot"),
    ("date", "date and time (UTC)"),
    ("net", "addresses, routes and counters of the network"),
    ("ping HOST", "ask a host whether it is there"),
    ("kill TASK", "kill a task; init starts it again"),
    ("halt", "stop the machine"),
    ("reboot", "start the machine anew"),
];

/// The words that Tab completes.
pub const WORDS: &[&str] = &[
    "date", "halt", "help", "info", "kill", "mem", "net", "ping", "ps", "reboot", "uptime",
];

/// Reads a line. `Ok(None)` for one with nothing on it.
pub fn parse(line: &str) -> Result<Option<Command<'_>>, CommandError<'_>> {
    let mut words = line.split_ascii_whitespace();
    let Some(name) = words.next() else {
        return Ok(None);
    };
    let argument = words.next();
    let more = words.next().is_some();
    let usage = HELP
        .iter()
        .map(|(usage, _)| *usage)
        .find(|usage| usage.split(' ').next() == Some(name))
        .ok_or(CommandError::Unknown(name))?;
    if more || argument.is_some() != usage.contains(' ') {
        return Err(CommandError::Usage(usage));
    }
    let command = match (name, argument) {
        ("help", _) => Command::Help,
        ("info", _) => Command::Info,
        ("ps", _) => Command::Tasks,
        ("mem", _) => Command::Memory,
        ("uptime", _) => Command::Uptime,
        ("date", _) => Command::Date,
        ("net", _) => Command::Network,
        ("halt", _) => Command::Halt,
        ("reboot", _) => Command::Reboot,
        ("ping", Some(host)) => Command::Ping(host),
        ("kill", Some(task)) => Command::Kill(task),
        _ => return Err(CommandError::Unknown(name)),
    };
    Ok(Some(command))
}

#[cfg(test)]
mod tests {
    use super::{Command, CommandError, HELP, WORDS, parse};

    #[test]
    fn every_command_of_the_table_is_parsed_and_completed() {
        for (usage, _) in HELP {
            let line = usage.replace("HOST", "10.0.2.2").replace("TASK", "web");
            assert!(matches!(parse(&line), Ok(Some(_))), "{usage}");
            let name = usage.split(' ').next().unwrap();
            assert!(WORDS.contains(&name), "{name} is completed");
        }
        assert_eq!(HELP.len(), WORDS.len());
        assert!(WORDS.is_sorted());
    }

    #[test]
    fn arguments_are_handed_on() {
        assert_eq!(
            parse("  kill   virtio-net "),
            Ok(Some(Command::Kill("virtio-net")))
        );
        assert_eq!(parse("ping 10.0.2.2"), Ok(Some(Command::Ping("10.0.2.2"))));
        assert_eq!(parse("   "), Ok(None));
    }

    #[test]
    fn mistakes_say_what_is_wrong() {
        assert_eq!(parse("frob x"), Err(CommandError::Unknown("frob")));
        assert_eq!(parse("kill"), Err(CommandError::Usage("kill TASK")));
        assert_eq!(parse("kill a b"), Err(CommandError::Usage("kill TASK")));
        assert_eq!(parse("ps x"), Err(CommandError::Usage("ps")));
    }
}
