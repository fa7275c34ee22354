//! The heap: crate `linked_list_allocator` over the range that the startup block names, behind a
//! lock. On the host the host's own heap is used.
#![expect(unsafe_code, reason = "a global allocator is an unsafe trait")]

use crate::sync::Mutex;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use ipc::startup::Range;
use linked_list_allocator::Heap;

struct TaskHeap(Mutex<Heap>);

#[cfg_attr(target_os = "none", global_allocator)]
static HEAP: TaskHeap = TaskHeap(Mutex::new(Heap::empty()));

// SAFETY: the allocator under the lock hands out what `layout` asks for, or null, and takes back
// what it handed out.
unsafe impl GlobalAlloc for TaskHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let allocated = self.0.lock().allocate_first_fit(layout);
        allocated.map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if let Some(pointer) = NonNull::new(pointer) {
            // SAFETY: the pointer came from `alloc` with this layout, by the trait's contract.
            unsafe { self.0.lock().deallocate(pointer, layout) };
        }
    }
}

/// Gives the allocator its memory. A range too small for the allocator's own words is no heap.
///
/// # Safety
///
/// The range is mapped writable for the life of the task, nothing else uses it, and this is called
/// once.
pub(crate) unsafe fn initialise(range: Range) {
    if range.bytes < ipc::layout::PAGE_BYTES {
        return;
    }
    let start = core::ptr::with_exposed_provenance_mut(range.start as usize);
    // SAFETY: the caller's promise.
    unsafe { HEAP.0.lock().init(start, range.bytes as usize) };
}

#[cfg(test)]
mod tests {
    use super::TaskHeap;
    use crate::sync::Mutex;
    use core::alloc::{GlobalAlloc, Layout};
    use linked_list_allocator::Heap;

    #[test]
    fn memory_comes_from_the_range_and_an_exhausted_heap_gives_null() {
        let mut range = std::vec![0u64; 512];
        let (start, bytes) = (range.as_mut_ptr().cast::<u8>(), 4096);
        let heap = TaskHeap(Mutex::new(Heap::empty()));
        let layout = Layout::from_size_align(1024, 8).unwrap();
        // SAFETY: an empty heap takes the request and refuses it.
        assert!(unsafe { heap.alloc(layout) }.is_null());
        // SAFETY: the vector outlives the heap, and nothing else uses it.
        unsafe { heap.0.lock().init(start, bytes) };
        let mut got = std::vec::Vec::new();
        loop {
            // SAFETY: the layout is not empty.
            let pointer = unsafe { heap.alloc(layout) };
            if pointer.is_null() {
                break;
            }
            assert!(pointer >= start && pointer < start.wrapping_add(bytes));
            got.push(pointer);
        }
        assert!((3..=4).contains(&got.len()), "{}", got.len());
        for pointer in got {
            // SAFETY: it came from this heap with this layout.
            unsafe { heap.dealloc(pointer, layout) };
        }
        assert_eq!(heap.0.lock().used(), 0);
    }
}
