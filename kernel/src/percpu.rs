//! What one CPU owns in the mechanism, found through its GS base while it is in ring 0: the pointer
//! that the entry code switches stacks by, the task state segment, the descriptor table.
//!
//! Every field that changes is atomic, because other CPUs hold references; only the CPU itself
//! touches them, unless a field says otherwise, so that accesses are relaxed.
#![expect(unsafe_code, reason = "reads the GS base's target and loads it")]

use crate::gdt::{self, TaskState};
use core::arch::asm;
use core::mem::offset_of;
use kernel_core::cpu::Cpu;
use kernel_core::platform::PortRange;
use kernel_core::registers::Registers;
use kernel_core::static_ref::AtomicRef;
use kernel_core::sync::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use kernel_core::thread::Thread;
use x86_64::registers::model_specific::GsBase;
use x86_64::{VirtAddr, instructions::tables};

/// Most port ranges that one task has attached; `ipc` documents the number.
pub(crate) const MAX_PORT_RANGES: usize = 8;

/// One CPU.
#[repr(C, align(64))]
pub(crate) struct PerCpu {
    /// Its own address, so that one load through GS gives a reference.
    pub(crate) this: AtomicU64,
    /// Where the entry code keeps ring 3's stack pointer for two instructions.
    pub(crate) user_stack: AtomicU64,
    /// End (exclusive) of the kernel stack.
    pub(crate) kernel_stack: AtomicU64,
    /// The core's state of this CPU, once there is a core.
    pub(crate) core: AtomicRef<Cpu>,
    /// The CPU's number, dense from 0.
    pub(crate) index: AtomicU32,
    /// Its local APIC's identifier.
    pub(crate) apic: AtomicU32,
    /// Added to the TSC to make it agree with CPU 0's; set by CPU 0 when it starts this one.
    pub(crate) tsc_offset: AtomicU64,
    /// The timer's deadline in nanoseconds, `u64::MAX` for none.
    pub(crate) deadline: AtomicU64,
    /// The ranks of the locks it holds (debug builds).
    pub(crate) held_locks: AtomicU64,
    /// Whether CR0.TS is set: ring 3 may not use the FPU.
    pub(crate) fpu_refused: AtomicBool,
    /// How far its start is: see `smp`. Changed by the CPU itself and by the one that starts it.
    pub(crate) start: AtomicU32,
    /// The thread registers whose FS and GS base are loaded, on CPUs without FSGSBASE; 0 for none.
    pub(crate) bases_of: AtomicU64,
    /// The port ranges that the bitmap allows: first and count packed, see `ports`.
    pub(crate) ports: [AtomicU64; MAX_PORT_RANGES],
    /// The descriptor table.
    pub(crate) gdt: [AtomicU64; gdt::ENTRIES],
    /// The task state segment, bitmap included.
    pub(crate) task_state: TaskState,
}

/// Where `this` finds itself; the others are entry.S's.
const OFFSET_THIS: usize = offset_of!(PerCpu, this);
pub(crate) const OFFSET_CORE: usize = offset_of!(PerCpu, core);
pub(crate) const OFFSET_USER_STACK: usize = offset_of!(PerCpu, user_stack);
pub(crate) const OFFSET_KERNEL_STACK: usize = offset_of!(PerCpu, kernel_stack);
/// RSP0 is the end of the current thread's registers: for the CPU's own pushes and for SYSCALL.
pub(crate) const OFFSET_REGISTERS_END: usize =
    offset_of!(PerCpu, task_state) + offset_of!(TaskState, rsp0);

/// The CPU that boots; the others' are made when they are started.
static BOOT_CPU: PerCpu = PerCpu::new();

impl PerCpu {
    /// A CPU that was not started.
    pub(crate) const fn new() -> PerCpu {
        PerCpu {
            this: AtomicU64::new(0),
            user_stack: AtomicU64::new(0),
            kernel_stack: AtomicU64::new(0),
            core: AtomicRef::none(),
            index: AtomicU32::new(0),
            apic: AtomicU32::new(0),
            tsc_offset: AtomicU64::new(0),
            deadline: AtomicU64::new(u64::MAX),
            held_locks: AtomicU64::new(0),
            fpu_refused: AtomicBool::new(false),
            start: AtomicU32::new(0),
            bases_of: AtomicU64::new(0),
            ports: [const { AtomicU64::new(0) }; MAX_PORT_RANGES],
            gdt: gdt::TABLE,
            task_state: TaskState::new(),
        }
    }

    /// Makes this CPU known to itself through its GS base.
    pub(crate) fn load(&'static self) {
        let address = core::ptr::from_ref(self).expose_provenance() as u64;
        self.this.store(address, Ordering::Relaxed);
        GsBase::write(VirtAddr::new_truncate(address));
    }

