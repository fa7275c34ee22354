//! Making tasks and threads, and giving handles.

use crate::frames::Frame;
use crate::handles::Held;
use crate::kernel::{Kernel, Next, Outcome};
use crate::object::Object;
use crate::page_table::PageSize;
use crate::platform::{Access, Caching, Platform};
use crate::quota::Quota;
use crate::rendezvous::send_target;
use crate::sync::Ordering;
use crate::task::Task;
use crate::thread::{Thread, Wait};
use ipc::layout::{CLOCK_PAGE, PAGE_BYTES, USER_END};
use ipc::{Error, Rights};

/// Data and stack selectors of ring 3 are the mechanism's; a fresh thread enters by IRETQ with these
/// flags: interrupts on (bit 9) and the bit that is always one (Intel SDM volume 1, section 3.4.3).
const FIRST_FLAGS: u64 = 1 << 9 | 1 << 1;

/// What a new thread begins with.
#[derive(Clone, Copy, Debug)]
pub struct ThreadStart {
    /// First instruction.
    pub entry: u64,
    /// Stack pointer.
    pub stack: u64,
    /// Arguments: `rdi`, `rsi`, `rdx`. A `rdx` of 0 becomes the address of the IPC buffer.
    pub arguments: [u64; 3],
    /// FS base.
    pub fs_base: u64,
    /// Priority.
    pub priority: u8,
    /// Whether it uses the FPU.
    pub uses_fpu: bool,
}

impl<P: Platform> Kernel<P> {
    /// Hands an object to a thread's task as a new handle in `rdi`, and drops the caller's
    /// reference, also on failure.
    ///
    /// # Errors
    /// TableFull, OutOfQuota, OutOfMemory.
    pub fn give_handle(
        &'static self,
        thread: &'static Thread,
        object: Object,
        rights: Rights,
    ) -> Outcome {
        let task = thread.task();
        let handle = task
            .handles
            .insert(self, task.quota(), Held { object, rights });
        self.drop_reference(object);
        thread.registers.rdi.set(handle?.0);
        Ok(Next::Return)
    }

    /// A zeroed frame, charged to a quota.
    ///
    /// # Errors
    /// OutOfQuota, OutOfMemory.
    pub fn charged_frame(&'static self, quota: &'static Quota) -> Result<Frame, Error> {
        quota.charge(PAGE_BYTES)?;
        let Some(frame) = self.frames.allocate(0) else {
            quota.credit(self, PAGE_BYTES);
            return Err(Error::OutOfMemory);
        };
        self.zero(frame);
        Ok(frame)
    }

