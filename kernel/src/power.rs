//! Stopping the machine: soft off and reset as ACPI describes them (ACPI Specification 6.5, sections
//! 4.8.3.6, 4.8.3.7 and 16.1), with the older ways behind.
//!
//! The events of the same registers, the power button's among them, are the platform driver's, which
//! learns here where they are. The kernel keeps the last step to itself, because a panic needs it too.
#![expect(
    unsafe_code,
    reason = "I/O ports, device registers and a deliberate triple fault"
)]

use crate::paging::{self, Tables};
use crate::{stop, uart};
use boot::Range;
use boot::acpi::{EventBlock, Fadt, Madt, Register, Sleep};
use core::arch::asm;
use ipc::info::PowerInfo;
use kernel_core::platform::PowerAction;
use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::port::Port;
use x86_64::instructions::tables;
use x86_64::structures::DescriptorTablePointer;

/// PM1 control (table 4.16): ACPI mode is on; sleep type; enter it.
const SCI_ENABLED: u16 = 1 << 0;
const SLEEP_TYPE_SHIFT: u32 = 10;
const SLEEP_ENABLE: u16 = 1 << 13;
/// Sleep control, where there are no fixed registers (section 4.8.3.7): sleep type; enter it.
const REDUCED_SLEEP_TYPE_SHIFT: u32 = 2;
const REDUCED_SLEEP_ENABLE: u8 = 1 << 5;
/// Keyboard controller (IBM PC/AT Technical Reference, "Keyboard controller"): command port; input
/// buffer full; pulse the reset line. Where there is none, all bits of the status are read as ones.
const KEYBOARD: u16 = 0x64;
const KEYBOARD_BUSY: u8 = 1 << 1;
const KEYBOARD_RESET: u8 = 0xfe;
const NO_KEYBOARD: u8 = 0xff;
/// Reset control register of Intel's chipsets since the PIIX3 (ICH9 datasheet, section 13.7.5): which
/// kind of reset, a hard one; and the same with the bit that does it.
const CHIPSET_RESET: u16 = 0xcf9;
const CHIPSET_HARD: u8 = 1 << 1;
const CHIPSET_HARD_NOW: u8 = 1 << 1 | 1 << 2;
/// A port that nothing answers at, read to let a microsecond pass (IBM PC/AT Technical Reference,
/// "I/O address map": manufacturing test).
const NOWHERE: u16 = 0x80;
/// Looks at a port before something is given up: 0.1 s, or longer where each look leaves a guest.
const PATIENCE: u32 = 100_000;

/// What the firmware said.
struct Control {
    fadt: Fadt,
    soft_off: Option<Sleep>,
}

/// Where registers are mapped that are not ports.
struct Mapped {
    reset: Option<u64>,
    sleep_control: Option<u64>,
}

static CONTROL: Once<Control> = Once::new();
static MAPPED: Once<Mapped> = Once::new();

/// Remembers how this machine is turned off and reset.
pub(crate) fn remember(fadt: Fadt, soft_off: Option<Sleep>) {
    CONTROL.call_once(|| Control { fadt, soft_off });
}

/// Maps those registers that are not ports. To be called once, when it is known what is RAM: a register
/// that would be there is none.
pub(crate) fn map(tables: &mut Tables<'_>) {
    let Some(Control { fadt, .. }) = CONTROL.get() else {
        return;
    };
    let mut place = |register| match register {
        Some(Register::Memory(address)) => Range::of(address, 1)
            .filter(|range| paging::is_device_range(*range))
            .map(|_| tables.map_registers(address, 1)),
        _ => None,
    };
    MAPPED.call_once(|| Mapped {
        reset: place(fadt.reset.map(|(register, _)| register)),
        sleep_control: place(fadt.sleep_control),
    });
}

/// What the platform driver is told of the machine.
pub(crate) fn describe(fadt: &Fadt, madt: &Madt) -> PowerInfo {
    let port = |block: EventBlock| u64::from(block.first);
    let ports = |block: EventBlock| u64::from(block.bytes);
    let [general_0, general_1] = fadt.general_events;
    let (enable_port, enable_value) = fadt.enable.unwrap_or_default();
    let sci = madt.sci(fadt.sci);
    PowerInfo {
        pm1a_event: port(fadt.pm1a_event),
        pm1b_event: port(fadt.pm1b_event),
        pm1_event_ports: ports(fadt.pm1a_event),
        pm1a_control: u64::from(fadt.pm1a_control),
        general_0: port(general_0),
        general_0_ports: ports(general_0),
        general_1: port(general_1),
        general_1_ports: ports(general_1),
        enable_port: u64::from(enable_port),
        enable_value: u64::from(enable_value),
        line: u64::from(sci.line),
        line_level: u64::from(sci.level),
        line_active_low: u64::from(sci.active_low),
        fixed_button: u64::from(fadt.has_fixed_button),
    }
}

