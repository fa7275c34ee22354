//! Reads a task's program: a static ELF64 file (System V ABI, chapters 4 and 5; AMD64 supplement).
//! Everything in the file is taken for hostile; what passes can be loaded without further checks. Of the file
//! only the beginning is needed at once: the rest goes into the segments as it is unpacked.

use core::ops::Range;

use elf::ElfBytes;
use elf::abi::{EM_X86_64, ET_EXEC, PF_W, PF_X, PT_DYNAMIC, PT_INTERP, PT_LOAD, PT_TLS};
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::segment::ProgramHeader;
use heapless::Vec;
use ipc::layout::{PAGE_BYTES, USER_START};

use crate::place;

/// Most segments of a program.
pub const MAX_SEGMENTS: usize = 8;

/// A program, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Where it starts; inside an executable segment.
    pub entry: u64,
    /// Its segments; no two share a page.
    pub segments: Vec<Segment, MAX_SEGMENTS>,
}

/// A range of pages with what belongs in them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Address of the first page.
    pub address: u64,
    /// Length in bytes, whole pages.
    pub bytes: u64,
    /// Where what the file has for it begins, counted from `address`; everything else is zero.
    pub offset: u64,
    /// Which bytes of the file these are.
    pub file: Range<u64>,
    /// The program may write it.
    pub write: bool,
    /// The program may execute it.
    pub execute: bool,
}

/// Why a program cannot be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramError {
    /// Not an ELF file, or cut short.
    NotElf,
    /// An ELF file for another machine or of another type than a static executable.
    Unsuitable,
    /// It needs a dynamic linker or thread-local storage, which init does not provide.
    NeedsLoader,
    /// No loadable segment, or more than [`MAX_SEGMENTS`].
    Segments,
    /// A segment is longer in the file than in memory, or lies where no program may.
    Range,
    /// Two segments share a page.
    Overlap,
    /// A segment is writable and executable.
    WriteAndExecute,
    /// The entry is not in an executable segment.
    Entry,
    /// With stack and heap it is larger than the task's memory.
    TooLarge,
}

impl core::fmt::Display for ProgramError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str(match self {
            Self::NotElf => "its binary is no ELF file or is cut short",
            Self::Unsuitable => "its binary is no static x86-64 executable",
            Self::NeedsLoader => "its binary needs a dynamic linker or thread-local storage",
            Self::Segments => "its binary has no segment or too many",
            Self::Range => "a segment of its binary lies out of range",
            Self::Overlap => "two segments of its binary share a page",
            Self::WriteAndExecute => "a segment of its binary is writable and executable",
            Self::Entry => "its binary's entry is not executable",
            Self::TooLarge => "its binary, stack and heap are larger than its memory",
        })
    }
}

impl core::error::Error for ProgramError {}

impl Program {
    /// Reads and checks an ELF file of `length` bytes that begins with `head`, in which all its headers are.
    pub fn read(head: &[u8], length: u64) -> Result<Self, ProgramError> {
        let file =
            ElfBytes::<LittleEndian>::minimal_parse(head).map_err(|_| ProgramError::NotElf)?;
        let head = &file.ehdr;
        if head.class != Class::ELF64 || head.e_machine != EM_X86_64 || head.e_type != ET_EXEC {
            return Err(ProgramError::Unsuitable);
        }
        let mut segments = Vec::new();
        for header in file.segments().ok_or(ProgramError::Segments)?.iter() {
            match header.p_type {
                PT_INTERP | PT_DYNAMIC | PT_TLS => return Err(ProgramError::NeedsLoader),
                PT_LOAD if header.p_memsz > 0 => {
                    let segment = read_segment(&header, length)?;
                    segments.push(segment).map_err(|_| ProgramError::Segments)?;
                }
                _ => {}
            }
        }
        let program = Self {
            entry: head.e_entry,
            segments,
        };
        program.check()?;
        Ok(program)
    }

    /// What concerns more than one segment.
    fn check(&self) -> Result<(), ProgramError> {
        if self.segments.is_empty() {
            return Err(ProgramError::Segments);
        }
        for (position, one) in self.segments.iter().enumerate() {
            for other in &self.segments[position + 1..] {
                if one.address < other.end() && other.address < one.end() {
                    return Err(ProgramError::Overlap);
                }
            }
        }
        let executable = self.segments.iter().filter(|segment| segment.execute);
        let mut starts = executable.map(|segment| segment.address..segment.end());
        if starts.any(|range| range.contains(&self.entry)) {
            Ok(())
        } else {
            Err(ProgramError::Entry)
        }
    }
}

