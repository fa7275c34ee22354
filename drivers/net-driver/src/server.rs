//! The service: one network stack at a time is attached, and the device works only then. Every
//! attachment begins with the device's reset and ends with it, so that a new instance of the driver,
//! or of the network stack, starts from nothing.

use alloc::collections::BTreeSet;

use ipc::interface::net_device::{
    Attached, Geometry, Link, NetDeviceError, NetDeviceServer, RINGS, Statistics,
};
use ipc::ring::{SharedMemory, packet_ring_bytes};
use ipc::server::Caller;
use ipc::{Error, Handle};
use pci_function::Area;

use crate::card::{self, Card, Pump};
use crate::device::{Device, Interrupt};
use crate::rings::Rings;

/// What the service asks of the system: the task has the real one, the tests a fake.
pub trait Platform {
    /// Memory shared with the network stack. Dropping the last copy ends the mapping.
    type Memory: SharedMemory + Clone;

    /// Maps the ring memory.
    fn map(&mut self, memory: Handle) -> Result<Self::Memory, Error>;
    /// Maps the packet pool and makes it reachable for the device.
    fn attach_pool(&mut self, pool: Handle) -> Result<Area, Error>;
    /// Ends that. The device was reset.
    fn detach_pool(&mut self, pool: Area);
    /// Switches the device's bus mastering.
    fn set_bus_master(&mut self, on: bool) -> Result<(), Error>;
    /// Signals a client's notification.
    fn signal(&mut self, bell: Handle, bits: u64);
    /// A handle to the server's notification, to be given to clients, and the bits to signal there.
    fn doorbell(&self) -> (Handle, u64);
    /// Closes a handle.
    fn close(&mut self, handle: Handle);
    /// Writes a line to the log.
    fn log(&mut self, line: core::fmt::Arguments<'_>);
}

/// What a device says of itself.
struct Described<'a, D: Device>(&'a D);

impl<D: Device> core::fmt::Display for Described<'_, D> {
    fn fmt(&self, to: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.describe(to)
    }
}

/// The network stack that is attached.
struct Session<D: Device, M: SharedMemory> {
    badge: u64,
    card: Card<D, M>,
    pool: Area,
    bell: Handle,
    bits: u64,
    /// Closed with the session: so the network stack learns of its end.
    lifeline: Handle,
}

/// The service of one device.
pub struct NetServer<D: Device, P: Platform> {
    platform: P,
    /// The device while nobody is attached.
    idle: Option<D::Idle>,
    /// Cards of the driver's kind in the machine.
    cards: u16,
    session: Option<Session<D, P::Memory>>,
    /// Sessions that were ended here; their calls are refused.
    ended: BTreeSet<u64>,
    /// The counters of sessions that are over.
    before: Statistics,
}

impl<D: Device, P: Platform> NetServer<D, P> {
    /// The service of this device, which is one of so many `cards` of its kind; without one every
    /// attachment fails.
    pub fn new(platform: P, idle: Option<D::Idle>, cards: u16) -> Self {
        NetServer {
            platform,
            idle,
            cards,
            session: None,
            ended: BTreeSet::new(),
            before: Statistics::default(),
        }
    }

    /// The kernel's part of the service.
    pub fn platform(&mut self) -> &mut P {
        &mut self.platform
    }

    /// Whether the session was ended because of what its client did.
    pub fn has_ended(&self, badge: u64) -> bool {
        self.ended.contains(&badge)
    }

    /// A client is gone.
    pub fn closed(&mut self, badge: u64) {
        self.ended.remove(&badge);
        if self
            .session
            .as_ref()
            .is_some_and(|session| session.badge == badge)
        {
            self.end_session();
        }
    }

    /// The device has interrupted.
    pub fn interrupted(&mut self, interrupt: Interrupt) {
        match (&mut self.session, &mut self.idle) {
            (Some(session), _) => session.card.interrupted(interrupt),
            // Not from a device that was reset; but a line stays up until its cause is read.
            (None, Some(idle)) if interrupt == Interrupt::Line => D::quiet(idle),
            _ => {}
        }
        self.tell_link_change();
    }

    /// Signals the network stack if the link may have changed.
    fn tell_link_change(&mut self) {
        if let Some(session) = &mut self.session
            && session.card.device().take_link_change()
        {
            self.platform.signal(session.bell, session.bits);
        }
    }

    /// Moves packets: to be called after an interrupt, a doorbell or an operation. What the result
    /// says about the network stack's signal is done already. A stack or device that breaks the
    /// rules ends the attachment.
    pub fn run(&mut self) -> Pump {
        let Some(session) = &mut self.session else {
            return Pump::default();
        };
        match session.card.run() {
            Ok(pump) => {
                if pump.signal {
                    self.platform.signal(session.bell, session.bits);
                }
                self.tell_link_change();
                pump
            }
            Err(_) => {
                self.ended.insert(session.badge);
                self.end_session();
                Pump::default()
            }
        }
    }

    /// Stops the device and lets rings and pool go.
    fn end_session(&mut self) {
        let Some(session) = self.session.take() else {
            return;
        };
        self.before = sum(self.before, session.card.statistics());
        self.idle = Some(session.card.detach().stop());
        // Bus mastering is off before the memory goes, so that it does not depend on the device's
        // word that it was reset.
        let _ = self.platform.set_bus_master(false);
        self.platform.detach_pool(session.pool);
        self.platform.close(session.bell);
        self.platform.close(session.lifeline);
    }

