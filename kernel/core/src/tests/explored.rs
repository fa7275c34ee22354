//! Small dramas on two or three CPUs, each with one preemption before each access that counts, and at random
//! with more: what two CPUs do to one wait, endpoint, reply, notification, thread or address space at once.

use super::bench::{TestKernel, give, kernel, pause};
use super::cast::{Ask, Cast, Outcome, ask};
use crate::explore::{Exploration, Policy, Run, Stores};
use crate::object::Object;
use crate::random::Random;
use crate::sync::Ordering;
use crate::task::Task;
use ipc::info::ThreadParameter;
use ipc::{Error, Label, Operation as O, Rights, Tag};
use std::sync::atomic::{AtomicU64, Ordering as Order};
use std::sync::{Arc, Mutex};

mod machine;
mod waits;

/// Schedules of the survey.
const SURVEY: u64 = 40;
/// Schedules at random of each drama, beside those with one preemption.
const RANDOM: u64 = 300;
/// Of those, after how many accesses somebody else goes on.
const PACES: [usize; 3] = [3, 15, 60];

type Log<T> = Arc<Mutex<Vec<T>>>;

/// Plays a drama, which `cast` casts with a check of what came of it, in all these orders. What it leaves
/// behind is counted.
fn explore(cpus: usize, cast: impl Fn(TestKernel, &mut Cast) -> Box<dyn Fn()>) {
    let kernel = kernel(cpus);
    let exploration = Exploration::new(cpus);
    let mut left = None;
    let mut attempt = |policy: Policy, stores: Stores| {
        let mut threads = Cast::new(kernel);
        let check = cast(kernel, &mut threads);
        let run = threads.play(&exploration, policy, stores);
        check();
        let now = [
            kernel.tasks.live(),
            kernel.threads.live(),
            kernel.endpoints.live(),
            kernel.notifications.live(),
            kernel.memories.live(),
            kernel.replies.live(),
            kernel.open_handles.load(Ordering::Relaxed),
        ];
        assert_eq!(*left.get_or_insert(now), now, "something is left behind");
        run
    };
    try_all(&exploration, preemptions(), 20, &mut attempt);
    for seed in 0..RANDOM {
        let stores = if seed % 3 == 0 {
            Stores::AtOnce
        } else {
            Stores::Late
        };
        let pace = PACES[seed as usize % PACES.len()];
        println!("seed {seed}, {stores:?}, pace {pace}");
        attempt(Policy::Random(Random::new(seed), pace), stores);
    }
}

/// A survey, in which somebody else goes on once in `pace` accesses, then every schedule of so many preemptions.
fn try_all(
    exploration: &Exploration,
    preemptions: usize,
    pace: usize,
    attempt: &mut dyn FnMut(Policy, Stores) -> Run,
) {
    for seed in 0..SURVEY {
        println!("survey, seed {seed}, pace {pace}");
        attempt(Policy::Random(Random::new(seed), pace), Stores::AtOnce);
    }
    exploration.end_survey();
    let tried = exploration.every_schedule(preemptions, attempt);
    println!("{tried} schedules");
    assert!(tried > 100, "there was nothing to explore: {tried}");
}

