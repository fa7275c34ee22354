//! The system-call table: which operation takes which arguments, with which rights. One `match`, one
//! line or a few an operation; what an operation does is in its object's module.

use crate::cpu::Cpu;
use crate::create::ThreadStart;
use crate::frames::Frame;
use crate::handles::Held;
use crate::interrupt::{InterruptSource, IoPorts};
use crate::kernel::{Kernel, Next, Outcome};
use crate::mapping::MapRequest;
use crate::memory::{Memory, MemoryKind};
use crate::notification::Notification;
use crate::object::Object;
use crate::platform::{Caching, LineMode, Platform, PowerAction};
use crate::sync::Ordering;
use crate::task::Task;
use crate::thread::{PRIORITIES, Thread};
use crate::trace::Kind as TraceKind;
use ipc::info::ThreadParameter;
use ipc::layout::PAGE_BYTES;
use ipc::{Error, Handle, Operation, Rights};

/// Largest device range in bytes: as far as frame numbers reach.
const DEVICE_LIMIT: u64 = 1 << 44;

/// The arguments of a system call.
struct Call {
    thread: &'static Thread,
    a: [u64; 6],
    deadline: u64,
}

impl Call {
    fn read(thread: &'static Thread) -> Call {
        let r = &thread.registers;
        let a = [
            r.rdi.get(),
            r.rsi.get(),
            r.rdx.get(),
            r.r8.get(),
            r.r9.get(),
            r.r10.get(),
        ];
        Call {
            thread,
            a,
            deadline: r.r12.get(),
        }
    }

    /// What the handle in an argument stands for.
    fn held(&self, argument: usize) -> Result<Held, Error> {
        self.thread.task().handles.look_up(Handle(self.a[argument]))
    }

    fn notification(
        &self,
        argument: usize,
        rights: Rights,
    ) -> Result<&'static Notification, Error> {
        let held = self.held(argument)?;
        let Object::Notification(notification) = held.object else {
            return Err(Error::WrongKind);
        };
        held.require(rights)?;
        Ok(notification)
    }

    fn memory(&self, argument: usize, rights: Rights) -> Result<&'static Memory, Error> {
        let held = self.held(argument)?;
        let Object::Memory(memory) = held.object else {
            return Err(Error::WrongKind);
        };
        held.require(rights)?;
        Ok(memory)
    }

    fn task(&self, argument: usize, rights: Rights) -> Result<&'static Task, Error> {
        let held = self.held(argument)?;
        let Object::Task(task) = held.object else {
            return Err(Error::WrongKind);
        };
        held.require(rights)?;
        Ok(task)
    }

    fn other_thread(&self, argument: usize) -> Result<&'static Thread, Error> {
        let held = self.held(argument)?;
        let Object::Thread(thread) = held.object else {
            return Err(Error::WrongKind);
        };
        held.require(Rights::CONTROL)?;
        Ok(thread)
    }

    fn device_control(&self) -> Result<(), Error> {
        match self.held(0)?.object {
            Object::DeviceControl => Ok(()),
            _ => Err(Error::WrongKind),
        }
    }

    pub(crate) fn system_control(&self, rights: Rights) -> Result<(), Error> {
        let held = self.held(0)?;
        let Object::SystemControl = held.object else {
            return Err(Error::WrongKind);
        };
        held.require(rights).map(drop)
    }
}

impl<P: Platform> Kernel<P> {
    /// A system call of this CPU's thread: its number and arguments are in its registers.
    pub fn system_call(&'static self, cpu: &'static Cpu) {
        self.enter(cpu);
        cpu.counters.system_calls.add(1);
        let Some(thread) = cpu.current.get() else {
            return;
        };
        let number = thread.registers.rax.get();
        self.trace(cpu, TraceKind::SystemCall, number, thread.slot.number());
        let outcome = match Operation::from_number(number) {
            Some(operation) => self.dispatch(cpu, &Call::read(thread), operation),
            None => Err(Error::InvalidOperation),
        };
        self.apply(cpu, thread, outcome);
    }

