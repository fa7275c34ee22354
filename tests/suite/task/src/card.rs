//! A hostile network stack: it corrupts every word of every ring that it shares with the driver of a
//! card, and every field of a descriptor; the driver ends its session, or counts the descriptor, and
//! serves on. Runs where the manifest gives the suite the driver.

use core::time::Duration;

use ipc::client::{CallError, Deadline, Refusal};
use ipc::interface::net_device::{
    self, Attached, Geometry, NetDeviceClient, NetDeviceError, RING_RECEIVE_FREE, RING_RECEIVED,
    RING_TRANSMIT, RING_TRANSMITTED, RINGS, Statistics,
};
use ipc::ring::{
    Descriptor, FIELDS, PacketConsumer, PacketProducer, RingError, SharedMemory, packet_ring_bytes,
};
use runtime::clock::after;
use runtime::endpoint::Endpoint;
use runtime::mapping::{Mapping, SharedMapping};
use runtime::memory::Memory;
use runtime::notification::Notification;
use runtime::service::{Session, connect_to};
use runtime::transport::Kernel;

use crate::failure::{Failure, Outcome, ensure, ensure_equal};
use crate::streams::{LIES, write};
use crate::suite::Suite;
use crate::{Context, Test, is_given};

/// The services whose rings are corrupted here: the one of these that the manifest gives.
pub(crate) const SERVICES: [&str; 2] = ["virtio-net", "e1000"];

pub(crate) const TESTS: &[Test] = &[
    ("corrupted_packet_ring_costs_its_session", rings),
    ("corrupted_descriptors_are_counted", descriptors),
];

/// Entries of each ring; as many buffers to receive into, and one to send from.
const ENTRIES: u32 = 16;
/// Bytes of one buffer.
const BUFFER: u32 = 2048;
/// Bytes before each packet that are the driver's.
const HEADROOM: u32 = 64;
/// The buffer to send from.
const SENDING: u32 = ENTRIES * BUFFER;
/// How long the driver may take for an answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Bytes of an ARP packet in its Ethernet frame (RFC 826).
const ARP_BYTES: usize = 42;
/// The address that QEMU's network answers for.
const GATEWAY: [u8; 4] = [10, 0, 2, 2];
/// The address that is asked from: QEMU's first for a guest.
const OWN: [u8; 4] = [10, 0, 2, 15];

/// A session with the driver, attached.
struct Stack {
    session: Session,
    card: Attached,
    doorbell: Notification,
    bell: Notification,
    _lifeline: Endpoint,
    pool: SharedMapping,
    memory: SharedMapping,
    receive_free: PacketProducer<SharedMapping>,
    received: PacketConsumer<SharedMapping>,
    transmit: PacketProducer<SharedMapping>,
    transmitted: PacketConsumer<SharedMapping>,
}

fn patience() -> Deadline {
    after(PATIENCE)
}

fn refused(error: CallError<NetDeviceError>) -> Failure {
    Failure::new(&alloc::format!("the driver refused: {error}"))
}

fn broken(error: RingError) -> Failure {
    Failure::new(&alloc::format!("{error}"))
}

/// Offset of a ring in the memory, in bytes.
fn offset(ring: usize) -> usize {
    ring * packet_ring_bytes(ENTRIES)
}

