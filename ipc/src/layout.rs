//! The user address map: what lies where in every task.

/// Size of a page and of a frame in bytes.
pub const PAGE_BYTES: u64 = 4096;
/// Size of a large page in bytes.
pub const LARGE_PAGE_BYTES: u64 = 2 * 1024 * 1024;
/// First address that can be mapped: below it nothing ever is, so that a null pointer faults.
pub const USER_START: u64 = 0x1_0000;
/// End (exclusive) of what a task can map. Above it, up to the end of the lower canonical half
/// (Intel SDM volume 1, section 3.3.7.1), lie the kernel's pages for ring 3 and an unmapped rest.
pub const USER_END: u64 = 0x7fff_0000_0000;
/// The clock page, read-only in every task; see [`crate::info::ClockPage`].
pub const CLOCK_PAGE: u64 = 0x7fff_0000_0000;
/// Where threads' IPC buffers appear: the thread's slot number times [`IPC_BUFFER_STRIDE`].
/// The page after each is never mapped.
pub const IPC_BUFFERS: u64 = 0x7fff_1000_0000;
/// Distance of two IPC buffers in bytes.
pub const IPC_BUFFER_STRIDE: u64 = 2 * PAGE_BYTES;
/// Largest number of threads of one task.
pub const MAX_THREADS_PER_TASK: usize = 1024;
/// What init finds in its handle table when it starts, by index; the generation of each is 1.
pub mod init_handles {
    use crate::Handle;

    /// Init's own task.
    pub const TASK: Handle = Handle::new(1, 1);
    /// Init's first thread.
    pub const THREAD: Handle = Handle::new(2, 1);
    /// DeviceControl with all rights.
    pub const DEVICE_CONTROL: Handle = Handle::new(3, 1);
    /// SchedControl with all rights.
    pub const SCHED_CONTROL: Handle = Handle::new(4, 1);
    /// SystemControl with all rights.
    pub const SYSTEM_CONTROL: Handle = Handle::new(5, 1);
    /// Trace with all rights.
    pub const TRACE: Handle = Handle::new(6, 1);
    /// The boot archive: Memory with READ. Init starts with `rdi` = its address (the kernel maps it
    /// there, read-only) and `rsi` = its length in bytes, `rdx` = address of the first thread's IPC
    /// buffer; `rsp` and FS base are [`crate::startup::thread_block`] of [`super::INIT_STACK_END`].
    pub const ARCHIVE: Handle = Handle::new(7, 1);
}

/// Where the kernel maps the boot archive in init.
pub const INIT_ARCHIVE: u64 = 0x1000_0000_0000;
/// End (exclusive) of init's first stack, made by the kernel, [`INIT_STACK_BYTES`] long.
pub const INIT_STACK_END: u64 = 0x6fff_f000_0000;
/// Length of init's first stack in bytes.
pub const INIT_STACK_BYTES: u64 = 128 * 1024;
