//! A boot archive: its files, and its manifest.

use std::fmt::Write;

use anyhow::{Context, Result};

use super::manifest;
use super::program::Program;
use crate::archive;

/// What is in a boot archive.
pub(super) fn describe(bytes: &[u8]) -> Result<String> {
    let found = archive::read(bytes)?;
    let file = |name: &str| {
        let file = found.iter().find(|found| found.file.name == name);
        file.with_context(|| format!("a tar file, but no boot archive: it has no `{name}`"))
    };
    file(ipc::manifest::INIT_FILE)?;
    let manifest = &file(ipc::manifest::FILE)?.file.contents;
    let mut text = format!(
        "boot archive: {} bytes, {} files\n",
        bytes.len(),
        found.len()
    );
    writeln!(
        text,
        "  {:24}  {:>8}  {:>8}  {:>8}  VERSION",
        "FILE", "STORED", "BYTES", "MEMORY"
    )?;
    for found in &found {
        let (name, contents) = (&found.file.name, &found.file.contents);
        let (memory, version) = if contents.starts_with(b"\x7fELF") {
            let program = Program::read(contents).with_context(|| format!("`{name}`"))?;
            let version = program.version.clone().unwrap_or_default();
            (program.memory().to_string(), version)
        } else {
            (String::new(), String::new())
        };
        let line = format!(
            "  {:24}  {:>8}  {:>8}  {memory:>8}  {version}",
            name.escape_debug().to_string(),
            found.stored,
            contents.len()
        );
        writeln!(text, "{}", line.trim_end())?;
    }
    text.push_str(&super::indent(&manifest::describe(manifest)?));
    Ok(text)
}
