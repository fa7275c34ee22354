//! The task around the service: configuration mechanism #1 and the kernel behind its wishes.

use alloc::boxed::Box;
use alloc::vec::Vec;

use ipc::badge::Client;
use ipc::interface::pci as interface;
use ipc::interface::service::ConnectError;
use ipc::message::MAX_BYTES;
use ipc::server::{Caller, Outcome, Outgoing, Received};
use ipc::startup::names;
use ipc::{Error, Handle, Label, Rights};
use registers::Registers;
use registers::hardware::{MappedWindow, PortWindow};
use runtime::entry::Startup;
use runtime::mapping::Access;
use runtime::ports::{Interrupt, IoPorts, Trigger};
use runtime::server::{Service, serve};
use runtime::{Mapping, Memory, Notification, handle, memory, start, stop, system};

use crate::bar::Bar;
use crate::config::{MECHANISM1_FIRST_PORT, MECHANISM1_PORTS, Mechanism1};
use crate::platform::{Message, Platform};
use crate::service::PciBus;
use crate::slot::SlotState;
use crate::words::{self, SlotWord};

/// The name of the public endpoint.
const SERVICE: &str = "pci";
/// The ports of mechanism #1, as the startup block names them.
const PORT_NAME: &str = "cf8";
/// Bit that init signals when the system stops.
const STOP: u64 = 1 << 0;

/// The program: stops all devices, then serves.
pub fn run(startup: &'static Startup<'static>) {
    if let Err(error) = set_up(startup) {
        runtime::log!("cannot serve the bus: {error}");
    }
}

fn set_up(startup: &'static Startup<'static>) -> Result<(), Error> {
    let public = start::serves(SERVICE).ok_or(Error::InvalidHandle)?;
    let control = startup
        .handle(names::DEVICE_CONTROL)
        .ok_or(Error::InvalidHandle)?;
    let ports = startup
        .handle_of(names::PORTS, PORT_NAME)
        .ok_or(Error::InvalidHandle)?;
    let ports = IoPorts::from_handle(ports);
    let window = PortWindow::attach(ports, MECHANISM1_FIRST_PORT, MECHANISM1_PORTS)?;
    let words = slot_words(startup)?;
    let bus = PciBus::start(Mechanism1::new(window), Kernel { control }, &words);
    // What a device that does not stop may still write stays in quarantine.
    let freed = match bus.all_stopped() {
        true => memory::dma_reset(control)?,
        false => 0,
    };
    report(&bus, freed);
    let priority = runtime::task::info(start::own_task())?.priority as u8;
    let bell = Notification::create()?;
    stop::listen(bell.handle(), STOP);
    Err(serve(public, Some(&bell), priority, &mut Server { bus }))
}

/// The slots that the kernel's command line names. A word that names none is told.
fn slot_words(startup: &Startup<'_>) -> Result<Vec<SlotWord>, Error> {
    let control = startup
        .handle(names::SYSTEM_CONTROL)
        .ok_or(Error::InvalidHandle)?;
    let mut line = alloc::vec![0; MAX_BYTES];
    let line = system::command_line(control, &mut line)?;
    // The kernel cuts it where it is no text.
    let line = core::str::from_utf8(line).unwrap_or_default();
    Ok(words::slots(line, |word, why| {
        runtime::log!("{word}: {why}")
    }))
}

/// Says what is there, and what cannot be used.
fn report(bus: &PciBus<Mechanism1<PortWindow>, Kernel>, freed: u64) {
    let on_bus = bus.functions().iter().filter(|found| found.slot.is_none());
    runtime::log!(
        "{} functions, all stopped; {freed} frames out of quarantine",
        on_bus.count()
    );
    for slot in bus.slots() {
        let at = slot.word.address;
        match slot.state {
            SlotState::Device => runtime::log!("virtio-mmio at {at:#x}: a device, stopped"),
            SlotState::Empty => runtime::log!("virtio-mmio at {at:#x}: no device"),
            SlotState::Legacy => runtime::log!(
                "virtio-mmio at {at:#x}: version 1, which no driver speaks; in QEMU, \
                 -global virtio-mmio.force-legacy=false makes it 2"
            ),
            SlotState::Unknown => runtime::log!("virtio-mmio at {at:#x}: nothing of virtio's"),
            SlotState::Running => runtime::log!(
                "virtio-mmio at {at:#x}: a device that does not stop; quarantine stays as it is"
            ),
            SlotState::Unreachable(error) => {
                runtime::log!("virtio-mmio at {at:#x}: cannot be mapped: {error}");
            }
        }
    }
    for function in bus.functions() {
        if function.bars.contains(&Some(Bar::Unassigned)) {
            let header = &function.header;
            let at = header.address;
            runtime::log!(
                "{:02x}:{:02x}.{} ({:04x}:{:04x}) has registers without an address: the firmware left it out",
                at.bus,
                at.device,
                at.function,
                header.vendor,
                header.device
            );
        }
    }
}

