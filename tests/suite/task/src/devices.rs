//! Devices: I/O ports and interrupts. The device is the real-time clock, which every PC has (MC146818A
//! data sheet: registers A, B and C; periodic interrupt).

use ipc::info::INTERRUPT_MESSAGE;
use ipc::{Error, Operation, Rights};

use crate::child::{Child, PRIORITY, QUOTA, Thread};
use crate::failure::{Outcome, ensure, ensure_equal, ensure_error};
use crate::operations::HARMLESS_PORT;
use crate::raw::{self, Board, call};
use crate::suite::{Owned, Suite};
use crate::{Context, Test};
use core::sync::atomic::Ordering;
use ipc::info::ThreadParameter;

pub(crate) const TESTS: &[Test] = &[
    ("ports_belong_to_a_task", ports),
    ("ports_are_switched_with_the_task", port_switch),
    ("ports_end_with_their_handle", port_close),
    ("interrupts_keep_coming", interrupts),
    ("unacknowledged_interrupt_stays_masked", unacknowledged),
    ("interrupt_inputs_have_one_owner", one_owner),
    ("interrupts_end_with_their_handle", interrupt_close),
    ("device_memory_is_never_ram", device_memory),
];

/// Vector of the general protection fault.
const GENERAL_PROTECTION: u64 = 13;

/// Reads the port in word 0.
fn read_port(board: &'static Board) {
    let port = board.words[0].load(Ordering::Acquire);
    raw::port_in(port as u16);
}

/// Attaches the ports in word 1, then reads the port in word 0; word 2 becomes 1. Then reads it
/// again, and gives the CPU away, until word 3 is 1.
fn attach_and_read(board: &'static Board) {
    let [port, handle] = [0, 1].map(|index| board.words[index].load(Ordering::Acquire));
    if call(Operation::IoPortsAttach, &[handle]).is_err() {
        return;
    }
    while board.words[3].load(Ordering::Acquire) == 0 {
        raw::port_in(port as u16);
        board.words[2].fetch_add(1, Ordering::Release);
        let _ = call(Operation::Yield, &[]);
    }
}

fn make_ports(context: &Context, first: u64, count: u64) -> Result<Owned, Error> {
    Owned::make(
        Operation::IoPortsCreate,
        &[context.suite.device, first, count],
    )
}

fn ports(context: &Context) -> Outcome {
    let suite = &context.suite;
    let child = Child::new(suite, &context.program, QUOTA)?;
    for port in [HARMLESS_PORT, 0x3f8, 0xcf8, 0, 0xffff] {
        let _thread = child.start(suite, read_port, &[port])?;
        let fault = child.fault(suite)?;
        ensure_equal!(fault.vector, GENERAL_PROTECTION, "reading port {port:#x}");
    }
    let range = make_ports(context, HARMLESS_PORT, 1)?;
    let there = child.grant(range.0, Rights::ATTACH)?;
    let values = [HARMLESS_PORT, there, 0, 1];
    child.run(suite, attach_and_read, &values)?;
    child.run(suite, read_port, &[HARMLESS_PORT])?;
    for neighbour in [HARMLESS_PORT - 1, HARMLESS_PORT + 1] {
        let _thread = child.start(suite, read_port, &[neighbour])?;
        let fault = child.fault(suite)?;
        ensure_equal!(fault.vector, GENERAL_PROTECTION, "a port beside the range");
    }
    for (first, count) in [
        (0, 0),
        (0xffff, 2),
        (0x1_0000, 1),
        (0, 0x1_0001),
        (u64::MAX, 1),
    ] {
        let made = make_ports(context, first, count).map(|_| ());
        ensure_error!(made, InvalidArgument, "{count:#x} ports from {first:#x}");
    }
    Ok(())
}

