//! The guest's console as a person sees it: text to wait for, lines to type. Which machine it belongs
//! to is `machine`'s.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::LIMIT;

/// What the shell prints when it is ready.
pub const PROMPT: &str = "uzura> ";

/// What a panic of the kernel begins with: nobody need wait for anything else then.
const PANIC: &str = "uzura: panic:";

/// What a panic ends with where it restarts the machine, which may come to it again and again.
const RESTART: &str = "uzura: rebooting\n";

/// How long the shell may be silent until it is asked once more.
const NUDGE: Duration = Duration::from_secs(15);

/// How much of the console an error shows.
const TAIL: usize = 3000;

/// The console of a running guest.
#[derive(Debug)]
pub struct Console {
    stream: File,
    screen: Arc<Screen>,
    /// How much of the text was waited for already.
    seen: usize,
}

#[derive(Debug, Default)]
struct Screen {
    text: Mutex<Text>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Text {
    /// Everything that was printed, without carriage returns and terminal control sequences.
    plain: String,
    filter: Filter,
    /// Nothing more will come.
    ended: bool,
}

impl Console {
    /// The console behind this socket.
    pub(crate) fn new(socket: impl Into<OwnedFd>) -> Result<Self> {
        let stream = File::from(socket.into());
        let screen = Arc::new(Screen::default());
        let (reader, shared) = (stream.try_clone()?, Arc::clone(&screen));
        std::thread::spawn(move || collect(reader, &shared));
        Ok(Self {
            stream,
            screen,
            seen: 0,
        })
    }

    /// Waits until `text` is printed, after all that was waited for before. Returns what was printed
    /// from there to the end of `text`.
    pub fn wait_for(&mut self, text: &str) -> Result<String> {
        self.wait_for_any(&[text])
    }

    /// Waits until one of `texts` is printed; the one that comes first counts.
    pub fn wait_for_any(&mut self, texts: &[&str]) -> Result<String> {
        let found = self.wait_within(texts, LIMIT)?;
        found.with_context(|| {
            let screen = self.screen.lock();
            format!(
                "the console never showed {texts:?}; its end is:\n{}",
                tail(&screen.plain)
            )
        })
    }

    /// Waits for a panic of the kernel and returns all that it says, up to the end of the machine.
    pub fn panic(&mut self) -> Result<String> {
        let mut said = self.wait_for(PANIC)?;
        let ends = |said: &str| {
            ["uzura: halted\n", RESTART]
                .iter()
                .any(|end| said.contains(end))
        };
        while !ends(&said) {
            let before = self.seen;
            ensure!(self.grows(LIMIT), "the panic does not end: {said}");
            said.push_str(&self.screen.lock().plain[before..self.seen]);
        }
        Ok(said)
    }

