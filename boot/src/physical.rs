//! How the parsers see physical memory: by asking for bytes, which may be refused.

/// Physical memory that can be read.
pub trait Physical {
    /// The `length` bytes at a physical address; `None` where they cannot be read.
    fn bytes(&self, address: u64, length: usize) -> Option<&[u8]>;

    /// The bytes from `address` up to, and without, the first zero byte; at most `limit` of them.
    fn text(&self, address: u64, limit: usize) -> Option<&[u8]> {
        // Piece by piece: the text may end just below the end of what can be read.
        let mut length = 0;
        while length < limit {
            if self.bytes(address.checked_add(length as u64)?, 1)?[0] == 0 {
                break;
            }
            length += 1;
        }
        self.bytes(address, length)
    }
}

/// Little-endian number of 16, 32 or 64 bits at an offset; `None` past the end.
pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// See [`u16_at`].
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

/// See [`u16_at`].
pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
pub(crate) mod fake {
    use super::Physical;

    /// A few pieces of memory at chosen addresses.
    #[derive(Default)]
    pub(crate) struct Pieces(pub(crate) Vec<(u64, Vec<u8>)>);

    impl Physical for Pieces {
        fn bytes(&self, address: u64, length: usize) -> Option<&[u8]> {
            self.0.iter().find_map(|(start, bytes)| {
                let offset = usize::try_from(address.checked_sub(*start)?).ok()?;
                bytes.get(offset..offset.checked_add(length)?)
            })
        }
    }
}
