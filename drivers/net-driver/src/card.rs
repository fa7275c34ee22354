//! Packets between the device's queues and the four rings that the network stack shares.
//!
//! How the rings are read here, beyond what the interface declares:
//!
//! - A free buffer is named by any offset in it. The packet goes where `headroom_bytes` end, so that
//!   the device's header fits before it; or, for a device that is not told a buffer's length and counts
//!   on more than is left there, where that header ends at the buffer's start.
//! - A packet that the device received into several buffers is handed on whole or not at all. Of all
//!   but the first the bytes begin where the header of the first lies.
//! - A descriptor to send that is refused comes back as one that was sent, so that the stack does not
//!   lose its memory.
//! - While the stack has received packets to take, and more come, the device does not interrupt: the stack
//!   tells when it has taken all, and the device's queue is looked at then. The more there is to do, the more
//!   is done for each wake; when nothing came meanwhile the device is to interrupt again.
//!
//! The stack's rings and descriptors and the device's answers are all hostile: what does not fit is
//! an error of the party that wrote it, or a counted drop.

use alloc::vec::Vec;
use ipc::interface::net_device::{
    FEATURE_JOINED_RECEIVE, FLAG_CHECKSUM_VERIFIED, FLAG_MORE, Geometry, MAX_PACKET_BYTES,
    Statistics,
};
use ipc::ring::{Descriptor, Pool, RingError, SharedMemory};
use pci_function::Area;

use crate::device::{Device, Direction, Fault, Interrupt, Received};
use crate::ethernet;
use crate::rings::Rings;
use crate::sending::{Refusal, Sending};

/// Largest headroom that the interface allows.
const LARGEST_HEADROOM: u32 = 64;
/// Sizes of a buffer that the interface allows.
const BUFFER_BYTES: core::ops::RangeInclusive<u32> = 2_048..=65_536;
/// Packets moved in one direction before the other gets its turn.
const BATCH: usize = 64;
/// Rounds before the server looks at its calls.
const MOST_ROUNDS: usize = 16;

/// Why a card does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CardError<E> {
    /// The network stack's numbers are out of their documented ranges, or do not fit its memory.
    Geometry,
    /// The network stack corrupted a ring: its session ends.
    Ring(RingError),
    /// The device does not follow the protocol: it is stopped.
    Device(E),
}

impl<E> From<RingError> for CardError<E> {
    fn from(error: RingError) -> CardError<E> {
        CardError::Ring(error)
    }
}

/// What one run came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pump {
    /// The network stack is to be signalled.
    pub signal: bool,
    /// There is more to do: run again without waiting.
    pub again: bool,
    /// Buffers sent are with the device without an interrupt being asked for: run again in a while.
    pub reclaim: bool,
}

/// A received packet that the device has not yet returned all buffers of, or that has no room in the
/// ring yet.
#[derive(Default)]
struct Arriving {
    /// What the stack will be given.
    parts: Vec<Descriptor>,
    /// Bytes of the packet in them.
    bytes: usize,
    /// More buffers of the packet will come.
    more: bool,
    /// The packet is dropped: so are the buffers that come.
    dropped: bool,
}

impl Arriving {
    /// Whether a packet is complete and waits for room.
    fn waits(&self) -> bool {
        !self.more && !self.parts.is_empty()
    }
}

/// A device with a network stack attached.
pub struct Card<D: Device, M: SharedMemory> {
    device: D,
    rings: Rings<M>,
    /// The packet pool as device and driver see it.
    memory: Area,
    /// The buffers to receive into, with which it begins.
    pool: Pool,
    /// What follows them.
    sending: Sending,
    /// Offset in a buffer that a packet is received at.
    lead: u32,
    /// Bytes of a buffer from there on.
    room: u32,
    /// Most buffers of one packet: as many as the ring of received packets has room for, too.
    most_parts: usize,
    arriving: Arriving,
    /// Buffers of dropped packets, by the offset that a packet is received at.
    spare: Vec<u32>,
    statistics: Statistics,
    /// Bytes to send in the device's hands.
    in_flight: u64,
    /// Entries of the ring of received packets.
    entries: u32,
    /// The stack is busy with received packets, and the device does not interrupt for more.
    polls: bool,
}

/// Those of the features asked for that these rings and buffers suffice for: a packet of many buffers
/// must find as many, and room in the ring.
pub(crate) fn possible_features(geometry: &Geometry) -> u32 {
    let parts = most_parts(geometry.buffer_bytes.saturating_sub(LARGEST_HEADROOM));
    let enough = geometry.ring_entries.min(geometry.receive_buffers) as usize >= parts;
    if enough {
        geometry.features
    } else {
        geometry.features & !FEATURE_JOINED_RECEIVE
    }
}

