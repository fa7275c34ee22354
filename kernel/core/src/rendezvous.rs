//! The rendezvous: call, send, receive, reply, stash, and faults, which are calls that the kernel
//! makes on a thread's behalf.
//!
//! A message goes from one thread to another in one step, whole or not at all, while the endpoint's
//! lock is held and both threads are owned: the partner has been claimed, the other is the caller.
//! Registers go from control block to control block, the rest from IPC buffer to IPC buffer.

use crate::cpu::Cpu;
use crate::endpoint::{Badge, Endpoint, Waiters};
use crate::handles::Held;
use crate::kernel::{Kernel, Next, Outcome};
use crate::mutant::{self, Mutant};
use crate::notification::{Notification, give_signal};
use crate::object::Object;
use crate::platform::Platform;
use crate::reply::Reply;
use crate::sync::{Guard, Ordering};
use crate::thread::{Thread, Wait, WaitRef};
use ipc::info::FaultMessage;
use ipc::message::{
    MAX_HANDLES, NEVER, RECEIVED_HANDLES_OFFSET, REGISTER_BYTES, SEND_HANDLES_OFFSET, Transfer,
};
use ipc::{Error, Handle, Label, Operation, Rights, Tag};

pub(crate) const WORD_BYTES: usize = 8;
pub(crate) const REGISTER_WORDS: usize = REGISTER_BYTES / WORD_BYTES;
/// Queued senders that one Receive tells of a refusal before it lets interrupts in.
const REFUSALS_PER_STEP: u32 = 16;

/// Handle entries that a message took away from its sender, to be released when no lock is held.
type Closed = [Option<Held>; MAX_HANDLES];

/// The badge and the endpoint of a send right.
pub fn send_target(object: Object) -> Result<(&'static Endpoint, u64), Error> {
    match object {
        Object::Endpoint(endpoint) => Ok((endpoint, 0)),
        Object::Badge(badge) => Ok((badge.endpoint(), badge.value())),
        _ => Err(Error::WrongKind),
    }
}

/// The tag of a message that a task sends, if its lengths are in range.
fn checked(tag: u64) -> Result<Tag, Error> {
    let tag = Tag(tag);
    if tag.is_valid() || mutant::active(Mutant::Length) {
        Ok(tag)
    } else {
        Err(Error::InvalidArgument)
    }
}

impl<P: Platform> Kernel<P> {
    /// Call.
    pub fn call(
        &'static self,
        cpu: &'static Cpu,
        caller: &'static Thread,
        target: Held,
        deadline: u64,
    ) -> Outcome {
        let (endpoint, badge) = send_target(target.require(Rights::SEND)?.object)?;
        checked(caller.registers.rsi.get())?;
        self.call_endpoint(cpu, caller, endpoint, badge, deadline)
    }

    /// The call of a thread whose message is in place: a task's, or a fault's.
    fn call_endpoint(
        &'static self,
        cpu: &'static Cpu,
        caller: &'static Thread,
        endpoint: &'static Endpoint,
        badge: u64,
        deadline: u64,
    ) -> Outcome {
        let mut closed = [None; MAX_HANDLES];
        caller.badge.store(badge, Ordering::Relaxed);
        caller.endpoint.set(Some(endpoint));
        let mut waiters = endpoint.waiters();
        if waiters.is_closed() {
            return Err(Error::Closed);
        }
        let generation = caller.next_generation();
        if let Some(server) = claim_receiver(&mut waiters) {
            let delivered = self.deliver(caller, server, &mut closed);
            if let Err(error) = delivered {
                self.put_back(waiters, server);
                return Err(error);
            }
            server.set_reply(WaitRef {
                thread: caller,
                generation,
            });
            self.detach(cpu, caller);
            self.arm(cpu, caller, deadline);
            caller.publish_as(Wait::Reply, generation);
            drop(waiters);
            self.release_all(&mut closed);
            return Ok(Next::Switch(server));
        }
        if deadline != NEVER && deadline <= self.platform.now() {
            return Err(Error::NotDelivered);
        }
        self.detach(cpu, caller);
        self.arm(cpu, caller, deadline);
        waiters.queue_sender(caller);
        caller.publish_as(Wait::Send, generation);
        Ok(Next::Blocked)
    }

