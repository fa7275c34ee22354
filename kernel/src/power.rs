//! Stopping the machine: soft off and reset as ACPI describes them (ACPI Specification 6.5, sections
//! 4.8.3.6 and 16.1), with the older ways behind.
#![expect(unsafe_code, reason = "I/O ports and a deliberate triple fault")]

use crate::{stop, uart};
use boot::acpi::{Fadt, ResetRegister, Sleep};
use core::arch::asm;
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
/// Keyboard controller: command port; input buffer full; pulse the reset line.
const KEYBOARD: u16 = 0x64;
const KEYBOARD_BUSY: u8 = 1 << 1;
const KEYBOARD_RESET: u8 = 0xfe;
/// Looks at a status before it is given up, and turns of a wait for the machine to go: each look at a
/// port takes about a microsecond.
const PATIENCE: u32 = 100_000;

/// What the firmware said.
struct Control {
    fadt: Fadt,
    soft_off: Option<Sleep>,
}

static CONTROL: Once<Control> = Once::new();

/// Remembers how this machine is turned off and reset.
pub(crate) fn remember(fadt: Fadt, soft_off: Option<Sleep>) {
    CONTROL.call_once(|| Control { fadt, soft_off });
}

/// Says the last line and stops the machine. The other CPUs are stopped first.
pub(crate) fn act(action: PowerAction) -> ! {
    // The last line is the last.
    stop::others();
    match action {
        PowerAction::Halt => {
            uart::write_bytes(b"uzura: halted\n");
            soft_off();
        }
        PowerAction::Reboot => {
            uart::write_bytes(b"uzura: rebooting\n");
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
        core::hint::spin_loop();
    }
}

fn soft_off() {
    let Some(Control {
        fadt,
        soft_off: Some(sleep),
    }) = CONTROL.get()
    else {
        return;
    };
    let ports = [
        (fadt.pm1a_control, sleep.pm1a),
        (fadt.pm1b_control, sleep.pm1b),
    ];
    if fadt.pm1a_control == 0 {
        return;
    }
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
    for (port, kind) in ports.into_iter().filter(|(port, _)| *port != 0) {
        let others = read(port) & !(7 << SLEEP_TYPE_SHIFT | SLEEP_ENABLE);
        write(
            port,
            others | u16::from(kind) << SLEEP_TYPE_SHIFT | SLEEP_ENABLE,
        );
    }
    wait();
}

fn reset() {
    if let Some(Control {
        fadt:
            Fadt {
                reset: Some(ResetRegister::Port(port, value)),
                ..
            },
        ..
    }) = CONTROL.get()
    {
        // SAFETY: the firmware names this port and value for resetting the machine.
        unsafe { Port::<u8>::new(*port).write(*value) };
        wait();
    }
    let mut keyboard = Port::<u8>::new(KEYBOARD);
    // SAFETY: the keyboard controller has no access to memory; this command resets the machine.
    unsafe {
        for _ in 0..PATIENCE {
            if keyboard.read() & KEYBOARD_BUSY == 0 {
                break;
            }
        }
        keyboard.write(KEYBOARD_RESET);
    }
    wait();
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
