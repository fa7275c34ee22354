//! The layout of a message: the tag, the words that travel in registers, and the IPC buffer.
//!
//! A message is a label, up to [`MAX_BYTES`] bytes and up to [`MAX_HANDLES`] handles. Its first
//! [`REGISTER_BYTES`] bytes travel in the message registers, the rest at the same offset in the two
//! threads' IPC buffers (the first bytes of the buffer are not used).

/// Largest number of bytes in a message.
pub const MAX_BYTES: usize = 4000;
/// Bytes that travel in registers.
pub const REGISTER_BYTES: usize = 32;
/// Largest number of handles in a message.
pub const MAX_HANDLES: usize = 4;
/// Size of an IPC buffer in bytes: one page, pinned, made and owned by the kernel.
pub const BUFFER_BYTES: usize = 4096;
/// Offset in the IPC buffer of the handles to send: [`MAX_HANDLES`] pairs of quadwords
/// (handle, [`Transfer`] word).
pub const SEND_HANDLES_OFFSET: usize = 4000;
/// Offset in the IPC buffer of the handles received: [`MAX_HANDLES`] quadwords.
pub const RECEIVED_HANDLES_OFFSET: usize = 4064;
/// A deadline that never comes.
pub const NEVER: u64 = u64::MAX;

/// What a message says it is: a number that the interface defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Label(pub u32);

impl Label {
    /// Kernel message: signals of the bound notification arrived; word 0 has the bits.
    pub const SIGNAL: Label = Label(1);
    /// Kernel message: the last handle of the badge was closed.
    pub const CLOSED: Label = Label(2);
    /// Kernel message: a thread faulted and waits for the reply; see [`crate::info::FaultMessage`].
    pub const FAULT: Label = Label(3);
}

/// Label, length and handle count of a message, as one register.
///
/// | bits | meaning |
/// |---|---|
/// | 0..32 | label |
/// | 32..44 | length in bytes, 0 to 4,000 |
/// | 44..47 | number of handles carried, 0 to 4 |
/// | 47..50 | in a receiving operation's argument: number of handles accepted, 0 to 4 |
/// | 63 | the kernel wrote this message; cleared in what a task sends |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Tag(pub u64);

impl Tag {
    /// Bit of a message that the kernel wrote.
    pub const KERNEL: u64 = 1 << 63;

    /// A tag for a message of `length` bytes and `handles` handles. Values beyond the maxima are
    /// kept as far as the fields hold them, and refused by the kernel.
    pub const fn new(label: Label, length: usize, handles: usize) -> Tag {
        Tag(label.0 as u64 | (length as u64 & 0xfff) << 32 | (handles as u64 & 7) << 44)
    }

    /// The tag with the number of handles that the sender of it accepts in return.
    pub const fn accepting(self, handles: usize) -> Tag {
        Tag(self.0 & !(7 << 47) | (handles as u64 & 7) << 47)
    }

    /// The label.
    pub const fn label(self) -> Label {
        Label(self.0 as u32)
    }

    /// Length of the message in bytes.
    pub const fn length(self) -> usize {
        (self.0 >> 32 & 0xfff) as usize
    }

    /// Number of handles carried.
    pub const fn handles(self) -> usize {
        (self.0 >> 44 & 7) as usize
    }

    /// Number of handles accepted in return.
    pub const fn accepted(self) -> usize {
        (self.0 >> 47 & 7) as usize
    }

    /// Whether the kernel wrote the message.
    pub const fn is_kernel(self) -> bool {
        self.0 & Self::KERNEL != 0
    }

    /// Whether the lengths are within [`MAX_BYTES`] and [`MAX_HANDLES`].
    pub const fn is_valid(self) -> bool {
        self.length() <= MAX_BYTES
            && self.handles() <= MAX_HANDLES
            && self.accepted() <= MAX_HANDLES
    }
}

/// How a handle goes with a message: bits 0..32 are the rights that the receiver gets (those that
/// the sender's handle has as well), bit 32 says copy; without it the handle moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Transfer(pub u64);

impl Transfer {
    /// Bit of a copy.
    pub const COPY: u64 = 1 << 32;

    /// The handle moves to the receiver with at most these rights.
    pub const fn moved(rights: crate::Rights) -> Transfer {
        Transfer(rights.0 as u64)
    }

    /// The receiver gets a handle of its own with at most these rights.
    pub const fn copied(rights: crate::Rights) -> Transfer {
        Transfer(rights.0 as u64 | Self::COPY)
    }

    /// The rights that the receiver may get.
    pub const fn rights(self) -> crate::Rights {
        crate::Rights(self.0 as u32)
    }

    /// Whether the sender keeps its handle.
    pub const fn is_copy(self) -> bool {
        self.0 & Self::COPY != 0
    }
}

#[cfg(test)]
mod tests {
    use super::{Label, MAX_BYTES, Tag};

    #[test]
    fn a_tag_keeps_its_fields_apart() {
        let tag = Tag::new(Label(0xdead_beef), MAX_BYTES, 4).accepting(3);
        assert_eq!(
            (tag.label(), tag.length(), tag.handles()),
            (Label(0xdead_beef), MAX_BYTES, 4)
        );
        assert_eq!(tag.accepted(), 3);
        assert!(tag.is_valid() && !tag.is_kernel());
        assert!(!Tag::new(Label(0), MAX_BYTES + 1, 0).is_valid());
        assert!(!Tag::new(Label(0), 0, 5).is_valid());
        assert!(!Tag(0).accepting(5).is_valid());
    }
}