    /// Send: a call that waits for nothing.
    pub fn send(
        &'static self,
        cpu: &'static Cpu,
        sender: &'static Thread,
        target: Held,
    ) -> Outcome {
        let (endpoint, badge) = send_target(target.require(Rights::SEND)?.object)?;
        checked(sender.registers.rsi.get())?;
        let mut closed = [None; MAX_HANDLES];
        sender.badge.store(badge, Ordering::Relaxed);
        let mut waiters = endpoint.waiters();
        if waiters.is_closed() {
            return Err(Error::Closed);
        }
        let receiver = claim_receiver(&mut waiters).ok_or(Error::WouldBlock)?;
        if let Err(error) = self.deliver(sender, receiver, &mut closed) {
            self.put_back(waiters, receiver);
            return Err(error);
        }
        drop(waiters);
        self.release_all(&mut closed);
        self.make_ready(cpu, receiver);
        Ok(Next::Return)
    }

    /// Receive.
    pub fn receive(
        &'static self,
        cpu: &'static Cpu,
        receiver: &'static Thread,
        source: Held,
        deadline: u64,
    ) -> Outcome {
        let endpoint = receive_source(source)?;
        may_receive(receiver)?;
        let mut waiters = endpoint.waiters();
        if let Some(notification) = receiver.bound.get() {
            let bits = notification.signals().take();
            if bits != 0 {
                give_signal(receiver, bits);
                return Ok(Next::Resume);
            }
        }
        if let Some(badge) = waiters.closed_badges.pop_front() {
            drop(waiters);
            self.give_closed(receiver, badge);
            return Ok(Next::Resume);
        }
        let mut closed = [None; MAX_HANDLES];
        let mut refusals = 0;
        while let Some(sender) = waiters.senders.pop_front() {
            if !sender.claim() {
                continue;
            }
            match self.deliver(sender, receiver, &mut closed) {
                Ok(()) => {
                    let call = WaitRef {
                        thread: sender,
                        generation: sender.generation(),
                    };
                    receiver.set_reply(call);
                    sender.unclaim(Wait::Reply);
                    drop(waiters);
                    self.recheck(call);
                    self.release_all(&mut closed);
                    return Ok(Next::Resume);
                }
                Err(error) => {
                    drop(waiters);
                    self.finish_with_error(sender, error);
                    refusals += 1;
                    if refusals == REFUSALS_PER_STEP {
                        return Ok(Next::Again);
                    }
                    waiters = endpoint.waiters();
                }
            }
        }
        if waiters.is_closed() {
            return Err(Error::Destroyed);
        }
        if deadline != NEVER && deadline <= self.platform.now() {
            return Err(Error::TimedOut);
        }
        self.wait_for_message(cpu, receiver, endpoint, waiters, deadline)
    }

    /// Puts the receiver into the endpoint's queue. A signal of its bound notification finds it
    /// there or not at all: the notification's lock is held until it is published.
    fn wait_for_message(
        &'static self,
        cpu: &'static Cpu,
        receiver: &'static Thread,
        endpoint: &'static Endpoint,
        mut waiters: Guard<'static, Waiters>,
        deadline: u64,
    ) -> Outcome {
        let generation = receiver.next_generation();
        let mut signals = receiver
            .bound
            .get()
            .map(|notification| notification.signals());
        if let Some(signals) = &mut signals {
            let bits = signals.take();
            if bits != 0 {
                give_signal(receiver, bits);
                return Ok(Next::Resume);
            }
            signals.watch(WaitRef {
                thread: receiver,
                generation,
            });
        }
        receiver.endpoint.set(Some(endpoint));
        self.detach(cpu, receiver);
        self.arm(cpu, receiver, deadline);
        waiters.settle();
        waiters.receivers.push_back(receiver);
        receiver.publish_as(Wait::Receive, generation);
        Ok(Next::Blocked)
    }

    /// Reply, to the last call (`handle` 0) or to a stashed one.
    pub fn reply(
        &'static self,
        cpu: &'static Cpu,
        server: &'static Thread,
        handle: u64,
    ) -> Outcome {
        if let Some(caller) = self.answer(server, handle)? {
            self.make_ready(cpu, caller);
        }
        Ok(Next::Return)
    }

