//! The fixed events of ACPI (ACPI Specification 6.5, sections 4.8.3.1 and 4.8.4): the power button is
//! one of them. All others are switched off, since nobody here knows what to do about them, and an
//! event that stays would hold the interrupt for ever.

use registers::Ports;

use crate::button::Source;

/// PM1 status (section 4.8.3.1.1): the power button was pressed; all the bits that a one written to
/// them clears: timer, bus master, global lock, both buttons, clock, PCI Express wake, wake.
const STATUS_BUTTON: u16 = 1 << 8;
const STATUS_ALL: u16 = 1 << 0 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 14 | 1 << 15;
/// PM1 enable (section 4.8.3.1.2): a press interrupts; the one bit that does not let an event through
/// but keeps one back, PCI Express wake.
const ENABLE_BUTTON: u16 = 1 << 8;
const KEEPS_BACK: u16 = 1 << 14;
/// PM1 control (section 4.8.3.2.1): events raise the system control interrupt, not a firmware's own.
const CONTROL_ACPI_MODE: u16 = 1 << 0;

/// The registers, as far as the machine has them.
#[derive(Debug)]
pub struct Blocks<P> {
    /// The PM1 event blocks, a and b.
    pub pm1: [Option<P>; 2],
    /// The PM1a control register.
    pub control: Option<P>,
    /// The general-purpose event blocks.
    pub general: [Option<P>; 2],
}

/// Who has the events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Whoever runs on the machine.
    Acpi,
    /// The firmware.
    Legacy,
}

/// The fixed events.
#[derive(Debug)]
pub struct FixedEvents<P> {
    blocks: Blocks<P>,
}

impl<P: Ports> FixedEvents<P> {
    /// Nothing is touched yet.
    pub fn new(blocks: Blocks<P>) -> Self {
        FixedEvents { blocks }
    }

    /// Who has the events. Without a control register there is no choice.
    pub fn mode(&self) -> Mode {
        match &self.blocks.control {
            Some(control) if control.read16(0) & CONTROL_ACPI_MODE == 0 => Mode::Legacy,
            _ => Mode::Acpi,
        }
    }

    /// Switches every event off but the power button, and forgets the others that have happened. A
    /// press that nobody has dealt with stays, unless it is `stale`.
    pub fn start(&mut self, stale: bool) {
        self.switch_others_off();
        let forgotten = if stale {
            STATUS_ALL
        } else {
            STATUS_ALL & !STATUS_BUTTON
        };
        self.clear(forgotten);
        for block in self.pm1() {
            let kept = block.read16(enable(block)) & KEEPS_BACK;
            block.write16(enable(block), kept | ENABLE_BUTTON);
        }
    }

    fn pm1(&self) -> impl Iterator<Item = &P> {
        self.blocks.pm1.iter().flatten()
    }

    fn clear(&self, status: u16) {
        self.pm1().for_each(|block| block.write16(0, status));
    }

    /// Firmware that runs behind our back may have switched something on.
    fn switch_others_off(&self) {
        for block in self.pm1() {
            let on = block.read16(enable(block));
            if on & !(ENABLE_BUTTON | KEEPS_BACK) != 0 {
                block.write16(enable(block), on & (ENABLE_BUTTON | KEEPS_BACK));
            }
        }
        // General-purpose registers are read and written a byte at a time (section 4.8.4.1).
        for block in self.blocks.general.iter().flatten() {
            for register in block.length() / 2..block.length() {
                if block.read8(register) != 0 {
                    block.write8(register, 0);
                }
            }
        }
    }
}

/// Offset of a PM1 block's enable register: its second half.
fn enable(block: &impl Ports) -> u16 {
    block.length() / 2
}

impl<P: Ports> Source for FixedEvents<P> {
    fn look(&mut self) -> bool {
        self.switch_others_off();
        // A block that nothing answers at has all bits set.
        self.pm1().any(|block| {
            let status = block.read16(0);
            status & STATUS_BUTTON != 0 && status != u16::MAX
        })
    }

    fn forget(&mut self) {
        self.clear(STATUS_BUTTON);
    }
}

#[cfg(test)]
mod tests {
    use super::{ENABLE_BUTTON, KEEPS_BACK, Mode, STATUS_BUTTON};
    use crate::button::Source;
    use crate::fake::Chipset;

    /// Timer and sleep button, in status and enable registers.
    const OTHERS: u16 = 1 << 0 | 1 << 9;

    #[test]
    fn only_the_button_is_on_after_the_start() {
        let chipset = Chipset::new();
        chipset.set(|registers| {
            registers.pm1[0].enable = OTHERS | KEEPS_BACK;
            registers.pm1[0].status = OTHERS | STATUS_BUTTON;
            registers.pm1[1].enable = OTHERS;
            registers.general[0].1 = [0xff, 1];
        });
        let mut events = chipset.events();
        events.start(true);
        assert!(!events.look(), "what was pressed before is stale");
        chipset.see(|registers| {
            assert_eq!(registers.pm1[0].enable, ENABLE_BUTTON | KEEPS_BACK);
            assert_eq!(registers.pm1[1].enable, ENABLE_BUTTON);
            assert_eq!(registers.pm1[0].status, 0);
            assert_eq!(registers.general[0].1, [0, 0]);
            assert!(!registers.interrupts());
        });
    }

    #[test]
    fn press_that_an_earlier_life_left_is_seen() {
        let chipset = Chipset::new();
        chipset.press();
        let mut events = chipset.events();
        events.start(false);
        assert!(events.look());
    }

    #[test]
    fn press_is_seen_in_either_block_until_it_is_forgotten() {
        for block in 0..2 {
            let chipset = Chipset::new();
            let mut events = chipset.events();
            events.start(true);
            assert!(!events.look());
            chipset.set(|registers| registers.pm1[block].status |= STATUS_BUTTON);
            chipset.see(|registers| assert!(registers.interrupts()));
            assert!(events.look() && events.look());
            events.forget();
            assert!(!events.look());
            chipset.see(|registers| assert!(!registers.interrupts()));
        }
    }

    #[test]
    fn what_firmware_switches_on_is_switched_off_again() {
        let chipset = Chipset::new();
        let mut events = chipset.events();
        events.start(true);
        chipset.set(|registers| {
            registers.pm1[0].enable |= OTHERS;
            registers.pm1[0].status |= OTHERS;
            registers.general[0] = ([4, 0], [4, 0]);
        });
        chipset.see(|registers| assert!(registers.interrupts()));
        assert!(!events.look());
        chipset.see(|registers| assert!(!registers.interrupts()));
    }

    #[test]
    fn mode_is_the_control_register_s() {
        let chipset = Chipset::new();
        let events = chipset.events();
        assert_eq!(events.mode(), Mode::Legacy);
        chipset.set(|registers| registers.control |= 1);
        assert_eq!(events.mode(), Mode::Acpi);
    }

    #[test]
    fn registers_that_nothing_answers_at_are_no_press() {
        let chipset = Chipset::new();
        chipset.set(|registers| registers.gone = true);
        let mut events = chipset.events();
        events.start(true);
        assert!(!events.look());
    }
}
