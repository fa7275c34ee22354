//! Debian packages the tool cannot do without: says what is missing, installs it with apt-get where
//! that is possible, and gives the exact command to type where it is not. What a package is needed
//! for is the callers' business.

use std::io::IsTerminal;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::{process, say};

/// How long apt-get may take, a slow mirror included.
const APT_LIMIT: Duration = Duration::from_secs(20 * 60);

/// Held while packages are installed: apt-get waits for another's end with its database only, and fails where
/// that one still downloads.
static ONE_BY_ONE: Mutex<()> = Mutex::new(());

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
    let _alone = ONE_BY_ONE.lock().unwrap_or_else(PoisonError::into_inner);
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
    let install = ["install", "--yes", "--no-install-recommends"];
    let Err(error) = apt(
        &prefix,
        &[&install[..], &["--no-remove"], packages].concat(),
    ) else {
        return Ok(());
    };
    let mut plan = command(&prefix, &[&["--simulate"][..], &install, packages].concat());
    let plan = process::output(&mut plan, APT_LIMIT).unwrap_or_default();
    let removed = removed(&plan);
    if removed.is_empty() {
        return Err(error);
    }
    let list = removed.join(" ");
    if !removed.iter().all(|name| is_kin(name, packages)) {
        bail!("{what} is missing, and with it {list} would be removed; if you agree: {mend}");
    }
    say::progress(&format!(
        "{list} of another version does not go with {}: it gives way",
        packages.join(" ")
    ));
    apt(&prefix, &[&install, packages].concat())
}

/// The packages that apt-get would remove, by what it prints when it simulates.
fn removed(plan: &str) -> Vec<&str> {
    plan.lines()
        .filter_map(|line| line.strip_prefix("Remv ")?.split_whitespace().next())
        .collect()
}

/// Whether a package is one of the same program's as one of `packages`: Debian's names begin with the
/// program's. Only such may be removed without asking, as a version from elsewhere is when the program's other
/// packages come from Debian 12.
fn is_kin(name: &str, packages: &[&str]) -> bool {
    let program = |name: &str| name.split('-').next().map(str::to_owned);
    packages
        .iter()
        .any(|package| program(package) == program(name))
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
    let mut command = command(prefix, arguments);
    // apt-get's own talk belongs beside the tool's: standard output is for results.
    command.stdout(std::io::stderr());
    process::run(&mut command, APT_LIMIT)
}

fn command(prefix: &[&str], arguments: &[&str]) -> Command {
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
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_removed_is_read_from_the_simulation() {
        let plan = "Reading package lists...\nRemv qemu-utils [1:10.0.2]\n\
                    Inst seabios (1.16.2-1 Debian:12.15/oldstable [all])\nRemv grub-pc [2.06] []\n";
        assert_eq!(removed(plan), ["qemu-utils", "grub-pc"]);
        assert_eq!(removed("Inst seabios (1.16.2-1)\n"), [""; 0]);
    }

    #[test]
    fn only_packages_of_the_same_program_give_way() {
        assert!(is_kin("qemu-utils", &["ovmf", "qemu-system-x86"]));
        assert!(!is_kin("grub-pc", &["qemu-system-x86"]));
        assert!(!is_kin("qemuctl", &["qemu-system-x86"]));
    }
}
