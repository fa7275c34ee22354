//! A claimed function: the session with pci that holds it, its interrupts and its registers.

use alloc::vec::Vec;

use ipc::client::{CallError, Deadline};
use ipc::interface::pci::{self, BarKind, InterruptKind, Match, PciClient, PciError, PciFunction};
use registers::hardware::{MappedWindow, PortWindow};
use runtime::mapping::Access;
use runtime::ports::{Interrupt, IoPorts};
use runtime::service::{Session, connect_to};
use runtime::{Error, Kernel, Mapping, Memory, Notification, clock};

use crate::SetupError;

/// Times a device is asked for that an earlier instance of the driver still holds: pci hears of its
/// death a moment later.
const CLAIM_ATTEMPTS: u32 = 200;
/// Time between those.
const CLAIM_PAUSE: core::time::Duration = core::time::Duration::from_millis(10);

/// How a device tells that it has something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterruptMode {
    /// By its INTx line, or by a single message without a table: the device's own registers say why,
    /// and reading them lowers the line.
    Line,
    /// By MSI-X, with this many vectors (at least 1).
    Message {
        /// Number of vectors that pci has set up.
        vectors: u16,
    },
}

impl InterruptMode {
    /// The vector of a cause, by its number; none where the device interrupts by its line. Each cause
    /// has its own as far as there are vectors, and the last serves all that remain.
    pub fn vector(self, cause: u16) -> Option<u16> {
        match self {
            InterruptMode::Line => None,
            InterruptMode::Message { vectors } => Some(cause.min(vectors.saturating_sub(1))),
        }
    }
}

/// What a base address register says where.
#[derive(Debug)]
pub enum Bar {
    /// Memory-mapped registers.
    Registers(MappedWindow),
    /// I/O ports.
    Ports(PortWindow),
}

/// A claimed function. Dropping it ends the session, and pci takes everything back.
#[derive(Debug)]
pub struct Function {
    session: Session,
    header: PciFunction,
    alike: u16,
    interrupts: InterruptMode,
    /// Kept for as long as the device: a line is to be acknowledged.
    handles: Vec<Interrupt>,
}

impl Function {
    /// Claims the first free function of one of these kinds, with its interrupts bound to the
    /// notification: one for each of `bits`, the first of which is for all causes where the device
    /// has but one interrupt. Bus mastering is still off. `None` where the machine has no such device.
    pub fn claim(
        kinds: &[Match],
        notification: &Notification,
        bits: &[u64],
        messages: bool,
    ) -> Result<Option<Function>, SetupError> {
        let session = connect_to("pci", pci::NUMBER, Deadline::NEVER);
        let session = session.map_err(SetupError::Connect)?;
        let client = PciClient::new(Kernel, session.handle());
        let Some(header) = claim_any(&client, kinds)? else {
            return Ok(None);
        };
        let alike = count(&client, kinds)?;
        let (interrupts, handles) = set_up_interrupts(&client, notification, bits, messages)?;
        Ok(Some(Function {
            session,
            header,
            alike,
            interrupts,
            handles,
        }))
    }

    /// The pci session that holds the function.
    pub fn pci(&self) -> PciClient<Kernel> {
        PciClient::new(Kernel, self.session.handle())
    }

    /// What it says it is.
    pub fn header(&self) -> &PciFunction {
        &self.header
    }

    /// How many functions of the kinds that were asked for the machine has, this one included.
    pub fn alike(&self) -> u16 {
        self.alike
    }

    /// How it interrupts.
    pub fn interrupts(&self) -> InterruptMode {
        self.interrupts
    }

    /// Lets the interrupt line come again, after its cause was read.
    pub fn acknowledge(&self) {
        if self.interrupts == InterruptMode::Line
            && let Some(interrupt) = self.handles.first()
        {
            // The handle is good as long as the session is; without the session nothing is.
            let _ = interrupt.acknowledge();
        }
    }

    /// Maps or attaches a base address register's range, whichever it is of. The window on memory is
    /// the range without what else is on its pages.
    pub fn bar(&self, bar: u8) -> Result<Bar, SetupError> {
        let (kind, handle) = self.pci().bar(Deadline::NEVER, bar)?;
        match kind {
            BarKind::Memory { offset, bytes, .. } => {
                let mapping = Mapping::whole(&Memory::from_handle(handle), Access::Write)?;
                let window = MappedWindow::new(mapping).ok_or(Error::InvalidArgument)?;
                let part = window.part(offset as usize, bytes as usize);
                Ok(Bar::Registers(part.ok_or(SetupError::WrongBar)?))
            }
            BarKind::Ports { first, count } => {
                let ports = IoPorts::from_handle(handle);
                Ok(Bar::Ports(PortWindow::attach(ports, first, count)?))
            }
        }
    }

