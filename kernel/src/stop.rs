//! One CPU stops all others for good, to end the machine or to say its last words undisturbed.

use crate::{apic, percpu};
use kernel_core::sync::{AtomicBool, AtomicU32, Ordering};
use x86_64::instructions::{hlt, interrupts};

/// Number + 1 of the CPU that stopped the others; 0 while all run.
static STOPPED_BY: AtomicU32 = AtomicU32::new(0);
/// Whether `percpu::this` can be asked.
static CPU_KNOWN: AtomicBool = AtomicBool::new(false);

/// From now on a CPU knows which one it is. Called once the boot CPU has its GS base.
pub(crate) fn cpu_is_known() {
    CPU_KNOWN.store(true, Ordering::Relaxed);
}

/// Number of this CPU.
pub(crate) fn this_cpu() -> u32 {
    if CPU_KNOWN.load(Ordering::Relaxed) {
        percpu::this().index.load(Ordering::Relaxed)
    } else {
        0
    }
}

/// In an NMI: stops this CPU for good if another one said so. One that comes from elsewhere does not keep the CPU
/// that stopped the others from its last words.
pub(crate) fn obey() {
    let stopped_by = STOPPED_BY.load(Ordering::Acquire);
    let this = || percpu::by_descriptor_table().index.load(Ordering::Relaxed) + 1;
    if stopped_by != 0 && stopped_by != this() {
        halt();
    }
}

/// Halts this CPU for good.
pub(crate) fn halt() -> ! {
    loop {
        interrupts::disable();
        hlt();
    }
}

/// Stops the other CPUs. Of two that try, one halts here. Returns whether this is the first time:
/// false if this CPU did it before.
pub(crate) fn others() -> bool {
    interrupts::disable();
    let this = this_cpu() + 1;
    match STOPPED_BY.compare_exchange(0, this, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => {
            apic::stop_others();
            true
        }
        Err(first) if first == this => false,
        Err(_) => halt(),
    }
}
