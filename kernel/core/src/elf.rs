//! Reads init's program: a static ELF64 executable (System V ABI, chapters 4 and 5, and its AMD64
//! supplement). What [`Program::read`] lets pass can be mapped without further checks.
//!
//! What this leaves to others: finding the file ([`crate::archive`]), and frames and page tables.

use crate::platform::Access;
use core::fmt;
use elf::ElfBytes;
use elf::abi::{EM_X86_64, ET_EXEC, PF_W, PF_X, PT_DYNAMIC, PT_INTERP, PT_LOAD, PT_TLS};
use elf::endian::LittleEndian;
use elf::file::Class;
use elf::segment::ProgramHeader;
use ipc::layout::{INIT_ARCHIVE, PAGE_BYTES, USER_START};

/// Most segments that init may have.
pub const MAX_SEGMENTS: usize = 16;

/// Why a program cannot be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgramError {
    /// It is no ELF file, or is cut short.
    NotElf,
    /// It is for another machine, or not a static executable.
    Unsuitable,
    /// It needs a dynamic linker or thread-local storage.
    NeedsLoader,
    /// It has no segment to load, or more than [`MAX_SEGMENTS`].
    Segments,
    /// A segment is longer in the file than in memory, or lies where init may not.
    Range,
    /// Two segments share a page.
    Overlap,
    /// A segment is writable and executable.
    WriteAndExecute,
    /// The entry is in no executable segment.
    Entry,
}

impl fmt::Display for ProgramError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            ProgramError::NotElf => "it is no ELF file or is cut short",
            ProgramError::Unsuitable => "it is no static x86-64 executable",
            ProgramError::NeedsLoader => "it needs a dynamic linker or thread-local storage",
            ProgramError::Segments => "it has no segment or too many",
            ProgramError::Range => "a segment lies out of range",
            ProgramError::Overlap => "two segments share a page",
            ProgramError::WriteAndExecute => "a segment is writable and executable",
            ProgramError::Entry => "its entry is not executable",
        })
    }
}

impl core::error::Error for ProgramError {}

/// A segment: whole pages and what belongs in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Address of the first page.
    pub address: u64,
    /// Length in bytes, a multiple of 4,096, not 0.
    pub bytes: u64,
    /// Where `data` begins, in bytes from `address`. All other bytes are 0.
    pub offset: u64,
    /// What the file has for it; ends within the segment.
    pub data: &'a [u8],
    /// Permissions; never both.
    pub access: Access,
}

impl Segment<'_> {
    /// Address after the last page.
    pub const fn end(&self) -> u64 {
        self.address + self.bytes
    }
}

/// A program whose segments lie where init may be, on pages of their own.
pub struct Program<'a> {
    file: ElfBytes<'a, LittleEndian>,
}

impl<'a> Program<'a> {
    /// Reads and checks an ELF file.
    ///
    /// # Errors
    /// See [`ProgramError`].
    pub fn read(bytes: &'a [u8]) -> Result<Program<'a>, ProgramError> {
        let file = ElfBytes::minimal_parse(bytes).map_err(|_| ProgramError::NotElf)?;
        let head = &file.ehdr;
        if head.class != Class::ELF64 || head.e_machine != EM_X86_64 || head.e_type != ET_EXEC {
            return Err(ProgramError::Unsuitable);
        }
        let program = Program { file };
        let loader =
            |header: ProgramHeader| matches!(header.p_type, PT_INTERP | PT_DYNAMIC | PT_TLS);
        if program.headers().any(loader) {
            return Err(ProgramError::NeedsLoader);
        }
        if !(1..=MAX_SEGMENTS).contains(&program.loads().count()) {
            return Err(ProgramError::Segments);
        }
        program.check()?;
        Ok(program)
    }

    /// Address of the first instruction; inside an executable segment.
    pub fn entry(&self) -> u64 {
        self.file.ehdr.e_entry
    }

    /// The segments, in the order of the file; no two share a page.
    pub fn segments(&self) -> impl Iterator<Item = Segment<'a>> {
        // `read` has seen that none is an error.
        self.loads().filter_map(|header| self.segment(&header).ok())
    }

    fn headers(&self) -> impl Iterator<Item = ProgramHeader> {
        self.file.segments().into_iter().flatten()
    }

    fn loads(&self) -> impl Iterator<Item = ProgramHeader> {
        self.headers()
            .filter(|header| header.p_type == PT_LOAD && header.p_memsz > 0)
    }

    fn check(&self) -> Result<(), ProgramError> {
        let mut executable = false;
        for (position, header) in self.loads().enumerate() {
            let one = self.segment(&header)?;
            executable |= one.access.execute && (one.address..one.end()).contains(&self.entry());
            for header in self.loads().take(position) {
                let other = self.segment(&header)?;
                if one.address < other.end() && other.address < one.end() {
                    return Err(ProgramError::Overlap);
                }
            }
        }
        if executable {
            Ok(())
        } else {
            Err(ProgramError::Entry)
        }
    }

