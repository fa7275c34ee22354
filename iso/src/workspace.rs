//! Where things are in the workspace: its root, its build folder and the packages that run on the
//! bare machine. How they are built is `build`'s.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::process;

/// The workspace this tool was built from.
pub fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_path_buf()
}

/// What cargo knows of the workspace, as far as the tool needs it.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// The workspace's root folder.
    pub root: PathBuf,
    /// Cargo's build folder; the tool's own results are under it too.
    pub target: PathBuf,
    /// The packages that build for the bare machine as a task, in the order of their names.
    pub tasks: Vec<String>,
    /// The packages that build for the bare machine as a library, by name.
    pub libraries: Vec<String>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    target_directory: PathBuf,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
}

/// Packages that are for the host alone.
const HOST_ONLY: [&str; 3] = ["iso", "path-plugin", "tests"];

impl Workspace {
    /// Asks cargo about the workspace.
    pub fn read() -> Result<Self> {
        let root = root();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let text = process::output(
            Command::new(cargo)
                .args([
                    "metadata",
                    "--no-deps",
                    "--format-version",
                    "1",
                    "--offline",
                ])
                .current_dir(&root),
            Duration::from_secs(60),
        )?;
        let metadata: Metadata =
            serde_json::from_str(&text).context("cannot read what `cargo metadata` says")?;
        let (mut tasks, mut libraries) = (Vec::new(), Vec::new());
        for package in metadata.packages {
            // A task's package is the folder `task` beside the library it is the binary of.
            if package
                .manifest_path
                .parent()
                .is_some_and(|folder| folder.ends_with("task"))
            {
                tasks.push(package.name);
            } else if package.name != "kernel" && !HOST_ONLY.contains(&package.name.as_str()) {
                libraries.push(package.name);
            }
        }
        tasks.sort();
        Ok(Self {
            root,
            target: metadata.target_directory,
            tasks,
            libraries,
        })
    }

    /// The folder of the tool's results: binaries, archives and images.
    pub fn results(&self) -> PathBuf {
        self.target.join("uzura")
    }
}
