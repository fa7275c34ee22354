//! The task around the service: claims the card from pci.

use ipc::interface::pci::Match;
use net_driver::{INTERRUPTS, serve_card};
use pci_function::{Attached, Function, SetupError};
use registers::hardware::MappedWindow;
use runtime::Notification;

use crate::device::Nic;

/// The name of the public endpoint.
const SERVICE: &str = "e1000";
/// Intel (PCI code and ID assignment).
const VENDOR: u16 = 0x8086;
/// The devices that this driver was tried with, of those in the manual's section 5.2: 82540EM, 82545EM
/// and 82544GC, all for copper.
const DEVICES: [u16; 3] = [0x100e, 0x100f, 0x100c];
/// The BAR of the registers (manual, section 4.1).
const REGISTERS: u8 = 0;
/// Bytes of the arena that the two rings are made of, twice: those of a device that did not stop are
/// never used again.
const ARENA_BYTES: u64 = 4 * crate::ring::BYTES as u64;

/// The program: serves the first free card. Ends, to be started again, when its device or pci fails
/// it.
pub fn run(_startup: &'static runtime::entry::Startup<'static>) {
    let ended = match Notification::create() {
        Ok(notification) => set_up(notification),
        Err(error) => error.into(),
    };
    runtime::log!("cannot drive the card: {ended:?}");
}

fn set_up(notification: Notification) -> SetupError {
    match claim(&notification) {
        Ok(card) => serve_card::<Nic<MappedWindow>>(SERVICE, notification, card).into(),
        Err(error) => error,
    }
}

fn claim(notification: &Notification) -> Result<Option<(Function, MappedWindow)>, SetupError> {
    let kinds = DEVICES.map(|device| Match {
        vendor: Some(VENDOR),
        device: Some(device),
        ..Match::default()
    });
    // It has one interrupt, whatever the cause.
    let Some(function) = Function::claim(&kinds, notification, &INTERRUPTS[..1], true)? else {
        runtime::log!("no e1000 network device: every attach is refused");
        return Ok(None);
    };
    let registers = function.registers(REGISTERS)?;
    Attached::arena(&function.pci(), ARENA_BYTES)?;
    runtime::log!(
        "device {:04x}, interrupts: {:?}",
        function.header().device,
        function.interrupts()
    );
    Ok(Some((function, registers)))
}
