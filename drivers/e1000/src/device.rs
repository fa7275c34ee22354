//! The device's protocol: reset and start (manual, section 14), its two rings of legacy descriptors, and
//! its interrupts. Which buffers, and when, is the card's business.
//!
//! Interrupts cost: each register access leaves the virtual machine. Causes stay enabled while packets
//! are moved, because the line is not let come again until there are none; before the driver sleeps,
//! the causes of what it has seen are cleared, so that they do not interrupt then. A cause that is
//! enabled and not asked for is disabled when it first interrupts.

use ipc::interface::net_device::{FEATURE_LINK_STATE, SendOffload};
use ipc::ring::Descriptor;
use net_driver::{Device, Direction, Fault, Interrupt, Received, ethernet};
use pci_function::{Area, OutOfDmaMemory};
use registers::Registers;

use crate::register::{
    self, RingRegisters, cause, control, eeprom, receive_control, transmit_control,
};
use crate::ring::{self, Ring};

/// Times a register is read before the device counts as not answering. Each reading leaves the virtual
/// machine, so this is a good part of a second.
const READINGS: u32 = 100_000;
/// Times the first receive address is read until it counts as not loaded: longer than the few
/// milliseconds that a device takes to read its EEPROM.
const ADDRESS_READINGS: u32 = 10_000;
/// Turns of an empty loop that take more than the microsecond after a reset in which the device may
/// not be accessed (manual, section 13.4.1).
const RESET_TURNS: u32 = 20_000;
/// Bytes that the device takes for writable in every buffer: receive control's BSIZE.
const BUFFER_BYTES: usize = 2048;
/// Longest packet that is received with LPE off (manual, section 13.4.22).
const LARGEST_RECEIVED: usize = 1522;
/// Longest packet that is sent, without the frame check sequence: that of Ethernet with a tag
/// (IEEE 802.3-2018, section 3.2.7).
const LARGEST_SENT: usize = 1518;
/// Buffers to receive into that are added before the device is told, as long as it has enough.
const TOLD_TOGETHER: usize = 32;
/// Buffers to receive into that are enough.
const ENOUGH: usize = 64;

/// What this driver writes into a transmit descriptor's command: end of packet (EOP), insert the frame
/// check sequence (IFCS), report status (RS); the length is in bits 0 to 15 (manual, section 3.3.3).
const SEND: u64 = 1 << 24 | 1 << 25 | 1 << 27;
/// Receive descriptor: the packet ends here (EOP; manual, section 3.2.3.1).
const END_OF_PACKET: u64 = 1 << 33;
/// Receive descriptor: CE, SE, SEQ, CXE and RXE, the errors of a frame (manual, section 3.2.3.2). Those
/// of checksums mean nothing while checksums are not asked for.
const FRAME_ERRORS: u64 = (1 << 0 | 1 << 1 | 1 << 2 | 1 << 4 | 1 << 7) << 40;

/// How a device breaks its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NicError {
    /// It did not read back as reset in the time it has.
    ResetTimedOut,
    /// It reads as sending or receiving after its reset.
    DoesNotStop,
    /// No DMA memory is left.
    OutOfDmaMemory,
    /// A ring has no room for the buffer.
    RingFull,
    /// The buffer is shorter than what the device takes for writable, or longer than what it sends.
    BadBuffer,
}

impl From<OutOfDmaMemory> for NicError {
    fn from(OutOfDmaMemory: OutOfDmaMemory) -> NicError {
        NicError::OutOfDmaMemory
    }
}

/// A device that works.
#[derive(Debug)]
pub struct Nic<R: Registers> {
    registers: R,
    receive: Ring,
    transmit: Ring,
    address: [u8; 6],
    /// The `FEATURE_` bits that hold.
    features: u32,
    /// Causes that can interrupt.
    enabled: u32,
    /// Causes that were asked for since the driver last woke.
    asked: u32,
    /// An interrupt came since the causes of what was seen were cleared.
    interrupted: bool,
    /// The link has changed since that was last asked.
    link_changed: bool,
    /// The descriptor before did not end its packet.
    within_packet: bool,
}

