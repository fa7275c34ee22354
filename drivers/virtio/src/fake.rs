//! A virtio device in software for host tests: registers with a legacy, a modern and a memory-mapped
//! face, and rings
//! that it walks by physical address as hardware does. A test plays the device: it takes buffers,
//! gives them back, and lies where it wants to.

mod mmio;

use std::sync::{Arc, Mutex, MutexGuard};
use std::vec::Vec;

use pci_function::Area;
use pci_function::dma::test_memory::{self, at_physical};
use registers::{Ports, Registers};

use crate::{ModernWindows, feature};

pub use mmio::FakeMmio;

/// Status bit by which the driver accepts features (VIRTIO 1.2, section 2.1).
const FEATURES_OK: u8 = 8;
/// Physical addresses of the legacy queue register count pages.
const PAGE: u64 = 4096;
/// Distance of two queues' notification registers in the modern face.
const NOTIFY_MULTIPLIER: u32 = 4;

/// What a device has for one queue.
#[derive(Debug, Default, Clone)]
struct FakeQueue {
    size: u16,
    descriptors: u64,
    driver: u64,
    device: u64,
    enabled: bool,
    vector: u16,
    notifications: usize,
    next_available: u16,
    used: u16,
}

/// The device's state. Tests set the public fields before or while they use it.
#[derive(Debug, Default)]
pub struct FakeDevice {
    /// Features that it offers.
    pub features: u64,
    /// Features that the driver has accepted.
    pub accepted: u64,
    /// The device's own configuration.
    pub configuration: Vec<u8>,
    /// MSI-X is on: in the legacy face the configuration lies 4 bytes further.
    pub msix: bool,
    /// Answers "no vector" to every vector.
    pub refuses_vectors: bool,
    /// Answers "no vector" to all but the first.
    pub one_vector: bool,
    /// What becomes of commands in the control queue.
    pub control: FakeControl,
    /// The number of queue pairs that it was told, if it was.
    pub pairs: Option<u16>,
    /// Clears FEATURES_OK.
    pub refuses_features: bool,
    /// Never reads back as reset.
    pub never_resets: bool,
    /// Number of resets so far.
    pub resets: usize,
    /// ISR status: cleared by reading.
    pub isr: u8,
    legacy: bool,
    status: u8,
    queues: Vec<FakeQueue>,
    selected: u16,
    feature_select: u32,
    configuration_vector: u16,
}

/// What the device does with commands in its control queue (VIRTIO 1.2, section 5.1.6.5), which it looks
/// at when it is notified.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum FakeControl {
    /// It has none.
    #[default]
    None,
    /// It does what they say; the queue of this number.
    Obeys(u16),
    /// It refuses them.
    Refuses(u16),
    /// It returns another buffer than it was given.
    Lies(u16),
}

/// A buffer that the fake device holds.
#[derive(Debug)]
pub struct FakeBuffer {
    /// Its first descriptor.
    pub head: u16,
    /// Its segments; true for those that the device may write.
    pub segments: Vec<(Area, bool)>,
}

/// The device as driver and test share it. As [`Ports`] it is the legacy face.
#[derive(Debug, Clone)]
pub struct FakeHandle(Arc<Mutex<FakeDevice>>);

/// One window of the modern face.
#[derive(Debug, Clone)]
pub struct FakeWindow {
    device: FakeHandle,
    part: Part,
}

#[derive(Debug, Clone, Copy)]
enum Part {
    Common,
    Notify,
    Isr,
    Device,
}

impl FakeDevice {
    /// A device with the legacy face and queues of these sizes.
    pub fn legacy(features: u64, sizes: &[u16]) -> FakeHandle {
        test_memory::install();
        let queues = sizes.iter().map(|size| FakeQueue {
            size: *size,
            ..FakeQueue::default()
        });
        let device = FakeDevice {
            features,
            queues: queues.collect(),
            legacy: true,
            ..Default::default()
        };
        FakeHandle(Arc::new(Mutex::new(device)))
    }

    /// A device with the modern face and queues of these largest sizes. It offers VERSION_1.
    pub fn modern(features: u64, sizes: &[u16]) -> FakeHandle {
        let handle = FakeDevice::legacy(features | feature::VERSION_1, sizes);
        handle.state().legacy = false;
        handle
    }

    fn reset(&mut self) {
        self.resets += 1;
        self.accepted = 0;
        self.pairs = None;
        self.isr = 0;
        for queue in &mut self.queues {
            *queue = FakeQueue {
                size: queue.size,
                ..FakeQueue::default()
            };
        }
    }

    fn write_status(&mut self, value: u8) {
        if value == 0 {
            self.reset();
        }
        self.status = value;
        if self.refuses_features {
            self.status &= !FEATURES_OK;
        }
        if self.never_resets {
            self.status |= 0x40;
        }
    }

