//! The system as init holds it: the tasks that live, and what the supervisor decides done.

use alloc::vec::Vec;
use core::time::Duration;

use init::archive::Archive;
use init::backtrace::{self, Addresses};
use init::badge::{Life, Sender};
use init::heartbeat::Watch;
use init::journal::Journal;
use init::report::{Fault, Place, Registers};
use init::services::Services;
use init::supervisor::{Action, Supervisor};
use ipc::info::FaultMessage;
use ipc::interface::service::ConnectError;
use ipc::interface::supervisor::{self, PowerAction};
use ipc::layout::init_handles;
use ipc::manifest::Task as Entry;
use ipc::ring::SharedMemory;
use ipc::server::{Caller, Outcome, Outgoing, Received};
use ipc::startup::STACK_END;
use ipc::symbols::{self, Symbols};
use ipc::{Deadline, Error, Label};
use runtime::endpoint::Endpoint;
use runtime::mapping::{Access, Mapping};
use runtime::server::Service;
use runtime::{Memory, Notification, clock, system as kernel};

use crate::logs::Turn;
use crate::maker::{Alive, Maker, log_bit};
use crate::unpacking::Unpacking;

/// How long a task that talks a lot waits for its next turn.
const LOG_PAUSE: Duration = Duration::from_millis(20);

/// Largest symbol table that is unpacked for a backtrace, in bytes: what the heap certainly has room for.
const MOST_SYMBOLS: u64 = 128 * 1024;

/// Everything that init looks after.
#[derive(Debug)]
pub(crate) struct System {
    archive: Archive<'static>,
    /// The manifest.
    pub(crate) entries: Vec<Entry<'static>>,
    services: Services<'static>,
    public: Vec<Option<Endpoint>>,
    endpoint: Endpoint,
    bell: Notification,
    /// What is decided.
    pub(crate) supervisor: Supervisor<'static>,
    /// What lives, by position in the manifest.
    pub(crate) alive: Vec<Option<Alive>>,
    watches: Vec<Option<Watch>>,
    /// The joined log.
    pub(crate) journal: Journal,
    /// Who shows the log in init's place.
    pub(crate) shown: Option<Shown>,
    /// Tasks that may have more to say, a bit each as for the bell.
    talkative: u64,
    /// What is done with the machine when all tasks are stopped.
    power: PowerAction,
}

/// A task that shows the log.
#[derive(Debug)]
pub(crate) struct Shown {
    /// The task, as its badge names it.
    pub(crate) task: u16,
    /// Where it is signalled.
    pub(crate) bell: Notification,
    /// With what.
    pub(crate) bits: u64,
    /// Position in the log up to which it has read.
    pub(crate) read: u64,
}

impl System {
    /// Makes the public endpoints. Nothing runs yet.
    pub(crate) fn new(
        archive: Archive<'static>,
        entries: Vec<Entry<'static>>,
    ) -> Result<System, Error> {
        let services = Services::collect(&entries);
        let mut public = Vec::new();
        for _ in services.list() {
            public.push(Some(Endpoint::create()?));
        }
        Ok(System {
            supervisor: Supervisor::new(&entries),
            alive: entries.iter().map(|_| None).collect(),
            watches: entries.iter().map(|_| None).collect(),
            archive,
            services,
            public,
            entries,
            endpoint: Endpoint::create()?,
            bell: Notification::create()?,
            journal: Journal::new(),
            shown: None,
            talkative: 0,
            power: PowerAction::Halt,
        })
    }

    /// Copies of init's endpoint and log bell, for the server loop, which has the system itself.
    pub(crate) fn doors(&self) -> (Endpoint, Notification) {
        let (endpoint, bell) = (self.endpoint.handle(), self.bell.handle());
        // They live as long as init does: nobody closes them.
        (
            Endpoint::from_handle(endpoint),
            Notification::from_handle(bell),
        )
    }

    /// Tells something: in the joined log and on the kernel's.
    pub(crate) fn say(&mut self, line: core::fmt::Arguments<'_>) {
        let text = alloc::format!("{line}");
        for line in text.lines() {
            tell(&mut self.journal, self.shown.as_ref(), line);
        }
    }

    /// Nobody shows the log any more: init does, with what was not read.
    pub(crate) fn take_log_back(&mut self) {
        let Some(shown) = self.shown.take() else {
            return;
        };
        let left = self.journal.end().saturating_sub(shown.read);
        let (_, bytes) = self.journal.read(shown.read, left as usize);
        for line in alloc::string::String::from_utf8_lossy(&bytes).lines() {
            runtime::log!("{line}");
        }
    }

