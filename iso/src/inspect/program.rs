//! An ELF file, the kernel's or a program's: segments, version, and by which doors a boot loader comes in.

use std::fmt::Write;

use anyhow::{Context, Result, bail, ensure};
use object::Endianness;
use object::elf::{EM_X86_64, FileHeader64, PF_R, PF_W, PF_X, PT_LOAD, PT_NOTE, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};

/// `XEN_ELFNOTE_PHYS32_ENTRY` (Xen public/elfnote.h) and its owner.
const PVH_NOTE: (&[u8], u32) = (b"Xen", 18);

/// What the multiboot2 header begins with (Multiboot2 Specification 2.0, section 3.1.1).
const MULTIBOOT2_MAGIC: u32 = 0xe852_50d6;
/// Where it has to be, in bytes from the file's beginning, and on what (section 3.1).
const MULTIBOOT2_REACH: usize = 32 * 1024;
const MULTIBOOT2_ALIGNMENT: usize = 8;

/// The tags of the header (sections 3.1.3 to 3.1.13), by their types.
const TAGS: [&str; 11] = [
    "end",
    "information request",
    "addresses",
    "entry address",
    "console flags",
    "framebuffer",
    "modules begin on pages",
    "EFI boot services stay",
    "EFI i386 entry address",
    "EFI amd64 entry address",
    "relocatable",
];

/// What a file says of itself.
#[derive(Debug, Default)]
pub(super) struct Program {
    entry: u64,
    segments: Vec<Segment>,
    /// The package's version, where the file tells it.
    pub(super) version: Option<String>,
    pvh_entry: Option<u64>,
}

/// A loaded segment.
#[derive(Debug)]
struct Segment {
    physical: u64,
    at: u64,
    in_file: u64,
    in_memory: u64,
    flags: u32,
}

/// What is in an ELF file.
pub(super) fn describe(bytes: &[u8]) -> Result<String> {
    let program = Program::read(bytes)?;
    let multiboot2 = multiboot2(bytes).context("the multiboot2 header is damaged")?;
    let is_kernel = multiboot2.is_some() || program.pvh_entry.is_some();
    let mut text = format!(
        "{}: {} bytes, version {}\n",
        if is_kernel { "kernel" } else { "program" },
        bytes.len(),
        program.version.as_deref().unwrap_or("not told"),
    );
    writeln!(text, "  64-bit ELF for x86-64, entry {:#x}", program.entry)?;
    if is_kernel {
        match &multiboot2 {
            Some(header) => text.push_str(&super::indent(header)),
            None => writeln!(text, "  no multiboot2 header: GRUB does not boot it")?,
        }
        match program.pvh_entry {
            Some(entry) => writeln!(text, "  PVH note: 32-bit entry {entry:#x}")?,
            None => writeln!(text, "  no PVH note: QEMU's -kernel does not boot it")?,
        }
    }
    text.push_str(&super::indent(&program.table()?));
    Ok(text)
}

impl Program {
    /// Reads an ELF file's headers and notes.
    pub(super) fn read(bytes: &[u8]) -> Result<Self> {
        let header = FileHeader64::<Endianness>::parse(bytes).context("not a 64-bit ELF file")?;
        let endian = header.endian()?;
        let machine = header.e_machine(endian);
        ensure!(machine == EM_X86_64, "an ELF file for another processor");
        let mut program = Self {
            entry: header.e_entry(endian),
            ..Self::default()
        };
        let headers = header
            .program_headers(endian, bytes)
            .context("the ELF file is cut short")?;
        for header in headers {
            match header.p_type(endian) {
                PT_LOAD => program.segments.push(Segment::read(header, endian, bytes)?),
                PT_NOTE => program.read_notes(header, endian, bytes)?,
                _ => {}
            }
        }
        ensure!(!program.segments.is_empty(), "the ELF file loads nothing");
        Ok(program)
    }

    fn read_notes(
        &mut self,
        header: &ProgramHeader64<Endianness>,
        endian: Endianness,
        bytes: &[u8],
    ) -> Result<()> {
        const DAMAGED: &str = "a note of the ELF file is damaged";
        let Some(mut notes) = header.notes(endian, bytes).context(DAMAGED)? else {
            return Ok(());
        };
        while let Some(note) = notes.next().context(DAMAGED)? {
            let name = (note.name(), note.n_type(endian).0);
            if name == PVH_NOTE {
                self.pvh_entry = Some(little_endian(note.desc()).context(DAMAGED)?);
            } else if name == (ipc::note::OWNER, ipc::note::VERSION) {
                let version = str::from_utf8(note.desc()).ok().context(DAMAGED)?;
                let is_plain = version.chars().all(|letter| letter.is_ascii_graphic());
                ensure!(is_plain, DAMAGED);
                self.version = Some(version.to_owned());
            }
        }
        Ok(())
    }

