//! Slots of virtio-mmio against the fake machine: which can be claimed, and that they are stopped.

use ipc::Handle;
use ipc::interface::pci::{
    BarKind, InterruptKind, Match, PciAddress, PciError, PciFunction, PciServer, VirtioStructure,
};
use ipc::server::Caller;

use super::tests::{Bus, call};
use crate::PciBus;
use crate::fake::FakeKernel;
use crate::slot::SlotState;
use crate::words;

/// Two slots on one page and one on the next.
const FIRST: u64 = 0xfeb0_0000;
const NEIGHBOUR: u64 = 0xfeb0_0200;
const APART: u64 = 0xfeb0_1e00;
/// A network card (VIRTIO 1.2, section 5) in its modern PCI number.
const CARD: u16 = 0x1041;

/// A machine with a network card in each slot and no bus, and sessions 1 and 2.
fn machine() -> (Bus, FakeKernel) {
    let kernel = FakeKernel::default();
    for address in [FIRST, NEIGHBOUR, APART] {
        kernel.slots.add(address, 2, 1);
    }
    (start(&kernel), kernel)
}

fn start(kernel: &FakeKernel) -> Bus {
    let line = [FIRST, NEIGHBOUR, APART]
        .iter()
        .enumerate()
        .map(|(number, address)| format!("virtio_mmio.device=512@{address:#x}:{} ", 24 + number));
    let words = words::slots(&line.collect::<String>(), |word, why| {
        panic!("{word}: {why}")
    });
    let mut bus = PciBus::start(kernel.config.clone(), kernel.clone(), &words);
    bus.opened(1, true);
    bus.opened(2, true);
    bus
}

fn states(bus: &Bus) -> Vec<SlotState> {
    bus.slots().iter().map(|slot| slot.state).collect()
}

fn claim(bus: &mut Bus, badge: u64) -> Result<PciFunction, PciError> {
    let wanted = Match {
        vendor: Some(0x1af4),
        device: Some(CARD),
        ..Match::default()
    };
    call(bus, badge, |bus, caller| bus.claim(caller, wanted))
}

fn attach(bus: &mut Bus, badge: u64, memory: Handle) -> u32 {
    let attach = |bus: &mut Bus, caller: &mut Caller<'_>| bus.dma_attach(caller, memory);
    call(bus, badge, attach).unwrap().region
}

#[test]
fn a_start_stops_every_device_in_a_slot() {
    let (bus, kernel) = machine();
    assert_eq!(states(&bus), [SlotState::Device; 3]);
    for address in [FIRST, NEIGHBOUR, APART] {
        assert_eq!(kernel.slots.status(address), 0);
    }
    assert!(bus.all_stopped());
}

#[test]
fn slots_without_a_device_of_this_version_are_not_claimed() {
    let kernel = FakeKernel::default();
    kernel.slots.add(FIRST, 2, 0);
    kernel.slots.add(NEIGHBOUR, 1, 1);
    let mut bus = start(&kernel);
    let expected = [SlotState::Empty, SlotState::Legacy, SlotState::Unknown];
    assert_eq!(states(&bus), expected);
    assert_eq!(
        kernel.slots.status(NEIGHBOUR),
        0,
        "it is stopped all the same"
    );
    assert_eq!(kernel.slots.status(FIRST), 0xf, "nothing to stop");
    assert_eq!(claim(&mut bus, 1), Err(PciError::NoSuchDevice));
    for (version, kind) in [(3, 1), (0, 1), (2, 0x40), (2, u32::MAX)] {
        kernel.slots.add(APART, version, kind);
        assert_eq!(states(&start(&kernel))[2], SlotState::Unknown);
    }
}

#[test]
fn a_device_that_changes_its_type_is_what_it_was_first() {
    let kernel = FakeKernel::default();
    kernel.slots.add(FIRST, 2, 1);
    kernel.slots.fickle.set(true);
    let mut bus = start(&kernel);
    assert_eq!(claim(&mut bus, 1).unwrap().device, CARD);
}

#[test]
fn a_slot_the_kernel_does_not_map_is_said_to_be_so() {
    let kernel = FakeKernel::default();
    kernel.state.borrow_mut().refuse = Some(ipc::Error::InvalidArgument);
    let bus = start(&kernel);
    let expected = SlotState::Unreachable(ipc::Error::InvalidArgument);
    assert_eq!(states(&bus), [expected; 3]);
    assert!(bus.all_stopped() && bus.functions().is_empty());
    // Where there can be a device, it was not stopped.
    kernel.state.borrow_mut().refuse = Some(ipc::Error::OutOfQuota);
    assert!(!start(&kernel).all_stopped());
}