    /// ReplyReceive: where the server then waits, the caller that it answered runs next.
    pub fn reply_receive(
        &'static self,
        cpu: &'static Cpu,
        server: &'static Thread,
        source: Held,
        deadline: u64,
    ) -> Outcome {
        receive_source(source)?;
        let caller = self.answer(server, 0)?;
        let outcome = self.receive(cpu, server, source, deadline);
        match (outcome, caller) {
            (Ok(Next::Blocked), Some(caller)) => Ok(Next::Switch(caller)),
            (outcome, Some(caller)) => {
                self.make_ready(cpu, caller);
                outcome
            }
            (outcome, None) => outcome,
        }
        .inspect(|next| {
            if matches!(next, Next::Again) {
                // The reply is given: what is issued again is the Receive alone.
                server.registers.rax.set(Operation::Receive as u64);
            }
        })
    }

    /// SignalReceive: where the receiver then waits, the thread that it woke runs next.
    pub fn signal_receive(
        &'static self,
        cpu: &'static Cpu,
        receiver: &'static Thread,
        source: Held,
        notification: &'static Notification,
        bits: u64,
        deadline: u64,
    ) -> Outcome {
        receive_source(source)?;
        may_receive(receiver)?;
        let woken = self.set_bits(notification, bits);
        let outcome = self.receive(cpu, receiver, source, deadline);
        if matches!(outcome, Ok(Next::Again)) {
            // The signal is given: what is issued again is the Receive alone.
            receiver.registers.rax.set(Operation::Receive as u64);
        }
        match (outcome, woken) {
            (Ok(Next::Blocked), Some(woken)) => Ok(Next::Switch(woken)),
            (outcome, Some(woken)) => {
                self.make_ready(cpu, woken);
                outcome
            }
            (outcome, None) => outcome,
        }
    }

