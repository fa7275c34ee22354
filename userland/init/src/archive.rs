//! Finds files in the boot archive (a ustar file, `iso/README.md`). What the files mean is for
//! others to know.

use tar_no_std::{CorruptDataError, TarArchiveRef};

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
        let bytes = pack(&[("init", b"one"), (".pad", &[0; 700]), ("web", b"two")]);
        let archive = Archive::read(&bytes).unwrap();
        assert_eq!(archive.find("init"), Some(&b"one"[..]));
        assert_eq!(archive.find("web"), Some(&b"two"[..]));
        assert_eq!(archive.find("we"), None);
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
