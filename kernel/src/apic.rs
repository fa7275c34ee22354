//! This CPU's local APIC (Intel SDM volume 3A, chapter 11), in x2APIC mode where the processor has
//! it, else by its memory-mapped registers. Vectors and who is interrupted are others' business.
//!
//! Crate `x2apic` drives the I/O APICs here, not this one: its release writes the destination of an
//! inter-processor interrupt to the wrong bits in xAPIC mode, leaves both local pins unmasked, and
//! unmasks the timer before the APIC is enabled, which the hardware ignores.
#![expect(unsafe_code, reason = "model-specific and memory-mapped registers")]

use crate::cpuid::{self, Feature};
use crate::idt;
use crate::paging::Tables;
use core::arch::x86_64::{_mm_lfence, _mm_mfence};
use kernel_core::sync::{AtomicU64, Ordering};
use x86_64::registers::model_specific::Msr;

/// Registers by their offset in memory (table 11-1); in x2APIC mode register `offset` is MSR 0x800 +
/// `offset` / 16 (section 11.12.1.2).
const ID: u32 = 0x20;
const TASK_PRIORITY: u32 = 0x80;
const END_OF_INTERRUPT: u32 = 0xb0;
const SPURIOUS: u32 = 0xf0;
/// Vectors that wait for the processor, 32 to a register, the registers 16 bytes apart.
const REQUESTED: u32 = 0x200;
const COMMAND_LOW: u32 = 0x300;
const COMMAND_HIGH: u32 = 0x310;
const LVT_TIMER: u32 = 0x320;
const LVT_LINT0: u32 = 0x350;
const LVT_LINT1: u32 = 0x360;
const LVT_ERROR: u32 = 0x370;
const TIMER_INITIAL: u32 = 0x380;
const TIMER_CURRENT: u32 = 0x390;
const TIMER_DIVIDE: u32 = 0x3e0;
const X2APIC_MSR: u32 = 0x800;

/// IA32_APIC_BASE (section 11.4.4): global enable, x2APIC mode, address.
const IA32_APIC_BASE: u32 = 0x1b;
const BASE_ENABLE: u64 = 1 << 11;
const BASE_X2APIC: u64 = 1 << 10;
const BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// IA32_TSC_DEADLINE (section 11.5.4.1).
const IA32_TSC_DEADLINE: u32 = 0x6e0;

/// Bits of the spurious-vector and local vector registers.
const SOFTWARE_ENABLE: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;
const MODE_TSC_DEADLINE: u32 = 2 << 17;
const DELIVER_NMI: u32 = 4 << 8;
/// Bits of the interrupt command register (figure 11-12).
const COMMAND_NMI: u32 = 4 << 8;
const COMMAND_INIT: u32 = 5 << 8;
const COMMAND_STARTUP: u32 = 6 << 8;
const COMMAND_PENDING: u32 = 1 << 12;
const COMMAND_ASSERT: u32 = 1 << 14;
const COMMAND_ALL_OTHERS: u32 = 3 << 18;
/// Reads of the command register before a pending interrupt is given up: in xAPIC mode only, where
/// delivery takes microseconds at most.
const PATIENCE: u32 = 1_000_000;

/// Virtual address of the registers; 0 in x2APIC mode.
static REGISTERS: AtomicU64 = AtomicU64::new(0);

/// Finds the registers, before any other function here. `Tables` gains a mapping in xAPIC mode.
pub(crate) fn initialise(tables: &mut Tables<'_>) {
    if !cpuid::has(Feature::X2Apic) {
        // SAFETY: the processor has a local APIC, hence this register.
        let base = unsafe { Msr::new(IA32_APIC_BASE).read() } & BASE_ADDRESS;
        REGISTERS.store(tables.map_registers(base, 0x1000), Ordering::Relaxed);
    }
}

#[inline(always)]
fn read(register: u32) -> u32 {
    match REGISTERS.load(Ordering::Relaxed) {
        // SAFETY: this CPU is in x2APIC mode, where the register exists; reading has no side effect.
        0 => unsafe { Msr::new(X2APIC_MSR + register / 16).read() as u32 },
        // SAFETY: `initialise` mapped the APIC's page there, uncached; the register is inside it.
        base => unsafe { ((base + u64::from(register)) as *const u32).read_volatile() },
    }
}

#[inline(always)]
fn write(register: u32, value: u32) {
    match REGISTERS.load(Ordering::Relaxed) {
        // SAFETY: as in `read`. What the APIC does with it is raise interrupts on vectors whose gates
        // are set, or what `start` and `stop_others` document.
        0 => unsafe { Msr::new(X2APIC_MSR + register / 16).write(u64::from(value)) },
        // SAFETY: likewise.
        base => unsafe { ((base + u64::from(register)) as *mut u32).write_volatile(value) },
    }
}

