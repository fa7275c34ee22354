//! Device initialisation (VIRTIO 1.2, section 3.1): reset, status bits, features. A driver calls
//! [`negotiate`], opens its queues, then calls [`start`].

use virtio_drivers::transport::DeviceStatus;

use crate::{VirtioError, VirtioTransport, feature};

/// Times the status is read before a device counts as unable to reset. Each reading is an exit to
/// the hypervisor, so this is a good part of a second.
const RESET_READINGS: u32 = 100_000;

/// Resets the device: it stops reading and writing memory and forgets its queues.
///
/// The driver waits until the status reads 0 (VIRTIO 1.2, section 4.1.4.3.2).
pub fn reset<T: VirtioTransport>(transport: &mut T) -> Result<(), VirtioError> {
    transport.set_status(DeviceStatus::empty());
    for _ in 0..RESET_READINGS {
        if transport.get_status().is_empty() {
            transport.forget();
            return Ok(());
        }
        core::hint::spin_loop();
    }
    Err(VirtioError::ResetTimedOut)
}

/// Resets the device and agrees on features: those of `wanted` that the device offers.
///
/// Steps 1 to 6 of VIRTIO 1.2, section 3.1.1; a legacy device knows no FEATURES_OK (section 3.1.2).
pub fn negotiate<T: VirtioTransport>(transport: &mut T, wanted: u64) -> Result<u64, VirtioError> {
    negotiate_with(transport, |offered| offered & wanted)
}

/// The same where features depend on one another: `choose` gets those that the device offers, and says
/// which of them are accepted; others that it says are not.
pub fn negotiate_with<T: VirtioTransport>(
    transport: &mut T,
    choose: impl FnOnce(u64) -> u64,
) -> Result<u64, VirtioError> {
    reset(transport)?;
    let mut status = DeviceStatus::ACKNOWLEDGE;
    transport.set_status(status);
    status |= DeviceStatus::DRIVER;
    transport.set_status(status);
    let legacy = transport.requires_legacy_layout();
    let offered = transport.read_device_features();
    let accepted = offered & choose(offered);
    if !legacy && accepted & feature::VERSION_1 == 0 {
        fail(transport);
        return Err(VirtioError::NotModern);
    }
    transport.write_driver_features(accepted);
    if !legacy {
        status |= DeviceStatus::FEATURES_OK;
        transport.set_status(status);
        if !transport.get_status().contains(DeviceStatus::FEATURES_OK) {
            fail(transport);
            return Err(VirtioError::FeaturesRefused);
        }
    }
    transport.route_configuration_interrupt();
    Ok(accepted)
}

/// Lets the device work (DRIVER_OK, step 8), or says what went wrong while its queues were set up.
pub fn start<T: VirtioTransport>(transport: &mut T) -> Result<(), VirtioError> {
    if let Some(error) = transport.failure() {
        fail(transport);
        return Err(error);
    }
    let status = transport.get_status() | DeviceStatus::DRIVER_OK;
    transport.set_status(status);
    Ok(())
}

/// Tells the device that the driver has given up on it (FAILED; VIRTIO 1.2, section 2.1).
pub fn fail<T: VirtioTransport>(transport: &mut T) {
    let status = transport.get_status() | DeviceStatus::FAILED;
    transport.set_status(status);
}

#[cfg(test)]
mod tests {
    use super::{negotiate, start};
    use crate::VirtioTransport;
    use crate::fake::{FakeDevice, FakeHandle};
    use crate::{
        InterruptStatus, LegacyTransport, MmioTransport, ModernTransport, Queue, Transport,
        VirtioError, feature,
    };
    use pci_function::InterruptMode;
    use virtio_drivers::transport::{DeviceStatus, DeviceType::Network};

    const VECTORS: InterruptMode = InterruptMode::Message { vectors: 3 };

    #[test]
    fn a_modern_device_is_brought_up_in_order() {
        let fake = FakeDevice::modern(0xff, &[1024, 64]);
        let mut transport = ModernTransport::new(fake.windows(), Network, VECTORS).unwrap();
        let accepted = negotiate(&mut transport, 0x0f | feature::VERSION_1).unwrap();
        assert_eq!(accepted, 0x0f | feature::VERSION_1);
        assert_eq!(fake.state().accepted, accepted);
        let queues = [0, 1].map(|number| Queue::<()>::open(&mut transport, number, false).unwrap());
        assert_eq!(
            queues.each_ref().map(|queue| queue.size()),
            [256, 64],
            "large ones are cut"
        );
        start(&mut transport).unwrap();
        let status = transport.get_status();
        assert!(status.contains(DeviceStatus::DRIVER_OK | DeviceStatus::FEATURES_OK));
        assert_eq!(fake.configuration_vector(), 0);
        assert_eq!([fake.queue_vector(0), fake.queue_vector(1)], [1, 2]);
        transport.notify(1);
        assert_eq!([fake.notifications(0), fake.notifications(1)], [0, 1]);
        super::reset(&mut transport).unwrap();
    }

