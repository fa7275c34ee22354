//! From an interrupt to the first instruction of the driver's thread that waits for it, which is more
//! urgent than the one that runs. The interrupt is that of the interval timer; the thread that runs does
//! nothing but note the time in shared memory, and the driver sees how long ago that was.

use core::sync::atomic::{AtomicU32, Ordering};

use ipc::client::Deadline;
use ipc::layout::PAGE_BYTES;
use ipc::message::Transfer;
use ipc::ring::SharedMemory;
use ipc::server::Outgoing;
use ipc::startup::names;
use ipc::{Error, Handle, Rights, Tag};
use registers::Ports;
use registers::hardware::PortWindow;
use runtime::endpoint::reply;
use runtime::mapping::Access;
use runtime::notification::wait;
use runtime::ports::IoPorts;
use runtime::words::call;
use runtime::{Mapping, Memory};

use crate::counter::{read, report};
use crate::handed::{hand_to, take};

/// The public endpoints of the driver, and of the task that has the timer's ports.
pub(crate) const DRIVER: &str = "driver";
pub(crate) const TIMER: &str = "timer";

/// Interrupts that are looked at.
const SAMPLES: u32 = 100;

/// Words of the shared memory: the time that was noted last, interrupts, the largest difference.
const NOTED: usize = 0;
const COUNT: usize = 1;
const LARGEST: usize = 2;

/// The interval timer's ports, as the startup block names them, its command port, and its commands (Intel
/// 8254, "Programming"): channel 0, both bytes of the count, rate generator; and a mode that counts
/// nothing before it has a count.
const PORT_NAME: &str = "40";
const FIRST_PORT: u16 = 0x40;
const PORTS: u16 = 4;
const COMMAND: u16 = 3;
const RATE_GENERATOR: u8 = 0x34;
const STOP: u8 = 0x30;
/// About a millisecond at 1,193,182 Hz.
const PERIOD: u16 = 1193;

pub(crate) fn measure() -> Result<(), Error> {
    let memory = Memory::create(PAGE_BYTES)?;
    let mapping = Mapping::whole(&memory, Access::Write)?;
    let shared = Transfer::copied(Rights::READ | Rights::WRITE);
    hand_to(DRIVER, &[(memory.handle(), shared)])?;
    let timer = runtime::startup()
        .handle(TIMER)
        .ok_or(Error::InvalidHandle)?;
    call(timer, Tag(0), [0; 4], Deadline::NEVER)?;
    let (noted, count) = (word(&mapping, NOTED)?, word(&mapping, COUNT)?);
    while count.load(Ordering::Relaxed) < SAMPLES {
        noted.store(read() as u32 | 1, Ordering::Relaxed);
    }
    call(timer, Tag(0), [0; 4], Deadline::NEVER)?;
    let largest = word(&mapping, LARGEST)?.load(Ordering::Relaxed);
    report("interrupt_thread", largest.into(), "instructions");
    Ok(())
}

fn word(mapping: &Mapping, index: usize) -> Result<&AtomicU32, Error> {
    mapping.word(index).ok_or(Error::InvalidArgument)
}

/// Waits for the timer's interrupts, and compares the time with what was noted.
pub(crate) fn driver() -> Result<(), Error> {
    let signals = runtime::startup()
        .handle(names::INTERRUPTS)
        .ok_or(Error::InvalidHandle)?;
    let [memory] = take(DRIVER)?;
    let memory = Memory::from_handle(memory);
    let mapping = Mapping::whole(&memory, Access::Write)?;
    let noted = word(&mapping, NOTED)?;
    let mut largest = 0;
    let mut seen = 0;
    while seen < SAMPLES {
        wait(signals, Deadline::NEVER)?;
        let now = read() as u32;
        let noted = noted.load(Ordering::Relaxed);
        if noted == 0 {
            // The other task does not note anything yet.
            continue;
        }
        seen += 1;
        largest = largest.max(now.wrapping_sub(noted));
        word(&mapping, LARGEST)?.store(largest, Ordering::Relaxed);
        word(&mapping, COUNT)?.store(seen, Ordering::Relaxed);
    }
    // Interrupts that were on their way.
    loop {
        wait(signals, Deadline::NEVER)?;
    }
}

/// Starts the timer at the first call and stops it at the next.
pub(crate) fn timer() -> Result<(), Error> {
    let public = runtime::start::serves(TIMER).ok_or(Error::InvalidHandle)?;
    let ports = runtime::startup()
        .handle_of(names::PORTS, PORT_NAME)
        .ok_or(Error::InvalidHandle)?;
    let ports = PortWindow::attach(IoPorts::from_handle(ports), FIRST_PORT, PORTS)?;
    let next = || runtime::words::receive(public, 0, Deadline::NEVER);
    next()?;
    ports.write8(COMMAND, RATE_GENERATOR);
    let [low, high] = PERIOD.to_le_bytes();
    ports.write8(0, low);
    ports.write8(0, high);
    reply(Handle::NONE, &Outgoing::new(&mut [0; 8]))?;
    next()?;
    ports.write8(COMMAND, STOP);
    reply(Handle::NONE, &Outgoing::new(&mut [0; 8]))
}
