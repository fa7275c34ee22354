//! The kernel comes up by each of its doors, from the same file.

use anyhow::{Result, ensure};
use iso::cli::Boot;
use iso::grub;
use tests::images::{Kind, image};
use tests::{Setup, case};

/// The first line says which system this is.
fn first_line(boot: Boot) -> Result<()> {
    let setup = Setup::new(image(Kind::Kernel)?).with(|options| options.boot = boot);
    let mut machine = setup.start()?;
    let printed = machine
        .console
        .wait_for(&format!("uzura {}\n", env!("CARGO_PKG_VERSION")))?;
    // Firmware and boot loader may have used the serial port before.
    let line = printed.lines().last().unwrap_or_default();
    ensure!(
        line.starts_with("uzura "),
        "the kernel's first line is `{line}`"
    );
    Ok(())
}

#[test]
fn kernel_says_its_version_by_pvh() {
    case(
        "kernel_says_its_version_by_pvh",
        "QEMU's -kernel reaches the kernel's first line",
        || first_line(Boot::Kernel),
    );
}

#[test]
fn kernel_says_its_version_by_multiboot2() {
    case(
        "kernel_says_its_version_by_multiboot2",
        "a GRUB ISO reaches the kernel's first line",
        || first_line(Boot::Iso),
    );
}

#[test]
fn grub_accepts_the_kernel() {
    case(
        "grub_accepts_the_kernel",
        "grub-file finds the multiboot2 header",
        || {
            ensure!(
                grub::accepts(&image(Kind::Kernel)?.kernel)?,
                "no multiboot2 header in the first 32 KiB"
            );
            Ok(())
        },
    );
}