    /// Does what the supervisor decided.
    pub(crate) fn act(&mut self) {
        while let Some(action) = self.supervisor.next_action() {
            match action {
                Action::Start(life) => self.start(life),
                Action::Destroy(life) => self.destroy(life),
                Action::GiveUp(task) => self.give_up(task),
                Action::Stop(life) => self.tell_to_stop(life),
                Action::PowerOff => self.power_off(),
                Action::Report(report) => self.say(format_args!("{report}")),
            }
        }
    }

    /// Begins to stop the system, and in the end the machine. The first action counts.
    pub(crate) fn stop(&mut self, action: PowerAction) {
        if !self.supervisor.is_stopping() {
            self.power = action;
        }
        self.supervisor.stop(now());
    }

    /// Tells a task that it is to stop; one that asked for no word of it is ended at once.
    fn tell_to_stop(&mut self, life: Life) {
        let alive = self.alive.get(usize::from(life.task));
        let bell = alive
            .and_then(Option::as_ref)
            .and_then(|alive| alive.stop_bell.as_ref());
        let told = bell.map(|stop| stop.bell.signal(stop.bits));
        if !matches!(told, Some(Ok(()))) {
            self.supervisor.stopped(life);
        }
    }

    /// Ends the machine, with the log complete.
    fn power_off(&mut self) {
        self.take_log_back();
        self.listen(u64::MAX);
        let reboot = self.power == PowerAction::Reboot;
        // Init has the right to it, so it does not come back.
        let _ = kernel::power(init_handles::SYSTEM_CONTROL, reboot);
    }

    fn start(&mut self, life: Life) {
        let task = usize::from(life.task);
        let Some(entry) = self.entries.get(task) else {
            return;
        };
        let maker = Maker {
            archive: &self.archive,
            services: &self.services,
            public: &self.public,
            endpoint: self.endpoint.handle(),
            bell: &self.bell,
        };
        match maker.make(entry, life, life.number) {
            Ok(alive) => {
                self.alive[task] = Some(alive);
                self.supervisor.started(life, now());
            }
            Err(cause) => self.supervisor.start_failed(life, cause, now()),
        }
    }

    fn destroy(&mut self, life: Life) {
        if let Some(alive) = &self.alive[usize::from(life.task)] {
            // It may have ended by itself meanwhile; its end is told in either case.
            let _ = alive.task.destroy();
        }
    }

    /// The task will not live again: whoever calls its services is told so at once.
    fn give_up(&mut self, task: usize) {
        for (service, endpoint) in self.services.list().iter().zip(&mut self.public) {
            if service.provider == task {
                *endpoint = None;
            }
        }
    }

    /// Forgets what was kept of a life, with its last words in the log.
    fn bury(&mut self, life: Life) {
        let task = usize::from(life.task);
        if self
            .shown
            .as_ref()
            .is_some_and(|shown| usize::from(shown.task) == task + 1)
        {
            self.take_log_back();
        }
        if let Some(alive) = self.alive[task].take() {
            let (journal, shown) = (&mut self.journal, self.shown.as_ref());
            alive.log.finish(&mut |line| tell(journal, shown, line));
        }
        self.watches[task] = None;
    }

    /// Empties the log rings of the tasks with these bits.
    fn listen(&mut self, bits: u64) {
        self.talkative = 0;
        let (journal, shown) = (&mut self.journal, self.shown.as_ref());
        for (position, alive) in self.alive.iter_mut().enumerate() {
            let bit = log_bit(position as u16);
            if let Some(alive) = alive
                && bits & bit != 0
                && alive.log.turn(&mut |line| tell(journal, shown, line)) == Turn::More
            {
                self.talkative |= bit;
            }
        }
    }

    /// Begins, changes or ends the watch over a task's heartbeat.
    pub(crate) fn watch(&mut self, task: usize, period: Duration) {
        let Some(Some(alive)) = self.alive.get(task) else {
            return;
        };
        self.watches[task] = if period.is_zero() {
            None
        } else {
            Some(Watch::new(period, alive.log.heartbeat(), now()))
        };
    }

    /// Looks at the heartbeats that are due.
    fn look_at_watches(&mut self) {
        for task in 0..self.watches.len() {
            let (Some(watch), Some(alive)) = (&mut self.watches[task], &self.alive[task]) else {
                continue;
            };
            if watch.is_silent(alive.log.heartbeat(), now()) {
                self.supervisor.silent(task);
            }
        }
    }

