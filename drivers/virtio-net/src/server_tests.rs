//! The service: who is attached, what an end leaves behind, and in which order it ends.

use ipc::interface::net_device::{
    Attached, Geometry, Link, NetDeviceError, NetDeviceServer, RING_TRANSMIT,
};
use net_driver::bench::{self, FakeSystem, GEOMETRY, Stack, call};
use net_driver::{Interrupt, NetServer};
use pci_function::InterruptMode;
use virtio::LegacyTransport;
use virtio::fake::{FakeDevice, FakeHandle};
use virtio_drivers::transport::DeviceType::Network;

use crate::device::{Idle, NetDevice};
use crate::settings::Settings;

type Server = NetServer<NetDevice<LegacyTransport<FakeHandle>>, FakeSystem>;

fn idle(device: &FakeHandle) -> Idle<LegacyTransport<FakeHandle>> {
    Idle {
        transport: LegacyTransport::new(device.clone(), Network, InterruptMode::Line),
        settings: Settings::new(4),
    }
}

fn server() -> (Server, FakeHandle, FakeSystem) {
    let device = FakeDevice::legacy(1 << 5 | 1 << 16 | 1 << 3, &[16, 16]);
    device.state().configuration = vec![0x52, 0x54, 0, 1, 2, 3, 1, 0, 0, 0, 0xb4, 0x05];
    let system = FakeSystem::default();
    let queues = device.clone();
    system.0.borrow_mut().stopped = Some(Box::new(move || queues.take(0).is_none()));
    let transport = idle(&device);
    (
        NetServer::new(system.clone(), Some(transport), 2),
        device,
        system,
    )
}

fn attach(
    server: &mut Server,
    system: &FakeSystem,
    badge: u64,
    geometry: Geometry,
) -> Result<(Attached, Stack), NetDeviceError> {
    bench::attach(server, system, badge, geometry)
}

#[test]
fn an_attachment_tells_the_card_and_carries_packets() {
    let (mut server, device, system) = server();
    let (attached, mut stack) = attach(&mut server, &system, 1, GEOMETRY).unwrap();
    assert_eq!(attached.mac, [0x52, 0x54, 0, 1, 2, 3]);
    assert_eq!(
        (attached.mtu, attached.features, attached.doorbell_bits),
        (1460, 4, 4)
    );
    assert_eq!(
        call(&mut server, 1, |server, caller| server.link(caller)),
        Ok(Link::Up)
    );
    device.state().configuration[6] = 0;
    assert_eq!(
        call(&mut server, 1, |server, caller| server.link(caller)),
        Ok(Link::Down)
    );
    let said = system.0.borrow().said.clone();
    assert_eq!(said, "attached: 1 x 16+16 buffers status mtu");
    stack.give(0..1);
    stack.send(9, 60);
    assert!(server.run().reclaim);
    assert!(device.take(0).is_some() && device.take(1).is_some());
    server.closed(1);
}

#[test]
fn an_address_that_is_none_is_replaced() {
    for address in [[0; 6], [0xff; 6], [1, 0, 0x5e, 0, 0, 1]] {
        let (mut server, device, system) = server();
        device.state().configuration[..6].copy_from_slice(&address);
        let (attached, _) = attach(&mut server, &system, 1, GEOMETRY).unwrap();
        assert_eq!(attached.mac, [2, 0, 0, 0, 0, 1], "{address:x?}");
        server.closed(1);
    }
}

#[test]
fn one_session_is_attached_and_its_end_frees_the_card() {
    let (mut server, _, system) = server();
    attach(&mut server, &system, 1, GEOMETRY).unwrap();
    assert_eq!(
        attach(&mut server, &system, 2, GEOMETRY).err(),
        Some(NetDeviceError::Busy)
    );
    let detached = call(&mut server, 2, |server, caller| server.detach(caller));
    assert_eq!(detached, Err(NetDeviceError::NotAttached));
    server.closed(2);
    assert!(
        attach(&mut server, &system, 2, GEOMETRY).is_err(),
        "session 1 is still there"
    );
    server.closed(1);
    attach(&mut server, &system, 2, GEOMETRY).unwrap();
    call(&mut server, 2, |server, caller| server.detach(caller)).unwrap();
    attach(&mut server, &system, 1, GEOMETRY).unwrap();
    server.closed(1);
}

#[test]
fn the_end_comes_in_order_and_every_start_is_a_reset() {
    let (mut server, device, system) = server();
    for round in 1..4 {
        attach(&mut server, &system, 1, GEOMETRY).unwrap();
        let resets = device.state().resets;
        server.closed(1);
        assert_eq!(device.state().resets, resets + 1, "round {round}");
        let log = core::mem::take(&mut system.0.borrow_mut().log);
        assert_eq!(
            log,
            [
                "attach pool",
                "bus master on",
                "bus master off",
                "detach pool"
            ]
        );
    }
    assert_eq!(
        device.state().resets,
        3 * 3,
        "before bus mastering, at the negotiation, and at the end"
    );
    assert_eq!(system.0.borrow().closed, [1, 2, 3, 4].repeat(3));
}