    fn queue(&mut self) -> Option<&mut FakeQueue> {
        self.queues.get_mut(usize::from(self.selected))
    }

    fn vector(&self, value: u16) -> u16 {
        if self.refuses_vectors || (self.one_vector && value != 0) {
            u16::MAX
        } else {
            value
        }
    }

    /// The rings of a legacy queue follow from its page (VIRTIO 1.2, section 2.7.2).
    fn place_legacy(&mut self, page: u32) {
        let Some(queue) = self.queue() else { return };
        let size = u64::from(queue.size);
        queue.enabled = page != 0;
        queue.descriptors = u64::from(page) * PAGE;
        queue.driver = queue.descriptors + 16 * size;
        queue.device = (queue.driver + 6 + 2 * size).next_multiple_of(PAGE);
    }

    fn notify(&mut self, queue: u16) {
        if let Some(queue) = self.queues.get_mut(usize::from(queue)) {
            queue.notifications += 1;
        }
        match self.control {
            FakeControl::Obeys(number) if number == queue => self.answer(queue, 0, 0),
            FakeControl::Refuses(number) if number == queue => self.answer(queue, 1, 0),
            FakeControl::Lies(number) if number == queue => self.answer(queue, 0, 7),
            _ => {}
        }
    }

    /// Acknowledges the command in the control queue with this byte, and returns its buffer under a
    /// number that is so far from its own.
    fn answer(&mut self, queue: u16, acknowledgement: u8, lie: u32) {
        let Some(buffer) = self.take(queue) else {
            return;
        };
        let [(command, false), (number, false), (answer, true)] = buffer.segments[..] else {
            return;
        };
        assert_eq!(command.load(0), Some([4, 0]), "class and command");
        if acknowledgement == 0 {
            self.pairs = number.load(0).map(u16::from_le_bytes);
        }
        answer.write(&[acknowledgement]);
        self.give_back(queue, u32::from(buffer.head) + lie, 1);
    }

    /// Takes the next buffer of a queue.
    fn take(&mut self, queue: u16) -> Option<FakeBuffer> {
        let queue = self
            .queues
            .get_mut(usize::from(queue))
            .filter(|queue| queue.enabled)?;
        if read16(queue.driver + 2) == queue.next_available {
            return None;
        }
        let slot = u64::from(queue.next_available % queue.size);
        queue.next_available = queue.next_available.wrapping_add(1);
        let head = read16(queue.driver + 4 + 2 * slot);
        let mut segments = Vec::new();
        let mut index = head;
        // What the test has scribbled over may lead anywhere, and in circles.
        for _ in 0..queue.size {
            let descriptor = queue.descriptors + 16 * u64::from(index % queue.size);
            let address = u64::from_le_bytes(bytes(descriptor));
            let length = u32::from_le_bytes(bytes(descriptor + 8)) as usize;
            let flags = read16(descriptor + 12);
            let area = at_physical(address, length);
            segments.extend(area.map(|area| (area, flags & 2 != 0)));
            if flags & 1 == 0 {
                break;
            }
            index = read16(descriptor + 14);
        }
        Some(FakeBuffer { head, segments })
    }

    /// Returns a buffer, or pretends to: nothing is checked. True if the device would interrupt.
    fn give_back(&mut self, queue: u16, identifier: u32, written: u32) -> bool {
        let events = self.accepted & feature::EVENT_INDEX != 0;
        let queue = &mut self.queues[usize::from(queue)];
        if !queue.enabled {
            return false;
        }
        let entry = queue.device + 4 + 8 * u64::from(queue.used % queue.size);
        write(entry, &identifier.to_le_bytes());
        write(entry + 4, &written.to_le_bytes());
        let old = queue.used;
        queue.used = old.wrapping_add(1);
        write(queue.device + 2, &queue.used.to_le_bytes());
        let interrupts = if events {
            // Moving the index by one passes exactly the event of that value.
            read16(queue.driver + 4 + 2 * u64::from(queue.size)) == old
        } else {
            read16(queue.driver) & 1 == 0
        };
        if interrupts {
            self.isr |= 1;
        }
        interrupts
    }

    fn take_isr(&mut self) -> u8 {
        core::mem::take(&mut self.isr)
    }
}

fn bytes<const N: usize>(address: u64) -> [u8; N] {
    let mut bytes = [0; N];
    at_physical(address, N)
        .expect("the rings lie in DMA memory")
        .read(&mut bytes);
    bytes
}

fn read16(address: u64) -> u16 {
    u16::from_le_bytes(bytes(address))
}

fn write(address: u64, bytes: &[u8]) {
    at_physical(address, bytes.len())
        .expect("the rings lie in DMA memory")
        .write(bytes);
}

