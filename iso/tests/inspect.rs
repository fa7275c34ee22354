//! What `inspect` says of whole files, and that damaged ones are refused with the reason and never end it.

use std::path::{Path, PathBuf};

use iso::archive::{self, File};
use iso::image::Image;
use iso::inspect::describe;
use iso::{disk, gce, grub, manifest};
use tempfile::TempDir;

/// Where the kernel's multiboot2 header begins, and its length.
const MULTIBOOT2: (usize, usize) = (0x1000, 40);

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// A program header: type, flags, offset, address, bytes in the file and in memory.
fn program_header(kind: u32, flags: u32, [offset, at, file, memory]: [u64; 4]) -> Vec<u8> {
    let numbers = [offset, at, at & 0x7fff_ffff, file, memory, 4];
    let mut bytes = words(&[kind, flags]);
    bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
    bytes
}

/// A kernel as small as one can be: two segments, a multiboot2 header, two notes.
fn kernel() -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    bytes.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    bytes.extend(0x20_0040_u64.to_le_bytes());
    bytes.extend(64_u64.to_le_bytes());
    bytes.extend(0_u64.to_le_bytes());
    bytes.extend(words(&[0, 64 | 56 << 16, 3, 0]));
    bytes.extend(program_header(1, 5, [0x1000, 0x20_0000, 0x100, 0x100]));
    bytes.extend(program_header(
        1,
        6,
        [0x1100, 0xffff_ffff_8020_1000, 0x10, 0x3000],
    ));
    bytes.extend(program_header(4, 4, [0x1080, 0x20_0080, 0x34, 0x34]));
    bytes.resize(MULTIBOOT2.0, 0);
    let sum = 0_u32.wrapping_sub(0xe852_50d6 + MULTIBOOT2.1 as u32);
    bytes.extend(words(&[0xe852_50d6, 0, MULTIBOOT2.1 as u32, sum]));
    bytes.extend(words(&[6 | 1 << 16, 8, 99, 8, 0, 8]));
    bytes.resize(0x1080, 0);
    bytes.extend(words(&[4, 8, 18]));
    bytes.extend(b"Xen\0");
    bytes.extend(0x20_0040_u64.to_le_bytes());
    bytes.extend(words(&[6, 5, 1]));
    bytes.extend(b"Uzura\0\0\x001.2.3\0\0\0");
    bytes.resize(0x1110, 0x90);
    bytes
}

const MANIFEST: &str = r#"
[[task]]
name = "first"
binary = "program"
priority = 41
cpus = [0, 2]
memory = "2 MiB"
memory_least = "1536 KiB"
stack = "64 KiB"
heap = "1 MiB"
restart = "never"
provides = ["first"]
uses = ["init"]
io_ports = ["0x3f8-0x3ff"]
interrupts = [4]
authority = ["log", "device-control"]

[task.grants]
init = ["kill", "power"]

[task.arguments]
address = "dhcp"
"#;

/// A boot archive of this manifest, with the kernel in place of programs.
fn boot_archive() -> Vec<u8> {
    let packed = manifest::parse(MANIFEST, &["program"])
        .expect("the archive is made")
        .pack()
        .expect("the archive is made");
    let files = [
        File::plain("init", kernel()),
        File::plain("manifest", packed),
        File::packed("program", kernel()),
    ];
    archive::pack(&files).expect("the archive is made")
}

/// A folder with a file of these bytes in it.
fn file(bytes: &[u8]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a file");
    let path = folder.path().join("file");
    std::fs::write(&path, bytes).expect("a file");
    (folder, path)
}

/// What is said of these bytes, or why they are refused.
fn said(bytes: &[u8]) -> Result<String, String> {
    let (_folder, path) = file(bytes);
    describe(&path).map_err(|error| format!("{error:#}"))
}

fn contains(text: &str, lines: &[&str]) {
    for line in lines {
        assert!(
            text.lines().any(|found| found.trim() == *line),
            "no `{line}` in:\n{text}"
        );
    }
}

const OF_THE_KERNEL: [&str; 9] = [
    "kernel: 4368 bytes, version 1.2.3",
    "64-bit ELF for x86-64, entry 0x200040",
    "multiboot2 header at byte 0x1000: 32-bit protected mode of i386",
    "tag 6, optional: modules begin on pages",
    "tag 99: unknown",
    "tag 0: end",
    "PVH note: 32-bit entry 0x200040",
    "0x0000000000200000  0x0000000000200000        256        256  r-x",
    "0x0000000000201000  0xffffffff80201000         16      12288  rw-",
];

const OF_THE_ARCHIVE: [&str; 9] = [
    "manifest: format 2, 1 tasks",
    "first: program program, priority 41, memory 2 MiB, stack 64 KiB, heap 1 MiB, CPUs 0, 2, restarted never",
    "on a small machine at least memory 1536 KiB, heap 1 MiB",
    "provides first",
    "uses init: kill, power",
    "I/O ports 0x3f8-0x3ff",
    "interrupt 4",
    "authority device-control",
    "argument address = \"dhcp\"",
];

#[test]
fn kernel_is_shown() {
    contains(&said(&kernel()).unwrap(), &OF_THE_KERNEL);
}

