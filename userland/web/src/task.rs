//! The task: the server on the runtime library, and the way to the network stack. When the network
//! stack's session ends, a new one is made, and the server begins anew.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use ipc::client::{CallError, Refusal};
use ipc::interface::network::{self, NetworkClient, NetworkError, RingPair, Socket};
use ipc::interface::supervisor::SupervisorClient;
use ipc::ring::{PacketConsumer, PacketProducer, packet_ring_bytes};
use ipc::{Deadline, Error};
use runtime::endpoint::{self, Endpoint, Event};
use runtime::entry::Startup;
use runtime::mapping::SharedMapping;
use runtime::net::{Doorbell, NetError, Offers, Pair, Pool};
use runtime::service::{Session, connect_to};
use runtime::{Kernel, Mapping, Memory, Notification, clock, handle, stop};

use crate::connection::Nanoseconds;
use crate::page::Snapshot;
use crate::server::{Lost, Network, RING_BYTES, Server};

/// Port where the arguments name none.
const PORT: u16 = 80;
/// Connections that the network stack keeps until they are accepted.
const BACKLOG: u16 = 64;
/// Entries of the event ring.
const EVENTS: u32 = 256;
/// What the network stack signals on the bell.
const BELL_BIT: u64 = 1;
/// What init signals on it when the system stops.
const STOP_BIT: u64 = 2;
/// The first lifeline's badge.
const LIFELINE: u64 = 1;
/// How long one call may take before the network stack counts as lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause after a failed attempt.
const PAUSE: Duration = Duration::from_millis(200);

/// Serves for ever. Arguments: `port`, 80 where it is not given.
pub fn run(startup: &'static Startup<'static>) {
    let port = startup
        .argument("port")
        .and_then(|port| port.parse().ok())
        .unwrap_or(PORT);
    let made = Notification::create().and_then(|bell| {
        bell.bind()?;
        Ok(Desk {
            bell,
            endpoint: Endpoint::create()?,
            lifeline: LIFELINE,
        })
    });
    let mut desk = match made {
        Ok(desk) => desk,
        Err(error) => {
            runtime::log!("cannot wait for anything: {error}");
            return;
        }
    };
    stop::listen(desk.bell.handle(), STOP_BIT);
    loop {
        match desk.open(port) {
            Ok(mut server) => {
                runtime::log!("serving port {port}");
                desk.serve(&mut server);
                runtime::log!("the network stack is gone");
            }
            Err(error) => {
                runtime::log!("not serving yet: {error}");
                if matches!(desk.bell.wait(clock::after(PAUSE)), Ok(bits) if bits & STOP_BIT != 0) {
                    stop::finished();
                }
            }
        }
    }
}

/// What the task waits at.
struct Desk {
    bell: Notification,
    endpoint: Endpoint,
    lifeline: u64,
}

impl Desk {
    /// Makes a session with the network stack, attaches to it and listens.
    fn open(&mut self, port: u16) -> Result<Server<Site>, CallError<NetworkError>> {
        let session = connect_to("netstack", network::NUMBER, clock::after(PATIENCE))
            .map_err(connect_error)?;
        self.lifeline += 1;
        let one = packet_ring_bytes(EVENTS);
        let memory = Memory::create(2 * one as u64).map_err(kernel)?;
        let shared = Mapping::shared(&memory).map_err(kernel)?;
        let lifeline = endpoint::mint(self.endpoint.handle(), self.lifeline).map_err(kernel)?;
        let client = NetworkClient::new(Kernel, session.handle());
        let attached = client.attach(
            clock::after(PATIENCE),
            EVENTS,
            BELL_BIT,
            memory.handle(),
            self.bell.handle(),
            lifeline,
        );
        // Where it did not move to the network stack it must not stay here.
        handle::close(lifeline);
        let (bits, doorbell) = attached?;
        let doorbell = Notification::from_handle(doorbell);
        let listener = client.listen(clock::after(PATIENCE), port, BACKLOG)?;
        let events =
            PacketConsumer::new(shared.clone(), 0, EVENTS).map_err(|_| CallError::Reply)?;
        let notices = PacketProducer::new(shared, one, EVENTS).map_err(|_| CallError::Reply)?;
        let knock = Rc::new(Doorbell::new(doorbell.handle(), bits, Some(notices)));
        let site = Site {
            pool: Pool::new(session.handle(), knock),
            offers: Offers::new(listener, RING_BYTES),
            session,
            _doorbell: doorbell,
        };
        Ok(Server::new(site, listener, events))
    }

