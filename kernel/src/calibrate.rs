//! How fast the TSC runs: as the processor or the hypervisor says, else measured against what timer
//! the machine has. The sources are asked in this order; the first that answers is taken.
#![expect(
    unsafe_code,
    reason = "ports, device registers, and a page for the hypervisor"
)]

use crate::clock::tsc;
use crate::paging::Tables;
use boot::acpi::{self, Fadt};
use core::arch::x86_64::__cpuid;
use kernel_core::sync::{AtomicU32, Ordering};
use raw_cpuid::CpuId;
use x86_64::instructions::port::Port;
use x86_64::registers::model_specific::Msr;

/// Slowest and fastest TSC that is believed, in Hz.
const PLAUSIBLE: core::ops::RangeInclusive<u64> = 100_000_000..=20_000_000_000;
/// Fraction of a second for which a counter is watched.
const MEASURE_FRACTION: u64 = 40;
/// Ticks of the TSC after which a counter that does not move is given up: a second or more.
const PATIENCE: u64 = 20_000_000_000;

/// Hypervisor leaves: the range and signature, and VMware's leaf for rates, which KVM and others
/// offer too (EAX: TSC in kHz).
const HYPERVISOR: u32 = 0x4000_0000;
const HYPERVISOR_TIMING: u32 = 0x4000_0010;
/// KVM's clock (Linux, Documentation/virt/kvm/x86/msr.rst and cpuid.rst): feature bit, and the
/// register that takes the address of a `pvclock_vcpu_time_info`, with bit 0 to enable it.
const KVM_FEATURES: u32 = 0x4000_0001;
const KVM_FEATURE_CLOCKSOURCE2: u32 = 1 << 3;
const MSR_KVM_SYSTEM_TIME_NEW: u32 = 0x4b56_4d01;

/// HPET registers (IA-PC HPET Specification 1.0a, section 2.3): capabilities, configuration, counter.
const HPET_CAPABILITIES: u64 = 0x00;
const HPET_CONFIGURATION: u64 = 0x10;
const HPET_COUNTER: u64 = 0xf0;
const HPET_BYTES: u64 = 0x400;
/// Femtoseconds in a second; the longest period that the specification allows, in femtoseconds.
const FEMTOSECONDS: u64 = 1_000_000_000_000_000;
const HPET_LONGEST_PERIOD: u64 = 100_000_000;

/// Rate of the ACPI PM timer (ACPI Specification 6.5, section 4.8.3.3) and of the PIT (Intel 8254).
const PM_TIMER_HZ: u64 = 3_579_545;
const PIT_HZ: u64 = 1_193_182;
/// PIT: channel 2's counter, the mode register, and the port that gates channel 2.
const PIT_CHANNEL_2: u16 = 0x42;
const PIT_MODE: u16 = 0x43;
const PIT_GATE: u16 = 0x61;

/// The rate and where it comes from.
pub(crate) struct Rate {
    /// Ticks per second.
    pub(crate) hz: u64,
    /// Name of the source, for the log and for `SystemSelector::ClockSource`.
    pub(crate) source: &'static str,
}

/// Finds the TSC's rate. `hpet` is the physical address of the HPET's registers.
pub(crate) fn tsc_rate(
    tables: &mut Tables<'_>,
    fadt: Option<&Fadt>,
    hpet: Option<u64>,
) -> Option<Rate> {
    let rate = |hz: Option<u64>, source| {
        hz.filter(|hz| PLAUSIBLE.contains(hz))
            .map(|hz| Rate { hz, source })
    };
    let told = rate(processor_rate(), "processor")
        .or_else(|| rate(kvm_clock_rate(), "kvmclock"))
        .or_else(|| rate(hypervisor_rate(), "hypervisor"));
    told.or_else(|| {
        let address = tables.map_registers(hpet?, HPET_BYTES);
        rate(
            Counter::hpet(address).and_then(|counter| counter.measure()),
            "HPET",
        )
    })
    .or_else(|| {
        let fadt = fadt.filter(|fadt| fadt.pm_timer != 0)?;
        rate(Counter::pm_timer(fadt).measure(), "PM timer")
    })
    .or_else(|| rate(Counter::pit().measure(), "PIT"))
}

/// CPUID leaf 0x15 (TSC and crystal), and 0x16 where the crystal's rate is not given.
fn processor_rate() -> Option<u64> {
    let cpuid = CpuId::new();
    let leaf = cpuid.get_tsc_info()?;
    if let Some(hz) = leaf.tsc_frequency() {
        return Some(hz);
    }
    let base = cpuid.get_processor_frequency_info()?;
    Some(u64::from(base.processor_base_frequency()) * 1_000_000)
}

/// A leaf of the hypervisor's, if there is a hypervisor that has it.
fn hypervisor_leaf(leaf: u32) -> Option<core::arch::x86_64::CpuidResult> {
    let present = CpuId::new().get_feature_info()?.has_hypervisor();
    (present && __cpuid(HYPERVISOR).eax >= leaf).then(|| __cpuid(leaf))
}

fn hypervisor_rate() -> Option<u64> {
    hypervisor_leaf(HYPERVISOR_TIMING).map(|leaf| u64::from(leaf.eax) * 1000)
}

/// What KVM writes about a virtual CPU's time: version, padding, TSC and time (two words each),
/// multiplier, shift and flags.
#[repr(C, align(64))]
struct TimeInfo([AtomicU32; 8]);

static TIME_INFO: TimeInfo = TimeInfo([const { AtomicU32::new(0) }; 8]);

