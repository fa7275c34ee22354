//! A fake machine for the tests: configuration space as bytes with write masks, and a kernel that
//! counts what it gave and what came back.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use ipc::interface::pci::PciAddress;
use ipc::{Error, Handle};
use registers::Registers;

use crate::config::ConfigSpace;
use crate::platform::{Message, Platform};

/// An address on segment 0.
pub(crate) const fn at(bus: u8, device: u8, function: u8) -> PciAddress {
    PciAddress {
        segment: 0,
        bus,
        device,
        function,
    }
}

/// Where the tests put the card.
pub(crate) const CARD: PciAddress = at(0, 2, 0);

/// One function's configuration space.
#[derive(Clone)]
struct FakeFunction {
    words: [u32; 64],
    /// Bits of the base address registers that can be set, where the test said so.
    masks: BTreeMap<usize, u32>,
}

/// Configuration space.
#[derive(Default)]
pub(crate) struct FakeConfig {
    functions: RefCell<BTreeMap<PciAddress, FakeFunction>>,
    decoding_while_sizing: Cell<bool>,
}

impl FakeConfig {
    /// Adds an ordinary function.
    pub(crate) fn add(&self, address: PciAddress, vendor: u16, device: u16, class: u32) {
        let mut words = [0; 64];
        words[0] = u32::from(device) << 16 | u32::from(vendor);
        words[2] = class << 8;
        let masks = (0..6).map(|bar| (4 + bar, 0)).collect();
        self.functions
            .borrow_mut()
            .insert(address, FakeFunction { words, masks });
    }

    /// Adds a bridge.
    pub(crate) fn add_bridge(&self, address: PciAddress, secondary: u8) {
        self.add(address, 0x1b36, 0x000c, 0x06_0400);
        self.set_header_type(address, 1);
        self.raw_write(address, 0x18, u32::from(secondary) << 8);
    }

    pub(crate) fn set_header_type(&self, address: PciAddress, kind: u8) {
        self.raw_write(address, 0x0c, u32::from(kind) << 16);
    }

    pub(crate) fn set_bar(&self, address: PciAddress, bar: usize, value: u32, mask: u32) {
        self.raw_write(address, 0x10 + 4 * bar as u16, value);
        let mut functions = self.functions.borrow_mut();
        functions
            .get_mut(&address)
            .unwrap()
            .masks
            .insert(4 + bar, mask);
    }

    /// Chains capabilities: offset and identifier each.
    pub(crate) fn set_capabilities(&self, address: PciAddress, list: &[(u16, u8)]) {
        self.raw_write(address, 4, 1 << 20 | u32::from(self.command(address)));
        self.raw_write(
            address,
            0x34,
            list.first().map_or(0, |first| first.0.into()),
        );
        for (index, (offset, identifier)) in list.iter().enumerate() {
            let next = list.get(index + 1).map_or(0, |next| next.0);
            self.raw_write(
                address,
                *offset,
                u32::from(next) << 8 | u32::from(*identifier),
            );
        }
    }

    /// Fills in a virtio capability that is in the list already.
    pub(crate) fn set_virtio(
        &self,
        address: PciAddress,
        at: u16,
        kind: u8,
        bar: u8,
        start: u32,
        bytes: u32,
    ) {
        let length = if kind == 2 { 20 } else { 16 };
        let head = self.read32(address, at) & 0xffff;
        self.raw_write(address, at, head | length << 16 | u32::from(kind) << 24);
        self.raw_write(address, at + 4, bar.into());
        self.raw_write(address, at + 8, start);
        self.raw_write(address, at + 12, bytes);
    }

    /// Writes past all masks.
    pub(crate) fn raw_write(&self, address: PciAddress, offset: u16, value: u32) {
        let mut functions = self.functions.borrow_mut();
        functions.get_mut(&address).unwrap().words[usize::from(offset / 4)] = value;
    }

    /// Whether a base address register was written all ones while its function decoded addresses.
    pub(crate) fn decoding_while_sizing(&self) -> bool {
        self.decoding_while_sizing.get()
    }
}

impl ConfigSpace for FakeConfig {
    fn bytes(&self) -> u16 {
        256
    }

    fn read32(&self, address: PciAddress, offset: u16) -> u32 {
        assert_eq!(offset % 4, 0);
        let functions = self.functions.borrow();
        functions
            .get(&address)
            .map_or(u32::MAX, |function| function.words[usize::from(offset / 4)])
    }

