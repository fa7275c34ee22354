//! Memory for what lives as long as the kernel: page tables, stacks, per-CPU data, the frame table's
//! book-keeping. Taken from the free RAM that the boot loader reported, from its upper end, before
//! the rest goes to the frame table; never given back.
#![expect(unsafe_code, reason = "clears the memory that it hands out")]

use crate::physical;
use boot::{PAGE, Range, Ranges};

/// The free RAM.
pub(crate) struct BootMemory {
    free: Ranges,
    limit: u64,
}

impl BootMemory {
    /// All of `free`, of which what lies at and above `limit` is not mapped yet.
    ///
    /// # Safety
    /// Nothing refers to memory in `free`, and up to `limit` it is mapped where
    /// [`physical::address_of`] says.
    pub(crate) unsafe fn new(free: Ranges, limit: u64) -> BootMemory {
        BootMemory { free, limit }
    }

    /// From now on all RAM is mapped.
    ///
    /// # Safety
    /// It is, where [`physical::address_of`] says.
    pub(crate) unsafe fn lift_limit(&mut self) {
        self.limit = physical::MOST_MEMORY;
    }

    /// Takes whole pages, cleared.
    ///
    /// # Panics
    /// If there is no range that large: the machine has too little memory to boot.
    pub(crate) fn take(&mut self, bytes: u64) -> u64 {
        let bytes = bytes.next_multiple_of(PAGE);
        let place = self.free.as_slice().iter().rev().find_map(|range| {
            let end = range.end.min(self.limit);
            (end.saturating_sub(range.start) >= bytes).then(|| end - bytes)
        });
        let Some(start) = place else {
            panic!(
                "not enough memory to boot: {bytes} bytes are wanted in one piece; give the machine 24 MiB or more"
            );
        };
        self.cut(Range {
            start,
            end: start + bytes,
        });
        // SAFETY: free until now (`new`), taken out above, and below the limit of what is mapped.
        unsafe { physical::clear(start, bytes) };
        start
    }

    /// Takes one page below 1 MiB for the application processors' trampoline, if there is one.
    pub(crate) fn take_low_page(&mut self) -> Option<u64> {
        // Below the 640 KiB that real-mode firmware leaves to others.
        const END: u64 = 0xa_0000;
        let low = self
            .free
            .as_slice()
            .iter()
            .rev()
            .find(|range| range.start + PAGE <= END)?;
        let start = low.end.min(END) - PAGE;
        self.cut(Range {
            start,
            end: start + PAGE,
        });
        Some(start)
    }

    /// Places `number` values for good, each made from its index.
    pub(crate) fn place<T: Sync>(
        &mut self,
        number: usize,
        make: impl FnMut(usize) -> T,
    ) -> &'static [T] {
        let start = self.take((number * size_of::<T>()) as u64);
        // SAFETY: whole pages that were free until now, large enough; mapped at the current offset,
        // which does not change any more once the limit is lifted.
        unsafe { physical::place(start, number, make) }
    }

    /// Address after the highest free byte.
    pub(crate) fn end(&self) -> u64 {
        self.free
            .as_slice()
            .last()
            .map_or(0, |range| range.end.min(physical::MOST_MEMORY))
    }

    fn cut(&mut self, range: Range) {
        // Only a list of all MAX_RANGES pieces that is cut in a middle overflows, and pieces are cut
        // at their upper end.
        self.free
            .remove(range)
            .expect("a free range was cut at its end");
    }

    /// What is left.
    pub(crate) fn rest(self) -> Ranges {
        self.free
    }
}
