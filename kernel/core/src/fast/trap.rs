//! Interrupts and faults, by the fast path: to a thread that waits for them. The registers of the thread that
//! they came to are saved.

use super::call::waiting_server;
use super::signal::take_waiter;
use super::{Fast, NO_RESULTS, Turn, finish, take_over, urgency_here};
use crate::cpu::Cpu;
use crate::kernel::Kernel;
use crate::mutant::{self, Mutant};
use crate::platform::Platform;
use crate::rendezvous::{FAULT_TAG, REGISTER_WORDS, fault_words};
use crate::sync::Ordering;
use crate::thread::{Thread, Wait, WaitRef};
use ipc::message::NEVER;

impl<P: Platform> Kernel<P> {
    /// An interrupt that a more urgent thread waits for than the one that runs, whose registers are saved.
    #[inline(always)]
    pub fn fast_interrupt(
        &'static self,
        cpu: &'static Cpu,
        thread: &'static Thread,
        vector: u8,
    ) -> Option<Fast> {
        let interrupt = self.vectors.edge(vector)?;
        let notification = interrupt.notification()?;
        let mut signals = notification.try_signals()?;
        let bits = interrupt.bits();
        if mutant::active(Mutant::EndOfInterrupt) {
            return None;
        }
        let Some(waiter) = signals.waiter() else {
            return self.interrupt_receiver(cpu, thread, signals, bits);
        };
        let woken = waiter.thread;
        let terms = woken.terms();
        let wanted = urgency_here(cpu, terms)?;
        let queue = cpu.try_run_queue()?;
        let running = urgency_here(cpu, thread.terms())?;
        // What a preempted thread has of a slice is the slow path's to remember.
        let in_order = wanted > running && queue.top() < running;
        if !in_order || signals.bits() | bits == 0 {
            return None;
        }
        let results = take_waiter(cpu, &mut signals, waiter, bits)?;
        self.platform.end_of_interrupt();
        cpu.counters.interrupts.add(1);
        if woken.terms() != terms {
            finish(woken, results);
            return Some(Fast::Wakes(woken, NO_RESULTS));
        }
        self.charge(cpu, thread);
        cpu.current.set(Some(woken));
        cpu.counters.switches.add(1);
        self.preempt_for(cpu, thread, running, queue, woken, wanted);
        Some(Fast::Runs(woken, results))
    }

    /// A fault, of a thread whose registers are saved, to a server that waits for it.
    #[inline(always)]
    pub fn fast_fault(
        &'static self,
        cpu: &'static Cpu,
        thread: &'static Thread,
        vector: u8,
        address: u64,
    ) -> Option<Fast> {
        urgency_here(cpu, thread.terms())?;
        let (endpoint, badge) = thread.task().fault_target()?;
        let (mut waiters, server) = waiting_server(endpoint.get())?;
        let turn = take_over(cpu, thread, server, server.terms(), || server.take())?;
        waiters.receivers.pop_known(server);
        let words = fault_words(thread, vector, address);
        for (word, place) in words.iter().zip(server.buffer()).skip(REGISTER_WORDS) {
            place.store(*word, Ordering::Relaxed);
        }
        let results = [badge, FAULT_TAG, words[0], words[1], words[2], words[3]];
        let generation = thread.next_generation_of_active();
        thread.faulting.store(true, Ordering::Relaxed);
        server.set_reply(WaitRef { thread, generation });
        thread.set_deadline(NEVER);
        self.charge(cpu, thread);
        cpu.current.set(Some(server));
        thread.publish_as(Wait::Reply, generation);
        drop(waiters);
        if let Turn::Later = turn {
            return Some(Fast::Queue(server, results));
        }
        cpu.counters.switches.add(1);
        server.count_switch();
        self.load_space_at_home(cpu, server.task());
        Some(Fast::Runs(server, results))
    }
}
