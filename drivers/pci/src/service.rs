//! The service: sessions, claims, and what a claim gives. No operation waits for a driver or a
//! device, so that no driver can hold up another.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use ipc::interface::pci::{
    BarKind, DmaRegion, FUNCTIONS_PER_REPLY, FunctionList, InterruptKind, Match, PciError,
    PciFunction, PciServer, VirtioLocation, VirtioStructure,
};
use ipc::server::Caller;
use ipc::{Error, Handle};

use crate::bar::Bar;
use crate::bus::{Function, enumerate};
use crate::capability::{MSIX_ENTRY_BYTES, Msix};
use crate::config::ConfigSpace;
use crate::header::{self, command};
use crate::platform::{Message, Platform};
use crate::session::{Claim, MOST_REGIONS, Region, Session};
use crate::shifted::Shifted;
use crate::slot::{Slot, SlotState};
use crate::words::SlotWord;

/// Unit of what can be mapped, in bytes.
const PAGE: u64 = ipc::layout::PAGE_BYTES;
/// I/O APIC inputs below this are the ISA interrupts, to which a PC's chipset routes INTx as active
/// high (its MADT overrides say so; ACPI 6.5, section 5.2.12.5); those above are active low, as PCI
/// lines are (PCI 3.0, section 2.2.6).
const ISA_INPUTS: u32 = 16;

/// The machine's bus and its sessions.
pub struct PciBus<C, P> {
    config: C,
    platform: P,
    /// Those of the bus, then those in slots.
    functions: Vec<Function>,
    slots: Vec<Slot>,
    /// By badge.
    sessions: BTreeMap<u64, Session>,
}

impl<C: ConfigSpace, P: Platform> PciBus<C, P> {
    /// Finds the machine's functions, and the devices in the slots that the command line names, and
    /// stops all of them: whatever an earlier instance left running neither reaches memory nor
    /// interrupts any more. If [`PciBus::all_stopped`], the task then tells the kernel (DmaReset).
    pub fn start(config: C, mut platform: P, words: &[SlotWord]) -> Self {
        let mut functions = enumerate(&config);
        let find = |word: &SlotWord| Slot::find(*word, &mut platform);
        let slots: Vec<Slot> = words.iter().map(find).collect();
        let in_slots = slots.iter().enumerate();
        functions.extend(in_slots.filter_map(|(position, slot)| slot.function(position)));
        let bus = PciBus {
            config,
            platform,
            functions,
            slots,
            sessions: BTreeMap::new(),
        };
        let on_bus = |function: &&Function| !function.bridge && function.slot.is_none();
        for function in bus.functions.iter().filter(on_bus) {
            bus.quiet(function);
        }
        bus
    }

    /// The functions found.
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// The slots that the command line names.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Whether every device that there is was stopped. There is none where the kernel says that an
    /// address is no device's (InvalidArgument); after any other refusal one may run.
    pub fn all_stopped(&self) -> bool {
        let may_run = |slot: &Slot| match slot.state {
            SlotState::Running => true,
            SlotState::Unreachable(error) => error != Error::InvalidArgument,
            _ => false,
        };
        !self.slots.iter().any(may_run)
    }

    /// A client has connected; `may_claim` is the manifest's word.
    pub fn opened(&mut self, badge: u64, may_claim: bool) {
        self.sessions.insert(
            badge,
            Session {
                may_claim,
                claim: None,
            },
        );
    }

    /// A session has ended: its device is stopped first, then everything of it is taken back.
    pub fn closed(&mut self, badge: u64) {
        let Some(claim) = self
            .sessions
            .remove(&badge)
            .and_then(|session| session.claim)
        else {
            return;
        };
        let function = &self.functions[claim.function];
        self.quiet(function);
        for handle in claim.kept {
            self.platform.destroy(handle);
        }
        // A driver that lives on could have started its device again as long as it had the registers
        // of a slot. Memory that a device may still reach is never let go.
        let stopped = function.slot.is_none() || self.quiet(function);
        for region in claim.regions.iter().filter(|_| stopped) {
            self.platform.conceal(region.memory);
            self.platform.close(region.memory);
        }
    }

    /// The system stops: every session ends, and with it its device's work.
    pub fn stop(&mut self) {
        let sessions: Vec<u64> = self.sessions.keys().copied().collect();
        for badge in sessions {
            self.closed(badge);
        }
    }

    /// The slot that a device is in, if it is in one.
    fn slot(&self, function: &Function) -> Option<&Slot> {
        self.slots.get(function.slot?)
    }

