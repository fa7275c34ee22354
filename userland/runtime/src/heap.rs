//! The heap: crate `linked_list_allocator` over the range that the startup block names, behind a
//! lock. A part of the range is mapped at the start, and more when that is used up, from the task's own quota:
//! memory that a task never needs is neither zeroed nor taken. On the host the host's own heap is used.
#![expect(unsafe_code, reason = "a global allocator is an unsafe trait")]

use crate::mapping::{Access, map_into};
use crate::sync::Mutex;
use crate::{Error, Memory, start};
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::NonNull;
use ipc::layout::PAGE_BYTES;
use ipc::startup::Range;
use linked_list_allocator::Heap;

/// Least that is mapped at a time, in bytes: a call of the kernel for each allocation would be dear.
const STEP: u64 = 256 * 1024;
/// What an allocation may take beside its size and alignment: the allocator's own words around it.
const OVERHEAD: u64 = 64;

/// A heap that grows in its range.
struct Growing {
    heap: Heap,
    /// What is not mapped yet.
    rest: Range,
}

impl Growing {
    const fn empty() -> Growing {
        Growing {
            heap: Heap::empty(),
            rest: Range { start: 0, bytes: 0 },
        }
    }

    /// Allocates, after mapping more with `map` where that is needed; `None` where there is no more.
    ///
    /// # Safety
    ///
    /// What `map` maps is writable for the life of the task, and nothing else uses it.
    unsafe fn allocate(
        &mut self,
        layout: Layout,
        map: impl FnOnce(Range) -> Result<(), Error>,
    ) -> Option<NonNull<u8>> {
        if let Ok(pointer) = self.heap.allocate_first_fit(layout) {
            return Some(pointer);
        }
        let next = self.next(layout)?;
        map(next).ok()?;
        self.rest = Range {
            start: self.rest.start + next.bytes,
            bytes: self.rest.bytes - next.bytes,
        };
        // SAFETY: it lies directly behind what the heap has, since `rest` begins there; it is mapped for good, by
        // `map`'s promise.
        unsafe { self.heap.extend(next.bytes as usize) };
        self.heap.allocate_first_fit(layout).ok()
    }

    /// The part of the rest that has room for this allocation, even if the heap's end has none.
    fn next(&self, layout: Layout) -> Option<Range> {
        let wanted = (layout.size() as u64)
            .checked_add(layout.align() as u64)?
            .checked_add(OVERHEAD)?
            .checked_next_multiple_of(PAGE_BYTES)?;
        let bytes = wanted.max(STEP).min(self.rest.bytes);
        (bytes != 0).then_some(Range {
            start: self.rest.start,
            bytes,
        })
    }
}

struct TaskHeap(Mutex<Growing>);

#[cfg_attr(target_os = "none", global_allocator)]
static HEAP: TaskHeap = TaskHeap(Mutex::new(Growing::empty()));

// SAFETY: the allocator under the lock hands out what `layout` asks for, or null, and takes back
// what it handed out.
unsafe impl GlobalAlloc for TaskHeap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: `map_more` maps fresh memory where nothing was, and nobody unmaps it.
        let allocated = unsafe { self.0.lock().allocate(layout, map_more) };
        allocated.map_or(core::ptr::null_mut(), NonNull::as_ptr)
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        if let Some(pointer) = NonNull::new(pointer) {
            // SAFETY: the pointer came from `alloc` with this layout, by the trait's contract.
            unsafe { self.0.lock().heap.deallocate(pointer, layout) };
        }
    }
}

/// Maps fresh memory into this task. The mapping alone keeps it.
fn map_more(range: Range) -> Result<(), Error> {
    let memory = Memory::create(range.bytes)?;
    let task = start::own_task();
    map_into(task, &memory, range.start, 0, range.bytes, Access::Write)
}

/// Gives the allocator its memory, of which so many bytes are mapped. A range too small for the allocator's own
/// words is no heap.
///
/// # Safety
///
/// The first `mapped` bytes are mapped writable for the life of the task, nothing is mapped in the rest, nothing
/// else uses the range, and this is called once.
pub(crate) unsafe fn initialise(range: Range, mapped: u64) {
    let mapped = mapped.min(range.bytes);
    if mapped < PAGE_BYTES {
        return;
    }
    let start = core::ptr::with_exposed_provenance_mut(range.start as usize);
    let mut growing = HEAP.0.lock();
    // SAFETY: the caller's promise.
    unsafe { growing.heap.init(start, mapped as usize) };
    growing.rest = Range {
        start: range.start + mapped,
        bytes: range.bytes - mapped,
    };
}

