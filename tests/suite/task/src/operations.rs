//! One object of every kind, and for every operation arguments that it takes: what the tests that go
//! through the table of operations start from.

use alloc::vec::Vec;

use ipc::info::INTERRUPT_MESSAGE;
use ipc::{ObjectKind, Operation, Rights};

use crate::Context;
use crate::child::{Child, QUOTA, Thread};
use crate::failure::Outcome;
use crate::raw::{self, Registers, arguments};
use crate::suite::{Owned, Suite};

/// A device range that is no RAM: where chipsets have their flash or nothing at all.
const DEVICE_RANGE: u64 = 0xfd00_0000;
/// The port of the power-on self test, which nothing minds being read.
pub(crate) const HARMLESS_PORT: u64 = 0x80;

/// One object of every kind.
#[derive(Debug)]
pub(crate) struct Objects {
    /// An endpoint that nobody receives on.
    pub(crate) endpoint: Owned,
    /// A notification.
    pub(crate) notification: Owned,
    /// Memory of a page, contiguous.
    pub(crate) memory: Owned,
    /// A reply right whose caller waits.
    pub(crate) reply: Owned,
    /// A message-signalled interrupt.
    pub(crate) interrupt: Owned,
    /// A range of ports.
    pub(crate) ports: Owned,
    /// A thread that was never started.
    pub(crate) thread: Thread,
    /// The thread that waits for the reply.
    _caller: Thread,
    /// A child.
    pub(crate) child: Child,
    own: Own,
    address: u64,
}

/// The suite's own handles.
#[derive(Clone, Copy, Debug)]
struct Own {
    task: u64,
    device: u64,
    sched: u64,
    system: u64,
    trace: u64,
}

impl Own {
    fn of(suite: &Suite) -> Own {
        Own {
            task: suite.task,
            device: suite.device,
            sched: suite.sched,
            system: suite.system,
            trace: suite.trace,
        }
    }
}

impl Objects {
    /// Makes them.
    pub(crate) fn make(context: &Context) -> Outcome<Objects> {
        let suite = &context.suite;
        let child = Child::empty(suite, QUOTA)?;
        let notification = Owned::make(Operation::NotificationCreate, &[])?;
        let interrupt = [suite.device, INTERRUPT_MESSAGE, notification.0, 1, 0];
        let endpoint = Owned::make(Operation::EndpointCreate, &[])?;
        let caller = Thread::start(suite, call_once, &[endpoint.0])?;
        raw::until(Operation::Receive, &[endpoint.0], suite.after(1000))?;
        Ok(Objects {
            reply: Owned::make(Operation::Stash, &[])?,
            memory: Owned::make(Operation::MemoryCreate, &[4096, 1])?,
            interrupt: Owned::make(Operation::InterruptCreate, &interrupt)?,
            ports: Owned::make(Operation::IoPortsCreate, &[suite.device, HARMLESS_PORT, 1])?,
            thread: Thread::stopped(suite, None, call_once, &[], 5)?,
            endpoint,
            notification,
            _caller: caller,
            child,
            own: Own::of(suite),
            address: suite.area(4096),
        })
    }

    /// A handle of each kind.
    pub(crate) fn one_of_each(&self) -> [(ObjectKind, u64); 12] {
        ObjectKind::ALL.map(|kind| {
            let handle = match kind {
                ObjectKind::Endpoint => self.endpoint.0,
                ObjectKind::Notification => self.notification.0,
                ObjectKind::Memory => self.memory.0,
                ObjectKind::Task => self.own.task,
                ObjectKind::Thread => self.thread.handle,
                ObjectKind::Reply => self.reply.0,
                ObjectKind::Interrupt => self.interrupt.0,
                ObjectKind::IoPorts => self.ports.0,
                ObjectKind::DeviceControl => self.own.device,
                ObjectKind::SchedControl => self.own.sched,
                ObjectKind::SystemControl => self.own.system,
                ObjectKind::Trace => self.own.trace,
            };
            (kind, handle)
        })
    }

