//! The task: the server on the runtime library.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::cell::Cell;
use core::time::Duration;

use ipc::badge::Client;
use ipc::client::CallError;
use ipc::interface::net_device::{self, Link, NetDeviceClient, NetDeviceError};
use ipc::interface::network;
use ipc::interface::service::ConnectError;
use ipc::server::{Caller, Outcome, Outgoing, Received};
use ipc::{Deadline, Error, Handle, Label};
use runtime::entry::Startup;
use runtime::mapping::SharedMapping;
use runtime::server::{Service, serve};
use runtime::service::connect;
use runtime::{Kernel, Mapping, Memory, Notification, clock, endpoint, handle, notification, stop};
use x86_64::instructions::random::RdRand;

use crate::config::Config;
use crate::packets::{Packets, Shape};
use crate::server::{Attachment, Refusal, STOP_BIT, Server, System};
use crate::stack::{Card, Stack};
use crate::time::Nanoseconds;
use crate::wire::Offloads;

/// Buffers each way where the arguments say nothing. 256 hold 0.3 ms of a 10 Gbit/s line.
const BUFFERS: u32 = 256;
/// Fewest buffers that are tried.
const LEAST_BUFFERS: u32 = 16;
/// Packet size that buffers are made for.
const MTU: usize = 1500;
/// Bytes of a buffer to receive into where there is much memory, so that a joined packet takes few.
const LARGE_BUFFER: u32 = 8 * 1024;
/// Bytes of heap that are much memory: all that the manifest gives, or nearly.
const MUCH: usize = 64 * 1024 * 1024;
/// How long the search for a driver may keep clients waiting.
const CONNECT_PATIENCE: Duration = Duration::from_millis(100);
/// How long a driver may take to start its card.
const ATTACH_PATIENCE: Duration = Duration::from_secs(2);
/// The drivers where the arguments name none.
const DRIVERS: &str = "virtio-net";
/// How long a driver may take to say how its cable is, and which cards there are.
const LINK_PATIENCE: Duration = Duration::from_millis(20);

/// Serves until the kernel refuses to go on. Arguments: see [`crate::config`], and
///
/// | argument | meaning |
/// |---|---|
/// | `device=virtio-net e1000` | the drivers, as the manifest names them: the first that has a card is used |
/// | `packets=256` | packet buffers each way, a power of two from 16 to 2,048 |
pub fn run(startup: &'static Startup<'static>) {
    let config = configure(startup);
    let Some(public) = runtime::start::serves("netstack") else {
        runtime::log!("the manifest gives no endpoint to serve");
        return;
    };
    let service = match NetworkService::new(startup, &config) {
        Ok(service) => service,
        Err(error) => {
            runtime::log!("no memory for the packets: {error}");
            return;
        }
    };
    let mut service = Box::new(service);
    let bell = service.bell();
    stop::listen(bell.handle(), STOP_BIT);
    let priority = runtime::task::info(runtime::start::own_task()).map_or(0, |info| info.priority);
    let priority = u8::try_from(priority).unwrap_or(0);
    let error = serve(public, Some(&bell), priority, &mut *service);
    runtime::log!("stopped serving: {error}");
}

fn configure(startup: &Startup<'_>) -> Config {
    let heap = usize::try_from(startup.heap.bytes).unwrap_or(usize::MAX);
    let mut config = Config::for_heap(heap);
    for argument in &startup.arguments {
        let own = matches!(argument.name, "device" | "packets");
        if !own && let Err(mend) = config.set(argument.name, argument.value) {
            runtime::log!("argument {}={}: {mend}", argument.name, argument.value);
        }
    }
    config
}

/// Packet buffers each way.
fn buffers(startup: &Startup<'_>) -> u32 {
    let Some(value) = startup.argument("packets") else {
        return BUFFERS;
    };
    let good =
        |buffers: &u32| buffers.is_power_of_two() && (LEAST_BUFFERS..=2048).contains(buffers);
    let buffers = value.parse().ok().filter(good);
    buffers.unwrap_or_else(|| {
        runtime::log!("argument packets={value}: use a power of two from 16 to 2048");
        BUFFERS
    })
}

/// The packet pool, with smaller and then half as many buffers as long as the memory for them is not there:
/// large packets on a small machine are served slowly rather than not at all.
fn make_pool(mut buffers: u32, mtu: usize, heap: usize) -> Result<(Shape, Memory), Error> {
    let large = Shape::new(buffers, mtu).with_buffers_of(LARGE_BUFFER);
    if heap >= MUCH
        && let Ok(pool) = Memory::create_contiguous(large.pool_bytes() as u64)
    {
        return Ok((large, pool));
    }
    loop {
        let shape = Shape::new(buffers, mtu);
        match Memory::create_contiguous(shape.pool_bytes() as u64) {
            Ok(pool) => return Ok((shape, pool)),
            Err(error) if buffers <= LEAST_BUFFERS => return Err(error),
            Err(_) => buffers /= 2,
        }
    }
}

