//! The PVH door: `hvm_start_info`, as Xen's `public/arch-x86/hvm/start_info.h` lays it out (versions
//! 0 and 1), read into a [`BootInfo`].

use crate::info::{BootError, BootInfo, CommandLine, Door, MAX_COMMAND_LINE, MapBuilder};
use crate::memory::Range;
use crate::physical::{Physical, u32_at, u64_at};

/// First word of `hvm_start_info` (`XEN_HVM_START_MAGIC_VALUE`).
pub const MAGIC: u32 = 0x336e_c578;

/// Length of `hvm_start_info` version 0 and 1 in bytes.
const START_INFO_BYTES: [usize; 2] = [40, 56];
/// Length of `hvm_modlist_entry` in bytes.
const MODULE_BYTES: usize = 32;
/// Length of `hvm_memmap_table_entry` in bytes.
const MAP_ENTRY_BYTES: usize = 24;
/// Most entries of the module list and of the memory map: far above any real loader's.
const MOST_ENTRIES: u32 = 4096;
/// `XEN_HVM_MEMMAP_TYPE_RAM`.
const TYPE_RAM: u32 = 1;

/// Reads `hvm_start_info` at a physical address. `kernel` is where the kernel's image lies.
///
/// # Errors
/// What is wrong with it. A version 0 structure has no memory map and is refused.
pub fn read(memory: &impl Physical, address: u64, kernel: Range) -> Result<BootInfo, BootError> {
    const WHAT: &str = "start info";
    let base = memory
        .bytes(address, START_INFO_BYTES[0])
        .ok_or(BootError::OutOfReach(WHAT))?;
    if u32_at(base, 0) != Some(MAGIC) {
        return Err(BootError::UnknownLoader);
    }
    if u32_at(base, 4) == Some(0) {
        return Err(BootError::NoMemoryMap);
    }
    let start = memory
        .bytes(address, START_INFO_BYTES[1])
        .ok_or(BootError::OutOfReach(WHAT))?;
    let field = |offset| u64_at(start, offset).ok_or(BootError::Malformed(WHAT));
    let count = |offset| {
        u32_at(start, offset)
            .filter(|count| *count <= MOST_ENTRIES)
            .ok_or(BootError::Malformed(WHAT))
    };

    let mut info = BootInfo::new(Door::Pvh, kernel)?;
    info.reserve(address, START_INFO_BYTES[1] as u64, WHAT)?;
    read_modules(memory, &mut info, field(16)?, count(12)?)?;
    match field(24)? {
        0 => {}
        line => {
            let text = memory
                .text(line, MAX_COMMAND_LINE)
                .ok_or(BootError::OutOfReach("command line"))?;
            info.command_line = CommandLine::copy(text);
        }
    }
    info.rsdp = Some(field(32)?).filter(|rsdp| *rsdp != 0);
    read_map(memory, &mut info, field(40)?, count(48)?)?;
    info.complete()
}

fn read_modules(
    memory: &impl Physical,
    info: &mut BootInfo,
    list: u64,
    count: u32,
) -> Result<(), BootError> {
    const WHAT: &str = "module list";
    if count == 0 {
        return Ok(());
    }
    let bytes = memory
        .bytes(list, count as usize * MODULE_BYTES)
        .ok_or(BootError::OutOfReach(WHAT))?;
    info.reserve(list, bytes.len() as u64, WHAT)?;
    for entry in bytes.chunks_exact(MODULE_BYTES) {
        let (Some(start), Some(length)) = (u64_at(entry, 0), u64_at(entry, 8)) else {
            return Err(BootError::Malformed(WHAT));
        };
        info.module(start, length)?;
    }
    Ok(())
}