impl<R: Registers> Nic<R> {
    /// Reads and clears the causes.
    fn take_causes(&mut self) -> u32 {
        let causes = self.registers.read32(register::CAUSE);
        self.link_changed |= causes & cause::LINK != 0;
        causes
    }

    /// The registers, which a test's device shares.
    #[cfg(test)]
    pub(crate) fn registers(&self) -> &R {
        &self.registers
    }

    fn ring(&self, direction: Direction) -> &Ring {
        match direction {
            Direction::Receive => &self.receive,
            Direction::Transmit => &self.transmit,
        }
    }

    /// What a returned receive descriptor says. A packet over several of them was longer than the
    /// device was allowed to receive: all of them are dropped.
    fn received(&mut self, word: u64) -> Result<usize, Fault> {
        let ends = word & END_OF_PACKET != 0;
        let begins = !core::mem::replace(&mut self.within_packet, !ends);
        let length = (word & 0xffff) as usize;
        if !begins || !ends || length > LARGEST_RECEIVED {
            Err(Fault::Long)
        } else if word & FRAME_ERRORS != 0 {
            Err(Fault::Damaged)
        } else {
            Ok(length)
        }
    }
}

impl<R: Registers> Device for Nic<R> {
    type Idle = R;
    type Error = NicError;

    fn reset(registers: &mut R) -> Result<(), NicError> {
        reset(registers)
    }

    fn start(registers: R, features: u32, _buffers: u32) -> Result<Nic<R>, (R, NicError)> {
        match bring_up(&registers) {
            Ok((receive, transmit, address)) => Ok(Nic {
                registers,
                receive,
                transmit,
                address,
                features: features & FEATURE_LINK_STATE,
                enabled: cause::LINK,
                asked: cause::LINK,
                interrupted: false,
                link_changed: false,
                within_packet: false,
            }),
            Err(error) => Err((registers, error)),
        }
    }

    fn stop(self) -> R {
        if reset(&self.registers).is_ok() {
            self.receive.release();
            self.transmit.release();
        }
        self.registers
    }

    fn quiet(registers: &mut R) {
        registers.read32(register::CAUSE);
    }

    fn describe(&self, to: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        to.write_str("no offloads")
    }

    fn features(&self) -> u32 {
        self.features
    }

    fn header_bytes(&self) -> usize {
        0
    }

    fn largest_write(&self) -> usize {
        BUFFER_BYTES
    }

    fn largest_sent(&self) -> usize {
        LARGEST_SENT
    }

    fn has_room(&self, direction: Direction) -> bool {
        self.ring(direction).held() < self.capacity(direction)
    }

    fn held(&self, direction: Direction) -> usize {
        self.ring(direction).held()
    }

    fn capacity(&self, direction: Direction) -> usize {
        self.ring(direction).capacity()
    }

    fn give(&mut self, area: Area, buffer: Descriptor) -> Result<(), NicError> {
        if area.length() < BUFFER_BYTES {
            return Err(NicError::BadBuffer);
        }
        let added = self.receive.add(area.physical(), 0, buffer);
        added.then_some(()).ok_or(NicError::RingFull)
    }

    /// No feature of sending is offered, so that no offload is asked for.
    fn send(
        &mut self,
        area: Area,
        _offload: Option<SendOffload>,
        packet: Descriptor,
    ) -> Result<(), NicError> {
        if area.length() > LARGEST_SENT {
            return Err(NicError::BadBuffer);
        }
        let word = SEND | area.length() as u64;
        let added = self.transmit.add(area.physical(), word, packet);
        added.then_some(()).ok_or(NicError::RingFull)
    }

