//! QEMU's control channel (QEMU Machine Protocol): commands, and a look at the processors from
//! outside the guest. Which machine it belongs to is `machine`'s.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::LIMIT;

/// The control channel of a running QEMU.
#[derive(Debug)]
pub struct Qmp {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

/// What a processor was doing at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Privilege level: 0 in the kernel, 3 in a task.
    pub cpl: u8,
    /// The page-table root, without its control bits.
    pub root: u64,
    /// The instruction pointer.
    pub rip: u64,
    /// Whether it was halted.
    pub halted: bool,
}

impl Qmp {
    /// The control channel behind this socket.
    pub(crate) fn new(stream: UnixStream) -> Result<Self> {
        stream.set_read_timeout(Some(LIMIT))?;
        let mut qmp = Self {
            writer: stream.try_clone()?,
            reader: BufReader::new(stream),
        };
        // The greeting comes unasked.
        qmp.read()?;
        qmp.execute("qmp_capabilities")?;
        Ok(qmp)
    }

    /// Executes a command without arguments and returns its result.
    pub fn execute(&mut self, command: &str) -> Result<Value> {
        self.request(&json!({ "execute": command }))
    }

    /// Executes a line of the human monitor and returns what it prints.
    pub fn monitor(&mut self, line: &str) -> Result<String> {
        let arguments = json!({ "command-line": line });
        let result =
            self.request(&json!({ "execute": "human-monitor-command", "arguments": arguments }))?;
        Ok(result.as_str().unwrap_or_default().to_owned())
    }

    /// Presses the reset button.
    pub fn reset(&mut self) -> Result<()> {
        self.execute("system_reset").map(drop)
    }

    /// Presses the power button.
    pub fn press_power_button(&mut self) -> Result<()> {
        self.execute("system_powerdown").map(drop)
    }

    /// Looks at every processor, all of them stopped at one moment: the registers of a running one
    /// need not belong together.
    pub fn sample(&mut self) -> Result<Vec<Sample>> {
        self.execute("stop")?;
        let registers = self.monitor("info registers -a");
        self.execute("cont")?;
        parse_registers(&registers?)
    }

    fn request(&mut self, request: &Value) -> Result<Value> {
        writeln!(self.writer, "{request}").context("QEMU's control channel is closed")?;
        loop {
            let answer = self.read()?;
            if let Some(result) = answer.get("return") {
                return Ok(result.clone());
            }
            if let Some(error) = answer.get("error") {
                bail!("QEMU refused {request}: {error}");
            }
            // Anything else is an event, which nobody here waits for.
        }
    }

    fn read(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.reader
            .read_line(&mut line)
            .context("no answer on QEMU's control channel")?;
        serde_json::from_str(&line).with_context(|| format!("QEMU's control channel said `{line}`"))
    }
}

/// Reads the registers of each processor out of what `info registers -a` prints.
fn parse_registers(text: &str) -> Result<Vec<Sample>> {
    let processors: Vec<&str> = text.split("CPU#").skip(1).collect();
    let sample = |text: &&str| {
        let hexadecimal = |name: &str| {
            let digits = text
                .split(name)
                .nth(1)
                .with_context(|| format!("`{name}` is not in: {text}"))?;
            let end = digits
                .find(|character: char| !character.is_ascii_hexdigit())
                .unwrap_or(digits.len());
            u64::from_str_radix(&digits[..end], 16).with_context(|| format!("`{name}` in: {text}"))
        };
        Ok(Sample {
            cpl: u8::try_from(hexadecimal("CPL=")?)?,
            root: hexadecimal("CR3=")? & !0xfff,
            // A processor in 32-bit mode shows EIP.
            rip: hexadecimal("IP=")?,
            halted: hexadecimal("HLT=")? != 0,
        })
    };
    processors.iter().map(sample).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_read() {
        let text = "\r\nCPU#0\r\nRAX=0000000000000000 RBX=0\r\nRIP=ffffffff80201000 RFL=00000046 [---Z-P-] \
                    CPL=0 II=0 A20=1 SMM=0 HLT=1\r\nCR0=80010011 CR2=0 CR3=0000000000209018 CR4=000006f0\r\n\
                    \r\nCPU#1\r\nRIP=0000000000201234 RFL=00000246 [---Z-P-] CPL=3 II=0 A20=1 SMM=0 HLT=0\r\n\
                    CR0=80010011 CR3=000000000030a000 CR4=000006f0\r\n";
        let expected = [
            Sample {
                cpl: 0,
                root: 0x20_9000,
                rip: 0xffff_ffff_8020_1000,
                halted: true,
            },
            Sample {
                cpl: 3,
                root: 0x30_a000,
                rip: 0x20_1234,
                halted: false,
            },
        ];
        assert_eq!(parse_registers(text).unwrap(), expected);
    }
}
