//! Compiles the kernel, the tasks and the libraries for `x86_64-unknown-none`. Which compiler does it
//! is `toolchain`'s; what goes into an image is the images' business.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cli::{BuildOptions, Profile};
use crate::toolchain::Toolchain;
use crate::workspace::Workspace;
use crate::{process, say};

/// The target of everything that is not a host program.
pub const TARGET: &str = "x86_64-unknown-none";

/// How long one cargo run may take on a slow machine with nothing built yet.
const BUILD_LIMIT: Duration = Duration::from_secs(40 * 60);

/// The linker script of the kernel, from the workspace's root.
const KERNEL_SCRIPT: &str = "boot/kernel.ld";

/// Compiler flags of the kernel: linked at a fixed address in the top two gigabytes.
const KERNEL_FLAGS: [&str; 3] = [
    "-Crelocation-model=static",
    "-Ccode-model=kernel",
    "-Cforce-frame-pointers=yes",
];

/// Compiler flags of a task: linked at a fixed address in the bottom two gigabytes, because nothing
/// relocates it when it is loaded.
const TASK_FLAGS: [&str; 3] = [
    "-Crelocation-model=static",
    "-Ccode-model=small",
    "-Cforce-frame-pointers=yes",
];

/// Distance of the addresses that two tasks are linked at. Tasks could share one, but then an address
/// alone would not say whose code it is, to `symbolize` and to a debugger.
const TASK_STRIDE: usize = 16 << 20;

/// Builds for the bare machine with one toolchain.
#[derive(Debug)]
pub struct Builder {
    /// Where things are.
    pub workspace: Workspace,
    /// The compiler.
    pub toolchain: Toolchain,
}

impl Builder {
    /// Finds workspace and compiler.
    pub fn new() -> Result<Self> {
        Ok(Self {
            workspace: Workspace::read()?,
            toolchain: Toolchain::find()?,
        })
    }

    /// Builds the kernel with the named features and returns its file.
    pub fn kernel(&self, profile: Profile, features: &[&str]) -> Result<PathBuf> {
        let script = self.workspace.root.join(KERNEL_SCRIPT);
        let text = std::fs::read(&script).with_context(|| {
            format!(
                "cannot read the kernel's linker script {}",
                script.display()
            )
        })?;
        let target = self.workspace.target.join("bare-kernel");
        let mut cargo = self.cargo("rustc", &target, &KERNEL_FLAGS, profile);
        cargo.args(["--package", "kernel", "--bin", "kernel"]);
        if !features.is_empty() {
            cargo.arg("--features").arg(features.join(","));
        }
        // Cargo does not know that the script matters: its hash in the crate's metadata tells it.
        cargo
            .arg("--")
            .arg(format!("-Clink-arg=-T{}", script.display()))
            .arg("-Clink-arg=--build-id=fast")
            // The script puts segments on pages of memory; in the file they need no filling between them.
            .arg("-Clink-arg=--nmagic");
        cargo.arg(format!("-Cmetadata={:016x}", hash(&text)));
        say::progress("building the kernel");
        process::run(&mut cargo, BUILD_LIMIT).context("the kernel does not build")?;
        Ok(output_folder(&target, profile).join("kernel"))
    }

    /// Builds the tasks' packages of these names and returns each one's file, in the same order.
    pub fn tasks(&self, profile: Profile, packages: &[&str]) -> Result<Vec<PathBuf>> {
        let target = self.workspace.target.join("bare-tasks");
        let mut cargo = self.cargo("build", &target, &TASK_FLAGS, profile);
        cargo.arg("-Zprofile-rustflags");
        for package in packages {
            let base = self.base(package)?;
            cargo.arg("--package").arg(package).arg("--config");
            let profile = profile.name();
            cargo.arg(format!(
                "profile.{profile}.package.{package}.rustflags=['-Clink-arg=--image-base={base:#x}']"
            ));
        }
        if !packages.is_empty() {
            say::progress(&format!("building the tasks: {}", packages.join(", ")));
            process::run(&mut cargo, BUILD_LIMIT).context("the tasks do not build")?;
        }
        let folder = output_folder(&target, profile);
        Ok(packages.iter().map(|name| folder.join(name)).collect())
    }

    /// The address that a task's program is linked at.
    fn base(&self, package: &str) -> Result<usize> {
        let tasks = &self.workspace.tasks;
        match tasks.iter().position(|task| task == package) {
            Some(position) => Ok((position + 1) * TASK_STRIDE),
            None => bail!(
                "no task package is named `{package}`; there are: kernel, {}",
                tasks.join(", ")
            ),
        }
    }

    fn cargo(&self, verb: &str, target: &Path, flags: &[&str], profile: Profile) -> Command {
        let mut cargo = self.toolchain.cargo();
        cargo.current_dir(&self.workspace.root).arg(verb);
        cargo.args([
            "-Zbuild-std=core,alloc",
            "-Zbuild-std-features=compiler-builtins-mem",
        ]);
        cargo.args(["--target", TARGET, "--target-dir"]).arg(target);
        cargo.args(["--profile", profile.name()]);
        // Functions' names as people write them: without these a debugger knows only mangled ones.
        cargo
            .arg("--config")
            .arg(format!("profile.{}.debug='limited'", profile.name()));
        cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
        cargo
    }
}

/// `cargo run -- build`: builds what is named, or everything.
pub fn command(options: &BuildOptions) -> Result<()> {
    let builder = Builder::new()?;
    let all = options.packages.is_empty();
    let mut tasks: Vec<&str> = Vec::new();
    for name in &options.packages {
        if name != "kernel" {
            tasks.push(name);
        }
    }
    if all {
        tasks.extend(builder.workspace.tasks.iter().map(String::as_str));
    }
    if all || options.packages.iter().any(|name| name == "kernel") {
        let features: Vec<&str> = options.features.iter().map(String::as_str).collect();
        println!("{}", builder.kernel(options.profile, &features)?.display());
    }
    for file in builder.tasks(options.profile, &tasks)? {
        println!("{}", file.display());
    }
    Ok(())
}

/// `cargo run -- clippy`: lints libraries, kernel and tasks as they are built for the bare machine.
pub fn clippy() -> Result<()> {
    let builder = Builder::new()?;
    let target = builder.workspace.target.join("bare-clippy");
    let mut cargo = builder.cargo("clippy", &target, &TASK_FLAGS, Profile::Dev);
    let packages = builder
        .workspace
        .libraries
        .iter()
        .chain(&builder.workspace.tasks);
    for package in packages {
        cargo.arg("--package").arg(package);
    }
    cargo.args(["--package", "kernel", "--", "--deny", "warnings"]);
    say::progress(&format!(
        "clippy on libraries, kernel and tasks for {TARGET}"
    ));
    process::run(&mut cargo, BUILD_LIMIT).context("the lints are not clean")
}

/// Where cargo leaves a profile's binaries.
fn output_folder(target: &Path, profile: Profile) -> PathBuf {
    let folder = match profile {
        Profile::Release => "release",
        // Cargo names this profile's folder otherwise.
        Profile::Dev => "debug",
    };
    target.join(TARGET).join(folder)
}

/// A short name for these bytes, the same on every machine.
fn hash(bytes: &[u8]) -> u64 {
    // FNV-1a, 64 bits.
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
