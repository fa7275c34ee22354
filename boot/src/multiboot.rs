//! The multiboot2 door: boot information as the Multiboot2 Specification version 2.0, section 3.6,
//! lays it out, read with crate `multiboot2` into a [`BootInfo`].
//!
//! The crate asserts what a malformed structure would break, so the shape of every tag that is used
//! is checked here first.
#![expect(
    unsafe_code,
    reason = "crate multiboot2 takes the boot information by pointer"
)]

use crate::info::{BootError, BootInfo, CommandLine, Door, MapBuilder};
use crate::memory::Range;
use crate::physical::{Physical, u32_at};
use multiboot2::{BootInformation, BootInformationHeader, MemoryAreaType};

/// What a multiboot2 loader leaves in EAX (section 3.3).
pub const MAGIC: u32 = 0x36d7_6289;

/// Longest boot information that is believed, in bytes.
const MOST_BYTES: u32 = 1 << 20;
/// Length of a tag's header, and of an entry of the memory map (section 3.6.8), in bytes.
const TAG_BYTES: usize = 8;
const MAP_ENTRY_BYTES: usize = 24;
/// Tag types (section 3.6): end, module, memory map, ACPI root pointers of revision 1 and 2.
const TAG_END: u32 = 0;
const TAG_MODULE: u32 = 3;
const TAG_MAP: u32 = 6;
const TAG_RSDP_1: u32 = 14;
const TAG_RSDP_2: u32 = 15;

/// Reads the boot information at a physical address. `kernel` is where the kernel's image lies.
///
/// # Errors
/// What is wrong with it.
pub fn read(memory: &impl Physical, address: u64, kernel: Range) -> Result<BootInfo, BootError> {
    const WHAT: &str = "boot information";
    let head = memory
        .bytes(address, TAG_BYTES)
        .ok_or(BootError::OutOfReach(WHAT))?;
    let total = u32_at(head, 0)
        .filter(|total| (16..=MOST_BYTES).contains(total) && total % 8 == 0)
        .ok_or(BootError::Malformed(WHAT))?;
    let bytes = memory
        .bytes(address, total as usize)
        .ok_or(BootError::OutOfReach(WHAT))?;
    let rsdp_offset = check_tags(bytes)?;

    // SAFETY: `bytes` is readable and unchanged for as long as `loader` lives, and as long as the
    // total size that its first word states, which is all that `load` reads.
    let loader = unsafe { BootInformation::load(bytes.as_ptr().cast::<BootInformationHeader>()) }
        .map_err(|_| BootError::Malformed(WHAT))?;

    let mut info = BootInfo::new(Door::Multiboot2, kernel)?;
    // The ACPI root pointer is a copy inside it, so it stays reserved.
    info.reserve(address, u64::from(total), WHAT)?;
    info.rsdp = rsdp_offset.map(|offset| address + offset as u64);
    if let Some(line) = loader.command_line_tag().and_then(|tag| tag.cmdline().ok()) {
        info.command_line = CommandLine::copy(line.as_bytes());
    }
    for module in loader.module_tags() {
        let (start, end) = (
            u64::from(module.start_address()),
            u64::from(module.end_address()),
        );
        let length = end
            .checked_sub(start)
            .ok_or(BootError::Malformed("module"))?;
        info.module(start, length)?;
    }
    let areas = loader
        .memory_map_tag()
        .ok_or(BootError::NoMemoryMap)?
        .memory_areas();
    let mut map = MapBuilder::new();
    for area in areas {
        map.add(
            area.start_address(),
            area.size(),
            area.typ() == MemoryAreaType::Available,
        )?;
    }
    info.ram = map.finish()?;
    info.complete()
}

/// Walks the tags: each inside the whole, large enough for its kind. Returns where in the structure
/// the newest ACPI root pointer begins.
fn check_tags(bytes: &[u8]) -> Result<Option<usize>, BootError> {
    const WHAT: BootError = BootError::Malformed("boot information");
    let (mut offset, mut rsdp) = (TAG_BYTES, None);
    loop {
        let (Some(kind), Some(size)) = (u32_at(bytes, offset), u32_at(bytes, offset + 4)) else {
            return Err(WHAT);
        };
        let size = size as usize;
        if size < TAG_BYTES || size > bytes.len() - offset {
            return Err(WHAT);
        }
        match kind {
            TAG_END => return Ok(rsdp.map(|(_, offset)| offset)),
            TAG_MODULE if size < 16 => return Err(BootError::Malformed("module")),
            TAG_MAP => {
                let entries = size
                    .checked_sub(16)
                    .ok_or(BootError::Malformed("memory map"))?;
                let entry_bytes = u32_at(bytes, offset + 8).map(|bytes| bytes as usize);
                if entry_bytes != Some(MAP_ENTRY_BYTES) || entries % MAP_ENTRY_BYTES != 0 {
                    return Err(BootError::Malformed("memory map"));
                }
            }
            TAG_RSDP_1 | TAG_RSDP_2 => rsdp = rsdp.max(Some((kind, offset + TAG_BYTES))),
            _ => {}
        }
        // Tags begin at multiples of eight bytes.
        offset += size.next_multiple_of(8);
    }
}

#[cfg(test)]
mod tests {
    use super::read;
    use crate::physical::Physical;
    use crate::{BootError, Range};

