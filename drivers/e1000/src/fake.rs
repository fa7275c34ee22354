//! The device in software for host tests: the registers that the driver uses, and rings that it walks by
//! physical address as hardware does. A test plays the cable, and lets the device lie where it wants to.

use std::sync::{Arc, Mutex, MutexGuard};

use pci_function::Area;
use pci_function::dma::test_memory::{self, at_physical};
use registers::Registers;

use crate::register::{self, RingRegisters, cause, control};

/// Bytes of the register window: more than the last register that is used.
const WINDOW: usize = 0x6000;
/// Bytes of a descriptor.
const DESCRIPTOR: u64 = 16;
/// Descriptor done.
const DONE: u64 = 1 << 32;

/// The device's state. Tests set the public fields before or while they use it.
#[derive(Debug)]
pub(crate) struct FakeNic {
    words: Vec<u32>,
    /// Causes that are pending.
    pub(crate) causes: u32,
    /// Causes that interrupt.
    pub(crate) mask: u32,
    /// The reset's bit does nothing else than to clear itself, as in emulators.
    pub(crate) lazy_reset: bool,
    /// Never ends its reset.
    pub(crate) never_resets: bool,
    /// Keeps receiving, whatever it is told.
    pub(crate) never_stops: bool,
    /// Reads as all ones: it was taken out.
    pub(crate) gone: bool,
    /// The EEPROM's first words; none: it never answers.
    pub(crate) eeprom: Option<[u16; 3]>,
    /// Number of resets so far.
    pub(crate) resets: usize,
    /// Accesses to registers so far.
    pub(crate) accesses: usize,
}

/// A fake device that a driver and a test share.
#[derive(Clone, Debug)]
pub(crate) struct FakeHandle(Arc<Mutex<FakeNic>>);

impl FakeHandle {
    /// A device as its firmware leaves it: with an address, a link, and everything else in disorder.
    pub(crate) fn new() -> FakeHandle {
        test_memory::install();
        let mut words = vec![0xdead_beef; WINDOW / 4];
        words[register::CONTROL / 4] = 0;
        words[register::STATUS / 4] = register::STATUS_LINK_UP;
        words[register::ADDRESS[0] / 4] = u32::from_le_bytes([0x52, 0x54, 0, 1]);
        words[register::ADDRESS[1] / 4] = register::ADDRESS_VALID | 0x0302;
        FakeHandle(Arc::new(Mutex::new(FakeNic {
            words,
            causes: u32::MAX,
            mask: u32::MAX,
            lazy_reset: false,
            never_resets: false,
            never_stops: false,
            gone: false,
            eeprom: None,
            resets: 0,
            accesses: 0,
        })))
    }

