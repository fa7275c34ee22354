//! The names of the kernel's own functions, for a panic: the symbol table that the host tool has put into the
//! boot archive. Looking one up takes no memory and no lock. Without the table there are no names, and
//! everything else is as it was.
#![expect(unsafe_code, reason = "the linker says which build this is")]

use crate::kernel;
use crate::uart::say;
use boot::BootInfo;
use ipc::symbols::{Function, KERNEL_FILE, Symbols};
use kernel_core::archive;
use spin::Once;

/// The table, once it is known to be whole and this build's.
static TABLE: Once<Symbols<'static>> = Once::new();

unsafe extern "C" {
    /// What the linker has put into the image (`boot/kernel.ld`).
    static __build_id: [u8; 8];
}

/// Finds the table in the boot archive. Called once, when the direct map is loaded; says what is wrong with
/// a table that cannot be used.
pub(crate) fn find(info: &BootInfo) {
    let Some(archive) = info.archive else {
        return;
    };
    // A damaged archive is told by whoever cannot do without it.
    let Ok(bytes) = archive::find(kernel::archive_bytes(info, archive), KERNEL_FILE) else {
        return;
    };
    // SAFETY: eight bytes of the image's constants, which nothing ever writes.
    let build = u64::from_le_bytes(unsafe { __build_id });
    match Symbols::read(bytes) {
        Ok(table) if table.image() == build => {
            TABLE.call_once(|| table);
        }
        Ok(_) => say!("{KERNEL_FILE} in the boot archive is another build's: a panic has no names"),
        Err(error) => say!("{KERNEL_FILE} in the boot archive is {error}: a panic has no names"),
    }
}

/// The function that an address lies in.
pub(crate) fn function(address: u64) -> Option<Function> {
    TABLE.get()?.find(address)
}
