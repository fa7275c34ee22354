//! A hostile application of the network stack: it corrupts every word of every ring that the two
//! share, and loses what was its own by that and nothing else. Runs where the manifest gives the suite
//! the network stack; `suite.peer=ADDRESS:PORT` on the command line names an echo server.

use core::net::SocketAddr;
use core::sync::atomic::Ordering;
use core::time::Duration;

use ipc::Handle;
use ipc::client::CallError;
use ipc::interface::network::{
    self, NetworkClient, NetworkError, Notice, READY_ERROR, READY_RECEIVE, READY_SEND, RingPair,
    Socket, SocketState, StreamGeometry,
};
use ipc::ring::{
    FIELDS, Field, PacketProducer, SharedMemory, StreamConsumer, StreamPair, StreamProducer,
    packet_ring_bytes, stream_ring_bytes,
};
use runtime::clock::after;
use runtime::endpoint::Endpoint;
use runtime::mapping::{Mapping, SharedMapping};
use runtime::memory::Memory;
use runtime::notification::{Notification, signal};
use runtime::service::{Session, connect_to};
use runtime::transport::Kernel;

use crate::failure::{Failure, Outcome, ensure, ensure_equal};
use crate::suite::Suite;
use crate::{Context, Test};

/// The service whose rings are corrupted here.
pub(crate) const SERVICE: &str = "netstack";

pub(crate) const TESTS: &[Test] = &[
    ("corrupted_stream_costs_its_socket", streams),
    ("corrupted_event_ring_costs_its_session", events),
    ("corrupted_notices_cost_their_session", notices),
    ("notices_about_others_have_no_effect", strange_notices),
];

/// What is written into a word instead of what belongs there.
pub(crate) const LIES: [u32; 6] = [0, 1, 0x7fff_ffff, 0x8000_0000, 0xdead_beef, u32::MAX];

/// Capacity of each stream ring, in bytes.
const CAPACITY: u32 = 4096;
/// Entries of the event ring.
const EVENTS: u32 = 16;
/// What is sent to the echo server.
const WORDS: &[u8] = b"quails call before rain";
/// How long the network stack may take for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A session with the network stack whose event ring is there to be corrupted.
struct Client {
    session: Session,
    events: SharedMapping,
    doorbell: Notification,
    bits: u64,
    _bell: Notification,
    _lifeline: Endpoint,
}

impl Client {
    fn open() -> Outcome<Client> {
        let session = connect_to(SERVICE, network::NUMBER, after(PATIENCE))
            .map_err(|error| Failure::new(&alloc::format!("no session: {error}")))?;
        let memory = Memory::create(2 * packet_ring_bytes(EVENTS) as u64)?;
        let events = Mapping::shared(&memory)?;
        let (bell, lifeline) = (Notification::create()?, Endpoint::create()?);
        let line = lifeline.mint(1)?;
        let stub = NetworkClient::new(Kernel, session.handle());
        let handles = (memory.handle(), bell.handle(), line.handle());
        let attached = stub.attach(after(PATIENCE), EVENTS, 1, handles.0, handles.1, handles.2);
        // It has moved; what is left here names nothing.
        drop(line);
        let (bits, doorbell) = attached.map_err(refused)?;
        Ok(Client {
            session,
            events,
            doorbell: Notification::from_handle(doorbell),
            bits: bits.touched | bits.all,
            _bell: bell,
            _lifeline: lifeline,
        })
    }

    fn stub(&self) -> NetworkClient<Kernel> {
        NetworkClient::new(Kernel, self.session.handle())
    }

    /// Tells the network stack that a ring was changed.
    fn ring(&self) -> Outcome {
        signal(self.doorbell.handle(), self.bits).map_err(Failure::from)
    }

    /// Shares a pair of rings.
    fn share(&self) -> Outcome<Pair> {
        let memory = Memory::create(StreamPair::bytes_needed(CAPACITY) as u64)?;
        let mapping = Mapping::shared(&memory)?;
        let geometry = StreamGeometry {
            ring_bytes: CAPACITY,
        };
        let shared = self
            .stub()
            .share(after(PATIENCE), geometry, memory.handle());
        let number = shared.map_err(refused)?;
        Ok(Pair { number, mapping })
    }

    /// Connects to the echo server, with this pair of rings whatever is in it.
    fn connect(&self, peer: SocketAddr, pair: &Pair) -> Outcome<Connection> {
        let connected = self.stub().connect(after(PATIENCE), peer, pair.number);
        let socket = connected.map_err(refused)?;
        let (outgoing, incoming) = StreamPair::maker(pair.mapping.clone(), CAPACITY)
            .map_err(|error| Failure::new(&alloc::format!("{error}")))?;
        Ok(Connection {
            socket,
            outgoing,
            incoming,
        })
    }

