//! The task around the button: takes the registers and the interrupt, switches ACPI mode on, and puts
//! the runtime behind the button's wishes.

use core::time::Duration;

use ipc::client::CallError;
use ipc::interface::supervisor::{PowerAction, SupervisorClient};
use ipc::startup::names;
use ipc::{Deadline, Error, Handle};
use registers::Ports;
use registers::hardware::{MappedWindow, PortWindow};
use runtime::entry::Startup;
use runtime::mapping::Access;
use runtime::ports::{Interrupt, IoPorts, Trigger};
use runtime::{Kernel, Mapping, Memory, Notification, clock, start, system};

use crate::button::{Answer, Button, Source, System};
use crate::fixed::{Blocks, FixedEvents, Mode};
use crate::generic::GenericEvents;
use crate::layout::{Block, Fixed, Layout, Wiring};

/// Bit of the notification that the interrupt sets.
const INTERRUPT: u64 = 1 << 0;
/// How long init may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the firmware is asked whether it has let go of the events, and the pause in between: it
/// may take seconds (ACPI 6.5, section 4.8.2.5, sets no limit).
const MODE_LOOKS: u32 = 300;
/// See [`MODE_LOOKS`].
const MODE_PAUSE: Duration = Duration::from_millis(10);
/// Longest part of the command line that is looked at.
const COMMAND_LINE_BYTES: usize = 2048;
/// Bytes of a Generic Event Device's register.
const GENERIC_BYTES: usize = 4;

/// The program: waits for the power button. On a machine without one it ends its work there, and
/// sleeps: to end would be to be started again.
pub fn run(startup: &'static Startup<'static>) {
    let ended = set_up(startup);
    if let Err(error) = ended {
        runtime::log!("cannot wait for the power button: {error}");
    }
}

fn set_up(startup: &'static Startup<'static>) -> Result<(), Error> {
    let handle = |name| startup.handle(name).ok_or(Error::InvalidHandle);
    let control = handle(names::DEVICE_CONTROL)?;
    let inspect = handle(names::SYSTEM_CONTROL)?;
    let bell = Notification::create()?;
    // What an earlier life of this task did not come to do is still to be done; what was there when
    // the machine was switched on is not.
    let stale = startup.restarts == 0;
    match find(inspect)? {
        Layout::Fixed(fixed) => {
            let events = take_fixed(control, &fixed, stale)?;
            wait(control, &bell, events, fixed.wiring, "fixed")
        }
        Layout::Generic { address, wiring } => {
            let window = map(control, address)?;
            let events = GenericEvents::start(window, stale);
            wait(control, &bell, events, wiring, "event device")
        }
        Layout::None => {
            runtime::log!("no power button that works without AML");
            bell.wait(Deadline::NEVER).map(drop)
        }
    }
}

/// Which button there is. A word of the command line that cannot be read is said, and counts as none.
fn find(inspect: Handle) -> Result<Layout, Error> {
    let power = system::power_registers(inspect)?;
    let mut line = [0; COMMAND_LINE_BYTES];
    let line = system::command_line(inspect, &mut line)?;
    let line = core::str::from_utf8(line).unwrap_or("");
    Ok(Layout::find(&power, line).unwrap_or_else(|error| {
        runtime::log!("no power button: {error}");
        Layout::None
    }))
}

fn window(control: Handle, block: Block) -> Result<PortWindow, Error> {
    let ports = IoPorts::create(control, block.first, block.ports.into())?;
    PortWindow::attach(ports, block.first, block.ports)
}

fn take_fixed(
    control: Handle,
    fixed: &Fixed,
    stale: bool,
) -> Result<FixedEvents<PortWindow>, Error> {
    let take = |block: Option<Block>| block.map(|block| window(control, block)).transpose();
    let [pm1a, pm1b] = fixed.pm1;
    let [general_0, general_1] = fixed.general;
    let mut events = FixedEvents::new(Blocks {
        pm1: [take(pm1a)?, take(pm1b)?],
        control: take(fixed.control)?,
        general: [take(general_0)?, take(general_1)?],
    });
    if events.mode() == Mode::Legacy
        && let Some((block, value)) = fixed.enable
    {
        window(control, block)?.write8(0, value);
        for _ in 0..MODE_LOOKS {
            if events.mode() == Mode::Acpi {
                break;
            }
            clock::sleep(MODE_PAUSE);
        }
    }
    if events.mode() == Mode::Legacy {
        runtime::log!("the firmware keeps the power events to itself");
    }
    events.start(stale);
    Ok(events)
}

/// The event device's register, as a window of its own.
fn map(control: Handle, address: u64) -> Result<MappedWindow, Error> {
    let page = ipc::layout::PAGE_BYTES;
    let offset = address % page;
    let memory = Memory::device(control, address - offset, page, false)?;
    let mapping = Mapping::whole(&memory, Access::Write)?;
    MappedWindow::new(mapping)
        .and_then(|window| window.part(offset as usize, GENERIC_BYTES))
        .ok_or(Error::InvalidArgument)
}

/// Waits for presses, for ever.
fn wait(
    control: Handle,
    bell: &Notification,
    source: impl Source,
    wiring: Wiring,
    kind: &str,
) -> Result<(), Error> {
    let trigger = Trigger {
        level: wiring.level,
        active_low: wiring.active_low,
    };
    let line = wiring.line;
    let interrupt = Interrupt::line(control, line, bell.handle(), INTERRUPT, trigger)
        .inspect_err(|error| runtime::log!("interrupt line {line}: {error}"))
        .ok();
    match &interrupt {
        Some(_) => runtime::log!("power button: {kind}, interrupt line {line}"),
        None => runtime::log!("power button: {kind}, looked at once a second"),
    }
    let has_interrupt = interrupt.is_some();
    let mut button = Button::new(source, Init { interrupt, line }, has_interrupt);
    loop {
        let deadline = button.deadline().map_or(Deadline::NEVER, |due| {
            Deadline(u64::try_from(due.as_nanos()).unwrap_or(u64::MAX))
        });
        match bell.wait(deadline) {
            Ok(_) => button.interrupted(),
            Err(Error::TimedOut) => button.tick(),
            Err(error) => return Err(error),
        }
    }
}

/// The runtime behind the button's wishes.
struct Init {
    interrupt: Option<Interrupt>,
    line: u32,
}

impl System for Init {
    fn now(&self) -> Duration {
        Duration::from_nanos(clock::now())
    }

    fn shut_down(&mut self) -> Answer {
        runtime::log!("the power button was pressed");
        let client = SupervisorClient::new(Kernel, start::supervisor());
        match client.power(clock::after(PATIENCE), PowerAction::Halt) {
            Ok(()) => Answer::Accepted,
            Err(CallError::Service(error)) => {
                runtime::log!("init does not shut down: {error}");
                Answer::Refused
            }
            Err(error) => {
                runtime::log!("init did not answer: {error}");
                Answer::None
            }
        }
    }

    fn acknowledge(&mut self) {
        if let Some(interrupt) = &self.interrupt {
            // Only an interrupt that was destroyed could refuse it, and this one is not.
            let _ = interrupt.acknowledge();
        }
    }

    fn gave_line_up(&mut self) {
        // Its end masks the line.
        self.interrupt = None;
        runtime::log!(
            "interrupt line {} is held by another device: the power button is looked at once a second",
            self.line
        );
    }
}
