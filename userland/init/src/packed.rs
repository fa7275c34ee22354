//! Unpacks a file of the boot archive: an LZ4 frame (LZ4 Frame Format Description 1.6.3), block by block, so
//! that a program of any length needs room for one block. Crate `lz4_flex` decodes the blocks; its reader
//! of frames needs std. Everything in the file is taken for hostile; what damage the blocks do not
//! show, the sum of the contents does.
//!
//! Of what a frame can have only what the host tool writes is understood (`iso/src/archive.rs`): blocks of at
//! most 64 KiB that do not refer to each other, the length of the contents and their sum.

use core::fmt;
use core::hash::Hasher;

use lz4_flex::block::decompress_into;
use twox_hash::XxHash32;

/// Most bytes that one block unpacks to.
pub const BLOCK: usize = 64 * 1024;

/// "General Structure of LZ4 Frame format": what a frame begins with.
const MAGIC: u32 = 0x184d_2204;
/// "Frame Descriptor", FLG: version 1, independent blocks, with length and sum of the contents.
const FLAGS: u8 = 0b0110_1100;
/// BD: blocks of at most 64 KiB.
const BLOCKS: u8 = 4 << 4;
/// "Data Blocks": the bit in a block's size that says that it is not compressed.
const AS_IT_IS: u32 = 1 << 31;

/// Why a file cannot be unpacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PackedError {
    /// It is no LZ4 frame.
    NotAFrame,
    /// It is a frame of a kind that the host tool does not write.
    Unsuitable,
    /// It is cut short, or what is in it is not what was packed.
    Damaged,
}

impl fmt::Display for PackedError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            PackedError::NotAFrame => "no LZ4 frame",
            PackedError::Unsuitable => "an LZ4 frame of another kind",
            PackedError::Damaged => "damaged",
        })
    }
}

impl core::error::Error for PackedError {}

/// A file that is being unpacked, from its beginning to its end.
#[derive(Clone, Debug)]
pub struct Packed<'a> {
    rest: &'a [u8],
    length: u64,
    done: u64,
    sum: XxHash32,
}

impl<'a> Packed<'a> {
    /// Reads the frame's beginning.
    ///
    /// # Errors
    /// See [`PackedError`].
    pub fn read(bytes: &'a [u8]) -> Result<Self, PackedError> {
        let (magic, bytes) = split(bytes).ok_or(PackedError::NotAFrame)?;
        if u32::from_le_bytes(magic) != MAGIC {
            return Err(PackedError::NotAFrame);
        }
        let (descriptor, bytes) = split::<10>(bytes).ok_or(PackedError::Damaged)?;
        let ([check], rest) = split(bytes).ok_or(PackedError::Damaged)?;
        // The second byte of the sum.
        if XxHash32::oneshot(0, &descriptor).to_le_bytes()[1] != check {
            return Err(PackedError::Damaged);
        }
        let [FLAGS, BLOCKS, length @ ..] = descriptor else {
            return Err(PackedError::Unsuitable);
        };
        Ok(Packed {
            rest,
            length: u64::from_le_bytes(length),
            done: 0,
            sum: XxHash32::with_seed(0),
        })
    }

    /// Length of the contents in bytes, as the file says. It is true once all of it was unpacked.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Unpacks the next part of the contents into `room`, which has [`BLOCK`] bytes; `None` at their end, when
    /// they are what was packed.
    ///
    /// # Errors
    /// [`PackedError::Damaged`].
    pub fn next<'room>(
        &mut self,
        room: &'room mut [u8],
    ) -> Result<Option<&'room [u8]>, PackedError> {
        let size = u32::from_le_bytes(self.take()?);
        if size == 0 {
            return self.end().map(|()| None);
        }
        let bytes = (size & !AS_IT_IS) as usize;
        let (block, rest) = self
            .rest
            .split_at_checked(bytes)
            .ok_or(PackedError::Damaged)?;
        self.rest = rest;
        let length = if size & AS_IT_IS != 0 {
            room.get_mut(..bytes)
                .ok_or(PackedError::Damaged)?
                .copy_from_slice(block);
            bytes
        } else {
            decompress_into(block, room).map_err(|_| PackedError::Damaged)?
        };
        let part = room.get(..length).ok_or(PackedError::Damaged)?;
        // Every block has something, so that there are no more of them than bytes.
        self.done += length as u64;
        if length == 0 || self.done > self.length {
            return Err(PackedError::Damaged);
        }
        self.sum.write(part);
        Ok(Some(part))
    }

    fn end(&mut self) -> Result<(), PackedError> {
        let sum = u32::from_le_bytes(self.take()?);
        if self.done == self.length && sum == self.sum.finish_32() && self.rest.is_empty() {
            Ok(())
        } else {
            Err(PackedError::Damaged)
        }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], PackedError> {
        let (bytes, rest) = split(self.rest).ok_or(PackedError::Damaged)?;
        self.rest = rest;
        Ok(bytes)
    }
}

