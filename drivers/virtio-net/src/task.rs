//! The task around the service: claims the card from pci.

use net_driver::{INTERRUPTS, serve_card};
use runtime::Notification;
use virtio::{FunctionTransport, SetupError};
use virtio_drivers::transport::DeviceType;

use crate::device::NetDevice;

/// The name of the public endpoint.
const SERVICE: &str = "virtio-net";
/// Transitional number of network devices (VIRTIO 1.2, section 4.1.2.3).
const TRANSITIONAL: u16 = 0;

/// The device behind whichever transport it has.
type Card = NetDevice<FunctionTransport>;

/// The program: serves the first free virtio network device. Ends, to be started again, when its
/// device or pci fails it.
pub fn run(_startup: &'static runtime::entry::Startup<'static>) {
    let ended = match Notification::create() {
        Ok(notification) => set_up(notification),
        Err(error) => error.into(),
    };
    runtime::log!("cannot drive the card: {ended:?}");
}

fn set_up(notification: Notification) -> SetupError {
    let claimed = virtio::claim(DeviceType::Network, TRANSITIONAL, &notification, INTERRUPTS);
    let error = match claimed {
        Ok(Some((function, transport))) => {
            let (kind, interrupts) = (transport.name(), function.interrupts());
            runtime::log!("{kind} device, interrupts: {interrupts:?}");
            serve_card::<Card>(SERVICE, notification, Some((function, transport)))
        }
        Ok(None) => {
            runtime::log!("no virtio network device: every attach is refused");
            serve_card::<Card>(SERVICE, notification, None)
        }
        Err(error) => return error,
    };
    error.into()
}