    /// Waits until one of `texts` is printed, at most so long: `None` then.
    fn wait_within(&mut self, texts: &[&str], limit: Duration) -> Result<Option<String>> {
        let begin = Instant::now();
        let mut screen = self.screen.lock();
        loop {
            let fresh = &screen.plain[self.seen..];
            let ends = texts
                .iter()
                .filter_map(|text| fresh.find(text).map(|at| at + text.len()));
            if let Some(end) = ends.min() {
                let found = fresh[..end].to_owned();
                self.seen += end;
                return Ok(Some(found));
            }
            if fresh.contains(PANIC) {
                drop(screen);
                bail!("before the console showed {texts:?}: {}", self.rest());
            }
            if screen.ended {
                let tail = tail(&screen.plain);
                bail!(
                    "the machine ended before the console showed {texts:?}; its end was:\n{tail}"
                );
            }
            if begin.elapsed() >= limit {
                return Ok(None);
            }
            let waited = self
                .screen
                .changed
                .wait_timeout(screen, limit.saturating_sub(begin.elapsed()));
            screen = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Types a line, with the return key.
    pub fn send_line(&mut self, line: &str) -> Result<()> {
        self.stream
            .write_all(format!("{line}\r").as_bytes())
            .context("cannot type on the console")
    }

    /// Whether the shell answers a return key with its prompt, within so long.
    pub fn answers(&mut self, limit: Duration) -> Result<bool> {
        self.send_line("")?;
        let prompt = format!("\n{PROMPT}");
        Ok(self.wait_within(&[&prompt], limit)?.is_some())
    }

    /// Types a command at the shell's prompt and returns what is printed up to the next prompt.
    pub fn command(&mut self, line: &str) -> Result<String> {
        self.send_line(line)?;
        // Prompts before the echo belong to something else.
        self.wait_asking(&format!("{line}\n"), line)?;
        // What a task logs can come in the middle of a prompt. Another one costs a return key.
        let answer = self.wait_asking(&format!("\n{PROMPT}"), "")?;
        Ok(answer.trim_end_matches(PROMPT).to_owned())
    }

    /// Waits for `text`, and types `question` whenever it does not come: a shell that is just being
    /// restarted loses what is typed.
    fn wait_asking(&mut self, text: &str, question: &str) -> Result<String> {
        let begin = Instant::now();
        loop {
            if let Some(found) = self.wait_within(&[text], NUDGE)? {
                return Ok(found);
            }
            ensure!(
                begin.elapsed() < LIMIT,
                "no {text:?} on the console: {}",
                self.text()
            );
            self.send_line(question)?;
        }
    }

    /// What comes until the guest falls silent, or starts again: all that a panic says.
    fn rest(&mut self) -> String {
        let before = self.seen;
        let starts_again = |screen: &Screen| screen.lock().plain[before..].contains(RESTART);
        while !starts_again(&self.screen) && self.grows(Duration::from_secs(2)) {}
        self.screen.lock().plain[before..].to_owned()
    }

    /// Whether anything comes within `limit`; it counts as waited for.
    fn grows(&mut self, limit: Duration) -> bool {
        let begin = Instant::now();
        let mut screen = self.screen.lock();
        while screen.plain.len() == self.seen && !screen.ended && begin.elapsed() < limit {
            let waited = self
                .screen
                .changed
                .wait_timeout(screen, limit.saturating_sub(begin.elapsed()));
            screen = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let grew = screen.plain.len() > self.seen;
        self.seen = screen.plain.len();
        grew
    }

    /// Leaves what was printed in a file named after the test, to be read after a failure.
    pub(crate) fn keep(&self) {
        let folder = iso::workspace::root().join("target/uzura/consoles");
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("test").replace("::", "-");
        // Only the record is lost where it cannot be written.
        std::fs::create_dir_all(&folder).ok();
        std::fs::write(folder.join(format!("{name}.log")), self.text()).ok();
    }

    /// Everything printed so far.
    pub fn text(&self) -> String {
        self.screen.lock().plain.clone()
    }
}

impl Screen {
    fn lock(&self) -> MutexGuard<'_, Text> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the console to its end.
fn collect(mut stream: File, screen: &Screen) {
    let mut bytes = [0; 4096];
    loop {
        let count = stream.read(&mut bytes).unwrap_or(0);
        let mut text = screen.lock();
        for byte in &bytes[..count] {
            if let Some(character) = text.filter.pass(*byte) {
                text.plain.push(character);
            }
        }
        text.ended = count == 0;
        screen.changed.notify_all();
        if count == 0 {
            return;
        }
    }
}

/// Takes terminal control sequences (ECMA-48, section 5.4) and carriage returns out of a stream.
#[derive(Debug, Default)]
enum Filter {
    #[default]
    Plain,
    Escape,
    Sequence,
}

impl Filter {
    fn pass(&mut self, byte: u8) -> Option<char> {
        let (next, out) = match (&self, byte) {
            (Self::Plain, 0x1b) => (Self::Escape, None),
            (Self::Plain, b'\r') => (Self::Plain, None),
            (Self::Plain, _) => (Self::Plain, Some(char::from(byte))),
            (Self::Escape, b'[') => (Self::Sequence, None),
            (Self::Sequence, 0x20..=0x3f) => (Self::Sequence, None),
            (Self::Escape | Self::Sequence, _) => (Self::Plain, None),
        };
        *self = next;
        out
    }
}

fn tail(text: &str) -> &str {
    let begin = text.len().saturating_sub(TAIL);
    text.get(begin..).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn control_sequences_are_taken_out() {
        let mut filter = Filter::default();
        let plain: String = b"\x1b[1;31mred\x1b[0m\r\n\x1b7ok"
            .iter()
            .filter_map(|byte| filter.pass(*byte))
            .collect();
        assert_eq!(plain, "red\nok");
    }

    #[test]
    fn waiting_goes_on_after_what_was_found() {
        let (guest, host) = UnixStream::pair().unwrap();
        let mut console = Console::new(host).unwrap();
        (&guest).write_all(b"one two one three").unwrap();
        assert_eq!(console.wait_for("one").unwrap(), "one");
        assert_eq!(console.wait_for("one").unwrap(), " two one");
        drop(guest);
        let error = console.wait_for("one").unwrap_err().to_string();
        assert!(
            error.contains("the machine ended") && error.contains("three"),
            "{error}"
        );
    }

    #[test]
    fn panic_ends_the_waiting() {
        let (guest, host) = UnixStream::pair().unwrap();
        let mut console = Console::new(host).unwrap();
        (&guest)
            .write_all(b"fine\nuzura: panic: frames.rs:7\n")
            .unwrap();
        let error = console.wait_for("later").unwrap_err().to_string();
        assert!(error.contains("uzura: panic: frames.rs:7"), "{error}");
        // Who waits for a panic gets it.
        (&guest).write_all(b"uzura: panic: again\n").unwrap();
        console.wait_for("panic: again").unwrap();
    }

    #[test]
    fn command_returns_what_is_printed_for_it() {
        let (guest, host) = UnixStream::pair().unwrap();
        let mut console = Console::new(host).unwrap();
        (&guest)
            .write_all(b"uzura> uptime\r\n5 s\r\nuzura> ")
            .unwrap();
        console.wait_for(PROMPT).unwrap();
        assert_eq!(console.command("uptime").unwrap(), "5 s\n");
    }
}
