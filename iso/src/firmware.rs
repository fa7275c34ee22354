//! UEFI firmware for QEMU: OVMF, found or installed. What is started by it is `qemu`'s and `grub`'s.

use std::path::Path;

use anyhow::{Result, bail};

use crate::packages;

/// Debian's package of OVMF.
const PACKAGE: &str = "ovmf";

/// The firmware: 4 MiB of flash memory, without Secure Boot, as Debian 12 and newer have it.
pub const CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";

/// The firmware's variables as a new machine has them.
pub const VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

/// Least memory of a machine that OVMF starts, in MiB.
pub const LEAST_MEMORY: u32 = 64;

/// Makes sure that the firmware is there, installing it when it is not.
pub fn need() -> Result<()> {
    let missing = || {
        [CODE, VARIABLES]
            .into_iter()
            .find(|file| !Path::new(file).is_file())
    };
    if let Some(file) = missing() {
        packages::install(file, &[PACKAGE])?;
    }
    match missing() {
        None => Ok(()),
        Some(file) => bail!("{PACKAGE} is installed, and {file} still is not there"),
    }
}