    fn notify(&mut self) -> u64 {
        let mut count = 0;
        let untold = self.receive.untold();
        let short = self.receive.held() - untold < ENOUGH;
        if untold > 0 && (short || untold >= TOLD_TOGETHER) {
            let tail = self.receive.tell();
            self.registers.write32(register::RECEIVE.tail, tail);
            count += 1;
        }
        if self.transmit.untold() > 0 {
            let tail = self.transmit.tell();
            self.registers.write32(register::TRANSMIT.tail, tail);
            count += 1;
        }
        count
    }

    fn take_received(&mut self, _pool: &Area) -> Result<Option<Received>, NicError> {
        let Some(done) = self.receive.take() else {
            return Ok(None);
        };
        Ok(Some(Received {
            buffer: done.buffer,
            length: self.received(done.word),
            more: false,
            verified: false,
        }))
    }

    fn take_sent(&mut self) -> Result<Option<Descriptor>, NicError> {
        Ok(self.transmit.take().map(|done| done.buffer))
    }

    fn disarm(&mut self) {
        self.asked = cause::LINK;
    }

    fn arm(&mut self, direction: Direction, count: u16) -> bool {
        let wanted = match direction {
            Direction::Receive => cause::RECEIVED,
            Direction::Transmit => cause::SENT,
        };
        self.asked |= wanted;
        let mut again = false;
        let disabled = self.enabled & wanted == 0;
        // A cause that is there already would interrupt for what was seen.
        if disabled | core::mem::take(&mut self.interrupted) {
            self.take_causes();
            // What came since the other direction was armed has lost its cause.
            let received = self.asked & cause::RECEIVED != 0 && self.receive.has_done(1);
            let sent = self.asked & cause::SENT != 0 && self.transmit.has_done(1);
            again = match direction {
                Direction::Receive => sent,
                Direction::Transmit => received,
            };
        }
        if disabled {
            self.enabled |= wanted;
            self.registers.write32(register::MASK_SET, wanted);
        }
        again || self.ring(direction).has_done(count)
    }

    fn interrupted(&mut self, _interrupt: Interrupt) {
        self.take_causes();
        self.interrupted = true;
        let unasked = self.enabled & !self.asked;
        if unasked != 0 {
            self.enabled &= !unasked;
            self.registers.write32(register::MASK_CLEAR, unasked);
        }
    }

    fn take_link_change(&mut self) -> bool {
        core::mem::take(&mut self.link_changed)
    }

    fn mac(&self) -> [u8; 6] {
        self.address
    }

    fn mtu(&self) -> u16 {
        ethernet::MTU
    }

    fn is_link_up(&self) -> bool {
        self.registers.read32(register::STATUS) & register::STATUS_LINK_UP != 0
    }
}

/// Stops the device and resets it. An emulator may do nothing for the reset's bit, so what must be off
/// is switched off first.
fn reset<R: Registers>(registers: &R) -> Result<(), NicError> {
    registers.write32(register::MASK_CLEAR, u32::MAX);
    registers.write32(register::RECEIVE_CONTROL, 0);
    registers.write32(register::TRANSMIT_CONTROL, 0);
    let control = registers.read32(register::CONTROL);
    registers.write32(register::CONTROL, control | control::RESET);
    for _ in 0..RESET_TURNS {
        core::hint::spin_loop();
    }
    // All ones, which a device that does not answer reads as, have the bit too.
    let ended = (0..READINGS).any(|_| registers.read32(register::CONTROL) & control::RESET == 0);
    if !ended {
        return Err(NicError::ResetTimedOut);
    }
    registers.write32(register::MASK_CLEAR, u32::MAX);
    registers.read32(register::CAUSE);
    let receives = registers.read32(register::RECEIVE_CONTROL) & receive_control::ENABLE != 0;
    let sends = registers.read32(register::TRANSMIT_CONTROL) & transmit_control::ENABLE != 0;
    if receives || sends {
        return Err(NicError::DoesNotStop);
    }
    Ok(())
}

