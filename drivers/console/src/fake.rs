//! A fake 16550 for the tests: registers, FIFOs, and the line as two byte strings.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

use registers::Ports;

/// The chip's state; tests look at it and change it.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) divisor: u16,
    pub(crate) line_control: u8,
    pub(crate) modem_control: u8,
    pub(crate) interrupt_enable: u8,
    pub(crate) fifo_on: bool,
    /// The transmit FIFO.
    pub(crate) fifo: VecDeque<u8>,
    /// What went out.
    pub(crate) sent: Vec<u8>,
    /// The receive FIFO.
    pub(crate) received: VecDeque<u8>,
    /// Error bits of the next bytes.
    pub(crate) receive_errors: Vec<u8>,
    pub(crate) overrun: bool,
    /// "Transmitter empty" is pending: since the FIFO got empty, or the interrupt was switched on
    /// while it was, until the identification is read or a byte is written (section 8.6).
    pub(crate) empty_pending: bool,
    /// Every look at the line status sends a byte.
    pub(crate) drains_by_itself: bool,
    /// What goes into the transmit FIFO comes back at once.
    pub(crate) echoes: bool,
    /// The receive FIFO never gets empty.
    pub(crate) babbles: bool,
}

/// The chip as driver and test share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeUart(Arc<Mutex<State>>);

impl FakeUart {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// The line takes what is in the transmit FIFO.
    pub(crate) fn transmit(&self) {
        let mut state = self.state();
        while let Some(byte) = state.fifo.pop_front() {
            state.sent.push(byte);
            state.empty_pending = true;
        }
    }

    /// Somebody types.
    pub(crate) fn type_bytes(&self, bytes: &[u8]) {
        let mut state = self.state();
        for byte in bytes {
            if state.received.len() == 16 {
                state.overrun = true;
            } else {
                state.received.push_back(*byte);
            }
        }
    }

    /// Whether the chip asserts its interrupt.
    pub(crate) fn interrupts(&self) -> bool {
        let state = self.state();
        let data = state.interrupt_enable & 1 != 0 && !state.received.is_empty();
        let empty = state.interrupt_enable & 2 != 0 && state.empty_pending;
        (data || empty) && state.modem_control & 8 != 0
    }
}

impl Ports for FakeUart {
    fn length(&self) -> u16 {
        8
    }

    fn read8(&self, offset: u16) -> u8 {
        let pending = self.interrupts();
        let mut state = self.state();
        match offset {
            0 if state.babbles => b'z',
            0 => state.received.pop_front().unwrap_or(0),
            2 => {
                // Received data has the higher priority; only what is reported is dropped.
                if state.interrupt_enable & 1 == 0 || state.received.is_empty() {
                    state.empty_pending = false;
                }
                u8::from(!pending)
            }
            5 => {
                if state.drains_by_itself
                    && let Some(byte) = state.fifo.pop_front()
                {
                    state.sent.push(byte);
                    state.empty_pending = true;
                }
                let data = u8::from(!state.received.is_empty() || state.babbles);
                let errors = match state.receive_errors.is_empty() {
                    true => 0,
                    false => state.receive_errors.remove(0),
                };
                let overrun = u8::from(core::mem::take(&mut state.overrun)) << 1;
                let empty = if state.fifo.is_empty() { 0x60 } else { 0 };
                data | errors | overrun | empty
            }
            _ => 0,
        }
    }

    fn write8(&self, offset: u16, value: u8) {
        let mut state = self.state();
        let divisor = state.line_control & 0x80 != 0;
        match offset {
            0 if divisor => state.divisor = state.divisor & 0xff00 | u16::from(value),
            0 => {
                assert!(state.fifo.len() < 16, "the transmit FIFO overflowed");
                state.empty_pending = false;
                state.fifo.push_back(value);
                if state.echoes && state.received.len() < 16 {
                    state.received.push_back(value);
                }
            }
            1 if divisor => state.divisor = state.divisor & 0x00ff | u16::from(value) << 8,
            1 => {
                if value & !state.interrupt_enable & 2 != 0 && state.fifo.is_empty() {
                    state.empty_pending = true;
                }
                state.interrupt_enable = value;
            }
            2 => {
                state.fifo_on = value & 1 != 0;
                if value & 2 != 0 {
                    state.received.clear();
                }
                if value & 4 != 0 {
                    state.fifo.clear();
                }
            }
            3 => state.line_control = value,
            4 => state.modem_control = value,
            _ => {}
        }
    }

    fn read16(&self, _: u16) -> u16 {
        unreachable!("the chip has 8-bit registers")
    }
    fn read32(&self, _: u16) -> u32 {
        unreachable!("the chip has 8-bit registers")
    }
    fn write16(&self, _: u16, _: u16) {
        unreachable!("the chip has 8-bit registers")
    }
    fn write32(&self, _: u16, _: u32) {
        unreachable!("the chip has 8-bit registers")
    }
}
