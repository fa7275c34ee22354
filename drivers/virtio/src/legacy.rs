//! The legacy PCI transport: one window of I/O ports, BAR0 (VIRTIO 1.2, section 4.1.4.10). Google
//! Compute Engine's devices speak it, and QEMU's with `disable-modern=true`.
//!
//! What differs from the modern one: the queue's size is the device's and cannot be changed, its
//! rings are one contiguous block named by a page number, features have 32 bits and no handshake,
//! and the device's configuration begins 4 bytes later while MSI-X is on.

use pci_function::InterruptMode;
use registers::Ports;
use virtio_drivers::{
    Error, PhysAddr, Result,
    transport::{DeviceStatus, DeviceType, InterruptStatus, Transport},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::VirtioError;
use crate::transport::{CONFIGURATION_CAUSE, NO_VECTOR, VirtioTransport, queue_cause};

/// Register offsets (VIRTIO 1.2, section 4.1.4.10).
mod register {
    /// Features of the device, 32 bits, read.
    pub(super) const DEVICE_FEATURES: u16 = 0x00;
    /// Features of the driver, 32 bits.
    pub(super) const DRIVER_FEATURES: u16 = 0x04;
    /// Page number of the selected queue's rings, 32 bits.
    pub(super) const QUEUE_ADDRESS: u16 = 0x08;
    /// Size of the selected queue, 16 bits, read.
    pub(super) const QUEUE_SIZE: u16 = 0x0c;
    /// Selects a queue, 16 bits.
    pub(super) const QUEUE_SELECT: u16 = 0x0e;
    /// Notifies a queue, 16 bits.
    pub(super) const QUEUE_NOTIFY: u16 = 0x10;
    /// Device status, 8 bits.
    pub(super) const DEVICE_STATUS: u16 = 0x12;
    /// ISR status, 8 bits; reading lowers the line and clears it.
    pub(super) const ISR_STATUS: u16 = 0x13;
    /// Vector of configuration changes, 16 bits; there only while MSI-X is on.
    pub(super) const CONFIGURATION_VECTOR: u16 = 0x14;
    /// Vector of the selected queue, 16 bits; there only while MSI-X is on.
    pub(super) const QUEUE_VECTOR: u16 = 0x16;
    /// Start of the device's configuration while MSI-X is off.
    pub(super) const CONFIGURATION: u16 = 0x14;
    /// Start of the device's configuration while MSI-X is on.
    pub(super) const CONFIGURATION_WITH_MSIX: u16 = 0x18;
}

/// Unit of the queue address register in bytes (VIRTIO 1.2, section 4.1.5.1.3).
const QUEUE_ALIGNMENT: u64 = 4096;

/// A device behind the legacy transport.
#[derive(Debug)]
pub struct LegacyTransport<P: Ports> {
    ports: P,
    device_type: DeviceType,
    interrupts: InterruptMode,
    failure: Option<VirtioError>,
}

impl<P: Ports> LegacyTransport<P> {
    /// The device of this type behind the ports of its BAR0. `interrupts` says what pci has
    /// switched on: it decides where the device's configuration lies.
    pub fn new(ports: P, device_type: DeviceType, interrupts: InterruptMode) -> Self {
        LegacyTransport {
            ports,
            device_type,
            interrupts,
            failure: None,
        }
    }

    /// Offset of `length` bytes at `offset` of the device's configuration.
    fn configuration(&self, offset: usize, length: usize) -> Result<u16> {
        let base = match self.interrupts {
            InterruptMode::Line => register::CONFIGURATION,
            InterruptMode::Message { .. } => register::CONFIGURATION_WITH_MSIX,
        };
        let start = usize::from(base)
            .checked_add(offset)
            .ok_or(Error::ConfigSpaceTooSmall)?;
        let end = start
            .checked_add(length)
            .ok_or(Error::ConfigSpaceTooSmall)?;
        if end > usize::from(self.ports.length()) {
            return Err(Error::ConfigSpaceTooSmall);
        }
        u16::try_from(start).map_err(|_| Error::ConfigSpaceTooSmall)
    }

    fn select(&self, queue: u16) {
        self.ports.write16(register::QUEUE_SELECT, queue);
    }

    /// Writes a vector and reads it back: a device without resources for it answers "no vector"
    /// (VIRTIO 1.2, section 4.1.5.1.2.1). Then the first one serves this cause too.
    fn route(&mut self, offset: u16, vector: u16) {
        for vector in [vector, 0] {
            self.ports.write16(offset, vector);
            if self.ports.read16(offset) == vector {
                return;
            }
        }
        self.failure.get_or_insert(VirtioError::VectorRefused);
    }
}

impl<P: Ports> VirtioTransport for LegacyTransport<P> {
    fn route_configuration_interrupt(&mut self) {
        if let Some(vector) = self.interrupts.vector(CONFIGURATION_CAUSE) {
            self.route(register::CONFIGURATION_VECTOR, vector);
        }
    }

    fn failure(&self) -> Option<VirtioError> {
        self.failure
    }

    fn forget(&mut self) {
        self.failure = None;
    }
}

impl<P: Ports> Transport for LegacyTransport<P> {
    fn device_type(&self) -> DeviceType {
        self.device_type
    }

    fn read_device_features(&mut self) -> u64 {
        self.ports.read32(register::DEVICE_FEATURES).into()
    }

    fn write_driver_features(&mut self, driver_features: u64) {
        // Bits above 31 are none of a legacy device's; `read_device_features` never shows one.
        self.ports
            .write32(register::DRIVER_FEATURES, driver_features as u32);
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.select(queue);
        self.ports.read16(register::QUEUE_SIZE).into()
    }

    fn notify(&mut self, queue: u16) {
        self.ports.write16(register::QUEUE_NOTIFY, queue);
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(self.ports.read8(register::DEVICE_STATUS).into())
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.ports
            .write8(register::DEVICE_STATUS, status.bits() as u8);
    }

    fn set_guest_page_size(&mut self, _guest_page_size: u32) {
        // The unit of this transport's queue address is fixed.
    }

    fn requires_legacy_layout(&self) -> bool {
        true
    }

    fn queue_set(
        &mut self,
        queue: u16,
        _size: u32,
        descriptors: PhysAddr,
        _driver_area: PhysAddr,
        _device_area: PhysAddr,
    ) {
        let Ok(page) = u32::try_from(descriptors / QUEUE_ALIGNMENT) else {
            self.failure.get_or_insert(VirtioError::OutOfReach);
            return;
        };
        self.select(queue);
        if let Some(vector) = self.interrupts.vector(queue_cause(queue)) {
            self.route(register::QUEUE_VECTOR, vector);
        }
        self.ports.write32(register::QUEUE_ADDRESS, page);
    }

    fn queue_unset(&mut self, queue: u16) {
        self.select(queue);
        if self.interrupts != InterruptMode::Line {
            self.ports.write16(register::QUEUE_VECTOR, NO_VECTOR);
        }
        self.ports.write32(register::QUEUE_ADDRESS, 0);
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.select(queue);
        self.ports.read32(register::QUEUE_ADDRESS) != 0
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        InterruptStatus::from_bits_truncate(self.ports.read8(register::ISR_STATUS).into())
    }

    fn read_config_generation(&self) -> u32 {
        // A legacy device has none: a field wider than a byte can change while it is read
        // (VIRTIO 1.2, section 2.5.3).
        0
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        let start = self.configuration(offset, size_of::<T>())?;
        let mut value = T::new_zeroed();
        // Legacy configuration is read byte by byte (VIRTIO 1.2, section 4.1.3.1).
        for (index, byte) in (0u16..).zip(value.as_mut_bytes()) {
            *byte = self.ports.read8(start + index);
        }
        Ok(value)
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> Result<()> {
        let start = self.configuration(offset, size_of::<T>())?;
        for (index, byte) in (0u16..).zip(value.as_bytes()) {
            self.ports.write8(start + index, *byte);
        }
        Ok(())
    }
}