impl Stack {
    /// Attaches, and gives the driver every buffer to receive into.
    fn attach() -> Outcome<Stack> {
        let given = SERVICES.into_iter().find(|service| is_given(service));
        let service = given.ok_or_else(|| Failure::new("the manifest gives no driver"))?;
        let session = connect_to(service, net_device::NUMBER, patience())
            .map_err(|error| Failure::new(&alloc::format!("no session: {error}")))?;
        let pool = Memory::create_contiguous(u64::from((ENTRIES + 1) * BUFFER))?;
        let memory = Memory::create((RINGS * packet_ring_bytes(ENTRIES)) as u64)?;
        let (bell, lifeline) = (Notification::create()?, Endpoint::create()?);
        let geometry = Geometry {
            pool_bytes: u64::from((ENTRIES + 1) * BUFFER),
            ring_entries: ENTRIES,
            receive_buffers: ENTRIES,
            buffer_bytes: BUFFER,
            headroom_bytes: HEADROOM,
            features: 0,
        };
        let stub = NetDeviceClient::new(Kernel, session.handle());
        let (card, doorbell) = loop {
            let line = lifeline.mint(1)?;
            let attached = stub.attach(
                patience(),
                geometry,
                1,
                pool.handle(),
                memory.handle(),
                bell.handle(),
                line.handle(),
            );
            // The session before this one was closed, of which the driver hears in time.
            match attached {
                Err(CallError::Service(NetDeviceError::Busy)) => runtime::thread::yield_now(),
                attached => break attached.map_err(refused)?,
            }
        };
        let pool = Mapping::shared(&pool)?;
        let memory = Mapping::shared(&memory)?;
        let producer =
            |ring| PacketProducer::new(memory.clone(), offset(ring), ENTRIES).map_err(broken);
        let consumer =
            |ring| PacketConsumer::new(memory.clone(), offset(ring), ENTRIES).map_err(broken);
        let mut stack = Stack {
            session,
            card,
            doorbell: Notification::from_handle(doorbell),
            bell,
            _lifeline: lifeline,
            pool,
            receive_free: producer(RING_RECEIVE_FREE)?,
            received: consumer(RING_RECEIVED)?,
            transmit: producer(RING_TRANSMIT)?,
            transmitted: consumer(RING_TRANSMITTED)?,
            memory,
        };
        for buffer in 0..ENTRIES / 2 {
            stack.offer(buffer * BUFFER)?;
        }
        Ok(stack)
    }

    fn stub(&self) -> NetDeviceClient<Kernel> {
        NetDeviceClient::new(Kernel, self.session.handle())
    }

    /// Gives the driver the buffer that begins here to receive into.
    fn offer(&mut self, buffer: u32) -> Outcome {
        let descriptor = Descriptor {
            offset: buffer + HEADROOM,
            length: BUFFER - HEADROOM,
            flags: 0,
        };
        let taken = self.receive_free.push(descriptor);
        ensure_equal!(taken, Ok(true), "a buffer to receive into");
        Ok(())
    }

    fn ring(&self) -> Outcome {
        self.doorbell
            .signal(self.card.doorbell_bits)
            .map_err(Failure::from)
    }

    /// Puts the question who has [`GATEWAY`] on its way.
    fn ask(&mut self) -> Outcome {
        let mut frame = [0; ARP_BYTES];
        let parts: [&[u8]; 7] = [
            &[0xff; 6],
            &self.card.mac,
            // ARP for IPv4 on Ethernet, a request.
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            &self.card.mac,
            &OWN,
            &[0; 6],
            &GATEWAY,
        ];
        for (to, from) in frame.iter_mut().zip(parts.iter().copied().flatten()) {
            *to = *from;
        }
        let start = SENDING + HEADROOM;
        ensure!(
            self.pool.write(start as usize, &frame).is_some(),
            "the pool is too small"
        );
        let descriptor = Descriptor {
            offset: start,
            length: ARP_BYTES as u32,
            flags: 0,
        };
        let taken = self.transmit.push(descriptor);
        ensure_equal!(taken, Ok(true), "a packet to send");
        Ok(())
    }

    /// Waits for the answer of [`GATEWAY`], and for the buffer that the question was in.
    fn answered(&mut self) -> Outcome {
        let (mut answer, mut back) = (false, false);
        while !(answer && back) {
            while let Some(descriptor) = self.received.pop().map_err(broken)? {
                let mut frame = [0; ARP_BYTES];
                let read = self.pool.read(descriptor.offset as usize, &mut frame);
                ensure!(read.is_some(), "{descriptor:?} is out of the pool");
                // An ARP answer, and whose address it tells.
                answer |= frame.get(12..14) == Some(&[8, 6])
                    && frame.get(20..22) == Some(&[0, 2])
                    && frame.get(28..32) == Some(&GATEWAY);
                self.offer(descriptor.offset / BUFFER * BUFFER)?;
            }
            while let Some(descriptor) = self.transmitted.pop().map_err(broken)? {
                back |= descriptor.offset / BUFFER == SENDING / BUFFER;
            }
            let asleep = self.received.sleep(1).map_err(broken)?
                && self.transmitted.sleep(1).map_err(broken)?;
            if !(answer && back) && asleep {
                self.bell.wait(patience())?;
            }
            self.received.wake().map_err(broken)?;
            self.transmitted.wake().map_err(broken)?;
        }
        Ok(())
    }