/// Switches this CPU's APIC on, the timer stopped and in the mode that [`set_deadline`] or
/// [`start_timer`] needs.
pub(crate) fn enable() {
    // SAFETY: turning the APIC on, in the mode that the processor has. Firmware that left x2APIC mode
    // on has a processor with it, so the mode is never left, which would fault.
    unsafe {
        let mut base = Msr::new(IA32_APIC_BASE);
        let mode = if cpuid::has(Feature::X2Apic) {
            BASE_X2APIC
        } else {
            0
        };
        let enabled = base.read() | BASE_ENABLE;
        base.write(enabled);
        base.write(enabled | mode);
    }
    write(TASK_PRIORITY, 0);
    // The vector table keeps its mask bits as long as this is off (section 11.4.7.2).
    write(SPURIOUS, SOFTWARE_ENABLE | u32::from(idt::SPURIOUS));
    let mode = if cpuid::has(Feature::TscDeadline) {
        MODE_TSC_DEADLINE
    } else {
        0
    };
    write(LVT_TIMER, u32::from(idt::TIMER) | mode);
    write(LVT_LINT0, MASKED);
    write(LVT_LINT1, DELIVER_NMI);
    write(LVT_ERROR, u32::from(idt::APIC_ERROR));
    write(TIMER_INITIAL, 0);
    // A memory-mapped mode change must have arrived before the first deadline (section 11.5.4.1).
    // SAFETY: SSE2 is there.
    unsafe { _mm_mfence() };
    end_of_interrupt();
}

/// This CPU's identifier.
pub(crate) fn id() -> u32 {
    let id = read(ID);
    if REGISTERS.load(Ordering::Relaxed) == 0 {
        id
    } else {
        id >> 24
    }
}

/// Whether [`interrupt`] and [`start`] can name this CPU: an xAPIC has eight bits, of which all ones
/// mean everybody.
pub(crate) fn reaches(apic: u32) -> bool {
    REGISTERS.load(Ordering::Relaxed) == 0 || apic < 0xff
}

/// Name of the mode, for the log.
pub(crate) fn mode() -> &'static str {
    if REGISTERS.load(Ordering::Relaxed) == 0 {
        "x2APIC"
    } else {
        "xAPIC"
    }
}

/// Acknowledges the interrupt in service.
#[inline(always)]
pub(crate) fn end_of_interrupt() {
    write(END_OF_INTERRUPT, 0);
}

/// Writes the interrupt command register; orders all earlier stores before it.
fn command(destination: u32, low: u32) {
    if REGISTERS.load(Ordering::Relaxed) == 0 {
        // SAFETY: as in `write`. Writes of x2APIC registers are not ordered behind stores (section
        // 11.12.3): the fences are. One write, 32 bits of destination on top (section 11.12.9).
        unsafe {
            _mm_mfence();
            _mm_lfence();
            Msr::new(X2APIC_MSR + COMMAND_LOW / 16)
                .write(u64::from(destination) << 32 | u64::from(low));
        }
        return;
    }
    // An uncached store waits for all stores before it. The write of the low half sends.
    wait_for_delivery();
    write(COMMAND_HIGH, destination << 24);
    write(COMMAND_LOW, low);
}

fn wait_for_delivery() {
    for _ in 0..PATIENCE {
        if read(COMMAND_LOW) & COMMAND_PENDING == 0 {
            return;
        }
        core::hint::spin_loop();
    }
}

/// Raises a vector on another CPU.
pub(crate) fn interrupt(apic: u32, vector: u8) {
    command(apic, COMMAND_ASSERT | u32::from(vector));
}

/// Puts all other CPUs into the state in which they wait for [`start`] (section 9.4.4.1).
pub(crate) fn reset_others() {
    command(0, COMMAND_ASSERT | COMMAND_ALL_OTHERS | COMMAND_INIT);
}

/// Lets a CPU that was reset begin in real mode at a page below 1 MiB.
pub(crate) fn start(apic: u32, page: u64) {
    command(
        apic,
        COMMAND_ASSERT | COMMAND_STARTUP | (page >> 12 & 0xff) as u32,
    );
}

/// Sends an NMI to all other CPUs: for a panic.
pub(crate) fn stop_others() {
    if crate::smp::started() {
        command(0, COMMAND_ASSERT | COMMAND_ALL_OTHERS | COMMAND_NMI);
    }
}

/// Arms the timer for a TSC value; 0 disarms it. Only with [`Feature::TscDeadline`].
pub(crate) fn set_deadline(tsc: u64) {
    // SAFETY: the register is there with the feature; it raises the timer's vector.
    unsafe { Msr::new(IA32_TSC_DEADLINE).write(tsc) };
}

/// Lets the timer count down from `count` at the bus rate divided by 2^`shift` (0 to 7) and interrupt
/// once; a count of 0 stops it. Only without [`Feature::TscDeadline`].
pub(crate) fn start_timer(count: u32, shift: u32) {
    // Divide configuration (figure 11-10): 0b1011 is 1, then 0 for 2 up to 0b1010 for 128, bit 2
    // unused.
    let code = if shift == 0 {
        0b1011
    } else {
        (shift - 1) & 0b11 | ((shift - 1) & 0b100) << 1
    };
    write(TIMER_DIVIDE, code);
    write(TIMER_INITIAL, count);
}

/// Whether the timer has interrupted, with interrupts off here, and is not served yet.
pub(crate) fn timer_is_due() -> bool {
    let vector = u32::from(idt::TIMER);
    read(REQUESTED + vector / 32 * 16) >> (vector % 32) & 1 != 0
}

/// What is left of the count.
pub(crate) fn timer_count() -> u32 {
    read(TIMER_CURRENT)
}
