//! Explores how the CPUs of a test can take turns: for the tests of the core.
//!
//! Each CPU is a thread of the host, but only one of them goes on at a time. Before each access to an atomic
//! of the core that several CPUs access, locks included, a [`Policy`] chooses who goes on: by a list, so that
//! all schedules with few preemptions can be tried one after the other ([`Exploration::every_schedule`]), or
//! at random from a seed. What several CPUs access a first survey tells. A schedule that failed is printed;
//! the same test comes to it again.
//!
//! The machine is x86: a store stays in its CPU's store buffer, where others do not see it, until a locked
//! instruction, a fence, or the end of what the CPU does (Intel SDM volume 3A, section 8.2.2). Here it stays
//! there until then ([`Stores::Late`]), or not at all; but no longer than until a lock is given back, so that a
//! fence that is missing behind one does not show. What the compiler may reorder is not explored: that is
//! for the orderings in the source.
//!
//! A crate for this (loom, shuttle) would need the core's atomics not to be in statics, or its CPUs to be
//! coroutines of one thread; neither has store buffers.

pub mod atomics;

use crate::random::Random;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Accesses after which a run is taken to have no end.
const MOST_STEPS: u64 = 30_000_000;

/// Who goes on.
#[derive(Clone, Debug)]
pub enum Policy {
    /// The same CPU until it pauses, but for these preemptions: before which access, in rising order, and
    /// who goes on then.
    List(Vec<(u64, usize)>),
    /// Whoever chance says, once in so many accesses.
    Random(Random, usize),
}

/// When a CPU's stores are seen by the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stores {
    /// At once.
    AtOnce,
    /// As late as x86 allows.
    Late,
}

/// A store that is not seen by others: where, and what was there before it.
struct Buffered {
    address: usize,
    before: u64,
}

/// What an access does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Load,
    Store,
    /// Both at once: a locked instruction.
    Exchange,
}

/// What was done to an address in this run.
struct Place {
    /// Who was the first.
    cpu: usize,
    by_others: bool,
    loaded: bool,
    stored: bool,
}

/// Addresses that CPUs access.
#[derive(Default)]
struct Places {
    /// Those where it matters who is first: that several CPUs accessed in the same run, not only to load and
    /// not only to store.
    shared: HashSet<usize>,
    seen: HashMap<usize, Place>,
    /// Nothing is added any more, and only those that are shared count.
    is_surveyed: bool,
}

impl Places {
    /// Notes an access; whether it counts.
    fn note(&mut self, address: usize, cpu: usize, access: Access) -> bool {
        if self.is_surveyed {
            return self.shared.contains(&address);
        }
        let place = self.seen.entry(address).or_insert(Place {
            cpu,
            by_others: false,
            loaded: false,
            stored: false,
        });
        place.by_others |= place.cpu != cpu;
        place.loaded |= access != Access::Store;
        place.stored |= access != Access::Load;
        if place.by_others && place.loaded && place.stored {
            self.shared.insert(address);
        }
        true
    }
}

struct State {
    turn: usize,
    places: Places,
    live: Vec<bool>,
    policy: Policy,
    stores: Stores,
    buffers: Vec<Vec<Buffered>>,
    /// Who made each access that counts.
    trace: Vec<u8>,
    /// Turns that the policy has given to another CPU than would have gone on.
    preemptions: usize,
    /// Turns are taken where CPUs pause only.
    is_calm: bool,
    /// Accesses since then.
    calm_steps: u64,
    failed: bool,
}

struct Explorer {
    state: Mutex<State>,
    turns: Vec<Condvar>,
}

thread_local! {
    static IS_EXPLORED: Cell<bool> = const { Cell::new(false) };
    /// Accesses are not where others may go on.
    static IS_ONE_STEP: Cell<bool> = const { Cell::new(false) };
    static SELF: RefCell<Option<(Arc<Explorer>, usize)>> = const { RefCell::new(None) };
}

/// Calls a function with the explorer of the calling thread, if it has one, and with its CPU's number.
#[inline(always)]
fn explored<R>(work: impl FnOnce(&Explorer, usize) -> R) -> Option<R> {
    if !IS_EXPLORED.get() {
        return None;
    }
    SELF.with_borrow(|own| own.as_ref().map(|(explorer, me)| work(explorer, *me)))
}

