//! From a device of pci's to a transport: claims a virtio device, sets up its interrupts, and finds
//! its registers. Devices that speak both PCI transports are spoken to in the modern one.

use ipc::Handle;
use ipc::client::{CallError, Deadline};
use ipc::interface::pci::{
    self, BarKind, InterruptKind, Match, PciClient, PciError, VirtioLocation, VirtioStructure,
};
use registers::hardware::{MappedWindow, PortWindow};
use runtime::mapping::Access;
use runtime::ports::{Interrupt, IoPorts};
use runtime::service::{Session, connect_to};
use runtime::{Error, Kernel, Mapping, Memory, Notification, clock};
use virtio_drivers::transport::DeviceType;

use crate::{
    AnyTransport, Attached, InterruptMode, LegacyTransport, MmioTransport, ModernTransport,
    ModernWindows, SetupError, VirtioError,
};

/// Vendor of virtio devices (VIRTIO 1.2, section 4.1.2).
const VENDOR: u16 = 0x1af4;
/// First device number of devices that may speak the legacy transport (section 4.1.2.3).
const TRANSITIONAL: u16 = 0x1000;
/// What is added to a device's type for its number otherwise (section 4.1.2).
const MODERN: u16 = 0x1040;
/// Most vectors that are asked for: configuration, and a queue each way.
const VECTORS: u16 = 3;
/// Times a device is asked for that an earlier instance of the driver still holds: pci hears of its
/// death a moment later.
const CLAIM_ATTEMPTS: u32 = 200;
/// Time between those.
const CLAIM_PAUSE: core::time::Duration = core::time::Duration::from_millis(10);

/// Which bits of the driver's notification the device's interrupts set: one for each vector, that is
/// configuration, first queue, other queues. A line, or a single vector, sets the first.
pub type InterruptBits = [u64; VECTORS as usize];

/// A claimed device. Dropping it ends the session, and pci takes everything back.
#[derive(Debug)]
pub struct Function {
    session: Session,
    interrupts: InterruptMode,
    /// Kept for as long as the device: a line is to be acknowledged.
    handles: [Option<Interrupt>; VECTORS as usize],
}

/// The transport of a claimed device.
pub type FunctionTransport = AnyTransport<PortWindow, MappedWindow>;

impl Function {
    /// Claims the first device of this type that is free, with its interrupts bound to the
    /// notification and DMA memory for its queues. Bus mastering is still off. `None` where the
    /// machine has no such device.
    ///
    /// `legacy` is the number of its transitional kind: 0 for network, 1 for block (VIRTIO 1.2,
    /// section 4.1.2.3).
    pub fn claim(
        device_type: DeviceType,
        legacy: u16,
        notification: &Notification,
        bits: InterruptBits,
    ) -> Result<Option<(Function, FunctionTransport)>, SetupError> {
        let session = connect_to("pci", pci::NUMBER, Deadline::NEVER);
        let session = session.map_err(SetupError::Connect)?;
        let client = PciClient::new(Kernel, session.handle());
        let numbers = [MODERN + device_type as u16, TRANSITIONAL + legacy];
        if !claim_any(&client, numbers)? {
            return Ok(None);
        }
        let (interrupts, handles) = set_up_interrupts(&client, notification, bits)?;
        let function = Function {
            session,
            interrupts,
            handles,
        };
        let transport = function.transport(device_type)?;
        Attached::arena(&function.pci())?;
        Ok(Some((function, transport)))
    }

    /// The pci session that holds the device.
    pub fn pci(&self) -> PciClient<Kernel> {
        PciClient::new(Kernel, self.session.handle())
    }

    /// How it interrupts.
    pub fn interrupts(&self) -> InterruptMode {
        self.interrupts
    }

    /// Lets the interrupt line come again, after its cause was read.
    pub fn acknowledge(&self) {
        if self.interrupts == InterruptMode::Line
            && let Some(interrupt) = &self.handles[0]
        {
            // The handle is good as long as the session is; without the session nothing is.
            let _ = interrupt.acknowledge();
        }
    }

    fn transport(&self, device_type: DeviceType) -> Result<FunctionTransport, SetupError> {
        let client = self.pci();
        match client.virtio_structure(Deadline::NEVER, VirtioStructure::Common)? {
            Some(common) => {
                let windows = modern_windows(&client, common)?;
                let transport = ModernTransport::new(windows, device_type, self.interrupts)?;
                Ok(AnyTransport::Modern(transport))
            }
            None => match client.bar(Deadline::NEVER, 0)? {
                (BarKind::Ports { first, count }, handle) => {
                    let ports = PortWindow::attach(IoPorts::from_handle(handle), first, count)?;
                    let transport = LegacyTransport::new(ports, device_type, self.interrupts);
                    Ok(AnyTransport::Legacy(transport))
                }
                memory => {
                    let transport = MmioTransport::new(map_bar(memory)?, device_type)?;
                    Ok(AnyTransport::Mmio(transport))
                }
            },
        }
    }
}

