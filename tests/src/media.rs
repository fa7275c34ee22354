//! The disk that Compute Engine boots, as it has it. Booting from it is the tests'.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use iso::image::Image;
use iso::{disk, gce, process};

use crate::LIMIT;

/// Makes a disk of an image with this kernel command line in a folder.
pub type Maker = fn(&Image, &str, &Path) -> Result<PathBuf>;

/// The disk as Compute Engine gets it: packed, and unpacked by GNU tar.
pub fn compute_engine(image: &Image, append: &str, folder: &Path) -> Result<PathBuf> {
    let made = disk::make(image, append, folder)?;
    let archive = gce::pack(&made, folder)?;
    let unpacked = folder.join("unpacked");
    std::fs::create_dir(&unpacked)?;
    let mut command = Command::new("tar");
    command.arg("-xzf").arg(archive).arg("-C").arg(&unpacked);
    process::output(&mut command, LIMIT)?;
    Ok(unpacked.join(disk::NAME))
}
