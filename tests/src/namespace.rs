//! A network for a test alone: a namespace of the host's, in which cables (tap devices) lead to guests. It
//! goes when the thread that is in it ends, and with the process however that ends: nothing of it has a name
//! outside.

use std::env;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use iso::{packages, process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::LIMIT;

/// What a person does about it when the host does not let the network be made.
const MEND: &str = "this network is a namespace with tap devices: run this as root, or let users have namespaces \
                    (on Debian `sysctl kernel.unprivileged_userns_clone=1`); /dev/net/tun must be there";

/// How long what runs again may take.
const AGAIN_LIMIT: Duration = Duration::from_secs(2 * 60 * 60);

/// Whether this process may have networks, as root may.
pub fn is_permitted() -> Result<bool> {
    packages::need("ip", &["iproute2"])?;
    packages::need("unshare", &["util-linux"])?;
    Ok(unshare(&["--net", "true"]).is_ok())
}

/// Runs this program again with these arguments, as root of a namespace of its user's: there it may have
/// networks. Nothing can be installed there.
pub fn run_again<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Result<()> {
    unshare(&["--map-root-user", "--net", "true"]).context(MEND)?;
    let mut command = Command::new("unshare");
    command
        .arg("--map-root-user")
        .arg(env::current_exe()?)
        .args(arguments);
    process::run(&mut command, AGAIN_LIMIT).context("as root of a namespace of this user's")
}

/// Runs `body` where this process may have networks; else the test of this name again, of which it is the body.
pub fn tested(test: &str, body: impl FnOnce() -> Result<()>) -> Result<()> {
    match is_permitted()? {
        true => body(),
        false => run_again(["--exact", test, "--nocapture"]),
    }
}

fn unshare(words: &[&str]) -> Result<()> {
    let mut command = Command::new("unshare");
    process::output(command.args(words), LIMIT).map(drop)
}

/// Runs `body` on a thread that is in a new network, as are the threads and the processes that it starts.
pub fn inside<R: Send>(body: impl FnOnce() -> Result<R> + Send) -> Result<R> {
    let made = || {
        enter().context(MEND)?;
        body()
    };
    let name = thread::current().name().map(str::to_owned);
    thread::scope(|scope| {
        let named = thread::Builder::new().name(name.unwrap_or_else(|| "network".to_owned()));
        let thread = named.spawn_scoped(scope, made)?;
        thread
            .join()
            .map_err(|_| anyhow!("what ran in the network panicked"))?
    })
}

/// Moves the calling thread into a new network namespace.
///
/// A process of its own makes it, because a thread of this one cannot without unsafe code; this thread joins
/// it, which keeps it, and the process ends.
fn enter() -> Result<()> {
    let mut command = Command::new("unshare");
    command.args(["--net", "cat"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut holder = process::start(&mut command)?;
    let (input, output) = (holder.stdin.take(), holder.stdout.take());
    let (mut input, mut output) = input.zip(output).context("`unshare` has no pipes")?;
    // What comes back says that the namespace is made. A process that has ended cannot be written to.
    let mut word = *b"?";
    let answered = input
        .write_all(&word)
        .and_then(|()| output.read_exact(&mut word));
    let joined = match answered {
        Ok(()) => join(holder.id()),
        Err(_) => Err(anyhow!("no namespace was made")),
    };
    drop(input);
    process::wait(&mut holder, LIMIT)?;
    let mut said = String::new();
    if let Some(mut errors) = holder.stderr.take() {
        errors.read_to_string(&mut said)?;
    }
    joined.with_context(|| format!("`{}` says: {}", process::line(&command), said.trim()))
}

/// Joins the network namespace of a process.
fn join(process: u32) -> Result<()> {
    let namespace = File::open(format!("/proc/{process}/ns/net"))?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .context("cannot join a network namespace")
}

/// Runs `ip` with these words.
pub fn ip(words: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(words.split(' '));
    process::output(&mut command, LIMIT).map(drop)
}

/// Makes a cable to a guest: the host's end, which says nothing by itself that would wake the guest.
pub fn tap(name: &str) -> Result<()> {
    ip(&format!("tuntap add dev {name} mode tap")).context(MEND)?;
    ip(&format!("link set dev {name} addrgenmode none"))?;
    ip(&format!("link set dev {name} up"))
}

/// QEMU's description of the network behind the guest's end of a cable, as `net0`.
pub fn netdev(name: &str) -> String {
    format!("tap,id=net0,ifname={name},script=no,downscript=no")
}