    fn write32(&self, address: PciAddress, offset: u16, value: u32) {
        assert_eq!(offset % 4, 0);
        let mut functions = self.functions.borrow_mut();
        let Some(function) = functions.get_mut(&address) else {
            return;
        };
        let word = usize::from(offset / 4);
        let old = function.words[word];
        if value == u32::MAX && (4..10).contains(&word) && function.words[1] & 3 != 0 {
            self.decoding_while_sizing.set(true);
        }
        function.words[word] = match (word, function.masks.get(&word)) {
            // Identifiers and class cannot be written.
            (0 | 2, _) => old,
            // Status bits are cleared by ones.
            (1, _) => old & 0xffff_0000 & !(value & 0xf900_0000) | value & 0xffff,
            // Sizing shows which bits can be set; the values that a test gave stay as they are.
            (_, Some(mask)) if value == u32::MAX => *mask,
            _ => value,
        };
    }
}

impl<T: ConfigSpace + ?Sized> ConfigSpace for Rc<T> {
    fn bytes(&self) -> u16 {
        (**self).bytes()
    }
    fn read32(&self, address: PciAddress, offset: u16) -> u32 {
        (**self).read32(address, offset)
    }
    fn write32(&self, address: PciAddress, offset: u16, value: u32) {
        (**self).write32(address, offset, value);
    }
}

/// Memory-mapped registers that remember what is written.
#[derive(Clone, Default)]
pub(crate) struct FakeTable(pub(crate) Rc<RefCell<BTreeMap<usize, u32>>>);

impl Registers for FakeTable {
    fn length(&self) -> usize {
        1 << 20
    }
    fn read8(&self, _: usize) -> u8 {
        unreachable!("the table is accessed in 32 bits")
    }
    fn read16(&self, _: usize) -> u16 {
        unreachable!("the table is accessed in 32 bits")
    }
    fn read32(&self, offset: usize) -> u32 {
        self.0.borrow().get(&offset).copied().unwrap_or(0)
    }
    fn write8(&self, _: usize, _: u8) {
        unreachable!("the table is accessed in 32 bits")
    }
    fn write16(&self, _: usize, _: u16) {
        unreachable!("the table is accessed in 32 bits")
    }
    fn write32(&self, offset: usize, value: u32) {
        self.0.borrow_mut().insert(offset, value);
    }
}

/// Physical addresses where the tests put slots of virtio-mmio.
const SLOTS: std::ops::Range<u64> = 0xfeb0_0000..0xfeb0_3000;

/// The registers of all slots, by physical address. A status that is written is read back.
#[derive(Clone, Default)]
pub(crate) struct FakeSlots {
    registers: Rc<RefCell<BTreeMap<u64, u32>>>,
    /// Devices whose status never reads 0.
    pub(crate) stuck: Rc<Cell<bool>>,
    /// The type of a device reads as all ones from the second time on.
    pub(crate) fickle: Rc<Cell<bool>>,
}

/// One page of them.
struct FakePage(FakeSlots, u64);

impl FakeSlots {
    /// Puts a device of this version and type into the slot at an address; it runs.
    pub(crate) fn add(&self, address: u64, version: u32, kind: u32) {
        let values = [(0, 0x7472_6976), (4, version), (8, kind), (0x70, 0xf)];
        let place = |(offset, value)| (address + offset, value);
        self.registers.borrow_mut().extend(values.map(place));
    }

    /// The status of a device.
    pub(crate) fn status(&self, address: u64) -> u32 {
        self.registers.borrow()[&(address + 0x70)]
    }

    /// Writes a status, as a driver does.
    pub(crate) fn set_status(&self, address: u64, status: u32) {
        self.registers.borrow_mut().insert(address + 0x70, status);
    }
}

impl Registers for FakePage {
    fn length(&self) -> usize {
        4096
    }
    fn read8(&self, _: usize) -> u8 {
        unreachable!("slots are accessed in 32 bits")
    }
    fn read16(&self, _: usize) -> u16 {
        unreachable!("slots are accessed in 32 bits")
    }
    fn read32(&self, offset: usize) -> u32 {
        let mut registers = self.0.registers.borrow_mut();
        let Some(register) = registers.get_mut(&(self.1 + offset as u64)) else {
            return u32::MAX;
        };
        let value = *register;
        if offset & 0xff == 8 && self.0.fickle.get() {
            *register = u32::MAX;
        }
        let stuck = offset & 0xff == 0x70 && self.0.stuck.get();
        value | u32::from(stuck)
    }
    fn write8(&self, _: usize, _: u8) {
        unreachable!("slots are accessed in 32 bits")
    }
    fn write16(&self, _: usize, _: u16) {
        unreachable!("slots are accessed in 32 bits")
    }
    fn write32(&self, offset: usize, value: u32) {
        let place = self.1 + offset as u64;
        let mut registers = self.0.registers.borrow_mut();
        *registers
            .get_mut(&place)
            .expect("only devices are written to") = value;
    }
}

