//! What a session holds: at most one function, and of it what was handed out. Everything handed out
//! is kept in a second handle, so that it can be taken back when the session ends.

use alloc::boxed::Box;
use alloc::vec::Vec;

use ipc::Handle;
use registers::Registers;

/// Most DMA regions of a session.
pub(crate) const MOST_REGIONS: usize = 16;

/// A client of the server.
#[derive(Default)]
pub(crate) struct Session {
    /// The manifest lets it claim.
    pub(crate) may_claim: bool,
    /// What it has claimed.
    pub(crate) claim: Option<Claim>,
}

/// Memory that a device can reach.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Region {
    pub(crate) number: u32,
    /// The server's handle: as long as it is there, the frames are.
    pub(crate) memory: Handle,
}

/// A claimed function and what of it was handed out.
pub(crate) struct Claim {
    /// Position in the list of functions.
    pub(crate) function: usize,
    /// Second handles of BARs and interrupts: destroyed at the end.
    pub(crate) kept: Vec<Handle>,
    /// Memory attached.
    pub(crate) regions: Vec<Region>,
    /// Number of the next region.
    pub(crate) next_region: u32,
    /// The MSI-X table, once an entry was asked for.
    pub(crate) table: Option<Box<dyn Registers>>,
    /// The interrupt line, once it was asked for.
    pub(crate) line: Option<u32>,
}

impl Claim {
    pub(crate) fn new(function: usize) -> Claim {
        Claim {
            function,
            kept: Vec::new(),
            regions: Vec::new(),
            next_region: 1,
            table: None,
            line: None,
        }
    }
}
