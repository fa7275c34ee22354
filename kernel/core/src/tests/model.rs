//! Random sequences of IPC operations on one CPU, compared step by step with a model that says in a
//! few lines what each operation means: who gets which message, who waits, which error.
//!
//! Whatever way a message takes through the kernel, it has to take it as the model says.

use super::bench::{
    TestKernel, call, give, kernel, pass, run, settle, status, system_call_until, task, thread,
};
use crate::object::Object;
use crate::random::Random;
use crate::sync::Ordering;
use crate::thread::Thread;
use ipc::message::{NEVER, RECEIVED_HANDLES_OFFSET, SEND_HANDLES_OFFSET, Transfer};
use ipc::{Error, Handle, Label, Operation as O, Rights, Tag};
use std::collections::{BTreeMap, VecDeque};

/// Threads of the server task, which can do everything; the others can only call and send.
const SERVERS: usize = 2;
const THREADS: usize = 6;

/// A message in the model: what distinguishes it from all others, and its number of handles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Message {
    word: u64,
    handles: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready,
    Sends(Message),
    Receives,
    /// Waits for the reply to the call of this number.
    Calls(u64),
}

/// How an operation ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done,
    Fails(Error),
    /// Badge and message.
    Receives(u64, Message),
    Replied(Message),
    Signalled(u64),
    Closed(u64),
}

#[derive(Clone, Copy, Debug)]
struct Actor {
    state: State,
    deadline: u64,
    accepts: usize,
    /// The call to be answered.
    slot: Option<(usize, u64)>,
    bits: u64,
}

struct Model {
    now: u64,
    calls: u64,
    actors: [Actor; THREADS],
    senders: VecDeque<usize>,
    receivers: VecDeque<usize>,
    closed: VecDeque<u64>,
    /// Handles of stashed replies and the calls that they answer.
    stashed: Vec<(u64, (usize, u64))>,
    ends: Vec<(usize, End)>,
}

impl Model {
    fn new() -> Model {
        let actor = Actor {
            state: State::Ready,
            deadline: NEVER,
            accepts: 0,
            slot: None,
            bits: 0,
        };
        Model {
            now: 0,
            calls: 0,
            actors: [actor; THREADS],
            senders: VecDeque::new(),
            receivers: VecDeque::new(),
            closed: VecDeque::new(),
            stashed: Vec::new(),
            ends: Vec::new(),
        }
    }

    fn end(&mut self, who: usize, end: End) {
        self.senders.retain(|other| *other != who);
        self.receivers.retain(|other| *other != who);
        self.actors[who].state = State::Ready;
        self.ends.push((who, end));
    }

    fn badge(who: usize) -> u64 {
        who as u64 + 100
    }

    fn fits(&self, message: Message, receiver: usize) -> bool {
        message.handles <= self.actors[receiver].accepts
    }

    fn call(&mut self, who: usize, message: Message, accepts: usize, deadline: u64) {
        self.actors[who].accepts = accepts;
        self.actors[who].deadline = deadline;
        if let Some(&server) = self.receivers.front() {
            if !self.fits(message, server) {
                return self.end(who, End::Fails(Error::ReceiverFull));
            }
            self.take(who, message, server);
        } else if deadline <= self.now {
            self.end(who, End::Fails(Error::NotDelivered));
        } else {
            self.actors[who].state = State::Sends(message);
            self.senders.push_back(who);
        }
    }

    /// A server takes the call of a thread.
    fn take(&mut self, caller: usize, message: Message, server: usize) {
        self.calls += 1;
        self.senders.retain(|other| *other != caller);
        self.actors[caller].state = State::Calls(self.calls);
        self.actors[server].slot = Some((caller, self.calls));
        self.end(server, End::Receives(Self::badge(caller), message));
    }

    fn send(&mut self, who: usize, message: Message) {
        match self.receivers.front().copied() {
            None => self.end(who, End::Fails(Error::WouldBlock)),
            Some(server) if !self.fits(message, server) => {
                self.end(who, End::Fails(Error::ReceiverFull));
            }
            Some(server) => {
                self.end(server, End::Receives(Self::badge(who), message));
                self.end(who, End::Done);
            }
        }
    }

