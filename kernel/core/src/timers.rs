//! A CPU's queue of deadlines, linked through the objects that wait for them.
//!
//! The queue is a leftist heap. Every entry has a *rank*: one more than the smaller rank of its two
//! children, where a missing child has rank 0; the left child's rank is never the smaller one. An
//! entry of rank r has at least 2^r - 1 entries below and including it, so with n entries no rank,
//! and no path of right children, is longer than log2(n + 1). That gives the costs, in the worst
//! case and not on average:
//!
//! - the earliest deadline: constant;
//! - inserting: one walk down a right path and back up, at most log2(n + 1) steps each way;
//! - removing any entry, the expired one too: a merge of its children, a right path of each, then a
//!   walk up that stops at the first unchanged rank. Along it the ranks before the change rise by
//!   one a step if they grow, those after it if they shrink: at most log2(n + 1) steps again.
//!
//! 65,536 deadlines on one CPU cost at most some 50 steps; there is no recursion.
//!
//! What this leaves to others: exclusion (a [`TimerQueue`] lives in its CPU's lock of rank
//! `Timers`), programming the hardware, and whether an expired deadline still means anything: the
//! generation is handed back for that, so that a deadline may be left in the queue and ignored later.

use crate::static_ref::AtomicRef;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// [`TimerLinks::cpu`] of an entry in no queue.
const NOWHERE: u32 = u32::MAX;

/// An object's place in a [`TimerQueue`]. Written only under the lock of the queue that it is in.
pub struct TimerLinks<T: 'static> {
    deadline: AtomicU64,
    generation: AtomicU64,
    cpu: AtomicU32,
    rank: AtomicU32,
    parent: AtomicRef<T>,
    left: AtomicRef<T>,
    right: AtomicRef<T>,
}

impl<T: Sync> TimerLinks<T> {
    /// Links of an object without a deadline.
    pub const fn new() -> TimerLinks<T> {
        TimerLinks {
            deadline: AtomicU64::new(u64::MAX),
            generation: AtomicU64::new(0),
            cpu: AtomicU32::new(NOWHERE),
            rank: AtomicU32::new(0),
            parent: AtomicRef::none(),
            left: AtomicRef::none(),
            right: AtomicRef::none(),
        }
    }

    /// The CPU whose queue holds the object. It stays true only as long as the caller holds that
    /// queue's lock.
    #[inline]
    pub fn cpu(&self) -> Option<usize> {
        let cpu = self.cpu.load(Ordering::Acquire);
        (cpu != NOWHERE).then_some(cpu as usize)
    }

    /// The deadline that was inserted last, in nanoseconds since boot.
    #[inline]
    pub fn deadline(&self) -> u64 {
        self.deadline.load(Ordering::Relaxed)
    }

    fn rank(&self) -> u32 {
        self.rank.load(Ordering::Relaxed)
    }
}

impl<T: Sync> Default for TimerLinks<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// What can wait for a deadline.
pub trait Timed: Sync + Sized + 'static {
    /// The object's links: always the same ones.
    fn timer(&self) -> &TimerLinks<Self>;
}

/// A subtree: none, or the entry at its top.
type Tree<T> = Option<&'static T>;

/// The deadlines of one CPU.
///
/// Invariants: the entries reached from `top` are exactly those whose links name this CPU; none has
/// an earlier deadline than its parent; ranks are as the module says.
pub struct TimerQueue<T: Timed> {
    cpu: u32,
    top: Tree<T>,
}

impl<T: Timed> TimerQueue<T> {
    /// An empty queue of the CPU, which has no other queue.
    ///
    /// # Panics
    /// If `cpu` is above 2^32 - 2.
    pub const fn new(cpu: usize) -> TimerQueue<T> {
        assert!(cpu < NOWHERE as usize, "no CPU has this number");
        TimerQueue {
            cpu: cpu as u32,
            top: None,
        }
    }

    /// The earliest deadline in nanoseconds since boot, `u64::MAX` if there is none. Constant time.
    #[inline]
    pub fn earliest(&self) -> u64 {
        self.top.map_or(u64::MAX, |entry| entry.timer().deadline())
    }

    /// Whether the object is in this queue.
    #[inline]
    pub fn contains(&self, entry: &T) -> bool {
        entry.timer().cpu.load(Ordering::Acquire) == self.cpu
    }

    /// Puts an object in; if it is in this queue already, its deadline and generation are replaced.
    /// `deadline` is in nanoseconds since boot and may be past.
    ///
    /// # Panics
    /// If the object is in another CPU's queue.
    pub fn insert(&mut self, entry: &'static T, deadline: u64, generation: u64) {
        self.remove(entry);
        let links = entry.timer();
        let cpu = links.cpu();
        assert!(
            cpu.is_none(),
            "an object in the timers of CPU {cpu:?} goes to CPU {}",
            self.cpu
        );
        links.cpu.store(self.cpu, Ordering::Release);
        links.deadline.store(deadline, Ordering::Relaxed);
        links.generation.store(generation, Ordering::Relaxed);
        links.rank.store(1, Ordering::Relaxed);
        self.top = merge(self.top, Some(entry));
    }

