//! The 16550 chip. Registers and bits are those of National Semiconductor's data sheet "PC16550D
//! Universal Asynchronous Receiver/Transmitter with FIFOs" (June 1995), sections 8.1 to 8.10.
//!
//! What is sent, and where what is received goes, is the service's.

use registers::Ports;

/// First port of the PC's first serial interface.
pub const FIRST_PORT: u16 = 0x3f8;
/// Number of ports that the chip has.
pub const PORTS: u16 = 8;

/// Receiver buffer (read) and transmitter holding register (write); divisor low while DLAB is set.
const DATA: u16 = 0;
/// Interrupt enable register; divisor high while DLAB is set. Section 8.7.
const INTERRUPT_ENABLE: u16 = 1;
/// Interrupt identification register (read), section 8.6.
const INTERRUPT_IDENTIFICATION: u16 = 2;
/// FIFO control register (write), section 8.5.
const FIFO_CONTROL: u16 = 2;
/// Line control register, section 8.1.
const LINE_CONTROL: u16 = 3;
/// Modem control register, section 8.8.
const MODEM_CONTROL: u16 = 4;
/// Line status register, section 8.4.
const LINE_STATUS: u16 = 5;
/// Modem status register, section 8.9.
const MODEM_STATUS: u16 = 6;

/// Interrupt enable: received data is available, or has been for a while.
const ENABLE_RECEIVED: u8 = 1 << 0;
/// Interrupt enable: the transmitter is empty.
const ENABLE_EMPTY: u8 = 1 << 1;
/// Interrupt enable: a receive error.
const ENABLE_STATUS: u8 = 1 << 2;
/// Interrupt identification: nothing is pending.
const NOTHING_PENDING: u8 = 1 << 0;
/// FIFO control: FIFOs on, both emptied, receive interrupt at 8 bytes (or, sooner, when the line
/// has been quiet for four characters).
const FIFOS_ON_AND_EMPTY: u8 = 1 << 0 | 1 << 1 | 1 << 2 | 2 << 6;
/// Line control: the divisor is accessed (DLAB).
const DIVISOR_ACCESS: u8 = 1 << 7;
/// Line control: 8 data bits, no parity, one stop bit.
const EIGHT_NONE_ONE: u8 = 3;
/// Modem control: data terminal ready, request to send, and OUT2, which on a PC lets the chip's
/// interrupts through (IBM PC Technical Reference, "Asynchronous Communications Adapter").
const READY_AND_INTERRUPTS: u8 = 1 << 0 | 1 << 1 | 1 << 3;
/// Line status: a byte was received.
const STATUS_DATA: u8 = 1 << 0;
/// Line status: the receive FIFO overflowed.
const STATUS_OVERRUN: u8 = 1 << 1;
/// Line status: parity error, framing error or break of the byte on top of the FIFO.
const STATUS_BAD_BYTE: u8 = 1 << 2 | 1 << 3 | 1 << 4;
/// Line status: the transmit FIFO is empty.
const STATUS_EMPTY: u8 = 1 << 5;
/// Line status: transmit FIFO and shift register are empty.
const STATUS_IDLE: u8 = 1 << 6;

/// Bytes that the transmit FIFO holds.
const FIFO_BYTES: usize = 16;
/// Input clock of the divisor: the fastest rate in bits a second.
const FASTEST: u32 = 115_200;
/// Most bytes taken in one go: a line that is babbling must not hold up the writers.
const MOST_RECEIVED: usize = 256;
/// Times the status is read while the last bytes of the chip's earlier user go out: at 9,600 bits a
/// second a full FIFO takes 17 ms, and each reading about 1 us.
const DRAIN_READINGS: u32 = 50_000;

/// What the chip has reported so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UartCounters {
    /// Bytes received, bad ones not included.
    pub received: u64,
    /// Bytes sent.
    pub sent: u64,
    /// Times the chip's receive FIFO overflowed.
    pub overruns: u64,
    /// Bytes received with a parity or framing error, and breaks.
    pub bad: u64,
}

