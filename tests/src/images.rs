//! What the tests boot, built once in each test program: the system of `cargo run` and the
//! in-emulator suite. How it is built is the tool's.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use iso::build::Builder;
use iso::cli::Profile;
use iso::image::{self, Image, Recipe};

/// The manifest of the in-emulator suite, from the workspace's root.
pub const SUITE: &str = "tests/suite/manifest.toml";

/// The manifest of the suite's part that needs much memory.
pub const LARGE: &str = "tests/suite/large.toml";

/// Something that boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The kernel alone.
    Kernel,
    /// What `cargo run` boots.
    System,
    /// The in-emulator suite.
    Suite,
    /// The part of the suite that needs much memory.
    Large,
    /// The suite with a kernel that can be broken on its command line (`mutant=NAME`).
    Mutants,
}

/// What was built so far in this process. Held while building: cargo would only wait for itself.
static BUILT: Mutex<Vec<(Kind, Image)>> = Mutex::new(Vec::new());

/// The image of this kind, built now if it was not yet.
pub fn image(kind: Kind) -> Result<Image> {
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, image)) = built.iter().find(|(known, _)| *known == kind) {
        return Ok(image.clone());
    }
    let builder = Builder::new()?;
    let (name, manifest, features): (_, _, &[&str]) = match kind {
        Kind::Kernel => ("kernel", None, &[]),
        Kind::System => ("system", Some(image::SYSTEM), &[]),
        Kind::Suite => ("suite", Some(SUITE), &[]),
        Kind::Large => ("large", Some(LARGE), &[]),
        Kind::Mutants => ("mutants", Some(SUITE), &["mutants"]),
    };
    let manifest: Option<PathBuf> = manifest.map(|path| builder.workspace.root.join(path));
    let recipe = Recipe {
        name,
        manifest: manifest.as_deref(),
        profile: Profile::Release,
        features,
    };
    let image = image::assemble(&builder, &recipe)?;
    built.push((kind, image.clone()));
    Ok(image)
}
