//! A disk that GRUB boots by BIOS and by UEFI from kernel and boot archive: a GUID partition table (UEFI
//! Specification 2.10, chapter 5) with GRUB's core image in a BIOS boot partition and all files in an EFI
//! system partition. It is a sparse file, made without root's rights, and the same image gives the same
//! bytes. What GRUB's parts are is `grub`'s.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::partition_types::{BIOS, EFI, Type};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::grub::{self, BiosStages, SECTOR};
use crate::image::Image;
use crate::{process, say};

/// The file's name, which is what Compute Engine wants to find in an archive.
pub const NAME: &str = "disk.raw";

/// The disk's size is a multiple of this: Compute Engine counts in GiB.
pub const UNIT: u64 = 1 << 30;

/// How long one of the tools may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Partitions begin at multiples of this, as `parted` and `sfdisk` have it.
const ALIGNMENT: u64 = 1 << 20;

/// Number, first byte and length of the BIOS boot partition: GRUB's core image alone.
const BIOS_PARTITION: (u32, u64, u64) = (1, ALIGNMENT, ALIGNMENT);
/// Number and first byte of the EFI system partition.
const EFI_PARTITION: (u32, u64) = (2, 2 * ALIGNMENT);
/// Smallest EFI system partition: FAT32, which the UEFI specification (section 13.3) wants on a disk, has at
/// least 65,525 clusters.
const LEAST_EFI_BYTES: u64 = 64 * ALIGNMENT;

/// Where UEFI firmware looks for what to start on a disk it does not know (section 3.5.1.1).
const UEFI_PROGRAM: &str = "EFI/BOOT/BOOTX64.EFI";

/// The folders of the EFI system partition, each after the one it is in.
const FOLDERS: [&str; 4] = ["EFI", "EFI/BOOT", "boot", "boot/grub"];

/// The time of every file on it, in seconds since 1970: the first that FAT has, 1980.
const TIME: &str = "315532800";

/// Makes a disk of `image` that boots with this kernel command line. Returns its file, in `folder`,
/// which appears whole or not at all; who has an older one open keeps it.
pub fn make(image: &Image, append: &str, folder: &Path) -> Result<PathBuf> {
    grub::need_tools()?;
    say::progress("making the disk");
    let work = grub::work_folder(folder)?;
    let files = files(image, append, work.path())?;
    let (first, _) = in_sectors(BIOS_PARTITION.1, BIOS_PARTITION.2);
    let stages = grub::bios_stages(first, EFI_PARTITION.0, work.path())?;
    ensure!(
        stages.core.len() as u64 <= BIOS_PARTITION.2,
        "GRUB's core image has {} bytes and does not fit the BIOS boot partition",
        stages.core.len()
    );
    let (fresh, disk) = (work.path().join(NAME), folder.join(NAME));
    let (efi_bytes, bytes) = sizes(files.values().map(|bytes| bytes.len() as u64).sum());
    let identity = Identity::of(&files, &stages);
    partition(&fresh, bytes, efi_bytes, &stages, &identity)?;
    fill(&fresh, efi_bytes, &files, &identity, work.path())?;
    std::fs::rename(&fresh, &disk).with_context(|| format!("cannot write {}", disk.display()))?;
    Ok(disk)
}

/// The files of the EFI system partition, by path.
fn files(image: &Image, append: &str, work: &Path) -> Result<BTreeMap<&'static str, Vec<u8>>> {
    let read = |path: &Path| {
        std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let configuration = grub::configuration(image.archive.is_some(), append);
    let mut files = BTreeMap::from([
        (UEFI_PROGRAM, grub::uefi_program(EFI_PARTITION.0, work)?),
        (grub::KERNEL, read(&image.kernel)?),
        (grub::CONFIGURATION, configuration.into_bytes()),
    ]);
    if let Some(archive) = &image.archive {
        files.insert(grub::ARCHIVE, read(archive)?);
    }
    Ok(files)
}

/// Sizes of the EFI system partition and of the disk in bytes, for files of so many bytes.
fn sizes(files: u64) -> (u64, u64) {
    // Enough for the file allocation tables and for folders.
    let efi = (files + files / 32 + 4 * ALIGNMENT)
        .next_multiple_of(ALIGNMENT)
        .max(LEAST_EFI_BYTES);
    // The table's second copy is behind the last partition.
    let disk = (EFI_PARTITION.1 + efi + ALIGNMENT).next_multiple_of(UNIT);
    (efi, disk)
}

/// First sector and number of sectors.
fn in_sectors(start: u64, bytes: u64) -> (u64, u64) {
    (start / SECTOR as u64, bytes / SECTOR as u64)
}

/// What tells disks apart: made from what they hold.
struct Identity([u8; 32]);

impl Identity {
    fn of(files: &BTreeMap<&str, Vec<u8>>, stages: &BiosStages) -> Self {
        let mut hash = Sha256::new();
        for (path, bytes) in files {
            hash.update(path);
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }
        hash.update(stages.sector);
        hash.update(&stages.core);
        Self(hash.finalize().into())
    }

    /// An identifier of one of the disk's parts.
    fn guid(&self, part: u32) -> Uuid {
        let hash: [u8; 32] = Sha256::new()
            .chain_update(self.0)
            .chain_update(part.to_le_bytes())
            .finalize()
            .into();
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash[..16]);
        Uuid::new_v8(bytes)
    }

    /// The volume's serial number, as mformat takes it.
    fn serial(&self) -> String {
        self.0[..4]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }
}

