//! The I/O APICs (Intel 82093AA data sheet, section 3), driven with crate `x2apic`, and the legacy
//! interrupt controllers, which are silenced.
#![expect(unsafe_code, reason = "device registers and I/O ports")]

use crate::paging::Tables;
use crate::percpu::PerCpu;
use boot::acpi::Madt;
use kernel_core::platform::LineMode;
use kernel_core::sync::{self, Ordering};
use spin::RelaxStrategy;
use spin::mutex::SpinMutex;
use x2apic::ioapic::{IoApic, IrqFlags, IrqMode, RedirectionTableEntry};
use x86_64::instructions::port::Port;

/// Most I/O APICs; `boot::acpi` lists as many.
const MOST: usize = 16;
/// Bytes of registers.
const BYTES: u64 = 0x20;
/// Largest local APIC identifier that a redirection entry holds, and that a message address holds.
const MOST_DESTINATION: u32 = 0xff;

/// A CPU that waits for an I/O APIC serves its mailbox, as in every spin loop.
struct Relax;

impl RelaxStrategy for Relax {
    fn relax() {
        sync::relax();
    }
}

/// One I/O APIC: its first and last global system interrupt, and its registers.
struct Unit {
    first: u32,
    last: u32,
    registers: IoApic,
}

impl Unit {
    /// The number of a line on this unit.
    fn input(&self, line: u32) -> Option<u8> {
        (self.first..=self.last)
            .contains(&line)
            .then(|| (line - self.first) as u8)
    }
}

static UNITS: [SpinMutex<Option<Unit>, Relax>; MOST] = [const { SpinMutex::new(None) }; MOST];

/// Finds the I/O APICs and masks all their inputs. Returns the number of inputs.
pub(crate) fn initialise(tables: &mut Tables<'_>, madt: &Madt) -> u32 {
    let mut inputs = 0;
    for (slot, listed) in UNITS.iter().zip(&madt.io_apics) {
        let address = tables.map_registers(listed.address, BYTES);
        // SAFETY: mapped uncached for good in every address space; the firmware says that it is an I/O
        // APIC, each is listed once, and the lock around it makes this the only access.
        let mut registers = unsafe { IoApic::new(address) };
        // SAFETY: reads the version register.
        let last = unsafe { registers.max_table_entry() };
        for input in 0..=last {
            // SAFETY: a masked entry does nothing.
            unsafe {
                registers.set_table_entry(
                    input,
                    entry(
                        0,
                        0,
                        LineMode {
                            level: false,
                            active_low: false,
                        },
                    ),
                )
            };
        }
        inputs += u32::from(last) + 1;
        let first = listed.first_line;
        *slot.lock() = Some(Unit {
            first,
            last: first.saturating_add(u32::from(last)),
            registers,
        });
    }
    inputs
}

/// A masked entry.
fn entry(vector: u8, destination: u8, mode: LineMode) -> RedirectionTableEntry {
    let mut flags = IrqFlags::MASKED;
    flags.set(IrqFlags::LEVEL_TRIGGERED, mode.level);
    flags.set(IrqFlags::LOW_ACTIVE, mode.active_low);
    let mut entry = RedirectionTableEntry::default();
    entry.set_mode(IrqMode::Fixed);
    entry.set_flags(flags);
    entry.set_vector(vector);
    entry.set_dest(destination);
    entry
}

/// Runs `action` on the unit that has the line; `None` if none has.
fn with_line<R>(line: u32, action: impl Fn(&mut IoApic, u8) -> R) -> Option<R> {
    UNITS.iter().find_map(|unit| {
        let mut unit = unit.lock();
        let unit = unit.as_mut()?;
        let input = unit.input(line)?;
        Some(action(&mut unit.registers, input))
    })
}

/// Routes a line to a vector of a CPU and unmasks it. False if there is no such line, or if the CPU's
/// identifier is beyond what an I/O APIC can name.
pub(crate) fn enable(line: u32, vector: u8, cpu: &PerCpu, mode: LineMode) -> bool {
    let Ok(destination) = u8::try_from(cpu.apic.load(Ordering::Relaxed)) else {
        return false;
    };
    with_line(line, |registers, input| {
        // SAFETY: the vector's gate is set; masked while its two halves are written.
        unsafe {
            registers.set_table_entry(input, entry(vector, destination, mode));
            registers.enable_irq(input);
        }
    })
    .is_some()
}

/// Masks or unmasks a line.
pub(crate) fn mask(line: u32, masked: bool) {
    with_line(line, |registers, input| {
        // SAFETY: changes the mask bit of an entry that `initialise` or `enable` wrote.
        unsafe {
            if masked {
                registers.disable_irq(input);
            } else {
                registers.enable_irq(input);
            }
        }
    });
}

/// Address and data of a message that raises a vector on a CPU (Intel SDM volume 3A, section 11.11):
/// physical destination, edge, fixed. A CPU that a message cannot name is replaced by the boot CPU,
/// whose identifier is small: interrupts may be taken anywhere.
pub(crate) fn message(vector: u8, cpu: &PerCpu, boot_cpu: &PerCpu) -> (u64, u32) {
    let destination = [cpu, boot_cpu]
        .map(|cpu| cpu.apic.load(Ordering::Relaxed))
        .into_iter()
        .find(|apic| *apic <= MOST_DESTINATION)
        .unwrap_or(0);
    (
        0xfee0_0000 | u64::from(destination) << 12,
        u32::from(vector),
    )
}

/// Moves the two 8259s' vectors away from the exceptions and masks all their lines (Intel 8259A data
/// sheet). What they may still raise, a spurious 7 or 15, is ignored.
///
/// To be called before this CPU's local APIC masks its LINT0: with that closed first, QEMU 7.2 keeps
/// a request that was pending there for ever, and delivers it as no vector at all.
pub(crate) fn silence_legacy() {
    const COMMAND: [u16; 2] = [0x20, 0xa0];
    // Initialise, cascaded, with a fourth word; first vectors 0x20 and 0x28; wiring; 8086 mode.
    let words: [[u8; 4]; 2] = [[0x11, 0x20, 4, 1], [0x11, 0x28, 2, 1]];
    for (command, words) in COMMAND.into_iter().zip(words) {
        // SAFETY: the legacy controllers have no access to memory, and interrupts are off. Where they
        // are missing the writes go nowhere.
        unsafe {
            Port::<u8>::new(command).write(words[0]);
            for word in &words[1..] {
                Port::<u8>::new(command + 1).write(*word);
            }
            Port::<u8>::new(command + 1).write(0xff);
        }
    }
}