    fn dispatch(&'static self, cpu: &'static Cpu, call: &Call, operation: Operation) -> Outcome {
        use Operation as O;
        let (thread, a, deadline) = (call.thread, &call.a, call.deadline);
        match operation {
            O::Call => self.call(cpu, thread, call.held(0)?, deadline),
            O::ReplyReceive => self.reply_receive(cpu, thread, call.held(0)?, deadline),
            O::Receive => self.receive(cpu, thread, call.held(0)?, deadline),
            O::SignalReceive => {
                let notification = call.notification(2, Rights::SIGNAL)?;
                let source = call.held(0)?;
                self.signal_receive(cpu, thread, source, notification, a[3], deadline)
            }
            O::Send => self.send(cpu, thread, call.held(0)?),
            O::Reply => self.reply(cpu, thread, a[0]),
            O::Stash => self.stash(thread),
            O::Signal => self.signal(cpu, call.notification(0, Rights::SIGNAL)?, a[1]),
            O::Wait => self.wait(cpu, thread, call.notification(0, Rights::WAIT)?, deadline),
            O::Yield => self.yield_now(),
            O::Exit => self.exit(thread),
            O::ClockRead => self.read_clock(thread),
            O::FutexWait => self.futex_wait(cpu, thread, a[0], a[1], deadline),
            O::FutexWake => self.futex_wake(cpu, thread, a[0], a[1]),
            O::Close => self.close(thread, Handle(a[0])),
            O::Duplicate => self.duplicate(thread, call.held(0)?, Rights(a[1] as u32)),
            O::HandleInspect => self.inspect_handle(thread, call.held(0)?),
            O::Destroy => {
                let object = call.held_to_destroy()?;
                self.destroy(thread, object)
            }
            O::EndpointCreate => {
                let endpoint = self.make_endpoint(thread.task().quota())?;
                self.give_handle(thread, Object::Endpoint(endpoint), Rights::ALL)
            }
            O::BadgeMint => self.mint(thread, call.held(0)?, a[1]),
            O::NotificationCreate => {
                let notification = self.make_notification(thread.task().quota())?;
                self.give_handle(thread, Object::Notification(notification), Rights::ALL)
            }
            O::NotificationBind if a[0] == 0 => {
                self.unbind_except(thread, None);
                Ok(Next::Return)
            }
            O::NotificationBind => self.bind(thread, call.notification(0, Rights::WAIT)?),
            O::MemoryCreate => self.create_memory(thread, a[0], a[1]),
            O::MemoryDevice => self.create_device_memory(call),
            O::MemoryMap => self.map(call),
            O::MemoryUnmap => self.unmap_memory(call.task(0, Rights::MAP)?, a[1]),
            O::MemoryInspect => self.inspect_memory(thread, call.memory(0, Rights::NONE)?),
            O::MemoryExpose => self.expose_memory(call),
            O::DmaReset => {
                call.device_control()?;
                thread.registers.rdi.set(self.reset_dma());
                Ok(Next::Return)
            }
            O::TaskCreate => self.task_create(call),
            O::TaskGrant => {
                let held = call.held(1)?.require(Rights::DUPLICATE)?;
                self.grant(
                    thread,
                    call.task(0, Rights::GRANT)?,
                    held,
                    Rights(a[2] as u32),
                )
            }
            O::TaskInspect => self.inspect_task(thread, call.task(0, Rights::INSPECT)?),
            O::ThreadCreate => self.thread_create(call),
            O::ThreadSet => self.thread_set(cpu, call),
            O::ThreadInspect => self.inspect_thread(thread, call.other_thread(0)?),
            O::InterruptCreate => self.interrupt_create(call),
            O::InterruptAcknowledge => {
                let held = call.held(0)?;
                let Object::Interrupt(interrupt) = held.object else {
                    return Err(Error::WrongKind);
                };
                held.require(Rights::ACKNOWLEDGE)?;
                self.acknowledge(interrupt)
            }
            O::IoPortsCreate => self.ports_create(call),
            O::IoPortsAttach => self.ports_attach(call),
            O::SystemInspect => {
                call.system_control(Rights::READ_STATE)?;
                self.inspect_system(thread, a[1], a[2])
            }
            O::SystemPower => {
                call.system_control(Rights::POWER)?;
                self.power(a[1])
            }
            O::LogWrite => {
                call.system_control(Rights::LOG)?;
                self.write_log(thread, a[1])
            }
            O::Tunable => self.tunable(thread, call.held(0)?, a[1], a[2], a[3]),
            O::TraceRead => self.read_trace(thread, call.held(0)?, a[1]),
        }
    }

    fn exit(&'static self, thread: &'static Thread) -> Outcome {
        // The way out of the kernel ends it.
        thread.doom();
        Ok(Next::Return)
    }

