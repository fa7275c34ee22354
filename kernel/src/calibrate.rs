//! The sources of the TSC's rate, as far as hardware is read: CPUID, and what timers the machine has. Which
//! is taken, and the arithmetic, are `kernel_core::clock`'s.
#![expect(unsafe_code, reason = "ports and device registers")]

use crate::clock::tsc;
use crate::kvmclock::{self, cpuid};
use crate::paging::Tables;
use crate::uart::say;
use boot::Range;
use boot::acpi::{self, Fadt};
use kernel_core::clock::Rate;
use kernel_core::clock::measure::{Unit, measure};
use kernel_core::clock::source::{self, Answer, Source};
use kernel_core::clock::told;
use x86_64::instructions::port::Port;

/// HPET registers (IA-PC HPET Specification 1.0a, section 2.3): capabilities, configuration, counter.
const HPET_CAPABILITIES: u64 = 0x00;
const HPET_CONFIGURATION: u64 = 0x10;
const HPET_COUNTER: u64 = 0xf0;
const HPET_BYTES: u64 = 0x400;
/// Capabilities: the period in femtoseconds above, and bit 13 for a counter of 64 bits.
const HPET_PERIOD_SHIFT: u32 = 32;
const HPET_WIDE: u64 = 1 << 13;
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

/// Finds the TSC's rate and says what was noticed on the way. `hpet` is where the HPET's registers
/// are.
pub(crate) fn tsc_rate(
    wanted: Option<Source>,
    tables: &mut Tables<'_>,
    fadt: Option<&Fadt>,
    hpet: Option<Range>,
) -> Option<(Source, Rate)> {
    let measured = |rate: Option<Rate>| rate.map(|rate| Answer { rate, sure: true });
    let ask = |source| match source {
        Source::KvmClock => kvmclock::rate(),
        Source::Processor => told::processor(cpuid),
        Source::Hypervisor => told::hypervisor(cpuid),
        Source::Hpet => measured(by_hpet(tables.map_registers(hpet?.start, HPET_BYTES))),
        Source::PmTimer => measured(by_pm_timer(fadt?)),
        Source::Pit => measured(by_pit()),
    };
    source::choose(wanted, ask, |finding| say!("{finding}"))
}

/// `address` is where the HPET's registers are mapped.
fn by_hpet(address: u64) -> Option<Rate> {
    // SAFETY: `map_registers` mapped the HPET's registers there; enabling the counter disturbs
    // nobody, as nothing else uses it yet.
    let capabilities = unsafe {
        let configuration = (address + HPET_CONFIGURATION) as *mut u64;
        configuration.write_volatile(configuration.read_volatile() | 1);
        ((address + HPET_CAPABILITIES) as *const u64).read_volatile()
    };
    let period = capabilities >> HPET_PERIOD_SHIFT;
    if !(1..=HPET_LONGEST_PERIOD).contains(&period) {
        return None;
    }
    let wide = capabilities & HPET_WIDE != 0;
    let unit = Unit {
        numerator: FEMTOSECONDS,
        denominator: period,
        mask: if wide { u64::MAX } else { u32::MAX.into() },
    };
    // SAFETY: as above; reading the counter changes nothing.
    let counter = || unsafe { ((address + HPET_COUNTER) as *const u64).read_volatile() };
    measure(unit, counter, tsc)
}

fn by_pm_timer(fadt: &Fadt) -> Option<Rate> {
    let port = Some(fadt.pm_timer).filter(|port| *port != 0)?;
    let bits = if fadt.pm_timer_is_wide { 32 } else { 24 };
    let unit = Unit {
        numerator: PM_TIMER_HZ,
        denominator: 1,
        mask: (1 << bits) - 1,
    };
    // SAFETY: the firmware's table says that the timer is at this port; reading it changes nothing.
    let counter = || unsafe { Port::<u32>::new(port).read() }.into();
    measure(unit, counter, tsc)
}

/// Lets channel 2 count down from its largest count, in mode 0: 55 milliseconds until it wraps.
fn by_pit() -> Option<Rate> {
    // SAFETY: the PIT has no access to memory, and the kernel uses its channel 2 only here. The
    // gate on, the speaker off; low and high byte of the count follow.
    unsafe {
        let gate = Port::<u8>::new(PIT_GATE).read();
        Port::<u8>::new(PIT_GATE).write(gate & !2 | 1);
        Port::<u8>::new(PIT_MODE).write(0b1011_0000);
        Port::<u8>::new(PIT_CHANNEL_2).write(0xff);
        Port::<u8>::new(PIT_CHANNEL_2).write(0xff);
    }
    let unit = Unit {
        numerator: PIT_HZ,
        denominator: 1,
        mask: 0xffff,
    };
    let counter = || {
        // SAFETY: as above; latching the count (first write) changes only what the next two reads give.
        let bytes = unsafe {
            Port::<u8>::new(PIT_MODE).write(0b1000_0000);
            let low = Port::<u8>::new(PIT_CHANNEL_2).read();
            [low, Port::<u8>::new(PIT_CHANNEL_2).read()]
        };
        // It counts down.
        !u64::from(u16::from_le_bytes(bytes))
    };
    measure(unit, counter, tsc)
}

/// Where the HPET's registers are, if the tables name one.
pub(crate) fn hpet_of<M: boot::Physical>(tables: &acpi::Tables<'_, M>) -> Option<Range> {
    let address = tables.table("HPET").and_then(acpi::hpet_address).ok()?;
    Range::of(address, HPET_BYTES)
}
