//! How long a guest takes from the start of QEMU until it is of use: to a line on its console, and to its first
//! answer by HTTP. The figures are the host's time, so they only mean something beside others of the same run.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use iso::cli::{Accel, RunOptions};
use iso::forward::Forward;
use iso::process;
use iso::qemu::{self, Medium};

use crate::slots::Slot;

/// How often a client tries: a guest may say that it serves before it has its address. Each tries on its own,
/// so that one whose packets were lost holds up nobody.
const TRY_EVERY: Duration = Duration::from_millis(10);

/// How long one client waits for its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A guest, and how to tell how far it is.
#[derive(Debug, Clone)]
pub struct Guest {
    /// What boots.
    pub medium: Medium,
    /// Its command line.
    pub append: String,
    /// What it prints when programs run.
    pub runs: &'static str,
    /// What it prints when it serves HTTP.
    pub serves: &'static str,
}

/// When a guest was how far, from the start of QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Programs run.
    pub runs: Duration,
    /// The first answer was there.
    pub answered: Duration,
}

impl Guest {
    /// Starts the guest with so much memory, in MiB, and waits for both; `None` if that took longer than `limit`.
    pub fn time(&self, memory: u32, limit: Duration) -> Result<Option<Times>> {
        let slot = Slot::take();
        let options = RunOptions {
            accel: Accel::Tcg,
            headless: true,
            memory,
            append: self.append.clone(),
            ..RunOptions::default()
        };
        let forward = Forward::local(0, 80).free()?;
        let address = forward.host;
        let mut command = qemu::command(&options, &self.medium, &[forward], None);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let begin = Instant::now();
        let mut child = process::start(&mut command)?;
        let times = self.watch(&mut child, address, begin, limit);
        process::end(&mut child)?;
        drop(slot);
        times
    }

    fn watch(
        &self,
        child: &mut Child,
        address: SocketAddr,
        begin: Instant,
        limit: Duration,
    ) -> Result<Option<Times>> {
        let output = child.stdout.take().context("QEMU has no output")?;
        let (sender, said) = channel();
        thread::spawn(move || listen(output, &sender));
        let end = begin + limit;
        let mut printed = Printed::default();
        let Some(runs) = printed.wait_for(&said, self.runs, end) else {
            return Ok(None);
        };
        if printed.wait_for(&said, self.serves, end).is_none() {
            return Ok(None);
        }
        let answered = first_answer(address, end)?;
        Ok(answered.map(|answered| Times {
            runs: runs - begin,
            answered: answered - begin,
        }))
    }
}

/// What was printed so far, and when the end of it was.
#[derive(Default)]
struct Printed {
    text: String,
    at: Option<Instant>,
}

impl Printed {
    /// When `text` was printed; `None` if it was not before `end`, or the guest ended.
    fn wait_for(
        &mut self,
        said: &Receiver<(Instant, String)>,
        text: &str,
        end: Instant,
    ) -> Option<Instant> {
        while !self.text.contains(text) {
            let left = end.saturating_duration_since(Instant::now());
            match said.recv_timeout(left) {
                Ok((at, more)) => {
                    self.text.push_str(&more);
                    self.at = Some(at);
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            }
        }
        self.at
    }
}

fn listen(mut output: impl Read, said: &Sender<(Instant, String)>) {
    let mut piece = [0; 4096];
    while let Ok(count @ 1..) = output.read(&mut piece) {
        let text = String::from_utf8_lossy(&piece[..count]).into_owned();
        // Nobody listens any more when both times are known.
        if said.send((Instant::now(), text)).is_err() {
            return;
        }
    }
}

/// When the first of many clients has an answer; `None` if none has before `end`.
fn first_answer(address: SocketAddr, end: Instant) -> Result<Option<Instant>> {
    let (sender, answers) = channel();
    while Instant::now() < end {
        let sender = sender.clone();
        thread::spawn(move || {
            if let Ok(answer) = ask(address) {
                // Another one may have been first.
                sender.send((Instant::now(), answer)).ok();
            }
        });
        if let Ok((at, answer)) = answers.recv_timeout(TRY_EVERY) {
            ensure!(
                answer.starts_with("HTTP/1.1 200"),
                "the answer began with `{answer}`"
            );
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// The beginning of the answer to one request.
fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: guest\r\n\r\n")?;
    let mut begin = [0; 12];
    stream.read_exact(&mut begin)?;
    Ok(String::from_utf8_lossy(&begin).into_owned())
}