    /// Whether the session has ended.
    fn is_ended(&self) -> Outcome<bool> {
        match self.stub().link(patience()) {
            Ok(_) => Ok(false),
            Err(CallError::Refused(Refusal::UnknownSession)) => Ok(true),
            Err(error) => Err(refused(error)),
        }
    }

    fn statistics(&self) -> Outcome<Statistics> {
        self.stub().statistics(patience()).map_err(refused)
    }
}

/// The driver serves a network stack that keeps to the rules.
fn serves() -> Outcome {
    let mut stack = Stack::attach()?;
    stack.ask()?;
    stack.ring()?;
    stack.answered()?;
    stack.stub().detach(patience()).map_err(refused)
}

/// Whether a word of a ring that the driver looks at cannot have this value: no more than all entries
/// were put in or taken out, and no packet ring is closed.
fn is_impossible(ring: usize, field: &str, lie: u32) -> bool {
    match (ring, field) {
        (RING_RECEIVE_FREE | RING_TRANSMIT, "put") => lie > ENTRIES,
        (RING_RECEIVE_FREE | RING_TRANSMIT, "producer_closed") => lie != 0,
        (RING_RECEIVED | RING_TRANSMITTED, "taken") => lie > ENTRIES,
        _ => false,
    }
}

/// Each word of each ring gets each lie while a packet goes out and its answer comes in. Where the
/// count cannot be, the session ends; anywhere else the driver answers. The next session works.
fn rings(context: &Context) -> Outcome {
    serves()?;
    for ring in 0..RINGS {
        for field in FIELDS {
            for lie in LIES {
                let mut stack = Stack::attach()?;
                stack.ask()?;
                let word = offset(ring) / size_of::<u32>() + field.word;
                write(&stack.memory, word, lie)?;
                stack.ring()?;
                let ended = ends(&context.suite, &stack, is_impossible(ring, field.name, lie))?;
                ensure!(
                    ended || !is_impossible(ring, field.name, lie),
                    "ring {ring}: {} = {lie:#x} was not noticed",
                    field.name
                );
            }
            serves()?;
        }
    }
    Ok(())
}

/// Whether the session ends; waits for it where it must.
fn ends(suite: &Suite, stack: &Stack, must: bool) -> Outcome<bool> {
    let end = suite.after(if must { PATIENCE.as_millis() as u64 } else { 2 });
    loop {
        if stack.is_ended()? {
            return Ok(true);
        }
        if suite.now() > end {
            return Ok(false);
        }
        suite.sleep(1);
    }
}

/// Descriptors out of the pool are counted and not used, and the session goes on.
fn descriptors(context: &Context) -> Outcome {
    let suite = &context.suite;
    let mut stack = Stack::attach()?;
    let good = Descriptor {
        offset: SENDING + HEADROOM,
        length: ARP_BYTES as u32,
        flags: 0,
    };
    let beyond = [SENDING + BUFFER, 0x7fff_ffff, 0x8000_0000, u32::MAX];
    for lie in beyond {
        let (offset, length) = (
            Descriptor {
                offset: lie,
                ..good
            },
            Descriptor {
                length: lie,
                ..good
            },
        );
        // Nothing was asked for of what flags can ask for.
        let flags = Descriptor { flags: lie, ..good };
        // The length of a buffer to receive into is the driver's to know.
        for (to_send, bad) in [
            (true, offset),
            (true, length),
            (true, flags),
            (false, offset),
        ] {
            let before = stack.statistics()?.refused_descriptors;
            let ring = if to_send {
                &mut stack.transmit
            } else {
                &mut stack.receive_free
            };
            ensure_equal!(ring.push(bad), Ok(true), "a descriptor");
            stack.ring()?;
            let end = suite.after(PATIENCE.as_millis() as u64);
            while stack.statistics()?.refused_descriptors == before {
                ensure!(suite.now() < end, "{bad:?} was not refused");
                suite.sleep(1);
            }
        }
    }
    stack.ask()?;
    stack.ring()?;
    stack.answered()?;
    stack.stub().detach(patience()).map_err(refused)
}