#[cfg(test)]
mod tests {
    use super::{Growing, STEP, TaskHeap};
    use crate::Error;
    use crate::sync::Mutex;
    use core::alloc::{GlobalAlloc, Layout};
    use ipc::startup::Range;
    use linked_list_allocator::Heap;

    /// A heap with so many bytes, of which a part is there from the beginning.
    fn heap(range: &mut [u64], mapped: usize) -> Growing {
        let start = range.as_mut_ptr().cast::<u8>();
        let mut growing = Growing::empty();
        // SAFETY: the slice outlives the heap in each test, and nothing else uses it.
        growing.heap = unsafe { Heap::new(start, mapped) };
        growing.rest = Range {
            start: start as u64 + mapped as u64,
            bytes: (size_of_val(range) - mapped) as u64,
        };
        growing
    }

    #[test]
    fn memory_comes_from_the_range_and_an_exhausted_heap_gives_null() {
        let mut range = std::vec![0u64; 512];
        let layout = Layout::from_size_align(1024, 8).unwrap();
        let empty = TaskHeap(Mutex::new(Growing::empty()));
        // SAFETY: an empty heap takes the request and refuses it.
        assert!(unsafe { empty.alloc(layout) }.is_null());
        let start = range.as_mut_ptr().cast::<u8>();
        let heap = TaskHeap(Mutex::new(heap(&mut range, 4096)));
        let mut got = std::vec::Vec::new();
        loop {
            // SAFETY: the layout is not empty.
            let pointer = unsafe { heap.alloc(layout) };
            if pointer.is_null() {
                break;
            }
            assert!(pointer >= start && pointer < start.wrapping_add(4096));
            got.push(pointer);
        }
        assert!((3..=4).contains(&got.len()), "{}", got.len());
        for pointer in got {
            // SAFETY: it came from this heap with this layout.
            unsafe { heap.dealloc(pointer, layout) };
        }
        assert_eq!(heap.0.lock().heap.used(), 0);
    }

    #[test]
    fn it_grows_by_what_is_needed_to_the_end_of_its_range() {
        const BYTES: usize = 3 << 20;
        let mut range = std::vec![0u64; BYTES / 8];
        let mut heap = heap(&mut range, 4096);
        let mut asked = std::vec::Vec::new();
        for (size, fits) in [
            (100_000, true),
            (1 << 20, true),
            (100_000, true),
            (2 << 20, false),
            (500_000, true),
        ] {
            let layout = Layout::from_size_align(size, 4096).unwrap();
            let map = |more: Range| {
                asked.push(more);
                Ok(())
            };
            // SAFETY: the range is the vector's, all of it.
            let got = unsafe { heap.allocate(layout, map) };
            assert_eq!(got.is_some(), fits, "{size}");
        }
        assert_eq!(asked[0].bytes, STEP);
        assert!(asked[1].bytes >= 1 << 20);
        for pair in asked.windows(2) {
            assert_eq!(pair[0].start + pair[0].bytes, pair[1].start);
        }
        let more: u64 = asked.iter().map(|range| range.bytes).sum();
        assert_eq!(more as usize + 4096 + heap.rest.bytes as usize, BYTES);
    }

    #[test]
    fn a_refusal_changes_nothing_and_is_asked_again() {
        let mut range = std::vec![0u64; 1 << 17];
        let mut heap = heap(&mut range, 4096);
        let layout = Layout::from_size_align(50_000, 8).unwrap();
        let refuse = |_| Err(Error::OutOfQuota);
        // SAFETY: nothing is mapped.
        assert!(unsafe { heap.allocate(layout, refuse) }.is_none());
        let rest = heap.rest;
        // SAFETY: the range is the vector's, all of it.
        assert!(unsafe { heap.allocate(layout, |_| Ok(())) }.is_some());
        assert_eq!(rest.bytes - heap.rest.bytes, STEP);
        let whole = Layout::from_size_align((isize::MAX as usize) - 7, 8).unwrap();
        // SAFETY: as above.
        assert!(unsafe { heap.allocate(whole, |_| Ok(())) }.is_none());
    }
}