    fn receive(&mut self, who: usize, accepts: usize, deadline: u64) {
        self.actors[who].accepts = accepts;
        self.actors[who].deadline = deadline;
        if self.actors[who].slot.is_some() {
            return self.end(who, End::Fails(Error::ReplyPending));
        }
        let bits = core::mem::take(&mut self.actors[who].bits);
        if bits != 0 {
            return self.end(who, End::Signalled(bits));
        }
        if let Some(badge) = self.closed.pop_front() {
            return self.end(who, End::Closed(badge));
        }
        while let Some(&sender) = self.senders.front() {
            let State::Sends(message) = self.actors[sender].state else {
                unreachable!("a queued sender sends")
            };
            if self.fits(message, who) {
                return self.take(sender, message, who);
            }
            self.end(sender, End::Fails(Error::ReceiverFull));
        }
        if deadline <= self.now {
            return self.end(who, End::Fails(Error::TimedOut));
        }
        self.actors[who].state = State::Receives;
        self.receivers.push_back(who);
    }

    /// Answers a call; false, and the right is kept, where the caller cannot take the reply.
    fn answer(&mut self, (caller, number): (usize, u64), message: Message) -> bool {
        if self.actors[caller].state != State::Calls(number) {
            return true;
        }
        let fits = self.fits(message, caller);
        if fits {
            self.end(caller, End::Replied(message));
        }
        fits
    }

    /// Reply to the last call; true if it was given.
    fn reply(&mut self, who: usize, message: Message) -> bool {
        let slot = self.actors[who].slot;
        let end = match slot {
            None => End::Fails(Error::NoReplyPending),
            Some(call) if !self.answer(call, message) => End::Fails(Error::ReceiverFull),
            Some(_) => {
                self.actors[who].slot = None;
                return true;
            }
        };
        self.end(who, end);
        false
    }

    fn signal(&mut self, server: usize, bits: u64) {
        self.actors[server].bits |= bits;
        if self.actors[server].state == State::Receives && self.actors[server].bits != 0 {
            let bits = core::mem::take(&mut self.actors[server].bits);
            self.end(server, End::Signalled(bits));
        }
    }

    fn close_badge(&mut self, badge: u64) {
        match self.receivers.front().copied() {
            Some(server) => self.end(server, End::Closed(badge)),
            None => self.closed.push_back(badge),
        }
    }

    fn pass(&mut self, nanoseconds: u64) {
        self.now += nanoseconds;
        for who in 0..THREADS {
            let error = match self.actors[who].state {
                State::Ready => continue,
                State::Sends(_) => Error::NotDelivered,
                State::Calls(_) => Error::Abandoned,
                State::Receives => Error::TimedOut,
            };
            if self.actors[who].deadline <= self.now {
                self.end(who, End::Fails(error));
            }
        }
    }
}

/// The kernel beside the model.
struct Both {
    kernel: TestKernel,
    model: Model,
    random: Random,
    threads: [&'static Thread; THREADS],
    /// Each one's handle of the endpoint, and of a notification to send.
    endpoints: [u64; THREADS],
    gifts: [u64; THREADS],
    /// The servers' notifications, as handles of the server task.
    bound: [u64; SERVERS],
    /// How many threads do anything: with few clients servers wait for calls, with many calls for
    /// servers.
    active: usize,
    /// Of five waits, how many have a deadline that is to come.
    deadlines: usize,
    /// The first server that its notification is bound to.
    first_bound: usize,
    words: u64,
}

impl Both {
    fn new(seed: u64) -> Both {
        let kernel = kernel(1);
        let (server_task, client_task) = (task(kernel, 4 << 20), task(kernel, 4 << 20));
        let threads: [&Thread; THREADS] = core::array::from_fn(|who| {
            let task = if who < SERVERS {
                server_task
            } else {
                client_task
            };
            thread(kernel, task, 10)
        });
        let receive = call(kernel, threads[0], O::EndpointCreate, &[]).unwrap()[0];
        let endpoint = server_task.handles.look_up(Handle(receive)).unwrap().object;
        let Object::Endpoint(endpoint) = endpoint else {
            unreachable!()
        };
        let endpoints = core::array::from_fn(|who| {
            if who < SERVERS {
                return receive;
            }
            let quota = server_task.quota();
            let badge = kernel
                .make_badge(endpoint, Model::badge(who), quota)
                .unwrap();
            let handle = give(kernel, client_task, Object::Badge(badge), Rights::SEND);
            kernel.drop_reference(Object::Badge(badge));
            handle.0
        });
        let gifts = threads.map(|one| call(kernel, one, O::NotificationCreate, &[]).unwrap()[0]);
        // Every other world has a server without a notification, whose way is a shorter one.
        let first_bound = (seed % 2) as usize;
        let bound = [0, 1].map(|server: usize| {
            let made = call(kernel, threads[server], O::NotificationCreate, &[]).unwrap()[0];
            if server >= first_bound {
                call(kernel, threads[server], O::NotificationBind, &[made]).unwrap();
            }
            made
        });
        Both {
            kernel,
            model: Model::new(),
            random: Random::new(seed),
            threads,
            endpoints,
            gifts,
            bound,
            active: SERVERS + [1, 2, THREADS - SERVERS][seed as usize / 2 % 3],
            deadlines: [1, 1, 4][seed as usize / 6 % 3],
            first_bound,
            words: 0,
        }
    }

