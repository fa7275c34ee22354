//! Where init puts the parts of a new task: program, heap, Startup page and stack. The regions are
//! far apart, so that none can run into another.

use ipc::layout::PAGE_BYTES;

/// End (exclusive) of programs, which are linked into the bottom two gigabytes.
pub const PROGRAM_END: u64 = 0x8000_0000;
/// The heap.
pub const HEAP: u64 = 0x2000_0000_0000;
/// The Startup page.
pub const STARTUP: u64 = 0x6fff_0000_0000;
/// End (exclusive) of the first thread's stack. Nothing is mapped for a long way below it: that is
/// its guard.
pub const STACK_END: u64 = 0x6fff_f000_0000;

/// Whole pages that hold this many bytes; `None` if that is no sensible length.
pub const fn pages(bytes: u64) -> Option<u64> {
    /// Longest region: heap and stack have room for more.
    const LONGEST: u64 = 1 << 40;
    if bytes > LONGEST {
        return None;
    }
    Some(bytes.next_multiple_of(PAGE_BYTES))
}

#[cfg(test)]
mod tests {
    use super::pages;

    #[test]
    fn lengths_are_rounded_up_and_bounded() {
        assert_eq!(pages(0), Some(0));
        assert_eq!(pages(1), Some(4096));
        assert_eq!(pages(4096), Some(4096));
        assert_eq!(pages(u64::MAX), None);
    }
}