#[test]
fn a_device_that_a_dead_driver_left_running_is_reset_before_it_reaches_memory() {
    let (mut dead, device, system) = server();
    let (_, mut stack) = attach(&mut dead, &system, 1, GEOMETRY).unwrap();
    stack.give(0..4);
    dead.run();
    // It does not come to end anything.
    core::mem::forget(dead);
    let transport = idle(&device);
    let mut next: Server = NetServer::new(system.clone(), Some(transport), 2);
    attach(&mut next, &system, 1, GEOMETRY).unwrap();
    assert!(
        device.take(0).is_none(),
        "nothing of the dead one's is left"
    );
    next.closed(1);
    // One that cannot be reset is not let at memory at all.
    system.0.borrow_mut().log.clear();
    device.state().never_resets = true;
    let failed = attach(&mut next, &system, 1, GEOMETRY);
    assert_eq!(failed.err(), Some(NetDeviceError::DeviceFailed));
    let log = ["attach pool", "bus master off", "detach pool"];
    assert_eq!(system.0.borrow().log, log);
}

#[test]
fn a_stack_that_corrupts_a_ring_is_ended_and_the_next_served() {
    let (mut server, _, system) = server();
    let (_, stack) = attach(&mut server, &system, 1, GEOMETRY).unwrap();
    stack.corrupt(RING_TRANSMIT, 0, u32::MAX);
    server.run();
    assert!(server.has_ended(1));
    assert_eq!(
        system.0.borrow().closed.last(),
        Some(&4),
        "its lifeline tells it"
    );
    attach(&mut server, &system, 2, GEOMETRY).unwrap();
    server.closed(1);
    assert!(!server.has_ended(1));
    let again = attach(&mut server, &system, 3, GEOMETRY);
    assert_eq!(
        again.err(),
        Some(NetDeviceError::Busy),
        "the late end of session 1 hurts nobody"
    );
    server.closed(2);
}

#[test]
fn a_device_that_lies_is_stopped_and_can_be_started_again() {
    let (mut server, device, system) = server();
    attach(&mut server, &system, 1, GEOMETRY).unwrap();
    device.give_back(0, 7, 0);
    server.run();
    assert!(server.has_ended(1));
    assert_eq!(system.0.borrow().log.last().unwrap(), "detach pool");
    attach(&mut server, &system, 2, GEOMETRY).unwrap();
    server.closed(2);
}

#[test]
fn failures_leave_nothing_behind() {
    let (mut server, device, system) = server();
    let wrong = [
        Geometry {
            ring_entries: 4096,
            ..GEOMETRY
        },
        Geometry {
            ring_entries: u32::MAX,
            ..GEOMETRY
        },
        Geometry {
            headroom_bytes: 4,
            ..GEOMETRY
        },
        Geometry {
            buffer_bytes: 7,
            ..GEOMETRY
        },
    ];
    for geometry in wrong {
        let refused = attach(&mut server, &system, 1, geometry);
        assert_eq!(
            refused.err(),
            Some(NetDeviceError::OutOfRange),
            "{geometry:?}"
        );
    }
    system.0.borrow_mut().refuse = true;
    assert_eq!(
        attach(&mut server, &system, 1, GEOMETRY).err(),
        Some(NetDeviceError::Kernel)
    );
    system.0.borrow_mut().refuse = false;
    device.state().never_resets = true;
    let failed = attach(&mut server, &system, 1, GEOMETRY);
    assert_eq!(failed.err(), Some(NetDeviceError::DeviceFailed));
    let state = system.0.borrow();
    let count = |what: &str| state.log.iter().filter(|entry| *entry == what).count();
    assert_eq!(count("attach pool"), count("detach pool"));
    assert!(count("bus master off") >= count("bus master on"));
    assert_eq!(state.closed.len(), 4 * 6, "all handles are closed");
    drop(state);
    device.state().never_resets = false;
    attach(&mut server, &system, 1, GEOMETRY).unwrap();
    server.closed(1);
}

#[test]
fn counters_outlive_sessions_and_interrupts_without_one_are_quieted() {
    let (mut server, device, system) = server();
    device.state().isr = 1;
    server.interrupted(Interrupt::Line);
    assert_eq!(device.state().isr, 0, "the line is lowered");
    let (_, mut stack) = attach(&mut server, &system, 1, GEOMETRY).unwrap();
    stack.send(9, 60);
    server.run();
    device.state().isr = 2;
    server.interrupted(Interrupt::Line);
    assert_eq!(system.0.borrow().signals, 1, "the link may have changed");
    server.closed(1);
    let counted = call(&mut server, 2, |server, caller| server.statistics(caller)).unwrap();
    assert_eq!((counted.sent_packets, counted.interrupts), (1, 1));
}

#[test]
fn without_a_card_it_is_told_so() {
    let system = FakeSystem::default();
    let mut server: Server = NetServer::new(system.clone(), None, 0);
    let refused = attach(&mut server, &system, 1, GEOMETRY);
    assert_eq!(refused.err(), Some(NetDeviceError::NoCard));
    assert_eq!(system.0.borrow().closed, [1, 2, 3, 4]);
    let cards = call(&mut server, 1, |server, caller| server.cards(caller));
    assert_eq!(cards, Ok(0));
    server.interrupted(Interrupt::Line);
    assert!(!server.run().again);
    assert!(
        system.0.borrow().log.is_empty(),
        "nothing was done to a device"
    );
}
