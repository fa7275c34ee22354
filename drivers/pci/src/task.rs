//! The task around the service: configuration mechanism #1 and the kernel behind its wishes.

use alloc::boxed::Box;

use ipc::badge::Client;
use ipc::interface::pci as interface;
use ipc::interface::service::ConnectError;
use ipc::server::{Caller, Outcome, Outgoing, Received};
use ipc::startup::names;
use ipc::{Error, Handle, Label, Rights};
use registers::Registers;
use registers::hardware::{MappedWindow, PortWindow};
use runtime::mapping::Access;
use runtime::ports::{Interrupt, IoPorts, Trigger};
use runtime::server::{Service, serve};
use runtime::{Mapping, Memory, Notification, handle, memory, start, stop};

use crate::bar::Bar;
use crate::config::{MECHANISM1_FIRST_PORT, MECHANISM1_PORTS, Mechanism1};
use crate::platform::{Message, Platform};
use crate::service::PciBus;

/// The name of the public endpoint.
const SERVICE: &str = "pci";
/// The ports of mechanism #1, as the startup block names them.
const PORT_NAME: &str = "cf8";
/// Bit that init signals when the system stops.
const STOP: u64 = 1 << 0;
/// I/O APIC inputs below this are the ISA interrupts, to which a PC's chipset routes INTx as active
/// high (its MADT overrides say so; ACPI 6.5, section 5.2.12.5); those above are active low, as PCI
/// lines are (PCI 3.0, section 2.2.6).
const ISA_INPUTS: u32 = 16;

/// The program: stops all devices, then serves.
pub fn run(startup: &'static runtime::entry::Startup<'static>) {
    if let Err(error) = set_up(startup) {
        runtime::log!("cannot serve the bus: {error}");
    }
}

fn set_up(startup: &'static runtime::entry::Startup<'static>) -> Result<(), Error> {
    let public = start::serves(SERVICE).ok_or(Error::InvalidHandle)?;
    let control = startup
        .handle(names::DEVICE_CONTROL)
        .ok_or(Error::InvalidHandle)?;
    let ports = startup
        .handle_of(names::PORTS, PORT_NAME)
        .ok_or(Error::InvalidHandle)?;
    let ports = IoPorts::from_handle(ports);
    let window = PortWindow::attach(ports, MECHANISM1_FIRST_PORT, MECHANISM1_PORTS)?;
    let bus = PciBus::start(Mechanism1::new(window), Kernel { control });
    let freed = memory::dma_reset(control)?;
    report(&bus, freed);
    let priority = runtime::task::info(start::own_task())?.priority as u8;
    let bell = Notification::create()?;
    stop::listen(bell.handle(), STOP);
    Err(serve(public, Some(&bell), priority, &mut Server { bus }))
}

/// Says what is there, and what cannot be used.
fn report(bus: &PciBus<Mechanism1<PortWindow>, Kernel>, freed: u64) {
    runtime::log!(
        "{} functions, all stopped; {freed} frames out of quarantine",
        bus.functions().len()
    );
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
        notification: Handle,
        bits: u64,
    ) -> Result<Handle, Error> {
        let trigger = Trigger {
            level: true,
            active_low: line >= ISA_INPUTS,
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
