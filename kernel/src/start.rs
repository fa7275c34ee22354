//! The start of the machine, in order: what the boot loader and the firmware say, memory, interrupt
//! controllers, time, the other CPUs; then the core takes over.
#![expect(
    unsafe_code,
    reason = "the entry point, and promises about memory that only hold at boot"
)]

use crate::boot_memory::BootMemory;
use crate::cpuid::Feature;
use crate::paging::{self, Tables};
use crate::uart::{self, say};
use crate::{
    apic, calibrate, clock, cpuid, gdt, idt, ioapic, kernel, kvmclock, patch, percpu, physical,
    power, rtc, smp, stop, symbols, timer,
};
use boot::acpi::{self, AcpiError, Fadt, Madt};
use boot::entry::EARLY_END;
use boot::{BootError, BootInfo, CommandLine, PAGE, Range};
use kernel_core::clock::Rate;
use kernel_core::clock::source::Source;
use kernel_core::kernel::Machine;
use kernel_core::sync;
use kernel_core::tunables::{Tunable, Tunables};
use spin::Once;

/// The command line, kept for good.
static COMMAND_LINE: Once<CommandLine> = Once::new();

/// What the firmware's tables say.
struct Firmware {
    root: u64,
    madt: Madt,
    fadt: Option<Fadt>,
    hpet: Option<Range>,
}

/// The kernel's first Rust function, on the early page tables: `magic` and `info` as the loader left
/// them.
#[unsafe(no_mangle)]
extern "C" fn kernel_start(magic: u32, info: u32) -> ! {
    uart::initialise();
    uart::write_bytes(concat!("uzura ", env!("CARGO_PKG_VERSION"), "\n").as_bytes());
    percpu::load_boot_cpu();
    stop::cpu_is_known();
    let cpu = percpu::this();
    if let Err(missing) = cpuid::detect() {
        panic!("this processor lacks {missing}; choose another CPU model");
    }
    patch::apply();
    gdt::load(cpu);
    idt::fill();
    idt::load();
    paging::enable_protection();

    // SAFETY: the early page tables are loaded until `load_tables`, after the last use; no memory that
    // a loader or the firmware filled is handed out before.
    let early = unsafe { physical::EarlyMemory::new() };
    let info = read_boot_info(&early, magic, info).unwrap_or_else(|error| panic!("{error}"));
    let firmware = read_firmware(&early, info.rsdp, &info.ram);
    let free = info.free().unwrap_or_else(|error| panic!("{error}"));
    say_memory(&info);

    // SAFETY: free RAM, and the early tables map what is below 4 GiB.
    let mut memory = unsafe { BootMemory::new(free, EARLY_END) };
    let trampoline = memory.take_low_page();
    load_tables(&info, &mut memory);
    symbols::find(&info);
    smp::prepare(cpu, &mut Tables::again(&mut memory));
    apic::initialise(&mut Tables::again(&mut memory));
    ioapic::silence_legacy();
    smp::set_up_this_cpu(cpu);
    smp::enlist(cpu);
    let (command_line, tunables) = read_command_line(&info);
    let clock_start = start_clock(&firmware, &tunables, &mut memory);
    let inputs = ioapic::initialise(&mut Tables::again(&mut memory), &firmware.madt);
    let agree = start_processors(&firmware.madt, trampoline, &mut memory, inputs);
    paging::keep(kept_ranges(&info, &firmware.madt));
    power::map(&mut Tables::again(&mut memory));
    if agree && clock_start.may_agree {
        clock::allow_ring_3();
    }
    let machine = Machine {
        command_line,
        clock_source: clock_start.source,
        acpi_root: firmware.root,
        power: firmware
            .fadt
            .map(|fadt| power::describe(&fadt, &firmware.madt))
            .unwrap_or_default(),
    };
    kernel::start(info, machine, tunables, memory)
}

fn read_boot_info(
    memory: &physical::EarlyMemory,
    magic: u32,
    info: u32,
) -> Result<BootInfo, BootError> {
    match magic {
        boot::multiboot::MAGIC => boot::multiboot::read(memory, u64::from(info), paging::image()),
        _ => boot::pvh::read(memory, u64::from(info), paging::image()),
    }
}

/// Reads the firmware's tables. What is missing is said; the machine then has one CPU, or no soft off.
fn read_firmware(
    memory: &physical::EarlyMemory,
    rsdp: Option<u64>,
    ram: &boot::Ranges,
) -> Firmware {
    let mut firmware = Firmware {
        root: 0,
        madt: Madt::default(),
        fadt: None,
        hpet: None,
    };
    let tables = match acpi::Tables::find(memory, rsdp) {
        Ok(tables) => tables,
        Err(error) => {
            say!("{error}: one CPU, no device interrupts, no soft off");
            return firmware;
        }
    };
    firmware.root = tables.root();
    firmware.hpet = calibrate::hpet_of(&tables).filter(|registers| !ram.overlaps(*registers));
    let complain = |error: AcpiError, lost: &str| say!("{error}: {lost}");
    match tables.table("APIC").and_then(Madt::read) {
        Ok(madt) => firmware.madt = madt,
        Err(error) => complain(error, "one CPU, no device interrupts"),
    }
    match tables.table("FACP").and_then(Fadt::read) {
        Ok(fadt) => {
            let soft_off = tables.dsdt(&fadt).ok().and_then(acpi::soft_off);
            power::remember(fadt, soft_off);
            firmware.fadt = Some(fadt);
        }
        Err(error) => complain(error, "no soft off"),
    }
    firmware
}

