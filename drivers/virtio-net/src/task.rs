//! The task around the service: claims the card from pci, and is told how it may be used.

use ipc::startup::names;
use net_driver::{INTERRUPTS, serve_card};
use runtime::entry::Startup;
use runtime::{Notification, system};
use virtio::{AnyTransport, FunctionTransport, SetupError};
use virtio_drivers::transport::DeviceType;

use crate::device::{Idle, NetDevice};
use crate::settings::{self, Settings};

/// The name of the public endpoint.
const SERVICE: &str = "virtio-net";
/// Transitional number of network devices (VIRTIO 1.2, section 4.1.2.3).
const TRANSITIONAL: u16 = 0;

/// The device behind whichever transport it has.
type Card = NetDevice<FunctionTransport>;

/// The program: serves the first free virtio network device. Ends, to be started again, when its
/// device or pci fails it.
///
/// Its argument `off` names what it is not to use, separated by commas (`settings`).
pub fn run(startup: &'static Startup<'static>) {
    let ended = match Notification::create() {
        Ok(notification) => set_up(notification, settings(startup)),
        Err(error) => error.into(),
    };
    runtime::log!("cannot drive the card: {ended:?}");
}

/// What the arguments say, and how many processors there are; what is wrong is told.
fn settings(startup: &Startup<'_>) -> Settings {
    let control = startup.handle(names::SYSTEM_CONTROL);
    let counters = control.and_then(|control| system::counters(control).ok());
    let mut settings = Settings::new(counters.map_or(1, |counters| counters.cpus));
    for argument in &startup.arguments {
        if argument.name != "off" {
            runtime::log!("argument {}: there is only `off`", argument.name);
            continue;
        }
        settings.switch_off(argument.value, |word| {
            let known: alloc::vec::Vec<&str> = settings::words().collect();
            runtime::log!("argument off: `{word}` is none of {}", known.join(" "));
        });
    }
    settings
}

fn set_up(notification: Notification, settings: Settings) -> SetupError {
    let (bits, avoid) = (INTERRUPTS, settings.avoid);
    // A pair has two, and several have a control queue.
    let queues = 2 * settings.pairs + u16::from(settings.pairs > 1);
    let claimed = virtio::claim(
        DeviceType::Network,
        TRANSITIONAL,
        &notification,
        bits,
        avoid,
        queues,
    );
    let error = match claimed {
        Ok(Some((function, transport))) => {
            let (kind, interrupts) = (transport.name(), function.interrupts());
            runtime::log!("{kind} device, interrupts: {interrupts:?}");
            if avoid.modern && !matches!(transport, AnyTransport::Legacy(_)) {
                runtime::log!("argument off: the device has no legacy transport");
            }
            let idle = Idle {
                transport,
                settings,
            };
            serve_card::<Card>(SERVICE, notification, Some((function, idle)))
        }
        Ok(None) => {
            runtime::log!("no virtio network device: every attach is refused");
            serve_card::<Card>(SERVICE, notification, None)
        }
        Err(error) => return error,
    };
    error.into()
}