/// What a run came to.
#[derive(Debug)]
pub struct Run {
    /// Who made each access that counts, and each pause.
    pub trace: Vec<u8>,
    /// Turns that the policy has given to another CPU than would have gone on.
    pub preemptions: usize,
}

/// Runs of the same CPUs and the same objects.
pub struct Exploration {
    cpus: usize,
    places: Mutex<Places>,
}

impl Exploration {
    /// One that knows nothing yet.
    pub fn new(cpus: usize) -> Exploration {
        Exploration {
            cpus,
            places: Mutex::default(),
        }
    }

    /// From now on only accesses to what several CPUs have accessed count.
    pub fn end_survey(&self) {
        self.places().is_surveyed = true;
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a function as each CPU, so that they take turns as the policy says.
    ///
    /// # Panics
    /// If one of them does.
    pub fn run(&self, policy: Policy, stores: Stores, work: impl Fn(usize) + Sync) -> Run {
        let cpus = self.cpus;
        let mut places = std::mem::take(&mut *self.places());
        places.seen.clear();
        let explorer = Arc::new(Explorer {
            state: Mutex::new(State {
                turn: 0,
                places,
                live: vec![true; cpus],
                policy,
                stores,
                buffers: (0..cpus).map(|_| Vec::new()).collect(),
                trace: Vec::new(),
                preemptions: 0,
                is_calm: false,
                calm_steps: 0,
                failed: false,
            }),
            turns: (0..cpus).map(|_| Condvar::new()).collect(),
        });
        std::thread::scope(|scope| {
            for cpu in 0..cpus {
                let (explorer, work) = (Arc::clone(&explorer), &work);
                scope.spawn(move || {
                    let member = Member::join(&explorer, cpu);
                    work(cpu);
                    drop(member);
                });
            }
        });
        let mut state = explorer.lock();
        *self.places() = std::mem::take(&mut state.places);
        Run {
            trace: std::mem::take(&mut state.trace),
            preemptions: state.preemptions,
        }
    }

    /// Tries every schedule of at most `preemptions` preemptions: before each access that counts another CPU
    /// goes on, or where one pauses another than the next, in the order in which they are numbered. With stores
    /// at once and late, each time a new attempt, which `attempt` makes and runs with the policy. Returns how
    /// many were tried.
    pub fn every_schedule(
        &self,
        preemptions: usize,
        attempt: &mut dyn FnMut(Policy, Stores) -> Run,
    ) -> usize {
        let all = [Stores::AtOnce, Stores::Late].map(|stores| {
            let mut list = Vec::new();
            self.beyond(preemptions, stores, &mut list, attempt)
        });
        all.into_iter().sum()
    }

    /// The same for schedules that begin with this list.
    fn beyond(
        &self,
        preemptions: usize,
        stores: Stores,
        list: &mut Vec<(u64, usize)>,
        attempt: &mut dyn FnMut(Policy, Stores) -> Run,
    ) -> usize {
        let tell = Tell(list.clone(), stores);
        let Run {
            trace,
            preemptions: made,
        } = attempt(Policy::List(list.clone()), stores);
        std::mem::forget(tell);
        // A place may have gone with an earlier preemption, and who was to go on may have ended.
        let mut tried = usize::from(made == list.len());
        if preemptions == 0 {
            return tried;
        }
        let first = list.last().map_or(0, |(step, _)| *step as usize + 1);
        for (step, runs) in trace.iter().enumerate().skip(first) {
            for cpu in (0..self.cpus).filter(|cpu| *cpu != usize::from(*runs)) {
                list.push((step as u64, cpu));
                tried += self.beyond(preemptions - 1, stores, list, attempt);
                list.pop();
            }
        }
        tried
    }
}

/// A CPU's part in a run, until dropped.
struct Member;

impl Member {
    fn join(explorer: &Arc<Explorer>, me: usize) -> Member {
        SELF.set(Some((Arc::clone(explorer), me)));
        IS_EXPLORED.set(true);
        explorer.wait(explorer.lock(), me);
        Member
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        explored(|explorer, me| {
            let mut state = explorer.lock();
            state.buffers[me].clear();
            state.live[me] = false;
            state.failed |= std::thread::panicking();
            if let Some(next) = state.after(me) {
                state.turn = next;
            }
            drop(state);
            explorer.turns.iter().for_each(Condvar::notify_one);
        });
        IS_EXPLORED.set(false);
        SELF.set(None);
    }
}

impl State {
    /// The next CPU after this one that has not ended.
    fn after(&self, me: usize) -> Option<usize> {
        let cpus = self.live.len();
        (1..=cpus)
            .map(|distance| (me + distance) % cpus)
            .find(|cpu| self.live[*cpu])
    }