    /// A new message of a thread, with its tag; its handles stand in the buffer.
    fn message(&mut self, who: usize, accepts: usize) -> (Message, u64) {
        self.words += 1;
        let handles = usize::from(self.random.below(4) == 0);
        let first = SEND_HANDLES_OFFSET / 8;
        let buffer = self.threads[who].buffer();
        buffer[first].store(self.gifts[who], Ordering::Relaxed);
        buffer[first + 1].store(Transfer::copied(Rights::SIGNAL).0, Ordering::Relaxed);
        let message = Message {
            word: self.words,
            handles,
        };
        let tag = Tag::new(Label(77), 8, handles).accepting(accepts).0;
        (message, tag)
    }

    fn deadline(&mut self) -> u64 {
        match self.random.below(6) {
            0 => 0,
            most if most <= self.deadlines => self.model.now + 1 + self.random.below(3_000) as u64,
            _ => NEVER,
        }
    }

    fn step(&mut self) {
        let ready = |who: &usize| self.model.actors[*who].state == State::Ready;
        let able: Vec<usize> = (0..self.active).filter(ready).collect();
        if able.is_empty() || self.random.below(8) == 0 {
            let nanoseconds = 1 + self.random.below(1_500) as u64;
            self.model.pass(nanoseconds);
            pass(self.kernel, nanoseconds);
            // Where all wait for ever, a signal from outside goes on.
            return if able.is_empty() {
                self.wake()
            } else {
                self.check(None)
            };
        }
        let who = able[self.random.below(able.len())];
        run(self.kernel, self.threads[who]);
        if who < SERVERS && self.random.below(4) != 0 {
            self.serve(who);
        } else if who >= SERVERS {
            self.ask(who);
        } else {
            self.housekeep(who);
        }
        // A call that is taken after its deadline ends with the next interrupt.
        self.model.pass(0);
        pass(self.kernel, 0);
        self.check(Some(who));
    }

    fn wake(&mut self) {
        for server in self.first_bound..SERVERS {
            let handle = Handle(self.bound[server]);
            let held = self.threads[server].task().handles.look_up(handle);
            let Object::Notification(notification) = held.unwrap().object else {
                unreachable!()
            };
            self.model.signal(server, 8);
            if let Some(thread) = self.kernel.set_bits(notification, 8) {
                self.kernel.make_ready(&self.kernel.cpus()[0], thread);
            }
        }
        self.check(None);
    }

    fn issue(&self, who: usize, operation: O, arguments: &[u64], deadline: u64) {
        system_call_until(
            self.kernel,
            self.threads[who],
            operation,
            arguments,
            deadline,
        );
    }

    fn ask(&mut self, who: usize) {
        let accepts = [0, 1, 4][self.random.below(3)];
        let (message, tag) = self.message(who, accepts);
        let deadline = self.deadline();
        let arguments = [self.endpoints[who], tag, message.word];
        if self.random.below(4) == 0 {
            self.model.send(who, message);
            self.issue(who, O::Send, &arguments, NEVER);
        } else {
            self.model.call(who, message, accepts, deadline);
            self.issue(who, O::Call, &arguments, deadline);
        }
    }

