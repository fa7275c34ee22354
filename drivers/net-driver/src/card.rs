//! Packets between the device's queues and the four rings that the network stack shares.
//!
//! How the rings are read here, beyond what the interface declares:
//!
//! - A free buffer is named by any offset in it. The packet goes where `headroom_bytes` end, so that
//!   the device's header fits before it; or, for a device that is not told a buffer's length and counts
//!   on more than is left there, where that header ends at the buffer's start.
//! - A packet to send lies in one buffer, with at least the header's length before it there. Those
//!   bytes are written.
//! - A descriptor that is refused comes back as sent if its buffer can be told, so that the stack
//!   does not lose the buffer.
//!
//! The stack's rings and descriptors and the device's answers are all hostile: what does not fit is
//! an error of the party that wrote it, or a counted drop.

use ipc::interface::net_device::{
    Geometry, RING_RECEIVE_FREE, RING_RECEIVED, RING_TRANSMIT, RING_TRANSMITTED, RINGS, Statistics,
};
use ipc::ring::{
    Descriptor, PacketConsumer, PacketProducer, Pool, RingError, SharedMemory, packet_ring_bytes,
};
use pci_function::Area;

use crate::device::{Device, Direction, Interrupt};
use crate::ethernet;

/// Largest headroom that the interface allows.
const LARGEST_HEADROOM: u32 = 64;
/// Sizes of a buffer that the interface allows.
const BUFFER_BYTES: core::ops::RangeInclusive<u32> = 2_048..=65_536;
/// Entries of a ring that the interface allows.
const RING_ENTRIES: core::ops::RangeInclusive<u32> = 16..=4_096;
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

/// The driver's ends of the rings.
pub struct Rings<M: SharedMemory> {
    free: PacketConsumer<M>,
    received: PacketProducer<M>,
    transmit: PacketConsumer<M>,
    transmitted: PacketProducer<M>,
}

impl<M: SharedMemory + Clone> Rings<M> {
    /// The rings in this memory, one after another; `None` where the number of entries is out of
    /// range, or the memory too small.
    pub fn new(memory: M, entries: u32) -> Option<Rings<M>> {
        if !RING_ENTRIES.contains(&entries) {
            return None;
        }
        let bytes = packet_ring_bytes(entries);
        let at = |ring: usize| (memory.clone(), ring * bytes);
        let consumer = |ring| {
            let (memory, offset) = at(ring);
            PacketConsumer::new(memory, offset, entries).ok()
        };
        let producer = |ring| {
            let (memory, offset) = at(ring);
            PacketProducer::new(memory, offset, entries).ok()
        };
        const { assert!(RINGS == 4) }
        Some(Rings {
            free: consumer(RING_RECEIVE_FREE)?,
            received: producer(RING_RECEIVED)?,
            transmit: consumer(RING_TRANSMIT)?,
            transmitted: producer(RING_TRANSMITTED)?,
        })
    }
}