    fn count(&mut self, me: usize) {
        if self.is_calm {
            self.calm_steps += 1;
        } else {
            self.trace.push(me as u8);
        }
        let steps = self.trace.len() as u64 + self.calm_steps;
        assert!(steps < MOST_STEPS, "it has no end");
    }

    /// Who goes on by the list, if this is the access for it.
    fn listed(&mut self) -> Option<usize> {
        let step = self.trace.len() as u64;
        let Policy::List(list) = &mut self.policy else {
            return None;
        };
        list.first().filter(|(at, _)| *at == step)?;
        let (_, cpu) = list.remove(0);
        self.live[cpu].then_some(cpu)
    }

    fn chosen(&mut self, me: usize) -> usize {
        let cpus = self.live.len();
        let by_chance = match &mut self.policy {
            Policy::Random(random, one_in) => {
                (random.below(*one_in) == 0).then(|| random.below(cpus))
            }
            Policy::List(_) => None,
        };
        let by_chance = by_chance.filter(|cpu| self.live[*cpu]);
        let chosen = by_chance.or_else(|| self.listed()).unwrap_or(me);
        self.preemptions += usize::from(chosen != me);
        chosen
    }
}

impl Explorer {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, mut state: MutexGuard<'_, State>, me: usize) {
        while state.turn != me && !state.failed {
            state = self.turns[me]
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let failed = state.failed;
        drop(state);
        if failed && !std::thread::panicking() {
            panic!("another CPU has failed");
        }
    }

    fn hand_over(&self, mut state: MutexGuard<'_, State>, me: usize, next: usize) {
        if next == me {
            return;
        }
        state.turn = next;
        self.turns[next].notify_one();
        self.wait(state, me);
    }

    /// Before an access to this address: another CPU may go on, if it counts.
    fn point(&self, me: usize, address: usize, access: Access) {
        if IS_ONE_STEP.get() {
            return;
        }
        let mut state = self.lock();
        if state.is_calm {
            state.count(me);
        } else if state.places.note(address, me, access) {
            let next = state.chosen(me);
            state.count(me);
            self.hand_over(state, me, next);
        }
    }

    /// A place where this CPU waits for others.
    fn pause(&self, me: usize) {
        let mut state = self.lock();
        state.buffers[me].clear();
        let usual = state.after(me).unwrap_or(me);
        let listed = state.listed().filter(|cpu| *cpu != usual);
        state.preemptions += usize::from(listed.is_some());
        let next = listed.unwrap_or(usual);
        // Counts, so that waiting for what never comes has an end.
        state.count(me);
        self.hand_over(state, me, next);
    }
}

/// Waits for others: they go on. False where the calling thread is not explored.
pub fn pause() -> bool {
    explored(Explorer::pause).is_some()
}

/// Calls a function as one step: for what the test does beside the kernel.
pub fn without_turns(work: impl FnOnce()) {
    IS_ONE_STEP.set(true);
    work();
    IS_ONE_STEP.set(false);
}

/// From now on CPUs take turns only where they pause: what is left is not worth exploring.
pub fn calm() {
    explored(|explorer, _| explorer.lock().is_calm = true);
}

/// Another CPU may go on here; then the lock at this address is taken, or given back, and what this CPU has
/// stored is seen. (A processor may let others see late that it is given back.)
pub fn before_lock_changes(lock: usize) {
    explored(|explorer, me| {
        explorer.point(me, lock, Access::Exchange);
        explorer.lock().buffers[me].clear();
    });
}

/// What this CPU has stored is seen from now on: for fences.
pub fn drain() {
    explored(|explorer, me| explorer.lock().buffers[me].clear());
}

/// Tells which schedule has failed.
struct Tell(Vec<(u64, usize)>, Stores);

impl Drop for Tell {
    fn drop(&mut self) {
        eprintln!(
            "failed: Policy::List(vec!{:?}), Stores::{:?}",
            self.0, self.1
        );
    }
}