    /// A server with a bound notification, and bits for it.
    fn signal_to(&mut self) -> (usize, u64) {
        let (server, bits) = (self.random.below(SERVERS), self.random.below(4) as u64);
        (server.max(self.first_bound), bits)
    }

    fn serve(&mut self, who: usize) {
        let accepts = [0, 1, 4][self.random.below(3)];
        let (message, tag) = self.message(who, accepts);
        let deadline = self.deadline();
        let endpoint = self.endpoints[who];
        match self.random.below(4) {
            0 => {
                self.model.receive(who, accepts, deadline);
                self.issue(who, O::Receive, &[endpoint, tag], deadline);
            }
            3 => {
                let (server, bits) = self.signal_to();
                if self.model.actors[who].slot.is_none() {
                    self.model.signal(server, bits);
                }
                self.model.receive(who, accepts, deadline);
                let arguments = [endpoint, tag, self.bound[server], bits];
                self.issue(who, O::SignalReceive, &arguments, deadline);
            }
            1 => {
                if self.model.reply(who, message) {
                    self.model.end(who, End::Done);
                }
                self.issue(who, O::Reply, &[0, tag, message.word], NEVER);
            }
            _ => {
                if self.model.reply(who, message) {
                    self.model.receive(who, accepts, deadline);
                }
                let arguments = [endpoint, tag, message.word];
                self.issue(who, O::ReplyReceive, &arguments, deadline);
            }
        }
    }

    fn housekeep(&mut self, who: usize) {
        match self.random.below(4) {
            0 => {
                let (server, bits) = self.signal_to();
                self.model.signal(server, bits);
                self.model.end(who, End::Done);
                self.issue(who, O::Signal, &[self.bound[server], bits], NEVER);
            }
            1 => self.stash(who),
            2 => self.answer_stashed(who),
            _ => {
                self.words += 1;
                let arguments = [self.endpoints[who], self.words];
                let badge = call(self.kernel, self.threads[who], O::BadgeMint, &arguments);
                self.model.close_badge(self.words);
                self.model.end(who, End::Done);
                self.issue(who, O::Close, &[badge.unwrap()[0]], NEVER);
            }
        }
    }

    fn stash(&mut self, who: usize) {
        self.issue(who, O::Stash, &[], NEVER);
        match self.model.actors[who].slot.take() {
            None => self.model.end(who, End::Fails(Error::NoReplyPending)),
            Some(call) => {
                let handle = status(self.threads[who]).unwrap()[0];
                self.model.stashed.push((handle, call));
                self.model.end(who, End::Done);
            }
        }
    }

    /// Answers a stashed call, or drops the right to.
    fn answer_stashed(&mut self, who: usize) {
        if self.model.stashed.is_empty() {
            return;
        }
        let place = self.random.below(self.model.stashed.len());
        let (handle, reply) = self.model.stashed[place];
        let (message, tag) = self.message(who, 0);
        if self.random.below(3) == 0 {
            self.model.stashed.remove(place);
            if self.model.actors[reply.0].state == State::Calls(reply.1) {
                self.model.end(reply.0, End::Fails(Error::Abandoned));
            }
            self.model.end(who, End::Done);
            self.issue(who, O::Close, &[handle], NEVER);
        } else if self.model.answer(reply, message) {
            self.model.stashed.remove(place);
            self.model.end(who, End::Done);
            self.issue(who, O::Reply, &[handle, tag, message.word], NEVER);
        } else {
            self.model.end(who, End::Fails(Error::ReceiverFull));
            self.issue(who, O::Reply, &[handle, tag, message.word], NEVER);
        }
    }

    /// Compares what has ended and who waits.
    fn check(&mut self, acted: Option<usize>) {
        for (who, end) in core::mem::take(&mut self.model.ends) {
            self.check_end(who, end);
        }
        for who in 0..THREADS {
            let waits = self.model.actors[who].state != State::Ready;
            assert_eq!(
                self.threads[who].is_waiting(),
                waits,
                "thread {who} of {acted:?}"
            );
        }
        for who in 0..SERVERS {
            let pending = self.model.actors[who].slot.is_some();
            assert_eq!(self.threads[who].reply_caller.get().is_some(), pending);
        }
    }