/// What the fake kernel has seen.
#[derive(Default)]
pub(crate) struct KernelState {
    next: u64,
    /// Handles open.
    pub(crate) open: BTreeSet<u64>,
    /// Objects destroyed, by any of their handles.
    pub(crate) destroyed: Vec<u64>,
    /// Memory exposed.
    pub(crate) exposed: BTreeSet<u64>,
    /// Memory that is not contiguous.
    pub(crate) scattered: BTreeSet<u64>,
    /// What happened, in order, as far as order matters.
    pub(crate) log: Vec<String>,
    /// The calls that are refused from now on.
    pub(crate) refuse: Option<Error>,
}

/// The fake kernel.
#[derive(Clone, Default)]
pub(crate) struct FakeKernel {
    pub(crate) state: Rc<RefCell<KernelState>>,
    pub(crate) table: FakeTable,
    pub(crate) slots: FakeSlots,
    /// Looked at when memory is let go, to see that its device was stopped.
    pub(crate) config: Rc<FakeConfig>,
}

impl FakeKernel {
    /// A handle that the test holds.
    pub(crate) fn handle(&self) -> Handle {
        let mut state = self.state.borrow_mut();
        state.next += 1;
        let value = state.next;
        state.open.insert(value);
        Handle(value)
    }

    fn make(&self, what: String) -> Result<Handle, Error> {
        if let Some(error) = self.state.borrow().refuse {
            return Err(error);
        }
        self.state.borrow_mut().log.push(what);
        Ok(self.handle())
    }
}

impl Platform for FakeKernel {
    fn map_registers(&mut self, address: u64, bytes: u64) -> Result<Box<dyn Registers>, Error> {
        assert_eq!((address % 4096, bytes % 4096), (0, 0));
        self.make(format!("map {address:x} {bytes:x}"))?;
        if SLOTS.contains(&address) {
            return Ok(Box::new(FakePage(self.slots.clone(), address)));
        }
        Ok(Box::new(self.table.clone()))
    }
    fn device_memory(&mut self, address: u64, bytes: u64) -> Result<Handle, Error> {
        assert_eq!((address % 4096, bytes % 4096), (0, 0));
        self.make(format!("memory {address:x} {bytes:x}"))
    }
    fn io_ports(&mut self, first: u16, count: u16) -> Result<Handle, Error> {
        self.make(format!("ports {first:x} {count}"))
    }
    fn message_interrupt(
        &mut self,
        notification: Handle,
        bits: u64,
    ) -> Result<(Handle, Message), Error> {
        assert!(self.state.borrow().open.contains(&notification.0));
        let handle = self.make(format!("message {bits:x}"))?;
        Ok((
            handle,
            Message {
                address: 0x1_fee0_1000,
                data: 0x40 + bits as u32,
            },
        ))
    }
    fn line_interrupt(
        &mut self,
        line: u32,
        active_low: bool,
        _: Handle,
        bits: u64,
    ) -> Result<Handle, Error> {
        let level = if active_low { "low" } else { "high" };
        self.make(format!("line {line} {level} {bits:x}"))
    }
    fn memory(&mut self, memory: Handle) -> Result<(u64, bool), Error> {
        let state = self.state.borrow();
        if !state.open.contains(&memory.0) {
            return Err(Error::InvalidHandle);
        }
        Ok((8192, !state.scattered.contains(&memory.0)))
    }
    fn expose(&mut self, memory: Handle) -> Result<u64, Error> {
        self.state.borrow_mut().exposed.insert(memory.0);
        Ok(0x7000_0000 + memory.0 * 8192)
    }
    fn conceal(&mut self, memory: Handle) {
        let command = self.config.command(CARD);
        let no_card = command == u16::MAX;
        assert!(
            no_card || command & 4 == 0,
            "memory is let go once the device is stopped"
        );
        self.state.borrow_mut().log.push("conceal".to_owned());
        self.state.borrow_mut().exposed.remove(&memory.0);
    }
    fn duplicate(&mut self, _: Handle) -> Result<Handle, Error> {
        Ok(self.handle())
    }
    fn destroy(&mut self, handle: Handle) {
        let mut state = self.state.borrow_mut();
        assert!(state.open.remove(&handle.0), "a handle is destroyed once");
        state.log.push("destroy".to_owned());
        state.destroyed.push(handle.0);
    }
    fn close(&mut self, handle: Handle) {
        assert!(
            self.state.borrow_mut().open.remove(&handle.0),
            "a handle is closed once"
        );
    }
}

impl FakeTable {
    pub(crate) fn read(&self, offset: usize) -> u32 {
        self.read32(offset)
    }
    pub(crate) fn write(&self, offset: usize, value: u32) {
        self.write32(offset, value);
    }
}