impl Segment {
    /// Address after the last page.
    pub const fn end(&self) -> u64 {
        self.address + self.bytes
    }

    /// Which of `contents`, the file's bytes from `position` on, belong to this segment, and where in it, counted
    /// from `address`.
    pub fn part<'c>(&self, position: u64, contents: &'c [u8]) -> Option<(u64, &'c [u8])> {
        let start = self.file.start.max(position);
        let end = self.file.end.min(position + contents.len() as u64);
        let from = usize::try_from(start - position).ok()?;
        let to = usize::try_from(end.checked_sub(position)?).ok()?;
        let part = contents.get(from..to).filter(|part| !part.is_empty())?;
        Some((self.offset + (start - self.file.start), part))
    }
}

fn read_segment(header: &ProgramHeader, length: u64) -> Result<Segment, ProgramError> {
    let end = header
        .p_vaddr
        .checked_add(header.p_memsz)
        .filter(|end| *end <= place::PROGRAM_END)
        .ok_or(ProgramError::Range)?;
    let address = header.p_vaddr / PAGE_BYTES * PAGE_BYTES;
    if address < USER_START || header.p_filesz > header.p_memsz {
        return Err(ProgramError::Range);
    }
    let write = header.p_flags & PF_W != 0;
    let execute = header.p_flags & PF_X != 0;
    if write && execute {
        return Err(ProgramError::WriteAndExecute);
    }
    let data_end = header
        .p_offset
        .checked_add(header.p_filesz)
        .filter(|end| *end <= length)
        .ok_or(ProgramError::NotElf)?;
    Ok(Segment {
        address,
        bytes: end.next_multiple_of(PAGE_BYTES) - address,
        offset: header.p_vaddr - address,
        file: header.p_offset..data_end,
        write,
        execute,
    })
}

#[cfg(test)]
mod tests {
    use super::{Program, ProgramError};
    use crate::place;

    const LOAD: u32 = 1;
    const TLS: u32 = 7;

    #[derive(Clone, Copy)]
    struct Header {
        kind: u32,
        flags: u32,
        offset: u64,
        address: u64,
        file: u64,
        memory: u64,
    }

    const TEXT: Header = Header {
        kind: LOAD,
        flags: 5,
        offset: 0x1000,
        address: 0x20_1000,
        file: 0x234,
        memory: 0x234,
    };
    const DATA: Header = Header {
        kind: LOAD,
        flags: 6,
        offset: 0x1234,
        address: 0x20_2234,
        file: 0x10,
        memory: 0x2000,
    };