    /// Stops a device: no access to memory, no interrupt. False where it does not stop.
    fn quiet(&self, function: &Function) -> bool {
        if let Some(slot) = self.slot(function) {
            return slot.stop();
        }
        let address = function.header.address;
        self.config
            .change_command(address, command::BUS_MASTER, command::INTERRUPT_DISABLE);
        if let Some(msix) = &function.capabilities.msix {
            msix.switch(&self.config, address, false);
        }
        if let Some(msi) = &function.capabilities.msi {
            msi.disable(&self.config, address);
        }
        true
    }

    /// Takes a device its access to memory; its interrupts stay as they are where they can.
    fn disconnect(&self, function: &Function) -> Result<(), PciError> {
        match self.slot(function) {
            Some(slot) => slot.stop().then_some(()).ok_or(PciError::DeviceRunning),
            None => {
                let address = function.header.address;
                self.config.change_command(address, command::BUS_MASTER, 0);
                Ok(())
            }
        }
    }

    /// Whether a device has access to memory.
    fn is_connected(&self, function: &Function) -> bool {
        match self.slot(function) {
            Some(slot) => slot.runs(),
            None => self.config.command(function.header.address) & command::BUS_MASTER != 0,
        }
    }

    /// All claims.
    fn claims(&self) -> impl Iterator<Item = &Claim> {
        let sessions = self.sessions.values();
        sessions.filter_map(|session| session.claim.as_ref())
    }

    /// Whether a session has claimed the function at this position.
    fn is_claimed(&self, position: usize) -> bool {
        self.claims().any(|claim| claim.function == position)
    }

    /// Whether a device is in a slot on a page with that of a claimed one: who has that has the page.
    fn is_page_taken(&self, function: &Function) -> bool {
        let page = |function: &Function| function.header.registers.map(|start| start / PAGE);
        let Some(wanted) = page(function) else {
            return false;
        };
        self.claims()
            .any(|claim| page(&self.functions[claim.function]) == Some(wanted))
    }

    /// The session's claim and its function.
    fn claimed(&mut self, badge: u64) -> Result<(&mut Claim, &Function), PciError> {
        let session = self.sessions.get_mut(&badge);
        let claim = session.and_then(|session| session.claim.as_mut());
        let claim = claim.ok_or(PciError::NotClaimed)?;
        let function = self
            .functions
            .get(claim.function)
            .ok_or(PciError::NotClaimed)?;
        Ok((claim, function))
    }

    /// Notes a second handle of what is handed out, or takes the object back if that fails.
    fn keep(&mut self, badge: u64, handle: Handle) -> Result<Handle, PciError> {
        match self.platform.duplicate(handle) {
            Ok(second) => {
                self.claimed(badge)?.0.kept.push(second);
                Ok(handle)
            }
            Err(_) => {
                self.platform.destroy(handle);
                Err(PciError::Kernel)
            }
        }
    }

    /// Whether another function's registers lie in this range of whole pages. The slots on a page go
    /// together: the others of the page cannot be claimed.
    fn is_shared(&self, position: usize, start: u64, end: u64) -> bool {
        let in_slot = self.functions[position].slot.is_some();
        let others = self.functions.iter().enumerate();
        let others = others.filter(|(other, function)| {
            *other != position && !(in_slot && function.slot.is_some())
        });
        others
            .flat_map(|(_, function)| function.bars.iter().flatten())
            .any(|bar| match *bar {
                Bar::Memory { address, bytes, .. } => address < end && start < address + bytes,
                _ => false,
            })
    }

    /// The pages of a memory BAR that a driver may have: those before its MSI-X table.
    fn shareable(&self, position: usize, bar: usize) -> Result<(u64, u64), PciError> {
        let function = &self.functions[position];
        let Some(Bar::Memory { address, bytes, .. }) = function.bars[bar] else {
            return Err(PciError::NoSuchBar);
        };
        let table = function.capabilities.msix.filter(|msix| msix.bar == bar);
        let bytes = match table {
            Some(msix) => (address + u64::from(msix.table)) / PAGE * PAGE,
            None => address + bytes,
        }
        .saturating_sub(address);
        let start = address / PAGE * PAGE;
        let end = (address + bytes).next_multiple_of(PAGE);
        if bytes == 0 || self.is_shared(position, start, end) {
            return Err(PciError::NotShareable);
        }
        Ok((start, end - start))
    }