    fn read_clock(&'static self, thread: &'static Thread) -> Outcome {
        let (now, offset) = (self.platform.now(), self.platform.wall_offset());
        thread.registers.rdi.set(now);
        thread.registers.rsi.set(if offset == 0 {
            0
        } else {
            now.wrapping_add(offset)
        });
        Ok(Next::Return)
    }

    fn close(&'static self, thread: &'static Thread, handle: Handle) -> Outcome {
        thread.task().handles.remove(self, handle)?.release(self);
        Ok(Next::Return)
    }

    /// Duplicate.
    pub(crate) fn duplicate(
        &'static self,
        thread: &'static Thread,
        held: Held,
        rights: Rights,
    ) -> Outcome {
        held.require(Rights::DUPLICATE)?;
        let task = thread.task();
        let copy = Held {
            object: held.object,
            rights: held.rights.intersection(rights),
        };
        let insert = || task.handles.insert(self, task.quota(), copy);
        let handle = self.holding(held.object, insert)?;
        thread.registers.rdi.set(handle.0);
        Ok(Next::Return)
    }

    fn inspect_handle(&'static self, thread: &'static Thread, held: Held) -> Outcome {
        let badge = match held.object {
            Object::Badge(badge) => badge.value(),
            _ => 0,
        };
        thread.registers.rdi.set(held.object.kind() as u64);
        thread.registers.rsi.set(u64::from(held.rights.0));
        thread.registers.rdx.set(badge);
        Ok(Next::Return)
    }

    /// BadgeMint.
    pub(crate) fn mint(&'static self, thread: &'static Thread, held: Held, badge: u64) -> Outcome {
        let Object::Endpoint(endpoint) = held.object else {
            return Err(Error::WrongKind);
        };
        held.require(Rights::MINT)?;
        if badge == 0 {
            return Err(Error::InvalidArgument);
        }
        let quota = thread.task().quota();
        let make = || self.make_badge(endpoint, badge, quota);
        let badge = self.holding(held.object, make)?;
        let rights = Rights::SEND | Rights::DUPLICATE | Rights::TRANSFER;
        self.give_handle(thread, Object::Badge(badge), rights)
    }

    fn create_device_memory(&'static self, call: &Call) -> Outcome {
        call.device_control()?;
        let [_, first, bytes, caching, ..] = call.a;
        let caching = match caching {
            0 => Caching::Uncached,
            1 => Caching::WriteCombining,
            _ => return Err(Error::InvalidArgument),
        };
        let aligned = (first | bytes).is_multiple_of(PAGE_BYTES) && bytes != 0;
        let end = first.checked_add(bytes).filter(|end| *end <= DEVICE_LIMIT);
        if !aligned || end.is_none() || !self.platform.is_device_range(first, bytes) {
            return Err(Error::InvalidArgument);
        }
        let base = Frame::from_address(first).ok_or(Error::InvalidArgument)?;
        let quota = call.thread.task().quota();
        let pages = bytes / PAGE_BYTES;
        let memory = self.make_fixed_memory(quota, base, pages, MemoryKind::Device, caching)?;
        self.give_handle(call.thread, Object::Memory(memory), Rights::ALL)
    }

    fn map(&'static self, call: &Call) -> Outcome {
        let task = call.task(0, Rights::MAP)?;
        let [_, _, address, offset, length, access] = call.a;
        let mut needed = Rights::READ;
        if access & 1 != 0 {
            needed = needed | Rights::WRITE;
        }
        if access & 2 != 0 {
            needed = needed | Rights::EXECUTE;
        }
        let memory = call.memory(1, needed)?;
        let request = MapRequest::check(memory, address, offset, length, access)?;
        self.map_memory(call.thread, task, memory, request)
    }

    fn expose_memory(&'static self, call: &Call) -> Outcome {
        call.device_control()?;
        if call.a[2] > 1 {
            return Err(Error::InvalidArgument);
        }
        let memory = call.memory(1, Rights::NONE)?;
        call.thread
            .registers
            .rdi
            .set(self.expose(memory, call.a[2] == 1)?);
        Ok(Next::Return)
    }

    fn task_create(&'static self, call: &Call) -> Outcome {
        let own = call.task(0, Rights::CREATE)?;
        if !core::ptr::eq(own, call.thread.task()) {
            return Err(Error::InvalidArgument);
        }
        let fault = match call.a[2] {
            0 => None,
            _ => Some(call.held(2)?.require(Rights::SEND)?.object),
        };
        self.create_task(call.thread, call.a[1], fault, call.a[3])
    }

