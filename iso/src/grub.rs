//! GRUB, the boot loader of every medium: a hybrid ISO that boots as a CD and as a disk, by BIOS and by
//! UEFI; the parts that `disk` puts onto a disk; and GRUB's own opinion on the kernel's header. What the
//! media hold is `image`'s.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::image::Image;
use crate::{packages, process, say};

/// How long GRUB's tools may take.
const LIMIT: Duration = Duration::from_secs(5 * 60);

/// Debian's packages of `grub-mkrescue`, of what it calls, and of GRUB for both kinds of firmware.
const PACKAGES: [&str; 5] = [
    "grub-common",
    "grub-pc-bin",
    "grub-efi-amd64-bin",
    "xorriso",
    "mtools",
];

/// The programs of these packages that are needed.
const PROGRAMS: [&str; 7] = [
    "grub-mkrescue",
    "grub-mkimage",
    "grub-file",
    "xorriso",
    "mformat",
    "mmd",
    "mcopy",
];

/// Where GRUB's modules for BIOS are.
const BIOS_MODULES: &str = "/usr/lib/grub/i386-pc";

/// Where GRUB's modules for UEFI are.
const UEFI_MODULES: &str = "/usr/lib/grub/x86_64-efi";

/// What every medium needs of GRUB: its script language, the kernel's loader, and the serial port for
/// its errors.
const MODULES: [&str; 4] = ["normal", "multiboot2", "serial", "terminal"];

/// What GRUB's first stage asks an ISO for, whether it is there or not.
const PARTITION_MODULES: [&str; 11] = [
    "part_acorn",
    "part_amiga",
    "part_apple",
    "part_bsd",
    "part_dfly",
    "part_dvh",
    "part_gpt",
    "part_msdos",
    "part_plan",
    "part_sun",
    "part_sunpc",
];

/// Where the kernel is on every medium.
pub const KERNEL: &str = "boot/kernel";
/// Where the boot archive is on every medium.
pub const ARCHIVE: &str = "boot/archive";
/// Where GRUB's configuration is on every medium.
pub const CONFIGURATION: &str = "boot/grub/grub.cfg";

/// Makes an ISO of `image` that boots with this kernel command line. Returns its file, in `folder`,
/// which appears whole or not at all; who has an older one open keeps it.
pub fn iso(image: &Image, append: &str, folder: &Path) -> Result<PathBuf> {
    need_tools()?;
    say::progress("making the ISO");
    let work = work_folder(folder)?;
    let tree = work.path().join("tree");
    fill(&tree, image, append)?;
    let (fresh, iso) = (work.path().join("iso"), folder.join("uzura.iso"));
    let mut command = Command::new("grub-mkrescue");
    command.arg("--output").arg(&fresh).arg(&tree);
    let modules = [MODULES.as_slice(), &PARTITION_MODULES].concat().join(" ");
    command.arg(format!("--install-modules={modules}"));
    command.args(["--locales=", "--fonts=", "--themes="]);
    process::output(&mut command, LIMIT)?;
    std::fs::rename(&fresh, &iso).with_context(|| format!("cannot write {}", iso.display()))?;
    Ok(iso)
}

/// A folder for unfinished work on the same file system as `folder`; it goes when it is dropped.
pub(crate) fn work_folder(folder: &Path) -> Result<TempDir> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    tempfile::Builder::new()
        .prefix(".work-")
        .tempdir_in(folder)
        .with_context(|| format!("cannot make a folder in {}", folder.display()))
}

/// Copies what GRUB loads into a folder.
fn fill(tree: &Path, image: &Image, append: &str) -> Result<()> {
    let configuration_path = tree.join(CONFIGURATION);
    let grub = configuration_path
        .parent()
        .context("the configuration is in no folder")?;
    std::fs::create_dir_all(grub)
        .with_context(|| format!("cannot make the folder {}", grub.display()))?;
    let copy = |from: &Path, to: &str| {
        std::fs::copy(from, tree.join(to))
            .with_context(|| format!("cannot copy {}", from.display()))
    };
    copy(&image.kernel, KERNEL)?;
    if let Some(archive) = &image.archive {
        copy(archive, ARCHIVE)?;
    }
    let text = configuration(image.archive.is_some(), append);
    std::fs::write(&configuration_path, text)
        .with_context(|| format!("cannot write {}", configuration_path.display()))
}