    #[test]
    fn a_legacy_device_is_brought_up_in_order() {
        let fake = FakeDevice::legacy(u64::MAX, &[1024]);
        fake.state().msix = true;
        let mut transport = LegacyTransport::new(fake.clone(), Network, VECTORS);
        assert_eq!(
            negotiate(&mut transport, 0x0f | feature::VERSION_1),
            Ok(0x0f)
        );
        let queue = Queue::<()>::open(&mut transport, 0, false).unwrap();
        assert_eq!(queue.size(), 1024, "its size is the device's");
        start(&mut transport).unwrap();
        assert!(
            !transport.get_status().contains(DeviceStatus::FEATURES_OK),
            "it knows none"
        );
        assert_eq!((fake.configuration_vector(), fake.queue_vector(0)), (0, 1));
        super::reset(&mut transport).unwrap();
        assert_eq!(
            Queue::<()>::open(&mut transport, 0, false).map(drop),
            Ok(()),
            "a reset frees the queue"
        );
        super::reset(&mut transport).unwrap();
    }

    #[test]
    fn a_memory_mapped_device_is_brought_up_in_order() {
        let fake = FakeDevice::modern(0xff, &[1024, 64]);
        let mut transport = MmioTransport::new(fake.mmio(), Network).unwrap();
        let accepted = negotiate(&mut transport, 0x0f | feature::VERSION_1).unwrap();
        assert_eq!(accepted, 0x0f | feature::VERSION_1);
        assert_eq!(fake.state().accepted, accepted);
        let queues = [0, 1].map(|number| Queue::<()>::open(&mut transport, number, false).unwrap());
        assert_eq!(queues.each_ref().map(|queue| queue.size()), [256, 64]);
        assert_eq!(
            Queue::<()>::open(&mut transport, 2, false).map(drop),
            Err(VirtioError::NoQueue)
        );
        start(&mut transport).unwrap();
        let status = transport.get_status();
        assert!(status.contains(DeviceStatus::DRIVER_OK | DeviceStatus::FEATURES_OK));
        transport.notify(1);
        assert_eq!([fake.notifications(0), fake.notifications(1)], [0, 1]);
        super::reset(&mut transport).unwrap();
        assert_eq!(
            Queue::<()>::open(&mut transport, 0, false).map(drop),
            Ok(()),
            "a reset frees the queue"
        );
        super::reset(&mut transport).unwrap();
    }

    #[test]
    fn a_memory_mapped_device_s_causes_are_taken_back_as_read() {
        let fake = FakeDevice::modern(0, &[16]);
        let mut transport = MmioTransport::new(fake.mmio(), Network).unwrap();
        fake.state().isr = 3;
        assert!(transport.ack_interrupt() == InterruptStatus::all());
        assert_eq!(fake.state().isr, 0, "the line is low");
        assert!(transport.ack_interrupt().is_empty());
    }

    #[test]
    fn memory_mapped_registers_of_another_kind_are_refused() {
        use virtio_drivers::transport::DeviceType::Block;
        let fake = FakeDevice::modern(0, &[16]);
        let mut window = fake.mmio();
        let refusal = |window, kind| MmioTransport::new(window, kind).map(drop);
        assert_eq!(
            refusal(window.clone(), Block),
            Err(VirtioError::BadWindow),
            "it is a network card"
        );
        window.version = 1;
        assert_eq!(
            refusal(window.clone(), Network),
            Err(VirtioError::NotModern)
        );
        window.version = 2;
        assert_eq!(refusal(window, Network), Ok(()));
    }

    #[test]
    fn legacy_configuration_moves_when_msix_is_on() {
        for (msix, mode) in [(false, InterruptMode::Line), (true, VECTORS)] {
            let fake = FakeDevice::legacy(0, &[16]);
            fake.state().msix = msix;
            fake.state().configuration = vec![1, 2, 3, 4, 5, 6];
            let transport = LegacyTransport::new(fake, Network, mode);
            assert_eq!(
                transport.read_config_space::<[u8; 6]>(0),
                Ok([1, 2, 3, 4, 5, 6])
            );
            assert_eq!(transport.read_config_space::<u16>(4), Ok(0x0605));
            assert!(
                transport.read_config_space::<u16>(5).is_err(),
                "beyond its end"
            );
            assert!(transport.read_config_space::<u8>(usize::MAX).is_err());
        }
    }