/// A device with a network stack attached.
pub struct Card<D: Device, M: SharedMemory> {
    device: D,
    rings: Rings<M>,
    /// The packet pool as device and driver see it.
    memory: Area,
    pool: Pool,
    /// Offset in a buffer that a packet is received at.
    lead: u32,
    statistics: Statistics,
    /// Transmissions in the device's hands from which on an interrupt is asked for.
    crowded: usize,
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
        let fits = BUFFER_BYTES.contains(&geometry.buffer_bytes)
            && geometry.headroom_bytes <= LARGEST_HEADROOM
            && geometry.pool_bytes <= memory.length() as u64
            && geometry.pool_bytes <= u64::from(u32::MAX);
        let buffers = (geometry.pool_bytes / u64::from(geometry.buffer_bytes.max(1))) as u32;
        let lead = lead(&device, geometry).filter(|_| fits && buffers > 0);
        let Some(lead) = lead else {
            return Err((device, CardError::Geometry));
        };
        // A stack that sends much keeps at least an eighth of its buffers for that.
        let crowded = (buffers as usize / 8).clamp(1, 64);
        let pool = Pool {
            buffers,
            buffer_bytes: geometry.buffer_bytes,
        };
        Ok(Card {
            device,
            rings,
            memory,
            pool,
            lead,
            statistics: Statistics::default(),
            crowded,
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
        let mut pump = Pump::default();
        for _ in 0..MOST_ROUNDS {
            self.device.disarm();
            let mut moved = self.take_sent()?;
            moved |= self.take_received()?;
            moved |= self.give_free()?;
            moved |= self.send_packets()?;
            self.statistics.kicks += self.device.notify();
            if moved {
                // The stack works while this goes on: it hears of what is there now.
                pump.signal |= self.must_signal()?;
                continue;
            }
            if !self.must_look_again()? {
                pump.signal |= self.must_signal()?;
                pump.reclaim = self.device.held(Direction::Transmit) > 0;
                return Ok(pump);
            }
        }
        pump.again = true;
        Ok(pump)
    }

    /// Whether the network stack sleeps on what it was given.
    fn must_signal(&mut self) -> Result<bool, RingError> {
        let received = self.rings.received.must_wake()?;
        let transmitted = self.rings.transmitted.must_wake()?;
        let free = self.rings.free.must_wake()?;
        let transmit = self.rings.transmit.must_wake()?;
        Ok(received || transmitted || free || transmit)
    }

    /// Asks device and stack to tell of what comes from now on; true if something came before they
    /// could hear that.
    fn must_look_again(&mut self) -> Result<bool, RingError> {
        let mut again = false;
        // Received packets are of use only while the stack takes them; it tells when it does.
        again |= match self.rings.received.free()? {
            0 => !self.rings.received.sleep(1)?,
            _ => self.device.arm(Direction::Receive, 1),
        };
        let held = self.device.held(Direction::Receive);
        // With half a queue of buffers there is time: the next packet brings us here.
        let capacity = self.device.capacity(Direction::Receive);
        if self.device.has_room(Direction::Receive) && held < capacity / 2 {
            again |= !self.rings.free.sleep(1)?;
        }
        let room = self.device.has_room(Direction::Transmit);
        if room {
            again |= !self.rings.transmit.sleep(1)?;
        }
        let held = self.device.held(Direction::Transmit);
        // Without room, or with many of the stack's buffers in the device, completions are news.
        if !room || held >= self.crowded {
            let wanted = (held / 2).max(1) as u16;
            again |= match self.rings.transmitted.free()? {
                0 => !self.rings.transmitted.sleep(1)?,
                _ => self.device.arm(Direction::Transmit, wanted),
            };
        }
        Ok(again)
    }

    /// Packets that the device has received go to the stack.
    fn take_received(&mut self) -> Result<bool, CardError<D::Error>> {
        for count in 0..BATCH {
            if self.rings.received.free()? == 0 {
                return Ok(count > 0);
            }
            let taken = self.device.take(Direction::Receive);
            let Some(returned) = taken.map_err(CardError::Device)? else {
                return Ok(count > 0);
            };
            let offset = returned.cookie as u32;
            let length = returned.length;
            match length.filter(|length| *length >= ethernet::HEADER_BYTES) {
                Some(length) => {
                    self.statistics.received_packets += 1;
                    self.statistics.received_bytes += length as u64;
                    let length = length as u32;
                    self.rings.received.push(Descriptor {
                        offset,
                        length,
                        flags: 0,
                    })?;
                }
                // No packet, or a lie about its length: the buffer is good for the next.
                None => {
                    self.statistics.received_dropped += 1;
                    self.give(offset)?;
                }
            }
        }
        Ok(true)
    }

    /// Free buffers go to the device.
    fn give_free(&mut self) -> Result<bool, CardError<D::Error>> {
        for count in 0..BATCH {
            if !self.device.has_room(Direction::Receive) {
                return Ok(count > 0);
            }
            let Some(descriptor) = self.rings.free.pop()? else {
                return Ok(count > 0);
            };
            match self.pool.buffer(descriptor) {
                Some(buffer) => self.give(buffer * self.pool.buffer_bytes + self.lead)?,
                None => self.statistics.refused_descriptors += 1,
            }
        }
        Ok(true)
    }

    /// Gives the device the buffer whose packet begins at this offset of the pool.
    fn give(&mut self, offset: u32) -> Result<(), CardError<D::Error>> {
        let header = self.device.header_bytes();
        let room = (self.pool.buffer_bytes - self.lead) as usize;
        let area = self.memory.part(offset as usize - header, header + room);
        let area = area.ok_or(CardError::Geometry)?;
        let given = self.device.give(area, offset.into());
        given.map_err(CardError::Device)
    }

    /// Packets to send go to the device.
    fn send_packets(&mut self) -> Result<bool, CardError<D::Error>> {
        for count in 0..BATCH {
            // A descriptor that is refused needs room to come back.
            if !self.device.has_room(Direction::Transmit) || self.rings.transmitted.free()? == 0 {
                return Ok(count > 0);
            }
            let Some(descriptor) = self.rings.transmit.pop()? else {
                return Ok(count > 0);
            };
            let Some(area) = self.packet(descriptor) else {
                self.statistics.refused_descriptors += 1;
                if self.pool.buffer(descriptor).is_some() {
                    self.rings.transmitted.push(descriptor)?;
                }
                continue;
            };
            let cookie = u64::from(descriptor.offset) << 32 | u64::from(descriptor.length);
            let sent = self.device.send(area, cookie);
            sent.map_err(CardError::Device)?;
            self.statistics.sent_packets += 1;
            self.statistics.sent_bytes += u64::from(descriptor.length);
        }
        Ok(true)
    }

    /// Where a packet to send lies, header included; `None` unless it is one, in one buffer, and not
    /// longer than the device sends.
    fn packet(&self, descriptor: Descriptor) -> Option<Area> {
        let header = self.device.header_bytes();
        let range = self.pool.check(descriptor)?;
        let within = range.start % self.pool.buffer_bytes as usize;
        let lengths = ethernet::HEADER_BYTES..=self.device.largest_sent();
        if !lengths.contains(&range.len()) || within < header {
            return None;
        }
        self.memory.part(range.start - header, header + range.len())
    }

    /// Packets that the device has sent: their buffers go back to the stack.
    fn take_sent(&mut self) -> Result<bool, CardError<D::Error>> {
        for count in 0..BATCH {
            if self.rings.transmitted.free()? == 0 {
                return Ok(count > 0);
            }
            let taken = self.device.take(Direction::Transmit);
            let Some(returned) = taken.map_err(CardError::Device)? else {
                return Ok(count > 0);
            };
            let (offset, length) = ((returned.cookie >> 32) as u32, returned.cookie as u32);
            self.rings.transmitted.push(Descriptor {
                offset,
                length,
                flags: 0,
            })?;
        }
        Ok(true)
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