    /// The MSI-X table's registers, mapped at first use with every entry masked: what an earlier
    /// driver wrote there must not fire.
    fn prepare_table(&mut self, badge: u64, msix: &Msix) -> Result<(), PciError> {
        let (claim, function) = self.claimed(badge)?;
        if claim.table.is_some() {
            return Ok(());
        }
        let Some(Bar::Memory { address, .. }) = function.bars[msix.bar] else {
            return Err(PciError::NoSuchBar);
        };
        let first = address + u64::from(msix.table);
        let start = first / PAGE * PAGE;
        let bytes = u64::from(msix.entries) * u64::from(MSIX_ENTRY_BYTES);
        let end = (first + bytes).next_multiple_of(PAGE);
        let mapped = self
            .platform
            .map_registers(start, end - start)
            .map_err(kernel_refused)?;
        let skip = (first - start) as usize;
        let table = alloc::boxed::Box::new(Shifted {
            registers: mapped,
            skip,
        });
        for entry in 0..msix.entries {
            mask_entry(table.as_ref(), entry);
        }
        self.claimed(badge)?.0.table = Some(table);
        Ok(())
    }

    fn msix_interrupt(
        &mut self,
        badge: u64,
        msix: Msix,
        entry: u16,
        bits: u64,
        notification: Handle,
    ) -> Result<Handle, PciError> {
        if entry >= msix.entries {
            return Err(PciError::OutOfRange);
        }
        self.prepare_table(badge, &msix)?;
        let made = self
            .platform
            .message_interrupt(notification, bits)
            .map_err(kernel_refused)?;
        let handle = self.keep(badge, made.0)?;
        let (claim, function) = self.claimed(badge)?;
        let address = function.header.address;
        if let Some(table) = &claim.table {
            write_entry(table.as_ref(), entry, made.1);
        }
        msix.switch(&self.config, address, true);
        Ok(handle)
    }

    /// The line of a claimed device, and whether it is active low.
    fn line(&mut self, badge: u64) -> Result<(u32, bool), PciError> {
        let function = self.claimed(badge)?.1.clone();
        if let Some(slot) = self.slot(&function) {
            // Active high, as microvm's ACPI tables and device trees have it.
            return Ok((slot.word.line, false));
        }
        let address = function.header.address;
        let line = u32::from(self.config.read8(address, header::INTERRUPT_LINE));
        // 0xff is "unknown or no connection" (PCI 3.0, section 6.2.4); 0 is the timer's input.
        let unusable = line == 0 || line == 0xff;
        if unusable || self.config.read8(address, header::INTERRUPT_PIN) == 0 {
            return Err(PciError::OutOfRange);
        }
        Ok((line, line >= ISA_INPUTS))
    }

    fn line_interrupt(
        &mut self,
        badge: u64,
        bits: u64,
        notification: Handle,
    ) -> Result<(InterruptKind, Handle), PciError> {
        let (line, active_low) = self.line(badge)?;
        if self.claims().any(|claim| claim.line == Some(line)) {
            return Err(PciError::LineShared);
        }
        let made = self
            .platform
            .line_interrupt(line, active_low, notification, bits);
        let handle = made.map_err(|error| match error {
            Error::Busy => PciError::LineShared,
            other => kernel_refused(other),
        })?;
        let handle = self.keep(badge, handle)?;
        let (claim, function) = self.claimed(badge)?;
        claim.line = Some(line);
        let (address, on_bus) = (function.header.address, function.slot.is_none());
        if on_bus {
            self.config
                .change_command(address, command::INTERRUPT_DISABLE, 0);
        }
        Ok((InterruptKind::Line { line }, handle))
    }
}

/// The kernel's refusals are one error to a driver; which one it was is in pci's log.
fn kernel_refused(_error: Error) -> PciError {
    PciError::Kernel
}

/// Offsets in an MSI-X table entry: address low and high, data, vector control, whose bit 0 masks
/// (PCI 3.0, section 6.8.2.6 to 6.8.2.9).
const ENTRY_FIELDS: [usize; 4] = [0, 4, 8, 12];

fn mask_entry(table: &dyn registers::Registers, entry: u16) {
    table.write32(
        usize::from(entry) * MSIX_ENTRY_BYTES as usize + ENTRY_FIELDS[3],
        1,
    );
}

/// Writes an entry while it is masked, then unmasks it.
fn write_entry(table: &dyn registers::Registers, entry: u16, message: Message) {
    let base = usize::from(entry) * MSIX_ENTRY_BYTES as usize;
    mask_entry(table, entry);
    table.write32(base + ENTRY_FIELDS[0], message.address as u32);
    table.write32(base + ENTRY_FIELDS[1], (message.address >> 32) as u32);
    table.write32(base + ENTRY_FIELDS[2], message.data);
    table.write32(base + ENTRY_FIELDS[3], 0);
}

