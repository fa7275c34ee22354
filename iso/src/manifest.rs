//! The system manifest on the host's side: from the text that people write to the packed form that
//! init reads. The text's fields are in `text`, every check in `check`; the packed form is
//! `ipc::manifest`'s.

mod check;
mod mistake;
mod pack;
mod text;

use std::path::Path;

use anyhow::{Context, Result};

pub use check::check;
pub use mistake::Mistake;
pub use text::{Authority, Manifest, Ports, Restart, Size, Task};

/// Reads a manifest from its text and checks it. `programs` are the binaries there are.
pub fn parse(text: &str, programs: &[&str]) -> Result<Manifest, Mistake> {
    let manifest: Manifest =
        toml::from_str(text).map_err(|error| Mistake::Syntax(Box::new(error)))?;
    check(&manifest, programs)?;
    Ok(manifest)
}

/// Reads and checks a manifest file.
pub fn read(path: &Path, programs: &[&str]) -> Result<Manifest> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text, programs).with_context(|| format!("{} is refused", path.display()))
}

impl Manifest {
    /// The packed form.
    pub fn pack(&self) -> Result<Vec<u8>, Mistake> {
        pack::pack(self)
    }

    /// The programs it names, once each, in the order of the tasks.
    pub fn programs(&self) -> Vec<&str> {
        let mut programs: Vec<&str> = Vec::new();
        for task in &self.task {
            if !programs.contains(&task.binary()) {
                programs.push(task.binary());
            }
        }
        programs
    }
}

impl Task {
    /// Refuses a quota that does not hold what the task certainly needs; `program` is the size of its
    /// program in memory. What is between the least and the most holds it when both do.
    pub fn fits(&self, program: u64) -> Result<(), Mistake> {
        for (field, memory, heap) in [
            ("memory", self.memory, self.heap),
            ("memory_least", self.memory_least(), self.heap_least()),
        ] {
            let needed = program + self.stack.0 + heap.0;
            if memory.0 < needed {
                return Err(Mistake::QuotaTooSmall {
                    task: self.name.clone(),
                    field,
                    memory,
                    needed: Size(needed),
                });
            }
        }
        Ok(())
    }
}