    /// Waits until one of these bits holds for a socket, or it has ended.
    fn wait(&self, suite: &Suite, socket: Socket, bits: u32) -> Outcome<network::SocketStatus> {
        let end = suite.after(PATIENCE.as_millis() as u64);
        loop {
            let status = self.stub().status(after(PATIENCE), socket);
            let status = status.map_err(refused)?;
            if status.ready & (bits | READY_ERROR) != 0 || status.state == SocketState::Closed {
                return Ok(status);
            }
            ensure!(suite.now() < end, "the socket stays {status:?}");
            suite.sleep(1);
        }
    }

    /// Connects, sends words and takes them back.
    fn echoes(&self, suite: &Suite, peer: SocketAddr, pair: &Pair) -> Outcome {
        let mut connection = self.connect(peer, pair)?;
        let status = self.wait(suite, connection.socket, READY_SEND)?;
        ensure_equal!(status.error, None, "a good connection");
        connection.send()?;
        self.ring()?;
        let (mut back, mut count) = ([0; WORDS.len()], 0);
        while let Some(rest) = back.get_mut(count..).filter(|rest| !rest.is_empty()) {
            let status = self.wait(suite, connection.socket, READY_RECEIVE)?;
            ensure_equal!(status.error, None, "a good connection");
            count += connection
                .incoming
                .read(rest)
                .map_err(|error| Failure::new(&alloc::format!("{error}")))?;
        }
        ensure_equal!(back.as_slice(), WORDS, "the echo");
        self.close(connection.socket)
    }

    /// Whether the session ends: waits for it where it must, and else for a moment.
    fn ends(&self, suite: &Suite, socket: Socket, must_end: bool) -> Outcome<bool> {
        let patience = if must_end {
            PATIENCE.as_millis() as u64
        } else {
            20
        };
        let end = suite.after(patience);
        loop {
            match self.stub().status(after(PATIENCE), socket) {
                Ok(_) if suite.now() < end => suite.sleep(1),
                Ok(_) => return Ok(false),
                Err(CallError::Service(NetworkError::NotAttached)) => return Ok(true),
                Err(error) => return Err(refused(error)),
            }
        }
    }

    fn close(&self, socket: Socket) -> Outcome {
        self.stub().close(after(PATIENCE), socket).map_err(refused)
    }
}

/// A pair of rings that is shared with the network stack, for one connection after another.
struct Pair {
    number: RingPair,
    mapping: SharedMapping,
}

/// A connection to the echo server.
struct Connection {
    socket: Socket,
    outgoing: StreamProducer<SharedMapping>,
    incoming: StreamConsumer<SharedMapping>,
}

impl Connection {
    fn send(&mut self) -> Outcome {
        let sent = self.outgoing.write(WORDS);
        ensure_equal!(sent, Ok(WORDS.len()), "bytes taken by an empty ring");
        Ok(())
    }
}

fn refused(error: CallError<NetworkError>) -> Failure {
    Failure::new(&alloc::format!("the network stack refused: {error}"))
}