/// What [`Uart::receive`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// A byte.
    Byte(u8),
    /// A byte with an error, or a break: it is counted and dropped.
    Bad,
    /// No more bytes.
    Nothing,
}

/// A 16550.
#[derive(Debug)]
pub struct Uart<P: Ports> {
    ports: P,
    enabled: u8,
    counters: UartCounters,
}

impl<P: Ports> Uart<P> {
    /// Takes the chip over: 8N1 at this rate, FIFOs on, interrupts for what is received. What an
    /// earlier user sent goes out first. A rate of 0 or above 115,200 counts as 115,200.
    pub fn start(ports: P, bits_per_second: u32) -> Uart<P> {
        let mut uart = Uart {
            ports,
            enabled: 0,
            counters: UartCounters::default(),
        };
        uart.ports.write8(INTERRUPT_ENABLE, 0);
        uart.drain();
        let divisor = FASTEST
            .checked_div(bits_per_second)
            .unwrap_or(1)
            .clamp(1, 0xffff);
        uart.ports.write8(LINE_CONTROL, DIVISOR_ACCESS);
        uart.ports.write8(DATA, divisor as u8);
        uart.ports.write8(INTERRUPT_ENABLE, (divisor >> 8) as u8);
        uart.ports.write8(LINE_CONTROL, EIGHT_NONE_ONE);
        uart.ports.write8(FIFO_CONTROL, FIFOS_ON_AND_EMPTY);
        uart.ports.write8(MODEM_CONTROL, READY_AND_INTERRUPTS);
        uart.enable(ENABLE_RECEIVED | ENABLE_STATUS);
        uart
    }

    fn drain(&self) {
        for _ in 0..DRAIN_READINGS {
            if self.ports.read8(LINE_STATUS) & STATUS_IDLE != 0 {
                return;
            }
            core::hint::spin_loop();
        }
    }

    fn enable(&mut self, interrupts: u8) {
        if self.enabled != interrupts {
            self.enabled = interrupts;
            self.ports.write8(INTERRUPT_ENABLE, interrupts);
        }
    }

    /// The counters.
    pub fn counters(&self) -> UartCounters {
        self.counters
    }

    /// Whether the chip still asserts its interrupt. A PC's line to it is edge-triggered: only when
    /// this is false will the next event make an edge. Reading it also drops a pending
    /// "transmitter empty" (section 8.6); [`Uart::send`] asks the line status instead.
    pub fn is_pending(&self) -> bool {
        let pending = self.ports.read8(INTERRUPT_IDENTIFICATION) & NOTHING_PENDING == 0;
        if pending {
            // A modem status interrupt is never enabled; reading drops one that is stuck.
            self.ports.read8(MODEM_STATUS);
        }
        pending
    }

    /// Takes one received byte.
    pub fn receive(&mut self) -> Received {
        let status = self.ports.read8(LINE_STATUS);
        if status & STATUS_OVERRUN != 0 {
            self.counters.overruns += 1;
        }
        if status & STATUS_DATA == 0 {
            return Received::Nothing;
        }
        let byte = self.ports.read8(DATA);
        if status & STATUS_BAD_BYTE != 0 {
            self.counters.bad += 1;
            return Received::Bad;
        }
        self.counters.received += 1;
        Received::Byte(byte)
    }

    /// Takes what was received, up to a bound; true if there may be more.
    pub fn receive_all(&mut self, mut sink: impl FnMut(u8)) -> bool {
        for _ in 0..MOST_RECEIVED {
            match self.receive() {
                Received::Byte(byte) => sink(byte),
                Received::Bad => {}
                Received::Nothing => return false,
            }
        }
        true
    }

    /// Fills the transmit FIFO if it is empty. With bytes left over the chip interrupts when it is
    /// empty again; `source` gives the next byte, or none.
    pub fn send(&mut self, mut source: impl FnMut() -> Option<u8>) {
        let listening = ENABLE_RECEIVED | ENABLE_STATUS;
        if self.ports.read8(LINE_STATUS) & STATUS_EMPTY == 0 {
            self.enable(listening | ENABLE_EMPTY);
            return;
        }
        for _ in 0..FIFO_BYTES {
            let Some(byte) = source() else {
                self.enable(listening);
                return;
            };
            self.ports.write8(DATA, byte);
            self.counters.sent += 1;
        }
        self.enable(listening | ENABLE_EMPTY);
    }
}

