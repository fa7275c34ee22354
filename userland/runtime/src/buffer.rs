//! The calling thread's IPC buffer, handed out to one user at a time.
#![expect(unsafe_code, reason = "the buffer is a page that the kernel made")]

use crate::block::{self, BUFFER_TAKEN, IPC_BUFFER};
use core::marker::PhantomData;
use ipc::Error;
use ipc::message::BUFFER_BYTES;

/// The bytes of an IPC buffer.
pub(crate) type Bytes = [u8; BUFFER_BYTES];

/// The calling thread's IPC buffer, in use as long as this value lives.
pub(crate) struct Buffer {
    address: usize,
    /// The thread's own: not to be sent to another.
    _thread: PhantomData<*mut ()>,
}

impl Buffer {
    /// Takes the buffer. Errors: Busy where it is in use already; Unsupported on the host.
    pub(crate) fn take() -> Result<Buffer, Error> {
        let address = block::read(IPC_BUFFER) as usize;
        if address == 0 {
            return Err(Error::Unsupported);
        }
        if block::read(BUFFER_TAKEN) != 0 {
            return Err(Error::Busy);
        }
        block::write(BUFFER_TAKEN, 1);
        Ok(Buffer {
            address,
            _thread: PhantomData,
        })
    }

    /// The bytes. System calls are made while no such reference lives: the kernel writes the buffer
    /// in them.
    pub(crate) fn bytes(&mut self) -> &mut Bytes {
        let buffer = core::ptr::with_exposed_provenance_mut::<Bytes>(self.address);
        // SAFETY: the kernel keeps the page mapped, readable and writable, as long as the thread
        // lives. No other thread is given its address, and within this thread there is one `Buffer`
        // at a time, which this reference borrows.
        unsafe { &mut *buffer }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        block::write(BUFFER_TAKEN, 0);
    }
}
