//! The task around the service: claims the card from pci, and puts the runtime behind the service's
//! wishes.

use ipc::badge::Client;
use ipc::client::Deadline;
use ipc::interface::net_device;
use ipc::interface::service::ConnectError;
use ipc::message::NEVER;
use ipc::server::{Caller, Outcome, Outgoing, Received};
use ipc::{Error, Handle, Label};
use runtime::mapping::SharedMapping;
use runtime::server::{Service, serve};
use runtime::{Mapping, Memory, Notification, clock, handle, notification, start};
use virtio::{
    Area, Attached, Function, FunctionTransport, InterruptBits, InterruptMode, SetupError,
};
use virtio_drivers::transport::DeviceType;

use crate::server::{NetServer, Platform};

/// The name of the public endpoint.
const SERVICE: &str = "virtio-net";
/// Bits of the notification that the device's interrupts set.
const INTERRUPTS: InterruptBits = [1 << 0, 1 << 1, 1 << 2];
/// All of them.
const ANY_INTERRUPT: u64 = INTERRUPTS[0] | INTERRUPTS[1] | INTERRUPTS[2];
/// Bit of the network stack's doorbell.
const DOORBELL: u64 = 1 << 3;
/// How long a sent buffer stays with the device at most when nothing else happens.
const RECLAIM: core::time::Duration = core::time::Duration::from_millis(10);
/// Transitional number of network devices (VIRTIO 1.2, section 4.1.2.3).
const TRANSITIONAL: u16 = 0;

/// The program: serves the first free virtio network device. Ends, to be started again, when its
/// device or pci fails it.
pub fn run(_startup: &'static runtime::entry::Startup<'static>) {
    let ended = match Notification::create() {
        Ok(notification) => set_up(notification),
        Err(error) => Err(error.into()),
    };
    if let Err(error) = ended {
        runtime::log!("cannot drive the card: {error:?}");
    }
}

fn set_up(notification: Notification) -> Result<(), SetupError> {
    let public = start::serves(SERVICE).ok_or(Error::InvalidHandle)?;
    match Function::claim(DeviceType::Network, TRANSITIONAL, &notification, INTERRUPTS)? {
        Some((function, transport)) => {
            let (kind, interrupts) = (transport.name(), function.interrupts());
            runtime::log!("{kind} device, interrupts: {interrupts:?}");
            work(public, notification, Some(function), Some(transport))
        }
        None => {
            runtime::log!("no virtio network device: every attach is refused");
            work(public, notification, None, None)
        }
    }
}

fn work(
    public: Handle,
    notification: Notification,
    function: Option<Function>,
    transport: Option<FunctionTransport>,
) -> Result<(), SetupError> {
    let doorbell = notification.duplicate(ipc::Rights::ALL)?.into_handle();
    let mode = function
        .as_ref()
        .map_or(InterruptMode::Line, Function::interrupts);
    let system = System {
        function,
        doorbell,
        pool: None,
    };
    let mut server = Server {
        net: NetServer::new(system, transport),
        mode,
    };
    let priority = runtime::task::info(start::own_task())?.priority as u8;
    let error = serve(public, Some(&notification), priority, &mut server);
    Err(error.into())
}

/// The service as the server loop sees it.
struct Server {
    net: NetServer<FunctionTransport, System>,
    mode: InterruptMode,
}

impl Service for Server {
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
        let line = self.mode == InterruptMode::Line;
        // With a single vector a change of configuration looks like any other interrupt.
        let several = !line && self.mode != InterruptMode::Message { vectors: 1 };
        self.net
            .interrupted(line, several && bits & INTERRUPTS[0] != 0);
        if let Some(function) = &self.net.platform().function {
            function.acknowledge();
        }
    }

    fn before_wait(&mut self) -> Deadline {
        let pump = self.net.run();
        if pump.again {
            Deadline(0)
        } else if pump.reclaim {
            clock::after(RECLAIM)
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
}
