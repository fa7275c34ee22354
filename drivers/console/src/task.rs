//! The task around the service: takes the chip over from the kernel, and puts the runtime behind the
//! service's wishes.

use alloc::vec::Vec;

use ipc::badge::Client;
use ipc::client::Deadline;
use ipc::interface::console;
use ipc::interface::service::ConnectError;
use ipc::interface::supervisor::SupervisorClient;
use ipc::message::NEVER;
use ipc::server::{Caller, Outcome, Outgoing, Received};
use ipc::startup::names;
use ipc::{Error, Handle, Label};
use registers::hardware::PortWindow;
use runtime::mapping::SharedMapping;
use runtime::ports::{Interrupt, IoPorts};
use runtime::server::{Service, answer, serve};
use runtime::{Kernel, Mapping, Memory, Notification, handle, notification, start, stop};

use crate::service::{Console, Platform};
use crate::uart::{FIRST_PORT, PORTS, Uart};

/// The name of the public endpoint, and of the grants that the manifest may give for it.
const SERVICE: &str = "console";
/// The chip's ports and its I/O APIC input, as the startup block names them: COM1 of a PC (IBM PC
/// Technical Reference, "Asynchronous Communications Adapter").
const PORT_NAME: &str = "3f8";
/// See [`PORT_NAME`].
const INPUT_NAME: &str = "4";
/// Bit of the notification that the chip's interrupt sets: it is the manifest's first and only one.
const INTERRUPT: u64 = 1 << 0;
/// Bit of the clients' doorbell.
const DOORBELL: u64 = 1 << 1;
/// Bit that init signals when there is something new in the log.
const LOG_NEWS: u64 = 1 << 2;
/// Bit that init signals when the system stops.
const STOP: u64 = 1 << 3;
/// Rate of the line in bits a second, where the manifest's argument `rate` says nothing.
const RATE: u32 = 115_200;

/// The program: serves the first serial interface.
pub fn run(startup: &'static runtime::entry::Startup<'static>) {
    let rate = startup
        .argument("rate")
        .and_then(|value| value.parse().ok());
    if let Err(error) = set_up(startup, rate.unwrap_or(RATE)) {
        runtime::log!("cannot serve the console: {error}");
    }
}

fn set_up(startup: &'static runtime::entry::Startup<'static>, rate: u32) -> Result<(), Error> {
    let public = start::serves(SERVICE).ok_or(Error::InvalidHandle)?;
    let ports = startup
        .handle_of(names::PORTS, PORT_NAME)
        .ok_or(Error::InvalidHandle)?;
    let interrupt = startup
        .handle_of(names::INTERRUPT, INPUT_NAME)
        .ok_or(Error::InvalidHandle)?;
    let signals = startup
        .handle(names::INTERRUPTS)
        .ok_or(Error::InvalidHandle)?;
    let signals = Notification::from_handle(signals);
    let ports = PortWindow::attach(IoPorts::from_handle(ports), FIRST_PORT, PORTS)?;
    // Before the chip is set up: from here on only this task writes to it.
    let log = show_log(&signals);
    stop::listen(signals.handle(), STOP);
    let doorbell = signals.duplicate(ipc::Rights::ALL)?.into_handle();
    let system = System { doorbell, log };
    let console = Console::new(Uart::start(ports, rate), system);
    let mut server = Server {
        console,
        interrupt: Interrupt::from_handle(interrupt),
    };
    let priority = runtime::task::info(start::own_task())?.priority as u8;
    Err(serve(public, Some(&signals), priority, &mut server))
}

/// Takes over from init to show the log; the position from which on. Without init's leave the log
/// stays where it was.
fn show_log(signals: &Notification) -> Option<u64> {
    let client = SupervisorClient::new(Kernel, start::supervisor());
    let position = client.show_log(Deadline::NEVER, LOG_NEWS, signals.handle());
    position
        .inspect_err(|error| runtime::log!("init shows the log itself: {error}"))
        .ok()
}

/// The service as the server loop sees it.
struct Server {
    console: Console<PortWindow, System>,
    interrupt: Interrupt,
}

impl Service for Server {
    const INTERFACE: u16 = console::NUMBER;

    fn connect(&mut self, session: u64, client: Client) -> Result<(), ConnectError> {
        self.console
            .opened(session, client.may(console::GRANT_READ));
        Ok(())
    }

    fn dispatch(
        &mut self,
        caller: &mut Caller<'_>,
        label: Label,
        request: &[u8],
        received: &mut Received,
        outgoing: &mut Outgoing<'_>,
    ) -> Outcome {
        console::dispatch(
            &mut self.console,
            caller,
            label,
            request,
            received,
            outgoing,
        )
    }

    fn closed(&mut self, session: u64) {
        self.console.closed(session);
    }

    fn signal(&mut self, bits: u64) {
        if bits & INTERRUPT != 0 {
            // Before the chip is looked at, so that an edge in between is not lost. An input that
            // is edge-triggered needs none of this, and minds none.
            let _ = self.interrupt.acknowledge();
        }
        if bits & LOG_NEWS != 0 {
            self.console.log_has_news();
        }
        if bits & STOP != 0 {
            self.console.stop();
        }
    }

    fn before_wait(&mut self) -> Deadline {
        let again = self.console.run();
        if let Some((deferred, typed)) = self.console.answer() {
            // A reader that is gone by now loses what it asked for.
            let _ = answer(deferred, Ok(typed));
        }
        if self.console.has_finished() {
            stop::finished();
        }
        if again { Deadline(0) } else { Deadline(NEVER) }
    }
}

/// The runtime behind the service's wishes.
struct System {
    doorbell: Handle,
    /// Position in the joined log from which on to read.
    log: Option<u64>,
}

impl Platform for System {
    type Memory = SharedMapping;

    fn map(&mut self, memory: Handle) -> Result<SharedMapping, Error> {
        let memory = Memory::from_handle(memory);
        let mapped = Mapping::shared(&memory);
        // The service closes the handle.
        let _ = memory.into_handle();
        mapped
    }

    fn signal(&mut self, bell: Handle, bits: u64) {
        // A client that is gone hears nothing; its session is about to end.
        let _ = notification::signal(bell, bits);
    }

    fn doorbell(&self) -> (Handle, u64) {
        (self.doorbell, DOORBELL)
    }

    fn read_log(&mut self) -> Vec<u8> {
        let client = SupervisorClient::new(Kernel, start::supervisor());
        let piece = self
            .log
            .and_then(|from| client.log(Deadline::NEVER, from).ok());
        let Some(piece) = piece else {
            return Vec::new();
        };
        self.log = Some(piece.position + piece.bytes.len() as u64);
        piece.bytes.to_vec()
    }

    fn close(&mut self, handle: Handle) {
        handle::close(handle);
    }
}