/// Makes the file, with partition tables, the first sector's code and GRUB's core image.
fn partition(
    path: &Path,
    bytes: u64,
    efi_bytes: u64,
    stages: &BiosStages,
    identity: &Identity,
) -> Result<()> {
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    file.set_len(bytes)?;
    // The protective partition covers the disk behind the first sector, or what a sector's number of 32
    // bits reaches.
    let rest = bytes / SECTOR as u64 - 1;
    let mut boot_record = ProtectiveMBR::with_lb_size(u32::try_from(rest).unwrap_or(u32::MAX));
    let code = stages.sector.first_chunk().context("no boot code")?;
    boot_record.set_bootcode(*code);
    boot_record.overwrite_lba0(&mut file)?;
    let mut table = gpt::GptConfig::new()
        .writable(true)
        .create_from_device(file, Some(identity.guid(0)))?;
    let entry = |name: &str, (number, start, bytes): (u32, u64, u64), kind: Type| {
        let (first, sectors) = in_sectors(start, bytes);
        let partition = Partition {
            part_type_guid: kind,
            part_guid: identity.guid(number),
            first_lba: first,
            last_lba: first + sectors - 1,
            flags: 0,
            name: name.to_owned(),
        };
        (number, partition)
    };
    table.update_partitions(BTreeMap::from([
        entry("BIOS boot", BIOS_PARTITION, BIOS),
        entry(
            "EFI system",
            (EFI_PARTITION.0, EFI_PARTITION.1, efi_bytes),
            EFI,
        ),
    ]))?;
    let mut file = table.write()?;
    file.seek(SeekFrom::Start(BIOS_PARTITION.1))?;
    file.write_all(&stages.core)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Makes the file system of the EFI system partition, with mtools.
fn fill(
    disk: &Path,
    efi_bytes: u64,
    files: &BTreeMap<&str, Vec<u8>>,
    identity: &Identity,
    work: &Path,
) -> Result<()> {
    let (hidden, sectors) = in_sectors(EFI_PARTITION.1, efi_bytes);
    mtools("mformat", disk, EFI_PARTITION.1, |command| {
        // FAT32 and its number of sectors; the geometry is what a BIOS would make of it.
        command.args(["-F", "-T", &sectors.to_string(), "-H", &hidden.to_string()]);
        command.args([
            "-h",
            "64",
            "-s",
            "32",
            "-v",
            "UZURA",
            "-N",
            &identity.serial(),
            "::",
        ]);
    })?;
    mtools("mmd", disk, EFI_PARTITION.1, |command| {
        command.args(FOLDERS.map(|folder| format!("::/{folder}")));
    })?;
    for (path, bytes) in files {
        let source = work.join("file");
        std::fs::write(&source, bytes)
            .with_context(|| format!("cannot write {}", source.display()))?;
        mtools("mcopy", disk, EFI_PARTITION.1, |command| {
            command.arg(&source).arg(format!("::/{path}"));
        })?;
    }
    Ok(())
}

/// Runs one of the mtools on the FAT file system that begins at this byte of a disk's file, and returns
/// what it prints.
fn mtools(
    program: &str,
    disk: &Path,
    offset: u64,
    arguments: impl FnOnce(&mut Command),
) -> Result<String> {
    let mut command = Command::new(program);
    let mut place = disk.as_os_str().to_owned();
    place.push(format!("@@{offset}"));
    command.arg("-i").arg(place);
    arguments(&mut command);
    // No settings of the user's, and the same times whenever it runs.
    command.env("MTOOLSRC", "/dev/null");
    command.env("SOURCE_DATE_EPOCH", TIME);
    process::output(&mut command, LIMIT)
}

/// Copies files of a disk's EFI system partition into a folder, under the same paths: those of `paths`
/// that are there.
pub(crate) fn extract(disk: &Path, paths: &[&str], folder: &Path) -> Result<()> {
    grub::need_tools()?;
    let efi = table(disk)?
        .into_iter()
        .find(|partition| partition.part_type_guid.guid == EFI.guid)
        .context("the disk has no EFI system partition")?;
    let start = efi
        .first_lba
        .checked_mul(SECTOR as u64)
        .context("the EFI system partition begins past the disk's end")?;
    let listed = mtools("mdir", disk, start, |command| {
        command.args(["-b", "-/", "::/"]);
    })
    .context("the EFI system partition has no FAT file system")?;
    for path in paths {
        let (name, copy) = (format!("::/{path}"), folder.join(path));
        if listed.lines().any(|line| line == name) {
            let parent = copy.parent().unwrap_or(folder);
            std::fs::create_dir_all(parent)
                .with_context(|| format!("cannot make the folder {}", parent.display()))?;
            mtools("mcopy", disk, start, |command| {
                command.args(["-n", &name]).arg(&copy);
            })?;
        }
    }
    Ok(())
}

/// A disk's partitions, a line each.
pub(crate) fn partitions(disk: &Path) -> Result<Vec<String>> {
    let describe = |partition: Partition| {
        let kind = match partition.part_type_guid {
            BIOS => "BIOS boot".to_owned(),
            EFI => "EFI system".to_owned(),
            other => other.guid.to_string(),
        };
        format!(
            "partition, {kind}: sectors {} to {}",
            partition.first_lba, partition.last_lba
        )
    };
    Ok(table(disk)?.into_iter().map(describe).collect())
}

/// The entries of a disk's partition table that are used. Both copies of the table have to be valid.
fn table(disk: &Path) -> Result<Vec<Partition>> {
    let file = File::open(disk).with_context(|| format!("cannot read {}", disk.display()))?;
    let table = gpt::GptConfig::new()
        .only_valid_headers(true)
        .open_from_device(file)
        .context("the disk's GUID partition table is damaged")?;
    let used = table
        .partitions()
        .values()
        .filter(|partition| partition.is_used());
    Ok(used.cloned().collect())
}