fn read_map(
    memory: &impl Physical,
    info: &mut BootInfo,
    table: u64,
    count: u32,
) -> Result<(), BootError> {
    const WHAT: &str = "memory map";
    let bytes = memory
        .bytes(table, count as usize * MAP_ENTRY_BYTES)
        .ok_or(BootError::OutOfReach(WHAT))?;
    let mut map = MapBuilder::new();
    for entry in bytes.chunks_exact(MAP_ENTRY_BYTES) {
        let (Some(start), Some(length), Some(kind)) =
            (u64_at(entry, 0), u64_at(entry, 8), u32_at(entry, 16))
        else {
            return Err(BootError::Malformed(WHAT));
        };
        map.add(start, length, kind == TYPE_RAM)?;
    }
    info.ram = map.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{MAGIC, read};
    use crate::physical::fake::Pieces;
    use crate::{BootError, Range};

    const KERNEL: Range = Range {
        start: 0x20_0000,
        end: 0x28_0123,
    };

    fn words32(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn words64(words: &[u64]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    fn start_info(modules: u32, map_entries: u32) -> Vec<u8> {
        let mut bytes = words32(&[MAGIC, 1, 0, modules]);
        bytes.extend(words64(&[0x2000, 0x3000, 0xf_5000, 0x4000]));
        bytes.extend(words32(&[map_entries, 0]));
        bytes
    }

    fn machine() -> Pieces {
        Pieces(vec![
            (0x1000, start_info(1, 3)),
            (0x2000, words64(&[0x3f0_0000, 0x1234, 0, 0])),
            (0x3000, b"sched.slice_us=500\0".to_vec()),
            (
                0x4000,
                words64(&[0, 0x9_fc00, 1, 0x9_fc00, 0x400, 2, 0x10_0000, 0x3f0_0000, 1]),
            ),
        ])
    }

    #[test]
    fn a_good_one_is_read() {
        let info = read(&machine(), 0x1000, KERNEL).unwrap();
        assert_eq!(info.command_line.as_str(), "sched.slice_us=500");
        assert_eq!(info.rsdp, Some(0xf_5000));
        assert_eq!(
            info.archive,
            Some(Range {
                start: 0x3f0_0000,
                end: 0x3f0_1234
            })
        );
        assert_eq!(
            info.ram.as_slice(),
            [
                Range {
                    start: 0,
                    end: 0x9_f000
                },
                Range {
                    start: 0x10_0000,
                    end: 0x400_0000
                }
            ]
        );
        assert_eq!(
            info.free().unwrap().as_slice(),
            [
                Range {
                    start: 0x3000,
                    end: 0x9_f000
                },
                Range {
                    start: 0x10_0000,
                    end: 0x20_0000
                },
                Range {
                    start: 0x28_1000,
                    end: 0x3f0_0000
                },
                Range {
                    start: 0x3f0_2000,
                    end: 0x400_0000
                },
            ]
        );
    }

    #[test]
    fn bad_ones_are_refused() {
        let change = |piece: usize, bytes: Vec<u8>| {
            let mut machine = machine();
            machine.0[piece].1 = bytes;
            read(&machine, 0x1000, KERNEL).map(|_| ())
        };
        assert_eq!(change(0, vec![0; 56]), Err(BootError::UnknownLoader));
        assert_eq!(
            change(0, words32(&[MAGIC, 1])),
            Err(BootError::OutOfReach("start info"))
        );
        assert_eq!(
            change(0, words32(&[MAGIC, 0, 0, 0, 0, 0, 0, 0, 0, 0])),
            Err(BootError::NoMemoryMap)
        );
        assert_eq!(
            change(0, start_info(u32::MAX, 3)),
            Err(BootError::Malformed("start info"))
        );
        assert_eq!(
            change(0, start_info(2, 3)),
            Err(BootError::OutOfReach("module list"))
        );
        assert_eq!(
            change(0, start_info(1, 4)),
            Err(BootError::OutOfReach("memory map"))
        );
        assert_eq!(change(0, start_info(1, 0)), Err(BootError::NoMemoryMap));
        assert_eq!(
            change(1, words64(&[0x3f0_0000, u64::MAX, 0, 0])),
            Err(BootError::OutOfReach("module"))
        );
        assert_eq!(
            change(1, words64(&[0x500_0000, 5, 0, 0])),
            Err(BootError::OutOfReach("module"))
        );
        assert_eq!(
            change(3, words64(&[1, u64::MAX, 1, 0, 0, 0, 0, 0, 0])),
            Err(BootError::Malformed("memory map"))
        );
    }

    #[test]
    fn no_cut_of_the_structures_panics() {
        for piece in 0..4 {
            let length = machine().0[piece].1.len();
            for cut in 0..length {
                let mut machine = machine();
                machine.0[piece].1.truncate(cut);
                let _ = read(&machine, 0x1000, KERNEL);
            }
        }
    }
}
