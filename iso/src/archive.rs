//! Writes and reads the boot archive: a ustar file, in which most files are LZ4 frames. What goes into it is
//! `image`'s; the readers in the guest are in the kernel and in init.

use std::io::{Read, Write};

use anyhow::{Context, Result, ensure};
use ipc::manifest::PACKED;
use lz4_flex::frame::{BlockSize, FrameDecoder, FrameEncoder, FrameInfo};
use tar::{Builder, EntryType, Header};

/// Largest file that is unpacked, in bytes: a damaged one may claim 255 times its length. A program has 16 MiB of
/// addresses.
const MOST_BYTES: u64 = 64 << 20;

/// A file of the boot archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its name, without the ending of a packed file.
    pub name: String,
    /// What is in it.
    pub contents: Vec<u8>,
    /// Whether it lies in the archive as it is, for a reader that does not unpack.
    pub plain: bool,
}

/// A file as it was found in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The file, unpacked.
    pub file: File,
    /// How many bytes of the archive its contents take, without header and filling.
    pub stored: u64,
}

impl File {
    /// A file that lies in the archive as it is.
    pub fn plain(name: &str, contents: Vec<u8>) -> Self {
        Self {
            name: name.to_owned(),
            contents,
            plain: true,
        }
    }

    /// A file that is packed.
    pub fn packed(name: &str, contents: Vec<u8>) -> Self {
        Self {
            plain: false,
            ..Self::plain(name, contents)
        }
    }
}

/// Packs `files`, in their order.
pub fn pack(files: &[File]) -> Result<Vec<u8>> {
    let mut builder = Builder::new(Vec::new());
    for File {
        name,
        contents,
        plain,
    } in files
    {
        ensure!(
            !plain || !name.ends_with(PACKED),
            "`{name}` would be taken for a packed file"
        );
        if *plain {
            append(&mut builder, name, contents)?;
        } else {
            append(
                &mut builder,
                &format!("{name}{PACKED}"),
                &compress(contents)?,
            )?;
        }
    }
    builder.into_inner().context("cannot end the boot archive")
}

/// The files of an archive, unpacked, in their order.
pub fn read(archive: &[u8]) -> Result<Vec<Found>> {
    let mut files = Vec::new();
    let mut reader = tar::Archive::new(archive);
    for entry in reader.entries().context("not a ustar file")? {
        let mut entry = entry.context("the boot archive is cut short or damaged")?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let mut stored = Vec::new();
        entry
            .read_to_end(&mut stored)
            .with_context(|| format!("`{name}` is cut short"))?;
        let file = match name.strip_suffix(PACKED) {
            Some(short) => File::packed(
                short,
                decompress(&stored).with_context(|| format!("`{name}` cannot be unpacked"))?,
            ),
            None => File::plain(&name, stored.clone()),
        };
        files.push(Found {
            file,
            stored: stored.len() as u64,
        });
    }
    Ok(files)
}

/// An LZ4 frame of the only kind that init reads (`userland/init/src/packed.rs`).
fn compress(contents: &[u8]) -> Result<Vec<u8>> {
    let info = FrameInfo::new()
        .block_size(BlockSize::Max64KB)
        .content_size(Some(contents.len() as u64))
        .content_checksum(true);
    let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
    encoder.write_all(contents)?;
    Ok(encoder.finish()?)
}

fn decompress(stored: &[u8]) -> Result<Vec<u8>> {
    let mut contents = Vec::new();
    FrameDecoder::new(stored)
        .take(MOST_BYTES + 1)
        .read_to_end(&mut contents)?;
    ensure!(
        contents.len() as u64 <= MOST_BYTES,
        "it is larger than {MOST_BYTES} bytes"
    );
    Ok(contents)
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

    fn files() -> Vec<File> {
        let lengths = [0, 1, 511, 512, 513, 65_535, 65_536, 65_537, 300_000];
        let contents = |length: usize| (0..length).map(|at| (at / 50) as u8).collect();
        let plain = lengths.map(|length| File::plain(&format!("plain-{length}"), contents(length)));
        let packed =
            lengths.map(|length| File::packed(&format!("packed-{length}"), contents(length)));
        [plain, packed].concat()
    }

    #[test]
    fn what_is_packed_is_read() {
        let archive = pack(&files()).unwrap();
        let found = read(&archive).unwrap();
        let read: Vec<File> = found.iter().map(|found| found.file.clone()).collect();
        assert_eq!(read, files());
        for Found { file, stored } in found {
            let whole = file.contents.len() as u64;
            assert!(
                if file.plain {
                    stored == whole
                } else {
                    whole < 1000 || stored < whole / 4
                },
                "{} takes {stored} bytes",
                file.name
            );
        }
    }

    #[test]
    fn reader_of_the_kernel_finds_every_plain_file() {
        let archive = pack(&files()).unwrap();
        let reader = TarArchiveRef::new(&archive).unwrap();
        for file in files().into_iter().filter(|file| file.plain) {
            let found = reader
                .entries()
                .find(|entry| entry.filename().as_str() == Ok(&file.name));
            assert_eq!(found.unwrap().data(), file.contents);
        }
    }

    #[test]
    fn damage_is_an_error_that_names_the_file() {
        let archive = pack(&[File::packed("web", vec![7; 5000])]).unwrap();
        // Behind the header of 512 bytes: the frame's own beginning, 15 bytes, and its first block.
        let mut damaged = archive.clone();
        damaged[512 + 20] ^= 1;
        let error = read(&damaged).unwrap_err();
        assert!(format!("{error:#}").contains("`web.lz4`"), "{error:#}");
        assert!(read(&archive[..515]).is_err());
    }

    #[test]
    fn a_file_that_unpacks_to_too_much_is_refused() {
        let most = vec![0; usize::try_from(MOST_BYTES).unwrap()];
        let larger = [most.as_slice(), &[0]].concat();
        let archive = |contents| pack(&[File::packed("web", contents)]).unwrap();
        assert_eq!(read(&archive(most)).unwrap().len(), 1);
        let error = read(&archive(larger)).unwrap_err();
        assert!(format!("{error:#}").contains("larger than"), "{error:#}");
    }

    #[test]
    fn a_plain_name_like_a_packed_one_is_refused() {
        assert!(pack(&[File::plain("web.lz4", Vec::new())]).is_err());
    }

    #[test]
    fn same_files_give_the_same_archive() {
        assert_eq!(pack(&files()).unwrap(), pack(&files()).unwrap());
    }
}
