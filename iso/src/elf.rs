//! The part of an ELF file that a loader looks at: its headers and segments. Symbols and debug
//! information are `symbolize`'s.

use anyhow::{Context, Result, ensure};
use object::elf::{FileHeader64, PT_LOAD, SHN_UNDEF};
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, U16, U64};

/// An ELF file without what only debuggers read.
#[derive(Debug, Clone)]
pub struct Program {
    /// The file's bytes.
    pub bytes: Vec<u8>,
    /// How much memory its segments take, in bytes, whole pages counted.
    pub memory: u64,
}

/// Cuts off everything behind the segments: section headers, symbols, debug information.
pub fn strip(file: &[u8]) -> Result<Program> {
    let header = FileHeader64::<Endianness>::parse(file).context("not a 64-bit ELF file")?;
    let endian = header.endian()?;
    let segments = header.program_headers(endian, file)?;
    ensure!(!segments.is_empty(), "the ELF file has no segments");
    let table = header.e_phoff(endian) + size_of_val(segments) as u64;
    let (mut end, mut memory) = (table, 0);
    for segment in segments {
        end = end.max(segment.p_offset(endian) + segment.p_filesz(endian));
        if segment.p_type(endian) == PT_LOAD {
            let begin = segment.p_vaddr(endian);
            let page = ipc::layout::PAGE_BYTES;
            memory +=
                (begin + segment.p_memsz(endian)).next_multiple_of(page) - begin / page * page;
        }
    }
    let mut stripped = *header;
    stripped.e_shoff = U64::new(endian, 0);
    stripped.e_shnum = U16::new(endian, 0);
    stripped.e_shstrndx = U16::new(endian, SHN_UNDEF);
    let first = object::bytes_of(&stripped);
    let rest = file
        .get(first.len()..usize::try_from(end)?)
        .context("the ELF file is cut short")?;
    Ok(Program {
        bytes: [first, rest].concat(),
        memory,
    })
}

#[cfg(test)]
mod tests {
    use object::{Object, ObjectSegment, ObjectSymbol};

    use super::*;

    #[test]
    fn stripped_program_keeps_its_segments_and_loses_its_symbols() {
        // The test's own file is an ELF file at hand.
        let whole = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let stripped = strip(&whole).unwrap();
        assert!(stripped.bytes.len() < whole.len() && stripped.memory > 0);
        let (whole, stripped) = (
            object::File::parse(&*whole).unwrap(),
            object::File::parse(&*stripped.bytes).unwrap(),
        );
        let segments = |file: &object::File<'_>| {
            file.segments()
                .map(|segment| {
                    (
                        segment.address(),
                        segment.size(),
                        segment.data().unwrap().to_vec(),
                    )
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(segments(&whole)[1..], segments(&stripped)[1..]);
        assert!(whole.symbols().any(|symbol| symbol.is_definition()));
        assert_eq!(stripped.symbols().count(), 0);
    }

    #[test]
    fn other_files_are_refused() {
        assert!(strip(b"#!/bin/sh").is_err());
    }
}