/// Claims a device of one of these numbers; false where there is none.
fn claim_any(client: &PciClient<Kernel>, numbers: [u16; 2]) -> Result<bool, SetupError> {
    for attempt in 0..CLAIM_ATTEMPTS {
        let mut busy = None;
        for number in numbers {
            let wanted = Match {
                vendor: Some(VENDOR),
                device: Some(number),
                ..Match::default()
            };
            match client.claim(Deadline::NEVER, wanted) {
                Ok(_) => return Ok(true),
                Err(CallError::Service(PciError::NoSuchDevice)) => {}
                Err(error @ CallError::Service(PciError::DeviceBusy)) => busy = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        match busy {
            None => return Ok(false),
            Some(error) if attempt + 1 == CLAIM_ATTEMPTS => return Err(error.into()),
            Some(_) => clock::sleep(CLAIM_PAUSE),
        }
    }
    Ok(false)
}

type Interrupts = (InterruptMode, [Option<Interrupt>; VECTORS as usize]);

/// Asks for a vector each for configuration and queues; a device with fewer shares the last.
fn set_up_interrupts(
    client: &PciClient<Kernel>,
    notification: &Notification,
    bits: InterruptBits,
) -> Result<Interrupts, SetupError> {
    let mut handles = [None, None, None];
    let mut vectors = 0;
    for (entry, slot) in (0u16..).zip(handles.iter_mut()) {
        let bit = bits[usize::from(entry)];
        let made = client.interrupt(Deadline::NEVER, entry, bit, notification.handle());
        let (kind, handle) = match made {
            Ok(made) => made,
            Err(_) if entry > 0 => break,
            Err(error) => return Err(error.into()),
        };
        *slot = Some(Interrupt::from_handle(handle));
        if !matches!(kind, InterruptKind::MsiX { .. }) {
            // One interrupt serves all; its cause is in the ISR status.
            return Ok((InterruptMode::Line, handles));
        }
        vectors += 1;
    }
    Ok((InterruptMode::Message { vectors }, handles))
}

/// Maps the register structures of a modern device. Several lie in one BAR as a rule, which is
/// asked for once.
fn modern_windows(
    client: &PciClient<Kernel>,
    common: VirtioLocation,
) -> Result<ModernWindows<MappedWindow>, SetupError> {
    let mut bars: [Option<MappedWindow>; 6] = [const { None }; 6];
    let mut window = |place: VirtioLocation| -> Result<MappedWindow, SetupError> {
        let slot = bars
            .get_mut(usize::from(place.bar))
            .ok_or(VirtioError::BadWindow)?;
        if slot.is_none() {
            *slot = Some(map_bar(client.bar(Deadline::NEVER, place.bar)?)?);
        }
        let bar = slot.as_ref().ok_or(VirtioError::BadWindow)?;
        let part = bar.part(place.offset as usize, place.bytes as usize);
        Ok(part.ok_or(VirtioError::BadWindow)?)
    };
    let find = |structure| client.virtio_structure(Deadline::NEVER, structure);
    let notify = find(VirtioStructure::Notify)?.ok_or(VirtioError::BadWindow)?;
    let isr = find(VirtioStructure::InterruptStatus)?.ok_or(VirtioError::BadWindow)?;
    let device = find(VirtioStructure::Device)?;
    Ok(ModernWindows {
        common: window(common)?,
        notify: window(notify)?,
        notify_multiplier: notify.notify_multiplier,
        isr: window(isr)?,
        device: device.map(&mut window).transpose()?,
    })
}

/// Maps a memory BAR; the window is the BAR without what else is on its pages.
fn map_bar((kind, handle): (BarKind, Handle)) -> Result<MappedWindow, SetupError> {
    let memory = Memory::from_handle(handle);
    let BarKind::Memory { offset, bytes, .. } = kind else {
        return Err(VirtioError::BadWindow.into());
    };
    let mapping = Mapping::whole(&memory, Access::Write)?;
    let window = MappedWindow::new(mapping).ok_or(Error::InvalidArgument)?;
    let part = window.part(offset as usize, bytes as usize);
    Ok(part.ok_or(VirtioError::BadWindow)?)
}
