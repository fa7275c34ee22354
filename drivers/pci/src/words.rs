//! The kernel's command line, as far as it names devices: `virtio_mmio.device=SIZE@ADDRESS:LINE`, a
//! word for each slot of virtio-mmio, as Linux writes it (Documentation/admin-guide/
//! kernel-parameters.txt). Nothing else says where they are: a machine without a PCI bus has no
//! registers to look at, and its ACPI tables have them in AML alone.
//!
//! Whoever wrote the line is not believed: a word that cannot be one is an error value.

use alloc::vec::Vec;
use core::fmt;

/// What a word begins with.
const NAME: &str = "virtio_mmio.device=";
/// Most slots: more than machines have (QEMU's microvm: 24).
pub const MOST_SLOTS: usize = 32;
/// Bytes of the registers that every device has (VIRTIO 1.2, section 4.2.2).
const REGISTERS: u64 = 0x100;
/// Alignment of a window, which has registers of 32 bits.
const ALIGNMENT: u64 = 4;
/// Unit of what can be mapped, in bytes.
const PAGE: u64 = ipc::layout::PAGE_BYTES;

/// Where a slot is, as a word says. It lies in one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotWord {
    /// Physical address of the window.
    pub address: u64,
    /// Its length in bytes, 256 to 4,096.
    pub bytes: u64,
    /// Its interrupt line, a global system interrupt; not 0.
    pub line: u32,
}

/// Why a word names no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadWord {
    /// It is not SIZE@ADDRESS:LINE.
    Malformed,
    /// The window is smaller than the registers, not aligned, or does not lie in one page.
    Window,
    /// The line is 0, the timer's.
    Line,
    /// The window overlaps that of a word before.
    Overlap,
    /// There are [`MOST_SLOTS`] already.
    TooMany,
}

impl fmt::Display for BadWord {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Malformed => "write SIZE@ADDRESS:LINE, as in 512@0xfeb00000:24",
            Self::Window => "a slot has 256 to 4096 bytes, in one page, at a multiple of 4",
            Self::Line => "line 0 is the timer's",
            Self::Overlap => "another word names these registers",
            Self::TooMany => "there are too many",
        })
    }
}

/// The slots that a command line names, in its order; each word that names none goes to `refuse`.
pub fn slots(line: &str, mut refuse: impl FnMut(&str, BadWord)) -> Vec<SlotWord> {
    let mut found = Vec::new();
    for word in line.split_ascii_whitespace() {
        let Some(value) = word.strip_prefix(NAME) else {
            continue;
        };
        let slot = read(value).and_then(|slot| {
            let overlap = |other: &SlotWord| {
                slot.address < other.address + other.bytes
                    && other.address < slot.address + slot.bytes
            };
            if found.iter().any(overlap) {
                return Err(BadWord::Overlap);
            }
            if found.len() == MOST_SLOTS {
                return Err(BadWord::TooMany);
            }
            found.push(slot);
            Ok(())
        });
        if let Err(why) = slot {
            refuse(word, why);
        }
    }
    found
}

/// Reads what follows the name. Linux lets a word end with an identifier, which means nothing here.
fn read(value: &str) -> Result<SlotWord, BadWord> {
    let (bytes, place) = value.split_once('@').ok_or(BadWord::Malformed)?;
    let (address, line) = place.split_once(':').ok_or(BadWord::Malformed)?;
    let (line, identifier) = match line.split_once(':') {
        Some((line, identifier)) => (line, number(identifier)),
        None => (line, Some(0)),
    };
    let numbers = (size(bytes), number(address), number(line), identifier);
    let (Some(bytes), Some(address), Some(line), Some(_)) = numbers else {
        return Err(BadWord::Malformed);
    };
    let end = address.checked_add(bytes).filter(|_| bytes >= REGISTERS);
    let in_one_page = end.is_some_and(|end| (end - 1) / PAGE == address / PAGE);
    if !in_one_page || !address.is_multiple_of(ALIGNMENT) {
        return Err(BadWord::Window);
    }
    match u32::try_from(line) {
        Ok(line) if line != 0 => Ok(SlotWord {
            address,
            bytes,
            line,
        }),
        _ => Err(BadWord::Line),
    }
}