impl<C: ConfigSpace, P: Platform> PciServer for PciBus<C, P> {
    fn list(&mut self, _caller: &mut Caller<'_>, first: u16) -> Result<FunctionList, PciError> {
        let all = self
            .functions
            .iter()
            .enumerate()
            .map(|(position, function)| PciFunction {
                claimed: self.is_claimed(position),
                ..function.header
            });
        let functions = all.skip(first.into()).take(FUNCTIONS_PER_REPLY).collect();
        Ok(FunctionList {
            total: self.functions.len() as u16,
            functions,
        })
    }

    fn claim(&mut self, caller: &mut Caller<'_>, wanted: Match) -> Result<PciFunction, PciError> {
        let session = self
            .sessions
            .get(&caller.badge())
            .ok_or(PciError::NotPermitted)?;
        if !session.may_claim {
            return Err(PciError::NotPermitted);
        }
        if session.claim.is_some() {
            return Err(PciError::AlreadyClaimed);
        }
        let matching = |function: &&Function| function.matches(&wanted) && function.is_assigned();
        if !self.functions.iter().any(|function| matching(&function)) {
            return Err(PciError::NoSuchDevice);
        }
        let free = self
            .functions
            .iter()
            .enumerate()
            .find(|(position, function)| {
                let busy = self.is_claimed(*position) || self.is_page_taken(function);
                matching(function) && !busy
            });
        let (position, function) = free.ok_or(PciError::DeviceBusy)?;
        let header = function.header;
        if !self.quiet(function) {
            return Err(PciError::DeviceRunning);
        }
        if function.slot.is_none() {
            let decoding = command::IO_SPACE | command::MEMORY_SPACE;
            self.config.change_command(header.address, 0, decoding);
        }
        self.sessions.insert(
            caller.badge(),
            Session {
                may_claim: true,
                claim: Some(Claim::new(position)),
            },
        );
        Ok(PciFunction {
            claimed: true,
            ..header
        })
    }

    fn read_config(
        &mut self,
        caller: &mut Caller<'_>,
        offset: u16,
        width: u8,
    ) -> Result<u32, PciError> {
        let function = self.claimed(caller.badge())?.1;
        let (address, on_bus) = (function.header.address, function.slot.is_none());
        let aligned = matches!(width, 1 | 2 | 4) && offset.is_multiple_of(u16::from(width));
        if !on_bus || !aligned || offset >= self.config.bytes() {
            return Err(PciError::OutOfRange);
        }
        Ok(match width {
            1 => self.config.read8(address, offset).into(),
            2 => self.config.read16(address, offset).into(),
            _ => self.config.read32(address, offset),
        })
    }

    fn bar(&mut self, caller: &mut Caller<'_>, bar: u8) -> Result<(BarKind, Handle), PciError> {
        let (claim, function) = self.claimed(caller.badge())?;
        let position = claim.function;
        let entry = function
            .bars
            .get(usize::from(bar))
            .ok_or(PciError::OutOfRange)?;
        let (kind, made) = match entry.ok_or(PciError::NoSuchBar)? {
            Bar::Unassigned => return Err(PciError::NoSuchBar),
            Bar::Ports { first, count } => (
                BarKind::Ports { first, count },
                self.platform.io_ports(first, count),
            ),
            Bar::Memory {
                address,
                bytes,
                prefetchable,
            } => {
                let (start, pages) = self.shareable(position, bar.into())?;
                let offset = (address - start) as u32;
                let bytes = bytes.min(pages - u64::from(offset));
                let kind = BarKind::Memory {
                    offset,
                    bytes,
                    prefetchable,
                };
                (kind, self.platform.device_memory(start, pages))
            }
        };
        let handle = made.map_err(kernel_refused)?;
        Ok((kind, self.keep(caller.badge(), handle)?))
    }

    fn interrupt(
        &mut self,
        caller: &mut Caller<'_>,
        entry: u16,
        messages: bool,
        bits: u64,
        notification: Handle,
    ) -> Result<(InterruptKind, Handle), PciError> {
        let badge = caller.badge();
        let result = match self
            .claimed(badge)
            .map(|(_, function)| function.capabilities.clone())
        {
            Err(error) => Err(error),
            Ok(found) => match (found.msix, found.msi) {
                (Some(msix), _) if messages => {
                    let made = self.msix_interrupt(badge, msix, entry, bits, notification);
                    made.map(|handle| (InterruptKind::MsiX { entry }, handle))
                }
                _ if entry != 0 => Err(PciError::OutOfRange),
                (None, Some(_)) if messages => self.msi_interrupt(badge, bits, notification),
                _ => self.line_interrupt(badge, bits, notification),
            },
        };
        // The interrupt is bound by now, or was not made.
        self.platform.close(notification);
        result
    }

