//! From a device of pci's to a transport: claims a virtio device and finds its registers. Devices that
//! speak both PCI transports are spoken to in the modern one.

use ipc::client::Deadline;
use ipc::interface::pci::{Match, VirtioLocation, VirtioStructure};
use pci_function::{Attached, Bar, Function};
use registers::hardware::{MappedWindow, PortWindow};
use runtime::Notification;
use virtio_drivers::transport::DeviceType;

use crate::{
    AnyTransport, LegacyTransport, MmioTransport, ModernTransport, ModernWindows, VirtioError,
    queue,
};

/// Vendor of virtio devices (VIRTIO 1.2, section 4.1.2).
const VENDOR: u16 = 0x1af4;
/// First device number of devices that speak the legacy transport too (section 4.1.2.3).
const TRANSITIONAL: u16 = 0x1000;
/// What is added to a device's type for its number otherwise (section 4.1.2).
const MODERN: u16 = 0x1040;
/// Most vectors that are asked for: configuration, and a queue each way.
const VECTORS: usize = 3;
/// Bytes of the arena that a driver's queues are made of, at least: enough for two queues of 4,096, which
/// take 28 pages each (VIRTIO 1.2, section 2.7).
const LEAST_ARENA: u64 = 256 * 1024;
/// Bytes of it at most, however many queues there are, and however large.
const LARGEST_ARENA: u64 = 1024 * 1024;

/// Which bits of the driver's notification the device's interrupts set: one for each vector, that is
/// configuration, first queue, other queues. A line, or a single vector, sets the first.
pub type InterruptBits = [u64; VECTORS];

/// What is not to be used of a device although it has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Avoid {
    /// Interrupts by message: its line is used.
    pub messages: bool,
    /// The modern transport, of a device that has the legacy one too.
    pub modern: bool,
}

/// Why a driver could not get at its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetupError {
    /// The kernel, pci or the function.
    Function(pci_function::SetupError),
    /// The device is not what its kind should be.
    Device(VirtioError),
}

impl<E: Into<pci_function::SetupError>> From<E> for SetupError {
    fn from(error: E) -> SetupError {
        SetupError::Function(error.into())
    }
}

impl From<VirtioError> for SetupError {
    fn from(error: VirtioError) -> SetupError {
        SetupError::Device(error)
    }
}

/// The transport of a claimed device.
pub type FunctionTransport = AnyTransport<PortWindow, MappedWindow>;

/// Claims the first device of this type that is free, with its interrupts bound to the notification
/// and DMA memory for its queues. Bus mastering is still off. `None` where the machine has no such
/// device.
///
/// `queues` is how many the driver has a use for: there is memory for them, if they are not too large.
/// `legacy` is the number of its transitional kind: 0 for network, 1 for block (VIRTIO 1.2,
/// section 4.1.2.3).
pub fn claim(
    device_type: DeviceType,
    legacy: u16,
    notification: &Notification,
    bits: InterruptBits,
    avoid: Avoid,
    queues: u16,
) -> Result<Option<(Function, FunctionTransport)>, SetupError> {
    let numbers = [MODERN + device_type as u16, TRANSITIONAL + legacy];
    let kinds = numbers.map(|number| Match {
        vendor: Some(VENDOR),
        device: Some(number),
        ..Match::default()
    });
    let Some(function) = Function::claim(&kinds, notification, &bits, !avoid.messages)? else {
        return Ok(None);
    };
    let legacy = avoid.modern && function.header().device < MODERN;
    let mut transport = transport(&function, device_type, legacy)?;
    let arena = queue::bytes_for(&mut transport, queues).clamp(LEAST_ARENA, LARGEST_ARENA);
    // Less is enough for fewer queues.
    Attached::arena(&function.pci(), arena)
        .or_else(|_| Attached::arena(&function.pci(), LEAST_ARENA))?;
    Ok(Some((function, transport)))
}

fn transport(
    function: &Function,
    device_type: DeviceType,
    legacy: bool,
) -> Result<FunctionTransport, SetupError> {
    let interrupts = function.interrupts();
    let common = match legacy {
        false => {
            let common = VirtioStructure::Common;
            function.pci().virtio_structure(Deadline::NEVER, common)
        }
        true => Ok(None),
    };
    match common.map_err(pci_function::SetupError::from)? {
        Some(common) => {
            let windows = modern_windows(function, common)?;
            let transport = ModernTransport::new(windows, device_type, interrupts)?;
            Ok(AnyTransport::Modern(transport))
        }
        None => match function.bar(0)? {
            Bar::Ports(ports) => {
                let transport = LegacyTransport::new(ports, device_type, interrupts);
                Ok(AnyTransport::Legacy(transport))
            }
            Bar::Registers(window) => {
                let transport = MmioTransport::new(window, device_type)?;
                Ok(AnyTransport::Mmio(transport))
            }
        },
    }
}

/// Maps the register structures of a modern device. Several lie in one BAR as a rule, which is
/// asked for once.
fn modern_windows(
    function: &Function,
    common: VirtioLocation,
) -> Result<ModernWindows<MappedWindow>, SetupError> {
    let mut bars: [Option<MappedWindow>; 6] = [const { None }; 6];
    let mut window = |place: VirtioLocation| -> Result<MappedWindow, SetupError> {
        let slot = bars
            .get_mut(usize::from(place.bar))
            .ok_or(VirtioError::BadWindow)?;
        if slot.is_none() {
            *slot = Some(function.registers(place.bar)?);
        }
        let bar = slot.as_ref().ok_or(VirtioError::BadWindow)?;
        let part = bar.part(place.offset as usize, place.bytes as usize);
        Ok(part.ok_or(VirtioError::BadWindow)?)
    };
    let client = function.pci();
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
