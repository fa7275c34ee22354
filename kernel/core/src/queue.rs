//! FIFO queues of kernel objects, linked through the objects themselves.
//!
//! An object embeds one [`Links`] for each kind of queue that it can wait in; a *link set*, told
//! apart by the number `SET`, is one such embedding, and an object is in at most one queue of a link
//! set. Nothing is allocated and every operation takes constant time.
//!
//! What this leaves to others: exclusion. A [`Queue`] lives in the lock that guards it, and an
//! object is pushed only by whoever has claimed it, so that no two queues take it at once.

use crate::static_ref::AtomicRef;
use crate::sync::{AtomicU64, Ordering};

/// The number of no queue.
const NOBODY: u64 = 0;

/// An object's place in the queues of one link set.
pub struct Links<T: 'static> {
    next: AtomicRef<T>,
    previous: AtomicRef<T>,
    /// Number of the queue that holds the object; written only under that queue's lock.
    owner: AtomicU64,
}

impl<T: Sync> Links<T> {
    /// Links of an object that is in no queue.
    pub const fn new() -> Links<T> {
        Links {
            next: AtomicRef::none(),
            previous: AtomicRef::none(),
            owner: AtomicU64::new(NOBODY),
        }
    }

    /// Number of the queue that holds the object, 0 for none. It stays true only as long as the
    /// caller holds that queue's lock.
    #[inline]
    pub fn owner(&self) -> u64 {
        self.owner.load(Ordering::Acquire)
    }
}

impl<T: Sync> Default for Links<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// What can be queued through link set `SET`.
pub trait Linked<const SET: usize>: Sync + Sized + 'static {
    /// The object's links of this set: always the same ones, used for nothing else.
    fn links(&self) -> &Links<Self>;
}

/// A FIFO queue of objects. All operations take constant time.
///
/// Invariants: the objects whose owner is this queue's number are exactly those that are reached
/// from `first` by the `next` links, and `previous` links are their mirror; an object in no queue has
/// neither.
pub struct Queue<T: Linked<SET>, const SET: usize> {
    number: u64,
    first: Option<&'static T>,
    last: Option<&'static T>,
    length: usize,
}

impl<T: Linked<SET>, const SET: usize> Queue<T, SET> {
    /// An empty queue. `number` is its name in the objects' links: not 0, and no other queue of the
    /// same link set may have it as long as this one is in use.
    ///
    /// # Panics
    /// If `number` is 0.
    pub const fn new(number: u64) -> Queue<T, SET> {
        assert!(number != NOBODY, "0 is the number of no queue");
        Queue {
            number,
            first: None,
            last: None,
            length: 0,
        }
    }

    /// Number of objects.
    #[inline]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is no object.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// The object that [`Queue::pop_front`] would take.
    #[inline]
    pub fn front(&self) -> Option<&'static T> {
        self.first
    }

    /// Whether the object is in this queue.
    #[inline]
    pub fn contains(&self, entry: &T) -> bool {
        entry.links().owner() == self.number
    }

    /// The objects from the first to the last. The caller holds the queue's lock meanwhile.
    pub fn iterate(&self) -> impl Iterator<Item = &'static T> + use<T, SET> {
        core::iter::successors(self.first, |entry| entry.links().next.get())
    }

    /// Adds an object at the end.
    ///
    /// # Panics
    /// If the object is in a queue of this link set.
    #[inline(always)]
    pub fn push_back(&mut self, entry: &'static T) {
        self.claim(entry);
        let links = entry.links();
        // Its links are empty: those of what is in no queue are.
        match self.last {
            Some(last) => {
                links.previous.set(Some(last));
                last.links().next.set(Some(entry));
            }
            None => self.first = Some(entry),
        }
        self.last = Some(entry);
    }

    /// Adds an object at the beginning, ahead of those that wait.
    ///
    /// # Panics
    /// If the object is in a queue of this link set.
    #[inline(always)]
    pub fn push_front(&mut self, entry: &'static T) {
        self.claim(entry);
        let links = entry.links();
        match self.first {
            Some(first) => {
                links.next.set(Some(first));
                first.links().previous.set(Some(entry));
            }
            None => self.last = Some(entry),
        }
        self.first = Some(entry);
    }

    /// Takes the object that has waited longest.
    #[inline(always)]
    pub fn pop_front(&mut self) -> Option<&'static T> {
        let entry = self.first?;
        self.pop_known(entry);
        Some(entry)
    }

    /// Takes the object that [`Queue::front`] said; nothing else.
    #[inline(always)]
    pub fn pop_known(&mut self, entry: &'static T) {
        debug_assert!(self.first.is_some_and(|first| core::ptr::eq(first, entry)));
        let links = entry.links();
        let next = links.next.get();
        self.first = next;
        match next {
            Some(next) => {
                next.links().previous.set(None);
                links.next.set(None);
            }
            None => self.last = None,
        }
        self.length = self.length.wrapping_sub(1);
        // Last: whoever sees no owner may push the object elsewhere.
        links.owner.store(NOBODY, Ordering::Release);
    }

    /// Takes an object out, wherever it stands. False, and nothing changes, if it is not in this
    /// queue.
    pub fn remove(&mut self, entry: &T) -> bool {
        if !self.contains(entry) {
            return false;
        }
        let links = entry.links();
        // Loads and stores, not swaps: the lock excludes everyone else, and swaps are slow.
        let (previous, next) = (links.previous.get(), links.next.get());
        links.previous.set(None);
        links.next.set(None);
        match previous {
            Some(previous) => previous.links().next.set(next),
            None => self.first = next,
        }
        match next {
            Some(next) => next.links().previous.set(previous),
            None => self.last = previous,
        }
        self.length -= 1;
        // Last: whoever sees no owner may push the object elsewhere.
        links.owner.store(NOBODY, Ordering::Release);
        true
    }

    #[inline(always)]
    fn claim(&mut self, entry: &T) {
        let owner = entry.links().owner();
        if owner != NOBODY {
            in_two_queues(owner, self.number);
        }
        entry.links().owner.store(self.number, Ordering::Release);
        self.length = self.length.wrapping_add(1);
    }
}