#[cfg(test)]
mod tests {
    use super::{Received, Uart};
    use crate::fake::FakeUart;

    #[test]
    fn the_line_is_set_up() {
        for (rate, divisor) in [(115_200, 1), (9_600, 12), (50, 2_304), (0, 1), (1, 0xffff)] {
            let chip = FakeUart::default();
            let _uart = Uart::start(chip.clone(), rate);
            let state = chip.state();
            assert_eq!(state.divisor, divisor, "{rate}");
            assert_eq!((state.line_control, state.modem_control), (3, 0b1011));
            assert!(state.fifo_on && state.interrupt_enable == 0b101);
        }
    }

    #[test]
    fn what_the_kernel_sent_goes_out_before_the_fifo_is_emptied() {
        let chip = FakeUart::default();
        chip.state().fifo.extend(b"kernel");
        chip.state().drains_by_itself = true;
        let _uart = Uart::start(chip.clone(), 115_200);
        assert_eq!(chip.state().sent, b"kernel");
    }

    #[test]
    fn a_chip_that_never_drains_is_waited_for_in_vain_but_not_for_ever() {
        let chip = FakeUart::default();
        chip.state().fifo.extend(b"stuck");
        let _uart = Uart::start(chip, 115_200);
    }

    #[test]
    fn sending_fills_the_fifo_and_asks_for_an_interrupt_only_while_bytes_are_left() {
        let chip = FakeUart::default();
        let mut uart = Uart::start(chip.clone(), 115_200);
        let mut bytes = (0..20u8).collect::<std::collections::VecDeque<_>>();
        uart.send(|| bytes.pop_front());
        assert_eq!(chip.state().fifo.len(), 16);
        assert_eq!(chip.state().interrupt_enable & 2, 2);
        uart.send(|| bytes.pop_front());
        assert_eq!(bytes.len(), 4, "the FIFO is full");
        chip.transmit();
        assert!(chip.interrupts());
        uart.send(|| bytes.pop_front());
        assert_eq!(chip.state().interrupt_enable & 2, 0, "nothing is left");
        chip.transmit();
        assert!(!chip.interrupts());
        assert_eq!(chip.state().sent, (0..20).collect::<Vec<u8>>());
        assert_eq!(uart.counters().sent, 20);
    }

    #[test]
    fn bytes_are_received_and_bad_ones_counted() {
        let chip = FakeUart::default();
        let mut uart = Uart::start(chip.clone(), 115_200);
        chip.type_bytes(b"ab");
        chip.state().receive_errors = vec![0, 1 << 3];
        assert!(chip.interrupts());
        assert_eq!(uart.receive(), Received::Byte(b'a'));
        assert_eq!(uart.receive(), Received::Bad);
        assert_eq!(uart.receive(), Received::Nothing);
        assert!(!uart.is_pending());
        assert_eq!((uart.counters().received, uart.counters().bad), (1, 1));
    }

    #[test]
    fn an_overflow_of_the_chip_is_counted_once() {
        let chip = FakeUart::default();
        let mut uart = Uart::start(chip.clone(), 115_200);
        chip.type_bytes(&[b'x'; 20]);
        let mut count = 0;
        assert!(!uart.receive_all(|_| count += 1));
        assert_eq!((count, uart.counters().overruns), (16, 1));
    }

    #[test]
    fn a_babbling_line_is_left_after_a_bound() {
        let chip = FakeUart::default();
        let mut uart = Uart::start(chip.clone(), 115_200);
        chip.state().babbles = true;
        let mut count = 0;
        assert!(uart.receive_all(|_| count += 1));
        assert_eq!(count, super::MOST_RECEIVED);
    }
}