/// A driver that the manifest lets this task use.
struct Candidate {
    name: &'static str,
    /// Its public endpoint.
    public: Handle,
    /// Whether it was said that it does not attach, which is said once.
    refused: Cell<bool>,
}

/// The drivers that the arguments name, in their order.
fn candidates(startup: &'static Startup<'static>) -> Vec<Candidate> {
    let names = startup.argument("device").unwrap_or(DRIVERS);
    let candidate = |name| match startup.handle(name) {
        Some(public) => Some(Candidate {
            name,
            public,
            refused: Cell::new(false),
        }),
        None => {
            runtime::log!(
                "argument device: {name} is no driver here; name it in `uses` of the manifest"
            );
            None
        }
    };
    names
        .split([' ', ','])
        .filter(|name| !name.is_empty())
        .filter_map(candidate)
        .collect()
}

/// The kernel's objects and the drivers.
struct Surroundings {
    bell: Handle,
    drivers: Vec<Candidate>,
    pool: Memory,
    rings: Memory,
    /// The endpoint that lifelines come from; told when the service begins.
    sessions: Cell<Handle>,
}

impl Candidate {
    /// What its refusal to attach means; one that is no news by itself is said, once.
    fn refusal(&self, error: CallError<NetDeviceError>) -> Refusal {
        let refusal = match error {
            CallError::Service(NetDeviceError::NoCard) => return Refusal::NoCard,
            CallError::Service(NetDeviceError::DeviceFailed) => Refusal::NoCard,
            _ => Refusal::NotYet,
        };
        if !self.refused.replace(true) {
            runtime::log!("no network by {} for now: {error}", self.name);
        }
        refusal
    }
}

impl System for Surroundings {
    type Memory = SharedMapping;

    fn now(&self) -> Nanoseconds {
        clock::now()
    }

    fn map(&self, memory: Handle, bytes: usize) -> Result<SharedMapping, Error> {
        // The mapping keeps the frames; the handle is closed at the end of this function.
        let memory = Memory::from_handle(memory);
        let large_enough = memory.info()?.bytes >= bytes as u64;
        if !large_enough {
            return Err(Error::InvalidArgument);
        }
        Mapping::shared(&memory)
    }

    fn bell(&self) -> Handle {
        self.bell
    }

    fn signal(&self, to: Handle, bits: u64) {
        // A notification that is gone had an owner that is gone; the closed badge tells of that.
        let _ = notification::signal(to, bits);
    }

    fn close(&self, closed: Handle) {
        handle::close(closed);
    }

    fn reply(&self, to: Handle, outgoing: &Outgoing<'_>) {
        if endpoint::reply(to, outgoing).is_err() {
            handle::close(to);
        }
    }

    fn drivers(&self) -> usize {
        self.drivers.len()
    }

    fn driver_name(&self, driver: usize) -> &str {
        self.drivers.get(driver).map_or("", |driver| driver.name)
    }

    fn attach(
        &self,
        driver: usize,
        shape: Shape,
        bits: u64,
        lifeline: u64,
    ) -> Result<Attachment, Refusal> {
        let driver = self.drivers.get(driver).ok_or(Refusal::NoCard)?;
        let patience = clock::after(CONNECT_PATIENCE);
        let session = connect(driver.public, net_device::NUMBER, patience);
        let session = session.map_err(|error| match error {
            // Init gave it up, or it is no driver: it will never be there.
            CallError::Transport(Error::Closed) | CallError::Service(_) => Refusal::NoCard,
            _ => Refusal::NotYet,
        })?;
        let lifeline = endpoint::mint(self.sessions.get(), lifeline);
        let lifeline = lifeline.map_err(|_| Refusal::NotYet)?;
        let client = NetDeviceClient::new(Kernel, session.handle());
        let attached = client.attach(
            clock::after(ATTACH_PATIENCE),
            shape.geometry(),
            bits,
            self.pool.handle(),
            self.rings.handle(),
            self.bell,
            lifeline,
        );
        // Where it did not move to the driver it must not stay here.
        handle::close(lifeline);
        let (card, doorbell) = attached.map_err(|error| driver.refusal(error))?;
        driver.refused.set(false);
        Ok(Attachment {
            card: Card {
                mac: card.mac,
                mtu: usize::from(card.mtu),
                offloads: shape.offloads(card.features),
            },
            session: session.into_handle(),
            doorbell,
            bits: card.doorbell_bits,
        })
    }