/// A broken invariant; out of the way of those that hold it.
#[cold]
#[inline(never)]
fn in_two_queues(owner: u64, number: u64) -> ! {
    panic!("an object of queue {owner} is pushed to queue {number}");
}

#[cfg(test)]
mod tests {
    use super::{Linked, Links, Queue};
    use crate::random::Random;
    use std::collections::VecDeque;

    struct Item {
        number: usize,
        ready: Links<Item>,
        other: Links<Item>,
    }

    impl Linked<0> for Item {
        fn links(&self) -> &Links<Item> {
            &self.ready
        }
    }

    impl Linked<1> for Item {
        fn links(&self) -> &Links<Item> {
            &self.other
        }
    }

    fn items(count: usize) -> &'static [Item] {
        let make = |number| Item {
            number,
            ready: Links::new(),
            other: Links::new(),
        };
        (0..count).map(make).collect::<Vec<_>>().leak()
    }

    fn check(queue: &Queue<Item, 0>, model: &VecDeque<usize>) {
        assert_eq!(queue.len(), model.len());
        assert_eq!(queue.is_empty(), model.is_empty());
        assert_eq!(
            queue.front().map(|item| item.number),
            model.front().copied()
        );
        assert_eq!(queue.last.map(|item| item.number), model.back().copied());
        let mut next = queue.first;
        let mut previous: Option<&Item> = None;
        for &number in model {
            let item = next.unwrap();
            assert_eq!(item.number, number);
            assert_eq!(
                item.ready.previous.get().map(|p| p.number),
                previous.map(|p| p.number)
            );
            assert!(queue.contains(item));
            previous = next;
            next = item.ready.next.get();
        }
        assert!(next.is_none());
    }

    #[test]
    fn behaves_like_a_deque() {
        let items = items(12);
        let mut random = Random::new(1);
        let mut queues = [Queue::<Item, 0>::new(7), Queue::new(9)];
        let mut models = [VecDeque::new(), VecDeque::new()];
        for _ in 0..20_000 {
            let (which, item) = (random.below(2), &items[random.below(items.len())]);
            let (queue, model) = (&mut queues[which], &mut models[which]);
            let free = item.ready.owner() == 0;
            match random.below(4) {
                0 if free => {
                    queue.push_back(item);
                    model.push_back(item.number);
                }
                1 if free => {
                    queue.push_front(item);
                    model.push_front(item.number);
                }
                2 => {
                    let place = model.iter().position(|&number| number == item.number);
                    assert_eq!(queue.remove(item), place.is_some());
                    place.map(|place| model.remove(place));
                }
                _ => assert_eq!(queue.pop_front().map(|item| item.number), model.pop_front()),
            }
            check(&queues[0], &models[0]);
            check(&queues[1], &models[1]);
        }
    }

    #[test]
    fn link_sets_are_independent() {
        let items = items(2);
        let mut ready = Queue::<Item, 0>::new(1);
        let mut other = Queue::<Item, 1>::new(1);
        ready.push_back(&items[0]);
        ready.push_back(&items[1]);
        other.push_back(&items[1]);
        assert!(!other.contains(&items[0]));
        assert!(ready.remove(&items[1]));
        assert!(other.contains(&items[1]));
        assert_eq!(other.pop_front().map(|item| item.number), Some(1));
        assert_eq!(ready.len(), 1);
    }

    #[test]
    #[should_panic(expected = "an object of queue 1 is pushed to queue 2")]
    fn an_object_cannot_be_in_two_queues() {
        let items = items(1);
        let mut one = Queue::<Item, 0>::new(1);
        let mut two = Queue::<Item, 0>::new(2);
        one.push_back(&items[0]);
        two.push_front(&items[0]);
    }

    #[test]
    #[should_panic(expected = "0 is the number of no queue")]
    fn zero_is_no_queue() {
        let _ = Queue::<Item, 0>::new(0);
    }
}