/// Buffers of the longest packet, where each has this room at least.
fn most_parts(room: u32) -> usize {
    MAX_PACKET_BYTES.div_ceil(room.max(1) as usize)
}

impl<D: Device, M: SharedMemory + Clone> Card<D, M> {
    /// Attaches a started device to a network stack's rings and pool. The device comes back where
    /// that fails.
    pub fn new(
        device: D,
        rings: Rings<M>,
        memory: Area,
        geometry: &Geometry,
    ) -> Result<Self, (D, CardError<D::Error>)> {
        let receive_bytes = u64::from(geometry.receive_buffers) * u64::from(geometry.buffer_bytes);
        let fits = BUFFER_BYTES.contains(&geometry.buffer_bytes)
            && geometry.headroom_bytes <= LARGEST_HEADROOM
            && geometry.receive_buffers > 0
            && receive_bytes <= geometry.pool_bytes
            && geometry.pool_bytes <= memory.length() as u64
            && geometry.pool_bytes <= u64::from(u32::MAX);
        let lead = lead(&device, geometry).filter(|_| fits);
        let Some(lead) = lead else {
            return Err((device, CardError::Geometry));
        };
        let pool = Pool {
            buffers: geometry.receive_buffers,
            buffer_bytes: geometry.buffer_bytes,
        };
        let room = geometry.buffer_bytes - lead;
        Ok(Card {
            sending: Sending::new(&device, geometry),
            device,
            rings,
            memory,
            pool,
            lead,
            room,
            most_parts: most_parts(room).min(geometry.ring_entries as usize),
            arriving: Arriving::default(),
            spare: Vec::new(),
            statistics: Statistics::default(),
            in_flight: 0,
            entries: geometry.ring_entries,
            polls: false,
        })
    }

    /// The device, to be asked for its properties.
    pub fn device(&mut self) -> &mut D {
        &mut self.device
    }

    /// The counters.
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// The device has interrupted.
    pub fn interrupted(&mut self, interrupt: Interrupt) {
        self.statistics.interrupts += 1;
        self.device.interrupted(interrupt);
    }

    /// Takes the device back.
    pub fn detach(self) -> D {
        self.device
    }

    /// Moves packets until there are none, or long enough. Whoever waits afterwards is woken by an
    /// interrupt or a doorbell if more comes: both were asked for before the last look.
    pub fn run(&mut self) -> Result<Pump, CardError<D::Error>> {
        let (mut again, mut signal) = (true, false);
        let mut seen = self.statistics.received_packets;
        for _ in 0..MOST_ROUNDS {
            self.device.disarm();
            self.rings.look()?;
            let moved = self.move_packets();
            // What was moved is told, and so as it was counted, even if the device broke a rule then.
            self.rings.publish()?;
            let more = moved?;
            self.statistics.kicks += self.device.notify();
            signal |= self.rings.must_wake()?;
            if more {
                continue;
            }
            let came = self.statistics.received_packets;
            self.choose_to_poll(core::mem::replace(&mut seen, came) < came, signal);
            if !self.must_look_again()? {
                again = false;
                break;
            }
        }
        let starves = !again && self.device.held(Direction::Receive) == 0;
        self.statistics.starved += u64::from(starves);
        Ok(Pump {
            signal,
            again,
            reclaim: !again && self.device.held(Direction::Transmit) > 0,
        })
    }

    /// Moves what there is in either direction, of each kind up to so many. True: there may be more.
    fn move_packets(&mut self) -> Result<bool, CardError<D::Error>> {
        // Room comes before what needs it.
        let sent = self.take_sent()?;
        let received = self.take_received()?;
        let free = self.give_free()?;
        Ok(sent | received | free | self.send_packets()?)
    }

    /// Decides who tells of the next received packets. Where some came while the stack was awake it does, when
    /// it has taken all; and as long as each of these looks finds new ones, or it has not.
    fn choose_to_poll(&mut self, came: bool, slept: bool) {
        let has_some = self.rings.received.ready() < self.entries;
        self.polls = match came {
            true => self.polls || !slept,
            false => self.polls && has_some,
        };
    }