/// KVM states the rate as: nanoseconds = ticks * 2^shift * multiplier / 2^32.
fn kvm_clock_rate() -> Option<u64> {
    let signature = hypervisor_leaf(HYPERVISOR)?;
    let is_kvm = [signature.ebx, signature.ecx, signature.edx]
        == [*b"KVMK", *b"VMKV", *b"M\0\0\0"].map(u32::from_le_bytes);
    if !is_kvm || hypervisor_leaf(KVM_FEATURES)?.eax & KVM_FEATURE_CLOCKSOURCE2 == 0 {
        return None;
    }
    let address = (&raw const TIME_INFO).addr() as u64 - boot::entry::KERNEL_BASE;
    let mut msr = Msr::new(MSR_KVM_SYSTEM_TIME_NEW);
    // SAFETY: the feature bit says that the register is there. The hypervisor writes only the
    // structure, whose fields are atomic, until the second write; the static lies in the image, so its
    // physical address is as computed.
    unsafe {
        msr.write(address | 1);
        msr.write(0);
    }
    let multiplier = TIME_INFO.0[6].load(Ordering::Acquire);
    let shift = TIME_INFO.0[7].load(Ordering::Acquire) as u8 as i8;
    if multiplier == 0 || !(-32..32).contains(&shift) {
        return None;
    }
    let scaled = (u128::from(crate::clock::SECOND) << 64) / u128::from(multiplier);
    u64::try_from(scaled >> (32 + i32::from(shift))).ok()
}

/// A timer that can be read.
enum Reading {
    Hpet(u64),
    Pm(u16),
    Pit,
}

struct Counter {
    reading: Reading,
    hz: u64,
    mask: u64,
}

impl Counter {
    fn hpet(address: u64) -> Option<Counter> {
        // SAFETY: `map_registers` mapped the HPET's registers there; enabling the counter disturbs
        // nobody, as nothing else uses it yet.
        let capabilities = unsafe {
            let configuration = (address + HPET_CONFIGURATION) as *mut u64;
            configuration.write_volatile(configuration.read_volatile() | 1);
            ((address + HPET_CAPABILITIES) as *const u64).read_volatile()
        };
        let period = capabilities >> 32;
        // Bit 13: the counter has 64 bits.
        let mask = if capabilities & 1 << 13 != 0 {
            u64::MAX
        } else {
            u64::from(u32::MAX)
        };
        (1..=HPET_LONGEST_PERIOD)
            .contains(&period)
            .then(|| Counter {
                reading: Reading::Hpet(address + HPET_COUNTER),
                hz: FEMTOSECONDS / period,
                mask,
            })
    }

    fn pm_timer(fadt: &Fadt) -> Counter {
        let bits = if fadt.pm_timer_is_wide { 32 } else { 24 };
        Counter {
            reading: Reading::Pm(fadt.pm_timer),
            hz: PM_TIMER_HZ,
            mask: (1 << bits) - 1,
        }
    }

    /// Starts channel 2 from its largest count, in mode 0: 55 milliseconds until it wraps.
    fn pit() -> Counter {
        // SAFETY: the PIT has no access to memory, and the kernel uses its channel 2 only here. The
        // gate on, the speaker off; low and high byte of the count follow.
        unsafe {
            let gate = Port::<u8>::new(PIT_GATE).read();
            Port::<u8>::new(PIT_GATE).write(gate & !2 | 1);
            Port::<u8>::new(PIT_MODE).write(0b1011_0000);
            Port::<u8>::new(PIT_CHANNEL_2).write(0xff);
            Port::<u8>::new(PIT_CHANNEL_2).write(0xff);
        }
        Counter {
            reading: Reading::Pit,
            hz: PIT_HZ,
            mask: 0xffff,
        }
    }

    fn read(&self) -> u64 {
        // SAFETY: reads a counter that exists; latching the PIT's (first write) changes only what the
        // next two reads give.
        let value = unsafe {
            match self.reading {
                Reading::Hpet(address) => (address as *const u64).read_volatile(),
                Reading::Pm(port) => u64::from(Port::<u32>::new(port).read()),
                Reading::Pit => {
                    Port::<u8>::new(PIT_MODE).write(0b1000_0000);
                    let low = Port::<u8>::new(PIT_CHANNEL_2).read();
                    let high = Port::<u8>::new(PIT_CHANNEL_2).read();
                    // It counts down.
                    !u64::from(u16::from_le_bytes([low, high]))
                }
            }
        };
        value & self.mask
    }

    /// The counter and the TSC at one moment: of some tries the one that took the least time.
    fn pair(&self) -> (u64, u64) {
        let tries = (0..8).map(|_| {
            let before = tsc();
            let value = self.read();
            let after = tsc();
            (after - before, value, before + (after - before) / 2)
        });
        tries.min().map_or((0, 0), |(_, value, tsc)| (value, tsc))
    }

    /// The TSC's rate in Hz, or `None` if the counter stands still.
    fn measure(&self) -> Option<u64> {
        let (start, start_tsc) = self.pair();
        let elapsed = |value: u64| value.wrapping_sub(start) & self.mask;
        while elapsed(self.read()) < self.hz / MEASURE_FRACTION {
            if tsc() - start_tsc > PATIENCE {
                return None;
            }
            core::hint::spin_loop();
        }
        let (end, end_tsc) = self.pair();
        let ticks =
            u128::from(end_tsc - start_tsc) * u128::from(self.hz) / u128::from(elapsed(end).max(1));
        u64::try_from(ticks).ok()
    }
}

/// Address of the HPET's registers, if the tables name one.
pub(crate) fn hpet_of<M: boot::Physical>(tables: &acpi::Tables<'_, M>) -> Option<u64> {
    tables.table("HPET").and_then(acpi::hpet_address).ok()
}