/// The service as the server loop sees it.
struct Server {
    bus: PciBus<Mechanism1<PortWindow>, Kernel>,
}

impl Service for Server {
    const INTERFACE: u16 = interface::NUMBER;

    fn connect(&mut self, session: u64, client: Client) -> Result<(), ConnectError> {
        self.bus.opened(session, client.may(interface::GRANT_CLAIM));
        Ok(())
    }

    fn dispatch(
        &mut self,
        caller: &mut Caller<'_>,
        label: Label,
        request: &[u8],
        received: &mut Received,
        outgoing: &mut Outgoing<'_>,
    ) -> Outcome {
        interface::dispatch(&mut self.bus, caller, label, request, received, outgoing)
    }

    fn closed(&mut self, session: u64) {
        self.bus.closed(session);
    }

    fn signal(&mut self, _: u64) {
        self.bus.stop();
        stop::finished();
    }
}

/// The kernel behind the service's wishes.
struct Kernel {
    control: Handle,
}

impl Platform for Kernel {
    fn map_registers(&mut self, address: u64, bytes: u64) -> Result<Box<dyn Registers>, Error> {
        let memory = Memory::device(self.control, address, bytes, false)?;
        let mapping = Mapping::whole(&memory, Access::Write)?;
        let window = MappedWindow::new(mapping).ok_or(Error::InvalidArgument)?;
        Ok(Box::new(window))
    }

    fn device_memory(&mut self, address: u64, bytes: u64) -> Result<Handle, Error> {
        Memory::device(self.control, address, bytes, false).map(Memory::into_handle)
    }

    fn io_ports(&mut self, first: u16, count: u16) -> Result<Handle, Error> {
        IoPorts::create(self.control, first, count.into()).map(IoPorts::into_handle)
    }

    fn message_interrupt(
        &mut self,
        notification: Handle,
        bits: u64,
    ) -> Result<(Handle, Message), Error> {
        let (interrupt, message) = Interrupt::message(self.control, notification, bits)?;
        let message = Message {
            address: message.address,
            data: message.data,
        };
        Ok((interrupt.into_handle(), message))
    }

    fn line_interrupt(
        &mut self,
        line: u32,
        active_low: bool,
        notification: Handle,
        bits: u64,
    ) -> Result<Handle, Error> {
        let trigger = Trigger {
            level: true,
            active_low,
        };
        let made = Interrupt::line(self.control, line, notification, bits, trigger);
        made.map(Interrupt::into_handle)
    }

    fn memory(&mut self, memory: Handle) -> Result<(u64, bool), Error> {
        with_memory(memory, |memory| {
            memory.info().map(|info| (info.bytes, info.contiguous))
        })
    }

    fn expose(&mut self, memory: Handle) -> Result<u64, Error> {
        with_memory(memory, |memory| memory.expose(self.control))
    }

    fn conceal(&mut self, memory: Handle) {
        // Memory that its owner destroyed is the kernel's to release: then this names nothing.
        let _ = with_memory(memory, |memory| memory.conceal(self.control));
    }

    fn duplicate(&mut self, handle: Handle) -> Result<Handle, Error> {
        handle::duplicate(handle, Rights::ALL)
    }

    fn destroy(&mut self, handle: Handle) {
        // It may be gone already. Either way the handle, which names nothing then, is not kept: the
        // object's record stays as long as any handle does.
        let _ = handle::destroy(handle);
        handle::close(handle);
    }

    fn close(&mut self, handle: Handle) {
        handle::close(handle);
    }
}

/// Uses a handle to memory that stays the service's.
fn with_memory<R>(handle: Handle, operation: impl FnOnce(&Memory) -> R) -> R {
    let memory = Memory::from_handle(handle);
    let result = operation(&memory);
    let _ = memory.into_handle();
    result
}
