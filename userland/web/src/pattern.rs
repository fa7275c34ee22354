//! The data that `/bytes/N` sends: the first N bytes of one endless sequence, which a test can make
//! on its own.
//!
//! The sequence is the words w(0), w(1), ... as eight bytes each, the least significant first, with
//!
//! ```text
//! x = (k + 1) * 0x9e3779b97f4a7c15   (modulo 2^64)
//! w(k) = x ^ (x >> 32)
//! ```
//!
//! The multiplier is 2^64 divided by the golden ratio (Knuth, The Art of Computer Programming, volume
//! 3, section 6.4): neighbouring words differ in about half of their bits.

const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// Word number `index` of the sequence.
pub const fn word(index: u64) -> u64 {
    let product = index.wrapping_add(1).wrapping_mul(MULTIPLIER);
    product ^ product >> 32
}

/// Writes the part of the sequence that begins at byte `position`.
pub fn fill(position: u64, into: &mut [u8]) {
    let within = (position % 8) as usize;
    let head = if within == 0 {
        0
    } else {
        (8 - within).min(into.len())
    };
    let (first, rest) = into.split_at_mut(head);
    let bytes = word(position / 8).to_le_bytes();
    for (byte, value) in first.iter_mut().zip(bytes.iter().skip(within)) {
        *byte = *value;
    }
    let mut index = position.div_ceil(8);
    let (words, tail) = rest.as_chunks_mut::<8>();
    for slot in words {
        *slot = word(index).to_le_bytes();
        index += 1;
    }
    for (byte, value) in tail.iter_mut().zip(word(index).to_le_bytes()) {
        *byte = value;
    }
}

#[cfg(test)]
mod tests {
    use super::fill;

    #[test]
    fn the_sequence_is_the_documented_one() {
        let mut bytes = [0; 24];
        fill(0, &mut bytes);
        for (number, word) in bytes.chunks(8).enumerate() {
            let x = (number as u128 + 1) * 0x9e37_79b9_7f4a_7c15 % (1 << 64);
            let expected = (x as u64) ^ ((x as u64) >> 32);
            assert_eq!(word, expected.to_le_bytes());
        }
    }

    #[test]
    fn every_part_is_the_same_as_in_the_whole() {
        let mut whole = [0; 64];
        fill(0, &mut whole);
        for start in 0..40 {
            for length in 0..24 {
                let mut part = vec![0; length];
                fill(start as u64, &mut part);
                assert_eq!(part, whole[start..start + length], "{start} {length}");
            }
        }
    }
}
