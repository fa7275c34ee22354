//! The task around the service: the server loop, and the runtime behind the service's wishes.

use ipc::badge::Client;
use ipc::client::Deadline;
use ipc::interface::net_device;
use ipc::interface::service::ConnectError;
use ipc::message::NEVER;
use ipc::server::{Caller, Outcome, Outgoing, Received};
use ipc::{Error, Handle, Label};
use pci_function::{Area, Attached, Function, InterruptMode};
use runtime::mapping::SharedMapping;
use runtime::server::{Service, serve};
use runtime::{Mapping, Memory, Notification, clock, handle, notification, start};

use crate::device::{Device, Interrupt};
use crate::server::{NetServer, Platform};

/// Bits of the driver's notification for its device's interrupts, as [`Function::claim`] takes them: the
/// first for the configuration, or for all where there is but one, the others for the queues.
pub const INTERRUPTS: [u64; 3] = [1 << 0, 1 << 1, 1 << 2];
/// All of them.
const ANY_INTERRUPT: u64 = INTERRUPTS[0] | INTERRUPTS[1] | INTERRUPTS[2];
/// Bit of the network stack's doorbell.
const DOORBELL: u64 = 1 << 3;
/// How long a sent packet stays with the device when nothing else happens: at least this, at most twice
/// as long, in nanoseconds.
const RECLAIM: u64 = 10_000_000;

/// Serves a card under this name until the kernel or pci fails it, and returns the error. Without a card
/// every attachment is refused, so that whoever looks for one knows. `notification` is what the
/// device's interrupts were bound to.
pub fn serve_card<D: Device>(
    service: &str,
    notification: Notification,
    card: Option<(Function, D::Idle)>,
) -> Error {
    match set_up::<D>(service, notification, card) {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

fn set_up<D: Device>(
    service: &str,
    notification: Notification,
    card: Option<(Function, D::Idle)>,
) -> Result<core::convert::Infallible, Error> {
    let public = start::serves(service).ok_or(Error::InvalidHandle)?;
    let doorbell = notification.duplicate(ipc::Rights::ALL)?.into_handle();
    let (function, idle) = card.unzip();
    let mode = function
        .as_ref()
        .map_or(InterruptMode::Line, Function::interrupts);
    let cards = function.as_ref().map_or(0, Function::alike);
    let system = System {
        function,
        doorbell,
        pool: None,
    };
    let mut server = Server {
        net: NetServer::<D, System>::new(system, idle, cards),
        mode,
        unacknowledged: false,
    };
    let priority = runtime::task::info(start::own_task())?.priority as u8;
    Err(serve(public, Some(&notification), priority, &mut server))
}

/// The service as the server loop sees it.
struct Server<D: Device> {
    net: NetServer<D, System>,
    mode: InterruptMode,
    /// The line came, and was not let come again.
    unacknowledged: bool,
}

impl<D: Device> Service for Server<D> {
    const INTERFACE: u16 = net_device::NUMBER;

    fn connect(&mut self, _session: u64, _client: Client) -> Result<(), ConnectError> {
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
        if self.net.has_ended(caller.badge()) {
            outgoing.refuse(ipc::client::Refusal::UnknownSession);
            return Outcome::Reply;
        }
        net_device::dispatch(&mut self.net, caller, label, request, received, outgoing)
    }

    fn closed(&mut self, session: u64) {
        self.net.closed(session);
    }

    fn signal(&mut self, bits: u64) {
        if bits & ANY_INTERRUPT == 0 {
            return;
        }
        let interrupt = match self.mode {
            InterruptMode::Line => Interrupt::Line,
            InterruptMode::Message { vectors } => Interrupt::Message {
                // A single vector for everything looks the same for packets and configuration.
                configuration: vectors > 1 && bits & INTERRUPTS[0] != 0,
            },
        };
        self.net.interrupted(interrupt);
        self.unacknowledged = true;
    }

    /// Moves packets, and only when there are no more lets the line come again: what arrives meanwhile
    /// is seen without it, and what arrives later keeps it up until then.
    fn before_wait(&mut self) -> Deadline {
        let pump = self.net.run();
        if pump.again {
            return Deadline(0);
        }
        if core::mem::take(&mut self.unacknowledged)
            && let Some(function) = &self.net.platform().function
        {
            function.acknowledge();
        }
        if pump.reclaim {
            // On a grid: as long as it stays the same, the kernel does not set its timer for it.
            Deadline((clock::now() + RECLAIM).next_multiple_of(RECLAIM))
        } else {
            Deadline(NEVER)
        }
    }
}

/// The runtime behind the service's wishes.
struct System {
    /// The device; none on a machine without.
    function: Option<Function>,
    doorbell: Handle,
    pool: Option<Attached>,
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

    fn attach_pool(&mut self, pool: Handle) -> Result<Area, Error> {
        let function = self.function.as_ref().ok_or(Error::Unsupported)?;
        let memory = Memory::from_handle(pool);
        let attached = Attached::new(&function.pci(), &memory);
        let _ = memory.into_handle();
        let attached = attached.map_err(|error| {
            runtime::log!("the packet pool cannot be attached: {error:?}");
            Error::InvalidArgument
        })?;
        let area = attached.area();
        self.pool = Some(attached);
        Ok(area)
    }

    fn detach_pool(&mut self, _pool: Area) {
        if let (Some(attached), Some(function)) = (self.pool.take(), &self.function) {
            attached.detach(&function.pci());
        }
    }

    fn set_bus_master(&mut self, on: bool) -> Result<(), Error> {
        let function = self.function.as_ref().ok_or(Error::Unsupported)?;
        let done = function.pci().set_bus_master(Deadline::NEVER, on);
        done.map_err(|error| {
            runtime::log!("bus mastering cannot be switched: {error}");
            Error::Unsupported
        })
    }

    fn signal(&mut self, bell: Handle, bits: u64) {
        // A client that is gone hears nothing; its session is about to end.
        let _ = notification::signal(bell, bits);
    }

    fn doorbell(&self) -> (Handle, u64) {
        (self.doorbell, DOORBELL)
    }

    fn close(&mut self, handle: Handle) {
        handle::close(handle);
    }

    fn log(&mut self, line: core::fmt::Arguments<'_>) {
        runtime::log!("{line}");
    }
}
