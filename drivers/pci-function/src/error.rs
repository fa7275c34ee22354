//! Why a driver could not get at its device.

use ipc::client::CallError;
use ipc::interface::pci::PciError;
use ipc::interface::service::ConnectError;
use runtime::Error;

/// No DMA memory is left, or a range is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfDmaMemory;

/// Why a driver could not get at its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetupError {
    /// The kernel's answer.
    Kernel(Error),
    /// No session with pci.
    Connect(CallError<ConnectError>),
    /// pci's answer.
    Pci(CallError<PciError>),
    /// No DMA memory is left.
    OutOfDmaMemory,
    /// A base address register is not of the kind that the device should have there.
    WrongBar,
}

impl From<Error> for SetupError {
    fn from(error: Error) -> SetupError {
        SetupError::Kernel(error)
    }
}

impl From<CallError<PciError>> for SetupError {
    fn from(error: CallError<PciError>) -> SetupError {
        SetupError::Pci(error)
    }
}

impl From<OutOfDmaMemory> for SetupError {
    fn from(OutOfDmaMemory: OutOfDmaMemory) -> SetupError {
        SetupError::OutOfDmaMemory
    }
}