    /// Serves until the network stack is lost.
    fn serve(&mut self, server: &mut Server<Site>) {
        let mut message = vec![0; ipc::message::MAX_BYTES];
        let mut stopping = false;
        while let Ok(deadline) = server.run() {
            if stopping && server.connections() == 0 {
                stop::finished();
            }
            let endpoint = self.endpoint.handle();
            let deadline = Deadline(deadline);
            let event = match server.network().pool.doorbell().take() {
                Some(signal) => endpoint::signal_receive(signal, endpoint, deadline, &mut message),
                None => endpoint::receive(endpoint, deadline, &mut message),
            };
            match event {
                Ok(Event::Closed(badge)) if badge == self.lifeline => return,
                Ok(Event::Signal(bits)) if bits & STOP_BIT != 0 => {
                    stopping = true;
                    server.stop();
                }
                // The network stack has a send right here, and no business with it.
                Ok(Event::Message(stray)) => {
                    for received in stray.handles.remaining() {
                        handle::close(*received);
                    }
                    let _ = endpoint::refuse(Refusal::UnknownOperation);
                }
                Ok(_) | Err(Error::TimedOut) => {}
                Err(_) => return,
            }
        }
    }
}

fn kernel(error: Error) -> CallError<NetworkError> {
    CallError::Transport(error)
}

fn connect_error<E>(error: CallError<E>) -> CallError<NetworkError> {
    match error {
        CallError::Transport(error) => CallError::Transport(error),
        CallError::Request(error) => CallError::Request(error),
        CallError::Refused(refusal) => CallError::Refused(refusal),
        CallError::Reply => CallError::Reply,
        CallError::Service(_) => CallError::Service(NetworkError::NotPermitted),
    }
}

/// A session with the network stack.
struct Site {
    pool: Pool,
    offers: Offers,
    session: Session,
    /// The pool rings it.
    _doorbell: Notification,
}

impl Site {
    fn client(&self) -> NetworkClient<Kernel> {
        NetworkClient::new(Kernel, self.session.handle())
    }
}

/// Whether the network stack does not answer any more; what it or the kernel refuses is borne.
fn is_lost(error: &NetError) -> bool {
    match error {
        NetError::Call(CallError::Service(_)) | NetError::Kernel(_) => false,
        NetError::Call(_) | NetError::Connect(_) | NetError::Ring(_) => true,
    }
}

fn bear(done: Result<(), NetError>) -> Result<(), Lost> {
    match done {
        Err(error) if is_lost(&error) => Err(Lost),
        _ => Ok(()),
    }
}

impl Network for Site {
    type Memory = Pair;
    type Events = SharedMapping;

    fn now(&self) -> Nanoseconds {
        clock::now()
    }

    fn offer(&mut self, most: usize, starved: bool) -> Result<bool, Lost> {
        if starved {
            self.offers.grow(&self.pool);
        }
        // Without memory for another connection those that are open go on, and leave theirs.
        let deadline = clock::after(PATIENCE);
        bear(self.offers.fill(&mut self.pool, deadline, most))?;
        Ok(!self.offers.is_empty())
    }

    fn accepted(&mut self, rings: RingPair) -> Result<Pair, Lost> {
        self.offers.take(rings).ok_or(Lost)
    }

    fn close(&mut self, socket: Socket, memory: Pair) -> Result<(), Lost> {
        bear(self.pool.close(clock::after(PATIENCE), socket, memory))
    }

    fn touch(&mut self, socket: Socket) {
        self.pool.doorbell().touch(socket);
    }

    fn ring(&mut self) {
        self.pool.doorbell().ring();
    }

    fn snapshot(&mut self) -> Snapshot {
        let supervisor = SupervisorClient::new(Kernel, runtime::start::supervisor());
        let deadline = clock::after(PATIENCE);
        let mut tasks = Vec::new();
        while let Ok(list) = supervisor.tasks(deadline, tasks.len() as u16)
            && !list.tasks.is_empty()
        {
            tasks.extend(list.tasks);
        }
        Snapshot {
            system: supervisor.system(deadline).ok(),
            tasks,
            network: self.client().info(deadline).ok(),
            ..Snapshot::default()
        }
    }
}
