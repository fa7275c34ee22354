//! Where a program may lie, and what a task's memory is made of. The other regions of a task are
//! `ipc::startup`'s.

use ipc::layout::PAGE_BYTES;
use ipc::manifest::Task;

use crate::program::{Program, ProgramError};

/// End (exclusive) of programs, which are linked into the bottom two gigabytes.
pub const PROGRAM_END: u64 = 0x8000_0000;

/// Whole pages that hold this many bytes; `None` if that is no sensible length.
pub const fn pages(bytes: u64) -> Option<u64> {
    /// Longest region: heap and stack have room for more.
    const LONGEST: u64 = 1 << 40;
    if bytes > LONGEST {
        return None;
    }
    Some(bytes.next_multiple_of(PAGE_BYTES))
}

/// What is left of a task's memory for its own quota, when program, stack and heap, which init's
/// quota pays for, are taken off.
///
/// # Errors
/// [`ProgramError::TooLarge`] if they are more than its memory.
pub fn quota(task: &Task<'_>, program: &Program) -> Result<u64, ProgramError> {
    let segments: u64 = program.segments.iter().map(|segment| segment.bytes).sum();
    let rest = task
        .memory
        .checked_sub(segments)
        .and_then(|rest| rest.checked_sub(task.stack))
        .and_then(|rest| rest.checked_sub(task.heap));
    rest.map(|rest| rest / PAGE_BYTES * PAGE_BYTES)
        .ok_or(ProgramError::TooLarge)
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
