//! The chain of return addresses of the calling thread, by its frame pointers.
#![expect(
    unsafe_code,
    reason = "frames are read through raw pointers, within the stack"
)]

use crate::block::{self, STACK_START};

/// Most frames that are followed.
pub const MAX_FRAMES: usize = 32;

/// Calls `each` with the return addresses, the innermost first. The chain ends where it leaves the
/// thread's stack; a broken one gives wrong addresses at worst.
#[inline(never)]
pub fn each(mut each: impl FnMut(u64)) {
    let (start, end) = (block::read(STACK_START), block::read(0));
    let mut frame = frame_pointer();
    for _ in 0..MAX_FRAMES {
        let Some([next, address]) = read_frame(frame, start, end) else {
            return;
        };
        if address == 0 {
            return;
        }
        each(address);
        // Frames lie one above the other: anything else would go in circles.
        if next <= frame {
            return;
        }
        frame = next;
    }
}

/// The saved frame pointer and the return address at `frame`, if that is in the stack.
fn read_frame(frame: u64, start: u64, end: u64) -> Option<[u64; 2]> {
    if start == 0 || !frame.is_multiple_of(8) || frame < start || frame.checked_add(16)? > end {
        return None;
    }
    let pointer = core::ptr::with_exposed_provenance::<[u64; 2]>(frame as usize);
    // SAFETY: both words lie in the stack of the calling thread, which is mapped.
    Some(unsafe { pointer.read_volatile() })
}

#[cfg(target_os = "none")]
#[inline(always)]
fn frame_pointer() -> u64 {
    let frame;
    // SAFETY: reads a register.
    unsafe { core::arch::asm!("mov {}, rbp", out(reg) frame, options(nomem, nostack)) };
    frame
}

#[cfg(not(target_os = "none"))]
fn frame_pointer() -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use super::read_frame;

    #[test]
    fn frames_outside_of_the_stack_are_not_read() {
        let stack = [0u64, 0x1234, 0];
        let start = stack.as_ptr().expose_provenance() as u64;
        let end = start + 24;
        assert_eq!(read_frame(start, start, end), Some([0, 0x1234]));
        for frame in [
            0,
            start - 8,
            start + 4,
            start + 16,
            end,
            u64::MAX,
            u64::MAX - 7,
        ] {
            assert_eq!(read_frame(frame, start, end), None, "{frame:#x}");
        }
        assert_eq!(read_frame(start, 0, end), None);
    }
}