    /// Tells a fault: where, with which registers, and how the thread came there.
    fn tell_fault(&mut self, life: Life, fault: &FaultMessage) {
        let task = usize::from(life.task);
        let name = self.entries.get(task).map_or("?", |entry| entry.name);
        self.say(format_args!("init: {name} faulted: {}", Fault(fault)));
        self.say(format_args!("{}", Registers(fault)));
        let Some(Some(alive)) = self.alive.get(task) else {
            return;
        };
        let addresses = read_stack(&alive.stack, fault.frame_pointer);
        let binary = self.entries.get(task).map_or("?", |entry| entry.binary);
        // Without the table the addresses alone are said.
        let table = Unpacking::whole(&self.archive, binary, symbols::SUFFIX, MOST_SYMBOLS).ok();
        let symbols = table
            .as_ref()
            .and_then(|table| Symbols::read(table.as_slice()).ok());
        let mut text = alloc::string::String::from("init:   called from");
        let mut add = |address, returns| {
            let place = Place {
                address,
                returns,
                symbols,
            };
            text.push_str(&alloc::format!("\n{place}"));
        };
        add(fault.instruction_pointer, false);
        for address in addresses {
            add(address, true);
        }
        self.say(format_args!("{text}"));
    }
}

/// Adds a line to the joined log; whoever shows it hears of that, or else it goes to the kernel's.
fn tell(journal: &mut Journal, shown: Option<&Shown>, line: &str) {
    journal.add(line);
    match shown {
        // A notification that is gone had an owner that is gone; its end is about to be told.
        Some(shown) => drop(shown.bell.signal(shown.bits)),
        None => runtime::log!("{line}"),
    }
}

/// Monotonic time.
pub(crate) fn now() -> Duration {
    Duration::from_nanos(clock::now())
}

/// The return addresses on the first thread's stack; of another thread's none is found.
fn read_stack(stack: &Memory, frame_pointer: u64) -> Addresses {
    let window = Mapping::whole(stack, Access::Read);
    let read = |address: u64| {
        let window = window.as_ref().ok()?;
        let start = STACK_END.checked_sub(window.len())?;
        let offset = usize::try_from(address.checked_sub(start)?).ok()?;
        let mut bytes = [0; 8];
        window.read(offset, &mut bytes)?;
        Some(u64::from_le_bytes(bytes))
    };
    backtrace::walk(frame_pointer, read)
}

impl Service for System {
    const INTERFACE: u16 = supervisor::NUMBER;

    fn connect(&mut self, _: u64, _: ipc::badge::Client) -> Result<(), ConnectError> {
        // A task's handle to init is a session at once.
        Err(ConnectError::WrongInterface)
    }

    fn dispatch(
        &mut self,
        caller: &mut Caller<'_>,
        label: Label,
        request: &[u8],
        received: &mut Received,
        outgoing: &mut Outgoing<'_>,
    ) -> Outcome {
        supervisor::dispatch(self, caller, label, request, received, outgoing)
    }

    fn closed(&mut self, badge: u64) {
        if let Sender::Kernel(life) = Sender::from_badge(badge) {
            if self.supervisor.is_present(life) {
                self.bury(life);
            }
            self.supervisor.closed(life, now());
        }
    }

    fn signal(&mut self, bits: u64) {
        // Their turn comes before the next wait.
        self.talkative |= bits;
    }

    fn before_wait(&mut self) -> Deadline {
        self.listen(self.talkative);
        self.look_at_watches();
        self.supervisor.tick(now());
        self.act();
        let mut next = self.supervisor.next_deadline();
        for watch in self.watches.iter().flatten() {
            next = Some(next.map_or(watch.due(), |next| next.min(watch.due())));
        }
        if self.talkative != 0 {
            let pause = now() + LOG_PAUSE;
            next = Some(next.map_or(pause, |next| next.min(pause)));
        }
        next.map_or(Deadline::NEVER, |next| {
            Deadline(u64::try_from(next.as_nanos()).unwrap_or(u64::MAX))
        })
    }

    fn fault(&mut self, badge: u64, fault: &FaultMessage) -> bool {
        if let Sender::Kernel(life) = Sender::from_badge(badge)
            && self.supervisor.faulted(life, *fault)
        {
            self.tell_fault(life, fault);
        }
        // The task is destroyed before the next wait.
        false
    }
}

/// Whether the kernel's counters can be read: init has every right.
pub(crate) fn counters() -> ipc::info::SystemInfo {
    kernel::counters(init_handles::SYSTEM_CONTROL).unwrap_or_default()
}
