//! What boots: the kernel and the boot archive of a manifest, built, stripped, packed and written
//! side by side with the files that have the symbols. Starting it is `run`'s, putting it on a medium
//! `grub`'s and `disk`'s.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::archive::File;
use crate::build::Builder;
use crate::cli::{ImageKind, ImageOptions, Profile};
use crate::manifest::{self, Manifest};
use crate::{archive, disk, elf, gce, grub, say, symbol_table};

/// The manifest of the system that `run` boots, from the workspace's root.
pub const SYSTEM: &str = "userland/manifest.toml";

/// What to build.
#[derive(Debug, Clone, Copy)]
pub struct Recipe<'a> {
    /// What the image is called: its folder under the results.
    pub name: &'a str,
    /// The manifest; `None` for a kernel without boot archive.
    pub manifest: Option<&'a Path>,
    /// How to compile.
    pub profile: Profile,
    /// Features of the kernel.
    pub features: &'a [&'a str],
}

/// What was built.
#[derive(Debug, Clone)]
pub struct Image {
    /// The kernel's file, stripped.
    pub kernel: PathBuf,
    /// The boot archive.
    pub archive: Option<PathBuf>,
    /// The folder of the files with symbols: `kernel` and one for each program.
    pub symbols: PathBuf,
}

impl Image {
    /// The folder that it is in, where what is made of it belongs too.
    pub fn folder(&self) -> &Path {
        // A file's path has a parent, be it the empty one.
        self.kernel.parent().unwrap_or(Path::new(""))
    }
}

impl Recipe<'_> {
    /// What `run` boots, without the manifest's path.
    pub fn system(profile: Profile) -> Self {
        Self {
            name: "system",
            manifest: None,
            profile,
            features: &[],
        }
    }
}

/// `cargo run -- image`: makes an image and says on standard output where its files are.
pub fn command(options: &ImageOptions) -> Result<()> {
    let builder = Builder::new()?;
    let manifest = builder.workspace.root.join(SYSTEM);
    let image = assemble(
        &builder,
        &Recipe {
            manifest: Some(&manifest),
            ..Recipe::system(options.profile)
        },
    )?;
    let out = options.out.as_deref().unwrap_or(image.folder());
    match options.kind {
        ImageKind::Kernel => {
            for file in [Some(&image.kernel), image.archive.as_ref()]
                .into_iter()
                .flatten()
            {
                println!("{}", place(file, out)?.display());
            }
        }
        ImageKind::Iso => println!("{}", grub::iso(&image, &options.append, out)?.display()),
        ImageKind::Gce => {
            let disk = disk::make(&image, &options.append, image.folder())?;
            say::progress(&format!("the disk itself is {}", disk.display()));
            let archive = gce::pack(&disk, out)?;
            println!("{}", archive.display());
            say::progress("what brings it to Compute Engine and starts it there:");
            eprint!("\n{}", gce::commands(&archive));
        }
    }
    Ok(())
}

/// Copies a result to a folder, unless it is there already.
fn place(file: &Path, folder: &Path) -> Result<PathBuf> {
    let name = file.file_name().context("a result has no name")?;
    let copy = folder.join(name);
    if copy != file {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
        let bytes =
            std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        write(&copy, &bytes)?;
    }
    Ok(copy)
}

/// Builds what `recipe` says.
pub fn assemble(builder: &Builder, recipe: &Recipe<'_>) -> Result<Image> {
    let folder = builder.workspace.results().join(recipe.name);
    let image = Image {
        kernel: folder.join("kernel"),
        archive: recipe.manifest.map(|_| folder.join("archive")),
        symbols: folder.join("symbols"),
    };
    std::fs::create_dir_all(&image.symbols)
        .with_context(|| format!("cannot make the folder {}", image.symbols.display()))?;
    // A mistake in the manifest is told before anything is compiled.
    let manifest = recipe
        .manifest
        .map(|path| read_manifest(builder, path))
        .transpose()?;
    let kernel = builder.kernel(recipe.profile, recipe.features)?;
    write(
        &image.kernel,
        &strip(&kernel, &image.symbols.join("kernel"))?.bytes,
    )?;
    if let (Some(manifest), Some(path)) = (&manifest, &image.archive) {
        write(
            path,
            &pack(builder, recipe.profile, manifest, &kernel, &image.symbols)?,
        )?;
    }
    Ok(image)
}

/// Reads a manifest and checks it against the programs that there are.
pub fn read_manifest(builder: &Builder, path: &Path) -> Result<Manifest> {
    let programs: Vec<&str> = builder
        .workspace
        .tasks
        .iter()
        .filter_map(|package| package.strip_suffix("-task"))
        .collect();
    manifest::read(path, &programs)
}

/// Builds the programs and makes the boot archive of them.
fn pack(
    builder: &Builder,
    profile: Profile,
    manifest: &Manifest,
    kernel: &Path,
    symbols: &Path,
) -> Result<Vec<u8>> {
    let names = manifest.programs();
    let init = ipc::manifest::INIT_FILE;
    let packages: Vec<String> = [init]
        .iter()
        .chain(&names)
        .map(|name| format!("{name}-task"))
        .collect();
    let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
    let built = builder.tasks(profile, &packages)?;
    let (init_file, program_files) = built.split_first().context("nothing was built")?;
    let packed = manifest.pack().context("the manifest is refused")?;
    // The kernel reads what is plain and unpacks nothing; the manifest is read where it lies.
    let mut contents = vec![
        File::plain(init, strip(init_file, &symbols.join(init))?.bytes),
        File::plain(ipc::manifest::FILE, packed),
        File::plain(ipc::symbols::KERNEL_FILE, table(kernel)?),
    ];
    for (name, file) in names.iter().zip(program_files) {
        let program = strip(file, &symbols.join(name))?;
        for task in manifest.task.iter().filter(|task| task.binary() == *name) {
            task.fits(program.memory)
                .context("the manifest is refused")?;
        }
        let symbols_name = format!("{name}{}", ipc::symbols::SUFFIX);
        contents.push(File::packed(name, program.bytes));
        contents.push(File::packed(&symbols_name, table(file)?));
    }
    say::progress(&format!(
        "packing the boot archive: {} programs",
        packages.len()
    ));
    archive::pack(&contents)
}

/// The symbol table of a compiled file.
fn table(file: &Path) -> Result<Vec<u8>> {
    let whole = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    symbol_table::make(&whole)
        .with_context(|| format!("cannot take the symbols of {}", file.display()))
}

/// Reads a compiled file, keeps a copy with its symbols, and returns what a loader needs of it.
fn strip(file: &Path, copy: &Path) -> Result<elf::Program> {
    let whole = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    write(copy, &whole)?;
    elf::strip(&whole).with_context(|| format!("{} cannot be booted", file.display()))
}

/// Writes a file unless it has these contents already: a running emulator may still have it open.
fn write(path: &Path, contents: &[u8]) -> Result<()> {
    if std::fs::read(path).is_ok_and(|old| old == contents) {
        return Ok(());
    }
    // Renaming leaves the old file to those who have it open.
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, contents)
        .with_context(|| format!("cannot write {}", fresh.display()))?;
    std::fs::rename(&fresh, path).with_context(|| format!("cannot write {}", path.display()))
}