/// On one CPU a task with ports and one without take turns: only the first can use them.
fn port_switch(context: &Context) -> Outcome {
    let suite = &context.suite;
    let owner = Child::new(suite, &context.program, QUOTA)?;
    let range = make_ports(context, HARMLESS_PORT, 1)?;
    let there = owner.grant(range.0, Rights::ATTACH)?;
    let values = [HARMLESS_PORT, there];
    let user = Thread::stopped(suite, Some(owner.task), attach_and_read, &values, PRIORITY)?;
    user.set(ThreadParameter::Affinity, 1)?;
    user.go()?;
    ensure!(
        suite.wait_for(2000, || user.word(2) > 10),
        "the owner cannot use its ports"
    );
    for _ in 0..5 {
        let other = Child::new(suite, &context.program, QUOTA)?;
        let values = [HARMLESS_PORT];
        let thief = Thread::stopped(suite, Some(other.task), read_port, &values, PRIORITY)?;
        thief.set(ThreadParameter::Affinity, 1)?;
        thief.go()?;
        let ended = suite.wait_for(2000, || {
            thief.is_done() || thief.info().is_ok_and(|info| info.state == 3)
        });
        ensure!(ended && !thief.is_done(), "another task used the ports");
        ensure_equal!(other.fault(suite)?.vector, GENERAL_PROTECTION, "vector");
    }
    let before = user.word(2);
    ensure!(
        suite.wait_for(2000, || user.word(2) > before + 10),
        "the owner lost its ports"
    );
    user.set_word(3, 1);
    user.finish(suite)
}

/// Closes the handle in word 1 after attaching it, then reads the port in word 0.
fn close_and_read(board: &'static Board) {
    let [port, handle] = [0, 1].map(|index| board.words[index].load(Ordering::Acquire));
    let _ = call(Operation::IoPortsAttach, &[handle]);
    raw::port_in(port as u16);
    board.words[2].store(1, Ordering::Release);
    let _ = call(Operation::Close, &[handle]);
    raw::port_in(port as u16);
}

fn port_close(context: &Context) -> Outcome {
    let suite = &context.suite;
    let child = Child::new(suite, &context.program, QUOTA)?;
    let range = make_ports(context, HARMLESS_PORT, 1)?;
    let there = child.grant(range.0, Rights::ATTACH)?;
    drop(range);
    let thread = child.start(suite, close_and_read, &[HARMLESS_PORT, there])?;
    ensure_equal!(child.fault(suite)?.vector, GENERAL_PROTECTION, "vector");
    ensure_equal!(thread.word(2), 1, "the read before the close");
    Ok(())
}

/// The real-time clock, whose periodic interrupt the tests use; quiet again when dropped.
#[derive(Debug)]
struct Clock {
    register_b: u8,
}

/// Takes the ports of the real-time clock for good: attached ports are the task's until its end.
pub(crate) fn attach_clock(suite: &Suite) -> Result<(), Error> {
    let ports = raw::value(Operation::IoPortsCreate, &[suite.device, 0x70, 2])?;
    call(Operation::IoPortsAttach, &[ports]).map(drop)
}

/// Its I/O APIC input on every PC.
const CLOCK_INPUT: u64 = 8;
/// Interrupts per second at the rate that the tests set: 2^(16 - 6).
const RATE: u8 = 6;

impl Clock {
    /// Starts the periodic interrupt.
    fn start() -> Clock {
        let register_b = Clock::read(0x0b);
        let register_a = Clock::read(0x0a);
        Clock::write(0x0a, register_a & 0xf0 | RATE);
        Clock::write(0x0b, register_b | 0x40);
        Clock::quiet();
        Clock { register_b }
    }

    fn read(register: u8) -> u8 {
        // Bit 7 masks NMI; it stays clear.
        raw::port_out(0x70, register);
        raw::port_in(0x71)
    }

    fn write(register: u8, value: u8) {
        raw::port_out(0x70, register);
        raw::port_out(0x71, value);
    }

    /// Reading register C ends the request and allows the next.
    fn quiet() -> u8 {
        Clock::read(0x0c)
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        Clock::write(0x0b, self.register_b & !0x40);
        Clock::quiet();
    }
}

fn make_line(context: &Context, notification: u64, flags: u64) -> Result<Owned, Error> {
    let values = [
        context.suite.device,
        CLOCK_INPUT,
        notification,
        1 << 5,
        flags,
    ];
    Owned::make(Operation::InterruptCreate, &values)
}

