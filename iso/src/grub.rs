//! A CD image that GRUB boots, by BIOS and by UEFI, from kernel and boot archive; and GRUB's own
//! opinion on the kernel's header. What the image holds is `image`'s.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

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

/// Makes an ISO of `image` that boots with this kernel command line and returns its file.
pub fn iso(image: &Image, append: &str) -> Result<PathBuf> {
    need_tools()?;
    let folder = image
        .kernel
        .parent()
        .context("the kernel is in no folder")?;
    let tree = folder.join("iso-tree");
    let boot = tree.join("boot");
    std::fs::create_dir_all(boot.join("grub"))?;
    std::fs::copy(&image.kernel, boot.join("kernel"))?;
    if let Some(archive) = &image.archive {
        std::fs::copy(archive, boot.join("archive"))?;
    }
    std::fs::write(
        boot.join("grub/grub.cfg"),
        configuration(image.archive.is_some(), append),
    )?;
    let iso = folder.join("uzura.iso");
    say::progress("making the ISO");
    let mut command = Command::new("grub-mkrescue");
    command.arg("--output").arg(&iso).arg(&tree);
    process::output(&mut command, LIMIT)?;
    Ok(iso)
}

/// Whether GRUB finds a multiboot2 header in the kernel.
pub fn accepts(kernel: &Path) -> Result<bool> {
    need_tools()?;
    let mut command = Command::new("grub-file");
    command.arg("--is-x86-multiboot2").arg(kernel);
    let mut child = process::start(&mut command)?;
    Ok(process::wait(&mut child, LIMIT)?.success())
}

fn need_tools() -> Result<()> {
    let firmware = ["/usr/lib/grub/i386-pc", "/usr/lib/grub/x86_64-efi"];
    if let Some(missing) = firmware.iter().find(|folder| !Path::new(folder).is_dir()) {
        packages::install(missing, &PACKAGES)?;
    }
    for program in ["grub-mkrescue", "grub-file", "xorriso", "mformat"] {
        packages::need(program, &PACKAGES)?;
    }
    Ok(())
}

/// GRUB's configuration: one thing to boot, at once.
fn configuration(archive: bool, append: &str) -> String {
    let words: String = append
        .split_whitespace()
        .map(|word| format!(" {}", quoted(word)))
        .collect();
    let module = if archive {
        "module2 /boot/archive\n"
    } else {
        ""
    };
    format!("set timeout=0\nmultiboot2 /boot/kernel{words}\n{module}boot\n")
}

/// A word that GRUB's shell takes as it is.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
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
    }
}