    /// The current thread's registers; `None` before the first thread.
    pub(crate) fn registers(&self) -> Option<&'static Registers> {
        let end = self.task_state.rsp0.load(Ordering::Relaxed);
        let start = (end as usize).checked_sub(size_of::<Registers>())?;
        // SAFETY: RSP0 is 0 or was stored by `set_thread`, from a `&'static Thread` that begins with them.
        Some(unsafe { &*core::ptr::with_exposed_provenance(start) })
    }

    /// Whether a port range is installed at this place, and which.
    pub(crate) fn port_range(&self, place: usize) -> PortRange {
        let packed = self.ports[place].load(Ordering::Relaxed);
        PortRange {
            first: (packed >> 32) as u16,
            count: packed as u32,
        }
    }

    /// Notes which port range is installed at this place.
    pub(crate) fn note_port_range(&self, place: usize, range: PortRange) {
        let packed = u64::from(range.first) << 32 | u64::from(range.count);
        self.ports[place].store(packed, Ordering::Relaxed);
    }
}

/// Makes the boot CPU known to itself; the first thing it does.
pub(crate) fn load_boot_cpu() {
    BOOT_CPU.load();
}

/// The CPU that calls.
#[inline(always)]
pub(crate) fn this() -> &'static PerCpu {
    let address: usize;
    // SAFETY: in ring 0 the GS base is the address of this CPU's `PerCpu` from `load` on (entry.S
    // swaps it in before any Rust code runs), whose first field is its own address.
    unsafe {
        asm!("mov {}, gs:[{this}]", out(reg) address, this = const OFFSET_THIS,
            options(pure, nomem, nostack, preserves_flags));
        &*core::ptr::with_exposed_provenance(address)
    }
}

/// The core's state of the CPU that calls, which takes part.
#[inline(always)]
pub(crate) fn core() -> &'static Cpu {
    let address: usize;
    // SAFETY: as in `this`; the field was set from a `&'static Cpu` before this CPU took part, and entries
    // into the kernel come only afterwards.
    unsafe {
        asm!("mov {}, gs:[{core}]", out(reg) address, core = const OFFSET_CORE,
            options(pure, nomem, nostack, preserves_flags));
        &*core::ptr::with_exposed_provenance(address)
    }
}

/// The thread that made the system call with which this CPU entered the kernel.
#[inline(always)]
pub(crate) fn thread() -> &'static Thread {
    let end: usize;
    // SAFETY: as in `this`; ring 3 is entered only after `set_thread`, whose thread makes the system call.
    unsafe {
        asm!("mov {}, gs:[{end}]", out(reg) end, end = const OFFSET_REGISTERS_END,
            options(pure, readonly, nostack, preserves_flags));
        &*core::ptr::with_exposed_provenance(end.wrapping_sub(size_of::<Registers>()))
    }
}

/// Says into which thread's registers this CPU's next entry from ring 3 goes.
#[inline(always)]
pub(crate) fn set_thread(thread: &'static Thread) {
    // The CPU aligns RSP0 down to 16 before it pushes (Intel SDM volume 3A, section 6.14.2).
    const {
        assert!(size_of::<Registers>().is_multiple_of(16) && align_of::<Registers>() >= 16);
        assert!(offset_of!(Thread, registers) == 0);
    }
    let end = core::ptr::from_ref(thread)
        .expose_provenance()
        .wrapping_add(size_of::<Registers>());
    // SAFETY: in ring 0 the GS base is this CPU's `PerCpu`, whose RSP0 nobody has a reference to but as an
    // atomic.
    unsafe {
        asm!("mov gs:[{rsp0}], {end}", end = in(reg) end, rsp0 = const OFFSET_REGISTERS_END,
            options(nostack, preserves_flags));
    }
}

/// The CPU that calls, whatever its GS base is, once it has its descriptor table, which lies in its `PerCpu`.
pub(crate) fn by_descriptor_table() -> &'static PerCpu {
    let table = tables::sgdt().base.as_u64() as usize;
    // SAFETY: `gdt::load`, which comes before the CPU takes any exception, has loaded the table of a
    // `&'static PerCpu`, whose address `load` exposed.
    unsafe { &*core::ptr::with_exposed_provenance(table - offset_of!(PerCpu, gdt)) }
}

/// Loads the GS base again in an exception from ring 0, which may have come while ring 3's was
/// loaded.
pub(crate) fn recover() {
    let address = core::ptr::from_ref(by_descriptor_table()).addr() as u64;
    GsBase::write(VirtAddr::new_truncate(address));
}