    fn segment(&self, header: &ProgramHeader) -> Result<Segment<'a>, ProgramError> {
        let address = header.p_vaddr / PAGE_BYTES * PAGE_BYTES;
        let end = header
            .p_vaddr
            .checked_add(header.p_memsz)
            .ok_or(ProgramError::Range)?;
        if address < USER_START || end > INIT_ARCHIVE || header.p_filesz > header.p_memsz {
            return Err(ProgramError::Range);
        }
        let access = Access {
            write: header.p_flags & PF_W != 0,
            execute: header.p_flags & PF_X != 0,
        };
        if access.write && access.execute {
            return Err(ProgramError::WriteAndExecute);
        }
        Ok(Segment {
            address,
            bytes: end.next_multiple_of(PAGE_BYTES) - address,
            offset: header.p_vaddr - address,
            data: self
                .file
                .segment_data(header)
                .map_err(|_| ProgramError::NotElf)?,
            access,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_SEGMENTS, Program, ProgramError, Segment};
    use crate::fake::{EXECUTE, WRITE};
    use crate::random::Random;
    use ipc::layout::INIT_ARCHIVE;

    const HEADER_BYTES: usize = 64;
    const SEGMENT_BYTES: usize = 56;

    /// Program header: type, flags, offset in the file, address, bytes in file and memory.
    #[derive(Clone, Copy)]
    struct Load(u32, u32, u64, u64, u64, u64);

    const TEXT: Load = Load(1, 5, 0x200, 0x20_0200, 0x100, 0x100);
    const DATA: Load = Load(1, 6, 0x300, 0x20_1300, 0x80, 0x2000);
    const STACK: Load = Load(0x6474_e551, 6, 0, 0, 0, 0);

    fn program(entry: u64, loads: &[Load]) -> Vec<u8> {
        let mut bytes = vec![0; 0x400];
        bytes[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        let mut put = |at: usize, value: u64, size: usize| {
            bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
        };
        put(16, 2, 2); // e_type: ET_EXEC
        put(18, 62, 2); // e_machine: x86-64
        put(20, 1, 4); // e_version
        put(24, entry, 8);
        put(32, HEADER_BYTES as u64, 8); // e_phoff
        put(52, HEADER_BYTES as u64, 2); // e_ehsize
        put(54, SEGMENT_BYTES as u64, 2); // e_phentsize
        put(56, loads.len() as u64, 2); // e_phnum
        for (number, Load(kind, flags, offset, address, in_file, in_memory)) in
            loads.iter().enumerate()
        {
            let at = HEADER_BYTES + number * SEGMENT_BYTES;
            put(at, u64::from(*kind), 4);
            put(at + 4, u64::from(*flags), 4);
            put(at + 8, *offset, 8);
            put(at + 16, *address, 8);
            put(at + 24, *address, 8);
            put(at + 32, *in_file, 8);
            put(at + 40, *in_memory, 8);
            put(at + 48, 0x1000, 8);
        }
        bytes[0x200..0x380].fill(0xaa);
        bytes
    }

    fn refusal(loads: &[Load]) -> Option<ProgramError> {
        let mut bytes = program(0x20_0210, loads);
        bytes.resize(0x1000, 0);
        Program::read(&bytes).err()
    }

    #[test]
    fn segments_are_whole_pages() {
        let bytes = program(0x20_0210, &[STACK, TEXT, DATA]);
        let program = Program::read(&bytes).unwrap();
        assert_eq!(program.entry(), 0x20_0210);
        let segments: Vec<_> = program.segments().collect();
        let text = Segment {
            address: 0x20_0000,
            bytes: 0x1000,
            offset: 0x200,
            data: &[0xaa; 0x100],
            access: EXECUTE,
        };
        let data = Segment {
            address: 0x20_1000,
            bytes: 0x3000,
            offset: 0x300,
            data: &[0xaa; 0x80],
            access: WRITE,
        };
        assert_eq!(segments, [text, data]);
    }

    #[test]
    fn segments_without_memory_are_skipped() {
        let empty = Load(1, 7, 0, u64::MAX, 0, 0);
        assert_eq!(refusal(&[TEXT, empty]), None);
    }

    #[test]
    fn other_kinds_of_file_are_refused() {
        let good = program(0x20_0210, &[TEXT]);
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            Program::read(&bytes).err()
        };
        assert_eq!(with(0, 0x7f), None);
        assert_eq!(with(0, 0), Some(ProgramError::NotElf));
        assert_eq!(with(5, 2), Some(ProgramError::NotElf)); // Big-endian.
        assert_eq!(with(16, 3), Some(ProgramError::Unsuitable)); // Shared object.
        assert_eq!(with(18, 183), Some(ProgramError::Unsuitable)); // AArch64.
        assert_eq!(with(54, 55), Some(ProgramError::NotElf)); // Program header size.
        assert!(with(4, 1).is_some()); // 32 bits.
        assert_eq!(Program::read(&[]).err(), Some(ProgramError::NotElf));
    }

    #[test]
    fn bad_segments_are_refused() {
        let change = |change: fn(&mut Load)| {
            let mut data = DATA;
            change(&mut data);
            refusal(&[TEXT, data])
        };
        let range = Some(ProgramError::Range);
        assert_eq!(change(|_| {}), None);
        assert_eq!(
            change(|data| data.1 = 7),
            Some(ProgramError::WriteAndExecute)
        );
        assert_eq!(change(|data| data.2 = 0x1000), Some(ProgramError::NotElf));
        assert_eq!(change(|data| data.2 = u64::MAX), Some(ProgramError::NotElf));
        assert_eq!(
            change(|data| data.3 = 0x20_0300),
            Some(ProgramError::Overlap)
        );
        assert_eq!(
            change(|data| data.3 = 0x1f_f000),
            Some(ProgramError::Overlap)
        );
        assert_eq!(change(|data| data.3 = 0x1f_e000), None);
        assert_eq!(change(|data| data.3 = 0xf000), range);
        assert_eq!(change(|data| data.3 = u64::MAX), range);
        assert_eq!(change(|data| data.3 = 0xffff_8000_0000_0000), range);
        assert_eq!(change(|data| data.3 = INIT_ARCHIVE - 0x2000), None);
        assert_eq!(change(|data| data.3 = INIT_ARCHIVE - 0x1fff), range);
        assert_eq!(change(|data| data.4 = 0x2001), range);
        assert_eq!(change(|data| data.5 = u64::MAX), range);
        for kind in [2, 3, 7] {
            let extra = Load(kind, 4, 0, 0, 0, 0);
            assert_eq!(refusal(&[TEXT, extra]), Some(ProgramError::NeedsLoader));
        }
        assert_eq!(refusal(&[]), Some(ProgramError::Segments));
        assert_eq!(refusal(&[STACK]), Some(ProgramError::Segments));
    }

    #[test]
    fn too_many_segments_are_refused() {
        let many = |count: usize| {
            let mut loads = vec![TEXT; count];
            for (number, load) in loads.iter_mut().enumerate() {
                (load.2, load.3, load.4) = (0, 0x20_0000 + number as u64 * 0x1000, 0);
            }
            // The segments' headers take more room than the program's contents begin at.
            let mut bytes = program(0x20_0010, &loads[..1]);
            bytes.resize(0x1000, 0);
            let header = bytes[HEADER_BYTES..HEADER_BYTES + SEGMENT_BYTES].to_vec();
            for (number, load) in loads.iter().enumerate() {
                let at = HEADER_BYTES + number * SEGMENT_BYTES;
                bytes[at..at + SEGMENT_BYTES].copy_from_slice(&header);
                bytes[at + 16..at + 24].copy_from_slice(&load.3.to_le_bytes());
            }
            bytes[56] = count as u8;
            Program::read(&bytes).err()
        };
        assert_eq!(many(MAX_SEGMENTS), None);
        assert_eq!(many(MAX_SEGMENTS + 1), Some(ProgramError::Segments));
    }

    #[test]
    fn the_entry_has_to_be_executable() {
        for entry in [0, 0x1f_ffff, 0x20_1000, 0x20_1300, u64::MAX] {
            let bytes = program(entry, &[TEXT, DATA]);
            assert_eq!(
                Program::read(&bytes).err(),
                Some(ProgramError::Entry),
                "{entry:#x}"
            );
        }
    }

    #[test]
    fn damaged_files_never_break_a_promise() {
        let good = program(0x20_0210, &[TEXT, DATA, STACK]);
        for length in 0..0x380 {
            assert!(Program::read(&good[..length]).is_err(), "{length} bytes");
        }
        let mut random = Random::new(6);
        let mut accepted = 0;
        for _ in 0..50_000 {
            let mut bytes = good.clone();
            for _ in 0..=random.below(3) {
                let place = random.below(HEADER_BYTES + 3 * SEGMENT_BYTES);
                bytes[place] = random.next() as u8;
            }
            let Ok(program) = Program::read(&bytes) else {
                continue;
            };
            accepted += 1;
            assert_eq!(program.segments().count(), program.loads().count());
            for segment in program.segments() {
                assert!(segment.address >= 0x1_0000 && segment.end() <= INIT_ARCHIVE);
                assert!(segment.bytes > 0 && segment.bytes % 0x1000 == 0);
                assert!(segment.offset + segment.data.len() as u64 <= segment.bytes);
                assert!(!(segment.access.write && segment.access.execute));
            }
        }
        assert!(
            accepted > 100,
            "the test has to see programs that pass: {accepted}"
        );
    }
}
