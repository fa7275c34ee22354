//! The start of init: the one task that the kernel makes by itself, from the boot archive, with every
//! root capability.

use crate::archive;
use crate::create::ThreadStart;
use crate::elf::{Program, Segment};
use crate::frames::Frame;
use crate::handles::Held;
use crate::kernel::Kernel;
use crate::mapping::MapRequest;
use crate::memory::{Memory, MemoryKind};
use crate::object::Object;
use crate::platform::{Access, Caching, Platform};
use crate::sync::Ordering;
use crate::task::Task;
use ipc::layout::{INIT_ARCHIVE, INIT_STACK_BYTES, INIT_STACK_END, PAGE_BYTES, init_handles};
use ipc::startup::thread_block;
use ipc::{Error, Handle, Rights};

/// Priority of init: the highest, because everybody may call it in the end.
const INIT_PRIORITY: u8 = 63;

/// Why init could not be started.
#[derive(Clone, Copy, Debug)]
pub enum StartError {
    /// The boot archive is damaged or has no init.
    Archive(archive::ArchiveError),
    /// Init is no executable that can be loaded.
    Program(crate::elf::ProgramError),
    /// The kernel had no room.
    Kernel(Error),
}

impl core::fmt::Display for StartError {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            StartError::Archive(error) => write!(formatter, "boot archive: {error}"),
            StartError::Program(error) => write!(formatter, "init: {error}"),
            StartError::Kernel(error) => write!(formatter, "init: {error}"),
        }
    }
}

impl core::error::Error for StartError {}

impl From<Error> for StartError {
    fn from(error: Error) -> Self {
        StartError::Kernel(error)
    }
}

impl<P: Platform> Kernel<P> {
    /// Makes init and starts its first thread. `archive` is the boot archive, page-aligned at
    /// physical address `base`, in RAM that the frame table does not have.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start_init(&'static self, archive: &'static [u8], base: u64) -> Result<(), StartError> {
        self.root_quota
            .set_limit(self.frames.free_count() * PAGE_BYTES);
        let file = archive::find(archive, archive::INIT).map_err(StartError::Archive)?;
        let program = Program::read(file).map_err(StartError::Program)?;
        let quota = &self.root_quota;
        let task = self.make_task(quota, quota, None, INIT_PRIORITY)?;
        for segment in program.segments() {
            self.load_segment(task, &segment)?;
        }
        let stack = self.whole_memory(INIT_STACK_BYTES / PAGE_BYTES)?;
        self.map_for_init(task, stack, INIT_STACK_END - INIT_STACK_BYTES, true, false)?;
        let pages = (archive.len() as u64).div_ceil(PAGE_BYTES);
        let frame = Frame::from_address(base).ok_or(Error::InvalidArgument)?;
        let kind = MemoryKind::Reserved;
        let memory = self.make_fixed_memory(quota, frame, pages, kind, Caching::WriteBack)?;
        memory.slot.reference();
        self.map_for_init(task, memory, INIT_ARCHIVE, false, false)?;
        let start = ThreadStart {
            entry: program.entry(),
            stack: thread_block(INIT_STACK_END),
            arguments: [INIT_ARCHIVE, archive.len() as u64, 0],
            fs_base: thread_block(INIT_STACK_END),
            priority: INIT_PRIORITY,
            uses_fpu: false,
        };
        let thread = self.make_thread(task, start)?;
        self.init_number
            .store(task.slot.number(), Ordering::Relaxed);
        let archive_rights = Rights::READ | Rights::DUPLICATE;
        let handles: [(Handle, Object, Rights); 7] = [
            (init_handles::TASK, Object::Task(task), Rights::ALL),
            (init_handles::THREAD, Object::Thread(thread), Rights::ALL),
            (
                init_handles::DEVICE_CONTROL,
                Object::DeviceControl,
                Rights::ALL,
            ),
            (
                init_handles::SCHED_CONTROL,
                Object::SchedControl,
                Rights::ALL,
            ),
            (
                init_handles::SYSTEM_CONTROL,
                Object::SystemControl,
                Rights::ALL,
            ),
            (init_handles::TRACE, Object::Trace, Rights::ALL),
            (
                init_handles::ARCHIVE,
                Object::Memory(memory),
                archive_rights,
            ),
        ];
        for (expected, object, rights) in handles {
            let handle = task.handles.insert(self, quota, Held { object, rights })?;
            assert!(handle == expected, "init's handles are where the ABI says");
            self.drop_reference(object);
        }
        self.start_thread(thread);
        Ok(())
    }

    /// Memory with all its frames, made in one go: nothing else runs yet.
    fn whole_memory(&'static self, pages: u64) -> Result<&'static Memory, Error> {
        let memory = self.begin_memory(&self.root_quota, pages, false)?;
        while !self.fill_step(memory, pages)? {}
        Ok(memory)
    }

    /// Maps memory into init and drops the reference to it: the mapping has its own.
    fn map_for_init(
        &'static self,
        task: &'static Task,
        memory: &'static Memory,
        address: u64,
        write: bool,
        execute: bool,
    ) -> Result<(), Error> {
        let access = Access { write, execute };
        let request = MapRequest {
            address,
            offset: 0,
            pages: memory.pages(),
            access,
        };
        self.map_whole(task, memory, request)?;
        self.drop_reference(Object::Memory(memory));
        Ok(())
    }

    fn load_segment(
        &'static self,
        task: &'static Task,
        segment: &Segment<'_>,
    ) -> Result<(), Error> {
        let memory = self.whole_memory(segment.bytes / PAGE_BYTES)?;
        for (position, byte) in segment.data.iter().enumerate() {
            let offset = segment.offset + position as u64;
            let (frame, _) = self.frame_of(memory, offset / PAGE_BYTES);
            let word = &self.platform.words(frame)[(offset % PAGE_BYTES / 8) as usize];
            let shifted = u64::from(*byte) << (offset % 8 * 8);
            word.store(word.load(Ordering::Relaxed) | shifted, Ordering::Relaxed);
        }
        let Access { write, execute } = segment.access;
        self.map_for_init(task, memory, segment.address, write, execute)
    }
}