impl FakeHandle {
    /// The state, for a test to look at and to change.
    pub fn state(&self) -> MutexGuard<'_, FakeDevice> {
        self.0
            .lock()
            .expect("no test panics while it holds the state")
    }

    /// The modern face.
    pub fn windows(&self) -> ModernWindows<FakeWindow> {
        let window = |part| FakeWindow {
            device: self.clone(),
            part,
        };
        ModernWindows {
            common: window(Part::Common),
            notify: window(Part::Notify),
            notify_multiplier: NOTIFY_MULTIPLIER,
            isr: window(Part::Isr),
            device: Some(window(Part::Device)),
        }
    }

    /// The memory-mapped face.
    pub fn mmio(&self) -> FakeMmio {
        FakeMmio {
            device: self.clone(),
            version: 2,
        }
    }

    /// How often a queue was notified.
    pub fn notifications(&self, queue: u16) -> usize {
        self.state().queues[usize::from(queue)].notifications
    }

    /// The vector of a queue.
    pub fn queue_vector(&self, queue: u16) -> u16 {
        self.state().queues[usize::from(queue)].vector
    }

    /// The vector of configuration changes.
    pub fn configuration_vector(&self) -> u16 {
        self.state().configuration_vector
    }

    /// Takes the next buffer of a queue.
    pub fn take(&self, queue: u16) -> Option<FakeBuffer> {
        self.state().take(queue)
    }

    /// Returns a buffer, or pretends to: nothing is checked. True if the device would interrupt.
    pub fn give_back(&self, queue: u16, identifier: u32, written: u32) -> bool {
        self.state().give_back(queue, identifier, written)
    }

    /// Overwrites a descriptor, which the device may not.
    pub fn scribble(&self, queue: u16, descriptor: u16, value: u64) {
        let state = self.state();
        let place = state.queues[usize::from(queue)].descriptors + 16 * u64::from(descriptor);
        write(place, &value.to_le_bytes());
        write(place + 8, &value.rotate_left(17).to_le_bytes());
    }

    /// Overwrites a word of a ring, counted from its start: of the used ring, or of the available ring,
    /// which the device may not.
    pub fn scribble_ring(&self, queue: u16, used: bool, word: u16, value: u16) {
        let state = self.state();
        let Some(queue) = state.queues.get(usize::from(queue)) else {
            return;
        };
        let (start, entry) = match used {
            true => (queue.device, 8),
            false => (queue.driver, 2),
        };
        let words = 2 + queue.size * entry / 2 + 1;
        if queue.enabled {
            write(start + 2 * u64::from(word % words), &value.to_le_bytes());
        }
    }

    /// Sets a queue's used index to anything.
    pub fn set_used_index(&self, queue: u16, index: u16) {
        let state = self.state();
        let queue = &state.queues[usize::from(queue)];
        if queue.enabled {
            write(queue.device + 2, &index.to_le_bytes());
        }
    }

    /// Says whether the device wants to be notified of the next buffer.
    pub fn want_notification(&self, queue: u16, wanted: bool) {
        let state = self.state();
        let events = state.accepted & feature::EVENT_INDEX != 0;
        let queue = &state.queues[usize::from(queue)];
        if events {
            let event = queue.next_available.wrapping_sub(u16::from(!wanted));
            write(
                queue.device + 4 + 8 * u64::from(queue.size),
                &event.to_le_bytes(),
            );
        } else {
            write(queue.device, &u16::from(!wanted).to_le_bytes());
        }
    }
}

/// The legacy face (VIRTIO 1.2, section 4.1.4.10).
impl Ports for FakeHandle {
    fn length(&self) -> u16 {
        let state = self.state();
        let configuration = if state.msix { 0x18 } else { 0x14 };
        configuration + state.configuration.len() as u16
    }

    fn read8(&self, offset: u16) -> u8 {
        let mut state = self.state();
        let configuration = if state.msix { 0x18 } else { 0x14 };
        match offset {
            0x12 => state.status,
            0x13 => state.take_isr(),
            _ if offset >= configuration => {
                let index = usize::from(offset - configuration);
                state.configuration.get(index).copied().unwrap_or(u8::MAX)
            }
            _ => u8::MAX,
        }
    }

    fn read16(&self, offset: u16) -> u16 {
        let mut state = self.state();
        match offset {
            0x0c => state.queue().map_or(0, |queue| queue.size),
            0x14 if state.msix => state.configuration_vector,
            0x16 if state.msix => state.queue().map_or(u16::MAX, |queue| queue.vector),
            _ => u16::MAX,
        }
    }

    fn read32(&self, offset: u16) -> u32 {
        let mut state = self.state();
        match offset {
            0x00 => state.features as u32,
            0x08 => state
                .queue()
                .map_or(0, |queue| (queue.descriptors / PAGE) as u32),
            _ => u32::MAX,
        }
    }