    fn check_end(&self, who: usize, end: End) {
        let found = status(self.threads[who]);
        let tag = |message: Message| Tag::new(Label(77), 8, message.handles).0;
        let kernel_tag = |label, length| Tag::new(label, length, 0).0 | Tag::KERNEL;
        match (end, found) {
            (End::Done, Ok(_)) => {}
            (End::Fails(expected), Err(error)) => assert_eq!(error, expected, "thread {who}"),
            (End::Receives(badge, message), Ok(r)) => {
                let expected = [badge, tag(message), message.word];
                assert_eq!(r[..3], expected, "thread {who}");
                self.take_gift(who, message);
            }
            (End::Replied(message), Ok(r)) => {
                assert_eq!(r[1..3], [tag(message), message.word], "thread {who}");
                self.take_gift(who, message);
            }
            (End::Signalled(bits), Ok(r)) => {
                assert_eq!(
                    r[1..3],
                    [kernel_tag(Label::SIGNAL, 8), bits],
                    "thread {who}"
                );
            }
            (End::Closed(badge), Ok(r)) => {
                assert_eq!(
                    r[..2],
                    [badge, kernel_tag(Label::CLOSED, 0)],
                    "thread {who}"
                );
            }
            (end, found) => panic!("thread {who}: {end:?} expected, {found:?} found"),
        }
    }

    /// Closes what came with a message: a notification, with the right that was sent.
    fn take_gift(&self, who: usize, message: Message) {
        if message.handles == 0 {
            return;
        }
        let thread = self.threads[who];
        let received = thread.buffer()[RECEIVED_HANDLES_OFFSET / 8].load(Ordering::Relaxed);
        let handles = &thread.task().handles;
        let held = handles.remove(self.kernel, Handle(received)).unwrap();
        assert!(matches!(held.object, Object::Notification(_)));
        assert_eq!(held.rights, Rights::SIGNAL);
        held.release(self.kernel);
    }

    /// The endpoint is destroyed: everybody who waits at it is told.
    fn finish(&mut self) {
        let Some(who) = (0..SERVERS).find(|who| self.model.actors[*who].state == State::Ready)
        else {
            return;
        };
        run(self.kernel, self.threads[who]);
        self.issue(who, O::Destroy, &[self.endpoints[who]], NEVER);
        settle(self.kernel);
        self.model.end(who, End::Done);
        for who in 0..THREADS {
            match self.model.actors[who].state {
                State::Sends(_) => self.model.end(who, End::Fails(Error::NotDelivered)),
                State::Receives => self.model.end(who, End::Fails(Error::Destroyed)),
                State::Ready | State::Calls(_) => {}
            }
        }
        self.check(None);
    }
}

#[test]
fn messages_go_where_the_model_says() {
    let steps = std::env::var("KERNEL_MODEL_STEPS").ok();
    let steps = steps.and_then(|text| text.parse().ok()).unwrap_or(1_500);
    let mut taken = 0;
    let mut ways = BTreeMap::new();
    for seed in 0..24 {
        // The model, the slow path and the fast path: each world is gone through by two of them.
        for fast in [false, true] {
            let mut both = Both::new(seed);
            both.kernel.platform.fast.store(fast, Ordering::Relaxed);
            for _ in 0..steps {
                both.step();
            }
            taken += both.kernel.platform.taken[0].load(Ordering::Relaxed);
            for (way, times) in both.kernel.platform.ways.lock().unwrap().iter() {
                *ways.entry(*way).or_insert(0) += times;
            }
            both.finish();
        }
    }
    assert!(
        taken > steps as u64 / 10,
        "the fast path was taken {taken} times"
    );
    println!("{ways:#?}");
    let times = |way| ways.get(&way).copied().unwrap_or(0);
    for (operation, end, until) in [
        (O::Call, "Runs", true),
        (O::ReplyReceive, "Runs", true),
        (O::ReplyReceive, "Resumes", true),
        (O::ReplyReceive, "Wakes", false),
        (O::ReplyReceive, "Wakes and receives", true),
        (O::Receive, "Waits", true),
        (O::Receive, "Receives", true),
        (O::SignalReceive, "Waits", true),
        (O::SignalReceive, "Receives", true),
    ] {
        let times = times((operation as u64, end, until));
        assert!(times > 3, "{operation:?} {end} was taken {times} times");
    }
}