    /// An ELF file of 0x2000 bytes with these program headers.
    fn file(entry: u64, headers: &[Header]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        bytes.extend(2_u16.to_le_bytes());
        bytes.extend(62_u16.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(entry.to_le_bytes());
        bytes.extend(64_u64.to_le_bytes());
        bytes.extend(0_u64.to_le_bytes());
        bytes.extend(0_u32.to_le_bytes());
        for value in [64, 56, headers.len() as u16, 64, 0, 0] {
            bytes.extend(value.to_le_bytes());
        }
        for header in headers {
            bytes.extend(header.kind.to_le_bytes());
            bytes.extend(header.flags.to_le_bytes());
            for value in [
                header.offset,
                header.address,
                header.address,
                header.file,
                header.memory,
                0x1000,
            ] {
                bytes.extend(value.to_le_bytes());
            }
        }
        bytes.resize(0x2000, 0xab);
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Program, ProgramError> {
        Program::read(bytes, bytes.len() as u64)
    }

    fn refused(headers: &[Header]) -> ProgramError {
        read(&file(0x20_1010, headers)).unwrap_err()
    }

    #[test]
    fn a_sound_program_is_read() {
        let bytes = file(0x20_1010, &[TEXT, DATA]);
        let program = read(&bytes).unwrap();
        assert_eq!(program.entry, 0x20_1010);
        let [text, data] = program.segments.as_slice() else {
            panic!("two segments");
        };
        assert_eq!(
            (text.address, text.bytes, text.offset),
            (0x20_1000, 0x1000, 0)
        );
        assert!(text.execute && !text.write && text.file == (0x1000..0x1234));
        assert_eq!(
            (data.address, data.bytes, data.offset),
            (0x20_2000, 0x3000, 0x234)
        );
        assert!(data.write && !data.execute && data.file == (0x1234..0x1244));
    }

    #[test]
    fn every_truncation_is_refused() {
        let bytes = file(0x20_1010, &[TEXT, DATA]);
        for length in 0..0x1244 {
            assert!(read(&bytes[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn the_headers_are_all_that_is_needed_at_once() {
        let bytes = file(0x20_1010, &[TEXT, DATA]);
        let length = bytes.len() as u64;
        let whole = Program::read(&bytes, length);
        assert_eq!(Program::read(&bytes[..64 + 2 * 56], length), whole);
        for cut in 0..64 + 2 * 56 {
            assert!(Program::read(&bytes[..cut], length).is_err(), "{cut} bytes");
        }
    }

    #[test]
    fn every_byte_goes_where_it_belongs_however_the_file_is_cut() {
        let mut bytes = file(0x20_1010, &[TEXT, DATA]);
        for (position, byte) in bytes.iter_mut().enumerate().skip(0x1000) {
            *byte = (position % 251) as u8;
        }
        let program = read(&bytes).unwrap();
        for step in [1, 7, 0x234, 0x1000, 0x2000] {
            for segment in &program.segments {
                let mut memory = vec![0; segment.bytes as usize];
                for (count, chunk) in bytes.chunks(step).enumerate() {
                    if let Some((at, part)) = segment.part((count * step) as u64, chunk) {
                        memory[at as usize..][..part.len()].copy_from_slice(part);
                    }
                }
                let file = segment.file.start as usize..segment.file.end as usize;
                let mut expected = vec![0; segment.bytes as usize];
                expected[segment.offset as usize..][..file.len()].copy_from_slice(&bytes[file]);
                assert!(memory == expected, "steps of {step}");
            }
        }
    }

    #[test]
    fn no_single_damaged_byte_makes_a_panic_or_an_unsafe_program() {
        let good = file(0x20_1010, &[TEXT, DATA]);
        for position in 0..64 + 2 * 56 {
            for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
                let mut bytes = good.clone();
                bytes[position] = value;
                let Ok(program) = read(&bytes) else {
                    continue;
                };
                for segment in &program.segments {
                    assert!(!(segment.write && segment.execute));
                    assert!(segment.address >= ipc::layout::USER_START);
                    assert!(segment.end() <= place::PROGRAM_END);
                    assert!(segment.file.end <= bytes.len() as u64);
                    assert!(
                        segment.offset + (segment.file.end - segment.file.start) <= segment.bytes
                    );
                }
            }
        }
    }

    #[test]
    fn writable_and_executable_is_refused() {
        assert_eq!(
            refused(&[Header { flags: 7, ..TEXT }]),
            ProgramError::WriteAndExecute
        );
    }

    #[test]
    fn segments_out_of_range_are_refused() {
        for header in [
            Header {
                address: 0x1000,
                ..TEXT
            },
            Header {
                address: place::PROGRAM_END,
                ..TEXT
            },
            Header {
                address: u64::MAX - 1,
                ..TEXT
            },
            Header {
                memory: u64::MAX,
                ..TEXT
            },
            Header {
                file: 0x300,
                memory: 0x200,
                ..TEXT
            },
        ] {
            assert_eq!(refused(&[TEXT, header]), ProgramError::Range);
        }
    }

    #[test]
    fn segments_that_share_a_page_are_refused() {
        let near = Header {
            address: 0x20_1f00,
            ..DATA
        };
        assert_eq!(refused(&[TEXT, near]), ProgramError::Overlap);
    }

    #[test]
    fn data_beyond_the_file_is_refused() {
        let beyond = Header {
            offset: 0x1ff8,
            ..DATA
        };
        assert_eq!(refused(&[TEXT, beyond]), ProgramError::NotElf);
    }

    #[test]
    fn an_entry_outside_the_text_is_refused() {
        let bytes = file(0x20_2300, &[TEXT, DATA]);
        assert_eq!(read(&bytes), Err(ProgramError::Entry));
    }

    #[test]
    fn what_init_cannot_load_is_refused() {
        assert_eq!(
            refused(&[TEXT, Header { kind: TLS, ..DATA }]),
            ProgramError::NeedsLoader
        );
        assert_eq!(refused(&[]), ProgramError::Segments);
        let mut other = file(0x20_1010, &[TEXT]);
        other[18] = 3;
        assert_eq!(read(&other), Err(ProgramError::Unsuitable));
    }
}
