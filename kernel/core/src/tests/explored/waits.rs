//! Waits in Receive and Call that signals, messages and deadlines end on one CPU while another interferes, and
//! deadlines for which an entry of an earlier wait stands.

use super::super::bench::{TestKernel, give, pause};
use super::super::cast::{Ask, Cast, Outcome, ask};
use super::{explore, tag};
use crate::object::Object;
use crate::sync::Ordering;
use crate::task::Task;
use ipc::info::ThreadParameter;
use ipc::message::NEVER;
use ipc::{Error, Label, Operation as O, Rights, Tag};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering as Order};

fn now(kernel: TestKernel) -> u64 {
    kernel.platform.time.load(Ordering::Relaxed)
}

/// A server with an endpoint and a bound notification, and what others may do to it.
struct Bound {
    home: &'static Task,
    receive: u64,
    bind: u64,
    endpoint: Object,
    bell: Object,
}

impl Bound {
    fn new(kernel: TestKernel, cast: &mut Cast) -> Bound {
        let endpoint = Object::Endpoint(kernel.make_endpoint(&kernel.root_quota).unwrap());
        let bell = Object::Notification(kernel.make_notification(&kernel.root_quota).unwrap());
        let home = cast.home();
        Bound {
            home,
            receive: give(kernel, home, endpoint, Rights::RECEIVE).0,
            bind: give(kernel, home, bell, Rights::ALL).0,
            endpoint,
            bell,
        }
    }

    /// Gives a task the rights to call it and to signal it, and the others their references back.
    fn sends(&self, kernel: TestKernel, to: &'static Task) -> [u64; 2] {
        [
            give(kernel, to, self.endpoint, Rights::SEND).0,
            give(kernel, to, self.bell, Rights::SIGNAL).0,
        ]
    }

    fn drop_references(&self, kernel: TestKernel) {
        kernel.drop_reference(self.endpoint);
        kernel.drop_reference(self.bell);
    }

    /// Answers calls with their complements and hears signals, until it has heard all of `bits` and answered
    /// `goodbyes` calls with 0. Its first waits have deadlines, each later than the one before.
    fn script(
        &self,
        bits: u64,
        mut goodbyes: u64,
        mut deadlines: impl Iterator<Item = u64> + Send + 'static,
    ) -> impl FnMut(Option<Outcome>) -> Option<Ask> + Send + 'static {
        let (receive, bind) = (self.receive, self.bind);
        let (mut heard, mut is_bound, mut is_last) = (0, false, false);
        move |outcome| {
            let Some(outcome) = outcome else {
                return Some(ask(O::NotificationBind, &[bind]));
            };
            if is_last {
                return None;
            }
            let mut answer = None;
            match outcome {
                _ if !is_bound => is_bound = true,
                Ok([_, tag, word, ..]) if Tag(tag).label() == Label::SIGNAL => {
                    assert_eq!(heard & word, 0, "a signal that was heard already");
                    heard |= word;
                }
                Ok([_, _, word, ..]) => {
                    goodbyes -= u64::from(word == 0);
                    answer = Some(!word);
                }
                Err(error) => assert_eq!(error, Error::TimedOut),
            }
            is_last = heard == bits && goodbyes == 0;
            let next = match (answer, is_last) {
                (Some(word), true) => ask(O::Reply, &[0, tag(), word]),
                (Some(word), false) => ask(O::ReplyReceive, &[receive, tag(), word]),
                (None, true) => return None,
                (None, false) => ask(O::Receive, &[receive, tag()]),
            };
            Some(next.until(deadlines.next().unwrap_or(NEVER)))
        }
    }
}