/// Whether GRUB finds a multiboot2 header in the kernel.
pub fn accepts(kernel: &Path) -> Result<bool> {
    need_tools()?;
    let mut command = Command::new("grub-file");
    command.arg("--is-x86-multiboot2").arg(kernel);
    let mut child = process::start(&mut command)?;
    Ok(process::wait(&mut child, LIMIT)?.success())
}

/// Makes sure that GRUB and the tools for media are there.
pub(crate) fn need_tools() -> Result<()> {
    let firmware = [BIOS_MODULES, UEFI_MODULES];
    if let Some(missing) = firmware.iter().find(|folder| !Path::new(folder).is_dir()) {
        packages::install(missing, &PACKAGES)?;
    }
    for program in PROGRAMS {
        packages::need(program, &PACKAGES)?;
    }
    Ok(())
}

/// GRUB's configuration: one thing to boot, at once. Without a display its errors are seen on the
/// first serial port, as the kernel's are.
pub(crate) fn configuration(archive: bool, append: &str) -> String {
    let words: String = append
        .split_whitespace()
        .map(|word| format!(" {}", quoted(word)))
        .collect();
    let module = if archive {
        format!("module2 /{ARCHIVE}\n")
    } else {
        String::new()
    };
    format!(
        "if serial --unit=0 --speed=115200; then terminal_output --append serial; fi\n\
         set timeout=0\nmultiboot2 /{KERNEL}{words}\n{module}boot\n"
    )
}

/// A word that a shell takes as it is, GRUB's and a person's.
pub(crate) fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// GRUB's first stage for UEFI: a program that finds its configuration on the partition of this number
/// (from 1) of the disk it was started from.
pub(crate) fn uefi_program(partition: u32, folder: &Path) -> Result<Vec<u8>> {
    stage("x86_64-efi", &[], partition, folder)
}

/// What a BIOS starts from a disk: the code of the first sector, and what that loads.
#[derive(Debug)]
pub(crate) struct BiosStages {
    /// The first sector; its partition table and signature are not GRUB's.
    pub(crate) sector: [u8; SECTOR],
    /// GRUB's core image, which goes to consecutive sectors.
    pub(crate) core: Vec<u8>,
}

/// The sector that GRUB for BIOS counts in, in bytes.
pub(crate) const SECTOR: usize = 512;

// GNU GRUB 2.06, include/grub/i386/pc/boot.h: where `boot.img` keeps the core image's first sector, and
// the jump that skips its defence against a BIOS which gives a wrong number for the boot disk
// (GRUB_BOOT_MACHINE_KERNEL_SECTOR, GRUB_BOOT_MACHINE_DRIVE_CHECK).
const CORE_SECTOR: usize = 0x5c;
const DRIVE_CHECK: usize = 0x66;
/// The same file: where the core image's first sector says where its others are: the last of its block
/// lists (`struct grub_pc_bios_boot_blocklist`), which begins with a sector's number.
const BLOCK_LIST: usize = SECTOR - 12;
/// What GRUB's files have in these places before anybody installs them.
const NOT_INSTALLED: [u64; 2] = [1, 2];

/// GRUB's stages for BIOS, for a core image from `first` on (a sector's number) that finds its
/// configuration on the partition of this number (from 1) of its disk.
pub(crate) fn bios_stages(first: u64, partition: u32, folder: &Path) -> Result<BiosStages> {
    let path = Path::new(BIOS_MODULES).join("boot.img");
    let boot = std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let core = stage("i386-pc", &["biosdisk"], partition, folder)?;
    install(&boot, core, first)
}

