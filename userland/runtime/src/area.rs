//! Where the task's own mappings go: address ranges out of one large region, each followed by a page
//! that is never mapped.

use crate::sync::Mutex;
use alloc::vec::Vec;
use ipc::layout::{LARGE_PAGE_BYTES, PAGE_BYTES};
use ipc::startup::{MAPPINGS_END, MAPPINGS_START};

static AREAS: Mutex<Areas> = Mutex::new(Areas {
    next: MAPPINGS_START,
    free: Vec::new(),
});

/// The ranges handed out so far lie below `next`; those in `free` came back. A range is handed out
/// again for the same length only, so that the region does not fragment: a task has few lengths.
struct Areas {
    next: u64,
    free: Vec<(u64, u64)>,
}

impl Areas {
    fn take(&mut self, bytes: u64) -> Option<u64> {
        if let Some(position) = self.free.iter().position(|entry| entry.1 == bytes) {
            return Some(self.free.swap_remove(position).0);
        }
        // Where the kernel can use large pages it does.
        let alignment = match bytes {
            LARGE_PAGE_BYTES.. => LARGE_PAGE_BYTES,
            _ => PAGE_BYTES,
        };
        let start = self.next.checked_next_multiple_of(alignment)?;
        let end = start.checked_add(bytes)?.checked_add(PAGE_BYTES)?;
        if end > MAPPINGS_END {
            return None;
        }
        self.next = end;
        Some(start)
    }

    fn give_back(&mut self, start: u64, bytes: u64) {
        // Without memory for the entry the range is lost; there are 2^45 bytes of them.
        if self.free.try_reserve(1).is_ok() {
            self.free.push((start, bytes));
        }
    }
}

/// Takes a range of this many bytes, a multiple of 4,096. `None` when the region is used up.
pub(crate) fn take(bytes: u64) -> Option<u64> {
    AREAS.lock().take(bytes)
}

/// Gives a range back in which nothing is mapped any more.
pub(crate) fn give_back(start: u64, bytes: u64) {
    AREAS.lock().give_back(start, bytes);
}

#[cfg(test)]
mod tests {
    use super::Areas;
    use ipc::startup::{MAPPINGS_END, MAPPINGS_START};
    use std::vec::Vec;

    #[test]
    fn ranges_do_not_touch_and_come_back_for_their_length() {
        let mut areas = Areas {
            next: MAPPINGS_START,
            free: Vec::new(),
        };
        let first = areas.take(4096).unwrap();
        let second = areas.take(8192).unwrap();
        assert!(second > first + 4096, "a page between");
        areas.give_back(first, 4096);
        assert_ne!(areas.take(8192), Some(first));
        assert_eq!(areas.take(4096), Some(first));
    }

    #[test]
    fn the_region_ends() {
        let mut areas = Areas {
            next: MAPPINGS_END - 8192,
            free: Vec::new(),
        };
        assert_eq!(areas.take(8192), None);
        assert_eq!(areas.take(u64::MAX - 100), None);
        assert_eq!(areas.take(4096), Some(MAPPINGS_END - 8192));
    }
}
