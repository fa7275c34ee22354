//! The memory-mapped transport of machines without a PCI bus: one window of registers, and a line
//! (VIRTIO 1.2, section 4.2). pci finds the window and hands it over.
//!
//! The interface of version 1, which the specification calls legacy (section 4.2.4), is refused.

use registers::Registers;
use virtio_drivers::{
    PhysAddr, Result,
    transport::{DeviceStatus, DeviceType, InterruptStatus, Transport},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::transport::VirtioTransport;
use crate::{VirtioError, fields};

/// Register offsets (VIRTIO 1.2, section 4.2.2, table 4.1). All but those of the configuration have
/// 32 bits.
mod register {
    /// [`super::MAGIC`], read.
    pub(super) const MAGIC: usize = 0x000;
    /// Version of the interface, read.
    pub(super) const VERSION: usize = 0x004;
    /// Type of the device, read.
    pub(super) const DEVICE_ID: usize = 0x008;
    /// 32 feature bits of the device, read.
    pub(super) const DEVICE_FEATURES: usize = 0x010;
    /// Selects them.
    pub(super) const DEVICE_FEATURES_SELECT: usize = 0x014;
    /// 32 feature bits of the driver.
    pub(super) const DRIVER_FEATURES: usize = 0x020;
    /// Selects them.
    pub(super) const DRIVER_FEATURES_SELECT: usize = 0x024;
    /// Selects a queue.
    pub(super) const QUEUE_SELECT: usize = 0x030;
    /// Its largest size, read; 0 for a queue that the device does not have.
    pub(super) const QUEUE_SIZE_MAX: usize = 0x034;
    /// Its size.
    pub(super) const QUEUE_SIZE: usize = 0x038;
    /// Whether it is in use.
    pub(super) const QUEUE_READY: usize = 0x044;
    /// Notifies a queue.
    pub(super) const QUEUE_NOTIFY: usize = 0x050;
    /// Why the line is raised, read.
    pub(super) const INTERRUPT_STATUS: usize = 0x060;
    /// Takes causes back.
    pub(super) const INTERRUPT_ACKNOWLEDGE: usize = 0x064;
    /// Device status; writing 0 resets.
    pub(super) const STATUS: usize = 0x070;
    /// Physical address of the selected queue's descriptors, lower half; the upper one follows.
    pub(super) const QUEUE_DESCRIPTORS: usize = 0x080;
    /// Physical address of its available ring.
    pub(super) const QUEUE_DRIVER: usize = 0x090;
    /// Physical address of its used ring.
    pub(super) const QUEUE_DEVICE: usize = 0x0a0;
    /// Changes with the device's configuration, read.
    pub(super) const CONFIGURATION_GENERATION: usize = 0x0fc;
    /// The device's own configuration, to the end of the window.
    pub(super) const CONFIGURATION: usize = 0x100;
}

/// What the magic register reads: "virt" (VIRTIO 1.2, table 4.1).
const MAGIC: u32 = 0x7472_6976;
/// The version of the interface that is spoken here (VIRTIO 1.2, section 4.2.2.1).
const VERSION: u32 = 2;

/// A device behind memory-mapped registers.
#[derive(Debug)]
pub struct MmioTransport<R: Registers> {
    window: R,
    device_type: DeviceType,
}

impl<R: Registers> MmioTransport<R> {
    /// The device of this type behind its register window.
    ///
    /// Errors: BadWindow for a window that is too small, or has no virtio device of this type behind
    /// it; NotModern for one of version 1.
    pub fn new(window: R, device_type: DeviceType) -> core::result::Result<Self, VirtioError> {
        let found = window.length() >= register::CONFIGURATION
            && window.read32(register::MAGIC) == MAGIC
            && window.read32(register::DEVICE_ID) == device_type as u32;
        if !found {
            return Err(VirtioError::BadWindow);
        }
        if window.read32(register::VERSION) != VERSION {
            return Err(VirtioError::NotModern);
        }
        Ok(MmioTransport {
            window,
            device_type,
        })
    }

    fn select(&self, queue: u16) {
        self.window.write32(register::QUEUE_SELECT, queue.into());
    }
}

impl<R: Registers> VirtioTransport for MmioTransport<R> {
    fn route_configuration_interrupt(&mut self) {
        // All causes raise the one line.
    }

    fn failure(&self) -> Option<VirtioError> {
        None
    }

    fn forget(&mut self) {}
}

impl<R: Registers> Transport for MmioTransport<R> {
    fn device_type(&self) -> DeviceType {
        self.device_type
    }

    fn read_device_features(&mut self) -> u64 {
        let half = |select| {
            self.window
                .write32(register::DEVICE_FEATURES_SELECT, select);
            u64::from(self.window.read32(register::DEVICE_FEATURES))
        };
        half(0) | half(1) << 32
    }

    fn write_driver_features(&mut self, driver_features: u64) {
        for (select, half) in [(0, driver_features), (1, driver_features >> 32)] {
            self.window
                .write32(register::DRIVER_FEATURES_SELECT, select);
            self.window.write32(register::DRIVER_FEATURES, half as u32);
        }
    }

    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.select(queue);
        self.window.read32(register::QUEUE_SIZE_MAX)
    }

    fn notify(&mut self, queue: u16) {
        self.window.write32(register::QUEUE_NOTIFY, queue.into());
    }

    fn get_status(&self) -> DeviceStatus {
        DeviceStatus::from_bits_retain(self.window.read32(register::STATUS))
    }

    fn set_status(&mut self, status: DeviceStatus) {
        self.window.write32(register::STATUS, status.bits());
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
        self.window.write32(register::QUEUE_SIZE, size);
        fields::write_address(&self.window, register::QUEUE_DESCRIPTORS, descriptors);
        fields::write_address(&self.window, register::QUEUE_DRIVER, driver_area);
        fields::write_address(&self.window, register::QUEUE_DEVICE, device_area);
        // This comes last (VIRTIO 1.2, section 4.2.3.2).
        self.window.write32(register::QUEUE_READY, 1);
    }

    fn queue_unset(&mut self, _queue: u16) {
        // A reset takes every queue out of use, and comes before the queues' memory goes.
    }

    fn queue_used(&mut self, queue: u16) -> bool {
        self.select(queue);
        self.window.read32(register::QUEUE_READY) != 0
    }

    fn ack_interrupt(&mut self) -> InterruptStatus {
        // What was read is written back, which lowers the line if nothing came in between (VIRTIO
        // 1.2, section 4.2.3.4).
        let causes = self.window.read32(register::INTERRUPT_STATUS);
        self.window.write32(register::INTERRUPT_ACKNOWLEDGE, causes);
        InterruptStatus::from_bits_truncate(causes)
    }

    fn read_config_generation(&self) -> u32 {
        self.window.read32(register::CONFIGURATION_GENERATION)
    }

    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        fields::read(&self.window, register::CONFIGURATION, offset)
    }

    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> Result<()> {
        fields::write(&self.window, register::CONFIGURATION, offset, value)
    }
}
