//! Finds a compiler that can build for the bare machine: one that has cargo and its own library
//! source beside it, so that `-Zbuild-std` works. Installs one where there is none. What is built
//! with it is `build`'s.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::{packages, process, say, workspace};

/// How long a question to a compiler may take.
const ASK: Duration = Duration::from_secs(60);

/// How long `rustup component add` may take: it can hang where its server is out of reach.
const RUSTUP_LIMIT: Duration = Duration::from_secs(180);

/// Debian's packages of a compiler, its cargo, clippy and source, and a linker.
const DEBIAN: [&str; 5] = [
    "rustc-web",
    "cargo-web",
    "rust-web-src",
    "rust-web-clippy",
    "lld",
];

/// A compiler with its library source.
#[derive(Debug, Clone)]
pub struct Toolchain {
    /// The folder that `rustc --print sysroot` names.
    pub sysroot: PathBuf,
    /// What the compiler calls itself.
    pub version: String,
    /// The linker to name to it; `None` when it has one of its own.
    pub linker: Option<PathBuf>,
    /// The machine it runs on, as a target name.
    pub host: String,
}

impl Toolchain {
    /// The compiler that builds for the bare machine: the active one if its source is there, else
    /// the distribution's, else one that is installed now.
    pub fn find() -> Result<Self> {
        if let Some(found) = Self::present()? {
            return Ok(found);
        }
        let ways: [fn() -> Result<()>; 2] = [install_debian, add_rust_src];
        let mut failures = Vec::new();
        for way in ways {
            if let Err(error) = way() {
                failures.push(format!("{error:#}"));
            }
            if let Some(found) = Self::present()? {
                return Ok(found);
            }
        }
        bail!(
            "no Rust compiler with its library source; {}; tried: {}",
            mend(),
            failures.join("; ")
        )
    }

    /// The best compiler on this machine; a linker is installed when only that is missing.
    fn present() -> Result<Option<Self>> {
        for rustc in ["rustc", "/usr/bin/rustc"] {
            if let Some(found) = Self::at(rustc)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// The toolchain that `rustc` belongs to, if it can build for the bare machine.
    fn at(rustc: &str) -> Result<Option<Self>> {
        let ask = |arguments: &[&str]| {
            let mut command = Command::new(rustc);
            command.args(arguments).current_dir(workspace::root());
            process::output(&mut command, ASK)
        };
        let Ok(sysroot) = ask(&["--print", "sysroot"]) else {
            return Ok(None);
        };
        let sysroot = PathBuf::from(sysroot.trim());
        let source = sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml");
        if !source.is_file() || !sysroot.join("bin/cargo").is_file() {
            return Ok(None);
        }
        let verbose = ask(&["-vV"])?;
        let field = |name: &str| {
            verbose
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .unwrap_or("")
                .trim()
                .to_owned()
        };
        if !recent_enough(&field("release:")) {
            return Ok(None);
        }
        let host = field("host:");
        let linker = linker(&sysroot, &host)?;
        let version = verbose.lines().next().unwrap_or("rustc").to_owned();
        Ok(Some(Self {
            sysroot,
            version,
            linker,
            host,
        }))
    }

    /// A cargo command of this toolchain for the bare machine, free of what the cargo that started
    /// the tool has put into the environment.
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(self.program("cargo"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            let inherited = name.starts_with("CARGO")
                && name != "CARGO_HOME"
                && !name.starts_with("CARGO_NET")
                && !name.starts_with("CARGO_HTTP")
                && !name.starts_with("CARGO_REGISTR")
                && !name.starts_with("CARGO_SOURCE")
                && !name.starts_with("CARGO_TERM");
            if inherited
                || name.starts_with("RUST") && name != "RUSTUP_HOME"
                || name == "LD_LIBRARY_PATH"
            {
                command.env_remove(name.as_ref());
            }
        }
        // build-std is not a stable flag yet; this makes a stable compiler take it.
        command
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTC", self.program("rustc"));
        command.env("RUSTDOC", self.program("rustdoc"));
        if let Some(linker) = &self.linker {
            command.env("CARGO_TARGET_X86_64_UNKNOWN_NONE_LINKER", linker);
        }
        // `cargo clippy` looks for its parts beside itself only by PATH.
        let mut path = vec![self.sysroot.join("bin")];
        path.extend(
            std::env::var_os("PATH")
                .iter()
                .flat_map(std::env::split_paths),
        );
        if let Ok(path) = std::env::join_paths(path) {
            command.env("PATH", path);
        }
        command
    }

    /// A program of this toolchain.
    pub fn program(&self, name: &str) -> PathBuf {
        self.sysroot.join("bin").join(name)
    }
}

/// The linker to name: none when the toolchain has `rust-lld`, else the system's `ld.lld`.
fn linker(sysroot: &Path, host: &str) -> Result<Option<PathBuf>> {
    if sysroot
        .join("lib/rustlib")
        .join(host)
        .join("bin/rust-lld")
        .is_file()
    {
        return Ok(None);
    }
    packages::need("ld.lld", &["lld"])?;
    Ok(Some("ld.lld".into()))
}

/// Whether a compiler of this release can build the workspace.
fn recent_enough(release: &str) -> bool {
    let number = |text: &str| {
        let mut parts = text
            .split(['.', '-'])
            .map(|part| part.parse::<u32>().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
    };
    number(release) >= number(env!("CARGO_PKG_RUST_VERSION"))
}

/// Installs the distribution's compiler.
fn install_debian() -> Result<()> {
    packages::install("a Rust compiler with its library source", &DEBIAN)
}

/// Asks rustup for the active toolchain's source.
fn add_rust_src() -> Result<()> {
    if !process::on_path("rustup") {
        bail!("rustup is not installed");
    }
    say::progress("running `rustup component add rust-src`");
    let mut command = Command::new("rustup");
    command
        .args(["component", "add", "rust-src"])
        .current_dir(workspace::root());
    process::run(&mut command, RUSTUP_LIMIT)
}

/// What a person can do about a missing compiler.
fn mend() -> String {
    format!(
        "run `rustup component add rust-src`, or as root on Debian 12 `apt-get install {}` (rustc {} or newer)",
        DEBIAN.join(" "),
        env!("CARGO_PKG_RUST_VERSION")
    )
}