/// Preemptions of all schedules that are tried: with 2, a drama takes an hour rather than seconds.
fn preemptions() -> usize {
    let given = std::env::var("KERNEL_EXPLORE_PREEMPTIONS").ok();
    given.and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// A message of one word.
fn tag() -> u64 {
    Tag::new(Label(5), 8, 0).0
}

#[test]
fn wait_is_ended_once() {
    explore(2, |kernel, cast| {
        let made = kernel.make_notification(&kernel.root_quota).unwrap();
        let object = Object::Notification(made);
        let (one, two) = (cast.home(), cast.home());
        let wait = give(kernel, one, object, Rights::ALL).0;
        let signal = give(kernel, two, object, Rights::ALL).0;
        kernel.drop_reference(object);
        let deadline = kernel.platform.time.load(Ordering::Relaxed) + 1_500;
        let seen = Arc::new(AtomicU64::new(0));
        let (mut waits, bits) = (0, Arc::clone(&seen));
        cast.add(one, 10, 0b01, move |outcome| {
            match outcome {
                None => {}
                Some(Ok([taken, ..])) => {
                    assert_ne!(taken, 0, "a wait without bits");
                    assert_eq!(bits.fetch_or(taken, Order::SeqCst) & taken, 0, "twice");
                }
                Some(Err(error)) => assert_eq!(error, Error::TimedOut),
            }
            waits += 1;
            let all = bits.load(Order::SeqCst) == 3;
            let last = if waits == 1 { deadline } else { u64::MAX };
            (!all).then(|| ask(O::Wait, &[wait]).until(last))
        });
        let mut bits = [1, 2].into_iter();
        cast.add(two, 10, 0b10, move |outcome| {
            assert!(outcome.is_none_or(|outcome| outcome.is_ok()));
            bits.next().map(|bit| ask(O::Signal, &[signal, bit]))
        });
        Box::new(move || assert_eq!(seen.load(Order::SeqCst), 3))
    });
}

/// A server of one task, with an endpoint from which it has the right to receive, and which the others get
/// the right to send to. It answers each message with its complement, and ends when it has answered
/// `goodbyes` that are 0.
fn serve(
    kernel: TestKernel,
    cast: &mut Cast,
    clients: &[&'static Task],
    cpus: u64,
    mut goodbyes: u64,
) -> Vec<u64> {
    let made = kernel.make_endpoint(&kernel.root_quota).unwrap();
    let object = Object::Endpoint(made);
    let server = cast.home();
    let receive = give(kernel, server, object, Rights::RECEIVE).0;
    let sends = clients
        .iter()
        .map(|client| give(kernel, client, object, Rights::SEND).0);
    let sends = sends.collect();
    kernel.drop_reference(object);
    let mut replying = false;
    cast.add(server, 11, cpus, move |outcome| match outcome {
        None => Some(ask(O::Receive, &[receive, tag()])),
        Some(_) if replying => None,
        Some(outcome) => {
            let [_, _, word, ..] = outcome.expect("a message");
            goodbyes -= u64::from(word == 0);
            replying = goodbyes == 0;
            match replying {
                true => Some(ask(O::Reply, &[0, tag(), !word])),
                false => Some(ask(O::ReplyReceive, &[receive, tag(), !word])),
            }
        }
    });
    sends
}

/// A client that calls with these words, one after the other, and gets each answered.
fn client(
    send: u64,
    words: impl IntoIterator<Item = u64, IntoIter: Send + 'static>,
) -> impl FnMut(Option<Outcome>) -> Option<Ask> + Send + 'static {
    let (mut words, mut last) = (words.into_iter(), 0);
    move |outcome| {
        if let Some(outcome) = outcome {
            assert_eq!(outcome.expect("an answer")[2], !last, "another's answer");
        }
        last = words.next()?;
        Some(ask(O::Call, &[send, tag(), last]))
    }
}

#[test]
fn two_callers_get_their_own_answers() {
    // The server where one of them is, where neither is, and wherever there is room.
    for (cpus, server) in [(2, 0b001), (3, 0b100), (3, 0b111)] {
        explore(cpus, |kernel, cast| {
            let clients = [cast.home(), cast.home()];
            let sends = serve(kernel, cast, &clients, server, 2);
            cast.add(clients[0], 10, 0b001, client(sends[0], [5, 0]));
            cast.add(clients[1], 10, 0b010, client(sends[1], [6, 0]));
            Box::new(|| {})
        });
    }
}

#[test]
fn reply_and_deadline_end_a_call_once() {
    explore(2, |kernel, cast| {
        let caller = cast.home();
        let sends = serve(kernel, cast, &[caller], 0b10, 1);
        let deadline = kernel.platform.time.load(Ordering::Relaxed) + 1_500;
        let mut calls = 0;
        cast.add(caller, 10, 0b01, move |outcome| {
            calls += 1;
            match (calls, outcome) {
                (1, None) => Some(ask(O::Call, &[sends[0], tag(), 7]).until(deadline)),
                (2, Some(Ok([_, _, word, ..]))) => {
                    assert_eq!(word, !7);
                    Some(ask(O::Call, &[sends[0], tag(), 0]))
                }
                (2, Some(Err(error))) => {
                    let timely = [Error::NotDelivered, Error::Abandoned];
                    assert!(timely.contains(&error), "{error:?}");
                    Some(ask(O::Call, &[sends[0], tag(), 0]))
                }
                (3, Some(outcome)) => {
                    assert_eq!(outcome.expect("an answer")[2], !0);
                    None
                }
                other => panic!("{other:?}"),
            }
        });
        Box::new(|| {})
    });
}

#[test]
fn stashed_reply_is_given_or_abandoned_once() {
    explore(3, |kernel, cast| {
        let object = Object::Endpoint(kernel.make_endpoint(&kernel.root_quota).unwrap());
        let [server, caller] = [0; 2].map(|_| cast.home());
        let receive = give(kernel, server, object, Rights::RECEIVE).0;
        let send = give(kernel, caller, object, Rights::SEND).0;
        kernel.drop_reference(object);
        let log: Log<Outcome> = Log::default();
        let answers = Arc::clone(&log);
        cast.add(caller, 10, 0b001, move |outcome| {
            answers.lock().unwrap().extend(outcome);
            let first = outcome.is_none();
            first.then(|| ask(O::Call, &[send, tag(), 7]))
        });
        let stashed = Stage::default();
        let (right, mut step) = (stashed.clone(), 0);
        cast.add(server, 11, 0b010, move |outcome| {
            step += 1;
            Some(match (step, outcome) {
                (1, None) => ask(O::Receive, &[receive, tag()]),
                (2, Some(Ok([_, _, 7, ..]))) => ask(O::Stash, &[]),
                (3, Some(Ok([handle, ..]))) => {
                    right.next(handle);
                    ask(O::Reply, &[handle, tag(), !7])
                }
                (4, Some(Ok(_) | Err(Error::InvalidHandle))) => return None,
                other => panic!("{other:?}"),
            })
        });
        // Another thread of the server closes the right that is about to be used.
        cast.add(server, 11, 0b100, move |outcome| match outcome {
            None => {
                stashed.wait_for(1);
                Some(ask(O::Close, &[stashed.now()]))
            }
            Some(Ok(_) | Err(Error::InvalidHandle)) => None,
            Some(other) => panic!("{other:?}"),
        });
        Box::new(move || match log.lock().unwrap().as_slice() {
            [Ok([_, _, word, ..])] => assert_eq!(*word, !7),
            [Err(error)] => assert_eq!(*error, Error::Abandoned),
            other => panic!("{other:?}"),
        })
    });
}

#[test]
fn signal_and_call_both_reach_a_bound_receiver() {
    explore(3, |kernel, cast| {
        let endpoint = Object::Endpoint(kernel.make_endpoint(&kernel.root_quota).unwrap());
        let bell = Object::Notification(kernel.make_notification(&kernel.root_quota).unwrap());
        let [server, caller, ringer] = [0; 3].map(|_| cast.home());
        let receive = give(kernel, server, endpoint, Rights::RECEIVE).0;
        let bind = give(kernel, server, bell, Rights::ALL).0;
        let send = give(kernel, caller, endpoint, Rights::SEND).0;
        let ring = give(kernel, ringer, bell, Rights::SIGNAL).0;
        kernel.drop_reference(endpoint);
        kernel.drop_reference(bell);
        let log: Log<&str> = Log::default();
        let (events, mut step) = (Arc::clone(&log), 0);
        cast.add(server, 11, 0b001, move |outcome| {
            step += 1;
            let Some(Ok([_, found, word, ..])) = outcome.filter(|_| step > 2) else {
                return Some(match step {
                    1 => ask(O::NotificationBind, &[bind]),
                    _ => ask(O::Receive, &[receive, tag()]),
                });
            };
            let mut events = events.lock().unwrap();
            if step == 5 {
                return None;
            }
            if Tag(found).label() == Label::SIGNAL {
                assert_eq!(word, 4);
                events.push("signal");
                return Some(match events.len() {
                    1 => ask(O::Receive, &[receive, tag()]),
                    _ => ask(O::Yield, &[]),
                });
            }
            assert_eq!(word, 9);
            events.push("call");
            Some(match events.len() {
                1 => ask(O::ReplyReceive, &[receive, tag(), !word]),
                _ => ask(O::Reply, &[0, tag(), !word]),
            })
        });
        cast.add(caller, 10, 0b010, client(send, [9]));
        let mut rung = false;
        cast.add(ringer, 10, 0b100, move |_| {
            let first = !std::mem::replace(&mut rung, true);
            first.then(|| ask(O::Signal, &[ring, 4]))
        });
        Box::new(move || {
            let mut events = log.lock().unwrap().clone();
            events.sort_unstable();
            assert_eq!(events, ["call", "signal"]);
        })
    });
}

/// A thread signals another by the call by which it then waits for the other's signal: each hears of the other
/// once, whether the other waited already or not.
#[test]
fn signal_before_receiving_is_heard_and_answered() {
    explore(2, |kernel, cast| {
        let homes = [0; 2].map(|_| cast.home());
        let bells = [0; 2]
            .map(|_| Object::Notification(kernel.make_notification(&kernel.root_quota).unwrap()));
        let log: Log<u64> = Log::default();
        for (own, other) in [(0, 1), (1, 0)] {
            let endpoint = Object::Endpoint(kernel.make_endpoint(&kernel.root_quota).unwrap());
            let receive = give(kernel, homes[own], endpoint, Rights::RECEIVE).0;
            kernel.drop_reference(endpoint);
            let bind = give(kernel, homes[own], bells[own], Rights::ALL).0;
            let ring = give(kernel, homes[own], bells[other], Rights::SIGNAL).0;
            let (heard, mut step) = (Arc::clone(&log), 0);
            cast.add(homes[own], 10, 1 << own, move |outcome| {
                step += 1;
                match (step, own) {
                    (1, _) => Some(ask(O::NotificationBind, &[bind])),
                    (2, 0) => Some(ask(O::Receive, &[receive, tag()])),
                    (2, _) => Some(ask(O::SignalReceive, &[receive, tag(), ring, 2])),
                    (3, _) => {
                        let [_, found, bits, ..] = outcome.unwrap().unwrap();
                        assert_eq!(Tag(found).label(), Label::SIGNAL);
                        heard.lock().unwrap().push(bits);
                        (own == 0).then(|| ask(O::Signal, &[ring, 1]))
                    }
                    _ => None,
                }
            });
        }
        for bell in bells {
            kernel.drop_reference(bell);
        }
        Box::new(move || {
            let mut heard = log.lock().unwrap().clone();
            heard.sort_unstable();
            assert_eq!(heard, [1, 2]);
        })
    });
}

#[test]
fn end_of_an_endpoint_ends_every_wait_for_it_once() {
    explore(3, |kernel, cast| {
        let object = Object::Endpoint(kernel.make_endpoint(&kernel.root_quota).unwrap());
        let [server, caller, ender] = [0; 3].map(|_| cast.home());
        let receive = give(kernel, server, object, Rights::RECEIVE).0;
        let send = give(kernel, caller, object, Rights::SEND).0;
        let end = give(kernel, ender, object, Rights::ALL).0;
        kernel.drop_reference(object);
        let log: Log<Outcome> = Log::default();
        let (answers, mut calls) = (Arc::clone(&log), 0);
        cast.add(caller, 10, 0b001, move |outcome| {
            calls += 1;
            answers.lock().unwrap().extend(outcome);
            (calls < 2).then(|| ask(O::Call, &[send, tag(), 8]))
        });
        let mut answered = false;
        cast.add(server, 10, 0b010, move |outcome| match outcome {
            None => Some(ask(O::Receive, &[receive, tag()])),
            Some(Ok([_, _, word, ..])) if !answered => {
                assert_eq!(word, 8);
                answered = true;
                Some(ask(O::ReplyReceive, &[receive, tag(), !word]))
            }
            Some(outcome) => {
                let gone = [Error::Destroyed, Error::InvalidHandle];
                let error = outcome.expect_err("nobody calls a second time");
                assert!(gone.contains(&error), "{error:?}");
                None
            }
        });
        let mut ended = false;
        cast.add(ender, 10, 0b100, move |_| {
            let first = !std::mem::replace(&mut ended, true);
            first.then(|| ask(O::Destroy, &[end]))
        });
        Box::new(move || match log.lock().unwrap().as_slice() {
            [Ok([_, _, word, ..])] => assert_eq!(*word, !8),
            [Err(error)] => {
                let gone = [
                    Error::NotDelivered,
                    Error::Abandoned,
                    Error::Closed,
                    Error::InvalidHandle,
                ];
                assert!(gone.contains(error), "{error:?}");
            }
            other => panic!("{other:?}"),
        })
    });
}

#[test]
fn task_destroyed_while_it_is_woken_ends_once() {
    explore(3, |kernel, cast| {
        let object = Object::Notification(kernel.make_notification(&kernel.root_quota).unwrap());
        let [waiter, ringer, ender] = [0; 3].map(|_| cast.home());
        let wait = give(kernel, waiter, object, Rights::ALL).0;
        let ring = give(kernel, ringer, object, Rights::ALL).0;
        let end = give(kernel, ender, Object::Task(waiter), Rights::ALL).0;
        kernel.drop_reference(object);
        cast.add(waiter, 10, 0b001, move |outcome| {
            assert!(outcome.is_none_or(|outcome| outcome.is_ok_and(|taken| taken[0] == 1)));
            Some(ask(O::Wait, &[wait]))
        });
        let mut times = 0..2;
        cast.add(ringer, 10, 0b010, move |_| {
            times.next().map(|_| ask(O::Signal, &[ring, 1]))
        });
        let mut ended = false;
        cast.add(ender, 10, 0b100, move |_| {
            let first = !std::mem::replace(&mut ended, true);
            first.then(|| ask(O::Destroy, &[end]))
        });
        Box::new(|| {})
    });
}

#[test]
fn thread_that_is_moved_runs_on_one_cpu() {
    explore(2, |kernel, cast| {
        let [mover, moved] = [0; 2].map(|_| cast.home());
        // While there is one more, the thread waits where it can be stolen from.
        let mut more = 0..2;
        let filler = cast.home();
        cast.add(filler, 12, 0b10, move |_| {
            more.next().map(|_| ask(O::Yield, &[]))
        });
        let mut turns = 0..6;
        let thread = cast.add(moved, 10, 0b11, move |_| {
            turns.next().map(|_| ask(O::Yield, &[]))
        });
        let handle = give(kernel, mover, Object::Thread(thread), Rights::ALL).0;
        let set = |parameter, value| ask(O::ThreadSet, &[handle, parameter as u64, value]);
        let mut steps = [
            set(ThreadParameter::Affinity, 0b10),
            set(ThreadParameter::Priority, 9),
            set(ThreadParameter::Affinity, 0b01),
            set(ThreadParameter::Priority, 11),
            set(ThreadParameter::Affinity, 0b11),
            set(ThreadParameter::Priority, 10),
        ]
        .into_iter();
        cast.add(mover, 12, 0b01, move |outcome| {
            pause();
            let ended = [Error::InvalidHandle, Error::Destroyed];
            if let Some(Err(error)) = outcome {
                assert!(ended.contains(&error), "{error:?}");
            }
            steps.next()
        });
        Box::new(|| {})
    });
}

#[test]
fn urgent_thread_does_not_wait_while_others_call_each_other() {
    explore(2, |kernel, cast| {
        let bell = Object::Notification(kernel.make_notification(&kernel.root_quota).unwrap());
        let [caller, urgent, ringer] = [0; 3].map(|_| cast.home());
        let sends = serve(kernel, cast, &[caller], 0b01, 1);
        let wait = give(kernel, urgent, bell, Rights::ALL).0;
        let ring = give(kernel, ringer, bell, Rights::ALL).0;
        kernel.drop_reference(bell);
        // The one who calls is more urgent than the one who is woken, but who is called is not.
        let mut calls = client(sends[0], [1, 2, 3, 0]);
        cast.add(caller, 30, 0b01, move |outcome| {
            pause();
            calls(outcome)
        });
        let mut heard = 0;
        cast.add(urgent, 20, 0b01, move |outcome| {
            heard |= outcome.map_or(0, |outcome| outcome.expect("bits")[0]);
            (heard != 3).then(|| ask(O::Wait, &[wait]))
        });
        // Its end would make other CPUs look again: not before they had to.
        let mut turns = 0..12;
        cast.add(ringer, 10, 0b10, move |_| {
            pause();
            turns.next().map(|turn| match turn {
                1 => ask(O::Signal, &[ring, 1]),
                3 => ask(O::Signal, &[ring, 2]),
                _ => ask(O::Yield, &[]),
            })
        });
        Box::new(|| {})
    });
}

/// How far the threads of an address space are.
#[derive(Clone, Default)]
struct Stage(Arc<AtomicU64>);

impl Stage {
    fn next(&self, stage: u64) {
        self.0.store(stage, Order::SeqCst);
    }

    fn now(&self) -> u64 {
        self.0.load(Order::SeqCst)
    }

    fn wait_for(&self, stage: u64) {
        while self.now() < stage {
            pause();
        }
    }
}
