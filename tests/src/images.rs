//! What the tests boot, built once in each test program: the system of `cargo run` and the
//! in-emulator suite. How it is built is the tool's.

use std::collections::BTreeSet;
use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use iso::build::Builder;
use iso::cli::Profile;
use iso::image::{self, Image, Recipe};

/// The manifest of the in-emulator suite, from the workspace's root.
pub const SUITE: &str = "tests/suite/manifest.toml";

/// The manifest of the suite's part that needs much memory.
pub const LARGE: &str = "tests/suite/large.toml";

/// The manifest of the threads that take turns.
pub const INTERLEAVE: &str = "tests/bench/interleave.toml";

/// The manifest of the suite in the network stack's place.
pub const CARD: &str = "tests/suite/card.toml";

/// The end of the manifest of the system with the suite beside it.
pub const BESIDE: &str = "tests/suite/beside.toml";

/// The task that no manifest names, because it starts the others.
pub const INIT: &str = "init";

/// The guest's address in [`Kind::Static`], in a network of 24 bits.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 2);

/// Something that boots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The kernel alone.
    Kernel,
    /// What `cargo run` boots.
    System,
    /// The same, but with a fixed address, [`ADDRESS`], where there is no DHCP server.
    Static,
    /// The in-emulator suite.
    Suite,
    /// The part of the suite that needs much memory.
    Large,
    /// The suite in the network stack's place, with the card's driver.
    Card,
    /// The same with the driver of the other kind of card.
    CardE1000,
    /// What `cargo run` boots, and the suite beside it.
    Beside,
    /// Threads of one task that do everything at once, by a seed (`interleave.seed=N`).
    Interleave,
    /// The suite with a kernel that can be broken on its command line (`mutant=NAME`).
    Mutants,
    /// The suite with a kernel that panics on request (`panic=NAME`).
    Panics,
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
        Kind::Panics => ("panics", Some(SUITE), &["panics"]),
        Kind::Card => ("card", Some(CARD), &[]),
        Kind::CardE1000 => ("card-e1000", Some(CARD), &[]),
        Kind::Interleave => ("interleave", Some(INTERLEAVE), &[]),
        Kind::Static => ("static", Some(image::SYSTEM), &[]),
        Kind::Beside => ("beside", Some(image::SYSTEM), &[]),
    };
    let mut manifest: Option<PathBuf> = manifest.map(|path| builder.workspace.root.join(path));
    if let Some(path) = &mut manifest {
        let changed = match kind {
            Kind::Static => Some(fixed_address(&fs::read_to_string(&*path)?)?),
            Kind::Beside => {
                let end = fs::read_to_string(builder.workspace.root.join(BESIDE))?;
                Some(format!("{}\n{end}", fs::read_to_string(&*path)?))
            }
            Kind::CardE1000 => {
                let text = fs::read_to_string(&*path)?;
                Some(text.replace("\"virtio-net\"", "\"e1000\""))
            }
            _ => None,
        };
        if let Some(text) = changed {
            *path = builder.workspace.results().join(format!("{name}.toml"));
            fs::create_dir_all(builder.workspace.results())?;
            fs::write(&*path, text).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
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

/// The tasks of [`Kind::System`], as `ps` names them: those of its manifest, and init.
pub fn tasks() -> Result<BTreeSet<String>> {
    let builder = Builder::new()?;
    let path = builder.workspace.root.join(image::SYSTEM);
    let manifest = image::read_manifest(&builder, &path)?;
    let names = manifest.task.into_iter().map(|task| task.name);
    Ok(names.chain([INIT.to_owned()]).collect())
}

/// The system's manifest with [`ADDRESS`] for the network stack.
fn fixed_address(manifest: &str) -> Result<String> {
    let dynamic = "ip = \"dhcp\"";
    ensure!(
        manifest.contains(dynamic),
        "no `{dynamic}` in the system's manifest"
    );
    Ok(manifest.replace(dynamic, &format!("ip = \"{ADDRESS}/24\"")))
}
