//! A transport that is one of the three: a driver that takes it is compiled once, not once for each.
//! A branch costs nothing beside a register access, which is an exit on a virtual machine.

use registers::{Ports, Registers};
use virtio_drivers::{
    PhysAddr, Result,
    transport::{DeviceStatus, DeviceType, InterruptStatus, Transport},
};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::transport::VirtioTransport;
use crate::{LegacyTransport, MmioTransport, ModernTransport, VirtioError};

/// A transport of any kind.
#[derive(Debug)]
pub enum AnyTransport<P: Ports, R: Registers> {
    /// Behind I/O ports.
    Legacy(LegacyTransport<P>),
    /// Behind the register structures of a PCI function.
    Modern(ModernTransport<R>),
    /// Behind memory-mapped registers, on no bus.
    Mmio(MmioTransport<R>),
}

impl<P: Ports, R: Registers> AnyTransport<P, R> {
    /// What it is, for the log.
    pub fn name(&self) -> &'static str {
        match self {
            AnyTransport::Legacy(_) => "legacy",
            AnyTransport::Modern(_) => "modern",
            AnyTransport::Mmio(_) => "memory-mapped",
        }
    }
}

/// Does with the transport, whichever it is, what the expression says.
macro_rules! each {
    ($any:expr, $transport:ident => $action:expr) => {
        match $any {
            AnyTransport::Legacy($transport) => $action,
            AnyTransport::Modern($transport) => $action,
            AnyTransport::Mmio($transport) => $action,
        }
    };
}

impl<P: Ports, R: Registers> VirtioTransport for AnyTransport<P, R> {
    fn route_configuration_interrupt(&mut self) {
        each!(self, transport => transport.route_configuration_interrupt());
    }
    fn failure(&self) -> Option<VirtioError> {
        each!(self, transport => transport.failure())
    }
    fn forget(&mut self) {
        each!(self, transport => transport.forget());
    }
}

impl<P: Ports, R: Registers> Transport for AnyTransport<P, R> {
    fn device_type(&self) -> DeviceType {
        each!(self, transport => transport.device_type())
    }
    fn read_device_features(&mut self) -> u64 {
        each!(self, transport => transport.read_device_features())
    }
    fn write_driver_features(&mut self, driver_features: u64) {
        each!(self, transport => transport.write_driver_features(driver_features));
    }
    fn max_queue_size(&mut self, queue: u16) -> u32 {
        each!(self, transport => transport.max_queue_size(queue))
    }
    fn notify(&mut self, queue: u16) {
        each!(self, transport => transport.notify(queue));
    }
    fn get_status(&self) -> DeviceStatus {
        each!(self, transport => transport.get_status())
    }
    fn set_status(&mut self, status: DeviceStatus) {
        each!(self, transport => transport.set_status(status));
    }
    fn set_guest_page_size(&mut self, guest_page_size: u32) {
        each!(self, transport => transport.set_guest_page_size(guest_page_size));
    }
    fn requires_legacy_layout(&self) -> bool {
        each!(self, transport => transport.requires_legacy_layout())
    }
    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        each!(self, transport => {
            transport.queue_set(queue, size, descriptors, driver_area, device_area);
        });
    }
    fn queue_unset(&mut self, queue: u16) {
        each!(self, transport => transport.queue_unset(queue));
    }
    fn queue_used(&mut self, queue: u16) -> bool {
        each!(self, transport => transport.queue_used(queue))
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        each!(self, transport => transport.ack_interrupt())
    }
    fn read_config_generation(&self) -> u32 {
        each!(self, transport => transport.read_config_generation())
    }
    fn read_config_space<T: FromBytes + IntoBytes>(&self, offset: usize) -> Result<T> {
        each!(self, transport => transport.read_config_space(offset))
    }
    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> Result<()> {
        each!(self, transport => transport.write_config_space(offset, value))
    }
}