    /// Takes an object out. False, and nothing changes, if it is not in this queue.
    pub fn remove(&mut self, entry: &T) -> bool {
        if !self.contains(entry) {
            return false;
        }
        let links = entry.timer();
        // Loads and stores, not swaps: the lock excludes everyone else, and swaps are slow.
        let parent = links.parent.get();
        let below = merge(links.left.get(), links.right.get());
        links.parent.set(None);
        links.left.set(None);
        links.right.set(None);
        if let Some(below) = below {
            below.timer().parent.set(parent);
        }
        match parent {
            None => self.top = below,
            Some(above) => {
                let is_left = above
                    .timer()
                    .left
                    .get()
                    .is_some_and(|left| core::ptr::eq(left, entry));
                let side = if is_left {
                    &above.timer().left
                } else {
                    &above.timer().right
                };
                side.set(below);
            }
        }
        restore_ranks(parent);
        // Last: whoever sees no CPU may insert the object elsewhere.
        links.cpu.store(NOWHERE, Ordering::Release);
        true
    }

    /// Takes out an object whose deadline is not after `now`, the earliest first, with the
    /// generation that it was inserted with. `None` if no deadline has expired.
    pub fn pop_expired(&mut self, now: u64) -> Option<(&'static T, u64)> {
        let entry = self.top.filter(|entry| entry.timer().deadline() <= now)?;
        self.remove(entry);
        Some((entry, entry.timer().generation.load(Ordering::Relaxed)))
    }
}

fn rank<T: Timed>(tree: Tree<T>) -> u32 {
    tree.map_or(0, |entry| entry.timer().rank())
}

/// Makes one tree of two that have no parent. Only their right paths are touched.
fn merge<T: Timed>(mut one: Tree<T>, mut two: Tree<T>) -> Tree<T> {
    let mut top = None;
    let mut above: Tree<T> = None;
    // Down: the earlier of the two goes under `above` on the right, and what was on its own right is
    // merged next.
    loop {
        let next = match (one, two) {
            (Some(a), Some(b)) if b.timer().deadline() < a.timer().deadline() => {
                two = b.timer().right.get();
                b
            }
            (Some(a), Some(_)) => {
                one = a.timer().right.get();
                a
            }
            (rest, None) | (None, rest) => {
                attach_right(above, rest, &mut top);
                break;
            }
        };
        attach_right(above, Some(next), &mut top);
        above = Some(next);
    }
    // Up: the ranks along the path have changed, as far as the top.
    while let Some(entry) = above {
        order_children(entry);
        above = entry.timer().parent.get();
    }
    top
}

fn attach_right<T: Timed>(above: Tree<T>, tree: Tree<T>, top: &mut Tree<T>) {
    match above {
        Some(above) => above.timer().right.set(tree),
        None => *top = tree,
    }
    if let Some(tree) = tree {
        tree.timer().parent.set(above);
    }
}

/// Puts the child of larger rank on the left and computes the entry's rank; whether that changed.
fn order_children<T: Timed>(entry: &T) -> bool {
    let links = entry.timer();
    let (left, right) = (links.left.get(), links.right.get());
    if rank(left) < rank(right) {
        links.left.set(right);
        links.right.set(left);
    }
    let new = rank(left).min(rank(right)) + 1;
    let old = links.rank();
    links.rank.store(new, Ordering::Relaxed);
    old != new
}

/// Restores order and ranks from an entry upwards, one of whose subtrees has changed.
fn restore_ranks<T: Timed>(mut from: Tree<T>) {
    while let Some(entry) = from {
        if !order_children(entry) {
            break;
        }
        from = entry.timer().parent.get();
    }
}

#[cfg(test)]
mod tests {
    use super::{Timed, TimerLinks, TimerQueue, Tree, rank};
    use crate::random::Random;
    use std::collections::BTreeMap;

    struct Sleeper {
        number: usize,
        timer: TimerLinks<Sleeper>,
    }

    impl Timed for Sleeper {
        fn timer(&self) -> &TimerLinks<Sleeper> {
            &self.timer
        }
    }