/// Writes the core image's place into the stages, as grub-bios-setup does (util/setup.c).
fn install(boot: &[u8], mut core: Vec<u8>, first: u64) -> Result<BiosStages> {
    const UNKNOWN: &str = "this GRUB's boot.img or core image is not laid out as that of GRUB 2.06";
    let mut sector: [u8; SECTOR] = boot.try_into().ok().context(UNKNOWN)?;
    ensure!(core.len() > SECTOR, UNKNOWN);
    let places = [
        (&mut sector[CORE_SECTOR..], NOT_INSTALLED[0], first),
        (&mut core[BLOCK_LIST..], NOT_INSTALLED[1], first + 1),
    ];
    for (place, before, after) in places {
        let number = &mut place[..8];
        ensure!(number == before.to_le_bytes(), UNKNOWN);
        number.copy_from_slice(&after.to_le_bytes());
    }
    const JUMP: u8 = 0xeb;
    const NO_OPERATION: u8 = 0x90;
    ensure!(sector[DRIVE_CHECK] == JUMP, UNKNOWN);
    sector[DRIVE_CHECK..DRIVE_CHECK + 2].fill(NO_OPERATION);
    Ok(BiosStages { sector, core })
}

/// GRUB's first stage in a format of grub-mkimage, with all the modules in it that a disk needs.
fn stage(format: &str, modules: &[&str], partition: u32, folder: &Path) -> Result<Vec<u8>> {
    let file = folder.join(format!("stage-{format}"));
    let mut command = Command::new("grub-mkimage");
    command
        .args(["--format", format, "--output"])
        .arg(&file)
        // A prefix that begins with a comma is on the disk that this was started from.
        .arg(format!("--prefix=(,gpt{partition})/boot/grub"));
    command
        .args(modules)
        .args(MODULES)
        .args(["part_gpt", "fat"]);
    process::output(&mut command, LIMIT)?;
    std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_keeps_its_words() {
        let text = configuration(true, "sched.slice_us=500  quote='");
        assert!(
            text.contains("multiboot2 /boot/kernel 'sched.slice_us=500' 'quote='\\'''\n"),
            "{text}"
        );
        assert!(text.contains("module2 /boot/archive\n"), "{text}");
        assert!(!configuration(false, "").contains("module2"));
    }

    /// `boot.img` and a core image of two sectors, as they are before they are installed.
    fn stages() -> (Vec<u8>, Vec<u8>) {
        let (mut boot, mut core) = (vec![0; SECTOR], vec![0x5a; 2 * SECTOR]);
        boot[CORE_SECTOR] = 1;
        boot[DRIVE_CHECK] = 0xeb;
        core[BLOCK_LIST..BLOCK_LIST + 8].copy_from_slice(&2_u64.to_le_bytes());
        (boot, core)
    }

    #[test]
    fn stages_know_where_the_core_image_is() {
        let (boot, core) = stages();
        let BiosStages { sector, core } = install(&boot, core, 0x1_0000_0800).unwrap();
        assert_eq!(sector[0x5c..0x64], 0x1_0000_0800_u64.to_le_bytes());
        assert_eq!(sector[0x66..0x68], [0x90, 0x90]);
        assert_eq!(core[0x1f4..0x1fc], 0x1_0000_0801_u64.to_le_bytes());
        assert!(
            core[..0x1f4]
                .iter()
                .chain(&core[0x1fc..])
                .all(|byte| *byte == 0x5a)
        );
    }

    #[test]
    fn stages_of_another_layout_are_refused() {
        for (place, value) in [(CORE_SECTOR, 2), (CORE_SECTOR + 7, 1), (DRIVE_CHECK, 0)] {
            let (mut boot, core) = stages();
            boot[place] = value;
            install(&boot, core, 2048).unwrap_err();
        }
        let (boot, mut core) = stages();
        core[BLOCK_LIST] = 9;
        install(&boot, core, 2048).unwrap_err();
        let (boot, core) = stages();
        install(&boot[1..], core.clone(), 2048).unwrap_err();
        install(&boot, core[..SECTOR].to_vec(), 2048).unwrap_err();
    }
}