/// Keeps the command line and reads the tunables from it.
fn read_command_line(info: &BootInfo) -> (&'static str, Tunables) {
    let line = COMMAND_LINE
        .call_once(|| info.command_line.clone())
        .as_str();
    let tunables = Tunables::new();
    tunables.parse_command_line(line, &mut |word, refusal| say!("{word}: {refusal}"));
    (line, tunables)
}

fn say_memory(info: &BootInfo) {
    let archive = info.archive.map_or(0, |archive| archive.bytes() >> 10);
    say!(
        "booted by {}; memory: {} MiB, boot archive: {archive} KiB",
        info.door,
        info.ram.bytes() >> 20
    );
}

/// Builds the kernel's page tables and leaves the early ones.
fn load_tables(info: &BootInfo, memory: &mut BootMemory) {
    let mut tables = Tables::new(memory);
    tables.map_image();
    for range in info.ram.as_slice() {
        tables.map_ram(*range);
    }
    paging::load(paging::root().address());
    physical::direct_map_is_loaded();
    // SAFETY: the tables that were just loaded map all RAM.
    unsafe { memory.lift_limit() };
}

/// Finds the TSC's rate and starts the clock, the timer and the wall clock.
fn start_clock(firmware: &Firmware, tunables: &Tunables, memory: &mut BootMemory) -> ClockStart {
    let wanted = Source::wanted(tunables.get(Tunable::ClockSource));
    let mut tables = Tables::again(memory);
    let fadt = firmware.fadt.as_ref();
    let rate = calibrate::tsc_rate(wanted, &mut tables, fadt, firmware.hpet);
    let Some((source, rate)) = rate else {
        panic!(
            "no timer to measure the TSC by: give the machine an HPET, an ACPI PM timer or a PIT"
        );
    };
    clock::start(rate);
    let followed = match source {
        Source::KvmClock => kvmclock::begin(),
        _ => None,
    };
    say_clock(source, rate, timer::calibrate());
    // Where the clock goes by kvmclock this lets the timer look at it from now on.
    timer::set(u64::MAX);
    let (may_agree, told) = followed.unwrap_or((true, None));
    if !may_agree {
        say!("kvmclock does not vouch for the TSCs: tasks ask the kernel for the time");
    }
    start_wall_clock(told, fadt);
    ClockStart {
        source: source.name(),
        may_agree,
    }
}

/// Sets the wall clock as the hypervisor told its offset, else by the real-time clock.
fn start_wall_clock(told: Option<u64>, fadt: Option<&Fadt>) {
    let read = || {
        let seconds = rtc::seconds(fadt.and_then(|fadt| fadt.century))?;
        let wall = seconds.checked_mul(clock::SECOND)?;
        Some(wall.saturating_sub(clock::now()))
    };
    match told.or_else(read) {
        Some(offset) => clock::set_wall_offset(offset),
        None => say!("no real-time clock: wall time is unknown"),
    }
}

/// How the clock was started.
struct ClockStart {
    source: &'static str,
    /// Whether all CPUs' TSCs may agree, as far as the source knows.
    may_agree: bool,
}

/// `timer` is the rate of the local APIC's timer in Hz, where it counts.
fn say_clock(source: Source, rate: Rate, timer: Option<u64>) {
    let (khz, source, error) = (rate.hz / 1000, source.name(), rate.error_ppm);
    match timer {
        None => say!("clock: TSC at {khz} kHz, by {source}, +-{error} ppm; timer: TSC deadline"),
        Some(hz) => say!(
            "clock: TSC at {khz} kHz, by {source}, +-{error} ppm; timer: local APIC at {} kHz",
            hz / 1000
        ),
    }
}

/// Starts the other CPUs; whether all TSCs agree.
fn start_processors(
    madt: &Madt,
    trampoline: Option<u64>,
    memory: &mut BootMemory,
    inputs: u32,
) -> bool {
    sync::install_hooks(sync::Hooks {
        relax: kernel::relax,
        held: || &percpu::this().held_locks,
    });
    let listed = madt.processors.len() + madt.unlisted;
    let agree = match trampoline {
        Some(page) => smp::start_others(&madt.processors, page, memory),
        None => {
            if listed > 1 {
                say!("no free page below 1 MiB to start other processors from");
            }
            true
        }
    };
    let tags = if cpuid::has(Feature::Pcid) {
        ", PCID"
    } else {
        ""
    };
    say!(
        "CPUs: {} of {}, {}{tags}, {inputs} interrupt lines",
        smp::count(),
        listed.max(1),
        apic::mode()
    );
    agree
}

/// What no driver may map: RAM, page 0, the APICs.
fn kept_ranges(info: &BootInfo, madt: &Madt) -> boot::Ranges {
    let mut kept = info.ram.clone();
    let mut keep = |start, bytes| {
        if let Some(range) = Range::of(start, bytes) {
            kept.add(range.outer_pages())
                .unwrap_or_else(|_| panic!("{}", BootError::TooManyRanges));
        }
    };
    keep(0, PAGE);
    keep(madt.local_apic, PAGE);
    for io_apic in &madt.io_apics {
        keep(io_apic.address, PAGE);
    }
    kept
}