    /// The parts of an attachment that are not the device's: mapped rings and pool.
    fn map(
        &mut self,
        geometry: &Geometry,
        rings: Handle,
        pool: Handle,
    ) -> Result<(Rings<P::Memory>, Area), NetDeviceError> {
        let memory = self
            .platform
            .map(rings)
            .map_err(|_| NetDeviceError::Kernel)?;
        let needed = packet_ring_bytes(geometry.ring_entries).checked_mul(RINGS);
        if needed.is_none_or(|needed| needed > memory.bytes()) {
            return Err(NetDeviceError::OutOfRange);
        }
        let rings = Rings::new(memory, geometry.ring_entries).ok_or(NetDeviceError::OutOfRange)?;
        let pool = self
            .platform
            .attach_pool(pool)
            .map_err(|_| NetDeviceError::Kernel)?;
        Ok((rings, pool))
    }

    /// Starts the device on these rings and this pool.
    fn start(
        &mut self,
        geometry: &Geometry,
        rings: Rings<P::Memory>,
        pool: Area,
    ) -> Result<Card<D, P::Memory>, NetDeviceError> {
        let mut idle = self.idle.take().ok_or(NetDeviceError::NoCard)?;
        // With bus mastering a device that an earlier driver left running would go on, in memory that
        // is others' by now.
        if D::reset(&mut idle).is_err() {
            self.idle = Some(idle);
            return Err(NetDeviceError::DeviceFailed);
        }
        if self.platform.set_bus_master(true).is_err() {
            self.idle = Some(idle);
            return Err(NetDeviceError::Kernel);
        }
        let features = card::possible_features(geometry);
        let device = match D::start(idle, features, geometry.receive_buffers) {
            Ok(device) => device,
            Err((idle, _)) => {
                self.idle = Some(idle);
                return Err(NetDeviceError::DeviceFailed);
            }
        };
        match Card::new(device, rings, pool, geometry) {
            Ok(card) => Ok(card),
            // Of a card that is new only the stack's numbers can be wrong.
            Err((device, _)) => {
                self.idle = Some(device.stop());
                Err(NetDeviceError::OutOfRange)
            }
        }
    }

    /// What the device is, for the network stack and for the log.
    fn introduce(&mut self, device: &D, doorbell_bits: u64) -> Attached {
        self.platform
            .log(format_args!("attached: {}", Described(device)));
        Attached {
            mac: device.mac(),
            mtu: device.mtu(),
            features: device.features(),
            doorbell_bits,
        }
    }
}

fn sum(one: Statistics, other: Statistics) -> Statistics {
    Statistics {
        received_packets: one.received_packets + other.received_packets,
        received_bytes: one.received_bytes + other.received_bytes,
        received_dropped: one.received_dropped + other.received_dropped,
        received_short: one.received_short + other.received_short,
        received_long: one.received_long + other.received_long,
        received_damaged: one.received_damaged + other.received_damaged,
        starved: one.starved + other.starved,
        sent_packets: one.sent_packets + other.sent_packets,
        sent_bytes: one.sent_bytes + other.sent_bytes,
        refused_descriptors: one.refused_descriptors + other.refused_descriptors,
        refused_buffers: one.refused_buffers + other.refused_buffers,
        refused_places: one.refused_places + other.refused_places,
        refused_lengths: one.refused_lengths + other.refused_lengths,
        refused_offloads: one.refused_offloads + other.refused_offloads,
        interrupts: one.interrupts + other.interrupts,
        kicks: one.kicks + other.kicks,
    }
}

impl<D: Device, P: Platform> NetDeviceServer for NetServer<D, P> {
    fn attach(
        &mut self,
        caller: &mut Caller<'_>,
        geometry: Geometry,
        bits: u64,
        pool: Handle,
        rings: Handle,
        bell: Handle,
        lifeline: Handle,
    ) -> Result<(Attached, Handle), NetDeviceError> {
        let free = match (&self.session, &self.idle) {
            (Some(_), _) => Err(NetDeviceError::Busy),
            (None, None) => Err(NetDeviceError::NoCard),
            (None, Some(_)) => Ok(()),
        };
        let mapped = free.and_then(|()| self.map(&geometry, rings, pool));
        // Mappings and attachments hold what they need; the handles have done their work.
        self.platform.close(pool);
        self.platform.close(rings);
        let started = mapped.and_then(|(rings, pool)| match self.start(&geometry, rings, pool) {
            Ok(card) => Ok((card, pool)),
            Err(error) => {
                let _ = self.platform.set_bus_master(false);
                self.platform.detach_pool(pool);
                Err(error)
            }
        });
        let (mut card, pool) = match started {
            Ok(started) => started,
            Err(error) => {
                self.platform.close(bell);
                self.platform.close(lifeline);
                return Err(error);
            }
        };
        let (doorbell, doorbell_bits) = self.platform.doorbell();
        let attached = self.introduce(card.device(), doorbell_bits);
        self.session = Some(Session {
            badge: caller.badge(),
            card,
            pool,
            bell,
            bits,
            lifeline,
        });
        Ok((attached, doorbell))
    }

    fn detach(&mut self, caller: &mut Caller<'_>) -> Result<(), NetDeviceError> {
        match &self.session {
            Some(session) if session.badge == caller.badge() => {
                self.end_session();
                Ok(())
            }
            _ => Err(NetDeviceError::NotAttached),
        }
    }

    fn statistics(&mut self, _caller: &mut Caller<'_>) -> Result<Statistics, NetDeviceError> {
        let now = self
            .session
            .as_ref()
            .map(|session| session.card.statistics());
        Ok(sum(self.before, now.unwrap_or_default()))
    }

    fn link(&mut self, _caller: &mut Caller<'_>) -> Result<Link, NetDeviceError> {
        let up = self
            .session
            .as_mut()
            .is_none_or(|session| session.card.device().is_link_up());
        Ok(if up { Link::Up } else { Link::Down })
    }

    fn cards(&mut self, _caller: &mut Caller<'_>) -> Result<u16, NetDeviceError> {
        Ok(self.cards)
    }
}
