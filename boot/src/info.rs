//! What the kernel needs to know from the boot loader, whichever it was.

use crate::memory::{PAGE, Range, Ranges, TooManyRanges};
use core::fmt;

/// Longest command line in bytes; a longer one is cut.
pub const MAX_COMMAND_LINE: usize = 2048;

/// By which door the kernel came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// A PVH loader (Xen's direct boot protocol): QEMU's `-kernel`.
    Pvh,
    /// A multiboot2 loader: GRUB.
    Multiboot2,
}

impl fmt::Display for Door {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Door::Pvh => "PVH",
            Door::Multiboot2 => "multiboot2",
        })
    }
}

/// Why the boot information is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootError {
    /// Neither loader's mark was found.
    UnknownLoader,
    /// A structure lies outside memory, or an address or length in it does. The text names it.
    OutOfReach(&'static str),
    /// A structure contradicts its specification. The text names it.
    Malformed(&'static str),
    /// The loader gave no memory map.
    NoMemoryMap,
    /// The memory map has more separate ranges than a list holds.
    TooManyRanges,
}

impl From<TooManyRanges> for BootError {
    fn from(_: TooManyRanges) -> BootError {
        BootError::TooManyRanges
    }
}

impl fmt::Display for BootError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BootError::UnknownLoader => formatter.write_str(
                "started by neither a PVH nor a multiboot2 loader: use QEMU's -kernel or GRUB's multiboot2",
            ),
            BootError::OutOfReach(what) => write!(formatter, "the loader's {what} is outside memory"),
            BootError::Malformed(what) => write!(formatter, "the loader's {what} is malformed"),
            BootError::NoMemoryMap => formatter.write_str("the loader gave no memory map"),
            BootError::TooManyRanges => formatter.write_str("the memory map is in too many pieces"),
        }
    }
}

/// The kernel's command line, copied.
#[derive(Clone)]
pub struct CommandLine {
    bytes: heapless::Vec<u8, MAX_COMMAND_LINE>,
}

impl CommandLine {
    /// A copy of the bytes, cut at [`MAX_COMMAND_LINE`] and at the first that is not ASCII.
    pub fn copy(text: &[u8]) -> CommandLine {
        let mut bytes = heapless::Vec::new();
        for byte in text
            .iter()
            .take_while(|byte| byte.is_ascii() && **byte != 0)
        {
            if bytes.push(*byte).is_err() {
                break;
            }
        }
        CommandLine { bytes }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes).unwrap_or("")
    }
}

/// What the boot loader said, in one form for both doors.
#[derive(Clone)]
pub struct BootInfo {
    /// The door.
    pub door: Door,
    /// RAM, in whole pages, what is reserved in it included.
    pub ram: Ranges,
    /// The parts of RAM that hold something: the kernel's image, modules, the loader's structures,
    /// page 0 (the real-mode vectors of a BIOS).
    pub reserved: Ranges,
    /// The first module: the boot archive, exact to the byte. Later ones are reserved, not used.
    pub archive: Option<Range>,
    /// The command line.
    pub command_line: CommandLine,
    /// Physical address of the ACPI root pointer, as far as the loader knows it.
    pub rsdp: Option<u64>,
}

impl BootInfo {
    pub(crate) fn new(door: Door, kernel: Range) -> Result<BootInfo, BootError> {
        let mut reserved = Ranges::new();
        reserved.add(Range {
            start: 0,
            end: PAGE,
        })?;
        reserved.add(kernel.outer_pages())?;
        Ok(BootInfo {
            door,
            ram: Ranges::new(),
            reserved,
            archive: None,
            command_line: CommandLine::copy(b""),
            rsdp: None,
        })
    }

    pub(crate) fn reserve(
        &mut self,
        start: u64,
        length: u64,
        what: &'static str,
    ) -> Result<(), BootError> {
        let range = Range::of(start, length).ok_or(BootError::OutOfReach(what))?;
        Ok(self.reserved.add(range.outer_pages())?)
    }