    fn cards(&self, driver: usize) -> Option<u16> {
        let public = self.drivers.get(driver)?.public;
        let patience = clock::after(CONNECT_PATIENCE);
        match connect(public, net_device::NUMBER, patience) {
            Ok(session) => {
                let client = NetDeviceClient::new(Kernel, session.handle());
                client.cards(clock::after(LINK_PATIENCE)).ok()
            }
            Err(CallError::Transport(Error::Closed) | CallError::Service(_)) => Some(0),
            Err(_) => None,
        }
    }

    fn link_up(&self, session: Handle) -> bool {
        let client = NetDeviceClient::new(Kernel, session);
        client.link(clock::after(LINK_PATIENCE)) == Ok(Link::Up)
    }

    fn log(&self, line: core::fmt::Arguments<'_>) {
        runtime::log!("{line}");
    }
}

/// The server as the runtime's loop drives it.
struct NetworkService {
    server: Server<Surroundings>,
    bell: Notification,
}

impl NetworkService {
    fn new(startup: &'static Startup<'static>, config: &Config) -> Result<NetworkService, Error> {
        let bell = Notification::create()?;
        let drivers = candidates(startup);
        let mtu = config.mtu.unwrap_or(MTU).max(MTU);
        let heap = usize::try_from(startup.heap.bytes).unwrap_or(usize::MAX);
        let (shape, pool) = make_pool(buffers(startup), mtu, heap)?;
        let rings = Memory::create(shape.ring_bytes() as u64)?;
        let (shared_pool, shared_rings) = (Mapping::shared(&pool)?, Mapping::shared(&rings)?);
        let packets =
            Packets::new(shape, shared_pool, shared_rings).map_err(|_| Error::InvalidArgument)?;
        let now = clock::now();
        // Until a driver tells its own, any address will do: nothing is sent.
        let stack = Stack::new(
            config,
            Card {
                mac: [2, 0, 0, 0, 0, 1],
                mtu: MTU,
                offloads: Offloads::default(),
            },
            now,
            seed(now),
        );
        let surroundings = Surroundings {
            bell: bell.handle(),
            drivers,
            pool,
            rings,
            sessions: Cell::new(Handle::NONE),
        };
        let server = Server::new(surroundings, config, packets, stack, now);
        Ok(NetworkService { server, bell })
    }

    /// The notification to bind; its handle is the service's.
    fn bell(&mut self) -> Notification {
        core::mem::replace(&mut self.bell, Notification::from_handle(Handle::NONE))
    }
}

impl Service for NetworkService {
    const INTERFACE: u16 = network::NUMBER;

    fn started(&mut self, sessions: Handle) {
        self.server.system().sessions.set(sessions);
    }

    fn connect(&mut self, session: u64, client: Client) -> Result<(), ConnectError> {
        let open = self.server.open_session(session, client);
        open.then_some(()).ok_or(ConnectError::Exhausted)
    }

    fn dispatch(
        &mut self,
        caller: &mut Caller<'_>,
        label: Label,
        request: &[u8],
        received: &mut Received,
        outgoing: &mut Outgoing<'_>,
    ) -> Outcome {
        // A client's notices and calls are served in the order in which it gave them.
        self.server.take_notices(caller.badge());
        network::dispatch(&mut self.server, caller, label, request, received, outgoing)
    }

    fn closed(&mut self, session: u64) {
        self.server.badge_closed(session);
    }

    fn signal(&mut self, bits: u64) {
        self.server.signalled(bits);
    }

    fn before_wait(&mut self) -> Deadline {
        let deadline = self.server.run();
        if self.server.has_stopped() {
            stop::finished();
            // It was a client's signal, not init's.
            self.server.go_on();
        }
        Deadline(deadline)
    }

    fn last_signal(&mut self) -> Option<(Handle, u64)> {
        self.server.take_doorbell()
    }
}

/// A seed that differs from boot to boot: the processor's random numbers where it has them (RDRAND), and the
/// two clocks, well mixed (the finaliser of splitmix64). Without the first it is as hard to guess as the boot
/// time in nanoseconds, no harder; README's caveats say so.
fn seed(now: Nanoseconds) -> u64 {
    // One that has none ready after several tries is broken (Intel's manual, volume 1, section 7.3.17.1).
    let random = RdRand::new().and_then(|random| (0..10).find_map(|_| random.get_u64()));
    let mut mixed = now ^ clock::wall().unwrap_or(0).rotate_left(32) ^ random.unwrap_or(0);
    for multiplier in [0xbf58_476d_1ce4_e5b9, 0x94d0_49bb_1331_11eb] {
        mixed = (mixed ^ mixed >> 30).wrapping_mul(multiplier);
    }
    mixed ^ mixed >> 31
}
