//! Disks and their archives: that they are whole and sparse, that the same files give the same bytes, and
//! that the tools of others read them. That they boot is the system tests'.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use gpt::partition_types::{BIOS, EFI};
use iso::image::Image;
use iso::{disk, gce, grub, process};
use tempfile::TempDir;

/// The size of a sector.
const SECTOR: u64 = 512;

/// An image with these contents for the kernel and the archive: no medium looks into them.
fn image(folder: &Path, kernel: &[u8], archive: &[u8]) -> Image {
    let image = Image {
        kernel: folder.join("kernel"),
        archive: Some(folder.join("archive")),
        symbols: folder.join("symbols"),
    };
    std::fs::write(&image.kernel, kernel).expect("a kernel");
    std::fs::write(folder.join("archive"), archive).expect("an archive");
    image
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

fn output(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments);
    process::output(&mut command, Duration::from_secs(300)).expect(program)
}

#[test]
fn disk_has_both_tables_and_every_file() {
    let folder = folder();
    let image = image(folder.path(), b"the kernel", &[0x5a; 100_000]);
    let disk = disk::make(&image, "a=1 b='2", folder.path()).unwrap();
    let metadata = std::fs::metadata(&disk).unwrap();
    assert_eq!(metadata.len(), disk::UNIT);
    assert!(
        metadata.blocks() * 512 < 16 << 20,
        "{} blocks",
        metadata.blocks()
    );

    // Both copies of the table are valid, or this fails.
    let table = gpt::GptConfig::new()
        .only_valid_headers(true)
        .open(&disk)
        .unwrap();
    let partitions: Vec<_> = table.partitions().values().collect();
    let [bios, efi] = partitions.as_slice() else {
        panic!("{partitions:?}")
    };
    assert_eq!((&bios.part_type_guid, &efi.part_type_guid), (&BIOS, &EFI));
    assert!((bios.first_lba * SECTOR).is_multiple_of(1 << 20));
    assert!(efi.first_lba > bios.last_lba);
    assert_ne!(bios.part_guid, efi.part_guid);

    let volume = format!("{}@@{}", disk.display(), efi.first_lba * SECTOR);
    let read = |path: &str| output("mtype", &["-i", &volume, &format!("::/{path}")]);
    assert_eq!(read(grub::KERNEL), "the kernel");
    assert_eq!(read(grub::ARCHIVE), "Z".repeat(100_000));
    assert!(read(grub::CONFIGURATION).contains("multiboot2 /boot/kernel 'a=1' 'b='\\''2'\n"));
    assert!(output("minfo", &["-i", &volume, "::"]).contains("FAT32"));
}

#[test]
fn same_files_give_the_same_disk_and_others_another() {
    let made = |kernel: &[u8], append: &str| {
        let folder = folder();
        let image = image(folder.path(), kernel, b"an archive");
        let disk = disk::make(&image, append, folder.path()).unwrap();
        let archive = gce::pack(&disk, folder.path()).unwrap();
        let table = gpt::GptConfig::new().open(&disk).unwrap();
        (std::fs::read(archive).unwrap(), *table.guid())
    };
    let first = made(b"a kernel", "");
    assert_eq!(first, made(b"a kernel", ""));
    for other in [made(b"A kernel", ""), made(b"a kernel", "a")] {
        assert!(other.0 != first.0 && other.1 != first.1);
    }
}

#[test]
fn disk_grows_with_its_files() {
    let folder = folder();
    let archive = vec![0x11; 100 << 20];
    let image = image(folder.path(), b"a kernel", &archive);
    let disk = disk::make(&image, "", folder.path()).unwrap();
    let table = gpt::GptConfig::new().open(&disk).unwrap();
    let efi = table.partitions()[&2].clone();
    let volume = format!("{}@@{}", disk.display(), efi.first_lba * SECTOR);
    let copy = folder.path().join("copy");
    output(
        "mcopy",
        &["-i", &volume, "::/boot/archive", copy.to_str().unwrap()],
    );
    assert!(std::fs::read(copy).unwrap() == archive);
}

/// An archive of a disk, and the disk.
fn packed(folder: &Path) -> (PathBuf, PathBuf) {
    let image = image(folder, b"a kernel", b"an archive");
    let disk = disk::make(&image, "", folder).expect("a disk");
    (gce::pack(&disk, folder).expect("an archive"), disk)
}

#[test]
fn archive_is_of_the_old_gnu_format_and_sparse() {
    let folder = folder();
    let (archive, disk) = packed(folder.path());
    let file = std::fs::File::open(&archive).unwrap();
    assert!(file.metadata().unwrap().len() < 8 << 20);
    let mut reader = tar::Archive::new(flate2::read::GzDecoder::new(file));
    let mut entries = reader.entries().unwrap();
    let entry = entries.next().unwrap().unwrap();
    let header = entry.header();
    // GNU tar manual, "Basic Tar Format": `OLDGNU_MAGIC`, and `GNUTYPE_SPARSE`.
    assert_eq!(&header.as_bytes()[257..265], b"ustar  \0");
    assert_eq!(header.as_bytes()[156], b'S');
    assert_eq!(entry.path().unwrap().to_str(), Some("disk.raw"));
    assert_eq!(header.as_gnu().unwrap().real_size().unwrap(), disk::UNIT);
    assert!(entries.next().is_none());

    // And it is what GNU tar unpacks.
    let unpacked = folder.path().join("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    output(
        "tar",
        &[
            "-xzf",
            archive.to_str().unwrap(),
            "-C",
            unpacked.to_str().unwrap(),
        ],
    );
    let copy = unpacked.join("disk.raw");
    output("cmp", &[copy.to_str().unwrap(), disk.to_str().unwrap()]);
    assert!(std::fs::metadata(copy).unwrap().blocks() * 512 < 16 << 20);
}

#[test]
fn commands_name_nothing_of_anybody() {
    let text = gce::commands(Path::new("/tmp/it's/uzura.tar.gz"));
    assert!(text.contains(r"'/tmp/it'\''s/uzura.tar.gz'"), "{text}");
    // Only options of an instance and an image; where and whose is in variables.
    for option in ["--zone=", "--source-uri="] {
        for (position, _) in text.match_indices(option) {
            let value = &text[position + option.len()..];
            assert!(
                value.starts_with("\"$") || value.starts_with("\"gs://$"),
                "{value}"
            );
        }
    }
    let mut shell = Command::new("sh");
    shell.args(["-n", "-c", &text]);
    process::output(&mut shell, Duration::from_secs(10)).unwrap();
}