    fn set_bus_master(&mut self, caller: &mut Caller<'_>, on: bool) -> Result<(), PciError> {
        let function = self.claimed(caller.badge())?.1.clone();
        if !on {
            return self.disconnect(&function);
        }
        if function.slot.is_some() {
            return Ok(());
        }
        // A bridge passes its devices' accesses on only with its own bit (bridge 1.2, section
        // 3.2.4.3), and those to its devices only with its address spaces on.
        let mut upstream = function.upstream;
        while let Some(bridge) = upstream.and_then(|position| self.functions.get(position)) {
            let on = command::BUS_MASTER | command::MEMORY_SPACE | command::IO_SPACE;
            self.config.change_command(bridge.header.address, 0, on);
            upstream = bridge.upstream;
        }
        let address = function.header.address;
        self.config.change_command(address, 0, command::BUS_MASTER);
        Ok(())
    }

    fn virtio_structure(
        &mut self,
        caller: &mut Caller<'_>,
        structure: VirtioStructure,
    ) -> Result<Option<VirtioLocation>, PciError> {
        let function = self.claimed(caller.badge())?.1.clone();
        let address = function.header.address;
        Ok(function
            .capabilities
            .virtio(&self.config, address, &function.bars, structure))
    }

    fn dma_attach(
        &mut self,
        caller: &mut Caller<'_>,
        memory: Handle,
    ) -> Result<DmaRegion, PciError> {
        let result = self.attach(caller.badge(), memory);
        if result.is_err() {
            self.platform.close(memory);
        }
        result
    }

    fn dma_detach(&mut self, caller: &mut Caller<'_>, region: u32) -> Result<(), PciError> {
        let (claim, function) = self.claimed(caller.badge())?;
        let position = claim
            .regions
            .iter()
            .position(|entry| entry.number == region);
        let position = position.ok_or(PciError::NoSuchRegion)?;
        let function = function.clone();
        if self.is_connected(&function) {
            return Err(PciError::DeviceRunning);
        }
        let region = self
            .claimed(caller.badge())?
            .0
            .regions
            .swap_remove(position);
        self.platform.conceal(region.memory);
        self.platform.close(region.memory);
        Ok(())
    }

    fn reset(&mut self, caller: &mut Caller<'_>) -> Result<(), PciError> {
        let function = self.claimed(caller.badge())?.1.clone();
        self.disconnect(&function)?;
        let regions = core::mem::take(&mut self.claimed(caller.badge())?.0.regions);
        for region in regions {
            self.platform.conceal(region.memory);
            self.platform.close(region.memory);
        }
        Ok(())
    }
}

impl<C: ConfigSpace, P: Platform> PciBus<C, P> {
    fn msi_interrupt(
        &mut self,
        badge: u64,
        bits: u64,
        notification: Handle,
    ) -> Result<(InterruptKind, Handle), PciError> {
        let made = self
            .platform
            .message_interrupt(notification, bits)
            .map_err(kernel_refused)?;
        let handle = self.keep(badge, made.0)?;
        let function = self.claimed(badge)?.1.clone();
        let address = function.header.address;
        if let Some(msi) = function.capabilities.msi {
            msi.enable(&self.config, address, (made.1.address, made.1.data));
        }
        Ok((InterruptKind::Msi, handle))
    }

    fn attach(&mut self, badge: u64, memory: Handle) -> Result<DmaRegion, PciError> {
        if self.claimed(badge)?.0.regions.len() == MOST_REGIONS {
            return Err(PciError::Exhausted);
        }
        let (bytes, contiguous) = self.platform.memory(memory).map_err(kernel_refused)?;
        if !contiguous {
            return Err(PciError::NotContiguous);
        }
        let physical = self.platform.expose(memory).map_err(kernel_refused)?;
        let claim = self.claimed(badge)?.0;
        let number = claim.next_region;
        claim.next_region = number.wrapping_add(1);
        claim.regions.push(Region { number, memory });
        Ok(DmaRegion {
            region: number,
            physical,
            bytes,
        })
    }
}

#[cfg(test)]
mod slot_tests;
#[cfg(test)]
mod tests;
