//! The interrupt descriptor table, one for all CPUs (Intel SDM volume 3A, section 6.14.1): every
//! vector leads to its stub in entry.S through an interrupt gate, so that interrupts are off in ring
//! 0. No gate can be called from ring 3 by INT but breakpoint and overflow.
#![expect(unsafe_code, reason = "loads the interrupt descriptor table")]

use crate::entry;
use crate::gdt;
use kernel_core::sync::{AtomicU64, Ordering};
use x86_64::VirtAddr;
use x86_64::instructions::tables;
use x86_64::structures::DescriptorTablePointer;

/// Exceptions by vector (table 6-1), as far as the mechanism tells them apart.
pub(crate) const DEBUG: u8 = 1;
pub(crate) const NMI: u8 = 2;
const BREAKPOINT: u8 = 3;
const OVERFLOW: u8 = 4;
pub(crate) const DOUBLE_FAULT: u8 = 8;
pub(crate) const PAGE_FAULT: u8 = 14;
pub(crate) const MACHINE_CHECK: u8 = 18;
/// First vector that is no exception.
pub(crate) const FIRST_INTERRUPT: u8 = 32;
/// The mechanism's own interrupts, above what the core uses.
pub(crate) const TIMER: u8 = 0xf0;
pub(crate) const KICK: u8 = 0xf1;
pub(crate) const APIC_ERROR: u8 = 0xfe;
pub(crate) const SPURIOUS: u8 = 0xff;

/// Gate: present, 64-bit interrupt gate, and the ring that INT needs.
const GATE: u64 = 0x8e << 40;
const FROM_RING_3: u64 = 3 << 45;

static TABLE: [[AtomicU64; 2]; 256] = [const { [AtomicU64::new(0), AtomicU64::new(0)] }; 256];

fn stack_of(vector: u8) -> u8 {
    match vector {
        DEBUG => gdt::DEBUG_STACK,
        NMI => gdt::NMI_STACK,
        DOUBLE_FAULT => gdt::DOUBLE_FAULT_STACK,
        MACHINE_CHECK => gdt::MACHINE_CHECK_STACK,
        _ => 0,
    }
}

/// Fills the table. To be called once, before any CPU loads it.
pub(crate) fn fill() {
    for vector in 0..=u8::MAX {
        let address = entry::stub(vector);
        let ring = if matches!(vector, BREAKPOINT | OVERFLOW) {
            FROM_RING_3
        } else {
            0
        };
        let low = address & 0xffff
            | u64::from(gdt::KERNEL_CODE) << 16
            | u64::from(stack_of(vector)) << 32
            | GATE
            | ring
            | (address >> 16 & 0xffff) << 48;
        let gate = &TABLE[usize::from(vector)];
        gate[0].store(low, Ordering::Relaxed);
        gate[1].store(address >> 32, Ordering::Relaxed);
    }
}

/// Loads the table on this CPU.
pub(crate) fn load() {
    let pointer = DescriptorTablePointer {
        limit: (size_of_val(&TABLE) - 1) as u16,
        base: VirtAddr::new_truncate(TABLE.as_ptr().addr() as u64),
    };
    // SAFETY: the table is filled (`fill`), lives for good, and every gate leads to a stub.
    unsafe { tables::lidt(&pointer) };
}