    fn thread_create(&'static self, call: &Call) -> Outcome {
        let task = call.task(0, Rights::SPAWN)?;
        let [_, entry, stack, argument, fs_base, flags] = call.a;
        if flags & !0x1ff != 0 || flags & 0xff >= PRIORITIES as u64 {
            return Err(Error::InvalidArgument);
        }
        let start = ThreadStart {
            entry,
            stack,
            arguments: [argument, 0, 0],
            fs_base,
            priority: flags as u8,
            uses_fpu: flags & 0x100 != 0,
        };
        self.create_thread(call.thread, task, start)
    }

    fn thread_set(&'static self, cpu: &'static Cpu, call: &Call) -> Outcome {
        let thread = call.other_thread(0)?;
        let [_, parameter, value, ..] = call.a;
        const START: u64 = ThreadParameter::Start as u64;
        const PRIORITY: u64 = ThreadParameter::Priority as u64;
        const AFFINITY: u64 = ThreadParameter::Affinity as u64;
        match parameter {
            START if self.start_thread(thread) => Ok(Next::Return),
            PRIORITY if value < PRIORITIES as u64 => {
                if value as u8 > thread.task().max_priority.load(Ordering::Relaxed) {
                    let held = call.held(3)?;
                    let Object::SchedControl = held.object else {
                        return Err(Error::WrongKind);
                    };
                    held.require(Rights::TUNE)?;
                }
                self.set_priority(cpu, thread, value as u8);
                Ok(Next::Return)
            }
            AFFINITY if value != 0 => self.set_affinity(cpu, thread, value),
            _ => Err(Error::InvalidArgument),
        }
    }

    fn interrupt_create(&'static self, call: &Call) -> Outcome {
        call.device_control()?;
        let [_, line, _, bits, mode, _] = call.a;
        let notification = call.notification(2, Rights::WAIT)?;
        if bits == 0 || mode > 3 {
            return Err(Error::InvalidArgument);
        }
        let mode = LineMode {
            level: mode & 1 != 0,
            active_low: mode & 2 != 0,
        };
        let source = InterruptSource { line, mode };
        let quota = call.thread.task().quota();
        let make = || self.make_interrupt(quota, &source, notification, bits);
        let interrupt = self.holding(Object::Notification(notification), make)?;
        let (address, data) = self.interrupt_message(interrupt);
        call.thread.registers.rsi.set(address);
        call.thread.registers.rdx.set(u64::from(data));
        self.give_handle(call.thread, Object::Interrupt(interrupt), Rights::ALL)
    }

    fn ports_create(&'static self, call: &Call) -> Outcome {
        call.device_control()?;
        let range = IoPorts::check(call.a[1], call.a[2])?;
        let ports: &'static IoPorts = self.io_ports.allocate(self, call.thread.task().quota())?;
        ports.set_range(range);
        self.give_handle(call.thread, Object::IoPorts(ports), Rights::ALL)
    }

    fn ports_attach(&'static self, call: &Call) -> Outcome {
        let held = call.held(0)?;
        let Object::IoPorts(ports) = held.object else {
            return Err(Error::WrongKind);
        };
        held.require(Rights::ATTACH)?;
        let task = call.thread.task();
        if !task.attach_ports(ports) {
            return Err(Error::TableFull);
        }
        // Every CPU that runs the task makes its bitmap anew before it goes back to ring 3.
        self.ports_generation.fetch_add(1, Ordering::SeqCst);
        Ok(Next::Return)
    }

    fn power(&'static self, action: u64) -> Outcome {
        match action {
            0 => self.platform.power(PowerAction::Halt),
            1 => self.platform.power(PowerAction::Reboot),
            _ => Err(Error::InvalidArgument),
        }
    }
}

impl Call {
    fn held_to_destroy(&self) -> Result<Object, Error> {
        match self.held(0) {
            Ok(held) => Ok(held.require(Rights::DESTROY)?.object),
            // A destroyed object answers to nothing but the operation that is still destroying it.
            Err(error) => {
                let held = self
                    .thread
                    .task()
                    .handles
                    .look_up_dead(Handle(self.a[0]))
                    .ok_or(error)?;
                Ok(held.require(Rights::DESTROY)?.object)
            }
        }
    }
}
