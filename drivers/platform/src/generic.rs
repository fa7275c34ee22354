//! The Generic Event Device of machines without fixed registers (ACPI Specification 6.5, section
//! 5.6.9), as QEMU's microvm has it: one register that says which events have happened, and forgets
//! them when it is read (QEMU, docs/specs/acpi_hw_reduced_hotplug.rst, "Generic Event Device").

use registers::Registers;

use crate::button::Source;

/// The event register, and the bits of it: the power button was pressed.
const EVENTS: usize = 0;
const EVENT_BUTTON: u32 = 1 << 1;

/// The device.
#[derive(Debug)]
pub struct GenericEvents<R> {
    registers: R,
    /// The register said so, and has forgotten it since.
    pressed: bool,
}

impl<R: Registers> GenericEvents<R> {
    /// The device behind this window, which has its register and no more. What happened before is
    /// dropped if it is `stale`.
    pub fn start(registers: R, stale: bool) -> Self {
        let mut events = GenericEvents {
            registers,
            pressed: false,
        };
        if events.look() && stale {
            events.forget();
        }
        events
    }
}

impl<R: Registers> Source for GenericEvents<R> {
    fn look(&mut self) -> bool {
        let events = self.registers.read32(EVENTS);
        // Where nothing answers all bits are set.
        self.pressed |= events & EVENT_BUTTON != 0 && events != u32::MAX;
        self.pressed
    }

    fn forget(&mut self) {
        self.pressed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::GenericEvents;
    use crate::button::Source;
    use crate::fake::EventRegister;

    #[test]
    fn press_is_kept_until_it_is_forgotten() {
        let register = EventRegister::default();
        let mut events = GenericEvents::start(register.clone(), true);
        assert!(!events.look());
        register.0.set(2);
        assert!(events.look());
        assert_eq!(register.0.get(), 0, "the register forgets");
        assert!(events.look());
        events.forget();
        assert!(!events.look());
    }

    #[test]
    fn press_of_before_is_stale_or_not() {
        for stale in [false, true] {
            let register = EventRegister::default();
            register.0.set(2);
            let mut events = GenericEvents::start(register, stale);
            assert_eq!(events.look(), !stale);
        }
    }

    #[test]
    fn other_events_and_a_device_that_is_gone_are_no_press() {
        let register = EventRegister::default();
        let mut events = GenericEvents::start(register.clone(), true);
        for value in [1, 4, u32::MAX] {
            register.0.set(value);
            assert!(!events.look(), "{value:#x}");
        }
    }
}
