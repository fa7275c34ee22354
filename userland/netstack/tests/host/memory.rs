//! Shared memory for tests: words that several owners see.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ipc::ring::SharedMemory;

/// Memory that a stack and its fake driver or client both have.
#[derive(Clone)]
pub(crate) struct Shared(pub(crate) Arc<[AtomicU32]>);

impl Shared {
    pub(crate) fn new(bytes: usize) -> Shared {
        Shared((0..bytes.div_ceil(4)).map(|_| AtomicU32::new(0)).collect())
    }

    fn within(&self, offset: usize, length: usize) -> Option<()> {
        offset
            .checked_add(length)
            .filter(|end| *end <= self.bytes())
            .map(|_| ())
    }
}

impl SharedMemory for Shared {
    fn bytes(&self) -> usize {
        self.0.len() * 4
    }

    fn words<const N: usize>(&self, first: usize) -> Option<&[AtomicU32; N]> {
        self.0.get(first..)?.first_chunk()
    }

    fn read(&self, offset: usize, into: &mut [u8]) -> Option<()> {
        self.within(offset, into.len())?;
        let mut at = offset;
        let mut rest = into;
        while !rest.is_empty() {
            let bytes = self.0[at / 4].load(Ordering::Relaxed).to_le_bytes();
            let count = (4 - at % 4).min(rest.len());
            let (head, tail) = rest.split_at_mut(count);
            head.copy_from_slice(&bytes[at % 4..at % 4 + count]);
            rest = tail;
            at += count;
        }
        Some(())
    }

    fn write(&self, offset: usize, from: &[u8]) -> Option<()> {
        self.within(offset, from.len())?;
        let mut at = offset;
        let mut rest = from;
        while !rest.is_empty() {
            let mut bytes = self.0[at / 4].load(Ordering::Relaxed).to_le_bytes();
            let count = (4 - at % 4).min(rest.len());
            bytes[at % 4..at % 4 + count].copy_from_slice(&rest[..count]);
            self.0[at / 4].store(u32::from_le_bytes(bytes), Ordering::Relaxed);
            rest = &rest[count..];
            at += count;
        }
        Some(())
    }
}
