//! The service: one network stack at a time is attached, and the device works only then. Every
//! attachment begins with the device's reset and ends with it, so that a new instance of the driver,
//! or of the network stack, starts from nothing.

use alloc::collections::BTreeSet;

use ipc::interface::net_device::{
    Attached, FEATURE_LINK_STATE, Geometry, Link, NetDeviceError, NetDeviceServer, RINGS,
    Statistics,
};
use ipc::ring::{SharedMemory, packet_ring_bytes};
use ipc::server::Caller;
use ipc::{Error, Handle};
use virtio::{Area, VirtioTransport};

use crate::card::{Card, CardError, Pump, Rings};
use crate::device::NetDevice;

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
}

/// The network stack that is attached.
struct Session<T: VirtioTransport, M: SharedMemory> {
    badge: u64,
    card: Card<T, M>,
    pool: Area,
    bell: Handle,
    bits: u64,
    /// Closed with the session: so the network stack learns of its end.
    lifeline: Handle,
}

/// The service of one device.
pub struct NetServer<T: VirtioTransport, P: Platform> {
    platform: P,
    /// The device's registers while nobody is attached.
    idle: Option<T>,
    session: Option<Session<T, P::Memory>>,
    /// Sessions that were ended here; their calls are refused.
    ended: BTreeSet<u64>,
    /// The counters of sessions that are over.
    before: Statistics,
}

impl<T: VirtioTransport, P: Platform> NetServer<T, P> {
    /// The service of the device behind this transport; without one every attachment fails.
    pub fn new(platform: P, transport: Option<T>) -> Self {
        NetServer {
            platform,
            idle: transport,
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

    /// The device has interrupted. With `line` the interrupt is its line, which reading its cause
    /// lowers; with MSI-X, `configuration` says whether that vector came.
    pub fn interrupted(&mut self, line: bool, configuration: bool) {
        let Some(session) = &mut self.session else {
            // Not from a device that was reset; but a line stays up until its cause is read.
            if let Some(transport) = self.idle.as_mut().filter(|_| line) {
                transport.ack_interrupt();
            }
            return;
        };
        session.card.interrupted();
        let changed = if line {
            session.card.device().take_interrupt()
        } else {
            configuration
        };
        if changed {
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
        let (transport, _) = session.card.detach().stop();
        self.idle = Some(transport);
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
        let rings = Rings::new(memory, geometry.ring_entries).map_err(refusal)?;
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
    ) -> Result<Card<T, P::Memory>, NetDeviceError> {
        let transport = self.idle.take().ok_or(NetDeviceError::DeviceFailed)?;
        if self.platform.set_bus_master(true).is_err() {
            self.idle = Some(transport);
            return Err(NetDeviceError::Kernel);
        }
        let device = match NetDevice::start(transport) {
            Ok(device) => device,
            Err((transport, _)) => {
                self.idle = Some(transport);
                return Err(NetDeviceError::DeviceFailed);
            }
        };
        match Card::new(device, rings, pool, geometry) {
            Ok(card) => Ok(card),
            Err((device, error)) => {
                self.idle = Some(device.stop().0);
                Err(refusal(error))
            }
        }
    }
}

/// A card's error as the caller hears it.
fn refusal(error: CardError) -> NetDeviceError {
    match error {
        CardError::Geometry | CardError::Ring(_) => NetDeviceError::OutOfRange,
        CardError::Device(_) => NetDeviceError::DeviceFailed,
    }
}

fn sum(one: Statistics, other: Statistics) -> Statistics {
    Statistics {
        received_packets: one.received_packets + other.received_packets,
        received_bytes: one.received_bytes + other.received_bytes,
        received_dropped: one.received_dropped + other.received_dropped,
        sent_packets: one.sent_packets + other.sent_packets,
        sent_bytes: one.sent_bytes + other.sent_bytes,
        refused_descriptors: one.refused_descriptors + other.refused_descriptors,
        interrupts: one.interrupts + other.interrupts,
        kicks: one.kicks + other.kicks,
    }
}

impl<T: VirtioTransport, P: Platform> NetDeviceServer for NetServer<T, P> {
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
            (None, None) => Err(NetDeviceError::DeviceFailed),
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
        let device = card.device();
        let attached = Attached {
            mac: device.mac(),
            mtu: device.mtu(),
            features: if device.tells_link() {
                FEATURE_LINK_STATE
            } else {
                0
            },
            doorbell_bits,
        };
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
}

#[cfg(test)]
mod tests;
