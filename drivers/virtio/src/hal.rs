//! The `Hal` that gives `virtio-drivers` pages of the task's DMA arena, and finds the address of a
//! buffer in its registered areas. `Hal` has no `self`: arena and areas are the task's.
#![expect(unsafe_code, reason = "Hal is an unsafe trait")]

use core::ptr::NonNull;

use pci_function::dma;
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// The `Hal` over the task's arena and areas.
#[derive(Debug)]
pub(crate) struct TaskHal;

// SAFETY: `dma_alloc` gives zeroed pages of the arena that nobody else holds, until `dma_dealloc`
// gives them back; `share` finds the address that the device sees and copies nothing.
unsafe impl Hal for TaskHal {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        match dma::allocate(pages) {
            Ok(area) => (area.physical(), area.as_slice().cast()),
            // Physical address 0 is how the caller is told that there is none.
            Err(_) => (0, NonNull::dangling()),
        }
    }

    unsafe fn dma_dealloc(_paddr: PhysAddr, vaddr: NonNull<u8>, pages: usize) -> i32 {
        let area = dma::at_virtual(vaddr, pages * PAGE_SIZE);
        dma::release(area.expect("what is given back was given"));
        0
    }

    unsafe fn mmio_phys_to_virt(_paddr: PhysAddr, _size: usize) -> NonNull<u8> {
        unreachable!("only virtio-drivers' own PCI transport maps registers, and it is not used")
    }

    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        let area = dma::at_virtual(buffer.cast(), buffer.len());
        area.expect("a queue's buffers lie in registered areas")
            .physical()
    }

    unsafe fn unshare(_paddr: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {
        // Nothing was copied, and without an IOMMU nothing is mapped.
    }
}