    /// Bytes of memory that the segments take, whole pages counted.
    pub(super) fn memory(&self) -> u64 {
        let page = ipc::layout::PAGE_BYTES;
        let pages = self.segments.iter().map(|segment| {
            let begin = segment.at % page;
            (begin.saturating_add(segment.in_memory)).div_ceil(page)
        });
        pages.fold(0, u64::saturating_add).saturating_mul(page)
    }

    fn table(&self) -> Result<String> {
        let mut text = format!(
            "{:18}  {:18}  {:>9}  {:>9}  RIGHTS\n",
            "PHYSICAL", "VIRTUAL", "IN FILE", "IN MEMORY"
        );
        for segment in &self.segments {
            let right = |flag: u32, letter| {
                if segment.flags & flag == 0 {
                    '-'
                } else {
                    letter
                }
            };
            let rights = [right(PF_R.0, 'r'), right(PF_W.0, 'w'), right(PF_X.0, 'x')];
            writeln!(
                text,
                "{:#018x}  {:#018x}  {:>9}  {:>9}  {}",
                segment.physical,
                segment.at,
                segment.in_file,
                segment.in_memory,
                rights.iter().collect::<String>(),
            )?;
        }
        Ok(text)
    }
}

impl Segment {
    fn read(
        header: &ProgramHeader64<Endianness>,
        endian: Endianness,
        bytes: &[u8],
    ) -> Result<Self> {
        let segment = Self {
            physical: header.p_paddr(endian),
            at: header.p_vaddr(endian),
            in_file: header.p_filesz(endian),
            in_memory: header.p_memsz(endian),
            flags: header.p_flags(endian).0,
        };
        ensure!(
            header.data(endian, bytes).is_ok(),
            "the ELF file is cut short: its segment for {:#x} is not all there",
            segment.at
        );
        ensure!(
            segment.in_file <= segment.in_memory
                && segment.at.checked_add(segment.in_memory).is_some(),
            "the ELF file is damaged: its segment for {:#x} has {} bytes for {} bytes of memory",
            segment.at,
            segment.in_file,
            segment.in_memory
        );
        Ok(segment)
    }
}

/// A number of four or eight bytes.
fn little_endian(bytes: &[u8]) -> Option<u64> {
    match bytes.len() {
        4 => bytes
            .first_chunk()
            .map(|bytes| u64::from(u32::from_le_bytes(*bytes))),
        8 => bytes.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)),
        _ => None,
    }
}

/// The multiboot2 header in lines of text; `None` where there is none.
fn multiboot2(bytes: &[u8]) -> Result<Option<String>> {
    let word = |place: usize| {
        let bytes = bytes.get(place..)?.first_chunk()?;
        Some(u32::from_le_bytes(*bytes))
    };
    let mut places = (0..MULTIBOOT2_REACH.min(bytes.len())).step_by(MULTIBOOT2_ALIGNMENT);
    let Some(start) = places.find(|place| word(*place) == Some(MULTIBOOT2_MAGIC)) else {
        return Ok(None);
    };
    let (Some(architecture), Some(length), Some(sum)) =
        (word(start + 4), word(start + 8), word(start + 12))
    else {
        bail!("it is cut short");
    };
    let total = [MULTIBOOT2_MAGIC, architecture, length, sum]
        .into_iter()
        .fold(0, u32::wrapping_add);
    ensure!(total == 0, "its sum is not 0");
    let end = start + length as usize;
    ensure!(
        length >= 16 && end <= bytes.len().min(MULTIBOOT2_REACH),
        "{length} bytes are not within the file's first 32 KiB"
    );
    let architecture = match architecture {
        0 => "32-bit protected mode of i386".to_owned(),
        other => format!("architecture {other}"),
    };
    let mut text = format!("multiboot2 header at byte {start:#x}: {architecture}\n");
    let mut place = start + 16;
    loop {
        let (Some(head), Some(size)) = (word(place), word(place + 4)) else {
            bail!("its tags do not end");
        };
        let (kind, is_optional) = (head & 0xffff, head >> 16 & 1 == 1);
        let size = size as usize;
        ensure!(
            size >= 8 && size <= end.saturating_sub(place),
            "tag {kind} does not fit it"
        );
        let name = TAGS.get(kind as usize).unwrap_or(&"unknown");
        let need = if is_optional { ", optional" } else { "" };
        writeln!(text, "  tag {kind}{need}: {name}")?;
        if kind == 0 {
            return Ok(Some(text));
        }
        place += size.next_multiple_of(MULTIBOOT2_ALIGNMENT);
    }
}
