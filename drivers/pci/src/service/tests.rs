//! The service against the fake machine: claims, what they give, and what is left of them.

use std::rc::Rc;

use ipc::interface::pci::{BarKind, InterruptKind, Match, PciError, PciServer, VirtioStructure};
use ipc::server::{Caller, ReplySlot};
use ipc::{Error, Handle};

use crate::PciBus;
use crate::config::ConfigSpace;
use crate::fake::{CARD, FakeConfig, FakeKernel, at};

/// No operation of this server answers later.
struct NoSlot;
impl ReplySlot for NoSlot {
    fn stash(&mut self) -> Result<Handle, Error> {
        unreachable!("no operation of pci answers later")
    }
}

pub(super) type Bus = PciBus<Rc<FakeConfig>, FakeKernel>;

/// Calls an operation as the session of this badge.
pub(super) fn call<R>(
    bus: &mut Bus,
    badge: u64,
    operation: impl FnOnce(&mut Bus, &mut Caller<'_>) -> R,
) -> R {
    operation(bus, &mut Caller::new(badge, &mut NoSlot))
}

const ANY: Match = Match {
    address: None,
    vendor: Some(0x1af4),
    device: None,
    class: None,
};

/// A machine with a card (I/O ports, MSI-X in BAR1, registers in BAR4) and a second one beside it,
/// with sessions 1 and 2 that may claim and 3 that may not.
fn machine() -> (Bus, FakeKernel) {
    let config = FakeConfig::default();
    config.add(at(0, 0, 0), 0x8086, 0x29c0, 0x06_0000);
    for (address, shift) in [(CARD, 0), (at(0, 3, 0), 0x1_0000)] {
        config.add(address, 0x1af4, 0x1000, 0x02_0000);
        config.set_bar(address, 0, 0xc041 + shift / 0x800, 0xffff_ffe1);
        config.set_bar(address, 1, 0xfebd_1000 + shift, 0xffff_f000);
        config.set_bar(address, 4, 0xfe00_000c + shift, 0xffff_c00c);
        config.set_bar(address, 5, 0, 0xffff_ffff);
        config.set_capabilities(address, &[(0x98, 0x11), (0x84, 0x09)]);
        let head = config.read32(address, 0x98);
        config.raw_write(address, 0x98, head | 2 << 16);
        config.raw_write(address, 0x9c, 1);
        config.set_virtio(address, 0x84, 1, 4, 0, 56);
        config.raw_write(address, 0x3c, 0x010b);
        config.change_command(address, 0, 0x7);
    }
    let kernel = FakeKernel {
        config: Rc::new(config),
        ..FakeKernel::default()
    };
    let mut bus = PciBus::start(kernel.config.clone(), kernel.clone(), &[]);
    bus.opened(1, true);
    bus.opened(2, true);
    bus.opened(3, false);
    (bus, kernel)
}

fn claim(bus: &mut Bus, badge: u64) -> Result<ipc::interface::pci::PciAddress, PciError> {
    call(bus, badge, |bus, caller| bus.claim(caller, ANY)).map(|function| function.address)
}

#[test]
fn a_start_stops_every_device() {
    let (bus, kernel) = machine();
    assert_eq!(bus.functions().len(), 3);
    for address in [CARD, at(0, 3, 0)] {
        let command = kernel.config.command(address);
        assert_eq!(command & 0x404, 0x400, "no bus mastering, no line");
        assert_eq!(kernel.config.read16(address, 0x9a) & 0x8000, 0, "no MSI-X");
    }
}

#[test]
fn a_claim_is_one_session_s() {
    let (mut bus, _) = machine();
    assert_eq!(claim(&mut bus, 3), Err(PciError::NotPermitted));
    assert_eq!(
        claim(&mut bus, 99),
        Err(PciError::NotPermitted),
        "a session that does not exist"
    );
    assert_eq!(claim(&mut bus, 1), Ok(CARD));
    assert_eq!(claim(&mut bus, 1), Err(PciError::AlreadyClaimed));
    let same = Match {
        address: Some(CARD),
        ..Match::default()
    };
    let busy = call(&mut bus, 2, |bus, caller| bus.claim(caller, same));
    assert_eq!(busy.err(), Some(PciError::DeviceBusy));
    assert_eq!(claim(&mut bus, 2), Ok(at(0, 3, 0)), "the next that matches");
    let none = Match {
        device: Some(0x9999),
        ..ANY
    };
    bus.opened(4, true);
    let none = call(&mut bus, 4, |bus, caller| bus.claim(caller, none));
    assert_eq!(none.err(), Some(PciError::NoSuchDevice));
    let list = call(&mut bus, 3, |bus, caller| bus.list(caller, 1)).unwrap();
    assert_eq!((list.total, list.functions.len()), (3, 2));
    assert!(list.functions.iter().all(|function| function.claimed));
}

#[test]
fn every_operation_needs_the_claim() {
    let (mut bus, kernel) = machine();
    let (memory, notification) = (kernel.handle(), kernel.handle());
    call(&mut bus, 1, |bus, caller| {
        let not = Some(PciError::NotClaimed);
        assert_eq!(bus.read_config(caller, 0, 4).err(), not);
        assert_eq!(bus.bar(caller, 0).err(), not);
        assert_eq!(bus.interrupt(caller, 0, true, 1, notification).err(), not);
        assert_eq!(bus.set_bus_master(caller, true).err(), not);
        assert_eq!(
            bus.virtio_structure(caller, VirtioStructure::Common).err(),
            not
        );
        assert_eq!(bus.dma_attach(caller, memory).err(), not);
        assert_eq!(bus.dma_detach(caller, 1).err(), not);
        assert_eq!(bus.reset(caller).err(), not);
    });
    assert!(
        kernel.state.borrow().open.is_empty(),
        "handles that came with refusals are closed"
    );
}

#[test]
fn registers_are_handed_out_without_the_msix_table() {
    let (mut bus, kernel) = machine();
    claim(&mut bus, 1).unwrap();
    call(&mut bus, 1, |bus, caller| {
        let (kind, _) = bus.bar(caller, 0).unwrap();
        assert_eq!(
            kind,
            BarKind::Ports {
                first: 0xc040,
                count: 32
            }
        );
        let (kind, _) = bus.bar(caller, 4).unwrap();
        assert_eq!(
            kind,
            BarKind::Memory {
                offset: 0,
                bytes: 0x4000,
                prefetchable: true
            }
        );
        assert_eq!(bus.bar(caller, 1).err(), Some(PciError::NotShareable));
        assert_eq!(bus.bar(caller, 2).err(), Some(PciError::NoSuchBar));
        assert_eq!(
            bus.bar(caller, 5).err(),
            Some(PciError::NoSuchBar),
            "the upper half of BAR4"
        );
        assert_eq!(bus.bar(caller, 6).err(), Some(PciError::OutOfRange));
    });
    assert_eq!(
        kernel.state.borrow().log,
        ["ports c040 32", "memory fe000000 4000"]
    );
}

#[test]
fn a_page_with_another_function_s_registers_is_not_handed_out() {
    let (_, kernel) = machine();
    kernel
        .config
        .set_bar(at(0, 3, 0), 3, 0xfe00_3800, 0xffff_ff00);
    let mut bus = PciBus::start(kernel.config.clone(), kernel.clone(), &[]);
    bus.opened(1, true);
    claim(&mut bus, 1).unwrap();
    let refused = call(&mut bus, 1, |bus, caller| bus.bar(caller, 4));
    assert_eq!(refused.err(), Some(PciError::NotShareable));
}

#[test]
fn a_small_bar_says_where_it_lies_on_its_page() {
    let (_, kernel) = machine();
    kernel.config.set_bar(CARD, 4, 0xfe00_0104, 0xffff_ff00);
    let mut bus = PciBus::start(kernel.config.clone(), kernel.clone(), &[]);
    bus.opened(1, true);
    claim(&mut bus, 1).unwrap();
    let (kind, _) = call(&mut bus, 1, |bus, caller| bus.bar(caller, 4)).unwrap();
    assert_eq!(
        kind,
        BarKind::Memory {
            offset: 0x100,
            bytes: 0x100,
            prefetchable: false
        }
    );
}

#[test]
fn a_device_that_the_firmware_left_out_cannot_be_claimed() {
    let (_, kernel) = machine();
    kernel.config.set_bar(CARD, 0, 1, 0xffff_ffe1);
    let mut bus = PciBus::start(kernel.config.clone(), kernel.clone(), &[]);
    bus.opened(1, true);
    assert_eq!(claim(&mut bus, 1), Ok(at(0, 3, 0)));
}

#[test]
fn msix_entries_are_programmed_and_only_those() {
    let (mut bus, kernel) = machine();
    claim(&mut bus, 1).unwrap();
    kernel.table.write(2 * 16 + 12, 0);
    let notification = kernel.handle();
    let (kind, _) = call(&mut bus, 1, |bus, caller| {
        bus.interrupt(caller, 1, true, 8, notification)
    })
    .unwrap();
    assert_eq!(kind, InterruptKind::MsiX { entry: 1 });
    let entry = |index: usize| [0, 4, 8, 12].map(|field| kernel.table.read(index * 16 + field));
    assert_eq!(entry(1), [0xfee0_1000, 1, 0x48, 0]);
    assert_eq!((entry(0)[3], entry(2)[3]), (1, 1), "the others are masked");
    assert_eq!(
        kernel.config.read16(CARD, 0x9a) & 0xc000,
        0x8000,
        "MSI-X is on"
    );
    assert_ne!(kernel.config.command(CARD) & 0x400, 0, "the line stays off");
    let notification = kernel.handle();
    let refused = call(&mut bus, 1, |bus, caller| {
        bus.interrupt(caller, 3, true, 8, notification)
    });
    assert_eq!(
        refused.err(),
        Some(PciError::OutOfRange),
        "the table has three entries"
    );
}

/// The machine, without MSI-X.
fn machine_with_lines() -> (Bus, FakeKernel) {
    let (_, kernel) = machine();
    for address in [CARD, at(0, 3, 0)] {
        kernel.config.set_capabilities(address, &[]);
    }
    let mut bus = PciBus::start(kernel.config.clone(), kernel.clone(), &[]);
    bus.opened(1, true);
    bus.opened(2, true);
    (bus, kernel)
}

#[test]
fn a_line_is_one_task_s() {
    let (mut bus, kernel) = machine_with_lines();
    for badge in [1, 2] {
        claim(&mut bus, badge).unwrap();
    }
    let line = |bus: &mut Bus, badge| {
        let notification = kernel.handle();
        call(bus, badge, |bus, caller| {
            bus.interrupt(caller, 0, true, 1, notification)
        })
        .map(|made| made.0)
    };
    assert_eq!(line(&mut bus, 1), Ok(InterruptKind::Line { line: 11 }));
    assert_eq!(kernel.config.command(CARD) & 0x400, 0, "its line is on");
    assert_eq!(line(&mut bus, 2), Err(PciError::LineShared));
    assert_ne!(
        kernel.config.command(at(0, 3, 0)) & 0x400,
        0,
        "the other's is not"
    );
    bus.closed(1);
    assert_eq!(
        line(&mut bus, 2),
        Ok(InterruptKind::Line { line: 11 }),
        "it is free again"
    );
}

#[test]
fn a_function_without_a_line_has_none() {
    for (register, why) in [
        (0x000b, "no pin"),
        (0x01ff, "not connected"),
        (0x0100, "the timer's"),
    ] {
        let (mut bus, kernel) = machine_with_lines();
        kernel.config.raw_write(CARD, 0x3c, register);
        claim(&mut bus, 1).unwrap();
        let notification = kernel.handle();
        let refused = call(&mut bus, 1, |bus, caller| {
            bus.interrupt(caller, 0, true, 1, notification)
        });
        assert_eq!(refused.err(), Some(PciError::OutOfRange), "{why}");
    }
}

#[test]
fn memory_is_attached_and_let_go_only_when_the_device_is_stopped() {
    let (mut bus, kernel) = machine();
    claim(&mut bus, 1).unwrap();
    let memory = kernel.handle();
    let scattered = kernel.handle();
    kernel.state.borrow_mut().scattered.insert(scattered.0);
    call(&mut bus, 1, |bus, caller| {
        let region = bus.dma_attach(caller, memory).unwrap();
        assert_eq!(
            (region.physical, region.bytes),
            (0x7000_0000 + memory.0 * 8192, 8192)
        );
        assert_eq!(
            bus.dma_attach(caller, scattered).err(),
            Some(PciError::NotContiguous)
        );
        bus.set_bus_master(caller, true).unwrap();
        assert_eq!(
            bus.dma_detach(caller, region.region),
            Err(PciError::DeviceRunning)
        );
        assert_eq!(bus.dma_detach(caller, 77), Err(PciError::NoSuchRegion));
        bus.set_bus_master(caller, false).unwrap();
        bus.dma_detach(caller, region.region).unwrap();
        assert_eq!(
            bus.dma_detach(caller, region.region),
            Err(PciError::NoSuchRegion)
        );
    });
    assert!(kernel.state.borrow().open.is_empty() && kernel.state.borrow().exposed.is_empty());
}

#[test]
fn a_session_has_sixteen_regions() {
    let (mut bus, kernel) = machine();
    claim(&mut bus, 1).unwrap();
    for count in 0..17 {
        let memory = kernel.handle();
        let attached = call(&mut bus, 1, |bus, caller| bus.dma_attach(caller, memory));
        assert_eq!(attached.is_ok(), count < 16);
    }
    call(&mut bus, 1, |bus, caller| bus.reset(caller)).unwrap();
    assert!(
        kernel.state.borrow().exposed.is_empty(),
        "a reset lets all of them go"
    );
}

#[test]
fn a_dead_driver_s_device_is_stopped_and_everything_taken_back() {
    let (mut bus, kernel) = machine();
    claim(&mut bus, 1).unwrap();
    let (memory, notification) = (kernel.handle(), kernel.handle());
    let given = call(&mut bus, 1, |bus, caller| {
        let ports = bus.bar(caller, 0).unwrap().1;
        let registers = bus.bar(caller, 4).unwrap().1;
        let interrupt = bus.interrupt(caller, 0, true, 1, notification).unwrap().1;
        bus.dma_attach(caller, memory).unwrap();
        bus.set_bus_master(caller, true).unwrap();
        [ports, registers, interrupt]
    });
    bus.closed(1);
    assert_eq!(kernel.config.command(CARD) & 0x404, 0x400);
    assert_eq!(kernel.config.read16(CARD, 0x9a) & 0x8000, 0, "MSI-X is off");
    let state = kernel.state.borrow();
    assert_eq!(state.destroyed.len(), 3);
    assert!(state.exposed.is_empty());
    // What is left is what the driver was given (its own copies died with it) and the mapping.
    assert!(given.iter().all(|handle| state.open.contains(&handle.0)));
    drop(state);
    assert_eq!(
        claim(&mut bus, 2),
        Ok(CARD),
        "the device can be claimed again"
    );
}

#[test]
fn stopping_stops_every_claimed_device() {
    let (mut bus, kernel) = machine();
    claim(&mut bus, 1).unwrap();
    call(&mut bus, 1, |bus, caller| {
        bus.set_bus_master(caller, true).unwrap();
    });
    bus.opened(2, true);
    bus.stop();
    assert_eq!(kernel.config.command(CARD) & 0x404, 0x400);
    let refused = call(&mut bus, 1, |bus, caller| bus.set_bus_master(caller, true));
    assert_eq!(refused, Err(PciError::NotClaimed));
    // What the kernel tells of the sessions afterwards is no news.
    bus.closed(1);
}

#[test]
fn bus_mastering_of_a_device_opens_the_bridges_above_it() {
    let (_, kernel) = machine();
    kernel.config.add_bridge(at(0, 4, 0), 1);
    kernel.config.add(at(1, 0, 0), 0x1af4, 0x1041, 0x02_0000);
    let mut bus = PciBus::start(kernel.config.clone(), kernel.clone(), &[]);
    bus.opened(1, true);
    let wanted = Match {
        device: Some(0x1041),
        ..ANY
    };
    call(&mut bus, 1, |bus, caller| {
        assert_eq!(bus.claim(caller, wanted).unwrap().address, at(1, 0, 0));
        bus.set_bus_master(caller, true).unwrap();
    });
    assert_eq!(kernel.config.command(at(0, 4, 0)) & 7, 7);
    assert_eq!(kernel.config.command(at(1, 0, 0)) & 4, 4);
}

#[test]
fn configuration_is_read_in_its_bounds() {
    let (mut bus, _) = machine();
    claim(&mut bus, 1).unwrap();
    call(&mut bus, 1, |bus, caller| {
        assert_eq!(bus.read_config(caller, 0, 2), Ok(0x1af4));
        assert_eq!(bus.read_config(caller, 2, 2), Ok(0x1000));
        assert_eq!(bus.read_config(caller, 0x3c, 1), Ok(0x0b));
        for (offset, width) in [(256, 1), (1, 2), (2, 4), (0, 3), (0, 0), (u16::MAX, 1)] {
            let refused = bus.read_config(caller, offset, width);
            assert_eq!(
                refused.err(),
                Some(PciError::OutOfRange),
                "{offset} {width}"
            );
        }
    });
}

#[test]
fn what_the_kernel_refuses_leaves_nothing_behind() {
    let (mut bus, kernel) = machine();
    claim(&mut bus, 1).unwrap();
    kernel.state.borrow_mut().refuse = Some(Error::OutOfQuota);
    let notification = kernel.handle();
    call(&mut bus, 1, |bus, caller| {
        assert_eq!(bus.bar(caller, 0).err(), Some(PciError::Kernel));
        assert_eq!(
            bus.interrupt(caller, 0, true, 1, notification).err(),
            Some(PciError::Kernel)
        );
    });
    assert!(kernel.state.borrow().open.is_empty());
    assert_eq!(
        kernel.config.read16(CARD, 0x9a) & 0x8000,
        0,
        "MSI-X stayed off"
    );
}

/// A generator of numbers that look random and are the same in every run (Marsaglia, "Xorshift
/// RNGs", 2003).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

#[test]
fn no_configuration_space_whatever_it_holds_makes_the_server_fail() {
    let mut noise = Noise(0x5eed);
    let mut claims = 0;
    for _ in 0..2_000 {
        let config = FakeConfig::default();
        for _ in 0..noise.below(6) + 1 {
            let address = at(
                noise.below(3) as u8,
                noise.below(4) as u8,
                noise.below(2) as u8,
            );
            config.add(address, 0x1af4, 0x1000, noise.next() as u32 & 0xff_ffff);
            for _ in 0..noise.below(60) {
                let offset = 4 * noise.below(64) as u16;
                config.raw_write(address, offset.max(4), noise.next() as u32);
            }
            for bar in 0..6 {
                config.set_bar(address, bar, noise.next() as u32, noise.next() as u32);
            }
            config.set_header_type(
                address,
                [0, 0, 0x80, 1, 0x81, 0x7f][noise.below(6) as usize],
            );
        }
        let kernel = FakeKernel {
            config: Rc::new(config),
            ..FakeKernel::default()
        };
        let mut bus = PciBus::start(kernel.config.clone(), kernel.clone(), &[]);
        for badge in 1..4 {
            bus.opened(badge, true);
            if claim(&mut bus, badge).is_err() {
                continue;
            }
            claims += 1;
            call(&mut bus, badge, |bus, caller| {
                for bar in 0..7 {
                    let _ = bus.bar(caller, bar);
                }
                for entry in [0, 1, 2_047, u16::MAX] {
                    let _ = bus.interrupt(caller, entry, entry % 2 == 0, 1, kernel.handle());
                }
                for structure in [
                    VirtioStructure::Common,
                    VirtioStructure::Notify,
                    VirtioStructure::InterruptStatus,
                    VirtioStructure::Device,
                ] {
                    let _ = bus.virtio_structure(caller, structure);
                }
                let _ = bus.set_bus_master(caller, true);
                let _ = bus.reset(caller);
            });
        }
        for badge in 1..4 {
            bus.closed(badge);
        }
        for function in bus.functions().iter().filter(|function| !function.bridge) {
            assert_eq!(kernel.config.command(function.header.address) & 4, 0);
        }
    }
    assert!(claims > 200, "the noise reaches the claims: {claims}");
}
