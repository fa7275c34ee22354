//! Segments and task state: one descriptor table and one task state segment for each CPU (Intel SDM
//! volume 3A, sections 3.4.5 and 7.7). Segmentation does nothing in 64-bit mode but name rings and
//! stacks.
#![expect(unsafe_code, reason = "loads descriptor tables")]

use crate::percpu::PerCpu;
use kernel_core::sync::{AtomicU8, AtomicU16, AtomicU64, Ordering};
use x86_64::instructions::segmentation::{CS, DS, ES, FS, GS, SS, Segment};
use x86_64::instructions::tables;
use x86_64::structures::DescriptorTablePointer;
use x86_64::structures::gdt::SegmentSelector;
use x86_64::{PrivilegeLevel, VirtAddr};

/// Descriptors of a CPU's table; the task state segment takes two.
pub(crate) const ENTRIES: usize = 8;

/// Selectors. SYSCALL loads `KERNEL_CODE` and the one after; SYSRET loads `USER_BASE` + 8 for the
/// stack and `USER_BASE` + 16 for code (AMD APM volume 2, section 6.1.1, STAR).
pub(crate) const KERNEL_CODE: u16 = 0x08;
pub(crate) const KERNEL_DATA: u16 = 0x10;
pub(crate) const USER_BASE: u16 = 0x18 | 3;
pub(crate) const USER_DATA: u16 = 0x20 | 3;
pub(crate) const USER_CODE: u16 = 0x28 | 3;
const TASK_STATE: u16 = 0x30;

/// Descriptors (AMD APM volume 2, section 4.8): present, accessed, type; L for 64-bit code.
#[expect(
    clippy::declare_interior_mutable_const,
    reason = "the initial value of each CPU's table"
)]
pub(crate) const TABLE: [AtomicU64; ENTRIES] = [
    AtomicU64::new(0),
    AtomicU64::new(0x0020_9b00_0000_0000),
    AtomicU64::new(0x0000_9300_0000_0000),
    AtomicU64::new(0),
    AtomicU64::new(0x0000_f300_0000_0000),
    AtomicU64::new(0x0020_fb00_0000_0000),
    AtomicU64::new(0),
    AtomicU64::new(0),
];

/// Ports in the I/O permission bitmap.
pub(crate) const PORTS: usize = 0x1_0000;
/// Offset of the bitmap in the segment, and the one that says there is none: outside the segment.
pub(crate) const BITMAP_ON: u16 = 104;
pub(crate) const BITMAP_OFF: u16 = u16::MAX;

/// Stacks of their own, by the number in a gate (1 to 7).
pub(crate) const NMI_STACK: u8 = 1;
pub(crate) const DOUBLE_FAULT_STACK: u8 = 2;
pub(crate) const MACHINE_CHECK_STACK: u8 = 3;
pub(crate) const DEBUG_STACK: u8 = 4;
/// How many of them there are.
pub(crate) const INTERRUPT_STACKS: usize = 4;

/// The task state segment (Intel SDM volume 3A, figure 7-11), four bytes in, so that its quadwords
/// are aligned.
#[repr(C, align(8))]
#[derive(Debug)]
pub(crate) struct TaskState {
    padding: u32,
    reserved_0: u32,
    /// Stack pointer for entries from ring 3: see [`crate::percpu::OFFSET_REGISTERS_END`].
    pub(crate) rsp0: AtomicU64,
    reserved_1: [u64; 3],
    stacks: [AtomicU64; 7],
    reserved_2: u64,
    reserved_3: u16,
    /// [`BITMAP_ON`] or [`BITMAP_OFF`].
    pub(crate) bitmap_offset: AtomicU16,
    /// A bit a port, set to refuse it; the CPU reads a byte further (section 19.5.2), all ones.
    pub(crate) bitmap: [AtomicU8; PORTS / 8 + 1],
}

/// Bytes of the segment that are not in front of it.
const TASK_STATE_BYTES: u64 = BITMAP_ON as u64 + PORTS as u64 / 8 + 1;

impl TaskState {
    /// No stacks, no ports.
    pub(crate) const fn new() -> TaskState {
        TaskState {
            padding: 0,
            reserved_0: 0,
            rsp0: AtomicU64::new(0),
            reserved_1: [0; 3],
            stacks: [const { AtomicU64::new(0) }; 7],
            reserved_2: 0,
            reserved_3: 0,
            bitmap_offset: AtomicU16::new(BITMAP_OFF),
            bitmap: [const { AtomicU8::new(0xff) }; PORTS / 8 + 1],
        }
    }

    /// Sets the stack pointer of an interrupt stack.
    pub(crate) fn set_stack(&self, number: u8, end: u64) {
        self.stacks[usize::from(number) - 1].store(end, Ordering::Relaxed);
    }
}

/// Loads a CPU's descriptor table, segment registers and task register.
pub(crate) fn load(cpu: &'static PerCpu) {
    // The segment begins after the padding.
    let base = core::ptr::from_ref(&cpu.task_state).addr() as u64 + 4;
    // Available 64-bit TSS, present (section 7.2.3).
    let low =
        (TASK_STATE_BYTES - 1) | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
    cpu.gdt[usize::from(TASK_STATE / 8)].store(low, Ordering::Relaxed);
    cpu.gdt[usize::from(TASK_STATE / 8) + 1].store(base >> 32, Ordering::Relaxed);
    let pointer = DescriptorTablePointer {
        limit: (ENTRIES * 8 - 1) as u16,
        base: VirtAddr::new_truncate(cpu.gdt.as_ptr().addr() as u64),
    };
    // SAFETY: the table lives for good, and its descriptors are those above. Loading FS and GS with
    // null clears their bases, which the caller's next step sets.
    unsafe {
        tables::lgdt(&pointer);
        CS::set_reg(SegmentSelector(KERNEL_CODE));
        SS::set_reg(SegmentSelector(KERNEL_DATA));
        let null = SegmentSelector::new(0, PrivilegeLevel::Ring0);
        DS::set_reg(null);
        ES::set_reg(null);
        FS::set_reg(null);
        GS::set_reg(null);
    }
    cpu.load();
    // SAFETY: the descriptor was written above; it is available, as each CPU has its own table.
    unsafe { tables::load_tss(SegmentSelector(TASK_STATE)) };
}
