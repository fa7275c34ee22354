//! The fake device's memory-mapped face (VIRTIO 1.2, section 4.2).

use registers::Registers;

use super::{FakeDevice, FakeHandle};

/// Where the device's own configuration begins.
const CONFIGURATION: usize = 0x100;
/// The device's type: a network card.
const NETWORK: u32 = 1;

/// The window of the memory-mapped face.
#[derive(Debug, Clone)]
pub struct FakeMmio {
    pub(super) device: FakeHandle,
    /// What the version register reads.
    pub version: u32,
}

impl Registers for FakeMmio {
    fn length(&self) -> usize {
        CONFIGURATION + self.device.state().configuration.len()
    }

    fn read8(&self, offset: usize) -> u8 {
        let state = self.device.state();
        let index = offset.checked_sub(CONFIGURATION);
        index
            .and_then(|index| state.configuration.get(index))
            .copied()
            .unwrap_or(u8::MAX)
    }

    fn read16(&self, offset: usize) -> u16 {
        u16::from_le_bytes([self.read8(offset), self.read8(offset + 1)])
    }

    fn read32(&self, offset: usize) -> u32 {
        let mut state = self.device.state();
        match offset {
            0x000 => 0x7472_6976,
            0x004 => self.version,
            0x008 => NETWORK,
            0x010 => (state.features >> (32 * state.feature_select)) as u32,
            0x034 => state.queue().map_or(0, |queue| queue.size.into()),
            0x044 => state.queue().map_or(0, |queue| queue.enabled.into()),
            0x060 => state.isr.into(),
            0x070 => state.status.into(),
            0x0fc => 0,
            _ => u32::MAX,
        }
    }

    fn write8(&self, _: usize, _: u8) {}

    fn write16(&self, _: usize, _: u16) {}

    fn write32(&self, offset: usize, value: u32) {
        let mut state = self.device.state();
        match offset {
            0x014 | 0x024 => state.feature_select = value,
            0x020 => {
                let shift = 32 * state.feature_select;
                state.accepted &= !(0xffff_ffff << shift);
                state.accepted |= u64::from(value) << shift;
            }
            0x030 => state.selected = value as u16,
            0x050 => state.notify(value as u16),
            0x064 => state.isr &= !(value as u8),
            0x070 => state.write_status(value as u8),
            _ => write_queue(&mut state, offset, value),
        }
    }
}

/// Writes a register of the selected queue.
fn write_queue(state: &mut FakeDevice, offset: usize, value: u32) {
    let Some(queue) = state.queue() else { return };
    let low = |old: u64| old & !0xffff_ffff | u64::from(value);
    let high = |old: u64| old & 0xffff_ffff | u64::from(value) << 32;
    match offset {
        0x038 => queue.size = value as u16,
        0x044 => queue.enabled = value == 1,
        0x080 => queue.descriptors = low(queue.descriptors),
        0x084 => queue.descriptors = high(queue.descriptors),
        0x090 => queue.driver = low(queue.driver),
        0x094 => queue.driver = high(queue.driver),
        0x0a0 => queue.device = low(queue.device),
        0x0a4 => queue.device = high(queue.device),
        _ => {}
    }
}
