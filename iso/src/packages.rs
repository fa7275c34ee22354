//! Debian packages the tool cannot do without: says what is missing, installs it with apt-get where
//! that is possible, and gives the exact command to type where it is not. What a package is needed
//! for is the callers' business.

use std::io::IsTerminal;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::{process, say};

/// How long apt-get may take, a slow mirror included.
const APT_LIMIT: Duration = Duration::from_secs(20 * 60);

/// Makes sure that `program` is on `PATH`, installing `packages` when it is not.
pub fn need(program: &str, packages: &[&str]) -> Result<()> {
    if process::on_path(program) {
        return Ok(());
    }
    install(&format!("`{program}`"), packages)?;
    if process::on_path(program) {
        return Ok(());
    }
    bail!(
        "{} is installed, and `{program}` still is not on PATH",
        packages.join(" ")
    )
}

/// Installs `packages`, because `what` is missing.
pub fn install(what: &str, packages: &[&str]) -> Result<()> {
    let mend = format!("apt-get install {}", packages.join(" "));
    let Some(prefix) = privilege() else {
        bail!(
            "{what} is missing, and this user cannot install it; as root on Debian 12: {mend} \
             (elsewhere: the packages of your system that hold the same programs)"
        );
    };
    say::progress(&format!(
        "{what} is missing; running `{}{mend}`",
        prefix.join(" ")
    ));
    // A fresh machine has no package lists, or some that know of old versions only. Where they cannot
    // be had, the packages may still be at hand.
    if let Err(error) = apt(&prefix, &["update"]) {
        say::progress(&format!(
            "going on with the package lists that are here: {error}"
        ));
    }
    let install = ["install", "--yes", "--no-install-recommends", "--no-remove"];
    apt(&prefix, &[&install, packages].concat())
}

/// The words to put before `apt-get`; `None` where it is absent or may not be used.
fn privilege() -> Option<Vec<&'static str>> {
    if !process::on_path("apt-get") {
        return None;
    }
    if rustix::process::geteuid().is_root() {
        return Some(Vec::new());
    }
    if !process::on_path("sudo") {
        return None;
    }
    if std::io::stdin().is_terminal() {
        return Some(vec!["sudo "]);
    }
    let mut silent = Command::new("sudo");
    silent.args(["--non-interactive", "true"]);
    process::output(&mut silent, Duration::from_secs(10)).ok()?;
    Some(vec!["sudo "])
}

fn apt(prefix: &[&str], arguments: &[&str]) -> Result<()> {
    let mut words: Vec<&str> = prefix.iter().map(|word| word.trim()).collect();
    if !words.is_empty() {
        words.push("DEBIAN_FRONTEND=noninteractive");
    }
    words.extend(["apt-get", "--quiet", "--option", "DPkg::Lock::Timeout=300"]);
    words.extend(arguments);
    let (program, rest) = words
        .split_first()
        .map_or(("apt-get", &[][..]), |(p, r)| (*p, r));
    let mut command = Command::new(program);
    command.args(rest).env("DEBIAN_FRONTEND", "noninteractive");
    // apt-get's own talk belongs beside the tool's: standard output is for results.
    command.stdout(std::io::stderr());
    process::run(&mut command, APT_LIMIT)
}
