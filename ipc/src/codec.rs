//! The encoding of messages, the startup block and the manifest: postcard, and this is the only
//! module that names it. Input from a peer is hostile: whatever it holds, the worst that comes of
//! it is an error value.

use serde::{Deserialize, Serialize};

/// Why a value could not be encoded or decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodecError {
    /// The encoding does not fit the buffer (of a message: [`crate::message::MAX_BYTES`]).
    TooLong,
    /// The bytes are no encoding of the type, or go on after it.
    Malformed,
}

impl core::fmt::Display for CodecError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str(match self {
            CodecError::TooLong => "the value does not fit the message",
            CodecError::Malformed => "the message is malformed",
        })
    }
}

impl core::error::Error for CodecError {}

/// Encodes a value at the start of a buffer and returns the number of bytes used. The rest of the
/// buffer is unspecified afterwards, all of it after an error.
pub fn encode<T: Serialize + ?Sized>(value: &T, buffer: &mut [u8]) -> Result<usize, CodecError> {
    match postcard::to_slice(value, buffer) {
        Ok(used) => Ok(used.len()),
        Err(_) => Err(CodecError::TooLong),
    }
}

/// Decodes a value that fills the bytes exactly. What the type borrows, it borrows from `bytes`.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, CodecError> {
    match decode_first(bytes)? {
        (value, []) => Ok(value),
        _ => Err(CodecError::Malformed),
    }
}

/// Decodes a value at the start of the bytes and returns the bytes after it as well.
pub fn decode_first<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<(T, &'a [u8]), CodecError> {
    postcard::take_from_bytes(bytes).map_err(|_| CodecError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::{CodecError, decode, decode_first, encode};

    #[test]
    fn values_round_trip_and_borrow() {
        let mut buffer = [0; 32];
        let length = encode(&(7u32, "quail", &b"egg"[..]), &mut buffer).unwrap();
        let (number, name, bytes): (u32, &str, &[u8]) = decode(&buffer[..length]).unwrap();
        assert_eq!((number, name, bytes), (7, "quail", &b"egg"[..]));
    }

    #[test]
    fn a_value_that_does_not_fit_is_refused() {
        assert_eq!(encode(&[1u8; 32], &mut [0; 31]), Err(CodecError::TooLong));
    }

    #[test]
    fn truncated_and_overlong_input_is_refused() {
        let mut buffer = [0; 32];
        let length = encode("quail", &mut buffer).unwrap();
        assert_eq!(
            decode::<&str>(&buffer[..length - 1]),
            Err(CodecError::Malformed)
        );
        assert_eq!(
            decode::<&str>(&buffer[..length + 1]),
            Err(CodecError::Malformed)
        );
        let (text, rest) = decode_first::<&str>(&buffer).unwrap();
        assert_eq!((text, rest.len()), ("quail", 32 - length));
    }
}