    fn sleepers(count: usize) -> &'static [Sleeper] {
        let make = |number| Sleeper {
            number,
            timer: TimerLinks::new(),
        };
        (0..count).map(make).collect::<Vec<_>>().leak()
    }

    /// Checks every invariant below `top` and counts the entries.
    fn check(queue: &TimerQueue<Sleeper>) -> usize {
        let mut count = 0;
        let mut todo: Vec<(Tree<Sleeper>, Tree<Sleeper>)> = vec![(queue.top, None)];
        while let Some((tree, parent)) = todo.pop() {
            let Some(entry) = tree else { continue };
            count += 1;
            let links = &entry.timer;
            assert!(queue.contains(entry));
            assert_eq!(
                links.parent.get().map(|p| p.number),
                parent.map(|p| p.number)
            );
            assert!(parent.is_none_or(|parent| parent.timer.deadline() <= links.deadline()));
            let (left, right) = (rank(links.left.get()), rank(links.right.get()));
            assert!(left >= right);
            assert_eq!(links.rank(), right + 1);
            todo.push((links.left.get(), tree));
            todo.push((links.right.get(), tree));
        }
        assert!(
            (1_usize << rank(queue.top)) <= count + 1,
            "a rank is too large"
        );
        count
    }

    #[test]
    fn behaves_like_a_sorted_map() {
        let sleepers = sleepers(200);
        let mut random = Random::new(3);
        let mut queue = TimerQueue::<Sleeper>::new(5);
        // Deadline and number -> generation.
        let mut model: BTreeMap<(u64, usize), u64> = BTreeMap::new();
        let mut now = 0;
        for step in 0..10_000 {
            let entry = &sleepers[random.below(sleepers.len())];
            let key = (entry.timer.deadline(), entry.number);
            assert_eq!(queue.contains(entry), model.contains_key(&key));
            match random.below(8) {
                0..=3 => {
                    // Few values, so that many are equal; some are past.
                    let deadline = now + random.below(300) as u64;
                    model.remove(&key);
                    model.insert((deadline, entry.number), step);
                    queue.insert(entry, deadline, step);
                    assert_eq!(entry.timer.cpu(), Some(5));
                }
                4..=5 => assert_eq!(queue.remove(entry), model.remove(&key).is_some()),
                _ => {
                    now += random.below(12) as u64;
                    while let Some((entry, generation)) = queue.pop_expired(now) {
                        let key = (entry.timer.deadline(), entry.number);
                        assert_eq!(model.keys().next().map(|key| key.0), Some(key.0));
                        assert_eq!(model.remove(&key), Some(generation));
                        assert_eq!(entry.timer.cpu(), None);
                    }
                    assert!(model.keys().all(|key| key.0 > now));
                }
            }
            assert_eq!(
                queue.earliest(),
                model.keys().next().map_or(u64::MAX, |key| key.0)
            );
            assert_eq!(check(&queue), model.len());
        }
        assert!(model.len() > 20, "the test has to keep the queue filled");
    }

    #[test]
    fn falling_and_rising_deadlines_keep_right_paths_short() {
        let sleepers = sleepers(4096);
        let mut queue = TimerQueue::<Sleeper>::new(0);
        let (falling, rising) = sleepers.split_at(2048);
        for (position, entry) in falling.iter().enumerate() {
            queue.insert(entry, 10_000 - position as u64, 0);
        }
        for (position, entry) in rising.iter().enumerate() {
            queue.insert(entry, 9_000 + position as u64, 0);
        }
        assert_eq!(check(&queue), 4096);
        let mut previous = 0;
        for left in (0..4096).rev() {
            let (entry, _) = queue.pop_expired(u64::MAX).unwrap();
            assert!(entry.timer.deadline() >= previous);
            previous = entry.timer.deadline();
            if left % 512 == 0 {
                assert_eq!(check(&queue), left);
            }
        }
        assert_eq!(queue.earliest(), u64::MAX);
    }

    #[test]
    fn a_deadline_expires_at_its_nanosecond() {
        let sleepers = sleepers(1);
        let mut queue = TimerQueue::<Sleeper>::new(0);
        queue.insert(&sleepers[0], 100, 7);
        assert!(queue.pop_expired(99).is_none());
        assert_eq!(
            queue.pop_expired(100).map(|(entry, g)| (entry.number, g)),
            Some((0, 7))
        );
        assert!(queue.pop_expired(u64::MAX).is_none());
        assert!(!queue.remove(&sleepers[0]));
    }

    #[test]
    fn another_cpus_entry_is_not_removed() {
        let sleepers = sleepers(1);
        let (mut one, mut two) = (TimerQueue::<Sleeper>::new(1), TimerQueue::new(2));
        one.insert(&sleepers[0], 100, 7);
        assert!(!two.remove(&sleepers[0]));
        assert!(one.remove(&sleepers[0]));
        two.insert(&sleepers[0], 50, 8);
        assert_eq!(sleepers[0].timer.cpu(), Some(2));
    }

    #[test]
    #[should_panic(expected = "goes to CPU 2")]
    fn an_object_cannot_be_in_two_queues() {
        let sleepers = sleepers(1);
        let (mut one, mut two) = (TimerQueue::<Sleeper>::new(1), TimerQueue::new(2));
        one.insert(&sleepers[0], 100, 7);
        two.insert(&sleepers[0], 100, 7);
    }
}