/// Says the last line and stops the machine. The other CPUs are stopped first.
pub(crate) fn act(action: PowerAction) -> ! {
    // The last line is the last.
    stop::others();
    match action {
        PowerAction::Halt => {
            uart::write_bytes(b"uzura: halted\n");
            uart::drain();
            soft_off();
        }
        PowerAction::Reboot => {
            uart::write_bytes(b"uzura: rebooting\n");
            uart::drain();
            reset();
        }
    }
    // The machine has no power control: stay here.
    stop::halt()
}

fn read(port: u16) -> u16 {
    // SAFETY: the PM1 control register; reading it changes nothing.
    unsafe { Port::<u16>::new(port).read() }
}

fn write(port: u16, value: u16) {
    // SAFETY: the PM1 control register; writing it ends the kernel.
    unsafe { Port::<u16>::new(port).write(value) }
}

fn wait() {
    for _ in 0..PATIENCE {
        // SAFETY: nothing answers at this port.
        unsafe { Port::<u8>::new(NOWHERE).read() };
    }
}

/// Writes one of the firmware's byte-wide registers, which is `mapped` there if it is in memory. False
/// if it cannot be reached.
fn write_register(register: Register, mapped: Option<u64>, value: u8) -> bool {
    match (register, mapped) {
        // SAFETY: the firmware names this port and value for ending what runs.
        (Register::Port(port), _) => unsafe { Port::<u8>::new(port).write(value) },
        (Register::Memory(_), Some(address)) => {
            // SAFETY: `map` mapped the register there, uncached and for good, and it is no RAM; the
            // firmware names this value for ending what runs.
            unsafe { (address as *mut u8).write_volatile(value) };
        }
        (Register::Memory(_), None) => return false,
    }
    true
}

fn soft_off() {
    let Some(Control {
        fadt,
        soft_off: Some(sleep),
    }) = CONTROL.get()
    else {
        return;
    };
    if let Some(register) = fadt.sleep_control {
        let mapped = MAPPED.get().and_then(|mapped| mapped.sleep_control);
        let value = sleep.pm1a << REDUCED_SLEEP_TYPE_SHIFT | REDUCED_SLEEP_ENABLE;
        write_register(register, mapped, value);
    } else if fadt.pm1a_control != 0 {
        fixed_soft_off(fadt, *sleep);
    }
    wait();
}

/// Soft off by the PM1 control registers, which obey in ACPI mode only.
fn fixed_soft_off(fadt: &Fadt, sleep: Sleep) {
    if let Some((port, value)) = fadt.enable
        && read(fadt.pm1a_control) & SCI_ENABLED == 0
    {
        // SAFETY: the firmware names this port and value for turning ACPI mode on.
        unsafe { Port::<u8>::new(port).write(value) };
        for _ in 0..PATIENCE {
            if read(fadt.pm1a_control) & SCI_ENABLED != 0 {
                break;
            }
        }
    }
    let ports = [
        (fadt.pm1a_control, sleep.pm1a),
        (fadt.pm1b_control, sleep.pm1b),
    ];
    for (port, kind) in ports.into_iter().filter(|(port, _)| *port != 0) {
        let others = read(port) & !(7 << SLEEP_TYPE_SHIFT | SLEEP_ENABLE);
        write(
            port,
            others | u16::from(kind) << SLEEP_TYPE_SHIFT | SLEEP_ENABLE,
        );
    }
}

/// Tries one way after the other: as the firmware says, by the chipset, by the keyboard controller, which
/// resets the processors alone, and by what no processor survives.
fn reset() {
    if let Some((register, value)) = CONTROL.get().and_then(|control| control.fadt.reset) {
        let mapped = MAPPED.get().and_then(|mapped| mapped.reset);
        if write_register(register, mapped, value) {
            wait();
        }
    }
    for value in [CHIPSET_HARD, CHIPSET_HARD_NOW] {
        // SAFETY: where there is no such register nothing answers at this port; where there is, the
        // machine is reset, by intention.
        unsafe { Port::<u8>::new(CHIPSET_RESET).write(value) };
    }
    wait();
    if keyboard_reset() {
        wait();
    }
    // SAFETY: an exception without a descriptor table shuts the processor down, which resets the
    // machine. The kernel ends here by intention.
    unsafe {
        tables::lidt(&DescriptorTablePointer {
            limit: 0,
            base: VirtAddr::zero(),
        });
        asm!("ud2", options(noreturn));
    }
}

/// False if there is no keyboard controller.
fn keyboard_reset() -> bool {
    let mut keyboard = Port::<u8>::new(KEYBOARD);
    for _ in 0..PATIENCE {
        // SAFETY: reading the status changes nothing.
        match unsafe { keyboard.read() } {
            NO_KEYBOARD => return false,
            status if status & KEYBOARD_BUSY == 0 => break,
            _ => {}
        }
    }
    // SAFETY: the keyboard controller has no access to memory; this command resets the machine.
    unsafe { keyboard.write(KEYBOARD_RESET) };
    true
}
