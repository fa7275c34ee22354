//! The modern PCI transport: register structures in memory BARs, found by vendor-specific
//! capabilities (VIRTIO 1.2, section 4.1.4). pci reads the capabilities and hands the windows over.

use alloc::vec::Vec;

use pci_function::InterruptMode;
use registers::Registers;
use virtio_drivers::{
    Error, PhysAddr, Result,
    transport::{DeviceStatus, DeviceType, InterruptStatus, Transport},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::transport::{CONFIGURATION_CAUSE, VirtioTransport, queue_cause};
use crate::{VirtioError, fields};

/// Offsets in the common configuration structure (VIRTIO 1.2, section 4.1.4.3).
mod common {
    /// Selects 32 feature bits of the device, 32 bits.
    pub(super) const DEVICE_FEATURE_SELECT: usize = 0x00;
    /// The bits selected, 32 bits, read.
    pub(super) const DEVICE_FEATURE: usize = 0x04;
    /// Selects 32 feature bits of the driver, 32 bits.
    pub(super) const DRIVER_FEATURE_SELECT: usize = 0x08;
    /// The bits selected, 32 bits.
    pub(super) const DRIVER_FEATURE: usize = 0x0c;
    /// Vector of configuration changes, 16 bits.
    pub(super) const CONFIGURATION_VECTOR: usize = 0x10;
    /// Device status, 8 bits.
    pub(super) const DEVICE_STATUS: usize = 0x14;
    /// Changes with the device's configuration, 8 bits, read.
    pub(super) const CONFIGURATION_GENERATION: usize = 0x15;
    /// Selects a queue, 16 bits.
    pub(super) const QUEUE_SELECT: usize = 0x16;
    /// Its size: read the largest, write the one chosen, 16 bits.
    pub(super) const QUEUE_SIZE: usize = 0x18;
    /// Its vector, 16 bits.
    pub(super) const QUEUE_VECTOR: usize = 0x1a;
    /// Its enable flag, 16 bits.
    pub(super) const QUEUE_ENABLE: usize = 0x1c;
    /// Where it is notified, in units of the multiplier, 16 bits, read.
    pub(super) const QUEUE_NOTIFY_OFFSET: usize = 0x1e;
    /// Physical address of its descriptors, 64 bits.
    pub(super) const QUEUE_DESCRIPTORS: usize = 0x20;
    /// Physical address of its available ring, 64 bits.
    pub(super) const QUEUE_DRIVER: usize = 0x28;
    /// Physical address of its used ring, 64 bits.
    pub(super) const QUEUE_DEVICE: usize = 0x30;
    /// Length of what this driver uses of the structure.
    pub(super) const LENGTH: usize = 0x38;
}

/// The register structures of a device, each a window of its own.
#[derive(Debug)]
pub struct ModernWindows<R: Registers> {
    /// Common configuration (VIRTIO_PCI_CAP_COMMON_CFG).
    pub common: R,
    /// Notification area (VIRTIO_PCI_CAP_NOTIFY_CFG).
    pub notify: R,
    /// `notify_off_multiplier` of that capability.
    pub notify_multiplier: u32,
    /// ISR status (VIRTIO_PCI_CAP_ISR_CFG).
    pub isr: R,
    /// The device's own configuration (VIRTIO_PCI_CAP_DEVICE_CFG), where it has one.
    pub device: Option<R>,
}

/// A device behind the modern transport.
#[derive(Debug)]
pub struct ModernTransport<R: Registers> {
    windows: ModernWindows<R>,
    device_type: DeviceType,
    interrupts: InterruptMode,
    /// Offset in the notification area, a queue each.
    notify_offsets: Vec<usize>,
    failure: Option<VirtioError>,
}

impl<R: Registers> ModernTransport<R> {
    /// The device of this type behind its register windows; `interrupts` says what pci has
    /// switched on.
    pub fn new(
        windows: ModernWindows<R>,
        device_type: DeviceType,
        interrupts: InterruptMode,
    ) -> core::result::Result<Self, VirtioError> {
        let complete = windows.common.length() >= common::LENGTH && windows.isr.length() >= 1;
        if !complete {
            return Err(VirtioError::BadWindow);
        }
        Ok(ModernTransport {
            windows,
            device_type,
            interrupts,
            notify_offsets: Vec::new(),
            failure: None,
        })
    }

    fn select(&self, queue: u16) {
        self.windows.common.write16(common::QUEUE_SELECT, queue);
    }

    /// Writes a vector and reads it back: a device without resources for it answers "no vector"
    /// (VIRTIO 1.2, section 4.1.5.1.2.1). Then the first one serves this cause too.
    fn route(&mut self, offset: usize, vector: u16) {
        for vector in [vector, 0] {
            self.windows.common.write16(offset, vector);
            if self.windows.common.read16(offset) == vector {
                return;
            }
        }
        self.failure.get_or_insert(VirtioError::VectorRefused);
    }

    /// Reads where the selected queue is notified (VIRTIO 1.2, section 4.1.4.4).
    fn learn_notify_offset(&mut self, queue: u16) {
        let offset = u64::from(self.windows.common.read16(common::QUEUE_NOTIFY_OFFSET))
            * u64::from(self.windows.notify_multiplier);
        let inside = offset
            .checked_add(2)
            .is_some_and(|end| end <= self.windows.notify.length() as u64);
        if !inside || offset % 2 != 0 {
            self.failure.get_or_insert(VirtioError::BadWindow);
            return;
        }
        let index = usize::from(queue);
        if self.notify_offsets.len() <= index {
            self.notify_offsets.resize(index + 1, usize::MAX);
        }
        self.notify_offsets[index] = offset as usize;
    }
}

impl<R: Registers> VirtioTransport for ModernTransport<R> {
    fn route_configuration_interrupt(&mut self) {
        if let Some(vector) = self.interrupts.vector(CONFIGURATION_CAUSE) {
            self.route(common::CONFIGURATION_VECTOR, vector);
        }
    }

    fn failure(&self) -> Option<VirtioError> {
        self.failure
    }

    fn forget(&mut self) {
        self.failure = None;
        self.notify_offsets.clear();
    }
}

impl<R: Registers> Transport for ModernTransport<R> {
    fn device_type(&self) -> DeviceType {
        self.device_type
    }

    fn read_device_features(&mut self) -> u64 {
        let half = |select| {
            self.windows
                .common
                .write32(common::DEVICE_FEATURE_SELECT, select);
            u64::from(self.windows.common.read32(common::DEVICE_FEATURE))
        };
        half(0) | half(1) << 32
    }

    fn write_driver_features(&mut self, driver_features: u64) {
        for (select, half) in [driver_features as u32, (driver_features >> 32) as u32]
            .into_iter()
            .enumerate()
        {
            self.windows
                .common
                .write32(common::DRIVER_FEATURE_SELECT, select as u32);
            self.windows.common.write32(common::DRIVER_FEATURE, half);
        }
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.select(queue);
        self.windows.common.read16(common::QUEUE_SIZE).into()
    }

    fn notify(&mut self, queue: u16) {
        // A queue that was not set up has no offset: the write then lands nowhere.
        let offset = self
            .notify_offsets
            .get(usize::from(queue))
            .copied()
            .unwrap_or(usize::MAX);
        self.windows.notify.write16(offset, queue);
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(self.windows.common.read8(common::DEVICE_STATUS).into())
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.windows
            .common
            .write8(common::DEVICE_STATUS, status.bits() as u8);
    }

    fn set_guest_page_size(&mut self, _guest_page_size: u32) {
        // Addresses are in bytes here.
    }

    fn requires_legacy_layout(&self) -> bool {
        false
    }

    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        self.select(queue);
        self.learn_notify_offset(queue);
        self.windows.common.write16(common::QUEUE_SIZE, size as u16);
        if let Some(vector) = self.interrupts.vector(queue_cause(queue)) {
            self.route(common::QUEUE_VECTOR, vector);
        }
        fields::write_address(&self.windows.common, common::QUEUE_DESCRIPTORS, descriptors);
        fields::write_address(&self.windows.common, common::QUEUE_DRIVER, driver_area);
        fields::write_address(&self.windows.common, common::QUEUE_DEVICE, device_area);
        // Enabling comes last (VIRTIO 1.2, section 4.1.5.1.3).
        self.windows.common.write16(common::QUEUE_ENABLE, 1);
    }

    fn queue_unset(&mut self, _queue: u16) {
        // A queue is only disabled by a reset: a driver must not write 0 to the enable flag
        // (VIRTIO 1.2, section 4.1.4.3.2).
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.select(queue);
        self.windows.common.read16(common::QUEUE_ENABLE) != 0
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        // Reading clears it and lowers the line (VIRTIO 1.2, section 4.1.4.5).
        InterruptStatus::from_bits_truncate(self.windows.isr.read8(0).into())
    }

    fn read_config_generation(&self) -> u32 {
        self.windows
            .common
            .read8(common::CONFIGURATION_GENERATION)
            .into()
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        let window = self.windows.device.as_ref();
        fields::read(window.ok_or(Error::ConfigSpaceMissing)?, 0, offset)
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> Result<()> {
        let window = self.windows.device.as_ref();
        fields::write(window.ok_or(Error::ConfigSpaceMissing)?, 0, offset, value)
    }
}
