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
//! `Timers`), programming the hardware, and when an object is due ([`Timed::due`]). An entry may be
//! earlier than that: it stands for every later deadline of its object, which moves it once it has
//! expired, so that who waits again and again, each time a little longer, leaves the queue alone. And an
//! entry may stay where nothing is waited for any more.

use crate::static_ref::AtomicRef;
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// [`TimerLinks::cpu`] of an entry in no queue.
const NOWHERE: u32 = u32::MAX;

/// An object's place in a [`TimerQueue`]. Written only under the lock of the queue that it is in.
pub struct TimerLinks<T: 'static> {
    deadline: AtomicU64,
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

    /// Whether the object has an entry on this CPU that expires at the deadline, in nanoseconds since boot,
    /// or earlier. For the object's owner on this CPU, on which alone expired entries are taken out.
    #[inline(always)]
    pub fn stand_for(&self, cpu: usize, deadline: u64) -> bool {
        self.cpu.load(Ordering::Relaxed) == cpu as u32 && self.deadline() <= deadline
    }

    /// When the entry expires, in nanoseconds since boot.
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

    /// When it is due, in nanoseconds since boot; `u64::MAX` for never.
    fn due(&self) -> u64;
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

    /// Puts an object in; if it is in this queue already, its entry is replaced. `deadline` is in
    /// nanoseconds since boot and may be past.
    ///
    /// # Panics
    /// If the object is in another CPU's queue.
    pub fn insert(&mut self, entry: &'static T, deadline: u64) {
        self.remove(entry);
        let links = entry.timer();
        let cpu = links.cpu();
        assert!(
            cpu.is_none(),
            "an object in the timers of CPU {cpu:?} goes to CPU {}",
            self.cpu
        );
        links.cpu.store(self.cpu, Ordering::Release);
        self.link(entry, deadline);
    }

    fn link(&mut self, entry: &'static T, deadline: u64) {
        let links = entry.timer();
        links.deadline.store(deadline, Ordering::Relaxed);
        links.rank.store(1, Ordering::Relaxed);
        self.top = merge(self.top, Some(entry));
    }

    /// Takes an object out. False, and nothing changes, if it is not in this queue.
    pub fn remove(&mut self, entry: &T) -> bool {
        if !self.contains(entry) {
            return false;
        }
        self.unlink(entry);
        // Last: whoever sees no CPU may insert the object elsewhere.
        entry.timer().cpu.store(NOWHERE, Ordering::Release);
        true
    }

    fn unlink(&mut self, entry: &T) {
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
    }

    /// The earliest entry, if it is not after `now`: where its object is due later it is moved there,
    /// else it is taken out. `None` if no entry has expired.
    pub fn take_expired(&mut self, now: u64) -> Option<&'static T> {
        let entry = self.top.filter(|entry| entry.timer().deadline() <= now)?;
        match entry.due() {
            // It is in this queue all the time: nobody inserts it elsewhere meanwhile.
            due if due > now && due != u64::MAX => {
                self.unlink(entry);
                self.link(entry, due);
            }
            _ => {
                self.remove(entry);
            }
        }
        Some(entry)
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
    use crate::sync::{AtomicU64, Ordering};
    use std::collections::BTreeSet;

    struct Sleeper {
        number: usize,
        due: AtomicU64,
        timer: TimerLinks<Sleeper>,
    }

    impl Timed for Sleeper {
        fn timer(&self) -> &TimerLinks<Sleeper> {
            &self.timer
        }
        fn due(&self) -> u64 {
            self.due.load(Ordering::Relaxed)
        }
    }

    impl Sleeper {
        fn be_due(&self, due: u64) {
            self.due.store(due, Ordering::Relaxed);
        }
    }

    fn sleepers(count: usize) -> &'static [Sleeper] {
        let make = |number| Sleeper {
            number,
            due: AtomicU64::new(u64::MAX),
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
        // When the entry expires, and the number.
        let mut model: BTreeSet<(u64, usize)> = BTreeSet::new();
        let (mut now, mut moved) = (0, 0);
        for _ in 0..10_000 {
            let entry = &sleepers[random.below(sleepers.len())];
            let key = (entry.timer.deadline(), entry.number);
            assert_eq!(queue.contains(entry), model.contains(&key));
            match random.below(8) {
                0..=3 => {
                    // Few values, so that many are equal; some are past.
                    let deadline = now + random.below(300) as u64;
                    model.remove(&key);
                    model.insert((deadline, entry.number));
                    queue.insert(entry, deadline);
                    let later = deadline + random.below(20) as u64;
                    entry.be_due([deadline, later, u64::MAX][random.below(3)]);
                    assert_eq!(entry.timer.cpu(), Some(5));
                }
                4..=5 => assert_eq!(queue.remove(entry), model.remove(&key)),
                _ => {
                    now += random.below(12) as u64;
                    let first = |model: &BTreeSet<(u64, usize)>| Some(model.first()?.0);
                    while let Some(expired) = first(&model).filter(|first| *first <= now) {
                        let entry = queue.take_expired(now).unwrap();
                        assert_eq!(expired, expired.min(entry.due()), "never late");
                        // Of those that are as early any may be the first.
                        assert!(model.remove(&(expired, entry.number)));
                        let is_moved = entry.due() > now && entry.due() != u64::MAX;
                        assert_eq!(entry.timer.cpu(), is_moved.then_some(5));
                        if is_moved {
                            moved += 1;
                            model.insert((entry.due(), entry.number));
                        }
                    }
                    assert!(queue.take_expired(now).is_none());
                }
            }
            assert_eq!(
                queue.earliest(),
                model.first().map_or(u64::MAX, |key| key.0)
            );
            assert_eq!(check(&queue), model.len());
        }
        assert!(model.len() > 20, "the test has to keep the queue filled");
        assert!(moved > 100, "{moved} entries were moved");
    }

    #[test]
    fn falling_and_rising_deadlines_keep_right_paths_short() {
        let sleepers = sleepers(4096);
        let mut queue = TimerQueue::<Sleeper>::new(0);
        let (falling, rising) = sleepers.split_at(2048);
        for (position, entry) in falling.iter().enumerate() {
            queue.insert(entry, 10_000 - position as u64);
        }
        for (position, entry) in rising.iter().enumerate() {
            queue.insert(entry, 9_000 + position as u64);
        }
        assert_eq!(check(&queue), 4096);
        let mut previous = 0;
        for left in (0..4096).rev() {
            let entry = queue.take_expired(u64::MAX).unwrap();
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
        queue.insert(&sleepers[0], 100);
        sleepers[0].be_due(100);
        assert!(queue.take_expired(99).is_none());
        assert_eq!(queue.take_expired(100).map(|entry| entry.number), Some(0));
        assert!(queue.take_expired(u64::MAX).is_none());
        assert!(!queue.remove(&sleepers[0]));
    }

    #[test]
    fn an_entry_stands_for_later_deadlines_on_its_cpu() {
        let sleepers = sleepers(1);
        let (sleeper, mut queue) = (&sleepers[0], TimerQueue::new(3));
        assert!(!sleeper.timer.stand_for(3, 100), "there is none");
        queue.insert(sleeper, 100);
        assert!(sleeper.timer.stand_for(3, 100));
        assert!(sleeper.timer.stand_for(3, 250));
        assert!(!sleeper.timer.stand_for(3, 99), "it would be late");
        assert!(!sleeper.timer.stand_for(2, 250), "another CPU takes it out");
        sleeper.be_due(250);
        assert!(queue.take_expired(100).is_some());
        assert_eq!(queue.earliest(), 250, "it expires once for each deadline");
        sleeper.be_due(u64::MAX);
        assert!(queue.take_expired(250).is_some());
        assert!(!sleeper.timer.stand_for(3, 250), "nothing was waited for");
    }

    #[test]
    fn another_cpus_entry_is_not_removed() {
        let sleepers = sleepers(1);
        let (mut one, mut two) = (TimerQueue::<Sleeper>::new(1), TimerQueue::new(2));
        one.insert(&sleepers[0], 100);
        assert!(!two.remove(&sleepers[0]));
        assert!(one.remove(&sleepers[0]));
        two.insert(&sleepers[0], 50);
        assert_eq!(sleepers[0].timer.cpu(), Some(2));
    }

    #[test]
    #[should_panic(expected = "goes to CPU 2")]
    fn an_object_cannot_be_in_two_queues() {
        let sleepers = sleepers(1);
        let (mut one, mut two) = (TimerQueue::<Sleeper>::new(1), TimerQueue::new(2));
        one.insert(&sleepers[0], 100);
        two.insert(&sleepers[0], 100);
    }
}