/// Many interrupts of one line arrive, which needs each to be ended at the local APIC.
fn interrupts(context: &Context) -> Outcome {
    let suite = &context.suite;
    let notification = Owned::make(Operation::NotificationCreate, &[])?;
    let line = make_line(context, notification.0, 0)?;
    let clock = Clock::start();
    let mut count = 0;
    for _ in 0..50 {
        match raw::until(Operation::Wait, &[notification.0], suite.after(1000)) {
            Ok([bits, ..]) => {
                ensure_equal!(bits, 1 << 5, "bits of the interrupt");
                count += 1;
                call(Operation::InterruptAcknowledge, &[line.0])?;
                Clock::quiet();
            }
            Err(_) => break,
        }
    }
    drop(clock);
    ensure_equal!(count, 50, "interrupts that arrived");
    Ok(())
}

/// A level-triggered interrupt comes once until it is acknowledged, however long its device asks, and
/// the rest of the system goes on meanwhile.
fn unacknowledged(context: &Context) -> Outcome {
    const LEVEL: u64 = 1;
    let suite = &context.suite;
    let notification = Owned::make(Operation::NotificationCreate, &[])?;
    let line = make_line(context, notification.0, LEVEL)?;
    let clock = Clock::start();
    let wait = |milliseconds| {
        raw::until(
            Operation::Wait,
            &[notification.0],
            suite.after(milliseconds),
        )
    };
    wait(1000)?;
    // The request stands; nobody acknowledges it.
    ensure_error!(
        wait(50),
        TimedOut,
        "a second signal without acknowledgement"
    );
    call(Operation::InterruptAcknowledge, &[line.0])?;
    wait(1000)?;
    drop(clock);
    Ok(())
}

fn one_owner(context: &Context) -> Outcome {
    let notification = Owned::make(Operation::NotificationCreate, &[])?;
    let line = make_line(context, notification.0, 0)?;
    ensure_error!(
        make_line(context, notification.0, 0).map(|_| ()),
        Busy,
        "a second owner"
    );
    drop(line);
    make_line(context, notification.0, 0)?;
    for input in [10_000, u64::from(u32::MAX), u64::MAX - 1] {
        let values = [context.suite.device, input, notification.0, 1, 0];
        let made = call(Operation::InterruptCreate, &values);
        ensure!(made.is_err(), "an interrupt at input {input:#x}");
    }
    let values = [context.suite.device, INTERRUPT_MESSAGE, notification.0, 1];
    let [handle, address, ..] = call(Operation::InterruptCreate, &values)?;
    call(Operation::Close, &[handle])?;
    // Intel SDM volume 3A, section 11.11.1: messages go to this range.
    ensure_equal!(address >> 20, 0xfee, "address of a message");
    Ok(())
}

fn interrupt_close(context: &Context) -> Outcome {
    let suite = &context.suite;
    let notification = Owned::make(Operation::NotificationCreate, &[])?;
    let line = make_line(context, notification.0, 0)?;
    let clock = Clock::start();
    raw::until(Operation::Wait, &[notification.0], suite.after(1000))?;
    drop(line);
    let _ = raw::until(Operation::Wait, &[notification.0], 0);
    Clock::quiet();
    let after = raw::until(Operation::Wait, &[notification.0], suite.after(50));
    drop(clock);
    ensure_error!(after, TimedOut, "an interrupt after its handle was closed");
    Ok(())
}

/// RAM and the processors' own APICs cannot be had as a device's memory.
fn device_memory(context: &Context) -> Outcome {
    let suite = &context.suite;
    let memory = Owned::make(Operation::MemoryCreate, &[4096, 1])?;
    let frame = raw::value(Operation::MemoryExpose, &[suite.device, memory.0, 1])?;
    call(Operation::MemoryExpose, &[suite.device, memory.0, 0])?;
    for physical in [
        0x10_0000,
        frame,
        0xfee0_0000,
        0xfec0_0000,
        1,
        u64::MAX - 4095,
    ] {
        let made = call(Operation::MemoryDevice, &[suite.device, physical, 4096, 0]);
        ensure_error!(made, InvalidArgument, "device memory at {physical:#x}");
    }
    Ok(())
}