    /// Makes an empty task, with one reference that the caller owns. The task takes the quota over,
    /// which is closed where making it fails. It counts the fault endpoint, to which the caller has a
    /// reference.
    ///
    /// # Errors
    /// OutOfQuota, OutOfMemory, WrongKind (the fault target is no endpoint).
    pub fn make_task(
        &'static self,
        maker: &'static Quota,
        quota: &'static Quota,
        fault: Option<Object>,
        max_priority: u8,
    ) -> Result<&'static Task, Error> {
        let close = |_: &Error| quota.close(self);
        if let Some(fault) = fault {
            send_target(fault).inspect_err(close)?;
        }
        let root = self.charged_frame(quota).inspect_err(close)?;
        let undo = |error: &Error| {
            self.frames.free(root, 0);
            quota.credit(self, PAGE_BYTES);
            close(error);
        };
        let task = self.tasks.allocate(self, maker).inspect_err(undo)?;
        self.platform.install_kernel_half(root);
        task.reset(self.tagged_root(task, root), quota, max_priority);
        if let Some(fault) = fault {
            if let Some(slot) = fault.slot() {
                slot.reference();
            }
            task.fault.set(Some(fault));
        }
        let clock = self.platform.clock_frame();
        let mapped = self.map_kernel_page(task, CLOCK_PAGE, clock, false);
        if let Err(error) = mapped {
            // Its end closes the quota.
            self.destroy_task(task);
            self.drop_reference(Object::Task(task));
            return Err(error);
        }
        Ok(task)
    }

    fn map_kernel_page(
        &'static self,
        task: &'static Task,
        address: u64,
        frame: Frame,
        write: bool,
    ) -> Result<(), Error> {
        let mut space = task.space.lock();
        let access = Access {
            write,
            execute: false,
        };
        self.map_page(
            task,
            &mut space,
            address,
            frame,
            PageSize::Small,
            access,
            Caching::WriteBack,
        )
        .map_err(|_| Error::OutOfQuota)
    }

    /// TaskCreate.
    pub fn create_task(
        &'static self,
        thread: &'static Thread,
        bytes: u64,
        fault: Option<Object>,
        max_priority: u64,
    ) -> Outcome {
        let maker = thread.task();
        // No task can make one that is more urgent than it could be itself.
        let most = u64::from(maker.max_priority.load(Ordering::Relaxed));
        if !bytes.is_multiple_of(PAGE_BYTES) || bytes == 0 || max_priority > most {
            return Err(Error::InvalidArgument);
        }
        let make = || {
            let quota = maker.quota().carve(self, bytes)?;
            self.make_task(maker.quota(), quota, fault, max_priority as u8)
        };
        let task = match fault {
            Some(fault) => self.holding(fault, make),
            None => make(),
        }?;
        self.give_handle(thread, Object::Task(task), Rights::ALL)
    }

    /// TaskGrant.
    pub fn grant(
        &'static self,
        thread: &'static Thread,
        task: &'static Task,
        held: Held,
        rights: Rights,
    ) -> Outcome {
        let held = Held {
            object: held.object,
            rights: held.rights.intersection(rights),
        };
        let _hold = task.hold()?;
        let insert = || task.handles.insert(self, task.quota(), held);
        let handle = self.holding(held.object, insert)?;
        thread.registers.rdi.set(handle.0);
        Ok(Next::Return)
    }

    /// Makes a thread, stopped, that the task keeps; returns it with one reference that the caller
    /// owns.
    ///
    /// # Errors
    /// InvalidArgument, TableFull (threads of the task), OutOfQuota, OutOfMemory, Destroyed.
    pub fn make_thread(
        &'static self,
        task: &'static Task,
        start: ThreadStart,
    ) -> Result<&'static Thread, Error> {
        if start.entry >= USER_END || start.stack > USER_END || start.fs_base >= USER_END {
            return Err(Error::InvalidArgument);
        }
        let _hold = task.hold()?;
        let thread: &'static Thread = self.threads.allocate(self, task.quota())?;
        let prepared = self.prepare_thread(thread, task, start);
        if let Err(error) = prepared {
            self.threads.retire(self, thread);
            return Err(error);
        }
        // One reference for the caller, one for the living thread itself, one of it to its task.
        thread.slot.reference();
        task.slot.reference();
        thread.publish(Wait::Start);
        task.threads().push_back(thread);
        Ok(thread)
    }

    /// Gives a thread its buffer, registers and parameters.
    fn prepare_thread(
        &'static self,
        thread: &'static Thread,
        task: &'static Task,
        start: ThreadStart,
    ) -> Result<(), Error> {
        thread.reset(task, start.priority);
        let quota = task.quota();
        let frame = self.charged_frame(quota)?;
        let undo = |slot: Option<u32>| {
            self.frames.free(frame, 0);
            quota.credit(self, PAGE_BYTES);
            if let Some(slot) = slot {
                task.give_buffer_slot(slot);
            }
        };
        let slot = task
            .take_buffer_slot()
            .ok_or(Error::TableFull)
            .inspect_err(|_| undo(None))?;
        let address = Task::buffer_address(slot);
        self.map_kernel_page(task, address, frame, true)
            .inspect_err(|_| undo(Some(slot)))?;
        thread.buffer_frame.store(frame.0, Ordering::Relaxed);
        thread.buffer_slot.store(slot, Ordering::Relaxed);
        thread.buffer.set(Some(self.platform.words(frame)));
        if start.uses_fpu {
            let area = self
                .charged_frame(quota)
                .inspect_err(|_| self.undo_thread(thread, task))?;
            self.platform.fpu_initialise(area);
            thread.fpu_frame.store(area.0, Ordering::Relaxed);
            thread.uses_fpu.store(true, Ordering::Relaxed);
        }
        let registers = &thread.registers;
        registers.clear();
        registers.entry.set(1);
        registers.rip.set(start.entry);
        registers.rsp.set(start.stack);
        registers.rflags.set(FIRST_FLAGS);
        registers.fs_base.set(start.fs_base);
        registers.rdi.set(start.arguments[0]);
        registers.rsi.set(start.arguments[1]);
        registers.rdx.set(if start.arguments[2] == 0 {
            address
        } else {
            start.arguments[2]
        });
        let (code, stack) = self.platform.user_selectors();
        registers.cs.set(code);
        registers.ss.set(stack);
        Ok(())
    }

    /// Takes back what a thread that never stood in its task's list was given.
    fn undo_thread(&'static self, thread: &'static Thread, task: &'static Task) {
        self.take_buffer(thread, task);
        if let Some(area) = thread.fpu_area() {
            thread.fpu_frame.store(0, Ordering::Relaxed);
            self.frames.free(area, 0);
            task.quota().credit(self, PAGE_BYTES);
        }
    }

    /// ThreadCreate.
    pub fn create_thread(
        &'static self,
        thread: &'static Thread,
        task: &'static Task,
        start: ThreadStart,
    ) -> Outcome {
        if start.priority > task.max_priority.load(Ordering::Relaxed) {
            return Err(Error::InvalidArgument);
        }
        let made = self.holding(Object::Task(task), || self.make_thread(task, start))?;
        let address = Task::buffer_address(made.buffer_slot.load(Ordering::Relaxed));
        thread.registers.rsi.set(address);
        self.give_handle(thread, Object::Thread(made), Rights::ALL)
            .inspect_err(|_| {
                made.doom();
                self.end_thread(made);
            })
    }

    /// Starts a thread that was never started; false if it was.
    pub fn start_thread(&'static self, thread: &'static Thread) -> bool {
        if !thread.claim_start() {
            return false;
        }
        self.make_ready(self.here(), thread);
        true
    }
}
