//! `cargo run -- sizes`: how big the source is, folder by folder, and how big what boots is. How a
//! file is counted is `count`'s; how figures are printed is `figures`'.

mod count;

use std::path::Path;

use anyhow::{Context, Result};

use crate::archive::{self, Found};
use crate::build::Builder;
use crate::cli::{Profile, SizesOptions};
use crate::figures::{self, Figure};
use crate::image::{self, Image, Recipe};
use crate::{elf, workspace};

pub use count::{Count, count};

/// The workspace's folders, in the order in which a packet meets them, and the host's at the end.
const FOLDERS: [&str; 7] = [
    "boot", "kernel", "ipc", "drivers", "userland", "iso", "tests",
];

/// The largest number of lines of code in the kernel that is still a microkernel's.
const KERNEL_CODE: u64 = 10_000;

/// The same of assembly, in boot and kernel together.
const ASSEMBLY: u64 = 500;

/// Largest stripped kernel, in bytes.
const KERNEL_FILE: u64 = 256 << 10;

/// Largest system to boot, kernel and archive together, in bytes.
const BOOT_FILES: u64 = 1_300_000;

/// Measures and prints.
pub fn command(options: &SizesOptions) -> Result<()> {
    let builder = Builder::new()?;
    let manifest = builder.workspace.root.join(image::SYSTEM);
    let recipe = Recipe {
        manifest: Some(&manifest),
        ..Recipe::system(Profile::Release)
    };
    let image = image::assemble(&builder, &recipe)?;
    let mut all = source()?;
    all.extend(binaries(&image)?);
    figures::print(&all, options.json)
}

/// The source's figures.
pub fn source() -> Result<Vec<Figure>> {
    let root = workspace::root();
    let (mut figures, mut assembly) = (Vec::new(), 0);
    for folder in FOLDERS {
        let mut total = Count::default();
        walk(&root.join(folder), &mut total)?;
        assembly += total.assembly;
        let code = Figure::new(format!("code_{folder}"), total.code, "lines");
        figures.push(if folder == "kernel" {
            code.budget(KERNEL_CODE)
        } else {
            code
        });
        figures.push(Figure::new(format!("tests_{folder}"), total.tests, "lines"));
        figures.push(Figure::new(
            format!("assembly_{folder}"),
            total.assembly,
            "lines",
        ));
        figures.push(Figure::new(
            format!("unsafe_{folder}"),
            total.unsafe_blocks,
            "blocks",
        ));
    }
    figures.push(Figure::new("assembly", assembly, "lines").budget(ASSEMBLY));
    figures.push(Figure::new(
        "system_calls",
        ipc::Operation::ALL.len() as u64,
        "operations",
    ));
    Ok(figures)
}

/// The figures of what boots: every program as a file and as it is loaded, what it and its symbols take in the
/// archive, and the files.
pub fn binaries(image: &Image) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut programs: Vec<_> = std::fs::read_dir(&image.symbols)?.collect::<Result<_, _>>()?;
    programs.sort_by_key(std::fs::DirEntry::file_name);
    for program in programs {
        let name = program.file_name().to_string_lossy().into_owned();
        let stripped = elf::strip(&std::fs::read(program.path())?)?;
        let bytes = stripped.bytes.len() as u64;
        let memory = Figure::new(format!("memory_{name}"), stripped.memory, "bytes");
        let file = Figure::new(format!("file_{name}"), bytes, "bytes");
        figures.push(if name == "kernel" {
            file.budget(KERNEL_FILE)
        } else {
            file
        });
        figures.push(memory);
    }
    let mut all = std::fs::metadata(&image.kernel)?.len();
    if let Some(path) = &image.archive {
        let archive = std::fs::read(path)?;
        for Found { file, stored } in archive::read(&archive)? {
            let name = file.name.replace('.', "_");
            figures.push(Figure::new(format!("archived_{name}"), stored, "bytes"));
        }
        figures.push(Figure::new("archive", archive.len() as u64, "bytes"));
        all += archive.len() as u64;
    }
    figures.push(Figure::new("boot_files", all, "bytes").budget(BOOT_FILES));
    Ok(figures)
}

/// Adds everything under `folder` to `total`.
fn walk(folder: &Path, total: &mut Count) -> Result<()> {
    let entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            walk(&path, total)?;
        } else if let Some(counted) = count(&path)? {
            total.add(counted);
        }
    }
    Ok(())
}
