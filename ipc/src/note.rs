//! The ELF note (System V ABI, chapter 5, "Note Section") in which the kernel and every program say which
//! version they are. It is there for who inspects an image: nobody in the guest reads it.

/// The note's owner, without the zero byte at its end.
pub const OWNER: &[u8] = b"Uzura";

/// The note's type: its bytes are the version of the package that the file was built from, as text.
pub const VERSION: u32 = 1;

/// Puts the note into the file that the calling package is linked into. Once in each; the section is
/// `.note.uzura`.
#[macro_export]
macro_rules! version_note {
    () => {
        #[cfg(target_os = "none")]
        ::core::arch::global_asm!(
            ".pushsection .note.uzura, \"a\", @note",
            ".balign 4",
            ".long 6, 3f - 2f, {kind}",
            ".asciz \"Uzura\"",
            ".balign 4",
            concat!("2: .ascii \"", env!("CARGO_PKG_VERSION"), "\""),
            "3: .balign 4",
            ".popsection",
            kind = const $crate::note::VERSION,
        );
    };
}