/// Resets and starts the device (manual, sections 14.3 to 14.5).
fn bring_up<R: Registers>(registers: &R) -> Result<(Ring, Ring, [u8; 6]), NicError> {
    reset(registers)?;
    let receive = Ring::new()?;
    let transmit = match Ring::new() {
        Ok(ring) => ring,
        Err(error) => {
            receive.release();
            return Err(error.into());
        }
    };
    let address = station_address(registers);
    let control = registers.read32(register::CONTROL) & !control::OFF;
    let control = control | control::LINK_UP | control::DETECT_SPEED;
    registers.write32(register::CONTROL, control);
    for index in 0..register::MULTICAST_WORDS {
        registers.write32(register::MULTICAST_TABLE + 4 * index, 0);
    }
    let zero = [
        &register::FLOW_CONTROL[..],
        &register::RECEIVE_DELAYS,
        &register::TRANSMIT_DELAYS,
        &[
            register::THROTTLING,
            register::RECEIVE_DESCRIPTORS,
            register::TRANSMIT_DESCRIPTORS,
            register::RECEIVE_CHECKSUM,
        ],
    ];
    for offset in zero.into_iter().flatten() {
        registers.write32(*offset, 0);
    }
    set_up_ring(registers, register::RECEIVE, &receive);
    set_up_ring(registers, register::TRANSMIT, &transmit);
    registers.write32(register::PACKET_GAP, register::COPPER_GAP);
    registers.write32(
        register::TRANSMIT_CONTROL,
        transmit_control::ENABLE | transmit_control::PAD_SHORT | transmit_control::COLLISIONS,
    );
    registers.write32(
        register::RECEIVE_CONTROL,
        receive_control::ENABLE
            | receive_control::ALL_MULTICAST
            | receive_control::BROADCAST
            | receive_control::STRIP_CHECKSUM,
    );
    registers.write32(register::MASK_SET, cause::LINK);
    Ok((receive, transmit, address))
}

/// Tells the device of an empty ring.
fn set_up_ring<R: Registers>(registers: &R, at: RingRegisters, ring: &Ring) {
    let base = ring.physical();
    registers.write32(at.base_low, base as u32);
    registers.write32(at.base_high, (base >> 32) as u32);
    registers.write32(at.length, ring::BYTES as u32);
    registers.write32(at.head, 0);
    registers.write32(at.tail, 0);
}

/// The device's own address. It reads it from its EEPROM after a reset (manual, section 13.5.2); where it
/// did not, the driver does. One that is none is replaced.
fn station_address<R: Registers>(registers: &R) -> [u8; 6] {
    let [low, high] = register::ADDRESS;
    let is_valid = |_| registers.read32(high) & register::ADDRESS_VALID != 0;
    if (0..ADDRESS_READINGS).any(is_valid) {
        let [a, b, c, d] = registers.read32(low).to_le_bytes();
        let [e, f, ..] = registers.read32(high).to_le_bytes();
        if ethernet::is_station([a, b, c, d, e, f]) {
            return [a, b, c, d, e, f];
        }
    }
    let stored = stored_address(registers).filter(|address| ethernet::is_station(*address));
    let address = stored.unwrap_or(ethernet::OWN_ADDRESS);
    let [a, b, c, d, e, f] = address;
    registers.write32(low, u32::from_le_bytes([a, b, c, d]));
    let end = u32::from_le_bytes([e, f, 0, 0]);
    registers.write32(high, end | register::ADDRESS_VALID);
    address
}

/// The address in the EEPROM's first three words (manual, section 5.6.1).
fn stored_address<R: Registers>(registers: &R) -> Option<[u8; 6]> {
    let mut address = [0; 6];
    for (index, pair) in (0u32..).zip(address.chunks_exact_mut(2)) {
        registers.write32(register::EEPROM, index << 8 | eeprom::START);
        let word = (0..READINGS)
            .map(|_| registers.read32(register::EEPROM))
            .find(|word| word & eeprom::DONE != 0)?;
        pair.copy_from_slice(&((word >> 16) as u16).to_le_bytes());
    }
    Some(address)
}
