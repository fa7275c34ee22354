//! A card over a fake device, with a network stack's ends of its rings: what the tests of the card share.

use ipc::interface::net_device::Geometry;
use ipc::ring::Descriptor;
use net_driver::bench::{BUFFER_BYTES, ENTRIES, GEOMETRY, HEADROOM, Shared, Stack};
use net_driver::{Card, Device, Pump, Rings};
use pci_function::{Area, InterruptMode, dma};
use virtio::fake::{FakeDevice, FakeHandle, FakeMmio, FakeWindow};
use virtio::{
    AnyTransport, LegacyTransport, MmioTransport, ModernTransport, VirtioTransport, feature,
};
use virtio_drivers::transport::DeviceType::Network;

use crate::device::{Idle, NetDevice};
use crate::settings::Settings;

/// Queue size of the fake devices.
pub(crate) const SIZE: u16 = 16;

pub(crate) struct Bench<T: VirtioTransport> {
    pub(crate) card: Card<NetDevice<T>, Shared>,
    pub(crate) device: FakeHandle,
    pub(crate) stack: Stack,
    pub(crate) pool: Area,
}

/// Attaches to a device that may be used in every way, on 4 processors, with this geometry.
pub(crate) fn attach<T: VirtioTransport>(
    device: FakeHandle,
    transport: T,
    geometry: &Geometry,
) -> Bench<T> {
    attach_as(device, transport, geometry, Settings::new(4))
}

/// The same with these settings.
pub(crate) fn attach_as<T: VirtioTransport>(
    device: FakeHandle,
    transport: T,
    geometry: &Geometry,
    settings: Settings,
) -> Bench<T> {
    let idle = Idle {
        transport,
        settings,
    };
    let memory = Shared::for_rings();
    let stack = Stack::new(memory.clone());
    let pool = dma::allocate(geometry.pool_bytes as usize / 4096).unwrap();
    let started = NetDevice::start(idle, geometry.features, geometry.receive_buffers);
    let Ok(net) = started else {
        panic!("the fake device starts")
    };
    let rings = Rings::new(memory, ENTRIES).unwrap();
    let Ok(card) = Card::new(net, rings, pool, geometry) else {
        panic!("it fits")
    };
    Bench {
        card,
        device,
        stack,
        pool,
    }
}

/// A legacy device with two descriptors a packet and no event index.
pub(crate) fn legacy(features: u64) -> Bench<LegacyTransport<FakeHandle>> {
    let device = FakeDevice::legacy(features, &[SIZE, SIZE]);
    device.state().configuration = vec![0; 12];
    let transport = LegacyTransport::new(device.clone(), Network, InterruptMode::Line);
    attach(device, transport, &GEOMETRY)
}

/// A modern device with the event index.
pub(crate) fn modern() -> Bench<ModernTransport<FakeWindow>> {
    let device = FakeDevice::modern(feature::EVENT_INDEX, &[SIZE, SIZE]);
    device.state().configuration = vec![0; 12];
    let transport = ModernTransport::new(device.windows(), Network, InterruptMode::Line).unwrap();
    attach(device, transport, &GEOMETRY)
}

/// The same behind memory-mapped registers, as a driver's task has it.
pub(crate) fn mmio() -> Bench<AnyTransport<FakeHandle, FakeMmio>> {
    let device = FakeDevice::modern(feature::EVENT_INDEX, &[SIZE, SIZE]);
    device.state().configuration = vec![0; 12];
    let transport = MmioTransport::new(device.mmio(), Network).unwrap();
    attach(device, AnyTransport::Mmio(transport), &GEOMETRY)
}

impl<T: VirtioTransport> Bench<T> {
    /// Moves packets.
    pub(crate) fn run(&mut self) -> Pump {
        self.card.run().unwrap()
    }

    /// The device receives these bytes.
    pub(crate) fn arrive(&self, header: usize, packet: &[u8]) -> bool {
        let buffer = self.device.take(0).expect("the device has a buffer");
        assert!(
            buffer.segments.iter().all(|segment| segment.1),
            "it may write all of it"
        );
        // The segments follow one another in memory.
        let first = buffer.segments[0].0;
        let total: usize = buffer
            .segments
            .iter()
            .map(|segment| segment.0.length())
            .sum();
        assert_eq!(total, header + (BUFFER_BYTES - HEADROOM) as usize);
        let start = (first.physical() - self.pool.physical()) as usize + header;
        self.pool.part(start, packet.len()).unwrap().write(packet);
        self.device
            .give_back(0, buffer.head.into(), (header + packet.len()) as u32)
    }

    /// The bytes that a descriptor names.
    pub(crate) fn bytes(&self, packet: Descriptor) -> Vec<u8> {
        let mut bytes = vec![0; packet.length as usize];
        self.pool
            .part(packet.offset as usize, bytes.len())
            .unwrap()
            .read(&mut bytes);
        bytes
    }

    /// Resets the device and gives the pool back.
    pub(crate) fn end(self) {
        let (_, stopped) = self.card.detach().halt();
        assert!(stopped);
        dma::release(self.pool);
    }
}
