//! Writes the boot archive: a ustar file whose files' contents begin on pages. What goes into it is
//! `image`'s; readers are in the kernel and in init.

use anyhow::{Context, Result};
use tar::{Builder, EntryType, Header};

/// The unit of the format.
const BLOCK: usize = 512;

/// Where files' contents are aligned to.
const PAGE: usize = ipc::layout::PAGE_BYTES as usize;

/// The name of filling.
pub const PAD: &str = ".pad";

/// Packs `files`, in their order.
pub fn pack(files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    for (name, content) in files {
        if let Some(filling) = filling(builder.get_ref().len()) {
            append(&mut builder, PAD, &vec![0; filling])?;
        }
        append(&mut builder, name, content)?;
    }
    builder.into_inner().context("cannot end the boot archive")
}

/// How much filling, with a header of its own, puts the content after the next header onto a page.
fn filling(position: usize) -> Option<usize> {
    if (position + BLOCK).is_multiple_of(PAGE) {
        return None;
    }
    let content = position + 2 * BLOCK;
    Some(content.next_multiple_of(PAGE) - content)
}

fn append(builder: &mut Builder<Vec<u8>>, name: &str, content: &[u8]) -> Result<()> {
    let mut header = Header::new_ustar();
    header.set_entry_type(EntryType::Regular);
    header
        .set_path(name)
        .with_context(|| format!("`{name}` cannot be a name in the boot archive"))?;
    header.set_size(content.len() as u64);
    header.set_mode(0o444);
    // The same content gives the same archive, whoever packs it and when.
    header.set_mtime(0);
    header.set_cksum();
    builder
        .append(&header, content)
        .with_context(|| format!("cannot pack `{name}`"))
}

#[cfg(test)]
mod tests {
    use tar_no_std::TarArchiveRef;

    use super::*;

    fn contents() -> Vec<(String, Vec<u8>)> {
        [0, 1, 511, 512, 513, 3584, 4095, 4096, 4097, 100_000]
            .iter()
            .map(|length| (format!("file-{length}"), vec![0x5a; *length]))
            .collect()
    }

    fn packed() -> Vec<u8> {
        let contents = contents();
        let files: Vec<_> = contents
            .iter()
            .map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
            .collect();
        pack(&files).unwrap()
    }

    #[test]
    fn reader_of_the_kernel_finds_every_file() {
        let archive = packed();
        let found: Vec<_> = TarArchiveRef::new(&archive)
            .unwrap()
            .entries()
            .map(|entry| {
                (
                    entry.filename().as_str().unwrap().to_owned(),
                    entry.data().to_vec(),
                )
            })
            .filter(|(name, _)| name != PAD)
            .collect();
        assert_eq!(found, contents());
    }

    #[test]
    fn contents_begin_on_pages() {
        let archive = packed();
        for entry in tar::Archive::new(archive.as_slice()).entries().unwrap() {
            let entry = entry.unwrap();
            if entry.path().unwrap().to_str() != Some(PAD) {
                assert_eq!(
                    entry.raw_file_position() % PAGE as u64,
                    0,
                    "{:?}",
                    entry.path()
                );
            }
        }
    }

    #[test]
    fn same_files_give_the_same_archive() {
        assert_eq!(packed(), packed());
    }
}
