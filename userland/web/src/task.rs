//! The task: the server on the runtime library, and the way to the network stack. When the network
//! stack's session ends, a new one is made, and the server begins anew.

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use ipc::client::{CallError, Refusal};
use ipc::interface::network::{self, NetworkClient, NetworkError, Socket, StreamGeometry};
use ipc::interface::supervisor::SupervisorClient;
use ipc::ring::{self, PacketConsumer, StreamPair, packet_ring_bytes, stream_ring_bytes};
use ipc::{Deadline, Error, Handle};
use runtime::endpoint::{self, Endpoint, Event};
use runtime::entry::Startup;
use runtime::net::Rings;
use runtime::service::{Session, connect_to};
use runtime::{Kernel, Notification, clock, handle, stop};

use crate::connection::Nanoseconds;
use crate::page::Snapshot;
use crate::server::{Accept, Lost, MAX_CONNECTIONS, Network, RING_BYTES, Server};

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
/// Rings kept for the next connections.
const SPARE: usize = 16;

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
        let events = Rings::new(2 * packet_ring_bytes(EVENTS)).map_err(kernel)?;
        let lifeline = endpoint::mint(self.endpoint.handle(), self.lifeline).map_err(kernel)?;
        let client = NetworkClient::new(Kernel, session.handle());
        let attached = client.attach(
            clock::after(PATIENCE),
            EVENTS,
            BELL_BIT,
            events.handle(),
            self.bell.handle(),
            lifeline,
        );
        // Where it did not move to the network stack it must not stay here.
        handle::close(lifeline);
        let (bits, doorbell) = attached?;
        let listener = client.listen(clock::after(PATIENCE), port, BACKLOG)?;
        let consumer = PacketConsumer::new(events, 0, EVENTS).map_err(|_| CallError::Reply)?;
        let site = Site {
            session,
            listener,
            doorbell,
            // It does not say which of its few streams it touched.
            bits: bits.all,
            rung: false,
            spare: Vec::new(),
        };
        Ok(Server::new(site, listener, consumer))
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
            let event = match server.network().take_signal() {
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
    session: Session,
    listener: Socket,
    doorbell: Handle,
    bits: u64,
    /// The doorbell is to be rung.
    rung: bool,
    spare: Vec<Rings>,
}

impl Drop for Site {
    fn drop(&mut self) {
        handle::close(self.doorbell);
    }
}

impl Site {
    /// What to signal as the task comes to wait: the network stack sleeps, and is to look.
    fn take_signal(&mut self) -> Option<(Handle, u64)> {
        core::mem::take(&mut self.rung).then_some((self.doorbell, self.bits))
    }

    fn client(&self) -> NetworkClient<Kernel> {
        NetworkClient::new(Kernel, self.session.handle())
    }

    /// Two empty rings: used ones, if there are any.
    fn rings(&mut self) -> Result<Rings, Error> {
        if let Some(rings) = self.spare.pop() {
            let emptied = ring::reset(&rings, 0)
                .and_then(|()| ring::reset(&rings, stream_ring_bytes(RING_BYTES)));
            if emptied.is_ok() {
                return Ok(rings);
            }
        }
        Rings::new(StreamPair::bytes_needed(RING_BYTES))
    }
}

impl Network for Site {
    type Memory = Rings;

    fn now(&self) -> Nanoseconds {
        clock::now()
    }

    fn accept(&mut self) -> Result<Accept<Rings>, Lost> {
        let Ok(rings) = self.rings() else {
            // Without memory for another connection those that are open go on.
            return Ok(Accept::Shortage);
        };
        let geometry = StreamGeometry {
            ring_bytes: RING_BYTES,
        };
        let shared = rings.handle();
        match self
            .client()
            .accept(clock::after(PATIENCE), self.listener, geometry, shared)
        {
            Ok(accepted) => {
                let more = accepted.waiting > 0;
                Ok(Accept::Taken(accepted.socket, rings, more))
            }
            Err(CallError::Service(error)) => {
                self.spare.push(rings);
                Ok(match error {
                    NetworkError::WouldBlock => Accept::Nobody,
                    _ => Accept::Shortage,
                })
            }
            Err(_) => Err(Lost),
        }
    }

    fn close(&mut self, socket: Socket, memory: Rings) -> Result<(), Lost> {
        let closed = self.client().close(clock::after(PATIENCE), socket);
        if self.spare.len() < SPARE.min(MAX_CONNECTIONS) {
            self.spare.push(memory);
        }
        match closed {
            Ok(()) | Err(CallError::Service(_)) => Ok(()),
            Err(_) => Err(Lost),
        }
    }

    fn ring(&mut self) {
        self.rung = true;
    }

    fn idle(&mut self) {
        self.spare.truncate(1);
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