fn split<const N: usize>(bytes: &[u8]) -> Option<([u8; N], &[u8])> {
    bytes
        .split_first_chunk()
        .map(|(first, rest)| (*first, rest))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};

    use super::*;

    fn pack(contents: &[u8], info: FrameInfo) -> Vec<u8> {
        let mut encoder = FrameEncoder::with_frame_info(info, Vec::new());
        encoder.write_all(contents).unwrap();
        encoder.finish().unwrap()
    }

    fn info(contents: &[u8]) -> FrameInfo {
        FrameInfo::new()
            .block_size(BlockSize::Max64KB)
            .content_size(Some(contents.len() as u64))
            .content_checksum(true)
    }

    fn unpack(bytes: &[u8]) -> Result<Vec<u8>, PackedError> {
        let mut packed = Packed::read(bytes)?;
        let (mut contents, mut room) = (Vec::new(), vec![0; BLOCK]);
        while let Some(part) = packed.next(&mut room)? {
            contents.extend_from_slice(part);
        }
        assert_eq!(contents.len() as u64, packed.length());
        Ok(contents)
    }

    /// Bytes that can be compressed, and a stretch of which cannot.
    fn contents(length: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let byte = |position: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            if (70_000..150_000).contains(&position) {
                (state >> 24) as u8
            } else {
                (position / 100) as u8
            }
        };
        (0..length).map(byte).collect()
    }

    #[test]
    fn what_was_packed_comes_out() {
        for length in [0, 1, 12, 13, BLOCK - 1, BLOCK, BLOCK + 1, 300_000] {
            let contents = contents(length);
            let packed = pack(&contents, info(&contents));
            assert_eq!(unpack(&packed).as_ref(), Ok(&contents), "{length} bytes");
        }
        let large = contents(300_000);
        assert!(pack(&large, info(&large)).len() < 150_000);
    }

    #[test]
    fn every_cut_is_noticed() {
        let contents = contents(500);
        let packed = pack(&contents, info(&contents));
        for length in 0..packed.len() {
            assert!(unpack(&packed[..length]).is_err(), "{length} bytes");
        }
        assert!(unpack(&[packed, vec![0]].concat()).is_err());
    }

    #[test]
    fn every_damaged_byte_is_noticed() {
        let contents = contents(500);
        let packed = pack(&contents, info(&contents));
        for position in 0..packed.len() {
            for value in [0x00, 0x01, 0x7f, 0x80, 0xff] {
                let mut damaged = packed.clone();
                if damaged[position] != value {
                    damaged[position] = value;
                    assert!(unpack(&damaged).is_err(), "byte {position} as {value:#x}");
                }
            }
        }
    }

    #[test]
    fn frames_of_another_kind_are_refused() {
        let contents = contents(70_000);
        let good = || info(&contents);
        for info in [
            good().content_checksum(false),
            good().content_size(None),
            good().block_mode(BlockMode::Linked),
            good().block_size(BlockSize::Max256KB),
            good().block_checksums(true),
        ] {
            let unpacked = unpack(&pack(&contents, info.clone()));
            // Two of these change how long the beginning is, so that its sum is looked for elsewhere.
            assert!(
                matches!(
                    unpacked,
                    Err(PackedError::Unsuitable | PackedError::Damaged)
                ),
                "{info:?}"
            );
        }
        assert_eq!(unpack(b"\x7fELF"), Err(PackedError::NotAFrame));
        assert_eq!(unpack(b""), Err(PackedError::NotAFrame));
    }
}