    /// Gives the reply to its caller, who is returned claimed; nobody, if the caller is gone.
    fn answer(
        &'static self,
        server: &'static Thread,
        handle: u64,
    ) -> Result<Option<&'static Thread>, Error> {
        checked(server.registers.rsi.get())?;
        if handle == 0 {
            let caller = server.take_reply().ok_or(Error::NoReplyPending)?;
            return self
                .give_reply(server, caller)
                .inspect_err(|_| server.set_reply(caller));
        }
        let held = server.task().handles.look_up(Handle(handle))?;
        let Object::Reply(reply) = held.object else {
            return Err(Error::WrongKind);
        };
        // Held, because the right that a refused reply puts back must not go to an object that is
        // gone: then dropping it here abandons the caller.
        let answered = self.holding(held.object, || {
            let caller = reply.take().ok_or(Error::NoReplyPending)?;
            self.give_reply(server, caller)
                .inspect_err(|_| reply.set(caller))
        })?;
        if !mutant::active(Mutant::ReplyOneShot)
            && let Ok(held) = server.task().handles.remove(self, Handle(handle))
        {
            held.release(self);
        }
        Ok(answered)
    }

    fn give_reply(
        &'static self,
        server: &'static Thread,
        caller: WaitRef,
    ) -> Result<Option<&'static Thread>, Error> {
        let thread = caller.thread;
        if !thread.claim_generation(caller.generation) {
            return Ok(None);
        }
        if thread.faulting.swap(false, Ordering::Relaxed) {
            return Ok(Some(thread));
        }
        let mut closed = [None; MAX_HANDLES];
        server.badge.store(0, Ordering::Relaxed);
        if let Err(error) = self.deliver(server, thread, &mut closed) {
            thread.unclaim(Wait::Reply);
            self.recheck(caller);
            return Err(error);
        }
        self.release_all(&mut closed);
        Ok(Some(thread))
    }

    /// Stash.
    pub fn stash(&'static self, server: &'static Thread) -> Outcome {
        let caller = server.take_reply().ok_or(Error::NoReplyPending)?;
        let stashed = self.stash_caller(server, caller);
        stashed.inspect_err(|_| server.set_reply(caller))
    }

    fn stash_caller(&'static self, server: &'static Thread, caller: WaitRef) -> Outcome {
        let task = server.task();
        let reply: &'static Reply = self.replies.allocate(self, task.quota())?;
        let held = Held {
            object: Object::Reply(reply),
            rights: Rights::TRANSFER,
        };
        let handle = task.handles.insert(self, task.quota(), held);
        if handle.is_ok() {
            reply.set(caller);
        }
        self.drop_reference(held.object);
        server.registers.rdi.set(handle?.0);
        Ok(Next::Return)
    }

    /// Moves the message of one owned thread to another, and says so in the other's registers.
    ///
    /// # Errors
    /// ReceiverFull, InvalidHandle, MissingRights, OutOfQuota: nothing was moved.
    fn deliver(
        &'static self,
        sender: &'static Thread,
        receiver: &'static Thread,
        closed: &mut Closed,
    ) -> Result<(), Error> {
        if sender.faulting.load(Ordering::Relaxed) {
            self.give_fault(sender, receiver);
            return Ok(());
        }
        let tag = Tag(sender.registers.rsi.get());
        if tag.handles() > 0 {
            self.move_handles(sender, receiver, tag.handles(), closed)?;
        }
        copy_words(sender, receiver, tag.length());
        let (from, to) = (&sender.registers, &receiver.registers);
        to.rdx.set(from.rdx.get());
        to.r8.set(from.r8.get());
        to.r9.set(from.r9.get());
        to.r10.set(from.r10.get());
        to.rsi
            .set(Tag::new(tag.label(), tag.length(), tag.handles()).0);
        to.rdi.set(sender.badge.load(Ordering::Relaxed));
        to.rax.set(0);
        Ok(())
    }

    fn move_handles(
        &'static self,
        sender: &'static Thread,
        receiver: &'static Thread,
        count: usize,
        closed: &mut Closed,
    ) -> Result<(), Error> {
        if Tag(receiver.registers.rsi.get()).accepted() < count {
            return Err(Error::ReceiverFull);
        }
        let mut wanted = [(Handle::NONE, Transfer(0)); MAX_HANDLES];
        let first = SEND_HANDLES_OFFSET / WORD_BYTES;
        for (position, entry) in wanted[..count].iter_mut().enumerate() {
            let word = |offset: usize| {
                sender.buffer()[first + 2 * position + offset].load(Ordering::Relaxed)
            };
            *entry = (Handle(word(0)), Transfer(word(1)));
        }
        let task = receiver.task();
        task.handles
            .reserve(self, task.quota(), count as u32)
            .map_err(|_| Error::ReceiverFull)?;
        let mut taken = [None; MAX_HANDLES];
        let result =
            sender
                .task()
                .handles
                .take_for_message(self, &wanted[..count], &mut taken, closed);
        if let Err(error) = result {
            task.handles.unreserve(count as u32);
            return Err(error);
        }
        let first = RECEIVED_HANDLES_OFFSET / WORD_BYTES;
        for (position, held) in taken.iter().flatten().enumerate() {
            let handle = task.handles.insert_reserved(self, *held);
            receiver.buffer()[first + position].store(handle.0, Ordering::Relaxed);
        }
        Ok(())
    }

    fn release_all(&'static self, closed: &mut Closed) {
        for held in closed.iter_mut().filter_map(Option::take) {
            held.release(self);
        }
    }

    /// Gives a claimed receiver back to the front of the queue that it stood in.
    pub(crate) fn put_back(
        &'static self,
        mut waiters: Guard<'static, Waiters>,
        receiver: &'static Thread,
    ) {
        // Read by the owner: from the next line but two on it may be somebody else's.
        let (generation, bound) = (receiver.generation(), receiver.bound.get());
        waiters.receivers.push_front(receiver);
        receiver.unclaim(Wait::Receive);
        drop(waiters);
        self.recheck(WaitRef {
            thread: receiver,
            generation,
        });
        // A signal that came meanwhile found the receiver claimed and left its bits.
        if let Some(notification) = bound
            && let Some(thread) = self.set_bits(notification, 0)
        {
            self.make_ready(self.here(), thread);
        }
    }

    /// After a claimed wait was given back: whoever tried to end it meanwhile did nothing, so it is
    /// ended here if its deadline has passed or its thread is to end. Only that very wait: the
    /// thread may be in another one by now.
    fn recheck(&'static self, wait: WaitRef) {
        let thread = wait.thread;
        let deadline = thread.deadline();
        // Another CPU's clock, a little ahead of this one's, may have had it expire already.
        let expired = deadline != NEVER && thread.timer.cpu().is_none();
        let late = deadline != NEVER && deadline <= self.platform.now();
        let doomed = thread.is_doomed();
        if (late || expired || doomed) && thread.claim_generation(wait.generation) {
            self.expire(thread);
        }
    }

    /// Ends a claimed wait whose deadline passed.
    pub fn expire(&'static self, thread: &'static Thread) {
        let error = match thread.wait_kind() {
            Wait::Send => Error::NotDelivered,
            Wait::Reply => Error::Abandoned,
            Wait::Receive | Wait::Notification | Wait::Futex | Wait::Start => Error::TimedOut,
        };
        self.leave_queue(thread);
        self.finish_with_error(thread, error);
    }

    /// Ends a claimed wait, of a thread that stands in no queue, with an error. A thread that waits
    /// for the answer to its fault ends with it.
    pub fn finish_with_error(&'static self, thread: &'static Thread, error: Error) {
        if thread.faulting.load(Ordering::Relaxed) {
            thread.doom();
        }
        thread.registers.rax.set(error.code());
        self.make_ready(self.here(), thread);
    }

    /// The reply right to a call is gone unused.
    pub fn abandon(&'static self, caller: WaitRef) {
        if caller.thread.claim_generation(caller.generation) {
            self.finish_with_error(caller.thread, Error::Abandoned);
        }
    }

    /// Takes a claimed thread out of the queue that it stands in.
    pub fn leave_queue(&'static self, thread: &'static Thread) {
        match thread.wait_kind() {
            Wait::Send | Wait::Receive => {
                if let Some(endpoint) = thread.endpoint.get() {
                    let mut waiters = endpoint.waiters();
                    let _ = waiters.senders.remove(thread) || waiters.receivers.remove(thread);
                }
            }
            Wait::Notification => {
                if let Some(notification) = thread.notification.get() {
                    notification.forget(thread);
                }
            }
            Wait::Futex => self.leave_futex(thread),
            Wait::Reply | Wait::Start => {}
        }
    }

    /// Gives a waiting receiver the kernel messages that are due at an endpoint.
    pub fn deliver_kernel_message(
        &'static self,
        endpoint: &'static Endpoint,
        mut waiters: Guard<'static, Waiters>,
    ) {
        let Some(receiver) = claim_receiver(&mut waiters) else {
            return;
        };
        match waiters.closed_badges.pop_front() {
            Some(badge) => {
                drop(waiters);
                self.give_closed(receiver, badge);
                self.make_ready(self.here(), receiver);
            }
            None => self.put_back(waiters, receiver),
        }
        let _ = endpoint;
    }

    fn give_closed(&'static self, receiver: &'static Thread, badge: &'static Badge) {
        let registers = &receiver.registers;
        registers.rax.set(0);
        registers.rdi.set(badge.value());
        registers
            .rsi
            .set(Tag::new(Label::CLOSED, 0, 0).0 | Tag::KERNEL);
        self.retire_badge(badge);
    }

    /// An exception in ring 3: the thread calls its task's fault endpoint; without one the task ends.
    pub fn fault(&'static self, cpu: &'static Cpu, vector: u8, error_code: u64, address: u64) {
        self.enter(cpu);
        let Some(thread) = cpu.current.get() else {
            return;
        };
        let number = thread.slot.number();
        self.trace(cpu, crate::trace::Kind::Fault, number, u64::from(vector));
        thread.registers.error_code.set(error_code);
        thread.fault_vector.store(vector, Ordering::Relaxed);
        thread.fault_address.store(address, Ordering::Relaxed);
        thread.faulting.store(true, Ordering::Relaxed);
        let target = thread.task().fault.get().map(send_target);
        let outcome = match target {
            Some(Ok((endpoint, badge))) => self.call_endpoint(cpu, thread, endpoint, badge, NEVER),
            _ => Err(Error::Closed),
        };
        match outcome {
            Ok(Next::Switch(next)) => self.apply(cpu, thread, Ok(Next::Switch(next))),
            Ok(_) => {}
            Err(_) => {
                // However many threads there are: this one does not go on.
                thread.doom();
                self.destroy_task(thread.task());
            }
        }
    }

    fn give_fault(&self, faulting: &'static Thread, receiver: &'static Thread) {
        let vector = faulting.fault_vector.load(Ordering::Relaxed);
        let address = faulting.fault_address.load(Ordering::Relaxed);
        let words = fault_words(faulting, vector, address);
        let to = &receiver.registers;
        to.rdx.set(words[0]);
        to.r8.set(words[1]);
        to.r9.set(words[2]);
        to.r10.set(words[3]);
        for (word, place) in words.iter().zip(receiver.buffer()).skip(REGISTER_WORDS) {
            place.store(*word, Ordering::Relaxed);
        }
        to.rdi.set(faulting.badge.load(Ordering::Relaxed));
        to.rsi.set(FAULT_TAG);
        to.rax.set(0);
    }
}