    /// Asks device and stack to tell of what comes from now on; true if something came before they
    /// could hear that.
    ///
    /// What the round has seen of the rings is enough to say which wishes there are: who has seen no
    /// room announces that, and looks again then, and so does who waits for entries.
    fn must_look_again(&mut self) -> Result<bool, RingError> {
        let mut again = false;
        // Received packets are of use only while the stack takes them; it tells when it does.
        let wanted = self.arriving.parts.len().max(1) as u32;
        again |= if self.polls {
            !self.rings.received.sleep(self.entries)?
        } else if self.rings.received.ready() < wanted {
            !self.rings.received.sleep(wanted)?
        } else {
            self.device.arm(Direction::Receive, 1)
        };
        let held = self.device.held(Direction::Receive);
        // With half a queue of buffers there is time: the next packet brings us here.
        let capacity = self.device.capacity(Direction::Receive);
        if held < capacity / 2 && self.device.has_room(Direction::Receive) {
            again |= !self.rings.free.sleep(1)?;
        }
        let room = self.device.has_room(Direction::Transmit);
        let places = self.rings.transmitted.ready();
        if places == 0 && self.rings.transmit.ready() > 0 {
            // What has no place to come back to is not sent, and is no reason to look again. A stack
            // that has no more packets than the ring has entries never comes to this.
            again |= !self.rings.transmitted.sleep(1)?;
        } else if room {
            again |= !self.rings.transmit.sleep(1)?;
        }
        // Without room, or with much of the stack's memory in the device, completions are news.
        let held = self.device.held(Direction::Transmit);
        if !room || self.sending.is_crowded(held, self.in_flight) {
            let wanted = (held / 2).max(1) as u16;
            again |= match places {
                0 => !self.rings.transmitted.sleep(1)?,
                _ => self.device.arm(Direction::Transmit, wanted),
            };
        }
        Ok(again)
    }

    /// Packets that the device has received go to the stack. True: there may be more, as of the others.
    fn take_received(&mut self) -> Result<bool, CardError<D::Error>> {
        for _ in 0..BATCH {
            let delivered = !self.arriving.waits() || self.deliver()?;
            if !delivered || self.rings.received.ready() == 0 {
                return Ok(false);
            }
            let taken = self.device.take_received(&self.memory);
            let Some(received) = taken.map_err(CardError::Device)? else {
                return Ok(false);
            };
            match received.length {
                // The common case: a packet in one buffer.
                Ok(length)
                    if !received.more
                        && !self.arriving.more
                        && length >= ethernet::HEADER_BYTES =>
                {
                    let packet = part(received.buffer.offset, length, &received);
                    self.count_received(length);
                    self.rings.received.put(packet)?;
                }
                _ => self.gather(received)?,
            }
        }
        Ok(true)
    }

    fn count_received(&mut self, bytes: usize) {
        self.statistics.received_packets += 1;
        self.statistics.received_bytes += bytes as u64;
    }

    /// Hands a packet of several buffers on; false where the ring has no room for it.
    fn deliver(&mut self) -> Result<bool, RingError> {
        if (self.rings.received.ready() as usize) < self.arriving.parts.len() {
            return Ok(false);
        }
        for part in self.arriving.parts.drain(..) {
            self.rings.received.put(part)?;
        }
        self.count_received(self.arriving.bytes);
        Ok(true)
    }

    /// Takes a buffer for what it is: part of a packet, the end of one, or good for the next.
    fn gather(&mut self, received: Received) -> Result<(), RingError> {
        let first = !core::mem::replace(&mut self.arriving.more, received.more);
        if first {
            self.arriving.dropped = false;
            self.arriving.bytes = 0;
        }
        let fault = match received.length {
            _ if self.arriving.dropped => {
                self.spare.push(received.buffer.offset);
                return Ok(());
            }
            Err(fault) => Some(fault),
            Ok(length) => self.arriving.fault(length, received.more, self.most_parts),
        };
        if let Some(fault) = fault {
            self.drop_arriving(fault);
            self.spare.push(received.buffer.offset);
            return Ok(());
        }
        let header = if first {
            0
        } else {
            self.device.header_bytes() as u32
        };
        let length = received.length.unwrap_or(0);
        self.arriving.bytes += length;
        let offset = received.buffer.offset - header;
        self.arriving.parts.push(part(offset, length, &received));
        if self.arriving.waits() {
            self.deliver()?;
        }
        Ok(())
    }

    /// Drops the packet that is arriving: its buffers are good for the next.
    fn drop_arriving(&mut self, fault: Fault) {
        self.arriving.dropped = true;
        self.statistics.received_dropped += 1;
        *match fault {
            Fault::Short => &mut self.statistics.received_short,
            Fault::Long => &mut self.statistics.received_long,
            Fault::Damaged => &mut self.statistics.received_damaged,
        } += 1;
        while let Some(part) = self.arriving.parts.pop() {
            let start = part.offset - part.offset % self.pool.buffer_bytes;
            self.spare.push(start + self.lead);
        }
    }

