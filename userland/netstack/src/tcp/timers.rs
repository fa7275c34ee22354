//! When each connection wants to be looked at again: a queue that does not change with every segment.
//!
//! A segment moves its connection's deadline, nearly always to later. The entry in the queue stays where it
//! is: one that is earlier than the deadline stands for it, and is renewed when it comes up. So no
//! connection is late, the queue has one entry a connection at most, and a look that was too early
//! costs one renewal.

use alloc::vec::Vec;

use slotmap::SecondaryMap;

use super::ConnectionId;
use crate::time::Nanoseconds;

/// The deadline of a connection.
#[derive(Clone, Copy, Debug)]
struct Timer {
    due: Option<Nanoseconds>,
    /// The place of its entry in the queue.
    place: Option<usize>,
}

/// The deadlines of all connections.
#[derive(Debug, Default)]
pub(super) struct Timers {
    timers: SecondaryMap<ConnectionId, Timer>,
    /// A binary heap: no entry comes up before the one at half its place.
    queue: Vec<(Nanoseconds, ConnectionId)>,
}

impl Timers {
    /// Says when a connection is due, in place of what was said before; `None`: not by time.
    pub(super) fn set(&mut self, id: ConnectionId, due: Option<Nanoseconds>) {
        let place = match self.timers.get_mut(id) {
            Some(timer) => {
                timer.due = due;
                timer.place
            }
            None if due.is_none() => return,
            None => {
                self.timers.insert(id, Timer { due, place: None });
                None
            }
        };
        let Some(due) = due else {
            return;
        };
        match place {
            Some(place) if self.queue[place].0 <= due => {}
            Some(place) => self.rise(place, (due, id)),
            None => {
                self.queue.push((due, id));
                self.rise(self.queue.len() - 1, (due, id));
            }
        }
    }

    /// Forgets a connection.
    pub(super) fn remove(&mut self, id: ConnectionId) {
        if let Some(place) = self.timers.remove(id).and_then(|timer| timer.place) {
            self.take(place);
        }
    }

    /// A connection that is due, and from now on is not.
    pub(super) fn next_due(&mut self, now: Nanoseconds) -> Option<ConnectionId> {
        loop {
            let (moment, id) = self.queue.first().copied()?;
            if moment > now {
                return None;
            }
            match self.timers.get(id).and_then(|timer| timer.due) {
                Some(due) if due > now => self.sink(0, (due, id)),
                due => {
                    self.take(0);
                    if let Some(timer) = self.timers.get_mut(id) {
                        *timer = Timer {
                            due: None,
                            place: None,
                        };
                    }
                    if due.is_some() {
                        return Some(id);
                    }
                }
            }
        }
    }

    /// When [`Timers::next_due`] is to be asked: not after any connection is due. It may have nothing to
    /// give then, and this moment is a later one after it was asked.
    pub(super) fn deadline(&self) -> Option<Nanoseconds> {
        self.queue.first().map(|(moment, _)| *moment)
    }

    /// Takes an entry out of the queue.
    fn take(&mut self, place: usize) {
        let Some(last) = self.queue.pop() else {
            return;
        };
        if place < self.queue.len() {
            self.sink(place, last);
            let (moment, id) = self.queue[place];
            self.rise(place, (moment, id));
        }
    }

    /// Writes an entry at a place, or nearer to the front where it comes up before what is there.
    fn rise(&mut self, mut place: usize, entry: (Nanoseconds, ConnectionId)) {
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.queue[parent].0 <= entry.0 {
                break;
            }
            self.put(place, self.queue[parent]);
            place = parent;
        }
        self.put(place, entry);
    }

    /// Writes an entry at a place, or farther from the front where it comes up after what is there.
    fn sink(&mut self, mut place: usize, entry: (Nanoseconds, ConnectionId)) {
        loop {
            let left = 2 * place + 1;
            let Some(mut first) = self.queue.get(left).copied() else {
                break;
            };
            let mut child = left;
            if let Some(right) = self.queue.get(left + 1)
                && right.0 < first.0
            {
                (child, first) = (left + 1, *right);
            }
            if entry.0 <= first.0 {
                break;
            }
            self.put(place, first);
            place = child;
        }
        self.put(place, entry);
    }

    fn put(&mut self, place: usize, entry: (Nanoseconds, ConnectionId)) {
        self.queue[place] = entry;
        if let Some(timer) = self.timers.get_mut(entry.1) {
            timer.place = Some(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use slotmap::SlotMap;

    use super::*;
    use crate::random::Random;

    fn id(ids: &mut SlotMap<ConnectionId, ()>) -> ConnectionId {
        ids.insert(())
    }

    #[test]
    fn an_earlier_entry_stands_for_a_later_deadline_and_is_renewed_once() {
        let mut ids = SlotMap::with_key();
        let (first, second) = (id(&mut ids), id(&mut ids));
        let mut timers = Timers::default();
        timers.set(first, Some(10));
        timers.set(second, Some(40));
        timers.set(first, Some(50));
        assert_eq!(timers.deadline(), Some(10), "nothing moved");
        assert_eq!((timers.next_due(10), timers.deadline()), (None, Some(40)));
        assert_eq!(timers.next_due(40), Some(second));
        timers.set(first, Some(45));
        assert_eq!(timers.deadline(), Some(45), "an earlier one is moved to");
        timers.set(first, None);
        assert_eq!((timers.next_due(45), timers.deadline()), (None, None));
    }

    /// The deadlines in a map, each look at which goes through all.
    #[derive(Default)]
    struct Model(BTreeMap<ConnectionId, Nanoseconds>);

    impl Model {
        fn set(&mut self, id: ConnectionId, due: Option<Nanoseconds>) {
            match due {
                Some(due) => self.0.insert(id, due),
                None => self.0.remove(&id),
            };
        }

        fn take_due(&mut self, now: Nanoseconds) -> Vec<ConnectionId> {
            self.0
                .extract_if(.., |_, due| *due <= now)
                .map(|(id, _)| id)
                .collect()
        }
    }

    #[test]
    fn nothing_is_late_nothing_is_early_and_nobody_spins() {
        let mut random = Random::new(1, "operations");
        let (mut timers, mut model) = (Timers::default(), Model::default());
        let mut ids = SlotMap::with_key();
        let mut living: Vec<ConnectionId> = Vec::new();
        let mut now = 0;
        for _ in 0..30_000 {
            match random.below(10) {
                0 if living.len() < 60 => living.push(id(&mut ids)),
                1 if living.len() > 20 => {
                    let gone = living.swap_remove(random.below(living.len() as u64) as usize);
                    ids.remove(gone);
                    timers.remove(gone);
                    model.set(gone, None);
                }
                2 => {
                    now = match timers.deadline() {
                        Some(deadline) if random.below(2) == 0 => now.max(deadline),
                        _ => now + random.below(50),
                    };
                    let mut due: Vec<_> = core::iter::from_fn(|| timers.next_due(now)).collect();
                    due.sort();
                    assert_eq!(due, model.take_due(now));
                    assert!(timers.deadline().is_none_or(|deadline| deadline > now));
                }
                _ if !living.is_empty() => {
                    let id = living[random.below(living.len() as u64) as usize];
                    let due = (random.below(4) > 0).then(|| now + random.below(200));
                    timers.set(id, due);
                    model.set(id, due);
                }
                _ => {}
            }
            let first = model.0.values().min();
            assert!(first.is_none_or(|first| timers.deadline().is_some_and(|at| at <= *first)));
            assert!(timers.queue.len() <= living.len());
        }
    }
}