/// Copies what of a message of so many bytes does not fit the registers, from buffer to buffer.
#[inline(always)]
pub(crate) fn copy_words(sender: &'static Thread, receiver: &'static Thread, bytes: usize) {
    if bytes > REGISTER_BYTES {
        copy_buffer(sender, receiver, bytes.div_ceil(WORD_BYTES));
    }
}

/// Quadwords by fours: a string instruction counts, and on short messages costs, as much as a loop.
#[inline(always)]
fn copy_buffer(sender: &'static Thread, receiver: &'static Thread, words: usize) {
    let (from, to) = (sender.buffer(), receiver.buffer());
    let last = words.min(from.len());
    let (from, to) = (&from[REGISTER_WORDS..last], &to[REGISTER_WORDS..last]);
    let ((fours, rest), (fours_to, rest_to)) = (from.as_chunks::<4>(), to.as_chunks::<4>());
    for (from, to) in fours.iter().zip(fours_to) {
        for index in 0..4 {
            to[index].store(from[index].load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }
    for (from, to) in rest.iter().zip(rest_to) {
        to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// The tag of a fault's message.
pub(crate) const FAULT_TAG: u64 =
    Tag::new(Label::FAULT, FaultMessage::WORDS * WORD_BYTES, 0).0 | Tag::KERNEL;

/// The message of a fault, of a thread whose registers are saved.
#[inline(always)]
pub(crate) fn fault_words(
    faulting: &Thread,
    vector: u8,
    address: u64,
) -> [u64; FaultMessage::WORDS] {
    let from = &faulting.registers;
    let message = FaultMessage {
        vector: u64::from(vector),
        error_code: from.error_code.get(),
        address,
        instruction_pointer: from.rip.get(),
        stack_pointer: from.rsp.get(),
        frame_pointer: from.rbp.get(),
        flags: from.rflags.get(),
        thread: faulting.slot.number(),
        rax: from.rax.get(),
        rbx: from.rbx.get(),
        rcx: from.rcx.get(),
        rdx: from.rdx.get(),
        rsi: from.rsi.get(),
        rdi: from.rdi.get(),
    };
    message.to_words()
}

/// Whether a thread may receive: its tag is sound, and it owes nobody a reply.
fn may_receive(receiver: &Thread) -> Result<(), Error> {
    checked(receiver.registers.rsi.get())?;
    match receiver.reply_caller.get() {
        Some(_) => Err(Error::ReplyPending),
        None => Ok(()),
    }
}

/// The endpoint of a receive right.
fn receive_source(source: Held) -> Result<&'static Endpoint, Error> {
    let Object::Endpoint(endpoint) = source.object else {
        return Err(Error::WrongKind);
    };
    source.require(Rights::RECEIVE)?;
    Ok(endpoint)
}

/// Takes the receiver that has waited longest and claims it. One that somebody else has claimed is
/// taken out on the way: its owner finds it in no queue and goes on.
pub(crate) fn claim_receiver(waiters: &mut Waiters) -> Option<&'static Thread> {
    loop {
        let receiver = waiters.receivers.pop_front()?;
        if receiver.claim() {
            return Some(receiver);
        }
    }
}
