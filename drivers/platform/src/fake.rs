//! A chipset's power registers and an event device in software. Copies reach the same registers.

use core::cell::{Cell, RefCell};
use std::rc::Rc;

use registers::{Ports, Registers};

use crate::fixed::{Blocks, FixedEvents};

/// A PM1 event block.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pm1 {
    pub(crate) status: u16,
    pub(crate) enable: u16,
}

/// All registers.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) pm1: [Pm1; 2],
    pub(crate) control: u16,
    /// Status and enable registers of the general-purpose blocks.
    pub(crate) general: [([u8; 2], [u8; 2]); 2],
    /// Nothing answers any more.
    pub(crate) gone: bool,
}

impl State {
    /// Whether the interrupt is asserted.
    pub(crate) fn interrupts(&self) -> bool {
        // PCI Express wake: a bit in the enable register keeps it back.
        const WAKE: u16 = 1 << 14;
        let fixed = |block: &Pm1| block.status & (block.enable ^ WAKE) != 0;
        let general = |(status, enable): &([u8; 2], [u8; 2])| {
            status
                .iter()
                .zip(enable)
                .any(|(one, other)| one & other != 0)
        };
        self.pm1.iter().any(fixed) || self.general.iter().any(general)
    }
}

/// A chipset.
#[derive(Clone, Debug)]
pub(crate) struct Chipset(Rc<RefCell<State>>);

impl Chipset {
    /// All registers are zero.
    pub(crate) fn new() -> Chipset {
        Chipset(Rc::default())
    }

    pub(crate) fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.borrow_mut());
    }

    pub(crate) fn see(&self, look: impl FnOnce(&State)) {
        look(&self.0.borrow());
    }

    /// Presses the power button.
    pub(crate) fn press(&self) {
        self.set(|registers| registers.pm1[0].status |= 1 << 8);
    }

    /// The events of this chipset.
    pub(crate) fn events(&self) -> FixedEvents<Window> {
        let window = |part| Some(Window(self.clone(), part));
        FixedEvents::new(Blocks {
            pm1: [window(Part::Pm1(0)), window(Part::Pm1(1))],
            control: window(Part::Control),
            general: [window(Part::General(0)), window(Part::General(1))],
        })
    }
}

#[derive(Clone, Copy, Debug)]
enum Part {
    Pm1(usize),
    Control,
    General(usize),
}

/// A window of the chipset's ports.
#[derive(Debug)]
pub(crate) struct Window(Chipset, Part);

impl Ports for Window {
    fn length(&self) -> u16 {
        match self.1 {
            Part::Control => 2,
            Part::Pm1(_) | Part::General(_) => 4,
        }
    }

    fn read8(&self, offset: u16) -> u8 {
        let state = self.0.0.borrow();
        match (self.1, offset) {
            _ if state.gone => u8::MAX,
            (Part::General(block), 0..2) => state.general[block].0[usize::from(offset)],
            (Part::General(block), 2..4) => state.general[block].1[usize::from(offset - 2)],
            _ => panic!("{:?} is not read by bytes", self.1),
        }
    }

    fn read16(&self, offset: u16) -> u16 {
        let state = self.0.0.borrow();
        match (self.1, offset) {
            _ if state.gone => u16::MAX,
            (Part::Pm1(block), 0) => state.pm1[block].status,
            (Part::Pm1(block), 2) => state.pm1[block].enable,
            (Part::Control, 0) => state.control,
            _ => panic!("{:?} has no register of two bytes at {offset}", self.1),
        }
    }

    fn read32(&self, _: u16) -> u32 {
        panic!("no register is four bytes wide")
    }

    fn write8(&self, offset: u16, value: u8) {
        let mut state = self.0.0.borrow_mut();
        match (self.1, offset) {
            _ if state.gone => {}
            // A one clears.
            (Part::General(block), 0..2) => {
                state.general[block].0[usize::from(offset)] &= !value;
            }
            (Part::General(block), 2..4) => state.general[block].1[usize::from(offset - 2)] = value,
            _ => panic!("{:?} is not written by bytes", self.1),
        }
    }

    fn write16(&self, offset: u16, value: u16) {
        let mut state = self.0.0.borrow_mut();
        match (self.1, offset) {
            _ if state.gone => {}
            (Part::Pm1(block), 0) => state.pm1[block].status &= !value,
            (Part::Pm1(block), 2) => state.pm1[block].enable = value,
            _ => panic!("{:?} is not written at {offset}", self.1),
        }
    }

    fn write32(&self, _: u16, _: u32) {
        panic!("no register is four bytes wide")
    }
}

/// The register of a Generic Event Device: reading it clears it.
#[derive(Clone, Debug, Default)]
pub(crate) struct EventRegister(pub(crate) Rc<Cell<u32>>);

impl Registers for EventRegister {
    fn length(&self) -> usize {
        4
    }

    fn read8(&self, _: usize) -> u8 {
        panic!("the register is four bytes wide")
    }

    fn read16(&self, _: usize) -> u16 {
        panic!("the register is four bytes wide")
    }

    fn read32(&self, offset: usize) -> u32 {
        assert_eq!(offset, 0, "there is one register");
        self.0.take()
    }

    fn write8(&self, _: usize, _: u8) {
        panic!("the register is not written")
    }

    fn write16(&self, _: usize, _: u16) {
        panic!("the register is not written")
    }

    fn write32(&self, _: usize, _: u32) {
        panic!("the register is not written")
    }
}