    fn write8(&self, offset: u16, value: u8) {
        let mut state = self.state();
        let configuration = if state.msix { 0x18 } else { 0x14 };
        match offset {
            0x12 => state.write_status(value),
            _ if offset >= configuration => {
                let index = usize::from(offset - configuration);
                if let Some(byte) = state.configuration.get_mut(index) {
                    *byte = value;
                }
            }
            _ => {}
        }
    }

    fn write16(&self, offset: u16, value: u16) {
        let mut state = self.state();
        let vector = state.vector(value);
        match offset {
            0x0e => state.selected = value,
            0x10 => state.notify(value),
            0x14 if state.msix => state.configuration_vector = vector,
            0x16 if state.msix => {
                if let Some(queue) = state.queue() {
                    queue.vector = vector;
                }
            }
            _ => {}
        }
    }

    fn write32(&self, offset: u16, value: u32) {
        let mut state = self.state();
        match offset {
            0x04 => state.accepted = value.into(),
            0x08 => state.place_legacy(value),
            _ => {}
        }
    }
}

/// The modern face (VIRTIO 1.2, section 4.1.4).
impl Registers for FakeWindow {
    fn length(&self) -> usize {
        match self.part {
            Part::Common => 0x38,
            Part::Notify => self.device.state().queues.len() * NOTIFY_MULTIPLIER as usize,
            Part::Isr => 1,
            Part::Device => self.device.state().configuration.len(),
        }
    }

    fn read8(&self, offset: usize) -> u8 {
        let mut state = self.device.state();
        match (self.part, offset) {
            (Part::Common, 0x14) => state.status,
            (Part::Common, 0x15) => 0,
            (Part::Isr, 0) => state.take_isr(),
            (Part::Device, _) => state.configuration.get(offset).copied().unwrap_or(u8::MAX),
            _ => u8::MAX,
        }
    }

    fn read16(&self, offset: usize) -> u16 {
        let mut state = self.device.state();
        let selected = state.selected;
        match (self.part, offset) {
            (Part::Common, 0x10) => state.configuration_vector,
            (Part::Common, 0x18) => state.queue().map_or(0, |queue| queue.size),
            (Part::Common, 0x1a) => state.queue().map_or(u16::MAX, |queue| queue.vector),
            (Part::Common, 0x1c) => state.queue().map_or(0, |queue| queue.enabled.into()),
            (Part::Common, 0x1e) => selected,
            (Part::Device, _) => {
                let bytes = state.configuration.get(offset..offset + 2);
                bytes.map_or(u16::MAX, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
            }
            _ => u16::MAX,
        }
    }

    fn read32(&self, offset: usize) -> u32 {
        let state = self.device.state();
        match (self.part, offset) {
            (Part::Common, 0x04) => (state.features >> (32 * state.feature_select)) as u32,
            _ => u32::MAX,
        }
    }

    fn write8(&self, offset: usize, value: u8) {
        if let (Part::Common, 0x14) = (self.part, offset) {
            self.device.state().write_status(value);
        }
    }

    fn write16(&self, offset: usize, value: u16) {
        let mut state = self.device.state();
        let vector = state.vector(value);
        match (self.part, offset) {
            (Part::Common, 0x10) => state.configuration_vector = vector,
            (Part::Common, 0x16) => state.selected = value,
            (Part::Notify, _) if offset as u32 == u32::from(value) * NOTIFY_MULTIPLIER => {
                state.notify(value);
            }
            (Part::Common, _) => {
                let Some(queue) = state.queue() else { return };
                match offset {
                    0x18 => queue.size = value,
                    0x1a => queue.vector = vector,
                    0x1c => queue.enabled = value == 1,
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn write32(&self, offset: usize, value: u32) {
        let mut state = self.device.state();
        let low = |old: u64| old & !0xffff_ffff | u64::from(value);
        let high = |old: u64| old & 0xffff_ffff | u64::from(value) << 32;
        match (self.part, offset) {
            (Part::Common, 0x00 | 0x08) => state.feature_select = value,
            (Part::Common, 0x0c) if state.feature_select == 0 => {
                state.accepted = low(state.accepted)
            }
            (Part::Common, 0x0c) => state.accepted = high(state.accepted),
            (Part::Common, _) => {
                let Some(queue) = state.queue() else { return };
                match offset {
                    0x20 => queue.descriptors = low(queue.descriptors),
                    0x24 => queue.descriptors = high(queue.descriptors),
                    0x28 => queue.driver = low(queue.driver),
                    0x2c => queue.driver = high(queue.driver),
                    0x30 => queue.device = low(queue.device),
                    0x34 => queue.device = high(queue.device),
                    _ => {}
                }
            }
            _ => {}
        }
    }
}