#[test]
fn a_claim_has_registers_and_line_and_no_configuration_space() {
    let (mut bus, kernel) = machine();
    let card = claim(&mut bus, 1).unwrap();
    assert_eq!((card.registers, card.claimed), (Some(FIRST), true));
    kernel.state.borrow_mut().log.clear();
    let notification = kernel.handle();
    call(&mut bus, 1, |bus, caller| {
        let (kind, _) = bus.bar(caller, 0).unwrap();
        let expected = BarKind::Memory {
            offset: 0,
            bytes: 512,
            prefetchable: false,
        };
        assert_eq!(kind, expected);
        assert_eq!(bus.bar(caller, 1).err(), Some(PciError::NoSuchBar));
        assert_eq!(
            bus.read_config(caller, 0, 4).err(),
            Some(PciError::OutOfRange)
        );
        let common = bus.virtio_structure(caller, VirtioStructure::Common);
        assert_eq!(common, Ok(None));
        let (kind, _) = bus.interrupt(caller, 0, true, 1, notification).unwrap();
        assert_eq!(kind, InterruptKind::Line { line: 24 });
    });
    let log = kernel.state.borrow().log.clone();
    assert_eq!(log, ["memory feb00000 1000", "line 24 high 1"]);
}

#[test]
fn a_slot_on_no_bus_is_not_found_by_an_address() {
    let (mut bus, _) = machine();
    let wanted = Match {
        address: Some(PciAddress::default()),
        ..Match::default()
    };
    let claimed = call(&mut bus, 1, |bus, caller| bus.claim(caller, wanted));
    assert_eq!(claimed, Err(PciError::NoSuchDevice));
}

#[test]
fn who_has_a_slot_has_its_page() {
    let (mut bus, _) = machine();
    assert_eq!(claim(&mut bus, 1).unwrap().registers, Some(FIRST));
    let other = claim(&mut bus, 2).unwrap();
    assert_eq!(other.registers, Some(APART), "not the neighbour");
    bus.opened(3, true);
    assert_eq!(claim(&mut bus, 3), Err(PciError::DeviceBusy));
    bus.closed(1);
    assert_eq!(claim(&mut bus, 3).unwrap().registers, Some(FIRST));
}

#[test]
fn a_session_s_end_takes_the_registers_before_it_stops_the_device_for_good() {
    let (mut bus, kernel) = machine();
    claim(&mut bus, 1).unwrap();
    attach(&mut bus, 1, kernel.handle());
    call(&mut bus, 1, |bus, caller| bus.bar(caller, 0)).unwrap();
    kernel.slots.set_status(FIRST, 0xf);
    kernel.state.borrow_mut().log.clear();
    bus.closed(1);
    assert_eq!(kernel.slots.status(FIRST), 0);
    assert_eq!(kernel.state.borrow().log, ["destroy", "conceal"]);
    assert!(kernel.state.borrow().exposed.is_empty());
}

#[test]
fn memory_is_detached_from_a_device_that_was_reset() {
    let (mut bus, kernel) = machine();
    claim(&mut bus, 1).unwrap();
    let region = attach(&mut bus, 1, kernel.handle());
    kernel.slots.set_status(FIRST, 0xf);
    call(&mut bus, 1, |bus, caller| {
        assert_eq!(bus.set_bus_master(caller, true), Ok(()));
        let running = Err(PciError::DeviceRunning);
        assert_eq!(bus.dma_detach(caller, region), running);
        assert_eq!(bus.set_bus_master(caller, false), Ok(()));
        assert_eq!(bus.dma_detach(caller, region), Ok(()));
    });
    assert_eq!(kernel.slots.status(FIRST), 0);
    let again = attach(&mut bus, 1, kernel.handle());
    kernel.slots.set_status(FIRST, 0xf);
    call(&mut bus, 1, |bus, caller| {
        assert_eq!(bus.reset(caller), Ok(()));
        assert_eq!(bus.dma_detach(caller, again), Err(PciError::NoSuchRegion));
    });
    assert!(kernel.state.borrow().exposed.is_empty());
}

#[test]
fn a_device_that_does_not_stop_keeps_its_memory_and_is_not_claimed_again() {
    let (mut bus, kernel) = machine();
    claim(&mut bus, 1).unwrap();
    let region = attach(&mut bus, 1, kernel.handle());
    kernel.slots.stuck.set(true);
    call(&mut bus, 1, |bus, caller| {
        let running = Err(PciError::DeviceRunning);
        assert_eq!(bus.set_bus_master(caller, false), running);
        assert_eq!(bus.dma_detach(caller, region), running);
        assert_eq!(bus.reset(caller), running);
    });
    bus.closed(1);
    assert_eq!(kernel.state.borrow().exposed.len(), 1);
    assert_eq!(claim(&mut bus, 2), Err(PciError::DeviceRunning));
    let bus = start(&kernel);
    assert_eq!(states(&bus), [SlotState::Running; 3]);
    assert!(!bus.all_stopped() && bus.functions().is_empty());
}