    /// Sound arguments of an operation; `None` for Exit, which would end the test.
    pub(crate) fn arguments(&self, operation: Operation) -> Option<Registers> {
        use Operation as Op;
        let Own {
            task,
            device,
            sched,
            system,
            trace,
        } = self.own;
        let (memory, child) = (self.memory.0, self.child.task);
        let values: &[u64] = match operation {
            Op::Exit => return None,
            Op::Yield | Op::ClockRead | Op::Stash => &[],
            Op::EndpointCreate | Op::NotificationCreate => &[],
            // A word that does not hold the value; nobody sleeps there.
            Op::FutexWait => &[self.own_word(), 1],
            Op::FutexWake => &[self.own_word(), 1],
            Op::Call | Op::Send | Op::Receive | Op::ReplyReceive => &[self.endpoint.0],
            Op::SignalReceive => &[self.endpoint.0, 0, self.notification.0, 1],
            Op::Reply => &[self.reply.0],
            Op::Signal => &[self.notification.0, 1],
            Op::Wait | Op::NotificationBind => &[self.notification.0],
            Op::Close | Op::HandleInspect | Op::Destroy => &[self.endpoint.0],
            Op::Duplicate => &[self.endpoint.0, Rights::ALL.0 as u64],
            Op::BadgeMint => &[self.endpoint.0, 1],
            Op::MemoryCreate => &[4096],
            Op::MemoryDevice => &[device, DEVICE_RANGE, 4096],
            Op::MemoryMap => &[task, memory, self.address, 0, 4096, 1],
            Op::MemoryUnmap => &[task, self.address],
            Op::MemoryInspect => &[memory],
            Op::MemoryExpose => &[device, memory, 1],
            Op::DmaReset => &[device],
            Op::TaskCreate => &[task, 1 << 16, self.endpoint.0, 5],
            Op::TaskGrant => &[child, self.notification.0, Rights::ALL.0 as u64],
            Op::TaskInspect => &[child],
            Op::ThreadCreate => &[child, 0x20_0000, 0x30_0000, 0, 0, 5],
            Op::ThreadSet => &[self.thread.handle, 1, 4],
            Op::ThreadInspect => &[self.thread.handle],
            Op::InterruptCreate => &[device, INTERRUPT_MESSAGE, self.notification.0, 1],
            Op::InterruptAcknowledge => &[self.interrupt.0],
            Op::IoPortsCreate => &[device, HARMLESS_PORT, 1],
            Op::IoPortsAttach => &[self.ports.0],
            Op::SystemInspect => &[system],
            // An action that is none: the machine is to go on.
            Op::SystemPower => &[system, 7],
            Op::LogWrite => &[system, 0],
            Op::Tunable => &[sched],
            Op::TraceRead => &[trace],
        };
        Some(arguments(values))
    }

    /// The same for the operations whose first argument is a handle and nothing else.
    pub(crate) fn handle_arguments(&self, operation: Operation) -> Option<Registers> {
        use Operation as Op;
        match operation {
            Op::Yield | Op::ClockRead | Op::Stash | Op::Exit => None,
            Op::EndpointCreate | Op::NotificationCreate | Op::MemoryCreate => None,
            Op::FutexWait | Op::FutexWake => None,
            // Without a call to answer its handle is never looked at.
            Op::ReplyReceive => None,
            _ => self.arguments(operation),
        }
    }

    /// Whether an operation takes handles of several kinds.
    pub(crate) fn takes_any_kind(operation: Operation) -> bool {
        use Operation as Op;
        matches!(
            operation,
            Op::Close | Op::Duplicate | Op::HandleInspect | Op::Destroy
        )
    }

    /// Which right which argument of which operation must have.
    pub(crate) fn needs(&self) -> Vec<(Operation, usize, Rights)> {
        use Operation as Op;
        Vec::from([
            (Op::Call, 0, Rights::SEND),
            (Op::Send, 0, Rights::SEND),
            (Op::Receive, 0, Rights::RECEIVE),
            (Op::Signal, 0, Rights::SIGNAL),
            (Op::SignalReceive, 0, Rights::RECEIVE),
            (Op::SignalReceive, 2, Rights::SIGNAL),
            (Op::Wait, 0, Rights::WAIT),
            (Op::Duplicate, 0, Rights::DUPLICATE),
            (Op::Destroy, 0, Rights::DESTROY),
            (Op::BadgeMint, 0, Rights::MINT),
            (Op::NotificationBind, 0, Rights::WAIT),
            (Op::MemoryMap, 1, Rights::WRITE),
            (Op::TaskGrant, 0, Rights::GRANT),
            (Op::TaskGrant, 1, Rights::DUPLICATE),
            (Op::TaskInspect, 0, Rights::INSPECT),
            (Op::ThreadCreate, 0, Rights::SPAWN),
            (Op::ThreadSet, 0, Rights::CONTROL),
            (Op::ThreadInspect, 0, Rights::CONTROL),
            (Op::InterruptCreate, 2, Rights::WAIT),
            (Op::InterruptAcknowledge, 0, Rights::ACKNOWLEDGE),
            (Op::IoPortsAttach, 0, Rights::ATTACH),
            (Op::SystemInspect, 0, Rights::READ_STATE),
            (Op::LogWrite, 0, Rights::LOG),
            (Op::Tunable, 0, Rights::READ_STATE),
            (Op::TraceRead, 0, Rights::READ_STATE),
        ])
    }

    /// A word that only the test knows and that is 0.
    fn own_word(&self) -> u64 {
        (&raw const self.thread.board.words[400]).expose_provenance() as u64
    }
}

/// Calls the endpoint in word 0 and is content with whatever comes.
fn call_once(board: &'static raw::Board) {
    let endpoint = board.words[0].load(core::sync::atomic::Ordering::Acquire);
    let _ = raw::call(Operation::Call, &[endpoint]);
}