    #[test]
    fn modern_configuration_is_read_in_its_width_and_bounds() {
        let fake = FakeDevice::modern(0, &[16]);
        fake.state().configuration = vec![1, 2, 3, 4, 5, 6];
        let transport = ModernTransport::new(fake.windows(), Network, InterruptMode::Line).unwrap();
        configuration_is_read(&transport);
        configuration_is_read(&MmioTransport::new(fake.mmio(), Network).unwrap());
    }

    /// Six bytes of configuration, 1 to 6, are read, and none beyond.
    fn configuration_is_read(transport: &impl Transport) {
        assert_eq!(
            transport.read_config_space::<[u8; 6]>(0),
            Ok([1, 2, 3, 4, 5, 6])
        );
        assert_eq!(transport.read_config_space::<u16>(4), Ok(0x0605));
        assert!(transport.read_config_space::<u16>(5).is_err());
        assert!(transport.read_config_space::<u8>(usize::MAX).is_err());
    }

    #[test]
    fn a_device_that_never_resets_is_given_up() {
        let fake = FakeDevice::legacy(0, &[16]);
        fake.state().never_resets = true;
        let mut transport = LegacyTransport::new(fake, Network, InterruptMode::Line);
        assert_eq!(
            negotiate(&mut transport, 0),
            Err(VirtioError::ResetTimedOut)
        );
    }

    #[test]
    fn refusals_are_told_apart_and_leave_the_device_failed() {
        let fake = FakeDevice::modern(0, &[16]);
        fake.state().refuses_features = true;
        let mut transport = ModernTransport::new(fake.windows(), Network, VECTORS).unwrap();
        let refused = negotiate(&mut transport, feature::VERSION_1);
        assert_eq!(refused, Err(VirtioError::FeaturesRefused));
        assert!(transport.get_status().contains(DeviceStatus::FAILED));

        fake.state().refuses_features = false;
        fake.state().features = 0;
        assert_eq!(
            negotiate(&mut transport, feature::VERSION_1),
            Err(VirtioError::NotModern)
        );

        fake.state().features = feature::VERSION_1;
        fake.state().refuses_vectors = true;
        negotiate(&mut transport, feature::VERSION_1).unwrap();
        assert_eq!(start(&mut transport), Err(VirtioError::VectorRefused));
        assert!(transport.get_status().contains(DeviceStatus::FAILED));
    }

    #[test]
    fn a_device_with_one_vector_shares_it() {
        let modern = FakeDevice::modern(0, &[16, 16]);
        let legacy = FakeDevice::legacy(0, &[16, 16]);
        for fake in [&modern, &legacy] {
            fake.state().msix = true;
            fake.state().one_vector = true;
        }
        let mut transport = ModernTransport::new(modern.windows(), Network, VECTORS).unwrap();
        one_vector_serves(&modern, &mut transport);
        one_vector_serves(
            &legacy,
            &mut LegacyTransport::new(legacy.clone(), Network, VECTORS),
        );
    }

    /// All causes have the first vector.
    fn one_vector_serves(fake: &FakeHandle, transport: &mut impl VirtioTransport) {
        negotiate(transport, feature::VERSION_1).unwrap();
        let _queues = [0, 1].map(|number| Queue::<()>::open(transport, number, false).unwrap());
        start(transport).unwrap();
        assert_eq!(fake.configuration_vector(), 0);
        assert_eq!([fake.queue_vector(0), fake.queue_vector(1)], [0, 0]);
        super::reset(transport).unwrap();
    }

    #[test]
    fn a_notification_register_outside_its_window_is_refused() {
        // Two queues 4 bytes apart have a window of 8: the second register may begin at 6 at most.
        for (multiplier, good) in [
            (4, true),
            (6, true),
            (8, false),
            (3, false),
            (1 << 31, false),
        ] {
            let fake = FakeDevice::modern(0, &[16, 16]);
            let mut windows = fake.windows();
            windows.notify_multiplier = multiplier;
            let mut transport =
                ModernTransport::new(windows, Network, InterruptMode::Line).unwrap();
            negotiate(&mut transport, feature::VERSION_1).unwrap();
            let _queue = Queue::<()>::open(&mut transport, 1, false).unwrap();
            let started = start(&mut transport);
            assert_eq!(started.is_ok(), good, "multiplier {multiplier}");
            if !good {
                assert_eq!(started, Err(VirtioError::BadWindow));
                transport.notify(1);
                assert_eq!(fake.notifications(1), 0);
            }
            super::reset(&mut transport).unwrap();
        }
    }
}
