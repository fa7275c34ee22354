//! The debug UART: a polled 16550 (PC16550D data sheet) at COM1. It takes the kernel's log until the
//! console task attaches, and a panic's last words. Interrupts and input are the console task's.
#![expect(unsafe_code, reason = "I/O ports")]

use core::fmt;
use x86_64::instructions::port::Port;

/// I/O port of COM1's first register.
const BASE: u16 = 0x3f8;
/// Registers, as offsets: transmitter holding (divisor low while DLAB), interrupt enable (divisor
/// high), FIFO control, line control, modem control, line status, scratch.
const DATA: u16 = 0;
const INTERRUPT_ENABLE: u16 = 1;
const FIFO_CONTROL: u16 = 2;
const LINE_CONTROL: u16 = 3;
const MODEM_CONTROL: u16 = 4;
const LINE_STATUS: u16 = 5;
/// Line control: divisor latch access; 8 data bits, no parity, 1 stop bit.
const DIVISOR_LATCH: u8 = 0x80;
const EIGHT_N_ONE: u8 = 0x03;
/// Line status: transmitter holding register empty; the last byte has gone too. A port without a UART reads as
/// all ones.
const TRANSMITTER_EMPTY: u8 = 1 << 5;
const TRANSMITTER_IDLE: u8 = 1 << 6;
const NO_UART: u8 = 0xff;
/// Looks at the status before a byte is given up: far more than the 87 microseconds that one takes
/// at 115,200 bit/s, and the end of a wait for a UART that is not there.
const PATIENCE: u32 = 200_000;

fn read(offset: u16) -> u8 {
    // SAFETY: reading the UART's line status (the only register read) changes no memory.
    unsafe { Port::<u8>::new(BASE + offset).read() }
}

fn write(offset: u16, value: u8) {
    // SAFETY: COM1 belongs to the kernel until the console task attaches, and to a panic always; a
    // UART has no access to memory.
    unsafe { Port::<u8>::new(BASE + offset).write(value) }
}

/// Sets 115,200 bit/s, 8N1, FIFOs on, interrupts off.
pub(crate) fn initialise() {
    write(INTERRUPT_ENABLE, 0);
    write(LINE_CONTROL, DIVISOR_LATCH);
    // 1.8432 MHz / 16 / 115,200.
    write(DATA, 1);
    write(INTERRUPT_ENABLE, 0);
    write(LINE_CONTROL, EIGHT_N_ONE);
    // FIFOs enabled and cleared.
    write(FIFO_CONTROL, 0x07);
    // DTR, RTS; OUT2, which lets interrupts through, off.
    write(MODEM_CONTROL, 0x03);
}

fn send(byte: u8) {
    if wait_for(TRANSMITTER_EMPTY) {
        write(DATA, byte);
    }
}

/// Waits until the status has this bit, or patience ends; false where there is no UART.
fn wait_for(bit: u8) -> bool {
    for _ in 0..PATIENCE {
        match read(LINE_STATUS) {
            NO_UART => return false,
            status if status & bit != 0 => break,
            _ => core::hint::spin_loop(),
        }
    }
    true
}

/// Waits until all bytes have left the machine, before it loses its power.
pub(crate) fn drain() {
    wait_for(TRANSMITTER_IDLE);
}

/// Sends bytes, each line feed as carriage return and line feed. Takes as long as the line does.
pub(crate) fn write_bytes(bytes: &[u8]) {
    for byte in bytes {
        if *byte == b'\n' {
            send(b'\r');
        }
        send(*byte);
    }
}

/// The UART as a formatter's target.
pub(crate) struct Uart;

impl fmt::Write for Uart {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write_bytes(text.as_bytes());
        Ok(())
    }
}

/// Prints a line `uzura: ...` on the debug UART. For boot, panic and power-off, when no other CPU
/// prints.
macro_rules! say {
    ($($argument:tt)*) => {{
        use core::fmt::Write as _;
        let _ = writeln!($crate::uart::Uart, "uzura: {}", format_args!($($argument)*));
    }};
}
pub(crate) use say;