/// The ringer is less urgent than the server or more, and where the server is; the caller is elsewhere.
#[test]
fn receiver_hears_its_neighbour_and_a_stranger_once() {
    for urgency in [9, 12] {
        explore(2, |kernel, cast| {
            let server = Bound::new(kernel, cast);
            let [ringer, caller] = [0; 2].map(|_| cast.home());
            let [_, ring] = server.sends(kernel, ringer);
            let [send, _] = server.sends(kernel, caller);
            server.drop_references(kernel);
            let own = Object::Endpoint(kernel.make_endpoint(&kernel.root_quota).unwrap());
            let receive = give(kernel, ringer, own, Rights::RECEIVE).0;
            kernel.drop_reference(own);
            let start = now(kernel);
            let deadlines = (1..4).map(move |wait| start + 1_500 * wait);
            cast.add(server.home, 11, 0b01, server.script(0b111, 1, deadlines));
            let mut step = 0;
            cast.add(ringer, urgency, 0b01, move |outcome| {
                step += 1;
                match (step, outcome) {
                    (1, None) => Some(ask(O::Signal, &[ring, 1])),
                    (2 | 3, Some(Ok(_) | Err(Error::TimedOut))) => {
                        let bits = 1 << (step - 1);
                        let arguments = [receive, tag(), ring, bits];
                        Some(ask(O::SignalReceive, &arguments).until(start + 2_000 * step))
                    }
                    (4, Some(Err(Error::TimedOut))) => None,
                    other => panic!("{other:?}"),
                }
            });
            cast.add(caller, 10, 0b10, super::client(send, [0]));
            Box::new(|| {})
        });
    }
}

/// Client and server are where they switch to each other at once; another client is elsewhere. The server has
/// a bound notification, so that its replies take the longer of the short ways.
#[test]
fn calls_and_replies_with_deadlines_end_once() {
    explore(2, |kernel, cast| {
        let server = Bound::new(kernel, cast);
        let start = now(kernel);
        for (cpus, word) in [(0b01, 5), (0b10, 6)] {
            let home = cast.home();
            let [send, _] = server.sends(kernel, home);
            let mut step = 0;
            cast.add(home, 10, cpus, move |outcome| {
                step += 1;
                let timely = match outcome {
                    Some(Ok([_, _, answer, ..])) => answer == if step == 4 { !0 } else { !word },
                    Some(Err(Error::NotDelivered | Error::Abandoned)) => step < 4,
                    Some(Err(_)) => false,
                    None => true,
                };
                assert!(timely, "{step}: {outcome:?}");
                let call = |word| ask(O::Call, &[send, tag(), word]);
                match step {
                    1 | 2 => Some(call(word).until(start + 2_000 * step)),
                    3 => Some(call(0)),
                    _ => None,
                }
            });
        }
        server.drop_references(kernel);
        let deadlines = (1..6).map(move |wait| start + 1_500 * wait);
        cast.add(server.home, 11, 0b01, server.script(0, 2, deadlines));
        Box::new(|| {})
    });
}

/// A thread is moved between two CPUs while it waits again and again, each time a little longer: no wait ends
/// before its deadline, and each ends.
#[test]
fn later_deadline_ends_its_own_wait_wherever_the_earlier_one_was_noted() {
    explore(2, |kernel, cast| {
        let server = Bound::new(kernel, cast);
        let [ringer, mover] = [0; 2].map(|_| cast.home());
        let [_, ring] = server.sends(kernel, ringer);
        let start = now(kernel);
        let (bind, receive) = (server.bind, server.receive);
        let ended = Arc::new(AtomicU64::new(0));
        let (times, mut wait) = (Arc::clone(&ended), 0_u64);
        let sleeper = cast.add(server.home, 10, 0b11, move |outcome| {
            let deadline = |wait: u64| start + 1_200 * wait;
            match outcome {
                None => return Some(ask(O::NotificationBind, &[bind])),
                Some(Err(error)) => {
                    assert_eq!(error, Error::TimedOut);
                    assert!(now(kernel) >= deadline(wait), "too early");
                    times.fetch_add(1, Order::SeqCst);
                }
                Some(Ok(_)) => {}
            }
            wait += 1;
            (wait < 6).then(|| ask(O::Receive, &[receive, tag()]).until(deadline(wait)))
        });
        server.drop_references(kernel);
        let mut bells = 0..2;
        cast.add(ringer, 10, 0b01, move |_| {
            pause();
            bells.next().map(|bell| ask(O::Signal, &[ring, 1 << bell]))
        });
        let handle = give(kernel, mover, Object::Thread(sleeper), Rights::ALL).0;
        let affinity = ThreadParameter::Affinity as u64;
        let mut places = [0b10, 0b01, 0b11].into_iter();
        cast.add(mover, 10, 0b10, move |_| {
            pause();
            let next = places.next()?;
            Some(ask(O::ThreadSet, &[handle, affinity, next]))
        });
        Box::new(move || assert!(ended.load(Order::SeqCst) >= 3, "two were ended by signals"))
    });
}
