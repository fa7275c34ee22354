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

/// The manifest of the suite as a server of many connections.
pub const CONNECTIONS: &str = "tests/suite/connections.toml";

/// The end of the manifest of the system with the suite beside it.
pub const BESIDE: &str = "tests/suite/beside.toml";

/// The task that no manifest names, because it starts the others.
pub const INIT: &str = "init";

/// The guest's address in [`Kind::Static`], in a network of 24 bits.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 7, 0, 2);

/// The manifest's part of the network's benchmark.
pub const NETWORK: &str = "tests/bench/net.toml";

/// The guest's address in [`Kind::Network`] and its gateway's, in a network of 24 bits.
pub const NETWORK_GUEST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// See [`NETWORK_GUEST`].
pub const NETWORK_HOST: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

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
    /// The suite as a server of many connections, at [`ADDRESS`].
    Connections,
    /// The suite in the network stack's place, with the card's driver.
    Card,
    /// The same with the driver of the other kind of card.
    CardE1000,
    /// The same with the network's benchmark in the web server's place, and [`NETWORK_GUEST`].
    Network,
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
        Kind::Connections => ("connections", Some(CONNECTIONS), &[]),
        Kind::Card => ("card", Some(CARD), &[]),
        Kind::CardE1000 => ("card-e1000", Some(CARD), &[]),
        Kind::Interleave => ("interleave", Some(INTERLEAVE), &[]),
        Kind::Static => ("static", Some(image::SYSTEM), &[]),
        Kind::Network => ("network", Some(image::SYSTEM), &[]),
        Kind::Beside => ("beside", Some(image::SYSTEM), &[]),
    };
    let mut manifest: Option<PathBuf> = manifest.map(|path| builder.workspace.root.join(path));
    if let Some(path) = &mut manifest {
        let changed = match kind {
            Kind::Static => Some(fixed_address(&fs::read_to_string(&*path)?, ADDRESS)?),
            Kind::Network => {
                let end = fs::read_to_string(builder.workspace.root.join(NETWORK))?;
                Some(network(&fs::read_to_string(&*path)?, &end)?)
            }
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

/// The system's manifest with this address for the network stack.
fn fixed_address(manifest: &str, address: Ipv4Addr) -> Result<String> {
    let dynamic = "ip = \"dhcp\"";
    ensure!(
        manifest.contains(dynamic),
        "no `{dynamic}` in the system's manifest"
    );
    Ok(manifest.replace(dynamic, &format!("ip = \"{address}/24\"")))
}

/// The system's manifest with the network's benchmark, `end`, in the web server's place.
fn network(manifest: &str, end: &str) -> Result<String> {
    let task = "[[task]]";
    let web = |part: &str| part.lines().any(|line| line == "name = \"web\"");
    let parts: Vec<&str> = manifest.split(task).collect();
    let kept: Vec<&str> = parts.iter().copied().filter(|part| !web(part)).collect();
    ensure!(
        kept.len() + 1 == parts.len(),
        "no task `web` in the system's manifest"
    );
    let fixed = fixed_address(&kept.join(task), NETWORK_GUEST)?;
    let arguments = "[task.arguments]\nip = ";
    ensure!(
        fixed.contains(arguments),
        "no `{arguments}` in the system's manifest"
    );
    let gateway = format!("[task.arguments]\ngw = \"{NETWORK_HOST}\"\nip = ");
    Ok(format!("{}\n{end}", fixed.replace(arguments, &gateway)))
}