    /// The state.
    pub(crate) fn state(&self) -> MutexGuard<'_, FakeNic> {
        self.0.lock().unwrap()
    }

    /// A register's content, which the test reads without an effect.
    pub(crate) fn register(&self, offset: usize) -> u32 {
        self.state().words[offset / 4]
    }

    /// Writes a register past the driver.
    pub(crate) fn set_register(&self, offset: usize, value: u32) {
        self.state().words[offset / 4] = value;
    }

    /// Whether its line is up.
    pub(crate) fn line(&self) -> bool {
        let state = self.state();
        state.causes & state.mask != 0
    }

    /// A packet comes over the cable; false where the device drops it. A bad one can be said to have
    /// these `errors`; what does not fit one buffer goes over several.
    pub(crate) fn receive(&self, packet: &[u8], errors: u8) -> bool {
        let control = self.register(register::RECEIVE_CONTROL);
        let long = control & 1 << 5 != 0;
        if control & 1 << 1 == 0 || packet.len() > 1522 && !long {
            return false;
        }
        let room = 2048 >> (control >> 16 & 3);
        let pieces: Vec<&[u8]> = packet.chunks(room).collect();
        if self.free(register::RECEIVE) < pieces.len() as u32 {
            return false;
        }
        for (index, piece) in pieces.iter().enumerate() {
            let end = index + 1 == pieces.len();
            self.write_back(piece, u64::from(end) << 33 | u64::from(errors) << 40);
        }
        self.state().causes |= cause::RECEIVED;
        true
    }

    /// Writes a piece of a packet into the next buffer and returns its descriptor with these bits.
    pub(crate) fn write_back(&self, piece: &[u8], bits: u64) {
        let descriptor = self.advance(register::RECEIVE).expect("there is a buffer");
        let address = descriptor.load64(0).unwrap();
        let buffer = at_physical(address, piece.len().max(1)).expect("buffers lie in DMA memory");
        buffer.write(piece);
        let word = piece.len() as u64 | bits | DONE;
        descriptor.store64(8, word).unwrap();
    }

    /// Sends the next packet, and reports that if it was asked to.
    pub(crate) fn transmit(&self) -> Option<Vec<u8>> {
        assert!(self.register(register::TRANSMIT_CONTROL) & 1 << 1 != 0);
        let descriptor = self.advance(register::TRANSMIT)?;
        let (address, word) = (descriptor.load64(0).unwrap(), descriptor.load64(8).unwrap());
        assert_eq!(word >> 24 & 0xff, 0b1011, "end of packet, checksum, report");
        let mut packet = vec![0; (word & 0xffff) as usize];
        let buffer = at_physical(address, packet.len()).expect("packets lie in DMA memory");
        buffer.read(&mut packet);
        descriptor.store64(8, word | DONE).unwrap();
        self.state().causes |= cause::SENT;
        Some(packet)
    }

    /// Descriptors that the device has been told of.
    pub(crate) fn free(&self, ring: RingRegisters) -> u32 {
        let descriptors = self.register(ring.length) / DESCRIPTOR as u32;
        let (head, tail) = (self.register(ring.head), self.register(ring.tail));
        (tail + descriptors - head) % descriptors
    }

    /// The descriptor at this place of a ring.
    pub(crate) fn descriptor(&self, ring: RingRegisters, index: u32) -> Area {
        let base = u64::from(self.register(ring.base_low))
            | u64::from(self.register(ring.base_high)) << 32;
        at_physical(base + u64::from(index) * DESCRIPTOR, DESCRIPTOR as usize)
            .expect("rings lie in DMA memory")
    }

    /// Takes the next descriptor.
    fn advance(&self, ring: RingRegisters) -> Option<Area> {
        if self.free(ring) == 0 {
            return None;
        }
        let head = self.register(ring.head);
        let descriptors = self.register(ring.length) / DESCRIPTOR as u32;
        self.set_register(ring.head, (head + 1) % descriptors);
        Some(self.descriptor(ring, head))
    }
}

impl FakeNic {
    fn write_control(&mut self, value: u32) {
        self.words[register::CONTROL / 4] = value & !control::RESET;
        if value & control::RESET == 0 {
            return;
        }
        self.resets += 1;
        if !self.lazy_reset {
            let kept = [register::STATUS, register::ADDRESS[0], register::ADDRESS[1]];
            let kept = kept.map(|offset| (offset, self.words[offset / 4]));
            self.words.fill(0);
            for (offset, word) in kept {
                self.words[offset / 4] = word;
            }
            (self.causes, self.mask) = (0, 0);
        }
        if self.never_resets {
            self.words[register::CONTROL / 4] |= control::RESET;
        }
    }
}

impl Registers for FakeHandle {
    fn length(&self) -> usize {
        WINDOW
    }
    fn read32(&self, offset: usize) -> u32 {
        let mut state = self.state();
        state.accesses += 1;
        match offset {
            _ if state.gone => u32::MAX,
            register::CAUSE => std::mem::take(&mut state.causes),
            register::RECEIVE_CONTROL if state.never_stops => 2,
            register::EEPROM => {
                let asked = state.words[offset / 4];
                let word = state
                    .eeprom
                    .and_then(|words| words.get(asked as usize >> 8).copied());
                let started = word.filter(|_| asked & 1 != 0);
                started.map_or(asked, |word| u32::from(word) << 16 | asked | 1 << 4)
            }
            _ => state.words[offset / 4],
        }
    }
    fn write32(&self, offset: usize, value: u32) {
        let mut state = self.state();
        state.accesses += 1;
        match offset {
            register::CONTROL => state.write_control(value),
            register::MASK_SET => state.mask |= value,
            register::MASK_CLEAR => state.mask &= !value,
            _ => state.words[offset / 4] = value,
        }
    }
    fn read8(&self, _: usize) -> u8 {
        unreachable!("all registers have 32 bits")
    }
    fn read16(&self, _: usize) -> u16 {
        unreachable!("all registers have 32 bits")
    }
    fn write8(&self, _: usize, _: u8) {
        unreachable!("all registers have 32 bits")
    }
    fn write16(&self, _: usize, _: u16) {
        unreachable!("all registers have 32 bits")
    }
}
