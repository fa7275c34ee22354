//! Finds the one file of the boot archive that the kernel reads: init. The archive is a ustar file;
//! `iso/README.md` says what is in it.
//!
//! What this leaves to others: what the file means ([`crate::elf`]), and every other file (init).

use core::fmt;
use tar_no_std::{CorruptDataError, TarArchiveRef};

/// Name of init's file.
pub const INIT: &str = "init";

/// Bytes of a block; headers and contents are whole blocks.
const BLOCK: usize = 512;

/// Why a file was not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveError {
    /// The archive is no ustar file, or is cut short or damaged.
    Damaged(CorruptDataError),
    /// It has no file of this name.
    Missing,
}

impl fmt::Display for ArchiveError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ArchiveError::Damaged(why) => write!(out, "the boot archive is damaged: {why}"),
            ArchiveError::Missing => out.write_str("the boot archive lacks the file"),
        }
    }
}

impl core::error::Error for ArchiveError {}

/// The contents of the file with this name. Looks at every header of the archive first; bytes after
/// the last whole block are filling.
///
/// # Errors
/// See [`ArchiveError`].
pub fn find<'a>(archive: &'a [u8], name: &str) -> Result<&'a [u8], ArchiveError> {
    let whole = &archive[..archive.len() / BLOCK * BLOCK];
    let files = TarArchiveRef::new(whole).map_err(ArchiveError::Damaged)?;
    let file = files
        .entries()
        .find(|file| file.filename().as_str() == Ok(name));
    file.map(|file| file.data()).ok_or(ArchiveError::Missing)
}

#[cfg(test)]
mod tests {
    use super::{ArchiveError, BLOCK, INIT, find};

    fn pack(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = Vec::new();
        for (name, data) in files {
            let mut header = [0; BLOCK];
            let mut field = |at: usize, text: &str| {
                header[at..at + text.len()].copy_from_slice(text.as_bytes());
            };
            field(0, name);
            field(100, "0000644\0");
            field(108, "0000000\0");
            field(116, "0000000\0");
            field(124, &format!("{:011o}\0", data.len()));
            field(136, "00000000000\0");
            field(148, "        ");
            field(156, "0");
            field(257, "ustar\x0000");
            let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            archive.extend(header);
            archive.extend(*data);
            archive.resize(archive.len().next_multiple_of(BLOCK), 0);
        }
        archive.resize(archive.len() + 2 * BLOCK, 0);
        archive
    }

    #[test]
    fn files_are_found_by_their_whole_name() {
        let mut bytes = pack(&[
            ("in", b"no"),
            ("other", &[7; 700]),
            (INIT, b"yes"),
            ("initial", b""),
        ]);
        assert_eq!(find(&bytes, INIT), Ok(&b"yes"[..]));
        assert_eq!(find(&bytes, "initial"), Ok(&b""[..]));
        assert_eq!(find(&bytes, "ini"), Err(ArchiveError::Missing));
        bytes.extend([0; 100]);
        assert_eq!(find(&bytes, INIT), Ok(&b"yes"[..]));
    }

    #[test]
    fn a_damaged_archive_is_refused_wherever_it_is_cut() {
        let bytes = pack(&[(INIT, &[7; 3000]), ("web", b"x")]);
        for length in 0..bytes.len() - BLOCK {
            let found = find(&bytes[..length], INIT);
            assert!(
                matches!(found, Err(ArchiveError::Damaged(_))),
                "{length} bytes"
            );
        }
        // The two bytes behind the digits of the checksum mean nothing.
        for place in (0..BLOCK).filter(|place| !(154..156).contains(place)) {
            let mut damaged = bytes.clone();
            damaged[place] ^= 0x15;
            let found = find(&damaged, INIT);
            assert!(
                matches!(found, Err(ArchiveError::Damaged(_))),
                "byte {place}"
            );
        }
        assert!(find(&[0xff; 4096], INIT).is_err());
    }
}