/// A number of bytes; a K after it counts 1,024.
fn size(text: &str) -> Option<u64> {
    match text.strip_suffix(['k', 'K']) {
        Some(digits) => number(digits)?.checked_mul(1024),
        None => number(text),
    }
}

/// A decimal or, after 0x, hexadecimal number. Nothing but digits is one.
fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x") {
        Some(digits) => (digits, 16),
        None => (text, 10),
    };
    let sound = digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    sound
        .then(|| u64::from_str_radix(digits, radix).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::{BadWord, MOST_SLOTS, SlotWord, slots};

    fn read(line: &str) -> (Vec<SlotWord>, Vec<BadWord>) {
        let mut refused = Vec::new();
        let found = slots(line, |_, why| refused.push(why));
        (found, refused)
    }

    const FIRST: SlotWord = SlotWord {
        address: 0xfeb0_0000,
        bytes: 512,
        line: 24,
    };

    #[test]
    fn words_are_read_among_others() {
        let line = "sched.slice_us=2000 virtio_mmio.device=512@0xfeb00000:24 x \
                    virtio_mmio.device=4K@0xd0000000:5:0 virtio_mmio.device=0x200@4272950784:31";
        let (found, refused) = read(line);
        let second = SlotWord {
            address: 0xd000_0000,
            bytes: 4096,
            line: 5,
        };
        let third = SlotWord {
            address: 0xfeb0_0e00,
            bytes: 512,
            line: 31,
        };
        assert_eq!(found, [FIRST, second, third]);
        assert!(refused.is_empty());
        assert_eq!(read("").0, []);
    }

    #[test]
    fn what_names_no_slot_is_refused() {
        for (value, why) in [
            ("", BadWord::Malformed),
            ("512", BadWord::Malformed),
            ("512@0xfeb00000", BadWord::Malformed),
            ("@0xfeb00000:5", BadWord::Malformed),
            ("512@:5", BadWord::Malformed),
            ("512@0xfeb00000:", BadWord::Malformed),
            ("512@0xfeb00000:5:", BadWord::Malformed),
            ("512@0xfeb00000:5:1:1", BadWord::Malformed),
            ("+512@0xfeb00000:5", BadWord::Malformed),
            ("512@-1:5", BadWord::Malformed),
            ("512@0xfeb0000g:5", BadWord::Malformed),
            ("0x@0xfeb00000:5", BadWord::Malformed),
            ("99999999999999999999@0:5", BadWord::Malformed),
            ("99999999999999999K@0:5", BadWord::Malformed),
            ("0@0xfeb00000:5", BadWord::Window),
            ("255@0xfeb00000:5", BadWord::Window),
            ("512@0xfeb00002:5", BadWord::Window),
            ("512@0xfeb00f00:5", BadWord::Window),
            ("8K@0xfeb00000:5", BadWord::Window),
            ("4096@0xfffffffffffffffc:5", BadWord::Window),
            ("512@0xffffffffffffff00:5", BadWord::Window),
            ("512@0xfeb00000:0", BadWord::Line),
            ("512@0xfeb00000:0x100000000", BadWord::Line),
        ] {
            let line = format!("virtio_mmio.device={value}");
            assert_eq!(read(&line), (vec![], vec![why]), "{value}");
        }
    }

    #[test]
    fn the_last_page_has_no_slot() {
        // Its end is no address.
        let line = "virtio_mmio.device=4096@0xfffffffffffff000:5";
        assert_eq!(read(line), (vec![], vec![BadWord::Window]));
    }

    #[test]
    fn registers_are_named_once() {
        let line = "virtio_mmio.device=512@0xfeb00000:24 virtio_mmio.device=256@0xfeb00100:25 \
                    virtio_mmio.device=512@0xfeb00000:24";
        assert_eq!(
            read(line),
            (vec![FIRST], vec![BadWord::Overlap, BadWord::Overlap])
        );
    }

    #[test]
    fn there_is_an_end_of_slots() {
        let words = (0..40).map(|slot| format!("virtio_mmio.device=512@{}:5 ", 512 * slot));
        let (found, refused) = read(&words.collect::<String>());
        assert_eq!(found.len(), MOST_SLOTS);
        assert_eq!(refused, [BadWord::TooMany; 8]);
    }
}
