//! The floating-point and vector registers of ring 3 (Intel SDM volume 1, chapter 13). The kernel
//! itself has none: it is compiled without. Who owns them when is the core's.
#![expect(unsafe_code, reason = "control registers, and saving to a frame")]

use crate::cpuid::{self, Feature};
use crate::{percpu, physical};
use core::arch::asm;
use core::arch::x86_64::__cpuid_count;
use kernel_core::frames::Frame;
use kernel_core::platform::FRAME_WORDS;
use kernel_core::sync::{AtomicU64, Ordering};
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags};
use x86_64::registers::xcontrol::XCr0;

/// State components (section 13.1): x87, SSE; AVX; AVX-512's three. Others, such as AMX's tiles, do
/// not fit a frame or are not the user's.
const X87_AND_SSE: u64 = 0b11;
const AVX: u64 = 1 << 2;
const AVX_512: u64 = 0b111 << 5;
/// CPUID leaf of the extended state: EAX and EDX the components, EBX the size for those enabled.
const LEAF: u32 = 0xd;

/// Fields of the legacy area (table 10-2): control word in the first quadword, MXCSR in the fourth;
/// and what they hold after FNINIT and reset: all exceptions masked, extended precision.
const CONTROL_WORD: usize = 0;
const MXCSR: usize = 3;
const INITIAL_CONTROL_WORD: u64 = 0x37f;
const INITIAL_MXCSR: u64 = 0x1f80;

/// The components that are saved; the same on every CPU.
static COMPONENTS: AtomicU64 = AtomicU64::new(0);

/// Turns the FPU on, on this CPU, refused to ring 3 until [`enable`].
pub(crate) fn initialise() {
    let mut flags = Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE;
    flags.set(Cr4Flags::OSXSAVE, cpuid::has(Feature::Xsave));
    // SAFETY: the processor has FXSAVE and SSE (`cpuid::detect`), and XSAVE where it is turned on. The
    // kernel's code uses no such register, so nothing of its own can be lost.
    unsafe {
        Cr4::update(|cr4| cr4.insert(flags));
        Cr0::update(|cr0| {
            cr0.remove(Cr0Flags::EMULATE_COPROCESSOR);
            cr0.insert(
                Cr0Flags::MONITOR_COPROCESSOR | Cr0Flags::NUMERIC_ERROR | Cr0Flags::TASK_SWITCHED,
            );
        });
    }
    percpu::this().fpu_refused.store(true, Ordering::Relaxed);
    if cpuid::has(Feature::Xsave) {
        choose_components();
    }
}

/// Enables the most components that fit a frame.
fn choose_components() {
    let leaf = __cpuid_count(LEAF, 0);
    let supported = u64::from(leaf.edx) << 32 | u64::from(leaf.eax);
    let mut chosen = supported & X87_AND_SSE;
    for group in [AVX, AVX_512] {
        let wider = chosen | group;
        if supported & group != group {
            break;
        }
        // SAFETY: CR4.OSXSAVE is on, and the components are supported, the lower ones included.
        unsafe { XCr0::write_raw(wider) };
        if __cpuid_count(LEAF, 0).ebx as usize > FRAME_WORDS * 8 {
            break;
        }
        chosen = wider;
    }
    // SAFETY: likewise.
    unsafe { XCr0::write_raw(chosen) };
    COMPONENTS.store(chosen, Ordering::Relaxed);
}

/// Writes the state after reset into a save area. Where XSAVE is used the header says, all zero, that
/// every component is in its initial state.
pub(crate) fn initial(area: Frame) {
    let words = physical::words(area);
    for word in words {
        word.store(0, Ordering::Relaxed);
    }
    words[CONTROL_WORD].store(INITIAL_CONTROL_WORD, Ordering::Relaxed);
    words[MXCSR].store(INITIAL_MXCSR, Ordering::Relaxed);
}

/// Lets ring 3 on this CPU use the FPU, or makes its use a fault. CR0 is written only if that changes.
pub(crate) fn enable(enabled: bool) {
    let refused = &percpu::this().fpu_refused;
    if refused.load(Ordering::Relaxed) != enabled {
        return;
    }
    // SAFETY: the bit concerns the FPU only, which the kernel does not use.
    unsafe { Cr0::update(|cr0| cr0.set(Cr0Flags::TASK_SWITCHED, !enabled)) };
    refused.store(!enabled, Ordering::Relaxed);
}

/// Runs `action` with the FPU usable, and leaves it to ring 3 as it was.
fn with_fpu(action: impl FnOnce()) {
    let refused = percpu::this().fpu_refused.load(Ordering::Relaxed);
    enable(true);
    action();
    enable(!refused);
}

/// Saves this CPU's registers.
pub(crate) fn save(area: Frame) {
    let address = physical::words(area).as_ptr().addr();
    let components = COMPONENTS.load(Ordering::Relaxed);
    let (low, high) = (components as u32, (components >> 32) as u32);
    // SAFETY: the instruction is there where it is chosen; it writes to the frame only, which is large
    // enough (`choose_components`) and aligned, and which the core gives to one thread's state.
    with_fpu(|| unsafe {
        if cpuid::has(Feature::XsaveOpt) {
            asm!("xsaveopt64 [{}]", in(reg) address, in("eax") low, in("edx") high, options(nostack));
        } else if cpuid::has(Feature::Xsave) {
            asm!("xsave64 [{}]", in(reg) address, in("eax") low, in("edx") high, options(nostack));
        } else {
            asm!("fxsave64 [{}]", in(reg) address, options(nostack));
        }
    });
}

/// Loads this CPU's registers.
pub(crate) fn restore(area: Frame) {
    let address = physical::words(area).as_ptr().addr();
    let components = COMPONENTS.load(Ordering::Relaxed);
    let (low, high) = (components as u32, (components >> 32) as u32);
    // SAFETY: as in `save`. What is loaded was written by `initial` or `save`, so no reserved bit is
    // set, which would fault; only ring 3 uses these registers.
    with_fpu(|| unsafe {
        if cpuid::has(Feature::Xsave) {
            asm!("xrstor64 [{}]", in(reg) address, in("eax") low, in("edx") high, options(nostack, readonly));
        } else {
            asm!("fxrstor64 [{}]", in(reg) address, options(nostack, readonly));
        }
    });
}
