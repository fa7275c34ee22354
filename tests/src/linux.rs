//! The Linux guest to compare with: Debian's kernel for clouds with a small initial file system, made from
//! `tests/linux-peer`. What is measured on it is others' business.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use iso::qemu::Medium;
use iso::{packages, process, say, workspace};

use crate::LIMIT;

/// Debian's package that names the newest kernel for clouds.
const KERNEL: &str = "linux-image-cloud-amd64";

/// The kernel's command line: the guest has this address, and nothing that Uzura does not do either -
/// mitigations of speculative execution attacks - costs time.
pub fn command_line(address: Ipv4Addr, gateway: Ipv4Addr) -> String {
    format!("console=ttyS0 quiet mitigations=off peer.address={address} peer.gateway={gateway}")
}

/// What the guest prints when its first process runs.
pub const RUNS: &str = "peer: runs";

/// What it prints when it serves.
pub const SERVES: &str = "peer: serves";

/// The files of the guest.
#[derive(Debug, Clone)]
pub struct Linux {
    /// The kernel, as Debian packs it.
    pub kernel: PathBuf,
    /// The initial file system: first process, network drivers, and the server.
    pub archive: PathBuf,
    /// The kernel's version.
    pub version: String,
}

impl Linux {
    /// Fetches the kernel, if that was not done before, and builds the rest.
    pub fn build() -> Result<Self> {
        packages::need("cpio", &["cpio"])?;
        let root = workspace::root();
        let folder = root.join("target/uzura/linux-peer");
        let debian = folder.join("debian");
        let version = match version(&debian)? {
            Some(version) => version,
            None => {
                fetch(&folder, &debian)?;
                version(&debian)?.context("there is no kernel in Debian's package of it")?
            }
        };
        say::progress("building the Linux guest's programs");
        let mut command = Command::new("sh");
        command
            .arg(root.join("tests/linux-peer/build.sh"))
            .args([&folder, &debian])
            .arg(&version);
        process::output(&mut command, LIMIT)?;
        Ok(Self {
            kernel: debian.join(format!("boot/vmlinuz-{version}")),
            archive: folder.join("initramfs.gz"),
            version,
        })
    }

    /// As QEMU loads it.
    pub fn medium(&self) -> Medium {
        Medium::Files {
            kernel: self.kernel.clone(),
            archive: Some(self.archive.clone()),
        }
    }
}

/// Unpacks Debian's newest cloud kernel. It is not installed: this computer goes on with the one that it has.
fn fetch(folder: &Path, debian: &Path) -> Result<()> {
    say::progress("fetching a Linux kernel to compare with");
    std::fs::create_dir_all(folder)?;
    let mut depends = Command::new("apt-cache");
    depends.args(["depends", "--important", KERNEL]);
    let listed = process::output(&mut depends, LIMIT)
        .context("the Linux kernel to compare with is Debian's: this needs apt")?;
    let package = listed
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.ends_with("-cloud-amd64"))
        .with_context(|| format!("`{KERNEL}` names no kernel; `apt-get update` may help"))?;
    let mut download = Command::new("apt-get");
    download.args(["download", package]).current_dir(folder);
    process::output(&mut download, LIMIT)?;
    for entry in std::fs::read_dir(folder)? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            let mut unpack = Command::new("dpkg-deb");
            unpack.arg("--extract").args([&file, debian]);
            process::output(&mut unpack, LIMIT)?;
            std::fs::remove_file(&file)?;
        }
    }
    Ok(())
}

/// The version of the newest cloud kernel that is unpacked there.
fn version(debian: &Path) -> Result<Option<String>> {
    let boot = debian.join("boot");
    if !boot.is_dir() {
        return Ok(None);
    }
    let mut versions = Vec::new();
    for entry in std::fs::read_dir(boot)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let cloud = name
            .strip_prefix("vmlinuz-")
            .filter(|version| version.ends_with("-cloud-amd64"));
        versions.extend(cloud.map(str::to_owned));
    }
    // By their numbers: 6.1.0-9 is older than 6.1.0-32.
    versions.sort_by_key(|version| {
        let numbers = version.split(|letter: char| !letter.is_ascii_digit());
        numbers
            .filter_map(|number| number.parse().ok())
            .collect::<Vec<u64>>()
    });
    Ok(versions.pop())
}