#[test]
fn what_a_kernel_lacks_is_said() {
    let mut bytes = kernel();
    bytes[MULTIBOOT2.0] = 0;
    bytes[0x1080 + 8] = 17;
    let text = said(&bytes).unwrap();
    assert!(text.starts_with("program: 4368 bytes"), "{text}");
    bytes[0x1080 + 8] = 18;
    contains(
        &said(&bytes).unwrap(),
        &["no multiboot2 header: GRUB does not boot it"],
    );
}

#[test]
fn damaged_kernels_are_refused_with_the_reason() {
    let cases: [(usize, u8, &str); 7] = [
        (18, 3, "another processor"),
        (MULTIBOOT2.0 + 12, 0, "its sum is not 0"),
        (MULTIBOOT2.0 + 16 + 4, 4, "tag 6 does not fit it"),
        (MULTIBOOT2.0 + 32 + 4, 9, "tag 0 does not fit it"),
        (64 + 32 + 1, 0xff, "is not all there"),
        (64 + 56 + 40 + 1, 0, "bytes of memory"),
        (0x1080 + 4, 9, "note"),
    ];
    for (place, value, reason) in cases {
        let mut bytes = kernel();
        bytes[place] = value;
        let error = said(&bytes).expect_err(reason);
        assert!(error.contains(reason), "{reason}: {error}");
    }
}

#[test]
fn boot_archive_is_shown() {
    let text = said(&boot_archive()).unwrap();
    contains(&text, &OF_THE_ARCHIVE);
    let program = text
        .lines()
        .find(|line| line.trim().starts_with("program "))
        .unwrap();
    let cells: Vec<&str> = program.split_whitespace().collect();
    let [_, stored, bytes, memory, version] = cells.as_slice() else {
        panic!("{program}")
    };
    assert!(
        stored.parse::<usize>().unwrap() < kernel().len(),
        "{program}"
    );
    assert_eq!((*bytes, *memory, *version), ("4368", "16384", "1.2.3"));
}

#[test]
fn archives_that_do_not_boot_are_refused() {
    let init = File::plain("init", kernel());
    let of = |files: &[File]| said(&archive::pack(files).unwrap()).unwrap_err();
    assert!(of(&[File::plain("other", vec![1])]).contains("no `init`"));
    assert!(of(std::slice::from_ref(&init)).contains("no `manifest`"));
    let old = [init.clone(), File::plain("manifest", vec![0xfe, 0])];
    assert!(of(&old).contains("format 254"), "{}", of(&old));
    let cut = [
        init,
        File::plain("manifest", vec![ipc::manifest::FORMAT, 3]),
    ];
    assert!(of(&cut).contains("cut short or damaged"), "{}", of(&cut));
}

#[test]
fn no_damage_ends_it() {
    for bytes in [kernel(), boot_archive()] {
        // A tar file ends with zeros, which nobody misses.
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        for place in (0..end).filter(|place| place % 97 == 0 || place % 4096 < 300) {
            let mut damaged = bytes.clone();
            damaged[place] ^= 0xff;
            // What it says of it is another test's.
            said(&damaged).ok();
            assert!(said(&bytes[..place]).is_err(), "{place} bytes of {end}");
        }
    }
}

#[test]
fn other_files_are_refused() {
    for bytes in [&b""[..], b"#!/bin/sh\n", &[0; 100_000]] {
        assert!(said(bytes).unwrap_err().contains("is no kernel"));
    }
    assert!(
        describe(Path::new("/nowhere/at/all"))
            .unwrap_err()
            .to_string()
            .contains("cannot read")
    );
}

/// An image of the kernel and the archive.
fn image(folder: &Path) -> Image {
    let image = Image {
        kernel: folder.join("kernel"),
        archive: Some(folder.join("archive")),
        symbols: folder.join("symbols"),
    };
    std::fs::write(&image.kernel, kernel()).expect("a file");
    std::fs::write(folder.join("archive"), boot_archive()).expect("a file");
    image
}

#[test]
fn media_show_what_is_on_them() {
    let folder = tempfile::tempdir().unwrap();
    let image = image(folder.path());
    let iso = grub::iso(&image, "of=it", folder.path()).unwrap();
    let disk = disk::make(&image, "of=it", folder.path()).unwrap();
    let packed = gce::pack(&disk, folder.path()).unwrap();
    for (medium, kind) in [
        (&iso, "ISO"),
        (&disk, "disk"),
        (&packed, "archive of a disk"),
    ] {
        let text = describe(medium).unwrap();
        assert!(text.starts_with(&format!("{kind}: ")), "{text}");
        contains(&text, &["GRUB: multiboot2 /boot/kernel \\'of=it\\'"]);
        contains(&text, &OF_THE_KERNEL);
        contains(&text, &OF_THE_ARCHIVE);
    }
    contains(&describe(&packed).unwrap(), &["disk: 1073741824 bytes"]);

    // Cut short, each says what is missing.
    let bytes = std::fs::read(&packed).unwrap();
    let error = said(&bytes[..bytes.len() / 2]).unwrap_err();
    assert!(error.contains("cut short or damaged"), "{error}");
    let bytes = std::fs::read(&iso).unwrap();
    said(&bytes[..bytes.len() / 8]).unwrap_err();
    let file = std::fs::File::options().write(true).open(&disk).unwrap();
    file.set_len(disk::UNIT / 2).unwrap();
    let error = format!("{:#}", describe(&disk).unwrap_err());
    assert!(error.contains("partition table is damaged"), "{error}");
}