    pub(crate) fn module(&mut self, start: u64, length: u64) -> Result<(), BootError> {
        if length == 0 {
            return Ok(());
        }
        let range = Range::of(start, length).ok_or(BootError::OutOfReach("module"))?;
        self.reserved.add(range.outer_pages())?;
        self.archive.get_or_insert(range);
        Ok(())
    }

    /// Checks what both doors have to deliver, once the map is complete.
    pub(crate) fn complete(self) -> Result<BootInfo, BootError> {
        if self.ram.as_slice().is_empty() {
            return Err(BootError::NoMemoryMap);
        }
        match self.archive {
            Some(archive) if !self.ram.contains(archive.outer_pages()) => {
                Err(BootError::OutOfReach("module"))
            }
            _ => Ok(self),
        }
    }

    /// RAM that holds nothing.
    ///
    /// # Errors
    /// [`BootError::TooManyRanges`] if cutting the reserved parts out leaves too many pieces.
    pub fn free(&self) -> Result<Ranges, BootError> {
        let mut free = self.ram.clone();
        for range in self.reserved.as_slice() {
            free.remove(*range)?;
        }
        Ok(free)
    }
}

/// Collects a firmware's memory map, in any order and with overlaps: where entries disagree, what is
/// not usable wins.
pub(crate) struct MapBuilder {
    usable: Ranges,
    other: Ranges,
}

impl MapBuilder {
    pub(crate) fn new() -> MapBuilder {
        MapBuilder {
            usable: Ranges::new(),
            other: Ranges::new(),
        }
    }

    /// Adds an entry. `usable` is the firmware's word for RAM that is free for all use.
    pub(crate) fn add(&mut self, start: u64, length: u64, usable: bool) -> Result<(), BootError> {
        let range = Range::of(start, length).ok_or(BootError::Malformed("memory map"))?;
        if usable {
            self.usable.add(range)?
        } else {
            self.other.add(range.outer_pages())?
        }
        Ok(())
    }

    /// Whole pages of RAM.
    pub(crate) fn finish(self) -> Result<Ranges, BootError> {
        let mut ram = Ranges::new();
        for range in self.usable.as_slice() {
            ram.add(range.inner_pages())?;
        }
        for range in self.other.as_slice() {
            ram.remove(*range)?;
        }
        Ok(ram)
    }
}

#[cfg(test)]
mod tests {
    use super::{BootError, CommandLine, MAX_COMMAND_LINE, MapBuilder};
    use crate::Range;

    #[test]
    fn unusable_wins_and_pages_are_whole() {
        let mut map = MapBuilder::new();
        map.add(0x10_0000, 0x10_0000, true).unwrap();
        map.add(0, 0x9_fc00, true).unwrap();
        map.add(0x18_0001, 1, false).unwrap();
        let ram = map.finish().unwrap();
        assert_eq!(
            ram.as_slice(),
            [
                Range {
                    start: 0,
                    end: 0x9_f000
                },
                Range {
                    start: 0x10_0000,
                    end: 0x18_0000
                },
                Range {
                    start: 0x18_1000,
                    end: 0x20_0000
                },
            ]
        );
    }

    #[test]
    fn an_entry_past_the_end_of_memory_is_refused() {
        let mut map = MapBuilder::new();
        assert_eq!(
            map.add(u64::MAX - 1, 5, true),
            Err(BootError::Malformed("memory map"))
        );
    }

    #[test]
    fn command_lines_are_cut() {
        assert_eq!(
            CommandLine::copy(b"panic=halt\0rest").as_str(),
            "panic=halt"
        );
        assert_eq!(CommandLine::copy(b"a\xffb").as_str(), "a");
        assert_eq!(
            CommandLine::copy(&[b'x'; 5000]).as_str().len(),
            MAX_COMMAND_LINE
        );
    }
}