    const KERNEL: Range = Range {
        start: 0x20_0000,
        end: 0x28_0000,
    };
    const ADDRESS: u64 = 0x1_0000;

    /// Boot information at an address divisible by eight, as the specification wants it.
    struct Memory(Vec<u64>);

    impl Physical for Memory {
        fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
            let start = usize::try_from(address.checked_sub(ADDRESS)?).ok()?;
            // SAFETY: any quadword is eight initialised bytes.
            let bytes = unsafe {
                core::slice::from_raw_parts(self.0.as_ptr().cast::<u8>(), self.0.len() * 8)
            };
            bytes.get(start..start.checked_add(length)?)
        }
    }

    fn memory(bytes: &[u8]) -> Memory {
        let mut words = Vec::new();
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            words.push(u64::from_le_bytes(word));
        }
        Memory(words)
    }

    fn tag(kind: u32, body: &[u8]) -> Vec<u8> {
        let mut bytes = [kind.to_le_bytes(), (body.len() as u32 + 8).to_le_bytes()].concat();
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    fn map_tag(entry_bytes: u32, entries: &[(u64, u64, u32)]) -> Vec<u8> {
        let mut body = [entry_bytes.to_le_bytes(), 0u32.to_le_bytes()].concat();
        for (start, length, kind) in entries {
            body.extend(start.to_le_bytes());
            body.extend(length.to_le_bytes());
            body.extend(kind.to_le_bytes());
            body.extend(0u32.to_le_bytes());
        }
        tag(6, &body)
    }

    fn module_tag(start: u32, end: u32) -> Vec<u8> {
        tag(
            3,
            &[&start.to_le_bytes()[..], &end.to_le_bytes(), b"archive\0"].concat(),
        )
    }

    fn information(tags: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = vec![0; 8];
        for tag in tags {
            bytes.extend(tag);
        }
        bytes.extend(tag(0, &[]));
        let total = bytes.len() as u32;
        bytes[..4].copy_from_slice(&total.to_le_bytes());
        bytes
    }

    fn good() -> Vec<u8> {
        information(&[
            tag(1, b"panic=reboot\0"),
            module_tag(0x30_0000, 0x30_0123),
            module_tag(0x31_0000, 0x31_1000),
            map_tag(
                24,
                &[
                    (0, 0x9_f000, 1),
                    (0x10_0000, 0x40_0000, 1),
                    (0x50_0000, 0x1000, 3),
                ],
            ),
            tag(14, &[1; 20]),
            tag(15, &[2; 36]),
        ])
    }

    fn result(bytes: &[u8]) -> Result<(), BootError> {
        read(&memory(bytes), ADDRESS, KERNEL).map(|_| ())
    }

    #[test]
    fn a_good_one_is_read() {
        let memory = memory(&good());
        let info = read(&memory, ADDRESS, KERNEL).unwrap();
        assert_eq!(info.command_line.as_str(), "panic=reboot");
        assert_eq!(
            info.archive,
            Some(Range {
                start: 0x30_0000,
                end: 0x30_0123
            })
        );
        assert_eq!(
            memory.bytes(info.rsdp.unwrap(), 36).unwrap(),
            [2; 36],
            "the newer of the two"
        );
        assert!(info.reserved.contains(Range {
            start: 0x31_0000,
            end: 0x31_1000
        }));
        assert!(info.reserved.contains(Range {
            start: 0x1_0000,
            end: 0x1_1000
        }));
        assert_eq!(
            info.ram.as_slice(),
            [
                Range {
                    start: 0,
                    end: 0x9_f000
                },
                Range {
                    start: 0x10_0000,
                    end: 0x50_0000
                }
            ]
        );
    }

    #[test]
    fn bad_ones_are_refused() {
        let map = || map_tag(24, &[(0x10_0000, 0x40_0000, 1)]);
        assert_eq!(result(&information(&[])), Err(BootError::NoMemoryMap));
        assert_eq!(
            result(&information(&[map_tag(24, &[])])),
            Err(BootError::NoMemoryMap)
        );
        assert_eq!(
            result(&information(&[map_tag(40, &[(0, 0x1000, 1)])])),
            Err(BootError::Malformed("memory map"))
        );
        assert_eq!(
            result(&information(&[tag(6, &[0; 4])])),
            Err(BootError::Malformed("memory map"))
        );
        assert_eq!(
            result(&information(&[map(), module_tag(0x30_0000, 0x20_0000)])),
            Err(BootError::Malformed("module"))
        );
        assert_eq!(
            result(&information(&[map(), module_tag(0x60_0000, 0x61_0000)])),
            Err(BootError::OutOfReach("module"))
        );
        assert_eq!(
            result(&information(&[map(), tag(3, &[])])),
            Err(BootError::Malformed("module"))
        );
        let mut long = good();
        long[0] = 0xf8;
        long[1] = 0xff;
        assert_eq!(
            result(&long),
            Err(BootError::OutOfReach("boot information"))
        );
    }

    #[test]
    fn no_damage_panics() {
        let good = good();
        for position in 0..good.len() {
            for value in [0, 1, 7, 0x7f, 0xff] {
                let mut bytes = good.clone();
                bytes[position] = value;
                let _ = result(&bytes);
            }
            let _ = result(&good[..position]);
        }
    }
}