    /// Free buffers go to the device.
    fn give_free(&mut self) -> Result<bool, CardError<D::Error>> {
        let most = self.spare.len() + self.rings.free.ready() as usize;
        for _ in 0..most.min(BATCH) {
            if !self.device.has_room(Direction::Receive) {
                return Ok(false);
            }
            if let Some(offset) = self.spare.pop() {
                self.give(offset)?;
                continue;
            }
            let Some(descriptor) = self.rings.free.take()? else {
                return Ok(false);
            };
            match self.pool.buffer(descriptor) {
                Some(buffer) => self.give(buffer * self.pool.buffer_bytes + self.lead)?,
                None => {
                    self.statistics.refused_descriptors += 1;
                    self.statistics.refused_buffers += 1;
                }
            }
        }
        Ok(most >= BATCH)
    }

    /// Gives the device the buffer whose packet begins at this offset of the pool.
    fn give(&mut self, offset: u32) -> Result<(), CardError<D::Error>> {
        let header = self.device.header_bytes();
        let area = self
            .memory
            .part(offset as usize - header, header + self.room as usize);
        let area = area.ok_or(CardError::Geometry)?;
        let buffer = Descriptor {
            offset,
            length: self.room,
            flags: 0,
        };
        let given = self.device.give(area, buffer);
        given.map_err(CardError::Device)
    }

    /// Packets to send go to the device.
    fn send_packets(&mut self) -> Result<bool, CardError<D::Error>> {
        // A descriptor that is refused needs room to come back.
        let most = self.rings.transmit.ready();
        let most = most.min(self.rings.transmitted.ready()) as usize;
        for _ in 0..most.min(BATCH) {
            if !self.device.has_room(Direction::Transmit) {
                return Ok(false);
            }
            let Some(packet) = self.rings.transmit.take()? else {
                return Ok(false);
            };
            match self.sending.check(packet, &self.memory) {
                Ok((area, offload)) => {
                    let sent = self.device.send(area, offload, packet);
                    sent.map_err(CardError::Device)?;
                    self.statistics.sent_packets += 1;
                    self.statistics.sent_bytes += u64::from(packet.length);
                    self.in_flight += u64::from(packet.length);
                }
                Err(refusal) => {
                    self.count_refused(refusal);
                    self.rings.transmitted.put(packet)?;
                }
            }
        }
        Ok(most >= BATCH)
    }

    fn count_refused(&mut self, refusal: Refusal) {
        self.statistics.refused_descriptors += 1;
        *match refusal {
            Refusal::Place => &mut self.statistics.refused_places,
            Refusal::Length => &mut self.statistics.refused_lengths,
            Refusal::Offload => &mut self.statistics.refused_offloads,
        } += 1;
    }

    /// Packets that the device has sent: their memory goes back to the stack.
    fn take_sent(&mut self) -> Result<bool, CardError<D::Error>> {
        let most = self.rings.transmitted.ready() as usize;
        for _ in 0..most.min(BATCH) {
            let taken = self.device.take_sent();
            let Some(packet) = taken.map_err(CardError::Device)? else {
                return Ok(false);
            };
            self.in_flight -= u64::from(packet.length);
            self.rings.transmitted.put(packet)?;
        }
        Ok(most >= BATCH)
    }
}

impl Arriving {
    /// What is wrong with the packet once this many bytes more belong to it.
    fn fault(&self, length: usize, more: bool, most_parts: usize) -> Option<Fault> {
        let bytes = self.bytes + length;
        if length == 0 || (!more && bytes < ethernet::HEADER_BYTES) {
            Some(Fault::Short)
        } else if bytes > MAX_PACKET_BYTES || self.parts.len() == most_parts {
            Some(Fault::Long)
        } else {
            None
        }
    }
}

/// The descriptor that the stack gets of a buffer whose bytes begin at this offset.
fn part(offset: u32, length: usize, received: &Received) -> Descriptor {
    let more = u32::from(received.more) * FLAG_MORE;
    let verified = u32::from(received.verified) * FLAG_CHECKSUM_VERIFIED;
    Descriptor {
        offset,
        length: length as u32,
        flags: more | verified,
    }
}

/// The offset in a buffer that packets are received at; `None` where the device needs more room than a
/// buffer has.
fn lead<D: Device>(device: &D, geometry: &Geometry) -> Option<u32> {
    let (header, most) = (device.header_bytes(), device.largest_write());
    let suffices = |lead: u32| {
        let room = geometry.buffer_bytes.checked_sub(lead);
        lead as usize >= header && room.is_some_and(|room| room as usize >= most)
    };
    // A headroom that does not hold the header is the stack's mistake even where a buffer could.
    if (geometry.headroom_bytes as usize) < header {
        return None;
    }
    [geometry.headroom_bytes, header as u32]
        .into_iter()
        .find(|lead| suffices(*lead))
}
