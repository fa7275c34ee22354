//! Media that GRUB boots: the kernel and the boot archive on them, with the kernel's command line. They are
//! taken out with the tools that put them there.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use flate2::read::GzDecoder;
use tempfile::TempDir;

use super::{archive, program};
use crate::{disk, grub, process};

/// How long taking the files out may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Largest disk that is unpacked, in bytes: many times one that the tool makes.
const MOST_DISK_BYTES: u64 = 64 * disk::UNIT;

/// What is on an ISO.
pub(super) fn describe_iso(path: &Path) -> Result<String> {
    grub::need_tools()?;
    let folder = folder()?;
    let mut command = Command::new("xorriso");
    command
        .args(["-no_rc", "-osirrox", "on", "-indev"])
        .arg(path);
    command
        .args(["-extract", "/boot"])
        .arg(folder.path().join("boot"));
    process::output(&mut command, LIMIT).context("xorriso finds no /boot on the ISO")?;
    let bytes = std::fs::metadata(path)?.len();
    Ok(format!(
        "ISO: {bytes} bytes\n{}",
        describe_files(folder.path())?
    ))
}

/// What is on a disk.
pub(super) fn describe_disk(path: &Path) -> Result<String> {
    let folder = folder()?;
    disk::extract(
        path,
        &[grub::KERNEL, grub::ARCHIVE, grub::CONFIGURATION],
        folder.path(),
    )?;
    let bytes = std::fs::metadata(path)?.len();
    let mut text = format!("disk: {bytes} bytes\n");
    for partition in disk::partitions(path)? {
        writeln!(text, "  {partition}")?;
    }
    text.push_str(&describe_files(folder.path())?);
    Ok(text)
}

/// What is in an archive of a disk, as Compute Engine takes it.
pub(super) fn describe_packed_disk(path: &Path) -> Result<String> {
    const DAMAGED: &str = "the archive is cut short or damaged";
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let bytes = file.metadata()?.len();
    let mut reader = tar::Archive::new(GzDecoder::new(file));
    let mut entries = reader.entries().context(DAMAGED)?;
    let mut entry = entries
        .next()
        .context("an empty archive")?
        .context(DAMAGED)?;
    let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    ensure!(
        name == disk::NAME,
        "the archive begins with `{}`, not with `{}`",
        name.escape_debug(),
        disk::NAME
    );
    let is_old_gnu = entry.header().as_gnu().is_some();
    let folder = folder()?;
    let unpacked = folder.path().join(disk::NAME);
    let length = unpack(&mut entry, &unpacked)?;
    ensure!(
        entries.next().is_none(),
        "the archive has more than `{}`, or its end is missing",
        disk::NAME
    );
    let mut text = format!("archive of a disk: {bytes} bytes\n");
    if !is_old_gnu {
        writeln!(
            text,
            "  not of the old GNU format: Compute Engine refuses it"
        )?;
    }
    if !length.is_multiple_of(disk::UNIT) {
        writeln!(text, "  no whole number of GiB: Compute Engine refuses it")?;
    }
    text.push_str(&super::indent(&describe_disk(&unpacked)?));
    Ok(text)
}

/// Writes a disk to a file, with holes for its zeros. Returns its length in bytes.
fn unpack(entry: &mut impl Read, path: &Path) -> Result<u64> {
    let mut file = File::create_new(path)?;
    let zeros = vec![0; 64 << 10];
    let mut block = zeros.clone();
    let mut length = 0_u64;
    loop {
        let mut piece = entry.take(block.len() as u64);
        let mut filled = block.as_mut_slice();
        let count = std::io::copy(&mut piece, &mut filled)
            .context("the archive is cut short or damaged")?;
        if count == 0 {
            break;
        }
        length += count;
        ensure!(
            length <= MOST_DISK_BYTES,
            "the disk is larger than {MOST_DISK_BYTES} bytes"
        );
        let bytes = &block[..usize::try_from(count)?];
        if bytes == &zeros[..bytes.len()] {
            file.seek(SeekFrom::Current(i64::try_from(count)?))?;
        } else {
            file.write_all(bytes)?;
        }
    }
    file.set_len(length)?;
    Ok(length)
}

fn folder() -> Result<TempDir> {
    tempfile::tempdir().context("cannot make a folder for the medium's files")
}

/// What is in the files of a medium, which were copied into a folder.
fn describe_files(folder: &Path) -> Result<String> {
    let Some(kernel) = file(folder, grub::KERNEL)? else {
        bail!("there is no {} on it", grub::KERNEL);
    };
    let mut text = String::new();
    if let Some(configuration) = file(folder, grub::CONFIGURATION)? {
        let configuration = String::from_utf8_lossy(&configuration).into_owned();
        match configuration
            .lines()
            .find(|line| line.starts_with("multiboot2 "))
        {
            Some(line) => writeln!(text, "GRUB: {}", line.escape_debug())?,
            None => writeln!(text, "GRUB: loads no multiboot2 kernel")?,
        }
    }
    text.push_str(&program::describe(&kernel).context(grub::KERNEL)?);
    match file(folder, grub::ARCHIVE)? {
        Some(bytes) => text.push_str(&archive::describe(&bytes).context(grub::ARCHIVE)?),
        None => writeln!(text, "no boot archive")?,
    }
    Ok(super::indent(&text))
}

/// A copied file; `None` where there was none. A link leads nowhere that the medium has.
fn file(folder: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    let path = folder.join(name);
    match std::fs::symlink_metadata(&path) {
        Ok(metadata) if metadata.is_file() => super::read(&path).map(Some),
        Ok(_) => bail!("{name} is no file"),
        Err(_) => Ok(None),
    }
}
