//! A slot of virtio-mmio (VIRTIO 1.2, section 4.2): a window of registers on no bus, behind which a
//! device is or none. The server reads what it is and stops it; all else is its driver's.

use ipc::Error;
use ipc::interface::pci::PciFunction;
use registers::Registers;

use crate::bar::{BARS, Bar};
use crate::bus::Function;
use crate::capability::Capabilities;
use crate::platform::Platform;
use crate::shifted::Shifted;
use crate::words::SlotWord;

/// Register offsets (VIRTIO 1.2, section 4.2.2, table 4.1), and what the magic one reads.
const MAGIC: usize = 0x000;
const VERSION: usize = 0x004;
const DEVICE_ID: usize = 0x008;
const STATUS: usize = 0x070;
const MAGIC_VALUE: u32 = 0x7472_6976;
/// Versions of the interface (VIRTIO 1.2, section 4.2.2 and, for the first, 4.2.4). The registers
/// above are the same in both.
const LEGACY: u32 = 1;
const MODERN: u32 = 2;
/// Vendor of virtio's PCI functions, and what is added to a device's type for its number there
/// (VIRTIO 1.2, section 4.1.2), up to the last of that range.
const PCI_VENDOR: u16 = 0x1af4;
const PCI_DEVICE: u16 = 0x1040;
const PCI_DEVICES: u32 = 0x40;
/// Times the status is read before a device counts as one that does not stop. Resets are done when
/// the write is, in every hypervisor; a device that takes its time is not waited for.
const STOP_READINGS: u32 = 1000;
/// Unit of what can be mapped, in bytes.
const PAGE: u64 = ipc::layout::PAGE_BYTES;

/// What is in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// A device that can be claimed.
    Device,
    /// No device (VIRTIO 1.2, section 4.2.3.1: its type reads 0).
    Empty,
    /// A device of version 1, which no driver here speaks. It is stopped.
    Legacy,
    /// Registers that are not virtio's, or of a version or type that the specification does not have.
    Unknown,
    /// A device that does not stop.
    Running,
    /// The kernel does not let the registers be mapped.
    Unreachable(Error),
}

/// A slot that the command line names.
pub struct Slot {
    /// Where it is.
    pub word: SlotWord,
    /// What is in it, when the server started.
    pub state: SlotState,
    /// The device's type; 0 for none that can be claimed.
    kind: u16,
    /// Its registers; none where they cannot be reached.
    registers: Option<Shifted>,
}

impl Slot {
    /// Looks at a slot, and stops what is in it.
    pub(crate) fn find(word: SlotWord, platform: &mut impl Platform) -> Slot {
        let start = word.address / PAGE * PAGE;
        let mut slot = Slot {
            word,
            state: SlotState::Unknown,
            kind: 0,
            registers: None,
        };
        match platform.map_registers(start, PAGE) {
            Ok(registers) => {
                let skip = (word.address - start) as usize;
                let registers = slot.registers.insert(Shifted { registers, skip });
                (slot.state, slot.kind) = look(registers);
            }
            Err(error) => slot.state = SlotState::Unreachable(error),
        }
        let virtio = matches!(slot.state, SlotState::Device | SlotState::Legacy);
        if virtio && !slot.stop() {
            slot.state = SlotState::Running;
        }
        slot
    }

    /// Resets the device: it reads and writes no memory and raises no interrupt until its driver
    /// starts it. False where it does not confirm that (VIRTIO 1.2, section 2.4.2).
    pub(crate) fn stop(&self) -> bool {
        if let Some(registers) = &self.registers {
            registers.write32(STATUS, 0);
        }
        (0..STOP_READINGS).any(|_| !self.runs())
    }

    /// Whether the device is in any state but that after a reset.
    pub(crate) fn runs(&self) -> bool {
        let status = |registers: &Shifted| registers.read32(STATUS);
        self.registers.as_ref().map_or(0, status) != 0
    }

    /// The device as the list of functions has it, if it can be claimed. `position` is the slot's.
    pub(crate) fn function(&self, position: usize) -> Option<Function> {
        if self.state != SlotState::Device {
            return None;
        }
        let mut bars = [None; BARS];
        bars[0] = Some(Bar::Memory {
            address: self.word.address,
            bytes: self.word.bytes,
            prefetchable: false,
        });
        Some(Function {
            header: PciFunction {
                vendor: PCI_VENDOR,
                device: PCI_DEVICE + self.kind,
                registers: Some(self.word.address),
                ..PciFunction::default()
            },
            bars,
            capabilities: Capabilities::default(),
            upstream: None,
            bridge: false,
            slot: Some(position),
        })
    }
}

/// What is behind the registers, and the type of a device that can be claimed. The type is read once: the
/// next time it may be another.
fn look(registers: &Shifted) -> (SlotState, u16) {
    if registers.read32(MAGIC) != MAGIC_VALUE {
        return (SlotState::Unknown, 0);
    }
    match (registers.read32(VERSION), registers.read32(DEVICE_ID)) {
        (LEGACY | MODERN, 0) => (SlotState::Empty, 0),
        (LEGACY, _) => (SlotState::Legacy, 0),
        (MODERN, kind @ 1..PCI_DEVICES) => (SlotState::Device, kind as u16),
        _ => (SlotState::Unknown, 0),
    }
}
