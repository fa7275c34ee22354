//! I/O ports and interrupts, as a driver server gets them.

use crate::handle::owned;
use crate::syscall::invoke;
use ipc::message::NEVER;
use ipc::{Error, Handle, Operation, Rights};

owned! {
    /// A range of I/O ports. They can be used from [`IoPorts::attach`] on, by every thread of the
    /// task, as long as a handle to the range is open.
    IoPorts
}

impl IoPorts {
    /// Makes a range of ports. Errors: those of [`Operation::IoPortsCreate`].
    pub fn create(control: Handle, first: u16, count: u32) -> Result<IoPorts, Error> {
        let arguments = [control.0, u64::from(first), u64::from(count), 0, 0, 0];
        let [handle, ..] = invoke(Operation::IoPortsCreate, arguments, NEVER)?;
        Ok(IoPorts::from_handle(Handle(handle)))
    }

    /// Lets this task use the ports. Errors: those of [`Operation::IoPortsAttach`].
    pub fn attach(&self) -> Result<(), Error> {
        invoke(
            Operation::IoPortsAttach,
            [self.handle().0, 0, 0, 0, 0, 0],
            NEVER,
        )
        .map(drop)
    }
}

owned! {
    /// An interrupt, bound to a notification.
    Interrupt
}

/// How an I/O APIC input is triggered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trigger {
    /// By level, else by edge.
    pub level: bool,
    /// Active low, else active high.
    pub active_low: bool,
}

/// Where a device writes to raise a message-signalled interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptMessage {
    /// Address.
    pub address: u64,
    /// Data.
    pub data: u32,
}

impl Interrupt {
    /// Makes the interrupt of an I/O APIC input, which sets `bits` of the notification. Errors:
    /// those of [`Operation::InterruptCreate`].
    pub fn line(
        control: Handle,
        input: u32,
        notification: Handle,
        bits: u64,
        trigger: Trigger,
    ) -> Result<Interrupt, Error> {
        let flags = u64::from(trigger.level) | u64::from(trigger.active_low) << 1;
        let arguments = [control.0, u64::from(input), notification.0, bits, flags, 0];
        let [handle, ..] = invoke(Operation::InterruptCreate, arguments, NEVER)?;
        Ok(Interrupt::from_handle(Handle(handle)))
    }

    /// Makes a message-signalled interrupt, which sets `bits` of the notification. Errors: those of
    /// [`Operation::InterruptCreate`].
    pub fn message(
        control: Handle,
        notification: Handle,
        bits: u64,
    ) -> Result<(Interrupt, InterruptMessage), Error> {
        let arguments = [
            control.0,
            ipc::info::INTERRUPT_MESSAGE,
            notification.0,
            bits,
            0,
            0,
        ];
        let [handle, address, data, ..] = invoke(Operation::InterruptCreate, arguments, NEVER)?;
        let message = InterruptMessage {
            address,
            data: data as u32,
        };
        Ok((Interrupt::from_handle(Handle(handle)), message))
    }

    /// Lets a level-triggered interrupt come again. Errors: those of
    /// [`Operation::InterruptAcknowledge`].
    pub fn acknowledge(&self) -> Result<(), Error> {
        let arguments = [self.handle().0, 0, 0, 0, 0, 0];
        invoke(Operation::InterruptAcknowledge, arguments, NEVER).map(drop)
    }

    /// A second handle that can only acknowledge, to be given to a driver.
    pub fn for_driver(&self) -> Result<Interrupt, Error> {
        self.duplicate(Rights::ACKNOWLEDGE | Rights::TRANSFER | Rights::DUPLICATE)
    }
}
