//! `cargo run -- inspect`: what is in a file that boots, whichever of the tool's results it is. The file is
//! believed nothing: it may be damaged or another one. How each kind is made is `image`'s, `archive`'s,
//! `grub`'s, `disk`'s and `gce`'s.

mod archive;
mod manifest;
mod medium;
mod program;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::cli::InspectOptions;

/// Largest kernel and boot archive that are looked at, in bytes.
const MOST_BYTES: u64 = 1 << 30;

/// A kind of file, and the bytes that it has at a place near its beginning.
struct Kind {
    place: usize,
    mark: &'static [u8],
    describe: fn(&Path) -> Result<String>,
}

/// What is understood. A hybrid ISO has a partition table too: it comes first.
const KINDS: [Kind; 5] = [
    Kind {
        place: 0,
        mark: b"\x7fELF",
        describe: |path| program::describe(&read(path)?),
    },
    // ECMA-119, section 8.1.2: the volume descriptors begin in the 16th sector of 2,048 bytes.
    Kind {
        place: 16 * 2048 + 1,
        mark: b"CD001",
        describe: medium::describe_iso,
    },
    // UEFI Specification 2.10, section 5.3.2.
    Kind {
        place: 512,
        mark: b"EFI PART",
        describe: medium::describe_disk,
    },
    // RFC 1952, section 2.3.1.
    Kind {
        place: 0,
        mark: b"\x1f\x8b",
        describe: medium::describe_packed_disk,
    },
    // POSIX.1-1988, section 10.1.1.
    Kind {
        place: 257,
        mark: b"ustar\0",
        describe: |path| archive::describe(&read(path)?),
    },
];

/// Shows what is in a file.
pub fn command(options: &InspectOptions) -> Result<()> {
    print!("{}", describe(&options.file)?);
    Ok(())
}

/// What is in a file, in lines of text.
///
/// # Errors
/// The file is none of the tool's results, or damaged; the error says where.
pub fn describe(path: &Path) -> Result<String> {
    let unreadable = || format!("cannot read {}", path.display());
    let mut head = Vec::new();
    let longest = KINDS.iter().map(|kind| kind.place + kind.mark.len()).max();
    File::open(path)
        .with_context(unreadable)?
        .take(longest.unwrap_or(0) as u64)
        .read_to_end(&mut head)
        .with_context(unreadable)?;
    let is = |kind: &&Kind| {
        let rest = head.get(kind.place..);
        rest.is_some_and(|rest| rest.starts_with(kind.mark))
    };
    match KINDS.iter().find(is) {
        Some(kind) => {
            (kind.describe)(path).with_context(|| format!("{} cannot be inspected", path.display()))
        }
        None => bail!(
            "{} is no kernel, boot archive, ISO, disk or archive of a disk; \
             `cargo run -- image` makes them",
            path.display()
        ),
    }
}

/// The whole of a file.
fn read(path: &Path) -> Result<Vec<u8>> {
    let unreadable = || format!("cannot read {}", path.display());
    let mut bytes = Vec::new();
    File::open(path)
        .with_context(unreadable)?
        .take(MOST_BYTES)
        .read_to_end(&mut bytes)
        .with_context(unreadable)?;
    if bytes.len() as u64 == MOST_BYTES {
        bail!("{} is too large", path.display());
    }
    Ok(bytes)
}

/// Lines of text, each a little further to the right.
fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
