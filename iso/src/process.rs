//! Child processes with a limit on how long they may take, and errors that name the command. Which
//! commands to run is the callers' business.

use std::io::{ErrorKind, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

/// How often a running child is looked at.
const POLL: Duration = Duration::from_millis(10);

/// How long a child that was asked to end may take before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// Runs `command` with the terminal as its own; fails when it fails or when `limit` passes.
pub fn run(command: &mut Command, limit: Duration) -> Result<()> {
    let mut child = start(command)?;
    let status = wait(&mut child, limit).with_context(|| line(command))?;
    succeeded(command, status, "")
}

/// Runs `command` and returns what it wrote to standard output; fails like [`run`], with what the
/// command wrote to standard error in the message.
pub fn output(command: &mut Command, limit: Duration) -> Result<String> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = start(command)?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = wait(&mut child, limit).with_context(|| line(command))?;
    let collected = |thread: std::thread::JoinHandle<Vec<u8>>| {
        thread
            .join()
            .map_err(|_| anyhow!("lost the output of `{}`", line(command)))
    };
    let (stdout, stderr) = (collected(stdout)?, collected(stderr)?);
    succeeded(command, status, &String::from_utf8_lossy(&stderr))?;
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// Starts `command`; the error names it.
pub fn start(command: &mut Command) -> Result<Child> {
    command.spawn().map_err(|error| match error.kind() {
        ErrorKind::NotFound => anyhow!("`{}` is not installed", command.get_program().display()),
        _ => anyhow!(error).context(format!("cannot start `{}`", line(command))),
    })
}

/// Waits for `child` to end; after `limit` it is ended and that is the error.
pub fn wait(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    match poll(child, limit)? {
        Some(status) => Ok(status),
        None => {
            end(child)?;
            bail!("stopped: it did not end within {} s", limit.as_secs())
        }
    }
}

/// Waits for `child` at most `limit`; `None` when it still runs then.
pub fn poll(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let begin = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begin.elapsed() >= limit {
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
}

/// Asks `child` to end, so that it can put the terminal back, and kills it if it does not.
pub fn end(child: &mut Child) -> Result<ExitStatus> {
    if let Some(status) = child.try_wait()? {
        return Ok(status);
    }
    // The child was not waited for yet, so its number cannot belong to another process.
    kill_process(Pid::from_child(child), Signal::TERM)?;
    if let Some(status) = poll(child, GRACE)? {
        return Ok(status);
    }
    child.kill()?;
    Ok(child.wait()?)
}

/// The command as a person would type it, for messages.
pub fn line(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(command.get_args().map(|word| {
        let word = word.to_string_lossy();
        if word.contains(char::is_whitespace) {
            format!("'{word}'")
        } else {
            word.into_owned()
        }
    }));
    words.join(" ")
}

/// Whether a program of this name is on `PATH`.
pub fn on_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    })
}

fn succeeded(command: &Command, status: ExitStatus, stderr: &str) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    let detail = stderr.trim();
    let separator = if detail.is_empty() { "" } else { ":\n" };
    bail!("`{}` failed ({status}){separator}{detail}", line(command))
}

/// Reads a stream to its end beside the waiting thread, so that a full pipe stops nobody.
fn drain<R: Read + Send + 'static>(stream: Option<R>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut stream) = stream
            && let Err(error) = stream.read_to_end(&mut bytes)
        {
            bytes.extend_from_slice(format!("\n(output cut short: {error})").as_bytes());
        }
        bytes
    })
}
