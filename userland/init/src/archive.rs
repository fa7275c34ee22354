//! Finds files in the boot archive (a ustar file, `iso/README.md`). What the files mean is for
//! others to know.

use ipc::manifest::PACKED;
use tar_no_std::{CorruptDataError, TarArchiveRef};

use crate::packed::{Packed, PackedError};

/// The boot archive.
#[derive(Clone, Debug)]
pub struct Archive<'a> {
    files: TarArchiveRef<'a>,
}

impl<'a> Archive<'a> {
    /// Checks the archive's structure. Bytes after the last whole block are filling.
    pub fn read(bytes: &'a [u8]) -> Result<Self, CorruptDataError> {
        const BLOCK: usize = 512;
        let whole = bytes.len() / BLOCK * BLOCK;
        TarArchiveRef::new(&bytes[..whole]).map(|files| Self { files })
    }

    /// The file that is packed as `name` with `suffix`, to be unpacked; `None` if there is no such file.
    pub fn find_packed(&self, name: &str, suffix: &str) -> Option<Result<Packed<'a>, PackedError>> {
        let whole = [name, suffix, PACKED];
        let named = |file: &str| {
            let mut rest = Some(file);
            for part in whole {
                rest = rest.and_then(|rest| rest.strip_prefix(part));
            }
            rest == Some("")
        };
        let mut files = self.files.entries();
        files
            .find(|file| file.filename().as_str().is_ok_and(named))
            .map(|file| Packed::read(file.data()))
    }

    /// The contents of the file with this name.
    pub fn find(&self, name: &str) -> Option<&'a [u8]> {
        self.files
            .entries()
            .find(|file| file.filename().as_str() == Ok(name))
            .map(|file| file.data())
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;
    use crate::packed::PackedError;

    /// A ustar archive of these files.
    fn pack(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut archive = Vec::new();
        for (name, data) in files {
            let mut header = [0; 512];
            header[..name.len()].copy_from_slice(name.as_bytes());
            header[100..108].copy_from_slice(b"0000644\0");
            header[108..116].copy_from_slice(b"0000000\0");
            header[116..124].copy_from_slice(b"0000000\0");
            header[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
            header[136..148].copy_from_slice(b"00000000000\0");
            header[148..156].copy_from_slice(b"        ");
            header[156] = b'0';
            header[257..265].copy_from_slice(b"ustar\x0000");
            let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
            header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            archive.extend(header);
            archive.extend(*data);
            archive.resize(archive.len().next_multiple_of(512), 0);
        }
        archive.resize(archive.len() + 1024, 0);
        archive
    }

    #[test]
    fn files_are_found_by_name() {
        let bytes = pack(&[("init", b"one"), ("other", &[0; 700]), ("web", b"two")]);
        let archive = Archive::read(&bytes).unwrap();
        assert_eq!(archive.find("init"), Some(&b"one"[..]));
        assert_eq!(archive.find("web"), Some(&b"two"[..]));
        assert_eq!(archive.find("we"), None);
    }

    #[test]
    fn packed_files_are_found_by_name_and_suffix() {
        let bytes = pack(&[
            ("web", b"plain"),
            ("web.symbols.lz4", b"no frame"),
            ("web.lz4", b"another"),
        ]);
        let archive = Archive::read(&bytes).unwrap();
        for (name, suffix) in [("web", ""), ("web", ".symbols")] {
            let found = archive.find_packed(name, suffix);
            assert!(matches!(found, Some(Err(PackedError::NotAFrame))));
        }
        for (name, suffix) in [("we", ""), ("web.lz4", ""), ("web", ".symbol"), ("", "web")] {
            let found = archive.find_packed(name, suffix).is_some();
            assert_eq!(found, name.is_empty(), "{name}{suffix}");
        }
    }

    #[test]
    fn filling_after_the_archive_is_no_fault() {
        let mut bytes = pack(&[("init", b"one")]);
        bytes.extend([0; 100]);
        assert!(Archive::read(&bytes).unwrap().find("init").is_some());
    }

    #[test]
    fn what_is_cut_short_or_damaged_is_refused() {
        let bytes = pack(&[("init", &[7; 5000])]);
        for length in 0..bytes.len() - 512 {
            assert!(Archive::read(&bytes[..length]).is_err(), "{length} bytes");
        }
        let mut damaged = bytes;
        damaged[130] = b'7';
        assert!(Archive::read(&damaged).is_err());
    }
}
