//! What the server asks of the kernel, as a trait: the task has the real one, the tests a fake.

use alloc::boxed::Box;

use ipc::{Error, Handle};
use registers::Registers;

/// What a message-signalled interrupt writes, and where (PCI 3.0, section 6.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message {
    /// Message address.
    pub address: u64,
    /// Message data.
    pub data: u32,
}

/// The kernel's part.
pub trait Platform {
    /// Maps device registers into the server itself. Address and size are whole pages.
    fn map_registers(&mut self, address: u64, bytes: u64) -> Result<Box<dyn Registers>, Error>;
    /// Makes Memory of a device's registers, to be handed out. Address and size are whole pages.
    fn device_memory(&mut self, address: u64, bytes: u64) -> Result<Handle, Error>;
    /// Makes IoPorts, to be handed out.
    fn io_ports(&mut self, first: u16, count: u16) -> Result<Handle, Error>;
    /// Makes a message-signalled interrupt that sets these bits.
    fn message_interrupt(
        &mut self,
        notification: Handle,
        bits: u64,
    ) -> Result<(Handle, Message), Error>;
    /// Makes a level-triggered interrupt of an I/O APIC input that sets these bits.
    fn line_interrupt(
        &mut self,
        line: u32,
        active_low: bool,
        notification: Handle,
        bits: u64,
    ) -> Result<Handle, Error>;
    /// Size of memory in bytes, and whether it is contiguous.
    fn memory(&mut self, memory: Handle) -> Result<(u64, bool), Error>;
    /// Makes contiguous memory's frames stay until they are concealed; gives their address.
    fn expose(&mut self, memory: Handle) -> Result<u64, Error>;
    /// Says that no device reaches the memory any more.
    fn conceal(&mut self, memory: Handle);
    /// Makes a second handle with all the rights of the first.
    fn duplicate(&mut self, handle: Handle) -> Result<Handle, Error>;
    /// Destroys an object: no handle to it, and no mapping of it, is left anywhere.
    fn destroy(&mut self, handle: Handle);
    /// Closes a handle.
    fn close(&mut self, handle: Handle);
}
