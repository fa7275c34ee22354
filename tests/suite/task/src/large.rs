//! All of a large machine's memory, up to its end. Runs only when it is asked for: it needs a machine
//! with more than 4 GiB, and a quota to match (`tests/suite/large.toml`).

use ipc::Operation;

use crate::failure::{Outcome, ensure, ensure_equal};
use crate::raw::{self, call};
use crate::suite::{Owned, Region};
use crate::{Context, Test};

pub(crate) const TESTS: &[Test] = &[("memory_to_its_end", to_the_end)];

/// Size of the pieces that memory is taken in.
const PIECE: u64 = 256 << 20;
/// Distance of the words that are checked in them: two in each page.
const STEP: u64 = 2048;

/// Takes all memory that the quota allows, writes to every page and reads all of it again.
fn to_the_end(context: &Context) -> Outcome {
    let suite = &context.suite;
    let frames = suite.counts()?.frames_total;
    ensure!(
        frames * 4096 > 5 << 30,
        "the machine has only {} MiB; it takes 6 GiB",
        frames / 256
    );
    let mut pieces = alloc::vec::Vec::new();
    while let Ok(piece) = Region::new(suite, PIECE) {
        pieces.push(piece);
    }
    ensure!(pieces.len() > 16, "only {} pieces", pieces.len());
    for (number, piece) in pieces.iter().enumerate() {
        for offset in (0..PIECE).step_by(STEP as usize) {
            let at = piece.address + offset;
            ensure_equal!(raw::peek(at), 0, "new memory at offset {offset:#x}");
            raw::poke(at, at ^ number as u64);
        }
    }
    for (number, piece) in pieces.iter().enumerate() {
        for offset in (0..PIECE).step_by(STEP as usize) {
            let at = piece.address + offset;
            ensure_equal!(raw::peek(at), at ^ number as u64, "offset {offset:#x}");
        }
    }
    above_4_gib(context)
}

/// With the memory below used up, contiguous memory comes from above 4 GiB.
fn above_4_gib(context: &Context) -> Outcome {
    let suite = &context.suite;
    let mut kept = alloc::vec::Vec::new();
    let mut highest = 0;
    while let Ok(memory) = Owned::make(Operation::MemoryCreate, &[4096, 1]) {
        let physical = raw::value(Operation::MemoryExpose, &[suite.device, memory.0, 1])?;
        call(Operation::MemoryExpose, &[suite.device, memory.0, 0])?;
        highest = highest.max(physical);
        kept.push(memory);
        if highest >= 1 << 32 || kept.len() > 2000 {
            break;
        }
    }
    ensure!(
        highest >= 1 << 32,
        "the highest of {} pages is at {highest:#x}",
        kept.len()
    );
    Ok(())
}
