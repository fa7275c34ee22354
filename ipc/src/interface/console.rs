//! The serial console: a stream of bytes out, shared by many writers, and a stream in, which one
//! session at a time reads.

use super::{interface, service_errors};
use crate::Rights;

/// Grant in the manifest: the client may read what is typed.
pub const GRANT_READ: u32 = 1 << 0;
/// Largest number of bytes in one [`ConsoleClient::write`].
pub const MAX_WRITE_BYTES: usize = 3900;
/// Largest number of bytes in one reply of [`ConsoleClient::read`].
pub const MAX_READ_BYTES: usize = 256;

/// Bytes typed at the console, in order.
pub type Typed = heapless::Vec<u8, MAX_READ_BYTES>;

interface! {
    /// The console. Bytes are passed through as they are, both ways: editing, echo and line ends
    /// are the reader's. Bytes of one `write` stay together on the line; those of different writers
    /// follow one another.
    Console = 3, client ConsoleClient, server ConsoleServer, error ConsoleError;

    /// Puts bytes into the queue of the line.
    ///
    /// Arguments: `bytes` at most 3,900. Result: the number of bytes taken, less than offered only
    /// when the queue is full: the rest is to be offered again later. Errors: none of its own. Cost:
    /// one call and a copy; the line itself is not waited for.
    ///
    /// Example: `let taken = console.write(Deadline::NEVER, b"hello\r\n")?;`
    1 fn write(bytes: &[u8]) -> u32;

    /// Takes bytes that were typed; answered as soon as there is one.
    ///
    /// Arguments: `limit` the most bytes to take, 1 to 256. Result: at least one byte. Errors:
    /// NotPermitted (no grant to read), ReaderBusy (another session reads), OutOfRange. Cost: one
    /// call. What is typed between a caller's giving up by deadline and its next call is lost in
    /// part: whoever cannot wait for ever attaches rings.
    ///
    /// Example: `let typed = console.read(Deadline::NEVER, 64)?;`
    2 later Read fn read(limit: u16) -> Typed;

    /// Attaches a pair of stream rings, so that bytes flow without calls.
    ///
    /// Arguments: `bytes` capacity of each ring, a power of two from 64 to 65,536; `reads` whether
    /// the session wants what is typed. Handles: `rings` memory laid out as
    /// `ring::StreamPair::bytes_needed(bytes)` says, the outgoing ring first, initialised by the
    /// client; `bell` the client's notification, which the server signals with `bits`. Result: the
    /// bits to signal on the notification returned, `doorbell`, when a ring asks for it. Errors:
    /// NotPermitted, ReaderBusy, OutOfRange (capacity, or memory too small), Exhausted. Cost: one
    /// call and one mapping. A client that corrupts its rings is detached, and its session ended.
    ///
    /// Example: `let (bits, doorbell) = console.attach(deadline, 4096, true, 1, rings, bell)?;`
    3 fn attach(bytes: u32, reads: bool, bits: u64) [
        rings: copied(Rights::READ | Rights::WRITE),
        bell: copied(Rights::SIGNAL),
    ] -> u64 [doorbell: copied(Rights::SIGNAL)];
}

service_errors! {
    /// The console's own errors.
    ConsoleError {
        /// The manifest does not grant reading.
        NotPermitted = "the system manifest does not let this task read the console",
        /// Another session is the reader.
        ReaderBusy = "another session reads the console",
        /// An argument is out of its documented range.
        OutOfRange = "an argument is out of range",
        /// The server has no room for another pair of rings.
        Exhausted = "the console has no room for another pair of rings",
    }
}