    /// The range of a base address register that is to be memory.
    pub fn registers(&self, bar: u8) -> Result<MappedWindow, SetupError> {
        match self.bar(bar)? {
            Bar::Registers(window) => Ok(window),
            Bar::Ports(_) => Err(SetupError::WrongBar),
        }
    }
}

/// Whether a function is of this kind.
fn is_of(function: &PciFunction, kind: &Match) -> bool {
    let equal = |wanted: Option<u16>, is: u16| wanted.is_none_or(|wanted| wanted == is);
    let address = kind.address;
    address.is_none_or(|address| address == function.address)
        && equal(kind.vendor, function.vendor)
        && equal(kind.device, function.device)
        && equal(kind.class, (function.class >> 8) as u16)
}

/// How many functions of these kinds the machine has.
fn count(client: &PciClient<Kernel>, kinds: &[Match]) -> Result<u16, SetupError> {
    let (mut seen, mut found) = (0u16, 0u16);
    loop {
        let list = client.list(Deadline::NEVER, seen)?;
        if list.functions.is_empty() {
            return Ok(found);
        }
        // Numbers of functions fit: a bus has at most 65,536, and pci tells them by 16 bits.
        seen = seen.saturating_add(list.functions.len() as u16);
        for function in &list.functions {
            found += u16::from(kinds.iter().any(|kind| is_of(function, kind)));
        }
        if seen >= list.total {
            return Ok(found);
        }
    }
}

/// Claims a function of one of these kinds; `None` where there is none.
fn claim_any(
    client: &PciClient<Kernel>,
    kinds: &[Match],
) -> Result<Option<PciFunction>, SetupError> {
    for attempt in 0..CLAIM_ATTEMPTS {
        let mut busy = None;
        for kind in kinds {
            match client.claim(Deadline::NEVER, *kind) {
                Ok(header) => return Ok(Some(header)),
                Err(CallError::Service(PciError::NoSuchDevice)) => {}
                Err(error @ CallError::Service(PciError::DeviceBusy)) => busy = Some(error),
                Err(error) => return Err(error.into()),
            }
        }
        match busy {
            None => return Ok(None),
            Some(error) if attempt + 1 == CLAIM_ATTEMPTS => return Err(error.into()),
            Some(_) => clock::sleep(CLAIM_PAUSE),
        }
    }
    Ok(None)
}

/// Asks for a vector each; a device with fewer shares the last.
fn set_up_interrupts(
    client: &PciClient<Kernel>,
    notification: &Notification,
    bits: &[u64],
    messages: bool,
) -> Result<(InterruptMode, Vec<Interrupt>), SetupError> {
    let mut handles = Vec::new();
    for (entry, bit) in (0u16..).zip(bits) {
        let handle = notification.handle();
        let made = client.interrupt(Deadline::NEVER, entry, messages, *bit, handle);
        let (kind, handle) = match made {
            Ok(made) => made,
            Err(_) if entry > 0 => break,
            Err(error) => return Err(error.into()),
        };
        handles.push(Interrupt::from_handle(handle));
        if !matches!(kind, InterruptKind::MsiX { .. }) {
            return Ok((InterruptMode::Line, handles));
        }
    }
    let vectors = handles.len() as u16;
    Ok((InterruptMode::Message { vectors }, handles))
}

#[cfg(test)]
mod tests {
    use super::{InterruptMode, is_of};
    use ipc::interface::pci::{Match, PciFunction};

    #[test]
    fn causes_share_the_last_vector_when_vectors_are_few() {
        assert_eq!(InterruptMode::Line.vector(0), None);
        let vectors_of =
            |vectors| [0, 1, 2, 3].map(|cause| InterruptMode::Message { vectors }.vector(cause));
        assert_eq!(vectors_of(1), [Some(0); 4]);
        assert_eq!(vectors_of(2), [Some(0), Some(1), Some(1), Some(1)]);
        assert_eq!(vectors_of(3), [Some(0), Some(1), Some(2), Some(2)]);
    }

    #[test]
    fn every_field_that_is_given_decides() {
        let function = PciFunction {
            vendor: 0x8086,
            device: 0x100e,
            class: 0x02_00_00,
            ..PciFunction::default()
        };
        let kind = Match {
            vendor: Some(0x8086),
            class: Some(0x0200),
            ..Match::default()
        };
        assert!(is_of(&function, &Match::default()) && is_of(&function, &kind));
        let others = [
            Match {
                vendor: Some(0x1af4),
                ..kind
            },
            Match {
                device: Some(0x1000),
                ..kind
            },
            Match {
                class: Some(0x0100),
                ..kind
            },
        ];
        assert!(others.iter().all(|other| !is_of(&function, other)));
    }
}