/// The two rings of a stream, as offsets in words, and the count in each that is the client's.
fn rings() -> [(usize, &'static str); 2] {
    [
        (0, "put"),
        (stream_ring_bytes(CAPACITY) / size_of::<u32>(), "taken"),
    ]
}

/// Whether no count of a ring that passed [`WORDS`] can have this value: at most so many bytes were
/// put in, and none beyond them can have been taken.
fn is_impossible(count: &str, field: &Field, lie: u32) -> bool {
    field.name == count
        && match count {
            "put" => lie > CAPACITY,
            _ => lie > WORDS.len() as u32,
        }
}

/// Each word of both rings of a stream gets each lie. Where the count cannot be, the socket ends with
/// RingCorrupted; anywhere else the network stack answers. The next connection has the same rings, and works.
fn streams(context: &Context) -> Outcome {
    let suite = &context.suite;
    let peer = suite.peer()?;
    let client = Client::open()?;
    let pair = client.share()?;
    client.echoes(suite, peer, &pair)?;
    for (offset, own) in rings() {
        for field in FIELDS {
            for lie in LIES {
                lie_in_stream(suite, &client, (peer, &pair), (offset, own), field, lie)?;
            }
            client.echoes(suite, peer, &pair)?;
        }
    }
    let unshared = client.stub().unshare(after(PATIENCE), pair.number);
    unshared.map_err(refused)
}

fn lie_in_stream(
    suite: &Suite,
    client: &Client,
    (peer, pair): (SocketAddr, &Pair),
    (offset, own): (usize, &str),
    field: &Field,
    lie: u32,
) -> Outcome {
    let mut connection = client.connect(peer, pair)?;
    let socket = connection.socket;
    let status = client.wait(suite, socket, READY_SEND)?;
    ensure_equal!(
        status.error,
        None,
        "a connection before its ring is corrupted"
    );
    connection.send()?;
    write(&pair.mapping, offset + field.word, lie)?;
    client.ring()?;
    if is_impossible(own, field, lie) {
        let status = client.wait(suite, socket, READY_ERROR)?;
        ensure_equal!(
            (status.state, status.error),
            (SocketState::Closed, Some(NetworkError::RingCorrupted)),
            "{} = {lie:#x} in the ring at word {offset}",
            field.name
        );
    } else {
        client
            .stub()
            .status(after(PATIENCE), socket)
            .map_err(refused)?;
    }
    client.close(socket)
}

/// Each word of the event ring gets each lie, while events come. Where the count cannot be, the
/// session ends; no lie harms another session.
fn events(context: &Context) -> Outcome {
    let suite = &context.suite;
    let peer = suite.peer()?;
    let bystander = Client::open()?;
    let pair = bystander.share()?;
    for field in FIELDS {
        for lie in LIES {
            lie_in_events(suite, peer, field, lie)?;
        }
        bystander.echoes(suite, peer, &pair)?;
    }
    Ok(())
}

fn lie_in_events(suite: &Suite, peer: SocketAddr, field: &Field, lie: u32) -> Outcome {
    let client = Client::open()?;
    let mut connection = client.connect(peer, &client.share()?)?;
    client.wait(suite, connection.socket, READY_SEND)?;
    // Who sleeps has its count looked at when the next event comes, which is that of the echo: it is waited
    // for in the stream's ring, too.
    let waits = connection.incoming.sleep(1);
    ensure_equal!(waits, Ok(true), "nothing came back yet");
    let wanted = FIELDS.iter().find(|field| field.name == "consumer_wanted");
    for (field, value) in wanted
        .map(|field| (field, 1))
        .into_iter()
        .chain([(field, lie)])
    {
        write(&client.events, field.word, value)?;
    }
    connection.send()?;
    client.ring()?;
    let must_end = field.name == "taken" && lie > EVENTS;
    let ended = client.ends(suite, connection.socket, must_end)?;
    ensure!(
        ended || !must_end,
        "{} = {lie:#x} was not noticed",
        field.name
    );
    Ok(())
}

/// Each word of the ring of notices gets each lie. Where the count cannot be, the session ends; no lie
/// harms another session.
fn notices(context: &Context) -> Outcome {
    let suite = &context.suite;
    let peer = suite.peer()?;
    let bystander = Client::open()?;
    let pair = bystander.share()?;
    let ring = packet_ring_bytes(EVENTS) / size_of::<u32>();
    for field in FIELDS {
        for lie in LIES {
            let client = Client::open()?;
            let connection = client.connect(peer, &client.share()?)?;
            write(&client.events, ring + field.word, lie)?;
            client.ring()?;
            let must_end = field.name == "put" && lie > EVENTS;
            let ended = client.ends(suite, connection.socket, must_end)?;
            // As many notices as the ring holds are taken, whatever is in it: here zeros, which are good.
            ensure_equal!(ended, must_end, "{} = {lie:#x}", field.name);
        }
        bystander.echoes(suite, peer, &pair)?;
    }
    Ok(())
}

/// Notices about sockets and pairs of rings that the session does not have, or has in use, change nothing,
/// for it or for another one.
fn strange_notices(context: &Context) -> Outcome {
    let suite = &context.suite;
    let peer = suite.peer()?;
    let (client, bystander) = (Client::open()?, Client::open()?);
    let (pair, other) = (client.share()?, bystander.share()?);
    let theirs = bystander.connect(peer, &other)?;
    let mut ring = PacketProducer::new(client.events.clone(), packet_ring_bytes(EVENTS), EVENTS)
        .map_err(|error| Failure::new(&alloc::format!("{error}")))?;
    let connection = client.connect(peer, &pair)?;
    let own = connection.socket;
    for number in [0, 2, 99, 0x8000_0000, u32::MAX] {
        let (socket, rings) = (Socket(number), RingPair(number));
        for notice in [
            Notice::Touched(socket),
            Notice::Close(socket),
            Notice::Offer {
                listener: socket,
                rings: pair.number,
            },
            Notice::Offer {
                listener: own,
                rings,
            },
            Notice::Offer {
                listener: own,
                rings: pair.number,
            },
        ] {
            let given = ring.push(notice.into());
            ensure_equal!(given, Ok(true), "an empty ring of notices");
        }
        client.ring()?;
        let status = client.wait(suite, own, READY_SEND)?;
        ensure_equal!(status.error, None, "the own connection");
    }
    client.close(own)?;
    client.echoes(suite, peer, &pair)?;
    let status = bystander.wait(suite, theirs.socket, READY_SEND)?;
    ensure_equal!(status.error, None, "the bystander's connection");
    bystander.close(theirs.socket)?;
    bystander.echoes(suite, peer, &other)
}

/// Writes a word of shared memory.
pub(crate) fn write(memory: &SharedMapping, word: usize, value: u32) -> Outcome {
    match memory.word(word) {
        Some(word) => word.store(value, Ordering::Release),
        None => ensure!(false, "word {word} is beyond the memory"),
    }
    Ok(())
}

/// Whether the manifest gives the suite a service.
pub(crate) fn is_given(service: &str) -> bool {
    runtime::startup()
        .handle(service)
        .is_some_and(|handle| handle != Handle::NONE)
}
